//! What a person should know of a training run as it was read.

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
    /// Norms that fp16 logged of updates that it skipped, and that are no numbers.
    NormsOfSkippedUpdates {
        /// How many.
        norms: usize,
    },
    /// The optimizer's base rate is another than the arguments say, and is believed.
    OtherBaseRate {
        /// `learning_rate` of the arguments.
        arguments: f64,
        /// `base_lrs` of `scheduler.pt`.
        scheduler: f64,
    },
    /// Training was resumed with another schedule.
    Resumed {
        /// Updates done when it was, each time.
        after: Vec<usize>,
    },
    /// The weights that training began with are a checkpoint of another run.
    BeganFrom {
        /// The checkpoint.
        checkpoint: std::path::PathBuf,
        /// Updates done at it.
        step: usize,
    },
    /// The log contradicts the schedule of the arguments, and has the rate of every step.
    OtherSchedule {
        /// The schedule's name.
        schedule: String,
        /// The first step at which they differ, its logged rate and the schedule's.
        step: usize,
        /// The logged rate.
        logged: f64,
        /// The schedule's.
        replayed: f64,
    },
    /// A checkpoint lacks a file that the others have.
    MissingInCheckpoint {
        /// The checkpoint.
        checkpoint: String,
        /// The file's name.
        file: &'static str,
    },
    /// Updates that fp16 loss scaling skipped; their rate counts as zero.
    SkippedUpdates {
        /// How many.
        updates: usize,
    },
    /// Training minimised something else than the loss of the examples' own tokens.
    OtherObjective {
        /// The class of the trainer's arguments, and the losses that they name.
        of: String,
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
    /// Layers whose parameter groups had rates of their own.
    LayerRates {
        /// Each with what multiplies the run's rates.
        layers: Vec<(String, f64)>,
    },
    /// Rates are stated of layers that are not tracked.
    UnknownLayerRates {
        /// Their names.
        layers: Vec<String>,
    },
    /// Tracked layers that are the same in all checkpoints, and so count as frozen.
    FrozenLayers {
        /// Their names.
        layers: Vec<String>,
    },
    /// Layers that are stated to have been trained or not, where the checkpoints say otherwise; what is stated counts.
    StatedLayers {
        /// Their names.
        layers: Vec<String>,
        /// They are stated as frozen and changed; else the other way round.
        changed: bool,
    },
    /// Weights or biases alone that are the same in all checkpoints; their layers count as trained.
    PartlyFrozen {
        /// Their names.
        parameters: Vec<String>,
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
            Self::NormsOfSkippedUpdates { norms } => write!(
                f,
                "{norms} logged gradient norms are no numbers, as of updates that fp16 loss scaling skipped; clipping is taken from the others"
            ),
            Self::OtherBaseRate { arguments, scheduler } => write!(
                f,
                "`learning_rate` is {arguments:e} in the arguments, but the scheduler started from {scheduler:e}, which is used"
            ),
            Self::Resumed { after } => {
                let steps: Vec<String> = after.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "training was resumed with another schedule after step {}; each part has its own. Parts with other training examples are stages, which `ascribe trajectory` writes out",
                    steps.join(", ")
                )
            }
            Self::BeganFrom { checkpoint, .. } => write!(
                f,
                "training began with a checkpoint of another run ({}), whose examples are not scored; both runs are stages, which `ascribe trajectory` writes out",
                checkpoint.display()
            ),
            Self::OtherSchedule { schedule, step, logged, replayed } => write!(
                f,
                "the schedule `{schedule}` of the arguments was not used (at step {step} it has the rate {replayed:e}, the log {logged:e}); the log has the rate of every step, which is used"
            ),
            Self::MissingInCheckpoint { checkpoint, file } => write!(
                f,
                "`{checkpoint}` has no `{file}`; what the other checkpoints say is taken to hold for it"
            ),
            Self::SkippedUpdates { updates } => {
                write!(f, "fp16 loss scaling skipped {updates} updates; they are placed as early as the record allows")
            }
            Self::OtherObjective { of } => write!(
                f,
                "training minimised another objective ({of}) than the loss of each example's own tokens, which scores \
                 explain: what an example did to this training is not in them"
            ),
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
            Self::LayerRates { layers } => {
                let each: Vec<String> = layers.iter().map(|(layer, rate)| format!("{layer} x {rate}")).collect();
                write!(f, "parameter groups had rates of their own: {}", first_few(&each))
            }
            Self::UnknownLayerRates { layers } => {
                write!(f, "`layer_rates` has layers that are not tracked: {}", first_few(layers))
            }
            Self::FrozenLayers { layers } => {
                let (are, count) = if layers.len() == 1 { ("layer is", "counts") } else { ("layers are", "count") };
                let (n, names) = (layers.len(), first_few(layers));
                write!(f, "{n} tracked {are} the same in all checkpoints and {count} as frozen: {names}")
            }
            Self::StatedLayers { layers, changed: true } => {
                write!(f, "stated as not trained, but different between checkpoints: {}", first_few(layers))
            }
            Self::StatedLayers { layers, changed: false } => {
                write!(f, "stated as trained, but the same in all checkpoints: {}", first_few(layers))
            }
            Self::PartlyFrozen { parameters } => write!(
                f,
                "the same in all checkpoints, although their layers changed, which count as trained whole: {}",
                first_few(parameters)
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

/// Names for a line of text: all of a few, else the first ones.
pub(super) fn first_few(names: &[String]) -> String {
    const FEW: usize = 4;
    let shown: Vec<String> = names.iter().take(FEW).map(|name| format!("`{name}`")).collect();
    match names.len() {
        n if n > FEW => format!("{} and {} more", shown.join(", "), n - FEW),
        _ => shown.join(", "),
    }
}
