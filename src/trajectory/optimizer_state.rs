//! Second moments of Adam out of `optimizer.pt`, by parameter name.
//!
//! What is not certain is refused: an 8-bit, factored or sharded state is named, never misread.
//!
//! # Source
//! `docs/method.md`, Source.

pub(in crate::trajectory) mod error;
mod groups;

use std::path::{Path, PathBuf};

pub use self::error::OptimizerStateError;
use self::error::layout;
pub use self::groups::ParameterGroup;
use self::groups::groups;
use super::frozen_parameters::FrozenParameters;
use super::parameter_groups::{GroupRule, MadeBy, Parameter, Unmatched, match_groups};
use super::pickle::Value;
use super::torch_zip::{TensorPlace, TorchFile};
use super::version::TransformersVersion;

/// The parameter groups of an `optimizer.pt`; no tensor is read.
///
/// # Errors
/// The file cannot be read or is of a kind that is refused.
pub fn read_groups(path: &Path) -> Result<Vec<ParameterGroup>, OptimizerStateError> {
    let file = TorchFile::open(path)?;
    refuse_foreign(&file)?;
    groups(&file)
}

/// The optimizer's file in a checkpoint folder, if there is one. `optimizer.bin` is the name that accelerate gives it;
/// the state of an FSDP run has that name as well, which its contents tell.
///
/// # Errors
/// The folder has the sharded state of FSDP or DeepSpeed instead.
pub fn find(checkpoint: &Path) -> Result<Option<PathBuf>, OptimizerStateError> {
    let mut files = ["optimizer.pt", "optimizer.bin"].map(|name| checkpoint.join(name)).into_iter();
    if let Some(path) = files.find(|path| crate::presence::is_file(path)) {
        return Ok(Some(path));
    }
    let kind = |kind| Err(OptimizerStateError::Kind { file: checkpoint.to_path_buf(), kind });
    if checkpoint.join("optimizer_0").is_dir() {
        return kind("an FSDP run");
    }
    if ["latest", "zero_to_fp32.py"].iter().all(|name| crate::presence::is_file(&checkpoint.join(name))) {
        return kind("a DeepSpeed run");
    }
    Ok(None)
}

/// The most updates that any parameter has seen, as far as the optimizer counts them; SGD does not.
///
/// # Errors
/// The file cannot be read; a count that is no single number, not finite or negative.
pub fn updates(path: &Path) -> Result<Option<f64>, OptimizerStateError> {
    let mut file = TorchFile::open(path)?;
    let mut places = vec![];
    let mut most: Option<f64> = None;
    let state = file.value().get("state").ok_or_else(|| layout(&file, "state", "missing", "a dict"))?;
    for (_, entry) in state.entries() {
        match entry.get("step") {
            None => {}
            Some(step) => match step.as_f64() {
                Some(step) => most = Some(most.map_or(step, |most| most.max(step))),
                None => places.push(step_place(&file, step)?),
            },
        }
    }
    for place in places {
        let step = file.read_f64(&place)?.first().copied().unwrap_or(f64::NAN);
        // a maximum would pass over NaN
        if !(step.is_finite() && step >= 0.0) {
            return Err(layout(&file, "step", &step.to_string(), "a number of updates"));
        }
        most = Some(most.map_or(step, |most| most.max(step)));
    }
    Ok(most)
}

/// Where a count of updates lies: one number in a storage of its own, or of a few.
fn step_place(file: &TorchFile, step: Value<'_>) -> Result<TensorPlace, OptimizerStateError> {
    let place = file.tensor(step)?;
    match place.n_elements() {
        1 => Ok(place),
        n => Err(layout(file, "step", &format!("a tensor of {n} numbers"), "one number")),
    }
}

/// Second moments of one parameter.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Updates that it has seen.
    step: f64,
    beta2: f64,
    second_moment: TensorPlace,
}

/// An `optimizer.pt` of Adam or AdamW whose entries have names.
pub struct OptimizerState {
    file: TorchFile,
    parameters: Vec<Parameter>,
    /// For each parameter; `None` if it never had a gradient.
    entries: Vec<Option<Entry>>,
    /// For each parameter its group; `None` if the optimizer was made without it.
    group_of: Vec<Option<usize>>,
    groups: Vec<ParameterGroup>,
    rule: GroupRule,
}

