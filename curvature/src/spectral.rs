/// A scalar function of the curvature's eigenvalue σ, with the right limit at σ → 0.
///
/// The set is closed and small: whatever a method does with curvature, it does through one of these.
///
/// # Source
/// METHOD §2.4, §4.1 (12), §4.3 (17).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SpectralFn {
    /// `1 / (σ + damping)`: influence functions.
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
    /// `Π_k (1 - η_k x)`: [`SpectralFn::Decay`] step by step.
    DecayProduct {
        /// Rates of the segment's steps, in order.
        rates: Vec<f64>,
        /// Loss scale c.
        scale: f64,
        /// Weight decay.
        decay: f64,
    },
    /// `scale · Σ_k η_k Π_{j>k} (1 - η_j x)`: [`SpectralFn::Response`] step by step.
    ResponseProduct {
        /// Rates of the segment's steps, in order.
        rates: Vec<f64>,
        /// Loss scale c.
        scale: f64,
        /// Weight decay.
        decay: f64,
    },
    /// `(σ + damping)^exponent`.
    Power {
        /// The exponent, -1/2 for normalisations.
        exponent: f64,
        /// Added to every eigenvalue.
        damping: f64,
    },
    /// The same for every σ: gradient dot products, TracIn.
    Constant(f64),
}

impl SpectralFn {
    /// The function's value at σ ≥ 0.
    pub fn at(&self, sigma: f64) -> f64 {
        match self {
            Self::Inverse { damping } => 1.0 / (sigma + damping),
            Self::Decay { time, scale, decay } => (-time * (scale * sigma + decay)).exp(),
            Self::Response { time, scale, decay } => {
                let x = scale * sigma + decay;
                // the quotient is accurate wherever it is defined; only 0/0 needs its limit
                if time * x == 0.0 { scale * time } else { -scale * (-time * x).exp_m1() / x }
            }
            Self::DecayProduct { rates, scale, decay } => {
                let x = scale * sigma + decay;
                rates.iter().map(|rate| 1.0 - rate * x).product()
            }
            Self::ResponseProduct { rates, scale, decay } => {
                let x = scale * sigma + decay;
                scale * rates.iter().fold(0.0, |response, rate| (1.0 - rate * x) * response + rate)
            }
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
    fn product_forms_telescope() {
        // r = (1 - Π) / σ for constant curvature, METHOD (11)
        let rates = vec![0.1, 0.3, 0.05, 0.2];
        for (sigma, decay) in [(0.7, 0.0), (1.9, 0.05)] {
            let product = SpectralFn::DecayProduct { rates: rates.clone(), scale: 0.5, decay }.at(sigma);
            let response = SpectralFn::ResponseProduct { rates: rates.clone(), scale: 0.5, decay }.at(sigma);
            assert!((response - 0.5 * (1.0 - product) / (0.5 * sigma + decay)).abs() < 1e-15);
        }
    }
}
