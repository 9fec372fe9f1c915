//! How long eigendecompositions take.

use std::time::Instant;

use rayon::prelude::*;

use serde::Serialize;

use super::super::count::Cost;
use super::super::work;
use crate::curvature::gemm::{Threads, View};
use crate::curvature::{Eigenpairs, SymmetricMatrix};

/// An eigendecomposition that was timed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EigenRate {
    /// Rows of the matrix.
    pub n: usize,
    /// Seconds on one thread.
    pub seconds: f64,
}

/// Largest eigendecomposition that is tried, in FLOP as [`work::eigendecomposition`] counts them.
const LARGEST_EIGEN: u128 = 12_000_000_000;

/// Seconds of decompositions of the job's sizes, as far as they are quick, on every thread at once; of a size that was
/// timed before, the fewer of both.
pub(super) fn seconds(cost: &Cost, before: &[EigenRate]) -> Vec<EigenRate> {
    let mut sizes: Vec<usize> = cost.stages.iter().flat_map(|stage| stage.decomposed.iter().map(|(n, _)| *n)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let quick = |n: &usize| work::eigendecomposition(*n) <= LARGEST_EIGEN;
    let largest = (LARGEST_EIGEN as f64 / 9.0).cbrt() as usize;
    let mut tried: Vec<usize> = sizes.iter().copied().filter(quick).collect();
    // of sizes that differ little one is enough
    tried.dedup_by(|a, b| *a - *b <= *a / 20);
    if !sizes.iter().all(quick) && tried.last().is_none_or(|&n| n < largest * 3 / 4) {
        tried.push(largest);
    }
    let mut found = vec![];
    for n in tried {
        let rows = (0..n * n).map(|k| ((k * k % 1009) as f64 * 0.37).sin()).collect::<Vec<_>>();
        let matrix = SymmetricMatrix::gram(View::dense(&rows, n, n), Threads::Pool);
        let start = Instant::now();
        let threads = 0..rayon::current_num_threads();
        let done = threads
            .into_par_iter()
            .with_max_len(1)
            .map(|_| Eigenpairs::<f32>::of(&matrix, "calibration", "input", Threads::One).is_ok());
        if done.all(|done| done) {
            let seconds = start.elapsed().as_secs_f64();
            let before = before.iter().find(|rate| rate.n == n).map_or(f64::INFINITY, |rate| rate.seconds);
            found.push(EigenRate { n, seconds: seconds.min(before) });
        }
    }
    found
}
