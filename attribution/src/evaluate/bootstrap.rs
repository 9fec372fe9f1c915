//! Resamples that depend on their number alone, and percentile intervals from them.

use ascribe_curvature::LabelDraw;
use ascribe_curvature::random::{stream, uniforms, words};
use serde::{Deserialize, Serialize};

/// How intervals are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bootstrap {
    /// Number of resamples; 0 for no intervals.
    pub resamples: usize,
    /// Seed of the resamples. Figures that are to be compared must share it.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 1,000 resamples: the ends of a 95 % interval are then the 25th value from either side.
    fn default() -> Self {
        Self { resamples: 1000, seed: 0 }
    }
}

impl Bootstrap {
    /// Resample `r` of `n` subsets: item `i` is `⌊u · n⌋` with the first uniform of counter (position `i`,
    /// example `r`), stream `BOOTSTRAP`, draw 0.
    pub fn subsets(self, r: usize, n: usize) -> Vec<usize> {
        self.resample(0, r, n)
    }

    /// Resample `r` of `n` queries: as [`subsets`](Self::subsets), draw 1.
    pub fn queries(self, r: usize, n: usize) -> Vec<usize> {
        self.resample(1, r, n)
    }

    fn resample(self, draw: u32, r: usize, n: usize) -> Vec<usize> {
        let draw = LabelDraw { seed: self.seed, stream: stream::BOOTSTRAP, draw };
        let item = |i: usize| (uniforms(words(draw, r as u64, i as u32, 0)).0 * n as f64) as usize;
        (0..n).map(item).collect()
    }
}

/// Where a figure could lie: of resamples the middle 95 %, from the 2.5th to the 97.5th percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval of the figure's values in all resamples; none if there is no resample.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        Some(Self { low: percentile(&values, 0.025)?, high: percentile(&values, 0.975)? })
    }
}

/// How far a mean over queries could be off, by what is resampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intervals {
    /// Queries: other questions, the same retrained models.
    pub queries: Interval,
    /// Subsets, the same for all queries: other retrained models, the same questions.
    pub subsets: Interval,
    /// Subsets and queries are both resampled: the interval to quote.
    pub subsets_and_queries: Interval,
}

/// Linear interpolation between the two nearest of the sorted values, as numpy's default.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    #[test]
    fn golden_resamples_of_subsets() {
        let golden = golden::evaluation();
        let seed = golden["bootstrap"]["seed"].as_u64().expect("a seed");
        let bootstrap = Bootstrap { resamples: 6, seed };
        let recorded = golden["bootstrap"]["first_resamplings"].as_array().expect("a list");
        assert_eq!(recorded.len(), 6);
        for (r, recorded) in recorded.iter().enumerate() {
            let want: Vec<usize> = golden::list(&recorded["subsets"]).iter().map(|&i| i as usize).collect();
            assert_eq!(bootstrap.subsets(r, 10), want, "resample {r}");
            assert_ne!(bootstrap.queries(r, 10), want, "queries must not follow the subsets");
        }
    }

    #[test]
    fn percentiles_interpolate() {
        // numpy.percentile([1, 2, 4, 8], [2.5, 97.5]) = [1.075, 7.7]
        let interval = Interval::of(vec![8.0, 1.0, 4.0, 2.0]).expect("values");
        assert!((interval.low - 1.075).abs() < 1e-14 && (interval.high - 7.7).abs() < 1e-14, "{interval:?}");
        assert_eq!(Interval::of(vec![3.0]), Some(Interval { low: 3.0, high: 3.0 }));
        assert_eq!(Interval::of(Vec::new()), None);
    }
}
