//! Passes of a network over a range of examples: which batches there are, and who gets their taps.

use std::ops::Range;
use std::time::{Duration, Instant};

use ascribe_curvature::{LabelDraw, Network, Objective, TapSink};

use crate::{Error, Event, Observer, Pass};

/// Examples that a network can be given in batches.
///
/// Where batches end depends on the data and on the start of the range alone, so that the same job
/// rounds in the same way however often it was interrupted.
pub trait Examples<B>: Sync {
    /// Number of examples.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of one example.
    fn positions(&self, example: usize) -> usize;

    /// The end of the batch that starts at `start` and may not go beyond `end`; greater than `start`.
    fn batch_end(&self, start: usize, end: usize) -> usize;

    /// The examples of a range, together.
    ///
    /// # Errors
    /// If they cannot be read.
    fn batch(&self, range: Range<usize>) -> Result<B, Error>;
}

/// Which labels the curvature is taken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelMode {
    /// Labels drawn from the model: the true Fisher, estimated.
    Sampled {
        /// The run's seed.
        seed: u64,
        /// Draws for each position, averaged; at least 1.
        draws: u32,
    },
    /// The labels of the data: the empirical Fisher.
    Empirical,
    /// The expectation over all classes of a classifier: the true Fisher, exactly.
    Exact {
        /// Number of classes.
        classes: usize,
    },
}

impl LabelMode {
    /// What has to be differentiated for each example; the squares are averaged over these.
    pub fn objectives(self, stream: u32) -> Vec<Objective> {
        match self {
            Self::Sampled { seed, draws } => {
                (0..draws).map(|draw| Objective::SampledLoss(LabelDraw { seed, stream, draw })).collect()
            }
            Self::Empirical => vec![Objective::TrainingLoss],
            Self::Exact { classes } => (0..classes).map(|class| Objective::ExpectedLoss { class }).collect(),
        }
    }
}

/// Positions after which a pass flushes its sums and may save them.
pub const CHUNK_POSITIONS: usize = 16_384;

/// How often progress is saved at most.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// One sweep over a range of examples in batches, grouped into chunks; sums are flushed and progress is
/// saved at ends of chunks only.
pub struct Sweep<'a, N: Network> {
    /// The model.
    pub network: &'a N,
    /// The data.
    pub examples: &'a dyn Examples<N::Batch>,
    /// The range of the examples that the pass visits.
    pub range: Range<usize>,
    /// For events.
    pub pass: Pass,
    /// Who is told.
    pub observer: &'a dyn Observer,
}

impl<N: Network> std::fmt::Debug for Sweep<'_, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweep").field("pass", &self.pass).field("range", &self.range).finish_non_exhaustive()
    }
}

/// What a sweep does with the end of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkEnd {
    /// Examples of the chunk.
    pub examples: Range<usize>,
    /// Whether it is time to save, or the range is done.
    pub save: bool,
}

impl<N: Network> Sweep<'_, N> {
    /// Runs from `start` (the range's own, or where an earlier run stopped) to the range's end.
    ///
    /// For every batch, `batch` gets its range and the batch; at the end of a chunk `end` is called.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the observer asks to stop; the network's, the closures'.
    pub fn run<S>(
        &self,
        start: usize,
        state: &mut S,
        batch: impl FnMut(&mut S, Range<usize>, &N::Batch) -> Result<(), Error>,
        end: impl FnMut(&mut S, ChunkEnd) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.run_repeated(start, 1, state, batch, end)
    }

    /// [`Sweep::run`] where every position enters the sums `repeats` times: chunks are shorter then, so
    /// that as few numbers as before are added up in the run's own type.
    fn run_repeated<S>(
        &self,
        start: usize,
        repeats: usize,
        state: &mut S,
        mut batch: impl FnMut(&mut S, Range<usize>, &N::Batch) -> Result<(), Error>,
        mut end: impl FnMut(&mut S, ChunkEnd) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (pass, done) = (self.pass, (start - self.range.start) as u64);
        self.observer.event(Event::Started { pass, done, total: self.range.len() as u64 });
        let (mut next, mut saved) = (start, Instant::now());
        while next < self.range.end {
            let chunk_start = next;
            let mut positions = 0;
            while next < self.range.end && positions < CHUNK_POSITIONS.div_ceil(repeats.max(1)) {
                if self.observer.interrupted() {
                    return Err(Error::Interrupted);
                }
                let range = next..self.examples.batch_end(next, self.range.end);
                positions += range.clone().map(|example| self.examples.positions(example)).sum::<usize>();
                batch(state, range.clone(), &self.examples.batch(range.clone())?)?;
                next = range.end;
                self.observer.event(Event::Advanced { pass, units: range.len() as u64 });
            }
            // who asks to stop at the end of a chunk loses nothing
            let due = saved.elapsed() >= SAVE_INTERVAL || self.observer.interrupted();
            let save = due || next == self.range.end;
            end(state, ChunkEnd { examples: chunk_start..next, save })?;
            if save {
                saved = Instant::now();
            }
        }
        self.observer.event(Event::Finished { pass });
        Ok(())
    }

    /// Differentiates every batch for each of `objectives` into one sink.
    ///
    /// # Errors
    /// As [`Sweep::run`].
    pub fn differentiate<S: TapSink>(
        &self,
        start: usize,
        objectives: &[Objective],
        sink: &mut S,
        end: impl FnMut(&mut S, ChunkEnd) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let batch = |sink: &mut S, _: Range<usize>, batch: &N::Batch| {
            for &objective in objectives {
                self.network.differentiate(batch, objective, sink)?;
            }
            Ok(())
        };
        self.run_repeated(start, objectives.len(), sink, batch, end)
    }
}
