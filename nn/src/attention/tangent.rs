//! How attention moves with its queries, keys and values: the forward mode, composed of candle's ops.

use candle_core::{D, Result, Tensor};

use super::between::Between;
use super::shape::Attention;

impl Attention {
    /// The movement of the output for one movement of queries, keys and values.
    ///
    /// With scores `u = scale · q kᵀ`, capped `s = c tanh(u / c)`, and `p = softmax(s)`: `ṗ = p ⊙ (ṡ - Σ p ⊙ ṡ)`, and
    /// the output `p v` moves by `ṗ v + p v̇`. The rotation is linear, so movements are rotated as values are; a bias
    /// does not move.
    ///
    /// # Shapes
    /// As those of [`Attention::forward`], the movements as the values.
    pub(super) fn tangent(&self, values: [&Tensor; 3], moving: [&Tensor; 3], between: Between<'_>) -> Result<Tensor> {
        self.by_example(values[0], between, |example, rows| {
            let [q, k, v] = self.heads_of(values, example, rows.clone(), between.rope)?;
            let [q_moving, k_moving, v_moving] = self.heads_of(moving, example, rows, between.rope)?;
            let scores = self.scores(&q, &k)?;
            let moves = (self.scores(&q_moving, &k)? + self.scores(&q, &k_moving)?)?;
            let moves = match self.soft_cap {
                // the derivative of c tanh(u / c) is 1 - tanh²(u / c)
                Some(cap) => (moves * scores.affine(1.0 / cap, 0.0)?.tanh()?.sqr()?.affine(-1.0, 1.0)?)?,
                None => moves,
            };
            let p = self.probabilities(&scores, between.bias)?;
            let along = (&p * &moves)?.sum_keepdim(D::Minus1)?;
            let p_moving = (&p * moves.broadcast_sub(&along)?)?;
            p_moving.matmul(&v)? + p.matmul(&v_moving)?
        })
    }
}
