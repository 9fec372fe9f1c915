//! What scores predict for a subset: the sum over the kept examples, or minus the sum over the removed ones.

use ascribe_curvature::gemm::{Into, Threads, View, ViewMut, matmul};

use super::error::{EvaluateError, require_finite};
use super::subsets::Subsets;
use crate::ranking::ScoreRows;

/// Training examples that one product takes: the f64 copies of mask and scores stay in the cache's size.
const BLOCK: usize = 2048;

/// `p_q(S_j) = Σ_{m ∈ S_j} score(q, m)` for every subset and query; or, for small removals,
/// `−Σ_{m ∉ S_j} score(q, m)`, which differs from it by a constant of the query and keeps its digits where
/// almost nothing is removed.
///
/// # Shapes
/// `values`: `[J, Q]`, row-major.
/// # Units
/// The score's: gain.
/// # Source
/// `docs/evaluation.md`.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    values: Vec<f64>,
    subsets: usize,
    queries: usize,
    examples: usize,
    /// How many examples each subset keeps.
    sizes: Vec<usize>,
    places: Places,
}

/// What becomes of the places that left-out examples had in the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    /// Other examples fill the places: each kept example weighs `1/|S_j|`.
    Filled,
    /// The places stay empty: each kept example weighs `1/N` as before.
    Empty,
}

impl Predictions {
    /// Predictions of a whole matrix of scores.
    ///
    /// # Errors
    /// [`EvaluateError::Disagree`] if the subsets are of another number of examples,
    /// [`EvaluateError::NonFinite`] for a score that is NaN or infinite.
    pub fn new(scores: ScoreRows<'_>, subsets: &Subsets) -> Result<Self, EvaluateError> {
        let mut sum = PredictionSum::new(subsets, scores.queries());
        sum.add(scores)?;
        sum.finish()
    }

    /// Predicts the outcomes of models that were retrained without a few examples, whose places in batches stayed empty,
    /// from a whole matrix of scores.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_removals(scores: ScoreRows<'_>, subsets: &Subsets) -> Result<Self, EvaluateError> {
        let mut sum = PredictionSum { places: Places::Empty, ..PredictionSum::new(subsets, scores.queries()) };
        sum.add(scores)?;
        sum.finish()
    }

    /// J.
    pub fn subsets(&self) -> usize {
        self.subsets
    }

    /// Q.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// N.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// Sizes of the smallest and largest subset.
    pub fn subset_sizes(&self) -> (usize, usize) {
        (self.sizes.iter().min().copied().unwrap_or(0), self.sizes.iter().max().copied().unwrap_or(0))
    }

    /// Whether they are of removals.
    pub fn is_of_removals(&self) -> bool {
        self.places == Places::Empty
    }

    /// `[J, Q]`.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The prediction for query `q` and each subset, `[J]`.
    pub(super) fn of_query(&self, q: usize) -> Vec<f64> {
        (0..self.subsets).map(|j| self.values[j * self.queries + q]).collect()
    }

    /// The predicted change of query `q`'s gain for each subset, `[J]`, up to a constant of the query, if a score is
    /// the change for one more copy of its example. A kept example's weight rises from `1/N` to `1/|S_j|` where
    /// others fill the free places: `N/|S_j| · p_q(S_j)`.
    pub(super) fn changes_of_query(&self, q: usize) -> Vec<f64> {
        let weight = |j: usize| match self.places {
            Places::Filled => self.examples as f64 / self.sizes[j] as f64,
            Places::Empty => 1.0,
        };
        self.of_query(q).into_iter().enumerate().map(|(j, p)| weight(j) * p).collect()
    }
}

/// [`Predictions`] while score parts come in: ranges of training examples, in order.
#[derive(Debug)]
pub struct PredictionSum<'a> {
    subsets: &'a Subsets,
    queries: usize,
    /// Examples added so far.
    seen: usize,
    values: Vec<f64>,
    places: Places,
}

