//! Matrices of low rank near a given one, from a randomised range finder (Halko et al. 2011).

use crate::error::Error;
use crate::estimate::eigenbasis::{Eigenbasis, Eigenpairs};
use crate::linalg::gemm::{self, Real, Threads, View, ViewMut};
use crate::linalg::random::{normal, philox};
use crate::linalg::symmetric::SymmetricMatrix;

/// Up to this many rows or columns, whichever are fewer, singular vectors come from the whole Gram matrix.
const EXACT: usize = 256;

/// Directions that the range finder follows besides those that are kept.
const OVERSAMPLED: usize = 16;

/// How often the range finder multiplies by the matrix and its transpose.
const POWERS: usize = 3;

/// The seed of the range finder's start: the same for every matrix, so that results can be repeated.
const SEED: [u32; 2] = [0x5EED, 0x10E];

/// What multiplies rows and columns of a vector in the eigenbasis so that its Frobenius norm becomes the one that
/// scores feel: with gradients of covariance `S ⊗ A`, `E <Z, G>² = ||S^{1/2} Z A^{1/2}||²`.
///
/// # Source
/// `docs/method.md`, Score.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitening {
    /// `√(λ_S + ridge)`, `[O]`.
    pub output: Vec<f64>,
    /// `√(λ_A + ridge)`, `[columns]`.
    pub input: Vec<f64>,
}

impl Whitening {
    /// By a basis's eigenvalues, with a ridge of 1e-6 of their mean.
    pub fn of_basis<T: Real>(basis: &Eigenbasis<T>) -> Self {
        let roots = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            // without any eigenvalue there is nothing to weigh by
            let root = |value: &f64| if mean > 0.0 { (value + 1e-6 * mean).sqrt() } else { 1.0 };
            values.iter().map(root).collect()
        };
        Self { output: roots(&basis.output.values), input: roots(&basis.input.values) }
    }

    /// The plain Frobenius norm.
    pub fn plain(outputs: usize, columns: usize) -> Self {
        Self { output: vec![1.0; outputs], input: vec![1.0; columns] }
    }

    /// The weighted matrix.
    fn apply<T: Real>(&self, matrix: &[T]) -> Vec<f64> {
        let rows = matrix.chunks_exact(self.input.len()).zip(&self.output);
        rows.flat_map(|(row, o)| row.iter().zip(&self.input).map(move |(x, i)| x.wide() * o * i)).collect()
    }

    /// The squared norm of a whole matrix, `[O, columns]`.
    pub fn squared_norm<T: Real>(&self, matrix: &[T]) -> f64 {
        self.apply(matrix).iter().map(|x| x * x).sum()
    }
}

/// Squared norms of a vector and of what is kept of it; they add up over layers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Norms {
    /// Squared norm of the vector.
    pub whole: f64,
    /// Squared norm of what is kept: an orthogonal part of the vector, so that the rest of `whole` is what is lost.
    pub kept: f64,
}

impl Norms {
    /// Norms of a vector that is kept as it is.
    pub fn full(whole: f64) -> Self {
        Self { whole, kept: whole }
    }

    /// The share that is kept; 1 if there is nothing to keep.
    pub fn share(self) -> f64 {
        if self.whole > 0.0 { (self.kept / self.whole).min(1.0) } else { 1.0 }
    }
}

impl std::iter::Sum for Norms {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, x| Self { whole: sum.whole + x.whole, kept: sum.kept + x.kept })
    }
}

/// A matrix of low rank, `Σ_k l_k r_kᵀ`.
#[derive(Debug, Clone, PartialEq)]
pub struct Truncation {
    /// `[rank, O]`.
    pub left: Vec<f64>,
    /// `[rank, columns]`.
    pub right: Vec<f64>,
    /// In the norm of the whitening.
    pub norms: Norms,
}

