//! A training run as a walk: each segment becomes a leg, with the functions of the curvature that say how it responds to a
//! gradient and how it carries older changes on (Bae et al. 2024).

use std::sync::Arc;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{LayerFactors, LayerSpec, Momentum, SpectralFn, Step};

use super::{LegCurvature, SourceError};
use crate::trajectory::{Optimizer, Segment, TrainingStage, Trajectory, WeightDecay};
use crate::{Buffer, Leg, LegFn, Walk};

/// How a segment's steps are put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceForm {
    /// `exp(-(τ σ + d))`; momentum at terminal velocity.
    #[default]
    Exponential,
    /// `Π_k (1 - η_k (c σ + w))`: exact for constant curvature; momentum at terminal velocity.
    Product,
    /// The product with parameters and momentum buffer followed as a pair.
    Momentum,
}

/// Choices of a walk over training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceOptions {
    /// How a segment's steps are put together.
    pub form: SourceForm,
    /// Multiplies every learning rate; 1 is training as it was.
    pub time_scale: f64,
    /// The largest `η_k (c σ + w)` that a step-by-step form accepts: above 1 it oscillates, which an average over data
    /// orders does not. Infinity to follow one order's own curvature exactly.
    pub largest_step: f64,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { form: SourceForm::default(), time_scale: 1.0, largest_step: 1.0 }
    }
}

/// One segment of training with its curvature.
#[derive(Debug)]
pub struct SourceLeg<'a, T> {
    /// The stage that the segment is a part of.
    pub stage: &'a TrainingStage,
    /// Its steps and sums.
    pub segment: &'a Segment,
    /// Its curvature.
    pub curvature: &'a LegCurvature<T>,
    /// [`Buffer::New`] for the first segment of a stage that began with a new optimizer; only the momentum form asks.
    pub buffer: Buffer,
}

impl<'a, T> SourceLeg<'a, T> {
    /// The legs of a whole trajectory: its [`segments`](Trajectory::segments) with their curvatures, in order. Every
    /// stage begins with a new optimizer.
    pub fn of_trajectory(
        trajectory: &'a Trajectory,
        segments: &'a [(usize, Segment)],
        curvatures: &'a [LegCurvature<T>],
    ) -> Vec<Self> {
        let mut previous = None;
        let legs = segments.iter().zip(curvatures).map(|((stage, segment), curvature)| {
            let buffer = if previous.replace(*stage) == Some(*stage) { Buffer::Continued } else { Buffer::New };
            Self { stage: &trajectory.stages()[*stage], segment, curvature, buffer }
        });
        legs.collect()
    }
}

