//! Contractions of a layer's taps with matrices of the layer's shape, none of which holds the gradients of all examples:
//! which exact route is cheapest, rows of examples and their rotation, and what is contracted with them.

pub(crate) mod gradient_block;
pub(crate) mod low_rank;
pub(crate) mod product;
pub(crate) mod quadratic;
pub(crate) mod rotated;
pub(crate) mod route;
pub(crate) mod rows;
pub(crate) mod sliced;

pub use route::{BasisSize, LowRankRoute, Rotate, RotationRoute, ScoreRoute, Shape, kept_rank};
