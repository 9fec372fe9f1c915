//! Floating-point numbers as files of others hold them, such as weights, optimizer states and scores: little-endian, one
//! behind the other.

use half::{bf16, f16};
use rayon::prelude::*;

/// A type of stored floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// bfloat16.
    Bf16,
}

/// The bytes of one number, which the caller has cut to its size.
fn bytes_of<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller cuts numbers of this type's size")
}

/// Every number of some bytes, in their order.
fn each<const N: usize, T: Send>(bytes: &[u8], number: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    bytes.par_chunks_exact(N).map(|bytes| number(bytes_of(bytes))).collect()
}

impl FloatType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// One number of [`FloatType::size`] bytes.
    pub fn number(self, bytes: &[u8]) -> f64 {
        match self {
            Self::F64 => f64::from_le_bytes(bytes_of(bytes)),
            Self::F32 => f32::from_le_bytes(bytes_of(bytes)).into(),
            Self::F16 => f16::from_le_bytes(bytes_of(bytes)).into(),
            Self::Bf16 => bf16::from_le_bytes(bytes_of(bytes)).into(),
        }
    }

    /// Many numbers, rounded to `f32` if they are stored as `f64`.
    pub fn singles(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }

    /// Many numbers; every type's are exact in `f64`.
    pub fn doubles(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::F64 => each(bytes, f64::from_le_bytes),
            Self::F32 => each(bytes, |bytes| f32::from_le_bytes(bytes).into()),
            Self::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).into()),
            Self::Bf16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).into()),
        }
    }

    /// A number as this type holds it.
    pub fn rounded(self, number: f64) -> f64 {
        match self {
            Self::F64 => number,
            Self::F32 => f64::from(number as f32),
            Self::F16 => f16::from_f64(number).to_f64(),
            Self::Bf16 => bf16::from_f64(number).to_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number that 16 bits hold: read alone and among others, as `f32` and as `f64`.
    #[test]
    fn one_number_and_many_are_decoded_alike() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for kind in [FloatType::F16, FloatType::Bf16] {
            let (singles, doubles) = (kind.singles(&all), kind.doubles(&all));
            assert_eq!((singles.len(), doubles.len()), (1 << 16, 1 << 16));
            for (at, bytes) in all.chunks_exact(kind.size()).enumerate() {
                let one = kind.number(bytes);
                assert_eq!(one.to_bits(), doubles[at].to_bits(), "{kind:?} {at:04x}");
                assert!(f64::from(singles[at]) == one || (singles[at].is_nan() && one.is_nan()), "{kind:?} {at:04x}");
                assert!(kind.rounded(one) == one || one.is_nan(), "{kind:?} {at:04x}");
            }
        }
    }

    /// 1/3 by hand: the significands have 11, 8, 24 and 53 bits.
    #[test]
    fn numbers_are_rounded_to_their_type() {
        let third = 1.0 / 3.0;
        assert_eq!(FloatType::F16.rounded(third), 1365.0 / 4096.0);
        assert_eq!(FloatType::Bf16.rounded(third), 171.0 / 512.0);
        assert_eq!(FloatType::F32.rounded(third), 11184811.0 / 33554432.0);
        assert_eq!(FloatType::F64.rounded(third), third);
        let bytes = third.to_le_bytes();
        assert_eq!(FloatType::F64.singles(&bytes), [1.0f32 / 3.0]);
        assert_eq!(FloatType::F64.doubles(&bytes), [third]);
        assert_eq!(FloatType::F32.doubles(&0.1f32.to_le_bytes()), [f64::from(0.1f32)]);
    }
}
