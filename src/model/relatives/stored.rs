//! A relative's parameters on disk, and how a model is built of them.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::family::{Family, Layer, NormKind, NormPlaces, Packing, QueryKeyNorms};
use super::figure::{AnyNorm, Block, Context, FeedForward, Projections, Relative, SelfAttention};
use super::mlp::{StoredMlp, dense, read_all};
use super::sparse_mlp::StoredSparseMlp;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::TokenInputs;
use crate::model::architecture::{Architecture, Parameters};
use crate::model::body::Loaded;
use crate::model::checkpoint_reader::CheckpointReader;
use crate::model::config::Config;
use crate::model::decoder::{Blocks, Ends, Parts, Transformer};
use crate::model::error::LoadError;
use crate::model::layout::Layout;
use crate::model::load_options::LoadOptions;
use crate::model::norms::StoredRmsNorm;
use crate::model::projection::{Projection, StoredLinear};
use crate::model::residence::Stored;
use crate::model::tracking::{SharedInput, Tracking};
use crate::model::weights::Weights;
use crate::nn::{Attention, LayerNorm, Mask, RopeTables};

/// A norm of either kind.
#[derive(Debug)]
pub(in crate::model) enum StoredNorm {
    Rms(StoredRmsNorm),
    /// Nothing is stored of it.
    PlainLayer {
        width: usize,
        epsilon: f64,
        dtype: DType,
        device: Device,
    },
}

impl StoredNorm {
    fn new(
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        kind: NormKind,
        name: &str,
        width: usize,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        Ok(match kind {
            NormKind::Rms { epsilon, offset } => {
                Self::Rms(StoredRmsNorm::new(source, tracking, name, width, epsilon)?.with_offset(offset))
            }
            NormKind::PlainLayer { epsilon } => {
                Self::PlainLayer { width, epsilon, dtype: options.dtype, device: options.device.clone() }
            }
        })
    }
}

impl Stored for StoredNorm {
    type Value = AnyNorm;

    fn read(&self) -> Result<AnyNorm, LoadError> {
        Ok(match self {
            Self::Rms(norm) => AnyNorm::Rms(norm.read()?),
            Self::PlainLayer { width, epsilon, dtype, device } => AnyNorm::PlainLayer(LayerNorm {
                weight: Tensor::ones(*width, *dtype, device)?,
                bias: None,
                epsilon: *epsilon,
            }),
        })
    }
}

/// A block's parameters.
#[derive(Debug)]
pub(in crate::model) struct StoredBlock {
    before_attention: Option<StoredNorm>,
    /// Queries, keys and values, or all of them in one.
    qkv: Vec<StoredLinear>,
    query_key_norms: Option<[StoredNorm; 2]>,
    clip: Option<f64>,
    o_proj: StoredLinear,
    attention: Attention,
    rope: Option<usize>,
    behind_attention: Option<StoredNorm>,
    before_mlp: Option<StoredNorm>,
    mlp: StoredFeedForward,
    behind_mlp: Option<StoredNorm>,
}

/// One MLP's parameters, or those of several experts.
#[derive(Debug)]
enum StoredFeedForward {
    Dense(Box<StoredMlp>),
    Sparse(Box<StoredSparseMlp>),
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let norm = |norm: &Option<StoredNorm>| norm.as_ref().map(Stored::read).transpose();
        let norms = match &self.query_key_norms {
            Some([q, k]) => match (q.read()?, k.read()?) {
                (AnyNorm::Rms(q), AnyNorm::Rms(k)) => Some(Box::new([q, k])),
                _ => None,
            },
            None => None,
        };
        let qkv = match <[Projection; 3]>::try_from(read_all(&self.qkv)?) {
            Ok([q_proj, k_proj, v_proj]) => Projections::Separate { q_proj, k_proj, v_proj, clip: self.clip, norms },
            Err(mut one) => Projections::Packed(one.remove(0)),
        };
        let mlp = match &self.mlp {
            StoredFeedForward::Dense(mlp) => FeedForward::Dense(mlp.read()?),
            StoredFeedForward::Sparse(experts) => FeedForward::Sparse(experts.read()?),
        };
        Ok(Block {
            before_attention: norm(&self.before_attention)?,
            self_attn: SelfAttention {
                qkv,
                o_proj: self.o_proj.read()?,
                attention: self.attention.clone(),
                rope: self.rope,
            },
            behind_attention: norm(&self.behind_attention)?,
            before_mlp: norm(&self.before_mlp)?,
            mlp,
            behind_mlp: norm(&self.behind_mlp)?,
        })
    }
}

