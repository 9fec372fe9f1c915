//! Files that other programs made, and the tokens that Python finds in them.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;

use super::*;

/// A folder of test data below the workspace, or `None` with a word about what is not tested.
#[allow(clippy::print_stderr)]
fn folder(path: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no {}", folder.display());
    None
}

fn integers(file: &Path, key: &str) -> Vec<usize> {
    let bytes = std::fs::read(file).expect("readable");
    let tensors = SafeTensors::deserialize(&bytes).expect("sound");
    let data = tensors.tensor(key).expect("recorded").data();
    data.as_chunks().0.iter().map(|&eight| i64::from_le_bytes(eight) as usize).collect()
}

#[test]
fn tokens_of_the_fixture_are_those_of_python() {
    let Some(folder) = folder("fixtures/gpt2-tiny") else { return };
    let tokenizer = Arc::new(Tokenizer::find(&folder, None).expect("a tokenizer"));
    let record = std::fs::read(folder.join("tokens.json")).expect("readable");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    let limits = ModelLimits { vocabulary: 512, max_positions: Some(64), decoder: None, masked: None };
    let check = |dataset: &Dataset, i: usize, expected: &Value| {
        let tokens = tokens(dataset);
        assert_eq!(Value::from(tokens.tokens(i)), expected["input_ids"], "{expected}");
        let start = expected["target_start"].as_u64().expect("a number") as usize;
        let is_target: Vec<bool> = (0..tokens.tokens(i).len()).map(|k| k >= start).collect();
        assert_eq!(tokens.is_target(i), is_target, "{expected}");
    };
    for (name, list, role) in [
        ("train", "train", Role::Train),
        ("queries", "queries", Role::Queries),
        ("documents", "documents", Role::Queries),
    ] {
        let file = folder.join(format!("{name}.jsonl"));
        let (dataset, _) =
            read_tokens(&file, role, Some(&tokenizer), limits, add(Which::None, Which::Both)).expect("sound");
        let list = record[list].as_array().expect("a list");
        assert_eq!(dataset.len(), list.len());
        for (i, expected) in list.iter().enumerate() {
            assert_eq!(dataset.id(i), expected["id"]);
            check(&dataset, i, expected);
        }
    }
    for case in record["boundary_cases"].as_array().expect("a list") {
        let line = case.to_string().replace("\"input_ids\"", "\"expected_ids\"");
        let options = add(Which::None, Which::Both);
        let (dataset, report) = read_tokens_from(
            line.as_bytes(),
            Path::new("case.jsonl"),
            Format::JsonLines,
            Role::Train,
            Some(&tokenizer),
            limits,
            options,
        )
        .expect("sound");
        check(&dataset, 0, case);
        assert_eq!(Value::from(report.first.into_iter().map(|(text, _)| text).collect::<Vec<_>>()), case["tokens"]);
    }
}

#[test]
fn token_counts_of_gpt2_mini_are_those_of_python() {
    let Some(folder) = folder("../shared/data/gpt2-mini") else { return };
    let model = folder.join("checkpoint-2520");
    assert!(matches!(Tokenizer::find(&model, None), Err(DataError::NoTokenizer { nearby: Some(_), .. })));
    let tokenizer = Arc::new(Tokenizer::find(&model, Some(&folder.join("tokenizer"))).expect("given"));
    let limits = ModelLimits { vocabulary: 2048, max_positions: Some(128), decoder: None, masked: None };
    let read = |name: &str, role, add_eos, max_length| {
        let options = DataOptions { max_length, ..add(Which::None, add_eos) };
        read_tokens(&folder.join(name), role, Some(&tokenizer), limits, options)
    };
    let targets = |dataset: &Dataset, n: usize| (0..n).map(|i| tokens(dataset).targets(i)).collect::<Vec<_>>();
    let expected = folder.join("expected.safetensors");

    // A document is its tokens and one <|endoftext|>, cut at 128; a question has none.
    let (train, report) = read("train.jsonl", Role::Train, Which::Train, Some(128)).expect("sound");
    assert_eq!((train.len(), report.cut, report.longest), (2016, 2, 128));
    assert_eq!(targets(&train, 32), integers(&expected, "train_tokens_first32"));
    let too_long = complaint(read("train.jsonl", Role::Train, Which::Train, None));
    assert!(
        too_long.ends_with("but the model has 128 positions\n`--max-length 128` cuts longer examples"),
        "{too_long}"
    );
    let (queries, _) = read("query.jsonl", Role::Queries, Which::Both, Some(128)).expect("sound");
    assert_eq!(targets(&queries, 64), integers(&expected, "query_tokens"));
    let (facts, report) = read("facts.jsonl", Role::Queries, Which::Train, None).expect("sound");
    assert_eq!(targets(&facts, 40), integers(&expected, "fact_tokens"));
    assert_eq!(facts.metadata(0)["stated_by"][7], "fact-00-h");
    assert_eq!(facts.excerpt(0, 30), "…lways carries a| heavy stone.");
    assert!(
        report.first.iter().filter(|(_, target)| *target).map(|(text, _)| text.as_str()).eq([" heavy", " stone", "."])
    );
}

#[test]
fn rows_of_the_mlp_sets_are_read() {
    let Some(folder) = folder("../shared/data") else { return };
    let limits = RowLimits { inputs: RowShape::Numbers(784), outputs: 10, task: Task::Classification };
    let (images, _) = read_rows(&folder.join("fashion-mnist-mlp/train.safetensors"), limits).expect("sound");
    assert_eq!(images.len(), 6000);
    let Inputs::Rows(rows) = batch(&images, 5999..6000).inputs else { panic!("tokens") };
    assert!(rows.values.len() == 784 && rows.values.iter().all(|x| (0.0..=1.0).contains(x)));
    let limits = RowLimits { inputs: RowShape::Numbers(8), outputs: 1, task: Task::Regression };
    let (table, _) = read_rows(&folder.join("concrete-mlp/query.safetensors"), limits).expect("sound");
    assert_eq!((table.len(), table.metadata(0).len()), (200, 1));
}
