//! Training examples that are copies of one another, as rankings list them: one entry for all.

use serde::Serialize;

use crate::attribution::ranking::{Ranking, RankingError, ScorePlace, ScoreRows, TopK, rank};
use crate::data::{Clusters, Dataset, ExampleList, GRAM, exact_copies, near_copies};
use crate::job::error::JobError;
use crate::job::option_text::option_text;
use crate::job::request::{
    CandidatesRequest, DuplicateScores, DuplicatesRequest, IntervalsRequest, Job, Normalize, StoreScores, TokensRequest,
};
use crate::job::training::Training;

/// Copies that an entry names at most.
const NAMED: usize = 100;

/// Scores of copies that differ by less than this share of the larger are the same but for rounding.
const SAME: f32 = 1e-4;

/// The other copies of a training example in a ranking.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedCopies {
    /// How many there are beside the one that is listed.
    pub count: usize,
    /// The sum of the scores of all, with the one that is listed; none of cosines, which do not add up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// Whether the example's score is that sum.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_sum: bool,
    /// The Jaccard similarity from which on texts are near copies; none of exact ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f64>,
    /// The strongest of the others, at most 100.
    pub others: Vec<RankedCopy>,
}

/// A copy of a training example that is listed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedCopy {
    /// Its id.
    pub id: String,
    /// Its score for the query.
    pub score: f32,
}

/// Which columns of the score matrix are copies of one another.
#[derive(Debug)]
pub(in crate::job) struct Copies {
    clusters: Clusters,
    /// Whether each column is in a cluster.
    is_member: Vec<bool>,
    scores: DuplicateScores,
    has_sums: bool,
    similarity: Option<f64>,
    /// What a person should know of them.
    notes: Vec<String>,
}

/// Refuses copies of what has none, and sums of what does not add up.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    let output = &job.output;
    let refused = |problem: &'static str, hint: &'static str| Err(JobError::options(problem, hint));
    if output.duplicates == DuplicatesRequest::Off {
        return match output.duplicate_scores {
            DuplicateScores::Each => Ok(()),
            DuplicateScores::Sum => refused(
                "<duplicate_scores = sum> adds up the scores of copies, and no <duplicates> are asked for",
                "add <duplicates = exact>",
            ),
        };
    }
    if output.store_scores == StoreScores::Top {
        return refused("<duplicates> need every score", "leave <store_scores = top> out");
    }
    if output.duplicate_scores == DuplicateScores::Each {
        return Ok(());
    }
    if job.method.normalize == Normalize::Cosine {
        return refused("cosines do not add up over copies", "leave <duplicate_scores> or <normalize = cosine> out");
    }
    if output.tokens != TokensRequest::None {
        return refused(
            "<tokens> divides the score of one example, and <duplicate_scores = sum> lists sums over copies",
            "leave <tokens> or <duplicate_scores> out",
        );
    }
    if output.intervals != IntervalsRequest::None {
        return refused(
            "<intervals> are those of single scores, and <duplicate_scores = sum> lists sums over copies",
            "leave <intervals> or <duplicate_scores> out",
        );
    }
    if let Some(CandidatesRequest::Words(..) | CandidatesRequest::File(_)) = &output.candidates {
        return refused(
            "<duplicate_scores = sum> adds scores up over all copies of an example, and <candidates> scores some examples alone",
            "leave <candidates> or <duplicate_scores> out",
        );
    }
    Ok(())
}

