//! Layer norm and root-mean-square norm over the last axis.

use super::kernel::{LANES, Lanes, TASK, vectorised};
use crate::implementation::{Implementation, elements};
use ascribe_curvature::{TangentRule, Traced, fresh, with_slice};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

/// `y = (x - mean(x)) / √(var(x) + ε) ⊙ weight + bias`, the variance divided by D.
///
/// # Shapes
/// `weight`, `bias`: `[D]`; `x` and `y`: `[..., D]`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Factor of each feature.
    pub weight: Tensor,
    /// Added to each feature.
    pub bias: Option<Tensor>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm {
    /// Normalises every row.
    ///
    /// # Errors
    /// If shapes or types do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Implementation::of(x))
    }

    /// Computes what `forward` does by the implementation that is asked for.
    ///
    /// # Errors
    /// If shapes or types do not fit.
    pub fn forward_with(&self, x: &Tensor, implementation: Implementation) -> Result<Tensor> {
        match implementation {
            Implementation::Fused => x.contiguous()?.apply_op1(self.op(x)?),
            Implementation::Composed => {
                let y = unit_scale(&centred(x)?, self.epsilon)?.broadcast_mul(&self.weight)?;
                match &self.bias {
                    Some(bias) => y.broadcast_add(bias),
                    None => Ok(y),
                }
            }
        }
    }
}

impl LayerNorm {
    /// [`LayerNorm::forward`] on a tape.
    ///
    /// # Errors
    /// If shapes or types do not fit.
    pub fn trace(&self, x: &Traced) -> Result<Traced> {
        let tangent = |[x]: [&Tensor; 1], [moving]: [&Tensor; 1]| {
            let (x, moving) = (centred(x)?, centred(moving)?);
            unit_tangent(&x, &moving, self.epsilon)?.broadcast_mul(&self.weight)
        };
        match Implementation::of(x.value()) {
            Implementation::Fused => x.op1_with(self.op(x.value())?, TangentRule::Each(&tangent)),
            composed => Traced::composed_with([x], |[x]| self.forward_with(x, composed), TangentRule::Each(&tangent)),
        }
    }

    /// `(x - mean(x)) / √(var(x) + ε)`, which the weights multiply.
    ///
    /// # Errors
    /// If shapes or types do not fit.
    pub fn normalised(&self, x: &Tensor) -> Result<Tensor> {
        Self { weight: self.weight.ones_like()?, bias: None, epsilon: self.epsilon }.forward(x)
    }

    fn op(&self, x: &Tensor) -> Result<Norm> {
        norm(x, Origin::Mean, &self.weight, 0.0, self.bias.as_ref(), self.epsilon)
    }
}

/// `y = x / √(mean(x²) + ε) ⊙ (weight + offset)`.
///
/// # Shapes
/// `weight`: `[D]`; `x` and `y`: `[..., D]`, or `[..., H D]` for [`RmsNorm::forward_heads`].
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// Factor of each feature, less `offset`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub epsilon: f64,
    /// 0 for Llama, 1 for Gemma.
    pub offset: f64,
}

impl RmsNorm {
    /// Normalises every row.
    ///
    /// # Errors
    /// If shapes or types do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Implementation::of(x))
    }

    /// Computes what `forward` does by the implementation that is asked for.
    ///
    /// # Errors
    /// If shapes or types do not fit.
    pub fn forward_with(&self, x: &Tensor, implementation: Implementation) -> Result<Tensor> {
        match implementation {
            Implementation::Fused => x.contiguous()?.apply_op1(self.op(x)?),
            Implementation::Composed => {
                unit_scale(x, self.epsilon)?.broadcast_mul(&self.weight.affine(1.0, self.offset)?)
            }
        }
    }
}

