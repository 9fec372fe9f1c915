//! Products with the Gauss-Newton matrix of all tracked layers jointly, `Jᵀ H_L J v`, for a block of directions at once
//! (Schraudolph 2002; Martens 2010, §4.4).
//!
//! `J v` is the movement of the network's outputs in forward mode, `H_L` the Hessian of the loss at the outputs, and `Jᵀ`
//! one backward pass that leaves taps for every direction one below the other.

use candle_core::Tensor;

use crate::error::Error;
use crate::linalg::gemm::{self, Products, Real, Threads, View, ViewMut};
use crate::network::layer::LayerSpec;
use crate::network::linear::TapRecorder;
use crate::network::section::{Graphs, Moving, Section, backward_through};
use crate::network::slices::with_slice;
use crate::network::tangent::Directions;
use crate::network::tap::Tap;
use crate::network::tap::{Positions, TapSink};

/// Runs `x` through `sections` with tracked layers moving along `directions`, asks `head` for the gradient at the last
/// output, `H_L J v` for each direction, `[Q · R, D]`, and goes back with it: every layer's tap has R rows of inputs, and
/// output gradients of `Q · R` rows.
///
/// # Errors
/// The sections', the head's, the sink's; an op without a rule for tangents.
pub fn gauss_newton_through(
    sections: &[&dyn Section],
    x: &Tensor,
    graphs: Graphs,
    positions: &Positions,
    directions: &Directions,
    sink: &mut dyn TapSink,
    head: impl FnOnce(Moving, &TapRecorder) -> Result<Tensor, Error>,
) -> Result<(), Error> {
    let along = TapRecorder::along(directions.clone());
    let mut moving: Moving = (x.detach(), None);
    for section in sections {
        let (value, tangents) = moving;
        moving = section.tangents(&value, tangents, &along)?;
    }
    backward_through(sections, x, graphs, positions, sink, |_, taps| Ok(((), head(moving, taps)?)))
}

/// The sum of products over batches, from the taps that [`gauss_newton_through`] leaves.
#[derive(Debug)]
pub struct ProductSum<'a, T> {
    layers: &'a [LayerSpec],
    products: Products,
    /// By layer, `[Q, O, columns]`.
    sums: Vec<&'a mut [T]>,
}

impl<'a, T: Real> ProductSum<'a, T> {
    /// Adds to `sums`, one for each layer, `[Q, O, columns]`.
    pub fn new(layers: &'a [LayerSpec], products: Products, sums: Vec<&'a mut [T]>) -> Self {
        Self { layers, products, sums }
    }
}

impl<T: Real> TapSink for ProductSum<'_, T> {
    /// `Σ_r s_r [a_r, 1]ᵀ` for each direction.
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let (spec, sums, products) = (&self.layers[tap.layer.0], &mut *self.sums[tap.layer.0], self.products);
        let (rows, inputs, outputs, columns) = (tap.input.dim(0)?, spec.inputs, spec.outputs, spec.columns());
        let found = tap.output_gradient.dims().to_vec();
        let expected = vec![sums.len() / spec.parameters().max(1) * rows, outputs];
        if found != expected {
            return Err(Error::Shape { layer: spec.name.clone(), what: "cotangents", found, expected });
        }
        with_slice(&tap.output_gradient.contiguous()?, |s: &[T]| {
            with_slice(&tap.input.contiguous()?, |a: &[T]| {
                let a = View::dense(a, rows, inputs).to(products);
                let parts = s.chunks_exact((rows * outputs).max(1)).zip(sums.chunks_exact_mut(spec.parameters()));
                for (s, sum) in parts {
                    let gradient = ViewMut::new(sum, outputs, inputs, columns);
                    let transposed = View::dense(s, rows, outputs).t();
                    gemm::matmul(gradient, gemm::Into::Add, T::of(1.0), transposed, a, Threads::Pool);
                    if spec.bias {
                        for row in s.chunks_exact(outputs) {
                            let biases = sum.iter_mut().skip(inputs).step_by(columns);
                            biases.zip(row).for_each(|(sum, s)| *sum += *s);
                        }
                    }
                }
            })
        })??;
        Ok(())
    }
}
