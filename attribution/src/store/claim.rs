//! To whom a folder belongs: `ascribe.json` says which job a run folder is of.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pending::{self, Existing};
use super::{Key, StoreError, lock, regular};

const RUN_FILE: &str = "ascribe.json";
/// The version of the description's own form.
const RUN_FORMAT: u32 = 1;
/// Bytes of the longest description that is read; those that are written have 150.
const LIMIT: u64 = 1 << 16;

#[derive(Serialize, Deserialize)]
struct RunFile {
    format: u32,
    created_by: String,
    key: String,
}

/// The key of the job that a run folder is of; none if there is no run in it.
pub(super) fn job_of(folder: &Path) -> Result<Option<Key>, StoreError> {
    let file = folder.join(RUN_FILE);
    let Some(text) = regular::read(&file, LIMIT)? else { return Ok(None) };
    let error = |source| StoreError::RunFile { file: file.clone(), source };
    // The version first: a later format may name its fields otherwise.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| error(e.into()))?;
    if let Some(format) = value.get("format").filter(|format| **format != RUN_FORMAT) {
        return Err(StoreError::FormatVersion { found: format.to_string(), file, supported: RUN_FORMAT });
    }
    let run: RunFile = serde_json::from_value(value).map_err(|e| error(e.into()))?;
    Ok(Some(run.key.parse().map_err(|e: super::KeyParseError| error(e.into()))?))
}

/// Refuses a folder with anything in it that this program did not put there. Changes nothing.
pub(super) fn refuse_foreign(folder: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(StoreError::io("read the folder", folder, 0))?,
    };
    let mut foreign = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read the folder", folder, 0))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A job killed before it could claim its folder leaves no more than these.
        if !lock::is_lock(&entry.path(), &name) && !pending::is_temporary(&name) {
            foreign.push(name);
        }
    }
    match foreign.into_iter().min() {
        Some(entry) => Err(StoreError::NotARunFolder { folder: folder.to_owned(), entry }),
        None => Ok(()),
    }
}

/// Refuses a folder of another job.
pub(super) fn same_job(folder: &Path, expected: Key, found: Key) -> Result<(), StoreError> {
    if expected == found { Ok(()) } else { Err(StoreError::OtherJob { folder: folder.to_owned(), expected, found }) }
}

/// Makes the folder this job's. If another process was faster, its job must be the same.
pub(super) fn write(folder: &Path, job: Key, tag: &str) -> Result<(), StoreError> {
    let run = RunFile {
        format: RUN_FORMAT,
        created_by: concat!("ascribe ", env!("CARGO_PKG_VERSION")).to_owned(),
        key: job.to_string(),
    };
    let mut text = serde_json::to_vec_pretty(&run).expect("strings and numbers always have a form in JSON");
    text.push(b'\n');
    pending::write_file(&folder.join(RUN_FILE), tag, &text, Existing::Keep)?;
    match job_of(folder)? {
        Some(found) => same_job(folder, job, found),
        None => Err(StoreError::NoRun { folder: folder.to_owned() }),
    }
}
