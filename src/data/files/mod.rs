//! Files of rows, whatever their form: each reader gives the rows of one file in their order, and what a row means as an
//! example is not asked here.
//!
//! A row is a JSON object: the line of a file of JSON lines, an element of a JSON array. A line of plain text is an object
//! with the field `text` alone. Files are streamed: no more than a chunk of rows is in memory at a time, and no row is
//! longer than [`Bounds`] allows, so that a file of any size, and a small one that unpacks to any size, is read within
//! the memory of the job.

mod form;
mod json_array;
mod lines;

use std::io::BufRead;
use std::path::Path;

use serde_json::{Map, Value};

pub use form::Format;

use super::error::DataError;
use super::line_problem::LineProblem;

/// The most rows of a chunk, which are parsed and tokenized in parallel.
const CHUNK_ROWS: usize = 2048;

/// The name of the field that a line of plain text is.
const TEXT: &str = "text";

/// How much of a file is taken at once. A file without line breaks must not fill the memory, and neither may the
/// texts that all threads tokenize at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The most bytes of a row.
    pub(super) row: usize,
    /// The most bytes of a text that is tokenized at once, and of the rows of a chunk unless it is a single one.
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
        Self { row: share(32, 512 << 10, 64 << 20), text: share(256, 64 << 10, 8 << 20) }
    }
}

/// A row of a file.
#[derive(Debug)]
pub(super) struct Row {
    /// The number of its line, or its own, counted from 1.
    pub(super) number: usize,
    content: Content,
    /// Bytes that it has in the file, or about as many as it would have as JSON.
    bytes: usize,
}

/// A row as its reader found it. JSON is parsed later, in parallel.
#[derive(Debug)]
enum Content {
    /// A text alone.
    Text(String),
    /// JSON that should be an object.
    Json(String),
}

impl Row {
    fn new(number: usize, content: Content) -> Self {
        let bytes = match &content {
            Content::Text(text) | Content::Json(text) => text.len(),
        };
        Self { number, content, bytes }
    }

    /// The fields of the row with their values.
    pub(super) fn fields(self) -> Result<Map<String, Value>, LineProblem> {
        match self.content {
            Content::Text(text) => Ok(Map::from_iter([(TEXT.to_owned(), Value::String(text))])),
            Content::Json(text) => match serde_json::from_str(&text).map_err(|error| broken(&error))? {
                Value::Object(fields) => Ok(fields),
                other => Err(LineProblem::NotObject { found: super::fields::kind(&other) }),
            },
        }
    }
}

fn broken(error: &serde_json::Error) -> LineProblem {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
    LineProblem::Json { line: error.line(), column: error.column(), message }
}

/// The rows of one file, one after the other.
trait Source {
    /// What is wrong with a row, at its place.
    fn fail(&self, number: usize, problem: LineProblem) -> DataError;

    /// The next row; none at the end.
    fn next_row(&mut self) -> Result<Option<Row>, DataError>;
}

/// The rows of a file, a chunk at a time.
pub(super) struct Rows<'a> {
    source: Box<dyn Source + 'a>,
    bounds: Bounds,
    /// A row that was read and did not fit into its chunk.
    pending: Option<Row>,
}

impl<'a> Rows<'a> {
    /// The rows of a stream of this format; `file` is its name in messages.
    pub(super) fn of(reader: impl BufRead + 'a, file: &'a Path, format: Format, bounds: Bounds) -> Self {
        let source: Box<dyn Source> = match format {
            Format::JsonLines => Box::new(lines::Lines::new(reader, file, bounds, Content::Json)),
            Format::Text => Box::new(lines::Lines::new(reader, file, bounds, Content::Text)),
            Format::Json => json_array::array_or_lines(reader, file, bounds),
        };
        Self { source, bounds, pending: None }
    }

    /// What is wrong with a row, at its place.
    pub(super) fn fail(&self, number: usize, problem: LineProblem) -> DataError {
        self.source.fail(number, problem)
    }

    /// The next rows; empty at the end. Together with the rows before a broken one comes the error, so
    /// that the first problem of a file is the one that is reported.
    pub(super) fn chunk(&mut self) -> (Vec<Row>, Result<(), DataError>) {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < CHUNK_ROWS {
            let next = match self.pending.take() {
                Some(row) => Ok(Some(row)),
                None => self.source.next_row(),
            };
            match next {
                Ok(Some(row)) => {
                    bytes += row.bytes;
                    if bytes > self.bounds.text && !rows.is_empty() {
                        self.pending = Some(row);
                        break;
                    }
                    rows.push(row);
                }
                Ok(None) => break,
                Err(error) => return (rows, Err(error)),
            }
        }
        (rows, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_no_more_bytes_than_its_bound_unless_one_row_has() {
        let bounds = Bounds { row: 100, text: 6 };
        let text = &b"aaa\nbbb\ncc\nddddddd\ne"[..];
        let mut rows = Rows::of(text, Path::new("x.txt"), Format::Text, bounds);
        let mut chunks = Vec::new();
        loop {
            let (chunk, end) = rows.chunk();
            end.expect("sound");
            if chunk.is_empty() {
                break;
            }
            chunks.push(chunk.iter().map(|row| (row.number, row.bytes)).collect::<Vec<_>>());
        }
        assert_eq!(chunks, [vec![(1, 3), (2, 3)], vec![(3, 2)], vec![(4, 7)], vec![(5, 1)]]);
    }

    #[test]
    fn bounds_follow_the_memory() {
        let of = |memory| Bounds::of(memory);
        assert_eq!(of(None), Bounds { row: 64 << 20, text: 8 << 20 });
        assert_eq!(of(Some(u64::MAX)), of(None));
        assert_eq!(of(Some(1 << 30)), Bounds { row: 32 << 20, text: 4 << 20 });
        assert_eq!(of(Some(1)), Bounds { row: 512 << 10, text: 64 << 10 });
    }
}
