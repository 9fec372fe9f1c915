//! `ascribe evaluate subsets`: which training examples to keep or remove before retraining.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ascribe::attribution::evaluate;
use ascribe::attribution::ranking::{Ranking, rank};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;

use crate::failure::Problem;
use crate::score_file::ScoreFile;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal::say;
use crate::words::counted;

/// More are never retrained on.
const MOST_SUBSETS: u64 = 1_000_000;
/// Bytes of the largest mask that is drawn, one for each subset and example.
const MOST_BYTES: u64 = 1 << 29;

/// Draw the subsets of the training examples to retrain on
///
/// Writes `mask` (u8, `[subsets, examples]`, 1 = the example is kept) and, if asked for, the same as lists of
/// places in the training file. With `--removed` small parts are left out instead: `removed`, 1 = the example is left
/// out. A subset depends on the seed and its own number alone: more can be drawn later. With `--top` each query of a
/// run has a removal of its own, the examples that help it most: `removed` and `query`, the row of the scores.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Subsets {
    /// Training examples
    #[arg(long, value_name = "N", required_unless_present = "top")]
    examples: Option<usize>,
    /// Subsets; 50 to 100 are usual [default: 100]
    #[arg(long, value_name = "J", value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST_SUBSETS))]
    count: Option<usize>,
    /// Share of the examples that each subset keeps, or lacks with `--removed` [default: 0.5, or 0.02]
    #[arg(long, value_name = "SHARE")]
    share: Option<f64>,
    /// Draw the examples that are left out, at most half
    #[arg(long)]
    removed: bool,
    /// Of the draws [default: 0]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Remove each query's K strongest proponents, for `ascribe evaluate qld`
    #[arg(
        long,
        value_name = "K",
        requires = "scores",
        conflicts_with_all = ["examples", "count", "share", "removed", "seed"]
    )]
    top: Option<usize>,
    /// The run folder or score file whose top examples are removed
    #[arg(long, value_name = "RUN", requires = "top")]
    scores: Option<PathBuf>,
    /// The safetensors file of the masks; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Also write JSON lines `{"subset": 0, "kept": [1, 4, …]}`, or `removed`, places counted from 0; must not exist
    #[arg(long, value_name = "FILE")]
    lists: Option<PathBuf>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate subsets --examples 5000 --count 100 --out subsets.safetensors
  ascribe evaluate subsets --examples 5000 --count 100 --out subsets.safetensors --lists subsets.jsonl
  ascribe evaluate subsets --examples 5000 --share 0.02 --removed --out removals.safetensors
  ascribe evaluate subsets --top 100 --scores run --out top.safetensors --lists top.jsonl"
);

impl Subsets {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        for file in std::iter::once(&self.out).chain(&self.lists) {
            if file.is_dir() || ascribe::presence::is_file(file) {
                return Err(Problem::hinted(
                    format!("{}: already exists", file.display()),
                    "delete it or choose another file",
                ));
            }
        }
        if let (Some(top), Some(scores)) = (self.top, &self.scores) {
            return self.write_top(top, scores);
        }
        // the flags' own rules have made sure of `--examples`
        let examples = self.examples.unwrap_or_default();
        let (count, seed) = (self.count.unwrap_or(100), self.seed.unwrap_or(0));
        let bytes = count as u128 * examples as u128;
        if bytes > u128::from(MOST_BYTES) {
            let problem = format!("`--count {count}` of `--examples {examples}` are a mask of {bytes} bytes");
            return Err(Problem::hinted(problem, format!("at most {MOST_BYTES} are written; draw fewer subsets")));
        }
        let share = self.share.unwrap_or(if self.removed { 0.02 } else { 0.5 });
        let (subsets, size, verb) = match self.removed {
            true if share > 0.5 => {
                let message =
                    format!("a share of {share} is no small removal: at most 0.5 of the examples can be left out");
                return Err(Problem::hinted(message, "leave `--removed` out to draw the examples that are kept"));
            }
            true => {
                let subsets = evaluate::Subsets::draw_removals(examples, count, share, seed)?;
                subsets.write_removals(&self.out, None)?;
                let size = examples - subsets.sizes().0;
                (subsets, size, "removals")
            }
            false => {
                let subsets = evaluate::Subsets::draw(examples, count, share, seed)?;
                subsets.write(&self.out)?;
                let size = subsets.sizes().0;
                (subsets, size, "subsets")
            }
        };
        if let Some(lists) = &self.lists {
            let line = |subset: usize| match self.removed {
                true => json!({"subset": subset, "removed": subsets.removed(subset)}),
                false => json!({"subset": subset, "kept": subsets.kept(subset)}),
            };
            write_lists((0..subsets.count()).map(line), lists)?;
        }
        let n = counted(examples as u64, "examples");
        say(&format!("{} of {size} of {n} in {}", counted(count as u64, verb), self.out.display()));
        Ok(Status::Done)
    }

    /// A removal for each query: its strongest proponents.
    fn write_top(&self, top: usize, scores: &Path) -> anyhow::Result<Status> {
        let mut files = ScoreFile::open_all(&[scores.to_owned()])?;
        if files.len() > 1 {
            let names: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
            let message = format!("{}: holds {} score files", scores.display(), files.len());
            return Err(Problem::hinted(message, format!("name one of them: {}", names.join(", "))));
        }
        let Some(file) = files.pop() else { anyhow::bail!("{}: no scores", scores.display()) };
        let (rows, examples) = (file.rows()?, file.train_ids.len());
        if top == 0 || top >= examples {
            let message = format!("the {top} strongest of {examples} examples cannot be removed");
            return Err(Problem::hinted(message, "give a `--top` of at least 1 and below the number of examples"));
        }
        let rankings = rank(rows, top)?;
        let removed: Vec<Vec<usize>> = rankings.iter().map(proponents).collect();
        if let Some(empty) = removed.iter().position(Vec::is_empty) {
            let message = format!("the query `{}` has no proponents: no score is above 0", file.query_ids[empty]);
            return Err(Problem::hinted(message, "score again without it"));
        }
        let subsets = evaluate::Subsets::without(&removed, examples)?;
        let queries: Vec<i64> = (0..rows.queries() as i64).collect();
        subsets.write_removals(&self.out, Some(&queries))?;
        if let Some(lists) = &self.lists {
            let line = |(q, removed): (usize, &Vec<usize>)| {
                let ids: Vec<&String> = removed.iter().map(|&m| &file.train_ids[m]).collect();
                json!({"subset": q, "query": file.query_ids[q], "removed": removed, "removed_ids": ids})
            };
            write_lists(removed.iter().enumerate().map(line), lists)?;
        }
        let fewest = removed.iter().map(Vec::len).min().unwrap_or(0);
        let size =
            if fewest == top { top.to_string() } else { format!("{fewest} to {top} (no more have a score above 0)") };
        let n = counted(examples as u64, "examples");
        let removals = counted(removed.len() as u64, "removals");
        say(&format!("{removals} of {size} of {n} in {}", self.out.display()));
        Ok(Status::Done)
    }
}

/// Places of the examples that help a query, the strongest first.
fn proponents(ranking: &Ranking) -> Vec<usize> {
    ranking.proponents.iter().filter(|(_, score)| *score > 0.0).map(|(m, _)| *m).collect()
}

fn write_lists(lines: impl Iterator<Item = serde_json::Value>, file: &Path) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create_new(file)?);
        for line in lines {
            writeln!(out, "{line}")?;
        }
        out.into_inner().map_err(|error| error.into_error())?.sync_all()
    };
    write().with_context(|| format!("{}: cannot be written", file.display()))
}
