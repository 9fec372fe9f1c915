//! The linear datamodeling score: does the sum of an example set's scores predict what retraining on
//! that set gives?
//!
//! `LDS_q = Spearman_j(Σ_{m ∈ S_j} score(q, m), γ_q(S_j))`, then the mean over queries. For small removals the same of
//! minus the sum over the removed examples and the gain's change against the run with everything.
//!
//! # Source
//! Park et al. 2023, "TRAK: Attributing Model Behavior at Scale".

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::{Bootstrap, Interval, Intervals};
use super::ceiling::{Ceiling, SPLITS, noise_ceiling};
use super::outcomes::Outcomes;
use super::predictions::{Predictions, disagree};
use super::removals::Removals;
use super::slopes::{Line, Slopes, median};
use super::spearman::{Order, correlation};
use super::{EvaluateError, Orientation};

/// Predictions of one run, with the name it is reported under.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The name in the report.
    pub name: &'a str,
    /// What the run's scores predict.
    pub predictions: &'a Predictions,
    /// What makes a score the gain's predicted change for one more copy of the example (1 for scores as they are
    /// stored by default, `1/N` on kronfluence's scale); none if scores are no amounts, as cosines.
    pub amounts: Option<f64>,
}

/// A mean over queries, and how far it could be off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// Mean over queries.
    pub lds: f64,
    /// None without resamples.
    pub intervals: Option<Intervals>,
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
    /// Slopes of measured over predicted changes; none if scores are no amounts.
    pub slope: Option<Slopes>,
    /// For removals, the figure against the seed of the scored run alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_seed: Option<Figure>,
    /// For removals with several seeds, the mean over the other seeds of the figure against each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_seeds: Option<Figure>,
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
    /// For removals, the number of the scored run's seed among those of the outcomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_seed: Option<usize>,
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
    let run = Run { name: "", predictions, amounts: None };
    let prepared = Prepared::new(&[run], outcomes, None)?;
    Ok(prepared.figures(&vec![1; outcomes.subsets()]).swap_remove(0).lds.swap_remove(0))
}

