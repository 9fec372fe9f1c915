//! In what one of Llama's relatives differs from the others.

use serde_json::Value;

use super::super::architecture::{BlockNames, ExpertNames};
use super::experts::Experts;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::model::layout::Layout;
use crate::nn::{Activation, RopeConfig};

/// A family with the sizes of one checkpoint.
#[derive(Debug)]
pub(super) struct Family {
    /// D.
    pub(super) width: usize,
    /// H.
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// d.
    pub(super) head_size: usize,
    /// Width inside the MLP.
    pub(super) inner: usize,
    /// What takes the place of the MLP.
    pub(super) experts: Option<Experts>,
    pub(super) vocabulary: usize,
    pub(super) max_positions: Option<usize>,
    pub(super) activation: Activation,
    pub(super) norm: NormKind,
    pub(super) norm_places: NormPlaces,
    pub(super) biases: Biases,
    pub(super) query_key_norms: QueryKeyNorms,
    pub(super) packing: Packing,
    /// Factor of attention's scores.
    pub(super) scale: f64,
    /// The bound `c` of attention's scores, `c tanh(x / c)`.
    pub(super) attention_soft_cap: Option<f64>,
    /// The bound of logits, in the same way.
    pub(super) logits_soft_cap: Option<f64>,
    /// Bound of queries, keys and values.
    pub(super) clip: Option<f64>,
    /// What `layers` refers to.
    pub(super) ropes: Vec<RopeConfig>,
    /// The blocks.
    pub(super) layers: Vec<Layer>,
    /// Whether the embeddings of tokens are multiplied by √D, rounded to the type that they are stored in.
    pub(super) scaled_embeddings: bool,
}

/// What one layer's attention does that another's may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layer {
    /// Positions that are seen, the own one among them; none: all before it.
    pub(super) window: Option<usize>,
    /// Number of the rotary embeddings; none: there are none.
    pub(super) rope: Option<usize>,
}

/// Which norm stands on the residual stream and behind branches.
#[derive(Debug, Clone, Copy)]
pub(super) enum NormKind {
    /// Root mean square; the factor is the weight plus `offset`.
    Rms { epsilon: f64, offset: f64 },
    /// Layer norm without weight and bias.
    PlainLayer { epsilon: f64 },
}

/// Where norms stand in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormPlaces {
    /// Before each branch.
    Before,
    /// Behind each branch.
    Behind,
    /// On both sides.
    Around,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy)]
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) output: bool,
    pub(super) mlp: bool,
}

/// What is normalised before attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueryKeyNorms {
    Absent,
    /// Each head of queries and keys by itself.
    OfHeads,
    /// All heads together.
    OfAll,
}

/// How projections of one input are stored, each one layer as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Separate,
    /// `qkv_proj` and `gate_up_proj`.
    Packed,
}

/// What a configuration of the family says if it does not say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    /// None: as many as query heads.
    pub(super) kv_heads: Option<usize>,
    /// None: the width over the heads.
    pub(super) head_size: Option<usize>,
    pub(super) epsilon: f64,
    /// The key of the MLP's activation, and what it is.
    pub(super) activation: (&'static str, &'static str),
}

impl Defaults {
    /// Llama's.
    pub(super) const LLAMA: Self =
        Self { kv_heads: None, head_size: None, epsilon: 1e-6, activation: ("hidden_act", "silu") };
}

