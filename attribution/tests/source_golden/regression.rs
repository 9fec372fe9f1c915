//! Least squares by full-batch descent, where K-FAC is the exact Hessian: one leg for each step is the exact
//! derivative, and averaged parameters change nothing (golden `source_linear_regression`; `docs/method.md`, Source).

use ascribe_attribution::source::{
    LegCheckpoint, LegCurvature, ScoreSum, SourceForm, SourceLeg, SourceOptions, fit_leg,
};
use ascribe_attribution::trajectory::Optimizer;
use ascribe_attribution::{
    Aggregate, Buffer, LabelMode, MemoryVectors, QueryRows, ScoreColumns, Walk, prepare_queries, score,
};
use ascribe_curvature::{Measurement, Reduction};
use serde_json::Value;

use crate::golden::{case, close, cut, flat, lists, stage};
use crate::network::{Data, Example, Target, Tiny, sweep};

fn data(golden: &Value, inputs: &str, targets: &str) -> Data {
    let pairs = lists(&golden[inputs]).into_iter().zip(lists(&golden[targets]));
    Data(pairs.map(|(x, t)| (x, Target::Values(t))).collect::<Vec<Example>>())
}

/// `[Q, M]` flattened, of `n` segments whose checkpoints are the parameters before each step.
fn scores(golden: &Value, n: usize, form: SourceForm, averaged: bool) -> Vec<f64> {
    let (train, queries) = (data(golden, "X", "targets"), data(golden, "query_X", "query_targets"));
    let rates = flat(&golden["etas"]);
    let steps: Vec<usize> = (1..=rates.len()).collect();
    let (stage, segments) = cut(stage("run", &rates, &steps, train.0.len(), Optimizer::sgd()), n);
    let path: Vec<Vec<f64>> = lists(&golden["path"]);
    let networks: Vec<Vec<Tiny>> = segments
        .iter()
        .map(|segment| {
            let mine: Vec<&Vec<f64>> = segment.checkpoints.iter().map(|at| &path[at.index]).collect();
            let mean = |k: usize| mine.iter().map(|theta| theta[k]).sum::<f64>() / mine.len() as f64;
            let mine = if averaged { vec![(0..8).map(mean).collect()] } else { mine.into_iter().cloned().collect() };
            mine.into_iter().map(|theta: Vec<f64>| Tiny::new(&[3, 2], theta)).collect()
        })
        .collect();
    let curvatures: Vec<LegCurvature<f64>> = networks
        .iter()
        .map(|networks| {
            let weight = 1.0 / networks.len() as f64;
            let checkpoints: Vec<_> =
                networks.iter().map(|network| LegCheckpoint { sweep: sweep(network, &train), weight }).collect();
            fit_leg(&checkpoints, LabelMode::Exact { classes: 2 }, vec![], &[]).expect("curvature")
        })
        .collect();
    for factors in curvatures.iter().map(|curvature| &curvature.factors.layers[0]) {
        let basis = factors.basis.as_ref().expect("EK-FAC has one");
        close("eigenvalues of A", &basis.input.values, &flat(&golden["eigenvalues_A"]), 1e-11);
        let lambda = factors.lambda.as_ref().expect("EK-FAC has it");
        close("lambda", lambda.as_slice(), &flat(&golden["lambda_expected"]), 1e-10);
    }
    let legs: Vec<SourceLeg<'_, f64>> = segments
        .iter()
        .zip(&curvatures)
        .map(|(segment, curvature)| SourceLeg { stage: &stage, segment, curvature, buffer: Buffer::Continued })
        .collect();
    let last = Tiny::new(&[3, 2], flat(&golden["W_final"]));
    let walk = Walk::source(&legs, &last.layers, SourceOptions { form, ..SourceOptions::default() }).expect("a walk");
    let mut vectors = MemoryVectors::<f64>::new(&last.layers, n, 2);
    let pass = sweep(&last, &queries);
    prepare_queries(&pass, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[&walk], &mut vectors)
        .expect("queries");
    let mut sum = ScoreSum::new(train.0.len(), 2);
    for (leg, networks) in networks.iter().enumerate() {
        for network in networks {
            let weight = 1.0 / (networks.len() * stage.n_examples()) as f64;
            let add = |columns: ScoreColumns, _| {
                sum.add(columns.examples, &columns.scores);
                Ok(())
            };
            let rows = [QueryRows { vectors: &vectors, leg, weight }];
            score(&sweep(network, &train), 0, &rows, None, add).expect("scores");
        }
    }
    (0..2).flat_map(|q| sum.scores().chunks_exact(2).map(move |row| row[q])).collect()
}

#[test]
fn one_leg_for_each_step_is_the_exact_derivative() {
    let golden = case("source_linear_regression");
    close("six legs", &scores(&golden, 6, SourceForm::Product, false), &flat(&golden["exact_scores"]), 1e-9);
}

#[test]
fn segments_of_several_steps_and_their_mean_parameters() {
    let golden = case("source_linear_regression");
    for averaged in [false, true] {
        let two = scores(&golden, 2, SourceForm::Product, averaged);
        close("two legs, product", &two, &flat(&golden["source_two_segments_product"]), 1e-9);
        let two = scores(&golden, 2, SourceForm::Exponential, averaged);
        close("two legs", &two, &flat(&golden["source_two_segments_exponential"]), 1e-9);
        let one = scores(&golden, 1, SourceForm::Exponential, averaged);
        close("one leg", &one, &flat(&golden["source_one_segment_exponential"]), 1e-9);
    }
}
