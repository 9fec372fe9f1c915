//! Disentangled attention of candle's ops, for every type and device, and its tangents.

use candle_core::{D, Result, Tensor};

use super::distances::Reach;
use super::rows::RelativeRows;
use super::shape::DisentangledAttention;

impl DisentangledAttention {
    /// The output, an example at a time.
    pub(super) fn composed(&self, values: [&Tensor; 3], rows: &RelativeRows) -> Result<Tensor> {
        self.by_example(rows, values[2], |b| {
            let ([q, k, v], length) = self.heads_of(values, b, rows)?;
            probabilities(&self.scores(&q, &k, length, rows.reach(b))?)?.matmul(&v)
        })
    }

    /// The movement of the output for one movement of queries, keys and values. Scores `u` are linear in queries and in
    /// keys, and with `p = softmax(u)`, `ṗ = p ⊙ (u̇ - Σ p ⊙ u̇)`, the output `p v` moves by `ṗ v + p v̇`.
    pub(super) fn tangent(&self, values: [&Tensor; 3], moving: [&Tensor; 3], rows: &RelativeRows) -> Result<Tensor> {
        self.by_example(rows, values[2], |b| {
            let ([q, k, v], length) = self.heads_of(values, b, rows)?;
            let ([q_moving, k_moving, v_moving], _) = self.heads_of(moving, b, rows)?;
            let scores = |q: &Tensor, k: &Tensor| self.scores(q, k, length, rows.reach(b));
            let moves = (scores(&q_moving, &k)? + scores(&q, &k_moving)?)?;
            let p = probabilities(&scores(&q, &k)?)?;
            let along = (&p * &moves)?.sum_keepdim(D::Minus1)?;
            let p_moving = (&p * moves.broadcast_sub(&along)?)?;
            p_moving.matmul(&v)? + p.matmul(&v_moving)?
        })
    }

    /// What `f` makes of each example that has rows, `[H, T, d]`, one example below the other; `[0, H d]` if none has.
    fn by_example(&self, rows: &RelativeRows, values: &Tensor, f: impl Fn(usize) -> Result<Tensor>) -> Result<Tensor> {
        let mut outputs = vec![];
        for (b, own) in rows.hidden().iter().enumerate().filter(|(_, own)| !own.is_empty()) {
            let joined = f(b)?.transpose(0, 1)?.contiguous()?;
            outputs.push(joined.reshape((own.len(), self.heads * self.head_dimension))?);
        }
        if outputs.is_empty() { values.zeros_like() } else { Tensor::cat(&outputs, 0) }
    }

    /// Queries, keys and values of one example by head, `[H, rows, d]`, and its tokens.
    fn heads_of(&self, values: [&Tensor; 3], example: usize, rows: &RelativeRows) -> Result<([Tensor; 3], usize)> {
        let of = |x: &Tensor, own: std::ops::Range<usize>| {
            let x = x.narrow(0, own.start, own.len())?.reshape((own.len(), self.heads, self.head_dimension))?;
            x.transpose(0, 1)?.contiguous()
        };
        let [q, k, v] = values;
        let [of_q, of_k, of_v] = self.positions(rows).map(|positions| positions.example(example));
        let length = of_v.len();
        Ok(([of(q, of_q)?, of(k, of_k)?, of(v, of_v)?], length))
    }

    /// Scores of one example, `[H, T, T]`: linear in `q`, and in `k`.
    fn scores(&self, q: &Tensor, k: &Tensor, length: usize, reach: &Reach) -> Result<Tensor> {
        let product = |a: &Tensor, b: &Tensor| a.matmul(&b.transpose(1, 2)?.contiguous()?);
        let hidden = |x: &Tensor| x.narrow(1, 0, length)?.contiguous();
        let relative = |x: &Tensor| x.narrow(1, length, reach.rows.len())?.contiguous();
        let (own_q, own_k) = (hidden(q)?, hidden(k)?);
        let mut scores = product(&own_q, &own_k)?;
        // which relative row each pair has, by query and key, or by key and query
        let rows = |by_key: bool| {
            let at = |i: usize, j: usize| reach.places[if by_key { length - 1 + j - i } else { length - 1 + i - j }];
            let at: Vec<u32> = (0..length).flat_map(|i| (0..length).map(move |j| at(i, j))).collect();
            let at = Tensor::from_vec(at, (1, length, length), q.device())?;
            at.broadcast_as((self.heads, length, length))?.contiguous()
        };
        if self.content_to_position {
            scores = (scores + product(&own_q, &relative(k)?)?.gather(&rows(false)?, 2)?)?;
        }
        if self.position_to_content {
            let by_key = product(&own_k, &relative(q)?)?.gather(&rows(true)?, 2)?;
            scores = (scores + by_key.transpose(1, 2)?)?;
        }
        scores.affine(self.scale, 0.0)
    }
}

/// What each position sees of the others.
fn probabilities(scores: &Tensor) -> Result<Tensor> {
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}
