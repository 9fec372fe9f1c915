//! Vectors of queries, whole or as factors, and scores with factors.

use rayon::prelude::*;

use crate::contraction::gradient_block::QUERIES;
use crate::contraction::rows::Rows;
use crate::linalg::dot::sum_over;
use crate::linalg::gemm::{self, Packed, Real, Threads, View, ViewMut};
use crate::network::layer::LayerSpec;

/// Rows of a batch that one task multiplies with factors.
const ROWS: usize = 128;

/// Terms (queries times rank) that are multiplied at a time.
const TERMS: usize = 1024;

/// The vectors of some queries at one layer.
#[derive(Debug, Clone, Copy)]
pub enum Vectors<'a, T> {
    /// `[Q, O, columns]`.
    Full(&'a [T]),
    /// Approximately.
    LowRank(LowRank<'a, T>),
}

/// `Σ_k l_k r_kᵀ` for each of some queries.
///
/// # Source
/// `docs/method.md`, Score.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a, T> {
    /// Terms of a query's sum.
    pub rank: usize,
    /// `[Q, rank, O]`.
    pub left: &'a [T],
    /// `[Q, rank, columns]`.
    pub right: &'a [T],
}

impl<'a, T: Real> Vectors<'a, T> {
    /// `[Q, O, columns]`, if they are whole.
    pub fn full(self) -> Option<&'a [T]> {
        match self {
            Self::Full(vectors) => Some(vectors),
            Self::LowRank(_) => None,
        }
    }

    pub(crate) fn low_rank(self) -> Option<LowRank<'a, T>> {
        match self {
            Self::Full(_) => None,
            Self::LowRank(vectors) => Some(vectors),
        }
    }

    /// The vectors of one query among these.
    ///
    /// # Panics
    /// If there is no such query.
    #[must_use]
    pub fn only(self, query: usize, layer: &LayerSpec) -> Self {
        fn part<T>(all: &[T], query: usize, size: usize) -> &[T] {
            &all[query * size..(query + 1) * size]
        }
        match self {
            Self::Full(vectors) => Self::Full(part(vectors, query, layer.parameters())),
            Self::LowRank(LowRank { rank, left, right }) => Self::LowRank(LowRank {
                rank,
                left: part(left, query, rank * layer.outputs),
                right: part(right, query, rank * layer.columns()),
            }),
        }
    }

    /// Q.
    pub(crate) fn count(self, layer: &LayerSpec) -> usize {
        match self {
            Self::Full(vectors) => vectors.len() / layer.parameters(),
            Self::LowRank(vectors) => vectors.left.len() / (vectors.rank * layer.outputs).max(1),
        }
    }
}

impl<'a, T: Real> LowRank<'a, T> {
    /// Queries in groups of at most `size`: the place of the first, and the group.
    fn groups(self, o: usize, size: usize) -> impl Iterator<Item = (usize, Self)> + 'a {
        let (terms, columns) = (self.left.len() / o, self.right.len() / (self.left.len() / o).max(1));
        let queries = terms / self.rank.max(1);
        (0..queries).step_by(size.max(1)).map(move |first| {
            let terms = first * self.rank..(first + size.max(1)).min(queries) * self.rank;
            let (left, right) = (terms.start * o..terms.end * o, terms.start * columns..terms.end * columns);
            (first, Self { rank: self.rank, left: &self.left[left], right: &self.right[right] })
        })
    }

    /// Every group of several lots of queries with its place among all of them.
    fn all_groups(
        lots: &'a [Self],
        o: usize,
        size: impl Fn(usize) -> usize + 'a,
    ) -> impl Iterator<Item = (usize, Self)> + 'a {
        let lots = lots.iter().filter(|lot| !lot.left.is_empty());
        let with_start = lots.scan(0, move |next, lot| {
            let start = *next;
            *next += lot.left.len() / (o * lot.rank);
            Some((start, *lot))
        });
        with_start.flat_map(move |(start, lot)| lot.groups(o, size(lot.rank)).map(move |(q, group)| (start + q, group)))
    }
}

