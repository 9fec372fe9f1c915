//! The passes of a run, one call each: what a job does with them is `ascribe::job`'s affair.

use std::ops::Range;

use ascribe::attribution::{
    Aggregate, Error, Examples, LabelMode, MemoryVectors, Pass, QueryRows, Sweep, VectorSource, Walk, prepare_queries,
    quadratic_forms, score,
};
use ascribe::curvature::gemm::Real;
use ascribe::curvature::random::stream;
use ascribe::curvature::{
    Covariance, CovarianceSum, CurvatureKind, Damping, Eigenbasis, Factors, GradientProducts, Lambda, LambdaSum,
    LayerId, LayerSpec, Measurement, Network, Objective, QuadraticForm, Reduction, SpectralFn, Tap, TapSink,
};
use ascribe::data::{self, Batch, Dataset};

/// A dataset in batches of at most this many positions.
pub struct Batched<'a>(pub &'a Dataset, pub usize);

/// Positions of a batch where a test does not care.
pub const BATCH: usize = 512;

impl Examples<Batch> for Batched<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn positions(&self, example: usize) -> usize {
        self.0.positions(example)
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        data::batches(self.0, start..end, self.1).next().map_or(end, |batch| batch.end)
    }

    fn batch(&self, range: Range<usize>) -> Result<Batch, Error> {
        Ok(data::batch(self.0, range))
    }
}

/// All of `examples`.
pub fn sweep<'a, N: Network>(network: &'a N, examples: &'a dyn Examples<N::Batch>, pass: Pass) -> Sweep<'a, N> {
    Sweep { network, examples, range: 0..examples.len(), pass, observer: &() }
}

/// Labels to the number of times an example is differentiated for them.
fn draws(objectives: &[Objective]) -> usize {
    objectives.len()
}

pub fn covariance<N: Network, T: Real>(
    network: &N,
    examples: &dyn Examples<N::Batch>,
    labels: LabelMode,
) -> Result<Covariance, Error> {
    let objectives = labels.objectives(stream::COVARIANCE);
    let mut sum = CovarianceSum::<T>::new(network.layers());
    sweep(network, examples, Pass::Covariance)
        .differentiate(0, &objectives, &mut sum, |sum, end| Ok(sum.flush(end.examples, draws(&objectives))?))?;
    Ok(sum.finish()?)
}

pub fn lambda<N: Network, T: Real>(
    network: &N,
    examples: &dyn Examples<N::Batch>,
    labels: LabelMode,
    bases: Option<&[Eigenbasis<T>]>,
) -> Result<Lambda, Error> {
    let objectives = labels.objectives(stream::LAMBDA);
    let layers = network.layers();
    let bases = (0..layers.len()).map(|l| bases.map(|bases| &bases[l])).collect();
    let mut sum = LambdaSum::<T>::new(layers, bases);
    sweep(network, examples, Pass::Lambda)
        .differentiate(0, &objectives, &mut sum, |sum, end| Ok(sum.flush(end.examples, draws(&objectives))?))?;
    Ok(sum.finish()?)
}

/// Scale of K-FAC's eigenvalues.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KfacScale {
    /// Times the mean number of positions.
    PerExample,
    /// As kronfluence has it.
    PerPosition,
}

/// Curvature, and the covariance it came from where it has one.
pub struct Fitted<T> {
    pub covariance: Option<Covariance>,
    pub factors: Factors<T>,
}

pub fn fit<N: Network, T: Real>(
    network: &N,
    examples: &dyn Examples<N::Batch>,
    kind: CurvatureKind,
    labels: LabelMode,
    scale: KfacScale,
) -> Result<Fitted<T>, Error> {
    let layers = network.layers();
    if kind == CurvatureKind::Identity {
        return Ok(Fitted { covariance: None, factors: Factors::identity(layers.len()) });
    }
    if kind == CurvatureKind::Diagonal {
        let factors = Factors::diagonal(lambda::<N, T>(network, examples, labels, None)?);
        return Ok(Fitted { covariance: None, factors });
    }
    let covariance = covariance::<N, T>(network, examples, labels)?;
    let bases = Eigenbasis::<T>::of_layers(&covariance, layers)?;
    let factors = if kind == CurvatureKind::Kfac {
        let scales = match scale {
            KfacScale::PerExample => Factors::<T>::kfac_scales(&covariance),
            KfacScale::PerPosition => vec![1.0; layers.len()],
        };
        Factors::kfac(bases, &scales)
    } else {
        let lambda = lambda(network, examples, labels, Some(&bases))?;
        Factors::ekfac(bases, lambda)
    };
    Ok(Fitted { covariance: Some(covariance), factors })
}

