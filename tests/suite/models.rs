//! Logits, losses and gradients of every architecture against numbers that PyTorch recorded
//! (fixtures/README.md), against finite differences, and against what candle-transformers computed.

use std::io::Cursor;
use std::path::Path;

use crate::support::editable::Editable;
use crate::support::figures::{assert_absolute, assert_relative, largest};
use crate::support::passes::Gradients;
use crate::support::recorded::Recorded;
use crate::support::{Outcome, Source, fixture, load, open, shared};
use ascribe::curvature::{Measurement, Network, Objective, Reduction};
use ascribe::data::{self, Batch, DataOptions, Dataset, Format, Role, Which, read_tokens_from};
use ascribe::model::{Limits, Model};
use candle_core::DType;
use serde_json::{Value, json};

const LANGUAGE_MODELS: [&str; 3] = ["gpt2-tiny", "llama-tiny", "llama-tiny-llama3rope"];

/// JSON lines of tokens, read for a model.
fn tokens(model: &Model, lines: &[Value]) -> Dataset {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    let Limits::Tokens(limits) = model.limits() else { panic!("a language model") };
    let (name, options) = (Path::new("lines.jsonl"), DataOptions::default());
    let text = Cursor::new(text.join("\n"));
    read_tokens_from(text, name, Format::JsonLines, Role::Train, None, limits, options).expect("tokens").0
}

fn whole(dataset: &Dataset) -> Batch {
    data::batch(dataset, 0..dataset.len())
}

fn values(model: &Model, batch: &Batch, objective: Objective) -> Vec<f64> {
    model.differentiate(batch, objective, &mut ()).expect("differentiable")
}

fn logits(model: &Model, batch: &Batch) -> Vec<Vec<f64>> {
    let logits = model.logits(batch).expect("logits").to_dtype(DType::F64).expect("numbers");
    logits.to_vec2().expect("a matrix")
}

/// The recorded sequences: padded `input_ids` and `attention_mask` as rows.
fn sequences(expected: &Recorded) -> Vec<(Vec<u32>, Vec<u32>)> {
    let (ids, mask) = (expected.get("input_ids"), expected.get("attention_mask"));
    let length = ids.shape[1];
    let rows = |x: &[f64]| x.chunks(length).map(|row| row.iter().map(|&x| x as u32).collect()).collect::<Vec<_>>();
    rows(&ids.values).into_iter().zip(rows(&mask.values)).collect()
}

/// Logits and the loss of every single token of the recorded sequences.
fn check_sequences(model: &Model, expected: &Recorded, suffix: &str, tolerance: f64) {
    let sequences = sequences(expected);
    let lines: Vec<Value> =
        sequences.iter().map(|(ids, mask)| json!({"input_ids": ids, "attention_mask": mask})).collect();
    let dataset = tokens(model, &lines);
    let batch = whole(&dataset);
    let found = logits(model, &batch);
    let want = expected.get("logits");
    let [length, vocabulary] = want.shape[1..] else { panic!("three axes") };
    for (m, rows) in batch.positions().iter().enumerate() {
        for (t, row) in rows.enumerate() {
            let at = (m * length + t) * vocabulary;
            assert_absolute(&found[row], &want.values[at..at + vocabulary], 1e-4, &format!("logits[{m}, {t}]"));
        }
    }
    let sums = values(model, &batch, Objective::TrainingLoss);
    assert_relative(&sums, &expected.values(&format!("loss_sum{suffix}")), tolerance, "loss_sum");
    // one example for every target: the sequence with that label alone
    let want = expected.get(&format!("token_loss{suffix}"));
    let mut single = vec![];
    let mut wanted = vec![];
    for (m, (ids, mask)) in sequences.iter().enumerate() {
        for t in 1..ids.len() {
            let loss = want.values[m * want.shape[1] + t - 1];
            if mask[t] == 0 {
                assert_eq!(loss, 0.0, "no loss at padding");
                continue;
            }
            let labels: Vec<i64> = (0..ids.len()).map(|k| if k == t { i64::from(ids[k]) } else { -100 }).collect();
            single.push(json!({"input_ids": ids, "attention_mask": mask, "labels": labels}));
            wanted.push(loss);
        }
    }
    let found = values(model, &whole(&tokens(model, &single)), Objective::TrainingLoss);
    assert_relative(&found, &wanted, tolerance, "token_loss");
}

