//! What the check of the training data against the training log found.

use serde::{Deserialize, Serialize};

/// The loss of training examples at checkpoints beside the training log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LossCheck {
    /// The checkpoints that were compared, first trained first.
    pub checkpoints: Vec<CheckpointLoss>,
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
    /// Whether the loss lies between the two with that tolerance.
    pub agrees: bool,
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

impl CheckpointLoss {
    /// The comparison as a sentence.
    pub fn sentence(&self) -> String {
        let Self { checkpoint, step, loss, examples, logged: [low, high], tolerance, agrees, .. } = self;
        let verdict = if *agrees { "agrees" } else { "DISAGREES" };
        format!(
            "{checkpoint}: loss {loss:.3} of {examples} training examples, the log has {low:.3} to {high:.3} around step {step}, with noise of ±{tolerance:.3}: {verdict}"
        )
    }
}
