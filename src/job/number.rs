//! The number types that a job computes in: `f32` and `f64`.

use crate::attribution::store::Element;
use crate::curvature::gemm::Real;

/// Types that a run can compute in and store.
pub(in crate::job) trait Number: Real + Element {}
impl Number for f32 {}
impl Number for f64 {}
