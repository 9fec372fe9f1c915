//! Curvature of linear layers, one layer at a time: what a layer reads and what reaches it in the
//! backward pass ([`Tap`]), the Fisher's Kronecker factors built from it (covariance, eigenbasis,
//! lambda), functions of the resulting curvature (spectral functions), and the cheapest exact way to
//! contract taps with them .
//!
//! This crate knows tensors and layers. It does not know files, tokens, models or attribution methods.
//!
//! Conventions (METHOD §1): a layer computes `z = W a`, `W: [O, I]`; a bias is the last column of `W`
//! and the input then carries a trailing 1. Gradients are of *summed* losses. Rows of a batch are the
//! positions of its examples, concatenated without padding ([`Positions`]).

mod error;
pub mod gemm;
mod layer;
mod linear;
mod network;
pub mod random;
mod section;
mod tap;

pub use error::Error;
pub use layer::{LayerId, LayerSpec};
pub use linear::{Linear, TapRecorder, with_slice};
pub use network::{LabelDraw, Measurement, Network, Objective, Reduction};
pub use section::{Graphs, Section, backward_through, pull_back};
pub use tap::{Positions, Tap, TapSink, Tee};
