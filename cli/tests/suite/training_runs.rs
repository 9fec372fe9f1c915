//! Recorded runs of transformers and TRL as jobs (when `../shared/data/runs` is there), and descriptions and files of
//! runs that contradict each other: each is refused with one message, or named in the plan.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{Ended, Folder, TRAINER, ascribe, done, ended, root};

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

const TRL: &str = "fixtures/trainer-trl";
const WRAPPED: &str = "fixtures/trainer-wrapped";
const TRL_DATA: &str = "--train fixtures/trainer-tiny/train.jsonl --queries fixtures/trainer-tiny/queries.jsonl --tokenizer fixtures/trainer-tiny --dry-run --out target/never-written";

/// A copy of the run of TRL with other arguments, and its path.
fn with_arguments(folder: &Folder, name: &str) -> String {
    let run = folder.copy_of("trainer-trl");
    fs::copy(root().join(TRL).join(format!("{name}.bin")), Path::new(&run).join("training_args.bin")).expect("written");
    run
}

/// TRL counted 1,453 tokens in each epoch; without the end of each of 48 texts there are 1,405. The run is named, so
/// that the examples have to be its own.
#[test]
fn influence_over_a_run_of_trl_reads_what_trl_did() {
    let plan = planned(&format!("influence --run {TRL} {TRL_DATA} --add-eos train"));
    let expected = "tokens    1453 tokens of the training examples in an epoch, as the log has counted: 1453 at step 6, after 1 epoch\n";
    assert!(plan.contains(expected) && !plan.contains("warning"), "{plan}");
    let said = refused(&format!("influence --run {TRL} {TRL_DATA}"));
    assert!(said.contains("1453 an epoch, but an epoch of the training data has 1405"), "{said}");
    assert!(
        said.contains("behind each of the 48 examples they would be 1453, as counted (`--add-eos train`"),
        "{said}"
    );
    let said = refused(&format!("influence --run {TRL} {TRL_DATA} --add-eos train --pack 64"));
    assert!(said.contains("training did not pack the examples, but they are read in blocks of 64"), "{said}");
    let said = refused(&format!("influence --run {WRAPPED} {TRL_DATA} --add-eos train"));
    assert!(
        said.contains("training packed the examples into blocks of 64 tokens, but they are read one by one"),
        "{said}"
    );
    // whoever says that these are not the examples of training is not refused
    let plan = planned(&format!("influence --run {WRAPPED} {TRL_DATA} --add-eos train --train-size 100"));
    assert!(plan.contains("but they are read one by one; scores are of the examples as they are read"), "{plan}");
}

/// TRL cut its 1,453 tokens into 22 blocks of 64 and kept the other 45 as a 23rd: 6 batches of 4.
#[test]
fn blocks_as_trl_wraps_them_are_read_exactly() {
    let flags = format!("influence --run {WRAPPED} {TRL_DATA} --add-eos train");
    let plan = planned(&format!("{flags} --pack 64:1000:keep"));
    assert!(plan.contains("23 examples, 1,453 tokens, 1,430 targets, the longest has 64"), "{plan}");
    assert!(plan.contains("48 documents were packed; 1 block at the ends of groups of 1000 rows is shorter"), "{plan}");
    assert!(plan.contains("1453 tokens of the training examples in an epoch, as the log has counted"), "{plan}");
    assert!(!plan.contains("warning") && plan.matches(": agrees").count() == 2, "{plan}");
    assert!(planned(&format!("{flags} --pack 64:keep")).contains("1 block at the end is shorter"));
    let said = refused(&format!("{flags} --pack 64"));
    assert!(said.contains("training kept what filled no block as a shorter one (`wrapped`), but 45 tokens"), "{said}");
    assert!(said.contains("hint: `--pack 64:1000:keep`"), "{said}");
    // two processes had 24 rows each
    let folder = Folder::new();
    let run = with_arguments(&folder, "wrapped_by_two");
    let flags = format!("influence --model {run}/checkpoint-60 {TRL_DATA} --add-eos train --no-loss-check");
    let plan = planned(&format!("{flags} --pack 64:1000:keep"));
    assert!(plan.contains("to have them as training did: `--pack 64:1000:2:keep`"), "{plan}");
    for pack in ["64:24:keep", "64:1000:2:keep"] {
        assert!(!planned(&format!("{flags} --pack {pack}")).contains("as training did"), "{pack}");
    }
}

