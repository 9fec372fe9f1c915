//! Options that exclude each other, values out of range, and what is measured by default.

use crate::attribution::trajectory::Optimizer;
use crate::curvature::gemm::Products;
use crate::curvature::{CurvatureKind, Damping};
use crate::data::Task;
use crate::job::brief::{MOST_DRAWS, candidates, copies, intervals, layer_sets, rank_by, shortlist};
use crate::job::error::JobError;
use crate::job::option_text::{OptionText, option_text};
use crate::job::request::{
    AggregateRequest, Average, Beside, CheckpointScores, CheckpointsRequest, Curvature, DampingRequest, Fisher,
    FitExamples, FormRequest, Job, Measure, Normalize, Precision, ScoreScale, Side, Solve, SolveLayers, SourceRequest,
    StoreScores, TokensRequest,
};
use crate::job::training::Training;
use crate::model::{AlsoTracked, Limits};

/// The largest rank that can be asked for: no layer has more outputs or inputs.
const MAX_RANK: usize = 1 << 20;

/// Writes which systems are solved where a job leaves that open, and their damping where it does not depend on the run
/// (`run_damping`), and returns what a person should know of the choice.
///
/// Averaged over checkpoints, joint systems in a subspace predict retraining better than systems of single layers on
/// every set that was tried, and amounts in their right size (`docs/choosing.md`). Whoever names a number as damping means
/// that of single layers, where it has been named before.
pub(in crate::job) fn take_solve(job: &mut Job) -> Option<String> {
    let method = &mut job.method;
    let is_open =
        method.damping.0.iter().all(|damping| matches!(damping, DampingRequest::Auto | DampingRequest::Rates));
    let mut note = None;
    if method.solve == Solve::Auto {
        let prevents = [
            (method.self_influence, "self-influence is asked for"),
            (method.normalize == Normalize::Cosine, "cosines are asked for"),
            (method.factors.is_some(), "the curvature is that of another run"),
            (!is_open, "a damping is named"),
        ];
        let has_factors = CurvatureKind::from(method.curvature).has_eigenbasis();
        let is_averaged = job.checkpoints.is_some() && job.source.is_none();
        let prevented = prevents.iter().find(|(is_so, _)| *is_so);
        method.solve = match prevented {
            None if is_averaged && has_factors => {
                if method.solve_examples == FitExamples::All {
                    method.solve_examples = FitExamples::Auto;
                }
                Solve::Subspace
            }
            _ => Solve::Ekfac,
        };
        note = prevented.filter(|_| is_averaged && has_factors).map(|(_, why)| {
            format!(
                "layers are solved one by one, because {why}: amounts are many times too large; by default averaged \
                 influence is solved jointly (`--solve subspace`)"
            )
        });
    }
    // that of a subspace depends on the run
    if method.solve != Solve::Subspace {
        for damping in method.damping.0.iter_mut().filter(|damping| **damping == DampingRequest::Auto) {
            *damping = DampingRequest::Value(Damping::default());
        }
    }
    note
}

/// Processes that map a data set, at most.
const MOST_PROCESSES: usize = 65_536;

/// Refuses options, with what to do.
fn options<T>(problem: impl Into<OptionText>, hint: impl Into<OptionText>) -> Result<T, JobError> {
    Err(JobError::options(problem, hint))
}

