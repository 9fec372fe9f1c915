//! What all transformers share: a chain of blocks between the embeddings of tokens and a head, differentiated section by
//! section.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::Tensor;

use super::adapter::mode::AdapterMode;
use super::adapter::module::Merged;
use super::architecture::{BlockNames, SCORE, class_of_texts};
use super::body::{Body, Loaded, wrong_batch};
use super::checkpoint_reader::{CheckpointReader, Embedding, StoredTensor};
use super::error::LoadError;
use super::footprint::Footprint;
use super::heads::adapter::StoredHeadAdapter;
use super::heads::head::Head;
use super::heads::labels;
use super::heads::masked::StoredMasked;
use super::heads::next_token::{NextToken, StoredNextToken};
use super::heads::sequence::{Pooling, StoredSequence};
use super::heads::steps::Step;
use super::layout::Layout;
use super::limits::Limits;
use super::norms::Norm;
use super::operations::{LayerRows, RowsOf};
use super::residence::{Held, Residence, Stored};
use super::table::TrackedTable;
use super::tracking::{SharedInput, Tracking};
use crate::curvature::{
    Directions, Error, Graphs, Objective, Positions, Section, Side, TapRecorder, TapSink, Taped, Traced, Tracked,
    backward_through, gauss_newton_through,
};
use crate::data::{Batch, DecoderTokens, Inputs, Labels, MaskedTokens, ModelLimits, TokenInputs};

/// What one transformer has that another has not: its blocks, its norm and what it does with positions.
pub(super) trait Transformer: Debug + Send + Sync {
    type Block: Stored<Value: Block<Self::Context>>;

    /// The norm before the head.
    type Norm: Stored<Value: Norm>;

    /// What all blocks need to know of a batch, computed once.
    type Context;

    /// Whether its class gives the table of tokens a `padding_idx`: then the row of padding has no gradient.
    const PADDING_IS_FIXED: bool = true;

    /// Computes it.
    fn context(&self, inputs: &TokenInputs, positions: &Positions) -> candle_core::Result<Self::Context>;

    /// The first block's input from the embeddings of tokens, both `[R, D]`.
    fn embed(
        &self,
        tokens: &Traced,
        _inputs: &TokenInputs,
        _positions: &Positions,
        _taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        Ok(tokens.clone())
    }

    /// What a decoder reads that has an encoder beside it: none where all tokens are one sequence.
    fn decoder_tokens(&self) -> Option<DecoderTokens> {
        None
    }

    /// Reads its own parameters that are not in memory once, so that damaged ones are found before work.
    fn check(&self) -> Result<(), LoadError> {
        Ok(())
    }
}

/// One block.
pub(super) trait Block<Context> {
    /// `[R, D]` to `[R, D]`.
    fn trace(&self, x: &Traced, context: &Context, taps: &TapRecorder) -> candle_core::Result<Traced>;
}

/// From token ids to what the head gives.
#[derive(Debug)]
struct Decoder<T: Transformer> {
    tokens: Arc<Embedding>,
    /// The table of tokens, if it is tracked.
    tracked_tokens: Option<TrackedTable>,
    /// Whether the embedding has tracked tables.
    embedding_is_tracked: bool,
    transformer: T,
    blocks: Vec<Held<T::Block>>,
    /// Whether each block has tracked layers.
    tracked: Vec<bool>,
    norm: Held<T::Norm>,
    /// Whether vectors of the last norm are tracked.
    norm_is_tracked: bool,
    head: Box<dyn Head>,
}

impl<T: Transformer> Decoder<T> {
    /// What all blocks need to know of a batch.
    fn context(&self, batch: &Batch) -> Result<T::Context, Error> {
        Ok(self.transformer.context(Self::inputs(batch)?, &batch.positions)?)
    }

    /// What a model reads of a batch.
    fn inputs(batch: &Batch) -> Result<&TokenInputs, Error> {
        match &batch.inputs {
            Inputs::Tokens(inputs) => Ok(inputs),
            _ => Err(wrong_batch()),
        }
    }

