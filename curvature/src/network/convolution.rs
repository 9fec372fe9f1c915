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
/// A grouped convolution is several such layers: each sees its own channels alone and writes its own outputs, so that
/// the weights of two groups meet in no covariance, and every group has its taps.
///
/// Patches are formed a few images at a time, and all of a batch only while a tracked layer leaves its tap. Tangents of
/// its input and its own movement give the output's, for each direction.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// One layer for each group of channels, in the order of the channels.
    groups: Vec<Linear>,
    window: Window,
}

impl Convolution {
    /// A layer whose weight is `[outputs, channels · height · width]`.
    pub fn new(linear: Linear, window: Window) -> Self {
        Self { groups: vec![linear], window }
    }

    /// A convolution of channels in equal groups: the weight of each is
    /// `[outputs / groups, channels / groups · height · width]`.
    ///
    /// # Errors
    /// If there is no group, or their weights differ in shape.
    pub fn grouped(groups: Vec<Linear>, window: Window) -> Result<Self> {
        let Some(first) = groups.first() else { candle_core::bail!("a convolution of no group") };
        let shape = first.weight().dims2()?;
        if let Some(other) = groups.iter().find(|group| group.weight().dims() != first.weight().dims()) {
            candle_core::bail!("groups of a convolution with weights {shape:?} and {:?}", other.weight().dims());
        }
        Ok(Self { groups, window })
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
        let output = self.window.output(plane)?;
        let images = x.value().dim(0)? / plane.places().max(1);
        let taps = taps.at(&Arc::new(Positions::from_lengths(vec![output.places(); images])));
        if let ([linear], true) = (self.groups.as_slice(), self.window.is_trivial()) {
            return Ok((linear.trace(x, &taps)?, output));
        }
        let input = x.value().contiguous()?;
        let outputs = self.by_images(&input, plane, plane, |images| {
            self.by_groups(images, |linear, channels| linear.product(&self.window.unfold(channels, plane)?.0))
        })?;
        let tangents = self.tangents(x, &input, [plane, output], &taps)?;
        let own = self.clone();
        let back = move |s: Tensor, wanted| {
            let s = s.contiguous()?;
            let gradient = match wanted {
                Gradient::Unwanted => None,
                Gradient::Wanted => Some(own.by_images(&s, output, plane, |s| {
                    own.by_groups(s, |linear, s| own.window.fold(&linear.input_gradient(s)?, plane))
                })?),
            };
            for (k, linear) in own.groups.iter().enumerate() {
                if let Some(layer) = linear.layer() {
                    let channels = own.columns_of(&input, k)?;
                    taps.record(layer, own.window.unfold(&channels, plane)?.0, own.columns_of(&s, k)?);
                }
            }
            Ok(gradient)
        };
        let is_tracked = self.groups.iter().any(|linear| linear.layer().is_some());
        let always = if is_tracked { Gradient::Wanted } else { Gradient::Unwanted };
        Ok((x.then(outputs, back, always).moving(tangents)?, output))
    }

    /// `W ȧ` and, for groups that are tracked where directions are asked for, `Ẇ a + ḃ`: `[Q · B · P, outputs]`. To the
    /// former a direction's images are images like any other; the latter is a product of the values' own patches.
    fn tangents(
        &self,
        x: &Traced,
        input: &Tensor,
        [plane, output]: [Plane; 2],
        taps: &TapRecorder,
    ) -> Result<Option<Tensor>> {
        let carried = match x.tangents() {
            Some(tangents) => Some(self.by_images(&tangents.contiguous()?, plane, plane, |images| {
                self.by_groups(images, |linear, channels| linear.carried(&self.window.unfold(channels, plane)?.0))
            })?),
            None => None,
        };
        let is_tracked = self.groups.iter().any(|linear| linear.layer().is_some());
        let Some(directions) = taps.directions().filter(|_| is_tracked) else { return Ok(carried) };
        let count = directions.count();
        let moved = self.by_images(input, plane, plane, |images| {
            let places = images.dim(0)? / plane.places() * output.places();
            // directions side by side, so that images stand one below the other
            let moved = self.by_groups(images, |linear, channels| {
                match linear.moved(&self.window.unfold(channels, plane)?.0, taps)? {
                    Some(moved) => Ok(moved),
                    None => Tensor::zeros((count * places, linear.weight().dim(0)?), input.dtype(), input.device()),
                }
            })?;
            moved.reshape((count, places, ()))?.transpose(0, 1)?.contiguous()
        })?;
        let moved = moved.transpose(0, 1)?.contiguous()?.flatten(0, 1)?;
        match carried {
            Some(carried) => Ok(Some((moved + carried)?)),
            None => Ok(Some(moved)),
        }
    }

