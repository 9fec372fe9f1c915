//! A linear layer of an architecture: the base's weight, and the adapter that may lie over it.

use candle_core::Tensor;

use super::adapter::module::LowRank;
use super::checkpoint_reader::StoredTensor;
use super::error::LoadError;
use super::layout::Layout;
use super::residence::Stored;
use crate::curvature::gemm::Products;
use crate::curvature::{LayerId, Linear, TapRecorder, Traced};

/// `y = W x + b`, and with an adapter `y = W x + b + f ∘ B (A x)`, where `f` is LoRA's factor `s` at every output, and
/// DoRA's `s m / ‖W + s B A‖`; DoRA's `W` is that of the base times `m / ‖W + s B A‖`.
#[derive(Debug, Clone)]
pub(super) struct Projection {
    base: Linear,
    adapter: Option<Box<Branch>>,
}

/// What an adapter adds to a layer's output.
#[derive(Debug, Clone)]
struct Branch {
    a: Linear,
    b: Linear,
    /// `f`, `[outputs]`.
    factors: Tensor,
}

impl Projection {
    /// The layer's output on a tape. A tracked base, A and B leave a tap each.
    pub(super) fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = self.base.trace(x, taps)?;
        let Some(adapter) = &self.adapter else { return Ok(y) };
        let Branch { a, b, factors } = &**adapter;
        y.add_scaled(&b.trace(&a.trace(x, taps)?, taps)?, factors)
    }
}

/// A linear layer on disk.
#[derive(Debug)]
pub(super) struct StoredLinear {
    pub(super) weight: StoredTensor,
    pub(super) bias: Option<StoredTensor>,
    pub(super) layout: Layout,
    pub(super) layer: Option<LayerId>,
    pub(super) products: Products,
    pub(super) adapter: Option<StoredBranch>,
}

/// An adapter on disk that runs beside its layer.
#[derive(Debug)]
pub(super) struct StoredBranch {
    pub(super) low_rank: LowRank,
    pub(super) a: Option<LayerId>,
    pub(super) b: Option<LayerId>,
}

impl Stored for StoredLinear {
    type Value = Projection;

    fn read(&self) -> Result<Projection, LoadError> {
        let mut weight = match self.layout {
            // the kernels of a convolution lie as rows of a matrix
            Layout::OutputsFirst => self.weight.read()?.flatten_from(1)?,
            Layout::InputsFirst => self.weight.read()?.t()?.contiguous()?,
        };
        let bias = self.bias.as_ref().map(Stored::read).transpose()?;
        let products = self.products;
        let mut adapter = None;
        if let Some(StoredBranch { low_rank, a, b }) = &self.adapter {
            let factors;
            (weight, factors) = low_rank.beside(weight)?;
            let b_bias = low_rank.b_bias.as_ref().map(Stored::read).transpose()?;
            adapter = Some(Box::new(Branch {
                a: Linear::new(low_rank.read_a()?, None, *a)?.with_products(products),
                b: Linear::new(low_rank.read_b()?, b_bias, *b)?.with_products(products),
                factors,
            }));
        }
        Ok(Projection { base: Linear::new(weight, bias, self.layer)?.with_products(products), adapter })
    }
}
