use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ascribe::attribution::evaluate;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;

use crate::failure::Problem;
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
/// places in the training file. A subset depends on the seed and its own number alone: more can be drawn
/// later.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Subsets {
    /// Training examples
    #[arg(long, value_name = "N")]
    examples: usize,
    /// Subsets; 50 to 100 are usual
    #[arg(long, value_name = "J", default_value_t = 100, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST_SUBSETS))]
    count: usize,
    /// Share of the examples that each subset keeps
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    share: f64,
    /// Of the draws
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// The safetensors file of the masks; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Also write JSON lines `{"subset": 0, "kept": [1, 4, …]}`, places counted from 0; must not exist
    #[arg(long, value_name = "FILE")]
    lists: Option<PathBuf>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate subsets --examples 5000 --count 100 --out subsets.safetensors
  ascribe evaluate subsets --examples 5000 --count 100 --out subsets.safetensors --lists subsets.jsonl"
);

impl Subsets {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        for file in std::iter::once(&self.out).chain(&self.lists) {
            if file.exists() {
                return Err(Problem::hinted(
                    format!("{}: already exists", file.display()),
                    "delete it or choose another file",
                ));
            }
        }
        let bytes = self.count as u128 * self.examples as u128;
        if bytes > u128::from(MOST_BYTES) {
            let problem =
                format!("`--count {}` of `--examples {}` are a mask of {bytes} bytes", self.count, self.examples);
            return Err(Problem::hinted(problem, format!("at most {MOST_BYTES} are written; draw fewer subsets")));
        }
        let subsets = evaluate::Subsets::draw(self.examples, self.count, self.share, self.seed)?;
        subsets.write(&self.out)?;
        if let Some(lists) = &self.lists {
            write_lists(&subsets, lists).with_context(|| format!("{}: cannot be written", lists.display()))?;
        }
        let (kept, _) = subsets.sizes();
        let n = counted(self.examples as u64, "examples");
        say(&format!("{} of {kept} of {n} in {}", counted(self.count as u64, "subsets"), self.out.display()));
        Ok(Status::Done)
    }
}

fn write_lists(subsets: &evaluate::Subsets, file: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create_new(file)?);
    for subset in 0..subsets.count() {
        writeln!(out, "{}", json!({"subset": subset, "kept": subsets.kept(subset)}))?;
    }
    out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(())
}
