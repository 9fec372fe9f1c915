//! Joint systems that are solved in the span of what EK-FAC gives with several dampings, against their definition with
//! dense matrices, and whole jobs against the library's pieces.

use crate::support::dense::{dot, eliminate, gradient_of};
use crate::support::passes::{self, BATCH, Batched, KfacScale};
use crate::support::{Outcome, fixture, load, open};
use ascribe::attribution::store::TensorFile;
use ascribe::attribution::{
    Aggregate, LabelMode, MemoryVectors, Pass, Subspace, SubspaceSystem, Sweep, VectorSource, Walk, prepare_queries,
    solve_in_subspace,
};
use ascribe::curvature::random::stream;
use ascribe::curvature::{
    CurvatureKind, Damping, Factors, LayerId, LayerSpec, Measurement, Network, Objective, Reduction, Vectors,
};
use ascribe::job::{
    CheckpointsRequest, DampingRequest, Fisher, FitExamples, IntervalsRequest, Job, Plan, Precision, Several, Solve,
};
use candle_core::DType;

/// What a job spans its spaces with.
const SPANNING: [f64; 5] = [1e-3, 1e-2, 0.1, 1.0, 10.0];

/// What the solver puts on a diagonal of 1.
const RIDGE: f64 = 1e-6;

/// `V (Vᵀ H V + Vᵀ D V)⁻¹ Vᵀ q` with every matrix formed, D the damping of each layer; one part of each vector for each
/// layer.
fn by_definition(
    layers: &[LayerSpec],
    factors: &Factors<f64>,
    gradients: &[Vec<Vec<f64>>],
    q: &[Vec<f64>],
    damping: Damping,
) -> Vec<Vec<f64>> {
    let mut space: Vec<(usize, Vec<f64>)> = vec![];
    for (l, spec) in layers.iter().enumerate() {
        for multiple in SPANNING {
            let mut matrix = factors.layers[l].to_dense(spec).expect("small");
            let added = factors.layers[l].damping(Damping::MeanFraction(multiple));
            matrix.iter_mut().enumerate().for_each(|(k, row)| row[k] += added);
            space.push((l, eliminate(matrix, q[l].clone())));
        }
    }
    let n = space.len();
    let mut matrix = vec![vec![0.0; n]; n];
    for g in gradients {
        let along: Vec<f64> = space.iter().map(|(l, v)| dot(v, &g[*l])).collect();
        for i in 0..n {
            for j in 0..n {
                matrix[i][j] += along[i] * along[j] / gradients.len() as f64;
            }
        }
    }
    for (i, (l, v)) in space.iter().enumerate() {
        for (j, (m, w)) in space.iter().enumerate() {
            matrix[i][j] += if l == m { factors.layers[*l].damping(damping) * dot(v, w) } else { 0.0 };
        }
    }
    let scale: Vec<f64> = (0..n).map(|k| 1.0 / matrix[k][k].sqrt()).collect();
    for i in 0..n {
        for j in 0..n {
            matrix[i][j] *= scale[i] * scale[j];
        }
        matrix[i][i] += RIDGE;
    }
    let right = space.iter().zip(&scale).map(|((l, v), scale)| scale * dot(v, &q[*l])).collect();
    let coefficients = eliminate(matrix, right);
    let mut x: Vec<Vec<f64>> = layers.iter().map(|spec| vec![0.0; spec.parameters()]).collect();
    for (k, (l, v)) in space.iter().enumerate() {
        x[*l].iter_mut().zip(v).for_each(|(x, v)| *x += coefficients[k] * scale[k] * v);
    }
    x
}

fn part(vectors: &MemoryVectors<f64>, leg: usize, layers: &[LayerSpec], query: usize) -> Vec<Vec<f64>> {
    let of = |(l, spec): (usize, &LayerSpec)| {
        let Vectors::Full(all) = vectors.vectors(leg, LayerId(l)).expect("in memory") else { panic!("whole vectors") };
        all[query * spec.parameters()..(query + 1) * spec.parameters()].to_vec()
    };
    layers.iter().enumerate().map(of).collect()
}

