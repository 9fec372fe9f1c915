//! A tracked layer: its name, its shape, and which layers share its input.

use crate::linalg::block_diagonal::BlockWidth;

/// Place of a layer in [`crate::Network::layers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub usize);

/// A tracked linear layer: `z = W a`, `W: [outputs, inputs]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSpec {
    /// The layer's name in the checkpoint, without `.weight`.
    pub name: String,
    /// Rows of `W`, O.
    pub outputs: usize,
    /// Columns of `W` without the bias.
    pub inputs: usize,
    /// Whether a bias joins `W` as its last column.
    pub bias: bool,
    /// Layers with the same number read the same tensor (q, k, v; gate, up) and have the same bias
    /// setting, so that their input covariance and its eigenvectors exist once.
    pub input_group: usize,
}

impl LayerSpec {
    /// Columns of the gradient matrix, I: the inputs and, with a bias, the column of ones.
    pub fn columns(&self) -> usize {
        self.inputs + usize::from(self.bias)
    }

    /// Numbers in the layer's gradient matrix, `outputs · columns`.
    pub fn parameters(&self) -> usize {
        self.outputs * self.columns()
    }
}

/// Whether no layer before this one reads the same tensor: what is there once for a group has the name and place of its
/// first layer.
///
/// # Panics
/// If there is no layer `l`.
pub fn is_first_of_group(layers: &[LayerSpec], l: usize) -> bool {
    let group = layers[l].input_group;
    layers[..l].iter().all(|other| other.input_group != group)
}

impl BlockWidth {
    /// Numbers in both sides of a layer's eigenvectors or covariances, the input's only if it is the first of its group.
    ///
    /// # Panics
    /// If there is no layer `l`.
    pub fn numbers_of_layer(self, layers: &[LayerSpec], l: usize) -> usize {
        let layer = &layers[l];
        self.numbers(layer.outputs) + if is_first_of_group(layers, l) { self.numbers(layer.columns()) } else { 0 }
    }
}
