//! RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020) as `RobertaForSequenceClassification` and
//! `XLMRobertaForSequenceClassification` store them: BERT's encoder with positions that count from behind the padding
//! token's id, and a head of two layers on the first token; and as `RobertaForMaskedLM` and `XLMRobertaForMaskedLM` do,
//! which fill in masked tokens.

use std::sync::Arc;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::bert::{MODULES, WITHOUT_EFFECT};
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
    model_type: "roberta",
    class_numbers: &[
        ("hidden_size", 768),
        ("intermediate_size", 3_072),
        ("num_attention_heads", 12),
        ("num_hidden_layers", 12),
        ("vocab_size", 50_265),
        ("max_position_embeddings", 512),
    ],
    classes: &["RobertaForSequenceClassification", "RobertaForMaskedLM"],
    load,
    parameters: Parameters::OfMasked { masked: &Parameters::Blocks(FILLING.names), others: &Parameters::Blocks(NAMES) },
    tied_by_default: true,
    without_effect: WITHOUT_EFFECT,
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: super::bert::ARCHITECTURE.attention,
};

/// XLM-RoBERTa: RoBERTa's network, which registers its head first since transformers 5.
pub(super) const XLM: Architecture = Architecture {
    model_type: "xlm-roberta",
    class_numbers: &[
        ("hidden_size", 768),
        ("intermediate_size", 3_072),
        ("num_attention_heads", 12),
        ("num_hidden_layers", 12),
        ("vocab_size", 30_522),
        ("max_position_embeddings", 512),
    ],
    classes: &["XLMRobertaForSequenceClassification", "XLMRobertaForMaskedLM"],
    parameters: Parameters::OfMasked {
        masked: &Parameters::Since5 {
            before: &Parameters::Blocks(FILLING.names),
            since: &Parameters::HeadFirst(FILLING.names),
        },
        others: &Parameters::Since5 { before: &Parameters::Blocks(NAMES), since: &Parameters::HeadFirst(NAMES) },
    },
    ..ARCHITECTURE
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["roberta."],
    before: &[
        "embeddings.word_embeddings",
        "embeddings.token_type_embeddings",
        "embeddings.LayerNorm",
        "embeddings.position_embeddings",
    ],
    blocks: "encoder.layer",
    modules: &MODULES,
    after: &["pooler.dense"],
    before_head: &["classifier.dense"],
    heads: &["classifier.out_proj"],
    buffers: &["embeddings.position_ids"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// What is other where masked tokens are filled in.
const FILLING: Filling = Filling {
    names: BlockNames { after: &[], before_head: &["lm_head", HEAD.dense, HEAD.norm], heads: &[HEAD.decoder], ..NAMES },
    head: HEAD,
};

const HEAD: MaskedNames = MaskedNames {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder",
    bias: Some("lm_head.bias"),
};

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let dense = ("classifier.dense", Activation::Tanh);
    let mut family = Family::read(config, &NAMES, MODULES, dense, "classifier.out_proj")?;
    let padding = match config.get("pad_token_id") {
        None => 1,
        Some(id) => match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) if (id as usize) < family.rows_of_positions => id,
            _ => return Err(config.problem(format!("`pad_token_id` = {id} is no row of the table of positions"))),
        },
    };
    family.places = Places::BehindPadding(padding);
    // whatever the blocks' function is
    family.filling = Some((&FILLING, Activation::Gelu));
    family.build(config, weights, options)
}
