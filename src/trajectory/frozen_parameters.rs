//! Parameters that a stage did not change, and so those that its optimizer may not have known.
//!
//! transformers gives an optimizer the parameters that require a gradient when it is made, and checkpoints do not say
//! which those were. A frozen tensor is the same, bit by bit, in every checkpoint of its stage; one that was trained
//! may be too (a norm in bf16 at a small rate), so this is a guess that the optimizer's own file has to confirm.
//!
//! # Source
//! `docs/method.md`, Source.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ascribe_attribution::trajectory::TrainedLayers;

use super::parameter_groups::Parameter;
use super::torch_parameters::TorchParameters;
use crate::curvature::LayerSpec;
use crate::model::Weights;
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::Reading;
use crate::trajectory::warning::Warning;

/// What is known of parameters that a stage did not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrozenParameters {
    /// Tensors that are the same in all checkpoints of the stage, by name; empty if there is nothing to compare.
    pub unchanged: BTreeSet<String>,
    /// Layers that the stage is stated to have trained.
    pub trained_layers: TrainedLayers,
    /// The folder of the base, if the checkpoints are adapters; none: the folder that an adapter's settings name.
    pub base: Option<PathBuf>,
}

impl FrozenParameters {
    /// Sets of parameters, by index, that the stage's optimizer may have been made without, each once; that it was
    /// made with all of them is not among these.
    pub(super) fn guesses(&self, parameters: &[Parameter]) -> Vec<BTreeSet<usize>> {
        let where_ = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<usize> {
            (0..parameters.len()).filter(|&p| wanted(&parameters[p].name)).collect()
        };
        let unchanged = where_(&|name| self.unchanged.contains(name));
        let mut guesses = vec![unchanged.clone()];
        if let TrainedLayers::Only(layers) = &self.trained_layers {
            let module = |name: &str| name.rsplit_once('.').map_or(String::new(), |(module, _)| module.to_owned());
            let of_trained = where_(&|name| layers.contains(&module(name)));
            // a block that has a trained layer trained its norms too
            let blocks: BTreeSet<&str> = layers.iter().filter_map(|layer| block(layer)).collect();
            let others = where_(&|name| !layers.contains(&module(name)));
            let in_trained_blocks = where_(&|name| block(name).is_some_and(|block| blocks.contains(block)));
            let outside_blocks = where_(&|name| block(name).is_none());
            let matrices: BTreeSet<usize> = (0..parameters.len()).filter(|&p| parameters[p].shape.len() > 1).collect();
            let without = |kept: &[&BTreeSet<usize>]| -> BTreeSet<usize> {
                others.iter().copied().filter(|p| kept.iter().all(|kept| !kept.contains(p))).collect()
            };
            let norms: BTreeSet<usize> = in_trained_blocks.difference(&matrices).copied().collect();
            // everything else; all but the norms of trained blocks; all but these and what stands outside of blocks
            for guess in [others.clone(), without(&[&norms]), without(&[&norms, &outside_blocks])] {
                let with_unchanged = guess.union(&unchanged).copied().filter(|p| !of_trained.contains(p)).collect();
                guesses.extend([guess, with_unchanged]);
            }
        }
        let mut kept: Vec<BTreeSet<usize>> = vec![];
        for guess in guesses {
            if !guess.is_empty() && guess.len() < parameters.len() && !kept.contains(&guess) {
                kept.push(guess);
            }
        }
        kept
    }
}

/// The numbered block that a name belongs to: up to and with its first number.
fn block(name: &str) -> Option<&str> {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(&name[..end]);
        }
        end += 1;
    }
    None
}

impl Reading {
    /// What is known of parameters that the stage did not change, as [`second_moments`](super::second_moments)
    /// needs it.
    pub fn frozen_parameters(&self) -> FrozenParameters {
        FrozenParameters {
            unchanged: self.unchanged.clone(),
            trained_layers: self.trained_layers.clone(),
            base: self.base.clone(),
        }
    }

