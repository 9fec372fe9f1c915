//! Disentangled attention on the CPU: one task for each example and head, blocks of query positions inside. Probabilities
//! are formed again on the way back, so that nothing is kept but queries, keys and values.

use std::ops::Range;

use rayon::prelude::*;

use super::distances::Reach;
use super::rows::RelativeRows;
use super::shape::DisentangledAttention;
use crate::kernel::{self, Workspace, with_workspace};
use ascribe_curvature::Positions;
use ascribe_curvature::gemm::{Into, Real, Threads, View, ViewMut, matmul};

/// Query positions that are computed together.
const BLOCK: usize = 64;

/// The types that the kernel runs in.
pub(super) trait Number: Real + Workspace {
    /// `row ← softmax(factor · row)`.
    fn softmax(row: &mut [Self], factor: Self);

    /// `g ← factor · p ⊙ (g - <g, p>)`.
    fn softmax_backward(p: &[Self], g: &mut [Self], factor: Self);
}

impl Number for f32 {
    fn softmax(row: &mut [Self], factor: Self) {
        kernel::softmax(row, factor);
    }

    fn softmax_backward(p: &[Self], g: &mut [Self], factor: Self) {
        kernel::softmax_backward(p, g, factor);
    }
}

impl Number for f64 {
    fn softmax(row: &mut [Self], factor: Self) {
        let largest = row.iter().fold(Self::NEG_INFINITY, |largest, &x| largest.max(x * factor));
        row.iter_mut().for_each(|x| *x = (*x * factor - largest).exp());
        let sum: Self = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }

    fn softmax_backward(p: &[Self], g: &mut [Self], factor: Self) {
        let dot: Self = p.iter().zip(g.iter()).map(|(p, g)| p * g).sum();
        p.iter().zip(g).for_each(|(p, g)| *g = factor * p * (*g - dot));
    }
}

