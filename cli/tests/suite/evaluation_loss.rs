//! The loss of an evaluation set beside the one that a Trainer logged, and the check at one checkpoint alone: what is read
//! as training read it has the logged digits, and what is not is a warning that names the difference.

use std::fs;
use std::path::Path;

use crate::support::{Folder, ascribe, done, ended, root};
use ascribe::attribution::store::TensorFile;
use serde_json::Value;

const TINY: &str = "fixtures/trainer-tiny";
const RUN: &str = "fixtures/trainer-evaluated";
const CHAT: &str = "fixtures/trainer-chat";

/// How the run read its prompts and completions.
const AS_TRAINED: &str = "--add-bos train --add-eos train";

fn command(checkpoints: &str, folder: &str, eval: &str, flags: &str) -> String {
    let tokenizer = if flags.contains("--tokenizer") { "" } else { "--tokenizer fixtures/trainer-tiny" };
    format!(
        "influence {checkpoints} --train {folder}/train.jsonl --eval {eval} --queries {TINY}/queries.jsonl {tokenizer} {flags} --dry-run --out target/never-written"
    )
}

/// The plan of influence averaged over the run's checkpoints.
#[track_caller]
fn plan(eval: &str, flags: &str) -> String {
    done(&command(&format!("--run {RUN}"), RUN, eval, flags)).out
}

/// The plan for the run of conversations.
#[track_caller]
fn chat(flags: &str) -> String {
    done(&command(&format!("--run {CHAT}"), CHAT, &format!("{CHAT}/eval.jsonl"), flags)).out
}

#[track_caller]
fn agrees(plan: &str, lines: usize) {
    assert_eq!(plan.matches(": agrees").count(), lines, "{plan}");
    assert!(!plan.contains("DISAGREES") && !plan.contains("warning"), "{plan}");
}

/// The warnings of a plan that has some, the evaluation's last.
#[track_caller]
fn warnings(plan: &str) -> Vec<&str> {
    let found: Vec<&str> = plan.lines().filter_map(|line| line.strip_prefix("warning")).map(str::trim).collect();
    assert!(!found.is_empty(), "{plan}");
    found
}

#[track_caller]
fn evaluation_warning(plan: &str) -> &str {
    let warning = warnings(plan).into_iter().find(|warning| warning.contains("the evaluation set is probably not"));
    warning.unwrap_or_else(|| panic!("no warning of the evaluation in\n{plan}"))
}

#[track_caller]
fn as_logged(plan: &str, cause: &str) {
    let warning = evaluation_warning(plan);
    let named = warning.split("; ").any(|part| part.starts_with(cause) && part.ends_with(", as logged"));
    assert!(named, "{warning}");
}

/// Runs to the end, which must be a refusal, and gives what stderr has of it.
#[track_caller]
fn failed(arguments: &str) -> String {
    let ended = ended(ascribe(arguments));
    assert_eq!(ended.code, Some(2), "{arguments}\n{}{}", ended.out, ended.err);
    ended.err
}

fn eval() -> String {
    format!("{RUN}/eval.jsonl")
}

#[test]
fn a_set_that_is_read_as_it_was_evaluated_has_the_logged_digits() {
    let plan = plan(&eval(), AS_TRAINED);
    agrees(&plan, 4);
    // what transformers wrote, of a last batch with two examples of four
    let line =
        "checkpoint-80: loss 4.138 of 10 evaluation examples in batches of 4, the log has 4.138 at step 80: agrees";
    assert!(plan.contains(line), "{plan}");
    let conversations = chat(&format!("--chat-template {CHAT}/chat_template.jinja"));
    agrees(&conversations, 4);
    // transformers 5.24 counts the label of the first token among those of GPT2LMHeadModel
    assert!(
        conversations.contains("the log has 2.687 at step 80: agrees, both divided by the labels of first tokens too")
    );
}

#[test]
fn one_checkpoint_is_compared_like_a_run() {
    let model = format!("--model {RUN}/checkpoint-80");
    let plan = done(&command(&model, RUN, &eval(), AS_TRAINED)).out;
    agrees(&plan, 2);
    assert!(plan.contains("training examples, the log has"), "{plan}");
    let wrong = done(&command(&model, RUN, &eval(), "--add-bos train")).out;
    as_logged(&wrong, "with an end token as the last target (`--add-eos train`)");
    // a checkpoint that no Trainer wrote has nothing to be compared with
    let folder = Folder::new();
    let copy = folder.copy_of("trainer-evaluated");
    fs::remove_file(Path::new(&copy).join("checkpoint-80/trainer_state.json")).expect("a state");
    let alone = command(&format!("--model {copy}/checkpoint-80"), RUN, &eval(), AS_TRAINED);
    let without = done(&alone.replace(&format!("--eval {}", eval()), "")).out;
    assert!(!without.contains("around step") && !without.contains("warning"), "{without}");
    let refused = failed(&alone);
    assert!(refused.contains("trainer_state.json: is not there"), "{refused}");
}

