//! Small inputs that other tools' users reported, each with its right outcome.

use serde_json::json;

use super::*;

pub(super) fn lines(rows: &[serde_json::Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// The rows of a text file as WikiText has them.
fn wikitext() -> String {
    lines(&[
        json!({"text": ""}),
        json!({"text": " ab"}),
        json!({"text": "", "id": "x"}),
        json!({"text": " abc", "id": "x"}),
    ])
}

#[test]
fn empty_rows_are_skipped_and_counted() {
    let (dataset, report) = read(wikitext(), add(Which::None, Which::Train)).expect("sound");
    assert_eq!((report.examples, report.empty), (2, 2));
    assert_eq!((dataset.id(0), dataset.id(1)), ("2", "x"), "a line keeps its number; a skipped row has no id");
    assert_eq!(tokens(&dataset).tokens(1), [7, 4, 1]);
    // No special token makes an empty row an example.
    let (_, report) = read(wikitext(), add(Which::Train, Which::Train)).expect("sound");
    assert_eq!((report.examples, report.empty), (2, 2));
}

#[test]
fn empty_rows_add_nothing_to_blocks() {
    let pack = |options| DataOptions { pack: Some(2), ..options };
    let (dataset, report) = read(wikitext(), pack(add(Which::None, Which::Train))).expect("sound");
    assert_eq!([tokens(&dataset).tokens(0), tokens(&dataset).tokens(1)], [[7, 1], [7, 4]]);
    assert_eq!(
        (report.empty, report.packed),
        (2, Some(Packed { documents: 2, dropped_tokens: 1, shorter_blocks: None, rows: None, shares: None }))
    );
}

#[test]
fn end_tokens_can_be_present_without_being_targets() {
    let (f, t) = (false, true);
    let text = lines(&[json!({"text": "ab</s> ab"}), json!({"prompt": "ab", "completion": " ab"})]);
    let read = |which, post_processor| {
        let small = tokenizer(post_processor);
        let (dataset, _) =
            read_as(&text, Format::JsonLines, Some(&small.tokenizer), add(Which::None, which)).expect("sound");
        let all = tokens(&dataset);
        [0, 1].map(|i| (all.tokens(i).to_vec(), all.is_target(i).to_vec()))
    };
    let tokens = [vec![6, 1, 7, 1], vec![6, 7, 1]];
    let [first, second] = read(Which::Train, ADDS_NOTHING);
    assert_eq!([first, second], [(tokens[0].clone(), vec![f, t, t, t]), (tokens[1].clone(), vec![f, t, t])]);
    let masked = [(tokens[0].clone(), vec![f, f, t, f]), (tokens[1].clone(), vec![f, t, f])];
    assert_eq!(read(Which::TrainInput, ADDS_NOTHING), masked);
    assert_eq!(read(Which::BothInput, ADDS_NOTHING), masked);
    assert_eq!(read(Which::TrainInput, ADDS_EOS), masked, "the tokenizer's own are left out of the loss too");
    assert_eq!(read(Which::QueriesInput, ADDS_EOS)[1].1, [f, t, t], "a training file");
}

/// TRL puts an end token behind a text that has none, and takes the one that its arguments name.
#[test]
fn end_tokens_are_put_where_they_are_missing() {
    let text = lines(&[
        json!({"text": "ab</s>"}),
        json!({"text": "ab ab"}),
        json!({"prompt": "ab", "completion": " ab</s>"}),
        json!({"prompt": "ab", "completion": " ab"}),
    ]);
    let read = |only_where_missing, post_processor, which| {
        let small = tokenizer(post_processor);
        let specials = Specials { add_eos: which, only_where_missing, ..Specials::default() };
        let options = DataOptions { specials, ..DataOptions::default() };
        read_as(&text, Format::JsonLines, Some(&small.tokenizer), options).map(|(dataset, _)| {
            let all = tokens(&dataset);
            (0..4).map(|i| (all.tokens(i).to_vec(), all.targets(i))).collect::<Vec<_>>()
        })
    };
    let whole = [vec![6, 1], vec![6, 7, 1], vec![6, 7, 1], vec![6, 7, 1]];
    let found = read(true, ADDS_NOTHING, Which::Train).expect("sound");
    assert_eq!(found, whole.clone().into_iter().zip([1, 2, 2, 2]).collect::<Vec<_>>());
    let found = read(true, ADDS_NOTHING, Which::TrainInput).expect_err("a text whose only target is the end token");
    assert!(found.to_string().starts_with("x.jsonl:1: "), "{found}");
    assert!(complaint(read(false, ADDS_NOTHING, Which::Train)).starts_with("x.jsonl:1: the text already ends"));
    // the tokenizer's own is enough
    assert!(complaint(read(false, ADDS_EOS, Which::Train)).contains("the tokenizer adds `</s>`"));
    let text = lines(&[json!({"text": "ab ab"})]);
    let small = tokenizer(ADDS_EOS);
    let specials = Specials { add_eos: Which::Train, only_where_missing: true, ..Specials::default() };
    let options = DataOptions { specials, ..DataOptions::default() };
    let (dataset, _) = read_as(text, Format::JsonLines, Some(&small.tokenizer), options).expect("sound");
    assert_eq!(tokens(&dataset).tokens(0), [6, 7, 1]);
}

#[test]
fn another_end_token_is_named_by_its_text() {
    let read = |end: &str| {
        let options = DataOptions { end_token: Some(end.into()), ..add(Which::None, Which::Train) };
        read(lines(&[json!({"text": "ab ab"})]), options)
    };
    assert_eq!(tokens(&read("<s>").expect("sound").0).tokens(0), [6, 7, 0]);
    let said = complaint(read("<|im_end|>"));
    assert!(said.contains("the end token `<|im_end|>` is no token of the tokenizer"), "{said}");
    assert!(said.contains("`--tokenizer PATH`"), "{said}");
}

#[test]
fn padding_with_the_end_token_is_seen() {
    let home = tempfile::tempdir().expect("a temporary folder");
    write_tokenizer(home.path(), ADDS_NOTHING);
    let asks = |config: &str, options, text: &str| {
        std::fs::write(home.path().join("tokenizer_config.json"), config).expect("writable");
        let tokenizer = Arc::new(Tokenizer::find(home.path(), None).expect("sound"));
        read_as(text, Format::JsonLines, Some(&tokenizer), options).expect("sound").1.end_may_be_padding
    };
    let (text, ids) = ("{\"text\": \"ab ab\"}", "{\"input_ids\": [2, 3]}");
    let same = r#"{"eos_token": "</s>", "pad_token": {"content": "</s>"}}"#;
    assert!(asks(same, add(Which::None, Which::Train), text));
    assert!(!asks(same, add(Which::None, Which::TrainInput), text), "it was said");
    assert!(!asks(same, DataOptions::default(), text), "there is none");
    assert!(!asks(same, DataOptions::default(), ids), "labels say it");
    let other = r#"{"eos_token": "</s>", "pad_token": "<s>"}"#;
    assert!(!asks(other, add(Which::None, Which::Train), text));
    assert!(!asks(r#"{"eos_token": "</s>"}"#, add(Which::None, Which::Train), text));
}

#[test]
fn a_tokenizer_may_have_more_ids_than_the_embedding_has_rows() {
    let small = tokenizer(ADDS_NOTHING);
    let limits = ModelLimits { vocabulary: 10, max_positions: None, decoder: None, masked: None };
    let read = |text: &str| {
        let (file, tokenizer) = (Path::new("x.txt"), Some(&small.tokenizer));
        read_tokens_from(text.as_bytes(), file, Format::Text, Role::Train, tokenizer, limits, DataOptions::default())
    };
    assert_eq!(read("ab ab").expect("no text uses it").0.len(), 1);
    assert_eq!(
        complaint(read("ab ab\nab   ab")),
        "x.txt:2: the text has the token `  ` (10), but the model's embedding has 10 rows\n\
         give the tokenizer that this model was trained with (`--tokenizer PATH`)"
    );
}

#[test]
fn a_template_with_an_id_beyond_the_embedding_is_named_with_the_line() {
    let small = tokenizer(&ADDS_BOS.replace("\"ids\": [0]", "\"ids\": [700]"));
    let said =
        complaint(read_as("{\"text\": \"ab ab\"}", Format::JsonLines, Some(&small.tokenizer), DataOptions::default()));
    assert!(
        said.starts_with("x.jsonl:1: the text has the token `[700]` (700), but the model's embedding has 12 rows"),
        "{said}"
    );
}

#[test]
fn special_tokens_of_the_tokenizer_are_kept_or_left_out_for_the_whole_file() {
    let small = tokenizer(ADDS_BOS);
    let read = |from_tokenizer| {
        let specials = Specials { from_tokenizer, ..Specials::default() };
        let text = lines(&[json!({"text": "<s>ab ab"}), json!({"prompt": "ab", "completion": " ab"})]);
        read_as(text, Format::JsonLines, Some(&small.tokenizer), DataOptions { specials, ..DataOptions::default() })
    };
    assert!(complaint(read(FromTokenizer::Once)).starts_with("x.jsonl:1: the text already begins with `<s>`"));
    let (kept, _) = read(FromTokenizer::Keep).expect("two, as the run had it");
    assert_eq!([tokens(&kept).tokens(0), tokens(&kept).tokens(1)], [&[0, 0, 6, 7][..], &[0, 6, 7]]);
    assert_eq!(tokens(&kept).is_target(1), [false, false, true]);
    let (none, _) = read(FromTokenizer::None).expect("the text's own");
    assert_eq!([tokens(&none).tokens(0), tokens(&none).tokens(1)], [&[0, 6, 7][..], &[6, 7]]);
    assert_eq!(tokens(&none).is_target(1), [false, true]);
}

#[test]
fn files_of_a_tokenizer_that_disagree_are_noted() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let notes = |post_processor: &str, config: &str| {
        write_tokenizer(home.path(), post_processor);
        std::fs::write(home.path().join("tokenizer_config.json"), config).expect("writable");
        Tokenizer::find(home.path(), None).expect("sound").notes()
    };
    assert_eq!(
        notes(ADDS_BOS, r#"{"add_bos_token": false, "tokenizer_class": "LlamaTokenizer"}"#),
        [
            "`tokenizer_config.json` says `add_bos_token: false`, but `tokenizer.json` adds `<s>` in front of a text, and \
          that is done; if training had none, give `--special-tokens none`"
        ]
    );
    assert_eq!(
        notes(ADDS_BOS, r#"{"add_bos_token": true, "add_eos_token": true}"#),
        ["`tokenizer_config.json` says `add_eos_token: true`, but `tokenizer.json` adds nothing behind a text, and \
          nothing is added; if training had the token, give `--add-eos`"]
    );
    assert!(notes(ADDS_BOS, r#"{"add_bos_token": true, "add_eos_token": false}"#).is_empty());
    assert!(notes(ADDS_BOS, "{}").is_empty());
}

#[test]
fn another_field_or_the_line_can_be_the_id() {
    let text =
        lines(&[json!({"text": "ab ab", "id": "talk", "turn": 7}), json!({"text": "ab abc", "id": "talk", "turn": 8})]);
    let read = |id_field| read(&text, DataOptions { id_field, ..DataOptions::default() });
    assert!(complaint(read(IdField::Default)).starts_with("x.jsonl:2: the id `talk` is already that of line 1"));
    let (by_line, _) = read(IdField::Line).expect("lines differ");
    assert_eq!((by_line.id(0), by_line.id(1)), ("1", "2"));
    assert_eq!(by_line.metadata(1), *json!({"id": "talk", "turn": 8}).as_object().expect("an object"));
    let (by_turn, _) = read(IdField::Field("turn".into())).expect("turns differ");
    assert_eq!((by_turn.id(0), by_turn.id(1)), ("7", "8"));
    assert_eq!(by_turn.metadata(0), *json!({"id": "talk", "turn": 7}).as_object().expect("an object"));
    assert_eq!(
        complaint(read(IdField::Field("row".into()))),
        "x.jsonl:1: no `row`, which was chosen as the id\n`--id-field line` takes the line's number"
    );
}

/// The Llama class of transformers 5 sets its own splitting over a byte-level file.
#[test]
fn a_llama_class_over_a_byte_level_file_is_noted() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let byte_level = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainer-tiny/tokenizer.json");
    let noted = |class: &str, version: &str| {
        let config = json!({"tokenizer_class": class}).to_string();
        std::fs::write(home.path().join("tokenizer_config.json"), config).expect("writable");
        Tokenizer::find(home.path(), None).expect("sound").note_of_llama_class(version)
    };
    std::fs::copy(byte_level, home.path().join("tokenizer.json")).expect("copied");
    for class in ["LlamaTokenizer", "LlamaTokenizerFast"] {
        let note = noted(class, "5.3.0").expect("a note");
        assert!(note.contains(&format!("`{class}`")) && note.contains("transformers 5.3.0"), "{note}");
        assert_eq!(noted(class, "4.57.1"), None);
    }
    assert_eq!(noted("PreTrainedTokenizerFast", "5.3.0"), None);
}

#[test]
fn blocks_begin_anew_with_every_batch_of_rows() {
    // 2,500 documents of 7 tokens in batches of 1,000 rows: 7,000 tokens are 54 blocks of 128, 3,500 are 27.
    let text: String = (0..2500).map(|_| "{\"input_ids\": [2, 3, 4, 5, 6, 7, 8]}\n").collect();
    let limits = ModelLimits { vocabulary: 12, max_positions: None, decoder: None, masked: None };
    let blocks = |pack_rows| {
        let options = DataOptions { pack: Some(128), pack_rows, ..DataOptions::default() };
        read_tokens_from(text.as_bytes(), Path::new("x.jsonl"), Format::JsonLines, Role::Train, None, limits, options)
            .expect("sound")
    };
    let (dataset, report) = blocks(Some(1000));
    assert_eq!(report.examples, 54 + 54 + 27);
    let dropped = 2 * (7000 - 54 * 128) + 3500 - 27 * 128;
    assert_eq!(
        report.packed,
        Some(Packed { documents: 2500, dropped_tokens: dropped, shorter_blocks: None, rows: Some(1000), shares: None })
    );
    assert_eq!(tokens(&dataset).tokens(54)[..3], [2, 3, 4], "the 1,001st document begins a block");
    assert_eq!(dataset.metadata(54)["documents"][0], "1001");
    assert_eq!(blocks(None).1.examples, 136);
    // TRL keeps what fills no block: 88 tokens twice, and 44
    let options =
        DataOptions { pack: Some(128), pack_rows: Some(1000), pack_keeps_rest: true, ..DataOptions::default() };
    let file = Path::new("x.jsonl");
    let (dataset, report) =
        read_tokens_from(text.as_bytes(), file, Format::JsonLines, Role::Train, None, limits, options).expect("sound");
    assert_eq!((report.examples, report.tokens), (55 + 55 + 28, 17_500));
    let lengths = [53, 54, 55, 109, 137].map(|block| tokens(&dataset).tokens(block).len());
    assert_eq!(lengths, [128, 88, 128, 88, 44]);
    let expected =
        Packed { documents: 2500, dropped_tokens: 0, shorter_blocks: Some(3), rows: Some(1000), shares: None };
    assert_eq!(report.packed, Some(expected));
    // one token alone predicts nothing
    let options = DataOptions { pack: Some(3), pack_keeps_rest: true, ..DataOptions::default() };
    let (_, report) = read(lines(&[json!({"text": "abab"})]), options.clone()).expect("sound");
    assert_eq!((report.examples, report.packed.expect("packed").shorter_blocks), (1, Some(1)));
    let (_, report) = read(lines(&[json!({"input_ids": [2, 3, 4, 5]})]), options).expect("sound");
    let packed = report.packed.expect("packed");
    assert_eq!((report.examples, packed.shorter_blocks, packed.dropped_tokens), (1, Some(0), 0));
    assert_eq!(report.without_target, LeftOut { examples: 1, tokens: 1 });
    // nor does a block of prompts, which keeps its number
    let text = lines(&[json!({"input_ids": [2, 3, 4, 5, 2, 3], "labels": [2, 3, -100, -100, 2, 3]})]);
    let (dataset, report) = read(text, DataOptions { pack: Some(2), ..DataOptions::default() }).expect("sound");
    assert_eq!((report.examples, dataset.id(0), dataset.id(1)), (2, "block-0", "block-2"));
    assert_eq!(report.without_target, LeftOut { examples: 1, tokens: 2 });
    // Empty rows are rows of a batch.
    let text = lines(&[json!({"text": "ab ab"}), json!({"text": ""}), json!({"text": "abc"}), json!({"text": "c"})]);
    let (dataset, _) =
        read(text, DataOptions { pack: Some(2), pack_rows: Some(2), ..DataOptions::default() }).expect("sound");
    assert_eq!([tokens(&dataset).tokens(0), tokens(&dataset).tokens(1)], [[6, 7], [6, 4]]);
}

/// `group_texts` of two processes: each has 1,250 rows, which are a batch of 1,000 and one of 250.
#[test]
fn blocks_begin_anew_in_every_process_that_packs() {
    let text: String = (0..2500).map(|_| "{\"input_ids\": [2, 3, 4, 5, 6, 7, 8]}\n").collect();
    let limits = ModelLimits { vocabulary: 12, max_positions: None, decoder: None, masked: None };
    let options = |pack_rows, processes| DataOptions {
        pack: Some(128),
        pack_rows,
        pack_processes: Some(processes),
        ..DataOptions::default()
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows: Vec<&str> = text.split_inclusive('\n').collect();
    for (name, part) in [("a.jsonl", &rows[..700]), ("b.jsonl", &rows[700..])] {
        std::fs::write(folder.path().join(name), part.concat()).expect("writable");
    }
    for (pack_rows, processes, blocks, begins) in [
        (Some(1000), 2, 54 + 13 + 54 + 13, [(54, "1001"), (67, "1251"), (121, "2251")]),
        (Some(1000), 3, 45 + 45 + 45, [(45, "835"), (90, "1668"), (1, "19")]),
        (None, 3, 45 + 45 + 45, [(45, "835"), (90, "1668"), (1, "19")]),
        (Some(1000), 1, 54 + 54 + 27, [(54, "1001"), (108, "2001"), (1, "19")]),
    ] {
        let (file, format, options) = (Path::new("x.jsonl"), Format::JsonLines, options(pack_rows, processes));
        let (dataset, report) =
            read_tokens_from(text.as_bytes(), file, format, Role::Train, None, limits, options.clone()).expect("sound");
        assert_eq!((report.examples, report.packed.expect("packed").shares), (blocks, Some(processes)));
        for (block, document) in begins {
            assert_eq!(dataset.metadata(block)["documents"][0], document, "{processes} {block}");
        }
        // two files are one set of rows
        let pattern = folder.path().join("*.jsonl");
        let (two, _) = read_tokens(&pattern, Role::Train, None, limits, options).expect("sound");
        assert_eq!(two.content_hash(), dataset.content_hash());
    }
}
