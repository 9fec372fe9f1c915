//! Softmax and what losses need of it, one row at a time.

use super::elementary::exp;
use super::lanes::{LANES, Lanes};
use super::vectorised::vectorised;

vectorised!(
    /// Largest element; infinity below zero for an empty row. NaN is not noticed here, but makes the sum
    /// of [`exponentials`] NaN.
    pub(crate) fn largest(row: &[f32]) -> f32 = largest_lanes
);

#[inline(always)]
fn largest_lanes<V: Lanes>(row: &[f32]) -> f32 {
    let (chunks, tail) = row.as_chunks::<LANES>();
    let low = V::splat(f32::NEG_INFINITY);
    let (mut a, mut b) = (low, low);
    let (pairs, last) = chunks.as_chunks::<2>();
    for [x, y] in pairs {
        a = V::load(x).at_least(a);
        b = V::load(y).at_least(b);
    }
    for x in last {
        a = V::load(x).at_least(a);
    }
    b = V::load_part(tail, f32::NEG_INFINITY).at_least(b);
    a.at_least(b).largest()
}

vectorised!(
    /// `row ← e^{row - shift}`; returns their sum in f64.
    pub(crate) fn exponentials(row: &mut [f32], shift: f32) -> f64 = exponentials_lanes
);

#[inline(always)]
fn exponentials_lanes<V: Lanes>(row: &mut [f32], shift: f32) -> f64 {
    let shift = V::splat(shift);
    let (chunks, tail) = row.as_chunks_mut::<LANES>();
    let (mut a, mut b) = (V::wide_zero(), V::wide_zero());
    let (pairs, last) = chunks.as_chunks_mut::<2>();
    for [x, y] in pairs {
        let (p, q) = (exp(V::load(x) - shift), exp(V::load(y) - shift));
        p.store(x);
        q.store(y);
        a = p.add_to(a);
        b = q.add_to(b);
    }
    for x in last {
        let p = exp(V::load(x) - shift);
        p.store(x);
        a = p.add_to(a);
    }
    let p = exp(V::load_part(tail, f32::NEG_INFINITY) - shift);
    p.store_part(tail);
    b = p.add_to(b);
    V::wide_sum(a) + V::wide_sum(b)
}

vectorised!(
    /// `row ← factor · row`.
    pub(crate) fn scale(row: &mut [f32], factor: f32) = scale_lanes
);

#[inline(always)]
fn scale_lanes<V: Lanes>(row: &mut [f32], factor: f32) {
    let factor = V::splat(factor);
    let (chunks, tail) = row.as_chunks_mut::<LANES>();
    for x in chunks {
        (V::load(x) * factor).store(x);
    }
    (V::load_part(tail, 0.0) * factor).store_part(tail);
}

/// Elements whose sum is formed before the label is looked for among them.
const BLOCK: usize = 16 * LANES;

vectorised!(
    /// The smallest index whose running sum exceeds `threshold`; if rounding leaves none, the last index
    /// with a positive weight.
    ///
    /// # Source
    /// `docs/method.md`, Curvature. Whole blocks are summed at once, which moves the running sum by its rounding in f64.
    pub(crate) fn select(weights: &[f32], threshold: f64) -> usize = select_lanes
);

#[inline(always)]
fn select_lanes<V: Lanes>(weights: &[f32], threshold: f64) -> usize {
    let mut sum = 0.0;
    for (block, weights) in weights.chunks(BLOCK).enumerate() {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut wide = V::wide_zero();
        for x in chunks {
            wide = V::load(x).add_to(wide);
        }
        wide = V::load_part(tail, 0.0).add_to(wide);
        let after = sum + V::wide_sum(wide);
        if after > threshold {
            for (j, &weight) in weights.iter().enumerate() {
                sum += f64::from(weight);
                if sum > threshold {
                    return block * BLOCK + j;
                }
            }
        }
        sum = after;
    }
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}

vectorised!(
    /// `row ← softmax(factor · row)`.
    pub(crate) fn softmax(row: &mut [f32], factor: f32) = softmax_lanes
);

#[inline(always)]
fn softmax_lanes<V: Lanes>(row: &mut [f32], factor: f32) {
    // The largest of factor · row, also for a negative factor: scale first.
    let f = V::splat(factor);
    let (chunks, tail) = row.as_chunks_mut::<LANES>();
    let mut m = V::splat(f32::NEG_INFINITY);
    for x in chunks.iter() {
        m = (V::load(x) * f).at_least(m);
    }
    let shift = if tail.is_empty() {
        m.largest()
    } else {
        let rest = tail.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x * factor));
        m.largest().max(rest)
    };
    let shift = V::splat(0.0 - shift);
    let mut sum = V::splat(0.0);
    for x in chunks.iter_mut() {
        let p = exp(V::load(x).times_plus(f, shift));
        p.store(x);
        sum = sum + p;
    }
    let mut total = sum.sum();
    if !tail.is_empty() {
        exp(V::load_part(tail, 0.0).times_plus(f, shift)).store_part(tail);
        total += V::load_part(tail, 0.0).sum();
    }
    let inverse = V::splat(1.0 / total);
    for x in chunks {
        (V::load(x) * inverse).store(x);
    }
    (V::load_part(tail, 0.0) * inverse).store_part(tail);
}