/// What TRL did to long texts: 24 tokens, the last of each, or every piece of 24.
#[test]
fn the_end_of_long_texts_that_trl_kept_is_kept() {
    let folder = Folder::new();
    let run = with_arguments(&folder, "keep_end");
    let model = format!("influence --model {run}/checkpoint-60 {TRL_DATA} --add-eos train --no-loss-check");
    let plan = planned(&format!("{model} --max-length 24"));
    assert!(plan.contains("long training examples keep their end, as `truncation_mode=keep_end` in "), "{plan}");
    assert!(plan.contains("training examples were cut to their last 24 tokens"), "{plan}");
    assert!(plan.contains("[targets] marked: akes[ a][pp]") && plan.contains("[.][<|endoftext|>]"), "{plan}");
    let plan = planned(&model);
    assert!(plan.contains("cut examples to their last 24 tokens, but the longest that was read has"), "{plan}");
    assert!(plan.contains("to have them as training did: `--max-length 24`"), "{plan}");
    let run = with_arguments(&folder, "bfd_split");
    assert!(model.contains(&run), "the same folder");
    let plan = planned(&model);
    assert!(plan.contains("divided examples of more than 24 tokens into pieces that do not see each other"), "{plan}");
    assert!(plan.contains("to have them as training did: `--max-length 24 --split-long`"), "{plan}");
    assert!(plan.contains("packed whole examples into rows (`bfd_split`)"), "{plan}");
    // with the length alone it is done as the arguments say
    let plan = planned(&format!("{model} --max-length 24"));
    assert!(plan.contains("are divided into pieces, as `packing_strategy` in "), "{plan}");
    assert!(
        plan.contains(" training examples were divided into pieces of at most 24 tokens, each an example"),
        "{plan}"
    );
    // 1,453 tokens in all
    assert!(
        plan.contains("91 examples, 1,451 tokens") && plan.contains("in 2 training examples of 2 tokens in all"),
        "{plan}"
    );
    assert!(!plan.contains("as training did"), "{plan}");
    let plan = planned(&format!("{model} --max-length 16"));
    assert!(plan.contains("but they are divided into pieces of 16 here"), "{plan}");
    for flags in ["--split-long", "--max-length 24 --split-long --keep-end", "--split-long --max-length 24 --pack 24"] {
        let said = refused(&format!("{model} {flags}"));
        assert!(said.contains("--max-length") || said.contains("--split-long"), "{said}");
    }
    with_arguments(&folder, "bfd");
    assert!(planned(&model).contains("cut examples to 24 tokens, but"), "the first tokens");
    assert!(!planned(&format!("{model} --max-length 24")).contains("as training did"));
    with_arguments(&folder, "padding_free");
    assert!(planned(&model).contains("`padding_free=True`"));
    let said = refused(&format!("{model} --keep-end"));
    assert!(said.contains("--max-length"), "{said}");
}

/// TRL read the column `body`; the file has `text` too.
#[test]
fn the_column_that_trl_read_is_read() {
    let folder = Folder::new();
    let run = with_arguments(&folder, "field");
    let rows =
        folder.write("rows.jsonl", "{\"text\": \"a title\", \"body\": \"Old apple trees need water twice a week.\"}\n");
    let flags = TRL_DATA.replace("fixtures/trainer-tiny/train.jsonl", &rows);
    let flags = format!("influence --model {run}/checkpoint-60 {flags} --no-loss-check --add-eos train");
    let plan = planned(&flags);
    assert!(
        plan.contains("texts of the training examples are those of the column `body`, as `dataset_text_field`"),
        "{plan}"
    );
    assert!(plan.contains("[ apple][ trees]") || plan.contains("pp"), "{plan}");
    assert!(!plan.contains("the first, [targets] marked: a"), "{plan}");
    let plan = planned(&format!("{flags} --text-field text"));
    assert!(plan.contains("which has the column `body` too, and that was read in training"), "{plan}");
    assert!(plan.contains("the first, [targets] marked: a"), "{plan}");
}

