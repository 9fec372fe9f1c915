//! Sums of scores over checkpoints, legs and stages in memory: the definition of what a job sums on disk, and what callers of
//! the library use.

/// Scores summed over checkpoints, legs and stages in `f64`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreSum {
    queries: usize,
    scores: Vec<f64>,
}

impl ScoreSum {
    /// Zero for every pair.
    pub fn new(examples: usize, queries: usize) -> Self {
        Self { queries, scores: vec![0.0; examples * queries] }
    }

    /// Adds `scores: [places, Q]`; `places` says which example of the sum each row is. Stages with data of their own
    /// have places of their own.
    pub fn add(&mut self, places: impl IntoIterator<Item = usize>, scores: &[f64]) {
        for (place, row) in places.into_iter().zip(scores.chunks_exact(self.queries)) {
            let sum = &mut self.scores[place * self.queries..(place + 1) * self.queries];
            sum.iter_mut().zip(row).for_each(|(sum, score)| *sum += score);
        }
    }

    /// `[examples, Q]`: predicted change of each query's measurement in its own unit, for one more copy of the example
    /// in every stage that has it.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }
}
