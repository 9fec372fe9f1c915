//! Attribution methods as walks over curvature factors: queries, scores, rankings, the store that keeps
//! them, and their evaluation against retraining.
//!
//! This crate knows factors, walks, ids and its own artifacts on disk. It does not know tokenizers,
//! configurations or terminals.

pub mod evaluate;
pub mod ranking;
pub mod store;
pub mod trajectory;