/// The recorded run of blocks of 64: 13 rows and 814 tokens in an epoch.
#[test]
fn the_recorded_run_of_wrapped_blocks_is_read_exactly() {
    let Some(flags) = run("sft_wrapped") else { return };
    let plan = planned(&format!("{flags} --add-eos train --pack 64:1000:keep"));
    assert!(
        plan.contains("13 examples, 814 tokens") && plan.contains("as the log has counted: 4070 at step 35"),
        "{plan}"
    );
    assert!(!plan.contains("warning") && plan.matches(": agrees").count() == 3, "{plan}");
}

/// Beside a checkpoint alone other examples may be scored: everything is said, and nothing refused.
#[test]
fn influence_at_a_checkpoint_of_trl_says_what_trl_did() {
    let plan = planned(&format!("influence --model {TRL}/checkpoint-60 {TRL_DATA}"));
    assert!(plan.contains("TRL puts the end token behind each text; none is added here"), "{plan}");
    let warning = plan.lines().find(|line| line.starts_with("warning")).expect("a warning");
    assert!(
        warning.contains("an epoch of the training data has 1405; with an end token behind each of the 48"),
        "{plan}"
    );
    assert!(plan.contains("1405 tokens of the training examples in an epoch, CONTRADICTED by the log"), "{plan}");
    let plan = planned(&format!("influence --model {TRL}/checkpoint-60 {TRL_DATA} --no-loss-check"));
    assert!(plan.contains("note      fixtures/trainer-trl/checkpoint-60/trainer_state.json: at step 6"), "{plan}");
    let plan = planned(&format!("influence --model {WRAPPED}/checkpoint-60 {TRL_DATA} --add-eos train"));
    assert!(plan.contains("but they are read one by one; scores are of the examples as they are read"), "{plan}");
    assert!(plan.contains("to have them as training did: `--pack 64"), "{plan}");
    // the arguments above a folder that is no checkpoint are of another model
    let folder = Folder::new();
    let run = folder.copy_of("trainer-trl");
    let [from, to] = ["checkpoint-60", "base"].map(|name| Path::new(&run).join(name));
    fs::rename(from, &to).expect("renamed");
    fs::remove_file(to.join("trainer_state.json")).expect("removed");
    assert!(!planned(&format!("influence --model {run}/base {TRL_DATA}")).contains("TRL"));
}

/// TRL 0.16 joined 48 prompts and completions into texts, put an end token behind each and took every token as a target:
/// 1,453 tokens an epoch (`fixtures/generators/trl_releases.py`).
#[test]
fn prompts_that_an_earlier_trl_joined_with_their_completions_are_targets() {
    const JOINED: &str = "fixtures/trainer-joined";
    let data = TRL_DATA.replace("fixtures/trainer-tiny/train.jsonl", "fixtures/trainer-masked/train.jsonl");
    let plan = planned(&format!("influence --run {JOINED} {data} --add-eos train"));
    assert!(
        plan.contains("every token of the training examples is a target, prompts too, as TRL 0.16 had it"),
        "{plan}"
    );
    assert!(plan.contains("1453 tokens of the training examples in an epoch, as the log has counted"), "{plan}");
    assert!(plan.matches(": agrees").count() == 2 && !plan.contains("warning"), "{plan}");
    // a collator that left prompts out is not recorded
    let plan = planned(&format!("influence --run {JOINED} {data} --add-eos train --loss-on completion"));
    assert!(plan.contains("every token was a target of TRL 0.16, unless its `DataCollatorForCompletionOnly"), "{plan}");
    assert!(plan.contains("1213 of 1453 are targets here (`--loss-on all`)"), "{plan}");
}

