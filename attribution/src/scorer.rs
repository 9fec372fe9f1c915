use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{GradientProducts, LayerSpec, Network, Objective, QuadraticForm, Tap, TapSink, Tee};

use crate::{ChunkEnd, Error, Sweep, VectorSource};

/// Scores of a contiguous range of training examples with all queries.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreColumns {
    /// Which training examples.
    pub examples: Range<usize>,
    /// `[examples, Q]`: predicted change of each query's measurement in its own unit, for one more copy
    /// of the example (METHOD §1.3).
    pub scores: Vec<f32>,
    /// `[examples]`: `scale · <G_m, f(H) G_m>`, if a form was given.
    pub self_influence: Vec<f32>,
}

/// Streams training gradients past the queries' vectors of one leg and, if `form` is given, past
/// themselves (METHOD §3.3).
///
/// `scale` multiplies every score: `1/N`, the weight one example has in the training objective.
/// Columns are handed to `take` in order, a chunk of batches at a time; the flag says that it is time to
/// save.
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
    mut form: Option<QuadraticForm<'_, T>>,
    mut take: impl FnMut(ScoreColumns, ChunkEnd) -> Result<(), Error>,
) -> Result<(), Error> {
    let layers = sweep.network.layers();
    let queries = vectors.queries();
    let mut products = GradientProducts::<T>::default();
    let batch = |columns: &mut [Vec<f32>; 2], range: Range<usize>, batch: &N::Batch| {
        let scores = vec![0.0; range.len() * queries];
        let mut sink = ScoreTaps { layers, products: &mut products, vectors, leg, scores, failure: None };
        let found = match &mut form {
            Some(form) => sweep.network.differentiate(batch, Objective::TrainingLoss, &mut Tee(&mut sink, form)),
            None => sweep.network.differentiate(batch, Objective::TrainingLoss, &mut sink),
        };
        if let Some(failure) = sink.failure {
            return Err(failure);
        }
        found?;
        let own = form.as_mut().map(QuadraticForm::take).unwrap_or_default();
        if !sink.scores.iter().chain(&own).all(|score| score.is_finite()) {
            return Err(Error::NonFiniteScore(range));
        }
        columns[0].extend(sink.scores.iter().map(|score| (score * scale) as f32));
        columns[1].extend(own.iter().map(|value| (value * scale) as f32));
        Ok(())
    };
    sweep.run(start, &mut [vec![], vec![]], batch, |columns, chunk| {
        let [scores, self_influence] = std::mem::take(columns);
        take(ScoreColumns { examples: chunk.examples.clone(), scores, self_influence }, chunk)
    })
}

/// `<g, f(H) g>` of every example's gradient of `objective`, in order.
///
/// # Errors
/// As [`score`].
pub fn quadratic_forms<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    objective: Objective,
    mut form: QuadraticForm<'_, T>,
) -> Result<Vec<f64>, Error> {
    let mut values = Vec::with_capacity(sweep.range.len());
    let batch = |values: &mut Vec<f64>, range: Range<usize>, batch: &N::Batch| {
        sweep.network.differentiate(batch, objective, &mut form)?;
        let found = form.take();
        if !found.iter().all(|value| value.is_finite()) {
            return Err(Error::NonFiniteScore(range));
        }
        values.extend(found);
        Ok(())
    };
    sweep.run(sweep.range.start, &mut values, batch, |_, _| Ok(()))?;
    Ok(values)
}

/// Adds up the scores of one batch over its layers, for one leg; a failure of the source is kept aside,
/// because sinks speak the curvature's errors.
pub(crate) struct ScoreTaps<'a, T> {
    pub(crate) layers: &'a [LayerSpec],
    pub(crate) products: &'a mut GradientProducts<T>,
    pub(crate) vectors: &'a dyn VectorSource<T>,
    pub(crate) leg: usize,
    /// `[examples, Q]`, not scaled.
    pub(crate) scores: Vec<f64>,
    pub(crate) failure: Option<Error>,
}

impl<T: Real> TapSink for ScoreTaps<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let l = tap.layer.0;
        let vectors = self.vectors.vectors(self.leg, l).map_err(|error| {
            let message = error.to_string();
            self.failure = Some(error);
            ascribe_curvature::Error::Sink(message.into())
        })?;
        self.products.add_scores(tap, &self.layers[l], &[vectors], &mut self.scores)
    }
}
