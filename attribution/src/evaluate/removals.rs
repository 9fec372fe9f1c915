//! Small removals: what leaving a few examples out changed, each seed held against its own run with everything.
//!
//! Half-subsets also halve the training. Here a removed example's place in its batch stays empty and start and order
//! are those of the run with everything, which is what "what if these were not there" asks.

use std::path::Path;

use super::outcomes::{Orientation, Outcomes, PerSeed, mean_over_seeds};
use super::predictions::disagree;
use super::subsets::Subsets;
use super::tensors::{TensorFile, Values};
use super::{EvaluateError, error::require_finite};

/// Which examples were removed, and what that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Removals {
    subsets: Subsets,
    changes: Outcomes,
    own_seed: usize,
}

/// Outcomes of every seed.
///
/// # Shapes
/// `after`: `[J, S, Q]`; `full`: `[S, Q]`, the same seeds with every example.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedOutcomes {
    /// After each removal.
    pub after: Vec<f32>,
    /// With every example.
    pub full: Vec<f32>,
    /// S.
    pub seeds: usize,
    /// Q.
    pub queries: usize,
}

impl Removals {
    /// From what every seed gave. `own_seed` is the seed of the run that the scores come from.
    ///
    /// # Errors
    /// [`EvaluateError::Length`] for other sizes, [`EvaluateError::NonFinite`] for NaN or infinity,
    /// [`EvaluateError::NoSuchSeed`].
    pub fn new(
        subsets: Subsets,
        name: &str,
        outcomes: &SeedOutcomes,
        orientation: Option<Orientation>,
        own_seed: usize,
    ) -> Result<Self, EvaluateError> {
        let SeedOutcomes { after, full, seeds, queries } = outcomes;
        let (count, seeds, queries) = (subsets.count(), *seeds, *queries);
        let sides =
            [("the outcomes", after, vec![count, seeds, queries]), ("the full run", full, vec![seeds, queries])];
        for (what, values, shape) in sides {
            let expected = shape.iter().fold(1, |product: usize, &n| product.saturating_mul(n));
            if values.len() != expected {
                return Err(EvaluateError::Length { what, found: values.len(), expected, shape });
            }
        }
        require_finite(&format!("the outcome `{name}`"), after, queries)?;
        require_finite(&format!("the full run's `full_{name}`"), full, queries)?;
        if own_seed >= seeds {
            return Err(EvaluateError::NoSuchSeed { seed: own_seed, seeds });
        }
        let of_full = full.iter().cycle();
        let changes: Vec<f32> = after.iter().zip(of_full).map(|(after, full)| after - full).collect();
        let means = mean_over_seeds(&changes, count, seeds, queries);
        let per_seed = Some(PerSeed { values: changes, seeds });
        let changes = Outcomes::new(name, means, count, queries, per_seed, orientation)?;
        Ok(Self { subsets, changes, own_seed })
    }

    /// Reads `removed` `[J, N]` of one file, and `NAME` `[J, S, Q]` and `full_NAME` `[S, Q]` of another or the same.
    /// With one seed its axis may be missing.
    ///
    /// # Errors
    /// A file that cannot be read or does not fit, by its name; [`EvaluateError::MissingFullRun`] without `full_NAME`.
    pub fn read(
        removed: &Path,
        outcomes: &Path,
        name: &str,
        orientation: Option<Orientation>,
        own_seed: usize,
    ) -> Result<Self, EvaluateError> {
        let subsets = Subsets::read_removals(removed)?;
        let file = TensorFile::read(outcomes)?;
        let full_name = format!("full_{name}");
        let Some(Values { shape, values: after }) = file.floats(name)? else { return Err(file.missing(name)?) };
        let (count, seeds, queries) = match shape[..] {
            [count, seeds, queries] if seeds > 0 => (count, seeds, queries),
            [count, queries] => (count, 1, queries),
            _ => return Err(file.shape_error(name, &shape, "[removals, seeds, queries] with at least one seed")),
        };
        let Some(full) = file.floats(&full_name)? else {
            let present = file.names()?;
            return Err(EvaluateError::MissingFullRun { file: outcomes.to_owned(), tensor: full_name, present });
        };
        if full.shape != [seeds, queries] && !(seeds == 1 && full.shape == [queries]) {
            let expected = format!("[{seeds}, {queries}] because `{name}` is {shape:?}");
            return Err(file.shape_error(&full_name, &full.shape, expected));
        }
        if count != subsets.count() {
            let outcome = format!("the outcome `{name}`");
            return Err(disagree("removals", "the mask `removed`", subsets.count(), &outcome, count));
        }
        let outcomes = SeedOutcomes { after, full: full.values, seeds, queries };
        Self::new(subsets, name, &outcomes, orientation, own_seed)
    }

    /// What each retrained model saw.
    pub fn subsets(&self) -> &Subsets {
        &self.subsets
    }

    /// Outcome minus full outcome, of every seed and on average.
    pub fn changes(&self) -> &Outcomes {
        &self.changes
    }

    /// The seed of the run that the scores come from.
    pub fn own_seed(&self) -> usize {
        self.own_seed
    }

