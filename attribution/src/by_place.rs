//! Scores of one example place by place: which of its tokens a score comes from.
//!
//! The gradient of a linear layer is a sum over the rows that it reads, `G = Σ_t s_t a_tᵀ`, so a score is a sum over
//! them too: `<Z, G> = Σ_t s_tᵀ Z a_t`. A row's term belongs to the place of the example that the row was made from.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{GradientProducts, LayerId, LayerSpec, Network, Objective, Positions, Tap, TapSink, Vectors};

use crate::{Error, QueryRows};

/// What each place of one example adds to its scores with some queries.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaceScores {
    /// `[places, queries]`.
    pub places: Vec<f64>,
    /// `[queries]`: what rows add that were made of several places, as those behind a mean over a text are.
    pub rest: Vec<f64>,
}

/// Scores of one example's training gradient with the queries `wanted`, by place: summed over `rows`, each times its
/// weight, and over all layers. All places and the rest add up to the example's score (`docs/method.md`, Score).
///
/// `batch` holds the example alone, which has `places` places; `own` are those that the batch's own rows were made
/// from. Rows of a layer that says where its own come from ([`Positions::places`]) belong there, and all others to the
/// rest.
///
/// # Errors
/// [`Error::NonFiniteScore`]; the network's and those of the vectors' source.
pub fn score_by_place<N: Network, T: Real>(
    network: &N,
    batch: &N::Batch,
    rows: &[QueryRows<'_, T>],
    wanted: &[usize],
    places: usize,
    own: Range<usize>,
) -> Result<PlaceScores, Error> {
    let found = PlaceScores { places: vec![0.0; places * wanted.len()], rest: vec![0.0; wanted.len()] };
    let mut sink = PlaceTaps {
        layers: network.layers(),
        products: GradientProducts::default().with_products(network.products()),
        rows,
        wanted,
        own_positions: network.positions(batch),
        own,
        found,
        failure: None,
    };
    let done = network.differentiate(batch, Objective::TrainingLoss, &mut sink);
    if let Some(failure) = sink.failure {
        return Err(failure);
    }
    done?;
    let found = sink.found;
    match found.places.iter().chain(&found.rest).all(|score| score.is_finite()) {
        true => Ok(found),
        false => Err(Error::NonFiniteScore(0..1)),
    }
}

/// Scores of one example's training gradient with the queries `wanted`, summed over `rows`, each times its weight, and
/// over all layers: what [`score_by_place`] divides.
///
/// `batch` holds the example alone.
///
/// # Errors
/// As there.
pub fn score_one<N: Network, T: Real>(
    network: &N,
    batch: &N::Batch,
    rows: &[QueryRows<'_, T>],
    wanted: &[usize],
) -> Result<Vec<f64>, Error> {
    let mut sink = WholeTaps {
        layers: network.layers(),
        products: GradientProducts::default().with_products(network.products()),
        rows,
        wanted,
        found: vec![0.0; wanted.len()],
        failure: None,
    };
    let done = network.differentiate(batch, Objective::TrainingLoss, &mut sink);
    if let Some(failure) = sink.failure {
        return Err(failure);
    }
    done?;
    match sink.found.iter().all(|score| score.is_finite()) {
        true => Ok(sink.found),
        false => Err(Error::NonFiniteScore(0..1)),
    }
}

/// The wanted queries' vectors at a layer, those of all `rows` one after the other. A failure of a source is kept aside,
/// because sinks speak the curvature's errors.
fn wanted_vectors<'a, T: Real>(
    rows: &'a [QueryRows<'a, T>],
    wanted: &[usize],
    (l, layer): (usize, &LayerSpec),
    failure: &mut Option<Error>,
) -> Result<Vec<Vectors<'a, T>>, ascribe_curvature::Error> {
    let mut vectors = Vec::with_capacity(rows.len() * wanted.len());
    for rows in rows {
        match rows.vectors.vectors(rows.leg, LayerId(l)) {
            Ok(all) => vectors.extend(wanted.iter().map(|&query| all.only(query, layer))),
            Err(error) => {
                let message = error.to_string();
                *failure = Some(error);
                return Err(ascribe_curvature::Error::Sink(message.into()));
            }
        }
    }
    Ok(vectors)
}

/// Adds up the scores of one example.
struct WholeTaps<'a, T> {
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
    rows: &'a [QueryRows<'a, T>],
    wanted: &'a [usize],
    found: Vec<f64>,
    failure: Option<Error>,
}

impl<T: Real> TapSink for WholeTaps<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let l = tap.layer.0;
        let layer = &self.layers[l];
        let vectors = wanted_vectors(self.rows, self.wanted, (l, layer), &mut self.failure)?;
        let mut scores = vec![0.0; vectors.len()];
        self.products.add_scores(tap, layer, &vectors, &mut scores)?;
        for (rows, scores) in self.rows.iter().zip(scores.chunks_exact(self.wanted.len().max(1))) {
            self.found.iter_mut().zip(scores).for_each(|(sum, score)| *sum += rows.weight * score);
        }
        self.rows.iter().for_each(|rows| rows.vectors.used(rows.leg, LayerId(l)));
        Ok(())
    }
}

/// Adds up the scores of one example's rows at the places that they were made from.
struct PlaceTaps<'a, T> {
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
    rows: &'a [QueryRows<'a, T>],
    wanted: &'a [usize],
    own_positions: &'a Positions,
    own: Range<usize>,
    found: PlaceScores,
    failure: Option<Error>,
}

impl<T: Real> PlaceTaps<'_, T> {
    /// The place that row `row` of a tap was made from, if it was made from one.
    fn place(&self, positions: &Positions, row: usize) -> Option<usize> {
        match positions.places() {
            Some(places) => Some(places[row]).filter(|&place| place != Positions::NOWHERE),
            None if positions == self.own_positions => Some(self.own.start + row),
            None => None,
        }
        .filter(|&place| (place + 1) * self.wanted.len() <= self.found.places.len())
    }
}

impl<T: Real> TapSink for PlaceTaps<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let (l, queries) = (tap.layer.0, self.wanted.len());
        let layer = &self.layers[l];
        let vectors = wanted_vectors(self.rows, self.wanted, (l, layer), &mut self.failure)?;
        let count = tap.positions.rows();
        let each = Positions::single(count);
        let mut scores = vec![0.0; count * vectors.len()];
        self.products.add_scores(Tap { positions: &each, ..tap }, layer, &vectors, &mut scores)?;
        for (row, scores) in scores.chunks_exact(vectors.len().max(1)).enumerate() {
            let place = self.place(tap.positions, row);
            let sums = match place {
                Some(place) => &mut self.found.places[place * queries..][..queries],
                None => &mut self.found.rest[..],
            };
            for (rows, scores) in self.rows.iter().zip(scores.chunks_exact(queries.max(1))) {
                sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += rows.weight * score);
            }
        }
        self.rows.iter().for_each(|rows| rows.vectors.used(rows.leg, LayerId(l)));
        Ok(())
    }
}
