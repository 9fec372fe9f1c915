//! Rankings as data, and the files of the run folder that hold them: `ranking.jsonl` and `ranking.csv`.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::attribution::evaluate::{ControlRecall, RankedSide, control_recall};
use crate::job::brief::Brief;
use crate::job::brief::copies::RankedCopies;
use crate::job::brief::example_groups::RankedGroup;
use crate::job::error::JobError;
use crate::job::folder::calibration::Amount;
use crate::job::folder::places::{copies_file, of_answer};
use crate::job::folder::whole_file::write_file;
use crate::job::training::chosen::Chosen;

/// Characters of an excerpt.
pub(in crate::job) const EXCERPT: usize = 160;

/// Pairs of a target of the query and a token of the example that a ranking names for each example at most.
pub(in crate::job) const STRONGEST_PAIRS: usize = 5;

/// A query and the training examples that matter most to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueryRanking {
    /// The query.
    pub query: QueryInfo,
    /// What the choice of candidates kept, as the control sample shows it; none if all training examples are scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<CandidateCheck>,
    /// How much of the ranking stays in its variants, if the run has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,
    /// Examples that help it, the strongest first; none has a score of 0 or less.
    pub proponents: Vec<RankedExample>,
    /// Examples that hurt it, the strongest first; none has a score of 0 or more.
    pub opponents: Vec<RankedExample>,
    /// All groups of training examples, the most helpful first, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<RankedGroup>>,
}

/// A query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryInfo {
    /// Its id.
    pub id: String,
    /// A readable line.
    pub excerpt: String,
    /// What was measured.
    pub measurement: &'static str,
    /// Its value now.
    pub value: f64,
    /// The share of the squared norm of the query's vectors that is left at the low rank that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured: Option<f64>,
    /// What products with the Gauss-Newton matrix left of the query's joint system, relative to the query's gradient, at the checkpoint where that is
    /// most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual: Option<f64>,
    /// How far the solutions of the query's joint system from two halves of the drawn labels differ, relative to the
    /// solution, at the checkpoint where that is most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<f64>,
    /// What the measurement is at another checkpoint, if one is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// Its tokens, those that are targets with their losses; none where queries are no texts, or asked together, or too
    /// long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<QueryToken>>,
}

/// A query at another checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The checkpoint's name.
    pub checkpoint: String,
    /// What the measurement is there.
    pub value: f64,
}

/// A token of a query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryToken {
    /// Its text, or its number where there is no tokenizer.
    pub text: String,
    /// How badly the model predicts it, `-log p` to four digits behind the point, if it is a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f32>,
    /// Whether it is a target of the rejected completion of a contrast.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_rejected: bool,
}

/// What a choice of candidates kept of a query's ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateCheck {
    /// Of its proponents.
    pub proponents: ControlRecall,
    /// Of its opponents.
    pub opponents: ControlRecall,
}

impl CandidateCheck {
    /// Compares one query's scores of its candidates with those of the control sample, on both sides of the ranking.
    pub(in crate::job) fn of(scores: &[f32], chosen: &Chosen, top: usize) -> Self {
        let left_out = chosen.of - chosen.candidates();
        let of = |side| control_recall(scores, &chosen.is_control, left_out, top, side);
        Self { proponents: of(RankedSide::Proponents), opponents: of(RankedSide::Opponents) }
    }
}

/// How much of a query's ranking stays in its variants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stability {
    /// Which examples the variants were compared on, if not on all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// Of its proponents.
    pub proponents: SideStability,
    /// Of its opponents.
    pub opponents: SideStability,
}

/// The examples that were scored in a ranking's variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Number of the strongest examples on each side of the ranking.
    pub strongest: usize,
    /// Number of examples that were drawn at random from all.
    pub sample: usize,
    /// How many examples are scored without a variant.
    pub of: usize,
}

/// How much of one side of a ranking stays in its variants.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideStability {
    /// Examples that are listed.
    pub listed: usize,
    /// The first so many are among as many strongest as are listed in every variant too; the next one is not.
    pub stable: usize,
    /// For each variant the share of the listed examples that it lists among as many too.
    pub kept: Vec<VariantShare>,
}

impl SideStability {
    /// The share of the listed examples that stays in the variant that keeps fewest; 1 if nothing is listed.
    pub fn least_kept(&self) -> f64 {
        self.kept.iter().map(|of| of.share).fold(1.0, f64::min)
    }
}

/// What a variant of a ranking keeps of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VariantShare {
    /// The variant's name.
    pub variant: String,
    /// The share.
    pub share: f64,
}

/// A training example in a ranking.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedExample {
    /// Its id.
    pub id: String,
    /// Its score for the query.
    pub score: f32,
    /// Its copies among the training examples, where they are listed as one entry; none if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<RankedCopies>,
    /// Its score for itself, if the run has it: by how much the example moves its own loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_influence: Option<f32>,
    /// Its score over the square root of its self-influence, if examples are listed by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relatif: Option<f32>,
    /// The lowest and the highest of the score and its variants, if the run has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f32; 2]>,
    /// What the score says if the run's amounts are calibrated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
    /// A readable line.
    pub excerpt: String,
    /// What each of its tokens adds to the score, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<TokenShare>>,
    /// What belongs to no token alone; with `tokens`, the rest of the score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<f32>,
    /// What each target token of the query adds to the score, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_tokens: Option<Vec<TargetShare>>,
    /// The pairs of a target token of the query and a token of the example that add most to the score, of either sign, if
    /// shares of both were asked for: the strongest first, at most five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_pairs: Option<Vec<PairShare>>,
    /// Which of all training examples it is, counted from 0, where not all of them are scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
    /// Whether it is no candidate but one of the control sample.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_control: bool,
    /// Its other fields.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// A token of a training example.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenShare {
    /// Its text, or its number where there is no tokenizer.
    pub text: String,
    /// What it adds to the example's score.
    pub share: f32,
}

