//! `ascribe source`, from a training run's folder to rankings.

use std::fs;

use crate::support::{
    Folder, MLP, ROWS, TRAINER, ascribe, assert_near, done, ended, json_lines, root, scores, scores_of,
};
use ascribe::attribution::store::TensorFile;
use ascribe::trajectory::{Company, ExampleWeights, Targets, TrajectoryRequest};
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

/// What examples counted in the means over their batches multiplies their scores, self-influences and tokens' shares.
/// Functions of the Gauss-Newton matrix of all layers in the place of EK-FAC's.
#[test]
fn segments_are_carried_jointly() {
    let folder = Folder::new();
    let (run, source) = (folder.arg("run"), format!("source --run fixtures/mlp-trajectory {ROWS}"));
    let jointly = format!("{source} --solve gauss-newton --solve-iterations 2");
    let plan = done(&format!("{jointly} --out {run} --dry-run")).out;
    let said = "carried jointly with the Gauss-Newton matrix of all layers (2 products for each segment)";
    assert!(plan.contains(said), "{plan}");
    let found = done(&format!("{jointly} --out {run}"));
    assert!(found.out.contains("solved to a residual of "), "{}", found.out);
    let file = TensorFile::open(&folder.path("run/scores.safetensors")).expect("scores");
    let said = |name: &str| file.metadata(name).unwrap_or_default().to_owned();
    assert_eq!(
        (said("method"), said("solve"), said("solve_iterations")),
        ("source".into(), "gauss-newton".into(), "2".into())
    );
    let residuals = file.f64("residuals").expect("residuals");
    assert!(residuals.iter().all(|&residual| residual > 0.0 && residual < 1.0), "{residuals:?}");
    for (flags, problem) in [
        ("--solve subspace", "`--solve subspace` is for influence, and Source is asked for"),
        ("--solve gauss-newton --form product", "`--form` asks for single steps"),
        ("--solve gauss-newton --self-influence", "`--self-influence` is taken with the curvature of each layer"),
        ("--solve-iterations 2", "belong to joint solves"),
    ] {
        let refused = ended(ascribe(&format!("{source} {flags} --out {}", folder.arg("refused"))));
        assert_eq!(refused.code, Some(2), "{flags}: {}", refused.err);
        assert!(refused.err.contains(problem), "{flags}: {}", refused.err);
        assert!(!folder.path("refused").exists());
    }
}

#[test]
fn examples_count_what_they_did_in_their_batches() {
    let folder = Folder::new();
    let rows = fs::read_to_string(root().join("fixtures/trainer-experts/train.jsonl")).expect("a fixture");
    let queries = folder.write("queries.jsonl", rows.lines().take(2).collect::<Vec<_>>().join("\n"));
    let job = format!(
        "source --run fixtures/trainer-experts --train fixtures/trainer-experts/train.jsonl --queries {queries} \
         --segments 1 --average parameters --self-influence --self-influence-form local --tokens ranked --quiet"
    );
    done(&format!("{job} --out {}", folder.arg("alike")));
    done(&format!("{job} --example-weights batches --out {}", folder.arg("batches")));
    let counts: Vec<usize> =
        json_lines(&rows).iter().map(|row| row["input_ids"].as_array().expect("tokens").len() - 1).collect();
    let run = root().join("fixtures/trainer-experts");
    let batch = TrajectoryRequest::new(run).read().expect("a run")[0].batch;
    let weights = ExampleWeights {
        examples: batch.per_process * batch.accumulation,
        company: Company::Drawn,
        targets: Targets::of(counts.clone()).expect("examples"),
    };
    let [alike, batches] = ["alike", "batches"].map(|run| scores_of(&folder, run));
    let n = counts.len();
    let weight = |m: usize| weights.weight(counts[m]) as f32;
    assert!((0..n).map(weight).fold(0.0, f32::max) > 1.01, "some count more than others");
    let expected: Vec<f32> = alike.iter().enumerate().map(|(k, score)| weight(k % n) * score).collect();
    assert_near(&batches, &expected, 1e-6, "scores");
    let own = |run: &str| {
        let file = TensorFile::open(&folder.path(run).join("self_influence.safetensors")).expect("a file");
        file.f32("self_influence").expect("f32").to_vec()
    };
    let expected: Vec<f32> = own("alike").iter().enumerate().map(|(m, own)| weight(m) * own).collect();
    assert_near(&own("batches"), &expected, 1e-6, "self-influence");
    // shares of tokens add up to the score
    let lines = fs::read_to_string(folder.path("batches/ranking.jsonl")).expect("a ranking");
    for ranking in json_lines(&lines) {
        let first = &ranking["proponents"][0];
        let share = |of: &Value| of["share"].as_f64().expect("a number");
        let sum: f64 = first["tokens"].as_array().expect("tokens").iter().map(share).sum();
        let (sum, score) = (sum + first["rest"].as_f64().unwrap_or(0.0), first["score"].as_f64().expect("a number"));
        assert!((sum - score).abs() <= 1e-4 * score.abs(), "{sum} {score}: {first}");
    }
    let metadata = fs::read(folder.path("batches/scores.safetensors")).expect("scores");
    assert!(String::from_utf8_lossy(&metadata).contains("scores are multiplied with what an example counted so"));
    // what is not recorded is refused
    for (flags, problem) in [
        (format!("source --run fixtures/mlp-trajectory {ROWS}"), "is not recorded"),
        (format!("{job} --loss-scale token-mean"), "is not recorded"),
        (job.replace("source --run", "influence --run"), "is for Source"),
    ] {
        let refused =
            ended(ascribe(&format!("{flags} --example-weights batches --dry-run --out {}", folder.arg("no"))));
        assert!(refused.code == Some(2) && refused.err.contains(problem), "{}", refused.err);
    }
}

