//! A checkpoint's tensors on disk: one safetensors file, or shards with an index, memory-mapped. Several checkpoints of one
//! architecture can be read as their weighted mean.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::error::LoadError;
use crate::attribution::store::forget_pages;
use crate::attribution::stored_numbers::FloatType;
use crate::foreign_file;

/// The tensors of a checkpoint folder, by name; those of the base alone, if an adapter lies over it.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    files: Vec<WeightFile>,
    /// Tensor name to file.
    index: BTreeMap<String, usize>,
    /// What an error about a missing tensor names.
    origin: PathBuf,
    /// What these tensors count in a mean with `others`.
    weight: f64,
    /// Other checkpoints that a tensor is the mean with.
    others: Vec<Checkpoint>,
    /// The tensors that a model asked for, and how many of their numbers are in its tracked layers.
    asked: Mutex<BTreeMap<String, u64>>,
}

/// A mapped file with its header, which is read once.
#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Where the tensors' bytes begin.
    data: usize,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The largest index that is read, in bytes: one of a million tensors has less.
const LARGEST_INDEX: u64 = 128 << 20;

impl Checkpoint {
    /// Several checkpoints whose tensors are averaged with these weights, in `f64`, and rounded once.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub(super) fn open_mean(checkpoints: &[(&Path, f64)]) -> Result<Self, LoadError> {
        let open = |(folder, weight): &(&Path, f64)| Ok(Self { weight: *weight, ..Self::open(folder)? });
        Self::mean_of(checkpoints.iter().map(open).collect::<Result<Vec<_>, LoadError>>()?)
    }

    /// Opens the mean of checkpoints that are single files, each with its weight.
    pub(super) fn open_mean_of_files(files: &[(PathBuf, f64)]) -> Result<Self, LoadError> {
        let open = |(file, weight): &(PathBuf, f64)| Ok(Self { weight: *weight, ..Self::open_file(file.clone())? });
        Self::mean_of(files.iter().map(open).collect::<Result<Vec<_>, LoadError>>()?)
    }

    /// The mean of checkpoints, each with its weight.
    fn mean_of(mut others: Vec<Self>) -> Result<Self, LoadError> {
        let last = others.pop().ok_or_else(|| Self::absent(Path::new("")))?;
        for other in &others {
            for name in last.names().filter(|name| other.contains(name)) {
                let (found, expected) = (other.shape(name)?, last.shape(name)?);
                if found != expected {
                    let (file, other) = (other.origin.clone(), last.origin.clone());
                    return Err(LoadError::NoMean { file, name: name.to_owned(), found, expected, other });
                }
            }
        }
        Ok(Self { others, ..last })
    }

    /// Maps the weight files of a folder and checks their headers.
    ///
    /// # Errors
    /// [`LoadError`], naming the file.
    pub(super) fn open(folder: &Path) -> Result<Self, LoadError> {
        let single = folder.join(SINGLE);
        if crate::presence::is_file(&single) {
            return Self::open_file(single);
        }
        let index_file = folder.join(INDEX);
        if crate::presence::is_file(&index_file) {
            Self::open_shards(folder, index_file)
        } else {
            Err(Self::absent(folder))
        }
    }

    /// Maps one safetensors file and checks its header.
    pub(super) fn open_file(path: PathBuf) -> Result<Self, LoadError> {
        let file = WeightFile::open(path.clone())?;
        let index = file.header.tensors().into_keys().map(|name| (name, 0)).collect();
        let (others, asked) = (vec![], Mutex::default());
        Ok(Self { files: vec![file], index, origin: path, weight: 1.0, others, asked })
    }

    /// Remembers that a tensor has a place in the model.
    pub(super) fn ask_for(&self, name: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.contains_key(name) {
            asked.insert(name.to_owned(), 0);
        }
    }

    /// Remembers that a tracked layer has so many numbers of a tensor.
    pub(super) fn count_tracked(&self, name: &str, numbers: u64) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked.entry(name.to_owned()).or_default() += numbers;
    }

    fn open_shards(folder: &Path, index_file: PathBuf) -> Result<Self, LoadError> {
        let text = read(&index_file, LARGEST_INDEX)?;
        let config = |problem: String| LoadError::Config { file: index_file.clone(), problem };
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| config(format!("not valid JSON: {error}")))?;
        let entries = json.get("weight_map").and_then(|map| map.as_object());
        let entries = entries.ok_or_else(|| config("no object `weight_map`".into()))?;
        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        let mut files = Vec::new();
        let mut index = BTreeMap::new();
        for (name, shard) in entries {
            let shard = shard.as_str().ok_or_else(|| config(format!("`weight_map.{name}` is not a file name")))?;
            // a shard is a file of this folder, never a path out of it
            if Path::new(shard).file_name().and_then(|name| name.to_str()) != Some(shard) {
                return Err(config(format!("`weight_map.{name}` = `{shard}` is not a plain file name")));
            }
            let number = match shards.get(shard) {
                Some(&number) => number,
                None => {
                    let path = folder.join(shard);
                    if !crate::presence::is_file(&path) {
                        return Err(LoadError::MissingShard { index: index_file, shard: shard.to_owned() });
                    }
                    files.push(WeightFile::open(path)?);
                    shards.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            index.insert(name.clone(), number);
        }
        // what the shards hold counts, as it does for transformers; the index may know less of it
        let mut holders: BTreeMap<String, usize> = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.header.tensors().into_keys() {
                if let Some(other) = holders.insert(name.clone(), number) {
                    let other = files[other].path.clone();
                    return Err(LoadError::Twice { file: file.path.clone(), name, other });
                }
            }
        }
        for (name, number) in holders {
            index.entry(name).or_insert(number);
        }
        let (others, asked) = (vec![], Mutex::default());
        Ok(Self { files, index, origin: index_file, weight: 1.0, others, asked })
    }

    /// No safetensors in the folder: say what there is.
    fn absent(folder: &Path) -> LoadError {
        let has = |name: &str| crate::presence::is_file(&folder.join(name));
        let instead = if has("pytorch_model.bin") || has("pytorch_model.bin.index.json") {
            Some("the weights are in `pytorch_model.bin`; save them with `model.save_pretrained(folder, safe_serialization=True)`".to_owned())
        } else if has("adapter_model.safetensors") || has("adapter_config.json") {
            Some("this is a PEFT adapter: it is a model with its base, which `--base DIR` gives".to_owned())
        } else {
            checkpoints_in(folder)
        };
        LoadError::NotACheckpoint { folder: folder.to_owned(), missing: SINGLE, instead }
    }

    /// All tensor names, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// What an error about the weights as a whole names: the file, or the index.
    pub(super) fn origin(&self) -> &Path {
        &self.origin
    }

    /// The tensors that were asked for so far, whether they were read or not, and how many numbers of each are in tracked
    /// layers.
    pub(super) fn asked(&self) -> BTreeMap<String, u64> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is a tensor of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Files that the weights come from.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`].
    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>, LoadError> {
        Ok(self.view(name)?.1.shape().to_vec())
    }

    /// The type that a tensor is stored in, if it is there.
    pub(super) fn stored_type(&self, name: &str) -> Option<FloatType> {
        float_type(self.view(name).ok()?.1.dtype())
    }

    /// A tensor in the run's type.
    ///
    /// # Errors
    /// [`LoadError`] if it is missing, misshapen, of another type, or not finite.
    pub(super) fn tensor(&self, name: &str, expected: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        self.mean(dtype, |of, dtype| of.some(name, expected, None, dtype))
    }

    /// Rows of a matrix, in the order of `ids`. Of a tensor of more axes they are counted through all but the last.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`], about these rows alone; [`LoadError::Tensor`] for a row that the matrix does not have.
    pub(super) fn rows(&self, name: &str, expected: &[usize], ids: &[u32], dtype: DType) -> Result<Tensor, LoadError> {
        self.mean(dtype, |of, dtype| of.some(name, expected, Some(ids), dtype))
    }

    /// Checks presence, shape and type of a tensor, and reads none of it.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`], but for the numbers.
    pub(super) fn check(&self, name: &str, expected: &[usize]) -> Result<(), LoadError> {
        for weights in self.others.iter().chain([self]) {
            weights.checked(name, expected)?;
        }
        Ok(())
    }

    fn mean(
        &self,
        dtype: DType,
        read: impl Fn(&Self, DType) -> Result<Tensor, LoadError>,
    ) -> Result<Tensor, LoadError> {
        if self.others.is_empty() {
            return read(self, dtype);
        }
        let mut mean = (read(self, DType::F64)? * self.weight)?;
        for other in &self.others {
            mean = (mean + (read(other, DType::F64)? * other.weight)?)?;
        }
        Ok(mean.to_dtype(dtype)?)
    }

    fn checked(&self, name: &str, expected: &[usize]) -> Result<(&WeightFile, TensorView<'_>, FloatType), LoadError> {
        let (file, view) = self.view(name)?;
        self.ask_for(name);
        let path = file.path.clone();
        if view.shape() != expected {
            let (found, expected) = (view.shape().to_vec(), expected.to_vec());
            return Err(LoadError::Shape { file: path, name: name.to_owned(), found, expected });
        }
        let Some(float_type) = float_type(view.dtype()) else {
            let dtype = format!("{:?}", view.dtype());
            return Err(LoadError::Dtype { file: path, name: name.to_owned(), dtype });
        };
        Ok((file, view, float_type))
    }

    /// A tensor, or some rows, of this checkpoint alone. What was read of the file does not stay in memory.
    fn some(&self, name: &str, expected: &[usize], ids: Option<&[u32]>, dtype: DType) -> Result<Tensor, LoadError> {
        let (file, view, stored) = self.checked(name, expected)?;
        let width = expected.last().copied().unwrap_or(1);
        let non_finite = |index: usize| {
            let index = ids.map_or(index, |ids| ids[index / width] as usize * width + index % width);
            LoadError::NonFinite { file: file.path.clone(), name: name.to_owned(), index }
        };
        let (bytes, shape) = match ids {
            None => (Cow::Borrowed(view.data()), expected.to_vec()),
            Some(ids) => {
                let count = expected.iter().product::<usize>() / width.max(1);
                (Cow::Owned(gather(view.data(), count, ids)?), vec![ids.len(), width])
            }
        };
        let expect = |bytes: &[u8]| {
            if ids.is_none() {
                file.expect(bytes)
            }
        };
        let release = |bytes: &[u8]| {
            if ids.is_none() {
                file.forget(bytes)
            }
        };
        let tensor = if dtype == DType::F64 {
            let numbers = in_pieces(&bytes, expect, |bytes| stored.doubles(bytes), release);
            if let Some(index) = numbers.par_iter().position_first(|x| !x.is_finite()) {
                return Err(non_finite(index));
            }
            Tensor::from_vec(numbers, shape, &Device::Cpu)?
        } else {
            let numbers = in_pieces(&bytes, expect, |bytes| stored.singles(bytes), release);
            if let Some(index) = numbers.par_iter().position_first(|x| !x.is_finite()) {
                return Err(non_finite(index));
            }
            Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(dtype)?
        };
        file.forget(view.data());
        Ok(tensor)
    }

    /// BLAKE3 over names, types, shapes and contents: the identity of the checkpoint.
    pub(super) fn content_hash(&self) -> [u8; 32] {
        *self.hasher().finalize().as_bytes()
    }

    /// What [`Checkpoint::content_hash`] is the end of.
    pub(super) fn hasher(&self) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        for name in self.index.keys() {
            if let Ok((file, view)) = self.view(name) {
                hasher.update(format!("{name}\0{:?}{:?}\0", view.dtype(), view.shape()).as_bytes());
                for bytes in view.data().chunks(AT_ONCE) {
                    file.expect(bytes);
                    hasher.update(bytes);
                    file.forget(bytes);
                }
            }
        }
        for other in &self.others {
            hasher.update(&other.weight.to_le_bytes());
            hasher.update(&other.content_hash());
        }
        hasher
    }

    /// Whether a tensor is the same as `other`'s of that name: type, shape and every bit. False if either lacks it.
    /// What was read of the files does not stay in memory.
    pub(super) fn same(&self, other: &Self, name: &str) -> bool {
        let (Ok((file, a)), Ok((other_file, b))) = (self.view(name), other.view(name)) else { return false };
        if a.dtype() != b.dtype() || a.shape() != b.shape() {
            return false;
        }
        a.data().chunks(AT_ONCE).zip(b.data().chunks(AT_ONCE)).all(|(a, b)| {
            let same = a == b;
            file.forget(a);
            other_file.forget(b);
            same
        })
    }

    fn view(&self, name: &str) -> Result<(&WeightFile, TensorView<'_>), LoadError> {
        let missing = || LoadError::MissingTensor {
            file: self.origin.clone(),
            name: name.to_owned(),
            nearest: nearest(name, self.names()),
        };
        let file = &self.files[*self.index.get(name).ok_or_else(missing)?];
        // an index may name a shard that does not hold the tensor
        let info = file.header.info(name).ok_or_else(missing)?;
        let (start, end) = info.data_offsets;
        // the header was checked against the file's length when it was read
        let bytes = &file.map[file.data + start..file.data + end];
        let view = TensorView::new(info.dtype, info.shape.clone(), bytes).map_err(|error| file.broken(&error))?;
        Ok((file, view))
    }
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<Self, LoadError> {
        let map = map(&path)?;
        match SafeTensors::read_metadata(&map) {
            Ok((length, header)) => Ok(Self { path, map, header, data: LENGTH_BYTES + length }),
            Err(error) => Err(broken(&path, &error)),
        }
    }

    fn broken(&self, error: &SafeTensorError) -> LoadError {
        broken(&self.path, error)
    }

    /// Says that these bytes of the map are read next, all of them: the system reads them at once instead of page by
    /// page.
    fn expect(&self, bytes: &[u8]) {
        let start = bytes.as_ptr().addr() - self.map.as_ptr().addr();
        #[cfg(unix)]
        // advice that is refused costs time and nothing else
        self.map.advise_range(memmap2::Advice::WillNeed, start, bytes.len()).unwrap_or(());
        #[cfg(not(unix))]
        let _ = start;
    }

    /// Lets go of the memory in which these bytes of the map lie.
    fn forget(&self, bytes: &[u8]) {
        let start = bytes.as_ptr().addr() - self.map.as_ptr().addr();
        forget_pages(&self.map, start..start + bytes.len());
    }
}

