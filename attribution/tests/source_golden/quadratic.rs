//! Two segments with constant curvature and gradients that do not commute: closed forms of every optimizer against
//! step-by-step iteration (golden `source_quadratic`; `docs/method.md`, Source).

use std::collections::BTreeSet;

use ascribe_attribution::source::{Conditioner, LegCurvature, SourceError, SourceForm, SourceLeg, SourceOptions};
use ascribe_attribution::trajectory::{LossScale, Optimizer, Segment, StageNumbers, TrainedLayers, TrainingStage};
use ascribe_attribution::{Buffer, Leg, LegFn, Walk};
use ascribe_curvature::Hint;
use ascribe_curvature::{CurvatureKind, Eigenbasis, Eigenpairs, Factors, LayerFactors, LayerSpec, Matrix, SpectralFn};
use serde_json::Value;

use crate::golden::{case, close, cut, flat, items, lists, number, stage};

pub(crate) fn layer(outputs: usize, inputs: usize) -> LayerSpec {
    LayerSpec { name: "fc".into(), outputs, inputs, bias: false, input_group: 0, vocabulary: None }
}

/// Factors with the given eigenvectors.
pub(crate) fn factors(output: &[f64], input: &[f64], lambda: Vec<f64>) -> Factors<f64> {
    let pairs = |vectors: &[f64]| {
        let n = (1..).find(|n| n * n >= vectors.len()).expect("a square");
        Eigenpairs { vectors: Matrix::new(vectors.to_vec(), n, n).into(), values: vec![0.0; n], clipped: 0 }
    };
    let basis = Eigenbasis { output: pairs(output), input: pairs(input) };
    let lambda = Matrix::new(lambda, basis.output.values.len(), basis.input.values.len());
    let layers = vec![LayerFactors::new(Some(basis), Some(lambda))];
    Factors { kind: CurvatureKind::Ekfac, layers }
}

/// The two segments as stages of one step list each.
struct Problem {
    golden: Value,
    legs: Vec<(TrainingStage, Segment, LegCurvature<f64>)>,
}

impl Problem {
    /// `change(l, numbers)` sets the optimizer and whatever else a case needs.
    fn new(change: impl Fn(usize, &mut StageNumbers)) -> Self {
        let golden = case("source_quadratic");
        let leg = |(l, leg): (usize, &Value)| {
            let rates = flat(&leg["etas"]);
            let n = leg["N"].as_u64().expect("a count") as usize;
            let mut numbers = stage(&format!("stage {l}"), &rates, &[rates.len()], n, Optimizer::sgd());
            change(l, &mut numbers);
            let (stage, mut segments) = cut(numbers, 1);
            let factors = factors(&flat(&leg["Us"]), &flat(&leg["Ua"]), flat(&leg["Lambda"]));
            (stage, segments.remove(0), LegCurvature { factors, conditioners: vec![] })
        };
        let legs = items(&golden["legs"]).iter().enumerate().map(leg).collect();
        Self { golden, legs }
    }

    fn conditioned(mut self, preconditioners: &[Vec<f64>]) -> Self {
        for ((_, _, curvature), p) in self.legs.iter_mut().zip(preconditioners) {
            curvature.conditioners = vec![Conditioner::from_preconditioner(&layer(2, 3), p).ok()];
        }
        self
    }

