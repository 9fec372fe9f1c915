//! Lines of a stream: bounded, checked text with line numbers.

use std::io::{BufRead, Read};
use std::path::Path;

use super::error::DataError;
use super::line_problem::LineProblem;

/// Lines of a chunk are parsed and tokenized in parallel.
const CHUNK_LINES: usize = 2048;

/// How much of a file is taken at once. A file without line breaks must not fill the memory, and neither may the
/// texts that all threads tokenize at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The most bytes of a line.
    pub(super) line: usize,
    /// The most bytes of a text that is tokenized at once, and of the lines of a chunk unless it is a single one.
    pub(super) text: usize,
}

impl Bounds {
    /// The bounds of a job whose memory budget is this many bytes. Parsed JSON takes up to 32 times the bytes of its line. Tokenizing takes
    /// up to 200 times the bytes of its texts (measured with byte-level BPE: 90 for prose in one line, 195 for one
    /// word of 5 MB).
    pub(super) fn of(memory: Option<u64>) -> Self {
        let share = |part: u64, least: usize, most: usize| match memory {
            None => most,
            Some(bytes) => usize::try_from(bytes / part).unwrap_or(most).clamp(least, most),
        };
        Self { line: share(32, 512 << 10, 64 << 20), text: share(256, 64 << 10, 8 << 20) }
    }
}

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
    bounds: Bounds,
    /// A line that was read and did not fit into its chunk.
    pending: Option<Line>,
}

impl<'a, R: BufRead> Lines<'a, R> {
    pub(super) fn new(reader: R, file: &'a Path, bounds: Bounds) -> Self {
        Self { reader, file, number: 0, bounds, pending: None }
    }

    /// The next lines; empty at the end. Together with the lines before a broken one comes the error, so
    /// that the first problem of a file is the one that is reported.
    pub(super) fn chunk(&mut self) -> (Vec<Line>, Result<(), DataError>) {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < CHUNK_LINES {
            let next = match self.pending.take() {
                Some(line) => Ok(Some(line)),
                None => self.next_line(),
            };
            match next {
                Ok(Some(line)) => {
                    bytes += line.text.len();
                    if bytes > self.bounds.text && !lines.is_empty() {
                        self.pending = Some(line);
                        break;
                    }
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
                .take(self.bounds.line as u64 + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(|source| DataError::Read { file: self.file.to_owned(), source })?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let fail = |problem| DataError::Line { file: self.file.to_owned(), line: self.number, problem };
            if bytes.len() > self.bounds.line {
                return Err(fail(LineProblem::TooLong { limit: self.bounds.line }));
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
        let mut lines = Lines::new("\u{FEFF}a\r\n\n  \nb".as_bytes(), Path::new("x.txt"), Bounds::of(None));
        let (found, end) = lines.chunk();
        assert!(end.is_ok());
        assert_eq!(found.iter().map(|l| (l.number, l.text.as_str())).collect::<Vec<_>>(), [(1, "a"), (4, "b")]);
        assert!(lines.chunk().0.is_empty());
    }

    #[test]
    fn long_lines_and_wrong_bytes_are_named() {
        let bounds = Bounds { line: 1 << 20, text: 1 << 20 };
        let mut lines = Lines::new(&b"ok\nab\xffc\n"[..], Path::new("x.txt"), bounds);
        let (found, end) = lines.chunk();
        assert_eq!(found.len(), 1);
        assert_eq!(end.expect_err("0xff is never UTF-8").to_string(), "x.txt:2: invalid UTF-8 at byte 3 of the line");
        let long = vec![b'a'; (1 << 20) + 1];
        let mut lines = Lines::new(&long[..], Path::new("x.txt"), bounds);
        assert_eq!(lines.chunk().1.expect_err("too long").to_string(), "x.txt:1: the line is longer than 1 MiB");
    }

    #[test]
    fn a_chunk_has_no_more_bytes_than_its_bound_unless_one_line_has() {
        let bounds = Bounds { line: 100, text: 6 };
        let mut lines = Lines::new(&b"aaa\nbbb\ncc\nddddddd\ne"[..], Path::new("x.txt"), bounds);
        let mut chunks = Vec::new();
        loop {
            let (chunk, end) = lines.chunk();
            end.expect("sound");
            if chunk.is_empty() {
                break;
            }
            chunks.push(chunk.iter().map(|line| (line.number, line.text.len())).collect::<Vec<_>>());
        }
        assert_eq!(chunks, [vec![(1, 3), (2, 3)], vec![(3, 2)], vec![(4, 7)], vec![(5, 1)]]);
    }

    #[test]
    fn bounds_follow_the_memory() {
        let of = |memory| Bounds::of(memory);
        assert_eq!(of(None), Bounds { line: 64 << 20, text: 8 << 20 });
        assert_eq!(of(Some(u64::MAX)), of(None));
        assert_eq!(of(Some(1 << 30)), Bounds { line: 32 << 20, text: 4 << 20 });
        assert_eq!(of(Some(1)), Bounds { line: 512 << 10, text: 64 << 10 });
    }
}
