//! Checksums of whole files: a key says what a file was made from, a checksum that it still holds what was written.
//!
//! A file's checksum stands in its own header, as the entry [`ENTRY`] of the metadata, so that a copied file keeps it.
//! The checksum is the BLAKE3 hash of the hashes of the file's pieces of [`PIECE`] bytes, one after the other, where the 64
//! digits of the entry itself count as zeros. Pieces are hashed by several threads, read through small buffers and
//! never mapped: a check takes no memory that grows with the file, and a mapped file is resident only where it is used.
//!
//! A file is checked once in a process: those that the process wrote, and those that it has checked, are known by
//! their place on the disk, their size and the time of their last change.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::StoreError;

/// The entry of a header's metadata that holds the checksum.
pub(super) const ENTRY: &str = "contents_blake3";
/// Digits of a checksum.
pub(super) const DIGITS: usize = 64;
/// Bytes that are hashed by themselves.
const PIECE: u64 = 1 << 20;
/// Bytes that a thread reads at a time.
const BUFFER: usize = 1 << 16;

/// What stands in the entry's place while the checksum is computed.
pub(super) fn empty() -> String {
    "0".repeat(DIGITS)
}

/// Where the digits of the checksum stand in a header (its text alone, without the length before it).
pub(super) fn slot(header: &[u8]) -> Option<Range<usize>> {
    // Quotes inside of JSON texts are escaped: these bytes are the entry and nothing else.
    let start = format!("\"{ENTRY}\":\"");
    let at = header.windows(start.len()).position(|bytes| bytes == start.as_bytes())? + start.len();
    let end = at.checked_add(DIGITS)?;
    (header.get(end) == Some(&b'"')).then_some(at..end)
}

/// The checksum of a file of `length` bytes, the digits of which stand at `slot`.
pub(super) fn of(file: &File, length: u64, slot: &Range<u64>) -> io::Result<String> {
    let pieces: Vec<u64> = (0..length.div_ceil(PIECE)).collect();
    let hash = |buffer: &mut Vec<u8>, piece: u64| {
        let mut hasher = blake3::Hasher::new();
        let (mut at, end) = (piece * PIECE, length.min((piece + 1) * PIECE));
        while at < end {
            let n = (end - at).min(BUFFER as u64) as usize;
            let bytes = &mut buffer[..n];
            read_exact_at(file, at, bytes)?;
            let (from, to) = (slot.start.clamp(at, at + n as u64), slot.end.clamp(at, at + n as u64));
            bytes[(from - at) as usize..(to - at) as usize].fill(b'0');
            hasher.update(bytes);
            at += n as u64;
        }
        Ok(*hasher.finalize().as_bytes())
    };
    let buffer = || vec![0; BUFFER.min(length as usize)];
    let hashes: io::Result<Vec<[u8; 32]>> =
        pieces.into_par_iter().map_init(buffer, |buffer, piece| hash(buffer, piece)).collect();
    Ok(blake3::hash(hashes?.as_flattened()).to_hex().to_string())
}

/// Refuses a file whose contents are not those that its checksum was taken of. `header` is its header's text.
pub(super) fn check(path: &Path, file: &File, length: u64, header: &[u8]) -> Result<(), StoreError> {
    let error = |source| StoreError::io("read", path, 0)(source);
    let identity = Identity::of(file).map_err(error)?;
    if identity.is_some_and(is_known) {
        return Ok(());
    }
    let damaged = || StoreError::Damaged { file: path.to_owned() };
    let slot = slot(header).ok_or_else(damaged)?;
    let start = Instant::now();
    let found = of(file, length, &(8 + slot.start as u64..8 + slot.end as u64)).map_err(error)?;
    CHECKED_BYTES.fetch_add(length, Ordering::Relaxed);
    CHECKED_NANOSECONDS.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    if found.as_bytes() != &header[slot] {
        return Err(damaged());
    }
    remember(identity);
    Ok(())
}

/// Where the digits stand in a text of indented JSON.
fn text_slot(text: &str) -> Option<Range<usize>> {
    let start = format!("\"{ENTRY}\": \"");
    let at = text.find(&start)? + start.len();
    (text.as_bytes().get(at + DIGITS) == Some(&b'"') && text.is_char_boundary(at + DIGITS)).then_some(at..at + DIGITS)
}

/// The checksum of a text, the digits of which stand at `slot`.
fn of_text(text: &str, slot: &Range<usize>) -> String {
    let all = [&text[..slot.start], &empty(), &text[slot.end..]].concat();
    let hashes: Vec<[u8; 32]> =
        all.as_bytes().chunks(PIECE as usize).map(|piece| *blake3::hash(piece).as_bytes()).collect();
    blake3::hash(hashes.as_flattened()).to_hex().to_string()
}

/// Lines of JSON about a run that a later process takes numbers from, with the checksum of their text among them as
/// `contents_blake3` and the [`FORMAT`](super::FORMAT) as `format`. The value must be an object.
pub fn sealed_json(mut value: serde_json::Map<String, serde_json::Value>) -> String {
    value.insert("format".to_owned(), super::FORMAT.into());
    value.insert(ENTRY.to_owned(), empty().into());
    let mut text = serde_json::to_string_pretty(&value).expect("texts and numbers always have a form in JSON");
    let slot = text_slot(&text).expect("the entry was put in");
    let sum = of_text(&text, &slot);
    text.replace_range(slot, &sum);
    text
}