#[test]
fn a_missing_end_token_is_named() {
    as_logged(&plan(&eval(), "--add-bos train"), "with an end token as the last target (`--add-eos train`)");
}

#[test]
fn a_missing_begin_token_is_named() {
    as_logged(&plan(&eval(), "--add-eos train"), "with a begin token in front (`--add-bos train`)");
}

/// Rows of the evaluation set, changed.
fn changed(folder: &Folder, name: &str, change: impl Fn(&mut serde_json::Map<String, Value>)) -> String {
    let rows = fs::read_to_string(root().join(RUN).join("eval.jsonl")).expect("text");
    let rows = rows.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).expect("an object");
        change(row.as_object_mut().expect("an object"));
        format!("{row}\n")
    });
    folder.write(name, rows.collect::<String>())
}

#[test]
fn a_second_begin_token_is_named() {
    let folder = Folder::new();
    let twice = changed(&folder, "twice.jsonl", |row| {
        let prompt = format!("<|endoftext|>{}", row["prompt"].as_str().expect("text"));
        row.insert("prompt".into(), prompt.into());
    });
    let plan = plan(&twice, &format!("{AS_TRAINED} --special-tokens keep"));
    as_logged(&plan, "with one begin token in front and not two");
}

#[test]
fn an_end_token_as_a_target_that_was_masked_is_named() {
    // the log of a run that left end tokens out of the loss: its evaluation is that of the same weights without them
    let folder = Folder::new();
    let (run, loss) = masked(&folder);
    let command = |flags: &str| command(&format!("--run {run}"), RUN, &eval(), flags);
    agrees_in_evaluation(&done(&command("--add-bos train --add-eos train:input")).out, loss);
    as_logged(&done(&command(AS_TRAINED)).out, "with labels at end tokens ignored (`--add-eos train:input`)");
}

/// A copy of the run whose last evaluation was made by torch without labels at end tokens.
fn masked(folder: &Folder) -> (String, f64) {
    let run = folder.copy_of("trainer-evaluated");
    let losses = fs::read_to_string(root().join(RUN).join("others.json")).expect("recorded losses");
    let losses: Value = serde_json::from_str(&losses).expect("an object");
    let loss = losses["end_masked"].as_f64().expect("a number");
    for step in [40, 80] {
        let file = Path::new(&run).join(format!("checkpoint-{step}/trainer_state.json"));
        let mut state: Value = serde_json::from_slice(&fs::read(&file).expect("a state")).expect("an object");
        let entries = state["log_history"].as_array_mut().expect("entries");
        entries.retain(|entry| entry.get("eval_loss").is_none() || entry["step"] == 80);
        for entry in entries.iter_mut().filter(|entry| entry.get("eval_loss").is_some()) {
            entry["eval_loss"] = loss.into();
        }
        fs::write(&file, state.to_string()).expect("writable");
    }
    (run, loss)
}

#[track_caller]
fn agrees_in_evaluation(plan: &str, loss: f64) {
    assert!(plan.contains(&format!("the log has {loss:.3} at step 80: agrees")), "{plan}");
}

#[test]
fn prompts_among_the_targets_disagree() {
    let folder = Folder::new();
    let joined = changed(&folder, "joined.jsonl", |row| {
        let part = |name: &str| row[name].as_str().expect("text").to_owned();
        let text = part("prompt") + &part("completion");
        row.retain(|key, _| key == "id");
        row.insert("text".into(), text.into());
    });
    let plan = plan(&joined, AS_TRAINED);
    assert!(evaluation_warning(&plan).contains("It may be another tokenizer, template, file or mask"), "{plan}");
}

#[test]
fn half_of_the_set_disagrees() {
    let folder = Folder::new();
    let rows = fs::read_to_string(root().join(RUN).join("eval.jsonl")).expect("text");
    let half = folder.write("half.jsonl", rows.lines().take(5).map(|line| format!("{line}\n")).collect::<String>());
    let plan = plan(&half, AS_TRAINED);
    assert_eq!(plan.matches("DISAGREES").count(), 2, "{plan}");
    evaluation_warning(&plan);
}

