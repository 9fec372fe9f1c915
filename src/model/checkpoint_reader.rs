//! A checkpoint's tensors as one model reads them: checked when they are asked for, read when they are needed, and changed by
//! what an adapter makes of them.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};

use super::adapter::mode::AdapterMode;
use super::config::Config;
use super::error::LoadError;
use super::load_options::LoadOptions;
use super::residence::{Held, Stored, in_a_section};
use super::weights::Weights;
use crate::curvature::gemm::Products;

/// A table of rows by number, of which a batch needs a few.
pub(super) type Embedding = Held<StoredTensor>;

/// A checkpoint's tensors as one model reads them.
#[derive(Debug, Clone)]
pub(super) struct CheckpointReader {
    pub(super) weights: Arc<Weights>,
    /// In front of every name: a checkpoint of a base class has none.
    prefix: &'static str,
    dtype: DType,
    /// How products of linear layers, attention and head run.
    pub(super) products: Products,
    device: Device,
    asked: Arc<Asked>,
    /// Where notes about the checkpoint go.
    config: Config,
}

/// Sizes of the tensors that were asked of a reader and of its clones so far.
#[derive(Debug, Default)]
struct Asked {
    parameters: AtomicU64,
    activations: AtomicU64,
    tracked: AtomicU64,
}

/// Sizes of the tensors that were asked of a reader, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// In all tensors.
    pub(super) parameters: u64,
    /// Inputs and outputs of linear layers at one position.
    pub(super) activations: u64,
    /// Tracked layers.
    pub(super) tracked: u64,
}

impl CheckpointReader {
    pub(super) fn new(weights: &Arc<Weights>, prefix: &'static str, config: &Config, options: &LoadOptions) -> Self {
        let LoadOptions { dtype, products, device, .. } = options;
        Self {
            weights: weights.clone(),
            prefix,
            dtype: *dtype,
            products: *products,
            device: device.clone(),
            asked: Arc::default(),
            config: config.clone(),
        }
    }

    /// Heads of attention, under the name that the configuration has for them; 0 if it has none.
    pub(super) fn heads(&self) -> u64 {
        let names = ["num_attention_heads", "n_head", "num_heads"].into_iter();
        names.filter_map(|name| self.config.optional_size(name).ok().flatten()).next().unwrap_or(0) as u64
    }

    /// Sizes of everything that was asked for so far.
    pub(super) fn sizes(&self) -> Sizes {
        let Asked { parameters, activations, tracked } = &*self.asked;
        let [parameters, activations, tracked] =
            [parameters, activations, tracked].map(|count| count.load(Ordering::Relaxed));
        Sizes { parameters, activations, tracked }
    }

    /// The configuration beside the tensors.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Notes something for a person.
    pub(super) fn note(&self, note: impl Into<String>) {
        self.config.note(note);
    }

