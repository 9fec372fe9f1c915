//! What can be wrong with a job: one variant for each kind of problem, with the file, the key, what was found and what was
//! expected, and a hint that says what to do.

use std::path::PathBuf;

use crate::Hint;
use crate::attribution::source::SourceError;
use crate::attribution::store::StoreError;
use crate::data::DataError;
use crate::job::option_text::OptionText;
use crate::model::LoadError;

/// Why a job cannot be planned or did not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The checkpoint.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A name of the hub.
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// The training run.
    #[error(transparent)]
    Trajectory(#[from] crate::trajectory::ReadError),
    /// A checkpoint of another architecture than the run's last.
    #[error("{}: is a `{found}`, and the run's last checkpoint a `{expected}`", folder.display())]
    OtherArchitecture {
        /// The checkpoint.
        folder: PathBuf,
        /// Its `model_type`.
        found: String,
        /// The last one's.
        expected: String,
    },
    /// A checkpoint was written over while it was used.
    #[error("{}: the checkpoint has changed since the run began", folder.display())]
    Changed {
        /// The checkpoint.
        folder: PathBuf,
    },
    /// Checkpoints of one run that do not take the same inputs.
    #[error("{}: the checkpoint does not take the inputs that the run's last one takes", folder.display())]
    OtherInputs {
        /// The checkpoint.
        folder: PathBuf,
    },
    /// A checkpoint of a description of a training run that cannot be used.
    #[error("{}:{line}: its checkpoint of step {step}, {}, cannot be used", file.display(), folder.display())]
    Listed {
        /// The description.
        file: PathBuf,
        /// Its line that lists the checkpoint.
        line: usize,
        /// The checkpoint's step.
        step: usize,
        /// Its folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: Box<JobError>,
    },
    /// Training examples or queries.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pass.
    #[error(transparent)]
    Pass(#[from] crate::attribution::Error),
    /// A network that makes numbers which are none.
    #[error("{}: {source}", folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFinite {
        /// The checkpoint, or those whose mean the network is.
        folders: Vec<PathBuf>,
        /// Where in the network they are.
        source: crate::attribution::Error,
    },
    /// A measurement that the model does not define.
    #[error("`measure = {measure}` is not defined for a {task}")]
    Measure {
        /// What was asked for.
        measure: &'static str,
        /// What the model is.
        task: &'static str,
        /// What can be measured there.
        possible: &'static str,
    },
    /// Options that exclude each other, or a value out of range.
    #[error("{problem}")]
    Options {
        /// What is wrong.
        problem: OptionText,
        /// What to do.
        hint: Option<OptionText>,
    },
    /// The step needs queries and the job names none.
    #[error("this step needs queries, and the job names none")]
    NoQueries,
    /// A step's result is missing.
    #[error("{}: {what}: not there yet", folder.display())]
    MissingStep {
        /// The run folder.
        folder: PathBuf,
        /// What is missing.
        what: &'static str,
        /// The step that makes it.
        step: &'static str,
    },
    /// The run folder holds results of another job at the fixed place.
    #[error("{}: holds the scores of another job (other queries, data or options)", file.display())]
    OtherResults {
        /// The file.
        file: PathBuf,
    },
    /// Query and training examples do not fit into the memory that is allowed.
    #[error("the job needs about {} MiB, the budget is {} MiB", needed.div_ceil(1 << 20), budget >> 20)]
    Memory {
        /// Bytes.
        needed: u64,
        /// Bytes.
        budget: u64,
    },
    /// The run folder would be larger than it may be.
    #[error("the run folder needs about {} MiB, the bound is {} MiB", mebibytes(*needed), mebibytes(*bound))]
    Disk {
        /// Bytes.
        needed: u64,
        /// Bytes.
        bound: u64,
        /// What most of them are for.
        largest: &'static str,
    },
    /// A device that is not there.
    #[error("`{device}` cannot be used: {problem}")]
    Device {
        /// What was asked for.
        device: String,
        /// Why not.
        problem: String,
    },
    /// A file of results cannot be written or read.
    #[error("{}: {action}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl JobError {
    /// Options that exclude each other, or a value out of range, with what to do.
    pub(in crate::job) fn options(problem: impl Into<OptionText>, hint: impl Into<OptionText>) -> Self {
        Self::Options { problem: problem.into(), hint: Some(hint.into()) }
    }

    /// Whether somebody asked the run to stop.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Pass(crate::attribution::Error::Interrupted))
    }
}

impl Hint for JobError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Load(error) => error.hint(),
            Self::Hub(error) => error.hint(),
            Self::Trajectory(error) => error.hint(),
            Self::Listed { source, .. } => source.hint(),
            Self::Changed { .. } => Some("start again; what is finished is kept".into()),
            Self::OtherArchitecture { .. } | Self::OtherInputs { .. } => {
                Some("checkpoints of one run have one architecture, vocabulary and number of inputs".into())
            }
            Self::Pass(crate::attribution::Error::Source(SourceError::ProductDiverges { .. })) => Some(
                "the curvature is kept in the run folder, and the same job with the exponential form goes on from there (`--form exponential`)"
                    .into(),
            ),
            Self::Pass(crate::attribution::Error::Source(error)) => error.hint(),
            Self::NotFinite { .. } => Some(
                "the checkpoint's weights are numbers, but what it computes of these inputs is not: did its training diverge? `--dtype f64` has a wider range"
                    .into(),
            ),
            Self::Data(error) => error.hint(),
            Self::Store(error) | Self::Pass(crate::attribution::Error::Store(error)) => error.hint(),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Some("check the path".into()),
            Self::Pass(_) | Self::Io { .. } => None,
            Self::Measure { possible, .. } => Some(format!("write {possible}")),
            Self::Options { hint, .. } => hint.as_ref().map(ToString::to_string),
            Self::NoQueries => Some("give a file of queries".into()),
            Self::MissingStep { step, .. } => Some(format!("run `ascribe {step}` on this folder first")),
            Self::OtherResults { .. } => Some("choose another run folder; nothing was written".into()),
            Self::Disk { largest, .. } => {
                Some(format!("most of it are {largest}; allow more disk, or take fewer queries or layers"))
            }
            Self::Device { .. } => Some(
                "leave the device out to use the processor, or build with `--features cuda` on a machine with an NVIDIA GPU".into(),
            ),
            Self::Memory { .. } => Some("allow more memory, or take fewer queries or layers".into()),
        }
    }
}

/// MiB with as many digits as a small number needs.
fn mebibytes(bytes: u64) -> String {
    let value = bytes as f64 / f64::from(1 << 20);
    if value < 10.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

impl From<crate::curvature::Error> for JobError {
    fn from(error: crate::curvature::Error) -> Self {
        Self::Pass(error.into())
    }
}
