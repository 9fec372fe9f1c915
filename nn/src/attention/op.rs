//! Attention as candle ops: buffers in and out of the fused kernel.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};

use super::super::kernel::Columns;
use super::context::Context;
use super::fused::{self, Inputs, Part, PartMut};
use super::shape::{Attention, Packing};
use crate::implementation::elements;
use ascribe_curvature::with_slice;

impl Context {
    /// Columns of all query heads, and of all key-value heads.
    fn widths(&self) -> (usize, usize) {
        let Attention { heads, kv_heads, head_dimension, .. } = self.attention;
        (heads * head_dimension, kv_heads * head_dimension)
    }

    /// All columns of a matrix, one head beside the other.
    fn whole<'a>(&self, data: &'a [f32], stride: usize) -> Part<'a> {
        Part { data, offset: 0, stride, pitch: self.attention.head_dimension }
    }

    /// All columns of a matrix that is written to, one head beside the other.
    fn whole_mut<'a>(&self, data: &'a mut [f32], stride: usize) -> PartMut<'a> {
        PartMut { columns: Columns::new(data, stride), offset: 0, pitch: self.attention.head_dimension }
    }

    fn forward(&self, [q, k, v]: [Part<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = (self.queries.rows(), self.widths().0);
        let mut output = vec![0.0; rows * width];
        let to = self.whole_mut(&mut output, width);
        self.with_bias(|bias| fused::forward(self, Inputs { q, k, v, bias }, to))?;
        Ok((CpuStorage::F32(output), (rows, width).into()))
    }
}

/// `q`, `k`, `v` in three tensors.
pub(super) struct Separate(pub(super) Context);

impl CustomOp3 for Separate {
    fn name(&self) -> &'static str {
        "attention"
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
        let (wide, narrow) = self.0.widths();
        let q = self.0.whole(elements(q, q_layout)?, wide);
        let k = self.0.whole(elements(k, k_layout)?, narrow);
        let v = self.0.whole(elements(v, v_layout)?, narrow);
        self.0.forward([q, k, v])
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (wide, narrow) = self.0.widths();
        let gradient = gradient.contiguous()?;
        let mut dq = vec![0.0; q.elem_count()];
        let mut dk = vec![0.0; k.elem_count()];
        let mut dv = vec![0.0; v.elem_count()];
        with_slice(q, |q: &[f32]| {
            with_slice(k, |k: &[f32]| {
                with_slice(v, |v: &[f32]| {
                    with_slice(&gradient, |gradient: &[f32]| {
                        let context = &self.0;
                        let part = |data, stride| context.whole(data, stride);
                        let [q, k, v] = [part(q, wide), part(k, narrow), part(v, narrow)];
                        let dk = context.whole_mut(&mut dk, narrow);
                        let gradients = [context.whole_mut(&mut dq, wide), dk, context.whole_mut(&mut dv, narrow)];
                        context.with_bias(|bias| {
                            fused::backward(context, Inputs { q, k, v, bias }, part(gradient, wide), gradients);
                        })
                    })
                })
            })
        })?????;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device()).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}

/// `q`, `k`, `v` side by side in one tensor.
pub(super) struct Packed(pub(super) Context, pub(super) Packing);

impl Packed {
    /// Where the first query, key and value stand in a row, and how far one head's are from the next one's.
    fn places(&self) -> ([usize; 3], usize) {
        let ((wide, narrow), d) = (self.0.widths(), self.0.attention.head_dimension);
        match self.1 {
            Packing::ByKind => ([0, wide, wide + narrow], d),
            Packing::ByHead => ([0, d, 2 * d], 3 * d),
        }
    }

    fn inputs<'a>(&self, data: &'a [f32]) -> [Part<'a>; 3] {
        let ((wide, narrow), (offsets, pitch)) = (self.0.widths(), self.places());
        offsets.map(|offset| Part { data, offset, stride: wide + 2 * narrow, pitch })
    }
}

impl CustomOp1 for Packed {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.forward(self.inputs(elements(qkv, layout)?))
    }

    fn bwd(&self, qkv: &Tensor, _output: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (wide, narrow) = self.0.widths();
        let gradient = gradient.contiguous()?;
        let mut d = vec![0.0; qkv.elem_count()];
        with_slice(qkv, |qkv: &[f32]| {
            with_slice(&gradient, |gradient: &[f32]| {
                let columns = Columns::new(&mut d, wide + 2 * narrow);
                let (offsets, pitch) = self.places();
                let gradients = offsets.map(|offset| PartMut { columns, offset, pitch });
                let gradient = self.0.whole(gradient, wide);
                let [q, k, v] = self.inputs(qkv);
                self.0.with_bias(|bias| fused::backward(&self.0, Inputs { q, k, v, bias }, gradient, gradients))
            })
        })???;
        Tensor::from_vec(d, qkv.shape(), qkv.device()).map(Some)
    }
}