    fn walk(&self, options: SourceOptions) -> Result<Walk<'_, f64>, SourceError> {
        let legs: Vec<SourceLeg<'_, f64>> = self
            .legs
            .iter()
            // the golden run goes on with its optimizer where the second part begins
            .map(|(stage, segment, curvature)| SourceLeg { stage, segment, curvature, buffer: Buffer::Continued })
            .collect();
        Walk::source(&legs, &[layer(2, 3)], options)
    }

    /// Each leg's products, `[Q, O, I]`.
    fn products(&self, walk: &Walk<'_, f64>) -> Vec<Vec<f64>> {
        let mut products = vec![vec![]; 2];
        let take = |leg: usize, vectors: &[f64]| -> Result<(), ()> {
            products[leg] = vectors.to_vec();
            Ok(())
        };
        walk.carry(0, &layer(2, 3), flat(&self.golden["queries"]), take).expect("the closure does not fail");
        products
    }

    /// `[Q, M]` flattened.
    fn scores(&self, products: &[Vec<f64>]) -> Vec<f64> {
        let mut scores = vec![0.0; 8];
        for (leg, product) in items(&self.golden["legs"]).iter().zip(products) {
            for example in items(&leg["g"]) {
                let (m, g) = (example["example"].as_u64().expect("an index") as usize, flat(&example["gradient"]));
                for q in 0..2 {
                    let dot: f64 = product[q * 6..(q + 1) * 6].iter().zip(&g).map(|(z, g)| z * g).sum();
                    scores[q * 4 + m] += dot / number(&leg["N"]);
                }
            }
        }
        scores
    }

    /// Products, carried vectors and scores of a case.
    fn check(&self, name: &str, options: SourceOptions) {
        let want = &self.golden["cases"][name];
        let mut walk = self.walk(options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let products = self.products(&walk);
        // of momentum each query has an entry of its own
        let recorded = |leg: usize, key: &str| -> Vec<f64> {
            let legs = items(&want["legs"]).iter().filter(|entry| entry["leg"] == leg);
            legs.flat_map(|entry| flat(&entry[key])).collect()
        };
        for (l, product) in products.iter().enumerate() {
            if !recorded(l, "ihvp").iter().all(|&x| x == 0.0) {
                close(&format!("{name}: ihvp of leg {l}"), product, &recorded(l, "ihvp"), 1e-12);
            } else {
                assert!(product.iter().all(|&z| z == 0.0), "{name}: leg {l} responds");
            }
        }
        close(name, &self.scores(&products), &flat(&want["scores"]), 1e-12);
        // what reaches the first leg, seen by a leg that changes nothing
        let identity = Factors::identity(1);
        let one = || LegFn::Same(SpectralFn::Constant(1.0));
        walk.legs[0] = Leg::new(&identity, one(), one());
        let carried = [recorded(0, "carried"), recorded(0, "carried_theta")]
            .into_iter()
            .find(|list| !list.is_empty())
            .expect("one of the two is recorded");
        close(&format!("{name}: carried"), &self.products(&walk)[0], &carried, 1e-12);
    }
}

fn options(form: SourceForm) -> SourceOptions {
    SourceOptions { form, ..SourceOptions::default() }
}

fn sgd(momentum: f64, dampening: f64, nesterov: bool, weight_decay: f64) -> Optimizer {
    Optimizer::Sgd { momentum, dampening, nesterov, weight_decay }
}

fn adamw(weight_decay: f64) -> Optimizer {
    Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay }
}

#[test]
fn plain_descent_in_both_forms() {
    let problem = Problem::new(|_, _| ());
    problem.check("product", options(SourceForm::Product));
    problem.check("exponential", options(SourceForm::Exponential));
    // a pair without a buffer is the product
    problem.check("product", options(SourceForm::Momentum));
}

#[test]
fn weight_decay_in_the_gradient_and_on_the_weights() {
    let problem = Problem::new(|_, numbers| numbers.optimizer = sgd(0.0, 0.0, false, 0.07));
    problem.check("product, decay added to the gradient", options(SourceForm::Product));
    let scaled = |numbers: &mut StageNumbers, optimizer| {
        (numbers.optimizer, numbers.loss_scale) = (optimizer, LossScale::Stated(0.25));
    };
    let name = "product, loss scale 0.25, decoupled decay";
    Problem::new(|_, numbers| scaled(numbers, sgd(0.0, 0.0, false, 0.07))).check(name, options(SourceForm::Product));
    // AdamW whose preconditioner is 1 is descent with decoupled decay
    let problem = Problem::new(|_, numbers| scaled(numbers, adamw(0.07))).conditioned(&vec![vec![1.0; 6]; 2]);
    problem.check(name, options(SourceForm::Product));
}

#[test]
fn a_frozen_stage_is_passed_through() {
    let problem = Problem::new(|l, numbers| {
        if l == 1 {
            numbers.trained_layers = TrainedLayers::Only(BTreeSet::new());
        }
    });
    problem.check("product, second stage frozen", options(SourceForm::Product));
}

#[test]
fn preconditioned_descent() {
    let p = lists(&case("source_quadratic")["conditioner"]);
    let problem = Problem::new(|_, numbers| numbers.optimizer = adamw(0.0)).conditioned(&p);
    problem.check("conditioned product", options(SourceForm::Product));
    let problem = Problem::new(|_, numbers| numbers.optimizer = adamw(0.07)).conditioned(&p);
    problem.check("conditioned product, decoupled decay", options(SourceForm::Product));
}

#[test]
fn decay_that_passes_through_the_preconditioner() {
    // with the same P for all parameters it is known: σ̃ + w P
    let (p, w) = (0.4, 0.07);
    let adam = Optimizer::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: w };
    for form in [SourceForm::Exponential, SourceForm::Product] {
        let through = Problem::new(|_, numbers| numbers.optimizer = adam.clone()).conditioned(&vec![vec![p; 6]; 2]);
        let beside = Problem::new(|_, numbers| numbers.optimizer = adamw(w * p)).conditioned(&vec![vec![p; 6]; 2]);
        let scores =
            |problem: &Problem| problem.scores(&problem.products(&problem.walk(options(form)).expect("a walk")));
        close("coupled decay under Adam", &scores(&through), &scores(&beside), 1e-14);
    }
}

