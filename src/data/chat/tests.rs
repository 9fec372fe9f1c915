//! Conversations through the readers, against the tokens and labels that TRL's trainer prepared.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::Hint;
use crate::data::{
    DataError, DataOptions, Dataset, Format, FromTokenizer, Kind, ModelLimits, ReadReport, Role, Specials, Which,
    read_tokens_from,
};

const LIMITS: ModelLimits = ModelLimits { vocabulary: 400, max_positions: Some(512), decoder: None, masked: None };

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const ASKED: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chat")
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::find(&fixture(), None).expect("the fixture's tokenizer"))
}

fn read_options(
    rows: &str,
    tokenizer: &Arc<Tokenizer>,
    options: DataOptions,
) -> Result<(Dataset, ReadReport), DataError> {
    let file = Path::new("x.jsonl");
    read_tokens_from(rows.as_bytes(), file, Format::JsonLines, Role::Train, Some(tokenizer), LIMITS, options)
}

fn read(rows: &str, chat: ChatOptions) -> Result<(Dataset, ReadReport), DataError> {
    read_options(rows, &tokenizer(), DataOptions { chat, ..DataOptions::default() })
}

/// Reads rows with a template, from a file of its own.
fn rendered(template: &str, rows: &str, loss_on: Option<LossOn>) -> Result<(Dataset, ReadReport), DataError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("t.jinja");
    fs::write(&file, template).expect("writable");
    read(rows, ChatOptions { template: Some(file), loss_on, ..ChatOptions::default() })
}

/// Message and hint of a refused row; the template's folder, which is another each time, is left out.
fn refused(template: &str, row: &str, loss_on: Option<LossOn>) -> String {
    let error = rendered(template, row, loss_on).expect_err("an error");
    let text = format!("{error}\n{}", error.hint().unwrap_or_default());
    match (text.find("/"), text.find("t.jinja")) {
        (Some(start), Some(end)) if start < end => format!("{}{}", &text[..start], &text[end..]),
        _ => text,
    }
}

fn ids(dataset: &Dataset, i: usize) -> Vec<i64> {
    let Kind::Tokens(tokens) = dataset.kind() else { panic!("rows") };
    tokens.tokens(i).iter().map(|&token| i64::from(token)).collect()
}

/// Labels at their tokens, -100 for none; the first, which nothing predicts, is never one.
fn labels(dataset: &Dataset, i: usize) -> Vec<i64> {
    let Kind::Tokens(tokens) = dataset.kind() else { panic!("rows") };
    tokens.tokens(i).iter().zip(tokens.is_target(i)).map(|(&id, &is)| if is { i64::from(id) } else { -100 }).collect()
}

fn integers(value: &Value) -> Vec<i64> {
    value.as_array().expect("a list").iter().map(|id| id.as_i64().expect("an integer")).collect()
}

/// The text of the targets of example `i`, a `|` between those that do not follow each other.
fn targets(dataset: &Dataset, i: usize) -> String {
    let Kind::Tokens(tokens) = dataset.kind() else { panic!("rows") };
    let marked: Vec<(String, bool)> = tokens.marked_tokens(i);
    let mut text = String::new();
    for (k, (token, is_target)) in marked.iter().enumerate() {
        if *is_target {
            if k > 0 && !marked[k - 1].1 && !text.is_empty() {
                text.push('|');
            }
            text.push_str(token);
        }
    }
    text
}

#[test]
fn tokens_and_labels_are_those_of_trl() {
    let recorded = fs::read_to_string(fixture().join("tokens.jsonl")).expect("the fixture");
    let mut tested = 0;
    for line in recorded.lines() {
        let recorded: Value = serde_json::from_str(line).expect("JSON");
        let text = |key: &str| recorded[key].as_str().expect("a text");
        let (template, id) = (text("template"), text("id"));
        let loss_on = match text("loss") {
            "assistant" => Some(LossOn::Assistant),
            "all" if text("rows") == "prompted" => Some(LossOn::All),
            _ => None,
        };
        let rows = fs::read_to_string(fixture().join(format!("{}.jsonl", text("rows")))).expect("the fixture");
        let chat = ChatOptions {
            recorded: None,
            template: Some(fixture().join(format!("{template}.jinja"))),
            text: None,
            loss_on,
            assistant_in_prompts: false,
            date: Some("2024-07-26".parse().expect("a day")),
        };
        let case = format!("{template}, {}, {}, {id}", text("rows"), text("loss"));
        let (found, report) = read(&rows, chat).unwrap_or_else(|error| panic!("{case}: {error}"));
        let i = (0..found.len()).find(|&i| found.id(i) == id).expect("the row");
        assert_eq!(ids(&found, i), integers(&recorded["ids"]), "{case}");
        let mut expected = integers(&recorded["labels"]);
        expected[0] = -100;
        assert_eq!(labels(&found, i), expected, "{case}");
        assert_eq!(report.chat.expect("conversations").conversations, found.len());
        tested += 1;
    }
    assert!(tested >= 45, "{tested} recorded rows");
}

