//! What each step of a job keeps in memory, and the choices that keep it within a budget.

use super::super::mapped::STAYS;
use super::super::queries::GRADIENT_BYTES;
use super::super::request::Curvature;
use super::super::{Job, JobError};
use super::machine::default_budget;
use crate::curvature::{BlockWidth, Graphs, LayerSpec, STACK_NUMBERS, THREADED_FROM};
use crate::model::{Footprint, Limits, Residence};
use crate::nn::head;

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
    /// Bytes that the largest step is expected to take.
    pub needed: u64,
    /// Bytes that it may take; none if nobody knows.
    pub budget: Option<u64>,
}

/// Program, tokenizer, stacks, and what an allocator keeps for itself.
const PROCESS: u64 = 64 << 20;

/// A piece of a weight file that is read, decoded, and added to its tensor.
const READING: u64 = 48 << 20;

/// What the choices depend on.
pub(super) struct Sizes<'a> {
    pub layers: &'a [LayerSpec],
    pub model: Footprint,
    /// Positions of the longest example.
    pub longest: usize,
    pub limits: Limits,
    /// Bytes of all data.
    pub data: u64,
    /// Rows of the score matrix.
    pub queries: u64,
    /// Rank of the queries' vectors; none if they are whole.
    pub rank: Option<usize>,
    /// Whether layers may be fitted in groups.
    pub separable: bool,
}

impl Memory {
    /// The fastest way that fits: the wanted batches with all activations and weights in memory; activations computed
    /// twice; weights read by section; then the same with smaller batches; and of these, where all layers' sums do
    /// not fit together, the one with the fewest passes over the data.
    ///
    /// # Errors
    /// [`JobError::Memory`] with the least that would do.
    pub(super) fn choose(job: &Job, sizes: &Sizes<'_>) -> Result<Self, JobError> {
        let default = if matches!(sizes.limits, Limits::Tokens(_)) { 2048 } else { 4096 };
        let wanted = job.resources.batch_tokens.unwrap_or(default);
        let budget = job.resources.memory.or_else(default_budget);
        let costs = Costs::new(job, sizes);
        let all: Vec<usize> = (0..sizes.layers.len()).collect();
        let Some(limit) = budget else {
            let (graphs, residence) = (Graphs::Kept, Residence::Kept);
            let needed = costs.needed(wanted, graphs, residence, std::slice::from_ref(&all), STAYS);
            return Ok(Self {
                batch: wanted,
                wanted,
                graphs,
                residence,
                groups: vec![all],
                mapped: STAYS,
                needed,
                budget,
            });
        };
        let mut best: Option<Self> = None;
        let mut least = u64::MAX;
        for batch in batches(wanted, sizes.longest.max(1)) {
            for (graphs, residence) in [
                (Graphs::Kept, Residence::Kept),
                (Graphs::Rebuilt, Residence::Kept),
                (Graphs::Rebuilt, Residence::BySection),
            ] {
                let groups = costs.groups(limit, batch, graphs, residence);
                let bare = costs.needed(batch, graphs, residence, &groups, 0);
                least = least.min(bare);
                if bare > limit || best.as_ref().is_some_and(|best| best.groups.len() <= groups.len()) {
                    continue;
                }
                let mapped = STAYS.min(limit - bare);
                let needed = costs.needed(batch, graphs, residence, &groups, mapped);
                best = Some(Self { batch, wanted, graphs, residence, groups, mapped, needed, budget });
            }
        }
        best.ok_or(JobError::Memory { needed: least, budget: limit })
    }

    /// What a person should know of the choices.
    pub(super) fn notes(&self, asked: Option<u64>) -> Vec<String> {
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

fn square(n: usize) -> u64 {
    (n * n) as u64
}

/// Bytes of everything.
struct Costs<'a> {
    sizes: &'a Sizes<'a>,
    curvature: Curvature,
    /// Whether every example's self-influence is taken, which keeps a spectrum of every layer.
    forms: bool,
    /// Bytes of a number of the run.
    number: u64,
    /// Of eigenbases.
    block_width: BlockWidth,
    threads: u64,
}

impl<'a> Costs<'a> {
    fn new(job: &Job, sizes: &'a Sizes<'a>) -> Self {
        let number = job.model.dtype.bytes();
        let forms = job.method.self_influence || job.method.normalize == crate::job::Normalize::Cosine;
        let threads = rayon::current_num_threads() as u64;
        let block_width = job.method.block_width();
        Self { sizes, curvature: job.method.curvature, forms, number, block_width, threads }
    }

