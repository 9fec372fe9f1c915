//! The linear datamodeling score: does the sum of an example set's scores predict what retraining on
//! that set gives?
//!
//! `LDS_q = Spearman_j(Σ_{m ∈ S_j} score(q, m), γ_q(S_j))`, then the mean over queries.
//!
//! # Source
//! Park et al. 2023; METHOD §6.

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::{Bootstrap, Interval, Intervals};
use super::ceiling::{Ceiling, SPLITS, noise_ceiling};
use super::outcomes::Outcomes;
use super::predictions::{Predictions, disagree};
use super::spearman::{Order, correlation};
use super::{EvaluateError, Orientation};

/// Predictions of one run, with the name it is reported under.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// For the report.
    pub name: &'a str,
    /// Of its scores.
    pub predictions: &'a Predictions,
}

/// The score of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunLds {
    /// The run's name.
    pub name: String,
    /// Mean over queries.
    pub lds: f64,
    /// None without resamples.
    pub intervals: Option<Intervals>,
    /// Every query by itself.
    pub per_query: Vec<f64>,
}

/// The score of one run minus that of another, on the same resamples: what both owe to the choice of
/// subsets and queries cancels, so that the interval is narrower than those of the two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The run from which is subtracted.
    pub run: String,
    /// The run that is subtracted.
    pub minus: String,
    /// Difference of the means.
    pub lds: f64,
    /// None without resamples.
    pub intervals: Option<Intervals>,
}

/// Several runs against one measurement after retraining.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LdsReport {
    /// The measurement's name.
    pub measurement: String,
    /// κ = +1. If false, the measurement is a loss and its negative is the gain.
    pub higher_is_better: bool,
    /// J.
    pub subsets: usize,
    /// Size of the smallest subset.
    pub smallest_subset: usize,
    /// Size of the largest subset. Sizes that differ add a correlation that no method earned.
    pub largest_subset: usize,
    /// N.
    pub examples: usize,
    /// Q.
    pub queries: usize,
    /// How intervals were computed.
    pub bootstrap: Bootstrap,
    /// In the order given.
    pub runs: Vec<RunLds>,
    /// Every run minus every later one.
    pub differences: Vec<Difference>,
    /// What a perfect prediction would reach; none with fewer than two seeds.
    pub ceiling: Option<Ceiling>,
}

/// The score of every query; the run's score is their mean.
///
/// # Errors
/// [`EvaluateError::Disagree`] if subsets or queries differ, [`EvaluateError::TooFew`] below two subsets.
pub fn lds(predictions: &Predictions, outcomes: &Outcomes) -> Result<Vec<f64>, EvaluateError> {
    let run = Run { name: "", predictions };
    let orders = Orders::new(&[run], outcomes)?;
    Ok(orders.lds(&vec![1; outcomes.subsets()]).swap_remove(0))
}

