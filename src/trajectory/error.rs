use std::path::PathBuf;

use ascribe_attribution::trajectory::TrajectoryError;

use super::optimizer_state::OptimizerStateError;
use super::torch_zip::TorchFileError;
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
        "{}: {n_examples} examples in batches of {batch_size} make {expected} steps an epoch, but the log has {logged:.2}",
        source_path.display()
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

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

impl ReadError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "check the path and its permissions".to_string(),
            Self::LoggedRate { .. } => {
                "the file is damaged, or the run went wrong: list the rates in a `trajectory.toml`".to_string()
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
                "the run was changed on the way: describe each part as a stage in a `trajectory.toml`".to_string()
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
            Self::ExamplesDisagree { .. } => {
                "give the whole training set of the run; if it was trained on several processes, state how many (`--processes`)".to_string()
            }
            Self::MeanRate { .. } => "remove one of the two, or correct it".to_string(),
            Self::Numbers { problem, .. } => return problem.hint(),
            _ => return None,
        })
    }
}
