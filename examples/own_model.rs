//! A model of your own: a network of sets of points (Zaheer et al. 2017, Deep Sets), built of this crate's layers,
//! trained here by plain gradient descent, attributed with EK-FAC, and checked against training without each set.
//!
//! `cargo run --release --example own_model`

#![allow(clippy::print_stdout)] // an example talks to its reader

use std::ops::Range;
use std::sync::Arc;

use ascribe::attribution::source::{LegCheckpoint, fit_leg};
use ascribe::attribution::{self, Aggregate, Examples, LabelMode, MemoryVectors, Pass, QueryRows, Sweep, Walk};
use ascribe::curvature::{
    Damping, Error, GradientProducts, Graphs, LayerId, LayerSpec, Linear, Measurement, Network, Objective, Positions,
    Reduction, Section, Tap, TapRecorder, TapSink, Taped, Traced, backward_through,
};
use ascribe::nn::{Activation, classification_loss};
use candle_core::{Device, Tensor};

/// Weight decay of the training objective, which is the curvature's damping too, so that both have one Hessian.
const DECAY: f64 = 0.05;

type Set = [[f64; 2]; 4];
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Sets of points, each of one of two classes. An example's positions are its points.
struct Sets(Vec<Set>, Vec<u32>);

struct SetBatch {
    points: Tensor,
    classes: Vec<u32>,
    keys: Vec<u64>,
    positions: Positions,
}

impl Examples<SetBatch> for Sets {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn positions(&self, _: usize) -> usize {
        4
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        end.min(start + 16)
    }

    fn batch(&self, range: Range<usize>) -> Result<SetBatch, attribution::Error> {
        let coordinates = self.0[range.clone()].as_flattened().as_flattened();
        let points = Tensor::from_slice(coordinates, (4 * range.len(), 2), &Device::Cpu).map_err(Error::from)?;
        let positions = Positions::from_lengths(range.clone().map(|_| 4));
        let (classes, keys) = (self.1[range.clone()].to_vec(), range.map(|m| m as u64).collect());
        Ok(SetBatch { points, classes, keys, positions })
    }
}

/// Logits are `readout(mean over the points of tanh(point(x)))`.
struct SetNetwork([Linear; 2], [LayerSpec; 2]);

impl SetNetwork {
    /// From each layer's `[outputs, inputs + 1]`, the bias last.
    fn new(specs: &[LayerSpec; 2], weights: &[Vec<f64>; 2]) -> Result<Self, Error> {
        let layer = |l: usize| {
            let (outputs, inputs) = (specs[l].outputs, specs[l].inputs);
            let all = Tensor::from_slice(&weights[l], (outputs, inputs + 1), &Device::Cpu)?;
            let bias = all.narrow(1, inputs, 1)?.flatten_all()?;
            Linear::new(all.narrow(1, 0, inputs)?, Some(bias), Some(LayerId(l)))
        };
        Ok(Self([layer(0)?, layer(1)?], specs.clone()))
    }
}

impl Network for SetNetwork {
    type Batch = SetBatch;

    fn layers(&self) -> &[LayerSpec] {
        &self.1
    }

    fn positions<'a>(&self, batch: &'a SetBatch) -> &'a Positions {
        &batch.positions
    }

    fn differentiate(&self, batch: &SetBatch, of: Objective, sink: &mut dyn TapSink) -> Result<Vec<f64>, Error> {
        let [point, readout] = &self.0;
        let points = Taped(|x: &Traced, taps: &TapRecorder| Activation::Tanh.trace(&point.trace(x, taps)?));
        // behind the mean a set has one row, and the readout's taps have to say so
        let single = Arc::new(Positions::single(batch.classes.len()));
        let head = Taped(|x: &Traced, taps: &TapRecorder| {
            readout.trace(&Traced::composed([x], |[x]| x.reshape(((), 4, 6))?.mean(1))?, &taps.at(&single))
        });
        let sections: [&dyn Section; 2] = [&points, &head];
        backward_through(&sections, &batch.points, Graphs::Kept, &batch.positions, sink, |logits, _| {
            classification_loss(logits, &batch.classes, &batch.keys, of)
        })
    }
}

/// Adds up the gradients of all sets but one: taps are all that a trainer needs, too.
struct GradientSum<'a>(&'a [LayerSpec; 2], [Vec<f64>; 2], Option<usize>);

impl TapSink for GradientSum<'_> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let l = tap.layer.0;
        let gradients = GradientProducts::<f64>::default().gradients(tap, &self.0[l])?;
        let sets = gradients.chunks(self.0[l].parameters()).enumerate();
        sets.filter(|(m, _)| Some(*m) != self.2)
            .for_each(|(_, of_set)| self.1[l].iter_mut().zip(of_set).for_each(|(sum, g)| *sum += g));
        Ok(())
    }
}