/// The summed losses and numbers of targets of the first examples of a set.
fn check_losses(model: &Model, dataset: &Dataset, expected: &Recorded, names: [&str; 2], suffix: &str, tolerance: f64) {
    let want = expected.values(&format!("{}{suffix}", names[0]));
    let count = want.len();
    let found = values(model, &data::batch(dataset, 0..count), Objective::TrainingLoss);
    assert_relative(&found, &want, tolerance, names[0]);
    let data::Kind::Tokens(sequences) = dataset.kind() else { panic!("a language model") };
    let targets: Vec<f64> = (0..count).map(|i| sequences.targets(i) as f64).collect();
    assert_eq!(targets, expected.values(names[1]), "{}", names[1]);
}

/// Recorded gradients of the first examples, by layer. How many were compared.
fn check_gradients(model: &Model, train: &Dataset, expected: &Recorded, suffix: &str, tolerance: f64) -> usize {
    let mut sink = Gradients::<f64>::new(model.layers());
    let mut sink32 = Gradients::<f32>::new(model.layers());
    let batch = data::batch(train, 0..2);
    let dtype = model.logits(&batch).expect("logits").dtype();
    let sinks: &mut dyn ascribe::curvature::TapSink = if dtype == DType::F64 { &mut sink } else { &mut sink32 };
    model.differentiate(&batch, Objective::TrainingLoss, sinks).expect("differentiable");
    let mut compared = 0;
    for (l, layer) in model.layers().iter().enumerate() {
        for example in 0..2 {
            let name = format!("gradient.{}.{example}{suffix}", layer.name);
            let Some(want) = expected.find(&name) else { continue };
            assert_eq!(want.shape, [layer.outputs, layer.columns()], "{name}");
            let found = if dtype == DType::F64 { sink.of(l, example) } else { sink32.of(l, example) };
            assert_relative(&found, &want.values, tolerance, &name);
            compared += 1;
        }
    }
    compared
}

#[test]
fn language_models_give_the_logits_and_losses_of_pytorch() {
    for name in LANGUAGE_MODELS {
        let fixture_of = open(name, DType::F32);
        let expected = Recorded::open(&fixture(&format!("{name}/expected.safetensors")));
        // f32 against f32: two roundings of about 40 blocks' worth of sums
        check_sequences(&fixture_of.model, &expected, "", 1e-5);
        let train = ["train_loss_sum_first16", "train_tokens_first16"];
        check_losses(&fixture_of.model, &fixture_of.train, &expected, train, "", 1e-5);
        if expected.find("query_loss_sum").is_some() {
            let [queries, documents] = [["query_loss_sum", "query_tokens"], ["document_loss_sum", "document_tokens"]];
            check_losses(&fixture_of.model, &fixture_of.queries, &expected, queries, "", 1e-5);
            let folder = fixture("gpt2-tiny");
            let source = Source::new(folder.join("documents.jsonl"), Role::Queries, &folder);
            check_losses(&fixture_of.model, &source.read(&fixture_of.model), &expected, documents, "", 1e-5);
        }
    }
}

#[test]
fn losses_in_f64_are_those_of_pytorch_in_f64() {
    for name in ["gpt2-tiny", "llama-tiny"] {
        let fixture_of = open(name, DType::F64);
        let expected = Recorded::open(&fixture(&format!("{name}/expected.safetensors")));
        check_sequences(&fixture_of.model, &expected, "_f64", 1e-11);
        let train = ["train_loss_sum_first16", "train_tokens_first16"];
        check_losses(&fixture_of.model, &fixture_of.train, &expected, train, "_f64", 1e-11);
        let queries = ["query_loss_sum", "query_tokens"];
        check_losses(&fixture_of.model, &fixture_of.queries, &expected, queries, "_f64", 1e-11);
    }
}

#[test]
fn gradients_of_every_layer_are_those_of_pytorch() {
    for (name, layers) in [("gpt2-tiny", 8), ("llama-tiny", 14), ("llama-tiny-llama3rope", 14)] {
        let fixture_of = open(name, DType::F32);
        let expected = Recorded::open(&fixture(&format!("{name}/expected.safetensors")));
        assert_eq!(fixture_of.model.layers().len(), layers, "{name}");
        // PyTorch's own f32 gradients are off by up to 2e-5, ours by as much: both stand against f64
        let compared = check_gradients(&fixture_of.model, &fixture_of.train, &expected, "", 4e-5);
        assert_eq!(compared, 2 * layers, "{name}");
        if name != "llama-tiny-llama3rope" {
            assert_eq!(check_gradients(&fixture_of.model, &fixture_of.train, &expected, "_f64", 2e-5), layers);
            let fixture_of = open(name, DType::F64);
            assert_eq!(check_gradients(&fixture_of.model, &fixture_of.train, &expected, "_f64", 1e-9), layers);
        }
    }
}

