//! DeBERTa v2 and v3 (He et al. 2021; He et al. 2023) as `DebertaV2ForSequenceClassification` stores them: BERT's encoder,
//! where scores of attention also hold what the content of one token says of the distance to the other; a pooler and a
//! classifier on the first token; and as `DebertaV2ForMaskedLM` does, which fills in masked tokens.
//!
//! Distances have embeddings, which all blocks read: through layers of their own, or, as in the published models, through
//! the layers of queries and keys themselves. Such a layer has two kinds of inputs, and an example's gradient of it is
//! made of both: of each example it reads the hidden states, and below them the embeddings of the distances between its
//! tokens ([`RelativeRows`]).
//!
//! Version 2's largest models have a convolution over a text's embeddings, whose output is added to the first block's.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Value, json};

use super::architecture::{Architecture, BlockNames, Parameters, is_masked};
use super::attention_heads::HeadRole;
use super::body::Loaded;
use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::config::Config;
use super::decoder::{self, Blocks, Ends, Parts, Transformer};
use super::error::LoadError;
use super::heads::labels;
use super::heads::masked::{MaskedNames, StoredMasked};
use super::heads::sequence::{Pooling, StoredSequence};
use super::heads::steps::Step;
use super::layout::Layout;
use super::load_options::LoadOptions;
use super::norms::{LayerNorm, NoNorm, Norm, StoredLayerNorm};
use super::projection::{Projection, StoredLinear};
use super::residence::{Held, Residence, Stored};
use super::table::{StoredTable, Table};
use super::text_convolution::{StoredTextConvolution, TextConvolution};
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{Positions, TapRecorder, Traced};
use crate::data::{MaskedTokens, TokenInputs};
use crate::nn::{Activation, Attention, DisentangledAttention, Mask, RelativeDistances, RelativeRows};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "deberta-v2",
    class_numbers: &[
        ("hidden_size", 1_536),
        ("intermediate_size", 6_144),
        ("num_attention_heads", 24),
        ("num_hidden_layers", 24),
        ("vocab_size", 128_100),
        ("max_position_embeddings", 512),
    ],
    classes: &["DebertaV2ForSequenceClassification", "DebertaV2ForMaskedLM"],
    load,
    parameters: Parameters::OfMasked { masked: &Parameters::Blocks(FILLING), others: &Parameters::Blocks(NAMES) },
    tied_by_default: true,
    without_effect: &[
        "attention_probs_dropout_prob",
        "cls_dropout",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "pooler_dropout",
        "tie_word_embeddings",
    ],
    renamed: None,
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&[
        ("attention.self.query_proj", HeadRole::Queries),
        ("attention.self.key_proj", HeadRole::KeysOrValues),
        ("attention.self.value_proj", HeadRole::KeysOrValues),
        ("attention.self.pos_key_proj", HeadRole::KeysOrValues),
        ("attention.self.pos_query_proj", HeadRole::Queries),
        ("attention.output.dense", HeadRole::Output),
    ]),
};

const NAMES: BlockNames = BlockNames {
    prefixes: &["deberta."],
    before: &[
        "embeddings.word_embeddings",
        "embeddings.position_embeddings",
        "embeddings.token_type_embeddings",
        "embeddings.LayerNorm",
    ],
    blocks: "encoder.layer",
    modules: &[
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
        "attention.self.pos_key_proj",
        "attention.self.pos_query_proj",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ],
    after: &["encoder.rel_embeddings", "encoder.LayerNorm", CONVOLUTION, CONVOLUTION_NORM],
    before_head: &["pooler.dense"],
    heads: &["classifier"],
    buffers: &["embeddings.position_ids"],
    layout: Layout::OutputsFirst,
    experts: None,
};

/// The convolution over a text's embeddings, beside the first block, and the norm of the sum of both.
const CONVOLUTION: &str = "encoder.conv.conv";
const CONVOLUTION_NORM: &str = "encoder.conv.LayerNorm";