/// Gradient descent on `1/N Σ loss + decay/2 |w|²` of all sets but one, from `w` on.
fn train(
    sets: &Sets,
    specs: &[LayerSpec; 2],
    w: &mut [Vec<f64>; 2],
    without: Option<usize>,
    steps: usize,
) -> Outcome<()> {
    let all = sets.batch(0..sets.len())?;
    for _ in 0..steps {
        let mut sum = GradientSum(specs, [0, 1].map(|l: usize| vec![0.0; w[l].len()]), without);
        SetNetwork::new(specs, w)?.differentiate(&all, Objective::TrainingLoss, &mut sum)?;
        let gradient = sum.1.iter().flatten();
        w.iter_mut().flatten().zip(gradient).for_each(|(w, g)| *w -= g / sets.len() as f64 + DECAY * *w);
    }
    Ok(())
}

/// Two clouds of points, of which the second is wider and lies to one side.
fn sets(count: usize, seed: usize) -> Sets {
    let number = |k: usize| ((k as f64 * 12.9898).sin() * 43_758.545).fract() * 2.0;
    let point =
        |m: usize, p: usize| [0, 1].map(|axis| number(seed + m * 37 + p * 5 + axis) * (0.8 + 0.5 * (m % 2) as f64));
    let set = |m: usize| [0, 1, 2, 3].map(|p| point(m, p).map(|x| x + 0.6 * (m % 2) as f64 - 0.2));
    Sets((0..count).map(set).collect(), (0..count).map(|m| m as u32 % 2).collect())
}

fn sweep<'a>(network: &'a SetNetwork, examples: &'a Sets, pass: Pass) -> Sweep<'a, SetNetwork> {
    Sweep { network, examples, range: 0..examples.len(), pass, observer: &() }
}

fn main() -> Outcome<()> {
    let spec = |name: &str, [outputs, inputs]: [usize; 2], input_group| LayerSpec {
        name: name.into(),
        outputs,
        inputs,
        bias: true,
        input_group,
        vocabulary: None,
    };
    let (specs, data, queries) = ([spec("point", [6, 2], 0), spec("readout", [2, 6], 1)], sets(24, 1), sets(4, 5_000));
    let mut weights = [0, 1].map(|l: usize| (0..specs[l].parameters()).map(|k| ((k * 7 + l) as f64).sin()).collect());
    train(&data, &specs, &mut weights, None, 1_000)?;

    // the exact Fisher's factors, and each query's gradient through 1 / (Λ + decay)
    let network = SetNetwork::new(&specs, &weights)?;
    let fitted = [LegCheckpoint { sweep: sweep(&network, &data, Pass::Covariance), weight: 1.0 }];
    let factors = fit_leg::<_, f64>(&fitted, LabelMode::Exact { classes: 2 }, vec![None, None], &[])?.factors;
    let walk = Walk::influence(&factors, Damping::Absolute(DECAY));
    let mut vectors = MemoryVectors::new(&specs, 1, queries.len());
    let (ask, measure) = (sweep(&network, &queries, Pass::Queries), Measurement::Loss);
    let before = attribution::prepare_queries(&ask, measure, Reduction::Sum, Aggregate::Each, &[&walk], &mut vectors)?;
    let mut scores = vec![vec![0.0; data.len()]; queries.len()];
    let rows = [QueryRows { vectors: &vectors, leg: 0, weight: 1.0 / data.len() as f64 }];
    attribution::score(&sweep(&network, &data, Pass::Scores), 0, &rows, None, |columns, _| {
        for (place, m) in columns.examples.clone().enumerate() {
            (0..queries.len()).for_each(|q| scores[q][m] = columns.scores[place * queries.len() + q]);
        }
        Ok(())
    })?;

    // what really happens to each query's loss when training goes on without a set
    let mut changes = vec![vec![]; queries.len()];
    for m in 0..data.len() {
        let mut without = weights.clone();
        train(&data, &specs, &mut without, Some(m), 150)?;
        let asked = queries.batch(0..queries.len())?;
        let after = SetNetwork::new(&specs, &without)?.differentiate(&asked, Objective::TrainingLoss, &mut ())?;
        (0..queries.len()).for_each(|q| changes[q].push(after[q] - before[q]));
    }
    let found = scores.iter().zip(&changes).map(|(a, b)| attribution::evaluate::spearman(a, b));
    let mean = found.clone().sum::<f64>() / queries.len() as f64;
    println!(
        "rank correlation with training without each set: {mean:.3}, of the queries {:.3?}",
        found.collect::<Vec<_>>()
    );
    if mean < 0.7 { Err("scores do not predict what training without a set does".into()) } else { Ok(()) }
}
