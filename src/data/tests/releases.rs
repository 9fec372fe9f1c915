//! Texts, conversations and answers as earlier releases of TRL gave them to the model, token for token and label for label
//! (`fixtures/completion-only`, recorded with 0.12, 0.15 and 0.16), and texts that begin with the begin token as 1.16 did
//! (`fixtures/trainer-turns`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::reported::lines;
use super::*;

const LIMITS: ModelLimits = ModelLimits { vocabulary: 330, max_positions: Some(64), decoder: None, masked: None };

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Rows of a case with the ids and labels that training had.
type Case = (Vec<Value>, Vec<(Vec<u32>, Vec<i64>)>);

/// The cases of a release, by name and by whether the end token was padding too.
fn cases(release: &str) -> BTreeMap<(String, bool), Case> {
    let file = fixtures().join("completion-only").join(format!("{release}.jsonl"));
    let mut cases: BTreeMap<(String, bool), Case> = BTreeMap::new();
    for line in std::fs::read_to_string(file).expect("recorded").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let numbers = |key: &str| line[key].as_array().expect("a list").iter().map(|id| id.as_i64().expect("a number"));
        let ids = numbers("input_ids").map(|id| u32::try_from(id).expect("an id")).collect();
        let name = line["case"].as_str().expect("a name").to_owned();
        let case = cases.entry((name, line["padded"] == true)).or_default();
        case.0.push(line["row"].clone());
        case.1.push((ids, numbers("labels").collect()));
    }
    cases
}

/// What a release did to special tokens, as `TextTreatment::special_tokens` says it.
fn specials(release: &str, name: &str) -> Specials {
    let (from_tokenizer, conversations, add_eos) = match (release, name) {
        (_, "bare") => (FromTokenizer::None, InConversations::Bare, Which::None),
        ("0.12.2", _) => (FromTokenizer::KeepOwn, InConversations::Bare, Which::None),
        ("0.15.2", _) => (FromTokenizer::KeepOwn, InConversations::Tokenizer, Which::None),
        (_, "messages") => (FromTokenizer::KeepOwn, InConversations::TokenizerAndEnd, Which::None),
        _ => (FromTokenizer::KeepOwn, InConversations::TokenizerAndEnd, Which::Train),
    };
    Specials { add_eos, from_tokenizer, conversations, only_where_missing: true, ..Specials::default() }
}

fn templates(name: &str) -> Option<ResponseTemplates> {
    let (response, instruction) = match name {
        "last" => ("[/INST]", None),
        "turns" => ("[/INST]", Some("[INST]")),
        "ids" => ("[11]", Some("[10]")),
        "words" => (" a book", None),
        _ => return None,
    };
    Some(ResponseTemplates { response: response.into(), instruction: instruction.map(str::to_owned) })
}

/// Every token and label of three releases, with and without the end token as padding.
#[test]
fn texts_and_answers_are_those_of_earlier_releases_of_trl() {
    let mut compared = 0;
    for release in ["0.12.2", "0.15.2", "0.16.1"] {
        for ((name, padded), (rows, seen)) in cases(release) {
            let responses = templates(&name);
            let folder = fixtures().join(if padded { "completion-only/padded" } else { "chat" });
            let tokenizer = Arc::new(Tokenizer::find(&folder, None).expect("a tokenizer"));
            let chat = ChatOptions {
                template: Some(fixtures().join("chat/brackets.jinja")),
                loss_on: Some(LossOn::All),
                ..ChatOptions::default()
            };
            let options = DataOptions {
                specials: specials(release, &name),
                responses: responses.clone(),
                // 0.16 has a collator of its own
                padding_without_loss: release != "0.16.1",
                max_length: Some(64),
                chat,
                ..DataOptions::default()
            };
            let (text, file) = (lines(&rows), Path::new("x.jsonl"));
            let read = read_tokens_from(
                text.as_bytes(),
                file,
                Format::JsonLines,
                Role::Train,
                Some(&tokenizer),
                LIMITS,
                options,
            );
            let (found, report) = read.expect("sound");
            // what had no loss is left out
            let has_loss = |labels: &[i64]| labels[1..].iter().any(|&label| label >= 0);
            let trained: Vec<&(Vec<u32>, Vec<i64>)> = seen.iter().filter(|(_, labels)| has_loss(labels)).collect();
            assert_eq!(found.len(), trained.len(), "{release} {name} {padded}");
            for (k, (ids, labels)) in trained.iter().enumerate() {
                assert_eq!(tokens(&found).tokens(k), ids, "{release} {name} {padded} {k}");
                let targets: Vec<bool> = labels[1..].iter().map(|&label| label >= 0).collect();
                assert_eq!(tokens(&found).is_target(k)[1..], targets, "{release} {name} {padded} {k}");
                compared += 1;
            }
            let missing = seen.len() - trained.len();
            assert_eq!(report.without_target.examples, missing, "{release} {name} {padded}");
            assert_eq!(report.responses.map(|found| found.missing), responses.map(|_| missing), "{release} {name}");
        }
    }
    assert!(compared > 150, "{compared}");
}

