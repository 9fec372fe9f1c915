//! `Q Z` from the reflections of a reduction.

use faer::Accum;
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use rayon::prelude::*;

use super::columns::Columns;
use super::reduction::Tridiagonal;
use crate::linalg::gemm::Threads;

/// Reflections that are applied together: `H_j H_(j+1) ... = I - V S Vᵀ` with an upper triangular S.
const BLOCK: usize = 64;

/// Columns of Z that meet a block at a time, on one thread.
const WIDTH: usize = 128;

impl Tridiagonal {
    /// `Z = Q Z`.
    ///
    /// # Shapes
    /// `z: [n, n]`.
    pub(super) fn rotate(&self, z: &mut Columns, threads: Threads) {
        let n = self.reflections.rows();
        let count = self.tau.len();
        for first in (0..count).step_by(BLOCK).rev() {
            let end = (first + BLOCK).min(count);
            let (v, vs) = self.block(first, end);
            let stride = z.stride();
            let work = |numbers: &mut [f64]| {
                let columns = numbers.len() / stride;
                let part = faer::MatMut::from_column_major_slice_with_stride_mut(numbers, n, columns, stride);
                let mut part = part.subrows_mut(first + 1, n - first - 1);
                let mut inner = Columns::zeros(end - first, columns);
                let (rows, width) = (0..n - first - 1, 0..end - first);
                let mut inner = inner.part_mut(width.clone(), 0..columns);
                let v = v.part(rows.clone(), width.clone()).transpose();
                matmul(inner.as_mut(), Accum::Replace, v, part.as_ref(), 1.0, faer::Par::Seq);
                matmul(part.as_mut(), Accum::Add, vs.part(rows, width), inner.as_ref(), -1.0, faer::Par::Seq);
            };
            let chunk = stride * WIDTH;
            match threads {
                Threads::Pool => z.numbers_mut().par_chunks_mut(chunk).with_max_len(1).for_each(work),
                Threads::One => z.numbers_mut().chunks_mut(chunk).for_each(work),
            }
        }
    }

    /// V and V S of some reflections, rows from the first one's on.
    fn block(&self, first: usize, end: usize) -> (Columns, Columns) {
        let (n, width) = (self.reflections.rows(), end - first);
        let rows = n - first - 1;
        let mut v = Columns::zeros(rows, width);
        for k in 0..width {
            let j = first + k;
            if self.tau[j] != 0.0 {
                v.column_mut(k)[k] = 1.0;
                v.column_mut(k)[k + 1..rows].copy_from_slice(&self.reflections.column(j)[j + 2..n]);
            }
        }
        let (whole, all, square) = (v.part(0..rows, 0..width), 0..width, BlockStructure::Rectangular);
        let (mut gram, lower) = (Columns::zeros(width, width), BlockStructure::TriangularLower);
        let (to, seq) = (gram.part_mut(all.clone(), all.clone()), faer::Par::Seq);
        triangular::matmul(to, lower, Accum::Replace, whole.transpose(), square, whole, square, 1.0, seq);
        // S[.., k] = τ_k (e_k - S (Vᵀ v_k)): the columns before k are multiplied with the new reflection
        let mut s = Columns::zeros(width, width);
        for k in 0..width {
            let tau = self.tau[first + k];
            let mut column = vec![0.0; k];
            for c in 0..k {
                let factor = -tau * gram.column(c)[k];
                for (to, s) in column.iter_mut().zip(&s.column(c)[..=c]) {
                    *to += factor * s;
                }
            }
            s.column_mut(k)[..k].copy_from_slice(&column);
            s.column_mut(k)[k] = tau;
        }
        let mut vs = Columns::zeros(rows, width);
        let (s, upper) = (s.part(all.clone(), all.clone()), BlockStructure::TriangularUpper);
        let to = vs.part_mut(0..rows, all);
        triangular::matmul(to, square, Accum::Replace, whole, square, s, upper, 1.0, seq);
        (v, vs)
    }
}
