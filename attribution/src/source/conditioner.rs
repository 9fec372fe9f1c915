//! Adam and its like as plain descent in other coordinates:
//! the diagonal that gradients are multiplied with, layer by layer.

use std::ops::Range;

use ascribe_curvature::gemm::{Products, Real, Threads};
use ascribe_curvature::{Eigenbasis, LayerSpec, Matrix, Side, SymmetricMatrix, Turn};

use super::SourceError;

/// The coordinates in which a preconditioned optimizer does plain descent, for one layer: `h = P^{1/2}`, with which
/// gradients are multiplied, and its rank-one approximation `ρ πᵀ`, with which covariances are.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone)]
pub struct Conditioner<T> {
    h: Matrix<T>,
    inverse: Matrix<T>,
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl<T: Real> Conditioner<T> {
    /// From Adam's bias-corrected second moments `v̂` of one or several checkpoints, each `[O, columns]` with the bias
    /// as the last column; they are averaged, then `P = 1 / (√v̂ + ε)`.
    ///
    /// # Errors
    /// No checkpoint, another number of parameters, or a moment that gives no finite `P`.
    pub fn from_second_moments(layer: &LayerSpec, moments: &[&[T]], epsilon: f64) -> Result<Self, SourceError> {
        let mean = mean_moments(layer, moments)?;
        Self::from_inverse(layer, mean.iter().map(|v| v.sqrt() + epsilon).collect(), &mean)
    }

    /// One number for the whole layer, `P = 1 / mean(√v̂ + ε)`, where single second moments are estimates.
    ///
    /// # Errors
    /// As [`Conditioner::from_second_moments`].
    ///
    /// # Source
    /// `docs/method.md`, Source, `adam = scalar`.
    pub fn scalar(layer: &LayerSpec, moments: &[&[T]], epsilon: f64) -> Result<Self, SourceError> {
        let mean = mean_moments(layer, moments)?;
        let inverse = mean.iter().map(|v| v.sqrt() + epsilon).sum::<f64>() / mean.len() as f64;
        Self::from_inverse(layer, vec![inverse; mean.len()], &mean)
    }

    /// From the preconditioner `P` itself, `[O, columns]`.
    ///
    /// # Errors
    /// Another number of parameters, or one that is not a positive number.
    pub fn from_preconditioner(layer: &LayerSpec, preconditioner: &[f64]) -> Result<Self, SourceError> {
        let (found, expected) = (preconditioner.len(), layer.parameters());
        if found != expected {
            return Err(SourceError::SecondMomentCount { layer: layer.name.clone(), found, expected });
        }
        let inverse: Vec<f64> = preconditioner.iter().map(|p| 1.0 / p).collect();
        let moments: Vec<f64> = inverse.iter().map(|x| x * x).collect();
        Self::from_inverse(layer, inverse, &moments)
    }

    /// From `P⁻¹`; `moments` are for messages.
    fn from_inverse(layer: &LayerSpec, inverse: Vec<f64>, moments: &[f64]) -> Result<Self, SourceError> {
        let (o, i) = (layer.outputs, layer.columns());
        // both h and 1/h have to exist in the run's type
        let usable = |x: f64| {
            let h = T::of(x.sqrt().recip()).wide();
            h.is_finite() && h > 0.0 && (x * x).is_finite() && T::of(x.sqrt()).wide() > 0.0
        };
        if let Some(index) = inverse.iter().position(|&x| !usable(x)) {
            return Err(SourceError::SecondMoment { layer: layer.name.clone(), index, value: moments[index] });
        }
        // Means of P⁻²: of P itself they would be those of the few parameters that never got a gradient.
        let square = |r: usize, c: usize| inverse[r * i + c] * inverse[r * i + c];
        let row_means: Vec<f64> = (0..o).map(|r| (0..i).map(|c| square(r, c)).sum::<f64>() / i as f64).collect();
        let column_means = (0..i).map(|c| (0..o).map(|r| square(r, c)).sum::<f64>() / o as f64);
        let root = (row_means.iter().sum::<f64>() / o as f64).sqrt();
        Ok(Self {
            h: Matrix::new(inverse.iter().map(|x| T::of(x.sqrt().recip())).collect(), o, i),
            inverse: Matrix::new(inverse.iter().map(|x| T::of(x.sqrt())).collect(), o, i),
            columns: column_means.map(|mean| (mean / root).powf(-0.25)).collect(),
            rows: row_means.into_iter().map(|mean| (mean / root).powf(-0.25)).collect(),
        })
    }

    /// `h`, `[O, columns]`.
    pub fn h(&self) -> &Matrix<T> {
        &self.h
    }

    /// ρ, `[O]`.
    pub fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// π, `[columns]`.
    pub fn columns(&self) -> &[f64] {
        &self.columns
    }

    /// `Ã = A ⊙ π πᵀ` or `S̃ = S ⊙ ρ ρᵀ`, of the coordinates in a range.
    pub fn covariance(&self, covariance: &SymmetricMatrix, side: Side, range: Range<usize>) -> SymmetricMatrix {
        let by = match side {
            Side::Input => &self.columns[range],
            Side::Output => &self.rows[range],
        };
        covariance.map(|x, r, c| x * by[r] * by[c])
    }

    /// `h ⊙ V` for each `V: [O, columns]` of `vectors`.
    pub fn multiply(&self, vectors: &mut [T]) {
        elementwise(vectors, &self.h);
    }

    /// `h⁻¹ ⊙ V` for each.
    pub fn divide(&self, vectors: &mut [T]) {
        elementwise(vectors, &self.inverse);
    }

    /// `V ⊘ ρ πᵀ` for each `V: [O, columns]` of `vectors`.
    pub(crate) fn divide_by_rank_one(&self, vectors: &mut [T]) {
        let i = self.columns.len();
        for (row, rho) in vectors.chunks_exact_mut(i).zip(self.rows.iter().cycle()) {
            row.iter_mut().zip(&self.columns).for_each(|(x, pi)| *x = T::of(x.wide() / (rho * pi)));
        }
    }

    /// `ρ ⊙ l` for each row of `left: [_, O]`, `π ⊙ r` for each row of `right: [_, columns]`.
    pub(crate) fn multiply_factors(&self, left: &mut [T], right: &mut [T]) {
        for (rows, by) in [(left, &self.rows), (right, &self.columns)] {
            for row in rows.chunks_exact_mut(by.len()) {
                row.iter_mut().zip(by).for_each(|(x, by)| *x = T::of(x.wide() * by));
            }
        }
    }

    /// What multiplies weight decay in each eigen-direction, `[O, columns]`, if the decay is part of Adam's gradient
    /// and so passes through its preconditioner: the diagonal of `diag(P)` in the eigenbasis,
    /// `(U_S ⊙ U_S)ᵀ P (U_A ⊙ U_A)`. Its other entries are dropped, as EK-FAC drops the curvature's.
    pub fn decay_factors(&self, basis: Option<&Eigenbasis<T>>) -> Vec<f64> {
        let (o, i) = (self.h.rows(), self.h.columns());
        let p: Vec<T> = self.h.as_slice().iter().map(|&x| x * x).collect();
        let Some(basis) = basis else { return p.iter().map(|x| x.wide()).collect() };
        let [output, input] = [&basis.output, &basis.input].map(|side| side.vectors.map(|x| x * x));
        let (mut half, mut factors) = (vec![T::of(0.0); o * i], vec![T::of(0.0); o * i]);
        input.turn_rows(&mut half, &p, Turn::Into, Products::Exact, Threads::Pool);
        output.turn_columns(&mut factors, &half, i, Turn::Into, Products::Exact, Threads::Pool);
        factors.iter().map(|x| x.wide()).collect()
    }
}

/// Means over checkpoints.
fn mean_moments<T: Real>(layer: &LayerSpec, moments: &[&[T]]) -> Result<Vec<f64>, SourceError> {
    let expected = layer.parameters();
    if let Some(bad) = moments.iter().map(|moments| moments.len()).find(|&found| found != expected) {
        return Err(SourceError::SecondMomentCount { layer: layer.name.clone(), found: bad, expected });
    }
    if moments.is_empty() {
        return Err(SourceError::SecondMomentCount { layer: layer.name.clone(), found: 0, expected });
    }
    let mean = |k: usize| moments.iter().map(|moments| moments[k].wide()).sum::<f64>() / moments.len() as f64;
    Ok((0..expected).map(mean).collect())
}

fn elementwise<T: Real>(vectors: &mut [T], by: &Matrix<T>) {
    let by = by.as_slice();
    for vector in vectors.chunks_exact_mut(by.len()) {
        vector.iter_mut().zip(by).for_each(|(x, h)| *x *= *h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ascribe_curvature::Hint;

    fn layer() -> LayerSpec {
        LayerSpec { name: "fc".into(), outputs: 2, inputs: 2, bias: true, input_group: 0, vocabulary: None }
    }

    #[test]
    fn a_preconditioner_of_rank_one_is_found_exactly() -> Result<(), SourceError> {
        let (rho, pi) = ([0.5, 3.0], [2.0, 0.7, 1.1]);
        let p: Vec<f64> = (0..6).map(|k| (rho[k / 3] * pi[k % 3]) * (rho[k / 3] * pi[k % 3])).collect();
        let found = Conditioner::<f64>::from_preconditioner(&layer(), &p)?;
        for k in 0..6 {
            let product = found.rows()[k / 3] * found.columns()[k % 3];
            assert!((product - rho[k / 3] * pi[k % 3]).abs() < 1e-14, "[{k}] {product}");
            assert!((found.h().as_slice()[k] - product).abs() < 1e-14);
        }
        Ok(())
    }

    #[test]
    fn a_scalar_is_the_inverse_of_the_mean_root() -> Result<(), SourceError> {
        let (first, second) = ([0.0, 4.0, 4.0, 1.0, 9.0, 0.0], [2.0, 4.0, 4.0, 1.0, 9.0, 2.0]);
        let found = Conditioner::<f64>::scalar(&layer(), &[&first, &second], 0.5)?;
        // roots of the means: 1, 2, 2, 1, 3, 1
        let want = (10.0_f64 / 6.0 + 0.5).sqrt().recip();
        assert!(found.h().as_slice().iter().all(|h| (h - want).abs() < 1e-15));
        Ok(())
    }

    #[test]
    fn moments_that_give_no_preconditioner_are_named() {
        let bad = |moments: &[f64], epsilon| {
            let error = Conditioner::<f64>::from_second_moments(&layer(), &[moments], epsilon).expect_err("unusable");
            assert!(error.hint().is_some());
            error.to_string()
        };
        let message = bad(&[1.0, 1.0, 1.0, 0.0, 1.0, 1.0], 0.0);
        assert_eq!(message, "layer `fc`: parameter 3 has the second moment 0e0, which gives no finite preconditioner");
        assert!(bad(&[1.0, -1.0, 1.0, 1.0, 1.0, 1.0], 1e-8).contains("parameter 1"));
        assert!(bad(&[f64::NAN; 6], 1e-8).contains("parameter 0"));
        assert_eq!(bad(&[1.0; 5], 1e-8), "layer `fc`: 5 second moments, expected 6");
    }

    #[test]
    fn decay_factors_are_the_preconditioner_seen_along_eigenvectors() -> Result<(), SourceError> {
        let p = [0.3, 2.0, 1.5, 0.9, 0.2, 1.0];
        let conditioner = Conditioner::<f64>::from_preconditioner(&layer(), &p)?;
        let turn = |n: usize, angle: f64| {
            let mut u = Matrix::<f64>::identity(n).as_slice().to_vec();
            (u[0], u[1], u[n], u[n + 1]) = (angle.cos(), -angle.sin(), angle.sin(), angle.cos());
            ascribe_curvature::Eigenpairs { vectors: Matrix::new(u, n, n).into(), values: vec![1.0; n], clipped: 0 }
        };
        let basis = Eigenbasis { output: turn(2, 0.4), input: turn(3, 1.1) };
        let found = conditioner.decay_factors(Some(&basis));
        for (k, found) in found.iter().enumerate() {
            let (s, a) = (basis.output.vectors.whole(), basis.input.vectors.whole());
            let want: f64 = (0..6).map(|j| p[j] * (s.row(j / 3)[k / 3] * a.row(j % 3)[k % 3]).powi(2)).sum();
            assert!((found - want).abs() < 1e-14, "[{k}]");
        }
        Ok(())
    }
}