/// A classifier's exact Fisher and a language model's drawn labels, each in f64 and with batches of several sizes.
#[test]
fn solutions_are_those_of_the_definition() -> Outcome {
    let exact = LabelMode::Exact { classes: 4 };
    for (name, labels, examples) in
        [("mlp-tiny", exact, 40), ("mlp-tiny", LabelMode::Sampled { seed: 3, draws: 2 }, 60)]
    {
        let fixture = open(name, DType::F64);
        let (model, layers) = (&fixture.model, fixture.model.layers());
        let fitted = LabelMode::Sampled { seed: 0, draws: 1 };
        let all = Batched(&fixture.train, BATCH);
        let factors: Factors<f64> =
            passes::fit(model, &all, CurvatureKind::Ekfac, fitted, KfacScale::PerExample)?.factors;
        let queries = Batched(&fixture.queries, BATCH);
        let sweep = passes::sweep(model, &queries, Pass::Queries);
        let mut gradients = MemoryVectors::<f64>::new(layers, 1, queries.0.len());
        let identity = Factors::identity(layers.len());
        let walk = Walk::gradients(&identity);
        prepare_queries(&sweep, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[&walk], &mut gradients)?;
        let objectives = labels.objectives(stream::FORM);
        let drawn: Vec<Vec<Vec<f64>>> = (0..examples)
            .flat_map(|m| objectives.iter().map(move |objective| (m, *objective)))
            .map(|(m, objective)| gradient_of(model, &fixture.train, m, objective))
            .collect();
        let spanning = SPANNING.map(Damping::MeanFraction);
        let dampings = [Damping::Absolute(0.005), Damping::Absolute(0.1), Damping::MeanFraction(0.3)];
        let whole = dampings.map(SubspaceSystem::whole);
        // the systems of either half of the draws, too
        let halves = [0, 1].map(|half| SubspaceSystem { half: Some(half), ..whole[0] });
        let systems = [whole.as_slice(), &halves].concat();
        let subspace = Subspace { factors: &factors, spanning: &spanning, systems: &systems, objectives: &objectives };
        let is_drawn = matches!(labels, LabelMode::Sampled { .. });
        // draws of each example follow one another, and classes do, of which none is a draw
        let of_half = |half: usize| {
            let place = |k: usize| if is_drawn { k % objectives.len() } else { k / objectives.len() };
            let own = drawn.iter().enumerate().filter(|(k, _)| place(*k) % 2 == half);
            own.map(|(_, gradient)| gradient.clone()).collect::<Vec<_>>()
        };
        let drawn_halves = [of_half(0), of_half(1)];
        for batch in [7, BATCH] {
            let train = Batched(&fixture.train, batch);
            let sweep = Sweep { range: 0..examples, ..passes::sweep(model, &train, Pass::Products) };
            let mut found = MemoryVectors::<f64>::new(layers, systems.len(), queries.0.len());
            let solved = solve_in_subspace(&sweep, &subspace, &gradients, 1..4, &mut found)?;
            for (leg, &SubspaceSystem { damping, half }) in systems.iter().enumerate() {
                for query in 1..4 {
                    let drawn = half.map_or(&drawn, |half| &drawn_halves[half]);
                    let want = by_definition(layers, &factors, drawn, &part(&gradients, 0, layers, query), damping);
                    let (want, found) = (want.concat(), part(&found, leg, layers, query).concat());
                    let scale = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
                    for (found, want) in found.iter().zip(&want) {
                        assert!(
                            (found - want).abs() <= 1e-7 * scale,
                            "{name}, {damping:?}, {half:?}, {query}: {found} {want}"
                        );
                    }
                    let disagreement = solved.disagreements[leg][query - 1];
                    assert!(disagreement > 0.0 && disagreement < 10.0, "{disagreement}");
                }
            }
        }
    }
    Ok(())
}

const STEPS: [&str; 2] = ["checkpoint-336", "checkpoint-720"];

fn job(out: &std::path::Path) -> Job {
    let mut job = Job::new("", fixture("mlp-tiny").join("train.safetensors"), out);
    job.data.queries = Some(fixture("mlp-tiny").join("query.safetensors"));
    let folders = STEPS.map(|step| fixture("mlp-trajectory").join(step));
    job.checkpoints = Some(CheckpointsRequest::of_folders(folders.to_vec()));
    job.model.dtype = Precision::F64;
    job.method.solve = Solve::Subspace;
    job
}

