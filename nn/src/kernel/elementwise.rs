//! Sums and products of two rows.

use super::lanes::{LANES, Lanes};
use super::vectorised::vectorised;

vectorised!(
    /// `row ← row ⊙ factors`.
    pub(crate) fn multiply(row: &mut [f32], factors: &[f32]) = multiply_lanes
);

#[inline(always)]
fn multiply_lanes<V: Lanes>(row: &mut [f32], factors: &[f32]) {
    each(row, factors, |x: V, factor| x * factor);
}

vectorised!(
    /// `row ← row + terms`.
    pub(crate) fn add(row: &mut [f32], terms: &[f32]) = add_lanes
);

#[inline(always)]
fn add_lanes<V: Lanes>(row: &mut [f32], terms: &[f32]) {
    each(row, terms, |x: V, term| x + term);
}

/// Replaces each number of a row by what `f` makes of it and of the other row's.
#[inline(always)]
fn each<V: Lanes>(row: &mut [f32], other: &[f32], f: impl Fn(V, V) -> V) {
    assert_eq!(row.len(), other.len(), "rows of one length");
    let (x, x_tail) = row.as_chunks_mut::<LANES>();
    let (y, y_tail) = other.as_chunks::<LANES>();
    for (x, y) in x.iter_mut().zip(y) {
        f(V::load(x), V::load(y)).store(x);
    }
    f(V::load_part(x_tail, 0.0), V::load_part(y_tail, 0.0)).store_part(x_tail);
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Plain;
    use super::*;

    #[test]
    fn sums_and_products_are_those_of_each_number() {
        type Kernel = fn(&mut [f32], &[f32]);
        let kernels: [[Kernel; 2]; 2] = [[add, multiply], [add_lanes::<Plain>, multiply_lanes::<Plain>]];
        for n in [0, 1, 7, 16, 33, 70] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 101) as f32 * 0.6 - 30.0).collect();
            let y: Vec<f32> = (0..n).map(|i| ((i * 53 + 7) % 89) as f32 * 0.3 - 11.0).collect();
            for [sum, product] in kernels {
                let (mut a, mut b) = (x.clone(), x.clone());
                sum(&mut a, &y);
                product(&mut b, &y);
                for i in 0..n {
                    assert_eq!((a[i], b[i]), (x[i] + y[i], x[i] * y[i]));
                }
            }
        }
    }
}
