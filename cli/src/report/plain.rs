//! The report on a terminal: paragraphs as wide as it is, words shaded where it has colours. Whatever a colour says stands
//! beside it in numbers.

use console::{Style, measure_text_width};

use super::model::{Card, PartGrid, PartTable, QueryView, Report, Side};
use super::shading::{LossText, Piece};
use super::text::one_line;
use crate::words;

/// Columns where nothing says how many there are, and at least.
pub(crate) const WIDTH: usize = 100;
const NARROWEST: usize = 40;

/// Characters of an example's text that is not shaded.
const TEXT: usize = 400;

/// The report as lines of at most so many columns, with colours or without.
pub(super) fn text(report: &Report, width: usize, is_coloured: bool) -> String {
    let mut out = Lines { width: width.max(NARROWEST), is_coloured, text: String::new() };
    out.paragraph(0, &[("Which training examples moved the model?", "bold")]);
    out.paragraph(0, &[(&report.meaning, "")]);
    out.paragraph(0, &[(&report.sign, "quiet")]);
    out.heading("What was asked");
    for fact in &report.asked {
        out.paragraph(2, &[(fact.name, "quiet"), (": ", "quiet"), (&fact.value, "")]);
    }
    out.heading("What to distrust in this run");
    for caution in &report.cautions {
        out.paragraph(2, &[("- ", ""), (&caution.found, "bold"), (" ", ""), (&caution.follows, "")]);
    }
    for query in &report.queries {
        of_query(&mut out, query);
    }
    if !report.leaders.is_empty() {
        out.heading("Examples listed for several queries");
        for leader in &report.leaders {
            let counts = format!(": helped {}, hurt {}. ", leader.helped.len(), leader.hurt.len());
            out.paragraph(2, &[(&leader.id, "bold"), (&counts, ""), (&leader.line, "quiet")]);
        }
    }
    if !report.segments.is_empty() {
        out.heading("Segments of training");
        for segment in &report.segments {
            let says = format!(
                ": {}, {}; forgotten {}",
                words::counted(segment.steps, "steps"),
                segment.checkpoints,
                segment.forgotten_text()
            );
            out.paragraph(2, &[(&segment.name, "bold"), (&says, "")]);
        }
    }
    if !report.agreements.is_empty() {
        out.heading("Other settings of the same run, and how many of the helping examples each lists too");
        for other in &report.agreements {
            out.paragraph(2, &[(&other.answer, "bold"), (": ", ""), (&other.shared_text(), "")]);
        }
    }
    if !report.computed.is_empty() {
        out.heading("How it was computed");
        for line in &report.computed {
            out.paragraph(2, &[("- ", ""), (line, "")]);
        }
    }
    out.heading("Words");
    for term in &report.terms {
        out.paragraph(2, &[(&term.name, "bold"), (": ", ""), (&term.says, "")]);
    }
    if !report.left_out.is_empty() {
        out.text.push('\n');
    }
    for line in &report.left_out {
        out.paragraph(0, &[(line, "quiet")]);
    }
    out.text
}

fn of_query(out: &mut Lines, query: &QueryView) {
    out.heading(&format!("Query {}: {}", query.number, query.id));
    match &query.losses {
        Some(of) => asked(out, of),
        None if query.text.prompt.is_empty() => out.paragraph(2, &[(&query.text.body, "")]),
        None => out.paragraph(2, &[(&query.text.prompt, "quiet"), (&query.text.body, "bold")]),
    }
    out.paragraph(2, &[(&query.sentence, "")]);
    for kept in &query.kept {
        out.paragraph(2, &[(kept, ""), (".", "")]);
    }
    if let Some(before) = &query.before {
        out.paragraph(2, &[(before, "")]);
    }
    if let Some(sure) = &query.sure {
        out.paragraph(2, &[(sure, "")]);
    }
    for side in query.sides() {
        of_side(out, &side);
    }
    if let Some(groups) = &query.groups {
        out.paragraph(2, &[("Sums by ", "bold"), (&groups.field, "bold")]);
        for row in &groups.rows {
            let says = format!(" {}, {}", row.name, words::counted(row.examples as u64, "examples"));
            out.paragraph(4, &[(&row.score_text(), "bold"), (&says, "")]);
        }
    }
    query.grids.iter().filter(|grid| grid.is_first).for_each(|grid| of_grid(out, grid));
    query.parts.iter().for_each(|parts| of_parts(out, parts));
}

