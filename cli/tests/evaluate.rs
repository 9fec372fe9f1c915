//! Scores against retraining and known answers.

mod support;

use std::fs;

use serde_json::Value;
use support::{Folder, GPT2, MLP, ascribe, done, ended, json_lines};

const TRUTH: &str = "--subsets fixtures/mlp-tiny/subsets.safetensors --outcomes fixtures/mlp-tiny/outcomes.safetensors";

/// Runs of three kinds of curvature on the classifier.
fn runs(folder: &Folder) {
    for curvature in ["ekfac", "kfac", "identity"] {
        done(&format!(
            "influence {MLP} --fisher empirical --curvature {curvature} --out {} --quiet",
            folder.arg(curvature)
        ));
    }
}

#[test]
fn scores_are_compared_with_retraining() {
    let folder = Folder::new();
    runs(&folder);
    let all = format!("--scores {} {} {}", folder.arg("ekfac"), folder.arg("kfac"), folder.arg("identity"));
    let report = done(&format!("evaluate lds {all} {TRUTH} --outcome margin --format json --resamples 200"));
    let report: Value = serde_json::from_str(&report.out).expect("JSON");
    // fixtures/README.md, from kronfluence's scores of the same definition
    for (run, lds) in [("ekfac", 0.625), ("kfac", 0.641), ("identity", 0.529)] {
        let found = report["runs"].as_array().unwrap().iter().find(|found| found["name"] == run).unwrap();
        let found = found["lds"].as_f64().unwrap();
        // three digits were recorded, and ranks may change where two sums nearly tie
        assert!((found - lds).abs() < 0.02, "{run}: {found}, recorded {lds}");
    }
    assert_eq!(report["differences"].as_array().unwrap().len(), 3);
    assert_eq!(report["ceiling"]["seeds"], 2);
    let table = done(&format!("evaluate lds {all} {TRUTH} --outcome margin")).out;
    for line in
        ["margin after retraining (higher is better); 20 subsets of 30 of 60 examples; 10 queries", "ekfac minus kfac"]
    {
        assert!(table.contains(line), "{table}");
    }
    // the same file by its own name, no intervals, and the sign of a loss
    let file = format!("--scores {}", folder.arg("ekfac/scores.safetensors"));
    let loss = done(&format!("evaluate lds {file} {TRUTH} --outcome loss --resamples 0")).out;
    assert!(loss.starts_with("loss after retraining (lower is better)") && loss.contains("\nekfac "), "{loss}");
    let turned = done(&format!("evaluate lds {file} {TRUTH} --outcome loss --resamples 0 --higher-is-better true")).out;
    assert!(turned.contains("\nekfac  -0."), "{turned}");
}

#[test]
fn a_check_can_say_no() {
    let folder = Folder::new();
    runs(&folder);
    let lds = format!("evaluate lds --scores {} {TRUTH} --outcome margin --resamples 0", folder.arg("ekfac"));
    done(&format!("{lds} --at-least 0.3"));
    let refused = ended(ascribe(&format!("{lds} --at-least 0.99")));
    assert_eq!((refused.code, refused.err.as_str()), (Some(1), ""));
    assert!(refused.out.contains("ekfac"), "the figures are printed all the same");
}

#[test]
fn known_answers_are_found() {
    let folder = Folder::new();
    done(&format!("influence {GPT2} --fisher empirical --out {} --quiet", folder.arg("ekfac")));
    done(&format!("influence {GPT2} --curvature identity --out {} --quiet", folder.arg("identity")));
    let flags = format!(
        "--scores {} {} --answers fixtures/gpt2-tiny/queries.jsonl",
        folder.arg("ekfac"),
        folder.arg("identity")
    );
    let report = done(&format!("evaluate retrieval {flags} --k 1,7 --format json")).out;
    let report: Value = serde_json::from_str(&report).expect("JSON");
    // fixtures/README.md: all seven documents first, for every question
    let ekfac = &report["runs"][0];
    assert_eq!((&ekfac["name"], &ekfac["mean_reciprocal_rank"]), (&"ekfac".into(), &1.0.into()));
    assert!(ekfac["recall_at"][1][1].as_f64().unwrap() > 0.98, "{ekfac}");
    let table = done(&format!("evaluate retrieval {flags}")).out;
    assert!(table.starts_with("run       recall@1  recall@4  recall@8  recall@16  mean reciprocal rank\n"), "{table}");
    assert!(table.ends_with("\n8 queries with 7 answers each.\n"), "{table}");
    done(&format!("evaluate retrieval {flags} --at-least 0.1"));
    let refused = ended(ascribe(&format!("evaluate retrieval {flags} --field topics")));
    assert_eq!(refused.code, Some(2));
    insta::assert_snapshot!(refused.err, @"error: fixtures/gpt2-tiny/queries.jsonl: line 1: no line has the field `topics`; the first has `id`, `topic`, `prompt`, `completion`, `stated_by`");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let folder = Folder::new();
    runs(&folder);
    let [mlp, gpt2] = ["ekfac", "gpt2"].map(|run| folder.arg(run));
    done(&format!("influence {GPT2} --curvature identity --out {gpt2} --quiet"));
    done(&format!("influence {MLP} --curvature identity --store-scores top --out {} --quiet", folder.arg("top")));
    let top = folder.arg("top");
    let cases = [
        format!("evaluate lds --scores {mlp} {gpt2} {TRUTH} --outcome margin"),
        format!("evaluate lds --scores {gpt2} {TRUTH} --outcome margin"),
        format!("evaluate lds --scores {mlp} {TRUTH} --outcome accuracy"),
        format!("evaluate lds --scores {top} {TRUTH} --outcome margin"),
        format!("evaluate lds --scores fixtures/mlp-tiny {TRUTH} --outcome margin"),
        format!("evaluate lds --scores fixtures/mlp-tiny/train.safetensors {TRUTH} --outcome margin"),
        format!("evaluate retrieval --scores {mlp} --answers fixtures/gpt2-tiny/queries.jsonl"),
    ];
    let mut text = String::new();
    for case in cases {
        let ended = ended(ascribe(&case));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{case}");
        text.push_str(&folder.filtered(&format!("$ ascribe {case}\n{}\n", ended.err)));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn subsets_are_drawn_once() {
    let folder = Folder::new();
    let (out, lists) = (folder.arg("subsets.safetensors"), folder.arg("subsets.jsonl"));
    let command = format!("evaluate subsets --examples 11 --count 4 --share 0.5 --seed 3 --out {out} --lists {lists}");
    let drawn = done(&command);
    assert_eq!(
        (drawn.out.as_str(), folder.filtered(&drawn.err).as_str()),
        ("", "4 subsets of 5 of 11 examples in TMP/subsets.safetensors\n")
    );
    let kept = json_lines(&fs::read_to_string(&lists).unwrap());
    assert_eq!(kept.len(), 4);
    for (number, subset) in kept.iter().enumerate() {
        assert_eq!((subset["subset"].as_u64(), subset["kept"].as_array().unwrap().len()), (Some(number as u64), 5));
    }
    let before = folder.files(".");
    let refused = ended(ascribe(&command));
    assert_eq!(refused.code, Some(2));
    support::assert_untouched(&before, &folder.files("."));
    insta::assert_snapshot!(folder.filtered(&refused.err), @r"
    error: TMP/subsets.safetensors: already exists
    hint: delete it or choose another file
    ");
    let nothing =
        ended(ascribe(&format!("evaluate subsets --examples 3 --share 0.1 --out {}", folder.arg("none.safetensors"))));
    assert_eq!((nothing.code, folder.path("none.safetensors").exists()), (Some(2), false));
}
