//! About three seconds that say how fast this machine does each kind of work: with the job's own code and shapes, on a
//! [miniature](super::miniature) of its model and a few of its examples.

mod bandwidth;
mod bench;
mod decompositions;
mod fit;
mod query_vectors;
mod scores;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use self::bench::{Bench, Timing};
pub use self::decompositions::EigenRate;
use super::architecture::Architecture;
use super::count::{Cost, WorkKind};
use super::miniature::Miniature;
use super::work::NetworkShape;
use crate::job::error::JobError;
use crate::job::number::{Number, with_number};
use crate::job::plan::Plan;
use crate::model::Model;

/// How often each kind of work is measured.
const ROUNDS: usize = 2;

/// Numbers a second that are added to sums, where no stage of the job was asked.
const UNMEASURED_SUMS: f64 = 4e8;

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

impl Plan {
    /// Measures this machine for the work that `cost` counts. A miniature of the model is written to the system's
    /// temporary folder and deleted again; of the run folder's file system an unnamed file is asked for. On the pool
    /// of threads that is current.
    ///
    /// # Errors
    /// [`JobError`] if the miniature cannot be written or does not run.
    pub fn calibrate(&self, cost: &Cost) -> Result<Calibration, JobError> {
        with_number!(self.job.model.dtype, T => calibrate::<T>(self, cost))
    }
}

fn calibrate<T: Number>(plan: &Plan, cost: &Cost) -> Result<Calibration, JobError> {
    let start = Instant::now();
    let training = &plan.training;
    let checkpoint = &training.networks.parameters()[training.last_network()].of[0].0;
    let options = training.networks.options();
    // the miniature of an adapter is one of its base
    let miniature = Miniature::of(checkpoint, options)?;
    let options = &crate::model::LoadOptions { base: None, adapter: None, ..options.clone() };
    let head = Architecture::read(miniature.path(), options)?.head();
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
    let memory = bandwidth::of_memory();
    let mut bench = Bench {
        plan,
        model: &model,
        miniature: &miniature,
        network: NetworkShape { operations: model.operations(), head },
        memory,
        fastest: BTreeMap::new(),
        truncations: Timing::default(),
        sums: Timing::default(),
    };
    bench.warm_up()?;
    let (mut eigen, mut copy, mut sync) = (vec![], 0.0f64, 0.0f64);
    for _ in 0..ROUNDS {
        for kind in &kinds {
            match kind {
                WorkKind::Covariances => bench.covariances::<T>()?,
                WorkKind::Squares => bench.squares::<T>()?,
                WorkKind::Vectors => bench.vectors::<T>()?,
                WorkKind::Truncations => bench.truncations::<T>()?,
                WorkKind::Scores => bench.scores::<T>()?,
                WorkKind::Passes | WorkKind::Eigendecompositions => {}
            }
        }
        eigen = decompositions::seconds(cost, &eigen);
        let (copied, synced) = bandwidth::of_files(&plan.job.output.path);
        (copy, sync) = (copy.max(copied), sync.max(synced));
    }
    let Bench { fastest, truncations, sums, .. } = bench;
    let mut rates: BTreeMap<_, _> = fastest.iter().map(|(kind, fastest)| (*kind, fastest.sink.rate())).collect();
    let passes = fastest.values().fold(Timing::default(), |sum, fastest| sum.and(fastest.model));
    rates.extend([(WorkKind::Passes, passes.rate()), (WorkKind::Truncations, truncations.rate())]);
    rates.retain(|_, rate| *rate > 0.0);
    Ok(Calibration {
        threads: rayon::current_num_threads(),
        rates,
        eigen,
        memory,
        sums: if sums.rate() > 0.0 { sums.rate() } else { UNMEASURED_SUMS },
        copy,
        sync,
        seconds: start.elapsed().as_secs_f64(),
    })
}
