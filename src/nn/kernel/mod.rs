//! What the fused blocks are written with: sixteen `f32` lanes at a time ([`Lanes`]), once in AVX-512
//! instructions and once in plain Rust, and the choice between them when the program runs.
//!
//! A kernel is one safe generic function over [`Lanes`]. Its instance for [`Plain`] is what the
//! instance for AVX-512 is tested against; both are tested against definitions in `f64`.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod elementary;
mod lanes;
mod soft_cap;
mod softmax;
mod workspace;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use elementary::{gaussian_tail, sigmoid, sigmoid_and_rest, tanh};
pub(super) use lanes::{LANES, Lanes, Plain};
pub(super) use soft_cap::{multiply, soft_cap, soft_cap_and_slopes};
pub(super) use softmax::{exponentials, largest, scale, select, softmax, softmax_backward};
pub(super) use workspace::{Columns, with_workspace};

/// Elements that one task of an elementwise or row kernel takes: enough to hide the task's cost, little
/// enough to stay in the second-level cache.
pub(super) const TASK: usize = 1 << 14;

/// Instruction sets that kernels are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// [`Plain`] lanes with the instructions every processor of the target has.
    Plain,
    /// [`Plain`] lanes that the compiler turns into AVX2 instructions.
    Avx2,
    /// [`Avx512`] lanes.
    Avx512,
}

#[cfg(target_arch = "x86_64")]
impl Level {
    /// The best one that this processor has.
    #[inline]
    pub(super) fn here() -> Self {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") {
            Self::Avx2
        } else {
            Self::Plain
        }
    }
}

/// Declares a function that runs the generic kernel `$body` with the best lanes of this processor.
///
/// `$body` and everything it calls must be `#[inline(always)]`: only then is it compiled with the
/// instructions of the function it ends up in.
macro_rules! vectorised {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(unsafe_code)] // calls of functions that need instructions beyond the target's
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::nn::kernel::Avx512;

                #[target_feature(enable = "avx512f,avx512dq")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    $body::<Avx512>($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    $body::<$crate::nn::kernel::Plain>($($argument),*)
                }
                match $crate::nn::kernel::Level::here() {
                    // SAFETY: `Level::here` has found these instructions on this processor.
                    $crate::nn::kernel::Level::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: the same.
                    $crate::nn::kernel::Level::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::nn::kernel::Level::Plain => {}
                }
            }
            $body::<$crate::nn::kernel::Plain>($($argument),*)
        }
    };
}
pub(super) use vectorised;
