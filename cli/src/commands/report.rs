//! `ascribe report`: a finished run as one page.

use std::path::PathBuf;

use clap::Args;

use crate::report::{self, ReportFormat};
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal;

/// Write a finished run as one page to read and to send on
///
/// One self-contained HTML file: what was asked, what to distrust in this run, and for each query the training examples
/// that helped and hurt, with their texts. It makes no request, needs no script, and is made from the run folder alone;
/// whole texts are taken from the files of examples if they are still there.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Report {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The file that is written [default: report.html or report.md in the run folder; a text is printed]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What it is written as
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: ReportFormat,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe report run
  ascribe report run --out for-a-colleague.html
  ascribe report run --format markdown --out report.md
  ascribe report run --format text"
);

impl Report {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        if self.format == ReportFormat::Text && self.out.is_none() {
            report::print(&self.run)?;
            return Ok(Status::Done);
        }
        let text = report::of_run_folder(&self.run, self.format)?;
        let file = self.out.unwrap_or_else(|| report::default_file(&self.run, self.format));
        report::write(&file, &text)?;
        terminal::print(&format!("{}\n", file.display()), "where the report lies")?;
        Ok(Status::Done)
    }
}
