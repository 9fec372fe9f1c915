//! Attribution methods as walks over curvature factors: queries, scores, rankings, the store that keeps
//! them, and their evaluation against retraining.
//!
//! This crate knows factors, walks, ids and its own artifacts on disk. It does not know tokenizers,
//! configurations or terminals.

mod by_place;
mod error;
pub mod evaluate;
pub mod foreign_file;
mod joint;
mod leg_product;
mod observer;
mod pair_scores;
mod pass;
mod query;
pub mod ranking;
mod scorer;
pub mod source;
pub mod stability;
pub mod store;
pub mod stored_numbers;
pub mod trajectory;
mod walk;

pub use by_place::{PlaceScores, score_by_place, score_one};
pub use error::Error;
pub use joint::{
    Blocks, Carrying, Checkpoints, MatrixFree, MatrixFreeSystems, Refined, Refinement, SolvedMap, Subspace,
    SubspaceSolved, SubspaceSystem, Visit, carry_queries, refine_queries, sample_gradients, solve_in_subspace,
};
pub use leg_product::{LegVectors, VectorForm};
pub use observer::{Event, Observer, Pass};
pub use pair_scores::{PairRows, score_pairs};
pub use pass::{CHUNK_POSITIONS, ChunkEnd, Examples, LabelMode, SAVE_INTERVAL, Sweep};
pub use query::{Aggregate, MemoryVectors, VectorSink, VectorSource, prepare_queries};
pub use scorer::{LayerPart, QueryRows, ScoreColumns, quadratic_forms, score, score_in_sets};
pub use walk::{Buffer, Leg, LegFn, Walk};
