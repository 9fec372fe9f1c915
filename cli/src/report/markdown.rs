//! The report for an issue or a notebook.

use std::fmt::Write;

use super::model::{Report, Side};
use super::text::{ShownText, one_line};
use crate::words;

/// Characters of a text in a table.
const LINE: usize = 160;

/// The report as Markdown. Texts of the data are escaped, so that they are read as they are.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("# Which training examples moved the model: {}\n\n", plain(&report.run));
    let _ = writeln!(out, "{} {}\n", plain(&report.meaning), plain(&report.sign));
    for fact in &report.asked {
        let _ = writeln!(out, "- **{}**: {}", fact.name, plain(&fact.value));
    }
    out.push_str("\n## What to distrust in this run\n\n");
    for caution in &report.cautions {
        let _ = writeln!(out, "- {}", plain(format!("{} {}", caution.found, caution.follows).trim_end()));
    }
    if !report.computed.is_empty() {
        out.push_str("\n## How it was computed\n\n");
        for line in &report.computed {
            let _ = writeln!(out, "- {}", plain(line));
        }
    }
    for query in &report.queries {
        let _ = writeln!(out, "\n## {}. {}\n\n> {}\n", query.number, plain(&query.id), quoted(&query.text));
        let _ = writeln!(out, "{} now: {:.4}. {}", plain(&query.measured), query.value, plain(&query.sentence));
        for kept in &query.kept {
            let _ = writeln!(out, "\n{}.", plain(kept));
        }
        if let Some(before) = &query.before {
            let _ = writeln!(out, "\n{}", plain(before));
        }
        if let Some(sure) = &query.sure {
            let _ = writeln!(out, "\n{}", plain(sure));
        }
        if let Some(of) = query.losses.as_ref().filter(|of| !of.hardest.is_empty()) {
            let _ = writeln!(out, "\nHardest words: {}", plain(&of.hardest));
        }
        for side in query.sides() {
            table(&mut out, &side);
        }
        if let Some(groups) = &query.groups {
            let _ = writeln!(out, "\n| {} | examples | sum of scores |\n|---|---:|---:|", plain(&groups.field));
            for row in &groups.rows {
                let _ = writeln!(out, "| {} | {} | {} |", plain(&row.name), row.examples, row.score_text());
            }
        }
        for grid in &query.grids {
            let names = grid.columns.iter().map(|name| format!(" {} |", plain(name))).collect::<String>();
            let _ = writeln!(out, "\n| Layers of {} |{names} sum |", plain(&grid.id));
            let _ = writeln!(out, "|---|{}---:|", "---:|".repeat(grid.columns.len()));
            for row in &grid.rows {
                let cell =
                    |cell: &Option<(String, String)>| format!(" {} |", cell.as_ref().map_or("", |(number, _)| number));
                let _ = writeln!(
                    out,
                    "| {} |{} {} |",
                    plain(&row.name),
                    row.cells.iter().map(cell).collect::<String>(),
                    row.sum
                );
            }
            let sums = grid.sums.iter().map(|sum| format!(" {sum} |")).collect::<String>();
            let _ = writeln!(out, "| sum |{sums} {} |", grid.score_text());
        }
        for parts in &query.parts {
            let names = parts.columns.iter().map(|name| format!(" {} |", plain(name))).collect::<String>();
            let _ = writeln!(out, "\n| {} | whole |{names}", parts.title);
            let _ = writeln!(out, "|---|---:|{}", "---:|".repeat(parts.columns.len()));
            for row in &parts.rows {
                let cells = row.parts.iter().map(|part| format!(" {} |", words::score(*part))).collect::<String>();
                let _ = writeln!(out, "| {} | {} |{cells}", plain(&row.id), row.score_text());
            }
            let _ = writeln!(out, "\n_{}_", parts.says);
            if parts.left_out > 0 {
                let _ = writeln!(out, "\n_{} parts with smaller numbers are not shown._", parts.left_out);
            }
        }
    }
    if !report.leaders.is_empty() {
        out.push_str(
            "\n## Examples listed for several queries\n\n| example | helped | hurt | text |\n|---|---:|---:|---|\n",
        );
        for leader in &report.leaders {
            let (helped, hurt) = (leader.helped.len(), leader.hurt.len());
            let _ = writeln!(out, "| {} | {helped} | {hurt} | {} |", plain(&leader.id), plain(&leader.line));
        }
    }
    out.push_str("\n## Words\n\n");
    for term in &report.terms {
        let _ = writeln!(out, "- **{}**: {}", plain(&term.name), plain(&term.says));
    }
    for line in &report.left_out {
        let _ = writeln!(out, "\n_{}_", plain(line));
    }
    let _ = writeln!(out, "\nMade by ascribe {}.", plain(&report.version));
    out
}

fn table(out: &mut String, side: &Side<'_>) {
    if side.cards.is_empty() {
        let _ = writeln!(out, "\n**{}**: none", side.name);
        return;
    }
    let _ = writeln!(out, "\n| {} | score | example | text |\n|---:|---:|---|---|", side.name);
    for card in side.cards {
        let copies = match (card.copies.count, &card.copies.total) {
            (0, _) => String::new(),
            (n, None) => format!(" (and {n} with {})", card.copies.are),
            (n, Some(total)) => format!(" (and {n} with {}; {total})", card.copies.are),
        };
        let line = plain(&card.text.line(LINE));
        let line = match &card.tokens {
            Some(shaded) => format!("{line} (words that add most: {})", plain(&shaded.strongest)),
            None => line,
        };
        let line = match &card.moved {
            Some(shaded) => format!("{line} (moved: {})", plain(&shaded.strongest)),
            None => line,
        };
        let line = match card.token_pairs.as_str() {
            "" => line,
            both => format!("{line} (strongest pairs: {})", plain(both)),
        };
        let interval = card.interval.as_ref().map_or_else(String::new, |(words, _)| format!(" ({words})"));
        let (score, id) = (card.score_text(), plain(&card.id));
        let _ = writeln!(out, "| {} | {score}{interval} | {id}{copies} | {line} |", card.rank);
    }
}

/// Prompt and the rest, the rest in bold where both are there.
fn quoted(text: &ShownText) -> String {
    let (prompt, body) = (plain(&one_line(&text.prompt, 4 * LINE)), plain(&one_line(&text.body, 4 * LINE)));
    if prompt.is_empty() { body } else { format!("{prompt} **{body}**") }
}

/// A text in one line of Markdown in which nothing is markup.
fn plain(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '!' | '&' | '~' | '@' | '$' => {
                line.push('\\');
                line.push(c);
            }
            '\n' | '\t' => line.push(' '),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn nothing_of_the_data_is_markup() {
        assert_eq!(plain("<b>|x|\n![a](b)"), "\\<b\\>\\|x\\| \\!\\[a\\](b)");
    }
}
