//! What the memory of a job depends on: shapes and counts, no number of a weight.

use crate::attribution::Aggregate;
use crate::attribution::trajectory::{Optimizer, TrainingStage};
use crate::curvature::{BlockWidth, CurvatureKind, LayerSpec};
use crate::job::brief::Brief;
use crate::job::brief::answers::Method;
use crate::job::request::{FormRequest, Normalize, Solve, TokensRequest};
use crate::job::training::{Fit, Stage, Training};
use crate::model::{Footprint, Limits};

/// Shapes and counts of a job.
#[derive(Debug, Clone)]
pub(in crate::job) struct Sizes<'a> {
    pub layers: &'a [LayerSpec],
    pub model: Footprint,
    /// Positions of the longest example.
    pub longest: usize,
    /// Positions of all examples of the largest dataset.
    pub positions: usize,
    pub limits: Limits,
    /// Bytes of all data.
    pub data: u64,
    /// Bytes of a number of the run.
    pub number: u64,
    /// Width of the blocks that eigenbases are cut into.
    pub block_width: BlockWidth,
    pub threads: u64,
    /// Whether layers may be fitted in groups.
    pub separable: bool,
    /// Curvatures that an answer needs.
    pub fits: Vec<FitSize>,
    /// What of them this job makes itself.
    pub fitting: Fitting,
    pub queries: Option<QuerySizes>,
    /// Joint solves for the queries' vectors, if there are any.
    pub solve: Option<SolveSize>,
}

/// Whether a job makes its curvatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum Fitting {
    /// The job fits its curvatures itself.
    Here {
        /// Most fits that take their Λ in one pass.
        lambdas: u64,
    },
    /// Curvatures are taken from another run.
    Reused,
}

/// One curvature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct FitSize {
    pub kind: CurvatureKind,
    /// Networks that it is taken at.
    pub places: u64,
    /// Stored covariances that its eigenvectors are made of: one for each network, or for each half of the examples.
    pub covariances: u64,
    pub preconditioner: Preconditioner,
}

/// What a curvature knows of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum Preconditioner {
    /// The curvature has no preconditioner.
    None,
    /// Second moments of Adam precondition the curvature.
    Adam {
        /// Checkpoints whose second moments are averaged.
        checkpoints: u64,
        /// Whether weight decay passes through it, so that it has a factor for each weight.
        couples_decay: bool,
    },
}

impl Preconditioner {
    /// Whether gradients are multiplied with it.
    pub(in crate::job) fn is_some(self) -> bool {
        self != Self::None
    }
}

/// Queries, and what is done with their vectors.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::job) struct QuerySizes {
    /// Positions of each, ascending.
    pub lengths: Vec<usize>,
    /// Whether they are added up before anything else, so that one gradient is carried.
    pub aggregate: Aggregate<'static>,
    /// Query vectors that one pass meets: rows of every contribution.
    pub vectors: u64,
    /// Sums of every product: over all layers, and over each set of layers.
    pub sums: u64,
    /// Numbers of the largest slice of a layer that scores are summed over by itself.
    pub slice: u64,
    /// Examples of the largest stage.
    pub examples: u64,
    /// Rank of the vectors; none if they are whole.
    pub rank: Option<usize>,
    /// Gradients of a batch of queries that a walk holds together, the one it began with among them.
    pub carried: u64,
    pub own: OwnInfluence,
    /// What dividing scores over target tokens takes; none if that is not asked for.
    pub tokens: Option<TokenSizes>,
}

/// Shares of tokens that are in memory together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct TokenSizes {
    /// Target tokens of all queries; 0 if scores are divided over the tokens of all examples.
    pub targets: u64,
    /// Legs of the first answer's walk.
    pub legs: u64,
    /// Shares of all pairs.
    pub shares: u64,
    /// Tokens of an example whose scores are kept apart.
    pub longest: u64,
}

/// What every example's self-influence takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum OwnInfluence {
    /// Self-influence is not asked for.
    None,
    /// A quadratic form along with the scores.
    Form,
    /// A pass of its own in which every example is a query.
    Pass {
        /// Networks that are in memory together, for the leg that has most.
        networks: u64,
    },
}

