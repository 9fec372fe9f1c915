//! Products of example gradients with given matrices over some outputs or some columns of a layer alone, as the heads of
//! attention have them.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::contraction::low_rank::{LowRank, Vectors};
use crate::contraction::product::GradientProducts;
use crate::error::Error;
use crate::linalg::gemm::Real;
use crate::network::layer::{LayerSpec, Side};
use crate::network::tap::Tap;

/// A part of a layer's matrix: some rows (outputs) in all columns, or some columns in all rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSlice {
    /// Place of the layer among the tracked ones.
    pub layer: usize,
    /// Whether outputs or columns are cut.
    pub side: Side,
    /// Which of them: outputs; inputs; or the column of the bias alone, behind the inputs.
    pub range: Range<usize>,
}

impl LayerSlice {
    /// Numbers of the slice, of a layer of this shape.
    pub fn parameters(&self, layer: &LayerSpec) -> usize {
        let (outputs, columns) = self.ranges(layer);
        outputs.len() * columns.len()
    }

    /// Its outputs and columns.
    pub fn ranges(&self, layer: &LayerSpec) -> (Range<usize>, Range<usize>) {
        match self.side {
            Side::Output => (self.range.clone(), 0..layer.columns()),
            Side::Input => (0..layer.outputs, self.range.clone()),
        }
    }

    /// The slice as a layer of its own.
    pub fn spec(&self, layer: &LayerSpec) -> LayerSpec {
        let (outputs, columns) = self.ranges(layer);
        match self.side {
            Side::Output => LayerSpec { outputs: outputs.len(), ..layer.clone() },
            Side::Input => LayerSpec { inputs: columns.len(), bias: false, ..layer.clone() },
        }
    }
}

/// Whole vectors or factors, cut.
enum Cut<T> {
    Full(Vec<T>),
    LowRank { rank: usize, left: Vec<T>, right: Vec<T> },
}

impl<T> Cut<T> {
    fn vectors(&self) -> Vectors<'_, T> {
        match self {
            Self::Full(vectors) => Vectors::Full(vectors),
            Self::LowRank { rank, left, right } => Vectors::LowRank(LowRank { rank: *rank, left, right }),
        }
    }
}

/// Copies the chosen columns of a row-major matrix whose rows have this width.
fn columns<T: Copy>(rows: &[T], width: usize, range: &Range<usize>) -> Vec<T> {
    rows.chunks_exact(width.max(1)).flat_map(|row| &row[range.clone()]).copied().collect()
}

