//! Rotary position embeddings: how fast each pair of coordinates turns.

/// Rotary position embeddings of one head dimension.
///
/// The first `r` coordinates of a head are rotated in pairs, which [`Pairing`] forms; those from `r` on are left alone.
///
/// # Source
/// Su et al. 2021, RoFormer; the scaled forms as in transformers' `modeling_rope_utils.py` (5.23).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    rotated: usize,
    pairing: Pairing,
    theta: f64,
    scaling: RopeScaling,
}

/// How frequencies are changed for texts that are longer than those the embeddings were made for.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency is divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length of the example.
    Dynamic {
        /// The growth at twice the longest length, less one.
        factor: f64,
        /// The length, in positions, from which on the base grows.
        longest: f64,
    },
    /// Long waves are divided by the factor, short ones stay, and those between are mixed.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Waves longer than the original length divided by this are long.
        low: f64,
        /// Waves shorter than the original length divided by this are short.
        high: f64,
        /// The length, in positions, that the model was trained on before.
        original: f64,
    },
    /// As `Llama3` with a ramp over the pairs of coordinates (Peng et al. 2023, YaRN).
    Yarn {
        /// The divisor.
        factor: f64,
        /// The length, in positions, that the model was trained on before.
        original: f64,
        /// Factor of cosine and sine.
        attention_factor: f64,
        /// Turns within the original length from which on a frequency stays.
        beta_fast: f64,
        /// Turns within it up to which a frequency is divided by the whole factor.
        beta_slow: f64,
        /// Whether the ends of the ramp are rounded outwards to whole pairs.
        rounded: bool,
    },
    /// A divisor for each pair of coordinates, of one list for short examples and another for long ones (LongRoPE).
    Long {
        /// The length, in positions, up to which an example is short.
        original: f64,
        /// Factor of cosine and sine.
        attention_factor: f64,
        /// Divisors for short examples, one for each pair.
        short: Vec<f64>,
        /// Divisors for long examples, one for each pair.
        long: Vec<f64>,
    },
}

/// Which coordinates are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Coordinates `i` and `i + r/2` of the `r` rotated ones are a pair.
    Halves,
    /// `2 i` and `2 i + 1`, as in GPT-J and RoFormer (Su et al. 2021).
    Neighbours,
}

/// Frequencies for examples of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    /// Radians per position of each pair of coordinates.
    pub inverse: Vec<f64>,
    /// Factor of cosine and sine.
    pub attention_factor: f64,
}

impl RopeConfig {
    /// Plain embeddings of the first `rotated` coordinates of a head, an even number, with the base `theta`.
    pub fn new(rotated: usize, theta: f64) -> Self {
        Self { rotated, pairing: Pairing::Halves, theta, scaling: RopeScaling::None }
    }

    /// Scales frequencies as given. Without this call they are not scaled.
    #[must_use]
    pub fn scaled(self, scaling: RopeScaling) -> Self {
        Self { scaling, ..self }
    }

    /// Pairs coordinates as given. Without this call the pairing is [`Pairing::Halves`].
    #[must_use]
    pub fn paired(self, pairing: Pairing) -> Self {
        Self { pairing, ..self }
    }

    /// Which coordinates are rotated together.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// Coordinates that are rotated, the first ones of each head.
    pub fn rotated(&self) -> usize {
        self.rotated
    }

    /// Whether the frequencies depend on how long an example is.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::Long { .. })
    }

    /// Frequencies for an example of `length` positions.
    ///
    /// # Units
    /// Radians per position, computed in f64 (transformers: f32).
    pub fn frequencies(&self, length: usize) -> Frequencies {
        let dimension = self.rotated as f64;
        let plain = |theta: f64| -> Vec<f64> {
            (0..self.rotated / 2).map(|i| theta.powf(-2.0 * i as f64 / dimension)).collect()
        };
        let (inverse, attention_factor) = match &self.scaling {
            RopeScaling::None => (plain(self.theta), 1.0),
            RopeScaling::Linear { factor } => (plain(self.theta).into_iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Dynamic { factor, longest } => {
                let stretch = factor * (length as f64).max(*longest) / longest - (factor - 1.0);
                (plain(self.theta * stretch.powf(dimension / (dimension - 2.0))), 1.0)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let scale = |f: f64| {
                    let wavelength = 2.0 * std::f64::consts::PI / f;
                    if wavelength > original / low {
                        f / factor
                    } else if wavelength < original / high {
                        f
                    } else {
                        let t = (original / wavelength - low) / (high - low);
                        (1.0 - t) * f / factor + t * f
                    }
                };
                (plain(self.theta).into_iter().map(scale).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, original, attention_factor, beta_fast, beta_slow, rounded } => {
                let bound = |turns: f64| {
                    dimension * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = match rounded {
                    true => (bound(*beta_fast).floor(), bound(*beta_slow).ceil()),
                    false => (bound(*beta_fast), bound(*beta_slow)),
                };
                let (low, high) = (low.max(0.0), high.min(dimension - 1.0));
                let high = if low == high { high + 0.001 } else { high };
                let scale = |(i, f): (usize, f64)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                (plain(self.theta).into_iter().enumerate().map(scale).collect(), *attention_factor)
            }
            RopeScaling::Long { original, attention_factor, short, long } => {
                let factors = if length as f64 > *original { long } else { short };
                let inverse = plain(self.theta).into_iter().zip(factors).map(|(f, factor)| f / factor).collect();
                (inverse, *attention_factor)
            }
        };
        Frequencies { inverse, attention_factor }
    }
}
