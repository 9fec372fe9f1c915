//! What must not change a result: batches, padding, the order of examples, threads, which other layers
//! are tracked, and whether activations are kept.

use std::io::Cursor;
use std::path::Path;

use crate::support::figures::assert_relative;
use crate::support::passes::{
    BATCH, Batched, Fitted, KfacScale, LayerScores, Matrix, Run, covariance, fit, self_influence_by_layer, sweep,
    vectors,
};
use crate::support::{Fixture, Outcome, fixture, load, open, open_layers};
use ascribe::attribution::{LabelMode, Pass};
use ascribe::curvature::gemm::Real;
use ascribe::curvature::{CurvatureKind, Damping, Graphs, Measurement, Network, Objective};
use ascribe::data::{DataOptions, Dataset, Format, Kind, Role, read_rows_from, read_tokens_from};
use ascribe::model::{Limits, Model};
use candle_core::DType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// `docs/method.md`, Numerics: what batches and padding may change in f32, of the largest number.
const ROUNDING: f64 = 1e-5;
/// The same in f64, where the score matrix is still written in f32.
const ROUNDING_F64: f64 = 1.2e-7;

/// EK-FAC with labels drawn from the model: draws must not change either.
fn run(measurement: Measurement) -> Run {
    Run::empirical(CurvatureKind::Ekfac, measurement).sampled(7)
}

fn measurement(model: &Model) -> Measurement {
    match model.limits() {
        Limits::Tokens(_) => Measurement::Loss,
        Limits::Rows(limits) if limits.outputs > 1 => Measurement::Margin,
        Limits::Rows(_) => Measurement::Prediction,
    }
}

fn scores<T: Real>(fixture: &Fixture, train: &Dataset, queries: &Dataset, batch: usize) -> Matrix {
    let run = run(measurement(&fixture.model));
    run.scores::<_, T>(&fixture.model, &Batched(train, batch), &Batched(queries, batch)).expect("finite scores")
}

fn assert_same_scores(found: &Matrix, want: &Matrix, tolerance: f64, what: &str) {
    assert_relative(&found.wide(), &want.wide(), tolerance, what);
    let wide = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<_>>();
    assert_relative(&wide(&found.self_influence), &wide(&want.self_influence), tolerance, &format!("{what}, self"));
}

#[test]
fn batches_change_nothing_but_rounding() {
    for name in ["gpt2-tiny", "llama-tiny", "mlp-tiny", "mlp-regression"] {
        let fixture = open(name, DType::F32);
        let want = scores::<f32>(&fixture, &fixture.train, &fixture.queries, usize::MAX);
        for batch in [1, 64, 700] {
            let found = scores::<f32>(&fixture, &fixture.train, &fixture.queries, batch);
            assert_same_scores(&found, &want, ROUNDING, &format!("{name}, {batch} positions in f32"));
        }
    }
    let fixture = open("gpt2-tiny", DType::F64);
    let want = scores::<f64>(&fixture, &fixture.train, &fixture.queries, usize::MAX);
    let found = scores::<f64>(&fixture, &fixture.train, &fixture.queries, 100);
    assert_same_scores(&found, &want, ROUNDING_F64, "in f64");
}

/// The dataset's tokens as JSON lines, with `pads(example)` positions of padding on the left and right.
fn padded(model: &Model, dataset: &Dataset, pads: impl Fn(usize) -> (usize, usize)) -> Dataset {
    let (Kind::Tokens(tokens), Limits::Tokens(limits)) = (dataset.kind(), model.limits()) else { panic!("text") };
    let line = |i: usize| {
        let (left, right) = pads(i);
        let around = |pad: Value, middle: Vec<Value>| -> Vec<Value> {
            let pads = |n| std::iter::repeat_n(pad.clone(), n);
            pads(left).chain(middle).chain(pads(right)).collect()
        };
        let ids = tokens.tokens(i);
        let labels =
            ids.iter().zip(tokens.is_target(i)).map(|(id, target)| if *target { json!(id) } else { json!(-100) });
        json!({
            "id": dataset.id(i),
            "input_ids": around(json!(3), ids.iter().map(|id| json!(id)).collect()),
            "attention_mask": around(json!(0), vec![json!(1); ids.len()]),
            "labels": around(json!(-100), labels.collect()),
        })
        .to_string()
    };
    let lines: Vec<String> = (0..dataset.len()).map(line).collect();
    let (name, options) = (Path::new("padded.jsonl"), DataOptions::default());
    let reader = Cursor::new(lines.join("\n"));
    read_tokens_from(reader, name, Format::JsonLines, Role::Train, None, limits, options).expect("tokens").0
}

