//! The kernel: one task for each example and head, blocks of query positions inside.
#![allow(unsafe_code)] // tasks write disjoint columns of one buffer

use std::ops::Range;

use rayon::prelude::*;

use super::super::kernel::{self, Columns, with_workspace};
use super::super::rotation::Direction;
use super::context::{Bias, Context};
use super::shape::{Attention, BLOCK};
use ascribe_curvature::gemm::{Into, Threads, View, ViewMut, matmul};

/// Columns `offset..` of a row-major matrix with rows `stride` apart, in which each head begins `pitch` columns behind
/// the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) data: &'a [f32],
    pub(super) offset: usize,
    pub(super) stride: usize,
    pub(super) pitch: usize,
}

impl<'a> Part<'a> {
    /// The `width` columns of a head, in `rows`.
    fn view(self, rows: Range<usize>, head: usize, width: usize) -> View<'a, f32> {
        let start = (rows.start * self.stride + self.offset + head * self.pitch).min(self.data.len());
        View::new(&self.data[start..], rows.len(), width, self.stride)
    }

    fn row(self, row: usize, head: usize, width: usize) -> &'a [f32] {
        let start = row * self.stride + self.offset + head * self.pitch;
        &self.data[start..start + width]
    }
}

/// The columns of one head in each row of a matrix that is written to.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartMut<'a> {
    pub(super) columns: Columns<'a>,
    pub(super) offset: usize,
    pub(super) pitch: usize,
}

impl<'a> PartMut<'a> {
    /// The `width` columns of a head in `row`.
    ///
    /// # Safety
    /// No other task may use these rows and columns.
    #[allow(clippy::mut_from_ref)]
    unsafe fn row(&self, row: usize, head: usize, width: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.columns.part(row, self.offset + head * self.pitch, width) }
    }
}

/// Queries, keys and values, and what is added to scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) q: Part<'a>,
    pub(super) k: Part<'a>,
    pub(super) v: Part<'a>,
    pub(super) bias: Option<Bias<'a>>,
}

/// One head of one example.
struct Head<'a> {
    context: &'a Context,
    inputs: Inputs<'a>,
    /// Example, and its rows of queries and of keys in the batch.
    example: usize,
    queries: Range<usize>,
    keys: Range<usize>,
    /// The query head, and its key-value head.
    query: usize,
    key: usize,
}

impl<'a> Head<'a> {
    fn new(context: &'a Context, inputs: Inputs<'a>, example: usize, query: usize) -> Self {
        let Attention { heads, kv_heads, .. } = context.attention;
        let (queries, keys) = (context.queries.example(example), context.keys.example(example));
        Self { context, inputs, example, queries, keys, query, key: query / (heads / kv_heads) }
    }

    fn width(&self) -> usize {
        self.context.attention.head_dimension
    }

    /// Rows of the batch for the query positions `block` of the example.
    fn at(&self, block: &Range<usize>) -> Range<usize> {
        self.queries.start + block.start..self.queries.start + block.end
    }

