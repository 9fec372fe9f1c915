//! GPT-J (Wang and Komatsuzaki 2021) as `GPTJForCausalLM` stores it: one norm a block, whose output both branches read,
//! rotary embeddings of neighbouring coordinates, a head with a bias.

use std::sync::Arc;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::attention_heads::separate;
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
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::TokenInputs;
use crate::nn::{Activation, Attention, Pairing, RopeConfig, RopeTables};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gptj",
    class_numbers: &[
        ("n_embd", 4_096),
        ("n_head", 16),
        ("n_layer", 28),
        ("vocab_size", 50_400),
        ("n_positions", 2_048),
    ],
    classes: &["GPTJForCausalLM"],
    load,
    parameters: Parameters::Blocks(NAMES),
    tied_by_default: false,
    without_effect: &[
        "attn_pdrop",
        "embd_pdrop",
        "n_ctx",
        "resid_pdrop",
        "rotary",
        "scale_attn_weights",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    renamed: None,
    blocks: Some("n_layer"),
    heads: Some("n_head"),
    attention: Some(&separate(["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"])),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["transformer."],
    before: &["wte"],
    blocks: "h",
    modules: &["ln_1", "attn.k_proj", "attn.v_proj", "attn.q_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"],
    after: &["ln_f"],
    before_head: &[],
    heads: &["lm_head"],
    buffers: &[".attn.bias", ".attn.masked_bias"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// Base of the rotary embeddings: the configuration has no key for it.
const THETA: f64 = 10_000.0;

/// `wte`, blocks `h`, norm `ln_f`, `lm_head`; `x: [R, D]` throughout.
#[derive(Debug)]
struct GptJ {
    rope: RopeConfig,
}

#[derive(Debug)]
pub(super) struct Block {
    ln_1: LayerNorm,
    attn: SelfAttention,
    mlp: Mlp,
}

#[derive(Debug)]
struct SelfAttention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    out_proj: Projection,
    attention: Attention,
}

#[derive(Debug)]
struct Mlp {
    fc_in: Projection,
    activation: Activation,
    fc_out: Projection,
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    rope: RopeTables,
}

impl Transformer for GptJ {
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
        let normal = self.ln_1.trace(x, taps)?;
        x.add(&self.attn.trace(&normal, context, taps)?)?.add(&self.mlp.trace(&normal, taps)?)
    }
}

impl SelfAttention {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let q = self.q_proj.trace(x, taps)?; // [R, D]
        let k = self.k_proj.trace(x, taps)?;
        let v = self.v_proj.trace(x, taps)?;
        let y = self.attention.trace(&q, &k, &v, &context.positions, Some(&context.rope))?;
        self.out_proj.trace(&y, taps)
    }
}

impl Mlp {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        self.fc_out.trace(&self.activation.trace(&self.fc_in.trace(x, taps)?)?, taps)
    }
}

#[derive(Debug)]
struct StoredBlock {
    ln_1: StoredLayerNorm,
    qkvo: [StoredLinear; 4],
    attention: Attention,
    fc_in: StoredLinear,
    activation: Activation,
    fc_out: StoredLinear,
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let [q, k, v, o] = &self.qkvo;
        Ok(Block {
            ln_1: self.ln_1.read()?,
            attn: SelfAttention {
                q_proj: q.read()?,
                k_proj: k.read()?,
                v_proj: v.read()?,
                out_proj: o.read()?,
                attention: self.attention.clone(),
            },
            mlp: Mlp { fc_in: self.fc_in.read()?, activation: self.activation, fc_out: self.fc_out.read()? },
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
    // `null` rotates as many coordinates as the model is wide, more than a head has
    let rotated = config.size_or("rotary_dim", Some(64))?.ok_or_else(|| config.unsupported("rotary_dim"))?;
    if rotated > d / heads || rotated % 2 == 1 {
        let problem = format!("`rotary_dim` = {rotated}, expected an even number, at most a head's size {}", d / heads);
        return Err(config.problem(problem));
    }
    let activation = config.text("activation_function", "gelu_new")?;
    let activation = Activation::from_name(activation).ok_or_else(|| config.unsupported("activation_function"))?;

    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), config, options);
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str| StoredLayerNorm::new(&source, &tracking, name, d, epsilon);
    let linear = |name: &str, outputs: usize, inputs: usize, bias: bool, input: &mut SharedInput| {
        source.linear(&tracking, name, [outputs, inputs], bias, Layout::OutputsFirst, input)
    };
    let tied = config.flag("tie_word_embeddings", ARCHITECTURE.tied_by_default)?;
    let ends = Ends::new(&source, &NAMES, [vocabulary, d], tied)?.with_bias(&source)?;
    let h = Blocks::new(&source, blocks, |n| {
        // attention's projections and the MLP read the same input
        let mut input = SharedInput::default();
        let name = |part: &str| format!("h.{n}.{part}");
        Ok(StoredBlock {
            ln_1: norm(&name("ln_1"))?,
            qkvo: [
                linear(&name("attn.q_proj"), d, d, false, &mut input)?,
                linear(&name("attn.k_proj"), d, d, false, &mut input)?,
                linear(&name("attn.v_proj"), d, d, false, &mut input)?,
                linear(&name("attn.out_proj"), d, d, false, &mut SharedInput::default())?,
            ],
            attention: tracking
                .attending(Attention { products: source.products, ..Attention::causal(heads, d / heads) }),
            fc_in: linear(&name("mlp.fc_in"), inner, d, true, &mut input)?,
            activation,
            fc_out: linear(&name("mlp.fc_out"), d, inner, true, &mut SharedInput::default())?,
        })
    })?;
    let parts = Parts { ends, blocks: h, norm: norm("ln_f")?, max_positions: Some(max_positions) };
    let rope = RopeConfig::new(rotated, THETA).paired(Pairing::Neighbours);
    parts.load(&source, tracking, options.residence, || Ok(GptJ { rope }))
}
