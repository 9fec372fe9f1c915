//! Bytes of the files that a job leaves, from the tensors that each will hold.

use serde::Serialize;

use crate::attribution::store::{file_size, free_space};
use crate::data::{Dataset, Kind};
use crate::job::brief::Brief;
use crate::job::brief::answers::ScorePass;
use crate::job::brief::artifacts::CurvatureFiles;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::rankings::{EXCERPT, STRONGEST_PAIRS};
use crate::job::folder::{metadata, output, places};
use crate::job::request::{AggregateRequest, StoreScores, TokensRequest};

/// Bytes of a run folder.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct DiskCost {
    /// Files of one purpose each, the largest first.
    pub files: Vec<FileCost>,
    /// What the finished run folder has.
    pub left: u64,
    /// What it has at most while the job runs: parts of scores are joined before they are deleted.
    pub peak: u64,
    /// What the file system has left for this user, if it says so.
    pub free: Option<u64>,
}

/// Files of one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileCost {
    /// What the files of this kind hold.
    pub what: &'static str,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Examples of which the length of a line in the rankings is taken.
const SAMPLED: usize = 256;

/// The run folder of a plan that starts with an empty one.
pub(in crate::job) fn of(brief: &Brief, summary: &Summary) -> Result<DiskCost, JobError> {
    let CurvatureFiles { covariances, eigenbases, lambdas } = CurvatureFiles::of(brief);
    let mut files = vec![
        FileCost { what: "covariances", bytes: covariances.iter().sum() },
        FileCost { what: "eigenvectors", bytes: eigenbases.iter().sum() },
        FileCost { what: "lambda", bytes: lambdas.iter().sum() },
    ];
    let curvature: u64 = files.iter().map(|file| file.bytes).sum();
    // what is under way is saved beside what is finished
    let largest = covariances.iter().chain(&eigenbases).chain(&lambdas).max().copied().unwrap_or(0);
    // and the halves' parts of Λ of all examples until they are joined
    let in_halves = brief.needed_fits().any(|(_, fit)| fit.in_halves && fit.kind.has_lambda_pass());
    let joined = if in_halves { 2 * lambdas.iter().max().copied().unwrap_or(0) } else { 0 };
    let largest = largest.max(joined);
    let mut parts = 0;
    if let Some(queries) = &brief.queries {
        let answers = brief.all_answers();
        let vectors = brief.stored_vector_sets(&answers).into_iter().map(|set| brief.vectors_bytes(set)).sum();
        files.push(FileCost { what: "query vectors", bytes: vectors });
        files.push(FileCost { what: "scores", bytes: scores(brief, summary)? });
        files.push(FileCost { what: "rankings", bytes: rankings(brief, queries) });
        let rows = brief.query_rows();
        let of_pass = |pass: &ScorePass| {
            let n = brief.training.stages[pass.site.stage].train.len() as u64;
            let kept = match brief.job.output.store_scores {
                StoreScores::Top if brief.training.is_one_checkpoint() => (2 * brief.job.output.top as u64 * 5).min(n),
                _ => n,
            };
            4 * kept * pass.width(rows) as u64
        };
        parts = brief.score_passes(&brief.scored_answers()).iter().map(of_pass).sum();
        if brief.job.output.tokens == TokensRequest::All {
            let of_tokens = brief.score_passes(&[0]).len() as u64 * brief.token_shares() * size_of::<f32>() as u64;
            parts = of_tokens.max(parts);
        }
    }
    // the sampled gradients of one network at a time, until its vectors are there
    parts = parts.max(brief.sample_bytes());
    let about = brief.job.to_toml().len() + serde_json::to_string_pretty(summary).map_or(0, |text| text.len());
    // the report stands one level deeper, beside its stages
    let lines = serde_json::to_string_pretty(summary).map_or(0, |text| text.lines().count());
    files.push(FileCost { what: "job and report", bytes: (about + 2 * lines + 1024) as u64 });
    files.retain(|file| file.bytes > 0);
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    let left: u64 = files.iter().map(|file| file.bytes).sum();
    let peak = (left + parts).max(curvature + largest);
    Ok(DiskCost { files, left, peak, free: free_space(&brief.job.output.path) })
}

/// Refuses a run folder that would be larger than it may be, and notes one that would not fit onto its disk.
pub(in crate::job) fn check(brief: &Brief, summary: &Summary) -> Result<Option<String>, JobError> {
    let cost = of(brief, summary)?;
    if let Some(bound) = brief.job.resources.disk.filter(|&bound| cost.peak > bound) {
        let largest = cost.files.first().map_or("files", |file| file.what);
        return Err(JobError::Disk { needed: cost.peak, bound, largest });
    }
    // what an earlier start left is counted twice, so this is no error
    Ok(cost.free.filter(|&free| cost.peak > free).map(|free| {
        let (needed, left) = (in_units(cost.peak), in_units(free));
        format!("the run folder needs up to {needed}, its file system has {left} left")
    }))
}

