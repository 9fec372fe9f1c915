//! The head of a model that gives some numbers for a whole text or image: one vector for each is made of the hidden
//! states of its tokens or patches, and goes through a few layers.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::head::{Head, hessian_of_outputs, loss_of_outputs};
use super::steps::{Step, StoredSteps};
use crate::curvature::{
    Directions, Error, Gradient, Moving, Objective, Positions, Section, TapRecorder, Taped, Traced,
};
use crate::data::{Batch, Inputs};
use crate::model::body::wrong_batch;
use crate::model::checkpoint_reader::CheckpointReader;
use crate::model::error::LoadError;
use crate::model::operations::{LayerRows, RowsOf};
use crate::model::residence::{Held, Residence};
use crate::model::tracking::Tracking;
use crate::nn::SquaredError;

/// How one vector is made of a text's hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Pooling {
    /// The first token's.
    First,
    /// The hidden state of the last token that is not the padding token, or of the last token if there is no padding
    /// token.
    Last {
        /// The token that a configuration calls padding.
        padding: Option<u32>,
    },
    /// The mean over all tokens.
    Mean,
    /// None: each example has one hidden state already.
    Before,
}

/// A head on disk.
#[derive(Debug)]
pub(in crate::model) struct StoredSequence {
    pub(in crate::model) pooling: Pooling,
    pub(in crate::model) steps: Vec<Step>,
    /// Numbers that come out.
    pub(in crate::model) outputs: usize,
}

/// A head of one output row for each text.
#[derive(Debug)]
pub(in crate::model) struct Sequence {
    pooling: Pooling,
    steps: Held<StoredSteps>,
    /// torch's mean over the outputs.
    squared_error: SquaredError,
}

impl StoredSequence {
    /// The head; its linear layers are tracked if a pattern names them.
    pub(in crate::model) fn load(
        self,
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        residence: Residence,
    ) -> Result<Sequence, LoadError> {
        let of_examples = LayerRows::all(RowsOf::Examples);
        let linear = |name: &str, sizes, bias| source.outer_linear(tracking, name, sizes, bias);
        let steps = tracking.seeing(of_examples, || StoredSteps::new(self.steps, linear))?;
        let steps = Held::new(steps, residence)?;
        let squared_error = SquaredError { a: 1.0 / self.outputs.max(1) as f64 };
        Ok(Sequence { pooling: self.pooling, steps, squared_error })
    }
}

/// Which rows of a batch make up the pooled vectors.
enum Pooled {
    /// One row of each text.
    Rows(Tensor),
    /// A weight for each text and row, `[B, R]`.
    Weighted(Tensor),
}

impl Pooling {
    fn of(self, hidden: &Tensor, batch: &Batch) -> Result<Pooled, Error> {
        let (positions, device) = (&batch.positions, hidden.device());
        let ids = match (&batch.inputs, self) {
            (Inputs::Tokens(tokens), _) => tokens.ids.as_slice(),
            (_, Self::Last { padding: Some(_) }) => return Err(wrong_batch()),
            _ => &[],
        };
        let first = |rows: std::ops::Range<usize>| rows.start;
        let last = |rows: std::ops::Range<usize>, padding: Option<u32>| {
            let is_text = |&row: &usize| Some(ids[row]) != padding;
            // a text of padding alone: transformers takes its first row
            if padding.is_none() {
                rows.end.saturating_sub(1)
            } else {
                rows.clone().rfind(is_text).unwrap_or(rows.start)
            }
        };
        let row = |rows: std::ops::Range<usize>| match self {
            Self::Last { padding } => last(rows, padding),
            Self::First | Self::Mean | Self::Before => first(rows),
        };
        if self == Self::Before {
            return Ok(Pooled::Rows(Tensor::arange(0, positions.examples() as u32, device)?));
        }
        if self != Self::Mean {
            let rows: Vec<u32> = positions.iter().map(|rows| row(rows) as u32).collect();
            return Ok(Pooled::Rows(Tensor::new(rows, device)?));
        }
        let mut weights = vec![0.0; positions.examples() * positions.rows()];
        for (example, rows) in positions.iter().enumerate() {
            let weight = 1.0 / rows.len().max(1) as f64;
            weights[example * positions.rows()..][rows].fill(weight);
        }
        let weights = Tensor::from_vec(weights, (positions.examples(), positions.rows()), device)?;
        Ok(Pooled::Weighted(weights.to_dtype(hidden.dtype())?))
    }
}

