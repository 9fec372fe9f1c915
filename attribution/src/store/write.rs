//! Writing safetensors files: at once, or piece by piece for tensors larger than memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::layout::{Layout, Place};
use super::lock::RunLock;
use super::pending::{Existing, PendingFile};
use super::{DeclarationError, Element, Metadata, StoreError, TensorData, TensorSpec};

/// The tag of files that are written outside of a store.
const OUTPUT: &str = "output";

/// Writes a safetensors file, atomically and over an older one of the same name. For results at a fixed
/// place; what is kept under a key is written by [`Store::write`](super::Store::write).
///
/// The file's bytes depend on the arguments alone.
///
/// # Errors
/// [`StoreError::Declaration`] if names repeat or bytes do not fit their shape; [`StoreError::NoSpace`];
/// [`StoreError::Io`].
pub fn write_safetensors(path: &Path, tensors: &[TensorData<'_>], metadata: &Metadata) -> Result<(), StoreError> {
    write_tensors(path, OUTPUT, tensors, metadata)
}

pub(super) fn write_tensors(
    path: &Path,
    tag: &str,
    tensors: &[TensorData<'_>],
    metadata: &Metadata,
) -> Result<(), StoreError> {
    let specs: Vec<_> = tensors.iter().map(|t| TensorSpec::new(t.name, t.dtype, t.shape)).collect();
    let layout = Layout::new(path, &specs, metadata)?;
    let long_entries = layout.long_entries.iter().map(|(name, text)| (name.as_str(), text.as_bytes()));
    let contents: BTreeMap<_, _> =
        tensors.iter().map(|tensor| (tensor.name, tensor.bytes)).chain(long_entries).collect();
    // Before anything is on the disk.
    for place in &layout.places {
        let given = contents[&place.spec.name[..]].len() as u64;
        if given != place.length {
            let problem = DeclarationError::Bytes {
                tensor: place.spec.name.clone(),
                dtype: place.spec.dtype,
                shape: place.spec.shape.clone(),
                expected: place.length,
                found: given,
            };
            return Err(StoreError::Declaration { file: path.to_owned(), problem });
        }
    }
    let file = PendingFile::create(path, tag, layout.total)?;
    file.write_at(0, &layout.head)?;
    for place in &layout.places {
        file.write_at(place.start, contents[&place.spec.name[..]])?;
    }
    file.seal(&layout.slot)?;
    file.persist(Existing::Replace)?;
    Ok(())
}

/// A safetensors file under way: its tensors are declared first and written in any order, in pieces, from
/// any thread. Nothing is visible under the file's name before [`finish`](Self::finish); dropped before
/// that, it leaves nothing.
#[derive(Debug)]
pub struct TensorWriter {
    file: PendingFile,
    places: BTreeMap<String, Place>,
    written: Mutex<Coverage>,
    /// The place of the checksum's digits.
    slot: Range<u64>,
    total: u64,
    /// The run folder stays locked until its last writer is done.
    _lock: Option<Arc<RunLock>>,
}

impl TensorWriter {
    /// Starts a file at a fixed place; see [`Store::writer`](super::Store::writer) for one under a key.
    /// Its space on the disk is taken now where the file system can do that.
    ///
    /// # Errors
    /// As [`write_safetensors`].
    pub fn create(path: &Path, tensors: &[TensorSpec], metadata: &Metadata) -> Result<Self, StoreError> {
        Self::create_tagged(path, OUTPUT, tensors, metadata, None)
    }

    pub(super) fn create_tagged(
        path: &Path,
        tag: &str,
        tensors: &[TensorSpec],
        metadata: &Metadata,
        lock: Option<Arc<RunLock>>,
    ) -> Result<Self, StoreError> {
        let Layout { head, places, long_entries, slot, total } = Layout::new(path, tensors, metadata)?;
        let file = PendingFile::create(path, tag, total)?;
        file.write_at(0, &head)?;
        let mut written = Coverage::default();
        written.insert(0, head.len() as u64);
        let places = places.into_iter().map(|place| (place.spec.name.clone(), place)).collect();
        let writer = Self { file, places, written: Mutex::new(written), slot, total, _lock: lock };
        for (name, text) in &long_entries {
            writer.write_at(name, 0, text.as_bytes())?;
        }
        Ok(writer)
    }

    /// Writes bytes into a tensor, `offset` bytes from its start. What is written twice holds the later.
    ///
    /// # Errors
    /// [`StoreError::NoTensor`] and [`StoreError::WriteOutside`] if this is not a place of a declared tensor;
    /// [`StoreError::NoSpace`]; [`StoreError::Io`].
    pub fn write_at(&self, tensor: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let place = self.place(tensor)?;
        let n = bytes.len() as u64;
        if offset.checked_add(n).is_none_or(|end| end > place.length) {
            return Err(StoreError::WriteOutside {
                file: self.file.target().to_owned(),
                tensor: tensor.to_owned(),
                offset,
                bytes: n,
                length: place.length,
            });
        }
        let start = place.start + offset;
        self.file.write_at(start, bytes)?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(start, start + n);
        Ok(())
    }

    /// Writes values into a tensor of their type, `offset` elements from its start.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at), and [`StoreError::OtherType`].
    pub fn write_values_at<E: Element>(&self, tensor: &str, offset: u64, values: &[E]) -> Result<(), StoreError> {
        let found = self.place(tensor)?.spec.dtype;
        if found != E::DTYPE {
            return Err(StoreError::OtherType {
                file: self.file.target().to_owned(),
                tensor: tensor.to_owned(),
                expected: E::DTYPE,
                found,
            });
        }
        self.write_at(tensor, offset.saturating_mul(size_of::<E>() as u64), bytemuck::cast_slice(values))
    }

    /// Takes the file's checksum (which reads it once), flushes it and gives it its name.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if bytes of a tensor were never written; [`StoreError::NoSpace`];
    /// [`StoreError::Io`].
    pub fn finish(self) -> Result<PathBuf, StoreError> {
        let path = self.file.target().to_owned();
        let hole = self.written.into_inner().unwrap_or_else(PoisonError::into_inner).first_hole(self.total);
        if let Some((start, end)) = hole {
            let place = self.places.values().find(|place| (place.start..place.start + place.length).contains(&start));
            let place = place.expect("the header is written, and tensors fill the rest of the file");
            let missing = start - place.start..end.min(place.start + place.length) - place.start;
            return Err(StoreError::Incomplete { file: path, tensor: place.spec.name.clone(), missing });
        }
        self.file.seal(&self.slot)?;
        self.file.persist(Existing::Replace)?;
        Ok(path)
    }

    fn place(&self, tensor: &str) -> Result<&Place, StoreError> {
        self.places.get(tensor).ok_or_else(|| StoreError::NoTensor {
            file: self.file.target().to_owned(),
            tensor: tensor.to_owned(),
            existing: self.places.keys().cloned().collect(),
        })
    }
}

/// Which bytes are there: disjoint ranges that do not touch, by start.
#[derive(Debug, Default)]
struct Coverage(BTreeMap<u64, u64>);

impl Coverage {
    fn insert(&mut self, mut start: u64, mut end: u64) {
        if start == end {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..=end).next_back().filter(|&(_, &e)| e >= start) {
            self.0.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.0.insert(start, end);
    }

    /// The first range within `0..total` that is not there.
    fn first_hole(&self, total: u64) -> Option<(u64, u64)> {
        let mut ranges = self.0.iter();
        let covered = match ranges.next() {
            Some((0, &end)) => end,
            Some((&start, _)) => return Some((0, start)),
            None => 0,
        };
        (covered < total).then(|| (covered, ranges.next().map_or(total, |(&start, _)| start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Dtype, TensorFile};
    use ascribe_curvature::Hint;
    use proptest::prelude::*;

    fn metadata() -> Metadata {
        [("b", "2"), ("a", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    /// Ids of millions of examples are more than a header may hold.
    #[test]
    fn long_entries_of_metadata_are_tensors_and_read_as_entries() {
        let folder = tempfile::tempdir().unwrap();
        let [once, pieces] = ["once", "pieces"].map(|name| folder.path().join(name));
        let metadata = Metadata::from([("ids".into(), "größe".repeat(3_000_000)), ("short".into(), "s".into())]);
        let values = [1.0_f32, 2.0];
        write_safetensors(&once, &[TensorData::new("values", &[2], &values)], &metadata).unwrap();
        let specs = [TensorSpec::new("values", Dtype::F32, [2])];
        let writer = TensorWriter::create(&pieces, &specs, &metadata).unwrap();
        writer.write_values_at("values", 0, &values).unwrap();
        writer.finish().unwrap();
        for file in [&once, &pieces] {
            let file = TensorFile::open_checked(file).unwrap();
            assert!(file.metadata("ids") == Some(&metadata["ids"]) && file.metadata("short") == Some("s"));
            assert_eq!(file.metadata("values"), None);
            assert_eq!(file.f32("values").unwrap(), values);
        }
        assert!(std::fs::read(&once).unwrap() == std::fs::read(&pieces).unwrap());
    }

    /// The two ways of writing give the same bytes, and a known header.
    #[test]
    fn pieces_in_any_order_give_the_file_written_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (once, pieces) = (folder.path().join("once"), folder.path().join("pieces"));
        let (flags, values): ([u8; 3], [f32; 6]) = ([7, 8, 9], [0.5, -1.0, f32::MIN_POSITIVE, 3.0, 4.0, 5.0]);
        let tensors = [TensorData::new("flags", &[3], &flags), TensorData::new("values", &[2, 3], &values)];
        write_safetensors(&once, &tensors, &metadata()).unwrap();

        let specs = [TensorSpec::new("flags", Dtype::U8, [3]), TensorSpec::new("values", Dtype::F32, [2, 3])];
        let writer = TensorWriter::create(&pieces, &specs, &metadata()).unwrap();
        writer.write_values_at("values", 3, &values[3..]).unwrap();
        writer.write_at("flags", 1, &flags[1..]).unwrap();
        writer.write_values_at("values", 0, &[9f32; 3]).unwrap();
        writer.write_values_at("values", 0, &values[..3]).unwrap();
        writer.write_at("flags", 0, &flags[..1]).unwrap();
        assert!(!pieces.exists());
        assert_eq!(writer.finish().unwrap(), pieces);

        let bytes = std::fs::read(&once).unwrap();
        assert_eq!(bytes, std::fs::read(&pieces).unwrap());
        let sum = TensorFile::open(&once).unwrap().metadata("contents_blake3").unwrap().to_owned();
        let header = concat!(
            r#"{"__metadata__":{"a":"1","b":"2","contents_blake3":"SUM"},"values":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
            r#""flags":{"dtype":"U8","shape":[3],"data_offsets":[24,27]}}"#
        );
        let header = header.replace("SUM", &sum);
        let padded = (8 + header.len()).next_multiple_of(64) - 8;
        assert_eq!(bytes[..8], (padded as u64).to_le_bytes());
        assert_eq!(&bytes[8..8 + header.len()], header.as_bytes());
        assert!(bytes[8 + header.len()..8 + padded].iter().all(|&b| b == b' '));
        assert_eq!(bytes[8 + padded..][..24], *bytemuck::cast_slice::<f32, u8>(&values));
        assert_eq!(bytes[8 + padded + 24..], flags);
    }

    #[test]
    fn a_file_with_a_hole_is_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let specs = [TensorSpec::new("a", Dtype::F32, [4]), TensorSpec::new("b", Dtype::U8, [5])];
        let writer = TensorWriter::create(&path, &specs, &Metadata::new()).unwrap();
        writer.write_values_at("a", 0, &[1f32, 2.0, 3.0, 4.0]).unwrap();
        writer.write_at("b", 0, &[1]).unwrap();
        writer.write_at("b", 3, &[1, 2]).unwrap();
        let error = writer.finish().unwrap_err();
        assert!(
            matches!(&error, StoreError::Incomplete { tensor, missing, .. } if tensor == "b" && *missing == (1..3)),
            "{error:?}"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn writes_outside_of_a_tensor_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let specs = [TensorSpec::new("a", Dtype::F32, [4]), TensorSpec::new("b", Dtype::U8, [5])];
        let writer = TensorWriter::create(&folder.path().join("x"), &specs, &Metadata::new()).unwrap();
        assert!(matches!(writer.write_at("a", 13, &[0; 4]), Err(StoreError::WriteOutside { length: 16, .. })));
        assert!(matches!(writer.write_at("b", u64::MAX, &[0; 4]), Err(StoreError::WriteOutside { .. })));
        assert!(matches!(writer.write_values_at("a", u64::MAX, &[0f32]), Err(StoreError::WriteOutside { .. })));
        assert!(matches!(writer.write_values_at("a", 0, &[0f64]), Err(StoreError::OtherType { .. })));
        let error = writer.write_at("c", 0, &[0]).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("the file has `a`, `b`"));
    }

    #[test]
    fn bytes_must_fit_the_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let tensors = [TensorData::new("a", &[2, 2], &[1f32, 2.0, 3.0])];
        let error = write_safetensors(&path, &tensors, &Metadata::new()).unwrap_err();
        assert!(error.to_string().ends_with("tensor `a` has 12 bytes, its shape [2, 2] of F32 needs 16"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn several_threads_write_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let spec = [TensorSpec::new("a", Dtype::I64, [8, 100])];
        let writer = TensorWriter::create(&folder.path().join("x"), &spec, &Metadata::new()).unwrap();
        std::thread::scope(|scope| {
            for row in 0..8 {
                let writer = &writer;
                scope.spawn(move || writer.write_values_at("a", row * 100, &[row as i64; 100]).unwrap());
            }
        });
        let file = TensorFile::open(&writer.finish().unwrap()).unwrap();
        let expected: Vec<i64> = (0..800).map(|i| i / 100).collect();
        assert_eq!(file.i64("a").unwrap(), expected);
    }

    proptest! {
        /// Against a plain list of flags.
        #[test]
        fn coverage_finds_the_first_hole(ranges in proptest::collection::vec((0u64..40, 0u64..12), 0..20)) {
            let (mut coverage, mut flags) = (Coverage::default(), [false; 40]);
            for (start, length) in ranges {
                let end = (start + length).min(40);
                coverage.insert(start, end);
                (start..end).for_each(|i| flags[i as usize] = true);
            }
            let hole = flags.iter().position(|&f| !f).map(|start| {
                let length = flags[start..].iter().position(|&f| f).unwrap_or(40 - start);
                (start as u64, (start + length) as u64)
            });
            prop_assert_eq!(coverage.first_hole(40), hole);
        }
    }
}
