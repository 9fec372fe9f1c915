//! Rows of numbers or images with targets, from a safetensors file: `inputs` `[n, d]` or `[n, channels, height, width]`,
//! and `targets`.

use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use super::dataset::{Dataset, Kind};
use super::error::DataError;
use super::example::Examples;
use super::read_report::ReadReport;
use super::row_dataset::{Inputs, RowDataset, digest};
use super::row_shape::RowShape;
use super::targets::{Targets, Task};
use crate::foreign_file;

/// The most bytes of a file of rows, which is held in memory as a whole.
const ROWS_LIMIT: u64 = 8 << 30;

/// What the model takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimits {
    /// What it reads of an example.
    pub inputs: RowShape,
    /// Numbers that the last layer writes: classes, or regression outputs.
    pub outputs: usize,
    /// What they mean.
    pub task: Task,
}

/// Reads a safetensors file with `inputs` (f32, or u8 with `inputs_scale` in the metadata) of the shape
/// `[n, inputs]`, or `[n, channels, height, width]` for images, and `targets`: integers `[n]` for classes, f32
/// `[n, outputs]` (or `[n]` for one output) for a regression. An example's id is its row, from 0; other tensors `[n]`
/// become metadata. Where a file has neither name, `pixel_values` and `labels` are taken for them, as transformers calls
/// them.
///
/// # Errors
/// [`DataError`] names the file, the tensor and the row.
pub fn read_rows(file: &Path, limits: RowLimits) -> Result<(Dataset, ReadReport), DataError> {
    let bytes =
        foreign_file::read(file, ROWS_LIMIT).map_err(|source| DataError::Read { file: file.to_owned(), source })?;
    read_rows_from(&bytes, file, limits)
}

/// As [`read_rows`], from bytes in memory; `file` is their name in messages.
///
/// # Errors
/// As [`read_rows`].
pub fn read_rows_from(bytes: &[u8], file: &Path, limits: RowLimits) -> Result<(Dataset, ReadReport), DataError> {
    let broken = |source| DataError::Safetensors { file: file.to_owned(), source };
    let tensors = SafeTensors::deserialize(bytes).map_err(broken)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let scale = header.metadata().as_ref().and_then(|metadata| metadata.get("inputs_scale"));
    let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
    names.sort();
    let tensor = |[key, other]: [&'static str; 2]| {
        let key = if tensors.tensor(key).is_err() && tensors.tensor(other).is_ok() { other } else { key };
        let missing = |_| DataError::MissingTensor { file: file.to_owned(), key, found: names.clone() };
        Ok((key, tensors.tensor(key).map_err(missing)?))
    };

    let (of_inputs, view) = tensor(["inputs", "pixel_values"])?;
    let Some((&n, shape)) = view.shape().split_first().filter(|(_, example)| limits.inputs.fits(example)) else {
        return Err(input_shape(file, of_inputs, &view, limits));
    };
    // what the library has checked to be the tensor's bytes
    let width = shape.iter().product();
    if n == 0 {
        return Err(DataError::Empty { file: file.to_owned() });
    }
    let inputs = read_inputs(file, of_inputs, &view, scale, width)?;
    let (of_targets, view) = tensor(["targets", "labels"])?;
    let targets = read_targets(file, of_targets, &view, n, limits)?;
    let columns = names
        .iter()
        .filter(|name| ![of_inputs, of_targets].contains(&name.as_str()))
        .filter_map(|name| Some((name.clone(), column(&tensors.tensor(name).ok()?, n)?)))
        .collect();

    let (shape, positions) = (shape.to_vec(), limits.inputs.positions(shape));
    let mut rows = RowDataset {
        examples: Examples::new("rows"),
        shape,
        positions,
        inputs,
        targets,
        columns,
        names: vec![],
        classes: vec![],
    };
    for row in 0..n {
        let digest = digest(&rows.shape, rows.inputs(row..row + 1).into_iter(), &rows.targets(row..row + 1));
        rows.examples.push(&row.to_string(), &Map::new(), digest);
    }
    let report = ReadReport::of_rows(n, positions, rows.excerpt(0, 80));
    Ok((Dataset::new(Kind::Rows(rows)), report))
}

fn input_shape(file: &Path, key: &'static str, view: &TensorView<'_>, limits: RowLimits) -> DataError {
    let expected = limits.inputs.to_string();
    DataError::TensorShape { file: file.to_owned(), key, found: view.shape().to_vec(), expected }
}

