//! The figure that all of Llama's relatives share: a norm, attention, and an MLP or several experts.

use super::mlp::Mlp;
use super::sparse_mlp::SparseMlp;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::model::decoder;
use crate::model::norms::{Norm, RmsNorm};
use crate::model::projection::Projection;
use crate::nn::{Attention, LayerNorm, RopeConfig, RopeTables, trace_clamped};

/// `embed_tokens`, blocks `layers`, `norm`, `lm_head`; `x: [R, D]` throughout.
#[derive(Debug)]
pub(super) struct Relative {
    /// Rotary embeddings, of which each layer uses one or none.
    pub(super) ropes: Vec<RopeConfig>,
    /// Factor of the embeddings of tokens.
    pub(super) embedding_scale: Option<f64>,
}

/// One block: both branches read and write the residual stream, with a norm before them, behind them, or both.
#[derive(Debug)]
pub(in crate::model) struct Block {
    pub(super) before_attention: Option<AnyNorm>,
    pub(super) self_attn: SelfAttention,
    pub(super) behind_attention: Option<AnyNorm>,
    pub(super) before_mlp: Option<AnyNorm>,
    pub(super) mlp: FeedForward,
    pub(super) behind_mlp: Option<AnyNorm>,
}

#[derive(Debug)]
pub(super) struct SelfAttention {
    pub(super) qkv: Projections,
    pub(super) o_proj: Projection,
    pub(super) attention: Attention,
    /// Number of the rotary embeddings; none: queries and keys stay as they are.
    pub(super) rope: Option<usize>,
}

#[derive(Debug)]
pub(super) enum Projections {
    /// Three layers, whose outputs may be clipped, and queries and keys normalised.
    Separate {
        q_proj: Projection,
        k_proj: Projection,
        v_proj: Projection,
        clip: Option<f64>,
        norms: Option<Box<[RmsNorm; 2]>>,
    },
    /// One layer with queries, keys and values side by side.
    Packed(Projection),
}

/// One MLP, or a choice of several for every token.
#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Mlp),
    Sparse(SparseMlp),
}

/// A norm of one of the two kinds.
#[derive(Debug)]
pub(in crate::model) enum AnyNorm {
    Rms(RmsNorm),
    /// A layer norm without parameters.
    PlainLayer(LayerNorm),
}

/// What every block needs of a batch.
pub(in crate::model) struct Context {
    pub(super) positions: Positions,
    pub(super) ropes: Vec<RopeTables>,
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = self.self_attn.trace(&normed(&self.before_attention, x, taps)?, context, taps)?;
        let x = x.add(&normed(&self.behind_attention, &y, taps)?)?;
        let y = normed(&self.before_mlp, &x, taps)?;
        let y = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.trace(&y, taps)?,
            FeedForward::Sparse(experts) => experts.trace(&y, &context.positions, taps)?,
        };
        x.add(&normed(&self.behind_mlp, &y, taps)?)
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
                if let Some([q_norm, k_norm]) = norms.as_deref() {
                    (q, k) = (q_norm.trace_heads(&q, taps)?, k_norm.trace_heads(&k, taps)?);
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

impl Norm for AnyNorm {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        match self {
            Self::Rms(norm) => norm.trace(x, taps),
            Self::PlainLayer(norm) => norm.trace(x),
        }
    }
}

fn normed(norm: &Option<AnyNorm>, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
    norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.trace(x, taps))
}

/// Every number brought into `[-limit, limit]`; the gradient is none outside.
fn clipped(x: Traced, limit: Option<f64>) -> candle_core::Result<Traced> {
    match limit {
        Some(limit) => trace_clamped(&x, limit),
        None => Ok(x),
    }
}