/// Scores, intervals and paired differences of several runs, and the noise ceiling.
///
/// # Errors
/// [`EvaluateError::Disagree`] if subsets or queries differ, [`EvaluateError::TooFew`] below two subsets
/// or without queries.
pub fn compare(runs: &[Run<'_>], outcomes: &Outcomes, bootstrap: Bootstrap) -> Result<LdsReport, EvaluateError> {
    let orders = Orders::new(runs, outcomes)?;
    let (subsets, queries) = (outcomes.subsets(), outcomes.queries());
    let per_query = orders.lds(&vec![1; subsets]);
    // One entry for each resample, one figure for each run: means over resampled queries, subsets, both.
    let resamples: Vec<[Vec<f64>; 3]> = (0..bootstrap.resamples)
        .into_par_iter()
        .map(|r| {
            let mut weights = vec![0; subsets];
            bootstrap.subsets(r, subsets).into_iter().for_each(|j| weights[j] += 1);
            let resampled = orders.lds(&weights);
            let chosen = bootstrap.queries(r, queries);
            let over = |lds: &[f64]| mean(chosen.iter().map(|&q| lds[q]));
            [
                per_query.iter().map(|lds| over(lds)).collect(),
                resampled.iter().map(|lds| mean(lds.iter().copied())).collect(),
                resampled.iter().map(|lds| over(lds)).collect(),
            ]
        })
        .collect();
    let intervals = |figure: &dyn Fn(&[f64]) -> f64| -> Option<Intervals> {
        let of = |kind: usize| Interval::of(resamples.iter().map(|resample| figure(&resample[kind])).collect());
        Some(Intervals { queries: of(0)?, subsets: of(1)?, subsets_and_queries: of(2)? })
    };
    let means: Vec<f64> = per_query.iter().map(|lds| mean(lds.iter().copied())).collect();
    let mut differences = Vec::new();
    for a in 0..runs.len() {
        for b in a + 1..runs.len() {
            differences.push(Difference {
                run: runs[a].name.to_owned(),
                minus: runs[b].name.to_owned(),
                lds: means[a] - means[b],
                intervals: intervals(&|figures| figures[a] - figures[b]),
            });
        }
    }
    let named = runs.iter().zip(per_query).enumerate().map(|(a, (run, per_query))| RunLds {
        name: run.name.to_owned(),
        lds: means[a],
        intervals: intervals(&|figures| figures[a]),
        per_query,
    });
    let sizes = runs.first().map_or((0, 0), |run| run.predictions.subset_sizes());
    let ceiling = match outcomes.per_seed() {
        Some(every) if every.seeds >= 2 => Some(noise_ceiling(outcomes, SPLITS, bootstrap.seed)?),
        _ => None,
    };
    Ok(LdsReport {
        measurement: outcomes.name().to_owned(),
        higher_is_better: outcomes.orientation() == Orientation::HigherIsBetter,
        subsets,
        smallest_subset: sizes.0,
        largest_subset: sizes.1,
        examples: runs.first().map_or(0, |run| run.predictions.examples()),
        queries,
        bootstrap,
        runs: named.collect(),
        differences,
        ceiling,
    })
}

/// The sorted orders of every column, from which the ranks of any resample follow.
struct Orders {
    /// `[Q]`.
    gains: Vec<Order>,
    /// `[runs][Q]`.
    predictions: Vec<Vec<Order>>,
}

impl Orders {
    fn new(runs: &[Run<'_>], outcomes: &Outcomes) -> Result<Self, EvaluateError> {
        let (subsets, queries) = (outcomes.subsets(), outcomes.queries());
        let too_few = |axis, needed, found| EvaluateError::TooFew { figure: "LDS", axis, needed, found };
        if subsets < 2 {
            return Err(too_few("subsets", 2, subsets));
        }
        if queries == 0 {
            return Err(too_few("queries", 1, 0));
        }
        let outcome = format!("the outcome `{}`", outcomes.name());
        for Run { name, predictions } in runs {
            if predictions.subsets() != subsets {
                let mask = "the subset mask";
                return Err(disagree("subsets", mask, predictions.subsets(), &outcome, subsets));
            }
            if predictions.queries() != queries {
                let scores = if name.is_empty() {
                    "the score matrix".to_owned()
                } else {
                    format!("the score matrix of `{name}`")
                };
                return Err(disagree("queries", &scores, predictions.queries(), &outcome, queries));
            }
        }
        let columns = 0..queries;
        let gains = columns.clone().into_par_iter().map(|q| Order::new(&outcomes.gains(q))).collect();
        let of_run = |run: &Run<'_>| {
            let predictions = run.predictions;
            columns.clone().into_par_iter().map(|q| Order::new(&predictions.of_query(q))).collect()
        };
        Ok(Self { gains, predictions: runs.iter().map(of_run).collect() })
    }

    /// The score of each run and query in the resample with these multiplicities, `[runs][Q]`.
    fn lds(&self, weights: &[u32]) -> Vec<Vec<f64>> {
        let (mut gain, mut predicted) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        let mut lds = vec![Vec::with_capacity(self.gains.len()); self.predictions.len()];
        for (q, order) in self.gains.iter().enumerate() {
            order.ranks(weights, &mut gain);
            for (run, lds) in self.predictions.iter().zip(&mut lds) {
                run[q].ranks(weights, &mut predicted);
                lds.push(correlation(weights, &predicted, &gain));
            }
        }
        lds
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    values.sum::<f64>() / n as f64
}

#[cfg(test)]
mod tests {
    use super::super::{Subsets, golden};
    use super::*;
    use crate::ranking::ScoreRows;

    /// Rank correlations of whole numbers: one root and one quotient away from exact.
    const EXACT: f64 = 1e-14;

    #[test]
    fn golden_lds_with_ties() {
        let golden = golden::evaluation();
        let (predictions, outcomes) = golden::predictions(&golden);
        let found = lds(&predictions, &outcomes).expect("fitting sizes");
        for (found, want) in found.iter().zip(golden::list(&golden["lds"])) {
            assert!((found - want).abs() < EXACT, "{found} {want}");
        }
        let report = compare(&[Run { name: "a", predictions: &predictions }], &outcomes, Bootstrap::default());
        let report = report.expect("fitting sizes");
        assert!((report.runs[0].lds - golden["mean_lds"].as_f64().expect("a number")).abs() < EXACT);
        assert!(report.higher_is_better && report.ceiling.is_none());
        assert_ne!(report.smallest_subset, report.largest_subset, "the case draws members one by one");
    }

    #[test]
    fn golden_lds_of_resamples() {
        let golden = golden::evaluation();
        let (predictions, outcomes) = golden::predictions(&golden);
        let bootstrap = Bootstrap { resamples: 6, seed: 33 };
        let run = Run { name: "a", predictions: &predictions };
        let orders = Orders::new(&[run], &outcomes).expect("fitting sizes");
        let mut means = Vec::new();
        for (r, recorded) in golden["bootstrap"]["first_resamplings"].as_array().expect("a list").iter().enumerate() {
            let mut weights = vec![0; 10];
            bootstrap.subsets(r, 10).into_iter().for_each(|j| weights[j] += 1);
            let want = golden::list(&recorded["lds"]);
            for (found, want) in orders.lds(&weights)[0].iter().zip(&want) {
                assert!((found - want).abs() < EXACT, "resample {r}: {found} {want}");
            }
            means.push(want.iter().sum::<f64>() / 3.0);
        }
        let report = compare(&[run], &outcomes, bootstrap).expect("fitting sizes");
        let (found, want) = (report.runs[0].intervals.expect("resamples").subsets, Interval::of(means).expect("six"));
        assert!((found.low - want.low).abs() < EXACT && (found.high - want.high).abs() < EXACT, "{found:?} {want:?}");
    }

    /// Scores of which the outcome is the subset sum plus noise, the second run noisier than the first.
    fn toy(outcome_name: &str) -> (Predictions, Predictions, Outcomes) {
        let (n, queries, count) = (40, 7, 60);
        let number = |i: usize, salt: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0;
        let truth: Vec<f32> = (0..queries * n).map(|i| number(i, 1)).collect();
        let noisy = |size: f32, salt| -> Vec<f32> {
            truth.iter().enumerate().map(|(i, t)| t + size * number(i * i + 3 * i, salt)).collect()
        };
        let subsets = Subsets::draw(n, count, 0.5, 1).expect("half");
        let predict = |scores: &[f32]| {
            Predictions::new(ScoreRows::new(scores, queries, n).expect("a matrix"), &subsets).expect("finite")
        };
        let exact = predict(&truth);
        let sign = Orientation::of_name(outcome_name).kappa();
        let values = exact.values().iter().map(|&v| (sign * v) as f32).collect();
        let outcomes = Outcomes::new(outcome_name, values, count, queries, None, None).expect("finite");
        (predict(&noisy(0.5, 2)), predict(&noisy(2.0, 3)), outcomes)
    }

    #[test]
    fn a_loss_is_turned_over() {
        let (good, _, margin) = toy("margin");
        let (_, _, loss) = toy("Test_Loss");
        let found = lds(&good, &margin).expect("fitting sizes");
        assert_eq!(found, lds(&good, &loss).expect("fitting sizes"));
        assert!(found.iter().all(|&x| x > 0.5), "{found:?}");
        let told = Outcomes::new("loss", loss.values().to_vec(), 60, 7, None, Some(Orientation::HigherIsBetter));
        let wrong = lds(&good, &told.expect("finite")).expect("fitting sizes");
        assert!(wrong.iter().zip(&found).all(|(w, f)| w == &-f));
    }

    #[test]
    fn differences_are_paired_and_intervals_hold_their_mean() {
        let (good, bad, outcomes) = toy("margin");
        let runs = [Run { name: "good", predictions: &good }, Run { name: "bad", predictions: &bad }];
        let report = compare(&runs, &outcomes, Bootstrap { resamples: 400, seed: 5 }).expect("fitting sizes");
        assert_eq!(report, compare(&runs, &outcomes, Bootstrap { resamples: 400, seed: 5 }).expect("again"));
        let [difference] = report.differences.as_slice() else { panic!("two runs have one difference") };
        assert_eq!((difference.run.as_str(), difference.minus.as_str()), ("good", "bad"));
        assert!((difference.lds - (report.runs[0].lds - report.runs[1].lds)).abs() < EXACT);
        let width = |interval: Interval| interval.high - interval.low;
        let of = |intervals: Option<Intervals>| intervals.expect("resamples");
        let paired = of(difference.intervals);
        assert!(paired.subsets_and_queries.low > 0.0, "the difference is plain: {paired:?}");
        for run in &report.runs {
            let intervals = of(run.intervals);
            for interval in [intervals.queries, intervals.subsets, intervals.subsets_and_queries] {
                assert!(interval.low < run.lds + 0.02 && run.lds < interval.high + 0.02, "{} {interval:?}", run.lds);
            }
            assert!(width(intervals.subsets_and_queries) > width(intervals.subsets), "queries vary as well");
        }
        // The same run twice: nothing is left to vary.
        let same = compare(&[runs[0], runs[0]], &outcomes, Bootstrap::default()).expect("fitting sizes");
        assert_eq!(of(same.differences[0].intervals).subsets, Interval { low: 0.0, high: 0.0 });
        let none = compare(&runs, &outcomes, Bootstrap { resamples: 0, seed: 0 }).expect("no intervals");
        assert!(none.runs[0].intervals.is_none() && none.runs[0].lds == report.runs[0].lds);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (good, _, outcomes) = toy("margin");
        let message = |outcomes: &Outcomes| {
            let run = Run { name: "ekfac", predictions: &good };
            compare(&[run], outcomes, Bootstrap::default()).expect_err("sizes differ").to_string()
        };
        let fewer = Outcomes::new("margin", vec![0.0; 59 * 7], 59, 7, None, None).expect("finite");
        assert_eq!(message(&fewer), "the subset mask has 60 subsets, the outcome `margin` has 59");
        let fewer = Outcomes::new("margin", vec![0.0; 60 * 6], 60, 6, None, None).expect("finite");
        assert_eq!(message(&fewer), "the score matrix of `ekfac` has 7 queries, the outcome `margin` has 6");
        let one = Outcomes::new("margin", vec![0.0; 7], 1, 7, None, None).expect("finite");
        assert_eq!(message(&one), "LDS needs at least 2 subsets, there are 1");
        assert_eq!(outcomes.queries(), 7);
    }
}
