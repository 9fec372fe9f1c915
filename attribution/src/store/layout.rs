//! How tensors lie in a safetensors file: their declarations, the header, and every tensor's place.
//!
//! The format wants the tensors without gaps. They are therefore ordered by the size of their elements,
//! largest first (and as declared among equals), and the header is padded with spaces to a multiple of
//! [`ALIGNMENT`]: then every tensor is aligned for its own type and can be borrowed from a memory map.
//! The bytes depend on nothing but the declarations, the metadata, which is sorted by name, and the checksum among
//! it, which depends on the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{DeclarationError, StoreError, checksum};

/// Where the tensors of a file written here start: a multiple of this, in bytes.
pub(super) const ALIGNMENT: u64 = 64;
/// The largest header that the safetensors crate reads.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// The header's entry for metadata.
const METADATA: &str = "__metadata__";

/// Bytes of the longest entry of metadata that stands in the header. A longer one, such as the ids of millions of
/// examples, is a tensor of bytes whose name is [`long_entry`]'s.
const LONGEST_ENTRY: usize = 16 << 20;

/// The tensor that holds a long entry of metadata as UTF-8.
pub(super) fn long_entry(name: &str) -> String {
    format!("metadata.{name}")
}

/// String metadata of a file.
pub type Metadata = BTreeMap<String, String>;

/// The type of a tensor's elements, stored in little-endian order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // the names say it
pub enum Dtype {
    F64,
    I64,
    U64,
    F32,
    I32,
    U32,
    F16,
    Bf16,
    U8,
}

impl Dtype {
    const ALL: [Self; 9] =
        [Self::F64, Self::I64, Self::U64, Self::F32, Self::I32, Self::U32, Self::F16, Self::Bf16, Self::U8];

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// The name in a header.
    fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
            Self::F32 => "F32",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::U8 => "U8",
        }
    }

    /// The type of this name in a header.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Name, type and shape of a tensor whose values come later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name in the file.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this name, type and shape.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, Copy)]
pub struct TensorData<'a> {
    /// The tensor's name in the file.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: &'a [usize],
    /// Its elements, little-endian.
    pub bytes: &'a [u8],
}

/// Types whose values can be written from a slice and borrowed from a file.
pub trait Element: sealed::Sealed {
    /// The type in the file.
    const DTYPE: Dtype;
}

mod sealed {
    /// Any bytes are such a value, and its bytes are its bytes in the file.
    pub trait Sealed: bytemuck::Pod {}
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),*) => {
        $(impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        })*
    };
}
elements!(f64 => F64, i64 => I64, u64 => U64, f32 => F32, i32 => I32, u32 => U32, u8 => U8);

// Elements are written and borrowed as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "files hold little-endian numbers");

impl<'a> TensorData<'a> {
    /// A tensor of these values.
    pub fn new<E: Element>(name: &'a str, shape: &'a [usize], values: &'a [E]) -> Self {
        Self { name, dtype: E::DTYPE, shape, bytes: bytemuck::cast_slice(values) }
    }
}

/// A tensor and where it lies.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) spec: TensorSpec,
    /// Bytes from the file's start.
    pub(super) start: u64,
    /// Its size in bytes.
    pub(super) length: u64,
}

/// A file's first bytes, and the place of each tensor.
#[derive(Debug)]
pub(super) struct Layout {
    /// The header's length, the header, and its padding.
    pub(super) head: Vec<u8>,
    /// In the order of the file.
    pub(super) places: Vec<Place>,
    /// Entries of metadata that are too long for the header, by the tensors that hold them.
    pub(super) long_entries: Metadata,
    /// Where the digits of the file's checksum stand in the head, to be filled in when the file is whole.
    pub(super) slot: Range<u64>,
    /// The size of the whole file in bytes.
    pub(super) total: u64,
}

