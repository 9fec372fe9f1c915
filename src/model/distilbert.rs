//! DistilBERT (Sanh et al. 2019) as `DistilBertForSequenceClassification` stores it: BERT's encoder without texts of a
//! pair and without a pooler, and a head of two layers with ReLU between on the first token.

use std::sync::Arc;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::encoder::{Family, Places};
use super::{Config, Layout, LoadError, LoadOptions, Loaded, Weights};
use crate::nn::Activation;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "distilbert",
    classes: &["DistilBertForSequenceClassification"],
    load,
    parameters: Parameters::Blocks(NAMES),
    tied_by_default: true,
    without_effect: &[
        "dropout",
        "qa_dropout",
        "seq_classif_dropout",
        // of how the table of positions began
        "sinusoidal_pos_embds",
        "tie_weights_",
        "tie_word_embeddings",
    ],
    blocks: Some("n_layers"),
    heads: Some("n_heads"),
    head_size: None,
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["distilbert."],
    before: &["embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.LayerNorm"],
    blocks: "transformer.layer",
    modules: &MODULES,
    after: &[],
    heads: &["pre_classifier", "classifier"],
    buffers: &["embeddings.position_ids"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// The modules of a block in the order of registration.
const MODULES: [&str; 8] = [
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
];

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let activation = Activation::from_name(config.text("activation", "gelu")?);
    let family = Family {
        names: &NAMES,
        modules: MODULES,
        width: config.size("dim")?,
        inner: config.size("hidden_dim")?,
        heads: config.size("n_heads")?,
        blocks: config.size("n_layers")?,
        vocabulary: config.size("vocab_size")?,
        rows_of_positions: config.size("max_position_embeddings")?,
        places: Places::FromZero,
        token_types: None,
        activation: activation.ok_or_else(|| config.unsupported("activation"))?,
        // the configuration has no key for it
        epsilon: 1e-12,
        dense: ("pre_classifier", Activation::Relu),
        classifier: "classifier",
    };
    family.build(config, weights, options)
}
