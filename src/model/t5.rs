//! T5 (Raffel et al. 2020, section 2.1) as `T5ForConditionalGeneration` stores it, also v1.1, Flan and mT5: an encoder reads
//! one text, and a decoder that sees it writes another.
//!
//! Both stacks are one chain of blocks over the rows of both, `[R + S, D]`: those of the encoder stand above, and a block
//! changes its own stack's and hands on the other's. The last block gives the decoder's rows alone.

use std::sync::Arc;

use candle_core::Tensor;

use super::architecture::{Architecture, BlockNames, Parameters};
use super::attention_heads::HeadRole;
use super::body::Loaded;
use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::config::Config;
use super::decoder::{self, Blocks, Ends, Parts, Transformer};
use super::error::LoadError;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::norms::{Norm, RmsNorm, StoredRmsNorm};
use super::operations::{LayerRows, RowsOf};
use super::projection::{Projection, StoredLinear};
use super::residence::{Held, Stored};
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::{DecoderTokens, TokenInputs};
use crate::nn::{
    self, Activation, Between, Mask, RelativeBuckets, trace_gated, trace_rows, trace_scaled, trace_stacked,
};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "t5",
    class_numbers: &[
        ("d_model", 512),
        ("d_kv", 64),
        ("d_ff", 2_048),
        ("num_heads", 8),
        ("num_layers", 6),
        ("vocab_size", 32_128),
    ],
    classes: &["T5ForConditionalGeneration"],
    load: |config, weights, options| load(Kind::T5, config, weights, options),
    parameters: Parameters::Keys { of: place, is_buffer, ends: Some(&NAMES) },
    tied_by_default: true,
    without_effect: WITHOUT_EFFECT,
    renamed: None,
    blocks: Some("num_layers"),
    heads: Some("num_heads"),
    attention: Some(&[
        ("SelfAttention.q", HeadRole::Queries),
        ("SelfAttention.k", HeadRole::KeysOrValues),
        ("SelfAttention.v", HeadRole::KeysOrValues),
        ("SelfAttention.o", HeadRole::Output),
        ("EncDecAttention.q", HeadRole::Queries),
        ("EncDecAttention.k", HeadRole::KeysOrValues),
        ("EncDecAttention.v", HeadRole::KeysOrValues),
        ("EncDecAttention.o", HeadRole::Output),
    ]),
};

pub(super) const MULTILINGUAL: Architecture = Architecture {
    model_type: "mt5",
    class_numbers: &[
        ("d_model", 512),
        ("d_kv", 64),
        ("d_ff", 1_024),
        ("num_heads", 6),
        ("num_layers", 8),
        ("vocab_size", 250_112),
    ],
    classes: &["MT5ForConditionalGeneration"],
    load: |config, weights, options| load(Kind::Mt5, config, weights, options),
    tied_by_default: false,
    ..ARCHITECTURE
};

/// Keys of both that change no number.
const WITHOUT_EFFECT: &[&str] =
    &["dropout_rate", "initializer_factor", "n_positions", "output_past", "gradient_checkpointing"];

/// What the ends are called; blocks have two lists, for which see [`place`].
const NAMES: BlockNames = BlockNames {
    prefixes: &[],
    before: &["shared"],
    blocks: "encoder.block",
    modules: &[],
    after: &[],
    before_head: &[],
    heads: &["lm_head"],
    buffers: &[],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// Other names of the one embedding, which old files hold beside it.
const COPIES: [&str; 2] = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];

/// What old files hold and no version reads.
const UNUSED: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// Whose defaults a configuration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    T5,
    Mt5,
}

/// The embedding `shared`, blocks `encoder.block` and `decoder.block`, `decoder.final_layer_norm`, `lm_head`.
#[derive(Debug)]
struct T5 {
    /// `relative_attention_bias` of the first block of each stack, `[buckets, H]`: all blocks of the stack have it.
    biases: [Held<StoredTensor>; 2],
    buckets: [RelativeBuckets; 2],
    starts: DecoderTokens,
}

