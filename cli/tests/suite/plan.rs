//! What a job will cost, and bounds that are kept before any work.

use std::fs;

use crate::support::{Folder, GPT2, MLP, TRAINER, ascribe, done, ended};
use serde_json::Value;

/// Free space is the machine's.
fn without_free_space(text: &str) -> String {
    let line = |line: &str| match line.split_once("; ") {
        Some((before, after)) if after.ends_with("are free there") => format!("{before}; SPACE free there"),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn stages_contractions_and_files() {
    let folder = Folder::new();
    let run = folder.arg("run");
    for (name, flags) in [
        ("cost_of_influence", format!("{GPT2} --memory 2GiB --disk 1GiB")),
        ("cost_of_an_mlp", format!("{MLP} --self-influence --query-rank 4")),
        ("cost_of_source", format!("{TRAINER} --with influence,tracin")),
    ] {
        let plan = done(&format!("plan {flags} --out {run} --threads 2 --no-calibration"));
        // above stands the plan that a dry run shows
        let (_, cost) = plan.out.split_once("\n\n").expect("two parts");
        insta::assert_snapshot!(name, without_free_space(&folder.filtered(cost)));
        assert_eq!(plan.err, "");
    }
    assert!(folder.files("").is_empty(), "a plan writes nothing");
}

/// Every stage has its time, and nothing of the measurement is left.
#[test]
fn the_machine_is_measured() {
    let folder = Folder::new();
    let plan = done(&format!("plan {GPT2} --out {} --threads 2 --format json", folder.arg("run")));
    let plan: Value = serde_json::from_str(&plan.out).expect("one object");
    let stages = plan["cost"]["stages"].as_array().expect("stages");
    let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str().expect("a name")).collect();
    assert_eq!(names, ["covariance", "eigendecomposition", "lambda", "queries", "scores"]);
    let seconds = plan["seconds"]["stages"].as_array().expect("their times");
    assert_eq!(seconds.len(), stages.len());
    assert!(seconds.iter().all(|seconds| seconds.as_f64().is_some_and(|seconds| seconds > 0.0)), "{seconds:?}");
    let sum: f64 = seconds.iter().filter_map(Value::as_f64).sum();
    let parts = [&plan["seconds"]["files"], &plan["inputs_seconds"]].map(|part| part.as_f64().expect("seconds"));
    let total = plan["total_seconds"].as_f64().expect("seconds");
    assert!((total - sum - parts[0] - parts[1]).abs() < 1e-9 * total);
    let rates = plan["calibration"]["rates"].as_object().expect("rates");
    assert!(["passes", "covariances", "squares", "vectors", "scores"].iter().all(|kind| rates.contains_key(*kind)));
    assert!(folder.files("").is_empty(), "a plan writes nothing");
}

/// Headers and the text of rankings, which depends on scores, are estimated: bytes in all files of a small folder.
const TEXTS: f64 = 4096.0;

/// The run folder has the size that the plan says, within one in a hundred of its numbers.
#[test]
fn run_folders_have_the_size_that_was_foretold() {
    let folder = Folder::new();
    for (name, command, flags) in [
        ("a", "influence", GPT2.to_owned()),
        ("b", "influence", format!("{GPT2} --curvature kfac --query-rank 2 --store-scores top")),
        ("c", "influence", format!("{MLP} --self-influence --csv")),
        ("d", "source", format!("{TRAINER} --with influence,tracin --time-scale 1,10")),
        ("e", "influence", format!("{GPT2} --eigen-block-width 20")),
    ] {
        let run = folder.arg(name);
        let plan = done(&format!("plan {flags} --out {run} --no-calibration --format json"));
        let plan: Value = serde_json::from_str(&plan.out).expect("one object");
        let planned = plan["cost"]["disk"]["left"].as_u64().expect("bytes") as f64;
        done(&format!("{command} {flags} --out {run} --progress never --quiet"));
        let found = folder.files(name).iter().map(|(_, content)| content.len()).sum::<usize>() as f64;
        assert!((planned - found).abs() < 0.01 * found + TEXTS, "{name}: planned {planned}, found {found}");
    }
}

#[test]
fn bounds_are_kept_before_any_work() {
    let folder = Folder::new();
    let run = folder.arg("run");
    for command in ["plan", "influence", "fit"] {
        let refused = ended(ascribe(&format!("{command} {GPT2} --out {run} --disk 1kB")));
        assert!(refused.err.contains("the bound is 0.001 MiB"), "{}", refused.err);
        assert!(refused.err.contains("hint: most of it are query vectors"), "{}", refused.err);
        assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""));
    }
    let refused = ended(ascribe(&format!("plan {GPT2} --out {run} --memory 1kB")));
    assert!(refused.err.contains("memory") || refused.err.contains("budget"), "{}", refused.err);
    assert!(folder.files("").is_empty());
}

/// A job file plans the same as its flags; without queries it is the curvature alone.
#[test]
fn plans_of_job_files_and_of_fits() {
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!("fit {MLP} --out {run} --progress never"));
    let file = format!("{run}/job.toml");
    let again = folder.arg("again");
    let stages = |flags: &str| -> Vec<String> {
        let plan = done(&format!("plan {flags} --out {again} --no-calibration --format json"));
        let plan: Value = serde_json::from_str(&plan.out).expect("one object");
        let stages = plan["cost"]["stages"].as_array().expect("stages").iter();
        stages.map(|stage| stage["stage"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(stages(&file), stages(MLP));
    let model = "--model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors";
    assert_eq!(stages(model), ["covariance", "eigendecomposition", "lambda"]);
    assert!(fs::metadata(folder.path("again")).is_err());
}
