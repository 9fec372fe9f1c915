//! Folders that `datasets.save_to_disk` wrote: files of Arrow whose order `state.json` has.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::data::error::DataError;
use crate::foreign_file;

/// The file that names the others.
const STATE: &str = "state.json";

/// The file of a folder of several splits, each of which is a folder.
const SPLITS: &str = "dataset_dict.json";

/// The most bytes of either.
const LIMIT: u64 = 16 << 20;

/// The files of a folder that `datasets` saved, in their order; none of any other folder, and of a file.
///
/// # Errors
/// If the folder has several splits, or does not say which files are its.
pub(super) fn files(folder: &Path) -> Result<Option<Vec<PathBuf>>, DataError> {
    let state = folder.join(STATE);
    if !state.is_file() {
        let splits = folder.join(SPLITS);
        if !splits.is_file() {
            return Ok(None);
        }
        let names: Vec<String> = match read(&splits)?.get("splits").and_then(Value::as_array) {
            Some(names) => names.iter().filter_map(Value::as_str).map(|name| format!("`{name}`")).collect(),
            None => vec![],
        };
        let message = format!("it has several splits ({}), and one is read at a time", names.join(", "));
        return Err(DataError::Saved { file: folder.to_owned(), message, hint: "name the folder of one split" });
    }
    let text = read(&state)?;
    let broken = |message: &str| DataError::Saved {
        file: state.clone(),
        message: message.to_owned(),
        hint: "load and save the data set anew: `datasets.load_from_disk(FOLDER).save_to_disk(OTHER)` in Python",
    };
    let is_chosen = |key: &str| text.get(key).and_then(Value::as_array).is_some_and(|files| !files.is_empty());
    if is_chosen("_indices_files") || is_chosen("_indices_data_files") {
        return Err(broken("the rows are chosen and ordered by a file of indices, which is not read"));
    }
    let Some(files) = text.get("_data_files").and_then(Value::as_array) else {
        return Err(broken("no list `_data_files`"));
    };
    let file = |entry: &Value| {
        let name = Path::new(entry.get("filename")?.as_str()?);
        // what lies elsewhere is no part of the folder
        let is_here = matches!(name.components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)]);
        is_here.then(|| folder.join(name))
    };
    let files = files.iter().map(file).collect::<Option<Vec<_>>>();
    let files = files.ok_or_else(|| broken("an entry of `_data_files` has no `filename` in this folder"))?;
    if files.is_empty() { Err(broken("`_data_files` is empty")) } else { Ok(Some(files)) }
}

fn read(file: &Path) -> Result<Value, DataError> {
    let failed = |source| DataError::Read { file: file.to_owned(), source };
    let text = foreign_file::read_text(file, LIMIT).map_err(failed)?;
    serde_json::from_str(&text).map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}
