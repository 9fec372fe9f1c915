//! Exact copies: examples with the same contents.

use rayon::prelude::*;

use super::clusters::{Clusters, Joined};
use crate::data::dataset::{Dataset, Kind};

/// Examples of several datasets in one order: for each its dataset and its place there.
#[derive(Debug, Clone, Copy)]
pub struct ExampleList<'a> {
    /// The datasets.
    pub datasets: &'a [&'a Dataset],
    /// A dataset and an example of it.
    pub places: &'a [[usize; 2]],
}

/// Examples that are read at any place before their pages leave the memory: each may have brought 64 KiB of each array.
const AT_ANY_PLACE: usize = 512;

/// Examples of files that are read at any place, and not in their order: from time to time all that was read leaves the
/// memory.
#[derive(Debug)]
pub(super) struct Scattered<'a> {
    examples: ExampleList<'a>,
    read: usize,
}

impl<'a> Scattered<'a> {
    /// These, none of which was read yet.
    pub(super) fn new(examples: ExampleList<'a>) -> Self {
        Self { examples, read: 0 }
    }

    /// Says that so many were read.
    pub(super) fn read(&mut self, count: usize) {
        self.read += count;
        if self.read >= AT_ANY_PLACE {
            self.examples.datasets.iter().for_each(|dataset| dataset.forget());
            self.read = 0;
        }
    }
}

impl ExampleList<'_> {
    /// Whether two examples have the same tokens and targets, or the same inputs and target.
    fn same(self, a: usize, b: usize) -> bool {
        let [[first, i], [second, j]] = [a, b].map(|example| self.places[example]);
        match (self.datasets[first].kind(), self.datasets[second].kind()) {
            (Kind::Tokens(first), Kind::Tokens(second)) => first.has_contents_of(i, second, j),
            (Kind::Rows(first), Kind::Rows(second)) => first.has_contents_of(i, second, j),
            _ => false,
        }
    }
}

/// Clusters of exact copies: examples with the same tokens and the same targets, or with the same inputs and target.
/// Ids and other fields do not matter.
///
/// Takes one sort of 8 bytes for each example; equal hashes of contents are compared by the contents.
pub fn exact_copies(examples: ExampleList<'_>) -> Clusters {
    Clusters::of(joined_exactly(examples))
}

pub(super) fn joined_exactly(examples: ExampleList<'_>) -> Joined {
    let key = |&[dataset, i]: &[usize; 2]| examples.datasets[dataset].key(i);
    let mut keys: Vec<u64> = examples.places.par_iter().map(key).collect();
    keys.par_sort_unstable();
    let repeated: Vec<u64> = keys.chunk_by(|a, b| a == b).filter(|run| run.len() > 1).map(|run| run[0]).collect();
    drop(keys);
    let mut joined = Joined::default();
    if repeated.is_empty() {
        return joined;
    }
    let places = examples.places.par_iter().enumerate();
    let mut keyed: Vec<(u64, usize)> = places
        .map(|(example, place)| (key(place), example))
        .filter(|(key, _)| repeated.binary_search(key).is_ok())
        .collect();
    keyed.par_sort_unstable();
    let mut scattered = Scattered::new(examples);
    for run in keyed.chunk_by(|a, b| a.0 == b.0) {
        // the first example of each content that has this hash: one, unless somebody made two collide
        let mut firsts: Vec<usize> = vec![];
        for &(_, example) in run {
            match firsts.iter().find(|&&first| examples.same(first, example)) {
                Some(&first) => joined.join(first, example),
                None => firsts.push(example),
            }
            scattered.read(2);
        }
    }
    joined
}
