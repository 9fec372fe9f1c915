use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{GradientProducts, LayerSpec, Measurement, Network, Objective, Reduction, Tap, TapSink};

use crate::{Error, Sweep, Walk};

/// Whether queries are scored one by one or as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// Each query by itself.
    Each,
    /// The sum of all measurements.
    Sum,
    /// Their mean.
    Mean,
}

impl Aggregate {
    /// Rows of the score matrix for this many queries.
    pub fn rows(self, queries: usize) -> usize {
        match self {
            Self::Each => queries,
            Self::Sum | Self::Mean => 1,
        }
    }
}

/// Where the inverse-Hessian-vector products of queries go.
pub trait VectorSink<T> {
    /// Takes the products of a contiguous range of queries for one layer of one leg, `[queries, O, columns]`.
    ///
    /// # Errors
    /// If they cannot be kept.
    fn put(&mut self, leg: usize, layer: usize, queries: Range<usize>, vectors: &[T]) -> Result<(), Error>;
}

/// Where the scorer finds them again.
pub trait VectorSource<T>: Sync {
    /// All queries' products for one layer of one leg, `[Q, O, columns]`.
    ///
    /// # Errors
    /// If they cannot be read.
    fn vectors(&self, leg: usize, layer: usize) -> Result<&[T], Error>;

    /// Rows of the score matrix.
    fn queries(&self) -> usize;
}

/// Inverse-Hessian-vector products kept in memory.
#[derive(Debug, Clone)]
pub struct MemoryVectors<T> {
    queries: usize,
    sizes: Vec<usize>,
    vectors: Vec<Vec<T>>,
}

impl<T: Real> MemoryVectors<T> {
    /// Room for this many queries.
    pub fn new(layers: &[LayerSpec], legs: usize, queries: usize) -> Self {
        let sizes: Vec<usize> = layers.iter().map(LayerSpec::parameters).collect();
        let one_leg = sizes.iter().map(|size| vec![T::of(0.0); size * queries]);
        Self { queries, vectors: (0..legs).flat_map(|_| one_leg.clone()).collect(), sizes }
    }
}

impl<T: Real> VectorSink<T> for MemoryVectors<T> {
    fn put(&mut self, leg: usize, layer: usize, queries: Range<usize>, vectors: &[T]) -> Result<(), Error> {
        let size = self.sizes[layer];
        let place = queries.start * size..queries.end * size;
        self.vectors[leg * self.sizes.len() + layer][place].copy_from_slice(vectors);
        Ok(())
    }
}

impl<T: Real> VectorSource<T> for MemoryVectors<T> {
    fn vectors(&self, leg: usize, layer: usize) -> Result<&[T], Error> {
        Ok(&self.vectors[leg * self.sizes.len() + layer])
    }

    fn queries(&self) -> usize {
        self.queries
    }
}

/// Takes the gradients of all queries of `sweep`, carries them along each of `walks`, and puts every leg's
/// products into `sink`: one differentiation for several methods, dampings or time scales. Legs are numbered
/// through all walks, those of the first walk first. Returns each query's measurement.
///
/// # Errors
/// [`Error::NonFiniteQuery`]; the network's, the sink's, [`Error::Interrupted`].
///
/// # Source
/// METHOD §3.2, §3.5, §4.1.
pub fn prepare_queries<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    measurement: Measurement,
    reduction: Reduction,
    aggregate: Aggregate,
    walks: &[&Walk<'_, T>],
    sink: &mut dyn VectorSink<T>,
) -> Result<Vec<f64>, Error> {
    let layers = sweep.network.layers();
    let objective = Objective::Measurement(measurement, reduction);
    let mut values = Vec::with_capacity(sweep.range.len());
    let mut sums: Vec<Vec<T>> = match aggregate {
        Aggregate::Each => vec![],
        Aggregate::Sum | Aggregate::Mean => layers.iter().map(|layer| vec![T::of(0.0); layer.parameters()]).collect(),
    };
    let weight = match aggregate {
        Aggregate::Mean => T::of(1.0 / sweep.range.len() as f64),
        Aggregate::Each | Aggregate::Sum => T::of(1.0),
    };
    let batch = |_: &mut (), range: Range<usize>, batch: &N::Batch| -> Result<(), Error> {
        let mut failure = None;
        let mut carry = QueryTaps {
            layers,
            products: GradientProducts::default(),
            take: |layer: usize, gradients: Vec<T>| {
                let size = layers[layer].parameters();
                if let Some(bad) = gradients.chunks_exact(size).position(|g| !g.iter().all(|x| x.wide().is_finite())) {
                    let layer = layers[layer].name.clone();
                    return Err(Error::NonFiniteQuery { query: range.start + bad, layer });
                }
                match sums.get_mut(layer) {
                    Some(sum) => {
                        for gradient in gradients.chunks_exact(size) {
                            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * *g);
                        }
                        Ok(())
                    }
                    None => carry_all(walks, layer, &layers[layer], gradients, |leg, vectors| {
                        sink.put(leg, layer, range.clone(), vectors)
                    }),
                }
            },
            failure: &mut failure,
        };
        let found = sweep.network.differentiate(batch, objective, &mut carry);
        if let Some(failure) = failure {
            return Err(failure);
        }
        values.extend(found?);
        Ok(())
    };
    sweep.run(sweep.range.start, &mut (), batch, |_, _| Ok(()))?;
    for (layer, sum) in sums.into_iter().enumerate() {
        carry_all(walks, layer, &layers[layer], sum, |leg, vectors| sink.put(leg, layer, 0..1, vectors))?;
    }
    Ok(values)
}

/// Carries the same gradients along every walk.
fn carry_all<T: Real>(
    walks: &[&Walk<'_, T>],
    layer: usize,
    spec: &LayerSpec,
    gradients: Vec<T>,
    mut take: impl FnMut(usize, &[T]) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some((last, others)) = walks.split_last() else { return Ok(()) };
    let mut first_leg = 0;
    for walk in others {
        walk.carry(layer, spec, gradients.clone(), |leg, vectors| take(first_leg + leg, vectors))?;
        first_leg += walk.legs.len();
    }
    last.carry(layer, spec, gradients, |leg, vectors| take(first_leg + leg, vectors))
}

/// Forms each layer's gradients for a batch and hands them on; a failure of the taker is kept aside,
/// because sinks speak the curvature's errors.
struct QueryTaps<'a, T, F> {
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
    take: F,
    failure: &'a mut Option<Error>,
}

impl<T: Real, F: FnMut(usize, Vec<T>) -> Result<(), Error>> TapSink for QueryTaps<'_, T, F> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let gradients = self.products.gradients(tap, &self.layers[tap.layer.0])?;
        (self.take)(tap.layer.0, gradients).map_err(|error| {
            let message = error.to_string();
            *self.failure = Some(error);
            ascribe_curvature::Error::Sink(message.into())
        })
    }
}