vectorised!(
    /// `g ← factor · p ⊙ (g - <g, p>)`: the gradient before [`softmax`] from the one behind it.
    pub(crate) fn softmax_backward(p: &[f32], g: &mut [f32], factor: f32) = softmax_backward_lanes
);

#[inline(always)]
fn softmax_backward_lanes<V: Lanes>(p: &[f32], g: &mut [f32], factor: f32) {
    assert_eq!(p.len(), g.len(), "a gradient for each probability");
    let (p, p_tail) = p.as_chunks::<LANES>();
    let (g, g_tail) = g.as_chunks_mut::<LANES>();
    let mut dot = V::load_part(p_tail, 0.0) * V::load_part(g_tail, 0.0);
    for (p, g) in p.iter().zip(g.iter()) {
        dot = V::load(p).times_plus(V::load(g), dot);
    }
    let (dot, factor) = (V::splat(dot.sum()), V::splat(factor));
    for (p, g) in p.iter().zip(g.iter_mut()) {
        (V::load(p) * factor * (V::load(g) - dot)).store(g);
    }
    let rest = V::load_part(p_tail, 0.0) * factor * (V::load_part(g_tail, 0.0) - dot);
    rest.store_part(g_tail);
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Plain;
    use super::*;

    fn row(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 101) as f32 * 0.13 - 4.0).collect()
    }

    #[test]
    fn softmax_and_its_gradient_agree_with_f64() {
        for n in [1, 5, 16, 24, 33, 257] {
            let (z, g) = (row(n), row(n + 3)[3..].to_vec());
            for factor in [0.37f32, -1.25] {
                let e: Vec<f64> = z.iter().map(|&z| (f64::from(z) * f64::from(factor)).exp()).collect();
                let total: f64 = e.iter().sum();
                let dot: f64 = e.iter().zip(&g).map(|(e, &g)| e / total * f64::from(g)).sum();
                for (forward, backward) in [
                    (softmax as fn(&mut [f32], f32), softmax_backward as fn(&[f32], &mut [f32], f32)),
                    (softmax_lanes::<Plain>, softmax_backward_lanes::<Plain>),
                ] {
                    let (mut p, mut d) = (z.clone(), g.clone());
                    forward(&mut p, factor);
                    backward(&p, &mut d, factor);
                    for i in 0..n {
                        let want = e[i] / total;
                        // the exponent, of order 10, is rounded to 1.2e-7 of itself
                        assert!((f64::from(p[i]) - want).abs() < 2e-6 * want + 1e-9, "[{i}] of {n}");
                        let want = f64::from(factor) * want * (f64::from(g[i]) - dot);
                        assert!((f64::from(d[i]) - want).abs() < 1e-5, "[{i}] of {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_and_selection_agree_with_f64() {
        for n in [1, 7, 16, 33, 600] {
            let z = row(n);
            let m = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (max, exps, pick, times) in [
                (
                    largest as fn(&[f32]) -> f32,
                    exponentials as fn(&mut [f32], f32) -> f64,
                    select as fn(&[f32], f64) -> usize,
                    scale as fn(&mut [f32], f32),
                ),
                (largest_lanes::<Plain>, exponentials_lanes::<Plain>, select_lanes::<Plain>, scale_lanes::<Plain>),
            ] {
                assert_eq!(max(&z), m);
                let mut e = z.clone();
                let total = exps(&mut e, m);
                let want: f64 = z.iter().map(|&z| f64::from(z - m).exp()).sum();
                assert!((total / want - 1.0).abs() < 3e-7);
                assert!((total - e.iter().map(|&e| f64::from(e)).sum::<f64>()).abs() < 1e-12 * total);
                for u in [0.0, 0.1, 0.5, 0.77, 0.999] {
                    let mut sum = 0.0;
                    let want = e.iter().position(|&e| {
                        sum += f64::from(e);
                        sum > u * total
                    });
                    assert_eq!(Some(pick(&e, u * total)), want);
                }
                assert_eq!(pick(&e, 2.0 * total), n - 1, "rounding falls back to the last possible label");
                let mut twice = e.clone();
                times(&mut twice, 2.0);
                assert!(twice.iter().zip(&e).all(|(t, e)| *t == 2.0 * e));
            }
        }
    }

    #[test]
    fn a_broken_number_is_not_lost() {
        for broken in [0, 17, 32] {
            let mut z = row(33);
            z[broken] = f32::NAN;
            let mut p = z.clone();
            softmax(&mut p, 1.0);
            assert!(p.iter().all(|p| p.is_nan()));
            let m = largest(&z);
            assert!(exponentials(&mut z, m).is_nan());
        }
    }
}
