//! What a report reads of a run folder's `ranking.jsonl` and `run.json`. Whatever earlier versions did not write is optional.

use ascribe::job::{Before, CandidateCheck, Compared};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::words::{count, counted};

/// A query's line of `ranking.jsonl`.
#[derive(Debug, Deserialize)]
pub(super) struct StoredRanking {
    pub(super) query: StoredQuery,
    #[serde(default)]
    pub(super) stability: Option<StoredStability>,
    #[serde(default)]
    pub(super) candidates: Option<CandidateCheck>,
    pub(super) proponents: Vec<StoredExample>,
    pub(super) opponents: Vec<StoredExample>,
    #[serde(default)]
    pub(super) groups: Option<Vec<StoredGroup>>,
}

/// The query of a ranking.
#[derive(Debug, Deserialize)]
pub(super) struct StoredQuery {
    pub(super) id: String,
    pub(super) excerpt: String,
    pub(super) measurement: String,
    pub(super) value: f64,
    #[serde(default)]
    pub(super) captured: Option<f64>,
    #[serde(default)]
    pub(super) before: Option<Before>,
    #[serde(default)]
    pub(super) tokens: Option<Vec<StoredQueryToken>>,
}

/// A token of a query; targets have a loss.
#[derive(Debug, Deserialize)]
pub(super) struct StoredQueryToken {
    pub(super) text: String,
    #[serde(default)]
    pub(super) loss: Option<f32>,
    #[serde(default)]
    pub(super) is_rejected: bool,
}

/// A training example of a ranking.
#[derive(Debug, Deserialize)]
pub(super) struct StoredExample {
    pub(super) id: String,
    pub(super) score: f32,
    #[serde(default)]
    pub(super) copies: Option<StoredCopies>,
    #[serde(default)]
    pub(super) relatif: Option<f32>,
    #[serde(default)]
    pub(super) interval: Option<[f32; 2]>,
    pub(super) excerpt: String,
    #[serde(default)]
    pub(super) amount: Option<StoredAmount>,
    #[serde(default)]
    pub(super) tokens: Option<Vec<StoredToken>>,
    #[serde(default)]
    pub(super) rest: Option<f32>,
    #[serde(default)]
    pub(super) query_tokens: Option<Vec<StoredTarget>>,
    #[serde(default)]
    pub(super) token_pairs: Option<Vec<StoredPair>>,
    #[serde(default)]
    pub(super) is_control: bool,
    #[serde(default)]
    pub(super) metadata: Map<String, Value>,
}

/// The other copies of an example.
#[derive(Debug, Deserialize)]
pub(super) struct StoredCopies {
    pub(super) count: u64,
    #[serde(default)]
    pub(super) total: Option<f64>,
    #[serde(default)]
    pub(super) is_sum: bool,
    #[serde(default)]
    pub(super) similarity: Option<f64>,
    pub(super) others: Vec<StoredCopy>,
}

/// A copy.
#[derive(Debug, Deserialize)]
pub(super) struct StoredCopy {
    pub(super) id: String,
    pub(super) score: f32,
}

/// How much of a ranking stays in its variants.
#[derive(Debug, Deserialize)]
pub(super) struct StoredStability {
    #[serde(default)]
    pub(super) compared: Option<Compared>,
    pub(super) proponents: StoredSide,
    pub(super) opponents: StoredSide,
}

/// How much of one side stays.
#[derive(Debug, Deserialize)]
pub(super) struct StoredSide {
    pub(super) listed: usize,
    pub(super) stable: usize,
    pub(super) kept: Vec<StoredShare>,
}

/// What a variant keeps of a side.
#[derive(Debug, Deserialize)]
pub(super) struct StoredShare {
    pub(super) share: f64,
}

/// A token of a training example, or a target of the query, and what it adds to the score.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StoredToken {
    pub(super) text: String,
    pub(super) share: f32,
}

/// A target of the query, and what it adds to the score.
#[derive(Debug, Deserialize)]
pub(super) struct StoredTarget {
    #[serde(flatten)]
    pub(super) token: StoredToken,
    #[serde(default)]
    pub(super) is_rejected: bool,
}

/// A target of the query and a token of a training example, and what it adds to the score through the target.
#[derive(Debug, Deserialize)]
pub(super) struct StoredPair {
    pub(super) query_text: String,
    pub(super) text: String,
    pub(super) share: f32,
}

/// A calibrated amount.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct StoredAmount {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A group of training examples.
#[derive(Debug, Deserialize)]
pub(super) struct StoredGroup {
    pub(super) group: String,
    pub(super) examples: usize,
    pub(super) score: f64,
}

/// `run.json`, as far as a report tells of it.
#[derive(Debug, Deserialize)]
pub(super) struct Records {
    pub(super) ascribe_version: String,
    pub(super) summary: StoredSummary,
}

/// The plan's summary.
#[derive(Debug, Deserialize)]
pub(super) struct StoredSummary {
    pub(super) architecture: String,
    pub(super) layers: Vec<Named>,
    pub(super) tracked_parameters: u64,
    pub(super) stages: Vec<StoredStage>,
    #[serde(default)]
    pub(super) queries: Option<StoredData>,
    #[serde(default)]
    pub(super) checkpoints: Vec<Named>,
    #[serde(default)]
    pub(super) legs: Vec<StoredLeg>,
    pub(super) answers: Vec<String>,
    #[serde(default)]
    pub(super) layer_sets: Vec<StoredSet>,
    pub(super) notes: Vec<String>,
}

/// Whatever has a name.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

/// A set of layers, or of parts of layers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StoredSet {
    pub(super) name: String,
    pub(super) layers: Vec<String>,
    pub(super) slices: Vec<String>,
}

/// A stage of training.
#[derive(Debug, Deserialize)]
pub(super) struct StoredStage {
    pub(super) name: String,
    pub(super) train: StoredData,
    pub(super) train_size: u64,
}

/// What was read of a file.
#[derive(Debug, Deserialize)]
pub(super) struct StoredData {
    pub(super) examples: u64,
    pub(super) positions: u64,
    #[serde(default)]
    pub(super) cut: u64,
    #[serde(default)]
    is_rows: bool,
    #[serde(default)]
    is_images: bool,
    #[serde(default)]
    targets: u64,
    #[serde(default)]
    first: Vec<(String, bool)>,
}

/// What examples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inputs {
    Texts,
    Rows,
    Images,
}

impl StoredData {
    /// What its examples are. Records of earlier versions do not say; there the first of rows or images is one entry, which
    /// no text is.
    pub(super) fn inputs(&self) -> Inputs {
        match (self.is_images, self.is_rows || (self.first.len() == 1 && self.targets == self.examples)) {
            (true, _) => Inputs::Images,
            (false, true) => Inputs::Rows,
            (false, false) => Inputs::Texts,
        }
    }

    /// How much there is: `48 examples with 1,405 tokens`, `60 rows of numbers`.
    pub(super) fn amount(&self) -> String {
        match self.inputs() {
            Inputs::Texts => {
                format!("{} with {}", counted(self.examples, "examples"), counted(self.positions, "tokens"))
            }
            Inputs::Rows if self.examples == 1 => "1 row of numbers".to_owned(),
            Inputs::Rows => format!("{} rows of numbers", count(self.examples)),
            Inputs::Images => counted(self.examples, "images"),
        }
    }
}

/// A segment of Source.
#[derive(Debug, Deserialize)]
pub(super) struct StoredLeg {
    pub(super) name: String,
    pub(super) stage: String,
    pub(super) steps: u64,
    pub(super) checkpoints: Vec<String>,
}
