use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{GradientProducts, Network, Objective};

use crate::scorer::ScoreTaps;
use crate::{ChunkEnd, Error, Sweep, VectorSource};

/// Streams one checkpoint's training gradients past its leg's vectors; every inner product is multiplied by `weight`,
/// `w_a / N_l`. Columns are handed to `take` in order, a chunk of batches at a time, in `f64`: `take(examples, scores,
/// end)` with `scores: [examples, Q]`.
///
/// The rows of `vectors` are opaque: several spectra of one query are several rows, and share the differentiation.
///
/// # Errors
/// [`Error::NonFiniteScore`]; the network's, `take`'s, [`Error::Interrupted`].
///
/// # Source
/// METHOD (14).
pub fn checkpoint_scores<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    start: usize,
    vectors: &dyn VectorSource<T>,
    leg: usize,
    weight: f64,
    mut take: impl FnMut(Range<usize>, Vec<f64>, ChunkEnd) -> Result<(), Error>,
) -> Result<(), Error> {
    let (layers, queries) = (sweep.network.layers(), vectors.queries());
    let mut products = GradientProducts::<T>::default();
    let batch = |columns: &mut Vec<f64>, range: Range<usize>, batch: &N::Batch| {
        let scores = vec![0.0; range.len() * queries];
        let mut sink = ScoreTaps { layers, products: &mut products, vectors, leg, scores, failure: None };
        let found = sweep.network.differentiate(batch, Objective::TrainingLoss, &mut sink);
        if let Some(failure) = sink.failure {
            return Err(failure);
        }
        found?;
        if !sink.scores.iter().all(|score| score.is_finite()) {
            return Err(Error::NonFiniteScore(range));
        }
        columns.extend(sink.scores.iter().map(|score| score * weight));
        Ok(())
    };
    sweep.run(start, &mut vec![], batch, |columns, chunk| take(chunk.examples.clone(), std::mem::take(columns), chunk))
}

/// Scores summed over checkpoints, legs and stages in `f64`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreSum {
    queries: usize,
    scores: Vec<f64>,
}

impl ScoreSum {
    /// Zero for every pair.
    pub fn new(examples: usize, queries: usize) -> Self {
        Self { queries, scores: vec![0.0; examples * queries] }
    }

    /// Adds `scores: [places, Q]`; `places` says which example of the sum each row is. Stages with data of their own
    /// have places of their own.
    pub fn add(&mut self, places: impl IntoIterator<Item = usize>, scores: &[f64]) {
        for (place, row) in places.into_iter().zip(scores.chunks_exact(self.queries)) {
            let sum = &mut self.scores[place * self.queries..(place + 1) * self.queries];
            sum.iter_mut().zip(row).for_each(|(sum, score)| *sum += score);
        }
    }

    /// `[examples, Q]`: predicted change of each query's measurement in its own unit, for one more copy of the example
    /// in every stage that has it.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }
}
