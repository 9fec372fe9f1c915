//! The stages of a job in the order of the work, each with what it counts.

use std::collections::BTreeMap;

use super::architecture::Architecture;
use super::count::{StageCost, Work, WorkKind};
use super::work::{self, BatchShape, Coordinates, Layers, NetworkShape};
use crate::attribution::{Aggregate, CHUNK_POSITIONS, LabelMode, Pass, Subspace};
use crate::curvature::contraction::RotationRoute;
use crate::curvature::{CovarianceBlock, Graphs, LayerSpec, Truncation};
use crate::data::{self, Dataset, Kind};
use crate::job::brief::answers::{Joint, Method, ScorePass, VectorSet};
use crate::job::brief::keys::site;
use crate::job::error::JobError;
use crate::job::plan::Plan;
use crate::job::request::{FormRequest, Normalize, SPANNING, SelfInfluenceForm, Solve, SolveLayers};
use crate::job::steps::query_vectors::queries_at_once;
use crate::job::training::{Fit, Sample, Site, Stage, Training};

/// Batches of equal shape are counted once.
pub(super) type Batches = BTreeMap<BatchShape, u64>;

/// A plan, and what does not depend on the stage.
pub(super) struct Stages<'a> {
    pub plan: &'a Plan,
    pub network: NetworkShape,
    pub graphs: Graphs,
    /// Batches of the examples of each stage of training.
    train: Vec<Batches>,
    /// Batches of those that each stage's curvature is taken on: of all, and of either half if there are halves.
    fit: Vec<[Batches; 3]>,
}

/// Every stage of a plan.
pub(super) fn of(plan: &Plan) -> Result<Vec<StageCost>, JobError> {
    let training = &plan.training;
    let folder = &training.networks.parameters()[training.last_network()].of[0].0;
    let train = training.stages.iter().map(|stage| batches(plan, &stage.train, usize::MAX)).collect();
    let of_sample = |stage: &Stage, sample: Sample| match (sample, &stage.halves) {
        (Sample::Half(_), None) => Batches::new(),
        _ => batches(plan, stage.data_of(sample), usize::MAX),
    };
    let samples = [Sample::Whole, Sample::Half(0), Sample::Half(1)];
    let fit = training.stages.iter().map(|stage| samples.map(|sample| of_sample(stage, sample))).collect();
    let head = Architecture::read(folder, training.networks.options())?.head();
    let network = NetworkShape { operations: training.networks.operations(), head };
    let stages = Stages { plan, network, graphs: training.networks.options().graphs, train, fit };
    let mut all = vec![];
    if plan.reused.is_none() {
        let fits: Vec<&Fit> = plan.needed_fits().map(|(_, fit)| fit).collect();
        let with_bases = || fits.iter().copied().filter(|fit| fit.kind.has_eigenbasis());
        all.extend(Training::sites(with_bases()).into_iter().map(|site| stages.covariance(site)));
        all.extend(with_bases().map(|fit| stages.eigendecomposition(fit)));
        let with_lambda = || fits.iter().copied().filter(|fit| fit.kind.has_lambda_pass());
        let mut sites = Training::sites(with_lambda());
        sites.sort_by_key(|site| (site.stage, site.network));
        for site in sites {
            let taken = |fit: &&Fit| fit.is_taken_at(site);
            all.push(stages.lambda(site, &with_lambda().filter(taken).collect::<Vec<_>>()));
        }
    }
    if let Some(queries) = &plan.queries {
        let answers = plan.all_answers();
        for sets in plan.vector_sets(&answers).chunk_by(|a, b| a.network == b.network) {
            all.push(stages.queries(queries, sets));
            if sets.iter().any(|set| plan.joint(set.answer) == Some(Joint::Systems)) {
                all.push(stages.products(sets[0].network));
            }
            for _ in sets.iter().filter(|set| plan.joint(set.answer) == Some(Joint::Segments)) {
                let places = training.segment_fits().iter().flat_map(|fit| fit.places.iter().map(move |at| (at, fit)));
                all.extend(places.map(|(at, fit)| stages.gauss_newton(site(fit, at))));
            }
        }
        all.extend(plan.score_passes(&plan.scored_answers()).iter().map(|pass| stages.scores(pass)));
        all.extend(plan.score_passes(&plan.shortlisted()).iter().map(|pass| stages.shortlisted(pass)));
        all.extend(stages.tokens(queries));
        if plan.walks_to_itself() {
            all.extend((0..training.stages.len()).map(|stage| stages.self_influence(stage)));
        }
    }
    Ok(all)
}

