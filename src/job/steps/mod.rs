//! Doing what was planned, step by step, in a run folder.

mod before;
pub(in crate::job) mod context;
pub(in crate::job) mod curvature;
pub(in crate::job) mod joint_solve;
mod joint_source;
pub(in crate::job) mod loss_check;
mod queries;
mod query_losses;
mod query_tokens;
pub(in crate::job) mod query_vectors;
pub(in crate::job) mod rank;
pub(in crate::job) mod results;
pub(in crate::job) mod sampled_gradients;
mod saturation;
pub(in crate::job) mod scores;
pub(in crate::job) mod self_influence;
pub(in crate::job) mod sensitivity;
mod shortlist;
#[cfg(test)]
mod small_memory;
mod spread;
pub(in crate::job) mod tokens;
mod variants;
#[cfg(test)]
mod written;

use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::attribution::Observer;
use crate::attribution::store::{Checks, Shard, Store, Writer, checks};
use crate::job::error::JobError;
use crate::job::folder::places::JOB;
use crate::job::folder::present::check_results;
use crate::job::folder::rankings::QueryRanking;
use crate::job::folder::record::write_report;
use crate::job::folder::report::{StageReport, StepReport};
use crate::job::folder::whole_file::write_file;
use crate::job::number::{Number, with_number};
use crate::job::plan::Plan;
use crate::job::steps::context::{Clock, Run};

/// Whether a run folder has no artifact that another start could use.
fn nothing_is_finished(folder: &Path) -> bool {
    std::fs::read_dir(folder.join("artifacts")).map_or(true, |mut files| files.next().is_none())
}

