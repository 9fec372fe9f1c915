//! Two segments of two checkpoints with EK-FAC of the expected Fisher, by SGD and by AdamW, from passes over data to
//! scores (golden `source_mlp`; `docs/method.md`, Source).

use ascribe_attribution::source::{
    Conditioner, LegCheckpoint, LegCurvature, ScoreSum, SourceForm, SourceLeg, SourceOptions, WalkCheckpoint, fit_leg,
    self_influence,
};
use ascribe_attribution::trajectory::{Segment, TrainingStage};
use ascribe_attribution::{
    Aggregate, Buffer, LabelMode, Leg, LegFn, MemoryVectors, QueryRows, Walk, prepare_queries, score,
};
use ascribe_curvature::gemm::Real;
use ascribe_curvature::{
    Eigenpairs, Factors, LambdaSum, LayerId, LayerSpec, Measurement, Network, Objective, Reduction, SpectralFn,
    Spectrum,
};
use candle_core::DType;
use serde_json::Value;

use crate::golden::{case, close, cut, flat, items, lists, number, optimizer, stage, wide};
use crate::network::{Data, Tiny, sweep};
use crate::unrolled::examples;

/// A run of the golden file with its networks and curvature.
pub(crate) struct Run<T> {
    pub(crate) golden: Value,
    pub(crate) train: Data,
    queries: Data,
    pub(crate) last: Tiny,
    /// By leg: the networks that stand for it.
    pub(crate) networks: Vec<Vec<Tiny>>,
    pub(crate) stage: TrainingStage,
    pub(crate) segments: Vec<Segment>,
    pub(crate) curvatures: Vec<LegCurvature<T>>,
}

/// What is averaged over a segment's checkpoints.
#[derive(Clone, Copy, PartialEq)]
enum Average {
    Factors,
    Parameters,
}

impl<T: Real> Run<T> {
    fn new(name: &str, average: Average) -> Self {
        let (mlp, golden) = (case("mlp"), case("source_mlp")[name].take());
        let (train, queries) = (Data(examples(&mlp, "X", "Y")), Data(examples(&mlp, "query_X", "query_Y")));
        let steps: Vec<usize> = flat(&golden["checkpoint_steps"]).iter().map(|&step| step as usize).collect();
        let optimizer = optimizer(&golden["optimizer"]);
        let (stage, segments) = cut(stage("run", &flat(&golden["etas"]), &steps, train.0.len(), optimizer), 2);
        let network = |theta: Vec<f64>| Tiny { dtype: T::DTYPE, ..Tiny::new(&[3, 4, 2], theta) };
        let checkpoints = lists(&golden["checkpoints"]);
        let networks: Vec<Vec<Tiny>> = segments
            .iter()
            .map(|segment| {
                let mine: Vec<Vec<f64>> = segment.checkpoints.iter().map(|at| checkpoints[at.index].clone()).collect();
                match average {
                    Average::Factors => mine.into_iter().map(network).collect(),
                    Average::Parameters => {
                        let mean = |k: usize| mine.iter().map(|theta| theta[k]).sum::<f64>() / mine.len() as f64;
                        vec![network((0..26).map(mean).collect())]
                    }
                }
            })
            .collect();
        let last = network(flat(&golden["theta_final"]));
        let moments = golden.get("second_moments_corrected").map(lists);
        let mut curvatures = vec![];
        for (segment, networks) in segments.iter().zip(&networks) {
            let conditioners = moments.as_ref().map_or(vec![], |moments| {
                let of_layer = |(layer, range): (&LayerSpec, std::ops::Range<usize>)| {
                    let mine: Vec<Vec<T>> = segment
                        .checkpoints
                        .iter()
                        .map(|at| moments[at.index][range.clone()].iter().map(|&v| T::of(v)).collect())
                        .collect();
                    let mine: Vec<&[T]> = mine.iter().map(Vec::as_slice).collect();
                    Some(Conditioner::from_second_moments(layer, &mine, 1e-8).expect("positive moments"))
                };
                last.layers.iter().zip(last.ranges()).map(of_layer).collect()
            });
            let weight = 1.0 / networks.len() as f64;
            let checkpoints: Vec<_> =
                networks.iter().map(|network| LegCheckpoint { sweep: sweep(network, &train), weight }).collect();
            let labels = LabelMode::Exact { classes: 2 };
            curvatures.push(fit_leg(&checkpoints, labels, conditioners, &[]).expect("curvature"));
        }
        Self { golden, train, queries, last, networks, stage, segments, curvatures }
    }

