//! Norms of transformers, on disk and in memory.

use super::error::LoadError;
use super::residence::Stored;
use super::source::{Source, StoredTensor};
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

/// A [`LayerNorm`], with a bias or without, under either pair of names that transformers has had for its parameters.
#[derive(Debug)]
pub(super) struct StoredLayerNorm {
    weight: StoredTensor,
    bias: Option<StoredTensor>,
    epsilon: f64,
}

impl StoredLayerNorm {
    /// The norm with a bias.
    pub(super) fn new(source: &Source, name: &str, width: usize, epsilon: f64) -> Result<Self, LoadError> {
        Self::at(source, &source.full(name), width, epsilon, true)
    }

    /// The norm of this full name, with a bias or without.
    pub(super) fn at(source: &Source, name: &str, width: usize, epsilon: f64, bias: bool) -> Result<Self, LoadError> {
        let tensor = |now: &str, once: &str| {
            let (now, once) = (format!("{name}.{now}"), format!("{name}.{once}"));
            let old = !source.weights.contains(&now) && source.weights.contains(&once);
            source.tensor_at(if old { once } else { now }, &[width])
        };
        let bias = bias.then(|| tensor("bias", "beta")).transpose()?;
        Ok(Self { weight: tensor("weight", "gamma")?, bias, epsilon })
    }
}

impl Stored for StoredLayerNorm {
    type Value = LayerNorm;

    fn read(&self) -> Result<LayerNorm, LoadError> {
        Ok(LayerNorm {
            weight: self.weight.read()?,
            bias: self.bias.as_ref().map(Stored::read).transpose()?,
            epsilon: self.epsilon,
        })
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

/// What stands where a norm could: nothing is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoNorm;

impl Norm for NoNorm {
    fn trace(&self, x: &Traced) -> candle_core::Result<Traced> {
        Ok(x.clone())
    }
}

impl Stored for NoNorm {
    type Value = Self;

    fn read(&self) -> Result<Self, LoadError> {
        Ok(Self)
    }
}
