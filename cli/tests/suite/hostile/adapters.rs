//! Settings of PEFT adapters that no training wrote: expressions, ranks and lists out of reason.

use std::fs;

use serde_json::{Value, json};

use crate::hostile::runner::{Case, words};
use crate::support::{Folder, root};

/// What inspecting an adapter's copy with these settings needs.
fn inspect(folder: &Folder, settings: &[u8]) -> Vec<String> {
    let adapter = folder.copy_of("adapters/gpt2");
    fs::write(folder.path("adapters/gpt2/adapter_config.json"), settings).expect("writable");
    words(&format!("inspect {adapter} --base fixtures/gpt2-tiny"))
}

fn with(key: &str, value: &Value) -> Vec<u8> {
    let file = root().join("fixtures/adapters/gpt2/adapter_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(file).expect("a fixture")).expect("JSON");
    settings[key] = value.clone();
    settings.to_string().into_bytes()
}

fn refused(name: &str, key: &str, value: Value) -> Case {
    let settings = with(key, &value);
    Case::refused(format!("adapter: {name}"), "adapter_config.json", move |folder| inspect(folder, &settings)).and(key)
}

fn done(name: &str, key: &str, value: Value) -> Case {
    let settings = with(key, &value);
    Case::done(format!("adapter: {name}"), "a checkpoint of `gpt2`", move |folder| inspect(folder, &settings))
}

pub fn cases() -> Vec<Case> {
    let many = |n: u64| (0..n).map(|k| (format!("layer{k}.*x+x+x+y"), json!(3))).collect::<serde_json::Map<_, _>>();
    vec![
        refused("an expression that backtracks", "target_modules", json!("(((a|a)*)*)*b$")),
        refused("parentheses in 5,000 levels", "target_modules", json!("(".repeat(5000) + &")".repeat(5000))),
        refused("an expression of 10^9 states", "target_modules", json!("((a{1000}){1000}){1000}")),
        refused("a rank of 10^9 for a pattern", "rank_pattern", json!({ ".*c_attn": 1_000_000_000 })),
        refused("200,000 patterns of ranks", "rank_pattern", Value::Object(many(200_000))),
        refused("200,000 patterns of scales", "alpha_pattern", Value::Object(many(200_000))),
        refused(
            "a scale behind an expression that is given up",
            "alpha_pattern",
            json!({ "((\\w|\\w|[.])*)*(?=z)\\1": 7 }),
        ),
        refused("200,000 modules that are copied", "modules_to_save", json!(vec!["head"; 200_000])),
        refused("a rank of 10^18", "r", json!(1_000_000_000_000_000_000_u64)),
        refused("a negative rank", "r", json!(-1)),
        refused("no rank", "r", json!(0)),
        refused("layers below the first", "layers_to_transform", json!([1_000_000_000_000_000_000_u64, -1])),
        done("a million layers", "layers_to_transform", json!((0..1_000_000).collect::<Vec<u64>>())),
        refused("a kind that steers a terminal", "peft_type", json!("\u{1b}]0;x\u{7}\u{202e}")),
        refused("a module that forges an error", "modules_to_save", json!(["\u{1b}[2J\nerror: forged"])),
        done("a base that forges an error", "base_model_name_or_path", json!("\u{1b}[31m\nerror: forged")),
        Case::refused("adapter: a scale that is no number", "adapter_config.json", |folder| {
            inspect(folder, br#"{"peft_type": "LORA", "r": 3, "lora_alpha": NaN, "target_modules": ["c_attn"]}"#)
        }),
        Case::refused("adapter: settings in 300,000 levels", "adapter_config.json", |folder| {
            inspect(folder, "[".repeat(300_000).as_bytes())
        }),
        #[cfg(unix)]
        Case::refused("adapter: settings without an end", "adapter_config.json", |folder| {
            let arguments = inspect(folder, b"");
            let file = folder.path("adapters/gpt2/adapter_config.json");
            fs::remove_file(&file).expect("there");
            std::os::unix::fs::symlink("/dev/zero", file).expect("a link");
            arguments
        }),
    ]
}
