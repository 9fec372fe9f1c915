//! The command line as a whole.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

use crate::commands::Command;
use crate::status::{exit_codes, with_exit_codes};
use crate::terminal;

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

/// The command line's definition, which help, completions and manual pages are made of.
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}

/// The command line as it was given. Where it makes no sense, the process ends with a message, which quotes it.
pub(crate) fn parse() -> Cli {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    Cli::try_parse_from(&arguments).unwrap_or_else(|error| {
        // What is quoted may steer a terminal no more than any other text.
        let visible = arguments.iter().map(|argument| terminal::inline(&argument.to_string_lossy()).into_owned());
        Cli::try_parse_from(visible).err().unwrap_or(error).exit()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }
}
