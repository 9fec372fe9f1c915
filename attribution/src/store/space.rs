//! Room: how large a file will be, and what a file system has left.

use std::path::Path;

use super::layout::Layout;
use super::{Metadata, StoreError, TensorSpec};

/// Bytes of a safetensors file with these tensors, as [`write_safetensors`](super::write_safetensors) writes it.
///
/// # Errors
/// [`StoreError::Declaration`] for tensors that no file can hold.
pub fn file_size(tensors: &[TensorSpec], metadata: &Metadata) -> Result<u64, StoreError> {
    Ok(Layout::new(Path::new("a file that is planned"), tensors, metadata)?.total)
}

/// Bytes that this user may still write to the file system of a path, or of the nearest folder above it that is
/// there; none if the system does not say.
pub fn free_space(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let folder = absolute.ancestors().find(|folder| folder.is_dir())?;
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Dtype, TensorData, write_safetensors};

    #[test]
    fn a_file_has_the_size_that_was_foretold() -> Result<(), StoreError> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.safetensors");
        let metadata = Metadata::from([("units".to_owned(), "nats".to_owned())]);
        let values = [1.5f64; 21];
        write_safetensors(&file, &[TensorData::new("block.0.weight", &[3, 7], &values)], &metadata)?;
        let specs = [TensorSpec::new("block.0.weight", Dtype::F64, [3, 7])];
        let written = std::fs::metadata(&file).expect("it is there").len();
        assert_eq!(file_size(&specs, &metadata)?, written);
        Ok(())
    }

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_the_one_above() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("run/artifacts");
        assert_eq!(free_space(&deep).is_some(), cfg!(unix));
        assert!(free_space(&deep).is_none_or(|bytes| bytes > 0));
    }
}
