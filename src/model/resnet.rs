//! Residual networks (He et al. 2016, §3.3 and figures 3 and 5) as `ResNetForImageClassification` stores them, or under
//! the names that torchvision gives to the same tensors: a stem of one convolution and max pooling, stages of residual layers of two or three convolutions, an average over all places,
//! and a classifier. Every convolution is followed by batch normalisation with the statistics that training kept.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::architecture::{Architecture, Parameters};
use super::body::{Body, Loaded};
use super::checkpoint_reader::{CheckpointReader, StoredTensor};
use super::config::Config;
use super::convolution::{AdaptedConvolution, StoredConvolution};
use super::error::LoadError;
use super::footprint::Footprint;
use super::heads::head::Head;
use super::heads::sequence::{Pooling, Sequence, StoredSequence};
use super::heads::steps::Step;
use super::images::{self, ImageBatch};
use super::layers::{Convolved, Place};
use super::limits::Limits;
use super::load_options::LoadOptions;
use super::operations::LayerRows;
use super::residence::{Held, Stored};
use super::tracking::Tracking;
use super::weights::Weights;
use crate::curvature::{
    Directions, Error, Graphs, Objective, Plane, Section, TapRecorder, TapSink, Taped, Traced, Tracked, Window,
    backward_through, gauss_newton_through,
};
use crate::data::{Batch, ImageSize, RowLimits, RowShape};
use crate::nn::{Activation, BatchNorm, trace_average_pooled, trace_max_pooled};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "resnet",
    class_numbers: &[("num_channels", 3), ("embedding_size", 64)],
    classes: &["ResNetForImageClassification"],
    load,
    parameters: Parameters::Keys { of: place, is_buffer, ends: None },
    tied_by_default: false,
    without_effect: &["out_features", "out_indices", "stage_names"],
    renamed: None,
    blocks: None,
    heads: None,
    attention: None,
};

/// What the parts of a network are called in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Transformers,
    Torchvision,
}

/// A residual layer of a stage.
#[derive(Debug, Clone, Copy)]
struct Residual {
    stage: usize,
    layer: usize,
}

/// A convolution of a residual layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Shortcut,
    /// By its number on the main path.
    Main(usize),
}

impl Names {
    /// The naming that the weights have; transformers' if they have neither.
    fn of(weights: &Weights) -> Self {
        if weights.contains("conv1.weight") { Self::Torchvision } else { Self::Transformers }
    }

    /// The stem's convolution and its norm.
    fn stem(self) -> [String; 2] {
        match self {
            Self::Transformers => {
                ["convolution", "normalization"].map(|part| format!("resnet.embedder.embedder.{part}"))
            }
            Self::Torchvision => ["conv1".into(), "bn1".into()],
        }
    }

    /// A convolution of a residual layer, and its norm.
    fn unit(self, Residual { stage, layer }: Residual, role: Role) -> [String; 2] {
        match (self, role) {
            (Self::Transformers, role) => {
                let unit = match role {
                    Role::Shortcut => "shortcut".into(),
                    Role::Main(k) => format!("layer.{k}"),
                };
                let name = format!("resnet.encoder.stages.{stage}.layers.{layer}.{unit}");
                ["convolution", "normalization"].map(|part| format!("{name}.{part}"))
            }
            (Self::Torchvision, Role::Shortcut) => [0, 1].map(|k| format!("layer{}.{layer}.downsample.{k}", stage + 1)),
            (Self::Torchvision, Role::Main(k)) => {
                ["conv", "bn"].map(|part| format!("layer{}.{layer}.{part}{}", stage + 1, k + 1))
            }
        }
    }

    fn classifier(self) -> &'static str {
        match self {
            Self::Transformers => "classifier.1",
            Self::Torchvision => "fc",
        }
    }
}

/// Added to variances: torch's default, which no configuration changes.
const EPSILON: f64 = 1e-5;

/// How many times narrower a bottleneck is than its output.
const REDUCTION: usize = 4;

/// `x: [B · H · W, C]` throughout: a row for each place of an image.
#[derive(Debug)]
struct ResNet {
    stem: Held<StoredStem>,
    tracks_stem: bool,
    layers: Vec<Held<StoredLayer>>,
    /// Whether each residual layer has tracked convolutions.
    tracked: Vec<bool>,
    classifier: Sequence,
    dtype: DType,
    device: Device,
}

/// A convolution, its norm, and an activation where there is one.
#[derive(Debug)]
struct Unit {
    convolution: AdaptedConvolution,
    normalization: BatchNorm,
    activation: Activation,
}

