//! The scale of predicted amounts, fixed by a few retrained subsets.
//!
//! Order is what scores get right; amounts may be many times too large. The slope of measured over predicted changes,
//! median over queries, is the factor that is missing. Its error has two parts: other subsets (jackknife: how much
//! each single subset moves the slope) and other queries (bootstrap of the median).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bootstrap::{Bootstrap, Interval};
use super::lds::Run;
use super::outcomes::Outcomes;
use super::predictions::disagree;
use super::slopes::{Line, median};
use super::{EvaluateError, MAX_TEXT, Orientation};
use crate::foreign_file;

/// Version of the file.
const FORMAT: u32 = 1;

/// The name of the file in a run folder.
pub const CALIBRATION: &str = "calibration.json";

/// The scale of one run's scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// The answer of the run whose scores the scale belongs to.
    pub answer: String,
    /// The key of these scores: which computation they are of.
    pub key: String,
    /// Median over queries of the slope of measured over predicted changes.
    pub slope: f64,
    /// 95 %, as of `slope`.
    pub slope_interval: Interval,
    /// What a stored score is multiplied with to be the measurement's improvement for one more copy of the example.
    pub factor: f64,
    /// 95 %, as of `factor`.
    pub factor_interval: Interval,
}

impl Scale {
    /// The calibrated amount of a score, and where it lies with the scale's own uncertainty, in ascending order.
    pub fn amount(&self, score: f32) -> (f64, Interval) {
        let score = f64::from(score);
        let (a, b) = (score * self.factor_interval.low, score * self.factor_interval.high);
        (score * self.factor, Interval { low: a.min(b), high: a.max(b) })
    }
}

/// What `calibration.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    format: u32,
    /// What was measured after retraining.
    pub measurement: String,
    /// Whether more of it is better.
    pub higher_is_better: bool,
    /// Whether few examples were removed and their places stayed empty.
    pub removals: bool,
    /// Retrained subsets or removals.
    pub subsets: usize,
    /// Q.
    pub queries: usize,
    /// A scale for each method, damping and time scale of the run.
    pub scales: Vec<Scale>,
}

