/// Something about a run that a person should know, and may be able to change.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// Rates between logged steps were interpolated.
    Interpolated {
        /// Steps whose rate is known.
        known: usize,
        /// Steps in all.
        n_steps: usize,
    },
    /// The closed form was not checked by any recorded rate.
    UncheckedSchedule {
        /// The schedule's name.
        schedule: String,
    },
    /// No checkpoint says which transformers wrote it, and the log does not tell either.
    UnknownVersion,
    /// Gradients were clipped, and nothing says by how much.
    ClippingWithoutNorms {
        /// `max_grad_norm`.
        max_norm: f64,
    },
    /// Updates that fp16 loss scaling skipped; their rate counts as zero.
    SkippedUpdates {
        /// How many.
        updates: usize,
    },
    /// An option that changed training and is not part of the loss that scores explain.
    TrainingOnly {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// The last checkpoint is not at the end of the schedule.
    Unfinished {
        /// Its step.
        step: usize,
        /// Steps that the schedule was made for.
        max_steps: usize,
    },
    /// Checkpoints were saved and are no longer there.
    MissingCheckpoints {
        /// `save_steps`.
        save_steps: usize,
        /// The steps that are missing, the first few.
        missing: Vec<usize>,
        /// How many are missing.
        n_missing: usize,
    },
    /// A checkpoint's optimizer state is of a kind that is not read.
    OptimizerStateUnread {
        /// The checkpoint.
        checkpoint: String,
        /// Why.
        reason: String,
    },
    /// `optimizer.pt` says something else than the arguments, and is believed.
    OptimizerOverrides {
        /// Which option.
        option: &'static str,
        /// In the arguments.
        arguments: f64,
        /// In `optimizer.pt`.
        optimizer: f64,
    },
    /// Parameter groups with base rates of their own; the walk takes the schedule's rate for all of them.
    GroupRates {
        /// The smallest base rate.
        smallest: f64,
        /// The largest.
        largest: f64,
    },
    /// The number of processes is not recorded; one is assumed.
    UnknownProcesses,
    /// The run's data were a stream, so the number of examples cannot be checked.
    StreamedData,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interpolated { known, n_steps } => write!(
                f,
                "only {known} of {n_steps} learning rates are recorded; the others are interpolated between them"
            ),
            Self::UncheckedSchedule { schedule } => {
                write!(f, "no recorded learning rate confirms the schedule `{schedule}`")
            }
            Self::UnknownVersion => f.write_str(
                "`transformers_version` is missing and the log does not tell whether it shows the rate of the update before or after",
            ),
            Self::ClippingWithoutNorms { max_norm } => write!(
                f,
                "gradients were clipped at norm {max_norm}, but the log has no norms: the effective rates may be lower than those used here"
            ),
            Self::SkippedUpdates { updates } => {
                write!(f, "fp16 loss scaling skipped {updates} updates; they are placed as early as the record allows")
            }
            Self::TrainingOnly { option, value } => {
                write!(f, "training used `{option}` = {value}, which the loss that scores explain does not have")
            }
            Self::Unfinished { step, max_steps } => {
                write!(f, "the last checkpoint is at step {step} of {max_steps}: scores explain the run up to there")
            }
            Self::MissingCheckpoints { save_steps, missing, n_missing } => {
                write!(f, "a checkpoint was saved every {save_steps} steps, but {n_missing} are missing: {missing:?}")?;
                if *n_missing > missing.len() { f.write_str(" and more") } else { Ok(()) }
            }
            Self::OptimizerStateUnread { checkpoint, reason } => {
                write!(f, "the optimizer state of `{checkpoint}` cannot be used: {reason}")
            }
            Self::OptimizerOverrides { option, arguments, optimizer } => {
                write!(f, "`{option}` is {arguments} in the arguments and {optimizer} in `optimizer.pt`; the latter is used")
            }
            Self::GroupRates { smallest, largest } => write!(
                f,
                "parameter groups have base rates from {smallest} to {largest}; the rate of the schedule is taken for every layer"
            ),
            Self::UnknownProcesses => {
                f.write_str("the number of training processes is not recorded; one is assumed")
            }
            Self::StreamedData => {
                f.write_str("the training data were streamed, so the number of examples cannot be checked against the log")
            }
        }
    }
}
