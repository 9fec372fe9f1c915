//! The two covariances of a layer, and which layer holds the one that several layers share.

use crate::network::layer::{LayerSpec, Side};

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
        layers[self.layer].size(self.side)
    }
}
