//! A vector that is carried through legs, each with its own curvature: influence is a walk of one leg, Source one of
//! several.

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Damping, Eigenbasis, Factors, LayerFactors, LayerSpec, Momentum, SpectralFn, Spectrum};
use rayon::prelude::*;

use crate::leg_product::LegProduct;
use crate::source::{Conditioner, at_rate, momentum_at_rate};

/// A function of the curvature that may depend on the layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LegFn {
    /// `1 / (σ + damping)`, the damping resolved for each layer.
    Inverse(Damping),
    /// One function for all layers.
    Same(SpectralFn),
}

impl LegFn {
    /// The function for one layer.
    pub fn for_layer<T: Real>(&self, layer: &LayerFactors<T>) -> SpectralFn {
        match self {
            // identity curvature is 1 and stays undamped
            Self::Inverse(_) if layer.lambda.is_none() => SpectralFn::Constant(1.0),
            Self::Inverse(damping) => SpectralFn::Inverse { damping: layer.damping(*damping) },
            Self::Same(f) => f.clone(),
        }
    }
}

/// One leg: curvature, what it makes of the vector that is carried through it, and what it leaves.
#[derive(Debug)]
pub struct Leg<'a, T> {
    /// The leg's curvature; that of the conditioned gradients if there are conditioners.
    pub factors: &'a Factors<T>,
    /// Turns the carried vector into the leg's cached inverse-Hessian-vector product.
    pub response: LegFn,
    /// Turns the carried vector into what the leg before it receives; not used by the first leg.
    pub decay: LegFn,
    /// How a preconditioned optimizer scales each parameter, by layer; empty if it does not.
    pub conditioners: &'a [Option<Conditioner<T>>],
    /// What multiplies weight decay in each eigen-direction, `[O, columns]` by layer; empty means 1.
    pub decay_factors: Vec<Vec<f64>>,
    /// Layers that the leg did not train, by index: it leaves what is carried and responds to no example.
    pub frozen: Vec<usize>,
    /// What multiplies every rate in a layer, by layer; empty means 1.
    pub layer_rates: Vec<f64>,
    /// Momentum followed exactly, in place of `response` and `decay`.
    pub momentum: Option<Momentum>,
    /// Where the leg's momentum buffer came from.
    pub buffer: Buffer,
}

/// The momentum buffer at the start of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffer {
    /// The one that the leg before it left.
    Continued,
    /// A new optimizer's: empty.
    New,
}

impl<'a, T: Real> Leg<'a, T> {
    /// A leg without an optimizer's state: curvature, response and decay.
    pub fn new(factors: &'a Factors<T>, response: LegFn, decay: LegFn) -> Self {
        Self {
            factors,
            response,
            decay,
            conditioners: &[],
            decay_factors: vec![],
            frozen: vec![],
            layer_rates: vec![],
            momentum: None,
            buffer: Buffer::New,
        }
    }

    /// A function's values on one layer's eigenvalues.
    pub fn spectrum(&self, layer: usize, f: &LegFn) -> Spectrum<T> {
        let factors = &self.factors.layers[layer];
        let f = at_rate(f.for_layer(factors), self.layer_rate(layer));
        match (self.decay_factors.get(layer), &factors.lambda) {
            (Some(decay_factors), Some(lambda)) => {
                let values = lambda.as_slice().iter().zip(decay_factors);
                Spectrum::Each(values.map(|(&sigma, &factor)| T::of(f.at_decayed(sigma, factor))).collect())
            }
            _ => factors.spectrum(&f),
        }
    }

    fn layer_rate(&self, layer: usize) -> f64 {
        self.layer_rates.get(layer).copied().unwrap_or(1.0)
    }