/// The names where masked tokens are filled in, by the head that transformers makes by default (`legacy`), which is
/// BERT's, or by the one of the published models.
const FILLING: BlockNames = BlockNames {
    before_head: &[
        "cls.predictions",
        HEAD.dense,
        HEAD.norm,
        PUBLISHED_HEAD.decoder,
        PUBLISHED_HEAD.dense,
        PUBLISHED_HEAD.norm,
    ],
    heads: &[HEAD.decoder, PUBLISHED_HEAD.decoder],
    ..NAMES
};

const HEAD: MaskedNames = MaskedNames {
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder",
    bias: Some("cls.predictions.bias"),
};

/// Its logits are always the embedding's, with a bias.
const PUBLISHED_HEAD: MaskedNames = MaskedNames {
    dense: "lm_predictions.lm_head.dense",
    norm: "lm_predictions.lm_head.LayerNorm",
    decoder: "lm_predictions.lm_head",
    bias: None,
};

/// Embeddings and blocks `layer`; `x: [R, D]` throughout.
#[derive(Debug)]
struct Deberta {
    /// None where distances alone say where a token stands.
    position_embeddings: Option<Table>,
    /// Rows by the number of the text of a pair; none in models without token types.
    token_type_embeddings: Option<Table>,
    norm: Held<StoredLayerNorm>,
    relative: Option<RelativeEmbeddings>,
}

/// Embeddings of distances, which all blocks read.
#[derive(Debug)]
struct RelativeEmbeddings {
    distances: RelativeDistances,
    table: Held<StoredTensor>,
    norm: Option<Held<StoredLayerNorm>>,
}

/// What every block needs of a batch.
pub(super) struct Context {
    positions: Positions,
    /// The rows of the examples, and the embeddings of the distances between their tokens, `[M, D]`.
    relative: Option<(Arc<RelativeRows>, Tensor)>,
}

#[derive(Debug)]
pub(super) struct Block {
    query: Projection,
    key: Projection,
    value: Projection,
    scores: Scores,
    attention_output: Projection,
    attention_norm: LayerNorm,
    intermediate: Projection,
    activation: Activation,
    output: Projection,
    output_norm: LayerNorm,
    /// Beside the first block, in models that have it.
    beside: Option<Convolved>,
}

/// A convolution over what a block reads, which is added to what it writes.
#[derive(Debug)]
struct Convolved {
    convolution: TextConvolution,
    activation: Activation,
    norm: LayerNorm,
}

/// What scores are made of.
#[derive(Debug)]
enum Scores {
    /// Contents alone.
    Contents(Attention),
    /// Contents and distances, whose queries and keys are made as these say.
    WithDistances { attention: DisentangledAttention, queries: OfDistances<Projection>, keys: OfDistances<Projection> },
}

/// Where queries, or keys, of distances come from.
#[derive(Debug)]
enum OfDistances<L> {
    /// There are none.
    Absent,
    /// The layer that makes those of tokens makes them as well.
    Shared,
    /// A layer makes nothing else.
    Own(Box<L>),
}

impl OfDistances<StoredLinear> {
    fn read(&self) -> Result<OfDistances<Projection>, LoadError> {
        Ok(match self {
            Self::Absent => OfDistances::Absent,
            Self::Shared => OfDistances::Shared,
            Self::Own(layer) => OfDistances::Own(Box::new(layer.read()?)),
        })
    }
}

impl Transformer for Deberta {
    type Block = StoredBlock;
    type Norm = NoNorm;
    type Context = Context;