/// Refuses what can be refused without reading a file.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    let is_tracked = |kind: &&AlsoTracked| job.model.track.contains(*kind);
    if let Some(kind) =
        [AlsoTracked::Norms, AlsoTracked::Embeddings].iter().find(is_tracked).filter(|_| job.source.is_some())
    {
        return options(
            option_text!(
                "<track = {}> is for influence functions: Source follows the optimizer through linear layers alone",
                kind.name()
            ),
            option_text!("leave `{}` out of <track>", kind.name()),
        );
    }
    if job.method.curvature == Curvature::Adam && is_tracked(&&AlsoTracked::Embeddings) {
        return options(
            "<curvature = adam> takes the optimizer's state of linear layers and norms, and <track = embeddings> is asked for",
            "leave `embeddings` out of <track>, or take another <curvature>",
        );
    }
    // `job.toml` has to be able to say what was asked
    let trajectory = job.source.as_ref().map(|source| &source.trajectory.path);
    let checkpoints = job.checkpoints.iter().flat_map(|of| of.run.iter().chain(&of.folders));
    let paths = [
        Some(&job.model.path),
        Some(&job.data.train),
        trajectory,
        job.model.before.as_ref(),
        job.method.factors.as_ref(),
        job.data.queries.as_ref(),
        job.data.eval.as_ref(),
        job.data.tokenizer.as_ref(),
        Some(&job.output.path),
    ];
    if let Some(path) = paths
        .into_iter()
        .flatten()
        .chain(checkpoints)
        .chain(job.data.stages.values())
        .find(|path| path.to_str().is_none())
    {
        let problem = format!("the path `{}` is not UTF-8", path.display());
        return options(problem, "rename it, or give another path to it");
    }
    if i64::try_from(job.method.seed).is_err() {
        return options("<seed> is out of range", "choose a seed below 2^63");
    }
    for (key, length) in [("max_length", job.data.max_length), ("pack", job.data.pack)] {
        if let Some(length) = length.filter(|&length| length < 2) {
            let problem = option_text!("<{}> is {}, and nothing is predicted in fewer than 2 tokens", key, length);
            return options(problem, option_text!("leave <{}> out, or give at least 2", key));
        }
    }
    if job.data.pack_rows == Some(0) || job.data.pack_rows.is_some() && job.data.pack.is_none() {
        return options("`pack_rows` groups rows for <pack>", "give both, at least 1 row and 2 tokens, or neither");
    }
    if job.data.pack_processes == Some(0) || job.data.pack_processes.is_some() && job.data.pack.is_none() {
        return options("`pack_processes` divides rows for <pack>", "give both, at least 1 process, or neither");
    }
    if job.data.pack_processes.is_some_and(|processes| processes > MOST_PROCESSES) {
        return options("`pack_processes` is out of range", option_text!("give at most {} processes", MOST_PROCESSES));
    }
    if job.data.keep_end && job.data.max_length.is_none() {
        return options("<keep_end> says what <max_length> keeps of a longer example", "give both, or neither");
    }
    if job.data.instruction_template.is_some() && job.data.response_template.is_none() {
        return options(
            "<instruction_template> is what questions begin with, between answers that begin with <response_template>",
            "give both, or the latter alone",
        );
    }
    if job.data.response_template.is_some() && job.data.loss_on.is_some() {
        return options(
            "<response_template> and <loss_on> both say which tokens are targets",
            "give the one or the other",
        );
    }
    if job.data.response_template.is_some() && job.data.pack.is_some() {
        return options(
            "<response_template> looks for one answer after another in each text, and <pack> joins texts",
            "leave one of them out: TRL refused both together",
        );
    }
    let divides = job.data.split_long;
    if divides && (job.data.max_length.is_none() || job.data.keep_end || job.data.pack.is_some()) {
        return options(
            "<split_long> divides examples that are longer than <max_length>, and neither <keep_end> nor <pack> goes with it",
            "give the first two, or leave <split_long> out",
        );
    }
    if divides && job.data.response_template.is_some() {
        return options(
            "<split_long> divides texts, and <response_template> looks for answers in whole ones",
            "leave one of them out",
        );
    }
    if job.data.end_token.is_some() && job.data.add_eos == Side::None {
        return options("<end_token> is the token that <add_eos> puts behind texts", "give both, or neither");
    }
    if job.data.pack_keeps_rest && job.data.pack.is_none() {
        return options("`pack_keeps_rest` is about what fills no block of <pack>", "give both, or neither");
    }
    if job.data.text_field.is_some() && (job.data.prompt_field.is_some() || job.data.completion_field.is_some()) {
        return options(
            "<text_field> names whole texts, <prompt_field> and <completion_field> name their parts",
            "give the one or the others",
        );
    }
    if job.data.eval.is_some() && job.data.skip_loss_check {
        return options(
            "<eval> is compared with the training log, and `skip_loss_check` leaves that out",
            "give `--eval` or `--no-loss-check`",
        );
    }
    if job.data.eval_name.is_some() && job.data.eval.is_none() {
        return options(
            "<eval_name> says which evaluation set <eval> is",
            "give the set with `--eval FILE`, or leave it out",
        );
    }
    if job.output.top == 0 {
        return options("<top> is 0", "list at least one proponent");
    }
    if job.output.group_by.is_some() && job.output.store_scores == StoreScores::Top {
        return options("<group_by> needs every score", "leave <store_scores = top> out");
    }
    if job.output.tokens != TokensRequest::None && job.method.normalize == Normalize::Cosine {
        return options("cosines are not divided over tokens", "leave <tokens> or <normalize = cosine> out");
    }
    if job.output.tokens != TokensRequest::None && job.method.checkpoint_scores != CheckpointScores::Plain {
        return options(
            "scores that are divided by their spread are not divided over tokens",
            "leave <tokens> or <checkpoint_scores = spread> out",
        );
    }
    check_query_tokens(job)?;
    check_query_weights(job)?;
    if job.output.group_by.is_some() && job.method.normalize == Normalize::Cosine {
        return options("cosines do not add up over a group", "leave <group_by> or <normalize = cosine> out");
    }
    if job.method.label_draws == 0 || job.method.label_draws as usize > MOST_DRAWS {
        return options("<label_draws> is out of range", "draw between 1 and 4095 labels");
    }
    if job.method.query_rank == Some(0) {
        return options("<query_rank> is 0", "leave it out to keep the queries' vectors whole, or give at least 1");
    }
    if job.method.query_rank.is_some_and(|rank| rank > MAX_RANK) {
        return options(
            "<query_rank> is out of range",
            "leave it out to keep the queries' vectors whole, or give at most 1048576",
        );
    }
    if job.method.eigen_block_width == Some(0) {
        return options("<eigen_block_width> is 0", "leave it out to cut no covariance, or give at least 1");
    }
    if job.method.damping.0.is_empty() {
        return options("no damping is named", "leave <damping> out, or name one");
    }
    if job.method.damping.0.len() > 1 && job.method.normalize == Normalize::Cosine {
        return options("<normalize = cosine> takes one damping", "name one");
    }
    check_solve(job)?;
    check_adam(job)?;
    candidates::check(job)?;
    copies::check(job)?;
    rank_by::check(job)?;
    intervals::check(job)?;
    shortlist::check(job)?;
    layer_sets::check(job)?;
    let has_sets = !job.output.layer_sets.is_empty() || !job.output.split_layers.is_empty();
    if has_sets && job.method.normalize == Normalize::Cosine {
        return options(
            "<normalize = cosine> divides by norms over all tracked layers, and <layer_sets> asks for parts of them",
            "leave one of the two out; a cosine over some layers is that of a run that tracks these alone",
        );
    }
    if let Some(checkpoints) = &job.checkpoints {
        check_checkpoints(job, checkpoints)?;
    }
    let is_mean = job.checkpoints.is_some()
        || job.source.as_ref().is_some_and(|source| source.with.contains(&Beside::InfluenceMean));
    if job.method.checkpoint_scores != CheckpointScores::Plain && !is_mean {
        return options(
            "<checkpoint_scores = spread> is for influence averaged over checkpoints, and none is asked for",
            "leave <checkpoint_scores> out, or name several checkpoints",
        );
    }
    match &job.source {
        Some(source) => check_source(job, source)?,
        None if job.checkpoints.is_some() && job.data.train.as_os_str().is_empty() => {
            return options("the job names no training examples", "give a file as `data.train`, `--train` as a flag");
        }
        None if job.checkpoints.is_some() => {}
        None if job.model.path.as_os_str().is_empty() => {
            return options("the job names no checkpoint", "give its folder as `model.path`, `--model` as a flag");
        }
        None if job.data.train.as_os_str().is_empty() && job.data.stages.is_empty() => {
            return options("the job names no training examples", "give a file as `data.train`, `--train` as a flag");
        }
        None => {}
    }
    if job.data.train_size == Some(0) {
        return options("<train_size> is 0", "leave it out, or give the number of examples the model was trained on");
    }
    if job.data.max_length == Some(0) {
        return options("<max_length> is 0", "leave it out, or give the most tokens that an example keeps");
    }
    if job.data.pack == Some(0) {
        return options("<pack> is 0", "leave it out, or give the tokens of a block");
    }
    if job.resources.batch_tokens == Some(0) {
        return options("<batch_tokens> is 0", "leave it out, or give at least 1");
    }
    if job.method.normalize == Normalize::Cosine && job.output.store_scores == StoreScores::Top {
        return options("<normalize = cosine> needs the full matrix", "leave <store_scores = top> out");
    }
    Ok(())
}

