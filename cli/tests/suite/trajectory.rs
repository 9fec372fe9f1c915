//! `ascribe trajectory`: what is said about training runs, and about folders and files that are none.

use std::fs;

use crate::support::{Folder, ascribe, done, ended};
use serde_json::{Value, json};

/// A base model and its fine-tuning: two rates, a last layer alone in the second stage.
const TWO_STAGES: &str = r#"
[[stage]]
name = "base"
optimizer = "sgd"
momentum = 0.9
nesterov = true
weight_decay = 1e-3
train_examples = 200
batch_size = 10
loss_reduction = "mean"
steps = 40
learning_rate = [{ from_step = 0, value = 0.1 }, { from_step = 30, value = 0.01 }]
checkpoint = [{ path = "base-20", step = 20 }, { path = "base-30", step = 30 }, { path = "base-40", step = 40 }]

[[stage]]
name = "tuned"
optimizer = "adamw"
betas = [0.9, 0.999]
epsilon = 1e-8
weight_decay = 0.0
batch_size = 4
trained_layers = ["layers.2"]
learning_rates = [0.01, 0.02, 0.02, 0.01]
checkpoint = [{ path = "tuned-4", step = 4 }]
"#;

#[test]
fn a_trainers_folder() {
    let unknown = done("trajectory fixtures/trainer-tiny").out;
    let stated = "trajectory fixtures/trainer-tiny --train-examples 48 --loss-scale 0.034 --segments steps:2 --checkpoint-weights nearest";
    let ignored = "trajectory fixtures/trainer-tiny --clipping ignore --segments 1";
    let last = |text: String| {
        text.lines().skip_while(|line| !line.contains("segment")).fold(String::new(), |text, line| text + line + "\n")
    };
    insta::assert_snapshot!(format!(
        "$ ascribe trajectory fixtures/trainer-tiny\n{unknown}\n$ ascribe {stated}\n{}\n$ ascribe {ignored}\n{}",
        last(done(stated).out),
        last(done(ignored).out)
    ));
}

#[test]
fn files_with_one_stage_and_with_several() {
    let folder = Folder::new();
    let file = folder.write("run.toml", TWO_STAGES);
    let one = done("trajectory fixtures/mlp-trajectory/trajectory.toml --segments rate-drops").out;
    let two = folder.filtered(&done(&format!("trajectory {file}")).out);
    insta::assert_snapshot!(format!("{one}\n{two}"));
    // a folder with a description is the description
    let by_folder = done("trajectory fixtures/mlp-trajectory --segments rate-drops").out;
    assert_eq!(by_folder.lines().skip(1).collect::<Vec<_>>(), one.lines().skip(1).collect::<Vec<_>>());
}

#[test]
fn programs_get_the_same_as_an_object() {
    let folder = Folder::new();
    let file = folder.write("run.toml", TWO_STAGES);
    let read = |arguments: &str| -> Value { serde_json::from_str(&done(arguments).out).expect("an object") };
    insta::assert_snapshot!(done("trajectory fixtures/mlp-trajectory --segments 2 --format json").out);
    let run = read(&format!("trajectory {file} --format json --train-examples 200,12 --loss-scale token-mean"));
    assert_eq!(run["stages"][0]["unknown"], json!(["label_tokens_per_example"]));
    assert_eq!(run["stages"][1]["training_examples"], json!(12));
    assert_eq!(run["stages"][1]["segments"][0]["number"], json!(4), "counted through all stages");
    assert_eq!(run["stages"][0]["segments"][0]["tau"], Value::Null);
    // Nesterov: 1 + 0.9 / 0.1 = 10 times 20 x 0.1
    let tau = run["stages"][0]["segments"][0]["tau_without_loss_scale"].as_f64().expect("a number");
    assert!((tau - 20.0).abs() < 1e-12, "{tau}");
    let run = read("trajectory fixtures/trainer-tiny --format json --train-examples 48 --loss-scale 0.5");
    let stage = &run["stages"][0];
    assert_eq!((&stage["unknown"], &stage["loss_scale"]), (&json!([]), &json!(0.5)));
    for segment in stage["segments"].as_array().expect("a list") {
        let [tau, sum, clipped] =
            ["tau", "rate_sum", "clipped_rate_sum"].map(|key| segment[key].as_f64().expect("a number"));
        assert!(clipped < sum && (tau - 0.5 * clipped).abs() < 1e-15, "{segment}");
    }
}

