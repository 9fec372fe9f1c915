//! Eigenvalues and eigenvectors of a symmetric tridiagonal matrix by division.
//!
//! Cuppen (1981): without one off-diagonal number ρ and ρ in two diagonal ones, the matrix falls into two; with the
//! eigenvectors of both, it is `D + ρ z zᵀ`, whose eigenvalues are the roots of a [secular equation](super::secular).
//! Where z is 0, or two of D are equal, an eigenpair is there already (it is *deflated*): its column takes no part
//! in the product that makes the eigenvectors. Covariances that are nearly rank-deficient deflate much. The columns that
//! do take part are those of the upper half, of the lower half, and the few that a deflation has mixed; the product
//! leaves out the zeros (Gu and Eisenstat 1995).

use faer::diag::{Diag, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, EvdError, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, Par};
use rayon::prelude::*;

use super::columns::Columns;
use super::secular::Roots;
use crate::linalg::gemm::Threads;

/// Largest matrix that is not divided.
const LEAF: usize = 32;

/// Columns of a product that are made at a time, on one thread.
const WIDTH: usize = 128;

/// Eigenvalues of the matrix with this diagonal and off-diagonal, and eigenvectors as columns in the same order, which
/// is none. The matrix's largest number must be of the order of 1: below a few roundings of that a number is nothing.
pub(super) fn eigenpairs(
    mut diagonal: Vec<f64>,
    off_diagonal: &[f64],
    threads: Threads,
) -> Result<(Vec<f64>, Columns), EvdError> {
    let n = diagonal.len();
    let mut vectors = Columns::zeros(n, n);
    let stride = vectors.stride();
    let whole = Block { vectors: vectors.numbers_mut(), stride, first: 0 };
    whole.solve(&mut diagonal, off_diagonal, threads)?;
    Ok((diagonal, vectors))
}

/// Some columns, and the rows of the block on the diagonal.
struct Block<'a> {
    vectors: &'a mut [f64],
    stride: usize,
    /// The first row.
    first: usize,
}

/// Where a column of eigenvectors is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Upper,
    Both,
    Lower,
}

