//! How large a model is, from its configuration alone.

use crate::curvature::LayerSpec;

/// Sizes that decide how much memory a model takes, in numbers (not bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// All parameters.
    pub parameters: u64,
    /// Parameters of the largest section of the backward pass.
    pub section: u64,
    /// Parameters of the head, if it is a section of its own, as a language model's is; 0 otherwise.
    pub head: u64,
    /// Sections, without the head.
    pub sections: u64,
    /// Numbers that go from one section to the next for each position.
    pub width: u64,
    /// Numbers that a section keeps of each position for its backward pass: inputs and outputs of its linear layers.
    pub activations: u64,
    /// Numbers that all sections together keep of each position for their backward passes.
    pub all_activations: u64,
    /// Heads of a block's attention; 0 without attention.
    pub heads: u64,
    /// Logits of a position; 0 unless it is a language model.
    pub vocabulary: u64,
    /// Whether the head is tracked, so that the gradient at all logits of a batch is kept.
    pub tracked_head: bool,
    /// Rows of all tracked tables of embeddings together: a position has a number for each in the inputs of their layers.
    pub table_rows: u64,
    /// Whether layers have rows of their own, fewer from one to the next, as convolutions have that stride: then
    /// `activations` say what a section has for each position of an example, and the layers' shapes do not.
    pub has_own_rows: bool,
}

impl Footprint {
    /// The most numbers that the inputs or outputs of one of these layers have for each position of an example.
    pub fn widest(&self, layers: &[LayerSpec]) -> u64 {
        if self.has_own_rows {
            return self.activations.max(1);
        }
        layers.iter().map(|layer| layer.outputs.max(layer.columns()) as u64).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel of 9 · 512 numbers at 49 places of an image of 50,176 pixels has 4 numbers for each pixel.
    #[test]
    fn layers_with_rows_of_their_own_are_as_wide_as_their_section() {
        let layer = |outputs, inputs| LayerSpec {
            name: "layer".into(),
            outputs,
            inputs,
            bias: true,
            input_group: 0,
            vocabulary: None,
        };
        let layers = [layer(64, 147), layer(512, 4608)];
        let network = Footprint { activations: 58, ..Footprint::default() };
        assert_eq!(network.widest(&layers), 4609);
        assert_eq!(Footprint { has_own_rows: true, ..network }.widest(&layers), 58);
        assert_eq!((network.widest(&[]), Footprint { has_own_rows: true, ..Footprint::default() }.widest(&[])), (1, 1));
    }
}
