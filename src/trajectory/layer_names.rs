//! Whether layers that a description names are layers of the model.
//!
//! A name that is none changes nothing: a layer keeps the rate that it was to lose, or a stage trains no layer at all
//! and every score is zero. So such a name is refused, with the names that are nearest to it.

use std::collections::BTreeSet;

use ascribe_attribution::trajectory::TrainedLayers;

use crate::curvature::LayerSpec;
use crate::model::Weights;
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::Reading;

/// Names that a message proposes.
const PROPOSED: usize = 3;

impl Reading {
    /// Compares the layers that the description names with `layers`, those that are tracked, and with the weights of
    /// the last checkpoint, where a layer that is not tracked has its `.weight`.
    ///
    /// # Errors
    /// [`ReadError::UnknownLayers`].
    pub fn check_layer_names(&self, layers: &[LayerSpec]) -> Result<(), ReadError> {
        let nothing = BTreeSet::new();
        let trained = match &self.trained_layers {
            TrainedLayers::All => &nothing,
            TrainedLayers::Only(names) => names,
        };
        let tracked: BTreeSet<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        let rated: BTreeSet<String> = self.layer_rates.keys().cloned().collect();
        let is_stated = trained.iter().chain(&rated).any(|name| !tracked.contains(name.as_str()));
        let weights =
            self.checkpoints.last().filter(|_| is_stated).and_then(|files| Weights::open_trained(&files.folder).ok());
        let in_file = |name: &str| {
            let suffix = format!(".{name}.weight");
            // a head's file may have the names of the whole model, or those below its base
            weights.as_ref().is_some_and(|weights| {
                weights.names().any(|tensor| tensor == &suffix[1..] || tensor.ends_with(&suffix))
            })
        };
        for (key, names) in [("trained_layers", trained), ("layer_rates", &rated)] {
            let unknown: Vec<&String> =
                names.iter().filter(|name| !tracked.contains(name.as_str()) && !in_file(name)).collect();
            if let Some(first) = unknown.first() {
                return Err(ReadError::UnknownLayers {
                    source_path: self.source.clone(),
                    stage: self.name.clone(),
                    key,
                    nearest: nearest(first, &tracked),
                    layers: unknown.into_iter().cloned().collect(),
                });
            }
        }
        Ok(())
    }

    /// Whether the stage changed one of `layers`.
    pub fn trains_any(&self, layers: &[LayerSpec]) -> bool {
        layers.iter().any(|layer| self.trained_layers.contains(&layer.name))
    }
}

/// The names most like `name`, best first.
fn nearest(name: &str, names: &BTreeSet<&str>) -> Vec<String> {
    let mut names: Vec<(f64, &str)> =
        names.iter().map(|&other| (strsim::normalized_damerau_levenshtein(name, other), other)).collect();
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    names.into_iter().take(PROPOSED).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Hint;
    use crate::curvature::Network;
    use crate::model::{LoadOptions, Model};
    use crate::trajectory::request::TrajectoryRequest;

    fn refused(change: impl Fn(&mut Reading)) -> Option<(String, Option<String>)> {
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mlp-trajectory");
        let mut reading = TrajectoryRequest::new(run).read().unwrap().remove(0);
        let model = Model::load(&reading.checkpoints[0].folder, &LoadOptions::default()).unwrap();
        change(&mut reading);
        let error = reading.check_layer_names(&model.layers()[..1]).err()?;
        Some((error.to_string().rsplit("trajectory.toml: ").next().unwrap().to_owned(), error.hint()))
    }

    #[test]
    fn names_of_no_layer_are_refused_with_the_nearest() {
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mlp-trajectory");
        let reading = TrajectoryRequest::new(run).read().unwrap().remove(0);
        let model = Model::load(&reading.checkpoints[0].folder, &LoadOptions::default()).unwrap();
        let names: Vec<&str> = model.layers().iter().map(|layer| layer.name.as_str()).collect();
        let misspelt = names[0].replacen('s', "", 1);
        let (message, hint) = refused(|reading| {
            reading.trained_layers = TrainedLayers::Only([misspelt.clone(), names[1].to_owned()].into());
        })
        .unwrap();
        assert_eq!(
            message,
            format!("stage `training`: `trained_layers` has `{misspelt}`, which is no layer of the model")
        );
        assert_eq!(hint.unwrap(), format!("the nearest is `{}`", names[0]));
        let (message, _) =
            refused(|reading| reading.layer_rates.extend([("nothing.like.it".to_owned(), 0.5)])).unwrap();
        assert!(message.contains("`layer_rates` has `nothing.like.it`"), "{message}");
        // the first alone is tracked; the second is in the file
        assert_eq!(refused(|reading| reading.layer_rates.extend([(names[1].to_owned(), 0.5)])), None);
        assert_eq!(refused(|_| ()), None);
    }
}