    /// What every pass keeps: the process, data, weights, and a batch while it is differentiated.
    fn pass(&self, batch: usize, graphs: Graphs, residence: Residence) -> u64 {
        let model = &self.sizes.model;
        let rows = batch.max(self.sizes.longest) as u64;
        let section = rows * model.activations;
        let mut head = 2 * rows * model.width;
        if model.vocabulary > 0 {
            head += self.threads * (head::ROWS as u64).min(rows) * (model.width + model.vocabulary);
        }
        if model.tracked_head {
            head += rows * model.vocabulary;
        }
        // a matrix that is stored the other way round is there twice while it is turned
        let (read_section, read_head) = match residence {
            Residence::Kept => (0, 0),
            Residence::BySection => (model.section + model.section / 2, model.head),
        };
        let differentiation = match graphs {
            Graphs::Kept => section * (model.sections + 1) + read_section * model.sections + head + read_head,
            Graphs::Rebuilt => {
                rows * model.width * (model.sections + 1) + (2 * section + read_section).max(head + read_head)
            }
        };
        let reading = if residence == Residence::Kept { 0 } else { READING };
        PROCESS + self.sizes.data + self.weights(residence) + reading + self.number * differentiation
    }

    /// Numbers of a layer's covariance sums, with those of the input if it is the first to read it.
    fn covariance(&self, l: usize) -> u64 {
        self.blocks(l, BlockWidth::Any)
    }

    /// The same of their blocks of at most this width.
    fn blocks(&self, l: usize, width: BlockWidth) -> u64 {
        width.numbers_of_layer(self.sizes.layers, l) as u64
    }

    /// Bytes of the sums of one layer, in the run's type since the last flush and in f64.
    fn sums(&self, l: usize) -> u64 {
        let parameters = self.sizes.layers[l].parameters() as u64;
        let numbers = match self.curvature {
            Curvature::Identity => 0,
            Curvature::Diagonal => parameters,
            Curvature::Kfac => self.covariance(l),
            Curvature::Ekfac => self.covariance(l).max(parameters),
        };
        (8 + self.number) * numbers
    }

    /// What rotating a batch's gradients of the dearest layer takes, for Λ.
    fn rotation(&self, batch: usize) -> u64 {
        if !matches!(self.curvature, Curvature::Ekfac) || matches!(self.sizes.limits, Limits::Rows(_)) {
            return 0;
        }
        let longest = self.sizes.longest.max(1) as u64;
        let examples = (batch as u64).div_ceil(longest);
        let rows = (batch as u64).max(longest);
        let of = |layer: &LayerSpec| {
            let (o, i) = (layer.outputs as u64, layer.columns() as u64);
            let stack =
                if longest > o.min(i) { 2 * (examples * o * i).min((STACK_NUMBERS as u64).max(o * i)) } else { 0 };
            self.number * (rows * (o + i) + stack)
        };
        self.sizes.layers.iter().map(of).max().unwrap_or(0)
    }

    /// Layers in groups whose sums, and whose eigenbases while they are made, fit into `limit`; a layer that takes more
    /// is alone.
    fn groups(&self, limit: u64, batch: usize, graphs: Graphs, residence: Residence) -> Vec<Vec<usize>> {
        let layers = self.sizes.layers;
        let bare = self.pass(batch, graphs, residence) + self.rotation(batch) + self.largest(|l| self.bases(l));
        let rooms = [limit.saturating_sub(bare), limit.saturating_sub(self.decomposition(residence))];
        let mut groups: Vec<Vec<usize>> = vec![vec![]];
        let mut taken = [0; 2];
        let mut l = 0;
        while l < layers.len() {
            // layers that read the same input stay together
            let last = layers.iter().rposition(|other| other.input_group == layers[l].input_group).unwrap_or(l).max(l);
            let more = [(l..=last).map(|l| self.sums(l)).sum(), (l..=last).map(|l| self.pairs(l)).sum::<u64>()];
            let full = (0..2).any(|k| taken[k] + more[k] > rooms[k]);
            if self.sizes.separable && full && groups.last().is_some_and(|group| !group.is_empty()) {
                groups.push(vec![]);
                taken = [0; 2];
            }
            (0..2).for_each(|k| taken[k] += more[k]);
            if let Some(group) = groups.last_mut() {
                group.extend(l..=last);
            }
            l = last + 1;
        }
        groups
    }

    fn largest(&self, of: impl Fn(&LayerSpec) -> u64) -> u64 {
        self.sizes.layers.iter().map(of).max().unwrap_or(0)
    }

    /// Bytes of a layer's eigenvectors.
    fn bases(&self, layer: &LayerSpec) -> u64 {
        match self.curvature {
            Curvature::Kfac | Curvature::Ekfac => {
                let numbers = |n: usize| self.block_width.numbers(n) as u64;
                self.number * (numbers(layer.columns()) + numbers(layer.outputs))
            }
            Curvature::Identity | Curvature::Diagonal => 0,
        }
    }

