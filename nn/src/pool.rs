//! Pooling over the places of images.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use ascribe_curvature::{Plane, Traced, Window, with_slice};

/// Which places of an image each place of a pooled one is made of; none is made of none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regions {
    output: Plane,
    seen: Vec<Vec<usize>>,
}

impl Regions {
    /// What a window sees at its positions, without the padding.
    ///
    /// # Errors
    /// If it does not fit, or sees nothing but padding somewhere.
    pub fn of_window(window: &Window, plane: Plane) -> Result<Self> {
        let output = Self::check(window, plane)?;
        let along = |axis: usize, position: usize, length: usize| -> Vec<usize> {
            (0..window.size[axis]).filter_map(|k| window.seen(axis, position, k, length)).collect()
        };
        let down: Vec<_> = (0..output.height).map(|at| along(0, at, plane.height)).collect();
        let across: Vec<_> = (0..output.width).map(|at| along(1, at, plane.width)).collect();
        Ok(Self::product(plane, output, &down, &across))
    }

    /// The places of what a window pools, which sees a place of the image wherever it is.
    ///
    /// # Errors
    /// If it does not fit, or sees nothing but padding somewhere.
    pub fn check(window: &Window, plane: Plane) -> Result<Plane> {
        let output = window.output(plane)?;
        let sees = |axis: usize, position: usize, length: usize| {
            (0..window.size[axis]).any(|k| window.seen(axis, position, k, length).is_some())
        };
        let all = |axis: usize, positions: usize, length: usize| (0..positions).all(|at| sees(axis, at, length));
        if !all(0, output.height, plane.height) || !all(1, output.width, plane.width) {
            candle_core::bail!("a window {window:?} sees nothing but padding");
        }
        Ok(output)
    }

    /// A plane divided into `output.places()` regions as PyTorch's adaptive pooling does it: along an axis of length n
    /// the k-th of m is from `⌊k n / m⌋` up to `⌈(k + 1) n / m⌉`, so that neighbours may share places.
    ///
    /// # Errors
    /// If either has no place.
    pub fn adaptive(plane: Plane, output: Plane) -> Result<Self> {
        if plane.places() == 0 || output.places() == 0 {
            candle_core::bail!("pooling of {plane:?} to {output:?}");
        }
        let along = |length: usize, count: usize| -> Vec<Vec<usize>> {
            (0..count).map(|k| (k * length / count..((k + 1) * length).div_ceil(count)).collect()).collect()
        };
        let (down, across) = (along(plane.height, output.height), along(plane.width, output.width));
        Ok(Self::product(plane, output, &down, &across))
    }

    fn product(plane: Plane, output: Plane, down: &[Vec<usize>], across: &[Vec<usize>]) -> Self {
        let region = |rows: &[usize], columns: &[usize]| {
            rows.iter().flat_map(|y| columns.iter().map(move |x| y * plane.width + x)).collect()
        };
        let seen = down.iter().flat_map(|rows| across.iter().map(move |columns| region(rows, columns))).collect();
        Self { output, seen }
    }

    /// The places of what is pooled.
    pub fn output(&self) -> Plane {
        self.output
    }
}

/// The largest number of each channel that the window sees, on a tape, and the places of the result. The gradient goes
/// to the first of equal ones, as PyTorch has it.
///
/// # Shapes
/// `x: [B · H · W, C]` to `[B · P, C]`.
/// # Errors
/// If shapes do not fit, or the window sees nothing but padding somewhere.
pub fn trace_max_pooled(x: &Traced, plane: Plane, window: &Window) -> Result<(Traced, Plane)> {
    let regions = Regions::of_window(window, plane)?;
    Ok((trace_largest(x, plane, &regions)?, regions.output))
}

/// The largest number of each channel in each region, on a tape. The gradient goes to the first of equal ones.
///
/// # Shapes
/// `x: [B · H · W, C]` to `[B · P, C]`.
/// # Errors
/// If shapes do not fit.
pub fn trace_largest(x: &Traced, plane: Plane, regions: &Regions) -> Result<Traced> {
    let channels = x.value().dim(1)?;
    let images = images_of(x.value(), plane)?;
    let value = x.value().contiguous()?;
    let largest = match value.dtype() {
        DType::F64 => with_slice(&value, |x: &[f64]| largest(x, channels, plane, regions))?,
        _ => with_slice(&value, |x: &[f32]| largest(x, channels, plane, regions))?,
    };
    let Some(largest) = largest else { candle_core::bail!("more than 2³² numbers are pooled") };
    let largest = Tensor::from_vec(largest, images * regions.seen.len() * channels, &Device::Cpu)?;
    let largest = largest.to_device(value.device())?;
    // the place of the largest number does not move
    x.linear_map(|x| x.contiguous()?.flatten_all()?.index_select(&largest, 0)?.reshape(((), channels)))
}

