//! A convolution over images: the base's kernels, on disk and in memory, and the adapter that may lie over them.

use candle_core::Tensor;

use super::adapter::module::LowRank;
use super::checkpoint_reader::StoredTensor;
use super::error::LoadError;
use super::residence::Stored;
use crate::curvature::gemm::Products;
use crate::curvature::{Convolution, LayerId, Linear, Plane, TapRecorder, Traced, Window};

/// `y = W * x + b`, and with an adapter `y = W * x + b + f ∘ B (A * x)`: A moves over the image as W does, and B is a layer
/// of what A gives at each place, with as many groups as W has; `f` is as in
/// [`Projection`](super::projection::Projection).
#[derive(Debug)]
pub(super) struct AdaptedConvolution {
    base: Convolution,
    adapter: Option<Box<Branch>>,
}

/// What an adapter adds to a convolution's output.
#[derive(Debug)]
struct Branch {
    a: Convolution,
    b: Convolution,
    /// `f`, `[outputs]`.
    factors: Tensor,
}

impl AdaptedConvolution {
    /// The output on a tape, and its places. A tracked base, A and B leave a tap each, of a group one.
    pub(super) fn trace(&self, x: &Traced, plane: Plane, taps: &TapRecorder) -> candle_core::Result<(Traced, Plane)> {
        let (y, output) = self.base.trace(x, plane, taps)?;
        let Some(adapter) = &self.adapter else { return Ok((y, output)) };
        let Branch { a, b, factors } = &**adapter;
        let (inner, places) = a.trace(x, plane, taps)?;
        let (change, places) = b.trace(&inner, places, taps)?;
        if places != output {
            candle_core::bail!("an adapter gives {places:?}, and its convolution {output:?}");
        }
        Ok((y.add_scaled(&change, factors)?, output))
    }

    /// What moves over the images.
    pub(super) fn window(&self) -> &Window {
        self.base.window()
    }
}

/// A convolution on disk: one tensor for the kernels of all groups.
#[derive(Debug)]
pub(super) struct StoredConvolution {
    /// `[outputs, channels / groups, height, width]`.
    pub(super) weight: StoredTensor,
    pub(super) bias: Option<StoredTensor>,
    pub(super) window: Window,
    /// The number of each group's layer, if it is tracked.
    pub(super) layers: Vec<Option<LayerId>>,
    pub(super) products: Products,
    pub(super) adapter: Option<StoredConvolutionBranch>,
}

/// An adapter on disk that runs beside its convolution.
#[derive(Debug)]
pub(super) struct StoredConvolutionBranch {
    pub(super) low_rank: LowRank,
    pub(super) a: Option<LayerId>,
    /// The number of each group's layer, if it is tracked.
    pub(super) b: Vec<Option<LayerId>>,
}

impl StoredConvolution {
    /// The rank of the adapter that runs beside it; none without one.
    pub(super) fn rank(&self) -> Option<usize> {
        self.adapter.as_ref().map(|adapter| adapter.low_rank.rank)
    }

    /// A convolution of these kernels, `[outputs, channels · height · width]`, a layer for each group.
    fn grouped(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        layers: &[Option<LayerId>],
        window: Window,
    ) -> Result<Convolution, LoadError> {
        let outputs = weight.dim(0)? / layers.len().max(1);
        let of_group = |(k, layer): (usize, &Option<LayerId>)| {
            let rows = |x: &Tensor| x.narrow(0, k * outputs, outputs);
            let linear = Linear::new(rows(weight)?, bias.map(rows).transpose()?, *layer)?;
            Ok(linear.with_products(self.products))
        };
        let groups = layers.iter().enumerate().map(of_group).collect::<Result<_, LoadError>>()?;
        Ok(Convolution::grouped(groups, window)?)
    }
}

impl Stored for StoredConvolution {
    type Value = AdaptedConvolution;

    fn read(&self) -> Result<AdaptedConvolution, LoadError> {
        let mut weight = self.weight.read()?.flatten_from(1)?;
        let bias = self.bias.as_ref().map(Stored::read).transpose()?;
        let mut adapter = None;
        if let Some(StoredConvolutionBranch { low_rank, a, b }) = &self.adapter {
            let factors;
            (weight, factors) = low_rank.beside(weight)?;
            let (kernels, b_bias) = (low_rank.read_a()?, low_rank.b_bias.as_ref().map(Stored::read).transpose()?);
            adapter = Some(Box::new(Branch {
                a: self.grouped(&kernels, None, &[*a], self.window)?,
                b: self.grouped(&low_rank.read_b()?, b_bias.as_ref(), b, Window::default())?,
                factors,
            }));
        }
        let base = self.grouped(&weight, bias.as_ref(), &self.layers, self.window)?;
        Ok(AdaptedConvolution { base, adapter })
    }
}
