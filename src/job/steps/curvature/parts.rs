//! The sums that a shard leaves of a round of passes, and all shards' sums together.

use std::ops::Range;
use std::path::PathBuf;

use super::counts;
use super::kinds::{COVARIANCE, LAMBDA};
use super::stored::{data, with_shapes};
use crate::attribution::store::{Key, Metadata, Part, check_cover, list_parts};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::training::{Site, Training};

impl Run<'_> {
    /// A shard's sums for the covariances of one network, unless they are there.
    pub(super) fn covariance_part<T: Number>(&self, site: Site) -> Result<(), JobError> {
        let (key, range) = (self.plan.covariance_key(site), self.fit_range(site));
        if self.has_part(COVARIANCE, &key, &range)? {
            return Ok(());
        }
        let shard = range.start as u64..range.end as u64;
        let Some(group) = self.whole_group() else {
            let groups = self.covariance_groups::<T>(site)?;
            return self.join_covariance_part(&key, shard, &groups);
        };
        let sum = self.covariance_pass::<T>(site, &group, &key)?;
        let counts = counts::metadata(&sum.counts());
        let state = sum.state();
        let tensors = with_shapes(&state);
        self.store.write_part(COVARIANCE, &key, shard, &data(&tensors), &counts)?;
        Ok(self.store.remove_partial(COVARIANCE, &key)?)
    }

    /// A shard's sums for Λ of one network, for those fits that lack them.
    pub(super) fn lambda_part<T: Number>(&self, site: Site, fits: &[usize]) -> Result<(), JobError> {
        let range = self.fit_range(site);
        let mut missing = vec![];
        for &fit in fits {
            if !self.has_part(LAMBDA, &self.lambda_key_at(fit, site), &range)? {
                missing.push(fit);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let bases = self.bases_of::<T>(&missing)?;
        let keys: Vec<Key> = missing.iter().map(|&fit| self.lambda_key_at(fit, site)).collect();
        let shard = range.start as u64..range.end as u64;
        let Some(group) = self.whole_group() else {
            for (key, groups) in keys.iter().zip(self.lambda_groups(site, &missing, &bases)?) {
                self.join_lambda_part(key, shard.clone(), &groups)?;
            }
            return Ok(());
        };
        let sums = self.lambda_pass(site, &group, &keys, &bases)?;
        for (key, sum) in keys.iter().zip(sums.into_sums()) {
            let counts = Metadata::from([("examples".into(), sum.examples().to_string())]);
            let state = sum.state();
            let tensors = with_shapes(&state);
            self.store.write_part(LAMBDA, key, shard.clone(), &data(&tensors), &counts)?;
            self.store.remove_partial(LAMBDA, key)?;
        }
        Ok(())
    }

    /// Whether this shard's part is there, or its range holds no example.
    fn has_part(&self, kind: &'static str, key: &Key, range: &Range<usize>) -> Result<bool, JobError> {
        let wanted = range.start as u64..range.end as u64;
        Ok(range.is_empty() || self.store.parts(kind, key)?.iter().any(|part| part.range == wanted))
    }

    /// All shards' parts of one sum, in order.
    ///
    /// # Errors
    /// The store's if parts have gaps or overlap, or if there are parts of another job alone.
    pub(super) fn complete_parts(
        &self,
        folders: &[PathBuf],
        kind: &'static str,
        key: &Key,
        site: Site,
    ) -> Result<Vec<Part>, JobError> {
        let found = list_parts(folders, kind)?;
        let (mut parts, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|part| part.key == *key);
        // another pass of this job is no stranger
        let known = self.known_part_keys()?;
        parts.extend(others.into_iter().filter(|part| !known.contains(&part.key)));
        parts.sort_by_key(|part| part.range.start);
        check_cover(&parts, kind, key, self.plan.training.stages[site.stage].data_of(site.sample).len() as u64)?;
        Ok(parts)
    }

    /// Keys of all sums that shards may leave for this job.
    fn known_part_keys(&self) -> Result<Vec<Key>, JobError> {
        let covariances =
            Training::sites(&self.plan.training.fits).into_iter().map(|site| self.plan.covariance_key(site));
        let fits = self.plan.training.fits.iter().filter(|fit| fit.kind.has_lambda_pass());
        let lambdas = fits.flat_map(|fit| {
            let places = fit.places.iter().flat_map(|place| fit.samples().iter().map(move |&sample| (place, sample)));
            places.map(move |(place, sample)| self.plan.lambda_key_on(fit, place, sample))
        });
        Ok(covariances.chain(lambdas).collect())
    }
}
