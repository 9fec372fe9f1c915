//! Training examples as TRL's SFTTrainer tokenizes them. Recorded with TRL 1.16: `benches/random_data` compares more.

use serde_json::json;

use super::reported::lines;
use super::*;

fn as_trl(max_length: Option<usize>) -> DataOptions {
    DataOptions { as_trl: true, max_length, ..add(Which::None, Which::Train) }
}

/// Tokens and targets of every example.
fn all(dataset: &Dataset) -> Vec<(Vec<u32>, Vec<bool>)> {
    (0..dataset.len()).map(|i| (tokens(dataset).tokens(i).to_vec(), tokens(dataset).is_target(i).to_vec())).collect()
}

/// The end token that `--add-eos` asks for is part of the text that the tokenizer reads. A tokenizer with `add_eos_token`
/// adds its own behind it, so that a text ends with two.
#[test]
fn the_end_token_is_written_into_the_text() {
    let text =
        lines(&[json!({"text": "ab ab"}), json!({"text": "ab</s>"}), json!({"prompt": "ab", "completion": " ab"})]);
    let read = |post_processor| {
        let small = tokenizer(post_processor);
        let read = read_as(&text, Format::JsonLines, Some(&small.tokenizer), as_trl(None)).expect("sound");
        all(&read.0).into_iter().map(|(tokens, _)| tokens).collect::<Vec<_>>()
    };
    assert_eq!(read(ADDS_NOTHING), [vec![6, 7, 1], vec![6, 1], vec![6, 7, 1]]);
    assert_eq!(read(ADDS_EOS), [vec![6, 7, 1, 1], vec![6, 1, 1], vec![6, 7, 1, 1]]);
    assert_eq!(read(ADDS_BOS), [vec![0, 6, 7, 1], vec![0, 6, 1], vec![0, 6, 7, 1]]);
}

#[test]
fn an_empty_text_is_an_end_token() {
    let text = lines(&[json!({"text": "ab"}), json!({"text": ""}), json!({"text": null}), json!({"text": "c"})]);
    let blocks = DataOptions { pack: Some(2), pack_keeps_rest: true, ..as_trl(None) };
    let (dataset, report) = read(&text, blocks).expect("sound");
    assert_eq!(all(&dataset).into_iter().map(|(tokens, _)| tokens).collect::<Vec<_>>(), [[6, 1], [1, 4]]);
    // the last block is one token
    assert_eq!((report.empty, report.without_target), (1, LeftOut { examples: 1, tokens: 1 }));
    // by itself it predicts nothing, unless a begin token stands before it
    let (dataset, report) = read(&text, as_trl(None)).expect("sound");
    assert_eq!((dataset.len(), report.without_target), (2, LeftOut { examples: 1, tokens: 1 }));
    let small = tokenizer(ADDS_BOS);
    let (dataset, report) = read_as(&text, Format::JsonLines, Some(&small.tokenizer), as_trl(None)).expect("sound");
    assert_eq!(all(&dataset)[1], (vec![0, 1], vec![false, true]));
    assert_eq!((report.empty, report.without_target.examples), (1, 0));
}

/// Two spaces are one token at the end of the prompt, and two in the middle of the whole.
#[test]
fn a_prompt_ends_where_its_tokens_and_those_of_the_whole_part() {
    let text = lines(&[json!({"prompt": "c  ", "completion": "ab"}), json!({"prompt": "c", "completion": " ab"})]);
    let (dataset, report) = read(&text, as_trl(None)).expect("sound");
    let whole = (vec![4, 5, 7, 1], vec![false, true, true, true]);
    assert_eq!((&all(&dataset)[0], report.parted), (&whole, 1));
    assert_eq!(all(&dataset)[1], (vec![4, 7, 1], vec![false, true, true]));
    let (dataset, report) = read(&text, add(Which::None, Which::Train)).expect("sound");
    assert_eq!((&all(&dataset)[0].1[..], report.parted), (&[false, false, true, true][..], 0));
}

/// TRL's `bfd_split`: pieces of the longest length and a shorter last one, of which one token alone predicts nothing.
#[test]
fn long_examples_are_divided_into_pieces() {
    let text = lines(&[
        json!({"id": "long", "text": "ab ab ab ab", "topic": "t"}),
        json!({"id": "short", "text": "ab ab"}),
        json!({"id": "asked", "prompt": "c c", "completion": " ab"}),
    ]);
    let divided = DataOptions { split_long: true, ..as_trl(Some(3)) };
    let (dataset, report) = read(&text, divided.clone()).expect("sound");
    let ids: Vec<&str> = (0..dataset.len()).map(|i| dataset.id(i)).collect();
    assert_eq!(ids, ["long#1", "long#2", "short", "asked#2"]);
    let pieces: Vec<Vec<u32>> = all(&dataset).into_iter().map(|(tokens, _)| tokens).collect();
    assert_eq!(pieces, [vec![6, 7, 7], vec![7, 1], vec![6, 7, 1], vec![7, 1]]);
    // the first piece of the prompt has no target, and the first token of a piece never is one
    assert_eq!((report.divided, report.without_target), (2, LeftOut { examples: 1, tokens: 3 }));
    assert!(all(&dataset).iter().all(|(_, targets)| targets[1..].iter().all(|&target| target)));
    assert_eq!(json!(dataset.metadata(1)), json!({"topic": "t", "piece_of": "long"}));
    assert_eq!(json!(dataset.metadata(2)), json!({"piece_of": "short"}));
    let same = lines(&[json!({"id": "a#1", "text": "ab"}), json!({"id": "a", "text": "ab ab ab ab"})]);
    assert!(complaint(read(same, divided.clone())).starts_with("x.jsonl:2: the id `a#1` is already that of"));
    let taken = lines(&[json!({"text": "ab"}), json!({"text": "ab", "piece_of": "a book"})]);
    let said = complaint(read(taken, divided));
    assert!(said.starts_with("x.jsonl:2: `piece_of` is what pieces of long examples keep"), "{said}");
}

#[test]
fn examples_without_a_target_behind_a_cut_are_left_out() {
    let text = lines(&[
        json!({"id": "long", "prompt": "c c c", "completion": " ab"}),
        json!({"id": "short", "prompt": "c", "completion": " ab"}),
    ]);
    let (dataset, report) = read(&text, as_trl(Some(3))).expect("sound");
    assert_eq!((dataset.len(), dataset.id(0)), (1, "short"));
    assert_eq!(report.cut_away, LeftOut { examples: 1, tokens: 3 });
    let others = DataOptions { max_length: Some(3), ..add(Which::None, Which::Train) };
    assert!(complaint(read(&text, others)).starts_with("x.jsonl:1: no target token after the first of 3 tokens"));
    let said = complaint(read(lines(&[json!({"prompt": "c c c", "completion": " ab"})]), as_trl(Some(2))));
    assert_eq!(
        said,
        "x.jsonl: no example has a target token\nraise `--max-length`, or give examples that have a target"
    );
}
