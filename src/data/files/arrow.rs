//! Arrow's stream and file formats: batches of rows, as `datasets` saves and caches them.
//!
//! A file is a chain of messages: a schema, dictionaries, and batches of rows with their columns in one body. What a
//! message says of sizes is checked before memory is taken for it, and what it says of places within its body before
//! the library that decodes it reads there; that validates offsets and texts. Values are JSON as those of Parquet are
//! ([`super::parquet`]).

use std::io::{BufRead, Read};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, RecordBatch, StructArray, downcast_dictionary_array};
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{Message, RecordBatch as BatchMessage, root_as_message};
use arrow_schema::{ArrowError, DataType, Schema, TimeUnit};
use serde_json::{Map, Number, Value};

use super::row::{Bounds, Content, Row, RowReader, shortest};
use crate::data::error::DataError;
use crate::data::guarded::guarded;
use crate::data::line_problem::LineProblem;

/// How a file begins that has an index of its batches at its end. The messages are those of a stream.
pub(super) const MAGIC: &[u8] = b"ARROW1";

/// What stands before the length of a message.
pub(super) const CONTINUATION: &[u8] = &[0xff; 4];

/// The most bytes of a message without its body: a schema has some hundreds for each column.
const MESSAGE: usize = 16 << 20;

/// Types within types, at most.
const DEPTH: usize = 32;

/// Rows of a batch that need no bytes in its body, at most: those of columns that are all null.
const WITHOUT_BYTES: u64 = 1 << 20;

/// What is wrong with a file of Arrow.
type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The rows of a file of Arrow.
pub(super) struct Arrow<'a, R> {
    reader: R,
    file: &'a Path,
    bounds: Bounds,
    decoder: StreamDecoder,
    batch: Option<RecordBatch>,
    /// Rows of the batch that were given.
    given: usize,
    number: usize,
    /// Bytes of all dictionaries, which are held until the end.
    dictionaries: u64,
    begun: bool,
    /// Whether it is a file with an index behind its messages, and no stream.
    is_file: bool,
    ended: bool,
}

impl<'a, R: BufRead> Arrow<'a, R> {
    pub(super) fn new(reader: R, file: &'a Path, bounds: Bounds) -> Self {
        Self {
            reader,
            file,
            bounds,
            decoder: StreamDecoder::new(),
            batch: None,
            given: 0,
            number: 0,
            dictionaries: 0,
            begun: false,
            is_file: false,
            ended: false,
        }
    }

    fn broken(&self, problem: Problem) -> DataError {
        let message = match problem.downcast_ref::<ArrowError>() {
            Some(ArrowError::IpcError(message) | ArrowError::ParseError(message)) => message.clone(),
            _ => problem.to_string(),
        };
        DataError::Table { file: self.file.to_owned(), form: "Arrow", rows: self.number, message }
    }

