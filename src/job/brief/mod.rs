//! What a job's numbers depend on: its data, answers, passes, sets and groups, and the keys that say all of it.

pub(in crate::job) mod answers;
pub(in crate::job) mod checkpoints;
pub(in crate::job) mod data;
pub(in crate::job) mod example_groups;
pub(in crate::job) mod keys;
pub(in crate::job) mod layer_sets;
pub(in crate::job) mod options;
pub(in crate::job) mod reuse;
