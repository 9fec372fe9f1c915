//! Bytes that each stage of a job keeps in memory at its peak, counted from shapes: the one count that decides what fits
//! a budget and that `ascribe plan` shows.

use crate::attribution::{Aggregate, CHUNK_POSITIONS, Pass};
use crate::curvature::{BlockWidth, Covariance, CurvatureKind, Graphs, LayerSpec, STACK_NUMBERS, Side, THREADED_FROM};
use crate::job::budget::limits::{GRADIENT_BYTES, PART, PENDING, TANGENTS, UNSAVED};
use crate::job::budget::sizes::{FitSize, Fitting, OwnInfluence, Preconditioner, QuerySizes, Sizes, TokenSizes};
use crate::model::{Footprint, Residence};
use crate::nn::head;

/// Bytes at the peak of each stage; 0 for a stage that the job does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::job) struct StageMemory {
    covariance: u64,
    eigendecomposition: u64,
    lambda: u64,
    queries: u64,
    products: u64,
    scores: u64,
    self_influence: u64,
    tokens: u64,
    /// Rows of a covariance from which on as many as there are threads would take more than the other stages do.
    alone_from: usize,
}

impl StageMemory {
    /// Rows from which on covariances are decomposed one after the other.
    pub(in crate::job) fn alone_from(&self) -> usize {
        self.alone_from
    }

    /// Bytes of the stages of this name: where there are several, of the one that takes most.
    pub(in crate::job) fn of(&self, pass: Pass) -> u64 {
        match pass {
            Pass::Covariance => self.covariance,
            Pass::Eigendecomposition => self.eigendecomposition,
            Pass::Lambda => self.lambda,
            Pass::Queries => self.queries,
            Pass::Products => self.products,
            Pass::Scores | Pass::Intervals => self.scores,
            Pass::SelfInfluence => self.self_influence,
            Pass::Tokens | Pass::QueryTokens => self.tokens,
            _ => 0,
        }
    }

    /// What the job needs.
    pub(in crate::job) fn largest(&self) -> u64 {
        let fit = self.covariance.max(self.eigendecomposition).max(self.lambda);
        fit.max(self.queries).max(self.products).max(self.scores).max(self.self_influence).max(self.tokens)
    }
}

/// How the passes of a job run: the size of their batches, and what of activations and weights stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct PassSetting {
    /// Positions of a batch.
    pub batch: usize,
    pub graphs: Graphs,
    pub residence: Residence,
}

/// The program, stacks of its threads, and what an allocator needs for itself: also memory that one thread freed and
/// another owns, which is only given back when the owner runs. On a machine with more work than processors that was up
/// to 8 MiB more than on an idle one (`cli/tests/suite/memory.rs`).
const PROGRAM: u64 = 56 << 20;

/// Bytes that a tokenizer takes for each entry of its vocabulary: texts, merges, and tables of both.
const TOKENIZER_ENTRY: u64 = 320;

/// A piece of a weight file that is read, decoded, and added to its tensor.
const READING: u64 = 48 << 20;

/// Results that composed operations keep of a section, for each number that goes into or out of its linear layers, and
/// for each score of its attention.
const COMPOSED: u64 = 5;
const COMPOSED_SCORES: u64 = 7;

/// Counts the bytes of every stage for given sizes.
pub(in crate::job) struct MemoryCount<'a>(pub &'a Sizes<'a>);

