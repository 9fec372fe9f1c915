//! Qwen 1.5, 2 and 2.5 (Qwen Team 2024) as `Qwen2ForCausalLM` stores them: Llama with biases of queries, keys and
//! values, and a window on the last layers if the configuration asks for one.

use std::sync::Arc;

use super::family::{Defaults, Family, PLAIN, names};
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
    model_type: "qwen2",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 151_936),
        ("max_position_embeddings", 32_768),
    ],
    classes: &["Qwen2ForCausalLM"],
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
    let mut family = Family::read(config, Defaults { kv_heads: Some(32), ..Defaults::LLAMA })?;
    family.biases.qkv = true;
    family.ropes = vec![Rotary::LLAMA.read(config, family.head_size)?];
    last_layers_slide(&mut family, config)?;
    Ok(family)
}

/// Gives the last layers a window, if `use_sliding_window` says so; `sliding_window` alone says nothing.
pub(super) fn last_layers_slide(family: &mut Family, config: &Config) -> Result<(), LoadError> {
    let window = Family::window_if_used(config, Some(4096))?;
    let first = config.number("max_window_layers", 28.0)?;
    family.windows(config, window, |n| window.is_some() && n as f64 >= first)?;
    Ok(())
}
