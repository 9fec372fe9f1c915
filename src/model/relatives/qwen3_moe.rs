//! Qwen 3 with experts (Qwen Team 2025) as `Qwen3MoeForCausalLM` stores it: Qwen 3 with a choice of experts in place of
//! some MLPs.

use std::sync::Arc;

use super::experts::{COMMON, Experts, count};
use super::family::{Defaults, Family, QueryKeyNorms, with_experts};
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
    model_type: "qwen3_moe",
    class_numbers: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 6_144),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 32),
        ("vocab_size", 151_936),
        ("max_position_embeddings", 32_768),
        ("num_experts", 128),
        ("num_experts_per_tok", 8),
    ],
    classes: &["Qwen3MoeForCausalLM"],
    load,
    parameters: Parameters::Blocks(with_experts(MODULES, COMMON)),
    tied_by_default: false,
    // the window, if there is one, is every layer's
    without_effect: &["max_window_layers"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

/// Experts stand before their router in transformers 5, behind it in transformers 4.
const MODULES: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj",
    "mlp.gate",
    "mlp.experts",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
];

fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&ARCHITECTURE, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let mut family = Family::read(config, Defaults { kv_heads: Some(4), ..Defaults::LLAMA })?.attention_bias(config)?;
    family.query_key_norms = QueryKeyNorms::OfHeads;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    let window = Family::window_if_used(config, Some(4096))?;
    family.layers.iter_mut().for_each(|layer| layer.window = window);
    let inner = config.size_or("moe_intermediate_size", Some(768))?.unwrap_or(768);
    let experts = Experts::read(config, family.layers.len(), count(config)?, inner)?;
    family.experts = Some(experts.normalised_by_choice(config)?.some_blocks_dense(config)?);
    Ok(family)
}
