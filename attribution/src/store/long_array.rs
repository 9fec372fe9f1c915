//! Arrays that grow at their end and may be longer than memory: of millions of texts, tokens, names and numbers.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Bytes up to which an array stays in memory.
const IN_MEMORY: usize = 16 << 20;
/// Bytes of a file at least, and that it grows by at most.
const LEAST_ROOM: usize = 64 << 20;
const MOST_ROOM: usize = 1 << 30;
/// Bytes that are read or written before what lies behind them may leave the memory.
const STRIDE: usize = 32 << 20;

/// An array that grows at its end. A short one lies in memory. A long one lies in a file without a name, in the folder of
/// temporary files (`TMPDIR`), whose pages the system takes out of memory when it needs room; the file is gone with the
/// process. Where there is no room for such a file the array stays in memory.
pub struct LongArray<T> {
    /// All elements, or none once there is a file.
    memory: Vec<T>,
    file: Option<Box<Mapped>>,
    length: usize,
}

/// A file that is mapped whole.
struct Mapped {
    file: File,
    map: MmapMut,
}

impl Mapped {
    /// A file of this many bytes, all of which are taken on the disk.
    fn create(bytes: usize) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        let map = map(&file, bytes)?;
        Ok(Self { file, map })
    }

    fn grow(&mut self, bytes: usize) -> io::Result<()> {
        self.map = map(&self.file, bytes)?;
        Ok(())
    }
}

#[allow(unsafe_code)] // a map of a file that only this process has
fn map(file: &File, bytes: usize) -> io::Result<MmapMut> {
    take_room(file, bytes as u64)?;
    // SAFETY: the file has no name, so that nobody else changes or shortens it, and all its bytes are on the disk already,
    // so that no page can fail for want of room.
    unsafe { MmapMut::map_mut(file) }
}

/// Takes the room on the disk: a hole that is written through a map when the disk is full would end the process.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn take_room(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn take_room(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl<T: Pod> LongArray<T> {
    /// An empty array.
    pub const fn new() -> Self {
        Self { memory: Vec::new(), file: None, length: 0 }
    }

    /// Adds an element.
    pub fn push(&mut self, element: T) {
        self.extend_from_slice(&[element]);
    }

    /// Adds elements.
    pub fn extend_from_slice(&mut self, elements: &[T]) {
        let length = self.length + elements.len();
        self.reserve(length);
        match &mut self.file {
            None => self.memory.extend_from_slice(elements),
            Some(mapped) => {
                let size = size_of::<T>();
                mapped.map[self.length * size..length * size].copy_from_slice(bytemuck::cast_slice(elements));
                self.passed(self.length..length);
            }
        }
        self.length = length;
    }

    /// Cuts the array, or adds copies of an element, so that it has this many.
    pub fn resize(&mut self, length: usize, element: T) {
        if length < self.length {
            self.memory.truncate(length);
            self.length = length;
        }
        const TOGETHER: usize = 1024;
        while self.length < length {
            let missing = (length - self.length).min(TOGETHER);
            self.extend_from_slice(&[element; TOGETHER][..missing]);
        }
    }

    /// Makes room for this many elements.
    fn reserve(&mut self, length: usize) {
        let bytes = length * size_of::<T>();
        if let Some(mapped) = &mut self.file {
            let wanted = bytes + (bytes / 2).clamp(LEAST_ROOM, MOST_ROOM);
            if bytes > mapped.map.len() && mapped.grow(wanted).is_err() {
                self.memory = self.to_vec();
                self.file = None;
            }
        } else if bytes > IN_MEMORY
            && self.memory.capacity() < length
            && let Ok(mut mapped) = Mapped::create(bytes + LEAST_ROOM)
        {
            mapped.map[..self.length * size_of::<T>()].copy_from_slice(bytemuck::cast_slice(&self.memory));
            self.memory = Vec::new();
            self.file = Some(Box::new(mapped));
        }
    }

    /// Whether it takes the process's memory, and not a file's.
    pub fn is_in_memory(&self) -> bool {
        self.file.is_none()
    }

    /// Says that these elements were read or written, in order with those before them: from time to time what lies behind
    /// leaves the memory, and is found in the file again.
    pub fn passed(&self, elements: Range<usize>) {
        let Some(mapped) = &self.file else { return };
        let [from, to] = [elements.start, elements.end].map(|element| element * size_of::<T>() / STRIDE);
        if from < to {
            forget(&mapped.map, to * STRIDE);
        }
    }

    /// Lets everything that lies in a file leave the memory.
    pub fn forget(&self) {
        if let Some(mapped) = &self.file {
            forget(&mapped.map, mapped.map.len());
        }
    }
}

