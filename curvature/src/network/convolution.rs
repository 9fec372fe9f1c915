//! A convolution as the linear layer that it is: of the patches that its window sees.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::network::linear::{Linear, TapRecorder};
use crate::network::tap::Positions;
use crate::network::tape::{Gradient, Traced};
use crate::network::window::{Plane, Window};

/// Numbers of patches that are in memory together while outputs or input gradients are computed, unless one image has
/// more.
const PATCHES: usize = 1 << 22;

/// `z = W a + b` at every position of a window, `a` being what the window sees: a layer of `channels · height · width`
/// inputs, with as many positions of an image as its output has places.
///
/// Patches are formed a few images at a time, and all of a batch only while a tracked layer leaves its tap.
#[derive(Debug, Clone)]
pub struct Convolution {
    linear: Linear,
    window: Window,
}

impl Convolution {
    /// A layer whose weight is `[outputs, channels · height · width]`.
    pub fn new(linear: Linear, window: Window) -> Self {
        Self { linear, window }
    }

    /// What moves over the images.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The output on a tape, and its places.
    ///
    /// # Shapes
    /// `x: [B · H · W, channels]` to `[B · P, outputs]`.
    /// # Errors
    /// If shapes, data types or devices do not fit.
    pub fn trace(&self, x: &Traced, plane: Plane, taps: &TapRecorder) -> Result<(Traced, Plane)> {
        if x.tangents().is_some() || taps.directions().is_some() {
            candle_core::bail!("a convolution has no rule for tangents");
        }
        let output = self.window.output(plane)?;
        let images = x.value().dim(0)? / plane.places().max(1);
        let taps = taps.at(&Arc::new(Positions::from_lengths(vec![output.places(); images])));
        if self.window.is_trivial() {
            return Ok((self.linear.trace(x, &taps)?, output));
        }
        let input = x.value().contiguous()?;
        let outputs =
            self.by_images(&input, plane, plane, |images| self.linear.product(&self.window.unfold(images, plane)?.0))?;
        let own = self.clone();
        let back = move |s: Tensor, wanted| {
            let s = s.contiguous()?;
            let gradient = match wanted {
                Gradient::Unwanted => None,
                Gradient::Wanted => {
                    Some(own.by_images(&s, output, plane, |s| own.window.fold(&own.linear.input_gradient(s)?, plane))?)
                }
            };
            if let Some(layer) = own.linear.layer() {
                taps.record(layer, own.window.unfold(&input, plane)?.0, s);
            }
            Ok(gradient)
        };
        let always = if self.linear.layer().is_some() { Gradient::Wanted } else { Gradient::Unwanted };
        Ok((x.then(outputs, back, always), output))
    }

