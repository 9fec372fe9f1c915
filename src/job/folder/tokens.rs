//! `tokens.safetensors`: what tokens of the ranked training examples, of the queries, or of both add to their scores.

use std::collections::HashMap;

use crate::attribution::ranking::ScorePlace;
use crate::attribution::store::{Key, Metadata, TensorData, TensorFile, write_safetensors};
use crate::job::brief::Brief;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::metadata::score_metadata;
use crate::job::folder::places::tokens_file;
use crate::job::request::TokensRequest;

/// The entry that says how many proponents and opponents of each query were taken.
pub(in crate::job) const TOP: &str = "top";

/// The entry that says which examples were one entry of a ranking.
pub(in crate::job) const COPIES: &str = "duplicates";

/// The entry that says over which tokens scores are divided.
pub(in crate::job) const DIVIDED: &str = "tokens";

/// What tokens add to the score of one training example for one query.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::job) struct Shares {
    /// Row of the scores.
    pub query: usize,
    /// Column of the scores.
    pub column: usize,
    /// What each token of the example adds; empty if scores are not divided over them.
    pub places: Vec<f64>,
    /// What belongs to no token of the example alone.
    pub rest: f64,
    /// What each target of the query adds; empty if scores are not divided over them.
    pub targets: Vec<f64>,
    /// What each token of the example adds through each target of the query, `[targets, tokens]`; empty if scores are not
    /// divided over both.
    pub pairs: Vec<f64>,
}

/// Numbers of each pair one after the other, with where each pair's begin.
struct Ragged {
    offsets: Vec<i64>,
    values: Vec<f32>,
}

impl Ragged {
    fn of<'a>(lists: impl Iterator<Item = &'a [f64]>) -> Self {
        let (mut offsets, mut values) = (vec![0], vec![]);
        for list in lists {
            values.extend(list.iter().map(|&share| share as f32));
            offsets.push(values.len() as i64);
        }
        Self { offsets, values }
    }

    /// Both tensors, the numbers under `name`.
    fn tensors<'a>(&'a self, names: [&'a str; 2], shapes: &'a [[usize; 1]; 2]) -> [TensorData<'a>; 2] {
        [TensorData::new(names[0], &shapes[0], &self.offsets), TensorData::new(names[1], &shapes[1], &self.values)]
    }

    fn shapes(&self) -> [[usize; 1]; 2] {
        [[self.offsets.len()], [self.values.len()]]
    }
}

/// Names of the offsets and the numbers, by what scores are divided over: tokens of the example, targets of the query,
/// both.
const NAMES: [[&str; 2]; 3] =
    [["offsets", "shares"], ["target_offsets", "target_shares"], ["pair_offsets", "pair_shares"]];

/// Writes the shares of all ranked examples; `target_places` are the places of each query's targets among its tokens.
pub(in crate::job) fn write_tokens(
    brief: &Brief,
    summary: &Summary,
    key: &Key,
    shares: &[Shares],
    target_places: &[Vec<usize>],
) -> Result<(), JobError> {
    let request = brief.job.output.tokens;
    let pairs: Vec<i64> = shares.iter().flat_map(|of| [of.query as i64, of.column as i64]).collect();
    let rest: Vec<f32> = shares.iter().map(|of| of.rest as f32).collect();
    let lists: [Ragged; 3] = [
        Ragged::of(shares.iter().map(|of| of.places.as_slice())),
        Ragged::of(shares.iter().map(|of| of.targets.as_slice())),
        Ragged::of(shares.iter().map(|of| of.pairs.as_slice())),
    ];
    let is_there = [
        request.divides_examples(),
        request.divides_queries(),
        request.divides_examples() && request.divides_queries(),
    ];
    let list_shapes = lists.each_ref().map(Ragged::shapes);
    let (pair_shape, rest_shape) = ([shares.len(), 2], [rest.len()]);
    let mut tensors = vec![TensorData::new("pairs", &pair_shape, &pairs)];
    for (k, list) in lists.iter().enumerate().filter(|(k, _)| is_there[*k]) {
        tensors.extend(list.tensors(NAMES[k], &list_shapes[k]));
    }
    if request.divides_examples() {
        tensors.push(TensorData::new("rest", &rest_shape, &rest));
    }
    let places: Vec<i64> = target_places.iter().flatten().map(|&place| place as i64).collect();
    let ends = target_places.iter().scan(0, |end, places| {
        *end += places.len() as i64;
        Some(*end)
    });
    let place_offsets: Vec<i64> = std::iter::once(0).chain(ends).collect();
    let place_shapes = [[place_offsets.len()], [places.len()]];
    if request.divides_queries() {
        tensors.push(TensorData::new("query_target_offsets", &place_shapes[0], &place_offsets));
        tensors.push(TensorData::new("query_target_places", &place_shapes[1], &places));
    }
    Ok(write_safetensors(&tokens_file(brief), &tensors, &metadata(brief, summary, key))?)
}

