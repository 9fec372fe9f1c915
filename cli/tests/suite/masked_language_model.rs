//! A model that fills in masked tokens, from files to scores, alone and along a run of the Trainer.

use std::fs;

use crate::support::{Folder, ascribe, done, ended, json_lines, scores_of};

const RUN: &str = "fixtures/trainer-filling";

fn files() -> String {
    format!("--train {RUN}/train.jsonl --queries {RUN}/queries.jsonl")
}

/// The example that each query equals, `m5` and `m6`, explains it best, whatever the solve.
#[test]
fn an_example_explains_itself_best() {
    let folder = Folder::new();
    for (name, flags) in [("whole", ""), ("solved", "--solve gauss-newton")] {
        let out = folder.arg(name);
        done(&format!("influence --model {RUN}/checkpoint-120 {} --out {out} --quiet {flags}", files()));
        let rankings = json_lines(&fs::read_to_string(folder.path(name).join("ranking.jsonl")).unwrap());
        let best: Vec<&str> = rankings.iter().map(|one| one["proponents"][0]["id"].as_str().unwrap()).collect();
        assert_eq!(best, ["m5", "m6"], "{name}");
        assert!(scores_of(&folder, name).iter().all(|score| score.is_finite()));
    }
    let inspected = done(&format!("inspect {RUN}/checkpoint-120")).out;
    assert!(inspected.contains("it fills in masked tokens"), "{inspected}");
    assert!(inspected.contains("cls.predictions.transform.dense"), "{inspected}");
}

/// Second moments of the run's AdamW are found for every layer, and the data have the losses of its log.
#[test]
fn a_run_of_the_trainer_is_followed() {
    let folder = Folder::new();
    let out = folder.arg("source");
    let flags = format!("source --run {RUN} {} --out {out}", files());
    done(&format!("{flags} --quiet"));
    let scores = scores_of(&folder, "source");
    assert_eq!(scores.len(), 2 * 48);
    for (query, own) in scores.chunks(48).zip([5, 6]) {
        let largest = query.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(query[own], largest, "query {own}");
    }
    let check: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path("source").join("loss_check.json")).unwrap()).unwrap();
    let agree: Vec<bool> =
        check["checkpoints"].as_array().unwrap().iter().map(|one| one["agrees"].as_bool().unwrap()).collect();
    assert_eq!(agree, [true, true], "{check}");
}

#[test]
fn texts_are_refused_since_nothing_says_what_was_masked() {
    let folder = Folder::new();
    let text = folder.write("text.jsonl", "{\"text\": \"one two\"}\n");
    let refused = ended(ascribe(&format!(
        "influence --model {RUN}/checkpoint-120 --train {text} --queries {text} --out {}",
        folder.arg("none")
    )));
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("text.jsonl:1: no `input_ids` with `labels`"), "{}", refused.err);
    assert!(refused.err.contains("which tokens were masked no text says"), "{}", refused.err);
    assert!(!folder.path("none").exists());
}
