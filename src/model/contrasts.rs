//! Differentiates batches with contrasts: both sequences of one are read apart, and what belongs to the second counts
//! negatively.
//!
//! A measurement's gradient at a linear layer is linear in the gradients at its outputs. So the rows of the second
//! sequence are negated in every tap, and both sequences are handed on as one example: the gradient is the difference of
//! both, whatever consumes it. No architecture knows of it.

use candle_core::Tensor;

use crate::curvature::{Error, Positions, Tap, TapSink};
use crate::data::{Batch, Contrasts};

/// The batch with every sequence as an example of its own.
pub(super) fn apart(batch: &Batch, contrasts: &Contrasts) -> Batch {
    Batch {
        positions: contrasts.sequences.clone(),
        keys: contrasts.signs().map(|(example, _)| batch.keys[example]).collect(),
        contrasts: None,
        ..batch.clone()
    }
}

/// Each example's value from those of its sequences.
pub(super) fn joined(values: &[f64], contrasts: &Contrasts) -> Vec<f64> {
    let mut sums = vec![0.0; contrasts.is_contrast.len()];
    for (value, (example, sign)) in values.iter().zip(contrasts.signs()) {
        sums[example] += sign * value;
    }
    sums
}

/// Hands taps of sequences on as taps of examples.
pub(super) struct Joining<'a> {
    pub(super) sink: &'a mut dyn TapSink,
    pub(super) contrasts: &'a Contrasts,
}

impl TapSink for Joining<'_> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        // A layer may see a part of the rows alone, as an expert does.
        let mut lengths = vec![0; self.contrasts.is_contrast.len()];
        let mut signs = Vec::with_capacity(tap.positions.rows());
        for (rows, (example, sign)) in tap.positions.iter().zip(self.contrasts.signs()) {
            lengths[example] += rows.len();
            signs.extend(rows.map(|_| sign));
        }
        let gradient = tap.output_gradient;
        let signs =
            Tensor::from_vec(signs, (tap.positions.rows(), 1), gradient.device())?.to_dtype(gradient.dtype())?;
        let output_gradient = gradient.broadcast_mul(&signs)?;
        let positions = Positions::from_lengths(lengths);
        self.sink.tap(Tap { output_gradient: &output_gradient, positions: &positions, ..tap })
    }
}
