use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::random::stream;
use ascribe_curvature::{
    BlockWidth, Covariance, CovarianceSum, CurvatureKind, Eigenbasis, Eigenpairs, Factors, LambdaSum, LayerFactors,
    LayerSpec, Network, Tap, TapSink,
};

use super::{Conditioner, CovariancePool, LambdaPool, SourceError};
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
/// `conditioners` are empty unless the optimizer is preconditioned; layers in `frozen` get no factors.
///
/// # Errors
/// Checkpoints of different layers, weights that do not sum to 1; those of the passes.
///
/// # Source
/// METHOD §4.2 (15), §4.4.
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
    let mut pool = CovariancePool::default();
    for LegCheckpoint { sweep, weight } in checkpoints {
        let objectives = labels.objectives(stream::COVARIANCE);
        let mut sum = CovarianceSum::<T>::new(layers).with_products(sweep.network.products());
        of_pass(sweep, Pass::Covariance).differentiate(sweep.range.start, &objectives, &mut sum, |sum, chunk| {
            Ok(sum.flush(chunk.examples, objectives.len())?)
        })?;
        pool.add(*weight, &sum.finish()?)?;
    }
    let bases = conditioned_eigenbases(&pool.finish()?, layers, &conditioners, frozen, BlockWidth::Any)?;
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
    let layers = bases.into_iter().zip(lambda.layers).map(|(basis, lambda)| match basis {
        Some(_) => LayerFactors { basis, lambda: Some(lambda) },
        None => LayerFactors { basis: None, lambda: None },
    });
    let factors = Factors { kind: CurvatureKind::Ekfac, layers: layers.collect() };
    Ok(LegCurvature { factors, conditioners })
}

/// The eigenbasis of each layer's covariances, conditioned where there is a conditioner, in blocks of at most this
/// width; `None` for frozen layers.
///
/// Layers that share an input do not share a conditioned input covariance: each is decomposed by itself.
///
/// # Errors
/// Those of the decomposition.
///
/// # Source
/// METHOD §4.4, step 2.
pub fn conditioned_eigenbases<T: Real>(
    covariance: &Covariance,
    layers: &[LayerSpec],
    conditioners: &[Option<Conditioner<T>>],
    frozen: &[usize],
    width: BlockWidth,
) -> Result<Vec<Option<Eigenbasis<T>>>, Error> {
    if conditioners.is_empty() {
        // layers share what they read, so they are decomposed together: those that were trained
        let trained: Vec<usize> = (0..layers.len()).filter(|l| !frozen.contains(l)).collect();
        let specs: Vec<LayerSpec> = trained.iter().map(|&l| layers[l].clone()).collect();
        let reads = |group: usize| specs.iter().any(|layer| layer.input_group == group);
        let inputs = covariance.inputs.iter().enumerate();
        let of_trained = Covariance {
            inputs: inputs.map(|(group, matrix)| matrix.clone().filter(|_| reads(group))).collect(),
            outputs: trained.iter().map(|&l| covariance.outputs[l].clone()).collect(),
            ..*covariance
        };
        let mut bases = vec![None; layers.len()];
        for (l, basis) in trained.into_iter().zip(Eigenbasis::of_layers_in_blocks(&of_trained, &specs, width)?) {
            bases[l] = Some(basis);
        }
        return Ok(bases);
    }
    let trained: Vec<usize> = (0..layers.len()).filter(|l| !frozen.contains(l)).collect();
    let sides = trained.iter().flat_map(|&l| {
        let layer = &layers[l];
        [(layer.name.as_str(), "input", layer.columns()), (layer.name.as_str(), "output", layer.outputs)]
    });
    // input and output of each, made when it is their turn
    let made = |job: usize, group: Range<usize>| {
        let l = trained[job / 2];
        let input = covariance.inputs[layers[l].input_group].as_ref();
        let input = input.expect("every layer's input group has a covariance");
        let whole = match (job % 2, &conditioners[l]) {
            (0, Some(conditioner)) => conditioner.input_covariance(input),
            (0, None) => input.clone(),
            (_, Some(conditioner)) => conditioner.output_covariance(&covariance.outputs[l]),
            (_, None) => covariance.outputs[l].clone(),
        };
        whole.diagonal_block(group)
    };
    let mut pairs = Eigenpairs::of_each(&sides.collect::<Vec<_>>(), width, made)?.into_iter();
    let mut bases = vec![None; layers.len()];
    for l in trained {
        bases[l] = pairs.next().zip(pairs.next()).map(|(input, output)| Eigenbasis { output, input });
    }
    Ok(bases)
}

/// The same sweep under another name.
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
    use std::sync::Mutex;

    use ascribe_curvature::{LabelDraw, LayerId, Matrix, Objective, Positions};
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::Examples;

    fn layer(name: &str, outputs: usize, input_group: usize) -> LayerSpec {
        LayerSpec { name: name.into(), outputs, inputs: 2, bias: false, input_group }
    }

    fn symmetric(values: &[f64], n: usize) -> Matrix<f64> {
        Matrix::new(values.to_vec(), n, n)
    }

    #[test]
    fn layers_that_share_an_input_have_bases_of_their_own_conditioners() -> Result<(), Error> {
        let layers = [layer("q", 1, 0), layer("k", 1, 0), layer("out", 2, 1)];
        let input = symmetric(&[2.0, 0.7, 0.7, 1.0], 2);
        let covariance = Covariance {
            inputs: vec![Some(input.clone()), Some(input.clone())],
            outputs: vec![symmetric(&[1.0], 1), symmetric(&[3.0], 1), symmetric(&[1.0, 0.2, 0.2, 1.5], 2)],
            positions: 4,
            examples: 4,
        };
        let conditioner = |layer: &LayerSpec, p: &[f64]| Conditioner::<f64>::from_preconditioner(layer, p);
        let conditioners =
            vec![Some(conditioner(&layers[0], &[1.0, 4.0])?), Some(conditioner(&layers[1], &[0.5, 0.1])?), None];
        let found = conditioned_eigenbases(&covariance, &layers, &conditioners, &[], BlockWidth::Any)?;
        for (l, basis) in found.iter().enumerate() {
            let pairs = &basis.as_ref().expect("no layer is frozen").input;
            let u = pairs.vectors.whole();
            for k in 0..4 {
                let rebuilt: f64 = (0..2).map(|j| u.row(k / 2)[j] * pairs.values[j] * u.row(k % 2)[j]).sum();
                let pi = conditioners[l].as_ref().map_or([1.0, 1.0], |c| [c.columns()[0], c.columns()[1]]);
                let want = input.as_slice()[k] * pi[k / 2] * pi[k % 2];
                assert!((rebuilt - want).abs() < 1e-14, "layer {l} [{k}]");
            }
        }
        // without conditioners a frozen layer drops out, and the others keep their places
        let found = conditioned_eigenbases::<f64>(&covariance, &layers, &[], &[0], BlockWidth::Any)?;
        assert!(found[0].is_none());
        assert!((found[1].as_ref().expect("trained").output.values[0] - 3.0).abs() < 1e-15);
        assert_eq!(found[2].as_ref().expect("trained").output.values.len(), 2);
        Ok(())
    }

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
        let network = Asked { layers: [layer("fc", 1, 0)], objectives: Mutex::new(vec![]) };
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
