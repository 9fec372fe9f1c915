//! Eigendecompositions of many covariances, each handed over as soon as it is there: what has to be in memory at once
//! are the matrices that are being worked on.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::eigenbasis::THREADED_FROM;
use crate::gemm::{Real, Threads};
use crate::{BlockWidth, Eigenbasis, Eigenpairs, Error, LayerSpec, SymmetricMatrix};

/// Which of a layer's two covariances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `A`, of what the layer reads, `[columns, columns]`.
    Input,
    /// `S`, of the gradients of what it puts out, `[O, O]`.
    Output,
}

impl Side {
    /// For messages and names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// Whether layers that read the same input have the eigenvectors of its covariance in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedInputs {
    /// The first of them holds those of all.
    Shared,
    /// Each layer has its own: its covariance is conditioned by its own preconditioner.
    Own,
}

impl SharedInputs {
    /// The layer that holds the input's eigenvectors of layer `l`, of layers of which some are `frozen`.
    pub fn holder(self, layers: &[LayerSpec], frozen: &[usize], l: usize) -> usize {
        let shares = |other: &usize| layers[*other].input_group == layers[l].input_group && !frozen.contains(other);
        match self {
            Self::Own => l,
            Self::Shared => (0..l).find(shares).unwrap_or(l),
        }
    }
}

/// One covariance of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSide {
    /// The layer's number.
    pub layer: usize,
    /// Which of its two.
    pub side: Side,
}

impl LayerSide {
    /// Every covariance that the layers which are not `frozen` need, once.
    pub fn all(layers: &[LayerSpec], inputs: SharedInputs, frozen: &[usize]) -> Vec<Self> {
        let trained = (0..layers.len()).filter(|l| !frozen.contains(l));
        let of_layer = |layer: usize| {
            let holds = inputs.holder(layers, frozen, layer) == layer;
            let input = holds.then_some(Self { layer, side: Side::Input });
            input.into_iter().chain([Self { layer, side: Side::Output }])
        };
        trained.flat_map(of_layer).collect()
    }

    /// Rows of the covariance.
    pub fn size(self, layers: &[LayerSpec]) -> usize {
        match self.side {
            Side::Input => layers[self.layer].columns(),
            Side::Output => layers[self.layer].outputs,
        }
    }
}

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
            width.groups(of.size(layers)).enumerate().map(move |(block, range)| Self { of, block, range })
        };
        LayerSide::all(layers, inputs, frozen).into_iter().flat_map(of_side).collect()
    }
}

/// Decomposes blocks of covariances: wide ones one after the other on all threads, the others side by side, each on one.
///
/// `make` gives a block when it is its turn, `keep` takes its eigenpairs; both may be called from several threads at
/// once, and blocks come in no particular order.
///
/// # Errors
/// [`Error::NegativeEigenvalue`] below `-1e-6` of the largest, [`Error::NoConvergence`], [`Error::NonFinite`]; those of
/// `keep`.
/// # Source
/// METHOD §2.2.
pub fn decompose<T: Real, E: From<Error> + Send>(
    layers: &[LayerSpec],
    mut blocks: Vec<CovarianceBlock>,
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
    let small = blocks.split_off(blocks.partition_point(|block| block.range.len() >= THREADED_FROM));
    blocks.into_iter().try_for_each(|block| decompose(block, Threads::Pool))?;
    small.into_par_iter().with_max_len(1).try_for_each(|block| decompose(block, Threads::One))
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
        decompose(layers, CovarianceBlock::all(layers, inputs, frozen, width), make, |block, pairs| {
            found.lock().unwrap_or_else(PoisonError::into_inner).push((block, pairs));
            Ok::<_, Error>(())
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(block, _)| block.block);
        let joined = |of: LayerSide| {
            let blocks = found.iter().filter(|(block, _)| block.of == of).map(|(_, pairs): &(_, Eigenpairs<T>)| pairs);
            Eigenpairs::joined(blocks.cloned())
        };
        let mut bases: Vec<Option<Self>> = vec![];
        for layer in 0..layers.len() {
            let holder = inputs.holder(layers, frozen, layer);
            let input = match bases.get(holder).and_then(Option::as_ref) {
                Some(basis) => basis.input.clone(),
                None if frozen.contains(&layer) => {
                    bases.push(None);
                    continue;
                }
                None => joined(LayerSide { layer, side: Side::Input }),
            };
            bases.push(Some(Self { output: joined(LayerSide { layer, side: Side::Output }), input }));
        }
        Ok(bases)
    }
}