#[test]
fn perceptrons_give_the_outputs_measurements_and_gradients_of_pytorch() {
    for (name, measured, measurement) in
        [("mlp-tiny", "margin", Measurement::Margin), ("mlp-regression", "prediction", Measurement::Prediction)]
    {
        let expected = Recorded::open(&fixture(&format!("{name}/expected.safetensors")));
        // bytes times their scale are rounded to f32 before any network sees them; PyTorch's f64 run did not
        let exact = if name == "mlp-tiny" { 1e-6 } else { 1e-12 };
        for (dtype, suffix, tolerance) in
            [(DType::F32, "", 1e-5), (DType::F32, "_f64", 1e-5), (DType::F64, "_f64", exact)]
        {
            let fixture_of = open(name, dtype);
            let model = &fixture_of.model;
            for (set, first, batch) in [
                ("train", "_first16", data::batch(&fixture_of.train, 0..16)),
                ("query", "", whole(&fixture_of.queries)),
            ] {
                let record = |what: &str| expected.values(&format!("{set}_{what}{first}{suffix}"));
                assert_absolute(&logits(model, &batch).concat(), &record("logits"), 10.0 * tolerance, name);
                let losses = values(model, &batch, Objective::TrainingLoss);
                assert_relative(&losses, &record("loss_sum"), tolerance, name);
                let objective = Objective::Measurement(measurement, Reduction::Sum);
                assert_relative(&values(model, &batch, objective), &record(measured), tolerance, name);
            }
            let tolerance = if dtype == DType::F32 { 2e-5 } else { tolerance };
            assert_eq!(check_gradients(model, &fixture_of.train, &expected, suffix, tolerance), 6);
        }
    }
}

#[test]
fn larger_checkpoints_give_the_logits_and_losses_of_pytorch() {
    let Some(corpus) = shared("gpt2-mini") else { return };
    for (name, checkpoint) in [("gpt2-mini", "checkpoint-2520"), ("llama-mini", "checkpoint-300")] {
        let Some(folder) = shared(name) else { continue };
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let model = load(&folder.join(checkpoint), DType::F32);
        check_sequences(&model, &expected, "", 1e-5);
        for (file, names, role, add_eos) in [
            ("train.jsonl", ["train_loss_sum_first32", "train_tokens_first32"], Role::Train, Which::Both),
            ("query.jsonl", ["query_loss_sum", "query_tokens"], Role::Queries, Which::Both),
            // a question ends with its completion
            ("facts.jsonl", ["fact_loss_sum", "fact_tokens"], Role::Queries, Which::Train),
        ] {
            let tokenizer = corpus.join("tokenizer");
            let source = Source { add_eos, max_length: Some(128), ..Source::new(corpus.join(file), role, &tokenizer) };
            // answers cost tenths of a nat: small differences of logits of about 20 in f32
            let tolerance = if file == "facts.jsonl" { 5e-5 } else { 1e-5 };
            check_losses(&model, &source.read(&model), &expected, names, "", tolerance);
        }
    }
}

/// The largest entry of a gradient, two arbitrary ones, and one of the bias column if there is one.
fn probes(gradient: &[f64], layer: &ascribe::curvature::LayerSpec, salt: usize) -> Vec<(usize, usize)> {
    let columns = layer.columns();
    let top = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).expect("not empty");
    let mut places = vec![top, (salt * 7919 + 13) % gradient.len(), (salt * 104_729 + 57) % gradient.len()];
    if layer.bias {
        places.push((salt % layer.outputs) * columns + columns - 1);
    }
    places.into_iter().map(|place| (place / columns, place % columns)).collect()
}

