//! Which scores there are, and whose the rows are that they are made of.

use super::rows::RelativeRows;
use ascribe_curvature::Positions;
use ascribe_curvature::gemm::Products;

/// `softmax(scale · a) v` within each example and head, where `a[i, j]` is `q_i · k_j`, and with content to position
/// `+ q_i · kʳ(i, j)`, and with position to content `+ k_j · qʳ(i, j)`: `kʳ(i, j)` and `qʳ(i, j)` are the key and the query
/// of the relative row that the distance `i - j` has.
///
/// # Shapes
/// `v` and the output: `[R, heads · d]`. `q` has the queries of the relative rows below those of the hidden states of each
/// example, `[R + M, heads · d]`, if there is position to content; so has `k` the keys if there is content to position.
#[derive(Debug, Clone, PartialEq)]
pub struct DisentangledAttention {
    /// H.
    pub heads: usize,
    /// Width of a head, d.
    pub head_dimension: usize,
    /// Factor of the scores.
    pub scale: f64,
    /// Whether queries of hidden states meet keys of relative rows.
    pub content_to_position: bool,
    /// Whether keys of hidden states meet queries of relative rows.
    pub position_to_content: bool,
    /// How products run.
    pub products: Products,
}

impl DisentangledAttention {
    /// Whose the rows of queries, keys and values are.
    pub(super) fn positions<'a>(&self, rows: &'a RelativeRows) -> [&'a Positions; 3] {
        let of = |joined: bool| if joined { rows.joined() } else { rows.hidden() };
        [of(self.position_to_content), of(self.content_to_position), rows.hidden()]
    }
}
