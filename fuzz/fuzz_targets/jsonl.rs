//! Rows of text and tokens in every form of file, with the fixtures' tokenizer: any bytes are a dataset or one error.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use ascribe::data::{DataOptions, Format, ModelLimits, Role, Tokenizer, read_tokens_from};
use libfuzzer_sys::fuzz_target;

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), include_bytes!("../../fixtures/gpt2-tiny/tokenizer.json")).expect("it can be written");
    Arc::new(Tokenizer::load(file.path()).expect("the fixture's tokenizer"))
});

// The first byte chooses the options.
fuzz_target!(|bytes: &[u8]| {
    let Some((choice, lines)) = bytes.split_first() else { return };
    let limits = ModelLimits { vocabulary: 512, max_positions: (choice & 1 == 0).then_some(64), decoder: None, masked: None };
    let max_length = (choice & 2 != 0).then_some(16);
    let pack = (choice & 4 != 0).then_some(8);
    let options = DataOptions { max_length, pack, ..DataOptions::default() };
    let role = if choice & 8 == 0 { Role::Train } else { Role::Queries };
    let format = match (choice >> 4) % 6 {
        0 => Format::JsonLines,
        1 => Format::Text,
        2 => Format::Json,
        3 => Format::Csv,
        4 => Format::Tsv,
        _ => Format::Parquet,
    };
    let read = read_tokens_from(lines, Path::new("fuzz.jsonl"), format, role, Some(&TOKENIZER), limits, options);
    if let Ok((dataset, report)) = read {
        assert_eq!(dataset.len(), report.examples);
        assert!(report.examples > 0 && report.targets < report.tokens);
    }
});