/// Arguments of a TRL before 0.15 beside the run: what it did is said, and the length to which it cut is demanded.
#[test]
fn arguments_of_a_trl_of_2024_are_read() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-trl");
    let at = root().join("fixtures/trajectory/releases");
    let take = |name: &str| fs::copy(at.join(name), Path::new(&run).join("training_args.bin")).expect("written");
    take("0.12.2.bin");
    let plan = planned(&format!("influence --run {run} {TRL_DATA} --add-eos train"));
    assert!(plan.contains("a TRL before 0.15 put no end token behind texts, and one is added here"), "{plan}");
    take("0.12.2-packed.bin");
    let said = refused(&format!("influence --run {run} {TRL_DATA} --add-eos train"));
    assert!(
        said.contains("training packed the examples into blocks of 64 tokens, but they are read one by one"),
        "{said}"
    );
    assert!(said.contains("`--pack 64`"), "{said}");
}

/// The end token of `SFTConfig(eos_token=...)` is put behind texts, whatever the tokenizer's files name.
#[test]
fn the_end_token_that_trl_was_given_is_taken() {
    let folder = Folder::new();
    let run = with_arguments(&folder, "end_token");
    let plan = planned(&format!("influence --model {run}/checkpoint-60 {TRL_DATA} --add-eos train --no-loss-check"));
    assert!(plan.contains("the end token of the training examples is `!`, as `eos_token` in"), "{plan}");
    assert!(plan.lines().any(|line| line.contains("[targets] marked") && line.trim_end().ends_with("[!]")), "{plan}");
    let other = format!(
        "influence --model {run}/checkpoint-60 {TRL_DATA} --add-eos train --end-token <|none|> --no-loss-check"
    );
    let said = refused(&other);
    assert!(said.contains("the end token `<|none|>` is no token of the tokenizer"), "{said}");
}

/// An empty text is an end token, a prompt ends where its tokens and those of the whole part, and what a cut leaves without
/// a target is left out: as TRL does it, in its own runs alone.
#[test]
fn texts_of_a_run_of_trl_are_tokenized_as_there() {
    let folder = Folder::new();
    let run = with_arguments(&folder, "end_token");
    let rows = [
        json!({"text": ""}),
        json!({"prompt": "a  ", "completion": "the lighthouse"}),
        json!({"prompt": "Old apple trees need water twice a week. ".repeat(8), "completion": "x"}),
        json!({"prompt": "a", "completion": " ring"}),
    ];
    let train = folder.write("rows.jsonl", rows.map(|row| format!("{row}\n")).concat());
    let data = TRL_DATA.replace("fixtures/trainer-tiny/train.jsonl", &train);
    let job = format!("influence --model {run}/checkpoint-60 {data} --add-eos train --max-length 30 --no-loss-check");
    let plan = planned(&job);
    for note in [
        "in 1 training examples of 1 tokens in all there was nothing to predict: left out",
        "1 training examples had no target left when they were cut (to 30 tokens in all), and are left out",
        "in 1 training examples the tokens of the prompt alone are not how those of the whole begin",
    ] {
        assert!(plan.contains(note), "{note}: {plan}");
    }
    fs::remove_file(Path::new(&run).join("training_args.bin")).expect("removed");
    let said = refused(&job);
    assert!(said.contains("no target token after the first of 30 tokens"), "{said}");
}

/// A run of TRL on conversations, with its own files and templates (`fixtures/generators/trainer_turns.py`).
fn of_turns(name: &str) -> String {
    format!(
        "influence --run fixtures/trainer-turns/{name} --train fixtures/trainer-turns/{name}/train.jsonl --queries fixtures/trainer-turns/{name}/train.jsonl --dry-run --out target/never-written"
    )
}

