//! The method and its options.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::checkpoints::CheckpointScores;
use super::damping::DampingRequest;
use super::fit_examples::FitExamples;
use super::several::Several;
use super::solve::{ITERATIONS, Solve, SolveLayers};
use crate::attribution::Aggregate;
use crate::curvature::{BlockWidth, CurvatureKind, Measurement, Reduction};

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
    /// On how many training examples the curvature is taken; of a training run, of each stage.
    #[serde(skip_serializing_if = "is_default")]
    pub fit_examples: FitExamples,
    /// What is added to every eigenvalue; several are scored in one pass.
    pub damping: Several<DampingRequest>,
    /// Which systems are solved for the queries' vectors.
    #[serde(skip_serializing_if = "is_default")]
    pub solve: Solve,
    /// Products with the Gauss-Newton matrix, of joint solves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solve_iterations: Option<usize>,
    /// On how many training examples these products are taken.
    #[serde(skip_serializing_if = "is_default")]
    pub solve_examples: FitExamples,
    /// Labels drawn for each of these examples for the forms of subspaces; none: as many as their directions ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solve_label_draws: Option<u32>,
    /// Queries that are solved for together; none: as many as memory allows. Those of one block share a space, so the
    /// number changes what a few products reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solve_block: Option<usize>,
    /// Whether products with the Gauss-Newton matrix solve for all tracked layers together.
    #[serde(skip_serializing_if = "is_default")]
    pub solve_layers: SolveLayers,
    /// Scale of K-FAC's eigenvalues.
    pub kfac_scale: KfacScale,
    /// Widest block of an eigenbasis; wider covariances are cut into blocks. None: nothing is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eigen_block_width: Option<usize>,
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
    /// The field of the queries that says what each counts in their sum or mean; none: all count alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_weights: Option<String>,
    /// Rank of the queries' vectors; none: they are kept whole, and scores are exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_rank: Option<usize>,
    /// Gradient cosine instead of scores; needs `identity` curvature.
    pub normalize: Normalize,
    /// How each checkpoint's scores enter the mean, where influence is averaged over checkpoints.
    pub checkpoint_scores: CheckpointScores,
    /// Self-influence of every training example beside the scores.
    pub self_influence: bool,
    /// Another run folder, whose curvature is used instead of one fitted on these training examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factors: Option<PathBuf>,
}

impl Default for MethodRequest {
    fn default() -> Self {
        Self {
            curvature: Curvature::Ekfac,
            fisher: Fisher::True,
            label_draws: 1,
            fit_examples: FitExamples::All,
            damping: Several::default(),
            solve: Solve::Auto,
            solve_iterations: None,
            solve_examples: FitExamples::All,
            solve_label_draws: None,
            solve_block: None,
            solve_layers: SolveLayers::Together,
            kfac_scale: KfacScale::PerExample,
            eigen_block_width: None,
            seed: 0,
            measure: None,
            reduction: ReductionRequest::Sum,
            aggregate: AggregateRequest::Each,
            query_weights: None,
            query_rank: None,
            normalize: Normalize::None,
            checkpoint_scores: CheckpointScores::Plain,
            self_influence: false,
            factors: None,
        }
    }
}

/// Whether a job file can leave the value out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl MethodRequest {
    /// Products with the Gauss-Newton matrix; 0 if every layer is solved by itself.
    pub fn products(&self) -> usize {
        match self.solve {
            Solve::Auto | Solve::Ekfac | Solve::Subspace | Solve::MFac => 0,
            Solve::GaussNewton => self.solve_iterations.unwrap_or(ITERATIONS),
        }
    }

    /// The seed of the labels that intervals take beside those of the curvature.
    pub(in crate::job) fn next_seed(&self) -> u64 {
        self.seed.wrapping_add(1)
    }

    /// How wide a block of an eigenbasis may be.
    pub(in crate::job) fn block_width(&self) -> BlockWidth {
        self.eigen_block_width.and_then(NonZeroUsize::new).map_or(BlockWidth::Any, BlockWidth::AtMost)
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
    /// Kronecker factors whose trace is that of the curvature.
    Tkfac,
    /// Kronecker factors of gradients of whole examples.
    Shampoo,
    /// The eigenbasis of Shampoo's factors, with corrected eigenvalues.
    Soap,
    /// The root of Adam's second moments, out of the checkpoint's optimizer state.
    Adam,
}

impl Curvature {
    /// The kind's name, as job files and files of scores have it.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Diagonal => "diagonal",
            Self::Kfac => "kfac",
            Self::Ekfac => "ekfac",
            Self::Tkfac => "tkfac",
            Self::Shampoo => "shampoo",
            Self::Soap => "soap",
            Self::Adam => "adam",
        }
    }
}

impl From<Curvature> for CurvatureKind {
    fn from(curvature: Curvature) -> Self {
        match curvature {
            Curvature::Identity => Self::Identity,
            Curvature::Diagonal => Self::Diagonal,
            Curvature::Kfac => Self::Kfac,
            Curvature::Ekfac => Self::Ekfac,
            Curvature::Tkfac => Self::Tkfac,
            Curvature::Shampoo => Self::Shampoo,
            Curvature::Soap => Self::Soap,
            Curvature::Adam => Self::Adam,
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

/// Scale of K-FAC's eigenvalues (`docs/method.md`, Curvature).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KfacScale {
    /// Eigenvalues are multiplied by the mean number of positions, which makes them comparable with EK-FAC's.
    PerExample,
    /// Eigenvalues are left as kronfluence has them.
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
    /// Probability of the right label, summed over targets.
    Probability,
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
            Measure::Probability => Self::Probability,
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

impl ReductionRequest {
    /// The reduction's name, as job files and files of scores have it.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
        }
    }
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

impl From<AggregateRequest> for Aggregate<'static> {
    fn from(aggregate: AggregateRequest) -> Self {
        match aggregate {
            AggregateRequest::Each => Self::Each,
            AggregateRequest::Sum => Self::Sum,
            AggregateRequest::Mean => Self::Mean,
        }
    }
}

/// What finished scores are divided by (`docs/method.md`, Score).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// Nothing.
    None,
    /// The norms of both sides: with `identity` curvature, the cosine of gradients.
    Cosine,
}

impl Normalize {
    /// The normalisation's name, as job files and files of scores have it.
    pub(in crate::job) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cosine => "cosine",
        }
    }
}
