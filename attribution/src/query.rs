//! Query gradients times the inverse curvature, computed a batch of queries at a time and handed to a sink.

use std::ops::Range;

use ascribe_curvature::contraction::{RotationRoute, Shape};
use ascribe_curvature::gemm::Real;
use ascribe_curvature::{
    Eigenbasis, Eigenpairs, GradientProducts, LayerId, LayerSpec, LowRank, Measurement, Network, Norms, Objective,
    Reduction, Tap, TapSink, Vectors,
};

use crate::walk::Start;
use crate::{Error, LegVectors, Sweep, VectorForm, Walk};

/// Whether queries are scored one by one or as one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate<'w> {
    /// Each query by itself.
    Each,
    /// The sum of all measurements.
    Sum,
    /// Their mean.
    Mean,
    /// The sum of all measurements, each times the weight that the query has here, `[Q]`.
    Weighted(&'w [f64]),
}

impl Aggregate<'_> {
    /// Rows of the score matrix for this many queries.
    pub fn rows(self, queries: usize) -> usize {
        match self {
            Self::Each => queries,
            Self::Sum | Self::Mean | Self::Weighted(_) => 1,
        }
    }
}

/// Where the inverse-Hessian-vector products of queries go.
pub trait VectorSink<T> {
    /// In which form it wants them.
    fn form(&self) -> VectorForm {
        VectorForm::Full
    }

    /// Takes the products of a contiguous range of queries for one layer of one leg.
    ///
    /// # Errors
    /// If they cannot be kept.
    fn put(&mut self, leg: usize, layer: LayerId, queries: Range<usize>, found: &LegVectors<T>) -> Result<(), Error>;
}

/// Where the scorer finds them again.
pub trait VectorSource<T>: Sync {
    /// All queries' products for one layer of one leg.
    ///
    /// # Errors
    /// If they cannot be read.
    fn vectors(&self, leg: usize, layer: LayerId) -> Result<Vectors<'_, T>, Error>;

    /// Says that a layer's products are not needed before the next batch.
    fn used(&self, _leg: usize, _layer: LayerId) {}

    /// Rows of the score matrix.
    fn queries(&self) -> usize;
}

/// Inverse-Hessian-vector products kept in memory.
#[derive(Debug, Clone)]
pub struct MemoryVectors<T> {
    form: VectorForm,
    queries: usize,
    /// By leg and layer.
    places: Vec<Place<T>>,
    layers: usize,
}

/// One layer's products for one leg.
#[derive(Debug, Clone)]
struct Place<T> {
    rank: Option<usize>,
    /// `[Q, O, columns]`, or the left factors, and the right ones.
    numbers: [Vec<T>; 2],
    /// By query.
    norms: Vec<Norms>,
}

impl<T: Real> MemoryVectors<T> {
    /// Room for this many queries.
    pub fn new(layers: &[LayerSpec], legs: usize, queries: usize) -> Self {
        Self::of_form(VectorForm::Full, layers, legs, queries)
    }

    /// Room for this many queries in a form.
    pub fn of_form(form: VectorForm, layers: &[LayerSpec], legs: usize, queries: usize) -> Self {
        let place = |layer: &LayerSpec| {
            let zeros = |n: usize| vec![T::of(0.0); queries * n];
            let rank = form.rank_at(layer);
            let numbers = match rank {
                None => [zeros(layer.parameters()), vec![]],
                Some(rank) => [zeros(rank * layer.outputs), zeros(rank * layer.columns())],
            };
            Place { rank, numbers, norms: vec![Norms::default(); queries] }
        };
        let places = (0..legs).flat_map(|_| layers.iter().map(place)).collect();
        Self { form, queries, places, layers: layers.len() }
    }

    /// What is kept of each query's vectors at one layer of one leg; zeros unless the form is low rank.
    pub fn norms(&self, leg: usize, layer: LayerId) -> &[Norms] {
        &self.places[leg * self.layers + layer.0].norms
    }
}

