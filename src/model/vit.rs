//! The Vision Transformer (Dosovitskiy et al. 2021, figure 1) as `ViTForImageClassification` stores it: an image's patches,
//! projected by a linear layer, behind a class token, with learned positions; blocks with a norm before attention and
//! before the MLP; a last norm, and a classifier on the class token.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::architecture::{Architecture, BlockNames, Parameters};
use super::attention_heads::separate;
use super::body::{Body, Loaded};
use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::config::Config;
use super::decoder;
use super::decoder::{Block as _, Blocks};
use super::error::LoadError;
use super::footprint::Footprint;
use super::heads::head::Head;
use super::heads::sequence::{Pooling, Sequence, StoredSequence};
use super::heads::steps::Step;
use super::images::{self, ImageBatch, pair};
use super::layout::Layout;
use super::limits::Limits;
use super::load_options::LoadOptions;
use super::norms::{LayerNorm, Norm, StoredLayerNorm};
use super::operations::LayerRows;
use super::projection::{Projection, StoredLinear};
use super::residence::{Held, Stored};
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{
    Directions, Error, Graphs, Objective, Positions, Section, TangentRule, TapRecorder, TapSink, Taped, Traced,
    Tracked, Window, backward_through, gauss_newton_through,
};
use crate::data::{Batch, ImageSize, RowLimits, RowShape};
use crate::nn::{Activation, Attention, Mask};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "vit",
    class_numbers: &[
        ("hidden_size", 768),
        ("intermediate_size", 3_072),
        ("num_attention_heads", 12),
        ("num_hidden_layers", 12),
        ("num_channels", 3),
        ("image_size", 224),
        ("patch_size", 16),
    ],
    classes: &["ViTForImageClassification"],
    load,
    parameters: Parameters::Since5 {
        before: &Parameters::Blocks(NAMES),
        since: &Parameters::Keys { of: place_since_5, is_buffer: |_| false, ends: Some(&NAMES) },
    },
    tied_by_default: false,
    without_effect: &[
        "attention_probs_dropout_prob",
        "encoder_stride",
        "hidden_dropout_prob",
        "pooler_act",
        "pooler_output_size",
    ],
    renamed: Some(since_5),
    blocks: Some("num_hidden_layers"),
    heads: Some("num_attention_heads"),
    attention: Some(&separate([
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ])),
};

/// The names of the file, in the order in which transformers 4 registers them.
const NAMES: BlockNames = BlockNames {
    prefixes: &["vit."],
    before: &["embeddings.cls_token", "embeddings.position_embeddings", PROJECTION],
    blocks: "encoder.layer",
    modules: &[MODULES[0], MODULES[1], MODULES[2], MODULES[3], MODULES[4], MODULES[5], MODULES[6], MODULES[7]],
    after: &["layernorm"],
    before_head: &[],
    heads: &["classifier"],
    buffers: &[],
    layout: Layout::OutputsFirst,
    experts: None,
};

const PROJECTION: &str = "embeddings.patch_embeddings.projection";

/// The modules of a block: query, key, value, attention's output, the two layers of the MLP, the norm before attention,
/// and the one before the MLP.
const MODULES: [&str; 8] = [
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
    "layernorm_before",
    "layernorm_after",
];

/// What transformers 5 calls these modules in memory, and their places there: behind attention stand the norms.
const SINCE_5: [(&str, u64); 8] = [
    ("attention.q_proj", 0),
    ("attention.k_proj", 1),
    ("attention.v_proj", 2),
    ("attention.o_proj", 3),
    ("mlp.fc1", 6),
    ("mlp.fc2", 7),
    ("layernorm_before", 4),
    ("layernorm_after", 5),
];

/// The blocks of transformers 5 in memory.
const BLOCKS_SINCE_5: &str = "layers";

/// What transformers 5 calls a module of a block in memory.
fn since_5(module: &str) -> Option<String> {
    let (before, rest) = module.split_once(NAMES.blocks)?;
    let (number, rest) = rest.strip_prefix('.')?.split_once('.')?;
    let at = MODULES.iter().position(|&one| one == rest)?;
    Some(format!("{before}{BLOCKS_SINCE_5}.{number}.{}", SINCE_5[at].0))
}

