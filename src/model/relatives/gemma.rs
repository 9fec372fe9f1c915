//! Gemma (Gemma Team 2024) as `GemmaForCausalLM` stores it: Llama whose norms multiply by one plus their weight, and
//! whose embeddings are multiplied by √D.

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
use crate::nn::Activation;

pub(in crate::model) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gemma",
    class_numbers: &[
        ("hidden_size", 3_072),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 28),
        ("num_attention_heads", 16),
        ("vocab_size", 256_000),
        ("max_position_embeddings", 8_192),
        ("pad_token_id", 0),
    ],
    classes: &["GemmaForCausalLM"],
    load,
    parameters: Parameters::Blocks(names(PLAIN)),
    tied_by_default: true,
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
    let key = ("hidden_act", "gelu_pytorch_tanh");
    let defaults = Defaults { kv_heads: Some(16), head_size: Some(256), activation: key, ..Defaults::LLAMA };
    let mut family = Family::read(config, defaults)?.attention_bias(config)?;
    // the first files say `gelu` and mean its approximation
    if family.activation == Activation::Gelu {
        family.activation = Activation::GeluTanh;
    }
    // transformers 4 let this key win, 5 does not read it
    if let Some(other) = config.get("hidden_activation").and_then(|other| other.as_str())
        && Activation::from_name(other) != Some(family.activation)
    {
        return Err(config.unsupported("hidden_activation"));
    }
    family.norm = NormKind::Rms { epsilon: config.epsilon("rms_norm_eps", 1e-6)?, offset: 1.0 };
    family.scaled_embeddings = true;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    Ok(family)
}
