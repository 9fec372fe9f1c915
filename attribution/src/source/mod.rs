//! Source: differentiation through training, approximated segment by segment (Bae et al. 2024).
//!
//! A [`Segment`](crate::trajectory::Segment) of training becomes a leg of a [`Walk`](crate::Walk):
//!
//! 1. [`fit_leg`] takes the segment's curvature at its checkpoints, or its pieces
//!    [`PooledCovariance`], [`LegCovariance`] and [`LambdaPool`] do where sums are kept on disk in between;
//! 2. under Adam and AdamW a [`Conditioner`] for each layer takes the place of the preconditioner;
//! 3. [`Walk::source`](crate::Walk::source) turns rates, weight decay and momentum of every segment into response and
//!    decay;
//! 4. [`crate::prepare_queries`] at the final checkpoint carries the queries, [`crate::score`] scores one checkpoint
//!    against its leg's vectors, [`ScoreSum`] adds the checkpoints up.
//!
//! Checkpoints are networks here: averaging their parameters first (FAST-Source) is the caller's, and gives legs with
//! one network.
//!
//! # Source
//! `docs/method.md`, Source.

mod conditioner;
mod error;
mod fit;
mod layer_rates;
mod leg_covariance;
mod legs;
mod pool;
mod scores;
mod self_influence;

pub use conditioner::Conditioner;
pub use error::SourceError;
pub use fit::{LegCheckpoint, LegCurvature, fit_leg};
pub(crate) use layer_rates::{at_rate, momentum_at_rate};
pub use leg_covariance::LegCovariance;
pub use legs::{SourceForm, SourceLeg, SourceOptions, exponents, forgotten, tracin_weight};
pub use pool::{LambdaPool, PooledCovariance};
pub use scores::ScoreSum;
pub use self_influence::{WalkCheckpoint, leg_self_influence, self_influence};
