//! What readers make of sound files.

use serde_json::json;

use super::*;

#[test]
fn long_examples_keep_their_first_tokens_or_their_last() {
    let cut = |keep_end| {
        let options = DataOptions { max_length: Some(3), keep_end, ..DataOptions::default() };
        let row = json!({"input_ids": [2, 3, 4, 5, 6], "labels": [-100, -100, 4, 5, 6]});
        let (dataset, report) = read(row.to_string(), options).expect("sound");
        let data = tokens(&dataset);
        (data.tokens(0).to_vec(), data.is_target(0).to_vec(), report.cut, report.kept_end)
    };
    assert_eq!(cut(false), (vec![2, 3, 4], vec![false, false, true], 1, false));
    assert_eq!(cut(true).0, [4, 5, 6]);
    // the first token of an example is predicted by none, whatever its label says
    assert_eq!((cut(true).1[1..].to_vec(), cut(true).2, cut(true).3), (vec![true, true], 1, true));
}

#[test]
fn every_row_predicts_the_token_after_it() {
    let text = "{\"id\": 7, \"text\": \"ab ab abc\", \"topic\": {\"deep\": [1]}}\n\n{\"text\": \"a\\tö\"}\n";
    let (dataset, report) = read(text, add(Which::None, Which::Train)).expect("sound");
    let first = tokens(&dataset);
    assert_eq!(first.tokens(0), [6, 7, 7, 4, 1]);
    assert_eq!(first.is_target(0), [false, true, true, true, true]);
    assert_eq!(first.predicted(0).collect::<Vec<_>>(), [Some(7), Some(7), Some(4), Some(1), None]);
    assert_eq!(first.tokens(1), [2, 8, 9, 1], "the tab has no token; ö has two");
    assert_eq!((dataset.id(0), dataset.id(1)), ("7", "3"), "an own id, else the line's number");
    assert_eq!(dataset.metadata(0), *json!({"topic": {"deep": [1]}}).as_object().expect("an object"));
    assert!(dataset.metadata(1).is_empty());
    assert_eq!((dataset.excerpt(0, 100), dataset.excerpt(0, 5)), ("ab ab abc".into(), "ab a…".into()));
    let marked = [("ab", false), (" ab", true), (" ab", true), ("c", true), ("</s>", true)];
    let expected = ReadReport {
        examples: 2,
        tokens: 9,
        targets: 7,
        longest: 5,
        longest_before_cut: 5,
        first: marked.map(|(text, target)| (text.to_owned(), target)).to_vec(),
        ..ReadReport::default()
    };
    assert_eq!(report, expected);
}

/// Tokens and targets of a prompt and completion.
fn prompted(prompt: &str, completion: &str, post_processor: &str, options: DataOptions) -> (Vec<u32>, Vec<bool>) {
    let line = json!({"prompt": prompt, "completion": completion}).to_string();
    let small = tokenizer(post_processor);
    let (dataset, _) = read_as(line, Format::JsonLines, Some(&small.tokenizer), options).expect("sound");
    let tokens = tokens(&dataset);
    (tokens.tokens(0).to_vec(), tokens.is_target(0).to_vec())
}

#[test]
fn a_token_that_ends_beyond_the_prompt_is_a_target() {
    let none = DataOptions::default();
    let (f, t) = (false, true);
    assert_eq!(prompted("ab ab", " ab", ADDS_NOTHING, none.clone()), (vec![6, 7, 7], vec![f, f, t]));
    assert_eq!(
        prompted("ab ab ", "ab", ADDS_NOTHING, none.clone()),
        (vec![6, 7, 7], vec![f, f, t]),
        "the space joins its word"
    );
    assert_eq!(
        prompted("ab ab a", "b", ADDS_NOTHING, none.clone()),
        (vec![6, 7, 7], vec![f, f, t]),
        "one word, cut anywhere"
    );
    assert_eq!(
        prompted("a ö", "b", ADDS_NOTHING, none.clone()),
        (vec![2, 5, 8, 9, 3], vec![f, f, f, f, t]),
        "bytes, not characters"
    );
    assert_eq!(prompted("a ", "öb", ADDS_NOTHING, none.clone()), (vec![2, 5, 8, 9, 3], vec![f, f, t, t, t]));
    // The two spaces are one token that begins in the prompt; offsets without their spaces would end there.
    assert_eq!(prompted("ab ", " ", ADDS_NOTHING, none.clone()), (vec![6, 10], vec![f, t]));
    assert_eq!(prompted("", "ab ab", ADDS_NOTHING, none), (vec![6, 7], vec![f, t]), "nothing predicts the first token");
}

