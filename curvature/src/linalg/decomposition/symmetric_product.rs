//! `y = A x` of a symmetric matrix from its lower triangle, each number read once.
//!
//! This is half of the reduction's arithmetic and nearly all of its traffic. A tile of 8 columns passes once over the
//! rows below it: a number `A[r, c]` adds `A[r, c] x[c]` to `y[r]` and `A[r, c] x[r]` to `y[c]`.
#![allow(unsafe_code)] // the vector kernel

use std::ops::Range;

use rayon::prelude::*;

use super::columns::{Columns, LANES};
use crate::linalg::gemm::Threads;

/// Most parts of a product: each has a sum of its own, and these are added in the order of the parts.
const PARTS: usize = 16;

/// Columns for each part.
const PART_COLUMNS: usize = 192;

/// Fewest columns whose parts are worth a task of the pool.
const THREADED_COLUMNS: usize = 512;

/// Memory for the sums of the parts.
#[derive(Debug)]
pub(super) struct Sums {
    parts: Vec<Vec<f64>>,
}

impl Sums {
    /// For matrices of at most this size.
    pub(super) fn new(n: usize) -> Self {
        let lines = n.div_ceil(LANES);
        Self { parts: vec![vec![0.0; lines * LANES]; parts_of(n)] }
    }
}

/// How many parts; it follows from the size alone, so that threads change no number.
fn parts_of(columns: usize) -> usize {
    (columns / PART_COLUMNS).clamp(1, PARTS)
}

/// `y[first..] = A[first.., first..] x[first..]`.
///
/// # Shapes
/// `a: [n, n]`, its lower triangle and the whole of the 8 x 8 blocks on its diagonal; `x` and `y` have `n` numbers
/// filled up to whole lines. `first` is a multiple of 8, and `x` is 0 where it is filled up.
pub(super) fn multiply(a: &Columns, first: usize, x: &[f64], y: &mut [f64], sums: &mut Sums, threads: Threads) {
    let lines = a.rows().div_ceil(LANES);
    let (first, columns) = (first / LANES, a.rows() - first);
    let parts = parts_of(columns);
    // equal areas: what is right of a share of the columns is the square of it
    let start = |part: usize| {
        let left = (1.0 - part as f64 / parts as f64).sqrt();
        lines - (left * (lines - first) as f64).round() as usize
    };
    let (x, y) = (&x.as_chunks().0[..lines], &mut y.as_chunks_mut().0[..lines]);
    if parts == 1 {
        y[first..].fill([0.0; LANES]);
        return add_columns(a, first..lines, x, y);
    }
    let work = |(part, sum): (usize, &mut Vec<f64>)| {
        let sum = &mut sum.as_chunks_mut().0[..lines];
        sum[start(part)..].fill([0.0; LANES]);
        add_columns(a, start(part)..start(part + 1), x, sum);
    };
    if threads == Threads::Pool && columns >= THREADED_COLUMNS {
        sums.parts[..parts].par_iter_mut().with_max_len(1).enumerate().for_each(work);
    } else {
        sums.parts[..parts].iter_mut().enumerate().for_each(work);
    }
    y[first..].copy_from_slice(&sums.parts[0].as_chunks().0[first..lines]);
    for part in 1..parts {
        let sum = &sums.parts[part].as_chunks::<LANES>().0[..lines];
        for line in start(part)..lines {
            for l in 0..LANES {
                y[line][l] += sum[line][l];
            }
        }
    }
}

/// What some tiles of columns, and their mirror images as rows, add to `y`.
fn add_columns(a: &Columns, tiles: Range<usize>, x: &[[f64; LANES]], y: &mut [[f64; LANES]]) {
    for tile in tiles {
        let lines = |k: usize| &a.column(tile * LANES + k).as_chunks().0[tile..y.len()];
        let columns: [&[[f64; LANES]]; LANES] = std::array::from_fn(|k| {
            // the last tile has fewer columns; those that are missing are multiplied with 0
            if tile * LANES + k < a.rows() { lines(k) } else { lines(0) }
        });
        // the block on the diagonal is whole: its mirror image is itself
        for k in 0..LANES {
            for l in 0..LANES {
                y[tile][l] += columns[k][0][l] * x[tile][k];
            }
        }
        let sums = below(columns.map(|column| &column[1..]), x[tile], &x[tile + 1..], &mut y[tile + 1..]);
        for k in 0..LANES {
            y[tile][k] += sums[k];
        }
    }
}

/// The rows below a tile: adds `Σ_k a_k u_k` to `y` and returns `a_k · x`.
fn below(a: [&[[f64; LANES]]; LANES], u: [f64; LANES], x: &[[f64; LANES]], y: &mut [[f64; LANES]]) -> [f64; LANES] {
    let lines = y.len();
    assert!(x.len() == lines && a.iter().all(|column| column.len() == lines), "a tile's columns end together");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions, and all slices have the same length.
        return unsafe { avx512(a, u, x, y) };
    }
    plain(a, u, x, y)
}

