//! The directory at the end of a zip, compared with what its end record says of it.
//!
//! Zip readers believe the end record, and of two entries of one name they keep the last. A torch file whose end
//! record is wrong, or which has two storages of one name, would be read as something else than what was saved, so
//! the directory is walked here first, with every size checked before it is used.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};

use super::torch_error::TorchProblem;

const HEADER: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const HEADER_SIZE: usize = 46;
const END_SIZE: usize = 22;
const END_64_SIZE: u64 = 56;
const LOCATOR_64_SIZE: u64 = 20;
/// A comment follows the end record, of at most this many bytes.
const MAX_COMMENT: u64 = 0xffff;
/// A directory of 100,000 parameters with three storages each has about 20 MB.
const MAX_DIRECTORY: u64 = 64 << 20;

/// What an end record says.
struct End {
    /// Where the record (the first of the two, if there is one for zip64) starts.
    at: u64,
    entries: u64,
    size: u64,
    offset: u64,
}

/// Checks the directory of a zip of `file_size` bytes: it lies between the entries and the end record, has as many
/// entries as that says, and no name twice.
pub(super) fn check(file: &mut (impl Read + Seek), file_size: u64) -> Result<(), TorchProblem> {
    let end = find_end(file, file_size)?;
    if end.size > MAX_DIRECTORY {
        return Err(damaged(format!("its directory has {} bytes, more than {MAX_DIRECTORY}", end.size)));
    }
    if end.offset.checked_add(end.size) != Some(end.at) {
        return Err(damaged(format!(
            "its end record, at byte {}, puts the directory at {} with {} bytes, which does not end there",
            end.at, end.offset, end.size
        )));
    }
    let directory = read_at(file, end.offset, end.size as usize)?;
    let (mut rest, mut names) = (directory.as_slice(), BTreeSet::new());
    let mut entries = 0u64;
    while !rest.is_empty() {
        let length = |at: usize| Some(usize::from(u16_at(rest, at)?));
        let whole = rest.starts_with(HEADER).then(|| {
            let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
            Some((name, HEADER_SIZE + name + extra + comment))
        });
        let Some((name, size)) = whole.flatten().filter(|&(_, size)| size <= rest.len()) else {
            return Err(damaged(format!("entry {} of its directory is cut or no entry", entries + 1)));
        };
        let name = &rest[HEADER_SIZE..HEADER_SIZE + name];
        if !names.insert(name) {
            return Err(TorchProblem::RepeatedEntry { entry: String::from_utf8_lossy(name).into_owned() });
        }
        rest = &rest[size..];
        entries += 1;
    }
    if entries != end.entries {
        return Err(damaged(format!("its end record says {} entries, its directory has {entries}", end.entries)));
    }
    Ok(())
}

/// The end record: the last one that reaches exactly to the end of the file with its comment.
fn find_end(file: &mut (impl Read + Seek), file_size: u64) -> Result<End, TorchProblem> {
    let tail_size = file_size.min(END_SIZE as u64 + MAX_COMMENT);
    let start = file_size - tail_size;
    let tail = read_at(file, start, tail_size as usize)?;
    let is_end = |&at: &usize| {
        let record = &tail[at..];
        record.starts_with(END)
            && u16_at(record, 20).is_some_and(|comment| END_SIZE + usize::from(comment) == record.len())
    };
    let at = (0..tail.len()).rev().find(is_end).ok_or_else(|| damaged("it has no end record".to_string()))?;
    let record = &tail[at..];
    let missing = || damaged("its end record is cut".to_string());
    let number16 = |at: usize| u16_at(record, at).map(u64::from).ok_or_else(missing);
    let number32 = |at: usize| u32_at(record, at).map(u64::from).ok_or_else(missing);
    let at = start + at as u64;
    let disks = (number16(4)?, number16(6)?, number16(8)?);
    let on_one = |disk: u64| disk == 0 || disk == 0xffff;
    let plain = End { at, entries: number16(10)?, size: number32(12)?, offset: number32(16)? };
    if !on_one(disks.0) || !on_one(disks.1) || disks.2 != plain.entries {
        return Err(damaged("its end record speaks of several disks".to_string()));
    }
    let locator_at = at.checked_sub(LOCATOR_64_SIZE);
    let locator = locator_at.map(|at| read_at(file, at, LOCATOR_64_SIZE as usize)).transpose()?;
    let Some(locator) = locator.filter(|bytes| bytes.starts_with(LOCATOR_64)) else {
        return Ok(plain);
    };
    let record_at = u64_at(&locator, 8).ok_or_else(missing)?;
    let expected = at.checked_sub(LOCATOR_64_SIZE).and_then(|at| at.checked_sub(END_64_SIZE));
    if Some(record_at) != expected {
        return Err(damaged(format!("its zip64 end record is said to be at byte {record_at}, where it is not")));
    }
    let record = read_at(file, record_at, END_64_SIZE as usize)?;
    if !record.starts_with(END_64) {
        return Err(damaged(format!("there is no zip64 end record at byte {record_at}")));
    }
    let number = |at: usize| u64_at(&record, at).ok_or_else(missing);
    let end = End { at: record_at, entries: number(32)?, size: number(40)?, offset: number(48)? };
    // The plain record repeats each number, or says that it is too small for it.
    let agrees = |plain: u64, full: u64, most: u64| plain == full || plain == most;
    let same = agrees(plain.entries, end.entries, 0xffff)
        && agrees(plain.size, end.size, 0xffff_ffff)
        && agrees(plain.offset, end.offset, 0xffff_ffff);
    if !same || number(24)? != end.entries {
        return Err(damaged("its two end records disagree".to_string()));
    }
    Ok(end)
}

