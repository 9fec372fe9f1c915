//! Which axis of a stored matrix is which.

/// How a checkpoint stores a linear layer's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[outputs, inputs]`, as `torch.nn.Linear`.
    OutputsFirst,
    /// `[inputs, outputs]`, as `Conv1D` of transformers.
    InputsFirst,
}