impl OptimizerState {
    /// Opens a file and maps its entries to `parameters`: the model's trainable ones in the order of
    /// `named_parameters()`, tied ones once, in torch's layout. `version` settles which decay rule is named, `frozen`
    /// which parameters the optimizer may have been made without.
    ///
    /// # Errors
    /// A state that is not Adam's, 8-bit or sharded; groups or shapes that fit no rule, or more than one.
    pub fn open(
        path: &Path,
        parameters: &[Parameter],
        version: Option<TransformersVersion>,
        frozen: &FrozenParameters,
    ) -> Result<Self, OptimizerStateError> {
        let mut file = TorchFile::open(path)?;
        refuse_foreign(&file)?;
        let groups = groups(&file)?;
        let (places, order, rule) = match_entries(&file, &groups, parameters, version, frozen)?;
        let mut entries = vec![None; parameters.len()];
        let mut group_of = vec![None; parameters.len()];
        let mut group_ends = Vec::new();
        for group in &groups {
            group_ends.push(group_ends.last().copied().unwrap_or(0) + group.n_parameters);
        }
        for (index, (parameter, place)) in order.into_iter().zip(places).enumerate() {
            let group = group_ends.partition_point(|&end| end <= index);
            group_of[parameter] = Some(group);
            let Some(place) = place else { continue };
            let step = match place.step {
                Step::Number(step) => step,
                Step::Tensor(at) => file.read_f64(&at)?.first().copied().unwrap_or(f64::NAN),
            };
            let name = &parameters[parameter].name;
            if !(step.is_finite() && step >= 1.0) {
                let (file, parameter) = (path.to_path_buf(), name.clone());
                return Err(OptimizerStateError::Value { file, parameter, what: "the step", value: step });
            }
            let beta2 = groups[group].betas.map(|(_, beta2)| beta2).filter(|b| (0.0..1.0).contains(b));
            let beta2 = beta2.ok_or_else(|| layout(&file, "param_groups", "without `betas` in [0, 1)", "Adam's"))?;
            entries[parameter] = Some(Entry { step, beta2, second_moment: place.second_moment });
        }
        Ok(Self { file, parameters: parameters.to_vec(), entries, group_of, groups, rule })
    }

    /// How entries were mapped to names.
    pub fn rule(&self) -> &GroupRule {
        &self.rule
    }

    /// The optimizer's parameter groups.
    pub fn groups(&self) -> &[ParameterGroup] {
        &self.groups
    }

    /// The parameters that it was opened with.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The group of a parameter, with its own weight decay and rate; none if the optimizer was made without it.
    pub fn group_of(&self, parameter: &str) -> Option<&ParameterGroup> {
        Some(&self.groups[self.group_of[self.index(parameter)?]?])
    }

    /// Updates that a parameter has seen.
    pub fn step(&self, parameter: &str) -> Option<f64> {
        self.entries[self.index(parameter)?].as_ref().map(|entry| entry.step)
    }

    /// `v`, the running mean of squared gradients as the file has it: not bias-corrected.
    ///
    /// # Shapes
    /// The parameter's own in torch's layout, row major.
    /// # Errors
    /// A parameter without state, or numbers that are negative or not finite.
    pub fn second_moment(&mut self, parameter: &str) -> Result<Vec<f32>, OptimizerStateError> {
        self.read(parameter).map(|(v, _)| v)
    }

    /// `v̂ = v / (1 - β₂^step)`.
    ///
    /// # Shapes
    /// The parameter's own in torch's layout, row major.
    /// # Errors
    /// As [`second_moment`](Self::second_moment).
    /// # Source
    /// `docs/method.md`, Source.
    pub fn corrected_second_moment(&mut self, parameter: &str) -> Result<Vec<f32>, OptimizerStateError> {
        let (mut v, entry) = self.read(parameter)?;
        // 1 - β^k without cancellation for the first steps of a slow β.
        let correction = -(entry.step * entry.beta2.ln()).exp_m1();
        for v in &mut v {
            *v = (f64::from(*v) / correction) as f32;
        }
        Ok(v)
    }

