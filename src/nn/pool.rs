//! Pooling over the places of images.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::curvature::{Plane, Traced, Window, with_slice};

/// The largest number of each channel that the window sees, on a tape, and the places of the result. The gradient goes
/// to the first of equal ones, as PyTorch has it.
///
/// # Shapes
/// `x: [B · H · W, C]` to `[B · P, C]`.
/// # Errors
/// If shapes do not fit, or the window sees nothing but padding somewhere.
pub fn trace_max_pooled(x: &Traced, plane: Plane, window: &Window) -> Result<(Traced, Plane)> {
    let output = window.output(plane)?;
    let (rows, channels) = x.value().dims2()?;
    let value = x.value().contiguous()?;
    let largest = match value.dtype() {
        DType::F64 => with_slice(&value, |x: &[f64]| largest(x, channels, plane, output, window))?,
        _ => with_slice(&value, |x: &[f32]| largest(x, channels, plane, output, window))?,
    };
    let Some(largest) = largest else { candle_core::bail!("a window {window:?} sees nothing but padding") };
    let largest = Tensor::from_vec(largest, rows / plane.places() * output.places() * channels, &Device::Cpu)?;
    let largest = largest.to_device(value.device())?;
    let pooled =
        Traced::composed([x], |[x]| x.contiguous()?.flatten_all()?.index_select(&largest, 0)?.reshape(((), channels)))?;
    Ok((pooled, output))
}

/// Where in `x` the largest number stands that the window sees, by position and channel.
fn largest<T: PartialOrd + Copy + Sync>(
    x: &[T],
    channels: usize,
    plane: Plane,
    output: Plane,
    window: &Window,
) -> Option<Vec<u32>> {
    let images = x.len() / channels / plane.places();
    let of_row = |row: usize| {
        let (image, at) = (row / output.places(), row % output.places());
        let mut seen = vec![];
        for i in 0..window.size[0] {
            let y = window.seen(0, at / output.width, i, plane.height);
            for j in 0..window.size[1] {
                let x = window.seen(1, at % output.width, j, plane.width);
                seen.extend(y.zip(x).map(|(y, x)| (image * plane.places() + y * plane.width + x) * channels));
            }
        }
        (0..channels).map(move |c| {
            let (&first, rest) = seen.split_first()?;
            // a number that is none wins, so that broken values are not hidden
            let larger = |a: usize, b: usize| x[b] > x[a] || x[b].partial_cmp(&x[b]).is_none();
            let place = rest.iter().fold(first + c, |best, &b| if larger(best, b + c) { b + c } else { best });
            u32::try_from(place).ok()
        })
    };
    (0..images * output.places()).into_par_iter().flat_map_iter(of_row).collect()
}

/// The mean of each channel over an image's places, on a tape.
///
/// # Shapes
/// `x: [B · H · W, C]` to `[B, C]`.
/// # Errors
/// If shapes do not fit.
pub fn trace_average_pooled(x: &Traced, plane: Plane) -> Result<Traced> {
    Traced::composed([x], |[x]| {
        let (rows, channels) = x.dims2()?;
        x.reshape((rows / plane.places().max(1), plane.places(), channels))?.mean(1)
    })
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{flat, wave};
    use super::*;
    use crate::curvature::{Gradient, Tape};

    const PLANE: Plane = Plane { height: 5, width: 4 };

    #[test]
    fn the_largest_is_taken_of_what_the_window_sees() -> Result<()> {
        let (images, channels) = (2, 3);
        for window in [Window::square(3, 2, 1), Window { size: [2, 1], stride: [1, 3], ..Window::default() }] {
            for dtype in [DType::F32, DType::F64] {
                let x = wave(&[images * PLANE.places(), channels], 3)?.to_dtype(dtype)?;
                let (pooled, output) = trace_max_pooled(&Traced::constant(x.clone()), PLANE, &window)?;
                let (x, y) = (flat(&x)?, flat(pooled.value())?);
                assert_eq!(y.len(), images * output.places() * channels);
                for (k, &y) in y.iter().enumerate() {
                    let (row, c) = (k / channels, k % channels);
                    let (image, at) = (row / output.places(), row % output.places());
                    let mut want = f64::NEG_INFINITY;
                    for (i, j) in (0..5).flat_map(|i| (0..4).map(move |j| (i, j))) {
                        let inside = |place: usize, axis: usize, corner: usize| {
                            let first = (corner * window.stride[axis]) as i64 - window.padding[axis] as i64;
                            (first..first + window.size[axis] as i64).contains(&(place as i64))
                        };
                        if inside(i, 0, at / output.width) && inside(j, 1, at % output.width) {
                            want = want.max(x[(image * 20 + i * 4 + j) * channels + c]);
                        }
                    }
                    assert_eq!(y, want);
                }
            }
        }
        Ok(())
    }

    /// Values and the gradient of a function on a tape.
    fn tape_gradient(x: &Tensor, f: impl Fn(&Traced) -> Result<Traced>) -> Result<(Tensor, Vec<f64>)> {
        let tape = Tape::default();
        let input = tape.input(x.clone(), Gradient::Wanted);
        let output = f(&input)?;
        let seed = wave(output.value().dims(), 77)?;
        let found = tape.backward(&input, &output, seed)?.expect("wanted");
        Ok((output.value().clone(), flat(&found)?))
    }

    #[test]
    fn gradients_are_central_differences() -> Result<()> {
        let x = wave(&[2 * PLANE.places(), 3], 8)?;
        type Pool<'a> = &'a dyn Fn(&Traced) -> Result<Traced>;
        let pools: [Pool<'_>; 2] =
            [&|x| Ok(trace_max_pooled(x, PLANE, &Window::square(3, 2, 1))?.0), &|x| trace_average_pooled(x, PLANE)];
        for pool in pools {
            let (_, found) = tape_gradient(&x, pool)?;
            let numbers = flat(&x)?;
            let value = |k: usize, step: f64| -> Result<f64> {
                let mut numbers = numbers.clone();
                numbers[k] += step;
                let y = pool(&Traced::constant(Tensor::from_vec(numbers, x.shape(), &Device::Cpu)?))?;
                (y.value() * wave(y.value().dims(), 77)?)?.sum_all()?.to_scalar::<f64>()
            };
            // pooling is linear between changes of order, which a small step does not meet
            for (k, found) in found.iter().enumerate() {
                let want = (value(k, 1e-6)? - value(k, -1e-6)?) / 2e-6;
                assert!((found - want).abs() < 1e-8, "[{k}]: {found} {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_first_of_equal_numbers_gets_the_gradient_and_broken_ones_stay_broken() -> Result<()> {
        let (plane, window) = (Plane { height: 1, width: 3 }, Window { size: [1, 3], ..Window::default() });
        let x = Tensor::new(&[[2.0], [2.0], [1.0]], &Device::Cpu)?;
        let (y, found) = tape_gradient(&x, |x| Ok(trace_max_pooled(x, plane, &window)?.0))?;
        assert_eq!(flat(&y)?, [2.0]);
        assert!(found[0] != 0.0 && found[1..] == [0.0, 0.0]);
        let broken = Tensor::new(&[[2.0], [f64::NAN], [1.0]], &Device::Cpu)?;
        assert!(flat(trace_max_pooled(&Traced::constant(broken), plane, &window)?.0.value())?[0].is_nan());
        Ok(())
    }
}
