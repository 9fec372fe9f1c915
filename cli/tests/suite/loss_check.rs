//! The loss of training examples beside the training log: runs that are read as they were trained agree, and each way
//! to read them otherwise is a warning that names it.

use std::fs;
use std::path::Path;

use crate::support::{Folder, done, root};
use ascribe::attribution::store::TensorFile;
use serde_json::Value;

const TINY: &str = "fixtures/trainer-tiny";
const MASKED: &str = "fixtures/trainer-masked";

/// The plan of influence averaged over a fixture's checkpoints.
#[track_caller]
fn plan(run: &str, train: &str, flags: &str) -> String {
    let tokenizer = if flags.contains("--tokenizer") { "" } else { "--tokenizer fixtures/trainer-tiny" };
    done(&format!(
        "influence --run {run} --train {train} --queries {TINY}/queries.jsonl {tokenizer} {flags} --dry-run --out target/never-written"
    ))
    .out
}

#[track_caller]
fn agrees(plan: &str, checkpoints: usize) {
    assert_eq!(plan.matches(": agrees").count(), checkpoints, "{plan}");
    assert!(!plan.contains("DISAGREES") && !plan.contains("warning"), "{plan}");
}

/// The warning of a plan that has one.
#[track_caller]
fn warning(plan: &str) -> &str {
    let warning = plan.lines().find_map(|line| line.strip_prefix("warning"));
    warning.unwrap_or_else(|| panic!("no warning in\n{plan}")).trim()
}

#[test]
fn runs_that_are_read_as_they_were_trained_agree() {
    agrees(&plan(TINY, &format!("{TINY}/train.jsonl"), "--add-eos train"), 4);
    agrees(&plan(MASKED, &format!("{MASKED}/train.jsonl"), "--add-eos train:input"), 2);
    let source = done(&format!(
        "source --run {TINY} --train {TINY}/train.jsonl --queries {TINY}/queries.jsonl --add-eos train --dry-run --out target/never-written"
    ));
    agrees(&source.out, 4);
}

#[test]
fn a_missing_end_token_is_named() {
    let plan = plan(TINY, &format!("{TINY}/train.jsonl"), "");
    let warning = warning(&plan);
    assert!(warning.starts_with("the training data are probably not what training saw"), "{warning}");
    assert!(warning.contains("(`--add-eos train`)"), "{warning}");
}

#[test]
fn an_end_token_as_a_target_that_was_masked_is_named() {
    let plan = plan(MASKED, &format!("{MASKED}/train.jsonl"), "--add-eos train");
    let warning = warning(&plan);
    assert!(warning.contains("with labels at end tokens ignored (`--add-eos train:input`) it would be"), "{warning}");
    assert!(warning.contains(", as logged"), "{warning}");
}

/// A run of TRL corrupted in each way: its 48 texts with an end token behind each, 1,453 tokens in all.
#[test]
fn a_run_of_trl_read_otherwise_is_caught() {
    let run = "fixtures/trainer-trl/checkpoint-60";
    let plan = |train: &str, flags: &str| {
        let command = format!(
            "influence --model {run} --train {train} --queries {TINY}/queries.jsonl --tokenizer {TINY} {flags} --dry-run --out target/never-written"
        );
        done(&command).out
    };
    let train = format!("{TINY}/train.jsonl");
    agrees(&plan(&train, "--add-eos train"), 1);
    // the model was trained to expect end tokens, and the count has them
    let missing = plan(&train, "");
    let expected = "with an end token behind each of the 48 examples they would be 1453, as counted (`--add-eos train`";
    assert!(warning(&missing).contains(expected), "{missing}");
    let twice = plan(&train, "--add-eos train --add-bos train");
    assert!(warning(&twice).contains("has 1501; with one special token less in each of the 48"), "{twice}");
    let rows = fs::read_to_string(root().join(&train)).expect("text");
    let folder = Folder::new();
    let half = folder.write("half.jsonl", rows.lines().take(24).map(|line| format!("{line}\n")).collect::<String>());
    let half = plan(&half, "--add-eos train");
    assert!(half.contains("they are other examples, or were read otherwise"), "{half}");
    assert!(half.contains("so training had between 40 and 56 of them; 24 are given"), "{half}");
    // another template in front of each text: more tokens than the log has
    let templated = rows.lines().map(|line| {
        let row: Value = serde_json::from_str(line).expect("an object");
        serde_json::json!({"text": format!("### Text:\n{}", row["text"].as_str().expect("text"))}).to_string() + "\n"
    });
    let templated = folder.write("templated.jsonl", templated.collect::<String>());
    assert!(warning(&plan(&templated, "--add-eos train")).contains("an epoch of the training data has"));
    // the count has end tokens that are read, whether or not they are targets: the loss or the model has to tell
    let masked = plan(&train, "--add-eos train:input");
    assert!(masked.contains("TRL's end tokens are targets, unless"), "{masked}");
    assert!(masked.contains("warning") || masked.contains("cannot tell how training had end tokens"), "{masked}");
}

