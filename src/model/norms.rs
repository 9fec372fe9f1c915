//! Norms of transformers, on disk and in memory.

use candle_core::Tensor;

use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::error::LoadError;
use super::residence::Stored;
use super::tracking::Tracking;
use crate::curvature::{LayerId, TapRecorder, Traced, VectorRole};
use crate::nn;

/// A norm with parameters of its own.
pub(super) trait Norm {
    /// `[R, D]` to `[R, D]`; vectors that are tracked leave their taps.
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced>;
}

/// The layers that a norm's vectors are, where these are tracked.
#[derive(Debug, Clone, Copy, Default)]
struct Vectors {
    weight: Option<LayerId>,
    bias: Option<LayerId>,
}

impl Vectors {
    /// Follows tracked vectors through the norm's output `y`, whose factors multiply what `normalised` gives.
    fn trace(
        self,
        y: Traced,
        width: usize,
        normalised: impl FnOnce() -> candle_core::Result<Tensor>,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        let y = match self.weight {
            Some(layer) => y.with_vector(layer, width, VectorRole::Factor(normalised()?), taps)?,
            None => y,
        };
        match self.bias {
            Some(layer) => y.with_vector(layer, width, VectorRole::Added, taps),
            None => Ok(y),
        }
    }
}

/// A layer norm of a model.
#[derive(Debug)]
pub(super) struct LayerNorm {
    norm: nn::LayerNorm,
    vectors: Vectors,
}

impl Norm for LayerNorm {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let width = self.norm.weight.elem_count();
        self.vectors.trace(self.norm.trace(x)?, width, || self.norm.normalised(x.value()), taps)
    }
}

impl LayerNorm {
    /// Normalises every row, on no tape.
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.norm.forward(x)
    }
}

/// A root-mean-square norm of a model.
#[derive(Debug)]
pub(super) struct RmsNorm {
    norm: nn::RmsNorm,
    vectors: Vectors,
}

impl Norm for RmsNorm {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        self.vectors.trace(self.norm.trace(x)?, self.width(), || self.norm.normalised_heads(x.value()), taps)
    }
}

impl RmsNorm {
    fn width(&self) -> usize {
        self.norm.weight.elem_count()
    }

    /// Normalises every head by itself, all with the same factors.
    pub(super) fn trace_heads(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = self.norm.trace_heads(x)?;
        self.vectors.trace(y, self.width(), || self.norm.normalised_heads(x.value()), taps)
    }
}

/// A norm's vector, numbered if it is tracked.
fn vector(
    source: &CheckpointReader,
    tracking: &Tracking<'_>,
    layer: &str,
    tensor: &StoredTensor,
    width: usize,
) -> Option<LayerId> {
    if source.is_frozen(tensor) {
        return None;
    }
    let found = tracking.vector(layer, width);
    if found.is_some() {
        tensor.count_tracked();
        source.add_tracked(1);
        source.add_activations(2 * width + 1);
    }
    found
}

/// A [`LayerNorm`] on disk, with a bias or without, under either pair of names that transformers has had for its
/// parameters.
#[derive(Debug)]
pub(super) struct StoredLayerNorm {
    weight: StoredTensor,
    bias: Option<StoredTensor>,
    epsilon: f64,
    vectors: Vectors,
}

impl StoredLayerNorm {
    /// The norm with a bias.
    pub(super) fn new(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        name: &str,
        width: usize,
        epsilon: f64,
    ) -> Result<Self, LoadError> {
        Self::at(source, tracking, &source.full(name), width, epsilon, true)
    }

    /// The norm of this full name, with a bias or without.
    pub(super) fn at(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        name: &str,
        width: usize,
        epsilon: f64,
        bias: bool,
    ) -> Result<Self, LoadError> {
        let found = Self::untracked(source, name, width, epsilon, bias)?;
        let bias = found.bias.as_ref();
        let vectors = Vectors {
            weight: vector(source, tracking, name, &found.weight, width),
            bias: bias.and_then(|bias| vector(source, tracking, &format!("{name}.bias"), bias, width)),
        };
        Ok(Self { vectors, ..found })
    }

    /// The norm of this full name behind an embedding, which no pass goes back through: its vectors cannot be tracked.
    pub(super) fn untracked(
        source: &CheckpointReader,
        name: &str,
        width: usize,
        epsilon: f64,
        bias: bool,
    ) -> Result<Self, LoadError> {
        let tensor = |now: &str, once: &str| {
            let (now, once) = (format!("{name}.{now}"), format!("{name}.{once}"));
            let old = !source.weights.contains(&now) && source.weights.contains(&once);
            source.tensor_at(if old { once } else { now }, &[width])
        };
        let bias = bias.then(|| tensor("bias", "beta")).transpose()?;
        Ok(Self { weight: tensor("weight", "gamma")?, bias, epsilon, vectors: Vectors::default() })
    }
}

impl Stored for StoredLayerNorm {
    type Value = LayerNorm;

    fn read(&self) -> Result<LayerNorm, LoadError> {
        let norm = nn::LayerNorm {
            weight: self.weight.read()?,
            bias: self.bias.as_ref().map(Stored::read).transpose()?,
            epsilon: self.epsilon,
        };
        Ok(LayerNorm { norm, vectors: self.vectors })
    }
}

/// An [`RmsNorm`] on disk.
#[derive(Debug)]
pub(super) struct StoredRmsNorm {
    weight: StoredTensor,
    epsilon: f64,
    offset: f64,
    vectors: Vectors,
}

impl StoredRmsNorm {
    /// The norm whose weight is the factor itself.
    pub(super) fn new(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        name: &str,
        width: usize,
        epsilon: f64,
    ) -> Result<Self, LoadError> {
        let weight = source.tensor(&format!("{name}.weight"), &[width])?;
        let vectors = Vectors { weight: vector(source, tracking, &source.full(name), &weight, width), bias: None };
        Ok(Self { weight, epsilon, offset: 0.0, vectors })
    }

    /// A norm with the weights of this one, whose factors are the weights plus `offset`.
    pub(super) fn with_offset(self, offset: f64) -> Self {
        Self { offset, ..self }
    }
}

impl Stored for StoredRmsNorm {
    type Value = RmsNorm;

    fn read(&self) -> Result<RmsNorm, LoadError> {
        let norm = nn::RmsNorm { weight: self.weight.read()?, epsilon: self.epsilon, offset: self.offset };
        Ok(RmsNorm { norm, vectors: self.vectors })
    }
}

/// What stands where a norm could: nothing is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoNorm;

impl Norm for NoNorm {
    fn trace(&self, x: &Traced, _taps: &TapRecorder) -> candle_core::Result<Traced> {
        Ok(x.clone())
    }
}

impl Stored for NoNorm {
    type Value = Self;

    fn read(&self) -> Result<Self, LoadError> {
        Ok(Self)
    }
}