    /// A name as the checkpoint has it.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether the checkpoint holds this tensor.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.weights.contains(&format!("{}{name}", self.prefix))
    }

    /// A tensor whose presence, shape and type are checked now.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, LoadError> {
        self.tensor_at(format!("{}{name}", self.prefix), shape)
    }

    /// A tensor by its full name. The weight of an embedding that has an adapter is the merged one.
    pub(super) fn tensor_at(&self, name: String, shape: &[usize]) -> Result<StoredTensor, LoadError> {
        self.weights.check(&name, shape)?;
        self.asked.parameters.fetch_add(shape.iter().product::<usize>() as u64, Ordering::Relaxed);
        Ok(StoredTensor {
            name,
            shape: shape.to_vec(),
            source: Arc::new(self.clone()),
            is_of_the_base: false,
            change: None,
            range: None,
            rows: None,
        })
    }

    /// Whether an adapter's file holds a tensor in place of the base's.
    pub(super) fn is_replaced(&self, tensor: &StoredTensor) -> bool {
        self.weights.adapter().is_some_and(|adapter| adapter.replacement(&tensor.name).is_some())
    }

    /// Whether an adapter alone is tracked, which left this tensor as the base has it: what training did not change is in no
    /// score.
    pub(super) fn is_frozen(&self, tensor: &StoredTensor) -> bool {
        let is_only = self.weights.adapter().is_some_and(|adapter| adapter.mode == AdapterMode::Only);
        is_only && !self.is_replaced(tensor)
    }

    /// This reader with other weights, whose names are whole.
    pub(super) fn of(&self, weights: &Arc<Weights>) -> Self {
        Self { weights: weights.clone(), prefix: "", ..self.clone() }
    }

    /// Counts tracked layers.
    pub(super) fn add_tracked(&self, layers: usize) {
        self.asked.tracked.fetch_add(layers as u64, Ordering::Relaxed);
    }

    /// Counts inputs and outputs of layers at one position.
    pub(super) fn add_activations(&self, numbers: usize) {
        self.asked.activations.fetch_add(numbers as u64, Ordering::Relaxed);
    }

    /// Consecutive rows of a tensor of this shape, a row being as long as the last axis.
    pub(super) fn rows_of(&self, name: &str, shape: &[usize], rows: Range<usize>) -> Result<StoredTensor, LoadError> {
        let name = format!("{}{name}", self.prefix);
        self.weights.check(&name, shape)?;
        let width = shape.last().copied().unwrap_or(1);
        self.asked.parameters.fetch_add((rows.len() * width) as u64, Ordering::Relaxed);
        Ok(StoredTensor {
            name,
            shape: shape.to_vec(),
            range: Some(rows),
            source: Arc::new(self.clone()),
            is_of_the_base: false,
            change: None,
            rows: None,
        })
    }
}

/// What an adapter makes of a matrix.
pub(super) trait Change: Debug + Send + Sync {
    /// The matrix with the adapter merged into it, both as the checkpoint stores them.
    fn merged(&self, weight: &Tensor) -> Result<Tensor, LoadError>;
}

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    source: Arc<CheckpointReader>,
    name: String,
    shape: Vec<usize>,
    /// The rows that are meant, if not all are.
    range: Option<Range<usize>>,
    /// The base's own numbers count, whatever an adapter's file holds in their place.
    is_of_the_base: bool,
    /// What an adapter makes of the numbers.
    change: Option<Arc<dyn Change>>,
    /// Rows that take the place of those with these numbers.
    rows: Option<Arc<(Vec<u32>, StoredTensor)>>,
}

impl StoredTensor {
    /// Its name in the checkpoint.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Remembers that a tracked layer has these numbers.
    pub(super) fn count_tracked(&self) {
        let numbers: usize = match &self.range {
            None => self.shape.iter().product(),
            Some(rows) => rows.len() * self.shape.last().copied().unwrap_or(1),
        };
        self.source.weights.count_tracked(&self.name, numbers as u64);
    }

    /// A number as the type that this tensor is stored in has it.
    pub(super) fn rounded_as_stored(&self, number: f64) -> f64 {
        self.source.weights.stored_type(&self.name).map_or(number, |stored| stored.rounded(number))
    }

    /// An error about its numbers.
    pub(super) fn problem(&self, problem: &str) -> LoadError {
        let file = self.source.weights.origin().to_owned();
        LoadError::Config { file, problem: format!("`{}` {problem}", self.name) }
    }

    /// This tensor as the base stores it, without anything of an adapter.
    pub(super) fn of_the_base(&self) -> Self {
        Self { is_of_the_base: true, change: None, rows: None, ..self.clone() }
    }

    /// This matrix with an adapter merged into it.
    pub(super) fn adapted(self, change: impl Change + 'static) -> Self {
        Self { change: Some(Arc::new(change)), ..self }
    }

    /// This matrix with other rows in the place of those with these numbers.
    pub(super) fn with_rows(self, ids: Vec<u32>, rows: Self) -> Self {
        Self { rows: Some(Arc::new((ids, rows))), ..self }
    }

