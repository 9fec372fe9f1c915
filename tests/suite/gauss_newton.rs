//! Products with the Gauss-Newton matrix of all tracked layers jointly against their definition from gradients: for a
//! softmax `Σ_r Σ_c p_c g_c (g_c · v)` with `g_c = -∇ log p_c` at position r, for a squared error `2a Σ_j ∇y_j (∇y_j · v)`.

use std::path::Path;

use crate::support::dense::{eliminate, gradient};
use crate::support::passes::{self, BATCH, Batched, KfacScale};
use crate::support::{Outcome, fixture, load, load_layers, load_selected, open, selection};
use ascribe::attribution::store::TensorFile;
use ascribe::attribution::{Aggregate, prepare_queries, refine_queries};
use ascribe::attribution::{LabelMode, MemoryVectors, Pass, Refinement, VectorForm, VectorSink, VectorSource, Walk};
use ascribe::curvature::gemm::Products;
use ascribe::curvature::{CurvatureKind, Damping, Factors, LayerId, Measurement, Reduction, Vectors};
use ascribe::curvature::{Directions, Error, LayerSpec, Network, Objective, Positions, ProductSum};
use ascribe::data::{self, Batch, Inputs, Targets, TokenInputs};
use ascribe::job::{CheckpointsRequest, DampingRequest, FitExamples, Job, Plan, Precision, Several, Solve};
use ascribe::model::{AlsoTracked, LoadOptions, Model};
use candle_core::{DType, Device, Tensor};

/// Numbers without a pattern.
fn wave(n: usize, phase: f64) -> Vec<f64> {
    (0..n).map(|k| (k as f64 * 0.7 + phase).sin() * (k as f64 * 1.3 + phase).cos()).collect()
}

const DIRECTIONS: usize = 3;

/// By layer, `[Q, O, columns]`.
fn directions(model: &Model) -> Vec<Vec<f64>> {
    model.layers().iter().enumerate().map(|(l, spec)| wave(DIRECTIONS * spec.parameters(), l as f64)).collect()
}

