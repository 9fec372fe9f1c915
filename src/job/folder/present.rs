//! Whether results at the fixed places are there already, and whether they are this job's: each file names the key of
//! what it was made from.

use std::path::Path;

use crate::attribution::store::{Key, TensorFile};
use crate::job::brief::Brief;
use crate::job::error::JobError;
use crate::job::folder::calibration::scale_of;
use crate::job::folder::metadata::KEY;
use crate::job::folder::places::{part_file, parts_apart, scores_file, tokens_file, top_file};
use crate::job::folder::tokens::{COPIES, DIVIDED, TOP};
use crate::job::request::TokensRequest;
use crate::presence::is_file;

/// Refuses a run folder whose results belong to another job, before any work.
pub(in crate::job) fn check_results(brief: &Brief) -> Result<(), JobError> {
    for answer in 0..brief.answers.len() {
        let Some(key) = brief.answer_key(answer) else { return Ok(()) };
        for file in [scores_file(brief, answer), top_file(brief, answer)] {
            if is_file(&file) && !has_key(&file, &key)? {
                return Err(JobError::OtherResults { file });
            }
        }
    }
    // a calibration of other scores would end a long job with an error
    scale_of(brief, 0)?;
    Ok(())
}

/// Whether the folder holds an answer's results with this key.
pub(in crate::job) fn has_results(brief: &Brief, answer: usize, key: &Key) -> Result<bool, JobError> {
    for part in parts_apart(brief, answer) {
        if !has_key(&part_file(brief, part), key)? {
            return Ok(false);
        }
    }
    Ok(has_key(&scores_file(brief, answer), key)? || has_key(&top_file(brief, answer), key)?)
}

/// Whether the folder holds what the tokens that are asked for add to the scores with this key, of as many examples as
/// are listed.
pub(in crate::job) fn has_tokens(brief: &Brief, key: &Key) -> Result<bool, JobError> {
    let file = tokens_file(brief);
    if !has_key(&file, key)? {
        return Ok(false);
    }
    let file = TensorFile::open_checked(&file)?;
    let top = file.metadata(TOP).and_then(|top| top.parse::<usize>().ok());
    // files of earlier versions know no copies and no tokens of queries
    let copies = file.metadata(COPIES).unwrap_or("off");
    let divided = file.metadata(DIVIDED).unwrap_or(TokensRequest::Ranked.name());
    let output = &brief.job.output;
    let is_asked = divided == output.tokens.name() && copies == output.duplicates.to_string();
    let has_listed = output.tokens == TokensRequest::All || top.is_some_and(|top| top >= output.top);
    Ok(has_listed && is_asked)
}

/// Whether there is such a file and it was made from what the key says.
pub(in crate::job) fn has_key(file: &Path, key: &Key) -> Result<bool, JobError> {
    Ok(is_file(file) && TensorFile::open_checked(file)?.metadata(KEY) == Some(&key.to_string()))
}
