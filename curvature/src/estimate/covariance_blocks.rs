//! Eigendecompositions of many covariances, each handed over as soon as it is there: what has to be in memory at once
//! are the matrices that are being worked on.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::Error;
use crate::estimate::covariance::Covariance;
use crate::estimate::eigenbasis::THREADED_FROM;
use crate::estimate::eigenbasis::{Eigenbasis, Eigenpairs};
use crate::estimate::side::{LayerSide, SharedInputs};
use crate::linalg::block_diagonal::BlockWidth;
use crate::linalg::gemm::{Real, Threads};
use crate::linalg::symmetric::SymmetricMatrix;
use crate::network::layer::{LayerSpec, Side};

/// A diagonal block of a covariance; mostly it is all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CovarianceBlock {
    /// The covariance.
    pub of: LayerSide,
    /// Which of its blocks, counted from 0.
    pub block: usize,
    /// The block's coordinates.
    pub range: Range<usize>,
}

impl CovarianceBlock {
    /// Blocks of at most this width of every covariance that the layers which are not `frozen` need, once.
    pub fn all(layers: &[LayerSpec], inputs: SharedInputs, frozen: &[usize], width: BlockWidth) -> Vec<Self> {
        let of_side = |of: LayerSide| {
            let width = width.at(&layers[of.layer], of.side);
            width.groups(of.size(layers)).enumerate().map(move |(block, range)| Self { of, block, range })
        };
        LayerSide::all(layers, inputs, frozen).into_iter().flat_map(of_side).collect()
    }
}

/// How many of the largest decompositions are done one after the other on all threads; the others are done side by side,
/// each on one. Two side by side take less time than one after the other on two threads (docs/benchmarks.md), but twice
/// the memory: those of `alone_from` rows and more are alone, and as many of the large ones that no thread is left with
/// one when the others are done.
///
/// # Shapes
/// `sizes`: rows, the largest first.
pub fn decomposed_alone(sizes: impl Iterator<Item = usize>, alone_from: usize, threads: usize) -> usize {
    let large: Vec<usize> = sizes.take_while(|&n| n >= THREADED_FROM.min(alone_from)).collect();
    let alone = large.partition_point(|&n| n >= alone_from);
    alone + (large.len() - alone) % threads.max(1)
}

/// Decomposes blocks of covariances, those of `alone_from` rows and more one after the other on all threads
/// ([`decomposed_alone`]).
///
/// `make` gives a block when it is its turn, `keep` takes its eigenpairs; both may be called from several threads at
/// once, and blocks come in no particular order.
///
/// # Errors
/// [`Error::NegativeEigenvalue`] below `-1e-4` of the largest, [`Error::NoConvergence`], [`Error::NonFinite`]; those of
/// `keep`.
/// # Source
/// `docs/method.md`, Curvature.
pub fn decompose<T: Real, E: From<Error> + Send>(
    layers: &[LayerSpec],
    mut blocks: Vec<CovarianceBlock>,
    alone_from: usize,
    make: impl Fn(&CovarianceBlock) -> SymmetricMatrix + Sync,
    keep: impl Fn(CovarianceBlock, Eigenpairs<T>) -> Result<(), E> + Sync,
) -> Result<(), E> {
    // longest first, so that no thread ends with the dearest one
    blocks.sort_by_key(|block| Reverse(block.range.len()));
    let decompose = |block: CovarianceBlock, threads| {
        let matrix = make(&block);
        let pairs = Eigenpairs::of(&matrix, &layers[block.of.layer].name, block.of.side.name(), threads)?;
        matrix.forget();
        keep(block, pairs)
    };
    let sizes = blocks.iter().map(|block| block.range.len());
    let side_by_side = blocks.split_off(decomposed_alone(sizes, alone_from, rayon::current_num_threads()));
    blocks.into_iter().try_for_each(|block| decompose(block, Threads::Pool))?;
    // a queue, not shares of it: the next one goes to the thread that is free, and after an error to none
    let queue = Mutex::new(side_by_side.into_iter());
    let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).try_for_each(|_| {
        loop {
            let Some(block) = queue().next() else { break Ok(()) };
            if let Err(error) = decompose(block, Threads::One) {
                queue().by_ref().for_each(drop);
                break Err(error);
            }
        }
    })
}

impl<T: Real> Eigenbasis<T> {
    /// Decomposes every covariance, in `f64`, and gives each layer its basis.
    ///
    /// # Errors
    /// [`Error::NegativeEigenvalue`] below `-1e-4` of the largest, [`Error::NoConvergence`],
    /// [`Error::NonFinite`].
    /// # Source
    /// `docs/method.md`, Curvature.
    pub fn of_layers(covariance: &Covariance, layers: &[LayerSpec]) -> Result<Vec<Self>, Error> {
        Self::of_layers_in_blocks(covariance, layers, BlockWidth::Any)
    }

    /// Eigenbases of covariances that are cut into blocks of at most this width.
    ///
    /// # Errors
    /// As [`Eigenbasis::of_layers`].
    /// # Source
    /// `docs/method.md`, Curvature, wide layers.
    pub fn of_layers_in_blocks(
        covariance: &Covariance,
        layers: &[LayerSpec],
        width: BlockWidth,
    ) -> Result<Vec<Self>, Error> {
        let block = |block: &CovarianceBlock| covariance.of(layers, block.of).diagonal_block(block.range.clone());
        let bases = Self::of_sides(layers, SharedInputs::Shared, &[], width, block)?;
        Ok(bases.into_iter().flatten().collect())
    }
}