fn product(model: &Model, batch: &Batch, along: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Error> {
    let layers = model.layers();
    let tensors = layers
        .iter()
        .zip(along)
        .map(|(spec, along)| Tensor::from_slice(along, (DIRECTIONS, spec.outputs, spec.columns()), &Device::Cpu));
    let along = Directions::new(layers, tensors.collect::<Result<_, _>>()?)?;
    let mut sums: Vec<Vec<f64>> = layers.iter().map(|spec| vec![0.0; DIRECTIONS * spec.parameters()]).collect();
    let mut sink = ProductSum::new(layers, Products::Exact, sums.iter_mut().map(Vec::as_mut_slice).collect());
    model.gauss_newton(batch, &along, &mut sink)?;
    Ok(sums)
}

/// Adds `weight · g (g · v)` for every direction.
fn add_outer(want: &mut [Vec<f64>], g: &[Vec<f64>], along: &[Vec<f64>], weight: f64) {
    for q in 0..DIRECTIONS {
        let part = |l: usize| q * g[l].len()..(q + 1) * g[l].len();
        let dot: f64 = (0..g.len()).map(|l| g[l].iter().zip(&along[l][part(l)]).map(|(g, v)| g * v).sum::<f64>()).sum();
        for l in 0..g.len() {
            want[l][part(l)].iter_mut().zip(&g[l]).for_each(|(want, g)| *want += weight * g * dot);
        }
    }
}

fn assert_same(name: &str, found: &[Vec<f64>], want: &[Vec<f64>]) {
    let scale = want.iter().flatten().fold(0.0f64, |m, w| m.max(w.abs()));
    assert!(scale > 1e-6, "{name}: nothing is compared");
    for (l, (found, want)) in found.iter().zip(want).enumerate() {
        for (k, (found, want)) in found.iter().zip(want).enumerate() {
            assert!((found - want).abs() <= 1e-12 * scale, "{name}: layer {l} [{k}]: {found}, {want} by definition");
        }
    }
}

#[test]
fn products_of_perceptrons_are_their_definition() -> Outcome {
    let fixture = open("mlp-tiny", DType::F64);
    let batch = data::batch(&fixture.train, 0..5);
    let along = directions(&fixture.model);
    let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
    for example in 0..5 {
        let one = data::batch(&fixture.train, example..example + 1);
        for class in 0..4 {
            // the gradient comes times √(C p_c)
            let (_, g) = gradient(&fixture.model, &one, Objective::ExpectedLoss { class });
            add_outer(&mut want, &g, &along, 0.25);
        }
    }
    assert_same("classes", &product(&fixture.model, &batch, &along)?, &want);

    let fixture = open("mlp-regression", DType::F64);
    let batch = data::batch(&fixture.train, 0..5);
    let along = directions(&fixture.model);
    let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
    for example in 0..5 {
        let one = data::batch(&fixture.train, example..example + 1);
        let y = fixture.model.logits(&one)?.to_vec2::<f64>()?[0][0];
        let mut rows = one;
        let Targets::Values { values, .. } = &mut rows.targets else { panic!("numbers") };
        values[0] -= 3.0; // away from the prediction
        let target = f64::from(values[0]);
        // half_mse has a = 1/2: the gradient of the loss is (y - t) ∇y, and the Hessian 1
        let (_, g) = gradient(&fixture.model, &rows, Objective::TrainingLoss);
        add_outer(&mut want, &g, &along, 1.0 / ((y - target) * (y - target)));
    }
    assert_same("numbers", &product(&fixture.model, &batch, &along)?, &want);
    Ok(())
}

/// Sequences of 3 and 4 tokens, without a target in some places.
fn sequences() -> Batch {
    Batch {
        inputs: Inputs::Tokens(TokenInputs { ids: vec![5, 9, 14, 3, 22, 40, 7], types: None, encoder: None }),
        positions: Positions::from_lengths([3, 4]),
        targets: Targets::Tokens(vec![Some(9), Some(14), None, Some(22), None, Some(7), None]),
        keys: vec![1, 2],
        contrasts: None,
        range: 0..2,
    }
}

/// The batch of [`sequences`] as a decoder's, beside texts of 2 and 3 tokens that an encoder reads.
fn pairs() -> Batch {
    let encoder = Some(Positions::from_lengths([2, 3]));
    let ids = vec![31, 8, 50, 2, 17, 0, 9, 14, 0, 22, 40, 7];
    Batch { inputs: Inputs::Tokens(TokenInputs { ids, types: None, encoder }), ..sequences() }
}

fn check_decoder(folder: &Path, model: &Model) -> Outcome {
    check_batch(folder, model, &sequences())
}

fn check_batch(folder: &Path, model: &Model, batch: &Batch) -> Outcome {
    let vocabulary = model.logits(batch)?.dim(1)? as u32;
    let along = directions(model);
    let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
    let Targets::Tokens(targets) = &batch.targets else { panic!("tokens") };
    for row in (0..7).filter(|&row| targets[row].is_some()) {
        for class in 0..vocabulary {
            let mut one = batch.clone();
            one.targets = Targets::Tokens((0..7).map(|r| (r == row).then_some(class)).collect());
            let (losses, g) = gradient(model, &one, Objective::TrainingLoss);
            add_outer(&mut want, &g, &along, (-losses.iter().sum::<f64>()).exp());
        }
    }
    let found = product(model, batch, &along)?;
    assert_same(&folder.display().to_string(), &found, &want);
    Ok(())
}

#[test]
fn products_of_decoders_are_their_definition() -> Outcome {
    for name in ["families/gemma2", "families/phi3"] {
        let folder = fixture(name);
        check_decoder(&folder, &load(&folder, DType::F64))?;
    }
    Ok(())
}

/// Keys and values of cross-attention move at the encoder's rows.
#[test]
fn products_of_encoder_decoders_are_their_definition() -> Outcome {
    let folder = fixture("families/t5");
    check_batch(&folder, &load(&folder, DType::F64), &pairs())?;
    let folder = fixture("families/mt5");
    check_batch(
        &folder,
        &load_layers(&folder, DType::F64, &["lm_head", "encoder.block.0.*", "*.EncDecAttention.*"]),
        &pairs(),
    )
}

/// The head's own layer moves as well, before logits that stay or move too.
#[test]
fn products_of_masked_language_models_are_their_definition() -> Outcome {
    let deberta = ["deberta-v2-masked", "deberta-v2-masked-published", "deberta-v2-masked-own"];
    for name in
        ["bert-masked", "roberta-masked", "distilbert-masked", "modernbert-masked-plain"].into_iter().chain(deberta)
    {
        let folder = fixture(&format!("families/{name}"));
        check_decoder(&folder, &load(&folder, DType::F64))?;
    }
    let folder = fixture("families/bert-masked-untied");
    check_decoder(&folder, &load_layers(&folder, DType::F64, &["cls.predictions.*", "*.0.intermediate.dense"]))
}

/// Norms before blocks, after sums, of heads, with an offset, and of an encoder and a decoder.
#[test]
fn vectors_of_norms_move_too() -> Outcome {
    for name in ["gpt-neox", "opt-behind", "qwen3", "gemma2"] {
        let folder = fixture(&format!("families/{name}"));
        let selection = selection(&["*.0.*"]).and(&[AlsoTracked::Norms]);
        check_decoder(&folder, &load_selected(&folder, DType::F64, selection))?;
    }
    let folder = fixture("families/t5");
    let selection = selection(&["encoder.block.0.*"]).and(&[AlsoTracked::Norms]);
    check_batch(&folder, &load_selected(&folder, DType::F64, selection), &pairs())
}

#[test]
fn a_tracked_head_moves_too() -> Outcome {
    let folder = fixture("families/gpt-neox");
    check_decoder(&folder, &load_layers(&folder, DType::F64, &["embed_out", "*.0.mlp.dense_h_to_4h"]))
}

/// LoRA's matrices beside a frozen base.
#[test]
fn adapters_move_as_they_are_added() -> Outcome {
    let folder = fixture("adapters/phi3-all");
    let options = LoadOptions { dtype: DType::F64, base: Some(fixture("families/phi3")), ..LoadOptions::default() };
    let model = Model::load(&folder, &options)?;
    assert!(model.layers().iter().any(|layer| layer.name.contains("lora_B")), "{:?}", model.layers());
    check_decoder(&folder, &model)
}

/// Two texts with targets of a classifier.
fn texts(targets: Targets) -> Batch {
    Batch { targets, ..sequences() }
}

#[test]
fn products_of_classifiers_of_texts_are_their_definition() -> Outcome {
    // pooled at the first token, the last one, and over all
    for name in ["bert", "gpt-neox", "modernbert", "deberta-v2"] {
        let model = load(&fixture(&format!("classifiers/{name}")), DType::F64);
        let (along, batch) = (directions(&model), texts(Targets::Classes(vec![1, 0])));
        let classes = model.logits(&batch)?.dim(1)?;
        let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
        for class in 0..classes {
            for mut own in [0, 1].map(|text| one_text(&batch, text)) {
                own.targets = Targets::Classes(vec![0]);
                let (_, g) = gradient(&model, &own, Objective::ExpectedLoss { class });
                add_outer(&mut want, &g, &along, 1.0 / classes as f64);
            }
        }
        assert_same(name, &product(&model, &batch, &along)?, &want);
    }
    Ok(())
}

/// One of the two sequences.
fn one_text(batch: &Batch, text: usize) -> Batch {
    let rows = batch.positions.iter().nth(text).expect("two texts");
    let Inputs::Tokens(inputs) = &batch.inputs else { panic!("tokens") };
    Batch {
        inputs: Inputs::Tokens(TokenInputs { ids: inputs.ids[rows.clone()].to_vec(), types: None, encoder: None }),
        targets: batch.targets.clone(),
        positions: Positions::from_lengths([rows.len()]),
        keys: vec![batch.keys[text]],
        contrasts: None,
        range: 0..1,
    }
}

/// A label's loss `-y log p - (1 - y) log (1 - p)` has the gradient `(p - y) ∇z` and the Hessian `p (1 - p)` at the logit.
#[test]
fn products_of_several_labels_and_of_numbers_are_their_definition() -> Outcome {
    for name in ["bert-multi-label", "qwen2-multi-label", "distilbert-regression", "xlm-roberta-regression"] {
        let model = load(&fixture(&format!("classifiers/{name}")), DType::F64);
        let along = directions(&model);
        let is_labels = name.contains("label");
        let width = model.logits(&texts(Targets::Classes(vec![0, 0])))?.dim(1)?;
        let targets = |values: Vec<f32>| match is_labels {
            true => Targets::Labels { values, width },
            false => Targets::Values { values, width },
        };
        let batch = texts(targets(vec![0.25; 2 * width]));
        let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
        for text in [0, 1] {
            let mut own = one_text(&batch, text);
            let outputs = model.logits(&own)?.to_vec2::<f64>()?.remove(0);
            for (j, z) in outputs.into_iter().enumerate() {
                let mut at = |target: f32| {
                    let mut values = vec![0.5; width];
                    values[j] = target;
                    own.targets = targets(values);
                    gradient(&model, &own, Objective::TrainingLoss).1
                };
                // the mean over outputs: both differences are the output's gradient, times 1/width or 2/width
                let (low, high) = (at(0.0), at(1.0));
                let g: Vec<Vec<f64>> =
                    low.iter().zip(&high).map(|(l, h)| l.iter().zip(h).map(|(l, h)| l - h).collect()).collect();
                let p = 1.0 / (1.0 + (-z).exp());
                let width = width as f64;
                let weight = if is_labels { p * (1.0 - p) * width } else { width / 2.0 };
                add_outer(&mut want, &g, &along, weight);
            }
        }
        assert_same(name, &product(&model, &batch, &along)?, &want);
    }
    Ok(())
}

/// A rule that is missing is an error, never a direction that does not move.
#[test]
fn experts_are_refused() {
    let model = load(&fixture("families/mixtral"), DType::F64);
    let error = product(&model, &sequences(), &directions(&model)).expect_err("experts have no rule").to_string();
    assert!(error.contains("has no rule for tangents"), "{error}");
}

#[test]
fn products_in_f32_are_those_in_f64() -> Outcome {
    for name in ["gpt2-tiny", "families/gemma2", "families/gpt-neox", "families/phi3"] {
        let (wide, narrow) = (load(&fixture(name), DType::F64), load(&fixture(name), DType::F32));
        let batch = sequences();
        let along = directions(&wide);
        let want = product(&wide, &batch, &along)?;
        let layers = narrow.layers();
        let tensors = layers.iter().zip(&along).map(|(spec, along)| {
            Tensor::from_slice(along, (DIRECTIONS, spec.outputs, spec.columns()), &Device::Cpu)?.to_dtype(DType::F32)
        });
        let along = Directions::new(layers, tensors.collect::<Result<_, candle_core::Error>>()?)?;
        let mut sums: Vec<Vec<f32>> = layers.iter().map(|spec| vec![0.0; DIRECTIONS * spec.parameters()]).collect();
        let mut sink = ProductSum::new(layers, Products::Exact, sums.iter_mut().map(Vec::as_mut_slice).collect());
        narrow.gauss_newton(&batch, &along, &mut sink)?;
        let scale = want.iter().flatten().fold(0.0f64, |m, w| m.max(w.abs()));
        for (found, want) in sums.iter().flatten().zip(want.iter().flatten()) {
            // a forward and a backward pass of a few blocks in f32
            assert!((f64::from(*found) - want).abs() <= 2e-5 * scale, "{name}: {found} {want}");
        }
    }
    Ok(())
}

/// The Gauss-Newton matrix of a classifier's mean loss over its first examples, `[n, n]`, layers one after the other.
fn dense(model: &Model, train: &ascribe::data::Dataset, examples: usize, classes: usize) -> Vec<Vec<f64>> {
    let n: usize = model.layers().iter().map(LayerSpec::parameters).sum();
    let mut matrix = vec![vec![0.0; n]; n];
    for example in 0..examples {
        let one = data::batch(train, example..example + 1);
        for class in 0..classes {
            let g = gradient(model, &one, Objective::ExpectedLoss { class }).1.concat();
            for i in 0..n {
                for j in 0..n {
                    matrix[i][j] += g[i] * g[j] / (classes * examples) as f64;
                }
            }
        }
    }
    matrix
}

const EXAMPLES: usize = 12;
const QUERIES: usize = 3;

/// Every damping from one space, and a space that is too small says so.
#[test]
fn solutions_are_those_of_the_dense_system() -> Outcome {
    let fixture = open("mlp-tiny", DType::F64);
    let (model, layers) = (&fixture.model, fixture.model.layers());
    let train = Batched(&fixture.train, BATCH);
    let train = passes::sweep(model, &train, Pass::Products);
    let train = ascribe::attribution::Sweep { range: 0..EXAMPLES, ..train };
    let factors: Factors<f64> = passes::fit(
        model,
        &Batched(&fixture.train, BATCH),
        CurvatureKind::Ekfac,
        LabelMode::Sampled { seed: 0, draws: 1 },
        KfacScale::PerExample,
    )?
    .factors;
    let queries = Batched(&fixture.queries, BATCH);
    let sweep = passes::sweep(model, &queries, Pass::Queries);
    let mut gradients = MemoryVectors::<f64>::new(layers, 1, queries.0.len());
    let identity = Factors::identity(layers.len());
    let walk = Walk::gradients(&identity);
    prepare_queries(&sweep, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[&walk], &mut gradients)?;
    let vector =
        |vectors: &MemoryVectors<f64>, leg: usize, query: usize| -> Result<Vec<f64>, Box<dyn std::error::Error>> {
            let mut found = vec![];
            for (l, spec) in layers.iter().enumerate() {
                let Vectors::Full(all) = vectors.vectors(leg, LayerId(l))? else { panic!("whole vectors") };
                found.extend(&all[query * spec.parameters()..(query + 1) * spec.parameters()]);
            }
            Ok(found)
        };
    let dampings = [Damping::Absolute(0.03), Damping::Absolute(0.3), Damping::MeanFraction(0.1)];
    let matrix = dense(model, &fixture.train, EXAMPLES, 4);
    let solve = |products: usize, form: VectorForm| {
        let mut found = MemoryVectors::<f64>::of_form(form, layers, dampings.len(), queries.0.len());
        let refinement = Refinement { factors: &factors, dampings: &dampings, products, tangents: 1 << 12 };
        let refined = refine_queries(&train, &refinement, &gradients, 1..1 + QUERIES, &mut found)?;
        Ok::<_, ascribe::attribution::Error>((found, refined))
    };
    let (found, refined) = solve(60, VectorForm::Full)?;
    let (_, few) = solve(2, VectorForm::Full)?;
    assert_eq!(few.directions, 2 * QUERIES);
    for (leg, damping) in dampings.iter().enumerate() {
        let mut damped = matrix.clone();
        let mut place = 0;
        for (l, spec) in layers.iter().enumerate() {
            for _ in 0..spec.parameters() {
                damped[place][place] += factors.layers[l].damping(*damping);
                place += 1;
            }
        }
        for query in 0..QUERIES {
            let want = eliminate(damped.clone(), vector(&gradients, 0, 1 + query)?);
            let found = vector(&found, leg, 1 + query)?;
            let scale = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
            for (k, (found, want)) in found.iter().zip(&want).enumerate() {
                assert!((found - want).abs() <= 1e-9 * scale, "{damping:?}, query {query} [{k}]: {found} {want}");
            }
            assert!(refined.residuals[leg][query] < 1e-9);
            assert!(few.residuals[leg][query] > 1e-6, "two products are not enough");
        }
    }
    // a rank that holds everything gives the same vectors back
    let (low, _) = solve(2, VectorForm::LowRank(1))?;
    assert_eq!(low.form(), VectorForm::LowRank(1));
    assert!(solve(0, VectorForm::Full).unwrap_err().to_string().contains("no product"));
    Ok(())
}

const STEPS: [&str; 2] = ["checkpoint-336", "checkpoint-720"];
const DAMPINGS: [f64; 2] = [0.03, 0.3];

/// A job over two checkpoints of a perceptron in f64 whose products are of a sample of the examples.
fn joint_job(out: &Path, change: impl FnOnce(&mut Job)) -> Plan {
    let mut job = Job::new("", fixture("mlp-tiny").join("train.safetensors"), out);
    job.data.queries = Some(fixture("mlp-tiny").join("query.safetensors"));
    let folders = STEPS.map(|step| fixture("mlp-trajectory").join(step));
    job.checkpoints = Some(CheckpointsRequest::of_folders(folders.to_vec()));
    job.model.dtype = Precision::F64;
    job.method.solve = Solve::GaussNewton;
    job.method.solve_iterations = Some(40);
    job.method.solve_examples = FitExamples::Count(EXAMPLES);
    job.method.damping = Several(DAMPINGS.map(|damping| DampingRequest::Value(Damping::Absolute(damping))).to_vec());
    change(&mut job);
    Plan::resolve(job).expect("sound inputs")
}

/// Scores of the whole job against `-(1/N) Σ_a w_a <(H_a + δ)⁻¹ ∇cost_q, G_m>` with dense matrices.
#[test]
fn scores_of_joint_solves_are_those_of_dense_systems() -> Outcome {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let plan = joint_job(&run, |_| ());
    let rankings = plan.run(&())?;
    let (train, queries) = (plan.train(), plan.queries().expect("queries"));
    let (n, rows) = (train.len(), queries.len());
    let mut want = vec![vec![0.0; rows * n]; 2];
    // the sample by stride, as a file of its own would be
    let sample = train.sample(EXAMPLES);
    for step in STEPS {
        let model = load(&fixture("mlp-trajectory").join(step), DType::F64);
        let of = |data: &data::Dataset, m: usize, objective| {
            gradient(&model, &data::batch(data, m..m + 1), objective).1.concat()
        };
        let measured = Objective::Measurement(Measurement::Margin, Reduction::Sum);
        let examples: Vec<Vec<f64>> = (0..n).map(|m| of(train, m, Objective::TrainingLoss)).collect();
        let matrix = dense(&model, &sample, EXAMPLES, 4);
        for (want, damping) in want.iter_mut().zip(DAMPINGS) {
            let mut damped = matrix.clone();
            damped.iter_mut().enumerate().for_each(|(k, row)| row[k] += damping);
            for q in 0..rows {
                let x = eliminate(damped.clone(), of(queries, q, measured));
                for (m, g) in examples.iter().enumerate() {
                    want[q * n + m] += x.iter().zip(g).map(|(x, g)| x * g).sum::<f64>() / (2 * n) as f64;
                }
            }
        }
    }
    for (k, damping) in ["3e-2", "3e-1"].into_iter().enumerate() {
        let file = TensorFile::open(&run.join(match k {
            0 => "scores.safetensors".to_owned(),
            _ => format!("scores.influence-mean.damping-{damping}.safetensors"),
        }))?;
        let found: Vec<f64> = file.f32("scores")?.iter().map(|&score| f64::from(score)).collect();
        let scale = want[k].iter().fold(0.0f64, |m, w| m.max(w.abs()));
        for (place, (found, want)) in found.iter().zip(&want[k]).enumerate() {
            assert!((found - want).abs() <= 1e-6 * scale, "damping {damping} [{place}]: {found} {want}");
        }
        let residuals = file.f64("residuals")?;
        assert_eq!(residuals.len(), rows);
        assert!(residuals.iter().all(|&residual| residual < 1e-7), "{residuals:?}");
        let said = |name: &str| file.metadata(name).unwrap_or_default().to_owned();
        assert_eq!((said("solve"), said("solve_iterations")), ("gauss-newton".into(), "40".into()));
        assert_eq!((said("solve_examples"), said("damping")), (EXAMPLES.to_string(), damping.into()));
    }
    assert!(rankings.iter().all(|ranking| ranking.query.residual.is_some_and(|residual| residual < 1e-7)));
    Ok(())
}

/// One file of vectors is lost: it is made again with the same bytes, whichever of the dampings it was.
#[test]
fn joint_solves_go_on_after_a_stop_and_are_kept_apart() -> Outcome {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let few = |job: &mut Job| job.method.solve_iterations = Some(2);
    joint_job(&run, few).run(&())?;
    let vectors = || -> std::io::Result<Vec<std::path::PathBuf>> {
        let entries = std::fs::read_dir(run.join("artifacts"))?;
        let mut files: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("queries-")));
        files.sort();
        Ok(files)
    };
    let before = vectors()?;
    assert_eq!(before.len(), 4, "two dampings at two checkpoints: {before:?}");
    let scores = std::fs::read(run.join("scores.safetensors"))?;
    for file in before.iter().skip(1) {
        let bytes = std::fs::read(file)?;
        std::fs::remove_file(file)?;
        joint_job(&run, few).query(&())?;
        assert!(std::fs::read(file)? == bytes, "{}", file.display());
    }
    std::fs::remove_file(run.join("scores.safetensors"))?;
    joint_job(&run, few).run(&())?;
    assert!(std::fs::read(run.join("scores.safetensors"))? == scores);
    // every choice that changes the vectors has vectors of its own, and none is taken for another's
    let changes: [&dyn Fn(&mut Job); 5] = [
        &|job| job.method.solve_iterations = Some(3),
        &|job| job.method.solve_examples = FitExamples::All,
        &|job| job.method.solve_block = Some(1),
        &|job| job.method.damping.0.truncate(1),
        &|job| {
            (job.method.solve, job.method.solve_iterations) = (Solve::Ekfac, None);
            job.method.solve_examples = FitExamples::All;
        },
    ];
    for (k, change) in changes.into_iter().enumerate() {
        let count = vectors()?.len();
        let plan = joint_job(&run, |job| {
            few(job);
            change(job);
        });
        // the folder's scores are those of the first job
        let _ = plan.query(&());
        for file in ["scores.safetensors", "scores.influence-mean.damping-3e-1.safetensors"] {
            let _ = std::fs::remove_file(run.join(file));
        }
        plan.query(&())?;
        assert!(vectors()?.len() > count, "change {k} made no vectors of its own");
    }
    Ok(())
}

