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

mod addition;
mod block_diagonal;
pub mod contraction;
mod convolution;
mod covariance;
mod covariance_blocks;
mod decomposition;
mod dot;
mod eigenbasis;
mod error;
mod factors;
mod fresh;
mod gauss_newton;
pub mod gemm;
mod gradient_block;
mod lambda;
mod layer;
mod linear;
mod low_rank;
mod matrix;
mod momentum;
mod network;
mod parts;
mod product;
mod quadratic;
pub mod random;
mod rotated;
mod rows;
mod section;
mod spectral;
mod symmetric;
mod tangent;
mod tap;
mod tape;
mod truncation;
mod window;

#[cfg(test)]
mod definitions;

pub use block_diagonal::{BlockDiagonal, BlockWidth, Turn};
pub use convolution::Convolution;
pub use covariance::{Counts, Covariance, CovarianceSum};
pub use covariance_blocks::{CovarianceBlock, LayerSide, SharedInputs, Side, decompose, decomposed_alone};
pub use eigenbasis::{Eigenbasis, Eigenpairs, THREADED_FROM};
pub use error::Error;
pub use factors::{CurvatureKind, Damping, Factors, LayerFactors, Spectrum};
pub use fresh::fresh;
pub use gauss_newton::{ProductSum, gauss_newton_through};
pub use lambda::{Lambda, LambdaSum};
pub use layer::{LayerId, LayerSpec, is_first_of_group};
pub use linear::{Linear, TapRecorder, with_slice};
pub use low_rank::{LowRank, Vectors};
pub use matrix::{Matrix, Numbers};
pub use momentum::{Momentum, Transfer};
pub use network::{LabelDraw, Measurement, Network, Objective, Reduction};
pub use product::GradientProducts;
pub use quadratic::QuadraticForm;
pub use rotated::STACK_NUMBERS;
pub use section::{Graphs, Moving, PullBack, Section, Taped, Tracked, backward_through, pull_back};
pub use spectral::{SpectralFn, Step};
pub use symmetric::SymmetricMatrix;
pub use tangent::{Directions, OneDirection, TangentRule};
pub use tap::{Positions, Tap, TapSink, Tee};
pub use tape::{Gradient, Tape, Traced};
pub use truncation::{Norms, Truncation, Whitening};
pub use window::{Plane, Window};