impl RmsNorm {
    /// [`RmsNorm::forward`] on a tape.
    ///
    /// # Errors
    /// If shapes or types do not fit.
    pub fn trace(&self, x: &Traced) -> Result<Traced> {
        let tangent = |[x]: [&Tensor; 1], [moving]: [&Tensor; 1]| self.tangent(x, moving);
        match Implementation::of(x.value()) {
            Implementation::Fused => x.op1_with(self.op(x.value())?, TangentRule::Each(&tangent)),
            composed => Traced::composed_with([x], |[x]| self.forward_with(x, composed), TangentRule::Each(&tangent)),
        }
    }

    /// The movement of the output for one movement of the input.
    fn tangent(&self, x: &Tensor, moving: &Tensor) -> Result<Tensor> {
        unit_tangent(x, moving, self.epsilon)?.broadcast_mul(&self.weight.affine(1.0, self.offset)?)
    }

    /// Normalises every D features of a row by themselves, as queries and keys are by head (Qwen 3, Gemma 3), or all of
    /// a row where there are D (OLMo 2).
    ///
    /// # Errors
    /// If rows are no multiple of D, or types do not fit.
    pub fn forward_heads(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_heads_with(x, Implementation::of(x))
    }

    /// Computes what `forward_heads` does by the implementation that is asked for.
    ///
    /// # Errors
    /// If rows are no multiple of D, or types do not fit.
    pub fn forward_heads_with(&self, x: &Tensor, implementation: Implementation) -> Result<Tensor> {
        match implementation {
            Implementation::Fused => x.contiguous()?.apply_op1(self.op_of_heads(x)?),
            Implementation::Composed => {
                self.check_heads(x)?;
                self.forward_with(&x.reshape(((), self.weight.dims1()?))?, implementation)?.reshape(x.shape())
            }
        }
    }

    /// [`RmsNorm::forward_heads`] on a tape.
    ///
    /// # Errors
    /// If rows are no multiple of D, or types do not fit.
    pub fn trace_heads(&self, x: &Traced) -> Result<Traced> {
        let tangent = |[x]: [&Tensor; 1], [moving]: [&Tensor; 1]| {
            let heads = |x: &Tensor| x.reshape(((), self.weight.dims1()?));
            self.tangent(&heads(x)?, &heads(moving)?)?.reshape(x.shape())
        };
        match Implementation::of(x.value()) {
            Implementation::Fused => x.op1_with(self.op_of_heads(x.value())?, TangentRule::Each(&tangent)),
            composed => {
                Traced::composed_with([x], |[x]| self.forward_heads_with(x, composed), TangentRule::Each(&tangent))
            }
        }
    }

    /// `x / √(mean(x²) + ε)` of every D features by themselves, which the weights multiply.
    ///
    /// # Errors
    /// If rows are no multiple of D, or types do not fit.
    pub fn normalised_heads(&self, x: &Tensor) -> Result<Tensor> {
        Self { weight: self.weight.ones_like()?, epsilon: self.epsilon, offset: 0.0 }.forward_heads(x)
    }

    fn check_heads(&self, x: &Tensor) -> Result<()> {
        let (width, weights) = (x.dim(D::Minus1)?, self.weight.dims1()?);
        if weights == 0 || !width.is_multiple_of(weights) {
            candle_core::bail!("a norm of {weights} weights got rows of {width}, which are no whole number of heads");
        }
        Ok(())
    }

    /// The rows of the op are the heads of `x`, one after the other in memory.
    fn op_of_heads(&self, x: &Tensor) -> Result<Norm> {
        self.check_heads(x)?;
        self.op(&self.weight)
    }

    fn op(&self, x: &Tensor) -> Result<Norm> {
        norm(x, Origin::Zero, &self.weight, self.offset, None, self.epsilon)
    }
}

/// `x / √(mean(x²) + ε)`.
fn unit_scale(x: &Tensor, epsilon: f64) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, epsilon)?.sqrt()?)
}

