//! OPT (Zhang et al. 2022) as `OPTForCausalLM` stores it: learned positions, norms before or behind each branch,
//! tied head.

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
use super::table::{StoredTable, Table};
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::TokenInputs;
use crate::nn::{Activation, Attention};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "opt",
    class_numbers: &[
        ("hidden_size", 768),
        ("ffn_dim", 3_072),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        ("vocab_size", 50_272),
        ("max_position_embeddings", 2_048),
        ("pad_token_id", 1),
    ],
    classes: &["OPTForCausalLM"],
    load,
    parameters: Parameters::Blocks(NAMES),
    tied_by_default: true,
    without_effect: &[
        "activation_dropout",
        "dropout",
        "init_std",
        "intermediate_size",
        "layerdrop",
        "num_key_value_heads",
    ],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"])),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["model.decoder.", "decoder."],
    before: &["embed_tokens", "embed_positions", PROJECT_OUT, PROJECT_IN, "final_layer_norm"],
    blocks: "layers",
    modules: &[
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.q_proj",
        "self_attn.out_proj",
        "self_attn_layer_norm",
        "fc1",
        "fc2",
        "final_layer_norm",
    ],
    after: &[],
    before_head: &[],
    heads: &["lm_head"],
    buffers: &[],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// From the width of the embeddings to the blocks', where the two differ (350M), and back before the head.
const PROJECT_IN: &str = "project_in";
const PROJECT_OUT: &str = "project_out";

/// Rows of `embed_positions` before the one of the first position.
const OFFSET: usize = 2;

/// Added to the variance by every norm: the configuration has no key for it.
const EPSILON: f64 = 1e-5;

/// `embed_tokens` and `embed_positions`, blocks `layers`, `final_layer_norm`, `lm_head`; `x: [R, D]` throughout. Embeddings
/// of another width W stand before `project_in`, with which the first block begins, and a head behind `project_out`; both
/// are tracked if a pattern names them.
#[derive(Debug)]
struct Opt {
    embed_positions: Arc<Table>,
    /// Whether the first block projects the tokens' embeddings, before those of their places are added.
    is_projected: bool,
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    /// The table of places and the tokens' rows in it, where the first block adds them.
    places: Option<(Arc<Table>, Vec<u32>)>,
}

impl Opt {
    /// The tokens' rows in the table of places.
    fn places(positions: &Positions) -> Vec<u32> {
        positions.iter().flat_map(|rows| OFFSET as u32..(OFFSET + rows.len()) as u32).collect()
    }
}

#[derive(Debug)]
pub(super) struct Block {
    project_in: Option<Projection>,
    self_attn: SelfAttention,
    self_attn_layer_norm: LayerNorm,
    fc1: Projection,
    activation: Activation,
    fc2: Projection,
    final_layer_norm: LayerNorm,
    norms: Places,
}

/// Where a block's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    /// Before each branch.
    BeforeBranches,
    /// Behind each sum of a branch and the residual stream.
    BehindSums,
}

#[derive(Debug)]
struct SelfAttention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    out_proj: Projection,
    attention: Attention,
}

impl Transformer for Opt {
    type Block = StoredBlock;
    type Norm = StoredLastNorm;
    type Context = Context;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        let places = self.is_projected.then(|| (self.embed_positions.clone(), Self::places(positions)));
        Ok(Context { positions: positions.clone(), places })
    }

    fn embed(
        &self,
        tokens: &Traced,
        _inputs: &TokenInputs,
        positions: &Positions,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        match self.is_projected {
            true => Ok(tokens.clone()),
            false => self.embed_positions.add(tokens, &Self::places(positions), taps),
        }
    }

    fn check(&self) -> Result<(), LoadError> {
        self.embed_positions.check()
    }
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let positions = &context.positions;
        let projected = match (&self.project_in, &context.places) {
            (Some(layer), Some((table, places))) => Some(table.add(&layer.trace(x, taps)?, places, taps)?),
            _ => None,
        };
        let x = projected.as_ref().unwrap_or(x);
        let mlp = |x: &Traced| self.fc2.trace(&self.activation.trace(&self.fc1.trace(x, taps)?)?, taps);
        match self.norms {
            Places::BeforeBranches => {
                let x = x.add(&self.self_attn.trace(&self.self_attn_layer_norm.trace(x, taps)?, positions, taps)?)?;
                x.add(&mlp(&self.final_layer_norm.trace(&x, taps)?)?)
            }
            Places::BehindSums => {
                let sum = x.add(&self.self_attn.trace(x, positions, taps)?)?;
                let x = self.self_attn_layer_norm.trace(&sum, taps)?;
                self.final_layer_norm.trace(&x.add(&mlp(&x)?)?, taps)
            }
        }
    }
}

impl SelfAttention {
    fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let q = self.q_proj.trace(x, taps)?; // [R, D]
        let k = self.k_proj.trace(x, taps)?;
        let v = self.v_proj.trace(x, taps)?;
        self.out_proj.trace(&self.attention.trace(&q, &k, &v, positions, None)?, taps)
    }
}

/// What stands behind the blocks: a norm, which models with norms behind sums lack, and a projection to the width of the
/// embeddings where that is another.
#[derive(Debug)]
struct StoredLastNorm {
    norm: Option<StoredLayerNorm>,
    project_out: Option<StoredLinear>,
}

/// What stands behind the blocks, with its weights in memory.
#[derive(Debug)]
pub(super) struct LastNorm {
    norm: Option<LayerNorm>,
    project_out: Option<Projection>,
}

