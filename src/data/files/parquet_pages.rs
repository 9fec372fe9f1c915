//! What the pages of a Parquet file say of their sizes, read before any of them is.
//!
//! The header of a page names the bytes that it unpacks to, up to 2 GiB, and a dictionary's names its values: the library
//! takes memory for both before it looks at the page. A file of a hundred bytes could ask for all of it, so that every
//! header is read here first. Headers are structs of Thrift's compact protocol, of which only three numbers are needed.

use std::io::{self, Read};

use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader};
use parquet::file::reader::ChunkReader;

use super::row::Bounds;

/// The most bytes of a page's header. Its statistics may hold a least and a greatest text.
const HEADER: u64 = 16 << 20;

/// Structs within structs, at most, as Parquet's have two.
const DEPTH: usize = 8;

/// Bytes that a value of a dictionary takes once it is decoded, beside its own.
const VALUE: u64 = 32;

/// What is read of a page's header.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    /// Bytes of the header itself.
    bytes: u64,
    /// Bytes of the page in the file.
    packed: i64,
    /// Bytes of the page after unpacking.
    unpacked: i64,
    /// Values of a dictionary.
    values: Option<i64>,
}

/// Refuses a file with a page that would take more memory than the bounds allow, or that is longer than its column.
///
/// # Errors
/// Also if the file's end or a header cannot be read.
pub(super) fn check(bytes: &impl ChunkReader, bounds: Bounds) -> Result<(), ParquetError> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(bytes)?;
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        check_column(bytes, column, bounds)?;
    }
    Ok(())
}

fn check_column(bytes: &impl ChunkReader, column: &ColumnChunkMetaData, bounds: Bounds) -> Result<(), ParquetError> {
    let (mut start, mut left) = column.byte_range();
    let refuse = |what: String| {
        Err(ParquetError::General(format!("a page of the column `{}` {what}", column.column_path().string())))
    };
    while left > 0 {
        let header = match Compact::new(bytes.get_read(start)?.take(HEADER.min(left))).page() {
            Ok(header) => header,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return refuse("ends within its header".to_owned());
            }
            Err(error) => return refuse(format!("has a broken header: {error}")),
        };
        let (Ok(packed), Ok(unpacked)) = (u64::try_from(header.packed), u64::try_from(header.unpacked)) else {
            return refuse("says that it has fewer than 0 bytes".to_owned());
        };
        let rest = left.saturating_sub(header.bytes);
        if packed > rest {
            return refuse(format!("says that it has {packed} bytes in the file, and its column has {rest} left"));
        }
        let limit = bounds.page as u64;
        if unpacked > limit {
            return refuse(format!("says that it unpacks to {unpacked} bytes, and at most {limit} are taken"));
        }
        let most = unpacked.min(limit / VALUE);
        if let Some(values) = header.values.filter(|&values| u64::try_from(values).map_or(true, |n| n > most)) {
            return refuse(format!("says that it is a dictionary of {values} values, and at most {most} are taken"));
        }
        start += header.bytes + packed;
        left = rest - packed;
    }
    Ok(())
}

/// A reader of Thrift's compact protocol.
struct Compact<R> {
    reader: io::Bytes<io::BufReader<R>>,
    read: u64,
}

impl<R: Read> Compact<R> {
    fn new(reader: R) -> Self {
        // headers have some dozens of bytes
        Self { reader: io::BufReader::with_capacity(512, reader).bytes(), read: 0 }
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.read += 1;
        self.reader.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
    }