/// How `x / √(mean(x²) + ε)` moves with `x`: `r (ẋ - h mean(h ⊙ ẋ))` with `r = 1/√(mean(x²) + ε)` and `h = r x`.
fn unit_tangent(x: &Tensor, moving: &Tensor, epsilon: f64) -> Result<Tensor> {
    let rate = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, epsilon)?.sqrt()?.recip()?;
    let h = x.broadcast_mul(&rate)?;
    let along = (&h * moving)?.mean_keepdim(D::Minus1)?;
    (moving - h.broadcast_mul(&along)?)?.broadcast_mul(&rate)
}

/// Every row less its mean.
fn centred(x: &Tensor) -> Result<Tensor> {
    x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)
}

/// The fused op, for rows as wide as those of `x`.
fn norm(x: &Tensor, origin: Origin, weight: &Tensor, offset: f64, bias: Option<&Tensor>, epsilon: f64) -> Result<Norm> {
    let (width, weights) = (x.dim(D::Minus1)?, weight.dims1()?);
    let biases = bias.map(Tensor::dims1).transpose()?.unwrap_or(width);
    if weights != width || biases != width {
        candle_core::bail!("a norm of {weights} weights and {biases} biases got rows of {width}");
    }
    let bias = bias.map(Tensor::contiguous).transpose()?;
    Ok(Norm { origin, weight: weight.contiguous()?, offset: offset as f32, bias, epsilon: epsilon as f32 })
}

/// What deviations are measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Mean,
    Zero,
}

struct Norm {
    origin: Origin,
    weight: Tensor,
    offset: f32,
    bias: Option<Tensor>,
    epsilon: f32,
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout)?;
        let width = self.weight.elem_count();
        let task = rows_of_a_task(width) * width;
        let run = |weight: &[f32], bias: Option<&[f32]>| {
            fresh(x.len(), task, |first, y| {
                let x = &x[first..][..y.len()];
                forward_rows(x, weight, self.offset, bias, self.epsilon, self.origin, y);
            })
        };
        let y = with_slice(&self.weight, |weight: &[f32]| match &self.bias {
            Some(bias) => with_slice(bias, |bias: &[f32]| run(weight, Some(bias))),
            None => Ok(run(weight, None)),
        })??;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let width = self.weight.elem_count();
        let task = rows_of_a_task(width) * width;
        let dx = with_slice(x, |x: &[f32]| {
            with_slice(&gradient, |gradient: &[f32]| {
                with_slice(&self.weight, |weight: &[f32]| {
                    fresh(x.len(), task, |first, dx| {
                        let part = first..first + dx.len();
                        let (x, gradient) = (&x[part.clone()], &gradient[part]);
                        backward_rows(x, weight, self.offset, self.epsilon, self.origin, gradient, dx);
                    })
                })
            })
        })???;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

fn rows_of_a_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

vectorised!(
    fn forward_rows(
        x: &[f32],
        weight: &[f32],
        offset: f32,
        bias: Option<&[f32]>,
        epsilon: f32,
        origin: Origin,
        y: &mut [f32],
    ) = forward_lanes
);

vectorised!(
    fn backward_rows(
        x: &[f32],
        weight: &[f32],
        offset: f32,
        epsilon: f32,
        origin: Origin,
        gradient: &[f32],
        dx: &mut [f32],
    ) = backward_lanes
);

/// A row's origin, and the reciprocal of its root-mean-square deviation from there.
#[inline(always)]
fn statistics<V: Lanes>(row: &[f32], epsilon: f32, origin: Origin) -> (f32, f32) {
    let n = row.len() as f32;
    let (chunks, tail) = row.as_chunks::<LANES>();
    // four sums at a time: one would wait for each addition to finish
    let (fours, rest) = chunks.as_chunks::<4>();
    let mean = match origin {
        Origin::Zero => 0.0,
        Origin::Mean => {
            let mut sums = [V::load_part(tail, 0.0), V::splat(0.0), V::splat(0.0), V::splat(0.0)];
            for four in fours {
                for s in 0..4 {
                    sums[s] = sums[s] + V::load(&four[s]);
                }
            }
            for x in rest {
                sums[1] = sums[1] + V::load(x);
            }
            ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum() / n
        }
    };
    let m = V::splat(mean);
    let d = V::load_part(tail, mean) - m;
    let mut squares = [d * d, V::splat(0.0), V::splat(0.0), V::splat(0.0)];
    for four in fours {
        for s in 0..4 {
            let d = V::load(&four[s]) - m;
            squares[s] = d.times_plus(d, squares[s]);
        }
    }
    for x in rest {
        let d = V::load(x) - m;
        squares[1] = d.times_plus(d, squares[1]);
    }
    let squares = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    (mean, 1.0 / (squares.sum() / n + epsilon).sqrt())
}

