//! What dividing scores over tokens costs: targets of queries that are queries of their own, and further passes over the
//! examples that rankings list.

use std::iter::repeat_n;

use super::count::{StageCost, WorkKind};
use super::stages::{Batches, Stages, mean_example, read_and_written};
use super::work::{self, BatchShape};
use crate::attribution::Pass;
use crate::curvature::LayerSpec;
use crate::data::{Dataset, Kind};
use crate::job::brief::answers::ScorePass;
use crate::job::request::TokensRequest;
use crate::job::steps::query_vectors::queries_at_once;

impl Stages<'_> {
    /// The stages that divide the first answer's scores over tokens; none if that is not asked for. Lists are taken to be
    /// as long as they can be, and examples to have the mean length.
    pub(super) fn tokens(&self, queries: &Dataset) -> Vec<StageCost> {
        let plan = self.plan;
        let request = plan.job.output.tokens;
        if request == TokensRequest::None {
            return vec![];
        }
        let mut stages = vec![];
        if request.divides_queries() {
            let batches = self.batches_of_targets(queries);
            let targets = plan.query_targets();
            for set in plan.vector_sets(&[0]) {
                stages.push(StageCost {
                    of: plan.training.networks.parameters()[set.network].name.clone(),
                    units: targets as u64,
                    positions: batches.iter().map(|(batch, n)| batch.rows as u64 * n).sum(),
                    work: self.vectors(&batches, targets as u128, &[set]),
                    ..self.named(Pass::QueryTokens)
                });
            }
        }
        stages.extend(plan.score_passes(&[0]).iter().map(|pass| self.divided(pass)));
        stages
    }

    /// Batches of queries with one target each: as many copies of a query as there are targets.
    fn batches_of_targets(&self, queries: &Dataset) -> Batches {
        let at_most = queries_at_once(self.layers(), self.plan.width() as usize);
        let positions = self.plan.in_batches(queries).batch_tokens;
        let mut batches = Batches::new();
        let Kind::Tokens(tokens) = queries.kind() else { return batches };
        for query in 0..queries.len() {
            let (lengths @ (read, written), targets) = (read_and_written(queries, query), tokens.targets(query));
            let together = (positions / (read + written).max(1)).clamp(1, at_most);
            for start in (0..targets).step_by(together) {
                let n = together.min(targets - start);
                *batches.entry(BatchShape::divided(repeat_n(lengths, n), n)).or_default() += 1;
            }
        }
        batches
    }

    /// One pass over the listed examples.
    fn divided(&self, pass: &ScorePass) -> StageCost {
        let plan = self.plan;
        let request = plan.job.output.tokens;
        let (rows, listed, lengths @ (read, written)) = (plan.query_rows().max(1), plan.listed(), mean_example(plan));
        let examples = plan.training.stages[pass.site.stage].train.len();
        let pairs = rows * if request == TokensRequest::All { examples } else { listed };
        // every block of targets goes through the examples that are listed for its queries
        let (vectors, blocks) = match request.divides_queries() {
            true => {
                let targets = plan.query_targets();
                (targets.div_ceil(rows), targets.div_ceil(plan.memory.token_block.max(1)))
            }
            false => (1, 1),
        };
        let differentiated = (pairs + (blocks - 1) * listed).min(blocks * examples) as u64;
        let whole = BatchShape::divided([lengths], written);
        let mut work = self.work(&Batches::from([(whole, differentiated)]), 1, WorkKind::Scores, |_| 0);
        let divided = match request.divides_examples() {
            true => BatchShape::divided(repeat_n((1, 0), read).chain(repeat_n((0, 1), written)), written),
            false => whole,
        };
        let of = |(layer, seen): (&LayerSpec, BatchShape)| {
            work::scores(layer, &seen, vectors * pass.contributions.len(), None)
        };
        work[1].flop = self.seeing().of(&divided).map(of).sum::<u128>() * pairs as u128;
        let memory = plan.memory.stages.of(if request == TokensRequest::Ranked { Pass::Scores } else { Pass::Tokens });
        StageCost {
            of: plan.training.networks.parameters()[pass.site.network].name.clone(),
            units: differentiated,
            positions: differentiated * (read + written) as u64,
            work,
            memory,
            ..self.named(Pass::Tokens)
        }
    }
}
