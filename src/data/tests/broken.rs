//! What is refused, and in which words.

use proptest::prelude::*;

use super::*;

/// A file, the first line of its complaint without the file's name, and the hint.
const REFUSED: [(&str, &str, &str); 41] = [
    ("", "x.jsonl: no examples", "a data file needs at least one example"),
    (" \n\n", "x.jsonl: no examples", "a data file needs at least one example"),
    (
        "{\"text\": \"ab ab\"}\n{\"text\": \"ab",
        "x.jsonl:2: broken JSON at column 12: EOF while parsing a string",
        "each line must be one complete JSON object",
    ),
    (
        "{\"text\": \"ab\" \"id\": 1}",
        "x.jsonl:1: broken JSON at column 15: expected `,` or `}`",
        "each line must be one complete JSON object",
    ),
    (
        "{\"text\": \"ab \\ud800\"}",
        "x.jsonl:1: broken JSON at column 20: unexpected end of hex escape",
        "each line must be one complete JSON object",
    ),
    (
        "[{\"text\": \"ab\"}]",
        "x.jsonl:1: an array, expected an object",
        "an array of objects is read from a file whose name ends in `.json`",
    ),
    ("17", "x.jsonl:1: an integer, expected an object", "each line must be one JSON object"),
    ("{}", "x.jsonl:1: no `text`, no `prompt` and `completion`, no `messages`, no `input_ids`", "the object is empty"),
    (
        "{\"messages\": [], \"id\": \"q\"}",
        "x.jsonl:1: `messages` is empty, expected at least one message",
        "remove the row",
    ),
    ("{\"conversations\": []}", "x.jsonl:1: `conversations` is empty, expected at least one message", "remove the row"),
    (
        "{\"labels\": [1]}",
        "x.jsonl:1: no `text`, no `prompt` and `completion`, no `messages`, no `input_ids`",
        "the line has `labels`",
    ),
    // a table says null where a text is missing: an empty row
    ("{\"text\": null}", "x.jsonl: no examples", "a data file needs at least one example"),
    (
        "{\"prompt\": null}",
        "x.jsonl:1: no `text`, no `prompt` and `completion`, no `messages`, no `input_ids`",
        "the object is empty",
    ),
    (
        "{\"text\": \"ab\", \"prompt\": \"a\"}",
        "x.jsonl:1: both `text` and `prompt`",
        "keep `text` or `prompt`, and rename the other",
    ),
    (
        "{\"text\": \"ab\", \"input_ids\": [2, 3]}",
        "x.jsonl:1: both `text` and `input_ids`",
        "keep `text` or `input_ids`, and rename the other",
    ),
    (
        "{\"text\": \"ab\", \"labels\": [2, 3]}",
        "x.jsonl:1: both `text` and `labels`",
        "keep `text` or `labels`, and rename the other",
    ),
    (
        "{\"prompt\": \"a\", \"completion\": \"b\", \"input_ids\": [2, 3]}",
        "x.jsonl:1: both `prompt` and `input_ids`",
        "keep `prompt` or `input_ids`, and rename the other",
    ),
    ("{\"prompt\": \"ab\"}", "x.jsonl:1: `prompt` without `completion`", "add `completion` or rename `prompt`"),
    ("{\"completion\": \"ab\"}", "x.jsonl:1: `completion` without `prompt`", "add `prompt` or rename `completion`"),
    ("{\"text\": 3}", "x.jsonl:1: `text` is an integer, expected a string", ""),
    (
        "{\"prompt\": [], \"completion\": \"ab\"}",
        "x.jsonl:1: `prompt` is empty, expected at least one message",
        "remove the row",
    ),
    ("{\"input_ids\": \"1 2\"}", "x.jsonl:1: `input_ids` is a string, expected an array of integers", ""),
    ("{\"input_ids\": [1, 2.5]}", "x.jsonl:1: `input_ids[1]` is a number with a fraction, expected an integer", ""),
    ("{\"input_ids\": [1, null]}", "x.jsonl:1: `input_ids[1]` is null, expected an integer", ""),
    (
        "{\"text\": \"ab ab\", \"id\": 1.5}",
        "x.jsonl:1: `id` is a number with a fraction, expected a string or an integer",
        "",
    ),
    ("{\"text\": \"ab ab\", \"id\": \"\"}", "x.jsonl:1: `id` is an empty string, expected a string or an integer", ""),
    (
        "{\"input_ids\": [1, 2, 12]}",
        "x.jsonl:1: `input_ids[2]` is 12, but the model's vocabulary has 12 tokens",
        "was the data tokenized for another model?",
    ),
    (
        "{\"input_ids\": [1, -1]}",
        "x.jsonl:1: `input_ids[1]` is -1, but the model's vocabulary has 12 tokens",
        "was the data tokenized for another model?",
    ),
    (
        "{\"input_ids\": [1, 2], \"labels\": [-100, 12]}",
        "x.jsonl:1: `labels[1]` is 12, but the model's vocabulary has 12 tokens",
        "a label is a token id, or -100 for no target",
    ),
    (
        "{\"input_ids\": [1, 2], \"labels\": [1]}",
        "x.jsonl:1: `labels` has 1 elements, `input_ids` has 2",
        "give one element for each token",
    ),
    (
        "{\"input_ids\": [1, 2], \"attention_mask\": [1, 1, 1]}",
        "x.jsonl:1: `attention_mask` has 3 elements, `input_ids` has 2",
        "give one element for each token",
    ),
    (
        "{\"input_ids\": [1, 2, 3, 4], \"attention_mask\": [1, 1, 0, 1]}",
        "x.jsonl:1: `attention_mask[2]` is 0 between attended tokens",
        "only padding at either end can be removed",
    ),
    (
        "{\"input_ids\": [1, 2], \"attention_mask\": [1, 2]}",
        "x.jsonl:1: `attention_mask[1]` is another number, expected 0 or 1",
        "",
    ),
    (
        "{\"input_ids\": [1, 2], \"attention_mask\": [0, 0]}",
        "x.jsonl: no examples",
        "a data file needs at least one example",
    ),
    ("{\"text\": \"\"}\n{\"input_ids\": []}", "x.jsonl: no examples", "a data file needs at least one example"),
    ("{\"text\": \"\"}\n{\"text\": 3}", "x.jsonl:2: `text` is an integer, expected a string", ""),
    (
        "{\"text\": \"ab\"}",
        "x.jsonl:1: no target token after the first of 1 tokens",
        "remove the example, or give it a target (`--add-eos`, `labels`)",
    ),
    (
        "{\"input_ids\": [2, 3, 4], \"labels\": [2, -100, -100]}",
        "x.jsonl:1: no target token after the first of 3 tokens",
        "remove the example, or give it a target (`--add-eos`, `labels`)",
    ),
    (
        "{\"prompt\": \"ab ab\", \"completion\": \"\"}",
        "x.jsonl:1: no target token after the first of 2 tokens",
        "remove the example, or give it a target (`--add-eos`, `labels`)",
    ),
    (
        "{\"text\": \"abcabcabc\"}\n{\"text\": \"abcabcabcabcabc\"}",
        "x.jsonl:2: 10 tokens, but the model has 8 positions",
        "`--max-length 8` cuts longer examples",
    ),
    (
        "{\"text\": \"ab ab\", \"id\": \"2\"}\n{\"text\": \"ab ab\"}",
        "x.jsonl:2: the id `2` is already that of line 1",
        "ids must differ; `--id-field FIELD` takes another field, `--id-field line` the line's number",
    ),
];

