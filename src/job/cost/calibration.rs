//! About two seconds that say how fast this machine does each kind of work: with the job's own code and shapes, on a
//! [miniature](super::miniature) of its model and a few of its examples.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::architecture::Architecture;
use super::miniature::Miniature;
use super::stages;
use super::work::{self, BatchShape};
use super::{Cost, WorkKind};
use crate::attribution::Walk;
use crate::curvature::contraction::{RotationRoute, Shape};
use crate::curvature::gemm::{self, Real, Threads, View, ViewMut};
use crate::curvature::random::stream;
use crate::curvature::{
    BlockDiagonal, BlockWidth, CovarianceSum, CurvatureKind, Damping, Eigenbasis, Eigenpairs, Error, Factors,
    GradientProducts, LambdaSum, LayerFactors, LayerSpec, LowRank, Matrix, Network, Objective, Tap, TapSink,
    Truncation, Vectors, Whitening, first_of_group,
};
use crate::data::{self, Batch};
use crate::job::plan::InBatches;
use crate::job::request::Precision;
use crate::job::run::Number;
use crate::job::{JobError, Plan};
use crate::model::Model;

/// How fast a machine is, at a job's shapes.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Calibration {
    /// Threads that were used, as the job uses them.
    pub threads: usize,
    /// FLOP a second of each kind of work.
    pub rates: BTreeMap<WorkKind, f64>,
    /// Eigendecompositions of some sizes, as many side by side as there are threads.
    pub eigen: Vec<EigenRate>,
    /// Bytes a second that are read from memory.
    pub memory: f64,
    /// Numbers a second that are added to sums in 64 bits.
    pub sums: f64,
    /// Bytes a second into a file that the system may still hold in memory.
    pub copy: f64,
    /// Bytes a second onto the disk.
    pub sync: f64,
    /// How long the calibration took.
    pub seconds: f64,
}

/// An eigendecomposition that was timed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EigenRate {
    /// Rows of the matrix.
    pub n: usize,
    /// Seconds on one thread.
    pub seconds: f64,
}

impl Calibration {
    /// FLOP a second; none if the job has no such work.
    pub(super) fn rate(&self, kind: WorkKind) -> Option<f64> {
        self.rates.get(&kind).copied()
    }

    /// Seconds of one eigendecomposition on one thread: from the measured size that is nearest, by the cube.
    pub(super) fn decomposition(&self, n: usize) -> f64 {
        let distance = |rate: &&EigenRate| (n as f64 / rate.n as f64).ln().abs();
        let nearest = self.eigen.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.map_or(0.0, |rate| rate.seconds * (n as f64 / rate.n as f64).powi(3))
    }

    /// What all threads gain at one large decomposition: 1.6 with two (docs/benchmarks.md).
    pub(super) fn threaded_speedup(&self) -> f64 {
        (self.threads as f64).powf(0.68)
    }
}

/// Time that each kind of work is given.
const SHARE: Duration = Duration::from_millis(280);

/// Most repetitions of one measurement.
const REPEATS: usize = 40;

/// Largest eigendecomposition that is tried, in FLOP as [`work::eigendecomposition`] counts them.
const LARGEST_EIGEN: u128 = 12_000_000_000;

/// Bytes of query vectors that are invented.
const VECTOR_BYTES: usize = 256 << 20;

/// Bytes of memory, and of a file, that are read and written.
const BYTES: usize = 32 << 20;

impl Plan {
    /// Measures this machine for the work that `cost` counts. A miniature of the model is written to the system's
    /// temporary folder and deleted again; of the run folder's file system an unnamed file is asked for. On the pool
    /// of threads that is current.
    ///
    /// # Errors
    /// [`JobError`] if the miniature cannot be written or does not run.
    pub fn calibrate(&self, cost: &Cost) -> Result<Calibration, JobError> {
        match self.job.model.dtype {
            Precision::F64 => calibrate::<f64>(self, cost),
            _ => calibrate::<f32>(self, cost),
        }
    }
}

