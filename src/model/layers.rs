//! What architectures ask a checkpoint for: embeddings, linear layers and convolutions, numbered if they are tracked, each
//! with the adapter that may lie over it.

use super::adapter::mode::AdapterMode;
use super::adapter::module::{Kind, LowRank, Merged};
use super::adapter::overlay::Adapter;
use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::error::LoadError;
use super::layout::Layout;
use super::projection::{StoredBranch, StoredLinear};
use super::tracking::{SharedInput, Tracking};

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
        self.adapted(tracking, adapter, &module, plain, [outputs, inputs], input)
    }

    /// A linear layer `[outputs, inputs]` with the adapter that lies over `module`, merged into it or beside it.
    fn adapted(
        &self,
        tracking: &Tracking<'_>,
        adapter: &Adapter,
        module: &str,
        mut plain: StoredLinear,
        [outputs, inputs]: [usize; 2],
        input: &mut SharedInput,
    ) -> Result<StoredLinear, LoadError> {
        let Some(low_rank) = adapter.low_rank(self, module, Kind::Linear, [outputs, inputs])? else {
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

    /// A convolution outside the blocks: a linear layer of unfolded patches, whose weight is stored with the shape
    /// `[outputs, channels, height, width]`. It is tracked only if a pattern names it.
    pub(super) fn outer_convolution(
        &self,
        tracking: &Tracking<'_>,
        name: &str,
        outputs: usize,
        kernel: [usize; 3],
        bias: bool,
    ) -> Result<StoredLinear, LoadError> {
        let name = self.full(name);
        let (weight, bias) = self.kernels(&name, outputs, kernel, bias)?;
        let is_frozen = self.weights.adapter().is_some_and(|adapter| adapter.mode == AdapterMode::Only);
        let layer = match is_frozen && !self.is_replaced(&weight) {
            true => None,
            false => tracking.outer_layer(&name, outputs, kernel.iter().product(), bias.is_some()),
        };
        if layer.is_some() {
            [Some(&weight), bias.as_ref()].into_iter().flatten().for_each(StoredTensor::count_tracked);
        }
        Ok(StoredLinear { weight, bias, layout: Layout::OutputsFirst, layer, products: self.products, adapter: None })
    }

    /// A convolution inside the blocks, without bias.
    pub(super) fn convolution(
        &self,
        tracking: &Tracking<'_>,
        name: &str,
        outputs: usize,
        kernel: [usize; 3],
    ) -> Result<StoredLinear, LoadError> {
        if self.weights.adapter().is_some() {
            let problem = "adapters of models with convolutions in their blocks are not read; save the merged model";
            return Err(self.config().problem(problem));
        }
        let name = self.full(name);
        let (weight, bias) = self.kernels(&name, outputs, kernel, false)?;
        let layer =
            tracking.layer(&name, outputs, kernel.iter().product(), bias.is_some(), &mut SharedInput::default());
        if layer.is_some() {
            self.add_tracked(1);
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
        let adapter = self.weights.adapter();
        let is_frozen = adapter.is_some_and(|adapter| adapter.mode == AdapterMode::Only);
        let layer = match is_frozen && !self.is_replaced(&weight) {
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
                self.adapted(tracking, adapter, name, plain, [outputs, inputs], &mut SharedInput::default())
            }
            _ => Ok(plain),
        }
    }
}
