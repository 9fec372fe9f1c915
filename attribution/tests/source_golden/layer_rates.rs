//! Layers with rates of their own, against training's update rule followed step by step (`docs/method.md`, Source).

use std::collections::BTreeMap;

use ascribe_attribution::source::{LegCurvature, SourceForm, SourceLeg, SourceOptions};
use ascribe_attribution::trajectory::{Optimizer, Segment, TrainingStage};
use ascribe_attribution::{Buffer, Walk};
use ascribe_curvature::{CurvatureKind, Factors, LayerSpec};

use crate::golden::{close, cut, stage};
use crate::quadratic::factors;

const N: f64 = 7.0;
const RATES: [f64; 5] = [0.3, 0.2, 0.25, 0.1, 0.05];
const ENDS: [usize; 2] = [2, 5];
/// What multiplies the second layer's rates.
const SLOW: f64 = 0.25;

fn layers() -> Vec<LayerSpec> {
    let spec = |name: &str, inputs| LayerSpec {
        name: name.into(),
        outputs: 2,
        inputs,
        bias: false,
        input_group: 0,
        vocabulary: None,
    };
    vec![spec("fast", 2), spec("slow", 2)]
}

/// A rotation by `angle`, row major.
fn turn(angle: f64) -> Vec<f64> {
    vec![angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
}

/// Each segment's curvature, one pair of eigenbases for each layer.
fn curvature(segment: usize) -> Factors<f64> {
    let of_layer = |l: usize| {
        let angle = 0.4 + 0.9 * segment as f64 + 0.3 * l as f64;
        let lambda = (0..4).map(|k| 0.2 + 0.5 * k as f64 + 0.1 * l as f64).collect();
        factors(&turn(angle), &turn(1.7 * angle), lambda).layers.remove(0)
    };
    Factors { kind: CurvatureKind::Ekfac, layers: (0..2).map(of_layer).collect() }
}

/// `H v` of one layer, dense.
fn times(curvature: &Factors<f64>, l: usize, v: &[f64]) -> Vec<f64> {
    let factors = &curvature.layers[l];
    let (basis, lambda) = (factors.basis.as_ref().expect("a basis"), factors.lambda.as_ref().expect("eigenvalues"));
    let (s, a) = (basis.output.vectors.whole(), basis.input.vectors.whole());
    let u = |k: usize, p: usize| s.row(p / 2)[k / 2] * a.row(p % 2)[k % 2];
    let mut found = vec![0.0; 4];
    for k in 0..4 {
        let inner: f64 = (0..4).map(|p| u(k, p) * v[p]).sum::<f64>() * lambda.as_slice()[k];
        (0..4).for_each(|p| found[p] += u(k, p) * inner);
    }
    found
}

/// An example's gradient in a segment.
fn gradient(segment: usize, l: usize) -> Vec<f64> {
    (0..4).map(|k| ((1 + k) as f64 * (1.3 + segment as f64) + l as f64).sin()).collect()
}

fn query(l: usize) -> Vec<f64> {
    (0..4).map(|k| ((2 + k) as f64 * 0.7 + l as f64).cos()).collect()
}

/// The run's stage and segments with their curvature.
fn run(optimizer: Optimizer, rates: &BTreeMap<String, f64>) -> (TrainingStage, Vec<Segment>, Vec<LegCurvature<f64>>) {
    let mut numbers = stage("training", &RATES, &ENDS, N as usize, optimizer);
    numbers.layer_rates = rates.clone();
    let (stage, segments) = cut(numbers, 2);
    let curvatures = (0..2).map(|s| LegCurvature { factors: curvature(s), conditioners: vec![] }).collect();
    (stage, segments, curvatures)
}

/// Each layer's score: `Σ_legs <Z, g> / N`.
fn scores(optimizer: Optimizer, rates: &BTreeMap<String, f64>, form: SourceForm) -> Vec<f64> {
    let (stage, segments, curvatures) = run(optimizer, rates);
    let legs: Vec<SourceLeg<'_, f64>> = segments
        .iter()
        .zip(&curvatures)
        .map(|(segment, curvature)| SourceLeg { stage: &stage, segment, curvature, buffer: Buffer::Continued })
        .collect();
    let layers = layers();
    let options = SourceOptions { form, ..SourceOptions::default() };
    let walk = Walk::source(&legs, &layers, options).expect("a walk");
    let of_layer = |l: usize| {
        let mut score = 0.0;
        let take = |leg: usize, z: &[f64]| -> Result<(), ()> {
            score += z.iter().zip(gradient(leg, l)).map(|(z, g)| z * g).sum::<f64>() / N;
            Ok(())
        };
        walk.carry(l, &layers[l], query(l), take).expect("the closure does not fail");
        score
    };
    (0..2).map(of_layer).collect()
}

fn slow() -> BTreeMap<String, f64> {
    BTreeMap::from([("slow".to_owned(), SLOW)])
}

/// `-<y, x>` with the change `x` of the parameters that one more weight of the example makes, by torch's rule.
fn by_definition(beta: f64, decay: f64, multiple: [f64; 2]) -> Vec<f64> {
    let of_layer = |l: usize| {
        let (mut x, mut buffer) = (vec![0.0; 4], vec![0.0; 4]);
        for (k, rate) in RATES.iter().enumerate() {
            let segment = usize::from(k >= ENDS[0]);
            let hx = times(&curvature(segment), l, &x);
            let g = gradient(segment, l);
            for p in 0..4 {
                buffer[p] = beta * buffer[p] + hx[p] + decay * x[p] + g[p] / N;
            }
            x.iter_mut().zip(&buffer).for_each(|(x, u)| *x -= rate * multiple[l] * u);
        }
        -query(l).iter().zip(&x).map(|(y, x)| y * x).sum::<f64>()
    };
    (0..2).map(of_layer).collect()
}

#[test]
fn step_by_step_forms_are_the_update_rule() {
    let plain = |momentum| Optimizer::Sgd { momentum, dampening: 0.0, nesterov: false, weight_decay: 0.1 };
    let found = scores(plain(0.0), &slow(), SourceForm::Product);
    close("product", &found, &by_definition(0.0, 0.1, [1.0, SLOW]), 1e-13);
    let found = scores(plain(0.6), &slow(), SourceForm::Momentum);
    close("momentum", &found, &by_definition(0.6, 0.1, [1.0, SLOW]), 1e-13);
    // and the multiple is what makes it so
    let one = by_definition(0.0, 0.1, [1.0, 1.0]);
    let slow = by_definition(0.0, 0.1, [1.0, SLOW]);
    assert!((one[1] - slow[1]).abs() > 0.1 * one[1].abs() && one[0] == slow[0]);
}

/// The exponential of a layer at a quarter of the rates is that of a run at a quarter of the rates.
#[test]
fn the_exponential_has_a_time_for_each_layer() {
    let optimizer = Optimizer::Sgd { momentum: 0.5, dampening: 0.0, nesterov: false, weight_decay: 0.1 };
    let mixed = scores(optimizer.clone(), &slow(), SourceForm::Exponential);
    let all = |rate: f64| BTreeMap::from(["fast", "slow"].map(|layer| (layer.to_owned(), rate)));
    let (fast, slow) = (
        scores(optimizer.clone(), &all(1.0), SourceForm::Exponential),
        scores(optimizer.clone(), &all(SLOW), SourceForm::Exponential),
    );
    close("each layer", &mixed, &[fast[0], slow[1]], 1e-14);
    let (stage, segments, _) = run(optimizer, &self::slow());
    assert_eq!(stage.layer_rate("slow"), SLOW);
    let quarter = segments[0].at_rate(SLOW);
    assert!((quarter.tau - 0.25 * segments[0].tau).abs() < 1e-16);
    // of Σ η = ½ and a factor of 2
    assert!((quarter.tau - 0.25).abs() < 1e-15, "{}", quarter.tau);
}
