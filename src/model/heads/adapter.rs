//! An adapter of a language model's head, whose matrices are tracked.

use candle_core::Tensor;

use crate::curvature::{LayerId, TapRecorder};
use crate::model::adapter::module::LowRank;
use crate::model::checkpoint_reader::StoredTensor;
use crate::model::error::LoadError;
use crate::model::residence::Stored;

/// The tracked matrices of a head's adapter on disk.
#[derive(Debug)]
pub(in crate::model) struct StoredHeadAdapter {
    pub(in crate::model) low_rank: LowRank,
    /// The head without its adapter.
    pub(in crate::model) weight: StoredTensor,
    /// A and B.
    pub(in crate::model) layers: [Option<LayerId>; 2],
}

/// The tracked matrices of a head's adapter. The head runs with the adapter merged into its weight, since all that its
/// matrices need is the gradient at the logits.
#[derive(Debug)]
pub(in crate::model) struct HeadAdapter {
    /// `[r, D]`.
    a: Tensor,
    /// `[V, r]`.
    b: Tensor,
    /// What multiplies `B (A x)` at each logit, `[V]`.
    factors: Tensor,
    layers: [Option<LayerId>; 2],
}

impl Stored for StoredHeadAdapter {
    type Value = HeadAdapter;

    fn read(&self) -> Result<HeadAdapter, LoadError> {
        let (a, b) = (self.low_rank.read_a()?, self.low_rank.read_b()?);
        let mut factors = Tensor::ones(b.dim(0)?, b.dtype(), b.device())?.affine(self.low_rank.scale, 0.0)?;
        if self.low_rank.magnitude.is_some()
            && let Some(rows) = self.low_rank.row_factors(&self.weight.read()?)?
        {
            factors = (factors * rows)?;
        }
        Ok(HeadAdapter { a, b, factors, layers: self.layers })
    }
}

impl HeadAdapter {
    /// Leaves the taps of A and B for a gradient at the logits.
    pub(super) fn record(&self, hidden: &Tensor, gradient: &Tensor, taps: &TapRecorder) -> candle_core::Result<()> {
        let gradient = gradient.broadcast_mul(&self.factors)?;
        let [a, b] = self.layers;
        if let Some(b) = b {
            taps.record(b, hidden.matmul(&self.a.t()?)?, gradient.clone());
        }
        if let Some(a) = a {
            taps.record(a, hidden.clone(), gradient.matmul(&self.b)?);
        }
        Ok(())
    }
}