impl Pooled {
    /// One row for each text, made from one of its tokens or from all.
    fn positions(&self, texts: usize) -> candle_core::Result<Positions> {
        let positions = Positions::single(texts);
        match self {
            Self::Rows(rows) => {
                let rows = rows.to_device(&Device::Cpu)?.to_vec1::<u32>()?;
                Ok(positions.at_places(rows.into_iter().map(|row| row as usize)))
            }
            Self::Weighted(_) => Ok(positions),
        }
    }

    /// `[R, D]` to `[B, D]`.
    fn forward(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Rows(rows) => hidden.index_select(rows, 0),
            Self::Weighted(weights) => weights.matmul(hidden),
        }
    }

    /// The gradient at the hidden states, `[R, D]`, of one at the pooled vectors.
    fn backward(&self, hidden: &Tensor, gradient: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Rows(rows) => hidden.zeros_like()?.index_add(rows, gradient, 0),
            Self::Weighted(weights) => weights.t()?.contiguous()?.matmul(gradient),
        }
    }
}

impl Head for Sequence {
    fn differentiate(
        &self,
        hidden: &Tensor,
        batch: &Batch,
        objective: Objective,
        taps: &TapRecorder,
    ) -> Result<(Vec<f64>, Tensor), Error> {
        let pooled = self.pooling.of(hidden, batch)?;
        let steps = self.steps.get()?;
        // the layers behind the pooling have one row for each text
        let taps = taps.at(&Arc::new(pooled.positions(batch.positions.examples())?));
        let x = pooled.forward(hidden)?;
        let section = Taped(|x: &Traced, taps: &TapRecorder| steps.trace(x, taps));
        let (outputs, back) = section.differentiable(&x, Gradient::Wanted, &taps)?;
        let (values, gradient) = loss_of_outputs(&outputs, batch, self.squared_error, objective)?;
        let gradient = match back(gradient)? {
            Some(gradient) => gradient,
            None => x.zeros_like()?,
        };
        Ok((values, pooled.backward(hidden, &gradient)?))
    }

    fn gauss_newton(
        &self,
        (hidden, moving): Moving,
        batch: &Batch,
        directions: &Directions,
        taps: &TapRecorder,
    ) -> Result<Tensor, Error> {
        let (pooled, count) = (self.pooling.of(&hidden, batch)?, directions.count());
        let steps = self.steps.get()?;
        let positions = Arc::new(Positions::single(batch.positions.examples()));
        let x = pooled.forward(&hidden)?;
        let each = |stacked: &Tensor, f: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| {
            let rows = stacked.dim(0)? / count.max(1);
            let parts = (0..count).map(|q| f(&stacked.narrow(0, q * rows, rows)?.contiguous()?));
            Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)
        };
        let moving = moving.map(|moving| each(&moving, &|moving| pooled.forward(moving))).transpose()?;
        let section = Taped(|x: &Traced, taps: &TapRecorder| steps.trace(x, taps));
        let outputs = section.tangents(&x, moving, &TapRecorder::along(directions.clone()).at(&positions))?;
        let product = hessian_of_outputs(outputs, batch, self.squared_error)?;
        let (_, back) = section.differentiable(&x, Gradient::Wanted, &taps.at(&positions))?;
        let gradient = match back(product)? {
            Some(gradient) => gradient,
            None => Tensor::cat(&vec![x.zeros_like()?; count], 0)?,
        };
        Ok(each(&gradient, &|gradient| pooled.backward(&hidden, gradient))?)
    }

    fn logits(&self, hidden: &Tensor, batch: &Batch) -> Result<Tensor, Error> {
        let pooled = self.pooling.of(hidden, batch)?.forward(hidden)?;
        Ok(self.steps.get()?.trace(&Traced::constant(pooled), &TapRecorder::default())?.value().clone())
    }

    fn check(&self) -> Result<(), LoadError> {
        self.steps.check()
    }
}
