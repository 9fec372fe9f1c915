//! OLMoE (Muennighoff et al. 2024) as `OlmoeForCausalLM` stores it: Llama with a choice of experts in place of every
//! MLP, norms of all queries and all keys, and queries, keys and values that may be clipped.

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
    model_type: "olmoe",
    class_numbers: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 2_048),
        ("num_hidden_layers", 16),
        ("num_attention_heads", 16),
        ("vocab_size", 50_304),
        ("max_position_embeddings", 4_096),
        ("num_experts", 64),
        ("num_experts_per_tok", 8),
        ("pad_token_id", 1),
    ],
    classes: &["OlmoeForCausalLM"],
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
    "self_attn.q_norm",
    "self_attn.k_norm",
    "mlp.gate",
    "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj",
    "mlp.experts",
    "input_layernorm",
    "post_attention_layernorm",
];

fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&ARCHITECTURE, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let mut family = Family::read(config, Defaults { epsilon: 1e-5, ..Defaults::LLAMA })?.attention_bias(config)?;
    family.query_key_norms = QueryKeyNorms::OfAll;
    family.clip = config.optional_number("clip_qkv", None)?;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    let experts = Experts::read(config, family.layers.len(), count(config)?, family.inner)?;
    family.experts = Some(experts.normalised_by_choice(config)?);
    Ok(family)
}
