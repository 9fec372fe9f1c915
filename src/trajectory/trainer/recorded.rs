//! Runs of transformers and TRL against what a callback recorded at every step, when `../shared/data/runs` is there;
//! and small copies of fixtures that are resumed, damaged or swapped.

use ascribe_attribution::trajectory::{CheckpointWeights, LossScale, SegmentRule, segments};
use serde_json::Value as Json;

use super::tests::{copy, edit, fixture};
use super::*;
use crate::Hint;
use crate::trajectory::reading::Stated;
use crate::trajectory::request::TrajectoryRequest;
use crate::trajectory::text_data::TextData;
use crate::trajectory::text_treatment::{Blocks, Packing};
use crate::trajectory::training_run::StageData;

const RUNS: [&str; 8] =
    ["linear", "accumulation", "clip_small", "wsd", "stopped", "sft", "sft_wrapped", "custom_create"];

/// The folder of a run and what was recorded of it.
fn run(name: &str) -> Option<(PathBuf, Json)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/runs").join(name);
    let Ok(text) = std::fs::read_to_string(folder.join("truth.json")) else {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    };
    Some((folder.join("run"), serde_json::from_str(&text).unwrap()))
}

/// The list above is whole: a run that is added is compared with its truth too.
#[test]
fn every_recorded_run_is_compared() {
    let Ok(entries) = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/runs")) else {
        return;
    };
    let folders = entries.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
    let mut found: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let mut named = RUNS.map(str::to_owned).to_vec();
    found.sort();
    named.sort();
    assert_eq!(found, named);
}

fn numbers(list: &Json) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn stated(n_examples: usize) -> Stated {
    let loss_scale = Some(LossScale::MeanOverTokens { tokens_per_example: 28.0 });
    Stated { n_examples: Some(n_examples), loss_scale, ..Stated::default() }
}

#[test]
fn every_rate_of_the_recorded_runs_is_exact() {
    for (folder, truth) in RUNS.iter().filter_map(|name| run(name)) {
        let reading = read(&folder, &TrainerOptions::default()).unwrap();
        let applied: Vec<f64> = truth["rates"].as_array().unwrap().iter().map(|rates| numbers(rates)[0]).collect();
        assert_eq!(reading.rates.n_steps(), applied.len(), "{}", folder.display());
        for (k, (rate, applied)) in reading.rates.iter().zip(&applied).enumerate() {
            assert!((rate - applied).abs() <= 1e-14 * applied, "{} step {k}: {rate:e} {applied:e}", folder.display());
        }
        assert!(matches!(reading.rates_origin, RatesOrigin::Schedule { .. }), "{:?}", reading.rates_origin);
    }
}

/// Sums over the steps between checkpoints: exact where every norm is logged, else the interval holds the truth.
#[test]
fn the_clipped_sums_of_the_recorded_runs_lie_in_their_intervals() {
    for (folder, truth) in RUNS.iter().filter_map(|name| run(name)) {
        let reading = read(&folder, &TrainerOptions::default()).unwrap();
        let rows = if folder.ends_with("sft_wrapped/run") { 13 } else { 28 };
        let stage = reading.stage(&stated(rows)).unwrap();
        let (norms, limit) = (numbers(&truth["norms"]), truth["max_norm"].as_f64().unwrap());
        let rule = SegmentRule::EqualCheckpoints(reading.checkpoints.len());
        for segment in segments(&stage, &rule, CheckpointWeights::Uniform).unwrap() {
            let sum = reading.rates.weighted_sum(segment.steps.clone(), |k| (limit / norms[k]).min(1.0));
            let what = format!("{} {:?}: {sum} {segment:?}", folder.display(), segment.steps);
            match segment.clipped_rate_interval {
                None => assert!((segment.clipped_rate_sum - sum).abs() <= 1e-12 * sum, "{what}"),
                Some((low, high)) => {
                    assert!(low * (1.0 - 1e-12) <= sum && sum <= high * (1.0 + 1e-12), "{what}");
                    assert!(low > 0.4 * segment.clipped_rate_sum && high <= segment.rate_sum * (1.0 + 1e-12), "{what}");
                }
            }
        }
    }
}

