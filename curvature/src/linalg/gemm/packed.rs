//! A right side that many products share, in the order in which the kernels read it.

use super::{Into, Real, Threads, View, ViewMut, avx512, multiply};

/// The panels of one right side after another, each packed once and multiplied often: packing is a tenth of a product
/// with few rows.
///
/// Where products are not computed here there is nothing to keep: the view alone serves.
#[derive(Debug, Default)]
pub struct Packed(avx512::Panels);

impl Packed {
    /// Packs `b` in the arithmetic that it says, in the place of what was packed before. If its numbers change, it has to
    /// be packed again.
    pub fn pack<T: Real>(&mut self, b: View<'_, T>) {
        if let Some(b) = T::single(b).filter(|b| avx512::runs(b.products)) {
            // SAFETY: the processor was asked.
            unsafe { self.0.pack(b) };
        }
    }
}

/// [`matmul`](super::matmul) with what was packed of `b`: the same numbers. Panels of something else are not used.
///
/// # Shapes
/// `a: [m, k]`, `b: [k, n]`, `c: [m, n]`.
/// # Panics
/// If the shapes do not fit.
pub fn matmul_packed<T: Real>(
    c: ViewMut<'_, T>,
    into: Into,
    factor: T,
    a: View<'_, T>,
    b: View<'_, T>,
    packed: &Packed,
    threads: Threads,
) {
    multiply(c, into, factor, a, b, Some(&packed.0), threads);
}
