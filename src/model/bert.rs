//! BERT (Devlin et al. 2019) as `BertForSequenceClassification` stores it: the encoder, a pooler with tanh on the first
//! token, and a classifier.

use std::sync::Arc;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::encoder::Family;
use super::{Config, Layout, LoadError, LoadOptions, Loaded, Weights};
use crate::nn::Activation;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "bert",
    classes: &["BertForSequenceClassification"],
    load,
    parameters: Parameters::Blocks(NAMES),
    tied_by_default: true,
    without_effect: WITHOUT_EFFECT,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    head_size: None,
};

/// Keys of BERT's and RoBERTa's configurations that change no number here.
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "attention_probs_dropout_prob",
    "directionality",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "tie_word_embeddings",
];

const NAMES: BlockNames = BlockNames {
    prefixes: &["bert."],
    before: &[
        "embeddings.word_embeddings",
        "embeddings.position_embeddings",
        "embeddings.token_type_embeddings",
        "embeddings.LayerNorm",
    ],
    blocks: "encoder.layer",
    modules: &MODULES,
    after: &["pooler.dense"],
    heads: &["classifier"],
    buffers: &["embeddings.position_ids"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// The modules of a block in the order of registration.
pub(super) const MODULES: [&str; 8] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
];

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let pooler = ("bert.pooler.dense", Activation::Tanh);
    Family::read(config, &NAMES, MODULES, pooler, "classifier")?.build(config, weights, options)
}
