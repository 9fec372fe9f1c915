//! Text in aligned columns.

use console::measure_text_width;

use crate::terminal::inline;

/// How the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// Rows of cells; numbers are set to the right.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// No rows, but their titles.
    pub(crate) fn titled<const N: usize>(titles: [&str; N]) -> Self {
        Self { rows: vec![titles.map(str::to_owned).to_vec()] }
    }

    /// Adds a row. What would steer a terminal is escaped here.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| inline(&cell).into_owned()).collect());
    }

    /// The rows, each after `indent`, without blanks at the line's end.
    pub(crate) fn text(&self, indent: &str) -> String {
        let n = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |c: usize| self.rows.iter().filter_map(move |row| row.get(c));
        let width = |c: usize| cells(c).map(|cell| measure_text_width(cell)).max().unwrap_or(0);
        let is_number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c));
        let side = |c: usize| {
            let numbers =
                self.rows.iter().skip(1).filter_map(|row| row.get(c)).all(|cell| is_number(cell) || cell.is_empty());
            if numbers && self.rows.len() > 1 { Side::Right } else { Side::Left }
        };
        let form: Vec<_> = (0..n).map(|c| (width(c), side(c))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (c, cell) in row.iter().enumerate() {
                let (width, side) = form[c];
                let blanks = " ".repeat(width - measure_text_width(cell));
                if c > 0 {
                    line.push_str("  ");
                }
                match side {
                    Side::Left => line.extend([cell.as_str(), &blanks]),
                    Side::Right => line.extend([&blanks, cell.as_str()]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut columns = Columns::titled(["run", "score"]);
        columns.row(["ekfac".into(), "+0.5".into()]);
        columns.row(["größe".into(), "+10.25".into()]);
        assert_eq!(columns.text(" "), " run     score\n ekfac    +0.5\n größe  +10.25\n");
        columns.row(["a\n\u{1b}".into(), "+1".into()]);
        assert!(columns.text("").ends_with("\na\\n\\u{1b}      +1\n"), "{}", columns.text(""));
    }
}
