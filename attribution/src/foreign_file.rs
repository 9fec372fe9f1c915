//! Opening files that other programs wrote: regular files alone, and no more bytes than a reader allows.
//!
//! A named pipe waits for ever for a writer, a device such as `/dev/zero` never ends, and a sparse file of a
//! few kilobytes on disk can be many gigabytes long. Every reader that takes a whole file into memory opens it
//! here and says the most bytes that such a file can reasonably have. Links are followed, since caches of
//! checkpoints consist of them.
//!
//! Refusals are [`io::Error`]s, so that readers report them as they report every failure to read, with the
//! file's name before them.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::path::Path;

/// Why a file that exists is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The file is a folder, a pipe or a device.
    #[error("it is {found}; only regular files and links to them are read")]
    NotRegular {
        /// What it is.
        found: &'static str,
    },
    /// The file has more bytes than its reader allows.
    #[error("it is longer than {}, the most that is read of such a file", size(*limit))]
    TooLong {
        /// The most bytes that are read.
        limit: u64,
    },
}

impl Refusal {
    /// The refusal behind an error, if it is one.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::NotRegular { .. } => io::ErrorKind::InvalidInput,
            Refusal::TooLong { .. } => io::ErrorKind::FileTooLarge,
        };
        Self::new(kind, refusal)
    }
}

/// Opens a regular file, or a link to one, of any length; for readers that bound what they keep themselves.
///
/// # Errors
/// What the system says, or a [`Refusal`].
pub fn open(file: &Path) -> io::Result<File> {
    // Asked before it is opened, since opening a pipe waits and opening a device can do anything.
    regular(std::fs::metadata(file)?.file_type())?;
    let opened = File::open(file)?;
    regular(opened.metadata()?.file_type())?;
    Ok(opened)
}

/// The bytes of a regular file, or of one that a link leads to. A file that grows while it is read, or that
/// claims to be shorter than it is, is bounded too.
///
/// # Errors
/// What the system says, or a [`Refusal`].
pub fn read(file: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let opened = open(file)?;
    let length = opened.metadata()?.len();
    if length > limit {
        return Err(Refusal::TooLong { limit }.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    opened.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Refusal::TooLong { limit }.into());
    }
    Ok(bytes)
}

/// The text of a file, read as by [`read`].
///
/// # Errors
/// As [`read`]; [`io::ErrorKind::InvalidData`] if the bytes are no UTF-8.
pub fn read_text(file: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(file, limit)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("invalid UTF-8 at byte {at}"))
    })
}

fn regular(found: FileType) -> Result<(), Refusal> {
    if found.is_file() { Ok(()) } else { Err(Refusal::NotRegular { found: kind(found) }) }
}

fn kind(found: FileType) -> &'static str {
    if found.is_dir() {
        return "a folder";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.is_fifo() {
            return "a pipe";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    "no regular file"
}

/// A number of bytes as people write it.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T>(result: io::Result<T>) -> String {
        let error = result.err().expect("refused");
        assert!(Refusal::of(&error).is_some(), "{error}");
        error.to_string()
    }

    #[test]
    fn a_file_at_its_bound_is_read_and_one_byte_more_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("a");
        std::fs::write(&file, "héllo").expect("writable");
        assert_eq!(read_text(&file, 6).expect("six bytes"), "héllo");
        assert_eq!(refusal(read(&file, 5)), "it is longer than 5 bytes, the most that is read of such a file");
        assert_eq!(open(&file).expect("regular").metadata().expect("open").len(), 6);
        std::fs::write(&file, b"h\xff").expect("writable");
        assert_eq!(read_text(&file, 6).expect_err("no text").to_string(), "invalid UTF-8 at byte 2");
        assert_eq!(read(&folder.path().join("b"), 5).expect_err("absent").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_sparse_file_is_refused_without_being_read() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(3 << 30).expect("sparse");
        assert_eq!(
            refusal(read(file.path(), 64 << 20)),
            "it is longer than 64 MiB, the most that is read of such a file"
        );
    }

    #[test]
    fn folders_are_no_files() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(refusal(open(folder.path())), "it is a folder; only regular files and links to them are read");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_pipes_and_devices_are_refused_without_waiting() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a"), "text").expect("writable");
        symlink(at("a"), at("link")).expect("writable");
        assert_eq!(read(&at("link"), 4).expect("a link to a file"), b"text");
        symlink("/dev/zero", at("zero")).expect("writable");
        assert_eq!(refusal(read(&at("zero"), 4)), "it is a device; only regular files and links to them are read");
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status();
        assert!(made.expect("mkfifo is there").success());
        assert_eq!(refusal(open(&at("pipe"))), "it is a pipe; only regular files and links to them are read");
    }
}
