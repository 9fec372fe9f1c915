//! Broken training runs: a Trainer's folders, its pickled files, and runs written down as TOML.

use std::fs;
use std::io::{Cursor, Read, Write};

use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::hostile::runner::{Case, words};
use crate::support::root;

const DATA: &str =
    "--train fixtures/trainer-tiny/train.jsonl --queries fixtures/trainer-tiny/queries.jsonl --add-eos train";

/// Source over a Trainer's folder, one file of whose second checkpoint is changed.
fn file(name: &str, file: &'static str, change: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Case {
    Case::refused(format!("{file}: {name}"), "checkpoint-120", move |folder| {
        let run = folder.copy_of("trainer-tiny");
        let path = folder.path("trainer-tiny/checkpoint-120").join(file);
        let content = change(fs::read(&path).expect("a copy"));
        fs::write(path, content).expect("writable");
        words(&format!("source --run {run} {DATA} --out RUN --dry-run"))
    })
}

fn state(name: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Case {
    file(name, "trainer_state.json", move |content| {
        let mut value: Value = serde_json::from_slice(&content).expect("JSON");
        change(&mut value);
        value.to_string().into_bytes()
    })
}

/// A torch archive whose pickle is changed.
fn archive(name: &str, of: &'static str, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Case {
    file(name, of, move |content| {
        let mut old = ZipArchive::new(Cursor::new(content)).expect("an archive");
        let mut new = ZipWriter::new(Cursor::new(vec![]));
        for at in 0..old.len() {
            let mut entry = old.by_index(at).expect("an entry");
            let mut bytes = vec![];
            entry.read_to_end(&mut bytes).expect("whole");
            let name = entry.name().expect("text").into_owned();
            if name.ends_with("data.pkl") {
                change(&mut bytes);
            }
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            new.start_file(name, options).expect("a name");
            new.write_all(&bytes).expect("writable");
        }
        new.finish().expect("an archive").into_inner()
    })
}

const TOML: &str = r#"optimizer = "sgd"
momentum = 0.0
weight_decay = 0.02
train_examples = 60
batch_size = 10
loss_reduction = "mean"
steps = 720

[[learning_rate]]
from_step = 0
value = 0.2

[[checkpoint]]
path = "HERE/checkpoint-360"
step = 336

[[checkpoint]]
path = "HERE/checkpoint-720"
step = 720
"#;

fn toml(name: &str, from: &str, to: &str) -> Case {
    assert!(TOML.contains(from), "{from}");
    let here = root().join("fixtures/mlp-trajectory").display().to_string();
    let content = TOML.replace(from, to).replace("checkpoint-360", "checkpoint-336").replace("HERE", &here);
    Case::refused(format!("trajectory: {name}"), "trajectory.toml", move |folder| {
        vec!["trajectory".into(), folder.write("trajectory.toml", &content)]
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        #[cfg(unix)]
        Case::refused("a checkpoint folder that is a circle of links is not absent", "checkpoint-200", |folder| {
            let run = folder.copy_of("trainer-tiny");
            std::os::unix::fs::symlink("checkpoint-200", folder.path("trainer-tiny/checkpoint-200")).expect("a link");
            words(&format!("trajectory {run}"))
        })
        .and("cannot be read"),
        state("no history", |state| drop(state.as_object_mut().expect("an object").remove("log_history"))),
        state("a history that is text", |state| state["log_history"] = json!("\u{1b}[31m")),
        state("a step that is text", |state| state["global_step"] = json!("120")),
        state("a negative step", |state| state["global_step"] = json!(-120)),
        state("another step than the folder's", |state| state["global_step"] = json!(60)),
        state("most steps that are none", |state| state["max_steps"] = json!(0)),
        state("most steps of 10^12", |state| state["max_steps"] = json!(1_000_000_000_000_u64)),
        Case::refused("trainer_state.json: a batch of 2^63", "trainer-tiny", |folder| {
            let run = folder.copy_of("trainer-tiny");
            for step in [60, 120, 180, 240] {
                let path = folder.path(&format!("trainer-tiny/checkpoint-{step}/trainer_state.json"));
                let mut state: Value = serde_json::from_slice(&fs::read(&path).expect("a copy")).expect("JSON");
                state["train_batch_size"] = json!(1_u64 << 63);
                fs::write(path, state.to_string()).expect("writable");
            }
            words(&format!("source --run {run} {DATA} --out RUN --dry-run"))
        }),
        state("a rate that is text", |state| state["log_history"][0]["learning_rate"] = json!("0.1")),
        state("a negative rate", |state| state["log_history"][0]["learning_rate"] = json!(-0.1)),
        state("an entry that is a number", |state| state["log_history"][0] = json!(3)),
        Case::refused("trainer_state.json: a negative gradient norm", "checkpoint-240", |folder| {
            // the last checkpoint's log is that of the whole run
            let run = folder.copy_of("trainer-tiny");
            let path = folder.path("trainer-tiny/checkpoint-240/trainer_state.json");
            let mut state: Value = serde_json::from_slice(&fs::read(&path).expect("a copy")).expect("JSON");
            state["log_history"][0]["grad_norm"] = json!(-1.0);
            fs::write(path, state.to_string()).expect("writable");
            words(&format!("source --run {run} {DATA} --out RUN --dry-run"))
        }),
        Case::refused("trainer: no such folder", "nowhere", |folder| {
            words(&format!("source --run {} {DATA} --out RUN --dry-run", folder.arg("nowhere")))
        }),
        Case::refused("trainer: a file", "file", |folder| {
            words(&format!("source --run {} {DATA} --out RUN --dry-run", folder.write("file", "\u{1b}[31m")))
        }),
        Case::refused("trainer: an empty folder", "empty", |folder| {
            fs::create_dir(folder.path("empty")).expect("new");
            words(&format!("source --run {} {DATA} --out RUN --dry-run", folder.arg("empty")))
        }),
        Case::refused("trainer: weights of one checkpoint are missing", "checkpoint-120", |folder| {
            let run = folder.copy_of("trainer-tiny");
            fs::remove_file(folder.path("trainer-tiny/checkpoint-120/model.safetensors")).expect("there");
            words(&format!("source --run {run} {DATA} --out RUN --dry-run"))
        }),
        Case::refused("trainer: a state that is a circle of links", "trainer_state.json", |folder| {
            let run = folder.copy_of("trainer-tiny");
            let state = folder.path("trainer-tiny/checkpoint-120/trainer_state.json");
            fs::remove_file(&state).expect("there");
            std::os::unix::fs::symlink("trainer_state.json", &state).expect("new");
            words(&format!("source --run {run} {DATA} --out RUN --dry-run"))
        }),
    ];
    for name in ["trainer_state.json", "training_args.bin", "optimizer.pt"] {
        cases.push(file("empty", name, |_| vec![]));
        cases.push(file("cut in the middle", name, |content| content[..content.len() / 2].to_vec()));
        cases.push(file("text", name, |_| b"\x1b[31mhello\nerror: forged".to_vec()));
        cases.push(file("zeros", name, |content| vec![0; content.len()]));
        // The last byte of the text is a line break.
        let least = if name == "trainer_state.json" { "two bytes less" } else { "one byte less" };
        cases.push(file(least, name, |mut content| {
            content.truncate(content.len() - if content.ends_with(b"\n") { 2 } else { 1 });
            content
        }));
    }
    for of in ["training_args.bin", "optimizer.pt"] {
        cases.push(archive("a pickle of no bytes", of, Vec::clear));
        cases.push(archive("a pickle that is cut", of, |pickle| pickle.truncate(pickle.len() / 2)));
        cases.push(archive("a pickle that calls the system", of, |pickle| {
            *pickle = b"cos\nsystem\n(S'touch owned'\ntR.".to_vec();
        }));
        cases.push(archive("a pickle that only pushes marks", of, |pickle| *pickle = vec![b'('; 1 << 20]));
        cases.push(archive("a pickle with a length of 4 GiB", of, |pickle| {
            *pickle = vec![0x80, 2, b'X', 0xff, 0xff, 0xff, 0xff];
        }));
        cases.push(archive("a pickle that nests", of, |pickle| {
            *pickle = [vec![0x80, 2], vec![b']'; 100_000], vec![b'a'; 99_999], vec![b'.']].concat();
        }));
        cases.push(archive("a pickle of an unknown opcode", of, |pickle| *pickle = vec![0x80, 2, 0xff, b'.']));
    }
    for (name, from, to) in [
        ("an unknown optimizer", "\"sgd\"", "\"lion\\u001b[31m\""),
        ("an optimizer that is a number", "\"sgd\"", "3"),
        ("a momentum of 1", "momentum = 0.0", "momentum = 1.0"),
        ("a negative momentum", "momentum = 0.0", "momentum = -0.5"),
        ("a momentum that is no number", "momentum = 0.0", "momentum = nan"),
        ("a negative decay", "weight_decay = 0.02", "weight_decay = -0.02"),
        ("an infinite decay", "weight_decay = 0.02", "weight_decay = inf"),
        ("no examples", "train_examples = 60", "train_examples = 0"),
        ("negative examples", "train_examples = 60", "train_examples = -60"),
        ("a batch of nothing", "batch_size = 10", "batch_size = 0"),
        ("a batch of 2^62 examples", "batch_size = 10", "batch_size = 4611686018427387904"),
        ("a batch that is text", "batch_size = 10", "batch_size = \"10\""),
        ("an unknown reduction", "\"mean\"", "\"median\\nerror: forged\""),
        ("no steps", "steps = 720", "steps = 0"),
        ("fewer steps than a checkpoint has", "steps = 720", "steps = 500"),
        ("a rate that is negative", "value = 0.2", "value = -0.2"),
        ("a rate that is no number", "value = 0.2", "value = nan"),
        ("a rate that is infinite", "value = 0.2", "value = inf"),
        ("a rate that is text", "value = 0.2", "value = \"0.2\""),
        ("rates that begin late", "from_step = 0", "from_step = 10"),
        ("two checkpoints of one step", "step = 336", "step = 720"),
        ("checkpoints out of order", "step = 336", "step = 700000"),
        ("a checkpoint of step 0", "step = 336", "step = 0"),
        ("a checkpoint without a path", "path = \"HERE/checkpoint-720\"\n", ""),
        ("an unknown key", "steps = 720", "steps = 720\nstpes = 1"),
        ("an unknown key with escape sequences", "steps = 720", "steps = 720\n\"\\u001b[2J\\nerror: forged\" = 1"),
        ("segment ends beyond the run", "steps = 720", "steps = 720\nsegment_ends = [9000]"),
        ("segment ends out of order", "steps = 720", "steps = 720\nsegment_ends = [700, 300]"),
        ("no rates", "[[learning_rate]]\nfrom_step = 0\nvalue = 0.2\n", ""),
        ("rates twice", "steps = 720", "steps = 720\nlearning_rates = [0.1, 0.2]"),
        ("a schedule of 10^12 steps", "[[learning_rate]]\nfrom_step = 0\nvalue = 0.2\n", ""),
    ] {
        let mut case = toml(name, from, to);
        if name.starts_with("a schedule") {
            let here = root().join("fixtures/mlp-trajectory").display().to_string();
            let content = TOML
                .replace(from, "")
                .replace("steps = 720", "steps = 1000000000000\nschedule = { name = \"cosine\", learning_rate = 0.1 }")
                .replace("checkpoint-360", "checkpoint-336")
                .replace("HERE", &here);
            case = Case::refused("trajectory: a schedule of 10^12 steps", "trajectory.toml", move |folder| {
                vec!["trajectory".into(), folder.write("trajectory.toml", &content)]
            });
        }
        cases.push(case);
    }
    for (name, content) in [
        ("empty", ""),
        ("no TOML", "\u{1b}[31m"),
        ("deeply nested", "x = [[[[[[[[[["),
        ("a table alone", "[checkpoint]\n"),
    ] {
        cases.push(Case::refused(format!("trajectory: {name}"), "trajectory.toml", move |folder| {
            vec!["trajectory".into(), folder.write("trajectory.toml", content)]
        }));
    }
    cases
}
