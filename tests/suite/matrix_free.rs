//! Matrix-free solves, whose curvature is the Fisher matrix of sampled gradients, against their definition with dense
//! matrices, and whole jobs against that definition.

use std::path::Path;

use crate::support::dense::{dot, eliminate, gradient_of};
use crate::support::passes::{self, BATCH, Batched, KfacScale};
use crate::support::{Outcome, fixture, load, open};
use ascribe::attribution::store::TensorFile;
use ascribe::attribution::{
    Aggregate, LabelMode, MatrixFree, MemoryVectors, Pass, Sweep, VectorSource, Walk, prepare_queries, sample_gradients,
};
use ascribe::curvature::random::stream;
use ascribe::curvature::{
    CurvatureKind, Damping, Factors, LayerId, LayerSpec, Measurement, Network, Objective, Reduction, Vectors,
};
use ascribe::data::Dataset;
use ascribe::job::{
    CheckpointsRequest, Curvature, DampingRequest, Fisher, FitExamples, IntervalsRequest, Job, Plan, Precision,
    Several, Solve, TokensRequest,
};
use candle_core::DType;

const EXAMPLES: usize = 12;

/// `((1 - ρ) C + D + (ρ/m) Σ g gᵀ)⁻¹ q` with every matrix formed; `curvature` has one matrix for each layer, or none for
/// M-FAC alone.
fn by_definition(
    layers: &[LayerSpec],
    curvature: Option<&[Vec<Vec<f64>>]>,
    gradients: &[Vec<Vec<f64>>],
    q: &[f64],
    damping: Damping,
) -> Vec<f64> {
    let (m, share) = (gradients.len() as f64, if curvature.is_some() { 0.5 } else { 1.0 });
    let n = q.len();
    let mut matrix = vec![vec![0.0; n]; n];
    for g in gradients {
        let g = g.concat();
        for (row, a) in matrix.iter_mut().zip(&g) {
            row.iter_mut().zip(&g).for_each(|(to, b)| *to += share / m * a * b);
        }
    }
    let mut start = 0;
    for (l, spec) in layers.iter().enumerate() {
        let size = spec.parameters();
        let trace = match curvature {
            Some(curvature) => (0..size).map(|k| curvature[l][k][k]).sum::<f64>(),
            None => gradients.iter().map(|g| dot(&g[l], &g[l])).sum::<f64>() / m,
        };
        let added = match damping {
            Damping::Absolute(added) => added,
            Damping::MeanFraction(fraction) => fraction * trace / size as f64,
        };
        for i in 0..size {
            matrix[start + i][start + i] += added;
            if let Some(curvature) = curvature {
                let row = &mut matrix[start + i][start..start + size];
                row.iter_mut().zip(&curvature[l][i]).for_each(|(to, c)| *to += (1.0 - share) * c);
            }
        }
        start += size;
    }
    eliminate(matrix, q.to_vec())
}

const DAMPINGS: [Damping; 3] = [Damping::MeanFraction(0.1), Damping::Absolute(0.03), Damping::MeanFraction(3.0)];

