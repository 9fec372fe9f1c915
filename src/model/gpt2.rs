//! GPT-2 (Radford et al. 2019) as `GPT2LMHeadModel` stores it: learned positions, pre-norm blocks,
//! packed query-key-value, `Conv1D` weights `[in, out]`, tied head.

use candle_core::{DType, Device, Tensor};

use super::decoder::{Decoder, Head, Loaded, head_weight};
use super::tracking::{SharedInput, Tracking};
use super::{Config, LayerSelection, LoadError, Weights};
use crate::curvature::{Linear, Positions, TapRecorder, Traced};
use crate::data::TokenBatch;
use crate::nn::{Activation, Attention, LayerNorm, Mask};

/// `x: [R, D]` throughout.
#[derive(Debug)]
pub(super) struct Gpt2 {
    wte: Tensor,
    wpe: Tensor,
    h: Vec<Block>,
    ln_f: LayerNorm,
    lm_head: Head,
}

#[derive(Debug)]
struct Block {
    ln_1: LayerNorm,
    attn: SelfAttention,
    ln_2: LayerNorm,
    mlp: Mlp,
}

#[derive(Debug)]
struct SelfAttention {
    c_attn: Linear,
    c_proj: Linear,
    attention: Attention,
}

#[derive(Debug)]
struct Mlp {
    c_fc: Linear,
    activation: Activation,
    c_proj: Linear,
}

impl Block {
    fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let x = x.add(&self.attn.trace(&self.ln_1.trace(x)?, positions, taps)?)?;
        x.add(&self.mlp.trace(&self.ln_2.trace(&x)?, taps)?)
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

impl Decoder for Gpt2 {
    type Context = Positions;

    fn context(&self, positions: &Positions) -> Positions {
        positions.clone()
    }

    fn embed(&self, batch: &TokenBatch) -> candle_core::Result<Tensor> {
        let device = self.wte.device();
        let ids = Tensor::from_slice(&batch.input_ids, batch.input_ids.len(), device)?;
        let places: Vec<u32> = batch.positions.iter().flat_map(|rows| 0..rows.len() as u32).collect();
        let places = Tensor::from_vec(places, batch.input_ids.len(), device)?;
        self.wte.index_select(&ids, 0)? + self.wpe.index_select(&places, 0)?
    }

    fn blocks(&self) -> usize {
        self.h.len()
    }

    fn block(
        &self,
        index: usize,
        x: &Traced,
        positions: &Positions,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        self.h[index].trace(x, positions, taps)
    }

    fn final_norm(&self, x: &Traced) -> candle_core::Result<Traced> {
        self.ln_f.trace(x)
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
) -> Result<Loaded<Gpt2>, LoadError> {
    let (d, heads, blocks) = (config.size("n_embd")?, config.size("n_head")?, config.size("n_layer")?);
    let inner = config.optional_size("n_inner")?.unwrap_or(4 * d);
    let (vocabulary, max_positions) = (config.size("vocab_size")?, config.size("n_positions")?);
    let epsilon = config.number("layer_norm_epsilon", 1e-5)?;
    if d % heads != 0 {
        return Err(config.problem(format!("`n_embd` = {d} is not a multiple of `n_head` = {heads}")));
    }
    if config.flag("add_cross_attention", false)? {
        return Err(config.unsupported("add_cross_attention"));
    }
    let activation = config.text("activation_function", "gelu_new")?;
    let activation = Activation::from_name(activation).ok_or_else(|| config.unsupported("activation_function"))?;
    let by_head = if config.flag("scale_attn_weights", true)? { 1.0 / ((d / heads) as f64).sqrt() } else { 1.0 };
    let by_depth = config.flag("scale_attn_by_inverse_layer_idx", false)?;

    // a checkpoint of the base class has no prefix
    let prefix = if weights.contains("wte.weight") { "" } else { "transformer." };
    let tensor = |name: &str, shape: &[usize]| weights.tensor(&format!("{prefix}{name}"), shape, dtype);
    let norm = |name: &str| -> Result<LayerNorm, LoadError> {
        let (weight, bias) = (tensor(&format!("{name}.weight"), &[d])?, tensor(&format!("{name}.bias"), &[d])?);
        Ok(LayerNorm { weight, bias: Some(bias), epsilon })
    };
    let mut tracking = Tracking::new(selection);
    // Conv1D computes x W + b with W: [in, out]
    let mut conv1d = |name: &str, outputs: usize, inputs: usize| -> Result<Linear, LoadError> {
        let weight = tensor(&format!("{name}.weight"), &[inputs, outputs])?.t()?.contiguous()?;
        let bias = tensor(&format!("{name}.bias"), &[outputs])?;
        let layer = tracking.layer(&format!("{prefix}{name}"), outputs, inputs, true, &mut SharedInput::default());
        Ok(Linear::new(weight, Some(bias), layer)?)
    };
    let wte = tensor("wte.weight", &[vocabulary, d])?;
    let wpe = tensor("wpe.weight", &[max_positions, d])?;
    let mut h = Vec::with_capacity(blocks);
    for n in 0..blocks {
        let scale = if by_depth { by_head / (n + 1) as f64 } else { by_head };
        h.push(Block {
            ln_1: norm(&format!("h.{n}.ln_1"))?,
            attn: SelfAttention {
                c_attn: conv1d(&format!("h.{n}.attn.c_attn"), 3 * d, d)?,
                c_proj: conv1d(&format!("h.{n}.attn.c_proj"), d, d)?,
                attention: Attention {
                    heads,
                    kv_heads: heads,
                    head_dimension: d / heads,
                    scale,
                    mask: Mask::Causal,
                    window: None,
                },
            },
            ln_2: norm(&format!("h.{n}.ln_2"))?,
            mlp: Mlp {
                c_fc: conv1d(&format!("h.{n}.mlp.c_fc"), inner, d)?,
                activation,
                c_proj: conv1d(&format!("h.{n}.mlp.c_proj"), d, inner)?,
            },
        });
    }
    let ln_f = norm("ln_f")?;
    let mut notes = vec![];
    let tied = config.flag("tie_word_embeddings", true)?;
    let weight = head_weight(weights, &wte, "lm_head.weight", tied, &mut notes)?.to_device(&Device::Cpu)?;
    let layer = tracking.outer_layer("lm_head", vocabulary, d, false);
    let decoder = Gpt2 { wte, wpe, h, ln_f, lm_head: Head { weight, layer } };
    Ok(Loaded { decoder, layers: tracking.finish()?, vocabulary, max_positions: Some(max_positions), notes })
}
