//! Every checkpoint of fixtures/families against what transformers computed of it (fixtures/README.md): logits, losses
//! and gradients with random weights and sequences longer than the windows.

mod support;

use std::io::Cursor;
use std::path::Path;

use ascribe::curvature::{Network, Objective};
use ascribe::data::{self, Batch, DataOptions, Format, Role, read_tokens_from};
use ascribe::model::{Limits, Model};
use ascribe::trajectory::torch_parameters::TorchParameters;
use candle_core::DType;
use safetensors::SafeTensors;
use serde_json::json;
use support::figures::assert_relative;
use support::passes::Gradients;
use support::recorded::Recorded;
use support::{fixture, load};

/// Transformers keeps norms and rotary angles in f32 even where weights are f64.
const TOLERANCE: f64 = 1e-4;

/// The recorded sequences.
fn sequences(model: &Model, expected: &Recorded) -> Batch {
    let whole = |x: &[f64]| x.iter().map(|&x| x as i64).collect::<Vec<_>>();
    let rows = |tensor: &str| {
        let found = expected.find(tensor)?;
        Some(found.values.chunks(found.shape[1]).map(whole).collect::<Vec<_>>())
    };
    let [ids, mask] = ["input_ids", "attention_mask"].map(|tensor| rows(tensor).expect("recorded"));
    // of an encoder and a decoder
    let labels = rows("labels");
    let line = |m: usize| match &labels {
        None => json!({"input_ids": ids[m], "attention_mask": mask[m]}).to_string(),
        Some(labels) => json!({"input_ids": ids[m], "attention_mask": mask[m], "labels": labels[m]}).to_string(),
    };
    let lines: Vec<String> = (0..ids.len()).map(line).collect();
    let Limits::Tokens(limits) = model.limits() else { panic!("a language model") };
    let (name, options) = (Path::new("lines.jsonl"), DataOptions::default());
    let text = Cursor::new(lines.join("\n"));
    let read = read_tokens_from(text, name, Format::JsonLines, Role::Train, None, limits, options);
    let dataset = read.expect("tokens").0;
    data::batch(&dataset, 0..dataset.len())
}

/// Names of the folders, of which there is at least one.
fn families() -> Vec<String> {
    let folders = std::fs::read_dir(fixture("families")).expect("fixtures/families");
    let mut names: Vec<String> =
        folders.map(|folder| folder.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() > 8, "{names:?}");
    names
}

#[test]
fn every_family_gives_the_logits_losses_and_gradients_of_transformers() {
    for name in families() {
        let folder = fixture(&format!("families/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        for dtype in [DType::F32, DType::F64] {
            let model = load(&folder, dtype);
            assert_eq!(model.notes(), [""; 0], "{name}");
            let batch = sequences(&model, &expected);
            let logits = model.logits(&batch).expect("logits").to_dtype(DType::F64).expect("numbers");
            let logits: Vec<Vec<f64>> = logits.to_vec2().expect("a matrix");
            let want = expected.get("logits");
            let [length, vocabulary] = want.shape[1..] else { panic!("three axes") };
            for (m, rows) in batch.positions().iter().enumerate() {
                for (t, row) in rows.enumerate() {
                    let at = (m * length + t) * vocabulary;
                    let what = format!("{name}, {dtype:?}, logits[{m}, {t}]");
                    assert_relative(&logits[row], &want.values[at..at + vocabulary], TOLERANCE, &what);
                }
            }
            let losses = model.differentiate(&batch, Objective::TrainingLoss, &mut ()).expect("differentiable");
            assert_relative(&losses, &expected.values("loss_sum"), TOLERANCE, &format!("{name}, losses"));
            check_gradients(&name, &model, &batch, &expected, dtype);
        }
    }
}

fn check_gradients(name: &str, model: &Model, batch: &Batch, expected: &Recorded, dtype: DType) {
    let mut wide = Gradients::<f64>::new(model.layers());
    let mut narrow = Gradients::<f32>::new(model.layers());
    let sink: &mut dyn ascribe::curvature::TapSink = if dtype == DType::F64 { &mut wide } else { &mut narrow };
    model.differentiate(batch, Objective::TrainingLoss, sink).expect("differentiable");
    let mut compared = 0;
    for (l, layer) in model.layers().iter().enumerate() {
        for example in 0..2 {
            let tensor = format!("gradient.{}.{example}", layer.name);
            let Some(want) = expected.find(&tensor) else { continue };
            assert_eq!(want.shape, [layer.outputs, layer.columns()], "{name}, {tensor}");
            let found = if dtype == DType::F64 { wide.of(l, example) } else { narrow.of(l, example) };
            assert_relative(&found, &want.values, TOLERANCE, &format!("{name}, {tensor}"));
            compared += 1;
        }
    }
    // two layers of two examples; of a block with experts besides the router and three layers an expert
    let recorded = expected.names().into_iter().filter(|tensor| tensor.starts_with("gradient.")).count();
    assert!(recorded >= 4 && compared == recorded, "{name}: {compared} of {recorded} gradients");
}

#[test]
fn optimizers_number_parameters_as_named_parameters_does() {
    for name in families() {
        let folder = fixture(&format!("families/{name}"));
        let bytes = std::fs::read(folder.join("expected.safetensors")).expect("readable");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("sound");
        let recorded = header.metadata().as_ref().expect("metadata")["parameters"].clone();
        let recorded: Vec<String> = serde_json::from_str(&recorded).expect("a list of names");
        let mut sorted = recorded.clone();
        sorted.sort();
        assert_ne!(sorted, recorded, "{name}");
        let found = TorchParameters::read(&folder).expect("known");
        let found: Vec<&str> = found.list.iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(found, recorded, "{name}");
    }
}
