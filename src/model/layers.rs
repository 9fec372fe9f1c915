//! What architectures ask a checkpoint for: embeddings, linear layers and convolutions, numbered if they are tracked, each
//! with the adapter that may lie over it.

use super::adapter::mode::AdapterMode;
use super::adapter::module::{Kernels, Kind, LowRank, Merged};
use super::adapter::overlay::Adapter;
use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::convolution::{StoredConvolution, StoredConvolutionBranch};
use super::error::LoadError;
use super::layout::Layout;
use super::projection::{StoredBranch, StoredLinear};
use super::tracking::{SharedInput, Tracking};
use crate::curvature::Window;

/// What an architecture says of a convolution over images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolved {
    pub(super) outputs: usize,
    /// Channels that each group sees.
    pub(super) channels: usize,
    pub(super) groups: usize,
    /// What moves over the images, with the size of the kernels.
    pub(super) window: Window,
    pub(super) bias: bool,
    pub(super) place: Place,
}

/// Where a layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Inside the blocks: it is tracked unless patterns say otherwise.
    Inside,
    /// Before or behind the blocks: it is tracked only if a pattern names it.
    Outside,
}

impl CheckpointReader {
    /// The table of an embedding, with the adapter merged into it that it may have.
    pub(super) fn embedding(&self, name: &str, [rows, width]: [usize; 2]) -> Result<StoredTensor, LoadError> {
        let mut tensor = self.tensor(&format!("{name}.weight"), &[rows, width])?;
        if let Some(adapter) = self.weights.adapter() {
            let module = self.full(name);
            // A reads the row's number, B writes the row
            let low_rank = adapter.low_rank(self, &module, Kind::Embedding, [width, rows])?;
            if let Some(adapter) = low_rank {
                tensor = tensor.adapted(Merged { adapter, layout: Layout::InputsFirst });
            }
            if let Some((ids, rows)) = adapter.token_rows(self, &module, [rows, width])? {
                tensor = tensor.with_rows(ids, rows);
            }
        }
        Ok(tensor)
    }

