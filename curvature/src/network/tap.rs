//! What a tracked layer hands out for a batch: inputs, output gradients, and whose rows they are.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Error;
use crate::network::layer::LayerId;

/// Which rows of a batch belong to which example.
///
/// A batch is the concatenation of its examples' positions: example `b` owns the rows
/// `example(b)`, and nothing is padded. Padding therefore cannot enter a covariance, and what an
/// example's neighbours are changes nothing but rounding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    offsets: Vec<usize>,
    places: Option<Arc<[usize]>>,
}

impl Positions {
    /// The place of a row that was made from no place of the batch's inputs: an embedding of a distance between tokens.
    pub const NOWHERE: usize = usize::MAX;

    /// From the number of positions of each example, in order.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            offsets.push(end);
        }
        Self { offsets, places: None }
    }

    /// `examples` examples of one position each.
    pub fn single(examples: usize) -> Self {
        Self { offsets: (0..=examples).collect(), places: None }
    }

    /// These positions, each row with the place of the batch's inputs that it was made from. Places are numbered over all
    /// examples. An expert sees some rows of a batch alone, and an encoder reads other tokens than its decoder. A row that
    /// was made from no input stands at [`Positions::NOWHERE`].
    ///
    /// # Panics
    /// If there is not one place for each row.
    #[must_use]
    pub fn at_places(self, places: impl IntoIterator<Item = usize>) -> Self {
        let places: Arc<[usize]> = places.into_iter().collect();
        assert_eq!(places.len(), self.rows(), "places of rows");
        Self { places: Some(places), ..self }
    }

    /// The places of the batch's inputs that the rows were made from, where they say so.
    pub fn places(&self) -> Option<&[usize]> {
        self.places.as_deref()
    }

    /// Number of examples, B.
    pub fn examples(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of rows, R = Σ T.
    pub fn rows(&self) -> usize {
        *self.offsets.last().expect("offsets start with 0")
    }

    /// Rows of example `b`.
    pub fn example(&self, b: usize) -> Range<usize> {
        self.offsets[b]..self.offsets[b + 1]
    }

    /// Rows of every example, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        (0..self.examples()).map(|b| self.example(b))
    }

    /// Whether every example has exactly one position.
    pub fn all_single(&self) -> bool {
        self.rows() == self.examples() && self.iter().all(|rows| rows.len() == 1)
    }

    /// Largest number of positions of one example; 0 for an empty batch.
    pub fn longest(&self) -> usize {
        self.iter().map(|rows| rows.len()).max().unwrap_or(0)
    }
}

/// What one backward pass tells about one layer: its inputs and the gradients at its outputs.
///
/// # Shapes
/// `input: [R, inputs]` (without the column of ones), `output_gradient: [R, O]`, contiguous.
/// # Units
/// `output_gradient` is `∂(summed objective of the row's example)/∂z`.
/// # Source
/// `docs/method.md`, Gradients.
#[derive(Debug, Clone, Copy)]
pub struct Tap<'a> {
    /// The layer.
    pub layer: LayerId,
    /// What the layer read, `a`.
    pub input: &'a Tensor,
    /// Gradient at what it wrote, `s`.
    pub output_gradient: &'a Tensor,
    /// Whose rows they are.
    pub positions: &'a Positions,
}

/// Consumer of taps. Taps are pushed when they exist and borrowed: a sink keeps what it computes from
/// them, never the taps of a whole model.
pub trait TapSink {
    /// Takes one layer's tap of the current batch. Layers come in the order of the backward pass.
    ///
    /// # Errors
    /// Whatever the sink's arithmetic or storage reports; the pass stops.
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error>;
}

/// Two sinks that share one differentiation.
#[derive(Debug)]
pub struct Tee<'a, A: ?Sized, B: ?Sized>(pub &'a mut A, pub &'a mut B);

impl<A: TapSink + ?Sized, B: TapSink + ?Sized> TapSink for Tee<'_, A, B> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        self.0.tap(tap)?;
        self.1.tap(tap)
    }
}

/// Passes taps on under other numbers, without those of layers that have none.
#[derive(Debug)]
pub struct Renumbered<'a, S: ?Sized> {
    /// For each layer that is differentiated, its number behind; none drops its taps.
    pub places: &'a [Option<usize>],
    /// Takes what is passed on.
    pub sink: &'a mut S,
}

impl<S: TapSink + ?Sized> TapSink for Renumbered<'_, S> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        match self.places[tap.layer.0] {
            Some(place) => self.sink.tap(Tap { layer: LayerId(place), ..tap }),
            None => Ok(()),
        }
    }
}

/// Drops every tap: a pass for its values alone.
impl TapSink for () {
    fn tap(&mut self, _: Tap<'_>) -> Result<(), Error> {
        Ok(())
    }
}
