//! Where a model's parameters are: in memory, or on disk until their section of the network runs.

use std::fmt::Debug;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

use super::tracking::{SharedInput, Tracking};
use super::{Config, LoadError, LoadOptions, Weights};
use crate::curvature::gemm::Products;
use crate::curvature::{LayerId, Linear};

/// When a checkpoint's weights are read, and how long they stay in memory. MLPs are always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// All of them, when the model is loaded.
    Kept,
    /// Each block's when it runs, until it has run; loading checks names, shapes and types alone.
    BySection,
}

/// Something that a checkpoint's file holds: checked, but not read.
pub(super) trait Stored: Debug + Send + Sync {
    /// What it is in memory.
    type Value: Debug + Send + Sync;

    /// Reads it.
    fn read(&self) -> Result<Self::Value, LoadError>;
}

/// Parameters of one section.
#[derive(Debug)]
pub(super) enum Held<S: Stored> {
    Kept(S::Value),
    OnDisk(S),
}

/// Parameters while they are used.
pub(super) enum InUse<'a, V> {
    Kept(&'a V),
    Read(V),
}

impl<V> Deref for InUse<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        match self {
            Self::Kept(value) => value,
            Self::Read(value) => value,
        }
    }
}

impl<S: Stored> Held<S> {
    /// Reads it now, if it is to be kept.
    pub(super) fn new(stored: S, residence: Residence) -> Result<Self, LoadError> {
        match residence {
            Residence::Kept => Ok(Self::Kept(stored.read()?)),
            Residence::BySection => Ok(Self::OnDisk(stored)),
        }
    }

    /// The parameters, read if they are not in memory.
    pub(super) fn get(&self) -> candle_core::Result<InUse<'_, S::Value>> {
        match self {
            Self::Kept(value) => Ok(InUse::Kept(value)),
            Self::OnDisk(stored) => stored.read().map(InUse::Read).map_err(in_a_section),
        }
    }

    /// Reads what was not read yet, for the sake of errors alone.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::OnDisk(stored) => stored.read().map(|_| ()),
        }
    }
}

fn in_a_section(error: LoadError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// A checkpoint's tensors as one model reads them.
#[derive(Debug, Clone)]
pub(super) struct Source {
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

/// Sizes of what was asked of a source so far, whoever asked.
#[derive(Debug, Default)]
struct Asked {
    parameters: AtomicU64,
    activations: AtomicU64,
}

/// Sizes of what was asked of a source, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// In all tensors.
    pub(super) parameters: u64,
    /// Inputs and outputs of linear layers at one position.
    pub(super) activations: u64,
}

impl Source {
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

    /// Sizes of everything that was asked for so far.
    pub(super) fn sizes(&self) -> Sizes {
        let Asked { parameters, activations } = &*self.asked;
        Sizes { parameters: parameters.load(Ordering::Relaxed), activations: activations.load(Ordering::Relaxed) }
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

    /// The same by its full name.
    pub(super) fn tensor_at(&self, name: String, shape: &[usize]) -> Result<StoredTensor, LoadError> {
        self.weights.check(&name, shape)?;
        self.asked.parameters.fetch_add(shape.iter().product::<usize>() as u64, Ordering::Relaxed);
        Ok(StoredTensor { name, shape: shape.to_vec(), rows: None, source: self.clone() })
    }

    /// A linear layer, numbered if it is tracked.
    pub(super) fn linear(
        &self,
        tracking: &mut Tracking<'_>,
        name: &str,
        [outputs, inputs]: [usize; 2],
        bias: bool,
        layout: Layout,
        input: &mut SharedInput,
    ) -> Result<StoredLinear, LoadError> {
        let shape = match layout {
            Layout::OutputsFirst => [outputs, inputs],
            Layout::InputsFirst => [inputs, outputs],
        };
        let weight = self.tensor(&format!("{name}.weight"), &shape)?;
        self.asked.activations.fetch_add((outputs + inputs) as u64, Ordering::Relaxed);
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &[outputs])).transpose()?;
        let layer = tracking.layer(&format!("{}{name}", self.prefix), outputs, inputs, bias.is_some(), input);
        Ok(StoredLinear { weight, bias, layout, layer, products: self.products })
    }

    /// A linear layer without bias whose matrix `[outputs, inputs]` is not stored under its own name.
    pub(super) fn linear_at(
        &self,
        tracking: &mut Tracking<'_>,
        name: &str,
        weight: StoredTensor,
        [outputs, inputs]: [usize; 2],
        input: &mut SharedInput,
    ) -> StoredLinear {
        let layer = tracking.layer(&format!("{}{name}", self.prefix), outputs, inputs, false, input);
        StoredLinear { weight, bias: None, layout: Layout::OutputsFirst, layer, products: self.products }
    }

    /// Counts inputs and outputs of layers at one position that were not asked for by [`Source::linear`].
    pub(super) fn add_activations(&self, numbers: usize) {
        self.asked.activations.fetch_add(numbers as u64, Ordering::Relaxed);
    }

    /// Consecutive rows of a tensor of this shape, a row being as long as the last axis.
    pub(super) fn rows_of(&self, name: &str, shape: &[usize], rows: Range<usize>) -> Result<StoredTensor, LoadError> {
        let name = format!("{}{name}", self.prefix);
        self.weights.check(&name, shape)?;
        let width = shape.last().copied().unwrap_or(1);
        self.asked.parameters.fetch_add((rows.len() * width) as u64, Ordering::Relaxed);
        Ok(StoredTensor { name, shape: shape.to_vec(), rows: Some(rows), source: self.clone() })
    }

    /// A linear layer outside the blocks, stored as `torch.nn.Linear` under its full name, and tracked only if a pattern
    /// names it.
    pub(super) fn outer_linear(
        &self,
        tracking: &mut Tracking<'_>,
        name: &str,
        [outputs, inputs]: [usize; 2],
        bias: bool,
    ) -> Result<StoredLinear, LoadError> {
        let weight = self.tensor_at(format!("{name}.weight"), &[outputs, inputs])?;
        let bias = bias.then(|| self.tensor_at(format!("{name}.bias"), &[outputs])).transpose()?;
        let layer = tracking.outer_layer(name, outputs, inputs, bias.is_some());
        Ok(StoredLinear { weight, bias, layout: Layout::OutputsFirst, layer, products: self.products })
    }
}

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    source: Source,
    name: String,
    shape: Vec<usize>,
    /// The rows that are meant, if not all are.
    rows: Option<Range<usize>>,
}

