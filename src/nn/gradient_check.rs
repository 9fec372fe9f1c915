//! What the tests of every block share: numbers, central differences, and the comparison of the fused
//! block in f32 with the composed one in f64.

use candle_core::{DType, Device, Result, Tensor, Var};

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
