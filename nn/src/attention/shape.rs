//! What an attention is: its heads, scale, mask, window and cap, and how its input is packed.

use ascribe_curvature::gemm::Products;

/// Which positions a position may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Itself and those before it.
    Causal,
    /// All of its example.
    Bidirectional,
}

/// How queries, keys and values stand in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Queries of all heads, then keys, then values.
    ByKind,
    /// Queries, keys and values of the first head, then those of the next.
    ByHead,
}

/// `softmax(scale · q kᵀ) v` within each example and head; rotary embeddings can be applied to `q` and
/// `k` on the way.
///
/// Scores exist for one block of query positions at a time, and the backward pass computes them again.
/// The gradient of a key-value head sums over the query heads that share it in their order, so results
/// do not depend on the number of threads.
///
/// # Shapes
/// `q: [R, heads · d]`, `k` and `v`: `[R, kv_heads · d]`, the output `[R, heads · d]`, with d the head
/// dimension. Query head `h` uses key-value head `h / (heads / kv_heads)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads, H.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, d.
    pub head_dimension: usize,
    /// Factor of the scores, usually `1/√d`.
    pub scale: f64,
    /// Which positions are seen.
    pub mask: Mask,
    /// If given, only positions at a distance below it are seen: as many as the window says under a causal mask, the
    /// own one among them, and one less than twice as many under a bidirectional one.
    pub window: Option<usize>,
    /// If given, c: scores become `c · tanh(score / c)` once they are scaled (Gemma 2; Gemma Team 2024, §2).
    pub soft_cap: Option<f64>,
    /// How the fused products run: of queries with keys, of probabilities with values, and backwards.
    pub products: Products,
}

/// Block of query positions that are processed together. Half of the scores in a block on the diagonal
/// are masked: smaller blocks waste less, larger ones multiply faster.
pub(super) const BLOCK: usize = 64;