impl Layout {
    /// Places these tensors in `file`, which is named in errors only.
    pub(super) fn new(file: &Path, tensors: &[TensorSpec], metadata: &Metadata) -> Result<Self, StoreError> {
        // What a copied header says of other contents gives way.
        let is_long = |text: &str| text.len() > LONGEST_ENTRY;
        let entries = |long: bool| metadata.iter().filter(move |(_, text)| is_long(text) == long);
        let long_entries: Metadata = entries(true).map(|(name, text)| (long_entry(name), text.clone())).collect();
        let mut metadata: Metadata = entries(false).map(|(name, text)| (name.clone(), text.clone())).collect();
        metadata.insert(checksum::ENTRY.to_owned(), checksum::empty());
        let refuse = |problem| StoreError::Declaration { file: file.to_owned(), problem };
        let too_large = |spec: &TensorSpec| {
            refuse(DeclarationError::TooLarge { tensor: spec.name.clone(), shape: spec.shape.clone() })
        };
        let held = |(name, text): (&String, &String)| TensorSpec::new(name, Dtype::U8, [text.len()]);
        let holders: Vec<TensorSpec> = long_entries.iter().map(held).collect();
        let mut names = BTreeSet::new();
        let mut places = Vec::with_capacity(tensors.len());
        for spec in tensors.iter().chain(&holders) {
            if spec.name == METADATA {
                return Err(refuse(DeclarationError::Reserved { name: spec.name.clone() }));
            }
            if !names.insert(&spec.name) {
                return Err(refuse(DeclarationError::Twice { tensor: spec.name.clone() }));
            }
            let length = byte_length(spec.dtype, &spec.shape).ok_or_else(|| too_large(spec))?;
            places.push(Place { spec: spec.clone(), start: 0, length });
        }
        places.sort_by_key(|place| std::cmp::Reverse(place.spec.dtype.size()));
        let mut end = 0u64;
        for place in &mut places {
            place.start = end;
            // A file's size is a signed number; leave room for the header.
            end = end
                .checked_add(place.length)
                .filter(|&end| end <= i64::MAX as u64 - 2 * MAX_HEADER)
                .ok_or_else(|| too_large(&place.spec))?;
        }

        let header = serde_json::to_vec(&Header { metadata: &metadata, places: &places })
            .expect("strings and numbers always have a form in JSON");
        let padded = (8 + header.len() as u64).next_multiple_of(ALIGNMENT) - 8;
        if padded > MAX_HEADER {
            return Err(refuse(DeclarationError::Header { bytes: padded, limit: MAX_HEADER }));
        }
        let slot = checksum::slot(&header).expect("the entry is in every header");
        let slot = 8 + slot.start as u64..8 + slot.end as u64;
        let mut head = padded.to_le_bytes().to_vec();
        head.extend(header);
        head.resize(8 + padded as usize, b' ');
        let first = head.len() as u64;
        places.iter_mut().for_each(|place| place.start += first);
        Ok(Self { head, places, long_entries, slot, total: first + end })
    }
}

/// The bytes of a tensor; none if there is no such number.
fn byte_length(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(dtype.size() as u64, |bytes, &n| bytes.checked_mul(n as u64))
}

/// The header as JSON: the metadata first, then the tensors as they lie.
struct Header<'a> {
    metadata: &'a Metadata,
    places: &'a [Place],
}

#[derive(serde::Serialize)]
struct Entry<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: (u64, u64),
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(METADATA, self.metadata)?;
        for Place { spec, start, length } in self.places {
            let entry = Entry { dtype: spec.dtype.name(), shape: &spec.shape, data_offsets: (*start, start + length) };
            map.serialize_entry(&spec.name, &entry)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(tensors: &[TensorSpec]) -> Result<Layout, DeclarationError> {
        Layout::new(Path::new("f"), tensors, &Metadata::new()).map_err(|error| match error {
            StoreError::Declaration { problem, .. } => problem,
            other => panic!("{other}"),
        })
    }

    #[test]
    fn every_tensor_is_aligned_for_its_type_and_none_leaves_a_gap() {
        let specs = [
            TensorSpec::new("bytes", Dtype::U8, [3]),
            TensorSpec::new("singles", Dtype::F32, [5, 1]),
            TensorSpec::new("halves", Dtype::Bf16, [1]),
            TensorSpec::new("doubles", Dtype::F64, [7]),
            TensorSpec::new("none", Dtype::F32, [0, 4]),
            TensorSpec::new("one", Dtype::I64, [0; 0]),
        ];
        let layout = layout(&specs).unwrap();
        let mut end = layout.head.len() as u64;
        assert_eq!(end % ALIGNMENT, 0);
        for place in &layout.places {
            assert_eq!(place.start, end);
            assert_eq!(place.start % place.spec.dtype.size() as u64, 0, "{}", place.spec.name);
            end += place.length;
        }
        assert_eq!(layout.total, end);
        assert_eq!(end - layout.head.len() as u64, 3 + 20 + 2 + 56 + 8);
        let names: Vec<_> = layout.places.iter().map(|place| &place.spec.name[..]).collect();
        assert_eq!(names, ["doubles", "one", "singles", "none", "halves", "bytes"]);
    }

    #[test]
    fn declarations_that_no_file_can_hold_are_refused() {
        let one = TensorSpec::new("x", Dtype::U8, [1]);
        assert_eq!(layout(&[one.clone(), one]).unwrap_err(), DeclarationError::Twice { tensor: "x".into() });
        assert_eq!(
            layout(&[TensorSpec::new("__metadata__", Dtype::U8, [1])]).unwrap_err(),
            DeclarationError::Reserved { name: "__metadata__".into() }
        );
        for shape in [vec![usize::MAX], vec![1 << 40, 1 << 40]] {
            assert_eq!(
                layout(&[TensorSpec::new("x", Dtype::F32, shape.clone())]).unwrap_err(),
                DeclarationError::TooLarge { tensor: "x".into(), shape }
            );
        }
        let half = || vec![1usize << 62];
        let two = [TensorSpec::new("x", Dtype::U8, half()), TensorSpec::new("y", Dtype::U8, half())];
        assert!(matches!(layout(&two), Err(DeclarationError::TooLarge { tensor, .. }) if tensor == "y"));
        let long = TensorSpec::new("x".repeat(MAX_HEADER as usize), Dtype::U8, [1]);
        assert!(matches!(layout(&[long]), Err(DeclarationError::Header { .. })));
    }
}
