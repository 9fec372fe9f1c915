//! The routes that contractions take, for people: a line for each shape of layers.

use super::count::Contraction;
use super::stages;
use super::work::{BatchShape, Coordinates, Layers};
use crate::curvature::LayerSpec;
use crate::curvature::contraction::{LowRankRoute, Rotate, ScoreRoute};
use crate::job::plan::Plan;

/// The contractions of a plan: of its last stage and its largest number of query vectors.
pub(super) fn of(plan: &Plan) -> Vec<Contraction> {
    let train = plan.train();
    let batches = stages::batches(plan, train, usize::MAX);
    let Some(batch) = batches.iter().max_by_key(|(batch, n)| batch.examples as u64 * **n).map(|(batch, _)| *batch)
    else {
        return vec![];
    };
    let fit = plan.needed_fits().map(|(_, fit)| fit).find(|fit| fit.kind.has_lambda_pass());
    let coordinates = fit.map(|fit| stages::coordinates(plan, fit));
    let queries = plan.queries.as_ref().map(|_| plan.most_vectors());
    let mut found: Vec<Contraction> = vec![];
    let layers = Layers { specs: plan.training.layers(), rows: plan.training.networks.layer_rows() };
    for (layer, batch) in layers.of(&batch) {
        let (o, i) = (layer.outputs, layer.columns());
        match found.iter_mut().find(|found| (found.outputs, found.columns) == (o, i)) {
            Some(found) => found.layers += 1,
            None => found.push(Contraction {
                layers: 1,
                outputs: o,
                columns: i,
                lambda: coordinates.map(|coordinates| squares(layer, &batch, coordinates)),
                scores: queries.map(|queries| products(plan, layer, &batch, queries)),
            }),
        }
    }
    found
}

fn products(plan: &Plan, layer: &LayerSpec, batch: &BatchShape, queries: usize) -> &'static str {
    let shape = batch.at(layer);
    match plan.vector_form().rank_at(layer) {
        None => match ScoreRoute::cheapest(shape, queries) {
            ScoreRoute::Gradient => "form gradients",
            ScoreRoute::Rows => "turn rows",
        },
        Some(rank) => match LowRankRoute::cheapest(shape, queries, rank) {
            LowRankRoute::Factors => "rows with factors",
            LowRankRoute::Gradient => "put vectors together, form gradients",
        },
    }
}

fn squares(layer: &LayerSpec, batch: &BatchShape, coordinates: Coordinates) -> &'static str {
    if batch.examples == batch.rows && !coordinates.is_conditioned() {
        return "square rows";
    }
    let route = coordinates.route(batch.at(layer), layer);
    match (route.input, route.output) {
        (Rotate::Never, _) | (_, Rotate::Never) => "form gradients",
        (Rotate::Rows, Rotate::Rows) => "rotate rows",
        (Rotate::Gradient, Rotate::Gradient) => "rotate gradients",
        (Rotate::Rows, Rotate::Gradient) => "rotate inputs, then gradients",
        (Rotate::Gradient, Rotate::Rows) => "rotate output gradients, then gradients",
    }
}
