//! The loss of each target token of the queries, from a forward pass over the queries alone: what a report shades their
//! texts by. It is what the last network of the walk says, as the queries' measurements are.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::attribution::Error;
use crate::attribution::store::{Key, TensorFile};
use crate::curvature;
use crate::data::{self, Kind, TokenDataset};
use crate::job::brief::answers::VectorSet;
use crate::job::error::JobError;
use crate::job::folder::places::query_losses_file;
use crate::job::folder::present::has_key;
use crate::job::folder::query_losses::{read_query_losses, write_query_losses};
use crate::job::plan::Plan;
use crate::job::request::AggregateRequest;
use crate::job::steps::context::Run;
use crate::model::Limits;
use crate::presence::is_file;

/// Logits of queries that go through the network together, and of one query: a longer one has no losses.
const LOGITS: usize = 8 << 20;
const MOST_LOGITS: usize = 64 << 20;

/// Bytes of a budget for each logit at the most: they and what is made of them take a small part of it.
const BUDGET_OF_LOGIT: u64 = 64;

/// Rows whose softmax is taken at once.
const ROWS: usize = 128;

impl Plan {
    /// The network that the queries' tokens are asked at, and the key of what is found; none where queries are no texts
    /// or asked together.
    fn asked_tokens(&self) -> Option<(VectorSet, Key)> {
        let Kind::Tokens(tokens) = self.queries.as_ref()?.kind() else { return None };
        if tokens.is_labelled() || self.job.method.aggregate != AggregateRequest::Each {
            return None;
        }
        let set = *self.vector_sets(&[0]).last()?;
        Some((set, self.vectors_key(set)?))
    }

    /// The losses of each query's targets, if the run folder has them; a list is empty where they are not known.
    pub(super) fn stored_query_losses(&self) -> Result<Option<Vec<Vec<f32>>>, JobError> {
        let Some((_, key)) = self.asked_tokens() else { return Ok(None) };
        let file = query_losses_file(self);
        match is_file(&file) && has_key(&file, &key)? {
            true => read_query_losses(&TensorFile::open_checked(&file)?).map(Some),
            false => Ok(None),
        }
    }
}

impl Run<'_> {
    /// Writes the losses of the queries' targets, unless they are there.
    pub(super) fn query_losses(&self) -> Result<(), JobError> {
        let plan = self.plan;
        let Some((set, key)) = plan.asked_tokens() else { return Ok(()) };
        let Some(queries) = &plan.queries else { return Ok(()) };
        let Kind::Tokens(tokens) = queries.kind() else { return Ok(()) };
        if has_key(&query_losses_file(plan), &key)? {
            return Ok(());
        }
        let network = plan.training.networks.get(set.network)?;
        let Limits::Tokens(limits) = network.model.limits() else { return Ok(()) };
        let mut losses = vec![vec![]; queries.len()];
        let room = plan.job.resources.memory.map_or(usize::MAX, |bytes| (bytes / BUDGET_OF_LOGIT) as usize);
        let positions = (LOGITS.min(room) / limits.vocabulary.max(1)).max(1);
        for range in data::batches(queries, 0..queries.len(), positions) {
            if self.observer().interrupted() {
                return Err(Error::Interrupted.into());
            }
            let rows: usize = range.clone().map(|query| tokens.predicted(query).len()).sum();
            if rows.saturating_mul(limits.vocabulary) > MOST_LOGITS.min(room) {
                continue;
            }
            let logits = network.model.logits(&data::batch(queries, range.clone())).map_err(Error::from)?;
            let found = of_logits(&logits, tokens, range.clone()).map_err(curvature::Error::from);
            losses.splice(range, found.map_err(Error::from)?);
        }
        write_query_losses(plan, &key, &losses)
    }
}

/// `-log p` of the targets of some examples, whose logits are the rows.
fn of_logits(logits: &Tensor, examples: &TokenDataset, range: Range<usize>) -> candle_core::Result<Vec<Vec<f32>>> {
    let counts: Vec<usize> = range.clone().map(|i| examples.predicted(i).flatten().count()).collect();
    let asked = range.flat_map(|i| examples.predicted(i)).enumerate();
    let asked: Vec<(u32, u32)> = asked.filter_map(|(row, label)| Some((row as u32, label?))).collect();
    let mut all = Vec::with_capacity(asked.len());
    for block in asked.chunks(ROWS) {
        let (rows, labels): (Vec<u32>, Vec<u32>) = block.iter().copied().unzip();
        let rows = Tensor::new(rows, logits.device())?;
        let logits = logits.index_select(&rows, 0)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let own = logits.gather(&Tensor::from_vec(labels, (block.len(), 1), &Device::Cpu)?, 1)?;
        let most = logits.max_keepdim(1)?;
        let sums = (logits.broadcast_sub(&most)?.exp()?.sum_keepdim(1)?.log()? + most)?;
        all.extend((sums - own)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
    }
    let mut all = all.into_iter();
    Ok(counts.into_iter().map(|count| all.by_ref().take(count).collect()).collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::attribution::store::TensorFile;
    use crate::job::request::{Job, ReductionRequest};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// A query's loss is the sum, or the mean, of its targets'; prompts have none.
    #[test]
    fn losses_of_targets_add_up_to_the_loss_of_the_query() -> Outcome {
        let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2-tiny");
        for reduction in [ReductionRequest::Sum, ReductionRequest::Mean] {
            let folder = tempfile::tempdir()?;
            let mut job = Job::new(&fixture, fixture.join("train.jsonl"), folder.path());
            job.data.queries = Some(fixture.join("queries.jsonl"));
            job.method.curvature = crate::job::request::Curvature::Identity;
            job.method.reduction = reduction;
            let plan = Plan::resolve(job)?;
            let rankings = plan.run(&())?;
            let losses = read_query_losses(&TensorFile::open_checked(&query_losses_file(&plan))?)?;
            assert_eq!(losses.len(), rankings.len());
            for (ranking, losses) in rankings.iter().zip(&losses) {
                let tokens = ranking.query.tokens.as_ref().ok_or("tokens")?;
                let named: Vec<f32> = tokens.iter().filter_map(|token| token.loss).collect();
                assert!(!losses.is_empty() && named.len() == losses.len() && named.len() < tokens.len());
                assert!(named.iter().zip(losses).all(|(a, b)| (a - b).abs() <= 5e-5), "{named:?} {losses:?}");
                let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
                let want = match reduction {
                    ReductionRequest::Sum => sum,
                    ReductionRequest::Mean => sum / losses.len() as f64,
                };
                assert!((ranking.query.value - want).abs() < 1e-5, "{} {want}", ranking.query.value);
            }
        }
        Ok(())
    }
}
