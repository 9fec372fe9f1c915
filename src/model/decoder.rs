//! What all decoder language models share: a chain of blocks between embeddings and a language-model
//! head, differentiated section by section.

use std::sync::Arc;

use candle_core::Tensor;

use super::parameters::{Held, Source, StoredTensor};
use super::{Footprint, LoadError};
use crate::curvature::{
    Error, Graphs, LayerId, LayerSpec, Objective, Positions, Section, TapRecorder, TapSink, Taped, Traced,
    backward_through,
};
use crate::data::TokenBatch;
use crate::nn::{LogitsGradient, language_model_logits, language_model_loss};

/// One architecture: what lies between token ids and logits.
pub(super) trait Decoder: Send + Sync {
    /// Token ids to the first block's input, `[R, D]`.
    fn embed(&self, batch: &TokenBatch) -> candle_core::Result<Tensor>;

    /// Number of blocks.
    fn blocks(&self) -> usize;

    /// Block `index`: `[R, D]` to `[R, D]`.
    fn block(
        &self,
        index: usize,
        x: &Traced,
        context: &Self::Context,
        taps: &TapRecorder,
    ) -> candle_core::Result<Traced>;

    /// What all blocks need to know of a batch, computed once.
    type Context;

    /// Computes it.
    fn context(&self, positions: &Positions) -> Self::Context;

    /// The norm before the head.
    fn final_norm(&self, x: &Traced) -> candle_core::Result<Traced>;

    /// The head.
    fn head(&self) -> &Head;

    /// Reads the parameters that are not in memory once, section by section, for the sake of errors.
    fn check(&self) -> Result<(), LoadError>;
}

/// A table of rows by number, of which a batch needs a few.
pub(super) type Embedding = Held<StoredTensor>;

/// The language-model head: logits = `hidden · weightᵀ`.
#[derive(Debug)]
pub(super) struct Head {
    /// `[V, D]`; the embedding itself if it is tied.
    pub weight: Arc<Embedding>,
    /// The head's number, if it is tracked.
    pub layer: Option<LayerId>,
}

/// Runs one batch forwards and backwards.
pub(super) fn differentiate<D: Decoder>(
    decoder: &D,
    batch: &TokenBatch,
    objective: Objective,
    graphs: Graphs,
    sink: &mut dyn TapSink,
) -> Result<Vec<f64>, Error> {
    let context = decoder.context(&batch.positions);
    let x = decoder.embed(batch)?;
    let block = |index: usize| {
        let context = &context;
        Taped(move |x: &Traced, taps: &TapRecorder| decoder.block(index, x, context, taps))
    };
    let blocks: Vec<_> = (0..decoder.blocks()).map(block).collect();
    let norm = Taped(|x: &Traced, _: &TapRecorder| decoder.final_norm(x));
    let sections: Vec<&dyn Section> =
        blocks.iter().map(|block| block as &dyn Section).chain([&norm as &dyn Section]).collect();
    let head = decoder.head();
    backward_through(&sections, &x, graphs, &batch.positions, sink, |hidden, taps| {
        let keep = if head.layer.is_some() { LogitsGradient::Keep } else { LogitsGradient::Discard };
        let loss = language_model_loss(
            hidden,
            &*head.weight.get()?,
            None,
            &batch.positions,
            &batch.targets,
            &batch.keys,
            objective,
            keep,
        )?;
        if let (Some(layer), Some(gradient)) = (head.layer, loss.logits_gradient) {
            taps.record(layer, hidden.clone(), gradient);
        }
        Ok((loss.values, loss.hidden_gradient))
    })
}

/// Logits of every row, `[R, V]`.
pub(super) fn logits<D: Decoder>(decoder: &D, batch: &TokenBatch) -> Result<Tensor, Error> {
    let context = decoder.context(&batch.positions);
    let taps = TapRecorder::default();
    let mut x = Traced::constant(decoder.embed(batch)?);
    for index in 0..decoder.blocks() {
        x = decoder.block(index, &x, &context, &taps)?;
    }
    Ok(language_model_logits(decoder.final_norm(&x)?.value(), &*decoder.head().weight.get()?, None)?)
}

/// What a language model's file gives: the decoder and its tracked layers.
pub(super) struct Loaded<D> {
    pub decoder: D,
    pub layers: Vec<LayerSpec>,
    pub footprint: Footprint,
    pub vocabulary: usize,
    pub max_positions: Option<usize>,
    /// What a person should know of how the checkpoint was read.
    pub notes: Vec<String>,
}

/// The size of a decoder whose blocks hold `blocks` parameters in all and have linear layers of these shapes.
pub(super) fn footprint(
    source: &Source,
    [blocks, count]: [u64; 2],
    linear: &[[usize; 2]],
    [vocabulary, width]: [usize; 2],
    head: Option<LayerId>,
) -> Footprint {
    Footprint {
        parameters: source.parameters(),
        section: blocks / count.max(1),
        head: (vocabulary * width) as u64,
        sections: count,
        width: width as u64,
        activations: linear.iter().map(|[outputs, inputs]| (outputs + inputs) as u64).sum(),
        vocabulary: vocabulary as u64,
        tracked_head: head.is_some(),
    }
}

/// The head's own tensor, or none if it is the embedding: if they are tied or the file holds no other.
///
/// A file may hold both although the configuration says tied; then equal values mean tied, and
/// different ones are both kept, as transformers 5.23 does.
pub(super) fn head_weight(
    source: &Source,
    name: &str,
    embedding: &StoredTensor,
    tied: bool,
    notes: &mut Vec<String>,
) -> Result<Option<StoredTensor>, LoadError> {
    if !source.weights.contains(name) {
        if !tied {
            notes.push(format!(
                "`{name}` is absent although the configuration says untied: the embedding serves as head"
            ));
        }
        return Ok(None);
    }
    let head = source.tensor_at(name.to_owned(), embedding.shape())?;
    if tied {
        if head.equals(embedding)? {
            return Ok(None);
        }
        notes.push(format!("`{name}` differs from the embedding although the configuration says tied: both are kept"));
    }
    Ok(Some(head))
}
