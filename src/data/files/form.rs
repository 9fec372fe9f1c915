//! Which form a file of rows has: by the ending of its name, or by how it begins; and how it is packed.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::data::error::DataError;

/// How the bytes of a file are rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// An array of JSON objects, or one JSON object a line: what the file begins with decides.
    Json,
    /// One text a line.
    Text,
    /// A line of names, and lines of values with commas between them.
    Csv,
    /// A line of names, and lines of values with tabulators between them.
    Tsv,
    /// Columns in the format of Apache Parquet.
    Parquet,
    /// Batches of columns in the stream or the file format of Apache Arrow.
    Arrow,
}

impl Format {
    /// By the file's ending: `.jsonl` and `.ndjson`, `.json`, `.txt`, `.csv`, `.tsv`, `.parquet`, `.arrow` or `.feather`, each with or without
    /// `.gz`, `.zst` or `.zstd` behind it.
    ///
    /// # Errors
    /// [`DataError::Format`] for any other.
    pub fn of(file: &Path) -> Result<Self, DataError> {
        Self::by_name(file).ok_or_else(|| DataError::Format { file: file.to_owned() })
    }

    /// The format that the name of a file shows.
    fn by_name(file: &Path) -> Option<Self> {
        let ending = if says_packed(file) { ending(Path::new(file.file_stem()?))? } else { ending(file)? };
        Some(match ending.as_str() {
            "jsonl" | "ndjson" => Self::JsonLines,
            "json" => Self::Json,
            "txt" => Self::Text,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "parquet" => Self::Parquet,
            "arrow" | "feather" => Self::Arrow,
            _ => return None,
        })
    }

    /// The format of a file whose name shows none, by its first bytes after unpacking.
    fn by_content(first: &[u8]) -> Option<Self> {
        if first.starts_with(PARQUET) {
            return Some(Self::Parquet);
        }
        if first.starts_with(super::arrow::MAGIC) || first.starts_with(super::arrow::CONTINUATION) {
            return Some(Self::Arrow);
        }
        match first.iter().find(|byte| !byte.is_ascii_whitespace() && !UTF8_MARK.contains(byte))? {
            b'[' => Some(Self::Json),
            b'{' => Some(Self::JsonLines),
            _ => None,
        }
    }

    /// The format of a file whose stream begins here: by its name, else by its content.
    pub(super) fn find(file: &Path, reader: &mut impl BufRead) -> Result<Self, DataError> {
        match Self::by_name(file) {
            Some(format) => Ok(format),
            None => {
                let first = reader.fill_buf().map_err(|source| DataError::Read { file: file.to_owned(), source })?;
                Self::by_content(first).ok_or_else(|| DataError::Format { file: file.to_owned() })
            }
        }
    }
}

/// The ending of a name in small letters.
fn ending(file: &Path) -> Option<String> {
    file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase)
}

/// Whether the name of a file says that it is packed.
pub(super) fn says_packed(file: &Path) -> bool {
    ending(file).is_some_and(|ending| matches!(ending.as_str(), "gz" | "zst" | "zstd"))
}

/// How every Parquet file begins.
const PARQUET: &[u8] = b"PAR1";

/// What may stand before the first byte of a text in UTF-8.
pub(super) const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The most bytes, as a power of 2, that a zstd stream may look back; such a window is held in memory. It is what the
/// `zstd` command takes too without `--long`.
const ZSTD_WINDOW: u32 = 27;

/// Unpacks a stream that begins as gzip or zstd does, whatever the name of its file is; others pass unchanged. The
/// unpacked bytes are streamed, and never held as a whole.
///
/// # Errors
/// If the stream cannot be read or its decoder cannot begin.
pub(super) fn unpacked<'a>(mut reader: impl BufRead + 'a) -> io::Result<(Box<dyn BufRead + 'a>, Option<&'static str>)> {
    let first = reader.fill_buf()?;
    if first.starts_with(b"\x1f\x8b") {
        let named = Named { reader: flate2::bufread::MultiGzDecoder::new(reader), what: "gzip" };
        return Ok((Box::new(BufReader::new(named)), Some("gzip")));
    }
    if first.starts_with(b"\x28\xb5\x2f\xfd") {
        let mut decoder = zstd::Decoder::with_buffer(reader)?;
        decoder.window_log_max(ZSTD_WINDOW)?;
        return Ok((Box::new(BufReader::new(Named { reader: decoder, what: "zstd" })), Some("zstd")));
    }
    Ok((Box::new(reader), None))
}

/// A decoder whose errors say what is broken.
struct Named<R> {
    reader: R,
    what: &'static str,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            io::ErrorKind::UnexpectedEof => {
                let message = format!("the {} stream ends before its end: was it copied or written whole?", self.what);
                io::Error::new(io::ErrorKind::UnexpectedEof, message)
            }
            kind => io::Error::new(kind, format!("broken {} stream: {error}", self.what)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_first_bytes_show_the_format() {
        for (name, format) in [
            ("x.JSONL", Some(Format::JsonLines)),
            ("x.json.gz", Some(Format::Json)),
            ("x.csv.zst", Some(Format::Csv)),
            ("x.tsv.zstd", Some(Format::Tsv)),
            ("x.parquet", Some(Format::Parquet)),
            ("x.arrow", Some(Format::Arrow)),
            ("x.gz", None),
            ("x", None),
            ("x.xz", None),
        ] {
            assert_eq!(Format::by_name(Path::new(name)), format, "{name}");
        }
        for (bytes, format) in [
            (&b" [1"[..], Some(Format::Json)),
            (b"\xEF\xBB\xBF{", Some(Format::JsonLines)),
            (b"PAR1\x15", Some(Format::Parquet)),
            (b"ARROW1\0\0", Some(Format::Arrow)),
            (b"\xff\xff\xff\xff\x10", Some(Format::Arrow)),
            (b"text", None),
            (b"", None),
        ] {
            assert_eq!(Format::by_content(bytes), format, "{bytes:?}");
        }
    }
}
