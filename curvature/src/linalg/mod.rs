//! Numbers without layers: matrices and their storage, products, eigendecompositions, sums in `f64`, and random numbers
//! that are keyed by what they are for.

pub(crate) mod block_diagonal;
pub(crate) mod decomposition;
pub(crate) mod dot;
pub(crate) mod fresh;
pub mod gemm;
pub(crate) mod matrix;
pub(crate) mod parts;
pub mod random;
pub(crate) mod symmetric;
pub(crate) mod symmetric_blocks;
pub(crate) mod triangle;
