//! GPT-NeoX (Black et al. 2022; Pythia, Biderman et al. 2023) as `GPTNeoXForCausalLM` stores it: both branches of a
//! block read the residual stream, packed query-key-value by head, partly rotated heads, a head of its own.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::architecture::{Architecture, BlockNames, Parameters};
use super::attention_heads::HeadRole;
use super::body::Loaded;
use super::checkpoint_reader::CheckpointReader;
use super::config::Config;
use super::decoder::{self, Blocks, Ends, Parts, Transformer};
use super::error::LoadError;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::norms::{LayerNorm, Norm, StoredLayerNorm};
use super::projection::{Projection, StoredLinear};
use super::residence::Stored;
use super::rotary::{Partial, Rotary};
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::TokenInputs;
use crate::nn::{Activation, Attention, RopeConfig, RopeTables};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gpt_neox",
    class_numbers: &[
        ("hidden_size", 6_144),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 44),
        ("num_attention_heads", 64),
        ("vocab_size", 50_432),
        ("max_position_embeddings", 2_048),
    ],
    classes: &["GPTNeoXForCausalLM"],
    load,
    parameters: Parameters::Blocks(NAMES),
    tied_by_default: false,
    without_effect: &["hidden_dropout", "num_key_value_heads", "rope_theta"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&[("attention.query_key_value", HeadRole::PackedByHead), ("attention.dense", HeadRole::Output)]),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["gpt_neox."],
    before: &["embed_in"],
    blocks: "layers",
    modules: &[
        "input_layernorm",
        "post_attention_layernorm",
        "attention.query_key_value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ],
    after: &["final_layer_norm"],
    before_head: &[],
    heads: &["embed_out", "lm_head"],
    buffers: &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// `embed_in`, blocks `layers`, `final_layer_norm`, `embed_out`; `x: [R, D]` throughout.
#[derive(Debug)]
struct GptNeoX {
    rope: RopeConfig,
}

#[derive(Debug)]
pub(super) struct Block {
    input_layernorm: LayerNorm,
    attention: SelfAttention,
    post_attention_layernorm: LayerNorm,
    mlp: Mlp,
    residual: Residual,
}

/// What the MLP of a block reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Residual {
    /// The MLP reads what attention reads.
    Parallel,
    /// The MLP reads what attention reads plus what attention adds.
    Sequential,
}

#[derive(Debug)]
struct SelfAttention {
    query_key_value: Projection,
    dense: Projection,
    attention: Attention,
}

#[derive(Debug)]
struct Mlp {
    dense_h_to_4h: Projection,
    activation: Activation,
    dense_4h_to_h: Projection,
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    rope: RopeTables,
}

impl Transformer for GptNeoX {
    type Block = StoredBlock;
    type Norm = StoredLayerNorm;
    type Context = Context;

    const PADDING_IS_FIXED: bool = false;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        Ok(Context { positions: positions.clone(), rope: RopeTables::new(&self.rope, positions) })
    }
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let attended = x.add(&self.attention.trace(&self.input_layernorm.trace(x, taps)?, context, taps)?)?;
        let read = match self.residual {
            Residual::Parallel => x,
            Residual::Sequential => &attended,
        };
        attended.add(&self.mlp.trace(&self.post_attention_layernorm.trace(read, taps)?, taps)?)
    }
}

impl SelfAttention {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let qkv = self.query_key_value.trace(x, taps)?; // [R, H · 3 d]
        let y = self.attention.trace_packed_by_head(&qkv, &context.positions, Some(&context.rope))?;
        self.dense.trace(&y, taps)
    }
}

impl Mlp {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        self.dense_4h_to_h.trace(&self.activation.trace(&self.dense_h_to_4h.trace(x, taps)?)?, taps)
    }
}

