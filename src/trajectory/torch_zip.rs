//! Files of `torch.save`: a zip of stored entries, one of them a pickle, the others the bytes of storages.
//!
//! Opening reads the pickle alone. A tensor in it is described first ([`TorchFile::tensor`]) and read when asked
//! for, one storage at a time, so that an `optimizer.pt` of many gigabytes costs no more than the tensors used.
//!
//! # Source
//! torch's `serialization.py` and `_utils.py`, which write and read these files.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{MAX_BYTES, Pickle, Value};
pub use super::tensor_place::{NumberType, TensorPlace};
use super::tensor_place::{gather, place};
pub use super::torch_error::{TorchFileError, TorchProblem};
use super::zip_directory;

/// First bytes of the format before torch 1.6: a pickle of the number 0x1950a86a20f9469cfc6c.
const OLD_MAGIC: &[u8] = &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Bytes of the entry `byteorder`, which holds one word.
const MAX_ORDER: u64 = 16;

/// An open torch file and its pickle.
pub struct TorchFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    file_size: u64,
    /// Folder of all entries, with its slash.
    folder: String,
    pickle: Pickle,
}

impl TorchFile {
    /// Opens a file and reads its pickle.
    ///
    /// # Errors
    /// A file that is not a zip of `torch.save`, is TorchScript or big-endian, or has a pickle that we refuse.
    pub fn open(path: &Path) -> Result<Self, TorchFileError> {
        Self::open_inner(path).map_err(|problem| TorchFileError { file: path.to_path_buf(), problem })
    }

    fn open_inner(path: &Path) -> Result<Self, TorchProblem> {
        let mut file = crate::foreign_file::open(path)?;
        let file_size = file.metadata()?.len();
        check_magic(&mut file)?;
        zip_directory::check(&mut file, file_size)?;
        file.rewind()?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
        let mut folders = Vec::new();
        let mut names = Vec::with_capacity(archive.len());
        for name in archive.file_names() {
            names.push(name.map_err(damaged)?.into_owned());
        }
        for name in &names {
            if name.contains("/code/") || name.ends_with("/constants.pkl") {
                return Err(TorchProblem::TorchScript { entry: name.clone() });
            }
            match name.strip_suffix("data.pkl") {
                Some(folder) if folder.is_empty() || folder.ends_with('/') => folders.push(folder.to_string()),
                _ => {}
            }
        }
        let [folder] = <[String; 1]>::try_from(folders).map_err(|all| TorchProblem::Pickles { found: all.len() })?;
        if names.contains(&format!("{folder}byteorder")) {
            let order = entry(&mut archive, &format!("{folder}byteorder"), file_size, Size::AtMost(MAX_ORDER))?;
            if order != b"little" {
                return Err(TorchProblem::ByteOrder { order: String::from_utf8_lossy(&order).into_owned() });
            }
        }
        let limit = Size::AtMost(MAX_BYTES as u64);
        let bytes = entry(&mut archive, &format!("{folder}data.pkl"), file_size, limit)?;
        let pickle = Pickle::read(&bytes)?;
        Ok(Self { path: path.to_path_buf(), archive, file_size, folder, pickle })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value that was saved.
    pub fn value(&self) -> Value<'_> {
        self.pickle.root()
    }

    /// Where a value's tensor lies.
    ///
    /// # Errors
    /// The value is no tensor, its storage is of a type with coded numbers (quantised, complex, 8-bit floats), or it
    /// does not lie in its storage.
    pub fn tensor(&self, value: Value<'_>) -> Result<TensorPlace, TorchFileError> {
        place(value).map_err(|problem| self.error(problem))
    }

    /// Reads a tensor's numbers, row major.
    ///
    /// # Errors
    /// The storage's entry is missing, damaged, compressed or of another size.
    pub fn read_f32(&mut self, tensor: &TensorPlace) -> Result<Vec<f32>, TorchFileError> {
        let bytes = self.storage(tensor)?;
        if tensor.number_type == NumberType::F32 {
            // Not through f64: a signalling NaN would change, and the way is long.
            return Ok(gather(tensor, |at| f32::from_le_bytes(bytes[4 * at..][..4].try_into().expect("four bytes"))));
        }
        let (kind, size) = (tensor.number_type, tensor.number_type.size());
        Ok(gather(tensor, |at| kind.number(&bytes[size * at..][..size]) as f32))
    }

