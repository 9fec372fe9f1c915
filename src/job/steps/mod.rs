//! Doing what was planned, step by step, in a run folder.

pub(in crate::job) mod curvature;
pub(in crate::job) mod queries;
pub(in crate::job) mod rank;
pub(in crate::job) mod saturation;
pub(in crate::job) mod scores;
pub(in crate::job) mod self_influence;
pub(in crate::job) mod sensitivity;
#[cfg(test)]
mod small_memory;
mod spread;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::attribution::store::{Artifact, Checks, Key, Shard, Store, Writer, checks};
use crate::attribution::{Event, Observer, Pass, Sweep};
use crate::curvature::Network;
use crate::data::Batch;
use crate::job::brief::data::InBatches;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::plan::Plan;
use crate::job::request::Job;
use crate::job::request::Precision;
use crate::job::steps::rank::QueryRanking;
use crate::job::steps::saturation::Saturation;
use crate::job::training::networks::TrackedNetwork;

/// Bytes of the longest job file that is read. A folder's own has two thousand.
const JOB_FILE_LIMIT: u64 = 16 << 20;

/// What a step did.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Its stages, in order.
    pub stages: Vec<StageReport>,
    /// What has to be run next, if the step alone does not finish the job (shards).
    pub next: Option<String>,
    /// How far each segment of training went, once its curvature is fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturation: Option<Vec<Saturation>>,
}

/// One stage of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageReport {
    /// Which.
    pub stage: String,
    /// Wall time in this process.
    pub seconds: f64,
    /// Examples, queries or layers that were done in this process.
    pub units: u64,
    /// What is counted.
    pub unit: String,
    /// Whether the whole result was found from an earlier run.
    pub reused: bool,
}

/// An open run folder, and the clock of its stages.
pub(in crate::job) struct Run<'a> {
    pub plan: &'a Plan,
    pub store: Store,
    pub shard: Option<Shard>,
    clock: Clock<'a>,
}

impl Run<'_> {
    pub(in crate::job) fn observer(&self) -> &dyn Observer {
        &self.clock
    }

    /// A network for the next pass.
    pub(in crate::job) fn network(&self, index: usize) -> Result<Arc<TrackedNetwork>, JobError> {
        let networks = &self.plan.training.networks;
        let count = networks.parameters().len() as u64;
        if count > 1 {
            self.observer().event(Event::Checkpoint { number: index as u64 + 1, count });
        }
        networks.get(index)
    }

    /// An artifact of this run folder, or of the one whose curvature is used again.
    pub(in crate::job) fn find(&self, kind: &'static str, key: &Key) -> Result<Option<Artifact>, JobError> {
        if let Some(found) = self.store.find(kind, key)? {
            return Ok(Some(found));
        }
        match &self.plan.reused {
            Some(reused) => Ok(reused.store.find(kind, key)?),
            None => Ok(None),
        }
    }

    /// The training examples of a stage that this process scores.
    pub(super) fn range(&self, stage: usize) -> Range<usize> {
        self.part_of(self.plan.training.stages[stage].train.len())
    }

    /// The examples that a stage's curvature is taken on and that this process adds up.
    pub(super) fn fit_range(&self, stage: usize) -> Range<usize> {
        self.part_of(self.plan.training.stages[stage].fit_data().len())
    }

    /// This process's part of `total` examples.
    fn part_of(&self, total: usize) -> Range<usize> {
        match self.shard {
            Some(shard) => {
                let range = shard.range(total as u64);
                range.start as usize..range.end as usize
            }
            None => 0..total,
        }
    }

    pub(in crate::job) fn sweep<'s, N: Network<Batch = Batch>>(
        &'s self,
        network: &'s N,
        examples: &'s InBatches<'s>,
        range: Range<usize>,
        pass: Pass,
    ) -> Sweep<'s, N> {
        Sweep { network, examples, range, pass, observer: self.observer() }
    }
}

