use ascribe_curvature::gemm::{Real, Threads};
use ascribe_curvature::random::stream;
use ascribe_curvature::{
    Covariance, CovarianceSum, CurvatureKind, Eigenbasis, Eigenpairs, Factors, LambdaSum, LayerFactors, LayerSpec,
    Network, Tap, TapSink,
};
use rayon::prelude::*;

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
        let mut sum = CovarianceSum::<T>::new(layers);
        of_pass(sweep, Pass::Covariance).differentiate(sweep.range.start, &objectives, &mut sum, |sum, chunk| {
            Ok(sum.flush(chunk.examples, objectives.len())?)
        })?;
        pool.add(*weight, &sum.finish()?)?;
    }
    let bases = conditioned_eigenbases(&pool.finish()?, layers, &conditioners, frozen)?;
    let mut pool = LambdaPool::default();
    for LegCheckpoint { sweep, weight } in checkpoints {
        let objectives = labels.objectives(stream::LAMBDA);
        let mut slices = vec![None; layers.len()];
        for (slice, conditioner) in slices.iter_mut().zip(&conditioners) {
            *slice = conditioner.as_ref().map(|conditioner| conditioner.h().as_slice());
        }
        let sum = LambdaSum::<T>::new(layers, bases.iter().map(Option::as_ref).collect()).conditioned(slices);
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

/// The eigenbasis of each layer's covariances, conditioned where there is a conditioner; `None` for frozen layers.
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
) -> Result<Vec<Option<Eigenbasis<T>>>, Error> {
    if conditioners.is_empty() {
        let bases = Eigenbasis::of_layers(covariance, layers)?;
        return Ok(bases.into_iter().enumerate().map(|(l, basis)| (!frozen.contains(&l)).then_some(basis)).collect());
    }
    let basis = |(l, layer): (usize, &LayerSpec)| {
        if frozen.contains(&l) {
            return Ok(None);
        }
        let input = covariance.inputs[layer.input_group].as_ref();
        let input = input.expect("every layer's input group has a covariance");
        let (input, output) = match &conditioners[l] {
            Some(conditioner) => {
                (conditioner.input_covariance(input), conditioner.output_covariance(&covariance.outputs[l]))
            }
            None => (input.clone(), covariance.outputs[l].clone()),
        };
        let input = Eigenpairs::of(&input, &layer.name, "input", Threads::One)?;
        let output = Eigenpairs::of(&output, &layer.name, "output", Threads::One)?;
        Ok(Some(Eigenbasis { output, input }))
    };
    layers.par_iter().enumerate().with_max_len(1).map(basis).collect()
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