#[derive(Debug)]
pub(super) struct Block {
    stack: Stack,
    self_attention: Attention,
    /// The decoder's attention to what the encoder gives.
    cross_attention: Option<Attention>,
    feed_forward: FeedForward,
    /// The norm behind the encoder's last block; the decoder's is the norm before the head.
    final_layer_norm: Option<RmsNorm>,
    /// Whether the encoder's rows end here.
    is_last: bool,
}

/// Which rows a block changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stack {
    Encoder,
    Decoder,
}

#[derive(Debug)]
struct Attention {
    layer_norm: RmsNorm,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    attention: nn::Attention,
}

#[derive(Debug)]
struct FeedForward {
    layer_norm: RmsNorm,
    wi: Inner,
    activation: Activation,
    wo: Projection,
}

/// The first layer of a feed-forward network, or the gate and what it lets through.
#[derive(Debug)]
enum Inner {
    Plain(Projection),
    Gated([Projection; 2]),
}

/// What every block needs of a batch.
pub(super) struct Context {
    encoder: Arc<Positions>,
    decoder: Arc<Positions>,
    /// What each distance adds to the scores of the encoder and of the decoder, `[H, T, T]` of the longest example.
    biases: [Tensor; 2],
}

impl Transformer for T5 {
    type Block = StoredBlock;
    type Norm = StoredLastNorm;
    type Context = Context;

    const PADDING_IS_FIXED: bool = false;

    fn context(&self, inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        let Some(encoder) = &inputs.encoder else { candle_core::bail!("a batch without a text for the encoder") };
        let bias = |stack: usize, positions: &Positions| {
            self.buckets[stack].bias(&*self.biases[stack].get()?, positions.longest())
        };
        let biases = [bias(0, encoder)?, bias(1, positions)?];
        let encoder = encoder.clone().at_places(0..encoder.rows());
        Ok(Context { encoder: Arc::new(encoder), decoder: Arc::new(positions.clone()), biases })
    }

    fn decoder_tokens(&self) -> Option<DecoderTokens> {
        Some(self.starts)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.biases.iter().try_for_each(Held::check)
    }
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let Context { encoder, decoder, biases: [encoder_bias, decoder_bias] } = context;
        let read = trace_rows(x, 0, encoder.rows())?; // [R, D]
        let written = trace_rows(x, encoder.rows(), decoder.rows())?; // [S, D]
        match self.stack {
            Stack::Encoder => {
                let between = Between { bias: Some(encoder_bias), ..Between::within(encoder, None) };
                let taps = taps.at(encoder);
                let read = self.self_attention.trace(&read, None, between, [&taps, &taps])?;
                let read = self.feed_forward.trace(&read, &taps)?;
                let read =
                    self.final_layer_norm.as_ref().map_or_else(|| Ok(read.clone()), |norm| norm.trace(&read, &taps))?;
                trace_stacked(&read, &written)
            }
            Stack::Decoder => {
                let between = Between { bias: Some(decoder_bias), ..Between::within(decoder, None) };
                let mut written = self.self_attention.trace(&written, None, between, [taps, taps])?;
                if let Some(attention) = &self.cross_attention {
                    let between = Between { keys: encoder, ..Between::within(decoder, None) };
                    written = attention.trace(&written, Some(&read), between, [taps, &taps.at(encoder)])?;
                }
                let written = self.feed_forward.trace(&written, taps)?;
                if self.is_last { Ok(written) } else { trace_stacked(&read, &written) }
            }
        }
    }
}

impl Attention {
    /// `x` and what it sees of `read`, or of itself. Queries and outputs leave their taps with the first recorder, keys
    /// and values with the second.
    fn trace(
        &self,
        x: &Traced,
        read: Option<&Traced>,
        between: Between<'_>,
        [taps, taps_of_keys]: [&TapRecorder; 2],
    ) -> candle_core::Result<Traced> {
        let y = self.layer_norm.trace(x, taps)?;
        let read = read.unwrap_or(&y);
        let q = self.q.trace(&y, taps)?; // [S, H d]
        let k = self.k.trace(read, taps_of_keys)?;
        let v = self.v.trace(read, taps_of_keys)?;
        x.add(&self.o.trace(&self.attention.trace_between([&q, &k, &v], between)?, taps)?)
    }
}

