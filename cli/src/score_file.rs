//! Score files as the library writes them, for evaluation.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ascribe::attribution::ranking::ScoreRows;
use ascribe::attribution::store::TensorFile;

use crate::failure::Problem;

const SCORES: &str = "scores.safetensors";
const TOP: &str = "top.safetensors";

/// The scores of one run, mapped into memory.
#[derive(Debug)]
pub(crate) struct ScoreFile {
    /// For reports.
    pub(crate) name: String,
    /// `[Q]`.
    pub(crate) query_ids: Vec<String>,
    /// `[N]`.
    pub(crate) train_ids: Vec<String>,
    /// What makes a score the change that one more copy of the example is predicted to make; none if scores are no
    /// amounts.
    pub(crate) amounts: Option<f64>,
    /// Whether the file does not say what its scores are, so that they are taken as amounts for one copy.
    pub(crate) is_scale_unknown: bool,
    /// The file itself.
    pub(crate) path: PathBuf,
    file: TensorFile,
}

impl ScoreFile {
    /// Opens the scores of several run folders (or score files), which must be of the same queries and
    /// training examples in the same order. A folder stands for every method, damping and time scale that it holds.
    ///
    /// # Errors
    /// If one cannot be read, or two differ.
    pub(crate) fn open_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Self>> {
        let paths = paths.iter().map(|path| with_further(path)).collect::<anyhow::Result<Vec<_>>>()?.concat();
        let mut files = paths.iter().map(|path| Self::open(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let twice = |name: &String| files.iter().filter(|file| file.name == *name).count() > 1;
        let is_ambiguous: Vec<bool> = files.iter().map(|file| twice(&file.name)).collect();
        for ((file, path), is_ambiguous) in files.iter_mut().zip(&paths).zip(is_ambiguous) {
            if is_ambiguous {
                file.name = path.display().to_string();
            }
        }
        if let [first, others @ ..] = &files[..] {
            for other in others {
                first.require_same(other)?;
            }
        }
        Ok(files)
    }

    fn open(path: &Path) -> anyhow::Result<Self> {
        let scores = if path.is_dir() { path.join(SCORES) } else { path.to_owned() };
        if path.is_dir() && !ascribe::presence::is_file(&scores) {
            let hint = match ascribe::presence::is_file(&path.join(TOP)) {
                true => "the run kept only each query's best and worst; score again with `--store-scores full`",
                false => "run `ascribe score` on this folder first",
            };
            return Err(Problem::hinted(format!("{}: no `{SCORES}`", path.display()), hint));
        }
        let file = TensorFile::open_checked(&scores)?;
        let ids = |entry: &str| -> anyhow::Result<Vec<String>> {
            let list = file.metadata(entry).and_then(|text| serde_json::from_str(text).ok());
            list.ok_or_else(|| {
                let hint = "give a run folder, or a score file with `query_ids` and `train_ids` in its metadata";
                Problem::hinted(format!("{}: no list `{entry}` in the metadata", scores.display()), hint)
            })
        };
        let (query_ids, train_ids) = (ids("query_ids")?, ids("train_ids")?);
        let shape = &file.spec("scores")?.shape;
        if *shape != [query_ids.len(), train_ids.len()] {
            let (queries, examples) = (query_ids.len(), train_ids.len());
            let found = format!(
                "`scores` has the shape {shape:?}, the metadata names {queries} queries and {examples} examples"
            );
            return Err(Problem::hinted(format!("{}: {found}", scores.display()), "was the file written by ascribe?"));
        }
        file.f32("scores")?;
        let name = match file.metadata("answer").filter(|_| has_further(&scores)) {
            Some(answer) => format!("{} {answer}", name_of(scores.parent().unwrap_or(path))),
            None => name_of(path),
        };
        let scale = file.metadata("scale");
        let amounts = match (file.metadata("normalize"), scale) {
            (Some("cosine"), _) => None,
            // kronfluence's scale: N times the change for one copy
            (_, Some("1")) => {
                let n = file.metadata("train_size").and_then(|n| n.parse().ok()).unwrap_or(train_ids.len());
                Some(1.0 / n as f64)
            }
            _ => Some(1.0),
        };
        let is_scale_unknown = amounts.is_some() && scale.is_none();
        Ok(Self { name, query_ids, train_ids, amounts, is_scale_unknown, path: scores, file })
    }

    /// An entry of the metadata.
    pub(crate) fn metadata(&self, entry: &str) -> Option<&str> {
        self.file.metadata(entry)
    }

    /// `[Q, N]`.
    ///
    /// # Errors
    /// None after [`open`](Self::open) checked type and shape.
    pub(crate) fn rows(&self) -> anyhow::Result<ScoreRows<'_>> {
        Ok(ScoreRows::new(self.file.f32("scores")?, self.query_ids.len(), self.train_ids.len())?)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    fn require_same(&self, other: &Self) -> anyhow::Result<()> {
        let axes =
            [("queries", &self.query_ids, &other.query_ids), ("training examples", &self.train_ids, &other.train_ids)];
        for (axis, ours, theirs) in axes {
            if ours != theirs {
                let message = format!("`{}` and `{}` are not of the same {axis}", self.name, other.name);
                return Err(Problem::hinted(message, "compare runs of the same files, in the same order"));
            }
        }
        Ok(())
    }
}

/// A run folder with its further score files behind it, in the order of their names.
fn with_further(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = vec![path.to_owned()];
    if path.is_dir() {
        all.extend(further(path).with_context(|| format!("{}: cannot be read", path.display()))?);
    }
    Ok(all)
}

/// Whether the file lies beside scores of further methods.
fn has_further(scores: &Path) -> bool {
    scores.parent().is_some_and(|folder| further(folder).is_ok_and(|files| !files.is_empty()))
}

/// `scores.NAME.safetensors` of a folder. Variants, which say how sure its scores are, are no methods.
fn further(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut files = vec![];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_variant = name.starts_with("scores.variant-");
        if name != SCORES && !is_variant && name.starts_with("scores.") && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The folder's name; for a file in it, the folder's unless the file has a name of its own.
pub(crate) fn name_of(path: &Path) -> String {
    let named = if path.file_name().is_some_and(|name| name == SCORES) { path.parent().unwrap_or(path) } else { path };
    let name = if ascribe::presence::is_file(named) { named.file_stem() } else { named.file_name() };
    match name.map(|name| name.to_string_lossy().into_owned()) {
        Some(name) => name,
        // `.` and `..` have no last part
        None => std::fs::canonicalize(named)
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| path.display().to_string()),
    }
}
