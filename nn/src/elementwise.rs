//! Multiplication by a number, and clamping: what a few architectures do to queries, keys and values.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::kernel::TASK;
use crate::implementation::{Implementation, elements};
use ascribe_curvature::{TangentRule, Traced, fresh, with_slice};

/// `factor · x`.
///
/// # Errors
/// If a tensor operation fails.
pub fn trace_scaled(x: &Traced, factor: f64) -> Result<Traced> {
    match Implementation::of(x.value()) {
        Implementation::Fused => x.op1_with(Scale(factor as f32), TangentRule::Elementwise),
        Implementation::Composed => Traced::composed_with([x], |[x]| x.affine(factor, 0.0), TangentRule::Elementwise),
    }
}

/// `min(max(x, -limit), limit)` (OLMo's `clip_qkv`). The gradient passes where `|x| ≤ limit`, as PyTorch has it, and is 0
/// elsewhere.
///
/// # Errors
/// If the limit is not a positive number, or a tensor operation fails.
pub fn clamped(x: &Tensor, limit: f64) -> Result<Tensor> {
    clamped_with(x, limit, Implementation::of(x))
}

/// [`clamped`], computed as asked.
///
/// # Errors
/// If the limit is not a positive number, or a tensor operation fails.
pub fn clamped_with(x: &Tensor, limit: f64, implementation: Implementation) -> Result<Tensor> {
    check(limit)?;
    match implementation {
        Implementation::Fused => x.contiguous()?.apply_op1(Clamp(limit as f32)),
        Implementation::Composed => {
            // a choice, because candle's own clamp passes no gradient at the limit itself
            let inside = x.detach().abs()?.le(limit)?;
            inside.where_cond(x, &x.detach().clamp(-limit, limit)?)
        }
    }
}

/// [`clamped`] on a tape.
///
/// # Errors
/// If the limit is not a positive number, or a tensor operation fails.
pub fn trace_clamped(x: &Traced, limit: f64) -> Result<Traced> {
    check(limit)?;
    match Implementation::of(x.value()) {
        Implementation::Fused => x.op1_with(Clamp(limit as f32), TangentRule::Elementwise),
        composed => Traced::composed_with([x], |[x]| clamped_with(x, limit, composed), TangentRule::Elementwise),
    }
}

fn check(limit: f64) -> Result<()> {
    if limit.is_finite() && limit > 0.0 {
        return Ok(());
    }
    candle_core::bail!("values cannot be clamped to ±{limit}, which is not a positive number")
}

struct Scale(f32);

impl CustomOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(mapped(elements(storage, layout)?, |x| x * self.0)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_slice(&gradient.contiguous()?, |gradient: &[f32]| mapped(gradient, |g| g * self.0))?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

struct Clamp(f32);

impl CustomOp1 for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        // `clamp` lets NaN through
        Ok((CpuStorage::F32(mapped(elements(storage, layout)?, |x| x.clamp(-self.0, self.0))), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let dx = with_slice(x, |x: &[f32]| {
            with_slice(&gradient, |gradient: &[f32]| {
                fresh(x.len(), TASK, |first, dx| {
                    let part = first..first + dx.len();
                    for ((dx, x), g) in dx.iter_mut().zip(&x[part.clone()]).zip(&gradient[part]) {
                        *dx = if x.abs() <= self.0 { *g } else { 0.0 };
                    }
                })
            })
        })??;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

fn mapped(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    fresh(x.len(), TASK, |first, y| {
        y.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = f(*x));
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::gradient_check::{agree, central_differences, flat, tangents, tangents_agree, wave};
    use super::*;
    use ascribe_curvature::{Gradient, Tape};

    #[test]
    fn clamped_gradients_are_central_differences() -> Result<()> {
        // numbers between -2 and 2, none within a step of the limit where the clamp has its corner
        let x = wave(&[3, 11], 5)?.affine(2.0, 0.0)?;
        assert!(flat(&x)?.iter().all(|x| (x.abs() - 0.8).abs() > 2e-3));
        central_differences(&x, |x| clamped(x, 0.8), 1e-9)
    }

    #[test]
    fn tangents_are_central_differences_and_transposes() -> Result<()> {
        let x = wave(&[3, 11], 5)?.affine(2.0, 0.0)?;
        let run = |x: &[Traced]| trace_clamped(&trace_scaled(&x[0], -1.5)?, 1.2);
        tangents(&[&x], run, 1e-9)?;
        tangents_agree(&[&x], run, run, 1e-6)
    }

    #[test]
    fn fused_agrees_with_composed() -> Result<()> {
        for (rows, width) in [(1, 8), (5, 24), (19, 33), (3, 6000)] {
            let x = wave(&[rows, width], 1)?.affine(3.0, 0.0)?;
            agree(&[&x], |x| clamped_with(x[0], 1.25, Implementation::Fused), |x| clamped(x[0], 1.25), 1e-7)?;
        }
        Ok(())
    }

    #[test]
    fn values_at_the_limit_pass_their_gradient_and_broken_ones_stay_broken() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let x = Tensor::new(&[-2.5f32, -2.0, 0.0, 2.0, 2.5, f32::NAN], &Device::Cpu)?.to_dtype(dtype)?;
            let x = Var::from_tensor(&x)?;
            let y = clamped(&x, 2.0)?;
            let values = flat(&y)?;
            assert_eq!(values[..5], [-2.0, -2.0, 0.0, 2.0, 2.0]);
            assert!(values[5].is_nan());
            let gradients = y.narrow(0, 0, 5)?.sum_all()?.backward()?;
            let slopes = flat(gradients.get(&x).expect("differentiable"))?;
            assert_eq!(slopes[..5], [0.0, 1.0, 1.0, 1.0, 0.0]);
            for limit in [0.0, -1.0, f64::NAN, f64::INFINITY] {
                assert!(clamped(&x, limit).unwrap_err().to_string().contains("not a positive number"));
            }
        }
        Ok(())
    }

    #[test]
    fn a_factor_multiplies_values_and_gradients_on_a_tape() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let (x, seed) = (wave(&[5, 33], 1)?.to_dtype(dtype)?, wave(&[5, 33], 2)?.to_dtype(dtype)?);
            let tape = Tape::default();
            let input = tape.input(x.clone(), Gradient::Wanted);
            let output = trace_clamped(&trace_scaled(&input, -1.5)?, 1.0)?;
            let y = flat(output.value())?;
            let found = flat(&tape.backward(&input, &output, seed.clone())?.expect("wanted"))?;
            for (i, (x, seed)) in flat(&x)?.into_iter().zip(flat(&seed)?).enumerate() {
                let want = (-1.5 * x).clamp(-1.0, 1.0);
                let slope = if (1.5 * x).abs() <= 1.0 { -1.5 } else { 0.0 };
                assert!((y[i] - want).abs() < 2e-7 && (found[i] - slope * seed).abs() < 2e-7, "[{i}]");
            }
        }
        Ok(())
    }
}