    /// The tensor of another name and this shape, whose numbers are counted already.
    pub(super) fn under(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.of_the_base() }
    }

    /// Whether an adapter changes the numbers.
    pub(super) fn is_adapted(&self) -> bool {
        self.change.is_some()
    }

    /// Whether another matrix of this shape holds the same numbers, read a few rows at a time; or another vector.
    pub(super) fn equals(&self, other: &Self) -> Result<bool, LoadError> {
        // `ne` gives u8, whose sum may wrap
        let equal = |a: Tensor, b: &Tensor| -> candle_core::Result<bool> {
            Ok(a.ne(b)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()? == 0.0)
        };
        if self.shape.len() == 1 {
            return Ok(equal(self.read()?, &other.read()?)?);
        }
        let rows = |of: &Self, ids: &[u32]| of.stored_rows(ids);
        let all: Vec<u32> = (0..self.shape.first().copied().unwrap_or(0) as u32).collect();
        for ids in all.chunks(ROWS_COMPARED) {
            if !equal(rows(self, ids)?, &rows(other, ids)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl StoredTensor {
    /// Rows as the file holds them.
    fn stored_rows(&self, ids: &[u32]) -> Result<Tensor, LoadError> {
        let CheckpointReader { weights, dtype, .. } = &*self.source;
        match self.is_of_the_base {
            true => weights.rows_of_the_base(&self.name, &self.shape, ids, *dtype),
            false => weights.rows(&self.name, &self.shape, ids, *dtype),
        }
    }

    /// Rows of a matrix, with what an adapter does to them.
    fn some_rows(&self, ids: &[u32]) -> Result<Tensor, LoadError> {
        if self.change.is_none() && self.rows.is_none() {
            return Ok(self.stored_rows(ids)?.to_device(&self.source.device)?);
        }
        let matrix = self.read()?;
        Ok(matrix.index_select(&Tensor::from_slice(ids, ids.len(), matrix.device())?, 0)?)
    }
}

impl Stored for StoredTensor {
    type Value = Tensor;

    fn read(&self) -> Result<Tensor, LoadError> {
        let CheckpointReader { weights, dtype, device, .. } = &*self.source;
        let tensor = match (&self.range, self.is_of_the_base) {
            (Some(range), _) => {
                let ids: Vec<u32> = (range.start as u32..range.end as u32).collect();
                weights.rows(&self.name, &self.shape, &ids, *dtype)?
            }
            (None, true) => weights.tensor_of_the_base(&self.name, &self.shape, *dtype)?,
            (None, false) => weights.tensor(&self.name, &self.shape, *dtype)?,
        };
        let mut tensor = tensor.to_device(device)?;
        if let Some(change) = &self.change {
            tensor = change.merged(&tensor)?;
        }
        if let Some(rows) = &self.rows {
            let (ids, rows) = &**rows;
            tensor = with_rows(&tensor, ids, &rows.read()?)?;
        }
        Ok(tensor)
    }
}

/// A copy of a matrix with some rows replaced.
fn with_rows(matrix: &Tensor, ids: &[u32], rows: &Tensor) -> candle_core::Result<Tensor> {
    let (count, _) = matrix.dims2()?;
    let mut from: Vec<u32> = (0..count as u32).collect();
    for (k, id) in ids.iter().enumerate() {
        from[*id as usize] = (count + k) as u32;
    }
    let all = Tensor::cat(&[matrix, rows], 0)?;
    all.index_select(&Tensor::from_vec(from, count, matrix.device())?, 0)
}

impl Held<StoredTensor> {
    /// These rows of a matrix: `[ids, width]`.
    pub(super) fn rows(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        match self {
            Self::Kept(matrix) => matrix.index_select(&Tensor::from_slice(ids, ids.len(), matrix.device())?, 0),
            Self::OnDisk(of) => of.some_rows(ids).map_err(in_a_section),
        }
    }
}

/// Rows of two matrices that are in memory together to be compared.
const ROWS_COMPARED: usize = 1024;