impl<T: Real> GradientProducts<T> {
    /// As [`add_scores`](Self::add_scores) over a slice of the layer alone: `Σ Z_q ⊙ G_m` over its outputs and columns.
    ///
    /// # Shapes
    /// `scores: [B, Q]`.
    /// # Errors
    /// As there; if the slice does not lie in the layer, or crosses from its inputs to its bias.
    pub fn add_sliced_scores(
        &mut self,
        tap: Tap<'_>,
        layer: &LayerSpec,
        slice: &LayerSlice,
        vectors: &[Vectors<'_, T>],
        scores: &mut [f64],
    ) -> Result<(), Error> {
        let (o, i) = (layer.outputs, layer.columns());
        let Range { start, end } = slice.range;
        let of = if slice.side == Side::Output { o } else { i };
        let crosses = slice.side == Side::Input && start < layer.inputs && end > layer.inputs;
        if start > end || end > of || crosses {
            let problem = format!("{start}..{end} is no slice of the {of} {}s of `{}`", slice.side.name(), layer.name);
            return Err(Error::Sink(problem.into()));
        }
        if start == end {
            return Ok(());
        }
        let (outputs, inputs) = slice.ranges(layer);
        let cut = |all: &Vectors<'_, T>| match *all {
            Vectors::Full(all) => Cut::Full(match slice.side {
                Side::Output => all.chunks_exact(o * i).flat_map(|z| &z[start * i..end * i]).copied().collect(),
                Side::Input => columns(all, i, &inputs),
            }),
            Vectors::LowRank(LowRank { rank, left, right }) => {
                Cut::LowRank { rank, left: columns(left, o, &outputs), right: columns(right, i, &inputs) }
            }
        };
        let cut: Vec<Cut<T>> = vectors.iter().map(cut).collect();
        let cut: Vec<Vectors<'_, T>> = cut.iter().map(Cut::vectors).collect();
        let narrow = |tensor: &Tensor| tensor.narrow(1, start, end - start)?.contiguous();
        let (input, gradient);
        let sliced = match slice.side {
            Side::Output => {
                gradient = narrow(tap.output_gradient)?;
                Tap { output_gradient: &gradient, ..tap }
            }
            Side::Input if start == layer.inputs => {
                let ones = Tensor::ones((tap.positions.rows(), end - start), DType::F32, tap.input.device())?;
                input = ones.to_dtype(tap.input.dtype())?;
                Tap { input: &input, ..tap }
            }
            Side::Input => {
                input = narrow(tap.input)?;
                Tap { input: &input, ..tap }
            }
        };
        self.add_scores(sliced, &slice.spec(layer), &cut, scores)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::network::layer::LayerId;
    use crate::network::tap::Positions;

    fn wave(n: usize, step: f64) -> Vec<f64> {
        (0..n).map(|k| (k as f64 * step + 0.3).sin()).collect()
    }

    /// A slice's score is that of the whole layer with a vector that is zero outside of the slice.
    #[test]
    fn slices_are_what_is_left_of_vectors_that_are_zero_elsewhere() -> Result<(), Error> {
        const ROWS: usize = 7;
        for bias in [true, false] {
            let layer = LayerSpec { name: "fc".into(), outputs: 6, inputs: 4, bias, input_group: 0, vocabulary: None };
            let (o, i) = (layer.outputs, layer.columns());
            let input = Tensor::from_vec(wave(ROWS * layer.inputs, 0.7), (ROWS, layer.inputs), &Device::Cpu)?;
            let gradient = Tensor::from_vec(wave(ROWS * o, 1.3), (ROWS, o), &Device::Cpu)?;
            let positions = Positions::from_lengths([3, 4]);
            let tap = Tap { layer: LayerId(0), input: &input, output_gradient: &gradient, positions: &positions };
            let full = wave(3 * o * i, 0.9);
            let (left, right) = (wave(3 * 2 * o, 0.4), wave(3 * 2 * i, 0.6));
            let entry = |k: usize| -> f64 {
                let (q, o_, i_) = (k / (o * i), k / i % o, k % i);
                (0..2).map(|r| left[(q * 2 + r) * o + o_] * right[(q * 2 + r) * i + i_]).sum()
            };
            let products: Vec<f64> = (0..3 * o * i).map(entry).collect();
            let low = Vectors::LowRank(LowRank { rank: 2, left: &left, right: &right });
            let mut slices = vec![(Side::Output, 0..2), (Side::Output, 3..6), (Side::Input, 1..3), (Side::Input, 2..2)];
            slices.extend(bias.then_some((Side::Input, 4..5)));
            for (side, range) in slices {
                let slice = LayerSlice { layer: 0, side, range };
                let (outputs, columns) = slice.ranges(&layer);
                let kept = |k: usize| outputs.contains(&(k / i % o)) && columns.contains(&(k % i));
                assert_eq!(slice.parameters(&layer), (0..o * i).filter(|&k| kept(k)).count());
                for (vectors, numbers) in [(Vectors::Full(&full), &full), (low, &products)] {
                    let masked: Vec<f64> =
                        numbers.iter().enumerate().map(|(k, z)| if kept(k) { *z } else { 0.0 }).collect();
                    let mut products = GradientProducts::<f64>::default();
                    let (mut found, mut want) = (vec![0.5; 2 * 3], vec![0.5; 2 * 3]);
                    products.add_sliced_scores(tap, &layer, &slice, &[vectors], &mut found)?;
                    products.add_scores(tap, &layer, &[Vectors::Full(&masked)], &mut want)?;
                    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
                    assert!(found.iter().zip(&want).all(near), "{slice:?}: {found:?} {want:?}");
                }
            }
            for (side, range) in [(Side::Output, 5..7), (Side::Input, 3..6), (Side::Input, 3..5)] {
                let slice = LayerSlice { layer: 0, side, range };
                let mut scores = vec![0.0; 6];
                let refused =
                    GradientProducts::<f64>::default().add_sliced_scores(tap, &layer, &slice, &[low], &mut scores);
                assert!(refused.is_err(), "{slice:?}");
            }
        }
        Ok(())
    }
}
