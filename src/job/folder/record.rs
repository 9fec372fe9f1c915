//! `run.json`, the record of a run: what the plan was, what data the curvature was taken on, what each step did and how
//! far each segment of training went. The one place that reads it and writes it.
//!
//! Each part is read by itself: a part that is missing, or that another version of ascribe wrote in another form, is empty,
//! and the others are there all the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::attribution::foreign_file;
use crate::attribution::store::{Store, check_json, sealed_json};
use crate::job::brief::Brief;
use crate::job::brief::reuse::Reused;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::places::RECORD;
use crate::job::folder::report::{Saturation, StageReport, StepReport};
use crate::job::folder::whole_file::write_file;

/// The most bytes of a record.
const MAX_RECORD: u64 = 256 << 20;

/// The record of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RunRecord {
    /// The version of ascribe that wrote it last.
    #[serde(deserialize_with = "or_empty")]
    pub ascribe_version: String,
    /// Hash of the training examples that each stage's curvature was taken on.
    #[serde(deserialize_with = "or_empty")]
    curvature_data: Option<DataHashes>,
    /// The plan's summary.
    #[serde(deserialize_with = "or_empty")]
    pub summary: Summary,
    /// How far each segment of training went, once its curvature is fitted.
    #[serde(deserialize_with = "or_empty")]
    pub saturation: Option<Vec<Saturation>>,
    /// The stages of all steps so far, newest last.
    #[serde(deserialize_with = "or_empty")]
    pub stages: Vec<StageReport>,
}

/// Each stage's name and the hash of its data in hexadecimal digits, in the order of training.
#[derive(Debug, Clone)]
struct DataHashes(Vec<(String, String)>);

impl Serialize for DataHashes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(stage, hash)| (stage, hash)))
    }
}

impl<'de> Deserialize<'de> for DataHashes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(BTreeMap::deserialize(deserializer)?.into_iter().collect()))
    }
}

/// A part of the record; empty if it has another form.
fn or_empty<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

