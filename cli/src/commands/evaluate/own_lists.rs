//! What each query's own list of top examples did to it, and the lists of other queries: shared by the commands that
//! remove them and that train on them.

use std::fmt::Write;
use std::path::PathBuf;

use ascribe::attribution::evaluate::{self, MeanChange, Orientation, QueryChange, Removals};
use clap::Args;

use super::figures::{FigureFormat, Resampling, amount, cells};
use crate::show::Columns;
use crate::words::counted;

/// Lists, outcomes, and how figures are printed.
#[derive(Debug, Args)]
pub(super) struct OwnLists {
    /// What was measured, in a safetensors file [default: that of the lists]
    #[arg(long, value_name = "FILE")]
    outcomes: Option<PathBuf>,
    /// The measurement: tensors `NAME` `[lists, seeds, queries]` and `full_NAME` `[seeds, queries]`
    #[arg(long, value_name = "NAME")]
    outcome: String,
    /// Whether higher values of the measurement are better [default: unless its name contains `loss`]
    #[arg(long, value_name = "BOOL")]
    higher_is_better: Option<bool>,
    #[command(flatten)]
    pub(super) resampling: Resampling,
    /// How figures are printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    pub(super) format: FigureFormat,
    /// End with exit code 1 if own minus others is below this
    #[arg(long, value_name = "FIGURE", help_heading = "Output")]
    pub(super) at_least: Option<f64>,
}

impl OwnLists {
    /// The lists of a file with their outcomes, and the query of each.
    pub(super) fn read(&self, lists: &PathBuf) -> anyhow::Result<(Removals, Vec<usize>)> {
        let orientation = self.higher_is_better.map(|higher| match higher {
            true => Orientation::HigherIsBetter,
            false => Orientation::LowerIsBetter,
        });
        let outcomes = self.outcomes.as_ref().unwrap_or(lists);
        let queries = evaluate::removal_queries(lists)?;
        Ok((Removals::read(lists, outcomes, &self.outcome, orientation, 0)?, queries))
    }
}

/// The three figures of a report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures<'a> {
    pub(super) own: MeanChange,
    pub(super) others: Option<MeanChange>,
    pub(super) difference: Option<MeanChange>,
    pub(super) per_query: &'a [QueryChange],
}

impl Figures<'_> {
    /// What the choice of lists was worth, or what they did where there is one.
    pub(super) fn chosen(&self) -> f64 {
        self.difference.unwrap_or(self.own).mean
    }

    fn named(&self) -> [(&'static str, Option<MeanChange>); 3] {
        [("own", Some(self.own)), ("others", self.others), ("own minus others", self.difference)]
    }

    /// Lines of CSV under a header whose first column is `what`.
    pub(super) fn rows(&self, what: &str) -> Vec<Vec<String>> {
        let header = [what, "mean", "low", "high"].map(str::to_owned).to_vec();
        let row = |(name, change): (&str, Option<MeanChange>)| {
            let cells = cells(change.map(|change| change.mean), change.and_then(|change| change.interval));
            [name.to_owned()].into_iter().chain(cells).collect()
        };
        std::iter::once(header).chain(self.named().into_iter().map(row)).collect()
    }

    /// A table under a title; `change` is what is positive (a rise, a fall), `positive` what that means, and `many` what
    /// is said of the queries that their own examples changed more.
    pub(super) fn table(&self, title: &str, change: &str, [positive, many]: [&str; 2]) -> String {
        let mut text = format!("{title}\n\n");
        let mut columns = Columns::titled(["top examples of", change, "95 % interval"]);
        for (name, found) in self.named() {
            let Some(found) = found else { continue };
            let name = match name {
                "own" => "the query itself",
                "others" => "other queries",
                name => name,
            };
            let interval = found.interval.map(|range| format!("{} to {}", amount(range.low), amount(range.high)));
            columns.row([name.to_owned(), amount(found.mean), interval.unwrap_or_default()]);
        }
        text.push_str(&columns.text(""));
        let more = self.per_query.iter().filter(|of| of.others.is_none_or(|others| of.own > others)).count();
        let queries = counted(self.per_query.len() as u64, "queries");
        let _ = writeln!(text, "\nPositive: the query gets {positive}. {more} of {queries} {many}.");
        text
    }
}

/// The examples of a list, from the fewest to the most.
pub(super) fn size((low, high): (usize, usize)) -> String {
    if low == high { low.to_string() } else { format!("{low} to {high}") }
}