/// Too few targets are end tokens for the loss to show them: then the check does not claim to know.
#[test]
fn losses_that_cannot_tell_say_so() {
    let data = root().join("../shared/data/runs/linear");
    if !data.is_dir() {
        eprintln!("skipped: {} is not there", data.display());
        return;
    }
    let at = |file: &str| data.join(file).display().to_string();
    let (run, train, queries, tokenizer) = (at("run"), at("train.jsonl"), at("queries.jsonl"), at("tokenizer.json"));
    let files = format!("--train {train} --queries {queries} --tokenizer {tokenizer}");
    for flags in ["", "--add-eos train", "--add-eos train:input"] {
        let plan = done(&format!("influence --run {run} {files} {flags} --dry-run --out target/never-written")).out;
        assert!(
            plan.contains("warning") || plan.contains("cannot tell how training had end tokens"),
            "{flags}\n{plan}"
        );
    }
}

#[test]
fn prompts_as_targets_disagree() {
    let folder = Folder::new();
    let rows = fs::read_to_string(root().join(MASKED).join("train.jsonl")).expect("text");
    let joined = rows.lines().map(|line| {
        let row: Value = serde_json::from_str(line).expect("an object");
        let part = |name: &str| row[name].as_str().expect("text").to_owned();
        serde_json::json!({"text": part("prompt") + &part("completion")}).to_string() + "\n"
    });
    let file = folder.write("joined.jsonl", joined.collect::<String>());
    let plan = plan(MASKED, &file, "--add-eos train:input");
    assert!(plan.contains("DISAGREES"), "{plan}");
    assert!(warning(&plan).contains("mask"), "{plan}");
}

#[test]
fn half_of_the_data_contradicts_the_epochs() {
    let folder = Folder::new();
    let rows = fs::read_to_string(root().join(TINY).join("train.jsonl")).expect("text");
    let file = folder.write("half.jsonl", rows.lines().take(24).map(|line| format!("{line}\n")).collect::<String>());
    let plan = plan(TINY, &file, "--add-eos train");
    let expected =
        "the log has 6.0 updates of 8 examples in an epoch, so training had between 40 and 56 of them; 24 are given";
    assert!(warning(&plan).contains(expected), "{plan}");
    assert!(!self::plan(TINY, &file, "--add-eos train --train-size 48").contains("updates of 8 examples"));
}

