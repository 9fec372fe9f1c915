//! The command line as a whole.

use clap::Parser;

use crate::commands::Command;
use crate::status::{exit_codes, with_exit_codes};

/// Which training examples pushed a model's answer up or down, and by how much
///
/// Reads a safetensors checkpoint, the examples it was trained on and a file of queries, fits the curvature
/// of the training loss (EK-FAC), and scores every training example for every query. A score is the
/// improvement of the query's measurement that is predicted for one more copy of the example in training:
/// positive for a proponent, negative for an opponent.
#[derive(Debug, Parser)]
#[command(name = "ascribe", version, max_term_width = 110, after_help = exit_codes!(), after_long_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe influence --model my-gpt2 --train train.jsonl --queries queries.jsonl --out run
  ascribe influence --model my-gpt2 --train train.jsonl --queries queries.jsonl --out run --dry-run
  ascribe run run/job.toml --out again
  ascribe inspect run
  ascribe evaluate retrieval --scores run --answers queries.jsonl"
);

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
