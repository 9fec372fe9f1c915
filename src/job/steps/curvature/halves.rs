//! Λ of all examples from those of both halves, where the halves have curvatures of their own: the mean over all, in the
//! eigenbasis of all, of what a pass over either half has left.

use super::kinds::LAMBDA;
use crate::attribution::Error;
use crate::attribution::source::LambdaPool;
use crate::curvature::Lambda;
use crate::job::brief::keys::site;
use crate::job::error::JobError;
use crate::job::steps::context::Run;
use crate::job::training::Site;

impl Run<'_> {
    /// Joins what the halves' passes have left of every Λ that is missing, layer by layer.
    pub(super) fn join_halves(&self) -> Result<(), JobError> {
        let layers = self.plan.training.layers();
        for (index, fit, place) in self.fits_without_lambda()? {
            let whole = site(fit, place);
            let halves: Vec<Site> = fit.samples().iter().map(|&sample| Site { sample, ..whole }).collect();
            let parts =
                halves.iter().map(|&half| self.lambda_at(index, half)).collect::<Result<Option<Vec<_>>, _>>()?;
            let Some(parts) = parts else { continue };
            let examples: u64 = parts.iter().map(|part| part.examples).sum();
            let writer = self.lambda_writer(index, whole, examples)?;
            for (l, layer) in layers.iter().enumerate() {
                let mut pool = LambdaPool::default();
                for part in &parts {
                    let of_layer = Lambda { layers: vec![part.layers[l].clone()], examples: part.examples };
                    pool.add(part.examples as f64 / examples as f64, &of_layer).map_err(Error::from)?;
                    part.layers[l].forget();
                }
                self.write_lambda(&writer, std::slice::from_ref(layer), &pool.finish().map_err(Error::from)?)?;
            }
            drop(parts);
            writer.finish()?;
            for half in halves {
                let key = self.lambda_key_at(index, half);
                // without an eigenbasis it is the half's own
                let is_own = self.plan.needed_fits().any(|(_, fit)| {
                    fit.sample == half.sample && fit.places.iter().any(|place| self.plan.lambda_key(fit, place) == key)
                });
                if !is_own {
                    self.store.remove(LAMBDA, &key)?;
                }
            }
        }
        Ok(())
    }
}
