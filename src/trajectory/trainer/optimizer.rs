//! Which optimizer a run had, from its arguments and, where it is on disk, from `optimizer.pt` itself.

use ascribe_attribution::trajectory::Optimizer;

use super::super::optimizer_state::ParameterGroup;
use super::arguments::TrainingArguments;
use crate::trajectory::warning::Warning;

/// The optimizer, and in which file it was found.
pub(super) fn optimizer(
    arguments: &TrainingArguments,
    groups: Option<&[ParameterGroup]>,
    warnings: &mut Vec<Warning>,
) -> Optimizer {
    let name = arguments.optimizer.as_str();
    let mut take = |option, from_arguments: f64, from_groups: Option<f64>| {
        let Some(value) = from_groups else { return from_arguments };
        if value != from_arguments {
            warnings.push(Warning::OptimizerOverrides { option, arguments: from_arguments, optimizer: value });
        }
        value
    };
    // Biases and norms have a group without decay.
    let largest = |value: fn(&ParameterGroup) -> Option<f64>| groups?.iter().filter_map(value).reduce(f64::max);
    let first = groups.and_then(|groups| groups.first());
    if let Some(group) = first
        && (group.amsgrad == Some(true) || group.maximize == Some(true))
    {
        let option = if group.maximize == Some(true) { "maximize" } else { "amsgrad" };
        return Optimizer::Other(format!("{name} with `{option}`"));
    }
    match name {
        // These write the same formula; their states differ, and the reader of states refuses what it cannot read.
        "adamw_torch"
        | "adamw_torch_fused"
        | "adamw_torch_xla"
        | "adamw_torch_npu_fused"
        | "adamw_hf"
        | "adamw_apex_fused"
        | "adamw_bnb_8bit"
        | "adamw_8bit"
        | "paged_adamw_32bit"
        | "paged_adamw_8bit"
        | "adamw_torch_8bit"
        | "adamw_torch_4bit" => {
            if first.is_some_and(|group| group.betas.is_none()) {
                return Optimizer::Other(format!("{name} (its `optimizer.pt` has no betas)"));
            }
            let betas = first.and_then(|group| group.betas);
            let beta1 = take("adam_beta1", arguments.betas.0, betas.map(|betas| betas.0));
            let beta2 = take("adam_beta2", arguments.betas.1, betas.map(|betas| betas.1));
            let epsilon = take("adam_epsilon", arguments.epsilon, first.and_then(|group| group.epsilon));
            let weight_decay = take("weight_decay", arguments.weight_decay, largest(|group| group.weight_decay));
            if first.and_then(|group| group.decoupled) == Some(false) {
                Optimizer::Adam { beta1, beta2, epsilon, weight_decay }
            } else {
                Optimizer::AdamW { beta1, beta2, epsilon, weight_decay }
            }
        }
        "sgd" => {
            let options = arguments.optimizer_arguments.as_deref().unwrap_or("");
            let option = |key: &str| {
                let mut pairs = options.split(',').filter_map(|pair| pair.split_once('='));
                pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_string())
            };
            let number = |key: &str| option(key).and_then(|value| value.parse().ok());
            let from_group = |value: fn(&ParameterGroup) -> Option<f64>| first.and_then(value);
            let nesterov =
                option("nesterov").is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1" | "yes"));
            Optimizer::Sgd {
                momentum: take("momentum", number("momentum").unwrap_or(0.0), from_group(|group| group.momentum)),
                dampening: take("dampening", number("dampening").unwrap_or(0.0), from_group(|group| group.dampening)),
                nesterov: first.and_then(|group| group.nesterov).unwrap_or(nesterov),
                // The groups' own decay wins over the class's default.
                weight_decay: take("weight_decay", arguments.weight_decay, largest(|group| group.weight_decay)),
            }
        }
        other => Optimizer::Other(other.to_string()),
    }
}