/// The text of a query, its targets shaded by their losses.
fn asked(out: &mut Lines, of: &LossText) {
    let mut runs = vec![(of.given.as_str(), if of.is_prompted { "quiet" } else { "" })];
    runs.extend(of.pieces.iter().map(run_of));
    out.paragraph(2, &runs);
    let hardest = if of.hardest.is_empty() { "none; each by itself has a probability above 75 %" } else { &of.hardest };
    out.paragraph(2, &[("Hardest words: ", "quiet"), (hardest, "")]);
}

fn run_of(piece: &Piece) -> (&str, &str) {
    (&piece.text, &piece.class)
}

fn of_side(out: &mut Lines, side: &Side<'_>) {
    let (mark, what) = match side.helps {
        true => ("▲", "pushed the model towards this"),
        false => ("▼", "pushed the model away from this"),
    };
    out.text.push('\n');
    let class = if side.helps { "help" } else { "hurt" };
    out.paragraph(2, &[(mark, class), (" ", ""), (side.name, "bold"), (" ", ""), (what, "quiet")]);
    if side.cards.is_empty() {
        out.paragraph(4, &[("None.", "")]);
    }
    for card in side.cards {
        of_card(out, card, class);
    }
}

fn of_card(out: &mut Lines, card: &Card, class: &str) {
    let mut head = vec![
        (format!("{:>2} ", card.rank), "quiet"),
        (card.score_text(), class),
        (" ".to_owned(), ""),
        (card.id.clone(), "bold"),
    ];
    if let Some((between, _)) = &card.interval {
        head.push((format!(" between {between}"), ""));
    }
    if let Some(amount) = &card.amount {
        head.push((format!(" calibrated {amount}"), ""));
    }
    let head: Vec<(&str, &str)> = head.iter().map(|(text, class)| (text.as_str(), *class)).collect();
    out.paragraph(4, &head);
    match &card.tokens {
        Some(shaded) => out.paragraph(7, &shaded.pieces.iter().map(run_of).collect::<Vec<_>>()),
        None => out.paragraph(7, &[(&card.text.line(TEXT), "")]),
    }
    let mut named = |name: &str, what: &str| out.paragraph(7, &[(name, "quiet"), (": ", "quiet"), (what, "")]);
    if let Some(shaded) = &card.tokens {
        named("words that add most", &shaded.strongest);
    }
    if let Some(moved) = &card.moved {
        named("words of the query that it moved", &moved.strongest);
    }
    if !card.token_pairs.is_empty() {
        named("strongest pairs", &card.token_pairs);
    }
    let mut further: Vec<String> = card.fields.iter().map(|(field, value)| format!("{field}: {value}")).collect();
    further.extend(card.relatif.iter().map(|divided| format!("listed by (RelatIF): {divided}")));
    further.extend(card.self_influence.iter().map(|own| format!("own score: {own}")));
    if !card.copies.is_empty() {
        further.push(format!("{}: {}", card.copies.are, card.copies.text()));
    }
    if !further.is_empty() {
        out.paragraph(7, &[(&one_line(&further.join("; "), 2 * TEXT), "quiet")]);
    }
}

fn of_grid(out: &mut Lines, grid: &PartGrid) {
    let title = format!("Layers: where {} has its {} from", grid.id, grid.score_text());
    out.paragraph(2, &[(&title, "bold")]);
    for row in &grid.rows {
        let cells = grid.columns.iter().zip(&row.cells);
        let cells = cells.filter_map(|(column, cell)| Some(format!("{column} {}", cell.as_ref()?.0)));
        let cells = format!("{}; sum {}", cells.collect::<Vec<_>>().join(", "), row.sum);
        out.paragraph(4, &[(&row.name, "quiet"), (": ", "quiet"), (&cells, "")]);
    }
}

fn of_parts(out: &mut Lines, parts: &PartTable) {
    out.paragraph(2, &[(parts.title, "bold"), (": where the scores come from. ", "bold"), (parts.says, "quiet")]);
    for row in &parts.rows {
        let cells = parts.columns.iter().zip(&row.parts);
        let cells = cells.map(|(column, part)| format!("{column} {}", words::score(*part)));
        let cells = format!(" {}: {}", row.score_text(), cells.collect::<Vec<_>>().join(", "));
        out.paragraph(4, &[(&row.id, "bold"), (&cells, "")]);
    }
}

/// Lines that are written one paragraph after the other.
struct Lines {
    width: usize,
    is_coloured: bool,
    text: String,
}

impl Lines {
    fn heading(&mut self, text: &str) {
        self.text.push('\n');
        self.paragraph(0, &[(text, "bold")]);
    }

