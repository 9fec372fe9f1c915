//! Where tokenizers and special tokens are found.

use std::fs;

use super::*;

#[test]
fn a_tokenizer_is_found_in_the_folder_its_parent_or_where_it_is_said_to_be() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let run = home.path().join("run");
    let model = run.join("checkpoint-10");
    let other = run.join("tokenizer");
    for folder in [&model, &other] {
        fs::create_dir_all(folder).expect("writable");
    }
    let shown = |result: Result<Tokenizer, DataError>| {
        complaint(result).replace(home.path().to_str().expect("a plain path"), "HOME")
    };
    assert_eq!(
        shown(Tokenizer::find(&model, None)),
        "no `tokenizer.json` in `HOME/run/checkpoint-10` or `HOME/run`\ngive the tokenizer's file or folder with `--tokenizer PATH`"
    );
    write_tokenizer(&other, ADDS_NOTHING);
    assert_eq!(
        shown(Tokenizer::find(&model, None)),
        "no `tokenizer.json` in `HOME/run/checkpoint-10` or `HOME/run`\nis it `--tokenizer HOME/run/tokenizer`?"
    );
    for given in [other.clone(), other.join("tokenizer.json")] {
        let found = Tokenizer::find(&model, Some(&given)).expect("given");
        assert_eq!((found.file(), found.vocabulary()), (other.join("tokenizer.json").as_path(), 11));
    }
    assert_eq!(
        shown(Tokenizer::find(&model, Some(&other.join("absent.json")))),
        "no `tokenizer.json` in `HOME/run/tokenizer/absent.json`\ngive the tokenizer's file or folder with `--tokenizer PATH`"
    );
    fs::write(model.join("vocab.txt"), "a").expect("writable");
    assert_eq!(
        shown(Tokenizer::find(&model, None)),
        "HOME/run/checkpoint-10: only a slow tokenizer (`vocab.txt`), no `tokenizer.json`\n\
         save a fast tokenizer there: `AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)`"
    );
    write_tokenizer(&run, ADDS_NOTHING);
    assert_eq!(Tokenizer::find(&model, None).expect("in the parent").file(), run.join("tokenizer.json"));
    fs::write(model.join("tokenizer.json"), "{\"version\": ").expect("writable");
    assert_eq!(
        shown(Tokenizer::find(&model, None)),
        "HOME/run/checkpoint-10/tokenizer.json: not a usable tokenizer\nwas it saved by `save_pretrained`, and is it complete?"
    );
}