/// The definition.
fn plain(a: [&[[f64; LANES]]; LANES], u: [f64; LANES], x: &[[f64; LANES]], y: &mut [[f64; LANES]]) -> [f64; LANES] {
    let mut sums = [[0.0; LANES]; LANES];
    for (line, y) in y.iter_mut().enumerate() {
        for k in 0..LANES {
            for l in 0..LANES {
                y[l] += a[k][line][l] * u[k];
                sums[k][l] += a[k][line][l] * x[line][l];
            }
        }
    }
    sums.map(|sum| sum.iter().sum())
}

/// # Safety
/// The processor has AVX-512F, and `x` and each of `a` have as many lines as `y`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(
    a: [&[[f64; LANES]]; LANES],
    u: [f64; LANES],
    x: &[[f64; LANES]],
    y: &mut [[f64; LANES]],
) -> [f64; LANES] {
    use std::arch::x86_64::{
        _mm512_add_pd, _mm512_fmadd_pd, _mm512_loadu_pd, _mm512_mul_pd, _mm512_reduce_add_pd, _mm512_set1_pd,
        _mm512_setzero_pd, _mm512_storeu_pd,
    };
    let mut sums = [_mm512_setzero_pd(); LANES];
    let factors = u.map(|u| _mm512_set1_pd(u));
    let (a, x) = (a.map(|column| column.as_ptr()), x.as_ptr());
    for (line, y) in y.iter_mut().enumerate() {
        // SAFETY: `line` is below the length that all of them share; a line is 8 numbers.
        unsafe {
            let (row, mut even) = (_mm512_loadu_pd(x.add(line).cast()), _mm512_loadu_pd(y.as_ptr()));
            let mut odd = _mm512_setzero_pd();
            for k in 0..LANES / 2 {
                let (one, two) =
                    (_mm512_loadu_pd(a[2 * k].add(line).cast()), _mm512_loadu_pd(a[2 * k + 1].add(line).cast()));
                even = _mm512_fmadd_pd(one, factors[2 * k], even);
                odd =
                    if k == 0 { _mm512_mul_pd(two, factors[1]) } else { _mm512_fmadd_pd(two, factors[2 * k + 1], odd) };
                sums[2 * k] = _mm512_fmadd_pd(one, row, sums[2 * k]);
                sums[2 * k + 1] = _mm512_fmadd_pd(two, row, sums[2 * k + 1]);
            }
            _mm512_storeu_pd(y.as_mut_ptr(), _mm512_add_pd(even, odd));
        }
    }
    sums.map(|sum| _mm512_reduce_add_pd(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, step: f64) -> Vec<f64> {
        (0..count).map(|k| (k as f64 * step).sin()).collect()
    }

    #[test]
    fn a_product_from_the_lower_triangle_is_that_of_the_whole_matrix() {
        for (n, first) in [(1, 0), (8, 0), (13, 0), (13, 8), (37, 16), (643, 0), (643, 24)] {
            let mut a = Columns::zeros(n, n);
            let value = |r: usize, c: usize| ((r.max(c) * 31 + r.min(c) * 7) as f64).sin();
            for c in 0..n {
                for r in 0..n {
                    // what is neither in the lower triangle nor in a block on the diagonal must not count
                    let known = r / LANES >= c / LANES;
                    a.column_mut(c)[r] = if known { value(r, c) } else { f64::NAN };
                }
            }
            let mut x = wave(n.next_multiple_of(LANES), 0.7);
            x[n..].fill(0.0);
            let (mut y, mut sums) = (vec![0.0; x.len()], Sums::new(n));
            multiply(&a, first, &x, &mut y, &mut sums, Threads::One);
            for r in first..n {
                let want: f64 = (first..n).map(|c| value(r, c) * x[c]).sum();
                assert!((y[r] - want).abs() < 1e-15 * (n + 10) as f64, "{n} from {first}: {r}");
            }
        }
    }

    #[test]
    fn the_vector_kernel_does_what_the_plain_one_does() {
        for lines in [0, 1, 2, 9] {
            let columns: Vec<Vec<f64>> = (0..LANES).map(|k| wave(lines * LANES, 0.3 + k as f64)).collect();
            let a: [_; LANES] = std::array::from_fn(|k| columns[k].as_chunks().0);
            let (x, u) = (wave(lines * LANES, 1.3), std::array::from_fn(|k| (k as f64).cos()));
            let (mut want, mut got) = (wave(lines * LANES, 0.1), wave(lines * LANES, 0.1));
            let sums = plain(a, u, x.as_chunks().0, want.as_chunks_mut().0);
            let its_sums = below(a, u, x.as_chunks().0, got.as_chunks_mut().0);
            for (want, got) in want.iter().chain(&sums).zip(got.iter().chain(&its_sums)) {
                assert!((want - got).abs() < 1e-14, "{lines} lines");
            }
        }
    }
}