impl Copies {
    /// The copies that a job asks for, and what a person should know of copies, asked for or not.
    ///
    /// # Errors
    /// [`JobError::Options`] for near copies of rows of numbers.
    pub(in crate::job) fn find(
        job: &Job,
        training: &Training,
        memory: Option<u64>,
    ) -> Result<(Option<Self>, Vec<String>), JobError> {
        let datasets: Vec<&Dataset> = training.stages.iter().map(|stage| &stage.train).collect();
        let list = ExampleList { datasets: &datasets, places: training.columns.examples() };
        let columns = training.columns.len();
        let mut notes = vec![];
        let clusters = match job.output.duplicates {
            DuplicatesRequest::Off | DuplicatesRequest::Exact => exact_copies(list),
            DuplicatesRequest::Near(similarity) => {
                let room = memory.unwrap_or(1 << 30) / 16;
                let Some(found) = near_copies(list, similarity, room) else {
                    return Err(JobError::Options {
                        problem: option_text!(
                            "near <duplicates> are found by n-grams of {} tokens, and this model reads rows of numbers",
                            GRAM
                        ),
                        hint: Some("write <duplicates = exact>".into()),
                    });
                };
                if found.crowded > 0 {
                    notes.push(format!(
                        "{} so many texts with a common part that each was compared with 64 of them: near copies may be missed",
                        match found.crowded {
                            1 => "one bucket of the search for near copies holds".to_owned(),
                            n => format!("{n} buckets of the search for near copies hold"),
                        }
                    ));
                }
                found.clusters
            }
        };
        let which = if training.chosen().is_some() { "scored training examples" } else { "training examples" };
        let what = match job.output.duplicates {
            DuplicatesRequest::Near(similarity) => {
                format!("near copies (token trigrams with a Jaccard similarity of {similarity} and more)")
            }
            _ => "exact copies".to_owned(),
        };
        let counted = format!(
            "{} of {columns} {which} are {what} of {} others, {} the most of one text",
            clusters.copies(),
            clusters.len(),
            clusters.largest()
        );
        match (job.output.duplicates, clusters.is_empty()) {
            (DuplicatesRequest::Off, true) => {}
            (_, true) => notes.push(format!("none of {columns} {which} has {what}")),
            (DuplicatesRequest::Off, false) => notes.push(format!("{counted}; `--duplicates exact` lists a text once")),
            (_, false) => notes.push(counted),
        }
        if job.output.duplicates == DuplicatesRequest::Off {
            return Ok((None, notes));
        }
        let is_member = (0..columns).map(|column| clusters.cluster_of(column).is_some()).collect();
        let has_sums = job.method.normalize == Normalize::None;
        let similarity = match job.output.duplicates {
            DuplicatesRequest::Near(similarity) => Some(similarity),
            _ => None,
        };
        let (scores, said) = (job.output.duplicate_scores, notes.clone());
        Ok((Some(Self { clusters, is_member, scores, has_sums, similarity, notes: said }), notes))
    }

    /// What a person should know of them, as the plan's notes say it too.
    pub(in crate::job) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Columns that are copies of one another, the first of each first.
    pub(in crate::job) fn clusters(&self) -> impl Iterator<Item = &[usize]> {
        self.clusters.iter()
    }

    /// The first copy of a column: the same for all of them.
    pub(in crate::job) fn first(&self, column: usize) -> usize {
        self.clusters.cluster_of(column).map_or(column, |cluster| self.clusters.members(cluster)[0])
    }

    /// Each query's best and worst entries: a column for each cluster, and every column that is in none.
    fn ranked(&self, scores: ScoreRows<'_>, top: usize) -> Result<Vec<Ranking>, RankingError> {
        let queries = scores.queries();
        let (mut best, mut worst) = (TopK::new(queries, top), TopK::new(queries, top));
        for query in 0..queries {
            let row = scores.row(query);
            for (column, &score) in row.iter().enumerate().filter(|(column, _)| !self.is_member[*column]) {
                best.add(ScorePlace { query, column }, score)?;
                worst.add(ScorePlace { query, column }, score)?;
            }
            for members in self.clusters() {
                if let Some(&column) = members.iter().find(|&&column| !row[column].is_finite()) {
                    return Err(RankingError::NonFinite { query, example: column, value: row[column] });
                }
                let ends = [true, false].map(|helps| strongest(row, members, helps));
                for (column, side) in ends.into_iter().zip([&mut best, &mut worst]) {
                    let score = match self.scores {
                        DuplicateScores::Each => row[column],
                        DuplicateScores::Sum => sum(row, members) as f32,
                    };
                    side.add(ScorePlace { query, column }, score)?;
                }
            }
        }
        let (best, worst) = (best.finish()?, worst.finish()?);
        Ok(best.into_iter().zip(worst).map(|(best, worst)| Ranking { opponents: worst.opponents, ..best }).collect())
    }