/// A parameter's place in transformers 5, by its name in a file or in memory.
fn place_since_5(name: &str) -> Option<Vec<u64>> {
    let bare = NAMES.prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let position = |list: &[&str], wanted: &str| list.iter().position(|&one| one == wanted).map(|i| i as u64);
    if let Some(i) = position(NAMES.before, bare) {
        return Some(vec![1, 0, i, 0]);
    }
    let (module, leaf) = bare.rsplit_once('.')?;
    let leaf = position(&["weight", "bias"], leaf)?;
    if let Some(i) = position(NAMES.before, module) {
        return Some(vec![1, 0, i, leaf]);
    }
    for (section, list) in [(3, NAMES.after), (4, NAMES.heads)] {
        if let Some(i) = position(list, module) {
            return Some(vec![section, 0, i, leaf]);
        }
    }
    let of = |blocks: &str| module.strip_prefix(blocks)?.strip_prefix('.')?.split_once('.');
    let (number, rest) = of(NAMES.blocks).or_else(|| of(BLOCKS_SINCE_5))?;
    let at = MODULES.iter().zip(SINCE_5).find(|(own, (new, _))| **own == rest || *new == rest)?;
    Some(vec![2, number.parse().ok()?, at.1.1, leaf])
}

/// `x: [R, D]` from the embeddings on, an image's rows being the class token and its patches.
#[derive(Debug)]
struct Vit {
    patches: Window,
    embeddings: Held<StoredEmbeddings>,
    /// Whether the projection of patches, or an adapter over it, is tracked.
    tracks_projection: bool,
    blocks: Vec<Held<StoredBlock>>,
    /// Whether each block has tracked layers.
    tracked: Vec<bool>,
    layernorm: Held<StoredLayerNorm>,
    /// Whether vectors of the last norm are tracked.
    norm_is_tracked: bool,
    classifier: Sequence,
    dtype: DType,
    device: Device,
}

#[derive(Debug)]
struct Embeddings {
    projection: Projection,
    /// `[1, D]`.
    cls_token: Tensor,
    /// `[1 + P, D]`.
    position_embeddings: Tensor,
}

#[derive(Debug)]
struct Block {
    layernorm_before: LayerNorm,
    query: Projection,
    key: Projection,
    value: Projection,
    attention: Attention,
    output: Projection,
    layernorm_after: LayerNorm,
    fc1: Projection,
    activation: Activation,
    fc2: Projection,
}

impl Vit {
    /// The patches of a batch, `[B · P, channels · height · width]`.
    fn patches(&self, batch: &Batch) -> Result<Tensor, Error> {
        let images = ImageBatch::of(batch, self.dtype, &self.device)?;
        Ok(self.patches.unfold(&images.rows, images.plane)?.0)
    }

    /// The embeddings, the blocks, and the last norm.
    fn sections<'a>(
        &'a self,
        positions: &'a Positions,
    ) -> (impl Section + 'a, Vec<impl Section + 'a>, impl Section + 'a) {
        let embeddings = Taped(|x: &Traced, taps: &TapRecorder| self.embeddings.get()?.trace(x, taps));
        let section = move |(block, has_layers)| {
            let block: &Held<StoredBlock> = block;
            let section = Taped(move |x: &Traced, taps: &TapRecorder| block.get()?.trace(x, positions, taps));
            Tracked { section, has_layers }
        };
        let norm = Taped(|x: &Traced, taps: &TapRecorder| self.layernorm.get()?.trace(x, taps));
        (
            Tracked { section: embeddings, has_layers: self.tracks_projection },
            self.blocks.iter().zip(self.tracked.iter().copied()).map(section).collect(),
            Tracked { section: norm, has_layers: self.norm_is_tracked },
        )
    }
}

impl Embeddings {
    /// `[B · P, channels · height · width]` to `[B · (1 + P), D]`.
    fn trace(&self, patches: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let of_image = self.position_embeddings.dim(0)? - 1; // P
        let images = patches.value().dim(0)? / of_image;
        let own = taps.at(&Arc::new(Positions::from_lengths(vec![of_image; images])));
        let projected = self.projection.trace(patches, &own)?;
        let behind = |class: &Tensor, projected: &Tensor| {
            let (_, width) = projected.dims2()?;
            let class = class.unsqueeze(0)?.broadcast_as((images, 1, width))?;
            Tensor::cat(&[&class.contiguous()?, &projected.reshape((images, of_image, width))?], 1)
        };
        let rows = |x: Tensor| x.flatten(0, 1);
        Traced::composed_with(
            [&projected],
            |[projected]| rows(behind(&self.cls_token, projected)?.broadcast_add(&self.position_embeddings)?),
            // the class token and the positions stay
            TangentRule::Each(&|_, [moving]| rows(behind(&self.cls_token.zeros_like()?, moving)?)),
        )
    }
}

