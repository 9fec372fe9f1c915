//! Whole files through the readers.

mod as_trl;
mod broken;
mod contrasts;
mod faults;
mod foreign;
mod forms;
mod labelled;
mod masked;
mod pictures;
mod reading;
mod recorded;
mod releases;
mod reported;
mod rows;
mod split;
mod tokenizers;

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::Hint;

/// Limits of a model with the small tokenizer's vocabulary.
const LIMITS: ModelLimits = ModelLimits { vocabulary: 12, max_positions: Some(8), decoder: None, masked: None };

/// A byte-level BPE with eleven tokens, `<s>` (0) and `</s>` (1) among them, and a post-processor as JSON.
fn write_tokenizer(folder: &Path, post_processor: &str) {
    let text = format!(
        r#"{{"version": "1.0", "truncation": {{"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}},
        "padding": null, "added_tokens": [
            {{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}},
            {{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}}],
        "normalizer": null,
        "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
        "post_processor": {post_processor},
        "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
        "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {{"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "Ġ": 5, "ab": 6, "Ġab": 7, "Ã": 8, "¶": 9, "ĠĠ": 10}},
            "merges": ["a b", "Ġ ab", "Ġ Ġ"]}}}}"#
    );
    std::fs::write(folder.join("tokenizer.json"), text).expect("writable");
    let config = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}}"#;
    std::fs::write(folder.join("tokenizer_config.json"), config).expect("writable");
}

const ADDS_NOTHING: &str =
    r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}"#;
const ADDS_BOS: &str = r#"{"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}"#;
const ADDS_EOS: &str = r#"{"type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}}"#;

/// A tokenizer and the folder it lives in, where its special tokens are looked up.
struct Small {
    _folder: tempfile::TempDir,
    tokenizer: Arc<Tokenizer>,
}

fn tokenizer(post_processor: &str) -> Small {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_tokenizer(folder.path(), post_processor);
    let tokenizer = Arc::new(Tokenizer::find(folder.path(), None).expect("a sound tokenizer"));
    Small { _folder: folder, tokenizer }
}

fn read_as(
    text: impl AsRef<[u8]>,
    format: Format,
    tokenizer: Option<&Arc<Tokenizer>>,
    options: DataOptions,
) -> Result<(Dataset, ReadReport), DataError> {
    read_tokens_from(text.as_ref(), Path::new("x.jsonl"), format, Role::Train, tokenizer, LIMITS, options)
}

fn read(text: impl AsRef<[u8]>, options: DataOptions) -> Result<(Dataset, ReadReport), DataError> {
    read_as(text, Format::JsonLines, Some(&tokenizer(ADDS_NOTHING).tokenizer), options)
}

fn add(add_bos: Which, add_eos: Which) -> DataOptions {
    DataOptions { specials: Specials { add_bos, add_eos, ..Specials::default() }, ..DataOptions::default() }
}

fn tokens(dataset: &Dataset) -> &TokenDataset {
    match dataset.kind() {
        Kind::Tokens(tokens) => tokens,
        Kind::Rows(_) => panic!("rows"),
    }
}

/// Message and hint, one below the other.
fn complaint<T>(result: Result<T, DataError>) -> String {
    let error = result.err().expect("an error");
    format!("{error}\n{}", error.hint().unwrap_or_default())
}
