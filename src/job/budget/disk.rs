//! Bytes of the files that a job leaves, from the tensors that each will hold.

use serde::Serialize;

use crate::attribution::store::{Dtype, Element, Metadata, TensorSpec, file_size, free_space};
use crate::curvature::CurvatureKind;
use crate::data::Dataset;
use crate::job::brief::answers::VectorSet;
use crate::job::error::JobError;
use crate::job::folder::output;
use crate::job::plan::Plan;
use crate::job::request::Precision;
use crate::job::request::StoreScores;
use crate::job::steps::rank;
use crate::job::training::{Fit, Training};

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
    /// What they hold.
    pub what: &'static str,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What an artifact says about itself: format, kind, key, units, names.
const ABOUT: usize = 420;

/// Examples of which the length of a line in the rankings is taken.
const SAMPLED: usize = 256;

/// Bytes of every file of a run folder's curvature. A run that takes another's has none.
#[derive(Debug, Default)]
pub(in crate::job) struct CurvatureFiles {
    covariances: Vec<u64>,
    eigenbases: Vec<u64>,
    lambdas: Vec<u64>,
}

impl CurvatureFiles {
    /// The files that the needed fits of a plan leave.
    pub(in crate::job) fn of(plan: &Plan) -> Self {
        if plan.reused.is_some() {
            return Self::default();
        }
        let fits: Vec<&Fit> = plan.needed_fits().map(|(_, fit)| fit).collect();
        let with_bases = || fits.iter().copied().filter(|fit| fit.kind.has_eigenbasis());
        let with_lambdas = fits.iter().filter(|fit| fit.kind.has_lambda_pass());
        Self {
            covariances: vec![covariance(plan); Training::sites(with_bases()).len()],
            eigenbases: with_bases().map(|fit| eigenbasis(plan, fit)).collect(),
            lambdas: with_lambdas.flat_map(|fit| vec![lambda(plan, fit); fit.places.len()]).collect(),
        }
    }

    /// Bytes of all of them.
    pub(in crate::job) fn bytes(&self) -> u64 {
        [&self.covariances, &self.eigenbases, &self.lambdas].into_iter().flatten().sum()
    }
}

/// The run folder of a plan that starts with an empty one.
pub(in crate::job) fn of(plan: &Plan) -> Result<DiskCost, JobError> {
    let CurvatureFiles { covariances, eigenbases, lambdas } = CurvatureFiles::of(plan);
    let mut files = vec![
        FileCost { what: "covariances", bytes: covariances.iter().sum() },
        FileCost { what: "eigenvectors", bytes: eigenbases.iter().sum() },
        FileCost { what: "lambda", bytes: lambdas.iter().sum() },
    ];
    let curvature: u64 = files.iter().map(|file| file.bytes).sum();
    // what is under way is saved beside what is finished
    let largest = covariances.iter().chain(&eigenbases).chain(&lambdas).max().copied().unwrap_or(0);
    let mut parts = 0;
    if let Some(queries) = &plan.queries {
        let answers = plan.all_answers();
        let vectors = plan.stored_vector_sets(&answers).into_iter().map(|set| vectors(plan, set)).sum();
        files.push(FileCost { what: "query vectors", bytes: vectors });
        files.push(FileCost { what: "scores", bytes: scores(plan, queries)? });
        files.push(FileCost { what: "rankings", bytes: rankings(plan, queries) });
        let rows = plan.query_rows();
        let of_pass = |pass: &crate::job::brief::answers::ScorePass| {
            let n = plan.training.stages[pass.site.stage].train.len() as u64;
            let kept = match plan.job.output.store_scores {
                StoreScores::Top if plan.training.is_one_checkpoint() => (2 * plan.job.output.top as u64 * 5).min(n),
                _ => n,
            };
            4 * kept * pass.width(rows) as u64
        };
        parts = plan.score_passes(&answers).iter().map(of_pass).sum();
    }
    let about = plan.job.to_toml().len() + serde_json::to_string_pretty(plan.summary()).map_or(0, |text| text.len());
    // the report stands one level deeper, beside its stages
    let lines = serde_json::to_string_pretty(plan.summary()).map_or(0, |text| text.lines().count());
    files.push(FileCost { what: "job and report", bytes: (about + 2 * lines + 1024) as u64 });
    files.retain(|file| file.bytes > 0);
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    let left: u64 = files.iter().map(|file| file.bytes).sum();
    let peak = (left + parts).max(curvature + largest);
    Ok(DiskCost { files, left, peak, free: free_space(&plan.job.output.path) })
}

