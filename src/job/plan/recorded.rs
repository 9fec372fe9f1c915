//! What the trainer recorded of the texts beside the checkpoints of influence functions, and whether the examples were
//! read alike. Source compares the same where it joins its run with the data.

use std::path::Path;

use crate::job::error::JobError;
use crate::job::request::Job;
use crate::trajectory::{ReadError, StageData, TextRecord, reads_trainer_folder, text_record};

/// What is recorded beside the last checkpoint of influence functions; none for Source, whose run is read whole. A file
/// that cannot be read is named in a note: influence functions need none of it.
pub(super) fn of(job: &Job, last: &Path, notes: &mut Vec<String>) -> Option<TextRecord> {
    if job.source.is_some() {
        return None;
    }
    match text_record(last) {
        Ok(record) => record,
        Err(error) => {
            notes.push(format!("what the trainer recorded of its texts is not compared with the examples: {error}"));
            None
        }
    }
}

/// What a person should know of examples beside what is recorded.
///
/// # Errors
/// Examples that were read otherwise than training read them, or with other tokens than the log counted, where the job
/// names the run that was trained on them. Beside a checkpoint alone, or where `train_size` says that these are not the
/// examples of training, others may be scored on purpose: then the same is a note.
pub(super) fn compare(job: &Job, record: &TextRecord, data: &StageData) -> Result<Vec<String>, JobError> {
    let mut notes: Vec<String> = record.training_only.iter().map(ToString::to_string).collect();
    let Some(texts) = &data.texts else { return Ok(notes) };
    let run = job.checkpoints.as_ref().and_then(|checkpoints| checkpoints.run.as_deref());
    let names_run = match run {
        Some(run) => reads_trainer_folder(run)?,
        None => false,
    };
    if names_run && texts.is_whole {
        if let Some(treatment) = &record.texts {
            notes.extend(treatment.compare(texts)?);
        }
        record.check_tokens(texts, record.processes.unwrap_or(1))?;
        return Ok(notes);
    }
    if let Some(treatment) = &record.texts {
        notes.extend(treatment.differences(texts).into_iter().map(|difference| {
            format!(
                "{}: {difference}; scores are of the examples as they are read, and to have them as training did: {}",
                treatment.file.display(),
                difference.hint
            )
        }));
        notes.extend(treatment.notes(texts));
    }
    // the check against the log says it as a warning
    if job.data.skip_loss_check
        && let Err(error @ ReadError::TokensDisagree { .. }) = record.check_tokens(texts, record.processes.unwrap_or(1))
    {
        notes.push(error.to_string());
    }
    Ok(notes)
}
