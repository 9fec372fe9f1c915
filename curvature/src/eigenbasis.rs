use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, Par};
use rayon::prelude::*;

use std::ops::Range;

use crate::contraction::BasisSize;
use crate::gemm::{Real, Threads};
use crate::{BlockDiagonal, BlockWidth, Covariance, Error, LayerSpec, Matrix, first_of_group};

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
    /// Of the output covariance S, `[O, O]`.
    pub output: Eigenpairs<T>,
    /// Of the input covariance A, `[columns, columns]`; shared by the layers of an input group.
    pub input: Eigenpairs<T>,
}

/// From this size on a decomposition uses all threads by itself; smaller ones run one on each thread.
/// `faer` gains nothing from a second thread up to 1,025 (docs/performance.md).
pub const THREADED_FROM: usize = 2000;

impl<T: Real> Eigenbasis<T> {
    /// Decomposes every covariance, in `f64`, and gives each layer its basis.
    ///
    /// # Errors
    /// [`Error::NegativeEigenvalue`] below `-1e-6` of the largest, [`Error::NoConvergence`],
    /// [`Error::NonFinite`].
    /// # Source
    /// METHOD §2.2.
    pub fn of_layers(covariance: &Covariance, layers: &[LayerSpec]) -> Result<Vec<Self>, Error> {
        Self::of_layers_in_blocks(covariance, layers, BlockWidth::Any)
    }

    /// The same of covariances that are cut into blocks of at most this width.
    ///
    /// # Errors
    /// As [`Eigenbasis::of_layers`].
    /// # Source
    /// METHOD §2.2, wide layers.
    pub fn of_layers_in_blocks(
        covariance: &Covariance,
        layers: &[LayerSpec],
        width: BlockWidth,
    ) -> Result<Vec<Self>, Error> {
        let name_of_group = |group| first_of_group(layers, group).map_or("", |l| layers[l].name.as_str());
        let inputs = covariance.inputs.iter().enumerate().map(|(group, a)| (name_of_group(group), "input", a.as_ref()));
        let outputs = layers.iter().zip(&covariance.outputs).map(|(l, s)| (l.name.as_str(), "output", Some(s)));
        let jobs: Vec<_> =
            inputs.chain(outputs).enumerate().filter_map(|(k, (n, side, m))| Some((k, n, side, m?))).collect();
        let sides: Vec<_> = jobs.iter().map(|&(_, name, side, matrix)| (name, side, matrix.rows())).collect();
        let pairs = Eigenpairs::of_each(&sides, width, |job, group| jobs[job].3.diagonal_block(group))?;
        let mut found: Vec<Option<Eigenpairs<T>>> = vec![None; covariance.inputs.len() + layers.len()];
        for ((k, ..), pairs) in jobs.iter().zip(pairs) {
            found[*k] = Some(pairs);
        }
        let take = |k: usize| found[k].clone().expect("every layer has both covariances");
        let first_output = covariance.inputs.len();
        Ok(layers
            .iter()
            .enumerate()
            .map(|(l, layer)| Self { output: take(first_output + l), input: take(layer.input_group) })
            .collect())
    }
}

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

impl<T: Real> Eigenpairs<T> {
    /// Decomposes diagonal blocks of at most this width of matrices, which `make` hands out by the matrix's place and
    /// the block's: wide ones one after the other on all threads, the others side by side, each on one.
    ///
    /// # Shapes
    /// Each of `sides` is the layer and the side for messages, and the number of rows.
    /// # Errors
    /// As [`Eigenbasis::of_layers`].
    pub fn of_each(
        sides: &[(&str, &'static str, usize)],
        width: BlockWidth,
        make: impl Fn(usize, Range<usize>) -> Matrix<f64> + Sync,
    ) -> Result<Vec<Self>, Error> {
        let of_side = |(k, side): (usize, &(&str, &'static str, usize))| width.groups(side.2).map(move |g| (k, g));
        let blocks: Vec<(usize, Range<usize>)> = sides.iter().enumerate().flat_map(of_side).collect();
        let of = |block: usize, threads| {
            let (k, group) = &blocks[block];
            Self::of(&make(*k, group.clone()), sides[*k].0, sides[*k].1, threads)
        };
        // Longest first, so that no thread ends with the dearest one.
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|&block| (std::cmp::Reverse(blocks[block].1.len()), block));
        let (large, small): (Vec<_>, Vec<_>) =
            order.into_iter().partition(|&block| blocks[block].1.len() >= THREADED_FROM);
        let large = large.into_iter().map(|k| Ok((k, of(k, Threads::Pool)?)));
        let mut found = large.collect::<Result<Vec<_>, Error>>()?;
        let small = small.into_par_iter().with_max_len(1).map(|k| Ok((k, of(k, Threads::One)?)));
        found.extend(small.collect::<Result<Vec<_>, Error>>()?);
        found.sort_by_key(|(block, _)| *block);
        let mut found = found.into_iter().map(|(_, pairs)| pairs);
        let joined =
            |side: &(&str, &'static str, usize)| Self::joined(found.by_ref().take(width.groups(side.2).count()));
        Ok(sides.iter().map(joined).collect())
    }

    /// Blocks side by side on the diagonal.
    fn joined(blocks: impl Iterator<Item = Self>) -> Self {
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
    pub fn of(matrix: &Matrix<f64>, layer: &str, side: &'static str, threads: Threads) -> Result<Self, Error> {
        let n = matrix.rows();
        if !matrix.as_slice().iter().all(|x| x.is_finite()) {
            return Err(Error::NonFinite { layer: layer.into(), what: "a covariance", examples: 0..0 });
        }
        let par: Par = threads.faer();
        let a = Mat::from_fn(n, n, |r, c| 0.5 * (matrix.row(r)[c] + matrix.row(c)[r]));
        let (mut values, mut vectors) = (Diag::<f64>::zeros(n), Mat::<f64>::zeros(n, n));
        let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, Default::default());
        let mut buffer = MemBuffer::new(scratch);
        let stack = MemStack::new(&mut buffer);
        self_adjoint_evd(a.as_ref(), values.as_mut(), Some(vectors.as_mut()), par, stack, Default::default())
            .map_err(|_| Error::NoConvergence { layer: layer.into(), side })?;
        let values: Vec<f64> = values.column_vector().iter().copied().collect();
        let (smallest, largest) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(0.0));
        if smallest < -1e-6 * largest.max(0.0) {
            return Err(Error::NegativeEigenvalue { layer: layer.into(), side, value: smallest, largest });
        }
        let clipped = values.iter().filter(|&&x| x < 0.0).count();
        let values = values.into_iter().map(|x| x.max(0.0)).collect();
        let mut flat = Vec::with_capacity(n * n);
        for r in 0..n {
            flat.extend((0..n).map(|c| T::of(vectors[(r, c)])));
        }
        Ok(Self { vectors: Matrix::new(flat, n, n).into(), values, clipped })
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
        let matrix = Matrix::new((0..n * n).map(|k| gram(k / n, k % n)).collect(), n, n);
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
        let matrix = Matrix::new(vec![1.0, 0.0, 0.0, -0.5], 2, 2);
        let error = Eigenpairs::<f32>::of(&matrix, "h.0.fc", "output", Threads::One).expect_err("indefinite");
        assert_eq!(
            error.to_string(),
            "layer `h.0.fc`: the output covariance has the eigenvalue -5e-1, below -1e-6 of its largest, 1e0"
        );
    }
}
