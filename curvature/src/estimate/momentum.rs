//! Descent with momentum, followed exactly over a segment of training for each eigenvalue.

use std::sync::Arc;

use crate::estimate::spectral::Step;

/// Descent with a momentum buffer, followed exactly: a change of training has a part `x` in the parameters and a part
/// `u` in the buffer, and a segment maps the pair linearly.
///
/// With `σ' = scale σ + decay` and a constant gradient `f` of an example,
///
/// ```text
/// u' = β u + (1 - τ_d)(σ' x + scale f)
/// heavy ball: x' = (1 - shrink) x - rate u'
/// Nesterov:   x' = (1 - shrink) x - rate (σ' x + scale f + β u')
/// ```
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, PartialEq)]
pub struct Momentum {
    /// The segment's steps, in order; rates as the schedule has them.
    pub steps: Arc<[Step]>,
    /// β.
    pub momentum: f64,
    /// `τ_d`: gradients enter the buffer times `1 - τ_d`.
    pub dampening: f64,
    /// Nesterov's form.
    pub nesterov: bool,
}

/// What a segment does with `(x, u)` in one eigen-direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// `Π M`: the pair at the segment's end, by the pair at its start.
    pub matrix: [[f64; 2]; 2],
    /// `R = Σ_k M_{K-1} ··· M_{k+1} b_k`: the pair at the end that a unit gradient in every step leaves. Its first
    /// number is negative: descent moves against the gradient.
    pub response: [f64; 2],
}

impl Momentum {
    /// The segment's map at σ; `decay_factor` as in [`SpectralFn::at_decayed`](crate::SpectralFn::at_decayed).
    pub fn at(&self, sigma: f64, decay_factor: f64) -> Transfer {
        let (beta, gain) = (self.momentum, 1.0 - self.dampening);
        // how much of this step's gradient and of the old buffer the parameters see
        let (seen, kept) = if self.nesterov { (1.0 + beta * gain, beta * beta) } else { (gain, beta) };
        let (mut matrix, mut response) = ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]);
        for step in self.steps.iter() {
            let s = step.scale * sigma + step.decay * decay_factor;
            let m = [[1.0 - step.shrink - step.rate * seen * s, -step.rate * kept], [gain * s, beta]];
            let apply = |v: [f64; 2]| [m[0][0] * v[0] + m[0][1] * v[1], m[1][0] * v[0] + m[1][1] * v[1]];
            let (x, u) = (apply([matrix[0][0], matrix[1][0]]), apply([matrix[0][1], matrix[1][1]]));
            matrix = [[x[0], u[0]], [x[1], u[1]]];
            let r = apply(response);
            response = [r[0] - step.rate * seen * step.scale, r[1] + gain * step.scale];
        }
        Transfer { matrix, response }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::spectral::SpectralFn;

    fn steps() -> Arc<[Step]> {
        let rates = [0.3, 0.1, 0.25, 0.02];
        rates.iter().map(|&rate| Step { rate, scale: 0.5, decay: 0.03, shrink: 0.01 * rate }).collect()
    }

    /// Against the update rule of `torch.optim.SGD` written out.
    #[test]
    fn a_segment_maps_the_pair_as_the_update_rule_does() {
        for (momentum, dampening, nesterov) in
            [(0.9, 0.0, false), (0.8, 0.3, false), (0.7, 0.0, true), (0.7, 0.2, true)]
        {
            let segment = Momentum { steps: steps(), momentum, dampening, nesterov };
            let (sigma, factor) = (1.7, 2.0);
            let found = segment.at(sigma, factor);
            let (x0, u0, f) = (0.4, -0.9, 1.3);
            let (mut x, mut u) = (x0, u0);
            for step in steps().iter() {
                let gradient = (step.scale * sigma + step.decay * factor) * x + step.scale * f;
                u = momentum * u + (1.0 - dampening) * gradient;
                let moved = if nesterov { gradient + momentum * u } else { u };
                x = x - step.shrink * x - step.rate * moved;
            }
            let [[a, b], [c, d]] = found.matrix;
            assert!((a * x0 + b * u0 + found.response[0] * f - x).abs() < 1e-15, "{segment:?}");
            assert!((c * x0 + d * u0 + found.response[1] * f - u).abs() < 1e-15, "{segment:?}");
        }
    }

    #[test]
    fn without_momentum_it_is_the_product_form() {
        let plain = Momentum { steps: steps(), momentum: 0.0, dampening: 0.0, nesterov: false }.at(1.7, 1.0);
        let decay = SpectralFn::DecayProduct { steps: steps() }.at(1.7);
        let response = SpectralFn::ResponseProduct { steps: steps() }.at(1.7);
        assert!((plain.matrix[0][0] - decay).abs() < 1e-15 && (plain.response[0] + response).abs() < 1e-15);
    }
}