#[test]
fn another_tokenizer_disagrees() {
    let folder = Folder::new();
    let text = fs::read_to_string(root().join(TINY).join("tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("an object");
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let n = vocabulary.len() as u64;
    for id in vocabulary.values_mut().filter(|id| **id != 0) {
        *id = Value::from((id.as_u64().expect("a number") + 76) % (n - 1) + 1);
    }
    folder.write("other/tokenizer.json", tokenizer.to_string());
    let config = fs::read(root().join(TINY).join("tokenizer_config.json")).expect("readable");
    folder.write("other/tokenizer_config.json", config);
    let plan = plan(&eval(), &format!("{AS_TRAINED} --tokenizer {}", folder.arg("other")));
    assert_eq!(plan.matches("DISAGREES").count(), 4, "{plan}");
    assert!(evaluation_warning(&plan).contains("It may be another tokenizer"), "{plan}");
}

#[test]
fn another_chat_template_is_named() {
    let folder = Folder::new();
    let other = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}";
    let wrong = folder.write("other.jinja", other);
    let plan = chat(&format!("--chat-template {wrong}"));
    assert_eq!(plan.matches("DISAGREES").count(), 4, "{plan}");
    // the run's template is its own only in the order in which it says things
    let cause = "with conversations in the style of Tulu (`--chat-template`)";
    as_logged(&plan, cause);
    assert!(warnings(&plan).len() == 2 && warnings(&plan)[0].contains(cause), "{plan}");
    // the tokenizer's folder has the right one, which the flag overrules
    folder.copy_of("trainer-chat");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        folder.write(&format!("trainer-chat/{file}"), fs::read(root().join(TINY).join(file)).expect("readable"));
    }
    let tokenizer = folder.arg("trainer-chat");
    agrees(&chat(&format!("--tokenizer {tokenizer}")), 4);
    let overruled = chat(&format!("--tokenizer {tokenizer} --chat-template {wrong}"));
    as_logged(&overruled, "with the chat template of the tokenizer's folder (without `--chat-template`)");
}

/// Training in 16 bits: an evaluation loss that is off by less than that may round is said to be.
#[test]
fn the_precision_of_training_is_named() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-evaluated");
    let arguments = fs::read(root().join(RUN).join("bf16_args.bin")).expect("arguments");
    folder.write("trainer-evaluated/training_args.bin", arguments);
    let command = command(&format!("--run {run}"), RUN, &eval(), AS_TRAINED);
    agrees(&done(&command).out, 4);
    let scaled = |factor: f64| {
        for step in [40, 80] {
            let from = root().join(RUN).join(format!("checkpoint-{step}/trainer_state.json"));
            let mut state: Value = serde_json::from_slice(&fs::read(from).expect("a state")).expect("an object");
            for entry in state["log_history"].as_array_mut().expect("entries") {
                if let Some(loss) = entry.get("eval_loss").and_then(Value::as_f64) {
                    entry["eval_loss"] = (loss * factor).into();
                }
            }
            folder.write(&format!("trainer-evaluated/checkpoint-{step}/trainer_state.json"), state.to_string());
        }
        done(&command).out
    };
    let near = scaled(1.004);
    assert!(
        warnings(&near)[0].contains("training computed in 16 bits (`bf16=True`), which may change it so far"),
        "{near}"
    );
    evaluation_warning(&scaled(1.02));
}

/// Changes the entries of evaluations in the logs of a copy of the run.
fn change_evaluations(run: &str, change: impl Fn(&mut serde_json::Map<String, Value>)) {
    for step in [40, 80] {
        let file = Path::new(run).join(format!("checkpoint-{step}/trainer_state.json"));
        let mut state: Value = serde_json::from_slice(&fs::read(&file).expect("a state")).expect("an object");
        for entry in state["log_history"].as_array_mut().expect("entries") {
            if entry.get("eval_loss").is_some() {
                change(entry.as_object_mut().expect("an entry"));
            }
        }
        fs::write(&file, state.to_string()).expect("writable");
    }
}

/// A copy of the run whose evaluation set has a name in the log, beside what else its entries get.
fn named(folder: &Folder, change: impl Fn(&mut serde_json::Map<String, Value>)) -> String {
    let run = folder.copy_of("trainer-evaluated");
    change_evaluations(&run, |entry| {
        for of in ["loss", "runtime"] {
            let value = entry.remove(&format!("eval_{of}")).expect("a number");
            entry.insert(format!("eval_facts_{of}"), value);
        }
        change(entry);
    });
    run
}