/// Passes events on and keeps the time of each pass.
struct Clock<'a> {
    observer: &'a dyn Observer,
    stages: Mutex<Vec<(Pass, Instant, StageReport)>>,
}

impl Observer for Clock<'_> {
    fn event(&self, event: Event) {
        let mut stages = self.stages.lock().expect("no code panics while it holds the lock");
        let stage = |pass: Pass, reused| StageReport {
            stage: pass.name().into(),
            seconds: 0.0,
            units: 0,
            unit: pass.unit().into(),
            reused,
        };
        match event {
            Event::Started { pass, .. } => stages.push((pass, Instant::now(), stage(pass, false))),
            Event::Advanced { pass, units } => {
                if let Some((_, started, stage)) = stages.iter_mut().rev().find(|(p, ..)| *p == pass) {
                    stage.units += units;
                    stage.seconds = started.elapsed().as_secs_f64();
                }
            }
            Event::Reused { pass } => stages.push((pass, Instant::now(), stage(pass, true))),
            Event::Finished { pass } => {
                if let Some((_, started, stage)) = stages.iter_mut().rev().find(|(p, ..)| *p == pass) {
                    stage.seconds = started.elapsed().as_secs_f64();
                }
            }
            _ => {}
        }
        drop(stages);
        self.observer.event(event);
    }

    fn interrupted(&self) -> bool {
        self.observer.interrupted()
    }
}

impl Job {
    /// Reads a job file, the one that a run folder holds or one written by hand.
    ///
    /// # Errors
    /// If it cannot be read, or a key is unknown, missing or of the wrong kind; the message has the line.
    pub fn read(file: &std::path::Path) -> Result<Self, JobError> {
        let io = |source| JobError::Io { file: file.to_owned(), action: "cannot be read", source };
        let text = crate::foreign_file::read_text(file, JOB_FILE_LIMIT).map_err(io)?;
        toml::from_str(&text).map_err(|error| JobError::Options {
            problem: format!("{}: {}", file.display(), error.to_string().trim_end()),
            hint: Some("the keys are those that every run folder's `job.toml` shows".into()),
        })
    }

    /// The job as a file that [`Job::read`] reads.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a job holds only what TOML can say")
    }
}

impl Plan {
    /// Opens the run folder for writing and does `work` there.
    fn in_run<R>(
        &self,
        shard: Option<Shard>,
        observer: &dyn Observer,
        work: impl FnOnce(&Run<'_>) -> Result<R, JobError>,
    ) -> Result<(R, StepReport), JobError> {
        self.check_results()?;
        self.check_weights()?;
        let writer = shard.map_or(Writer::Whole, Writer::Shard);
        let store = Store::claim(&self.job.output.path, &self.run_key(), writer)?;
        let checked = checks();
        let clock = Clock { observer, stages: Mutex::default() };
        let run = Run { plan: self, store, shard, clock };
        let job_file = self.job.output.path.join("job.toml");
        // the first shard leaves it for `merge`; the others would write the same
        if shard.is_none() || !crate::presence::is_file(&job_file) {
            crate::job::folder::output::write_file(&job_file, self.job.to_toml().as_bytes())?;
        }
        if shard.is_none() {
            // another run may use what this one makes before it ends
            crate::job::folder::output::write_report(self, &StepReport::default())?;
        }
        let result = work(&run)?;
        if shard.is_none() {
            run.tidy_curvature()?;
        }
        let saturation = match self.training.run.is_some() && shard.is_none() && run.round()? == curvature::Round::Done
        {
            true => Some(match self.job.model.dtype {
                Precision::F32 | Precision::Bf16 => run.saturation::<f32>()?,
                Precision::F64 => run.saturation::<f64>()?,
            }),
            false => None,
        };
        let stages = run.clock.stages.into_inner().expect("no code panics while it holds the lock");
        let stages = stages.into_iter().map(|(_, _, stage)| stage).chain(checks_stage(checked)).collect();
        let report = StepReport { stages, next: None, saturation };
        if shard.is_none() {
            crate::job::folder::output::write_report(self, &report)?;
        }
        Ok((result, report))
    }

    /// Fits the curvature: covariances, eigenbases and Λ, as far as the kind needs them. With a shard,
    /// its part of the next of these passes.
    ///
    /// # Errors
    /// [`JobError`].
    pub fn fit(&self, shard: Option<Shard>, observer: &dyn Observer) -> Result<StepReport, JobError> {
        let (next, mut report) = self.in_run(shard, observer, |run| match self.job.model.dtype {
            Precision::F32 | Precision::Bf16 => run.fit_step::<f32>(),
            Precision::F64 => run.fit_step::<f64>(),
        })?;
        report.next = next;
        Ok(report)
    }

    /// Prepares the queries' vectors.
    ///
    /// # Errors
    /// [`JobError`]; [`JobError::MissingStep`] before `fit` is done.
    pub fn query(&self, observer: &dyn Observer) -> Result<StepReport, JobError> {
        let work = |run: &Run<'_>| match self.job.model.dtype {
            Precision::F32 | Precision::Bf16 => run.query::<f32>(&self.all_answers(), &run.fitted::<f32>()?),
            Precision::F64 => run.query::<f64>(&self.all_answers(), &run.fitted::<f64>()?),
        };
        Ok(self.in_run(None, observer, work)?.1)
    }

