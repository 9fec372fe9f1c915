//! Figures that say how well two lists of numbers agree, and assertions on them.

use ascribe::attribution::evaluate::spearman;

/// Largest magnitude.
pub fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

/// Largest difference.
pub fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lists of different lengths");
    // `max` drops NaN; a difference that is none must not pass
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f64, x| if x.is_nan() { f64::INFINITY } else { m.max(x) })
}

/// Largest difference over the largest magnitude of `want`.
pub fn relative(found: &[f64], want: &[f64]) -> f64 {
    largest_difference(found, want) / largest(want).max(f64::MIN_POSITIVE)
}

/// `‖a - b‖ / ‖b‖`.
pub fn frobenius(found: &[f64], want: &[f64]) -> f64 {
    assert_eq!(found.len(), want.len(), "matrices of different sizes");
    let norm = |x: f64| x.sqrt();
    norm(found.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum()) / norm(want.iter().map(|b| b * b).sum())
}

/// `‖a‖`.
pub fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Pearson's correlation.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let covariance =
        |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum() };
    covariance(a, ma, b, mb) / (covariance(a, ma, a, ma) * covariance(b, mb, b, mb)).sqrt()
}

/// Spearman's correlation.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    spearman(a, b)
}

/// Slope of `a` over `b` through the origin.
pub fn slope(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / b.iter().map(|b| b * b).sum::<f64>()
}

/// Fails unless the difference is at most `tolerance` of the largest magnitude of `want`.
#[track_caller]
pub fn assert_relative(found: &[f64], want: &[f64], tolerance: f64, what: &str) {
    let error = relative(found, want);
    assert!(error <= tolerance, "{what}: {error:.2e} of the largest number, at most {tolerance:.0e} is allowed");
}

/// Fails unless the difference is at most `tolerance`.
#[track_caller]
pub fn assert_absolute(found: &[f64], want: &[f64], tolerance: f64, what: &str) {
    let error = largest_difference(found, want);
    assert!(error <= tolerance, "{what}: off by {error:.2e}, at most {tolerance:.0e} is allowed");
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}
