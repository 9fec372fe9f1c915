//! How attention moves with its queries, keys and values: the forward mode, composed of candle's ops.

use candle_core::{D, Result, Tensor};

use super::shape::Attention;
use crate::rotation::RopeTables;
use ascribe_curvature::Positions;

impl Attention {
    /// The movement of the output for one movement of queries, keys and values.
    ///
    /// With scores `u = scale · q kᵀ`, capped `s = c tanh(u / c)`, and `p = softmax(s)`: `ṗ = p ⊙ (ṡ - Σ p ⊙ ṡ)`, and
    /// the output `p v` moves by `ṗ v + p v̇`. The rotation is linear, so movements are rotated as values are.
    ///
    /// # Shapes
    /// As those of [`Attention::forward`], the movements as the values.
    pub(super) fn tangent(
        &self,
        values: [&Tensor; 3],
        moving: [&Tensor; 3],
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<Tensor> {
        let mut outputs = Vec::with_capacity(positions.examples());
        for (b, rows) in positions.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let [q, k, v] = self.heads_of(values, b, rows.clone(), rope)?;
            let [q_moving, k_moving, v_moving] = self.heads_of(moving, b, rows, rope)?;
            let scores = self.scores(&q, &k)?;
            let moves = (self.scores(&q_moving, &k)? + self.scores(&q, &k_moving)?)?;
            let moves = match self.soft_cap {
                // the derivative of c tanh(u / c) is 1 - tanh²(u / c)
                Some(cap) => (moves * scores.affine(1.0 / cap, 0.0)?.tanh()?.sqr()?.affine(-1.0, 1.0)?)?,
                None => moves,
            };
            let p = self.probabilities(&scores)?;
            let along = (&p * &moves)?.sum_keepdim(D::Minus1)?;
            let p_moving = (&p * moves.broadcast_sub(&along)?)?;
            outputs.push(self.joined(&(p_moving.matmul(&v)? + p.matmul(&v_moving)?)?)?);
        }
        Tensor::cat(&outputs, 0)
    }
}
