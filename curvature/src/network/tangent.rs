//! Tangents, the forward mode: how values move when the weights of tracked layers move, for a block of directions
//! over one pass of the values.
//!
//! A product with the Gauss-Newton matrix needs `J v`, the movement of a network's outputs along `v`. All directions of
//! a block go through the network beside one pass of its values, one below the other, so that a linear layer multiplies
//! them in one product.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use crate::error::Error;
use crate::linalg::gemm::{self, Products, Real, Threads, View, ViewMut};
use crate::network::layer::{LayerId, LayerSpec};
use crate::network::slices::with_slice;

/// A block of directions in the space of all tracked weights.
#[derive(Debug, Clone)]
pub struct Directions {
    count: usize,
    layers: Arc<[Tensor]>,
}

impl Directions {
    /// Directions of these layers, for each layer `[Q, O, columns]` with the bias as the last column.
    ///
    /// # Errors
    /// [`Error::Shape`] if a layer's directions have another shape, or there are not as many for every layer.
    pub fn new(specs: &[LayerSpec], layers: Vec<Tensor>) -> std::result::Result<Self, Error> {
        let count = layers.first().map_or(0, |first| first.dims().first().copied().unwrap_or(0));
        let missing = specs.iter().skip(layers.len()).map(|spec| (spec, vec![]));
        let found = specs.iter().zip(&layers).map(|(spec, layer)| (spec, layer.dims().to_vec()));
        for (spec, found) in found.chain(missing) {
            let expected = vec![count, spec.outputs, spec.columns()];
            if found != expected {
                return Err(Error::Shape { layer: spec.name.clone(), what: "directions", found, expected });
            }
        }
        let layers: Vec<Tensor> = layers.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
        Ok(Self { count, layers: layers.into() })
    }

    /// How many there are, Q.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The directions of one layer's weights, `[Q, O, columns]`.
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn of(&self, layer: LayerId) -> Result<&Tensor> {
        match self.layers.get(layer.0) {
            Some(found) => Ok(found),
            None => candle_core::bail!("no directions for layer {} of {}", layer.0, self.layers.len()),
        }
    }

    /// Zeros for a layer that does not move, `[Q, O, columns]`.
    ///
    /// # Errors
    /// If there are no layers whose type the zeros could have.
    pub fn at_rest(&self, spec: &LayerSpec) -> Result<Tensor> {
        let like = self.of(LayerId(0))?;
        Tensor::zeros((self.count, spec.outputs, spec.columns()), like.dtype(), like.device())
    }

    /// A range of the directions, in every layer.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn part(&self, range: Range<usize>) -> Result<Self> {
        let layers: Vec<Tensor> =
            self.layers.iter().map(|layer| layer.narrow(0, range.start, range.len())).collect::<Result<_>>()?;
        Ok(Self { count: range.len(), layers: layers.into() })
    }

    /// What a layer's own movement does to its outputs, `Ẇ a + ḃ` for each direction, in numbers of the CPU.
    ///
    /// # Shapes
    /// `a: [R, inputs]`; `[Q · R, O]`.
    ///
    /// # Errors
    /// If the shapes or types do not fit.
    pub fn moved_outputs(&self, layer: LayerId, a: &Tensor, products: Products) -> Result<Tensor> {
        fn run<T: Real>(directions: &Tensor, a: &Tensor, products: Products) -> Result<Tensor> {
            let ((count, outputs, columns), (rows, inputs)) = (directions.dims3()?, a.dims2()?);
            if columns != inputs && columns != inputs + 1 {
                candle_core::bail!("directions of {columns} columns for a layer of {inputs} inputs");
            }
            let mut moved = vec![T::of(0.0); count * rows * outputs];
            with_slice(directions, |directions: &[T]| {
                with_slice(a, |a: &[T]| {
                    let parts = moved.chunks_exact_mut((rows * outputs).max(1));
                    for (moved, direction) in parts.zip(directions.chunks_exact((outputs * columns).max(1))) {
                        if columns > inputs {
                            let biases = || direction.iter().skip(inputs).step_by(columns);
                            for row in moved.chunks_exact_mut(outputs) {
                                row.iter_mut().zip(biases()).for_each(|(moved, bias)| *moved = *bias);
                            }
                        }
                        let a = View::dense(a, rows, inputs).to(products);
                        let direction = View::new(direction, outputs, inputs, columns).t();
                        let moved = ViewMut::dense(moved, rows, outputs);
                        gemm::matmul(moved, gemm::Into::Add, T::of(1.0), a, direction, Threads::Pool);
                    }
                })
            })??;
            Tensor::from_vec(moved, (count * rows, outputs), a.device())
        }
        let (directions, a) = (self.of(layer)?, a.contiguous()?);
        match a.dtype() {
            DType::F64 => run::<f64>(directions, &a, products),
            _ => run::<f32>(directions, &a, products),
        }
    }
}

