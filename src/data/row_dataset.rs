//! Rows of numbers or images with their targets, in memory.

use std::ops::Range;

use ascribe_attribution::store::LongArray;
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
    /// What images are called; none of rows and of files of numbers, an empty name where an image has none.
    pub(super) names: Vec<Box<str>>,
    /// Names of classes in their order, as far as they have any.
    pub(super) classes: Vec<String>,
}

/// Inputs as the file has them: images in bytes stay bytes.
#[derive(Debug)]
pub(super) enum Inputs {
    F32(Vec<f32>),
    U8 {
        bytes: Vec<u8>,
        scale: f64,
    },
    /// Images in bytes, each a plane of pixels for every channel; of a channel's bytes the network sees `byte · factor +
    /// shift`.
    Pixels {
        bytes: LongArray<u8>,
        plane: usize,
        scales: Vec<(f64, f64)>,
    },
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

    /// Bytes that the inputs take in memory; what lies in a file takes none that it must keep.
    pub fn input_bytes(&self) -> usize {
        match &self.inputs {
            Inputs::F32(values) => 4 * values.len(),
            Inputs::U8 { bytes, .. } => bytes.len(),
            Inputs::Pixels { bytes, .. } => {
                if bytes.is_in_memory() {
                    bytes.len()
                } else {
                    0
                }
            }
        }
    }

    /// Lets what lies in files leave the memory.
    pub(super) fn forget(&self) {
        self.examples.forget();
        if let Inputs::Pixels { bytes, .. } = &self.inputs {
            bytes.forget();
        }
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
            Inputs::Pixels { bytes, plane, scales } => {
                bytes.passed(numbers.clone());
                seen(&bytes[numbers], *plane, scales).collect()
            }
        }
    }

    /// Targets of the rows `range`.
    pub fn targets(&self, range: Range<usize>) -> Targets {
        self.targets.of(range)
    }

    /// Whether row `i` has the inputs and the target of row `j` of another dataset.
    pub(super) fn has_contents_of(&self, i: usize, other: &Self, j: usize) -> bool {
        let bits = |of: &Self, i: usize| of.inputs(i..i + 1).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        self.shape == other.shape
            && self.targets(i..i + 1).bytes() == other.targets(j..j + 1).bytes()
            && bits(self, i) == bits(other, j)
    }

    /// The rows at these places, without their metadata.
    pub(super) fn sample(&self, places: &[usize]) -> Self {
        fn gather<T: Copy>(values: &[T], places: &[usize], width: usize) -> Vec<T> {
            places.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
        }
        let inputs = match &self.inputs {
            Inputs::F32(values) => Inputs::F32(gather(values, places, self.width())),
            Inputs::U8 { bytes, scale } => Inputs::U8 { bytes: gather(bytes, places, self.width()), scale: *scale },
            Inputs::Pixels { bytes, plane, scales } => Inputs::Pixels {
                bytes: gather(bytes, places, self.width()).into_iter().collect(),
                plane: *plane,
                scales: scales.clone(),
            },
        };
        Self {
            examples: self.examples.sample(places),
            shape: self.shape.clone(),
            positions: self.positions,
            inputs,
            targets: self.targets.at(places),
            columns: vec![],
            names: vec![],
            classes: vec![],
        }
    }

    pub(super) fn examples(&self) -> &Examples {
        &self.examples
    }

    pub(super) fn metadata(&self, i: usize) -> Map<String, Value> {
        let mut own = self.examples.metadata(i);
        own.extend(self.columns.iter().map(|(name, values)| (name.clone(), values[i].clone())));
        own
    }

    pub(super) fn excerpt(&self, i: usize, max_chars: usize) -> String {
        let targets = self.targets(i..i + 1);
        let class = match &targets {
            Targets::Classes(classes) => classes.first().and_then(|&class| self.classes.get(class as usize)),
            _ => None,
        };
        let target = class.cloned().unwrap_or_else(|| targets.text());
        let text = match self.names.get(i).filter(|name| !name.is_empty()) {
            // an image whose name is its id is told apart by that
            Some(name) if **name == *self.examples.id(i) => format!("target {target}"),
            Some(name) => format!("{name}, target {target}"),
            None => format!("row {i}, target {target}"),
        };
        one_line(&text, max_chars)
    }
}

/// What an example is: its shape, the numbers that the network sees and its target. Images in bytes, bytes with a scale and
/// the same numbers in f32 are equal.
pub(super) fn digest(shape: &[usize], numbers: impl Iterator<Item = f32>, target: &Targets) -> blake3::Hash {
    let mut digest = blake3::Hasher::new();
    shape.iter().for_each(|&size| _ = digest.update(&(size as u64).to_le_bytes()));
    let mut content: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
    content.extend(target.bytes());
    digest.update(&content);
    digest.finalize()
}

/// The numbers that a network sees of images whose channels are planes of so many pixels.
pub(super) fn seen(bytes: &[u8], plane: usize, scales: &[(f64, f64)]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(plane).zip(scales.iter().cycle()).flat_map(|(pixels, &(factor, shift))| {
        // in f64, so that the result is the f32 nearest to it
        pixels.iter().map(move |&byte| (f64::from(byte) * factor + shift) as f32)
    })
}
