//! Tests of reading a run that is written down as TOML.

use ascribe_attribution::trajectory::{CheckpointWeights, ScheduleKind, SegmentRule, Trajectory, segments};

use super::*;
use crate::trajectory::reading::Stated;

const PLAIN: &str = r#"
optimizer = "sgd"
momentum = 0.9
weight_decay = 1e-4
train_examples = 70
batch_size = 8
loss_reduction = "mean"
steps = 20

[[learning_rate]]
from_step = 0
value = 0.1

[[learning_rate]]
from_step = 12
value = 0.01

[[checkpoint]]
path = "runs/checkpoint-10"
step = 10

[[checkpoint]]
path = "runs/checkpoint-20"
step = 20
learning_rate_mean = 0.028
"#;

fn read_text(text: &str) -> Result<Vec<Reading>, ReadError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trajectory.toml");
    std::fs::write(&file, text).unwrap();
    read(&file, Gaps::Refuse)
}

fn one(text: &str) -> Reading {
    let mut readings = read_text(text).unwrap();
    assert_eq!(readings.len(), 1);
    readings.remove(0)
}

fn error(text: &str) -> String {
    let message = read_text(text).unwrap_err().to_string();
    message.split_once("trajectory.toml: ").unwrap().1.to_string()
}

#[test]
fn a_plain_run_is_read() {
    let reading = one(PLAIN);
    assert_eq!(
        reading.checkpoints.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(),
        ["checkpoint-10", "checkpoint-20"]
    );
    let stage = reading.stage(&Stated::default()).unwrap();
    assert_eq!((stage.n_examples(), stage.batch_size(), stage.loss_scale().value()), (70, 8, 1.0));
    assert!((stage.rates().sum(0..20) - 1.28).abs() < 1e-15);
    assert_eq!(stage.optimizer().terminal_factor(), 1.0 / (1.0 - 0.9));
}

#[test]
fn rates_may_be_given_in_four_ways() {
    let without_pieces = PLAIN.split("[[learning_rate]]").next().unwrap();
    let checkpoints = &PLAIN[PLAIN.find("[[checkpoint]]").unwrap()..];
    let listed: Vec<String> = (0..20).map(|k| if k < 12 { "0.1" } else { "0.01" }.to_string()).collect();
    let listed = one(&format!("{without_pieces}learning_rates = [{}]\n{checkpoints}", listed.join(", ")));
    assert_eq!(listed.rates, one(PLAIN).rates);
    let schedule = format!(
        "{without_pieces}schedule = {{ name = \"polynomial\", learning_rate = 0.1, warmup_steps = 2, arguments = {{ power = 2, lr_end = 0.01 }} }}\n{}",
        checkpoints.replace("learning_rate_mean = 0.028", "")
    );
    let schedule = one(&schedule);
    let expected = Schedule::new(ScheduleKind::Polynomial { end: 0.01, power: 2.0 }, 0.1, 2, 20).unwrap();
    assert_eq!(schedule.rates.rate(7), Some(expected.rate(7)));
    let means = one(&format!(
        "{without_pieces}{}",
        checkpoints.replace("step = 10\n", "step = 10\nlearning_rate_mean = 0.1\n")
    ));
    assert!((means.rates.sum(0..20) - 1.28).abs() < 1e-15);
    assert!(error(&format!("{without_pieces}{checkpoints}")).starts_with("line 1: no learning rates: give"));
    assert!(error(&format!("learning_rates = [0.1]\n{PLAIN}")).starts_with("line 1: rates are given twice"));
}

#[test]
fn stages_are_tables() {
    let second =
        PLAIN.replace("[[learning_rate]]", "[[stage.learning_rate]]").replace("[[checkpoint]]", "[[stage.checkpoint]]");
    let text = format!(
        "[[stage]]\nname = \"pretraining\"\n{second}\n[[stage]]\nname = \"tuning\"\nsegment_ends = [10]\ntrained_layers = [\"head\"]\n{second}"
    );
    let readings = read_text(&text).unwrap();
    let stages = readings.iter().map(|reading| reading.stage(&Stated::default()).unwrap()).collect();
    let run = Trajectory::new(stages).unwrap();
    assert_eq!(run.stages().iter().map(|stage| stage.name()).collect::<Vec<_>>(), ["pretraining", "tuning"]);
    assert!(run.stages()[1].trained_layers().contains("head") && !run.stages()[1].trained_layers().contains("body"));
    assert_eq!(readings[1].segment_ends, Some(vec![10]));
    let broken = text.replacen("step = 20\n", "step = 9\n", 2).replacen("step = 9\n", "step = 20\n", 1);
    let line = 1 + broken[..broken.rfind("step = 9").unwrap()].matches('\n').count();
    let message = error(&broken);
    assert!(message.ends_with("checkpoint of step 9 after step 10"), "{message}");
    let reported: usize = message.trim_start_matches("line ").split(':').next().unwrap().parse().unwrap();
    assert!(line.abs_diff(reported) <= 2, "line {line} reported as {reported}");
}

