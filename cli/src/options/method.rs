//! Flags about the method: curvature, damping, measurement, solves.

use std::path::PathBuf;

use ascribe::job::{
    AggregateRequest, CheckpointScores, Curvature, DampingRequest, Fisher, FitExamples, Job, KfacScale, Measure,
    Normalize, ReductionRequest, Several, Solve, SolveLayers,
};
use clap::Args;

use super::values::{measure, one_of};

/// The method.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Method")]
pub(crate) struct MethodOptions {
    /// How the curvature of the training loss is approximated [default: ekfac]
    ///
    /// EK-FAC predicts retraining best; identity is the quick check beside it. The last four are for comparison
    /// (docs/validation.md), and for influence alone.
    #[arg(long, value_name = "KIND", value_parser = one_of::<Curvature>(&[
        ("identity", "none: scores are gradient dot products"),
        ("diagonal", "the Fisher's diagonal"),
        ("kfac", "Kronecker factors"),
        ("ekfac", "Kronecker factors with corrected eigenvalues"),
        ("tkfac", "Kronecker factors in which each position counts by its gradient's size"),
        ("shampoo", "Kronecker factors of gradients of whole examples"),
        ("soap", "Shampoo's factors with corrected eigenvalues"),
        ("adam", "the root of Adam's second moments, from the checkpoint's optimizer.pt; amounts mean nothing"),
    ]))]
    curvature: Option<Curvature>,
    /// Whose labels the curvature is taken with [default: true]
    ///
    /// The empirical Fisher vanishes where the model fits its data.
    #[arg(long, value_name = "LABELS", value_parser = one_of::<Fisher>(&[
        ("true", "drawn from the model; depends on --seed"),
        ("empirical", "those of the data; nothing is random"),
    ]))]
    fisher: Option<Fisher>,
    /// Labels drawn for each position and pass, averaged [default: 1]
    ///
    /// More of them lessen the noise and cost a backward pass each.
    #[arg(long, value_name = "N")]
    label_draws: Option<u32>,
    /// Take the curvature on a part of the training examples: `auto`, `1000`, `0.125` [default: all]
    ///
    /// Examples at equal distances in the file, of a training run in each stage's. `auto` takes 50 positions for each
    /// row of the widest covariance. Every example is scored all the same.
    #[arg(long, value_name = "N|SHARE|auto")]
    fit_examples: Option<FitExamples>,
    /// What is added to every eigenvalue: `auto`, `0.1x`, `1e-8`, `1/rates` [default: auto]
    ///
    /// Several, with commas, are scored in one pass, each into a file of its own name. A number with `x` is times each
    /// layer's mean eigenvalue, a plain number is absolute. `auto` is 0.1x, as in Grosse et al. 2023, and for
    /// `--solve subspace` 0.01, or 0.001 if Adam trained the run; kronfluence's default is 1e-8. `1/rates`, of runs of SGD, is one over the sum of what the
    /// run's steps moved its parameters by along a gradient: rates, momentum and the loss's scale.
    #[arg(long, value_name = "DAMPING", value_delimiter = ',', allow_negative_numbers = true)]
    damping: Vec<DampingRequest>,
    /// Which systems are solved for the queries' vectors [default: auto]
    ///
    /// Joint solves predict the size of effects, not only their order. `subspace` costs about as much as scoring five
    /// times as many queries; `gauss-newton` some passes for each query: for small models, few queries, or few
    /// `--solve-examples`. Source carries queries through each segment by `ekfac` or by `gauss-newton`. How well each
    /// query's system was solved is in the results.
    #[arg(long, value_name = "SYSTEMS", value_parser = one_of::<Solve>(&[
        ("auto", "`subspace` where influence is averaged over checkpoints and no option speaks against it, else `ekfac`"),
        ("ekfac", "one for each layer, with the curvature that --curvature names"),
        ("subspace", "one of all tracked layers, in the span of what the curvature gives with several dampings"),
        ("gauss-newton", "one of all tracked layers, with the Gauss-Newton matrix; the curvature is the start"),
        ("m-fac", "one of all tracked layers, with the Fisher matrix of sampled gradients beside the curvature (with --curvature identity alone, as published)"),
    ]))]
    solve: Option<Solve>,
    /// Products with the Gauss-Newton matrix, with `--solve gauss-newton`; of Source for each segment [default: 3]
    #[arg(long, value_name = "N")]
    solve_iterations: Option<usize>,
    /// Which systems --solve gauss-newton solves [default: together]
    #[arg(long, value_name = "LAYERS", value_parser = one_of::<SolveLayers>(&[
        ("together", "one of all tracked layers"),
        ("each", "one for each layer, with its exact block of the Gauss-Newton matrix, at the cost of as many systems; \
          for influence"),
    ]))]
    solve_layers: Option<SolveLayers>,
    /// Take joint systems on a part of the training examples: `512`, `0.25`, `auto` [default: all]
    ///
    /// `auto` takes 200 examples for each direction of a subspace, which is the default where the solve is chosen by
    /// default, and 1024 for m-fac.
    /// Examples at equal distances in the file, the same for all queries, draws and products.
    #[arg(long, value_name = "N|SHARE|auto|all")]
    solve_examples: Option<FitExamples>,
    /// Labels drawn for each of these examples, with `--solve subspace` and `m-fac` [default: by the examples]
    ///
    /// By default, in subspaces, as many as the curvature takes, and more where examples are few beside the directions of
    /// a space; how far two halves of the draws disagree is printed for every query, and four times the draws halve it.
    /// For m-fac 1: each is a gradient more.
    #[arg(long, value_name = "N", conflicts_with = "solve_iterations")]
    solve_label_draws: Option<u32>,
    /// Scale of K-FAC's eigenvalues [default: per-example]
    ///
    /// Per example, an absolute damping means the same as with EK-FAC.
    #[arg(long, value_name = "SCALE", value_parser = one_of::<KfacScale>(&[
        ("per-example", "times the mean number of positions"),
        ("per-position", "as kronfluence has it"),
    ]))]
    kfac_scale: Option<KfacScale>,
    /// Cut wider covariances into blocks of at most this width [default: none is cut]
    ///
    /// For layers too wide for an eigendecomposition: each block is decomposed by itself, what connects two is dropped.
    #[arg(long, value_name = "W")]
    eigen_block_width: Option<usize>,
    /// For the labels drawn from the model [default: 0]
    ///
    /// The same seed gives the same bytes on any number of threads.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// What is measured at a query [default: by the model]
    ///
    /// By default the loss of language models, the margin of classifiers and the prediction of regressions.
    #[arg(long, value_name = "WHAT", value_parser = measure())]
    measure: Option<Measure>,
    /// How a measurement is taken over a query's target tokens [default: sum]
    #[arg(long, value_name = "HOW", value_parser = one_of::<ReductionRequest>(&[("sum", ""), ("mean", "")]))]
    reduction: Option<ReductionRequest>,
    /// Score queries one by one, or as one [default: each]
    #[arg(long, value_name = "HOW", value_parser = one_of::<AggregateRequest>(&[
        ("each", "one row of scores for each query"),
        ("sum", "one row, of the sum of all measurements"),
        ("mean", "one row, of their mean"),
    ]))]
    aggregate: Option<AggregateRequest>,
    /// The field of the queries that says what each counts in their sum or mean [default: all count alike]
    ///
    /// A number in each row, below 0 for what is to be held against the others. A mean is divided by the weights' sum.
    #[arg(long, value_name = "FIELD")]
    query_weights: Option<String>,
    /// Keep each query's vectors as factors of this rank [default: whole, which is exact]
    ///
    /// For models whose queries would not fit on the disk: (O + I) R numbers for each query and layer instead of O I.
    /// What share of each query is captured is reported with the results.
    #[arg(long, value_name = "R")]
    query_rank: Option<usize>,
    /// What scores are divided by [default: none]
    ///
    /// A cosine favours no long example, and says nothing about how much.
    #[arg(long, value_name = "HOW", value_parser = one_of::<Normalize>(&[
        ("none", "nothing"),
        ("cosine", "the norms of both sides; with `--curvature identity` the cosine of gradients"),
    ]))]
    normalize: Option<Normalize>,
    /// How each checkpoint's scores enter the mean, where influence is averaged over checkpoints [default: plain]
    #[arg(long, value_name = "HOW", value_parser = one_of::<CheckpointScores>(&[
        ("plain", "as they are"),
        ("spread", "divided by their spread over the training examples: no checkpoint outvotes the others by its size"),
    ]))]
    checkpoint_scores: Option<CheckpointScores>,
    /// Also score every training example against itself, into `self_influence.safetensors`
    #[arg(long)]
    self_influence: bool,
    /// Use the curvature, and the query vectors, of this run folder instead of fitting on --train
    ///
    /// The same curvature then scores other training examples: those that were not trained on, or new ones.
    #[arg(long, value_name = "RUN")]
    factors: Option<PathBuf>,
}

