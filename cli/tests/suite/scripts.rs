//! The commands that `docs/data.md` shows for the commonest training scripts, run where the scripts ran: in a folder with the
//! script's data and what it left (`fixtures/generators/scripts.py`). Lengths alone are those of the small runs.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

use crate::support::{Ended, Folder, ended, root};

/// The commands of the page's part on training scripts, in its order.
fn commands() -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/data.md")).expect("a page");
    let part = page.split("## What ten training scripts read").nth(1).expect("the part on training scripts");
    let part = part.split("\n## ").next().expect("its text");
    part.lines().filter(|line| line.starts_with("ascribe ")).map(str::to_owned).collect()
}

fn copy_into(from: &Path, to: &Path, names: &[&str]) {
    fs::create_dir_all(to).expect("writable");
    for name in names {
        fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("a folder") {
        let (entry, to) = (entry.expect("an entry").path(), to);
        let target = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() { copy_all(&entry, &target) } else { _ = fs::copy(&entry, target).expect("copied") }
    }
}

/// A folder in which a script ran: `fixtures/scripts/NAME` with the tokenizer that the script saved, and queries.
fn of_script(name: &str) -> Folder {
    let folder = Folder::new();
    copy_all(&root().join("fixtures/scripts").join(name), &folder.path(""));
    with_queries(&folder);
    for place in ["OUT", "step-30", "step-60"].map(|place| folder.path(place)) {
        if place.is_dir() {
            copy_into(&root().join("fixtures/trainer-tiny"), &place, &["tokenizer.json", "tokenizer_config.json"]);
        }
    }
    folder
}

/// A folder with a run of TRL on the documents of `trainer-tiny`.
fn of_trl(run: &str) -> Folder {
    let folder = Folder::new();
    copy_all(&root().join("fixtures").join(run), &folder.path("OUT"));
    let tiny = root().join("fixtures/trainer-tiny");
    copy_into(&tiny, &folder.path("OUT"), &["tokenizer.json", "tokenizer_config.json"]);
    copy_into(&tiny, &folder.path(""), &["train.jsonl"]);
    with_queries(&folder);
    folder
}

fn with_queries(folder: &Folder) {
    folder.write("queries.jsonl", "{\"prompt\": \"The keeper of the lighthouse\", \"completion\": \" at Dorvel.\"}\n");
    let turns =
        "[{\"role\": \"user\", \"content\": \"The keeper of\"}, {\"role\": \"assistant\", \"content\": \"Dorvel.\"}]";
    folder.write("asked.jsonl", format!("{{\"messages\": {turns}}}\n"));
    folder.write("queries.csv", "sentence,label\nThe keeper of the lighthouse,1\n");
}

/// Runs the command that begins a part of the page, with other lengths, to its rankings. What it said.
#[track_caller]
fn run(folder: &Folder, command: &str, changes: &[(&str, &str)]) -> String {
    let mut command = command.to_owned();
    for (from, to) in changes {
        assert!(command.contains(from), "`{from}` is not in `{command}`");
        command = command.replace(from, to);
    }
    let words = command.split_whitespace().skip(1).map(|word| word.trim_matches('\''));
    let mut ascribe = Command::cargo_bin("ascribe").expect("the binary is built for its tests");
    ascribe.current_dir(folder.path("")).args(words).env_remove("COLUMNS").env("NO_COLOR", "1");
    let Ended { code, out, err } = ended(ascribe);
    assert_eq!(code, Some(0), "{command}\n{out}{err}");
    let ranking = fs::read_to_string(folder.path("run/ranking.jsonl")).expect("a ranking");
    assert!(ranking.lines().count() >= 1, "{ranking}");
    out + &err
}

/// As [`run`], of a run whose log has the loss that the data have.
#[track_caller]
fn agrees(folder: &Folder, command: &str, changes: &[(&str, &str)]) -> String {
    let said = run(folder, command, changes);
    assert_eq!(said.matches(": agrees").count(), 2, "{command}\n{said}");
    assert!(!said.contains("DISAGREES") && !said.contains("warning"), "{command}\n{said}");
    said
}

#[test]
fn the_commands_of_the_page_read_what_the_scripts_read() {
    let commands = commands();
    let [tutorial, run_clm, texts, messages, pairs, packed, instruct, classifier, lora, plain] = commands.as_slice()
    else {
        panic!("{commands:#?}")
    };
    let length = ("--max-length 1024", "--max-length 64");
    agrees(&of_script("tutorial"), tutorial, &[("--pack 128:1000", "--pack 32:1000")]);
    let changes = [("--pack 1024:1000", "--pack 48:1000"), ("--text-field text", "--text-field content")];
    agrees(&of_script("run_clm"), run_clm, &changes);
    agrees(&of_trl("trainer-trl"), texts, &[length]);
    // TRL's default is a loss on every token
    agrees(&of_script("messages"), messages, &[length, (" --loss-on assistant", ""), ("chats.jsonl", "train.jsonl")]);
    agrees(&of_script("pairs"), pairs, &[length, ("pairs.jsonl", "train.jsonl")]);
    agrees(&of_trl("trainer-wrapped"), packed, &[("--pack 1024:1000:keep", "--pack 64:1000:keep")]);
    agrees(&of_script("lora"), lora, &[length]);
    agrees(&of_script("classifier"), classifier, &[("--max-length 128", "--max-length 32")]);
    run(&of_script("loop"), plain, &[]);
    // open-instruct leaves folders of epochs without a log, each with its tokenizer and template
    let folder = Folder::new();
    with_queries(&folder);
    let (chat, tiny) = (root().join("fixtures/trainer-chat"), root().join("fixtures/trainer-tiny"));
    for (epoch, checkpoint) in ["checkpoint-40", "checkpoint-80"].into_iter().enumerate() {
        let to = folder.path(&format!("OUT/epoch_{epoch}"));
        copy_into(&chat.join(checkpoint), &to, &["config.json", "model.safetensors"]);
        copy_into(&chat, &to, &["chat_template.jinja"]);
        copy_into(&tiny, &to, &["tokenizer.json", "tokenizer_config.json"]);
    }
    fs::copy(chat.join("train.jsonl"), folder.path("tulu.jsonl")).expect("copied");
    let said = run(&folder, instruct, &[("--max-length 4096", "--max-length 80")]);
    assert!(said.contains("what the assistant says is the target"), "{said}");
}
