//! Starts a backward pass with a given gradient at a tensor, as every section and tape does.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

/// A scalar whose gradient at `output` is `gradient`.
///
/// # Errors
/// If the two do not have one shape.
pub(crate) fn seeded(output: &Tensor, gradient: Tensor) -> candle_core::Result<Tensor> {
    if output.device().is_cpu() {
        output.contiguous()?.apply_op1(Seed(gradient))
    } else {
        (output * gradient)?.sum_all()
    }
}

/// Starts a backward pass with a given gradient, without the product and sum that would otherwise
/// be needed to turn it into a scalar objective.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed-gradient"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let zero = match storage.dtype() {
            candle_core::DType::F64 => CpuStorage::F64(vec![0.0]),
            _ => CpuStorage::F32(vec![0.0]),
        };
        Ok((zero, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
