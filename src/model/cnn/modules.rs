//! The modules of a network of convolutions: as they lie on disk, and as they run.

use std::sync::Arc;

use candle_core::DType;

use super::description::Plain;
use crate::curvature::{Plane, Positions, TapRecorder, Traced};
use crate::model::checkpoint_reader::StoredTensor;
use crate::model::convolution::{AdaptedConvolution, StoredConvolution};
use crate::model::error::LoadError;
use crate::model::projection::{Projection, StoredLinear};
use crate::model::residence::Stored;
use crate::nn::{
    BatchNorm, Regions, trace_average_pooled, trace_averaged, trace_largest, trace_max_pooled, trace_scaled,
};

/// What goes from one module to the next of each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) channels: usize,
    /// Rows of an image; one after flattening.
    pub(super) plane: Plane,
    /// Whether an image is a list of numbers.
    pub(super) is_flat: bool,
}

impl Flow {
    /// Numbers of an image.
    pub(super) fn numbers(self) -> usize {
        self.channels * self.plane.places()
    }

    /// What a module without tensors makes of it.
    pub(super) fn after(self, module: Plain) -> candle_core::Result<Self> {
        let with = |plane| Ok(Self { plane, ..self });
        match module {
            Plain::Activation(_) | Plain::Scale(_) => Ok(self),
            Plain::MaxPool(window) | Plain::AvgPool { window, .. } => with(Regions::check(&window, self.plane)?),
            Plain::AdaptiveMaxPool([height, width]) | Plain::AdaptiveAvgPool([height, width]) => {
                with(Plane { height, width })
            }
            Plain::Flatten => {
                Ok(Self { channels: self.numbers(), plane: Plane { height: 1, width: 1 }, is_flat: true })
            }
        }
    }
}

/// A module in memory.
#[derive(Debug)]
pub(super) enum Module {
    Convolution(AdaptedConvolution),
    Norm(BatchNorm),
    Linear(Projection),
    Plain(Plain),
    Residual([Vec<Module>; 2]),
}

/// Modules one after the other, and what the first of them gets.
#[derive(Debug)]
pub(super) struct Chain {
    modules: Vec<Module>,
    input: Flow,
}

impl Chain {
    /// `x: [B · H · W, channels]`, and so is the result, of other places and channels.
    pub(super) fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        Ok(run(&self.modules, x, self.input, taps)?.0)
    }
}

fn run(modules: &[Module], x: &Traced, flow: Flow, taps: &TapRecorder) -> candle_core::Result<(Traced, Flow)> {
    let (mut x, mut flow) = (x.clone(), flow);
    for module in modules {
        (x, flow) = module.trace(&x, flow, taps)?;
    }
    Ok((x, flow))
}

impl Module {
    fn trace(&self, x: &Traced, flow: Flow, taps: &TapRecorder) -> candle_core::Result<(Traced, Flow)> {
        match self {
            Self::Convolution(convolution) => {
                let (x, plane) = convolution.trace(x, flow.plane, taps)?;
                let channels = x.value().dim(1)?;
                Ok((x, Flow { channels, plane, ..flow }))
            }
            Self::Norm(norm) => Ok((norm.trace(x)?, flow)),
            Self::Linear(linear) => {
                // one row for each image
                let taps = taps.at(&Arc::new(Positions::single(x.value().dim(0)?)));
                let x = linear.trace(x, &taps)?;
                let channels = x.value().dim(1)?;
                Ok((x, Flow { channels, ..flow }))
            }
            Self::Plain(plain) => Ok((trace_plain(*plain, x, flow)?, flow.after(*plain)?)),
            Self::Residual([modules, shortcut]) => {
                let (y, output) = run(modules, x, flow, taps)?;
                let (residual, _) = run(shortcut, x, flow, taps)?;
                Ok((y.add(&residual)?, output))
            }
        }
    }
}

