//! Which systems give the queries' vectors: one for each layer from its curvature, or one of all tracked layers jointly.

use serde::{Deserialize, Serialize};

/// Which systems are solved for the queries' vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Solve {
    /// One for each layer, with its approximate curvature.
    #[default]
    Ekfac,
    /// One of all tracked layers jointly, with the Gauss-Newton matrix of the training loss; the approximate curvature
    /// is where the solver starts.
    GaussNewton,
}

/// Products with the Gauss-Newton matrix if nobody says how many.
pub(in crate::job) const ITERATIONS: usize = 3;