impl<'a, T: Real> Walk<'a, T> {
    /// Source: the legs of training, first segment first.
    ///
    /// A layer that a stage did not train is carried through unchanged and gets no score there.
    ///
    /// # Errors
    /// No leg; curvature of other layers; second moments that are missing, or that the optimizer does not have; a
    /// product form whose steps are too long for the curvature.
    ///
    /// # Source
    /// `docs/method.md`, Source.
    pub fn source(
        legs: &[SourceLeg<'a, T>],
        layers: &[LayerSpec],
        options: SourceOptions,
    ) -> Result<Self, SourceError> {
        if legs.is_empty() {
            return Err(SourceError::NoLegs);
        }
        if !(options.time_scale.is_finite() && options.time_scale > 0.0) {
            return Err(SourceError::TimeScale(options.time_scale));
        }
        let legs = legs.iter().enumerate().map(|(index, leg)| walk_leg(index, leg, layers, options));
        Ok(Self { legs: legs.collect::<Result<_, _>>()? })
    }
}

fn walk_leg<'a, T: Real>(
    index: usize,
    leg: &SourceLeg<'a, T>,
    layers: &[LayerSpec],
    options: SourceOptions,
) -> Result<Leg<'a, T>, SourceError> {
    let (factors, conditioners) = (&leg.curvature.factors, leg.curvature.conditioners.as_slice());
    let trained = |l: usize| leg.stage.trained_layers().contains(&layers[l].name);
    let frozen: Vec<usize> = (0..layers.len()).filter(|&l| !trained(l)).collect();
    let optimizer = leg.stage.optimizer();
    let counts = [Some(factors.layers.len()), Some(conditioners.len()).filter(|&n| n > 0)];
    if let Some(found) = counts.into_iter().flatten().find(|&found| found != layers.len()) {
        return Err(SourceError::Layers { leg: index, found, expected: layers.len() });
    }
    match (optimizer.has_second_moments(), conditioners.is_empty()) {
        (true, true) => return Err(SourceError::NoSecondMoments { leg: index, optimizer: optimizer.name().into() }),
        (false, false) => {
            return Err(SourceError::UnexpectedSecondMoments { leg: index, optimizer: optimizer.name().into() });
        }
        (true, false) => {
            if let Some(l) = (0..layers.len()).find(|&l| trained(l) && conditioners[l].is_none()) {
                return Err(SourceError::LayerWithoutMoments { leg: index, layer: layers[l].name.clone() });
            }
        }
        (false, true) => {}
    }
    let (response, decay) = functions(leg.stage, leg.segment, options);
    let momentum = (options.form == SourceForm::Momentum).then(|| momentum(leg.stage, leg.segment, options));
    if let Some(steps) = momentum.as_ref().map(|momentum| &momentum.steps).or(match &decay {
        SpectralFn::DecayProduct { steps } => Some(steps),
        _ => None,
    }) {
        let kept: Vec<(f64, f64)> = (0..layers.len())
            .filter(|&l| trained(l))
            .map(|l| (leg.stage.layer_rate(&layers[l].name), largest_eigenvalue(&factors.layers[l])))
            .collect();
        let product = |step: &Step| {
            let of_layer =
                |(rate, largest): &(f64, f64)| rate * (step.rate * (step.scale * largest + step.decay) + step.shrink);
            kept.iter().map(of_layer).fold(0.0, f64::max)
        };
        if let Some(k) = steps.iter().position(|step| product(step) > options.largest_step) {
            let (step, product) = (leg.segment.steps.start + k, product(&steps[k]));
            return Err(SourceError::ProductDiverges { leg: index, step, product, limit: options.largest_step });
        }
    }
    let through_preconditioner = matches!(optimizer, Optimizer::Adam { .. }) && optimizer.weight_decay().1 > 0.0;
    let decay_factors = if through_preconditioner {
        let of_layer = |(conditioner, factors): (&Option<super::Conditioner<T>>, &LayerFactors<T>)| match conditioner {
            Some(conditioner) => conditioner.decay_factors(factors.basis.as_ref()),
            None => vec![],
        };
        conditioners.iter().zip(&factors.layers).map(of_layer).collect()
    } else {
        vec![]
    };
    let layer_rates: Vec<f64> = layers.iter().map(|layer| leg.stage.layer_rate(&layer.name)).collect();
    Ok(Leg {
        conditioners,
        decay_factors,
        frozen,
        layer_rates: if layer_rates.iter().all(|&rate| rate == 1.0) { vec![] } else { layer_rates },
        momentum,
        buffer: leg.buffer,
        ..Leg::new(factors, LegFn::Same(response), LegFn::Same(decay))
    })
}

fn largest_eigenvalue<T: Real>(layer: &LayerFactors<T>) -> f64 {
    layer.lambda.as_ref().map_or(1.0, |lambda| lambda.as_slice().iter().copied().fold(0.0, f64::max))
}

/// Response and decay of a segment, momentum at terminal velocity.
fn functions(stage: &TrainingStage, segment: &Segment, options: SourceOptions) -> (SpectralFn, SpectralFn) {
    if options.form == SourceForm::Exponential {
        // τ and d are sums over the steps already, so the time is 1 and they are the scale and the decay
        let (scale, decay) = (segment.tau * options.time_scale, segment.decay_exponent * options.time_scale);
        return (SpectralFn::Response { time: 1.0, scale, decay }, SpectralFn::Decay { time: 1.0, scale, decay });
    }
    let steps = steps(stage, segment, |_, rate| rate * options.time_scale * segment.momentum_factor);
    (SpectralFn::ResponseProduct { steps: steps.clone() }, SpectralFn::DecayProduct { steps })
}

