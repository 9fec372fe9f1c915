//! What a person asks for: every choice of a run, as flags give it and as `job.toml` writes it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::attribution::Aggregate;
use crate::curvature::{CurvatureKind, Damping, Measurement, Reduction};
use crate::data::Which;

/// A whole run. `None` means "the default for this model"; [`super::Plan`] has every choice resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The checkpoint and what of it is tracked.
    pub model: ModelRequest,
    /// Training examples and queries.
    pub data: DataRequest,
    /// The method and its options.
    #[serde(default)]
    pub method: MethodRequest,
    /// What the run may use.
    #[serde(default)]
    pub resources: ResourceRequest,
    /// Where results go, and which.
    pub output: OutputRequest,
}

/// The checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRequest {
    /// Its folder.
    pub path: PathBuf,
    /// Glob patterns over layer names; none: every linear layer inside the blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Glob patterns over layer names that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip_layers: Vec<String>,
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
}

/// Training examples and queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRequest {
    /// Training examples.
    pub train: PathBuf,
    /// Queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<PathBuf>,
    /// A tokenizer's file or folder; none: the model's folder or its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Longer examples are cut to this many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Training documents are joined and cut into blocks of this many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<usize>,
    /// Where a begin-of-sequence token is put in front.
    #[serde(default)]
    pub add_bos: Side,
    /// Where an end-of-sequence token is put behind.
    #[serde(default)]
    pub add_eos: Side,
    /// Examples that the training objective averaged over; none: as many as `train` holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_size: Option<usize>,
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
}

impl From<Side> for Which {
    fn from(side: Side) -> Self {
        match side {
            Side::None => Self::None,
            Side::Train => Self::Train,
            Side::Queries => Self::Queries,
            Side::Both => Self::Both,
        }
    }
}

/// The method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MethodRequest {
    /// How curvature is approximated.
    pub curvature: Curvature,
    /// Whose labels the curvature is taken with.
    pub fisher: Fisher,
    /// Labels drawn for each position and pass, averaged.
    pub label_draws: u32,
    /// What is added to every eigenvalue.
    pub damping: DampingRequest,
    /// Scale of K-FAC's eigenvalues.
    pub kfac_scale: KfacScale,
    /// For random labels.
    pub seed: u64,
    /// What is measured at a query; none: the loss of a language model, the margin of a classifier, the
    /// prediction of a regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    /// Sum over a query's label positions, or mean.
    pub reduction: ReductionRequest,
    /// Queries one by one, or as one.
    pub aggregate: AggregateRequest,
    /// Gradient cosine instead of scores; needs `identity` curvature.
    pub normalize: Normalize,
    /// Self-influence of every training example beside the scores.
    pub self_influence: bool,
}

impl Default for MethodRequest {
    fn default() -> Self {
        Self {
            curvature: Curvature::Ekfac,
            fisher: Fisher::True,
            label_draws: 1,
            damping: DampingRequest::default(),
            kfac_scale: KfacScale::PerExample,
            seed: 0,
            measure: None,
            reduction: ReductionRequest::Sum,
            aggregate: AggregateRequest::Each,
            normalize: Normalize::None,
            self_influence: false,
        }
    }
}

/// How curvature is approximated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Curvature {
    /// None: scores are gradient dot products.
    Identity,
    /// The Fisher's diagonal.
    Diagonal,
    /// Kronecker factors.
    Kfac,
    /// Kronecker eigenbasis with corrected eigenvalues.
    Ekfac,
}

impl From<Curvature> for CurvatureKind {
    fn from(curvature: Curvature) -> Self {
        match curvature {
            Curvature::Identity => Self::Identity,
            Curvature::Diagonal => Self::Diagonal,
            Curvature::Kfac => Self::Kfac,
            Curvature::Ekfac => Self::Ekfac,
        }
    }
}

/// Whose labels the curvature is taken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fisher {
    /// Labels drawn from the model.
    True,
    /// The labels of the data.
    Empirical,
}

/// Scale of K-FAC's eigenvalues (METHOD §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KfacScale {
    /// Times the mean number of positions: comparable with EK-FAC.
    PerExample,
    /// As kronfluence has it.
    PerPosition,
}

