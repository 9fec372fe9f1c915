//! The learning rate of every step of a stage of training, and the sums of them that Source needs.

use std::ops::Range;

use super::TrajectoryError;

/// Steps that a stage has at most: ten times as many as the longest known runs. Sums go through every step, and
/// readers allocate for each.
pub const MAX_STEPS: usize = 10_000_000;

/// The learning rate that every optimizer step used.
///
/// Step `k = 0, 1, …` counts updates, not micro-batches; checkpoint `s` is the state after `s` updates, so the
/// steps between checkpoints `r` and `s` are `r..s`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRates {
    // Ascending first steps, the first 0; every step its own piece when rates were given step by step.
    starts: Vec<usize>,
    values: Vec<f64>,
    n_steps: usize,
}

impl StepRates {
    /// One rate for each step.
    ///
    /// # Errors
    /// No step; a rate that is negative, NaN or infinite.
    pub fn per_step(rates: Vec<f64>) -> Result<Self, TrajectoryError> {
        let n_steps = rates.len();
        // Runs of equal rates are one piece: constant schedules of a million steps stay small.
        let (mut starts, mut values) = (Vec::new(), Vec::<f64>::new());
        for (step, rate) in rates.into_iter().enumerate() {
            if values.last() != Some(&rate) {
                starts.push(step);
                values.push(rate);
            }
        }
        Self::piecewise(starts.into_iter().zip(values).collect(), n_steps)
    }

    /// Rates that hold from a step on until the next piece.
    ///
    /// # Errors
    /// No step, or more than [`MAX_STEPS`]; the first piece does not start at 0; pieces out of order or beyond the
    /// end; a bad rate.
    pub fn piecewise(pieces: Vec<(usize, f64)>, n_steps: usize) -> Result<Self, TrajectoryError> {
        let Some(&(first, _)) = pieces.first().filter(|_| n_steps > 0) else {
            return Err(TrajectoryError::NoSteps);
        };
        if n_steps > MAX_STEPS {
            return Err(TrajectoryError::TooManySteps { n_steps });
        }
        if first != 0 {
            return Err(TrajectoryError::RatesStartLate { start: first });
        }
        for (i, &(start, rate)) in pieces.iter().enumerate() {
            if !rate.is_finite() || rate < 0.0 {
                return Err(TrajectoryError::Rate { step: start, rate });
            }
            let previous = if i == 0 { 0 } else { pieces[i - 1].0 };
            if (i > 0 && start <= previous) || start >= n_steps {
                return Err(TrajectoryError::RatePieceOrder { start, previous, n_steps });
            }
        }
        let (starts, values) = pieces.into_iter().unzip();
        Ok(Self { starts, values, n_steps })
    }

    /// Number of steps.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// The rate of step `k`, or `None` past the end.
    pub fn rate(&self, k: usize) -> Option<f64> {
        (k < self.n_steps).then(|| self.values[self.piece(k)])
    }

    /// Every step's rate in order.
    pub fn iter(&self) -> impl Iterator<Item = f64> + '_ {
        self.pieces(0..self.n_steps).flat_map(|(steps, rate)| std::iter::repeat_n(rate, steps.len()))
    }

    /// `Σ η` over the steps of `range` that exist, to the last bit or two (compensated).
    pub fn sum(&self, range: Range<usize>) -> f64 {
        self.weighted_sum(range, |_| 1.0)
    }

    /// `Σ η_k f(k)` over the steps of `range` that exist; `f` is asked for every step.
    pub fn weighted_sum(&self, range: Range<usize>, f: impl Fn(usize) -> f64) -> f64 {
        let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
        for (steps, rate) in self.pieces(range) {
            for k in steps {
                let term = rate * f(k);
                let next = sum + term;
                lost += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
                sum = next;
            }
        }
        sum + lost
    }

    /// Steps at which the rate falls from one plateau to another: to at most 0.8 times the rate, with the rate
    /// constant over at least two steps on either side. Smooth schedules have none.
    pub fn drops(&self) -> Vec<usize> {
        let end = |i: usize| self.starts.get(i + 1).copied().unwrap_or(self.n_steps);
        (1..self.starts.len())
            .filter(|&i| {
                let long = |j: usize| end(j) - self.starts[j] >= 2;
                long(i - 1) && long(i) && self.values[i] <= 0.8 * self.values[i - 1]
            })
            .map(|i| self.starts[i])
            .collect()
    }

    fn piece(&self, k: usize) -> usize {
        self.starts.partition_point(|&start| start <= k) - 1
    }

    /// The pieces that meet `range`, cut to it.
    fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, f64)> + '_ {
        let range = range.start..range.end.min(self.n_steps);
        let first = if range.is_empty() { self.starts.len() } else { self.piece(range.start) };
        (first..self.starts.len())
            .map(move |i| {
                let end = self.starts.get(i + 1).copied().unwrap_or(self.n_steps);
                (self.starts[i].max(range.start)..end.min(range.end), self.values[i])
            })
            .take_while(|(steps, _)| !steps.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_steps_are_the_same_rates() {
        let pieces = StepRates::piecewise(vec![(0, 0.1), (3, 0.03), (5, 0.0)], 7).unwrap();
        let steps = StepRates::per_step(vec![0.1, 0.1, 0.1, 0.03, 0.03, 0.0, 0.0]).unwrap();
        assert_eq!(pieces, steps);
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [0.1, 0.1, 0.1, 0.03, 0.03, 0.0, 0.0]);
        assert_eq!(
            (pieces.rate(2), pieces.rate(4), pieces.rate(6), pieces.rate(7)),
            (Some(0.1), Some(0.03), Some(0.0), None)
        );
        // 0.1 + 0.1 + 0.03: within an ulp of the decimal.
        assert!((pieces.sum(1..4) - 0.23).abs() < 1e-16);
        assert_eq!(pieces.sum(5..5), 0.0);
        assert_eq!(pieces.sum(6..99), 0.0);
        assert!((pieces.weighted_sum(0..4, |k| k as f64) - (0.1 + 0.2 + 0.09)).abs() < 1e-16);
        assert_eq!(pieces.drops(), [3, 5]);
    }

    #[test]
    fn smooth_schedules_have_no_drops() {
        let linear = StepRates::per_step((0..50).map(|k| (50 - k) as f64).collect()).unwrap();
        assert!(linear.drops().is_empty());
    }

    #[test]
    fn bad_rates_name_their_step() {
        let error = |rates| StepRates::per_step(rates).unwrap_err().to_string();
        assert_eq!(error(vec![0.1, f64::NAN]), "the learning rate of step 1 is NaN");
        assert_eq!(error(vec![0.1, 0.1, -0.5]), "the learning rate of step 2 is -0.5");
        assert_eq!(error(vec![f64::INFINITY]), "the learning rate of step 0 is inf");
        let long = StepRates::piecewise(vec![(0, 0.1)], 1_000_000_000_000).unwrap_err().to_string();
        assert_eq!(long, "training has 1000000000000 steps, more than the 10000000 that are read");
        assert_eq!(error(vec![]), "there are no learning rates: training has no steps");
        let error = |pieces| StepRates::piecewise(pieces, 10).unwrap_err();
        assert_eq!(error(vec![(2, 0.1)]), TrajectoryError::RatesStartLate { start: 2 });
        assert!(matches!(error(vec![(0, 0.1), (4, 0.1), (4, 0.2)]), TrajectoryError::RatePieceOrder { start: 4, .. }));
        assert!(matches!(error(vec![(0, 0.1), (10, 0.1)]), TrajectoryError::RatePieceOrder { start: 10, .. }));
    }
}