    pub(crate) fn walk(&self, form: SourceForm) -> Walk<'_, T> {
        let legs: Vec<SourceLeg<'_, T>> = self
            .segments
            .iter()
            .zip(&self.curvatures)
            .map(|(segment, curvature)| SourceLeg { stage: &self.stage, segment, curvature, buffer: Buffer::Continued })
            .collect();
        Walk::source(&legs, &self.last.layers, SourceOptions { form, ..SourceOptions::default() }).expect("a walk")
    }

    /// Each leg's products as the golden file has them, `[L][Q, P]`, and where the scorer finds them.
    fn prepared(&self, walk: &Walk<'_, T>) -> (Vec<Vec<f64>>, MemoryVectors<T>) {
        use ascribe_attribution::VectorSource;
        let layers = &self.last.layers;
        let mut vectors = MemoryVectors::new(layers, walk.legs.len(), 2);
        let sweep = sweep(&self.last, &self.queries);
        prepare_queries(&sweep, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[walk], &mut vectors)
            .expect("queries");
        let of_query = |leg: usize, q: usize| {
            let part = |l: usize| {
                let size = layers[l].parameters();
                wide(
                    &vectors.vectors(leg, LayerId(l)).expect("in memory").full().expect("whole")
                        [q * size..(q + 1) * size],
                )
            };
            (0..layers.len()).flat_map(part).collect::<Vec<f64>>()
        };
        let products = (0..walk.legs.len()).map(|leg| (0..2).flat_map(|q| of_query(leg, q)).collect()).collect();
        (products, vectors)
    }

    /// `[Q, M]` flattened.
    fn scores(&self, vectors: &MemoryVectors<T>) -> Vec<f64> {
        let mut sum = ScoreSum::new(self.train.0.len(), 2);
        for (leg, networks) in self.networks.iter().enumerate() {
            let weight = 1.0 / (networks.len() * self.stage.n_examples()) as f64;
            for network in networks {
                let rows = [QueryRows { vectors, leg, weight }];
                score(&sweep(network, &self.train), 0, &rows, None, |columns, _| {
                    sum.add(columns.examples, &columns.scores);
                    Ok(())
                })
                .expect("scores");
            }
        }
        (0..2).flat_map(|q| sum.scores().chunks_exact(2).map(move |row| row[q])).collect()
    }

    fn self_influence(&self, walk: &Walk<'_, T>) -> Vec<f64> {
        let mut checkpoints = vec![];
        for (leg, networks) in self.networks.iter().enumerate() {
            let weight = 1.0 / (networks.len() * self.stage.n_examples()) as f64;
            checkpoints.extend(networks.iter().map(|network| WalkCheckpoint { network, leg, weight }));
        }
        self_influence(&sweep(&self.last, &self.train), walk, &checkpoints).expect("self-influence")
    }
}

/// `U diag(values) Uᵀ`.
fn rebuilt(pairs: &Eigenpairs<f64>) -> Vec<f64> {
    let (n, u) = (pairs.values.len(), pairs.vectors.whole());
    let entry = |k: usize| (0..n).map(|j| u.row(k / n)[j] * pairs.values[j] * u.row(k % n)[j]).sum();
    (0..n * n).map(entry).collect()
}

fn each<T: Real>(spectrum: Spectrum<T>) -> Vec<f64> {
    match spectrum {
        Spectrum::Each(values) => wide(&values),
        Spectrum::All(_) => panic!("EK-FAC has eigenvalues"),
    }
}

