//! Flags for what retraining gave: on subsets, or without few examples.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ascribe::attribution::evaluate::{MaskMeaning, Orientation, Outcomes, Predictions, Removals, Subsets};
use clap::{Args, ValueEnum};

use crate::failure::Problem;
use crate::score_file::ScoreFile;
use crate::words::counted;

/// Masks, outcomes and which measurement.
#[derive(Debug, Clone, Args)]
pub(super) struct Retrained {
    /// Which examples each retrained model saw: `mask` `[subsets, examples]` in a safetensors file
    #[arg(long, value_name = "FILE", required_unless_present = "removals", conflicts_with = "removals")]
    subsets: Option<PathBuf>,
    /// What a 1 in the mask says
    #[arg(long, value_name = "MEANING", value_enum, default_value_t, conflicts_with = "removals")]
    mask: Mask,
    /// Which few examples each retrained model lacked, in place of `--subsets`: `removed` `[removals, examples]`
    #[arg(long, value_name = "FILE")]
    removals: Option<PathBuf>,
    /// What was measured after retraining, in a safetensors file [default: that of `--removals`]
    #[arg(long, value_name = "FILE", required_unless_present = "removals")]
    outcomes: Option<PathBuf>,
    /// The measurement: a tensor `NAME` `[subsets, queries]`, or `NAME_seeds` `[subsets, seeds, queries]`; of removals
    /// `NAME` `[removals, seeds, queries]` and `full_NAME` `[seeds, queries]`
    #[arg(long, value_name = "NAME")]
    outcome: String,
    /// Whether higher values of the measurement are better [default: unless its name contains `loss`]
    #[arg(long, value_name = "BOOL")]
    higher_is_better: Option<bool>,
    /// Of removals: which seed of the outcomes, counted from 0, is that of the run that was scored
    #[arg(long, value_name = "SEED", default_value_t = 0, conflicts_with = "subsets")]
    own_seed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Mask {
    /// The example was in the training set
    #[default]
    Kept,
    /// The example was left out
    Removed,
}

/// What retraining gave.
#[derive(Debug)]
pub(super) enum Truth {
    /// On subsets.
    Subsets(Subsets, Outcomes),
    /// Without few examples.
    Removals(Removals),
}

impl Retrained {
    /// Reads masks and outcomes.
    pub(super) fn read(&self) -> anyhow::Result<Truth> {
        let orientation = self.higher_is_better.map(|higher| match higher {
            true => Orientation::HigherIsBetter,
            false => Orientation::LowerIsBetter,
        });
        let meaning = match self.mask {
            Mask::Kept => MaskMeaning::Kept,
            Mask::Removed => MaskMeaning::Removed,
        };
        match (&self.subsets, &self.removals, &self.outcomes) {
            (_, Some(removals), outcomes) => {
                let outcomes = outcomes.as_ref().unwrap_or(removals);
                let removals = Removals::read(removals, outcomes, &self.outcome, orientation, self.own_seed)?;
                Ok(Truth::Removals(removals))
            }
            (Some(subsets), None, Some(outcomes)) => {
                let file = subsets;
                let subsets = Subsets::read(file, meaning)?;
                refuse_equal(&subsets, file)?;
                let read = Outcomes::read(outcomes, &self.outcome, orientation);
                // values that are no numbers do not know their file
                let outcomes = match &read {
                    Err(error) if !error.to_string().contains(&outcomes.display().to_string()) => {
                        read.with_context(|| format!("{}: cannot be taken as outcomes", outcomes.display()))?
                    }
                    _ => read?,
                };
                Ok(Truth::Subsets(subsets, outcomes))
            }
            // the flags' own rules have refused this
            _ => anyhow::bail!("`--subsets` with `--outcomes`, or `--removals`, is needed"),
        }
    }
}

impl Retrained {
    /// The file of masks.
    pub(super) fn masks(&self) -> &Path {
        self.removals.as_deref().or(self.subsets.as_deref()).unwrap_or(Path::new(""))
    }

    /// The file of outcomes.
    pub(super) fn outcomes(&self) -> &Path {
        self.outcomes.as_deref().unwrap_or(self.masks())
    }
}

/// Refuses subsets that leave nothing to correlate: all of them the same, with every example or with none.
fn refuse_equal(subsets: &Subsets, file: &Path) -> anyhow::Result<()> {
    let mut rows = subsets.mask().chunks_exact(subsets.examples().max(1));
    let Some(first) = rows.next().filter(|_| subsets.count() > 1) else { return Ok(()) };
    if rows.any(|row| row != first) {
        return Ok(());
    }
    let kept = match subsets.sizes() {
        (0, _) => "keep no example".to_owned(),
        (n, _) if n == subsets.examples() => "keep every example".to_owned(),
        (n, _) => format!("keep the same {}", counted(n as u64, "examples")),
    };
    let problem = format!("{}: all {} {kept}", file.display(), counted(subsets.count() as u64, "subsets"));
    Err(Problem::hinted(problem, "a correlation over subsets needs subsets that differ; is `--mask` right?"))
}

impl Truth {
    /// What a run's scores predict.
    pub(super) fn predictions(&self, scores: &ScoreFile) -> anyhow::Result<Predictions> {
        Ok(match self {
            Self::Subsets(subsets, _) => Predictions::new(scores.rows()?, subsets)?,
            Self::Removals(removals) => Predictions::of_removals(scores.rows()?, removals.subsets())?,
        })
    }
}
