//! One writer for each run folder, or one for each of its shards.
//!
//! Locks are the operating system's, advisory, and die with their process. A writer of the whole folder
//! holds `.lock` exclusively. A writer of a shard shares `.lock` with other shards' and holds its own
//! `.lock-shard-i-of-n` exclusively. Readers lock nothing: they only ever see finished files. Process ids
//! are written into the files for messages; nothing depends on them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::{Shard, StoreError, pending, regular};

const LOCK: &str = ".lock";
const SHARD_LOCK: &str = ".lock-shard-";
const HOLDER: &str = "ascribe pid ";

/// Who writes into a run folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// One job for all examples; excludes every other writer.
    Whole,
    /// A job for one shard; excludes writers of the whole folder and of the same shard.
    Shard(Shard),
}

impl Writer {
    /// Names this writer's own files: its lock, its temporary files, its progress.
    pub(super) fn tag(self) -> String {
        match self {
            Self::Whole => "whole".to_owned(),
            Self::Shard(shard) => format!("shard-{}-of-{}", shard.index(), shard.count()),
        }
    }
}

/// The right to write into a run folder, for as long as this lives.
#[derive(Debug)]
pub(super) struct RunLock {
    /// `.lock`, exclusive or shared.
    _folder: File,
    /// The file that is locked exclusively and names this process.
    own: File,
}

impl RunLock {
    /// # Errors
    /// [`StoreError::Locked`] if another writer stands in the way.
    pub(super) fn acquire(folder: &Path, writer: Writer) -> Result<Self, StoreError> {
        let path = folder.join(LOCK);
        let file = open(&path)?;
        match writer {
            Writer::Whole => {
                if !locked(&path, file.try_lock())? {
                    let shard = holder(&path).is_none().then(|| first_shard(folder)).flatten();
                    let pid = holder(&path).or(shard.as_ref().map(|(_, pid)| *pid));
                    return Err(StoreError::Locked { folder: folder.to_owned(), shard: shard.map(|(s, _)| s), pid });
                }
                // No shard holds its lock without sharing `.lock`, so these belong to nobody.
                for path in shard_locks(folder) {
                    pending::remove(&path)?;
                }
                let own = file.try_clone().map_err(StoreError::io("lock", &path, 0))?;
                Ok(Self::hold(file, own))
            }
            Writer::Shard(shard) => {
                if !locked(&path, file.try_lock_shared())? {
                    return Err(StoreError::Locked { folder: folder.to_owned(), shard: None, pid: holder(&path) });
                }
                // A writer of the whole folder that was killed left its process id.
                let _ = file.set_len(0);
                let path = folder.join(format!(".lock-{}", writer.tag()));
                let own = open(&path)?;
                if !locked(&path, own.try_lock())? {
                    let pid = holder(&path);
                    return Err(StoreError::Locked { folder: folder.to_owned(), shard: Some(shard), pid });
                }
                Ok(Self::hold(file, own))
            }
        }
    }

    fn hold(folder: File, mut own: File) -> Self {
        // Only messages read it: a full disk may not keep anyone from going on.
        let _ =
            own.set_len(0).and_then(|()| own.rewind()).and_then(|()| writeln!(own, "{HOLDER}{}", std::process::id()));
        Self { _folder: folder, own }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        let _ = self.own.set_len(0);
    }
}

/// Is this the name of a lock file, with a content that only this program writes?
pub(super) fn is_lock(path: &Path, name: &str) -> bool {
    (name == LOCK || name.starts_with(SHARD_LOCK)) && head(path).is_some_and(|text| is_ours(text.as_bytes()))
}

/// Opens a lock file, which is made if there is none. A file with anything else in it is not emptied.
fn open(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = regular::open(path, &mut options)?;
    let text = head_of(&file).map_err(StoreError::io("read", path, 0))?;
    if !is_ours(&text) {
        return Err(StoreError::NotALock { file: path.to_owned() });
    }
    Ok(file)
}