    /// Texts one behind the other, each with its shade, indented by so many columns.
    fn paragraph(&mut self, indent: usize, runs: &[(&str, &str)]) {
        for line in wrapped(runs, self.width - indent) {
            self.text.push_str(&" ".repeat(indent));
            for (text, class) in line {
                match style(class) {
                    Some(style) if self.is_coloured => {
                        self.text.push_str(&style.force_styling(true).apply_to(text).to_string());
                    }
                    _ => self.text.push_str(&text),
                }
            }
            self.text.push('\n');
        }
    }
}

/// What a shade is on a terminal; strong ones are underlined too.
fn style(class: &str) -> Option<Style> {
    let on = |colour: u8| Style::new().color256(16).on_color256(colour);
    Some(match class {
        "bold" => Style::new().bold(),
        "quiet" => Style::new().dim(),
        "help" => Style::new().blue().bold(),
        "hurt" => Style::new().red().bold(),
        "p1" => on(195),
        "p2" => on(153),
        "p3" => on(117).underlined(),
        "p4" => on(75).underlined(),
        "n1" => on(230),
        "n2" => on(223),
        "n3" => on(216).underlined(),
        "n4" => on(209).underlined(),
        "l1" => on(189),
        "l2" => on(183),
        "l3" => on(141).underlined(),
        "l4" => on(135).underlined(),
        _ => return None,
    })
}

/// Breaks texts into lines of at most so many columns, at spaces where there are any, and joins what has one shade.
fn wrapped<'a>(runs: &[(&str, &'a str)], width: usize) -> Vec<Vec<(String, &'a str)>> {
    let mut lines = vec![];
    let mut line: Vec<(char, &'a str)> = vec![];
    let mut word: Vec<(char, &'a str)> = vec![];
    let (mut used, mut wide) = (0, 0);
    let columns = |c: char| measure_text_width(c.encode_utf8(&mut [0; 4]));
    let characters = runs.iter().flat_map(|(text, class)| text.chars().map(move |c| (c, *class)));
    for (c, class) in characters.chain([('\n', "")]) {
        if !c.is_whitespace() {
            // a word that is wider than a line is cut
            if wide + columns(c) > width {
                if used > 0 {
                    lines.push(std::mem::take(&mut line));
                    used = 0;
                }
                lines.push(std::mem::take(&mut word));
                wide = 0;
            }
            word.push((c, class));
            wide += columns(c);
            continue;
        }
        if used + wide > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        line.append(&mut word);
        used += wide;
        wide = 0;
        if c == '\n' {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if used > 0 && used < width {
            line.push((' ', class));
            used += 1;
        }
    }
    lines.iter().map(|line| joined(line)).collect()
}

/// The characters of a line without the spaces at its end, neighbours of one shade joined.
fn joined<'a>(line: &[(char, &'a str)]) -> Vec<(String, &'a str)> {
    let end = line.iter().rposition(|(c, _)| *c != ' ').map_or(0, |last| last + 1);
    let of_shade = line[..end].chunk_by(|(_, a), (_, b)| a == b);
    of_shade.map(|part| (part.iter().map(|(c, _)| *c).collect(), part[0].1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(runs: &[(&str, &str)], width: usize) -> Vec<String> {
        let lines = wrapped(runs, width).into_iter();
        lines.map(|line| line.into_iter().map(|(text, _)| text).collect::<String>()).collect()
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_are_cut() {
        assert_eq!(plain(&[("a golden ring", "")], 8), ["a golden", "ring"]);
        assert_eq!(plain(&[("a gol", ""), ("den", "p4"), (" ring", "")], 8), ["a golden", "ring"]);
        assert_eq!(plain(&[("abcdefghij k", "")], 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(plain(&[("x abcdefgh", "")], 4), ["x", "abcd", "efgh"]);
        assert_eq!(plain(&[("one\n\ntwo", "")], 9), ["one", "", "two"]);
        // wide characters take two columns
        assert_eq!(plain(&[("猫猫 猫", "")], 4), ["猫猫", "猫"]);
    }

    #[test]
    fn shades_are_colours_where_there_are_any() {
        let write = |is_coloured| {
            let mut out = Lines { width: 40, is_coloured, text: String::new() };
            out.paragraph(2, &[("The ", ""), ("ring", "p4"), (" of", "")]);
            out.text
        };
        assert_eq!(write(false), "  The ring of\n");
        let coloured = write(true);
        assert!(coloured.contains("\u{1b}[38;5;16m\u{1b}[48;5;75m\u{1b}[4mring\u{1b}[0m"), "{coloured:?}");
    }
}
