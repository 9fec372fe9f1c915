//! A tracked layer: its name, its shape, and which layers share its input.

use std::num::NonZeroUsize;

use crate::linalg::block_diagonal::BlockWidth;

/// Tokens of a vocabulary up to which the covariance of the side that counts them is kept whole.
const WHOLE_VOCABULARY: usize = 4096;
/// Rows of a block of one that is not.
const VOCABULARY_BLOCK: NonZeroUsize = NonZeroUsize::new(1024).expect("not 0");

/// Place of a layer in [`crate::Network::layers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub usize);

/// Which of a layer's two covariances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `A`, of what the layer reads, `[columns, columns]`.
    Input,
    /// `S`, of the gradients of what it puts out, `[O, O]`.
    Output,
}

impl Side {
    /// The two, as layers have their shapes.
    pub const BOTH: [Self; 2] = [Self::Output, Self::Input];

    /// For messages and names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

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
    /// The side whose coordinates are the tokens of a vocabulary: the outputs of a language model's head, the inputs of an
    /// embedding. None of all other layers.
    pub vocabulary: Option<Side>,
}

impl LayerSpec {
    /// Columns of the gradient matrix, I: the inputs and, with a bias, the column of ones.
    pub fn columns(&self) -> usize {
        self.inputs + usize::from(self.bias)
    }

    /// Coordinates of a side: O, or I.
    pub fn size(&self, side: Side) -> usize {
        match side {
            Side::Input => self.columns(),
            Side::Output => self.outputs,
        }
    }

    /// The blocks in which the covariance of a side is summed and kept: one, or where the side counts the tokens of more
    /// than a small vocabulary those of at most 1,024 tokens. The covariance of an embedding's inputs is diagonal, so that
    /// none of its numbers is dropped.
    ///
    /// # Source
    /// `docs/method.md`, Curvature, vocabularies.
    pub fn kept_blocks(&self, side: Side) -> BlockWidth {
        match self.vocabulary == Some(side) && self.size(side) > WHOLE_VOCABULARY {
            true => BlockWidth::AtMost(VOCABULARY_BLOCK),
            false => BlockWidth::Any,
        }
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
    /// The blocks of a side's eigenvectors where those of others are at most this wide: a covariance that is kept in
    /// blocks is decomposed in the same ones.
    #[must_use]
    pub fn at(self, layer: &LayerSpec, side: Side) -> Self {
        match layer.kept_blocks(side) {
            Self::Any => self,
            kept => kept,
        }
    }

    /// Whether a layer's eigenvectors are more than one block on some side.
    pub fn cuts_layer(self, layer: &LayerSpec) -> bool {
        Side::BOTH.into_iter().any(|side| self.at(layer, side).cuts(layer.size(side)))
    }

    /// Numbers in a side's eigenvectors.
    pub fn numbers_of_side(self, layer: &LayerSpec, side: Side) -> usize {
        self.at(layer, side).numbers(layer.size(side))
    }

    /// Numbers in both sides of a layer's eigenvectors, the input's only if it is the first of its group.
    ///
    /// # Panics
    /// If there is no layer `l`.
    pub fn numbers_of_layer(self, layers: &[LayerSpec], l: usize) -> usize {
        let of = |side| self.numbers_of_side(&layers[l], side);
        of(Side::Output) + if is_first_of_group(layers, l) { of(Side::Input) } else { 0 }
    }
}
