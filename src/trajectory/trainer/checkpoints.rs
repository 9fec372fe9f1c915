//! The checkpoint folders of a run, and whether they belong together.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::state::read_json;
use crate::trajectory::error::ReadError;
use crate::trajectory::version::TransformersVersion;

/// A folder `checkpoint-N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) step: usize,
    pub(super) path: PathBuf,
}

/// All of them, ascending by number: never by name or time.
pub(super) fn find(run: &Path) -> Result<Vec<Folder>, ReadError> {
    let read = |source| ReadError::Read { file: run.to_path_buf(), source };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(run).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let step = name.strip_prefix("checkpoint-").and_then(|number| number.parse().ok());
        let Some(step) = step else { continue };
        // one that cannot be looked at is there, and a run without it would be another run
        let found = std::fs::metadata(&path).map_err(|source| ReadError::Read { file: path.clone(), source })?;
        if found.is_dir() {
            folders.push(Folder { step, path });
        }
    }
    folders.sort_by(|a, b| (a.step, &a.path).cmp(&(b.step, &b.path)));
    if let Some([a, b]) = folders.array_windows::<2>().find(|[a, b]| a.step == b.step) {
        return Err(ReadError::RepeatedStep { step: a.step, first: a.path.clone(), second: b.path.clone() });
    }
    if folders.is_empty() {
        let is_checkpoint =
            ["config.json", "trainer_state.json"].iter().all(|name| crate::presence::is_file(&run.join(name)));
        return Err(ReadError::NoCheckpoints { folder: run.to_path_buf(), is_checkpoint });
    }
    Ok(folders)
}

/// The checkpoints up to step `last`, the place of the first one behind step `after`, and whether there are later ones.
///
/// # Errors
/// As [`find`]; no checkpoint of step `last`, or none behind `after`.
pub(super) fn part(run: &Path, after: usize, last: Option<usize>) -> Result<(Vec<Folder>, usize, bool), ReadError> {
    let mut folders = find(run)?;
    let steps: Vec<usize> = folders.iter().map(|folder| folder.step).collect();
    let end = last.map_or(Some(folders.len()), |last| steps.iter().position(|&step| step == last).map(|at| at + 1));
    let begins = steps.partition_point(|&step| step <= after);
    match end.filter(|&end| begins < end) {
        Some(end) => {
            folders.truncate(end);
            Ok((folders, begins, end < steps.len()))
        }
        None => Err(ReadError::PartOfRun { folder: run.to_path_buf(), after, last, steps }),
    }
}

/// The version that wrote the last checkpoint, after a check that all have the same model.
pub(super) fn check_configs(folders: &[Folder]) -> Result<Option<TransformersVersion>, ReadError> {
    let mut first: Option<(PathBuf, Value)> = None;
    let mut version = None;
    for folder in folders {
        let file = folder.path.join("config.json");
        if !crate::presence::is_file(&file) {
            continue;
        }
        let config = read_json(&file)?;
        let written = config.get("transformers_version").and_then(Value::as_str);
        version = written.and_then(TransformersVersion::parse).or(version);
        match &first {
            None => first = Some((file, config)),
            Some((first_file, first)) => {
                if let Some(key) = difference(first, &config) {
                    let show = |config: &Value| config.get(&key).map_or("missing".to_string(), Value::to_string);
                    return Err(ReadError::CheckpointsDiffer {
                        first: show(first),
                        first_file: first_file.clone(),
                        second: show(&config),
                        second_file: file,
                        key,
                    });
                }
            }
        }
    }
    Ok(version)
}

/// The checkpoint of another run that the weights of this one began with, and its step: where the configuration names a
/// folder that is one, as transformers before its release 5 writes it.
pub(super) fn began_from(run: &Path, last: &Folder) -> Option<(PathBuf, usize)> {
    let config = read_json(&last.path.join("config.json")).ok()?;
    let named = config.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty())?;
    let places = [Some(Path::new("")), run.parent()].into_iter().flatten().map(|folder| folder.join(named));
    places.into_iter().find_map(|place| {
        let step = place.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        let of_other = place.canonicalize().ok()?.parent()? != run.canonicalize().ok()?;
        (of_other && crate::presence::is_file(&place.join("trainer_state.json"))).then_some((place, step))
    })
}

/// The first key of two configurations that differs and belongs to the model.
fn difference(a: &Value, b: &Value) -> Option<String> {
    // How it was saved, not what it is.
    const VOLATILE: [&str; 6] =
        ["transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "_attn_implementation_autoset"];
    let (a, b) = (a.as_object()?, b.as_object()?);
    a.keys()
        .chain(b.keys().filter(|key| !a.contains_key(*key)))
        .find(|key| !VOLATILE.contains(&key.as_str()) && a.get(*key) != b.get(*key))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    fn run(folders: &[&str]) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        for folder in folders {
            std::fs::create_dir(run.path().join(folder)).unwrap();
        }
        run
    }

    #[test]
    fn folders_are_ordered_by_number() {
        let dir = run(&["checkpoint-100", "checkpoint-20", "checkpoint-3", "checkpoint-best", "runs"]);
        let steps: Vec<usize> = find(dir.path()).unwrap().iter().map(|folder| folder.step).collect();
        assert_eq!(steps, [3, 20, 100]);
        assert!(matches!(
            find(run(&["checkpoint-07", "checkpoint-7"]).path()),
            Err(ReadError::RepeatedStep { step: 7, .. })
        ));
        let empty = run(&["runs"]);
        let error = find(empty.path()).unwrap_err();
        assert!(error.to_string().ends_with("has no folders `checkpoint-N`"));
        std::fs::write(empty.path().join("config.json"), "{}").unwrap();
        std::fs::write(empty.path().join("trainer_state.json"), "{}").unwrap();
        assert_eq!(
            find(empty.path()).unwrap_err().hint().unwrap(),
            "this is a checkpoint; give the folder that holds it"
        );
        assert!(matches!(find(Path::new("/nowhere/at/all")), Err(ReadError::Read { .. })));
    }

    #[test]
    fn checkpoints_of_different_models_are_refused() {
        let dir = run(&["checkpoint-1", "checkpoint-2"]);
        let config =
            |folder: &str, text: &str| std::fs::write(dir.path().join(folder).join("config.json"), text).unwrap();
        config("checkpoint-1", r#"{"vocab_size": 12, "n_embd": 4, "transformers_version": "4.50.1"}"#);
        config(
            "checkpoint-2",
            r#"{"n_embd": 4, "vocab_size": 12, "transformers_version": "5.1.0", "use_cache": false}"#,
        );
        let folders = find(dir.path()).unwrap();
        assert_eq!(check_configs(&folders).unwrap(), Some(TransformersVersion::new(5, 1)));
        config("checkpoint-2", r#"{"vocab_size": 13, "n_embd": 4}"#);
        let error = check_configs(&folders).unwrap_err();
        assert!(error.to_string().starts_with("`vocab_size` is 12 in "), "{error}");
    }
}
