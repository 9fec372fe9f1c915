//! A memory budget that is accepted is kept: the peak of a job's anonymous memory, which is what a control group kills
//! for, under every kind of curvature and every type of numbers.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Folder, ascribe, ended, root};
use ascribe::curvature::gemm::Products;
use serde_json::{Value, json};

/// What a budget may be exceeded by, as a share.
const MORE: f64 = 0.02;

/// Budgets of the table, as multiples of the least one that is accepted.
const BUDGETS: [f64; 2] = [1.0, 1.5];

const WIDTH: usize = 128;
const VOCABULARY: usize = 8192;
const POSITIONS: usize = 128;

/// Numbers without a pattern, between -0.05 and 0.05.
fn noise(n: usize, state: &mut u64) -> Vec<u8> {
    let next = |_| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 40) as f32 / (1 << 24) as f32 - 0.5) / 10.0
    };
    (0..n).map(next).flat_map(f32::to_le_bytes).collect()
}

/// A GPT-2 whose activations and logits outweigh the program: two blocks of width 128, vocabulary 8192.
fn model(folder: &Folder) -> String {
    let path = folder.copy_of("gpt2-tiny");
    let file = folder.path("gpt2-tiny/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).expect("there")).expect("JSON");
    for (key, value) in [("n_embd", WIDTH), ("vocab_size", VOCABULARY), ("n_positions", POSITIONS)] {
        config[key] = json!(value);
    }
    fs::write(&file, config.to_string()).expect("writable");
    let mut shapes =
        vec![("wte.weight".to_owned(), vec![VOCABULARY, WIDTH]), ("wpe.weight".into(), vec![POSITIONS, WIDTH])];
    let norm = |name: &str| [(format!("{name}.weight"), vec![WIDTH]), (format!("{name}.bias"), vec![WIDTH])];
    shapes.extend(norm("ln_f"));
    for block in 0..2 {
        let linear = |name: &str, inputs: usize, outputs: usize| {
            let name = format!("h.{block}.{name}");
            [(format!("{name}.weight"), vec![inputs, outputs]), (format!("{name}.bias"), vec![outputs])]
        };
        shapes.extend(norm(&format!("h.{block}.ln_1")).into_iter().chain(norm(&format!("h.{block}.ln_2"))));
        shapes.extend(linear("attn.c_attn", WIDTH, 3 * WIDTH));
        shapes.extend(linear("attn.c_proj", WIDTH, WIDTH));
        shapes.extend(linear("mlp.c_fc", WIDTH, 4 * WIDTH));
        shapes.extend(linear("mlp.c_proj", 4 * WIDTH, WIDTH));
    }
    let mut state = 1;
    let (mut header, mut numbers) = (serde_json::Map::new(), vec![]);
    for (name, shape) in shapes {
        let start = numbers.len();
        numbers.extend(noise(shape.iter().product(), &mut state));
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, numbers.len()] });
        header.insert(format!("transformer.{name}"), entry);
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &numbers].concat();
    fs::write(folder.path("gpt2-tiny/model.safetensors"), bytes).expect("writable");
    path
}

fn examples(count: usize, length: usize, seed: usize) -> String {
    let example = |row: usize| {
        let ids: Vec<usize> = (0..length).map(|k| (7 + row * 131 + k * (k + seed)) % 500).collect();
        json!({ "id": row.to_string(), "input_ids": ids }).to_string() + "\n"
    };
    (0..count).map(example).collect()
}

/// The most anonymous memory that a job held, in bytes, seen about every millisecond. It must end well.
fn peak(arguments: &str) -> u64 {
    let (most, ended_well, said) = watched(arguments);
    assert!(ended_well, "{arguments}: {said}");
    most
}

