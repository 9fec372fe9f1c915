//! DistilBERT (Sanh et al. 2019) as `DistilBertForSequenceClassification` stores it: BERT's encoder without texts of a
//! pair and without a pooler, and a head of two layers with ReLU between on the first token; and as `DistilBertForMaskedLM`
//! does, which fills in masked tokens.

use std::sync::Arc;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::attention_heads::separate;
use super::body::Loaded;
use super::config::Config;
use super::encoder::{Family, Filling, Places};
use super::error::LoadError;
use super::heads::masked::MaskedNames;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::weights::Weights;
use crate::nn::Activation;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "distilbert",
    class_numbers: &[
        ("dim", 768),
        ("hidden_dim", 3_072),
        ("n_heads", 12),
        ("n_layers", 6),
        ("vocab_size", 30_522),
        ("max_position_embeddings", 512),
    ],
    classes: &["DistilBertForSequenceClassification", "DistilBertForMaskedLM"],
    load,
    parameters: Parameters::OfMasked { masked: &Parameters::Blocks(FILLING.names), others: &Parameters::Blocks(NAMES) },
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
    renamed: None,
    blocks: Some("n_layers"),
    heads: Some("n_heads"),
    attention: Some(&separate(["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"])),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["distilbert."],
    before: &["embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.LayerNorm"],
    blocks: "transformer.layer",
    modules: &MODULES,
    after: &[],
    before_head: &["pre_classifier"],
    heads: &["classifier"],
    buffers: &["embeddings.position_ids"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// What is other where masked tokens are filled in.
const FILLING: Filling = Filling {
    names: BlockNames { before_head: &[HEAD.dense, HEAD.norm], heads: &[HEAD.decoder], ..NAMES },
    head: HEAD,
};

const HEAD: MaskedNames =
    MaskedNames { dense: "vocab_transform", norm: "vocab_layer_norm", decoder: "vocab_projector", bias: None };

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
    let activation = activation.ok_or_else(|| config.unsupported("activation"))?;
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
        activation,
        // the configuration has no key for it
        epsilon: 1e-12,
        dense: ("pre_classifier", Activation::Relu),
        classifier: "classifier",
        filling: Some((&FILLING, activation)),
    };
    family.build(config, weights, options)
}