/// Refuses shares of tokens for models that read none, and those of target tokens for models that predict none.
pub(in crate::job) fn check_tokens_of(job: &Job, limits: Limits, of_texts: Option<Task>) -> Result<(), JobError> {
    match (job.output.tokens, limits, of_texts) {
        (TokensRequest::None, ..) => Ok(()),
        (_, Limits::Rows(_), _) => Err(no_tokens()),
        (tokens, Limits::Tokens(_), Some(_)) if tokens.divides_queries() => options(
            option_text!(
                "<tokens = {}> divides scores over the target tokens of a query, and this model gives a label for a whole \
                 text",
                tokens.name()
            ),
            "`ranked` divides over the tokens of the training example",
        ),
        _ => Ok(()),
    }
}

/// Refuses weights of queries that are not added up.
fn check_query_weights(job: &Job) -> Result<(), JobError> {
    if job.method.query_weights.is_some() && job.method.aggregate == AggregateRequest::Each {
        return options(
            "<query_weights> says what each query counts in a sum or mean of all, and queries are scored one by one",
            "add <aggregate = sum> or <aggregate = mean>, or leave <query_weights> out",
        );
    }
    Ok(())
}

/// Refuses shares of a query's target tokens where its vector is no sum over them.
fn check_query_tokens(job: &Job) -> Result<(), JobError> {
    let (tokens, method) = (job.output.tokens, &job.method);
    if !tokens.divides_queries() {
        return Ok(());
    }
    let name = tokens.name();
    if method.aggregate != AggregateRequest::Each {
        return options(
            option_text!(
                "<tokens = {}> divides scores over the tokens of one query, and <aggregate> makes one of all",
                name
            ),
            "leave one of the two out",
        );
    }
    if method.query_rank.is_some() {
        return options(
            option_text!(
                "<tokens = {}> takes the vectors of a query's tokens, which do not add up to the vector that <query_rank> \
                 keeps of the query",
                name
            ),
            "leave <query_rank> out",
        );
    }
    if method.solve == Solve::MFac {
        return options(
            option_text!(
                "<tokens = {}> takes each token's part of a query's vector, and the gradients that <solve = m-fac> makes \
                 vectors of are not kept",
                name
            ),
            "add <solve = ekfac> or <solve = subspace>",
        );
    }
    if method.solve == Solve::GaussNewton {
        return options(
            option_text!(
                "<tokens = {}> takes each token's part of a query's vector, and <solve = gauss-newton> finds vectors of whole \
                 queries in a space that all of them share",
                name
            ),
            "add <solve = ekfac> or <solve = subspace>",
        );
    }
    Ok(())
}