impl Truncation {
    /// Operations, about: products, and eigendecompositions at 9 n³.
    pub fn flops(rank: usize, outputs: usize, columns: usize) -> u128 {
        let (n, w) = (outputs.min(columns), outputs.max(columns));
        let is_exact = is_exact(rank, n);
        let [n, w, rank, k] = [n, w, rank, rank + OVERSAMPLED].map(|n| n as u128);
        let other = 2 * rank * n * w;
        if is_exact {
            return 2 * n * n * w + 9 * n.pow(3) + other;
        }
        let powers = POWERS as u128;
        // twice: a Gram matrix, its decomposition, and a product with its eigenvectors
        let orthonormal = |n: u128| 2 * (4 * n * k * k + 9 * k.pow(3));
        let sampled = 2 * n * w * k * (1 + 2 * powers) + orthonormal(n) * (1 + powers) + orthonormal(w) * powers;
        sampled + 2 * k * n * w + 2 * k * k * w + 9 * k.pow(3) + 2 * n * k * rank + other
    }

    /// The matrix of at most this rank that is nearest to `matrix`, `[O, columns]`, in the norm of `whitening`.
    ///
    /// Where both sides are wide, the space is found by a few multiplications with a fixed random start, which leaves
    /// the approximation slightly behind the best; the kept norm is that of what is returned in either case.
    ///
    /// # Errors
    /// [`Error::NoConvergence`], [`Error::NonFinite`], naming `layer`.
    /// # Source
    /// `docs/method.md`, Score; Halko, Martinsson and Tropp 2011, algorithm 4.4.
    pub fn of<T: Real>(
        matrix: &[T],
        whitening: &Whitening,
        rank: usize,
        layer: &str,
        threads: Threads,
    ) -> Result<Self, Error> {
        let (o, i) = (whitening.output.len(), whitening.input.len());
        let weighted = whitening.apply(matrix);
        let whole = weighted.iter().map(|x| x * x).sum::<f64>();
        let mut found = Self { left: vec![0.0; rank * o], right: vec![0.0; rank * i], norms: Norms::full(whole) };
        if whole == 0.0 {
            return Ok(found);
        }
        let view = View::dense(&weighted, o, i);
        // the space of the shorter side
        let tall = Tall { view: if o <= i { view } else { view.t() }, n: o.min(i), w: o.max(i), layer, threads };
        let (space, size) = match is_exact(rank, tall.n) {
            true => tall.singular_vectors(rank)?,
            false => tall.nearly_singular_vectors(rank)?,
        };
        let columns = View::dense(&space, tall.n, size);
        let other = product(columns.t(), tall.view, [size, tall.n, tall.w], threads);
        found.norms.kept = other.iter().map(|x| x * x).sum();
        let (short, long) = match o <= i {
            true => (&mut found.left, &mut found.right),
            false => (&mut found.right, &mut found.left),
        };
        for (k, row) in other.chunks_exact(tall.w).enumerate() {
            long[k * tall.w..][..tall.w].copy_from_slice(row);
            (0..tall.n).for_each(|r| short[k * tall.n + r] = space[r * size + k]);
        }
        for (left, right) in found.left.chunks_exact_mut(o).zip(found.right.chunks_exact_mut(i)) {
            left.iter_mut().zip(&whitening.output).for_each(|(x, weight)| *x /= weight);
            right.iter_mut().zip(&whitening.input).for_each(|(x, weight)| *x /= weight);
            balance(left, right);
        }
        Ok(found)
    }
}

/// Whether singular vectors of the shorter side, `n` numbers long, come from the whole Gram matrix.
fn is_exact(rank: usize, n: usize) -> bool {
    n <= EXACT || 2 * (rank + OVERSAMPLED) >= n
}

/// Makes the largest numbers of both sides equal, so that neither leaves the range of a short type.
fn balance(left: &mut [f64], right: &mut [f64]) {
    let largest = |x: &[f64]| x.iter().fold(0f64, |m, x| m.max(x.abs()));
    let factor = (largest(right) / largest(left)).sqrt();
    if factor.is_finite() && factor > 0.0 {
        left.iter_mut().for_each(|x| *x *= factor);
        right.iter_mut().for_each(|x| *x /= factor);
    }
}

fn product(a: View<'_, f64>, b: View<'_, f64>, [m, k, n]: [usize; 3], threads: Threads) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    if k > 0 {
        gemm::matmul(ViewMut::dense(&mut c, m, n), gemm::Into::Replace, 1.0, a, b, threads);
    }
    c
}