/// Bytes of a file that are in memory together while it is read, hashed or compared; a multiple of every number's size.
const AT_ONCE: usize = 16 << 20;

/// Bytes before the header, which say how long it is.
const LENGTH_BYTES: usize = 8;

fn broken(path: &Path, error: &SafeTensorError) -> LoadError {
    LoadError::BrokenWeights { file: path.to_owned(), problem: error.to_string() }
}

/// The file as UTF-8 text, if it has at most so many bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<String, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let file = foreign_file::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut text = String::new();
    // a file may grow while it is read
    if size > limit || file.take(limit + 1).read_to_string(&mut text).map_err(unreadable)? as u64 > limit {
        return Err(LoadError::TooLarge { file: path.to_owned(), size: size.max(limit + 1), limit });
    }
    Ok(text)
}

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Mmap, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let file = foreign_file::open(path).map_err(unreadable)?;
    // SAFETY: the map is read-only. A checkpoint that somebody truncates while it is read ends the
    // process with a signal; that is documented and the usual contract of memory-mapped weights.
    unsafe { Mmap::map(&file) }.map_err(unreadable)
}

/// The bytes of some rows of a matrix of `count` rows.
fn gather(bytes: &[u8], count: usize, ids: &[u32]) -> Result<Vec<u8>, LoadError> {
    let size = bytes.len() / count.max(1);
    let mut rows = Vec::with_capacity(ids.len() * size);
    for &id in ids {
        if id as usize >= count {
            return Err(candle_core::Error::Msg(format!("row {id} of a matrix of {count} rows")).into());
        }
        rows.extend_from_slice(&bytes[id as usize * size..(id as usize + 1) * size]);
    }
    Ok(rows)
}

