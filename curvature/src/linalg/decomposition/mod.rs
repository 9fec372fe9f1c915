//! Eigenvalues and eigenvectors of symmetric matrices in `f64`, with this project's own steps around `faer`'s products.
//!
//! A matrix is [reduced](reduction) to tridiagonal form, that is decomposed by [division](divide), and its eigenvectors
//! are turned back by the reduction's [reflections]. Every step divides its work by shapes alone: how many threads
//! there are changes no number.

use faer::linalg::evd::EvdError;
use rayon::prelude::*;

use crate::linalg::gemm::{Real, Threads};
use crate::linalg::symmetric::SymmetricMatrix;

mod columns;
mod divide;
mod reduction;
mod reflections;
mod secular;
mod symmetric_product;
#[cfg(test)]
mod tests;

use columns::Columns;
use reduction::Tridiagonal;

/// Eigenvalues of a matrix of finite numbers, ascending, and eigenvectors as columns of a row-major matrix.
///
/// # Errors
/// If the QR algorithm does not converge on a small block.
pub(crate) fn eigenpairs<T: Real>(matrix: &SymmetricMatrix, threads: Threads) -> Result<(Vec<f64>, Vec<T>), EvdError> {
    let n = matrix.size();
    if n == 0 {
        return Ok((vec![], vec![]));
    }
    let reduced = Tridiagonal::of(matrix, threads);
    let (values, mut vectors) = divide::eigenpairs(reduced.diagonal.clone(), &reduced.off_diagonal, threads)?;
    reduced.rotate(&mut vectors, threads);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let values = order.iter().map(|&c| values[c] * reduced.scale).collect();
    drop(reduced);
    Ok((values, row_major(&vectors, &order, threads)))
}

/// Rows and columns that are transposed together.
const TILE: usize = 16;

/// Columns in this order, row by row.
fn row_major<T: Real>(vectors: &Columns, order: &[usize], threads: Threads) -> Vec<T> {
    let n = order.len();
    let mut rows = vec![T::of(0.0); n * n];
    let work = |(tile, rows): (usize, &mut [T])| {
        let first = tile * TILE;
        for columns in (0..n).step_by(TILE) {
            for c in columns..(columns + TILE).min(n) {
                let column = &vectors.column(order[c])[first..];
                for (row, x) in rows.chunks_mut(n).zip(column) {
                    row[c] = T::of(*x);
                }
            }
        }
    };
    match threads {
        Threads::Pool => rows.par_chunks_mut(TILE * n).enumerate().for_each(work),
        Threads::One => rows.chunks_mut(TILE * n).enumerate().for_each(work),
    }
    rows
}