#[test]
fn momentum_followed_exactly_and_at_terminal_velocity() {
    for name in ["momentum: heavy ball", "momentum: nesterov", "momentum: dampening = beta"] {
        let golden = case("source_quadratic")["cases"][name].take();
        let nesterov = golden["nesterov"].as_bool().expect("a flag");
        let [beta, dampening, w] = ["beta", "dampening", "weight_decay"].map(|key| number(&golden[key]));
        let problem = Problem::new(|_, numbers| numbers.optimizer = sgd(beta, dampening, nesterov, w));
        problem.check(name, options(SourceForm::Momentum));
        let walk = problem.walk(SourceOptions::default()).expect("a walk");
        let found = problem.scores(&problem.products(&walk));
        close(name, &found, &flat(&golden["terminal_velocity_scores"]), 1e-12);
    }
}

#[test]
fn a_new_buffer_forgets_the_old_one() {
    let problem = Problem::new(|_, numbers| numbers.optimizer = sgd(0.8, 0.0, false, 0.0));
    let mut walk = problem.walk(options(SourceForm::Momentum)).expect("a walk");
    let continued = problem.products(&walk);
    walk.legs[1].buffer = Buffer::New;
    let renewed = problem.products(&walk);
    assert_eq!(continued[1], renewed[1], "the later segment does not see how the earlier one ended");
    // by hand: the pair that the earlier segment gets has no part for the buffer
    let mut alone = problem.walk(options(SourceForm::Momentum)).expect("a walk");
    let identity = Factors::identity(1);
    let one = || LegFn::Same(SpectralFn::Constant(1.0));
    alone.legs[0] = Leg::new(&identity, one(), one());
    let carried = problem.products(&alone)[0].clone();
    alone = problem.walk(options(SourceForm::Momentum)).expect("a walk");
    alone.legs.truncate(1);
    let mut want = vec![];
    let keep = |_: usize, vectors: &[f64]| -> Result<(), ()> {
        want = vectors.to_vec();
        Ok(())
    };
    alone.carry(0, &layer(2, 3), carried, keep).expect("the closure does not fail");
    assert_eq!(renewed[0], want);
    assert!(renewed[0] != continued[0]);
}

#[test]
fn short_training_is_tracin_and_long_training_influence() {
    let problem = Problem::new(|_, _| ());
    let short = 1e-7;
    let walk = problem.walk(SourceOptions { time_scale: short, ..SourceOptions::default() }).expect("a walk");
    let scores: Vec<f64> = problem.scores(&problem.products(&walk)).iter().map(|score| score / short).collect();
    // the next term is τσ/2 < 2e-7 of the first
    close("TracIn limit", &scores, &flat(&problem.golden["tracin_limit"]), 1e-6);
    let mut problem = problem;
    let limit = problem.golden["influence_limit"].take();
    for (_, _, curvature) in &mut problem.legs {
        let layer = &mut curvature.factors.layers[0];
        let lambda = layer.lambda.as_ref().expect("it has eigenvalues");
        let floored = lambda.as_slice().iter().map(|x| x.max(number(&limit["lambda_floor"]))).collect();
        layer.lambda = Some(Matrix::new(floored, 2, 3));
    }
    let walk = problem.walk(SourceOptions { time_scale: 1e6, ..SourceOptions::default() }).expect("a walk");
    close("influence limit", &problem.scores(&problem.products(&walk)), &flat(&limit["scores"]), 1e-12);
}

#[test]
fn what_cannot_be_walked_is_refused() {
    let refused = |problem: &Problem, options| problem.walk(options).expect_err("refused");
    let long = Problem::new(|_, _| ());
    let error = refused(&long, SourceOptions { time_scale: 2.0, ..options(SourceForm::Product) });
    assert_eq!(
        error.to_string(),
        "segment 1: step 0 has rate × curvature = 1.2, above 1, where the product form oscillates"
    );
    assert_eq!(error.hint().as_deref(), Some("use the exponential form, which does not"));
    let adam = Problem::new(|_, numbers| numbers.optimizer = adamw(0.0));
    assert!(matches!(refused(&adam, options(SourceForm::Exponential)), SourceError::NoSecondMoments { leg: 0, .. }));
    let sgd = Problem::new(|_, _| ()).conditioned(&vec![vec![1.0; 6]; 2]);
    let error = refused(&sgd, options(SourceForm::Exponential));
    assert_eq!(error.to_string(), "segment 1 was trained with SGD, which has no second moments, but some were given");
    let error = refused(&long, SourceOptions { time_scale: f64::NAN, ..SourceOptions::default() });
    assert!(matches!(error, SourceError::TimeScale(_)));
    assert_eq!(Walk::<f64>::source(&[], &[], SourceOptions::default()).expect_err("empty"), SourceError::NoLegs);
}