    fn context(&self, _inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Context> {
        let relative = match &self.relative {
            None => None,
            Some(RelativeEmbeddings { distances, table, norm }) => {
                let rows = Arc::new(RelativeRows::new(*distances, positions));
                let own = rows.of_table(&*table.get()?)?;
                let own = norm.as_ref().map_or(Ok(own.clone()), |norm| norm.get()?.forward(&own))?;
                Some((rows, own))
            }
        };
        Ok(Context { positions: positions.clone(), relative })
    }

    fn embed(
        &self,
        words: &Traced,
        inputs: &TokenInputs,
        positions: &Positions,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        let mut x = words.clone();
        if let Some(of_places) = &self.position_embeddings {
            let places: Vec<u32> = positions.iter().flat_map(|rows| 0..rows.len() as u32).collect();
            x = of_places.add(&x, &places, taps)?;
        }
        if let Some(of_types) = &self.token_type_embeddings {
            x = of_types.add_types(&x, inputs, taps)?;
        }
        self.norm.get()?.trace(&x, taps)
    }

    fn check(&self) -> Result<(), LoadError> {
        let tables = [&self.position_embeddings, &self.token_type_embeddings];
        tables.into_iter().flatten().try_for_each(Table::check)?;
        if let Some(RelativeEmbeddings { table, norm, .. }) = &self.relative {
            table.check()?;
            norm.iter().try_for_each(Held::check)?;
        }
        self.norm.check()
    }
}

impl decoder::Block<Context> for Block {
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let attended = self.attention_output.trace(&self.attend(x, context, taps)?, taps)?;
        let y = self.attention_norm.trace(&x.add(&attended)?, taps)?;
        let inner = self.activation.trace(&self.intermediate.trace(&y, taps)?)?; // [R, I]
        let y = self.output_norm.trace(&y.add(&self.output.trace(&inner, taps)?)?, taps)?;
        let Some(Convolved { convolution, activation, norm }) = &self.beside else { return Ok(y) };
        let convolved = activation.trace(&convolution.trace(x, &context.positions, taps)?)?;
        norm.trace(&y.add(&convolved)?, taps)
    }
}

impl Block {
    fn attend(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let v = self.value.trace(x, taps)?; // [R, D]
        let (attention, queries, keys) = match &self.scores {
            Scores::Contents(attention) => {
                let (q, k) = (self.query.trace(x, taps)?, self.key.trace(x, taps)?);
                return attention.trace(&q, &k, &v, &context.positions, None);
            }
            Scores::WithDistances { attention, queries, keys } => (attention, queries, keys),
        };
        let Some((rows, embeddings)) = &context.relative else {
            candle_core::bail!("a batch without the distances between its tokens")
        };
        let embeddings = x.beside(embeddings.clone()); // [M, D]
        let is_shared = [queries, keys].iter().any(|of| matches!(of, OfDistances::Shared));
        let both = is_shared.then(|| rows.trace_joined(x, &embeddings)).transpose()?; // [R + M, D]
        let project = |layer: &Projection, of_distances: &OfDistances<Projection>| match (of_distances, &both) {
            (OfDistances::Shared, Some(both)) => layer.trace(both, &taps.at(rows.joined())),
            (OfDistances::Own(own), _) => {
                let own = own.trace(&embeddings, &taps.at(rows.relative()))?;
                rows.trace_joined(&layer.trace(x, taps)?, &own)
            }
            _ => layer.trace(x, taps),
        };
        let (q, k) = (project(&self.query, queries)?, project(&self.key, keys)?);
        attention.trace([&q, &k, &v], rows)
    }
}

#[derive(Debug)]
struct StoredBlock {
    qkvo: [StoredLinear; 4],
    scores: StoredScores,
    attention_norm: StoredLayerNorm,
    intermediate: StoredLinear,
    activation: Activation,
    output: StoredLinear,
    output_norm: StoredLayerNorm,
    beside: Option<StoredConvolved>,
}

#[derive(Debug)]
struct StoredConvolved {
    convolution: StoredTextConvolution,
    activation: Activation,
    norm: StoredLayerNorm,
}

impl Stored for StoredConvolved {
    type Value = Convolved;

    fn read(&self) -> Result<Convolved, LoadError> {
        Ok(Convolved { convolution: self.convolution.read()?, activation: self.activation, norm: self.norm.read()? })
    }
}