#[test]
fn broken_lines_are_named() {
    for (text, message, hint) in REFUSED {
        assert_eq!(complaint(read(text, DataOptions::default())), format!("{message}\n{hint}"), "{text}");
    }
}

#[test]
fn wrong_bytes_are_named() {
    let text = b"{\"text\": \"ab ab\"}\n{\"text\": \"a\xe9\"}\n";
    let message = complaint(read(text, DataOptions::default()));
    assert_eq!(message, "x.jsonl:2: invalid UTF-8 at byte 12 of the line\nsave the file as UTF-8");
    // The first wrong line counts, also before wrong bytes of the same chunk.
    let text = b"{}\n\xff\n";
    assert!(complaint(read(text, DataOptions::default())).starts_with("x.jsonl:1: no `text`"));
}

#[test]
fn cutting_must_leave_a_target() {
    let cut = DataOptions { max_length: Some(3), ..DataOptions::default() };
    let message = complaint(read("{\"prompt\": \"ab ab ab ab\", \"completion\": \" ab\"}", cut));
    assert_eq!(
        message,
        "x.jsonl:1: no target token after the first of 3 tokens (cut by `--max-length`)\nraise `--max-length`, or remove the example"
    );
    let none = DataOptions { max_length: Some(1), ..DataOptions::default() };
    assert_eq!(complaint(read("", none)), "--max-length 1 does not fit: the least is 2\ngive a length of at least 2");
}