impl decoder::Block<Positions> for Block {
    fn trace(&self, x: &Traced, positions: &Positions, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = self.layernorm_before.trace(x, taps)?;
        let q = self.query.trace(&y, taps)?; // [R, D]
        let k = self.key.trace(&y, taps)?;
        let v = self.value.trace(&y, taps)?;
        let x = x.add(&self.output.trace(&self.attention.trace(&q, &k, &v, positions, None)?, taps)?)?;
        let inner = self.activation.trace(&self.fc1.trace(&self.layernorm_after.trace(&x, taps)?, taps)?)?; // [R, I]
        x.add(&self.fc2.trace(&inner, taps)?)
    }
}

impl Body for Vit {
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error> {
        let (embeddings, blocks, norm) = self.sections(&batch.positions);
        let sections = images::chained(&embeddings, &blocks, &norm);
        backward_through(&sections, &self.patches(batch)?, graphs, &batch.positions, sink, |hidden, taps| {
            self.classifier.differentiate(hidden, batch, objective, taps)
        })
    }

    fn gauss_newton(
        &self,
        batch: &Batch,
        directions: &Directions,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<(), Error> {
        let (embeddings, blocks, norm) = self.sections(&batch.positions);
        let sections = images::chained(&embeddings, &blocks, &norm);
        let (patches, positions) = (self.patches(batch)?, &batch.positions);
        gauss_newton_through(&sections, &patches, graphs, positions, directions, sink, |moving, taps| {
            self.classifier.gauss_newton(moving, batch, directions, taps)
        })
    }

    fn logits(&self, batch: &Batch) -> Result<Tensor, Error> {
        let taps = TapRecorder::default();
        let mut x = self.embeddings.get()?.trace(&Traced::constant(self.patches(batch)?), &taps)?;
        for block in &self.blocks {
            x = block.get()?.trace(&x, &batch.positions, &taps)?;
        }
        self.classifier.logits(self.layernorm.get()?.trace(&x, &taps)?.value(), batch)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.embeddings.check()?;
        self.blocks.iter().try_for_each(Held::check)?;
        self.layernorm.check()?;
        self.classifier.check()
    }
}

#[derive(Debug)]
struct StoredEmbeddings {
    projection: StoredLinear,
    cls_token: StoredTensor,
    position_embeddings: StoredTensor,
}

impl Stored for StoredEmbeddings {
    type Value = Embeddings;

    fn read(&self) -> Result<Embeddings, LoadError> {
        Ok(Embeddings {
            projection: self.projection.read()?,
            cls_token: self.cls_token.read()?.squeeze(0)?,
            position_embeddings: self.position_embeddings.read()?.squeeze(0)?,
        })
    }
}

#[derive(Debug)]
struct StoredBlock {
    qkvo: [StoredLinear; 4],
    attention: Attention,
    mlp: [StoredLinear; 2],
    activation: Activation,
    norms: [StoredLayerNorm; 2],
}

impl Stored for StoredBlock {
    type Value = Block;

    fn read(&self) -> Result<Block, LoadError> {
        let ([query, key, value, output], [fc1, fc2], [before, after]) = (&self.qkvo, &self.mlp, &self.norms);
        Ok(Block {
            layernorm_before: before.read()?,
            query: query.read()?,
            key: key.read()?,
            value: value.read()?,
            attention: self.attention.clone(),
            output: output.read()?,
            layernorm_after: after.read()?,
            fc1: fc1.read()?,
            activation: self.activation,
            fc2: fc2.read()?,
        })
    }
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let size = |key: &str, usual| images::size(config, key, usual);
    let (width, inner) = (size("hidden_size", 768)?, size("intermediate_size", 3072)?);
    let (heads, blocks) = (size("num_attention_heads", 12)?, size("num_hidden_layers", 12)?);
    let channels = size("num_channels", 3)?;
    let ([height, length], [down, across]) = (pair(config, "image_size", 224)?, pair(config, "patch_size", 16)?);
    if down > height || across > length {
        return Err(config.problem(format!(
            "`patch_size` = {} is larger than `image_size` = {}",
            config.quoted("patch_size"),
            config.quoted("image_size")
        )));
    }
    if width % heads != 0 || config.optional_size("head_dim")?.is_some_and(|size| size * heads != width) {
        return Err(config.problem(format!("{heads} attention heads do not fit `hidden_size` = {width}")));
    }
    let activation = Activation::from_name(config.text("hidden_act", "gelu")?);
    let activation = activation.ok_or_else(|| config.unsupported("hidden_act"))?;
    let epsilon = config.epsilon("layer_norm_eps", 1e-12)?;
    let qkv_bias = config.flag("qkv_bias", true)?;
    let patches = (height / down) * (length / across);
    let (labels, task) = images::labels(config)?;