#[test]
fn padding_changes_nothing() {
    for name in ["gpt2-tiny", "llama-tiny"] {
        let fixture = open(name, DType::F32);
        let want = scores::<f32>(&fixture, &fixture.train, &fixture.queries, BATCH);
        let longest = |data: &Dataset| (0..data.len()).map(|i| data.positions(i)).max().expect("examples");
        for side in ["right", "left", "both, uneven"] {
            let pad = |data: &Dataset| {
                let longest = longest(data);
                let fill = |i: usize| longest - data.positions(i);
                padded(&fixture.model, data, |i| match side {
                    "right" => (0, fill(i)),
                    "left" => (fill(i), 0),
                    _ => (i % 3, i % 5),
                })
            };
            let (train, queries) = (pad(&fixture.train), pad(&fixture.queries));
            assert!((0..train.len()).all(|i| train.key(i) == fixture.train.key(i)), "{side}: contents are the same");
            let found = scores::<f32>(&fixture, &train, &queries, BATCH);
            assert_eq!(found, want, "{name}: padding on the {side}");
        }
    }
}

/// The rows of a safetensors file in another order.
fn reordered(file: &Path, order: &[usize]) -> Vec<u8> {
    let bytes = std::fs::read(file).expect("readable");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("sound");
    let tensors = SafeTensors::deserialize(&bytes).expect("sound");
    let moved: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            let width = view.data().len() / order.len();
            let data = order.iter().flat_map(|&m| view.data()[m * width..(m + 1) * width].to_vec()).collect();
            (name.to_owned(), view.dtype(), view.shape().to_vec(), data)
        })
        .collect();
    let views = moved.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("fitting"))
    });
    safetensors::serialize(views, header.metadata().clone()).expect("sound")
}

#[test]
fn the_order_of_examples_permutes_scores() {
    for name in ["gpt2-tiny", "mlp-tiny"] {
        let fixture_of = open(name, DType::F32);
        let n = fixture_of.train.len();
        // 7 and 160, 7 and 60 have no common divisor
        let order: Vec<usize> = (0..n).map(|m| (m * 7 + 3) % n).collect();
        let train = match fixture_of.model.limits() {
            Limits::Tokens(limits) => {
                let text = std::fs::read_to_string(fixture(&format!("{name}/train.jsonl"))).expect("readable");
                let lines: Vec<&str> = text.lines().collect();
                let moved: Vec<&str> = order.iter().map(|&m| lines[m]).collect();
                let folder = fixture(name);
                let tokenizer =
                    std::sync::Arc::new(ascribe::data::Tokenizer::find(&folder, None).expect("a tokenizer"));
                let specials = ascribe::data::Specials { add_eos: ascribe::data::Which::Both, ..Default::default() };
                let options = DataOptions { specials, ..DataOptions::default() };
                let (reader, file) = (Cursor::new(moved.join("\n")), Path::new("moved.jsonl"));
                let role = Role::Train;
                read_tokens_from(reader, file, Format::JsonLines, role, Some(&tokenizer), limits, options)
                    .expect("text")
                    .0
            }
            Limits::Rows(limits) => {
                let bytes = reordered(&fixture(&format!("{name}/train.safetensors")), &order);
                read_rows_from(&bytes, Path::new("moved.safetensors"), limits).expect("rows").0
            }
        };
        let want = scores::<f32>(&fixture_of, &fixture_of.train, &fixture_of.queries, BATCH);
        let found = scores::<f32>(&fixture_of, &train, &fixture_of.queries, BATCH);
        let back = |row: &[f32]| {
            let mut back = vec![0.0; n];
            order.iter().zip(row).for_each(|(&m, &score)| back[m] = score);
            back
        };
        let values = found.values.chunks(n).flat_map(back).collect();
        let self_influence = back(&found.self_influence);
        assert_same_scores(&Matrix { values, self_influence, ..found }, &want, ROUNDING, name);
    }
}

/// A perceptron wide enough for its products to be shared out among threads, with 257 rows.
fn wide_perceptron() -> (tempfile::TempDir, Model, Dataset) {
    let folder = tempfile::tempdir().expect("a folder");
    let number = |k: usize| ((k.wrapping_mul(2_654_435_761) % 1_000_003) as f32 / 500_001.5 - 1.0) * 0.08;
    let sizes = [300usize, 270, 6];
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
    for (l, pair) in sizes.windows(2).enumerate() {
        let bytes = |n: usize, salt: usize| (0..n).flat_map(|k| number(k * 3 + salt).to_le_bytes()).collect();
        tensors.push((format!("layers.{l}.weight"), vec![pair[1], pair[0]], bytes(pair[0] * pair[1], l + 1)));
        tensors.push((format!("layers.{l}.bias"), vec![pair[1]], bytes(pair[1], l + 11)));
    }
    let write = |file: &str, tensors: &[(String, Vec<usize>, Vec<u8>)], dtypes: &[Dtype]| {
        let views = tensors.iter().zip(dtypes.iter().cycle()).map(|((name, shape, bytes), dtype)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("fitting"))
        });
        std::fs::write(folder.path().join(file), safetensors::serialize(views, None).expect("sound"))
            .expect("writable");
    };
    write("model.safetensors", &tensors, &[Dtype::F32]);
    let n = 257;
    let inputs = (0..n * sizes[0]).flat_map(|k| (number(k * k + 5 * k) * 12.0).to_le_bytes()).collect();
    let targets = (0..n).flat_map(|k| ((k * k + k / 3) as i64 % 6).to_le_bytes()).collect();
    let rows = [("inputs".to_owned(), vec![n, sizes[0]], inputs), ("targets".to_owned(), vec![n], targets)];
    write("train.safetensors", &rows, &[Dtype::F32, Dtype::I64]);
    let config = json!({"model_type": "mlp", "activation": "gelu", "task": "classification", "layer_sizes": sizes});
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writable");
    let model = load(folder.path(), DType::F32);
    let Limits::Rows(limits) = model.limits() else { panic!("rows") };
    let bytes = std::fs::read(folder.path().join("train.safetensors")).expect("readable");
    let train = read_rows_from(&bytes, Path::new("train.safetensors"), limits).expect("rows").0;
    (folder, model, train)
}

fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(work)
}

#[test]
fn threads_change_no_bit() {
    for name in ["gpt2-tiny", "llama-tiny", "mlp-tiny"] {
        let fixture = open(name, DType::F32);
        let once = |threads| with_threads(threads, || scores::<f32>(&fixture, &fixture.train, &fixture.queries, BATCH));
        let one = once(1);
        for threads in [2, 3] {
            assert_eq!(once(threads), one, "{name} on {threads} threads");
        }
    }
    let (_folder, model, train) = wide_perceptron();
    let once = |threads| {
        with_threads(threads, || {
            let labels = LabelMode::Sampled { seed: 3, draws: 1 };
            let examples = Batched(&train, 100);
            let covariance = covariance::<_, f32>(&model, &examples, labels).expect("finite");
            let run = run(Measurement::Margin);
            let matrix = run.scores::<_, f32>(&model, &examples, &examples).expect("finite");
            (covariance.outputs.iter().map(|s| s.as_slice().to_vec()).collect::<Vec<_>>(), matrix)
        })
    };
    let one = once(1);
    for threads in [2, 3] {
        let (covariances, matrix) = once(threads);
        assert!(covariances == one.0, "output covariances on {threads} threads");
        assert!(matrix == one.1, "scores on {threads} threads");
    }
}

/// Scores and self-influence of every layer by its name.
fn by_layer(fixture: &Fixture) -> Vec<(String, Vec<f64>, Vec<f64>)> {
    let (train, queries) = (Batched(&fixture.train, BATCH), Batched(&fixture.queries, BATCH));
    let (model, labels) = (&fixture.model, LabelMode::Sampled { seed: 7, draws: 1 });
    let Fitted { factors, .. } =
        fit::<_, f32>(model, &train, CurvatureKind::Ekfac, labels, KfacScale::PerExample).expect("finite");
    let damping = Damping::default();
    let (vectors, _) = vectors(model, &queries, &factors, damping, Measurement::Loss).expect("finite");
    let mut sink = LayerScores::new(model.layers(), &vectors);
    let objective = [Objective::TrainingLoss];
    sweep(model, &train, Pass::Scores).differentiate(0, &objective, &mut sink, |_, _| Ok(())).expect("finite");
    let own = self_influence_by_layer(model, &train, &factors, damping).expect("finite");
    let names = model.layers().iter().map(|layer| layer.name.clone());
    names.zip(sink.scores).zip(own).map(|((name, scores), own)| (name, scores, own)).collect()
}

#[test]
fn which_layers_are_tracked_changes_no_other_layer() {
    for (name, selections) in [
        ("gpt2-tiny", vec![vec!["*.mlp.*"], vec!["*.h.1.attn.c_proj", "*.h.0.mlp.c_fc"], vec!["*.attn.*", "lm_head"]]),
        // the second and third reader of a shared input without the first
        ("llama-tiny", vec![vec!["*.k_proj", "*.up_proj"], vec!["*.v_proj", "*.q_proj"], vec!["*.layers.1.*"]]),
    ] {
        let all = by_layer(&open(name, DType::F32));
        for patterns in selections {
            let some = by_layer(&open_layers(name, DType::F32, &patterns));
            let reversed: Vec<&str> = patterns.iter().rev().copied().collect();
            assert!(some == by_layer(&open_layers(name, DType::F32, &reversed)), "{name}: the order of {patterns:?}");
            assert!(!some.is_empty() && some.len() < all.len(), "{name}: {patterns:?}");
            for layer in some.iter().filter(|(name, ..)| name != "lm_head") {
                let same = all.iter().find(|(name, ..)| name == &layer.0).expect("a layer of the whole");
                assert!(layer == same, "{name}: {} among {patterns:?}", layer.0);
            }
        }
    }
}

#[test]
fn activations_kept_or_computed_twice_are_the_same() -> Outcome {
    for name in ["gpt2-tiny", "llama-tiny", "mlp-tiny"] {
        let mut fixture = open(name, DType::F32);
        let kept = scores::<f32>(&fixture, &fixture.train, &fixture.queries, BATCH);
        fixture.model.set_graphs(Graphs::Rebuilt);
        assert_eq!(scores::<f32>(&fixture, &fixture.train, &fixture.queries, BATCH), kept, "{name}");
    }
    Ok(())
}
