//! The reduction of a symmetric matrix to tridiagonal form, `A = Q T Qᵀ`, in `f64`.
//!
//! Householder's reflections `H = I - τ v vᵀ` clear a column at a time. Of the two ways to apply them this is the blocked
//! one (Dongarra, Sorensen and Hammarling 1989): inside a panel of [`PANEL`] columns the matrix right of it stays as it
//! is, and a column's reflection needs one product `A v` with it; at the panel's end all of its reflections are applied
//! together, `A -= V Wᵀ + W Vᵀ`, as one product. So a number right of a panel is read once for each column, and written
//! once for each panel.

use faer::linalg::matmul::{matmul, triangular};
use faer::{Accum, MatMut, MatRef};

use super::columns::{Columns, LANES};
use super::symmetric_product::{self, Sums};
use crate::linalg::dot::dot;
use crate::linalg::gemm::Threads;
use crate::linalg::symmetric::SymmetricMatrix;

/// Columns whose reflections are applied together.
const PANEL: usize = 32;

/// Below this share of the largest number a column counts as cleared: its square would lose digits or vanish.
const NOTHING: f64 = 1e-145;

/// `A = Q T Qᵀ` with T tridiagonal and `Q = H_0 H_1 ...`.
#[derive(Debug)]
pub(super) struct Tridiagonal {
    /// Of T, `[n]`, divided by `scale`.
    pub(super) diagonal: Vec<f64>,
    /// Below and above the diagonal, `[n - 1]`, divided by `scale`.
    pub(super) off_diagonal: Vec<f64>,
    /// A power of two.
    pub(super) scale: f64,
    /// Reflection j in column j, from its second number in row `j + 2` on; the first one is 1.
    pub(super) reflections: Columns,
    /// Of each reflection.
    pub(super) tau: Vec<f64>,
}

impl Tridiagonal {
    /// Of a matrix of finite numbers.
    pub(super) fn of(matrix: &SymmetricMatrix, threads: Threads) -> Self {
        let (n, (mut a, scale)) = (matrix.size(), scaled(matrix));
        let (mut diagonal, mut off_diagonal) = (vec![0.0; n], vec![0.0; n.saturating_sub(1)]);
        let mut tau = vec![0.0; n.saturating_sub(1)];
        // V, W and V again, so that [V W] and [W V] are both at hand
        let mut panel = Columns::zeros(n, 3 * PANEL);
        let (mut sums, lines) = (Sums::new(n), n.next_multiple_of(LANES));
        let (mut v, mut w) = (vec![0.0; lines], vec![0.0; lines]);
        let mut start = 0;
        while start < n {
            let end = (start + PANEL).min(n);
            for j in start..end {
                let done = j - start;
                bring_up_to_date(&mut a, &panel, j, done);
                diagonal[j] = a.column(j)[j];
                if j + 1 == n {
                    break;
                }
                (off_diagonal[j], tau[j]) = reflection(&mut a.column_mut(j)[j + 1..n], &mut v[j + 1..n]);
                v[j] = 0.0;
                if tau[j] != 0.0 {
                    let first = (j + 1) / LANES * LANES;
                    v[first..=j].fill(0.0);
                    symmetric_product::multiply(&a, first, &v, &mut w, &mut sums, threads);
                    finish(&mut w[j + 1..n], &v[j + 1..n], &panel, j + 1..n, done, tau[j]);
                } else {
                    w[j + 1..n].fill(0.0);
                }
                for (column, from) in [(done, &v), (PANEL + done, &w), (2 * PANEL + done, &v)] {
                    let to = panel.column_mut(column);
                    to[start..=j].fill(0.0);
                    to[j + 1..n].copy_from_slice(&from[j + 1..n]);
                }
            }
            if end < n {
                update(&mut a, &panel, end, threads);
            }
            start = end;
        }
        Self { diagonal, off_diagonal, scale, reflections: a, tau }
    }
}

/// The lower triangle, and all of the blocks on its diagonal, divided by a power of two near the largest number, which is
/// returned.
fn scaled(matrix: &SymmetricMatrix) -> (Columns, f64) {
    let (n, triangle) = (matrix.size(), matrix.as_slice());
    let largest = triangle.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let scale = if largest > 0.0 { 2f64.powi((largest.log2().floor() as i32).clamp(-1020, 1020)) } else { 1.0 };
    let mut a = Columns::zeros(n, n);
    let (stride, to) = (a.stride(), a.numbers_mut());
    const TILE: usize = 32;
    for c0 in (0..n).step_by(TILE) {
        for r0 in (c0..n).step_by(TILE) {
            for r in r0..(r0 + TILE).min(n) {
                for c in c0..(c0 + TILE).min(n) {
                    to[c * stride + r] = triangle[SymmetricMatrix::numbers(r.max(c)) + r.min(c)] / scale;
                }
            }
        }
    }
    (a, scale)
}

