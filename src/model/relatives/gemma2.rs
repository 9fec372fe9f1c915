//! Gemma 2 (Gemma Team 2024) as `Gemma2ForCausalLM` stores it: Gemma with norms on both sides of each branch, a window on
//! every second layer, and bounded scores of attention and bounded logits.

use std::sync::Arc;

use super::family::{AROUND, Defaults, Family, NormKind, NormPlaces, names};
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
    model_type: "gemma2",
    class_numbers: &[
        ("hidden_size", 2_304),
        ("intermediate_size", 9_216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("vocab_size", 256_000),
        ("max_position_embeddings", 8_192),
        ("pad_token_id", 0),
    ],
    classes: &["Gemma2ForCausalLM"],
    load,
    parameters: Parameters::Blocks(names(AROUND)),
    tied_by_default: true,
    without_effect: &["cache_implementation"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&ARCHITECTURE, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let activation = ("hidden_activation", "gelu_pytorch_tanh");
    let defaults = Defaults { kv_heads: Some(4), head_size: Some(256), activation, ..Defaults::LLAMA };
    let mut family = Family::read(config, defaults)?.attention_bias(config)?;
    family.norm = NormKind::Rms { epsilon: config.epsilon("rms_norm_eps", 1e-6)?, offset: 1.0 };
    family.norm_places = NormPlaces::Around;
    family.scaled_embeddings = true;
    family.scale = 1.0 / config.optional_number("query_pre_attn_scalar", Some(256.0))?.unwrap_or(256.0).sqrt();
    family.attention_soft_cap = config.optional_number("attn_logit_softcapping", Some(50.0))?;
    family.logits_soft_cap = config.optional_number("final_logit_softcapping", Some(30.0))?;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    let window = config.size_or("sliding_window", Some(4096))?;
    family.windows(config, window, |n| n % 2 == 0)?;
    Ok(family)
}
