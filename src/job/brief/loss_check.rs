//! What the check of the training data against the training log found.

use serde::{Deserialize, Serialize};

/// The loss of training examples at checkpoints beside the training log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LossCheck {
    /// The checkpoints that were compared, first trained first.
    pub checkpoints: Vec<CheckpointLoss>,
    /// The loss on the evaluation set, if one was given, at the checkpoints where the log has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluations: Vec<EvaluationLoss>,
    /// The tokens of the examples beside those that the log counted, of each stage where it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenCount>,
    /// What the data would have to be for the log to agree, tried on the sample; empty where it agrees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Why the data are probably not what training saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why something was not compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The loss at one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointLoss {
    /// Its name.
    pub checkpoint: String,
    /// Updates done.
    pub step: usize,
    /// The mean loss of a target over the sample.
    pub loss: f64,
    /// Examples of the sample.
    pub examples: usize,
    /// Their targets.
    pub targets: usize,
    /// Between which numbers the log has the loss around the step.
    pub logged: [f64; 2],
    /// What noise of batches and of the sample may add on either side.
    pub tolerance: f64,
    /// Whether the log's means divide by the labels of first tokens too, which nothing predicts; then `loss` does so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_labels: bool,
    /// Whether the loss lies between the two with that tolerance.
    pub agrees: bool,
}

/// The loss on an evaluation set at one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationLoss {
    /// The name that the set has in the log, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its name.
    pub checkpoint: String,
    /// Updates done.
    pub step: usize,
    /// The mean over batches of each one's mean loss, as a Trainer takes it.
    pub loss: f64,
    /// Examples of the set.
    pub examples: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// The loss that was logged.
    pub logged: f64,
    /// Whether that divides by the labels of first tokens too, which nothing predicts; then `loss` does so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_labels: bool,
    /// Whether the two have three digits in common.
    pub agrees: bool,
}

/// The tokens of a stage's examples beside those that its log counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenCount {
    /// The stage, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The updates after which they were compared.
    pub step: usize,
    /// The epochs then.
    pub epoch: f64,
    /// Tokens that the log had counted.
    pub counted: f64,
    /// Whether those of padding are among them, so that the count is a bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_padding: bool,
    /// Tokens of the examples, once each.
    pub tokens: usize,
    /// Whether an epoch of the examples can have been counted so.
    pub agrees: bool,
}

impl TokenCount {
    /// The comparison as a sentence.
    pub fn sentence(&self) -> String {
        let Self { stage, step, epoch, counted, with_padding, tokens, agrees } = self;
        let of = stage.as_ref().map_or_else(String::new, |stage| format!(" of `{stage}`"));
        let padding = if *with_padding { " with those of padding" } else { "" };
        let epochs = if *epoch == 1.0 { "1 epoch".to_owned() } else { format!("{epoch} epochs") };
        let verdict = match (agrees, with_padding) {
            (true, false) => "as the log has counted",
            (true, true) => "as the log may have counted",
            (false, _) => "CONTRADICTED by the log, which has counted",
        };
        format!(
            "{tokens} tokens of the training examples{of} in an epoch, {verdict}: {counted}{padding} at step {step}, after {epochs}"
        )
    }
}

impl EvaluationLoss {
    /// The comparison as a sentence.
    pub fn sentence(&self) -> String {
        let Self { name, checkpoint, step, loss, examples, batch, logged, agrees, first_labels } = self;
        let of = name.as_ref().map_or_else(String::new, |name| format!(" of `{name}`"));
        let verdict = verdict(*agrees, *first_labels);
        format!(
            "{checkpoint}: loss {loss:.3} of {examples} evaluation examples{of} in batches of {batch}, the log has {logged:.3} at step {step}: {verdict}"
        )
    }
}

/// Another way to read the data, and the loss that they would have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// What would be different, as `with labels at end tokens ignored`.
    pub what: String,
    /// The checkpoint at which `loss` was computed.
    pub checkpoint: String,
    /// The loss then.
    pub loss: f64,
    /// Whether it agrees with the log wherever it was tried.
    pub agrees: bool,
}

/// Whether losses agree, and over what they were divided for it.
fn verdict(agrees: bool, first_labels: bool) -> &'static str {
    match (agrees, first_labels) {
        (true, false) => "agrees",
        (true, true) => "agrees, both divided by the labels of first tokens too",
        (false, _) => "DISAGREES",
    }
}

impl CheckpointLoss {
    /// The comparison as a sentence.
    pub fn sentence(&self) -> String {
        let Self { checkpoint, step, loss, examples, logged: [low, high], tolerance, agrees, first_labels, .. } = self;
        let verdict = verdict(*agrees, *first_labels);
        format!(
            "{checkpoint}: loss {loss:.3} of {examples} training examples, the log has {low:.3} to {high:.3} around step {step}, with noise of ±{tolerance:.3}: {verdict}"
        )
    }
}