    /// Reads a tensor's numbers, row major.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    pub fn read_f64(&mut self, tensor: &TensorPlace) -> Result<Vec<f64>, TorchFileError> {
        let bytes = self.storage(tensor)?;
        let (kind, size) = (tensor.number_type, tensor.number_type.size());
        Ok(gather(tensor, |at| kind.number(&bytes[size * at..][..size])))
    }

    fn storage(&mut self, tensor: &TensorPlace) -> Result<Vec<u8>, TorchFileError> {
        let name = format!("{}data/{}", self.folder, tensor.key);
        let (elements, size) = (tensor.elements, tensor.number_type.size());
        let Some(expected) = (elements as u64).checked_mul(size as u64) else {
            return Err(self.error(TorchProblem::StorageSize { elements, size }));
        };
        entry(&mut self.archive, &name, self.file_size, Size::Exactly(expected)).map_err(|problem| self.error(problem))
    }

    fn error(&self, problem: TorchProblem) -> TorchFileError {
        TorchFileError { file: self.path.clone(), problem }
    }
}

fn damaged(error: zip::result::ZipError) -> TorchProblem {
    TorchProblem::DamagedZip { reason: error.to_string() }
}

fn check_magic(file: &mut File) -> Result<(), TorchProblem> {
    let mut head = Vec::with_capacity(512);
    file.take(512).read_to_end(&mut head)?;
    file.rewind()?;
    if head.starts_with(OLD_MAGIC) {
        return Err(TorchProblem::OldFormat);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Err(TorchProblem::Tar);
    }
    if !head.starts_with(b"PK") {
        return Err(TorchProblem::NotZip);
    }
    Ok(())
}

/// What is known of an entry's size before it is read.
#[derive(Clone, Copy)]
enum Size {
    Exactly(u64),
    AtMost(u64),
}

