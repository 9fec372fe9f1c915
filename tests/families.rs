//! Every checkpoint of fixtures/families against what transformers computed of it (fixtures/README.md): logits, losses
//! and gradients with random weights and sequences longer than the windows.

mod support;

use std::io::Cursor;
use std::path::Path;

use ascribe::data::{self, Batch, DataOptions, Format, Role, read_tokens_from};
use ascribe::model::{Limits, Model};
use ascribe::trajectory::torch_parameters::TorchParameters;
use candle_core::DType;
use serde_json::json;
use support::agreement::{Agreement, folders_of, same_parameters};
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
    // of an encoder and a decoder, and of masked tokens
    let more = ["labels", "token_type_ids"].map(|field| (field, rows(field)));
    let line = |m: usize| {
        let mut line = json!({"input_ids": ids[m], "attention_mask": mask[m]});
        for (field, rows) in &more {
            if let Some(rows) = rows {
                line[*field] = json!(rows[m]);
            }
        }
        line.to_string()
    };
    let lines: Vec<String> = (0..ids.len()).map(line).collect();
    let Limits::Tokens(limits) = model.limits() else { panic!("a language model") };
    let (name, options) = (Path::new("lines.jsonl"), DataOptions::default());
    let text = Cursor::new(lines.join("\n"));
    let read = read_tokens_from(text, name, Format::JsonLines, Role::Train, None, limits, options);
    let dataset = read.expect("tokens").0;
    data::batch(&dataset, 0..dataset.len())
}

#[test]
fn every_family_gives_the_logits_losses_and_gradients_of_transformers() {
    for name in folders_of("families") {
        let folder = fixture(&format!("families/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        for dtype in [DType::F32, DType::F64] {
            let model = load(&folder, dtype);
            assert_eq!(model.notes(), [""; 0], "{name}");
            let batch = sequences(&model, &expected);
            let mut agreement = Agreement::new("families", &name, dtype);
            agreement.logits(&model, &batch, &expected, TOLERANCE);
            agreement.losses(&model, &batch, &expected.values("loss_sum"), TOLERANCE);
            let compared = agreement.gradients(&model, &batch, &expected, TOLERANCE).len();
            // two layers of two examples; of a block with experts besides the router and three layers an expert
            let recorded = expected.names().into_iter().filter(|tensor| tensor.starts_with("gradient.")).count();
            assert!(recorded >= 4 && compared == recorded, "{name}: {compared} of {recorded} gradients");
            agreement.report();
        }
    }
}

#[test]
fn optimizers_number_parameters_as_named_parameters_does() {
    for name in folders_of("families") {
        let folder = fixture(&format!("families/{name}"));
        let found = TorchParameters::read(&folder).expect("known");
        let found: Vec<&str> = found.list.iter().map(|parameter| parameter.name.as_str()).collect();
        assert!(!found.is_sorted(), "{name}");
        same_parameters("families", &name, &folder, &found);
    }
}
