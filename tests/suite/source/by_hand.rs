//! Source from the library's pieces: what a job of these inputs has to arrive at.

use std::path::PathBuf;

use ascribe::attribution::source::{
    Conditioner, LegCheckpoint, LegCurvature, ScoreSum, SourceLeg, SourceOptions, WalkCheckpoint, fit_leg,
    leg_self_influence, self_influence,
};
use ascribe::attribution::trajectory::TrainedLayers;
use ascribe::attribution::{Aggregate, LabelMode, MemoryVectors, Pass, QueryRows, Walk, prepare_queries, score};
use ascribe::curvature::{LayerSpec, Measurement, Network, Reduction};
use ascribe::data::{Dataset, Role};
use ascribe::model::{Limits, Model};
use ascribe::trajectory::{StageData, TrainingRun, second_moments};
use candle_core::DType;

use crate::source::case::Case;
use crate::support::load;
use crate::support::passes::{BATCH, Batched, sweep};
use crate::support::recorded::Recorded;

/// The labels of a job with every default.
pub(crate) const LABELS: LabelMode = LabelMode::Sampled { seed: 0, draws: 1 };

/// A training run with its data, read.
pub(crate) struct ByHand {
    pub(crate) run: TrainingRun,
    /// Training examples of every stage.
    pub(crate) stages: Vec<Dataset>,
    pub(crate) queries: Dataset,
    /// The final checkpoint.
    pub(crate) last: Model,
    /// For each segment its networks and what each counts.
    pub(crate) networks: Vec<Vec<(Model, f64)>>,
    /// For each segment its curvature.
    pub(crate) curvatures: Vec<LegCurvature<f64>>,
    /// For each stage the score column of every example.
    pub(crate) columns: Vec<Vec<usize>>,
    /// Second moments as torch had them.
    recorded: Option<Recorded>,
}

/// Scores and what may be lost of them on the way to the file, `[Q, columns]`.
pub(crate) struct Scores {
    pub(crate) values: Vec<f64>,
    /// A bound on the rounding: every part of a score is kept in `f32`.
    pub(crate) rounding: Vec<f64>,
}

impl ByHand {
    pub(crate) fn new(case: &Case) -> Self {
        Self::with_networks(case, |_| None)
    }

    /// With other networks than a segment's checkpoints, where there are some.
    pub(crate) fn with_networks(case: &Case, other: impl Fn(usize) -> Option<Model>) -> Self {
        let mut readings = case.request.read().expect("a training run");
        if let Some(recorded) = &case.recorded {
            if !recorded.trained_layers.is_empty() {
                readings[0].trained_layers = TrainedLayers::Only(recorded.trained_layers.iter().cloned().collect());
            }
            readings[0].layer_rates = recorded.layer_rates.clone();
        }
        let folder = &readings.last().and_then(|reading| reading.checkpoints.last()).expect("a checkpoint").folder;
        let last = load(folder, DType::F64);
        let read = |(_, file): &(String, PathBuf)| case.read(file, Role::Train, last.limits());
        let (stages, reports): (Vec<_>, Vec<_>) = case.stages.iter().map(read).unzip();
        let data = reports.iter().map(|report| StageData {
            examples: Some(report.examples),
            targets_per_example: (report.longest > 1).then(|| report.targets as f64 / report.examples as f64),
            ..StageData::default()
        });
        let run = case.request.resolve(readings, &data.collect::<Vec<_>>()).expect("numbers");
        let networks = run.segments.iter().enumerate().map(|(index, (stage, segment))| match other(index) {
            Some(network) => vec![(network, 1.0)],
            None => {
                let at = |a: usize| &run.readings[*stage].checkpoints[a].folder;
                segment.checkpoints.iter().map(|a| (load(at(a.index), DType::F64), a.weight)).collect()
            }
        });
        let (networks, queries) = (networks.collect(), case.read(&case.queries, Role::Queries, last.limits()).0);
        let columns = stages.iter().map(|stage| (0..stage.len()).collect()).collect();
        let recorded = case.recorded.as_ref().map(|recorded| Recorded::open(&recorded.second_moments));
        let mut found = Self { run, stages, queries, last, networks, curvatures: vec![], columns, recorded };
        found.curvatures = (0..found.networks.len()).map(|leg| found.fit(leg)).collect();
        found
    }

