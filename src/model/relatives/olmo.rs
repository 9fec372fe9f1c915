//! OLMo (Groeneveld et al. 2024) as `OlmoForCausalLM` stores it: Llama with layer norms that have no parameters, and
//! queries, keys and values that may be clipped.

use std::sync::Arc;

use super::family::{Defaults, Family, NormKind, PLAIN, names};
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
    model_type: "olmo",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 50_304),
        ("max_position_embeddings", 2_048),
        ("pad_token_id", 1),
    ],
    classes: &["OlmoForCausalLM"],
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
    let mut family = Family::read(config, Defaults::LLAMA)?.attention_bias(config)?;
    family.norm = NormKind::PlainLayer { epsilon: 1e-5 };
    family.clip = config.optional_number("clip_qkv", None)?;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    Ok(family)
}
