//! Queries of two completions of one prompt.

use super::*;

fn read_queries(text: &str, options: DataOptions) -> Result<(Dataset, ReadReport), DataError> {
    let tokenizer = tokenizer(ADDS_NOTHING).tokenizer;
    let (file, role) = (Path::new("x.jsonl"), Role::Queries);
    read_tokens_from(text.as_bytes(), file, Format::JsonLines, role, Some(&tokenizer), LIMITS, options)
}

#[test]
fn both_completions_are_read_behind_the_prompt() {
    let text = r#"{"prompt": "ab", "chosen": "c", "rejected": "ca", "topic": 1}
{"prompt": "ab", "completion": "c"}"#;
    let (dataset, report) = read_queries(text, DataOptions::default()).expect("sound");
    assert_eq!((report.contrasts, dataset.len()), (1, 2));
    let found = tokens(&dataset);
    assert_eq!(found.tokens(0), [6, 4, 6, 4, 2]);
    assert_eq!(found.predicted(0).collect::<Vec<_>>(), [Some(4), None, Some(4), Some(2), None]);
    assert_eq!((found.second(0), found.second(1)), (Some(2), None));
    assert_eq!(dataset.excerpt(0, 80), "ab|c | rather than | ca");
    assert_eq!(dataset.metadata(0).len(), 1);
    let batch = batch(&dataset, 0..2);
    let contrasts = batch.contrasts.expect("a contrast");
    assert_eq!(contrasts.sequences.iter().collect::<Vec<_>>(), [0..2, 2..5, 5..7]);
    assert_eq!(contrasts.signs().collect::<Vec<_>>(), [(0, 1.0), (0, -1.0), (1, 1.0)]);
}

#[test]
fn training_examples_are_the_chosen_completion() {
    let (dataset, report) =
        read(r#"{"prompt": "ab", "chosen": "ca", "rejected": "c"}"#, DataOptions::default()).expect("sound");
    assert_eq!((report.contrasts, tokens(&dataset).second(0)), (0, None));
    let (same, _) =
        read(r#"{"prompt": "ab", "completion": "ca", "rejected": "c"}"#, DataOptions::default()).expect("sound");
    assert_eq!(tokens(&dataset).tokens(0), tokens(&same).tokens(0));
    assert_eq!(dataset.metadata(0), same.metadata(0));
}

#[test]
fn contrasts_without_meaning_are_refused() {
    let of = |text: &str| complaint(read_queries(text, DataOptions::default()));
    assert!(of(r#"{"prompt": "ab", "chosen": "c"}"#).contains("`chosen` without `rejected`"));
    assert!(of(r#"{"prompt": "ab", "rejected": "c"}"#).contains("`rejected` without `chosen`"));
    assert!(of(r#"{"prompt": "ab", "chosen": "c", "rejected": "c"}"#).contains("have the same tokens"));
    let both = r#"{"prompt": "ab", "chosen": "ca", "rejected": "cb"}"#;
    let cut = DataOptions { max_length: Some(2), ..DataOptions::default() };
    assert!(complaint(read_queries(both, cut)).contains("the same tokens after the cut"));
    let labels = Labels { outputs: 2, task: Some(Task::Classification), names: vec![], token_types: None, end: None };
    let classes = DataOptions { labels: Some(Arc::new(labels)), ..DataOptions::default() };
    assert!(complaint(read_queries(both, classes)).contains("but the model classifies texts"));
}
