//! Broken examples: JSON lines, texts and rows of numbers.

use std::fs;

use serde_json::json;

use crate::hostile::runner::{Case, words};
use crate::support::{MLP, root};

/// A dry run on training examples of this content.
fn train(name: &str, file: &'static str, content: impl AsRef<[u8]> + Send + Sync + 'static) -> Case {
    // What steers a terminal is written out in errors.
    let named = file.split(char::is_control).next().unwrap_or_default();
    Case::refused(format!("train: {name}"), named, move |folder| {
        let train = folder.write(file, &content);
        let flags = "--queries fixtures/gpt2-tiny/queries.jsonl --out RUN --dry-run";
        // The path may hold blanks.
        let mut arguments = words(&format!("influence --model fixtures/gpt2-tiny {flags} --train"));
        arguments.push(train);
        arguments
    })
}

/// A dry run whose queries are broken.
fn queries(name: &str, content: impl AsRef<[u8]> + Send + Sync + 'static) -> Case {
    Case::refused(format!("queries: {name}"), "queries.jsonl", move |folder| {
        let queries = folder.write("queries.jsonl", &content);
        words(&format!(
            "influence --model fixtures/gpt2-tiny --train fixtures/gpt2-tiny/train.jsonl --queries {queries} --out RUN --dry-run"
        ))
    })
}

