//! Every checkpoint of fixtures/classifiers against what transformers computed of it (fixtures/README.md): logits, losses
//! and gradients of classes, several labels and regressions, with random weights, windows and tokens that are padding.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use crate::support::agreement::{Agreement, folders_of, logits, same_parameters};
use crate::support::editable::check_directions;
use crate::support::figures::assert_relative;
use crate::support::passes::{BATCH, Batched, Run};
use crate::support::recorded::Recorded;
use crate::support::{Outcome, fixture, load, load_layers, selection};
use ascribe::Hint;
use ascribe::curvature::{CurvatureKind, Measurement, Network};
use ascribe::data::{self, Columns, DataOptions, Dataset, Format, Labels, Role, Task, read_tokens_from};
use ascribe::model::{AlsoTracked, Limits, LoadOptions, Model};
use ascribe::trajectory::torch_parameters::TorchParameters;
use candle_core::DType;
use serde_json::{Value, json};

/// Transformers keeps norms and rotary angles in f32 even where weights are f64.
const TOLERANCE: f64 = 1e-4;

/// The recorded texts with their labels, in this order.
fn texts(model: &Model, expected: &Recorded, order: &[usize]) -> Dataset {
    let whole = |name: &str, row: usize| {
        let found = expected.find(name)?;
        let width = found.shape[1];
        Some(found.values[row * width..(row + 1) * width].iter().map(|&x| x as u32).collect::<Vec<_>>())
    };
    let labels = model.labels().expect("a classifier");
    let recorded = expected.get("labels");
    let task = labels.task.unwrap_or(Task::Classification);
    let label = |row: usize| match task {
        Task::Classification => json!(recorded.values[row] as u32),
        _ => json!(recorded.values[row * labels.outputs..(row + 1) * labels.outputs]),
    };
    let line = |&row: &usize| {
        let mut line = json!({
            "input_ids": whole("input_ids", row),
            "attention_mask": whole("attention_mask", row),
            "label": label(row),
        });
        if let Some(types) = whole("token_type_ids", row) {
            line["token_type_ids"] = json!(types);
        }
        line.to_string()
    };
    let lines: Vec<String> = order.iter().map(line).collect();
    let Limits::Tokens(limits) = model.limits() else { panic!("a model of tokens") };
    let labels = Some(Arc::new(Labels { task: Some(task), ..Labels::clone(labels) }));
    let (name, options) = (Path::new("lines.jsonl"), DataOptions { labels, ..DataOptions::default() });
    let text = Cursor::new(lines.join("\n"));
    read_tokens_from(text, name, Format::JsonLines, Role::Train, None, limits, options).expect("labelled tokens").0
}