/// Scores, intervals and paired differences of several runs, and the noise ceiling.
///
/// # Errors
/// [`EvaluateError::Disagree`] if subsets or queries differ, [`EvaluateError::TooFew`] below two subsets
/// or without queries.
pub fn compare(runs: &[Run<'_>], outcomes: &Outcomes, bootstrap: Bootstrap) -> Result<LdsReport, EvaluateError> {
    report(runs, outcomes, None, bootstrap)
}

/// As [`compare`], for small removals, with figures for the scored run's own seed and for the others. The runs'
/// predictions are [`Predictions::of_removals`].
///
/// # Errors
/// As [`compare`].
pub fn compare_removals(
    runs: &[Run<'_>],
    removals: &Removals,
    bootstrap: Bootstrap,
) -> Result<LdsReport, EvaluateError> {
    report(runs, removals.changes(), Some(removals.own_seed()), bootstrap)
}

fn report(
    runs: &[Run<'_>],
    outcomes: &Outcomes,
    own_seed: Option<usize>,
    bootstrap: Bootstrap,
) -> Result<LdsReport, EvaluateError> {
    let prepared = Prepared::new(runs, outcomes, own_seed)?;
    let (subsets, queries) = (outcomes.subsets(), outcomes.queries());
    let whole = prepared.figures(&vec![1; subsets]);
    let all: Vec<usize> = (0..queries).collect();
    // One entry for each resample, one set of figures for each run: over resampled queries, subsets, both.
    let resamples: Vec<[Vec<OfQueries>; 3]> = (0..bootstrap.resamples)
        .into_par_iter()
        .map(|r| {
            let mut weights = vec![0; subsets];
            bootstrap.subsets(r, subsets).into_iter().for_each(|j| weights[j] += 1);
            let resampled = prepared.figures(&weights);
            let chosen = bootstrap.queries(r, queries);
            let over = |figures: &[PerQuery], queries: &[usize]| figures.iter().map(|f| f.over(queries)).collect();
            [over(&whole, &chosen), over(&resampled, &all), over(&resampled, &chosen)]
        })
        .collect();
    let intervals = |figure: &dyn Fn(&[OfQueries]) -> Option<f64>| -> Option<Intervals> {
        let of = |kind: usize| Interval::of(resamples.iter().filter_map(|sets| figure(&sets[kind])).collect());
        Some(Intervals { queries: of(0)?, subsets: of(1)?, subsets_and_queries: of(2)? })
    };
    let figures: Vec<OfQueries> = whole.iter().map(|run| run.over(&all)).collect();
    let mut differences = Vec::new();
    for a in 0..runs.len() {
        for b in a + 1..runs.len() {
            differences.push(Difference {
                run: runs[a].name.to_owned(),
                minus: runs[b].name.to_owned(),
                lds: figures[a].lds[0] - figures[b].lds[0],
                intervals: intervals(&|figures| Some(figures[a].lds[0] - figures[b].lds[0])),
            });
        }
    }
    let named = runs.iter().zip(whole).enumerate().map(|(a, (run, mut whole))| RunLds {
        name: run.name.to_owned(),
        lds: figures[a].lds[0],
        intervals: intervals(&|figures| Some(figures[a].lds[0])),
        slope: figures[a].slope.map(|median| Slopes {
            median,
            intervals: intervals(&|figures| figures[a].slope),
            per_query: whole.slopes.take().unwrap_or_default(),
        }),
        same_seed: figures[a].lds.get(1).map(|&lds| {
            let intervals = intervals(&|figures| Some(figures[a].lds[1]));
            Figure { lds, intervals }
        }),
        other_seeds: figures[a].other_seeds().map(|lds| {
            let intervals = intervals(&|figures| figures[a].other_seeds());
            Figure { lds, intervals }
        }),
        per_query: whole.lds.swap_remove(0),
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
        own_seed,
        examples: runs.first().map_or(0, |run| run.predictions.examples()),
        queries,
        bootstrap,
        runs: named.collect(),
        differences,
        ceiling,
    })
}

/// Every query's figures of one run.
struct PerQuery {
    /// Each query's correlation, `[1 + S][Q]`: with the mean outcome, then, of removals, with the outcome of the run's own
    /// seed and of every other seed.
    lds: Vec<Vec<f64>>,
    /// `[Q]`; none if scores are no amounts.
    slopes: Option<Vec<Option<f64>>>,
}

/// Figures of one run over some queries.
struct OfQueries {
    /// Means, as [`PerQuery::lds`].
    lds: Vec<f64>,
    /// Median.
    slope: Option<f64>,
}

impl PerQuery {
    fn over(&self, queries: &[usize]) -> OfQueries {
        let slope = |slopes: &Vec<Option<f64>>| median(queries.iter().filter_map(|&q| slopes[q]));
        OfQueries {
            lds: self.lds.iter().map(|lds| mean(queries.iter().map(|&q| lds[q]))).collect(),
            slope: self.slopes.as_ref().and_then(slope),
        }
    }
}

impl OfQueries {
    /// Mean over the seeds that are not the run's own.
    fn other_seeds(&self) -> Option<f64> {
        let others = self.lds.get(2..).filter(|others| !others.is_empty())?;
        Some(mean(others.iter().copied()))
    }
}

/// The sorted orders of every column, from which the ranks of any resample follow, and the lines of slopes.
struct Prepared {
    /// The ranks of outcomes, `[1 + S][Q]`: of the mean outcome, then of single seeds, as in [`PerQuery::lds`].
    gains: Vec<Vec<Order>>,
    /// `[runs][Q]`.
    predictions: Vec<Vec<Order>>,
    /// `[runs][Q]`; none if scores are no amounts.
    lines: Vec<Option<Vec<Line>>>,
}

impl Prepared {
    fn new(runs: &[Run<'_>], outcomes: &Outcomes, own_seed: Option<usize>) -> Result<Self, EvaluateError> {
        let (subsets, queries) = (outcomes.subsets(), outcomes.queries());
        let too_few = |axis, needed, found| EvaluateError::TooFew { figure: "LDS", axis, needed, found };
        if subsets < 2 {
            return Err(too_few("subsets", 2, subsets));
        }
        if queries == 0 {
            return Err(too_few("queries", 1, 0));
        }
        let outcome = format!("the outcome `{}`", outcomes.name());
        for Run { name, predictions, .. } in runs {
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
        let orders = |gains: &(dyn Fn(usize) -> Vec<f64> + Sync)| -> Vec<Order> {
            (0..queries).into_par_iter().map(|q| Order::new(&gains(q))).collect()
        };
        let mut gains = vec![orders(&|q| outcomes.gains(q))];
        if let Some(own) = own_seed {
            let others = (0..outcomes.seeds()).filter(|&seed| seed != own);
            for seed in std::iter::once(own).chain(others) {
                gains.push(orders(&|q| outcomes.gains_of_seed(seed, q)));
            }
        }
        let lines = |run: &Run<'_>| {
            let factor = run.amounts?;
            let line = |q: usize| {
                let mut predicted = run.predictions.changes_of_query(q);
                predicted.iter_mut().for_each(|p| *p *= factor);
                Line::new(&predicted, &outcomes.gains(q))
            };
            Some((0..queries).into_par_iter().map(line).collect())
        };
        Ok(Self {
            gains,
            predictions: runs.iter().map(|run| orders(&|q| run.predictions.of_query(q))).collect(),
            lines: runs.iter().map(lines).collect(),
        })
    }

    /// The figures of each run in the resample with these multiplicities.
    fn figures(&self, weights: &[u32]) -> Vec<PerQuery> {
        let mut figures: Vec<PerQuery> = self
            .lines
            .iter()
            .map(|lines| PerQuery {
                lds: vec![Vec::new(); self.gains.len()],
                slopes: lines.as_ref().map(|lines| lines.iter().map(|line| line.slope(weights)).collect()),
            })
            .collect();
        let (mut gain, mut predicted) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        for (set, orders) in self.gains.iter().enumerate() {
            for (q, order) in orders.iter().enumerate() {
                order.ranks(weights, &mut gain);
                for (run, figures) in self.predictions.iter().zip(&mut figures) {
                    run[q].ranks(weights, &mut predicted);
                    figures.lds[set].push(correlation(weights, &predicted, &gain));
                }
            }
        }
        figures
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len();
    values.sum::<f64>() / n as f64
}

#[cfg(test)]
mod tests {
    use super::super::{SeedOutcomes, Subsets, golden, spearman};
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
        let report = compare(
            &[Run { name: "a", predictions: &predictions, amounts: Some(1.0) }],
            &outcomes,
            Bootstrap::default(),
        );
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
        let run = Run { name: "a", predictions: &predictions, amounts: Some(1.0) };
        let prepared = Prepared::new(&[run], &outcomes, None).expect("fitting sizes");
        let mut means = Vec::new();
        for (r, recorded) in golden["bootstrap"]["first_resamplings"].as_array().expect("a list").iter().enumerate() {
            let mut weights = vec![0; 10];
            bootstrap.subsets(r, 10).into_iter().for_each(|j| weights[j] += 1);
            let want = golden::list(&recorded["lds"]);
            for (found, want) in prepared.figures(&weights)[0].lds[0].iter().zip(&want) {
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
    fn the_slope_is_the_median_of_the_lines_through_changes() {
        let (n, queries, count) = (23, 5, 17);
        let number = |i: usize, salt: usize| ((i * 7919 + salt * 104_729) % 1009) as f64 / 504.5 - 1.0;
        let scores: Vec<f32> = (0..queries * n).map(|i| number(i, 1) as f32).collect();
        let rows = ScoreRows::new(&scores, queries, n).expect("a matrix");
        let subsets = Subsets::draw(n, count, 0.4, 3).expect("9 of 23");
        let (sizes, amounts) = (9.0, 0.25);
        let losses: Vec<f32> = (0..count * queries).map(|i| number(i, 2) as f32).collect();
        let outcomes = Outcomes::new("loss", losses.clone(), count, queries, None, None).expect("finite");
        let mut slopes = Vec::new();
        for q in 0..queries {
            let (mut sx, mut sy, mut sxx, mut sxy) = (0.0, 0.0, 0.0, 0.0);
            for j in 0..count {
                // predicted: kept examples rise from 1/23 to 1/9
                let mut x = 0.0;
                for m in 0..n {
                    if subsets.mask()[j * n + m] == 1 {
                        x += amounts * f64::from(scores[q * n + m]) * n as f64 / sizes;
                    }
                }
                let y = -f64::from(losses[j * queries + q]);
                sx += x;
                sy += y;
                sxx += x * x;
                sxy += x * y;
            }
            slopes.push((count as f64 * sxy - sx * sy) / (count as f64 * sxx - sx * sx));
        }
        let predictions = Predictions::new(rows, &subsets).expect("finite");
        let run = |amounts| Run { name: "a", predictions: &predictions, amounts };
        let runs = [run(Some(amounts)), run(None)];
        let report = compare(&runs, &outcomes, Bootstrap { resamples: 50, seed: 1 }).expect("fitting sizes");
        let found = report.runs[0].slope.as_ref().expect("amounts");
        for (found, want) in found.per_query.iter().zip(&slopes) {
            // two orders of sums of 17 products
            assert!((found.expect("varies") - want).abs() < 1e-13, "{found:?} {want}");
        }
        slopes.sort_by(f64::total_cmp);
        assert!((found.median - slopes[2]).abs() < 1e-13);
        let interval = found.intervals.expect("resamples").subsets_and_queries;
        assert!(interval.low <= found.median && found.median <= interval.high, "{interval:?}");
        assert!(report.runs[1].slope.is_none() && report.runs[1].same_seed.is_none());
    }

    #[test]
    fn removals_have_figures_for_the_mean_the_own_seed_and_the_others() {
        let (n, queries, count, seeds) = (19, 3, 12, 3);
        let number = |i: usize, salt: usize| ((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0;
        let scores: Vec<f32> = (0..queries * n).map(|i| number(i, 1)).collect();
        let rows = ScoreRows::new(&scores, queries, n).expect("a matrix");
        let subsets = Subsets::draw_removals(n, count, 0.2, 3).expect("3 of 19");
        let predictions = Predictions::of_removals(rows, &subsets).expect("finite");
        let after: Vec<f32> = (0..count * seeds * queries)
            .map(|i| predictions.values()[i / (seeds * queries) * queries + i % queries] as f32 + 0.7 * number(i, 4))
            .collect();
        let full: Vec<f32> = (0..seeds * queries).map(|i| number(i, 5)).collect();
        let seed_outcomes = SeedOutcomes { after: after.clone(), full: full.clone(), seeds, queries };
        let removals = Removals::new(subsets.clone(), "margin", &seed_outcomes, None, 1).expect("fitting sizes");
        let run = Run { name: "a", predictions: &predictions, amounts: Some(1.0) };
        let report = compare_removals(&[run], &removals, Bootstrap { resamples: 60, seed: 2 }).expect("fitting sizes");
        // by definition, each seed by itself and their mean
        let predicted = |q: usize| -> Vec<f64> {
            let sum = |j: usize| {
                let kept = &subsets.mask()[j * n..(j + 1) * n];
                (0..n).filter(|&m| kept[m] == 0).map(|m| f64::from(scores[q * n + m])).sum::<f64>()
            };
            (0..count).map(|j| -sum(j)).collect()
        };
        let change =
            |j: usize, s: usize, q: usize| f64::from(after[(j * seeds + s) * queries + q] - full[s * queries + q]);
        let lds_over = |which: &[usize]| {
            let of_query = |q: usize| {
                let mean = |j: usize| which.iter().map(|&s| change(j, s, q)).sum::<f64>() / which.len() as f64;
                spearman(&predicted(q), &(0..count).map(mean).collect::<Vec<_>>())
            };
            (0..queries).map(of_query).sum::<f64>() / queries as f64
        };
        let found = &report.runs[0];
        let [same, others] = [found.same_seed.expect("a seed"), found.other_seeds.expect("two seeds")];
        assert!((found.lds - lds_over(&[0, 1, 2])).abs() < EXACT);
        assert!((same.lds - lds_over(&[1])).abs() < EXACT);
        assert!((others.lds - (lds_over(&[0]) + lds_over(&[2])) / 2.0).abs() < EXACT);
        assert_ne!(same.lds, others.lds);
        let interval = others.intervals.expect("resamples").subsets_and_queries;
        assert!(interval.low < others.lds && others.lds < interval.high, "{interval:?}");
        assert_eq!((report.own_seed, report.smallest_subset, report.ceiling.map(|c| c.seeds)), (Some(1), 16, Some(3)));
        // amounts are right but for noise that is as large as they are
        let slope = found.slope.as_ref().expect("amounts").median;
        assert!((0.6..1.4).contains(&slope), "{slope}");
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
        let runs = [
            Run { name: "good", predictions: &good, amounts: Some(1.0) },
            Run { name: "bad", predictions: &bad, amounts: None },
        ];
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
            let run = Run { name: "ekfac", predictions: &good, amounts: None };
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
