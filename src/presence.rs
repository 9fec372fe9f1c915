//! Whether a file is there. Only `NotFound` is absence: a file that cannot be looked at (no permission, a failing disk,
//! a circle of links) is there, and whoever reads it next says by its name what is wrong with it.

use std::io::ErrorKind;
use std::path::Path;

/// Whether there is a file of this name, or something that cannot be looked at; a folder is none.
pub fn is_file(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(found) => !found.is_dir(),
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_not_absent() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").expect("writable");
        std::os::unix::fs::symlink("circle", path("circle")).expect("a link to itself");
        std::os::unix::fs::symlink("nowhere", path("dangling")).expect("a link to nothing");
        assert!(is_file(&path("file")) && is_file(&path("circle")));
        for absent in ["nothing", "dangling", "file/below", ""] {
            assert!(!is_file(&path(absent)), "{absent}");
        }
    }
}
