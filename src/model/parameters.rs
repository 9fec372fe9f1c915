//! Where a model's parameters are: in memory, or on disk until their section of the network runs.

use std::fmt::Debug;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

use super::adapter::{AdapterMode, Kind, LowRank};
use super::projection::StoredBranch;
pub(super) use super::projection::StoredLinear;
use super::tracking::{SharedInput, Tracking};
use super::{Config, LoadError, LoadOptions, Weights};
use crate::curvature::gemm::Products;

/// A table of rows by number, of which a batch needs a few.
pub(super) type Embedding = Held<StoredTensor>;

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
    tracked: AtomicU64,
}

/// Sizes of what was asked of a source, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// In all tensors.
    pub(super) parameters: u64,
    /// Inputs and outputs of linear layers at one position.
    pub(super) activations: u64,
    /// Tracked layers.
    pub(super) tracked: u64,
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
            adapter: None,
            range: None,
            rows: None,
        })
    }

    /// The table of an embedding, with the adapter merged into it that it may have.
    pub(super) fn embedding(&self, name: &str, [rows, width]: [usize; 2]) -> Result<StoredTensor, LoadError> {
        let mut tensor = self.tensor(&format!("{name}.weight"), &[rows, width])?;
        if let Some(adapter) = self.weights.adapter() {
            let module = format!("{}{name}", self.prefix);
            // A reads the row's number, B writes the row
            let low_rank = adapter.low_rank(self, &module, Kind::Embedding, [width, rows])?;
            tensor.adapter = low_rank.map(|low_rank| (Arc::new(low_rank), Layout::InputsFirst));
            tensor.rows = adapter.token_rows(self, &module, [rows, width])?.map(Arc::new);
        }
        Ok(tensor)
    }

    /// Whether an adapter's file holds a tensor in place of the base's.
    pub(super) fn is_replaced(&self, tensor: &StoredTensor) -> bool {
        self.weights.adapter().is_some_and(|adapter| adapter.replacement(&tensor.name).is_some())
    }

    /// Whether an adapter makes an embedding another one than the head that the base ties to it.
    ///
    /// # Errors
    /// An adapter that ties its own changes too.
    pub(super) fn untied(&self, tokens: &StoredTensor) -> Result<bool, LoadError> {
        let Some(adapter) = self.weights.adapter() else { return Ok(false) };
        let module = tokens.name.rsplit_once('.').map_or(tokens.name.as_str(), |(module, _)| module);
        let is_copied = self.is_replaced(tokens) && adapter.is_copied(module);
        if adapter.config.ensure_weight_tying && (is_copied || tokens.is_adapted()) {
            return Err(adapter.ties_an_embedding());
        }
        Ok(is_copied || tokens.is_adapted())
    }

    /// The adapter of the head, if it has one.
    pub(super) fn head_adapter(&self, name: &str, sizes: [usize; 2]) -> Result<Option<LowRank>, LoadError> {
        let Some(adapter) = self.weights.adapter() else { return Ok(None) };
        let found = adapter.low_rank(self, name, Kind::Head, sizes)?;
        if found.as_ref().is_some_and(|found| found.b_bias.is_some()) {
            return Err(adapter.bias_cannot_be_merged());
        }
        Ok(found)
    }

    /// This source with other weights, whose names are whole.
    pub(super) fn of(&self, weights: &Arc<Weights>) -> Self {
        Self { weights: weights.clone(), prefix: "", ..self.clone() }
    }

    /// A linear layer, numbered if it is tracked, with the adapter that lies over it.
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
        let mut weight = self.tensor(&format!("{name}.weight"), &shape)?;
        self.asked.activations.fetch_add((outputs + inputs) as u64, Ordering::Relaxed);
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &[outputs])).transpose()?;
        let module = format!("{}{name}", self.prefix);
        let products = self.products;
        let stored: Vec<StoredTensor> = [Some(&weight), bias.as_ref()].into_iter().flatten().cloned().collect();
        let mut track_base = |bias: bool, input: &mut SharedInput| {
            let layer = tracking.layer(&module, outputs, inputs, bias, input);
            if layer.is_some() {
                self.asked.tracked.fetch_add(1, Ordering::Relaxed);
                stored.iter().for_each(|tensor| tensor.count_tracked());
            }
            layer
        };
        let Some(adapter) = self.weights.adapter() else {
            let layer = track_base(bias.is_some(), input);
            return Ok(StoredLinear { weight, bias, layout, layer, products, adapter: None });
        };
        let low_rank = adapter.low_rank(self, &module, Kind::Linear, [outputs, inputs])?;
        // whole layers that were saved with the adapter were trained too
        let is_saved = adapter.replacement(&weight.name).is_some();
        let layer = match (adapter.mode, &low_rank) {
            (AdapterMode::Merged | AdapterMode::Both, _) => track_base(bias.is_some(), input),
            (AdapterMode::Only, _) if is_saved && adapter.is_copied(&module) => track_base(bias.is_some(), input),
            (AdapterMode::Only, _) => None,
        };
        let Some(low_rank) = low_rank else {
            return Ok(StoredLinear { weight, bias, layout, layer, products, adapter: None });
        };
        if adapter.mode == AdapterMode::Merged {
            if low_rank.b_bias.is_some() {
                return Err(adapter.bias_cannot_be_merged());
            }
            weight.adapter = Some((Arc::new(low_rank), layout));
            return Ok(StoredLinear { weight, bias, layout, layer, products, adapter: None });
        }
        let rank = low_rank.rank;
        self.asked.activations.fetch_add((2 * rank + outputs) as u64, Ordering::Relaxed);
        let [a, b] = low_rank.layer_names();
        let a = tracking.layer(&a, rank, inputs, false, input);
        let b = tracking.layer(&b, outputs, rank, low_rank.b_bias.is_some(), &mut SharedInput::default());
        self.asked.tracked.fetch_add([a, b].iter().flatten().count() as u64, Ordering::Relaxed);
        Ok(StoredLinear { weight, bias, layout, layer, products, adapter: Some(StoredBranch { low_rank, a, b }) })
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
        let is_frozen = self.weights.adapter().is_some_and(|adapter| adapter.mode == AdapterMode::Only);
        let layer = match is_frozen {
            true => None,
            false => tracking.layer(&format!("{}{name}", self.prefix), outputs, inputs, false, input),
        };
        if layer.is_some() {
            self.asked.tracked.fetch_add(1, Ordering::Relaxed);
            weight.count_tracked();
        }
        StoredLinear { weight, bias: None, layout: Layout::OutputsFirst, layer, products: self.products, adapter: None }
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
        Ok(StoredTensor {
            name,
            shape: shape.to_vec(),
            range: Some(rows),
            source: Arc::new(self.clone()),
            is_of_the_base: false,
            adapter: None,
            rows: None,
        })
    }

    /// A convolution outside the blocks: a linear layer of unfolded patches, whose weight is stored with the shape
    /// `[outputs, channels, height, width]`. It is tracked only if a pattern names it.
    pub(super) fn outer_convolution(
        &self,
        tracking: &mut Tracking<'_>,
        name: &str,
        outputs: usize,
        kernel: [usize; 3],
        bias: bool,
    ) -> Result<StoredLinear, LoadError> {
        let name = format!("{}{name}", self.prefix);
        let (weight, bias) = self.kernels(&name, outputs, kernel, bias)?;
        let layer = tracking.outer_layer(&name, outputs, kernel.iter().product(), bias.is_some());
        if layer.is_some() {
            [Some(&weight), bias.as_ref()].into_iter().flatten().for_each(StoredTensor::count_tracked);
        }
        Ok(StoredLinear { weight, bias, layout: Layout::OutputsFirst, layer, products: self.products, adapter: None })
    }

    /// A convolution inside the blocks, without bias.
    pub(super) fn convolution(
        &self,
        tracking: &mut Tracking<'_>,
        name: &str,
        outputs: usize,
        kernel: [usize; 3],
    ) -> Result<StoredLinear, LoadError> {
        let name = format!("{}{name}", self.prefix);
        let (weight, bias) = self.kernels(&name, outputs, kernel, false)?;
        let layer =
            tracking.layer(&name, outputs, kernel.iter().product(), bias.is_some(), &mut SharedInput::default());
        if layer.is_some() {
            self.asked.tracked.fetch_add(1, Ordering::Relaxed);
            weight.count_tracked();
        }
        Ok(StoredLinear { weight, bias, layout: Layout::OutputsFirst, layer, products: self.products, adapter: None })
    }

    /// The kernels of a convolution, and its bias, by their full name.
    pub(super) fn kernels(
        &self,
        name: &str,
        outputs: usize,
        [channels, height, width]: [usize; 3],
        bias: bool,
    ) -> Result<(StoredTensor, Option<StoredTensor>), LoadError> {
        if self.weights.adapter().is_some() {
            return Err(self
                .config
                .problem("adapters of models with convolutions are not read; save the merged model"));
        }
        let weight = self.tensor_at(format!("{name}.weight"), &[outputs, channels, height, width])?;
        let bias = bias.then(|| self.tensor_at(format!("{name}.bias"), &[outputs])).transpose()?;
        Ok((weight, bias))
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
        let is_frozen = self.weights.adapter().is_some_and(|adapter| adapter.mode == AdapterMode::Only);
        let layer = match is_frozen && !self.is_replaced(&weight) {
            true => None,
            false => tracking.outer_layer(name, outputs, inputs, bias.is_some()),
        };
        if layer.is_some() {
            [Some(&weight), bias.as_ref()].into_iter().flatten().for_each(StoredTensor::count_tracked);
        }
        Ok(StoredLinear { weight, bias, layout: Layout::OutputsFirst, layer, products: self.products, adapter: None })
    }
}

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    source: Arc<Source>,
    name: String,
    shape: Vec<usize>,
    /// The rows that are meant, if not all are.
    range: Option<Range<usize>>,
    /// The base's own numbers count, whatever an adapter's file holds in their place.
    is_of_the_base: bool,
    /// An adapter that is merged into the numbers, and how they lie.
    adapter: Option<(Arc<LowRank>, Layout)>,
    /// Rows that take the place of those with these numbers.
    rows: Option<Arc<(Vec<u32>, StoredTensor)>>,
}

