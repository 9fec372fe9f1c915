//! What a person asks for: every choice of a run, as flags give it and as `job.toml` writes it.

mod candidates;
mod checkpoints;
mod damping;
mod device;
mod duplicates;
mod file;
mod fit_examples;
mod hub;
mod method;
mod rank_by;
mod several;
mod solve;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::candidates::{CandidatesRequest, WordFilter};
pub use self::checkpoints::{CheckpointScores, CheckpointsRequest, MeanWeights};
pub use self::damping::DampingRequest;
pub use self::device::DeviceRequest;
pub use self::duplicates::{DuplicateScores, DuplicatesRequest};
pub use self::fit_examples::FitExamples;
pub(in crate::job) use self::fit_examples::POSITIONS_PER_ROW;
pub use self::method::*;
pub use self::rank_by::RankBy;
pub use self::several::Several;
pub(in crate::job) use self::solve::{SAMPLE_SHARE, SPANNING};
pub use self::solve::{Solve, SolveLayers};
pub use self::source::*;
use crate::data::{Columns, FromTokenizer, InConversations, LossOn, Which};
use crate::hub::Pin;
use crate::model::{AdapterMode, AlsoTracked};

/// A whole run. `None` means "the default for this model"; [`super::Plan`] has every choice resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The checkpoint and what of it is tracked.
    #[serde(default)]
    pub model: ModelRequest,
    /// Training examples and queries.
    pub data: DataRequest,
    /// The method and its options.
    #[serde(default)]
    pub method: MethodRequest,
    /// Influence functions averaged over several checkpoints; none: influence at `model`, or Source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointsRequest>,
    /// Source over a training run; none: influence functions at one checkpoint, or averaged over `checkpoints`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceRequest>,
    /// What the run may use.
    #[serde(default)]
    pub resources: ResourceRequest,
    /// Where results go, and which.
    pub output: OutputRequest,
    /// The commits that names of the hub among the paths are, by name: a job that is run again is held to them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hub: BTreeMap<String, Pin>,
    /// The names of the hub that were asked for, by what was fetched.
    #[serde(skip)]
    names: BTreeMap<PathBuf, String>,
}

impl Job {
    /// Influence functions at a checkpoint, with every default and no queries yet.
    pub fn new(model: impl Into<PathBuf>, train: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self {
            model: ModelRequest { path: model.into(), ..ModelRequest::default() },
            data: DataRequest { train: train.into(), ..DataRequest::default() },
            method: MethodRequest::default(),
            checkpoints: None,
            source: None,
            resources: ResourceRequest::default(),
            output: OutputRequest {
                path: run.into(),
                top: ten(),
                store_scores: StoreScores::default(),
                rank_by: RankBy::Score,
                csv: false,
                group_by: None,
                duplicates: DuplicatesRequest::Off,
                duplicate_scores: DuplicateScores::Each,
                scale: ScoreScale::default(),
                layer_sets: BTreeMap::new(),
                split_layers: vec![],
                tokens: TokensRequest::None,
                intervals: IntervalsRequest::None,
                interval_scores: IntervalScores::Auto,
                candidates: None,
                candidate_control: None,
            },
            hub: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }
}

impl Job {
    /// Whether curvatures are also taken on two halves of the training examples, for intervals. Joint systems are known
    /// from draws of labels instead, and have halves of these.
    pub(in crate::job) fn takes_halves(&self) -> bool {
        self.output.intervals.has_halves() && !self.method.solve.is_joint()
    }
}

/// The checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRequest {
    /// Its folder. Of a training run, or of several checkpoints, it is the last one's, and left out.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub path: PathBuf,
    /// The base's folder, if the checkpoint is an adapter; none: the folder that the adapter's settings name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Another checkpoint of the model, such as the one that training began from, at which queries are measured too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<PathBuf>,
    /// Which layers of an adapter and its base are tracked; none: the adapter's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterMode>,
    /// Glob patterns over layer names; none: every linear layer inside the blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Glob patterns over layer names that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip_layers: Vec<String>,
    /// Parameters outside these layers that are tracked beside them; none of them unless they are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub track: Vec<AlsoTracked>,
    /// Type of the arithmetic.
    #[serde(default)]
    pub dtype: Precision,
}

