//! The choices that keep a job within its memory: what is kept, and what is computed or read again.

use crate::curvature::Graphs;
use crate::job::budget::limits::STAYS;
use crate::job::budget::machine::default_budget;
use crate::job::budget::mapped::MappedRoom;
use crate::job::budget::sizes::Sizes;
use crate::job::budget::stage_memory::{MemoryCount, PassSetting, StageMemory};
use crate::job::error::JobError;
use crate::job::request::Job;
use crate::model::Residence;

/// Steps in which room for mapped files is looked for.
const MAPPED_STEP: usize = 4 << 20;

/// What is kept in memory, and what is computed or read again. Batches change how numbers are rounded; nothing else
/// here does.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::job) struct Memory {
    /// Positions of a batch, and those that were wanted.
    pub batch: usize,
    pub wanted: usize,
    /// Activations.
    pub graphs: Graphs,
    /// Weights.
    pub residence: Residence,
    /// Tracked layers whose sums are in memory together: each group is a pass over the data.
    pub groups: Vec<Vec<usize>>,
    /// Bytes of mapped vectors or factors that stay between two uses.
    pub mapped: u64,
    /// Queries of a block of joint solves, and numbers of a layer's tangents beside them; 0 without such solves.
    pub solve_block: usize,
    pub solve_tangents: usize,
    /// Target tokens of queries whose vectors are in memory together; 0 if scores are not divided over them.
    pub token_block: usize,
    /// Bytes that each stage is expected to take.
    pub stages: StageMemory,
    /// Bytes that the largest of them is expected to take.
    pub needed: u64,
    /// Bytes that it may take; none if nobody knows.
    pub budget: Option<u64>,
}

impl Memory {
    /// The fastest way that fits: the wanted batches with all activations and weights in memory; activations computed
    /// twice; weights read by section; then the same with smaller batches; and of these, where all layers' sums do
    /// not fit together, the one with the fewest passes over the data.
    ///
    /// # Errors
    /// [`JobError::Memory`] with the least that would do.
    pub(in crate::job) fn choose(job: &Job, sizes: &Sizes<'_>) -> Result<Self, JobError> {
        let default = if sizes.limits.has_one_position() { 4096 } else { 2048 };
        let wanted = job.resources.batch_tokens.unwrap_or(default);
        let budget = job.resources.memory.or_else(default_budget);
        let counts = MemoryCount(sizes);
        let chosen = |setting: PassSetting, groups: Vec<Vec<usize>>, mapped| {
            let mut stages = counts.stages(setting, &groups, mapped);
            let (solve_block, solve_tangents) = counts.take_block(setting, budget, mapped, &mut stages);
            let token_block = counts.take_token_block(setting, budget, mapped, &mut stages);
            let PassSetting { batch, graphs, residence } = setting;
            let needed = stages.largest();
            Self {
                batch,
                wanted,
                graphs,
                residence,
                groups,
                mapped,
                solve_block,
                solve_tangents,
                token_block,
                stages,
                needed,
                budget,
            }
        };
        let all: Vec<usize> = (0..sizes.layers.len()).collect();
        let Some(limit) = budget else {
            let setting = PassSetting { batch: wanted, graphs: Graphs::Kept, residence: Residence::Kept };
            return Ok(chosen(setting, vec![all], STAYS));
        };
        let mut best: Option<Self> = None;
        let mut least = u64::MAX;
        for batch in batches(wanted, sizes.longest.max(1)) {
            for (graphs, residence) in [
                (Graphs::Kept, Residence::Kept),
                (Graphs::Rebuilt, Residence::Kept),
                (Graphs::Rebuilt, Residence::BySection),
            ] {
                let setting = PassSetting { batch, graphs, residence };
                let groups = counts.groups(limit, setting);
                let needed = |mapped| counts.stages(setting, &groups, mapped).largest();
                let bare = needed(0);
                least = least.min(bare);
                if bare > limit || best.as_ref().is_some_and(|best| best.groups.len() <= groups.len()) {
                    continue;
                }
                // several files may be mapped at a time, each with as much room
                let mapped = (0..=STAYS).rev().step_by(MAPPED_STEP).find(|&mapped| needed(mapped) <= limit);
                best = Some(chosen(setting, groups, mapped.unwrap_or(0)));
            }
        }
        best.ok_or(JobError::Memory { needed: least, budget: limit })
    }

