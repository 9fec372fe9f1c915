//! Texts with a label each: what is read, and what is refused of a line.

use super::*;
use serde_json::json;

const PAIRS: &str = r#"{"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
             {"SpecialToken": {"id": "</s>", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                       "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}}"#;

fn labels(outputs: usize, task: Task) -> Labels {
    let names = vec![("no".to_owned(), 0), ("yes".to_owned(), 1)];
    Labels { outputs, task: Some(task), names, token_types: Some(2), end: None }
}

fn read(
    lines: &[serde_json::Value],
    labels: Labels,
    max_length: Option<usize>,
) -> Result<(Dataset, ReadReport), DataError> {
    let text = lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let options = DataOptions { labels: Some(Arc::new(labels)), max_length, ..DataOptions::default() };
    read_as(&text, Format::JsonLines, Some(&tokenizer(PAIRS).tokenizer), options)
}

fn inputs(dataset: &Dataset) -> (Vec<u32>, Option<Vec<u32>>) {
    match batch(dataset, 0..dataset.len()).inputs {
        Inputs::Tokens(inputs) => (inputs.ids, inputs.types),
        Inputs::Rows(_) => panic!("tokens"),
    }
}

#[test]
fn texts_and_pairs_have_the_tokenizers_form() {
    let lines = [
        json!({"text": "ab", "label": "yes", "topic": "x"}),
        json!({"text": "a", "text_pair": "bc", "label": 0}),
        json!({"input_ids": [3, 2, 4, 0], "attention_mask": [0, 1, 1, 1], "token_type_ids": [1, 0, 1, 1], "labels": 1}),
    ];
    let (dataset, report) = read(&lines, labels(2, Task::Classification), None).expect("sound");
    let (ids, types) = inputs(&dataset);
    assert_eq!(ids, [0, 6, 1, 0, 2, 1, 3, 4, 1, 2, 4, 0]);
    assert_eq!(types, Some(vec![0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 1]));
    assert_eq!(batch(&dataset, 0..3).targets, Targets::Classes(vec![1, 0, 1]));
    assert_eq!((report.examples, report.targets, report.tokens), (3, 3, 12));
    assert_eq!(report.first.last(), Some(&(" → 1".to_owned(), true)));
    assert_eq!(dataset.metadata(0), *json!({"topic": "x"}).as_object().expect("an object"));
    assert_eq!(dataset.excerpt(1, 20), "a|bc");
    let without = Labels { token_types: None, ..labels(2, Task::Classification) };
    assert_eq!(inputs(&read(&lines, without, None).expect("sound").0).1, None, "the model has no table of types");
}

/// What differs in its label or in the texts of a pair is another example.
#[test]
fn keys_are_of_tokens_types_and_labels() {
    let line = |types: [u32; 2], label: u32| json!({"input_ids": [2, 3], "token_type_ids": types, "label": label});
    let lines = [line([0, 1], 0), line([0, 1], 0), line([0, 1], 1), line([0, 0], 0)];
    let lines: Vec<_> = lines
        .into_iter()
        .enumerate()
        .map(|(n, mut line)| {
            line["id"] = json!(n);
            line
        })
        .collect();
    let dataset = read(&lines, labels(2, Task::Classification), None).expect("sound").0;
    assert_eq!(dataset.key(0), dataset.key(1));
    assert_ne!(dataset.key(0), dataset.key(2));
    assert_ne!(dataset.key(0), dataset.key(3));
}

/// A text that is cut keeps the special tokens around it, and the longer one of a pair loses first.
#[test]
fn cut_texts_keep_their_special_tokens() {
    let lines = [json!({"text": "cccc", "label": 0}), json!({"text": "c", "text_pair": "aaaa", "label": 0})];
    let (dataset, report) = read(&lines, labels(2, Task::Classification), Some(5)).expect("sound");
    let (ids, types) = inputs(&dataset);
    assert_eq!(ids, [0, 4, 4, 4, 1, 0, 4, 1, 2, 1]);
    assert_eq!(types.expect("a pair")[5..], [0, 0, 0, 1, 1]);
    assert_eq!((report.cut, report.longest, report.longest_before_cut), (2, 5, 8));
}

#[test]
fn several_labels_and_values() {
    let lines = [json!({"text": "a", "label": [1, 0, 0.25]}), json!({"text": "b", "label": [0.0, 1.0, 1.0]})];
    let (dataset, _) = read(&lines, labels(3, Task::MultiLabel), None).expect("sound");
    let values = vec![1.0, 0.0, 0.25, 0.0, 1.0, 1.0];
    assert_eq!(batch(&dataset, 0..2).targets, Targets::Labels { values, width: 3 });
    let lines = [json!({"text": "a", "label": 2}), json!({"text": "b", "label": [-0.5]})];
    let (dataset, _) = read(&lines, labels(1, Task::Regression), None).expect("sound");
    assert_eq!(batch(&dataset, 0..2).targets, Targets::Values { values: vec![2.0, -0.5], width: 1 });
}

#[test]
fn what_is_no_label_is_named_with_its_line() {
    let fine = json!({"text": "a", "label": 0});
    let classes = || labels(2, Task::Classification);
    for (line, labels, problem) in [
        (json!({"text": "a"}), classes(), "no `label`, and the model classifies texts"),
        (json!({"text": "a", "label": null, "stars": 2}), classes(), "no `label`, and the model classifies texts"),
        (json!({"label": 1}), classes(), "no `text` and no `input_ids`"),
        (json!({"text": "a", "label": 2}), classes(), "the label is 2, but the model has 2 classes"),
        (json!({"text": "a", "label": -1}), classes(), "the label is -1, but the model has 2 classes"),
        (json!({"text": "a", "label": "maybe"}), classes(), "the label is \"maybe\", which is no name of a class"),
        (json!({"text": "a", "label": 0.5}), classes(), "`label` is a number with a fraction, expected a class"),
        (json!({"text": "a", "label": 0, "labels": 1}), classes(), "both `label` and `labels`"),
        (json!({"text": "a", "input_ids": [1], "label": 0}), classes(), "both `text` and `input_ids`"),
        (json!({"text_pair": "a", "label": 0}), classes(), "`text_pair` without `text`"),
        (json!({"text": 3, "label": 0}), classes(), "`text` is an integer, expected a string"),
        (json!({"input_ids": [2, 3], "token_type_ids": [0, 2], "label": 0}), classes(), "token 1 is of type 2, but"),
        (json!({"input_ids": [2, 3], "token_type_ids": [0], "label": 0}), classes(), "`token_type_ids` is a list"),
        (json!({"text": "aaaaaaaaaaaa", "label": 0}), classes(), "14 tokens, but the model has 8 positions"),
    ] {
        let error = read(&[fine.clone(), line], labels, None).map(drop).expect_err(problem);
        let text = error.to_string();
        assert!(text.starts_with(&format!("x.jsonl:2: {problem}")), "{text}");
    }
    let several = |label| json!({"text": "a", "label": label});
    for (label, task, problem) in [
        (json!([1, 0]), Task::MultiLabel, "`label` has 2 numbers, and the model gives 3"),
        (json!([1, 0, 2]), Task::MultiLabel, "`label` has 2, expected a list of 0 and 1"),
        (json!(1), Task::MultiLabel, "`label` is an integer, expected a list"),
        (json!(["a", 1, 1]), Task::Regression, "`label` has \"a\", expected a number"),
    ] {
        let text = read(&[several(label)], labels(3, task), None).map(drop).expect_err(problem).to_string();
        assert!(text.starts_with(&format!("x.jsonl:1: {problem}")), "{text}");
    }
    let packed = DataOptions { labels: Some(Arc::new(classes())), pack: Some(4), ..DataOptions::default() };
    let error = read_as("", Format::JsonLines, None, packed).map(drop).expect_err("packed").to_string();
    assert_eq!(error, "x.jsonl: texts with labels cannot be packed");
    let plain = DataOptions { labels: Some(Arc::new(classes())), ..DataOptions::default() };
    let error = read_as("ab", Format::Text, Some(&tokenizer(PAIRS).tokenizer), plain)
        .map(drop)
        .expect_err("no label")
        .to_string();
    assert!(error.contains("no `label`"), "{error}");
}