#[inline(always)]
fn forward_lanes<V: Lanes>(
    x: &[f32],
    weight: &[f32],
    offset: f32,
    bias: Option<&[f32]>,
    epsilon: f32,
    origin: Origin,
    y: &mut [f32],
) {
    let width = weight.len();
    let (w, w_tail) = weight.as_chunks::<LANES>();
    let (b, b_tail) = bias.unwrap_or(&[]).as_chunks::<LANES>();
    let offset = V::splat(offset);
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let (mean, rate) = statistics::<V>(x, epsilon, origin);
        let (mean, rate) = (V::splat(mean), V::splat(rate));
        let (x, x_tail) = x.as_chunks::<LANES>();
        let (y, y_tail) = y.as_chunks_mut::<LANES>();
        let normal = |x: V, w: V| (x - mean) * rate * (w + offset);
        if bias.is_some() {
            for i in 0..x.len() {
                (normal(V::load(&x[i]), V::load(&w[i])) + V::load(&b[i])).store(&mut y[i]);
            }
            let last = normal(V::load_part(x_tail, 0.0), V::load_part(w_tail, 0.0));
            (last + V::load_part(b_tail, 0.0)).store_part(y_tail);
        } else {
            for i in 0..x.len() {
                normal(V::load(&x[i]), V::load(&w[i])).store(&mut y[i]);
            }
            normal(V::load_part(x_tail, 0.0), V::load_part(w_tail, 0.0)).store_part(y_tail);
        }
    }
}

