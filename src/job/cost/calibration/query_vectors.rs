//! What becomes of queries' gradients: rotations, and approximations of low rank.

use std::time::Instant;

use rayon::prelude::*;

use super::super::count::WorkKind;
use super::super::work::{self, BatchShape};
use super::bench::{Bench, Timing, invented_bases};
use crate::attribution::Walk;
use crate::curvature::contraction::{RotationRoute, Shape};
use crate::curvature::gemm::{Real, Threads};
use crate::curvature::{
    CurvatureKind, Damping, Eigenbasis, Error, Factors, GradientProducts, LayerFactors, LayerSpec, Matrix, Objective,
    Tap, TapSink, Truncation, Whitening,
};
use crate::job::brief::data::InBatches;
use crate::job::error::JobError;
use crate::job::number::Number;

impl Bench<'_> {
    pub(super) fn vectors<T: Number>(&mut self) -> Result<(), JobError> {
        let Some(queries) = &self.plan.queries else { return Ok(()) };
        let (layers, seeing, width) = (self.layers(), self.seeing(), self.plan.block_width());
        let has_basis = self.plan.has_eigenbasis();
        let layer = |(layer, basis): (&LayerSpec, Option<Eigenbasis<T>>)| {
            let lambda = Matrix::new(vec![1.0; layer.parameters()], layer.outputs, layer.columns());
            LayerFactors::new(basis, Some(lambda))
        };
        let factors = match has_basis {
            true => Factors {
                kind: CurvatureKind::Ekfac,
                layers: layers.iter().zip(invented_bases(layers, width)).map(layer).collect(),
            },
            false => Factors::identity(layers.len()),
        }
        .with_products(self.products());
        let walk = Walk::influence(&factors, Damping::default());
        let products = GradientProducts::default().with_products(self.products());
        let mut carried = Carried { walk: &walk, layers, products };
        let objective = Objective::Measurement(self.plan.measure().into(), self.plan.job.method.reduction.into());
        let turns = if has_basis { 2 } else { 0 };
        let at_once =
            crate::job::steps::query_vectors::queries_at_once(self.plan.training.layers(), self.plan.width() as usize);
        let longest = (0..queries.len()).map(|q| queries.positions(q)).max().unwrap_or(1);
        let batch_tokens = self.plan.in_batches(queries).batch_tokens.min(at_once.saturating_mul(longest));
        self.repeat(WorkKind::Vectors, InBatches { dataset: queries, batch_tokens }, objective, &mut carried, |batch| {
            let of_layer = |(layer, batch): (&LayerSpec, BatchShape)| {
                let (shape, examples) = (batch.at(layer), batch.examples as u128);
                let basis = work::basis(layer, width);
                let route = RotationRoute::cheapest(shape, basis);
                match has_basis && route.has_rows() {
                    true => route.flops(shape, basis) + examples * work::rotation(layer, width),
                    false => work::gradients(layer, &batch) + examples * turns * work::rotation(layer, width),
                }
            };
            (seeing.of(batch).map(of_layer).sum(), 0.0)
        })
    }

    /// Truncations at the layer whose vectors have most numbers, one on each thread.
    pub(super) fn truncations<T: Number>(&mut self) -> Result<(), JobError> {
        let form = self.plan.vector_form();
        let low_rank = self.layers().iter().filter_map(|layer| Some((layer, form.rank_at(layer)?)));
        let Some((layer, rank)) = low_rank.max_by_key(|(layer, _)| layer.parameters()) else { return Ok(()) };
        let (o, i) = (layer.outputs, layer.columns());
        let matrix: Vec<T> = (0..o * i).map(|k| T::of(((k * k) as f64 * 0.37).sin())).collect();
        let whitening = Whitening::plain(o, i);
        let start = Instant::now();
        let threads = rayon::current_num_threads();
        let one = |_| Truncation::of(&matrix, &whitening, rank, &layer.name, Threads::One).map(|_| ());
        (0..threads).into_par_iter().with_max_len(1).map(one).collect::<Result<(), Error>>()?;
        let flop = threads as u128 * Truncation::flops(rank, o, i);
        self.truncations = self.truncations.faster(Timing::since(start, flop as f64));
        Ok(())
    }
}

/// Gradients that go through a walk and are dropped.
struct Carried<'a, T> {
    walk: &'a Walk<'a, T>,
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
}

impl<T: Real> TapSink for Carried<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let l = tap.layer.0;
        let (spec, leg) = (&self.layers[l], &self.walk.legs[0]);
        let factors = &leg.factors.layers[l];
        let shape = Shape::of(tap.positions, spec.outputs, spec.columns());
        let by_rows = |basis: &&Eigenbasis<T>| RotationRoute::cheapest(shape, basis.size()).has_rows();
        if let Some(basis) = factors.basis.as_ref().filter(by_rows) {
            let mut vectors = self.products.rotated_gradients(tap, spec, basis)?;
            leg.spectrum(l, &leg.response).scale(&mut vectors);
            factors.rotate_back(&mut vectors, spec);
            return Ok(());
        }
        let gradients = self.products.gradients(tap, spec)?;
        self.walk.carry(l, spec, gradients, |_, _| Ok(()))
    }
}
