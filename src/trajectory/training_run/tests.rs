//! Tests of turning what was read into stages of training.

use std::path::{Path, PathBuf};

use super::*;
use crate::Hint;

fn fixture(name: &str) -> TrajectoryRequest {
    TrajectoryRequest::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory").join(name))
}

/// 12 steps, 4 checkpoints, nothing of `N` or `c` beyond `more`.
fn description(more: &str) -> (tempfile::TempDir, TrajectoryRequest) {
    let folder = tempfile::tempdir().unwrap();
    let stage = format!("optimizer = 'sgd'\nmomentum = 0.5\nweight_decay = 0.0\nbatch_size = 4\n{more}\n");
    let rest: String = [3, 6, 9, 12]
        .map(|step| format!("[[checkpoint]]\npath = 'c{step}'\nstep = {step}\nlearning_rate_mean = 0.5\n"))
        .concat();
    std::fs::write(folder.path().join("trajectory.toml"), stage + &rest).unwrap();
    let request = TrajectoryRequest::new(folder.path().to_path_buf());
    (folder, request)
}

fn run(request: &TrajectoryRequest, data: &[StageData]) -> Result<TrainingRun, ReadError> {
    request.resolve(request.read()?, data)
}

fn data(examples: usize, targets: f64) -> StageData {
    StageData { examples: Some(examples), targets_per_example: Some(targets), targets: None, texts: None }
}

#[test]
fn a_trainers_folder_takes_both_numbers_from_the_data() {
    let request = fixture("adamw-gpt2");
    let outline = request.outline(request.read().unwrap(), &[]).unwrap();
    assert_eq!(outline.unknown, [(0, Unknown::Examples), (0, Unknown::LabelTokens)]);
    assert_eq!((outline.n_examples[0], outline.loss_scales[0]), (None, None));
    let error = run(&request, &[]).unwrap_err();
    assert!(error.to_string().ends_with("does not say how many training examples there were"), "{error}");
    let only_examples = StageData { examples: Some(40), ..StageData::default() };
    let epoch = outline.readings[0].epochs.as_ref().unwrap().steps;
    let error = run(&request, &[only_examples]);
    assert!(error.is_err(), "{error:?}, {epoch} steps an epoch");

    // The log has `epoch` steps in an epoch, so the number of examples follows up to the last batch.
    let n = (epoch * request.batch_size(&outline.readings[0]) as f64).round() as usize;
    let with_data = run(&request, &[data(n, 8.0)]).unwrap();
    let stage = &with_data.trajectory.stages()[0];
    assert_eq!(stage.n_examples(), n);
    assert_eq!(stage.loss_scale(), LossScale::MeanOverTokens { tokens_per_example: 8.0 });
    assert!(with_data.notes.iter().any(|note| note.contains("a mean over label tokens; the training data have 8.00")));
    assert!(
        with_data
            .notes
            .iter()
            .any(|note| note == &format!("the run does not record how many training examples it had; {n} are given"))
    );
    // τ of the outline is that of c = 1.
    for ((_, known), (_, outlined)) in with_data.segments.iter().zip(&outline.segments) {
        assert!((known.tau - outlined.tau / 8.0).abs() <= 1e-15 * outlined.tau);
        assert_eq!(known.steps, outlined.steps);
    }
    let [reading] = &with_data.readings[..] else { panic!("one stage") };
    let files = &reading.checkpoints[2];
    assert_eq!(
        (files.step, files.optimizer.as_ref().map(|file| file.ends_with("checkpoint-20/optimizer.pt"))),
        (20, Some(true))
    );
    assert_eq!(reading.checkpoints.len(), 3);
}

