//! The numbers of positions and examples behind covariances, as files keep them.
//!
//! Most layers of most models see every position, so a file has one number, `positions`. A layer that saw another
//! number (an expert, a convolution) has its own beside it, `positions.L` for layer `L`; so has T̄, `mean_positions`.

use std::collections::BTreeMap;

use super::stored::count;
use crate::attribution::store::{Metadata, TensorFile};
use crate::curvature::Counts;
use crate::job::JobError;

/// Positions of a file's layers, the most that any saw under the name itself.
const POSITIONS: &str = "positions";
const MEAN_POSITIONS: &str = "mean_positions";
const EXAMPLES: &str = "examples";

fn own(name: &str, layer: usize) -> String {
    format!("{name}.{layer}")
}

/// Counts by name: what a pass that goes on later saves beside its sums.
pub(super) fn counters(counts: &Counts) -> BTreeMap<String, u64> {
    let most = counts.positions.iter().copied().max().unwrap_or(0);
    let others = counts.positions.iter().enumerate().filter(|&(_, &positions)| positions != most);
    let others = others.map(|(l, &positions)| (own(POSITIONS, l), positions));
    others.chain([(POSITIONS.to_owned(), most), (EXAMPLES.to_owned(), counts.examples)]).collect()
}

/// Counts of `layers` layers from the counters of saved progress.
pub(super) fn of_counters(counters: &BTreeMap<String, u64>, layers: usize) -> Counts {
    let most = counters.get(POSITIONS).copied().unwrap_or_default();
    let positions = (0..layers).map(|l| counters.get(&own(POSITIONS, l)).copied().unwrap_or(most)).collect();
    Counts { positions, examples: counters.get(EXAMPLES).copied().unwrap_or_default() }
}

/// Counts as the metadata of a file.
pub(super) fn metadata(counts: &Counts) -> Metadata {
    counters(counts).into_iter().map(|(name, number)| (name, number.to_string())).collect()
}

/// Counts of some layers of a file, which are given by their numbers there.
pub(super) fn of_file(file: &TensorFile, layers: impl IntoIterator<Item = usize>) -> Result<Counts, JobError> {
    let most = count(file, POSITIONS)?;
    let of = |l| file.metadata(&own(POSITIONS, l)).and_then(|text| text.parse().ok()).unwrap_or(most);
    Ok(Counts { positions: layers.into_iter().map(of).collect(), examples: count(file, EXAMPLES)? })
}

/// T̄ of each layer as a file's metadata.
pub(super) fn mean_metadata(means: &[f64]) -> Metadata {
    let most = means.iter().copied().fold(0.0, f64::max);
    let others = means.iter().enumerate().filter(|&(_, &mean)| mean != most);
    let others = others.map(|(l, mean)| (own(MEAN_POSITIONS, l), mean.to_string()));
    others.chain([(MEAN_POSITIONS.to_owned(), most.to_string())]).collect()
}

/// T̄ of each of so many layers.
pub(super) fn means_of_file(file: &TensorFile, layers: usize) -> Vec<f64> {
    let number = |name: &str| file.metadata(name).and_then(|text| text.parse().ok());
    let most: f64 = number(MEAN_POSITIONS).unwrap_or(1.0);
    (0..layers).map(|l| number(&own(MEAN_POSITIONS, l)).unwrap_or(most)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_saw_all_positions_have_one_number_together() {
        let names = |positions: &[u64]| {
            let counts = Counts { positions: positions.to_vec(), examples: 3 };
            let named = counters(&counts);
            assert_eq!(of_counters(&named, positions.len()), counts);
            named.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(&[7, 7]), ["examples", "positions"]);
        assert_eq!(names(&[0, 7, 5, 7]), ["examples", "positions", "positions.0", "positions.2"]);
        let means = |means: &[f64]| mean_metadata(means).into_iter().collect::<Vec<_>>();
        assert_eq!(means(&[2.5, 2.5]), [("mean_positions".to_owned(), "2.5".to_owned())]);
        assert_eq!(means(&[2.5, 0.0])[1], ("mean_positions.1".to_owned(), "0".to_owned()));
    }
}
