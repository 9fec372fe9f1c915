//! Embeddings of relative positions as rows of the examples of a batch: each example has those that its length reaches,
//! below its hidden states.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, WithDType};

use super::distances::{Reach, RelativeDistances};
use crate::implementation::elements;
use ascribe_curvature::{Positions, TangentRule, Traced};

/// The rows of a batch whose examples have embeddings of relative positions beside hidden states.
///
/// A layer that reads both reads, of each example, hidden states first and then the embeddings of the distances between
/// its tokens: an example's gradient is that of its own rows.
#[derive(Debug)]
pub struct RelativeRows {
    hidden: Positions,
    relative: Arc<Positions>,
    joined: Arc<Positions>,
    /// Of each example.
    reaches: Vec<Arc<Reach>>,
    /// Where hidden states and relative rows stand among the joined rows, and the other way round: joined row `r` is row
    /// `order[r]` of hidden states with the relative rows below.
    hidden_at: Vec<u32>,
    relative_at: Vec<u32>,
    order: Vec<u32>,
}

impl RelativeRows {
    /// The rows of a batch with these positions.
    pub fn new(distances: RelativeDistances, positions: &Positions) -> Self {
        let mut by_length = BTreeMap::new();
        let reaches: Vec<Arc<Reach>> = positions
            .iter()
            .map(|rows| by_length.entry(rows.len()).or_insert_with(|| Arc::new(distances.reach(rows.len()))).clone())
            .collect();
        let relative = Positions::from_lengths(reaches.iter().map(|reach| reach.rows.len()));
        let joined = Positions::from_lengths(positions.iter().zip(&reaches).map(|(rows, r)| rows.len() + r.rows.len()));
        let (mut order, mut places) = (Vec::with_capacity(joined.rows()), Vec::with_capacity(joined.rows()));
        for (hidden, relative) in positions.iter().zip(relative.iter()) {
            order.extend(hidden.clone().map(|row| row as u32));
            places.extend(hidden.map(|row| positions.places().map_or(row, |places| places[row])));
            places.extend(relative.clone().map(|_| Positions::NOWHERE));
            order.extend(relative.map(|row| (positions.rows() + row) as u32));
        }
        let (mut hidden_at, mut relative_at) = (vec![], vec![]);
        for (joined, &row) in order.iter().enumerate() {
            let at = if (row as usize) < positions.rows() { &mut hidden_at } else { &mut relative_at };
            at.push(joined as u32);
        }
        let nowhere = vec![Positions::NOWHERE; relative.rows()];
        Self {
            hidden: positions.clone(),
            relative: Arc::new(relative.at_places(nowhere)),
            joined: Arc::new(joined.at_places(places)),
            reaches,
            hidden_at,
            relative_at,
            order,
        }
    }

    /// Whose the rows of hidden states are.
    pub fn hidden(&self) -> &Positions {
        &self.hidden
    }

    /// Whose the relative rows are, where they stand by themselves.
    pub fn relative(&self) -> &Arc<Positions> {
        &self.relative
    }

    /// Whose the rows are where the relative ones of each example stand below its hidden states.
    pub fn joined(&self) -> &Arc<Positions> {
        &self.joined
    }

    pub(super) fn reach(&self, example: usize) -> &Reach {
        &self.reaches[example]
    }

    /// The relative rows of all examples from the table of embeddings, `[rows of the table, D]`.
    ///
    /// # Errors
    /// If the table has fewer rows than there are distances.
    pub fn of_table(&self, table: &Tensor) -> Result<Tensor> {
        let rows: Vec<u32> = self.reaches.iter().flat_map(|reach| reach.rows.iter().copied()).collect();
        table.index_select(&Tensor::from_vec(rows, self.relative.rows(), table.device())?, 0)
    }

    /// Each example's rows of `hidden`, `[R, D]`, and below them its rows of `relative`, `[M, D]`: `[R + M, D]`.
    ///
    /// # Errors
    /// If the shapes do not fit each other or the positions.
    pub fn trace_joined(self: &Arc<Self>, hidden: &Traced, relative: &Traced) -> Result<Traced> {
        let (above, below) = (hidden.value(), relative.value());
        let width = above.dim(1)?;
        for (name, x, rows) in
            [("hidden states", above, self.hidden.rows()), ("relative rows", below, self.relative.rows())]
        {
            if x.dims() != [rows, width] {
                candle_core::bail!("{name} of the shape {:?}, expected {:?}", x.dims(), [rows, width]);
            }
        }
        let join = |[above, below]: [&Tensor; 2]| {
            let order = Tensor::from_slice(&self.order, self.order.len(), above.device())?;
            Tensor::cat(&[above, below], 0)?.index_select(&order, 0)
        };
        let tangent = |_: [&Tensor; 2], moving: [&Tensor; 2]| join(moving);
        let rule = TangentRule::Each(&tangent);
        if above.device().is_cpu() {
            return hidden.op2_with(relative, Join(self.clone()), rule);
        }
        Traced::composed_with([hidden, relative], join, rule)
    }
}

/// The rows of two matrices in one, on the CPU.
struct Join(Arc<RelativeRows>);

impl Join {
    fn rows<T: WithDType>(&self, above: &[T], below: &[T], width: usize) -> Vec<T> {
        let hidden = self.0.hidden.rows();
        let mut joined = Vec::with_capacity(above.len() + below.len());
        for &row in &self.0.order {
            let (from, row) = match row as usize {
                row if row < hidden => (above, row),
                row => (below, row - hidden),
            };
            joined.extend_from_slice(&from[row * width..(row + 1) * width]);
        }
        joined
    }
}

impl CustomOp2 for Join {
    fn name(&self) -> &'static str {
        "join-relative-rows"
    }

    fn cpu_fwd(
        &self,
        above: &CpuStorage,
        above_layout: &Layout,
        below: &CpuStorage,
        below_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = above_layout.shape().dims2()?;
        let shape = (self.0.order.len(), width).into();
        let joined = match above {
            CpuStorage::F64(_) => {
                CpuStorage::F64(self.rows(elements(above, above_layout)?, elements(below, below_layout)?, width))
            }
            _ => CpuStorage::F32(self.rows(elements(above, above_layout)?, elements(below, below_layout)?, width)),
        };
        Ok((joined, shape))
    }

    fn bwd(
        &self,
        _above: &Tensor,
        _below: &Tensor,
        _joined: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let rows = |at: &[u32]| gradient.index_select(&Tensor::from_slice(at, at.len(), &Device::Cpu)?, 0).map(Some);
        Ok((rows(&self.0.hidden_at)?, rows(&self.0.relative_at)?))
    }
}