/// One head of one example.
struct Head<'a, T> {
    attention: &'a DisentangledAttention,
    reach: &'a Reach,
    /// T.
    length: usize,
    /// Queries, keys and values of all rows, each with the first row of the example.
    inputs: [(&'a [T], usize); 3],
    head: usize,
}

impl<'a, T: Number> Head<'a, T> {
    /// Of task `task`.
    fn new(attention: &'a DisentangledAttention, rows: &'a RelativeRows, inputs: [&'a [T]; 3], task: usize) -> Self {
        let (example, head) = (task / attention.heads, task % attention.heads);
        let [q, k, v] = attention.positions(rows).map(|positions| positions.example(example).start);
        let length = rows.hidden().example(example).len();
        let inputs = [(inputs[0], q), (inputs[1], k), (inputs[2], v)];
        Self { attention, reach: rows.reach(example), length, inputs, head }
    }

    fn width(&self) -> usize {
        self.attention.head_dimension
    }

    /// M of the example.
    fn relative(&self) -> usize {
        self.reach.rows.len()
    }

    /// The head's columns of some of the example's rows.
    fn view(&self, of: usize, rows: Range<usize>) -> View<'a, T> {
        let (data, first) = self.inputs[of];
        self.part(data, first, rows)
    }

    fn part(&self, data: &'a [T], first: usize, rows: Range<usize>) -> View<'a, T> {
        let stride = self.attention.heads * self.width();
        let start = ((first + rows.start) * stride + self.head * self.width()).min(data.len());
        View::new(&data[start..], rows.len(), self.width(), stride)
    }

    fn queries(&self, rows: Range<usize>) -> View<'a, T> {
        self.view(0, rows)
    }

    fn keys(&self) -> View<'a, T> {
        self.view(1, 0..self.length)
    }

    fn values(&self) -> View<'a, T> {
        self.view(2, 0..self.length)
    }

    /// Queries of the relative rows.
    fn relative_queries(&self) -> View<'a, T> {
        self.view(0, self.length..self.length + self.relative())
    }

    /// Keys of the relative rows.
    fn relative_keys(&self) -> View<'a, T> {
        self.view(1, self.length..self.length + self.relative())
    }

    /// Blocks of query positions.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<T> {
        let length = self.length;
        (0..length).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(length))
    }

    fn product(&self, c: &mut [T], (rows, columns): (usize, usize), into: Into, a: View<'_, T>, b: View<'_, T>) {
        let c = ViewMut::dense(&mut c[..rows * columns], rows, columns);
        matmul(c, into, T::of(1.0), a.to(self.attention.products), b, Threads::One);
    }

    /// Keys by relative queries, `[T, M]`: what position to content takes from.
    fn by_key(&self, to: &mut [T]) {
        if self.attention.position_to_content {
            let shape = (self.length, self.relative());
            self.product(to, shape, Into::Replace, self.keys(), self.relative_queries().t());
        }
    }

    /// Probabilities of a block, `[block, T]`. `by_query` is memory for queries by relative keys, `[block, M]`.
    fn probabilities(&self, block: &Range<usize>, p: &mut [T], by_query: &mut [T], by_key: &[T]) {
        let (n, m, queries) = (self.length, self.relative(), self.queries(block.clone()));
        self.product(p, (block.len(), n), Into::Replace, queries, self.keys().t());
        if self.attention.content_to_position {
            self.product(by_query, (block.len(), m), Into::Replace, queries, self.relative_keys().t());
        }
        for (r, (i, row)) in block.clone().zip(p.chunks_exact_mut(n)).enumerate() {
            let places = self.reach.of_query(i, n);
            if self.attention.content_to_position {
                let of_query = &by_query[r * m..(r + 1) * m];
                row.iter_mut().zip(places.clone()).for_each(|(score, place)| *score += of_query[place]);
            }
            if self.attention.position_to_content {
                let of_keys = by_key.chunks_exact(m);
                row.iter_mut().zip(places).zip(of_keys).for_each(|((score, place), of_key)| *score += of_key[place]);
            }
            T::softmax(row, T::of(self.attention.scale));
        }
    }

    /// The output, `[T, d]`.
    fn forward(&self, output: &mut [T]) {
        let (n, m, width) = (self.length, self.relative(), self.width());
        with_workspace(n * m + BLOCK * (n + m), |space: &mut [T]| {
            let (by_key, space) = space.split_at_mut(n * m);
            let (p, by_query) = space.split_at_mut(BLOCK * n);
            self.by_key(by_key);
            for (block, output) in self.blocks().zip(output.chunks_mut(BLOCK * width)) {
                let p = &mut p[..block.len() * n];
                self.probabilities(&block, p, by_query, by_key);
                let p = View::dense(p, block.len(), n);
                self.product(output, (block.len(), width), Into::Replace, p, self.values());
            }
        });
    }

    /// Gradients at the queries, the keys and the values of the example, which hold zeros, from the one at its output.
    fn backward(&self, gradient: &'a [T], [dq, dk, dv]: [&mut [T]; 3]) {
        let (n, m, width) = (self.length, self.relative(), self.width());
        let DisentangledAttention { content_to_position, position_to_content, scale, .. } = *self.attention;
        let (_, first) = self.inputs[2];
        with_workspace(2 * n * m + BLOCK * 2 * (n + m), |space: &mut [T]| {
            let (by_key, space) = space.split_at_mut(n * m);
            // gradients at keys by relative queries and, of a block, at queries by relative keys
            let (at_keys, space) = space.split_at_mut(n * m);
            let (p, space) = space.split_at_mut(BLOCK * n);
            let (dp, space) = space.split_at_mut(BLOCK * n);
            let (by_query, at_queries) = space.split_at_mut(BLOCK * m);
            at_keys.fill(T::of(0.0));
            self.by_key(by_key);
            let (dk, relative_dk) = dk.split_at_mut(n * width);
            let (dq, relative_dq) = dq.split_at_mut(n * width);
            for (block, dq) in self.blocks().zip(dq.chunks_mut(BLOCK * width)) {
                let rows = block.len();
                let (p, dp) = (&mut p[..rows * n], &mut dp[..rows * n]);
                self.probabilities(&block, p, by_query, by_key);
                let s = self.part(gradient, first, block.clone());
                self.product(dv, (n, width), Into::Add, View::dense(p, rows, n).t(), s);
                self.product(dp, (rows, n), Into::Replace, s, self.values().t());
                for (p, dp) in p.chunks_exact(n).zip(dp.chunks_exact_mut(n)) {
                    T::softmax_backward(p, dp, T::of(scale));
                }
                let (queries, u) = (self.queries(block.clone()), View::dense(dp, rows, n));
                self.product(dq, (rows, width), Into::Replace, u, self.keys());
                self.product(dk, (n, width), Into::Add, u.t(), queries);
                at_queries.fill(T::of(0.0));
                for (r, (i, u)) in block.clone().zip(dp.chunks_exact(n)).enumerate() {
                    let places = self.reach.of_query(i, n);
                    if content_to_position {
                        let at = &mut at_queries[r * m..(r + 1) * m];
                        u.iter().zip(places.clone()).for_each(|(&u, place)| at[place] += u);
                    }
                    if position_to_content {
                        let at = at_keys.chunks_exact_mut(m);
                        u.iter().zip(places).zip(at).for_each(|((&u, place), at)| at[place] += u);
                    }
                }
                if content_to_position {
                    let at = View::dense(&at_queries[..rows * m], rows, m);
                    self.product(dq, (rows, width), Into::Add, at, self.relative_keys());
                    self.product(relative_dk, (m, width), Into::Add, at.t(), queries);
                }
            }
            if position_to_content {
                let at = View::dense(at_keys, n, m);
                self.product(dk, (n, width), Into::Add, at, self.relative_queries());
                self.product(relative_dq, (m, width), Into::Replace, at.t(), self.keys());
            }
        });
    }
}

