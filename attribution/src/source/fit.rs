//! The curvature of a segment of training, fitted over all of its checkpoints.

use ascribe_curvature::gemm::{Products, Real};
use ascribe_curvature::random::stream;
use ascribe_curvature::{BlockWidth, CovarianceSum, Factors, LambdaSum, Network, Tap, TapSink};

use super::{Conditioner, LambdaPool, LegCovariance, PooledCovariance, SourceError};
use crate::{Error, LabelMode, Pass, Sweep};

/// The curvature of one segment.
#[derive(Debug, Clone)]
pub struct LegCurvature<T> {
    /// EK-FAC, of the conditioned gradients if there are conditioners. Layers that were not trained hold no factors.
    pub factors: Factors<T>,
    /// By layer, empty unless the optimizer is preconditioned; `None` for layers that were not trained.
    pub conditioners: Vec<Option<Conditioner<T>>>,
}

/// A checkpoint of a segment, with the data that its curvature is taken on.
#[derive(Debug)]
pub struct LegCheckpoint<'a, N: Network> {
    /// The network with the checkpoint's parameters, and the data.
    pub sweep: Sweep<'a, N>,
    /// `w_a`; they sum to 1 in a segment.
    pub weight: f64,
}

/// The curvature of a segment from its checkpoints: covariances at each, their weighted mean's eigenbasis, Λ of each in
/// that basis, and its weighted mean.
///
/// This is the definition, all passes of one segment in memory. A job takes the same steps one pass at a time, writes each
/// and goes on after an interruption.
///
/// `conditioners` are empty unless the optimizer is preconditioned; layers in `frozen` get no factors.
///
/// # Errors
/// Checkpoints of different layers, weights that do not sum to 1; those of the passes.
///
/// # Source
/// `docs/method.md`, Source.
pub fn fit_leg<N: Network, T: Real>(
    checkpoints: &[LegCheckpoint<'_, N>],
    labels: LabelMode,
    conditioners: Vec<Option<Conditioner<T>>>,
    frozen: &[usize],
) -> Result<LegCurvature<T>, Error> {
    let layers = checkpoints.first().map_or(&[][..], |checkpoint| checkpoint.sweep.network.layers());
    if let Some(checkpoint) = checkpoints.iter().position(|checkpoint| checkpoint.sweep.network.layers() != layers) {
        return Err(SourceError::DifferentLayers { checkpoint }.into());
    }
    let mut covariances = vec![];
    for LegCheckpoint { sweep, weight } in checkpoints {
        let objectives = labels.objectives(stream::COVARIANCE);
        let mut sum = CovarianceSum::<T>::new(layers).with_products(sweep.network.products());
        of_pass(sweep, Pass::Covariance).differentiate(sweep.range.start, &objectives, &mut sum, |sum, chunk| {
            Ok(sum.flush(chunk.examples, objectives.len())?)
        })?;
        covariances.push((*weight, sum.finish()?));
    }
    let pooled = PooledCovariance::new(covariances)?;
    let covariance = LegCovariance { layers, pooled: &pooled, conditioners: &conditioners, frozen };
    let bases = covariance.eigenbases(BlockWidth::Any)?;
    drop(pooled);
    let mut pool = LambdaPool::default();
    for LegCheckpoint { sweep, weight } in checkpoints {
        let objectives = labels.objectives(stream::LAMBDA);
        let mut slices = vec![None; layers.len()];
        for (slice, conditioner) in slices.iter_mut().zip(&conditioners) {
            *slice = conditioner.as_ref().map(|conditioner| conditioner.h().as_slice());
        }
        let sum = LambdaSum::<T>::new(layers, bases.iter().map(Option::as_ref).collect())
            .with_products(sweep.network.products())
            .conditioned(slices);
        let mut sum = Trained { sink: sum, frozen };
        of_pass(sweep, Pass::Lambda).differentiate(sweep.range.start, &objectives, &mut sum, |sum, chunk| {
            Ok(sum.sink.flush(chunk.examples, objectives.len())?)
        })?;
        pool.add(*weight, &sum.sink.finish()?)?;
    }
    let lambda = pool.finish()?;
    let factors = Factors::ekfac_of_trained(bases, lambda);
    let products = checkpoints.first().map_or(Products::Exact, |checkpoint| checkpoint.sweep.network.products());
    Ok(LegCurvature { factors: factors.with_products(products), conditioners })
}

/// A sweep over the same examples that reports itself as another pass.
fn of_pass<'a, N: Network>(sweep: &Sweep<'a, N>, pass: Pass) -> Sweep<'a, N> {
    let Sweep { network, examples, observer, .. } = *sweep;
    Sweep { network, examples, range: sweep.range.clone(), pass, observer }
}