    /// Room for what one mapped file holds.
    pub(in crate::job) fn mapped_room(&self) -> MappedRoom {
        MappedRoom::new(self.mapped)
    }

    /// What a person should know of the choices.
    pub(in crate::job) fn notes(&self, asked: Option<u64>) -> Vec<String> {
        let mut notes = vec![];
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        if let Some(budget) = asked {
            notes.push(format!("memory: about {} MiB of the {} MiB allowed", mib(self.needed), mib(budget)));
        }
        if self.batch < self.wanted {
            let (batch, wanted) = (self.batch, self.wanted);
            notes.push(format!("memory is short: batches of {batch} positions instead of {wanted}"));
        }
        if self.graphs == Graphs::Rebuilt {
            notes.push("memory is short: activations are computed twice instead of kept".into());
        }
        if self.residence == Residence::BySection {
            notes.push("memory is short: weights are read from the checkpoint whenever their section runs".into());
        }
        if self.groups.len() > 1 {
            let passes = self.groups.len();
            notes.push(format!("memory is short: the curvature is fitted in {passes} passes, some layers in each"));
        }
        notes
    }
}

/// The wanted batch and its halves, down to what the longest example needs.
fn batches(wanted: usize, longest: usize) -> Vec<usize> {
    let mut sizes = vec![wanted];
    let mut next = wanted / 2;
    while next > longest {
        sizes.push(next);
        next /= 2;
    }
    if wanted > longest {
        sizes.push(longest);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::{Aggregate, Pass};
    use crate::curvature::{BlockWidth, CurvatureKind, LayerSpec};
    use crate::job::budget::sizes::{FitSize, Fitting, OwnInfluence, Preconditioner, QuerySizes, TokenSizes};
    use crate::model::Footprint;

    /// GPT-2 small: 12 blocks of width 768, vocabulary 50,257.
    fn gpt2_small() -> (Vec<LayerSpec>, Footprint) {
        let mut layers = vec![];
        for block in 0..12 {
            for (outputs, inputs) in [(2304, 768), (768, 768), (3072, 768), (768, 3072)] {
                let input_group = layers.len();
                layers.push(LayerSpec {
                    name: format!("{block}.{input_group}"),
                    outputs,
                    inputs,
                    bias: true,
                    input_group,
                    vocabulary: None,
                });
            }
        }
        let block = layers[..4].iter().map(|layer| layer.parameters() as u64).sum();
        let head = 50_257 * 768;
        let model = Footprint {
            parameters: head + 12 * block,
            section: block,
            head,
            sections: 12,
            width: 768,
            activations: 16 * 768,
            heads: 12,
            all_activations: 12 * 16 * 768,
            vocabulary: 50_257,
            ..Footprint::default()
        };
        (layers, model)
    }

    fn sizes<'a>(layers: &'a [LayerSpec], model: Footprint) -> Sizes<'a> {
        let fit =
            FitSize { kind: CurvatureKind::Ekfac, places: 1, covariances: 1, preconditioner: Preconditioner::None };
        Sizes {
            layers,
            model,
            longest: 512,
            positions: 1 << 20,
            limits: crate::model::Limits::Tokens(crate::data::ModelLimits {
                vocabulary: 50_257,
                max_positions: Some(1024),
                decoder: None,
                masked: None,
            }),
            data: 1 << 20,
            number: 4,
            block_width: BlockWidth::Any,
            threads: 2,
            separable: true,
            fits: vec![fit],
            fitting: Fitting::Here { lambdas: 1 },
            queries: Some(QuerySizes {
                lengths: vec![300, 512],
                aggregate: Aggregate::Each,
                vectors: 2,
                sums: 1,
                slice: 0,
                examples: 1 << 11,
                rank: None,
                carried: 2,
                tokens: None,
                own: OwnInfluence::None,
            }),
            solve: None,
        }
    }

    fn job(budget: u64) -> Job {
        let text = format!(
            "[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n[resources]\nmemory = {budget}\nthreads = 2\n[output]\npath = \"o\"\n"
        );
        toml::from_str(&text).expect("a job")
    }

    /// Moments are read in f32, and a layer's roots are written in f64.
    #[test]
    fn second_moments_take_the_memory_of_their_file() -> Result<(), JobError> {
        let (layers, model) = gpt2_small();
        let mut sizes = sizes(&layers, model);
        let ekfac = Memory::choose(&job(1 << 40), &sizes)?.stages;
        let adam =
            FitSize { kind: CurvatureKind::Adam, places: 1, covariances: 1, preconditioner: Preconditioner::None };
        (sizes.fits, sizes.fitting) = (vec![adam], Fitting::Here { lambdas: 0 });
        let stages = Memory::choose(&job(1 << 40), &sizes)?.stages;
        let parameters = |of: fn(u64, u64) -> u64| layers.iter().map(|layer| layer.parameters() as u64).fold(0, of);
        let moments = 4 * parameters(|sum, n| sum + n) + 12 * parameters(u64::max);
        let found = stages.of(Pass::Lambda);
        assert!(found >= moments && found < ekfac.of(Pass::Lambda), "{found}");
        assert_eq!((stages.of(Pass::Covariance), stages.of(Pass::Eigendecomposition)), (0, 0));
        Ok(())
    }

    /// Vectors of target tokens are whole gradients: as many as fit are there together.
    #[test]
    fn target_tokens_take_the_memory_that_there_is() -> Result<(), JobError> {
        let (layers, model) = gpt2_small();
        let mut sizes = sizes(&layers, model);
        let vector = 4 * layers.iter().map(|layer| layer.parameters() as u64).sum::<u64>();
        let block = |sizes: &Sizes<'_>, budget: u64| Memory::choose(&job(budget), sizes).map(|found| found.token_block);
        let least = Memory::choose(&job(1 << 40), &sizes)?.needed;
        assert_eq!(block(&sizes, 1 << 40)?, 0, "nothing is divided");
        if let Some(queries) = &mut sizes.queries {
            queries.tokens = Some(TokenSizes { targets: 40, legs: 1, shares: 1000, longest: 512 });
        }
        assert_eq!(block(&sizes, 1 << 40)?, 40);
        let found = block(&sizes, least + 5 * vector)?;
        assert!((5..40).contains(&found), "{found}");
        let chosen = Memory::choose(&job(least + 5 * vector), &sizes)?;
        assert!(chosen.needed <= least + 5 * vector && chosen.stages.of(Pass::Tokens) > 5 * vector);
        Ok(())
    }

    fn chosen(budget: u64) -> Result<Memory, JobError> {
        let (layers, model) = gpt2_small();
        Memory::choose(&job(budget), &sizes(&layers, model))
    }

    #[test]
    fn less_memory_keeps_less_and_never_exceeds_the_budget() -> Result<(), JobError> {
        let all = chosen(16 << 30)?;
        assert_eq!((all.batch, all.graphs, all.residence), (2048, Graphs::Kept, Residence::Kept));
        assert_eq!((all.groups.len(), all.mapped), (1, STAYS));
        let mut passes = 1;
        for mib in [8192, 6144, 4096, 3072, 2048, 1024, 768, 640] {
            let found = chosen(mib << 20)?;
            assert!(found.needed <= mib << 20, "{mib} MiB: {found:?}");
            assert!(found.groups.len() >= passes, "{mib} MiB: {found:?}");
            assert_eq!(found.groups.concat(), (0..48).collect::<Vec<_>>());
            passes = found.groups.len();
        }
        assert!(passes > 3, "{passes} passes in 640 MiB");
        Ok(())
    }

    #[test]
    fn an_impossible_budget_is_refused_with_one_that_is_possible() {
        let Err(JobError::Memory { needed, budget }) = chosen(100 << 20) else { panic!("100 MiB cannot do") };
        assert_eq!(budget, 100 << 20);
        let weights = 4 * gpt2_small().1.parameters;
        assert!(needed < 3 * weights, "{needed} bytes for a checkpoint of {weights}");
        let found = chosen(needed).expect("what was said to be needed");
        assert_eq!(found.residence, Residence::BySection);
    }

    #[test]
    fn batches_halve_down_to_the_longest_example() {
        assert_eq!(batches(2048, 300), [2048, 1024, 512, 300]);
        assert_eq!(batches(512, 512), [512]);
        assert_eq!(batches(256, 512), [256]);
    }

    const STAGES: [Pass; 6] =
        [Pass::Covariance, Pass::Eigendecomposition, Pass::Lambda, Pass::Queries, Pass::Scores, Pass::SelfInfluence];

    #[test]
    fn what_is_needed_is_what_the_largest_stage_takes() -> Result<(), JobError> {
        for gib in [16, 4, 1] {
            let found = chosen(gib << 30)?;
            let stages = STAGES.map(|pass| found.stages.of(pass));
            assert_eq!(Some(found.needed), stages.into_iter().max());
            assert!(stages[..5].iter().all(|&bytes| bytes > 100 << 20), "{stages:?}");
            assert_eq!(stages[5], 0, "no example is a query");
        }
        Ok(())
    }

    #[test]
    fn stages_that_others_did_or_nobody_asked_for_take_nothing() -> Result<(), JobError> {
        let (layers, model) = gpt2_small();
        let whole = sizes(&layers, model);
        let reused = Sizes { fitting: Fitting::Reused, ..whole.clone() };
        let found = Memory::choose(&job(16 << 30), &reused)?;
        assert_eq!(STAGES.map(|pass| found.stages.of(pass) > 0), [false, false, false, true, true, false]);
        let fit = Sizes { queries: None, ..whole };
        let found = Memory::choose(&job(16 << 30), &fit)?;
        assert_eq!(STAGES.map(|pass| found.stages.of(pass) > 0), [true, true, true, false, false, false]);
        Ok(())
    }

    #[test]
    fn conditioners_are_held_by_every_stage_that_uses_them() -> Result<(), JobError> {
        let (layers, model) = gpt2_small();
        let weights: u64 = layers.iter().map(|layer| layer.parameters() as u64).sum();
        let of = |preconditioner| {
            let fit = FitSize { kind: CurvatureKind::Ekfac, places: 1, covariances: 1, preconditioner };
            let sizes = Sizes { fits: vec![fit; 2], fitting: Fitting::Here { lambdas: 1 }, ..sizes(&layers, model) };
            Memory::choose(&job(64 << 30), &sizes).map(|found| STAGES.map(|pass| found.stages.of(pass)))
        };
        let plain = of(Preconditioner::None)?;
        let adam = of(Preconditioner::Adam { checkpoints: 1, couples_decay: false })?;
        let coupled = of(Preconditioner::Adam { checkpoints: 1, couples_decay: true })?;
        assert_eq!(adam[0], plain[0], "covariances are of plain gradients");
        // `h` and `1 / h` in four bytes: of one fit while it is fitted, of both while queries are carried
        assert!(adam[1] >= plain[1] + 8 * weights, "{plain:?} {adam:?}");
        assert!(adam[2] >= plain[2] + 8 * weights, "{plain:?} {adam:?}");
        assert!(adam[3] >= plain[3] + 16 * weights, "{plain:?} {adam:?}");
        assert_eq!(adam[4], plain[4], "scores need no curvature");
        assert_eq!(coupled[3], adam[3] + 16 * weights, "a factor of eight bytes for each weight of both fits");
        Ok(())
    }

    #[test]
    fn pages_beyond_the_room_are_those_of_the_layer_in_use() -> Result<(), JobError> {
        let (layers, model) = gpt2_small();
        let mut sizes = sizes(&layers, model);
        let scores =
            |sizes: &Sizes<'_>| Memory::choose(&job(64 << 30), sizes).map(|found| found.stages.of(Pass::Scores));
        let two = scores(&sizes)?;
        if let Some(queries) = &mut sizes.queries {
            queries.vectors = 4;
        }
        // all are far more than stays: only the widest layer's vectors are twice as large, and scores
        let widest = 4 * layers.iter().map(|layer| layer.parameters() as u64).max().unwrap_or(0);
        let more = scores(&sizes)? - two;
        assert!((2 * widest..2 * widest + (1 << 20)).contains(&more), "{more} for {widest}");
        Ok(())
    }
}
