//! Tensors out of files that a person's own training loop wrote.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::EvaluateError;
use crate::foreign_file;
use crate::stored_numbers::FloatType;

/// The most bytes of a file of masks or outcomes, which is read whole.
const MAX_BYTES: u64 = 1 << 30;

/// A safetensors file in memory. Outcomes and masks are small, so that it is read as a whole.
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Numbers with their shape.
#[derive(Debug)]
pub(super) struct Values<T> {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<T>,
}

impl TensorFile {
    pub(super) fn read(path: &Path) -> Result<Self, EvaluateError> {
        let bytes = foreign_file::read(path, MAX_BYTES).map_err(|source| EvaluateError::Io {
            file: path.to_owned(),
            doing: "read",
            source,
        })?;
        let file = Self { path: path.to_owned(), bytes };
        file.parsed()?;
        Ok(file)
    }

    fn parsed(&self) -> Result<SafeTensors<'_>, EvaluateError> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|source| EvaluateError::Safetensors { file: self.path.clone(), source })
    }

    /// Name and shape of every tensor that [`floats`](Self::floats) reads, by name.
    pub(super) fn float_shapes(&self) -> Result<Vec<(String, Vec<usize>)>, EvaluateError> {
        let parsed = self.parsed()?;
        let floats = parsed
            .iter()
            .filter(|(_, tensor)| matches!(tensor.dtype(), Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64));
        let mut shapes: Vec<_> = floats.map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect();
        shapes.sort();
        Ok(shapes)
    }

    pub(super) fn missing(&self, tensor: &str) -> Result<EvaluateError, EvaluateError> {
        let present = self.names()?;
        Ok(EvaluateError::MissingTensor { file: self.path.clone(), tensor: tensor.to_owned(), present })
    }

    /// Every tensor, by name.
    pub(super) fn names(&self) -> Result<Vec<String>, EvaluateError> {
        let mut names: Vec<String> = self.parsed()?.names().into_iter().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// A tensor of bytes: `U8` or `BOOL`.
    pub(super) fn bytes(&self, name: &str) -> Result<Values<u8>, EvaluateError> {
        let parsed = self.parsed()?;
        let Ok(tensor) = parsed.tensor(name) else { return Err(self.missing(name)?) };
        match tensor.dtype() {
            Dtype::U8 | Dtype::BOOL => Ok(Values { shape: tensor.shape().to_vec(), values: tensor.data().to_vec() }),
            found => Err(self.dtype(name, found, "U8 or BOOL")),
        }
    }

    /// A tensor of any floating-point type, as `f32`; none if the file lacks it.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Values<f32>>, EvaluateError> {
        let parsed = self.parsed()?;
        let Ok(tensor) = parsed.tensor(name) else { return Ok(None) };
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F16 => FloatType::F16.singles(data),
            Dtype::BF16 => FloatType::Bf16.singles(data),
            Dtype::F32 => FloatType::F32.singles(data),
            Dtype::F64 => FloatType::F64.singles(data),
            found => return Err(self.dtype(name, found, "F16, BF16, F32 or F64")),
        };
        Ok(Some(Values { shape: tensor.shape().to_vec(), values }))
    }

    /// A tensor of `I64`; none if the file lacks it.
    pub(super) fn integers(&self, name: &str) -> Result<Option<Values<i64>>, EvaluateError> {
        let parsed = self.parsed()?;
        let Ok(tensor) = parsed.tensor(name) else { return Ok(None) };
        if tensor.dtype() != Dtype::I64 {
            return Err(self.dtype(name, tensor.dtype(), "I64"));
        }
        let values = tensor.data().as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect();
        Ok(Some(Values { shape: tensor.shape().to_vec(), values }))
    }

    fn dtype(&self, tensor: &str, found: Dtype, expected: &'static str) -> EvaluateError {
        EvaluateError::Dtype {
            file: self.path.clone(),
            tensor: tensor.to_owned(),
            found: format!("{found:?}"),
            expected,
        }
    }

    pub(super) fn shape_error(&self, tensor: &str, found: &[usize], expected: impl Into<String>) -> EvaluateError {
        EvaluateError::Shape {
            file: self.path.clone(),
            tensor: tensor.to_owned(),
            found: found.to_vec(),
            expected: expected.into(),
        }
    }
}