    /// Values of the keys `seen`.
    fn values(&self, seen: &Range<usize>) -> View<'a, f32> {
        let rows = self.keys.start + seen.start..self.keys.start + seen.end;
        self.inputs.v.view(rows, self.key, self.width())
    }

    /// Blocks of query positions.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let length = self.queries.len();
        (0..length).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(length))
    }

    /// Keys that some query of the block sees.
    fn seen(&self, block: &Range<usize>) -> Range<usize> {
        let seen = |i| self.context.attention.seen(i, self.keys.len());
        seen(block.start).0..seen(block.end - 1).1
    }

    /// The head's keys, rotated into `space` if there are rotary embeddings.
    fn all_keys<'s>(&self, space: &'s mut [f32]) -> Part<'s>
    where
        'a: 's,
    {
        self.rotated(self.inputs.k, self.key, self.keys.start, &(0..self.keys.len()), space)
    }

    /// The queries of a block, rotated into `space` if there are rotary embeddings.
    fn queries_of<'s>(&self, block: &Range<usize>, space: &'s mut [f32]) -> Part<'s>
    where
        'a: 's,
    {
        self.rotated(self.inputs.q, self.query, self.queries.start, block, space)
    }

    /// The rows of the positions `block` of an example that begins in row `start`: row 0 of the result is position
    /// `block.start`.
    fn rotated<'s>(
        &self,
        x: Part<'a>,
        head: usize,
        start: usize,
        block: &Range<usize>,
        space: &'s mut [f32],
    ) -> Part<'s>
    where
        'a: 's,
    {
        let (width, first) = (self.width(), start + block.start);
        let Some(rope) = &self.context.rope else {
            let start = (first * x.stride + x.offset + head * x.pitch).min(x.data.len());
            return Part { data: &x.data[start..], offset: 0, stride: x.stride, pitch: 0 };
        };
        for (i, to) in space[..block.len() * width].chunks_exact_mut(width).enumerate() {
            rope.rotate(self.example, block.start + i, x.row(first + i, head, width), Direction::Forwards, to);
        }
        Part { data: space, offset: 0, stride: width, pitch: 0 }
    }

    /// Probabilities of a block, `[block, keys]`, zero where a query does not see a key. Under a soft cap, `slopes`
    /// gets the derivatives of capped scores, if it is given.
    fn probabilities(
        &self,
        block: &Range<usize>,
        queries: Part<'_>,
        keys: Part<'_>,
        p: &mut [f32],
        mut slopes: Option<&mut [f32]>,
    ) {
        let attention = &self.context.attention;
        let (seen, width) = (self.seen(block), self.width());
        let n = seen.len();
        let (q, k) = (queries.view(0..block.len(), 0, width), keys.view(seen.clone(), 0, width));
        attention.product(ViewMut::dense(p, block.len(), n), Into::Replace, q, k.t());
        for (r, (i, row)) in block.clone().zip(p.chunks_exact_mut(n)).enumerate() {
            let (start, end) = attention.seen(i, self.keys.len());
            let visible = start - seen.start..end - seen.start;
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
            let (row, scale) = (&mut row[visible.clone()], attention.scale as f32);
            let bias = self.inputs.bias.map(|bias| bias.row(self.query, i, start..end));
            let is_plain = attention.soft_cap.is_none() && bias.is_none();
            match (attention.soft_cap, slopes.as_deref_mut()) {
                (None, _) if is_plain => {}
                (None, _) => kernel::scale(row, scale),
                (Some(cap), None) => kernel::soft_cap(row, scale, cap as f32),
                (Some(cap), Some(slopes)) => {
                    let slopes = &mut slopes[r * n..(r + 1) * n];
                    // the gradient is 0 there, and has to stay it
                    slopes[..visible.start].fill(0.0);
                    slopes[visible.end..].fill(0.0);
                    kernel::soft_cap_and_slopes(row, &mut slopes[visible], scale, cap as f32);
                }
            }
            if let Some(bias) = bias {
                kernel::add(row, bias);
            }
            kernel::softmax(row, if is_plain { scale } else { 1.0 });
        }
    }
}

/// Most keys that a block can see.
fn most_keys(context: &Context) -> usize {
    let length = context.keys.longest();
    match context.attention.window {
        Some(window) => length.min(BLOCK + 2 * window),
        None => length,
    }
}

/// Numbers needed for rotated keys of an example.
fn rotated_keys(context: &Context) -> usize {
    if context.rope.is_some() { context.keys.longest() * context.attention.head_dimension } else { 0 }
}

impl Attention {
    fn product(&self, c: ViewMut<'_, f32>, into: Into, a: View<'_, f32>, b: View<'_, f32>) {
        matmul(c, into, 1.0, a.to(self.products), b, Threads::One);
    }
}

/// `output = softmax(scale · q kᵀ) v`.
pub(super) fn forward(context: &Context, inputs: Inputs<'_>, output: PartMut<'_>) {
    let attention = &context.attention;
    let (heads, width) = (attention.heads, attention.head_dimension);
    let (most, rotated) = (most_keys(context), rotated_keys(context));
    (0..context.queries.examples() * heads).into_par_iter().with_max_len(1).for_each(|task| {
        let head = Head::new(context, inputs, task / heads, task % heads);
        with_workspace(rotated + BLOCK * (2 * width + most), |space| {
            let (k_space, space) = space.split_at_mut(rotated);
            let (q_space, space) = space.split_at_mut(BLOCK * width);
            let (o, p) = space.split_at_mut(BLOCK * width);
            let k = head.all_keys(k_space);
            for block in head.blocks() {
                let (m, seen) = (block.len(), head.seen(&block));
                let p = &mut p[..m * seen.len()];
                let q = head.queries_of(&block, q_space);
                head.probabilities(&block, q, k, p, None);
                let v = head.values(&seen);
                let probabilities = View::dense(p, m, seen.len());
                attention.product(ViewMut::dense(&mut o[..m * width], m, width), Into::Replace, probabilities, v);
                for (row, o) in head.at(&block).zip(o.chunks_exact(width)) {
                    // SAFETY: this task alone writes these rows of this query head.
                    unsafe { output.row(row, head.query, width) }.copy_from_slice(o);
                }
            }
        });
    });
}

