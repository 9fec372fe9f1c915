//! Parameter groups of an `optimizer.pt`.

use super::error::{OptimizerStateError, layout};
use crate::trajectory::pickle::Value;
use crate::trajectory::torch_zip::TorchFile;

/// Options of one parameter group, where the file has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParameterGroup {
    /// Number of its parameters.
    pub n_parameters: usize,
    /// The rate that the next update will use.
    pub learning_rate: Option<f64>,
    /// `initial_lr`: the base rate of the schedule.
    pub base_rate: Option<f64>,
    /// `w`.
    pub weight_decay: Option<f64>,
    /// Whether the decay is decoupled, for Adam since torch 2.6.
    pub decoupled: Option<bool>,
    /// `(β₁, β₂)`.
    pub betas: Option<(f64, f64)>,
    /// `ε`.
    pub epsilon: Option<f64>,
    /// SGD's momentum.
    pub momentum: Option<f64>,
    /// SGD's dampening.
    pub dampening: Option<f64>,
    /// SGD's Nesterov form.
    pub nesterov: Option<bool>,
    /// Whether `P` uses the largest `v` so far.
    pub amsgrad: Option<bool>,
    /// Whether it ascends.
    pub maximize: Option<bool>,
    /// Names of its parameters, if the optimizer was made with them (torch 2.5 and later).
    pub names: Option<Vec<String>>,
}

impl ParameterGroup {
    /// The base rate of its schedule, else the rate that its next update will use.
    pub fn rate(&self) -> Option<f64> {
        self.base_rate.or(self.learning_rate)
    }
}

/// The groups in the file's order, with options as far as it has them.
pub(super) fn groups(file: &TorchFile) -> Result<Vec<ParameterGroup>, OptimizerStateError> {
    let list = file.value().get("param_groups").and_then(Value::elements);
    let list = list.ok_or_else(|| layout(file, "param_groups", "missing", "a list"))?;
    let mut next = 0;
    let mut groups = Vec::with_capacity(list.len());
    for group in list.iter() {
        let indices = group.get("params").and_then(Value::elements);
        let indices = indices.ok_or_else(|| layout(file, "params", "missing", "a list of indices"))?;
        for index in indices.iter() {
            if index.as_usize() != Some(next) {
                return Err(layout(file, "params", &format!("{index:?}"), "indices in order"));
            }
            next += 1;
        }
        let number = |key: &str| group.get(key).and_then(Value::as_f64);
        let flag = |key: &str| group.get(key).and_then(Value::as_bool);
        let betas = group.get("betas").and_then(Value::elements).and_then(|betas| match betas.len() {
            2 => Some((betas.get(0)?.as_f64()?, betas.get(1)?.as_f64()?)),
            _ => None,
        });
        groups.push(ParameterGroup {
            n_parameters: indices.len(),
            learning_rate: number("lr"),
            base_rate: number("initial_lr"),
            weight_decay: number("weight_decay"),
            decoupled: flag("decoupled_weight_decay"),
            betas,
            epsilon: number("eps"),
            momentum: number("momentum"),
            dampening: number("dampening"),
            nesterov: flag("nesterov"),
            amsgrad: flag("amsgrad"),
            maximize: flag("maximize"),
            names: group
                .get("param_names")
                .and_then(Value::elements)
                .and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect()),
        });
    }
    Ok(groups)
}