impl FeedForward {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = self.layer_norm.trace(x, taps)?;
        let inner = match &self.wi {
            Inner::Plain(wi) => self.activation.trace(&wi.trace(&y, taps)?)?, // [R, I]
            Inner::Gated([wi_0, wi_1]) => trace_gated(self.activation, &wi_0.trace(&y, taps)?, &wi_1.trace(&y, taps)?)?,
        };
        x.add(&self.wo.trace(&inner, taps)?)
    }
}

/// The decoder's `final_layer_norm`, and the factor between it and the head.
#[derive(Debug)]
struct StoredLastNorm {
    norm: StoredRmsNorm,
    factor: f64,
}

/// The decoder's `final_layer_norm` with its weights in memory, and the factor between it and the head.
#[derive(Debug)]
pub(super) struct LastNorm {
    norm: RmsNorm,
    factor: f64,
}

impl Stored for StoredLastNorm {
    type Value = LastNorm;

    fn read(&self) -> Result<LastNorm, LoadError> {
        Ok(LastNorm { norm: self.norm.read()?, factor: self.factor })
    }
}

impl Norm for LastNorm {
    fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        trace_scaled(&self.norm.trace(x, taps)?, self.factor)
    }
}

#[derive(Debug)]
struct StoredBlock {
    stack: Stack,
    self_attention: StoredAttention,
    cross_attention: Option<StoredAttention>,
    ff_norm: StoredRmsNorm,
    /// One layer, or the gate and what it lets through.
    wi: Vec<StoredLinear>,
    activation: Activation,
    wo: StoredLinear,
    final_layer_norm: Option<StoredRmsNorm>,
    is_last: bool,
}

#[derive(Debug)]
struct StoredAttention {
    layer_norm: StoredRmsNorm,
    qkvo: [StoredLinear; 4],
    attention: nn::Attention,
}

impl StoredAttention {
    fn read(&self) -> Result<Attention, LoadError> {
        let [q, k, v, o] = &self.qkvo;
        Ok(Attention {
            layer_norm: self.layer_norm.read()?,
            q: q.read()?,
            k: k.read()?,
            v: v.read()?,
            o: o.read()?,
            attention: self.attention.clone(),
        })
    }
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let wi = match self.wi.as_slice() {
            [gate, through] => Inner::Gated([gate.read()?, through.read()?]),
            others => Inner::Plain(others[0].read()?),
        };
        Ok(Block {
            stack: self.stack,
            self_attention: self.self_attention.read()?,
            cross_attention: self.cross_attention.as_ref().map(StoredAttention::read).transpose()?,
            feed_forward: FeedForward {
                layer_norm: self.ff_norm.read()?,
                wi,
                activation: self.activation,
                wo: self.wo.read()?,
            },
            final_layer_norm: self.final_layer_norm.as_ref().map(Stored::read).transpose()?,
            is_last: self.is_last,
        })
    }
}

/// What a configuration says.
struct Settings {
    /// D.
    width: usize,
    /// H.
    heads: usize,
    /// Width of a head; H of them need not add up to D.
    head_dimension: usize,
    /// Width inside the feed-forward networks.
    inner: usize,
    vocabulary: usize,
    /// Blocks of the encoder and of the decoder.
    blocks: [usize; 2],
    /// Which distances share a bias, in the encoder and in the decoder.
    buckets: [RelativeBuckets; 2],
    epsilon: f64,
    activation: Activation,
    is_gated: bool,
    /// Whether the configuration lets the head be the embedding.
    tied: bool,
    /// Between the last norm and the head.
    factor: f64,
    starts: DecoderTokens,
}