#[test]
fn every_classifier_gives_the_logits_losses_and_gradients_of_transformers() {
    for name in folders_of("classifiers") {
        let folder = fixture(&format!("classifiers/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        for dtype in [DType::F32, DType::F64] {
            let model = load(&folder, dtype);
            let unknown = |note: &&String| note.contains("not used") || note.contains("left out");
            assert_eq!(model.notes().iter().find(unknown), None, "{name}");
            let dataset = texts(&model, &expected, &[0, 1, 2]);
            let batch = data::batch(&dataset, 0..3);
            let mut agreement = Agreement::new("classifiers", &name, dtype);
            agreement.logits(&model, &batch, &expected, TOLERANCE);
            agreement.losses(&model, &batch, &expected.values("loss"), TOLERANCE);
            assert!(agreement.gradients(&model, &batch, &expected, TOLERANCE).len() >= 3, "{name}");
            // every layer outside the blocks that the fixture has, tracked by its name
            let outside: Vec<String> = outer_layers(&expected);
            let patterns: Vec<&str> = outside.iter().map(String::as_str).collect();
            let whole = load_layers(&folder, dtype, &patterns);
            assert_eq!(whole.layers().len(), outside.len(), "{name}");
            assert!(agreement.gradients(&whole, &batch, &expected, TOLERANCE).len() >= 3, "{name}");
            agreement.report();
        }
    }
}

/// The layers of the blocks and the vectors of norms at once, then the layers of the head.
/// Layers of queries and keys read the embeddings of distances too, each a row of their covariances: scores by gradient
/// products and EK-FAC against kronfluence where these rows have layers of their own, and against PyTorch where they share
/// them, which kronfluence does not compute.
#[test]
fn deberta_has_the_scores_of_kronfluence() -> Outcome {
    for (name, layers) in [("deberta-v2", 12), ("deberta-v2-multi-label", 16)] {
        let expected = Recorded::open(&fixture(&format!("deberta-scores/{name}.safetensors")));
        let shape = expected.get("identity").shape.clone();
        let (queries, train) = (shape[0], shape[1]);
        for dtype in [DType::F32, DType::F64] {
            let model = load(&fixture(&format!("classifiers/{name}")), dtype);
            assert_eq!(model.layers().len(), layers, "{name}");
            let all = texts(&model, &expected, &(0..train + queries).collect::<Vec<_>>());
            let mut agreement = Agreement::new("classifiers", name, dtype);
            agreement.losses(&model, &data::batch(&all, 0..all.len()), &expected.values("loss"), 1e-5);
            let of = |rows: std::ops::Range<usize>| texts(&model, &expected, &rows.collect::<Vec<_>>());
            let (own, asked) = (of(0..train), of(train..train + queries));
            let (own, asked) = (&Batched(&own, BATCH), &Batched(&asked, BATCH));
            for (kind, figure, tensor, tolerance) in [
                (CurvatureKind::Identity, "products", "identity", 1e-5),
                (CurvatureKind::Ekfac, "ekfac", "ekfac", 1e-4),
            ] {
                let run = Run::empirical(kind, Measurement::Loss);
                let found = match dtype {
                    DType::F64 => run.scores::<_, f64>(&model, own, asked)?.wide(),
                    _ => run.scores::<_, f32>(&model, own, asked)?.wide(),
                };
                // scores are per example of the training set
                let want: Vec<f64> = expected.values(tensor).iter().map(|score| score / train as f64).collect();
                agreement.compare(figure, &found, &want, tolerance, tensor);
            }
            agreement.report();
        }
    }
    Ok(())
}

#[test]
fn gradients_of_classifiers_are_the_slopes_of_losses_in_random_directions() {
    for name in folders_of("classifiers") {
        let folder = fixture(&format!("classifiers/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let outside = outer_layers(&expected);
        let head: Vec<&str> = outside.iter().map(String::as_str).collect();
        let mut also = vec![AlsoTracked::Embeddings];
        also.extend((name != "olmo").then_some(AlsoTracked::Norms));
        for selection in [selection(&[]).and(&also), selection(&head)] {
            let batch = |model: &Model| data::batch(&texts(model, &expected, &[0, 1, 2]), 0..3);
            check_directions(["classifiers", &name], &folder, &selection, batch);
        }
    }
}

/// Layers outside the blocks among those whose gradients are recorded: no number stands in their names, but for that of a
/// group of channels.
fn outer_layers(expected: &Recorded) -> Vec<String> {
    let names = expected.names();
    let layer = |name: &String| Some(name.strip_prefix("gradient.")?.strip_suffix(".0")?.to_owned());
    let module = |layer: &String| layer.split_once(".group.").map_or(layer.clone(), |(module, _)| module.to_owned());
    let inside = |layer: &String| module(layer).split('.').any(|part| part.parse::<usize>().is_ok());
    names.iter().filter_map(layer).filter(|layer| !inside(layer)).collect()
}

/// What stands beside a text in a batch changes nothing of it.
#[test]
fn texts_of_a_batch_give_what_each_gives_alone() {
    for name in folders_of("classifiers") {
        let folder = fixture(&format!("classifiers/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let model = load(&folder, DType::F64);
        let dataset = texts(&model, &expected, &[2, 0, 1, 0]);
        let together = logits(&model, &data::batch(&dataset, 0..4));
        let alone: Vec<f64> = (0..4).flat_map(|m| logits(&model, &data::batch(&dataset, m..m + 1))).collect();
        assert_relative(&together, &alone, 1e-13, &name);
    }
}

#[test]
fn optimizers_number_parameters_of_classifiers_as_named_parameters_does() {
    for name in folders_of("classifiers") {
        let folder = fixture(&format!("classifiers/{name}"));
        let found = TorchParameters::read(&folder).expect("known");
        let found: Vec<&str> = found.list.iter().map(|parameter| parameter.name.as_str()).collect();
        same_parameters("classifiers", &name, &folder, &found);
    }
}

/// Without `problem_type` integers are classes, lists are several labels, and one output is a regression.
#[test]
fn what_labels_mean_is_decided_as_transformers_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("train.jsonl");
    let labels = |outputs, task| Labels { outputs, task, names: vec![], token_types: None, end: None };
    let decided = |line: Value, of: Labels| {
        std::fs::write(&file, format!("\n{line}\n")).expect("written");
        of.decided(&file, &Columns::default()).task
    };
    assert_eq!(decided(json!({"label": 1}), labels(3, None)), Some(Task::Classification));
    assert_eq!(decided(json!({"label": "no"}), labels(3, None)), Some(Task::Classification));
    assert_eq!(decided(json!({"label": null, "labels": [1.0, 0.0, 1.0]}), labels(3, None)), Some(Task::MultiLabel));
    assert_eq!(decided(json!({"label": [1, 2, 3]}), labels(3, Some(Task::Regression))), Some(Task::Regression));
    let config = fixture("classifiers/gpt2-reward");
    let model = load(&config, DType::F32);
    assert_eq!(model.labels().and_then(|labels| labels.task), Some(Task::Regression));
    assert!(model.notes().iter().any(|note| note.contains("a regression, as transformers decides")));
}

/// Another head is refused by the name of its class, with those that are read.
#[test]
fn other_heads_are_refused_by_class() {
    let from = fixture("classifiers/bert");
    let folder = tempfile::tempdir().expect("a folder");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(from.join("config.json")).expect("readable")).expect("JSON");
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    let mut refused = |class: &str| {
        config["architectures"] = json!([class]);
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        Model::load(folder.path(), &LoadOptions::default()).expect_err("not a classifier")
    };
    let error = refused("BertForPreTraining");
    assert!(error.to_string().contains("BertForPreTraining"), "{error}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("`BertForSequenceClassification` or `BertForMaskedLM`"), "{hint}");
    // a classifier's weights are none of a masked language model
    let error = refused("BertForMaskedLM").to_string();
    assert!(error.to_string().contains("`cls.predictions.transform.LayerNorm.bias`"), "{error}");
}