/// Lets the first bytes of a map leave the memory.
#[cfg(unix)]
#[allow(unsafe_code)] // advice that drops pages is unsafe for maps whose pages are nowhere else
fn forget(map: &MmapMut, bytes: usize) {
    // SAFETY: the map is shared with its file, so that a page that was written to is in the system's cache of the file and
    // is found there by the next access, also by a concurrent one.
    let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, 0, bytes) };
    // a system that refuses keeps the pages, which costs memory and nothing else
    advised.unwrap_or(());
}

#[cfg(not(unix))]
fn forget(_: &MmapMut, _: usize) {}

impl<T: Pod> Deref for LongArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.file {
            None => &self.memory,
            // a map begins at a page, so that every element is aligned
            Some(mapped) => bytemuck::cast_slice(&mapped.map[..self.length * size_of::<T>()]),
        }
    }
}

impl<T: Pod> Extend<T> for LongArray<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, elements: I) {
        elements.into_iter().for_each(|element| self.push(element));
    }
}

impl<T: Pod> FromIterator<T> for LongArray<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut array = Self::new();
        array.extend(elements);
        array
    }
}

impl<T: Pod> Default for LongArray<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> std::fmt::Debug for LongArray<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LongArray").field("length", &self.length).field("in_file", &self.file.is_some()).finish()
    }
}

/// Texts one behind the other. The parts of a text are added as one and read as one.
#[derive(Debug, Default)]
pub struct LongTexts {
    bytes: LongArray<u8>,
    /// Where each text ends.
    ends: LongArray<u64>,
}

impl LongTexts {
    /// No texts.
    pub const fn new() -> Self {
        Self { bytes: LongArray::new(), ends: LongArray::new() }
    }

    /// Adds a text.
    pub fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len() as u64);
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Text `i`.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        let end = self.ends[i] as usize;
        self.ends.passed(i..i + 1);
        self.bytes.passed(start..end);
        let bytes = &self.bytes[start..end];
        std::str::from_utf8(bytes).expect("only whole texts were added")
    }

    /// Lets what lies in a file leave the memory.
    pub fn forget(&self) {
        self.bytes.forget();
        self.ends.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_array_is_the_same_in_memory_and_in_a_file() {
        let mut array = LongArray::new();
        let mut plain: Vec<u32> = vec![];
        let mut next = 0_u32;
        let mut was_in_memory = false;
        // past the first file, so that it grows once
        while plain.len() * 4 < IN_MEMORY + LEAST_ROOM + STRIDE {
            let part: Vec<u32> = (0..70_001).map(|k| next.wrapping_mul(2_654_435_761).wrapping_add(k)).collect();
            next += 1;
            array.extend_from_slice(&part);
            plain.extend_from_slice(&part);
            was_in_memory |= array.file.is_none();
        }
        assert!(was_in_memory && array.file.is_some());
        assert!(array[..] == plain[..], "the elements are those that were added");
        array.passed(0..plain.len());
        array.forget();
        assert!(array[..] == plain[..], "forgotten pages are found in the file");
        array.push(7);
        array.resize(plain.len() + 3, 9);
        assert_eq!(array[plain.len()..], [7, 9, 9]);
        array.resize(5, 0);
        assert_eq!(array[..], plain[..5]);
        array.push(1);
        assert_eq!(array[5], 1);
    }

    #[test]
    fn short_arrays_and_texts() {
        let mut array: LongArray<u64> = (0..10).collect();
        array.resize(3, 0);
        array.resize(5, 8);
        assert_eq!(array[..], [0, 1, 2, 8, 8]);
        assert!(array.file.is_none());
        let mut texts = LongTexts::new();
        for text in ["", "a", "größer", ""] {
            texts.push(text);
        }
        assert_eq!((0..texts.len()).map(|i| texts.get(i)).collect::<Vec<_>>(), ["", "a", "größer", ""]);
    }
}
