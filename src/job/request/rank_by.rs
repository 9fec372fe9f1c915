//! By which number training examples are ranked.

use serde::{Deserialize, Serialize};

/// By which number the training examples of a ranking are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankBy {
    /// The score.
    #[default]
    Score,
    /// The score over the square root of the example's self-influence: how much of what the example does to the model
    /// goes to this query.
    ///
    /// # Source
    /// RelatIF under a constraint on the loss, Barshan et al. 2020.
    Relatif,
}

impl RankBy {
    pub(in crate::job) fn is_score(&self) -> bool {
        *self == Self::Score
    }
}