/// Why examples have no shares of tokens.
pub(in crate::job) fn no_tokens() -> JobError {
    JobError::Options {
        problem: "<tokens> divides scores over the tokens of a text, and this model reads rows of numbers or images"
            .into(),
        hint: Some("leave <tokens> out".into()),
    }
}

/// Products of a joint solve at most: each is kept, and costs a pass over the data.
const MOST_ITERATIONS: usize = 10_000;

/// Joint solves, and what they are not defined for.
fn check_solve(job: &Job) -> Result<(), JobError> {
    let method = &job.method;
    if method.solve_layers == SolveLayers::Each && method.solve != Solve::GaussNewton {
        return options(
            "<solve_layers = each> takes blocks of the Gauss-Newton matrix, and no products with it are asked for",
            "add <solve = gauss-newton>, or leave it out; <solve = ekfac> solves for each layer with its approximate curvature",
        );
    }
    if !method.solve.is_joint() {
        let is_default = method.solve_examples == FitExamples::All && method.solve_block.is_none();
        if method.solve_iterations.is_some() || method.solve_label_draws.is_some() || !is_default {
            return options(
                "<solve_iterations>, <solve_examples>, <solve_label_draws> and `solve_block` belong to joint solves, and none is asked for",
                "add <solve = subspace> or <solve = gauss-newton>, or leave them out",
            );
        }
        return Ok(());
    }
    let solve = method.solve.name();
    if method.solve == Solve::MFac && method.curvature == Curvature::Adam {
        return options(
            "<solve = m-fac> adds a Fisher matrix to a curvature of the same unit, and <curvature = adam> has another",
            "take another <curvature>; `identity` is M-FAC as published",
        );
    }
    if method.solve != Solve::MFac && method.curvature == Curvature::Identity {
        return options(
            option_text!("<solve = {}> starts from a curvature, and <curvature = identity> has none", solve),
            "leave <curvature> or <solve> out",
        );
    }
    if method.solve != Solve::GaussNewton && method.solve_iterations.is_some() {
        return options(
            option_text!(
                "<solve = {}> makes no products with the Gauss-Newton matrix, and <solve_iterations> says how many",
                solve
            ),
            "leave <solve_iterations> out",
        );
    }
    if method.solve_label_draws.is_some() && method.solve == Solve::GaussNewton {
        return options(
            option_text!(
                "<solve = {}> takes the loss's own Hessian, no labels are drawn, and <solve_label_draws> says how many",
                solve
            ),
            "leave <solve_label_draws> out",
        );
    }
    if method.solve_label_draws.is_some() && method.fisher == Fisher::Empirical {
        return options(
            "<fisher = empirical> takes the data's own labels, none is drawn, and <solve_label_draws> says how many",
            "leave one of the two out",
        );
    }
    if method.solve_label_draws.is_some_and(|draws| draws == 0 || draws as usize > MOST_DRAWS) {
        return options("<solve_label_draws> is out of range", "draw between 1 and 4095 labels");
    }
    if method.solve_iterations == Some(0) {
        return options("<solve_iterations> is 0, and nothing is solved", "leave it out, or give at least 1");
    }
    if let Some(n) = method.solve_iterations.filter(|&n| n > MOST_ITERATIONS) {
        return options(
            option_text!("<solve_iterations> = {} is more than the {} that are done at most", n, MOST_ITERATIONS),
            "3 to 30 are enough for most systems; the residual in the results says what is left",
        );
    }
    if method.solve_block == Some(0) {
        return options("`solve_block` is 0", "leave it out to solve for as many queries together as fit");
    }
    if method.solve == Solve::GaussNewton && method.solve_examples == FitExamples::Auto {
        return options(
            option_text!("<solve = {}> has no <solve_examples = auto>", solve),
            "write `all`, a number such as `512`, or a share such as `0.25`",
        );
    }
    if method.normalize == Normalize::Cosine {
        return options(
            option_text!(
                "<normalize = cosine> divides by norms of the curvature of each layer, and <solve = {}> has none",
                solve
            ),
            "leave one of the two out",
        );
    }
    if method.self_influence {
        return options(
            option_text!(
                "<self_influence> is taken with the curvature of each layer, and <solve = {}> has none",
                solve
            ),
            "leave one of the two out",
        );
    }
    if method.factors.is_some() {
        return options(
            option_text!(
                "<solve = {}> takes the loss of the examples that the curvature was taken on, and <factors> takes a curvature of others",
                solve
            ),
            "leave one of the two out",
        );
    }
    if let Some(source) = &job.source {
        if method.solve != Solve::GaussNewton {
            return options(
                option_text!("<solve = {}> is for influence, and Source is asked for", solve),
                "write <solve = gauss-newton>, leave <solve> out, or use `ascribe influence --run`, which averages over the same checkpoints",
            );
        }
        if method.solve_layers == SolveLayers::Each {
            return options(
                "<solve_layers = each> is for influence, and Source is asked for",
                "leave <solve_layers> or <solve> out",
            );
        }
        if source.form != FormRequest::Exponential {
            return options(
                option_text!(
                    "<solve = {}> takes the exponential of the Gauss-Newton matrix, and <form> asks for single steps",
                    solve
                ),
                "leave <form> or <solve> out",
            );
        }
    }
    Ok(())
}

