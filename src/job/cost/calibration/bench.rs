//! A differentiation of the miniature with a sink, repeated until its time says how fast both are.
//!
//! Other guests of a shared machine slow everything down for seconds at a time. So each kind of work is measured twice,
//! all other kinds in between, and what counts is its fastest run.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::super::count::WorkKind;
use super::super::miniature::Miniature;
use super::super::stages;
use super::super::work::{self, BatchShape, Layers, NetworkShape};
use crate::curvature::gemm::{Products, Real};
use crate::curvature::{
    BlockDiagonal, BlockWidth, Eigenbasis, Eigenpairs, Error, LayerSide, LayerSpec, Matrix, Network, Objective,
    SharedInputs, Tap, TapSink,
};
use crate::data::{self, Batch};
use crate::job::brief::data::InBatches;
use crate::job::error::JobError;
use crate::job::plan::Plan;
use crate::model::Model;

/// Time that each kind of work is given in the first round; half of it in the second. Scores read all query vectors for
/// every batch: theirs has to be large until that is little.
const SHARE: Duration = Duration::from_millis(200);
const SCORES: Duration = Duration::from_millis(640);

/// Most repetitions of one measurement.
const REPEATS: usize = 40;

/// How many times as large as the batch before the next one is at most.
const GROWTH: usize = 8;

/// What measurements share.
pub(super) struct Bench<'a> {
    pub plan: &'a Plan,
    pub model: &'a Model,
    pub miniature: &'a Miniature,
    pub network: NetworkShape,
    pub memory: f64,
    /// The fastest runs of passes over examples, by kind of work.
    pub fastest: BTreeMap<WorkKind, Fastest>,
    pub truncations: Timing,
    /// Numbers that are added to sums in 64 bits.
    pub sums: Timing,
}

/// Operations, and the seconds that they took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    pub operations: f64,
    pub seconds: f64,
}

impl Timing {
    /// Operations a second; 0 if there was nothing to do.
    pub(super) fn rate(self) -> f64 {
        if self.seconds > 0.0 { self.operations / self.seconds } else { 0.0 }
    }

    /// A timing of `operations` that were done since `start`.
    pub(super) fn since(start: Instant, operations: f64) -> Self {
        Self { operations, seconds: start.elapsed().as_secs_f64().max(1e-9) }
    }

    /// Operations and seconds of both runs, added up.
    pub(super) fn and(self, other: Self) -> Self {
        Self { operations: self.operations + other.operations, seconds: self.seconds + other.seconds }
    }

    /// The run at the higher rate.
    pub(super) fn faster(self, other: Self) -> Self {
        if other.rate() > self.rate() { other } else { self }
    }
}

/// The fastest runs of one kind of work with its largest batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fastest {
    rows: usize,
    /// Timing of the differentiation, without what the sink took.
    pub model: Timing,
    pub sink: Timing,
}

/// A sink, and how long it took.
struct Timed<'a> {
    sink: &'a mut dyn TapSink,
    seconds: f64,
}

impl TapSink for Timed<'_> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let start = Instant::now();
        let done = self.sink.tap(tap);
        self.seconds += start.elapsed().as_secs_f64();
        done
    }
}

fn share(kind: WorkKind) -> Duration {
    if kind == WorkKind::Scores { SCORES } else { SHARE }
}

/// A batch that was differentiated.
#[derive(Debug, Clone, Copy)]
struct Tried {
    rows: usize,
    seconds: f64,
}

/// Rows of a batch that takes most of the seconds that are left; none if the last one has become large enough. What a
/// batch costs whatever its size, such as reading all query vectors, is told apart by comparing two.
fn larger(tried: &[Tried], left: f64) -> Option<usize> {
    let (first, last) = (tried.first()?, tried.last()?);
    if tried.len() == 1 {
        // twice, since the first run is the slowest
        return Some((2.0 * left / last.seconds * last.rows as f64) as usize);
    }
    if last.seconds > left / 2.0 {
        return None;
    }
    let growth = (last.rows - first.rows) as f64;
    let of_row = if growth > 0.0 { (last.seconds - first.seconds).max(0.0) / growth } else { 0.0 };
    let more = (0.8 * left - last.seconds) / of_row;
    Some(last.rows + (more as usize).min((GROWTH - 1) * last.rows))
}