#[derive(Debug)]
struct Stem {
    embedder: Unit,
    pooler: Window,
}

/// `activation(layer(x) + shortcut(x))`.
#[derive(Debug)]
struct Layer {
    /// None where the sizes fit: `x` itself.
    shortcut: Option<Unit>,
    layer: Vec<Unit>,
    activation: Activation,
}

impl Unit {
    fn trace(&self, x: &Traced, plane: Plane, taps: &TapRecorder) -> candle_core::Result<(Traced, Plane)> {
        let (x, plane) = self.convolution.trace(x, plane, taps)?;
        let x = self.normalization.trace(&x)?;
        let x = if self.activation == Activation::Identity { x } else { self.activation.trace(&x)? };
        Ok((x, plane))
    }
}

impl Stem {
    fn trace(&self, x: &Traced, plane: Plane, taps: &TapRecorder) -> candle_core::Result<(Traced, Plane)> {
        let (x, plane) = self.embedder.trace(x, plane, taps)?;
        trace_max_pooled(&x, plane, &self.pooler)
    }
}

impl Layer {
    fn trace(&self, x: &Traced, plane: Plane, taps: &TapRecorder) -> candle_core::Result<(Traced, Plane)> {
        let (mut y, mut output) = (x.clone(), plane);
        for unit in &self.layer {
            (y, output) = unit.trace(&y, output, taps)?;
        }
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.trace(x, plane, taps)?.0,
            None => x.clone(),
        };
        Ok((self.activation.trace(&y.add(&residual)?)?, output))
    }
}

impl ResNet {
    /// The stem, the residual layers, and the average over all places, of images with these places ([`ResNet::planes`]).
    fn sections<'a>(&'a self, planes: &'a [Plane]) -> (impl Section + 'a, Vec<impl Section + 'a>, impl Section + 'a) {
        let stem = Taped(|x: &Traced, taps: &TapRecorder| Ok(self.stem.get()?.trace(x, planes[0], taps)?.0));
        let section = |((layer, has_layers), &plane)| {
            let layer: &Held<StoredLayer> = layer;
            let section = Taped(move |x: &Traced, taps: &TapRecorder| Ok(layer.get()?.trace(x, plane, taps)?.0));
            Tracked { section, has_layers }
        };
        let last = planes[planes.len() - 1];
        let pooler = Taped(move |x: &Traced, _: &TapRecorder| trace_average_pooled(x, last));
        (
            Tracked { section: stem, has_layers: self.tracks_stem },
            self.layers.iter().zip(self.tracked.iter().copied()).zip(&planes[1..]).map(section).collect(),
            Tracked { section: pooler, has_layers: false },
        )
    }

    /// The places of the images, of the first residual layer's input, and of every residual layer's output.
    fn planes(&self, images: Plane) -> candle_core::Result<Vec<Plane>> {
        let mut planes = vec![images, stem_plane(images)?];
        for layer in &self.layers {
            let strides = match layer {
                Held::Kept(layer) => layer.layer.iter().map(|unit| *unit.convolution.window()).collect::<Vec<_>>(),
                Held::OnDisk(layer) => layer.layer.iter().map(|unit| unit.convolution.window).collect(),
            };
            let before = planes[planes.len() - 1];
            planes.push(strides.iter().try_fold(before, |plane, window| window.output(plane))?);
        }
        Ok(planes)
    }
}

fn stem_window() -> Window {
    Window::square(7, 2, 3)
}

fn stem_pooler() -> Window {
    Window::square(3, 2, 1)
}

fn stem_plane(images: Plane) -> candle_core::Result<Plane> {
    stem_pooler().output(stem_window().output(images)?)
}

impl Body for ResNet {
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error> {
        let images = ImageBatch::of(batch, self.dtype, &self.device)?;
        let planes = self.planes(images.plane)?;
        let (stem, layers, pooler) = self.sections(&planes);
        let sections = images::chained(&stem, &layers, &pooler);
        backward_through(&sections, &images.rows, graphs, &batch.positions, sink, |pooled, taps| {
            self.classifier.differentiate(pooled, batch, objective, taps)
        })
    }

