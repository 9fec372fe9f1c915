//! Eigenvectors and eigenvalues of covariances, and rotations into them.

use crate::contraction::route::BasisSize;
use crate::error::Error;
use crate::linalg::block_diagonal::BlockDiagonal;
use crate::linalg::decomposition;
use crate::linalg::gemm::{Real, Threads};
use crate::linalg::matrix::Matrix;
use crate::linalg::symmetric::SymmetricMatrix;

/// The eigenvectors of one covariance, in the run's type, and its eigenvalues.
#[derive(Debug, Clone)]
pub struct Eigenpairs<T> {
    /// Orthonormal columns, by ascending eigenvalue in each block, `[n, n]`.
    pub vectors: BlockDiagonal<T>,
    /// Ascending in each block, none below 0.
    pub values: Vec<f64>,
    /// How many eigenvalues rounding had left below 0; they were set to 0.
    pub clipped: usize,
}

/// The Kronecker eigenbasis of one layer: `U = Q_S ⊗ Q_A`.
#[derive(Debug, Clone)]
pub struct Eigenbasis<T> {
    /// Eigenpairs of the output covariance S, `[O, O]`.
    pub output: Eigenpairs<T>,
    /// Eigenpairs of the input covariance A, `[columns, columns]`; shared by the layers of an input group.
    pub input: Eigenpairs<T>,
}

/// From this size on a decomposition can use all threads by itself; smaller ones run one on each thread: side by side
/// they lose nothing to steps that one thread does alone.
pub const THREADED_FROM: usize = 2000;

impl<T: Real> Eigenbasis<T> {
    /// Says that the eigenvectors are not needed for a while ([`Matrix::forget`]).
    pub fn forget(&self) {
        self.output.vectors.forget();
        self.input.vectors.forget();
    }

    /// What rotations cost.
    pub fn size(&self) -> BasisSize {
        BasisSize { output: self.output.vectors.numbers(), input: self.input.vectors.numbers() }
    }
}

/// How far below 0, as a share of the largest, an eigenvalue of a covariance may be by rounding: where it has fewer
/// positions than rows, sums of a batch in f32 leave up to 1e-5 in the place of 0 if products are of bf16.
const ROUNDING: f64 = 1e-4;

impl<T: Real> Eigenpairs<T> {
    /// Blocks side by side on the diagonal.
    pub(crate) fn joined(blocks: impl Iterator<Item = Self>) -> Self {
        let (mut vectors, mut values, mut clipped) = (vec![], vec![], 0);
        for pairs in blocks {
            vectors.extend(pairs.vectors.blocks().map(|(_, block)| block.clone()));
            values.extend(pairs.values);
            clipped += pairs.clipped;
        }
        Self { vectors: BlockDiagonal::new(vectors), values, clipped }
    }

    /// Decomposes one symmetric matrix, named by layer and side for messages.
    ///
    /// # Errors
    /// As [`Eigenbasis::of_layers`].
    pub fn of(matrix: &SymmetricMatrix, layer: &str, side: &'static str, threads: Threads) -> Result<Self, Error> {
        let n = matrix.size();
        if !matrix.as_slice().iter().all(|x| x.is_finite()) {
            return Err(Error::NonFinite { layer: layer.into(), what: "a covariance", examples: 0..0 });
        }
        let (values, vectors) = decomposition::eigenpairs(matrix, threads)
            .map_err(|_| Error::NoConvergence { layer: layer.into(), side })?;
        let (smallest, largest) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(0.0));
        if smallest < -ROUNDING * largest.max(0.0) {
            return Err(Error::NegativeEigenvalue { layer: layer.into(), side, value: smallest, largest });
        }
        let clipped = values.iter().filter(|&&x| x < 0.0).count();
        let values = values.into_iter().map(|x: f64| x.max(0.0)).collect();
        Ok(Self { vectors: Matrix::new(vectors, n, n).into(), values, clipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_rebuild_the_matrix_and_are_orthonormal() -> Result<(), Error> {
        let n = 7;
        let x: Vec<f64> = (0..5 * n).map(|i| ((i * i + 3) as f64 * 0.37).sin()).collect();
        let gram = |i: usize, j: usize| (0..5).map(|r| x[r * n + i] * x[r * n + j]).sum::<f64>();
        let matrix = SymmetricMatrix::from_fn(n, gram);
        let pairs = Eigenpairs::<f64>::of(&matrix, "fc", "input", Threads::One)?;
        assert!(pairs.values.windows(2).all(|pair| pair[0] <= pair[1]) && pairs.values[0] >= 0.0);
        assert!(pairs.values[1] < 1e-13, "five rows have rank five of seven");
        let u = pairs.vectors.whole().to_rows();
        for i in 0..n {
            for j in 0..n {
                let rebuilt: f64 = (0..n).map(|k| u[i][k] * pairs.values[k] * u[j][k]).sum();
                let unit: f64 = (0..n).map(|k| u[k][i] * u[k][j]).sum();
                assert!((rebuilt - gram(i, j)).abs() < 1e-13, "[{i}, {j}]");
                assert!((unit - f64::from(i == j)).abs() < 1e-14, "[{i}, {j}]");
            }
        }
        Ok(())
    }

    #[test]
    fn a_negative_eigenvalue_names_the_layer() {
        let matrix = SymmetricMatrix::new(vec![1.0, 0.0, -0.5], 2);
        let error = Eigenpairs::<f32>::of(&matrix, "h.0.fc", "output", Threads::One).expect_err("indefinite");
        assert_eq!(
            error.to_string(),
            "layer `h.0.fc`: the output covariance has the eigenvalue -5e-1, below -1e-4 of its largest, 1e0"
        );
    }
}