impl MemoryCount<'_> {
    /// Every stage, with layers fitted in these groups and so many bytes of a mapped file that stay between two uses.
    pub(in crate::job) fn stages(&self, setting: PassSetting, groups: &[Vec<usize>], mapped: u64) -> StageMemory {
        let mut found = StageMemory::default();
        let of_groups = |of: &dyn Fn(usize) -> u64| {
            groups.iter().map(|group| group.iter().map(|&l| of(l)).sum::<u64>()).max().unwrap_or(0)
        };
        if let Fitting::Here { lambdas } = self.0.fitting {
            let pass = self.pass(setting, setting.batch);
            if self.has_eigenbasis() {
                found.covariance = pass + of_groups(&|l| self.covariance_sums(l)) + self.weighted_rows(setting.batch);
            }
            if lambdas > 0 {
                let sums = lambdas * of_groups(&|l| self.lambda_sums(l));
                let bases = lambdas * self.stays(mapped, &|l| self.bases(l));
                let conditioners = self.most_conditioners(lambdas);
                found.lambda = pass + (sums + self.rotation(setting.batch) + bases + conditioners).max(self.moments());
            }
            if self.0.fits.iter().any(|fit| fit.kind == CurvatureKind::Adam) {
                found.lambda = found.lambda.max(self.standing(setting.residence) + self.second_moments());
            }
            if self.has_eigenbasis() {
                let beside = self.beside_decompositions(setting.residence);
                let room = found.covariance.max(found.lambda).saturating_sub(beside);
                found.alone_from = self.alone_from(room);
                found.eigendecomposition = beside + self.largest(&|l| self.decomposing(l, found.alone_from));
            }
        }
        if let Some(queries) = &self.0.queries {
            found.queries = self.queries(setting, queries, mapped);
            found.scores = self.scores(setting, queries, mapped);
            if let Some(solve) = self.0.solve {
                let least = TANGENTS[TANGENTS.len() - 1];
                found.products = self.joint_solve(setting, solve, solve.least(), least, mapped);
            }
            if let OwnInfluence::Pass { networks } = queries.own {
                found.self_influence = self.self_influence(setting, queries, networks, mapped);
            }
            found.tokens = self.tokens(setting, queries, 1, mapped);
        }
        found
    }

    /// The block of joint solves that the budget has room for, which `stages` then counts.
    pub(in crate::job) fn take_block(
        &self,
        setting: PassSetting,
        budget: Option<u64>,
        mapped: u64,
        stages: &mut StageMemory,
    ) -> (usize, usize) {
        let Some(solve) = self.0.solve else { return (0, 0) };
        let least = (solve.least(), TANGENTS[TANGENTS.len() - 1]);
        let (block, tangents) = self.solve_block(setting, solve, budget, mapped).unwrap_or(least);
        stages.products = self.joint_solve(setting, solve, block, tangents, mapped);
        (block, tangents)
    }

    /// The block of target tokens that the budget has room for, which `stages` then counts; 0 if there are none.
    pub(in crate::job) fn take_token_block(
        &self,
        setting: PassSetting,
        budget: Option<u64>,
        mapped: u64,
        stages: &mut StageMemory,
    ) -> usize {
        let Some(queries) = &self.0.queries else { return 0 };
        let Some(all) = queries.tokens.map(|tokens| tokens.targets).filter(|&all| all > 0) else { return 0 };
        let bytes = |block: u64| self.tokens(setting, queries, block, mapped);
        let block = match budget {
            None => all,
            Some(budget) => {
                let (one, each) = (bytes(1), bytes(2) - bytes(1));
                (1 + budget.saturating_sub(one) / each.max(1)).min(all)
            }
        };
        stages.tokens = bytes(block);
        block as usize
    }

    /// Layers in groups whose sums fit into `limit`; a layer that takes more is alone.
    pub(in crate::job) fn groups(&self, limit: u64, setting: PassSetting) -> Vec<Vec<usize>> {
        let layers = self.0.layers;
        let lambdas = match self.0.fitting {
            Fitting::Here { lambdas } => lambdas,
            Fitting::Reused => 0,
        };
        let pass = self.pass(setting, setting.batch);
        let lambda =
            self.rotation(setting.batch) + lambdas * self.largest(&|l| self.bases(l)) + self.most_conditioners(lambdas);
        let rooms = [pass + self.weighted_rows(setting.batch), pass + lambda].map(|taken| limit.saturating_sub(taken));
        let of = |l: usize| [self.covariance_sums(l), lambdas * self.lambda_sums(l)];
        let mut groups: Vec<Vec<usize>> = vec![vec![]];
        let mut taken = [0; 2];
        let mut l = 0;
        while l < layers.len() {
            // layers that read the same input stay together
            let last = layers.iter().rposition(|other| other.input_group == layers[l].input_group).unwrap_or(l).max(l);
            let mut more = [0; 2];
            for l in l..=last {
                more.iter_mut().zip(of(l)).for_each(|(more, bytes)| *more += bytes);
            }
            let full = (0..2).any(|k| taken[k] + more[k] > rooms[k]);
            if self.0.separable && full && groups.last().is_some_and(|group| !group.is_empty()) {
                groups.push(vec![]);
                taken = [0; 2];
            }
            taken.iter_mut().zip(more).for_each(|(taken, more)| *taken += more);
            if let Some(group) = groups.last_mut() {
                group.extend(l..=last);
            }
            l = last + 1;
        }
        groups
    }

    /// What every pass keeps: the program, data, weights, and a batch of so many positions while it is differentiated.
    pub(super) fn pass(&self, setting: PassSetting, positions: usize) -> u64 {
        let model = &self.0.model;
        let rows = self.rows(positions);
        let section = rows * self.kept(model.activations, 1);
        let mut head = if model.vocabulary > 0 { 2 * rows * model.width } else { 0 };
        if model.tracked_head {
            head += rows * model.vocabulary;
        }
        head += rows * model.table_rows;
        // a matrix that is stored the other way round is there twice while it is turned
        let (read_section, read_head) = match setting.residence {
            Residence::Kept => (0, 0),
            Residence::BySection => (model.section + model.section / 2, model.head),
        };
        let differentiation = match setting.graphs {
            // beside all activations the gradients of a section and those of the one before
            Graphs::Kept => {
                rows * self.kept(model.all_activations, model.sections)
                    + 2 * section
                    + read_section * model.sections
                    + head
                    + read_head
            }
            Graphs::Rebuilt => {
                rows * model.width * (model.sections + 1) + (2 * section + read_section).max(head + read_head)
            }
        };
        self.standing(setting.residence) + self.number() * differentiation
    }

    /// Numbers of a position that so many sections, with so many inputs and outputs of linear layers, keep for their
    /// backward pass.
    ///
    /// In f32 norms, activations and attention are one operation each. In f64 each is composed of many, every one of
    /// which keeps its result; among those of attention are scores of all heads.
    pub(super) fn kept(&self, activations: u64, sections: u64) -> u64 {
        let scores = sections * self.0.model.heads * self.0.longest as u64;
        let is_composed = self.number() == 8;
        if is_composed { COMPOSED * activations + COMPOSED_SCORES * scores } else { activations }
    }

    /// What is there in every stage: the program, data, and the network that was used last.
    fn standing(&self, residence: Residence) -> u64 {
        let network = match residence {
            Residence::Kept => self.number() * self.0.model.parameters,
            Residence::BySection => READING,
        };
        PROGRAM + TOKENIZER_ENTRY * self.0.model.vocabulary + self.0.data + network + self.logits()
    }

    /// A block of logits on each thread, which keeps its memory for the next batch and through other stages.
    fn logits(&self) -> u64 {
        let Footprint { width, vocabulary, .. } = self.0.model;
        let rows = (head::ROWS as u64).min(self.0.positions as u64);
        if vocabulary > 0 { self.number() * self.0.threads * rows * (width + vocabulary) } else { 0 }
    }

    /// Rows of the largest batch of so many positions: an example that is longer is a batch by itself.
    pub(super) fn rows(&self, positions: usize) -> u64 {
        positions.max(self.0.longest).min(self.0.positions) as u64
    }

    fn number(&self) -> u64 {
        self.0.number
    }

    fn has_eigenbasis(&self) -> bool {
        self.0.fits.iter().any(|fit| fit.kind.has_eigenbasis())
    }

    fn is_conditioned(&self) -> bool {
        self.0.fits.iter().any(|fit| fit.preconditioner.is_some())
    }

    /// Numbers of the blocks of at most this width of both sides of a layer, the input's only if it is the first to read
    /// it.
    fn blocks(&self, l: usize, width: BlockWidth) -> u64 {
        width.numbers_of_layer(self.0.layers, l) as u64
    }

    fn parameters(&self, l: usize) -> u64 {
        self.0.layers[l].parameters() as u64
    }

    fn total(&self, of: &dyn Fn(usize) -> u64) -> u64 {
        (0..self.0.layers.len()).map(of).sum()
    }

    fn largest(&self, of: &dyn Fn(usize) -> u64) -> u64 {
        (0..self.0.layers.len()).map(of).max().unwrap_or(0)
    }

    /// Pages of a file of which so many bytes stay between two uses: these, and the layer that is in use.
    fn stays(&self, mapped: u64, of: &dyn Fn(usize) -> u64) -> u64 {
        self.total(of).min(mapped + self.largest(of))
    }

    /// Sums of a layer's covariances: lower triangles in f64.
    fn covariance_sums(&self, l: usize) -> u64 {
        if self.has_eigenbasis() { 8 * Covariance::numbers_of_layer(self.0.layers, l) as u64 } else { 0 }
    }

    /// A batch's rows of the widest layer with their column of ones and multiplied with the weights of their pairs, the
    /// product of both, and the weights of an example on each thread; 0 for covariances.
    fn weighted_rows(&self, positions: usize) -> u64 {
        let couples = |fit: &FitSize| fit.kind.pair_weights().couple_sides();
        if !self.0.fits.iter().any(couples) {
            return 0;
        }
        let (rows, longest) = (self.rows(positions), self.0.longest as u64);
        let of = |l: usize| {
            let (o, i) = (self.0.layers[l].outputs as u64, self.0.layers[l].columns() as u64);
            rows * (i + o.max(i)) + o.max(i).pow(2)
        };
        self.number() * (self.largest(&of) + self.0.threads * longest.pow(2))
    }

    /// Sums of Λ, in the run's type since the last flush and in f64, for one fit.
    fn lambda_sums(&self, l: usize) -> u64 {
        (8 + self.number()) * self.parameters(l)
    }

    /// What rotating a batch's gradients of the dearest layer takes.
    fn rotation(&self, positions: usize) -> u64 {
        if !self.has_eigenbasis() || self.0.limits.has_one_position() && !self.is_conditioned() {
            return 0;
        }
        let longest = self.0.longest.max(1) as u64;
        let rows = self.rows(positions);
        let examples = rows.div_ceil(longest);
        let of = |l: usize| {
            let (o, i) = (self.0.layers[l].outputs as u64, self.0.layers[l].columns() as u64);
            let has_stack = longest > o.min(i) || self.is_conditioned();
            let stack = if has_stack { 2 * (examples * o * i).min((STACK_NUMBERS as u64).max(o * i)) } else { 0 };
            self.number() * (rows * (o + i) + stack)
        };
        self.largest(&of) + self.packed(positions)
    }

    /// A batch's inputs of the widest layer, packed for the products that form gradients block by block.
    pub(super) fn packed(&self, positions: usize) -> u64 {
        let rows = self.rows(positions);
        self.number() * rows * self.largest(&|l| self.0.layers[l].columns() as u64)
    }

    /// A layer's eigenvectors. Conditioned, every layer has its own of what it reads.
    fn bases(&self, l: usize) -> u64 {
        let (layer, width) = (&self.0.layers[l], self.0.block_width);
        match (self.has_eigenbasis(), self.is_conditioned()) {
            (false, _) => 0,
            (true, false) => self.number() * self.blocks(l, width),
            (true, true) => {
                self.number()
                    * (width.numbers_of_side(layer, Side::Output) + width.numbers_of_side(layer, Side::Input)) as u64
            }
        }
    }

    /// What is there beside covariances that are worked on.
    fn beside_decompositions(&self, residence: Residence) -> u64 {
        let unsaved = (UNSAVED as u64).min(self.total(&|l| self.bases(l)));
        self.standing(residence) + unsaved + self.most_conditioners(1).max(self.moments())
    }

    /// Rows of the widest block of a layer's covariances, and what its decomposition takes.
    fn decomposition(&self, l: usize) -> (usize, u64) {
        let (layer, width): (&LayerSpec, _) = (&self.0.layers[l], self.0.block_width);
        let widest = |side| width.at(layer, side).groups(layer.size(side)).map(|group| group.len()).max().unwrap_or(0);
        let n = Side::BOTH.map(widest).into_iter().max().unwrap_or(0);
        let kept = Side::BOTH.map(|side| Covariance::numbers_of_side(layer, side)).into_iter().max().unwrap_or(0);
        // triangles: pages of the file, what is cut out of several or of a wide one, and conditioned
        let many = self.0.fits.iter().any(|fit| fit.kind.has_eigenbasis() && fit.covariances > 1);
        let cut = 4 * u64::from(many || width.cuts_layer(layer)) + 4 * u64::from(self.is_conditioned());
        // a matrix, its eigenvectors in f64 and in the run's type, and scratch
        (n, 8 * kept as u64 + (3 * 8 + 2 * self.number() + cut) * (n * n) as u64)
    }

    fn alone_from(&self, room: u64) -> usize {
        let all = (0..self.0.layers.len()).map(|l| self.decomposition(l));
        let too_large = all.filter(|(n, bytes)| *n >= THREADED_FROM && self.0.threads * bytes > room);
        too_large.map(|(n, _)| n).min().unwrap_or(usize::MAX)
    }

    /// A layer's covariances while they are worked on: one, or one on each thread.
    fn decomposing(&self, l: usize, alone_from: usize) -> u64 {
        let (n, bytes) = self.decomposition(l);
        if n >= alone_from { bytes } else { self.0.threads * bytes }
    }

    /// `h` and `1 / h` of all weights of as many fits as have most, and what multiplies their decay.
    fn most_conditioners(&self, fits: u64) -> u64 {
        let mut all: Vec<u64> = self.0.fits.iter().map(|fit| self.conditioner(fit)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.iter().take(fits as usize).sum()
    }

    fn conditioner(&self, fit: &FitSize) -> u64 {
        let each = if fit.preconditioner.is_some() { 2 * self.number() } else { 0 };
        each * self.total(&|l| self.parameters(l))
    }

    /// A conditioner while it is made: second moments of every checkpoint, in f32 and one layer in the run's type, and
    /// their mean, its root and its inverse of one layer.
    fn moments(&self) -> u64 {
        let (all, widest) = (self.total(&|l| self.parameters(l)), self.largest(&|l| self.parameters(l)));
        let of_fit = |fit: &FitSize| match fit.preconditioner {
            Preconditioner::None => 0,
            Preconditioner::Adam { checkpoints, .. } => {
                self.conditioner(fit) + 4 * checkpoints * all + (checkpoints * self.number() + 3 * 8) * widest
            }
        };
        let largest = self.0.fits.iter().map(of_fit).max().unwrap_or(0);
        // those of the other fits are there already
        let others: u64 = self.0.fits.iter().map(|fit| self.conditioner(fit)).sum();
        let own = self.0.fits.iter().map(|fit| self.conditioner(fit)).max().unwrap_or(0);
        largest + if largest > 0 { others - own } else { 0 }
    }

    /// Second moments of a checkpoint in f32, as they are read: with those of one parameter as the file has them, and one
    /// layer's roots in f64.
    fn second_moments(&self) -> u64 {
        4 * self.total(&|l| self.parameters(l)) + (4 + 8) * self.largest(&|l| self.parameters(l))
    }

    /// All fits' eigenvectors and Λ, as a walk over them reads them, with what conditions them.
    pub(super) fn factors(&self, mapped: u64) -> u64 {
        let all = self.total(&|l| self.parameters(l));
        let of_fit = |fit: &FitSize| {
            let bases = if fit.kind.has_eigenbasis() { self.stays(mapped, &|l| self.bases(l)) } else { 0 };
            let lambda = match (fit.kind.has_lambda(), fit.places) {
                (false, _) => 0,
                (true, ..=1) => self.stays(mapped, &|l| 8 * self.parameters(l)),
                // a mean over networks is in no file
                (true, _) => 8 * all,
            };
            let decay = match fit.preconditioner {
                Preconditioner::Adam { couples_decay: true, .. } => 8 * all,
                _ => 0,
            };
            bases + lambda + decay + self.conditioner(fit)
        };
        self.0.fits.iter().map(of_fit).sum()
    }

    /// Gradients of some queries and what a walk makes of them, halves of rotations, and a spectrum.
    fn queries(&self, setting: PassSetting, queries: &QuerySizes, mapped: u64) -> u64 {
        let gradient = |l: usize| self.number() * self.parameters(l);
        let widest = self.largest(&gradient);
        let at_once = (GRADIENT_BYTES as u64 / widest.max(1)).max(1).min(queries.in_batch(setting.batch) as u64);
        let positions = setting.batch.min(at_once as usize * self.0.longest);
        let summed = if queries.aggregate == Aggregate::Each { 0 } else { self.total(&gradient) };
        let carried = queries.carried * at_once * widest + (self.0.threads + 1) * widest;
        self.pass(setting, positions) + (carried + summed + self.factors(mapped)).max(self.moments())
    }

    /// Query vectors, and scores until they are written.
    fn scores(&self, setting: PassSetting, queries: &QuerySizes, mapped: u64) -> u64 {
        let vector = |l: usize| self.query_vectors(queries, l);
        let all = self.total(&|l| self.number() * self.parameters(l));
        // spectra of all layers
        let forms = match queries.own {
            OwnInfluence::Form => {
                all + self.stays(mapped, &|l| self.bases(l))
                    + self.stays(mapped, &|l| 8 * self.parameters(l))
                    + self.rotation(setting.batch)
            }
            OwnInfluence::None | OwnInfluence::Pass { .. } => 0,
        };
        // vectors and rows of a slice are cut out
        let sliced = match queries.slice {
            0 => 0,
            numbers => {
                let widest = self.largest(&|l| self.0.layers[l].outputs.max(self.0.layers[l].columns()) as u64);
                self.number() * (queries.vectors * numbers + self.rows(setting.batch) * widest)
            }
        };
        let pass = self.pass(setting, setting.batch) + self.packed(setting.batch) + sliced;
        pass + self.stays(mapped, &vector) + self.columns(setting, queries) + forms
    }

    /// A layer's vectors of all queries that a pass meets.
    fn query_vectors(&self, queries: &QuerySizes, l: usize) -> u64 {
        let layer = &self.0.layers[l];
        let of_rank = |rank: usize| self.number() * (rank * (layer.outputs + layer.columns())) as u64;
        queries.vectors * queries.rank.map_or(u64::MAX, of_rank).min(self.number() * self.parameters(l))
    }

    /// Vectors of a block of target tokens, beside what making them or multiplying with them takes, and the shares of all
    /// listed pairs; or the shares of all examples; 0 if neither is asked for.
    fn tokens(&self, setting: PassSetting, queries: &QuerySizes, block: u64, mapped: u64) -> u64 {
        let Some(TokenSizes { targets, legs, shares, longest }) = queries.tokens else { return 0 };
        let all = self.total(&|l| self.number() * self.parameters(l));
        let one = self.pass(setting, self.0.longest) + self.packed(self.0.longest);
        if targets == 0 {
            let vectors = self.stays(mapped, &|l| self.query_vectors(queries, l));
            return one + vectors + 16 * longest * queries.vectors + 4 * shares;
        }
        // each: one example's rows with every vector of the block
        let multiplying = one + 8 * longest * block * legs;
        // in a subspace also the map of one query
        let map = if self.0.solve.is_some() { all } else { 0 };
        let making = self.queries(setting, queries, mapped) + map;
        making.max(multiplying) + block * legs * all + 12 * shares
    }

    /// Scores of a batch by layer and in sum, of a chunk, and those that wait to be written.
    fn columns(&self, setting: PassSetting, queries: &QuerySizes) -> u64 {
        let shortest = (self.0.positions as u64 / queries.examples.max(1)).max(1);
        let of = |positions: usize| (positions as u64 / shortest).clamp(1, queries.examples.max(1));
        let width = queries.vectors * queries.sums;
        let batch = of(setting.batch) * (width + queries.vectors);
        let chunk = of(CHUNK_POSITIONS + setting.batch) * width;
        8 * (batch + chunk) + 4 * (queries.examples * width).min(PENDING as u64 + chunk)
    }

    /// Vectors of a batch's examples at all layers of one leg, beside what carrying queries takes.
    fn self_influence(&self, setting: PassSetting, queries: &QuerySizes, networks: u64, mapped: u64) -> u64 {
        let shortest = (self.0.positions as u64 / queries.examples.max(1)).max(1);
        let examples = (setting.batch as u64 / shortest).clamp(1, PART as u64).min(queries.examples.max(1));
        let gradient = |l: usize| self.number() * self.parameters(l);
        let (all, widest) = (self.total(&gradient), self.largest(&gradient));
        let carried = (queries.carried * examples + self.0.threads + 1) * widest;
        let others = match setting.residence {
            Residence::Kept => networks.saturating_sub(1) * self.number() * self.0.model.parameters,
            Residence::BySection => 0,
        };
        let positions = setting.batch.min(PART * self.0.longest);
        self.pass(setting, positions) + others + examples * all + (carried + self.factors(mapped)).max(self.moments())
    }
}