impl Plan {
    /// Opens the run folder for writing and does `work` there. A run folder that was made for it and holds nothing
    /// finished goes again if the network's numbers are none.
    fn in_run<R>(
        &self,
        shard: Option<Shard>,
        observer: &dyn Observer,
        work: impl FnOnce(&Run<'_>) -> Result<R, JobError>,
    ) -> Result<(R, StepReport), JobError> {
        let folder = &self.job.output.path;
        let is_new = shard.is_none() && std::fs::symlink_metadata(folder).is_err_and(|e| e.kind() == NotFound);
        let result = self.in_open_run(shard, observer, work).map_err(|error| self.with_checkpoint(error));
        if is_new && matches!(result, Err(JobError::NotFinite { .. })) && nothing_is_finished(folder) {
            // the error is what a person must see, whether or not this succeeds
            let _ = std::fs::remove_dir_all(folder);
        }
        result.map_err(|error| self.name_checkpoint(error))
    }

    /// The error with the checkpoint whose network was in use, if its numbers are none.
    fn with_checkpoint(&self, error: JobError) -> JobError {
        use crate::attribution::Error;
        match (error, self.training.networks.latest()) {
            (
                JobError::Pass(
                    source @ (Error::Curvature(crate::curvature::Error::NonFinite { .. })
                    | Error::NonFiniteScore(_)
                    | Error::NonFiniteQuery { .. }
                    | Error::NonFiniteSample { .. }),
                ),
                Some(network),
            ) => JobError::NotFinite { folders: network.of.iter().map(|(folder, _)| folder.clone()).collect(), source },
            (error, _) => error,
        }
    }

    /// Does `work` in the run folder.
    fn in_open_run<R>(
        &self,
        shard: Option<Shard>,
        observer: &dyn Observer,
        work: impl FnOnce(&Run<'_>) -> Result<R, JobError>,
    ) -> Result<(R, StepReport), JobError> {
        check_results(self)?;
        self.check_weights()?;
        let writer = shard.map_or(Writer::Whole, Writer::Shard);
        let store = Store::claim(&self.job.output.path, &self.run_key(), writer)?;
        let checked = checks();
        let clock = Clock { observer, stages: Mutex::default() };
        let run = Run { plan: self, store, shard, clock };
        let job_file = self.job.output.path.join(JOB);
        // the first shard leaves it for `merge`; the others would write the same
        if shard.is_none() || !crate::presence::is_file(&job_file) {
            write_file(&job_file, self.job.to_toml().as_bytes())?;
        }
        if shard.is_none() {
            // another run may use what this one makes before it ends
            write_report(&run.store, self, self.summary(), &StepReport::default())?;
        }
        run.check_products()?;
        if shard.is_none() {
            self.loss_check(observer)?;
            self.keep_loss_check()?;
        }
        let result = work(&run)?;
        if shard.is_none() {
            run.tidy_curvature()?;
        }
        let saturation = match self.training.run.is_some() && shard.is_none() && run.round()? == curvature::Round::Done
        {
            true => Some(with_number!(self.job.model.dtype, T => run.saturation::<T>()?)),
            false => None,
        };
        let stages = run.clock.stages.into_inner().expect("no code panics while it holds the lock");
        let stages = stages.into_iter().map(|(_, _, stage)| stage).chain(checks_stage(checked)).collect();
        let report = StepReport { stages, next: None, saturation };
        if shard.is_none() {
            write_report(&run.store, self, self.summary(), &report)?;
        }
        Ok((result, report))
    }

    /// Fits the curvature: covariances, eigenbases and Λ, as far as the kind needs them. With a shard,
    /// its part of the next of these passes.
    ///
    /// # Errors
    /// [`JobError`].
    pub fn fit(&self, shard: Option<Shard>, observer: &dyn Observer) -> Result<StepReport, JobError> {
        let (next, mut report) =
            self.in_run(shard, observer, |run| with_number!(self.job.model.dtype, T => run.fit_step::<T>()))?;
        report.next = next;
        Ok(report)
    }

    /// Prepares the queries' vectors.
    ///
    /// # Errors
    /// [`JobError`]; [`JobError::MissingStep`] before `fit` is done.
    pub fn query(&self, observer: &dyn Observer) -> Result<StepReport, JobError> {
        let work = |run: &Run<'_>| {
            let answers = self.all_answers();
            with_number!(self.job.model.dtype, T => run.query::<T>(&answers, &run.fitted::<T>()?))
        };
        Ok(self.in_run(None, observer, work)?.1)
    }

    /// Scores the training examples, or a shard of them.
    ///
    /// # Errors
    /// [`JobError`]; [`JobError::MissingStep`] before `query` is done.
    pub fn score(&self, shard: Option<Shard>, observer: &dyn Observer) -> Result<StepReport, JobError> {
        let (next, mut report) =
            self.in_run(shard, observer, |run| with_number!(self.job.model.dtype, T => run.score_step::<T>()))?;
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
        let work = |run: &Run<'_>| with_number!(self.job.model.dtype, T => run.whole::<T>());
        self.in_run(None, observer, work)?;
        self.rank()
    }

    /// Joins what shards left, in this run folder and in `from`, as far as it is complete.
    ///
    /// # Errors
    /// [`JobError`]; the store's if parts have gaps, overlap, or belong to another job.
    pub fn merge(&self, from: &[PathBuf], observer: &dyn Observer) -> Result<StepReport, JobError> {
        let (next, mut report) =
            self.in_run(None, observer, |run| with_number!(self.job.model.dtype, T => run.merge::<T>(from)))?;
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
    fn score_step<T: Number>(&self) -> Result<Option<String>, JobError> {
        let next = self.score::<T>()?;
        if self.shard.is_none() {
            self.shortlist::<T>()?;
            self.tokens::<T>()?;
        }
        Ok(next)
    }

    fn whole<T: Number>(&self) -> Result<(), JobError> {
        let curvatures = self.fit::<T>()?;
        self.query(&self.plan.all_answers(), &curvatures)?;
        drop(curvatures);
        self.score::<T>()?;
        self.shortlist::<T>()?;
        self.tokens::<T>()
    }
}
