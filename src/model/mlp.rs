//! A multilayer perceptron: the linear layers of `model.safetensors` in the order of the numbers in
//! their names, with one activation between them.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::architecture::{Architecture, Parameters};
use super::body::{Body, Loaded, wrong_batch};
use super::config::Config;
use super::error::{LoadError, abridged_shape};
use super::footprint::Footprint;
use super::heads::head::{hessian_of_outputs, loss_of_outputs};
use super::limits::Limits;
use super::load_options::LoadOptions;
use super::tracking::{SharedInput, Tracking};
use super::weights::Weights;
use crate::curvature::{
    Directions, Error, Graphs, Linear, Objective, Section, TapRecorder, TapSink, Taped, Traced, backward_through,
    gauss_newton_through,
};
use crate::data::{Batch, Inputs, RowInputs, RowLimits, RowShape, Task};
use crate::nn::{Activation, SquaredError};

/// `x: [B, width]` throughout.
#[derive(Debug)]
struct Mlp {
    layers: Vec<Linear>,
    activation: Activation,
    /// The loss of a regression.
    squared_error: SquaredError,
    dtype: DType,
    device: Device,
}

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "mlp",
    class_numbers: &[],
    classes: &[],
    load,
    parameters: Parameters::Numbers,
    tied_by_default: false,
    without_effect: &[],
    renamed: None,
    blocks: None,
    heads: None,
    attention: None,
};

impl Mlp {
    fn inputs(&self, batch: &Batch) -> Result<Tensor, Error> {
        let Inputs::Rows(RowInputs { values, shape }) = &batch.inputs else { return Err(wrong_batch()) };
        let &[width] = shape.as_slice() else { return Err(wrong_batch()) };
        let shape = (batch.positions.examples(), width);
        Ok(Tensor::from_slice(values, shape, &self.device)?.to_dtype(self.dtype)?)
    }

    /// Each layer with the activation behind it.
    fn sections(&self) -> Vec<impl Section + '_> {
        let count = self.layers.len();
        let section = |(index, layer): (usize, &'_ Linear)| {
            let layer = layer.clone();
            Taped(move |x: &Traced, taps: &TapRecorder| {
                let y = layer.trace(x, taps)?;
                if index + 1 < count { self.activation.trace(&y) } else { Ok(y) }
            })
        };
        self.layers.iter().enumerate().map(section).collect()
    }
}

impl Body for Mlp {
    /// Outputs of the last layer, `[B, outputs]`.
    fn logits(&self, batch: &Batch) -> Result<Tensor, Error> {
        let taps = TapRecorder::default();
        let (last, before) = self.layers.split_last().expect("an MLP has a layer");
        let mut x = Traced::constant(self.inputs(batch)?);
        for layer in before {
            x = self.activation.trace(&layer.trace(&x, &taps)?)?;
        }
        Ok(last.trace(&x, &taps)?.value().clone())
    }

    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error> {
        let sections = self.sections();
        let sections: Vec<&dyn Section> = sections.iter().map(|section| section as &dyn Section).collect();
        backward_through(&sections, &self.inputs(batch)?, graphs, &batch.positions, sink, |outputs, _| {
            loss_of_outputs(outputs, batch, self.squared_error, objective)
        })
    }

