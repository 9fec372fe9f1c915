//! Rows of numbers.

use std::collections::HashMap;

use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::json;

use super::*;

const CLASSES: RowLimits = RowLimits { inputs: RowShape::Numbers(3), outputs: 4, task: Task::Classification };
const VALUES: RowLimits = RowLimits { inputs: RowShape::Numbers(3), outputs: 2, task: Task::Regression };

type Part<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

/// Tensors, `inputs_scale`, the model, and the message and hint that they earn.
type Case<'a> = (Vec<Part<'a>>, Option<&'a str>, RowLimits, &'a str, &'a str);

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn file(parts: &[Part<'_>], scale: Option<&str>) -> Vec<u8> {
    let views = parts.iter().map(|(name, dtype, shape, data)| {
        (*name, TensorView::new(*dtype, shape.clone(), data).expect("bytes of the shape"))
    });
    let metadata = scale.map(|scale| HashMap::from([("inputs_scale".to_owned(), scale.to_owned())]));
    serialize(views, metadata).expect("sound tensors")
}

fn read(bytes: &[u8], limits: RowLimits) -> Result<(Dataset, ReadReport), DataError> {
    read_rows_from(bytes, Path::new("x.safetensors"), limits)
}

fn inputs(values: &[f32]) -> Part<'static> {
    ("inputs", Dtype::F32, vec![values.len() / 3, 3], f32s(values))
}

fn classes(values: &[i64]) -> Part<'static> {
    ("targets", Dtype::I64, vec![values.len()], i64s(values))
}

#[test]
fn classes_and_scaled_bytes() {
    let bytes = ("inputs", Dtype::U8, vec![2, 3], vec![0, 1, 255, 3, 4, 5]);
    let parts = [bytes, classes(&[3, 0]), ("source_row", Dtype::I64, vec![2], i64s(&[70, 80]))];
    let (dataset, report) = read(&file(&parts, Some("0.00392156862745098")), CLASSES).expect("sound");
    let Batch { inputs: Inputs::Rows(rows), targets, positions, .. } = batch(&dataset, 0..2) else { panic!("tokens") };
    // The f32 next to byte/255, as PyTorch's division of the bytes gives it.
    assert_eq!(rows.values, [0.0, 1.0, 255.0, 3.0, 4.0, 5.0].map(|byte: f32| byte / 255.0));
    assert_eq!((rows.shape, targets), (vec![3], Targets::Classes(vec![3, 0])));
    assert!(positions.all_single());
    assert_eq!((dataset.id(1), dataset.positions(1)), ("1", 1));
    assert_eq!(dataset.metadata(1), *json!({"source_row": 80}).as_object().expect("an object"));
    assert_eq!(dataset.excerpt(0, 100), "row 0, target 3");
    assert_eq!((report.examples, report.targets, report.first), (2, 2, vec![("row 0, target 3".into(), true)]));
    assert_eq!(batches(&dataset, 0..2, 1).count(), 2);

    let same = [inputs(&rows.values), classes(&[3, 0])];
    let (same, _) = read(&file(&same, None), CLASSES).expect("sound");
    assert_eq!(same.content_hash(), dataset.content_hash(), "the numbers count, not how they are stored");
    let (other, _) = read(&file(&[inputs(&rows.values), classes(&[2, 0])], None), CLASSES).expect("sound");
    assert_ne!(other.key(0), dataset.key(0));
    assert_eq!(other.key(1), dataset.key(1));
}

#[test]
fn values_of_one_or_more_outputs() {
    let targets = ("targets", Dtype::F32, vec![2, 2], f32s(&[0.5, -1.0, 2.0, 3.5]));
    let (dataset, _) = read(&file(&[inputs(&[1.0; 6]), targets], None), VALUES).expect("sound");
    assert_eq!(batch(&dataset, 1..2).targets, Targets::Values { values: vec![2.0, 3.5], width: 2 });
    assert_eq!(dataset.excerpt(1, 100), "row 1, target 2 3.5");
    let flat = ("targets", Dtype::F32, vec![2], f32s(&[0.5, -1.0]));
    let (dataset, _) =
        read(&file(&[inputs(&[1.0; 6]), flat], None), RowLimits { outputs: 1, ..VALUES }).expect("sound");
    assert_eq!(batch(&dataset, 0..2).targets, Targets::Values { values: vec![0.5, -1.0], width: 1 });
}

