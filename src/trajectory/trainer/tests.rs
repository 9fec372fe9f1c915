//! Tests of reading a Trainer's output folder.

use ascribe_attribution::trajectory::{CheckpointWeights, LossScale, Optimizer, ScheduleKind, SegmentRule, segments};
use serde_json::Value as Json;

use super::*;
use crate::Hint;
use crate::trajectory::reading::Stated;
use crate::trajectory::version::TransformersVersion;

pub(super) fn fixture(run: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory").join(run)
}

fn applied() -> Json {
    serde_json::from_str(&std::fs::read_to_string(fixture("applied.json")).unwrap()).unwrap()
}

fn rates(run: &Json) -> Vec<f64> {
    run["rates"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect()
}

/// A copy of a fixture that a test may damage.
pub(super) fn copy(run: &str) -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy_into(&path, &target);
            } else {
                std::fs::write(&target, std::fs::read(&path).unwrap()).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy_into(&fixture(run), folder.path());
    folder
}

pub(super) fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{} has no {from}", file.display());
    std::fs::write(file, text.replace(from, to)).unwrap();
}

fn error(run: &Path) -> String {
    let text = read(run, &TrainerOptions::default()).unwrap_err().to_string();
    text.replace(&run.display().to_string(), "RUN")
}

fn stated() -> Stated {
    Stated {
        n_examples: Some(37),
        loss_scale: Some(LossScale::MeanOverTokens { tokens_per_example: 5.0 }),
        ..Stated::default()
    }
}

/// The demand: seven schedules, three densities of the log, every applied rate.
#[test]
fn replayed_rates_are_the_applied_ones() {
    let applied = applied();
    for schedule in
        ["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt", "cosine_with_restarts"]
    {
        for logging in [1, 10, 500] {
            let run = format!("{schedule}-{logging}");
            let reading = read(&fixture(&run), &TrainerOptions::default()).unwrap();
            let truth = rates(&applied[&run]);
            assert_eq!(reading.rates.n_steps(), truth.len(), "{run}");
            for (k, (rate, applied)) in reading.rates.iter().zip(&truth).enumerate() {
                // Both are f64; the reader of `applied.json` rounds within an ulp.
                assert!((rate - applied).abs() <= 1e-14 * applied, "{run} step {k}: {rate:e} not {applied:e}");
            }
            let RatesOrigin::Schedule { schedule: replayed, checked } = &reading.rates_origin else {
                panic!("{run}: {:?}", reading.rates_origin);
            };
            assert_eq!(replayed.kind.name(), schedule);
            assert!(*checked >= 2, "{run}: {checked} recorded rates");

            assert_eq!(reading.version, Some(TransformersVersion::new(5, 23)));
            let stage = reading.stage(&stated()).unwrap();
            assert_eq!(stage.batch_size(), if logging == 10 { 8 } else { 4 }, "{run}: micro-batches are joined");
        }
    }
}

#[test]
fn optimizers_are_read_from_arguments_and_groups() {
    let of = |run: &str| read(&fixture(run), &TrainerOptions::default()).unwrap();
    let gpt2 = of("adamw-gpt2");
    assert_eq!(gpt2.optimizer, Optimizer::AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.05 });
    assert!(gpt2.checkpoints.iter().all(|checkpoint| checkpoint.optimizer.is_some()));
    assert_eq!(gpt2.checkpoints.iter().map(|checkpoint| checkpoint.step).collect::<Vec<_>>(), [8, 16, 20]);
    assert_eq!(gpt2.warnings, []);
    let sgd = of("sgd-gpt2");
    assert_eq!(sgd.optimizer, Optimizer::Sgd { momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 1e-3 });
    assert_eq!(sgd.max_grad_norm, None);
    let origins: Vec<&str> = gpt2.facts.iter().map(|fact| fact.what).collect();
    assert_eq!(
        origins,
        [
            "checkpoints",
            "steps",
            "learning rate",
            "transformers",
            "optimizer",
            "batch",
            "clipping",
            "optimizer states",
            "steps of an epoch",
            "arguments"
        ]
    );
}

