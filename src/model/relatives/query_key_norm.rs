//! The norm of queries and keys before attention: of each head's numbers, or of all heads' together.

use candle_core::Tensor;

use crate::curvature::Traced;
use crate::nn::{Implementation, RmsNorm};

/// A root-mean-square norm over pieces of each row that are as wide as its weight.
#[derive(Debug)]
pub(super) struct QueryKeyNorm(pub(super) RmsNorm);

impl QueryKeyNorm {
    /// `[R, H d]` to `[R, H d]`.
    pub(super) fn trace(&self, x: &Traced) -> candle_core::Result<Traced> {
        let (rows, columns) = x.value().dims2()?;
        let width = self.0.weight.dim(0)?;
        if width == columns {
            return self.0.trace(x);
        }
        Traced::composed([x], |[x]: [&Tensor; 1]| {
            let pieces = x.reshape((rows, columns / width, width))?;
            self.0.forward_with(&pieces, Implementation::Composed)?.reshape((rows, columns))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    /// Of each head by itself, against loops in `f64`.
    #[test]
    fn every_head_is_normalised_by_itself() {
        let (rows, heads, d) = (3, 2, 5);
        let number = |i: usize| ((i * i * 7 + 3 * i + 1) % 23) as f64 / 7.0 - 1.3;
        let x: Vec<f64> = (0..rows * heads * d).map(number).collect();
        let weight: Vec<f64> = (0..d).map(|i| 0.3 * i as f64 - 0.4).collect();
        let norm = QueryKeyNorm(RmsNorm {
            weight: Tensor::new(weight.as_slice(), &Device::Cpu).unwrap(),
            epsilon: 1e-3,
            offset: 1.0,
        });
        let y =
            norm.trace(&Traced::constant(Tensor::from_slice(&x, (rows, heads * d), &Device::Cpu).unwrap())).unwrap();
        let y: Vec<f64> = y.value().flatten_all().unwrap().to_vec1().unwrap();
        for r in 0..rows {
            for h in 0..heads {
                let at = r * heads * d + h * d;
                let mean = x[at..at + d].iter().map(|x| x * x).sum::<f64>() / d as f64;
                for i in 0..d {
                    let want = x[at + i] / (mean + 1e-3).sqrt() * (1.0 + weight[i]);
                    assert!((y[at + i] - want).abs() < 1e-12, "{r} {h} {i}");
                }
            }
        }
    }
}
