//! Sums of tensors, without candle's threads, which wait for each other in a loop.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::linalg::fresh::fresh;
use crate::linalg::gemm::Real;
use crate::network::slices::with_slice;

/// Elements that one task adds.
const TASK: usize = 1 << 14;

/// Whether [`Add`] can add to this tensor.
pub(crate) fn fits(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// Sums of contiguous tensors of one shape, on rayon's threads as everything here.
#[derive(Debug)]
pub(crate) struct Add;

fn slice<'a, T: candle_core::WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    crate::network::slices::contiguous(storage, layout)
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        fn sum<T: Real>(a: &[T], b: &[T]) -> Vec<T> {
            fresh(a.len(), TASK, |first, y| {
                let inputs = a[first..][..y.len()].iter().zip(&b[first..]);
                y.iter_mut().zip(inputs).for_each(|(y, (a, b))| *y = *a + *b);
            })
        }
        let y = match a.dtype() {
            DType::F64 => CpuStorage::F64(sum(slice::<f64>(a, la)?, slice(b, lb)?)),
            _ => CpuStorage::F32(sum(slice::<f32>(a, la)?, slice(b, lb)?)),
        };
        Ok((y, la.shape().clone()))
    }
}

/// `y + z ∘ factors`, the factors one for each column.
///
/// # Shapes
/// `y`, `z`: `[R, O]`; `factors`: `[O]`.
/// # Errors
/// If shapes, types or devices do not fit.
pub(crate) fn scaled_sum(y: &Tensor, z: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let own = y.dims() == z.dims() && y.dtype() == z.dtype() && fits(y) && fits(z);
    if own {
        y.contiguous()?.apply_op2_no_bwd(&z.contiguous()?, &AddScaled(factors.clone()))
    } else {
        y + z.broadcast_mul(factors)?
    }
}

/// `z ∘ factors`, the factors one for each column.
///
/// # Shapes
/// `z`: `[R, O]`; `factors`: `[O]`.
/// # Errors
/// If shapes, types or devices do not fit.
pub(crate) fn scaled_columns(z: &Tensor, factors: &Tensor) -> Result<Tensor> {
    if fits(z) { z.contiguous()?.apply_op1_no_bwd(&ScaleColumns(factors.clone())) } else { z.broadcast_mul(factors) }
}

/// [`scaled_sum`] on the CPU.
struct AddScaled(Tensor);

impl CustomOp2 for AddScaled {
    fn name(&self) -> &'static str {
        "scaled-sum"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, z: &CpuStorage, lz: &Layout) -> Result<(CpuStorage, Shape)> {
        fn sum<T: Real>(y: &[T], z: &[T], factors: &[T]) -> Vec<T> {
            by_rows(y.len(), factors, |at, k| y[at] + z[at] * factors[k])
        }
        let sum = match y.dtype() {
            DType::F64 => {
                let (y, z) = (slice::<f64>(y, ly)?, slice(z, lz)?);
                CpuStorage::F64(with_slice(&self.0, |factors| sum(y, z, factors))?)
            }
            _ => {
                let (y, z) = (slice::<f32>(y, ly)?, slice(z, lz)?);
                CpuStorage::F32(with_slice(&self.0, |factors| sum(y, z, factors))?)
            }
        };
        Ok((sum, ly.shape().clone()))
    }
}

/// [`scaled_columns`] on the CPU.
struct ScaleColumns(Tensor);

impl CustomOp1 for ScaleColumns {
    fn name(&self) -> &'static str {
        "scaled-columns"
    }

    fn cpu_fwd(&self, z: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn product<T: Real>(z: &[T], factors: &[T]) -> Vec<T> {
            by_rows(z.len(), factors, |at, k| z[at] * factors[k])
        }
        let product = match z.dtype() {
            DType::F64 => {
                let z = slice::<f64>(z, layout)?;
                CpuStorage::F64(with_slice(&self.0, |factors| product(z, factors))?)
            }
            _ => {
                let z = slice::<f32>(z, layout)?;
                CpuStorage::F32(with_slice(&self.0, |factors| product(z, factors))?)
            }
        };
        Ok((product, layout.shape().clone()))
    }
}

/// A matrix of `length` numbers whose element `at`, in column `k`, is `f(at, k)`; it has as many columns as `columns`.
fn by_rows<T: Real>(length: usize, columns: &[T], f: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
    let width = columns.len().max(1);
    fresh(length, TASK, |first, y| {
        let mut k = first % width;
        for (at, y) in y.iter_mut().enumerate() {
            *y = f(first + at, k);
            k = if k + 1 == width { 0 } else { k + 1 };
        }
    })
}

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, a: &mut CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<()> {
        let Some((start, end)) = la.contiguous_offsets() else {
            candle_core::bail!("expected a contiguous tensor, found strides {:?}", la.stride())
        };
        match a {
            CpuStorage::F32(a) => add(&mut a[start..end], slice::<f32>(b, lb)?),
            CpuStorage::F64(a) => add(&mut a[start..end], slice::<f64>(b, lb)?),
            other => candle_core::bail!("expected f32 or f64, found {:?}", other.dtype()),
        }
        Ok(())
    }
}

fn add<T: Real>(y: &mut [T], x: &[T]) {
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += *x);
    });
}
