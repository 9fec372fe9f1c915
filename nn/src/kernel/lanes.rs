//! Sixteen numbers at a time: what kernels are written with, and what compilers turn into vector instructions.

use std::ops::{Add, Div, Mul, Sub};

/// Number of lanes.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32` that are computed with together.
///
/// Comparisons let NaN through: [`Lanes::at_least`] and [`Lanes::at_most`] of a NaN are NaN, so that a
/// broken number reaches the result, where it is noticed.
pub(crate) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Sixteen `f64` sums.
    type Wide: Copy;

    /// The same number in every lane.
    fn splat(x: f32) -> Self;
    /// Sixteen numbers.
    fn load(from: &[f32; LANES]) -> Self;
    /// Fewer than sixteen numbers; `fill` in the lanes after them.
    fn load_part(from: &[f32], fill: f32) -> Self;
    /// Writes all lanes.
    fn store(self, to: &mut [f32; LANES]);
    /// Writes the first `to.len()` lanes.
    fn store_part(self, to: &mut [f32]);
    /// `self · factor + term`; rounded once where the processor can.
    fn times_plus(self, factor: Self, term: Self) -> Self;
    /// `self`, but not below `bound`.
    fn at_least(self, bound: Self) -> Self;
    /// `self`, but not above `bound`.
    fn at_most(self, bound: Self) -> Self;
    /// `|self|`.
    fn abs(self) -> Self;
    /// `below` where `self < bound`, else `otherwise`.
    fn choose_below(self, bound: Self, below: Self, otherwise: Self) -> Self;
    /// Nearest integer, ties to even.
    fn round(self) -> Self;
    /// `self · 2^n` for an integral `n` in [-152, 130].
    fn times_power_of_two(self, n: Self) -> Self;
    /// Sum over the lanes.
    fn sum(self) -> f32;
    /// Largest lane.
    fn largest(self) -> f32;
    /// Sixteen zeros in f64.
    fn wide_zero() -> Self::Wide;
    /// Adds each lane to its f64 sum.
    fn add_to(self, wide: Self::Wide) -> Self::Wide;
    /// Sum of the f64 sums.
    fn wide_sum(wide: Self::Wide) -> f64;
}

/// Lanes in plain Rust, which the compiler may turn into whatever vectors the target has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn map(mut self, f: impl Fn(f32) -> f32) -> Self {
        for x in &mut self.0 {
            *x = f(*x);
        }
        self
    }

    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        for l in 0..LANES {
            self.0[l] = f(self.0[l], other.0[l]);
        }
        self
    }
}

impl Add for Plain {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |x, y| x + y)
    }
}

impl Sub for Plain {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |x, y| x - y)
    }
}

impl Mul for Plain {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |x, y| x * y)
    }
}

impl Div for Plain {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |x, y| x / y)
    }
}

impl Lanes for Plain {
    type Wide = [f64; LANES];

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn load_part(from: &[f32], fill: f32) -> Self {
        let mut lanes = [fill; LANES];
        lanes[..from.len()].copy_from_slice(from);
        Self(lanes)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        to.copy_from_slice(&self.0[..to.len()]);
    }

    #[inline(always)]
    fn times_plus(mut self, factor: Self, term: Self) -> Self {
        for l in 0..LANES {
            // Not `mul_add`: without the instruction that is a slow call.
            self.0[l] = self.0[l] * factor.0[l] + term.0[l];
        }
        self
    }

    #[inline(always)]
    fn at_least(self, bound: Self) -> Self {
        self.zip(bound, |x, bound| if x < bound { bound } else { x })
    }

    #[inline(always)]
    fn at_most(self, bound: Self) -> Self {
        self.zip(bound, |x, bound| if x > bound { bound } else { x })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    fn choose_below(mut self, bound: Self, below: Self, otherwise: Self) -> Self {
        for l in 0..LANES {
            self.0[l] = if self.0[l] < bound.0[l] { below.0[l] } else { otherwise.0[l] };
        }
        self
    }

    #[inline(always)]
    fn round(self) -> Self {
        // Adding 1.5 · 2^23 leaves no bits for a fraction. Right for |x| < 2^22, ties to even; unlike
        // `round_ties_even` it needs no instruction beyond SSE2.
        const SHIFT: f32 = 12_582_912.0;
        self.map(|x| (x + SHIFT) - SHIFT)
    }

    #[inline(always)]
    fn times_power_of_two(self, n: Self) -> Self {
        // Two factors, because 2^n alone may be below or above the normal numbers.
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        self.zip(n, |x, n| {
            let n = n as i32;
            let half = n >> 1;
            x * power(half) * power(n - half)
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self.0;
        for width in [8, 4, 2, 1] {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
        }
        lanes[0]
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn wide_zero() -> Self::Wide {
        [0.0; LANES]
    }

    #[inline(always)]
    fn add_to(self, mut wide: Self::Wide) -> Self::Wide {
        for l in 0..LANES {
            wide[l] += f64::from(self.0[l]);
        }
        wide
    }

    #[inline(always)]
    fn wide_sum(mut wide: Self::Wide) -> f64 {
        for width in [8, 4, 2, 1] {
            for l in 0..width {
                wide[l] += wide[l + width];
            }
        }
        wide[0]
    }
}