/// Which sizes of a training set the log allows: whole epochs tell all but what the last batch holds.
#[test]
fn training_sets_of_another_number_of_batches_are_refused() {
    let expected = [("linear", 25..33), ("accumulation", 25..29), ("stopped", 25..33), ("sft_wrapped", 13..15)];
    for (name, allowed) in expected {
        let Some((folder, _)) = run(name) else { continue };
        let reading = read(&folder, &TrainerOptions::default()).unwrap();
        for n in 1..70 {
            let stage = reading.stage(&stated(n));
            assert_eq!(stage.is_ok(), allowed.contains(&n), "{name} {n}: {:?}", stage.err());
        }
    }
    let Some((folder, _)) = run("accumulation") else { return };
    let error = read(&folder, &TrainerOptions::default()).unwrap().stage(&stated(24)).unwrap_err();
    assert!(
        error.to_string().ends_with(
            "24 examples in batches of 8 make 3 steps an epoch, but the log has 4.00 (6 batches before they are accumulated, where the log has 7)"
        ),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("25 to 28 examples"), "{:?}", error.hint());
}

/// 37 examples in micro-batches of 4 are 10 batches, and 5 updates of two: what the last batch holds is open.
#[test]
fn a_log_tells_the_size_of_its_training_set_up_to_the_last_batch() {
    let reading = read(&fixture("linear-10"), &TrainerOptions::default()).unwrap();
    for n in 1..100 {
        let stage = reading.stage(&stated(n));
        assert_eq!(stage.is_ok(), (37..=40).contains(&n), "{n}: {:?}", stage.err());
    }
}

fn whole(tokens: usize, examples: usize) -> StageData {
    let texts = TextData {
        examples,
        tokens,
        targets: tokens - examples,
        longest: 50,
        adds_end: true,
        is_whole: true,
        ..TextData::default()
    };
    StageData { examples: Some(examples), targets_per_example: Some(28.0), targets: None, texts: Some(texts) }
}

/// TRL counted 814 tokens an epoch; without the end of each of 28 texts there are 786.
#[test]
fn tokens_that_the_log_did_not_count_are_refused() {
    let Some((folder, _)) = run("sft") else { return };
    let request = TrajectoryRequest::new(folder);
    request.resolve(request.read().unwrap(), &[whole(814, 28)]).unwrap();
    for wrong in [786, 813, 815, 842] {
        let error = request.resolve(request.read().unwrap(), &[whole(wrong, 28)]).unwrap_err();
        assert!(matches!(error, ReadError::TokensDisagree { .. }), "{wrong}: {error}");
    }
    let error = request.resolve(request.read().unwrap(), &[whole(786, 28)]).unwrap_err();
    assert!(error.to_string().contains("814 an epoch, but an epoch of the training data has 786"), "{error}");
    let mut part = whole(400, 28);
    part.texts.as_mut().unwrap().is_whole = false;
    request.resolve(request.read().unwrap(), &[part]).unwrap();
}

/// `include_num_input_tokens_seen` logs `num_input_tokens_seen`, with padding unless the argument says otherwise.
#[test]
fn tokens_that_the_trainer_counted_are_read() {
    let run = copy("linear-1");
    let folder = run.path().join("checkpoint-24");
    let state = folder.join("trainer_state.json");
    let mut json: Json = serde_json::from_str(&std::fs::read_to_string(&state).unwrap()).unwrap();
    for entry in json["log_history"].as_array_mut().unwrap() {
        entry["num_input_tokens_seen"] = (100.0 * entry["step"].as_f64().unwrap()).into();
    }
    std::fs::write(&state, json.to_string()).unwrap();
    let record = super::text_record(&folder).unwrap().unwrap();
    assert!(record.tokens.with_padding && record.texts.is_none());
    assert!(!record.tokens.entries.is_empty());
    assert!(record.tokens.entries.iter().all(|&(step, _, tokens)| tokens == 100.0 * step as f64));
    assert_eq!(read(run.path(), &TrainerOptions::default()).unwrap().logged_tokens, record.tokens);
    // what TRL counts leaves padding out, and is taken
    for entry in json["log_history"].as_array_mut().unwrap() {
        entry["num_tokens"] = 7.into();
    }
    std::fs::write(&state, json.to_string()).unwrap();
    let record = super::text_record(&folder).unwrap().unwrap();
    assert!(!record.tokens.with_padding && record.tokens.entries.iter().all(|&(_, _, tokens)| tokens == 7.0));
    assert!(super::text_record(&folder.join("nowhere")).unwrap().is_none());
}

