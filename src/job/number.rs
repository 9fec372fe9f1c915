//! The number types that a job computes in, `f32` and `f64`, and the one place that chooses between them.

use crate::attribution::store::Element;
use crate::curvature::gemm::Real;

/// Types that a run can compute in and store.
pub(in crate::job) trait Number: Real + Element {}
impl Number for f32 {}
impl Number for f64 {}

/// Evaluates an expression in which a name is the type that a [`Precision`](crate::job::request::Precision) computes
/// in: `with_number!(precision, T => run.fit::<T>())`.
macro_rules! with_number {
    ($precision:expr, $number:ident => $work:expr) => {
        match $precision {
            // the products of bf16 are rounded; sums and files are f32
            crate::job::request::Precision::F32 | crate::job::request::Precision::Bf16 => {
                type $number = f32;
                $work
            }
            crate::job::request::Precision::F64 => {
                type $number = f64;
                $work
            }
        }
    };
}
pub(in crate::job) use with_number;
