//! Tables of text with a line of names: CSV and TSV, as pandas and spreadsheets write them.
//!
//! A cell is text, and what it means depends on its column. Columns of text are taken as they are, an empty cell as an
//! empty text. Columns of tokens and labels are JSON where they are sound JSON. In every other column an empty cell is
//! null, and a number, `True` or `False` is taken as such only if writing it again gives the same characters: a version
//! `1.10` or a code `007` stays text.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::row::{Bounds, Content, Row, RowReader};
use crate::data::columns::Columns;
use crate::data::error::DataError;
use crate::data::line_problem::LineProblem;

/// Put behind the stream, so that a quotation mark that is never closed is seen: it swallows this line.
const END: &[u8] = b"\n\xFF";

/// Columns that are JSON where they are sound JSON.
const JSON: [&str; 7] =
    ["input_ids", "labels", "label", "attention_mask", "token_type_ids", "messages", "conversations"];

/// Columns that are text whatever they hold.
const TEXTS: [&str; 5] = ["text", "text_pair", "prompt", "completion", "id"];

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cells {
    Text,
    Json,
    Other,
}

/// The rows of a table.
pub(super) struct Table<'a, R: Read> {
    reader: csv::Reader<Metered<io::Chain<R, &'static [u8]>>>,
    file: &'a Path,
    bounds: Bounds,
    /// Bytes that may be read until the next row is whole.
    allowance: Rc<Cell<usize>>,
    /// Name and kind of each column; empty before the first row is read.
    columns: Vec<(String, Cells)>,
    chosen: &'a Columns,
    number: usize,
    ended: bool,
}

impl<'a, R: BufRead> Table<'a, R> {
    pub(super) fn new(reader: R, file: &'a Path, separator: u8, chosen: &'a Columns, bounds: Bounds) -> Self {
        let allowance = Rc::new(Cell::new(0));
        let metered = Metered { reader: reader.chain(END), allowance: Rc::clone(&allowance) };
        let reader =
            csv::ReaderBuilder::new().delimiter(separator).has_headers(false).flexible(true).from_reader(metered);
        Self { reader, file, bounds, allowance, columns: vec![], chosen, number: 0, ended: false }
    }
}

impl<R: Read> Table<'_, R> {
    /// The next record; none at the end.
    fn record(&mut self) -> Result<Option<csv::ByteRecord>, DataError> {
        if self.ended {
            return Ok(None);
        }
        self.allowance.set(self.bounds.row);
        let mut record = csv::ByteRecord::new();
        let read = self.reader.read_byte_record(&mut record);
        let read = read.map_err(|error| {
            let message = error.to_string();
            match error.into_kind() {
                csv::ErrorKind::Io(source) if TooLong::is(&source) => {
                    self.fail(self.number.max(1), LineProblem::TooLong { limit: self.bounds.row })
                }
                csv::ErrorKind::Io(source) => DataError::Read { file: self.file.to_owned(), source },
                _ => DataError::Read { file: self.file.to_owned(), source: io::Error::other(message) },
            }
        })?;
        let end = record.len() == 1 && record.get(0) == Some(&END[1..]);
        if !read || end {
            self.ended = true;
            // a cell like the last line, and more behind it
            if end && self.reader.read_byte_record(&mut record).is_ok_and(|more| more) {
                let column = self.columns.first().map_or("text", |(name, _)| name.as_str()).to_owned();
                return Err(self.fail(self.number.max(1), LineProblem::Utf8Cell { column, byte: 1 }));
            }
            // without the last line, a quotation mark has swallowed it
            return if end { Ok(None) } else { Err(self.cut_short()) };
        }
        if record.iter().next_back().is_some_and(|cell| cell.ends_with(END)) {
            return Err(self.cut_short());
        }
        Ok(Some(record))
    }

    fn cut_short(&self) -> DataError {
        let rows = self.number.saturating_sub(1);
        DataError::CutShort { file: self.file.to_owned(), form: "quoted cell", rows }
    }

    fn text(&self, bytes: &[u8], column: &str) -> Result<String, DataError> {
        String::from_utf8(bytes.to_vec()).map_err(|error| {
            let problem =
                LineProblem::Utf8Cell { column: column.to_owned(), byte: error.utf8_error().valid_up_to() + 1 };
            self.fail(self.number, problem)
        })
    }

    fn read_names(&mut self) -> Result<(), DataError> {
        let Some(record) = self.record()? else { return Ok(()) };
        for (index, cell) in record.iter().enumerate() {
            let name = self.text(cell, &format!("name {}", index + 1))?;
            let name = name.strip_prefix('\u{FEFF}').unwrap_or(&name).to_owned();
            if self.columns.iter().any(|(known, _)| *known == name) {
                return Err(DataError::TwoColumns { file: self.file.to_owned(), name });
            }
            let is = |known: &[&str]| known.contains(&name.as_str());
            let cells = if self.chosen.is_text(&name) || is(&TEXTS) {
                Cells::Text
            } else if self.chosen.is_label(&name) || is(&JSON) {
                Cells::Json
            } else {
                Cells::Other
            };
            self.columns.push((name, cells));
        }
        Ok(())
    }
}

impl<R: Read> RowReader for Table<'_, R> {
    fn fail(&self, row: usize, problem: LineProblem) -> DataError {
        DataError::Row { file: self.file.to_owned(), row, problem }
    }

    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        if self.columns.is_empty() {
            self.read_names()?;
        }
        self.number += 1;
        let Some(record) = self.record()? else { return Ok(None) };
        if record.len() != self.columns.len() {
            let problem = LineProblem::Cells { found: record.len(), expected: self.columns.len() };
            return Err(self.fail(self.number, problem));
        }
        let mut fields = Map::new();
        for (cell, (name, cells)) in record.iter().zip(&self.columns) {
            fields.insert(name.clone(), value(self.text(cell, name)?, *cells));
        }
        Ok(Some(Row::new(self.number, Content::Fields(fields, record.as_slice().len()))))
    }
}

fn value(cell: String, cells: Cells) -> Value {
    match cells {
        Cells::Text => Value::String(cell),
        _ if cell.is_empty() => Value::Null,
        Cells::Json => serde_json::from_str(&cell).unwrap_or(Value::String(cell)),
        Cells::Other => match cell.as_str() {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            text => match serde_json::from_str::<Value>(text) {
                // written again it is the same, so nothing is lost by taking it as a number
                Ok(Value::Number(number)) if number.to_string().as_str() == text => Value::Number(number),
                _ => Value::String(cell),
            },
        },
    }
}

/// A stream of which no more than an allowance is read, which its user renews.
struct Metered<R> {
    reader: R,
    allowance: Rc<Cell<usize>>,
}

/// What a metered stream says when its allowance is used up.
#[derive(Debug, thiserror::Error)]
#[error("a row is longer than is read")]
struct TooLong;

impl TooLong {
    fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowance = self.allowance.get();
        if allowance == 0 {
            return Err(io::Error::other(TooLong));
        }
        let most = buffer.len().min(allowance);
        let read = self.reader.read(&mut buffer[..most])?;
        self.allowance.set(allowance - read);
        Ok(read)
    }
}