    /// What `f` makes of some images after the other, one under the other; `rows` is what an image has of `x`.
    fn by_images(
        &self,
        x: &Tensor,
        rows: Plane,
        plane: Plane,
        f: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let images = x.dim(0)? / rows.places().max(1);
        let (_, columns) = self.linear.weight().dims2()?;
        let of_image = columns * self.window.output(plane)?.places();
        let at_once = (PATCHES / of_image.max(1)).max(1);
        let mut parts = vec![];
        for first in (0..images).step_by(at_once) {
            let count = at_once.min(images - first);
            parts.push(f(&x.narrow(0, first * rows.places(), count * rows.places())?)?);
        }
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            _ => Tensor::cat(&parts, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::network::layer::LayerId;
    use crate::network::tape::Tape;

    fn wave(rows: usize, columns: usize, shift: usize) -> Tensor {
        let numbers: Vec<f64> = (0..rows * columns).map(|k| ((k + shift) as f64 * 1.37).sin()).collect();
        Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).expect("fitting")
    }

    /// Outputs are candle's convolution; gradients at inputs and weights are central differences of the outputs' product
    /// with a seed.
    #[test]
    fn outputs_input_gradients_and_taps_are_those_of_a_convolution() -> Result<()> {
        let (plane, channels, outputs, images) = (Plane { height: 5, width: 6 }, 2, 3, 2);
        for (kernel, stride, padding, dilation) in
            [(3, 2, 1, 1), (2, 1, 0, 2), (1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 2, 2)]
        {
            let window =
                Window { size: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] };
            let columns = channels * kernel * kernel;
            let (weight, bias) = (wave(outputs, columns, 3), wave(1, outputs, 9).flatten_all()?);
            let x = wave(images * plane.places(), channels, 0);
            let layer = |weight: &Tensor| -> Result<Convolution> {
                let linear = Linear::new(weight.clone(), Some(bias.clone()), Some(LayerId(7)));
                Ok(Convolution::new(linear.map_err(candle_core::Error::wrap)?, window))
            };
            let run = |weight: &Tensor, x: &Tensor| -> Result<(Tensor, Plane)> {
                let (y, output) = layer(weight)?.trace(&Traced::constant(x.clone()), plane, &TapRecorder::default())?;
                Ok((y.value().clone(), output))
            };
            let (y, output) = run(&weight, &x)?;
            let of_candle = x
                .reshape((images, plane.places(), channels))?
                .transpose(1, 2)?
                .reshape((images, channels, plane.height, plane.width))?
                .conv2d(&weight.reshape((outputs, channels, kernel, kernel))?, padding, stride, dilation, 1)?;
            assert_eq!(of_candle.dims(), [images, outputs, output.height, output.width]);
            let of_candle = of_candle.flatten_from(2)?.transpose(1, 2)?.reshape(((), outputs))?.broadcast_add(&bias)?;
            assert!((&of_candle - &y)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()? < 1e-13);

            let seed = wave(y.dim(0)?, outputs, 21);
            let value = |weight: &Tensor, x: &Tensor| -> Result<f64> {
                (run(weight, x)?.0 * &seed)?.sum_all()?.to_scalar::<f64>()
            };
            let differences = |of: &Tensor, value: &dyn Fn(&Tensor) -> Result<f64>| -> Result<Vec<f64>> {
                let numbers = of.flatten_all()?.to_vec1::<f64>()?;
                let moved = |k: usize, step: f64| -> Result<f64> {
                    let mut numbers = numbers.clone();
                    numbers[k] += step;
                    value(&Tensor::from_vec(numbers, of.shape(), &Device::Cpu)?)
                };
                // exact but for rounding: the objective is linear in each
                (0..numbers.len()).map(|k| Ok((moved(k, 0.5)? - moved(k, -0.5)?) / 1.0)).collect()
            };
            for wanted in [Gradient::Wanted, Gradient::Unwanted] {
                let (tape, taps) = (Tape::default(), TapRecorder::default());
                let input = tape.input(x.clone(), wanted);
                let (traced, _) = layer(&weight)?.trace(&input, plane, &taps)?;
                let found = tape.backward(&input, &traced, seed.clone())?;
                assert_eq!(found.is_some(), wanted == Gradient::Wanted);
                if let Some(found) = found {
                    let want = differences(&x, &|x| value(&weight, x))?;
                    for (found, want) in found.flatten_all()?.to_vec1::<f64>()?.iter().zip(want) {
                        assert!((found - want).abs() < 1e-12, "{window:?}: {found} {want}");
                    }
                }
                let recorded = taps.take();
                let [(LayerId(7), a, s)] = recorded.as_slice() else { panic!("one tap") };
                assert_eq!((a.dims(), s.dims()), (&[images * output.places(), columns][..], seed.dims()));
                let want = differences(&weight, &|weight| value(weight, &x))?;
                let found = s.t()?.matmul(a)?.flatten_all()?.to_vec1::<f64>()?;
                for (found, want) in found.iter().zip(want) {
                    assert!((found - want).abs() < 1e-12, "{window:?}: {found} {want}");
                }
            }
        }
        Ok(())
    }
}
