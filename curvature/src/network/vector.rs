//! Vectors of parameters on the tape, such as the factors and the biases of a norm: each is a linear layer of one input,
//! which is 1.

use candle_core::{Result, Tensor};

use crate::linalg::gemm::Products;
use crate::network::layer::LayerId;
use crate::network::linear::TapRecorder;
use crate::network::tangent::stacked;
use crate::network::tape::Traced;

/// How a vector of D parameters enters every row of a value of `H D` numbers: each of a row's H parts of D numbers meets
/// the same vector.
#[derive(Debug, Clone)]
pub enum VectorRole {
    /// The vector is added to each part.
    Added,
    /// The vector multiplies these numbers, `[R, H D]`, number by number.
    Factor(Tensor),
}

impl VectorRole {
    /// What each part of a row receives of the gradients at the value, `[K R, H D]`.
    fn received(&self, gradients: &Tensor) -> Result<Tensor> {
        match self {
            Self::Added => gradients.copy(),
            Self::Factor(numbers) => {
                let count = gradients.dim(0)? / numbers.dim(0)?.max(1);
                stacked(gradients, count)?.broadcast_mul(numbers)?.reshape(gradients.shape())
            }
        }
    }

    /// How the value moves when each part's vector moves like this, `[Q R, H D]`.
    fn moved(&self, vectors: Tensor) -> Result<Tensor> {
        match self {
            Self::Added => Ok(vectors),
            // a product is symmetric in its factors
            factor => factor.received(&vectors),
        }
    }
}

