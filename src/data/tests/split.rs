//! A text for an encoder, and one for a decoder.

use super::*;

const PAIRS: ModelLimits = ModelLimits {
    vocabulary: 12,
    max_positions: None,
    decoder: Some(DecoderTokens { start: 10, padding: 11 }),
    masked: None,
};

fn split(text: &str, options: DataOptions) -> Result<(Dataset, ReadReport), DataError> {
    split_with(ADDS_EOS, text, options)
}

fn split_with(adds: &str, text: &str, options: DataOptions) -> Result<(Dataset, ReadReport), DataError> {
    let (small, file) = (tokenizer(adds), Path::new("x.jsonl"));
    read_tokens_from(text.as_bytes(), file, Format::JsonLines, Role::Train, Some(&small.tokenizer), PAIRS, options)
}

/// Lengths of the encoder's texts, the tokens of all encoders and decoders, what the decoders' rows predict.
fn rows(dataset: &Dataset) -> (Vec<usize>, Vec<u32>, Vec<Option<u32>>) {
    let batch = batch(dataset, 0..dataset.len());
    let (Inputs::Tokens(inputs), Targets::Tokens(targets)) = (batch.inputs, batch.targets) else { panic!("tokens") };
    let encoder = inputs.encoder.expect("texts for the encoder");
    assert_eq!(encoder.rows() + batch.positions.rows(), inputs.ids.len());
    assert_eq!(batch.positions.rows(), targets.len());
    (encoder.iter().map(|rows| rows.len()).collect(), inputs.ids, targets)
}

/// Each text is tokenized by itself, with the end token of the tokenizer's template, and targets are shifted.
#[test]
fn prompts_are_read_and_completions_are_written() {
    let lines = "{\"prompt\": \"ab\", \"completion\": \"cb\"}\n{\"prompt\": \"c ab\", \"completion\": \"a\"}";
    let (dataset, report) = split(lines, DataOptions::default()).unwrap();
    let some = |ids: &[u32]| ids.iter().copied().map(Some).collect::<Vec<_>>();
    assert_eq!(rows(&dataset), (vec![2, 3], vec![6, 1, 4, 7, 1, 10, 4, 3, 10, 2], some(&[4, 3, 1, 2, 1])));
    assert_eq!((report.examples, report.tokens, report.targets, report.longest), (2, 10, 5, 5));
    assert_eq!((dataset.positions(0), dataset.target_positions(0)), (5, 3));
    let shown: Vec<bool> = report.first.iter().map(|(_, target)| *target).collect();
    assert_eq!(shown, [false, false, false, true, true, true]);
    assert_eq!(dataset.excerpt(0, 80), "ab|cb");
    // a tokenizer that adds nothing, and the end token by a flag on both sides
    let added = split_with(ADDS_NOTHING, lines, add(Which::None, Which::Train)).unwrap().0;
    assert_eq!(rows(&added), rows(&dataset));
    // the same tokens, divided elsewhere, are another example
    let key = |line: &str| {
        let limits = ModelLimits { decoder: Some(DecoderTokens { start: 10, padding: 10 }), ..PAIRS };
        let (file, options) = (Path::new("x.jsonl"), DataOptions::default());
        read_tokens_from(line.as_bytes(), file, Format::JsonLines, Role::Train, None, limits, options).unwrap().0.key(0)
    };
    assert_ne!(
        key("{\"input_ids\": [2, 10], \"labels\": [-100, 3]}"),
        key("{\"input_ids\": [2], \"labels\": [-100, -100, 3]}")
    );
}

#[test]
fn tokens_are_taken_as_they_are() {
    let lines = "{\"input_ids\": [5, 2, 3], \"attention_mask\": [0, 1, 1], \"labels\": [4, -100, 7, -100, -100]}";
    let (dataset, _) = split(lines, DataOptions::default()).unwrap();
    // padding stands before what follows a token without loss; nothing is read behind the last target
    assert_eq!(rows(&dataset), (vec![2], vec![2, 3, 10, 4, 11], vec![Some(4), None, Some(7)]));
    let sample = dataset.sample(1);
    assert_eq!(rows(&sample), rows(&dataset));
}

/// Both texts are cut, each before its end token.
#[test]
fn both_texts_are_cut_before_their_end_tokens() {
    let line = "{\"prompt\": \"abab\", \"completion\": \"cccc\"}";
    let options = DataOptions { max_length: Some(3), ..DataOptions::default() };
    let (dataset, report) = split(line, options).unwrap();
    assert_eq!(rows(&dataset), (vec![3], vec![6, 6, 1, 10, 4, 4], [4, 4, 1].map(Some).to_vec()));
    assert_eq!((report.cut, report.longest, report.longest_before_cut), (1, 6, 8));
}

#[test]
fn what_is_no_pair_is_refused() {
    for (line, problem, hint) in [
        ("{\"text\": \"ab\"}", "no `prompt` with a `completion` and no `input_ids` with `labels`", "has `text`"),
        ("{\"prompt\": \"ab\"}", "`prompt` without `completion`", "add `completion`"),
        ("{\"completion\": \"ab\"}", "`completion` without `prompt`", "add `prompt`"),
        ("{\"input_ids\": [2]}", "`input_ids` without `labels`", "add `labels`"),
        ("{\"labels\": [2]}", "`labels` without `input_ids`", "add `input_ids`"),
        ("{\"prompt\": \"a\", \"input_ids\": [2], \"labels\": [2]}", "both `prompt` and `input_ids`", "keep"),
        ("{\"prompt\": \"\", \"completion\": \"a\"}", "no token for the encoder to read", "a `prompt`"),
        ("{\"prompt\": \"a\", \"completion\": \"\"}", "no token for the decoder to write", "a `completion`"),
        ("{\"input_ids\": [2], \"labels\": [-100]}", "no token for the decoder to write", "(`labels`)"),
        ("{\"input_ids\": [2], \"labels\": [12]}", "`labels[0]` is 12", "-100 for no target"),
    ] {
        let found = complaint(split(line, DataOptions::default()));
        assert!(found.starts_with("x.jsonl:1: ") && found.contains(problem) && found.contains(hint), "{line}: {found}");
    }
    let line = "{\"prompt\": \"ab\", \"completion\": \"a\"}";
    let packed = complaint(split(line, DataOptions { pack: Some(4), ..DataOptions::default() }));
    assert_eq!(packed, "x.jsonl: prompts that an encoder reads cannot be packed\nleave `--pack` out");
    let options = DataOptions::default();
    let text = read_tokens_from(&b"ab"[..], Path::new("x.txt"), Format::Text, Role::Train, None, PAIRS, options);
    assert!(complaint(text).contains("the line has `text`"));
    let empty = complaint(split("{}", DataOptions::default()));
    assert!(empty.contains("write a JSON object a line, with `prompt` and `completion`"), "{empty}");
}
