//! A model that reads one text and writes another, from files to scores.

use std::fs;

use crate::support::{Folder, ascribe, done, ended, json_lines, scores_of};

const T5: &str = "fixtures/families/t5";

/// Tokens of a few examples: a query is the second of them.
fn written(folder: &Folder) -> String {
    let row = |k: usize| {
        let ids: Vec<usize> = (0..3 + k % 4).map(|t| 3 + (7 * k + 5 * t) % 58).collect();
        let labels: Vec<usize> = (0..2 + k % 3).map(|t| 3 + (11 * k + 3 * t) % 58).collect();
        format!("{{\"id\": \"e{k}\", \"input_ids\": {ids:?}, \"labels\": {labels:?}}}\n")
    };
    fs::write(folder.path("train.jsonl"), (0..12).map(row).collect::<String>()).unwrap();
    fs::write(folder.path("queries.jsonl"), row(1)).unwrap();
    format!("--model {T5} --train {} --queries {}", folder.arg("train.jsonl"), folder.arg("queries.jsonl"))
}

#[test]
fn an_example_explains_itself_best() {
    let folder = Folder::new();
    let files = written(&folder);
    for (name, flags) in [("whole", ""), ("solved", "--solve gauss-newton")] {
        done(&format!("influence {files} --out {} --quiet {flags}", folder.arg(name)));
        let rankings = json_lines(&fs::read_to_string(folder.path(name).join("ranking.jsonl")).unwrap());
        assert_eq!(rankings[0]["proponents"][0]["id"], "e1", "{name}: {}", rankings[0]);
        assert!(scores_of(&folder, name).iter().all(|score| score.is_finite()));
    }
    let plan = done(&format!("plan {files} --out {}", folder.arg("planned")));
    assert!(plan.out.contains("t5") || plan.err.contains("t5"), "{}{}", plan.out, plan.err);
    let inspected = done(&format!("inspect {T5}"));
    let says = "its encoder reads a prompt, its decoder writes the completion behind the token 0";
    assert!(inspected.out.contains(says), "{}", inspected.out);
}

#[test]
fn an_example_without_its_other_text_is_refused() {
    let folder = Folder::new();
    let files = written(&folder);
    fs::write(folder.path("train.jsonl"), "{\"input_ids\": [4, 5, 6]}\n").unwrap();
    let refused = ended(ascribe(&format!("influence {files} --out {}", folder.arg("none"))));
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("train.jsonl:1: `input_ids` without `labels`"), "{}", refused.err);
    assert!(!folder.path("none").exists());
}
