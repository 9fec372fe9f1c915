//! Does a query get worse when the examples that are said to help it most are removed?
//!
//! Every query has a removal of its own: its top examples. The fall of its gain (the rise of its loss) is held against
//! its fall in the removals of the other queries, which are as large but were not chosen for it.

use std::path::Path;

use serde::Serialize;

use super::EvaluateError;
use super::bootstrap::Bootstrap;
use super::own_lists::{MeanChange, QueryChange, own_lists};
use super::removals::Removals;
use super::subsets::QUERY;
use super::tensors::TensorFile;

/// The rise of queries' losses after their top examples are removed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Qld {
    /// The measurement's name.
    pub measurement: String,
    /// If true, a fall is given: positive always means that the query got worse.
    pub higher_is_better: bool,
    /// Examples removed for a query: fewest and most.
    pub removed: (usize, usize),
    /// After the removal of each query's own examples. Positive: the query gets worse.
    pub own: MeanChange,
    /// After the removal of examples that were chosen for others.
    pub others: Option<MeanChange>,
    /// `own − others`: what was lost by the choice.
    pub difference: Option<MeanChange>,
    /// Every query by itself.
    pub per_query: Vec<QueryChange>,
}

/// The row of the scores that each removal is of: `query` i64 `[J]`.
///
/// # Errors
/// A file that cannot be read; [`EvaluateError::MissingTensor`] if the file lacks the tensor.
pub fn removal_queries(path: &Path) -> Result<Vec<usize>, EvaluateError> {
    let file = TensorFile::read(path)?;
    let Some(query) = file.integers(QUERY)? else { return Err(file.missing(QUERY)?) };
    if query.shape.len() != 1 {
        return Err(file.shape_error(QUERY, &query.shape, "[removals]"));
    }
    // a negative number is no row, and is found to be outside like any other
    Ok(query.values.into_iter().map(|q| usize::try_from(q).unwrap_or(usize::MAX)).collect())
}

/// Falls of the gain of each removal's query.
///
/// # Errors
/// [`EvaluateError::Disagree`] if there is not one query for each removal, [`EvaluateError::Query`] for a row that is
/// not there or comes twice, [`EvaluateError::TooFew`] without removals.
pub fn qld(removals: &Removals, query: &[usize], bootstrap: Bootstrap) -> Result<Qld, EvaluateError> {
    let found = own_lists(removals, query, -1.0, "QLD", bootstrap)?;
    Ok(Qld {
        measurement: removals.changes().name().to_owned(),
        higher_is_better: removals.changes().orientation() == super::Orientation::HigherIsBetter,
        removed: found.sizes,
        own: found.own,
        others: found.others,
        difference: found.difference,
        per_query: found.per_query,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{SeedOutcomes, Subsets};
    use super::*;
    use ascribe_curvature::Hint;

    #[test]
    fn each_query_is_held_against_its_fall_in_the_removals_of_others() {
        let (queries, seeds) = (4, 2);
        let rows = [2, 0, 3];
        let subsets = Subsets::without(&[vec![1, 2], vec![0, 5], vec![3, 4]], 6).expect("lists");
        let after: Vec<f32> = (0..3 * seeds * queries).map(|i| ((i * i * 7) % 13) as f32 / 4.0).collect();
        let full: Vec<f32> = (0..seeds * queries).map(|i| ((i * 5) % 7) as f32 / 4.0).collect();
        let outcomes = SeedOutcomes { after: after.clone(), full: full.clone(), seeds, queries };
        let removals = Removals::new(subsets, "loss", &outcomes, None, 0).expect("fitting sizes");
        let found = qld(&removals, &rows, Bootstrap { resamples: 80, seed: 0 }).expect("three removals");
        let rise = |j: usize, q: usize| {
            (0..seeds).map(|s| f64::from(after[(j * seeds + s) * queries + q] - full[s * queries + q])).sum::<f64>()
                / seeds as f64
        };
        let (mut own, mut others) = (0.0, 0.0);
        for (j, &q) in rows.iter().enumerate() {
            own += rise(j, q) / 3.0;
            others += (0..3).filter(|&other| other != j).map(|other| rise(other, q) / 2.0).sum::<f64>() / 3.0;
        }
        // quarters of whole numbers: sums are exact, quotients by 3 are not
        assert!((found.own.mean - own).abs() < 1e-14, "{found:?} {own}");
        assert!((found.others.expect("others").mean - others).abs() < 1e-14, "{found:?} {others}");
        assert!((found.difference.expect("others").mean - (own - others)).abs() < 1e-14);
        assert_eq!((found.removed, found.per_query[1].query, found.per_query[1].own), ((2, 2), 0, rise(1, 0)));
        let interval = found.own.interval.expect("resamples");
        assert!(interval.low <= own && own <= interval.high);
        let margin = Removals::new(removals.subsets().clone(), "margin", &outcomes, None, 0).expect("fitting sizes");
        let turned = qld(&margin, &rows, Bootstrap { resamples: 0, seed: 0 }).expect("three removals");
        assert!((turned.own.mean + own).abs() < 1e-14 && turned.own.interval.is_none());
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let subsets = Subsets::without(&[vec![1], vec![0]], 3).expect("lists");
        let outcomes = SeedOutcomes { after: vec![0.0; 4], full: vec![0.0; 2], seeds: 1, queries: 2 };
        let removals = Removals::new(subsets, "loss", &outcomes, None, 0).expect("fitting sizes");
        let message = |rows: &[usize]| qld(&removals, rows, Bootstrap::default()).expect_err("broken").to_string();
        assert_eq!(message(&[0]), "the list `query` has 1 removals, the mask `removed` has 2");
        assert_eq!(message(&[0, 2]), "query 2 is outside the outcomes (2 queries)");
        assert_eq!(message(&[1, 1]), "query 1 has two removals (2 queries)");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("removals.safetensors");
        removals.subsets().write_removals(&path, Some(&[1, 0])).expect("writable");
        assert_eq!(removal_queries(&path).expect("readable"), [1, 0]);
        removals.subsets().write_removals(&path, None).expect("writable");
        let error = removal_queries(&path).expect_err("no rows");
        assert!(error.hint().is_some_and(|hint| hint.contains("subsets --top")), "{error}");
    }
}
