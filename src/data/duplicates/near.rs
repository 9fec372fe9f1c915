//! Near copies: texts whose token n-grams are mostly the same.

use rayon::prelude::*;

use super::clusters::{Clusters, Joined};
use super::exact::{ExampleList, Scattered, joined_exactly};
use super::min_hash::{Bands, Permutations, mixed};
use crate::data::dataset::Kind;

/// Tokens of an n-gram. A text of fewer tokens is one n-gram.
pub const GRAM: usize = 3;

/// Texts of one bucket that each further one is compared with.
const COMPARED: usize = 64;

/// What was found.
#[derive(Debug)]
pub struct NearCopies {
    /// Texts that are joined by pairs of near copies; exact copies are among them.
    pub clusters: Clusters,
    /// Buckets with so many different texts that not all were compared with one another.
    pub crowded: usize,
}

/// Clusters of near copies: examples that are connected by pairs whose sets of token trigrams have a Jaccard similarity
/// of at least `threshold`, with the same target where an example has one for all its tokens.
///
/// Pairs are found by MinHash: one whose similarity is the threshold itself is missed about once in 10,000 times, more
/// similar ones less often. A found pair is compared by the definition. In a bucket of more than 64 texts that are no
/// copies of one another, each is compared with 64 of them; [`NearCopies::crowded`] counts such buckets. The result
/// depends on the examples and the threshold alone.
///
/// Beside 40 bytes for each example, `room` bytes are taken for keys of bands, at least 8 for each example; with less
/// room tokens are read more often.
///
/// None if the examples are no tokens.
pub fn near_copies(examples: ExampleList<'_>, threshold: f64, room: u64) -> Option<NearCopies> {
    if examples.datasets.iter().any(|dataset| !matches!(dataset.kind(), Kind::Tokens(_))) {
        return None;
    }
    let mut joined = joined_exactly(examples);
    // of exact copies one is compared
    let different: Vec<usize> =
        (0..examples.places.len()).filter(|&example| joined.first(example) == example).collect();
    let bands = Bands::at(threshold);
    let permutations = Permutations::new(bands);
    let together = usize::try_from(room / (8 * different.len().max(1) as u64)).unwrap_or(usize::MAX);
    let together = together.clamp(1, bands.bands);
    let mut crowded = 0;
    let mut scattered = Scattered::new(examples);
    let mut keys = vec![0u64; different.len() * together];
    for first in (0..bands.bands).step_by(together) {
        let count = together.min(bands.bands - first);
        let keys = &mut keys[..different.len() * count];
        keys.par_chunks_mut(count).zip(&different).for_each_init(Vec::new, |least, (keys, &example)| {
            let hashes = grams(tokens(examples, example)).map(hash);
            permutations.band_keys(hashes, first, least, keys);
        });
        for band in 0..count {
            let of_band = keys.par_iter().skip(band).step_by(count).copied();
            let mut keyed: Vec<(u64, usize)> = of_band.zip(different.par_iter().copied()).collect();
            keyed.par_sort_unstable();
            for bucket in keyed.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1) {
                crowded += usize::from(join_bucket(examples, bucket, threshold, &mut joined));
                scattered.read(bucket.len());
            }
        }
    }
    Some(NearCopies { clusters: Clusters::of(joined), crowded })
}

/// Joins what is near in a bucket; whether there was more to compare than is compared.
fn join_bucket(examples: ExampleList<'_>, bucket: &[(u64, usize)], threshold: f64, joined: &mut Joined) -> bool {
    let mut kept: Vec<(usize, Option<Vec<u128>>)> = vec![];
    let mut left_out = false;
    for &(_, example) in bucket {
        let mut own: Option<Vec<u128>> = None;
        let mut found = false;
        for (other, set) in &mut kept {
            if joined.first(*other) == joined.first(example) {
                found = true;
                continue;
            }
            if !same_target(examples, *other, example) {
                continue;
            }
            let own = own.get_or_insert_with(|| gram_set(tokens(examples, example)));
            let set = set.get_or_insert_with(|| gram_set(tokens(examples, *other)));
            if is_near(own, set, threshold) {
                joined.join(*other, example);
                found = true;
            }
        }
        if kept.len() < COMPARED {
            kept.push((example, own));
        } else {
            left_out |= !found;
        }
    }
    left_out
}

fn tokens(examples: ExampleList<'_>, example: usize) -> &[u32] {
    let [dataset, i] = examples.places[example];
    match examples.datasets[dataset].kind() {
        Kind::Tokens(tokens) => tokens.tokens(i),
        Kind::Rows(_) => &[],
    }
}

/// Whether two texts are to be classified or valued alike; always where targets are tokens.
fn same_target(examples: ExampleList<'_>, a: usize, b: usize) -> bool {
    let of = |example: usize| {
        let [dataset, i] = examples.places[example];
        match examples.datasets[dataset].kind() {
            Kind::Tokens(tokens) => tokens.target_bytes(i),
            Kind::Rows(_) => None,
        }
    };
    of(a) == of(b)
}

/// N-grams as numbers of 96 bits, in the order of the text; of a text that is shorter than one itself, with its length.
fn grams(tokens: &[u32]) -> impl Iterator<Item = u128> + '_ {
    let joined = |gram: &[u32]| gram.iter().fold(0u128, |gram, &token| gram << 32 | u128::from(token));
    let short = (tokens.len() < GRAM).then(|| joined(tokens) | (tokens.len() as u128) << 96);
    short.into_iter().chain(tokens.windows(GRAM).map(joined))
}

/// The set of a text's n-grams, in order.
pub(super) fn gram_set(tokens: &[u32]) -> Vec<u128> {
    let mut set: Vec<u128> = grams(tokens).collect();
    set.sort_unstable();
    set.dedup();
    set
}

fn hash(gram: u128) -> u32 {
    (mixed(mixed(gram as u64) ^ (gram >> 64) as u64) >> 32) as u32
}

/// Whether two sets have at least this Jaccard similarity: what both have of what either has.
pub(super) fn is_near(a: &[u128], b: &[u128], threshold: f64) -> bool {
    let (shorter, longer) = (a.len().min(b.len()), a.len().max(b.len()));
    // the most that they can have in common
    if (shorter as f64) < threshold * longer as f64 {
        return false;
    }
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        let order = a[i].cmp(&b[j]);
        both += usize::from(order.is_eq());
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    both as f64 >= threshold * (a.len() + b.len() - both) as f64
}