/// Analytic gradients of the batch's summed objectives against central differences of the reported
/// values, with the weights changed in the file.
fn check_differences(name: &str, batch: &Batch, objectives: &[Objective]) {
    // about ε^(1/3) of weights of order 0.1 to 1; losses of order 100 leave 1e-14·100/1e-5 = 1e-7 of rounding
    const STEP: f64 = 1e-5;
    let mut checkpoint = Editable::read(&fixture(name));
    let folder = tempfile::tempdir().expect("a folder");
    checkpoint.write(folder.path());
    let model = load(folder.path(), DType::F64);
    let layers = model.layers().to_vec();
    let gradients: Vec<Vec<Vec<f64>>> = objectives
        .iter()
        .map(|&objective| {
            let mut sink = Gradients::<f64>::new(&layers);
            model.differentiate(batch, objective, &mut sink).expect("differentiable");
            let sum = |l: usize| {
                let mut sum = vec![0.0; layers[l].parameters()];
                for example in 0..batch.keys().len() {
                    sum.iter_mut().zip(sink.of(l, example)).for_each(|(sum, g)| *sum += g);
                }
                sum
            };
            (0..layers.len()).map(sum).collect()
        })
        .collect();
    drop(model);
    for (l, layer) in layers.iter().enumerate() {
        for (o, i) in probes(&gradients[0][l], layer, l + 1) {
            let (tensor, place) = checkpoint.place(layer, o, i);
            let mut sums = vec![];
            let before = checkpoint.tensors[&tensor].1[place];
            for step in [STEP, -STEP] {
                checkpoint.tensors.get_mut(&tensor).expect("a tensor").1[place] = before + step;
                checkpoint.write(folder.path());
                let model = load(folder.path(), DType::F64);
                sums.push(objectives.iter().map(|&o| values(&model, batch, o).iter().sum()).collect::<Vec<f64>>());
            }
            checkpoint.tensors.get_mut(&tensor).expect("a tensor").1[place] = before;
            for (k, objective) in objectives.iter().enumerate() {
                // taps hold the gradient of the cost -κ f, values are f
                let sign = match objective {
                    Objective::Measurement(measurement, _) => -measurement.orientation(),
                    _ => 1.0,
                };
                let want = sign * (sums[0][k] - sums[1][k]) / (2.0 * STEP);
                let gradient = &gradients[k][l];
                let found = gradient[o * layer.columns() + i];
                let error = (found - want).abs() / largest(gradient);
                assert!(error < 1e-6, "{name}, {} [{o}, {i}], {objective:?}: {found} {want}, {error:.1e}", layer.name);
            }
        }
    }
}

#[test]
fn gradients_of_language_models_are_finite_differences() {
    for name in LANGUAGE_MODELS {
        let expected = Recorded::open(&fixture(&format!("{name}/expected.safetensors")));
        let model = load(&fixture(name), DType::F64);
        let lines: Vec<Value> =
            sequences(&expected).iter().map(|(ids, mask)| json!({"input_ids": ids, "attention_mask": mask})).collect();
        let batch = whole(&tokens(&model, &lines));
        let margin = Objective::Measurement(Measurement::Margin, Reduction::Mean);
        check_differences(name, &batch, &[Objective::TrainingLoss, margin]);
    }
}

/// Twenty tokens of a prompt and one of a completion: every row of the prompt has a gradient, not the last alone.
#[test]
fn gradients_of_a_long_prompt_with_a_completion_of_one_token_are_finite_differences() {
    for name in ["gpt2-tiny", "llama-tiny"] {
        let model = load(&fixture(name), DType::F64);
        let ids: Vec<usize> = (0..21).map(|k| 3 + 11 * k % 40).collect();
        let labels: Vec<i64> = (0..21).map(|k| if k < 20 { -100 } else { ids[20] as i64 }).collect();
        let data = tokens(&model, &[json!({"input_ids": ids, "labels": labels})]);
        let batch = whole(&data);
        check_differences(name, &batch, &[Objective::TrainingLoss]);
    }
}

/// An encoder and a decoder, with the head tied and scaled, and apart.
#[test]
fn gradients_of_encoder_decoders_are_finite_differences() {
    for name in ["families/t5", "families/mt5"] {
        let model = load(&fixture(name), DType::F64);
        let lines = [
            json!({"input_ids": [5, 9, 14, 3, 22], "labels": [40, 7, -100, 11]}),
            json!({"input_ids": [31, 8], "labels": [6, 6, 2]}),
        ];
        let batch = whole(&tokens(&model, &lines));
        let margin = Objective::Measurement(Measurement::Margin, Reduction::Mean);
        check_differences(name, &batch, &[Objective::TrainingLoss, margin]);
    }
}

