//! Another run folder whose curvature and query vectors are used: the curvature of one set of training data scores
//! any other.

use std::collections::BTreeMap;

use crate::attribution::store::Store;

/// Another run folder, open for reading.
#[derive(Debug)]
pub(in crate::job) struct Reused {
    pub store: Store,
    /// Hash of each stage's training examples.
    data: BTreeMap<String, [u8; 32]>,
    /// N of each stage.
    sizes: BTreeMap<String, usize>,
}

impl Reused {
    /// A store whose curvature was taken on examples of the given hashes and sizes, by stage.
    pub(in crate::job) fn new(store: Store, data: BTreeMap<String, [u8; 32]>, sizes: BTreeMap<String, usize>) -> Self {
        Self { store, data, sizes }
    }

    /// The hash of the examples that the curvature of a stage was taken on.
    pub(in crate::job) fn data(&self, stage: &str) -> Option<[u8; 32]> {
        self.data.get(stage).copied()
    }

    /// N of the stage that the curvature was taken for.
    pub(in crate::job) fn train_size(&self, stage: &str) -> Option<usize> {
        self.sizes.get(stage).copied()
    }
}
