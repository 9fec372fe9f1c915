//! OLMo 3 (OLMo Team 2025) as `Olmo3ForCausalLM` stores it: OLMo 2 with a window on three of four layers, and rotary
//! embeddings that are scaled on the other layers alone.

use std::sync::Arc;

use super::family::{Family, QUERY_KEY_NORMED, names};
use super::olmo2::behind_branches;
use super::stored::build;
use crate::model::architecture::{Architecture, Parameters};
use crate::model::attention_heads::LLAMA_ATTENTION;
use crate::model::body::Loaded;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::model::load_options::LoadOptions;
use crate::model::rotary::RotaryByLayer;
use crate::model::weights::Weights;

pub(in crate::model) const ARCHITECTURE: Architecture = Architecture {
    model_type: "olmo3",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 50_304),
        ("max_position_embeddings", 2_048),
        ("pad_token_id", 1),
    ],
    classes: &["Olmo3ForCausalLM"],
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
    let ropes = RotaryByLayer { full: THETA, sliding: THETA, sliding_key: None, full_key: "rope_theta" }
        .read(config, family.head_size)?;
    family.ropes = ropes.into();
    let window = config.size_or("sliding_window", Some(4096))?;
    let sliding = family.windows(config, window, |n| (n + 1) % 4 != 0)?;
    for (layer, sliding) in family.layers.iter_mut().zip(sliding) {
        layer.rope = Some(usize::from(sliding));
    }
    Ok(family)
}

const THETA: f64 = 500_000.0;