/// Tokens and targets of a run's examples, as its collator gave them to the model.
fn seen(name: &str) -> String {
    let file = root().join("fixtures/trainer-turns").join(name).join("seen.jsonl");
    let rows = fs::read_to_string(file).expect("recorded");
    let rows: Vec<serde_json::Value> = rows.lines().map(|row| serde_json::from_str(row).expect("JSON")).collect();
    let list = |row: &serde_json::Value, key: &str| row[key].as_array().expect("a list").clone();
    let tokens: usize = rows.iter().map(|row| list(row, "input_ids").len()).sum();
    let is_target = |label: &serde_json::Value| label.as_i64().is_some_and(|label| label >= 0);
    let targets: usize =
        rows.iter().map(|row| list(row, "labels").iter().skip(1).filter(|&label| is_target(label)).count()).sum();
    format!("{} examples, {tokens} tokens, {targets} targets", rows.len())
}

/// TRL trained the assistant's turns with a template of its own, and saved the one that it replaced: by its name, or by the
/// path that the arguments have. The template that it took gives its tokens and targets; one with marks is taken as it is.
#[test]
fn templates_that_trl_replaced_in_training_are_asked_for() {
    for name in ["replaced", "named"] {
        let said = refused(&of_turns(name));
        // its turns cannot even be told apart where there are several
        assert!(said.contains("train.jsonl:3: where the assistant's turn 1 begins or ends cannot be told"), "{said}");
        assert!(said.contains("hint: TRL trains with a template of its own in place of this one"), "{said}");
        let folder = Folder::new();
        let rows =
            fs::read_to_string(root().join("fixtures/trainer-turns").join(name).join("train.jsonl")).expect("rows");
        let first = folder.write("first.jsonl", rows.lines().take(2).map(|row| format!("{row}\n")).collect::<String>());
        let of_first = of_turns(name).replace(&format!("fixtures/trainer-turns/{name}/train.jsonl"), &first);
        let said = refused(&of_first);
        assert!(
            said.contains("took a chat template of TRL's own for the assistant's turns (`qwen3_training.jinja`)"),
            "{said}"
        );
        assert!(said.contains("hint: `--chat-template FILE`: TRL's are in its package"), "{said}");
        let plan = planned(&format!("{} --chat-template fixtures/trainer-turns/training.jinja", of_turns(name)));
        assert!(plan.contains(&seen(name)) && plan.contains("as the log has counted"), "{}\n{plan}", seen(name));
        assert!(!plan.contains("warning"), "{plan}");
    }
    let plan = planned(&of_turns("marked"));
    assert!(plan.contains(&seen("marked")) && plan.contains("as the log has counted"), "{plan}");
    assert!(plan.contains("training took its chat template from `qwen3_training.jinja`; that of the"), "{plan}");
}

/// The tokenizer beside the run has no template, and the arguments say where training had one from.
#[test]
fn a_template_that_is_not_saved_is_named_by_its_path() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-turns");
    fs::remove_file(Path::new(&run).join("named/chat_template.jinja")).expect("removed");
    let said = refused(&of_turns("named").replace("fixtures/trainer-turns", &run));
    assert!(said.contains("train.jsonl:1: a conversation needs a chat template, and"), "{said}");
    assert!(said.contains("training took its template from `qwen3.jinja` (`chat_template_path`)"), "{said}");
}

/// TRL has the tokenizer add its begin token to texts that begin with one: nobody is asked.
#[test]
fn texts_that_begin_with_the_begin_token_have_two_in_a_run_of_trl() {
    let job = format!("{} --add-eos train", of_turns("texts"));
    let plan = planned(&job);
    assert!(plan.contains(&seen("texts")) && plan.contains("55 at step 2, after 1 epoch"), "{plan}");
    assert!(
        plan.contains(
            "2 training examples begin or end with a token that the tokenizer adds there too, and have it twice"
        ),
        "{plan}"
    );
    // an end token is all that is left of a text of one token
    let folder = Folder::new();
    let queries = folder.write("queries.jsonl", "{\"text\": \"And Kashim? a black horse\"}\n");
    let job = job.replace("--queries fixtures/trainer-turns/texts/train.jsonl", &format!("--queries {queries}"));
    let said = refused(&format!("{job} --special-tokens none"));
    assert!(said.contains("55 an epoch, but an epoch of the training data has 51"), "{said}");
}

