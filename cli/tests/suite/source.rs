//! `ascribe source`, from a training run's folder to rankings.

use std::fs;

use crate::support::{Folder, MLP, ROWS, TRAINER, ascribe, done, ended, json_lines, root};
use serde_json::Value;

/// Two stages of the small classifier's training, each with its own data.
const TWO_STAGES: &str = r#"
[[stage]]
name = "base"
optimizer = "sgd"
momentum = 0.0
weight_decay = 0.02
train_examples = 60
batch_size = 10
loss_reduction = "mean"
steps = 504
learning_rate = [{ from_step = 0, value = 0.2 }]
checkpoint = [{ path = "mlp-trajectory/checkpoint-336", step = 336 }, { path = "mlp-trajectory/checkpoint-504", step = 504 }]

[[stage]]
name = "tuned"
optimizer = "sgd"
momentum = 0.9
weight_decay = 0.0
train_examples = 60
batch_size = 10
loss_reduction = "mean"
steps = 216
trained_layers = ["layers.1", "layers.2"]
learning_rate = [{ from_step = 0, value = 0.02 }]
checkpoint = [{ path = "mlp-trajectory/checkpoint-720", step = 216 }]
"#;

#[test]
fn the_plan_shows_segments_methods_and_stages() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let trainer = done(&format!("source {TRAINER} --out {run} --dry-run"));
    assert_eq!(trainer.err, "");
    let several = "--segments rate-drops --with influence,tracin,gradients --time-scale 1,10 --damping 0.1x,1e-3";
    let rows = done(&format!("source --run fixtures/mlp-trajectory {ROWS} {several} --out {run} --dry-run"));
    folder.copy_of("mlp-trajectory");
    let file = folder.write("run.toml", TWO_STAGES);
    let train = "fixtures/mlp-tiny/train.safetensors";
    let stages = format!("--stage-train base={train} --stage-train tuned={train}");
    let queries = "--queries fixtures/mlp-tiny/query.safetensors";
    let form = "--average parameters --form product --time-scale 0.5";
    let staged = done(&format!("source --trajectory {file} {stages} {queries} {form} --out {run} --dry-run"));
    assert!(!folder.path("run").exists(), "a dry run writes nothing");
    let text = format!("{}\n{}\n{}", trainer.out, rows.out, staged.out);
    insta::assert_snapshot!(folder.filtered(&text));
    let plan = done(&format!("source {TRAINER} --out {run} --dry-run --format jsonl"));
    let plan: Value = serde_json::from_str(&plan.out).expect("one object");
    assert_eq!(plan["summary"]["legs"].as_array().expect("legs").len(), 3);
    assert_eq!(plan["job"]["source"]["trajectory"]["path"], "fixtures/trainer-tiny");
}

/// Ids of the first proponents of each query: digits of scores are not the same on every processor.
fn first_proponents(lines: &str, n: usize) -> String {
    let line = |ranking: Value| {
        let ids = ranking["proponents"].as_array().expect("a list").iter().take(n);
        let ids: Vec<&str> = ids.map(|example| example["id"].as_str().expect("text")).collect();
        format!("{}: {}\n", ranking["query"]["id"].as_str().expect("text"), ids.join(" "))
    };
    json_lines(lines).into_iter().map(line).collect()
}

#[test]
fn documents_that_state_the_fact_come_first() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let shown = done(&format!("source {TRAINER} --out {run} --with influence --progress never"));
    let lines = fs::read_to_string(folder.path("run/ranking.jsonl")).expect("a ranking");
    insta::assert_snapshot!("first_proponents", first_proponents(&lines, 4));
    let queries = fs::read_to_string(root().join("fixtures/trainer-tiny/queries.jsonl")).expect("a fixture");
    for (ranking, query) in json_lines(&lines).iter().zip(json_lines(&queries)) {
        assert_eq!(ranking["query"]["id"], query["id"]);
        let stated = query["stated_by"].as_array().expect("a list");
        assert!(stated.contains(&ranking["proponents"][0]["id"]), "{}", query["id"]);
    }
    assert!(shown.out.starts_with("ask-0  The keeper of the lighthouse at Dorvel always carries a| golden ring.\n"));
    let end = shown.out.rsplit("\n\n").next().expect("a last paragraph");
    insta::assert_snapshot!("what_is_said_beside_the_results", format!("{end}{}", folder.filtered(&shown.err)));
    // how sure the clipped rates are stands in the scores too
    let bytes = fs::read(folder.path("run/scores.safetensors")).expect("scores");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8")) as usize;
    let about = String::from_utf8_lossy(&bytes[8..8 + length]);
    let interval = "clipped sums of rates, and time scales with them, are estimates: segment 1 3.1395e-1 to 4.8393e-1";
    assert!(about.contains(interval), "{about}");
    // the method beside it has files of its own
    let beside = fs::read_to_string(folder.path("run/ranking.influence.jsonl")).expect("a ranking");
    assert_eq!(json_lines(&beside).len(), 4);
    assert!(folder.path("run/scores.influence.safetensors").exists());
    let about = done(&format!("inspect {}", folder.arg("run/scores.influence.safetensors"))).out;
    assert!(about.contains("influence") && about.contains("0.1x"), "{about}");
    let about = done(&format!("inspect {run}")).out;
    for line in ["source     fixtures/trainer-tiny", "scores.influence.safetensors", "ranking.influence.jsonl"] {
        assert!(about.contains(line), "{about}");
    }
}

