//! Learning-rate schedules as closed functions of the step.

use super::TrajectoryError;
use super::error::within;

/// A learning rate as a closed function of the step, as `transformers.get_scheduler` makes it.
///
/// # Source
/// `docs/method.md`, Source; transformers 5.23 `optimization.py`, whose order of operations is kept so that rates agree to
/// rounding even where a cosine nearly cancels.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Which function.
    pub kind: ScheduleKind,
    /// The optimizer's rate, which the function multiplies.
    pub base: f64,
    /// Warm-up steps `W`.
    pub warmup_steps: usize,
    /// Steps in all, `T`.
    pub training_steps: usize,
}

/// The functions that transformers knows, with the arguments of `lr_scheduler_kwargs`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ScheduleKind {
    /// The base rate; no warm-up.
    Constant,
    /// The base rate after warm-up.
    ConstantWithWarmup,
    /// Falls to 0 at `T`.
    Linear,
    /// A cosine of `cycles` waves; half a wave falls to 0 at `T`.
    Cosine {
        /// `num_cycles`, 0.5 if not given.
        cycles: f64,
    },
    /// Half waves that start again at the base rate.
    CosineWithRestarts {
        /// `num_cycles`, 1 if not given.
        cycles: f64,
    },
    /// Falls to `end` as a power.
    Polynomial {
        /// `lr_end`, a rate; 1e-7 if not given.
        end: f64,
        /// `power`, 1 if not given.
        power: f64,
    },
    /// Falls as one over the square root of the step.
    InverseSqrt {
        /// `timescale`; without it the warm-up, or 10,000.
        timescale: Option<f64>,
    },
    /// A cosine that falls to a share of the base rate.
    CosineWithMinimum {
        /// `num_cycles`, 0.5 if not given.
        cycles: f64,
        /// `min_lr_rate`, or `min_lr` over the base rate.
        minimum: f64,
    },
    /// A cosine that ends above zero, after a warm-up that starts above zero.
    CosineWarmupWithMinimum {
        /// `num_cycles`, 0.5 if not given.
        cycles: f64,
        /// `min_lr_rate`, or `min_lr` over the base rate.
        minimum: f64,
        /// `warmup_lr_rate`, the share at which warm-up starts.
        warmup_start: Option<f64>,
    },
    /// Warm-up, a plateau, and a decay at the end.
    WarmupStableDecay {
        /// `num_stable_steps`; without it what warm-up and decay leave of `T`.
        stable_steps: Option<usize>,
        /// `num_decay_steps`.
        decay_steps: usize,
        /// `warmup_type`, linear if not given.
        warmup: DecayShape,
        /// `decay_type`, cosine if not given.
        decay: DecayShape,
        /// `min_lr_ratio`, 0 if not given.
        minimum: f64,
        /// `num_cycles`, 0.5 if not given.
        cycles: f64,
    },
}

/// How the ends of a warm-up-stable-decay schedule rise and fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecayShape {
    /// `linear`.
    Linear,
    /// `cosine`.
    Cosine,
    /// `1-sqrt`.
    OneMinusSqrt,
}

impl ScheduleKind {
    /// The name that transformers gives it (`lr_scheduler_type`).
    pub fn name(&self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::ConstantWithWarmup => "constant_with_warmup",
            Self::Linear => "linear",
            Self::Cosine { .. } => "cosine",
            Self::CosineWithRestarts { .. } => "cosine_with_restarts",
            Self::Polynomial { .. } => "polynomial",
            Self::InverseSqrt { .. } => "inverse_sqrt",
            Self::CosineWithMinimum { .. } => "cosine_with_min_lr",
            Self::CosineWarmupWithMinimum { .. } => "cosine_warmup_with_min_lr",
            Self::WarmupStableDecay { .. } => "warmup_stable_decay",
        }
    }
}