impl Block<'_> {
    /// Replaces a diagonal by eigenvalues, and makes their vectors.
    fn solve(mut self, d: &mut [f64], off_diagonal: &[f64], threads: Threads) -> Result<(), EvdError> {
        let n = d.len();
        if n <= LEAF {
            return self.leaf(d, off_diagonal);
        }
        let middle = n / 2;
        let between = off_diagonal[middle - 1];
        let (upper_d, lower_d) = d.split_at_mut(middle);
        upper_d[middle - 1] -= between.abs();
        lower_d[0] -= between.abs();
        let (upper, lower) = self.vectors.split_at_mut(middle * self.stride);
        let upper = Block { vectors: upper, stride: self.stride, first: self.first };
        let lower = Block { vectors: lower, stride: self.stride, first: self.first + middle };
        let upper = || upper.solve(upper_d, &off_diagonal[..middle - 1], threads);
        let lower = || lower.solve(lower_d, &off_diagonal[middle..], threads);
        let (upper, lower) = match threads {
            Threads::Pool => rayon::join(upper, lower),
            Threads::One => (upper(), lower()),
        };
        upper?;
        lower?;
        if between != 0.0 {
            self.merge(d, middle, between, threads);
        }
        Ok(())
    }

    /// A small matrix, by the QR algorithm.
    fn leaf(&mut self, d: &mut [f64], off_diagonal: &[f64]) -> Result<(), EvdError> {
        let n = d.len();
        let mut off = vec![0.0; n];
        off[..n.saturating_sub(1)].copy_from_slice(&off_diagonal[..n.saturating_sub(1)]);
        let mut values = Diag::<f64>::zeros(n);
        let mut buffer =
            MemBuffer::new(self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default()));
        let rows = self.first + n;
        let vectors = MatMut::from_column_major_slice_with_stride_mut(&mut *self.vectors, rows, n, self.stride);
        tridiagonal_self_adjoint_evd(
            DiagRef::from_slice(d),
            DiagRef::from_slice(&off),
            values.as_mut(),
            Some(vectors.subrows_mut(self.first, n)),
            Par::Seq,
            MemStack::new(&mut buffer),
            Default::default(),
        )?;
        d.iter_mut().zip(values.column_vector().iter()).for_each(|(d, value)| *d = *value);
        Ok(())
    }

    /// Rows of one column.
    fn column(&mut self, c: usize, n: usize) -> &mut [f64] {
        &mut self.vectors[c * self.stride + self.first..][..n]
    }

    /// Makes eigenpairs of the whole from those of its halves.
    fn merge(&mut self, d: &mut [f64], middle: usize, between: f64, threads: Threads) {
        let n = d.len();
        let sign = between.signum() * 0.5f64.sqrt();
        let mut z: Vec<f64> = (0..n)
            .map(|c| {
                if c < middle {
                    self.column(c, n)[middle - 1] * 0.5f64.sqrt()
                } else {
                    self.column(c, n)[middle] * sign
                }
            })
            .collect();
        let rho = 2.0 * between.abs();
        let (kept, deflated) = self.deflate(d, &mut z, rho, middle);
        // for the products: by halves; `rank` is the place in the order of eigenvalues
        let roots = Roots::of(kept.iter().map(|&(c, _)| (d[c], z[c])), rho, threads);
        let mut by_half: Vec<usize> = (0..kept.len()).collect();
        by_half.sort_by_key(|&rank| kept[rank].1 as usize);
        let count = |half| kept.iter().filter(|column| column.1 == half).count();
        let (upper, both) = (count(Half::Upper), count(Half::Both));
        let k = kept.len();

        // the columns that are multiplied, and those that stay as they are
        let copied =
            |block: &mut Self, rows: std::ops::Range<usize>, columns: &mut dyn Iterator<Item = usize>, count| {
                let mut to = Columns::zeros(rows.len(), count);
                for (place, c) in columns.enumerate() {
                    to.column_mut(place)[..rows.len()].copy_from_slice(&block.column(c, n)[rows.clone()]);
                }
                to
            };
        let above =
            copied(self, 0..middle, &mut by_half[..upper + both].iter().map(|&rank| kept[rank].0), upper + both);
        let below = copied(self, middle..n, &mut by_half[upper..].iter().map(|&rank| kept[rank].0), k - upper);
        let staying = copied(self, 0..n, &mut deflated.iter().copied(), deflated.len());
        let values: Vec<f64> = (0..k).map(|j| roots.value(j)).chain(deflated.iter().map(|&c| d[c])).collect();
        d.copy_from_slice(&values);

        let (stride, first) = (self.stride, self.first);
        let work = |(chunk, numbers): (usize, &mut [f64])| {
            let columns = numbers.len() / stride;
            let mut factors = Columns::zeros(k, columns);
            for c in 0..columns {
                roots.vector(chunk * WIDTH + c, &by_half, &mut factors.column_mut(c)[..k]);
            }
            let to = MatMut::from_column_major_slice_with_stride_mut(numbers, first + n, columns, stride);
            let (to_above, to_below) = to.subrows_mut(first, n).split_at_row_mut(middle);
            let of_above = factors.part(0..upper + both, 0..columns);
            let of_below = factors.part(upper..k, 0..columns);
            matmul(to_above, Accum::Replace, above.part(0..middle, 0..upper + both), of_above, 1.0, Par::Seq);
            matmul(to_below, Accum::Replace, below.part(0..n - middle, 0..k - upper), of_below, 1.0, Par::Seq);
        };
        let (made, stay) = self.vectors[..n * stride].split_at_mut(k * stride);
        match threads {
            Threads::Pool => made.par_chunks_mut(WIDTH * stride).with_max_len(1).enumerate().for_each(work),
            Threads::One => made.chunks_mut(WIDTH * stride).enumerate().for_each(work),
        }
        for (place, column) in stay.chunks_mut(stride).enumerate() {
            column[first..first + n].copy_from_slice(&staying.column(place)[..n]);
        }
    }

    /// Which columns take part, by ascending d, and which are eigenvectors already.
    fn deflate(&mut self, d: &mut [f64], z: &mut [f64], rho: f64, middle: usize) -> (Vec<(usize, Half)>, Vec<usize>) {
        let n = d.len();
        let largest = |x: &[f64]| x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let tolerance = 8.0 * f64::EPSILON * largest(d).max(largest(z));
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| d[a].total_cmp(&d[b]));
        let (mut kept, mut deflated) = (Vec::with_capacity(n), vec![]);
        let mut last: Option<(usize, Half)> = None;
        for c in order {
            if rho * z[c].abs() <= tolerance {
                deflated.push(c);
                continue;
            }
            let mut half = if c < middle { Half::Upper } else { Half::Lower };
            if let Some((p, its)) = last {
                let length = z[c].hypot(z[p]);
                let (cos, sin) = (z[c] / length, -z[p] / length);
                if ((d[c] - d[p]) * cos * sin).abs() <= tolerance {
                    (z[p], z[c]) = (0.0, length);
                    (d[p], d[c]) = (d[p] * cos * cos + d[c] * sin * sin, d[p] * sin * sin + d[c] * cos * cos);
                    self.rotate(p, c, n, cos, sin);
                    half = if half == its { half } else { Half::Both };
                    deflated.push(p);
                } else {
                    kept.push((p, its));
                }
            }
            last = Some((c, half));
        }
        kept.extend(last);
        (kept, deflated)
    }

    /// `(p, c) = (cos p + sin c, cos c - sin p)`.
    fn rotate(&mut self, p: usize, c: usize, n: usize, cos: f64, sin: f64) {
        for r in 0..n {
            let (x, y) = (self.column(p, n)[r], self.column(c, n)[r]);
            self.column(p, n)[r] = cos * x + sin * y;
            self.column(c, n)[r] = cos * y - sin * x;
        }
    }
}