impl Plan {
    /// Refuses a run folder that would be larger than it may be, and notes one that would not fit onto its disk.
    pub(in crate::job) fn check_disk(&self) -> Result<Option<String>, JobError> {
        let cost = of(self)?;
        if let Some(bound) = self.job.resources.disk.filter(|&bound| cost.peak > bound) {
            let largest = cost.files.first().map_or("files", |file| file.what);
            return Err(JobError::Disk { needed: cost.peak, bound, largest });
        }
        // what an earlier start left is counted twice, so this is no error
        Ok(cost.free.filter(|&free| cost.peak > free).map(|free| {
            let (needed, left) = (in_units(cost.peak), in_units(free));
            format!("the run folder needs up to {needed}, its file system has {left} left")
        }))
    }

    /// Bytes of a number in the run's type.
    pub(in crate::job) fn width(&self) -> u64 {
        self.job.model.dtype.bytes()
    }

    fn number(&self) -> Dtype {
        match self.job.model.dtype {
            Precision::F64 => <f64 as Element>::DTYPE,
            _ => <f32 as Element>::DTYPE,
        }
    }
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

/// A file of these tensors with so many characters about them.
fn size(tensors: &[TensorSpec], about: usize) -> u64 {
    let metadata = Metadata::from([("about".to_owned(), "x".repeat(about))]);
    let numbers = || tensors.iter().map(|t| t.dtype.size() as u64 * t.shape.iter().product::<usize>() as u64).sum();
    file_size(tensors, &metadata).unwrap_or_else(|_| numbers())
}

pub(in crate::job) fn covariance(plan: &Plan) -> u64 {
    size(&plan.covariance_specs(), ABOUT)
}

pub(in crate::job) fn eigenbasis(plan: &Plan, fit: &Fit) -> u64 {
    size(&plan.eigenbasis_specs(fit, plan.number()), ABOUT)
}

pub(in crate::job) fn lambda(plan: &Plan, fit: &Fit) -> u64 {
    if fit.kind == CurvatureKind::Identity {
        return 0;
    }
    size(&plan.lambda_specs(), ABOUT)
}

pub(in crate::job) fn vectors(plan: &Plan, set: VectorSet) -> u64 {
    let Some(queries) = &plan.queries else { return 0 };
    let rows = plan.query_rows();
    let tensors = plan.vector_specs(set, rows, queries.len(), plan.number());
    size(&tensors, ABOUT)
}

/// Score matrices, or the best and worst of them, of all answers; self-influence.
fn scores(plan: &Plan, queries: &Dataset) -> Result<u64, JobError> {
    let rows = plan.query_rows();
    let n = plan.training.columns.len();
    let mut bytes = 0;
    for answer in plan.all_answers() {
        let key = plan.answer_key(answer).ok_or(JobError::NoQueries)?;
        let metadata = output::score_metadata(plan, answer, &key);
        let measurements = TensorSpec::new("measurements", Dtype::F64, [queries.len()]);
        let top = plan.job.output.top.min(n);
        let tensors = match plan.job.output.store_scores {
            StoreScores::Full => vec![TensorSpec::new("scores", Dtype::F32, [rows, n]), measurements],
            StoreScores::Top => ["proponents", "opponents"]
                .into_iter()
                .flat_map(|side| {
                    [("index", Dtype::I64), ("score", Dtype::F32)]
                        .map(|(what, dtype)| TensorSpec::new(format!("{side}.{what}"), dtype, [rows, top]))
                })
                .chain([measurements])
                .collect(),
        };
        let files = 1 + output::stages_apart(plan, answer).len() as u64;
        bytes += files * file_size(&tensors, &metadata)?;
        if answer == 0 && plan.job.method.self_influence {
            let own = [TensorSpec::new("self_influence", Dtype::F32, [n])];
            bytes += file_size(&own, &metadata)?;
        }
    }
    Ok(bytes)
}

/// `ranking.jsonl` of every answer, from the length of some examples' lines.
fn rankings(plan: &Plan, queries: &Dataset) -> u64 {
    let train = plan.train();
    let step = train.len().div_ceil(SAMPLED).max(1);
    let line = |data: &Dataset, m: usize| {
        let excerpt = serde_json::to_string(&data.excerpt(m, rank::EXCERPT)).map_or(0, |text| text.len());
        let metadata = data.metadata(m);
        let fields = if metadata.is_empty() { 0 } else { serde_json::to_string(&metadata).map_or(0, |t| t.len() + 12) };
        // {"id":"…","score":…,"excerpt":…,"metadata":…},
        (data.id(m).len() + excerpt + fields + 40) as u64
    };
    let sampled: Vec<u64> = (0..train.len()).step_by(step).map(|m| line(train, m)).collect();
    let mean = sampled.iter().sum::<u64>() / sampled.len().max(1) as u64;
    let listed = (2 * plan.job.output.top).min(plan.training.columns.len()) as u64;
    let rows = plan.query_rows();
    let own: u64 = (0..rows.min(queries.len())).map(|q| line(queries, q) + 80).sum();
    let files = if plan.job.output.csv { 2 } else { 1 };
    plan.answers.len() as u64 * (files * rows as u64 * listed * mean + own)
}
