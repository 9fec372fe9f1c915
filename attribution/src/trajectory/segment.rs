//! How a stage of training is cut into segments, and what each checkpoint of one counts.

use std::ops::Range;

use super::{TrainingStage, TrajectoryError};

/// How a stage is cut into segments. A segment always ends at its last checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentRule {
    /// This many segments with equal numbers of checkpoints; what does not divide goes to the later segments.
    EqualCheckpoints(usize),
    /// This many segments of about equal numbers of steps: each ends at the checkpoint nearest to its share.
    EqualSteps(usize),
    /// A border at the checkpoint nearest to each step at which the rate falls from one plateau to another.
    AtRateDrops,
    /// Borders at the given steps, ascending: a segment holds the checkpoints up to and including its border.
    Given(Vec<usize>),
}

impl Default for SegmentRule {
    /// Three segments with equal numbers of checkpoints.
    fn default() -> Self {
        Self::EqualCheckpoints(3)
    }
}

/// Weights of the checkpoints in a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CheckpointWeights {
    /// All the same.
    #[default]
    Uniform,
    /// The share of the segment's `Σ η` whose steps are nearest to the checkpoint.
    Nearest,
}

/// A checkpoint's place in a segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentCheckpoint {
    /// Its index in [`TrainingStage::checkpoints`].
    pub index: usize,
    /// `w_a`; they sum to 1 in a segment.
    pub weight: f64,
}

/// A part of a stage over which Source holds curvature and gradients constant.
///
/// # Units
/// With curvature `H` of *summed* losses, the segment's decay is `exp(-(τ σ + d))` and its response
/// `τ (1 - exp(-(τ σ + d))) / (τ σ + d)` with `τ` = [`tau`](Self::tau), `d` =
/// [`decay_exponent`](Self::decay_exponent). Under Adam and AdamW `σ` is an eigenvalue of the conditioned curvature.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Its updates `k`, half open.
    pub steps: Range<usize>,
    /// Its checkpoints in the order of training.
    pub checkpoints: Vec<SegmentCheckpoint>,
    /// `Σ η` of its steps as the schedule had them: no clipping, no momentum.
    pub rate_sum: f64,
    /// `Σ η f` with the clipping factors `f`; equals `rate_sum` without clipping.
    pub clipped_rate_sum: f64,
    /// Between which numbers `clipped_rate_sum` lies, where some of its factors are estimated
    /// ([`Clipping::interval`](super::Clipping::interval)).
    pub clipped_rate_interval: Option<(f64, f64)>,
    /// What momentum multiplies rates by at terminal velocity.
    pub momentum_factor: f64,
    /// `τ = c Σ η f` times the momentum factor.
    pub tau: f64,
    /// `d = w Σ η` times the momentum factor: clipping does not touch weight decay. Under Adam (coupled decay) it acts
    /// through the preconditioner, so that each parameter has `d P`.
    pub decay_exponent: f64,
}

impl Segment {
    /// `K`, optimizer steps.
    pub fn n_steps(&self) -> usize {
        self.steps.len()
    }

    /// The segment for a layer whose rates are `rate` times the stage's.
    #[must_use]
    pub fn at_rate(&self, rate: f64) -> Self {
        Self {
            rate_sum: self.rate_sum * rate,
            clipped_rate_sum: self.clipped_rate_sum * rate,
            clipped_rate_interval: self.clipped_rate_interval.map(|(low, high)| (low * rate, high * rate)),
            tau: self.tau * rate,
            decay_exponent: self.decay_exponent * rate,
            ..self.clone()
        }
    }

    /// Between which numbers `tau` lies, where `clipped_rate_sum` is estimated: the same share of it.
    pub fn tau_interval(&self) -> Option<(f64, f64)> {
        let (low, high) = self.clipped_rate_interval.filter(|_| self.clipped_rate_sum > 0.0)?;
        let share = |bound: f64| self.tau * (bound / self.clipped_rate_sum);
        Some((share(low), share(high)))
    }

    /// `η̄ = Σ η / K`.
    pub fn mean_rate(&self) -> f64 {
        self.rate_sum / self.n_steps() as f64
    }
}

/// Cuts a stage into segments, in the order of training. The steps before the first checkpoint belong to the first
/// segment; steps after the last checkpoint to none.
///
/// # Errors
/// More segments than checkpoints; borders out of order; a segment without a checkpoint.
///
/// # Source
/// `docs/method.md`, Source.
pub fn segments(
    stage: &TrainingStage,
    rule: &SegmentRule,
    weights: CheckpointWeights,
) -> Result<Vec<Segment>, TrajectoryError> {
    let ends = match rule {
        SegmentRule::EqualCheckpoints(n) => equal_checkpoints(stage, *n)?,
        SegmentRule::EqualSteps(n) => equal_steps(stage, *n)?,
        SegmentRule::AtRateDrops => at_rate_drops(stage),
        SegmentRule::Given(boundaries) => given(stage, boundaries)?,
    };
    let (mut first, mut start, mut segments) = (0, 0, Vec::with_capacity(ends.len()));
    for end in ends {
        let steps = start..stage.checkpoints()[end - 1].step;
        start = steps.end;
        segments.push(segment(stage, steps, first..end, weights));
        first = end;
    }
    Ok(segments)
}