/// How a dataset is cut.
pub(super) fn batches(plan: &Plan, dataset: &Dataset, at_most: usize) -> Batches {
    let in_batches = plan.in_batches(dataset);
    let mut found = Batches::new();
    let mut start = 0;
    for batch in data::batches(dataset, 0..dataset.len(), in_batches.batch_tokens) {
        start = start.max(batch.start);
        // a batch of few examples goes on where the last one stopped
        while start < batch.end {
            let end = batch.end.min(start.saturating_add(at_most));
            *found.entry(shape(dataset, start..end)).or_default() += 1;
            start = end;
        }
    }
    found
}

/// The shape of a batch.
pub(super) fn shape(dataset: &Dataset, range: std::ops::Range<usize>) -> BatchShape {
    let targets = match dataset.kind() {
        Kind::Tokens(tokens) => range.clone().map(|m| tokens.targets(m)).sum(),
        Kind::Rows(_) => 0,
    };
    BatchShape::divided(range.map(|m| read_and_written(dataset, m)), targets)
}

/// Positions of an example that an encoder reads, and the others: all where there is no encoder.
pub(super) fn read_and_written(dataset: &Dataset, m: usize) -> (usize, usize) {
    let written = dataset.target_positions(m);
    (dataset.positions(m) - written, written)
}

/// [`read_and_written`] of a training example, on average.
pub(super) fn mean_example(plan: &Plan) -> (usize, usize) {
    let (train, n) = (plan.train(), plan.train().len());
    let lengths = (0..n).map(|m| read_and_written(train, m));
    let (read, written) = lengths.fold((0, 0), |sum, (read, written)| (sum.0 + read, sum.1 + written));
    (read.div_ceil(n.max(1)), written.div_ceil(n.max(1)))
}

/// What happens to a query's vector on an answer's walk at one layer.
#[derive(Default)]
struct Carried {
    /// Rotations into eigenbases, and out of them for the leg before.
    rotations: u128,
    /// What legs make of it, with the fit whose basis it is in.
    products: Vec<Option<usize>>,
}

fn carried(plan: &Plan, set: VectorSet, l: usize) -> Carried {
    let fits = &plan.training.fits;
    let of_influence = |fit: usize| match fits[fit].kind.has_eigenbasis() {
        true => Carried { rotations: 1, products: vec![Some(fit)] },
        false => Carried { rotations: 0, products: vec![None] },
    };
    match plan.answers[set.answer].method {
        Method::Influence { fit, .. } => of_influence(fit),
        Method::InfluenceMean { sample, .. } => of_influence(plan.averaged_fit(set.network, sample)),
        Method::Tracin | Method::Gradients => Carried { rotations: 0, products: vec![None] },
        Method::Source { .. } => {
            // parameters alone, or they and the momentum buffer
            let is_pair = plan.job.source.as_ref().is_some_and(|source| source.form == FormRequest::Momentum);
            let vectors = if is_pair { 2 } else { 1 };
            let mut found = Carried::default();
            let legs = plan.training.segment_fits().iter().enumerate();
            for (leg, _) in legs.filter(|(_, fit)| !fit.frozen.contains(&l)) {
                found.rotations += if leg == 0 { vectors } else { 2 * vectors };
                found.products.push(Some(leg));
            }
            found
        }
    }
}

/// The coordinates of a fit's Λ.
pub(super) fn coordinates(plan: &Plan, fit: &Fit) -> Coordinates {
    let width = plan.block_width();
    match (fit.kind.has_eigenbasis(), &fit.moments) {
        (false, _) => Coordinates::Standard,
        (true, Some(_)) => Coordinates::ConditionedEigenbasis(width),
        (true, None) => Coordinates::Eigenbasis(width),
    }
}