#[test]
fn another_tokenizer_disagrees() {
    let folder = Folder::new();
    let from = root().join(TINY);
    let text = fs::read_to_string(from.join("tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("an object");
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let n = vocabulary.len() as u64;
    for id in vocabulary.values_mut().filter(|id| **id != 0) {
        *id = Value::from((id.as_u64().expect("a number") + 76) % (n - 1) + 1);
    }
    folder.write("other/tokenizer.json", tokenizer.to_string());
    folder.write("other/tokenizer_config.json", fs::read(from.join("tokenizer_config.json")).expect("readable"));
    let plan =
        plan(TINY, &format!("{TINY}/train.jsonl"), &format!("--add-eos train --tokenizer {}", folder.arg("other")));
    assert!(plan.matches("DISAGREES").count() == 4, "{plan}");
    assert!(warning(&plan).contains("It may be another tokenizer"), "{plan}");
}

#[test]
fn the_check_can_be_left_out() {
    let plan = plan(TINY, &format!("{TINY}/train.jsonl"), "--no-loss-check");
    assert!(!plan.contains("around step") && !plan.contains("warning"), "{plan}");
}

#[test]
fn a_run_without_logged_losses_says_so_once() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-masked");
    let file = Path::new(&run).join("checkpoint-120/trainer_state.json");
    let text = fs::read_to_string(&file).expect("a state").replace("\"loss\"", "\"other\"");
    fs::write(&file, text).expect("writable");
    let plan = plan(&run, &format!("{MASKED}/train.jsonl"), "--add-eos train:input");
    assert_eq!(plan.matches("there is no log of losses").count(), 1, "{plan}");
    assert!(!plan.contains("around step"), "{plan}");
}

#[test]
fn results_hold_what_was_found_and_the_same_run_does_not_compare_again() {
    let folder = Folder::new();
    let command = format!(
        "influence --run {MASKED} --train {MASKED}/train.jsonl --queries {TINY}/queries.jsonl --tokenizer {TINY} --add-eos train:input --method influence --out {}",
        folder.arg("run")
    );
    let command = command.replace(" --method influence", "");
    assert!(done(&command).err.contains("checkpoint-120: loss "));
    let stored = TensorFile::open_checked(&folder.path("run/scores.safetensors")).expect("scores");
    let check: Value = serde_json::from_str(stored.metadata("loss_check").expect("an entry")).expect("an object");
    assert_eq!(check["checkpoints"].as_array().map(Vec::len), Some(2));
    assert_eq!(check["checkpoints"][1]["agrees"], true);
    // what the folder holds is told again, not computed
    let file = folder.path("run/loss_check.json");
    let text = fs::read_to_string(&file).expect("a file").replace("checkpoint-120", "as stored");
    fs::write(&file, text).expect("writable");
    assert!(done(&command).err.contains("as stored: loss "));
}

/// Recorded runs of transformers and TRL (when `../shared/data` is there), read as `README.md` there says.
#[test]
fn recorded_runs_agree() {
    let data = root().join("../shared/data");
    let mut runs: Vec<(String, String, &str, usize)> = vec![];
    for (name, checkpoints) in [
        ("linear", 3),
        ("accumulation", 2),
        ("clip_small", 3),
        ("wsd", 3),
        ("stopped", 2),
        ("sft", 3),
        ("custom_create", 3),
    ] {
        let at = data.join("runs").join(name);
        let at = |file: &str| at.join(file).display().to_string();
        let tokenizer = format!("--tokenizer {}", at("tokenizer.json"));
        let train = format!("--train {} --queries {}", at("train.jsonl"), at("queries.jsonl"));
        runs.push((at("run"), format!("{train} {tokenizer}"), "--add-eos train", checkpoints));
    }
    for (run, files, flags, checkpoints) in runs {
        if !Path::new(&run).is_dir() {
            eprintln!("skipped: {run} is not there");
            return;
        }
        let plan = done(&format!("influence --run {run} {files} {flags} --dry-run --out target/never-written")).out;
        agrees(&plan, checkpoints);
    }
}

/// The first way to read the data that has the logged loss, by the warning of a plan.
#[track_caller]
fn first_cause(plan: &str) -> &str {
    warning(plan).split(", as logged").next().expect("a part")
}

/// `../shared/data/gpt2-mini` (when it is there): 96 of the 2,016 documents of a real Trainer run, as they are and corrupted.
/// The right cause is the first that is named.
#[test]
fn each_corruption_of_gpt2_mini_is_named_first() {
    let data = root().join("../shared/data/gpt2-mini");
    if !data.is_dir() {
        eprintln!("skipped: {} is not there", data.display());
        return;
    }
    let folder = Folder::new();
    let at = |name: &str| data.join(name).display().to_string();
    let plan = |train: &str, tokenizer: &str, flags: &str| {
        done(&format!(
            "influence --model {} --train {train} --queries {} --tokenizer {tokenizer} --max-length 128 --train-size 2016 {flags} --dry-run --out target/never-written",
            at("checkpoint-2520"),
            at("query.jsonl"),
        ))
        .out
    };
    let rows = fs::read_to_string(data.join("train.jsonl")).expect("text");
    let text = |line: &str| -> String {
        let row: Value = serde_json::from_str(line).expect("an object");
        row["text"].as_str().expect("text").to_owned()
    };
    let write = |name: &str| {
        let lines = rows.lines().step_by(21).map(|line| serde_json::json!({"text": text(line)}));
        folder.write(name, lines.map(|row| format!("{row}\n")).collect::<String>())
    };
    let (part, tokenizer) = (write("part.jsonl"), at("tokenizer"));
    agrees(&plan(&part, &tokenizer, "--add-eos train"), 1);
    let said = plan(&part, &tokenizer, "");
    assert!(warning(&said).contains("without end tokens") && warning(&said).contains("(`--add-eos train`)?"), "{said}");
    let said = plan(&part, &tokenizer, "--add-eos train:input");
    assert!(warning(&said).contains("end tokens that are no targets"), "{said}");
    let said = plan(&part, &tokenizer, "--add-eos train --add-bos train");
    assert!(first_cause(&said).contains("without the begin token in front (leave `--add-bos` out)"), "{said}");
    let file = fs::read(data.join("tokenizer/tokenizer.json")).expect("readable");
    let mut other: Value = serde_json::from_slice(&file).expect("an object");
    let vocabulary = other["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let n = vocabulary.len() as u64;
    for id in vocabulary.values_mut().filter(|id| **id != 0) {
        *id = Value::from((id.as_u64().expect("a number") + 300) % (n - 1) + 1);
    }
    folder.write("other/tokenizer.json", other.to_string());
    let config = fs::read(data.join("tokenizer/tokenizer_config.json")).expect("readable");
    folder.write("other/tokenizer_config.json", config);
    let said = plan(&part, &folder.arg("other"), "--add-eos train");
    assert!(warning(&said).contains("It may be another tokenizer"), "{said}");
}

const SMOOTHED: &str = "fixtures/trainer-smoothed";
const DROPPED: &str = "fixtures/trainer-dropped";

/// The logged loss of a run with label smoothing is that with it; without knowing of it the losses disagree.
#[test]
fn label_smoothing_is_part_of_what_is_compared() {
    let train = format!("{TINY}/train.jsonl");
    agrees(&plan(SMOOTHED, &train, "--add-eos train"), 2);
    let folder = Folder::new();
    let run = folder.copy_of("trainer-smoothed");
    fs::copy(root().join(DROPPED).join("training_args.bin"), Path::new(&run).join("training_args.bin"))
        .expect("written");
    let plan = plan(&run, &train, "--add-eos train");
    assert!(plan.contains("DISAGREES"), "{plan}");
}

/// Dropout raises the logged loss: by its share the loss of the examples may be lower, which the configuration says.
#[test]
fn dropout_widens_the_tolerance_by_its_share() {
    let train = format!("{TINY}/train.jsonl");
    let with = plan(DROPPED, &train, "--add-eos train");
    agrees(&with, 2);
    let folder = Folder::new();
    let run = folder.copy_of("trainer-dropped");
    for step in [40, 80] {
        let file = Path::new(&run).join(format!("checkpoint-{step}/config.json"));
        let mut config: Value = serde_json::from_slice(&fs::read(&file).expect("readable")).expect("an object");
        for key in ["attn_pdrop", "embd_pdrop", "resid_pdrop"] {
            assert_eq!(config[key], 0.2);
            config[key] = Value::from(0.0);
        }
        fs::write(&file, config.to_string()).expect("written");
    }
    let without = plan(&run, &train, "--add-eos train");
    // 20 % of the loss below, and nothing above
    let bounds = |plan: &str| -> Vec<(f64, f64)> {
        let number = |text: &str| text.split_whitespace().next().expect("a number").parse().expect("a number");
        let of_line = |line: &str| {
            let (low, high) = line.split("the log has ").nth(1)?.split_once(" to ")?;
            Some((number(low), number(high)))
        };
        plan.lines().filter_map(of_line).collect()
    };
    let (with, without) = (bounds(&with), bounds(&without));
    assert_eq!((with.len(), without.len()), (2, 2));
    for ((low, high), (plain_low, plain_high)) in with.into_iter().zip(without) {
        assert!(high == plain_high && low < plain_low, "{low} {high}, {plain_low} {plain_high}");
        let share = (plain_low - low) / ((plain_low + plain_high) / 2.0);
        assert!((share - 0.2).abs() < 0.01, "{low} {plain_low} {high}");
    }
}