impl Family {
    /// What all have: Llama itself, without its layers' rotary embeddings.
    pub(super) fn read(config: &Config, defaults: Defaults) -> Result<Self, LoadError> {
        let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
        let kv_heads = config.size_or("num_key_value_heads", defaults.kv_heads)?.unwrap_or(heads);
        let head_size = config.optional_size("head_dim")?.or(defaults.head_size).unwrap_or(width / heads);
        if heads % kv_heads != 0 || head_size == 0 || head_size % 2 != 0 {
            let problem = format!("{heads} heads of size {head_size} with {kv_heads} key-value heads do not fit");
            return Err(config.problem(problem));
        }
        let (key, usual) = defaults.activation;
        let activation = Activation::from_name(config.text(key, usual)?).ok_or_else(|| config.unsupported(key))?;
        Ok(Self {
            width,
            heads,
            kv_heads,
            head_size,
            inner: config.size("intermediate_size")?,
            experts: None,
            vocabulary: config.size("vocab_size")?,
            max_positions: config.optional_size("max_position_embeddings")?,
            activation,
            norm: NormKind::Rms { epsilon: config.epsilon("rms_norm_eps", defaults.epsilon)?, offset: 0.0 },
            norm_places: NormPlaces::Before,
            biases: Biases { qkv: false, output: false, mlp: false },
            query_key_norms: QueryKeyNorms::Absent,
            packing: Packing::Separate,
            scale: 1.0 / (head_size as f64).sqrt(),
            attention_soft_cap: None,
            logits_soft_cap: None,
            clip: None,
            ropes: vec![],
            layers: vec![Layer { window: None, rope: Some(0) }; config.size("num_hidden_layers")?],
            scaled_embeddings: false,
        })
    }

    /// The key `attention_bias`, which is about all four projections.
    pub(super) fn attention_bias(mut self, config: &Config) -> Result<Self, LoadError> {
        let bias = config.flag("attention_bias", false)?;
        self.biases = Biases { qkv: bias, output: bias, ..self.biases };
        Ok(self)
    }

    /// The window that `sliding_window` gives if `use_sliding_window` says that there is one; it may be 0 where not.
    pub(super) fn window_if_used(config: &Config, usual: Option<usize>) -> Result<Option<usize>, LoadError> {
        if config.flag("use_sliding_window", false)? {
            return config.size_or("sliding_window", usual);
        }
        config.given("sliding_window");
        Ok(None)
    }

    /// Gives the layers that slide this window: those that `layer_types` names, or where it is absent, `slides`.
    pub(super) fn windows(
        &mut self,
        config: &Config,
        window: Option<usize>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, LoadError> {
        let sliding = self.sliding(config, slides)?;
        for (layer, sliding) in self.layers.iter_mut().zip(&sliding) {
            if *sliding {
                if window.is_none() {
                    return Err(
                        config.problem("`layer_types` has `sliding_attention`, and no `sliding_window` applies")
                    );
                }
                layer.window = window;
            }
        }
        Ok(sliding)
    }

    fn sliding(&self, config: &Config, slides: impl Fn(usize) -> bool) -> Result<Vec<bool>, LoadError> {
        let blocks = self.layers.len();
        let Some(types) = config.list("layer_types")? else { return Ok((0..blocks).map(slides).collect()) };
        if types.len() < blocks {
            let problem = format!("`layer_types` has {} entries for {blocks} layers", types.len());
            return Err(config.problem(problem));
        }
        let sliding = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(config.unsupported("layer_types")),
        };
        types.iter().take(blocks).map(sliding).collect()
    }
}

/// The modules of a relative whose blocks have these.
pub(super) const fn names(modules: &'static [&'static str]) -> BlockNames {
    BlockNames {
        prefixes: &["model."],
        before: &["embed_tokens"],
        blocks: "layers",
        modules,
        after: &["norm"],
        before_head: &[],
        heads: &["lm_head"],
        buffers: &["rotary_emb.inv_freq"],
        layout: Layout::OutputsFirst,
        experts: None,
    }
}

/// Names of modules of a relative whose MLPs are experts with these names in files.
pub(super) const fn with_experts(modules: &'static [&'static str], experts: ExpertNames) -> BlockNames {
    BlockNames { experts: Some(experts), ..names(modules) }
}

/// The modules of a block like Llama's.
pub(super) const PLAIN: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
];

/// The modules of a block with norms before and behind each branch.
pub(super) const AROUND: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];

/// The modules of a block with norms before and behind each branch, and of queries and keys.
pub(super) const QUERY_KEY_NORMED: &[&str] = &[
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];
