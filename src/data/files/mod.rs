//! Files of rows, whatever their form: each reader gives the rows of one file in their order, and what a row means as an
//! example is not asked here.
//!
//! A row is a JSON object: the line of a file of JSON lines, an element of a JSON array, a row of a table by the names
//! of its columns. A line of plain text is an object with the field `text` alone. Files are streamed: no more than a
//! chunk of rows is in memory at a time, and no row is longer than [`Bounds`] allows, so that a file of any size, and a
//! small one that unpacks to any size, is read within the memory of the job.

mod arrow;
mod form;
mod json_array;
mod lines;
mod parquet;
mod parquet_pages;
mod row;
mod saved;
mod separated;
mod several;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

pub use form::Format;
pub(super) use row::{Bounds, Row};
pub use several::expand;

use self::row::{Content, RowReader};
use super::columns::Columns;
use super::error::DataError;
use super::line_problem::LineProblem;
use crate::foreign_file::{self, Refusal};

/// The most rows of a chunk, which are parsed and tokenized in parallel.
const CHUNK_ROWS: usize = 2048;

/// The most bytes of a packed table that is unpacked into memory, since such a file is read from its end.
const UNPACKED_LIMIT: u64 = 2 << 30;

/// Gives the rows of one file or of several ([`expand`]) in their order, each with its number, counted from 1 through all
/// files. A row that is no object is left out.
///
/// # Errors
/// If a file cannot be read to its end.
pub fn for_each_row(
    path: &Path,
    columns: &Columns,
    mut give: impl FnMut(usize, Map<String, Value>),
) -> Result<(), DataError> {
    let mut before = 0;
    for file in expand(path)? {
        let (mut rows, _) = Rows::open(&file, columns, Bounds::of(None))?;
        before += rows.each(|_, row| {
            let number = before + row.number;
            if let Ok(fields) = row.fields() {
                give(number, fields);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The fields of the first row of one file or of several; none if there is no such row.
pub fn first_row(path: &Path, columns: &Columns) -> Option<Map<String, Value>> {
    let file = expand(path).ok()?.into_iter().next()?;
    let (mut rows, _) = Rows::open(&file, columns, Bounds::of(None)).ok()?;
    rows.source.next_row().ok()??.fields().ok()
}

/// The rows of a file, a chunk at a time.
pub(super) struct Rows<'a> {
    source: Box<dyn RowReader + 'a>,
    bounds: Bounds,
    /// A row that was read and did not fit into its chunk.
    pending: Option<Row>,
}

impl<'a> Rows<'a> {
    /// The rows of a file, whose name or content shows its format; also that format. `chosen` are the columns that were
    /// chosen as an example's.
    ///
    /// # Errors
    /// If the file cannot be opened, or its format is none that is read.
    pub(super) fn open(file: &'a Path, chosen: &'a Columns, bounds: Bounds) -> Result<(Self, Format), DataError> {
        let failed = |source| DataError::Read { file: file.to_owned(), source };
        // another folder than one of data may stand in a file's place
        if file.is_dir() && Format::of(file).is_err() {
            return Err(DataError::Format { file: file.to_owned() });
        }
        let opened = foreign_file::open(file).map_err(failed)?;
        let (mut reader, packed) = form::unpacked(BufReader::new(opened)).map_err(failed)?;
        if packed.is_none() && form::says_packed(file) {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "it does not begin as gzip or zstd does");
            return Err(failed(source));
        }
        let format = Format::find(file, &mut reader)?;
        let rows = match (format, packed) {
            (Format::Parquet, None) => {
                let opened = foreign_file::open(file).map_err(failed)?;
                Self { source: Box::new(parquet::Parquet::new(opened, file, bounds)?), bounds, pending: None }
            }
            _ => Self::of(reader, file, format, chosen, bounds)?,
        };
        Ok((rows, format))
    }

    /// The rows of a stream of this format; `file` is its name in messages.
    ///
    /// # Errors
    /// If the stream has to be read as a whole, and cannot be.
    pub(super) fn of(
        mut reader: impl BufRead + 'a,
        file: &'a Path,
        format: Format,
        chosen: &'a Columns,
        bounds: Bounds,
    ) -> Result<Self, DataError> {
        let source: Box<dyn RowReader + 'a> = match format {
            Format::JsonLines => Box::new(lines::Lines::new(reader, file, bounds, Content::Json)),
            Format::Text => Box::new(lines::Lines::new(reader, file, bounds, Content::Text)),
            Format::Json => json_array::array_or_lines(reader, file, bounds),
            Format::Csv => Box::new(separated::Table::new(reader, file, b',', chosen, bounds)),
            Format::Tsv => Box::new(separated::Table::new(reader, file, b'\t', chosen, bounds)),
            Format::Arrow => Box::new(arrow::Arrow::new(reader, file, bounds)),
            Format::Parquet => {
                let failed = |source| DataError::Read { file: file.to_owned(), source };
                let mut bytes = vec![];
                reader.by_ref().take(UNPACKED_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
                if bytes.len() as u64 > UNPACKED_LIMIT {
                    return Err(failed(Refusal::TooLong { limit: UNPACKED_LIMIT }.into()));
                }
                Box::new(parquet::Parquet::new(bytes::Bytes::from(bytes), file, bounds)?)
            }
        };
        Ok(Self { source, bounds, pending: None })
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

    /// Gives every row to the file's end, and returns the number of the last one, 0 if there is none.
    ///
    /// # Errors
    /// An error of `give`, or of a file that cannot be read to its end.
    pub(super) fn each(
        &mut self,
        mut give: impl FnMut(&Self, Row) -> Result<(), DataError>,
    ) -> Result<usize, DataError> {
        let mut last = 0;
        loop {
            let (chunk, end) = self.chunk();
            let ended = chunk.is_empty();
            for row in chunk {
                last = row.number;
                give(self, row)?;
            }
            end?;
            if ended {
                return Ok(last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_no_more_bytes_than_its_bound_unless_one_row_has() {
        let bounds = Bounds { row: 100, text: 6, page: 100, keeps_bytes: false };
        let text = &b"aaa\nbbb\ncc\nddddddd\ne"[..];
        let columns = Columns::default();
        let mut rows = Rows::of(text, Path::new("x.txt"), Format::Text, &columns, bounds).expect("a stream");
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
        let bounds = |row, text, page| Bounds { row, text, page, keeps_bytes: false };
        assert_eq!(of(None), bounds(64 << 20, 8 << 20, 1 << 30));
        assert_eq!(of(Some(u64::MAX)), of(None));
        assert_eq!(of(Some(1 << 30)), bounds(32 << 20, 4 << 20, 128 << 20));
        assert_eq!(of(Some(1)), bounds(512 << 10, 64 << 10, 16 << 20));
    }
}