#[test]
fn special_tokens_stand_where_they_were_asked_for() {
    let (f, t) = (false, true);
    let bos = prompted("ab ab", " ab", ADDS_NOTHING, add(Which::Train, Which::None));
    assert_eq!(bos, (vec![0, 6, 7, 7], vec![f, f, f, t]));
    let eos = prompted("ab ab", " ab", ADDS_NOTHING, add(Which::None, Which::Both));
    assert_eq!(eos, (vec![6, 7, 7, 1], vec![f, f, t, t]));
    let queries = prompted("ab ab", " ab", ADDS_NOTHING, add(Which::Queries, Which::Queries));
    assert_eq!(queries, (vec![6, 7, 7], vec![f, f, t]), "a training file");
    let by_itself = prompted("ab ab", " ab", ADDS_BOS, add(Which::None, Which::Train));
    assert_eq!(by_itself, (vec![0, 6, 7, 7, 1], vec![f, f, f, t, t]));
    assert_eq!(prompted("ab ab", " ab", ADDS_EOS, DataOptions::default()), (vec![6, 7, 7, 1], vec![f, f, t, t]));
    assert_eq!(prompted("", "ab", ADDS_BOS, DataOptions::default()), (vec![0, 6], vec![f, t]), "predicted by <s>");
    assert_eq!(prompted("ab", "", ADDS_NOTHING, add(Which::None, Which::Train)), (vec![6, 1], vec![f, t]));
}

#[test]
fn no_special_token_stands_twice() {
    let both = add(Which::Train, Which::Train);
    let complain = |text: &str, post_processor, options| {
        let small = tokenizer(post_processor);
        let line = json!({"text": text}).to_string();
        complaint(read_as(line, Format::JsonLines, Some(&small.tokenizer), options))
    };
    assert_eq!(
        complain("ab ab", ADDS_BOS, both.clone()),
        "x.jsonl:1: the tokenizer adds `<s>` by itself, and `--add-bos` would add it twice\nleave `--add-bos` out"
    );
    assert_eq!(
        complain("ab ab", ADDS_EOS, both.clone()),
        "x.jsonl:1: the tokenizer adds `</s>` by itself, and `--add-eos` would add it twice\nleave `--add-eos` out"
    );
    assert_eq!(
        complain("<s>ab ab", ADDS_BOS, DataOptions::default()),
        "x.jsonl:1: the text already begins with `<s>`, which is added once more\nas training had it: `--special-tokens keep` for both, `--special-tokens none` for the text's own alone"
    );
    assert_eq!(
        complain("ab ab</s>", ADDS_NOTHING, both),
        "x.jsonl:1: the text already ends with `</s>`, which is added once more\nas training had it: leave `--add-eos` out, or keep both with `--special-tokens keep`"
    );
    assert_eq!(
        complaint(read("{\"input_ids\": [2, 3]}", add(Which::None, Which::Both))),
        "x.jsonl:1: `input_ids` are taken as they are, so `--add-eos` cannot apply\nleave `--add-eos` out, or restrict it to the other file (`train`, `queries`)"
    );
    // Spelled out in the text, and nothing adds it: the text means what it says.
    let (dataset, _) = read("{\"text\": \"<s>ab</s>\"}", DataOptions::default()).expect("sound");
    assert_eq!(tokens(&dataset).tokens(0), [0, 6, 1]);
}

