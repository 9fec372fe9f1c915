//! `ascribe inspect`: what a file or folder is. Reading never writes.

mod checkpoint;
mod detail;
mod lines;
mod run_folder;
mod tensors;

use std::path::{Path, PathBuf};

use anyhow::Context;
use ascribe::{foreign_file, presence};
use clap::Args;

use self::detail::Detail;
use crate::failure::Problem;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal;

/// Explain a checkpoint, a run folder, or a file: factors, query cache, scores, data, any safetensors
///
/// Reading never writes, and works while another process writes into the folder.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Inspect {
    /// A folder or a file
    path: PathBuf,
    /// Folder of the base, if the folder is a PEFT adapter [default: the folder that `adapter_config.json` names]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Print every tensor, layer and entry of the metadata in full
    #[arg(short, long)]
    verbose: bool,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe inspect my-gpt2
  ascribe inspect run
  ascribe inspect run/scores.safetensors
  ascribe inspect run/artifacts/lambda-0123456789abcdef.safetensors --verbose"
);

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let detail = if self.verbose { Detail::Full } else { Detail::Short };
        let text = explain(&self.path, self.base.as_deref(), detail)?;
        terminal::print(&text, "what is there")?;
        Ok(Status::Done)
    }
}

/// A Trainer's output folder, or one with the description of a run.
fn is_training_run(folder: &Path) -> bool {
    let is_checkpoint = |name: &str| name.strip_prefix("checkpoint-").is_some_and(|n| n.parse::<u64>().is_ok());
    let has_checkpoint = || {
        let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name().to_str().is_some_and(is_checkpoint))
    };
    presence::is_file(&folder.join("trajectory.toml")) || has_checkpoint()
}

fn explain(path: &Path, base: Option<&Path>, detail: Detail) -> anyhow::Result<String> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if path.is_dir() {
        if presence::is_file(&path.join("ascribe.json")) {
            return run_folder::explain(path, detail);
        }
        if ["config.json", "adapter_config.json"].iter().any(|name| presence::is_file(&path.join(name))) {
            return checkpoint::explain(path, base, detail);
        }
        if is_training_run(path) {
            let hint = format!(
                "`ascribe trajectory {0}` explains a training run, `ascribe inspect {0}/checkpoint-N` one of its checkpoints",
                path.display()
            );
            return Err(Problem::hinted(format!("{}: a training run with its checkpoints", path.display()), hint));
        }
        let hint = "a checkpoint has a `config.json`, a run folder an `ascribe.json`";
        return Err(Problem::hinted(format!("{}: neither a checkpoint nor a run folder", path.display()), hint));
    }
    if let Err(error) = foreign_file::open(path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Err(Problem::hinted(format!("{}: no such file or folder", path.display()), "check the path"));
        }
        return Err(error).with_context(|| format!("{}: cannot be read", path.display()));
    }
    match extension {
        "safetensors" => tensors::explain(path, detail),
        "toml" => run_folder::explain_job(path),
        "jsonl" => lines::explain(path, detail),
        _ => Err(Problem::hinted(
            format!("{}: not a kind of file that is explained here", path.display()),
            "`.safetensors`, `.jsonl` and `.toml` files are, and folders of checkpoints and runs",
        )),
    }
}
