//! The gated MLP of a block or of one expert, in memory and on disk.

use super::family::{Family, Packing};
use crate::curvature::{TapRecorder, Traced};
use crate::model::checkpoint_reader::CheckpointReader;
use crate::model::error::LoadError;
use crate::model::layout::Layout;
use crate::model::projection::{Projection, StoredLinear};
use crate::model::residence::Stored;
use crate::model::tracking::{SharedInput, Tracking};
use crate::nn::{Activation, trace_gated, trace_gated_packed};

/// A gated MLP.
#[derive(Debug)]
pub(super) struct Mlp {
    gate_up: GateUp,
    down_proj: Projection,
    activation: Activation,
}

#[derive(Debug)]
pub(super) enum GateUp {
    Separate {
        gate_proj: Projection,
        up_proj: Projection,
    },
    /// One layer with both side by side.
    Packed(Projection),
}

impl Mlp {
    pub(super) fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        let y = match &self.gate_up {
            GateUp::Separate { gate_proj, up_proj } => {
                trace_gated(self.activation, &gate_proj.trace(x, taps)?, &up_proj.trace(x, taps)?)?
            }
            GateUp::Packed(gate_up_proj) => trace_gated_packed(self.activation, &gate_up_proj.trace(x, taps)?)?, // [R, 2 I]
        };
        self.down_proj.trace(&y, taps)
    }
}

/// An MLP's parameters.
#[derive(Debug)]
pub(super) struct StoredMlp {
    /// Gate and up, or both in one.
    gate_up: Vec<StoredLinear>,
    down_proj: StoredLinear,
    activation: Activation,
}

impl StoredMlp {
    /// An MLP of its stored layers: gate and up, or both in one, then down.
    pub(super) fn new(gate_up: Vec<StoredLinear>, down_proj: StoredLinear, activation: Activation) -> Self {
        Self { gate_up, down_proj, activation }
    }
}

impl Stored for StoredMlp {
    type Value = Mlp;

    fn read(&self) -> Result<Mlp, LoadError> {
        let gate_up = match <[Projection; 2]>::try_from(read_all(&self.gate_up)?) {
            Ok([gate_proj, up_proj]) => GateUp::Separate { gate_proj, up_proj },
            Err(mut one) => GateUp::Packed(one.remove(0)),
        };
        Ok(Mlp { gate_up, down_proj: self.down_proj.read()?, activation: self.activation })
    }
}

/// The MLP of this name, `inner` wide inside, as the family stores it.
pub(super) fn dense(
    source: &CheckpointReader,
    tracking: &Tracking<'_>,
    name: &str,
    family: &Family,
    inner: usize,
    input: &mut SharedInput,
) -> Result<StoredMlp, LoadError> {
    let (width, bias, layout) = (family.width, family.biases.mlp, Layout::OutputsFirst);
    let packed = [("gate_up_proj", 2 * inner)];
    let separate = [("gate_proj", inner), ("up_proj", inner)];
    let parts: &[(&str, usize)] = if family.packing == Packing::Packed { &packed } else { &separate };
    let mut gate_up = vec![];
    for &(part, outputs) in parts {
        gate_up.push(source.linear(tracking, &format!("{name}.{part}"), [outputs, width], bias, layout, input)?);
    }
    let (name, mut input) = (format!("{name}.down_proj"), SharedInput::default());
    let down_proj = source.linear(tracking, &name, [width, inner], bias, layout, &mut input)?;
    Ok(StoredMlp::new(gate_up, down_proj, family.activation))
}

/// Reads layers one after the other.
pub(super) fn read_all(layers: &[StoredLinear]) -> Result<Vec<Projection>, LoadError> {
    layers.iter().map(Stored::read).collect()
}
