//! Mistral (Jiang et al. 2023) as `MistralForCausalLM` stores it: Llama with a window on every layer.

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
    model_type: "mistral",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
        ("max_position_embeddings", 131_072),
    ],
    classes: &["MistralForCausalLM"],
    load,
    parameters: Parameters::Blocks(names(PLAIN)),
    tied_by_default: false,
    without_effect: &[],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&ARCHITECTURE, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let mut family = Family::read(config, Defaults { kv_heads: Some(8), ..Defaults::LLAMA })?;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    let window = config.size_or("sliding_window", Some(4096))?;
    family.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(family)
}
