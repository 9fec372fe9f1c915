//! Eigendecompositions of covariances on disk to eigenbases on disk, resumed where they stopped.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::kinds::EIGENBASIS;
use crate::attribution::source::{LegCovariance, PooledCovariance};
use crate::attribution::store::{Dtype, Element, Key, KeyBuilder, Metadata, TensorSpec, TensorWriter};
use crate::attribution::{Error, Event, Pass, SAVE_INTERVAL};
use crate::curvature::{CovarianceBlock, Eigenpairs};
use crate::job::brief::keys::site;
use crate::job::budget::limits::UNSAVED;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::training::{Fit, Place, Site};

/// Eigenpairs of some blocks, until all are there.
pub(super) const EIGENBASIS_PART: &str = "eigenbasis-part";

/// What was decomposed since the last part.
struct Unsaved<T> {
    blocks: Vec<(CovarianceBlock, Eigenpairs<T>)>,
    bytes: usize,
    since: Instant,
    /// Parts that are there.
    parts: u64,
}

impl Run<'_> {
    /// Fits whose eigenbasis is missing.
    pub(super) fn fits_without_eigenbasis(&self) -> Result<Vec<&Fit>, JobError> {
        let mut missing = vec![];
        for (_, fit) in self.plan.needed_fits().filter(|(_, fit)| fit.kind.has_eigenbasis()) {
            if self.find(EIGENBASIS, &self.plan.eigenbasis_key(fit))?.is_none() {
                missing.push(fit);
            }
        }
        Ok(missing)
    }

    /// Makes every missing eigenbasis from covariances, which are all there.
    pub(super) fn decompose_missing<T: Number>(&self) -> Result<(), JobError> {
        for fit in self.fits_without_eigenbasis()? {
            self.decompose::<T>(fit)?;
        }
        Ok(())
    }

    fn decompose<T: Number>(&self, fit: &Fit) -> Result<(), JobError> {
        let layers = self.plan.training.layers();
        let pooled = self.pooled_covariance(fit)?;
        let conditioners = fit.conditioners::<T>(layers)?;
        let covariance = LegCovariance { layers, pooled: &pooled, conditioners: &conditioners, frozen: &fit.frozen };
        let mut blocks = covariance.blocks(self.plan.block_width());
        let total = blocks.len() as u64;
        let mean_positions: Vec<f64> = (0..layers.len()).map(|l| pooled.mean_positions(l)).collect();
        let writer = self.eigenbasis_writer::<T>(fit, &mean_positions)?;
        let parts = self.restore_parts::<T>(fit, &writer, &mut blocks)?;
        let pass = Pass::Eigendecomposition;
        self.observer().event(Event::Started { pass, done: total - blocks.len() as u64, total });
        let unsaved = Mutex::new(Unsaved::<T> { blocks: vec![], bytes: 0, since: Instant::now(), parts });
        covariance.decompose(blocks, self.plan.memory.stages.alone_from(), |block, pairs| {
            let [vectors, values] = self.eigen_names(&block);
            writer.write_values_at(&vectors, 0, pairs.vectors.whole().as_slice())?;
            writer.write_values_at(&values, block.range.start as u64, &pairs.values)?;
            self.observer().event(Event::Advanced { pass, units: 1 });
            let mut unsaved = unsaved.lock().unwrap_or_else(PoisonError::into_inner);
            unsaved.bytes += size_of::<T>() * pairs.vectors.numbers();
            unsaved.blocks.push((block, pairs));
            let interrupted = self.observer().interrupted();
            if interrupted || unsaved.bytes >= UNSAVED || unsaved.since.elapsed() >= SAVE_INTERVAL {
                self.save_part(fit, &mut unsaved)?;
            }
            if interrupted { Err(Error::Interrupted.into()) } else { Ok::<_, JobError>(()) }
        })?;
        writer.finish()?;
        let parts = unsaved.into_inner().unwrap_or_else(PoisonError::into_inner).parts;
        for part in 0..parts {
            self.store.remove(EIGENBASIS_PART, &self.eigenbasis_part_key(fit, part))?;
        }
        self.observer().event(Event::Finished { pass });
        Ok(())
    }

    /// What the eigenbasis of a fit is made of.
    fn pooled_covariance(&self, fit: &Fit) -> Result<PooledCovariance, JobError> {
        let found = |site: Site| {
            self.covariance(site)?.ok_or_else(|| JobError::MissingStep {
                folder: self.store.folder().to_owned(),
                what: "the covariances",
                step: "fit",
            })
        };
        let pooled = match (fit.places.as_slice(), fit.samples()) {
            ([place], samples @ [_, _]) => {
                let whole = site(fit, place);
                match self.covariance(whole)? {
                    // of an earlier start that knew of no halves
                    Some(covariance) => PooledCovariance::of_parts(vec![covariance]),
                    None => {
                        let halves = samples.iter().map(|&sample| found(Site { sample, ..whole }));
                        PooledCovariance::of_parts(halves.collect::<Result<_, _>>()?)
                    }
                }
            }
            (places, _) => {
                let at = |place: &Place| Ok((place.weight, found(site(fit, place))?));
                PooledCovariance::new(places.iter().map(at).collect::<Result<_, JobError>>()?)
            }
        };
        Ok(pooled.map_err(Error::from)?)
    }

    /// Keeps what was decomposed since the last time, so that an interrupted run need not do it again.
    fn save_part<T: Number>(&self, fit: &Fit, unsaved: &mut Unsaved<T>) -> Result<(), JobError> {
        let specs = unsaved.blocks.iter().flat_map(|(block, _)| {
            let ([vectors, _], n) = (self.eigen_names(block), block.range.len());
            let values = TensorSpec::new(own_values(&vectors), Dtype::F64, [n]);
            [TensorSpec::new(vectors, <T as Element>::DTYPE, [n, n]), values]
        });
        let key = self.eigenbasis_part_key(fit, unsaved.parts);
        let writer = self.store.writer(EIGENBASIS_PART, &key, &specs.collect::<Vec<_>>(), &Metadata::new())?;
        for (block, pairs) in unsaved.blocks.drain(..) {
            let [vectors, _] = self.eigen_names(&block);
            writer.write_values_at(&vectors, 0, pairs.vectors.whole().as_slice())?;
            writer.write_values_at(&own_values(&vectors), 0, &pairs.values)?;
        }
        writer.finish()?;
        (unsaved.parts, unsaved.bytes, unsaved.since) = (unsaved.parts + 1, 0, Instant::now());
        Ok(())
    }

    /// Copies the parts that an interrupted run kept, takes their blocks from those that are to be decomposed, and counts
    /// the parts.
    fn restore_parts<T: Number>(
        &self,
        fit: &Fit,
        writer: &TensorWriter,
        blocks: &mut Vec<CovarianceBlock>,
    ) -> Result<u64, JobError> {
        let mut parts = 0;
        while let Some(part) = self.store.find(EIGENBASIS_PART, &self.eigenbasis_part_key(fit, parts))? {
            for block in blocks.extract_if(.., |block| part.names().contains(&self.eigen_names(block)[0])) {
                let [vectors, values] = self.eigen_names(&block);
                writer.write_values_at(&vectors, 0, part.values::<T>(&vectors)?)?;
                writer.write_values_at(&values, block.range.start as u64, part.f64(&own_values(&vectors))?)?;
                part.forget(&vectors);
            }
            parts += 1;
        }
        Ok(parts)
    }

    fn eigenbasis_part_key(&self, fit: &Fit, part: u64) -> Key {
        KeyBuilder::new(EIGENBASIS_PART, 1).field("of", self.plan.eigenbasis_key(fit)).field("part", part).finish()
    }
}

/// A part keeps a block's eigenvalues by themselves.
fn own_values(vectors: &str) -> String {
    format!("{vectors}.values")
}