/// The exact form: the buffer of SGD with momentum, or Adam's first moment with its bias correction.
fn momentum(stage: &TrainingStage, segment: &Segment, options: SourceOptions) -> Momentum {
    let plain = |_, rate: f64| rate * options.time_scale;
    match *stage.optimizer() {
        Optimizer::Adam { beta1, .. } | Optimizer::AdamW { beta1, .. } => {
            let corrected = |k: usize, rate: f64| {
                rate * options.time_scale / (1.0 - beta1.powi(i32::try_from(k + 1).unwrap_or(i32::MAX)))
            };
            Momentum { steps: steps(stage, segment, corrected), momentum: beta1, dampening: beta1, nesterov: false }
        }
        Optimizer::Sgd { momentum, dampening, nesterov, .. } if momentum > 0.0 => {
            Momentum { steps: steps(stage, segment, plain), momentum, dampening, nesterov }
        }
        // without a buffer `torch` ignores dampening
        Optimizer::Sgd { .. } | Optimizer::Other(_) => {
            Momentum { steps: steps(stage, segment, plain), momentum: 0.0, dampening: 0.0, nesterov: false }
        }
    }
}

/// The segment's steps; `rate(k, η_k)` is what they use.
fn steps(stage: &TrainingStage, segment: &Segment, rate: impl Fn(usize, f64) -> f64) -> Arc<[Step]> {
    let (form, w) = stage.optimizer().weight_decay();
    let step = |k: usize| {
        let eta = stage.rates().rate(k).unwrap_or(0.0);
        let clipped = stage.clipping().map_or(1.0, |clipping| clipping.factor(k));
        let used = rate(k, eta);
        let (decay, shrink) = match form {
            WeightDecay::Coupled => (w, 0.0),
            // AdamW takes `η w` off, whatever happens to the rate of its first moment
            WeightDecay::Decoupled => (0.0, w * eta),
        };
        Step { rate: used, scale: stage.loss_scale().value() * clipped, decay, shrink }
    };
    segment.steps.clone().map(step).collect()
}

/// `(Σ η)_a c / N`: what a checkpoint's gradient products count in TracIn, `(Σ η)_a` being its share of the segment's
/// rates. This is the definition, which legs without curvature are tested against.
///
/// # Source
/// `docs/method.md`, Source.
pub fn tracin_weight(stage: &TrainingStage, segment: &Segment, checkpoint: usize) -> f64 {
    segment.checkpoints[checkpoint].weight * segment.tau / stage.n_examples() as f64
}

/// Quantiles of `τ σ` over a layer's eigenvalues, at the given `levels` in `[0, 1]`: far below 1 a segment is far from
/// having saturated, and Source is close to a sum of gradient products.
///
/// # Source
/// `docs/method.md`, Source.
pub fn exponents<T: Real>(factors: &LayerFactors<T>, segment: &Segment, levels: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = match &factors.lambda {
        Some(lambda) => lambda.as_slice().iter().map(|sigma| sigma * segment.tau).collect(),
        None => vec![segment.tau],
    };
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    levels.iter().map(|level| values[((level * last as f64).round() as usize).min(last)]).collect()
}

/// The share of an older change that the segment makes forgotten, along the directions in which training examples push:
/// `Σ σ (1 - exp(-(τ σ + d))) / Σ σ` over a layer's eigenvalues, which are mean squared gradients. Near 1 the segment
/// has saturated there, near 0 Source is a sum of gradient products. Most eigenvalues of a layer may be close to 0 in
/// both cases, so that a median says little.
///
/// # Source
/// `docs/method.md`, Source.
pub fn forgotten<T: Real>(factors: &LayerFactors<T>, segment: &Segment) -> f64 {
    let share = |sigma: f64| -(-(segment.tau * sigma + segment.decay_exponent)).exp_m1();
    let Some(lambda) = &factors.lambda else { return share(1.0) };
    let (mut sum, mut total) = (0.0, 0.0);
    for &sigma in lambda.as_slice() {
        sum += sigma * share(sigma);
        total += sigma;
    }
    if total > 0.0 { sum / total } else { 0.0 }
}
