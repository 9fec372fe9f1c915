//! Qwen 3 (Qwen Team 2025) as `Qwen3ForCausalLM` stores it: Llama with norms of each head's queries and keys.

use std::sync::Arc;

use super::family::{Defaults, Family, QUERY_KEY_NORMED, QueryKeyNorms, names};
use super::qwen2::last_layers_slide;
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
    model_type: "qwen3",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 151_936),
        ("max_position_embeddings", 32_768),
    ],
    classes: &["Qwen3ForCausalLM"],
    load,
    parameters: Parameters::Blocks(names(QUERY_KEY_NORMED)),
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
    let defaults = Defaults { kv_heads: Some(32), head_size: Some(128), ..Defaults::LLAMA };
    let mut family = Family::read(config, defaults)?.attention_bias(config)?;
    family.query_key_norms = QueryKeyNorms::OfHeads;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    last_layers_slide(&mut family, config)?;
    Ok(family)
}
