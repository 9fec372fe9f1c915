//! What an architecture builds: a network that runs batches, and what there is to say about it.

use candle_core::Tensor;

use super::error::LoadError;
use super::footprint::Footprint;
use super::limits::Limits;
use super::tracking::Tracked;
use crate::curvature::{Directions, Error, Graphs, Objective, TapSink};
use crate::data::{Batch, Labels};

/// What runs, whichever its architecture is.
pub(crate) trait Body: std::fmt::Debug + Send + Sync {
    /// Runs one batch forwards and backwards.
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error>;

    /// Taps of the products of the loss's Gauss-Newton matrix with directions.
    fn gauss_newton(
        &self,
        batch: &Batch,
        directions: &Directions,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<(), Error>;

    /// Outputs of the head: of every row, or of every example.
    fn logits(&self, batch: &Batch) -> Result<Tensor, Error>;

    /// Reads the parameters that are not in memory once, section by section, so that damaged ones are found
    /// before work.
    fn check(&self) -> Result<(), LoadError>;
}

/// What an architecture builds of a checkpoint's folder.
pub(crate) struct Loaded {
    pub(super) body: Box<dyn Body>,
    pub(super) tracked: Tracked,
    pub(super) limits: Limits,
    /// What a model gives for a whole text, if it gives that.
    pub(super) labels: Option<Labels>,
    pub(super) footprint: Footprint,
}

/// The error about a batch of another kind than the model takes.
pub(super) fn wrong_batch() -> Error {
    Error::Objective { objective: "a batch of another kind".into(), network: "this model" }
}