#[derive(Debug)]
enum StoredScores {
    Contents(Attention),
    WithDistances {
        attention: DisentangledAttention,
        queries: OfDistances<StoredLinear>,
        keys: OfDistances<StoredLinear>,
    },
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let [query, key, value, attention_output] = &self.qkvo;
        let scores = match &self.scores {
            StoredScores::Contents(attention) => Scores::Contents(attention.clone()),
            StoredScores::WithDistances { attention, queries, keys } => {
                Scores::WithDistances { attention: attention.clone(), queries: queries.read()?, keys: keys.read()? }
            }
        };
        Ok(Block {
            query: query.read()?,
            key: key.read()?,
            value: value.read()?,
            scores,
            attention_output: attention_output.read()?,
            attention_norm: self.attention_norm.read()?,
            intermediate: self.intermediate.read()?,
            activation: self.activation,
            output: self.output.read()?,
            output_norm: self.output_norm.read()?,
            beside: self.beside.as_ref().map(Stored::read).transpose()?,
        })
    }
}

/// What a configuration says.
struct Settings {
    /// D.
    width: usize,
    /// Width inside the MLP.
    inner: usize,
    /// H.
    heads: usize,
    blocks: usize,
    vocabulary: usize,
    max_positions: usize,
    /// Whether tokens have embeddings of their places.
    has_places: bool,
    /// Rows of the table of texts of a pair; none: there is no table.
    token_types: Option<usize>,
    activation: Activation,
    pooler_activation: Activation,
    epsilon: f64,
    /// Whether queries meet keys of distances.
    content_to_position: bool,
    /// Whether keys meet queries of distances.
    position_to_content: bool,
    /// Whether layers of queries and keys make those of distances.
    is_shared: bool,
    /// None: scores are of contents alone.
    distances: Option<RelativeDistances>,
    /// Whether embeddings of distances are normalised.
    has_relative_norm: bool,
    /// Whether masked tokens are filled in by BERT's head.
    is_legacy: bool,
    /// The convolution beside the first block, if there is one.
    convolution: Option<ConvolutionSettings>,
}

/// What a configuration says of the convolution beside the first block.
#[derive(Debug, Clone, Copy)]
struct ConvolutionSettings {
    /// Tokens that it sees.
    size: usize,
    groups: usize,
    activation: Activation,
}

impl ConvolutionSettings {
    /// None without `conv_kernel_size`, which leaves the other keys without effect.
    fn read(config: &Config, width: usize) -> Result<Option<Self>, LoadError> {
        let size = whole_number(config, "conv_kernel_size", 0)?;
        let Some(size) = usize::try_from(size).ok().filter(|&size| size > 0) else {
            // read, so that they are not named as unknown
            let _ = [config.get("conv_groups"), config.get("conv_act")];
            return Ok(None);
        };
        if size.is_multiple_of(2) || size > LARGEST_KERNEL {
            return Err(config.problem(format!(
                "`conv_kernel_size` = {size}, expected an odd number of at most {LARGEST_KERNEL}: transformers adds a \
                 token's outputs to the token, and an even kernel has one output less than there are tokens"
            )));
        }
        let groups = whole_number(config, "conv_groups", 1)?;
        let Some(groups) = usize::try_from(groups).ok().filter(|&groups| groups > 0 && width.is_multiple_of(groups))
        else {
            let problem = format!("`conv_groups` = {groups} do not divide `hidden_size` = {width}");
            return Err(config.problem(problem));
        };
        let activation = Activation::from_name(config.text("conv_act", "tanh")?);
        let activation = activation.ok_or_else(|| config.unsupported("conv_act"))?;
        Ok(Some(Self { size, groups, activation }))
    }
}

/// The most tokens that a convolution may see.
const LARGEST_KERNEL: usize = 1 << 10;

