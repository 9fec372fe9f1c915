//! Why a description of training on disk cannot be turned into a trajectory.

use std::path::PathBuf;

use ascribe_attribution::trajectory::TrajectoryError;

use super::optimizer_state::error::OptimizerStateError;
use super::token_counts::TokenComparison;
use super::torch_error::TorchFileError;
use super::warning::first_few;
use crate::Hint;
use crate::model::LoadError;

/// Why a description of training on disk cannot be turned into a trajectory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Read {
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A folder without checkpoints.
    #[error("{}: has no folders `checkpoint-N`", folder.display())]
    NoCheckpoints {
        /// The folder.
        folder: PathBuf,
        /// Whether it looks like a checkpoint itself.
        is_checkpoint: bool,
    },
    /// Something else than a file: a folder, a pipe, a device.
    #[error("{}: is no file", file.display())]
    NoFile {
        /// The path.
        file: PathBuf,
    },
    /// A file that is longer than any of its kind.
    #[error("{}: is larger than {} MiB, the most that is read", file.display(), limit >> 20)]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// Two checkpoint folders of one step.
    #[error("{} and {} are both of step {step}", first.display(), second.display())]
    RepeatedStep {
        /// The step.
        step: usize,
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A file that has to be there is not.
    #[error("{}: is missing; it holds {what}", file.display())]
    MissingFile {
        /// The file.
        file: PathBuf,
        /// What is in it.
        what: &'static str,
    },
    /// Text that is not JSON.
    #[error("{}: line {line}: not valid JSON", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Text that is not TOML, or not of our form.
    #[error("{}: line {line}: {message}", file.display())]
    Toml {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// An entry that is missing or of the wrong kind.
    #[error("{}: `{key}` is {found}, expected {expected}", file.display())]
    Entry {
        /// The file.
        file: PathBuf,
        /// Which entry.
        key: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A torch file.
    #[error(transparent)]
    Torch(#[from] TorchFileError),
    /// An `optimizer.pt`.
    #[error(transparent)]
    OptimizerState(#[from] OptimizerStateError),
    /// A checkpoint as a model.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// An architecture whose parameters torch numbers in an order that is not known here.
    #[error("{}: the order of the parameters of `{kind}` is not known", file.display())]
    UnknownOrder {
        /// `config.json`.
        file: PathBuf,
        /// `model_type`.
        kind: String,
    },
    /// A tensor that has no place in that order.
    #[error("{}: the place of `{name}` among the optimizer's parameters is not known", file.display())]
    UnknownTensor {
        /// The weights.
        file: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A layer that has no such parameter in the checkpoint.
    #[error("{}: has no `{parameter}`, whose second moments are needed", file.display())]
    LayerWithoutParameter {
        /// The weights.
        file: PathBuf,
        /// The parameter.
        parameter: String,
    },
    /// A parameter of another shape than the model's layer.
    #[error("{}: `{parameter}` has the shape {found:?}, the layer needs {expected:?}", file.display())]
    LayerShape {
        /// The weights.
        file: PathBuf,
        /// The parameter.
        parameter: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the layer has, in the file's layout.
        expected: Vec<usize>,
    },
    /// A checkpoint's state says another step than its folder.
    #[error("{}: was written at step {found}, the folder's name says {step}", file.display())]
    StepMismatch {
        /// `trainer_state.json`.
        file: PathBuf,
        /// The folder's number.
        step: usize,
        /// The state's.
        found: usize,
    },
    /// What examples counted in their batches is asked for, and not recorded.
    #[error("{}: what each example counted in its batches is not recorded", source_path.display())]
    UnknownWeights {
        /// The run.
        source_path: PathBuf,
    },
    /// Checkpoints of two runs in one folder.
    #[error("{} has the loss {loss} at step {step}, and {} {of_last}: they are of two runs", file.display(), last.display())]
    OtherRun {
        /// The state of the earlier checkpoint.
        file: PathBuf,
        /// The state of the last.
        last: PathBuf,
        /// The first step at which they differ.
        step: usize,
        /// The loss in the earlier one.
        loss: f64,
        /// The loss in the last.
        of_last: f64,
    },
    /// A part of a run whose steps it has no checkpoints of.
    #[error(
        "{}: the checkpoints are of the steps {steps:?}, and a stage is asked for that begins after step {after} and ends at {}",
        folder.display(),
        last.map_or("the last".to_owned(), |last| format!("step {last}"))
    )]
    PartOfRun {
        /// The run.
        folder: PathBuf,
        /// Updates after which the part begins.
        after: usize,
        /// The step of its last checkpoint.
        last: Option<usize>,
        /// The steps of all checkpoints.
        steps: Vec<usize>,
    },
    /// Checkpoints of one run that disagree about it.
    #[error("`{key}` is {first} in {} and {second} in {}", first_file.display(), second_file.display())]
    CheckpointsDiffer {
        /// Which entry.
        key: String,
        /// Its value in the earlier checkpoint.
        first: String,
        /// The earlier file.
        first_file: PathBuf,
        /// Its value in the later checkpoint.
        second: String,
        /// The later file.
        second_file: PathBuf,
    },
    /// A logged rate that is not a number.
    #[error("{}: the learning rate logged at step {step} is {rate}", file.display())]
    LoggedRate {
        /// The file.
        file: PathBuf,
        /// The step.
        step: usize,
        /// The rate.
        rate: f64,
    },
    /// A logged gradient norm that is not a number of at least 0, where clipping counts.
    #[error("{}: the gradient norm logged at step {step} is {norm}", file.display())]
    LoggedNorm {
        /// The file.
        file: PathBuf,
        /// The step.
        step: usize,
        /// The norm.
        norm: f64,
    },
    /// An optimizer's state that has seen another number of updates than its checkpoint.
    #[error("{}: has seen {found} updates, its checkpoint {expected}", file.display())]
    OptimizerStep {
        /// The optimizer's file.
        file: PathBuf,
        /// Updates of the checkpoint.
        expected: usize,
        /// Updates in the file.
        found: f64,
    },
    /// The replayed schedule gives another rate than the run recorded.
    #[error(
        "{}: the learning rate at step {step} is {logged:e}, but the schedule `{schedule}` replays {replayed:e}",
        file.display()
    )]
    RateDisagrees {
        /// The file.
        file: PathBuf,
        /// The step of the entry.
        step: usize,
        /// The rate in the file.
        logged: f64,
        /// The rate of the schedule.
        replayed: f64,
        /// The schedule's name.
        schedule: String,
    },
    /// A layer whose weight and bias were trained at different rates.
    #[error("{}: the weight of `{layer}` was trained at {weight} times the run's rate, its bias at {bias} times", file.display())]
    SplitLayer {
        /// The optimizer's file.
        file: PathBuf,
        /// The layer.
        layer: String,
        /// What multiplies the weight's rates.
        weight: f64,
        /// What multiplies the bias's.
        bias: f64,
    },
    /// Parameter groups whose rates do not have one schedule.
    #[error("{}: its parameter groups have rates that do not follow one schedule, {rates:?}", file.display())]
    GroupRates {
        /// The file.
        file: PathBuf,
        /// One rate for each group.
        rates: Vec<f64>,
    },
    /// Two checkpoints between which training went on and nothing changed.
    #[error("{} and {} hold the same weights, although training went on between them", first.display(), second.display())]
    SameWeights {
        /// One checkpoint.
        first: PathBuf,
        /// The next.
        second: PathBuf,
    },
    /// No tracked layer changed.
    #[error("{}: every tracked layer is the same in all checkpoints", source_path.display())]
    NothingTrained {
        /// The folder or file.
        source_path: PathBuf,
    },
    /// Rates between logged steps that nothing tells.
    #[error(
        "{}: the schedule `{schedule}` has no closed form here and the run recorded the rates of {known} of {n_steps} steps",
        folder.display()
    )]
    RatesUnknown {
        /// The run.
        folder: PathBuf,
        /// The schedule's name.
        schedule: String,
        /// Steps whose rate is known.
        known: usize,
        /// Steps in all.
        n_steps: usize,
    },
    /// `N` was not stated and is not recorded.
    #[error("{}: does not say how many training examples there were", source_path.display())]
    UnknownExamples {
        /// The folder or file.
        source_path: PathBuf,
    },
    /// `c` was not stated and is not recorded.
    #[error("{}: does not say what training divided the loss by", source_path.display())]
    UnknownLossScale {
        /// The folder or file.
        source_path: PathBuf,
    },
    /// `c` is one over a number of label tokens that nothing tells.
    #[error("{}: training divided the loss by label tokens, but how many an example has is not known", source_path.display())]
    UnknownLabelTokens {
        /// The folder or file.
        source_path: PathBuf,
    },
    /// Training data of more stages than the run has.
    #[error("{}: has {}, but training data of {data} are given", source_path.display(), counted(*stages, "stage"))]
    StagesOfData {
        /// The folder or file.
        source_path: PathBuf,
        /// Stages of the run.
        stages: usize,
        /// Data sets.
        data: usize,
    },
    /// Layers in a description that are none of the model's.
    #[error("{}: stage `{stage}`: `{key}` has {}, which {} of the model", source_path.display(), first_few(layers), if layers.len() == 1 { "is no layer" } else { "are no layers" })]
    UnknownLayers {
        /// The folder or file.
        source_path: PathBuf,
        /// The stage's name.
        stage: String,
        /// The entry that has them.
        key: &'static str,
        /// Their names.
        layers: Vec<String>,
        /// Tracked layers whose names are most like the first's.
        nearest: Vec<String>,
    },
    /// A description whose stages train no tracked layer.
    #[error("{}: `trained_layers` has none of the layers that are tracked", source_path.display())]
    NothingTracked {
        /// The folder or file.
        source_path: PathBuf,
    },
    /// Border steps that several stages could mean.
    #[error("{}: has {stages} stages, so the steps at which segments end are not clear", source_path.display())]
    EndsOfWhichStage {
        /// The folder or file.
        source_path: PathBuf,
        /// Stages of the run.
        stages: usize,
    },
    /// `N` contradicts the log.
    #[error(
        "{}: {n_examples} examples in batches of {batch_size} make {expected} steps an epoch, but the log has {logged:.2}{}",
        source_path.display(),
        of_batches(*batches)
    )]
    ExamplesDisagree {
        /// The folder or file.
        source_path: PathBuf,
        /// `N` as stated.
        n_examples: usize,
        /// Examples in an update.
        batch_size: usize,
        /// Steps of an epoch for them.
        expected: usize,
        /// Steps of an epoch in the log.
        logged: f64,
        /// Micro-batches of an epoch for them and in the log, where several make a step.
        batches: Option<(usize, usize)>,
        /// The fewest and the most examples that the log allows.
        fitting: Option<(usize, usize)>,
    },
    /// Data that were read in another way than training treated them.
    #[error("{}: training {what}, but {found}", file.display())]
    Treatment {
        /// The arguments of training.
        file: PathBuf,
        /// What training did.
        what: String,
        /// What was read.
        found: String,
        /// What makes both alike.
        hint: String,
    },
    /// Tokens of the data that are not those that the log counted.
    #[error(
        "{}: {found}",
        file.display(),
    )]
    TokensDisagree {
        /// The file that has the log.
        file: PathBuf,
        /// The two beside each other.
        found: TokenComparison,
        /// What would make them alike, where one token of each example makes the difference.
        remedy: Option<String>,
    },
    /// A logged loss that the assumed loss scale cannot give.
    #[error(
        "{}: the loss never fell below {loss} (step {step}), but a mean over label tokens is at most about {} for {vocabulary} tokens",
        file.display(),
        (100.0 * (*vocabulary as f64).ln()).round() / 100.0
    )]
    LossDisagrees {
        /// The file that has the log.
        file: PathBuf,
        /// The step at which the loss was least.
        step: usize,
        /// The loss there.
        loss: f64,
        /// Tokens of the vocabulary.
        vocabulary: usize,
    },
    /// Mean rates given twice that differ.
    #[error(
        "{}: checkpoint `{checkpoint}` states the mean rate {stated:e}, but its steps have {computed:e}",
        file.display()
    )]
    MeanRate {
        /// The file.
        file: PathBuf,
        /// The checkpoint.
        checkpoint: String,
        /// Its `learning_rate_mean`.
        stated: f64,
        /// The mean of the rates in force.
        computed: f64,
    },
    /// The numbers do not describe a training run.
    #[error("{}: {problem}", source_path.display())]
    Numbers {
        /// The folder or file.
        source_path: PathBuf,
        /// What is wrong.
        problem: TrajectoryError,
    },
}