fn calibrate<T: Number>(plan: &Plan, cost: &Cost) -> Result<Calibration, JobError> {
    let start = Instant::now();
    let training = &plan.training;
    let checkpoint = &training.networks.parameters()[training.last_network()].of[0].0;
    let miniature = Miniature::of(checkpoint)?;
    let architecture = Architecture::read(miniature.path())?;
    let options = training.networks.options();
    let model = match Model::load(miniature.path(), options) {
        Ok(model) => model,
        // the layers that were asked for are in other blocks
        Err(_) => Model::load(
            miniature.path(),
            &crate::model::LoadOptions { selection: Default::default(), ..options.clone() },
        )?,
    };
    let kinds: Vec<WorkKind> = {
        let mut kinds: Vec<_> = cost.stages.iter().flat_map(|stage| stage.work.iter().map(|work| work.kind)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    let memory = memory_bandwidth();
    let mut bench = Bench {
        plan,
        model: &model,
        miniature: &miniature,
        architecture,
        memory,
        sums: 4e8,
        passes: (0.0, 0.0),
        rates: BTreeMap::new(),
    };
    bench.warm_up()?;
    for kind in kinds {
        match kind {
            WorkKind::Covariances => bench.covariances::<T>()?,
            WorkKind::Squares => bench.squares::<T>()?,
            WorkKind::Vectors => bench.vectors::<T>()?,
            WorkKind::Truncations => bench.truncations::<T>()?,
            WorkKind::Scores => bench.scores::<T>()?,
            WorkKind::Passes | WorkKind::Eigendecompositions => {}
        }
    }
    let Bench { passes: (flop, seconds), sums, mut rates, .. } = bench;
    if seconds > 0.0 {
        rates.insert(WorkKind::Passes, flop / seconds);
    }
    let (copy, sync) = file_rates(&plan.job.output.path);
    Ok(Calibration {
        threads: rayon::current_num_threads(),
        rates,
        eigen: decompositions(cost),
        memory,
        sums,
        copy,
        sync,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// What measurements share.
struct Bench<'a> {
    plan: &'a Plan,
    model: &'a Model,
    miniature: &'a Miniature,
    architecture: Architecture,
    memory: f64,
    sums: f64,
    /// FLOP and seconds of all differentiations, without what sinks took.
    passes: (f64, f64),
    rates: BTreeMap<WorkKind, f64>,
}

/// A sink, and how long it took.
struct Timed<'a> {
    sink: &'a mut dyn TapSink,
    seconds: f64,
}

impl TapSink for Timed<'_> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let start = Instant::now();
        let done = self.sink.tap(tap);
        self.seconds += start.elapsed().as_secs_f64();
        done
    }
}

impl<'a> Bench<'a> {
    fn layers(&self) -> &'a [LayerSpec] {
        self.model.layers()
    }

    /// The first examples of the last stage that are at most so many positions together, and at least one.
    fn batch(&self, examples: InBatches<'_>, at_most: usize) -> (Batch, BatchShape) {
        let positions = at_most.min(examples.batch_tokens);
        let range = data::batches(examples.dataset, 0..examples.dataset.len(), positions).next().unwrap_or(0..0);
        let shape = stages::shape(examples.dataset, range.clone());
        (self.miniature.batch(data::batch(examples.dataset, range)), shape)
    }

    fn train(&self) -> InBatches<'a> {
        self.plan.in_batches(self.plan.train())
    }

    /// One differentiation: seconds of the model and of the sink.
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        sink: &mut dyn TapSink,
    ) -> Result<(f64, f64), JobError> {
        let mut timed = Timed { sink, seconds: 0.0 };
        let start = Instant::now();
        self.model.differentiate(batch, objective, &mut timed)?;
        let sink = timed.seconds;
        Ok(((start.elapsed().as_secs_f64() - sink).max(1e-9), sink.max(1e-9)))
    }

    /// Starts threads and touches memory.
    fn warm_up(&self) -> Result<(), JobError> {
        let (batch, _) = self.batch(self.train(), 1);
        self.differentiate(&batch, Objective::TrainingLoss, &mut ())?;
        Ok(())
    }

    /// Repeats a differentiation with a sink until its share of the time is used, first with one example; keeps the
    /// rates of the model and of `kind`. `of` gives the sink's operations for a batch, and seconds that are not theirs.
    fn repeat(
        &mut self,
        kind: WorkKind,
        examples: InBatches<'_>,
        objective: Objective,
        sink: &mut dyn TapSink,
        of: impl Fn(&BatchShape) -> (u128, f64),
    ) -> Result<(), JobError> {
        let graphs = self.plan.training.networks.options().graphs;
        let start = Instant::now();
        let (mut batch, mut shape) = self.batch(examples, 1);
        // operations and seconds of the model and of the sink
        let mut runs: Vec<[f64; 4]> = vec![];
        loop {
            let (model, took) = self.differentiate(&batch, objective, sink)?;
            let (operations, other) = of(&shape);
            let passes = work::pass(self.architecture.shape, &shape, graphs);
            runs.push([passes as f64, model, operations as f64, (took - other).max(0.3 * took)]);
            let left = SHARE.saturating_sub(start.elapsed()).as_secs_f64();
            if runs.len() == 1 {
                // twice, since the first run is the slowest
                let fitting = 2.0 * left / (model + took) * shape.rows as f64;
                (batch, shape) = self.batch(examples, fitting as usize);
            }
            if left <= 0.4 * (model + took) || runs.len() > REPEATS {
                break;
            }
        }
        if runs.len() > 1 {
            runs.remove(0);
        }
        let sum = |part: usize| runs.iter().map(|run| run[part]).sum::<f64>();
        self.passes.0 += sum(0);
        self.passes.1 += sum(1);
        self.rates.insert(kind, sum(2) / sum(3));
        Ok(())
    }

    fn covariances<T: Number>(&mut self) -> Result<(), JobError> {
        let (layers, train) = (self.layers(), self.train());
        let mut sum = CovarianceSum::<T>::new(layers);
        let objective = self.plan.label_mode().objectives(stream::COVARIANCE)[0];
        self.repeat(WorkKind::Covariances, train, objective, &mut sum, |batch| {
            (work::covariances(layers, batch), 0.0)
        })?;
        // twice, since the first touches memory
        sum.flush(0..1, 1)?;
        let start = Instant::now();
        sum.flush(0..1, 1)?;
        let numbers = super::memory::covariance_numbers(layers);
        self.sums = numbers as f64 / start.elapsed().as_secs_f64().max(1e-7);
        Ok(())
    }

    fn squares<T: Number>(&mut self) -> Result<(), JobError> {
        let (layers, train) = (self.layers(), self.train());
        let fit = self.plan.needed_fits().map(|(_, fit)| fit).find(|fit| fit.kind.has_lambda_pass());
        let coordinates = fit.map_or(work::Coordinates::Standard, |fit| stages::coordinates(self.plan, fit));
        let bases = match coordinates {
            work::Coordinates::Standard => vec![None; layers.len()],
            _ => invented_bases::<T>(layers, self.plan.block_width()).into_iter().map(Some).collect(),
        };
        let ones: Vec<Vec<T>> = match coordinates {
            work::Coordinates::ConditionedEigenbasis(_) => {
                layers.iter().map(|l| vec![T::of(1.0); l.parameters()]).collect()
            }
            _ => vec![],
        };
        let mut sum = LambdaSum::new(layers, bases.iter().map(Option::as_ref).collect());
        if !ones.is_empty() {
            sum = sum.conditioned(ones.iter().map(|ones| Some(ones.as_slice())).collect());
        }
        let objective = self.plan.label_mode().objectives(stream::LAMBDA)[0];
        self.repeat(WorkKind::Squares, train, objective, &mut sum, |batch| {
            ((0..layers.len()).map(|l| work::squares(layers, l, batch, coordinates)).sum(), 0.0)
        })
    }

    fn vectors<T: Number>(&mut self) -> Result<(), JobError> {
        let Some(queries) = &self.plan.queries else { return Ok(()) };
        let (layers, width) = (self.layers(), self.plan.block_width());
        let has_basis = self.plan.needed_fits().any(|(_, fit)| fit.kind.has_eigenbasis());
        let layer = |(layer, basis): (&LayerSpec, Eigenbasis<T>)| LayerFactors {
            basis: Some(basis),
            lambda: Some(Matrix::new(vec![1.0; layer.parameters()], layer.outputs, layer.columns())),
        };
        let factors = match has_basis {
            true => Factors {
                kind: CurvatureKind::Ekfac,
                layers: layers.iter().zip(invented_bases(layers, width)).map(layer).collect(),
            },
            false => Factors::identity(layers.len()),
        };
        let walk = Walk::influence(&factors, Damping::default());
        let mut carried = Carried { walk: &walk, layers, products: GradientProducts::default() };
        let objective = Objective::Measurement(self.plan.measure().into(), self.plan.job.method.reduction.into());
        let turns = if has_basis { 2 } else { 0 };
        let at_once = crate::job::queries::queries_at_once(self.plan.training.layers(), self.plan.width() as usize);
        let longest = (0..queries.len()).map(|q| queries.positions(q)).max().unwrap_or(1);
        let batch_tokens = self.plan.in_batches(queries).batch_tokens.min(at_once.saturating_mul(longest));
        self.repeat(WorkKind::Vectors, InBatches { dataset: queries, batch_tokens }, objective, &mut carried, |batch| {
            let of_layer = |layer: &LayerSpec| {
                let (shape, examples) = (batch.at(layer), batch.examples as u128);
                let basis = work::basis(layer, width);
                let route = RotationRoute::cheapest(shape, basis);
                match has_basis && route.has_rows() {
                    true => route.flops(shape, basis) + examples * work::rotation(layer, width),
                    false => work::gradients(layer, batch) + examples * turns * work::rotation(layer, width),
                }
            };
            (layers.iter().map(of_layer).sum(), 0.0)
        })
    }

    fn scores<T: Number>(&mut self) -> Result<(), JobError> {
        let (layers, train) = (self.layers(), self.train());
        let passes = self.plan.score_passes(&self.plan.all_answers());
        let rows = |pass: &crate::job::answers::ScorePass| {
            let queries = self.plan.queries.as_ref().map_or(0, crate::data::Dataset::len);
            crate::attribution::Aggregate::from(self.plan.job.method.aggregate).rows(queries) * pass.contributions.len()
        };
        let form = self.plan.vector_form();
        // of each layer the two sides of its vectors, or the whole and nothing
        let sides = |layer: &LayerSpec| match form.rank_at(layer) {
            None => [layer.parameters(), 0],
            Some(rank) => [rank * layer.outputs, rank * layer.columns()],
        };
        let numbers: usize = layers.iter().flat_map(sides).sum();
        let most = (VECTOR_BYTES / (numbers * size_of::<T>()).max(1)).max(1);
        let queries = passes.iter().map(rows).max().unwrap_or(1).clamp(1, most);
        let mut vectors = vec![T::of(0.0); queries * numbers];
        vectors.par_chunks_mut(1 << 14).for_each(|part| part.fill(T::of(0.01)));
        let mut places = Vec::with_capacity(layers.len());
        let mut rest = vectors.as_slice();
        for layer in layers {
            let [left, right] = sides(layer).map(|n| {
                let (own, others) = rest.split_at(queries * n);
                rest = others;
                own
            });
            places.push(match form.rank_at(layer) {
                None => Vectors::Full(left),
                Some(rank) => Vectors::LowRank(LowRank { rank, left, right }),
            });
        }
        let read = size_of_val(vectors.as_slice()) as f64 / self.memory;
        let mut scored =
            Scored { vectors: &places, layers, products: GradientProducts::default(), queries, scores: vec![] };
        self.repeat(WorkKind::Scores, train, Objective::TrainingLoss, &mut scored, |batch| {
            let of_layer = |layer: &LayerSpec| work::scores(layer, batch, queries, form.rank_at(layer));
            (layers.iter().map(of_layer).sum(), read)
        })
    }

    /// Truncations at the layer whose vectors have most numbers, one on each thread.
    fn truncations<T: Number>(&mut self) -> Result<(), JobError> {
        let form = self.plan.vector_form();
        let low_rank = self.layers().iter().filter_map(|layer| Some((layer, form.rank_at(layer)?)));
        let Some((layer, rank)) = low_rank.max_by_key(|(layer, _)| layer.parameters()) else { return Ok(()) };
        let (o, i) = (layer.outputs, layer.columns());
        let matrix: Vec<T> = (0..o * i).map(|k| T::of(((k * k) as f64 * 0.37).sin())).collect();
        let whitening = Whitening::plain(o, i);
        let start = Instant::now();
        let threads = rayon::current_num_threads();
        let one = |_| Truncation::of(&matrix, &whitening, rank, &layer.name, Threads::One).map(|_| ());
        (0..threads).into_par_iter().with_max_len(1).map(one).collect::<Result<(), Error>>()?;
        let flop = threads as u128 * Truncation::flops(rank, o, i);
        self.rates.insert(WorkKind::Truncations, flop as f64 / start.elapsed().as_secs_f64().max(1e-9));
        Ok(())
    }
}