/// Refuses joint solves of Source for a training run that is no function of one matrix of all layers.
pub(in crate::job) fn check_solve_of_run(job: &Job, training: &Training) -> Result<(), JobError> {
    let solve = job.method.solve;
    if !solve.is_joint() {
        return Ok(());
    }
    for (index, stage) in training.run.iter().flat_map(|run| run.trajectory.stages()).enumerate() {
        let named = match training.stages.len() {
            1 => String::new(),
            _ => format!("stage `{}`: ", stage.name()),
        };
        if !training.layer_rates(index).is_empty() {
            return options(
                option_text!(
                    "{}<solve = {}> takes a segment as a function of one matrix of all layers, and some layers have learning rates of their own",
                    named,
                    solve.name()
                ),
                "leave <solve> out",
            );
        }
        if matches!(stage.optimizer(), Optimizer::Adam { .. }) && stage.optimizer().weight_decay().1 > 0.0 {
            return options(
                option_text!(
                    "{}<solve = {}> takes a segment as a function of one matrix, and Adam divides its weight decay by second moments, which gives each weight a decay of its own",
                    named,
                    solve.name()
                ),
                "leave <solve> out; AdamW's decay is the same for all weights",
            );
        }
    }
    Ok(())
}

/// Refuses what Adam's second moments leave nothing for: they are read, and no example is differentiated for them.
fn check_adam(job: &Job) -> Result<(), JobError> {
    let method = &job.method;
    if method.curvature != Curvature::Adam {
        return Ok(());
    }
    if method.factors.is_some() {
        return options(
            "<curvature = adam> is read of the checkpoint's optimizer, and <factors> takes a curvature of another run",
            "leave <factors> out; <train_size> says for how many examples scores are",
        );
    }
    // joint systems take labels of their own
    let draws = (method.label_draws != 1 || method.fisher != Fisher::True) && !method.solve.is_joint();
    if method.fit_examples != FitExamples::All || draws {
        return options(
            "<curvature = adam> is read of the checkpoint's optimizer, and <fit_examples>, <fisher> and <label_draws> say how a curvature is taken on training examples",
            "leave them out, or take another <curvature>",
        );
    }
    if job.output.intervals.has_halves() {
        return options(
            option_text!(
                "<intervals = {}> takes curvatures on halves of the training examples, and <curvature = adam> is read of the checkpoint's optimizer",
                job.output.intervals.name()
            ),
            "write <intervals = damping>, or take another <curvature>",
        );
    }
    Ok(())
}

