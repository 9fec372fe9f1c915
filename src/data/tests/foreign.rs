//! Files that are no files, that have no end, or that break the library which reads them.

use serde_json::{Value, json};

use super::*;
use crate::Hint;

/// Why a file cannot be read, below the message and the hint.
fn causes<T>(result: Result<T, DataError>) -> String {
    let error = result.err().expect("an error");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}\n{cause}\n{}", error.hint().unwrap_or_default())
}

fn shown(folder: &Path, text: &str) -> String {
    text.replace(folder.to_str().expect("a plain path"), "HOME")
}

/// The small tokenizer with changes, saved in a folder.
fn changed(folder: &Path, change: impl FnOnce(&mut Value)) -> Result<Tokenizer, DataError> {
    write_tokenizer(folder, ADDS_BOS);
    let file = folder.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
    change(&mut tokenizer);
    std::fs::write(&file, tokenizer.to_string()).expect("writable");
    Tokenizer::find(folder, None)
}

#[cfg(unix)]
#[test]
fn only_regular_files_and_links_to_them_are_data() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let read = |name: &str| read_tokens(&at(name), Role::Train, None, LIMITS, DataOptions::default());
    std::fs::write(at("a.jsonl"), "{\"input_ids\": [2, 3]}").expect("writable");
    symlink(at("a.jsonl"), at("link.jsonl")).expect("writable");
    assert_eq!(read("link.jsonl").expect("a link to a file").0.len(), 1);
    symlink("/dev/zero", at("zero.jsonl")).expect("writable");
    assert_eq!(
        shown(folder.path(), &causes(read("zero.jsonl"))),
        "HOME/zero.jsonl: cannot be read\nit is a device; only regular files and links to them are read\n"
    );
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.jsonl")).status().expect("mkfifo").success());
    assert_eq!(
        shown(folder.path(), &causes(read("pipe.jsonl"))),
        "HOME/pipe.jsonl: cannot be read\nit is a pipe; only regular files and links to them are read\n\
         write it to a file first, and give that"
    );
    std::fs::create_dir(at("folder.jsonl")).expect("writable");
    assert!(causes(read("folder.jsonl")).contains("it is a folder;"));
    let rows = RowLimits { inputs: RowShape::Numbers(3), outputs: 2, task: Task::Regression };
    assert!(causes(read_rows(&at("zero.jsonl"), rows)).contains("it is a device;"));
    symlink("/dev/zero", at("tokenizer.json")).expect("writable");
    assert_eq!(
        shown(folder.path(), &causes(Tokenizer::find(folder.path(), None))),
        "HOME/tokenizer.json: cannot be read\nit is a device; only regular files and links to them are read\n"
    );
}

#[test]
fn a_tokenizer_has_a_bound() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = std::fs::File::create(folder.path().join("tokenizer.json")).expect("writable");
    file.set_len(3 << 30).expect("sparse");
    assert!(causes(Tokenizer::find(folder.path(), None)).contains("it is longer than 128 MiB"));
    write_tokenizer(folder.path(), ADDS_NOTHING);
    let config = std::fs::File::create(folder.path().join("tokenizer_config.json")).expect("writable");
    config.set_len(3 << 30).expect("sparse");
    let tokenizer = Arc::new(Tokenizer::find(folder.path(), None).expect("sound"));
    let read = read_as("ab", Format::Text, Some(&tokenizer), add(Which::None, Which::Train));
    assert!(causes(read).contains("it is longer than 32 MiB"));
}

#[test]
fn a_tokenizer_that_the_library_panics_at_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("tokenizer.json");
    write_tokenizer(folder.path(), ADDS_NOTHING);
    let whole = std::fs::read_to_string(&file).expect("written");
    let decoder = whole.find("\"decoder\"").expect("there");
    for text in ["{\"decoder\":{\"type\" 1", &whole[..decoder + 12], &whole[..decoder + 30]] {
        std::fs::write(&file, text).expect("writable");
        let said = shown(folder.path(), &causes(Tokenizer::find(folder.path(), None)));
        assert!(said.starts_with("HOME/tokenizer.json: not a usable tokenizer\n"), "{said}");
        assert!(said.contains(" at line "), "the parser's place: {said}");
    }
    let said = |change: &dyn Fn(&mut Value)| shown(folder.path(), &causes(changed(folder.path(), change)));
    assert_eq!(
        said(&|tokenizer| tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"] = "<x>".into()),
        "HOME/tokenizer.json: not a usable tokenizer\n\
         `post_processor` puts the token `<x>` into its template `single`, which `special_tokens` does not define\n\
         was it saved by `save_pretrained`, and is it complete?"
    );
    // The second text of a pair, where there is one text: nothing is checked here, and the library panics.
    let said = said(&|tokenizer| tokenizer["post_processor"]["single"][1]["Sequence"]["id"] = "B".into());
    assert!(said.starts_with("HOME/tokenizer.json: not a usable tokenizer\nthe tokenizers library panics: "), "{said}");
}