/// The library's solutions to 1e-9, of M-FAC as published and beside EK-FAC; two labels drawn for each example.
#[test]
fn solutions_are_those_of_the_dense_systems() -> Outcome {
    let fixture = open("mlp-tiny", DType::F64);
    let (model, train, queries) = (&fixture.model, &fixture.train, &fixture.queries);
    let layers = model.layers();
    let mode = LabelMode::Sampled { seed: 3, draws: 2 };
    let examples = Batched(train, BATCH);
    let ekfac = passes::fit(model, &examples, CurvatureKind::Ekfac, mode, KfacScale::PerExample)?.factors;
    let identity = Factors::identity(layers.len());
    let objectives = mode.objectives(stream::FORM);
    let drawn: Vec<Vec<Vec<f64>>> = objectives
        .iter()
        .flat_map(|&objective| (0..EXAMPLES).map(move |m| (m, objective)))
        .map(|(m, objective)| gradient_of(model, train, m, objective))
        .collect();
    let asked = Batched(queries, BATCH);
    let sweep = |examples, range| Sweep { network: model, examples, range, pass: Pass::Products, observer: &() };
    let rows = queries.len().min(5);
    let mut gradients = MemoryVectors::<f64>::new(layers, 1, rows);
    let walk = Walk::gradients(&identity);
    let of_queries = sweep(&asked, 0..rows);
    let each = Aggregate::Each;
    prepare_queries(&of_queries, Measurement::Margin, Reduction::Sum, each, &[&walk], &mut gradients)?;
    for factors in [&identity, &ekfac] {
        let curvature: Option<Vec<Vec<Vec<f64>>>> = (factors.kind == CurvatureKind::Ekfac)
            .then(|| factors.layers.iter().zip(layers).map(|(of, spec)| of.to_dense(spec).expect("small")).collect());
        let count = objectives.len() * EXAMPLES;
        let mut sampled = MemoryVectors::<f64>::new(layers, 1, count);
        sample_gradients(&sweep(&examples, 0..EXAMPLES), &objectives, factors, &mut sampled)?;
        let share = if curvature.is_some() { 0.5 } else { 1.0 };
        let of = MatrixFree { layers, factors, gradients: &sampled, share, observer: &() };
        let mut found = MemoryVectors::<f64>::new(layers, DAMPINGS.len(), rows);
        let residuals = of.systems(&DAMPINGS)?.solve(&gradients, 0..rows, &mut found)?;
        assert!(residuals.iter().flatten().all(|&left| left < 1e-9), "{residuals:?}");
        for (leg, damping) in DAMPINGS.into_iter().enumerate() {
            for query in 0..rows {
                let part = |vectors: &MemoryVectors<f64>, leg: usize| -> Vec<f64> {
                    let of_layer = |(l, spec): (usize, &LayerSpec)| match vectors.vectors(leg, LayerId(l)) {
                        Ok(Vectors::Full(all)) => {
                            all[query * spec.parameters()..(query + 1) * spec.parameters()].to_vec()
                        }
                        _ => panic!("whole vectors"),
                    };
                    layers.iter().enumerate().flat_map(of_layer).collect()
                };
                let want = by_definition(layers, curvature.as_deref(), &drawn, &part(&gradients, 0), damping);
                let scale = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                for (found, want) in part(&found, leg).iter().zip(&want) {
                    assert!((found - want).abs() <= 1e-9 * scale, "{:?} {damping:?}: {found} {want}", factors.kind);
                }
            }
        }
    }
    Ok(())
}

const STEPS: [&str; 2] = ["checkpoint-336", "checkpoint-720"];

fn job(out: &Path) -> Job {
    let mut job = Job::new("", fixture("mlp-tiny").join("train.safetensors"), out);
    job.data.queries = Some(fixture("mlp-tiny").join("query.safetensors"));
    let folders = STEPS.map(|step| fixture("mlp-trajectory").join(step));
    job.checkpoints = Some(CheckpointsRequest::of_folders(folders.to_vec()));
    job.model.dtype = Precision::F64;
    (job.method.curvature, job.method.fisher) = (Curvature::Identity, Fisher::Empirical);
    job.method.solve = Solve::MFac;
    job.method.solve_examples = FitExamples::Count(EXAMPLES);
    job.method.damping = Several(["0.1x", "0.03"].map(|damping| damping.parse().expect("a damping")).to_vec());
    job
}

fn scores(folder: &Path, name: &str) -> Vec<f64> {
    let file = TensorFile::open(&folder.join(name)).expect("scores");
    file.f32("scores").expect("a matrix").iter().map(|&score| f64::from(score)).collect()
}