/// From an op's inputs and their tangents along one direction to the tangent of its output.
pub type OneDirection<'a, const N: usize> = dyn Fn([&Tensor; N], [&Tensor; N]) -> Result<Tensor> + 'a;

/// How an op's tangent is made of those of its inputs.
#[derive(Clone, Copy)]
pub enum TangentRule<'a, const N: usize> {
    /// Every number of the output depends on the numbers at its own place alone: slopes times tangents.
    Elementwise,
    /// `f(values, tangents)` of one direction: tangents have the shapes of the values, and so has the output's.
    Each(&'a OneDirection<'a, N>),
    /// There is none: the op refuses inputs with tangents.
    None,
}

impl<const N: usize> TangentRule<'_, N> {
    /// The tangents of an op's output, `[Q · R, ...]`: none if no input has any. `slopes` are the gradients at the
    /// inputs when that at the output is this one.
    pub(crate) fn apply(
        self,
        name: &str,
        values: [&Tensor; N],
        tangents: [Option<&Tensor>; N],
        output: &Tensor,
        slopes: impl FnOnce(Tensor) -> Result<[Option<Tensor>; N]>,
    ) -> Result<Option<Tensor>> {
        let moving = values.iter().zip(tangents).find_map(|(value, tangent)| Some((*value, tangent?)));
        let Some((value, tangent)) = moving else { return Ok(None) };
        let count = directions(value, tangent)?;
        match self {
            Self::None => candle_core::bail!("the op `{name}` has no rule for tangents"),
            Self::Elementwise => {
                let mut sum: Option<Tensor> = None;
                for (slope, tangent) in slopes(output.ones_like()?)?.into_iter().zip(tangents) {
                    let (Some(slope), Some(tangent)) = (slope, tangent) else { continue };
                    let part = stacked(tangent, count)?.broadcast_mul(&slope)?.reshape(tangent.shape())?;
                    sum = Some(match sum {
                        Some(sum) => (sum + part)?,
                        None => part,
                    });
                }
                Ok(sum)
            }
            Self::Each(rule) => {
                let mut found = Vec::with_capacity(count);
                for q in 0..count {
                    let mut own = Vec::with_capacity(N);
                    for (value, tangent) in values.iter().zip(tangents) {
                        own.push(match tangent {
                            Some(tangent) => direction(tangent, count, q)?,
                            None => value.zeros_like()?,
                        });
                    }
                    found.push(rule(values, std::array::from_fn(|k| &own[k]))?);
                }
                Tensor::cat(&found, 0).map(Some)
            }
        }
    }
}

/// How many directions these tangents of a value have.
pub(crate) fn directions(value: &Tensor, tangent: &Tensor) -> Result<usize> {
    let (rows, stacked) = (value.dim(0)?, tangent.dim(0)?);
    if rows == 0 || !stacked.is_multiple_of(rows) || value.dims()[1..] != tangent.dims()[1..] {
        candle_core::bail!("tangents of the shape {:?} for values of the shape {:?}", tangent.dims(), value.dims());
    }
    Ok(stacked / rows)
}