fn edit(folder: &Folder, file: &str, from: &str, to: &str) {
    let path = folder.path(file);
    let text = fs::read_to_string(&path).expect("readable");
    assert!(text.contains(from), "{file} lacks {from}");
    fs::write(path, text.replacen(from, to, 1)).expect("writable");
}

#[test]
fn bad_runs() {
    let mut text = String::new();
    let mut case = |what: &str, folder: &Folder, arguments: &str| {
        let ended = ended(ascribe(&format!("trajectory {arguments}")));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{what}: {}", ended.err);
        text.push_str(&folder.filtered(&format!("# {what}\n{}\n", ended.err)));
    };
    let folder = Folder::new();
    case("no such folder", &folder, &folder.arg("nowhere"));
    folder.write("empty/readme.txt", "");
    case("a folder without checkpoints", &folder, &folder.arg("empty"));
    case("a checkpoint instead of the run", &folder, "fixtures/trainer-tiny/checkpoint-60");
    case("more segments than checkpoints", &folder, "fixtures/trainer-tiny --segments 5");
    case("segments without a checkpoint", &folder, "fixtures/trainer-tiny --segments ends:10,120");
    case("segments that are not segments", &folder, "fixtures/trainer-tiny --segments few");
    case("a loss scale of zero", &folder, "fixtures/trainer-tiny --loss-scale 0");
    case("examples that contradict the log", &folder, "fixtures/trainer-tiny --train-examples 480");
    case("examples of more stages than there are", &folder, "fixtures/mlp-trajectory --train-examples 60,60");
    case("rates that nothing tells", &folder, "fixtures/trajectory/plateau-gpt2");

    let run = folder.copy_of("trainer-tiny");
    fs::rename(folder.path("trainer-tiny/checkpoint-180"), folder.path("trainer-tiny/checkpoint-200"))
        .expect("writable");
    case("a checkpoint of another step", &folder, &run);
    fs::rename(folder.path("trainer-tiny/checkpoint-200"), folder.path("trainer-tiny/checkpoint-180"))
        .expect("writable");
    fs::create_dir(folder.path("trainer-tiny/checkpoint-060")).expect("writable");
    case("two checkpoints of one step", &folder, &run);
    fs::remove_dir(folder.path("trainer-tiny/checkpoint-060")).expect("writable");
    edit(
        &folder,
        "trainer-tiny/checkpoint-240/trainer_state.json",
        "\"learning_rate\": 0.0075",
        "\"learning_rate\": NaN",
    );
    case("a rate in the log that is no number", &folder, &run);
    edit(
        &folder,
        "trainer-tiny/checkpoint-240/trainer_state.json",
        "\"learning_rate\": NaN",
        "\"learning_rate\": 0.008",
    );
    case("a rate in the log that the schedule does not have", &folder, &run);
    edit(&folder, "trainer-tiny/checkpoint-120/config.json", "\"n_embd\": 16", "\"n_embd\": 32");
    case("checkpoints of two models", &folder, &run);
    edit(&folder, "trainer-tiny/checkpoint-120/config.json", "\"n_embd\": 32", "\"n_embd\": 16");
    fs::remove_file(folder.path("trainer-tiny/checkpoint-240/trainer_state.json")).expect("writable");
    case("no log", &folder, &run);

    let mut description = |what: &str, from: &str, to: &str| {
        assert!(TWO_STAGES.contains(from), "{from}");
        let file = folder.write("run.toml", TWO_STAGES.replacen(from, to, 1));
        case(what, &folder, &file);
    };
    description("a rate in a file that is no number", "value = 0.01", "value = nan");
    description("checkpoints out of order", "step = 30 }", "step = 10 }");
    description("missing steps", "steps = 40", "steps = 35");
    description("too few rates", "learning_rates = [0.01, 0.02, 0.02, 0.01]", "learning_rates = [0.01]");
    description("an unknown key", "momentum", "momentun");
    description(
        "an optimizer without a form",
        "\"adamw\"\nbetas = [0.9, 0.999]\nepsilon = 1e-8\nweight_decay = 0.0",
        "\"lion\"",
    );
    description("no checkpoints", "checkpoint = [{ path = \"tuned-4\", step = 4 }]", "");
    let file = folder.write("run.toml", TWO_STAGES);
    case("borders in a run of several stages", &folder, &format!("{file} --segments ends:20"));
    insta::assert_snapshot!(text);
}