/// Scores of a whole job over two checkpoints against `(1/N) Σ_a w_a <x_a, G_m>`, x by definition; the damping is the one
/// that is documented; a run that lost its vectors makes the same bytes again.
#[test]
fn scores_of_a_job_are_those_of_the_definition() -> Outcome {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let plan = Plan::resolve(job(&run))?;
    let rankings = plan.run(&())?;
    assert!(rankings.iter().all(|ranking| ranking.query.residual.is_none()));
    assert!(rankings.iter().all(|ranking| ranking.query.disagreement.is_some_and(|found| found > 0.0)));
    let (train, queries) = (plan.train(), plan.queries().expect("queries"));
    let (n, rows) = (train.len(), queries.len());
    let mut want = vec![0.0; rows * n];
    for step in STEPS {
        let model = load(&fixture("mlp-trajectory").join(step), DType::F64);
        let labels = LabelMode::Sampled { seed: 0, draws: 1 };
        let all = Batched(train, BATCH);
        let factors: Factors<f64> =
            passes::fit(&model, &all, CurvatureKind::Ekfac, labels, KfacScale::PerExample)?.factors;
        // 8 draws for each direction: more than one an example, of which there are few
        let draws = (8 * SPANNING.len() * model.layers().len()).div_ceil(n) as u32;
        assert!(draws > 1, "the examples are many");
        let objectives = LabelMode::Sampled { seed: 0, draws }.objectives(stream::FORM);
        let of_example = |m| objectives.iter().map(move |objective| (m, *objective));
        let each = (0..n).flat_map(of_example);
        let drawn: Vec<_> = each.map(|(m, objective)| gradient_of(&model, train, m, objective)).collect();
        let examples: Vec<_> =
            (0..n).map(|m| gradient_of(&model, train, m, Objective::TrainingLoss).concat()).collect();
        let measured = Objective::Measurement(Measurement::Margin, Reduction::Sum);
        for q in 0..rows {
            let x = by_definition(
                model.layers(),
                &factors,
                &drawn,
                &gradient_of(&model, queries, q, measured),
                Damping::Absolute(0.01),
            );
            let x = x.concat();
            examples.iter().enumerate().for_each(|(m, g)| want[q * n + m] += dot(&x, g) / (2 * n) as f64);
        }
    }
    let scores = run.join("scores.safetensors");
    let file = TensorFile::open(&scores)?;
    let scale = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
    for (found, want) in file.f32("scores")?.iter().zip(&want) {
        assert!((f64::from(*found) - want).abs() <= 1e-6 * scale, "{found} {want}");
    }
    assert_eq!(file.f64("disagreements")?.len(), rows);
    let said = |name: &str| file.metadata(name).unwrap_or_default().to_owned();
    assert_eq!(
        (said("solve"), said("damping"), said("solve_iterations")),
        ("subspace".into(), "1e-2".into(), "".into())
    );
    drop(file);
    let before = std::fs::read(&scores)?;
    for entry in std::fs::read_dir(run.join("artifacts"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("queries")) {
            std::fs::remove_file(path)?;
        }
    }
    std::fs::remove_file(&scores)?;
    Plan::resolve(job(&run))?.run(&())?;
    assert!(std::fs::read(&scores)? == before, "other bytes");
    Ok(())
}

/// Intervals of joint solves: other dampings as runs of their own have them, and the systems of either half of the drawn labels; the scores themselves are those of a run without.
#[test]
fn joint_systems_have_variants() -> Outcome {
    let folder = tempfile::tempdir()?;
    let done = |name: &str, change: &dyn Fn(&mut Job)| {
        let mut job = job(&folder.path().join(name));
        job.method.solve_label_draws = Some(6);
        change(&mut job);
        let plan = Plan::resolve(job).expect("sound");
        plan.run(&()).expect("a whole run")
    };
    let scores = |name: &str, of: &str| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        Ok(TensorFile::open(&folder.path().join(name).join(format!("scores{of}.safetensors")))?
            .values("scores")?
            .to_vec())
    };
    let rankings = done("all", &|job| {
        (job.output.intervals, job.method.solve, job.output.top) = (IntervalsRequest::All, Solve::Auto, 3);
    });
    done("without", &|_| ());
    done("smaller", &|job| job.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(0.003))]));
    let near = |found: &[f32], want: &[f32]| {
        let largest = want.iter().fold(0.0f32, |most, score| most.max(score.abs()));
        found.len() == want.len() && found.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
    };
    let whole = scores("all", "")?;
    assert!(near(&whole, &scores("without", "")?), "without variants");
    assert!(near(&scores("all", ".variant-damping-0.3")?, &scores("smaller", "")?), "0.3 times the damping");
    let (first, second) = (scores("all", ".variant-draws-1")?, scores("all", ".variant-draws-2")?);
    assert!(!near(&first, &whole) && !near(&second, &whole) && !near(&first, &second), "halves of the draws");
    let correlation = |a: &[f32], b: &[f32]| {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        product(a, b) / (product(a, a) * product(b, b)).sqrt()
    };
    assert!(
        correlation(&first, &whole) > 0.9 && correlation(&second, &whole) > 0.9,
        "the same systems, known less well"
    );
    for ranking in rankings {
        let verdict = ranking.stability.ok_or("a verdict")?;
        let names: Vec<&str> = verdict.proponents.kept.iter().map(|of| of.variant.as_str()).collect();
        let want = ["draws-1", "draws-2", "damping-0.3", "damping-3", "checkpoints-1", "checkpoints-2"];
        assert_eq!(names, want.map(|name| format!("variant-{name}")));
    }
    Ok(())
}

