//! Artifacts: one safetensors file each, named after its kind and key, and checked against both.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    ARTIFACTS, DeclarationError, FORMAT, KNOWN_FORMATS, Key, Metadata, Store, StoreError, TensorData, TensorFile,
    TensorSpec, TensorWriter, pending, write,
};

const FORMAT_ENTRY: &str = "ascribe_format";
const KIND_ENTRY: &str = "kind";
const KEY_ENTRY: &str = "key";

/// An open artifact: a [`TensorFile`] (to which it dereferences) that says what it is and of which inputs.
#[derive(Debug)]
pub struct Artifact {
    file: TensorFile,
    kind: String,
    key: Key,
}

impl Artifact {
    /// Opens an artifact of any kind and key for what its header says; its contents are not checked.
    ///
    /// # Errors
    /// Those of [`TensorFile::open`]; [`StoreError::NotAnArtifact`] and [`StoreError::FormatVersion`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::of(TensorFile::open(path)?)
    }

    fn of(file: TensorFile) -> Result<Self, StoreError> {
        let path = file.path();
        let format = entry(&file, FORMAT_ENTRY, "a format version", Some)?;
        if !KNOWN_FORMATS.iter().any(|known| known.to_string() == format) {
            return Err(StoreError::FormatVersion { file: path.to_owned(), found: format.into(), supported: FORMAT });
        }
        let kind = entry(&file, KIND_ENTRY, "a kind", Some)?.to_owned();
        let key = entry(&file, KEY_ENTRY, "a key", |text| text.parse().ok())?;
        Ok(Self { file, kind, key })
    }

    /// Opens an artifact that must be of this kind and key, and hold what was written into it.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open); [`StoreError::OtherKind`], [`StoreError::OtherKey`] and [`StoreError::Damaged`].
    pub fn open_of(path: &Path, kind: &str, key: &Key) -> Result<Self, StoreError> {
        let artifact = Self::of(TensorFile::open_checked(path)?)?;
        if artifact.kind != kind {
            let (expected, found) = (kind.to_owned(), artifact.kind);
            return Err(StoreError::OtherKind { file: path.to_owned(), expected, found });
        }
        if artifact.key != *key {
            return Err(StoreError::OtherKey { file: path.to_owned(), expected: *key, found: artifact.key });
        }
        Ok(artifact)
    }

    /// What it is.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What it was made from.
    pub fn key(&self) -> Key {
        self.key
    }

    /// An entry of the metadata that must have a form.
    pub(super) fn number(&self, name: &str) -> Result<u64, StoreError> {
        entry(&self.file, name, "a whole number", |text| text.parse().ok())
    }
}

impl Deref for Artifact {
    type Target = TensorFile;

    fn deref(&self) -> &TensorFile {
        &self.file
    }
}

fn entry<'a, T>(
    file: &'a TensorFile,
    name: &str,
    expected: &'static str,
    read: impl FnOnce(&'a str) -> Option<T>,
) -> Result<T, StoreError> {
    let found = file.metadata(name);
    found.and_then(read).ok_or_else(|| StoreError::NotAnArtifact {
        file: file.path().to_owned(),
        entry: name.to_owned(),
        expected,
        found: found.map(str::to_owned),
    })
}

impl Store {
    /// Writes an artifact at once, over one of the same kind and key.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Kind`], and those of [`write_safetensors`](super::write_safetensors).
    pub fn write(
        &self,
        kind: &'static str,
        key: &Key,
        tensors: &[TensorData<'_>],
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        let path = self.artifact_path(kind, key, "")?;
        self.write_as(&path, kind, key, tensors, metadata, &[])
    }

    /// Starts an artifact whose tensors are written in pieces.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn writer(
        &self,
        kind: &'static str,
        key: &Key,
        tensors: &[TensorSpec],
        metadata: &Metadata,
    ) -> Result<TensorWriter, StoreError> {
        let path = self.artifact_path(kind, key, "")?;
        self.writer_as(&path, kind, key, tensors, metadata, &[])
    }

    /// The artifact of this kind and key, if it is there.
    ///
    /// # Errors
    /// Those of [`Artifact::open_of`]: a damaged file is an error, not a missing one.
    pub fn find(&self, kind: &'static str, key: &Key) -> Result<Option<Artifact>, StoreError> {
        self.find_at(&self.artifact_path(kind, key, "")?, kind, key)
    }