/// Gradients that go through a walk and are dropped.
struct Carried<'a, T> {
    walk: &'a Walk<'a, T>,
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
}

impl<T: Real> TapSink for Carried<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let l = tap.layer.0;
        let (spec, leg) = (&self.layers[l], &self.walk.legs[0]);
        let factors = &leg.factors.layers[l];
        let shape = Shape::of(tap.positions, spec.outputs, spec.columns());
        let by_rows = |basis: &&Eigenbasis<T>| RotationRoute::cheapest(shape, basis.size()).has_rows();
        if let Some(basis) = factors.basis.as_ref().filter(by_rows) {
            let mut vectors = self.products.rotated_gradients(tap, spec, basis)?;
            leg.spectrum(l, &leg.response).scale(&mut vectors);
            factors.rotate_back(&mut vectors, spec);
            return Ok(());
        }
        let gradients = self.products.gradients(tap, spec)?;
        self.walk.carry(l, spec, gradients, |_, _| Ok(()))
    }
}

/// Products with invented query vectors.
struct Scored<'a, T> {
    vectors: &'a [Vectors<'a, T>],
    layers: &'a [LayerSpec],
    products: GradientProducts<T>,
    queries: usize,
    scores: Vec<f64>,
}

impl<T: Real> TapSink for Scored<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let l = tap.layer.0;
        self.scores.resize(tap.positions.examples() * self.queries, 0.0);
        self.products.add_scores(tap, &self.layers[l], &self.vectors[l..=l], &mut self.scores)
    }
}

