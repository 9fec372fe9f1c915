//! What was found in use, each under its own name.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::hostile::runner::words;
use crate::support::{Folder, GPT2, MLP, ascribe, assert_untouched, done, ended};

/// An example whose id, text and group would steer a terminal.
const ESCAPES: &str = "\u{1b}[31m\u{202e}\u{9b}2J\nerror: forged\r\u{7}";

fn hostile_run(folder: &Folder) -> String {
    let line = |id: &str, topic: &str, text: &str| format!("{}\n", json!({"id": id, "topic": topic, "text": text}));
    let train = line(ESCAPES, ESCAPES, "a sheep stood in the barn") + &line("plain", "t", "the lighthouse was cold");
    let train = folder.write("train.jsonl", train);
    let queries = folder.write("queries.jsonl", line(ESCAPES, "t", "a sheep stood"));
    format!(
        "--model fixtures/gpt2-tiny --train {train} --queries {queries} --curvature identity --group-by topic --quiet"
    )
}

#[test]
fn control_characters_never_reach_a_terminal() {
    let folder = Folder::new();
    let flags = hostile_run(&folder);
    let table = done(&format!("influence {flags} --out {}", folder.arg("run")));
    assert!(table.out.contains("\\u{1b}[31m\\u{202e}\\u{9b}2J\\nerror: forged\\r\\u{7}"), "{}", table.out);
    assert!(!table.out.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{}", table.out);
    assert!(!table.out.lines().any(|line| line.starts_with("error:")));
}

#[test]
fn csv_and_json_keep_their_bytes_in_files() {
    let folder = Folder::new();
    let flags = hostile_run(&folder);
    let lines = done(&format!("influence {flags} --format jsonl --out {}", folder.arg("run")));
    let ranking: Value = serde_json::from_str(&lines.out).expect("one object");
    assert_eq!(ranking["query"]["id"], ESCAPES);
    let csv = done(&format!("rank --out {} --format csv --quiet", folder.arg("run")));
    assert!(csv.out.contains(ESCAPES), "{:?}", csv.out);
}

#[test]
fn a_line_break_in_a_name_forges_no_error() {
    let folder = Folder::new();
    let mut command = ascribe("inspect");
    command.arg(folder.path("nowhere\nerror: forged\u{1b}[1m"));
    let ended = ended(command);
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.err.lines().filter(|line| line.starts_with("error:")).count(), 1, "{}", ended.err);
    assert!(!ended.err.contains('\u{1b}'));
}

#[test]
fn a_merge_that_was_done_says_so_and_changes_nothing() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let of_data = "--model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors";
    for _ in 0..2 {
        for shard in ["1/2", "2/2"] {
            done(&format!("fit {of_data} --quiet --out {run} --shard {shard}"));
        }
        done(&format!("merge --out {run}"));
    }
    let before = folder.files("run/artifacts");
    let again = done(&format!("merge --out {run}"));
    assert!(again.err.contains("the curvature is complete; next: `ascribe query"), "{}", again.err);
    assert_untouched(&before, &folder.files("run/artifacts"));

    done(&format!("query --out {run} --queries fixtures/mlp-tiny/query.safetensors --quiet"));
    for shard in ["1/2", "2/2"] {
        done(&format!("score --out {run} --queries fixtures/mlp-tiny/query.safetensors --quiet --shard {shard}"));
    }
    let merge = format!("merge --out {run} --queries fixtures/mlp-tiny/query.safetensors");
    done(&merge);
    let scores = fs::read(folder.path("run/scores.safetensors")).expect("joined");
    let again = done(&merge);
    assert!(again.err.contains("the scores are joined; next: `ascribe rank"), "{}", again.err);
    assert_eq!(fs::read(folder.path("run/scores.safetensors")).expect("there"), scores);
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let job = format!("influence {MLP} --quiet --out {run}");
    done(&job);
    let names = |at: &str| {
        let mut names: Vec<String> =
            folder.files(at).into_iter().map(|(name, _)| name.rsplit_once('/').expect("a path").1.to_owned()).collect();
        names.sort();
        names
    };
    let before = names("run");
    let lambda = before.iter().find(|name| name.starts_with("lambda-")).expect("an artifact").clone();
    let stem = lambda.trim_end_matches(".safetensors");
    let leave = || {
        folder.write("run/.ascribe-tmp-output-a1", "half");
        folder.write("run/artifacts/.ascribe-tmp-whole-a2", "half");
        folder.write(&format!("run/artifacts/{stem}.part-0-10.safetensors"), "x");
        folder.write(&format!("run/artifacts/{stem}.partial.safetensors"), "x");
        folder.write("run/artifacts/eigenbasis-part-0123456789abcdef.safetensors", "x");
        folder.write("run/artifacts/covariance-group-0123456789abcdef.safetensors", "x");
    };
    leave();
    done(&job);
    assert_eq!(names("run"), before);
    folder.write("run/.ascribe-tmp-output-a1", "half");
    done(&format!("rank --out {run} --quiet"));
    assert_eq!(names("run"), before);
}