#[test]
fn padding_is_removed_and_labels_stay_at_their_tokens() {
    let text = [
        json!({"input_ids": [2, 3, 4], "labels": [-100, -100, 5]}),
        json!({"input_ids": [1, 1, 2, 3, 4], "labels": [-100, -100, 2, -100, 5], "attention_mask": [0, 0, 1, 1, 1]}),
        json!({"input_ids": [2, 3, 4, 1], "labels": [-100, -100, 5, -100], "attention_mask": [1, 1, 1, 0]}),
        json!({"input_ids": [2, 3, 4]}),
        json!({"input_ids": [2, 3, 4], "labels": [2, 3, 4]}),
    ];
    let text = text.map(|line| line.to_string()).join("\n");
    let (dataset, report) = read_as(text, Format::JsonLines, None, DataOptions::default()).expect("sound");
    let tokens = tokens(&dataset);
    for i in 0..3 {
        assert_eq!(tokens.tokens(i), [2, 3, 4]);
        assert_eq!(tokens.predicted(i).collect::<Vec<_>>(), [None, Some(5), None]);
        assert_eq!(dataset.key(i), dataset.key(0), "padding and an unreadable first label change nothing");
    }
    for i in 3..5 {
        assert_eq!(tokens.predicted(i).collect::<Vec<_>>(), [Some(3), Some(4), None]);
        assert_eq!(dataset.key(i), dataset.key(3));
    }
    assert_ne!(dataset.key(0), dataset.key(3), "labels are contents");
    assert_eq!(dataset.excerpt(0, 20), "2 3 4");
    assert_eq!(report.first, [("2".into(), false), ("3".into(), false), ("4".into(), true)]);
}

#[test]
fn keys_are_contents_and_the_hash_is_ids_and_order_too() {
    let read = |text: &str| read(text, DataOptions::default()).expect("sound").0;
    let one = read("{\"text\": \"ab ab\"}\n{\"text\": \"abc\"}");
    let swapped = read("{\"text\": \"abc\", \"id\": \"2\", \"topic\": 1}\n{\"text\": \"ab ab\", \"id\": \"1\"}");
    assert_eq!((one.key(0), one.key(1)), (swapped.key(1), swapped.key(0)));
    assert_ne!(one.content_hash(), swapped.content_hash(), "another order");
    let again = read("{\"text\": \"ab ab\", \"id\": \"1\", \"topic\": 1}\n{\"text\": \"abc\"}");
    assert_eq!(one.content_hash(), again.content_hash(), "metadata is no content");
    assert_ne!(one.content_hash(), read("{\"text\": \"ab ab\", \"id\": 9}\n{\"text\": \"abc\"}").content_hash());
    let masked = read("{\"prompt\": \"ab\", \"completion\": \" ab\"}\n{\"prompt\": \"ab\", \"completion\": \"c\"}");
    assert_eq!((masked.key(0), masked.key(1)), (one.key(0), one.key(1)), "the same tokens and targets");
}

#[test]
fn longer_examples_are_cut_and_counted() {
    let options = DataOptions { max_length: Some(4), ..add(Which::None, Which::Train) };
    let (dataset, report) =
        read("{\"text\": \"ab ab ab\"}\n{\"text\": \"abcabc\"}\n{\"text\": \"abc\"}", options).expect("sound");
    assert_eq!(tokens(&dataset).tokens(0), [6, 7, 7, 1]);
    assert_eq!(tokens(&dataset).tokens(1), [6, 4, 6, 4], "the end is cut off with its special token");
    assert_eq!((report.cut, report.longest, report.longest_before_cut), (1, 4, 5));
}

