//! `influence` over the checkpoints of a training run: what the plan shows, and what is refused.

use crate::support::{Folder, ROWS, ascribe, done, ended};

const TEXTS: &str =
    "--train fixtures/trainer-tiny/train.jsonl --queries fixtures/trainer-tiny/queries.jsonl --add-eos train";

#[test]
fn the_plan_names_checkpoints_and_weights() {
    let folder = Folder::new();
    let flags = format!("influence --run fixtures/trainer-tiny {TEXTS} --out {}", folder.arg("run"));
    let plan = done(&format!("{flags} --dry-run")).out;
    insta::assert_snapshot!(folder.filtered(&plan));
    let weighted = done(&format!("{flags} --dry-run --checkpoint-weights 0,1,1,2 --checkpoint-scores spread")).out;
    assert!(weighted.contains("mean of   checkpoint-120, weight 0.2500\n"), "{weighted}");
    assert!(weighted.contains("mean over checkpoints with scores divided by their spread"), "{weighted}");
    assert!(weighted.contains("note      1 of 4 checkpoints have a weight of 0 and are left out\n"), "{weighted}");
}

#[test]
fn folders_one_by_one_are_the_run() {
    let folder = Folder::new();
    let of_run = done(&format!("influence --run fixtures/trainer-tiny {TEXTS} --top 2 --out {}", folder.arg("a"))).out;
    let models: String =
        [60, 120, 180, 240].map(|step| format!("--model fixtures/trainer-tiny/checkpoint-{step} ")).concat();
    let named =
        format!("influence {models}{TEXTS} --tokenizer fixtures/trainer-tiny --top 2 --out {}", folder.arg("b"));
    assert_eq!(of_run, done(&named).out);
    // the folder knows its job
    let again = done(&format!("rank --out {} --top 2", folder.arg("a"))).out;
    assert_eq!(of_run, again);
    let repeated = done(&format!("run {} --out {}", folder.path("a").join("job.toml").display(), folder.arg("c"))).out;
    assert_eq!(of_run, repeated);
}

#[test]
fn layers_that_training_left_frozen_are_named() {
    let folder = Folder::new();
    let data = "--train fixtures/trainer-tiny/train.jsonl --queries fixtures/trainer-tiny/queries.jsonl";
    let flags = format!("{data} --tokenizer fixtures/trainer-tiny --out {}", folder.arg("run"));
    let plan = done(&format!("influence --run fixtures/trainer-frozen {flags} --dry-run")).out;
    let note = "note      4 of 8 tracked layers are the same in the first and the last checkpoint, so training seems to have left them frozen";
    assert!(plan.contains(note), "{plan}");
}

#[test]
fn what_cannot_be_averaged_is_explained() {
    let folder = Folder::new();
    let mut said = String::new();
    let mut case = |what: &str, flags: &str| {
        let ended = ended(ascribe(&format!("{flags} --out {}", folder.arg("run"))));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{what}\n{}", ended.err);
        assert!(!folder.path("run").exists(), "{what}: something was written");
        said.push_str(&folder.filtered(&format!("# {what}\n{}\n", ended.err)));
    };
    let checkpoint = |step: u32| format!("--model fixtures/mlp-trajectory/checkpoint-{step}");
    let run = format!("influence --run fixtures/mlp-trajectory {ROWS}");
    let two = format!("influence {} {} {ROWS}", checkpoint(168), checkpoint(720));
    case("one checkpoint named twice", &format!("influence {0} {0} {ROWS}", checkpoint(720)));
    case("a run and a checkpoint", &format!("{run} {}", checkpoint(720)));
    case("a run and folders", &format!("{run} {} {}", checkpoint(168), checkpoint(720)));
    case("too few weights", &format!("{run} --checkpoint-weights 1,2"));
    case("weights that are none", &format!("{run} --checkpoint-weights most"));
    case("the last counts nothing", &format!("{two} --checkpoint-weights 1,0"));
    case("one counts alone", &format!("{two} --checkpoint-weights 0,1"));
    case("rates of folders", &format!("{two} --checkpoint-weights nearest"));
    case("weights of one checkpoint", &format!("influence {} {ROWS} --checkpoint-weights 1", checkpoint(720)));
    case("spread of one checkpoint", &format!("influence {} {ROWS} --checkpoint-scores spread", checkpoint(720)));
    case("a cosine", &format!("{run} --curvature identity --normalize cosine"));
    case("a flag of Source", &format!("{run} --time-scale 2"));
    case(
        "numbers for Source",
        &format!("source --run fixtures/mlp-trajectory {ROWS} --checkpoint-weights 1,1,1,1,1,1"),
    );
    let average = format!("source --run fixtures/mlp-trajectory {ROWS} --with influence-mean --average parameters");
    case("mean parameters", &average);
    let other = format!("influence --model fixtures/mlp-regression {} {ROWS}", checkpoint(720));
    case("checkpoints of other models", &other);
    let one = folder.copy_of("trainer-tiny");
    for step in [60, 120, 180] {
        std::fs::remove_dir_all(folder.path("trainer-tiny").join(format!("checkpoint-{step}"))).expect("a copy");
    }
    case("a run with one checkpoint", &format!("influence --run {one} {TEXTS}"));
    case("no checkpoints", &format!("influence --run fixtures/gpt2-tiny {TEXTS}"));
    insta::assert_snapshot!(said);
}
