//! Batch normalisation as it runs in evaluation (Ioffe and Szegedy 2015, algorithm 2): each channel is multiplied and
//! shifted by constants.

use candle_core::{DType, Result, Tensor};

use ascribe_curvature::Traced;

/// `(x - mean) / √(variance + ε) · weight + bias` with the statistics that training kept.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// What multiplies each channel, `[C]`.
    factors: Tensor,
    /// What is added to it then, `[C]`.
    shifts: Tensor,
}

impl BatchNorm {
    /// From parameters and statistics, all `[C]`.
    ///
    /// # Errors
    /// If shapes or devices do not fit.
    pub fn new(weight: &Tensor, bias: &Tensor, mean: &Tensor, variance: &Tensor, epsilon: f64) -> Result<Self> {
        let wide = |x: &Tensor| x.to_dtype(DType::F64);
        let factors = (wide(weight)? / (wide(variance)? + epsilon)?.sqrt()?)?;
        let shifts = (wide(bias)? - (wide(mean)? * &factors)?)?;
        Ok(Self { factors: factors.to_dtype(weight.dtype())?, shifts: shifts.to_dtype(weight.dtype())? })
    }

    /// The norm on a tape.
    ///
    /// # Shapes
    /// `x: [R, C]`, and so is the result.
    /// # Errors
    /// If shapes do not fit.
    pub fn trace(&self, x: &Traced) -> Result<Traced> {
        let shifts = self.shifts.broadcast_as(x.value().shape())?.contiguous()?;
        Traced::constant(shifts).add_scaled(x, &self.factors)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::gradient_check::{flat, tangents, wave};
    use super::*;
    use ascribe_curvature::{Gradient, Tape};

    #[test]
    fn values_and_gradients_are_those_of_the_definition() -> Result<()> {
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
            let (rows, channels, epsilon) = (7, 3, 0.25);
            let x = wave(&[rows, channels], 1)?.to_dtype(dtype)?;
            let [weight, bias, mean] = [2, 3, 4].map(|seed| wave(&[channels], seed).and_then(|w| w.to_dtype(dtype)));
            let (weight, bias, mean) = (weight?, bias?, mean?);
            let variance = Tensor::new(&[0.5, 2.0, 0.0], &Device::Cpu)?.to_dtype(dtype)?;
            let norm = BatchNorm::new(&weight, &bias, &mean, &variance, epsilon)?;
            let tape = Tape::default();
            let input = tape.input(x.clone(), Gradient::Wanted);
            let output = norm.trace(&input)?;
            let seed = wave(&[rows, channels], 5)?.to_dtype(dtype)?;
            if dtype == DType::F64 {
                tangents(&[&x], |x| norm.trace(&x[0]), 1e-10)?;
            }
            let y = flat(output.value())?;
            let gradient = flat(&tape.backward(&input, &output, seed.clone())?.expect("wanted"))?;
            let [x, seed, weight, bias, mean, variance] =
                [&x, &seed, &weight, &bias, &mean, &variance].map(|x| flat(x).expect("numbers"));
            for k in 0..rows * channels {
                let c = k % channels;
                let factor = weight[c] / (variance[c] + epsilon).sqrt();
                assert!((y[k] - ((x[k] - mean[c]) * factor + bias[c])).abs() < tolerance);
                assert!((gradient[k] - seed[k] * factor).abs() < tolerance);
            }
        }
        Ok(())
    }
}
