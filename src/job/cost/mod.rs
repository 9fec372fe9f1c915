//! What a job will cost, before any of it is done: operations, memory and disk of each stage from shapes, and time from
//! a short calibration of the machine.
//!
//! [`Plan::cost`] counts, from what the network says that its layers see and compute and from the lengths of examples.
//! [`Plan::calibrate`] measures how fast this machine does each kind of work, with the code that the job
//! runs. [`Cost::seconds`] divides one by the other.

mod architecture;
mod calibration;
mod contractions;
mod count;
mod miniature;
mod seconds;
mod stages;
mod tokens;
mod work;

pub use self::calibration::{Calibration, EigenRate};
pub use self::count::{Contraction, Cost, StageCost, Work, WorkKind};
pub use self::seconds::Seconds;
use crate::job::budget::disk;
use crate::job::error::JobError;
use crate::job::plan::Plan;

impl Plan {
    /// Counts what the job will cost if it starts with an empty run folder.
    ///
    /// # Errors
    /// [`JobError::Load`] if the headers of the checkpoint cannot be read.
    pub fn cost(&self) -> Result<Cost, JobError> {
        let stages = stages::of(self)?;
        let disk = disk::of(self, self.summary())?;
        Ok(Cost { memory: self.memory.needed, contractions: contractions::of(self), stages, disk })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::curvature::Graphs;
    use crate::job::error::JobError;
    use crate::job::request::{Job, TokensRequest};
    use crate::model::Residence;

    fn plan(model: &str, memory: Option<u64>) -> Result<Plan, JobError> {
        let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let (train, queries) = match model {
            "mlp-tiny" => ("mlp-tiny/train.safetensors", "mlp-tiny/query.safetensors"),
            _ => ("gpt2-tiny/train.jsonl", "gpt2-tiny/queries.jsonl"),
        };
        let path = |path: &str| serde_json::json!(fixtures.join(path)).to_string();
        let memory = memory.map_or_else(String::new, |bytes| format!("memory = {bytes}\n"));
        let job = format!(
            "[model]\npath = {}\n[data]\ntrain = {}\nqueries = {}\n[resources]\n{memory}[output]\npath = \"no-folder\"\n",
            path(model),
            path(train),
            path(queries)
        );
        Plan::resolve(toml::from_str::<Job>(&job).expect("a job"))
    }

    #[test]
    fn shares_of_tokens_are_stages() -> Result<(), JobError> {
        let mut found = vec![];
        use TokensRequest::{All, Matrix, Query, Ranked};
        for request in [TokensRequest::None, Ranked, Query, Matrix, All] {
            let mut plan = plan("gpt2-tiny", None)?;
            plan.brief.job.output.tokens = request;
            let plan = Plan::resolve(plan.job.clone())?;
            let cost = plan.cost()?;
            assert_eq!(Some(cost.memory), cost.stages.iter().map(|stage| stage.memory).max(), "{request:?}");
            let of =
                |name: &str| -> Vec<&StageCost> { cost.stages.iter().filter(|stage| stage.stage == name).collect() };
            let (targets, examples) = (of("query tokens"), of("tokens"));
            let divides_queries = request.divides_queries();
            assert_eq!(targets.len(), usize::from(divides_queries), "{request:?}");
            assert_eq!(examples.len(), usize::from(request != TokensRequest::None), "{request:?}");
            if divides_queries {
                assert_eq!((targets[0].units, targets[0].unit.as_str()), (plan.query_targets() as u64, "tokens"));
                assert!(targets[0].flop() > of("queries")[0].flop(), "{request:?}");
            }
            // at most twenty for each of eight queries, of all examples
            assert!(examples.iter().all(|stage| stage.units == 160 && stage.memory > 0), "{request:?}");
            found.push(examples.first().map_or(0, |stage| stage.flop()));
        }
        assert!(found[..4].is_sorted_by(|a, b| a < b) && found[4] > found[1], "{found:?}");
        Ok(())
    }

    #[test]
    fn the_budget_is_compared_with_the_stage_that_takes_most() -> Result<(), JobError> {
        for model in ["gpt2-tiny", "llama-tiny", "mlp-tiny"] {
            let free = plan(model, None)?;
            let cost = free.cost()?;
            assert_eq!(Some(cost.memory), cost.stages.iter().map(|stage| stage.memory).max(), "{model}");
            assert!(cost.stages.iter().all(|stage| stage.memory > 0), "{model}");
            let enough = plan(model, Some(cost.memory))?;
            assert_eq!((enough.memory.batch, enough.memory.graphs), (free.memory.batch, Graphs::Kept), "{model}");
            assert_eq!((enough.memory.residence, enough.cost()?.memory), (Residence::Kept, cost.memory), "{model}");
            // a byte less changes a choice: some of what is mapped does not stay, or more is computed again
            let less = plan(model, Some(cost.memory - 1))?;
            assert!(less.cost()?.memory < cost.memory, "{model}");
        }
        Ok(())
    }
}