#[test]
fn a_schedule_without_closed_form_is_refused_unless_interpolation_is_allowed() {
    let run = fixture("plateau-gpt2");
    let refused = read(&run, &TrainerOptions::default()).unwrap_err();
    assert!(matches!(refused, ReadError::RatesUnknown { known: 7, n_steps: 20, .. }), "{refused}");
    assert!(refused.hint().unwrap().contains("logging_steps=1"));
    let options = TrainerOptions { gaps: Gaps::Interpolate, ..TrainerOptions::default() };
    let reading = read(&run, &options).unwrap();
    assert_eq!(reading.warnings, [Warning::Interpolated { known: 7, n_steps: 20 }]);
    let truth = rates(&applied()["plateau-gpt2"]);
    // A log of every third step sees the halvings within three steps.
    let (sum, expected) = (reading.rates.sum(0..20), truth.iter().sum::<f64>());
    assert!((sum / expected - 1.0).abs() < 0.15, "{sum} {expected}");
    assert!(reading.rates.iter().all(|rate| rate > 0.0), "an unlogged step is never zero");
    // Stated by the user, but contradicted by the log.
    let schedule = Schedule::new(ScheduleKind::Constant, 1e-2, 0, 20).unwrap();
    let error = read(&run, &TrainerOptions { schedule: Some(schedule), ..TrainerOptions::default() }).unwrap_err();
    assert!(matches!(error, ReadError::RateDisagrees { step: 12, .. }), "{error}");
}

#[test]
fn disagreement_with_the_log_is_an_error() {
    let run = copy("linear-10");
    let state = run.path().join("checkpoint-36/trainer_state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    let logged = json["log_history"][0]["learning_rate"].to_string();
    edit(&state, &logged, "0.0015");
    let message = error(run.path());
    assert!(message.starts_with("RUN/checkpoint-36/trainer_state.json: the learning rate at step 10 is 1.5e-3, but the schedule `linear` replays 1.74"), "{message}");
    edit(&state, "0.0015", "NaN");
    assert_eq!(error(run.path()), "RUN/checkpoint-36/trainer_state.json: the learning rate logged at step 10 is NaN");
}

/// The same folder as if an older transformers had written it: its log then contradicts the schedule by a step.
#[test]
fn the_recorded_version_is_believed() {
    let run = copy("linear-10");
    for step in [18, 36] {
        edit(&run.path().join(format!("checkpoint-{step}/config.json")), "\"5.23.0\"", "\"4.50.3\"");
    }
    assert!(error(run.path()).contains("the learning rate at step 10"));
}

#[test]
fn broken_folders_are_named() {
    let run = copy("linear-1");
    std::fs::remove_file(run.path().join("checkpoint-24/training_args.bin")).unwrap();
    assert_eq!(
        error(run.path()),
        "RUN/checkpoint-24/training_args.bin: is missing; it holds the optimizer and the learning rate"
    );
    let run = copy("linear-1");
    std::fs::rename(run.path().join("checkpoint-24"), run.path().join("checkpoint-25")).unwrap();
    assert_eq!(
        error(run.path()),
        "RUN/checkpoint-25/trainer_state.json: was written at step 24, the folder's name says 25"
    );
    // the arguments of a run with another schedule or end: as if it had been resumed, which the log contradicts
    let run = copy("linear-10");
    edit(&run.path().join("checkpoint-18/trainer_state.json"), "\"max_steps\": 36", "\"max_steps\": 18");
    assert!(error(run.path()).starts_with("RUN/checkpoint-18/scheduler.pt: the learning rate at step 18 is 1.16"));
    let run = copy("linear-10");
    std::fs::copy(
        fixture("cosine-10/checkpoint-18/training_args.bin"),
        run.path().join("checkpoint-18/training_args.bin"),
    )
    .unwrap();
    let message = error(run.path());
    assert!(message.contains("the learning rate at step") && message.contains("replays"), "{message}");
    let run = copy("linear-10");
    std::fs::copy(
        fixture("linear-1/checkpoint-24/training_args.bin"),
        run.path().join("checkpoint-18/training_args.bin"),
    )
    .unwrap();
    assert_eq!(
        error(run.path()),
        "`gradient_accumulation_steps` is 1 in RUN/checkpoint-18/training_args.bin and 2 in RUN/checkpoint-36/training_args.bin"
    );
    let run = copy("linear-10");
    edit(&run.path().join("checkpoint-18/config.json"), "\"vocab_size\": 12", "\"vocab_size\": 13");
    assert_eq!(
        error(run.path()),
        "`vocab_size` is 13 in RUN/checkpoint-18/config.json and 12 in RUN/checkpoint-36/config.json"
    );
    let run = copy("linear-1");
    let bytes = std::fs::read(run.path().join("checkpoint-24/training_args.bin")).unwrap();
    std::fs::write(run.path().join("checkpoint-24/training_args.bin"), &bytes[..bytes.len() / 2]).unwrap();
    assert!(error(run.path()).starts_with("RUN/checkpoint-24/training_args.bin: is a damaged zip"));
    let parent = fixture("linear-1/checkpoint-24");
    let hint = read(&parent, &TrainerOptions::default()).unwrap_err().hint();
    assert_eq!(hint.as_deref(), Some("this is a checkpoint; give the folder that holds it"));
}

#[test]
fn a_training_set_that_contradicts_the_log_is_refused() {
    let reading = read(&fixture("linear-10"), &TrainerOptions::default()).unwrap();
    let with = |n_examples| reading.stage(&Stated { n_examples: Some(n_examples), ..stated() });
    assert_eq!(with(37).unwrap().n_examples(), 37);
    let error = with(370).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("370 examples in batches of 8 make 47 steps an epoch, but the log has 5.00 (93 batches"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("processes"));
    let two = Stated { n_examples: Some(74), processes: Some(2), ..stated() };
    assert_eq!(reading.stage(&two).unwrap().batch_size(), 16);
    assert!(matches!(with(0).unwrap_err(), ReadError::ExamplesDisagree { .. } | ReadError::Numbers { .. }));
    let none = reading.stage(&Stated::default()).unwrap_err();
    assert!(matches!(none, ReadError::UnknownExamples { .. }), "{none}");
    let none = reading.stage(&Stated { n_examples: Some(37), ..Stated::default() }).unwrap_err();
    assert!(matches!(none, ReadError::UnknownLossScale { .. }), "{none}");
}

#[test]
fn missing_and_clipped_things_are_warned_about() {
    let run = copy("adamw-gpt2");
    std::fs::remove_dir_all(run.path().join("checkpoint-8")).unwrap();
    std::fs::remove_file(run.path().join("checkpoint-16/optimizer.pt")).unwrap();
    std::fs::create_dir(run.path().join("checkpoint-16/optimizer_0")).unwrap();
    std::fs::remove_dir_all(run.path().join("checkpoint-20")).unwrap();
    edit(&run.path().join("checkpoint-16/trainer_state.json"), "\"grad_norm\"", "\"gradient_norm\"");
    let reading = read(run.path(), &TrainerOptions::default()).unwrap();
    let texts: Vec<String> = reading.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 4, "{texts:#?}");
    assert!(matches!(reading.warnings[0], Warning::OptimizerStateUnread { .. }));
    assert_eq!(reading.warnings[1], Warning::ClippingWithoutNorms { max_norm: 1.0 });
    assert_eq!(reading.warnings[2], Warning::Unfinished { step: 16, max_steps: 20 });
    assert_eq!(reading.warnings[3], Warning::MissingCheckpoints { save_steps: 8, missing: vec![8], n_missing: 1 });
    assert_eq!(reading.rates.n_steps(), 16);
}