impl Transformer for Relative {
    type Block = StoredBlock;
    type Norm = StoredNorm;
    type Context = Context;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        let ropes = self.ropes.iter().map(|rope| RopeTables::new(rope, positions)).collect();
        Ok(Context { positions: positions.clone(), ropes })
    }

    fn embed(
        &self,
        tokens: &Traced,
        _inputs: &TokenInputs,
        _positions: &Positions,
        _taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        match self.embedding_scale {
            Some(scale) => tokens.linear_map(|tokens| tokens.affine(scale, 0.0)),
            None => Ok(tokens.clone()),
        }
    }
}

/// Builds a model of this family.
pub(super) fn build(
    architecture: &Architecture,
    family: Family,
    config: &Config,
    weights: &Arc<Weights>,
    options: &LoadOptions,
) -> Result<Loaded, LoadError> {
    let Parameters::Blocks(names) = &architecture.parameters else {
        return Err(config.problem("an architecture without blocks is no relative of Llama's"));
    };
    let Family { width, heads, kv_heads, head_size, vocabulary, .. } = family;
    let source = CheckpointReader::new(weights, names.prefix_in(weights), config, options);
    let tied = config.flag("tie_word_embeddings", architecture.tied_by_default)?;
    let ends = Ends::new(&source, names, [vocabulary, width], tied)?.capped(family.logits_soft_cap);
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str, width: usize| StoredNorm::new(&source, &tracking, family.norm, name, width, options);
    let (all, kv) = (heads * head_size, kv_heads * head_size);
    let [before_attention, behind_attention, before_mlp, behind_mlp] = norm_names(family.norm_places);
    let blocks = Blocks::new(&source, family.layers.len(), |n| {
        let Layer { window, rope } = family.layers[n];
        let linear = |name: &str, outputs: usize, inputs: usize, bias: bool, input: &mut SharedInput| {
            source.linear(&tracking, name, [outputs, inputs], bias, Layout::OutputsFirst, input)
        };
        let mut read_by_attention = SharedInput::default();
        let name = |part: &str| format!("layers.{n}.{part}");
        let optional = |part: Option<&str>| part.map(|part| norm(&name(part), width)).transpose();
        let mut qkv = vec![];
        let packed = [("self_attn.qkv_proj", all + 2 * kv)];
        let separate = [("self_attn.q_proj", all), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        let parts: &[(&str, usize)] = if family.packing == Packing::Packed { &packed } else { &separate };
        for &(part, outputs) in parts {
            qkv.push(linear(&name(part), outputs, width, family.biases.qkv, &mut read_by_attention)?);
        }
        let before_attention = optional(before_attention)?;
        let o_proj = linear(&name("self_attn.o_proj"), width, all, family.biases.output, &mut SharedInput::default())?;
        let widths = match family.query_key_norms {
            QueryKeyNorms::Absent => None,
            QueryKeyNorms::OfHeads => Some([head_size, head_size]),
            QueryKeyNorms::OfAll => Some([all, kv]),
        };
        let query_key_norms = match widths {
            Some([q, k]) => Some([norm(&name("self_attn.q_norm"), q)?, norm(&name("self_attn.k_norm"), k)?]),
            None => None,
        };
        let mlp = match family.experts.as_ref().filter(|experts| experts.sparse[n]) {
            Some(experts) => {
                StoredFeedForward::Sparse(Box::new(StoredSparseMlp::new(&source, &tracking, &family, experts, n)?))
            }
            None => {
                let (name, mut input) = (name("mlp"), SharedInput::default());
                StoredFeedForward::Dense(Box::new(dense(&source, &tracking, &name, &family, family.inner, &mut input)?))
            }
        };
        Ok(StoredBlock {
            before_attention,
            qkv,
            query_key_norms,
            clip: family.clip,
            o_proj,
            attention: tracking.attending(Attention {
                heads,
                kv_heads,
                head_dimension: head_size,
                scale: family.scale,
                mask: Mask::Causal,
                window,
                soft_cap: family.attention_soft_cap,
                products: source.products,
            }),
            rope,
            behind_attention: optional(behind_attention)?,
            before_mlp: optional(before_mlp)?,
            mlp,
            behind_mlp: optional(behind_mlp)?,
        })
    })?;
    let embedding_scale = family.scaled_embeddings.then(|| ends.rounded_as_stored((width as f64).sqrt()));
    let parts = Parts { ends, blocks, norm: norm("norm", width)?, max_positions: family.max_positions };
    let ropes = family.ropes;
    parts.load(&source, tracking, options.residence, || Ok(Relative { ropes, embedding_scale }))
}

/// Names of the norms before attention, behind it, before the MLP and behind it.
fn norm_names(places: NormPlaces) -> [Option<&'static str>; 4] {
    match places {
        NormPlaces::Before => [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
        NormPlaces::Behind => [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")],
        NormPlaces::Around => [
            Some("input_layernorm"),
            Some("post_attention_layernorm"),
            Some("pre_feedforward_layernorm"),
            Some("post_feedforward_layernorm"),
        ],
    }
}
