//! BERT (Devlin et al. 2019) as `BertForSequenceClassification` stores it: the encoder, a pooler with tanh on the first
//! token, and a classifier; and as `BertForMaskedLM` does, which fills in masked tokens.

use std::sync::Arc;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::attention_heads::separate;
use super::body::Loaded;
use super::config::Config;
use super::encoder::{Family, Filling};
use super::error::LoadError;
use super::heads::masked::MaskedNames;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::weights::Weights;
use crate::nn::Activation;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "bert",
    class_numbers: &[
        ("hidden_size", 768),
        ("intermediate_size", 3_072),
        ("num_attention_heads", 12),
        ("num_hidden_layers", 12),
        ("vocab_size", 30_522),
        ("max_position_embeddings", 512),
    ],
    classes: &["BertForSequenceClassification", "BertForMaskedLM"],
    load,
    parameters: Parameters::OfMasked { masked: &Parameters::Blocks(FILLING.names), others: &Parameters::Blocks(NAMES) },
    tied_by_default: true,
    without_effect: WITHOUT_EFFECT,
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&separate([
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ])),
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
    before_head: &[],
    heads: &["classifier"],
    buffers: &["embeddings.position_ids"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// What is other where masked tokens are filled in.
const FILLING: Filling = Filling {
    names: BlockNames {
        after: &[],
        before_head: &["cls.predictions", HEAD.dense, HEAD.norm],
        heads: &[HEAD.decoder],
        ..NAMES
    },
    head: HEAD,
};

const HEAD: MaskedNames = MaskedNames {
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder",
    bias: Some("cls.predictions.bias"),
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
    let mut family = Family::read(config, &NAMES, MODULES, pooler, "classifier")?;
    family.filling = Some((&FILLING, family.activation));
    family.build(config, weights, options)
}
