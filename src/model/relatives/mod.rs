//! Llama's relatives: decoders that differ from it in where norms stand, which positions a layer sees, and other
//! details that [`Family`] lists. One figure serves all of them; each family's file reads its configuration.

pub(super) mod gemma;
pub(super) mod gemma2;
pub(super) mod gemma3;
pub(super) mod mistral;
pub(super) mod mixtral;
pub(super) mod olmo;
pub(super) mod olmo2;
pub(super) mod olmo3;
pub(super) mod olmoe;
pub(super) mod phi3;
pub(super) mod qwen2;
pub(super) mod qwen2_moe;
pub(super) mod qwen3;
pub(super) mod qwen3_moe;
pub(super) mod smollm3;

mod experts;
mod family;
mod stored;

use candle_core::Tensor;

use self::experts::SparseMlp;
use self::family::{Family, Layer, NormKind, NormPlaces, Packing, QueryKeyNorms};
use self::stored::{StoredBlock, StoredNorm};
use super::decoder::{self, Transformer};
use super::norms::Norm;
use super::projection::Projection;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::TokenInputs;
use crate::nn::{
    Activation, Attention, LayerNorm, RmsNorm, RopeConfig, RopeTables, trace_clamped, trace_gated, trace_gated_packed,
};

/// `embed_tokens`, blocks `layers`, `norm`, `lm_head`; `x: [R, D]` throughout.
#[derive(Debug)]
struct Relative {
    /// Rotary embeddings, of which each layer uses one or none.
    ropes: Vec<RopeConfig>,
    /// Factor of the embeddings of tokens.
    embedding_scale: Option<f64>,
}

/// One block: both branches read and write the residual stream, with a norm before them, behind them, or both.
#[derive(Debug)]
pub(super) struct Block {
    before_attention: Option<AnyNorm>,
    self_attn: SelfAttention,
    behind_attention: Option<AnyNorm>,
    before_mlp: Option<AnyNorm>,
    mlp: FeedForward,
    behind_mlp: Option<AnyNorm>,
}

#[derive(Debug)]
struct SelfAttention {
    qkv: Projections,
    o_proj: Projection,
    attention: Attention,
    /// Number of the rotary embeddings; none: queries and keys stay as they are.
    rope: Option<usize>,
}

#[derive(Debug)]
enum Projections {
    /// Three layers, whose outputs may be clipped, and queries and keys normalised.
    Separate {
        q_proj: Projection,
        k_proj: Projection,
        v_proj: Projection,
        clip: Option<f64>,
        norms: Option<[RmsNorm; 2]>,
    },
    /// One layer with queries, keys and values side by side.
    Packed(Projection),
}

/// One MLP, or a choice of several for every token.
#[derive(Debug)]
enum FeedForward {
    Dense(Mlp),
    Sparse(SparseMlp),
}

#[derive(Debug)]
struct Mlp {
    gate_up: GateUp,
    down_proj: Projection,
    activation: Activation,
}

#[derive(Debug)]
enum GateUp {
    Separate {
        gate_proj: Projection,
        up_proj: Projection,
    },
    /// One layer with both side by side.
    Packed(Projection),
}

/// A norm of one of the two kinds.
#[derive(Debug)]
pub(super) enum AnyNorm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    ropes: Vec<RopeTables>,
}

impl Transformer for Relative {
    type Block = StoredBlock;
    type Norm = StoredNorm;
    type Context = Context;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        let ropes = self.ropes.iter().map(|rope| RopeTables::new(rope, positions)).collect();
        Ok(Context { positions: positions.clone(), ropes })
    }

    fn embed(&self, tokens: Tensor, _inputs: &TokenInputs, _positions: &Positions) -> candle_core::Result<Tensor> {
        self.embedding_scale.map_or(Ok(tokens.clone()), |scale| tokens.affine(scale, 0.0))
    }
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = self.self_attn.trace(&normed(&self.before_attention, x)?, context, taps)?;
        let x = x.add(&normed(&self.behind_attention, &y)?)?;
        let y = normed(&self.before_mlp, &x)?;
        let y = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.trace(&y, taps)?,
            FeedForward::Sparse(experts) => experts.trace(&y, &context.positions, taps)?,
        };
        x.add(&normed(&self.behind_mlp, &y)?)
    }
}

impl SelfAttention {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let rope = self.rope.map(|rope| &context.ropes[rope]);
        let y = match &self.qkv {
            Projections::Separate { q_proj, k_proj, v_proj, clip, norms } => {
                let mut q = q_proj.trace(x, taps)?; // [R, H d]
                let mut k = k_proj.trace(x, taps)?; // [R, H_kv d]
                let v = v_proj.trace(x, taps)?;
                if let Some([q_norm, k_norm]) = norms {
                    (q, k) = (q_norm.trace_heads(&q)?, k_norm.trace_heads(&k)?);
                }
                let (q, k, v) = (clipped(q, *clip)?, clipped(k, *clip)?, clipped(v, *clip)?);
                self.attention.trace(&q, &k, &v, &context.positions, rope)?
            }
            Projections::Packed(qkv_proj) => {
                self.attention.trace_packed(&qkv_proj.trace(x, taps)?, &context.positions, rope)?
            }
        };
        self.o_proj.trace(&y, taps)
    }
}

impl Mlp {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = match &self.gate_up {
            GateUp::Separate { gate_proj, up_proj } => {
                trace_gated(self.activation, &gate_proj.trace(x, taps)?, &up_proj.trace(x, taps)?)?
            }
            GateUp::Packed(gate_up_proj) => trace_gated_packed(self.activation, &gate_up_proj.trace(x, taps)?)?, // [R, 2 I]
        };
        self.down_proj.trace(&y, taps)
    }
}

impl Norm for AnyNorm {
    fn trace(&self, x: &Traced) -> candle_core::Result<Traced> {
        match self {
            Self::Rms(norm) => norm.trace(x),
            Self::Layer(norm) => norm.trace(x),
        }
    }
}

fn normed(norm: &Option<AnyNorm>, x: &Traced) -> candle_core::Result<Traced> {
    norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.trace(x))
}

/// Every number brought into `[-limit, limit]`; the gradient is none outside.
fn clipped(x: Traced, limit: Option<f64>) -> candle_core::Result<Traced> {
    match limit {
        Some(limit) => trace_clamped(&x, limit),
        None => Ok(x),
    }
}
