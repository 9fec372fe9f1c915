//! The optimizers whose updates Source knows how to follow.

use super::TrajectoryError;
use super::error::within;

/// How an optimizer decays weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDecay {
    /// `w θ` is added to the gradient (L2).
    Coupled,
    /// The step multiplies `θ` by `1 - η w`.
    Decoupled,
}

/// An optimizer whose update Source knows how to unroll.
///
/// Names and signs are those of `torch.optim`.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Optimizer {
    /// Gradient descent, with or without momentum.
    Sgd {
        /// β in `[0, 1)`; 0 is plain descent.
        momentum: f64,
        /// `τ_d` in `[0, 1]`: new gradients enter the buffer times `1 - τ_d`.
        dampening: f64,
        /// Nesterov's form.
        nesterov: bool,
        /// `w`, coupled.
        weight_decay: f64,
    },
    /// Adam.
    Adam {
        /// β₁.
        beta1: f64,
        /// β₂.
        beta2: f64,
        /// `ε`, added to `√v̂`.
        epsilon: f64,
        /// `w`, coupled: it passes through the preconditioner.
        weight_decay: f64,
    },
    /// AdamW.
    AdamW {
        /// β₁.
        beta1: f64,
        /// β₂.
        beta2: f64,
        /// `ε`, added to `√v̂`.
        epsilon: f64,
        /// `w`, decoupled.
        weight_decay: f64,
    },
    /// Any other, by name. A [`TrainingStage`](super::TrainingStage) refuses it.
    Other(String),
}

impl Optimizer {
    /// Plain gradient descent.
    pub fn sgd() -> Self {
        Self::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Sgd { .. } => "SGD",
            Self::Adam { .. } => "Adam",
            Self::AdamW { .. } => "AdamW",
            Self::Other(name) => name,
        }
    }

    /// What the rate is multiplied by once the momentum buffer has settled (terminal velocity): heavy ball
    /// `(1-τ_d)/(1-β)`, Nesterov `1 + β(1-τ_d)/(1-β)`. Adam's β₁ does not rescale: its buffer is dampened by `1-β₁`.
    ///
    /// # Source
    /// `docs/method.md`, Source.
    pub fn terminal_factor(&self) -> f64 {
        match *self {
            Self::Sgd { momentum, dampening, nesterov: false, .. } if momentum > 0.0 => {
                (1.0 - dampening) / (1.0 - momentum)
            }
            Self::Sgd { momentum, dampening, nesterov: true, .. } => {
                1.0 + momentum * (1.0 - dampening) / (1.0 - momentum)
            }
            _ => 1.0,
        }
    }

    /// `w` and how it acts.
    pub fn weight_decay(&self) -> (WeightDecay, f64) {
        match *self {
            Self::Sgd { weight_decay, .. } | Self::Adam { weight_decay, .. } => (WeightDecay::Coupled, weight_decay),
            Self::AdamW { weight_decay, .. } => (WeightDecay::Decoupled, weight_decay),
            Self::Other(_) => (WeightDecay::Coupled, 0.0),
        }
    }

    /// Whether its step is `η P ⊙ m̂` with `P = 1/(√v̂ + ε)`, so that second moments are needed.
    pub fn has_second_moments(&self) -> bool {
        matches!(self, Self::Adam { .. } | Self::AdamW { .. })
    }

    /// Refuses numbers that no optimizer takes, and optimizers without a form here.
    ///
    /// # Errors
    /// [`TrajectoryError`], naming the number.
    pub fn check(&self) -> Result<(), TrajectoryError> {
        within("weight_decay", self.weight_decay().1, "a number of at least 0", |w| w >= 0.0)?;
        match *self {
            Self::Sgd { momentum, dampening, nesterov, .. } => {
                within("momentum", momentum, "a number in [0, 1)", |b| (0.0..1.0).contains(&b))?;
                within("dampening", dampening, "a number in [0, 1]", |d| (0.0..=1.0).contains(&d))?;
                if nesterov {
                    within("momentum", momentum, "above 0, for `nesterov`", |b| b > 0.0)?;
                }
                Ok(())
            }
            Self::Adam { beta1, beta2, epsilon, .. } | Self::AdamW { beta1, beta2, epsilon, .. } => {
                within("beta1", beta1, "a number in [0, 1)", |b| (0.0..1.0).contains(&b))?;
                within("beta2", beta2, "a number in [0, 1)", |b| (0.0..1.0).contains(&b))?;
                within("epsilon", epsilon, "a number of at least 0", |e| e >= 0.0)
            }
            Self::Other(ref name) => Err(TrajectoryError::UnsupportedOptimizer { name: name.clone() }),
        }
    }
}

impl std::fmt::Display for Optimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Sgd { momentum, dampening, nesterov, weight_decay } => {
                write!(
                    f,
                    " (momentum {momentum}, dampening {dampening}, nesterov {nesterov}, weight decay {weight_decay} coupled)"
                )
            }
            Self::Adam { beta1, beta2, epsilon, weight_decay } => {
                write!(f, " (betas {beta1} and {beta2}, epsilon {epsilon:e}, weight decay {weight_decay} coupled)")
            }
            Self::AdamW { beta1, beta2, epsilon, weight_decay } => {
                write!(f, " (betas {beta1} and {beta2}, epsilon {epsilon:e}, weight decay {weight_decay} decoupled)")
            }
            Self::Other(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ascribe_curvature::Hint;

    fn sgd(momentum: f64, dampening: f64, nesterov: bool) -> Optimizer {
        Optimizer::Sgd { momentum, dampening, nesterov, weight_decay: 0.0 }
    }

    /// The displacement of one gradient, followed through the update rule of `torch.optim.SGD` until the buffer
    /// has died out, is the terminal factor times the gradient.
    #[test]
    fn terminal_factor_is_the_total_displacement_of_one_gradient() {
        for (beta, dampening, nesterov) in
            [(0.9, 0.0, false), (0.8, 0.25, false), (0.9, 0.0, true), (0.7, 0.4, true), (0.0, 0.0, false)]
        {
            let (mut buffer, mut moved) = (0.0, 0.0);
            for k in 0..2000 {
                let gradient = if k == 0 { 1.0 } else { 0.0 };
                buffer = beta * buffer + (1.0 - dampening) * gradient;
                moved += if nesterov { gradient + beta * buffer } else { buffer };
            }
            let factor = sgd(beta, dampening, nesterov).terminal_factor();
            assert!((factor - moved).abs() < 1e-12, "{beta} {dampening} {nesterov}: {factor} against {moved}");
        }
    }

    #[test]
    fn momentum_without_buffer_ignores_dampening_as_torch_does() {
        assert_eq!(sgd(0.0, 0.5, false).terminal_factor(), 1.0);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for bad in [sgd(1.0, 0.0, false), sgd(-0.1, 0.0, false), sgd(0.9, 1.5, false), sgd(0.0, 0.0, true)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        let adam = |beta1, beta2, epsilon, weight_decay| Optimizer::AdamW { beta1, beta2, epsilon, weight_decay };
        assert!(adam(0.9, 0.999, 1e-8, 0.01).check().is_ok());
        for bad in [
            adam(0.9, 1.0, 1e-8, 0.0),
            adam(f64::NAN, 0.9, 1e-8, 0.0),
            adam(0.9, 0.9, -1.0, 0.0),
            adam(0.9, 0.9, 0.0, -0.1),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        let error = Optimizer::Other("lion".to_string()).check().unwrap_err();
        assert_eq!(error.to_string(), "Source has no form for the optimizer `lion`");
        assert!(error.hint().is_some());
    }
}
