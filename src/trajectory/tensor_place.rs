//! Where a tensor lies in a torch file: its storage, type, shape and strides, checked before anything is read.
//!
//! # Source
//! torch's `serialization.py` and `_utils.py`, which write and read these files.

use super::pickle::{Elements, Value};
use super::torch_error::TorchProblem;
use crate::attribution::stored_numbers::FloatType;

const MAX_AXES: usize = 16;

/// The number type of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// bfloat16.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Byte.
    U8,
    /// `bool`, one byte.
    Bool,
}

impl NumberType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }

    fn of_dtype(name: &str) -> Option<Self> {
        Some(match name {
            "float64" => Self::F64,
            "float32" => Self::F32,
            "float16" => Self::F16,
            "bfloat16" => Self::Bf16,
            "int64" => Self::I64,
            "int32" => Self::I32,
            "int16" => Self::I16,
            "int8" => Self::I8,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            _ => return None,
        })
    }

    pub(super) fn number(self, bytes: &[u8]) -> f64 {
        fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
            bytes.try_into().expect("the caller cuts numbers of this type's size")
        }
        match self {
            Self::F64 => FloatType::F64.number(bytes),
            Self::F32 => FloatType::F32.number(bytes),
            Self::F16 => FloatType::F16.number(bytes),
            Self::Bf16 => FloatType::Bf16.number(bytes),
            Self::I64 => i64::from_le_bytes(array(bytes)) as f64,
            Self::I32 => i32::from_le_bytes(array(bytes)).into(),
            Self::I16 => i16::from_le_bytes(array(bytes)).into(),
            Self::I8 => i8::from_le_bytes(array(bytes)).into(),
            Self::U8 | Self::Bool => bytes[0].into(),
        }
    }
}

/// Where a tensor lies in a file: checked against its storage's stated size, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// The type of its numbers.
    pub number_type: NumberType,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) offset: usize,
    pub(super) key: String,
    /// Numbers in the storage.
    pub(super) elements: usize,
}

impl TensorPlace {
    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        // Other sizes of an empty tensor are not bounded by its storage.
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }
}

/// Decodes the call that rebuilds a tensor.
pub(super) fn place(value: Value<'_>) -> Result<TensorPlace, TorchProblem> {
    let not_tensor = || TorchProblem::NotTensor {
        what: match value.global() {
            Some((module, name)) if value.is_object() => format!("a `{module}.{name}`"),
            _ => format!("a {}", value.kind()),
        },
    };
    let (Some(mut function), Some(mut arguments)) = (value.global(), value.arguments()) else {
        return Err(not_tensor());
    };
    // A parameter or a subclass wraps the call that makes the tensor; nothing wraps more than twice.
    for _ in 0..4 {
        let argument = |i: usize| arguments.get(i).ok_or_else(not_tensor);
        match function {
            ("torch._utils", "_rebuild_tensor_v2") => return strided(arguments, None).ok_or_else(not_tensor)?,
            ("torch._utils", "_rebuild_tensor_v3") => {
                let (module, name) = argument(6)?.global().ok_or_else(not_tensor)?;
                let number = NumberType::of_dtype(name).filter(|_| module == "torch");
                let number = number.ok_or_else(|| TorchProblem::StorageType { storage: format!("{module}.{name}") })?;
                return strided(arguments, Some(number)).ok_or_else(not_tensor)?;
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                let inner = argument(0)?;
                let (Some(f), Some(a)) = (inner.global(), inner.arguments()) else { return Err(not_tensor()) };
                (function, arguments) = (f, a);
            }
            ("torch._tensor", "_rebuild_from_type_v2") => {
                let (Some(f), Some(a)) = (argument(0)?.global(), argument(2)?.elements()) else {
                    return Err(not_tensor());
                };
                (function, arguments) = (f, a);
            }
            ("torch._utils", "_rebuild_qtensor") => {
                return Err(TorchProblem::StorageType { storage: "a quantised tensor".to_string() });
            }
            _ => return Err(not_tensor()),
        }
    }
    Err(not_tensor())
}

/// Decodes `(storage, offset, size, stride, …)`; `None` if they are not that.
fn strided(arguments: Elements<'_>, dtype: Option<NumberType>) -> Option<Result<TensorPlace, TorchProblem>> {
    let storage = arguments.get(0)?.persistent()?.elements()?;
    if storage.get(0)?.as_str()? != "storage" {
        return None;
    }
    let (module, class) = storage.get(1)?.global()?;
    let (key, count) = (storage.get(2)?.as_str()?.to_string(), storage.get(4)?.as_usize()?);
    let (number_type, elements) = match (dtype, NumberType::of_storage(class)) {
        // An untyped storage counts bytes.
        (Some(number), _) if class == "UntypedStorage" => (number, count / number.size()),
        (None, Some(number)) if matches!(module, "torch" | "torch.cuda") => (number, count),
        _ => return Some(Err(TorchProblem::StorageType { storage: format!("{module}.{class}") })),
    };
    let offset = arguments.get(1)?.as_usize()?;
    let sizes = |i: usize| arguments.get(i)?.elements()?.iter().map(Value::as_usize).collect::<Option<Vec<_>>>();
    let (shape, strides) = (sizes(2)?, sizes(3)?);
    if !lies_within(&shape, &strides, offset, elements) {
        return Some(Err(TorchProblem::Bounds { shape, strides, offset, elements }));
    }
    Some(Ok(TensorPlace { number_type, shape, strides, offset, key, elements }))
}

