//! Gradients of sampled examples on disk, for matrix-free solves: made for the queries of one network, and deleted when
//! their vectors are there.

use crate::attribution::store::{Element, Metadata};
use crate::attribution::{Pass, Sweep, VectorForm, sample_gradients};
use crate::curvature::random::stream;
use crate::curvature::{Factors, Norms};
use crate::job::brief::data::SmallBatches;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::steps::query_vectors::{StoredVectors, Writing, queries_at_once};
use crate::job::training::Fit;

/// Kind of the store's sampled gradients.
const SAMPLED: &str = "sampled-gradients";

impl Run<'_> {
    /// The sampled gradients at a network in the eigenbases of a fit, taken where an earlier start has not left them.
    pub(super) fn sampled_gradients<T: Number>(
        &self,
        network: usize,
        fit: &Fit,
        factors: &Factors<T>,
    ) -> Result<StoredVectors, JobError> {
        let plan = self.plan;
        let (layers, rows) = (plan.training.layers(), plan.sampled_gradients());
        let key = plan.sample_key(network, fit);
        let artifact = match self.store.find(SAMPLED, &key)? {
            Some(found) => found,
            None => {
                let metadata = Metadata::from([
                    ("checkpoint".into(), plan.training.networks.parameters()[network].name.clone()),
                    (
                        "units".into(),
                        "gradients of the losses of sampled examples, summed over positions, in the eigenbasis; [gradients, outputs, columns]"
                            .into(),
                    ),
                ]);
                let writer = self.store.writer(SAMPLED, &key, &plan.sample_specs(<T as Element>::DTYPE), &metadata)?;
                let data = plan.training.last_stage().solve_data();
                // gradients of a batch exist together
                let at_most = queries_at_once(layers, size_of::<T>());
                let examples = SmallBatches { batches: plan.in_batches(data), at_most };
                let open = self.network(network)?;
                let (range, pass, observer) = (0..data.len(), Pass::Products, self.observer());
                let sweep = Sweep { network: &*open, examples: &examples, range, pass, observer };
                let norms = vec![vec![Norms::default(); rows * layers.len()]];
                let mut sink = Writing { legs: vec![(&writer, 0)], layers, form: VectorForm::Full, rows, norms };
                let objectives = plan.sample_label_mode().objectives(stream::FORM);
                sample_gradients::<_, T>(&sweep, &objectives, factors, &mut sink)?;
                writer.finish()?;
                self.store.find(SAMPLED, &key)?.ok_or(JobError::NoQueries)?
            }
        };
        Ok(StoredVectors::of_layers(artifact, layers, rows, &plan.memory.mapped_room()))
    }

    /// Deletes sampled gradients, which nothing needs once vectors are there.
    pub(in crate::job) fn forget_sampled_gradients(&self) -> Result<(), JobError> {
        Ok(self.store.remove_kind(SAMPLED)?)
    }
}
