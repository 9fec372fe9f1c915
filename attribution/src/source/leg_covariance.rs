//! The covariances of a segment, in the coordinates of its optimizer.

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{
    BlockWidth, CovarianceBlock, Eigenbasis, Eigenpairs, Error, LayerSpec, SharedInputs, SymmetricMatrix, decompose,
};

use super::{Conditioner, PooledCovariance};

/// The covariances of a segment, conditioned where there is a conditioner.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, Copy)]
pub struct LegCovariance<'a, T> {
    /// All layers.
    pub layers: &'a [LayerSpec],
    /// At the segment's checkpoints.
    pub pooled: &'a PooledCovariance,
    /// By layer, or empty if the optimizer is not preconditioned.
    pub conditioners: &'a [Option<Conditioner<T>>],
    /// Layers that were not trained: they have no eigenbasis.
    pub frozen: &'a [usize],
}

impl<T: Real> LegCovariance<'_, T> {
    /// Layers that share an input do not share a conditioned input covariance: each is decomposed by itself.
    fn inputs(&self) -> SharedInputs {
        if self.conditioners.is_empty() { SharedInputs::Shared } else { SharedInputs::Own }
    }

    /// Some coordinates of one of them.
    fn block(&self, block: &CovarianceBlock) -> SymmetricMatrix {
        let CovarianceBlock { of, range, .. } = block;
        let pooled = self.pooled.block(self.layers, *of, range.clone());
        match self.conditioners.get(of.layer) {
            Some(Some(conditioner)) => conditioner.covariance(&pooled, of.side, range.clone()),
            _ => pooled,
        }
    }

    /// Blocks of at most this width of all of them.
    pub fn blocks(&self, width: BlockWidth) -> Vec<CovarianceBlock> {
        CovarianceBlock::all(self.layers, self.inputs(), self.frozen, width)
    }

    /// Decomposes blocks, those of `alone_from` rows and more one after the other, and gives their eigenpairs to `keep`,
    /// which may be called from several threads at once; covariances and eigenvectors are in memory while they are
    /// worked on.
    ///
    /// # Errors
    /// Those of the decomposition and of `keep`.
    pub fn decompose<E: From<Error> + Send>(
        &self,
        blocks: Vec<CovarianceBlock>,
        alone_from: usize,
        keep: impl Fn(CovarianceBlock, Eigenpairs<T>) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        decompose(self.layers, blocks, alone_from, |block| self.block(block), keep)
    }

    /// Each layer's eigenbasis, `None` for frozen layers.
    ///
    /// # Errors
    /// Those of the decomposition.
    pub fn eigenbases(&self, width: BlockWidth) -> Result<Vec<Option<Eigenbasis<T>>>, Error> {
        Eigenbasis::of_sides(self.layers, self.inputs(), self.frozen, width, |block| self.block(block))
    }
}

#[cfg(test)]
mod tests {
    use ascribe_curvature::{Counts, Covariance};

    use super::*;

    fn layer(name: &str, outputs: usize, input_group: usize) -> LayerSpec {
        LayerSpec { name: name.into(), outputs, inputs: 2, bias: false, input_group, vocabulary: None }
    }

    fn symmetric(triangle: &[f64], n: usize) -> SymmetricMatrix {
        SymmetricMatrix::new(triangle.to_vec(), n)
    }

    #[test]
    fn layers_that_share_an_input_have_bases_of_their_own_conditioners() -> Result<(), crate::Error> {
        let layers = [layer("q", 1, 0), layer("k", 1, 0), layer("out", 2, 1)];
        let input = symmetric(&[2.0, 0.7, 1.0], 2);
        let covariance = Covariance {
            inputs: vec![Some(input.clone().into()), Some(input.clone().into())],
            outputs: [(&[1.0][..], 1), (&[3.0], 1), (&[1.0, 0.2, 1.5], 2)].map(|(s, n)| symmetric(s, n).into()).into(),
            counts: Counts { positions: vec![4; 3], examples: 4 },
        };
        let pooled = PooledCovariance::new(vec![(1.0, covariance)])?;
        let conditioner = |layer: &LayerSpec, p: &[f64]| Conditioner::<f64>::from_preconditioner(layer, p);
        let conditioners =
            vec![Some(conditioner(&layers[0], &[1.0, 4.0])?), Some(conditioner(&layers[1], &[0.5, 0.1])?), None];
        let conditioned = LegCovariance { layers: &layers, pooled: &pooled, conditioners: &conditioners, frozen: &[] };
        for (l, basis) in conditioned.eigenbases(BlockWidth::Any)?.iter().enumerate() {
            let pairs = &basis.as_ref().expect("no layer is frozen").input;
            let u = pairs.vectors.whole();
            for k in 0..4 {
                let rebuilt: f64 = (0..2).map(|j| u.row(k / 2)[j] * pairs.values[j] * u.row(k % 2)[j]).sum();
                let pi = conditioners[l].as_ref().map_or([1.0, 1.0], |c| [c.columns()[0], c.columns()[1]]);
                let want = input.at(k / 2, k % 2) * pi[k / 2] * pi[k % 2];
                assert!((rebuilt - want).abs() < 1e-14, "layer {l} [{k}]");
            }
        }
        // without conditioners a frozen layer drops out, and the others keep their places
        let found =
            LegCovariance::<f64> { conditioners: &[], frozen: &[0], ..conditioned }.eigenbases(BlockWidth::Any)?;
        assert!(found[0].is_none());
        assert!((found[1].as_ref().expect("trained").output.values[0] - 3.0).abs() < 1e-15);
        assert_eq!(found[2].as_ref().expect("trained").output.values.len(), 2);
        Ok(())
    }
}