    fn gauss_newton(
        &self,
        batch: &Batch,
        directions: &Directions,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<(), Error> {
        let images = ImageBatch::of(batch, self.dtype, &self.device)?;
        let planes = self.planes(images.plane)?;
        let (stem, layers, pooler) = self.sections(&planes);
        let sections = images::chained(&stem, &layers, &pooler);
        gauss_newton_through(&sections, &images.rows, graphs, &batch.positions, directions, sink, |moving, taps| {
            self.classifier.gauss_newton(moving, batch, directions, taps)
        })
    }

    fn logits(&self, batch: &Batch) -> Result<Tensor, Error> {
        let (images, taps) = (ImageBatch::of(batch, self.dtype, &self.device)?, TapRecorder::default());
        let (mut x, mut plane) = self.stem.get()?.trace(&Traced::constant(images.rows), images.plane, &taps)?;
        for layer in &self.layers {
            (x, plane) = layer.get()?.trace(&x, plane, &taps)?;
        }
        self.classifier.logits(trace_average_pooled(&x, plane)?.value(), batch)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.stem.check()?;
        self.layers.iter().try_for_each(Held::check)?;
        self.classifier.check()
    }
}

#[derive(Debug)]
struct StoredUnit {
    convolution: StoredConvolution,
    /// Weight, bias, mean and variance.
    normalization: [StoredTensor; 4],
    activation: Activation,
}

impl Stored for StoredUnit {
    type Value = Unit;

    fn read(&self) -> Result<Unit, LoadError> {
        let [weight, bias, mean, variance] = &self.normalization;
        let statistics = variance.read()?;
        if statistics.to_dtype(DType::F64)?.min(0)?.to_scalar::<f64>()? < 0.0 {
            return Err(variance.problem("holds a negative number, which is no variance"));
        }
        Ok(Unit {
            convolution: self.convolution.read()?,
            normalization: BatchNorm::new(&weight.read()?, &bias.read()?, &mean.read()?, &statistics, EPSILON)?,
            activation: self.activation,
        })
    }
}

#[derive(Debug)]
struct StoredStem(StoredUnit);

impl Stored for StoredStem {
    type Value = Stem;

    fn read(&self) -> Result<Stem, LoadError> {
        Ok(Stem { embedder: self.0.read()?, pooler: stem_pooler() })
    }
}

#[derive(Debug)]
struct StoredLayer {
    shortcut: Option<StoredUnit>,
    layer: Vec<StoredUnit>,
    activation: Activation,
}

impl Stored for StoredLayer {
    type Value = Layer;

    fn read(&self) -> Result<Layer, LoadError> {
        Ok(Layer {
            shortcut: self.shortcut.as_ref().map(Stored::read).transpose()?,
            layer: self.layer.iter().map(Stored::read).collect::<Result<_, _>>()?,
            activation: self.activation,
        })
    }
}

/// Numbers that an image's pixel has in a section, of which the places are fewer and fewer.
#[derive(Debug, Default)]
struct PerPixel {
    /// Pixels for each place.
    pixels: u64,
    numbers: u64,
}

impl PerPixel {
    /// Adds the patches and outputs of a convolution of so many outputs and channels, after its window has moved.
    fn add_convolution(&mut self, sizes: [usize; 2], convolution: &StoredConvolution) {
        let [down, across] = convolution.window.stride;
        self.pixels *= (down * across) as u64;
        self.add_at_places(sizes, convolution);
    }

