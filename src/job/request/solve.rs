//! Which systems give the queries' vectors: one for each layer from its curvature, or one of all tracked layers jointly.

use serde::{Deserialize, Serialize};

/// Which systems are solved for the queries' vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Solve {
    /// `Subspace` for influence averaged over checkpoints of whose options none says otherwise, else `Ekfac`; a plan
    /// has one of the two.
    #[default]
    Auto,
    /// One for each layer, with its approximate curvature.
    Ekfac,
    /// One of all tracked layers jointly, with the Gauss-Newton matrix of the training loss; the approximate curvature
    /// is where the solver starts.
    GaussNewton,
    /// One of all tracked layers jointly, solved in the span of what the approximate curvature gives with several
    /// dampings; no product with the Gauss-Newton matrix is needed.
    Subspace,
    /// One of all tracked layers jointly, with the Fisher matrix of sampled gradients beside the approximate curvature
    /// (beside nothing but the damping, if that is identity), inverted without being formed.
    MFac,
}

/// Whether products with the Gauss-Newton matrix solve for all tracked layers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SolveLayers {
    /// One system of all of them.
    #[default]
    Together,
    /// A system for each, with its block of the Gauss-Newton matrix.
    Each,
}

impl Solve {
    /// Whether one system is solved for all layers. What is left open is none: a plan has chosen.
    pub(in crate::job) fn is_joint(self) -> bool {
        matches!(self, Self::GaussNewton | Self::Subspace | Self::MFac)
    }

    /// The systems' name, as job files and files of scores have it.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ekfac => "ekfac",
            Self::GaussNewton => "gauss-newton",
            Self::Subspace => "subspace",
            Self::MFac => "m-fac",
        }
    }
}

/// What the Fisher matrix of sampled gradients counts beside an approximate curvature, which estimates the same: each
/// counts half.
pub(in crate::job) const SAMPLE_SHARE: f64 = 0.5;

/// Products with the Gauss-Newton matrix if nobody says how many.
pub(in crate::job) const ITERATIONS: usize = 3;

/// What is added to the eigenvalues of the approximate curvature for the vectors that span a subspace, times each
/// layer's mean eigenvalue: which of them is best differs between models by as much (`docs/validation.md`, Retraining).
pub(in crate::job) const SPANNING: [f64; 5] = [1e-3, 1e-2, 0.1, 1.0, 10.0];