#[test]
fn broken_rows_are_named() {
    let fine = inputs(&[1.0; 6]);
    let cases: Vec<Case<'_>> = vec![
        (vec![fine.clone()], None, CLASSES, "x.safetensors: no tensor `targets`", "the file has `inputs`"),
        (vec![], None, CLASSES, "x.safetensors: no tensor `inputs`", "the file has no tensors"),
        (
            vec![inputs(&[]), classes(&[])],
            None,
            CLASSES,
            "x.safetensors: no examples",
            "a data file needs at least one example",
        ),
        (
            vec![("inputs", Dtype::F32, vec![1, 4], f32s(&[0.0; 4])), classes(&[1])],
            None,
            CLASSES,
            "x.safetensors: `inputs` has the shape [1, 4], expected [n, 3]",
            "is this the data of another model?",
        ),
        (
            vec![("inputs", Dtype::F32, vec![3], f32s(&[0.0; 3])), classes(&[1])],
            None,
            CLASSES,
            "x.safetensors: `inputs` has the shape [3], expected [n, 3]",
            "is this the data of another model?",
        ),
        (
            vec![("inputs", Dtype::F64, vec![1, 3], vec![0; 24]), classes(&[1])],
            None,
            CLASSES,
            "x.safetensors: `inputs` is F64, expected f32, or u8 with `inputs_scale`",
            "convert it to f32, or u8 with `inputs_scale`",
        ),
        (
            vec![inputs(&[0.0, 1.0, 2.0, 3.0, f32::NAN, 5.0]), classes(&[1, 1])],
            None,
            CLASSES,
            "x.safetensors: row 1 of `inputs` holds NaN",
            "remove the row or fill its missing values",
        ),
        (
            vec![fine.clone(), classes(&[1, 4])],
            None,
            CLASSES,
            "x.safetensors: row 1 of `targets` is 4, but the model has 4 classes",
            "classes count from 0 to 3",
        ),
        (
            vec![fine.clone(), classes(&[-100, 1])],
            None,
            CLASSES,
            "x.safetensors: row 0 of `targets` is -100, but the model has 4 classes",
            "classes count from 0 to 3",
        ),
        (
            vec![fine.clone(), classes(&[1])],
            None,
            CLASSES,
            "x.safetensors: `targets` has the shape [1], expected [2]",
            "is this the data of another model?",
        ),
        (
            vec![fine.clone(), ("targets", Dtype::F32, vec![2], f32s(&[0.0; 2]))],
            None,
            CLASSES,
            "x.safetensors: `targets` is F32, expected i64, i32 or u8 classes",
            "convert it to i64, i32 or u8 classes",
        ),
        (
            vec![fine.clone(), classes(&[1, 2])],
            None,
            VALUES,
            "x.safetensors: `targets` is I64, expected f32 values",
            "convert it to f32 values",
        ),
        (
            vec![fine.clone(), ("targets", Dtype::F32, vec![2], f32s(&[0.0; 2]))],
            None,
            VALUES,
            "x.safetensors: `targets` has the shape [2], expected [2, 2]",
            "is this the data of another model?",
        ),
        (
            vec![fine.clone(), ("targets", Dtype::F32, vec![2, 2], f32s(&[0.0, 0.0, f32::INFINITY, 0.0]))],
            None,
            VALUES,
            "x.safetensors: row 1 of `targets` holds inf",
            "remove the row or fill its missing values",
        ),
        (
            vec![("inputs", Dtype::U8, vec![1, 3], vec![0; 3]), classes(&[1])],
            None,
            CLASSES,
            "x.safetensors: `inputs_scale` is missing",
            "u8 inputs need a positive number in the header's metadata; 1 leaves them as they are",
        ),
        (
            vec![("inputs", Dtype::U8, vec![1, 3], vec![0; 3]), classes(&[1])],
            Some("1/255"),
            CLASSES,
            "x.safetensors: `inputs_scale` is `1/255`",
            "u8 inputs need a positive number in the header's metadata; 1 leaves them as they are",
        ),
        (
            vec![fine, classes(&[1, 1])],
            Some("0.5"),
            CLASSES,
            "x.safetensors: `inputs_scale` is `0.5`",
            "`inputs_scale` is for u8; store f32 inputs as the network sees them",
        ),
    ];
    for (parts, scale, limits, message, hint) in cases {
        assert_eq!(complaint(read(&file(&parts, scale), limits)), format!("{message}\n{hint}"));
    }
}

#[test]
fn broken_headers_are_named() {
    let whole = file(&[inputs(&[1.0; 6]), classes(&[1, 2])], None);
    let lies = String::from_utf8_lossy(&whole[8..]).replace("[2,3]", "[2,9]");
    let lies = [&whole[..8], lies.as_bytes()].concat();
    for bytes in [&whole[..whole.len() - 1], &whole[..20], &[], &[0xff; 16], &lies] {
        let message = complaint(read(bytes, CLASSES));
        let expected =
            "x.safetensors: broken safetensors file\nis the file complete? write it again with the safetensors library";
        assert_eq!(message, expected);
    }
    assert!(read(&whole, CLASSES).is_ok());
}

#[test]
fn no_soup_panics() {
    let whole = file(&[inputs(&[1.0; 6]), classes(&[1, 2])], Some("1"));
    let config = ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() };
    proptest!(config, |(at in 0..whole.len(), byte in any::<u8>(), end in 0..=whole.len())| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        for limits in [CLASSES, VALUES] {
            if let Ok((dataset, _)) = read(&bytes, limits) {
                batch(&dataset, 0..dataset.len());
            }
            let _ = read(&bytes[..end], limits);
        }
    });
}