#[test]
fn every_intermediate_value_of_both_optimizers() {
    for name in ["sgd", "adamw"] {
        let run = Run::<f64>::new(name, Average::Factors);
        let golden = &run.golden["exponential"];
        let mut walk = run.walk(SourceForm::Exponential);
        let layers = &run.last.layers;
        for (l, leg) in items(&golden["legs"]).iter().enumerate() {
            let what = |what: &str| format!("{name}, leg {l}: {what}");
            let curvature = &run.curvatures[l];
            assert!((run.segments[l].rate_sum - number(&leg["sum_eta"])).abs() < 1e-15, "{}", what("Σ η"));
            for (k, factors) in curvature.factors.layers.iter().enumerate() {
                let basis = factors.basis.as_ref().expect("EK-FAC has one");
                close(&what("A"), &rebuilt(&basis.input), &flat(&leg["A"][k]), 1e-11);
                close(&what("S"), &rebuilt(&basis.output), &flat(&leg["S"][k]), 1e-11);
                let lambda = factors.lambda.as_ref().expect("EK-FAC has it");
                close(&what("lambda"), lambda.as_slice(), &flat(&leg["lambda_"][k]), 1e-10);
                close(
                    &what("decay"),
                    &each(walk.legs[l].spectrum(k, &walk.legs[l].decay)),
                    &flat(&leg["decay"][k]),
                    1e-10,
                );
                let response = each(walk.legs[l].spectrum(k, &walk.legs[l].response));
                close(&what("response"), &response, &flat(&leg["response"][k]), 1e-10);
                if let Some(Some(conditioner)) = curvature.conditioners.get(k) {
                    close(&what("h"), conditioner.h().as_slice(), &flat(&leg["condition"][k]), 1e-14);
                    close(&what("ρ"), conditioner.rows(), &flat(&leg["condition_rows"][k]), 1e-14);
                    close(&what("π"), conditioner.columns(), &flat(&leg["condition_columns"][k]), 1e-14);
                }
            }
            for (a, network) in run.networks[l].iter().enumerate() {
                let bases = curvature.factors.layers.iter().map(|factors| factors.basis.as_ref()).collect();
                let mut slices = vec![None; layers.len()];
                for (slice, conditioner) in slices.iter_mut().zip(&curvature.conditioners) {
                    *slice = conditioner.as_ref().map(|conditioner| conditioner.h().as_slice());
                }
                let mut sum = LambdaSum::new(layers, bases).conditioned(slices);
                let objectives = [0, 1].map(|class| Objective::ExpectedLoss { class });
                let sweep = sweep(network, &run.train);
                let end = |sum: &mut LambdaSum<'_, f64>, chunk: ascribe_attribution::ChunkEnd| {
                    Ok(sum.flush(chunk.examples, 2)?)
                };
                sweep.differentiate(0, &objectives, &mut sum, end).expect("a pass");
                let lambda = sum.finish().expect("six examples");
                let found: Vec<f64> = lambda.layers.iter().flat_map(|matrix| matrix.as_slice().to_vec()).collect();
                close(&what("lambda of a checkpoint"), &found, &flat(&leg["lambda_per_checkpoint"][a]), 1e-10);
            }
        }
        let (products, vectors) = run.prepared(&walk);
        for (l, product) in products.iter().enumerate() {
            close(&format!("{name}: ihvp of leg {l}"), product, &flat(&golden["ihvp"][l]), 1e-10);
        }
        close(&format!("{name}: scores"), &run.scores(&vectors), &flat(&golden["scores"]), 1e-9);
        close(&format!("{name}: self-influence"), &run.self_influence(&walk), &flat(&golden["self_influence"]), 1e-9);
        // what is carried into each leg, seen by a leg that changes nothing
        let identity = Factors::identity(layers.len());
        let one = || LegFn::Same(SpectralFn::Constant(1.0));
        for l in (0..2).rev() {
            walk.legs[l] = Leg::new(&identity, one(), one());
            let (products, _) = run.prepared(&walk);
            close(&format!("{name}: carried into leg {l}"), &products[l], &flat(&golden["carried"][l]), 1e-10);
            walk = run.walk(SourceForm::Exponential);
        }
    }
}

#[test]
fn the_product_form_and_averaged_parameters() {
    for name in ["sgd", "adamw"] {
        for (average, form, key) in
            [(Average::Factors, SourceForm::Product, "product"), (Average::Parameters, SourceForm::Exponential, "fast")]
        {
            let run = Run::<f64>::new(name, average);
            let (walk, golden) = (run.walk(form), &run.golden[key]);
            let (_, vectors) = run.prepared(&walk);
            close(&format!("{name}, {key}"), &run.scores(&vectors), &flat(&golden["scores"]), 1e-9);
            let own = run.self_influence(&walk);
            close(&format!("{name}, {key}: self-influence"), &own, &flat(&golden["self_influence"]), 1e-9);
            for (l, lambda) in golden.get("lambda_").map_or(&[][..], |list| items(list)).iter().enumerate() {
                let layers = run.curvatures[l].factors.layers.iter();
                let found: Vec<f64> =
                    layers.flat_map(|f| f.lambda.as_ref().expect("EK-FAC has it").as_slice().to_vec()).collect();
                close(&format!("{name}, {key}: lambda"), &found, &flat(lambda), 1e-10);
            }
        }
    }
}

#[test]
fn single_precision() {
    for name in ["sgd", "adamw"] {
        let run = Run::<f32>::new(name, Average::Factors);
        assert_eq!(run.last.dtype, DType::F32);
        let walk = run.walk(SourceForm::Exponential);
        let (_, vectors) = run.prepared(&walk);
        close(&format!("{name} in f32"), &run.scores(&vectors), &flat(&run.golden["exponential"]["scores"]), 1e-4);
    }
}

impl Run<f64> {
    pub(crate) fn sgd() -> Self {
        Self::new("sgd", Average::Factors)
    }

    pub(crate) fn adamw() -> Self {
        Self::new("adamw", Average::Factors)
    }
}

/// Everything that the networks of these tests are asked for is there.
#[test]
fn taps_are_those_of_the_golden_network() {
    let mlp = case("mlp");
    let network = Tiny::new(&[3, 4, 2], flat(&mlp["theta"]));
    assert_eq!(network.layers().len(), 2);
    let gradients: Vec<f64> = examples(&mlp, "X", "Y").iter().flat_map(|example| network.gradient(example)).collect();
    close("per-example gradients", &gradients, &flat(&mlp["per_example_gradients"]), 1e-14);
}