impl<'a> Bench<'a> {
    pub(super) fn layers(&self) -> &'a [LayerSpec] {
        self.model.layers()
    }

    /// The layers with the rows that they see.
    pub(super) fn seeing(&self) -> Layers<'a> {
        Layers { specs: self.model.layers(), rows: self.model.layer_rows() }
    }

    /// The arithmetic of the job's products.
    pub(super) fn products(&self) -> Products {
        self.model.products()
    }

    /// The first examples of the last stage that are at most so many positions together, and at least one.
    fn batch(&self, examples: InBatches<'_>, at_most: usize) -> (Batch, BatchShape) {
        let positions = at_most.min(examples.batch_tokens);
        let range = data::batches(examples.dataset, 0..examples.dataset.len(), positions).next().unwrap_or(0..0);
        let shape = stages::shape(examples.dataset, range.clone());
        (self.miniature.batch(data::batch(examples.dataset, range)), shape)
    }

    pub(super) fn train(&self) -> InBatches<'a> {
        self.plan.in_batches(self.plan.train())
    }

    /// One differentiation: seconds of the model and of the sink.
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        sink: &mut dyn TapSink,
    ) -> Result<(f64, f64), JobError> {
        let mut timed = Timed { sink, seconds: 0.0 };
        let start = Instant::now();
        self.model.differentiate(batch, objective, &mut timed)?;
        let sink = timed.seconds;
        Ok(((start.elapsed().as_secs_f64() - sink).max(1e-9), sink.max(1e-9)))
    }

    /// Starts threads and touches memory.
    pub(super) fn warm_up(&self) -> Result<(), JobError> {
        let (batch, _) = self.batch(self.train(), 1);
        self.differentiate(&batch, Objective::TrainingLoss, &mut ())?;
        Ok(())
    }

    /// Repeats a differentiation with a sink until its share of the time is used, first with one example, then with
    /// batches that grow; keeps the fastest run of the largest, of the model and of the sink by itself. Called again, it
    /// repeats the largest batch. `of` gives the sink's operations for a batch, and seconds that are not theirs.
    pub(super) fn repeat(
        &mut self,
        kind: WorkKind,
        examples: InBatches<'_>,
        objective: Objective,
        sink: &mut dyn TapSink,
        of: impl Fn(&BatchShape) -> (u128, f64),
    ) -> Result<(), JobError> {
        let graphs = self.plan.training.networks.options().graphs;
        let start = Instant::now();
        let before = self.fastest.get(&kind).copied();
        let share = if before.is_some() { share(kind) / 2 } else { share(kind) };
        let (mut batch, mut shape) = self.batch(examples, before.map_or(1, |fastest| fastest.rows));
        let mut fastest = before.unwrap_or_default();
        let mut tried: Vec<Tried> = vec![];
        loop {
            let (model, took) = self.differentiate(&batch, objective, sink)?;
            let (operations, other) = of(&shape);
            let passes = work::pass(self.network, &shape, graphs);
            let of_model = Timing { operations: passes as f64, seconds: model };
            let of_sink = Timing { operations: operations as f64, seconds: (took - other).max(0.3 * took) };
            fastest =
                Fastest { rows: shape.rows, model: fastest.model.faster(of_model), sink: fastest.sink.faster(of_sink) };
            tried.push(Tried { rows: shape.rows, seconds: model + took });
            let left = share.saturating_sub(start.elapsed()).as_secs_f64();
            if left <= 0.4 * (model + took) || tried.len() > REPEATS {
                break;
            }
            if before.is_none()
                && let Some(rows) = larger(&tried, left)
            {
                let (next, of_next) = self.batch(examples, rows);
                if of_next.rows > shape.rows || tried.len() == 1 {
                    // the first run is the slowest, and in small batches what every batch costs anew hides the rest
                    (batch, shape, fastest) = (next, of_next, Fastest::default());
                }
            }
        }
        self.fastest.insert(kind, fastest);
        Ok(())
    }
}

/// Matrices in the place of eigenvectors; layers of a group share those of their inputs.
pub(super) fn invented_bases<T: Real>(layers: &[LayerSpec], width: BlockWidth) -> Vec<Option<Eigenbasis<T>>> {
    let pairs = |of: LayerSide| {
        let n = of.size(layers);
        let numbers = |n: usize| (0..n * n).map(|k| T::of(((k * 2_654_435_761) % 1009) as f64 / 504.5 - 1.0)).collect();
        let blocks = width
            .at(&layers[of.layer], of.side)
            .groups(n)
            .map(|group| Matrix::new(numbers(group.len()), group.len(), group.len()));
        Ok(Eigenpairs { vectors: BlockDiagonal::new(blocks.collect()), values: vec![1.0; n], clipped: 0 })
    };
    Eigenbasis::of_pairs(layers, SharedInputs::Shared, &[], pairs).unwrap_or_else(|never: Infallible| match never {})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches that are tried while each takes so long; the last is the one that counts.
    fn tried(kind: WorkKind, seconds: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut left = share(kind).as_secs_f64();
        let (mut found, mut rows) = (vec![], 1);
        loop {
            found.push(Tried { rows, seconds: seconds(rows) });
            left -= seconds(rows);
            if left <= 0.4 * seconds(rows) || found.len() > REPEATS {
                return found.iter().map(|tried| tried.rows).collect();
            }
            if let Some(next) = larger(&found, left) {
                rows = next.max(rows);
            }
        }
    }

    #[test]
    fn what_a_batch_costs_anyway_is_a_small_part_of_the_largest() {
        // 20 ms for each batch, 0.4 ms for each row: W3's query vectors and products
        let cost = |rows: usize| 0.02 + 4e-4 * rows as f64;
        let rows = tried(WorkKind::Scores, cost);
        let largest = rows.last().copied().unwrap_or(0);
        assert!(0.02 / cost(largest) < 0.1, "{rows:?}");
        assert!(rows.iter().map(|&rows| cost(rows)).sum::<f64>() < 0.9, "{rows:?}");
    }

    #[test]
    fn work_in_proportion_to_its_rows_is_guessed_at_once() {
        let rows = tried(WorkKind::Passes, |rows| 1e-3 * rows as f64);
        assert!(rows.len() <= 3 && rows.last().is_some_and(|&rows| rows > 300), "{rows:?}");
        // one row takes nearly all of the time: it is not repeated
        assert_eq!(tried(WorkKind::Passes, |rows| 0.3 * rows as f64), [1]);
    }
}