impl<'a> PredictionSum<'a> {
    /// Nothing added yet.
    pub fn new(subsets: &'a Subsets, queries: usize) -> Self {
        Self { subsets, queries, seen: 0, values: vec![0.0; subsets.count() * queries], places: Places::Filled }
    }

    /// Adds the scores of the next training examples, `[Q, part]`.
    ///
    /// # Errors
    /// [`EvaluateError::Disagree`] for another number of queries or more examples than the subsets know;
    /// [`EvaluateError::NonFinite`].
    pub fn add(&mut self, part: ScoreRows<'_>) -> Result<(), EvaluateError> {
        if part.queries() != self.queries {
            return Err(disagree("queries", "this part of the scores", part.queries(), "the first", self.queries));
        }
        let (first, examples) = (self.seen, self.subsets.examples());
        if first + part.examples() > examples {
            let found = first + part.examples();
            return Err(disagree("training examples", "the subset mask", examples, "the score matrix", found));
        }
        let (count, queries) = (self.subsets.count(), self.queries);
        for start in (0..part.examples()).step_by(BLOCK) {
            let width = BLOCK.min(part.examples() - start);
            let mut scores = Vec::with_capacity(queries * width);
            for q in 0..queries {
                let row = &part.row(q)[start..start + width];
                if let Some(at) = row.iter().position(|v| !v.is_finite()) {
                    return Err(EvaluateError::NonFinite {
                        what: "the score matrix".to_owned(),
                        row: q,
                        column: first + start + at,
                        value: f64::from(row[at]),
                    });
                }
                scores.extend(row.iter().map(|&v| f64::from(v)));
            }
            let mut mask = Vec::with_capacity(count * width);
            for row in self.subsets.mask().chunks_exact(examples) {
                let part = row[first + start..first + start + width].iter().map(|&kept| f64::from(kept));
                match self.places {
                    Places::Filled => mask.extend(part),
                    Places::Empty => mask.extend(part.map(|kept| kept - 1.0)),
                }
            }
            matmul(
                ViewMut::dense(&mut self.values, count, queries),
                Into::Add,
                1.0,
                View::dense(&mask, count, width),
                View::dense(&scores, queries, width).t(),
                Threads::Pool,
            );
        }
        self.seen += part.examples();
        Ok(())
    }

    /// The predictions, once every example has come.
    ///
    /// # Errors
    /// [`EvaluateError::Disagree`] if examples are missing.
    pub fn finish(self) -> Result<Predictions, EvaluateError> {
        let examples = self.subsets.examples();
        if self.seen != examples {
            return Err(disagree("training examples", "the subset mask", examples, "the score matrix", self.seen));
        }
        let (subsets, queries) = (self.subsets.count(), self.queries);
        let sizes = (0..subsets).map(|j| self.subsets.kept(j).len()).collect();
        Ok(Predictions { values: self.values, subsets, queries, examples, sizes, places: self.places })
    }
}

pub(super) fn disagree(
    axis: &'static str,
    left: &str,
    left_count: usize,
    right: &str,
    right_count: usize,
) -> EvaluateError {
    EvaluateError::Disagree { axis, left: left.to_owned(), left_count, right: right.to_owned(), right_count }
}

