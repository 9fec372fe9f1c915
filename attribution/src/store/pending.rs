//! A file that nobody sees before it is whole: written beside its place, flushed, then renamed.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::{StoreError, checksum};

/// What every temporary file's name starts with; the writer's tag follows.
const PREFIX: &str = ".ascribe-tmp-";

/// May the finished file take an older one's place?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    Keep,
}

/// What became of a finished file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persisted {
    Written,
    /// There was one already, and it was to be kept.
    KeptExisting,
}

/// A file under way to `target`. Dropped before [`persist`](Self::persist), it leaves nothing behind.
#[derive(Debug)]
pub(super) struct PendingFile {
    temporary: NamedTempFile,
    target: PathBuf,
    /// Bytes the whole file will have.
    total: u64,
}

impl PendingFile {
    /// A file of `total` bytes, all zero, whose place on the disk is taken now where the file system can
    /// do that: a full disk is known before the work and not after it.
    pub(super) fn create(target: &Path, tag: &str, total: u64) -> Result<Self, StoreError> {
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{PREFIX}{tag}-");
        builder.prefix(&prefix);
        #[cfg(unix)]
        {
            // As any new file, not private: a run folder may belong to a group.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder_of(target)).map_err(StoreError::io("create", target, total))?;
        reserve(temporary.as_file(), total).map_err(StoreError::io("reserve space for", target, total))?;
        Ok(Self { temporary, target: target.to_owned(), total })
    }

    /// The file's place once it is finished.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Writes at a place of the file; from any thread.
    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        write_all_at(self.temporary.as_file(), offset, bytes).map_err(StoreError::io("write", &self.target, self.total))
    }

    /// Writes the checksum of the file as it is now where its digits stand.
    pub(super) fn seal(&self, slot: &Range<u64>) -> Result<(), StoreError> {
        let found = checksum::of(self.temporary.as_file(), self.total, slot);
        let found = found.map_err(StoreError::io("read back", &self.target, self.total))?;
        self.write_at(slot.start, found.as_bytes())
    }

    /// Leaves the file behind, as a process that is killed here does.
    #[cfg(test)]
    pub(super) fn leave_behind(self) {
        self.temporary.keep().unwrap();
    }

    /// Flushes the file to the disk, gives it its name, and flushes that.
    pub(super) fn persist(self, existing: Existing) -> Result<Persisted, StoreError> {
        let Self { temporary, target, total } = self;
        temporary.as_file().sync_all().map_err(StoreError::io("write", &target, total))?;
        let persisted = match existing {
            Existing::Replace => temporary.persist(&target).map(|file| {
                checksum::trust(&file);
                Persisted::Written
            }),
            Existing::Keep => match temporary.persist_noclobber(&target) {
                Ok(_) => Ok(Persisted::Written),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(Persisted::KeptExisting),
                Err(error) => Err(error),
            },
        }
        .map_err(|error| StoreError::io("rename to", &target, total)(error.error))?;
        sync_folder(folder_of(&target))?;
        Ok(persisted)
    }
}

/// Writes a whole small file.
pub(super) fn write_file(target: &Path, tag: &str, bytes: &[u8], existing: Existing) -> Result<Persisted, StoreError> {
    let file = PendingFile::create(target, tag, bytes.len() as u64)?;
    file.write_at(0, bytes)?;
    file.persist(existing)
}

/// Removes a file that may already be gone.
pub(super) fn remove(file: &Path) -> Result<(), StoreError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", file, 0)(error)),
        _ => Ok(()),
    }
}

/// Is this the name of a temporary file, left by any writer?
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Is this the name of a temporary file of the writer of this tag?
pub(super) fn is_temporary_of(name: &str, tag: &str) -> bool {
    // With the dash, `shard-1-of-1` does not mean `shard-1-of-12` too.
    name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(tag)).is_some_and(|rest| rest.starts_with('-'))
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn reserve(file: &File, total: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    if total > 0 {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::{Errno, retry_on_intr};
        match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, total)) {
            // File systems that cannot reserve say so in different words.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            other => return Ok(other?),
        }
    }
    file.set_len(total)
}

#[cfg(unix)]
fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (offset, bytes) = (offset + n as u64, &bytes[n..]);
    }
    Ok(())
}

/// Makes renames in a folder outlast a power cut.
fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        File::open(folder).and_then(|file| file.sync_all()).map_err(StoreError::io("flush", folder, 0))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_leaves_nothing_and_an_older_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        write_file(&target, "a", b"old", Existing::Replace).unwrap();
        let pending = PendingFile::create(&target, "a", 3).unwrap();
        pending.write_at(1, b"x").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        drop(pending);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&target).unwrap(), b"old");

        assert_eq!(write_file(&target, "a", b"new", Existing::Keep).unwrap(), Persisted::KeptExisting);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(write_file(&target, "a", b"newer", Existing::Replace).unwrap(), Persisted::Written);
        assert_eq!(fs::read(&target).unwrap(), b"newer");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn files_are_as_open_as_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_file(&ours, "a", b"x", Existing::Replace).unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_larger_than_the_disk_is_refused_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = 1 << 60;
        // Where the file system cannot reserve, the first write beyond the disk has to find out.
        if let Err(error) = PendingFile::create(&folder.path().join("large"), "a", bytes) {
            assert!(matches!(error, StoreError::NoSpace { needed, .. } if needed == bytes), "{error:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn temporary_names_tell_their_writer() {
        assert!(is_temporary_of(".ascribe-tmp-shard-1-of-1-abc", "shard-1-of-1"));
        assert!(!is_temporary_of(".ascribe-tmp-shard-1-of-12-abc", "shard-1-of-1"));
        assert!(is_temporary(".ascribe-tmp-whole-x") && !is_temporary(".tmp-whole-x"));
    }
}