impl StoredTensor {
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
        match self.source.weights.stored_type(&self.name) {
            Some(Dtype::BF16) => bf16::from_f64(number).to_f64(),
            Some(Dtype::F16) => f16::from_f64(number).to_f64(),
            Some(Dtype::F32) => f64::from(number as f32),
            _ => number,
        }
    }

    /// An error about its numbers.
    pub(super) fn problem(&self, problem: &str) -> LoadError {
        let file = self.source.weights.origin().to_owned();
        LoadError::Config { file, problem: format!("`{}` {problem}", self.name) }
    }

    /// This tensor as the base stores it, without anything of an adapter.
    pub(super) fn of_the_base(&self) -> Self {
        Self { is_of_the_base: true, adapter: None, rows: None, ..self.clone() }
    }

    /// This matrix with an adapter merged into it.
    pub(super) fn adapted(self, adapter: LowRank) -> Self {
        Self { adapter: Some((Arc::new(adapter), Layout::OutputsFirst)), ..self }
    }

    /// The tensor of another name and this shape, whose numbers are counted already.
    pub(super) fn under(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.of_the_base() }
    }

    /// Whether an adapter changes the numbers.
    pub(super) fn is_adapted(&self) -> bool {
        self.adapter.is_some()
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
        let Source { weights, dtype, .. } = &*self.source;
        match self.is_of_the_base {
            true => weights.rows_of_the_base(&self.name, &self.shape, ids, *dtype),
            false => weights.rows(&self.name, &self.shape, ids, *dtype),
        }
    }

    /// Rows of a matrix, with what an adapter does to them.
    fn some_rows(&self, ids: &[u32]) -> Result<Tensor, LoadError> {
        if self.adapter.is_none() && self.rows.is_none() {
            return Ok(self.stored_rows(ids)?.to_device(&self.source.device)?);
        }
        let matrix = self.read()?;
        Ok(matrix.index_select(&Tensor::from_slice(ids, ids.len(), matrix.device())?, 0)?)
    }
}

impl Stored for StoredTensor {
    type Value = Tensor;

    fn read(&self) -> Result<Tensor, LoadError> {
        let Source { weights, dtype, device, .. } = &*self.source;
        let tensor = match (&self.range, self.is_of_the_base) {
            (Some(range), _) => {
                let ids: Vec<u32> = (range.start as u32..range.end as u32).collect();
                weights.rows(&self.name, &self.shape, &ids, *dtype)?
            }
            (None, true) => weights.tensor_of_the_base(&self.name, &self.shape, *dtype)?,
            (None, false) => weights.tensor(&self.name, &self.shape, *dtype)?,
        };
        let mut tensor = tensor.to_device(device)?;
        if let Some((adapter, layout)) = &self.adapter {
            tensor = adapter.merged(&tensor, *layout)?;
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

/// How a checkpoint stores a linear layer's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[outputs, inputs]`, as `torch.nn.Linear`.
    OutputsFirst,
    /// `[inputs, outputs]`, as `Conv1D` of transformers.
    InputsFirst,
}
