//! The choice between a fused and a composed block, and what fused blocks check of their input.

use candle_core::{DType, Tensor};

pub(super) use ascribe_curvature::contiguous as elements;

/// How a block is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// One custom op: `f32` on the CPU only.
    Fused,
    /// candle's ops, for every type and device.
    Composed,
}

impl Implementation {
    /// The one to use for `x`: fused for `f32` on the CPU, composed otherwise.
    pub fn of(x: &Tensor) -> Self {
        if x.dtype() == DType::F32 && x.device().is_cpu() { Self::Fused } else { Self::Composed }
    }
}

/// Refuses a soft cap that is not a positive number.
pub(super) fn check_soft_cap(what: &str, cap: f64) -> candle_core::Result<()> {
    if cap.is_finite() && cap > 0.0 {
        return Ok(());
    }
    candle_core::bail!("{what} cannot be capped softly at {cap}, which is not a positive number")
}
