//! Gemma 3 (Gemma Team 2025), as `Gemma3ForCausalLM` stores it and as the language model inside
//! `Gemma3ForConditionalGeneration`: Gemma with norms on both sides of each branch and of each head's queries and keys,
//! a window on most layers, and other rotary embeddings on those. What sees images is left out.

use std::sync::Arc;

use super::family::{Defaults, Family, NormKind, NormPlaces, QUERY_KEY_NORMED, QueryKeyNorms, names};
use super::stored::build;
use crate::model::architecture::{Architecture, BlockNames, Parameters};
use crate::model::attention_heads::LLAMA_ATTENTION;
use crate::model::body::Loaded;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::model::load_options::LoadOptions;
use crate::model::rotary::RotaryByLayer;
use crate::model::weights::Weights;

pub(in crate::model) const TEXT: Architecture = Architecture {
    model_type: "gemma3_text",
    class_numbers: &[
        ("hidden_size", 2_304),
        ("intermediate_size", 9_216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("vocab_size", 262_208),
        ("max_position_embeddings", 131_072),
        ("pad_token_id", 0),
    ],
    classes: &["Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"],
    load: load_text,
    parameters: Parameters::Blocks(names(QUERY_KEY_NORMED)),
    tied_by_default: true,
    without_effect: &["_sliding_window_pattern", "cache_implementation"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

/// The model that sees images too, whose configuration has that of its language model inside.
pub(in crate::model) const WITH_IMAGES: Architecture = Architecture {
    model_type: "gemma3",
    classes: &["Gemma3ForConditionalGeneration"],
    load: load_with_images,
    parameters: Parameters::Blocks(BlockNames {
        // of transformers 5, then of 4
        prefixes: &["model.language_model.", "language_model.model."],
        heads: &["lm_head", "language_model.lm_head"],
        ..names(QUERY_KEY_NORMED)
    }),
    without_effect: &[
        "_sliding_window_pattern",
        "boi_token_index",
        "cache_implementation",
        "eoi_token_index",
        "image_token_index",
        "mm_tokens_per_image",
        "text_config",
        "vision_config",
    ],
    ..TEXT
};

fn load_text(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&TEXT, family(config)?, config, weights, options)
}

fn load_with_images(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    build(&WITH_IMAGES, family(config)?, config, weights, options)
}

fn family(config: &Config) -> Result<Family, LoadError> {
    let activation = ("hidden_activation", "gelu_pytorch_tanh");
    let defaults = Defaults { kv_heads: Some(4), head_size: Some(256), activation, ..Defaults::LLAMA };
    let mut family = Family::read(config, defaults)?.attention_bias(config)?;
    if let Some(cap) = config.optional_number("attn_logit_softcapping", None)? {
        config.note(format!(
            "`attn_logit_softcapping` = {cap} has no effect: attention of transformers' Gemma 3 reads the key and caps no scores"
        ));
    }
    family.logits_soft_cap = config.optional_number("final_logit_softcapping", None)?;
    family.norm = NormKind::Rms { epsilon: config.epsilon("rms_norm_eps", 1e-6)?, offset: 1.0 };
    family.norm_places = NormPlaces::Around;
    family.query_key_norms = QueryKeyNorms::OfHeads;
    family.scaled_embeddings = true;
    family.scale = 1.0 / config.optional_number("query_pre_attn_scalar", Some(256.0))?.unwrap_or(256.0).sqrt();
    let rotary =
        RotaryByLayer { full: 1e6, sliding: 1e4, sliding_key: Some("rope_local_base_freq"), full_key: "rope_theta" };
    family.ropes = rotary.read(config, family.head_size)?.into();
    let window = config.size_or("sliding_window", Some(4096))?;
    let pattern = config.size_or("sliding_window_pattern", Some(6))?.unwrap_or(6);
    let sliding = family.windows(config, window, |n| (n + 1) % pattern != 0)?;
    for (layer, sliding) in family.layers.iter_mut().zip(sliding) {
        layer.rope = Some(usize::from(sliding));
    }
    Ok(family)
}