/// The queries' vectors and their measured values.
pub fn vectors<N: Network, T: Real>(
    network: &N,
    queries: &dyn Examples<N::Batch>,
    factors: &Factors<T>,
    damping: Damping,
    measurement: Measurement,
) -> Result<(MemoryVectors<T>, Vec<f64>), Error> {
    let walk = Walk::influence(factors, damping);
    let mut kept = MemoryVectors::new(network.layers(), 1, queries.len());
    let sweep = sweep(network, queries, Pass::Queries);
    let values = prepare_queries(&sweep, measurement, Reduction::Sum, Aggregate::Each, &[&walk], &mut kept)?;
    Ok((kept, values))
}

/// A score matrix, row by row of queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub queries: usize,
    pub examples: usize,
    pub values: Vec<f32>,
    pub self_influence: Vec<f32>,
}

impl Matrix {
    pub fn row(&self, query: usize) -> Vec<f64> {
        self.values[query * self.examples..(query + 1) * self.examples].iter().copied().map(f64::from).collect()
    }

    pub fn wide(&self) -> Vec<f64> {
        self.values.iter().copied().map(f64::from).collect()
    }
}

/// Scores of `train` with given vectors, times `scale`, and self-influence.
pub fn score_with<N: Network, T: Real>(
    network: &N,
    train: &dyn Examples<N::Batch>,
    vectors: &dyn VectorSource<T>,
    factors: &Factors<T>,
    damping: Damping,
    scale: f64,
) -> Result<Matrix, Error> {
    score_and(network, train, vectors, scale, Some(form(network.layers(), factors, damping)))
}

/// Scores of `train` with given vectors, times `scale`, and the quadratic form if there is one.
pub fn score_and<N: Network, T: Real>(
    network: &N,
    train: &dyn Examples<N::Batch>,
    vectors: &dyn VectorSource<T>,
    scale: f64,
    form: Option<QuadraticForm<'_, T>>,
) -> Result<Matrix, Error> {
    let (queries, examples) = (vectors.queries(), train.len());
    let mut matrix = Matrix { queries, examples, values: vec![0.0; queries * examples], self_influence: vec![] };
    let rows = [QueryRows { vectors, leg: 0, weight: scale }];
    score(&sweep(network, train, Pass::Scores), 0, &rows, form.map(|form| (form, scale)), |columns, _| {
        for (place, m) in columns.examples.clone().enumerate() {
            for q in 0..queries {
                matrix.values[q * examples + m] = columns.scores[place * queries + q] as f32;
            }
        }
        matrix.self_influence.extend(columns.self_influence.iter().map(|value| *value as f32));
        Ok(())
    })?;
    Ok(matrix)
}

/// The quadratic form of influence functions.
pub fn form<'a, T: Real>(layers: &'a [LayerSpec], factors: &'a Factors<T>, damping: Damping) -> QuadraticForm<'a, T> {
    QuadraticForm::new(layers, factors, |l| inverse(factors, damping, l))
}

/// `1 / (σ + damping)` of one layer; 1 for identity curvature.
pub fn inverse<T: Real>(factors: &Factors<T>, damping: Damping, layer: usize) -> SpectralFn {
    let layer = &factors.layers[layer];
    match layer.lambda {
        None => SpectralFn::Constant(1.0),
        Some(_) => SpectralFn::Inverse { damping: layer.damping(damping) },
    }
}

/// A whole run on one network.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub kind: CurvatureKind,
    pub labels: LabelMode,
    pub kfac_scale: KfacScale,
    pub damping: Damping,
    pub measurement: Measurement,
}

