//! Which training examples are scored in the variants that intervals are made of: all, or of each query those that may
//! be listed and a random sample of the others.

use crate::attribution::evaluate::random_scores;
use crate::job::brief::Brief;
use crate::job::brief::answers::{Method, VectorSet};
use crate::job::error::JobError;
use crate::job::option_text::OptionText;
use crate::job::request::{CheckpointScores, DuplicatesRequest, IntervalScores, IntervalsRequest, Job};
use crate::job::training::Fit;

/// How many times as many examples of each side of a ranking are scored in variants as are listed. How often a verdict is
/// another one than with all examples stands in `docs/questions.md`.
const DEPTH: usize = 4;

/// Examples of the sample that is scored in variants for every query.
pub(super) const CONTROL: usize = 50;

/// The number of the random numbers that the sample is drawn by, which no query has.
const CONTROL_DRAW: usize = usize::MAX - 1;

/// Refuses a choice of examples that has no meaning for the job.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    let output = &job.output;
    let refused = |problem: OptionText, hint: &'static str| Err(JobError::options(problem, hint));
    if output.interval_scores != IntervalScores::Auto && output.intervals == IntervalsRequest::None {
        return refused(
            "<interval_scores> chooses which examples the variants of <intervals> score, and none are asked for".into(),
            "add <intervals>, or leave it out",
        );
    }
    if output.interval_scores != IntervalScores::Strongest {
        return Ok(());
    }
    if output.duplicates != DuplicatesRequest::Off {
        return refused(
            "<interval_scores = strongest> compares single examples, and <duplicates> lists copies as one entry".into(),
            "write <interval_scores = all>, or leave it out",
        );
    }
    if job.method.checkpoint_scores == CheckpointScores::Spread {
        return refused(
            "<checkpoint_scores = spread> divides by the spread of all examples' scores, and <interval_scores = strongest> \
             knows some"
                .into(),
            "write <interval_scores = all>, or leave it out",
        );
    }
    Ok(())
}

impl Brief {
    /// Variants that have vectors of their own.
    fn variants_with_vectors(&self) -> Vec<usize> {
        let is_own = |&answer: &usize| {
            let of = &self.answers[answer];
            of.variant.is_some() && of.vectors == answer
        };
        (0..self.answers.len()).filter(is_own).collect()
    }

    /// Variants that are scored for each query's strongest examples and a sample alone, and not in the passes of the
    /// scores.
    pub(in crate::job) fn shortlisted(&self) -> Vec<usize> {
        let variants = self.variants_with_vectors();
        if variants.is_empty() {
            return variants;
        }
        let is_shortlist = match self.job.output.interval_scores {
            IntervalScores::All => false,
            IntervalScores::Strongest => true,
            IntervalScores::Auto => self.shortlist_is_cheaper(variants.len()),
        };
        if is_shortlist { variants } else { vec![] }
    }

    /// Answers whose scores of all examples are computed.
    pub(in crate::job) fn scored_answers(&self) -> Vec<usize> {
        let shortlisted = self.shortlisted();
        (0..self.answers.len()).filter(|answer| !shortlisted.contains(answer)).collect()
    }

    /// Query vectors that the largest pass over training examples meets.
    pub(in crate::job) fn most_vectors(&self) -> usize {
        self.score_passes(&self.scored_answers()).iter().map(|pass| self.vectors_of(pass)).max().unwrap_or(0)
    }

    /// Examples of each side that are scored in variants for one query.
    pub(in crate::job) fn shortlist_depth(&self) -> usize {
        DEPTH * self.job.output.top
    }

    /// Columns that are scored in variants for every query, drawn at random.
    pub(in crate::job) fn shortlist_control(&self) -> Vec<usize> {
        let n = self.training.columns.len();
        let order = random_scores(self.job.method.seed, CONTROL_DRAW, n);
        let mut columns: Vec<usize> = (0..n).collect();
        columns.sort_by(|&a, &b| order[a].total_cmp(&order[b]).then(a.cmp(&b)));
        columns.truncate(CONTROL);
        columns
    }

    /// Examples that are scored in variants for one query at most.
    pub(in crate::job) fn shortlist_of_query(&self) -> usize {
        (2 * self.shortlist_depth() + CONTROL).min(self.training.columns.len())
    }

    /// Examples that are scored in variants for any query at most.
    pub(in crate::job) fn shortlisted_examples(&self) -> usize {
        let strongest = self.query_rows().saturating_mul(2 * self.shortlist_depth());
        strongest.saturating_add(CONTROL).min(self.training.columns.len())
    }

    /// Whether a pass over the strongest examples alone takes fewer operations than products of all. In units of a
    /// product with one vector: an example's row goes forwards, backwards twice, and into its gradient.
    fn shortlist_is_cheaper(&self, variants: usize) -> bool {
        let is_possible = variants > 0
            && self.job.output.duplicates == DuplicatesRequest::Off
            && self.job.method.checkpoint_scores != CheckpointScores::Spread;
        if !is_possible {
            return false;
        }
        let (n, rows) = (self.training.columns.len(), self.query_rows());
        let stages = self.training.stages.iter().map(|stage| &stage.train);
        let positions: usize = stages.map(|train| (0..train.len()).map(|m| train.positions(m)).sum::<usize>()).sum();
        let differentiated = 4.0 * self.shortlisted_examples() as f64 * positions as f64 / n.max(1) as f64;
        let products = |examples: usize| (variants * rows) as f64 * examples as f64;
        differentiated + products(self.shortlist_of_query()) < products(n)
    }

    /// Whether a variant's vectors stay in the eigenbasis of its curvature: they are multiplied with few examples, whose
    /// rows are rotated for less than it takes to rotate all of the vectors back.
    pub(in crate::job) fn keeps_in_basis(&self, set: VectorSet) -> bool {
        let variants = self.shortlisted();
        if !variants.contains(&set.answer) || self.solves_jointly(set.answer) || self.job.method.query_rank.is_some() {
            return false;
        }
        let has_basis = |fit: &&Fit| fit.kind.has_eigenbasis() && fit.moments.is_none();
        let Some(fit) = self.fit_of(set).filter(has_basis) else { return false };
        let bases = self.training.fits.iter().filter(|other| other.places == fit.places).count() as f64;
        let positions = (self.shortlisted_examples() * self.tokens_of_example()) as f64;
        let [mut rows, mut vectors] = [0.0; 2];
        for layer in self.training.layers() {
            let [o, i] = [layer.outputs, layer.columns()].map(|n| n as f64);
            rows += bases * positions * (o * o + i * i);
            vectors += (variants.len() * self.query_rows()) as f64 * o * i * (o + i);
        }
        rows < vectors
    }

    /// The curvature of a set of vectors of influence functions.
    pub(in crate::job) fn fit_of(&self, set: VectorSet) -> Option<&Fit> {
        match self.answers[set.answer].method {
            Method::Influence { fit, .. } => self.training.fits.get(fit),
            Method::InfluenceMean { sample, .. } => self.training.fits.get(self.averaged_fit(set.network, sample)),
            _ => None,
        }
    }
}