fn of_batches(batches: Option<(usize, usize)>) -> String {
    batches.map_or(String::new(), |(expected, logged)| {
        format!(" ({expected} batches before they are accumulated, where the log has {logged})")
    })
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

impl Hint for ReadError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "check the path and its permissions".to_string(),
            Self::LoggedRate { .. } => {
                "the file is damaged, or the run went wrong: list the rates in a `trajectory.toml`".to_string()
            }
            Self::LoggedNorm { .. } => {
                "training had diverged there, or the file is damaged; `--clipping ignore` takes the rates as the schedule has them".to_string()
            }
            Self::OptimizerStep { .. } => {
                "it belongs to another checkpoint: put the right one there, or leave it out if its segment has another".to_string()
            }
            Self::NoCheckpoints { is_checkpoint: true, .. } => {
                "this is a checkpoint; give the folder that holds it".to_string()
            }
            Self::NoCheckpoints { .. } => {
                "give the Trainer's output folder, or describe the run in a `trajectory.toml`".to_string()
            }
            Self::MissingFile { .. } => {
                "copy it from the training machine, or describe the run in a `trajectory.toml`".to_string()
            }
            Self::RepeatedStep { .. } => "remove or rename one of them".to_string(),
            Self::StepMismatch { .. } => "give the folder its own number back, or remove it".to_string(),
            Self::Torch(error) => return error.hint(),
            Self::OptimizerState(error) => return error.hint(),
            Self::Model(error) => return error.hint(),
            Self::UnknownOrder { .. } | Self::UnknownTensor { .. } => {
                "second moments are matched by order and shape, and no guess is made: use influence at the final checkpoint".to_string()
            }
            Self::LayerWithoutParameter { .. } | Self::LayerShape { .. } => {
                "all checkpoints of a stage must be of one model".to_string()
            }
            Self::CheckpointsDiffer { .. } => {
                "the run was changed on the way: describe each part as a stage in a `trajectory.toml`, with `run` and `last_step` or `after_step`".to_string()
            }
            Self::UnknownWeights { .. } => {
                "leave `--example-weights` out: it is known of language models in a Trainer's folder whose release of transformers is recorded, whose loss scale is not stated, and whose batches were drawn at random or by length".to_string()
            }
            Self::OtherRun { .. } => {
                "a later run wrote into the folder of an earlier one: move the checkpoints of the one that is not meant elsewhere; if one began with the weights of the other, two `[[stage]]` tables with `run` describe both".to_string()
            }
            Self::PartOfRun { .. } => {
                "`last_step` names a checkpoint, and `after_step` one before it".to_string()
            }
            Self::RateDisagrees { .. } => {
                "the run used another schedule than its arguments say: state it, or list the rates in a `trajectory.toml`".to_string()
            }
            Self::GroupRates { .. } => {
                "describe the run in a `trajectory.toml`, with `layer_rates` for layers whose rates were a multiple of the others'".to_string()
            }
            Self::SplitLayer { .. } => {
                "a layer has one rate here: leave it out of the tracked layers, or state one in a `trajectory.toml` (`layer_rates`)".to_string()
            }
            Self::SameWeights { .. } => "one is a copy of the other: remove it, or put the right weights there".to_string(),
            Self::NothingTrained { .. } => {
                "training changed other parts of the model: track the layers that it changed, if they are linear".to_string()
            }
            Self::RatesUnknown { .. } => {
                "state the schedule, list the rates in a `trajectory.toml`, log every step (`logging_steps=1`), or allow interpolation between logged steps (`--interpolate-rates`)".to_string()
            }
            Self::UnknownExamples { .. } => "state the number of training examples, or give the training data".to_string(),
            Self::UnknownLossScale { .. } => {
                "state it with `--loss-scale`: `mean` over examples, `token-mean` over label tokens, `sum`, or a number".to_string()
            }
            Self::UnknownLabelTokens { .. } => {
                "give the training data, or state 1 / (mean label tokens of an example) with `--loss-scale`".to_string()
            }
            Self::StagesOfData { .. } => "give one data set for each stage, first trained first".to_string(),
            Self::EndsOfWhichStage { .. } => {
                "give each stage its own `segment_ends` in the `trajectory.toml`".to_string()
            }
            Self::ExamplesDisagree { fitting, .. } => {
                let fitting = fitting.map_or(String::new(), |(least, most)| format!(", {least} to {most} examples"));
                format!(
                    "give the whole training set of the run{fitting}; if it was trained on several processes, state how many (`--processes`)"
                )
            }
            Self::Treatment { hint, .. } => hint.clone(),
            Self::TokensDisagree { remedy: Some(remedy), .. } => {
                format!("give the whole training set as training had it: {remedy}")
            }
            Self::TokensDisagree { found, .. } => match found.per_epoch {
                Some(counted) if counted > found.tokens as f64 => {
                    "give the whole training set as training had it: `--add-eos train` or `--add-bos train` adds what the trainer added to each text".to_string()
                }
                _ => "give the training set as training had it: `--max-length` cuts examples, `--pack` joins them".to_string(),
            },
            Self::LossDisagrees { .. } => {
                "state what training divided the loss by with `--loss-scale`: `mean` over examples of their summed losses, `token-mean` if the log is wrong, or a number".to_string()
            }
            Self::UnknownLayers { nearest, .. } => match nearest.as_slice() {
                [] => "no layer of the model is tracked".to_string(),
                [one] => format!("the nearest is `{one}`"),
                names => format!("the nearest are {}", first_few(names)),
            },
            Self::NothingTracked { .. } => {
                "with nothing trained every score is zero: track these layers (`--layers`), or name others".to_string()
            }
            Self::MeanRate { .. } => "remove one of the two, or correct it".to_string(),
            Self::Numbers { problem, .. } => return problem.hint(),
            _ => return None,
        })
    }
}
