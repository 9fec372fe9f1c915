//! Broken job files.

use std::fs;

use crate::hostile::runner::{Case, words};

/// A job that can be run, for changes.
const JOB: &str = r#"[model]
path = "fixtures/gpt2-tiny"

[data]
train = "fixtures/gpt2-tiny/train.jsonl"
queries = "fixtures/gpt2-tiny/queries.jsonl"

[method]
damping = "0.1x"

[resources]

[output]
path = "OUT"
"#;

fn job(name: &str, content: impl AsRef<[u8]> + Send + Sync + 'static) -> Case {
    Case::refused(format!("job: {name}"), "job.toml", move |folder| {
        let content = String::from_utf8_lossy(content.as_ref()).replace("OUT", &folder.arg("run"));
        vec!["run".into(), folder.write("job.toml", content), "--dry-run".into()]
    })
}

/// A key of a section, whose error names the key.
fn key(section: &str, key: &'static str, value: &str) -> Case {
    let line = format!("[{section}]\n{key} = {value}\n");
    let content = JOB.replace(&format!("[{section}]\n"), &line);
    let name = format!("job: {key} = {}", value.chars().take(40).collect::<String>());
    Case::refused(name, key, move |folder| {
        let content = content.replace("OUT", &folder.arg("run"));
        vec!["run".into(), folder.write("job.toml", content), "--dry-run".into()]
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        job("empty", ""),
        job("no TOML", "\u{1b}[31m = = ="),
        job("JSON", "{\"model\": {}}"),
        job("cut", JOB[..60].to_owned()),
        job("a section twice", format!("{JOB}[model]\npath = \"x\"\n")),
        job("a key twice", JOB.replace("[model]\n", "[model]\npath = \"x\"\n")),
        job("an unknown section", format!("{JOB}[modle]\n")),
        job("an unknown section with escape sequences", format!("{JOB}[\"\\u001b[2J\\nerror: forged\"]\nx = 1\n")),
        job("an unknown key", JOB.replace("[method]\n", "[method]\ndampign = \"0.1x\"\n")),
        job("an unknown key with escape sequences", JOB.replace("[method]\n", "[method]\n\"\\u202e\\u001b\" = 1\n")),
        job("a section that is a number", "model = 3\n"),
        job("deeply nested", format!("x = {}", "[".repeat(100_000))),
        job("a string that does not end", "[model]\npath = \"abc\n"),
        job("no output", JOB.replace("[output]\npath = \"OUT\"\n", "")).and("output"),
        Case::refused("job: no UTF-8", "job.toml", |folder| {
            vec!["run".into(), folder.write("job.toml", b"[model]\npath = \"\xff\"\n"), "--dry-run".into()]
        }),
        Case::refused("job: absent", "job.toml", |folder| vec!["run".into(), folder.arg("job.toml")]),
        Case::refused("job: a folder", "job.toml", |folder| {
            fs::create_dir(folder.path("job.toml")).expect("new");
            vec!["run".into(), folder.arg("job.toml")]
        }),
        Case::refused("job: a pipe", "a pipe", |folder| {
            crate::hostile::models::pipe(folder, "job.toml");
            vec!["run".into(), folder.arg("job.toml")]
        })
        .and("job.toml"),
        Case::refused("job: a device that never ends", "a device", |folder| {
            std::os::unix::fs::symlink("/dev/zero", folder.path("job.toml")).expect("new");
            vec!["run".into(), folder.arg("job.toml")]
        })
        .and("job.toml"),
        Case::refused("job: three gigabytes", "MiB", |folder| {
            let file = fs::File::create(folder.path("job.toml")).expect("writable");
            file.set_len(3 << 30).expect("sparse");
            vec!["run".into(), folder.arg("job.toml")]
        })
        .and("job.toml"),
        Case::refused("inspect: a job file that is a pipe", "job.toml", |folder| {
            crate::hostile::models::pipe(folder, "job.toml");
            vec!["inspect".into(), folder.arg("job.toml")]
        }),
        Case::refused("inspect: a device that never ends", "lines.jsonl", |folder| {
            std::os::unix::fs::symlink("/dev/zero", folder.path("lines.jsonl")).expect("new");
            vec!["inspect".into(), folder.arg("lines.jsonl")]
        }),
        Case::refused("inspect: a pipe of lines", "lines.jsonl", |folder| {
            crate::hostile::models::pipe(folder, "lines.jsonl");
            vec!["inspect".into(), folder.arg("lines.jsonl")]
        }),
        Case::refused("inspect: a pipe of tensors", "x.safetensors", |folder| {
            crate::hostile::models::pipe(folder, "x.safetensors");
            vec!["inspect".into(), folder.arg("x.safetensors")]
        }),
        Case::refused("inspect: a pipe of no kind", "pipe", |folder| {
            crate::hostile::models::pipe(folder, "pipe");
            vec!["inspect".into(), folder.arg("pipe")]
        }),
        Case::refused("plan: a job file that is a pipe", "job.toml", |folder| {
            crate::hostile::models::pipe(folder, "job.toml");
            vec!["plan".into(), folder.arg("job.toml")]
        }),
        Case::refused("job: paths with escape sequences", "nowhere", |folder| {
            let content = JOB.replace("fixtures/gpt2-tiny\"", "nowhere\\u001b[31m\\nerror: forged\"");
            vec!["run".into(), folder.write("job.toml", content.replace("OUT", &folder.arg("run"))), "--dry-run".into()]
        }),
    ];
    cases.extend([
        key("resources", "threads", "100000000"),
        key("resources", "threads", "0"),
        key("resources", "threads", "-1"),
        key("resources", "threads", "1.5"),
        key("resources", "threads", "\"all\""),
        key("resources", "memory", "-1"),
        key("resources", "memory", "\"8 apples\""),
        key("resources", "batch_tokens", "0"),
        key("resources", "device", "\"tpu\""),
        key("resources", "device", "\"\\u001b[31m\""),
        key("data", "max_length", "0"),
        key("data", "max_length", "-5"),
        key("data", "pack", "0"),
        key("data", "pack", "\"x\""),
        key("data", "train_size", "0"),
        key("data", "add_eos", "\"sometimes\""),
        key("method", "curvature", "\"best\""),
        key("method", "label_draws", "0"),
        key("method", "label_draws", "100000"),
        key("method", "query_rank", "0"),
        key("method", "eigen_block_width", "0"),
        key("method", "seed", "-1"),
        key("method", "seed", "18446744073709551615"),
        key("method", "normalize", "\"l1\""),
        key("method", "measure", "\"accuracy\\nerror: forged\""),
        key("output", "top", "0"),
        key("output", "top", "-3"),
        key("output", "store_scores", "\"some\""),
        key("output", "scale", "\"x\""),
        key("output", "group_by", "3"),
    ]);
    for damping in ["\"\"", "\"-1x\"", "\"nan\"", "\"infx\"", "\"x\"", "-0.5", "[]", "{}", "\"1e400\""] {
        let content = JOB.replace("damping = \"0.1x\"", &format!("damping = {damping}"));
        cases.push(Case::refused(format!("job: damping = {damping}"), "damping", move |folder| {
            let content = content.replace("OUT", &folder.arg("run"));
            vec!["run".into(), folder.write("job.toml", content), "--dry-run".into()]
        }));
    }
    cases.push(Case::refused("job: no training examples", "data.train", |folder| {
        let content = JOB.replace("train = \"fixtures/gpt2-tiny/train.jsonl\"\n", "");
        let mut arguments = words("run");
        arguments.extend([folder.write("job.toml", content.replace("OUT", &folder.arg("run"))), "--dry-run".into()]);
        arguments
    }));
    cases
}