/// Masked tokens, at the head's own layer too: texts of a pair, and a head that is tied or not.
#[test]
fn gradients_of_masked_language_models_are_finite_differences() {
    let deberta = ["deberta-v2-masked", "deberta-v2-masked-published", "deberta-v2-masked-own"];
    let others = ["bert-masked", "bert-masked-untied", "xlm-roberta-masked", "distilbert-masked", "modernbert-masked"];
    for name in others.into_iter().chain(deberta) {
        let name = format!("families/{name}");
        let model = load(&fixture(&name), DType::F64);
        let types = if name.contains("/bert") || name.ends_with("-own") { [0, 0, 0, 1, 1] } else { [0; 5] };
        let lines = [
            json!({"input_ids": [4, 9, 14, 4, 22], "labels": [40, -100, -100, 11, -100], "token_type_ids": types}),
            json!({"input_ids": [31, 4], "labels": [-100, 6]}),
        ];
        let batch = whole(&tokens(&model, &lines));
        let margin = Objective::Measurement(Measurement::Margin, Reduction::Mean);
        check_differences(&name, &batch, &[Objective::TrainingLoss, margin]);
    }
}

#[test]
fn gradients_of_perceptrons_are_finite_differences() {
    for (name, measurement) in [("mlp-tiny", Measurement::Margin), ("mlp-regression", Measurement::Prediction)] {
        let fixture_of = open(name, DType::F64);
        let batch = data::batch(&fixture_of.train, 0..5);
        let measured = Objective::Measurement(measurement, Reduction::Sum);
        check_differences(name, &batch, &[Objective::TrainingLoss, measured]);
    }
}

#[test]
fn a_tracked_head_has_the_gradient_of_its_copy_of_the_weights() {
    // an untied head is a layer like any other; the embedding stays as it is
    let fixture_of = crate::support::open_layers("llama-tiny", DType::F64, &["lm_head"]);
    let (model, batch) = (&fixture_of.model, data::batch(&fixture_of.train, 0..1));
    let mut sink = Gradients::<f64>::new(model.layers());
    model.differentiate(&batch, Objective::TrainingLoss, &mut sink).expect("differentiable");
    let gradient = sink.of(0, 0);
    let mut checkpoint = Editable::read(&fixture("llama-tiny"));
    let folder = tempfile::tempdir().expect("a folder");
    let top = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).expect("numbers");
    let mut losses = vec![];
    let before = checkpoint.tensors["lm_head.weight"].1[top];
    for step in [1e-5, -1e-5] {
        checkpoint.tensors.get_mut("lm_head.weight").expect("untied").1[top] = before + step;
        checkpoint.write(folder.path());
        losses.push(values(&load(folder.path(), DType::F64), &batch, Objective::TrainingLoss)[0]);
    }
    let want = (losses[0] - losses[1]) / 2e-5;
    assert!((gradient[top] - want).abs() < 1e-6 * want.abs(), "{} {want}", gradient[top]);
}

/// The last position's logits of each prompt are those that candle-transformers computed (`fixtures/candle-logits`).
fn check_candle_logits(model: &Model, name: &str) {
    let recorded = Recorded::open(&fixture("candle-logits/logits.safetensors"));
    for length in [2, 17, 60] {
        let ids: Vec<u32> = (0..length).map(|t| (t * t * 31 + 7 * t + 3) % 512).collect();
        let batch = whole(&tokens(model, &[json!({"input_ids": ids})]));
        let found = logits(model, &batch);
        let want = &recorded.get(&format!("{name}.{length}")).values;
        assert_absolute(found.last().expect("rows"), want, 1e-4, &format!("{name}, {length} tokens"));
    }
}

#[test]
fn llama_gives_the_logits_of_candle_transformers() -> Outcome {
    let plain = std::fs::read(fixture("llama-tiny/config.json"))?;
    let mut scaled: Value = serde_json::from_slice(&plain)?;
    // candle reads transformers 4's spelling
    scaled.as_object_mut().expect("an object").remove("rope_parameters");
    scaled["rope_theta"] = json!(500.0);
    scaled["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16
    });
    for (name, config) in [("llama", plain), ("llama_scaled", scaled.to_string().into_bytes())] {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("config.json"), &config)?;
        std::fs::copy(fixture("llama-tiny/model.safetensors"), folder.path().join("model.safetensors"))?;
        check_candle_logits(&load(folder.path(), DType::F32), name);
    }
    Ok(())
}

#[test]
fn gpt2_with_one_head_gives_the_logits_of_candle_transformers() -> Outcome {
    let mut checkpoint = Editable::read(&fixture("gpt2-tiny"));
    let mut config: Value = serde_json::from_slice(&checkpoint.config)?;
    config["n_head"] = json!(1);
    checkpoint.config = config.to_string().into_bytes();
    let folder = tempfile::tempdir()?;
    checkpoint.write(folder.path());
    check_candle_logits(&load(folder.path(), DType::F32), "gpt2_one_head");
    Ok(())
}