fn trace_plain(module: Plain, x: &Traced, flow: Flow) -> candle_core::Result<Traced> {
    let Flow { channels, plane, .. } = flow;
    let adaptive = |[height, width]: [usize; 2]| Regions::adaptive(plane, Plane { height, width });
    match module {
        Plain::Activation(activation) => activation.trace(x),
        Plain::Scale(factor) => trace_scaled(x, factor),
        Plain::MaxPool(window) => Ok(trace_max_pooled(x, plane, &window)?.0),
        Plain::AvgPool { window, counts_padding } => {
            let divisor = counts_padding.then_some(window.size[0] * window.size[1]);
            trace_averaged(x, plane, &Regions::of_window(&window, plane)?, divisor)
        }
        Plain::AdaptiveMaxPool(output) => trace_largest(x, plane, &adaptive(output)?),
        Plain::AdaptiveAvgPool([1, 1]) => trace_average_pooled(x, plane),
        Plain::AdaptiveAvgPool(output) => trace_averaged(x, plane, &adaptive(output)?, None),
        Plain::Flatten if plane.places() == 1 => Ok(x.clone()),
        // channel by channel and in each row by row, as PyTorch's images lie
        Plain::Flatten => x.linear_map(|x| {
            let images = x.dim(0)? / plane.places();
            let by_channel = x.reshape((images, plane.places(), channels))?.transpose(1, 2)?.contiguous()?;
            by_channel.reshape((images, flow.numbers()))
        }),
    }
}

/// A batch norm on disk.
#[derive(Debug)]
pub(super) struct StoredNorm {
    /// Weight and bias; none: ones and zeros.
    pub(super) affine: Option<[StoredTensor; 2]>,
    pub(super) mean: StoredTensor,
    pub(super) variance: StoredTensor,
    pub(super) epsilon: f64,
}

impl Stored for StoredNorm {
    type Value = BatchNorm;

    fn read(&self) -> Result<BatchNorm, LoadError> {
        let (mean, variance) = (self.mean.read()?, self.variance.read()?);
        let least = variance.to_dtype(DType::F64)?.min(0)?.to_scalar::<f64>()?;
        if least < 0.0 {
            return Err(self.variance.problem("holds a negative number, which is no variance"));
        }
        if least + self.epsilon <= 0.0 {
            return Err(self.variance.problem("holds 0, and the module's `eps` is 0"));
        }
        let [weight, bias] = match &self.affine {
            Some([weight, bias]) => [weight.read()?, bias.read()?],
            None => [mean.ones_like()?, mean.zeros_like()?],
        };
        Ok(BatchNorm::new(&weight, &bias, &mean, &variance, self.epsilon)?)
    }
}

/// A module on disk.
#[derive(Debug)]
pub(super) enum StoredModule {
    Convolution(Box<StoredConvolution>),
    Norm(Box<StoredNorm>),
    Linear(Box<StoredLinear>),
    Plain(Plain),
    Residual([Vec<StoredModule>; 2]),
}

impl Stored for StoredModule {
    type Value = Module;

    fn read(&self) -> Result<Module, LoadError> {
        Ok(match self {
            Self::Convolution(convolution) => Module::Convolution(convolution.read()?),
            Self::Norm(norm) => Module::Norm(norm.read()?),
            Self::Linear(linear) => Module::Linear(linear.read()?),
            Self::Plain(plain) => Module::Plain(*plain),
            Self::Residual([modules, shortcut]) => Module::Residual([read_all(modules)?, read_all(shortcut)?]),
        })
    }
}

fn read_all(modules: &[StoredModule]) -> Result<Vec<Module>, LoadError> {
    modules.iter().map(Stored::read).collect()
}

/// Modules one after the other on disk.
#[derive(Debug)]
pub(super) struct StoredChain {
    pub(super) modules: Vec<StoredModule>,
    pub(super) input: Flow,
}

impl Stored for StoredChain {
    type Value = Chain;

    fn read(&self) -> Result<Chain, LoadError> {
        Ok(Chain { modules: read_all(&self.modules)?, input: self.input })
    }
}
