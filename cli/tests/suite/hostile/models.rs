//! Broken `config.json` files.

use std::fs;

use serde_json::{Value, json};

use crate::hostile::runner::{Case, words};
use crate::support::{Folder, root};

const QUERIES: &str = "fixtures/gpt2-tiny/queries.jsonl";
const TRAIN: &str = "fixtures/gpt2-tiny/train.jsonl";

/// The dry run of a language model on the fixture's data.
pub fn dry_run(model: &str) -> Vec<String> {
    words(&format!("influence --model {model} --train {TRAIN} --queries {QUERIES} --out RUN --dry-run"))
}

/// A fixture's configuration.
pub fn config(fixture: &str) -> Value {
    let file = root().join("fixtures").join(fixture).join("config.json");
    serde_json::from_slice(&fs::read(file).expect("a fixture")).expect("JSON")
}

fn text(name: &str, fixture: &'static str, content: impl AsRef<[u8]> + Send + Sync + 'static) -> Case {
    Case::refused(format!("config: {name}"), "config.json", move |folder| {
        let model = folder.copy_of(fixture);
        fs::write(folder.path(fixture).join("config.json"), &content).expect("writable");
        dry_run(&model)
    })
}

fn changed(fixture: &'static str, key: &'static str, value: Value) -> Case {
    let mut changed = config(fixture);
    changed[key] = value.clone();
    let mut name = format!("{fixture} {key} = {value}");
    if name.len() > 80 {
        name = format!("{fixture} {key} is {} bytes long", name.len());
    }
    // Of an MLP the data of a language model would be refused first.
    text(&name, fixture, changed.to_string()).and(key)
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        text("empty", "gpt2-tiny", ""),
        text("no JSON", "gpt2-tiny", "\u{1b}[31mhello"),
        text("no UTF-8", "gpt2-tiny", b"{\"model_type\": \"gpt2\xff\"}".as_slice()),
        text("an array", "gpt2-tiny", "[]"),
        text("null", "gpt2-tiny", "null"),
        text("a number", "gpt2-tiny", "1e400"),
        text("cut", "gpt2-tiny", "{\"model_type\": \"gpt2\", \"n_em"),
        text("two objects", "gpt2-tiny", "{} {}"),
        text("deeply nested", "gpt2-tiny", "[".repeat(100_000)),
        text("no model_type", "gpt2-tiny", "{}").and("model_type"),
        text("model_type is a number", "gpt2-tiny", "{\"model_type\": 2}").and("model_type"),
        text(
            "model_type with escape sequences",
            "gpt2-tiny",
            json!({"model_type": "\u{1b}[2J\u{202e}gpt2"}).to_string(),
        ),
        text(
            "model_type that forges an error",
            "gpt2-tiny",
            json!({"model_type": "x\nerror: all is lost\nhint: \r"}).to_string(),
        ),
        text("model_type of a megabyte", "gpt2-tiny", json!({"model_type": "x".repeat(1 << 20)}).to_string()),
        Case::refused("config: a folder", "config.json", |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny/config.json")).expect("there");
            fs::create_dir(folder.path("gpt2-tiny/config.json")).expect("new");
            dry_run(&model)
        }),
        Case::refused("config: absent", "config.json", |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny/config.json")).expect("there");
            dry_run(&model)
        }),
        Case::refused("config: a circle of links", "config.json", |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny/config.json")).expect("there");
            std::os::unix::fs::symlink("config.json", folder.path("gpt2-tiny/config.json")).expect("new");
            dry_run(&model)
        }),
        Case::refused("config: three gigabytes", "config.json", |folder| {
            let model = folder.copy_of("gpt2-tiny");
            let file = fs::File::create(folder.path("gpt2-tiny/config.json")).expect("writable");
            file.set_len(3 << 30).expect("sparse");
            dry_run(&model)
        }),
        Case::refused("config: a pipe", "config.json", |folder| {
            let model = folder.copy_of("gpt2-tiny");
            pipe(folder, "gpt2-tiny/config.json");
            dry_run(&model)
        }),
        Case::refused("model: no such folder", "nowhere", |folder| dry_run(&folder.arg("nowhere"))),
        Case::refused("model: a name that forges an error", "nowhere", |folder| {
            let mut arguments = dry_run("MODEL");
            arguments[2] = folder.arg("nowhere\nerror: forged\u{1b}[1m");
            arguments
        }),
    ];
    for (key, values) in [
        (
            "n_embd",
            vec![
                json!(0),
                json!(-1),
                json!(1.5),
                json!("32"),
                json!(true),
                json!([32]),
                json!(1e300),
                json!(33),
                json!(1_u64 << 62),
            ],
        ),
        ("n_head", vec![json!(0), json!(5), json!(-4), json!("4"), json!(u64::MAX)]),
        ("n_layer", vec![json!(0), json!(3), json!(-2), json!("2"), json!(1_u64 << 40)]),
        ("n_positions", vec![json!(0), json!(63), json!("x"), json!(1_u64 << 60)]),
        ("vocab_size", vec![json!(0), json!(511), json!(-512), json!({}), json!(u64::MAX)]),
        ("layer_norm_epsilon", vec![json!("1e-5"), json!([]), json!(true), json!(-1.0)]),
        ("activation_function", vec![json!("gelu_fast_new"), json!(3), json!("\u{1b}]0;title\u{7}")]),
        ("scale_attn_weights", vec![json!("yes"), json!(3)]),
        ("tie_word_embeddings", vec![json!("true"), json!(1)]),
    ] {
        for value in values {
            let mut case = changed("gpt2-tiny", key, value.clone());
            // A size that contradicts the weights is reported by the tensor.
            let contradicts = value == json!(33) || value == json!(63) || value == json!(511) || value == json!(3);
            let huge = value.as_u64().is_some_and(|n| n >= 1 << 40);
            if (contradicts && key != "activation_function" && key != "scale_attn_weights") || huge {
                case = at_weights(key, value);
            }
            cases.push(case);
        }
    }
    for (key, values) in [
        ("num_key_value_heads", vec![json!(0), json!(3), json!("2"), json!(-2)]),
        ("hidden_act", vec![json!("siluu"), json!(1)]),
        ("rms_norm_eps", vec![json!("x"), json!(false)]),
        ("head_dim", vec![json!(7), json!(0), json!("8")]),
        ("rope_parameters", vec![json!("default"), json!(3), json!({"rope_type": "\u{1b}[7m", "rope_theta": 1e4})]),
        ("attention_bias", vec![json!("no"), json!(0)]),
    ] {
        for value in values {
            let case = changed("llama-tiny", key, value.clone());
            // A size that contradicts others, and a kind that is not known, are named with the file.
            let is_named_otherwise =
                value == json!(7) || value == json!(3) && key.starts_with("num") || value.is_object();
            cases.push(match is_named_otherwise {
                true => llama_at_weights(key, value),
                false => case,
            });
        }
    }
    cases
}

fn at_weights(key: &'static str, value: Value) -> Case {
    let mut changed = config("gpt2-tiny");
    changed[key] = value.clone();
    Case::refused(format!("config: gpt2-tiny {key} = {value}"), "gpt2-tiny", move |folder| {
        let model = folder.copy_of("gpt2-tiny");
        fs::write(folder.path("gpt2-tiny/config.json"), changed.to_string()).expect("writable");
        dry_run(&model)
    })
}

fn llama_at_weights(key: &'static str, value: Value) -> Case {
    let mut changed = config("llama-tiny");
    changed[key] = value.clone();
    Case::refused(format!("config: llama-tiny {key} = {value}"), "llama-tiny", move |folder| {
        let model = folder.copy_of("llama-tiny");
        fs::write(folder.path("llama-tiny/config.json"), changed.to_string()).expect("writable");
        dry_run(&model)
    })
}

/// A named pipe that nobody writes into.
pub fn pipe(folder: &Folder, name: &str) {
    let path = folder.path(name);
    let _ = fs::remove_file(&path);
    pipe_at(&path);
}

/// A named pipe at a place where nothing is.
pub fn pipe_at(path: &std::path::Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo is there");
    assert!(made.success());
}