    /// The next bytes; fewer at the end.
    fn take(&mut self, count: u64) -> Result<Vec<u8>, Problem> {
        let mut bytes = vec![];
        self.reader.by_ref().take(count).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn exactly(&mut self, count: u64) -> Result<Vec<u8>, Problem> {
        let bytes = self.take(count)?;
        if bytes.len() as u64 == count { Ok(bytes) } else { Err("it ends before its end".into()) }
    }

    /// Reads messages up to the next batch of rows; `false` at the end.
    fn next_batch(&mut self) -> Result<bool, Problem> {
        if !self.begun {
            self.begun = true;
            if self.reader.fill_buf()?.starts_with(MAGIC) {
                // two bytes more make the messages begin at a multiple of eight
                self.exactly(8)?;
                self.is_file = true;
            }
        }
        loop {
            let mut message = self.take(4)?;
            if message.is_empty() {
                // a writer that was stopped leaves whole batches and no mark of the end
                return Err("it ends without the mark of its end".into());
            }
            if message == CONTINUATION {
                message.extend(self.exactly(4)?);
            }
            let size = match message.last_chunk::<4>() {
                Some(size) => u32::from_le_bytes(*size) as usize,
                None => return Err("it ends before its end".into()),
            };
            if size == 0 {
                self.check_end()?;
                return Ok(false);
            }
            if size > MESSAGE {
                return Err(format!("a message has {size} bytes, and at most {MESSAGE} are taken").into());
            }
            let head = self.exactly(size as u64)?;
            let parsed = root_as_message(&head).map_err(|error| format!("a message cannot be read: {error}"))?;
            let body = self.bounded(parsed.bodyLength())?;
            message.extend(&head);
            let body_bytes = self.exactly(body)?;
            self.check(&parsed, &body_bytes)?;
            message.extend(body_bytes);
            let mut buffer = message.into();
            let decoder = &mut self.decoder;
            let batch = guarded("arrow-ipc", || Ok(decoder.decode(&mut buffer)?))?;
            if let Some(batch) = batch {
                check_schema(&batch.schema())?;
                (self.batch, self.given) = (Some(batch), 0);
                return Ok(true);
            }
        }
    }

    /// Reads a file's index, which nothing needs here, up to the letters that it ends with.
    fn check_end(&mut self) -> Result<(), Problem> {
        let mut last: Vec<u8> = vec![];
        while self.is_file {
            let part = self.reader.fill_buf()?;
            let read = part.len();
            if read == 0 {
                return if last.ends_with(MAGIC) { Ok(()) } else { Err("it ends before its end".into()) };
            }
            last.extend_from_slice(&part[read.saturating_sub(MAGIC.len())..]);
            last.drain(..last.len().saturating_sub(MAGIC.len()));
            self.reader.consume(read);
        }
        Ok(())
    }

    /// A number of bytes that is taken.
    fn bounded(&self, bytes: i64) -> Result<u64, Problem> {
        let limit = self.bounds.page as u64;
        match u64::try_from(bytes) {
            Ok(bytes) if bytes <= limit => Ok(bytes),
            _ => Err(format!("a batch of rows has {bytes} bytes, and at most {limit} are taken").into()),
        }
    }

    /// Refuses a batch that says of itself what its body does not have.
    fn check(&mut self, message: &Message<'_>, body: &[u8]) -> Result<(), Problem> {
        if let Some(batch) = message.header_as_record_batch() {
            self.check_batch(&batch, body)?;
        } else if let Some(dictionary) = message.header_as_dictionary_batch() {
            let Some(batch) = dictionary.data() else { return Err("a dictionary has no values".into()) };
            self.dictionaries += self.check_batch(&batch, body)?;
            self.bounded(self.dictionaries.try_into()?)?;
        }
        Ok(())
    }

    /// Bytes of a batch after unpacking.
    fn check_batch(&self, batch: &BatchMessage<'_>, body: &[u8]) -> Result<u64, Problem> {
        let is_packed = batch.compression().is_some();
        let mut bytes = 0;
        for buffer in batch.buffers().into_iter().flatten() {
            let part = usize::try_from(buffer.offset())
                .ok()
                .zip(usize::try_from(buffer.length()).ok())
                .and_then(|(start, length)| body.get(start..start.checked_add(length)?));
            let Some(part) = part else { return Err("a column lies outside of its batch".into()) };
            // a packed buffer begins with what it unpacks to, or with -1 if it is not packed after all
            bytes += match part.first_chunk::<8>().filter(|_| is_packed).map(|size| i64::from_le_bytes(*size)) {
                Some(size) if size >= 0 => self.bounded(size)?,
                _ => part.len() as u64,
            };
            self.bounded(bytes.try_into()?)?;
        }
        let most = bytes.saturating_mul(8).saturating_add(WITHOUT_BYTES);
        let lengths = batch.nodes().into_iter().flatten().map(|node| node.length()).chain([batch.length()]);
        for length in lengths {
            if !u64::try_from(length).is_ok_and(|length| length <= most) {
                return Err(format!("a batch of {bytes} bytes says that it has {length} rows").into());
            }
        }
        Ok(bytes)
    }
}

impl<R: BufRead> RowReader for Arrow<'_, R> {
    fn fail(&self, row: usize, problem: LineProblem) -> DataError {
        DataError::Row { file: self.file.to_owned(), row, problem }
    }

    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        while self.batch.as_ref().is_none_or(|batch| self.given >= batch.num_rows()) {
            if self.ended || !self.next_batch().map_err(|problem| self.broken(problem))? {
                self.ended = true;
                return Ok(None);
            }
        }
        let Some(batch) = &self.batch else { return Ok(None) };
        self.number += 1;
        let (row, limit) = (self.given, self.bounds.row);
        self.given += 1;
        let mut values = Values { bytes: 0, bounds: self.bounds };
        let fields = guarded("arrow-array", || {
            let schema = batch.schema();
            let columns = schema.fields().iter().zip(batch.columns());
            let one = |(field, column): (&std::sync::Arc<arrow_schema::Field>, &arrow_array::ArrayRef)| {
                Some((field.name().clone(), values.of(column, row)?))
            };
            Ok(columns.map(one).collect::<Option<Map<_, _>>>())
        });
        match fields.map_err(|problem| self.broken(problem))? {
            Some(fields) => Ok(Some(Row::new(self.number, Content::Fields(fields, values.bytes)))),
            None => Err(self.fail(self.number, LineProblem::TooLong { limit })),
        }
    }
}