#[test]
fn what_is_stated_wins_over_what_is_recorded() {
    let (_folder, mut request) = description("train_examples = 48\nloss_reduction = 'mean'");
    let recorded = run(&request, &[data(50, 3.0)]).unwrap();
    let stage = &recorded.trajectory.stages()[0];
    assert_eq!((stage.n_examples(), stage.loss_scale()), (48, LossScale::MeanOverExamples));
    assert_eq!(recorded.notes, ["the run records 48 training examples, which is used; 50 are given"]);
    // Three steps of 0.5 for every segment but the last, which has six; momentum 0.5 doubles.
    let taus: Vec<f64> = recorded.segments.iter().map(|(_, segment)| segment.tau).collect();
    assert_eq!(taus, [3.0, 3.0, 6.0]);

    for (asked, c) in [
        (LossScaleRequest::Mean, 1.0),
        (LossScaleRequest::Sum, 4.0),
        (LossScaleRequest::TokenMean, 1.0 / 3.0),
        (LossScaleRequest::Number(0.25), 0.25),
    ] {
        request.loss_scale = Some(asked);
        let stated = run(&request, &[data(48, 3.0)]).unwrap();
        assert_eq!(stated.trajectory.stages()[0].loss_scale().value(), c, "{asked}");
        assert_eq!(stated.notes, [""; 0]);
    }
    request.loss_scale = Some(LossScaleRequest::TokenMean);
    let error = run(&request, &[]).unwrap_err();
    assert!(matches!(error, ReadError::UnknownLabelTokens { .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn a_description_without_a_loss_scale_is_not_guessed() {
    let (_folder, request) = description("train_examples = 48");
    let error = run(&request, &[data(48, 3.0)]).unwrap_err();
    assert!(matches!(error, ReadError::UnknownLossScale { .. }), "{error}");
}

#[test]
fn segments_follow_the_description_then_the_default() {
    let ends = |request: &TrajectoryRequest| -> Vec<usize> {
        let run = run(request, &[]).unwrap();
        run.segments.iter().map(|(_, segment)| segment.steps.end).collect()
    };
    let complete = "train_examples = 48\nloss_scale = 1.0";
    let (_a, mut request) = description(complete);
    assert_eq!(ends(&request), [3, 6, 12]);
    request.segments = "2".parse().unwrap();
    assert_eq!(ends(&request), [6, 12]);
    let (_b, mut request) = description(&format!("{complete}\nsegment_ends = [9, 12]"));
    assert_eq!(ends(&request), [9, 12]);
    request.segments = "ends:3,6,9,12".parse().unwrap();
    assert_eq!(ends(&request), [3, 6, 9, 12]);
    request.segments = "5".parse().unwrap();
    let error = run(&request, &[]).unwrap_err().to_string();
    assert!(error.ends_with("stage `training`: 5 segments need as many checkpoints, it has 4"), "{error}");
}

#[test]
fn fewer_checkpoints_than_segments_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let stage = |name: &str, steps: &[usize]| {
        let checkpoints: String =
            steps.iter().map(|step| format!("[[stage.checkpoint]]\npath = '{name}-{step}'\nstep = {step}\n")).collect();
        format!(
            "[[stage]]\nname = '{name}'\noptimizer = 'sgd'\nmomentum = 0.0\nweight_decay = 0.0\nbatch_size = 4\nloss_scale = 1.0\nlearning_rates = [0.1, 0.1, 0.1, 0.1]\n{checkpoints}"
        )
    };
    let file = folder.path().join("run.toml");
    std::fs::write(&file, stage("base", &[1, 2, 3, 4]) + &stage("tuned", &[2, 4])).unwrap();
    let mut request = TrajectoryRequest::new(file.clone());
    let both = run(&request, &[data(4, 1.0), data(8, 1.0)]).unwrap();
    assert_eq!(both.segments.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
    assert!(
        both.notes.contains(&"stage `tuned`: 2 checkpoints make 2 segments instead of 3".to_string()),
        "{:?}",
        both.notes
    );
    request.segments = "2".parse().unwrap();
    let both = run(&request, &[data(4, 1.0), data(8, 1.0)]).unwrap();
    assert_eq!(both.segments.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), [0, 0, 1, 1]);
    // One data set for two stages: the second has none.
    let error = run(&request, &[data(4, 1.0)]).unwrap_err();
    assert!(matches!(error, ReadError::UnknownExamples { .. }), "{error}");
    let error = run(&request, &[data(4, 1.0); 3]).unwrap_err();
    assert!(error.to_string().ends_with("run.toml: has 2 stages, but training data of 3 are given"), "{error}");
    request.segments = "ends:2".parse().unwrap();
    let error = run(&request, &[data(4, 1.0), data(8, 1.0)]).unwrap_err();
    assert!(error.to_string().ends_with("has 2 stages, so the steps at which segments end are not clear"), "{error}");
}

#[test]
fn a_path_without_anything_is_named() {
    let error = TrajectoryRequest::new(PathBuf::from("no/such/run")).read().unwrap_err();
    assert_eq!(error.to_string(), "no/such/run: cannot be read");
}

/// `fixtures/trainer-tiny` against what its generator recorded: rates, `N`, label tokens.
#[test]
fn a_trainers_run_is_what_its_generator_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainer-tiny");
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let targets = expected["targets_per_example"].as_f64().unwrap();
    let n = expected["examples"].as_u64().unwrap() as usize;
    let run = run(&TrajectoryRequest::new(folder), &[data(n, targets)]).unwrap();
    let stage = &run.trajectory.stages()[0];
    let applied: Vec<f64> = expected["rates"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
    assert_eq!(stage.rates().n_steps(), applied.len());
    for (rate, applied) in stage.rates().iter().zip(&applied) {
        assert!((rate - applied).abs() <= 1e-15, "{rate} {applied}");
    }
    assert_eq!(stage.loss_scale().value(), 1.0 / targets);
    let ends: Vec<usize> = run.segments.iter().map(|(_, segment)| segment.steps.end).collect();
    assert_eq!(ends, [60, 120, 240]);
    // Clipping acted in every segment; the schedule's own sum is what the rates add up to.
    for (_, segment) in &run.segments {
        let sum: f64 = applied[segment.steps.clone()].iter().sum();
        assert!((segment.rate_sum - sum).abs() <= 1e-12 * sum);
        assert!(segment.clipped_rate_sum < segment.rate_sum && segment.tau == segment.clipped_rate_sum / targets);
    }
}

/// `fixtures/mlp-trajectory` ends at `fixtures/mlp-tiny`, bit for bit.
#[test]
fn the_runs_of_the_fixtures_end_at_their_models() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let run = run(&TrajectoryRequest::new(fixtures.join("mlp-trajectory")), &[]).unwrap();
    let last = run.readings[0].checkpoints.last().unwrap();
    let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(&last.folder) == bytes(&fixtures.join("mlp-tiny")));
    let taus: Vec<f64> = run.segments.iter().map(|(_, segment)| segment.tau).collect();
    // 336 steps of 0.2; 168 of 0.2 and 72 of 0.02; 144 of 0.02.
    for (tau, expected) in taus.iter().zip([67.2, 35.04, 2.88]) {
        assert!((tau - expected).abs() <= 1e-12 * expected, "{taus:?}");
    }
}
