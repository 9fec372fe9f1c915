//! What can go wrong in a run folder, and what to do about it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ascribe_curvature::Hint;

use super::{Dtype, Key, Shard};

/// What can go wrong while a run folder is read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} `{}`", file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk, a quota or the file system's largest file is too small.
    #[error("no space for `{}`: it needs {needed} bytes", file.display())]
    NoSpace {
        /// The file that was to be written.
        file: PathBuf,
        /// Its whole size in bytes.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file is shorter or longer than its header says.
    #[error("`{}` holds {found} bytes, its header describes {expected}", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// Bytes of header and tensors, as the header describes them; 8 if not even the header's length is there.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The file does not hold what was written into it.
    #[error("`{}` is damaged: its contents are not those that its checksum was taken of", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
    },
    /// The header is not one of a safetensors file, or contradicts itself.
    #[error("`{}` is not a valid safetensors file", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong with the header.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A tensor of a type that this program does not use.
    #[error("`{}`: tensor `{tensor}` has the type {dtype}, which is not supported", file.display())]
    UnsupportedType {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its type, in the words of safetensors.
        dtype: String,
    },
    /// A sound safetensors file, but not an artifact: metadata is missing or malformed.
    #[error(
        "`{}` is not an artifact of this program: its metadata has {}, expected {expected} as `{entry}`",
        file.display(), found.as_ref().map_or_else(|| format!("no `{entry}`"), |value| format!("`{value}`"))
    )]
    NotAnArtifact {
        /// The file.
        file: PathBuf,
        /// The entry of the metadata.
        entry: String,
        /// What it should be.
        expected: &'static str,
        /// What it is, if it is there.
        found: Option<String>,
    },
    /// A file of a format version that this program does not read.
    #[error("`{}` has the format version {found}, this program reads {supported}", file.display())]
    FormatVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: String,
        /// The version that can be read.
        supported: u32,
    },
    /// An artifact of another kind than its name says.
    #[error("`{}` holds the kind `{found}`, expected `{expected}`", file.display())]
    OtherKind {
        /// The file.
        file: PathBuf,
        /// The kind asked for.
        expected: String,
        /// The kind in the file.
        found: String,
    },
    /// An artifact that was made from other inputs.
    #[error("`{}` has the key {found}, expected {expected}", file.display())]
    OtherKey {
        /// The file.
        file: PathBuf,
        /// The key asked for.
        expected: Key,
        /// The key in the file.
        found: Key,
    },
    /// The file has no such tensor.
    #[error("`{}` has no tensor `{tensor}`", file.display())]
    NoTensor {
        /// The file.
        file: PathBuf,
        /// The name asked for.
        tensor: String,
        /// The names that exist.
        existing: Vec<String>,
    },
    /// The tensor is of another type than asked for.
    #[error("`{}`: tensor `{tensor}` has the type {found}, expected {expected}", file.display())]
    OtherType {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The type asked for.
        expected: Dtype,
        /// The type in the file.
        found: Dtype,
    },
    /// The tensor's bytes lie where its type cannot be borrowed. Files written here are always aligned.
    #[error("`{}`: tensor `{tensor}` is not aligned for {dtype}", file.display())]
    Misaligned {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// What is to be written cannot be described by a header.
    #[error("`{}`: {problem}", file.display())]
    Declaration {
        /// The file that was to be written.
        file: PathBuf,
        /// What is wrong.
        problem: DeclarationError,
    },
    /// Bytes outside of their tensor.
    #[error(
        "`{}`: bytes {}..{} do not lie in tensor `{tensor}` of {length} bytes",
        file.display(), offset, offset.saturating_add(*bytes)
    )]
    WriteOutside {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Where the bytes were to start in the tensor.
        offset: u64,
        /// How many there were.
        bytes: u64,
        /// The tensor's size in bytes.
        length: u64,
    },
    /// A file was to be finished before all of it was written.
    #[error("`{}`: bytes {}..{} of tensor `{tensor}` were never written", file.display(), missing.start, missing.end)]
    Incomplete {
        /// The file.
        file: PathBuf,
        /// The first tensor with a hole.
        tensor: String,
        /// The hole, in bytes of the tensor.
        missing: Range<u64>,
    },
    /// An artifact's kind that cannot be a file's name.
    #[error("`{kind}` cannot be the kind of an artifact: only `a` to `z` and `-`")]
    Kind {
        /// The kind.
        kind: String,
    },
    /// Something was to be written by one who only opened the folder for reading.
    #[error("the run folder `{}` is open for reading only", folder.display())]
    ReadOnly {
        /// The run folder.
        folder: PathBuf,
    },
    /// Another process is writing.
    #[error(
        "the run folder `{}` is in use by another process{}{}",
        folder.display(),
        shard.map_or_else(String::new, |shard| format!(", for shard {shard}")),
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    Locked {
        /// The run folder.
        folder: PathBuf,
        /// The shard it works on, if not on the whole folder.
        shard: Option<Shard>,
        /// Its process id, if it could be read.
        pid: Option<u32>,
    },
    /// The folder is a run folder of another job.
    #[error("the run folder `{}` belongs to other inputs: its job has the key {found}, this one {expected}", folder.display())]
    OtherJob {
        /// The run folder.
        folder: PathBuf,
        /// This job's key.
        expected: Key,
        /// The key in the folder.
        found: Key,
    },
    /// The folder holds something, but no run.
    #[error("`{}` is not a run folder, and it is not empty: it holds `{entry}`", folder.display())]
    NotARunFolder {
        /// The folder.
        folder: PathBuf,
        /// One thing in it.
        entry: String,
    },
    /// A file of the run folder is none, but a link, a pipe, a device or a folder.
    #[error("`{}` is not a regular file", file.display())]
    NotAFile {
        /// What lies in the file's place.
        file: PathBuf,
    },
    /// A lock file holds what this program does not write there.
    #[error("`{}` is not a lock of this program: it holds something else", file.display())]
    NotALock {
        /// The file.
        file: PathBuf,
    },
    /// There is no run to read.
    #[error("`{}` is not a run folder: it has no `ascribe.json`", folder.display())]
    NoRun {
        /// The folder.
        folder: PathBuf,
    },
    /// `ascribe.json` cannot be understood.
    #[error("`{}` is not the description of a run", file.display())]
    RunFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part whose name and contents, or whose range and the whole, disagree.
    #[error("`{}`: the part holds examples {}..{}, expected {expected}", file.display(), range.start, range.end)]
    PartRange {
        /// The part.
        file: PathBuf,
        /// Its range by its metadata.
        range: Range<u64>,
        /// What was expected.
        expected: String,
    },
    /// Two parts hold the same examples.
    #[error(
        "`{}` (examples {}..{}) and `{}` (examples {}..{}) overlap",
        first.display(), first_range.start, first_range.end, second.display(), second_range.start, second_range.end
    )]
    PartsOverlap {
        /// The part that starts earlier.
        first: PathBuf,
        /// Its examples.
        first_range: Range<u64>,
        /// The other part.
        second: PathBuf,
        /// Its examples.
        second_range: Range<u64>,
    },
    /// Examples that no part holds.
    #[error("no part of `{kind}` holds examples {}..{} of {total}", missing.start, missing.end)]
    PartsMissing {
        /// The kind of the parts.
        kind: String,
        /// The first range without a part.
        missing: Range<u64>,
        /// How many more ranges are missing after it.
        further: usize,
        /// All examples.
        total: u64,
    },
}