/// The bytes of a stored entry, its checksum verified.
fn entry(
    archive: &mut ZipArchive<BufReader<File>>,
    name: &str,
    file_size: u64,
    expected: Size,
) -> Result<Vec<u8>, TorchProblem> {
    if archive.index_for_name(name).is_none() {
        return Err(TorchProblem::MissingEntry { entry: name.to_string() });
    }
    let entry = archive.by_name(name).map_err(damaged)?;
    if entry.compression() != CompressionMethod::Stored {
        return Err(TorchProblem::Compressed { entry: name.to_string() });
    }
    // Stored bytes lie in the file, so that no size can ask for more memory than the file has bytes.
    let size = entry.size();
    let wrong = |found, expected| Err(TorchProblem::EntrySize { entry: name.to_string(), found, expected });
    match expected {
        Size::Exactly(expected) if size != expected => return wrong(size, expected),
        Size::AtMost(limit) if size > limit => {
            return Err(TorchProblem::EntryTooLarge { entry: name.to_string(), found: size, limit });
        }
        _ if size > file_size => return wrong(size, file_size),
        _ => {}
    }
    let mut bytes = Vec::with_capacity(size as usize);
    entry
        .take(size.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| TorchProblem::DamagedZip { reason: format!("entry `{name}`: {error}") })?;
    if bytes.len() as u64 != size {
        return Err(TorchProblem::EntrySize { entry: name.to_string(), found: bytes.len() as u64, expected: size });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::Hint;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory").join(name)
    }

    fn open_error(bytes: &[u8]) -> (String, Option<String>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let error = TorchFile::open(file.path()).err().unwrap();
        let path = file.path().display().to_string();
        (error.to_string().replace(&path, "FILE"), error.hint())
    }

    #[test]
    fn scheduler_files_are_read() {
        let file = TorchFile::open(&fixture("linear-1/checkpoint-24/scheduler.pt")).unwrap();
        assert_eq!(file.value().get("last_epoch").and_then(Value::as_usize), Some(24));
        let rates = file.value().get("_last_lr").unwrap().elements().unwrap();
        assert_eq!(rates.len(), 2);
        assert_eq!(rates.get(0).unwrap().as_f64(), Some(0.0));
    }

    #[test]
    fn what_is_no_torch_zip_is_named() {
        assert_eq!(open_error(b"hello").0, "FILE: is not a zip, as files of `torch.save` are");
        assert_eq!(open_error(b"").0, "FILE: is not a zip, as files of `torch.save` are");
        let (text, hint) = open_error(&[OLD_MAGIC, b".\x80\x02M\xe9\x03."].concat());
        assert_eq!(text, "FILE: is in torch's old format, which is not a zip");
        assert!(hint.unwrap().contains("torch.save"));
        let mut tar = vec![0; 600];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(open_error(&tar).0, "FILE: is a tar archive, torch's oldest format");
        let bytes = std::fs::read(fixture("linear-1/checkpoint-24/scheduler.pt")).unwrap();
        assert!(open_error(&bytes[..900]).0.starts_with("FILE: is a damaged zip: "), "{}", open_error(&bytes[..900]).0);
        // Names are in the local and in the central headers; the zip reader believes the latter.
        let renamed = |from: &[u8], to: &[u8]| {
            let mut bytes = bytes.clone();
            for at in 0..bytes.len() - from.len() {
                if &bytes[at..at + from.len()] == from {
                    bytes[at..at + from.len()].copy_from_slice(to);
                }
            }
            open_error(&bytes).0
        };
        assert_eq!(renamed(b"/data.pkl", b"/data.pkx"), "FILE: has 0 entries `data.pkl`, expected one");
        assert_eq!(
            renamed(b"/.format_version", b"/code/__main__.p"),
            "FILE: is a TorchScript archive: it holds code (`scheduler/code/__main__.p`)"
        );
        let flipped = renamed(b"little", b"big   ");
        assert!(flipped.contains("byteorder"), "the checksum or the order refuses: {flipped}");
    }

    #[test]
    fn a_flipped_bit_in_a_tensor_is_noticed() {
        let path = fixture("adamw-gpt2/checkpoint-20/optimizer.pt");
        let file = TorchFile::open(&path).unwrap();
        let state = file.value().get("state").unwrap();
        let (_, first) = state.entries().next().unwrap();
        let place = file.tensor(first.get("exp_avg_sq").unwrap()).unwrap();
        assert_eq!((place.number_type, place.shape.as_slice()), (NumberType::F32, &[12, 4][..]));
        let mut original = TorchFile::open(&path).unwrap();
        let values = original.read_f32(&place).unwrap();
        assert_eq!(original.read_f64(&place).unwrap(), values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        // Find the numbers in the file and change one bit of them.
        let needle: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = (0..bytes.len()).find(|&at| bytes[at..].starts_with(&needle)).unwrap();
        bytes[at + 9] ^= 4;
        let mut copy = tempfile::NamedTempFile::new().unwrap();
        copy.write_all(&bytes).unwrap();
        let error = TorchFile::open(copy.path()).unwrap().read_f32(&place).unwrap_err();
        assert!(matches!(error.problem, TorchProblem::DamagedZip { .. }), "{error}");
    }

    /// A storage that says it has 2^62 + 12 numbers: times four bytes, that is 48 in 64 bits.
    #[test]
    fn a_storage_whose_size_wraps_is_refused() {
        let path = fixture("adamw-gpt2/checkpoint-20/optimizer.pt");
        let mut file = TorchFile::open(&path).unwrap();
        let state = file.value().get("state").unwrap();
        let (_, first) = state.entries().next().unwrap();
        let mut place = file.tensor(first.get("exp_avg_sq").unwrap()).unwrap();
        place.elements += 1 << 62;
        let error = file.read_f32(&place).unwrap_err();
        assert!(matches!(error.problem, TorchProblem::StorageSize { size: 4, .. }), "{error}");
        place.elements = 1 << 40;
        let error = file.read_f64(&place).unwrap_err();
        assert!(matches!(error.problem, TorchProblem::EntrySize { .. }), "{error}");
    }

    fn zip_of(entries: &[(&str, u64)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
        for &(name, size) in entries {
            let options = zip::write::SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            zip.start_file(name, options).unwrap();
            std::io::copy(&mut std::io::repeat(0).take(size), &mut zip).unwrap();
        }
        zip.finish().unwrap();
        file
    }

    /// A pickle beyond the limit is refused by its size, before any of it is read.
    #[test]
    fn an_entry_is_bounded_before_it_is_read() {
        let file = zip_of(&[("a/data.pkl", MAX_BYTES as u64 + 1)]);
        let error = TorchFile::open(file.path()).err().unwrap();
        assert!(matches!(error.problem, TorchProblem::EntryTooLarge { .. }), "{error}");
        let file = zip_of(&[("a/data.pkl", 1), ("a/byteorder", 17)]);
        let error = TorchFile::open(file.path()).err().unwrap();
        assert!(matches!(error.problem, TorchProblem::EntryTooLarge { limit: 16, .. }), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Truncated and damaged files give an error or a value, never a panic or an allocation beyond the file.
        #[test]
        fn damaged_files_are_read_or_refused(cut in 0usize..1500, flips in prop::collection::vec((0usize..1500, 0..8u32), 0..5)) {
            let mut bytes = std::fs::read(fixture("linear-1/checkpoint-24/scheduler.pt")).unwrap();
            if cut > 700 {
                bytes.truncate(cut);
            }
            for (at, bit) in flips {
                let n = bytes.len();
                bytes[at % n] ^= 1 << bit;
            }
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            let _ = TorchFile::open(file.path());
        }
    }
}