impl RunRecord {
    /// The record of a run folder; none before a step has ended there.
    ///
    /// # Errors
    /// [`JobError::Io`] if the file cannot be read, [`StoreError::Damaged`](crate::attribution::store::StoreError) if it is
    /// not as it was written.
    pub fn of_run_folder(folder: &Path) -> Result<Option<Self>, JobError> {
        match Self::read(folder) {
            Err(JobError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// The record of a run folder that must have one. A text that is no JSON is an empty record.
    fn read(folder: &Path) -> Result<Self, JobError> {
        let file = folder.join(RECORD);
        let text = foreign_file::read_text(&file, MAX_RECORD).map_err(|source| JobError::Io {
            file: file.clone(),
            action: "cannot be read",
            source,
        })?;
        check_json(&file, &text)?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// The hash of each stage's data, if all are recorded.
    fn hashes(&self) -> Option<BTreeMap<String, [u8; 32]>> {
        let parsed =
            |(stage, hash): &(String, String)| Some((stage.clone(), *blake3::Hash::from_hex(hash).ok()?.as_bytes()));
        self.curvature_data.as_ref()?.0.iter().map(parsed).collect()
    }
}

impl Saturation {
    /// How far each segment went, as a run folder tells it; empty before the curvature is fitted, and for influence
    /// functions.
    ///
    /// # Errors
    /// A `run.json` that is there and cannot be read, as for [`RunRecord::of_run_folder`].
    pub fn of_run_folder(folder: &Path) -> Result<Vec<Self>, JobError> {
        Ok(RunRecord::of_run_folder(folder)?.and_then(|record| record.saturation).unwrap_or_default())
    }
}

/// Opens the folder of a run whose curvature is fitted and is to be used again.
///
/// # Errors
/// If it is no run folder, or one that does not say what its curvature was taken on.
pub(in crate::job) fn open_reused(folder: &Path) -> Result<Reused, JobError> {
    let store = Store::open(folder)?;
    let file = folder.join(RECORD);
    let record = RunRecord::read(folder)?;
    let data = record.hashes().ok_or_else(|| JobError::Options {
        problem: format!("{}: does not say which data the curvature was taken on", file.display()).into(),
        hint: Some("give the folder of a run that this version of ascribe fitted".into()),
    })?;
    let sizes = record.summary.stages.into_iter().filter(|stage| stage.train_size > 0);
    Ok(Reused::new(store, data, sizes.map(|stage| (stage.name, stage.train_size)).collect()))
}

/// Adds a step to the record of its run. What is there is read, added to and written again, so it is written through
/// the claimed store alone, whose lock keeps other writers out meanwhile.
pub(in crate::job) fn write_report(
    store: &Store,
    brief: &Brief,
    summary: &Summary,
    report: &StepReport,
) -> Result<(), JobError> {
    let file = store.folder().join(RECORD);
    // of a file that cannot be read the steps before this one would be lost
    let before = RunRecord::of_run_folder(store.folder())?.unwrap_or_default();
    let mut stages = before.stages;
    stages.extend(report.stages.iter().filter(|stage| !stage.reused).cloned());
    let hash = |stage| blake3::Hash::from_bytes(brief.curvature_data(stage)).to_hex().to_string();
    let data = brief.training.stages.iter().enumerate().map(|(index, stage)| (stage.name.clone(), hash(index)));
    let record = RunRecord {
        ascribe_version: env!("CARGO_PKG_VERSION").to_owned(),
        curvature_data: Some(DataHashes(data.collect())),
        summary: summary.clone(),
        saturation: report.saturation.clone().or(before.saturation),
        stages,
    };
    let Value::Object(record) = json!(record) else { unreachable!("a struct is an object") };
    write_file(&file, sealed_json(record).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RunRecord {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(RECORD), text).expect("written");
        RunRecord::of_run_folder(folder.path()).expect("readable").expect("there")
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let hashes = [("tune", [7; 32]), ("pre", [9; 32])];
        let hex = |hash: [u8; 32]| blake3::Hash::from_bytes(hash).to_hex().to_string();
        let written = RunRecord {
            ascribe_version: "1".into(),
            curvature_data: Some(DataHashes(hashes.map(|(stage, hash)| (stage.to_owned(), hex(hash))).into())),
            summary: Summary { architecture: "gpt2".into(), query_bytes: 12, ..Summary::default() },
            saturation: None,
            stages: vec![StageReport {
                stage: "covariance".into(),
                seconds: 0.25,
                units: 3,
                unit: "examples".into(),
                reused: false,
            }],
        };
        let text = serde_json::to_string(&written).expect("JSON");
        // stages of training stand in their order, and not in that of their names
        assert!(text.find("\"tune\"") < text.find("\"pre\""), "{text}");
        let found = read(&text);
        assert_eq!(found.hashes(), Some(hashes.map(|(stage, hash)| (stage.to_owned(), hash)).into()));
        assert_eq!((found.summary.architecture.as_str(), found.summary.query_bytes), ("gpt2", 12));
        assert_eq!(found.stages[0].units, 3);
        assert_eq!(serde_json::to_value(&found.stages).ok(), serde_json::to_value(&written.stages).ok());
    }

    #[test]
    fn a_part_of_another_form_leaves_the_others() {
        let stage = r#"{"stage":"lambda","seconds":1.5,"units":2,"unit":"examples","reused":false}"#;
        let found = read(&format!(
            r#"{{"summary":{{"stages":[{{"name":"train","train_size":24}}],"legs":7}},"saturation":[3],"stages":[{stage}]}}"#
        ));
        assert!(found.summary.stages.is_empty() && found.saturation.is_none() && found.hashes().is_none());
        assert_eq!(found.stages[0].stage, "lambda");
        let found =
            read(r#"{"summary":{"stages":[{"name":"train","train_size":24}]},"curvature_data":{"train":"no hash"}}"#);
        assert_eq!((found.summary.stages[0].name.as_str(), found.summary.stages[0].train_size), ("train", 24));
        assert!(found.hashes().is_none() && found.stages.is_empty());
    }
}