#[derive(Debug)]
struct StoredBlock {
    input_layernorm: StoredLayerNorm,
    query_key_value: StoredLinear,
    dense: StoredLinear,
    attention: Attention,
    post_attention_layernorm: StoredLayerNorm,
    dense_h_to_4h: StoredLinear,
    activation: Activation,
    dense_4h_to_h: StoredLinear,
    residual: Residual,
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        Ok(Block {
            input_layernorm: self.input_layernorm.read()?,
            attention: SelfAttention {
                query_key_value: self.query_key_value.read()?,
                dense: self.dense.read()?,
                attention: self.attention.clone(),
            },
            post_attention_layernorm: self.post_attention_layernorm.read()?,
            mlp: Mlp {
                dense_h_to_4h: self.dense_h_to_4h.read()?,
                activation: self.activation,
                dense_4h_to_h: self.dense_4h_to_h.read()?,
            },
            residual: self.residual,
        })
    }
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (d, heads, blocks) =
        (config.size("hidden_size")?, config.size("num_attention_heads")?, config.size("num_hidden_layers")?);
    let (inner, vocabulary) = (config.size("intermediate_size")?, config.size("vocab_size")?);
    let epsilon = config.epsilon("layer_norm_eps", 1e-5)?;
    if d % heads != 0 {
        return Err(config.problem(format!("`hidden_size` = {d} is not a multiple of `num_attention_heads` = {heads}")));
    }
    let activation =
        Activation::from_name(config.text("hidden_act", "gelu")?).ok_or_else(|| config.unsupported("hidden_act"))?;
    let attention_bias = config.flag("attention_bias", true)?;
    let residual = if config.flag("use_parallel_residual", true)? { Residual::Parallel } else { Residual::Sequential };
    let rope = rope(config, d / heads)?;

    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), config, options);
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str| StoredLayerNorm::new(&source, &tracking, name, d, epsilon);
    let linear = |name: &str, outputs: usize, inputs: usize, bias: bool| {
        let mut input = SharedInput::default();
        source.linear(&tracking, name, [outputs, inputs], bias, Layout::OutputsFirst, &mut input)
    };
    let tied = config.flag("tie_word_embeddings", ARCHITECTURE.tied_by_default)?;
    let ends = Ends::new(&source, &NAMES, [vocabulary, d], tied)?;
    let layers = Blocks::new(&source, blocks, |n| {
        let name = |part: &str| format!("layers.{n}.{part}");
        Ok(StoredBlock {
            input_layernorm: norm(&name("input_layernorm"))?,
            query_key_value: linear(&name("attention.query_key_value"), 3 * d, d, attention_bias)?,
            dense: linear(&name("attention.dense"), d, d, attention_bias)?,
            attention: tracking
                .attending(Attention { products: source.products, ..Attention::causal(heads, d / heads) }),
            post_attention_layernorm: norm(&name("post_attention_layernorm"))?,
            dense_h_to_4h: linear(&name("mlp.dense_h_to_4h"), inner, d, true)?,
            activation,
            dense_4h_to_h: linear(&name("mlp.dense_4h_to_h"), d, inner, true)?,
            residual,
        })
    })?;
    let parts = Parts {
        ends,
        blocks: layers,
        norm: norm("final_layer_norm")?,
        max_positions: config.optional_size("max_position_embeddings")?,
    };
    parts.load(&source, tracking, options.residence, || Ok(GptNeoX { rope }))
}

/// The rotary settings, whose base and rotated part have names of their own where the dictionary lacks them.
fn rope(config: &Config, head_size: usize) -> Result<RopeConfig, LoadError> {
    let dictionary = |key: &str| match config.get(key) {
        None => Ok(None),
        Some(Value::Object(settings)) => Ok(Some(settings.clone()).filter(|settings| !settings.is_empty())),
        Some(_) => Err(config.problem(format!("`{key}` = {}, expected an object", config.quoted(key)))),
    };
    let (scaling, parameters) = (dictionary("rope_scaling")?, dictionary("rope_parameters")?);
    let mut settings: Map<String, Value> = scaling.or(parameters).unwrap_or_default();
    let theta = config.number_or_null("rotary_emb_base")?.unwrap_or(10_000.0);
    let fraction = config.number_or_null("rotary_pct")?.unwrap_or(0.25);
    settings.entry("rope_theta").or_insert(json!(theta));
    settings.entry("partial_rotary_factor").or_insert(json!(fraction));
    Rotary { theta, partial: Partial::Read, original_length: None }.resolve(config, settings, head_size)
}