/// Matrices in the place of eigenvectors; layers of a group share those of their inputs.
fn invented_bases<T: Real>(layers: &[LayerSpec], width: BlockWidth) -> Vec<Eigenbasis<T>> {
    let pairs = |n: usize| {
        let numbers = |n: usize| (0..n * n).map(|k| T::of(((k * 2_654_435_761) % 1009) as f64 / 504.5 - 1.0)).collect();
        let blocks = width.groups(n).map(|group| Matrix::new(numbers(group.len()), group.len(), group.len()));
        Eigenpairs { vectors: BlockDiagonal::new(blocks.collect()), values: vec![1.0; n], clipped: 0 }
    };
    let mut bases: Vec<Eigenbasis<T>> = vec![];
    for (l, layer) in layers.iter().enumerate() {
        let holder = first_of_group(layers, layer.input_group).filter(|&holder| holder < l);
        let input = holder.map_or_else(|| pairs(layer.columns()), |holder| bases[holder].input.clone());
        bases.push(Eigenbasis { input, output: pairs(layer.outputs) });
    }
    bases
}

/// Seconds of decompositions of the job's sizes, as far as they are quick, on every thread at once.
fn decompositions(cost: &Cost) -> Vec<EigenRate> {
    let mut sizes: Vec<usize> = cost.stages.iter().flat_map(|stage| stage.decomposed.iter().map(|(n, _)| *n)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let quick = |n: &usize| work::eigendecomposition(*n) <= LARGEST_EIGEN;
    let largest = (LARGEST_EIGEN as f64 / 9.0).cbrt() as usize;
    let mut tried: Vec<usize> = sizes.iter().copied().filter(quick).collect();
    // of sizes that differ little one is enough
    tried.dedup_by(|a, b| *a - *b <= *a / 20);
    if !sizes.iter().all(quick) && tried.last().is_none_or(|&n| n < largest * 3 / 4) {
        tried.push(largest);
    }
    let mut found = vec![];
    for n in tried {
        let rows = (0..n * n).map(|k| ((k * k % 1009) as f64 * 0.37).sin()).collect::<Vec<_>>();
        let mut gram = vec![0.0; n * n];
        gemm::add_gram(ViewMut::dense(&mut gram, n, n), View::dense(&rows, n, n), Threads::Pool);
        for r in 0..n {
            for c in 0..r {
                gram[c * n + r] = gram[r * n + c];
            }
        }
        let matrix = Matrix::new(gram, n, n);
        let start = Instant::now();
        let threads = 0..rayon::current_num_threads();
        let done = threads
            .into_par_iter()
            .with_max_len(1)
            .map(|_| Eigenpairs::<f32>::of(&matrix, "calibration", "input", Threads::One).is_ok());
        if done.all(|done| done) {
            found.push(EigenRate { n, seconds: start.elapsed().as_secs_f64() });
        }
    }
    found
}

/// Bytes a second that all threads read together.
fn memory_bandwidth() -> f64 {
    let numbers = vec![1.0f32; BYTES / 2];
    let sum = || numbers.par_chunks(1 << 16).map(|part| part.iter().sum::<f32>()).sum::<f32>();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        std::hint::black_box(sum());
        best = best.min(start.elapsed().as_secs_f64());
    }
    (2 * BYTES) as f64 / best.max(1e-9)
}

/// Bytes a second into a file beside the run folder, and from there onto the disk; guesses if there can be none.
fn file_rates(run: &Path) -> (f64, f64) {
    let folder = run.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let timed = || -> std::io::Result<(f64, f64)> {
        // it has no name, so that nothing is left of it whatever happens
        let mut file = tempfile::tempfile_in(folder)?;
        let bytes = vec![7u8; BYTES];
        let start = Instant::now();
        file.write_all(&bytes)?;
        let copied = start.elapsed().as_secs_f64();
        file.sync_all()?;
        Ok((copied.max(1e-6), start.elapsed().as_secs_f64().max(1e-6)))
    };
    match timed() {
        Ok((copied, synced)) => (BYTES as f64 / copied, BYTES as f64 / synced),
        Err(_) => (1e9, 2e8),
    }
}