    let source = CheckpointReader::new(weights, NAMES.prefix_in(weights), config, options);
    let residence = options.residence;
    let tracking = Tracking::new(&options.selection);
    let kernel = [channels, down, across];
    let embeddings = StoredEmbeddings {
        projection: tracking.seeing(LayerRows::share(patches as f64 / (1 + patches) as f64), || {
            source.of_patches(&tracking, PROJECTION, width, kernel)
        })?,
        cls_token: source.tensor(NAMES.before[0], &[1, 1, width])?,
        position_embeddings: source.tensor(NAMES.before[1], &[1, 1 + patches, width])?,
    };
    let tracks_projection = tracking.count() > 0;
    // what an adapter beside the projection keeps of a patch
    let beside = source.sizes().activations;
    let norm = |name: &str| StoredLayerNorm::new(&source, &tracking, name, width, epsilon);
    let linear = |name: &str, sizes: [usize; 2], bias: bool, input: &mut SharedInput| {
        source.linear(&tracking, name, sizes, bias, Layout::OutputsFirst, input)
    };
    let blocks = Blocks::new(&source, blocks, |n| {
        let mut qkv = SharedInput::default();
        let own = SharedInput::default;
        let [q, k, v, o, fc1, fc2, before, after] = MODULES.map(|module| format!("{}.{n}.{module}", NAMES.blocks));
        Ok(StoredBlock {
            qkvo: [
                linear(&q, [width, width], qkv_bias, &mut qkv)?,
                linear(&k, [width, width], qkv_bias, &mut qkv)?,
                linear(&v, [width, width], qkv_bias, &mut qkv)?,
                linear(&o, [width, width], true, &mut own())?,
            ],
            attention: tracking.attending(Attention {
                mask: Mask::Bidirectional,
                products: source.products,
                ..Attention::causal(heads, width / heads)
            }),
            mlp: [linear(&fc1, [inner, width], true, &mut own())?, linear(&fc2, [width, inner], true, &mut own())?],
            activation,
            norms: [norm(&before)?, norm(&after)?],
        })
    })?;
    let before = tracking.count();
    let layernorm = norm("layernorm")?;
    let norm_is_tracked = tracking.count() > before;
    let head = StoredSequence {
        pooling: Pooling::First,
        steps: vec![Step::Linear { name: NAMES.heads[0], sizes: [labels.outputs, width], bias: true }],
        outputs: labels.outputs,
    };
    let classifier = head.load(&source, &tracking, residence)?;
    let patch = (channels * down * across) as u64;
    let footprint = Footprint {
        parameters: source.sizes().parameters,
        section: blocks.parameters,
        sections: blocks.stored.len() as u64 + 1,
        width: (width as u64).max(patch),
        activations: blocks.activations,
        heads: heads as u64,
        all_activations: blocks.stored.len() as u64 * blocks.activations + patch + beside + width as u64,
        ..Footprint::default()
    };
    let tracked = blocks.tracked.iter().map(|&count| count > 0).collect();
    let vit = Vit {
        patches: Window { size: [down, across], stride: [down, across], ..Window::default() },
        embeddings: Held::new(embeddings, residence)?,
        tracks_projection,
        blocks: blocks.stored.into_iter().map(|block| Held::new(block, residence)).collect::<Result<_, _>>()?,
        tracked,
        layernorm: Held::new(layernorm, residence)?,
        norm_is_tracked,
        classifier,
        dtype: options.dtype,
        device: options.device.clone(),
    };
    let size = ImageSize::Exactly { height, width: length, positions: 1 + patches };
    let inputs = RowShape::Image { channels, size };
    let limits = Limits::Rows(RowLimits { inputs, outputs: labels.outputs, task });
    Ok(Loaded { body: Box::new(vit), tracked: tracking.finish()?, limits, labels: Some(labels), footprint })
}