    fn conditioner(&self, layer: usize) -> Option<&'a Conditioner<T>> {
        self.conditioners.get(layer)?.as_ref()
    }

    /// The eigenbasis in which a walk that ends with this leg may be given its gradients: none if they are conditioned
    /// before, or not needed there.
    fn entrance(&self, layer: usize) -> Option<&'a Eigenbasis<T>> {
        let is_plain = self.conditioner(layer).is_none() && !self.frozen.contains(&layer);
        self.factors.layers[layer].basis.as_ref().filter(|_| is_plain)
    }

    /// Takes vectors of one layer into the leg's eigenbasis, conditioned.
    pub(crate) fn enter(&self, layer: usize, spec: &LayerSpec, vectors: &mut [T]) {
        if let Some(conditioner) = self.conditioner(layer) {
            conditioner.multiply(vectors);
        }
        self.factors.layers[layer].rotate(vectors, spec);
    }

    /// The momentum map in every eigen-direction as six spectra, `[R_x, R_u, M_xx, M_ux, M_xu, M_uu]`.
    fn transfers(&self, layer: usize, momentum: &Momentum) -> [Spectrum<T>; 6] {
        let lambda = self.factors.layers[layer].lambda.as_ref().map_or(&[1.0][..], |lambda| lambda.as_slice());
        let decay_factors = self.decay_factors.get(layer);
        let momentum = &momentum_at_rate(momentum, self.layer_rate(layer));
        // a value takes as long as the segment has steps
        let found: Vec<[f64; 6]> = lambda
            .par_iter()
            .enumerate()
            .map(|(k, &sigma)| {
                let found = momentum.at(sigma, decay_factors.map_or(1.0, |factors| factors[k]));
                let ([r_x, r_u], [[xx, xu], [ux, uu]]) = (found.response, found.matrix);
                [r_x, r_u, xx, ux, xu, uu]
            })
            .collect();
        let values = std::array::from_fn(|part| found.iter().map(|values| T::of(values[part])).collect::<Vec<T>>());
        values.map(|values| match self.factors.layers[layer].lambda {
            Some(_) => Spectrum::Each(values),
            None => Spectrum::All(values[0]),
        })
    }

    /// Carries the pair `(y_x, y_u)`, `y_x` in the eigenbasis already; returns the leg's product there, not conditioned.
    /// Without `before` nothing has to be left.
    fn carry_pair(
        &self,
        layer: usize,
        spec: &LayerSpec,
        momentum: &Momentum,
        pair: &mut [Vec<T>; 2],
        before: Before,
    ) -> Vec<T> {
        let (factors, conditioner) = (&self.factors.layers[layer], self.conditioner(layer));
        let [r_x, r_u, xx, ux, xu, uu] = self.transfers(layer, momentum);
        let [x, u] = pair;
        // the buffer holds gradients, so its adjoint is conditioned the other way round
        if let Some(conditioner) = conditioner {
            conditioner.divide(u);
        }
        factors.rotate(u, spec);
        let combine = |a: &Spectrum<T>, b: &Spectrum<T>, x: &[T], u: &[T]| {
            let (mut sum, mut part) = (x.to_vec(), u.to_vec());
            a.scale(&mut sum);
            b.scale(&mut part);
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            sum
        };
        let mut product = combine(&r_x, &r_u, x, u);
        product.iter_mut().for_each(|z| *z = T::of(0.0) - *z);
        if before == Before::Leg {
            let left = [combine(&xx, &ux, x, u), combine(&xu, &uu, x, u)];
            *pair = left;
            pair.iter_mut().for_each(|part| factors.rotate_back(part, spec));
            if let Some(conditioner) = conditioner {
                conditioner.divide(&mut pair[0]);
                conditioner.multiply(&mut pair[1]);
            }
        }
        product
    }
}

/// Whether a leg has one before it, which gets what the leg leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Leg,
    Nothing,
}

/// What a walk begins with at one layer: gradients of the queries' costs, `[Q, O, columns]`.
#[derive(Debug, Clone)]
pub(crate) enum Start<T> {
    /// The gradients in the coordinates of the parameters.
    Gradients(Vec<T>),
    /// The gradients in the last leg's eigenbasis ([`Walk::entrance`]).
    Entered(Vec<T>),
}

/// The legs of a method from first to last; a query is carried from the last to the first.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug)]
pub struct Walk<'a, T> {
    /// In the order of training.
    pub legs: Vec<Leg<'a, T>>,
}

