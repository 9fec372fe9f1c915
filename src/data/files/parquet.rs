//! Parquet files: columns in pages, read as rows.
//!
//! Nested columns are objects and arrays. A date, a time or a decimal number is what the file stores or its text; bytes
//! are text if they are UTF-8, and otherwise only their number is kept.

use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Number, Value};

use super::parquet_pages;
use super::row::{Bounds, Content, Row, RowReader, shortest};
use crate::data::error::DataError;
use crate::data::guarded::guarded;
use crate::data::line_problem::LineProblem;

/// Rows that a column is decoded for at a time.
const BATCH: usize = 64;

/// The rows of a Parquet file.
pub(super) struct Parquet<'a> {
    rows: RowIter<'static>,
    file: &'a Path,
    bounds: Bounds,
    number: usize,
}

impl<'a> Parquet<'a> {
    /// Opens a file, which is read from its end.
    ///
    /// # Errors
    /// If it is no sound Parquet file.
    pub(super) fn new(bytes: impl ChunkReader + 'static, file: &'a Path, bounds: Bounds) -> Result<Self, DataError> {
        let rows = guarded("parquet", || {
            parquet_pages::check(&bytes, bounds)?;
            let reader = SerializedFileReader::new(bytes)?;
            Ok(RowIter::from_file_into(Box::new(reader)).with_batch_size(BATCH))
        });
        let rows = rows.map_err(|error| broken(file, 0, error))?;
        Ok(Self { rows, file, bounds, number: 0 })
    }
}

fn broken(file: &Path, rows: usize, error: Box<dyn std::error::Error + Send + Sync>) -> DataError {
    let message = match error.downcast_ref::<ParquetError>() {
        Some(ParquetError::EOF(_)) => "it ends before its end".to_owned(),
        Some(ParquetError::General(message) | ParquetError::NYI(message)) => message.clone(),
        _ => error.to_string(),
    };
    DataError::Table { file: file.to_owned(), form: "Parquet", rows, message }
}

impl RowReader for Parquet<'_> {
    fn fail(&self, row: usize, problem: LineProblem) -> DataError {
        DataError::Row { file: self.file.to_owned(), row, problem }
    }

    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        let next = guarded("parquet", || Ok(self.rows.next().transpose()?));
        let Some(record) = next.map_err(|error| broken(self.file, self.number, error))? else { return Ok(None) };
        self.number += 1;
        let mut bytes = 0;
        let fields = object(&record, self.bounds, &mut bytes);
        if bytes > self.bounds.row {
            return Err(self.fail(self.number, LineProblem::TooLong { limit: self.bounds.row }));
        }
        Ok(Some(Row::new(self.number, Content::Fields(fields, bytes))))
    }
}

fn object(record: &Record, bounds: Bounds, bytes: &mut usize) -> Map<String, Value> {
    record.get_column_iter().map(|(name, field)| (name.clone(), value(field, bounds, bytes))).collect()
}

/// A field as JSON; adds about as many bytes as that has.
fn value(field: &Field, bounds: Bounds, bytes: &mut usize) -> Value {
    *bytes += 8;
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => Value::from(*value),
        Field::Long(value)
        | Field::TimeMicros(value)
        | Field::TimestampMillis(value)
        | Field::TimestampMicros(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float16(value) => shortest(f32::from(*value)),
        Field::Float(value) => shortest(*value),
        Field::Double(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
        Field::Decimal(_) => Value::String(field.to_string()),
        Field::Str(text) => {
            *bytes += text.len();
            Value::String(text.clone())
        }
        Field::Bytes(data) => {
            let value = bounds.bytes(data.data());
            *bytes += value.as_str().map_or(0, str::len).max(data.len());
            value
        }
        Field::Group(record) => Value::Object(object(record, bounds, bytes)),
        Field::ListInternal(list) => list.elements().iter().map(|field| value(field, bounds, bytes)).collect(),
        Field::MapInternal(map) => {
            let key = |field: &Field| match field {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(name, field)| (key(name), value(field, bounds, bytes))).collect())
        }
    }
}