    /// Deletes the artifact of this kind and key, if it is there.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Kind`], [`StoreError::Io`].
    pub fn remove(&self, kind: &'static str, key: &Key) -> Result<(), StoreError> {
        self.lock()?;
        pending::remove(&self.artifact_path(kind, key, "")?)
    }

    pub(super) fn find_at(&self, path: &Path, kind: &str, key: &Key) -> Result<Option<Artifact>, StoreError> {
        match Artifact::open_of(path, kind, key) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    pub(super) fn write_as(
        &self,
        path: &Path,
        kind: &str,
        key: &Key,
        tensors: &[TensorData<'_>],
        metadata: &Metadata,
        own: &[(String, u64)],
    ) -> Result<(), StoreError> {
        self.lock()?;
        write::write_tensors(path, &self.tag, tensors, &with_own(path, kind, key, metadata, own)?)
    }

    pub(super) fn writer_as(
        &self,
        path: &Path,
        kind: &str,
        key: &Key,
        tensors: &[TensorSpec],
        metadata: &Metadata,
        own: &[(String, u64)],
    ) -> Result<TensorWriter, StoreError> {
        let lock = Arc::clone(self.lock()?);
        let metadata = with_own(path, kind, key, metadata, own)?;
        TensorWriter::create_tagged(path, &self.tag, tensors, &metadata, Some(lock))
    }

    /// `KIND-SHORTKEY.safetensors`, or with `.SUFFIX` before the extension.
    pub(super) fn artifact_path(&self, kind: &str, key: &Key, suffix: &str) -> Result<PathBuf, StoreError> {
        let dot = if suffix.is_empty() { "" } else { "." };
        Ok(self.folder.join(ARTIFACTS).join(format!("{}{dot}{suffix}.safetensors", stem(kind, key)?)))
    }
}

/// `KIND-SHORTKEY`, which starts the name of every file of an artifact.
pub(super) fn stem(kind: &str, key: &Key) -> Result<String, StoreError> {
    check_kind(kind)?;
    Ok(format!("{kind}-{}", key.short()))
}

pub(super) fn check_kind(kind: &str) -> Result<(), StoreError> {
    if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
        return Err(StoreError::Kind { kind: kind.to_owned() });
    }
    Ok(())
}

/// The caller's metadata and what the store adds.
fn with_own(
    path: &Path,
    kind: &str,
    key: &Key,
    metadata: &Metadata,
    own: &[(String, u64)],
) -> Result<Metadata, StoreError> {
    let mut all = metadata.clone();
    let common = [(FORMAT_ENTRY, FORMAT.to_string()), (KIND_ENTRY, kind.to_owned()), (KEY_ENTRY, key.to_string())];
    let own = own.iter().map(|(name, value)| (&name[..], value.to_string()));
    for (name, value) in common.into_iter().chain(own) {
        if all.insert(name.to_owned(), value).is_some() {
            let problem = DeclarationError::Reserved { name: name.to_owned() };
            return Err(StoreError::Declaration { file: path.to_owned(), problem });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Dtype, KeyBuilder, Writer};
    use ascribe_curvature::Hint;
    use std::fs;

    const KIND: &str = "query-vectors";

    fn key(seed: u64) -> Key {
        KeyBuilder::new(KIND, 1).field("seed", seed).finish()
    }

    fn with_store(test: impl FnOnce(&Store)) {
        let folder = tempfile::tempdir().unwrap();
        test(&Store::claim(folder.path(), &key(0), Writer::Whole).unwrap());
    }

    #[test]
    fn an_artifact_is_found_by_its_key_alone() {
        with_store(|store| {
            assert!(store.find(KIND, &key(1)).unwrap().is_none());
            let metadata = Metadata::from([("unit".to_owned(), "loss".to_owned())]);
            store.write(KIND, &key(1), &[TensorData::new("v", &[2, 1], &[1.5f32, -2.0])], &metadata).unwrap();
            let found = store.find(KIND, &key(1)).unwrap().unwrap();
            assert_eq!((found.kind(), found.key(), found.metadata("unit")), (KIND, key(1), Some("loss")));
            assert_eq!(found.f32("v").unwrap(), [1.5, -2.0]);
            assert_eq!(
                found.path().strip_prefix(store.folder()).unwrap().to_str(),
                Some(&format!("artifacts/{KIND}-{}.safetensors", key(1).short())[..])
            );
            assert!(store.find(KIND, &key(2)).unwrap().is_none());
            assert!(store.find("query", &key(1)).unwrap().is_none());

            // Replaced while open: the open one keeps its values.
            store.write(KIND, &key(1), &[TensorData::new("v", &[1], &[7f32])], &metadata).unwrap();
            assert_eq!(found.f32("v").unwrap(), [1.5, -2.0]);
            assert_eq!(store.find(KIND, &key(1)).unwrap().unwrap().f32("v").unwrap(), [7.0]);
            store.remove(KIND, &key(1)).unwrap();
            assert!(store.find(KIND, &key(1)).unwrap().is_none());
        });
    }

    #[test]
    fn an_artifact_under_another_name_is_refused() {
        with_store(|store| {
            store.write(KIND, &key(1), &[], &Metadata::new()).unwrap();
            let path = |kind, key| store.artifact_path(kind, &key, "").unwrap();
            fs::copy(path(KIND, key(1)), path(KIND, key(2))).unwrap();
            let error = store.find(KIND, &key(2)).unwrap_err();
            assert!(error.to_string().ends_with(&format!("has the key {}, expected {}", key(1), key(2))), "{error}");
            assert!(error.hint().unwrap().contains("safe"));

            fs::copy(path(KIND, key(1)), path("scores", key(1))).unwrap();
            assert!(matches!(store.find("scores", &key(1)), Err(StoreError::OtherKind { .. })));
        });
    }

    #[test]
    fn foreign_and_damaged_files_are_errors_not_absences() {
        with_store(|store| {
            let path = store.artifact_path(KIND, &key(1), "").unwrap();
            let put = |metadata: &[(&str, &str)]| {
                let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
                crate::store::write_safetensors(&path, &[], &metadata).unwrap();
                store.find(KIND, &key(1)).unwrap_err()
            };
            let error = put(&[]);
            assert!(
                error
                    .to_string()
                    .ends_with("its metadata has no `ascribe_format`, expected a format version as `ascribe_format`"),
                "{error}"
            );
            assert!(error.hint().unwrap().contains("safe"));
            assert!(matches!(put(&[("ascribe_format", "3")]), StoreError::FormatVersion { .. }));
            assert!(
                matches!(put(&[("ascribe_format", "1")]), StoreError::NotAnArtifact { entry, .. } if entry == "kind")
            );
            let error = put(&[("ascribe_format", "1"), ("kind", KIND), ("key", "12")]);
            assert!(error.to_string().ends_with("its metadata has `12`, expected a key as `key`"), "{error}");

            store.write(KIND, &key(1), &[TensorData::new("v", &[4], &[0f32; 4])], &Metadata::new()).unwrap();
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            let error = store.find(KIND, &key(1)).unwrap_err();
            assert!(matches!(error, StoreError::Length { .. }));
            assert!(error.hint().unwrap().contains("deleting this file is safe"));
        });
    }

    /// A process that wrote an artifact does not read it again; one that finds it does, and finds what was changed.
    #[test]
    fn a_flipped_bit_is_found_and_the_file_named() {
        with_store(|store| {
            let path = store.artifact_path(KIND, &key(1), "").unwrap();
            store.write(KIND, &key(1), &[TensorData::new("v", &[4], &[1f32; 4])], &Metadata::new()).unwrap();
            let before = crate::store::checks();
            store.find(KIND, &key(1)).unwrap().unwrap();
            let bytes = fs::read(&path).unwrap();
            for at in [bytes.len() - 1, bytes.len() - 16] {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                fs::remove_file(&path).unwrap();
                // Later than a clock that counts in few steps a second can mistake for the same moment.
                std::thread::sleep(std::time::Duration::from_millis(30));
                fs::write(&path, changed).unwrap();
                let error = store.find(KIND, &key(1)).unwrap_err();
                assert!(matches!(&error, StoreError::Damaged { file } if *file == path), "{error:?}");
                assert!(error.hint().unwrap().contains("deleting this file is safe"));
            }
            assert!(crate::store::checks().bytes >= before.bytes + 2 * bytes.len() as u64);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(store.find(KIND, &key(1)).unwrap().unwrap().f32("v").unwrap(), [1.0; 4]);
        });
    }

    #[test]
    fn kinds_and_metadata_cannot_leave_their_place() {
        with_store(|store| {
            for kind in ["", "../x", "a/b", "Scores", "a.b", "a1"] {
                assert!(matches!(store.write(kind, &key(1), &[], &Metadata::new()), Err(StoreError::Kind { .. })));
            }
            let metadata = Metadata::from([("key".to_owned(), "mine".to_owned())]);
            let problem = DeclarationError::Reserved { name: "key".to_owned() };
            let error = store.write(KIND, &key(1), &[], &metadata).unwrap_err();
            assert!(matches!(error, StoreError::Declaration { problem: p, .. } if p == problem));
        });
    }

    #[test]
    fn a_writer_keeps_its_folder_locked() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::claim(folder.path(), &key(0), Writer::Whole).unwrap();
        let spec = [TensorSpec::new("v", Dtype::F64, [1])];
        let writer = store.writer(KIND, &key(1), &spec, &Metadata::new()).unwrap();
        drop(store);
        assert!(matches!(Store::claim(folder.path(), &key(0), Writer::Whole), Err(StoreError::Locked { .. })));
        writer.write_values_at("v", 0, &[0.25]).unwrap();
        writer.finish().unwrap();
        let store = Store::claim(folder.path(), &key(0), Writer::Whole).unwrap();
        assert_eq!(store.find(KIND, &key(1)).unwrap().unwrap().f64("v").unwrap(), [0.25]);
    }

    /// Format version 1, byte by byte: this file must be readable for as long as version 1 is.
    #[test]
    fn an_artifact_of_version_1_is_read() {
        with_store(|store| {
            let header = concat!(
                r#"{"__metadata__":{"ascribe_format":"1","#,
                r#""key":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","#,
                r#""kind":"lambda","unit":"loss"},"#,
                r#""lambda":{"dtype":"F64","shape":[1,2],"data_offsets":[0,16]},"#,
                r#""counts":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}"#
            );
            let mut bytes = ((8 + header.len()).next_multiple_of(64) as u64 - 8).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(64), b' ');
            bytes.extend([0, 0, 0, 0, 0, 0, 0xe0, 0x3f]); // 0.5
            bytes.extend([0, 0, 0, 0, 0, 0, 0x08, 0xc0]); // -3
            bytes.extend([0, 0, 0xa0, 0x40]); // 5
            fs::write(store.folder().join("artifacts/lambda-0011223344556677.safetensors"), &bytes).unwrap();

            let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff".parse().unwrap();
            let artifact = store.find("lambda", &key).unwrap().unwrap();
            assert_eq!(artifact.f64("lambda").unwrap(), [0.5, -3.0]);
            assert_eq!(artifact.f32("counts").unwrap(), [5.0]);
            assert_eq!(artifact.metadata("unit"), Some("loss"));
            assert_eq!(artifact.spec("lambda").unwrap().shape, [1, 2]);

            // Today's writer lays the same tensors out in the same way, with a checksum beside them.
            let tensors =
                [TensorData::new("counts", &[1], &[5f32]), TensorData::new("lambda", &[1, 2], &[0.5f64, -3.0])];
            let metadata = Metadata::from([("unit".to_owned(), "loss".to_owned())]);
            let path = artifact.path().to_owned();
            drop(artifact);
            store.write("lambda", &key, &tensors, &metadata).unwrap();
            let written = fs::read(path).unwrap();
            let head = |bytes: &[u8]| 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(written[head(&written)..], bytes[head(&bytes)..]);
            let text = String::from_utf8(written[8..head(&written)].to_vec()).unwrap();
            let sum = store.find("lambda", &key).unwrap().unwrap().metadata("contents_blake3").unwrap().to_owned();
            let expected = header
                .replace(r#""ascribe_format":"1","#, &format!(r#""ascribe_format":"2","contents_blake3":"{sum}","#));
            assert_eq!(text.trim_end(), expected);
        });
    }
}