    fn fit(&self, leg: usize) -> LegCurvature<f64> {
        let layers = self.last.layers();
        let (stage, segment) = &self.run.segments[leg];
        let numbers = &self.run.trajectory.stages()[*stage];
        let frozen: Vec<usize> =
            (0..layers.len()).filter(|&l| !numbers.trained_layers().contains(&layers[l].name)).collect();
        let reading = &self.run.readings[*stage];
        let mut moments: Vec<Vec<Option<Vec<f64>>>> = vec![];
        for a in segment.checkpoints.iter().filter(|_| numbers.optimizer().has_second_moments()) {
            let checkpoint = &reading.checkpoints[a.index];
            if let Some(recorded) = &self.recorded {
                let name = |layer: &LayerSpec| format!("second_moment.{}.{}", layer.name, checkpoint.step);
                moments.push(layers.iter().map(|layer| Some(recorded.find(&name(layer))?.values)).collect());
            } else if let Some(file) = &checkpoint.optimizer {
                let frozen = reading.frozen_parameters();
                let found = second_moments(&checkpoint.folder, file, layers, reading.version, &frozen);
                let wide = |moments: Vec<f32>| moments.into_iter().map(f64::from).collect::<Vec<f64>>();
                moments.push(found.expect("moments").into_iter().map(|found| found.map(wide)).collect());
            }
        }
        let conditioner = |(l, layer): (usize, &LayerSpec)| {
            if frozen.contains(&l) {
                return None;
            }
            let of_layer = |moments: &'_ Vec<Option<Vec<f64>>>| moments[l].clone().expect("trained");
            let wide: Vec<Vec<f64>> = moments.iter().map(of_layer).collect();
            let slices: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
            // the ε that the fixture's Trainer left at torch's default
            Some(Conditioner::from_second_moments(layer, &slices, 1e-8).expect("positive"))
        };
        let conditioners = match moments.is_empty() {
            true => vec![],
            false => layers.iter().enumerate().map(conditioner).collect(),
        };
        let examples = Batched(&self.stages[*stage], BATCH);
        let checkpoints: Vec<_> = self.networks[leg]
            .iter()
            .map(|(network, weight)| LegCheckpoint {
                sweep: sweep(network, &examples, Pass::Covariance),
                weight: *weight,
            })
            .collect();
        fit_leg(&checkpoints, LABELS, conditioners, &frozen).expect("curvature")
    }

