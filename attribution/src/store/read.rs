//! Reading safetensors files: mapped into memory, checked, and borrowed as typed slices.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::layout::{MAX_HEADER, Place, long_entry};
use super::{Dtype, Element, FORMAT, KNOWN_FORMATS, Metadata, StoreError, TensorSpec, checksum, forget_pages};
use crate::foreign_file;

/// An open safetensors file. Its tensors are borrowed from the memory map: the operating system reads what
/// is touched and may drop it again, so a file can be larger than memory.
///
/// Files of a run folder are never changed once they have their name, only replaced or deleted, and a map
/// outlasts both. A file that another program shortens while it is open ends this one with a bus error.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// By name.
    places: BTreeMap<String, Place>,
    /// In the order of the file.
    names: Vec<String>,
}

impl TensorFile {
    /// Opens a file and checks its header against its size.
    ///
    /// # Errors
    /// [`StoreError::Length`], [`StoreError::Header`] or [`StoreError::UnsupportedType`] if it is not a whole
    /// safetensors file; [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::open_with_file(path)?.0)
    }

    /// Opens a file that this program wrote, and compares its contents with the checksum that was written with them,
    /// once in a process. Files of format 1 have none and pass, as do other programs' files.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`StoreError::Damaged`]; [`StoreError::FormatVersion`] for results of a format that
    /// this program does not know.
    pub fn open_checked(path: &Path) -> Result<Self, StoreError> {
        let (found, file) = Self::open_with_file(path)?;
        found.check_format()?;
        if found.metadata(checksum::ENTRY).is_some() || found.has_checksum_by_format() {
            let n = u64::from_le_bytes(*found.map.first_chunk::<8>().expect("opening has read it"));
            checksum::check(path, &file, found.map.len() as u64, &found.map[8..8 + n as usize])?;
        }
        Ok(found)
    }

    /// Does the file say that it is one of this program's, of a format whose files all have checksums?
    fn has_checksum_by_format(&self) -> bool {
        self.metadata("ascribe_format").or_else(|| self.metadata("format")) == Some(&FORMAT.to_string()[..])
    }

    /// Refuses results of a format that this program does not know. Other programs may use the entry as they like, if
    /// not for a number.
    fn check_format(&self) -> Result<(), StoreError> {
        let found = self.metadata("format");
        let is_ours = self.metadata("ascribe_key").is_some();
        let is_number = found.is_some_and(|found| found.parse::<f64>().is_ok());
        let is_known = found.is_some_and(|found| KNOWN_FORMATS.iter().any(|format| format.to_string() == found));
        if (is_ours || is_number) && !is_known {
            let found = found.unwrap_or("none").to_owned();
            return Err(StoreError::FormatVersion { file: self.path.clone(), found, supported: FORMAT });
        }
        Ok(())
    }

    fn open_with_file(path: &Path) -> Result<(Self, File), StoreError> {
        let (map, file) = map(path)?;
        let found = map.len() as u64;
        let length_error = |expected: u64| StoreError::Length { file: path.to_owned(), expected, found };
        let header_error = |source| StoreError::Header { file: path.to_owned(), source };

        // The frame is checked here, with sums that cannot overflow and errors that say how much is missing.
        let Some((n, rest)) = map.split_first_chunk::<8>() else { return Err(length_error(8)) };
        let n = u64::from_le_bytes(*n);
        if n > MAX_HEADER {
            return Err(header_error(format!("its header would have {n} bytes").into()));
        }
        let Some(header) = rest.get(..n as usize) else { return Err(length_error(8 + n)) };
        let header: safetensors::tensor::Metadata =
            serde_json::from_slice(header).map_err(|error| header_error(error.into()))?;
        let first = 8 + n;
        let expected = first.saturating_add(header.data_len() as u64);
        if expected != found {
            return Err(length_error(expected));
        }

        let names = header.offset_keys();
        let mut places = BTreeMap::new();
        for name in &names {
            let info = header.info(name).expect("the name comes from this header");
            let dtype = info.dtype.to_string();
            let dtype = Dtype::of_name(&dtype).ok_or_else(|| StoreError::UnsupportedType {
                file: path.to_owned(),
                tensor: name.clone(),
                dtype,
            })?;
            let (start, end) = info.data_offsets;
            let place = Place {
                spec: TensorSpec::new(name, dtype, &info.shape[..]),
                start: first + start as u64,
                length: (end - start) as u64,
            };
            places.insert(name.clone(), place);
        }
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok((Self { path: path.to_owned(), map, metadata, places, names }, file))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, as they lie in the file.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// An entry of the metadata; one that is too long for the header is the text in the tensor `metadata.ENTRY`.
    pub fn metadata(&self, entry: &str) -> Option<&str> {
        let long = || self.u8(&long_entry(entry)).ok().and_then(|bytes| std::str::from_utf8(bytes).ok());
        self.metadata.get(entry).map(String::as_str).or_else(long)
    }

    /// The metadata in the header.
    pub fn all_metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Type and shape of a tensor.
    ///
    /// # Errors
    /// [`StoreError::NoTensor`].
    pub fn spec(&self, tensor: &str) -> Result<&TensorSpec, StoreError> {
        Ok(&self.place(tensor)?.spec)
    }

    /// A tensor's bytes, whatever its type.
    ///
    /// # Errors
    /// [`StoreError::NoTensor`].
    pub fn bytes(&self, tensor: &str) -> Result<&[u8], StoreError> {
        let place = self.place(tensor)?;
        // Opening has checked that the tensors fill the file, so both fit an index of the map.
        Ok(&self.map[place.start as usize..(place.start + place.length) as usize])
    }

    /// A tensor's elements, row-major.
    ///
    /// # Errors
    /// [`StoreError::NoTensor`]; [`StoreError::OtherType`]; [`StoreError::Misaligned`], which only files of
    /// other programs can give.
    pub fn values<E: Element>(&self, tensor: &str) -> Result<&[E], StoreError> {
        let found = self.place(tensor)?.spec.dtype;
        if found != E::DTYPE {
            return Err(StoreError::OtherType {
                file: self.path.clone(),
                tensor: tensor.to_owned(),
                expected: E::DTYPE,
                found,
            });
        }
        let bytes = self.bytes(tensor)?;
        if bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(bytes).map_err(|_| StoreError::Misaligned {
            file: self.path.clone(),
            tensor: tensor.to_owned(),
            dtype: found,
        })
    }

    /// [`values`](Self::values) of an f32 tensor.
    ///
    /// # Errors
    /// As there.
    pub fn f32(&self, tensor: &str) -> Result<&[f32], StoreError> {
        self.values(tensor)
    }

    /// [`values`](Self::values) of an f64 tensor.
    ///
    /// # Errors
    /// As there.
    pub fn f64(&self, tensor: &str) -> Result<&[f64], StoreError> {
        self.values(tensor)
    }

    /// [`values`](Self::values) of an i64 tensor.
    ///
    /// # Errors
    /// As there.
    pub fn i64(&self, tensor: &str) -> Result<&[i64], StoreError> {
        self.values(tensor)
    }

    /// [`values`](Self::values) of a u8 tensor.
    ///
    /// # Errors
    /// As there.
    pub fn u8(&self, tensor: &str) -> Result<&[u8], StoreError> {
        self.values(tensor)
    }

    /// Lets go of the memory that holds a tensor ([`forget_pages`]); its next use reads the file again.
    pub fn forget(&self, tensor: &str) {
        if let Some(place) = self.places.get(tensor) {
            forget_pages(&self.map, place.start as usize..(place.start + place.length) as usize);
        }
    }

    fn place(&self, tensor: &str) -> Result<&Place, StoreError> {
        self.places.get(tensor).ok_or_else(|| StoreError::NoTensor {
            file: self.path.clone(),
            tensor: tensor.to_owned(),
            existing: self.names.clone(),
        })
    }
}

