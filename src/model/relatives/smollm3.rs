//! SmolLM 3 (Hugging Face 2025) as `SmolLM3ForCausalLM` stores it: Llama with every fourth layer without rotary
//! embeddings.

use std::sync::Arc;

use super::family::{Defaults, Family, PLAIN, names};
use super::stored::build;
use crate::model::architecture::{Architecture, Parameters};
use crate::model::attention_heads::LLAMA_ATTENTION;
use crate::model::body::Loaded;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::model::load_options::LoadOptions;
use crate::model::rotary::Rotary;
use crate::model::weights::Weights;

pub(in crate::model) const ARCHITECTURE: Architecture = Architecture {
    model_type: "smollm3",
    class_numbers: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 36),
        ("num_attention_heads", 16),
        ("vocab_size", 128_256),
        ("max_position_embeddings", 32_768),
        ("pad_token_id", 128_004),
    ],
    classes: &["SmolLM3ForCausalLM"],
    load,
    parameters: Parameters::Blocks(names(PLAIN)),
    tied_by_default: true,
    without_effect: &["max_window_layers", "pretraining_tp"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&ARCHITECTURE, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let mut family = Family::read(config, Defaults { kv_heads: Some(4), ..Defaults::LLAMA })?.attention_bias(config)?;
    family.biases.mlp = config.flag("mlp_bias", false)?;
    family.ropes = vec![Rotary { theta: 2_000_000.0, ..Rotary::LLAMA }.read(config, family.head_size)?];
    let rotated = rotated(config, family.layers.len())?;
    for (layer, rotated) in family.layers.iter_mut().zip(&rotated) {
        layer.rope = rotated.then_some(0);
    }
    let window = Family::window_if_used(config, None)?;
    family.windows(config, window, |n| window.is_some() && !rotated[n])?;
    Ok(family)
}

/// Which layers have rotary embeddings: those with a 1 in `no_rope_layers`, whatever its name says.
fn rotated(config: &Config, blocks: usize) -> Result<Vec<bool>, LoadError> {
    let interval = config.size_or("no_rope_layer_interval", Some(4))?.unwrap_or(4);
    let Some(list) = config.list("no_rope_layers")? else {
        return Ok((0..blocks).map(|n| (n + 1) % interval != 0).collect());
    };
    if list.len() < blocks {
        let problem = format!("`no_rope_layers` has {} entries for {blocks} layers", list.len());
        return Err(config.problem(problem));
    }
    let rotated = |value: &serde_json::Value| match value.as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(config.unsupported("no_rope_layers")),
    };
    list.iter().take(blocks).map(rotated).collect()
}
