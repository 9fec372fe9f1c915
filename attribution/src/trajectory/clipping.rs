//! What gradient clipping does to rates, as far as logged gradient norms tell.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::within;
use super::{StepRates, TrajectoryError};

/// What gradient clipping multiplied each step's rate by: `min(1, max_norm / ‖gradient‖)`.
///
/// A log usually has the norm of some steps only; between them the factor is interpolated linearly, before the
/// first and after the last it is held.
///
/// # Source
/// `docs/method.md`, Source (loss scale).
#[derive(Debug, Clone, PartialEq)]
pub struct Clipping {
    factors: Vec<f64>,
    max_norm: f64,
    /// Ascending by step.
    norms: Vec<(usize, f64)>,
}

/// How sure an interval of clipped sums is to hold, if the logged steps are like any others.
const CONFIDENCE: f64 = 0.95;

/// How far a norm that was not logged may lie beyond the logged norms of its segment.
const BEYOND: f64 = 2.0;

/// Standard errors of the interpolation's own error in an interval, for the same confidence.
const STANDARD_ERRORS: f64 = 2.0;

impl Clipping {
    /// Factors of `n_steps` steps from logged norms.
    ///
    /// `norms`: (step counted from 0, gradient norm before clipping), ascending by step.
    ///
    /// # Errors
    /// A norm that is negative or NaN, or no norm at all. An infinite norm is a factor of 0.
    pub fn from_norms(max_norm: f64, norms: &[(usize, f64)], n_steps: usize) -> Result<Self, TrajectoryError> {
        within("max_grad_norm", max_norm, "a number above 0", |m| m > 0.0)?;
        let mut known = Vec::with_capacity(norms.len());
        for &(step, norm) in norms {
            if norm.is_nan() || norm < 0.0 {
                return Err(TrajectoryError::OutOfRange { name: "grad_norm", value: norm, expected: "at least 0" });
            }
            known.push((step, (max_norm / norm).min(1.0)));
        }
        let Some(&(first, _)) = known.first() else {
            return Err(TrajectoryError::OutOfRange {
                name: "logged gradient norms",
                value: 0.0,
                expected: "one or more",
            });
        };
        let mut factors = Vec::with_capacity(n_steps);
        let mut next = 0; // the first known step that is not before k
        for k in 0..n_steps {
            while next < known.len() && known[next].0 < k {
                next += 1;
            }
            factors.push(match (next, known.get(next)) {
                (0, _) if k <= first => known[0].1,
                (_, Some(&(step, factor))) if step == k => factor,
                (_, Some(&(b, right))) => {
                    let (a, left) = known[next - 1];
                    left + (right - left) * (k - a) as f64 / (b - a) as f64
                }
                (_, None) => known[known.len() - 1].1,
            });
        }
        Ok(Self { factors, max_norm, norms: norms.to_vec() })
    }

    /// The factor of step `k`, in `(0, 1]`; 1 past the end.
    pub fn factor(&self, k: usize) -> f64 {
        self.factors.get(k).copied().unwrap_or(1.0)
    }

    /// Number of steps.
    pub fn n_steps(&self) -> usize {
        self.factors.len()
    }

    /// How many of the factors were logged rather than interpolated.
    pub fn n_logged(&self) -> usize {
        self.norms.len()
    }

    /// Between which numbers `Σ η f` over `steps` lies; `None` where every step's norm was logged, or no rate is above
    /// zero: then the sum is exact.
    ///
    /// Three things are added. Norms scatter about the line between logged ones: their scatter is taken from how well
    /// each logged factor is interpolated by its neighbours, and counts as independent from step to step. Norms that
    /// were not logged may lie beyond all that were: if the `n` logged steps are as good as drawn, then with a
    /// confidence of 95 % at most a share `1 - 0.05^(1/n)` of the others lies above the largest, and as many below the
    /// smallest. These are taken to lie beyond by a factor of two, and to be the steps at which that moves the sum
    /// most. No step counts more than its rate or less than nothing.
    pub fn interval(&self, rates: &StepRates, steps: Range<usize>) -> Option<(f64, f64)> {
        let steps = steps.start..steps.end.min(self.factors.len());
        let logged = |k: &usize| self.norms.binary_search_by_key(k, |&(step, _)| step).is_ok();
        let others: Vec<(usize, f64)> = steps
            .clone()
            .filter(|k| !logged(k))
            .filter_map(|k| Some((k, rates.rate(k)?)))
            .filter(|o| o.1 > 0.0)
            .collect();
        if others.is_empty() {
            return None;
        }
        let clipped = rates.weighted_sum(steps.clone(), |k| self.factor(k));
        let certain = rates.weighted_sum(steps.clone(), |k| if logged(&k) { self.factor(k) } else { 0.0 });
        let most = certain + others.iter().map(|&(_, rate)| rate).sum::<f64>();
        let scatter = STANDARD_ERRORS * self.interpolation_error(&others);
        // without a logged step of its own a segment is like its neighbours
        let inside: Vec<f64> =
            self.norms.iter().filter(|(step, _)| steps.contains(step)).map(|&(_, norm)| norm).collect();
        let seen = if inside.is_empty() { self.norms.iter().map(|&(_, norm)| norm).collect() } else { inside.clone() };
        let share = if inside.is_empty() { 1.0 } else { 1.0 - (1.0 - CONFIDENCE).powf(1.0 / inside.len() as f64) };
        let beyond = (share * others.len() as f64).ceil() as usize;
        let factor = |norm: f64| (self.max_norm / norm).min(1.0);
        let (smallest, largest) = (seen.iter().copied().reduce(f64::min)?, seen.iter().copied().reduce(f64::max)?);
        let (low, high) = (factor(BEYOND * largest), factor(smallest / BEYOND));
        let moved = |to: f64, sign: f64| {
            let mut moves: Vec<f64> =
                others.iter().map(|&(k, rate)| (sign * rate * (to - self.factor(k))).max(0.0)).collect();
            moves.sort_by(|a, b| b.total_cmp(a));
            moves.iter().take(beyond).sum::<f64>()
        };
        let lower = (clipped - scatter - moved(low, -1.0)).max(certain).min(clipped);
        let upper = (clipped + scatter + moved(high, 1.0)).min(most).max(clipped);
        Some((lower, upper))
    }