fn images_of(x: &Tensor, plane: Plane) -> Result<usize> {
    let rows = x.dim(0)?;
    if plane.places() == 0 || rows % plane.places() != 0 {
        candle_core::bail!("{rows} rows are no images of {} x {} places", plane.height, plane.width);
    }
    Ok(rows / plane.places())
}

/// Where in `x` the largest number of each region stands, by region and channel.
fn largest<T: PartialOrd + Copy + Sync>(x: &[T], channels: usize, plane: Plane, regions: &Regions) -> Option<Vec<u32>> {
    let images = x.len() / channels / plane.places();
    let count = regions.seen.len();
    let of_row = |row: usize| {
        let (image, seen) = (row / count, &regions.seen[row % count]);
        let at = move |place: usize| (image * plane.places() + place) * channels;
        (0..channels).map(move |c| {
            let (&first, rest) = seen.split_first()?;
            // a number that is none wins, so that broken values are not hidden
            let larger = |a: usize, b: usize| x[b] > x[a] || x[b].partial_cmp(&x[b]).is_none();
            let place = rest.iter().fold(at(first) + c, |best, &b| {
                let b = at(b) + c;
                if larger(best, b) { b } else { best }
            });
            u32::try_from(place).ok()
        })
    };
    (0..images * count).into_par_iter().flat_map_iter(of_row).collect()
}

/// The sum of each channel over each region, divided by how many places it has, or by a number that is given, on a tape.
///
/// # Shapes
/// `x: [B · H · W, C]` to `[B · P, C]`.
/// # Errors
/// If shapes do not fit.
pub fn trace_averaged(x: &Traced, plane: Plane, regions: &Regions, divisor: Option<usize>) -> Result<Traced> {
    let images = images_of(x.value(), plane)?;
    let rows = images * plane.places();
    let most = regions.seen.iter().map(Vec::len).max().unwrap_or(0);
    let device = x.value().device();
    // the k-th place of every region; behind all rows stands one of zeros for regions that have fewer
    let nth = |k: usize| -> Result<Tensor> {
        let place = |image: usize, seen: &Vec<usize>| seen.get(k).map_or(rows, |at| image * plane.places() + at);
        let all = (0..images).flat_map(|image| regions.seen.iter().map(move |seen| place(image, seen) as u32));
        Tensor::from_iter(all, device)
    };
    let nth = (0..most).map(nth).collect::<Result<Vec<_>>>()?;
    let weight = |seen: &Vec<usize>| 1.0 / divisor.unwrap_or(seen.len()).max(1) as f64;
    let weights: Vec<f64> = (0..images).flat_map(|_| regions.seen.iter().map(weight)).collect();
    let weights = Tensor::from_vec(weights, (images * regions.seen.len(), 1), &Device::Cpu)?;
    let weights = weights.to_dtype(x.value().dtype())?.to_device(device)?;
    x.linear_map(|x| {
        let padded = Tensor::cat(&[x, &x.narrow(0, 0, 1)?.zeros_like()?], 0)?;
        let mut sum = padded.index_select(&nth[0], 0)?;
        for places in &nth[1..] {
            sum = (sum + padded.index_select(places, 0)?)?;
        }
        sum.broadcast_mul(&weights)
    })
}