impl Stored for StoredLastNorm {
    type Value = LastNorm;

    fn read(&self) -> Result<LastNorm, LoadError> {
        let project_out = self.project_out.as_ref().map(Stored::read).transpose()?;
        Ok(LastNorm { norm: self.norm.as_ref().map(Stored::read).transpose()?, project_out })
    }
}

impl Norm for LastNorm {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let x = self.norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.trace(x, taps))?;
        self.project_out.as_ref().map_or_else(|| Ok(x.clone()), |layer| layer.trace(&x, taps))
    }
}

#[derive(Debug)]
struct StoredBlock {
    project_in: Option<StoredLinear>,
    kvqo: [StoredLinear; 4],
    attention: Attention,
    self_attn_layer_norm: StoredLayerNorm,
    fc1: StoredLinear,
    activation: Activation,
    fc2: StoredLinear,
    final_layer_norm: StoredLayerNorm,
    norms: Places,
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let [k, v, q, o] = &self.kvqo;
        Ok(Block {
            project_in: self.project_in.as_ref().map(Stored::read).transpose()?,
            self_attn: SelfAttention {
                q_proj: q.read()?,
                k_proj: k.read()?,
                v_proj: v.read()?,
                out_proj: o.read()?,
                attention: self.attention.clone(),
            },
            self_attn_layer_norm: self.self_attn_layer_norm.read()?,
            fc1: self.fc1.read()?,
            activation: self.activation,
            fc2: self.fc2.read()?,
            final_layer_norm: self.final_layer_norm.read()?,
            norms: self.norms,
        })
    }
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let (d, heads, blocks) =
        (config.size("hidden_size")?, config.size("num_attention_heads")?, config.size("num_hidden_layers")?);
    let (inner, vocabulary) = (config.size("ffn_dim")?, config.size("vocab_size")?);
    let max_positions = config.size("max_position_embeddings")?;
    if d % heads != 0 {
        return Err(config.problem(format!("`hidden_size` = {d} is not a multiple of `num_attention_heads` = {heads}")));
    }
    let width = config.optional_size("word_embed_proj_dim")?.unwrap_or(d);
    if !config.flag("layer_norm_elementwise_affine", true)? {
        return Err(config.unsupported("layer_norm_elementwise_affine"));
    }
    let activation = config.text("activation_function", "relu")?;
    let activation = Activation::from_name(activation).ok_or_else(|| config.unsupported("activation_function"))?;
    let bias = config.flag("enable_bias", true)?;
    let norms = if config.flag("do_layer_norm_before", true)? { Places::BeforeBranches } else { Places::BehindSums };
    let removed = config.flag("_remove_final_layer_norm", false)?;

    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), config, options);
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str| StoredLayerNorm::new(&source, &tracking, name, d, EPSILON);
    let linear = |name: &str, outputs: usize, inputs: usize, input: &mut SharedInput| {
        source.linear(&tracking, name, [outputs, inputs], bias, Layout::OutputsFirst, input)
    };
    let tied = config.flag("tie_word_embeddings", ARCHITECTURE.tied_by_default)?;
    let ends = Ends::new(&source, &NAMES, [vocabulary, width], tied)?;
    let is_projected = width != d;
    let projection = |name: &str, shape: [usize; 2]| source.outer_linear(&tracking, &source.full(name), shape, false);
    let shape = [max_positions + OFFSET, d];
    let embed_positions = source.embedding("embed_positions", shape)?;
    let embed_positions = StoredTable::new(&source, &tracking, embed_positions, shape, None);
    let layers = Blocks::new(&source, blocks, |n| {
        let mut qkv = SharedInput::default();
        let name = |part: &str| format!("layers.{n}.{part}");
        let project_in = (n == 0 && is_projected).then(|| projection(PROJECT_IN, [d, width])).transpose()?;
        if is_projected {
            // of the first block alone, but every one counts as the largest
            source.add_activations(d + width);
        }
        Ok(StoredBlock {
            project_in,
            kvqo: [
                linear(&name("self_attn.k_proj"), d, d, &mut qkv)?,
                linear(&name("self_attn.v_proj"), d, d, &mut qkv)?,
                linear(&name("self_attn.q_proj"), d, d, &mut qkv)?,
                linear(&name("self_attn.out_proj"), d, d, &mut SharedInput::default())?,
            ],
            attention: tracking
                .attending(Attention { products: source.products, ..Attention::causal(heads, d / heads) }),
            self_attn_layer_norm: norm(&name("self_attn_layer_norm"))?,
            fc1: linear(&name("fc1"), inner, d, &mut SharedInput::default())?,
            activation,
            fc2: linear(&name("fc2"), d, inner, &mut SharedInput::default())?,
            final_layer_norm: norm(&name("final_layer_norm"))?,
            norms,
        })
    })?;
    let last = norms == Places::BeforeBranches && !removed;
    let parts = Parts {
        ends,
        blocks: layers,
        norm: StoredLastNorm {
            norm: last.then(|| norm("final_layer_norm")).transpose()?,
            project_out: is_projected.then(|| projection(PROJECT_OUT, [width, d])).transpose()?,
        },
        max_positions: Some(max_positions),
    };
    parts.load(&source, tracking, options.residence, || {
        Ok(Opt { embed_positions: Arc::new(embed_positions.held(options.residence)?), is_projected })
    })
}
