//! Self-attention within each example.

mod context;
mod fused;
mod op;
mod shape;
mod tangent;

use std::ops::Range;

use candle_core::{D, Result, Tensor};

use self::context::Context;
use self::shape::Packing;
pub use self::shape::{Attention, Mask};
use crate::implementation::{Implementation, check_soft_cap};
use crate::rotation::RopeTables;
use ascribe_curvature::gemm::Products;
use ascribe_curvature::{Positions, TangentRule, Traced};

impl Attention {
    /// Causal attention with as many key-value heads as query heads and the scale `1/√d`.
    pub fn causal(heads: usize, head_dimension: usize) -> Self {
        Self {
            heads,
            kv_heads: heads,
            head_dimension,
            scale: 1.0 / (head_dimension as f64).sqrt(),
            mask: Mask::Causal,
            window: None,
            soft_cap: None,
            products: Products::Exact,
        }
    }

    /// Attends; `rope` rotates queries and keys first.
    ///
    /// # Errors
    /// If the shapes do not fit each other, the positions or the tables.
    pub fn forward(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<Tensor> {
        self.forward_with(q, k, v, positions, rope, Implementation::of(q))
    }

    /// Computes what `forward` does by the implementation that is asked for.
    ///
    /// # Errors
    /// If the shapes do not fit each other, the positions or the tables.
    pub fn forward_with(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        positions: &Positions,
        rope: Option<&RopeTables>,
        implementation: Implementation,
    ) -> Result<Tensor> {
        self.check_separate(q, k, v, positions, rope)?;
        match implementation {
            Implementation::Fused => {
                let op = op::Separate(Context::new(self, positions, rope));
                q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
            }
            Implementation::Composed => self.composed(q, k, v, positions, rope),
        }
    }

    /// [`Attention::forward`] of queries, keys and values side by side, `[R, (heads + 2 kv_heads) · d]`. Models of this crate
    /// run [`Attention::trace_packed`], which is tested against it.
    ///
    /// # Errors
    /// If the shapes do not fit the positions or the tables.
    pub fn forward_packed(&self, qkv: &Tensor, positions: &Positions, rope: Option<&RopeTables>) -> Result<Tensor> {
        self.forward_packed_with(qkv, positions, rope, Implementation::of(qkv))
    }

    /// Computes what `forward_packed` does by the implementation that is asked for.
    ///
    /// # Errors
    /// If the shapes do not fit the positions or the tables.
    pub fn forward_packed_with(
        &self,
        qkv: &Tensor,
        positions: &Positions,
        rope: Option<&RopeTables>,
        implementation: Implementation,
    ) -> Result<Tensor> {
        self.packed(qkv, Packing::ByKind, positions, rope, implementation)
    }

    /// [`Attention::forward_packed`] of the queries, keys and values of one head beside those of the next, as GPT-NeoX
    /// packs them: `[R, heads · 3 d]`. There are as many key-value heads as query heads. Models of this crate run
    /// [`Attention::trace_packed_by_head`], which is tested against it.
    ///
    /// # Errors
    /// If the shapes do not fit the positions or the tables.
    pub fn forward_packed_by_head(
        &self,
        qkv: &Tensor,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<Tensor> {
        self.forward_packed_by_head_with(qkv, positions, rope, Implementation::of(qkv))
    }

    /// Computes what `forward_packed_by_head` does by the implementation that is asked for.
    ///
    /// # Errors
    /// If the shapes do not fit the positions or the tables.
    pub fn forward_packed_by_head_with(
        &self,
        qkv: &Tensor,
        positions: &Positions,
        rope: Option<&RopeTables>,
        implementation: Implementation,
    ) -> Result<Tensor> {
        self.packed(qkv, Packing::ByHead, positions, rope, implementation)
    }

    fn packed(
        &self,
        qkv: &Tensor,
        packing: Packing,
        positions: &Positions,
        rope: Option<&RopeTables>,
        implementation: Implementation,
    ) -> Result<Tensor> {
        self.check_packed(qkv, packing, positions, rope)?;
        match implementation {
            Implementation::Fused => {
                qkv.contiguous()?.apply_op1(op::Packed(Context::new(self, positions, rope), packing))
            }
            Implementation::Composed => {
                let [q, k, v] = self.unpacked(qkv, packing)?;
                self.composed(&q, &k, &v, positions, rope)
            }
        }
    }

    /// Queries, keys and values of one row in three tensors.
    fn unpacked(&self, qkv: &Tensor, packing: Packing) -> Result<[Tensor; 3]> {
        let (wide, narrow) = self.widths();
        match packing {
            Packing::ByKind => {
                let part = |start, width| qkv.narrow(1, start, width);
                Ok([part(0, wide)?, part(wide, narrow)?, part(wide + narrow, narrow)?])
            }
            Packing::ByHead => {
                let rows = qkv.dim(0)?;
                let by_head = qkv.reshape((rows, self.heads, 3, self.head_dimension))?;
                let part = |kind| by_head.narrow(2, kind, 1)?.contiguous()?.reshape((rows, wide));
                Ok([part(0)?, part(1)?, part(2)?])
            }
        }
    }

    /// [`Attention::forward`] on a tape.
    ///
    /// # Errors
    /// If the shapes do not fit each other, the positions or the tables.
    pub fn trace(
        &self,
        q: &Traced,
        k: &Traced,
        v: &Traced,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<Traced> {
        let tangent = |values: [&Tensor; 3], moving: [&Tensor; 3]| self.tangent(values, moving, positions, rope);
        let rule = TangentRule::Each(&tangent);
        match Implementation::of(q.value()) {
            Implementation::Fused => {
                self.check_separate(q.value(), k.value(), v.value(), positions, rope)?;
                q.op3_with(k, v, op::Separate(Context::new(self, positions, rope)), rule)
            }
            composed => Traced::composed_with(
                [q, k, v],
                |[q, k, v]| self.forward_with(q, k, v, positions, rope, composed),
                rule,
            ),
        }
    }

    /// [`Attention::forward_packed`] on a tape.
    ///
    /// # Errors
    /// If the shapes do not fit the positions or the tables.
    pub fn trace_packed(&self, qkv: &Traced, positions: &Positions, rope: Option<&RopeTables>) -> Result<Traced> {
        self.trace_packing(qkv, Packing::ByKind, positions, rope)
    }

    /// [`Attention::forward_packed_by_head`] on a tape.
    ///
    /// # Errors
    /// If the shapes do not fit the positions or the tables.
    pub fn trace_packed_by_head(
        &self,
        qkv: &Traced,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<Traced> {
        self.trace_packing(qkv, Packing::ByHead, positions, rope)
    }

    fn trace_packing(
        &self,
        qkv: &Traced,
        packing: Packing,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<Traced> {
        let tangent = |[qkv]: [&Tensor; 1], [moving]: [&Tensor; 1]| {
            let (values, moving) = (self.unpacked(qkv, packing)?, self.unpacked(moving, packing)?);
            self.tangent(values.each_ref(), moving.each_ref(), positions, rope)
        };
        let rule = TangentRule::Each(&tangent);
        match Implementation::of(qkv.value()) {
            Implementation::Fused => {
                self.check_packed(qkv.value(), packing, positions, rope)?;
                qkv.op1_with(op::Packed(Context::new(self, positions, rope), packing), rule)
            }
            composed => {
                Traced::composed_with([qkv], |[qkv]| self.packed(qkv, packing, positions, rope, composed), rule)
            }
        }
    }

    /// Columns of all query heads, and of all key-value heads.
    fn widths(&self) -> (usize, usize) {
        (self.heads * self.head_dimension, self.kv_heads * self.head_dimension)
    }

    fn check_separate(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<()> {
        self.check(positions, rope)?;
        let (wide, narrow) = self.widths();
        for (name, x, width) in [("q", q, wide), ("k", k, narrow), ("v", v, narrow)] {
            expect_shape(name, x, positions, width)?;
        }
        Ok(())
    }

    fn check_packed(
        &self,
        qkv: &Tensor,
        packing: Packing,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<()> {
        self.check(positions, rope)?;
        if packing == Packing::ByHead && self.heads != self.kv_heads {
            candle_core::bail!("{} key-value heads are not packed with {} query heads", self.kv_heads, self.heads);
        }
        let (wide, narrow) = self.widths();
        expect_shape("qkv", qkv, positions, wide + 2 * narrow)
    }

    fn check(&self, positions: &Positions, rope: Option<&RopeTables>) -> Result<()> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            candle_core::bail!("{} query heads cannot share {} key-value heads", self.heads, self.kv_heads);
        }
        if self.window == Some(0) {
            candle_core::bail!("a window of 0 positions sees nothing");
        }
        if let Some(cap) = self.soft_cap {
            check_soft_cap("scores", cap)?;
        }
        rope.map_or(Ok(()), |rope| rope.check(positions, self.head_dimension))
    }

    /// First and one past the last key that query `i` of `length` sees.
    fn seen(&self, i: usize, length: usize) -> (usize, usize) {
        let reach = self.window.unwrap_or(length);
        let end = match self.mask {
            Mask::Causal => i + 1,
            Mask::Bidirectional => (i + reach).min(length),
        };
        ((i + 1).saturating_sub(reach), end)
    }

    fn composed(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        positions: &Positions,
        rope: Option<&RopeTables>,
    ) -> Result<Tensor> {
        let mut outputs = Vec::with_capacity(positions.examples());
        for (b, rows) in positions.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let [q, k, v] = self.heads_of([q, k, v], b, rows, rope)?;
            outputs.push(self.joined(&self.probabilities(&self.scores(&q, &k)?)?.matmul(&v)?)?);
        }
        if outputs.is_empty() {
            return q.zeros_like();
        }
        Tensor::cat(&outputs, 0)
    }

    /// Queries, keys and values of one example by head, `[heads, T, d]`, rotated; a key-value head stands there once for
    /// each of its query heads.
    fn heads_of(
        &self,
        qkv: [&Tensor; 3],
        example: usize,
        rows: Range<usize>,
        rope: Option<&RopeTables>,
    ) -> Result<[Tensor; 3]> {
        let (d, group, length) = (self.head_dimension, self.heads / self.kv_heads, rows.len());
        let part = |x: &Tensor, heads| x.narrow(0, rows.start, length)?.reshape((length, heads, d));
        let turn = |x: Tensor| rope.map_or(Ok(x.clone()), |rope| rope.rotate_composed(&x, example));
        let heads_first = |x: Tensor| x.transpose(0, 1)?.contiguous();
        // [T, kv, d] to [kv, group, T, d]: each key-value head stands beside its query heads
        let shared = |x: Tensor| {
            let x = heads_first(x)?.unsqueeze(1)?.broadcast_as((self.kv_heads, group, length, d))?.contiguous()?;
            x.reshape((self.heads, length, d))
        };
        let [q, k, v] = qkv;
        Ok([
            heads_first(turn(part(q, self.heads)?)?)?,
            shared(turn(part(k, self.kv_heads)?)?)?,
            shared(part(v, self.kv_heads)?)?,
        ])
    }

    /// Scores of one example before a soft cap, `[heads, T, T]`.
    fn scores(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        q.matmul(&k.transpose(1, 2)?.contiguous()?)?.affine(self.scale, 0.0)
    }

    /// What each position sees of the others, from [`Attention::scores`].
    fn probabilities(&self, scores: &Tensor) -> Result<Tensor> {
        let length = scores.dim(D::Minus1)?;
        let scores = match self.soft_cap {
            Some(cap) => scores.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)?,
            None => scores.clone(),
        };
        let hidden: Vec<f64> = (0..length)
            .flat_map(|i| {
                let (start, end) = self.seen(i, length);
                (0..length).map(move |j| if (start..end).contains(&j) { 0.0 } else { f64::NEG_INFINITY })
            })
            .collect();
        let hidden = Tensor::from_vec(hidden, (1, length, length), scores.device())?.to_dtype(scores.dtype())?;
        let scores = scores.broadcast_add(&hidden)?;
        let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
    }

    /// `[heads, T, d]` to `[T, heads · d]`.
    fn joined(&self, heads: &Tensor) -> Result<Tensor> {
        let length = heads.dim(1)?;
        heads.transpose(0, 1)?.contiguous()?.reshape((length, self.widths().0))
    }
}

fn expect_shape(name: &str, x: &Tensor, positions: &Positions, width: usize) -> Result<()> {
    if x.dims() != [positions.rows(), width] {
        candle_core::bail!(
            "attention got {name} of the shape {:?}, expected {:?}",
            x.dims(),
            [positions.rows(), width]
        );
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;
