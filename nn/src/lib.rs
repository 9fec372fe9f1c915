//! Differentiable building blocks of the models: fused kernels on the CPU, composed candle ops elsewhere.
//!
//! Hidden states are `[R, D]`: the positions of a batch's examples one below the other
//! ([`ascribe_curvature::Positions`]), without padding. Weights are plain tensors, not variables; the
//! fused blocks form no gradient for them.
//!
//! Every block exists twice. [`Implementation::Fused`] is one custom op with a hand-written backward
//! pass, for `f32` on the CPU. [`Implementation::Composed`] is built from candle ops that really
//! differentiate, for every type and device; it is what the fused one is tested against.

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod disentangled;
pub mod elementwise;
pub mod head;
pub mod hessian;
mod implementation;
mod kernel;
pub mod loss;
pub mod neighbours;
pub mod norm;
mod objective;
pub mod pool;
pub mod relative;
pub mod rope;
mod rotation;
pub mod routing;
pub mod rows;

#[cfg(test)]
mod gradient_check;

pub use activation::{Activation, gated, gated_packed, trace_gated, trace_gated_packed};
pub use attention::{Attention, Between, Mask};
pub use batch_norm::BatchNorm;
pub use disentangled::{DisentangledAttention, RelativeDistances, RelativeRows};
pub use elementwise::{clamped, trace_clamped, trace_scaled};
pub use head::{HeadLoss, LanguageModelHead, LogitsGradient, language_model_logits, language_model_loss};
pub use hessian::{HeadProduct, language_model_product, multi_label_product, softmax_product, squared_error_product};
pub use implementation::Implementation;
pub use loss::{SquaredError, classification_loss, multi_label_loss, regression_loss};
pub use neighbours::Neighbours;
pub use norm::{LayerNorm, RmsNorm};
pub use pool::{Regions, trace_average_pooled, trace_averaged, trace_largest, trace_max_pooled};
pub use relative::RelativeBuckets;
pub use rope::{Frequencies, Pairing, RopeConfig, RopeScaling};
pub use rotation::RopeTables;
pub use routing::{ExpertWeights, Routes, trace_sigmoid_gated};
pub use rows::{trace_rows, trace_stacked};
