//! The two passes over training data that a curvature is made of, resumed where they stopped.

use std::collections::BTreeMap;
use std::ops::Range;

use super::counts;
use super::groups::{Group, GroupNetwork};
use super::kinds::{Bases, COVARIANCE, LAMBDA};
use super::stored::{data, with_shapes};
use crate::attribution::store::{Key, Progress};
use crate::attribution::{Error, Pass};
use crate::curvature::gemm::{Products, Real};
use crate::curvature::random::stream;
use crate::curvature::{CovarianceSum, LambdaSum, LayerSpec, Network, Tap, TapSink};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::training::Site;

/// Λ of several fits, from one differentiation.
pub(super) struct LambdaSums<'b, T> {
    sums: Vec<LambdaSum<'b, T>>,
    frozen: Vec<&'b [usize]>,
}

impl<'b, T: Real> LambdaSums<'b, T> {
    fn new(layers: &'b [LayerSpec], bases: &'b [Bases<T>], products: Products) -> Self {
        let sum = |of: &'b Bases<T>| {
            let sum = LambdaSum::new(layers, of.bases.iter().map(Option::as_ref).collect()).with_products(products);
            let h = |l: usize| of.conditioners.get(l)?.as_ref().map(|conditioner| conditioner.h().as_slice());
            match of.conditioners.is_empty() {
                true => sum,
                false => sum.conditioned((0..layers.len()).map(h).collect()),
            }
        };
        Self { sums: bases.iter().map(sum).collect(), frozen: bases.iter().map(|of| of.frozen.as_slice()).collect() }
    }

    fn flush(&mut self, examples: Range<usize>, draws: usize) -> Result<(), crate::curvature::Error> {
        self.sums.iter_mut().try_for_each(|sum| sum.flush(examples.clone(), draws))
    }

    /// The sums, in the order of the fits.
    pub(super) fn into_sums(self) -> Vec<LambdaSum<'b, T>> {
        self.sums
    }
}

impl<T: Real> TapSink for LambdaSums<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), crate::curvature::Error> {
        for (sum, frozen) in self.sums.iter_mut().zip(&self.frozen) {
            if !frozen.contains(&tap.layer.0) {
                sum.tap(tap)?;
            }
        }
        Ok(())
    }
}

impl Run<'_> {
    /// The covariances of some layers of one network; progress is saved under `key`.
    pub(super) fn covariance_pass<T: Number>(
        &self,
        site: Site,
        group: &Group,
        key: &Key,
    ) -> Result<CovarianceSum<T>, JobError> {
        self.plan.check_own_data(site.stage, "covariances")?;
        let range = self.fit_range(site);
        let network = GroupNetwork::new(self.network(site.network)?, group);
        let sum = CovarianceSum::<T>::weighted(&group.specs, self.plan.pair_weights());
        let mut sum = sum.with_products(network.products());
        let mut start = range.start;
        if let Some(partial) = self.store.restore_partial(COVARIANCE, key)? {
            let counts = counts::of_counters(&partial.progress().counters, group.specs.len());
            sum.add_state(|name| partial.f64(name).ok(), &counts)?;
            start = partial.progress().next_example as usize;
        }
        let objectives = self.plan.label_mode_of(site.sample).objectives(stream::COVARIANCE);
        let examples = self.plan.in_batches(self.plan.training.stages[site.stage].data_of(site.sample));
        let sweep = self.sweep(&network, &examples, range.clone(), Pass::Covariance);
        sweep.differentiate(start, &objectives, &mut sum, |sum, chunk| {
            sum.flush(chunk.examples.clone(), objectives.len())?;
            if chunk.save && chunk.examples.end < range.end {
                let counters = counts::counters(&sum.counts());
                self.save(COVARIANCE, key, chunk.examples.end, counters, &sum.state())?;
            }
            Ok(())
        })?;
        Ok(sum)
    }

    /// Λ of some layers of one network for several fits, whose progress is saved under `keys`.
    pub(super) fn lambda_pass<'b, T: Number>(
        &self,
        site: Site,
        group: &'b Group,
        keys: &[Key],
        bases: &'b [Bases<T>],
    ) -> Result<LambdaSums<'b, T>, JobError> {
        self.plan.check_own_data(site.stage, "eigenvalues")?;
        let range = self.fit_range(site);
        let network = GroupNetwork::new(self.network(site.network)?, group);
        let mut sums = LambdaSums::new(&group.specs, bases, network.products());
        let mut start = range.start;
        // sums of one pass are saved one after the other: only a common position can be gone on from
        let partials = keys.iter().map(|key| self.store.restore_partial(LAMBDA, key));
        let partials: Option<Vec<_>> = partials.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
        if let Some(partials) = partials
            && let Some(next) = partials.first().map(|partial| partial.progress().next_example)
            && partials.iter().all(|partial| partial.progress().next_example == next)
        {
            for (sum, partial) in sums.sums.iter_mut().zip(&partials) {
                let examples = partial.progress().counters.get("examples").copied().unwrap_or_default();
                sum.add_state(|name| partial.f64(name).ok(), examples)?;
            }
            start = next as usize;
        }
        // never the covariances' labels: a basis and its eigenvalues must not share their noise
        let objectives = self.plan.label_mode_of(site.sample).objectives(stream::LAMBDA);
        let examples = self.plan.in_batches(self.plan.training.stages[site.stage].data_of(site.sample));
        let sweep = self.sweep(&network, &examples, range.clone(), Pass::Lambda);
        sweep.differentiate(start, &objectives, &mut sums, |sums, chunk| {
            sums.flush(chunk.examples.clone(), objectives.len())?;
            if chunk.save && chunk.examples.end < range.end {
                for (key, sum) in keys.iter().zip(&sums.sums) {
                    let counters = BTreeMap::from([("examples".into(), sum.examples())]);
                    self.save(LAMBDA, key, chunk.examples.end, counters, &sum.state())?;
                }
            }
            Ok(())
        })?;
        Ok(sums)
    }

    fn save(
        &self,
        kind: &'static str,
        key: &Key,
        next: usize,
        counters: BTreeMap<String, u64>,
        state: &[(String, &[f64])],
    ) -> Result<(), Error> {
        let tensors = with_shapes(state);
        Ok(self.store.save_partial(kind, key, &Progress { next_example: next as u64, counters }, &data(&tensors))?)
    }
}
