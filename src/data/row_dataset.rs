//! Rows of numbers or images with their targets, in memory.

use std::ops::Range;

use serde_json::{Map, Value};

use super::example::Examples;
use super::excerpt::one_line;
use super::targets::Targets;

/// Rows of numbers with their targets.
#[derive(Debug)]
pub struct RowDataset {
    pub(super) examples: Examples,
    /// The shape of an example.
    pub(super) shape: Vec<usize>,
    /// Positions that the model has of an example.
    pub(super) positions: usize,
    pub(super) inputs: Inputs,
    pub(super) targets: Targets,
    /// Further tensors with one number for each row: metadata.
    pub(super) columns: Vec<(String, Vec<Value>)>,
}

/// Inputs as the file has them: images in bytes stay bytes.
#[derive(Debug)]
pub(super) enum Inputs {
    F32(Vec<f32>),
    U8 { bytes: Vec<u8>, scale: f64 },
}

impl RowDataset {
    /// Numbers in a row, I.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape of a row: one size, or channels, height and width of an image.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Positions that the model has of a row.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The rows `range` as the network sees them, `[B, I]`.
    pub fn inputs(&self, range: Range<usize>) -> Vec<f32> {
        let numbers = range.start * self.width()..range.end * self.width();
        match &self.inputs {
            Inputs::F32(values) => values[numbers].to_vec(),
            // In f64, so that a scale of 1/255 gives the f32 nearest to byte/255.
            Inputs::U8 { bytes, scale } => bytes[numbers].iter().map(|&b| (f64::from(b) * scale) as f32).collect(),
        }
    }

    /// Targets of the rows `range`.
    pub fn targets(&self, range: Range<usize>) -> Targets {
        self.targets.of(range)
    }

    /// The rows at these places, without their metadata.
    pub(super) fn sample(&self, places: &[usize]) -> Self {
        fn gather<T: Copy>(values: &[T], places: &[usize], width: usize) -> Vec<T> {
            places.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
        }
        let inputs = match &self.inputs {
            Inputs::F32(values) => Inputs::F32(gather(values, places, self.width())),
            Inputs::U8 { bytes, scale } => Inputs::U8 { bytes: gather(bytes, places, self.width()), scale: *scale },
        };
        Self {
            examples: self.examples.sample(places),
            shape: self.shape.clone(),
            positions: self.positions,
            inputs,
            targets: self.targets.at(places),
            columns: vec![],
        }
    }

    pub(super) fn examples(&self) -> &Examples {
        &self.examples
    }

    pub(super) fn metadata(&self, i: usize) -> Map<String, Value> {
        self.columns.iter().map(|(name, values)| (name.clone(), values[i].clone())).collect()
    }

    pub(super) fn excerpt(&self, i: usize, max_chars: usize) -> String {
        one_line(&format!("row {i}, target {}", self.targets(i..i + 1).text()), max_chars)
    }
}