    /// The first block's input from the rows of tokens.
    fn embed(
        &self,
        rows: &Traced,
        inputs: &TokenInputs,
        positions: &Positions,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced> {
        let tokens = match (self.tracked_tokens, &inputs.encoder) {
            (None, _) => rows.clone(),
            (Some(table), None) => table.entered(rows, &inputs.ids, taps)?,
            (Some(table), Some(encoder)) => table.entered_both(rows, &inputs.ids, [encoder, positions], taps)?,
        };
        self.transformer.embed(&tokens, inputs, positions, taps)
    }

    /// What the embedding makes of the rows of tokens.
    fn embedding<'a>(&'a self, inputs: &'a TokenInputs, positions: &'a Positions) -> impl Section + 'a {
        let section = Taped(move |rows: &Traced, taps: &TapRecorder| self.embed(rows, inputs, positions, taps));
        Tracked { section, has_layers: self.embedding_is_tracked }
    }

    /// The blocks, and the norm behind them.
    fn sections<'a>(&'a self, context: &'a T::Context) -> (Vec<impl Section + 'a>, impl Section + 'a) {
        let section = move |(block, has_layers): (&'a Held<T::Block>, bool)| {
            let section = Taped(move |x: &Traced, taps: &TapRecorder| block.get()?.trace(x, context, taps));
            Tracked { section, has_layers }
        };
        let norm = Taped(|x: &Traced, taps: &TapRecorder| self.norm.get()?.trace(x, taps));
        let blocks = self.blocks.iter().zip(self.tracked.iter().copied());
        (blocks.map(section).collect(), Tracked { section: norm, has_layers: self.norm_is_tracked })
    }
}

/// Sections one after the other.
fn chained<'a>(first: &'a impl Section, blocks: &'a [impl Section], last: &'a impl Section) -> Vec<&'a dyn Section> {
    let blocks = blocks.iter().map(|block| block as &dyn Section);
    [first as &dyn Section].into_iter().chain(blocks).chain([last as &dyn Section]).collect()
}

impl<T: Transformer> Body for Decoder<T> {
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error> {
        let context = self.context(batch)?;
        let inputs = Self::inputs(batch)?;
        let x = self.tokens.rows(&inputs.ids)?;
        let (embedding, (blocks, norm)) = (self.embedding(inputs, &batch.positions), self.sections(&context));
        let sections = chained(&embedding, &blocks, &norm);
        backward_through(&sections, &x, graphs, &batch.positions, sink, |hidden, taps| {
            self.head.differentiate(hidden, batch, objective, taps)
        })
    }