/// Refuses columns of types that no JSON stands for, and two columns of one name.
fn check_schema(schema: &Schema) -> Result<(), Problem> {
    let fields = schema.fields();
    for (k, field) in fields.iter().enumerate() {
        if fields[..k].iter().any(|other| other.name() == field.name()) {
            return Err(format!("two columns are called `{}`", field.name()).into());
        }
        if !is_read(field.data_type(), 0) {
            return Err(format!(
                "the column `{}` is of the type {}, which is not read",
                field.name(),
                field.data_type()
            )
            .into());
        }
    }
    Ok(())
}

fn is_read(kind: &DataType, depth: usize) -> bool {
    let within = |kind: &DataType| is_read(kind, depth + 1);
    depth < DEPTH
        && match kind {
            DataType::Interval(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::Union(_, _)
            | DataType::RunEndEncoded(_, _) => false,
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => within(field.data_type()),
            DataType::Struct(fields) => fields.iter().all(|field| within(field.data_type())),
            DataType::Dictionary(_, values) => within(values),
            _ => true,
        }
}

/// Makes JSON of one row's values, as long as that has no more bytes than a row may.
struct Values {
    /// About as many bytes as the JSON has.
    bytes: usize,
    bounds: Bounds,
}

impl Values {
    /// A value as JSON; none where the row becomes too long.
    fn of(&mut self, array: &dyn Array, row: usize) -> Option<Value> {
        self.count(8)?;
        if array.is_null(row) {
            return Some(Value::Null);
        }
        macro_rules! number {
            ($type:ty) => {
                Value::from(array.as_primitive::<$type>().value(row))
            };
        }
        Some(match array.data_type() {
            DataType::Null => Value::Null,
            DataType::Boolean => Value::from(array.as_boolean().value(row)),
            DataType::Int8 => number!(Int8Type),
            DataType::Int16 => number!(Int16Type),
            DataType::Int32 => number!(Int32Type),
            DataType::Int64 => number!(Int64Type),
            DataType::UInt8 => number!(UInt8Type),
            DataType::UInt16 => number!(UInt16Type),
            DataType::UInt32 => number!(UInt32Type),
            DataType::UInt64 => number!(UInt64Type),
            DataType::Float16 => shortest(array.as_primitive::<Float16Type>().value(row).to_f32()),
            DataType::Float32 => shortest(array.as_primitive::<Float32Type>().value(row)),
            DataType::Float64 => {
                Number::from_f64(array.as_primitive::<Float64Type>().value(row)).map_or(Value::Null, Value::Number)
            }
            DataType::Date32 => number!(Date32Type),
            DataType::Date64 => number!(Date64Type),
            DataType::Time32(TimeUnit::Second) => number!(Time32SecondType),
            DataType::Time32(_) => number!(Time32MillisecondType),
            DataType::Time64(TimeUnit::Microsecond) => number!(Time64MicrosecondType),
            DataType::Time64(_) => number!(Time64NanosecondType),
            DataType::Timestamp(TimeUnit::Second, _) => number!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => number!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => number!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => number!(TimestampNanosecondType),
            DataType::Duration(TimeUnit::Second) => number!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => number!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => number!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => number!(DurationNanosecondType),
            DataType::Decimal32(_, _) => {
                Value::String(array.as_primitive::<arrow_array::types::Decimal32Type>().value_as_string(row))
            }
            DataType::Decimal64(_, _) => {
                Value::String(array.as_primitive::<arrow_array::types::Decimal64Type>().value_as_string(row))
            }
            DataType::Decimal128(_, _) => {
                Value::String(array.as_primitive::<arrow_array::types::Decimal128Type>().value_as_string(row))
            }
            DataType::Decimal256(_, _) => {
                Value::String(array.as_primitive::<arrow_array::types::Decimal256Type>().value_as_string(row))
            }
            DataType::Utf8 => self.text(array.as_string::<i32>().value(row))?,
            DataType::LargeUtf8 => self.text(array.as_string::<i64>().value(row))?,
            DataType::Utf8View => self.text(array.as_string_view().value(row))?,
            DataType::Binary => self.data(array.as_binary::<i32>().value(row))?,
            DataType::LargeBinary => self.data(array.as_binary::<i64>().value(row))?,
            DataType::BinaryView => self.data(array.as_binary_view().value(row))?,
            DataType::FixedSizeBinary(_) => self.data(array.as_fixed_size_binary().value(row))?,
            DataType::List(_) => self.list(&array.as_list::<i32>().value(row))?,
            DataType::LargeList(_) => self.list(&array.as_list::<i64>().value(row))?,
            DataType::FixedSizeList(_, _) => self.list(&array.as_fixed_size_list().value(row))?,
            DataType::Struct(_) => self.object(array.as_struct(), row)?,
            DataType::Map(_, _) => self.map(&array.as_map().value(row))?,
            DataType::Dictionary(_, _) => downcast_dictionary_array!(
                array => {
                    let key = array.key(row)?;
                    self.of(array.values(), key)?
                }
                _ => return None,
            ),
            // refused with the schema
            DataType::Interval(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::Union(_, _)
            | DataType::RunEndEncoded(_, _) => Value::Null,
        })
    }

    /// Counts bytes; none if there are too many.
    fn count(&mut self, bytes: usize) -> Option<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        (self.bytes <= self.bounds.row).then_some(())
    }

    fn text(&mut self, text: &str) -> Option<Value> {
        self.count(text.len())?;
        Some(Value::String(text.to_owned()))
    }

    fn data(&mut self, data: &[u8]) -> Option<Value> {
        let value = self.bounds.bytes(data);
        self.count(value.as_str().map_or(0, str::len))?;
        Some(value)
    }

    fn list(&mut self, items: &dyn Array) -> Option<Value> {
        (0..items.len()).map(|item| self.of(items, item)).collect::<Option<Vec<_>>>().map(Value::Array)
    }

    fn object(&mut self, fields: &StructArray, row: usize) -> Option<Value> {
        let named = fields.fields().iter().zip(fields.columns());
        let fields = named.map(|(field, column)| Some((field.name().clone(), self.of(column, row)?)));
        fields.collect::<Option<Map<_, _>>>().map(Value::Object)
    }

    fn map(&mut self, entries: &StructArray) -> Option<Value> {
        let [keys, values] = entries.columns() else { return Some(Value::Null) };
        let entry = |entry| {
            let key = match self.of(keys, entry)? {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Some((key, self.of(values, entry)?))
        };
        (0..entries.len()).map(entry).collect::<Option<Map<_, _>>>().map(Value::Object)
    }
}