/// `../shared/data/gpt2-mini`, when it is there: sums and means between checkpoints as its makers recorded them.
#[test]
fn gpt2_mini_is_read_as_expected() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/gpt2-mini");
    let Ok(text) = std::fs::read_to_string(run.join("expected_trajectory.json")) else {
        eprintln!("skipped: {} is not there", run.display());
        return;
    };
    let expected: Json = serde_json::from_str(&text).unwrap();
    let reading = read(&run, &TrainerOptions::default()).unwrap();
    assert_eq!(reading.warnings, []);
    assert_eq!(reading.rates.n_steps() as u64, expected["steps"].as_u64().unwrap());
    assert_eq!(reading.optimizer, Optimizer::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.01 });
    let RatesOrigin::Schedule { schedule, checked } = &reading.rates_origin else { panic!() };
    assert_eq!((schedule.kind.name(), schedule.base, schedule.warmup_steps), ("cosine", 3.5e-3, 100));
    assert_eq!(*checked, 252 + 6, "every logged rate and every scheduler file");
    let mut start = 0;
    for (interval, checkpoint) in expected["intervals"].as_array().unwrap().iter().zip(&reading.checkpoints) {
        assert_eq!(checkpoint.id, interval["checkpoint"].as_str().unwrap());
        let (sum, expected) =
            (reading.rates.sum(start..checkpoint.step), interval["learning_rate_sum"].as_f64().unwrap());
        assert!((sum - expected).abs() <= 1e-12 * expected, "{}: {sum} {expected}", checkpoint.id);
        let steps = (checkpoint.step - start) as f64;
        let mean = interval["learning_rate_mean"].as_f64().unwrap();
        assert!((sum / steps - mean).abs() <= 1e-12 * mean);
        start = checkpoint.step;
    }
    assert_eq!(reading.checkpoints.iter().filter(|checkpoint| checkpoint.optimizer.is_some()).count(), 3);
    let stated = Stated { n_examples: Some(2016), ..stated() };
    let stage = reading.stage(&stated).unwrap();
    assert_eq!(stage.notes(), []);
    let three = segments(&stage, &SegmentRule::default(), CheckpointWeights::Uniform).unwrap();
    assert_eq!(three.iter().map(|segment| segment.n_steps()).collect::<Vec<_>>(), [840, 840, 840]);
    for segment in &three {
        assert!(segment.clipped_rate_sum < segment.rate_sum && segment.clipped_rate_sum > 0.5 * segment.rate_sum);
    }
    assert!(reading.stage(&Stated { n_examples: Some(1000), ..stated }).is_err());
}
