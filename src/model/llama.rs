//! Llama (Touvron et al. 2023) as `LlamaForCausalLM` stores it: rotary positions, RMS norms before
//! attention and a gated MLP, grouped key-value heads.

use candle_core::{DType, Tensor};

use super::decoder::{Decoder, Head, Loaded, head_weight};
use super::tracking::{SharedInput, Tracking};
use super::{Config, LayerSelection, LoadError, Weights};
use crate::curvature::{Linear, Positions, TapRecorder, Traced};
use crate::data::TokenBatch;
use crate::nn::{Activation, Attention, Mask, RmsNorm, RopeConfig, RopeTables, trace_gated};

/// `x: [R, D]` throughout.
#[derive(Debug)]
pub(super) struct Llama {
    embed_tokens: Tensor,
    layers: Vec<Block>,
    norm: RmsNorm,
    rope: RopeConfig,
    lm_head: Head,
}

#[derive(Debug)]
struct Block {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

#[derive(Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attention: Attention,
}

#[derive(Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: Activation,
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    rope: RopeTables,
}

impl Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let x = x.add(&self.self_attn.trace(&self.input_layernorm.trace(x)?, context, taps)?)?;
        x.add(&self.mlp.trace(&self.post_attention_layernorm.trace(&x)?, taps)?)
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

impl Decoder for Llama {
    type Context = Context;

    fn context(&self, positions: &Positions) -> Context {
        Context { positions: positions.clone(), rope: RopeTables::new(&self.rope, positions) }
    }

    fn embed(&self, batch: &TokenBatch) -> candle_core::Result<Tensor> {
        let ids = Tensor::from_slice(&batch.input_ids, batch.input_ids.len(), self.embed_tokens.device())?;
        self.embed_tokens.index_select(&ids, 0)
    }

    fn blocks(&self) -> usize {
        self.layers.len()
    }

    fn block(&self, index: usize, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        self.layers[index].trace(x, context, taps)
    }

    fn final_norm(&self, x: &Traced) -> candle_core::Result<Traced> {
        self.norm.trace(x)
    }

    fn head(&self) -> &Head {
        &self.lm_head
    }
}

/// Builds the model from its folder's configuration and weights.
pub(super) fn load(
    config: &Config,
    weights: &Weights,
    selection: &LayerSelection,
    dtype: DType,
) -> Result<Loaded<Llama>, LoadError> {
    let (d, heads, blocks) =
        (config.size("hidden_size")?, config.size("num_attention_heads")?, config.size("num_hidden_layers")?);
    let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    let head_size = config.optional_size("head_dim")?.unwrap_or(d / heads);
    let (inner, vocabulary) = (config.size("intermediate_size")?, config.size("vocab_size")?);
    let epsilon = config.number("rms_norm_eps", 1e-6)?;
    if heads % kv_heads != 0 || head_size == 0 || head_size % 2 != 0 {
        let problem = format!("{heads} heads of size {head_size} with {kv_heads} key-value heads do not fit");
        return Err(config.problem(problem));
    }
    if config.number("pretraining_tp", 1.0)? > 1.0 {
        return Err(config.unsupported("pretraining_tp"));
    }
    let activation =
        Activation::from_name(config.text("hidden_act", "silu")?).ok_or_else(|| config.unsupported("hidden_act"))?;
    let keys = serde_json::Value::Object(config.keys().clone());
    let rope = RopeConfig::from_config(&keys, head_size, None).map_err(|error| config.problem(error.to_string()))?;
    let (attention_bias, mlp_bias) = (config.flag("attention_bias", false)?, config.flag("mlp_bias", false)?);

    // a checkpoint of the base class has no prefix
    let prefix = if weights.contains("embed_tokens.weight") { "" } else { "model." };
    let tensor = |name: &str, shape: &[usize]| weights.tensor(&format!("{prefix}{name}"), shape, dtype);
    let norm = |name: &str| -> Result<RmsNorm, LoadError> {
        Ok(RmsNorm { weight: tensor(&format!("{name}.weight"), &[d])?, epsilon, offset: 0.0 })
    };
    let mut tracking = Tracking::new(selection);
    let mut linear =
        |name: &str, outputs: usize, inputs: usize, bias: bool, input: &mut SharedInput| -> Result<Linear, LoadError> {
            let weight = tensor(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias_tensor = bias.then(|| tensor(&format!("{name}.bias"), &[outputs])).transpose()?;
            let layer = tracking.layer(&format!("{prefix}{name}"), outputs, inputs, bias, input);
            Ok(Linear::new(weight, bias_tensor, layer)?)
        };
    let embed_tokens = tensor("embed_tokens.weight", &[vocabulary, d])?;
    let mut layers = Vec::with_capacity(blocks);
    for n in 0..blocks {
        let (mut qkv, mut gate_up) = (SharedInput::default(), SharedInput::default());
        let name = |part: &str| format!("layers.{n}.{part}");
        let scale = 1.0 / (head_size as f64).sqrt();
        layers.push(Block {
            input_layernorm: norm(&name("input_layernorm"))?,
            self_attn: SelfAttention {
                q_proj: linear(&name("self_attn.q_proj"), heads * head_size, d, attention_bias, &mut qkv)?,
                k_proj: linear(&name("self_attn.k_proj"), kv_heads * head_size, d, attention_bias, &mut qkv)?,
                v_proj: linear(&name("self_attn.v_proj"), kv_heads * head_size, d, attention_bias, &mut qkv)?,
                o_proj: linear(
                    &name("self_attn.o_proj"),
                    d,
                    heads * head_size,
                    attention_bias,
                    &mut SharedInput::default(),
                )?,
                attention: Attention {
                    heads,
                    kv_heads,
                    head_dimension: head_size,
                    scale,
                    mask: Mask::Causal,
                    window: None,
                },
            },
            post_attention_layernorm: norm(&name("post_attention_layernorm"))?,
            mlp: Mlp {
                gate_proj: linear(&name("mlp.gate_proj"), inner, d, mlp_bias, &mut gate_up)?,
                up_proj: linear(&name("mlp.up_proj"), inner, d, mlp_bias, &mut gate_up)?,
                down_proj: linear(&name("mlp.down_proj"), d, inner, mlp_bias, &mut SharedInput::default())?,
                activation,
            },
        });
    }
    let norm = norm("norm")?;
    let mut notes = vec![];
    let tied = config.flag("tie_word_embeddings", false)?;
    let weight = head_weight(weights, &embed_tokens, "lm_head.weight", tied, &mut notes)?;
    let layer = tracking.outer_layer("lm_head", vocabulary, d, false);
    let max_positions = config.optional_size("max_position_embeddings")?;
    let decoder = Llama { embed_tokens, layers, norm, rope, lm_head: Head { weight, layer } };
    Ok(Loaded { decoder, layers: tracking.finish()?, vocabulary, max_positions, notes })
}