    fn unsigned(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid("a number has more than 64 bits"))
    }

    fn signed(&mut self) -> io::Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field of a struct: its number and the kind of its value; none at the struct's end.
    fn field(&mut self, before: i64) -> io::Result<Option<(i64, u8)>> {
        let byte = self.byte()?;
        let (step, kind) = (i64::from(byte >> 4), byte & 0x0f);
        Ok(match (kind, step) {
            (0, _) => None,
            (_, 0) => Some((self.signed()?, kind)),
            _ => Some((before.saturating_add(step), kind)),
        })
    }

    /// Passes over a value of this kind.
    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Err(invalid("structs within structs"));
        }
        let bytes = match kind {
            // the field's kind is the value
            1 | 2 => 0,
            3 => 1,
            4..=6 => return self.unsigned().map(drop),
            7 => 8,
            8 => self.unsigned()?,
            9 | 10 => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 { self.unsigned()? } else { u64::from(byte >> 4) };
                // in a list a truth value has a byte of its own
                let kind = if matches!(byte & 0x0f, 1 | 2) { 3 } else { byte & 0x0f };
                for _ in 0..count {
                    self.skip(kind, depth + 1)?;
                }
                0
            }
            12 => {
                let mut last = 0;
                while let Some((id, kind)) = self.field(last)? {
                    self.skip(kind, depth + 1)?;
                    last = id;
                }
                0
            }
            _ => return Err(invalid("a value of a kind that no header has")),
        };
        for _ in 0..bytes {
            self.byte()?;
        }
        Ok(())
    }

    fn page(&mut self) -> io::Result<Header> {
        let (mut header, mut last) = (Header::default(), 0);
        while let Some((id, kind)) = self.field(last)? {
            match (id, kind) {
                (2, 5) => header.unpacked = self.signed()?,
                (3, 5) => header.packed = self.signed()?,
                (7, 12) => header.values = Some(self.dictionary()?),
                _ => self.skip(kind, 0)?,
            }
            last = id;
        }
        header.bytes = self.read;
        Ok(header)
    }

    /// The number of values that the header of a dictionary has.
    fn dictionary(&mut self) -> io::Result<i64> {
        let (mut values, mut last) = (0, 0);
        while let Some((id, kind)) = self.field(last)? {
            match (id, kind) {
                (1, 5) => values = self.signed()?,
                _ => self.skip(kind, 1)?,
            }
            last = id;
        }
        Ok(values)
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = vec![];
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    /// The header of a dictionary's page, with statistics-like fields that are passed over.
    fn dictionary(unpacked: u32, packed: u32, values: u32) -> Vec<u8> {
        let number = |value: u32| varint(u64::from(value) << 1);
        // 1: i32 type; 2, 3: i32 sizes; 7: struct of 1: i32, 2: i32, 3: a truth value; 20: bytes
        let mut bytes = [vec![0x15], number(2), vec![0x15], number(unpacked), vec![0x15], number(packed)].concat();
        bytes.extend([vec![0x4c, 0x15], number(values), vec![0x15, 0, 0x11, 0x00]].concat());
        bytes.extend([vec![0x08, 40, 3], b"abc".to_vec(), vec![0x00]].concat());
        bytes
    }

    #[test]
    fn headers_are_read() {
        let bytes = dictionary(1_000_000, 300, 70);
        let found = Compact::new(&bytes[..]).page().expect("a header");
        let length = bytes.len() as u64;
        assert_eq!(found, Header { bytes: length, packed: 300, unpacked: 1_000_000, values: Some(70) });
        for end in 0..bytes.len() {
            assert!(Compact::new(&bytes[..end]).page().is_err(), "cut at {end}");
        }
        // structs in structs without end, and a text that is longer than anything
        assert!(Compact::new(&[0xcc; 1000][..]).page().is_err());
        assert!(Compact::new(&[&[0x18][..], &[0xff; 9], &[1]].concat()[..]).page().is_err());
    }

    /// A page that claims almost 2 GiB, in a file that pyarrow wrote with pages of some hundred bytes.
    #[test]
    fn a_page_that_claims_more_than_its_bound_is_refused_before_it_is_read() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/forms/train.parquet");
        let sound = std::fs::read(file).expect("a file");
        let bounds = Bounds::of(Some(1 << 30));
        let checked = |bytes: Vec<u8>| check(&bytes::Bytes::from(bytes), bounds);
        checked(sound.clone()).expect("a sound file");
        let metadata =
            ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(sound.clone())).expect("sound");
        let (start, _) = metadata.row_group(0).column(0).byte_range();
        // 1: i32 type, 2: i32 unpacked size of two bytes or more; written anew in as many bytes, it is another number
        let start = start as usize;
        assert_eq!((sound[start], sound[start + 2]), (0x15, 0x15), "the first two fields");
        let size = sound[start + 3..].iter().position(|byte| byte & 0x80 == 0).expect("a last byte") + 1;
        assert!(size >= 2, "a page of 64 bytes or more");
        let small = Bounds { page: 40, ..bounds };
        let error = check(&bytes::Bytes::from(sound.clone()), small).expect_err("a bound of 40 bytes").to_string();
        assert!(error.contains("says that it unpacks to") && error.contains("at most 40 are taken"), "{error}");
        // the packed size is the next field: a page longer than its column
        let mut long = sound;
        let packed = start + 3 + size;
        assert_eq!(long[packed], 0x15, "the third field");
        let digits = long[packed + 1..].iter().position(|byte| byte & 0x80 == 0).expect("a last byte") + 1;
        assert!(digits >= 2, "a page of 64 bytes or more");
        // even, so that the number is not below 0
        long[packed + 1..packed + digits].fill(0xff);
        long[packed + 1] = 0xfe;
        long[packed + digits] = 0x7e;
        let error = checked(long).expect_err("a page longer than its column").to_string();
        assert!(error.contains("says that it has") && error.contains("left"), "{error}");
    }
}