/// A Trainer's run as two stages, each with the examples that it had.
#[test]
fn parts_of_a_trainers_run_are_stages() {
    let folder = Folder::new();
    let run = toml::Value::from(root().join("fixtures/trainer-experts").to_string_lossy().as_ref()).to_string();
    let text = format!(
        "[[stage]]\nname = \"a\"\nrun = {run}\nlast_step = 8\n\n[[stage]]\nname = \"b\"\nrun = {run}\nafter_step = 8\n"
    );
    let file = folder.write("trajectory.toml", text);
    let train = "fixtures/trainer-experts/train.jsonl";
    let job = format!("--queries {train} --segments 1 --average parameters --quiet");
    let stages = format!("source --trajectory {file} --stage-train a={train} --stage-train b={train} {job} --by-stage");
    done(&format!("{stages} --out {}", folder.arg("stages")));
    done(
        &format!(
            "source --run fixtures/trainer-experts --train {train} {job} --segments 2 --out {}",
            folder.arg("one")
        )
        .replace("--segments 1 ", ""),
    );
    // the same segments of the same run: two stages of the same examples are one run
    let [stages, one] = ["stages", "one"].map(|run| scores_of(&folder, run));
    assert_near(&stages, &one, 1e-4, "two stages of one run");
}

/// TracIn of two checkpoints with the rates 0.1 and 0.2: the products of gradients at each, times its rate.
#[test]
fn tracin_of_two_checkpoints_is_their_products_times_their_rates() {
    let folder = Folder::new();
    folder.copy_of("mlp-trajectory");
    let of = |step: usize| format!("mlp-trajectory/checkpoint-{step}");
    let text = format!(
        "optimizer = \"sgd\"\nmomentum = 0.0\nweight_decay = 0.0\ntrain_examples = 60\nbatch_size = 10\n\
         loss_reduction = \"mean\"\nlearning_rates = [0.1, 0.2]\n\
         checkpoint = [{{ path = \"{}\", step = 1 }}, {{ path = \"{}\", step = 2 }}]\n",
        of(336),
        of(504)
    );
    let file = folder.write("run.toml", text);
    done(&format!("source --trajectory {file} {ROWS} --with tracin --quiet --out {}", folder.arg("run")));
    let products = |step: usize| {
        let out = format!("dots-{step}");
        let model = folder.arg(&of(step));
        done(&format!("influence --model {model} {ROWS} --curvature identity --quiet --out {}", folder.arg(&out)));
        scores_of(&folder, &out)
    };
    let [first, second] = [336, 504].map(products);
    let expected: Vec<f32> = first.iter().zip(&second).map(|(a, b)| 0.1 * a + 0.2 * b).collect();
    let found = scores(&folder.path("run/scores.tracin.safetensors"));
    assert_near(&found, &expected, 1e-5, "TracIn");
}
