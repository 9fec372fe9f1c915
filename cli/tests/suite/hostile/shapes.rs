//! Labels of classifiers and sizes of images out of reason.

use std::fs;

use serde_json::{Value, json};

use crate::hostile::models::config;
use crate::hostile::runner::{Case, words};
use crate::support::Folder;

/// A copy of a fixture with these keys, `null` to leave one out; gives its folder.
fn changed(folder: &Folder, fixture: &str, keys: &[(&str, Value)]) -> String {
    let model = folder.copy_of(fixture);
    let mut config = config(fixture);
    for (key, value) in keys {
        match value {
            Value::Null => drop(config.as_object_mut().expect("an object").remove(*key)),
            value => config[*key] = value.clone(),
        }
    }
    fs::write(folder.path(fixture).join("config.json"), config.to_string()).expect("writable");
    model
}

/// A classifier of texts, whose number of outputs is said in this way alone.
fn labels(name: &str, named: &str, key: &'static str, value: Value) -> Case {
    Case::refused(format!("labels: {name}"), "config.json", move |folder| {
        let none = ["id2label", "label2id", "num_labels"].map(|key| (key, Value::Null));
        let model = changed(folder, "classifiers/bert", &[&none[..], &[(key, value.clone())]].concat());
        let data = folder.write("train.jsonl", "{\"input_ids\": [1, 2, 3], \"label\": 0}\n");
        words(&format!("influence --model {model} --train {data} --queries {data} --out RUN --dry-run"))
    })
    .and(named)
}

fn image(fixture: &'static str, key: &'static str, value: Value) -> Case {
    Case::refused(format!("{fixture}: {key} = {value}"), "config.json", move |folder| {
        words(&format!("inspect {}", changed(folder, fixture, &[(key, value.clone())])))
    })
}

/// Training images of this shape, all zero.
fn pixels(shape: [usize; 4]) -> Case {
    Case::refused(format!("images of the shape {shape:?}"), "train.safetensors", move |folder| {
        let end = 4 * shape.iter().product::<usize>();
        let header = json!({
            "inputs": { "dtype": "F32", "shape": shape, "data_offsets": [0, end] },
            "targets": { "dtype": "I64", "shape": shape[..1], "data_offsets": [end, end + 8 * shape[0]] },
        });
        let header = header.to_string();
        let content = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; end + 8 * shape[0]]];
        let data = folder.write("train.safetensors", content.concat());
        words(&format!(
            "influence --model fixtures/images/vit --train {data} --queries fixtures/images/vit/query.safetensors \
             --out RUN --dry-run"
        ))
    })
}

pub fn cases() -> Vec<Case> {
    let million: serde_json::Map<_, _> = (0..1_000_000).map(|k: u64| (k.to_string(), json!(format!("L{k}")))).collect();
    vec![
        labels("fewer than none", "num_labels", "num_labels", json!(-3)),
        labels("10^12", "num_labels", "num_labels", json!(1_000_000_000_000_u64)),
        labels("none", "num_labels", "num_labels", json!(0)),
        labels("true", "num_labels", "num_labels", json!(true)),
        labels("a million names", "16 MiB", "id2label", Value::Object(million)),
        labels("a list of names", "id2label", "id2label", json!(["a", "b"])),
        labels("a kind that steers a terminal", "problem_type", "problem_type", json!("\u{1b}[31m\u{202e}")),
        Case::done("labels: names that steer a terminal", "a checkpoint of `bert`", |folder| {
            let names = json!({ "0": "a\u{1b}[2J\nerror: forged", "1": "b\u{202e}", "2": "c\r" });
            words(&format!("inspect {}", changed(folder, "classifiers/bert", &[("id2label", names)])))
        }),
        image("images/vit", "patch_size", json!(0)),
        image("images/vit", "patch_size", json!(-2)),
        image("images/vit", "image_size", json!(0)),
        image("images/vit", "image_size", json!(1_000_000_000)),
        image("images/vit", "num_channels", json!(0)),
        image("images/resnet", "depths", json!([1_000_000_000, 1_000_000_000, 1_000_000_000, 1_000_000_000])),
        image("images/resnet", "hidden_sizes", json!([0, 0])),
        image("images/resnet", "hidden_sizes", json!([])),
        image("images/cnn", "image_size", json!([65_537, 8])),
        image("images/cnn", "num_channels", json!(4_294_967_296_u64)),
        image("images/cnn", "modules", json!([{"type": "conv2d", "name": "0.0", "padding": 1e18}])),
        pixels([4, 3, 0, 0]),
        pixels([0, 3, 8, 13]),
        pixels([2, 1, 8, 13]),
    ]
}