impl<T: Real> VectorSink<T> for MemoryVectors<T> {
    fn form(&self) -> VectorForm {
        self.form
    }

    fn put(&mut self, leg: usize, layer: LayerId, queries: Range<usize>, found: &LegVectors<T>) -> Result<(), Error> {
        let place = &mut self.places[leg * self.layers + layer.0];
        let sides: [&[T]; 2] = match found.vectors() {
            Vectors::Full(vectors) => [vectors, &[]],
            Vectors::LowRank(LowRank { left, right, .. }) => [left, right],
        };
        for (kept, side) in place.numbers.iter_mut().zip(sides) {
            let size = side.len() / queries.len().max(1);
            kept[queries.start * size..queries.end * size].copy_from_slice(side);
        }
        place.norms[queries].iter_mut().zip(&found.norms).for_each(|(kept, norms)| *kept = *norms);
        Ok(())
    }
}

impl<T: Real> VectorSource<T> for MemoryVectors<T> {
    fn vectors(&self, leg: usize, layer: LayerId) -> Result<Vectors<'_, T>, Error> {
        let Place { rank, numbers: [left, right], .. } = &self.places[leg * self.layers + layer.0];
        Ok(match *rank {
            None => Vectors::Full(left),
            Some(rank) => Vectors::LowRank(LowRank { rank, left, right }),
        })
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
/// # Panics
/// If [`Aggregate::Weighted`] has no weight for a query of the sweep.
/// # Source
/// `docs/method.md`, Score and Source.
pub fn prepare_queries<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    measurement: Measurement,
    reduction: Reduction,
    aggregate: Aggregate<'_>,
    walks: &[&Walk<'_, T>],
    sink: &mut dyn VectorSink<T>,
) -> Result<Vec<f64>, Error> {
    let layers = sweep.network.layers();
    let objective = Objective::Measurement(measurement, reduction);
    let mut values = Vec::with_capacity(sweep.range.len());
    let mut sums: Vec<Vec<T>> = match aggregate {
        Aggregate::Each => vec![],
        Aggregate::Sum | Aggregate::Mean | Aggregate::Weighted(_) => {
            layers.iter().map(|layer| vec![T::of(0.0); layer.parameters()]).collect()
        }
    };
    let weight = |query: usize| match aggregate {
        Aggregate::Mean => T::of(1.0 / sweep.range.len() as f64),
        Aggregate::Each | Aggregate::Sum => T::of(1.0),
        Aggregate::Weighted(weights) => T::of(weights[query]),
    };
    let mut products = GradientProducts::default().with_products(sweep.network.products());
    let batch = |_: &mut (), range: Range<usize>, batch: &N::Batch| -> Result<(), Error> {
        let mut failure = None;
        let mut carry = QueryTaps {
            take: |tap: Tap<'_>| {
                let layer = tap.layer.0;
                let spec = &layers[layer];
                let mut gradients = Gradients { tap, spec, first: range.start, products: &mut products, found: vec![] };
                match sums.get_mut(layer) {
                    Some(sum) => {
                        let place = gradients.place(None)?;
                        let found = gradients.found[place].1.chunks_exact(spec.parameters());
                        for (gradient, query) in found.zip(range.clone()) {
                            let weight = weight(query);
                            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * *g);
                        }
                    }
                    None => put_products(walks, layer, spec, range.clone(), sink, |walk, taker| {
                        gradients.start(walk, taker)
                    })?,
                }
                Ok(())
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
    for (layer, mut sum) in sums.into_iter().enumerate() {
        put_products(walks, layer, &layers[layer], 0..1, sink, |_, taker| Ok(Start::Gradients(taker.of(&mut sum))))?;
    }
    Ok(values)
}

/// Hands one layer's vectors of some queries on, those of every leg of all walks, legs numbered through. `start` says
/// where a walk begins.
fn put_products<T: Real>(
    walks: &[&Walk<'_, T>],
    layer: usize,
    spec: &LayerSpec,
    queries: Range<usize>,
    sink: &mut dyn VectorSink<T>,
    mut start: impl FnMut(&Walk<'_, T>, Taker) -> Result<Start<T>, Error>,
) -> Result<(), Error> {
    let form = sink.form();
    let mut first_leg = 0;
    for (k, walk) in walks.iter().enumerate() {
        let start = start(walk, if k + 1 == walks.len() { Taker::Last } else { Taker::Earlier })?;
        walk.products(layer, spec, start, |leg, product| {
            sink.put(first_leg + leg, LayerId(layer), queries.clone(), &product.into_form(form)?)
        })?;
        first_leg += walk.legs.len();
    }
    Ok(())
}

/// Which of the walks that begin with the same gradients takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    Earlier,
    Last,
}

impl Taker {
    /// The gradients, moved to the last one.
    fn of<T: Clone>(self, gradients: &mut Vec<T>) -> Vec<T> {
        match self {
            Self::Earlier => gradients.clone(),
            Self::Last => std::mem::take(gradients),
        }
    }
}

/// Gradients of a batch of queries at one layer, in the bases that walks want them in; each is formed once.
struct Gradients<'a, T> {
    tap: Tap<'a>,
    spec: &'a LayerSpec,
    /// The first query of the batch.
    first: usize,
    products: &'a mut GradientProducts<T>,
    /// By address of the eigenvectors, 0 for the standard basis.
    found: Vec<([usize; 2], Vec<T>)>,
}

impl<T: Real> Gradients<'_, T> {
    /// What a walk begins with: its last leg's eigenbasis is reached by rotating rows where gradients would cost more.
    fn start(&mut self, walk: &Walk<'_, T>, taker: Taker) -> Result<Start<T>, Error> {
        let shape = Shape::of(self.tap.positions, self.spec.outputs, self.spec.columns());
        let by_rows = |basis: &&Eigenbasis<T>| RotationRoute::cheapest(shape, basis.size()).has_rows();
        let entrance = walk.entrance(self.tap.layer.0).filter(by_rows);
        let place = self.place(entrance)?;
        let gradients = taker.of(&mut self.found[place].1);
        Ok(if entrance.is_some() { Start::Entered(gradients) } else { Start::Gradients(gradients) })
    }

    /// Where `[queries, O, columns]` stand in a basis, or as they are.
    fn place(&mut self, basis: Option<&Eigenbasis<T>>) -> Result<usize, Error> {
        let address = |pairs: &Eigenpairs<T>| pairs.vectors.address();
        let name = basis.map_or([0, 0], |basis| [address(&basis.output), address(&basis.input)]);
        if let Some(place) = self.found.iter().position(|(found, _)| *found == name) {
            return Ok(place);
        }
        let gradients = match basis {
            Some(basis) => self.products.rotated_gradients(self.tap, self.spec, basis)?,
            None => self.products.gradients(self.tap, self.spec)?,
        };
        let mut of_queries = gradients.chunks_exact(self.spec.parameters());
        if let Some(bad) = of_queries.position(|g| !g.iter().all(|x| x.wide().is_finite())) {
            return Err(Error::NonFiniteQuery { query: self.first + bad, layer: self.spec.name.clone() });
        }
        self.found.push((name, gradients));
        Ok(self.found.len() - 1)
    }
}

/// Hands taps on; a failure of the taker is kept aside, because sinks speak the curvature's errors.
pub(crate) struct QueryTaps<'a, F> {
    pub(crate) take: F,
    pub(crate) failure: &'a mut Option<Error>,
}

impl<F: FnMut(Tap<'_>) -> Result<(), Error>> TapSink for QueryTaps<'_, F> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        (self.take)(tap).map_err(|error| {
            let message = error.to_string();
            *self.failure = Some(error);
            ascribe_curvature::Error::Sink(message.into())
        })
    }
}
