use std::io::{self, Write};
use std::path::PathBuf;

use ascribe::trajectory::StageData;
use clap::{Args, ValueEnum};

use crate::options::TrajectoryOptions;
use crate::show::TrajectoryReport;
use crate::status::{Status, exit_codes, with_exit_codes};

/// Explain a training run: checkpoints, learning rates, optimizer, segments, and what is not known
///
/// PATH is the output folder of a Hugging Face Trainer, a TOML file, or a folder with a `trajectory.toml`. Nothing is
/// guessed: every fact comes with the file or the rule that it was taken from. Weights are not read.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Trajectory {
    /// The training run
    path: PathBuf,
    #[command(flatten)]
    options: TrajectoryOptions,
    /// Examples of the whole training set, where they are not recorded; one number for each stage
    ///
    /// `ascribe source` counts them in its training data.
    #[arg(long, value_name = "N,…", value_delimiter = ',', help_heading = "Training run")]
    train_examples: Vec<usize>,
    /// How it is printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: TrajectoryFormat,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe trajectory output
  ascribe trajectory output --segments 2 --train-examples 4656
  ascribe trajectory trajectory.toml --format json"
);

/// How a training run is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum TrajectoryFormat {
    /// For reading
    #[default]
    Table,
    /// One object
    Json,
}

impl Trajectory {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let request = self.options.request(self.path);
        let data: Vec<StageData> = self
            .train_examples
            .into_iter()
            .map(|n| StageData { examples: Some(n), targets_per_example: None })
            .collect();
        let outline = request.outline(request.read()?, &data)?;
        let report = TrajectoryReport::new(&request, &outline);
        let text = match self.format {
            TrajectoryFormat::Table => report.table(),
            TrajectoryFormat::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
        };
        io::stdout().lock().write_all(text.as_bytes())?;
        Ok(Status::Done)
    }
}
