//! Activations, and products of an activated gate with a second tensor.

mod curve;
mod derivatives;
mod kind;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

pub use self::kind::Activation;
use self::kind::{GELU_CUBIC, GELU_SLOPE, MISH_LINEAR, QUICK_GELU};
use super::kernel::TASK;
use crate::implementation::{Implementation, elements};
use ascribe_curvature::{TangentRule, Traced, fresh, with_slice};
use curve::{gated_slopes, gated_values, slopes, values};

impl Activation {
    /// Names that [`Activation::from_name`] knows.
    pub const NAMES: [&str; 16] = [
        "relu",
        "relu2",
        "tanh",
        "gelu",
        "gelu_python",
        "gelu_new",
        "gelu_fast",
        "gelu_accurate",
        "gelu_pytorch_tanh",
        "quick_gelu",
        "silu",
        "swish",
        "mish",
        "sigmoid",
        "linear",
        "identity",
    ];

    /// The activation that a Hugging Face configuration calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "relu" => Self::Relu,
            "relu2" => Self::SquaredRelu,
            "tanh" => Self::Tanh,
            "gelu" | "gelu_python" => Self::Gelu,
            // `gelu_fast` writes √(2/π) with ten digits; the rest are spellings of one formula
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "silu" | "swish" => Self::Silu,
            "mish" => Self::Mish,
            "sigmoid" => Self::Sigmoid,
            "linear" | "identity" => Self::Identity,
            _ => return None,
        })
    }

    /// Applies the function to every element.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Implementation::of(x))
    }

    /// Computes what `forward` does by the implementation that is asked for.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn forward_with(self, x: &Tensor, implementation: Implementation) -> Result<Tensor> {
        match implementation {
            _ if self == Self::Identity => Ok(x.clone()),
            Implementation::Fused => x.contiguous()?.apply_op1(Pointwise(self)),
            Implementation::Composed => self.composed(x),
        }
    }

    /// [`Activation::forward`] on a tape.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn trace(self, x: &Traced) -> Result<Traced> {
        match Implementation::of(x.value()) {
            _ if self == Self::Identity => Ok(x.clone()),
            Implementation::Fused => x.op1_with(Pointwise(self), TangentRule::Elementwise),
            Implementation::Composed => Traced::composed_with([x], |[x]| self.composed(x), TangentRule::Elementwise),
        }
    }

    /// Not candle's `gelu`, `gelu_erf` (six digits in their gradients) and `relu` (gradient 1 at 0).
    fn composed(self, x: &Tensor) -> Result<Tensor> {
        // (1 + tanh(x/2)) / 2, whose gradient does not overflow
        let sigmoid = |x: &Tensor| x.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5);
        let relu = |x: &Tensor| {
            let zero = x.zeros_like()?;
            x.gt(&zero)?.where_cond(x, &zero)
        };
        match self {
            Self::Relu => relu(x),
            Self::SquaredRelu => relu(x)?.sqr(),
            Self::Mish => {
                // n = eˣ (eˣ + 2) of numbers up to where the function is x: a choice, so that no larger power is formed
                let linear = x.detach().gt(MISH_LINEAR)?;
                let e = linear.where_cond(&x.zeros_like()?, x)?.exp()?;
                let n = (&e * e.affine(1.0, 2.0)?)?;
                linear.where_cond(x, &(x * (&n / n.affine(1.0, 2.0)?)?)?)
            }
            Self::Tanh => x.tanh(),
            Self::Gelu => x * x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)?,
            Self::GeluTanh => {
                let argument = (x * x.sqr()?.affine(GELU_SLOPE * GELU_CUBIC, GELU_SLOPE)?)?;
                x * argument.tanh()?.affine(0.5, 0.5)?
            }
            Self::QuickGelu => x * sigmoid(&x.affine(QUICK_GELU, 0.0)?)?,
            Self::Silu => x * sigmoid(x)?,
            Self::Sigmoid => sigmoid(x),
            Self::Identity => Ok(x.clone()),
        }
    }
}

/// `activation(gate) ⊙ up`, elementwise.
///
/// # Errors
/// If the shapes differ or a tensor operation fails.
pub fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gated_with(activation, gate, up, Implementation::of(gate))
}

/// [`gated`], computed as asked.
///
/// # Errors
/// If the shapes differ or a tensor operation fails.
pub fn gated_with(
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
    implementation: Implementation,
) -> Result<Tensor> {
    match implementation {
        Implementation::Fused => {
            same_shape(gate, up)?;
            gate.contiguous()?.apply_op2(&up.contiguous()?, Gated(activation))
        }
        Implementation::Composed => activation.composed(gate)? * up,
    }
}