    fn gauss_newton(
        &self,
        batch: &Batch,
        directions: &Directions,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<(), Error> {
        let sections = self.sections();
        let sections: Vec<&dyn Section> = sections.iter().map(|section| section as &dyn Section).collect();
        let (inputs, positions) = (self.inputs(batch)?, &batch.positions);
        gauss_newton_through(&sections, &inputs, graphs, positions, directions, sink, |moving, _| {
            hessian_of_outputs(moving, batch, self.squared_error)
        })
    }

    fn check(&self) -> Result<(), LoadError> {
        Ok(())
    }
}

/// What a folder says of an MLP, before a number of it is read.
pub(super) struct Outline {
    /// Names of the layers, in their order.
    names: Vec<String>,
    /// Numbers that the first layer reads, then those that each layer writes.
    sizes: Vec<usize>,
    pub(super) activation: Activation,
    /// The loss of a regression; a classification has no use for it.
    pub(super) squared_error: SquaredError,
    task: Task,
}

impl Outline {
    pub(super) fn read(config: &Config, weights: &Weights) -> Result<Self, LoadError> {
        let activation = config.text("activation", "")?;
        if activation.is_empty() {
            return Err(config.problem("no key `activation`"));
        }
        let activation = Activation::from_name(activation).ok_or_else(|| config.unsupported("activation"))?;
        let mut names: Vec<&str> = weights.names().filter_map(|name| name.strip_suffix(".weight")).collect();
        names.sort_by_key(|name| (numbers_in(name), *name));
        if names.is_empty() {
            return Err(config.problem("the weights hold no tensor whose name ends in `.weight`"));
        }
        let mut sizes: Vec<usize> = vec![];
        for name in &names {
            let shape = weights.shape(&format!("{name}.weight"))?;
            let &[outputs, inputs] = shape.as_slice() else {
                return Err(config.problem(format!(
                    "`{name}.weight` has the shape {}; an MLP's weights are matrices [outputs, inputs]",
                    abridged_shape(&shape)
                )));
            };
            match sizes.last() {
                Some(&before) if before != inputs => {
                    return Err(config
                        .problem(format!("`{name}` reads {inputs} numbers, but the layer before it writes {before}")));
                }
                Some(_) => {}
                None => sizes.push(inputs),
            }
            sizes.push(outputs);
        }
        if let Some(given) = config.get("layer_sizes").filter(|given| **given != serde_json::json!(sizes)) {
            return Err(config.problem(format!("`layer_sizes` = {given}, but the weights have {sizes:?}")));
        }
        let mut squared_error = SquaredError { a: 0.5 };
        let task = match config.text("task", "")? {
            "classification" => Task::Classification,
            "regression" => {
                squared_error.a = match config.text("loss", "")? {
                    "half_mse" => 0.5,
                    "mse" => 1.0 / sizes[sizes.len() - 1] as f64,
                    "" => return Err(config.problem("a regression needs `loss`: `mse` or `half_mse`")),
                    _ => return Err(config.unsupported("loss")),
                };
                Task::Regression
            }
            "" => return Err(config.problem("no key `task`: `classification` or `regression`")),
            _ => return Err(config.unsupported("task")),
        };
        Ok(Self { names: names.into_iter().map(str::to_owned).collect(), sizes, activation, squared_error, task })
    }

    /// Name, outputs and inputs of each layer.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        self.names.iter().zip(self.sizes.windows(2)).map(|(name, pair)| (name.as_str(), pair[1], pair[0]))
    }

    pub(super) fn limits(&self) -> RowLimits {
        let outputs = self.sizes[self.sizes.len() - 1];
        RowLimits { inputs: RowShape::Numbers(self.sizes[0]), outputs, task: self.task }
    }
}

/// Builds the MLP from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let LoadOptions { selection, dtype, products, device, .. } = options;
    let outline = Outline::read(config, weights)?;
    let tensor = |name: &str, shape: &[usize]| -> Result<Tensor, LoadError> {
        Ok(weights.tensor(name, shape, *dtype)?.to_device(device)?)
    };
    let tracking = Tracking::new(selection);
    let mut layers = vec![];
    for (name, outputs, inputs) in outline.layers() {
        let bias_name = format!("{name}.bias");
        let bias = weights.contains(&bias_name).then(|| tensor(&bias_name, &[outputs])).transpose()?;
        let weight = tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        tracking.multiplies(outputs * inputs);
        let layer = tracking.layer(name, outputs, inputs, bias.is_some(), &mut SharedInput::default());
        if layer.is_some() {
            weights.count_tracked(&format!("{name}.weight"), (outputs * inputs) as u64);
            bias.iter().for_each(|_| weights.count_tracked(&bias_name, outputs as u64));
        }
        layers.push(Linear::new(weight, bias, layer)?.with_products(*products));
    }
    let pairs = || outline.layers().map(|(_, outputs, inputs)| (inputs as u64, outputs as u64));
    let footprint = Footprint {
        parameters: pairs().map(|(i, o)| (i + 1) * o).sum(),
        section: pairs().map(|(i, o)| (i + 1) * o).max().unwrap_or(0),
        sections: layers.len() as u64,
        width: outline.sizes.iter().max().map_or(0, |&size| size as u64),
        activations: pairs().map(|(i, o)| i + o).max().unwrap_or(0),
        all_activations: pairs().map(|(i, o)| i + o).sum(),
        ..Footprint::default()
    };
    let Outline { activation, squared_error, .. } = outline;
    let limits = Limits::Rows(outline.limits());
    let mlp = Mlp { layers, activation, squared_error, dtype: *dtype, device: device.clone() };
    Ok(Loaded { body: Box::new(mlp), tracked: tracking.finish()?, limits, labels: None, footprint })
}

/// The numbers in a name, in order: `layers.10` comes after `layers.9`.
fn numbers_in(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}