    /// Adds these numbers at as many places as there are; those of an adapter have patches of their own.
    fn add_at_places(&mut self, [outputs, channels]: [usize; 2], convolution: &StoredConvolution) {
        let columns = channels * convolution.window.size.iter().product::<usize>();
        self.numbers += ((columns + outputs) as u64).div_ceil(self.pixels);
        if let Some(rank) = convolution.rank() {
            self.numbers += ((columns + 2 * rank + outputs) as u64).div_ceil(self.pixels);
        }
    }
}

/// A list of positive whole numbers; the class's if the key is absent.
fn sizes(config: &Config, key: &str, usual: &[usize]) -> Result<Vec<usize>, LoadError> {
    let Some(list) = config.list(key)? else {
        config.note(format!("`config.json` leaves out `{key}`: {usual:?}, as in transformers"));
        return Ok(usual.to_vec());
    };
    let size = |value: &Value| value.as_u64().filter(|n| (1..=1 << 16).contains(n)).map(|n| n as usize);
    let found: Option<Vec<usize>> = list.iter().map(size).collect();
    found
        .filter(|found| !found.is_empty())
        .ok_or_else(|| config.problem(format!("`{key}` = {}, expected positive whole numbers", config.quoted(key))))
}

/// Builds the model from its folder's configuration and weights.
fn load(config: &Config, weights: &Arc<Weights>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let channels = images::size(config, "num_channels", 3)?;
    let embedding = images::size(config, "embedding_size", 64)?;
    let widths = sizes(config, "hidden_sizes", &[256, 512, 1024, 2048])?;
    let depths = sizes(config, "depths", &[3, 4, 6, 3])?;
    if widths.len() != depths.len() {
        let (widths, depths) = (widths.len(), depths.len());
        return Err(config.problem(format!("`hidden_sizes` has {widths} entries, and `depths` has {depths}")));
    }
    let is_bottleneck = match config.text("layer_type", "bottleneck")? {
        "bottleneck" => true,
        "basic" => false,
        _ => return Err(config.unsupported("layer_type")),
    };
    if let Some(narrow) = widths.iter().find(|&&width| is_bottleneck && width < REDUCTION) {
        return Err(config.problem(format!("a bottleneck of {narrow} channels is narrower than {REDUCTION}")));
    }
    let activation = Activation::from_name(config.text("hidden_act", "relu")?);
    let activation = activation.ok_or_else(|| config.unsupported("hidden_act"))?;
    let in_first_stage = config.flag("downsample_in_first_stage", false)?;
    let in_bottleneck = config.flag("downsample_in_bottleneck", false)?;
    let (labels, task) = images::labels(config)?;

    images::note_statistics(config, weights);
    let names = Names::of(weights);
    let source = CheckpointReader::new(weights, "", config, options);
    let residence = options.residence;
    let tracking = Tracking::new(&options.selection);
    let norm = |name: &str, width: usize| -> Result<[StoredTensor; 4], LoadError> {
        let tensor = |part: &str| source.tensor(&format!("{name}.{part}"), &[width]);
        Ok([tensor("weight")?, tensor("bias")?, tensor("running_mean")?, tensor("running_var")?])
    };
    let mut per_pixel = PerPixel { pixels: 1, numbers: 0 };
    let convolved = |[outputs, channels]: [usize; 2], window, place| Convolved {
        outputs,
        channels,
        groups: 1,
        window,
        bias: false,
        place,
    };
    let window = stem_window();
    let [convolution, normalization] = names.stem();
    let stem = StoredUnit {
        convolution: tracking.seeing(LayerRows::share(1.0 / (window.stride[0] * window.stride[1]) as f64), || {
            let place = convolved([embedding, channels], window, Place::Outside);
            source.convolution(&tracking, &convolution, place)
        })?,
        normalization: norm(&normalization, embedding)?,
        activation,
    };
    let tracks_stem = tracking.count() > 0;
    per_pixel.add_convolution([embedding, channels], &stem.convolution);
    let mut most = (source.sizes().parameters, per_pixel.numbers);
    let mut width_between = (channels as u64).max((embedding as u64).div_ceil(16));
    per_pixel.pixels *= 4;

    let (mut layers, mut tracked) = (vec![], vec![]);
    let mut before = embedding;
    for (stage, (&width, &depth)) in widths.iter().zip(&depths).enumerate() {
        for n in 0..depth {
            let stride = if n == 0 && (stage > 0 || in_first_stage) { 2 } else { 1 };
            let pixels = per_pixel.pixels;
            let (parameters, numbers, so_far) = (source.sizes().parameters, per_pixel.numbers, source.sizes().tracked);
            let unit = |role: Role, sizes: [usize; 2], size: usize, [stride, moved]: [usize; 2], activation| {
                let window = Window::square(size, stride, size / 2);
                let rows = LayerRows::share(1.0 / (pixels * (moved * moved) as u64) as f64);
                let [convolution, normalization] = names.unit(Residual { stage, layer: n }, role);
                let place = convolved(sizes, window, Place::Inside);
                let convolution = tracking.seeing(rows, || source.convolution(&tracking, &convolution, place))?;
                let normalization = norm(&normalization, sizes[0])?;
                Ok::<_, LoadError>(StoredUnit { convolution, normalization, activation })
            };
            let shortcut = match before != width || stride != 1 {
                true => Some(unit(Role::Shortcut, [width, before], 1, [stride; 2], Activation::Identity)?),
                false => None,
            };
            // outputs, inputs, size and stride of the convolutions
            let convolutions = if is_bottleneck {
                let narrow = width / REDUCTION;
                let [first, second] = if in_bottleneck { [stride, 1] } else { [1, stride] };
                vec![([narrow, before], 1, first), ([narrow, narrow], 3, second), ([width, narrow], 1, 1)]
            } else {
                vec![([width, before], 3, stride), ([width, width], 3, 1)]
            };
            let last = convolutions.len() - 1;
            let (mut layer, mut moved) = (vec![], 1);
            for (k, &(channels, size, stride)) in convolutions.iter().enumerate() {
                moved *= stride;
                // `hidden_act` is that of the stem and behind each sum
                let activation = if k == last { Activation::Identity } else { Activation::Relu };
                layer.push(unit(Role::Main(k), channels, size, [stride, moved], activation)?);
            }
            for ((sizes, ..), unit) in convolutions.iter().zip(&layer) {
                per_pixel.add_convolution(*sizes, &unit.convolution);
            }
            if let Some(unit) = &shortcut {
                // the main path has moved by its stride already
                per_pixel.add_at_places([width, before], &unit.convolution);
            }
            let section = (source.sizes().parameters - parameters, per_pixel.numbers - numbers);
            most = (most.0.max(section.0), most.1.max(section.1));
            width_between = width_between.max((width as u64).div_ceil(per_pixel.pixels));
            tracked.push(source.sizes().tracked > so_far);
            layers.push(StoredLayer { shortcut, layer, activation });
            before = width;
        }
    }
    let head = StoredSequence {
        pooling: Pooling::Before,
        steps: vec![Step::Linear { name: names.classifier(), sizes: [labels.outputs, before], bias: true }],
        outputs: labels.outputs,
    };
    let classifier = head.load(&source, &tracking, residence)?;
    let footprint = Footprint {
        parameters: source.sizes().parameters,
        section: most.0,
        sections: layers.len() as u64 + 1,
        width: width_between,
        activations: most.1,
        all_activations: per_pixel.numbers,
        has_own_rows: true,
        ..Footprint::default()
    };
    let resnet = ResNet {
        stem: Held::new(StoredStem(stem), residence)?,
        tracks_stem,
        layers: layers.into_iter().map(|layer| Held::new(layer, residence)).collect::<Result<_, _>>()?,
        tracked,
        classifier,
        dtype: options.dtype,
        device: options.device.clone(),
    };
    let inputs = RowShape::Image { channels, size: ImageSize::Any };
    let limits = Limits::Rows(RowLimits { inputs, outputs: labels.outputs, task });
    Ok(Loaded { body: Box::new(resnet), tracked: tracking.finish()?, limits, labels: Some(labels), footprint })
}

/// A parameter's key in the order of registration: stem, residual layers, classifier; a convolution before its norm, and
/// weight before bias. In a residual layer transformers registers the shortcut first, and torchvision last.
fn place(name: &str) -> Option<Vec<u64>> {
    let (module, leaf) = match name.rsplit_once('.')? {
        (module, "weight") => (module, 0),
        (module, "bias") => (module, 1),
        _ => return None,
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let part_of = |name: &str| {
        ["conv", "bn"]
            .iter()
            .enumerate()
            .find_map(|(part, kind)| Some((part as u64, number(name.strip_prefix(kind)?)?)))
    };
    if [Names::Transformers, Names::Torchvision].iter().any(|names| names.classifier() == module) {
        return Some(vec![2, leaf]);
    }
    if let Some(module) = module.strip_prefix("resnet.") {
        let (unit, part) = module.rsplit_once('.')?;
        let part = ["convolution", "normalization"].iter().position(|&one| one == part)? as u64;
        if unit == "embedder.embedder" {
            return Some(vec![0, part, leaf]);
        }
        let (stage, rest) = unit.strip_prefix("encoder.stages.")?.split_once(".layers.")?;
        let (layer, own) = rest.split_once('.')?;
        let own = match own.strip_prefix("layer.") {
            Some(k) => number(k)? + 1,
            None if own == "shortcut" => 0,
            None => return None,
        };
        return Some(vec![1, number(stage)?, number(layer)?, own, part, leaf]);
    }
    let Some((stage, rest)) = module.strip_prefix("layer").and_then(|rest| rest.split_once('.')) else {
        let (part, _) = part_of(module).filter(|&(_, k)| k == 1)?;
        return Some(vec![0, part, leaf]);
    };
    let (layer, own) = rest.split_once('.')?;
    let (own, part) = match own.strip_prefix("downsample.") {
        Some(part) => (u64::MAX, number(part)?),
        None => part_of(own).map(|(part, k)| (k, part))?,
    };
    Some(vec![1, number(stage)?, number(layer)?, own, part, leaf])
}

/// Statistics of batch norms are no parameters.
fn is_buffer(name: &str) -> bool {
    ["running_mean", "running_var", "num_batches_tracked"].iter().any(|buffer| name.ends_with(buffer))
}