/// Has a file these first bytes because it is a lock of this program's?
fn is_ours(head: &[u8]) -> bool {
    head.is_empty() || head.starts_with(HOLDER.as_bytes())
}

fn locked(path: &Path, result: Result<(), TryLockError>) -> Result<bool, StoreError> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path, 0)(error)),
    }
}

/// The first bytes of a file, as text.
fn head(path: &Path) -> Option<String> {
    let file = regular::open(path, OpenOptions::new().read(true)).ok()?;
    String::from_utf8(head_of(&file).ok()?).ok()
}

fn head_of(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    file.take(64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The process that wrote its id into a lock file.
fn holder(path: &Path) -> Option<u32> {
    head(path)?.strip_prefix(HOLDER)?.trim_end().parse().ok()
}

/// All shards' lock files, in a fixed order.
fn shard_locks(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(SHARD_LOCK)))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// A shard that has a writer, and its process.
fn first_shard(folder: &Path) -> Option<(Shard, u32)> {
    shard_locks(folder).into_iter().find_map(|path| {
        let (index, count) = path.file_name()?.to_str()?.strip_prefix(SHARD_LOCK)?.split_once("-of-")?;
        Some((Shard::new(index.parse().ok()?, count.parse().ok()?).ok()?, holder(&path)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(text: &str) -> Writer {
        Writer::Shard(Shard::parse(text).unwrap())
    }

    /// Locks belong to open files, not to processes: two in one process exclude each other too.
    #[test]
    fn writers_exclude_whom_they_must() {
        let folder = tempfile::tempdir().unwrap();
        let acquire = |writer| RunLock::acquire(folder.path(), writer);
        let us = Some(std::process::id());

        let whole = acquire(Writer::Whole).unwrap();
        for writer in [Writer::Whole, shard("1/2")] {
            let error = acquire(writer).unwrap_err();
            assert!(matches!(error, StoreError::Locked { shard: None, pid, .. } if pid == us), "{error:?}");
        }
        drop(whole);

        let first = acquire(shard("1/2")).unwrap();
        let second = acquire(shard("2/2")).unwrap();
        let error = acquire(shard("1/2")).unwrap_err();
        assert!(matches!(error, StoreError::Locked { shard: Some(_), pid, .. } if pid == us), "{error:?}");
        drop(first);
        let error = acquire(Writer::Whole).unwrap_err();
        let expected = format!(
            "the run folder `{}` is in use by another process, for shard 2/2 (pid {})",
            folder.path().display(),
            std::process::id()
        );
        assert_eq!(error.to_string(), expected);
        drop(second);

        drop(acquire(Writer::Whole).unwrap());
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [LOCK]);
    }

    #[test]
    fn what_a_killed_process_left_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LOCK), "ascribe pid 1\n").unwrap();
        fs::write(folder.path().join(".lock-shard-1-of-3"), "ascribe pid 12345678901\n").unwrap();
        drop(RunLock::acquire(folder.path(), shard("1/3")).unwrap());
        fs::write(folder.path().join(LOCK), "ascribe pid 1\n").unwrap();
        let shard = RunLock::acquire(folder.path(), shard("2/3")).unwrap();
        let error = RunLock::acquire(folder.path(), Writer::Whole).unwrap_err();
        assert!(matches!(error, StoreError::Locked { shard: Some(s), .. } if s.index() == 2), "{error:?}");
        drop(shard);
        RunLock::acquire(folder.path(), Writer::Whole).unwrap();
    }

    #[test]
    fn somebody_elses_lock_file_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        fs::write(&path, "mine").unwrap();
        assert!(!is_lock(&path, LOCK));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(!is_lock(&path, LOCK));
        fs::write(&path, "ascribe pid 3\n").unwrap();
        assert!(is_lock(&path, LOCK) && !is_lock(&path, "lock"));
    }
}
