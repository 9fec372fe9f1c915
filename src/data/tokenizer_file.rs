//! What is checked of a `tokenizer.json` before the tokenizers library reads it.
//!
//! The library takes some files that it cannot use, and panics at the first text. Those are named here, with the
//! part of the file that is wrong.

use serde::Deserialize;
use serde_json::Value;

/// The most bytes of a `tokenizer.json`. The largest in use, with 256,000 tokens and their merges, have 35 MB.
pub(super) const FILE_LIMIT: u64 = 128 << 20;

/// How many times as long a normalizer may make a text. The compatibility forms of Unicode reach 11.
const GROWTH_LIMIT: u64 = 1024;

/// The parts of the file that say what is done to a text. The vocabulary is read by the library alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
}

/// What a sound file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checked {
    /// How many times as long the normalizer makes a text, at most.
    pub(super) growth: u64,
}

/// Refuses what is no JSON and what the library would panic at.
pub(super) fn check(bytes: &[u8]) -> Result<Checked, Box<dyn std::error::Error + Send + Sync>> {
    let parts: Parts = serde_json::from_slice(bytes)?;
    for (name, part) in [
        ("normalizer", &parts.normalizer),
        ("pre_tokenizer", &parts.pre_tokenizer),
        ("post_processor", &parts.post_processor),
        ("decoder", &parts.decoder),
    ] {
        walk(part, &mut |object: &Value| match object["type"].as_str() {
            Some("Replace") if pattern(object) == Some("") => {
                Err(format!("`{name}` has a `Replace` with an empty pattern"))
            }
            Some("TemplateProcessing") => template(object).map_err(|problem| format!("`{name}` {problem}")),
            _ => Ok(()),
        })?;
    }
    let growth = growth(&parts.normalizer);
    if growth > GROWTH_LIMIT {
        let problem = format!("its `normalizer` can make a text {growth} times as long, {GROWTH_LIMIT} times at most");
        return Err(problem.into());
    }
    Ok(Checked { growth })
}

/// Calls `check` on every object, at any depth; the parser bounds the depth.
fn walk(value: &Value, check: &mut impl FnMut(&Value) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            check(value)?;
            fields.values().try_for_each(|field| walk(field, check))
        }
        Value::Array(items) => items.iter().try_for_each(|item| walk(item, check)),
        _ => Ok(()),
    }
}

/// Every special token that a template puts somewhere must be one that it defines.
fn template(object: &Value) -> Result<(), String> {
    for form in ["single", "pair"] {
        for piece in object[form].as_array().into_iter().flatten() {
            if let Some(id) = piece["SpecialToken"]["id"].as_str().filter(|id| object["special_tokens"][*id].is_null())
            {
                let id: String = id.chars().take(80).collect();
                return Err(format!(
                    "puts the token `{id}` into its template `{form}`, which `special_tokens` does not define"
                ));
            }
        }
    }
    Ok(())
}

fn pattern(replace: &Value) -> Option<&str> {
    let pattern = &replace["pattern"];
    pattern["String"].as_str().or_else(|| pattern["Regex"].as_str())
}

/// How many times as many bytes a text can have behind a normalizer.
fn growth(normalizer: &Value) -> u64 {
    match normalizer["type"].as_str() {
        Some("Sequence") => {
            let parts = normalizer["normalizers"].as_array().into_iter().flatten();
            parts.map(growth).fold(1, u64::saturating_mul)
        }
        Some("Replace") => {
            let content = normalizer["content"].as_str().map_or(0, str::len) as u64;
            match normalizer["pattern"]["String"].as_str() {
                Some(pattern) => content.div_ceil(pattern.len().max(1) as u64).max(1),
                // An expression may match a single byte, and also the place before it.
                None => 2 * content + 1,
            }
        }
        // U+FDFA has 3 bytes, its compatibility form 33.
        Some("NFKC" | "NFKD") => 11,
        // A table of the file's own; those of SentencePiece hold compatibility forms.
        Some("Precompiled") => 32,
        Some("NFD" | "NFC" | "Lowercase" | "BertNormalizer") => 4,
        Some("ByteLevel") => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        check(text.as_bytes()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_the_library_panics_at_is_refused_before() {
        for (text, said) in [
            (r#"{"decoder":{"type" 1"#, "expected `:` at line 1 column 20"),
            (r#"{"decoder":{"type":"Byte"#, "EOF while parsing a string at line 1 column 24"),
            (
                r#"{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<x>","type_id":0}}],
                    "special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}}}"#,
                "`post_processor` puts the token `<x>` into its template `single`, which `special_tokens` does not define",
            ),
            (
                r#"{"post_processor":{"type":"Sequence","processors":[{"type":"TemplateProcessing","pair":[
                    {"Sequence":{"id":"A"}},{"SpecialToken":{"id":"<x>"}}]}]}}"#,
                "`post_processor` puts the token `<x>` into its template `pair`, which `special_tokens` does not define",
            ),
            (
                r#"{"normalizer":{"type":"Sequence","normalizers":[{"type":"Replace","pattern":{"String":""},"content":"a"}]}}"#,
                "`normalizer` has a `Replace` with an empty pattern",
            ),
            (
                r#"{"decoder":{"type":"Replace","pattern":{"Regex":""},"content":"a"}}"#,
                "`decoder` has a `Replace` with an empty pattern",
            ),
        ] {
            assert_eq!(problem(text), said, "{text}");
        }
    }

    #[test]
    fn a_normalizer_may_not_blow_a_text_up() {
        let replace = |pattern: &str, content: &str| {
            format!(r#"{{"type":"Replace","pattern":{{"String":"{pattern}"}},"content":"{content}"}}"#)
        };
        let sequence =
            |parts: &[String]| format!(r#"{{"normalizer":{{"type":"Sequence","normalizers":[{}]}}}}"#, parts.join(","));
        let found = check(sequence(&[replace(" ", "\u{2581}"), replace("ab", "abcde"), replace("abc", "")]).as_bytes());
        assert_eq!(found.expect("as SentencePiece has it").growth, 9);
        let doubling = vec![replace("a", "aa"); 11];
        assert_eq!(
            problem(&sequence(&doubling)),
            "its `normalizer` can make a text 2048 times as long, 1024 times at most"
        );
        assert!(check(sequence(&doubling[1..]).as_bytes()).is_ok());
        assert!(problem(&sequence(&[replace("a", &"b".repeat(2000))])).contains("2000 times"));
        assert!(problem(&sequence(&vec![replace("a", &"b".repeat(100)); 40])).contains("times as long"), "saturates");
    }
}