/// A target token of a query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetShare {
    /// Its text, or its number where there is no tokenizer.
    pub text: String,
    /// What it adds to an example's score.
    pub share: f32,
    /// Whether it is one of the rejected completion of a contrast.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_rejected: bool,
}

/// A target token of a query and a token of a training example.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairShare {
    /// The target's text, or its number where there is no tokenizer.
    pub query_text: String,
    /// Which of the query's targets it is, counted from 0.
    pub query_target: usize,
    /// The text of the example's token.
    pub text: String,
    /// Which of the example's tokens it is, counted from 0.
    pub token: usize,
    /// What the token adds to the score through the target.
    pub share: f32,
}

/// Writes rankings as CSV with a header: one line for each query, side and rank. Calibrated amounts, intervals, how
/// many copies there are with the sum of all scores, and self-influences have columns of their own after the others.
///
/// # Errors
/// If `out` cannot be written.
pub fn write_csv(rankings: &[QueryRanking], out: impl Write) -> io::Result<()> {
    let failed = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    };
    let mut writer = csv::Writer::from_writer(out);
    let all = || rankings.iter().flat_map(|ranking| ranking.proponents.iter().chain(&ranking.opponents));
    let (calibrated, copied) = (all().any(|e| e.amount.is_some()), all().any(|e| e.copies.is_some()));
    let mut header = vec!["query_id", "side", "rank", "train_id", "score", "excerpt"];
    header.extend(["amount", "amount_low", "amount_high"].iter().filter(|_| calibrated));
    let has_intervals = rankings.iter().any(|ranking| ranking.stability.is_some());
    header.extend(["score_low", "score_high"].iter().filter(|_| has_intervals));
    header.extend(["copies", "score_with_copies"].iter().filter(|_| copied));
    let (own, divided) = (all().any(|e| e.self_influence.is_some()), all().any(|e| e.relatif.is_some()));
    header.extend(["self_influence"].iter().filter(|_| own));
    header.extend(["relatif"].iter().filter(|_| divided));
    writer.write_record(header).map_err(failed)?;
    for ranking in rankings {
        for (side, examples) in [("proponent", &ranking.proponents), ("opponent", &ranking.opponents)] {
            for (rank, example) in examples.iter().enumerate() {
                let (rank, score) = ((rank + 1).to_string(), example.score.to_string());
                let amount =
                    example.amount.map(|Amount { value, low, high }| [value, low, high].map(|v| v.to_string()));
                let amount = amount.into_iter().flatten().collect::<Vec<_>>();
                let record = [&ranking.query.id, side, &rank, &example.id, &score, &example.excerpt];
                let interval: Vec<String> = example.interval.iter().flatten().map(f32::to_string).collect();
                let (count, total) = match &example.copies {
                    Some(copies) => (copies.count, copies.total.map_or_else(String::new, |total| total.to_string())),
                    None => (0, score.clone()),
                };
                let copies = [count.to_string(), total];
                let copies = copies.iter().filter(|_| copied);
                let number = |value: Option<f32>| value.map_or_else(String::new, |value| value.to_string());
                let to_itself = [(own, number(example.self_influence)), (divided, number(example.relatif))];
                let to_itself = to_itself.iter().filter(|(is_column, _)| *is_column).map(|(_, value)| value);
                let further = amount.iter().chain(&interval).chain(copies).chain(to_itself).map(String::as_str);
                writer.write_record(record.into_iter().chain(further)).map_err(failed)?;
            }
        }
    }
    writer.flush()
}

/// `ranking.jsonl`, one object for each query, and `ranking.csv` if asked for.
pub(in crate::job) fn write_rankings(brief: &Brief, answer: usize, rankings: &[QueryRanking]) -> Result<(), JobError> {
    let mut lines = String::new();
    for ranking in rankings {
        lines.push_str(&serde_json::to_string(ranking).expect("a ranking is JSON"));
        lines.push('\n');
    }
    write_file(&of_answer(brief, answer, "ranking", "jsonl"), lines.as_bytes())?;
    if !brief.job.output.csv {
        return Ok(());
    }
    let file = of_answer(brief, answer, "ranking", "csv");
    let mut bytes = vec![];
    let failed = |source| JobError::Io { file: file.clone(), action: "cannot be written", source };
    write_csv(rankings, &mut bytes).map_err(failed)?;
    write_file(&file, &bytes)
}

/// `duplicates.jsonl`, if copies are asked for: for each text with copies the ids of all, in the order of the data.
pub(in crate::job) fn write_copies(brief: &Brief) -> Result<(), JobError> {
    let Some(copies) = &brief.copies else { return Ok(()) };
    let mut lines = String::new();
    for members in copies.clusters() {
        let ids: Vec<&str> = members.iter().map(|&column| brief.training.columns.id(column)).collect();
        lines.push_str(&serde_json::json!({ "count": ids.len(), "ids": ids }).to_string());
        lines.push('\n');
    }
    write_file(&copies_file(brief), lines.as_bytes())
}
