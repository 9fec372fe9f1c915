//! Norms of decoders, on disk and in memory.

use super::LoadError;
use super::parameters::{Source, Stored, StoredTensor};
use crate::curvature::Traced;
use crate::nn::{LayerNorm, RmsNorm};

/// A norm with parameters of its own.
pub(super) trait Norm {
    /// `[R, D]` to `[R, D]`.
    fn trace(&self, x: &Traced) -> candle_core::Result<Traced>;
}

impl Norm for LayerNorm {
    fn trace(&self, x: &Traced) -> candle_core::Result<Traced> {
        self.trace(x)
    }
}

impl Norm for RmsNorm {
    fn trace(&self, x: &Traced) -> candle_core::Result<Traced> {
        self.trace(x)
    }
}

/// A [`LayerNorm`] with a bias.
#[derive(Debug)]
pub(super) struct StoredLayerNorm {
    weight: StoredTensor,
    bias: StoredTensor,
    epsilon: f64,
}

impl StoredLayerNorm {
    pub(super) fn new(source: &Source, name: &str, width: usize, epsilon: f64) -> Result<Self, LoadError> {
        let tensor = |part: &str| source.tensor(&format!("{name}.{part}"), &[width]);
        Ok(Self { weight: tensor("weight")?, bias: tensor("bias")?, epsilon })
    }
}

impl Stored for StoredLayerNorm {
    type Value = LayerNorm;

    fn read(&self) -> Result<LayerNorm, LoadError> {
        Ok(LayerNorm { weight: self.weight.read()?, bias: Some(self.bias.read()?), epsilon: self.epsilon })
    }
}

/// An [`RmsNorm`] whose weight is the factor itself.
#[derive(Debug)]
pub(super) struct StoredRmsNorm {
    weight: StoredTensor,
    epsilon: f64,
}

impl StoredRmsNorm {
    pub(super) fn new(source: &Source, name: &str, width: usize, epsilon: f64) -> Result<Self, LoadError> {
        Ok(Self { weight: source.tensor(&format!("{name}.weight"), &[width])?, epsilon })
    }
}

impl Stored for StoredRmsNorm {
    type Value = RmsNorm;

    fn read(&self) -> Result<RmsNorm, LoadError> {
        Ok(RmsNorm { weight: self.weight.read()?, epsilon: self.epsilon, offset: 0.0 })
    }
}