impl Settings {
    fn read(config: &Config) -> Result<Self, LoadError> {
        let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
        if width % heads != 0 {
            return Err(config.problem(format!("a width of {width} is not a multiple of {heads} attention heads")));
        }
        for (key, built) in
            [("attention_head_size", width / heads), ("embedding_size", width), ("pooler_hidden_size", width)]
        {
            if config.optional_size(key)?.is_some_and(|size| size != built) {
                return Err(config.unsupported(key));
            }
        }
        let activation =
            |key: &'static str| Activation::from_name(config.text(key, "gelu")?).ok_or_else(|| config.unsupported(key));
        let max_positions = config.size("max_position_embeddings")?;
        let [content_to_position, position_to_content] = terms(config)?;
        let buckets = whole_number(config, "position_buckets", -1)?;
        let farthest = whole_number(config, "max_relative_positions", -1)?;
        let norms: Vec<String> =
            config.text("norm_rel_ebd", "none")?.split('|').map(|one| one.trim().to_lowercase()).collect();
        if norms.iter().any(|norm| !matches!(norm.as_str(), "none" | "layer_norm")) {
            return Err(config.unsupported("norm_rel_ebd"));
        }
        let distances = RelativeDistances {
            buckets: usize::try_from(buckets).ok().filter(|&buckets| buckets > 0),
            max_distance: usize::try_from(farthest).ok().filter(|&n| n > 0).unwrap_or(max_positions),
        };
        let is_relative = config.flag("relative_attention", false)?;
        if is_relative && !distances.are_sound() {
            let RelativeDistances { max_distance, .. } = distances;
            return Err(config.problem(format!(
                "`position_buckets` = {buckets} do not fit a largest distance of {max_distance} \
                 (`max_relative_positions`, or `max_position_embeddings` where that is below 1)"
            )));
        }
        Ok(Self {
            width,
            inner: config.size("intermediate_size")?,
            heads,
            blocks: config.size("num_hidden_layers")?,
            vocabulary: config.size("vocab_size")?,
            max_positions,
            has_places: config.flag("position_biased_input", true)?,
            token_types: usize::try_from(whole_number(config, "type_vocab_size", 0)?).ok().filter(|&types| types > 0),
            activation: activation("hidden_act")?,
            pooler_activation: activation("pooler_hidden_act")?,
            epsilon: config.epsilon("layer_norm_eps", 1e-7)?,
            content_to_position,
            position_to_content,
            is_shared: config.flag("share_att_key", false)?,
            distances: is_relative.then_some(distances),
            has_relative_norm: norms.iter().any(|norm| norm == "layer_norm"),
            is_legacy: config.flag("legacy", true)?,
            convolution: ConvolutionSettings::read(config, width)?,
        })
    }

    /// Scores are divided by the root of a head's width times the number of their terms, also where the terms of distances
    /// are named and there are no distances. The root is rounded to `f32`, as in transformers, whatever the weights are.
    fn scale(&self) -> f64 {
        let terms = 1 + usize::from(self.content_to_position) + usize::from(self.position_to_content);
        f64::from(((self.width / self.heads * terms) as f32).sqrt()).recip()
    }
}

/// A whole number of at most 2³¹, or the default if the key is absent.
fn whole_number(config: &Config, key: &str, default: i64) -> Result<i64, LoadError> {
    match config.get(key) {
        None => Ok(default),
        Some(value) => value
            .as_i64()
            .filter(|n| *n <= 1 << 31)
            .ok_or_else(|| config.problem(format!("`{key}` = {}, expected a whole number", config.quoted(key)))),
    }
}