#[test]
fn an_empty_pattern_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let replace = json!({"type": "Replace", "pattern": {"String": ""}, "content": "a"});
    let said = causes(changed(folder.path(), |tokenizer| tokenizer["normalizer"] = replace));
    assert!(said.contains("`normalizer` has a `Replace` with an empty pattern"), "{said}");
    // An expression that matches nothing at all is no empty text; what the library makes of it is no panic of ours.
    let replace = json!({"type": "Replace", "pattern": {"Regex": "c*"}, "content": "a"});
    if let Ok(tokenizer) = changed(folder.path(), |tokenizer| tokenizer["normalizer"] = replace) {
        let _ = read_as("ab ab", Format::Text, Some(&Arc::new(tokenizer)), DataOptions::default());
    }
}

#[test]
fn a_text_has_a_bound_that_follows_the_memory() {
    let small = tokenizer(ADDS_NOTHING);
    let read = |text: &str, memory| {
        let options = DataOptions { memory, max_length: Some(4), ..DataOptions::default() };
        read_as(text, Format::JsonLines, Some(&small.tokenizer), options)
    };
    let word = |bytes: usize| format!("{{\"text\": \"ab ab\"}}\n{{\"text\": \"{}\"}}", "a".repeat(bytes));
    assert!(read(&word(64 << 10), Some(1 << 20)).is_ok());
    let hint = "cut it into several rows, which `--pack` joins again; a larger `--memory` allows up to 8 MiB";
    assert_eq!(
        complaint(read(&word((64 << 10) + 1), Some(1 << 20))),
        format!("x.jsonl:2: a text of 65537 bytes, and at most 65536 are tokenized at once\n{hint}")
    );
    assert_eq!(
        complaint(read(&word(20 << 20), None)),
        format!("x.jsonl:2: a text of 20971520 bytes, and at most 8388608 are tokenized at once\n{hint}")
    );
    assert!(complaint(read(&word(65 << 20), None)).starts_with("x.jsonl:2: the line is longer than 64 MiB"));
    // Half of a text each, and together too long.
    let halves = json!({"prompt": "a".repeat(40 << 10), "completion": "b".repeat(40 << 10)}).to_string();
    assert!(complaint(read(&halves, Some(1 << 20))).starts_with("x.jsonl:1: a text of 81920 bytes"));
}

#[test]
fn a_normalizer_does_not_blow_a_text_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let replace = |content: String| json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
    let said = causes(changed(folder.path(), |tokenizer| tokenizer["normalizer"] = replace("b".repeat(1 << 20))));
    assert!(said.contains("its `normalizer` can make a text 1048576 times as long, 1024 times at most"), "{said}");
    let tokenizer = changed(folder.path(), |tokenizer| tokenizer["normalizer"] = replace("b".repeat(1000)));
    let tokenizer = Arc::new(tokenizer.expect("a thousandfold at most"));
    let read = |text: &str| {
        let options = DataOptions { memory: Some(1 << 20), max_length: Some(4), ..DataOptions::default() };
        read_as(text, Format::Text, Some(&tokenizer), options)
    };
    assert!(read(&"a".repeat(65)).is_ok(), "65,000 bytes behind it");
    let said = complaint(read(&"a".repeat(66)));
    assert!(said.starts_with("x.jsonl:1: a text of 66000 bytes or more behind the tokenizer's normalizer"), "{said}");
    assert!(read(&"c".repeat(60_000)).is_ok(), "what it does to this text counts, and not what it could do");
}
