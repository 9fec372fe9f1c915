//! Scores of training examples: products of their gradients with the prepared queries' vectors.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{
    GradientProducts, LayerId, LayerSlice, LayerSpec, Network, Objective, QuadraticForm, Tap, TapSink, Tee,
};

use crate::{ChunkEnd, Error, Sweep, VectorSource};

/// Query vectors that training gradients are multiplied with, and what their products count.
#[derive(Clone, Copy)]
pub struct QueryRows<'a, T> {
    /// Where the vectors are.
    pub vectors: &'a dyn VectorSource<T>,
    /// The leg whose vectors are taken.
    pub leg: usize,
    /// Multiplies every product: `w_a / N_l`; `1 / N` for influence functions.
    pub weight: f64,
}

impl<T> std::fmt::Debug for QueryRows<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryRows").field("leg", &self.leg).field("weight", &self.weight).finish_non_exhaustive()
    }
}

/// Scores of a contiguous range of training examples with all query rows.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreColumns {
    /// Which training examples.
    pub examples: Range<usize>,
    /// `[examples, 1 + sets, rows]`: predicted change of each query's measurement in its own unit, for one more copy
    /// of the example (`docs/method.md`, Score), as far as this checkpoint contributes to it; over all layers, then over the
    /// layers of each set.
    pub scores: Vec<f64>,
    /// `[examples]`: weight · `<G_m, f(H) G_m>`, if a form was given.
    pub self_influence: Vec<f64>,
}

/// Streams the training gradients of one checkpoint past the queries' vectors of one or several walks and, if
/// `form` is given, past themselves (`docs/method.md`, Score): its values are multiplied by the number beside it.
///
/// The rows of all `rows` stand in their order in a score column. Columns are handed to `take` in order, a chunk of
/// batches at a time.
///
/// # Errors
/// [`Error::NonFiniteScore`]; the network's, `take`'s, [`Error::Interrupted`].
///
/// # Source
/// `docs/method.md`, Score and Source.
pub fn score<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    start: usize,
    rows: &[QueryRows<'_, T>],
    form: Option<(QuadraticForm<'_, T>, f64)>,
    take: impl FnMut(ScoreColumns, ChunkEnd) -> Result<(), Error>,
) -> Result<(), Error> {
    score_in_sets(sweep, start, rows, &[], form, take)
}

/// What a score is summed over by itself.
#[derive(Debug, Clone, Copy)]
pub enum LayerPart<'a> {
    /// Whole layers, by their numbers.
    Layers(&'a [usize]),
    /// Chosen outputs or columns of some layers, whose products alone are summed.
    Slices(&'a [LayerSlice]),
}

/// As [`score`], and the same summed over each of `sets` alone. The product of a layer is computed once and added to the
/// sums of all sets that have the whole layer, and a sum over such a set has the bits that it would have if no other
/// layer were tracked. Those of slices are computed for each.
///
/// # Errors
/// As [`score`].
pub fn score_in_sets<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    start: usize,
    rows: &[QueryRows<'_, T>],
    sets: &[LayerPart<'_>],
    mut form: Option<(QuadraticForm<'_, T>, f64)>,
    mut take: impl FnMut(ScoreColumns, ChunkEnd) -> Result<(), Error>,
) -> Result<(), Error> {
    let layers = sweep.network.layers();
    let counts: Vec<usize> = rows.iter().map(|rows| rows.vectors.queries()).collect();
    let width: usize = counts.iter().sum();
    let weights: Vec<f64> =
        rows.iter().zip(&counts).flat_map(|(rows, count)| std::iter::repeat_n(rows.weight, *count)).collect();
    let mut products = GradientProducts::<T>::default().with_products(sweep.network.products());
    let batch = |columns: &mut [Vec<f64>; 2], range: Range<usize>, batch: &N::Batch| {
        let sums = vec![vec![0.0; range.len() * width]; 1 + sets.len()];
        let mut sink = ScoreTaps { layers, products: &mut products, rows, sets, sums, failure: None };
        let found = match &mut form {
            Some((form, _)) => sweep.network.differentiate(batch, Objective::TrainingLoss, &mut Tee(&mut sink, form)),
            None => sweep.network.differentiate(batch, Objective::TrainingLoss, &mut sink),
        };
        if let Some(failure) = sink.failure {
            return Err(failure);
        }
        found?;
        let own = form.as_mut().map(|(form, _)| form.take()).unwrap_or_default();
        if !sink.sums.iter().flatten().chain(&own).all(|score| score.is_finite()) {
            return Err(Error::NonFiniteScore(range));
        }
        for m in 0..range.len() {
            for sum in &sink.sums {
                let column = &sum[m * width..(m + 1) * width];
                columns[0].extend(column.iter().zip(&weights).map(|(score, weight)| score * weight));
            }
        }
        let weight = form.as_ref().map_or(1.0, |(_, weight)| *weight);
        columns[1].extend(own.iter().map(|value| value * weight));
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

/// Adds up the scores of one batch over its layers; a failure of a source is kept aside, because sinks speak the
/// curvature's errors.
struct ScoreTaps<'a, T> {
    layers: &'a [LayerSpec],
    products: &'a mut GradientProducts<T>,
    rows: &'a [QueryRows<'a, T>],
    sets: &'a [LayerPart<'a>],
    /// Over all layers, then over those of each set: `[examples, rows]`, not weighted.
    sums: Vec<Vec<f64>>,
    failure: Option<Error>,
}

impl<T: Real> TapSink for ScoreTaps<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let l = tap.layer.0;
        let vectors =
            self.rows.iter().map(|rows| rows.vectors.vectors(rows.leg, LayerId(l))).collect::<Result<Vec<_>, _>>();
        let vectors = vectors.map_err(|error| {
            let message = error.to_string();
            self.failure = Some(error);
            ascribe_curvature::Error::Sink(message.into())
        })?;
        let has_layer = |sum: usize| sum == 0 || matches!(self.sets[sum - 1], LayerPart::Layers(of) if of.contains(&l));
        let sums = self.sums.iter_mut().enumerate().filter(|(sum, _)| has_layer(*sum));
        let mut sums: Vec<&mut [f64]> = sums.map(|(_, scores)| scores.as_mut_slice()).collect();
        self.products.add_scores_to_each(tap, &self.layers[l], &vectors, &mut sums)?;
        for (set, sum) in self.sets.iter().zip(&mut self.sums[1..]) {
            let LayerPart::Slices(slices) = set else { continue };
            for slice in slices.iter().filter(|slice| slice.layer == l) {
                self.products.add_sliced_scores(tap, &self.layers[l], slice, &vectors, sum)?;
            }
        }
        self.rows.iter().for_each(|rows| rows.vectors.used(rows.leg, LayerId(l)));
        Ok(())
    }
}