impl Calibration {
    /// A calibration that holds these scales, which were all found with the same outcomes.
    pub fn new(outcomes: &Outcomes, removals: bool, scales: Vec<Scale>) -> Self {
        Self {
            format: FORMAT,
            measurement: outcomes.name().to_owned(),
            higher_is_better: outcomes.orientation() == Orientation::HigherIsBetter,
            removals,
            subsets: outcomes.subsets(),
            queries: outcomes.queries(),
            scales,
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`EvaluateError::Io`]; [`EvaluateError::Calibration`] if it is something else.
    pub fn read(path: &Path) -> Result<Self, EvaluateError> {
        let io = |source| EvaluateError::Io { file: path.to_owned(), doing: "read", source };
        let text = foreign_file::read_text(path, MAX_TEXT).map_err(io)?;
        let fail = |problem: String| EvaluateError::Calibration { file: path.to_owned(), problem };
        let read: Self = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
        if read.format != FORMAT {
            return Err(fail(format!("its format is {}, this version reads {FORMAT}", read.format)));
        }
        let numbers = |scale: &Scale| {
            let Interval { low, high } = scale.factor_interval;
            [scale.factor, low, high].iter().all(|number| number.is_finite())
        };
        match read.scales.iter().find(|scale| !numbers(scale)) {
            Some(scale) => Err(fail(format!("the factor of `{}` is no finite number", scale.answer))),
            None => Ok(read),
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// None: everything in it is JSON.
    pub fn text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// A slope with what it could be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FoundSlope {
    /// Median over queries.
    pub slope: f64,
    /// 95 %: `slope ± t √(v_subsets + v_queries)`, where `t` is Student's for one subset less than there are,
    /// `v_subsets` the jackknife variance over subsets and `v_queries` the bootstrap variance over queries.
    pub interval: Interval,
}

/// The slope of measured over predicted changes of one run, from as few as three subsets.
///
/// # Errors
/// [`EvaluateError::Disagree`] if sizes differ, [`EvaluateError::TooFew`] below three subsets,
/// [`EvaluateError::NoScale`] if scores are no amounts or predictions do not vary.
pub fn find_slope(run: &Run<'_>, outcomes: &Outcomes, bootstrap: Bootstrap) -> Result<FoundSlope, EvaluateError> {
    let no_scale = |problem: &str| EvaluateError::NoScale { run: run.name.to_owned(), problem: problem.to_owned() };
    let factor = run.amounts.ok_or_else(|| no_scale("its scores are cosines and no amounts"))?;
    let (subsets, queries) = (outcomes.subsets(), outcomes.queries());
    if subsets < 3 {
        return Err(EvaluateError::TooFew { figure: "a scale", axis: "subsets", needed: 3, found: subsets });
    }
    let outcome = format!("the outcome `{}`", outcomes.name());
    let sides = [
        ("subsets", "the subset mask", run.predictions.subsets(), subsets),
        ("queries", "the score matrix", run.predictions.queries(), queries),
    ];
    if let Some((axis, left, found, expected)) = sides.into_iter().find(|(_, _, found, expected)| found != expected) {
        return Err(disagree(axis, left, found, &outcome, expected));
    }
    let line = |q: usize| {
        let predicted: Vec<f64> = run.predictions.changes_of_query(q).iter().map(|p| factor * p).collect();
        Line::new(&predicted, &outcomes.gains(q))
    };
    let lines: Vec<Line> = (0..queries).map(line).collect();
    let slopes = |weights: &[u32]| -> Vec<f64> { lines.iter().filter_map(|line| line.slope(weights)).collect() };
    let whole = slopes(&vec![1; subsets]);
    let constant = || no_scale("its predictions are the same for all subsets");
    let slope = median(whole.iter().copied()).ok_or_else(constant)?;
    let left_out = (0..subsets).map(|j| {
        let weights: Vec<u32> = (0..subsets).map(|other| u32::from(other != j)).collect();
        median(slopes(&weights)).ok_or_else(constant)
    });
    let left_out = left_out.collect::<Result<Vec<f64>, _>>()?;
    let of_subsets = (subsets - 1) as f64 * variance(&left_out);
    let resampled = (0..bootstrap.resamples)
        .filter_map(|r| median(bootstrap.queries(r, whole.len()).into_iter().map(|q| whole[q])));
    let of_queries = variance(&resampled.collect::<Vec<_>>());
    let half = student(subsets - 1) * (of_subsets + of_queries).sqrt();
    Ok(FoundSlope { slope, interval: Interval { low: slope - half, high: slope + half } })
}

/// Mean squared deviation from the mean; 0 without values.
fn variance(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n
}

/// The 97.5th percentile of Student's distribution.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
        2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518,
        2.0484, 2.0452, 2.0423,
    ];
    match TABLE.get(freedom.wrapping_sub(1)) {
        Some(&value) => value,
        // Cornish and Fisher's first two terms: right to 1e-4 above 30
        None => {
            let (z, n) = (1.959964f64, freedom as f64);
            z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Predictions, Removals, SeedOutcomes, Subsets};
    use super::*;
    use crate::ranking::ScoreRows;

    fn number(i: usize, salt: usize) -> f32 {
        ((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0
    }

    /// Removals of which the change is `slope` times the prediction plus noise.
    fn removals(count: usize, slope: f32, noise: f32) -> (Predictions, Removals) {
        let (n, queries) = (60, 21);
        let scores: Vec<f32> = (0..queries * n).map(|i| number(i * i + i, 1)).collect();
        let rows = ScoreRows::new(&scores, queries, n).expect("a matrix");
        let subsets = Subsets::draw_removals(n, count, 0.1, 3).expect("6 of 60");
        let predictions = Predictions::of_removals(rows, &subsets).expect("finite");
        let after = predictions.values().iter().enumerate();
        let after = after.map(|(i, &p)| slope * p as f32 + noise * number(i * i, 7)).collect();
        let outcomes = SeedOutcomes { after, full: vec![0.0; queries], seeds: 1, queries };
        (predictions, Removals::new(subsets, "margin", &outcomes, None, 0).expect("fitting sizes"))
    }

    fn found(predictions: &Predictions, removals: &Removals, amounts: f64) -> FoundSlope {
        let run = Run { name: "a", predictions, amounts: Some(amounts) };
        find_slope(&run, removals.changes(), Bootstrap::default()).expect("a slope")
    }

    #[test]
    fn few_subsets_fix_a_known_scale() {
        let (predictions, exact) = removals(4, 0.05, 0.0);
        let exact = found(&predictions, &exact, 1.0);
        // outcomes are f32
        assert!((exact.slope - 0.05).abs() < 1e-7, "{exact:?}");
        assert!(exact.interval.high - exact.interval.low < 1e-6, "nothing varies: {exact:?}");
        for count in [4, 6, 40] {
            let (predictions, noisy) = removals(count, 0.05, 0.05);
            let at = found(&predictions, &noisy, 1.0);
            assert!(at.interval.low < 0.05 && 0.05 < at.interval.high, "{count}: {at:?}");
            let halved = found(&predictions, &noisy, 0.5);
            assert!((halved.slope - 2.0 * at.slope).abs() < 1e-12, "twice the slope for half the amounts");
        }
    }

    #[test]
    fn the_interval_is_the_jackknife_by_definition() {
        let (predictions, removals) = removals(5, 0.3, 0.4);
        let none = Bootstrap { resamples: 0, seed: 0 };
        let run = Run { name: "a", predictions: &predictions, amounts: Some(1.0) };
        let got = find_slope(&run, removals.changes(), none).expect("a slope");
        let slope_without = |left_out: Option<usize>| {
            let kept: Vec<usize> = (0..5).filter(|&j| Some(j) != left_out).collect();
            let mut slopes = Vec::new();
            for q in 0..21 {
                let x: Vec<f64> = kept.iter().map(|&j| predictions.values()[j * 21 + q]).collect();
                let y: Vec<f64> = kept.iter().map(|&j| f64::from(removals.changes().values()[j * 21 + q])).collect();
                let n = x.len() as f64;
                let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
                let cov: f64 = x.iter().zip(&y).map(|(x, y)| (x - mx) * (y - my)).sum();
                slopes.push(cov / x.iter().map(|x| (x - mx) * (x - mx)).sum::<f64>());
            }
            slopes.sort_by(f64::total_cmp);
            slopes[10]
        };
        let left: Vec<f64> = (0..5).map(|j| slope_without(Some(j))).collect();
        let mean = left.iter().sum::<f64>() / 5.0;
        let variance = 4.0 / 5.0 * left.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
        let half = 2.7764 * variance.sqrt();
        assert!((got.slope - slope_without(None)).abs() < 1e-12, "{got:?}");
        assert!((got.interval.high - got.slope - half).abs() < 1e-10, "{got:?} {half}");
    }

    #[test]
    fn students_percentiles_go_over_into_the_normal_one() {
        assert_eq!((student(1), student(3)), (12.7062, 3.1824));
        // tables: 2.0395 at 31, 2.0003 at 60, 1.9600 at infinity
        for (freedom, want) in [(31, 2.0395), (60, 2.0003), (1_000_000, 1.96)] {
            assert!((student(freedom) - want).abs() < 1e-4, "{freedom}: {}", student(freedom));
        }
    }

    #[test]
    fn what_has_no_scale_is_refused() {
        let (predictions, removals) = removals(4, 0.05, 0.0);
        let message = |amounts, outcomes: &Outcomes| {
            let run = Run { name: "a", predictions: &predictions, amounts };
            find_slope(&run, outcomes, Bootstrap::default()).expect_err("no scale").to_string()
        };
        assert_eq!(
            message(None, removals.changes()),
            "the scale of `a` cannot be fixed: its scores are cosines and no amounts"
        );
        let two = removals.first(2).expect("two of four");
        assert_eq!(message(Some(1.0), two.changes()), "a scale needs at least 3 subsets, there are 2");
        let three = removals.first(3).expect("three of four");
        assert_eq!(message(Some(1.0), three.changes()), "the subset mask has 4 subsets, the outcome `margin` has 3");
        let flat =
            Predictions::of_removals(ScoreRows::new(&[0.0; 21 * 60], 21, 60).expect("zeros"), removals.subsets());
        let run = Run { name: "a", predictions: &flat.expect("finite"), amounts: Some(1.0) };
        let error = find_slope(&run, removals.changes(), Bootstrap::default()).expect_err("no scale");
        assert!(error.to_string().ends_with("its predictions are the same for all subsets"), "{error}");
    }

    #[test]
    fn files_round_trip_and_others_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(CALIBRATION);
        let (_, removals) = removals(4, 0.05, 0.0);
        let scale = Scale {
            answer: "influence".into(),
            key: "k".into(),
            slope: 0.05,
            slope_interval: Interval { low: 0.04, high: 0.07 },
            factor: 0.05,
            factor_interval: Interval { low: 0.04, high: 0.07 },
        };
        let (amount, interval) = scale.amount(-2.0);
        assert_eq!((amount, interval), (-0.1, Interval { low: -0.14, high: -0.08 }));
        let written = Calibration::new(removals.changes(), true, vec![scale]);
        std::fs::write(&path, written.text().expect("JSON")).expect("writable");
        assert_eq!(Calibration::read(&path).expect("readable"), written);
        for (text, part) in [
            ("{}", "missing field"),
            (&written.text().expect("JSON").replace("\"format\": 1", "\"format\": 2"), "its format is 2"),
            (&written.text().expect("JSON").replace("\"factor\": 0.05", "\"factor\": 1e999"), "not a calibration"),
        ] {
            std::fs::write(&path, text).expect("writable");
            let error = Calibration::read(&path).expect_err("broken").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