fn read_inputs(
    file: &Path,
    key: &'static str,
    view: &TensorView<'_>,
    scale: Option<&String>,
    width: usize,
) -> Result<Inputs, DataError> {
    let bad_scale = |expected| DataError::InputsScale { file: file.to_owned(), found: scale.cloned(), expected };
    match view.dtype() {
        Dtype::F32 if scale.is_some() => {
            Err(bad_scale("`inputs_scale` is for u8; store f32 inputs as the network sees them"))
        }
        Dtype::F32 => Ok(Inputs::F32(finite(file, key, view, width)?)),
        Dtype::U8 => {
            let scale = scale
                .and_then(|text| text.trim().parse::<f64>().ok())
                .filter(|scale| *scale > 0.0 && (scale * 255.0) as f32 <= f32::MAX)
                .ok_or_else(|| {
                    bad_scale("u8 inputs need a positive number in the header's metadata; 1 leaves them as they are")
                })?;
            Ok(Inputs::U8 { bytes: view.data().to_vec(), scale })
        }
        other => Err(DataError::TensorType {
            file: file.to_owned(),
            key,
            found: format!("{other:?}"),
            expected: "f32, or u8 with `inputs_scale`",
        }),
    }
}

fn read_targets(
    file: &Path,
    key: &'static str,
    view: &TensorView<'_>,
    n: usize,
    limits: RowLimits,
) -> Result<Targets, DataError> {
    let shape = |expected: String| DataError::TensorShape {
        file: file.to_owned(),
        key,
        found: view.shape().to_vec(),
        expected,
    };
    let dtype =
        |expected| DataError::TensorType { file: file.to_owned(), key, found: format!("{:?}", view.dtype()), expected };
    match limits.task {
        Task::Classification => {
            let classes = integers(view).ok_or_else(|| dtype("i64, i32 or u8 classes"))?;
            if view.shape() != [n] {
                return Err(shape(format!("[{n}]")));
            }
            let class = |(row, &class): (usize, &i64)| {
                let range =
                    || DataError::ClassRange { file: file.to_owned(), key, row, class, classes: limits.outputs };
                u32::try_from(class).ok().filter(|&class| (class as usize) < limits.outputs).ok_or_else(range)
            };
            classes.iter().enumerate().map(class).collect::<Result<_, _>>().map(Targets::Classes)
        }
        Task::Regression | Task::MultiLabel => {
            if view.dtype() != Dtype::F32 {
                return Err(dtype("f32 values"));
            }
            let width = limits.outputs;
            match *view.shape() {
                [rows] if rows == n && width == 1 => {}
                [rows, outputs] if rows == n && outputs == width => {}
                _ => return Err(shape(format!("[{n}, {width}]"))),
            }
            let values = finite(file, key, view, width)?;
            Ok(if limits.task == Task::MultiLabel {
                Targets::Labels { values, width }
            } else {
                Targets::Values { values, width }
            })
        }
    }
}

/// All numbers of an f32 tensor with rows of `width`, none of them NaN or infinite.
fn finite(file: &Path, key: &'static str, view: &TensorView<'_>, width: usize) -> Result<Vec<f32>, DataError> {
    let values = floats(view.data());
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(DataError::NonFinite { file: file.to_owned(), key, row: at / width, value: values[at] }),
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

fn integers(view: &TensorView<'_>) -> Option<Vec<i64>> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::I64 => Some(bytes.as_chunks().0.iter().map(|&eight| i64::from_le_bytes(eight)).collect()),
        Dtype::I32 => Some(bytes.as_chunks().0.iter().map(|&four| i64::from(i32::from_le_bytes(four))).collect()),
        Dtype::U8 => Some(bytes.iter().map(|&byte| i64::from(byte)).collect()),
        _ => None,
    }
}

/// A tensor with one number for each row, as JSON values. Other tensors are not the examples'.
fn column(view: &TensorView<'_>, n: usize) -> Option<Vec<Value>> {
    if view.shape() != [n] {
        return None;
    }
    match view.dtype() {
        Dtype::F32 => Some(floats(view.data()).into_iter().map(Value::from).collect()),
        _ => Some(integers(view)?.into_iter().map(Value::from).collect()),
    }
}