    /// Bytes that a layer takes until its group is decomposed: covariances and eigenvectors.
    fn pairs(&self, l: usize) -> u64 {
        match self.curvature {
            Curvature::Kfac | Curvature::Ekfac => {
                8 * self.covariance(l) + self.number * self.blocks(l, self.block_width)
            }
            Curvature::Identity | Curvature::Diagonal => 0,
        }
    }

    /// What decomposing takes beside [`Costs::pairs`]: matrices while they are worked on.
    fn decomposition(&self, residence: Residence) -> u64 {
        let work = |layer: &LayerSpec| {
            let whole = layer.columns().max(layer.outputs);
            let n = self.block_width.groups(whole).map(|group| group.len()).max().unwrap_or(0);
            // a matrix, its eigenvectors and scratch, and what was cut out; large ones are decomposed one by one
            let copies = if self.block_width.cuts(whole) { 5 } else { 4 };
            8 * copies * square(n) * if n < THREADED_FROM { self.threads } else { 1 }
        };
        match self.curvature {
            Curvature::Kfac | Curvature::Ekfac => {
                PROCESS + self.sizes.data + self.weights(residence) + self.largest(work)
            }
            Curvature::Identity | Curvature::Diagonal => 0,
        }
    }

    /// What the largest step takes.
    fn needed(&self, batch: usize, graphs: Graphs, residence: Residence, groups: &[Vec<usize>], mapped: u64) -> u64 {
        let (pass, layers) = (self.pass(batch, graphs, residence), self.sizes.layers);
        let stays = |of: &dyn Fn(&LayerSpec) -> u64| mapped.min(layers.iter().map(of).sum()).max(self.largest(of));
        let of_groups = |of: &dyn Fn(usize) -> u64| {
            groups.iter().map(|group| group.iter().map(|&l| of(l)).sum::<u64>()).max().unwrap_or(0)
        };
        let bases = |layer: &LayerSpec| self.bases(layer);
        let factors = |layer: &LayerSpec| match self.curvature {
            Curvature::Identity => 0,
            _ => self.bases(layer) + 8 * layer.parameters() as u64,
        };
        let fit = of_groups(&|l| self.sums(l)) + self.rotation(batch) + stays(&bases);
        // gradients of some queries, their products, halves of them, and a spectrum
        let gradient = |layer: &LayerSpec| self.number * layer.parameters() as u64;
        let widest = self.largest(gradient);
        let gradients = (GRADIENT_BYTES as u64).min(self.sizes.queries * widest).max(widest);
        let queries = 2 * gradients + (self.threads + 1) * widest + stays(&factors);
        let vectors = |layer: &LayerSpec| {
            let of_rank = |rank: usize| self.number * (rank * (layer.outputs + layer.columns())) as u64;
            self.sizes.queries * self.sizes.rank.map_or(u64::MAX, of_rank).min(gradient(layer))
        };
        let forms = match self.forms {
            true => layers.iter().map(gradient).sum::<u64>() + stays(&bases) + self.rotation(batch),
            false => 0,
        };
        let scores = stays(&vectors) + forms;
        let decomposition = self.decomposition(residence) + of_groups(&|l| self.pairs(l));
        (pass + fit.max(queries).max(scores)).max(decomposition)
    }

    fn weights(&self, residence: Residence) -> u64 {
        if residence == Residence::Kept { self.number * self.sizes.model.parameters } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            vocabulary: 50_257,
            tracked_head: false,
        };
        (layers, model)
    }

    fn chosen(budget: u64) -> Result<Memory, JobError> {
        let (layers, model) = gpt2_small();
        let text = format!(
            "[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n[resources]\nmemory = {budget}\nthreads = 2\n[output]\npath = \"o\"\n"
        );
        let job: Job = toml::from_str(&text).expect("a job");
        let limits = Limits::Tokens(crate::data::ModelLimits { vocabulary: 50_257, max_positions: Some(1024) });
        let sizes = Sizes {
            layers: &layers,
            model,
            longest: 512,
            limits,
            data: 1 << 20,
            queries: 2,
            rank: None,
            separable: true,
        };
        Memory::choose(&job, &sizes)
    }

    #[test]
    fn less_memory_keeps_less_and_never_exceeds_the_budget() -> Result<(), JobError> {
        let all = chosen(16 << 30)?;
        assert_eq!((all.batch, all.graphs, all.residence), (2048, Graphs::Kept, Residence::Kept));
        assert_eq!((all.groups.len(), all.mapped), (1, STAYS));
        let mut passes = 1;
        for gib in [8, 6, 4, 3, 2, 1] {
            let found = chosen(gib << 30)?;
            assert!(found.needed <= gib << 30, "{gib} GiB: {found:?}");
            assert!(found.groups.len() >= passes, "{gib} GiB: {found:?}");
            assert_eq!(found.groups.concat(), (0..48).collect::<Vec<_>>());
            passes = found.groups.len();
        }
        assert!(passes > 3, "{passes} passes in 1 GiB");
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
}
