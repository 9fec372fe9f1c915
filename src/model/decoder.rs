//! What all decoder language models share: a chain of blocks between embeddings and a language-model
//! head, differentiated section by section.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::Tensor;

use super::adapter::{AdapterMode, LowRank};
use super::architecture::BlockNames;
use super::norms::Norm;
use super::parameters::{Held, InUse, Residence, Source, Stored, StoredTensor};
use super::tracking::{SharedInput, Tracking};
use super::{Body, Footprint, Limits, LoadError, Loaded};
use crate::curvature::gemm::Products;
use crate::curvature::{
    Error, Graphs, LayerId, Objective, Positions, Section, TapRecorder, TapSink, Taped, Traced, Tracked,
    backward_through,
};
use crate::data::{ModelLimits, TokenBatch};
use crate::nn::{LanguageModelHead, LogitsGradient, language_model_logits, language_model_loss};

/// What one decoder has that another has not: its blocks, its norm and what it does with positions.
pub(super) trait Transformer: Debug + Send + Sync {
    type Block: Stored<Value: Block<Self::Context>>;

    /// The norm before the head.
    type Norm: Stored<Value: Norm>;

    /// What all blocks need to know of a batch, computed once.
    type Context;

    /// Computes it.
    fn context(&self, positions: &Positions) -> Self::Context;

    /// The first block's input from the embeddings of tokens, both `[R, D]`.
    fn embed(&self, tokens: Tensor, _positions: &Positions) -> candle_core::Result<Tensor> {
        Ok(tokens)
    }

    /// Reads its own parameters that are not in memory once, for the sake of errors.
    fn check(&self) -> Result<(), LoadError> {
        Ok(())
    }
}

/// One block.
pub(super) trait Block<Context> {
    /// `[R, D]` to `[R, D]`.
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced>;
}

/// A table of rows by number, of which a batch needs a few.
pub(super) type Embedding = Held<StoredTensor>;

/// From token ids to logits.
#[derive(Debug)]
struct Decoder<T: Transformer> {
    tokens: Arc<Embedding>,
    transformer: T,
    blocks: Vec<Held<T::Block>>,
    /// Whether each block has tracked layers.
    tracked: Vec<bool>,
    norm: Held<T::Norm>,
    head: Head,
}

/// The language-model head: logits = `hidden · weightᵀ + bias`.
#[derive(Debug)]
struct Head {
    /// `[V, D]`; the embedding of tokens itself if it is tied.
    weight: Arc<Embedding>,
    /// `[V]`.
    bias: Option<Held<StoredTensor>>,
    /// The bound `c` of logits, `c tanh(x / c)`.
    soft_cap: Option<f64>,
    /// The head's number, if it is tracked.
    layer: Option<LayerId>,
    products: Products,
    /// The adapter that is merged into the weight, if its matrices are tracked.
    adapter: Option<Held<StoredHeadAdapter>>,
}

/// A head's weight and bias while they are used.
type HeadInUse<'a> = (InUse<'a, Tensor>, Option<InUse<'a, Tensor>>);

impl Head {
    fn parameters(&self) -> candle_core::Result<HeadInUse<'_>> {
        Ok((self.weight.get()?, self.bias.as_ref().map(Held::get).transpose()?))
    }
}