impl Run {
    /// Empirical Fisher, relative damping 0.1, K-FAC as in EK-FAC's unit.
    pub fn empirical(kind: CurvatureKind, measurement: Measurement) -> Self {
        let kfac_scale = KfacScale::PerExample;
        Self { kind, labels: LabelMode::Empirical, kfac_scale, damping: Damping::default(), measurement }
    }

    /// The same with labels drawn from the model.
    pub fn sampled(self, seed: u64) -> Self {
        Self { labels: LabelMode::Sampled { seed, draws: 1 }, ..self }
    }

    /// Scores `[Q, N]` with `1/N` in.
    pub fn scores<N: Network, T: Real>(
        &self,
        network: &N,
        train: &dyn Examples<N::Batch>,
        queries: &dyn Examples<N::Batch>,
    ) -> Result<Matrix, Error> {
        let fitted = fit::<N, T>(network, train, self.kind, self.labels, self.kfac_scale)?;
        let (vectors, _) = vectors(network, queries, &fitted.factors, self.damping, self.measurement)?;
        score_with(network, train, &vectors, &fitted.factors, self.damping, 1.0 / train.len() as f64)
    }
}

/// Scores by layer in `f64`, `[layers][B, Q]` of everything that was differentiated.
pub struct LayerScores<'a, T> {
    layers: &'a [LayerSpec],
    vectors: &'a MemoryVectors<T>,
    products: GradientProducts<T>,
    pub scores: Vec<Vec<f64>>,
}

impl<'a, T: Real> LayerScores<'a, T> {
    pub fn new(layers: &'a [LayerSpec], vectors: &'a MemoryVectors<T>) -> Self {
        let products = GradientProducts::default();
        Self { layers, vectors, products, scores: vec![vec![]; layers.len()] }
    }
}

impl<T: Real> TapSink for LayerScores<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe::curvature::Error> {
        let l = tap.layer.0;
        let vectors = self.vectors.vectors(0, LayerId(l)).expect("in memory");
        let mut scores = vec![0.0; tap.positions.examples() * self.vectors.queries()];
        self.products.add_scores(tap, &self.layers[l], &[vectors], &mut scores)?;
        self.scores[l].extend(scores);
        Ok(())
    }
}

/// `[layers][N]`: self-influence of every example by layer, without `1/N`.
pub fn self_influence_by_layer<N: Network, T: Real>(
    network: &N,
    train: &dyn Examples<N::Batch>,
    factors: &Factors<T>,
    damping: Damping,
) -> Result<Vec<Vec<f64>>, Error> {
    let layers = network.layers();
    let of_layer = |layer: usize| {
        let only = |l: usize| if l == layer { inverse(factors, damping, l) } else { SpectralFn::Constant(0.0) };
        let form = QuadraticForm::new(layers, factors, only);
        quadratic_forms(&sweep(network, train, Pass::SelfInfluence), Objective::TrainingLoss, form)
    };
    (0..layers.len()).map(of_layer).collect()
}

/// Every example's gradient by layer, `[layers][B, O, columns]`, from the taps of one batch.
pub struct Gradients<'a, T> {
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
    pub gradients: Vec<Vec<T>>,
}

impl<'a, T: Real> Gradients<'a, T> {
    pub fn new(layers: &'a [LayerSpec]) -> Self {
        Self { layers, products: GradientProducts::default(), gradients: vec![vec![]; layers.len()] }
    }

    /// Of one example of the batch, in `f64`.
    pub fn of(&self, layer: usize, example: usize) -> Vec<f64> {
        let size = self.layers[layer].parameters();
        self.gradients[layer][example * size..(example + 1) * size].iter().map(|x| x.wide()).collect()
    }
}

impl<T: Real> TapSink for Gradients<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe::curvature::Error> {
        let l = tap.layer.0;
        assert!(self.gradients[l].is_empty(), "layer `{}` was tapped twice in one pass", self.layers[l].name);
        self.gradients[l] = self.products.gradients(tap, &self.layers[l])?;
        Ok(())
    }
}