/// Shares of the tokens of all examples for all queries.
#[derive(Debug)]
pub(in crate::job) struct AllShares {
    /// Rows of the scores, Q.
    pub rows: usize,
    /// `[N + 1]`: where the tokens of each column begin.
    pub offsets: Vec<i64>,
    /// `[tokens, Q]`.
    pub shares: Vec<f32>,
    /// `[N, Q]`: what belongs to no token alone.
    pub rest: Vec<f32>,
}

/// Writes the shares of all examples.
pub(in crate::job) fn write_all_tokens(
    brief: &Brief,
    summary: &Summary,
    key: &Key,
    all: &AllShares,
) -> Result<(), JobError> {
    let (n, rows) = (all.offsets.len() - 1, all.rows);
    let shapes = [[n + 1, 1], [all.shares.len() / rows.max(1), rows], [n, rows]];
    let tensors = [
        TensorData::new(TOKEN_OFFSETS, &shapes[0][..1], &all.offsets),
        TensorData::new("shares", &shapes[1], &all.shares),
        TensorData::new("rest", &shapes[2], &all.rest),
    ];
    Ok(write_safetensors(&tokens_file(brief), &tensors, &metadata(brief, summary, key))?)
}

/// Where the tokens of each example begin, in files of shares of all examples.
const TOKEN_OFFSETS: &str = "token_offsets";

/// What a file of shares says of itself.
fn metadata(brief: &Brief, summary: &Summary, key: &Key) -> Metadata {
    let mut metadata = score_metadata(brief, summary, 0, key);
    metadata.insert(TOP.into(), brief.job.output.top.to_string());
    metadata.insert(COPIES.into(), brief.job.output.duplicates.to_string());
    metadata.insert(DIVIDED.into(), brief.job.output.tokens.name().into());
    metadata
}

/// What tokens add to the score of one pair, as a run folder has it. Lists are empty where scores are not divided so.
#[derive(Debug, Clone, Default)]
pub(in crate::job) struct StoredPair {
    /// By token of the example.
    pub shares: Vec<f32>,
    /// What belongs to no token of the example alone.
    pub rest: f32,
    /// By target of the query.
    pub targets: Vec<f32>,
    /// `[targets, tokens]`.
    pub pairs: Vec<f32>,
}

/// The shares of a run folder, by row and column of the scores.
#[derive(Debug)]
pub(in crate::job) enum StoredShares {
    /// Shares of the pairs of query and example that were listed.
    Listed(HashMap<ScorePlace, StoredPair>),
    /// Shares of every pair of query and example.
    All(TensorFile),
}

impl StoredShares {
    /// Reads them.
    pub(in crate::job) fn read(file: TensorFile) -> Result<Self, JobError> {
        if file.metadata(DIVIDED) == Some(TokensRequest::All.name()) {
            file.i64(TOKEN_OFFSETS)?;
            file.f32("shares")?;
            file.f32("rest")?;
            return Ok(Self::All(file));
        }
        let place = |pair: &[i64]| ScorePlace { query: pair[0] as usize, column: pair[1] as usize };
        let pairs: Vec<ScorePlace> = file.i64("pairs")?.chunks_exact(2).map(place).collect();
        let mut all: Vec<StoredPair> = pairs.iter().map(|_| StoredPair::default()).collect();
        let has = |name: &str| file.names().iter().any(|found| found == name);
        for (list, [offsets, values]) in NAMES.into_iter().enumerate().filter(|(_, names)| has(names[0])) {
            let (offsets, values) = (file.i64(offsets)?, file.f32(values)?);
            for (pair, ends) in all.iter_mut().zip(offsets.windows(2)) {
                let own = values.get(ends[0] as usize..ends[1] as usize).unwrap_or_default().to_vec();
                *[&mut pair.shares, &mut pair.targets, &mut pair.pairs][list] = own;
            }
        }
        if has("rest") {
            all.iter_mut().zip(file.f32("rest")?).for_each(|(pair, rest)| pair.rest = *rest);
        }
        Ok(Self::Listed(pairs.into_iter().zip(all).collect()))
    }

    /// What tokens add to the score of an example for a query; none if it was not ranked when the shares were made.
    pub(in crate::job) fn of(&self, at: ScorePlace) -> Option<StoredPair> {
        let ScorePlace { query, column } = at;
        let file = match self {
            Self::Listed(of_pair) => return of_pair.get(&at).cloned(),
            Self::All(file) => file,
        };
        let rows = file.spec("shares").ok()?.shape.get(1).copied().filter(|&rows| query < rows)?;
        let ends = file.i64(TOKEN_OFFSETS).ok()?.get(column..column + 2)?;
        let own = file.f32("shares").ok()?.get(ends[0] as usize * rows..ends[1] as usize * rows)?;
        let rest = *file.f32("rest").ok()?.get(column * rows + query)?;
        let shares = own.iter().skip(query).step_by(rows).copied().collect();
        Some(StoredPair { shares, rest, ..StoredPair::default() })
    }
}
