//! Llama (Touvron et al. 2023) as `LlamaForCausalLM` stores it: rotary positions, RMS norms before
//! attention and a gated MLP, grouped key-value heads.

use std::sync::Arc;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::attention_heads::LLAMA_ATTENTION;
use super::body::Loaded;
use super::checkpoint_reader::CheckpointReader;
use super::config::Config;
use super::decoder::{self, Blocks, Ends, Parts, Transformer};
use super::error::LoadError;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::norms::{Norm, RmsNorm, StoredRmsNorm};
use super::projection::{Projection, StoredLinear};
use super::residence::Stored;
use super::rotary::Rotary;
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::TokenInputs;
use crate::nn::{Activation, Attention, Mask, RopeConfig, RopeTables, trace_gated};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "llama",
    class_numbers: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
        ("max_position_embeddings", 2_048),
    ],
    // the second is what conversions wrote before the class had its name
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    load,
    parameters: Parameters::Blocks(NAMES),
    tied_by_default: false,
    // slices of products, which give the same numbers
    without_effect: &["pretraining_tp"],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&LLAMA_ATTENTION),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["model."],
    before: &["embed_tokens"],
    blocks: "layers",
    modules: &[
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
        "post_attention_layernorm",
    ],
    after: &["norm"],
    before_head: &[],
    heads: &["lm_head"],
    buffers: &["rotary_emb.inv_freq"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// `embed_tokens`, blocks `layers`, `norm`, `lm_head`; `x: [R, D]` throughout.
#[derive(Debug)]
struct Llama {
    rope: RopeConfig,
}

#[derive(Debug)]
pub(super) struct Block {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

#[derive(Debug)]
struct SelfAttention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    attention: Attention,
}

#[derive(Debug)]
struct Mlp {
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
    activation: Activation,
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    rope: RopeTables,
}

impl Transformer for Llama {
    type Block = StoredBlock;
    type Norm = StoredRmsNorm;
    type Context = Context;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        Ok(Context { positions: positions.clone(), rope: RopeTables::new(&self.rope, positions) })
    }
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let x = x.add(&self.self_attn.trace(&self.input_layernorm.trace(x, taps)?, context, taps)?)?;
        x.add(&self.mlp.trace(&self.post_attention_layernorm.trace(&x, taps)?, taps)?)
    }
}

impl SelfAttention {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let q = self.q_proj.trace(x, taps)?; // [R, H d]
        let k = self.k_proj.trace(x, taps)?; // [R, H_kv d]
        let v = self.v_proj.trace(x, taps)?;
        let y = self.attention.trace(&q, &k, &v, &context.positions, Some(&context.rope))?;
        self.o_proj.trace(&y, taps)
    }
}

impl Mlp {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let (gate, up) = (self.gate_proj.trace(x, taps)?, self.up_proj.trace(x, taps)?);
        self.down_proj.trace(&trace_gated(self.activation, &gate, &up)?, taps)
    }
}

#[derive(Debug)]
struct StoredBlock {
    input_layernorm: StoredRmsNorm,
    qkvo: [StoredLinear; 4],
    attention: Attention,
    post_attention_layernorm: StoredRmsNorm,
    gate_up_down: [StoredLinear; 3],
    activation: Activation,
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let ([q, k, v, o], [gate, up, down]) = (&self.qkvo, &self.gate_up_down);
        Ok(Block {
            input_layernorm: self.input_layernorm.read()?,
            self_attn: SelfAttention {
                q_proj: q.read()?,
                k_proj: k.read()?,
                v_proj: v.read()?,
                o_proj: o.read()?,
                attention: self.attention.clone(),
            },
            post_attention_layernorm: self.post_attention_layernorm.read()?,
            mlp: Mlp {
                gate_proj: gate.read()?,
                up_proj: up.read()?,
                down_proj: down.read()?,
                activation: self.activation,
            },
        })
    }
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (d, heads, blocks) =
        (config.size("hidden_size")?, config.size("num_attention_heads")?, config.size("num_hidden_layers")?);
    let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    let head_size = config.optional_size("head_dim")?.unwrap_or(d / heads);
    let (inner, vocabulary) = (config.size("intermediate_size")?, config.size("vocab_size")?);
    let epsilon = config.epsilon("rms_norm_eps", 1e-6)?;
    if heads % kv_heads != 0 || head_size == 0 || head_size % 2 != 0 {
        let problem = format!("{heads} heads of size {head_size} with {kv_heads} key-value heads do not fit");
        return Err(config.problem(problem));
    }
    let activation =
        Activation::from_name(config.text("hidden_act", "silu")?).ok_or_else(|| config.unsupported("hidden_act"))?;
    let rope = Rotary::LLAMA.read(config, head_size)?;
    let (attention_bias, mlp_bias) = (config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);

    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), config, options);
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str| StoredRmsNorm::new(&source, &tracking, name, d, epsilon);
    let linear = |name: &str, outputs: usize, inputs: usize, bias: bool, input: &mut SharedInput| {
        source.linear(&tracking, name, [outputs, inputs], bias, Layout::OutputsFirst, input)
    };
    let tied = config.flag("tie_word_embeddings", ARCHITECTURE.tied_by_default)?;
    let ends = Ends::new(&source, &NAMES, [vocabulary, d], tied)?;
    let (all, kv) = (heads * head_size, kv_heads * head_size);
    let layers = Blocks::new(&source, blocks, |n| {
        let (mut qkv, mut gate_up) = (SharedInput::default(), SharedInput::default());
        let name = |part: &str| format!("layers.{n}.{part}");
        Ok(StoredBlock {
            input_layernorm: norm(&name("input_layernorm"))?,
            qkvo: [
                linear(&name("self_attn.q_proj"), all, d, attention_bias, &mut qkv)?,
                linear(&name("self_attn.k_proj"), kv, d, attention_bias, &mut qkv)?,
                linear(&name("self_attn.v_proj"), kv, d, attention_bias, &mut qkv)?,
                linear(&name("self_attn.o_proj"), d, all, attention_bias, &mut SharedInput::default())?,
            ],
            attention: tracking.attending(Attention {
                heads,
                kv_heads,
                head_dimension: head_size,
                scale: 1.0 / (head_size as f64).sqrt(),
                mask: Mask::Causal,
                window: None,
                soft_cap: None,
                products: source.products,
            }),
            post_attention_layernorm: norm(&name("post_attention_layernorm"))?,
            gate_up_down: [
                linear(&name("mlp.gate_proj"), inner, d, mlp_bias, &mut gate_up)?,
                linear(&name("mlp.up_proj"), inner, d, mlp_bias, &mut gate_up)?,
                linear(&name("mlp.down_proj"), d, inner, mlp_bias, &mut SharedInput::default())?,
            ],
            activation,
        })
    })?;
    let parts = Parts {
        ends,
        blocks: layers,
        norm: norm("norm")?,
        max_positions: config.optional_size("max_position_embeddings")?,
    };
    parts.load(&source, tracking, options.residence, || Ok(Llama { rope }))
}
