//! Llama (Touvron et al. 2023) as `LlamaForCausalLM` stores it: rotary positions, RMS norms before
//! attention and a gated MLP, grouped key-value heads.

use std::sync::Arc;

use candle_core::Tensor;

use super::decoder::{Decoder, Embedding, Head, Loaded, footprint, head_weight};
use super::parameters::{Held, Order, Source, Stored, StoredLinear, StoredTensor};
use super::tracking::{SharedInput, Tracking};
use super::{Config, LoadError, LoadOptions, Weights};
use crate::curvature::{Linear, Positions, TapRecorder, Traced};
use crate::data::TokenBatch;
use crate::nn::{Activation, Attention, Mask, RmsNorm, RopeConfig, RopeTables, trace_gated};

/// `x: [R, D]` throughout.
#[derive(Debug)]
pub(super) struct Llama {
    embed_tokens: Arc<Embedding>,
    layers: Vec<Held<StoredBlock>>,
    norm: Held<StoredNorm>,
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
        self.embed_tokens.rows(&batch.input_ids)
    }

    fn blocks(&self) -> usize {
        self.layers.len()
    }

    fn block(&self, index: usize, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        self.layers[index].get()?.trace(x, context, taps)
    }

    fn final_norm(&self, x: &Traced) -> candle_core::Result<Traced> {
        self.norm.get()?.trace(x)
    }

    fn head(&self) -> &Head {
        &self.lm_head
    }

    fn check(&self) -> Result<(), LoadError> {
        self.embed_tokens.check()?;
        self.layers.iter().try_for_each(Held::check)?;
        self.norm.check()?;
        self.lm_head.weight.check()
    }
}

#[derive(Debug)]
struct StoredNorm {
    weight: StoredTensor,
    epsilon: f64,
}

impl Stored for StoredNorm {
    type Value = RmsNorm;

    fn read(&self) -> Result<RmsNorm, LoadError> {
        Ok(RmsNorm { weight: self.weight.read()?, epsilon: self.epsilon, offset: 0.0 })
    }
}

#[derive(Debug)]
struct StoredBlock {
    input_layernorm: StoredNorm,
    qkvo: [StoredLinear; 4],
    attention: Attention,
    post_attention_layernorm: StoredNorm,
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
pub(super) fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded<Llama>, LoadError> {
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

    let prefix = if weights.contains("embed_tokens.weight") { "" } else { "model." };
    let LoadOptions { selection, dtype, products, device, residence, .. } = options;
    let source = Source::new(weights, prefix, *dtype, device).with_products(*products);
    let norm = |name: &str| -> Result<StoredNorm, LoadError> {
        Ok(StoredNorm { weight: source.tensor(&format!("{name}.weight"), &[d])?, epsilon })
    };
    let mut tracking = Tracking::new(selection);
    let mut linear = |name: &str, outputs: usize, inputs: usize, bias: bool, input: &mut SharedInput| {
        source.linear(&mut tracking, name, [outputs, inputs], bias, Order::OutputsFirst, input)
    };
    let embed_tokens = source.tensor("embed_tokens.weight", &[vocabulary, d])?;
    let outside = source.parameters();
    let mut layers = Vec::with_capacity(blocks);
    for n in 0..blocks {
        let (mut qkv, mut gate_up) = (SharedInput::default(), SharedInput::default());
        let name = |part: &str| format!("layers.{n}.{part}");
        let (all, kv) = (heads * head_size, kv_heads * head_size);
        layers.push(StoredBlock {
            input_layernorm: norm(&name("input_layernorm"))?,
            qkvo: [
                linear(&name("self_attn.q_proj"), all, d, attention_bias, &mut qkv)?,
                linear(&name("self_attn.k_proj"), kv, d, attention_bias, &mut qkv)?,
                linear(&name("self_attn.v_proj"), kv, d, attention_bias, &mut qkv)?,
                linear(&name("self_attn.o_proj"), d, all, attention_bias, &mut SharedInput::default())?,
            ],
            attention: Attention {
                heads,
                kv_heads,
                head_dimension: head_size,
                scale: 1.0 / (head_size as f64).sqrt(),
                mask: Mask::Causal,
                window: None,
            },
            post_attention_layernorm: norm(&name("post_attention_layernorm"))?,
            gate_up_down: [
                linear(&name("mlp.gate_proj"), inner, d, mlp_bias, &mut gate_up)?,
                linear(&name("mlp.up_proj"), inner, d, mlp_bias, &mut gate_up)?,
                linear(&name("mlp.down_proj"), d, inner, mlp_bias, &mut SharedInput::default())?,
            ],
            activation,
        });
    }
    let inside = source.parameters() - outside;
    let norm = norm("norm")?;
    let mut notes = vec![];
    let tied = config.flag("tie_word_embeddings", false)?;
    let own_head = head_weight(&source, "lm_head.weight", &embed_tokens, tied, &mut notes)?;
    let layer = tracking.outer_layer("lm_head", vocabulary, d, false);
    let tracked = tracking.finish()?;
    let (all, kv) = (heads * head_size, kv_heads * head_size);
    let linear = [[all, d], [kv, d], [kv, d], [d, all], [inner, d], [inner, d], [d, inner]];
    let footprint = footprint(&source, [inside, blocks as u64], &linear, [vocabulary, d], layer);
    // everything fits: now the numbers, if they are kept
    let embed_tokens = Arc::new(Held::new(embed_tokens, *residence)?);
    let weight = match own_head {
        Some(own) => Arc::new(Held::new(own, *residence)?),
        None => embed_tokens.clone(),
    };
    let decoder = Llama {
        embed_tokens,
        layers: layers.into_iter().map(|block| Held::new(block, *residence)).collect::<Result<_, _>>()?,
        norm: Held::new(norm, *residence)?,
        rope,
        lm_head: Head { weight, layer },
    };
    let max_positions = config.optional_size("max_position_embeddings")?;
    Ok(Loaded { decoder, layers: tracked, footprint, vocabulary, max_positions, notes })
}
