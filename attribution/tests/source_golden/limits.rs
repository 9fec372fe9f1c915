//! Limits of Source on whole pipelines, stages with data and layers of their own, TracIn, and self-influence without a
//! walk, against their definitions written out with dense matrices (`docs/method.md`, Source).

use std::collections::BTreeSet;

use ascribe_attribution::source::{
    LegCheckpoint, LegCurvature, SourceError, SourceForm, SourceLeg, SourceOptions, WalkCheckpoint, exponents, fit_leg,
    leg_self_influence, self_influence, tracin_weight,
};
use ascribe_attribution::trajectory::{
    CheckpointWeights, Optimizer, SegmentRule, TrainedLayers, TrainingStage, Trajectory,
};
use ascribe_attribution::{
    Aggregate, Buffer, LabelMode, LegFn, MemoryVectors, QueryRows, ScoreColumns, VectorSource, Walk, prepare_queries,
    score,
};
use ascribe_curvature::{Damping, Factors, LayerSpec, Measurement, Reduction};

use crate::golden::{close, stage};
use crate::mlp::Run;
use crate::network::{Data, Tiny, sweep};

/// `M v` of a dense function of one layer's curvature.
fn dense(layer: &LayerSpec, curvature: &Factors<f64>, l: usize, f: impl Fn(f64) -> f64, v: &[f64]) -> Vec<f64> {
    let (o, i) = (layer.outputs, layer.columns());
    let factors = &curvature.layers[l];
    let (basis, lambda) = (factors.basis.as_ref().expect("a basis"), factors.lambda.as_ref().expect("eigenvalues"));
    let (output, input) = (basis.output.vectors.whole(), basis.input.vectors.whole());
    let mut found = vec![0.0; o * i];
    for (p, q) in (0..o).flat_map(|p| (0..i).map(move |q| (p, q))) {
        let u = |k: usize| output.row(k / i)[p] * input.row(k % i)[q];
        let inner: f64 = (0..o * i).map(|k| u(k) * v[k]).sum::<f64>() * f(lambda.row(p)[q]);
        found.iter_mut().enumerate().for_each(|(k, x)| *x += u(k) * inner);
    }
    found
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn a_single_leg_is_influence_damped_by_the_inverse_of_training_time() {
    let run = Run::<f64>::sgd();
    let (tau, networks) = (run.segments[1].tau, &run.networks[1]);
    let legs = [SourceLeg {
        stage: &run.stage,
        segment: &run.segments[1],
        curvature: &run.curvatures[1],
        buffer: Buffer::Continued,
    }];
    let walk = Walk::source(&legs, &run.last.layers, SourceOptions::default()).expect("a walk");
    let checkpoints = |networks: &'_ [Tiny]| -> Vec<f64> { vec![1.0 / networks.len() as f64; networks.len()] };
    let weights = checkpoints(networks);
    let sweeps: Vec<_> = networks
        .iter()
        .zip(weights)
        .map(|(network, weight)| LegCheckpoint { sweep: sweep(network, &run.train), weight })
        .collect();
    let source = leg_self_influence(&walk.legs[0], &sweeps, 6).expect("self-influence");
    let influence = Walk::influence(&run.curvatures[1].factors, Damping::Absolute(1.0 / tau));
    let influence = leg_self_influence(&influence.legs[0], &sweeps, 6).expect("self-influence");
    for (source, influence) in source.iter().zip(&influence) {
        // squares with positive weights keep the bounds of the scalar functions
        let ratio = source / influence;
        assert!((1.0 - 1e-12..1.298_425_608).contains(&ratio), "{ratio}");
    }
    assert!(source.iter().zip(&influence).any(|(a, b)| a / b > 1.01), "the two are not the same");
}

#[test]
fn short_and_long_training_of_a_network() {
    let run = Run::<f64>::sgd();
    let legs: Vec<SourceLeg<'_, f64>> = run
        .segments
        .iter()
        .zip(&run.curvatures)
        .map(|(segment, curvature)| SourceLeg { stage: &run.stage, segment, curvature, buffer: Buffer::Continued })
        .collect();
    let layers = &run.last.layers;
    let query: Vec<f64> = run.last.gradient(&run.train.0[2]);
    let products = |time_scale: f64| {
        let options = SourceOptions { time_scale, ..SourceOptions::default() };
        let walk = Walk::source(&legs, layers, options).expect("a walk");
        let mut products = vec![vec![]; 2];
        for (l, range) in run.last.ranges().into_iter().enumerate() {
            let take = |leg: usize, vectors: &[f64]| -> Result<(), ()> {
                products[leg].extend(vectors);
                Ok(())
            };
            walk.carry(l, &layers[l], query[range].to_vec(), take).expect("the closure does not fail");
        }
        products
    };
    for (segment, product) in run.segments.iter().zip(products(1e-9)) {
        let want: Vec<f64> = query.iter().map(|x| segment.rate_sum * 1e-9 * x).collect();
        // the next term is τσ/2 of the first
        close("short training", &product, &want, 1e-7);
    }
    // on the range of Λ the last leg becomes influence without damping and the earlier leg is forgotten; the first
    // moments of directions without curvature are left out
    let long = products(1e9);
    let range = |sigma: f64| sigma > 1e-4;
    for (l, place) in run.last.ranges().into_iter().enumerate() {
        let last = &run.curvatures[1].factors;
        let project = |v: &[f64]| dense(&layers[l], last, l, |sigma| f64::from(range(sigma)), v);
        let inverse = |sigma: f64| if range(sigma) { 1.0 / sigma } else { 0.0 };
        let want = dense(&layers[l], last, l, inverse, &query[place.clone()]);
        close("long training", &project(&long[1][place.clone()]), &want, 1e-10);
    }
}

/// Two stages with data of their own; the second trains the last layer alone and has one checkpoint.
#[test]
fn stages_with_their_own_data_and_layers() {
    let run = Run::<f64>::sgd();
    let layers = &run.last.layers;
    let data = [Data(run.train.0[..4].to_vec()), Data(run.train.0[2..].to_vec())];
    let only_last = TrainedLayers::Only(BTreeSet::from(["layers.1".to_string()]));
    let networks = [vec![run.networks[0][0].clone(), run.networks[0][1].clone()], vec![run.networks[1][1].clone()]];
    let mut second = stage("second", &[0.2, 0.1, 0.05], &[3], 40, Optimizer::sgd());
    second.trained_layers = only_last;
    let first = stage("first", &[0.3, 0.2], &[1, 2], 50, Optimizer::sgd());
    let stages = [first, second].map(|numbers| TrainingStage::new(numbers).expect("a stage"));
    let trajectory = Trajectory::new(stages.to_vec()).expect("a trajectory");
    let segments =
        trajectory.segments(&SegmentRule::EqualCheckpoints(1), CheckpointWeights::Uniform).expect("segments");
    let fit = |l: usize, frozen: &[usize]| -> LegCurvature<f64> {
        let weight = 1.0 / networks[l].len() as f64;
        let checkpoints: Vec<_> =
            networks[l].iter().map(|network| LegCheckpoint { sweep: sweep(network, &data[l]), weight }).collect();
        fit_leg(&checkpoints, LabelMode::Empirical, vec![], frozen).expect("curvature")
    };
    let curvatures = [fit(0, &[]), fit(1, &[0])];
    assert!(curvatures[1].factors.layers[0].basis.is_none(), "a frozen layer has no factors");
    let legs = SourceLeg::of_trajectory(&trajectory, &segments, &curvatures);
    assert!(legs.iter().all(|leg| leg.buffer == Buffer::New), "a stage begins with a new optimizer");
    let walk = Walk::source(&legs, layers, SourceOptions::default()).expect("a walk");
    let queries = Data(run.train.0[1..3].to_vec());
    let mut vectors = MemoryVectors::<f64>::new(layers, 2, 2);
    let pass = sweep(&run.last, &queries);
    prepare_queries(&pass, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[&walk], &mut vectors)
        .expect("queries");
    let mut found = vec![0.0; 12];
    let mut want = vec![0.0; 12];
    for (leg, n) in [(0, 50.0), (1, 40.0)] {
        let weight = 1.0 / (n * networks[leg].len() as f64);
        for network in &networks[leg] {
            let add = |columns: ScoreColumns, _| {
                for (place, row) in columns.examples.zip(columns.scores.chunks_exact(2)) {
                    (0..2).for_each(|q| found[q * 6 + place + 2 * leg] += row[q]);
                }
                Ok(())
            };
            let rows = [QueryRows { vectors: &vectors, leg, weight }];
            score(&sweep(network, &data[leg]), 0, &rows, None, add).expect("scores");
            // by definition, with dense matrices
            for (q, (m, example)) in (0..2).flat_map(|q| data[leg].0.iter().enumerate().map(move |pair| (q, pair))) {
                let (y, g) = (run.last.gradient(&queries.0[q]), network.gradient(example));
                for (l, place) in run.last.ranges().into_iter().enumerate() {
                    let (y, g) = (&y[place.clone()], &g[place]);
                    let tau = [0.5, 0.35];
                    let response = |tau: f64| move |x: f64| if x == 0.0 { tau } else { -(-tau * x).exp_m1() / x };
                    let z = match (leg, l) {
                        (0, 0) => dense(&layers[0], &curvatures[0].factors, 0, response(tau[0]), y),
                        (0, _) => {
                            let y = dense(&layers[1], &curvatures[1].factors, 1, |x| (-tau[1] * x).exp(), y);
                            dense(&layers[1], &curvatures[0].factors, 1, response(tau[0]), &y)
                        }
                        (_, 0) => vec![0.0; y.len()],
                        _ => dense(&layers[1], &curvatures[1].factors, 1, response(tau[1]), y),
                    };
                    want[q * 6 + m + 2 * leg] += weight * dot(&z, g);
                }
            }
        }
    }
    close("two stages", &found, &want, 1e-12);
}

#[test]
fn tracin_takes_query_gradients_at_each_checkpoint() {
    let run = Run::<f64>::sgd();
    let layers = &run.last.layers;
    let identity = Factors::identity(layers.len());
    let walk = Walk::<f64>::gradients(&identity);
    let queries = Data(run.train.0[3..5].to_vec());
    let (mut found, mut want) = (vec![0.0; 12], vec![0.0; 12]);
    for (segment, networks) in run.segments.iter().zip(&run.networks) {
        for (a, network) in networks.iter().enumerate() {
            let weight = tracin_weight(&run.stage, segment, a);
            assert!((weight - segment.rate_sum / 12.0).abs() < 1e-15);
            let mut vectors = MemoryVectors::<f64>::new(layers, 1, 2);
            let pass = sweep(network, &queries);
            prepare_queries(&pass, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[&walk], &mut vectors)
                .expect("queries");
            assert_eq!(VectorSource::queries(&vectors), 2);
            let add = |columns: ScoreColumns, _| {
                for (m, row) in columns.examples.zip(columns.scores.chunks_exact(2)) {
                    (0..2).for_each(|q| found[q * 6 + m] += row[q]);
                }
                Ok(())
            };
            let rows = [QueryRows { vectors: &vectors, leg: 0, weight }];
            score(&sweep(network, &run.train), 0, &rows, None, add).expect("scores");
            for k in 0..12 {
                let (query, example) = (&queries.0[k / 6], &run.train.0[k % 6]);
                want[k] += segment.rate_sum / 12.0 * dot(&network.gradient(query), &network.gradient(example));
            }
        }
    }
    close("TracIn", &found, &want, 1e-14);
}

#[test]
fn self_influence_without_a_walk_is_a_square() {
    for run in [Run::<f64>::sgd(), Run::adamw()] {
        let walk = run.walk(SourceForm::Exponential);
        for (l, leg) in walk.legs.iter().enumerate() {
            let weight = 1.0 / run.networks[l].len() as f64;
            let checkpoints: Vec<_> = run.networks[l]
                .iter()
                .map(|network| LegCheckpoint { sweep: sweep(network, &run.train), weight })
                .collect();
            let found = leg_self_influence(leg, &checkpoints, 6).expect("self-influence");
            let mut want = vec![0.0; 6];
            for (example, want) in run.train.0.iter().zip(&mut want) {
                let mean = |k: usize| run.networks[l].iter().map(|network| network.gradient(example)[k]).sum::<f64>();
                let g: Vec<f64> = (0..26).map(|k| weight * mean(k)).collect();
                for (k, place) in run.last.ranges().into_iter().enumerate() {
                    let LegFn::Same(f) = &leg.response else { panic!("one function for all layers") };
                    let mut g = g[place].to_vec();
                    if let Some(Some(conditioner)) = leg.conditioners.get(k) {
                        conditioner.multiply(&mut g);
                    }
                    let z = dense(&run.last.layers[k], leg.factors, k, |sigma| f.at(sigma), &g);
                    *want += dot(&z, &g) / 6.0;
                }
            }
            assert!(found.iter().all(|&x| x > 0.0));
            close("local self-influence", &found, &want, 1e-12);
        }
    }
}

#[test]
fn self_influence_adds_up_over_calls() {
    let run = Run::<f64>::adamw();
    let walk = run.walk(SourceForm::Exponential);
    let own = sweep(&run.last, &run.train);
    let checkpoint = |leg: usize, a: usize| WalkCheckpoint { network: &run.networks[leg][a], leg, weight: 1.0 / 12.0 };
    let places = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let all: Vec<_> = places.iter().map(|&(leg, a)| checkpoint(leg, a)).collect();
    let together = self_influence(&own, &walk, &all).expect("self-influence");
    let mut sum = vec![0.0; 6];
    for (leg, a) in places {
        let alone = self_influence(&own, &walk, &[checkpoint(leg, a)]).expect("self-influence");
        sum.iter_mut().zip(alone).for_each(|(sum, x)| *sum += x);
    }
    close("one checkpoint at a time", &sum, &together, 1e-14);
}

#[test]
fn checkpoints_of_other_layers_are_refused() {
    let run = Run::<f64>::sgd();
    let other = Tiny::new(&[3, 2], vec![0.1; 8]);
    let checkpoints =
        [&run.last, &other].map(|network| LegCheckpoint { sweep: sweep(network, &run.train), weight: 0.5 });
    let error = fit_leg::<_, f64>(&checkpoints, LabelMode::Empirical, vec![], &[]).expect_err("other layers");
    assert!(
        matches!(error, ascribe_attribution::Error::Source(SourceError::DifferentLayers { checkpoint: 1 })),
        "{error}"
    );
}

#[test]
fn exponents_are_quantiles_of_time_times_curvature() {
    let run = Run::<f64>::sgd();
    let factors = &run.curvatures[0].factors.layers[1];
    let lambda = factors.lambda.as_ref().expect("EK-FAC has it");
    let mut sorted: Vec<f64> = lambda.as_slice().iter().map(|x| x * run.segments[0].tau).collect();
    sorted.sort_by(f64::total_cmp);
    assert_eq!(exponents(factors, &run.segments[0], &[0.0, 1.0 / 3.0, 1.0]), [sorted[0], sorted[3], sorted[9]]);
}
