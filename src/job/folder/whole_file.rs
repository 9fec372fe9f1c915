//! Writes a file of the run folder so that a reader finds the old file or the new one, never a part.

use std::io::Write;
use std::path::Path;

use crate::job::error::JobError;

/// Writes a file whole or not at all.
pub(in crate::job) fn write_file(file: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let io = |source| JobError::Io { file: file.to_owned(), action: "cannot be written", source };
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ascribe-tmp-output-");
    // others may read results, as far as the user's mask lets them; a temporary file is its owner's alone otherwise
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder).map_err(io)?;
    temporary.write_all(bytes).map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(file).map_err(|error| io(error.error))?;
    Ok(())
}
