//! What is refused of a file that `torch.save` wrote, and what to do about it.

use std::path::PathBuf;

use super::pickle::PickleError;
use crate::Hint;

/// Why a file is not a torch file that we read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct TorchFileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: TorchProblem,
}

/// What is wrong with a torch file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TorchProblem {
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[from] std::io::Error),
    /// The pickle-only format before torch 1.6, or `_use_new_zipfile_serialization=False`.
    #[error("is in torch's old format, which is not a zip")]
    OldFormat,
    /// A tar archive, the format before that.
    #[error("is a tar archive, torch's oldest format")]
    Tar,
    /// Neither.
    #[error("is not a zip, as files of `torch.save` are")]
    NotZip,
    /// A zip whose structure is broken.
    #[error("is a damaged zip: {reason}")]
    DamagedZip {
        /// What the zip reader says.
        reason: String,
    },
    /// A model with code.
    #[error("is a TorchScript archive: it holds code (`{entry}`)")]
    TorchScript {
        /// An entry that only TorchScript has.
        entry: String,
    },
    /// Written on a big-endian machine.
    #[error("has the byte order `{order}`, expected `little`")]
    ByteOrder {
        /// What the file says.
        order: String,
    },
    /// A zip without `data.pkl`, or with several.
    #[error("has {found} entries `data.pkl`, expected one")]
    Pickles {
        /// How many.
        found: usize,
    },
    /// A zip with two entries of one name, of which a reader takes one.
    #[error("has two entries `{entry}`")]
    RepeatedEntry {
        /// Its name.
        entry: String,
    },
    /// A storage that would have more bytes than a file can have.
    #[error("a storage of {elements} numbers of {size} bytes each is too large")]
    StorageSize {
        /// Numbers that the storage is said to have.
        elements: usize,
        /// Bytes of each.
        size: usize,
    },
    /// An entry that is compressed.
    #[error("entry `{entry}` is compressed, which `torch.save` never does")]
    Compressed {
        /// Its name.
        entry: String,
    },
    /// An entry with a wrong number of bytes.
    #[error("entry `{entry}` has {found} bytes, expected {expected}")]
    EntrySize {
        /// Its name.
        entry: String,
        /// Bytes that it has.
        found: u64,
        /// Bytes that it should have.
        expected: u64,
    },
    /// An entry that is larger than any that `torch.save` writes for a run.
    #[error("entry `{entry}` has {found} bytes, more than the {limit} that are read")]
    EntryTooLarge {
        /// Its name.
        entry: String,
        /// Bytes that it has.
        found: u64,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// A storage without an entry.
    #[error("has no entry `{entry}`, which a tensor needs")]
    MissingEntry {
        /// Its name.
        entry: String,
    },
    /// The pickle.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// A value that is no tensor, or one of a kind that we do not read.
    #[error("{what} where a tensor is expected")]
    NotTensor {
        /// What it is.
        what: String,
    },
    /// A storage of a type whose numbers are codes.
    #[error("holds a tensor of `{storage}`, whose numbers are not plain")]
    StorageType {
        /// The storage class or dtype.
        storage: String,
    },
    /// Sizes, strides or offset reach outside the storage.
    #[error(
        "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} does not lie in its {elements} elements"
    )]
    Bounds {
        /// Its shape.
        shape: Vec<usize>,
        /// Its strides.
        strides: Vec<usize>,
        /// Its first element.
        offset: usize,
        /// Elements of the storage.
        elements: usize,
    },
}

impl Hint for TorchFileError {
    fn hint(&self) -> Option<String> {
        Some(match self.problem {
            TorchProblem::OldFormat | TorchProblem::Tar | TorchProblem::ByteOrder { .. } => {
                "load it with torch 1.6 or later on a little-endian machine and save it again: `torch.save(torch.load(PATH, map_location=\"cpu\"), PATH)`"
                    .to_string()
            }
            TorchProblem::TorchScript { .. } => "save the state dict instead of the scripted module".to_string(),
            TorchProblem::DamagedZip { .. }
            | TorchProblem::NotZip
            | TorchProblem::EntrySize { .. }
            | TorchProblem::RepeatedEntry { .. }
            | TorchProblem::StorageSize { .. } => {
                "copy the file again; a checkpoint that was cut short while it was saved cannot be used".to_string()
            }
            _ => return None,
        })
    }
}