/// `[Q · R, ...]` as `[Q, R, ...]`.
pub(crate) fn stacked(tangent: &Tensor, count: usize) -> Result<Tensor> {
    let mut shape = vec![count, tangent.dim(0)? / count];
    shape.extend(&tangent.dims()[1..]);
    tangent.reshape(shape)
}

/// Direction `q` of `count`.
pub(crate) fn direction(tangent: &Tensor, count: usize, q: usize) -> Result<Tensor> {
    let rows = tangent.dim(0)? / count;
    tangent.narrow(0, q * rows, rows)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::network::linear::{Linear, TapRecorder};
    use crate::network::tape::Traced;

    fn numbers(shape: &[usize], phase: f64) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        Tensor::from_vec((0..n).map(|k| (k as f64 * 0.7 + phase).sin()).collect(), shape, &Device::Cpu)
    }

    fn spec(outputs: usize, inputs: usize, bias: bool) -> LayerSpec {
        LayerSpec { name: format!("layer{outputs}"), outputs, inputs, bias, input_group: 0, vocabulary: None }
    }

    /// `y = W₂ (W₁ a + b₁)`, all loops: each direction moves both layers.
    #[test]
    fn layers_move_with_their_weights_and_their_inputs() -> Result<()> {
        let specs = [spec(3, 4, true), spec(2, 3, false)];
        let (w, b, v) = (numbers(&[3, 4], 0.1)?, numbers(&[3], 0.2)?, numbers(&[2, 3], 0.3)?);
        let first = Linear::new(w.clone(), Some(b.clone()), Some(LayerId(0))).expect("a matrix");
        let second = Linear::new(v.clone(), None, Some(LayerId(1))).expect("a matrix");
        let (d, e, a) = (numbers(&[2, 3, 5], 0.4)?, numbers(&[2, 2, 3], 0.5)?, numbers(&[6, 4], 0.6)?);
        let taps = TapRecorder::along(Directions::new(&specs, vec![d.clone(), e.clone()]).expect("they fit"));
        let y = second.trace(&first.trace(&Traced::constant(a.clone()), &taps)?, &taps)?;
        let found = y.tangents().expect("both layers move").to_vec2::<f64>()?;
        let (w, b, v, a) = (w.to_vec2::<f64>()?, b.to_vec1::<f64>()?, v.to_vec2::<f64>()?, a.to_vec2::<f64>()?);
        let (d, e) = (d.to_vec3::<f64>()?, e.to_vec3::<f64>()?);
        for q in 0..2 {
            for r in 0..6 {
                for o in 0..2 {
                    let want: f64 = (0..3)
                        .map(|i| {
                            let h = b[i] + (0..4).map(|k| w[i][k] * a[r][k]).sum::<f64>();
                            let moving = d[q][i][4] + (0..4).map(|k| d[q][i][k] * a[r][k]).sum::<f64>();
                            e[q][o][i] * h + v[o][i] * moving
                        })
                        .sum();
                    let found = found[q * 6 + r][o];
                    assert!((found - want).abs() < 1e-14, "[{q}, {r}, {o}]: {found} {want}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn ops_without_a_rule_and_directions_of_other_shapes_are_refused() -> Result<()> {
        let x = Traced::constant(numbers(&[2, 3], 0.0)?).moving(Some(numbers(&[4, 3], 0.1)?))?;
        let error = Traced::composed([&x], |[x]| x.sqr()).unwrap_err();
        assert!(error.to_string().contains("no rule for tangents"), "{error}");
        assert!(x.clone().moving(Some(numbers(&[3, 3], 0.1)?)).is_err());
        let specs = [spec(3, 4, true), spec(2, 3, false)];
        let error = Directions::new(&specs, vec![numbers(&[2, 3, 4], 0.0)?]).unwrap_err();
        assert_eq!(error.to_string(), "layer `layer3`: directions has the shape [2, 3, 4], expected [2, 3, 5]");
        let error = Directions::new(&specs, vec![numbers(&[2, 3, 5], 0.0)?]).unwrap_err();
        assert_eq!(error.to_string(), "layer `layer2`: directions has the shape [], expected [2, 2, 3]");
        Ok(())
    }
}
