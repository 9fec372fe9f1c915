//! One leg for each step, exact curvature, and what each example adds to the step's own batch: differentiation through
//! training (golden `source_unrolled_mlp`; `docs/method.md`, Source). All parameters are one layer of one output here.

use ascribe_attribution::source::{Conditioner, LegCurvature, SourceForm, SourceLeg, SourceOptions};
use ascribe_attribution::{Buffer, Walk};
use ascribe_curvature::gemm::Threads;
use ascribe_curvature::{Eigenpairs, SymmetricMatrix};
use serde_json::Value;

use crate::golden::{case, close, cut, flat, items, lists, optimizer, stage};
use crate::network::{Example, Target, Tiny};
use crate::quadratic::{factors, layer};

pub(crate) fn examples(mlp: &Value, inputs: &str, labels: &str) -> Vec<Example> {
    let y = flat(&mlp[labels]);
    lists(&mlp[inputs]).into_iter().zip(y).map(|(x, y)| (x, Target::Class(y as usize))).collect()
}

/// `h H h` as factors: eigenvectors are those of the matrix shifted to be positive.
fn curvature(hessian: &[f64], conditioner: Option<Conditioner<f64>>) -> LegCurvature<f64> {
    let n = 26;
    let h = conditioner.as_ref().map_or(vec![1.0; n], |conditioner| conditioner.h().as_slice().to_vec());
    let entry = |k: usize| h[k / n] * hessian[k] * h[k % n];
    let shift = (0..n).map(|r| (0..n).map(|c| entry(r * n + c).abs()).sum::<f64>()).fold(0.0, f64::max);
    let shifted = SymmetricMatrix::from_fn(n, |r, c| {
        0.5 * (entry(r * n + c) + entry(c * n + r)) + if r == c { shift } else { 0.0 }
    });
    let pairs = Eigenpairs::<f64>::of(&shifted, "all", "input", Threads::One).expect("symmetric");
    let lambda = pairs.values.iter().map(|x| x - shift).collect();
    LegCurvature {
        factors: factors(&[1.0], pairs.vectors.whole().as_slice(), lambda),
        conditioners: conditioner.map_or(vec![], |c| vec![Some(c)]),
    }
}

fn walk_scores(run: &Value, form: SourceForm) -> Vec<f64> {
    let data = examples(&case("mlp"), "X", "Y");
    let (rates, batches) = (flat(&run["etas"]), lists(&run["batches"]));
    let checkpoints: Vec<usize> = (1..=rates.len()).collect();
    let (stage, segments) =
        cut(stage("steps", &rates, &checkpoints, data.len(), optimizer(&run["optimizer"])), rates.len());
    let all = layer(1, 26);
    let networks: Vec<Tiny> = lists(&run["path"]).into_iter().map(|theta| Tiny::new(&[3, 4, 2], theta)).collect();
    let moments = run.get("second_moments_corrected").map(lists);
    let curvatures: Vec<LegCurvature<f64>> = networks
        .iter()
        .zip(&batches)
        .enumerate()
        .map(|(k, (network, batch))| {
            let batch: Vec<&Example> = batch.iter().map(|&m| &data[m as usize]).collect();
            let hessian = network.hessian(&batch);
            if let Some(recorded) = run.get("hessians") {
                close("Hessian", &hessian, &flat(&recorded[k]), 1e-12);
            }
            let conditioner = moments
                .as_ref()
                .map(|moments| Conditioner::from_second_moments(&all, &[&moments[k]], 1e-8).expect("positive moments"));
            curvature(&hessian, conditioner)
        })
        .collect();
    let legs: Vec<SourceLeg<'_, f64>> = segments
        .iter()
        .zip(&curvatures)
        .map(|(segment, curvature)| SourceLeg { stage: &stage, segment, curvature, buffer: Buffer::Continued })
        .collect();
    let walk = Walk::source(
        &legs,
        std::slice::from_ref(&all),
        SourceOptions { form, largest_step: f64::INFINITY, ..SourceOptions::default() },
    )
    .expect("a walk");
    let mut scores = vec![0.0; 12];
    let take = |leg: usize, products: &[f64]| -> Result<(), ()> {
        for &m in &batches[leg] {
            let gradient = networks[leg].gradient(&data[m as usize]);
            for (q, product) in products.chunks_exact(26).enumerate() {
                let dot: f64 = product.iter().zip(&gradient).map(|(z, g)| z * g).sum();
                scores[q * 6 + m as usize] += dot / batches[leg].len() as f64;
            }
        }
        Ok(())
    };
    walk.carry(0, &all, flat(&run["query_gradients"]), take).expect("the closure does not fail");
    scores
}

#[test]
fn one_leg_for_each_step_differentiates_through_training() {
    let golden = case("source_unrolled_mlp");
    let exact = |name: &str, key: &str, form| {
        let run = &golden["runs"][name];
        assert!(items(&run["etas"]).len() == 8, "{name}");
        close(name, &walk_scores(run, form), &flat(&run[key]), 1e-9);
    };
    for form in [SourceForm::Product, SourceForm::Momentum] {
        exact("full batch", "exact_scores", form);
        exact("mini batch", "exact_scores", form);
    }
    exact("heavy ball", "exact_scores", SourceForm::Momentum);
    exact("nesterov, weight decay", "exact_scores", SourceForm::Momentum);
    exact("adamw", "exact_scores_frozen_second_moment", SourceForm::Momentum);
}