/// [`gated`] on a tape.
///
/// # Errors
/// If the shapes differ or a tensor operation fails.
pub fn trace_gated(activation: Activation, gate: &Traced, up: &Traced) -> Result<Traced> {
    match Implementation::of(gate.value()) {
        Implementation::Fused => {
            same_shape(gate.value(), up.value())?;
            gate.op2_with(up, Gated(activation), TangentRule::Elementwise)
        }
        composed => Traced::composed_with(
            [gate, up],
            |[gate, up]| gated_with(activation, gate, up, composed),
            TangentRule::Elementwise,
        ),
    }
}

/// `activation(gate) ⊙ up` of gate and up side by side: `[R, 2 I]` to `[R, I]`.
///
/// # Errors
/// If the width is odd or a tensor operation fails.
pub fn gated_packed(activation: Activation, both: &Tensor) -> Result<Tensor> {
    gated_packed_with(activation, both, Implementation::of(both))
}

/// [`gated_packed`], computed as asked.
///
/// # Errors
/// If the width is odd or a tensor operation fails.
pub fn gated_packed_with(activation: Activation, both: &Tensor, implementation: Implementation) -> Result<Tensor> {
    let inner = half(both)?;
    match implementation {
        Implementation::Fused => both.contiguous()?.apply_op1(GatedPacked { activation, inner }),
        Implementation::Composed => {
            activation.composed(&both.narrow(1, 0, inner)?.contiguous()?)? * both.narrow(1, inner, inner)?
        }
    }
}

/// [`gated_packed`] on a tape.
///
/// # Errors
/// If the width is odd or a tensor operation fails.
pub fn trace_gated_packed(activation: Activation, both: &Traced) -> Result<Traced> {
    let inner = half(both.value())?;
    // the tangent of gate and up in two tensors
    let tangent = |[both]: [&Tensor; 1], [moving]: [&Tensor; 1]| {
        let sides = |x: &Tensor, start| x.narrow(1, start, inner)?.contiguous();
        let side = |start| Traced::constant(sides(both, start)?).moving(Some(sides(moving, start)?));
        let product = trace_gated(activation, &side(0)?, &side(inner)?)?;
        Ok(product.tangents().expect("both sides move").clone())
    };
    match Implementation::of(both.value()) {
        Implementation::Fused => both.op1_with(GatedPacked { activation, inner }, TangentRule::Each(&tangent)),
        composed => Traced::composed_with(
            [both],
            |[both]| gated_packed_with(activation, both, composed),
            TangentRule::Each(&tangent),
        ),
    }
}

/// Columns of the gate, which are those of the other half.
fn half(both: &Tensor) -> Result<usize> {
    match both.dims2()? {
        (_, width) if width % 2 == 0 => Ok(width / 2),
        (_, width) => candle_core::bail!("{width} columns are no gate beside as many others"),
    }
}

fn same_shape(gate: &Tensor, up: &Tensor) -> Result<()> {
    if gate.dims() != up.dims() {
        candle_core::bail!("a gate of the shape {:?} for {:?}", gate.dims(), up.dims());
    }
    Ok(())
}

struct Pointwise(Activation);

impl CustomOp1 for Pointwise {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout)?;
        let y = fresh(x.len(), TASK, |first, y| values(self.0, &x[first..][..y.len()], y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let dx = with_slice(x, |x: &[f32]| {
            with_slice(&gradient, |gradient: &[f32]| {
                fresh(x.len(), TASK, |first, dx| {
                    let part = first..first + dx.len();
                    slopes(self.0, &x[part.clone()], &gradient[part], dx);
                })
            })
        })??;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

struct Gated(Activation);

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated-activation"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (elements(gate, gate_layout)?, elements(up, up_layout)?);
        let y = fresh(gate.len(), TASK, |first, y| {
            let part = first..first + y.len();
            gated_values(self.0, &gate[part.clone()], &up[part], y);
        });
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (mut d_gate, mut d_up) = (vec![0.0; gate.elem_count()], vec![0.0; gate.elem_count()]);
        with_slice(gate, |gate: &[f32]| {
            with_slice(up, |up: &[f32]| {
                with_slice(&gradient, |gradient: &[f32]| {
                    let inputs = gate.par_chunks(TASK).zip(up.par_chunks(TASK)).zip(gradient.par_chunks(TASK));
                    let tasks = inputs.zip(d_gate.par_chunks_mut(TASK).zip(d_up.par_chunks_mut(TASK)));
                    tasks.for_each(|(((gate, up), gradient), (d_gate, d_up))| {
                        gated_slopes(self.0, gate, up, gradient, d_gate, d_up);
                    });
                })
            })
        })???;
        let tensor = |data| Tensor::from_vec(data, gate.shape(), gate.device());
        Ok((Some(tensor(d_gate)?), Some(tensor(d_up)?)))
    }
}

