//! The choice of instructions when the program runs, and the macro that compiles a kernel for each of them.

/// Instruction sets that kernels are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// [`Plain`](super::lanes::Plain) lanes with the instructions every processor of the target has.
    Plain,
    /// [`Plain`](super::lanes::Plain) lanes that the compiler turns into AVX2 instructions.
    Avx2,
    /// [`Avx512`](super::avx512::Avx512) lanes.
    Avx512,
}

#[cfg(target_arch = "x86_64")]
impl Level {
    /// The best one that this processor has.
    #[inline]
    pub(crate) fn here() -> Self {
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
                use $crate::kernel::avx512::Avx512;

                #[target_feature(enable = "avx512f,avx512dq")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    $body::<Avx512>($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    $body::<$crate::kernel::lanes::Plain>($($argument),*)
                }
                match $crate::kernel::vectorised::Level::here() {
                    // SAFETY: `Level::here` has found these instructions on this processor.
                    $crate::kernel::vectorised::Level::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: `Level::here` has found AVX2 on this processor.
                    $crate::kernel::vectorised::Level::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::kernel::vectorised::Level::Plain => {}
                }
            }
            $body::<$crate::kernel::lanes::Plain>($($argument),*)
        }
    };
}
pub(crate) use vectorised;
