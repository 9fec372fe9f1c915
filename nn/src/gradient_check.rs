//! What the tests of every block share: numbers, central differences, and the comparison of the fused
//! block in f32 with the composed one in f64.

use candle_core::{DType, Device, Result, Tensor, Var};

use ascribe_curvature::{Gradient, Tape, Traced};

/// Numbers between -1 and 1 without a pattern, in f64.
pub(super) fn wave(shape: &[usize], seed: u64) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let number = |i: u64| {
        let bits = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let bits = (bits ^ (bits >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (bits >> 11) as f64 * 2f64.powi(-52) - 1.0
    };
    Tensor::from_vec((0..n as u64).map(number).collect::<Vec<f64>>(), shape, &Device::Cpu)
}

pub(super) fn flat(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// A fixed linear function of a block's output, so that its gradient can be compared.
fn objective(y: &Tensor) -> Result<Tensor> {
    let weights = wave(y.dims(), 77)?.to_dtype(y.dtype())?;
    (y * weights)?.sum_all()
}

/// Checks the gradient of `f` at `x`, in f64, against central differences: every element within
/// `tolerance` relative to the largest.
pub(super) fn central_differences(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>, tolerance: f64) -> Result<()> {
    let variable = Var::from_tensor(x)?;
    let gradients = objective(&f(&variable)?)?.backward()?;
    let found = flat(gradients.get(&variable).expect("the block is differentiable"))?;
    let values = flat(x)?;
    let value = |i: usize, step: f64| -> Result<f64> {
        let mut moved = values.clone();
        moved[i] += step;
        objective(&f(&Tensor::from_vec(moved, x.shape(), x.device())?)?)?.to_scalar::<f64>()
    };
    let scale = found.iter().fold(1.0f64, |m, g| m.max(g.abs()));
    for (i, found) in found.iter().enumerate() {
        // Two steps, extrapolated: the error is of order h⁴ + epsilon/h, about 1e-11 here.
        let h = 1e-3;
        let slope = |h: f64| -> Result<f64> { Ok((value(i, h)? - value(i, -h)?) / (2.0 * h)) };
        let want = (4.0 * slope(h / 2.0)? - slope(h)?) / 3.0;
        assert!((found - want).abs() <= tolerance * scale, "[{i}]: gradient {found}, differences {want}");
    }
    Ok(())
}

/// Checks values and gradients of `fused` in f32 against `composed` in f64, within `tolerance` relative to
/// the largest of each.
pub(super) fn agree(
    inputs: &[&Tensor],
    fused: impl Fn(&[&Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[&Tensor]) -> Result<Tensor>,
    tolerance: f64,
) -> Result<()> {
    let run = |dtype: DType, f: &dyn Fn(&[&Tensor]) -> Result<Tensor>| -> Result<Vec<Vec<f64>>> {
        let variables = inputs
            .iter()
            // both sides see the same numbers
            .map(|x| Var::from_tensor(&x.to_dtype(DType::F32)?.to_dtype(dtype)?))
            .collect::<Result<Vec<_>>>()?;
        let y = f(&variables.iter().map(|x| x.as_tensor()).collect::<Vec<_>>())?;
        let gradients = objective(&y)?.backward()?;
        let mut all = vec![flat(&y)?];
        for x in &variables {
            all.push(flat(gradients.get(x).expect("the block is differentiable"))?);
        }
        Ok(all)
    };
    let (found, want) = (run(DType::F32, &fused)?, run(DType::F64, &composed)?);
    for (part, (found, want)) in found.iter().zip(&want).enumerate() {
        assert_eq!(found.len(), want.len());
        let scale = want.iter().fold(1e-3f64, |m, w| m.max(w.abs()));
        for (i, (found, want)) in found.iter().zip(want).enumerate() {
            // written so that NaN fails
            assert!((found - want).abs() <= tolerance * scale, "part {part} [{i}]: fused {found}, composed {want}");
        }
    }
    Ok(())
}

/// Directions of one check.
const DIRECTIONS: usize = 3;

/// An op's inputs, each moving along [`DIRECTIONS`].
fn moving(inputs: &[&Tensor], dtype: DType) -> Result<Vec<Traced>> {
    let of = |(k, x): (usize, &&Tensor)| {
        let mut shape = x.dims().to_vec();
        shape[0] *= DIRECTIONS;
        let tangents = wave(&shape, 31 + k as u64)?.to_dtype(DType::F32)?.to_dtype(dtype)?;
        Traced::constant(x.to_dtype(DType::F32)?.to_dtype(dtype)?).moving(Some(tangents))
    };
    inputs.iter().enumerate().map(of).collect()
}

/// Checks an op's tangents at `inputs` in f64 against central differences within `tolerance` relative to the largest,
/// and against the transpose of its backward pass, several gradients at once: `<u, J v> = <Jᵀ u, v>` to 1e-12.
pub(super) fn tangents(inputs: &[&Tensor], f: impl Fn(&[Traced]) -> Result<Traced>, tolerance: f64) -> Result<()> {
    let moving = moving(inputs, DType::F64)?;
    let output = f(&moving)?;
    let found = flat(output.tangents().expect("the inputs move"))?;
    let size = found.len() / DIRECTIONS;
    assert_eq!(size, output.value().elem_count());
    let along = |q: usize, step: f64| -> Result<Vec<f64>> {
        let moved = moving.iter().map(|x| {
            let rows = x.value().dim(0)?;
            let tangent = x.tangents().expect("an input moves").narrow(0, q * rows, rows)?;
            Ok(Traced::constant((x.value() + tangent.affine(step, 0.0)?)?))
        });
        flat(f(&moved.collect::<Result<Vec<_>>>()?)?.value())
    };
    let scale = found.iter().fold(1.0f64, |m, t| m.max(t.abs()));
    for q in 0..DIRECTIONS {
        // two steps, extrapolated: the error is of order h⁴ + epsilon/h
        let h = 1e-3;
        let points = [along(q, h)?, along(q, -h)?, along(q, h / 2.0)?, along(q, -h / 2.0)?];
        for i in 0..size {
            let [wide, narrow] = [(points[0][i] - points[1][i]) / (2.0 * h), (points[2][i] - points[3][i]) / h];
            let (want, found) = ((4.0 * narrow - wide) / 3.0, found[q * size + i]);
            assert!((found - want).abs() <= tolerance * scale, "[{q}, {i}]: tangent {found}, differences {want}");
        }
    }
    let mut shape = output.value().dims().to_vec();
    shape[0] *= DIRECTIONS;
    let u = wave(&shape, 91)?;
    let mut transposed = [0.0; DIRECTIONS];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (k, input) in moving.iter().enumerate() {
        let tape = Tape::default();
        let own = tape.input(input.value().clone(), Gradient::Wanted);
        let all = |(j, x): (usize, &Traced)| if j == k { own.clone() } else { Traced::constant(x.value().clone()) };
        let output = f(&moving.iter().enumerate().map(all).collect::<Vec<_>>())?;
        let back = flat(&tape.backward(&own, &output, u.clone())?.expect("wanted"))?;
        let v = flat(input.tangents().expect("an input moves"))?;
        let parts = back.chunks_exact(back.len() / DIRECTIONS).zip(v.chunks_exact(v.len() / DIRECTIONS));
        transposed.iter_mut().zip(parts).for_each(|(sum, (back, v))| *sum += dot(back, v));
    }
    for (q, (u, found)) in flat(&u)?.chunks_exact(size).zip(found.chunks_exact(size)).enumerate() {
        let (want, found) = (transposed[q], dot(u, found));
        let scale = dot(u, u).sqrt() * scale * (size as f64).sqrt();
        assert!((found - want).abs() <= 1e-12 * scale, "[{q}]: <u, J v> = {found}, <Jᵀ u, v> = {want}");
    }
    Ok(())
}

/// Checks tangents of `fused` in f32 against those of `composed` in f64, within `tolerance` relative to the largest.
pub(super) fn tangents_agree(
    inputs: &[&Tensor],
    fused: impl Fn(&[Traced]) -> Result<Traced>,
    composed: impl Fn(&[Traced]) -> Result<Traced>,
    tolerance: f64,
) -> Result<()> {
    let found = fused(&moving(inputs, DType::F32)?)?;
    let want = composed(&moving(inputs, DType::F64)?)?;
    let (found, want) = (found.tangents().expect("moving"), want.tangents().expect("moving"));
    assert_eq!((found.dims(), found.dtype()), (want.dims(), DType::F32));
    let (found, want) = (flat(found)?, flat(want)?);
    let scale = want.iter().fold(1e-3f64, |m, w| m.max(w.abs()));
    for (i, (found, want)) in found.iter().zip(&want).enumerate() {
        assert!((found - want).abs() <= tolerance * scale, "[{i}]: fused {found}, composed {want}");
    }
    Ok(())
}
