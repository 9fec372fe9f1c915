//! Curvature of linear layers, one layer at a time: what a layer reads and what reaches it in the
//! backward pass ([`Tap`]), the Fisher's Kronecker factors built from it ([`Covariance`], [`Eigenbasis`],
//! [`Lambda`]), functions of the resulting curvature ([`SpectralFn`]), and the cheapest exact way to
//! contract taps with them ([`contraction`]).
//!
//! This crate knows tensors and layers. It does not know files, tokens, models or attribution methods.
//!
//! Conventions (`docs/method.md`, Gradients): a layer computes `z = W a`, `W: [O, I]`; a bias is the last column of `W`
//! and the input then carries a trailing 1. Gradients are of *summed* losses. Rows of a batch are the
//! positions of its examples, concatenated without padding ([`Positions`]).

pub mod contraction;
mod error;
mod estimate;
mod linalg;
mod network;

#[cfg(test)]
mod definitions;

pub use contraction::low_rank::{LowRank, Vectors};
pub use contraction::product::GradientProducts;
pub use contraction::quadratic::QuadraticForm;
pub use contraction::rotated::STACK_NUMBERS;
pub use contraction::sliced::LayerSlice;
pub use error::{Error, Hint};
pub use estimate::covariance::{Counts, Covariance, CovarianceSum};
pub use estimate::covariance_blocks::{CovarianceBlock, decompose, decomposed_alone};
pub use estimate::eigenbasis::{Eigenbasis, Eigenpairs, THREADED_FROM};
pub use estimate::factors::{CurvatureKind, Damping, Factors, LayerFactors, Spectrum};
pub use estimate::gauss_newton::{ProductSum, gauss_newton_through};
pub use estimate::lambda::{Lambda, LambdaSum};
pub use estimate::momentum::{Momentum, Transfer};
pub use estimate::pair_weights::PairWeights;
pub use estimate::side::{LayerSide, SharedInputs};
pub use estimate::spectral::{SpectralFn, Step};
pub use estimate::truncation::{Norms, Truncation, Whitening};
pub use linalg::block_diagonal::{BlockDiagonal, BlockWidth, Turn};
pub use linalg::fresh::fresh;
pub use linalg::matrix::{Matrix, Numbers};
pub use linalg::random::LabelDraw;
pub use linalg::symmetric::SymmetricMatrix;
pub use linalg::symmetric_blocks::SymmetricBlocks;
pub use linalg::{gemm, random};
pub use network::convolution::Convolution;
pub use network::interface::Network;
pub use network::layer::{LayerId, LayerSpec, Side, is_first_of_group};
pub use network::linear::{Linear, TapRecorder};
pub use network::objective::{Measurement, Objective, Reduction};
pub use network::section::{Graphs, Moving, PullBack, Section, Taped, Tracked, backward_through, pull_back};
pub use network::slices::{contiguous, with_slice};
pub use network::table::TableRows;
pub use network::tangent::{Directions, OneDirection, TangentRule};
pub use network::tap::{Positions, Renumbered, Tap, TapSink, Tee};
pub use network::tape::{Gradient, Tape, Traced};
pub use network::vector::VectorRole;
pub use network::window::{Plane, Window};