#[test]
fn packing_must_fill_a_block() {
    let pack = |length| DataOptions { pack: Some(length), ..DataOptions::default() };
    assert_eq!(
        complaint(read("{\"text\": \"ab ab\"}", pack(4))),
        "x.jsonl: 2 tokens in all, which do not fill one block of 4\nuse shorter blocks (`--pack N`), or leave `--pack` out"
    );
    assert_eq!(
        complaint(read("", pack(9))),
        "--pack 9 does not fit: the least is 2, the most the model's 8 positions\ngive a length from 2 to 8"
    );
    assert_eq!(
        complaint(read("{\"input_ids\": [2, 3, 4], \"labels\": [-100, -100, 4]}", pack(2))),
        "x.jsonl: no block has a target token\nuse longer blocks (`--pack N`), or do not pack prompts and completions"
    );
    assert!(complaint(read("{\"text\": \"\"}", pack(2))).starts_with("x.jsonl: no examples"));
}

#[test]
fn unknown_endings_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("x.jsonl.xz");
    std::fs::write(&file, b"\xFD7zXZ").expect("writable");
    let said = complaint(read_tokens(&file, Role::Train, None, LIMITS, DataOptions::default()));
    assert!(said.ends_with("x.jsonl.xz: not a known data format\nunpack it first: `xz -dk x.jsonl.xz`"), "{said}");
    let result = read_tokens(Path::new("absent.jsonl"), Role::Train, None, LIMITS, DataOptions::default());
    assert_eq!(complaint(result), "absent.jsonl: cannot be read\n");
}

#[test]
fn text_needs_a_tokenizer() {
    let result = read_as("{\"prompt\": \"a\", \"completion\": \"b\"}", Format::JsonLines, None, DataOptions::default());
    assert_eq!(
        complaint(result),
        "x.jsonl:1: `prompt` needs a tokenizer\nput `tokenizer.json` into the model's folder, or give it with `--tokenizer PATH`"
    );
}

/// JSON of the right fields with values of any type, so that the soup gets past the parser.
fn json_line() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"ab c\"".to_owned()),
        Just("\"\"".to_owned()),
        Just("-100".to_owned()),
        Just("1e400".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("{}".to_owned()),
        proptest::collection::vec(-101i64..14, 0..6).prop_map(|list| format!("{list:?}")),
        proptest::collection::vec(0i64..2, 0..6).prop_map(|list| format!("{list:?}")),
        ".{0,6}".prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let field = prop_oneof![
        Just("id"),
        Just("text"),
        Just("prompt"),
        Just("completion"),
        Just("input_ids"),
        Just("labels"),
        Just("attention_mask"),
        Just("topic"),
    ];
    proptest::collection::vec((field, value), 0..5).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", fields.join(", "))
    })
}

/// Reading ends with an error or with a dataset that keeps its promises.
fn check(bytes: &[u8], small: &Small, format: Format, options: &DataOptions) {
    let Ok((dataset, report)) = read_as(bytes, format, Some(&small.tokenizer), options.clone()) else { return };
    assert_eq!(report.examples, dataset.len());
    assert!(!dataset.is_empty());
    for i in 0..dataset.len() {
        let tokens = tokens(&dataset);
        assert!((2..=8).contains(&dataset.positions(i)));
        assert!(tokens.targets(i) > 0 && !tokens.is_target(i)[0]);
        assert_eq!(tokens.predicted(i).flatten().count(), tokens.targets(i));
        assert!(dataset.excerpt(i, 7).chars().count() <= 7);
        dataset.metadata(i);
    }
    for range in batches(&dataset, 0..dataset.len(), 5) {
        let batch = batch(&dataset, range);
        let (Inputs::Tokens(inputs), Targets::Tokens(targets)) = (&batch.inputs, &batch.targets) else {
            panic!("rows")
        };
        assert_eq!((batch.positions.rows(), targets.len()), (inputs.ids.len(), inputs.ids.len()));
    }
}

#[test]
fn no_soup_panics() {
    let small = tokenizer(ADDS_NOTHING);
    let options = [
        DataOptions::default(),
        add(Which::Both, Which::Train),
        DataOptions { max_length: Some(4), ..DataOptions::default() },
        DataOptions { pack: Some(3), pack_rows: Some(2), ..add(Which::None, Which::Both) },
        DataOptions { id_field: IdField::Field("topic".into()), ..add(Which::TrainInput, Which::BothInput) },
    ];
    let config = ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() };
    proptest!(config, |(bytes in proptest::collection::vec(any::<u8>(), 0..200), lines in proptest::collection::vec(json_line(), 1..4))| {
        for options in &options {
            check(&bytes, &small, Format::JsonLines, options);
            check(&bytes, &small, Format::Text, options);
            check(lines.join("\n").as_bytes(), &small, Format::JsonLines, options);
            check(lines.join("\n").as_bytes(), &small, Format::Text, options);
        }
    });
}