#[allow(unsafe_code)] // memory maps are files, and files belong to everyone
fn map(path: &Path) -> Result<(Mmap, File), StoreError> {
    let file = foreign_file::open(path).map_err(StoreError::io("open", path, 0))?;
    // SAFETY: files of the store are complete before they get their name (`PendingFile::persist`) and are
    // never opened for writing again; replacing or deleting one leaves the mapped file as it is. That no
    // other program changes them is the contract of the run folder, stated at `TensorFile`. No value has
    // forbidden bit patterns (`bytemuck::Pod`), so even that could not make an invalid one.
    let map = unsafe { Mmap::map(&file) }.map_err(StoreError::io("map", path, 0))?;
    Ok((map, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{TensorData, write_safetensors};
    use proptest::prelude::*;

    fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn open(bytes: &[u8]) -> Result<TensorFile, StoreError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        TensorFile::open(&path)
    }

    #[test]
    fn values_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let doubles = [0.1, -0.0, f64::INFINITY, f64::from_bits(0x7ff8_0000_0000_1234)];
        let singles = [1.5f32, f32::from_bits(1), -2.0];
        let tensors = [
            TensorData::new("u", &[5], &[1u8, 2, 3, 4, 5]),
            TensorData::new("f", &[3, 1], &singles),
            TensorData::new("d", &[2, 2], &doubles),
            TensorData::new("i", &[1], &[i64::MIN]),
            TensorData::new::<f64>("empty", &[0, 7], &[]),
        ];
        let metadata = Metadata::from([("convention".to_owned(), "positive = proponent \"é\"\n".to_owned())]);
        write_safetensors(&path, &tensors, &metadata).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.u8("u").unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(file.i64("i").unwrap(), [i64::MIN]);
        assert_eq!(file.f64("empty").unwrap(), [0.0; 0]);
        assert_eq!(file.spec("empty").unwrap().shape, [0, 7]);
        let bits: Vec<u64> = file.f64("d").unwrap().iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, doubles.map(f64::to_bits));
        assert_eq!(file.f32("f").unwrap(), singles);
        assert_eq!(file.metadata("convention"), Some("positive = proponent \"é\"\n"));
        assert_eq!(file.names(), ["d", "i", "empty", "f", "u"]);
        assert!(matches!(file.f32("d"), Err(StoreError::OtherType { found: Dtype::F64, .. })));
        assert!(matches!(file.f32("x"), Err(StoreError::NoTensor { .. })));
    }

    #[test]
    fn a_shortened_or_lengthened_file_is_refused_at_every_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_safetensors(&path, &[TensorData::new("a", &[3], &[1f32, 2.0, 3.0])], &Metadata::new()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            assert!(matches!(open(&bytes[..n]), Err(StoreError::Length { found, .. }) if found == n as u64), "{n}");
        }
        bytes.push(0);
        let error = open(&bytes).unwrap_err().to_string();
        assert!(error.ends_with("holds 205 bytes, its header describes 204"), "{error}");
    }

    #[test]
    fn lying_headers_are_refused() {
        let eighth = usize::MAX / 8;
        let huge: Vec<String> = (0..9u128)
            .map(|i| {
                let (start, end) = (i * eighth as u128, (i + 1) * eighth as u128);
                format!(r#""{i}":{{"dtype":"U8","shape":[{eighth}],"data_offsets":[{start},{end}]}}"#)
            })
            .collect();
        let headers = [
            "".to_owned(),
            "[]".to_owned(),
            "{".to_owned(),
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.to_owned(),
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.to_owned(),
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#.to_owned(),
            r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
            r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.to_owned(),
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#.to_owned(),
            r#"{"__metadata__":{"a":1}}"#.to_owned(),
            format!("{{{}}}", huge.join(",")),
        ];
        for header in headers {
            let result = open(&file_of(&header, &[0; 4]));
            assert!(matches!(result, Err(StoreError::Header { .. })), "{header}: {result:?}");
        }
        let near_the_end = format!("{{{}}}", huge[..8].join(","));
        assert!(matches!(open(&file_of(&near_the_end, &[])), Err(StoreError::Length { expected: u64::MAX, .. })));
        let mut long = file_of("{}", &[]);
        long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(open(&long), Err(StoreError::Header { .. })));
        let flags = r#"{"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}"#;
        assert!(matches!(open(&file_of(flags, &[0; 4])), Err(StoreError::UnsupportedType { .. })));
    }

    #[test]
    fn a_foreign_file_may_be_misaligned_and_says_so() {
        let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#;
        // Whatever the header's length, not both of the two places are aligned.
        let mut outcomes = [header.to_owned(), format!("{header} ")].map(|h| open(&file_of(&h, &[0; 5])).unwrap());
        assert!(outcomes.iter_mut().any(|file| matches!(file.f32("b"), Err(StoreError::Misaligned { .. }))));
        assert_eq!(outcomes[0].bytes("b").unwrap(), [0; 4]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_opening_panic(flips in proptest::collection::vec((0usize..140, any::<u8>()), 0..6), cut in 0usize..140) {
            let header = r#"{"__metadata__":{"a":"b"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
            let mut bytes = file_of(header, &[0; 8]);
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut.min(bytes.len()) * (cut % 3 / 2));
            if let Ok(file) = open(&bytes) {
                for name in file.names() {
                    prop_assert!(file.bytes(name).is_ok());
                }
            }
        }
    }
}
