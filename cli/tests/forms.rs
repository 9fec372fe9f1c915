//! Training examples in every form of file that is read give the same bytes of results.

mod support;

use std::fs;

use support::{Folder, GPT2, MLP, ascribe, done, ended};

/// The numbers of `scores.safetensors`, and the ranking with scores, excerpts and metadata.
fn results(train: &str, flags: &str) -> (Vec<u8>, String) {
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!(
        "influence --model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --out {run} \
         --curvature identity --progress never {flags}"
    ));
    let scores = fs::read(folder.path("run/scores.safetensors")).unwrap();
    let header = u64::from_le_bytes(scores[..8].try_into().unwrap()) as usize;
    (scores[8 + header..].to_vec(), fs::read_to_string(folder.path("run/ranking.jsonl")).unwrap())
}

#[test]
fn every_form_of_the_same_rows_gives_the_same_bytes() {
    let expected = results("fixtures/forms/train.jsonl", "");
    assert_eq!(expected.1.lines().count(), 8, "a ranking for each query");
    for name in ["train.json", "train.csv", "train.jsonl.gz", "train.csv.zst", "train.parquet", "train.arrow", "saved"]
    {
        assert_eq!(results(&format!("fixtures/forms/{name}"), ""), expected, "{name}");
    }
    let (scores, _) = results("fixtures/forms/renamed.parquet", "--text-field content");
    assert_eq!(scores, expected.0, "columns with other names");
}

#[test]
fn columns_that_a_model_does_not_read_are_refused() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.jsonl", "{\"input_ids\": [4, 5], \"labels\": [6, 7]}\n");
    let t5 = format!("--model fixtures/families/t5 --train {pairs} --queries {pairs}");
    for (flags, problem) in [
        (
            format!("{GPT2} --label-field stars"),
            "--label-field has no meaning for a model that predicts the next token",
        ),
        (format!("{MLP} --loss-on assistant"), "--loss-on has no meaning for a model that reads rows of numbers"),
        (format!("{t5} --text-field content"), "--text-field has no meaning for a model that reads a prompt"),
    ] {
        let refused = ended(ascribe(&format!("influence {flags} --out {}", folder.arg("run"))));
        assert_eq!(refused.code, Some(2), "{flags}: {}", refused.err);
        assert!(refused.err.replace('`', "").contains(problem), "{flags}: {}", refused.err);
    }
}