/// With `h = (x - mean) · rate` and `u = gradient ⊙ weight`: `dx = rate · (u - mean(u) - h · mean(u ⊙ h))`,
/// without `mean(u)` when deviations are measured from zero.
#[inline(always)]
fn backward_lanes<V: Lanes>(
    x: &[f32],
    weight: &[f32],
    offset: f32,
    epsilon: f32,
    origin: Origin,
    gradient: &[f32],
    dx: &mut [f32],
) {
    let width = weight.len();
    let (w, w_tail) = weight.as_chunks::<LANES>();
    let offset = V::splat(offset);
    let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
    for ((x, g), dx) in rows {
        let (mean, rate) = statistics::<V>(x, epsilon, origin);
        let (m, r) = (V::splat(mean), V::splat(rate));
        let (x, x_tail) = x.as_chunks::<LANES>();
        let (g, g_tail) = g.as_chunks::<LANES>();
        let (dx, dx_tail) = dx.as_chunks_mut::<LANES>();
        // lanes beyond the tail have h = 0 and u = 0
        let h_tail = (V::load_part(x_tail, mean) - m) * r;
        let u_tail = V::load_part(g_tail, 0.0) * (V::load_part(w_tail, 0.0) + offset);
        let (mut sum_u, mut sum_uh) = ([u_tail, V::splat(0.0)], [u_tail * h_tail, V::splat(0.0)]);
        for i in 0..x.len() {
            let h = (V::load(&x[i]) - m) * r;
            let u = V::load(&g[i]) * (V::load(&w[i]) + offset);
            sum_u[i % 2] = sum_u[i % 2] + u;
            sum_uh[i % 2] = u.times_plus(h, sum_uh[i % 2]);
        }
        let (sum_u, sum_uh) = (sum_u[0] + sum_u[1], sum_uh[0] + sum_uh[1]);
        let n = width as f32;
        let mean_u = match origin {
            Origin::Mean => V::splat(sum_u.sum() / n),
            Origin::Zero => V::splat(0.0),
        };
        let minus_uh = V::splat(-sum_uh.sum() / n);
        for i in 0..x.len() {
            let h = (V::load(&x[i]) - m) * r;
            let u = V::load(&g[i]) * (V::load(&w[i]) + offset);
            (h.times_plus(minus_uh, u - mean_u) * r).store(&mut dx[i]);
        }
        (h_tail.times_plus(minus_uh, u_tail - mean_u) * r).store_part(dx_tail);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::gradient_check::{agree, central_differences, flat, tangents, tangents_agree, wave};
    use super::super::kernel::Plain;
    use super::*;

    fn norms(width: usize, dtype: DType) -> Result<(LayerNorm, LayerNorm, RmsNorm, RmsNorm)> {
        let weight = wave(&[width], 3)?.affine(0.5, 1.0)?.to_dtype(dtype)?;
        let bias = wave(&[width], 4)?.to_dtype(dtype)?;
        Ok((
            LayerNorm { weight: weight.clone(), bias: Some(bias), epsilon: 1e-5 },
            LayerNorm { weight: weight.clone(), bias: None, epsilon: 1e-3 },
            RmsNorm { weight: weight.clone(), epsilon: 1e-6, offset: 0.0 },
            RmsNorm { weight, epsilon: 1e-6, offset: 1.0 },
        ))
    }

    #[test]
    fn composed_gradients_are_central_differences() -> Result<()> {
        // not 1: x/√(x² + ε) is too steep at 0 for differences
        for width in [5, 24, 33] {
            let x = wave(&[3, width], 1)?;
            let (a, b, c, d) = norms(width, DType::F64)?;
            central_differences(&x, |x| a.forward(x), 1e-9)?;
            central_differences(&x, |x| b.forward(x), 1e-9)?;
            central_differences(&x, |x| c.forward(x), 1e-9)?;
            central_differences(&x, |x| d.forward(x), 1e-9)?;
        }
        Ok(())
    }

    #[test]
    fn tangents_are_central_differences_and_transposes() -> Result<()> {
        for width in [5, 24] {
            let x = wave(&[3, 2 * width], 1)?;
            let half = x.narrow(1, 0, width)?.contiguous()?;
            let (a, b, c, d) = norms(width, DType::F64)?;
            let (e, f, g, h) = norms(width, DType::F32)?;
            tangents(&[&half], |x| a.trace(&x[0]), 1e-9)?;
            tangents(&[&half], |x| b.trace(&x[0]), 1e-9)?;
            tangents(&[&half], |x| c.trace(&x[0]), 1e-9)?;
            tangents(&[&x], |x| d.trace_heads(&x[0]), 1e-9)?;
            // as the values: rounding 1.2e-7, amplified by the mean and summed over the features
            tangents_agree(&[&half], |x| e.trace(&x[0]), |x| a.trace(&x[0]), 2e-5)?;
            tangents_agree(&[&half], |x| f.trace(&x[0]), |x| b.trace(&x[0]), 2e-5)?;
            tangents_agree(&[&half], |x| g.trace(&x[0]), |x| c.trace(&x[0]), 2e-5)?;
            tangents_agree(&[&x], |x| h.trace_heads(&x[0]), |x| d.trace_heads(&x[0]), 2e-5)?;
        }
        Ok(())
    }

    #[test]
    fn fused_agrees_with_composed() -> Result<()> {
        // Rows are of order 1 with means up to 3: rounding 1.2e-7, amplified by (mean / deviation) and
        // summed over at most 1030 features.
        for (rows, width) in [(1, 8), (5, 24), (19, 33), (70, 256), (40, 1030)] {
            let x = wave(&[rows, width], 1)?.affine(1.0, 0.5)?;
            let (a, b, c, d) = norms(width, DType::F64)?;
            let (e, f, g, h) = norms(width, DType::F32)?;
            let tolerance = 2e-5;
            agree(&[&x], |x| e.forward_with(x[0], Implementation::Fused), |x| a.forward(x[0]), tolerance)?;
            agree(&[&x], |x| f.forward_with(x[0], Implementation::Fused), |x| b.forward(x[0]), tolerance)?;
            agree(&[&x], |x| g.forward_with(x[0], Implementation::Fused), |x| c.forward(x[0]), tolerance)?;
            agree(&[&x], |x| h.forward_with(x[0], Implementation::Fused), |x| d.forward(x[0]), tolerance)?;
        }
        Ok(())
    }

    /// Loops in f64; then differences, and the fused op.
    #[test]
    fn heads_are_normalised_by_themselves() -> Result<()> {
        for (rows, heads, width, offset) in [(3, 2, 5, 1.0), (7, 3, 24, 0.0), (4, 1, 33, 0.0)] {
            let weight = wave(&[width], 3)?.affine(0.5, 1.0)?;
            let norm = RmsNorm { weight: weight.clone(), epsilon: 1e-3, offset };
            let x = wave(&[rows, heads * width], 1)?;
            let found = flat(&norm.forward_heads(&x)?)?;
            let w = flat(&weight)?;
            for (x, y) in flat(&x)?.chunks(width).zip(found.chunks(width)) {
                let rate = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-3).sqrt();
                for i in 0..width {
                    assert!((y[i] - x[i] * rate * (w[i] + offset)).abs() < 1e-14);
                }
            }
            central_differences(&x, |x| norm.forward_heads(x), 1e-9)?;
            let narrow = RmsNorm { weight: weight.to_dtype(DType::F32)?, ..norm.clone() };
            agree(
                &[&x],
                |x| narrow.forward_heads_with(x[0], Implementation::Fused),
                |x| norm.forward_heads(x[0]),
                2e-5,
            )?;
            for norm in [norm, narrow] {
                let x = wave(&[rows, heads * width + 1], 1)?.to_dtype(norm.weight.dtype())?;
                let error = norm.forward_heads(&x).unwrap_err();
                assert!(error.to_string().contains("no whole number of heads"), "{error}");
            }
        }
        Ok(())
    }

    #[test]
    fn plain_lanes_agree_with_the_best_ones() -> Result<()> {
        let numbers = |n, seed| wave(&[n], seed)?.to_dtype(DType::F32)?.to_vec1::<f32>();
        for width in [5, 16, 33, 64] {
            let (x, g) = (numbers(3 * width, 1)?, numbers(3 * width, 2)?);
            let (w, b) = (numbers(width, 3)?, numbers(width, 4)?);
            for origin in [Origin::Mean, Origin::Zero] {
                let mut y = [vec![0.0; 3 * width], vec![0.0; 3 * width], vec![0.0; 3 * width], vec![0.0; 3 * width]];
                forward_rows(&x, &w, 0.5, Some(&b), 1e-5, origin, &mut y[0]);
                forward_lanes::<Plain>(&x, &w, 0.5, Some(&b), 1e-5, origin, &mut y[1]);
                backward_rows(&x, &w, 0.5, 1e-5, origin, &g, &mut y[2]);
                backward_lanes::<Plain>(&x, &w, 0.5, 1e-5, origin, &g, &mut y[3]);
                for (found, want) in [(&y[0], &y[1]), (&y[2], &y[3])] {
                    // the same sums in the same order, with and without fused multiply-add
                    assert!(found.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{width} {origin:?}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn wrong_widths_are_refused() -> Result<()> {
        let x = Tensor::zeros((2, 5), DType::F32, &Device::Cpu)?;
        let (norm, _, _, _) = norms(4, DType::F32)?;
        assert!(norm.forward(&x).is_err());
        Ok(())
    }
}