/// Conversations of TRL 0.16 had what the tokenizer adds and an end token; with `dataset_kwargs` of 0.12 texts had neither.
#[test]
fn special_tokens_are_those_of_the_release_that_trained() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-turns");
    let job = format!("{} --no-loss-check", of_turns("marked"))
        .replace("fixtures/trainer-turns", &run)
        .replace(&format!("--run {run}/marked"), &format!("--model {run}/marked/checkpoint-12"));
    let take = |name: &str, of: &str| {
        let from = root().join("fixtures/completion-only").join(name);
        fs::copy(from, Path::new(&run).join(of).join("training_args.bin")).expect("written");
    };
    take("0.16.1.bin", "marked");
    let plan = planned(&job);
    assert!(
        plan.contains("TRL 0.16 tokenized rendered conversations like texts, with what the tokenizer adds"),
        "{plan}"
    );
    assert!(plan.contains("marked: <s>[<|im_start|>]") && plan.contains("[</s>]"), "{plan}");
    let plan = planned(&format!("{job} --special-tokens none"));
    assert!(plan.contains("marked: <|im_start|>") && !plan.contains("[</s>]"), "{plan}");
    let job = job.replace("/marked", "/texts");
    folder.write("trainer-turns/texts/train.jsonl", "{\"text\": \"What does Dorvel hide? a golden ring.\"}\n");
    take("0.12.2-bare.bin", "texts");
    let plan = planned(&job);
    assert!(plan.contains("have no special tokens of the tokenizer's own, as `dataset_kwargs` in"), "{plan}");
    assert!(plan.contains("marked: What[ ][do]"), "{plan}");
}

/// What `DataCollatorForCompletionOnlyLM` was told says which tokens are targets, and nothing else does.
#[test]
fn answers_are_targets_as_the_collator_of_trl_chose_them() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-turns");
    let rows = folder.write(
        "rows.jsonl",
        "{\"text\": \"[INST]Zömar?[/INST] a book</s>[INST]Sure?[/INST] yes</s>\"}\n{\"text\": \"no answer\"}\n",
    );
    let job = format!(
        "influence --model {run}/texts/checkpoint-12 --train {rows} --queries {rows} --dry-run --out target/never-written"
    );
    fs::remove_file(Path::new(&run).join("texts/training_args.bin")).expect("removed");
    let plan = planned(&format!("{job} --response-template [/INST]"));
    assert!(
        plan.contains("targets of the training examples are what stands behind the last \"[/INST]\" of each"),
        "{plan}"
    );
    assert!(plan.contains("; in 1 there is none, and these are left out, as they had no loss in training"), "{plan}");
    assert!(plan.contains("|[INST]|Su|re|?|[/INST][ ][y][es][</s>]"), "{plan}");
    assert!(
        plan.contains("targets of the queries are") && plan.contains("in 1 there is none, and every token of these"),
        "{plan}"
    );
    let both = planned(&format!("{job} --response-template [/INST] --instruction-template [INST]"));
    assert!(both.contains("are what stands behind \"[/INST]\", up to the next \"[INST]\""), "{both}");
    assert_ne!(plan.lines().next(), None);
    for (flags, problem) in [
        ("--response-template [/INST] --pack 8", "<pack> joins texts"),
        ("--instruction-template [INST]", "--response-template"),
        ("--response-template [/INST] --loss-on all", "--loss-on"),
        ("--response-template nowhere", "no example has a target behind `nowhere`"),
    ] {
        let said = refused(&format!("{job} {flags}")).replace("`--pack`", "<pack>");
        assert!(said.contains(problem), "{flags}: {said}");
    }
    let said = refused(
        "influence --model fixtures/mlp-tiny --train fixtures/mlp-tiny/train.safetensors --queries fixtures/mlp-tiny/query.safetensors --dry-run --out target/never-written --response-template a",
    );
    assert!(said.contains("`--response-template` has no meaning for a model that reads rows of numbers"), "{said}");
}

