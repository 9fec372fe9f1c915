//! ModernBERT (Warner et al. 2024, §2.1) as `ModernBertForSequenceClassification` stores it: rotary positions, norms before
//! attention and a gated MLP, packed projections, and most layers with a window to both sides; and as
//! `ModernBertForMaskedLM` does, which fills in masked tokens.

use std::sync::Arc;

use serde_json::Value;

use super::architecture::{Architecture, BlockNames, Parameters, is_masked};
use super::attention_heads::HeadRole;
use super::body::Loaded;
use super::checkpoint_reader::CheckpointReader;
use super::config::Config;
use super::decoder::{self, Blocks, Ends, Parts, Transformer};
use super::error::LoadError;
use super::heads::labels;
use super::heads::masked::{MaskedNames, StoredMasked};
use super::heads::sequence::{Pooling, StoredSequence};
use super::heads::steps::Step;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::norms::{LayerNorm, Norm, StoredLayerNorm};
use super::operations::{LayerRows, RowsOf};
use super::projection::{Projection, StoredLinear};
use super::residence::{Held, Stored};
use super::rotary::RotaryByLayer;
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::{MaskedTokens, TokenInputs};
use crate::nn::{Activation, Attention, Mask, RopeConfig, RopeTables, trace_gated_packed};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "modernbert",
    class_numbers: &[
        ("hidden_size", 768),
        ("intermediate_size", 1_152),
        ("num_attention_heads", 12),
        ("num_hidden_layers", 22),
        ("vocab_size", 50_368),
        ("max_position_embeddings", 8_192),
    ],
    classes: &["ModernBertForSequenceClassification", "ModernBertForMaskedLM"],
    load,
    parameters: Parameters::OfMasked { masked: &Parameters::Blocks(FILLING), others: &Parameters::Blocks(NAMES) },
    tied_by_default: true,
    without_effect: &[
        "compile",
        "deterministic_flash_attn",
        "embedding_dropout",
        "gradient_checkpointing",
        "initializer_cutoff_factor",
        "mlp_dropout",
        "position_embedding_type",
        "reference_compile",
        "repad_logits_with_grad",
        "tie_word_embeddings",
    ],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&[("attn.Wqkv", HeadRole::Packed { kv_heads: None }), ("attn.Wo", HeadRole::Output)]),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["model."],
    before: &["embeddings.tok_embeddings", "embeddings.norm"],
    blocks: "layers",
    modules: &["attn_norm", "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo"],
    after: &["final_norm"],
    before_head: &["head.dense", "head.norm"],
    heads: &["classifier"],
    buffers: &["rotary_emb.inv_freq"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// The names where masked tokens are filled in.
const FILLING: BlockNames = BlockNames { before_head: &[HEAD.dense, HEAD.norm], heads: &[HEAD.decoder], ..NAMES };

const HEAD: MaskedNames = MaskedNames { dense: "head.dense", norm: "head.norm", decoder: "decoder", bias: None };

/// `tok_embeddings` and their norm, blocks `layers`, `final_norm`; `x: [R, D]` throughout.
#[derive(Debug)]
struct ModernBert {
    norm: Held<StoredLayerNorm>,
    /// Rotary settings of layers that see everything, then of layers with a window.
    ropes: [RopeConfig; 2],
}

#[derive(Debug)]
pub(super) struct Block {
    /// The first layer has none: the embeddings are normalised.
    attn_norm: Option<LayerNorm>,
    wqkv: Projection,
    attention: Attention,
    wo: Projection,
    mlp_norm: LayerNorm,
    wi: Projection,
    activation: Activation,
    mlp_wo: Projection,
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    ropes: [RopeTables; 2],
}

impl Transformer for ModernBert {
    type Block = StoredBlock;
    type Norm = StoredLayerNorm;
    type Context = Context;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        let ropes = self.ropes.each_ref().map(|rope| RopeTables::new(rope, positions));
        Ok(Context { positions: positions.clone(), ropes })
    }

    fn embed(
        &self,
        tokens: &Traced,
        _inputs: &TokenInputs,
        _positions: &Positions,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        self.norm.get()?.trace(tokens, taps)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.norm.check()
    }
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = self.attn_norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.trace(x, taps))?;
        let rope = &context.ropes[usize::from(self.attention.window.is_some())];
        let qkv = self.wqkv.trace(&y, taps)?; // [R, 3 D]
        let y = self.attention.trace_packed(&qkv, &context.positions, Some(rope))?;
        let x = x.add(&self.wo.trace(&y, taps)?)?;
        let gated = trace_gated_packed(self.activation, &self.wi.trace(&self.mlp_norm.trace(&x, taps)?, taps)?)?; // [R, I]
        x.add(&self.mlp_wo.trace(&gated, taps)?)
    }
}

#[derive(Debug)]
struct StoredBlock {
    attn_norm: Option<StoredLayerNorm>,
    wqkv: StoredLinear,
    attention: Attention,
    wo: StoredLinear,
    mlp_norm: StoredLayerNorm,
    wi: StoredLinear,
    activation: Activation,
    mlp_wo: StoredLinear,
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        Ok(Block {
            attn_norm: self.attn_norm.as_ref().map(Stored::read).transpose()?,
            wqkv: self.wqkv.read()?,
            attention: self.attention.clone(),
            wo: self.wo.read()?,
            mlp_norm: self.mlp_norm.read()?,
            wi: self.wi.read()?,
            activation: self.activation,
            mlp_wo: self.mlp_wo.read()?,
        })
    }
}

