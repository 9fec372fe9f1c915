//! The influence of each training example on itself through a whole training run.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{GradientProducts, LayerSpec, Network, Objective, Spectrum, Tap, TapSink};

use super::LegCheckpoint;
use crate::{Error, Leg, Sweep, Walk};

/// A checkpoint that self-influence is summed over.
#[derive(Debug)]
pub struct WalkCheckpoint<'a, N> {
    /// The network with its parameters.
    pub network: &'a N,
    /// The leg that it belongs to.
    pub leg: usize,
    /// `w_a / N_l`.
    pub weight: f64,
}

/// `score(m, m)`: the query is the example's own loss at the final parameters, which `own` has.
///
/// Each batch's gradients are carried through the whole walk and kept for every leg that `checkpoints` name, so the
/// memory of a batch is its gradients times the legs. Checkpoints may also come in several calls, whose results add
/// up. Not necessarily positive: two different gradients meet. An example counts only where its stage has it, so data
/// of different stages come in different calls.
///
/// # Errors
/// [`Error::NonFiniteScore`]; the networks', [`Error::Interrupted`].
///
/// # Source
/// `docs/method.md`, Source.
pub fn self_influence<N: Network, T: Real>(
    own: &Sweep<'_, N>,
    walk: &Walk<'_, T>,
    checkpoints: &[WalkCheckpoint<'_, N>],
) -> Result<Vec<f64>, Error> {
    let layers = own.network.layers();
    let wanted = |leg: usize| checkpoints.iter().any(|checkpoint| checkpoint.leg == leg);
    let mut products = GradientProducts::<T>::default().with_products(own.network.products());
    let batch = |values: &mut Vec<f64>, range: Range<usize>, batch: &N::Batch| {
        let mut carried: Vec<Vec<Vec<T>>> = walk.legs.iter().map(|_| vec![vec![]; layers.len()]).collect();
        let mut carry = Gradients {
            layers,
            products: &mut products,
            take: |layer: usize, gradients: Vec<T>| {
                let keep = |leg: usize, vectors: &[T]| -> Result<(), std::convert::Infallible> {
                    if wanted(leg) {
                        carried[leg][layer] = vectors.to_vec();
                    }
                    Ok(())
                };
                let Ok(()) = walk.carry(layer, &layers[layer], gradients, keep);
            },
        };
        own.network.differentiate(batch, Objective::TrainingLoss, &mut carry)?;
        let mut sums = vec![0.0; range.len()];
        for WalkCheckpoint { network, leg, weight } in checkpoints {
            let mut meet = Gradients {
                layers,
                products: &mut products,
                take: |layer: usize, gradients: Vec<T>| {
                    let size = layers[layer].parameters();
                    let pairs = carried[*leg][layer].chunks_exact(size).zip(gradients.chunks_exact(size));
                    for (sum, (z, g)) in sums.iter_mut().zip(pairs) {
                        *sum += weight * z.iter().zip(g).map(|(z, g)| z.wide() * g.wide()).sum::<f64>();
                    }
                },
            };
            network.differentiate(batch, Objective::TrainingLoss, &mut meet)?;
        }
        finite(values, sums, range)
    };
    let mut values = Vec::with_capacity(own.range.len());
    own.run(own.range.start, &mut values, batch, |_, _| Ok(()))?;
    Ok(values)
}

/// `(1/N_l) <F_R(H_l) g, g>` with each example's mean gradient `g` over one leg's checkpoints: never negative, without
/// a walk. Sums over legs rank mislabelled examples (`self-influence = local`).
///
/// All checkpoints' sweeps go over the same examples; the first one's is run.
///
/// # Errors
/// As [`self_influence`].
///
/// # Source
/// `docs/method.md`, Source.
pub fn leg_self_influence<N: Network, T: Real>(
    leg: &Leg<'_, T>,
    checkpoints: &[LegCheckpoint<'_, N>],
    n_examples: usize,
) -> Result<Vec<f64>, Error> {
    let Some(LegCheckpoint { sweep, .. }) = checkpoints.first() else { return Ok(vec![]) };
    let layers = sweep.network.layers();
    let spectra: Vec<Spectrum<T>> = (0..layers.len()).map(|l| leg.spectrum(l, &leg.response)).collect();
    let mut products = GradientProducts::<T>::default().with_products(sweep.network.products());
    let batch = |values: &mut Vec<f64>, range: Range<usize>, batch: &N::Batch| {
        let mut means: Vec<Vec<T>> =
            layers.iter().map(|layer| vec![T::of(0.0); range.len() * layer.parameters()]).collect();
        for checkpoint in checkpoints {
            let weight = T::of(checkpoint.weight);
            let mut add = Gradients {
                layers,
                products: &mut products,
                take: |layer: usize, gradients: Vec<T>| {
                    means[layer].iter_mut().zip(gradients).for_each(|(mean, g)| *mean += weight * g);
                },
            };
            checkpoint.sweep.network.differentiate(batch, Objective::TrainingLoss, &mut add)?;
        }
        let mut sums = vec![0.0; range.len()];
        for (l, mut gradients) in means.into_iter().enumerate() {
            if leg.frozen.contains(&l) {
                continue;
            }
            leg.enter(l, &layers[l], &mut gradients);
            let mut scaled = gradients.clone();
            spectra[l].scale(&mut scaled);
            let size = layers[l].parameters();
            let pairs = scaled.chunks_exact(size).zip(gradients.chunks_exact(size));
            for (sum, (f, g)) in sums.iter_mut().zip(pairs) {
                *sum += f.iter().zip(g).map(|(f, g)| f.wide() * g.wide()).sum::<f64>() / n_examples as f64;
            }
        }
        finite(values, sums, range)
    };
    let mut values = Vec::with_capacity(sweep.range.len());
    sweep.run(sweep.range.start, &mut values, batch, |_, _| Ok(()))?;
    Ok(values)
}

fn finite(values: &mut Vec<f64>, sums: Vec<f64>, range: Range<usize>) -> Result<(), Error> {
    if !sums.iter().all(|value| value.is_finite()) {
        return Err(Error::NonFiniteScore(range));
    }
    values.extend(sums);
    Ok(())
}

/// Hands on the gradients of a batch, `[B, O, columns]` for each layer.
struct Gradients<'a, T, F> {
    layers: &'a [LayerSpec],
    products: &'a mut GradientProducts<T>,
    take: F,
}

impl<T: Real, F: FnMut(usize, Vec<T>)> TapSink for Gradients<'_, T, F> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let layer = tap.layer.0;
        let gradients = self.products.gradients(tap, &self.layers[layer])?;
        (self.take)(layer, gradients);
        Ok(())
    }
}
