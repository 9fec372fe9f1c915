//! Lines of a stream: bounded, checked text with line numbers.

use std::io::{BufRead, Read};
use std::path::Path;

use super::row::{Bounds, Content, Row, RowReader};
use crate::data::error::DataError;
use crate::data::line_problem::LineProblem;

/// The lines that are not blank, each with its number, counted from 1, and without its end.
pub(super) struct Lines<'a, R> {
    reader: R,
    file: &'a Path,
    number: usize,
    bounds: Bounds,
    content: fn(String) -> Content,
}

impl<'a, R: BufRead> Lines<'a, R> {
    /// The lines of a stream, each as such a content.
    pub(super) fn new(reader: R, file: &'a Path, bounds: Bounds, content: fn(String) -> Content) -> Self {
        Self { reader, file, number: 0, bounds, content }
    }
}

impl<R: BufRead> RowReader for Lines<'_, R> {
    fn fail(&self, line: usize, problem: LineProblem) -> DataError {
        DataError::Line { file: self.file.to_owned(), line, problem }
    }

    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.reader)
                .take(self.bounds.row as u64 + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(|source| DataError::Read { file: self.file.to_owned(), source })?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let fail = |problem| self.fail(self.number, problem);
            if bytes.len() > self.bounds.row {
                return Err(fail(LineProblem::TooLong { limit: self.bounds.row }));
            }
            let mut text = String::from_utf8(bytes)
                .map_err(|error| fail(LineProblem::Utf8 { byte: error.utf8_error().valid_up_to() + 1 }))?;
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
            // Some editors of Windows mark UTF-8 with U+FEFF, which is no text of the first example.
            if self.number == 1 && text.starts_with('\u{FEFF}') {
                text.remove(0);
            }
            if !text.trim().is_empty() {
                return Ok(Some(Row::new(self.number, (self.content)(text))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Rows};
    use super::*;
    use crate::data::columns::Columns;

    fn texts(rows: Vec<Row>) -> Vec<(usize, String)> {
        let text = |row: Row| match row.content {
            Content::Text(text) => (row.number, text),
            other => panic!("{other:?}"),
        };
        rows.into_iter().map(text).collect()
    }

    #[test]
    fn blank_lines_are_counted_and_skipped() {
        let text = "\u{FEFF}a\r\n\n  \nb".as_bytes();
        let columns = Columns::default();
        let mut rows = Rows::of(text, Path::new("x.txt"), Format::Text, &columns, Bounds::of(None)).expect("a stream");
        let (found, end) = rows.chunk();
        assert!(end.is_ok());
        assert_eq!(texts(found), [(1, "a".to_owned()), (4, "b".to_owned())]);
        assert!(rows.chunk().0.is_empty());
    }

    #[test]
    fn long_lines_and_wrong_bytes_are_named() {
        let bounds = Bounds { row: 1 << 20, text: 1 << 20, page: 1 << 20, keeps_bytes: false };
        let columns = Columns::default();
        let mut rows =
            Rows::of(&b"ok\nab\xffc\n"[..], Path::new("x.txt"), Format::Text, &columns, bounds).expect("a stream");
        let (found, end) = rows.chunk();
        assert_eq!(found.len(), 1);
        assert_eq!(end.expect_err("0xff is never UTF-8").to_string(), "x.txt:2: invalid UTF-8 at byte 3 of the line");
        let long = vec![b'a'; (1 << 20) + 1];
        let columns = Columns::default();
        let mut rows = Rows::of(&long[..], Path::new("x.txt"), Format::Text, &columns, bounds).expect("a stream");
        assert_eq!(rows.chunk().1.expect_err("too long").to_string(), "x.txt:1: the line is longer than 1 MiB");
    }
}
