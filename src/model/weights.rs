//! The weights that a model is made of: a checkpoint's tensors, and the adapter that may lie over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::adapter::folder::AdapterFolder;
use super::adapter::overlay::Adapter;
use super::checkpoint::Checkpoint;
use super::error::LoadError;
use crate::attribution::stored_numbers::FloatType;

/// The tensors of a checkpoint folder, by name.
#[derive(Debug)]
pub struct Weights {
    base: Arc<Checkpoint>,
    /// The adapter that lies over them.
    adapter: Option<Arc<Adapter>>,
}

impl From<Checkpoint> for Weights {
    fn from(checkpoint: Checkpoint) -> Self {
        Self::plain(&Arc::new(checkpoint))
    }
}

impl Weights {
    /// Several checkpoints whose tensors are averaged with these weights, in `f64`, and rounded once.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_mean(checkpoints: &[(&Path, f64)]) -> Result<Self, LoadError> {
        Checkpoint::open_mean(checkpoints).map(Self::from)
    }

    /// Maps the weight files of a folder and checks their headers.
    ///
    /// # Errors
    /// [`LoadError`], naming the file.
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        Checkpoint::open(folder).map(Self::from)
    }

    /// What training changed of a checkpoint: the tensors of an adapter, if the folder is one, else all weights.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_trained(folder: &Path) -> Result<Self, LoadError> {
        match AdapterFolder::file_of(folder) {
            Some(file) => Checkpoint::open_file(file).map(Self::from),
            None => Self::open(folder),
        }
    }

    /// A checkpoint's tensors without an adapter.
    pub(super) fn plain(checkpoint: &Arc<Checkpoint>) -> Self {
        Self { base: checkpoint.clone(), adapter: None }
    }

    /// A checkpoint's tensors with an adapter over them.
    pub(super) fn adapted(base: Arc<Checkpoint>, adapter: Adapter) -> Self {
        Self { base, adapter: Some(Arc::new(adapter)) }
    }

    /// The adapter that lies over them.
    pub(super) fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.adapter.as_ref()
    }

    /// The adapter's tensors and name for a tensor that its file holds in place of the base's own.
    fn replacement(&self, name: &str) -> Option<(&Checkpoint, &str)> {
        let adapter = self.adapter.as_deref()?;
        let own = adapter.replacement(name)?;
        self.base.ask_for(name);
        Some((&adapter.weights, own))
    }

    /// The file that holds a tensor's numbers, and its name there.
    fn holder<'a>(&'a self, name: &'a str) -> (&'a Checkpoint, &'a str) {
        self.replacement(name).unwrap_or((&self.base, name))
    }

    /// Remembers that a tracked layer has so many numbers of a tensor.
    pub(super) fn count_tracked(&self, name: &str, numbers: u64) {
        self.base.count_tracked(name, numbers);
    }

    /// All tensor names, sorted; of an adapter only those of its base.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.base.names()
    }

    /// What an error about the weights as a whole names: the file, or the index.
    pub(super) fn origin(&self) -> &Path {
        self.base.origin()
    }

    /// The tensors that were asked for so far, whether they were read or not, and how many numbers of each are in tracked
    /// layers.
    pub(super) fn asked(&self) -> BTreeMap<String, u64> {
        self.base.asked()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.base.contains(name) || self.adapter.as_ref().is_some_and(|adapter| adapter.replacement(name).is_some())
    }

    /// Files that the weights come from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.base.files()
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`].
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, LoadError> {
        let (weights, own) = self.holder(name);
        weights.shape(own)
    }

    /// The type that a tensor is stored in, if it is there.
    pub(super) fn stored_type(&self, name: &str) -> Option<FloatType> {
        let (weights, own) = self.holder(name);
        weights.stored_type(own)
    }

    /// A tensor in the run's type.
    ///
    /// # Errors
    /// [`LoadError`] if it is missing, misshapen, of another type, or not finite.
    pub fn tensor(&self, name: &str, expected: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        let (weights, own) = self.holder(name);
        weights.tensor(own, expected, dtype)
    }

    /// Reads a tensor of the base, whatever an adapter's file holds in its place.
    pub(super) fn tensor_of_the_base(&self, name: &str, expected: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        self.base.tensor(name, expected, dtype)
    }

    /// Rows of a matrix, in the order of `ids`. Of a tensor of more axes they are counted through all but the last.
    ///
    /// # Errors
    /// As [`Weights::tensor`], about these rows alone; [`LoadError::Tensor`] for a row that the matrix does not have.
    pub(super) fn rows(&self, name: &str, expected: &[usize], ids: &[u32], dtype: DType) -> Result<Tensor, LoadError> {
        let (weights, own) = self.holder(name);
        weights.rows(own, expected, ids, dtype)
    }

    /// Reads rows of a matrix of the base, whatever an adapter's file holds in their place.
    pub(super) fn rows_of_the_base(
        &self,
        name: &str,
        expected: &[usize],
        ids: &[u32],
        dtype: DType,
    ) -> Result<Tensor, LoadError> {
        self.base.rows(name, expected, ids, dtype)
    }

    /// Checks presence, shape and type of a tensor, and reads none of it.
    ///
    /// # Errors
    /// As [`Weights::tensor`], but for the numbers.
    pub(super) fn check(&self, name: &str, expected: &[usize]) -> Result<(), LoadError> {
        let (weights, own) = self.holder(name);
        weights.check(own, expected)
    }

    /// BLAKE3 over names, types, shapes and contents: the identity of the checkpoint.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut hasher = self.base.hasher();
        if let Some(adapter) = &self.adapter {
            hasher.update(adapter.description().as_bytes());
            hasher.update(&adapter.weights.content_hash());
        }
        *hasher.finalize().as_bytes()
    }

    /// Whether a tensor is the same as `other`'s of that name: type, shape and every bit. False if either lacks it.
    /// What was read of the files does not stay in memory.
    pub fn same(&self, other: &Self, name: &str) -> bool {
        self.base.same(&other.base, name)
    }
}