impl Schedule {
    /// Checks the numbers of a schedule.
    ///
    /// # Errors
    /// A number that is not finite or makes the rate negative or undefined at some step of training.
    pub fn new(
        kind: ScheduleKind,
        base: f64,
        warmup_steps: usize,
        training_steps: usize,
    ) -> Result<Self, TrajectoryError> {
        within("learning_rate", base, "a number above 0", |b| b > 0.0)?;
        within("max_steps", training_steps as f64, "at least 1", |t| t >= 1.0)?;
        let share = |name, value| within(name, value, "a number in [0, 1]", |v: f64| (0.0..=1.0).contains(&v));
        let finite = |name, value| within(name, value, "a finite number of at least 0", |v: f64| v >= 0.0);
        match kind {
            ScheduleKind::Cosine { cycles } | ScheduleKind::CosineWithRestarts { cycles } => {
                finite("num_cycles", cycles)?;
            }
            ScheduleKind::CosineWithMinimum { cycles, minimum } => {
                finite("num_cycles", cycles)?;
                share("min_lr_rate", minimum)?;
            }
            ScheduleKind::CosineWarmupWithMinimum { cycles, minimum, warmup_start } => {
                finite("num_cycles", cycles)?;
                share("min_lr_rate", minimum)?;
                share("warmup_lr_rate", warmup_start.unwrap_or(0.0))?;
            }
            ScheduleKind::Polynomial { end, power } => {
                within("lr_end", end, "at least 0 and below the learning rate", |e| e >= 0.0 && e < base)?;
                finite("power", power)?;
            }
            ScheduleKind::InverseSqrt { timescale: Some(timescale) } => {
                within("timescale", timescale, "a number above 0", |t| t > 0.0)?;
            }
            ScheduleKind::WarmupStableDecay { minimum, cycles, .. } => {
                finite("num_cycles", cycles)?;
                share("min_lr_ratio", minimum)?;
            }
            _ => {}
        }
        Ok(Self { kind, base, warmup_steps, training_steps })
    }

    /// The rate that update `k = 0, 1, …` uses. Defined past the end of training as well: a log of transformers up to
    /// 4.50 shows it there.
    pub fn rate(&self, k: usize) -> f64 {
        self.base * self.factor(k as f64, self.warmup_steps as f64, self.training_steps as f64)
    }

    /// What the base rate is multiplied by at step `k` of `total`, after `warmup` steps of warm-up.
    fn factor(&self, k: f64, warmup: f64, total: f64) -> f64 {
        use std::f64::consts::PI;
        let wave = |cycles: f64, progress: f64| 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos());
        let raised = |factor: f64, minimum: f64| (factor * (1.0 - minimum) + minimum).max(0.0);
        match self.kind {
            // These three have a warm-up of their own, or none.
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::CosineWarmupWithMinimum { cycles, minimum, warmup_start } => {
                if k < warmup {
                    return match warmup_start {
                        None => (k + 1.0) / warmup.max(1.0),
                        Some(start) => start + (1.0 - start) * k / (warmup - 1.0).max(1.0),
                    };
                }
                let progress = (k - warmup + 1.0) / (total - warmup).max(1.0);
                return raised(wave(cycles, progress), minimum);
            }
            ScheduleKind::WarmupStableDecay { stable_steps, decay_steps, warmup: rise, decay, minimum, cycles } => {
                let decay_steps = decay_steps as f64;
                let stable = stable_steps.map_or(total - warmup - decay_steps, |steps| steps as f64);
                if k < warmup {
                    let progress = k / warmup.max(1.0);
                    let factor = match rise {
                        DecayShape::Linear => progress,
                        DecayShape::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                        DecayShape::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
                    };
                    return raised(factor, minimum);
                }
                if k < warmup + stable {
                    return 1.0;
                }
                if k < warmup + stable + decay_steps {
                    let progress = (k - warmup - stable) / decay_steps.max(1.0);
                    let factor = match decay {
                        DecayShape::Linear => 1.0 - progress,
                        DecayShape::Cosine => wave(cycles, progress),
                        DecayShape::OneMinusSqrt => 1.0 - progress.sqrt(),
                    };
                    return raised(factor, minimum);
                }
                return minimum;
            }
            _ => {}
        }
        if k < warmup {
            return k / warmup.max(1.0);
        }
        let progress = (k - warmup) / (total - warmup).max(1.0);
        match self.kind {
            ScheduleKind::Linear => ((total - k) / (total - warmup).max(1.0)).max(0.0),
            ScheduleKind::Cosine { cycles } => wave(cycles, progress).max(0.0),
            ScheduleKind::CosineWithMinimum { cycles, minimum } => raised(wave(cycles, progress), minimum),
            ScheduleKind::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts { cycles } => {
                (0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())).max(0.0)
            }
            // `>=` where transformers has `>`: at T both forms give the end, and T = W would divide by zero.
            ScheduleKind::Polynomial { end, .. } if k >= total => end / self.base,
            ScheduleKind::Polynomial { end, power } => {
                let remaining = 1.0 - (k - warmup) / (total - warmup);
                ((self.base - end) * remaining.powf(power) + end) / self.base
            }
            ScheduleKind::InverseSqrt { timescale } => {
                let timescale = timescale.unwrap_or(if warmup > 0.0 { warmup } else { 10_000.0 });
                1.0 / ((k + (timescale - warmup)) / timescale).sqrt()
            }
            _ => 1.0,
        }
    }
}