    /// The columns of `x` that belong to a group, if they are divided among the groups.
    fn columns_of(&self, x: &Tensor, group: usize) -> Result<Tensor> {
        let (_, columns) = x.dims2()?;
        let width = columns / self.groups.len();
        if width * self.groups.len() != columns {
            candle_core::bail!("{columns} channels in {} groups", self.groups.len());
        }
        x.narrow(1, group * width, width)?.contiguous()
    }

    /// What `f` makes of each group's columns of `x`, side by side.
    fn by_groups(&self, x: &Tensor, f: impl Fn(&Linear, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        if let [linear] = self.groups.as_slice() {
            return f(linear, x);
        }
        let parts = self.groups.iter().enumerate().map(|(k, linear)| f(linear, &self.columns_of(x, k)?));
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?.contiguous()
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
        let columns = self.groups.iter().map(|linear| Ok(linear.weight().dims2()?.1)).sum::<Result<usize>>()?;
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
    use crate::network::layer::{LayerId, LayerSpec};
    use crate::network::tangent::Directions;
    use crate::network::tape::Tape;

    fn wave(rows: usize, columns: usize, shift: usize) -> Tensor {
        let numbers: Vec<f64> = (0..rows * columns).map(|k| ((k + shift) as f64 * 1.37).sin()).collect();
        Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).expect("fitting")
    }

    /// Groups, channels and outputs of a group; kernel, stride, padding and dilation.
    const CASES: [([usize; 3], [usize; 4]); 8] = [
        ([1, 2, 3], [3, 2, 1, 1]),
        ([1, 2, 3], [2, 1, 0, 2]),
        ([1, 2, 3], [1, 1, 0, 1]),
        ([1, 2, 3], [1, 2, 0, 1]),
        ([1, 2, 3], [3, 1, 2, 2]),
        ([2, 2, 3], [3, 2, 1, 1]),
        ([3, 1, 2], [2, 1, 0, 2]),
        ([2, 3, 1], [1, 1, 0, 1]),
    ];

    /// Outputs are candle's convolution; gradients at inputs and weights are central differences of the outputs' product
    /// with a seed.
    #[test]
    fn outputs_input_gradients_and_taps_are_those_of_a_convolution() -> Result<()> {
        let (plane, images) = (Plane { height: 5, width: 6 }, 2);
        for ([groups, channels, outputs], [kernel, stride, padding, dilation]) in CASES {
            let window =
                Window { size: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] };
            let columns = channels * kernel * kernel;
            let (weight, bias) = (wave(groups * outputs, columns, 3), wave(1, groups * outputs, 9).flatten_all()?);
            let x = wave(images * plane.places(), groups * channels, 0);
            let layer = |weight: &Tensor| -> Result<Convolution> {
                let of_group = |k: usize| {
                    let [weight, bias] = [weight, &bias].map(|x| x.narrow(0, k * outputs, outputs));
                    Linear::new(weight?, Some(bias?), Some(LayerId(7 + k))).map_err(candle_core::Error::wrap)
                };
                Convolution::grouped((0..groups).map(of_group).collect::<Result<_>>()?, window)
            };
            let run = |weight: &Tensor, x: &Tensor| -> Result<(Tensor, Plane)> {
                let (y, output) = layer(weight)?.trace(&Traced::constant(x.clone()), plane, &TapRecorder::default())?;
                Ok((y.value().clone(), output))
            };
            let (y, output) = run(&weight, &x)?;
            let kernels = weight.reshape((groups * outputs, channels, kernel, kernel))?;
            let of_candle = x
                .reshape((images, plane.places(), groups * channels))?
                .transpose(1, 2)?
                .reshape((images, groups * channels, plane.height, plane.width))?
                .conv2d(&kernels, padding, stride, dilation, groups)?;
            assert_eq!(of_candle.dims(), [images, groups * outputs, output.height, output.width]);
            let of_candle = of_candle.flatten_from(2)?.transpose(1, 2)?.reshape(((), groups * outputs))?;
            let of_candle = of_candle.broadcast_add(&bias)?;
            assert!((&of_candle - &y)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()? < 1e-13);

            let seed = wave(y.dim(0)?, groups * outputs, 21);
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
                // every group's weights are rows of the whole
                let mut found = vec![];
                let recorded = taps.take();
                assert_eq!(recorded.len(), groups);
                for (k, (layer, a, s)) in recorded.iter().enumerate() {
                    assert_eq!(*layer, LayerId(7 + k));
                    let rows = images * output.places();
                    assert_eq!((a.dims(), s.dims()), (&[rows, columns][..], &[rows, outputs][..]));
                    found.extend(s.t()?.matmul(a)?.flatten_all()?.to_vec1::<f64>()?);
                }
                let want = differences(&weight, &|weight| value(weight, &x))?;
                assert_eq!(found.len(), want.len());
                for (found, want) in found.iter().zip(want) {
                    assert!((found - want).abs() < 1e-12, "{window:?}: {found} {want}");
                }
            }
        }
        Ok(())
    }

    /// Weights, biases and inputs move together: tangents are central differences, which are exact, since an output is a
    /// product of what moves; and `<u, J v> = <Jᵀ u, v>` with the taps and the input gradient of several `u` together. A
    /// group that is not tracked moves with its input alone.
    #[test]
    fn tangents_are_central_differences_and_the_transpose_of_the_backward_pass() -> Result<()> {
        const DIRECTIONS: usize = 3;
        let (plane, images) = (Plane { height: 5, width: 6 }, 2);
        let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f64>();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for ([groups, channels, outputs], [kernel, stride, padding, dilation]) in CASES {
            let window =
                Window { size: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] };
            let columns = channels * kernel * kernel;
            // all groups tracked, or all but the first; the input moves or stays
            for (first, moves) in [(0, true), (0, false), (1, true), (1, false)] {
                let tracked = first.min(groups - 1)..groups;
                let parameters = wave(groups * outputs, columns + 1, 3);
                let spec = |k: usize| LayerSpec {
                    name: format!("group {k}"),
                    outputs,
                    inputs: columns,
                    bias: true,
                    input_group: k,
                    vocabulary: None,
                };
                let specs: Vec<LayerSpec> = tracked.clone().map(spec).collect();
                let along =
                    |k: usize| wave(DIRECTIONS * outputs, columns + 1, 40 + k).reshape((DIRECTIONS, outputs, ()));
                let along = tracked.clone().map(along).collect::<Result<Vec<_>>>()?;
                let v = wave(DIRECTIONS * images * plane.places(), groups * channels, 17);
                let x = wave(images * plane.places(), groups * channels, 0);
                let layer = |parameters: &Tensor| -> Result<Convolution> {
                    let of_group = |k: usize| {
                        let own = parameters.narrow(0, k * outputs, outputs)?;
                        let (weight, bias) = (own.narrow(1, 0, columns)?, own.narrow(1, columns, 1)?.flatten_all()?);
                        let id = k.checked_sub(tracked.start).map(LayerId);
                        Linear::new(weight, Some(bias), id).map_err(candle_core::Error::wrap)
                    };
                    Convolution::grouped((0..groups).map(of_group).collect::<Result<_>>()?, window)
                };
                let directions = Directions::new(&specs, along.clone()).map_err(candle_core::Error::wrap)?;
                let input = Traced::constant(x.clone()).moving(moves.then(|| v.clone()))?;
                let (y, _) = layer(&parameters)?.trace(&input, plane, &TapRecorder::along(directions))?;
                let found = numbers(y.tangents().expect("layers move"))?;
                let size = y.value().elem_count();
                assert_eq!(found.len(), DIRECTIONS * size);
                for q in 0..DIRECTIONS {
                    let moved = |step: f64| -> Result<Vec<f64>> {
                        let rows = (0..groups).map(|k| {
                            let own = parameters.narrow(0, k * outputs, outputs)?;
                            match k.checked_sub(tracked.start) {
                                Some(k) => own + along[k].get(q)?.affine(step, 0.0)?,
                                None => Ok(own),
                            }
                        });
                        let parameters = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?;
                        let x = match moves {
                            true => (&x + v.narrow(0, q * x.dim(0)?, x.dim(0)?)?.affine(step, 0.0)?)?,
                            false => x.clone(),
                        };
                        let moved = layer(&parameters)?.trace(&Traced::constant(x), plane, &TapRecorder::default())?;
                        numbers(moved.0.value())
                    };
                    let (high, low) = (moved(0.5)?, moved(-0.5)?);
                    for (k, found) in found[q * size..(q + 1) * size].iter().enumerate() {
                        let want = high[k] - low[k];
                        assert!((found - want).abs() < 1e-12, "{window:?} [{q}, {k}]: {found} {want}");
                    }
                }
                let (tape, taps) = (Tape::default(), TapRecorder::default());
                let input = tape.input(x.clone(), Gradient::Wanted);
                let (output, _) = layer(&parameters)?.trace(&input, plane, &taps)?;
                let u = wave(DIRECTIONS * output.value().dim(0)?, groups * outputs, 21);
                let back = numbers(&tape.backward(&input, &output, u.clone())?.expect("wanted"))?;
                let (u, v, taps) = (numbers(&u)?, numbers(&v)?, taps.take());
                assert_eq!(taps.len(), tracked.len());
                for q in 0..DIRECTIONS {
                    let of = |all: &[f64]| all[q * (all.len() / DIRECTIONS)..][..all.len() / DIRECTIONS].to_vec();
                    let mut want = if moves { dot(&of(&back), &of(&v)) } else { 0.0 };
                    for (layer, a, s) in &taps {
                        let (rows, along) = (a.dim(0)?, along[layer.0].get(q)?);
                        let (a, s) = (a.to_vec2::<f64>()?, s.narrow(0, q * rows, rows)?.to_vec2::<f64>()?);
                        let along = along.to_vec2::<f64>()?;
                        for (a, s) in a.iter().zip(&s) {
                            let moved = |o: usize| dot(a, &along[o]) + along[o][columns];
                            want += s.iter().enumerate().map(|(o, s)| s * moved(o)).sum::<f64>();
                        }
                    }
                    let found = dot(&of(&u), &of(&found));
                    assert!((found - want).abs() < 1e-12 * size as f64, "{window:?} [{q}]: {found} {want}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn groups_that_do_not_fit_are_refused() -> Result<()> {
        let group =
            |outputs, columns| Linear::new(wave(outputs, columns, 1), None, None).map_err(candle_core::Error::wrap);
        let window = Window::square(2, 1, 0);
        assert!(Convolution::grouped(vec![], window).is_err());
        assert!(Convolution::grouped(vec![group(2, 4)?, group(3, 4)?], window).is_err());
        let two = Convolution::grouped(vec![group(2, 4)?, group(2, 4)?], window)?;
        let plane = Plane { height: 3, width: 3 };
        let run = |channels| two.trace(&Traced::constant(wave(9, channels, 0)), plane, &TapRecorder::default());
        assert_eq!(run(2)?.0.value().dims(), [4, 4]);
        assert!(run(3).is_err());
        Ok(())
    }
}