/// A decoder, whichever its transformer is.
pub(crate) trait LanguageModel: Debug + Send + Sync {
    /// Runs one batch forwards and backwards.
    fn differentiate(
        &self,
        batch: &TokenBatch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error>;

    /// Logits of every row, `[R, V]`.
    fn logits(&self, batch: &TokenBatch) -> Result<Tensor, Error>;

    /// Reads the parameters that are not in memory once, section by section, for the sake of errors.
    fn check(&self) -> Result<(), LoadError>;
}

impl<T: Transformer> Decoder<T> {
    /// The first block's input.
    fn embed(&self, batch: &TokenBatch) -> candle_core::Result<Tensor> {
        self.transformer.embed(self.tokens.rows(&batch.input_ids)?, &batch.positions)
    }
}

impl<T: Transformer> LanguageModel for Decoder<T> {
    fn differentiate(
        &self,
        batch: &TokenBatch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error> {
        let context = &self.transformer.context(&batch.positions);
        let x = self.embed(batch)?;
        let section = |(block, has_layers)| {
            let block: &Held<T::Block> = block;
            let section = Taped(move |x: &Traced, taps: &TapRecorder| block.get()?.trace(x, context, taps));
            Tracked { section, has_layers }
        };
        let blocks: Vec<_> = self.blocks.iter().zip(self.tracked.iter().copied()).map(section).collect();
        let norm = Taped(|x: &Traced, _: &TapRecorder| self.norm.get()?.trace(x));
        let norm = Tracked { section: norm, has_layers: false };
        let sections: Vec<&dyn Section> =
            blocks.iter().map(|block| block as &dyn Section).chain([&norm as &dyn Section]).collect();
        let head = &self.head;
        backward_through(&sections, &x, graphs, &batch.positions, sink, |hidden, taps| {
            let is_tracked = head.layer.is_some() || head.adapter.is_some();
            let keep = if is_tracked { LogitsGradient::Keep } else { LogitsGradient::Discard };
            let (weight, bias) = head.parameters()?;
            let loss = language_model_loss(
                hidden,
                LanguageModelHead {
                    weight: &weight,
                    bias: bias.as_deref(),
                    soft_cap: head.soft_cap,
                    products: head.products,
                },
                &batch.positions,
                &batch.targets,
                &batch.keys,
                objective,
                keep,
            )?;
            if let Some(gradient) = loss.logits_gradient {
                if let Some(adapter) = &head.adapter {
                    adapter.get()?.record(hidden, &gradient, taps)?;
                }
                if let Some(layer) = head.layer {
                    taps.record(layer, hidden.clone(), gradient);
                }
            }
            Ok((loss.values, loss.hidden_gradient))
        })
    }

    fn logits(&self, batch: &TokenBatch) -> Result<Tensor, Error> {
        let context = self.transformer.context(&batch.positions);
        let taps = TapRecorder::default();
        let mut x = Traced::constant(self.embed(batch)?);
        for block in &self.blocks {
            x = block.get()?.trace(&x, &context, &taps)?;
        }
        let hidden = self.norm.get()?.trace(&x)?;
        let (weight, bias) = self.head.parameters()?;
        let Head { soft_cap, products, .. } = self.head;
        let head = LanguageModelHead { weight: &weight, bias: bias.as_deref(), soft_cap, products };
        Ok(language_model_logits(hidden.value(), head)?)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.tokens.check()?;
        self.transformer.check()?;
        self.blocks.iter().try_for_each(Held::check)?;
        self.norm.check()?;
        self.head.bias.as_ref().map_or(Ok(()), Held::check)?;
        self.head.adapter.as_ref().map_or(Ok(()), Held::check)?;
        if Arc::ptr_eq(&self.tokens, &self.head.weight) { Ok(()) } else { self.head.weight.check() }
    }
}

/// The tracked matrices of a head's adapter on disk.
#[derive(Debug)]
struct StoredHeadAdapter {
    low_rank: LowRank,
    /// The head without its adapter.
    weight: StoredTensor,
    /// A and B.
    layers: [Option<LayerId>; 2],
}

/// The tracked matrices of a head's adapter. The head runs with the adapter merged into its weight, since all that its
/// matrices need is the gradient at the logits.
#[derive(Debug)]
struct HeadAdapter {
    /// `[r, D]`.
    a: Tensor,
    /// `[V, r]`.
    b: Tensor,
    /// What multiplies `B (A x)` at each logit, `[V]`.
    factors: Tensor,
    layers: [Option<LayerId>; 2],
}

impl Stored for StoredHeadAdapter {
    type Value = HeadAdapter;

