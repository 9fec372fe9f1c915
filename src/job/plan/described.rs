//! Checkpoints that a description of a training run lists: what is wrong with one of them is said with the line of the
//! description, since a person who wrote the list looks there first.

use std::error::Error;
use std::path::{Path, PathBuf};

use crate::data::DataError;
use crate::job::error::JobError;
use crate::job::request::Job;
use crate::trajectory::read_description;

/// The checkpoints that a job's description of a run lists; none for a Trainer's folder, or without a run.
#[derive(Debug, Clone, Default)]
pub(in crate::job) struct Described(Vec<Listed>);

/// A checkpoint of a description.
#[derive(Debug, Clone)]
struct Listed {
    file: PathBuf,
    line: usize,
    step: usize,
    folder: PathBuf,
    /// The optimizer's state, which may lie elsewhere.
    optimizer: Option<PathBuf>,
}

impl Described {
    /// The checkpoints of a job. A description that cannot be read has none; whatever reads it says why.
    pub(super) fn of(job: &Job) -> Self {
        let run = match (&job.source, &job.checkpoints) {
            (Some(source), _) => Some(&source.trajectory.path),
            (None, Some(request)) => request.run.as_ref(),
            (None, None) => None,
        };
        let readings = run.and_then(|path| read_description(path).ok()).unwrap_or_default();
        let listed = readings.into_iter().flat_map(|reading| {
            let file = reading.source;
            reading.checkpoints.into_iter().filter_map(move |at| {
                let (line, step) = (at.line?, at.step);
                Some(Listed { file: file.clone(), line, step, folder: at.folder, optimizer: at.optimizer })
            })
        });
        Self(listed.collect())
    }

    /// The error with the line that lists its checkpoint, if it names a file of one.
    pub(in crate::job) fn name(&self, error: JobError) -> JobError {
        if self.0.is_empty() || !may_name_a_checkpoint(&error) {
            return error;
        }
        let mut texts = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(next) = cause {
            texts.push(next.to_string());
            cause = next.source();
        }
        let names = |path: &Path| texts.iter().any(|text| holds(text, path));
        let listed = self.0.iter().find(|at| names(&at.folder) || at.optimizer.as_deref().is_some_and(names));
        match listed.cloned() {
            Some(Listed { file, line, step, folder, .. }) => {
                JobError::Listed { file, line, step, folder, source: Box::new(error) }
            }
            None => error,
        }
    }
}

/// Whether an error can be one of a checkpoint: training examples and the run folder are not, wherever they lie.
fn may_name_a_checkpoint(error: &JobError) -> bool {
    match error {
        JobError::Data(error) => matches!(
            error,
            DataError::NoTokenizer { .. }
                | DataError::SlowTokenizer { .. }
                | DataError::BrokenTokenizer { .. }
                | DataError::BrokenConfig { .. }
        ),
        JobError::Listed { .. } | JobError::Store(_) | JobError::Io { .. } | JobError::OtherResults { .. } => false,
        _ => true,
    }
}

/// Whether a text holds a path, or that of something below it, and not one whose name only begins or ends like it.
fn holds(text: &str, path: &Path) -> bool {
    let path = path.display().to_string();
    let in_a_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !path.is_empty()
        && text.match_indices(&path).any(|(at, _)| {
            let (before, behind) = (text[..at].chars().next_back(), text[at + path.len()..].chars().next());
            !before.is_some_and(|c| in_a_name(c) || c == '/') && !behind.is_some_and(in_a_name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_whole() {
        let holds = |text| holds(text, Path::new("run/checkpoint-60"));
        assert!(holds("run/checkpoint-60: is no folder"));
        assert!(holds("a/config.json and run/checkpoint-60/config.json disagree"));
        assert!(!holds("run/checkpoint-600: is no folder"));
        assert!(!holds("run/checkpoint-60.old: is no folder"));
        assert!(!holds("other/run/checkpoint-60: is no folder"));
        assert!(!super::holds("anything", Path::new("")));
    }
}
