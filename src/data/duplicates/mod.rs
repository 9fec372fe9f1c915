//! Which examples are copies of one another: exactly, or nearly by the n-grams of their tokens.
//!
//! Exact copies have the same tokens and targets (or the same inputs and target). Near copies are texts whose sets of
//! token n-grams have at least a given Jaccard similarity: candidates come from MinHash in bands (Broder 1997, Leskovec et
//! al., *Mining of Massive Datasets*, chapter 3), and each candidate pair is compared by the definition, so that what is
//! found is always true, and what is missed is known by its probability.

mod clusters;
mod exact;
mod min_hash;
mod near;
#[cfg(test)]
mod tests;

pub use self::clusters::Clusters;
pub use self::exact::{ExampleList, exact_copies};
pub use self::near::{GRAM, NearCopies, near_copies};
