//! The numbers of positions and examples behind covariances, as files keep them.
//!
//! Most layers of most models see every position, so a file has one number, `positions`. A layer that saw another
//! number (an expert, a convolution) has its own beside it, `positions.L` for layer `L`; so has T̄, `mean_positions`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::attribution::store::{Metadata, TensorFile};
use crate::curvature::Counts;
use crate::job::error::JobError;

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
    let of = |layer| Ok(own_number(file, POSITIONS, layer)?.unwrap_or(most));
    let positions = layers.into_iter().map(of).collect::<Result<_, JobError>>()?;
    Ok(Counts { positions, examples: count(file, EXAMPLES)? })
}

/// A count in a file's metadata.
pub(super) fn count(file: &TensorFile, name: &'static str) -> Result<u64, JobError> {
    number(file, name)?.ok_or_else(|| JobError::Options {
        problem: format!("{}: its metadata lack `{name}`", file.path().display()).into(),
        hint: Some("delete the file; it is only a cache".into()),
    })
}

/// T̄ of each layer as a file's metadata.
pub(super) fn mean_metadata(means: &[f64]) -> Metadata {
    let most = means.iter().copied().fold(0.0, f64::max);
    let others = means.iter().enumerate().filter(|&(_, &mean)| mean != most);
    let others = others.map(|(l, mean)| (own(MEAN_POSITIONS, l), mean.to_string()));
    others.chain([(MEAN_POSITIONS.to_owned(), most.to_string())]).collect()
}

/// T̄ of each of `layers` layers of a file.
pub(super) fn means_of_file(file: &TensorFile, layers: usize) -> Result<Vec<f64>, JobError> {
    let most: f64 = number(file, MEAN_POSITIONS)?.unwrap_or(1.0);
    (0..layers).map(|l| Ok(own_number(file, MEAN_POSITIONS, l)?.unwrap_or(most))).collect()
}

/// What a file has of one layer beside the number of most layers; `None` if the layer has that number.
fn own_number<T: FromStr>(file: &TensorFile, name: &str, layer: usize) -> Result<Option<T>, JobError> {
    number(file, &own(name, layer))
}

/// A number in a file's metadata; `None` if the metadata do not have its name.
fn number<T: FromStr>(file: &TensorFile, name: &str) -> Result<Option<T>, JobError> {
    let Some(text) = file.metadata(name) else { return Ok(None) };
    let of_layer = name.rsplit_once('.').map_or_else(String::new, |(_, layer)| format!(" of tracked layer {layer}"));
    let unread = |_| JobError::Options {
        problem: format!("{}: `{name}`{of_layer} is `{text}`, which is not a number", file.path().display()).into(),
        hint: Some("delete the file; it is only a cache".into()),
    };
    text.parse().map(Some).map_err(unread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::store::{TensorData, write_safetensors};

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
    #[test]
    fn a_number_that_cannot_be_read_is_refused_with_its_file_and_layer() -> Result<(), JobError> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("covariance.safetensors");
        let open = |entries: &[(&str, &str)]| -> Result<TensorFile, JobError> {
            let metadata = entries.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
            write_safetensors(&file, &[TensorData::new("x", &[1], &[1.0f64])], &metadata)?;
            Ok(TensorFile::open_checked(&file)?)
        };
        let whole = open(&[("positions", "7"), ("positions.1", "3"), ("examples", "2")])?;
        assert_eq!(of_file(&whole, 0..3)?, Counts { positions: vec![7, 3, 7], examples: 2 });
        let torn = open(&[("positions", "7"), ("positions.1", "3x"), ("examples", "2"), ("mean_positions.2", "")])?;
        assert_eq!(of_file(&torn, [0, 2])?.positions, [7, 7], "the layer is not asked for");
        let problem = of_file(&torn, 0..3).expect_err("no number").to_string();
        let path = file.display();
        assert_eq!(problem, format!("{path}: `positions.1` of tracked layer 1 is `3x`, which is not a number"));
        let problem = means_of_file(&torn, 3).expect_err("no number").to_string();
        assert_eq!(problem, format!("{path}: `mean_positions.2` of tracked layer 2 is ``, which is not a number"));
        let none = open(&[("examples", "2")])?;
        assert_eq!(
            of_file(&none, 0..1).expect_err("no count").to_string(),
            format!("{path}: its metadata lack `positions`")
        );
        Ok(())
    }
}
