//! Opening files of a run folder that this program writes itself: never through a link, and regular files alone.
//!
//! A run folder may be shared, and whoever can write into it can put a link to another's file, or a pipe, under a
//! name that the store uses. Such a file is neither emptied nor waited for.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::StoreError;

/// Opens a file as `options` say. A link, a pipe, a device or a folder in its place is refused.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> Result<File, StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;

        use rustix::fs::OFlags;
        // A pipe without anybody at its other end must not keep the process waiting either.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    }
    let refused = || StoreError::NotAFile { file: path.to_owned() };
    let file = match options.open(path) {
        Err(_) if is_other(path) => return Err(refused()),
        other => other.map_err(StoreError::io("open", path, 0))?,
    };
    let is_file = file.metadata().map_err(StoreError::io("open", path, 0))?.is_file();
    if is_file { Ok(file) } else { Err(refused()) }
}

/// Reads a file of at most `limit` bytes whole; none if it is not there.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    use std::io::Read;
    let file = match open(path, OpenOptions::new().read(true)) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = vec![];
    file.take(limit + 1).read_to_end(&mut bytes).map_err(StoreError::io("read", path, 0))?;
    if bytes.len() as u64 > limit {
        let source = format!("it has more than {limit} bytes").into();
        return Err(StoreError::RunFile { file: path.to_owned(), source });
    }
    Ok(Some(bytes))
}

/// Is there something under this name that is no regular file?
fn is_other(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_pipes_and_folders_are_refused_and_what_they_point_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("precious"), "mine").unwrap();
        symlink(path("precious"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for name in ["link", "dangling", "folder", "pipe"] {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            for error in [open(&path(name), &mut options).unwrap_err(), read(&path(name), 10).unwrap_err()] {
                assert!(matches!(&error, StoreError::NotAFile { file } if *file == path(name)), "{name}: {error:?}");
            }
        }
        assert!(!path("nowhere").exists());
        assert_eq!(std::fs::read_to_string(path("precious")).unwrap(), "mine");
        assert_eq!(read(&path("precious"), 4).unwrap().as_deref(), Some(&b"mine"[..]));
        assert!(matches!(read(&path("precious"), 3), Err(StoreError::RunFile { .. })));
        assert_eq!(read(&path("missing"), 3).unwrap(), None);
    }
}
