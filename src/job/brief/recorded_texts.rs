//! What training recorded of its texts, beside what was read of them.

use crate::trajectory::{TextData, TextRecord, TextTreatment, TokenComparison};

/// What training recorded of its texts and what was read of them, stage by stage.
#[derive(Debug, Clone, Default)]
pub(in crate::job) struct RecordedTexts {
    /// What is recorded of each stage, if anything is.
    pub records: Vec<Option<TextRecord>>,
    /// How the examples of each stage were read, if they are texts.
    pub data: Vec<Option<TextData>>,
}

impl RecordedTexts {
    /// What the trainer of a stage did to its texts, if that is recorded.
    pub(in crate::job) fn treatment(&self, stage: usize) -> Option<&TextTreatment> {
        self.records.get(stage)?.as_ref()?.texts.as_ref()
    }

    /// The tokens of a stage's examples beside those that its log counted, and what would make them alike; `None` where
    /// nothing tells.
    pub(in crate::job) fn tokens(
        &self,
        stage: usize,
        processes: Option<usize>,
    ) -> Option<(TokenComparison, Option<String>)> {
        let (record, data) = (self.records.get(stage)?.as_ref()?, self.data.get(stage)?.as_ref()?);
        let found = record.compare_tokens(data, processes.or(record.processes).unwrap_or(1))?;
        Some((found, found.remedy(data).filter(|_| !found.agrees)))
    }
}