/// Type of the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits, sums over batches in 64.
    #[default]
    F32,
    /// 64 bits throughout: slow, for checks.
    F64,
    /// As [`Precision::F32`], but the products of linear layers, covariances and gradients round their inputs to bf16.
    Bf16,
}

impl Precision {
    /// The precision's name in flags and files.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a number in memory and on disk.
    pub(in crate::job) fn bytes(self) -> u64 {
        match self {
            Self::F32 | Self::Bf16 => 4,
            Self::F64 => 8,
        }
    }
}

/// Training examples and queries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRequest {
    /// Training examples: a file, or several as a pattern. Of a training run with several stages each has its own, and this is left out.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub train: PathBuf,
    /// Training examples of each stage, by the stage's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stages: BTreeMap<String, PathBuf>,
    /// Queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<PathBuf>,
    /// The evaluation set of training, read as the training examples of the last stage are, whose loss is compared with
    /// the log of a training run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<PathBuf>,
    /// The name that the evaluation set had in training, where the log has losses of several: `eval_NAME_loss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_name: Option<String>,
    /// A tokenizer's file or folder; none: the model's folder or its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Longer examples are cut to this many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Longer examples keep their last tokens and not their first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_end: bool,
    /// Longer training examples are divided into pieces of that many tokens, each an example of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub split_long: bool,
    /// Training documents are joined and cut into blocks of this many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<usize>,
    /// Packing begins anew after every so many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack_rows: Option<usize>,
    /// Processes that packed, each a share of the rows; none: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack_processes: Option<usize>,
    /// What fills no block, at the end and where packing begins anew, is a shorter block and not left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pack_keeps_rest: bool,
    /// The field that names an example, or `line` for the line's number; none: `id`, else the line's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_field: Option<String>,
    /// The column of texts; none: `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    /// The column of prompts; none: `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_field: Option<String>,
    /// The column of completions; none: `completion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_field: Option<String>,
    /// The column of labels of texts; none: `label`, or `labels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_field: Option<String>,
    /// The column of images; none: `image`, or `file_name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_field: Option<String>,
    /// The file, or its folder, that says what becomes of images; none: that of the model's folder or its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_processor: Option<PathBuf>,
    /// The chat template's file; none: that of the tokenizer's folder, or of the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// The day that a chat template is told, as `2024-07-26`; none: today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_date: Option<String>,
    /// What an answer begins with, where TRL's `DataCollatorForCompletionOnlyLM` left all else out of the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_template: Option<String>,
    /// What a question begins with, which that collator was told too where texts have several answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction_template: Option<String>,
    /// Which tokens of conversations are targets; none: all of `messages`, and completions where there are prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<LossTokens>,
    /// What becomes of special tokens that the tokenizer adds by itself; none: they are added, and a text that has
    /// one at that place already is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special_tokens: Option<SpecialTokens>,
    /// Whether training examples are tokenized as TRL's SFTTrainer does it, which its arguments say and no job.
    #[serde(skip)]
    pub as_trl: bool,
    /// What the tokenizer adds to training examples where the job does not say it, and to conversations, which those
    /// arguments say too.
    #[serde(skip)]
    pub recorded_specials: Option<RecordedSpecials>,
    /// Where the trainer took its chat template from, as those arguments name it.
    #[serde(skip)]
    pub recorded_template: Option<String>,
    /// Whether what the assistant says in prompts is a target of training examples too, which those arguments say.
    #[serde(skip)]
    pub assistant_in_prompts: bool,
    /// Where a begin-of-sequence token is put in front.
    #[serde(default)]
    pub add_bos: Side,
    /// Where an end-of-sequence token is put behind.
    #[serde(default)]
    pub add_eos: Side,
    /// The text of that token; none: the one that the tokenizer's files name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_token: Option<String>,
    /// Examples that the training objective averaged over; none: as many as `train` holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_size: Option<usize>,
    /// Whether the loss of training examples is left uncompared with the log of a training run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_loss_check: bool,
}

impl DataRequest {
    /// The columns that hold examples, as far as they have other names than the usual ones.
    pub fn columns(&self) -> Columns {
        Columns {
            text: self.text_field.clone(),
            prompt: self.prompt_field.clone(),
            completion: self.completion_field.clone(),
            label: self.label_field.clone(),
            image: self.image_field.clone(),
        }
    }
}

