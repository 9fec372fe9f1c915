//! Products of training gradients with query vectors.

use rayon::prelude::*;

use super::super::count::WorkKind;
use super::super::work::{self, BatchShape};
use super::bench::Bench;
use crate::curvature::gemm::Real;
use crate::curvature::{Error, GradientProducts, LayerSpec, LowRank, Objective, Tap, TapSink, Vectors};
use crate::job::error::JobError;
use crate::job::number::Number;

/// Bytes of query vectors that are invented.
const VECTOR_BYTES: usize = 256 << 20;

impl Bench<'_> {
    pub(super) fn scores<T: Number>(&mut self) -> Result<(), JobError> {
        let (layers, seeing, train) = (self.layers(), self.seeing(), self.train());
        let form = self.plan.vector_form();
        // of each layer the two sides of its vectors, or the whole and nothing
        let sides = |layer: &LayerSpec| match form.rank_at(layer) {
            None => [layer.parameters(), 0],
            Some(rank) => [rank * layer.outputs, rank * layer.columns()],
        };
        let numbers: usize = layers.iter().flat_map(sides).sum();
        let most = (VECTOR_BYTES / (numbers * size_of::<T>()).max(1)).max(1);
        let queries = self.plan.most_vectors().clamp(1, most);
        let mut vectors = vec![T::of(0.0); queries * numbers];
        vectors.par_chunks_mut(1 << 14).for_each(|part| part.fill(T::of(0.01)));
        let mut places = Vec::with_capacity(layers.len());
        let mut rest = vectors.as_slice();
        for layer in layers {
            let [left, right] = sides(layer).map(|n| {
                let (own, others) = rest.split_at(queries * n);
                rest = others;
                own
            });
            places.push(match form.rank_at(layer) {
                None => Vectors::Full(left),
                Some(rank) => Vectors::LowRank(LowRank { rank, left, right }),
            });
        }
        let read = size_of_val(vectors.as_slice()) as f64 / self.memory;
        let products = GradientProducts::default().with_products(self.products());
        let mut scored = Scored { vectors: &places, layers, products, queries, scores: vec![] };
        self.repeat(WorkKind::Scores, train, Objective::TrainingLoss, &mut scored, |batch| {
            let of_layer =
                |(layer, batch): (&LayerSpec, BatchShape)| work::scores(layer, &batch, queries, form.rank_at(layer));
            (seeing.of(batch).map(of_layer).sum(), read)
        })
    }
}

/// Products with invented query vectors.
struct Scored<'a, T> {
    vectors: &'a [Vectors<'a, T>],
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
    queries: usize,
    scores: Vec<f64>,
}

impl<T: Real> TapSink for Scored<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let l = tap.layer.0;
        self.scores.resize(tap.positions.examples() * self.queries, 0.0);
        self.products.add_scores(tap, &self.layers[l], &self.vectors[l..=l], &mut self.scores)
    }
}
