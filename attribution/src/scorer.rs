use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{GradientProducts, LayerSpec, Network, Objective, QuadraticForm, Tap, TapSink};

use crate::{Error, Sweep, VectorSource};

/// Scores of a contiguous range of training examples with all queries.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreColumns {
    /// Which training examples.
    pub examples: Range<usize>,
    /// `[examples, Q]`: predicted change of each query's measurement in its own unit, for one more copy
    /// of the example (METHOD §1.3).
    pub scores: Vec<f32>,
}

/// Streams training gradients past the queries' vectors of one leg.
///
/// `scale` multiplies every score: `1/N`, the weight one example has in the training objective.
/// Columns are handed to `take` in order, a chunk of batches at a time.
///
/// # Errors
/// [`Error::NonFiniteScore`]; the network's, `take`'s, [`Error::Interrupted`].
///
/// # Source
/// METHOD §3.2 (7).
pub fn score<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    start: usize,
    vectors: &dyn VectorSource<T>,
    leg: usize,
    scale: f64,
    mut take: impl FnMut(ScoreColumns) -> Result<(), Error>,
) -> Result<(), Error> {
    let layers = sweep.network.layers();
    let queries = vectors.queries();
    let mut state = (GradientProducts::<T>::default(), Vec::<f32>::new());
    let batch = |state: &mut (GradientProducts<T>, Vec<f32>), range: Range<usize>, batch: &N::Batch| {
        let mut sink = ScoreTaps { layers, products: &mut state.0, vectors, leg, scores: vec![0.0; range.len() * queries], failure: None };
        let found = sweep.network.differentiate(batch, Objective::TrainingLoss, &mut sink);
        if let Some(failure) = sink.failure {
            return Err(failure);
        }
        found?;
        if !sink.scores.iter().all(|score| score.is_finite()) {
            return Err(Error::NonFiniteScore(range));
        }
        state.1.extend(sink.scores.iter().map(|score| (score * scale) as f32));
        Ok(())
    };
    sweep.run(start, &mut state, batch, |state, chunk| {
        take(ScoreColumns { examples: chunk.examples, scores: std::mem::take(&mut state.1) })
    })
}

/// Self-influence `(1/N) <G_m, f(H) G_m>` of every example of the sweep, summed over layers, in nats or
/// the loss's own unit (METHOD §3.3). `take` gets ranges in order.
///
/// # Errors
/// As [`score`].
pub fn self_influence<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    start: usize,
    mut form: QuadraticForm<'_, T>,
    scale: f64,
    mut take: impl FnMut(Range<usize>, Vec<f32>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut values = Vec::new();
    let batch = |values: &mut Vec<f32>, range: Range<usize>, batch: &N::Batch| {
        sweep.network.differentiate(batch, Objective::TrainingLoss, &mut form)?;
        let found = form.take();
        if !found.iter().all(|value| value.is_finite()) {
            return Err(Error::NonFiniteScore(range));
        }
        values.extend(found.iter().map(|value| (value * scale) as f32));
        Ok(())
    };
    sweep.run(start, &mut values, batch, |values, chunk| take(chunk.examples, std::mem::take(values)))
}

struct ScoreTaps<'a, T> {
    layers: &'a [LayerSpec],
    products: &'a mut GradientProducts<T>,
    vectors: &'a dyn VectorSource<T>,
    leg: usize,
    scores: Vec<f64>,
    failure: Option<Error>,
}

impl<T: Real> TapSink for ScoreTaps<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let l = tap.layer.0;
        let vectors = self.vectors.vectors(self.leg, l).map_err(|error| {
            let message = error.to_string();
            self.failure = Some(error);
            ascribe_curvature::Error::Sink(message.into())
        })?;
        self.products.add_scores(tap, &self.layers[l], vectors, &mut self.scores)
    }
}
