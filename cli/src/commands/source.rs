//! `ascribe source`: scores through a whole training run.

use clap::Args;

use super::influence::{Printing, whole};
use crate::failure::Problem;
use crate::options::{JobOptions, RunMethod};
use crate::status::{Status, exit_codes, with_exit_codes};

/// Source: score every training example through the whole training run
///
/// Influence functions ask about one optimum; Source follows training backwards through its checkpoints, segment by
/// segment, and holds for models that have not converged and for training in stages. The run folder is as that of
/// `influence`; further methods, dampings and time scales come from the same passes, each into files of its own name.
#[derive(Debug, Args)]
#[command(
    after_help = exit_codes!(),
    after_long_help = EXAMPLES,
    mut_arg("model", |arg| arg.hide(true)),
    mut_arg("method", |arg| arg.hide(true)),
    mut_arg("curvature", |arg| arg.hide(true)),
    mut_arg("queries", |arg| arg.required(true)),
    mut_arg("out", |arg| arg.required(true))
)]
pub(crate) struct Source {
    #[command(flatten)]
    pub(super) options: JobOptions,
    #[command(flatten)]
    printing: Printing,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe trajectory trainer-output
  ascribe source --run trainer-output --train train.jsonl --queries queries.jsonl --out run
  ascribe source --trajectory run.toml --train train.safetensors --queries test.safetensors --out run
  ascribe source --run trainer-output --train train.jsonl --queries queries.jsonl --out run \\
    --with influence,tracin --time-scale 1,10 --damping 0.1x,0.01x

  Shards: `fit`, `query`, `score`, `merge` and `rank` take the same flags, or those of the run folder's job"
);

impl Source {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        if !self.options.training.names_a_run() {
            let hint = "give `--run`, a Trainer's output folder, or `--trajectory`, a TOML file";
            return Err(Problem::hinted("no training run given", hint));
        }
        let mut options = self.options;
        if options.training.method == Some(RunMethod::Influence) {
            return Err(Problem::hinted("`--method influence` is for influence functions", "use `ascribe influence`"));
        }
        options.training.method = Some(RunMethod::Source);
        whole(options.job_of_flags()?, &options, self.printing)
    }
}