    /// The first `count` removals alone.
    ///
    /// # Errors
    /// [`EvaluateError::TooFew`] if there are not so many.
    pub fn first(&self, count: usize) -> Result<Self, EvaluateError> {
        let found = self.subsets.count();
        if count > found {
            return Err(EvaluateError::TooFew { figure: "the first removals", axis: "removals", needed: count, found });
        }
        let (examples, changes) = (self.subsets.examples(), &self.changes);
        let subsets = Subsets::new(self.subsets.mask()[..count * examples].to_vec(), count, examples)?;
        Ok(Self { subsets, changes: changes.rows(0..count), own_seed: self.own_seed })
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    fn write(path: &Path, tensors: &[(&str, Vec<usize>, &[f32])], removed: Option<(Vec<usize>, &[u8])>) {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<_> = tensors.iter().map(|(name, shape, values)| (*name, shape.clone(), bytes(values))).collect();
        let view = |dtype, shape: &Vec<usize>, data| TensorView::new(dtype, shape.clone(), data).expect("fits");
        let mut views: Vec<_> = data.iter().map(|(name, shape, data)| (*name, view(Dtype::F32, shape, data))).collect();
        views.extend(removed.as_ref().map(|(shape, mask)| ("removed", view(Dtype::U8, shape, mask))));
        std::fs::write(path, safetensors::serialize(views, None).expect("serializable")).expect("writable");
    }

    const AFTER: [f32; 12] = [1.0, 2.0, 4.0, 8.0, 0.5, 3.0, -1.0, 2.5, 7.0, 6.0, 9.0, 0.25];
    const FULL: [f32; 4] = [0.5, 1.5, -2.0, 3.0];

    #[test]
    fn every_seed_is_held_against_its_own_full_run() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("removals.safetensors");
        let mask = [0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0];
        write(&path, &[("loss", vec![3, 2, 2], &AFTER), ("full_loss", vec![2, 2], &FULL)], Some((vec![3, 5], &mask)));
        let read = Removals::read(&path, &path, "loss", None, 1).expect("readable");
        assert_eq!((read.own_seed(), read.subsets().kept(1)), (1, vec![0, 1, 3, 4]));
        let changes = read.changes();
        for j in 0..3 {
            for q in 0..2 {
                let change = |s: usize| f64::from(AFTER[(j * 2 + s) * 2 + q]) - f64::from(FULL[s * 2 + q]);
                for s in 0..2 {
                    assert_eq!(changes.gains_of_seed(s, q)[j], -change(s), "a fall of the loss is a gain");
                }
                assert_eq!(changes.gains(q)[j], -(change(0) + change(1)) / 2.0);
            }
        }
        let first = read.first(2).expect("two of three");
        assert_eq!(first.changes().gains(1), changes.gains(1)[..2]);
        assert_eq!(first.changes().gains_of_seed(1, 0), changes.gains_of_seed(1, 0)[..2]);
        assert_eq!(first.subsets().mask(), &read.subsets().mask()[..10]);
        assert!(read.first(4).is_err());
    }

    #[test]
    fn one_seed_needs_no_axis_and_files_may_be_apart() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [masks, outcomes] = ["masks", "outcomes"].map(|name| folder.path().join(name));
        write(&masks, &[], Some((vec![2, 3], &[0, 1, 0, 1, 0, 0])));
        write(&outcomes, &[("margin", vec![2, 2], &AFTER[..4]), ("full_margin", vec![2], &FULL[..2])], None);
        let read = Removals::read(&masks, &outcomes, "margin", None, 0).expect("readable");
        assert_eq!(read.changes().values(), [0.5, 0.5, 3.5, 6.5]);
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("f");
        let message = |tensors: &[(&str, Vec<usize>, &[f32])], rows: usize, own_seed| {
            write(&path, tensors, Some((vec![rows, 2], &[0, 1, 1, 0, 0, 1][..2 * rows])));
            let error = Removals::read(&path, &path, "loss", None, own_seed).expect_err("broken");
            error.to_string().replace(&path.display().to_string(), "FILE")
        };
        let full = || ("full_loss", vec![2, 2], &FULL[..]);
        let after = || ("loss", vec![3, 2, 2], &AFTER[..]);
        assert_eq!(
            message(&[after()], 3, 0),
            "FILE: no tensor `full_loss`, the outcome of the run with every example; the file has `loss`, `removed`"
        );
        assert_eq!(message(&[full()], 3, 0), "FILE: no tensor `loss`; the file has `full_loss`, `removed`");
        assert_eq!(
            message(&[after(), ("full_loss", vec![4], &FULL)], 3, 0),
            "FILE: `full_loss` has the shape [4], expected [2, 2] because `loss` is [3, 2, 2]"
        );
        assert_eq!(
            message(&[("loss", vec![12], &AFTER), full()], 3, 0),
            "FILE: `loss` has the shape [12], expected [removals, seeds, queries] with at least one seed"
        );
        assert_eq!(message(&[after(), full()], 2, 0), "the mask `removed` has 2 removals, the outcome `loss` has 3");
        assert_eq!(message(&[after(), full()], 3, 2), "seed 2 is not among the 2 seeds of the outcomes");
        let nan = [0.5, f32::NAN, 1.0, 2.0];
        assert_eq!(
            message(&[after(), ("full_loss", vec![2, 2], &nan)], 3, 0),
            "the full run's `full_loss` holds NaN at row 0, column 1"
        );
    }
}