/// Rows of numbers whose file is changed.
fn rows(name: &str, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Case {
    Case::refused(format!("rows: {name}"), "rows.safetensors", move |folder| {
        let mut content = fs::read(root().join("fixtures/mlp-tiny/train.safetensors")).expect("a fixture");
        change(&mut content);
        let rows = folder.write("rows.safetensors", content);
        words(&format!("influence {MLP} --out RUN --dry-run").replace("fixtures/mlp-tiny/train.safetensors", &rows))
    })
}

const ESCAPES: &str = "\u{1b}[31m\u{202e}\u{9b}2J\nerror: forged\r\u{7}";
const JSONL: &str = "train.jsonl";

pub fn cases() -> Vec<Case> {
    let line = |value: serde_json::Value| format!("{value}\n");
    let mut cases = vec![
        train("empty", JSONL, ""),
        train("blank lines", JSONL, "\n \n\t\n"),
        train("no UTF-8", JSONL, b"{\"text\": \"\xff\"}\n".as_slice()),
        train("UTF-16", JSONL, b"\xff\xfe{\0\"\0".as_slice()),
        train("escape sequences instead of JSON", JSONL, ESCAPES),
        train("an array", JSONL, "[1, 2]\n"),
        train("a number", JSONL, "1e999\n"),
        train("null", JSONL, "null\n"),
        train("cut", JSONL, "{\"text\": \"a sheep\"}\n{\"text\": \"a bar"),
        train("two objects in a line", JSONL, "{\"text\": \"a sheep\"} {\"text\": \"a barn\"}\n"),
        train("deeply nested", JSONL, format!("{{\"text\": \"a sheep\", \"x\": {}\n", "[".repeat(100_000))),
        train("a lone surrogate", JSONL, "{\"text\": \"\\ud800\"}\n"),
        train("no field that is known", JSONL, line(json!({"txt": "a sheep"}))),
        train("a field with escape sequences and none that is known", JSONL, line(json!({ESCAPES: "a sheep"}))),
        train("text that is a number", JSONL, line(json!({"text": 3}))),
        train("text that is a list", JSONL, line(json!({"text": ["a"]}))),
        train("text that is null", JSONL, line(json!({"text": null}))),
        train("a prompt alone", JSONL, line(json!({"prompt": "a sheep"}))),
        train("a completion alone", JSONL, line(json!({"completion": "a sheep"}))),
        train("a completion that is a number", JSONL, line(json!({"prompt": "a", "completion": 1}))),
        train("text beside ids", JSONL, line(json!({"text": "a sheep", "input_ids": [1, 2]}))),
        train("ids that are text", JSONL, line(json!({"input_ids": "1 2"}))),
        train("ids that are fractions", JSONL, line(json!({"input_ids": [1.5, 2]}))),
        train("ids that are negative", JSONL, line(json!({"input_ids": [1, -2]}))),
        train("ids beyond the embedding", JSONL, line(json!({"input_ids": [1, 512]}))),
        train("ids beyond 64 bits", JSONL, "{\"input_ids\": [1, 99999999999999999999999]}\n"),
        train("ids that are nested", JSONL, line(json!({"input_ids": [[1, 2]]}))),
        train("labels of another length", JSONL, line(json!({"input_ids": [1, 2, 3], "labels": [1]}))),
        train("labels that are negative", JSONL, line(json!({"input_ids": [1, 2, 3], "labels": [1, -5, 3]}))),
        train("labels that are other tokens' ids", JSONL, line(json!({"input_ids": [1, 2, 3], "labels": [1, 700, 3]}))),
        train("labels that are text", JSONL, line(json!({"input_ids": [1, 2, 3], "labels": ["a", "b", "c"]}))),
        train("a mask with a hole", JSONL, line(json!({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}))),
        train("a mask of twos", JSONL, line(json!({"input_ids": [1, 2, 3], "attention_mask": [2, 2, 2]}))),
        train("a mask of another length", JSONL, line(json!({"input_ids": [1, 2, 3], "attention_mask": [1]}))),
        train("an id that is a list", JSONL, line(json!({"id": [1], "text": "a sheep"}))),
        train("an id that is a fraction", JSONL, line(json!({"id": 1.5, "text": "a sheep"}))),
        train("ids of examples that repeat", JSONL, line(json!({"id": ESCAPES, "text": "a sheep"})).repeat(2)),
        train("longer than the model's positions", JSONL, line(json!({"text": "a sheep in a barn ".repeat(100)}))),
        train("a word of 20 MB", JSONL, line(json!({"text": "x".repeat(20 << 20)}))),
        train("a line of 20 MB", JSONL, line(json!({"text": "a sheep ".repeat(5 << 19)}))),
        train("no ending", "train", "a sheep\n"),
        train("an unknown ending", "train.\u{1b}[31mparquet", "PAR1"),
        train("an unknown ending that forges an error", "train.x\nerror: forged", "PAR1").and("train"),
        train("an empty text file", "train.txt", ""),
        train("a text file that is no UTF-8", "train.txt", b"a sheep\n\xff\n".as_slice()),
        queries("empty", ""),
        queries("cut", "{\"text\": \"a sheep"),
        queries("no target", line(json!({"input_ids": [7]}))),
        queries("all labels masked", line(json!({"input_ids": [7, 8], "labels": [-100, -100]}))),
        queries("an empty completion", line(json!({"prompt": "a sheep", "completion": ""}))),
        queries("an id with escape sequences and no content", line(json!({"id": ESCAPES}))),
        Case::refused("train: no such file", "nowhere.jsonl", |folder| {
            let train = folder.arg("nowhere.jsonl");
            words(&format!(
                "influence --model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --out RUN --dry-run"
            ))
        }),
        Case::refused("train: a folder", "folder.jsonl", |folder| {
            fs::create_dir(folder.path("folder.jsonl")).expect("new");
            let train = folder.arg("folder.jsonl");
            words(&format!(
                "influence --model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --out RUN --dry-run"
            ))
        }),
        Case::refused("train: a pipe", "pipe.jsonl", |folder| {
            crate::hostile::models::pipe(folder, "pipe.jsonl");
            let train = folder.arg("pipe.jsonl");
            words(&format!(
                "influence --model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --out RUN --dry-run"
            ))
        }),
        Case::refused("train: a device that never ends", "zero.jsonl", |folder| {
            std::os::unix::fs::symlink("/dev/zero", folder.path("zero.jsonl")).expect("new");
            let train = folder.arg("zero.jsonl");
            words(&format!(
                "influence --model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --out RUN --dry-run"
            ))
        }),
        rows("empty", Vec::clear),
        rows("cut", |content| content.truncate(100)),
        rows("zeros", |content| content.fill(0)),
        rows("one byte less", |content| content.truncate(content.len() - 1)),
        rows("a header of 2^64 - 1 bytes", |content| content[..8].fill(0xff)),
        rows("no JSON", |content| content[8..12].fill(b'x')),
    ];
    // What files hold is shown by its escapes, in tables as in errors.
    for (name, value) in [
        ("ids", json!({"id": ESCAPES, "text": "a sheep stood"})),
        ("texts", json!({"text": format!("a sheep {ESCAPES}")})),
        ("names of fields", json!({"text": "a sheep stood", ESCAPES: ESCAPES})),
    ] {
        let content = format!("{value}\n");
        cases.push(Case::done(format!("plan: {name} with escape sequences"), "1 example", move |folder| {
            let train = folder.write("train.jsonl", &content);
            words(&format!(
                "influence --model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --out RUN --dry-run"
            ))
        }));
        let content = format!("{value}\n");
        cases.push(Case::done(format!("inspect: {name} with escape sequences"), "1 line", move |folder| {
            vec!["inspect".into(), folder.write("train.jsonl", &content)]
        }));
    }
    for (name, key, value) in
        [("an id", "id", ESCAPES), ("a text", "text", "a \u{1b}]0;owned\u{7} sheep"), ("a group", "topic", ESCAPES)]
    {
        cases.push(Case::done(format!("table: {name} with escape sequences"), "proponents", move |folder| {
            let mut example = json!({"id": "b", "text": "a sheep stood", "topic": "t"});
            example[key] = json!(value);
            let other = json!({"id": "a", "text": "the barn was cold", "topic": "u"});
            let train = folder.write("train.jsonl", format!("{example}\n{other}\n"));
            let queries = folder.write("queries.jsonl", format!("{example}\n"));
            words(&format!(
                "influence --model fixtures/gpt2-tiny --train {train} --queries {queries} --curvature identity --group-by topic --out RUN"
            ))
        }));
    }
    cases
}