/// What a trainer's arguments say of special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedSpecials {
    /// What becomes of the tokenizer's own in texts.
    pub from_tokenizer: FromTokenizer,
    /// What conversations get.
    pub conversations: InConversations,
    /// Whether those that are asked for are put where a text does not have them.
    pub only_where_missing: bool,
    /// Whether no occurrence of the padding is a target.
    pub padding_without_loss: bool,
}

/// To which files a special token is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Neither.
    #[default]
    None,
    /// The training examples.
    Train,
    /// The queries.
    Queries,
    /// Training examples and queries.
    Both,
    /// The training examples, where no occurrence of the token is a target.
    #[serde(rename = "train:input")]
    TrainInput,
    /// The queries, where no occurrence of the token is a target.
    #[serde(rename = "queries:input")]
    QueriesInput,
    /// Training examples and queries, where no occurrence of the token is a target.
    #[serde(rename = "both:input")]
    BothInput,
}

impl Side {
    /// Whether training examples get the token, as a target or not.
    pub(in crate::job) fn has_train(self) -> bool {
        matches!(self, Self::Train | Self::Both | Self::TrainInput | Self::BothInput)
    }
}

impl From<Side> for Which {
    fn from(side: Side) -> Self {
        match side {
            Side::None => Self::None,
            Side::Train => Self::Train,
            Side::Queries => Self::Queries,
            Side::Both => Self::Both,
            Side::TrainInput => Self::TrainInput,
            Side::QueriesInput => Self::QueriesInput,
            Side::BothInput => Self::BothInput,
        }
    }
}

/// What becomes of special tokens that the tokenizer adds by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokens {
    /// They are added, also to texts that have them already.
    Keep,
    /// They are not added.
    None,
    /// They are added, and those that are asked for beside them are put where a text does not have them already.
    Missing,
}

impl From<SpecialTokens> for FromTokenizer {
    fn from(choice: SpecialTokens) -> Self {
        match choice {
            SpecialTokens::Keep => Self::Keep,
            SpecialTokens::None => Self::None,
            SpecialTokens::Missing => Self::Once,
        }
    }
}

/// Which tokens of conversations are targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossTokens {
    /// Every token, of prompts too.
    All,
    /// What the assistant says.
    Assistant,
    /// The last turn.
    Last,
    /// Completions where there are prompts, and every token elsewhere: what is taken where nothing is chosen and no
    /// trainer recorded another choice.
    Completion,
}

impl LossTokens {
    /// The choice as data are read with it; `None` for the one that is taken where there is none.
    pub(in crate::job) fn chosen(self) -> Option<LossOn> {
        match self {
            Self::All => Some(LossOn::All),
            Self::Assistant => Some(LossOn::Assistant),
            Self::Last => Some(LossOn::Last),
            Self::Completion => None,
        }
    }
}

/// What the run may use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceRequest {
    /// Threads; none: as many as the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Bytes; none: 80 % of the machine's, or of its control group's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Bytes that the run folder may have; none: what the file system has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Positions that go through the model together; none: by memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Where the network runs.
    #[serde(skip_serializing_if = "DeviceRequest::is_cpu")]
    pub device: DeviceRequest,
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputRequest {
    /// The run folder.
    pub path: PathBuf,
    /// Proponents and opponents listed for each query.
    #[serde(default = "ten")]
    pub top: usize,
    /// The full matrix, or the best of it.
    #[serde(default)]
    pub store_scores: StoreScores,
    /// By which number the training examples of a ranking are listed.
    #[serde(default, skip_serializing_if = "RankBy::is_score")]
    pub rank_by: RankBy,
    /// `ranking.csv` beside `ranking.jsonl`.
    #[serde(default)]
    pub csv: bool,
    /// Scores are also added up over the training examples with one value of this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// Which training examples are one entry of a ranking, as copies of one another.
    #[serde(default, skip_serializing_if = "DuplicatesRequest::is_off")]
    pub duplicates: DuplicatesRequest,
    /// By which score copies are ranked.
    #[serde(default, skip_serializing_if = "DuplicateScores::is_each")]
    pub duplicate_scores: DuplicateScores,
    /// Over which tokens the scores of the examples that are listed are also divided.
    #[serde(default, skip_serializing_if = "TokensRequest::is_none")]
    pub tokens: TokensRequest,
    /// What says how sure rankings are.
    #[serde(default, skip_serializing_if = "IntervalsRequest::is_none")]
    pub intervals: IntervalsRequest,
    /// Which training examples are scored in the variants of `intervals`.
    #[serde(default, skip_serializing_if = "IntervalScores::is_auto")]
    pub interval_scores: IntervalScores,
    /// Which training examples are scored; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<CandidatesRequest>,
    /// Further examples that are scored beside `candidates`, drawn at random from all others; none: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate_control: Option<usize>,
    /// Unit of the scores.
    #[serde(default)]
    pub scale: ScoreScale,
    /// Sets of tracked layers by name, each as glob patterns over layer names: every answer is also summed over the
    /// layers of each set alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layer_sets: BTreeMap<String, Several<String>>,
    /// Sets that the names of the tracked layers give, beside those above; none if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split_layers: Vec<LayerSplit>,
}