/// Refuses a text of [`sealed_json`] that was changed. One of an earlier version has no checksum and passes.
///
/// # Errors
/// [`StoreError::Damaged`], naming `file`.
pub fn check_json(file: &Path, text: &str) -> Result<(), StoreError> {
    let is_sound = match text_slot(text) {
        Some(slot) => of_text(text, &slot) == text[slot],
        None => {
            let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
            value.is_none_or(|value| value.get("format").is_none_or(|format| *format != super::FORMAT))
        }
    };
    if is_sound { Ok(()) } else { Err(StoreError::Damaged { file: file.to_owned() }) }
}

/// What checking files has cost this process so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Bytes that were read and compared with their checksum.
    pub bytes: u64,
    /// Time that it took, of all checks together.
    pub time: Duration,
}

static CHECKED_BYTES: AtomicU64 = AtomicU64::new(0);
static CHECKED_NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// What comparing files of earlier processes with their checksums has cost this process so far.
pub fn checks() -> Checks {
    let time = Duration::from_nanos(CHECKED_NANOSECONDS.load(Ordering::Relaxed));
    Checks { bytes: CHECKED_BYTES.load(Ordering::Relaxed), time }
}

/// A file's place, size and last change: another file, or one that was changed, has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Identity([u64; 5]);

impl Identity {
    #[cfg(unix)]
    fn of(file: &File) -> io::Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt;
        let found = file.metadata()?;
        let (seconds, nanoseconds) = (found.ctime() as u64, found.ctime_nsec() as u64);
        Ok(Some(Self([found.dev(), found.ino(), found.len(), seconds, nanoseconds])))
    }

    /// Where a system does not tell files apart, each use is checked.
    #[cfg(not(unix))]
    fn of(_: &File) -> io::Result<Option<Self>> {
        Ok(None)
    }
}

/// Files that this process wrote or has checked.
static KNOWN: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());

fn is_known(identity: Identity) -> bool {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).contains(&identity)
}

fn remember(identity: Option<Identity>) {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).extend(identity);
}

/// From now on a file that this process has just finished counts as checked.
pub(super) fn trust(file: &File) {
    // Where its place cannot be told, its next use is checked.
    remember(Identity::of(file).ok().flatten());
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (offset, bytes) = (offset + n as u64, &mut bytes[n..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Metadata, TensorData, TensorFile, write_safetensors};

    /// The definition, of the whole file in memory.
    fn defined(bytes: &[u8], slot: &Range<u64>) -> String {
        let mut bytes = bytes.to_vec();
        bytes[slot.start as usize..slot.end as usize].fill(b'0');
        let mut all = vec![];
        for piece in bytes.chunks(1 << 20) {
            all.extend_from_slice(blake3::hash(piece).as_bytes());
        }
        blake3::hash(&all).to_hex().to_string()
    }

    #[test]
    fn a_checksum_is_the_hash_of_the_hashes_of_a_files_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        // Slots within a buffer, across two of them, across two pieces, and at the end.
        for (length, start) in [(70, 3), (200_000, 65_500), (3_000_001, (1 << 20) - 10), (1 << 20, (1 << 20) - 64)] {
            let bytes: Vec<u8> = (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 7) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let slot = start..start + 64;
            let found = of(&File::open(&path).unwrap(), length as u64, &slot).unwrap();
            assert_eq!(found, defined(&bytes, &slot), "{length}");
        }
    }

    #[test]
    fn a_slot_is_found_at_the_entry_alone() {
        let digits = "ab".repeat(32);
        let header = format!(r#"{{"__metadata__":{{"a":"\"contents_blake3\":\"","contents_blake3":"{digits}"}}}}"#);
        let slot = slot(header.as_bytes()).unwrap();
        assert_eq!(&header[slot], digits);
        for header in ["", "{}", r#"{"__metadata__":{"contents_blake3":"12"}}"#, "\"contents_blake3\":\""] {
            assert_eq!(super::slot(header.as_bytes()), None, "{header}");
        }
    }

    #[test]
    fn a_changed_report_is_refused_and_one_of_an_earlier_version_is_not() {
        let file = Path::new("run.json");
        let serde_json::Value::Object(value) = serde_json::json!({"train_size": 24, "x": "\"contents_blake3\": \""})
        else {
            unreachable!("written as an object")
        };
        let text = sealed_json(value);
        check_json(file, &text).unwrap();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // What is no text any more is no report either.
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let is_report = serde_json::from_str::<serde_json::Value>(&changed).is_ok();
            assert!(!is_report || check_json(file, &changed).is_err(), "bit {bit}: {changed}");
        }
        check_json(file, "{\"train_size\": 24}").unwrap();
    }

    /// Every bit of a file is covered: of its length, its header, its padding, its tensors and the checksum itself.
    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let metadata =
            Metadata::from([("format".to_owned(), "2".to_owned()), ("ascribe_key".to_owned(), "k".to_owned())]);
        write_safetensors(&path, &[TensorData::new("v", &[3], &[1f32, -2.0, 0.5])], &metadata).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Another name each time: a file under a name is never changed in place.
            let path = folder.path().join(bit.to_string());
            std::fs::write(&path, flipped).unwrap();
            let result = TensorFile::open_checked(&path);
            assert!(result.is_err(), "bit {bit}");
        }
        // The file as it was is sound, also to a process that does not know it.
        let copy = folder.path().join("copy");
        std::fs::write(&copy, &bytes).unwrap();
        assert_eq!(TensorFile::open_checked(&copy).unwrap().f32("v").unwrap(), [1.0, -2.0, 0.5]);
    }
}
