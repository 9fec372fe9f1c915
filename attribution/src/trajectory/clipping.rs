use super::TrajectoryError;
use super::error::within;

/// What gradient clipping multiplied each step's rate by: `min(1, max_norm / ‖gradient‖)`.
///
/// A log usually has the norm of some steps only; between them the factor is interpolated linearly, before the
/// first and after the last it is held.
///
/// # Source
/// METHOD §4.1 (loss scale), trap 32.
#[derive(Debug, Clone, PartialEq)]
pub struct Clipping {
    factors: Vec<f64>,
    logged: usize,
}

impl Clipping {
    /// Factors of `n_steps` steps from logged norms.
    ///
    /// `norms`: (step counted from 0, gradient norm before clipping), ascending by step.
    ///
    /// # Errors
    /// A norm that is negative or NaN, or no norm at all. An infinite norm is a factor of 0.
    pub fn from_norms(max_norm: f64, norms: &[(usize, f64)], n_steps: usize) -> Result<Self, TrajectoryError> {
        within("max_grad_norm", max_norm, "a number above 0", |m| m > 0.0)?;
        let mut known = Vec::with_capacity(norms.len());
        for &(step, norm) in norms {
            if norm.is_nan() || norm < 0.0 {
                return Err(TrajectoryError::OutOfRange { name: "grad_norm", value: norm, expected: "at least 0" });
            }
            known.push((step, (max_norm / norm).min(1.0)));
        }
        let Some(&(first, _)) = known.first() else {
            return Err(TrajectoryError::OutOfRange {
                name: "logged gradient norms",
                value: 0.0,
                expected: "one or more",
            });
        };
        let mut factors = Vec::with_capacity(n_steps);
        let mut next = 0; // the first known step that is not before k
        for k in 0..n_steps {
            while next < known.len() && known[next].0 < k {
                next += 1;
            }
            factors.push(match (next, known.get(next)) {
                (0, _) if k <= first => known[0].1,
                (_, Some(&(step, factor))) if step == k => factor,
                (_, Some(&(b, right))) => {
                    let (a, left) = known[next - 1];
                    left + (right - left) * (k - a) as f64 / (b - a) as f64
                }
                (_, None) => known[known.len() - 1].1,
            });
        }
        Ok(Self { factors, logged: known.len() })
    }

    /// The factor of step `k`, in `(0, 1]`; 1 past the end.
    pub fn factor(&self, k: usize) -> f64 {
        self.factors.get(k).copied().unwrap_or(1.0)
    }

    /// Number of steps.
    pub fn n_steps(&self) -> usize {
        self.factors.len()
    }

    /// How many of the factors were logged rather than interpolated.
    pub fn n_logged(&self) -> usize {
        self.logged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_interpolated_between_logged_norms() {
        let clipping = Clipping::from_norms(1.0, &[(1, 2.0), (3, 0.5), (4, f64::INFINITY)], 6).unwrap();
        let factors: Vec<f64> = (0..7).map(|k| clipping.factor(k)).collect();
        assert_eq!(factors, [0.5, 0.5, 0.75, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!((clipping.n_steps(), clipping.n_logged()), (6, 3));
    }

    #[test]
    fn bad_norms_are_refused() {
        assert!(Clipping::from_norms(1.0, &[(0, f64::NAN)], 3).is_err());
        assert!(Clipping::from_norms(0.0, &[(0, 1.0)], 3).is_err());
        assert!(Clipping::from_norms(1.0, &[], 3).is_err());
    }
}
