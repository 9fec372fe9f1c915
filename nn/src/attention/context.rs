//! What an attention op keeps from its forward pass for its backward pass.

use candle_core::{Result, Tensor};

use super::between::Between;
use super::shape::Attention;
use crate::rotation::RopeTables;
use ascribe_curvature::{Positions, with_slice};

/// What forward and backward pass need beside the tensors.
pub(super) struct Context {
    pub(super) attention: Attention,
    pub(super) queries: Positions,
    pub(super) keys: Positions,
    pub(super) rope: Option<RopeTables>,
    bias: Option<Tensor>,
}

/// What is added to the scores of each head, `[H, T, S]` row by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bias<'a> {
    data: &'a [f32],
    queries: usize,
    keys: usize,
}

impl Context {
    /// # Errors
    /// If the bias cannot be made contiguous.
    pub(super) fn new(attention: &Attention, between: Between<'_>) -> Result<Self> {
        let Between { queries, keys, rope, bias } = between;
        Ok(Self {
            attention: attention.clone(),
            queries: queries.clone(),
            keys: keys.clone(),
            rope: rope.cloned(),
            bias: bias.map(Tensor::contiguous).transpose()?,
        })
    }

    /// Lends the bias.
    ///
    /// # Errors
    /// If it is not of `f32`.
    pub(super) fn with_bias<R>(&self, f: impl FnOnce(Option<Bias<'_>>) -> R) -> Result<R> {
        let Some(bias) = &self.bias else { return Ok(f(None)) };
        let (_, queries, keys) = bias.dims3()?;
        with_slice(bias, |data| f(Some(Bias { data, queries, keys })))
    }
}

impl<'a> Bias<'a> {
    /// What is added to the scores of a query with the keys `seen`.
    pub(super) fn row(self, head: usize, query: usize, seen: std::ops::Range<usize>) -> &'a [f32] {
        let first = (head * self.queries + query) * self.keys;
        &self.data[first + seen.start..first + seen.end]
    }
}