    pub(crate) fn walk(&self, options: SourceOptions) -> Walk<'_, f64> {
        let legs = SourceLeg::of_trajectory(&self.run.trajectory, &self.run.segments, &self.curvatures);
        Walk::source(&legs, self.last.layers(), options).expect("a walk")
    }

    /// The queries' vectors along a walk, with their gradients at one network.
    pub(crate) fn vectors(&self, network: &Model, walk: &Walk<'_, f64>) -> MemoryVectors<f64> {
        let measurement = match network.limits() {
            Limits::Tokens(_) => Measurement::Loss,
            Limits::Rows(_) => Measurement::Margin,
        };
        let mut vectors = MemoryVectors::new(network.layers(), walk.legs.len(), self.queries.len());
        let examples = Batched(&self.queries, BATCH);
        let sweep = sweep(network, &examples, Pass::Queries);
        prepare_queries(&sweep, measurement, Reduction::Sum, Aggregate::Each, &[walk], &mut vectors).expect("queries");
        vectors
    }

    /// N of a segment's stage.
    pub(crate) fn n(&self, leg: usize) -> f64 {
        self.run.trajectory.stages()[self.run.segments[leg].0].n_examples() as f64
    }

    /// Source's scores.
    pub(crate) fn scores(&self, options: SourceOptions) -> Scores {
        self.scores_of(options, |_| true)
    }

    /// What each stage contributes to them.
    pub(crate) fn scores_by_stage(&self) -> Vec<Scores> {
        let of_stage = |stage| self.scores_of(SourceOptions::default(), |leg| self.run.segments[leg].0 == stage);
        (0..self.stages.len()).map(of_stage).collect()
    }

    /// What each segment contributes to them.
    pub(crate) fn scores_by_segment(&self) -> Vec<Scores> {
        let of_segment = |segment| self.scores_of(SourceOptions::default(), |leg| leg == segment);
        (0..self.networks.len()).map(of_segment).collect()
    }

    fn scores_of(&self, options: SourceOptions, wanted: impl Fn(usize) -> bool) -> Scores {
        let vectors = self.vectors(&self.last, &self.walk(options));
        self.sum(|add| {
            for (leg, networks) in self.networks.iter().enumerate().filter(|(leg, _)| wanted(*leg)) {
                for (network, weight) in networks {
                    add(network, leg, QueryRows { vectors: &vectors, leg, weight: weight / self.n(leg) });
                }
            }
        })
    }

    /// Scores of what `work` adds: a network, the segment whose data it meets, and vectors.
    pub(crate) fn sum(&self, work: impl FnOnce(&mut dyn FnMut(&Model, usize, QueryRows<'_, f64>))) -> Scores {
        let width = self.queries.len();
        let count = self.columns.iter().flatten().max().map_or(0, |last| last + 1);
        let (mut sum, mut sizes) = (ScoreSum::new(count, width), ScoreSum::new(count, width));
        work(&mut |network, segment, rows| {
            let stage = self.run.segments[segment].0;
            let examples = Batched(&self.stages[stage], BATCH);
            let pass = sweep(network, &examples, Pass::Scores);
            score(&pass, 0, &[rows], None, |found, _| {
                let places = || found.examples.clone().map(|m| self.columns[stage][m]);
                sum.add(places(), &found.scores);
                sizes.add(places(), &found.scores.iter().map(|score| score.abs()).collect::<Vec<_>>());
                Ok(())
            })
            .expect("scores");
        });
        let turned = |by_example: &[f64]| -> Vec<f64> {
            (0..width * count).map(|k| by_example[(k % count) * width + k / count]).collect()
        };
        let (values, sizes) = (turned(sum.scores()), turned(sizes.scores()));
        let half = f64::from(f32::EPSILON) / 2.0;
        let rounding = sizes.iter().zip(&values).map(|(size, value)| half * (size + value.abs())).collect();
        Scores { values, rounding }
    }

    /// Self-influence by the walk and by segments' own gradients, `[columns]` each.
    pub(crate) fn self_influence(&self) -> [Vec<f64>; 2] {
        let walk = self.walk(SourceOptions::default());
        let count = self.columns.iter().flatten().max().map_or(0, |last| last + 1);
        let mut sums = [vec![0.0; count], vec![0.0; count]];
        for (leg, networks) in self.networks.iter().enumerate() {
            let stage = self.run.segments[leg].0;
            let examples = Batched(&self.stages[stage], BATCH);
            let own = sweep(&self.last, &examples, Pass::SelfInfluence);
            let checkpoints: Vec<_> = networks
                .iter()
                .map(|(network, weight)| WalkCheckpoint { network, leg, weight: weight / self.n(leg) })
                .collect();
            let walked = self_influence(&own, &walk, &checkpoints).expect("self-influence");
            let checkpoints: Vec<_> = networks
                .iter()
                .map(|(network, weight)| LegCheckpoint {
                    sweep: sweep(network, &examples, Pass::SelfInfluence),
                    weight: *weight,
                })
                .collect();
            let local = leg_self_influence(&walk.legs[leg], &checkpoints, self.n(leg) as usize).expect("local");
            for (sum, values) in sums.iter_mut().zip([walked, local]) {
                for (&column, value) in self.columns[stage].iter().zip(values) {
                    sum[column] += value;
                }
            }
        }
        sums
    }
}

/// Fails unless a score file holds these scores: to 1e-9 of the largest, beyond what `f32` takes.
#[track_caller]
pub(crate) fn assert_scores(found: &[f64], want: &Scores, what: &str) {
    assert_eq!(found.len(), want.values.len(), "{what}: scores");
    let largest = crate::support::figures::largest(&want.values);
    assert!(largest > 0.0, "{what}: every score is zero");
    for (k, ((found, value), rounding)) in found.iter().zip(&want.values).zip(&want.rounding).enumerate() {
        let error = (found - value).abs();
        assert!(error <= 1e-9 * largest + rounding, "{what}: score {k} is {found}, {value} by hand, {error:.2e} apart");
    }
}
