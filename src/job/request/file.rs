//! A job as a TOML file: the `job.toml` of a run folder, or one written by hand.

use crate::job::error::JobError;
use crate::job::request::Job;

/// Bytes of the longest job file that is read. A folder's own has two thousand.
const JOB_FILE_LIMIT: u64 = 16 << 20;

impl Job {
    /// Reads a job file, the one that a run folder holds or one written by hand.
    ///
    /// # Errors
    /// If it cannot be read, or a key is unknown, missing or of the wrong kind; the message has the line.
    pub fn read(file: &std::path::Path) -> Result<Self, JobError> {
        let io = |source| JobError::Io { file: file.to_owned(), action: "cannot be read", source };
        let text = crate::foreign_file::read_text(file, JOB_FILE_LIMIT).map_err(io)?;
        toml::from_str(&text).map_err(|error| JobError::Options {
            problem: format!("{}: {}", file.display(), error.to_string().trim_end()).into(),
            hint: Some("the keys are those that every run folder's `job.toml` shows".into()),
        })
    }

    /// The job as a file that [`Job::read`] reads, with names of the hub as they were asked for.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.as_asked()).expect("a job holds only what TOML can say")
    }
}