impl<T: Real> Eigenbasis<T> {
    /// [`decompose`], all eigenbases in memory: each layer's, `None` for those that are `frozen`.
    ///
    /// # Errors
    /// As [`decompose`].
    pub fn of_sides(
        layers: &[LayerSpec],
        inputs: SharedInputs,
        frozen: &[usize],
        width: BlockWidth,
        make: impl Fn(&CovarianceBlock) -> SymmetricMatrix + Sync,
    ) -> Result<Vec<Option<Self>>, Error> {
        let found = Mutex::new(vec![]);
        decompose(layers, CovarianceBlock::all(layers, inputs, frozen, width), THREADED_FROM, make, |block, pairs| {
            found.lock().unwrap_or_else(PoisonError::into_inner).push((block, pairs));
            Ok::<_, Error>(())
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(block, _)| block.block);
        let joined = |of: LayerSide| {
            let blocks = found.iter().filter(|(block, _)| block.of == of).map(|(_, pairs): &(_, Eigenpairs<T>)| pairs);
            Eigenpairs::joined(blocks.cloned())
        };
        Self::of_pairs(layers, inputs, frozen, |of| Ok(joined(of)))
    }

    /// Each layer's eigenbasis, `None` for those that are `frozen`, from the `pairs` of every covariance
    /// ([`LayerSide::all`]): layers that share an input's eigenvectors hold clones of them.
    ///
    /// # Errors
    /// Those of `pairs`.
    pub fn of_pairs<E>(
        layers: &[LayerSpec],
        inputs: SharedInputs,
        frozen: &[usize],
        mut pairs: impl FnMut(LayerSide) -> Result<Eigenpairs<T>, E>,
    ) -> Result<Vec<Option<Self>>, E> {
        let mut bases: Vec<Option<Self>> = Vec::with_capacity(layers.len());
        for layer in 0..layers.len() {
            if frozen.contains(&layer) {
                bases.push(None);
                continue;
            }
            let holder = inputs.holder(layers, frozen, layer);
            let input = match bases.get(holder).and_then(Option::as_ref) {
                Some(basis) => basis.input.clone(),
                None => pairs(LayerSide { layer, side: Side::Input })?,
            };
            bases.push(Some(Self { output: pairs(LayerSide { layer, side: Side::Output })?, input }));
        }
        Ok(bases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ones_are_alone_where_memory_or_threads_are_left_over() {
        let sizes = [4000, 3000, 3000, 2500, 2000, 1999, 10];
        let alone = |alone_from, threads| decomposed_alone(sizes.into_iter(), alone_from, threads);
        assert_eq!(alone(usize::MAX, 2), 1, "five large ones on two threads");
        assert_eq!(alone(usize::MAX, 8), 5, "fewer than threads");
        assert_eq!(alone(usize::MAX, 1), 0);
        assert_eq!(alone(3000, 2), 3, "two are left side by side");
        assert_eq!(alone(THREADED_FROM, 2), 5);
        assert_eq!(decomposed_alone([].into_iter(), 0, 2), 0);
    }

    #[test]
    fn after_an_error_nothing_more_is_decomposed() {
        let layer =
            LayerSpec { name: "l".into(), outputs: 1, inputs: 1, bias: false, input_group: 0, vocabulary: None };
        let of = LayerSide { layer: 0, side: Side::Output };
        let blocks = (0..100).map(|block| CovarianceBlock { of, block, range: 0..1 }).collect();
        let made = std::sync::atomic::AtomicUsize::new(0);
        let make = |_: &CovarianceBlock| {
            made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            SymmetricMatrix::new(vec![1.0], 1)
        };
        let stop = |_: CovarianceBlock, _: Eigenpairs<f64>| {
            Err(Error::NoExamples { layer: String::new(), what: "the first that was made" })
        };
        assert!(decompose(&[layer], blocks, usize::MAX, make, stop).is_err());
        assert!(made.into_inner() <= rayon::current_num_threads());
    }

    #[test]
    fn every_covariance_is_decomposed_once_by_those_that_share_it() {
        let layer = |outputs, input_group| LayerSpec {
            name: "l".into(),
            outputs,
            inputs: 5,
            bias: false,
            input_group,
            vocabulary: None,
        };
        let layers = [layer(2, 0), layer(3, 0), layer(4, 1)];
        let sides = |inputs, frozen: &[usize]| {
            let all = LayerSide::all(&layers, inputs, frozen);
            all.iter().map(|of| (of.layer, of.side, of.size(&layers))).collect::<Vec<_>>()
        };
        use Side::{Input, Output};
        let shared = [(0, Input, 5), (0, Output, 2), (1, Output, 3), (2, Input, 5), (2, Output, 4)];
        assert_eq!(sides(SharedInputs::Shared, &[]), shared);
        // the second holds the input when the first is frozen
        assert_eq!(sides(SharedInputs::Shared, &[0, 2]), [(1, Input, 5), (1, Output, 3)]);
        assert_eq!(sides(SharedInputs::Own, &[2]), [(0, Input, 5), (0, Output, 2), (1, Input, 5), (1, Output, 3)]);
    }
}
