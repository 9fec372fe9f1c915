//! A window that moves over images, and what it sees at each place: convolutions and pooling.

use candle_core::{DType, Result, Tensor};

use crate::linalg::fresh::fresh;
use crate::linalg::gemm::Real;
use crate::network::slices::with_slice;

/// Places of an image, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Rows of places.
    pub height: usize,
    /// Places of a row.
    pub width: usize,
}

impl Plane {
    /// Number of places.
    pub fn places(self) -> usize {
        self.height * self.width
    }
}

/// A window on an image's places, down and across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Places that it sees.
    pub size: [usize; 2],
    /// Places from one of its positions to the next.
    pub stride: [usize; 2],
    /// Places beyond the image's edges, at both ends, that it sees as zeros.
    pub padding: [usize; 2],
    /// Places from one that it sees to the next.
    pub dilation: [usize; 2],
}

impl Default for Window {
    /// One place, moving by one.
    fn default() -> Self {
        Self { size: [1; 2], stride: [1; 2], padding: [0; 2], dilation: [1; 2] }
    }
}

impl Window {
    /// A square window that moves by `stride`, with padding.
    pub fn square(size: usize, stride: usize, padding: usize) -> Self {
        Self { size: [size; 2], stride: [stride; 2], padding: [padding; 2], dilation: [1; 2] }
    }

    /// Its positions on a plane.
    ///
    /// # Errors
    /// If it does not fit into the plane, or does not move.
    pub fn output(&self, plane: Plane) -> Result<Plane> {
        let along = |axis: usize, length: usize| {
            let span = self.size[axis].checked_sub(1)?.checked_mul(self.dilation[axis])?.checked_add(1)?;
            let room = length.checked_add(self.padding[axis].checked_mul(2)?)?.checked_sub(span)?;
            Some(room.checked_div(self.stride[axis])? + 1)
        };
        match (along(0, plane.height), along(1, plane.width)) {
            (Some(height), Some(width)) => Ok(Plane { height, width }),
            _ => candle_core::bail!("a window {self:?} does not fit into {} x {} places", plane.height, plane.width),
        }
    }

    /// Whether it sees one place after the other, each by itself.
    pub fn is_trivial(&self) -> bool {
        self.size == [1; 2] && self.stride == [1; 2] && self.padding == [0; 2]
    }

    /// Along an axis of a length, which place the window sees as its `k`-th at a position; none beyond the edges.
    pub fn seen(&self, axis: usize, position: usize, k: usize, length: usize) -> Option<usize> {
        let place = (position * self.stride[axis] + k * self.dilation[axis]).checked_sub(self.padding[axis])?;
        (place < length).then_some(place)
    }

    /// Along an axis, at which of so many positions the window sees a place as its `k`-th.
    fn position(&self, axis: usize, place: usize, k: usize, positions: usize) -> Option<usize> {
        let from_first = (place + self.padding[axis]).checked_sub(k * self.dilation[axis])?;
        let position = from_first / self.stride[axis];
        (from_first % self.stride[axis] == 0 && position < positions).then_some(position)
    }

    /// What the window sees: rows by position, columns channel by channel and in it row by row, as a kernel's weights
    /// `[channels, height, width]` lie.
    ///
    /// # Shapes
    /// `x: [B · H · W, channels]` to `[B · P, channels · height · width]`.
    /// # Errors
    /// If shapes do not fit.
    pub fn unfold(&self, x: &Tensor, plane: Plane) -> Result<(Tensor, Plane)> {
        let output = self.output(plane)?;
        let (rows, channels) = x.dims2()?;
        if plane.places() == 0 || rows % plane.places() != 0 {
            candle_core::bail!("{rows} rows are no images of {} x {} places", plane.height, plane.width);
        }
        let shape = (rows / plane.places() * output.places(), channels * self.size[0] * self.size[1]);
        let (x, device) = (x.contiguous()?, x.device());
        let patches = match x.dtype() {
            DType::F64 => {
                Tensor::from_vec(with_slice(&x, |x: &[f64]| self.unfolded(x, channels, plane, output))?, shape, device)?
            }
            _ => {
                Tensor::from_vec(with_slice(&x, |x: &[f32]| self.unfolded(x, channels, plane, output))?, shape, device)?
            }
        };
        Ok((patches, output))
    }

    fn unfolded<T: Real>(&self, x: &[T], channels: usize, plane: Plane, output: Plane) -> Vec<T> {
        let [down, across] = self.size;
        let columns = channels * down * across;
        let images = x.len() / channels.max(1) / plane.places();
        fresh(images * output.places() * columns, ROWS * columns.max(1), |first, patches| {
            for (row, patch) in patches.chunks_exact_mut(columns).enumerate() {
                let (image, position) =
                    ((first / columns + row) / output.places(), (first / columns + row) % output.places());
                let image = &x[image * plane.places() * channels..];
                for i in 0..down {
                    let Some(y) = self.seen(0, position / output.width, i, plane.height) else { continue };
                    for j in 0..across {
                        let Some(x) = self.seen(1, position % output.width, j, plane.width) else { continue };
                        let seen = &image[(y * plane.width + x) * channels..][..channels];
                        for (c, seen) in seen.iter().enumerate() {
                            patch[(c * down + i) * across + j] = *seen;
                        }
                    }
                }
            }
        })
    }