    fn gauss_newton(
        &self,
        batch: &Batch,
        directions: &Directions,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<(), Error> {
        let context = self.context(batch)?;
        let inputs = Self::inputs(batch)?;
        let x = self.tokens.rows(&inputs.ids)?;
        let (embedding, (blocks, norm)) = (self.embedding(inputs, &batch.positions), self.sections(&context));
        let sections = chained(&embedding, &blocks, &norm);
        gauss_newton_through(&sections, &x, graphs, &batch.positions, directions, sink, |moving, taps| {
            self.head.gauss_newton(moving, batch, directions, taps)
        })
    }

    fn logits(&self, batch: &Batch) -> Result<Tensor, Error> {
        let context = self.context(batch)?;
        let taps = TapRecorder::default();
        let inputs = Self::inputs(batch)?;
        let rows = Traced::constant(self.tokens.rows(&inputs.ids)?);
        let mut x = self.embed(&rows, inputs, &batch.positions, &taps)?;
        for block in &self.blocks {
            x = block.get()?.trace(&x, &context, &taps)?;
        }
        self.head.logits(self.norm.get()?.trace(&x, &taps)?.value(), batch)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.tokens.check()?;
        self.transformer.check()?;
        self.blocks.iter().try_for_each(Held::check)?;
        self.norm.check()?;
        self.head.check()
    }
}

/// The blocks of a checkpoint, and how large one of them is.
pub(super) struct Blocks<B> {
    pub(super) stored: Vec<B>,
    /// Tracked layers of each block, as far as the source knows them.
    pub(super) tracked: Vec<u64>,
    pub(super) parameters: u64,
    pub(super) activations: u64,
}

impl<B> Blocks<B> {
    /// `count` blocks of the same sizes, in order, made of tensors of this source.
    pub(super) fn new(
        source: &CheckpointReader,
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

/// The two ends of a model in a checkpoint: the embedding of tokens, and the head.
pub(super) struct Ends {
    tokens: StoredTensor,
    head: StoredHead,
    /// V and D, the shape of the embedding.
    sizes: [usize; 2],
    labels: Option<Labels>,
    /// What is read, if the head fills in masked tokens, and the layers before its logits.
    masked: Option<(MaskedTokens, StoredMasked)>,
}

/// A head on disk.
enum StoredHead {
    NextToken(Box<StoredNextToken>),
    Sequence(StoredSequence),
}

impl Ends {
    /// Looks for both ends of a decoder. Where the configuration's class gives something for a whole text, the head is
    /// `score`, a layer without bias at the last token that is no padding.
    ///
    /// A file may hold the embedding and a language model's head although the configuration says tied; then equal
    /// values mean tied, and different ones are both kept. It may hold one of the two under either name. So does
    /// transformers 5.
    pub(super) fn new(
        source: &CheckpointReader,
        names: &BlockNames,
        sizes: [usize; 2],
        tied: bool,
    ) -> Result<Self, LoadError> {
        let embedding = format!("{}.weight", names.before[0]);
        if class_of_texts(source.config())?.is_some() {
            let mut labels = labels::labels(source.config())?;
            let (padding, end) = labels::padding(source.config())?;
            labels.end = end;
            let head = StoredSequence {
                pooling: Pooling::Last { padding },
                steps: vec![Step::Linear { name: SCORE, sizes: [labels.outputs, sizes[1]], bias: false }],
                outputs: labels.outputs,
            };
            return Self::of_texts(source, names, sizes, head, labels);
        }
        let name = names.head_in(&source.weights);
        let stored = format!("{name}.weight");
        let ends = |tokens, weight| {
            let head = StoredNextToken { weight, bias: None, soft_cap: None, name };
            Self { tokens, head: StoredHead::NextToken(Box::new(head)), sizes, labels: None, masked: None }
        };
        let stored_head = source.weights.contains(&stored);
        if tied && stored_head && !source.contains(&embedding) {
            return Ok(ends(source.tensor_at(stored, &sizes)?, None));
        }
        let tokens = source.embedding(names.before[0], sizes)?;
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

    /// The ends of a model that gives something for a whole text.
    pub(super) fn of_texts(
        source: &CheckpointReader,
        names: &BlockNames,
        sizes: [usize; 2],
        head: StoredSequence,
        labels: Labels,
    ) -> Result<Self, LoadError> {
        let tokens = source.tensor(&format!("{}.weight", names.before[0]), &sizes)?;
        Ok(Self { tokens, head: StoredHead::Sequence(head), sizes, labels: Some(labels), masked: None })
    }

    /// The ends of a model that fills in masked tokens. Its logits are those of the embedding, or of a matrix of its own;
    /// `bias` says whether they have one.
    pub(super) fn of_masked(
        source: &CheckpointReader,
        names: &BlockNames,
        sizes: [usize; 2],
        (reads, head, bias): (MaskedTokens, StoredMasked, bool),
    ) -> Result<Self, LoadError> {
        let tied = source.config().flag("tie_word_embeddings", true)?;
        let mut ends = Self::new(source, names, sizes, tied)?;
        let bias = bias.then(|| head.names.bias(source, sizes[0])).transpose()?;
        if let StoredHead::NextToken(head) = &mut ends.head {
            head.bias = bias;
        }
        ends.masked = Some((reads, head));
        Ok(ends)
    }

    /// Adds a language model's head's bias, which does not belong to the embedding where they are tied.
    pub(super) fn with_bias(mut self, source: &CheckpointReader) -> Result<Self, LoadError> {
        if let StoredHead::NextToken(head) = &mut self.head {
            head.bias = Some(source.tensor_at(format!("{}.bias", head.name), &self.sizes[..1])?);
        }
        Ok(self)
    }

    /// Bounds a language model's logits by `c tanh(x / c)`, if there is a `c`.
    pub(super) fn capped(mut self, soft_cap: Option<f64>) -> Self {
        if let StoredHead::NextToken(head) = &mut self.head {
            head.soft_cap = soft_cap;
        }
        self
    }

    /// Whether the embedding's numbers stand under another name as well.
    pub(super) fn are_under(&self, name: &str) -> Result<bool, LoadError> {
        self.tokens.of_the_base().equals(&self.tokens.under(name))
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
        source: &CheckpointReader,
        tracking: Tracking<'_>,
        residence: Residence,
        transformer: impl FnOnce() -> Result<T, LoadError>,
    ) -> Result<Loaded, LoadError> {
        let in_blocks = tracking.count() as u64;
        // a block whose layers the source does not know all counts as one that has tracked layers
        let known = self.blocks.tracked.iter().sum::<u64>();
        let is_known = known == in_blocks;
        let tracked = self.blocks.tracked.iter().map(|&count| !is_known || count > 0).collect();
        let Ends { tokens, head, sizes: [vocabulary, width], labels, masked } = self.ends;
        let (reads_masked, before_logits) = masked.unzip();
        let has_padding = T::PADDING_IS_FIXED && tracking.takes_tables();
        let padding = if has_padding { source.config().token("pad_token_id")? } else { None };
        let tracked_tokens = TrackedTable::new(source, &tracking, &tokens, [vocabulary, width], padding);
        let tables = tracking.tables();
        let written = LayerRows::all(RowsOf::Decoder);
        let ((head, tokens), sizes): ((Box<dyn Head>, _), _) = match head {
            StoredHead::NextToken(head) => {
                let StoredNextToken { mut weight, bias, soft_cap, name } = *head;
                let before = source.sizes().parameters;
                let before_logits =
                    before_logits.map(|layers| tracking.seeing(written, || layers.load(source, &tracking, residence)));
                let before_logits = before_logits.transpose()?;
                let own_parameters = (source.sizes().parameters - before) as usize;
                let mode = source.weights.adapter().map(|adapter| adapter.mode);
                let is_saved = weight.as_ref().is_some_and(|weight| source.is_replaced(weight));
                let layer = match mode {
                    Some(AdapterMode::Only) if !is_saved => None,
                    _ => tracking.seeing(written, || tracking.token_head(name, vocabulary, width, bias.is_some())),
                };
                if layer.is_some() {
                    weight.as_ref().unwrap_or(&tokens).count_tracked();
                    bias.iter().for_each(StoredTensor::count_tracked);
                }
                let mut adapter = None;
                if let Some(low_rank) = source.head_adapter(name, [vocabulary, width])? {
                    let own = weight.take().unwrap_or_else(|| tokens.of_the_base());
                    if mode == Some(AdapterMode::Both) && low_rank.magnitude.is_none()
                        || mode == Some(AdapterMode::Only)
                    {
                        let [a, b] = low_rank.layer_names();
                        let layers = tracking.seeing(written, || {
                            let a = tracking.layer(&a, low_rank.rank, width, false, &mut SharedInput::default());
                            [a, tracking.token_layer(&b, vocabulary, low_rank.rank)]
                        });
                        if layers.iter().any(Option::is_some) {
                            adapter =
                                Some(StoredHeadAdapter { low_rank: low_rank.clone(), weight: own.clone(), layers });
                        }
                    }
                    weight = Some(own.adapted(Merged { adapter: low_rank, layout: Layout::OutputsFirst }));
                }
                let is_tracked = layer.is_some() || adapter.is_some();
                let own = weight.map(|own| Held::new(own, residence)).transpose()?;
                let bias = bias.map(|bias| Held::new(bias, residence)).transpose()?;
                let adapter = adapter.map(|adapter| Held::new(adapter, residence)).transpose()?;
                let (tied, tokens) = (own.is_none(), Arc::new(Held::new(tokens, residence)?));
                let weight = own.map_or_else(|| tokens.clone(), Arc::new);
                let head = NextToken { weight, tied, bias, soft_cap, layer, products: source.products, adapter };
                let head: Box<dyn Head> = match before_logits {
                    None => Box::new(head),
                    Some(layers) => Box::new(layers.before(head)),
                };
                ((head, tokens), (vocabulary * width + own_parameters, vocabulary, is_tracked))
            }
            StoredHead::Sequence(head) => {
                let before = source.sizes().parameters;
                let head = head.load(source, &tracking, residence)?;
                let tokens = Arc::new(Held::new(tokens, residence)?);
                ((Box::new(head), tokens), ((source.sizes().parameters - before) as usize, 0, false))
            }
        };
        let (in_head, logits, tracked_head) = sizes;
        let of_model = tracking.finish()?;
        let of_tables = of_model.layers.iter().filter(|layer| layer.vocabulary == Some(Side::Input));
        let table_rows = of_tables.map(|layer| layer.inputs as u64).sum();
        let footprint = Footprint {
            parameters: source.sizes().parameters,
            section: self.blocks.parameters,
            head: in_head as u64,
            sections: self.blocks.stored.len() as u64,
            width: width as u64,
            activations: self.blocks.activations,
            heads: source.heads(),
            all_activations: self.blocks.stored.len() as u64 * self.blocks.activations,
            vocabulary: logits as u64,
            tracked_head,
            table_rows,
            has_own_rows: false,
        };
        let blocks = self.blocks.stored.into_iter().map(|block| Held::new(block, residence));
        let transformer = transformer()?;
        let starts = transformer.decoder_tokens();
        let decoder = Decoder::<T> {
            tokens,
            tracked_tokens,
            embedding_is_tracked: tables > 0,
            transformer,
            blocks: blocks.collect::<Result<_, _>>()?,
            tracked,
            norm: Held::new(self.norm, residence)?,
            norm_is_tracked: !is_known,
            head,
        };
        let limits = Limits::Tokens(ModelLimits {
            vocabulary,
            max_positions: self.max_positions,
            decoder: starts,
            masked: reads_masked,
        });
        Ok(Loaded { body: Box::new(decoder), tracked: of_model, footprint, limits, labels })
    }
}
