use ascribe_curvature::{Covariance, Lambda, Matrix};

use super::SourceError;

/// The weighted mean of the covariances of a segment's checkpoints, added one by one: only the sum is kept.
///
/// # Source
/// METHOD (15).
#[derive(Debug, Default)]
pub struct CovariancePool {
    sum: Option<Covariance>,
    weights: f64,
    checkpoints: usize,
}

impl CovariancePool {
    /// Adds one checkpoint's covariances, `w_a` times.
    ///
    /// # Errors
    /// If they are of other layers than the first ones.
    pub fn add(&mut self, weight: f64, covariance: &Covariance) -> Result<(), SourceError> {
        let different = || SourceError::DifferentLayers { checkpoint: self.checkpoints };
        let scaled = |matrix: &Matrix<f64>| added(None, matrix, weight).ok_or_else(different);
        self.sum = Some(match self.sum.take() {
            None => Covariance {
                inputs: covariance
                    .inputs
                    .iter()
                    .map(|matrix| matrix.as_ref().map(&scaled).transpose())
                    .collect::<Result<_, _>>()?,
                outputs: covariance.outputs.iter().map(scaled).collect::<Result<_, _>>()?,
                ..*covariance
            },
            Some(sum) => {
                if sum.inputs.len() != covariance.inputs.len() || sum.outputs.len() != covariance.outputs.len() {
                    return Err(different());
                }
                let inputs = sum.inputs.iter().zip(&covariance.inputs).map(|pair| match pair {
                    (Some(sum), Some(x)) => added(Some(sum), x, weight).map(Some).ok_or_else(different),
                    (None, None) => Ok(None),
                    _ => Err(different()),
                });
                let outputs = sum.outputs.iter().zip(&covariance.outputs);
                let outputs = outputs.map(|(sum, x)| added(Some(sum), x, weight).ok_or_else(different));
                Covariance {
                    inputs: inputs.collect::<Result<_, _>>()?,
                    outputs: outputs.collect::<Result<_, _>>()?,
                    positions: sum.positions + covariance.positions,
                    examples: sum.examples + covariance.examples,
                }
            }
        });
        self.weights += weight;
        self.checkpoints += 1;
        Ok(())
    }

    /// The mean.
    ///
    /// # Errors
    /// If the weights do not sum to 1.
    pub fn finish(self) -> Result<Covariance, SourceError> {
        self.sum.filter(|_| sum_to_one(self.weights)).ok_or(SourceError::Weights(self.weights))
    }
}

/// The weighted mean of Λ over a segment's checkpoints, each in the segment's basis.
///
/// # Source
/// METHOD (15).
#[derive(Debug, Default)]
pub struct LambdaPool {
    sum: Option<Lambda>,
    weights: f64,
    checkpoints: usize,
}

impl LambdaPool {
    /// Adds one checkpoint's Λ, `w_a` times.
    ///
    /// # Errors
    /// If it is of other layers than the first one.
    pub fn add(&mut self, weight: f64, lambda: &Lambda) -> Result<(), SourceError> {
        let different = || SourceError::DifferentLayers { checkpoint: self.checkpoints };
        let earlier = self.sum.take();
        if earlier.as_ref().is_some_and(|sum| sum.layers.len() != lambda.layers.len()) {
            return Err(different());
        }
        let sum = |(l, x)| added(earlier.as_ref().map(|sum| &sum.layers[l]), x, weight).ok_or_else(different);
        let layers = lambda.layers.iter().enumerate().map(sum).collect::<Result<_, _>>()?;
        self.sum = Some(Lambda { layers, examples: lambda.examples + earlier.map_or(0, |sum| sum.examples) });
        self.weights += weight;
        self.checkpoints += 1;
        Ok(())
    }

    /// The mean.
    ///
    /// # Errors
    /// If the weights do not sum to 1.
    pub fn finish(self) -> Result<Lambda, SourceError> {
        self.sum.filter(|_| sum_to_one(self.weights)).ok_or(SourceError::Weights(self.weights))
    }
}

fn sum_to_one(weights: f64) -> bool {
    (weights - 1.0).abs() < 1e-9
}

/// `sum + weight x`, unless their sizes differ.
fn added(sum: Option<&Matrix<f64>>, x: &Matrix<f64>, weight: f64) -> Option<Matrix<f64>> {
    let (rows, columns) = (x.rows(), x.columns());
    let values = match sum {
        None => x.as_slice().iter().map(|x| weight * x).collect(),
        Some(sum) if (sum.rows(), sum.columns()) == (rows, columns) => {
            sum.as_slice().iter().zip(x.as_slice()).map(|(sum, x)| sum + weight * x).collect()
        }
        Some(_) => return None,
    };
    Some(Matrix::new(values, rows, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lambda(values: &[f64]) -> Lambda {
        Lambda { layers: vec![Matrix::new(values.to_vec(), 1, values.len())], examples: 4 }
    }

    #[test]
    fn means_are_weighted_and_weights_have_to_sum_to_one() -> Result<(), SourceError> {
        let mut pool = LambdaPool::default();
        pool.add(0.25, &lambda(&[1.0, 2.0]))?;
        pool.add(0.75, &lambda(&[3.0, 6.0]))?;
        let error = pool.add(0.5, &lambda(&[1.0])).expect_err("another size");
        assert_eq!(error, SourceError::DifferentLayers { checkpoint: 2 });
        let mut pool = LambdaPool::default();
        pool.add(0.25, &lambda(&[1.0, 2.0]))?;
        pool.add(0.75, &lambda(&[3.0, 6.0]))?;
        assert_eq!(pool.finish()?.layers[0].as_slice(), [2.5, 5.0]);
        let mut pool = LambdaPool::default();
        pool.add(0.25, &lambda(&[1.0]))?;
        assert_eq!(pool.finish().expect_err("a quarter"), SourceError::Weights(0.25));
        Ok(())
    }
}