/// What joint solves are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct SolveSize {
    /// Which systems are solved for the queries' vectors.
    pub solve: Solve,
    /// Products with the Gauss-Newton matrix.
    pub products: usize,
    /// Dampings that one space serves.
    pub dampings: usize,
    /// Queries, or the one row of an aggregate.
    pub rows: usize,
    /// Queries of a block, if the job says how many.
    pub block: Option<usize>,
    /// Gradients of the sample of matrix-free solves.
    pub gradients: usize,
}

impl SolveSize {
    /// The sizes of a job's joint solves; none if its layers are solved one by one.
    pub(in crate::job) fn of(brief: &Brief) -> Option<Self> {
        let (method, rows) = (&brief.job.method, brief.query_rows());
        (method.solve.is_joint() && rows > 0).then(|| Self {
            solve: method.solve,
            products: method.products(),
            dampings: method.damping.0.len(),
            rows,
            block: method.solve_block,
            gradients: brief.sampled_gradients(),
        })
    }

    /// The least queries of a block.
    pub(in crate::job) fn least(self) -> usize {
        self.block.unwrap_or(1).min(self.rows)
    }
}

impl QuerySizes {
    /// Most queries that a batch of so many positions holds.
    pub(in crate::job) fn in_batch(&self, positions: usize) -> usize {
        let mut left = positions;
        let held = self.lengths.iter().take_while(|&&length| match left.checked_sub(length) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        held.count().max(1)
    }
}

impl<'a> Sizes<'a> {
    /// The sizes of a job whose data were read: its longest example has `longest` positions, all have `data` bytes.
    pub(in crate::job) fn of(brief: &'a Brief, limits: Limits, longest: usize, data: u64) -> Self {
        let (training, method) = (&brief.training, &brief.job.method);
        let of_fit = |(_, fit): (usize, &Fit)| FitSize {
            kind: fit.kind,
            places: fit.places.len() as u64,
            covariances: (fit.places.len() * fit.samples().len()) as u64,
            preconditioner: preconditioner(training, fit),
        };
        let of_queries = || {
            let queries = brief.queries.as_ref()?;
            let mut lengths: Vec<usize> = (0..queries.len()).map(|q| queries.positions(q)).collect();
            lengths.sort_unstable();
            let passes = brief.score_passes(&brief.scored_answers());
            Some(QuerySizes {
                lengths,
                aggregate: Aggregate::from(method.aggregate),
                vectors: brief.most_vectors() as u64,
                sums: passes.iter().map(|pass| pass.sums()).max().unwrap_or(1) as u64,
                slice: brief.slices().map(|(layer, slice)| slice.parameters(layer) as u64).max().unwrap_or(0),
                examples: training.stages.iter().map(|stage| stage.train.len()).max().unwrap_or(0) as u64,
                rank: method.query_rank,
                carried: carried(brief),
                own: own_influence(brief),
                tokens: token_sizes(brief, longest),
            })
        };
        let lengths = |data: &crate::data::Dataset| (0..data.len()).map(|m| data.positions(m)).sum::<usize>();
        let datasets = training.stages.iter().map(Stage::all).chain(&brief.queries);
        Self {
            layers: training.layers(),
            model: training.networks.footprint(),
            longest,
            positions: datasets.map(lengths).max().unwrap_or(0),
            limits,
            data,
            number: brief.job.model.dtype.bytes(),
            block_width: brief.block_width(),
            threads: rayon::current_num_threads() as u64,
            separable: training.networks.absent().iter().all(Vec::is_empty),
            fits: brief.needed_fits().map(of_fit).collect(),
            fitting: match brief.reused {
                Some(_) => Fitting::Reused,
                None => Fitting::Here { lambdas: lambdas(brief) },
            },
            queries: of_queries(),
            solve: SolveSize::of(brief),
        }
    }
}

fn preconditioner(training: &Training, fit: &Fit) -> Preconditioner {
    let Some(moments) = &fit.moments else { return Preconditioner::None };
    let optimizer = training.stage_numbers(fit.stage).map(TrainingStage::optimizer);
    let couples_decay = matches!(optimizer, Some(Optimizer::Adam { weight_decay, .. }) if *weight_decay > 0.0);
    Preconditioner::Adam { checkpoints: moments.checkpoints() as u64, couples_decay }
}

/// Most needed fits that share a pass for Λ.
fn lambdas(brief: &Brief) -> u64 {
    let fits: Vec<&Fit> = brief.needed_fits().map(|(_, fit)| fit).filter(|fit| fit.kind.has_lambda_pass()).collect();
    let shared = Training::sites(fits.iter().copied()).into_iter().map(|site| {
        let takes = |fit: &&&Fit| fit.is_taken_at(site);
        fits.iter().filter(takes).count() as u64
    });
    shared.max().unwrap_or(0)
}

/// A leg's product and the gradients it came from; what goes on to the leg before; the momentum buffer beside them.
fn carried(brief: &Brief) -> u64 {
    let has_source = brief.answers.iter().any(|answer| matches!(answer.method, Method::Source { .. }));
    let has_buffer = brief.job.source.as_ref().is_some_and(|source| source.form == FormRequest::Momentum);
    let of_walk = match (has_source, has_buffer) {
        (false, _) => 2,
        (true, false) => 3,
        (true, true) => 5,
    };
    // gradients are formed once and copied for every walk but the last
    let walks = brief.vector_sets(&brief.all_answers()).chunk_by(|a, b| a.network == b.network).map(<[_]>::len).max();
    of_walk + u64::from(walks.unwrap_or(1) > 1)
}

fn token_sizes(brief: &Brief, longest: usize) -> Option<TokenSizes> {
    let request = brief.job.output.tokens;
    if !request.divides_queries() && request != TokensRequest::All {
        return None;
    }
    let longest = if request.divides_examples() { longest as u64 } else { 1 };
    let targets = if request.divides_queries() { brief.query_targets() as u64 } else { 0 };
    Some(TokenSizes { targets, legs: brief.legs(0) as u64, shares: brief.token_shares(), longest })
}

fn own_influence(brief: &Brief) -> OwnInfluence {
    if brief.walks_to_itself() {
        let legs = brief.training.segment_fits();
        let of_leg = legs.iter().map(|fit| fit.places.len() as u64).max().unwrap_or(1);
        // the one that examples are asked at is there all the time
        return OwnInfluence::Pass { networks: of_leg + 1 };
    }
    match brief.job.method.self_influence || brief.job.method.normalize == Normalize::Cosine {
        true => OwnInfluence::Form,
        false => OwnInfluence::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{RowLimits, RowShape, Task};
    use crate::job::brief::in_memory::{brief, job, source_job};
    use crate::job::request::{AggregateRequest, Beside, Curvature, DampingRequest, Job, Precision, Several};

    /// Asks the sizes of a job about the small perceptron, of examples of one position.
    fn sizes<R>(job: Job, ask: impl FnOnce(&Brief, Sizes<'_>) -> R) -> R {
        let brief = brief(job, |_| ());
        let limits = RowLimits { inputs: RowShape::Numbers(12), outputs: 4, task: Task::Classification };
        let of = Sizes::of(&brief, Limits::Rows(limits), 1, 100);
        ask(&brief, of)
    }

    fn changed(change: impl FnOnce(&mut Job)) -> Job {
        let mut job = job();
        change(&mut job);
        job
    }

    #[test]
    fn sizes_are_those_of_the_layers_the_data_and_the_queries() {
        sizes(job(), |brief, sizes| {
            let (train, queries) = (brief.train().len(), brief.query_rows());
            assert_eq!((sizes.longest, sizes.positions, sizes.data, sizes.number), (1, train, 100, 4));
            assert_eq!(sizes.layers, brief.training.layers());
            let expected =
                FitSize { kind: CurvatureKind::Ekfac, places: 1, covariances: 1, preconditioner: Preconditioner::None };
            assert_eq!((&sizes.fits[..], sizes.fitting), (&[expected][..], Fitting::Here { lambdas: 1 }));
            let of = sizes.queries.expect("there are queries");
            assert_eq!((of.lengths.len(), of.vectors, of.sums, of.slice), (queries, queries as u64, 1, 0));
            assert_eq!((of.examples, of.rank, of.carried, of.own), (train as u64, None, 2, OwnInfluence::None));
            assert_eq!((of.tokens, sizes.solve), (None, None));
        });
    }

    #[test]
    fn sizes_follow_what_a_job_asks_for() {
        let queries =
            |job: Job| sizes(job, |brief, sizes| (brief.query_rows() as u64, sizes.queries.expect("queries")));
        let dampings = [0.5, 0.25, 0.125].map(|x| DampingRequest::Value(crate::curvature::Damping::Absolute(x)));
        let (rows, of) = queries(changed(|job| job.method.damping = Several(dampings.to_vec())));
        assert_eq!((of.vectors, of.carried), (3 * rows, 3), "gradients are kept for the walks after the first");
        let sets = |job: &mut Job| {
            job.output.layer_sets.insert("first".into(), Several(vec!["layers.0".into()]));
        };
        let (rows, of) = queries(changed(sets));
        assert_eq!((of.vectors, of.sums), (rows, 2), "sets share the vectors, and have a sum of their own");
        let (_, of) = queries(changed(|job| job.method.self_influence = true));
        assert_eq!(of.own, OwnInfluence::Form);
        let (rows, of) = queries(changed(|job| job.method.aggregate = AggregateRequest::Mean));
        assert_eq!((rows, of.vectors, of.aggregate), (1, 1, Aggregate::Mean));
        let number = |job: Job| sizes(job, |_, sizes| sizes.number);
        assert_eq!(number(changed(|job| job.model.dtype = Precision::F64)), 8);
        let kinds = |curvature| {
            sizes(changed(|job| job.method.curvature = curvature), |_, sizes| (sizes.fits[0].kind, sizes.fitting))
        };
        assert_eq!(kinds(Curvature::Kfac), (CurvatureKind::Kfac, Fitting::Here { lambdas: 0 }));
        assert_eq!(kinds(Curvature::Soap), (CurvatureKind::Soap, Fitting::Here { lambdas: 1 }));
        let joint = changed(|job| {
            job.method.solve = Solve::GaussNewton;
            job.method.solve_iterations = Some(5);
        });
        sizes(joint, |brief, sizes| {
            let solve = sizes.solve.expect("joint solves");
            assert_eq!((solve.products, solve.dampings, solve.rows, solve.block), (5, 1, brief.query_rows(), None));
            assert_eq!(solve.least(), 1);
        });
    }

    #[test]
    fn sizes_of_a_training_run_count_its_networks() {
        sizes(source_job(), |brief, sizes| {
            assert_eq!(sizes.fits.len(), brief.training.segments().len());
            let places: u64 = sizes.fits.iter().map(|fit| fit.places).sum();
            assert_eq!(places, brief.training.networks.parameters().len() as u64);
            let of = sizes.queries.expect("queries");
            assert_eq!((of.carried, of.own), (3, OwnInfluence::None), "what goes on to the leg before is there, too");
        });
        let mut job = source_job();
        job.method.solve = Solve::GaussNewton;
        sizes(job, |brief, sizes| {
            let solve = sizes.solve.expect("joint walks");
            assert_eq!((solve.products, solve.dampings, solve.rows, solve.block), (3, 1, brief.query_rows(), None));
        });
        let mut job = source_job();
        job.source.iter_mut().for_each(|source| source.form = FormRequest::Momentum);
        assert_eq!(sizes(job, |_, sizes| sizes.queries.expect("queries").carried), 5);
        let mut job = source_job();
        job.source.iter_mut().for_each(|source| source.with = vec![Beside::Influence]);
        sizes(job, |brief, sizes| assert_eq!(sizes.fits.len(), brief.training.segments().len() + 1));
        let mut job = source_job();
        job.method.self_influence = true;
        let own = sizes(job, |_, sizes| sizes.queries.expect("queries").own);
        assert!(matches!(own, OwnInfluence::Pass { networks } if networks > 1), "{own:?}");
    }
}