#[test]
fn a_set_with_a_name_is_compared_with_its_own_losses() {
    let folder = Folder::new();
    // a measure is no set
    let run = named(&folder, |entry| drop(entry.insert("eval_facts_aux_loss".into(), 9.0.into())));
    let plan =
        |run: &str, flags: &str| command(&format!("--run {run}"), RUN, &eval(), &format!("{AS_TRAINED} {flags}"));
    let only = done(&plan(&run, "")).out;
    agrees(&only, 4);
    let line = "checkpoint-80: loss 4.138 of 10 evaluation examples of `facts` in batches of 4, the log has 4.138";
    assert!(only.contains(line), "{only}");
    assert!(failed(&plan(&run, "--eval-name other")).contains("its evaluation sets are `facts`"));
    // of several one has to be named
    let run = named(&folder, |entry| {
        entry.insert("eval_other_loss".into(), 1.5.into());
        entry.insert("eval_other_runtime".into(), 0.1.into());
    });
    let shown = done(&format!("trajectory {run}")).out;
    assert!(["of facts", "of other", "4.138", "1.500"].iter().all(|cell| shown.contains(cell)), "{shown}");
    let said = failed(&plan(&run, ""));
    assert!(
        said.contains("several evaluation sets: `facts`, `other`") && said.contains("`--eval-name NAME`"),
        "{said}"
    );
    agrees(&done(&plan(&run, "--eval-name facts")).out, 4);
    let other = done(&plan(&run, "--eval-name other")).out;
    assert!(other.contains("of `other` in batches of 4, the log has 1.500 at step 80: DISAGREES"), "{other}");
    let said = failed(&plan(&run, "--eval-name facts").replace(&format!("--eval {} ", eval()), ""));
    assert!(said.contains("`--eval-name` says which evaluation set `--eval` is"), "{said}");
    assert!(failed(&plan(RUN, "--eval-name facts")).contains("its only evaluation set has no name"));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = Folder::new();
    let refused = |command: String| failed(&command);
    let never = refused(format!(
        "influence --run {TINY} --train {TINY}/train.jsonl --eval {TINY}/train.jsonl --queries {TINY}/queries.jsonl --add-eos train --dry-run --out target/never-written"
    ));
    assert!(never.contains("has no `eval_loss` in its `log_history`"), "{never}");
    let empty = folder.write("empty.jsonl", "");
    let empty = refused(command(&format!("--run {RUN}"), RUN, &empty, AS_TRAINED));
    assert!(empty.contains("empty.jsonl"), "{empty}");
    let contradiction = refused(command(&format!("--run {RUN}"), RUN, &eval(), "--no-loss-check"));
    assert!(contradiction.contains("--no-loss-check"), "{contradiction}");
    let rows = refused(
        "influence --model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors --eval fixtures/mlp-tiny/train.safetensors --queries fixtures/mlp-tiny/query.safetensors --dry-run --out target/never-written".to_owned(),
    );
    assert!(rows.contains("this model reads rows of numbers"), "{rows}");
    // evaluated, but never where a checkpoint was saved
    let run = folder.copy_of("trainer-evaluated");
    change_evaluations(&run, |entry| drop(entry.insert("step".into(), 33.into())));
    let elsewhere = refused(command(&format!("--run {run}"), RUN, &eval(), AS_TRAINED));
    assert!(elsewhere.contains("has an `eval_loss` at steps 33, and no checkpoint was saved there"), "{elsewhere}");
}

#[test]
fn results_hold_what_was_found() {
    let folder = Folder::new();
    let command = format!(
        "influence --run {RUN} --train {RUN}/train.jsonl --queries {TINY}/queries.jsonl --tokenizer {TINY} {AS_TRAINED} --out {}",
        folder.arg("run")
    );
    assert!(!done(&command).err.contains("evaluation examples"));
    // the same run, with an evaluation set: compared now, and kept
    let with = format!("{command} --eval {}", eval());
    assert!(done(&with).err.contains("checkpoint-80: loss 4.138 of 10 evaluation examples"));
    let kept: Value =
        serde_json::from_slice(&fs::read(folder.path("run/loss_check.json")).expect("a file")).expect("JSON");
    assert_eq!(kept["evaluations"].as_array().map(Vec::len), Some(2));
    assert_eq!(kept["evaluations"][1]["agrees"], true);
    let fresh = with.replace(&folder.arg("run"), &folder.arg("fresh"));
    done(&fresh);
    let stored = TensorFile::open_checked(&folder.path("fresh/scores.safetensors")).expect("scores");
    let check: Value = serde_json::from_str(stored.metadata("loss_check").expect("an entry")).expect("an object");
    assert_eq!(check["evaluations"][1]["logged"], 4.1383);
}