/// TRL 1.16 with `assistant_only_loss=True`: with `completion_only_loss=False` prompts are no exception.
#[test]
fn what_the_assistant_says_in_a_prompt_is_a_target_where_it_was_in_training() {
    let row = json!({
        "prompt": [turn("user", "a"), turn("assistant", "one"), turn("user", "b")],
        "completion": [turn("assistant", "two")],
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("chat_template.jinja");
    fs::write(&file, CHATML).expect("writable");
    let read = |assistant_in_prompts| {
        let (template, loss_on) = (Some(file.clone()), Some(LossOn::Assistant));
        read(&row.to_string(), ChatOptions { template, loss_on, assistant_in_prompts, ..ChatOptions::default() })
    };
    assert_eq!(targets(&read(false).expect("sound").0, 0), "two<|im_end|>\n");
    assert_eq!(targets(&read(true).expect("sound").0, 0), "one<|im_end|>\n|two<|im_end|>\n");
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn turns_of_the_assistant_are_found_by_what_they_add() {
    let rows = fs::read_to_string(fixture().join("messages.jsonl")).expect("the fixture").replace('🎻', "!");
    let (found, report) = rendered(CHATML, &rows, Some(LossOn::Assistant)).expect("sound");
    assert_eq!(targets(&found, 0), "a golden ring.<|im_end|>\n");
    assert_eq!(targets(&found, 2), "  a heavy book \n<|im_end|>\n|yes !<|im_end|>\n");
    assert_eq!(report.chat.expect("conversations").by_prefixes, 3);
    let (found, report) = rendered(CHATML, &rows, Some(LossOn::Last)).expect("sound");
    assert_eq!(targets(&found, 2), "yes !<|im_end|>\n");
    assert_eq!(report.chat.expect("conversations").parted, 0);
    // The assistant speaks first.
    let first = r#"{"messages": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "a"}]}"#;
    let (found, _) = rendered(CHATML, first, Some(LossOn::Assistant)).expect("sound");
    assert_eq!(targets(&found, 0), "b<|im_end|>\n");
}

/// The template of Microsoft's Phi-3 (MIT), which TRL trains with marks that it does not have.
#[test]
fn a_template_that_trl_replaces_is_named() {
    let phi3 = "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + \
                '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + \
                '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + \
                '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ \
                eos_token }}{% endif %}";
    let family = |template: &str| {
        let report = rendered(template, ASKED, None).expect("sound").1;
        report.chat.expect("conversations").replaced_in_training
    };
    assert_eq!(family(phi3), Some("phi3"));
    assert_eq!(family(&format!("{phi3} ")), None, "TRL compares the whole text");
    assert_eq!(family(CHATML), None);
}

#[test]
fn a_template_is_found_where_transformers_looks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("writable");
    fs::copy(fixture().join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("writable");
    let read = |row: &str| {
        let tokenizer = Arc::new(Tokenizer::find(folder.path(), None).expect("a tokenizer"));
        let (found, _) = read_options(row, &tokenizer, DataOptions::default()).map_err(|error| {
            let hint = error.hint().unwrap_or_default();
            format!("{error}\n{hint}").replace(&folder.path().display().to_string(), "FOLDER")
        })?;
        Ok::<_, String>(tokenizer.decode(&ids(&found, 0).iter().map(|&id| id as u32).collect::<Vec<_>>()))
    };
    assert_eq!(
        read(ASKED).unwrap_err(),
        "x.jsonl:1: a conversation needs a chat template, and `FOLDER` has none\ngive the template that training had with \
         `--chat-template FILE`"
    );
    assert_eq!(read(r#"{"text": "ab"}"#).as_deref(), Ok("<s>ab"), "a text needs no template");
    write("chat_template.json", r#"{"chat_template": "3 {{ messages[0].content }}"}"#);
    assert_eq!(read(ASKED).as_deref(), Ok("3 a"));
    write(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "</s>"}, "chat_template": "2 {{ eos_token }}{{ bos_token }}"}"#,
    );
    assert_eq!(read(ASKED).as_deref(), Ok("2 </s>"));
    let tools = ASKED.replacen('{', r#"{"tools": [{"type": "function"}], "#, 1);
    let named =
        r#"[{"name": "default", "template": "one two"}, {"name": "tool_use", "template": "{{ tools | tojson }}"}]"#;
    write("tokenizer_config.json", &format!(r#"{{"chat_template": {named}}}"#));
    assert_eq!(read(ASKED).as_deref(), Ok("one two"));
    assert_eq!(read(&tools).as_deref(), Ok(r#"[{"type": "function"}]"#));
    write("tokenizer_config.json", r#"{"chat_template": [{"name": "rag", "template": "x"}]}"#);
    assert!(read(ASKED).unwrap_err().contains("none of them is named `default`"));
    write("chat_template.jinja", "1 {{ messages[0].content }}\n");
    assert_eq!(read(ASKED).as_deref(), Ok("1 a"), "one newline at the end is dropped");
    write("chat_template.jinja", "{% for x in %}");
    let problem = read(ASKED).unwrap_err();
    assert!(
        problem.contains("chat_template.jinja cannot be used: syntax error") && problem.contains("line 1"),
        "{problem}"
    );
}

#[test]
fn another_template_is_another_dataset() {
    let content = |template| rendered(template, ASKED, None).expect("sound").0.content_hash();
    assert_eq!(content("x{{ messages[0].content }}"), content("{# c #}x{{ messages[0].content }}"), "the same tokens");
    assert_ne!(content("x{{ messages[0].content }}"), content("y{{ messages[0].content }}"));
    let hash = |template| rendered(template, ASKED, None).expect("sound").1.chat.expect("a conversation").hash;
    assert_ne!(
        hash("x{{ messages[0].content }}"),
        hash("{# c #}x{{ messages[0].content }}"),
        "the plan shows which it was"
    );
}

#[test]
fn special_tokens_are_the_templates() {
    // The tokenizer's own begin token is added only on request, for runs that had two.
    let template = "{{ bos_token }}{{ messages[0].content }}";
    assert_eq!(ids(&rendered(template, ASKED, None).expect("sound").0, 0).iter().filter(|&&id| id == 0).count(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("t.jinja");
    fs::write(&file, template).expect("writable");
    let chat = ChatOptions { template: Some(file), ..ChatOptions::default() };
    let keep = Specials { from_tokenizer: FromTokenizer::Keep, ..Specials::default() };
    let options = DataOptions { chat: chat.clone(), specials: keep, ..DataOptions::default() };
    let found = read_options(ASKED, &tokenizer(), options).expect("sound").0;
    assert_eq!(ids(&found, 0)[..2], [0, 0]);
    let add = Specials { add_eos: Which::Train, ..Specials::default() };
    let options = DataOptions { chat, specials: add, ..DataOptions::default() };
    let problem = read_options(ASKED, &tokenizer(), options).unwrap_err().to_string();
    assert!(problem.ends_with("so `--add-eos` cannot apply"), "{problem}");
}

#[test]
fn names_of_turns_in_other_forms_are_understood() {
    let row = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": null}]}"#;
    let (found, report) = rendered(CHATML, row, None).expect("sound");
    let (same, _) = rendered(CHATML, ASKED, None).expect("sound");
    assert_eq!(ids(&found, 0), ids(&same, 0));
    assert_eq!(report.chat.expect("conversations").renamed, 1);
    let chosen = r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}]}"#
        .replace('\n', "");
    let (found, _) = rendered(CHATML, &chosen, None).expect("sound");
    assert_eq!((ids(&found, 0), targets(&found, 0)), (ids(&same, 0), "b<|im_end|>\n".into()));
    assert!(found.metadata(0).contains_key("rejected"));
    let whole =
        r#"{"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": []}"#;
    assert_eq!(ids(&rendered(CHATML, whole, None).expect("sound").0, 0), ids(&same, 0));
    let texts = r#"{"prompt": "a", "chosen": " b", "rejected": " c"}"#;
    assert_eq!(targets(&rendered(CHATML, texts, None).expect("sound").0, 0), " b");
    let both = r#"{"prompt": "a", "messages": [{"role": "user", "content": "ab"}]}"#;
    assert!(rendered(CHATML, both, None).expect("sound").0.metadata(0).contains_key("prompt"));
}

#[test]
fn what_is_no_conversation_is_named() {
    for (row, expected) in [
        (r#"{"messages": []}"#, "`messages` is empty, expected at least one message"),
        (r#"{"messages": "hello"}"#, "`messages` is a string, expected an array of messages"),
        (
            r#"{"messages": ["hello"]}"#,
            "`messages[0]` is a string, expected a message: an object with `role` and `content`",
        ),
        (r#"{"messages": [{"content": "a"}]}"#, "`messages[0]` has no `role`\nthe message has `content`"),
        (r#"{"messages": [{"role": 3, "content": "a"}]}"#, "`messages[0].role` is an integer, expected a string"),
        (
            r#"{"messages": [{"role": "user", "content": null}]}"#,
            "`messages[0]` has no `content`\nthe message has `role`",
        ),
        (
            r#"{"messages": [{"role": "user", "content": 5}]}"#,
            "`messages[0].content` is an integer, expected a string or an array of parts with `text`",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]}"#,
            "`messages[0].content[1]` is of type \"image\", and only texts are read\nremove the row, or the part",
        ),
        (
            r#"{"messages": [{"role": "u", "content": "a"}], "conversations": [{}]}"#,
            "both `messages` and `conversations`",
        ),
        (r#"{"prompt": [{"role": "u", "content": "a"}]}"#, "`prompt` without `completion`"),
        (
            r#"{"prompt": [{"role": "u", "content": "a"}], "completion": "b"}"#,
            "`completion` is a string, expected an array of messages",
        ),
        (r#"{"messages": [{"role": "u", "content": "a"}], "tools": "{"}"#, "`tools` is a text that is no JSON"),
        (r#"{"chosen": "a"}"#, "`chosen` without `prompt`"),
    ] {
        let problem = refused(CHATML, row, None);
        assert!(problem.starts_with(&format!("x.jsonl:1: {expected}")), "{problem}");
    }
}

#[test]
fn targets_that_are_not_there_are_refused() {
    let user = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    assert_eq!(
        refused(CHATML, user, Some(LossOn::Assistant)),
        "x.jsonl:1: no turn of the assistant has a token, and only such turns have loss\nthe turns are those of `user`; \
         `--loss-on all` has loss on every token"
    );
    assert!(refused(CHATML, user, Some(LossOn::Last)).contains("the last turn is that of `user`"));
    // This template shows what was thought in the last turn alone, so that no prefix is one.
    let forgets = "{% for m in messages %}{{ m.role + (' (last)' if loop.last else '') + m.content }}{% endfor %}";
    let problem =
        refused(forgets, &ASKED.replace("]}", r#", {"role": "user", "content": "c"}]}"#), Some(LossOn::Assistant));
    assert!(problem.contains("where the assistant's turn 1 begins or ends cannot be told"), "{problem}");
    assert!(problem.contains("`{% generation %}`") && problem.contains("--loss-on last"), "{problem}");
    assert!(
        refused(CHATML, r#"{"text": "ab"}"#, Some(LossOn::Assistant)).contains("no turns for a loss on `assistant`")
    );
}

#[test]
fn templates_that_fail_or_never_end_are_stopped() {
    for (template, expected) in [
        (
            "{{ raise_exception('no\n\u{1b}[31m ' ~ messages[0].role) }}",
            "x.jsonl:1: the chat template t.jinja refuses the conversation: no\\n\\u{1b}[31m user\ntraining with this",
        ),
        (
            "{% macro m() %}{{ raise_exception('inner') }}{% endmacro %}{% generation %}{{ m() }}{% endgeneration %}",
            "x.jsonl:1: the chat template t.jinja refuses the conversation: inner\n",
        ),
        ("\n\n{{ messages[0].content + 3 }}", "x.jsonl:1: the chat template t.jinja fails: invalid operation"),
        ("{{ messages[0].nothing.more }}", "x.jsonl:1: the chat template t.jinja fails: undefined value"),
        ("{{ messages[0].content.explode() }}", "x.jsonl:1: the chat template t.jinja fails: unknown method"),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
            "x.jsonl:1: the chat template t.jinja does not end: it was stopped after 4194304 steps\n",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "x.jsonl:1: the chat template t.jinja fails: "),
        (
            "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
            "x.jsonl:1: the chat template t.jinja writes more than 8388608 bytes\n",
        ),
        ("{% include 'other' %}", "x.jsonl:1: the chat template t.jinja cannot be used: "),
    ] {
        let problem = refused(template, ASKED, None);
        assert!(problem.starts_with(expected), "{template}: {problem}");
    }
    let lines = refused("\n\n{{ messages[0].content + 3 }}", ASKED, None);
    assert!(lines.contains("line 3 of the template"), "{lines}");
}

/// As Jinja in Python prints it. Templates of Qwen and Nemotron ask `tools is iterable and tools | length > 0`.
#[test]
fn what_is_iterable_is_so_in_python() {
    let asked = "{{ [none is iterable, nothing is iterable, 'ab' is iterable, [1] is iterable, {} is iterable, \
                 3 is iterable, true is iterable, range(2) is iterable] }}";
    let (found, _) = rendered(asked, ASKED, None).expect("sound");
    let expected = "[False, True, True, True, True, False, False, True]";
    let tokens = |text: &str| {
        let text = serde_json::json!({"text": text}).to_string();
        let specials = Specials { from_tokenizer: FromTokenizer::None, ..Specials::default() };
        let options = DataOptions { specials, ..DataOptions::default() };
        ids(&read_options(&text, &tokenizer(), options).expect("sound").0, 0)
    };
    assert_eq!(ids(&found, 0), tokens(expected));
    let tools =
        "{% if tools is iterable and tools | length > 0 %}{{ tools | length }}{% endif %}{{ messages[0].content }} b";
    assert_eq!(ids(&rendered(tools, ASKED, None).expect("sound").0, 0), tokens("a b"));
}

#[test]
fn a_day_is_told_and_said() {
    let template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}";
    let today = rendered(template, ASKED, None).expect("sound").1.chat.expect("a conversation").today;
    assert!(today.is_some());
    assert_eq!(rendered(CHATML, ASKED, None).expect("sound").1.chat.expect("a conversation").today, None);
    assert!(refused("{{ strftime_now('%Q') }}", ASKED, None).contains("`strftime_now` of `%Q`"));
}

/// A run of TRL with `assistant_only_loss`, recorded with the data next to the checkout, where that is there.
#[test]
fn tokens_and_labels_are_those_of_a_recorded_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/zoo/data-chat-jinja");
    let Ok(recorded) = fs::read_to_string(folder.join("tokens.json")) else { return };
    let recorded: Value = serde_json::from_str(&recorded).expect("JSON");
    let tokenizer = Arc::new(Tokenizer::find(&folder.join("checkpoint-80"), None).expect("its tokenizer"));
    for (file, part) in [("train.jsonl", "train"), ("queries.jsonl", "queries")] {
        let rows = fs::read_to_string(folder.join(file)).expect("rows");
        let chat = ChatOptions { loss_on: Some(LossOn::Assistant), ..ChatOptions::default() };
        let options = DataOptions { chat, ..DataOptions::default() };
        let (found, _) = read_options(&rows, &tokenizer, options).expect("sound");
        let expected = recorded[part].as_array().expect("a list");
        assert_eq!(found.len(), expected.len());
        for (i, row) in expected.iter().enumerate() {
            assert_eq!(ids(&found, i), integers(&row["input_ids"]), "{file}, row {i}");
            assert_eq!(labels(&found, i), integers(&row["labels"]), "{file}, row {i}");
        }
    }
}
