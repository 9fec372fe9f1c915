//! Products of a block of vectors with the Gauss-Newton matrix of all tracked layers jointly.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Directions, Network, ProductSum};
use candle_core::{Device, Tensor};

use super::block::Block;
use crate::{Error, Sweep};

/// `H v` for every direction, H the mean over the examples of the sweep, with tangents of so many rows together.
pub(super) fn multiply<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    along: &Block<T>,
    rows: usize,
) -> Result<Block<T>, Error> {
    let (network, specs) = (sweep.network, sweep.network.layers());
    let tensors: Vec<Tensor> = along
        .layers
        .iter()
        .zip(specs)
        .map(|(layer, spec)| Tensor::from_slice(layer, (along.count, spec.outputs, spec.columns()), &Device::Cpu))
        .collect::<Result<_, _>>()?;
    let directions = Directions::new(specs, tensors)?;
    let mut product = Block::zeros(specs, along.count);
    let batch = |product: &mut Block<T>, _: Range<usize>, batch: &N::Batch| -> Result<(), Error> {
        let together = (rows / network.positions(batch).rows().max(1)).clamp(1, along.count.max(1));
        for first in (0..along.count).step_by(together) {
            let part = first..along.count.min(first + together);
            let sums = product
                .layers
                .iter_mut()
                .zip(specs)
                .map(|(layer, spec)| &mut layer[part.start * spec.parameters()..part.end * spec.parameters()]);
            let mut sink = ProductSum::new(specs, network.products(), sums.collect());
            network.gauss_newton(batch, &directions.part(part)?, &mut sink)?;
        }
        Ok(())
    };
    sweep.run(sweep.range.start, &mut product, batch, |_, _| Ok(()))?;
    product.scale(&vec![1.0 / sweep.range.len() as f64; along.count]);
    if let Some(l) = product.layers.iter().position(|layer| layer.iter().any(|x| !x.wide().is_finite())) {
        let layer = &specs[l].name;
        return Err(Error::Refinement(format!(
            "layer `{layer}`: a product with the Gauss-Newton matrix holds NaN or infinity"
        )));
    }
    Ok(product)
}