fn segment(stage: &TrainingStage, steps: Range<usize>, members: Range<usize>, weights: CheckpointWeights) -> Segment {
    let rates = stage.rates();
    let rate_sum = rates.sum(steps.clone());
    let clipped_rate_sum = match stage.clipping() {
        Some(clipping) => rates.weighted_sum(steps.clone(), |k| clipping.factor(k)),
        None => rate_sum,
    };
    let clipped_rate_interval = stage.clipping().and_then(|clipping| clipping.interval(rates, steps.clone()));
    let momentum_factor = stage.optimizer().terminal_factor();
    let uniform = 1.0 / members.len() as f64;
    let checkpoints = members
        .clone()
        .map(|index| {
            let weight = match weights {
                // A segment in which nothing moved has no shares.
                CheckpointWeights::Nearest if rate_sum > 0.0 => {
                    rates.sum(nearest(stage, &steps, &members, index)) / rate_sum
                }
                _ => uniform,
            };
            SegmentCheckpoint { index, weight }
        })
        .collect();
    Segment {
        checkpoints,
        rate_sum,
        clipped_rate_sum,
        clipped_rate_interval,
        momentum_factor,
        tau: stage.loss_scale().value() * clipped_rate_sum * momentum_factor,
        decay_exponent: stage.optimizer().weight_decay().1 * rate_sum * momentum_factor,
        steps,
    }
}

/// The steps of a segment for which checkpoint `index` is the nearest of the segment's.
fn nearest(stage: &TrainingStage, steps: &Range<usize>, members: &Range<usize>, index: usize) -> Range<usize> {
    // Update k leads from state k to state k + 1; it is nearer to the state `at` than to `next` when its middle is.
    let middle = |a: usize, b: usize| (stage.checkpoints()[a].step + stage.checkpoints()[b].step) / 2;
    let start = if index == members.start { steps.start } else { middle(index - 1, index) };
    let end = if index + 1 == members.end { steps.end } else { middle(index, index + 1) };
    start..end
}

fn check_count(stage: &TrainingStage, n: usize) -> Result<(), TrajectoryError> {
    let checkpoints = stage.checkpoints().len();
    match n {
        0 => Err(TrajectoryError::NoSegments),
        n if n > checkpoints => {
            Err(TrajectoryError::TooManySegments { stage: stage.name().to_string(), segments: n, checkpoints })
        }
        _ => Ok(()),
    }
}

/// For each segment the index after its last checkpoint; so for the functions below.
fn equal_checkpoints(stage: &TrainingStage, n: usize) -> Result<Vec<usize>, TrajectoryError> {
    check_count(stage, n)?;
    Ok((1..=n).map(|i| i * stage.checkpoints().len() / n).collect())
}

fn equal_steps(stage: &TrainingStage, n: usize) -> Result<Vec<usize>, TrajectoryError> {
    check_count(stage, n)?;
    let checkpoints = stage.checkpoints();
    let last = checkpoints[checkpoints.len() - 1].step;
    let mut ends = Vec::with_capacity(n);
    for i in 1..n {
        let share = last as f64 * i as f64 / n as f64;
        // Each segment needs a checkpoint: at least one after the previous end, and one for each that follows.
        let (from, to) = (ends.last().map_or(0, |&end| end), checkpoints.len() - (n - i));
        let nearest = (from..to).min_by(|&a, &b| {
            let distance = |j: usize| (checkpoints[j].step as f64 - share).abs();
            distance(a).total_cmp(&distance(b))
        });
        ends.push(nearest.expect("`check_count` leaves a checkpoint for every segment") + 1);
    }
    ends.push(checkpoints.len());
    Ok(ends)
}

fn at_rate_drops(stage: &TrainingStage) -> Vec<usize> {
    let checkpoints = stage.checkpoints();
    let mut ends: Vec<usize> = stage
        .rates()
        .drops()
        .into_iter()
        .filter_map(|drop| (0..checkpoints.len()).min_by_key(|&i| checkpoints[i].step.abs_diff(drop)))
        .map(|i| i + 1)
        .collect();
    ends.push(checkpoints.len());
    ends.dedup();
    ends
}