impl Traced {
    /// This value, which a tracked vector of `width` parameters has entered: on the way back the vector's layer leaves its
    /// tap, `(1, g_t)` at every row t with `g_t = Σ_h` of what part h of the row receives, so that `Σ_t g_t · 1` is the
    /// vector's gradient; along directions the vector moves the value.
    ///
    /// # Shapes
    /// The value: `[R, H D]`; the layer: D outputs, one input, no bias.
    /// # Errors
    /// If rows are no whole number of vectors.
    /// # Source
    /// `docs/method.md`, Vectors of parameters.
    pub fn with_vector(&self, layer: LayerId, width: usize, role: VectorRole, taps: &TapRecorder) -> Result<Self> {
        let (rows, numbers) = self.value().dims2()?;
        if width == 0 || !numbers.is_multiple_of(width) {
            candle_core::bail!("a vector of {width} parameters in rows of {numbers} numbers");
        }
        let parts = numbers / width;
        let ones = Tensor::ones((rows, 1), self.value().dtype(), self.value().device())?;
        let own = match taps.directions() {
            None => None,
            Some(directions) => {
                let moved = directions.moved_outputs(layer, &ones, Products::Exact)?; // [Q R, D]
                let moved = moved.repeat((1, parts))?;
                Some(role.moved(moved)?)
            }
        };
        self.entered(layer, own, taps, move |gradients| {
            let received = role.received(gradients)?; // [K R, H D]
            let received = match parts {
                1 => received,
                _ => received.reshape(((), parts, width))?.sum(1)?,
            };
            Ok((ones, received.contiguous()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::error::Error;
    use crate::network::layer::LayerSpec;
    use crate::network::tangent::Directions;
    use crate::network::tap::{Positions, Tap, TapSink};
    use crate::network::tape::{Gradient, Tape};

    fn numbers(shape: &[usize], phase: f64) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        Tensor::from_vec((0..n).map(|k| (k as f64 * 0.7 + phase).sin()).collect(), shape, &Device::Cpu)
    }

    /// The gradient matrix `Σ_t s_t a_tᵀ` of each layer's tap.
    #[derive(Default)]
    struct Gradients(Vec<Vec<f64>>);

    impl TapSink for Gradients {
        fn tap(&mut self, tap: Tap<'_>) -> std::result::Result<(), Error> {
            let product = tap.output_gradient.t()?.matmul(tap.input)?;
            self.0.push(product.flatten_all()?.to_vec1()?);
            Ok(())
        }
    }

    /// `y = u ⊙ w + b` in two parts of three numbers; objective `Σ y²`.
    #[test]
    fn taps_give_the_gradients_of_factors_and_biases() -> std::result::Result<(), Error> {
        let (u, w, b) = (numbers(&[4, 6], 0.1)?, numbers(&[3], 0.2)?, numbers(&[3], 0.3)?);
        let y = |w: &Tensor, b: &Tensor| u.reshape((4, 2, 3))?.broadcast_mul(w)?.broadcast_add(b)?.reshape((4, 6));
        let tape = Tape::default();
        let x = tape.input(y(&w, &b)?, Gradient::Wanted);
        let taps = TapRecorder::default();
        let out = x.with_vector(LayerId(0), 3, VectorRole::Factor(u.clone()), &taps)?;
        let out = out.with_vector(LayerId(1), 3, VectorRole::Added, &taps)?;
        let s = out.value().affine(2.0, 0.0)?;
        let back = tape.backward(&x, &out, s.clone())?.expect("wanted");
        assert_eq!(back.to_vec2::<f64>()?, s.to_vec2::<f64>()?, "the value's own gradient is unchanged");
        let mut found = Gradients::default();
        taps.drain(&Positions::single(4), &mut found)?;
        // backwards: the bias first
        for (found, vector) in found.0.iter().zip([&b, &w]) {
            for k in 0..3 {
                let step = 1e-6;
                let mut at = vector.to_vec1::<f64>()?;
                let mut value = |delta: f64| -> Result<f64> {
                    at[k] += delta;
                    let moved = Tensor::new(&at[..], &Device::Cpu)?;
                    at[k] -= delta;
                    let y = if std::ptr::eq(vector, &b) { y(&w, &moved)? } else { y(&moved, &b)? };
                    y.sqr()?.sum_all()?.to_scalar()
                };
                let want = (value(step)? - value(-step)?) / (2.0 * step);
                assert!((found[k] - want).abs() < 1e-7 * want.abs().max(1.0), "{k}: {} {want}", found[k]);
            }
        }
        Ok(())
    }

    /// `<s, J v> = <Jᵀ s, v>` for movements of both vectors.
    #[test]
    fn movements_are_the_transpose_of_the_taps() -> std::result::Result<(), Error> {
        let (u, value, s) = (numbers(&[4, 6], 0.1)?, numbers(&[4, 6], 0.4)?, numbers(&[4, 6], 0.5)?);
        let spec = |name: &str| LayerSpec {
            name: name.into(),
            outputs: 3,
            inputs: 1,
            bias: false,
            input_group: 0,
            vocabulary: None,
        };
        let moving = vec![numbers(&[2, 3, 1], 0.6)?, numbers(&[2, 3, 1], 0.7)?];
        let directions = Directions::new(&[spec("w"), spec("b")], moving.clone())?;
        let run = |x: &Traced, taps: &TapRecorder| {
            let y = x.with_vector(LayerId(0), 3, VectorRole::Factor(u.clone()), taps)?;
            y.with_vector(LayerId(1), 3, VectorRole::Added, taps)
        };
        let y = run(&Traced::constant(value.clone()), &TapRecorder::along(directions))?;
        let moved = y.tangents().expect("both vectors move").reshape((2, 4, 6))?;
        let (tape, taps) = (Tape::default(), TapRecorder::default());
        let x = tape.input(value, Gradient::Unwanted);
        let out = run(&x, &taps)?;
        assert!(tape.backward(&x, &out, s.clone())?.is_none());
        let mut found = Gradients::default();
        taps.drain(&Positions::single(4), &mut found)?;
        for q in 0..2 {
            let forwards: f64 = (moved.get(q)? * &s)?.sum_all()?.to_scalar()?;
            let mut backwards = 0.0;
            for (gradient, direction) in found.0.iter().rev().zip(&moving) {
                let direction = direction.get(q)?.flatten_all()?.to_vec1::<f64>()?;
                backwards += gradient.iter().zip(&direction).map(|(g, v)| g * v).sum::<f64>();
            }
            assert!((forwards - backwards).abs() < 1e-12, "{forwards} {backwards}");
        }
        let error = run(&Traced::constant(numbers(&[2, 4], 0.0)?), &TapRecorder::default()).unwrap_err();
        assert!(error.to_string().contains("a vector of 3 parameters in rows of 4"), "{error}");
        Ok(())
    }
}
