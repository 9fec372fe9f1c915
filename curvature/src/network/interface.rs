//! What the library asks of a network: differentiate a batch and hand out taps of its tracked layers.

use crate::error::Error;
use crate::linalg::gemm::Products;
use crate::network::layer::LayerSpec;
use crate::network::objective::Objective;
use crate::network::tangent::Directions;
use crate::network::tap::{Positions, TapSink};

/// A model that can be differentiated for taps.
pub trait Network: Send + Sync {
    /// Examples that go through the model together.
    type Batch: Send + Sync;

    /// The tracked layers; [`crate::LayerId`] counts in this order.
    fn layers(&self) -> &[LayerSpec];

    /// Positions of the batch's examples. A layer whose rows are others says so in its tap.
    fn positions<'a>(&self, batch: &'a Self::Batch) -> &'a Positions;

    /// In which arithmetic its products run, and so those with its taps.
    fn products(&self) -> Products {
        Products::Exact
    }

    /// Runs the model forwards and backwards once and pushes every tracked layer's tap exactly once.
    ///
    /// Returns the value of the objective for each example, `[B]` (for a measurement: `f`, for a loss:
    /// the summed loss).
    ///
    /// # Errors
    /// [`Error::Objective`] if the model does not define the objective; whatever tensors or the sink report.
    fn differentiate(
        &self,
        batch: &Self::Batch,
        objective: Objective,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error>;

    /// Pushes taps whose sum over rows, `Σ_r s_r [a_r, 1]ᵀ`, is the product of the Gauss-Newton matrix of the batch's
    /// summed training loss, of all tracked layers jointly, with each direction: R rows of inputs, `Q · R` of output
    /// gradients, one direction below the other. They are for a [`crate::ProductSum`].
    ///
    /// # Errors
    /// [`Error::Objective`] if the network defines no such product, which is so unless it says otherwise; whatever
    /// tensors or the sink report.
    fn gauss_newton(
        &self,
        _batch: &Self::Batch,
        _directions: &Directions,
        _sink: &mut dyn TapSink,
    ) -> Result<(), Error> {
        Err(Error::Objective { objective: "a product with the Gauss-Newton matrix".into(), network: "this network" })
    }
}