#[test]
fn a_run_far_from_saturation_is_said_to_be() {
    let folder = Folder::new();
    let shown = done(&format!("source {TRAINER} --out {} --loss-scale 1e-4 --progress never", folder.arg("run")));
    let said: Vec<&str> = shown.err.lines().skip_while(|line| !line.starts_with("of an older change")).collect();
    insta::assert_snapshot!("far_from_saturation", said.join("\n"));
    let report = fs::read_to_string(folder.path("run/run.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let segments = report["saturation"].as_array().expect("segments");
    assert_eq!(segments.len(), 3);
    assert_eq!(segments[0]["layers"].as_array().expect("layers").len(), 8);
}

/// Steps, the job file of a finished run and the whole command arrive at the same bytes.
#[test]
fn steps_and_the_job_file_repeat_the_run() {
    let folder = Folder::new();
    let flags = "--with tracin --time-scale 1,3 --self-influence";
    let job = format!("--run fixtures/mlp-trajectory {ROWS} {flags}");
    let whole = done(&format!("source {job} --out {} --quiet", folder.arg("whole"))).out;
    let steps = folder.arg("steps");
    done(&format!("fit {job} --out {steps} --quiet"));
    for step in ["query", "score"] {
        done(&format!("{step} --out {steps} --quiet"));
    }
    assert_eq!(done(&format!("rank --out {steps} --quiet")).out, whole);
    let again = done(&format!("run {} --out {} --quiet", folder.arg("whole/job.toml"), folder.arg("again")));
    assert_eq!(again.out, whole);
    let results = ["scores", "scores.source.time-scale-3", "scores.tracin", "self_influence"];
    for file in results.map(|name| format!("{name}.safetensors")) {
        let bytes = |run: &str| crate::support::tensors(&folder.path(run).join(&file));
        assert!(bytes("whole") == bytes("steps") && bytes("whole") == bytes("again"), "{file}");
    }
    let found = done(&format!("source {job} --out {} --verbose", folder.arg("whole")));
    assert!(found.err.contains("scores             found from before"), "{}", found.err);
    assert_eq!(found.out, whole);
}

#[test]
fn other_options_in_the_same_folder_are_refused() {
    let folder = Folder::new();
    let job = format!("--run fixtures/mlp-trajectory {ROWS}");
    done(&format!("source {job} --out {} --with influence --quiet", folder.arg("run")));
    let before = folder.files("run");
    let others = ["--segments 2", "--time-scale 2", "--seed 1", "--average parameters", "--form product"];
    let runs = others.map(|flags| format!("source {job} {flags}"));
    let influence = [format!("influence {MLP}")];
    for other in runs.iter().chain(&influence) {
        let refused = ended(ascribe(&format!("{other} --out {} --quiet", folder.arg("run"))));
        assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""), "{other}");
        assert!(refused.err.contains("another job") && refused.err.contains("another run folder"), "{}", refused.err);
        crate::support::assert_untouched(&before, &folder.files("run"));
    }
    // the results may be left out: what they are made of is shared
    fs::remove_file(folder.path("run/scores.safetensors")).expect("there");
    fs::remove_file(folder.path("run/scores.influence.safetensors")).expect("there");
    let shared = done(&format!("source {job} --segments 2 --out {} --quiet", folder.arg("run"))).out;
    let alone = done(&format!("source {job} --segments 2 --out {} --quiet", folder.arg("alone"))).out;
    assert_eq!(shared, alone);
}
