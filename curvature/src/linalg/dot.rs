//! Sums of products in `f64`, several at a time: one running sum would wait for each addition to finish.

use crate::linalg::gemm::Real;

/// Sums that run side by side.
const LANES: usize = 16;

/// `Σ_k f(k)` over the places of two slices, `f` of their numbers; the order of additions follows from the length.
#[inline]
pub(crate) fn sum_over<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> f64) -> f64 {
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            sums[lane] += f(x[lane], y[lane]);
        }
    }
    let tail: f64 = x_tail.iter().zip(y_tail).map(|(&x, &y)| f(x, y)).sum();
    sums.iter().sum::<f64>() + tail
}

/// `Σ_k x_k y_k`.
pub(crate) fn dot<T: Real>(x: &[T], y: &[T]) -> f64 {
    sum_over(x, y, |x, y| x.wide() * y.wide())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_counts_once() {
        for n in [0, 1, 15, 16, 17, 40] {
            let x: Vec<f32> = (0..n).map(|k| k as f32 + 1.0).collect();
            let want: usize = (1..=n).map(|k| k * k).sum();
            assert_eq!(dot(&x, &x), want as f64, "{n}");
            assert_eq!(sum_over(&x, &x, |x, _| x.wide()), (n * (n + 1) / 2) as f64, "{n}");
        }
    }
}
