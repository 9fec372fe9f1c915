//! The steps alone, in one process or in shards, and `inspect` of what they leave.

use crate::support::{Folder, GPT2, MLP, ascribe, assert_near, done, ended, scores_of};

const MLP_TRAIN: &str = "--model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors";

#[test]
fn steps_give_what_the_whole_job_gives() {
    let folder = Folder::new();
    let (whole, steps) = (folder.arg("whole"), folder.arg("steps"));
    let ranking = done(&format!("influence {MLP} --out {whole} --quiet")).out;
    done(&format!("fit {MLP_TRAIN} --out {steps} --quiet"));
    done(&format!("query --out {steps} --queries fixtures/mlp-tiny/query.safetensors --quiet"));
    done(&format!("score --out {steps} --quiet"));
    assert_eq!(done(&format!("rank --out {steps} --quiet")).out, ranking);
    let scores = |run: &str| crate::support::tensors(&folder.path(run).join("scores.safetensors"));
    assert!(scores("whole") == scores("steps"), "the same bytes");
    // flags on top of the folder's job
    let three = done(&format!("rank --out {steps} --top 3 --format csv --quiet")).out;
    assert!(three.lines().count() <= 1 + 10 * 6, "{three}");
}

#[test]
fn a_step_before_its_turn_names_the_one_that_is_missing() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let mut text = String::new();
    done(&format!("fit {MLP_TRAIN} --out {run} --curvature identity --quiet"));
    for step in [
        "query",
        "score",
        "rank",
        "score --queries fixtures/mlp-tiny/query.safetensors",
        "rank --queries fixtures/mlp-tiny/query.safetensors",
    ] {
        let ended = ended(ascribe(&format!("{step} --out {run} --quiet")));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{step}");
        text.push_str(&folder.filtered(&format!("$ ascribe {step} --out RUN\n{}\n", ended.err)));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn shards_give_what_one_process_gives() {
    let folder = Folder::new();
    let (whole, run) = (folder.arg("whole"), folder.arg("run"));
    done(&format!("influence {GPT2} --curvature ekfac --out {whole} --quiet"));
    let mut said = String::new();
    let mut step = |arguments: &str| said.push_str(&done(&format!("{arguments} --progress never")).err);
    let fit = format!("fit {GPT2} --out {run}");
    for _ in ["covariances", "eigenvalues"] {
        step(&format!("{fit} --shard 1/2"));
        step(&format!("{fit} --shard 2/2"));
        step(&format!("merge --out {run}"));
    }
    step(&format!("query --out {run}"));
    step(&format!("score --out {run} --shard 2/2"));
    step(&format!("score --out {run} --shard 1/2"));
    step(&format!("merge --out {run}"));
    step(&format!("rank --out {run}"));
    // Sums in f32 end at other places, and an eigenbasis may turn where eigenvalues nearly agree.
    assert_near(&scores_of(&folder, "run"), &scores_of(&folder, "whole"), 1e-4, "shards");
    for next in ["merge", "fit --shard", "query", "rank"] {
        assert!(said.contains(&format!("`ascribe {next}")), "{next}: {said}");
    }
}

#[test]
fn a_missing_shard_is_named() {
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!("fit {MLP_TRAIN} --out {run} --shard 1/3 --quiet"));
    done(&format!("fit {MLP_TRAIN} --out {run} --shard 3/3 --quiet"));
    let refused = ended(ascribe(&format!("merge --out {run} --quiet")));
    assert_eq!(refused.code, Some(2));
    insta::assert_snapshot!(folder.filtered(&refused.err), @r"
    error: no part of `covariance` holds examples 20..40 of 60
    hint: has every shard finished, and is every shard's folder named?
    ");
}

#[test]
fn inspect_explains_what_lies_in_a_run_folder() {
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!("influence {MLP} --out {run} --self-influence --quiet"));
    let before = folder.files("run");
    let explained = done(&format!("inspect {run}")).out;
    for word in ["a run folder", "ekfac, true Fisher", "covariance", "scores.safetensors", "ranking.jsonl", "artifacts"]
    {
        assert!(explained.contains(word), "{word}: {explained}");
    }
    insta::assert_snapshot!(folder.filtered(&done(&format!("inspect {run}/scores.safetensors")).out));
    for (name, _) in before.iter().filter(|(name, _)| name.ends_with(".safetensors") || name.ends_with(".jsonl")) {
        done(&format!("inspect {name} --verbose"));
    }
    let kinds = ["uncentred covariances", "eigenvectors", "mean squared gradients", "query cache"];
    for kind in kinds {
        let artifacts = before.iter().filter(|(name, _)| name.contains("/artifacts/"));
        let found = artifacts.filter(|(name, _)| done(&format!("inspect {name}")).out.contains(kind)).count();
        assert_eq!(found, 1, "{kind}");
    }
    crate::support::assert_untouched(&before, &folder.files("run"));
}

#[test]
fn inspect_explains_inputs() {
    let mut text = String::new();
    for path in [
        "fixtures/gpt2-tiny",
        "fixtures/mlp-tiny",
        "fixtures/mlp-tiny/train.safetensors",
        "fixtures/mlp-tiny/subsets.safetensors",
        "fixtures/gpt2-tiny/queries.jsonl",
    ] {
        text.push_str(&format!("$ ascribe inspect {path}\n{}\n", done(&format!("inspect {path}")).out));
    }
    for path in ["fixtures", "fixtures/nothing", "fixtures/README.md", "fixtures/trainer-tiny"] {
        let ended = ended(ascribe(&format!("inspect {path}")));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""));
        text.push_str(&format!("$ ascribe inspect {path}\n{}\n", ended.err));
    }
    insta::assert_snapshot!(text);
}