    fn index(&self, parameter: &str) -> Option<usize> {
        self.parameters.iter().position(|p| p.name == parameter)
    }

    fn read(&mut self, parameter: &str) -> Result<(Vec<f32>, Entry), OptimizerStateError> {
        let file = || self.file.path().to_path_buf();
        let entry = self.index(parameter).and_then(|index| self.entries[index].clone());
        let entry =
            entry.ok_or_else(|| OptimizerStateError::NoState { file: file(), parameter: parameter.to_string() })?;
        let v = self.file.read_f32(&entry.second_moment)?;
        if let Some(&bad) = v.iter().find(|v| !v.is_finite() || **v < 0.0) {
            let (file, parameter) = (self.file.path().to_path_buf(), parameter.to_string());
            return Err(OptimizerStateError::Value { file, parameter, what: "the second moment", value: bad.into() });
        }
        Ok((v, entry))
    }
}

/// Names a state that is not plain, by keys that only it has.
fn refuse_foreign(file: &TorchFile) -> Result<(), OptimizerStateError> {
    let refuse = |kind| Err(OptimizerStateError::Kind { file: file.path().to_path_buf(), kind });
    let root = file.value();
    let has = |key: &str| root.get(key).is_some();
    if ["zero_stage", "ds_version", "optimizer_state_dict", "fp32_flat_groups"].into_iter().any(has) {
        return refuse("a DeepSpeed run");
    }
    let Some(state) = root.get("state") else {
        return Err(layout(file, "state", "missing", "a dict"));
    };
    for (key, entry) in state.entries() {
        if key.as_str().is_some() {
            return refuse("an FSDP run (entries by name)");
        }
        let has = |key: &str| entry.get(key).is_some();
        if has("state1") || has("__bnb_optimizer_quant_state__") {
            return refuse("an 8-bit or bitsandbytes optimizer");
        }
        if has("exp_avg_sq_row") || has("row_var") {
            return refuse("Adafactor");
        }
        if has("max_exp_avg_sq") {
            return refuse("Adam with `amsgrad`");
        }
    }
    Ok(())
}

enum Step {
    Number(f64),
    Tensor(TensorPlace),
}

struct Place {
    step: Step,
    second_moment: TensorPlace,
}

/// Where each entry's numbers lie, in the optimizer's order, and the parameters in that order.
#[allow(clippy::type_complexity)] // three results of one walk, used once
fn match_entries(
    file: &TorchFile,
    groups: &[ParameterGroup],
    parameters: &[Parameter],
    version: Option<TransformersVersion>,
    frozen: &FrozenParameters,
) -> Result<(Vec<Option<Place>>, Vec<usize>, GroupRule), OptimizerStateError> {
    let sizes: Vec<usize> = groups.iter().map(|group| group.n_parameters).collect();
    let n: usize = sizes.iter().sum();
    let mut places: Vec<Option<Place>> = (0..n).map(|_| None).collect();
    let state = file.value().get("state").ok_or_else(|| layout(file, "state", "missing", "a dict"))?;
    for (key, entry) in state.entries() {
        let index = key.as_usize().filter(|&index| index < n);
        let index = index.ok_or_else(|| layout(file, "state", &format!("{key:?}"), "an index of a group"))?;
        let Some(second_moment) = entry.get("exp_avg_sq") else {
            let kind = if entry.get("momentum_buffer").is_some() {
                "SGD with momentum"
            } else if entry.get("square_avg").is_some() {
                "RMSprop"
            } else if entry.get("sum").is_some() {
                "Adagrad"
            } else {
                "another optimizer than Adam"
            };
            return Err(OptimizerStateError::Kind { file: file.path().to_path_buf(), kind });
        };
        let step = entry.get("step").ok_or_else(|| layout(file, "step", "missing", "a number"))?;
        let step = match step.as_f64() {
            Some(step) => Step::Number(step),
            None => Step::Tensor(step_place(file, step)?),
        };
        places[index] = Some(Place { step, second_moment: file.tensor(second_moment)? });
    }
    if places.iter().all(Option::is_none) {
        let kind = "SGD without momentum, or of no update";
        return Err(OptimizerStateError::Kind { file: file.path().to_path_buf(), kind });
    }
    let shape = |i: usize| places[i].as_ref().map(|place| place.second_moment.shape.clone());
    let (order, rule) = match_names(file.path(), groups, shape, parameters, version, frozen)?;
    Ok((places, order, rule))
}

