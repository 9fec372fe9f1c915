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
        let by_name = Self::by_name(file);
        if let Some(format @ (Self::Parquet | Self::Arrow)) = by_name {
            return Ok(format);
        }
        let first = reader.fill_buf().map_err(|source| DataError::Read { file: file.to_owned(), source })?;
        if let Some(encoding) = wide_characters(first) {
            return Err(DataError::Encoding { file: file.to_owned(), encoding });
        }
        by_name.or_else(|| Self::by_content(first)).ok_or_else(|| DataError::Format { file: file.to_owned() })
    }
}

/// The encoding of a text whose characters have two or four bytes each, by the mark that it begins with or the zeros
/// between its letters.
fn wide_characters(first: &[u8]) -> Option<&'static str> {
    match first {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Some("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("UTF-16"),
        [a, 0, b, 0, ..] | [0, a, 0, b, ..] if a.is_ascii_graphic() && (b.is_ascii_graphic() || *b == b' ') => {
            Some("UTF-16")
        }
        _ => None,
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
    fn texts_of_wide_characters_are_named() {
        let wide = |text: &str, mark: &[u8], little: bool| -> Vec<u8> {
            let of = |unit: u16| if little { unit.to_le_bytes() } else { unit.to_be_bytes() };
            mark.iter().copied().chain(text.encode_utf16().flat_map(of)).collect()
        };
        let refused = |name: &str, bytes: &[u8]| {
            let error = Format::find(Path::new(name), &mut &bytes[..]).expect_err("no UTF-8");
            error.to_string()
        };
        for name in ["x.csv", "x.tsv", "x.txt", "x.jsonl", "x.json", "x"] {
            for (mark, little) in [(&b"\xFF\xFE"[..], true), (b"\xFE\xFF", false), (b"", true), (b"", false)] {
                let said = refused(name, &wide("text,label\n", mark, little));
                assert_eq!(said, format!("{name}: the text is in UTF-16, and UTF-8 is read"));
            }
        }
        assert!(refused("x.csv", b"\xFF\xFE\0\0t\0\0\0").contains("UTF-32"));
        // a mark of UTF-8, short files and binary formats are none of these
        for (name, bytes) in
            [("x.csv", &b"\xEF\xBB\xBFtext\n"[..]), ("x.csv", b"a"), ("x.parquet", b"\xFF\xFE"), ("x.txt", b"")]
        {
            assert!(Format::find(Path::new(name), &mut &bytes[..]).is_ok(), "{name}");
        }
        assert_eq!(Format::find(Path::new("x"), &mut &b"\xff\xff\xff\xff\x10"[..]).ok(), Some(Format::Arrow));
    }

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