    fn read(&self) -> Result<HeadAdapter, LoadError> {
        let (a, b) = (self.low_rank.a.read()?, self.low_rank.b.read()?);
        let mut factors = Tensor::ones(b.dim(0)?, b.dtype(), b.device())?.affine(self.low_rank.scale, 0.0)?;
        if self.low_rank.magnitude.is_some()
            && let Some(rows) = self.low_rank.row_factors(&self.weight.read()?)?
        {
            factors = (factors * rows)?;
        }
        Ok(HeadAdapter { a, b, factors, layers: self.layers })
    }
}

impl HeadAdapter {
    /// Leaves the taps of A and B for a gradient at the logits.
    fn record(&self, hidden: &Tensor, gradient: &Tensor, taps: &TapRecorder) -> candle_core::Result<()> {
        let gradient = gradient.broadcast_mul(&self.factors)?;
        let [a, b] = self.layers;
        if let Some(b) = b {
            taps.record(b, hidden.matmul(&self.a.t()?)?, gradient.clone());
        }
        if let Some(a) = a {
            taps.record(a, hidden.clone(), gradient.matmul(&self.b)?);
        }
        Ok(())
    }
}

/// The blocks of a checkpoint, and how large one of them is.
pub(super) struct Blocks<B> {
    stored: Vec<B>,
    /// Tracked layers of each block, as far as the source knows them.
    tracked: Vec<u64>,
    parameters: u64,
    activations: u64,
}

impl<B> Blocks<B> {
    /// `count` blocks of the same sizes, in order, made of tensors of this source.
    pub(super) fn new(
        source: &Source,
        count: usize,
        mut block: impl FnMut(usize) -> Result<B, LoadError>,
    ) -> Result<Self, LoadError> {
        let before = source.sizes();
        let (mut stored, mut tracked) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for n in 0..count {
            let so_far = source.sizes().tracked;
            stored.push(block(n)?);
            tracked.push(source.sizes().tracked - so_far);
        }
        let (after, count) = (source.sizes(), count.max(1) as u64);
        Ok(Self {
            stored,
            tracked,
            parameters: (after.parameters - before.parameters) / count,
            activations: (after.activations - before.activations) / count,
        })
    }
}

/// The two ends of a decoder in a checkpoint: the embedding of tokens, and the head.
pub(super) struct Ends {
    tokens: StoredTensor,
    /// The head's own tensor; none if the head is the embedding.
    head: Option<StoredTensor>,
    /// The head's bias.
    bias: Option<StoredTensor>,
    /// The bound `c` of logits, `c tanh(x / c)`.
    soft_cap: Option<f64>,
    /// The name under which the head is tracked.
    name: &'static str,
    /// V and D, the shape of both.
    sizes: [usize; 2],
}

impl Ends {
    /// Looks for both.
    ///
    /// A file may hold both although the configuration says tied; then equal values mean tied, and different ones are
    /// both kept. It may hold one of the two under either name. So does transformers 5.
    pub(super) fn new(source: &Source, names: &BlockNames, sizes: [usize; 2], tied: bool) -> Result<Self, LoadError> {
        let name = names.head_in(&source.weights);
        let (stored, embedding) = (format!("{name}.weight"), names.before[0]);
        let ends = |tokens, head| Self { tokens, head, bias: None, soft_cap: None, name, sizes };
        let stored_head = source.weights.contains(&stored);
        if tied && stored_head && !source.contains(&format!("{embedding}.weight")) {
            return Ok(ends(source.tensor_at(stored, &sizes)?, None));
        }
        let tokens = source.embedding(embedding, sizes)?;
        if !stored_head {
            if !tied {
                let file = source.weights.origin().to_owned();
                return Err(LoadError::NoHead { file, name: stored });
            }
            // an embedding of its own that an adapter has is not the head's
            let head = source.untied(&tokens)?.then(|| tokens.of_the_base());
            return Ok(ends(tokens, head));
        }
        let head = source.tensor_at(stored.clone(), &sizes)?;
        if tied {
            if !tokens.is_adapted() && head.equals(&tokens)? {
                return Ok(ends(tokens, None));
            }
            source.note(format!(
                "`{stored}` differs from the embedding although the configuration says tied: both are kept"
            ));
        }
        Ok(ends(tokens, Some(head)))
    }

    /// Adds the head's bias, which does not belong to the embedding where they are tied.
    pub(super) fn with_bias(self, source: &Source) -> Result<Self, LoadError> {
        let bias = source.tensor_at(format!("{}.bias", self.name), &self.sizes[..1])?;
        Ok(Self { bias: Some(bias), ..self })
    }