/// Which parameter each entry is.
fn match_names(
    file: &Path,
    groups: &[ParameterGroup],
    shape: impl Fn(usize) -> Option<Vec<usize>>,
    parameters: &[Parameter],
    version: Option<TransformersVersion>,
    frozen: &FrozenParameters,
) -> Result<(Vec<usize>, GroupRule), OptimizerStateError> {
    let sizes: Vec<usize> = groups.iter().map(|group| group.n_parameters).collect();
    let unmatched = |tried: Vec<Vec<usize>>| OptimizerStateError::Unmatched {
        file: file.to_path_buf(),
        sizes: sizes.clone(),
        parameters: parameters.len(),
        tried,
        unchanged: parameters.iter().filter(|parameter| frozen.unchanged.contains(&parameter.name)).count(),
    };
    let named: Option<Vec<&str>> = groups
        .iter()
        .map(|group| group.names.as_ref().filter(|names| names.len() == group.n_parameters))
        .collect::<Option<Vec<_>>>()
        .map(|names| names.into_iter().flatten().map(String::as_str).collect());
    if let Some(names) = named {
        let place = |name: &&str| parameters.iter().position(|parameter| parameter.name == **name);
        let order: Option<Vec<usize>> = names.iter().map(place).collect();
        let fits = |i: usize, p: usize| shape(i).is_none_or(|shape| shape == parameters[p].shape);
        let order = order.filter(|order| order.iter().enumerate().all(|(i, &p)| fits(i, p)));
        return order.map(|order| (order, GroupRule::Named)).ok_or_else(|| unmatched(vec![]));
    }
    let one_rate = groups.iter().all(|group| group.rate() == groups[0].rate());
    let made_by = if groups.len() <= 2 && one_rate { MadeBy::Trainer } else { MadeBy::Hand };
    let guesses = frozen.guesses(parameters);
    match_groups(parameters, &sizes, shape, version, &guesses, made_by).map_err(|problem| match problem {
        Unmatched::None { tried } => unmatched(tried),
        Unmatched::Ambiguous { index, first, second } => {
            OptimizerStateError::Ambiguous { file: file.to_path_buf(), index, first, second }
        }
    })
}

/// For each parameter its group, of any optimizer whose entries are tensors of the parameters' shapes; `None` for one
/// that the optimizer was made without.
///
/// # Errors
/// As [`OptimizerState::open`], without those of second moments.
pub(super) fn group_members(
    path: &Path,
    parameters: &[Parameter],
    version: Option<TransformersVersion>,
    frozen: &FrozenParameters,
) -> Result<Vec<Option<usize>>, OptimizerStateError> {
    let file = TorchFile::open(path)?;
    refuse_foreign(&file)?;
    let groups = groups(&file)?;
    let n: usize = groups.iter().map(|group| group.n_parameters).sum();
    let mut shapes: Vec<Option<Vec<usize>>> = vec![None; n];
    let state = file.value().get("state").ok_or_else(|| layout(&file, "state", "missing", "a dict"))?;
    for (key, entry) in state.entries() {
        let tensor = ["exp_avg_sq", "momentum_buffer", "square_avg", "sum"].iter().find_map(|key| entry.get(key));
        if let (Some(shape), Some(tensor)) = (key.as_usize().and_then(|index| shapes.get_mut(index)), tensor)
            && let Ok(place) = file.tensor(tensor)
        {
            *shape = Some(place.shape);
        }
    }
    let shape = |i: usize| shapes[i].clone();
    let (order, _) = match_names(path, &groups, shape, parameters, version, frozen)?;
    let mut members = vec![None; parameters.len()];
    let mut order = order.into_iter();
    for (index, group) in groups.iter().enumerate() {
        order.by_ref().take(group.n_parameters).for_each(|parameter| members[parameter] = Some(index));
    }
    Ok(members)
}

#[cfg(test)]
pub(super) mod tests;