#[test]
fn documents_are_packed_into_blocks() {
    let options = DataOptions { pack: Some(3), ..add(Which::None, Which::Train) };
    let text = "{\"id\": \"a\", \"text\": \"ab ab\"}\n{\"id\": \"b\", \"text\": \"c\"}\n{\"prompt\": \"a\", \"completion\": \"c\"}\n{\"text\": \"a\"}";
    let (dataset, report) = read(text, options).expect("sound");
    let packed = tokens(&dataset);
    assert_eq!([packed.tokens(0), packed.tokens(1), packed.tokens(2)], [[6, 7, 1], [4, 1, 2], [4, 1, 2]]);
    assert_eq!(packed.is_target(1), [false, true, false], "the prompt's `a` is no target");
    assert_eq!(packed.is_target(2), [false, true, true], "a document's first token is predicted by the one before");
    assert_eq!(dataset.id(2), "block-2");
    assert_eq!(dataset.metadata(1), *json!({"documents": ["b", "3"]}).as_object().expect("an object"));
    assert_eq!(
        report.packed,
        Some(Packed { documents: 4, dropped_tokens: 1, shorter_blocks: None, rows: None, shares: None })
    );
    assert_eq!((report.examples, report.tokens, report.longest_before_cut), (3, 9, 3));
    assert_eq!(dataset.excerpt(0, 20), "ab ab</s>");
}

#[test]
fn plain_text_has_an_example_a_line() {
    let small = tokenizer(ADDS_NOTHING);
    let read = |role| {
        let options = DataOptions { pack: Some(2), ..add(Which::None, Which::Queries) };
        let text = "ab ab\r\n\nabc".as_bytes();
        read_tokens_from(text, Path::new("x.txt"), Format::Text, role, Some(&small.tokenizer), LIMITS, options)
            .expect("sound")
    };
    let (queries, report) = read(Role::Queries);
    assert_eq!((queries.id(0), queries.id(1), report.packed), ("1", "3", None), "queries are not packed");
    assert_eq!(tokens(&queries).tokens(1), [6, 4, 1]);
    assert_eq!(read(Role::Train).0.id(1), "block-1");
}

#[test]
fn batches_follow_the_data() {
    let lengths = [2, 3, 5, 2, 2, 7, 2];
    let text = lengths.map(|n| json!({"input_ids": vec![3; n]}).to_string()).join("\n");
    let (dataset, _) = read_as(text, Format::JsonLines, None, DataOptions::default()).expect("sound");
    let split = |range, most| batches(&dataset, range, most).collect::<Vec<_>>();
    assert_eq!(split(0..7, 5), [0..2, 2..3, 3..5, 5..6, 6..7], "the example of 7 goes alone");
    assert_eq!(split(0..7, 0).len(), 7);
    assert_eq!(split(0..7, usize::MAX), vec![0..7; 1]);
    assert_eq!(split(3..7, 5), [3..5, 5..6, 6..7], "resumed at a boundary");
    assert_eq!(split(0..4, 5), [0..2, 2..3, 3..4]);
    assert!(split(4..4, 5).is_empty());

    let batch = batch(&dataset, 3..5);
    assert_eq!(batch.inputs, Inputs::Tokens(TokenInputs { ids: vec![3; 4], types: None, encoder: None }));
    assert_eq!(batch.targets, Targets::Tokens(vec![Some(3), None, Some(3), None]));
    assert_eq!(batch.positions.example(1), 2..4);
    assert_eq!((batch.keys, batch.range), (vec![dataset.key(3), dataset.key(4)], 3..5));
}

#[test]
fn chunks_are_seamless() {
    // More lines than are parsed at a time; the ids are the lines' numbers.
    let text: String = (0..5000).map(|n| format!("{{\"input_ids\": [{}, 3]}}\n", n % 12)).collect();
    let (dataset, _) = read_as(&text, Format::JsonLines, None, DataOptions::default()).expect("sound");
    assert_eq!((dataset.len(), dataset.id(4999)), (5000, "5000"));
    assert!((0..5000).all(|i| tokens(&dataset).tokens(i)[0] as usize == i % 12));
    let broken = text + "{}";
    let error = complaint(read_as(broken, Format::JsonLines, None, DataOptions::default()));
    assert!(error.starts_with("x.jsonl:5001: "), "{error}");
}
