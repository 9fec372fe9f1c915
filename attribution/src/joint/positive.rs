//! Systems of a positive matrix.

use rayon::prelude::*;

/// Rows from which on a column's dot products are taken on all threads.
const THREADED_FROM: usize = 256;

/// The lower factor `L` of a positive matrix `L Lᵀ`, `[n, n]`.
#[derive(Debug, Clone)]
pub(super) struct Cholesky {
    factor: Vec<f64>,
    n: usize,
}

impl Cholesky {
    /// The factor of a matrix whose lower half counts; none if it is not positive.
    pub(super) fn of(mut a: Vec<f64>, n: usize) -> Option<Self> {
        for j in 0..n {
            let (above, below) = a.split_at_mut((j + 1) * n);
            let row = &mut above[j * n..];
            let (left, pivot) = (&row[..j], row[j]);
            let pivot = pivot - left.iter().map(|x| x * x).sum::<f64>();
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            let root = pivot.sqrt();
            let of_row = |other: &mut [f64]| {
                let dot = other[..j].iter().zip(left).map(|(a, b)| a * b).sum::<f64>();
                other[j] = (other[j] - dot) / root;
            };
            match n - j > THREADED_FROM {
                true => below.par_chunks_exact_mut(n).with_min_len(16).for_each(of_row),
                false => below.chunks_exact_mut(n).for_each(of_row),
            }
            row[j] = root;
        }
        Some(Self { factor: a, n })
    }

    /// `A⁻¹ B`, `B: [n, m]`.
    pub(super) fn solve(&self, mut b: Vec<f64>) -> Vec<f64> {
        let (a, n) = (&self.factor, self.n);
        let m = b.len() / n.max(1);
        for i in 0..n {
            for k in 0..i {
                let factor = a[i * n + k];
                let (solved, rest) = b.split_at_mut(i * m);
                rest[..m].iter_mut().zip(&solved[k * m..]).for_each(|(x, y)| *x -= factor * y);
            }
            b[i * m..(i + 1) * m].iter_mut().for_each(|x| *x /= a[i * n + i]);
        }
        for i in (0..n).rev() {
            for k in i + 1..n {
                let factor = a[k * n + i];
                let (rest, solved) = b.split_at_mut(k * m);
                rest[i * m..(i + 1) * m].iter_mut().zip(&*solved).for_each(|(x, y)| *x -= factor * y);
            }
            b[i * m..(i + 1) * m].iter_mut().for_each(|x| *x /= a[i * n + i]);
        }
        b
    }
}

/// `A⁻¹ B` for a positive matrix `[n, n]` and `[n, m]`; none if the matrix is not positive.
pub(super) fn cholesky_solve(a: Vec<f64>, n: usize, b: Vec<f64>) -> Option<Vec<f64>> {
    Some(Cholesky::of(a, n)?.solve(b))
}