impl Settings {
    fn read(kind: Kind, config: &Config) -> Result<Self, LoadError> {
        if !config.flag("is_encoder_decoder", true)? {
            return Err(config.unsupported("is_encoder_decoder"));
        }
        if config.flag("is_decoder", false)? {
            return Err(config.unsupported("is_decoder"));
        }
        let (width, vocabulary) = (config.size("d_model")?, config.size("vocab_size")?);
        let encoder = config.size("num_layers")?;
        let decoder = config.size_or("num_decoder_layers", Some(encoder))?.unwrap_or(encoder);
        let count = config.size_or("relative_attention_num_buckets", Some(32))?.unwrap_or(32);
        let max_distance = config.size_or("relative_attention_max_distance", Some(128))?.unwrap_or(128);
        let buckets = [Mask::Bidirectional, Mask::Causal].map(|mask| RelativeBuckets { count, max_distance, mask });
        if !buckets.iter().all(|buckets| buckets.are_sound()) {
            let problem = format!(
                "{count} `relative_attention_num_buckets` do not reach `relative_attention_max_distance` = {max_distance}"
            );
            return Err(config.problem(problem));
        }
        let (activation, is_gated) = activation(kind, config)?;
        let tied = config.flag("tie_word_embeddings", kind == Kind::T5)?;
        Ok(Self {
            width,
            heads: config.size("num_heads")?,
            head_dimension: config.size("d_kv")?,
            inner: config.size("d_ff")?,
            vocabulary,
            blocks: [encoder, decoder],
            buckets,
            epsilon: config.epsilon("layer_norm_epsilon", 1e-6)?,
            activation,
            is_gated,
            tied,
            factor: if is_scaled(kind, config, tied)? { (width as f64).powf(-0.5) } else { 1.0 },
            starts: decoder_tokens(config, vocabulary)?,
        })
    }
}

/// The function inside the feed-forward networks, and whether it is a gate's. Transformers derives both from
/// `feed_forward_proj`, writes them beside it, and believes what is written.
fn activation(kind: Kind, config: &Config) -> Result<(Activation, bool), LoadError> {
    let usual = if kind == Kind::Mt5 { "gated-gelu" } else { "relu" };
    let written = config.text("feed_forward_proj", usual)?;
    let (gated, name) = match written.split('-').collect::<Vec<_>>().as_slice() {
        ["gated", "gelu"] => (true, "gelu_new"),
        &["gated", name] => (true, name),
        &[name] => (false, name),
        _ => return Err(config.unsupported("feed_forward_proj")),
    };
    let key = if config.get("dense_act_fn").is_some() { "dense_act_fn" } else { "feed_forward_proj" };
    let found = Activation::from_name(config.text("dense_act_fn", name)?);
    Ok((found.ok_or_else(|| config.unsupported(key))?, config.flag("is_gated_act", gated)?))
}

/// Whether hidden states are multiplied by `D^-1/2` before the head: in T5 unless the file says that the head is not tied,
/// in mT5 never. Transformers 5, which ties whatever is not stored twice, writes it as a key of its own.
fn is_scaled(kind: Kind, config: &Config, tied: bool) -> Result<bool, LoadError> {
    let since_5 = !config.text("transformers_version", "")?.starts_with("4.");
    match kind {
        Kind::T5 => config.flag("scale_decoder_outputs", tied),
        // up to transformers 4 a tied mT5 was scaled as T5 is, and is not any more
        Kind::Mt5 if tied && !since_5 => Err(config.unsupported("tie_word_embeddings")),
        Kind::Mt5 => Ok(false),
    }
}

fn decoder_tokens(config: &Config, vocabulary: usize) -> Result<DecoderTokens, LoadError> {
    let token = |key: &str| match config.get(key).map(|value| value.as_u64().and_then(|id| u32::try_from(id).ok())) {
        None => Ok(None),
        Some(Some(id)) if (id as usize) < vocabulary => Ok(Some(id)),
        Some(_) => {
            let found = config.quoted(key);
            Err(config.problem(format!("`{key}` = {found}, expected a token below `vocab_size` = {vocabulary}")))
        }
    };
    let start = token("decoder_start_token_id")?.ok_or_else(|| {
        config.problem("no key `decoder_start_token_id`, which is the token that the decoder reads first")
    })?;
    Ok(DecoderTokens { start, padding: token("pad_token_id")?.unwrap_or(0) })
}