/// What a safetensors header cannot say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeclarationError {
    /// Two tensors of one name.
    #[error("two tensors are named `{tensor}`")]
    Twice {
        /// The name.
        tensor: String,
    },
    /// A name that the format or the store uses itself.
    #[error("the name `{name}` is reserved")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A tensor whose bytes do not fit its shape.
    #[error("tensor `{tensor}` has {found} bytes, its shape {shape:?} of {dtype} needs {expected}")]
    Bytes {
        /// The tensor's name.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// The bytes needed.
        expected: u64,
        /// The bytes given.
        found: u64,
    },
    /// More bytes than a file can have.
    #[error("tensor `{tensor}` of shape {shape:?} is larger than any file")]
    TooLarge {
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A header beyond what readers accept.
    #[error("the header has {bytes} bytes, readers accept {limit}")]
    Header {
        /// The header's size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
}

impl StoreError {
    /// Turns what the system said about `file`, which needs `needed` bytes in all, into an error.
    pub(super) fn io(action: &'static str, file: &Path, needed: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { file: file.to_owned(), needed, source }
            }
            _ => Self::Io { action, file: file.to_owned(), source },
        }
    }
}

impl Hint for StoreError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { file } if !is_cache(file) => Some(
                "the disk or a program changed it after it was written; delete it and run the job again: what is intact is used again"
                    .to_owned(),
            ),
            Self::Length { file, .. }
            | Self::Damaged { file }
            | Self::Header { file, .. }
            | Self::UnsupportedType { file, .. }
            | Self::NotAnArtifact { file, .. }
            | Self::OtherKind { file, .. }
            | Self::OtherKey { file, .. }
            | Self::PartRange { file, .. }
            | Self::Misaligned { file, .. } => is_cache(file)
                .then(|| "deleting this file is safe: it is a cache, and what it held is computed again".to_owned()),
            Self::FormatVersion { file, .. } if is_cache(file) => {
                Some("another version of ascribe wrote it; deleting this file is safe, it is computed again".to_owned())
            }
            Self::FormatVersion { .. } => {
                Some("another version of ascribe wrote it; use that version, or another `--out`".to_owned())
            }
            Self::NoSpace { .. } => {
                Some("free space and start again: finished parts are kept, and the job goes on from them".to_owned())
            }
            Self::NoTensor { existing, .. } if existing.is_empty() => Some("the file has no tensors".to_owned()),
            Self::NoTensor { existing, .. } => Some(format!("the file has `{}`", existing.join("`, `"))),
            Self::Locked { shard: None, .. } => {
                Some("wait until it ends, end it, or choose another `--out`".to_owned())
            }
            Self::Locked { shard: Some(_), .. } => {
                Some("wait until it ends, end it, or choose another shard or another `--out`".to_owned())
            }
            Self::OtherJob { .. } => {
                Some("choose another `--out`, or delete the folder if its results are no longer needed".to_owned())
            }
            Self::NotARunFolder { .. } => Some("choose an `--out` that is empty or does not exist yet".to_owned()),
            Self::NotAFile { .. } | Self::NotALock { .. } => Some(
                "ascribe follows no links here and changes no files of others; remove it, or choose another run folder".to_owned(),
            ),
            Self::RunFile { .. } => Some("choose another `--out`; nothing in this one was changed".to_owned()),
            Self::PartsOverlap { .. } => Some(
                "the parts come from different divisions into shards, or one folder was copied; leave one of them out"
                    .to_owned(),
            ),
            Self::PartsMissing { further: 0, .. } => {
                Some("has every shard finished, and is every shard's folder named?".to_owned())
            }
            Self::PartsMissing { further, .. } => Some(format!(
                "and {further} more ranges are missing; has every shard finished, and is every shard's folder named?"
            )),
            Self::Io { action: "lock", .. } => {
                Some("the file system may not support locks; choose an `--out` on another one".to_owned())
            }
            _ => None,
        }
    }
}

/// Files of this folder can be computed again.
fn is_cache(file: &Path) -> bool {
    file.parent().and_then(Path::file_name).is_some_and(|folder| folder == super::ARTIFACTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_names_the_file_and_the_bytes_it_needs() {
        let file = Path::new("run/scores.safetensors");
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            let error = StoreError::io("write", file, 4096)(kind.into());
            assert!(matches!(error, StoreError::NoSpace { needed: 4096, .. }));
            assert_eq!(error.to_string(), "no space for `run/scores.safetensors`: it needs 4096 bytes");
        }
        let error = StoreError::io("write", file, 4096)(io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.to_string(), "cannot write `run/scores.safetensors`");
    }

    #[test]
    fn only_artifacts_are_called_safe_to_delete() {
        let error = |file: &str| StoreError::Length { file: file.into(), expected: 8, found: 3 };
        assert!(error("run/artifacts/x.safetensors").hint().unwrap().contains("safe"));
        assert_eq!(error("run/scores.safetensors").hint(), None);
    }
}
