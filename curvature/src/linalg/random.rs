//! Random numbers that depend on what they are for, never on when they are drawn: Philox4x32-10
//! keyed by the run's seed, counted by example, position and purpose.
//!
//! # Source
//! Salmon et al. 2011; the counter layout is `docs/method.md`, Curvature.

/// Where random labels come from: a counter-based generator keyed by these numbers, the example's key
/// and the position, so that order, batches, shards and resumption cannot change a draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelDraw {
    /// The run's seed.
    pub seed: u64,
    /// Who draws: [`stream`]. Covariances and Λ never share a stream.
    pub stream: u32,
    /// 0, 1, ... when several draws for each position are averaged.
    pub draw: u32,
}

/// Who draws. A basis and its corrected eigenvalues must not share their noise.
pub mod stream {
    /// Labels of the covariance pass.
    pub const COVARIANCE: u32 = 0;
    /// Labels of the pass for Λ.
    pub const LAMBDA: u32 = 1;
    /// One pass that fits several things.
    pub const FUSED: u32 = 2;
    /// Resampling in evaluation.
    pub const BOOTSTRAP: u32 = 4;
    /// Drawing subsets.
    pub const SUBSETS: u32 = 5;
    /// Labels of the forms of joint systems, which must not be those that their spaces were made with.
    pub const FORM: u32 = 6;
    /// Random scores, a baseline of evaluation, and the random sample beside candidates.
    pub const BASELINE: u32 = 7;
    /// Where training begins and in which order it goes, for training runs that are drawn anew.
    pub const TRAINING: u32 = 8;
}

/// Ten rounds of Philox4x32.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let p0 = u64::from(counter[0]) * 0xD251_1F53;
        let p1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter =
            [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

/// The words for one (draw, example, position, component).
pub fn words(draw: LabelDraw, example: u64, position: u32, component: u32) -> [u32; 4] {
    let purpose = (draw.stream << 28) | (draw.draw << 16) | component;
    philox([position, example as u32, (example >> 32) as u32, purpose], [draw.seed as u32, (draw.seed >> 32) as u32])
}

/// Two uniforms in `[0, 1)` with 53 bits from four words.
pub fn uniforms(words: [u32; 4]) -> (f64, f64) {
    let join = |high: u32, low: u32| ((u64::from(high) << 21) | u64::from(low >> 11)) as f64 * 2f64.powi(-53);
    (join(words[0], words[1]), join(words[2], words[3]))
}

/// One standard normal number from four words (Box and Muller).
pub fn normal(words: [u32; 4]) -> f64 {
    let (u, v) = uniforms(words);
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// The label that `u` selects when label `j` has the weight `weights(j)`: the smallest `j` whose
/// running sum exceeds `u` times the total; the last with a positive weight if rounding leaves none.
pub fn categorical(u: f64, weights: impl Iterator<Item = f64> + Clone) -> usize {
    let total: f64 = weights.clone().sum();
    let threshold = u * total;
    let (mut sum, mut last) = (0.0, 0);
    for (j, weight) in weights.enumerate() {
        sum += weight;
        if sum > threshold {
            return j;
        }
        if weight > 0.0 {
            last = j;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_words() {
        // Known-answer vectors of the Random123 distribution.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn categorical_selects_by_running_sum() {
        let weights = [0.0, 1.0, 3.0, 0.0];
        let select = |u| categorical(u, weights.iter().copied());
        assert_eq!((select(0.0), select(0.2499), select(0.25), select(0.999_999)), (1, 1, 2, 2));
        assert_eq!(categorical(1.0, weights.iter().copied()), 2, "rounding falls back to the last possible label");
    }
}