#[test]
fn special_tokens_are_named_by_a_file() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let model = home.path().join("model");
    fs::create_dir(&model).expect("writable");
    write_tokenizer(home.path(), ADDS_NOTHING);
    let attempt = |tokenizer_config: &str, config: &str| {
        fs::write(home.path().join("tokenizer_config.json"), tokenizer_config).expect("writable");
        fs::write(model.join("config.json"), config).expect("writable");
        let tokenizer = Arc::new(Tokenizer::find(&model, None).expect("in the parent"));
        let result = read_as("ab ab", Format::Text, Some(&tokenizer), add(Which::None, Which::Train));
        match result {
            Ok((dataset, _)) => format!("{:?}", tokens(&dataset).tokens(0)),
            Err(_) => complaint(result).replace(home.path().to_str().expect("a plain path"), "HOME"),
        }
    };
    assert_eq!(attempt(r#"{"eos_token": "</s>"}"#, "{}"), "[6, 7, 1]");
    assert_eq!(attempt(r#"{"eos_token": {"content": "<s>"}}"#, r#"{"eos_token_id": 1}"#), "[6, 7, 0]");
    assert_eq!(attempt(r#"{"eos_token": null}"#, r#"{"eos_token_id": 4}"#), "[6, 7, 4]");
    assert_eq!(attempt("{}", r#"{"eos_token_id": [4]}"#), "[6, 7, 4]");
    assert_eq!(
        attempt(r#"{"bos_token": "<s>"}"#, r#"{"bos_token_id": 1}"#),
        "no `eos_token`: `HOME/tokenizer_config.json` or `HOME/model/config.json` does not name it\n\
         name it as `eos_token` in `tokenizer_config.json`, or leave `--add-eos` out"
    );
    assert_eq!(
        attempt(r#"{"eos_token": "<end>"}"#, "{}"),
        "HOME/tokenizer_config.json: `eos_token` is `<end>`, which is no token of the tokenizer\n\
         correct `eos_token`, or leave `--add-eos` out"
    );
    assert!(
        attempt("{}", r#"{"eos_token_id": 12}"#).contains("`eos_token` is 12, which is beyond the model's vocabulary")
    );
    assert!(attempt("{}", r#"{"eos_token_id": [1, 4]}"#).contains("`eos_token` is [1,4], which"));
    assert_eq!(attempt("{", "{}"), "HOME/tokenizer_config.json: broken JSON\n");
}

#[test]
fn tokens_are_shown_as_they_stand_in_the_text() {
    let small = tokenizer(ADDS_NOTHING);
    let shown: Vec<_> = [0, 6, 7, 5, 8, 99].map(|token| small.tokenizer.token_text(token)).to_vec();
    assert_eq!(shown, ["<s>", "ab", " ab", " ", "Ã", "[99]"], "half of a character keeps the vocabulary's spelling");
    assert_eq!(small.tokenizer.decode(&[6, 7, 8, 9, 1]), "ab abö</s>");
}

#[test]
fn the_same_text_always_has_the_same_tokens() {
    let home = tempfile::tempdir().expect("a temporary folder");
    write_tokenizer(home.path(), ADDS_NOTHING);
    let file = home.path().join("tokenizer.json");
    let text = fs::read_to_string(&file).expect("readable");
    // With a dropout of 1 no merge would ever happen.
    fs::write(&file, text.replace("\"dropout\": null", "\"dropout\": 1.0")).expect("writable");
    let tokenizer = Arc::new(Tokenizer::load(&file).expect("sound"));
    let (dataset, _) = read_as("ab ab", Format::Text, Some(&tokenizer), DataOptions::default()).expect("sound");
    assert_eq!(tokens(&dataset).tokens(0), [6, 7]);
}

/// A classifier's text is cut where `truncation_side` says, which a language model's texts are told of.
#[test]
fn truncation_side_is_obeyed_for_classifiers_and_named_for_language_models() {
    let home = tempfile::tempdir().expect("a temporary folder");
    write_tokenizer(home.path(), ADDS_BOS);
    let file = home.path().join("tokenizer.json");
    let saved = fs::read_to_string(&file).expect("readable");
    let config = home.path().join("tokenizer_config.json");
    let classes = Labels { outputs: 2, task: Some(Task::Classification), names: vec![], token_types: None, end: None };
    let labels = DataOptions { labels: Some(Arc::new(classes)), max_length: Some(3), ..DataOptions::default() };
    let plain = DataOptions { max_length: Some(3), ..DataOptions::default() };
    let cut = |direction: &str, says: &str, options: &DataOptions| {
        fs::write(&file, saved.replace("Right", direction)).expect("writable");
        fs::write(&config, says).expect("writable");
        let tokenizer = Arc::new(Tokenizer::load(&file).expect("sound"));
        let line = if options.labels.is_some() { r#"{"text": "abcc", "label": 0}"# } else { r#"{"text": "abcc"}"# };
        let (dataset, report) = read_as(line, Format::JsonLines, Some(&tokenizer), options.clone()).expect("sound");
        (tokens(&dataset).tokens(0).to_vec(), report.cut_at_other_end)
    };
    assert_eq!(cut("Right", "{}", &labels), (vec![0, 6, 4], false));
    assert_eq!(cut("Left", "{}", &labels), (vec![0, 4, 4], false));
    assert_eq!(cut("Left", r#"{"truncation_side": "right"}"#, &labels), (vec![0, 6, 4], false));
    assert_eq!(cut("Right", r#"{"truncation_side": "left"}"#, &labels), (vec![0, 4, 4], false));
    assert_eq!(cut("Right", r#"{"truncation_side": "left"}"#, &plain), (vec![0, 6, 4], true));
    assert_eq!(cut("Right", "{}", &plain), (vec![0, 6, 4], false));
    fs::write(&config, r#"{"truncation_side": "middle"}"#).expect("writable");
    let error = format!("{:?}", Tokenizer::load(&file).expect_err("no side"));
    assert!(error.contains(r#"`truncation_side` = \"middle\" in `tokenizer_config.json`"#), "{error}");
}

#[test]
fn token_types_are_given_by_names_of_inputs_or_by_class() {
    let home = tempfile::tempdir().expect("a temporary folder");
    write_tokenizer(home.path(), ADDS_EOS);
    let types = |config: &str| {
        fs::write(home.path().join("tokenizer_config.json"), config).expect("writable");
        let tokenizer = Tokenizer::load(&home.path().join("tokenizer.json")).expect("sound");
        let (_, types, _) = tokenizer.encode_pair("a", Some("b"), None, false).expect("sound");
        (types[1] == 1, tokenizer.note_of_types_for_gpt2().is_some())
    };
    assert_eq!(types("{}"), (true, false));
    assert_eq!(types(r#"{"tokenizer_class": "BertTokenizerFast"}"#), (true, false));
    assert_eq!(types(r#"{"tokenizer_class": "TokenizersBackend"}"#), (false, false));
    assert_eq!(types(r#"{"tokenizer_class": "GPT2TokenizerFast"}"#), (false, false));
    assert_eq!(types(r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#), (true, true));
    assert_eq!(types(r#"{"model_input_names": ["input_ids"], "tokenizer_class": "BertTokenizer"}"#), (false, false));
    assert_eq!(types(r#"{"model_input_names": ["token_type_ids"]}"#), (true, true));
}
