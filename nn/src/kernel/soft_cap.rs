//! The soft cap of scores and logits, `c · tanh(x / c)`, and its slopes, one row at a time.

use super::elementary::{exp, tanh};
use super::lanes::{LANES, Lanes};
use super::vectorised::vectorised;

vectorised!(
    /// `row ← cap · tanh(factor · row / cap)`.
    pub(crate) fn soft_cap(row: &mut [f32], factor: f32, cap: f32) = soft_cap_lanes
);

#[inline(always)]
fn soft_cap_lanes<V: Lanes>(row: &mut [f32], factor: f32, cap: f32) {
    let (rate, cap) = (V::splat(factor / cap), V::splat(cap));
    let (chunks, tail) = row.as_chunks_mut::<LANES>();
    for x in chunks {
        (tanh(V::load(x) * rate) * cap).store(x);
    }
    (tanh(V::load_part(tail, 0.0) * rate) * cap).store_part(tail);
}

vectorised!(
    /// [`soft_cap`], and its derivative with respect to the row as it was, `factor · (1 - tanh²)`.
    pub(crate) fn soft_cap_and_slopes(row: &mut [f32], slopes: &mut [f32], factor: f32, cap: f32)
        = soft_cap_and_slopes_lanes
);

#[inline(always)]
fn soft_cap_and_slopes_lanes<V: Lanes>(row: &mut [f32], slopes: &mut [f32], factor: f32, cap: f32) {
    assert_eq!(row.len(), slopes.len(), "a slope for each number");
    let (rate, cap) = (V::splat(factor / cap), V::splat(cap));
    let (one, four) = (V::splat(1.0), V::splat(4.0 * factor));
    // 1 - tanh² = 4 e / (1 + e)² with e = e^{-2|x|}, which does not cancel where tanh is near 1
    let slope = |u: V| {
        let e = exp(V::splat(-2.0) * u.abs());
        let r = one / (one + e);
        four * e * r * r
    };
    let (x, x_tail) = row.as_chunks_mut::<LANES>();
    let (s, s_tail) = slopes.as_chunks_mut::<LANES>();
    for (x, s) in x.iter_mut().zip(s) {
        let u = V::load(x) * rate;
        (tanh(u) * cap).store(x);
        slope(u).store(s);
    }
    let u = V::load_part(x_tail, 0.0) * rate;
    (tanh(u) * cap).store_part(x_tail);
    slope(u).store_part(s_tail);
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Plain;
    use super::*;

    #[test]
    fn soft_caps_and_their_slopes_agree_with_f64() {
        type Slopes = fn(&mut [f32], &mut [f32], f32, f32);
        type Cap = fn(&mut [f32], f32, f32);
        let kernels: [(Cap, Slopes); 2] =
            [(soft_cap, soft_cap_and_slopes), (soft_cap_lanes::<Plain>, soft_cap_and_slopes_lanes::<Plain>)];
        for n in [1, 7, 16, 33, 70] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 101) as f32 * 0.6 - 30.0).collect();
            for (factor, cap) in [(1.0f32, 2.5f32), (0.37, 30.0), (-0.2, 4.0)] {
                for (value, with_slopes) in kernels {
                    let (mut a, mut b, mut s) = (x.clone(), x.clone(), vec![f32::NAN; n]);
                    value(&mut a, factor, cap);
                    with_slopes(&mut b, &mut s, factor, cap);
                    assert_eq!(a, b);
                    for i in 0..n {
                        let (f, c, x) = (f64::from(factor), f64::from(cap), f64::from(x[i]));
                        let u = f * x / c;
                        let want = c * u.tanh();
                        // the argument is rounded twice, to 1.2e-7 of itself
                        assert!((f64::from(a[i]) - want).abs() < 1e-6 * want.abs() + 1e-9, "[{i}] of {n}");
                        let want = f / u.cosh().powi(2);
                        let error = (f64::from(s[i]) - want).abs();
                        assert!(error < (1e-6 + 4e-7 * u.abs()) * want.abs() + 1e-30, "[{i}] of {n}: {} {want}", s[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_broken_number_is_not_lost() {
        let (mut row, mut slopes) = ([1.0, f32::NAN, f32::INFINITY], [0.0; 3]);
        soft_cap_and_slopes(&mut row, &mut slopes, 1.0, 30.0);
        assert!(row[1].is_nan() && slopes[1].is_nan());
        assert_eq!((row[2], slopes[2]), (30.0, 0.0));
    }
}
