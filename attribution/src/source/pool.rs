//! The weighted mean of the covariances of a segment's checkpoints, one matrix at a time.

use std::ops::Range;

use ascribe_curvature::{Counts, Covariance, Lambda, LayerSide, LayerSpec, Matrix, SymmetricBlocks, SymmetricMatrix};

use super::SourceError;

/// The covariances of a segment's checkpoints with their weights, or those of parts of the examples. Their weighted mean is
/// taken matrix by matrix, when it is that matrix's turn.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug)]
pub struct PooledCovariance {
    covariances: Vec<Covariance>,
    /// One for each; none where each counts as many as its positions.
    weights: Option<Vec<f64>>,
}

impl PooledCovariance {
    /// Checkpoints' covariances, each with its weight `w_a`.
    ///
    /// # Errors
    /// If they are of different layers, or the weights do not sum to 1.
    pub fn new(checkpoints: Vec<(f64, Covariance)>) -> Result<Self, SourceError> {
        let (weights, covariances): (Vec<f64>, Vec<_>) = checkpoints.into_iter().unzip();
        check_sizes(&covariances)?;
        let sum = weights.iter().sum();
        match sum_to_one(sum) {
            true => Ok(Self { covariances, weights: Some(weights) }),
            false => Err(SourceError::Weights(sum)),
        }
    }

    /// Covariances of parts of the examples, of which no example is in two, as the mean over all of them.
    ///
    /// # Errors
    /// If they are of different layers.
    pub fn of_parts(parts: Vec<Covariance>) -> Result<Self, SourceError> {
        check_sizes(&parts)?;
        Ok(Self { covariances: parts, weights: None })
    }

    /// What each covariance of a layer counts in the mean.
    fn weights(&self, layer: usize) -> Vec<f64> {
        self.weights.clone().unwrap_or_else(|| {
            let positions = || self.covariances.iter().map(|part| part.counts.positions[layer]);
            // an expert that no part has seen is 0 in all of them
            let all = positions().sum::<u64>().max(1) as f64;
            positions().map(|own| own as f64 / all).collect()
        })
    }

    /// T̄ of a layer, the mean number of positions of an example, at all checkpoints or in all parts.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn mean_positions(&self, layer: usize) -> f64 {
        let sum = |of: &dyn Fn(&Counts) -> u64| self.covariances.iter().map(|one| of(&one.counts)).sum::<u64>() as f64;
        sum(&|counts| counts.positions[layer]) / sum(&|counts| counts.examples)
    }

    /// The mean of one covariance, of the coordinates in a range. That of one checkpoint is shared, not copied.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn block(&self, layers: &[LayerSpec], of: LayerSide, range: Range<usize>) -> SymmetricMatrix {
        if let [covariance] = self.covariances.as_slice() {
            return covariance.of(layers, of).diagonal_block(range);
        }
        let matrices: Vec<_> = self.covariances.iter().map(|covariance| covariance.of(layers, of)).collect();
        let blocks = matrices.iter().map(|matrix| matrix.diagonal_block(range.clone()));
        let weighted: Vec<_> = self.weights(of.layer).into_iter().zip(blocks).collect();
        let mean = SymmetricMatrix::from_fn(range.len(), |r, c| {
            weighted.iter().map(|(weight, block)| *weight * block.at(r, c)).sum()
        });
        matrices.iter().for_each(|matrix| matrix.forget());
        mean
    }
}

/// The weighted mean of Λ over a segment's checkpoints, each in the segment's basis.
///
/// # Source
/// `docs/method.md`, Source.
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

/// `Err` if covariances are of different layers.
fn check_sizes(covariances: &[Covariance]) -> Result<(), SourceError> {
    let sizes = |covariance: &Covariance| -> Vec<Option<usize>> {
        let inputs = covariance.inputs.iter().map(|matrix| matrix.as_ref().map(SymmetricBlocks::size));
        inputs.chain(covariance.outputs.iter().map(|matrix| Some(matrix.size()))).collect()
    };
    let first = covariances.first().map(sizes);
    match covariances.iter().position(|covariance| Some(sizes(covariance)) != first) {
        Some(checkpoint) => Err(SourceError::DifferentLayers { checkpoint }),
        None => Ok(()),
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
    use ascribe_curvature::Side;

    use super::*;

    fn lambda(values: &[f64]) -> Lambda {
        Lambda { layers: vec![Matrix::new(values.to_vec(), 1, values.len())], examples: 4 }
    }

    fn covariance(triangle: &[f64]) -> Covariance {
        let outputs = vec![SymmetricMatrix::new(triangle.to_vec(), 2).into()];
        Covariance { inputs: vec![None], outputs, counts: Counts { positions: vec![6], examples: 2 } }
    }

    #[test]
    fn covariances_are_pooled_block_by_block() -> Result<(), SourceError> {
        let layers =
            [LayerSpec { name: "fc".into(), outputs: 2, inputs: 1, bias: false, input_group: 0, vocabulary: None }];
        let of = LayerSide { layer: 0, side: Side::Output };
        let pooled =
            PooledCovariance::new(vec![(0.25, covariance(&[1.0, 2.0, 4.0])), (0.75, covariance(&[3.0, 6.0, 8.0]))])?;
        assert_eq!(pooled.block(&layers, of, 0..2).as_slice(), [2.5, 5.0, 7.0]);
        assert_eq!(pooled.block(&layers, of, 1..2).as_slice(), [7.0]);
        assert_eq!(pooled.mean_positions(0), 3.0);
        let error = PooledCovariance::new(vec![(0.25, covariance(&[1.0, 2.0, 4.0]))]).expect_err("a quarter");
        assert_eq!(error, SourceError::Weights(0.25));
        let other = Covariance { outputs: vec![], ..covariance(&[0.0; 3]) };
        let error = PooledCovariance::new(vec![(0.5, covariance(&[0.0; 3])), (0.5, other)]).expect_err("another");
        assert_eq!(error, SourceError::DifferentLayers { checkpoint: 1 });
        Ok(())
    }

    #[test]
    fn parts_count_as_many_as_their_positions() -> Result<(), SourceError> {
        let layers =
            [LayerSpec { name: "fc".into(), outputs: 2, inputs: 1, bias: false, input_group: 0, vocabulary: None }];
        let of = LayerSide { layer: 0, side: Side::Output };
        let part = |triangle: &[f64], positions: u64, examples| Covariance {
            counts: Counts { positions: vec![positions], examples },
            ..covariance(triangle)
        };
        let pooled = PooledCovariance::of_parts(vec![part(&[1.0, 2.0, 4.0], 3, 1), part(&[5.0, 6.0, 8.0], 1, 2)])?;
        assert_eq!(pooled.block(&layers, of, 0..2).as_slice(), [2.0, 3.0, 5.0]);
        assert_eq!(pooled.mean_positions(0), 4.0 / 3.0);
        let unseen = PooledCovariance::of_parts(vec![part(&[0.0; 3], 0, 1), part(&[0.0; 3], 0, 2)])?;
        assert_eq!(unseen.block(&layers, of, 0..2).as_slice(), [0.0; 3]);
        let other = Covariance { outputs: vec![], ..covariance(&[0.0; 3]) };
        let error = PooledCovariance::of_parts(vec![covariance(&[0.0; 3]), other]).expect_err("another");
        assert_eq!(error, SourceError::DifferentLayers { checkpoint: 1 });
        Ok(())
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
