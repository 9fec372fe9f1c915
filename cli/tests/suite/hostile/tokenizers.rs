//! Broken `tokenizer.json` files.

use std::fs;

use serde_json::{Value, json};

use crate::hostile::models::dry_run;
use crate::hostile::runner::Case;
use crate::support::root;

const FILE: &str = "tokenizer.json";

fn content(name: &str, content: impl AsRef<[u8]> + Send + Sync + 'static) -> Case {
    Case::refused(format!("tokenizer: {name}"), FILE, move |folder| {
        let model = folder.copy_of("gpt2-tiny");
        fs::write(folder.path("gpt2-tiny").join(FILE), &content).expect("writable");
        dry_run(&model)
    })
}

fn original() -> Value {
    let file = root().join("fixtures/gpt2-tiny/tokenizer.json");
    serde_json::from_slice(&fs::read(file).expect("a fixture")).expect("JSON")
}

fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Case {
    let mut value = original();
    change(&mut value);
    content(name, value.to_string())
}

fn template(token: &str, id: u64) -> Value {
    json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [id], "tokens": ["<s>"]}},
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        content("empty", ""),
        content("no JSON", "\u{1b}[31m"),
        content("an empty object", "{}"),
        content("an array", "[]"),
        content("no UTF-8", b"\xff\xfe".as_slice()),
        content("deeply nested", "[".repeat(100_000)),
        content("a decoder without a colon", "{\"decoder\":{\"type\" 1"),
        changed("no model", |value| drop(value.as_object_mut().expect("an object").remove("model"))),
        changed("a model that is null", |value| value["model"] = Value::Null),
        changed("an unknown kind of model", |value| value["model"]["type"] = json!("\u{1b}[2JXPE")),
        changed("a vocabulary that is a list", |value| value["model"]["vocab"] = json!(["a", "b"])),
        changed("negative ids", |value| value["model"]["vocab"]["zz"] = json!(-1)),
        changed("ids beyond 32 bits", |value| value["model"]["vocab"]["zz"] = json!(1_u64 << 40)),
        changed("a merge of unknown tokens", |value| {
            value["model"]["merges"] = json!([["\u{202e}q", "zzz\nerror: x"]])
        }),
        changed("a merge of three", |value| value["model"]["merges"] = json!(["a b c"])),
        changed("an unknown normalizer", |value| value["normalizer"] = json!({"type": "Shout"})),
        changed("a normalizer that replaces nothing", |value| {
            value["normalizer"] = json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
        }),
        changed("a normalizer with a broken pattern", |value| {
            value["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "("}, "content": "x"});
        }),
        changed("a pre-tokenizer with a broken pattern", |value| {
            value["pre_tokenizer"] =
                json!({"type": "Split", "pattern": {"Regex": "[z-a]"}, "behavior": "Isolated", "invert": false});
        }),
        changed("an unknown pre-tokenizer", |value| value["pre_tokenizer"] = json!({"type": "Guess"})),
        changed("a template with a token that does not exist", |value| value["post_processor"] = template("<none>", 0)),
        changed("an added token without content", |value| value["added_tokens"] = json!([{"id": 0}])),
        Case::refused("tokenizer: absent", FILE, |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny").join(FILE)).expect("there");
            dry_run(&model)
        }),
        Case::refused("tokenizer: a circle of links is not absent", "Too many levels", |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny").join(FILE)).expect("there");
            std::os::unix::fs::symlink(FILE, folder.path("gpt2-tiny").join(FILE)).expect("new");
            let mut arguments = dry_run(&model);
            arguments.push("--quiet".into());
            arguments
        })
        .and(FILE),
        Case::refused("tokenizer: a name that forges an error", "nowhere", |folder| {
            let mut arguments = dry_run(&folder.copy_of("gpt2-tiny"));
            arguments.extend(["--tokenizer".to_owned(), folder.arg("nowhere\nerror: forged\u{9b}1m")]);
            arguments
        }),
        Case::refused("tokenizer: a pipe", FILE, |folder| {
            let model = folder.copy_of("gpt2-tiny");
            crate::hostile::models::pipe(folder, "gpt2-tiny/tokenizer.json");
            dry_run(&model)
        }),
    ];
    let text = fs::read(root().join("fixtures/gpt2-tiny/tokenizer.json")).expect("a fixture");
    for at in [1, 50, 400, 700, 900, 1100, 2000, 10_000] {
        cases.push(content(&format!("cut after {at} bytes"), text[..at].to_vec()));
    }
    cases
}
