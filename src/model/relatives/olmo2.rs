//! OLMo 2 (OLMo Team 2025) as `Olmo2ForCausalLM` stores it: Llama with norms behind both branches instead of before
//! them, and norms of all queries and all keys.

use std::sync::Arc;

use super::family::{Defaults, Family, NormPlaces, QUERY_KEY_NORMED, QueryKeyNorms, names};
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
    model_type: "olmo2",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 50_304),
        ("max_position_embeddings", 2_048),
        ("pad_token_id", 1),
    ],
    classes: &["Olmo2ForCausalLM"],
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
    let mut family = behind_branches(config)?;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    Ok(family)
}

/// What OLMo 2 and 3 have in common: all but windows and rotary embeddings.
pub(super) fn behind_branches(config: &Config) -> Result<Family, LoadError> {
    let mut family = Family::read(config, Defaults { epsilon: 1e-5, ..Defaults::LLAMA })?.attention_bias(config)?;
    family.norm_places = NormPlaces::Behind;
    family.query_key_norms = QueryKeyNorms::OfAll;
    Ok(family)
}
