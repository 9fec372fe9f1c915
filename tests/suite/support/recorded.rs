//! Numbers that other programs wrote.

use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors};

/// A safetensors file, its numbers in `f64`.
pub struct Recorded(Vec<u8>);

/// One tensor of it.
#[derive(Debug, Clone)]
pub struct Numbers {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Recorded {
    pub fn open(file: &Path) -> Self {
        Self(std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("a safetensors file")
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors().names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The tensor, if it was recorded.
    pub fn find(&self, name: &str) -> Option<Numbers> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).ok()?;
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            Dtype::F32 => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f64()).collect(),
            Dtype::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
            Dtype::I32 => data.as_chunks().0.iter().map(|&b| f64::from(i32::from_le_bytes(b))).collect(),
            Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("`{name}` holds {other:?}"),
        };
        Some(Numbers { shape: view.shape().to_vec(), values })
    }

    /// The tensor.
    pub fn get(&self, name: &str) -> Numbers {
        self.find(name).unwrap_or_else(|| panic!("no tensor `{name}`"))
    }

    /// Its numbers.
    pub fn values(&self, name: &str) -> Vec<f64> {
        self.get(name).values
    }

    /// An entry of the file's metadata.
    pub fn metadata(&self, key: &str) -> String {
        let (_, header) = SafeTensors::read_metadata(&self.0).expect("a safetensors file");
        header.metadata().as_ref().expect("metadata")[key].clone()
    }

    /// The only number of a tensor.
    pub fn number(&self, name: &str) -> f64 {
        self.values(name)[0]
    }
}
