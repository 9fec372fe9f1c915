//! Phi-3, 3.5, 4 and 4-mini (Abdin et al. 2024) as `Phi3ForCausalLM` stores them: Llama with one layer for queries, keys
//! and values and one for gate and up, a part of each head's coordinates rotated, and a window on every layer if there is
//! one. Each stored layer is one layer here, with one covariance.

use std::sync::Arc;

use super::family::{Defaults, Family, Packing, names};
use super::stored::build;
use crate::model::architecture::{Architecture, Parameters};
use crate::model::attention_heads::HeadRole;
use crate::model::body::Loaded;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::model::load_options::LoadOptions;
use crate::model::rotary::{Partial, Rotary};
use crate::model::weights::Weights;

pub(in crate::model) const ARCHITECTURE: Architecture = Architecture {
    model_type: "phi3",
    class_numbers: &[
        ("hidden_size", 3_072),
        ("intermediate_size", 8_192),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_064),
        ("max_position_embeddings", 4_096),
        ("pad_token_id", 32_000),
    ],
    classes: &["Phi3ForCausalLM"],
    load,
    parameters: Parameters::Blocks(names(MODULES)),
    tied_by_default: false,
    without_effect: &["auto_map", "embd_pdrop", "resid_pdrop"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&[
        ("self_attn.qkv_proj", HeadRole::Packed { kv_heads: Some("num_key_value_heads") }),
        ("self_attn.o_proj", HeadRole::Output),
    ]),
};

fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&ARCHITECTURE, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let mut family = Family::read(config, Defaults { epsilon: 1e-5, ..Defaults::LLAMA })?;
    family.packing = Packing::Packed;
    let rotary = Rotary { partial: Partial::Read, original_length: Some(4096), ..Rotary::LLAMA };
    family.ropes = vec![rotary.read(config, family.head_size)?];
    let window = config.size_or("sliding_window", None)?;
    family.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(family)
}

/// The modules of a block in the order of registration.
const MODULES: &[&str] = &[
    "self_attn.o_proj",
    "self_attn.qkv_proj",
    "mlp.gate_up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
];