/// The mean of each channel over an image's places, on a tape.
///
/// # Shapes
/// `x: [B · H · W, C]` to `[B, C]`.
/// # Errors
/// If shapes do not fit.
pub fn trace_average_pooled(x: &Traced, plane: Plane) -> Result<Traced> {
    x.linear_map(|x| {
        let (rows, channels) = x.dims2()?;
        x.reshape((rows / plane.places().max(1), plane.places(), channels))?.mean(1)
    })
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{flat, tangents, wave};
    use super::*;
    use ascribe_curvature::{Gradient, Tape};

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

    /// Means over regions against loops over the definition of PyTorch's adaptive pooling, and of a window with padding.
    #[test]
    fn means_are_those_of_what_each_place_sees() -> Result<()> {
        let (images, channels) = (2, 3);
        let x = wave(&[images * PLANE.places(), channels], 5)?;
        let numbers = flat(&x)?;
        let at = |image: usize, y: usize, x: usize, c: usize| numbers[((image * 5 + y) * 4 + x) * channels + c];
        for output in [Plane { height: 3, width: 3 }, Plane { height: 1, width: 2 }, Plane { height: 7, width: 4 }] {
            let pooled = trace_averaged(&Traced::constant(x.clone()), PLANE, &Regions::adaptive(PLANE, output)?, None)?;
            let range = |k: usize, length: usize, count: usize| {
                let end = ((k + 1) as f64 * length as f64 / count as f64).ceil() as usize;
                (k as f64 * length as f64 / count as f64).floor() as usize..end
            };
            for (k, found) in flat(pooled.value())?.into_iter().enumerate() {
                let (row, c) = (k / channels, k % channels);
                let (image, place) = (row / output.places(), row % output.places());
                let (down, across) =
                    (range(place / output.width, 5, output.height), range(place % output.width, 4, output.width));
                let count = (down.len() * across.len()) as f64;
                let want: f64 =
                    down.flat_map(|y| across.clone().map(move |x| (y, x))).map(|(y, x)| at(image, y, x, c)).sum();
                assert!((found - want / count).abs() < 1e-14, "{output:?} {k}: {found} {}", want / count);
            }
        }
        let window = Window { size: [2, 3], stride: [2, 2], padding: [1, 1], ..Window::default() };
        let regions = Regions::of_window(&window, PLANE)?;
        for divisor in [None, Some(6)] {
            let pooled = flat(trace_averaged(&Traced::constant(x.clone()), PLANE, &regions, divisor)?.value())?;
            for (k, found) in pooled.into_iter().enumerate() {
                let (row, c) = (k / channels, k % channels);
                let (image, place) = (row / regions.output().places(), row % regions.output().places());
                let corner = [place / regions.output().width * 2, place % regions.output().width * 2];
                let inside = (0..2).flat_map(|i| (0..3).map(move |j| (i, j))).filter_map(|(i, j)| {
                    let (y, x) = ((corner[0] + i).checked_sub(1)?, (corner[1] + j).checked_sub(1)?);
                    (y < 5 && x < 4).then(|| at(image, y, x, c))
                });
                let seen: Vec<f64> = inside.collect();
                let want = seen.iter().sum::<f64>() / divisor.unwrap_or(seen.len()) as f64;
                assert!((found - want).abs() < 1e-14, "{divisor:?} {k}: {found} {want}");
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
        let window = Window { size: [3, 2], stride: [2, 1], padding: [1, 0], ..Window::default() };
        let (seen, divided) =
            (Regions::of_window(&window, PLANE)?, Regions::adaptive(PLANE, Plane { height: 3, width: 3 })?);
        let pools: [Pool<'_>; 6] = [
            &|x| Ok(trace_max_pooled(x, PLANE, &Window::square(3, 2, 1))?.0),
            &|x| trace_largest(x, PLANE, &divided),
            &|x| trace_average_pooled(x, PLANE),
            &|x| trace_averaged(x, PLANE, &seen, None),
            &|x| trace_averaged(x, PLANE, &seen, Some(6)),
            &|x| trace_averaged(x, PLANE, &divided, None),
        ];
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

    /// Pooling is linear between changes of order: no two numbers of a channel are so near that a step changes theirs.
    #[test]
    fn tangents_are_central_differences_and_the_transpose_of_the_backward_pass() -> Result<()> {
        let rows = 2 * PLANE.places();
        let order = |k: usize| ((k * 37) % (rows * 3)) as f64 / 20.0 - 1.5;
        let x = Tensor::from_vec((0..rows * 3).map(order).collect::<Vec<f64>>(), (rows, 3), &Device::Cpu)?;
        let window = Window { size: [3, 2], stride: [2, 1], padding: [1, 0], ..Window::default() };
        let (seen, divided) =
            (Regions::of_window(&window, PLANE)?, Regions::adaptive(PLANE, Plane { height: 3, width: 3 })?);
        let largest = |x: &[Traced]| Ok(trace_max_pooled(&x[0], PLANE, &Window::square(3, 2, 1))?.0);
        tangents(&[&x], largest, 1e-10)?;
        tangents(&[&x], |x| trace_largest(&x[0], PLANE, &divided), 1e-10)?;
        tangents(&[&x], |x| trace_average_pooled(&x[0], PLANE), 1e-10)?;
        for divisor in [None, Some(6)] {
            tangents(&[&x], |x| trace_averaged(&x[0], PLANE, &seen, divisor), 1e-10)?;
        }
        tangents(&[&x], |x| trace_averaged(&x[0], PLANE, &divided, None), 1e-10)
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