#[test]
fn what_joint_solves_are_not_defined_for_is_refused_before_work() -> Outcome {
    let folder = tempfile::tempdir()?;
    let refused = |change: &dyn Fn(&mut Job)| {
        let mut job = Job::new(fixture("mlp-tiny"), fixture("mlp-tiny").join("train.safetensors"), folder.path());
        job.data.queries = Some(fixture("mlp-tiny").join("query.safetensors"));
        job.method.solve = Solve::GaussNewton;
        change(&mut job);
        Plan::resolve(job).expect_err("refused").to_string()
    };
    assert!(refused(&|job| job.method.solve_iterations = Some(0)).contains("`solve_iterations` is 0"));
    assert!(refused(&|job| job.method.curvature = ascribe::job::Curvature::Identity).contains("has none"));
    assert!(refused(&|job| job.method.normalize = ascribe::job::Normalize::Cosine).contains("cosine"));
    assert!(refused(&|job| job.method.self_influence = true).contains("`self_influence`"));
    assert!(refused(&|job| job.method.solve_examples = FitExamples::Auto).contains("has no `solve_examples = auto`"));
    let error = refused(&|job| job.method.solve_examples = FitExamples::Count(100_000));
    assert!(error.contains("on 100000 examples, and there are "), "{error}");
    let error = refused(&|job| {
        (job.method.solve, job.method.solve_iterations) = (Solve::Ekfac, Some(2));
    });
    assert!(error.contains("belong to joint solves"), "{error}");
    // ops without a rule: known before anything is fitted
    let ids = folder.path().join("ids.jsonl");
    std::fs::write(&ids, "{\"input_ids\": [3, 9, 14, 7]}\n{\"input_ids\": [5, 9, 20, 7, 8]}\n")?;
    let mut job = Job::new(fixture("families/mixtral"), &ids, folder.path().join("experts"));
    job.data.queries = Some(ids.clone());
    job.method.solve = Solve::GaussNewton;
    let error = Plan::resolve(job)?.run(&()).expect_err("experts have no rule").to_string();
    assert!(error.contains("has no rule for tangents"), "{error}");
    let made = std::fs::read_dir(folder.path().join("experts").join("artifacts")).map_or(0, Iterator::count);
    assert_eq!(made, 0, "nothing is fitted");
    Ok(())
}
