//! Elementary functions of sixteen lanes.

use super::lanes::Lanes;

/// `x ↦ Σ coefficients[i] · x^(n-1-i)`.
#[inline(always)]
fn polynomial<V: Lanes, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut y = V::splat(coefficients[0]);
    for i in 1..N {
        y = y.times_plus(x, V::splat(coefficients[i]));
    }
    y
}

/// `eˣ`, within 2 units in the last place; 0 below -104, infinity above 88.72, NaN of NaN.
///
/// # Source
/// Range reduction and polynomial of Cephes `expf` (Moshier): `eˣ = 2ⁿ eʳ`, `|r| ≤ ln 2 / 2`.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    let x = x.at_least(V::splat(-105.0)).at_most(V::splat(89.0));
    let n = (x * V::splat(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts, the first with few enough bits that n times it is exact
    let r = n.times_plus(V::splat(-0.693_359_4), x);
    let r = n.times_plus(V::splat(2.121_944_4e-4), r);
    let p = polynomial(r, [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let p = p.times_plus(r * r, r) + V::splat(1.0);
    p.times_power_of_two(n)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<V: Lanes>(x: V) -> V {
    let one = V::splat(1.0);
    one / (one + exp(V::splat(0.0) - x))
}

/// `(1 / (1 + e⁻ˣ), 1 / (1 + eˣ))`: the sigmoid and what it lacks to 1, neither with cancellation. The
/// first stays above 1e-35.
#[inline(always)]
pub(crate) fn sigmoid_and_rest<V: Lanes>(x: V) -> (V, V) {
    let one = V::splat(1.0);
    let e = exp((V::splat(0.0) - x).at_most(V::splat(80.0)));
    let s = one / (one + e);
    (s, e * s)
}

/// Hyperbolic tangent, within 2e-7 relative error.
///
/// # Source
/// Cephes `tanhf`: a polynomial for `|x| < 0.625`, where `1 - 2/(e²ˣ + 1)` would cancel.
#[inline(always)]
pub(crate) fn tanh<V: Lanes>(x: V) -> V {
    let (one, two, zero) = (V::splat(1.0), V::splat(2.0), V::splat(0.0));
    let z = x * x;
    let p = polynomial(z, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
    let near = p.times_plus(z * x, x);
    let a = x.abs();
    let magnitude = one - two / (exp(a + a) + one);
    let far = x.choose_below(zero, zero - magnitude, magnitude);
    a.choose_below(V::splat(0.625), near, far)
}

/// `(Q(|x|), e^{-x²/2})`: the upper tail of the normal distribution, and its unnormalised density. The
/// tail is within 3e-8 of `Q` relative to 1 and within 2e-6 relative to itself for `|x| < 6`.
///
/// # Source
/// `Q(x) = e^{-x²/2} t P(t)`, `t = 1/(1 + 0.3 x)`: the form of Abramowitz and Stegun 26.2.17 with a
/// polynomial of degree 8 in place of 4, fitted to `½ erfcx(x/√2)` on [0, 14] for the least relative
/// error (3e-9 before the coefficients were rounded).
#[inline(always)]
pub(crate) fn gaussian_tail<V: Lanes>(x: V) -> (V, V) {
    let one = V::splat(1.0);
    let a = x.abs().at_most(V::splat(15.0)); // beyond, the density is 0 in f32
    let t = one / a.times_plus(V::splat(0.3), one);
    let p = polynomial(
        t,
        [
            -0.020_612_825,
            0.112_375_76,
            -0.228_067_47,
            0.191_581_65,
            -0.079_247_3,
            0.096_057_82,
            0.078_425_586,
            0.110_227_324,
            0.119_572_84,
            0.119_686_63,
        ],
    );
    let density = exp(a * a * V::splat(-0.5));
    (density * t * p, density)
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{LANES, Plain};
    use super::super::vectorised;
    use super::*;

    #[inline(always)]
    fn all<V: Lanes>(x: &[f32], y: &mut [[f32; 5]]) {
        for (x, y) in x.chunks(LANES).zip(y.chunks_mut(LANES)) {
            let v = if let Ok(x) = x.try_into() { V::load(x) } else { V::load_part(x, 0.0) };
            let (tail, density) = gaussian_tail(v);
            for (f, value) in [exp(v), sigmoid(v), tanh(v), tail, density].into_iter().enumerate() {
                let mut lanes = [0.0; LANES];
                value.store(&mut lanes);
                for (y, value) in y.iter_mut().zip(lanes) {
                    y[f] = value;
                }
            }
        }
    }
    vectorised!(fn best(x: &[f32], y: &mut [[f32; 5]]) = all);

    /// `Q(x)` by integrating the density with Simpson's rule from x to x + 12.
    fn tail(x: f64) -> f64 {
        let (n, width) = (4000, 12.0);
        let h = width / f64::from(n);
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let inner: f64 = (1..n).map(|i| density(x + h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (density(x) + inner + density(x + width)) * h / 3.0
    }

    #[test]
    fn functions_agree_with_f64() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 - 500.0) * 0.021).collect();
        for kernel in [best, all::<Plain>] {
            let mut y = vec![[0.0f32; 5]; x.len()];
            kernel(&x, &mut y);
            for (&x, y) in x.iter().zip(&y) {
                let w = f64::from(x);
                let near = |found: f32, want: f64, relative: f64, absolute: f64| {
                    assert!(
                        (f64::from(found) - want).abs() <= relative * want.abs() + absolute,
                        "f({x}) = {found}, {want}"
                    );
                };
                // epsilon of f32 is 1.2e-7, and eˣ amplifies the rounding of r by nothing: 2 units
                near(y[0], w.exp(), 2.4e-7, 0.0);
                near(y[1], 1.0 / (1.0 + (-w).exp()), 4e-7, 0.0);
                near(y[2], w.tanh(), 2.5e-7, 0.0);
                near(y[3], tail(w.abs()), 3e-6, 3e-8);
                near(y[4], (-0.5 * w * w).exp(), 8e-6, 1e-30); // x²/2 up to 55, rounded to 6e-8 of itself
            }
        }
    }

    #[test]
    fn extremes_have_their_limits() {
        let x = [-1e30, -200.0, f32::NEG_INFINITY, 1e30, f32::INFINITY, f32::NAN, -88.0, 88.5];
        for kernel in [best, all::<Plain>] {
            let mut y = [[0.0f32; 5]; 8];
            kernel(&x, &mut y);
            for y in &y[..3] {
                assert_eq!(*y, [0.0, 0.0, -1.0, 0.0, 0.0]);
            }
            for y in &y[3..5] {
                assert_eq!(*y, [f32::INFINITY, 1.0, 1.0, 0.0, 0.0]);
            }
            assert!(y[5].iter().all(|y| y.is_nan()), "{:?}", y[5]);
            assert!((y[6][0] / (-88.0f64).exp() as f32 - 1.0).abs() < 1e-6);
            assert!((y[7][0] / 88.5f64.exp() as f32 - 1.0).abs() < 1e-6);
        }
    }
}