/// How the names of layers divide them into sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerSplit {
    /// Every layer is a set.
    Each,
    /// The layers of one block of the network: names that are the same up to their first number.
    Block,
    /// The layers at the same place of all blocks: names that are the same but for their numbers.
    Module,
    /// The rows and columns of each attention head.
    Head,
}

impl LayerSplit {
    /// Its name, as flags and job files have it.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Block => "block",
            Self::Module => "module",
            Self::Head => "head",
        }
    }
}

fn ten() -> usize {
    10
}

/// Over which tokens scores are also divided: those of the proponents and opponents of every query, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokensRequest {
    /// None.
    #[default]
    None,
    /// Scores are divided over the tokens of the listed training examples.
    Ranked,
    /// The targets of the query.
    Query,
    /// Both: a matrix of the query's targets and the training example's tokens.
    Matrix,
    /// Scores of every training example for every query are divided over the example's tokens.
    All,
}

impl TokensRequest {
    fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Whether scores are divided over the tokens of training examples.
    pub(in crate::job) fn divides_examples(self) -> bool {
        matches!(self, Self::Ranked | Self::Matrix | Self::All)
    }

    /// Whether scores are divided over the targets of queries.
    pub(in crate::job) fn divides_queries(self) -> bool {
        matches!(self, Self::Query | Self::Matrix)
    }

    /// The request's name in flags and files.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ranked => "ranked",
            Self::Query => "query",
            Self::Matrix => "matrix",
            Self::All => "all",
        }
    }
}

/// Which variants of the scores say how sure rankings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalsRequest {
    /// None.
    #[default]
    None,
    /// Intervals over variants that need no further pass over the training examples: smaller and larger damping, and
    /// halves of the checkpoints where there are several.
    Damping,
    /// Also curvatures that are taken on halves of the training examples.
    All,
    /// Also a curvature of all training examples with the labels that the next seed draws.
    Labels,
}

impl IntervalsRequest {
    /// Whether curvatures of halves of the training examples, or joint systems of halves of the draws, are variants.
    pub(in crate::job) fn has_halves(self) -> bool {
        matches!(self, Self::All | Self::Labels)
    }

    /// The request's name in flags and files.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Damping => "damping",
            Self::All => "all",
            Self::Labels => "labels",
        }
    }

    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Which training examples are scored in the variants that intervals are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalScores {
    /// Whichever of the others takes fewer operations.
    #[default]
    Auto,
    /// Variants score all examples, in the passes of the scores.
    All,
    /// Variants score, for each query, the examples that may be listed, and a random sample of the others, in a pass over
    /// these examples alone.
    Strongest,
}

impl IntervalScores {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// What of the scores is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreScores {
    /// Queries times training examples.
    #[default]
    Full,
    /// Each query's best and worst alone.
    Top,
}

/// Unit of the scores (`docs/method.md`, Score).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreScale {
    /// Change of the measurement for one more copy of the example: `1/N` is in.
    #[default]
    PerExample,
    /// Without `1/N`, as kronfluence prints influence on a loss.
    Kronfluence,
}

fn is_empty(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_named() {
        let text = "[model]\npath = 'm'\n[data]\ntrain = 't'\n[output]\npath = 'r'\ntopp = 3\n";
        let error = toml::from_str::<Job>(text).expect_err("a misspelt key").to_string();
        assert!(error.contains("topp") && error.contains("line 7"), "{error}");
    }
}
