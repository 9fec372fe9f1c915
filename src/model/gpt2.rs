//! GPT-2 (Radford et al. 2019) as `GPT2LMHeadModel` stores it: learned positions, pre-norm blocks,
//! packed query-key-value, `Conv1D` weights `[in, out]`, tied head.

use std::sync::Arc;

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
use super::table::{StoredTable, Table};
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::TokenInputs;
use crate::nn::{Activation, Attention, Mask};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gpt2",
    class_numbers: &[("n_embd", 768), ("n_head", 12), ("n_layer", 12), ("vocab_size", 50_257), ("n_positions", 1_024)],
    classes: &["GPT2LMHeadModel"],
    load,
    parameters: Parameters::Blocks(NAMES),
    tied_by_default: true,
    without_effect: &[
        "attn_pdrop",
        "embd_pdrop",
        "n_ctx",
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    renamed: None,
    blocks: Some("n_layer"),
    heads: Some("n_head"),
    attention: Some(&[("attn.c_attn", HeadRole::Packed { kv_heads: None }), ("attn.c_proj", HeadRole::Output)]),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["transformer."],
    before: &["wte", "wpe"],
    blocks: "h",
    modules: &["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"],
    after: &["ln_f"],
    before_head: &[],
    heads: &["lm_head"],
    buffers: &[".attn.bias", ".attn.masked_bias"],
    layout: Layout::InputsFirst,
    experts: None,
};

/// `wte` and `wpe`, blocks `h`, norm `ln_f`, `lm_head`; `x: [R, D]` throughout.
#[derive(Debug)]
struct Gpt2 {
    wpe: Table,
}

#[derive(Debug)]
pub(super) struct Block {
    ln_1: LayerNorm,
    attn: SelfAttention,
    ln_2: LayerNorm,
    mlp: Mlp,
}

#[derive(Debug)]
struct SelfAttention {
    c_attn: Projection,
    c_proj: Projection,
    attention: Attention,
}

#[derive(Debug)]
struct Mlp {
    c_fc: Projection,
    activation: Activation,
    c_proj: Projection,
}

impl Transformer for Gpt2 {
    type Block = StoredBlock;
    type Norm = StoredLayerNorm;
    type Context = Positions;

    const PADDING_IS_FIXED: bool = false;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Positions> {
        Ok(positions.clone())
    }

    fn embed(
        &self,
        tokens: &Traced,
        _inputs: &TokenInputs,
        positions: &Positions,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        let places: Vec<u32> = positions.iter().flat_map(|rows| 0..rows.len() as u32).collect();
        self.wpe.add(tokens, &places, taps)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.wpe.check()
    }
}

impl decoder::Block<Positions> for Block {
    fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let x = x.add(&self.attn.trace(&self.ln_1.trace(x, taps)?, positions, taps)?)?;
        x.add(&self.mlp.trace(&self.ln_2.trace(&x, taps)?, taps)?)
    }
}

impl SelfAttention {
    fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let qkv = self.c_attn.trace(x, taps)?; // [R, 3 D]
        self.c_proj.trace(&self.attention.trace_packed(&qkv, positions, None)?, taps)
    }
}

impl Mlp {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        self.c_proj.trace(&self.activation.trace(&self.c_fc.trace(x, taps)?)?, taps)
    }
}

#[derive(Debug)]
struct StoredBlock {
    ln_1: StoredLayerNorm,
    c_attn: StoredLinear,
    attention: Attention,
    attn_c_proj: StoredLinear,
    ln_2: StoredLayerNorm,
    c_fc: StoredLinear,
    activation: Activation,
    mlp_c_proj: StoredLinear,
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let (c_attn, c_proj) = (self.c_attn.read()?, self.attn_c_proj.read()?);
        Ok(Block {
            ln_1: self.ln_1.read()?,
            attn: SelfAttention { c_attn, c_proj, attention: self.attention.clone() },
            ln_2: self.ln_2.read()?,
            mlp: Mlp { c_fc: self.c_fc.read()?, activation: self.activation, c_proj: self.mlp_c_proj.read()? },
        })
    }
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (d, heads, blocks) = (config.size("n_embd")?, config.size("n_head")?, config.size("n_layer")?);
    let inner = config.optional_size("n_inner")?.unwrap_or(4 * d);
    let (vocabulary, max_positions) = (config.size("vocab_size")?, config.size("n_positions")?);
    let epsilon = config.epsilon("layer_norm_epsilon", 1e-5)?;
    if d % heads != 0 {
        return Err(config.problem(format!("`n_embd` = {d} is not a multiple of `n_head` = {heads}")));
    }
    let activation = config.text("activation_function", "gelu_new")?;
    let activation = Activation::from_name(activation).ok_or_else(|| config.unsupported("activation_function"))?;
    let by_head = if config.flag("scale_attn_weights", true)? { 1.0 / ((d / heads) as f64).sqrt() } else { 1.0 };
    let by_depth = config.flag("scale_attn_by_inverse_layer_idx", false)?;

    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), config, options);
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str| StoredLayerNorm::new(&source, &tracking, name, d, epsilon);
    // Conv1D computes x W + b with W: [in, out]
    let conv1d = |name: &str, outputs: usize, inputs: usize| {
        let mut input = SharedInput::default();
        source.linear(&tracking, name, [outputs, inputs], true, Layout::InputsFirst, &mut input)
    };
    let tied = config.flag("tie_word_embeddings", ARCHITECTURE.tied_by_default)?;
    let ends = Ends::new(&source, &NAMES, [vocabulary, d], tied)?;
    let shape = [max_positions, d];
    let wpe = StoredTable::new(&source, &tracking, source.embedding("wpe", shape)?, shape, None);
    let h = Blocks::new(&source, blocks, |n| {
        let scale = if by_depth { by_head / (n + 1) as f64 } else { by_head };
        Ok(StoredBlock {
            ln_1: norm(&format!("h.{n}.ln_1"))?,
            c_attn: conv1d(&format!("h.{n}.attn.c_attn"), 3 * d, d)?,
            attention: tracking.attending(Attention {
                heads,
                kv_heads: heads,
                head_dimension: d / heads,
                scale,
                mask: Mask::Causal,
                window: None,
                soft_cap: None,
                products: source.products,
            }),
            attn_c_proj: conv1d(&format!("h.{n}.attn.c_proj"), d, d)?,
            ln_2: norm(&format!("h.{n}.ln_2"))?,
            c_fc: conv1d(&format!("h.{n}.mlp.c_fc"), inner, d)?,
            activation,
            mlp_c_proj: conv1d(&format!("h.{n}.mlp.c_proj"), d, inner)?,
        })
    })?;
    let parts = Parts { ends, blocks: h, norm: norm("ln_f")?, max_positions: Some(max_positions) };
    parts.load(&source, tracking, options.residence, || Ok(Gpt2 { wpe: wpe.held(options.residence)? }))
}