fn given(stage: &TrainingStage, boundaries: &[usize]) -> Result<Vec<usize>, TrajectoryError> {
    let checkpoints = stage.checkpoints();
    let n_steps = stage.rates().n_steps();
    if let Some(&boundary) = boundaries.iter().find(|&&boundary| boundary > n_steps) {
        return Err(TrajectoryError::BoundaryBeyondEnd { stage: stage.name().to_string(), boundary, n_steps });
    }
    check_count(stage, boundaries.len() + 1)?;
    let (mut previous, mut first, mut ends) = (0, 0, Vec::new());
    let last = checkpoints[checkpoints.len() - 1].step;
    // A border at or after the last checkpoint only repeats the end of the last segment.
    let inner = boundaries.iter().copied().take_while(|&boundary| boundary < last);
    if let Some(i) = (1..boundaries.len()).find(|&i| boundaries[i] <= boundaries[i - 1]) {
        let (boundary, previous) = (boundaries[i], boundaries[i - 1]);
        return Err(TrajectoryError::BoundaryOrder { stage: stage.name().to_string(), boundary, previous });
    }
    for boundary in inner.chain([last]) {
        let end = checkpoints.partition_point(|checkpoint| checkpoint.step <= boundary);
        if end == first {
            let stage = stage.name().to_string();
            return Err(TrajectoryError::EmptySegment { stage, start: previous, end: boundary });
        }
        ends.push(end);
        (previous, first) = (boundary, end);
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::super::stage::tests::numbers;
    use super::super::{Clipping, LossScale, Optimizer, StepRates, Trajectory};
    use super::*;

    /// The run of `concrete-mlp`: 1,000 steps, rate 0.03, from step 600 0.003, six checkpoints.
    fn concrete() -> TrainingStage {
        let rates = StepRates::piecewise(vec![(0, 0.03), (600, 0.003)], 1000).unwrap();
        let mut n = numbers(rates, &[167, 333, 500, 667, 833, 1000]);
        n.optimizer = Optimizer::Sgd { momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 1e-4 };
        TrainingStage::new(n).unwrap()
    }

    fn shape(segments: &[Segment]) -> Vec<(Range<usize>, Vec<usize>)> {
        segments
            .iter()
            .map(|s| (s.steps.clone(), s.checkpoints.iter().map(|checkpoint| checkpoint.index).collect()))
            .collect()
    }

    #[test]
    fn segments_hold_the_sums_of_their_own_steps() {
        let stage = concrete();
        let three = segments(&stage, &SegmentRule::default(), CheckpointWeights::Uniform).unwrap();
        assert_eq!(shape(&three), [(0..333, vec![0, 1]), (333..667, vec![2, 3]), (667..1000, vec![4, 5])]);
        // Written out: 333 steps of 0.03; 267 of 0.03 and 67 of 0.003; 333 of 0.003.
        for (segment, sum) in three.iter().zip([9.99, 8.01 + 0.201, 0.999]) {
            assert!((segment.rate_sum - sum).abs() < 1e-14, "{} {sum}", segment.rate_sum);
            assert!((segment.tau - 10.0 * sum).abs() < 1e-12, "terminal velocity 1/(1 - 0.9)");
            assert!((segment.decay_exponent - 1e-3 * sum).abs() < 1e-16);
            assert_eq!(segment.checkpoints.iter().map(|c| c.weight).collect::<Vec<_>>(), [0.5, 0.5]);
        }
        assert_eq!(three[1].n_steps(), 334);
        assert!((three[2].mean_rate() - 0.003).abs() < 1e-17);
    }

    #[test]
    fn every_rule_cuts_as_it_says() {
        let stage = concrete();
        let cut = |rule| shape(&segments(&stage, &rule, CheckpointWeights::Uniform).unwrap());
        assert_eq!(cut(SegmentRule::EqualCheckpoints(4)).iter().map(|s| s.1.len()).collect::<Vec<_>>(), [1, 2, 1, 2]);
        // 667 is a step past two thirds of 1,000; the nearest checkpoint counts, not the last one before.
        assert_eq!(cut(SegmentRule::EqualSteps(3)), cut(SegmentRule::EqualCheckpoints(3)));
        assert_eq!(cut(SegmentRule::EqualSteps(6)).len(), 6);
        assert_eq!(cut(SegmentRule::AtRateDrops), [(0..667, vec![0, 1, 2, 3]), (667..1000, vec![4, 5])]);
        assert_eq!(cut(SegmentRule::Given(vec![200])), [(0..167, vec![0]), (167..1000, vec![1, 2, 3, 4, 5])]);
        assert_eq!(cut(SegmentRule::Given(vec![])), [(0..1000, vec![0, 1, 2, 3, 4, 5])]);
        assert_eq!(cut(SegmentRule::Given(vec![167, 1000])), cut(SegmentRule::Given(vec![167])));
    }

    #[test]
    fn equal_steps_leaves_a_checkpoint_to_every_segment() {
        // All checkpoints but one lie early: the nearest to each share would be used twice.
        let stage = numbers(StepRates::per_step(vec![0.1; 100]).unwrap(), &[1, 2, 3, 100]);
        let stage = TrainingStage::new(stage).unwrap();
        let cut = segments(&stage, &SegmentRule::EqualSteps(3), CheckpointWeights::Uniform).unwrap();
        assert_eq!(shape(&cut), [(0..2, vec![0, 1]), (2..3, vec![2]), (3..100, vec![3])]);
    }

    #[test]
    fn impossible_cuts_are_errors() {
        let stage = concrete();
        let error = |rule| segments(&stage, &rule, CheckpointWeights::Uniform).unwrap_err().to_string();
        assert_eq!(
            error(SegmentRule::EqualCheckpoints(7)),
            "stage `training`: 7 segments need as many checkpoints, it has 6"
        );
        assert_eq!(error(SegmentRule::EqualSteps(0)), "a stage cannot be cut into zero segments");
        assert_eq!(
            error(SegmentRule::Given(vec![340, 400])),
            "stage `training`: no checkpoint lies in the segment of steps 340 to 400"
        );
        assert_eq!(
            error(SegmentRule::Given(vec![500, 400])),
            "stage `training`: the boundary at step 400 does not follow step 500"
        );
        assert_eq!(
            error(SegmentRule::Given(vec![340, 1001])),
            "stage `training`: a segment ends at step 1001, but training has 1000 steps"
        );
        assert_eq!(
            error(SegmentRule::Given(vec![100])),
            "stage `training`: no checkpoint lies in the segment of steps 0 to 100"
        );
    }

    #[test]
    fn nearest_weights_are_shares_of_the_rate() {
        let rates = StepRates::piecewise(vec![(0, 0.2), (6, 0.1)], 12).unwrap();
        let stage = TrainingStage::new(numbers(rates, &[2, 8, 12])).unwrap();
        let one = segments(&stage, &SegmentRule::EqualCheckpoints(1), CheckpointWeights::Nearest).unwrap();
        // Steps 0..5 are nearest to 2 (sum 1.0), 5..10 to 8 (0.2 + 0.4), 10..12 to 12 (0.2); Σ = 1.8.
        for (checkpoint, share) in one[0].checkpoints.iter().zip([1.0 / 1.8, 0.6 / 1.8, 0.2 / 1.8]) {
            assert!((checkpoint.weight - share).abs() < 1e-15, "{checkpoint:?} {share}");
        }
    }

    #[test]
    fn clipping_and_loss_scale_reach_tau_but_not_the_decay() {
        let mut n = numbers(StepRates::per_step(vec![0.1; 4]).unwrap(), &[4]);
        n.clipping = Some(Clipping::from_norms(1.0, &[(0, 2.0)], 4).unwrap());
        n.loss_scale = LossScale::MeanOverTokens { tokens_per_example: 8.0 };
        n.optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.5 };
        let stage = TrainingStage::new(n).unwrap();
        let one = segments(&stage, &SegmentRule::EqualCheckpoints(1), CheckpointWeights::Uniform).unwrap();
        // 4 × 0.1 × ½ / 8; Adam's β₁ does not rescale.
        assert!((one[0].tau - 0.025).abs() < 1e-16);
        assert!((one[0].decay_exponent - 0.2).abs() < 1e-16);
        assert!((one[0].rate_sum - 0.4).abs() < 1e-16 && (one[0].clipped_rate_sum - 0.2).abs() < 1e-16);
        assert!((stage.scaled_rate(3).unwrap() - 0.1 * 0.5 / 8.0).abs() < 1e-17);
    }

    #[test]
    fn a_border_between_stages_is_one_between_segments() {
        let mut second = numbers(StepRates::per_step(vec![0.5; 5]).unwrap(), &[5]);
        second.name = "fine-tuning".to_string();
        let run = Trajectory::new(vec![concrete(), TrainingStage::new(second).unwrap()]).unwrap();
        let all = run.segments(&SegmentRule::AtRateDrops, CheckpointWeights::Uniform).unwrap();
        assert_eq!(
            all.iter().map(|(stage, s)| (*stage, s.steps.clone())).collect::<Vec<_>>(),
            [(0, 0..667), (0, 667..1000), (1, 0..5)]
        );
        assert!(Trajectory::new(vec![]).is_err());
        assert!(Trajectory::new(vec![concrete(), concrete()]).is_err());
    }
}
