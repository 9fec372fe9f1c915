//! The queries' measurements at another checkpoint of the same model, such as the base that was tuned: how much of what
//! is explained training has changed. Scores are the same without it: the other checkpoint depends on no training
//! example, so that the gradient of the difference of both measurements is that of the later one.

use crate::attribution::store::{Key, KeyBuilder, TensorFile};
use crate::attribution::{Error, Examples};
use crate::curvature::{Measurement, Network, Objective};
use crate::job::brief::options::measure_name;
use crate::job::error::JobError;
use crate::job::folder::before::{read_before, write_before};
use crate::job::folder::places::before_file;
use crate::job::folder::present::has_key;
use crate::job::folder::rankings::Before;
use crate::job::plan::Plan;
use crate::job::steps::context::Run;
use crate::presence::is_file;

impl Plan {
    /// What the measurements at the other checkpoint depend on; none if there is no other.
    fn before_key(&self) -> Option<Key> {
        let before = self.training.networks.before()?;
        let set = *self.vector_sets(&[0]).last()?;
        let vectors = self.vectors_key(set)?;
        let hash = before.identity.content_hash();
        Some(KeyBuilder::new("before", 1).field("queries", vectors).field("checkpoint", &hash[..]).finish())
    }

    /// Each query's measurement at the other checkpoint, if the run folder has it: of queries that are asked together of
    /// all of them.
    pub(super) fn stored_before(&self) -> Result<Option<Vec<Before>>, JobError> {
        let (Some(key), Some(before)) = (self.before_key(), self.training.networks.before()) else { return Ok(None) };
        let file = before_file(self);
        if !(is_file(&file) && has_key(&file, &key)?) {
            return Ok(None);
        }
        let values = read_before(&TensorFile::open_checked(&file)?)?;
        let of = |value: f64| Before { checkpoint: before.name.clone(), value };
        Ok(Some(match self.query_rows() == values.len() {
            true => values.into_iter().map(of).collect(),
            false => vec![of(self.aggregated(&values))],
        }))
    }
}

impl Run<'_> {
    /// Writes the queries' measurements at the other checkpoint, unless they are there.
    pub(super) fn measure_before(&self) -> Result<(), JobError> {
        let plan = self.plan;
        let (Some(key), Some(before), Some(queries)) =
            (plan.before_key(), plan.training.networks.before(), &plan.queries)
        else {
            return Ok(());
        };
        if has_key(&before_file(plan), &key)? {
            return Ok(());
        }
        let model = plan.training.networks.load_before()?;
        let objective = Objective::Measurement(Measurement::from(plan.measure()), plan.job.method.reduction.into());
        let examples = plan.in_batches(queries);
        let mut values = Vec::with_capacity(queries.len());
        while values.len() < queries.len() {
            if self.observer().interrupted() {
                return Err(Error::Interrupted.into());
            }
            let range = values.len()..examples.batch_end(values.len(), queries.len());
            let found = model.differentiate(&examples.batch(range)?, objective, &mut ()).map_err(Error::from)?;
            values.extend(found);
        }
        if let Some(query) = values.iter().position(|value| !value.is_finite()) {
            return Err(JobError::options(
                format!("the measurement of query `{}` is no finite number at `{}`", queries.id(query), before.name),
                "look at that checkpoint, or leave `--before` out",
            ));
        }
        write_before(plan, &key, (&before.name, measure_name(plan.measure())), &values)
    }
}
