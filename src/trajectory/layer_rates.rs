//! Which layers a parameter group with a rate of its own is.

use std::collections::BTreeMap;

use super::optimizer_state::group_members;
use super::reading::GroupRates;
use super::torch_parameters::TorchParameters;
use crate::curvature::LayerSpec;
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::Reading;
use crate::trajectory::warning::Warning;

impl Reading {
    /// Finds the layers of parameter groups with rates of their own, if the run has such groups and it is not stated
    /// what multiplies which layer's rates. What follows is a warning of the reading. To be called after
    /// [`find_frozen_layers`](Self::find_frozen_layers): an optimizer may have been made without frozen parameters.
    ///
    /// # Errors
    /// Groups whose parameters are not known with certainty; a layer whose weight and bias had different rates.
    /// # Source
    /// `docs/method.md`, Source: `τ` is a sum of rates, so that each layer has its own.
    pub fn find_layer_rates(&mut self, layers: &[LayerSpec]) -> Result<(), ReadError> {
        if let Some(groups) = self.group_rates.take() {
            self.layer_rates = self.rates_of_layers(&groups, layers)?;
            let names = layers.iter().filter(|layer| self.layer_rates.contains_key(&layer.name));
            let layers: Vec<(String, f64)> =
                names.map(|layer| (layer.name.clone(), self.layer_rates[&layer.name])).collect();
            self.warnings.push(Warning::LayerRates { layers });
        }
        let known = |name: &&String| layers.iter().all(|layer| layer.name != **name);
        let unknown: Vec<String> = self.layer_rates.keys().filter(known).cloned().collect();
        if !unknown.is_empty() {
            self.warnings.push(Warning::UnknownLayerRates { layers: unknown });
        }
        Ok(())
    }

    fn rates_of_layers(&self, groups: &GroupRates, layers: &[LayerSpec]) -> Result<BTreeMap<String, f64>, ReadError> {
        let parameters = TorchParameters::read_over(&groups.folder, self.base.as_deref())?;
        let members = group_members(&groups.file, &parameters.list, self.version, &self.frozen_parameters())?;
        let rate = |name: &str| {
            let place = parameters.list.iter().position(|parameter| parameter.name == name)?;
            members[place].map(|group| groups.multiples[group])
        };
        let mut found = BTreeMap::new();
        for layer in layers {
            let in_all = parameters.in_all_experts(layer).map(|(all, _)| all);
            let weight = in_all.or_else(|| parameters.weight(&layer.name).map(|(weight, _)| weight));
            let weight = weight.and_then(|weight| rate(&weight.name));
            let bias = layer.bias.then(|| parameters.bias(&layer.name).and_then(|bias| rate(&bias.name))).flatten();
            match (weight, bias) {
                (Some(weight), Some(bias)) if weight != bias => {
                    let (file, layer) = (groups.file.clone(), layer.name.clone());
                    return Err(ReadError::SplitLayer { file, layer, weight, bias });
                }
                (Some(rate), _) | (None, Some(rate)) if rate != 1.0 => drop(found.insert(layer.name.clone(), rate)),
                _ => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value as Json;

    use super::*;
    use crate::curvature::Network;
    use crate::model::{LoadOptions, Model};
    use crate::trajectory::request::TrajectoryRequest;

    /// A Trainer run whose embeddings and first block had a tenth of the rate: rates of all groups as the optimizer
    /// used them, and which layer was in which group, as torch has them.
    #[test]
    fn groups_of_a_trainers_run_are_read() {
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainer-groups");
        let expected: Json = serde_json::from_slice(&std::fs::read(run.join("expected.json")).unwrap()).unwrap();
        let mut reading = TrajectoryRequest::new(run).read().unwrap().remove(0);
        let model = Model::load(&reading.checkpoints[1].folder, &LoadOptions::default()).unwrap();
        let layers = model.layers();
        reading.find_frozen_layers(None, layers).unwrap();
        reading.find_layer_rates(layers).unwrap();
        let group_of = |name: &str| {
            let has = |group: &Json| group.as_array().unwrap().iter().any(|member| member == name);
            expected["groups"].as_array().unwrap().iter().position(has).unwrap()
        };
        let applied = expected["rates"].as_array().unwrap();
        assert_eq!(applied.len(), reading.rates.n_steps());
        for layer in layers {
            let multiple = reading.layer_rates.get(&layer.name).copied().unwrap_or(1.0);
            let (weight, bias) =
                (group_of(&format!("{}.weight", layer.name)), group_of(&format!("{}.bias", layer.name)));
            for (k, rates) in applied.iter().enumerate() {
                let got = reading.rates.rate(k).unwrap() * multiple;
                for group in [weight, bias] {
                    let used = rates[group].as_f64().unwrap();
                    assert!((got - used).abs() <= 1e-12 * used, "{} step {k}: {got:e} {used:e}", layer.name);
                }
            }
        }
        assert_eq!(reading.layer_rates.len(), 4, "the first block; the base rate is that of the others");
        let said = |warning: &Warning| matches!(warning, Warning::LayerRates { layers } if layers.len() == 4);
        assert!(reading.warnings.iter().any(said));
    }
}