/// Builds the model from its folder's configuration and weights.
fn load(kind: Kind, config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let settings = Settings::read(kind, config)?;
    let Settings { width, heads, head_dimension, inner, vocabulary, epsilon, activation, starts, buckets, .. } =
        settings;
    let source = CheckpointReader::new(weights, "", config, options);
    let names = names_in(weights);
    // transformers 5 says tied of every model, and a file of its has two tensors where they are not
    let both = [names.before[0], "lm_head"].iter().all(|module| weights.contains(&format!("{module}.weight")));
    let tied = settings.tied && !(both && config.text("transformers_version", "")?.starts_with("5."));
    let ends = Ends::new(&source, names, [vocabulary, width], tied)?;
    check_copies(&source, &ends, [vocabulary, width])?;
    let bias = |stack: &str| {
        let name = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        source.tensor(&name, &[buckets[0].count, heads])
    };
    let biases = [bias("encoder")?, bias("decoder")?];
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str| StoredRmsNorm::new(&source, &tracking, name, width, epsilon);
    let linear = |name: &str, outputs: usize, inputs: usize, input: &mut SharedInput| {
        source.linear(&tracking, name, [outputs, inputs], false, Layout::OutputsFirst, input)
    };
    let all = heads * head_dimension;
    let [of_encoder, of_decoder] = settings.blocks;
    let blocks = Blocks::new(&source, of_encoder + of_decoder, |n| {
        let (stack, n, last) = if n < of_encoder {
            (Stack::Encoder, n, of_encoder - 1)
        } else {
            (Stack::Decoder, n - of_encoder, of_decoder - 1)
        };
        let is_decoder = stack == Stack::Decoder;
        let own = LayerRows::all(if is_decoder { RowsOf::Decoder } else { RowsOf::Encoder });
        // rows that were divided and are joined again are copies
        source.add_activations(4 * width);
        let block = format!("{}.block.{n}.layer", if is_decoder { "decoder" } else { "encoder" });
        let attention = |layer: &str, module: &str, mask: Mask, read: Option<&mut SharedInput>| {
            let name = |part: &str| format!("{block}.{layer}.{module}.{part}");
            let mut shared = SharedInput::default();
            let q = linear(&name("q"), all, width, &mut shared)?;
            let (read, rows) = match read {
                Some(read) => (read, LayerRows::all(RowsOf::Encoder)),
                None => (&mut shared, own),
            };
            let [k, v] = tracking.seeing(rows, || {
                Ok::<_, LoadError>([linear(&name("k"), all, width, read)?, linear(&name("v"), all, width, read)?])
            })?;
            Ok::<_, LoadError>(StoredAttention {
                layer_norm: norm(&format!("{block}.{layer}.layer_norm"))?,
                qkvo: [q, k, v, linear(&name("o"), width, all, &mut SharedInput::default())?],
                attention: tracking.attending(nn::Attention {
                    // T5 draws the weights of its queries smaller instead
                    scale: 1.0,
                    mask,
                    products: source.products,
                    ..nn::Attention::causal(heads, head_dimension)
                }),
            })
        };
        let of_itself = if is_decoder { Mask::Causal } else { Mask::Bidirectional };
        tracking.seeing(own, || {
            let self_attention = attention("0", "SelfAttention", of_itself, None)?;
            let cross_attention = match stack {
                Stack::Encoder => None,
                Stack::Decoder => {
                    let read = Some(&mut SharedInput::default());
                    Some(attention("1", "EncDecAttention", Mask::Bidirectional, read)?)
                }
            };
            let layer = if is_decoder { 2 } else { 1 };
            let name = |part: &str| format!("{block}.{layer}.DenseReluDense.{part}");
            let mut shared = SharedInput::default();
            let parts: &[&str] = if settings.is_gated { &["wi_0", "wi_1"] } else { &["wi"] };
            let wi = parts.iter().map(|part| linear(&name(part), inner, width, &mut shared));
            Ok(StoredBlock {
                stack,
                self_attention,
                cross_attention,
                wi: wi.collect::<Result<_, _>>()?,
                activation,
                wo: linear(&name("wo"), width, inner, &mut SharedInput::default())?,
                ff_norm: norm(&format!("{block}.{layer}.layer_norm"))?,
                final_layer_norm: (!is_decoder && n == last).then(|| norm("encoder.final_layer_norm")).transpose()?,
                is_last: is_decoder && n == last,
            })
        })
    })?;
    let written = LayerRows::all(RowsOf::Decoder);
    let last = tracking.seeing(written, || norm("decoder.final_layer_norm"))?;
    let last = StoredLastNorm { norm: last, factor: settings.factor };
    let parts = Parts { ends, blocks, norm: last, max_positions: None };
    let residence = options.residence;
    parts.load(&source, tracking, residence, || {
        let [encoder, decoder] = biases;
        Ok(T5 { biases: [Held::new(encoder, residence)?, Held::new(decoder, residence)?], buckets, starts })
    })
}