/// `1.5 GiB`, `40 KiB`: a number of bytes in the unit in which it is not nothing.
fn in_units(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = UNITS.into_iter().find(|&(power, _)| bytes >= 1 << power);
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(power, unit)| format!("{:.1} {unit}", bytes as f64 / 2f64.powi(power as i32)),
    )
}

/// Score matrices, or the best and worst of them, of all answers; self-influence.
fn scores(brief: &Brief, summary: &Summary) -> Result<u64, JobError> {
    let mut bytes = 0;
    for answer in brief.scored_answers() {
        let key = brief.answer_key(answer).ok_or(JobError::NoQueries)?;
        let tensors = output::score_specs(brief, answer);
        bytes += file_size(&tensors, &metadata::score_metadata(brief, summary, answer, &key))?;
        for part in places::parts_apart(brief, answer) {
            bytes += file_size(&tensors, &metadata::part_metadata(brief, summary, (answer, part), &key))?;
        }
        if answer == 0 {
            bytes += brief.token_shares() * size_of::<f32>() as u64;
            bytes += shortlist(brief);
        }
        if answer == 0 && brief.job.method.self_influence {
            let own = [output::self_influence_spec(brief)];
            bytes += file_size(&own, &metadata::self_influence_metadata(brief, summary, &key))?;
        }
    }
    Ok(bytes)
}

/// Scores in variants of some examples alone: two numbers of 8 bytes for each pair, and a score of each variant.
fn shortlist(brief: &Brief) -> u64 {
    let variants = brief.shortlisted().len() as u64;
    let pairs = (brief.query_rows() * brief.shortlist_of_query()) as u64;
    if variants == 0 { 0 } else { pairs * (16 + 4 * variants) }
}

/// Bytes of a token and its share in `ranking.jsonl`: `{"text":" word","share":-0.0012345678},`.
const TOKEN_IN_RANKING: usize = 40;

/// Bytes of a token of a query in `ranking.jsonl`, `{"text":" word","loss":0.0123},`, and of its loss in a file of their
/// own.
const TOKEN_OF_QUERY: usize = 32;
const LOSS: usize = 4;

/// Bytes of the queries' tokens in a ranking, and of all their losses; nothing where queries have none.
fn query_tokens(brief: &Brief, queries: &Dataset) -> [u64; 2] {
    let Kind::Tokens(tokens) = queries.kind() else { return [0; 2] };
    if tokens.is_labelled() || brief.job.method.aggregate != AggregateRequest::Each {
        return [0; 2];
    }
    let count = |of: &dyn Fn(usize) -> usize| (0..queries.len()).map(of).sum::<usize>();
    let (all, targets) = (count(&|q| tokens.tokens(q).len()), count(&|q| tokens.targets(q)));
    [all * TOKEN_OF_QUERY, targets * LOSS].map(|bytes| bytes as u64)
}

/// `ranking.jsonl` of every answer, from the length of some examples' lines.
fn rankings(brief: &Brief, queries: &Dataset) -> u64 {
    let train = brief.training.last_stage().all();
    let step = train.len().div_ceil(SAMPLED).max(1);
    let line = |data: &Dataset, m: usize| {
        let excerpt = serde_json::to_string(&data.excerpt(m, EXCERPT)).map_or(0, |text| text.len());
        let metadata = data.metadata(m);
        let fields = if metadata.is_empty() { 0 } else { serde_json::to_string(&metadata).map_or(0, |t| t.len() + 12) };
        // {"id":"…","score":…,"excerpt":…,"metadata":…},
        (data.id(m).len() + excerpt + fields + 40) as u64
    };
    let sampled: Vec<u64> = (0..train.len()).step_by(step).map(|m| line(train, m)).collect();
    let mean = sampled.iter().sum::<u64>() / sampled.len().max(1) as u64;
    let listed = brief.listed() as u64;
    let rows = brief.query_rows();
    let own: u64 = (0..rows.min(queries.len())).map(|q| line(queries, q) + 80).sum();
    let files = if brief.job.output.csv { 2 } else { 1 };
    let request = brief.job.output.tokens;
    let of_examples = if request.divides_examples() { rows * brief.tokens_of_example() } else { 0 };
    let of_queries = if request.divides_queries() { brief.query_targets() } else { 0 };
    let of_both = if request == TokensRequest::Matrix { rows * STRONGEST_PAIRS } else { 0 };
    let tokens = ((of_examples + of_queries + 2 * of_both) * TOKEN_IN_RANKING) as u64 * listed;
    let ranked = brief.answers.iter().filter(|answer| answer.variant.is_none()).count() as u64;
    let [in_ranking, losses] = query_tokens(brief, queries);
    tokens + losses + ranked * (files * rows as u64 * listed * mean + own + in_ranking)
}