impl<'a, T: Real> Walk<'a, T> {
    /// Influence functions: one leg with `1 / (σ + damping)` (`docs/method.md`, Score).
    pub fn influence(factors: &'a Factors<T>, damping: Damping) -> Self {
        let decay = LegFn::Same(SpectralFn::Constant(1.0));
        Self { legs: vec![Leg::new(factors, LegFn::Inverse(damping), decay)] }
    }

    /// The query's gradient as it is, for gradient products at one checkpoint: with weights `(Σ η) c / N` and summed
    /// over checkpoints this is TracIn, each checkpoint with its own query gradients (`docs/method.md`, Source). `factors` is
    /// [`Factors::identity`].
    pub fn gradients(factors: &'a Factors<T>) -> Self {
        let one = || LegFn::Same(SpectralFn::Constant(1.0));
        Self { legs: vec![Leg::new(factors, one(), one())] }
    }

    /// Carries vectors of one layer through all legs, last leg first, handing each leg's product to
    /// `take(leg, vectors)`.
    ///
    /// # Shapes
    /// `vectors: [Q, O, columns]`, gradients of the queries' costs.
    ///
    /// # Errors
    /// Those of `take`.
    ///
    /// # Source
    /// `docs/method.md`, Source.
    pub fn carry<E>(
        &self,
        layer: usize,
        spec: &LayerSpec,
        vectors: Vec<T>,
        mut take: impl FnMut(usize, &[T]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.products(layer, spec, Start::Gradients(vectors), |leg, product| take(leg, &product.full()))
    }

    /// The eigenbasis for [`Start::Entered`]: the last leg's, if gradients of this layer may come in it.
    pub(crate) fn entrance(&self, layer: usize) -> Option<&'a Eigenbasis<T>> {
        self.legs.last()?.entrance(layer)
    }

    /// [`Walk::carry`] where `take` decides in which form it wants a leg's product.
    pub(crate) fn products<E>(
        &self,
        layer: usize,
        spec: &LayerSpec,
        start: Start<T>,
        mut take: impl FnMut(usize, LegProduct<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut vectors, mut has_entered) = match start {
            Start::Gradients(vectors) => (vectors, false),
            Start::Entered(vectors) => (vectors, true),
        };
        // The part for the momentum buffer; none is zero.
        let mut buffer: Option<Vec<T>> = None;
        for (index, leg) in self.legs.iter().enumerate().rev() {
            let before = if index > 0 { Before::Leg } else { Before::Nothing };
            let (factors, conditioner) = (&leg.factors.layers[layer], leg.conditioner(layer));
            let place = Some((factors, conditioner));
            if leg.frozen.contains(&layer) {
                let zeros = vec![T::of(0.0); vectors.len()];
                take(index, LegProduct { vectors: zeros, spec, place: None })?;
                if leg.buffer == Buffer::New {
                    buffer = None;
                }
                continue;
            }
            if !std::mem::take(&mut has_entered) {
                leg.enter(layer, spec, &mut vectors);
            }
            if let Some(momentum) = &leg.momentum {
                let zeros = || vec![T::of(0.0); vectors.len()];
                let start = buffer.take().unwrap_or_else(zeros);
                let mut pair = [vectors, start];
                let product = leg.carry_pair(layer, spec, momentum, &mut pair, before);
                take(index, LegProduct { vectors: product, spec, place })?;
                let [x, u] = pair;
                vectors = x;
                buffer = Some(u);
            } else {
                let mut product = if before == Before::Leg { vectors.clone() } else { std::mem::take(&mut vectors) };
                leg.spectrum(layer, &leg.response).scale(&mut product);
                take(index, LegProduct { vectors: product, spec, place })?;
                if before == Before::Leg {
                    leg.spectrum(layer, &leg.decay).scale(&mut vectors);
                    factors.rotate_back(&mut vectors, spec);
                    if let Some(conditioner) = conditioner {
                        conditioner.divide(&mut vectors);
                    }
                }
                buffer = None;
            }
            leg.factors.layers[layer].forget();
            if leg.buffer == Buffer::New {
                buffer = None;
            }
        }
        Ok(())
    }
}