/// Applies a panel's earlier reflections to column j: `a_j -= V W[j, :]ᵀ + W V[j, :]ᵀ`.
fn bring_up_to_date(a: &mut Columns, panel: &Columns, j: usize, done: usize) {
    if done == 0 {
        return;
    }
    let n = a.rows();
    let mut column = a.part_mut(j..n, j..j + 1);
    for (left, right) in [(0, PANEL), (PANEL, 0)] {
        let (left, right) = (panel.part(j..n, left..left + done), panel.part(j..j + 1, right..right + done));
        matmul(column.as_mut(), Accum::Add, left, right.transpose(), -1.0, faer::Par::Seq);
    }
}

/// The reflection that clears a column but for its first number, which is returned with τ; `v` begins with 1.
fn reflection(column: &mut [f64], v: &mut [f64]) -> (f64, f64) {
    let first = column[0];
    let rest = dot(&column[1..], &column[1..]);
    v[0] = 1.0;
    if rest.sqrt() <= NOTHING {
        column[1..].fill(0.0);
        v[1..].fill(0.0);
        return (first, 0.0);
    }
    let norm = (first * first + rest).sqrt();
    let value = if first > 0.0 { -norm } else { norm };
    let factor = 1.0 / (first - value);
    for (v, x) in v[1..].iter_mut().zip(&mut column[1..]) {
        *x *= factor;
        *v = *x;
    }
    (value, (value - first) / value)
}

/// Makes W's column of `w = A v`, A as before the panel: `w -= V Wᵀ v + W Vᵀ v`, times τ, less `½ τ (w · v) v`.
fn finish(w: &mut [f64], v: &[f64], panel: &Columns, rows: std::ops::Range<usize>, done: usize, tau: f64) {
    if done > 0 {
        let mut inner = [0.0; 2 * PANEL];
        // [W V]ᵀ v, to be multiplied with [V W]
        for (part, from) in [PANEL, 0].into_iter().enumerate() {
            let to = MatMut::from_column_major_slice_mut(&mut inner[part * PANEL..part * PANEL + done], done, 1);
            let v = MatRef::from_column_major_slice(v, v.len(), 1);
            let columns = panel.part(rows.clone(), from..from + done);
            matmul(to, Accum::Replace, columns.transpose(), v, 1.0, faer::Par::Seq);
        }
        for (part, from) in [0, PANEL].into_iter().enumerate() {
            let inner = MatRef::from_column_major_slice(&inner[part * PANEL..part * PANEL + done], done, 1);
            let length = w.len();
            let to = MatMut::from_column_major_slice_mut(w, length, 1);
            matmul(to, Accum::Add, panel.part(rows.clone(), from..from + done), inner, -1.0, faer::Par::Seq);
        }
    }
    let along = 0.5 * tau * tau * dot(w, v);
    for (w, v) in w.iter_mut().zip(v) {
        *w = tau * *w - along * v;
    }
}

/// `A -= V Wᵀ + W Vᵀ` right of a panel, in the lower triangle and the blocks on the diagonal. The panel is a whole one:
/// only the last can be narrower, and right of it there is nothing.
fn update(a: &mut Columns, panel: &Columns, end: usize, threads: Threads) {
    let n = a.rows();
    triangular::matmul(
        a.part_mut(end..n, end..n),
        triangular::BlockStructure::TriangularLower,
        Accum::Add,
        panel.part(end..n, 0..2 * PANEL),
        triangular::BlockStructure::Rectangular,
        panel.part(end..n, PANEL..3 * PANEL).transpose(),
        triangular::BlockStructure::Rectangular,
        -1.0,
        threads.faer(),
    );
    let stride = a.stride();
    let numbers = a.numbers_mut();
    for block in (end / LANES * LANES..n).step_by(LANES) {
        for c in block.max(end)..(block + LANES).min(n) {
            for r in c + 1..(block + LANES).min(n) {
                numbers[r * stride + c] = numbers[c * stride + r];
            }
        }
    }
}
