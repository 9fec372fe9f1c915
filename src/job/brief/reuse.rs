//! Another run folder whose curvature and query vectors are used: the curvature of one set of training data scores
//! any other.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::attribution::store::{Store, check_json};
use crate::job::error::JobError;

/// What `run.json` calls the hashes of the data that the curvature was taken on.
pub(in crate::job) const CURVATURE_DATA: &str = "curvature_data";

/// Another run folder, open for reading.
#[derive(Debug)]
pub(in crate::job) struct Reused {
    pub store: Store,
    /// Hash of each stage's training examples.
    data: BTreeMap<String, [u8; 32]>,
    /// N of each stage.
    sizes: BTreeMap<String, usize>,
}

impl Reused {
    /// Opens the folder of a run whose curvature is fitted.
    ///
    /// # Errors
    /// If it is no run folder, or one that does not say what its curvature was taken on.
    pub(in crate::job) fn open(folder: &Path) -> Result<Self, JobError> {
        let store = Store::open(folder)?;
        let file = folder.join("run.json");
        let unread = |source| JobError::Io { file: file.clone(), action: "cannot be read", source };
        let text = std::fs::read_to_string(&file).map_err(unread)?;
        check_json(&file, &text)?;
        let report: Option<Value> = serde_json::from_str(&text).ok();
        let hashes = report.as_ref().and_then(|report| report.get(CURVATURE_DATA)?.as_object());
        let parsed = hashes.and_then(|hashes| {
            let entry = |(stage, hash): (&String, &Value)| {
                Some((stage.clone(), *blake3::Hash::from_hex(hash.as_str()?).ok()?.as_bytes()))
            };
            hashes.iter().map(entry).collect::<Option<BTreeMap<String, [u8; 32]>>>()
        });
        let stages = report.as_ref().and_then(|report| report.get("summary")?.get("stages")?.as_array());
        let size = |stage: &Value| {
            Some((stage.get("name")?.as_str()?.to_owned(), usize::try_from(stage.get("train_size")?.as_u64()?).ok()?))
        };
        let sizes = stages.map(|stages| stages.iter().filter_map(size).collect()).unwrap_or_default();
        match parsed {
            Some(data) => Ok(Self { store, data, sizes }),
            None => Err(JobError::Options {
                problem: format!("{}: does not say which data the curvature was taken on", file.display()),
                hint: Some("give the folder of a run that this version of ascribe fitted".into()),
            }),
        }
    }

    /// The hash of the examples that the curvature of a stage was taken on.
    pub(in crate::job) fn data(&self, stage: &str) -> Option<[u8; 32]> {
        self.data.get(stage).copied()
    }
}

impl Reused {
    /// N of the stage that the curvature was taken for.
    pub(in crate::job) fn train_size(&self, stage: &str) -> Option<usize> {
        self.sizes.get(stage).copied()
    }
}
