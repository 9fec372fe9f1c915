//! What is refused of an `optimizer.pt`, and what to do about it.

use std::path::PathBuf;

use crate::Hint;
use crate::trajectory::torch_zip::{TorchFile, TorchFileError};

/// Why second moments cannot be taken from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizerStateError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] TorchFileError),
    /// A kind of state that is known and not read.
    #[error("{}: holds the state of {kind}, which has no plain second moments", file.display())]
    Kind {
        /// The file or folder.
        file: PathBuf,
        /// Whose state it is.
        kind: &'static str,
    },
    /// The dictionary does not look like an optimizer's.
    #[error("{}: `{key}` is {found}, expected {expected}", file.display())]
    Layout {
        /// The file.
        file: PathBuf,
        /// Which entry.
        key: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// No decay rule gives groups of these sizes and shapes.
    #[error("{}: its groups of {sizes:?} parameters fit no known order of the model's {parameters}", file.display())]
    Unmatched {
        /// The file.
        file: PathBuf,
        /// Sizes of its groups.
        sizes: Vec<usize>,
        /// Parameters of the model.
        parameters: usize,
        /// Sizes that the known rules give (none if the file has names), with and without the parameters that may have been frozen.
        tried: Vec<Vec<usize>>,
        /// Parameters that are known to be the same in all checkpoints.
        unchanged: usize,
    },
    /// Two decay rules fit with different names.
    #[error("{}: entry {index} may be `{first}` or `{second}`", file.display())]
    Ambiguous {
        /// The file.
        file: PathBuf,
        /// The entry.
        index: usize,
        /// Its name by one rule.
        first: String,
        /// Its name by another.
        second: String,
    },
    /// A parameter that the file does not know.
    #[error("{}: has no second moments of `{parameter}`", file.display())]
    NoState {
        /// The file.
        file: PathBuf,
        /// Its name.
        parameter: String,
    },
    /// A second moment that is negative or not finite, or a step of 0.
    #[error("{}: `{parameter}` has {what} {value}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Its name.
        parameter: String,
        /// Which number.
        what: &'static str,
        /// The number.
        value: f64,
    },
}

impl Hint for OptimizerStateError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File(error) => return error.hint(),
            Self::Kind { kind, .. } if kind.contains("DeepSpeed") => {
                "second moments of sharded runs are not read: use influence at the final checkpoint, or convert the weights with `zero_to_fp32.py` and state the trajectory without second moments".to_string()
            }
            Self::Kind { kind, .. } if kind.contains("FSDP") => {
                "second moments of sharded runs are not read: merge the weights with `accelerate merge-weights` and use influence at the final checkpoint".to_string()
            }
            Self::Kind { .. } => "use influence at the final checkpoint, which needs no optimizer state".to_string(),
            Self::Unmatched { tried, unchanged: 0, .. } => format!(
                "known rules give groups of {tried:?}; if part of the model was frozen, keep a second checkpoint of the stage, which shows what did not change, or name its `trained_layers` in a trajectory file; groups made by hand are not read"
            ),
            Self::Unmatched { tried, .. } => format!(
                "known rules give groups of {tried:?}, with and without what is the same in all checkpoints; if other parameters were frozen, name the stage's `trained_layers` in a trajectory file; groups made by hand are not read"
            ),
            Self::Ambiguous { .. } => {
                "the version of transformers that wrote the checkpoint does not settle it; no guess is made".to_string()
            }
            Self::NoState { .. } => {
                "a layer is trained whole or not at all here: leave it out of the tracked layers".to_string()
            }
            Self::Value { .. } => {
                "the file is damaged, or training had diverged there: leave the checkpoint out if its segment has another".to_string()
            }
            Self::Layout { .. } => "the file is damaged, or not an optimizer's state as torch saves it".to_string(),
        })
    }
}

/// The error of an entry that is not laid out as an optimizer writes it.
pub(super) fn layout(file: &TorchFile, key: &str, found: &str, expected: &'static str) -> OptimizerStateError {
    OptimizerStateError::Layout {
        file: file.path().to_path_buf(),
        key: key.to_string(),
        found: found.to_string(),
        expected,
    }
}