impl Stages<'_> {
    pub(super) fn named(&self, pass: Pass) -> StageCost {
        let memory = self.plan.memory.stages.of(pass);
        StageCost { stage: pass.name().into(), unit: pass.unit().into(), memory, ..StageCost::default() }
    }

    pub(super) fn layers(&self) -> &[LayerSpec] {
        self.plan.training.layers()
    }

    /// The layers with the rows that they see.
    pub(super) fn seeing(&self) -> Layers<'_> {
        Layers { specs: self.layers(), rows: self.plan.training.networks.layer_rows() }
    }

    /// Numbers of one gradient.
    pub(super) fn tracked(&self) -> u64 {
        self.layers().iter().map(|layer| layer.parameters() as u64).sum()
    }

    /// Numbers that are kept of one query's vector.
    fn kept(&self) -> u64 {
        let form = self.plan.vector_form();
        let numbers = |layer: &LayerSpec| match form.rank_at(layer) {
            None => layer.parameters(),
            Some(rank) => rank * (layer.outputs + layer.columns()),
        };
        self.layers().iter().map(|layer| numbers(layer) as u64).sum()
    }

    fn draws(&self) -> u64 {
        match self.plan.label_mode() {
            LabelMode::Sampled { draws, .. } => draws.into(),
            LabelMode::Empirical => 1,
            LabelMode::Exact { classes } => classes as u64,
        }
    }

    /// A pass that is repeated for every group of layers whose sums fit into memory together.
    fn in_groups(&self, mut stage: StageCost) -> StageCost {
        let groups = self.plan.memory.groups.len() as u64;
        stage.work[0].flop *= u128::from(groups);
        stage.chunks *= groups;
        stage
    }

    /// A pass over a stage's examples, differentiated `repeats` times, with something else for each batch.
    fn pass(
        &self,
        pass: Pass,
        site: Site,
        repeats: u64,
        kind: WorkKind,
        of: impl Fn(&BatchShape) -> u128,
    ) -> StageCost {
        let stage = &self.plan.training.stages[site.stage];
        let (batches, examples) = match pass {
            Pass::Covariance | Pass::Lambda => {
                let place = match site.sample {
                    Sample::Whole | Sample::Redrawn => 0,
                    Sample::Half(k) => 1 + k,
                };
                (&self.fit[site.stage][place], stage.data_of(site.sample))
            }
            _ => (&self.train[site.stage], &stage.train),
        };
        let positions: u64 = batches.iter().map(|(batch, n)| batch.rows as u64 * n).sum();
        StageCost {
            of: self.plan.training.networks.parameters()[site.network].name.clone(),
            units: examples.len() as u64,
            positions,
            work: self.work(batches, repeats, kind, of),
            chunks: (positions * repeats).div_ceil(CHUNK_POSITIONS as u64),
            ..self.named(pass)
        }
    }

    pub(super) fn work(
        &self,
        batches: &Batches,
        repeats: u64,
        kind: WorkKind,
        of: impl Fn(&BatchShape) -> u128,
    ) -> Vec<Work> {
        let sum = |of: &dyn Fn(&BatchShape) -> u128| {
            batches.iter().map(|(batch, n)| of(batch) * u128::from(n * repeats)).sum()
        };
        let shape = self.network;
        vec![
            Work { kind: WorkKind::Passes, flop: sum(&|batch| work::pass(shape, batch, self.graphs)) },
            Work { kind, flop: sum(&of) },
        ]
    }

    fn covariance(&self, site: Site) -> StageCost {
        let weights = self.plan.pair_weights();
        let of = |batch: &BatchShape| work::covariances(self.seeing(), batch, weights);
        let mut stage = self.pass(Pass::Covariance, site, self.draws(), WorkKind::Covariances, of);
        stage.saved = 8 * work::covariance_numbers(self.layers());
        stage.disk = self.plan.covariance_bytes();
        self.in_groups(stage)
    }

    fn eigendecomposition(&self, fit: &Fit) -> StageCost {
        let layers = self.layers();
        let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
        let blocks = CovarianceBlock::all(layers, fit.shared_inputs(), &fit.frozen, self.plan.block_width());
        blocks.iter().for_each(|block| *sizes.entry(block.range.len()).or_default() += 1);
        let flop = sizes.iter().map(|(&n, &count)| work::eigendecomposition(n) * u128::from(count)).sum();
        StageCost {
            of: fit.name.clone(),
            units: blocks.len() as u64,
            work: vec![Work { kind: WorkKind::Eigendecompositions, flop }],
            decomposed: sizes.into_iter().collect(),
            alone_from: self.plan.memory.stages.alone_from(),
            disk: self.plan.eigenbasis_bytes(fit),
            ..self.named(Pass::Eigendecomposition)
        }
    }

    fn lambda(&self, site: Site, fits: &[&Fit]) -> StageCost {
        let layers = self.layers();
        let squares = |batch: &BatchShape| {
            let of_fit = |fit: &&Fit| {
                let trained = (0..layers.len()).filter(|l| !fit.frozen.contains(l));
                trained.map(|l| work::squares(self.seeing(), l, batch, coordinates(self.plan, fit))).sum::<u128>()
            };
            fits.iter().map(of_fit).sum()
        };
        let mut stage = self.pass(Pass::Lambda, site, self.draws(), WorkKind::Squares, squares);
        let numbers = self.tracked() * fits.len() as u64;
        stage.summed = numbers * stage.chunks;
        stage.saved = 8 * numbers;
        stage.disk = fits.iter().map(|fit| self.plan.lambda_bytes(fit)).sum();
        self.in_groups(stage)
    }

    /// Gradients of queries in these batches, and what their walks make of so many rows.
    pub(super) fn vectors(&self, batches: &Batches, rows: u128, sets: &[VectorSet]) -> Vec<Work> {
        let (plan, layers, width) = (self.plan, self.layers(), self.plan.block_width());
        let is_each = Aggregate::from(plan.job.method.aggregate) == Aggregate::Each;
        let carried_by = |batch: &BatchShape| {
            let of_layer = |(l, (layer, batch)): (usize, (&LayerSpec, BatchShape))| {
                let size = work::basis(layer, width);
                // in a sum of gradients no query has rows any more
                let by_rows = is_each && RotationRoute::cheapest(batch.at(layer), size).has_rows();
                let mut bases: Vec<Option<usize>> = vec![];
                let mut rotations = 0;
                for set in sets {
                    let walk = carried(plan, *set, l);
                    let entrance = walk
                        .products
                        .last()
                        .copied()
                        .flatten()
                        .filter(|&fit| by_rows && plan.training.fits[fit].moments.is_none());
                    rotations += walk.rotations - u128::from(entrance.is_some());
                    if !bases.contains(&entrance) {
                        bases.push(entrance);
                    }
                }
                let formed = bases.iter().map(|basis| match basis {
                    Some(_) => RotationRoute::cheapest(batch.at(layer), size).flops(batch.at(layer), size),
                    None => work::gradients(layer, &batch),
                });
                let each = if is_each { batch.examples as u128 } else { 0 };
                formed.sum::<u128>() + each * rotations * work::rotation(layer, width)
            };
            self.seeing().of(batch).enumerate().map(of_layer).sum()
        };
        let mut found = self.work(batches, 1, WorkKind::Vectors, carried_by);
        let mut truncations = 0;
        let in_basis: Vec<bool> = sets.iter().map(|set| plan.keeps_in_basis(*set)).collect();
        for (l, layer) in layers.iter().enumerate() {
            let rank = plan.vector_form().rank_at(layer);
            for (walk, &stays) in sets.iter().map(|set| carried(plan, *set, l)).zip(&in_basis) {
                if !is_each {
                    found[1].flop += rows * walk.rotations * work::rotation(layer, width);
                }
                for fit in walk.products {
                    let Some(rank) = rank else {
                        let is_turned = fit.is_some() && !stays;
                        found[1].flop += if is_turned { rows * work::rotation(layer, width) } else { 0 };
                        continue;
                    };
                    truncations += rows * Truncation::flops(rank, layer.outputs, layer.columns());
                    if let Some(fit) = fit {
                        // conditioners are taken off in the standard basis
                        let twice = if plan.training.fits[fit].moments.is_some() { 2 } else { 0 };
                        found[1].flop +=
                            rows * (work::factor_rotations(layer, rank, width) + twice * work::rotation(layer, width));
                    }
                }
            }
        }
        if truncations > 0 {
            found.push(Work { kind: WorkKind::Truncations, flop: truncations });
        }
        found
    }

    fn queries(&self, queries: &Dataset, sets: &[VectorSet]) -> StageCost {
        let (plan, rows) = (self.plan, self.plan.query_rows());
        let batches = batches(plan, queries, queries_at_once(self.layers(), plan.width() as usize));
        let mut found = self.vectors(&batches, rows as u128, sets);
        if plan.job.method.normalize == Normalize::Cosine {
            // every query's product with itself
            let squares = |batch: &BatchShape| self.forms(batch);
            found.extend(self.work(&batches, 1, WorkKind::Squares, squares));
        }
        let legs: u64 = sets.iter().map(|set| plan.legs(set.answer) as u64).sum();
        StageCost {
            of: plan.training.networks.parameters()[sets[0].network].name.clone(),
            units: queries.len() as u64,
            positions: batches.iter().map(|(batch, n)| batch.rows as u64 * n).sum(),
            work: found,
            written: legs * rows as u64 * self.kept() * plan.width(),
            disk: sets.iter().map(|set| plan.vectors_bytes(*set)).sum(),
            ..self.named(Pass::Queries)
        }
    }

    /// Products with the Gauss-Newton matrix for all blocks of queries. Each direction goes forwards beside the values
    /// and back with weight gradients, about two passes; the values go both ways once for those that move together.
    fn products(&self, network: usize) -> StageCost {
        match self.plan.job.method.solve {
            Solve::Subspace => self.forms_of_subspaces(network),
            Solve::MFac => self.matrix_free(network),
            Solve::Auto | Solve::Ekfac | Solve::GaussNewton => {
                let stage = self.plan.training.stages.len() - 1;
                self.gauss_newton(Site { network, stage, sample: Sample::Whole })
            }
        }
    }

    /// Products with the Gauss-Newton matrix of a stage's examples at one network, for all blocks of queries.
    fn gauss_newton(&self, Site { network, stage, .. }: Site) -> StageCost {
        let (plan, data) = (self.plan, self.plan.training.stages[stage].solve_data());
        let (rows, block) = (plan.query_rows().max(1), plan.solve_block());
        let widest = plan.training.networks.footprint().widest(self.layers()) as usize;
        let batches = batches(plan, data, usize::MAX);
        let systems = match plan.job.method.solve_layers {
            SolveLayers::Together => 1,
            SolveLayers::Each => self.layers().len() as u64,
        };
        let products = plan.job.method.products() as u64;
        let shape = self.network;
        let repeats = |batch: &BatchShape| {
            let together = (plan.memory.solve_tangents / (batch.rows * widest).max(1)).clamp(1, block);
            systems * products * (2 * rows + rows.div_ceil(together)) as u64
        };
        let passes =
            |(batch, n): (&BatchShape, &u64)| work::pass(shape, batch, self.graphs) * u128::from(n * repeats(batch));
        // two rounds that make directions orthogonal, and what is projected, combined and subtracted
        let space = products as u128 * block as u128;
        let vectors = 12 * space * space * rows.div_ceil(block) as u128 * u128::from(systems * self.tracked());
        StageCost {
            of: plan.training.networks.parameters()[network].name.clone(),
            units: data.len() as u64 * systems * products * rows.div_ceil(block) as u64,
            positions: batches.iter().map(|(batch, n)| batch.rows as u64 * n).sum(),
            work: vec![
                Work { kind: WorkKind::Passes, flop: batches.iter().map(passes).sum() },
                Work { kind: WorkKind::Vectors, flop: vectors },
            ],
            ..self.named(Pass::Products)
        }
    }

    /// Products of examples' gradients under drawn labels with all vectors that span the queries' spaces, in a pass for
    /// each block of queries.
    fn forms_of_subspaces(&self, network: usize) -> StageCost {
        let (plan, layers) = (self.plan, self.layers());
        let data = plan.training.last_stage().solve_data();
        let rows = plan.query_rows().max(1);
        let blocks = rows.div_ceil(plan.solve_block()) as u64;
        let batches = batches(plan, data, usize::MAX);
        let draws = match plan.form_label_mode() {
            LabelMode::Sampled { draws, .. } => draws.into(),
            LabelMode::Empirical | LabelMode::Exact { .. } => self.draws(),
        };
        let passes = blocks * draws;
        let vectors = plan.solve_block() * SPANNING.len();
        let products = |batch: &BatchShape| {
            self.seeing().of(batch).map(|(layer, of)| work::scores(layer, &of, vectors, None)).sum::<u128>()
        };
        let directions = Subspace::<f32>::directions(layers.len(), SPANNING.len()) as u128;
        let turned = |batch: &BatchShape| {
            let of_layer =
                |(layer, of): (&LayerSpec, BatchShape)| work::rows_into_basis(layer, &of, plan.block_width());
            products(batch) + self.seeing().of(batch).map(of_layer).sum::<u128>()
        };
        let mut work = self.work(&batches, passes, WorkKind::Scores, turned);
        let squares = 2 * directions * directions * (rows * data.len()) as u128 * u128::from(draws);
        // a query's gradient into the eigenbasis, and each of its solutions back
        let rotations = layers.iter().map(|layer| work::rotation(layer, plan.block_width())).sum::<u128>();
        let solved = plan.vector_sets(&plan.all_answers()).iter().filter(|set| set.network == network).count();
        let spanned = (rows * (1 + solved)) as u128 * rotations;
        work.push(Work { kind: WorkKind::Vectors, flop: squares + spanned });
        StageCost {
            of: plan.training.networks.parameters()[network].name.clone(),
            units: data.len() as u64 * blocks,
            positions: batches.iter().map(|(batch, n)| batch.rows as u64 * n).sum(),
            work,
            ..self.named(Pass::Products)
        }
    }

    /// Gradients of a sample, their products with each other for each damping, and those with the queries.
    fn matrix_free(&self, network: usize) -> StageCost {
        let (plan, layers) = (self.plan, self.layers());
        let data = plan.training.last_stage().solve_data();
        let (rows, gradients) = (plan.query_rows().max(1) as u128, plan.sampled_gradients() as u128);
        let batches = batches(plan, data, queries_at_once(layers, plan.width() as usize));
        let draws = (plan.sampled_gradients() / data.len().max(1)) as u64;
        let set = plan.vector_sets(&plan.all_answers()).into_iter().find(|set| set.network == network);
        let fit = set.and_then(|set| plan.fit_of(set));
        let coordinates = fit.map_or(Coordinates::Standard, |fit| coordinates(plan, fit));
        let formed =
            |batch: &BatchShape| (0..layers.len()).map(|l| work::squares(self.seeing(), l, batch, coordinates)).sum();
        let mut work = self.work(&batches, draws, WorkKind::Squares, formed);
        let tracked = u128::from(self.tracked());
        let solved = plan.vector_sets(&plan.all_answers()).iter().filter(|set| set.network == network).count() as u128;
        // half of the products of gradients, four products of each with every query, and the factor of the small matrix
        let of_damping = gradients * (gradients + 8 * rows) * tracked + gradients.pow(3) / 3;
        work.push(Work { kind: WorkKind::Vectors, flop: solved * of_damping });
        StageCost {
            of: plan.training.networks.parameters()[network].name.clone(),
            units: data.len() as u64 * draws,
            positions: batches.iter().map(|(batch, n)| batch.rows as u64 * n).sum(),
            work,
            written: plan.sample_bytes(),
            ..self.named(Pass::Products)
        }
    }

    /// Quadratic forms of a batch's gradients in the curvature of influence functions.
    fn forms(&self, batch: &BatchShape) -> u128 {
        let last = self.plan.training.fits.last();
        let coordinates = last.map_or(Coordinates::Standard, |fit| coordinates(self.plan, fit));
        (0..self.layers().len()).map(|l| work::squares(self.seeing(), l, batch, coordinates)).sum()
    }

    fn scores(&self, pass: &ScorePass) -> StageCost {
        let plan = self.plan;
        let rows = plan.vectors_of(pass);
        let slices: Vec<LayerSpec> = plan.slices().map(|(layer, slice)| slice.spec(layer)).collect();
        let products = |batch: &BatchShape| {
            let of = |layer: &LayerSpec, batch: &BatchShape, rank| work::scores(layer, batch, rows, rank);
            let whole =
                self.seeing().of(batch).map(|(layer, seen)| of(layer, &seen, plan.vector_form().rank_at(layer)));
            // a slice has the rank and the rows of its layer
            let cut = plan.slices().zip(&slices).map(|((layer, slice), spec)| {
                of(spec, &self.seeing().seen_by(slice.layer, batch), plan.vector_form().rank_at(layer))
            });
            whole.chain(cut).sum::<u128>()
        };
        let mut stage = self.pass(Pass::Scores, pass.site, 1, WorkKind::Scores, products);
        if plan.forms_with_scores(pass).is_some() {
            let flop = self.train[pass.site.stage].iter().map(|(batch, n)| self.forms(batch) * u128::from(*n)).sum();
            stage.work.push(Work { kind: WorkKind::Squares, flop });
        }
        let vectors = rows as u64 * self.kept() * plan.width();
        stage.vector_bytes = vectors * self.train[pass.site.stage].values().sum::<u64>();
        stage.written = 4 * (rows * pass.sums()) as u64 * stage.units;
        stage.disk = stage.written;
        stage
    }

    /// A pass over the examples that variants score, each with the queries that list it. Lists are taken to be as long as
    /// they can be and to have nothing in common, and examples to have the mean length.
    fn shortlisted(&self, pass: &ScorePass) -> StageCost {
        let plan = self.plan;
        let (lengths @ (read, written), examples) = (mean_example(plan), plan.shortlisted_examples());
        let pairs = plan.query_rows() * plan.shortlist_of_query();
        let whole = BatchShape::divided([lengths], written);
        let mut work = self.work(&Batches::from([(whole, examples as u64)]), 1, WorkKind::Scores, |_| 0);
        let vectors = (pairs * pass.contributions.len()).div_ceil(examples.max(1));
        let of = |(layer, seen): (&LayerSpec, BatchShape)| {
            work::scores(layer, &seen, vectors, plan.vector_form().rank_at(layer))
        };
        work[1].flop = self.seeing().of(&whole).map(of).sum::<u128>() * examples as u128;
        let in_basis = pass.contributions.iter().filter(|of| plan.keeps_in_basis(of.set));
        let mut fits: Vec<&Fit> = vec![];
        for fit in in_basis.filter_map(|of| plan.fit_of(of.set)) {
            if !fits.iter().any(|known| std::ptr::eq(*known, fit)) {
                fits.push(fit);
            }
        }
        let turned = |(layer, seen): (&LayerSpec, BatchShape)| work::rows_into_basis(layer, &seen, plan.block_width());
        work[1].flop += self.seeing().of(&whole).map(turned).sum::<u128>() * (examples * fits.len()) as u128;
        StageCost {
            of: plan.training.networks.parameters()[pass.site.network].name.clone(),
            units: examples as u64,
            positions: (examples * (read + written)) as u64,
            work,
            ..self.named(Pass::Intervals)
        }
    }

    fn self_influence(&self, stage: usize) -> StageCost {
        let plan = self.plan;
        let legs = plan.training.segment_fits().iter().filter(|fit| fit.stage == stage);
        let form = plan.job.source.as_ref().map(|source| source.self_influence).unwrap_or_default();
        let (mut passes, mut walks) = (0, 0);
        for fit in legs {
            passes += fit.places.len() as u64;
            if form == SelfInfluenceForm::Walk {
                // every example is asked at the last network, too
                passes += 1;
                walks += 1;
            }
        }
        let rotated = |batch: &BatchShape| {
            let of_layer = |(l, (layer, batch)): (usize, (&LayerSpec, BatchShape))| {
                let walk = match form {
                    SelfInfluenceForm::Walk => {
                        let walk = carried(plan, VectorSet { answer: 0, network: plan.training.last_network() }, l);
                        walks * (walk.rotations + walk.products.len() as u128)
                    }
                    SelfInfluenceForm::Local => 1,
                };
                batch.examples as u128 * walk * work::rotation(layer, plan.block_width())
                    + work::gradients(layer, &batch) * u128::from(passes)
            };
            self.seeing().of(batch).enumerate().map(of_layer).sum()
        };
        let site = Site { network: plan.training.last_network(), stage, sample: Sample::Whole };
        let mut cost = self.pass(Pass::SelfInfluence, site, 1, WorkKind::Vectors, rotated);
        cost.work[0].flop *= u128::from(passes);
        cost
    }
}