/// Passes on the taps of trained layers alone.
struct Trained<'f, S> {
    sink: S,
    frozen: &'f [usize],
}

impl<S: TapSink> TapSink for Trained<'_, S> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        if self.frozen.contains(&tap.layer.0) { Ok(()) } else { self.sink.tap(tap) }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Mutex;

    use ascribe_curvature::{LabelDraw, LayerId, LayerSpec, Objective, Positions};
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::Examples;

    /// Notes what it is asked for.
    struct Asked {
        layers: [LayerSpec; 1],
        objectives: Mutex<Vec<Objective>>,
    }

    impl Network for Asked {
        type Batch = Positions;

        fn layers(&self) -> &[LayerSpec] {
            &self.layers
        }

        fn positions<'a>(&self, batch: &'a Positions) -> &'a Positions {
            batch
        }

        fn differentiate(
            &self,
            batch: &Positions,
            objective: Objective,
            sink: &mut dyn TapSink,
        ) -> Result<Vec<f64>, ascribe_curvature::Error> {
            self.objectives.lock().expect("no panic holds it").push(objective);
            let input = Tensor::new(&[[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]], &Device::Cpu)?;
            let output_gradient = Tensor::new(&[[0.3], [1.0], [-0.4]], &Device::Cpu)?;
            let (input, output_gradient) = (&input, &output_gradient);
            sink.tap(Tap { layer: LayerId(0), input, output_gradient, positions: batch })?;
            Ok(vec![0.0; batch.examples()])
        }
    }

    impl Examples<Positions> for () {
        fn len(&self) -> usize {
            2
        }

        fn positions(&self, example: usize) -> usize {
            2 - example
        }

        fn batch_end(&self, _: usize, end: usize) -> usize {
            end
        }

        fn batch(&self, _: Range<usize>) -> Result<Positions, Error> {
            Ok(Positions::from_lengths([2, 1]))
        }
    }

    #[test]
    fn covariances_and_lambda_draw_labels_of_their_own() -> Result<(), Error> {
        let network = Asked {
            layers: [LayerSpec {
                name: "fc".into(),
                outputs: 1,
                inputs: 2,
                bias: false,
                input_group: 0,
                vocabulary: None,
            }],
            objectives: Mutex::new(vec![]),
        };
        let sweep = Sweep { network: &network, examples: &(), range: 0..2, pass: Pass::Scores, observer: &() };
        let conditioner = Conditioner::<f64>::from_preconditioner(&network.layers[0], &[4.0, 0.25])?;
        let labels = LabelMode::Sampled { seed: 3, draws: 1 };
        let found = fit_leg(&[LegCheckpoint { sweep, weight: 1.0 }], labels, vec![Some(conditioner)], &[])?;
        let draw = |stream| Objective::SampledLoss(LabelDraw { seed: 3, stream, draw: 0 });
        assert_eq!(
            network.objectives.into_inner().expect("no panic holds it"),
            [draw(stream::COVARIANCE), draw(stream::LAMBDA)]
        );
        // conditioned gradients of examples of several positions: their squares keep their sum in any basis
        let gradients = [[2.0 * (0.3 + 0.5), 0.5 * (0.6 - 1.0)], [0.0, 0.5 * -1.2]];
        let want: f64 = gradients.iter().flatten().map(|g| g * g).sum::<f64>() / 2.0;
        let lambda = found.factors.layers[0].lambda.as_ref().expect("EK-FAC has it");
        assert!((lambda.as_slice().iter().sum::<f64>() - want).abs() < 1e-14);
        Ok(())
    }
}
