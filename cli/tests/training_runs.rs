//! Recorded runs of transformers and TRL as jobs (when `../shared/data/runs` is there), and descriptions and files of
//! runs that contradict each other: each is refused with one message, or named in the plan.

mod support;

use std::fs;

use support::{Ended, Folder, TRAINER, ascribe, done, ended, root};

/// The flags of a job on a recorded run; `None` if the data are not there.
fn run(name: &str) -> Option<String> {
    let folder = root().join("../shared/data/runs").join(name);
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    let at = |file: &str| folder.join(file).display().to_string();
    Some(format!(
        "source --run {} --train {} --queries {} --tokenizer {} --dry-run --out target/never-written",
        at("run"),
        at("train.jsonl"),
        at("queries.jsonl"),
        at("tokenizer.json")
    ))
}

#[track_caller]
fn refused(arguments: &str) -> String {
    let Ended { code, out, err } = ended(ascribe(arguments));
    assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments}\n{err}");
    assert_eq!(err.matches("error: ").count(), 1, "{err}");
    err
}

#[track_caller]
fn planned(arguments: &str) -> String {
    let ended = done(arguments);
    ended.out + &ended.err
}

#[test]
fn recorded_runs_are_planned() {
    for name in ["linear", "accumulation", "clip_small", "wsd", "stopped", "sft", "custom_create"] {
        let Some(flags) = run(name) else { return };
        let plan = planned(&format!("{flags} --add-eos train"));
        assert_eq!(plan.matches("fewer than 20 batches").count(), 1, "{name}: once\n{plan}");
        assert_eq!(plan.contains("are estimates: segment 1"), name != "clip_small", "{name}\n{plan}");
    }
}

#[test]
fn a_training_set_without_its_last_batch_is_refused() {
    let Some(flags) = run("linear") else { return };
    let folder = Folder::new();
    let text = fs::read_to_string(root().join("../shared/data/runs/linear/train.jsonl")).expect("text");
    let part: Vec<&str> = text.lines().take(24).collect();
    let part = folder.write("part.jsonl", part.join("\n"));
    let whole = root().join("../shared/data/runs/linear/train.jsonl").display().to_string();
    let said = refused(&format!("{} --add-eos train", flags.replace(&whole, &part)));
    assert!(said.contains("24 examples in batches of 8 make 3 steps an epoch, but the log has 4.00"), "{said}");
    assert!(said.contains("25 to 32 examples"), "{said}");
}

#[test]
fn texts_without_the_end_token_that_trl_counted_are_refused() {
    let Some(flags) = run("sft") else { return };
    let said = refused(&flags);
    assert!(said.contains("814 an epoch, but an epoch of the training data has 786"), "{said}");
    assert!(said.contains("--add-eos train"), "{said}");
}

#[test]
fn blocks_that_trl_wrapped_are_not_read_one_by_one() {
    let Some(flags) = run("sft_wrapped") else { return };
    let said = refused(&format!("{flags} --add-eos train"));
    assert!(
        said.contains("training packed the examples into blocks of 64 tokens") && said.contains("--pack 64"),
        "{said}"
    );
}

/// One stage of the small classifier's training, with something added.
fn description(folder: &Folder, added: &str, checkpoint: &str) -> String {
    folder.copy_of("mlp-trajectory");
    folder.write(
        "run.toml",
        format!(
            "optimizer = \"sgd\"\nmomentum = 0.0\nweight_decay = 0.0\nbatch_size = 10\nloss_reduction = \"mean\"\n\
             train_examples = 200\n{added}\n\
             checkpoint = [{{ path = \"mlp-trajectory/checkpoint-504\", step = 504 }}, {{ path = \"{checkpoint}\", step = 720 }}]\n"
        ),
    )
}

const RATES: &str = "learning_rate = [{ from_step = 0, value = 0.2 }]";
const LAST: &str = "mlp-trajectory/checkpoint-720";
const MLP_DATA: &str = "--train fixtures/mlp-tiny/train.safetensors --queries fixtures/mlp-tiny/query.safetensors --dry-run --out target/never-written";

#[test]
fn names_of_no_layer_are_refused() {
    for added in ["trained_layers = [\"layer.2\"]", "layer_rates = { \"layer.2\" = 0.5 }"] {
        let folder = Folder::new();
        let file = description(&folder, &format!("{added}\n{RATES}"), LAST);
        let said = refused(&format!("source --trajectory {file} {MLP_DATA}"));
        let key = added.split(' ').next().expect("a key");
        assert!(said.contains(&format!("`{key}` has `layer.2`, which is no layer of the model")), "{said}");
        assert!(said.contains("hint: the nearest are "), "{said}");
    }
}

#[test]
fn steps_beyond_any_run_are_refused_at_once() {
    let schedule = "schedule = { name = \"linear\", learning_rate = 0.2 }";
    for rates in [RATES, schedule] {
        let folder = Folder::new();
        let file = description(&folder, &format!("steps = 1000000000000\n{rates}"), LAST);
        let said = refused(&format!("trajectory {file}"));
        assert!(said.contains("training has 1000000000000 steps, more than the 10000000 that are read"), "{said}");
    }
}

#[test]
fn a_segment_that_ends_beyond_the_run_is_refused() {
    let folder = Folder::new();
    let file = description(&folder, RATES, LAST);
    let said = refused(&format!("trajectory {file} --segments ends:504,721"));
    assert!(said.contains("a segment ends at step 721, but training has 720 steps"), "{said}");
    done(&format!("trajectory {file} --segments ends:504,720"));
}

#[test]
fn an_error_in_a_checkpoint_names_the_description() {
    let folder = Folder::new();
    let file = description(&folder, RATES, "mlp-trajectory/gone");
    let said = refused(&format!("source --trajectory {file} {MLP_DATA}"));
    assert!(said.starts_with(&format!("error: {file}: its checkpoint of step 720, ")), "{said}");
}

#[test]
fn the_note_on_few_batches_is_said_once() {
    let plan = planned(&format!("source {TRAINER} --dry-run --out target/never-written"));
    assert!(plan.matches("fewer than 20 batches").count() <= 1, "{plan}");
}

/// As `inspect` says it of the folder.
#[test]
fn a_checkpoint_that_is_an_adapter_is_called_one() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-tiny");
    for step in [60, 120, 180, 240] {
        let checkpoint = folder.path(&format!("trainer-tiny/checkpoint-{step}"));
        fs::rename(checkpoint.join("model.safetensors"), checkpoint.join("adapter_model.safetensors")).expect("there");
    }
    let said = done(&format!("trajectory {run}")).out;
    assert_eq!(said.matches("  adapter  ").count(), 4, "{said}");
}
