//! Why training cannot be differentiated.

use std::path::PathBuf;

use crate::Hint;
use crate::attribution::store::StoreError;
use crate::data::DataError;
use crate::foreign_file;
use crate::model::LoadError;
use crate::trajectory::ReadError;

/// Why training cannot be differentiated, with what to do about it in [`hint`](Self::hint).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExactError {
    /// The run did something that is not differentiated.
    #[error("{}: {what} cannot be differentiated exactly", run.display())]
    Unsupported {
        /// The run.
        run: PathBuf,
        /// What it did.
        what: String,
    },
    /// The run was trained on another number of examples.
    #[error("{}: trained on {recorded} examples, the training file has {found}", run.display())]
    Examples {
        /// The run.
        run: PathBuf,
        /// What it says.
        recorded: usize,
        /// What there is.
        found: usize,
    },
    /// A batch is larger than the data.
    #[error("{}: batches of {batch_size} of {examples} examples", run.display())]
    BatchSize {
        /// The run.
        run: PathBuf,
        /// What it says.
        batch_size: usize,
        /// What there is.
        examples: usize,
    },
    /// The steps of an epoch fit neither way of treating its end.
    #[error(
        "{}: `steps_per_epoch` is {steps}; the data make {whole} steps without an incomplete last batch, {all} with it",
        run.display()
    )]
    EpochSteps {
        /// The run.
        run: PathBuf,
        /// What it says.
        steps: usize,
        /// Whole batches.
        whole: usize,
        /// All batches.
        all: usize,
    },
    /// Nothing says what the losses of a batch were divided by.
    #[error("{}: no `loss_reduction`", run.display())]
    NoReduction {
        /// The run.
        run: PathBuf,
    },
    /// A file of recorded batches does not fit.
    #[error("{}: {problem}", file.display())]
    Batches {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Two models differ in more than their numbers.
    #[error("{}: its layers are not those of {}", folder.display(), other.display())]
    OtherModel {
        /// A folder.
        folder: PathBuf,
        /// Another.
        other: PathBuf,
    },
    /// No folder says what the model is.
    #[error("{}: lists no checkpoint that says what the model is", run.display())]
    NoModel {
        /// The run.
        run: PathBuf,
    },
    /// As many starts as runs are needed, or one.
    #[error("{starts} starts for {runs} runs")]
    Starts {
        /// Folders given.
        starts: usize,
        /// Runs asked for.
        runs: usize,
    },
    /// Not even one query fits beside the states of training.
    #[error("needs {} of memory, may use {}", foreign_file::size(*needed), foreign_file::size(*given))]
    Memory {
        /// Bytes for one query.
        needed: u64,
        /// Bytes given.
        given: u64,
    },
    /// A file of the folder holds scores of something else.
    #[error("{}: holds scores of another job", file.display())]
    OtherScores {
        /// The file.
        file: PathBuf,
    },
    /// The measurement is not one of these models.
    #[error("`{measurement}` is no measurement of a {model}")]
    Measurement {
        /// What was asked.
        measurement: &'static str,
        /// What the model is.
        model: &'static str,
    },
    /// Training left the finite numbers.
    #[error("training left the finite numbers at step {step}")]
    NotFinite {
        /// The step, counted from 0.
        step: usize,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Somebody asked to stop.
    #[error("stopped; run the same command again to go on")]
    Interrupted,
    /// A model's folder.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file of data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run's description.
    #[error(transparent)]
    Run(#[from] ReadError),
    /// A file of scores.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Hint for ExactError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unsupported { .. } => {
                "it is there for SGD, with momentum, of all layers at one rate; `ascribe source` approximates the rest"
                    .into()
            }
            Self::Examples { .. } => "give the file that the run was trained on".into(),
            Self::BatchSize { .. } | Self::EpochSteps { .. } => "correct it in the description of the run".into(),
            Self::NoReduction { .. } => {
                "write `loss_reduction = \"mean\"` or `\"sum\"` into the description of the run".into()
            }
            Self::Starts { .. } => "give `--start` once for all runs, or once for each".into(),
            Self::Memory { .. } => "raise `--memory`".into(),
            Self::OtherScores { .. } => "choose another folder with `--out`, or delete the file".into(),
            Self::NoModel { .. } => "say with `--start DIR` where training began".into(),
            Self::OtherModel { .. } => "`--start` and the checkpoints of the run must be of one network".into(),
            Self::Batches { .. } => {
                "the file holds `batches`, I64 [steps, slots]: rows of the training file, -1 where a slot is empty"
                    .into()
            }
            Self::Measurement { .. } => {
                "of classifiers: `loss`, `logprob`, `margin`; of regressions: `loss`, `prediction`".into()
            }
            Self::NotFinite { .. } => {
                "is the rate the one of the run, and are the inputs scaled as training had them?".into()
            }
            Self::Load(error) => return error.hint(),
            Self::Data(error) => return error.hint(),
            Self::Run(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            Self::Unreadable { .. } | Self::Interrupted => return None,
        })
    }
}
