//! Disentangled attention as an op of candle's: buffers in and out of the kernel.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

use super::kernel::Number;
use super::rows::RelativeRows;
use super::shape::DisentangledAttention;
use crate::implementation::elements;
use ascribe_curvature::with_slice;

/// Attention with the backward pass of its own, on the CPU.
pub(super) struct Op {
    pub(super) attention: DisentangledAttention,
    pub(super) rows: Arc<RelativeRows>,
}

impl Op {
    fn gradients<T: Number>(&self, [q, k, v]: [&Tensor; 3], gradient: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let gradient = gradient.contiguous()?;
        let found = with_slice(q, |own_q: &[T]| {
            with_slice(k, |own_k: &[T]| {
                with_slice(v, |own_v: &[T]| {
                    with_slice(&gradient, |s: &[T]| self.attention.backward(&self.rows, [own_q, own_k, own_v], s))
                })
            })
        })????;
        let [dq, dk, dv] = found;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device()).map(Some);
        Ok([tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?])
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "disentangled-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let output = match q {
            CpuStorage::F64(_) => {
                let inputs = [elements(q, q_layout)?, elements(k, k_layout)?, elements(v, v_layout)?];
                CpuStorage::F64(self.attention.forward::<f64>(&self.rows, inputs))
            }
            _ => {
                let inputs = [elements(q, q_layout)?, elements(k, k_layout)?, elements(v, v_layout)?];
                CpuStorage::F32(self.attention.forward::<f32>(&self.rows, inputs))
            }
        };
        Ok((output, v_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [q, k, v] = match q.dtype() {
            DType::F64 => self.gradients::<f64>([q, k, v], gradient)?,
            _ => self.gradients::<f32>([q, k, v], gradient)?,
        };
        Ok((q, k, v))
    }
}
