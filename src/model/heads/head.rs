//! What every head can do, and the loss of outputs of which each example has one row.

use std::fmt::Debug;

use candle_core::{DType, Tensor};

use crate::curvature::{Directions, Error, Moving, Objective, TapRecorder};
use crate::data::{Batch, Targets};
use crate::model::body::wrong_batch;
use crate::model::error::LoadError;
use crate::nn::{
    SquaredError, classification_loss, multi_label_loss, multi_label_product, regression_loss, softmax_product,
    squared_error_product,
};

/// A head in memory, or on disk until it runs.
pub(in crate::model) trait Head: Debug + Send + Sync {
    /// Values of the objective for each example, and its gradient at the hidden states `[R, D]`.
    fn differentiate(
        &self,
        hidden: &Tensor,
        batch: &Batch,
        objective: Objective,
        taps: &TapRecorder,
    ) -> Result<(Vec<f64>, Tensor), Error>;

    /// The loss's Hessian at the outputs times their movements, pulled back to the hidden states: `[Q · R, D]` from hidden
    /// states that move along `directions`. Tracked layers of the head move as well, and leave taps.
    fn gauss_newton(
        &self,
        hidden: Moving,
        batch: &Batch,
        directions: &Directions,
        taps: &TapRecorder,
    ) -> Result<Tensor, Error>;

    /// What the head gives: `[R, V]`, or `[B, outputs]`.
    fn logits(&self, hidden: &Tensor, batch: &Batch) -> Result<Tensor, Error>;

    /// Reads its parameters that are not in memory once, so that damaged ones are found before work.
    fn check(&self) -> Result<(), LoadError>;
}

/// Values and gradient of outputs `[B, outputs]` of which each example has one row, by what the targets are.
pub(in crate::model) fn loss_of_outputs(
    outputs: &Tensor,
    batch: &Batch,
    squared_error: SquaredError,
    objective: Objective,
) -> Result<(Vec<f64>, Tensor), Error> {
    let keys = &batch.keys;
    match &batch.targets {
        Targets::Classes(classes) => classification_loss(outputs, classes, keys, objective),
        Targets::Labels { values, width } => multi_label_loss(outputs, values, *width, keys, objective),
        Targets::Values { values, width } => {
            // regression_loss computes with targets in f64, so they need not be of the outputs' type
            let targets = Tensor::from_slice(values, (keys.len(), *width), &candle_core::Device::Cpu)?;
            regression_loss(outputs, &targets.to_dtype(DType::F64)?, keys, squared_error, objective)
        }
        Targets::Tokens(_) => Err(wrong_batch()),
    }
}

/// The loss's Hessian at outputs `[B, outputs]` times their movements, `[Q · B, outputs]`, by what the targets are.
pub(in crate::model) fn hessian_of_outputs(
    (outputs, moving): Moving,
    batch: &Batch,
    squared_error: SquaredError,
) -> Result<Tensor, Error> {
    let moving = moving.ok_or_else(|| candle_core::Error::Msg("no tracked layer moves the outputs".into()))?;
    Ok(match &batch.targets {
        Targets::Classes(_) => softmax_product(&outputs, &moving)?,
        Targets::Labels { .. } => multi_label_product(&outputs, &moving)?,
        Targets::Values { .. } => squared_error_product(squared_error, &moving)?,
        Targets::Tokens(_) => return Err(wrong_batch()),
    })
}
