//! A convolution over the tokens of texts (`torch.nn.Conv1d`), on disk and in memory: a linear layer of what its window
//! sees of a text, with zeros beyond the text's ends.

use candle_core::Tensor;

use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::error::LoadError;
use super::residence::Stored;
use super::tracking::Tracking;
use crate::curvature::gemm::Products;
use crate::curvature::{LayerId, Linear, Positions, TapRecorder, Traced};
use crate::nn::Neighbours;

/// A convolution in memory: as many outputs as tokens.
#[derive(Debug)]
pub(super) struct TextConvolution {
    /// A layer for each group of channels, which sees these channels alone and writes its own outputs.
    groups: Vec<Linear>,
    /// Tokens that the window sees, an odd number.
    size: usize,
}

impl TextConvolution {
    /// `[R, C]` to `[R, O]`.
    pub(super) fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let seen = Neighbours::new(self.size, positions, x.value().device())?.trace(x)?;
        let (count, mut sum) = (self.groups.len(), None::<Traced>);
        for (k, linear) in self.groups.iter().enumerate() {
            if count == 1 {
                return linear.trace(&seen, taps);
            }
            let (outputs, columns) = linear.weight().dims2()?;
            let own = seen.linear_map(|seen| seen.narrow(1, k * columns, columns)?.contiguous())?;
            let y = linear.trace(&own, taps)?;
            // beside the outputs of the other groups
            let y = y.linear_map(|y| y.pad_with_zeros(1, k * outputs, (count - 1 - k) * outputs)?.contiguous())?;
            sum = Some(match sum {
                Some(sum) => sum.add(&y)?,
                None => y,
            });
        }
        match sum {
            Some(sum) => Ok(sum),
            None => candle_core::bail!("a convolution of no group"),
        }
    }
}

/// A convolution on disk: one tensor for the kernels of all groups.
#[derive(Debug)]
pub(super) struct StoredTextConvolution {
    /// `[outputs, channels / groups, size]`.
    weight: StoredTensor,
    bias: StoredTensor,
    /// The number of each group's layer, if it is tracked.
    layers: Vec<Option<LayerId>>,
    size: usize,
    products: Products,
}

impl StoredTextConvolution {
    /// A convolution of `width` channels to as many outputs, with a bias, outside the blocks: it is tracked only if a
    /// pattern names it, a layer for each group where there are several.
    pub(super) fn outer(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        name: &str,
        width: usize,
        [size, groups]: [usize; 2],
    ) -> Result<Self, LoadError> {
        let name = source.full(name);
        let [outputs, channels] = [width / groups; 2];
        let weight = source.tensor_at(format!("{name}.weight"), &[width, channels, size])?;
        let bias = source.tensor_at(format!("{name}.bias"), &[width])?;
        let is_frozen = source.is_frozen(&weight);
        tracking.multiplies(outputs * channels * size * groups);
        let layer = |k: usize| {
            let name = if groups == 1 { name.clone() } else { format!("{name}.group.{k}") };
            match is_frozen {
                true => None,
                false => tracking.outer_layer(&name, outputs, channels * size, true),
            }
        };
        let layers: Vec<_> = (0..groups).map(layer).collect();
        for _ in layers.iter().flatten() {
            source.weights.count_tracked(weight.name(), (outputs * channels * size) as u64);
            source.weights.count_tracked(bias.name(), outputs as u64);
        }
        Ok(Self { weight, bias, layers, size, products: source.products })
    }

    /// How many of its layers are tracked.
    pub(super) fn tracked(&self) -> u64 {
        self.layers.iter().flatten().count() as u64
    }
}

impl Stored for StoredTextConvolution {
    type Value = TextConvolution;

    fn read(&self) -> Result<TextConvolution, LoadError> {
        let (weight, bias) = (self.weight.read()?.flatten_from(1)?, self.bias.read()?);
        let outputs = weight.dim(0)? / self.layers.len().max(1);
        let of_group = |(k, layer): (usize, &Option<LayerId>)| {
            let rows = |x: &Tensor| x.narrow(0, k * outputs, outputs);
            let linear = Linear::new(rows(&weight)?, Some(rows(&bias)?), *layer)?;
            Ok(linear.with_products(self.products))
        };
        let groups = self.layers.iter().enumerate().map(of_group).collect::<Result<_, LoadError>>()?;
        Ok(TextConvolution { groups, size: self.size })
    }
}