/// With few examples labels are drawn more often, so that noise does not decide, and the plan says it; of many examples a
/// default takes as many as forms need.
#[test]
fn few_examples_have_more_labels_drawn() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut few = job(&folder.path().join("run"));
    few.method.solve_examples = FitExamples::Count(10);
    let plan = Plan::resolve(few)?;
    let directions = SPANNING.len() * load(&fixture("mlp-trajectory").join(STEPS[0]), DType::F64).layers().len();
    let draws = (8 * directions).div_ceil(10);
    let note =
        format!("joint systems of {directions} directions are many for 10 examples: {draws} labels are drawn for each");
    assert!(plan.summary().notes.contains(&note), "{:?}", plan.summary().notes);
    plan.run(&())?;
    let file = TensorFile::open(&folder.path().join("run/scores.safetensors"))?;
    assert_eq!(file.metadata("solve_label_draws"), Some(draws.to_string().as_str()));
    let mut automatic = job(&folder.path().join("other"));
    automatic.method.solve_examples = FitExamples::Auto;
    let plan = Plan::resolve(automatic)?;
    assert!(!plan.summary().notes.iter().any(|note| note.contains("joint systems are taken on")));
    Ok(())
}

/// Draws that are asked for are drawn, whatever the number of examples, and no other number is: half of them disagree by
/// more than half of many.
#[test]
fn labels_of_the_form_are_drawn_as_often_as_asked() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut disagreements = vec![];
    for draws in [2, 200] {
        let mut job = job(&folder.path().join(draws.to_string()));
        job.method.solve_examples = FitExamples::Count(10);
        job.method.solve_label_draws = Some(draws);
        let plan = Plan::resolve(job)?;
        assert!(!plan.summary().notes.iter().any(|note| note.contains("labels are drawn for each")));
        plan.run(&())?;
        let file = TensorFile::open(&folder.path().join(format!("{draws}/scores.safetensors")))?;
        assert_eq!(file.metadata("solve_label_draws"), Some(draws.to_string().as_str()));
        let found = file.values::<f64>("disagreements")?;
        disagreements.push(found.iter().sum::<f64>() / found.len() as f64);
    }
    assert!(disagreements[1] < disagreements[0] / 2.0, "{disagreements:?}");
    Ok(())
}

#[test]
fn what_a_subspace_is_not_defined_for_is_refused() -> Outcome {
    let folder = tempfile::tempdir()?;
    let refused = |change: fn(&mut Job)| {
        let mut job = job(&folder.path().join("run"));
        change(&mut job);
        Plan::resolve(job).expect_err("refused").to_string()
    };
    assert!(refused(|job| job.method.solve_iterations = Some(3)).contains("no products"));
    assert!(refused(|job| job.method.solve_label_draws = Some(0)).contains("out of range"));
    let products = |job: &mut Job| {
        (job.method.solve, job.method.solve_label_draws) = (Solve::GaussNewton, Some(4));
    };
    assert!(refused(products).contains("no labels are drawn"));
    let own_labels = |job: &mut Job| {
        (job.method.fisher, job.method.solve_label_draws) = (Fisher::Empirical, Some(4));
    };
    assert!(refused(own_labels).contains("none is drawn"));
    let alone = |job: &mut Job| {
        (job.method.solve, job.method.solve_label_draws) = (Solve::Ekfac, Some(4));
    };
    assert!(refused(alone).contains("belong to joint solves"));
    assert!(refused(|job| job.method.self_influence = true).contains("`solve = subspace` has none"));
    Ok(())
}