impl MethodOptions {
    /// Lays the flags that were given on top of a job.
    pub(crate) fn apply(&self, job: &mut Job) {
        let method = &mut job.method;
        method.curvature = self.curvature.unwrap_or(method.curvature);
        method.fisher = self.fisher.unwrap_or(method.fisher);
        method.fit_examples = self.fit_examples.unwrap_or(method.fit_examples);
        method.label_draws = self.label_draws.unwrap_or(method.label_draws);
        if !self.damping.is_empty() {
            method.damping = Several(self.damping.clone());
        }
        if self.solve == Some(Solve::Ekfac) {
            // a job file's options of joint solves go with them
            (method.solve_iterations, method.solve_block) = (None, None);
            method.solve_examples = FitExamples::All;
            method.solve_label_draws = None;
            method.solve_layers = SolveLayers::default();
        }
        method.solve_layers = self.solve_layers.unwrap_or(method.solve_layers);
        method.solve = self.solve.unwrap_or(method.solve);
        method.solve_iterations = self.solve_iterations.or(method.solve_iterations);
        method.solve_label_draws = self.solve_label_draws.or(method.solve_label_draws);
        method.solve_examples = self.solve_examples.unwrap_or(method.solve_examples);
        method.factors = self.factors.clone().or(method.factors.take());
        method.kfac_scale = self.kfac_scale.unwrap_or(method.kfac_scale);
        method.eigen_block_width = self.eigen_block_width.or(method.eigen_block_width);
        method.seed = self.seed.unwrap_or(method.seed);
        method.measure = self.measure.or(method.measure);
        method.reduction = self.reduction.unwrap_or(method.reduction);
        method.aggregate = self.aggregate.unwrap_or(method.aggregate);
        method.query_weights = self.query_weights.clone().or(method.query_weights.take());
        method.query_rank = self.query_rank.or(method.query_rank);
        method.normalize = self.normalize.unwrap_or(method.normalize);
        method.checkpoint_scores = self.checkpoint_scores.unwrap_or(method.checkpoint_scores);
        method.self_influence |= self.self_influence;
    }
}
