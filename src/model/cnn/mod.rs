//! Networks of convolutions of plain PyTorch, which no class describes: their `config.json` lists the modules, with the
//! names that the tensors have in a `state_dict`.

mod description;
mod loading;
mod modules;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use self::description::names;
use self::loading::Loader;
use self::modules::{Flow, StoredChain};
use super::architecture::{Architecture, Parameters};
use super::body::{Body, Loaded, wrong_batch};
use super::checkpoint_reader::CheckpointReader;
use super::config::Config;
use super::error::LoadError;
use super::footprint::Footprint;
use super::heads::head::{hessian_of_outputs, loss_of_outputs};
use super::images::{self, ImageBatch};
use super::limits::Limits;
use super::load_options::LoadOptions;
use super::residence::Held;
use super::tracking::Tracking;
use super::weights::Weights;
use crate::curvature::{
    Directions, Error, Graphs, Objective, Plane, Section, TapRecorder, TapSink, Taped, Traced, Tracked,
    backward_through, gauss_newton_through,
};
use crate::data::{Batch, ImageSize, RowLimits, RowShape};
use crate::nn::SquaredError;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "cnn",
    class_numbers: &[],
    classes: &[],
    load,
    parameters: Parameters::Listed { of: order, is_buffer },
    tied_by_default: false,
    without_effect: &["parameter_order"],
    renamed: None,
    blocks: None,
    heads: None,
    attention: None,
};

/// `x: [B · H · W, C]` throughout: a row for each place of an image, and one for each image once it is flattened.
#[derive(Debug)]
struct Network {
    sections: Vec<Held<StoredChain>>,
    /// Whether each section has tracked layers.
    tracked: Vec<bool>,
    plane: Plane,
    /// The loss of a regression: torch's mean over the outputs.
    squared_error: SquaredError,
    dtype: DType,
    device: Device,
}

impl Network {
    fn images(&self, batch: &Batch) -> Result<Tensor, Error> {
        let images = ImageBatch::of(batch, self.dtype, &self.device)?;
        if images.plane != self.plane {
            return Err(wrong_batch());
        }
        Ok(images.rows)
    }

    /// The sections, whose weights are read where they run.
    fn sections(&self) -> Vec<impl Section + '_> {
        let section = |(section, &has_layers): (_, &bool)| {
            let section: &Held<StoredChain> = section;
            let section = Taped(move |x: &Traced, taps: &TapRecorder| section.get()?.trace(x, taps));
            Tracked { section, has_layers }
        };
        self.sections.iter().zip(&self.tracked).map(section).collect()
    }
}

