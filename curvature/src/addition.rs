//! Sums of tensors, without candle's threads, which wait for each other in a loop.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::fresh;
use crate::gemm::Real;

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
    crate::linear::contiguous(storage, layout)
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