    /// The standard error of `Σ η f` over steps whose factors are interpolated, if factors scatter independently about
    /// a line: that of the steps themselves, and of the logged factors by which they were interpolated.
    fn interpolation_error(&self, others: &[(usize, f64)]) -> f64 {
        let known: Vec<(usize, f64)> = self.norms.iter().map(|&(step, _)| (step, self.factor(step))).collect();
        let residuals: Vec<f64> = known
            .array_windows::<3>()
            .filter(|[a, _, c]| c.0 > a.0)
            .map(|[a, b, c]| {
                let w = (b.0 - a.0) as f64 / (c.0 - a.0) as f64;
                let residual = b.1 - (1.0 - w) * a.1 - w * c.1;
                residual * residual / (1.0 + w * w + (1.0 - w) * (1.0 - w))
            })
            .collect();
        if residuals.is_empty() {
            return 0.0;
        }
        let variance = residuals.iter().sum::<f64>() / residuals.len() as f64;
        let (mut own, mut weights) = (0.0, BTreeMap::<usize, f64>::new());
        for &(k, rate) in others {
            own += rate * rate;
            let after = known.partition_point(|&(step, _)| step < k);
            let shares = match (after.checked_sub(1), known.get(after)) {
                (None, _) => [(0, 1.0), (0, 0.0)],
                (Some(before), None) => [(before, 1.0), (before, 0.0)],
                (Some(before), Some(&(b, _))) => {
                    let w = (k - known[before].0) as f64 / (b - known[before].0) as f64;
                    [(before, 1.0 - w), (after, w)]
                }
            };
            for (index, share) in shares {
                *weights.entry(index).or_default() += rate * share;
            }
        }
        (variance * (own + weights.values().map(|w| w * w).sum::<f64>())).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_interpolated_between_logged_norms() {
        let clipping = Clipping::from_norms(1.0, &[(1, 2.0), (3, 0.5), (4, f64::INFINITY)], 6).unwrap();
        let factors: Vec<f64> = (0..7).map(|k| clipping.factor(k)).collect();
        assert_eq!(factors, [0.5, 0.5, 0.75, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!((clipping.n_steps(), clipping.n_logged()), (6, 3));
    }

    /// Written out: steps 0 and 4 of eight are logged, with norms 2 and 1 at a limit of 1.
    #[test]
    fn the_interval_is_what_its_definition_says() {
        let rates = StepRates::per_step((1..=8).map(f64::from).collect()).unwrap();
        let clipping = Clipping::from_norms(1.0, &[(0, 2.0), (4, 1.0)], 8).unwrap();
        // factors 1/2, 5/8, 3/4, 7/8, 1, 1, 1, 1; two norms leave no residual
        let clipped = 0.5 + 2.0 * 0.625 + 3.0 * 0.75 + 4.0 * 0.875 + 5.0 + 6.0 + 7.0 + 8.0;
        // ceil(0.776 x 6) = 5 of the six others above norm 2, taken as 4: a factor of 1/4. Five largest falls:
        let falls = [8.0 * 0.75, 7.0 * 0.75, 6.0 * 0.75, 4.0 * 0.625, 3.0 * 0.5];
        // or below norm 1, taken as 1/2: a factor of 1. All that can rise:
        let rises = [4.0 * 0.125, 3.0 * 0.25, 2.0 * 0.375];
        let (lower, upper) = clipping.interval(&rates, 0..8).unwrap();
        assert!((lower - (clipped - falls.iter().sum::<f64>())).abs() < 1e-14, "{lower}");
        assert!((upper - (clipped + rises.iter().sum::<f64>())).abs() < 1e-14, "{upper}");
        assert_eq!(clipping.interval(&rates, 4..5), None, "logged");
        let all: Vec<(usize, f64)> = (0..8).map(|k| (k, 2.0)).collect();
        assert_eq!(Clipping::from_norms(1.0, &all, 8).unwrap().interval(&rates, 0..8), None);
        // one scattered norm among many that are the same
        let scattered: Vec<(usize, f64)> = (0..20).map(|i| (2 * i, if i == 9 { 4.0 } else { 2.0 })).collect();
        let clipping = Clipping::from_norms(1.0, &scattered, 40).unwrap();
        // residuals of 1/8, -1/4, 1/8 in 18; over 1.5
        let variance: f64 = (2.0 / 64.0 + 1.0 / 16.0) / 1.5 / 18.0;
        // 20 others; each logged one is half of two of them, the first of one and the last of one whole and one half
        let error = (variance * (20.0 + 18.0 + 0.25 + 2.25)).sqrt();
        let others: Vec<(usize, f64)> = (0..20).map(|i| (2 * i + 1, 1.0)).collect();
        assert!((clipping.interpolation_error(&others) - error).abs() < 1e-14);
    }

    #[test]
    fn bad_norms_are_refused() {
        assert!(Clipping::from_norms(1.0, &[(0, f64::NAN)], 3).is_err());
        assert!(Clipping::from_norms(0.0, &[(0, 1.0)], 3).is_err());
        assert!(Clipping::from_norms(1.0, &[], 3).is_err());
    }
}