impl StoredTensor {
    /// A number as the type that this tensor is stored in has it.
    pub(super) fn rounded_as_stored(&self, number: f64) -> f64 {
        match self.source.weights.stored_type(&self.name) {
            Some(Dtype::BF16) => bf16::from_f64(number).to_f64(),
            Some(Dtype::F16) => f16::from_f64(number).to_f64(),
            Some(Dtype::F32) => f64::from(number as f32),
            _ => number,
        }
    }

    /// Whether another matrix of this shape holds the same numbers, read a few rows at a time.
    pub(super) fn equals(&self, other: &Self) -> Result<bool, LoadError> {
        let rows = |of: &Self, ids: &[u32]| of.source.weights.rows(&of.name, &of.shape, ids, of.source.dtype);
        let all: Vec<u32> = (0..self.shape.first().copied().unwrap_or(0) as u32).collect();
        for ids in all.chunks(ROWS_COMPARED) {
            // `ne` gives u8, whose sum may wrap
            let differs = rows(self, ids)?.ne(&rows(other, ids)?)?.to_dtype(DType::F64)?.sum_all()?;
            if differs.to_scalar::<f64>()? > 0.0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Stored for StoredTensor {
    type Value = Tensor;

    fn read(&self) -> Result<Tensor, LoadError> {
        let Source { weights, dtype, device, .. } = &self.source;
        let tensor = match &self.rows {
            Some(rows) => {
                let ids: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
                weights.rows(&self.name, &self.shape, &ids, *dtype)?
            }
            None => weights.tensor(&self.name, &self.shape, *dtype)?,
        };
        Ok(tensor.to_device(device)?)
    }
}

impl Held<StoredTensor> {
    /// These rows of a matrix: `[ids, width]`.
    pub(super) fn rows(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        match self {
            Self::Kept(matrix) => matrix.index_select(&Tensor::from_slice(ids, ids.len(), matrix.device())?, 0),
            Self::OnDisk(of) => {
                let Source { weights, dtype, device, .. } = &of.source;
                weights.rows(&of.name, &of.shape, ids, *dtype).map_err(in_a_section)?.to_device(device)
            }
        }
    }
}

/// Rows of two matrices that are in memory together to be compared.
const ROWS_COMPARED: usize = 1024;

/// How a checkpoint stores a linear layer's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[outputs, inputs]`, as `torch.nn.Linear`.
    OutputsFirst,
    /// `[inputs, outputs]`, as `Conv1D` of transformers.
    InputsFirst,
}

/// A linear layer.
#[derive(Debug)]
pub(super) struct StoredLinear {
    weight: StoredTensor,
    bias: Option<StoredTensor>,
    layout: Layout,
    layer: Option<LayerId>,
    products: Products,
}

impl Stored for StoredLinear {
    type Value = Linear;

    fn read(&self) -> Result<Linear, LoadError> {
        let weight = match self.layout {
            Layout::OutputsFirst => self.weight.read()?,
            Layout::InputsFirst => self.weight.read()?.t()?.contiguous()?,
        };
        let bias = self.bias.as_ref().map(Stored::read).transpose()?;
        Ok(Linear::new(weight, bias, self.layer)?.with_products(self.products))
    }
}
