//! Mixtral (Jiang et al. 2024) as `MixtralForCausalLM` stores it: Llama with a choice of experts in place of every
//! MLP, whose weights add up to 1.

use std::sync::Arc;

use super::experts::Experts;
use super::family::{Defaults, Family, with_experts};
use super::stored::build;
use crate::model::architecture::{Architecture, ExpertNames, Parameters};
use crate::model::attention_heads::LLAMA_ATTENTION;
use crate::model::body::Loaded;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::model::load_options::LoadOptions;
use crate::model::rotary::Rotary;
use crate::model::weights::Weights;

pub(in crate::model) const ARCHITECTURE: Architecture = Architecture {
    model_type: "mixtral",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
        ("max_position_embeddings", 131_072),
        ("num_local_experts", 8),
        ("num_experts_per_tok", 2),
    ],
    classes: &["MixtralForCausalLM"],
    load,
    parameters: Parameters::Blocks(with_experts(MODULES, NAMES)),
    tied_by_default: false,
    // noise of the router's inputs in training, as dropout
    without_effect: &["router_jitter_noise"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

const NAMES: ExpertNames =
    ExpertNames { module: "block_sparse_moe", matrices: ["w1", "w3", "w2"], registered: ["w1", "w2", "w3"] };

const MODULES: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "block_sparse_moe.gate",
    "block_sparse_moe.experts",
    "mlp.gate",
    "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
];

fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&ARCHITECTURE, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let defaults = Defaults { kv_heads: Some(8), epsilon: 1e-5, ..Defaults::LLAMA };
    let mut family = Family::read(config, defaults)?;
    family.ropes = vec![Rotary { theta: 1e6, ..Rotary::LLAMA }.read(config, family.head_size)?];
    let window = config.size_or("sliding_window", None)?;
    family.layers.iter_mut().for_each(|layer| layer.window = window);
    let count = config.size("num_local_experts")?;
    let experts = Experts::read(config, family.layers.len(), count, family.inner)?;
    family.experts = Some(Experts { names: NAMES, ..experts });
    Ok(family)
}