/// Gradients at `q`, `k`, `v` from the one at the output.
pub(super) fn backward(context: &Context, inputs: Inputs<'_>, gradient: Part<'_>, [dq, dk, dv]: [PartMut<'_>; 3]) {
    let attention = &context.attention;
    let (kv_heads, width) = (attention.kv_heads, attention.head_dimension);
    let group = attention.heads / kv_heads;
    let (most, rotated) = (most_keys(context), rotated_keys(context));
    let all = context.keys.longest() * width;
    let capped = if attention.soft_cap.is_some() { most } else { 0 };
    // One task for each key-value head: it sums over its query heads in their order.
    (0..context.queries.examples() * kv_heads).into_par_iter().with_max_len(1).for_each(|task| {
        let (example, kv_head) = (task / kv_heads, task % kv_heads);
        let rows = context.keys.example(example);
        let length = rows.len();
        with_workspace(rotated + 2 * all + BLOCK * (2 * width + 2 * most + capped), |space| {
            let (k_space, space) = space.split_at_mut(rotated);
            let (dk_sum, space) = space.split_at_mut(all);
            let (dv_sum, space) = space.split_at_mut(all);
            let (q_space, space) = space.split_at_mut(BLOCK * width);
            let (dq_block, space) = space.split_at_mut(BLOCK * width);
            let (p, space) = space.split_at_mut(BLOCK * most);
            let (dp, slopes) = space.split_at_mut(BLOCK * most);
            dk_sum[..length * width].fill(0.0);
            dv_sum[..length * width].fill(0.0);
            let head = |query| Head::new(context, inputs, example, query);
            let k = head(kv_head * group).all_keys(k_space);
            for head in (kv_head * group..(kv_head + 1) * group).map(head) {
                for block in head.blocks() {
                    let (m, seen) = (block.len(), head.seen(&block));
                    let n = seen.len();
                    let (p, dp) = (&mut p[..m * n], &mut dp[..m * n]);
                    let mut slopes = attention.soft_cap.map(|_| &mut slopes[..m * n]);
                    let q = head.queries_of(&block, q_space);
                    head.probabilities(&block, q, k, p, slopes.as_deref_mut());
                    let s = gradient.view(head.at(&block), head.query, width);
                    let v = head.values(&seen);
                    let part = seen.start * width..seen.end * width;
                    attention.product(
                        ViewMut::dense(&mut dv_sum[part.clone()], n, width),
                        Into::Add,
                        View::dense(p, m, n).t(),
                        s,
                    );
                    attention.product(ViewMut::dense(dp, m, n), Into::Replace, s, v.t());
                    // p is 0 where a key is not seen, and so is the gradient
                    let factor = if slopes.is_some() { 1.0 } else { attention.scale as f32 };
                    for (p, dp) in p.chunks_exact(n).zip(dp.chunks_exact_mut(n)) {
                        kernel::softmax_backward(p, dp, factor);
                    }
                    if let Some(slopes) = slopes {
                        kernel::multiply(dp, slopes);
                    }
                    let ds = View::dense(dp, m, n);
                    let q = q.view(0..m, 0, width);
                    attention.product(ViewMut::dense(&mut dk_sum[part], n, width), Into::Add, ds.t(), q);
                    let dq_block = &mut dq_block[..m * width];
                    attention.product(ViewMut::dense(dq_block, m, width), Into::Replace, ds, k.view(seen, 0, width));
                    // SAFETY: this task alone writes these rows of this query head.
                    unsafe { head.unrotate_into(dq, head.query, head.queries.start, &block, dq_block) };
                }
            }
            let head = head(kv_head * group);
            // SAFETY: this task alone writes these rows of this key-value head.
            unsafe { head.unrotate_into(dk, kv_head, rows.start, &(0..length), dk_sum) };
            for (row, from) in rows.clone().zip(dv_sum.chunks_exact(width)) {
                // SAFETY: the same.
                unsafe { dv.row(row, kv_head, width) }.copy_from_slice(from);
            }
        });
    });
}

impl Head<'_> {
    /// Writes the gradients of the positions `block` of an example that begins in row `start`, taking the rotation back.
    ///
    /// # Safety
    /// No other task may use these rows and columns.
    unsafe fn unrotate_into(&self, to: PartMut<'_>, head: usize, start: usize, block: &Range<usize>, from: &[f32]) {
        let width = self.width();
        for (i, from) in block.clone().zip(from.chunks_exact(width)) {
            // SAFETY: the caller's promise.
            let to = unsafe { to.row(start + i, head, width) };
            match &self.context.rope {
                Some(rope) => rope.rotate(self.example, i, from, Direction::Transposed, to),
                None => to.copy_from_slice(from),
            }
        }
    }
}