/// A matrix with no more rows than columns.
#[derive(Clone, Copy)]
struct Tall<'a> {
    /// `[n, w]`.
    view: View<'a, f64>,
    n: usize,
    w: usize,
    layer: &'a str,
    threads: Threads,
}

impl Tall<'_> {
    /// The leading left singular vectors as columns, and how many there are.
    fn singular_vectors(self, rank: usize) -> Result<(Vec<f64>, usize), Error> {
        leading(SymmetricMatrix::gram(self.view.t(), self.threads), rank, self.layer)
    }

    /// The leading left singular vectors, found nearly by a range finder, and how many there are.
    fn nearly_singular_vectors(self, rank: usize) -> Result<(Vec<f64>, usize), Error> {
        let (n, w, k) = (self.n, self.w, rank + OVERSAMPLED);
        let start: Vec<f64> = (0..w * k).map(|at| normal(philox([at as u32, (at >> 32) as u32, 0, 0], SEED))).collect();
        let mut sampled = product(self.view, View::dense(&start, w, k), [n, w, k], self.threads);
        let mut size = self.orthonormal(&mut sampled, n, k)?;
        for _ in 0..POWERS {
            let mut other = product(self.view.t(), View::dense(&sampled, n, size), [w, n, size], self.threads);
            size = self.orthonormal(&mut other, w, size)?;
            sampled = product(self.view, View::dense(&other, w, size), [n, w, size], self.threads);
            size = self.orthonormal(&mut sampled, n, size)?;
        }
        let space = View::dense(&sampled, n, size);
        let inside = product(space.t(), self.view, [size, n, w], self.threads);
        let inside = View::dense(&inside, size, w);
        let (turn, kept) = leading(SymmetricMatrix::gram(inside.t(), self.threads), rank, self.layer)?;
        Ok((product(space, View::dense(&turn, size, kept), [n, size, kept], self.threads), kept))
    }

    /// Makes the columns of `x: [n, k]` orthonormal, and returns how many are left: those that are combinations of
    /// others up to rounding are dropped.
    fn orthonormal(self, x: &mut Vec<f64>, n: usize, mut k: usize) -> Result<usize, Error> {
        // once more, because the first Gram matrix squares the condition number
        for _ in 0..2 {
            let view = View::dense(x, n, k);
            let pairs =
                Eigenpairs::<f64>::of(&SymmetricMatrix::gram(view, self.threads), self.layer, "query", Threads::One)?;
            let vectors = pairs.vectors.whole();
            let largest = pairs.values.last().copied().unwrap_or(0.0);
            let first = pairs.values.iter().position(|&value| value > 1e-13 * largest).unwrap_or(k);
            let scaled: Vec<f64> = (0..k)
                .flat_map(|r| vectors.row(r)[first..].iter().zip(&pairs.values[first..]))
                .map(|(x, value)| x / value.sqrt())
                .collect();
            let next = product(view, View::dense(&scaled, k, k - first), [n, k, k - first], self.threads);
            *x = next;
            k -= first;
        }
        Ok(k)
    }
}