fn check_checkpoints(job: &Job, checkpoints: &CheckpointsRequest) -> Result<(), JobError> {
    if job.source.is_some() {
        return options(
            "Source and influence averaged over checkpoints are two jobs here",
            "leave `checkpoints` out; averaged influence stands beside Source with <with = [\"influence-mean\"]>, `--with influence-mean` as a flag",
        );
    }
    if !job.model.path.as_os_str().is_empty() {
        return options(
            "a checkpoint is given beside those that influence is averaged over",
            "leave it out: queries are measured at the last of the others",
        );
    }
    if checkpoints.run.is_some() && !checkpoints.folders.is_empty() {
        return options("checkpoints are given as a training run and as folders", "leave one of the two out");
    }
    if job.method.normalize == Normalize::Cosine {
        return options(
            "a cosine belongs to one checkpoint, and influence is averaged over several",
            "leave <normalize> out, or name one checkpoint",
        );
    }
    Ok(())
}

fn check_source(job: &Job, source: &SourceRequest) -> Result<(), JobError> {
    if !job.model.path.as_os_str().is_empty() {
        return options(
            "a training run and a checkpoint are given",
            "leave the checkpoint out: queries are asked of the run's last one",
        );
    }
    if job.data.train.as_os_str().is_empty() && job.data.stages.is_empty() {
        return options("the job names no training examples", "give a file as `data.train`, `--train` as a flag");
    }
    if source.time_scale.0.is_empty() {
        return options("no time scale is named", "leave <time_scale> out, or name one");
    }
    if !source.time_scale.0.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
        return options("a time scale is not a number above 0", "1 is training as it was");
    }
    if job.method.curvature != Curvature::Ekfac {
        return options("Source takes EK-FAC curvature", "leave <curvature> out");
    }
    if job.method.normalize != Normalize::None {
        return options("Source has no cosine", "leave <normalize> out");
    }
    if job.output.scale != ScoreScale::PerExample {
        return options("Source has no scores without 1/N", "leave <scale> out");
    }
    if source.with.contains(&Beside::InfluenceMean) && source.average == Average::Parameters {
        return options(
            "`influence-mean` averages over checkpoints, and <average = parameters> visits their mean parameters instead",
            "leave one of the two out",
        );
    }
    let is_damped = |beside: &Beside| matches!(beside, Beside::Influence | Beside::InfluenceMean);
    let is_default = |damping: &DampingRequest| *damping == DampingRequest::Value(Damping::default());
    let is_named = !job.method.damping.0.iter().all(is_default);
    if is_named && !source.with.iter().any(is_damped) {
        return options("Source is not damped", "ask for influence beside it, or leave <damping> out");
    }
    Ok(())
}

