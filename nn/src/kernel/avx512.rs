//! [`Lanes`] in AVX-512 registers.
#![allow(unsafe_code)] // instructions that the processor must have: see `vectorised!`

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{LANES, Lanes};

/// Sixteen `f32` in one register.
///
/// The type is only named by functions that `vectorised!` compiles with AVX-512 F and DQ and calls after
/// asking the processor (and by tests that ask it first). That is the reason why each block below is sound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// Bits of the first `n` lanes, `n < 16`.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n < LANES);
    (1u16 << n) - 1
}

macro_rules! operator {
    ($trait:ident, $method:ident, $instruction:ident) => {
        impl $trait for Avx512 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: see the type.
                Self(unsafe { $instruction(self.0, other.0) })
            }
        }
    };
}
operator!(Add, add, _mm512_add_ps);
operator!(Sub, sub, _mm512_sub_ps);
operator!(Mul, mul, _mm512_mul_ps);
operator!(Div, div, _mm512_div_ps);

impl Lanes for Avx512 {
    type Wide = (__m512d, __m512d);

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: see the type; `from` is sixteen readable numbers, and the load needs no alignment.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn load_part(from: &[f32], fill: f32) -> Self {
        // SAFETY: see the type; only the lanes of the mask are read, and those lie in `from`.
        Self(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(from.len()), from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: see the type; `to` is sixteen writable numbers, and the store needs no alignment.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        // SAFETY: see the type; only the lanes of the mask are written, and those lie in `to`.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), self.0) }
    }

    #[inline(always)]
    fn times_plus(self, factor: Self, term: Self) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn at_least(self, bound: Self) -> Self {
        // The instruction returns its second operand if one is NaN.
        // SAFETY: see the type.
        Self(unsafe { _mm512_max_ps(bound.0, self.0) })
    }

    #[inline(always)]
    fn at_most(self, bound: Self) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_min_ps(bound.0, self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn choose_below(self, bound: Self, below: Self, otherwise: Self) -> Self {
        // SAFETY: see the type.
        Self(unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0);
            _mm512_mask_blend_ps(mask, otherwise.0, below.0)
        })
    }

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: see the type. 0 = no fraction bits, nearest even.
        Self(unsafe { _mm512_roundscale_ps::<0>(self.0) })
    }

    #[inline(always)]
    fn times_power_of_two(self, n: Self) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see the type.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: see the type.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn wide_zero() -> Self::Wide {
        // SAFETY: see the type.
        unsafe { (_mm512_setzero_pd(), _mm512_setzero_pd()) }
    }

    #[inline(always)]
    fn add_to(self, (low, high): Self::Wide) -> Self::Wide {
        // SAFETY: see the type.
        unsafe {
            let (a, b) = (_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            (_mm512_add_pd(low, _mm512_cvtps_pd(a)), _mm512_add_pd(high, _mm512_cvtps_pd(b)))
        }
    }

    #[inline(always)]
    fn wide_sum((low, high): Self::Wide) -> f64 {
        // SAFETY: see the type.
        unsafe { _mm512_reduce_add_pd(_mm512_add_pd(low, high)) }
    }
}