/// States that are not read leave everything else readable; the warning names them.
#[test]
fn states_that_are_not_read_are_named() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-tiny");
    let checkpoint = |step: u32, name: &str| folder.path(&format!("trainer-tiny/checkpoint-{step}/{name}"));
    fs::remove_file(checkpoint(60, "optimizer.pt")).expect("writable");
    fs::create_dir(checkpoint(60, "optimizer_0")).expect("writable");
    fs::remove_file(checkpoint(120, "optimizer.pt")).expect("writable");
    fs::write(checkpoint(120, "latest"), "global_step120").expect("writable");
    fs::write(checkpoint(120, "zero_to_fp32.py"), "").expect("writable");
    fs::remove_file(checkpoint(180, "optimizer.pt")).expect("writable");
    let out = done(&format!("trajectory {run} --segments ends:60,120,240")).out;
    let said: Vec<&str> = out.lines().skip_while(|line| !line.starts_with("warning")).collect();
    insta::assert_snapshot!(folder.filtered(&said.join("\n")));
}

/// With examples their loss at each checkpoint stands beside the log, and what they count is known.
#[test]
fn the_loss_of_examples_stands_beside_the_log() {
    let tiny = "trajectory fixtures/trainer-tiny --train fixtures/trainer-tiny/train.jsonl";
    let found = done(&format!("{tiny} --add-eos train")).out;
    assert_eq!(found.matches(": agrees").count(), 4, "{found}");
    assert!(found.contains("loss      checkpoint-60: loss ") && !found.contains("not known"), "{found}");
    assert!(found.lines().any(|line| line.contains("training examples") && line.contains("48")), "{found}");
    let json = done(&format!("{tiny} --add-eos train --format json")).out;
    let json: Value = serde_json::from_str(&json).expect("one object");
    assert_eq!(json["loss_check"]["checkpoints"].as_array().expect("a list").len(), 4);
    assert!(json["stages"][0]["loss_scale"].as_f64().expect("a number") < 0.1, "one over the tokens of an example");
    let other = done(tiny).out;
    assert!(other.contains("warning   the training data are probably not what training saw"), "{other}");
    assert!(other.contains("(`--add-eos train`)"), "{other}");
    // one checkpoint is enough, and nothing is written
    let folder = Folder::new();
    let run = folder.copy_of("trainer-tiny");
    for step in [60, 120, 180] {
        fs::remove_dir_all(folder.path(&format!("trainer-tiny/checkpoint-{step}"))).unwrap();
    }
    let before = folder.files("trainer-tiny");
    let found = done(&format!("trajectory {run} --train fixtures/trainer-tiny/train.jsonl --add-eos train")).out;
    assert_eq!(found.matches(": agrees").count(), 1, "{found}");
    crate::support::assert_untouched(&before, &folder.files("trainer-tiny"));
    for (flags, problem) in [
        ("--add-eos train", "flags about data say how `--train` is read"),
        ("--train t.jsonl --queries q.jsonl", "`--queries` are asked of scores"),
        ("--train t.jsonl --no-loss-check", "leaves out what `--train` is given for"),
        ("--train nowhere.jsonl", "nowhere.jsonl"),
    ] {
        let refused = ended(ascribe(&format!("trajectory fixtures/trainer-tiny {flags}")));
        assert!(refused.code == Some(2) && refused.err.contains(problem), "{flags}: {}", refused.err);
    }
}