/// Decodes bytes a piece at a time, so that a tensor and its file are not in memory together.
fn in_pieces<T>(
    bytes: &[u8],
    expect: impl Fn(&[u8]),
    decode: impl Fn(&[u8]) -> Vec<T>,
    release: impl Fn(&[u8]),
) -> Vec<T> {
    let mut numbers = vec![];
    for piece in bytes.chunks(AT_ONCE) {
        expect(piece);
        let decoded = decode(piece);
        release(piece);
        if numbers.is_empty() {
            if piece.len() == bytes.len() {
                return decoded;
            }
            numbers.reserve_exact(bytes.len() / piece.len().max(1) * decoded.len() + decoded.len());
        }
        numbers.extend(decoded);
    }
    numbers
}

/// The type of a tensor's numbers, if it is one that weights come in.
fn float_type(dtype: Dtype) -> Option<FloatType> {
    match dtype {
        Dtype::F64 => Some(FloatType::F64),
        Dtype::F32 => Some(FloatType::F32),
        Dtype::F16 => Some(FloatType::F16),
        Dtype::BF16 => Some(FloatType::Bf16),
        _ => None,
    }
}

/// The existing name that shares the longest ending with the wanted one: prefixes are what differs
/// between classes of one architecture.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let common = |name: &str| name.bytes().rev().zip(wanted.bytes().rev()).take_while(|(a, b)| a == b).count();
    names
        .map(|name| (common(name), name))
        .filter(|(length, _)| *length > 3)
        .max_by_key(|(length, _)| *length)
        .map(|(_, name)| name.to_owned())
}

/// A hint that names the `checkpoint-N` folders, if somebody gave a Trainer's output folder.
fn checkpoints_in(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?;
    let step = |name: &str| name.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    let steps = entries.flatten().filter_map(|entry| step(&entry.file_name().to_string_lossy()));
    let last = steps.max()?;
    Some(format!(
        "this is a Trainer's output folder; give one checkpoint, the last is `{}`",
        folder.join(format!("checkpoint-{last}")).display()
    ))
}
