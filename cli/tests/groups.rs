//! `--group-by`: sums of scores over training examples with one value of a field, under influence and Source.

mod support;

use std::collections::BTreeMap;
use std::fs;

use support::{Folder, GPT2, MLP, TRAINER, ascribe, done, ended, json_lines, scores_of};

/// Sums by topic of a run's own score matrix, for each query.
fn by_hand(folder: &Folder, run: &str, train: &str) -> Vec<BTreeMap<String, (u64, f64)>> {
    let documents = json_lines(&fs::read_to_string(support::root().join(train)).unwrap());
    scores_of(folder, run)
        .chunks_exact(documents.len())
        .map(|row| {
            let mut sums = BTreeMap::<String, (u64, f64)>::new();
            for (document, score) in documents.iter().zip(row) {
                let sum = sums.entry(document["topic"].as_str().unwrap().to_owned()).or_default();
                *sum = (sum.0 + 1, sum.1 + f64::from(*score));
            }
            sums
        })
        .collect()
}

#[track_caller]
fn assert_groups(folder: &Folder, run: &str, train: &str) {
    let rankings = json_lines(&fs::read_to_string(folder.path(run).join("ranking.jsonl")).unwrap());
    let want = by_hand(folder, run, train);
    assert_eq!(rankings.len(), want.len());
    for (ranking, want) in rankings.iter().zip(want) {
        let groups = ranking["groups"].as_array().unwrap();
        assert!(groups.len() > 3 && groups.len() == want.len());
        for pair in groups.windows(2) {
            assert!(pair[0]["score"].as_f64() >= pair[1]["score"].as_f64());
        }
        for group in groups {
            let (examples, score) = want[group["group"].as_str().unwrap()];
            assert_eq!(group["examples"].as_u64(), Some(examples));
            assert!((group["score"].as_f64().unwrap() - score).abs() < 1e-9);
        }
    }
}

#[test]
fn groups_are_sums_of_the_scores_of_influence_and_of_source() {
    let folder = Folder::new();
    let said = done(&format!("influence {GPT2} --top 2 --group-by topic --out {}", folder.arg("influence")));
    assert!(said.out.contains("  by topic\n"), "{}", said.out);
    assert_groups(&folder, "influence", "fixtures/gpt2-tiny/train.jsonl");

    // asked of scores that are there
    done(&format!("source {TRAINER} --segments 2 --quiet --out {}", folder.arg("source")));
    let plain = json_lines(&fs::read_to_string(folder.path("source/ranking.jsonl")).unwrap());
    assert!(plain[0].get("groups").is_none());
    done(&format!("rank --group-by topic --quiet --out {}", folder.arg("source")));
    assert_groups(&folder, "source", "fixtures/trainer-tiny/train.jsonl");
}

#[test]
fn a_field_that_no_example_has_is_refused_before_the_work() {
    let folder = Folder::new();
    let refused = |flags: &str| {
        let ended = ended(ascribe(&format!("influence {flags} --out {}", folder.arg("run"))));
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(!folder.path("run").exists());
        ended.err
    };
    let said = refused(&format!("{GPT2} --group-by topics"));
    assert!(said.contains("no training example has a field `topics`") && said.contains("they have `topic`"), "{said}");
    let said = refused(&format!("{MLP} --group-by source"));
    assert!(said.contains("no training example has a field `source`"), "{said}");
    let said = refused(&format!("{GPT2} --group-by topic --store-scores top"));
    assert!(said.contains("--group-by") && said.contains("--store-scores"), "{said}");
}