/// What is measured at a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// The loss.
    Loss,
    /// Log-probability of the targets.
    Logprob,
    /// Log-odds of the right label.
    Margin,
    /// The predicted value of a regression.
    Prediction,
}

impl From<Measure> for Measurement {
    fn from(measure: Measure) -> Self {
        match measure {
            Measure::Loss => Self::Loss,
            Measure::Logprob => Self::LogProbability,
            Measure::Margin => Self::Margin,
            Measure::Prediction => Self::Prediction,
        }
    }
}

/// How a measurement is taken over positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReductionRequest {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
}

impl From<ReductionRequest> for Reduction {
    fn from(reduction: ReductionRequest) -> Self {
        match reduction {
            ReductionRequest::Sum => Self::Sum,
            ReductionRequest::Mean => Self::Mean,
        }
    }
}

/// Whether queries are scored one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AggregateRequest {
    /// One by one.
    Each,
    /// The sum of all.
    Sum,
    /// The mean of all.
    Mean,
}

impl From<AggregateRequest> for Aggregate {
    fn from(aggregate: AggregateRequest) -> Self {
        match aggregate {
            AggregateRequest::Each => Self::Each,
            AggregateRequest::Sum => Self::Sum,
            AggregateRequest::Mean => Self::Mean,
        }
    }
}

/// What finished scores are divided by (METHOD §3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// Nothing.
    None,
    /// The norms of both sides: with `identity` curvature, the cosine of gradients.
    Cosine,
}

/// `auto`, a number (absolute), or a number with `x` (times the layer's mean eigenvalue).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DampingRequest(pub Damping);

impl From<DampingRequest> for String {
    fn from(request: DampingRequest) -> Self {
        match request.0 {
            Damping::Absolute(x) => format!("{x:e}"),
            Damping::MeanFraction(x) => format!("{x}x"),
        }
    }
}

impl TryFrom<String> for DampingRequest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for DampingRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
        let damping = match text.strip_suffix('x') {
            _ if text == "auto" => Some(Damping::default()),
            Some(fraction) => number(fraction).map(Damping::MeanFraction),
            None => number(text).map(Damping::Absolute),
        };
        damping.map(Self).ok_or_else(|| {
            format!("`{text}` is not a damping: write `auto` (0.1x), a positive number such as `1e-8` (absolute), or `0.1x` (times each layer's mean eigenvalue)")
        })
    }
}

/// What the run may use.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceRequest {
    /// Threads; none: as many as the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Bytes; none: two thirds of what is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Positions that go through the model together; none: by memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
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
    /// `ranking.csv` beside `ranking.jsonl`.
    #[serde(default)]
    pub csv: bool,
    /// Unit of the scores.
    #[serde(default)]
    pub scale: ScoreScale,
}

fn ten() -> usize {
    10
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

/// Unit of the scores (METHOD §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreScale {
    /// Change of the measurement for one more copy of the example: `1/N` is in.
    #[default]
    PerExample,
    /// Without `1/N`, as kronfluence prints influence on a loss.
    Kronfluence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dampings_are_written_in_three_ways() {
        let parse = |text: &str| text.parse::<DampingRequest>().map(|request| request.0);
        assert_eq!(parse("auto"), Ok(Damping::MeanFraction(0.1)));
        assert_eq!(parse("0.25x"), Ok(Damping::MeanFraction(0.25)));
        assert_eq!(parse("1e-8"), Ok(Damping::Absolute(1e-8)));
        for bad in ["", "x", "-1", "nan", "infx", "0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let back: String = DampingRequest(Damping::Absolute(1e-8)).into();
        assert_eq!(parse(&back), Ok(Damping::Absolute(1e-8)));
    }

    #[test]
    fn unknown_keys_are_named() {
        let text = "[model]\npath = 'm'\n[data]\ntrain = 't'\n[output]\npath = 'r'\ntopp = 3\n";
        let error = toml::from_str::<Job>(text).expect_err("a misspelt key").to_string();
        assert!(error.contains("topp") && error.contains("line 7"), "{error}");
    }
}