    /// Bounds the logits by `c tanh(x / c)`, if there is a `c`.
    pub(super) fn capped(self, soft_cap: Option<f64>) -> Self {
        Self { soft_cap, ..self }
    }

    /// A number as the type that the embedding is stored in has it.
    pub(super) fn rounded_as_stored(&self, number: f64) -> f64 {
        self.tokens.rounded_as_stored(number)
    }
}

/// What a checkpoint holds of a decoder: there and of the right shapes, but not read.
pub(super) struct Parts<T: Transformer> {
    pub ends: Ends,
    pub blocks: Blocks<T::Block>,
    pub norm: T::Norm,
    pub max_positions: Option<usize>,
}

impl<T: Transformer + 'static> Parts<T> {
    /// The decoder; numbers are read, if they are kept, once everything is known to fit.
    pub(super) fn load(
        self,
        source: &Source,
        mut tracking: Tracking<'_>,
        residence: Residence,
        transformer: impl FnOnce() -> Result<T, LoadError>,
    ) -> Result<Loaded, LoadError> {
        let Ends { tokens, mut head, bias, soft_cap, name, sizes: [vocabulary, width] } = self.ends;
        let in_blocks = tracking.count() as u64;
        let mode = source.weights.adapter().map(|adapter| adapter.mode);
        let is_saved = head.as_ref().is_some_and(|head| source.is_replaced(head));
        let layer = match mode {
            Some(AdapterMode::Only) if !is_saved => None,
            _ => tracking.outer_layer(name, vocabulary, width, bias.is_some()),
        };
        let mut adapter = None;
        if let Some(low_rank) = source.head_adapter(name, [vocabulary, width])? {
            let own = head.take().unwrap_or_else(|| tokens.of_the_base());
            if mode == Some(AdapterMode::Both) && low_rank.magnitude.is_none() || mode == Some(AdapterMode::Only) {
                let [a, b] = low_rank.layer_names();
                let a = tracking.layer(&a, low_rank.rank, width, false, &mut SharedInput::default());
                let b = tracking.layer(&b, vocabulary, low_rank.rank, false, &mut SharedInput::default());
                let layers = [a, b];
                if layers.iter().any(Option::is_some) {
                    adapter = Some(StoredHeadAdapter { low_rank: low_rank.clone(), weight: own.clone(), layers });
                }
            }
            head = Some(own.adapted(low_rank));
        }
        let layers = tracking.finish()?;
        // a block whose layers the source does not know all counts as one that has tracked layers
        let is_known = self.blocks.tracked.iter().sum::<u64>() == in_blocks;
        let tracked = self.blocks.tracked.iter().map(|&count| !is_known || count > 0).collect();
        let footprint = Footprint {
            parameters: source.sizes().parameters,
            section: self.blocks.parameters,
            head: (vocabulary * width) as u64,
            sections: self.blocks.stored.len() as u64,
            width: width as u64,
            activations: self.blocks.activations,
            all_activations: self.blocks.stored.len() as u64 * self.blocks.activations,
            vocabulary: vocabulary as u64,
            tracked_head: layer.is_some() || adapter.is_some(),
        };
        let tokens = Arc::new(Held::new(tokens, residence)?);
        let weight = match head {
            Some(own) => Arc::new(Held::new(own, residence)?),
            None => tokens.clone(),
        };
        let bias = bias.map(|bias| Held::new(bias, residence)).transpose()?;
        let adapter = adapter.map(|adapter| Held::new(adapter, residence)).transpose()?;
        let blocks = self.blocks.stored.into_iter().map(|block| Held::new(block, residence));
        let decoder = Decoder::<T> {
            tokens,
            transformer: transformer()?,
            blocks: blocks.collect::<Result<_, _>>()?,
            tracked,
            norm: Held::new(self.norm, residence)?,
            head: Head { weight, bias, soft_cap, layer, products: source.products, adapter },
        };
        let limits = Limits::Tokens(ModelLimits { vocabulary, max_positions: self.max_positions });
        Ok(Loaded { body: Body::Decoder(Box::new(decoder)), layers, footprint, limits })
    }
}
