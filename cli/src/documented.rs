//! What documents and messages say of the command line, held against the command line: a hint that names a flag which
//! does not exist is a dead end, and so is a command of a page that cannot be typed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::cli::Cli;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("`cli` lies in the workspace")
}

/// Files below these places whose names end so.
fn files(places: &[&str], ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = vec![];
    let mut open: Vec<PathBuf> = places.iter().map(|place| root().join(place)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").path()));
        } else if path.extension().is_some_and(|found| found == ending) {
            let text = fs::read_to_string(&path).expect("text");
            found.push((path, text));
        }
    }
    found
}

fn documents() -> Vec<(PathBuf, String)> {
    files(&["README.md", "docs"], "md")
}

/// Long flags of a command and of those below it.
fn flags(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|flag| flag.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

/// Names of flags among words, without what is set.
fn named(words: &str) -> impl Iterator<Item = &str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let flags = words.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    flags.map(move |flag| flag.split(|c| !is_name(c)).next().unwrap_or_default()).filter(|flag| !flag.is_empty())
}

#[test]
fn flags_that_messages_and_documents_name_exist() {
    let mut known = flags(&Cli::command());
    // of cargo, its tests and zstd
    known.extend(["help", "version", "release", "nocapture", "features", "long"].map(str::to_owned));
    let sources = files(&["src", "attribution/src", "curvature/src", "cli/src"], "rs");
    let mut checked = 0;
    for (path, text) in sources.into_iter().chain(documents()) {
        for (number, line) in (1..).zip(text.lines()) {
            let quoted = line.split('`').skip(1).step_by(2);
            for flag in quoted.filter(|text| text.starts_with("--") || text.starts_with("ascribe ")).flat_map(named) {
                // `--add-{which}`: a message puts the rest there
                let exists = known.contains(flag) || flag.ends_with('-') && known.iter().any(|k| k.starts_with(flag));
                assert!(exists, "{}:{number}: there is no flag `--{flag}`", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 300, "{checked} flags");
}

/// The commands in the blocks of a page, each in one line and without the remarks behind it.
fn commands(page: &str) -> Vec<String> {
    let (mut inside, mut open, mut found) = (false, String::new(), vec![]);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            continue;
        }
        let line = line.trim();
        let line =
            line.strip_prefix("$ ").unwrap_or(line).replace("cargo run --release -p ascribe-cli -- ", "ascribe ");
        if !inside || open.is_empty() && !line.starts_with("ascribe ") {
            continue;
        }
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        match line.strip_suffix('\\') {
            Some(part) => open.push_str(part),
            None => found.push(std::mem::take(&mut open) + line),
        }
    }
    found
}

/// The words of a command; what stands between quotation marks is one.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for c in command.chars() {
        match quote {
            Some(mark) if c == mark => quote = None,
            None if matches!(c, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Whether a page leaves something out of a command that its reader has to put there.
fn is_abridged(command: &str) -> bool {
    command.split_whitespace().any(|word| matches!(word, "..." | "…") || word.starts_with('$') && !word.contains('/'))
}

#[test]
fn commands_of_documents_can_be_typed() {
    let (definition, mut checked) = (Cli::command(), 0);
    for (path, page) in documents() {
        for command in commands(&page) {
            let words = words(&command);
            let name = words.get(1).expect("a command");
            let Some(sub) = definition.find_subcommand(name) else {
                panic!("{}: there is no `ascribe {name}`: {command}", path.display());
            };
            if is_abridged(&command) {
                let known = flags(sub);
                let unknown = named(&command).find(|flag| !known.contains(*flag));
                assert!(unknown.is_none(), "{}: `{name}` has no flag `--{unknown:?}`: {command}", path.display());
            } else if let Err(error) = definition.clone().try_get_matches_from(&words) {
                panic!("{}: {command}\n{error}", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked} commands");
    let of_scripts = fs::read_to_string(root().join("docs/data.md")).expect("a page");
    assert!(commands(&of_scripts).len() >= 10, "a command for each of ten training scripts");
}

#[test]
fn commands_are_found_and_cut_into_words() {
    let page =
        "ascribe not this\n```sh\n$ ascribe influence --train 'a b.jsonl' \\\n    --out run   # a remark\nls\n```\n";
    assert_eq!(commands(page), ["ascribe influence --train 'a b.jsonl' --out run"]);
    assert_eq!(words("ascribe x --train 'a b' \"\""), ["ascribe", "x", "--train", "a b", ""]);
    assert!(is_abridged("ascribe x ...") && is_abridged("ascribe x $flags") && !is_abridged("ascribe x $D/y"));
}
