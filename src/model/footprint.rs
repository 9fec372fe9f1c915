//! How large a model is, from its configuration alone.

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
}