fn damaged(reason: String) -> TorchProblem {
    TorchProblem::DamagedZip { reason }
}

fn read_at(file: &mut (impl Read + Seek), at: u64, size: usize) -> Result<Vec<u8>, TorchProblem> {
    let mut bytes = vec![0; size];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn fixture() -> Vec<u8> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::read(root.join("fixtures/trajectory/linear-1/checkpoint-24/scheduler.pt")).unwrap()
    }

    fn checked(bytes: &[u8]) -> Result<(), String> {
        check(&mut Cursor::new(bytes), bytes.len() as u64).map_err(|problem| problem.to_string())
    }

    fn find(bytes: &[u8], what: &[u8]) -> usize {
        (0..bytes.len()).rev().find(|&at| bytes[at..].starts_with(what)).unwrap()
    }

    #[test]
    fn a_lying_end_record_is_refused() {
        let good = fixture();
        assert_eq!(checked(&good), Ok(()));
        let end = find(&good, END);
        // fewer entries, another size, another offset, and a record that says it has a comment
        for (at, what) in [(8, "entries or disks"), (10, "entries"), (12, "size"), (16, "offset"), (20, "comment")] {
            let mut bytes = good.clone();
            bytes[end + at] = bytes[end + at].wrapping_add(1);
            assert!(checked(&bytes).is_err(), "{what}");
        }
        // both counts of one entry less: the reader would leave the last entry out
        let mut bytes = good.clone();
        for at in [end + 8, end + 10] {
            bytes[at] -= 1;
        }
        assert!(checked(&bytes).is_err());
        assert!(checked(&good[..good.len() - 1]).is_err());
        assert!(checked(b"PK").is_err());
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let mut bytes = fixture();
        // both of nine letters; names in the directory are what a reader believes
        let (from, to) = (b"scheduler/byteorder".as_slice(), b"scheduler/.data/xxx".as_slice());
        let at = find(&bytes, from);
        bytes[at..at + to.len()].copy_from_slice(to);
        assert_eq!(checked(&bytes), Ok(()), "another name, but one of its own");
        let other = find(&fixture(), b"scheduler/.data/serialization_id");
        bytes[at..at + from.len()].copy_from_slice(&fixture()[other..other + from.len()]);
        // cut the longer name down to the same bytes: its rest becomes part of the extra field
        let length = other - HEADER_SIZE + 28;
        let (name, extra) = (u16_at(&bytes, length).unwrap(), u16_at(&bytes, length + 2).unwrap());
        let cut = from.len() as u16;
        bytes[length..length + 2].copy_from_slice(&cut.to_le_bytes());
        bytes[length + 2..length + 4].copy_from_slice(&(extra + name - cut).to_le_bytes());
        let message = checked(&bytes).unwrap_err();
        assert_eq!(message, "has two entries `scheduler/.data/ser`");
    }
}