impl<T: Real> Rows<'_, T> {
    /// Route K: `Σ_k (s_tᵀ l_k) (r_kᵀ a_t)` for every row, queries in groups.
    pub(crate) fn by_factors(self, lots: &[LowRank<'_, T>], queries: usize, sums: &mut [&mut [f64]]) {
        let (rows, o, i, n) = (self.positions.rows(), self.o, self.columns(), self.n);
        let mut values = vec![0.0; rows * queries];
        let tasks =
            values.par_chunks_mut(ROWS * queries).zip(self.a.par_chunks(ROWS * n)).zip(self.s.par_chunks(ROWS * o));
        tasks.with_max_len(1).for_each_init(
            || [vec![], vec![]],
            |[outputs, inputs], ((values, a), s)| {
                let rows = s.len() / o;
                for (first, group) in LowRank::all_groups(lots, o, |rank| TERMS / rank.max(1)) {
                    let terms = group.left.len() / o;
                    outputs.resize(ROWS * terms, T::of(0.0));
                    inputs.resize(ROWS * terms, T::of(0.0));
                    let (s, left) = (View::dense(s, rows, o), View::dense(group.left, terms, o));
                    let into = ViewMut::dense(&mut outputs[..rows * terms], rows, terms);
                    gemm::matmul(into, gemm::Into::Replace, T::of(1.0), s, left.t(), Threads::One);
                    let (a, right) = (View::dense(a, rows, n), View::new(group.right, terms, n, i));
                    let into = ViewMut::dense(&mut inputs[..rows * terms], rows, terms);
                    gemm::matmul(into, gemm::Into::Replace, T::of(1.0), a, right.t(), Threads::One);
                    // what the column of ones adds
                    let ones: Vec<T> = match self.bias {
                        true => group.right.iter().skip(n).step_by(i).copied().collect(),
                        false => vec![T::of(0.0); terms],
                    };
                    let pairs = outputs.chunks_exact(terms).zip(inputs.chunks_exact_mut(terms));
                    for (values, (outputs, inputs)) in values.chunks_exact_mut(queries).zip(pairs) {
                        inputs.iter_mut().zip(&ones).for_each(|(x, one)| *x += *one);
                        let terms = outputs.chunks_exact(group.rank).zip(inputs.chunks_exact(group.rank));
                        for (value, (l, r)) in values[first..].iter_mut().zip(terms) {
                            *value = sum_over(l, r, |l, r| l.wide() * r.wide());
                        }
                    }
                }
            },
        );
        for scores in sums {
            for (scores, range) in scores.chunks_exact_mut(queries).zip(self.positions.iter()) {
                for values in values[range.start * queries..range.end * queries].chunks_exact(queries) {
                    scores.iter_mut().zip(values).for_each(|(score, value)| *score += value);
                }
            }
        }
    }

    /// Route F: each block of gradients is multiplied with the same rows of the queries' vectors, which are put
    /// together for it.
    pub(crate) fn by_expansion(
        self,
        lots: &[LowRank<'_, T>],
        queries: usize,
        sums: &mut [&mut [f64]],
        packed: &mut Vec<Packed>,
    ) {
        let (o, i) = (self.o, self.columns());
        self.by_block(queries, QUERIES, sums, packed, |block, vectors| {
            let (start, rows) = (block.rows.start, block.rows.len());
            vectors.resize(QUERIES * rows * i, T::of(0.0));
            for (first, group) in LowRank::all_groups(lots, o, |_| QUERIES) {
                let (left, right) = (group.left.chunks_exact(group.rank * o), group.right.chunks_exact(group.rank * i));
                let n = left.len();
                for ((vector, left), right) in vectors.chunks_exact_mut(rows * i).zip(left).zip(right) {
                    let left = View::new(&left[start..], group.rank, rows, o).t();
                    let (into, right) = (ViewMut::dense(vector, rows, i), View::dense(right, group.rank, i));
                    gemm::matmul(into, gemm::Into::Replace, T::of(1.0), left, right, Threads::One);
                }
                block.multiply(first, n, vectors, rows * i);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::tap::Positions;

    fn wave(n: usize, step: f64) -> Vec<f64> {
        (0..n).map(|k| (k as f64 * step + 0.3).sin() - 0.1).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// `Σ_t s_tᵀ (L Rᵀ) a_t`, element by element, by both routes; lots of two methods, of different rank.
        #[test]
        fn routes_equal_the_definition(
            (o, n, bias) in (1usize..40, 1usize..40, any::<bool>()),
            lengths in prop::collection::vec(0usize..70, 1..6),
            sizes in prop::collection::vec((0usize..40, 1usize..6), 1..3),
        ) {
            let positions = Positions::from_lengths(lengths);
            let (rows, i) = (positions.rows(), n + usize::from(bias));
            let (a, s) = (wave(rows * n, 0.73), wave(rows * o, 1.31));
            let numbers: Vec<_> =
                sizes.iter().map(|&(q, rank)| (rank, wave(q * rank * o, 0.9), wave(q * rank * i, 1.1))).collect();
            let lots: Vec<LowRank<'_, f64>> =
                numbers.iter().map(|(rank, left, right)| LowRank { rank: *rank, left, right }).collect();
            let queries: usize = sizes.iter().map(|(q, _)| q).sum();
            prop_assume!(queries > 0);
            let batch = Rows { a: &a, n, bias, s: &s, o, positions: &positions, products: gemm::Products::Exact };
            let mut want = vec![];
            for range in positions.iter() {
                for lot in &lots {
                    for q in 0..lot.left.len() / (o * lot.rank) {
                        let term = |k: usize, t: usize| {
                            let k = q * lot.rank + k;
                            let l: f64 = (0..o).map(|r| lot.left[k * o + r] * s[t * o + r]).sum();
                            let input = |c: usize| if c < n { a[t * n + c] } else { 1.0 };
                            l * (0..i).map(|c| lot.right[k * i + c] * input(c)).sum::<f64>()
                        };
                        want.push(range.clone().flat_map(|t| (0..lot.rank).map(move |k| term(k, t))).sum::<f64>());
                    }
                }
            }
            let scale = 1.0 + want.iter().fold(0f64, |m, x| m.max(x.abs()));
            let (mut factors, mut expanded) = (vec![1.0; want.len()], vec![2.0; want.len()]);
            batch.by_factors(&lots, queries, &mut [&mut factors]);
            batch.by_expansion(&lots, queries, &mut [&mut expanded], &mut vec![]);
            for (k, want) in want.iter().enumerate() {
                prop_assert!((factors[k] - 1.0 - want).abs() < 1e-10 * scale, "K, {k}: {} {want}", factors[k] - 1.0);
                prop_assert!((expanded[k] - 2.0 - want).abs() < 1e-10 * scale, "F, {k}: {} {want}", expanded[k] - 2.0);
            }
        }
    }
}
