//! A row of a file, what gives the rows of a file, and how much of a file is taken at once.

use serde_json::{Map, Value};

use crate::data::error::DataError;
use crate::data::line_problem::LineProblem;
use crate::data::value::BYTES;

/// The name of the field that a line of plain text is.
const TEXT: &str = "text";

/// How much of a file is taken at once. A file without line breaks must not fill the memory, and neither may the
/// texts that all threads tokenize at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Bounds {
    /// The most bytes of a row.
    pub(in crate::data) row: usize,
    /// The most bytes of a text that is tokenized at once, and of the rows of a chunk unless it is a single one.
    pub(in crate::data) text: usize,
    /// The most bytes that a page, or a batch of rows, of a table unpacks to.
    pub(in crate::data) page: usize,
    /// Whether bytes of a table that are no text are kept, in base64. Otherwise only their number is, as `{"bytes": N}`.
    pub(in crate::data) keeps_bytes: bool,
}

impl Bounds {
    /// The bounds of a job whose memory budget is this many bytes. Parsed JSON takes up to 32 times the bytes of its
    /// line. Tokenizing takes up to 200 times the bytes of its texts (measured with byte-level BPE: 90 for prose in one
    /// line, 195 for one word of 5 MB).
    pub(in crate::data) fn of(memory: Option<u64>) -> Self {
        let share = |part: u64, least: usize, most: usize| match memory {
            None => most,
            Some(bytes) => usize::try_from(bytes / part).unwrap_or(most).clamp(least, most),
        };
        Self {
            row: share(32, 512 << 10, 64 << 20),
            text: share(256, 64 << 10, 8 << 20),
            // writers cut pages at 1 MiB; some have one page for a group of rows
            page: share(8, 16 << 20, 1 << 30),
            keeps_bytes: false,
        }
    }

    /// These bounds, with bytes of a table that are no text kept in base64.
    pub(in crate::data) fn with_bytes(self) -> Self {
        Self { keeps_bytes: true, ..self }
    }

    /// Bytes of a table as JSON.
    pub(super) fn bytes(&self, data: &[u8]) -> Value {
        match std::str::from_utf8(data) {
            _ if self.keeps_bytes => Value::String(base64::encode(data)),
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => Value::Object(Map::from_iter([(BYTES.to_owned(), Value::from(data.len()))])),
        }
    }
}

/// A row of a file.
#[derive(Debug)]
pub(in crate::data) struct Row {
    /// The number of its line, or its own, counted from 1.
    pub(in crate::data) number: usize,
    pub(super) content: Content,
    /// Bytes that it has in the file, or about as many as it would have as JSON.
    pub(super) bytes: usize,
}

/// A row as its reader found it. JSON is parsed later, in parallel.
#[derive(Debug)]
pub(super) enum Content {
    /// A text alone.
    Text(String),
    /// JSON that should be an object.
    Json(String),
    /// An object, and about as many bytes as it would have as JSON.
    Fields(Map<String, Value>, usize),
}

impl Row {
    pub(super) fn new(number: usize, content: Content) -> Self {
        let bytes = match &content {
            Content::Text(text) | Content::Json(text) => text.len(),
            Content::Fields(_, bytes) => *bytes,
        };
        Self { number, content, bytes }
    }

    /// The fields of the row with their values.
    pub(in crate::data) fn fields(self) -> Result<Map<String, Value>, LineProblem> {
        match self.content {
            Content::Text(text) => Ok(Map::from_iter([(TEXT.to_owned(), Value::String(text))])),
            Content::Fields(fields, _) => Ok(fields),
            Content::Json(text) => match serde_json::from_str(&text).map_err(|error| broken(&error))? {
                Value::Object(fields) => Ok(fields),
                other => Err(LineProblem::NotObject { found: crate::data::value::kind(&other) }),
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

/// A number of 32 bits with no more digits than it needs; null if it is none.
pub(super) fn shortest(value: f32) -> Value {
    // the shortest text of an f32 has fewer digits than that of the f64 with the same value
    value.to_string().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
}

/// The rows of one file, one after the other.
pub(super) trait RowReader {
    /// What is wrong with a row, at its place.
    fn fail(&self, number: usize, problem: LineProblem) -> DataError;

    /// The next row; none at the end.
    fn next_row(&mut self) -> Result<Option<Row>, DataError>;
}
