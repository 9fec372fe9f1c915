//! A finished run as one page that a person can read and send on: `ascribe report`.
//!
//! ```text
//! folder.rs      what a run folder holds, read and checked
//! stored.rs      its rankings and record, as far as a report reads them
//! originals.rs   the texts and images behind its excerpts
//! text.rs        texts made visible and bounded
//! plot.rs        bars and distributions as paths of SVG
//! shading.rs     tokens shaded by what they add to a score, and by their losses
//! parts.rs       where scores come from: layer sets, stages, a heat map of all layers
//! texts.rs       the texts and pictures that there is room for
//! sentences.rs   what was asked, what a score is, what the strongest example did, how sure that is
//! terms.rs       words that not everybody knows
//! bounds.rs      how much of a run a page has room for
//! cautions.rs    what to distrust in this run, and how it was computed
//! build.rs       all of it as a `model::Report`
//! html.rs        the report as a page        (templates/report.html, .css, .js)
//! markdown.rs    the report for an issue or a notebook
//! plain.rs       the report on a terminal
//! ```
//!
//! A report needs the run folder alone, so runs of long ago can be reported, and nothing is computed that the run did
//! not. The page makes no request and needs no script; its content security policy allows its own style and script by
//! their hashes, pictures within the page if it has any, and nothing else.

mod bounds;
mod build;
mod cautions;
mod folder;
mod html;
mod markdown;
mod model;
mod originals;
mod parts;
mod plain;
mod plot;
mod sentences;
mod shading;
mod stored;
mod terms;
mod text;
mod texts;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use console::Term;

use crate::terminal;

/// What a report is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ReportFormat {
    /// One self-contained page
    #[default]
    Html,
    /// For an issue or a notebook
    Markdown,
    /// For a terminal, with shaded words where it has colours
    Text,
}

/// The report of a run folder; a text for a file, without colours.
///
/// # Errors
/// If it is none, or its job is not finished.
pub(crate) fn of_run_folder(folder: &Path, format: ReportFormat) -> anyhow::Result<String> {
    let report = build::of_run_folder(folder)?;
    match format {
        ReportFormat::Html => html::page(&report),
        ReportFormat::Markdown => Ok(markdown::text(&report)),
        ReportFormat::Text => Ok(plain::text(&report, plain::WIDTH, false)),
    }
}

/// Prints the report of a run folder as text: as wide as the terminal, with colours if it has them and `NO_COLOR` is not
/// set.
///
/// # Errors
/// If it is no finished run folder, or stdout cannot be written.
pub(crate) fn print(folder: &Path) -> anyhow::Result<()> {
    let width = match terminal::stdout_is_terminal() {
        true => usize::from(Term::stdout().size().1),
        false => plain::WIDTH,
    };
    let is_coloured = console::colors_enabled() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = plain::text(&build::of_run_folder(folder)?, width, is_coloured);
    terminal::print_prepared(text.as_bytes(), "the report")
}

/// Where the report of a run folder is written unless another place is given.
pub(crate) fn default_file(folder: &Path, format: ReportFormat) -> PathBuf {
    folder.join(match format {
        ReportFormat::Html => "report.html",
        ReportFormat::Markdown => "report.md",
        ReportFormat::Text => "report.txt",
    })
}

/// Writes a file whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let writing = || format!("{}: cannot be written", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = folder.join(format!(".ascribe-tmp-report-{}", std::process::id()));
    let all = || -> std::io::Result<()> {
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&temporary, file)
    };
    all().inspect_err(|_| _ = std::fs::remove_file(&temporary)).with_context(writing)
}
