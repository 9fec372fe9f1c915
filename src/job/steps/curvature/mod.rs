//! Curvature of a run: found in the store, or fitted there.
//!
//! Two rounds of passes over the training data: covariances at every network, then Λ of every network in the
//! eigenbasis of each fit that it is a part of. Fits that share a network share its differentiation.

mod counts;
mod decomposition;
mod groups;
mod halves;
mod kinds;
mod merge;
mod parts;
mod passes;
mod stored;

use self::kinds::{COVARIANCE, LAMBDA};
use crate::attribution::source::{LambdaPool, LegCurvature};
use crate::attribution::store::Key;
use crate::attribution::{Error, Event, Pass};
use crate::curvature::{CurvatureKind, Factors, Lambda};
use crate::job::brief::keys::site;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::training::{Fit, Site, Training};

/// The round of passes that the curvature still lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum Round {
    /// Covariances, and the eigenbases made of them.
    Covariances,
    /// Λ.
    Lambdas,
    /// Everything is there.
    Done,
}

impl Run<'_> {
    /// Fits that an answer needs.
    fn fits(&self) -> impl Iterator<Item = (usize, &Fit)> {
        self.plan.needed_fits()
    }

    /// What is to be done next.
    pub(in crate::job) fn round(&self) -> Result<Round, JobError> {
        Ok(match self.fits_without_eigenbasis()?.is_empty() {
            false => Round::Covariances,
            true if self.fits_without_lambda()?.is_empty() => Round::Done,
            true => Round::Lambdas,
        })
    }

    /// Networks whose covariances a missing eigenbasis is made of.
    fn covariance_sites(&self) -> Result<Vec<Site>, JobError> {
        Ok(Training::sites(self.fits_without_eigenbasis()?))
    }

    /// Where passes have to make the missing Λ of some fits, and these fits.
    fn lambda_sites(&self) -> Result<Vec<(Site, Vec<usize>)>, JobError> {
        let mut sites: Vec<(Site, Vec<usize>)> = vec![];
        for (index, fit, place) in self.fits_without_lambda()? {
            for &sample in fit.samples() {
                let at = Site { sample, ..site(fit, place) };
                let key = self.lambda_key_at(index, at);
                if self.find(LAMBDA, &key)?.is_some() {
                    continue;
                }
                match sites.iter_mut().find(|(site, _)| *site == at) {
                    None => sites.push((at, vec![index])),
                    // without an eigenbasis a half's own Λ is that which the whole needs of it
                    Some((_, fits)) => match fits.iter_mut().find(|other| self.lambda_key_at(**other, at) == key) {
                        None => fits.push(index),
                        Some(same) => *same = index,
                    },
                }
            }
        }
        sites.sort_by_key(|(site, _)| (site.stage, site.network));
        Ok(sites)
    }

    /// The curvatures, fitted where they are not there yet.
    pub(in crate::job) fn fit<T: Number>(&self) -> Result<Vec<LegCurvature<T>>, JobError> {
        self.keep_second_moments()?;
        if self.round()? == Round::Covariances {
            for site in self.covariance_sites()? {
                match self.covariance(site)? {
                    Some(_) => self.observer().event(Event::Reused { pass: Pass::Covariance }),
                    None => match self.whole_group() {
                        Some(group) => {
                            let key = self.plan.covariance_key(site);
                            let covariance = self.covariance_pass::<T>(site, &group, &key)?.finish()?;
                            self.keep_covariance(site, &covariance)?;
                        }
                        None => {
                            let groups = self.covariance_groups::<T>(site)?;
                            self.join_covariances::<T>(site, &groups)?;
                        }
                    },
                }
            }
            self.decompose_missing::<T>()?;
        }
        self.join_halves()?;
        for (site, fits) in self.lambda_sites()? {
            let curvatures = self.bases_of::<T>(&fits)?;
            match self.whole_group() {
                Some(group) => {
                    let keys: Vec<Key> = fits.iter().map(|&fit| self.lambda_key_at(fit, site)).collect();
                    let sums = self.lambda_pass(site, &group, &keys, &curvatures)?;
                    for (fit, sum) in fits.iter().zip(sums.into_sums()) {
                        self.keep_lambda(*fit, site, &sum.finish()?)?;
                    }
                }
                None => {
                    for (fit, groups) in fits.iter().zip(self.lambda_groups(site, &fits, &curvatures)?) {
                        self.join_lambda::<T>(*fit, site, &groups)?;
                    }
                }
            }
            self.join_halves()?;
        }
        self.fitted()
    }

    /// Removes what a process that was killed may have left on the way to curvature and vectors that are there now.
    pub(in crate::job) fn tidy_curvature(&self) -> Result<(), JobError> {
        self.forget_sampled_gradients()?;
        if self.round()? == Round::Done {
            for kind in [decomposition::EIGENBASIS_PART, groups::COVARIANCE_GROUP, groups::LAMBDA_GROUP] {
                self.store.remove_kind(kind)?;
            }
            // of passes over all examples that an earlier start began, before halves made their sums
            for (_, fit) in self.fits().filter(|(_, fit)| fit.in_halves) {
                for place in &fit.places {
                    self.store.remove_partial(COVARIANCE, &self.plan.covariance_key(site(fit, place)))?;
                    self.store.remove_partial(LAMBDA, &self.plan.lambda_key(fit, place))?;
                }
            }
        }
        Ok(())
    }

    /// The curvatures of an earlier `fit`, one for each of the training's; those that no answer needs are empty.
    pub(in crate::job) fn fitted<T: Number>(&self) -> Result<Vec<LegCurvature<T>>, JobError> {
        let needed: Vec<usize> = self.fits().map(|(index, _)| index).collect();
        let layers = self.plan.training.layers();
        let all = self.plan.training.fits.iter().enumerate();
        all.map(|(index, fit)| match needed.contains(&index) {
            true => Ok(LegCurvature { factors: self.factors(fit)?, conditioners: fit.conditioners(layers)? }),
            false => Ok(LegCurvature { factors: Factors::identity(layers.len()), conditioners: vec![] }),
        })
        .collect()
    }

    /// The curvature of one fit, without what conditions it.
    pub(in crate::job) fn factors<T: Number>(&self, fit: &Fit) -> Result<Factors<T>, JobError> {
        let layers = self.plan.training.layers();
        let missing =
            || JobError::MissingStep { folder: self.store.folder().to_owned(), what: "the curvature", step: "fit" };
        let bases = || self.eigenbases::<T>(fit)?.ok_or_else(missing);
        let factors = match fit.kind {
            CurvatureKind::Identity => Factors::identity(layers.len()),
            CurvatureKind::Diagonal => Factors::diagonal(self.lambda_of(fit)?.ok_or_else(missing)?),
            CurvatureKind::Adam => Factors::adam(self.lambda_of(fit)?.ok_or_else(missing)?),
            CurvatureKind::Kfac => {
                let (bases, mean_positions) = bases()?;
                let scales = match self.plan.job.method.kfac_scale {
                    crate::job::request::KfacScale::PerExample => mean_positions,
                    crate::job::request::KfacScale::PerPosition => vec![1.0; layers.len()],
                };
                let fitted = bases.into_iter().zip(scales).filter_map(|(basis, scale)| Some((basis?, scale)));
                let (bases, scales): (Vec<_>, Vec<_>) = fitted.unzip();
                Factors::kfac(bases, &scales)
            }
            CurvatureKind::Ekfac | CurvatureKind::Soap => {
                let lambda = self.lambda_of(fit)?.ok_or_else(missing)?;
                Factors { kind: fit.kind, ..Factors::ekfac_of_trained(bases()?.0, lambda) }
            }
            CurvatureKind::Tkfac | CurvatureKind::Shampoo => {
                let (bases, mean_positions) = bases()?;
                Factors::of_trace(fit.kind, bases.into_iter().flatten().collect(), &mean_positions)
            }
        };
        Ok(factors.with_products(self.plan.training.networks.options().products))
    }

    /// Λ of a fit: the weighted mean over its networks.
    fn lambda_of(&self, fit: &Fit) -> Result<Option<Lambda>, JobError> {
        if let [place] = fit.places.as_slice() {
            return self.lambda(fit, place);
        }
        let mut pool = LambdaPool::default();
        for place in &fit.places {
            let Some(lambda) = self.lambda(fit, place)? else { return Ok(None) };
            pool.add(place.weight, &lambda).map_err(Error::from)?;
        }
        Ok(Some(pool.finish().map_err(Error::from)?))
    }

    /// One process fits what is missing; a shard leaves its sums of the next round as parts.
    pub(in crate::job) fn fit_step<T: Number>(&self) -> Result<Option<String>, JobError> {
        let Some(shard) = self.shard else {
            self.fit::<T>()?;
            return Ok(None);
        };
        self.keep_second_moments()?;
        let place = self.store.folder().display().to_string();
        let has_lambda = self.fits().any(|(_, fit)| fit.kind.has_lambda_pass());
        let round = self.round()?;
        match round {
            Round::Covariances => {
                for site in self.covariance_sites()? {
                    if self.covariance(site)?.is_none() {
                        self.covariance_part::<T>(site)?;
                    }
                }
            }
            Round::Lambdas => {
                for (site, fits) in self.lambda_sites()? {
                    self.lambda_part::<T>(site, &fits)?;
                }
            }
            Round::Done => return Ok(Some(format!("the curvature is fitted; next: `ascribe query --out {place}`"))),
        }
        let then = match round {
            Round::Covariances if has_lambda => "then `ascribe fit --shard` again for lambda",
            _ => "then `ascribe query`",
        };
        Ok(Some(format!("when all {} shards are done: `ascribe merge --out {place}`, {then}", shard.count())))
    }
}