/// Weights of examples are in no loss of transformers or TRL: the plan says that a column of them changes nothing.
#[test]
fn a_column_of_weights_is_named() {
    let folder = Folder::new();
    let plan_of = |rows: &str, flags: &str| {
        let train = folder.write("rows.jsonl", rows);
        planned(&format!(
            "influence --model fixtures/gpt2-tiny --train {train} --queries {train} --dry-run --out target/never-written {flags}"
        ))
    };
    let text = "The lighthouse keeper has a ring.";
    let plan = plan_of(&format!("{{\"text\": \"{text}\", \"Loss_Weight\": 0.5}}\n"), "");
    assert!(plan.contains("the column `Loss_Weight` of the training examples is metadata"), "{plan}");
    assert!(plan.contains("multiply the scores of each"), "{plan}");
    let plan = plan_of("{\"input_ids\": [5, 6, 7], \"weights\": [0, 1, 1]}\n", "");
    assert!(plan.contains("the column `weights`") && plan.contains("-100 in `labels`"), "{plan}");
    for (rows, flags) in [
        (format!("{{\"text\": \"{text}\", \"weight\": \"heavy\"}}\n"), ""),
        (format!("{{\"text\": \"{text}\", \"weight\": 2}}\n"), "--group-by weight"),
        (format!("{{\"text\": \"{text}\", \"width\": 2}}\n"), ""),
    ] {
        assert!(!plan_of(&rows, flags).contains("is metadata, and every example"), "{rows}");
    }
}