    /// Scores the training examples, or a shard of them.
    ///
    /// # Errors
    /// [`JobError`]; [`JobError::MissingStep`] before `query` is done.
    pub fn score(&self, shard: Option<Shard>, observer: &dyn Observer) -> Result<StepReport, JobError> {
        let (next, mut report) = self.in_run(shard, observer, |run| match self.job.model.dtype {
            Precision::F32 | Precision::Bf16 => run.score::<f32>(),
            Precision::F64 => run.score::<f64>(),
        })?;
        report.next = next;
        Ok(report)
    }

    /// Fits, prepares queries, scores and ranks: the whole job.
    ///
    /// # Errors
    /// [`JobError`].
    pub fn run(&self, observer: &dyn Observer) -> Result<Vec<QueryRanking>, JobError> {
        if self.queries.is_none() {
            return Err(JobError::NoQueries);
        }
        let work = |run: &Run<'_>| match self.job.model.dtype {
            Precision::F32 | Precision::Bf16 => run.whole::<f32>(),
            Precision::F64 => run.whole::<f64>(),
        };
        self.in_run(None, observer, work)?;
        self.rank()
    }

    /// Joins what shards left, in this run folder and in `from`, as far as it is complete.
    ///
    /// # Errors
    /// [`JobError`]; the store's if parts have gaps, overlap, or belong to another job.
    pub fn merge(&self, from: &[PathBuf], observer: &dyn Observer) -> Result<StepReport, JobError> {
        let (next, mut report) = self.in_run(None, observer, |run| match self.job.model.dtype {
            Precision::F32 | Precision::Bf16 => run.merge::<f32>(from),
            Precision::F64 => run.merge::<f64>(from),
        })?;
        report.next = next;
        Ok(report)
    }
}

/// What comparing files with their checksums has cost since `before`, as a stage; none if nothing was compared.
fn checks_stage(before: Checks) -> Option<StageReport> {
    let (now, stage) = (checks(), "checksums of stored files".to_owned());
    let (units, seconds) = (now.bytes - before.bytes, (now.time - before.time).as_secs_f64());
    (units > 0).then(|| StageReport { stage, seconds, units, unit: "bytes".into(), reused: false })
}

impl Run<'_> {
    fn whole<T: Number>(&self) -> Result<(), JobError> {
        let curvatures = self.fit::<T>()?;
        self.query(&self.plan.all_answers(), &curvatures)?;
        drop(curvatures);
        self.score::<T>()?;
        Ok(())
    }
}
