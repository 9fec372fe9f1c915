//! Model architectures and the checkpoints they are read from.
