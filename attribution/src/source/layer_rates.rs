//! Layers whose parameter groups had rates of their own: every step of the segment is `rate` times as long there.

use std::sync::Arc;

use ascribe_curvature::{Momentum, SpectralFn, Step};

/// A segment's function for a layer whose rates are `rate` times the stage's; a function without rates stays.
///
/// # Source
/// `docs/method.md`, Source: `τ`, the decay's exponent and every `η_k` are proportional to the rate.
pub(crate) fn at_rate(f: SpectralFn, rate: f64) -> SpectralFn {
    if rate == 1.0 {
        return f;
    }
    match f {
        SpectralFn::Response { time, scale, decay } => SpectralFn::Response { time: time * rate, scale, decay },
        SpectralFn::Decay { time, scale, decay } => SpectralFn::Decay { time: time * rate, scale, decay },
        SpectralFn::ResponseProduct { steps } => SpectralFn::ResponseProduct { steps: steps_at_rate(&steps, rate) },
        SpectralFn::DecayProduct { steps } => SpectralFn::DecayProduct { steps: steps_at_rate(&steps, rate) },
        // sums of gradient products count rates
        SpectralFn::Constant(value) => SpectralFn::Constant(value * rate),
        other => other,
    }
}

/// Momentum that is followed exactly, where a layer's rates are `rate` times those of the stage.
pub(crate) fn momentum_at_rate(momentum: &Momentum, rate: f64) -> Momentum {
    let steps = if rate == 1.0 { momentum.steps.clone() } else { steps_at_rate(&momentum.steps, rate) };
    Momentum { steps, ..momentum.clone() }
}

fn steps_at_rate(steps: &[Step], rate: f64) -> Arc<[Step]> {
    steps.iter().map(|step| Step { rate: step.rate * rate, shrink: step.shrink * rate, ..*step }).collect()
}