    /// Whether an adapter makes an embedding another one than the head that the base ties to it.
    ///
    /// # Errors
    /// An adapter that ties its own changes too.
    pub(super) fn untied(&self, tokens: &StoredTensor) -> Result<bool, LoadError> {
        let Some(adapter) = self.weights.adapter() else { return Ok(false) };
        let module = tokens.name().rsplit_once('.').map_or(tokens.name(), |(module, _)| module);
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

    /// A linear layer, numbered if it is tracked, with the adapter that lies over it.
    pub(super) fn linear(
        &self,
        tracking: &Tracking<'_>,
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
        self.add_activations(outputs + inputs);
        tracking.multiplies(outputs * inputs);
        let bias = bias.then(|| self.tensor(&format!("{name}.bias"), &[outputs])).transpose()?;
        let module = self.full(name);
        let stored: Vec<StoredTensor> = [Some(&weight), bias.as_ref()].into_iter().flatten().cloned().collect();
        let has_bias = bias.is_some();
        let track_base = |input: &mut SharedInput| {
            let layer = tracking.layer(&module, outputs, inputs, has_bias, input);
            if layer.is_some() {
                self.add_tracked(1);
                stored.iter().for_each(|tensor| tensor.count_tracked());
            }
            layer
        };
        let Some(adapter) = self.weights.adapter() else {
            let layer = track_base(input);
            return Ok(StoredLinear { weight, bias, layout, layer, products: self.products, adapter: None });
        };
        // whole layers that were saved with the adapter were trained too
        let is_saved = adapter.replacement(weight.name()).is_some() && adapter.is_copied(&module);
        let layer = if adapter.mode != AdapterMode::Only || is_saved { track_base(input) } else { None };
        let plain = StoredLinear { weight, bias, layout, layer, products: self.products, adapter: None };
        self.adapted(tracking, adapter, (&module, Kind::Linear), plain, [outputs, inputs], input)
    }

    /// A linear layer `[outputs, inputs]` with the adapter that lies over `module`, merged into it or beside it.
    fn adapted(
        &self,
        tracking: &Tracking<'_>,
        adapter: &Adapter,
        (module, kind): (&str, Kind),
        mut plain: StoredLinear,
        [outputs, inputs]: [usize; 2],
        input: &mut SharedInput,
    ) -> Result<StoredLinear, LoadError> {
        let Some(low_rank) = adapter.low_rank(self, module, kind, [outputs, inputs])? else {
            return Ok(plain);
        };
        if adapter.mode == AdapterMode::Merged {
            if low_rank.b_bias.is_some() {
                return Err(adapter.bias_cannot_be_merged());
            }
            let layout = plain.layout;
            plain.weight = plain.weight.adapted(Merged { adapter: low_rank, layout });
            return Ok(plain);
        }
        let rank = low_rank.rank;
        self.add_activations(2 * rank + outputs);
        tracking.multiplies(rank * (inputs + outputs));
        let [a, b] = low_rank.layer_names();
        let a = tracking.layer(&a, rank, inputs, false, input);
        let b = tracking.layer(&b, outputs, rank, low_rank.b_bias.is_some(), &mut SharedInput::default());
        self.add_tracked([a, b].iter().flatten().count());
        plain.adapter = Some(StoredBranch { low_rank, a, b });
        Ok(plain)
    }

    /// A linear layer without bias whose matrix `[outputs, inputs]` is not stored under its own name.
    pub(super) fn linear_at(
        &self,
        tracking: &Tracking<'_>,
        name: &str,
        weight: StoredTensor,
        [outputs, inputs]: [usize; 2],
        input: &mut SharedInput,
    ) -> StoredLinear {
        let is_frozen = self.weights.adapter().is_some_and(|adapter| adapter.mode == AdapterMode::Only);
        tracking.multiplies(outputs * inputs);
        let layer = match is_frozen {
            true => None,
            false => tracking.layer(&self.full(name), outputs, inputs, false, input),
        };
        if layer.is_some() {
            self.add_tracked(1);
            weight.count_tracked();
        }
        StoredLinear { weight, bias: None, layout: Layout::OutputsFirst, layer, products: self.products, adapter: None }
    }

    /// The convolution of images that are divided into patches, outside the blocks: a linear layer of each patch, whose
    /// weight is stored with the shape `[outputs, channels, height, width]`. It is tracked only if a pattern names it; the
    /// adapter that may lie over it is tracked as any other.
    pub(super) fn of_patches(
        &self,
        tracking: &Tracking<'_>,
        name: &str,
        outputs: usize,
        kernel: [usize; 3],
    ) -> Result<StoredLinear, LoadError> {
        let name = self.full(name);
        let (weight, bias) = self.kernels(&name, outputs, kernel, true)?;
        let adapter = self.weights.adapter();
        let inputs = kernel.iter().product();
        tracking.multiplies(outputs * inputs);
        let layer = match self.is_frozen(&weight) {
            true => None,
            false => tracking.outer_layer(&name, outputs, inputs, bias.is_some()),
        };
        if layer.is_some() {
            [Some(&weight), bias.as_ref()].into_iter().flatten().for_each(StoredTensor::count_tracked);
        }
        let layout = Layout::OutputsFirst;
        let plain = StoredLinear { weight, bias, layout, layer, products: self.products, adapter: None };
        let Some(adapter) = adapter else { return Ok(plain) };
        let [_, height, width] = kernel;
        let kind = Kind::Convolution(Kernels { size: [height, width], groups: 1 });
        self.adapted(tracking, adapter, (&name, kind), plain, [outputs, inputs], &mut SharedInput::default())
    }

    /// A convolution over images, a layer for each group of its channels, with the adapter that lies over it.
    pub(super) fn convolution(
        &self,
        tracking: &Tracking<'_>,
        name: &str,
        Convolved { outputs, channels, groups, window, bias, place }: Convolved,
    ) -> Result<StoredConvolution, LoadError> {
        let name = self.full(name);
        let (size @ [height, width], of_group) = (window.size, outputs / groups.max(1));
        let (weight, bias) = self.kernels(&name, outputs, [channels, height, width], bias)?;
        let (products, columns) = (self.products, channels * height * width);
        tracking.multiplies(outputs * columns);
        // a layer of its own for each group: their weights meet in no covariance
        let name_of = |layer: &str, k: usize| if groups == 1 { layer.to_owned() } else { format!("{layer}.group.{k}") };
        let adapter = self.weights.adapter();
        let is_frozen = adapter.is_some_and(|adapter| {
            let is_saved = adapter.replacement(weight.name()).is_some() && adapter.is_copied(&name);
            adapter.mode == AdapterMode::Only && !is_saved
        });
        let layer = |k: usize| {
            let (name, has_bias) = (name_of(&name, k), bias.is_some());
            match place {
                _ if is_frozen => None,
                Place::Inside => tracking.layer(&name, of_group, columns, has_bias, &mut SharedInput::default()),
                Place::Outside => tracking.outer_layer(&name, of_group, columns, has_bias),
            }
        };
        let layers: Vec<_> = (0..groups).map(layer).collect();
        for _ in layers.iter().flatten() {
            self.add_tracked(1);
            self.weights.count_tracked(weight.name(), (of_group * columns) as u64);
            bias.iter().for_each(|bias| self.weights.count_tracked(bias.name(), of_group as u64));
        }
        let mut stored = StoredConvolution { weight, bias, window, layers, products, adapter: None };
        let Some(adapter) = adapter else { return Ok(stored) };
        let (kind, inputs) = (Kind::Convolution(Kernels { size, groups }), groups * columns);
        let Some(low_rank) = adapter.low_rank(self, &name, kind, [outputs, inputs])? else { return Ok(stored) };
        if (0..2).any(|axis| size[axis] > 1 && window.dilation[axis] > 1) {
            let problem =
                "its convolution is dilated, and PEFT's A is not: what it gives does not fit the layer's output";
            return Err(adapter.convolution_is_not_read(&low_rank, problem));
        }
        if adapter.mode == AdapterMode::Merged {
            if groups > 1 {
                let problem = "an adapter over a convolution in groups is not merged, neither by PEFT nor here";
                return Err(adapter.convolution_is_not_read(&low_rank, problem));
            }
            if low_rank.b_bias.is_some() {
                return Err(adapter.bias_cannot_be_merged());
            }
            stored.weight = stored.weight.adapted(Merged { adapter: low_rank, layout: Layout::OutputsFirst });
            return Ok(stored);
        }
        let (rank, [name_a, name_b]) = (low_rank.rank, low_rank.layer_names());
        tracking.multiplies(rank * (inputs + outputs / groups));
        let a = tracking.layer(&name_a, rank, inputs, false, &mut SharedInput::default());
        let has_bias = low_rank.b_bias.is_some();
        let layer =
            |k| tracking.layer(&name_of(&name_b, k), of_group, rank / groups, has_bias, &mut SharedInput::default());
        let b: Vec<_> = (0..groups).map(layer).collect();
        self.add_tracked([a].iter().chain(&b).flatten().count());
        stored.adapter = Some(StoredConvolutionBranch { low_rank, a, b });
        Ok(stored)
    }

    /// The kernels of a convolution, and its bias, by their full name.
    fn kernels(
        &self,
        name: &str,
        outputs: usize,
        [channels, height, width]: [usize; 3],
        bias: bool,
    ) -> Result<(StoredTensor, Option<StoredTensor>), LoadError> {
        let weight = self.tensor_at(format!("{name}.weight"), &[outputs, channels, height, width])?;
        let bias = bias.then(|| self.tensor_at(format!("{name}.bias"), &[outputs])).transpose()?;
        Ok((weight, bias))
    }

    /// A linear layer outside the blocks, stored as `torch.nn.Linear` under its full name, and tracked only if a pattern
    /// names it; the adapter that may lie over it is tracked as any other.
    pub(super) fn outer_linear(
        &self,
        tracking: &Tracking<'_>,
        name: &str,
        [outputs, inputs]: [usize; 2],
        bias: bool,
    ) -> Result<StoredLinear, LoadError> {
        let weight = self.tensor_at(format!("{name}.weight"), &[outputs, inputs])?;
        let bias = bias.then(|| self.tensor_at(format!("{name}.bias"), &[outputs])).transpose()?;
        tracking.multiplies(outputs * inputs);
        let adapter = self.weights.adapter();
        let layer = match self.is_frozen(&weight) {
            true => None,
            false => tracking.outer_layer(name, outputs, inputs, bias.is_some()),
        };
        if layer.is_some() {
            [Some(&weight), bias.as_ref()].into_iter().flatten().for_each(StoredTensor::count_tracked);
        }
        let layout = Layout::OutputsFirst;
        let plain = StoredLinear { weight, bias, layout, layer, products: self.products, adapter: None };
        match adapter {
            // the last layer of a classifier is selected by no setting of PEFT, unless its name is
            Some(adapter) if adapter.lies_over(name) => {
                let module = (name, Kind::Linear);
                self.adapted(tracking, adapter, module, plain, [outputs, inputs], &mut SharedInput::default())
            }
            _ => Ok(plain),
        }
    }
}