/// Whether scores have the terms content to position, and position to content: a list, or a text with `|` between.
fn terms(config: &Config) -> Result<[bool; 2], LoadError> {
    let named: Vec<String> = match config.get("pos_att_type") {
        None => vec![],
        Some(Value::String(text)) => text.split('|').map(|one| one.trim().to_lowercase()).collect(),
        Some(Value::Array(list)) => {
            let named = |one: &Value| one.as_str().map(str::to_owned).ok_or_else(|| config.unsupported("pos_att_type"));
            list.iter().map(named).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(config.unsupported("pos_att_type")),
    };
    if named.iter().any(|one| !matches!(one.as_str(), "c2p" | "p2c" | "")) {
        return Err(config.unsupported("pos_att_type"));
    }
    Ok(["c2p", "p2c"].map(|term| named.iter().any(|one| one == term)))
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let settings = Settings::read(config)?;
    let Settings { width, vocabulary, epsilon, activation, token_types, .. } = settings;
    // the published models' head has no logits but the embedding's, whatever the key says
    let config = match settings.is_legacy {
        true => config.clone(),
        false => config.clone().with([("tie_word_embeddings", json!(true))]),
    };
    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), &config, options);
    let tracking = Tracking::new(&options.selection);
    let ends = if is_masked(&config)? {
        let (names, head) = match settings.is_legacy {
            true => (BlockNames { heads: &[HEAD.decoder], ..FILLING }, HEAD),
            false => (BlockNames { heads: &[PUBLISHED_HEAD.decoder], ..FILLING }, PUBLISHED_HEAD),
        };
        let norm = StoredLayerNorm::at(&source, &tracking, head.norm, width, epsilon, true)?;
        let head = StoredMasked { names: head, width, dense_bias: true, activation, norm };
        Ends::of_masked(&source, &names, [vocabulary, width], (MaskedTokens { token_types }, head, true))?
    } else {
        let mut labels = labels::labels(&config)?;
        labels.token_types = token_types;
        let outputs = labels.outputs;
        let head = StoredSequence {
            pooling: Pooling::First,
            steps: vec![
                Step::Linear { name: "pooler.dense", sizes: [width, width], bias: true },
                Step::Activation(settings.pooler_activation),
                Step::Linear { name: "classifier", sizes: [outputs, width], bias: true },
            ],
            outputs,
        };
        Ends::of_texts(&source, &NAMES, [vocabulary, width], head, labels)?
    };
    let table = |name: &str, rows: usize| source.tensor(&format!("{name}.weight"), &[rows, width]);
    let tracked = |name: &str, rows: usize| {
        let tensor = table(&format!("embeddings.{name}"), rows)?;
        Ok::<_, LoadError>(StoredTable::new(&source, &tracking, tensor, [rows, width], None))
    };
    let places = settings.has_places.then(|| tracked("position_embeddings", settings.max_positions)).transpose()?;
    let types = token_types.map(|rows| tracked("token_type_embeddings", rows)).transpose()?;
    let untracked = |name: &str| StoredLayerNorm::untracked(&source, &source.full(name), width, epsilon, true);
    let embedding_norm = untracked("embeddings.LayerNorm")?;
    let relative = settings.distances.map(|distances| {
        let norm = settings.has_relative_norm.then(|| untracked("encoder.LayerNorm")).transpose()?;
        Ok::<_, LoadError>((distances, table("encoder.rel_embeddings", distances.rows())?, norm))
    });
    let relative = relative.transpose()?;
    let before = source.sizes().parameters;
    let mut beside = settings.convolution.map(|of| convolved(of, &settings, &source, &tracking)).transpose()?;
    let in_convolution = source.sizes().parameters - before;
    let tracked = beside.as_ref().map_or(0, |beside| beside.convolution.tracked());
    let mut blocks = Blocks::new(&source, settings.blocks, |n| {
        let beside = beside.take().filter(|_| n == 0);
        Ok(StoredBlock { beside, ..stored_block(&settings, &source, &tracking, n)? })
    })?;
    if let (Some(of), Some(first)) = (settings.convolution, blocks.tracked.first_mut()) {
        // what the first block has more than the others
        *first += tracked;
        blocks.parameters += in_convolution;
        blocks.activations += ((of.size + 2) * width) as u64;
    }
    // without embeddings of places a text may be as long as it likes: far tokens share the last distance
    let max_positions = settings.has_places.then_some(settings.max_positions);
    let parts = Parts { ends, blocks, norm: NoNorm, max_positions };
    let residence = options.residence;
    parts.load(&source, tracking, residence, || {
        let held = |table: Option<StoredTable>| table.map(|table| table.held(residence)).transpose();
        let relative = relative.map(|relative| held_relative(relative, residence)).transpose()?;
        Ok(Deberta {
            position_embeddings: held(places)?,
            token_type_embeddings: held(types)?,
            norm: Held::new(embedding_norm, residence)?,
            relative,
        })
    })
}