/// A whole job over two checkpoints, with the data's own labels; then in blocks of queries, and after one of its files of
/// vectors is lost.
#[test]
fn scores_of_a_job_are_those_of_the_definition() -> Outcome {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let plan = Plan::resolve(job(&run))?;
    assert!(plan.summary().notes.iter().any(|note| note.contains("Fisher matrix of 12 sampled gradients; they take")));
    let rankings = plan.run(&())?;
    assert!(rankings.iter().all(|ranking| ranking.query.residual.is_some_and(|residual| residual < 1e-9)));
    let (train, queries) = (plan.train(), plan.queries().expect("queries"));
    let (n, rows) = (train.len(), queries.len());
    let sample = train.sample(EXAMPLES);
    let dampings = [Damping::MeanFraction(0.1), Damping::Absolute(0.03)];
    let mut want = vec![vec![0.0; rows * n]; 2];
    for step in STEPS {
        let model = load(&fixture("mlp-trajectory").join(step), DType::F64);
        let of = |data: &Dataset, m: usize, objective| gradient_of(&model, data, m, objective);
        let sampled: Vec<_> = (0..EXAMPLES).map(|m| of(&sample, m, Objective::TrainingLoss)).collect();
        let measured = Objective::Measurement(Measurement::Margin, Reduction::Sum);
        let examples: Vec<Vec<f64>> = (0..n).map(|m| of(train, m, Objective::TrainingLoss).concat()).collect();
        for (want, damping) in want.iter_mut().zip(dampings) {
            for q in 0..rows {
                let gradient = of(queries, q, measured).concat();
                let x = by_definition(model.layers(), None, &sampled, &gradient, damping);
                examples.iter().enumerate().for_each(|(m, g)| want[q * n + m] += dot(&x, g) / (2 * n) as f64);
            }
        }
    }
    let names = ["scores.safetensors", "scores.influence-mean.damping-3e-2.safetensors"];
    for (name, want) in names.into_iter().zip(&want) {
        let scale = want.iter().fold(0.0f64, |most, score| most.max(score.abs()));
        for (found, want) in scores(&run, name).iter().zip(want) {
            assert!((found - want).abs() <= 1e-6 * scale, "{name}: {found} {want}");
        }
    }
    let file = TensorFile::open(&run.join("scores.safetensors"))?;
    let said = |name: &str| file.metadata(name).unwrap_or_default().to_owned();
    assert_eq!((said("solve"), said("solve_gradients"), said("damping")), ("m-fac".into(), "12".into(), "0.1x".into()));
    let in_blocks = folder.path().join("blocks");
    let mut blocks = job(&in_blocks);
    blocks.method.solve_block = Some(2);
    Plan::resolve(blocks)?.run(&())?;
    for (found, want) in scores(&in_blocks, names[0]).iter().zip(scores(&run, names[0])) {
        assert!((found - want).abs() <= 1e-6 * want.abs().max(1e-9), "{found} {want}");
    }
    // one damping has a system of its own: its vectors are made again with the same bytes, and gradients are not left
    let files = || -> std::io::Result<Vec<std::path::PathBuf>> {
        let entries = std::fs::read_dir(run.join("artifacts"))?;
        entries.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let before = files()?;
    assert_eq!(before.iter().filter(|file| file.to_string_lossy().contains("sampled-gradients")).count(), 0);
    let is_vectors = |file: &&std::path::PathBuf| file.to_string_lossy().contains("queries-");
    let lost = before.iter().find(is_vectors).ok_or("vectors")?;
    let bytes = std::fs::read(lost)?;
    std::fs::remove_file(lost)?;
    Plan::resolve(job(&run))?.query(&())?;
    assert!(std::fs::read(lost)? == bytes && files()?.len() == before.len());
    Ok(())
}

#[test]
fn what_matrix_free_solves_are_not_defined_for_is_refused() -> Outcome {
    let folder = tempfile::tempdir()?;
    let refused = |change: &dyn Fn(&mut Job)| {
        let mut job = job(folder.path());
        change(&mut job);
        Plan::resolve(job).expect_err("refused").to_string()
    };
    assert!(refused(&|job| job.method.curvature = Curvature::Adam).contains("a curvature of the same unit"));
    assert!(refused(&|job| job.method.solve_iterations = Some(2)).contains("makes no products"));
    assert!(refused(&|job| job.method.solve_label_draws = Some(2)).contains("none is drawn"));
    assert!(refused(&|job| job.method.self_influence = true).contains("`self_influence`"));
    assert!(refused(&|job| job.output.tokens = TokensRequest::Matrix).contains("are not kept"));
    let error = refused(&|job| {
        job.method.curvature = Curvature::Ekfac;
        job.output.intervals = IntervalsRequest::Damping;
    });
    assert!(error.contains("one of all sampled gradients"), "{error}");
    assert!(refused(&|job| job.method.solve_examples = FitExamples::Count(100_000)).contains("on 100000 examples"));
    let nothing = |job: &mut Job| job.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(0.0))]);
    let mut zero = job(folder.path());
    nothing(&mut zero);
    let error = Plan::resolve(zero)?.run(&()).expect_err("refused").to_string();
    assert!(error.contains("nothing is added to its curvature"), "{error}");
    Ok(())
}
