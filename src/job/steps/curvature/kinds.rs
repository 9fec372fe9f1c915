//! What passes and files of the curvature have in common: the kinds of its artifacts, and the coordinates of Λ.

use crate::attribution::source::Conditioner;
use crate::curvature::Eigenbasis;

/// Kind of the store's covariances.
pub(super) const COVARIANCE: &str = "covariance";

/// Kind of the store's eigenbases.
pub(super) const EIGENBASIS: &str = "eigenbasis";

/// Kind of the store's Λ.
pub(super) const LAMBDA: &str = "lambda";

/// The coordinates that Λ of one fit is taken in.
pub(super) struct Bases<T> {
    /// By layer; none is the standard basis.
    pub bases: Vec<Option<Eigenbasis<T>>>,
    /// Empty unless the optimizer is preconditioned.
    pub conditioners: Vec<Option<Conditioner<T>>>,
    /// Layers that get no Λ.
    pub frozen: Vec<usize>,
}