/// Eigenvectors of the largest eigenvalues as columns of `[n, _]`, the largest first, and how many: at most `rank`.
fn leading(gram: SymmetricMatrix, rank: usize, layer: &str) -> Result<(Vec<f64>, usize), Error> {
    let n = gram.size();
    let kept = rank.min(n);
    let pairs = Eigenpairs::<f64>::of(&gram, layer, "query", Threads::One)?;
    let whole = pairs.vectors.whole();
    let vectors = (0..n).flat_map(|r| whole.row(r)[n - kept..].iter().rev().copied()).collect();
    Ok((vectors, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, step: f64) -> Vec<f64> {
        (0..n).map(|k| (k as f64 * step + 0.3).sin() - 0.1).collect()
    }

    fn whitening(o: usize, i: usize) -> Whitening {
        let weights = |n: usize| (0..n).map(|k| 0.1 + (k * k % 7) as f64).collect();
        Whitening { output: weights(o), input: weights(i) }
    }

    /// `||W_S (Z - L Rᵀ) W_A||²`, element by element.
    fn lost(z: &[f64], whitening: &Whitening, found: &Truncation, rank: usize) -> f64 {
        let (o, i) = (whitening.output.len(), whitening.input.len());
        let rest = |r: usize, c: usize| {
            let low: f64 = (0..rank).map(|k| found.left[k * o + r] * found.right[k * i + c]).sum();
            (z[r * i + c] - low) * whitening.output[r] * whitening.input[c]
        };
        (0..o * i).map(|k| rest(k / i, k % i).powi(2)).sum()
    }

    /// Singular values of the weighted matrix, squared, the largest first.
    fn squares(z: &[f64], whitening: &Whitening) -> Vec<f64> {
        let (o, i) = (whitening.output.len(), whitening.input.len());
        let m = |r: usize, c: usize| z[r * i + c] * whitening.output[r] * whitening.input[c];
        let gram = SymmetricMatrix::from_fn(o, |r, s| (0..i).map(|c| m(r, c) * m(s, c)).sum());
        let pairs = Eigenpairs::<f64>::of(&gram, "fc", "query", Threads::One).expect("finite");
        pairs.values.into_iter().rev().collect()
    }

    #[test]
    fn no_matrix_of_the_rank_is_nearer() -> Result<(), Error> {
        for (o, i, rank) in [(5, 7, 2), (7, 5, 3), (4, 9, 1), (3, 3, 3)] {
            let (z, whitening) = (wave(o * i, 1.7), whitening(o, i));
            let found = Truncation::of(&z, &whitening, rank, "fc", Threads::One)?;
            let squares = squares(&z, &whitening);
            let (whole, kept): (f64, f64) = (squares.iter().sum(), squares[..rank.min(o)].iter().sum());
            assert!((found.norms.whole - whole).abs() < 1e-12 * whole, "{o} x {i}");
            assert!((found.norms.kept - kept).abs() < 1e-12 * whole, "{o} x {i}");
            assert!((lost(&z, &whitening, &found, rank) - (whole - kept)).abs() < 1e-12 * whole, "{o} x {i}");
            let plain = Truncation::of(&z, &Whitening::plain(o, i), rank, "fc", Threads::One)?;
            assert!(rank == 3 || lost(&z, &whitening, &plain, rank) > 1.001 * (whole - kept), "weights count");
        }
        Ok(())
    }

    #[test]
    fn of_wide_matrices_nearly_the_best_is_found_on_any_number_of_threads() -> Result<(), Error> {
        let (o, i, rank) = (270, 330, 8);
        // singular values that fall slowly, as those of query vectors do
        let (left, right) = (wave(o * 60, 1.31), wave(60 * i, 0.77));
        let term = |r: usize, c: usize, k: usize| left[r * 60 + k] * right[k * i + c] / (1.0 + k as f64);
        let z: Vec<f64> = (0..o * i).map(|at| (0..60).map(|k| term(at / i, at % i, k)).sum()).collect();
        for (o, i) in [(o, i), (i, o)] {
            let whitening = whitening(o, i);
            let found = Truncation::of(&z, &whitening, rank, "fc", Threads::One)?;
            let best: f64 = squares(&z, &whitening)[..rank].iter().sum();
            let Norms { whole, kept } = found.norms;
            assert!(kept <= best * (1.0 + 1e-12) && kept > 0.9999 * best, "{kept} of {best}");
            assert!((lost(&z, &whitening, &found, rank) - (whole - kept)).abs() < 1e-10 * whole);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let again = pool.install(|| Truncation::of(&z, &whitening, rank, "fc", Threads::Pool))?;
                assert!(again == found, "{threads} threads");
            }
        }
        Ok(())
    }

    #[test]
    fn what_has_less_than_the_rank_is_kept_whole() -> Result<(), Error> {
        let n = 300;
        let (u, v) = (wave(n, 0.9), wave(n, 0.4));
        let z: Vec<f64> = (0..n * n).map(|k| u[k / n] * v[k % n]).collect();
        let whitening = whitening(n, n);
        for z in [z, vec![0.0; n * n]] {
            let found = Truncation::of(&z, &whitening, 4, "fc", Threads::One)?;
            assert!((found.norms.share() - 1.0).abs() < 1e-12, "{:?}", found.norms);
            assert!(lost(&z, &whitening, &found, 4) <= 1e-20 * found.norms.whole);
            assert!(found.left.iter().chain(&found.right).all(|x| x.is_finite()));
        }
        Ok(())
    }
}
