//! What is said on stderr while the work goes on, and how it is stopped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::support::{Folder, GPT2, MLP, ascribe, done, ended, json_lines, root};
use serde_json::Value;

#[test]
fn progress_is_json_lines_on_request() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let first = json_lines(&done(&format!("influence {MLP} --out {run} --progress json")).err);
    let events = |lines: &[Value], event: &str| -> Vec<String> {
        let lines = lines.iter().filter(|line| line["event"] == event);
        lines.map(|line| line["pass"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let passes = ["covariance", "eigendecomposition", "lambda", "queries", "scores"];
    assert_eq!(events(&first, "started"), passes);
    assert_eq!(events(&first, "finished"), passes);
    assert_eq!(first[0]["event"], "plan");
    assert_eq!(first[0]["summary"]["stages"][0]["train"]["examples"], 60);
    for pass in passes {
        let of_pass: Vec<_> = first.iter().filter(|line| line["pass"] == pass).collect();
        let done: Vec<u64> = of_pass.iter().map(|line| line["done"].as_u64().unwrap()).collect();
        assert!(done.is_sorted() && done[0] == 0, "{pass}: {done:?}");
        let last = of_pass.last().unwrap();
        assert_eq!(last["done"], last["total"], "{pass}");
        assert!(of_pass.iter().all(|line| line["eta_seconds"].is_null() || line["eta_seconds"].as_f64() >= Some(0.0)));
    }
    let again = json_lines(&done(&format!("influence {MLP} --out {run} --progress json")).err);
    assert!(events(&again, "started").is_empty(), "{again:?}");
    assert!(events(&again, "reused").contains(&"scores".into()), "{again:?}");
}

#[test]
fn errors_are_json_too_then() {
    let refused = ended(ascribe("influence --model nowhere --train t --queries q --out r --progress json"));
    assert_eq!(refused.code, Some(2));
    let lines = json_lines(&refused.err);
    assert_eq!((lines.len(), &lines[0]["event"]), (1, &"error".into()));
    assert!(lines[0]["message"].as_str().unwrap().contains("nowhere"));
}

#[test]
fn bars_are_for_terminals_alone() {
    let folder = Folder::new();
    let silent = done(&format!("influence {MLP} --out {}", folder.arg("silent"))).err;
    assert!(!silent.contains('\u{1b}') && !silent.contains("covariance"), "{silent}");
    let lines = done(&format!("influence {MLP} --out {} --progress always", folder.arg("lines"))).err;
    assert!(!lines.contains('\u{1b}') && lines.contains("\ncovariance         60 examples in "), "{lines}");
    let quiet = done(&format!("influence {MLP} --out {} --quiet --progress always", folder.arg("quiet"))).err;
    assert_eq!(quiet, "");
}

/// The first Ctrl-C stops where the work can be taken up again; the same command then goes on.
#[test]
#[cfg(unix)]
fn an_interrupted_run_goes_on() {
    let folder = Folder::new();
    // many draws, so that a pass takes long enough to be stopped
    let flags = format!("influence {GPT2} --label-draws 20 --batch-tokens 64");
    let arguments = format!("{flags} --out {} --progress json", folder.arg("run"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ascribe"))
        .current_dir(root())
        .args(arguments.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let started = lines.by_ref().map(Result::unwrap).find(|line| line.contains("\"advanced\""));
    assert!(started.is_some(), "a pass begins");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!((child.wait().unwrap().code(), out.as_str()), (Some(130), ""), "{rest:?}");
    let rest = json_lines(&rest.join("\n"));
    assert!(
        rest.iter().any(|line| line["text"].as_str().is_some_and(|text| text.contains("next safe point"))),
        "{rest:?}"
    );
    assert_eq!(rest.last().unwrap()["event"], "error");
    assert_eq!(rest.last().unwrap()["message"], "interrupted");

    let resumed = done(&arguments);
    let whole = done(&format!("{flags} --out {} --quiet", folder.arg("whole")));
    assert_eq!(resumed.out, whole.out);
    let scores = |run: &str| std::fs::read(folder.path(run).join("scores.safetensors")).unwrap();
    assert!(scores("run") == scores("whole"), "the same bytes");
}
