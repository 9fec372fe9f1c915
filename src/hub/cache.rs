//! The cache in the layout of `huggingface_hub`: `models--ORG--NAME` with `refs/REVISION`, `blobs/HASH` and
//! `snapshots/COMMIT/FILE`, a link to the blob.

use std::io;
use std::path::{Path, PathBuf};

use super::error::HubError;
use super::name::{Kind, Repository, is_commit};
use super::settings::Settings;

/// A repository's folder in the cache.
#[derive(Debug)]
pub(super) struct Cached {
    folder: PathBuf,
}

impl Cached {
    pub(super) fn of(settings: &Settings, repository: &Repository) -> Self {
        let kind = match repository.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        Self { folder: settings.cache.join(format!("{kind}--{}", repository.id.replace('/', "--"))) }
    }

    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that a revision was when it was last asked for.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers which commit a revision is.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let file = self.folder.join("refs").join(revision);
        folder_of(&file)?;
        std::fs::write(&file, commit).map_err(failed(&file, "cannot be written"))
    }

    /// Lets a file of a snapshot be a blob.
    pub(super) fn link(&self, commit: &str, file: &str, hash: &str) -> Result<(), HubError> {
        let place = self.snapshot(commit).join(file);
        folder_of(&place)?;
        let up = "../".repeat(2 + file.matches('/').count());
        // a link to a blob that is gone, or a file that was cut
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&place, "cannot be replaced")(error));
            }
            _ => {}
        }
        let linked = linked(Path::new(&format!("{up}blobs/{hash}")), &self.blob(hash), &place);
        linked.map_err(failed(&place, "cannot be written"))
    }
}

#[cfg(unix)]
fn linked(relative: &Path, _blob: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, place)
}

#[cfg(not(unix))]
fn linked(_relative: &Path, blob: &Path, place: &Path) -> io::Result<()> {
    std::fs::copy(blob, place).map(drop)
}

/// Makes the folder of a file.
pub(super) fn folder_of(file: &Path) -> Result<(), HubError> {
    let Some(folder) = file.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(failed(folder, "cannot be made"))
}

pub(super) fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Cache { path, action, source }
}