/// Refuses one row with NaN or infinity.
pub(super) fn require_finite_row(what: &str, row: &[f32]) -> Result<(), EvaluateError> {
    require_finite(what, row, row.len())
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;
    use ascribe_curvature::Hint;

    #[test]
    fn predictions_are_sums_over_kept_examples_in_one_part_or_many() {
        let (queries, examples) = (3, 2 * BLOCK + 77);
        let scores: Vec<f32> = (0..queries * examples).map(|i| ((i * 37) % 1013) as f32 / 64.0 - 7.0).collect();
        let subsets = Subsets::draw(examples, 5, 0.5, 2).expect("half");
        let all = ScoreRows::new(&scores, queries, examples).expect("3 rows");
        let whole = Predictions::new(all, &subsets).expect("finite");
        for j in 0..5 {
            for q in 0..queries {
                let want: f64 = subsets.kept(j).iter().map(|&m| f64::from(all.row(q)[m])).sum();
                // Scores are multiples of 1/64 below 10: every sum is exact.
                assert_eq!(whole.values()[j * queries + q], want, "subset {j}, query {q}");
            }
        }
        let mut sum = PredictionSum::new(&subsets, queries);
        for (start, end) in [(0, 1), (1, 3000), (3000, 3000), (3000, examples)] {
            let part: Vec<f32> = (0..queries).flat_map(|q| all.row(q)[start..end].to_vec()).collect();
            sum.add(ScoreRows::new(&part, queries, end - start).expect("a part")).expect("finite");
        }
        assert_eq!(sum.finish().expect("all examples"), whole);
    }

    #[test]
    fn changes_follow_the_weights_of_the_kept_examples() {
        let (queries, examples) = (2, 11);
        let scores: Vec<f32> = (0..queries * examples).map(|i| ((i * 5) % 17) as f32 / 8.0 - 1.0).collect();
        let rows = ScoreRows::new(&scores, queries, examples).expect("2 rows");
        let removed = [vec![3], vec![0, 10, 4], vec![7, 8]];
        let subsets = Subsets::without(&removed, examples).expect("lists");
        let (filled, empty) = (Predictions::new(rows, &subsets), Predictions::of_removals(rows, &subsets));
        let (filled, empty) = (filled.expect("finite"), empty.expect("finite"));
        assert!(empty.is_of_removals() && !filled.is_of_removals());
        assert_eq!(filled.subset_sizes(), (8, 10));
        for q in 0..queries {
            let all: f64 = rows.row(q).iter().map(|&s| f64::from(s)).sum();
            for (j, removed) in removed.iter().enumerate() {
                let sum: f64 = removed.iter().map(|&m| f64::from(rows.row(q)[m])).sum();
                assert_eq!(empty.changes_of_query(q)[j], -sum);
                // by definition: every kept example's weight, in copies, before and after
                let weight = 11.0 / (11 - removed.len()) as f64;
                let found = filled.changes_of_query(q)[j];
                assert!((found - weight * (all - sum)).abs() < 1e-13, "{found}");
                let group = super::super::group_effect(rows.row(q), removed).expect("a group");
                // two products and sums of numbers below 30
                assert!((found - all - group).abs() < 1e-13, "{found} {all} {group}");
            }
        }
    }

    #[test]
    fn golden_predictions() {
        let golden = golden::evaluation();
        let (predictions, _) = golden::predictions(&golden);
        for (q, row) in golden::matrix(&golden["predicted"]).iter().enumerate() {
            for (found, want) in predictions.of_query(q).iter().zip(row) {
                // Scores pass through f32: at most 8 roundings of 2^-24 relative to 2.7.
                assert!((found - want).abs() < 8.0 * 2.7 * 2f64.powi(-24), "{found} {want}");
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_say_which_side_has_what() {
        let subsets = Subsets::draw(10, 3, 0.5, 0).expect("half");
        let scores = [0.0; 24];
        let error = Predictions::new(ScoreRows::new(&scores, 2, 12).expect("2 x 12"), &subsets).expect_err("12");
        assert_eq!(error.to_string(), "the subset mask has 10 training examples, the score matrix has 12");
        assert!(error.hint().is_some());
        let error = Predictions::new(ScoreRows::new(&scores, 3, 8).expect("3 x 8"), &subsets).expect_err("8");
        assert_eq!(error.to_string(), "the subset mask has 10 training examples, the score matrix has 8");
        let scores = [0.0, f32::NAN].repeat(10);
        let error = Predictions::new(ScoreRows::new(&scores, 2, 10).expect("2 x 10"), &subsets).expect_err("NaN");
        assert_eq!(error.to_string(), "the score matrix holds NaN at row 0, column 1");
    }
}