    /// The other copies of a column that is listed, with the query's scores `row`; none if it has no copies.
    pub(in crate::job) fn of(
        &self,
        column: usize,
        row: &[f32],
        helps: bool,
        id: impl Fn(usize) -> String,
    ) -> Option<RankedCopies> {
        let members = self.clusters.members(self.clusters.cluster_of(column)?);
        let mut others: Vec<usize> = members.iter().copied().filter(|&member| member != column).collect();
        let strength = |member: usize| if helps { row[member] } else { -row[member] };
        // equal scores stay in the order of the data
        others.sort_by(|&a, &b| strength(b).total_cmp(&strength(a)));
        Some(RankedCopies {
            count: others.len(),
            total: self.has_sums.then(|| sum(row, members)),
            is_sum: self.scores == DuplicateScores::Sum,
            similarity: self.similarity,
            others: others
                .into_iter()
                .take(NAMED)
                .map(|other| RankedCopy { id: id(other), score: row[other] })
                .collect(),
        })
    }
}

/// Each query's best and worst, with copies as one entry where they are asked for.
pub(in crate::job) fn ranked(
    copies: Option<&Copies>,
    scores: ScoreRows<'_>,
    top: usize,
) -> Result<Vec<Ranking>, RankingError> {
    let rankings = match copies {
        Some(copies) => copies.ranked(scores, top)?,
        None => rank(scores, top)?,
    };
    Ok(rankings.into_iter().map(Ranking::signed).collect())
}

/// The member with the best score, or the worst: the first of those that are equal but for rounding.
fn strongest(row: &[f32], members: &[usize], helps: bool) -> usize {
    let strength = |column: usize| if helps { row[column] } else { -row[column] };
    let most = members.iter().map(|&column| strength(column)).fold(f32::NEG_INFINITY, f32::max);
    let is_most = |&&column: &&usize| strength(column) >= most - SAME * most.abs();
    members.iter().find(is_most).copied().unwrap_or(members[0])
}

fn sum(row: &[f32], members: &[usize]) -> f64 {
    members.iter().map(|&column| f64::from(row[column])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six columns: 0, 2 and 4 are copies, and 1 and 5.
    fn copies(scores: DuplicateScores) -> Copies {
        let clusters = Clusters::from_sets(&[&[0, 2, 4], &[1, 5]]);
        let is_member = (0..6).map(|column| clusters.cluster_of(column).is_some()).collect();
        Copies { clusters, is_member, scores, has_sums: true, similarity: None, notes: vec![] }
    }

    #[test]
    fn a_text_and_its_copies_are_one_entry() {
        let row = [1.0, -3.0, 2.0, 1.5, 2.000_01, 4.0];
        let rows = ScoreRows::new(&row, 1, 6).expect("one row");
        let each = copies(DuplicateScores::Each);
        let found = &ranked(Some(&each), rows, 9).expect("finite")[0];
        // 2 and 4 are equal but for rounding; copies of opposite signs are on both sides
        assert_eq!(found.proponents, [(5, 4.0), (2, 2.0), (3, 1.5)]);
        assert_eq!(found.opponents, [(1, -3.0)]);
        let id = |column: usize| format!("#{column}");
        let others = each.of(2, &row, true, id).expect("copies");
        let named: Vec<(&str, f32)> = others.others.iter().map(|of| (of.id.as_str(), of.score)).collect();
        assert_eq!((others.count, named), (2, vec![("#4", 2.000_01), ("#0", 1.0)]));
        assert!((others.total.expect("a sum") - 5.000_01).abs() < 1e-6);
        assert_eq!(each.of(3, &row, true, id), None);
        assert_eq!([0, 2, 3, 5].map(|column| each.first(column)), [0, 0, 3, 1]);

        let sum = copies(DuplicateScores::Sum);
        let found = &ranked(Some(&sum), rows, 9).expect("finite")[0];
        assert_eq!(found.proponents, [(2, 5.000_01), (3, 1.5), (5, 1.0)]);
        assert_eq!(found.opponents, []);
        assert_eq!(ranked(Some(&sum), rows, 1).expect("finite")[0].proponents, [(2, 5.000_01)]);
    }

    #[test]
    fn copies_without_a_rank_are_refused() {
        let row = [1.0, 0.0, f32::NAN, 1.5, 2.0, 4.0];
        let rows = ScoreRows::new(&row, 1, 6).expect("one row");
        let error = ranked(Some(&copies(DuplicateScores::Each)), rows, 2).expect_err("NaN");
        assert_eq!(error.to_string(), "the score of query 0 and example 2 is NaN");
    }
}
