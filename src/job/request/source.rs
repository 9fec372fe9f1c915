//! Source: what is asked for beside the training run itself.

use serde::{Deserialize, Serialize};

use super::several::Several;
use crate::attribution::source::SourceForm;
use crate::trajectory::TrajectoryRequest;

/// Source over a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRequest {
    /// What a segment's checkpoints are averaged in.
    #[serde(default)]
    pub average: Average,
    /// How a segment's steps are put together.
    #[serde(default)]
    pub form: FormRequest,
    /// How Adam's preconditioner enters.
    #[serde(default)]
    pub adam: AdamRequest,
    /// Multiplies every learning rate; several are scored in one pass.
    #[serde(default = "as_it_was")]
    pub time_scale: Several<f64>,
    /// Methods that are scored beside Source, in the same passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<Beside>,
    /// What self-influence means, if it is asked for.
    #[serde(default)]
    pub self_influence: SelfInfluenceForm,
    /// Scores of each stage apart, beside their sum.
    #[serde(default)]
    pub by_stage: bool,
    /// Scores of each segment apart, beside their sum.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_segment: bool,
    /// The training run.
    pub trajectory: TrajectoryRequest,
}

fn as_it_was() -> Several<f64> {
    Several(vec![1.0])
}

impl SourceRequest {
    /// Source over this training run with every default.
    pub fn new(trajectory: TrajectoryRequest) -> Self {
        Self {
            average: Average::default(),
            form: FormRequest::default(),
            adam: AdamRequest::default(),
            time_scale: as_it_was(),
            with: vec![],
            self_influence: SelfInfluenceForm::default(),
            by_stage: false,
            by_segment: false,
            trajectory,
        }
    }
}

/// What a segment's checkpoints are averaged in.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// Covariances, Λ and scores of every checkpoint.
    #[default]
    Factors,
    /// The parameters, once: FAST-Source.
    Parameters,
}

/// How a segment's steps are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormRequest {
    /// The exponential of their sum.
    #[default]
    Exponential,
    /// Their product.
    Product,
    /// Their product, parameters and momentum buffer as a pair.
    Momentum,
}

impl From<FormRequest> for SourceForm {
    fn from(form: FormRequest) -> Self {
        match form {
            FormRequest::Exponential => Self::Exponential,
            FormRequest::Product => Self::Product,
            FormRequest::Momentum => Self::Momentum,
        }
    }
}

/// How Adam's preconditioner enters.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdamRequest {
    /// Conditioned EK-FAC with each parameter's second moment.
    #[default]
    Conditioned,
    /// One number for each layer.
    Scalar,
}

/// A method scored beside Source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beside {
    /// Influence functions at the final checkpoint, with every damping asked for.
    Influence,
    /// Influence functions averaged over the checkpoints of the last stage, with every damping asked for.
    #[serde(rename = "influence-mean")]
    InfluenceMean,
    /// TracIn over all checkpoints.
    Tracin,
    /// The gradient dot product at the final checkpoint.
    Gradients,
}

/// What self-influence means for Source.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelfInfluenceForm {
    /// The example's own loss at the final parameters is the query.
    #[default]
    Walk,
    /// Each segment's own gradients, without a walk: never negative, cheaper, for ranking alone.
    Local,
}
