//! Functions of an eigenvalue: damped inverses, and what a segment of training makes of a gradient.

use std::sync::Arc;

/// One optimizer step as curvature sees it: `x' = x - rate · (scale σ + decay) x - shrink · x`.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// η, with what momentum multiplies it by where that is folded in.
    pub rate: f64,
    /// Loss scale c, with gradient clipping if that counts.
    pub scale: f64,
    /// Weight decay that is part of the gradient.
    pub decay: f64,
    /// What the step takes off the weights besides its gradient: `η w` of decoupled weight decay.
    pub shrink: f64,
}

impl Step {
    /// What the step leaves of an older change.
    fn factor(&self, sigma: f64, decay_factor: f64) -> f64 {
        1.0 - self.rate * (self.scale * sigma + self.decay * decay_factor) - self.shrink
    }
}

/// A scalar function of the curvature's eigenvalue σ, with the right limit at σ → 0.
///
/// The set is closed and small: whatever a method does with curvature, it does through one of these.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SpectralFn {
    /// `1 / (σ + damping)`: influence functions. 0 where both are 0: a damping relative to a curvature that is 0
    /// everywhere, as that of an expert is that no example reaches, leaves nothing to invert.
    Inverse {
        /// Added to every eigenvalue.
        damping: f64,
    },
    /// `exp(-time · (scale σ + decay))`: what a training segment leaves of an older change.
    Decay {
        /// Σ η of the segment.
        time: f64,
        /// Loss scale c: what the trained objective was, over the summed loss.
        scale: f64,
        /// Weight decay.
        decay: f64,
    },
    /// `scale · (1 - exp(-time · x)) / x` with `x = scale σ + decay`: a segment's response to an example.
    Response {
        /// Σ η of the segment.
        time: f64,
        /// Loss scale c.
        scale: f64,
        /// Weight decay.
        decay: f64,
    },
    /// `Π_k (1 - η_k x_k - shrink_k)`: [`SpectralFn::Decay`] step by step.
    DecayProduct {
        /// The segment's steps, in order.
        steps: Arc<[Step]>,
    },
    /// `Σ_k η_k scale_k Π_{j>k} (1 - η_j x_j - shrink_j)`: [`SpectralFn::Response`] step by step.
    ResponseProduct {
        /// The segment's steps, in order.
        steps: Arc<[Step]>,
    },
    /// `(σ + damping)^exponent`.
    Power {
        /// The exponent, -1/2 for normalisations.
        exponent: f64,
        /// Added to every eigenvalue.
        damping: f64,
    },
    /// One value for every σ, as for gradient dot products and TracIn.
    Constant(f64),
}

impl SpectralFn {
    /// The function's value at σ ≥ 0.
    pub fn at(&self, sigma: f64) -> f64 {
        self.at_decayed(sigma, 1.0)
    }

    /// The function's value at σ ≥ 0 where this direction's weight decay is multiplied by `decay_factor`, as Adam's
    /// preconditioner does if the decay is part of its gradient. Functions without weight decay ignore it.
    pub fn at_decayed(&self, sigma: f64, decay_factor: f64) -> f64 {
        match self {
            Self::Inverse { damping } if sigma + damping == 0.0 => 0.0,
            Self::Inverse { damping } => 1.0 / (sigma + damping),
            Self::Decay { time, scale, decay } => (-time * (scale * sigma + decay * decay_factor)).exp(),
            Self::Response { time, scale, decay } => {
                let x = scale * sigma + decay * decay_factor;
                // the quotient is accurate wherever it is defined; only 0/0 needs its limit
                if time * x == 0.0 { scale * time } else { -scale * (-time * x).exp_m1() / x }
            }
            Self::DecayProduct { steps } => steps.iter().map(|step| step.factor(sigma, decay_factor)).product(),
            Self::ResponseProduct { steps } => steps
                .iter()
                .fold(0.0, |response, step| step.factor(sigma, decay_factor) * response + step.rate * step.scale),
            Self::Power { exponent, damping } => (sigma + damping).powf(*exponent),
            Self::Constant(value) => *value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_has_its_limits() {
        let response = |time, sigma| SpectralFn::Response { time, scale: 1.0, decay: 0.0 }.at(sigma);
        assert_eq!(response(3.0, 0.0), 3.0);
        assert_eq!(response(0.0, 2.0), 0.0);
        assert!((response(3.0, 1e-12) - 3.0 * (1.0 - 1.5e-12)).abs() < 1e-15);
        assert!((response(1e9, 2.0) - 0.5).abs() < 1e-16, "long training inverts");
    }

    #[test]
    fn nothing_is_inverted_where_there_is_neither_curvature_nor_damping() {
        assert_eq!(SpectralFn::Inverse { damping: 0.0 }.at(0.0), 0.0);
        assert_eq!(SpectralFn::Inverse { damping: 0.5 }.at(0.0), 2.0);
    }

    #[test]
    fn product_forms_telescope() {
        // r = (1 - Π) / σ for constant curvature, `docs/method.md`, Source
        let rates = [0.1, 0.3, 0.05, 0.2];
        for (sigma, decay) in [(0.7, 0.0), (1.9, 0.05)] {
            let steps: Arc<[Step]> = rates.iter().map(|&rate| Step { rate, scale: 0.5, decay, shrink: 0.0 }).collect();
            let product = SpectralFn::DecayProduct { steps: steps.clone() }.at(sigma);
            let response = SpectralFn::ResponseProduct { steps }.at(sigma);
            assert!((response - 0.5 * (1.0 - product) / (0.5 * sigma + decay)).abs() < 1e-15);
        }
    }
}
