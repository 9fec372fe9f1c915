//! What layers are said to see of a batch, held against their taps.

use std::collections::BTreeMap;

use ascribe::curvature::{Error, Network, Objective, Tap, TapSink};
use ascribe::data::{Batch, Inputs};
use ascribe::model::{Model, RowsOf};

/// Rows in the taps of each layer.
struct Rows(Vec<usize>);

impl TapSink for Rows {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        self.0[tap.layer.0] += tap.input.dims()[0];
        Ok(())
    }
}

/// The layer's name without the number of its expert: tokens are spread over all of a block's.
fn without_expert(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let Some(experts) = parts.iter().position(|&part| part == "experts") {
        parts.remove(experts + 1);
    }
    parts.join(".")
}

/// Layers see as many rows of a batch as [`Model::layer_rows`] says: exactly, but for images whose sides a stride does not
/// divide, and for DeBERTa's keys and queries, which see the embeddings of distances beside.
pub fn check_layer_rows(name: &str, model: &Model, batch: &Batch) {
    let mut found = Rows(vec![0; model.layers().len()]);
    model.differentiate(batch, Objective::TrainingLoss, &mut found).expect("differentiable");
    let rows = batch.positions.rows();
    let encoder = match &batch.inputs {
        Inputs::Tokens(tokens) => tokens.encoder.as_ref().map_or(0, |encoder| encoder.rows()),
        _ => 0,
    };
    // the positions of a batch for an encoder and a decoder are the decoder's
    let of = |of: RowsOf| match of {
        RowsOf::Positions => rows + encoder,
        RowsOf::Encoder => encoder,
        RowsOf::Decoder => rows,
        RowsOf::Examples => batch.positions.examples(),
    };
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for ((layer, found), said) in model.layers().iter().zip(&found.0).zip(model.layer_rows()) {
        let sum = sums.entry(without_expert(&layer.name)).or_default();
        *sum = (sum.0 + *found as f64, sum.1 + said.share * of(said.of) as f64);
    }
    for (layer, (found, said)) in sums {
        let of_distances =
            model.kind() == "deberta-v2" && ["key_proj", "query_proj"].iter().any(|of| layer.ends_with(of));
        let tolerance = match model.kind() {
            // every stride rounds a side up
            "resnet" => 2.0 * said,
            _ if of_distances => found - said,
            _ => 1e-9 * found,
        };
        assert!((found - said).abs() <= tolerance, "{name}, {layer}: {found} rows, but {said} are said");
    }
}
