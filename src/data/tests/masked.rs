//! Tokens of which some are masked, each with what stood there at its own row.

use super::*;

const MASKED: ModelLimits = ModelLimits {
    vocabulary: 12,
    max_positions: Some(5),
    decoder: None,
    masked: Some(MaskedTokens { token_types: Some(2) }),
};

fn masked(text: &str, options: DataOptions) -> Result<(Dataset, ReadReport), DataError> {
    let (small, file) = (tokenizer(ADDS_EOS), Path::new("x.jsonl"));
    read_tokens_from(text.as_bytes(), file, Format::JsonLines, Role::Train, Some(&small.tokenizer), MASKED, options)
}

/// The tokens, their types, and what each row predicts.
fn rows(dataset: &Dataset) -> (Vec<u32>, Option<Vec<u32>>, Vec<Option<u32>>) {
    let batch = batch(dataset, 0..dataset.len());
    let (Inputs::Tokens(inputs), Targets::Tokens(targets)) = (batch.inputs, batch.targets) else { panic!("tokens") };
    assert_eq!(batch.positions.rows(), targets.len());
    (inputs.ids, inputs.types, targets)
}

/// Labels are not shifted: the first token may be one, and the last row may have one.
#[test]
fn each_row_predicts_its_own_token() {
    let lines = "{\"input_ids\": [9, 2, 9], \"labels\": [3, -100, 4]}\n\
        {\"input_ids\": [5, 2, 9, 0], \"attention_mask\": [0, 1, 1, 0], \"labels\": [-100, -100, 7, 11], \
        \"token_type_ids\": [0, 0, 1, 1], \"kind\": \"b\"}";
    let (dataset, report) = masked(lines, DataOptions::default()).unwrap();
    let targets = vec![Some(3), None, Some(4), None, Some(7)];
    assert_eq!(rows(&dataset), (vec![9, 2, 9, 2, 9], Some(vec![0, 0, 0, 0, 1]), targets));
    assert_eq!((report.examples, report.tokens, report.targets, report.longest), (2, 5, 3, 3));
    assert_eq!(report.first.iter().map(|(_, is)| *is).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(dataset.metadata(1)["kind"], "b");
    assert_eq!(rows(&dataset.sample(1)).2, [Some(3), None, Some(4)]);
    let (cut, report) = masked(lines, DataOptions { max_length: Some(2), ..DataOptions::default() }).unwrap();
    assert_eq!((rows(&cut).2, report.cut), (vec![Some(3), None, None, Some(7)], 1));
}

/// Examples that differ in the first label or in a type alone are different examples.
#[test]
fn first_labels_and_types_are_contents() {
    let key = |line: &str| masked(line, DataOptions::default()).unwrap().0.key(0);
    let keys = [
        key("{\"input_ids\": [9, 2], \"labels\": [3, 4]}"),
        key("{\"input_ids\": [9, 2], \"labels\": [4, 4]}"),
        key("{\"input_ids\": [9, 2], \"labels\": [-100, 4]}"),
        key("{\"input_ids\": [9, 2], \"labels\": [3, 4], \"token_type_ids\": [0, 1]}"),
    ];
    assert!((0..4).all(|i| (0..i).all(|j| keys[i] != keys[j])), "{keys:?}");
    let zeros = key("{\"input_ids\": [9, 2], \"labels\": [3, 4], \"token_type_ids\": [0, 0]}");
    assert_eq!(zeros, keys[0]);
}

#[test]
fn what_does_not_say_what_was_masked_is_refused() {
    let no_masks = "no `input_ids` with `labels`, and the model fills in masked tokens";
    for (line, problem, hint) in [
        ("{\"text\": \"ab\"}", no_masks, "which tokens were masked no text says"),
        ("{\"input_ids\": [2, 3]}", no_masks, "`labels`, -100 where there is no loss"),
        ("{\"prompt\": \"a\", \"completion\": \"b\"}", no_masks, "`input_ids` with the mask tokens"),
        ("{\"messages\": []}", no_masks, "`input_ids`"),
        ("{\"input_ids\": [2, 3], \"labels\": [-100, -100]}", "no target", "remove the example"),
        ("{\"input_ids\": [2, 3], \"labels\": [2]}", "`labels` has 1", "one element for each token"),
        ("{\"input_ids\": [2], \"labels\": [12]}", "`labels[0]` is 12", "-100 for no target"),
        ("{\"input_ids\": [2], \"labels\": [3], \"token_type_ids\": [2]}", "token 0 is of type 2", "another model"),
        ("{\"input_ids\": [2, 2, 2, 2, 2, 2], \"labels\": [3, 3, 3, 3, 3, 3]}", "6 tokens", "--max-length 5"),
    ] {
        let found = complaint(masked(line, DataOptions::default()));
        assert!(found.starts_with("x.jsonl:1: ") && found.contains(problem) && found.contains(hint), "{line}: {found}");
    }
    let line = "{\"input_ids\": [2, 3], \"labels\": [2, 3]}";
    let packed = complaint(masked(line, DataOptions { pack: Some(4), ..DataOptions::default() }));
    assert_eq!(packed, "x.jsonl: examples of masked tokens cannot be packed\nleave `--pack` out");
}