#[test]
fn a_link_as_lock_empties_nothing() {
    let folder = Folder::new();
    let precious = folder.write("precious", "mine");
    fs::create_dir(folder.path("run")).expect("new");
    let of_data = "--model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors";
    // An empty file looks like a lock; one with something in it does not.
    for content in ["mine", "", "ascribe pid 7\nand more"] {
        fs::write(&precious, content).expect("writable");
        let _ = fs::remove_file(folder.path("run/.lock"));
        std::os::unix::fs::symlink(&precious, folder.path("run/.lock")).expect("new");
        let ended = ended(ascribe(&format!("fit {of_data} --out {}", folder.arg("run"))));
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(ended.err.contains(".lock"), "{}", ended.err);
        assert_eq!(fs::read_to_string(&precious).expect("there"), content);
    }
}

#[test]
fn nothing_of_the_machine_is_in_results() {
    let folder = Folder::new();
    for (run, flags) in [("a", ""), ("b", "--memory 3GiB"), ("c", "--disk 900MiB --threads 1")] {
        done(&format!("influence {MLP} {flags} --quiet --out {}", folder.arg(run)));
    }
    let result = |run: &str, file: &str| fs::read(folder.path(run).join(file)).expect("a result");
    for file in ["scores.safetensors", "ranking.jsonl"] {
        assert!(result("a", file) == result("b", file) && result("a", file) == result("c", file), "{file}");
    }
    let report: Value = serde_json::from_slice(&result("b", "run.json")).expect("JSON");
    let notes = report["summary"]["machine_notes"].as_array().expect("the machine's notes");
    assert!(notes[0].as_str().is_some_and(|note| note.contains("3072 MiB allowed")), "{notes:?}");
}

#[test]
fn a_write_to_stdout_that_fails_says_what_was_written() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ascribe"));
    command.current_dir(crate::support::root()).args(words(&format!("influence {GPT2} --out /nowhere --dry-run")));
    let ended = command.env("NO_COLOR", "1").stdout(Stdio::from(full)).output().expect("runs");
    let err = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(ended.status.code(), Some(2));
    assert!(err.starts_with("error: stdout: cannot write the plan\ncaused by: "), "{err}");
}

#[test]
fn checking_artifacts_is_shown_as_a_stage() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let job = format!("influence {MLP} --quiet --out {run}");
    done(&job);
    fs::remove_file(folder.path("run/scores.safetensors")).expect("there");
    done(&job);
    let report: Value = serde_json::from_slice(&fs::read(folder.path("run/run.json")).expect("there")).expect("JSON");
    let stages = report["stages"].as_array().expect("stages");
    let checks = stages.iter().find(|stage| stage["stage"] == "checksums of stored files").expect("a stage");
    assert!(checks["units"].as_u64().is_some_and(|bytes| bytes > 1000), "{checks}");
}

#[test]
fn a_report_of_another_run_is_checked_before_its_numbers_are_used() {
    let folder = Folder::new();
    done(&format!("influence {MLP} --quiet --out {}", folder.arg("fitted")));
    let file = folder.path("fitted/run.json");
    let text = fs::read_to_string(&file).expect("there");
    assert!(text.contains("\"train_size\": "), "{text}");
    fs::write(&file, text.replacen("\"train_size\": ", "\"train_size\": 1", 1)).expect("writable");
    let ended =
        ended(ascribe(&format!("influence {MLP} --out {} --factors {}", folder.arg("run"), folder.arg("fitted"))));
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("run.json") && ended.err.contains("damaged"), "{}", ended.err);
}