/// What the step-by-step forms can be refused for, which only the fitted curvature tells.
pub(in crate::job) fn form_note(source: &SourceRequest) -> Option<String> {
    let form = match source.form {
        FormRequest::Exponential => return None,
        FormRequest::Product => "product",
        FormRequest::Momentum => "momentum",
    };
    Some(format!(
        "whether `rate x curvature` stays below 1, as the form `{form}` needs, is known once the curvature is fitted; the fit serves the exponential form too"
    ))
}

/// How products of `f32` run, if `run_here` says that this processor has the instructions.
pub(in crate::job) fn products(job: &Job, run_here: impl Fn(Products) -> bool) -> Result<Products, JobError> {
    let products = match job.model.dtype {
        Precision::F32 | Precision::F64 => Products::Exact,
        Precision::Bf16 => Products::Bf16,
    };
    if !run_here(products) {
        let problem = "<dtype = bf16> needs a processor with AVX512-BF16, and this one lacks it";
        return options(problem, "leave <dtype> at `f32`");
    }
    if products == Products::Bf16 && !job.resources.device.is_cpu() {
        return options("<dtype = bf16> runs on the processor alone", "leave <dtype> or <device> out");
    }
    Ok(products)
}

/// What is measured, and whether the model defines it.
pub(in crate::job) fn resolve_measure(
    asked: Option<Measure>,
    limits: Limits,
    of_texts: Option<Task>,
) -> Result<Measure, JobError> {
    use Measure::{Logprob, Loss, Margin, Prediction, Probability};
    let task = match limits {
        Limits::Tokens(_) => of_texts,
        Limits::Rows(rows) => Some(rows.task),
    };
    let (task, possible, allowed): (_, _, &[Measure]) = match task {
        None => {
            ("language model", "`loss`, `logprob`, `probability` or `margin`", &[Loss, Logprob, Probability, Margin])
        }
        Some(Task::Classification) => {
            ("classifier", "`margin`, `loss`, `logprob` or `probability`", &[Margin, Loss, Logprob, Probability])
        }
        Some(Task::MultiLabel) => (
            "classifier of several labels",
            "`loss`, `logprob`, `probability` or `margin`",
            &[Loss, Logprob, Probability, Margin],
        ),
        Some(Task::Regression) => ("regression", "`prediction` or `loss`", &[Prediction, Loss]),
    };
    match asked {
        None => Ok(allowed[0]),
        Some(measure) if allowed.contains(&measure) => Ok(measure),
        Some(measure) => Err(JobError::Measure { measure: measure_name(measure), task, possible }),
    }
}

/// The measurement's name in flags and files.
pub(in crate::job) fn measure_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Loss => "loss",
        Measure::Logprob => "logprob",
        Measure::Probability => "probability",
        Measure::Margin => "margin",
        Measure::Prediction => "prediction",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    #[test]
    fn bf16_is_refused_where_the_processor_lacks_it() {
        let job = |dtype| {
            let mut job = Job::new("model", "train.jsonl", "run");
            job.model.dtype = dtype;
            job
        };
        let lacking = |products| products == Products::Exact;
        let error = products(&job(Precision::Bf16), lacking).expect_err("the processor lacks it");
        assert_eq!(error.to_string(), "`dtype = bf16` needs a processor with AVX512-BF16, and this one lacks it");
        assert_eq!(error.hint().as_deref(), Some("leave `dtype` at `f32`"));
        assert_eq!(products(&job(Precision::F32), lacking).ok(), Some(Products::Exact));
        assert_eq!(products(&job(Precision::Bf16), |_| true).ok(), Some(Products::Bf16));
    }
}