/// Whether each layer has a window: as `layer_types` says, else all but every n-th.
fn windowed(config: &Config, blocks: usize) -> Result<Vec<bool>, LoadError> {
    let every = config.size_or("global_attn_every_n_layers", Some(3))?.unwrap_or(3);
    let Some(types) = config.list("layer_types")? else { return Ok((0..blocks).map(|n| n % every != 0).collect()) };
    if types.len() < blocks {
        return Err(config.problem(format!("`layer_types` has {} entries for {blocks} layers", types.len())));
    }
    let windowed = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(config.unsupported("layer_types")),
    };
    types.iter().take(blocks).map(windowed).collect()
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (d, heads, blocks) =
        (config.size("hidden_size")?, config.size("num_attention_heads")?, config.size("num_hidden_layers")?);
    let (inner, vocabulary) = (config.size("intermediate_size")?, config.size("vocab_size")?);
    if d % heads != 0 || (d / heads) % 2 != 0 {
        return Err(config.problem(format!("{heads} heads do not fit `hidden_size` = {d}")));
    }
    let activation =
        |key: &'static str| Activation::from_name(config.text(key, "gelu")?).ok_or_else(|| config.unsupported(key));
    let (hidden_activation, classifier_activation) =
        (activation("hidden_activation")?, activation("classifier_activation")?);
    let epsilon = config.epsilon("norm_eps", 1e-5)?;
    let norm_bias = config.flag("norm_bias", false)?;
    let [attention_bias, mlp_bias, classifier_bias] =
        ["attention_bias", "mlp_bias", "classifier_bias"].map(|key| config.flag(key, false));
    let (attention_bias, mlp_bias, classifier_bias) = (attention_bias?, mlp_bias?, classifier_bias?);
    // a token sees those at a distance of half of it to either side, and a window is the first distance not seen
    let window = config.size_or("local_attention", Some(128))?.unwrap_or(128) / 2 + 1;
    let windowed = windowed(config, blocks)?;
    let by_layer = RotaryByLayer {
        full: 160_000.0,
        sliding: 10_000.0,
        sliding_key: Some("local_rope_theta"),
        full_key: "global_rope_theta",
    };
    let ropes = by_layer.read(config, d / heads)?;
    let pooling = match config.text("classifier_pooling", "cls")? {
        "cls" => Pooling::First,
        "mean" => Pooling::Mean,
        _ => return Err(config.unsupported("classifier_pooling")),
    };

    let decoder_bias = config.flag("decoder_bias", true)?;
    // only rows with a target go through the head then, which changes no loss where -100 is none
    let is_sparse = config.flag("sparse_prediction", false)?;
    let ignored = config.get("sparse_pred_ignore_index").and_then(Value::as_i64).unwrap_or(-100);

    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), config, options);
    let tracking = Tracking::new(&options.selection);
    let fills = is_masked(config)?;
    let in_head = LayerRows::all(if fills { RowsOf::Positions } else { RowsOf::Examples });
    let head_norm = || StoredLayerNorm::at(&source, &tracking, HEAD.norm, d, epsilon, norm_bias);
    let head_norm = tracking.seeing(in_head, head_norm)?;
    let ends = if fills {
        if is_sparse && ignored != -100 {
            return Err(config.unsupported("sparse_pred_ignore_index"));
        }
        let (activation, dense_bias) = (classifier_activation, classifier_bias);
        let head = StoredMasked { names: HEAD, width: d, dense_bias, activation, norm: head_norm };
        let reads = MaskedTokens { token_types: None };
        Ends::of_masked(&source, &FILLING, [vocabulary, d], (reads, head, decoder_bias))?
    } else {
        let labels = labels::labels(config)?;
        let outputs = labels.outputs;
        let head = StoredSequence {
            pooling,
            steps: vec![
                Step::Linear { name: HEAD.dense, sizes: [d, d], bias: classifier_bias },
                Step::Activation(classifier_activation),
                Step::Norm(Box::new(head_norm)),
                Step::Linear { name: "classifier", sizes: [outputs, d], bias: true },
            ],
            outputs,
        };
        Ends::of_texts(&source, &NAMES, [vocabulary, d], head, labels)?
    };
    let norm = |name: &str| StoredLayerNorm::at(&source, &tracking, &source.full(name), d, epsilon, norm_bias);
    let linear = |name: &str, outputs: usize, inputs: usize, bias: bool| {
        let input = &mut SharedInput::default();
        source.linear(&tracking, name, [outputs, inputs], bias, Layout::OutputsFirst, input)
    };
    let layers = Blocks::new(&source, blocks, |n| {
        let name = |part: &str| format!("layers.{n}.{part}");
        Ok(StoredBlock {
            attn_norm: (n > 0).then(|| norm(&name("attn_norm"))).transpose()?,
            wqkv: linear(&name("attn.Wqkv"), 3 * d, d, attention_bias)?,
            attention: tracking.attending(Attention {
                mask: Mask::Bidirectional,
                window: windowed[n].then_some(window),
                products: source.products,
                ..Attention::causal(heads, d / heads)
            }),
            wo: linear(&name("attn.Wo"), d, d, attention_bias)?,
            mlp_norm: norm(&name("mlp_norm"))?,
            wi: linear(&name("mlp.Wi"), 2 * inner, d, mlp_bias)?,
            activation: hidden_activation,
            mlp_wo: linear(&name("mlp.Wo"), d, inner, mlp_bias)?,
        })
    })?;
    let name = source.full("embeddings.norm");
    let embedding_norm = StoredLayerNorm::untracked(&source, &name, d, epsilon, norm_bias)?;
    let parts = Parts {
        ends,
        blocks: layers,
        norm: norm("final_norm")?,
        max_positions: config.optional_size("max_position_embeddings")?,
    };
    parts.load(&source, tracking, options.residence, || {
        Ok(ModernBert { norm: Held::new(embedding_norm, options.residence)?, ropes })
    })
}