    /// The transpose of [`Window::unfold`]: every place gets the sum of what stands where the window sees it.
    ///
    /// # Shapes
    /// `patches: [B · P, channels · height · width]` to `[B · H · W, channels]`.
    /// # Errors
    /// If shapes do not fit.
    pub fn fold(&self, patches: &Tensor, plane: Plane) -> Result<Tensor> {
        let output = self.output(plane)?;
        let (rows, columns) = patches.dims2()?;
        let channels = columns / (self.size[0] * self.size[1]);
        if rows % output.places() != 0 || channels * self.size[0] * self.size[1] != columns {
            candle_core::bail!("{rows} rows of {columns} numbers are not what a window {self:?} sees");
        }
        let shape = (rows / output.places() * plane.places(), channels);
        let (patches, device) = (patches.contiguous()?, patches.device());
        match patches.dtype() {
            DType::F64 => Tensor::from_vec(
                with_slice(&patches, |p: &[f64]| self.folded(p, channels, plane, output))?,
                shape,
                device,
            ),
            _ => Tensor::from_vec(
                with_slice(&patches, |p: &[f32]| self.folded(p, channels, plane, output))?,
                shape,
                device,
            ),
        }
    }

    fn folded<T: Real>(&self, patches: &[T], channels: usize, plane: Plane, output: Plane) -> Vec<T> {
        let [down, across] = self.size;
        let columns = channels * down * across;
        let images = patches.len() / columns.max(1) / output.places();
        fresh(images * plane.places() * channels, ROWS * channels.max(1), |first, sums| {
            for (row, sums) in sums.chunks_exact_mut(channels).enumerate() {
                let (image, place) =
                    ((first / channels + row) / plane.places(), (first / channels + row) % plane.places());
                let image = &patches[image * output.places() * columns..];
                for i in 0..down {
                    let Some(y) = self.position(0, place / plane.width, i, output.height) else { continue };
                    for j in 0..across {
                        let Some(x) = self.position(1, place % plane.width, j, output.width) else { continue };
                        let patch = &image[(y * output.width + x) * columns..][..columns];
                        for (c, sum) in sums.iter_mut().enumerate() {
                            *sum += patch[(c * down + i) * across + j];
                        }
                    }
                }
            }
        })
    }
}

/// Rows that one task of unfolding or folding writes.
const ROWS: usize = 64;

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Numbers without a pattern.
    fn wave(rows: usize, columns: usize, shift: usize) -> Tensor {
        let numbers: Vec<f64> = (0..rows * columns).map(|k| ((k + shift) as f64 * 1.37).sin()).collect();
        Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).expect("fitting")
    }

    /// Windows that overlap, leave places out, are padded and dilated, each differently down and across.
    fn windows() -> [Window; 4] {
        [
            Window { size: [3, 2], stride: [1, 2], padding: [1, 0], dilation: [1, 1] },
            Window { size: [2, 3], stride: [3, 1], padding: [0, 2], dilation: [2, 1] },
            Window { size: [1, 1], stride: [2, 2], padding: [0, 0], dilation: [1, 1] },
            Window { size: [3, 3], stride: [2, 1], padding: [3, 1], dilation: [1, 2] },
        ]
    }

    #[test]
    fn patches_are_what_the_window_sees() -> Result<()> {
        let (plane, channels, images) = (Plane { height: 5, width: 7 }, 2, 3);
        let x = wave(images * plane.places(), channels, 0);
        let rows = x.to_vec2::<f64>()?;
        for window in windows() {
            let (patches, output) = window.unfold(&x, plane)?;
            let single = window.unfold(&x.to_dtype(DType::F32)?, plane)?.0.to_dtype(DType::F64)?;
            let difference = (&single - &patches)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
            assert!(difference < 1e-6);
            let patches = patches.to_vec2::<f64>()?;
            assert_eq!(patches.len(), images * output.places());
            for (row, patch) in patches.iter().enumerate() {
                let (image, at) = (row / output.places(), row % output.places());
                let corner = [at / output.width, at % output.width];
                let mut want = vec![];
                for c in 0..channels {
                    for i in 0..window.size[0] {
                        for j in 0..window.size[1] {
                            let along = |axis: usize, k: usize| {
                                (corner[axis] * window.stride[axis] + k * window.dilation[axis]) as i64
                                    - window.padding[axis] as i64
                            };
                            let (y, x) = (along(0, i), along(1, j));
                            let inside = (0..5).contains(&y) && (0..7).contains(&x);
                            want.push(if inside { rows[image * 35 + (y * 7 + x) as usize][c] } else { 0.0 });
                        }
                    }
                }
                assert_eq!(patch, &want, "{window:?}, row {row}");
            }
        }
        Ok(())
    }

    /// `<unfold x, p> = <x, fold p>`.
    #[test]
    fn folding_is_the_transpose_of_unfolding() -> Result<()> {
        let plane = Plane { height: 6, width: 5 };
        for window in windows() {
            let x = wave(2 * plane.places(), 3, 0);
            let (patches, _) = window.unfold(&x, plane)?;
            let (rows, columns) = patches.dims2()?;
            let p = wave(rows, columns, 11);
            let left = (&patches * &p)?.sum_all()?.to_scalar::<f64>()?;
            let right = (&x * window.fold(&p, plane)?)?.sum_all()?.to_scalar::<f64>()?;
            assert!((left - right).abs() < 1e-12 * (1.0 + left.abs()), "{window:?}: {left} {right}");
        }
        Ok(())
    }

    #[test]
    fn a_window_that_does_not_fit_is_refused() {
        let plane = Plane { height: 2, width: 9 };
        assert!(Window::square(3, 1, 0).output(plane).is_err());
        assert!(Window::square(3, 0, 1).output(plane).is_err());
        assert_eq!(Window::square(3, 2, 1).output(plane).expect("fits"), Plane { height: 1, width: 5 });
        assert!(Window::square(1, 1, 0).unfold(&wave(19, 2, 0), plane).is_err());
    }
}