    /// Compares the weights of the stage's checkpoints with each other, and with the one that the stage before ended
    /// with. Layers of `layers` that are the same in all are frozen: unless it is stated which layers were trained,
    /// the others are. Whatever follows from it is a warning of the reading.
    ///
    /// A checkpoint that cannot be read is passed over: whatever reads its weights will say why.
    ///
    /// # Errors
    /// Two checkpoints that are the same in every tensor; a run, alone, none of whose `layers` changed.
    /// # Source
    /// `docs/method.md`, Source.
    pub fn find_frozen_layers(&mut self, before: Option<&Path>, layers: &[LayerSpec]) -> Result<(), ReadError> {
        let folders: Vec<(usize, &Path)> = before
            .map(|folder| (0, folder))
            .into_iter()
            .chain(self.checkpoints.iter().map(|files| (files.step, files.folder.as_path())))
            .collect();
        let Some(&(first_step, first_folder)) = folders.first() else { return Ok(()) };
        let Ok(first) = Weights::open_trained(first_folder) else { return Ok(()) };
        let mut unchanged: BTreeSet<String> = first.names().map(str::to_owned).collect();
        let (mut previous, mut compared) = ((first_step, first_folder, first), false);
        for &(step, folder) in &folders[1..] {
            let Ok(weights) = Weights::open_trained(folder) else { return Ok(()) };
            let moved = self.rates.sum(previous.0..step) > 0.0;
            // a tensor that changed is left at its first byte that did
            unchanged.retain(|name| weights.same(&previous.2, name));
            let is_copy = || {
                weights.names().count() == previous.2.names().count()
                    && weights.names().all(|name| weights.same(&previous.2, name))
            };
            if moved && is_copy() {
                let (first, second) = (previous.1.to_path_buf(), folder.to_path_buf());
                return Err(ReadError::SameWeights { first, second });
            }
            compared |= moved;
            previous = (step, folder, weights);
        }
        if !compared {
            return Ok(());
        }
        let last = previous.1.to_path_buf();
        self.unchanged = unchanged;
        self.freeze(&last, layers, before.is_some())
    }

    fn freeze(&mut self, last: &Path, layers: &[LayerSpec], has_before: bool) -> Result<(), ReadError> {
        let parameters = TorchParameters::read_over(last, self.base.as_deref()).ok();
        let same = |layer: &LayerSpec| {
            // a tied head is the embedding
            let tied =
                parameters.as_ref().and_then(|all| all.weight(&layer.name)).map(|(weight, _)| weight.name.clone());
            let weight = self.unchanged.contains(&tied.unwrap_or_else(|| format!("{}.weight", layer.name)));
            let group = parameters.as_ref().and_then(|all| all.channel_group(layer));
            let module = group.map_or(layer.name.as_str(), |(module, _)| module);
            let bias = layer.bias.then(|| self.unchanged.contains(&format!("{module}.bias")));
            (weight, bias)
        };
        let (mut frozen, mut partly) = (vec![], vec![]);
        for layer in layers {
            match same(layer) {
                (true, None | Some(true)) => frozen.push(layer.name.clone()),
                (true, Some(false)) => partly.push(format!("{}.weight", layer.name)),
                (false, Some(true)) => partly.push(format!("{}.bias", layer.name)),
                (false, _) => {}
            }
        }
        if !has_before && frozen.len() == layers.len() {
            return Err(ReadError::NothingTrained { source_path: self.source.clone() });
        }
        match &self.trained_layers {
            TrainedLayers::All if !frozen.is_empty() => {
                let trained = layers.iter().map(|layer| &layer.name).filter(|name| !frozen.contains(name));
                self.trained_layers = TrainedLayers::Only(trained.cloned().collect());
                self.warnings.push(Warning::FrozenLayers { layers: frozen });
            }
            TrainedLayers::All => {}
            TrainedLayers::Only(trained) => {
                let changed = layers.iter().map(|layer| &layer.name).filter(|name| !frozen.contains(name));
                let changed: Vec<String> = changed.filter(|name| !trained.contains(*name)).cloned().collect();
                let unchanged: Vec<String> = frozen.into_iter().filter(|name| trained.contains(name)).collect();
                let stated = [(changed, true), (unchanged, false)].into_iter().filter(|(layers, _)| !layers.is_empty());
                let warnings = stated.map(|(layers, changed)| Warning::StatedLayers { layers, changed });
                self.warnings.extend(warnings.collect::<Vec<_>>());
            }
        }
        let trained = |parameter: &String| {
            parameter.rsplit_once('.').is_some_and(|(layer, _)| self.trained_layers.contains(layer))
        };
        let partly: Vec<String> = partly.into_iter().filter(trained).collect();
        if !partly.is_empty() {
            self.warnings.push(Warning::PartlyFrozen { parameters: partly });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