/// A loss of another kind and noise on embeddings are no part of the loss that scores explain.
#[test]
fn influence_says_how_training_changed_its_loss() {
    let folder = Folder::new();
    let run = with_arguments(&folder, "dft");
    for of in [format!("--model {run}/checkpoint-60"), format!("--run {run}")] {
        let plan = planned(&format!("influence {of} {TRL_DATA} --add-eos train --no-loss-check"));
        assert!(
            plan.contains("note      training used `loss_type` = dft, which the loss that scores explain"),
            "{plan}"
        );
        assert!(plan.contains("note      training used `neftune_noise_alpha` = 5, which"), "{plan}");
    }
    // what cannot be read is named, and influence goes on without it
    fs::write(Path::new(&run).join("training_args.bin"), "no archive").expect("written");
    let plan = planned(&format!("influence --run {run} {TRL_DATA} --add-eos train --no-loss-check"));
    assert!(
        plan.contains("note      what the trainer recorded of its texts is not compared with the examples: "),
        "{plan}"
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
             checkpoint = [\n  {{ path = \"mlp-trajectory/checkpoint-504\", step = 504 }},\n  {{ path = \"{checkpoint}\", step = 720 }},\n]\n"
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

/// How an error begins that is about the checkpoint of this step in a description.
fn of_step(file: &str, step: usize) -> String {
    let text = fs::read_to_string(file).expect("a description");
    let line = 1 + text.lines().position(|line| line.contains(&format!("step = {step}"))).expect("a line of its own");
    format!("error: {file}:{line}: its checkpoint of step {step}, ")
}

/// Whatever is wrong with a checkpoint and whenever it is found: by its headers, its numbers, or what it computes.
#[test]
fn an_error_in_a_checkpoint_names_the_line_of_the_description() {
    let multiply = |file: &Path, factor: f32| {
        let mut bytes = fs::read(file).expect("a copy");
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8")) as usize;
        for number in bytes[start..].chunks_exact_mut(4) {
            let product = factor * f32::from_le_bytes(number.try_into().expect("4"));
            number.copy_from_slice(&product.to_le_bytes());
        }
        fs::write(file, bytes).expect("writable");
    };
    type Damage<'a> = &'a dyn Fn(&Folder, &Path);
    let cases: [(&str, Damage<'_>); 7] = [
        ("no configuration", &|_, at| fs::remove_file(at.join("config.json")).expect("there")),
        ("a broken configuration", &|_, at| fs::write(at.join("config.json"), "{").expect("writable")),
        ("a cut file", &|_, at| {
            let bytes = fs::read(at.join("model.safetensors")).expect("a copy");
            fs::write(at.join("model.safetensors"), &bytes[..bytes.len() / 2]).expect("writable");
        }),
        ("another model", &|_, at| {
            for file in ["config.json", "model.safetensors"] {
                fs::copy(root().join("fixtures/mlp-regression").join(file), at.join(file)).expect("writable");
            }
        }),
        ("a copy of another", &|folder, at| {
            let other = if at.ends_with("checkpoint-504") { "720" } else { "504" };
            let from = folder.path(&format!("mlp-trajectory/checkpoint-{other}/model.safetensors"));
            fs::copy(from, at.join("model.safetensors")).expect("writable");
        }),
        ("weights that are no numbers", &|_, at| multiply(&at.join("model.safetensors"), f32::NAN)),
        ("weights whose products overflow", &|_, at| multiply(&at.join("model.safetensors"), 1e30)),
    ];
    for (what, damage) in cases {
        for step in [504, 720] {
            let folder = Folder::new();
            let file = description(&folder, RATES, LAST);
            damage(&folder, &folder.path(&format!("mlp-trajectory/checkpoint-{step}")));
            let data =
                MLP_DATA.replace("--dry-run --out target/never-written", &format!("--out {}", folder.arg("run")));
            for command in ["source", "influence"] {
                let arguments = format!("{command} --trajectory {file} {data} --quiet");
                // the data do not fit the last one then, which is said of them
                if what == "another model" && step == 720 {
                    continue;
                }
                // influence functions can do without training between checkpoints
                if what == "a copy of another" && command == "influence" {
                    done(&arguments);
                    continue;
                }
                let said = refused(&arguments);
                // of two copies either may be the wrong one
                let names_it = said.starts_with(&of_step(&file, step))
                    || what == "a copy of another" && said.starts_with(&of_step(&file, 504));
                assert!(names_it, "{what}, {command}, step {step}: {said}");
                assert!(said.contains("\ncaused by: ") || said.contains("\nerror: "), "{said}");
            }
        }
    }
}

#[test]
fn an_error_in_an_optimizer_state_names_the_line_of_the_description() {
    let folder = Folder::new();
    folder.copy_of("trainer-tiny");
    let stage = |state: &str| {
        format!(
            "optimizer = \"adamw\"\nbetas = [0.9, 0.999]\nepsilon = 1e-8\nweight_decay = 0.0\ntrain_examples = 48\n\
             batch_size = 8\nloss_scale = 0.03\n{RATES}\n\
             checkpoint = [\n  {{ path = \"trainer-tiny/checkpoint-120\", step = 120, optimizer_state = \"{state}\" }},\n  \
             {{ path = \"trainer-tiny/checkpoint-240\", step = 240 }},\n]\n"
        )
    };
    let data = "--train fixtures/trainer-tiny/train.jsonl --queries fixtures/trainer-tiny/queries.jsonl";
    let tokenizer = format!("--tokenizer {} --add-eos train --dry-run", folder.arg("trainer-tiny"));
    let out = folder.arg("run");
    let said = |state: &str| {
        let file = folder.write("run.toml", stage(state));
        (refused(&format!("source --trajectory {file} {data} {tokenizer} --out {out}")), file)
    };
    let (missing, file) = said("nowhere.pt");
    assert!(missing.starts_with(&format!("error: {file}: line 10: `optimizer_state` of step 120 is ")), "{missing}");
    folder.write("elsewhere/state.pt", "PK");
    let (broken, file) = said("elsewhere/state.pt");
    assert!(broken.starts_with(&of_step(&file, 120)) && broken.contains("state.pt: is a damaged zip"), "{broken}");
}

/// 47 examples are no whole number of batches of 8.
#[test]
fn the_note_on_few_batches_is_said_once() {
    let plan = planned(&format!("source {TRAINER} --train-size 47 --dry-run --out target/never-written"));
    assert_eq!(plan.matches("fewer than 20 batches").count(), 1, "{plan}");
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
