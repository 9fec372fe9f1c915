//! Lines of a stream: bounded, checked text with line numbers.

use std::io::{BufRead, Read};
use std::path::Path;

use super::error::DataError;
use super::line_problem::LineProblem;

/// The most bytes one line may have. A file without line breaks must not fill the memory.
pub(super) const LINE_LIMIT: usize = 64 << 20;

/// Lines of a chunk are parsed and tokenized in parallel.
const CHUNK_LINES: usize = 2048;
const CHUNK_BYTES: usize = 8 << 20;

/// A line with its number, counted from 1, without its end.
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) text: String,
}

/// Reads the lines that are not blank, a chunk at a time.
pub(super) struct Lines<'a, R> {
    reader: R,
    file: &'a Path,
    number: usize,
    limit: usize,
}

impl<'a, R: BufRead> Lines<'a, R> {
    pub(super) fn new(reader: R, file: &'a Path) -> Self {
        Self { reader, file, number: 0, limit: LINE_LIMIT }
    }

    /// The next lines; empty at the end. Together with the lines before a broken one comes the error, so
    /// that the first problem of a file is the one that is reported.
    pub(super) fn chunk(&mut self) -> (Vec<Line>, Result<(), DataError>) {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < CHUNK_LINES && bytes < CHUNK_BYTES {
            match self.next_line() {
                Ok(Some(line)) => {
                    bytes += line.text.len();
                    lines.push(line);
                }
                Ok(None) => break,
                Err(error) => return (lines, Err(error)),
            }
        }
        (lines, Ok(()))
    }

    fn next_line(&mut self) -> Result<Option<Line>, DataError> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.reader)
                .take(self.limit as u64 + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(|source| DataError::Read { file: self.file.to_owned(), source })?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let fail = |problem| DataError::Line { file: self.file.to_owned(), line: self.number, problem };
            if bytes.len() > self.limit {
                return Err(fail(LineProblem::TooLong { limit: self.limit }));
            }
            let mut text = String::from_utf8(bytes)
                .map_err(|error| fail(LineProblem::Utf8 { byte: error.utf8_error().valid_up_to() + 1 }))?;
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
            // Some editors of Windows mark UTF-8 with U+FEFF, which is no text of the first example.
            if self.number == 1 && text.starts_with('\u{FEFF}') {
                text.remove(0);
            }
            if !text.trim().is_empty() {
                return Ok(Some(Line { number: self.number, text }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_counted_and_skipped() {
        let mut lines = Lines::new("\u{FEFF}a\r\n\n  \nb".as_bytes(), Path::new("x.txt"));
        let (found, end) = lines.chunk();
        assert!(end.is_ok());
        assert_eq!(found.iter().map(|l| (l.number, l.text.as_str())).collect::<Vec<_>>(), [(1, "a"), (4, "b")]);
        assert!(lines.chunk().0.is_empty());
    }

    #[test]
    fn long_lines_and_wrong_bytes_are_named() {
        let mut lines = Lines { limit: 1 << 20, ..Lines::new(&b"ok\nab\xffc\n"[..], Path::new("x.txt")) };
        let (found, end) = lines.chunk();
        assert_eq!(found.len(), 1);
        assert_eq!(end.expect_err("0xff is never UTF-8").to_string(), "x.txt:2: invalid UTF-8 at byte 3 of the line");
        let long = vec![b'a'; (1 << 20) + 1];
        let mut lines = Lines { limit: 1 << 20, ..Lines::new(&long[..], Path::new("x.txt")) };
        assert_eq!(lines.chunk().1.expect_err("too long").to_string(), "x.txt:1: the line is longer than 1 MiB");
    }
}