impl Body for Network {
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error> {
        let sections = self.sections();
        let sections: Vec<&dyn Section> = sections.iter().map(|section| section as &dyn Section).collect();
        backward_through(&sections, &self.images(batch)?, graphs, &batch.positions, sink, |outputs, _| {
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
        let (images, positions) = (self.images(batch)?, &batch.positions);
        gauss_newton_through(&sections, &images, graphs, positions, directions, sink, |moving, _| {
            hessian_of_outputs(moving, batch, self.squared_error)
        })
    }

    fn logits(&self, batch: &Batch) -> Result<Tensor, Error> {
        let mut x = Traced::constant(self.images(batch)?);
        for section in &self.sections {
            x = section.get()?.trace(&x, &TapRecorder::default())?;
        }
        Ok(x.value().clone())
    }

    fn check(&self) -> Result<(), LoadError> {
        self.sections.iter().try_for_each(Held::check)
    }
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let described = description::modules(config)?;
    order(config)?;
    let channels = config.size("num_channels")?;
    if config.get("image_size").is_none() {
        return Err(config.problem("no key `image_size`: a number, or a height and a width"));
    }
    let [height, width] = images::pair(config, "image_size", 1)?;
    let plane = Plane { height, width };
    if channels > LARGEST || [height, width].iter().any(|&size| size > LARGEST) {
        return Err(config.problem(format!("`num_channels` or `image_size` is larger than {LARGEST}")));
    }

    images::note_statistics(config, weights);
    let source = CheckpointReader::new(weights, "", config, options);
    let tracking = Tracking::new(&options.selection);
    let input = Flow { channels, plane, is_flat: false };
    let mut loader = Loader { config, source: &source, tracking: &tracking, plane, numbers: 0 };
    let (chains, output) = loader.sections(&described, input)?;
    if output.plane.places() != 1 {
        let Plane { height, width } = output.plane;
        let (channels, what) = (output.channels, "a network gives one list of numbers for each image");
        return Err(
            config.problem(format!("`modules` end with {height} x {width} places of {channels} channels; {what}"))
        );
    }
    let outputs = output.channels;
    // how many there are is what the last module gives
    let config = match config.get("id2label").or(config.get("num_labels")) {
        Some(_) => config.clone(),
        None => config.clone().with([("num_labels", Value::from(outputs))]),
    };
    let (labels, task) = images::labels(&config)?;
    if labels.outputs != outputs {
        let given = labels.outputs;
        return Err(config.problem(format!("`modules` give {outputs} numbers, but the labels are {given}")));
    }
    let pixels = plane.places() as u64;
    let section = |chain: &loading::Measured| (chain.parameters, chain.numbers.div_ceil(pixels));
    let sizes: Vec<(u64, u64)> = chains.iter().map(section).collect();
    let footprint = Footprint {
        parameters: source.sizes().parameters,
        section: sizes.iter().map(|&(parameters, _)| parameters).max().unwrap_or(0),
        sections: chains.len() as u64,
        width: chains.iter().map(|chain| (chain.chain.input.numbers() as u64).div_ceil(pixels)).max().unwrap_or(0),
        activations: sizes.iter().map(|&(_, numbers)| numbers).max().unwrap_or(0),
        all_activations: chains.iter().map(|chain| chain.numbers).sum::<u64>().div_ceil(pixels),
        has_own_rows: true,
        ..Footprint::default()
    };
    let tracked = chains.iter().map(|chain| chain.tracked).collect();
    let sections = chains.into_iter().map(|chain| Held::new(chain.chain, options.residence));
    let network = Network {
        sections: sections.collect::<Result<_, _>>()?,
        tracked,
        plane,
        squared_error: SquaredError { a: 1.0 / outputs.max(1) as f64 },
        dtype: options.dtype,
        device: options.device.clone(),
    };
    let size = ImageSize::Exactly { height, width, positions: plane.places() };
    let limits = Limits::Rows(RowLimits { inputs: RowShape::Image { channels, size }, outputs, task });
    Ok(Loaded { body: Box::new(network), tracked: tracking.finish()?, limits, labels: Some(labels), footprint })
}

/// The largest number of channels, and of pixels along an axis.
const LARGEST: usize = 1 << 16;

/// The modules with parameters in the order in which the code that trained them registers them: `parameter_order`, which
/// is the order of the `state_dict`, else that of the description.
fn order(config: &Config) -> Result<Vec<String>, LoadError> {
    let described = description::modules(config)?;
    let own = names(&described);
    let Some(list) = config.list("parameter_order")? else {
        return Ok(own.into_iter().map(str::to_owned).collect());
    };
    let given: Vec<String> = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let (mut sorted, mut wanted): (Vec<&str>, _) = (given.iter().map(String::as_str).collect(), own);
    sorted.sort_unstable();
    wanted.sort_unstable();
    if sorted.len() != list.len() || sorted != wanted {
        return Err(config.problem(
            "`parameter_order` does not list the name of each module with tensors in `modules` once, and no other",
        ));
    }
    Ok(given)
}

/// Statistics of batch norms are no parameters.
fn is_buffer(name: &str) -> bool {
    ["running_mean", "running_var", "num_batches_tracked"].iter().any(|buffer| name.ends_with(buffer))
}
