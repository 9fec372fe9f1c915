//! Which layers of a model with an adapter are tracked.

use serde::{Deserialize, Serialize};

/// Which layers of a model with an adapter are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterMode {
    /// The matrices A and B of each adapted layer, and whole layers that were saved with the adapter.
    #[default]
    Only,
    /// The layers of the base with the adapter merged into their weights.
    Merged,
    /// The matrices A and B, and the layers of the base at their frozen weights.
    Both,
}

impl AdapterMode {
    /// The word that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Merged => "merged",
            Self::Both => "both",
        }
    }
}