/// A vocabulary of 12: a mean over tokens is below 2 ln 12 = 4.97, and the sum over an example's is not.
#[test]
fn a_loss_that_no_mean_over_tokens_gives_is_a_contradiction() {
    let mut request = TrajectoryRequest::new(fixture("linear-10"));
    let outline = |request: &TrajectoryRequest, factor: f64| {
        let mut readings = request.read().unwrap();
        readings[0].losses.iter_mut().for_each(|(_, loss)| *loss *= factor);
        request.outline(readings, &[whole(300, 37)])
    };
    outline(&request, 1.0).unwrap();
    assert!(matches!(outline(&request, 8.0).unwrap_err(), ReadError::LossDisagrees { vocabulary: 12, .. }));
    request.loss_scale = Some("mean".parse().unwrap());
    outline(&request, 8.0).unwrap();
}

/// The same log as a run that divides by examples alone would write: 28 times the loss of a token.
#[test]
fn a_logged_loss_that_is_no_mean_over_tokens_is_refused() {
    let Some((folder, _)) = run("linear") else { return };
    let mut request = TrajectoryRequest::new(folder);
    let outline = |request: &TrajectoryRequest, factor: f64| {
        let mut readings = request.read().unwrap();
        readings[0].losses.iter_mut().for_each(|(_, loss)| *loss *= factor);
        request.outline(readings, &[whole(814, 28)])
    };
    outline(&request, 1.0).unwrap();
    let error = outline(&request, 28.0).unwrap_err();
    assert!(matches!(error, ReadError::LossDisagrees { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--loss-scale"));
    request.loss_scale = Some("mean".parse().unwrap());
    outline(&request, 28.0).unwrap();
}

#[test]
fn the_arguments_of_trl_say_what_became_of_texts() {
    let Some((folder, _)) = run("sft_wrapped") else { return };
    let reading = read(&folder, &TrainerOptions::default()).unwrap();
    let texts = reading.texts.clone().unwrap();
    assert_eq!(
        (texts.max_length, &texts.packing),
        (Some(64), &Packing::Blocks(Blocks { wrapped: true, processes: 1, shuffled: false }))
    );
    assert_eq!((texts.completion_only, texts.assistant_only), (None, false));
    let request = TrajectoryRequest::new(folder);
    let error = request.resolve(vec![reading], &[whole(814, 28)]).unwrap_err();
    assert_eq!(error.hint().unwrap(), "`--pack 64:1000:keep`");
    let Some((folder, _)) = run("linear") else { return };
    assert_eq!(read(&folder, &TrainerOptions::default()).unwrap().texts, None);
}

/// An optimizer of the user's own at a fifth of the rate: `base_lrs` has it.
#[test]
fn an_optimizer_of_another_rate_is_read() {
    let Some((folder, _)) = run("custom_create") else { return };
    let reading = read(&folder, &TrainerOptions::default()).unwrap();
    let expected = Warning::OtherBaseRate { arguments: 0.005, scheduler: 0.001 };
    assert!(reading.warnings.contains(&expected), "{:?}", reading.warnings);
    assert!(reading.group_rates.is_none());
}

/// The arguments say five times the rate that every scheduler file and the log have.
#[test]
fn a_base_rate_that_only_the_scheduler_has_is_read() {
    let applied: Vec<f64> = read(&fixture("linear-1"), &TrainerOptions::default()).unwrap().rates.iter().collect();
    let run = copy("linear-1");
    let file = run.path().join("checkpoint-24/training_args.bin");
    let rate = TrainingArguments::read(&file).unwrap().learning_rate;
    let number = |rate: f64| [&b"G"[..], &rate.to_be_bytes()].concat();
    let files = checkpoints::find(run.path()).unwrap();
    for folder in &files {
        edit_archive(&folder.path.join("training_args.bin"), &number(rate), &number(5.0 * rate));
    }
    let reading = read(run.path(), &TrainerOptions::default()).unwrap();
    assert_eq!(reading.rates.iter().collect::<Vec<f64>>(), applied);
    let expected = Warning::OtherBaseRate { arguments: 5.0 * rate, scheduler: rate };
    assert!(reading.warnings.contains(&expected), "{:?}", reading.warnings);
}

/// Replaces the first such bytes of a torch archive's pickle.
fn edit_archive(file: &Path, from: &[u8], to: &[u8]) {
    use std::io::{Read, Write};
    let mut archive = zip::ZipArchive::new(std::fs::File::open(file).unwrap()).unwrap();
    let mut entries = vec![];
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).unwrap();
        entries.push((entry.name().unwrap().into_owned(), bytes));
    }
    let pickle = &mut entries.iter_mut().find(|(name, _)| name.ends_with("data.pkl")).unwrap().1;
    let at = pickle.windows(from.len()).position(|bytes| bytes == from).unwrap();
    pickle.splice(at..at + from.len(), to.iter().copied());
    let mut zip = zip::ZipWriter::new(std::fs::File::create(file).unwrap());
    for (name, bytes) in entries {
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(name, stored).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// Every step's rate is logged, and the schedule was another than the arguments say.
#[test]
fn a_log_of_every_step_needs_no_schedule() {
    let run = copy("linear-1");
    let state = run.path().join("checkpoint-24/trainer_state.json");
    let mut json: Json = serde_json::from_str(&std::fs::read_to_string(&state).unwrap()).unwrap();
    let rate = |step: u64| 1e-3 / (step as f64).sqrt();
    for entry in json["log_history"].as_array_mut().unwrap() {
        if entry.get("learning_rate").is_some() {
            entry["learning_rate"] = rate(entry["step"].as_u64().unwrap()).into();
        }
    }
    std::fs::write(&state, json.to_string()).unwrap();
    let reading = read(run.path(), &TrainerOptions::default()).unwrap();
    assert_eq!(reading.rates_origin, RatesOrigin::Logged);
    for (k, logged) in reading.rates.iter().enumerate() {
        // the reader of JSON rounds within an ulp
        let expected = rate(k as u64 + 1);
        assert!((logged - expected).abs() <= 1e-15 * expected, "step {k}: {logged} {expected}");
    }
    assert_eq!(reading.rates.n_steps(), 24);
    assert!(matches!(reading.warnings[0], Warning::OtherSchedule { step: 1, .. }), "{:?}", reading.warnings);
    // one step less, and the contradiction is an error
    let log = json["log_history"].as_array_mut().unwrap();
    let place = log.iter().position(|entry| entry.get("learning_rate").is_some()).unwrap();
    log.remove(place);
    std::fs::write(&state, json.to_string()).unwrap();
    let error = read(run.path(), &TrainerOptions::default()).unwrap_err();
    assert!(matches!(error, ReadError::RateDisagrees { .. }), "{error}");
}

/// `linear-10` as if its first half had been a run of 27 steps: as the Trainer resumes, the first update of the second
/// half still has the rate that the old schedule left, and later ones have the new schedule's.
#[test]
fn a_resumed_run_has_a_schedule_for_each_part() {
    let run = copy("linear-10");
    let whole = read(run.path(), &TrainerOptions::default()).unwrap();
    let RatesOrigin::Schedule { schedule, .. } = &whole.rates_origin else { panic!() };
    let first = Schedule { training_steps: 27, ..schedule.clone() };
    let applied = |k: usize| if k <= 18 { first.rate(k) } else { schedule.rate(k) };
    assert_ne!(first.rate(18), schedule.rate(18));
    // without scheduler files: theirs are of the unbroken run
    for step in [18, 36] {
        let folder = run.path().join(format!("checkpoint-{step}"));
        std::fs::remove_file(folder.join("scheduler.pt")).unwrap();
        let state = folder.join("trainer_state.json");
        let mut json: Json = serde_json::from_str(&std::fs::read_to_string(&state).unwrap()).unwrap();
        for entry in json["log_history"].as_array_mut().unwrap() {
            if entry.get("learning_rate").is_some() {
                entry["learning_rate"] = applied(entry["step"].as_u64().unwrap() as usize - 1).into();
            }
        }
        json["max_steps"] = if step == 18 { 27.into() } else { 36.into() };
        std::fs::write(&state, json.to_string()).unwrap();
    }
    let reading = read(run.path(), &TrainerOptions::default()).unwrap();
    for (k, rate) in reading.rates.iter().enumerate() {
        assert_eq!(rate, applied(k), "step {k}");
    }
    assert!(reading.warnings.contains(&Warning::Resumed { after: vec![18] }), "{:?}", reading.warnings);
    // as stages: the parts, each with its own rates
    let (text, names) = reading.as_stages().unwrap();
    assert_eq!(names, ["part-1", "part-2"]);
    assert!(text.contains("name = \"part-1\"\n") && text.contains("last_step = 18\n"), "{text}");
    assert!(text.contains("after_step = 18\n") && whole.as_stages().is_none(), "{text}");
    let file = run.path().with_extension("toml");
    std::fs::write(&file, text).unwrap();
    let stages = crate::trajectory::toml_file::read(&file, Gaps::Refuse).unwrap();
    std::fs::remove_file(&file).unwrap();
    for (stage, steps) in stages.iter().zip([0..18, 18..36]) {
        assert_eq!(stage.rates.iter().collect::<Vec<_>>(), steps.map(applied).collect::<Vec<_>>(), "{}", stage.name);
        assert!(!stage.warnings.iter().any(|warning| matches!(warning, Warning::Resumed { .. })));
    }
    // the log is believed: another place to resume contradicts it
    edit(&run.path().join("checkpoint-18/trainer_state.json"), "\"max_steps\":27", "\"max_steps\":28");
    let error = read(run.path(), &TrainerOptions::default()).unwrap_err();
    assert!(matches!(error, ReadError::RateDisagrees { step: 10, .. }), "{error}");
}

/// The first checkpoint is of another run, whose folder a second run wrote into.
#[test]
fn checkpoints_of_two_runs_in_one_folder_are_refused() {
    let run = copy("linear-10");
    let state = run.path().join("checkpoint-18/trainer_state.json");
    let mut json: Json = serde_json::from_str(&std::fs::read_to_string(&state).unwrap()).unwrap();
    let entry = json["log_history"].as_array_mut().unwrap().iter_mut().find(|entry| entry.get("loss").is_some());
    let entry = entry.unwrap();
    let step = entry["step"].as_u64().unwrap() as usize;
    entry["loss"] = 9.25.into();
    std::fs::write(&state, json.to_string()).unwrap();
    let error = read(run.path(), &TrainerOptions::default()).unwrap_err();
    assert!(matches!(error, ReadError::OtherRun { step: found, loss: 9.25, .. } if found == step), "{error}");
    assert!(error.to_string().ends_with(": they are of two runs"), "{error}");
    assert!(matches!(checkpoints(run.path()).unwrap_err(), ReadError::OtherRun { .. }));
    // by itself the last checkpoint is a run
    std::fs::remove_dir_all(run.path().join("checkpoint-18")).unwrap();
    assert!(read(run.path(), &TrainerOptions::default()).is_ok());
}

/// transformers 4 writes the folder that a model was loaded from into its configuration.
#[test]
fn a_run_that_began_with_a_checkpoint_of_another_is_two_stages() {
    let folder = tempfile::tempdir().unwrap();
    let [before, run] = ["before", "run"].map(|name| folder.path().join(name));
    std::fs::rename(copy("linear-10").keep(), &before).unwrap();
    std::fs::rename(copy("linear-10").keep(), &run).unwrap();
    let named = |place: &str| {
        let file = run.join("checkpoint-36/config.json");
        let mut config: Json = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        config["_name_or_path"] = place.into();
        std::fs::write(&file, config.to_string()).unwrap();
        read(&run, &TrainerOptions::default()).unwrap()
    };
    let reading = named("before/checkpoint-36");
    assert!(matches!(&reading.warnings[0], Warning::BeganFrom { step: 36, .. }), "{:?}", reading.warnings);
    let (text, names) = reading.as_stages().unwrap();
    assert_eq!(names, ["before", "training"]);
    assert!(text.contains("last_step = 36\n") && text.contains("/before\"\n") && text.contains("/run\"\n"), "{text}");
    // its own checkpoint, one that is not there, and a name of the hub are none
    for other in ["run/checkpoint-18", "before/checkpoint-7", "gpt2", "before"] {
        assert!(named(other).as_stages().is_none(), "{other}");
    }
}

#[test]
fn optimizer_states_of_two_checkpoints_that_were_swapped_are_refused() {
    let run = copy("adamw-gpt2");
    let state = |step: u32| run.path().join(format!("checkpoint-{step}/optimizer.pt"));
    let (early, late) = (std::fs::read(state(8)).unwrap(), std::fs::read(state(16)).unwrap());
    std::fs::write(state(8), &late).unwrap();
    std::fs::write(state(16), &early).unwrap();
    let error = read(run.path(), &TrainerOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("checkpoint-8/optimizer.pt: has seen 16 updates, its checkpoint 8"), "{error}");
    // an old one in the place of a newer
    std::fs::write(state(8), &early).unwrap();
    let error = read(run.path(), &TrainerOptions::default()).unwrap_err();
    assert!(
        error.to_string().ends_with("checkpoint-16/optimizer.pt: has seen 8 updates, its checkpoint 16"),
        "{error}"
    );
}

/// accelerate's name for the state; FSDP has it too, with entries by name, which its contents tell.
#[test]
fn a_plain_state_under_the_name_of_accelerate_is_read() {
    let run = copy("adamw-gpt2");
    for step in [8, 16, 20] {
        let folder = run.path().join(format!("checkpoint-{step}"));
        std::fs::rename(folder.join("optimizer.pt"), folder.join("optimizer.bin")).unwrap();
    }
    let reading = read(run.path(), &TrainerOptions::default()).unwrap();
    assert!(reading.checkpoints.iter().all(|files| files.optimizer.as_ref().unwrap().ends_with("optimizer.bin")));
    assert_eq!(reading.warnings, []);
    assert_eq!(reading.optimizer, read(&fixture("adamw-gpt2"), &TrainerOptions::default()).unwrap().optimizer);
}

#[test]
fn norms_that_are_no_numbers_are_refused_where_clipping_counts() {
    for (bad, shown) in [("NaN", "NaN"), ("-1.5", "-1.5")] {
        let run = copy("adamw-gpt2");
        let state = run.path().join("checkpoint-20/trainer_state.json");
        let text = std::fs::read_to_string(&state).unwrap();
        let key = "\"grad_norm\": ";
        assert!(text.contains(key));
        std::fs::write(&state, text.replacen(key, &format!("{key}{bad}, \"true\": "), 1)).unwrap();
        let reading = read(run.path(), &TrainerOptions::default()).unwrap();
        let error = reading.stage(&Stated { n_examples: Some(37), ..stated(37) }).unwrap_err();
        assert!(
            error.to_string().ends_with(&format!("trainer_state.json: the gradient norm logged at step 3 is {shown}")),
            "{error}"
        );
        let ignored = Stated { clipping: crate::trajectory::reading::ClippingUse::Ignore, ..stated(37) };
        assert!(reading.stage(&ignored).is_ok(), "{:?}", reading.stage(&ignored));
    }
}

#[test]
fn files_that_some_checkpoints_lack_are_named() {
    let run = copy("adamw-gpt2");
    std::fs::remove_file(run.path().join("checkpoint-8/trainer_state.json")).unwrap();
    std::fs::remove_file(run.path().join("checkpoint-16/training_args.bin")).unwrap();
    let reading = read(run.path(), &TrainerOptions::default()).unwrap();
    let missing = |checkpoint: &str, file| Warning::MissingInCheckpoint { checkpoint: checkpoint.to_string(), file };
    assert_eq!(
        reading.warnings,
        [missing("checkpoint-8", "trainer_state.json"), missing("checkpoint-16", "training_args.bin")]
    );
}

#[test]
fn steps_beyond_any_run_are_refused_before_they_are_counted() {
    let run = copy("linear-1");
    let to = run.path().join("checkpoint-1000000000000");
    std::fs::rename(run.path().join("checkpoint-24"), &to).unwrap();
    let state = to.join("trainer_state.json");
    edit(&state, "\"global_step\": 24", "\"global_step\": 1000000000000");
    edit(&state, "\"max_steps\": 24", "\"max_steps\": 1000000000000");
    let error = read(run.path(), &TrainerOptions::default()).unwrap_err();
    assert!(
        error.to_string().ends_with("training has 1000000000000 steps, more than the 10000000 that are read"),
        "{error}"
    );
    // a schedule that is longer than the run costs nothing
    let run = copy("linear-1");
    let state = run.path().join("checkpoint-24/trainer_state.json");
    edit(&state, "\"max_steps\": 24", "\"max_steps\": 1000000000000");
    assert!(read(run.path(), &TrainerOptions::default()).is_ok_and(|reading| reading.rates.n_steps() == 24));
}
