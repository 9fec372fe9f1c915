//! Attention within each example: of a sequence to itself, or of one to another.

mod between;
mod context;
mod fused;
mod op;
mod shape;
mod tangent;

use std::ops::Range;

use candle_core::{D, Result, Tensor};

pub use self::between::Between;
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
        self.between_with([q, k, v], Between::within(positions, rope), implementation)
    }

    /// What [`Attention::trace_between`] computes, by the implementation that is asked for.
    fn between_with(
        &self,
        [q, k, v]: [&Tensor; 3],
        between: Between<'_>,
        implementation: Implementation,
    ) -> Result<Tensor> {
        self.check_separate([q, k, v], between)?;
        match implementation {
            Implementation::Fused => {
                let op = op::Separate(Context::new(self, between)?);
                q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
            }
            Implementation::Composed => self.composed([q, k, v], between),
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
        let between = Between::within(positions, rope);
        self.check_packed(qkv, packing, between)?;
        match implementation {
            Implementation::Fused => qkv.contiguous()?.apply_op1(op::Packed(Context::new(self, between)?, packing)),
            Implementation::Composed => self.composed(self.unpacked(qkv, packing)?.each_ref(), between),
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
        self.trace_between([q, k, v], Between::within(positions, rope))
    }

    /// Attends with queries of one sequence to keys of the same or of another one.
    ///
    /// # Errors
    /// If the shapes do not fit each other, the positions, the tables or the bias.
    pub fn trace_between(&self, [q, k, v]: [&Traced; 3], between: Between<'_>) -> Result<Traced> {
        let tangent = |values: [&Tensor; 3], moving: [&Tensor; 3]| self.tangent(values, moving, between);
        let rule = TangentRule::Each(&tangent);
        match Implementation::of(q.value()) {
            Implementation::Fused => {
                self.check_separate([q.value(), k.value(), v.value()], between)?;
                q.op3_with(k, v, op::Separate(Context::new(self, between)?), rule)
            }
            composed => Traced::composed_with([q, k, v], |qkv| self.between_with(qkv, between, composed), rule),
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
        let between = Between::within(positions, rope);
        let tangent = |[qkv]: [&Tensor; 1], [moving]: [&Tensor; 1]| {
            let (values, moving) = (self.unpacked(qkv, packing)?, self.unpacked(moving, packing)?);
            self.tangent(values.each_ref(), moving.each_ref(), between)
        };
        let rule = TangentRule::Each(&tangent);
        match Implementation::of(qkv.value()) {
            Implementation::Fused => {
                self.check_packed(qkv.value(), packing, between)?;
                qkv.op1_with(op::Packed(Context::new(self, between)?, packing), rule)
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

    fn check_separate(&self, [q, k, v]: [&Tensor; 3], between: Between<'_>) -> Result<()> {
        self.check(between)?;
        let (wide, narrow) = self.widths();
        let Between { queries, keys, .. } = between;
        for (name, x, positions, width) in [("q", q, queries, wide), ("k", k, keys, narrow), ("v", v, keys, narrow)] {
            expect_shape(name, x, positions, width)?;
        }
        Ok(())
    }

    fn check_packed(&self, qkv: &Tensor, packing: Packing, between: Between<'_>) -> Result<()> {
        self.check(between)?;
        if packing == Packing::ByHead && self.heads != self.kv_heads {
            candle_core::bail!("{} key-value heads are not packed with {} query heads", self.kv_heads, self.heads);
        }
        let (wide, narrow) = self.widths();
        expect_shape("qkv", qkv, between.queries, wide + 2 * narrow)
    }

    fn check(&self, Between { queries, keys, rope, bias }: Between<'_>) -> Result<()> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            candle_core::bail!("{} query heads cannot share {} key-value heads", self.heads, self.kv_heads);
        }
        if self.window == Some(0) {
            candle_core::bail!("a window of 0 positions sees nothing");
        }
        if let Some(cap) = self.soft_cap {
            check_soft_cap("scores", cap)?;
        }
        let all_seen = self.mask == Mask::Bidirectional && self.window.is_none();
        let mut lengths = queries.iter().zip(keys.iter()).map(|(queries, keys)| (queries.len(), keys.len()));
        let fit = |(queries, keys)| queries == keys || all_seen && keys > 0;
        if queries.examples() != keys.examples() || !lengths.all(fit) {
            candle_core::bail!(
                "attention needs queries and keys of the same examples, and a mask or window as many of both"
            );
        }
        let needed = [self.heads, queries.longest(), keys.longest()];
        if let Some(bias) = bias
            && (bias.rank() != 3
                || bias.dim(0)? != self.heads
                || bias.dims().iter().zip(needed).any(|(&found, needed)| found < needed))
        {
            candle_core::bail!("attention got a bias of the shape {:?}, expected at least {needed:?}", bias.dims());
        }
        let Some(rope) = rope else { return Ok(()) };
        rope.check(queries, self.head_dimension)?;
        rope.check(keys, self.head_dimension)
    }

    /// First and one past the last of `keys` keys that query `i` sees.
    fn seen(&self, i: usize, keys: usize) -> (usize, usize) {
        let start = self.window.map_or(0, |reach| (i + 1).saturating_sub(reach));
        let end = match self.mask {
            Mask::Causal => i + 1,
            Mask::Bidirectional => self.window.map_or(keys, |reach| (i + reach).min(keys)),
        };
        (start, end)
    }

    fn composed(&self, qkv: [&Tensor; 3], between: Between<'_>) -> Result<Tensor> {
        self.by_example(qkv[0], between, |example, rows| {
            let [q, k, v] = self.heads_of(qkv, example, rows, between.rope)?;
            self.probabilities(&self.scores(&q, &k)?, between.bias)?.matmul(&v)
        })
    }

    /// What `f` makes of the rows of queries and of keys of each example, `[heads, T, d]`, one example below the other, in
    /// the shape of `queries`.
    fn by_example(
        &self,
        queries: &Tensor,
        between: Between<'_>,
        f: impl Fn(usize, [Range<usize>; 2]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let rows = between.queries.iter().zip(between.keys.iter()).enumerate();
        let outputs = rows.filter(|(_, (queries, _))| !queries.is_empty());
        let outputs = outputs.map(|(example, (queries, keys))| self.joined(&f(example, [queries, keys])?));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        if outputs.is_empty() { queries.zeros_like() } else { Tensor::cat(&outputs, 0) }
    }

    /// Queries, keys and values of one example by head, `[heads, T, d]`, rotated; a key-value head stands there once for
    /// each of its query heads.
    fn heads_of(
        &self,
        qkv: [&Tensor; 3],
        example: usize,
        [queries, keys]: [Range<usize>; 2],
        rope: Option<&RopeTables>,
    ) -> Result<[Tensor; 3]> {
        let (d, group, length) = (self.head_dimension, self.heads / self.kv_heads, keys.len());
        let part = |x: &Tensor, heads, rows: &Range<usize>| {
            x.narrow(0, rows.start, rows.len())?.reshape((rows.len(), heads, d))
        };
        let turn = |x: Tensor| rope.map_or(Ok(x.clone()), |rope| rope.rotate_composed(&x, example));
        let heads_first = |x: Tensor| x.transpose(0, 1)?.contiguous();
        // [T, kv, d] to [kv, group, T, d]: each key-value head stands beside its query heads
        let shared = |x: Tensor| {
            let x = heads_first(x)?.unsqueeze(1)?.broadcast_as((self.kv_heads, group, length, d))?.contiguous()?;
            x.reshape((self.heads, length, d))
        };
        let [q, k, v] = qkv;
        Ok([
            heads_first(turn(part(q, self.heads, &queries)?)?)?,
            shared(turn(part(k, self.kv_heads, &keys)?)?)?,
            shared(part(v, self.kv_heads, &keys)?)?,
        ])
    }

    /// Scores of one example before a soft cap and a bias, `[heads, T, S]`.
    fn scores(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        q.matmul(&k.transpose(1, 2)?.contiguous()?)?.affine(self.scale, 0.0)
    }

    /// What each position sees of the others, from [`Attention::scores`].
    fn probabilities(&self, scores: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (_, queries, keys) = scores.dims3()?;
        let mut scores = match self.soft_cap {
            Some(cap) => scores.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)?,
            None => scores.clone(),
        };
        if let Some(bias) = bias {
            scores = (scores + bias.narrow(1, 0, queries)?.narrow(2, 0, keys)?)?;
        }
        let hidden: Vec<f64> = (0..queries)
            .flat_map(|i| {
                let (start, end) = self.seen(i, keys);
                (0..keys).map(move |j| if (start..end).contains(&j) { 0.0 } else { f64::NEG_INFINITY })
            })
            .collect();
        let hidden = Tensor::from_vec(hidden, (1, queries, keys), scores.device())?.to_dtype(scores.dtype())?;
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
