//! Joining the sums that shards left of a round to the artifacts that one process would have written.

use std::path::PathBuf;

use super::Round;
use super::counts;
use super::kinds::{COVARIANCE, LAMBDA};
use crate::attribution::store::Part;
use crate::curvature::{Counts, CovarianceSum, LambdaSum};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::training::Site;

impl Run<'_> {
    /// Joins the shards' sums of the next round, if they are complete, and says what comes after it; `None` where all
    /// curvature is there.
    pub(in crate::job) fn merge_fit<T: Number>(&self, from: &[PathBuf]) -> Result<Option<String>, JobError> {
        let folders: Vec<PathBuf> =
            std::iter::once(self.store.folder().to_owned()).chain(from.iter().cloned()).collect();
        let place = self.store.folder().display();
        match self.round()? {
            Round::Done => Ok(None),
            Round::Covariances => {
                for site in self.covariance_sites()? {
                    if self.covariance(site)?.is_none() {
                        self.merge_covariance::<T>(site, &folders)?;
                    }
                }
                self.decompose_missing::<T>()?;
                let has_lambda = self.fits().any(|(_, fit)| fit.kind.has_lambda_pass());
                let next = if has_lambda { "fit --shard i/n" } else { "query" };
                Ok(Some(format!("covariances joined; next: `ascribe {next} --out {place}`")))
            }
            Round::Lambdas => {
                for (site, fits) in self.lambda_sites()? {
                    for fit in fits {
                        self.merge_lambda::<T>(fit, site, &folders)?;
                    }
                }
                self.join_halves()?;
                Ok(Some(format!("lambda joined; next: `ascribe query --out {place}`")))
            }
        }
    }

    /// Joins the covariances of one network.
    fn merge_covariance<T: Number>(&self, site: Site, folders: &[PathBuf]) -> Result<(), JobError> {
        let key = self.plan.covariance_key(site);
        let parts = self.complete_parts(folders, COVARIANCE, &key, site)?;
        let counts = merged_counts(&parts, self.plan.training.layers().len())?;
        let writer = self.covariance_writer(site, &counts)?;
        for group in self.groups() {
            let mut sum = CovarianceSum::<T>::weighted(&group.specs, self.plan.pair_weights());
            for part in &parts {
                let part = part.open()?;
                let counts = counts::of_file(&part, group.layers.iter().copied())?;
                sum.add_state(|name| part.f64(&group.name_in_run(name)).ok(), &counts)?;
            }
            self.write_covariance(&writer, &group.specs, &sum.finish()?)?;
        }
        writer.finish()?;
        self.store.remove_partial(COVARIANCE, &key)?;
        Ok(self.store.remove_parts(COVARIANCE, &key)?)
    }

    /// Joins Λ of one fit at one network.
    fn merge_lambda<T: Number>(&self, fit: usize, site: Site, folders: &[PathBuf]) -> Result<(), JobError> {
        let key = self.lambda_key_at(fit, site);
        let parts = self.complete_parts(folders, LAMBDA, &key, site)?;
        let mut writer = None;
        for group in self.groups() {
            let mut sum = LambdaSum::<T>::new(&group.specs, vec![None; group.specs.len()]);
            for part in &parts {
                let part = part.open()?;
                let examples = counts::count(&part, "examples")?;
                sum.add_state(|name| part.f64(&group.name_in_run(name)).ok(), examples)?;
            }
            let lambda = sum.finish()?;
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(self.lambda_writer(fit, site, lambda.examples)?),
            };
            self.write_lambda(writer, &group.specs, &lambda)?;
        }
        if let Some(writer) = writer {
            writer.finish()?;
        }
        self.store.remove_partial(LAMBDA, &key)?;
        Ok(self.store.remove_parts(LAMBDA, &key)?)
    }
}

/// What the covariances of so many layers are means over, from the shards' sums.
fn merged_counts(parts: &[Part], layers: usize) -> Result<Counts, JobError> {
    let mut merged = Counts { positions: vec![0; layers], examples: 0 };
    for part in parts {
        let part = part.open()?;
        let own = counts::of_file(&part, 0..layers)?;
        merged.positions.iter_mut().zip(own.positions).for_each(|(sum, positions)| *sum += positions);
        merged.examples += own.examples;
    }
    Ok(merged)
}
