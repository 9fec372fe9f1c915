//! Qwen 1.5 and 2 with experts (Qwen Team 2024) as `Qwen2MoeForCausalLM` stores them: Qwen 2 with a choice of experts
//! in place of some MLPs, and beside it an expert that sees every token.

use std::sync::Arc;

use super::experts::{COMMON, Experts, count};
use super::family::{Defaults, Family, with_experts};
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
    model_type: "qwen2_moe",
    class_numbers: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 5_632),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 16),
        ("vocab_size", 151_936),
        ("max_position_embeddings", 32_768),
        ("num_experts", 60),
        ("num_experts_per_tok", 4),
    ],
    classes: &["Qwen2MoeForCausalLM"],
    load,
    parameters: Parameters::Blocks(with_experts(MODULES, COMMON)),
    tied_by_default: false,
    without_effect: &[],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

const MODULES: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate",
    "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj",
    "mlp.experts",
    "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.up_proj",
    "mlp.shared_expert.down_proj",
    "mlp.shared_expert_gate",
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
    let mut family = Family::read(config, Defaults { kv_heads: Some(16), ..Defaults::LLAMA })?;
    family.biases.qkv = config.flag("qkv_bias", true)?;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    let window = Family::window_if_used(config, Some(4096))?;
    let end = config.number("max_window_layers", 28.0)?;
    family.windows(config, window, |n| window.is_some() && n % 2 == 0 && (n as f64) < end)?;
    let inner = config.size_or("moe_intermediate_size", Some(1408))?.unwrap_or(1408);
    let experts = Experts::read(config, family.layers.len(), count(config)?, inner)?;
    let shared = config.size_or("shared_expert_intermediate_size", Some(5632))?;
    let experts = experts.normalised_by_choice(config)?.some_blocks_dense(config)?;
    family.experts = Some(Experts { shared, ..experts });
    Ok(family)
}