#[test]
fn mistakes_name_their_line() {
    assert!(
        error(&PLAIN.replace("momentum", "momentun")).starts_with("line 3: unknown field `momentun`"),
        "{}",
        error(&PLAIN.replace("momentum", "momentun"))
    );
    assert!(
        error(&PLAIN.replace("value = 0.01", "value = 0.01\nfactor = 2"))
            .starts_with("line 17: unknown field `factor`")
    );
    assert!(error(&PLAIN.replace("batch_size = 8", "batch_size = -8")).starts_with("line 6: "));
    assert!(error(&PLAIN.replace("batch_size = 8", "batch_size = ")).starts_with("line 6: "));
    assert!(error(&PLAIN.replace("\"mean\"", "\"median\"")).starts_with("line 7: unknown variant `median`"));
    assert_eq!(error(&PLAIN.replace("momentum = 0.9\n", "")), "line 1: `momentum` is missing, which `sgd` needs");
    assert_eq!(
        error(&PLAIN.replace("\"sgd\"", "\"adamw\"")),
        "line 1: `momentum` is not an option of the optimizer `adamw`"
    );
    let mean = error(&PLAIN.replace("learning_rate_mean = 0.028", "learning_rate_mean = 0.03"));
    assert!(
        mean.starts_with("checkpoint `runs/checkpoint-20` states the mean rate 3e-2, but its steps have 2.8"),
        "{mean}"
    );
    assert_eq!(error(&PLAIN.replace("value = 0.01", "value = nan")), "the learning rate of step 12 is NaN");
    assert_eq!(
        error(&PLAIN.replace("from_step = 0", "from_step = 1")),
        "the first learning rate starts at step 1, so steps 0 to 0 have none"
    );
    assert_eq!(
        error(
            &PLAIN
                .replace("step = 20\n", "step = 20\nsteps_since_previous = 9\n")
                .replace("steps = 20\nsteps_since_previous = 9", "steps = 20")
        ),
        "line 22: `steps_since_previous` is 9, but 10 steps lie between"
    );
    let token_mean = PLAIN.replace("\"mean\"", "\"token_mean\"");
    assert_eq!(
        error(&token_mean),
        "line 1: `label_tokens_per_example` is missing, which `loss_reduction = \"token_mean\"` needs"
    );
    let reading = one(&token_mean.replace("steps = 20", "label_tokens_per_example = 12.5\nsteps = 20"));
    assert_eq!(reading.loss_scale.unwrap().value(), 0.08);
}

#[test]
fn numbers_that_no_run_has_are_refused_by_the_stage() {
    let stage = |text: &str| one(text).stage(&Stated::default()).unwrap_err().to_string();
    let tail = |text: &str| stage(text).split_once("trajectory.toml: ").unwrap().1.to_string();
    assert_eq!(tail(&PLAIN.replace("\"sgd\"", "\"lion\"")), "Source has no form for the optimizer `lion`");
    assert_eq!(
        tail(&PLAIN.replace("train_examples = 70", "train_examples = 0")),
        "stage `training` has no training examples"
    );
    assert_eq!(
        tail(&PLAIN.replace("momentum = 0.9", "momentum = 1.0")),
        "`momentum` is 1, expected a number in [0, 1)"
    );
    assert_eq!(
        tail(&PLAIN.replace("steps = 20", "steps = 15").replace("learning_rate_mean = 0.028", "")),
        "stage `training`: checkpoint `checkpoint-20` is at step 20, but training has 15 steps"
    );
    assert!(
        tail(&PLAIN.replace("steps = 20", "steps_per_epoch = 40\nsteps = 20"))
            .starts_with("70 examples in batches of 8 make 9 steps")
    );
    assert_eq!(tail(&PLAIN[..PLAIN.find("[[checkpoint]]").unwrap()]), "stage `training` has no checkpoint");
}