fn held_relative(
    (distances, table, norm): (RelativeDistances, StoredTensor, Option<StoredLayerNorm>),
    residence: Residence,
) -> Result<RelativeEmbeddings, LoadError> {
    let norm = norm.map(|norm| Held::new(norm, residence)).transpose()?;
    Ok(RelativeEmbeddings { distances, table: Held::new(table, residence)?, norm })
}

/// The convolution beside the first block.
fn convolved(
    ConvolutionSettings { size, groups, activation }: ConvolutionSettings,
    settings: &Settings,
    source: &CheckpointReader,
    tracking: &Tracking<'_>,
) -> Result<StoredConvolved, LoadError> {
    let width = settings.width;
    Ok(StoredConvolved {
        convolution: StoredTextConvolution::outer(source, tracking, CONVOLUTION, width, [size, groups])?,
        activation,
        norm: StoredLayerNorm::new(source, tracking, CONVOLUTION_NORM, width, settings.epsilon)?,
    })
}

/// Block `n` of a checkpoint.
fn stored_block(
    settings: &Settings,
    source: &CheckpointReader,
    tracking: &Tracking<'_>,
    n: usize,
) -> Result<StoredBlock, LoadError> {
    let Settings { width, inner, heads, epsilon, activation, content_to_position, position_to_content, .. } = *settings;
    let name = |part: &str| format!("encoder.layer.{n}.{part}");
    let norm = |part: &str| StoredLayerNorm::new(source, tracking, &name(part), width, epsilon);
    let linear = |part: &str, outputs: usize, inputs: usize, input: &mut SharedInput| {
        source.linear(tracking, &name(part), [outputs, inputs], true, Layout::OutputsFirst, input)
    };
    let alone = |part: &str, outputs: usize, inputs: usize| linear(part, outputs, inputs, &mut SharedInput::default());
    // what a layer reads that makes queries or keys of distances too is not what the others read
    let (mut hidden, mut joined, mut relative) = Default::default();
    let has_distances = settings.distances.is_some();
    let is_joined = |term: bool| has_distances && settings.is_shared && term;
    let mut project =
        |part: &str, is_joined: bool| linear(part, width, width, if is_joined { &mut joined } else { &mut hidden });
    let query = project("attention.self.query_proj", is_joined(position_to_content))?;
    let key = project("attention.self.key_proj", is_joined(content_to_position))?;
    let value = project("attention.self.value_proj", false)?;
    let mut of_distances = |part: &str, is_there: bool| {
        if !is_there {
            return Ok(OfDistances::Absent);
        }
        // an example of T tokens has fewer than 2 T distances: rows for the layer, and the rows of both as one
        source.add_activations(if settings.is_shared { 4 } else { 5 } * width);
        if settings.is_shared {
            return Ok(OfDistances::Shared);
        }
        linear(part, width, width, &mut relative).map(|own| OfDistances::Own(Box::new(own)))
    };
    let has_terms = content_to_position || position_to_content;
    let scores = match has_distances && has_terms {
        false => StoredScores::Contents(tracking.attending(Attention {
            mask: Mask::Bidirectional,
            scale: settings.scale(),
            products: source.products,
            ..Attention::causal(heads, width / heads)
        })),
        true => {
            let keys = of_distances("attention.self.pos_key_proj", content_to_position)?;
            let queries = of_distances("attention.self.pos_query_proj", position_to_content)?;
            tracking.attends(width, Mask::Bidirectional);
            let attention = DisentangledAttention {
                heads,
                head_dimension: width / heads,
                scale: settings.scale(),
                content_to_position,
                position_to_content,
                products: source.products,
            };
            StoredScores::WithDistances { attention, queries, keys }
        }
    };
    Ok(StoredBlock {
        qkvo: [query, key, value, alone("attention.output.dense", width, width)?],
        scores,
        attention_norm: norm("attention.output.LayerNorm")?,
        intermediate: alone("intermediate.dense", inner, width)?,
        activation,
        output: alone("output.dense", width, inner)?,
        output_norm: norm("output.LayerNorm")?,
        beside: None,
    })
}