impl DisentangledAttention {
    /// The output, `[R, H d]`.
    pub(super) fn forward<T: Number>(&self, rows: &RelativeRows, inputs: [&[T]; 3]) -> Vec<T> {
        let mut by_head = vec![T::of(0.0); inputs[2].len()];
        let tasks = self.of_heads(rows.hidden(), &mut by_head).into_par_iter().enumerate().with_max_len(1);
        tasks.for_each(|(task, output)| Head::new(self, rows, inputs, task).forward(output));
        self.beside(rows.hidden(), &by_head)
    }

    /// Gradients at queries, keys and values from the one at the output.
    pub(super) fn backward<T: Number>(&self, rows: &RelativeRows, inputs: [&[T]; 3], gradient: &[T]) -> [Vec<T>; 3] {
        // memory that threads asked for by themselves would stay theirs
        let [mut q, mut k, mut v] = inputs.map(|input| vec![T::of(0.0); input.len()]);
        let [of_q, of_k, of_v] = self.positions(rows);
        let tasks = self.of_heads(of_q, &mut q).into_par_iter().zip(self.of_heads(of_k, &mut k));
        let tasks = tasks.zip(self.of_heads(of_v, &mut v)).enumerate().with_max_len(1);
        tasks.for_each(|(task, ((dq, dk), dv))| {
            Head::new(self, rows, inputs, task).backward(gradient, [dq, dk, dv]);
        });
        [self.beside(of_q, &q), self.beside(of_k, &k), self.beside(of_v, &v)]
    }

    /// The parts of a buffer that belong to each head of each example, one behind the other.
    fn of_heads<'a, T>(&self, positions: &Positions, mut buffer: &'a mut [T]) -> Vec<&'a mut [T]> {
        let mut parts = Vec::with_capacity(positions.examples() * self.heads);
        for rows in positions.iter() {
            for _ in 0..self.heads {
                let (own, rest) = buffer.split_at_mut(rows.len() * self.head_dimension);
                parts.push(own);
                buffer = rest;
            }
        }
        parts
    }

    /// The rows of every head of every example, which lie one behind the other, beside and below each other.
    fn beside<T: Number>(&self, positions: &Positions, by_head: &[T]) -> Vec<T> {
        let (width, stride) = (self.head_dimension, self.heads * self.head_dimension);
        let mut beside = vec![T::of(0.0); by_head.len()];
        for rows in positions.iter().filter(|rows| !rows.is_empty()) {
            let own = rows.start * stride..rows.end * stride;
            let (from, to) = (&by_head[own.clone()], &mut beside[own]);
            for (h, from) in from.chunks_exact(rows.len() * width).enumerate() {
                let rows = to.chunks_exact_mut(stride).zip(from.chunks_exact(width));
                rows.for_each(|(to, from)| to[h * width..(h + 1) * width].copy_from_slice(from));
            }
        }
        beside
    }
}
