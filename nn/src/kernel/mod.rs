//! What the fused blocks are written with: sixteen `f32` lanes at a time ([`Lanes`]), once in AVX-512
//! instructions and once in plain Rust, and the choice between them when the program runs.
//!
//! A kernel is one safe generic function over [`Lanes`]. Its instance for [`Plain`](lanes::Plain) is what the
//! instance for AVX-512 is tested against; both are tested against definitions in `f64`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod elementary;
mod elementwise;
pub(super) mod lanes;
mod soft_cap;
mod softmax;
pub(super) mod vectorised;
mod workspace;

pub(super) use elementary::{exp, gaussian_tail, sigmoid, sigmoid_and_rest, tanh};
pub(super) use elementwise::{add, multiply};
#[cfg(test)]
pub(super) use lanes::Plain;
pub(super) use lanes::{LANES, Lanes};
pub(super) use soft_cap::{soft_cap, soft_cap_and_slopes};
pub(super) use softmax::{exponentials, largest, scale, select, softmax, softmax_backward};
pub(super) use vectorised::vectorised;
pub(super) use workspace::{Columns, Workspace, with_workspace};

/// Elements that one task of an elementwise or row kernel takes: enough to hide the task's cost, little
/// enough to stay in the second-level cache.
pub(super) const TASK: usize = 1 << 14;