/// The most anonymous memory that a job held, whether it ended well, and what it said on stderr.
fn watched(arguments: &str) -> (u64, bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ascribe"));
    command.current_dir(root()).args(arguments.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let exit = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let found = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        most = most.max(1024 * found.unwrap_or(0));
        if let Some(exit) = child.try_wait().expect("a child") {
            break exit;
        }
        sleep(Duration::from_millis(1));
    };
    let output = child.wait_with_output().expect("ended");
    (most, exit.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The least budget that a job accepts, in MiB, from its refusal of one that is too small.
fn least(arguments: &str) -> u64 {
    let refusal = ended(ascribe(&format!("{arguments} --memory 1MiB"))).err;
    let mib = refusal.split("the job needs about ").nth(1).and_then(|text| text.split(' ').next()?.parse().ok());
    mib.unwrap_or_else(|| panic!("{refusal}"))
}

fn accepted_budgets_are_kept(dtype: &str) {
    let folder = Folder::new();
    let model = model(&folder);
    let train = folder.write("train.jsonl", examples(4, POSITIONS, 3));
    let queries = folder.write("queries.jsonl", examples(2, 40, 5));
    let mut exceeded = vec![];
    for curvature in ["identity", "diagonal", "kfac", "ekfac"] {
        let out = folder.arg("run");
        let job = format!(
            "influence --model {model} --train {train} --queries {queries} --out {out} --threads 2 \
             --curvature {curvature} --dtype {dtype}"
        );
        let least = least(&job);
        for budget in BUDGETS.map(|times| (times * least as f64) as u64) {
            let most = peak(&format!("{job} --memory {budget}MiB"));
            println!("{dtype} {curvature}: {} MiB of {budget}", most >> 20);
            if most as f64 > (1.0 + MORE) * (budget << 20) as f64 {
                exceeded.push(format!("{curvature}: {} MiB of {budget}", most >> 20));
            }
            fs::remove_dir_all(folder.path("run")).expect("a run");
        }
    }
    assert!(exceeded.is_empty(), "{dtype}: {exceeded:#?}");
}

/// A dry run that reads this file under this budget: its peak, and what it said if it was refused.
fn read_under(folder: &Folder, budget: u64, train: &str) -> (u64, Option<String>) {
    let data = "--model fixtures/gpt2-tiny --queries fixtures/gpt2-tiny/queries.jsonl --curvature identity";
    let flags = "--max-length 16 --threads 2 --dry-run";
    let out = folder.arg("run");
    let (most, ended_well, said) =
        watched(&format!("influence {data} {flags} --train {train} --memory {budget}MiB --out {out}"));
    println!("{train}: {} MiB of {budget}{}", most >> 20, if ended_well { "" } else { ", refused" });
    assert!(most as f64 <= (1.0 + MORE) * (budget << 20) as f64, "{train}: {} MiB of {budget}", most >> 20);
    (most, (!ended_well).then_some(said))
}

/// Texts that are too long are refused before they are tokenized, with their line; the longest that are read, as one
/// word, as prose, and many at once, keep the budget, and so do texts in fields that are no text.
#[test]
fn a_budget_is_kept_while_texts_are_tokenized() {
    const BUDGET: u64 = 100;
    // Bytes of a text that are tokenized at once under this budget.
    const LIMIT: usize = (BUDGET as usize) << 12;
    let folder = Folder::new();
    let line = |text: &str| format!("{}\n", json!({ "text": text }));
    let first = line("a sheep stood in the barn");
    let prose = |bytes: usize| "a sheep stood in the barn ".repeat(bytes / 26);
    for (name, text) in [("prose-of-20-MB", prose(20 << 20)), ("word-of-5-MB", "x".repeat(5 << 20))] {
        let file = folder.write(&format!("{name}.jsonl"), first.clone() + &line(&text));
        let said = read_under(&folder, BUDGET, &file).1.expect("refused");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
        assert!(said.contains(&format!("error: {file}:2: ")), "{said}");
    }
    let many = "{\"text\": \"a sheep stood in the barn\"}\n".repeat(200_000);
    let metadata = json!({ "text": "a sheep stood in the barn", "more": vec![0; LIMIT] }).to_string() + "\n";
    for (name, content) in [
        ("longest-word", first.clone() + &line(&"x".repeat(LIMIT))),
        ("longest-prose", first.clone() + &line(&prose(LIMIT))),
        ("many-words", line(&"x".repeat(LIMIT / 7)).repeat(14)),
        ("many-lines", many),
        ("many-numbers-beside", metadata),
    ] {
        let file = folder.write(&format!("{name}.jsonl"), content);
        let refused = read_under(&folder, BUDGET, &file).1;
        assert_eq!(refused, None, "{name}");
    }
}

#[test]
fn a_budget_is_kept_in_f32() {
    accepted_budgets_are_kept("f32");
}

#[test]
fn a_budget_is_kept_in_f64() {
    accepted_budgets_are_kept("f64");
}

#[test]
fn a_budget_is_kept_in_bf16() {
    if Products::Bf16.run_here() {
        accepted_budgets_are_kept("bf16");
    }
}
