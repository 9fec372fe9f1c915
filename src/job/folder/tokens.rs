//! `tokens.safetensors`: what each token of the ranked training examples adds to their scores.

use std::collections::HashMap;

use crate::attribution::store::{Key, TensorData, TensorFile, write_safetensors};
use crate::job::brief::Brief;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::metadata::score_metadata;
use crate::job::folder::places::tokens_file;

/// The entry that says how many proponents and opponents of each query were taken.
pub(in crate::job) const TOP: &str = "top";

/// The entry that says which examples were one entry of a ranking.
pub(in crate::job) const COPIES: &str = "duplicates";

/// What the tokens of one training example add to its score for one query.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::job) struct Shares {
    /// Row of the scores.
    pub query: usize,
    /// Column of the scores.
    pub column: usize,
    /// What each token adds.
    pub places: Vec<f64>,
    /// What belongs to no token alone.
    pub rest: f64,
}

/// Writes the shares of all ranked examples.
pub(in crate::job) fn write_tokens(
    brief: &Brief,
    summary: &Summary,
    key: &Key,
    shares: &[Shares],
) -> Result<(), JobError> {
    let pairs: Vec<i64> = shares.iter().flat_map(|of| [of.query as i64, of.column as i64]).collect();
    let mut offsets = vec![0i64];
    let mut values: Vec<f32> = vec![];
    for of in shares {
        values.extend(of.places.iter().map(|&share| share as f32));
        offsets.push(values.len() as i64);
    }
    let rest: Vec<f32> = shares.iter().map(|of| of.rest as f32).collect();
    let shapes = [[shares.len(), 2], [offsets.len(), 1], [values.len(), 1], [rest.len(), 1]];
    let tensors = [
        TensorData::new("pairs", &shapes[0], &pairs),
        TensorData::new("offsets", &shapes[1][..1], &offsets),
        TensorData::new("shares", &shapes[2][..1], &values),
        TensorData::new("rest", &shapes[3][..1], &rest),
    ];
    let mut metadata = score_metadata(brief, summary, 0, key);
    metadata.insert(TOP.into(), brief.job.output.top.to_string());
    metadata.insert(COPIES.into(), brief.job.output.duplicates.to_string());
    Ok(write_safetensors(&tokens_file(brief), &tensors, &metadata)?)
}

/// The shares of a run folder, by row and column of the scores.
#[derive(Debug)]
pub(in crate::job) struct StoredShares {
    of_pair: HashMap<(usize, usize), (Vec<f32>, f32)>,
}

impl StoredShares {
    /// Reads them.
    pub(in crate::job) fn read(file: &TensorFile) -> Result<Self, JobError> {
        let (pairs, offsets) = (file.i64("pairs")?, file.i64("offsets")?);
        let (shares, rest) = (file.f32("shares")?, file.f32("rest")?);
        let mut of_pair = HashMap::new();
        for ((pair, ends), rest) in pairs.chunks_exact(2).zip(offsets.windows(2)).zip(rest) {
            let own = shares.get(ends[0] as usize..ends[1] as usize).unwrap_or_default();
            of_pair.insert((pair[0] as usize, pair[1] as usize), (own.to_vec(), *rest));
        }
        Ok(Self { of_pair })
    }

    /// What each token of an example adds to its score for a query, and what belongs to none; none if it was not ranked
    /// when the shares were made.
    pub(in crate::job) fn of(&self, query: usize, column: usize) -> Option<(&[f32], f32)> {
        self.of_pair.get(&(query, column)).map(|(shares, rest)| (shares.as_slice(), *rest))
    }
}