/// The files of `../shared/data`, when they are there, as they are.
#[test]
fn shared_files_are_read() {
    for (name, n_examples, sums) in [
        // Written out from each file's rates: three segments of two checkpoints.
        ("concrete-mlp", 830, [333.0 * 0.03, 267.0 * 0.03 + 67.0 * 0.003, 333.0 * 0.003]),
        ("fashion-mnist-mlp", 6000, [62.0, 310.0 * 0.1 + 310.0 * 0.03, 248.0 * 0.03 + 372.0 * 0.01]),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name).join("trajectory.toml");
        if !file.is_file() {
            eprintln!("skipped: {} is not there", file.display());
            continue;
        }
        let readings = read(&file, Gaps::Refuse).unwrap();
        let stage = readings[0].stage(&Stated::default()).unwrap();
        assert_eq!((stage.n_examples(), stage.checkpoints().len()), (n_examples, 6));
        let three = segments(&stage, &SegmentRule::EqualSteps(3), CheckpointWeights::Uniform).unwrap();
        assert_eq!(three, segments(&stage, &SegmentRule::default(), CheckpointWeights::Uniform).unwrap());
        for (segment, sum) in three.iter().zip(sums) {
            assert!((segment.rate_sum - sum).abs() < 1e-12, "{name}: {} {sum}", segment.rate_sum);
        }
        assert!(readings[0].checkpoints.iter().all(|checkpoint| checkpoint.folder.is_dir()));
        assert_eq!(stage.notes(), []);
    }
}

/// `trainer-tiny` as one run, and as two stages of it: rates, checkpoints and norms are those of its parts.
#[test]
fn a_stage_may_be_a_trainers_run_or_a_part_of_one() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainer-tiny");
    let quoted = toml::Value::from(run.to_string_lossy().as_ref()).to_string();
    let stage = |name: &str, more: &str| format!("[[stage]]\nname = \"{name}\"\nrun = {quoted}\n{more}\n");
    let whole = trainer::read(&run, &TrainerOptions::default()).unwrap();
    let text = stage("first", "last_step = 120\ntrain_examples = 48") + &stage("second", "after_step = 120");
    let readings = read_text(&text).unwrap();
    let [first, second] = readings.as_slice() else { panic!("{}", readings.len()) };
    assert_eq!((first.name.as_str(), second.name.as_str(), first.n_examples), ("first", "second", Some(48)));
    let steps = |reading: &Reading| reading.checkpoints.iter().map(|files| files.step).collect::<Vec<_>>();
    assert_eq!((steps(first), steps(second)), (vec![60, 120], vec![60, 120]));
    assert!(second.checkpoints[1].folder.ends_with("checkpoint-240"));
    let rates: Vec<f64> = first.rates.iter().chain(second.rates.iter()).collect();
    assert_eq!(rates, whole.rates.iter().collect::<Vec<_>>());
    let norms = |reading: &Reading, before: usize| {
        reading.gradient_norms.iter().map(|(step, norm)| (step + before, *norm)).collect::<Vec<_>>()
    };
    assert_eq!([norms(first, 0), norms(second, 120)].concat(), whole.gradient_norms);
    assert_eq!(first.losses.len() + second.losses.len(), whole.losses.len());
    assert_eq!((first.optimizer.clone(), second.batch, second.version), (whole.optimizer, whole.batch, whole.version));
    assert!(second.epochs.is_none() && first.epochs.is_some());
    assert!(second.facts.iter().any(|fact| fact.value == "121 to 240 of 240"), "{:?}", second.facts);
    for (more, problem) in [
        ("last_step = 100", "the checkpoints are of the steps [60, 120, 180, 240]"),
        ("after_step = 240", "begins after step 240 and ends at the last"),
        ("after_step = 120\nlast_step = 60", "begins after step 120 and ends at step 60"),
        ("optimizer = \"sgd\"", "`optimizer` of a stage with a `run` is what the run's files say"),
    ] {
        let message = read_text(&stage("x", more)).unwrap_err().to_string();
        assert!(message.contains(problem), "{more}: {message}");
    }
    assert!(error(&format!("after_step = 3\n{PLAIN}")).contains("are of a stage with a `run`"));
    assert!(error("momentum = 0.9\n").contains("missing field `optimizer`"));
}