/// What the ends are called in a checkpoint: one of the copies is the embedding where no other tensor is.
fn names_in(weights: &Weights) -> &'static BlockNames {
    const OF_ENCODER: BlockNames = BlockNames { before: &["encoder.embed_tokens"], ..NAMES };
    const OF_DECODER: BlockNames = BlockNames { before: &["decoder.embed_tokens"], ..NAMES };
    let all = [&NAMES, &OF_ENCODER, &OF_DECODER];
    all.into_iter().find(|names| weights.contains(&format!("{}.weight", names.before[0]))).unwrap_or(&NAMES)
}

/// Refuses other names of the embedding that hold other numbers.
fn check_copies(source: &CheckpointReader, ends: &Ends, sizes: [usize; 2]) -> Result<(), LoadError> {
    for name in COPIES.into_iter().filter(|name| source.weights.contains(name)) {
        if source.weights.shape(name)? != sizes || !ends.are_under(name)? {
            return Err(source.config().problem(format!(
                "the tensor `{name}` differs from `shared.weight`, and the model has one embedding for both"
            )));
        }
    }
    Ok(())
}

/// A parameter's key in the order of registration: the embedding; of each stack the blocks, and in a block the layers with
/// their norm last; the last norm; the head.
fn place(name: &str) -> Option<Vec<u64>> {
    let module = name.strip_suffix(".weight")?;
    let position = |list: &[&str], wanted: &str| list.iter().position(|&one| one == wanted).map(|i| i as u64);
    // the last number is that of a module's only tensor
    if let Some(end) = position(&["shared", "lm_head"], module) {
        return Some(vec![3 * end, 0]);
    }
    let (stack, rest) = module.split_once('.')?;
    let stack = 1 + position(&["encoder", "decoder"], stack)?;
    if rest == "final_layer_norm" {
        return Some(vec![stack, u64::MAX, 0]);
    }
    let mut parts = rest.strip_prefix("block.")?.split('.');
    let block = parts.next()?.parse().ok()?;
    let layer = (parts.next()? == "layer").then(|| parts.next())??.parse().ok()?;
    let part = parts.collect::<Vec<_>>();
    let part = match part.as_slice() {
        ["layer_norm"] => u64::MAX,
        ["SelfAttention" | "EncDecAttention", part] => {
            position(&["q", "k", "v", "o", "relative_attention_bias"], part)?
        }
        ["DenseReluDense", part] => position(&["wi", "wi_0", "wi_1", "wo"], part)?,
        _ => return None,
    };
    Some(vec![stack, block, layer, part, 0])
}

/// Other names of the embedding, and a table that no version reads.
fn is_buffer(name: &str) -> bool {
    COPIES.contains(&name) || name == UNUSED
}