/// TRL 1.16 has the tokenizer put its begin token in front of texts that begin with one.
#[test]
fn a_begin_token_in_a_text_is_a_second_one_in_a_run_of_trl() {
    let folder = fixtures().join("trainer-turns/texts");
    let tokenizer = Arc::new(Tokenizer::find(&folder, None).expect("a tokenizer"));
    let rows = std::fs::read(folder.join("train.jsonl")).expect("rows");
    let read = |from_tokenizer| {
        let specials = Specials {
            add_eos: Which::Train,
            from_tokenizer,
            only_where_missing: true,
            conversations: InConversations::Bare,
            ..Specials::default()
        };
        let options = DataOptions { as_trl: true, specials, ..DataOptions::default() };
        let file = Path::new("x.jsonl");
        read_tokens_from(&rows[..], file, Format::JsonLines, Role::Train, Some(&tokenizer), LIMITS, options)
    };
    let (found, report) = read(FromTokenizer::KeepOwn).expect("sound");
    assert_eq!((found.len(), report.doubled), (4, 2));
    let seen = std::fs::read_to_string(folder.join("seen.jsonl")).expect("recorded");
    for (k, line) in seen.lines().enumerate() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(json!(tokens(&found).tokens(k)), line["input_ids"], "{k}");
        assert!(tokens(&found).is_target(k)[1..].iter().all(|&target| target), "{k}");
    }
    assert!(complaint(read(FromTokenizer::Once)).contains("the text already begins with `<s>`"));
}

/// A template that nothing has, or that has no token, is an error with what to do; of queries it leaves every token.
#[test]
fn a_template_that_no_text_has_is_refused() {
    let small = tokenizer(ADDS_NOTHING);
    let of = |response: &str, instruction: Option<&str>, role| {
        let responses = ResponseTemplates { response: response.into(), instruction: instruction.map(str::to_owned) };
        let options = DataOptions { responses: Some(responses), ..DataOptions::default() };
        let text = lines(&[json!({"text": "c ab ab"}), json!({"text": "ab c"})]);
        let (file, limits) = (Path::new("x.jsonl"), super::LIMITS);
        read_tokens_from(text.as_bytes(), file, Format::JsonLines, role, Some(&small.tokenizer), limits, options)
    };
    let said = complaint(of("b", None, Role::Train));
    assert!(
        said.starts_with("x.jsonl: no example has a target behind `b`\nthe template is looked for as TRL"),
        "{said}"
    );
    let said = complaint(of("[]", None, Role::Train));
    assert!(said.starts_with("`--response-template`: it has no token\n"), "{said}");
    let said = complaint(of("c", Some(""), Role::Train));
    assert!(said.starts_with("`--instruction-template`: it has no token\n"), "{said}");
    let (found, report) = of("[4]", None, Role::Train).expect("the first text");
    assert_eq!((found.len(), tokens(&found).is_target(0)), (1, &[false, true, true][..]));
    assert_eq!(report.responses.map(|found| found.missing), Some(1));
    let (found, report) = of("[4]", None, Role::Queries).expect("both texts");
    assert_eq!(
        (tokens(&found).is_target(0), tokens(&found).is_target(1)),
        (&[false, true, true][..], &[false, true, true][..])
    );
    assert_eq!(report.responses.map(|found| found.missing), Some(1));
}