struct GatedPacked {
    activation: Activation,
    inner: usize,
}

impl GatedPacked {
    /// Rows that one task takes.
    fn rows(&self) -> usize {
        (TASK / self.inner.max(1)).max(1)
    }
}

impl CustomOp1 for GatedPacked {
    fn name(&self) -> &'static str {
        "packed-gated-activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (both, inner) = (elements(storage, layout)?, self.inner);
        let y = fresh(both.len() / 2, self.rows() * inner.max(1), |first, y| {
            let rows = both[2 * first..].chunks_exact(2 * inner.max(1));
            for (row, y) in rows.zip(y.chunks_exact_mut(inner.max(1))) {
                let (gate, up) = row.split_at(inner);
                gated_values(self.activation, gate, up, y);
            }
        });
        Ok((CpuStorage::F32(y), (layout.shape().dims()[0], inner).into()))
    }

    fn bwd(&self, both: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (gradient, inner) = (gradient.contiguous()?, self.inner);
        let d = with_slice(both, |both: &[f32]| {
            with_slice(&gradient, |gradient: &[f32]| {
                fresh(both.len(), self.rows() * 2 * inner.max(1), |first, d| {
                    let rows = both[first..].chunks_exact(2 * inner.max(1));
                    let rows = rows.zip(gradient[first / 2..].chunks_exact(inner.max(1)));
                    for ((row, gradient), d) in rows.zip(d.chunks_exact_mut(2 * inner.max(1))) {
                        let ((gate, up), (d_gate, d_up)) = (row.split_at(inner), d.split_at_mut(inner));
                        gated_slopes(self.activation, gate, up, gradient, d_gate, d_up);
                    }
                })
            })
        })??;
        Tensor::from_vec(d, both.shape(), both.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::gradient_check::{agree, central_differences, flat, tangents, tangents_agree, wave};
    use super::super::kernel::Plain;
    use super::curve::{gated_slopes_lanes, gated_values_lanes, slopes_lanes, values_lanes};
    use super::*;

    const ALL: [Activation; 10] = [
        Activation::Relu,
        Activation::SquaredRelu,
        Activation::Tanh,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Silu,
        Activation::Mish,
        Activation::Sigmoid,
        Activation::Identity,
    ];

    #[test]
    fn composed_gradients_are_central_differences() -> Result<()> {
        // 3 x 11 numbers between -4 and 4, none within a step of 0 where relu has its corner
        let x = wave(&[3, 11], 5)?.affine(4.0, 0.0)?;
        assert!(flat(&x)?.iter().all(|x| x.abs() > 2e-3));
        let up = wave(&[3, 11], 6)?;
        for activation in ALL {
            central_differences(&x, |x| activation.forward(x), 1e-9)?;
            central_differences(&x, |x| gated(activation, x, &up), 1e-9)?;
            central_differences(&up, |up| gated(activation, &x, up), 1e-9)?;
            central_differences(&Tensor::cat(&[&x, &up], 1)?, |both| gated_packed(activation, both), 1e-9)?;
        }
        Ok(())
    }

    #[test]
    fn tangents_are_central_differences_and_transposes() -> Result<()> {
        let (x, up) = (wave(&[3, 11], 5)?.affine(4.0, 0.0)?, wave(&[3, 11], 6)?);
        let both = Tensor::cat(&[&x, &up], 1)?;
        for activation in ALL {
            let plain = |x: &[Traced]| activation.trace(&x[0]);
            let gated = |x: &[Traced]| trace_gated(activation, &x[0], &x[1]);
            let packed = |x: &[Traced]| trace_gated_packed(activation, &x[0]);
            tangents(&[&x], plain, 1e-9)?;
            tangents(&[&x, &up], gated, 1e-9)?;
            tangents(&[&both], packed, 1e-9)?;
            // a few roundings of numbers up to 7
            tangents_agree(&[&x], plain, plain, 1e-6)?;
            tangents_agree(&[&x, &up], gated, gated, 1e-6)?;
            tangents_agree(&[&both], packed, packed, 1e-6)?;
        }
        Ok(())
    }

    #[test]
    fn composed_values_are_their_definitions() -> Result<()> {
        let x = wave(&[40], 8)?.affine(3.0, 0.0)?;
        type Definition = (Activation, fn(f64) -> f64);
        let pairs: [Definition; 6] = [
            (Activation::Relu, |x| x.max(0.0)),
            (Activation::GeluTanh, |x| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }),
            (Activation::QuickGelu, |x| x / (1.0 + (-1.702 * x).exp())),
            (Activation::Silu, |x| x / (1.0 + (-x).exp())),
            (Activation::SquaredRelu, |x| x.max(0.0).powi(2)),
            (Activation::Mish, |x| x * x.exp().ln_1p().tanh()),
        ];
        for (activation, definition) in pairs {
            for (x, y) in flat(&x)?.into_iter().zip(flat(&activation.forward(&x)?)?) {
                assert!((y - definition(x)).abs() < 1e-14, "{activation:?}({x})"); // a few roundings of order 1
            }
        }
        // Φ(1) to 15 digits (tables): the rest of Gelu's definition is the error function's.
        let y = Activation::Gelu.forward(&Tensor::new(&[1.0f64, -1.0], &Device::Cpu)?)?.to_vec1::<f64>()?;
        assert!((y[0] - 0.841_344_746_068_543).abs() < 1e-14 && (y[1] + 0.158_655_253_931_457).abs() < 1e-14);
        Ok(())
    }

    #[test]
    fn fused_agrees_with_composed() -> Result<()> {
        for (rows, width) in [(1, 8), (5, 24), (19, 33), (3, 6000)] {
            let x = wave(&[rows, width], 1)?.affine(7.0, 0.0)?;
            let up = wave(&[rows, width], 2)?;
            for activation in ALL {
                let fused = Implementation::Fused;
                // Relative to the largest value, up to 7, or slope, about 1: a few roundings of 1.2e-7.
                agree(&[&x], |x| activation.forward_with(x[0], fused), |x| activation.forward(x[0]), 1e-6)?;
                agree(
                    &[&x, &up],
                    |x| gated_with(activation, x[0], x[1], fused),
                    |x| gated(activation, x[0], x[1]),
                    1e-6,
                )?;
                agree(
                    &[&Tensor::cat(&[&x, &up], 1)?],
                    |x| gated_packed_with(activation, x[0], fused),
                    |x| gated_packed(activation, x[0]),
                    1e-6,
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn plain_lanes_agree_with_the_best_ones() -> Result<()> {
        let numbers = |seed| wave(&[203], seed)?.affine(6.0, 0.0)?.to_dtype(DType::F32)?.to_vec1::<f32>();
        let (x, up, g) = (numbers(1)?, numbers(2)?, numbers(3)?);
        for activation in ALL {
            let mut found = vec![vec![0.0; 203]; 5];
            let mut want = found.clone();
            let [a, b, c, d, e] = &mut found[..] else { unreachable!("five outputs") };
            values(activation, &x, a);
            slopes(activation, &x, &g, b);
            gated_values(activation, &x, &up, c);
            gated_slopes(activation, &x, &up, &g, d, e);
            let [a, b, c, d, e] = &mut want[..] else { unreachable!("five outputs") };
            values_lanes::<Plain>(activation, &x, a);
            slopes_lanes::<Plain>(activation, &x, &g, b);
            gated_values_lanes::<Plain>(activation, &x, &up, c);
            gated_slopes_lanes::<Plain>(activation, &x, &up, &g, d, e);
            for (found, want) in found.iter().flatten().zip(want.iter().flatten()) {
                // numbers up to 36, with and without fused multiply-add
                assert!((found - want).abs() < 2e-5, "{activation:?}: {found} {want}");
            }
        }
        Ok(())
    }

    #[test]
    fn relu_has_no_slope_at_zero_and_extremes_stay_finite() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let x = Tensor::new(&[0.0f32, -0.0, 1e20, -1e20, 100.0, -100.0], &Device::Cpu)?.to_dtype(dtype)?;
            for activation in ALL {
                let x = Var::from_tensor(&x)?;
                let gradients = activation.forward(&x)?.sum_all()?.backward()?;
                let slopes = flat(gradients.get(&x).expect("differentiable"))?;
                match activation {
                    Activation::Relu => assert_eq!(slopes, [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]),
                    _ => assert!(slopes.iter().all(|s| s.is_finite()), "{activation:?} {dtype:?}: {slopes:?}"),
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_gate_beside_its_other_half_is_one_of_its_own() -> Result<()> {
        let (x, up) = (wave(&[3, 5], 5)?, wave(&[3, 5], 6)?);
        let both = Tensor::cat(&[&x, &up], 1)?;
        let found = flat(&gated_packed(Activation::Silu, &both)?)?;
        assert_eq!(found, flat(&gated(Activation::Silu, &x, &up)?)?);
        let error = gated_packed(Activation::Silu, &x).unwrap_err();
        assert!(error.to_string().contains("5 columns are no gate"), "{error}");
        Ok(())
    }

    #[test]
    fn every_listed_name_is_known() {
        assert!(Activation::NAMES.iter().all(|name| Activation::from_name(name).is_some()));
        assert_eq!(Activation::from_name("gelu_new"), Some(Activation::GeluTanh));
        assert_eq!(Activation::from_name("prelu"), None);
    }
}