/// Whether every index is inside the storage and the tensor has no more elements than it: a stride of 0 may repeat
/// one number endlessly.
fn lies_within(shape: &[usize], strides: &[usize], offset: usize, elements: usize) -> bool {
    if shape.len() != strides.len() || shape.len() > MAX_AXES {
        return false;
    }
    if shape.contains(&0) {
        return true;
    }
    let mut last = Some(offset);
    let mut count = Some(1usize);
    for (&n, &stride) in shape.iter().zip(strides) {
        count = count.and_then(|count| count.checked_mul(n));
        last = last.and_then(|last| last.checked_add((n - 1).checked_mul(stride)?));
    }
    last.is_some_and(|last| last < elements) && count.is_some_and(|count| count <= elements)
}

/// Row-major elements; `at` reads the storage's element of an index.
pub(super) fn gather<T>(tensor: &TensorPlace, at: impl Fn(usize) -> T) -> Vec<T> {
    let n = tensor.n_elements();
    if n == 0 {
        return Vec::new();
    }
    let mut contiguous = Vec::with_capacity(tensor.shape.len());
    let mut step = 1;
    for &size in tensor.shape.iter().rev() {
        contiguous.push(step);
        step *= size;
    }
    contiguous.reverse();
    if tensor.strides == contiguous {
        return (tensor.offset..tensor.offset + n).map(at).collect();
    }
    let mut index = vec![0; tensor.shape.len()];
    let mut values = Vec::with_capacity(n);
    for _ in 0..n {
        values.push(at(tensor.offset + index.iter().zip(&tensor.strides).map(|(i, s)| i * s).sum::<usize>()));
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < tensor.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn place_of(shape: &[usize], strides: &[usize], offset: usize, elements: usize) -> TensorPlace {
        TensorPlace {
            number_type: NumberType::F64,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            offset,
            key: "0".to_string(),
            elements,
        }
    }

    #[test]
    fn strides_are_followed() {
        // The transpose of a [4, 3] matrix that starts at element 2.
        let place = place_of(&[3, 4], &[1, 3], 2, 14);
        let got = gather(&place, |at| at);
        let mut expected = Vec::new();
        for i in 0..3 {
            for j in 0..4 {
                expected.push(2 + i + 3 * j);
            }
        }
        assert_eq!(got, expected);
        assert_eq!(gather(&place_of(&[], &[], 5, 6), |at| at), [5]);
        let empty = gather(&place_of(&[usize::MAX, 2, 0], &[1, 1, 1], 0, 0), |at| at);
        assert!(empty.is_empty());
    }

    #[test]
    fn tensors_outside_their_storage_are_refused() {
        assert!(lies_within(&[3, 4], &[4, 1], 0, 12));
        assert!(!lies_within(&[3, 4], &[4, 1], 1, 12));
        assert!(!lies_within(&[3, 4], &[5, 1], 0, 13));
        assert!(!lies_within(&[1 << 40], &[0], 0, 12), "one number repeated endlessly");
        assert!(!lies_within(&[usize::MAX, usize::MAX], &[usize::MAX, 1], 0, 12));
        assert!(!lies_within(&[2], &[usize::MAX], 1, 12));
        assert!(!lies_within(&[2, 2], &[2], 0, 12));
        assert!(!lies_within(&[1; 17], &[1; 17], 0, 12));
        assert!(!lies_within(&[], &[], 12, 12));
    }

    #[test]
    fn numbers_of_every_type() {
        use NumberType as T;
        assert_eq!(T::F64.number(&(-2.5f64).to_le_bytes()), -2.5);
        assert_eq!(T::F32.number(&0.1f32.to_le_bytes()), f64::from(0.1f32));
        assert_eq!(T::F16.number(&f16::from_f32(0.5).to_le_bytes()), 0.5);
        assert_eq!(T::Bf16.number(&bf16::from_f32(-3.0).to_le_bytes()), -3.0);
        assert_eq!(T::I64.number(&(-7i64).to_le_bytes()), -7.0);
        assert_eq!(T::I32.number(&(1i32 << 20).to_le_bytes()), 1048576.0);
        assert_eq!(T::I16.number(&(-300i16).to_le_bytes()), -300.0);
        assert_eq!((T::I8.number(&[0xff]), T::U8.number(&[0xff]), T::Bool.number(&[1])), (-1.0, 255.0, 1.0));
    }
}
