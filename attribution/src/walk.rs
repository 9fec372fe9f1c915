use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Damping, Factors, LayerFactors, LayerSpec, SpectralFn};

/// A function of the curvature that may depend on the layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LegFn {
    /// `1 / (σ + damping)`, the damping resolved for each layer.
    Inverse(Damping),
    /// The same function for every layer.
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
    /// The leg's curvature.
    pub factors: &'a Factors<T>,
    /// Turns the carried vector into the leg's cached inverse-Hessian-vector product.
    pub response: LegFn,
    /// Turns the carried vector into what the leg before it receives; not used by the first leg.
    pub decay: LegFn,
}

/// The legs of a method from first to last; a query is carried from the last to the first.
///
/// # Source
/// METHOD §4.1 (14).
#[derive(Debug)]
pub struct Walk<'a, T> {
    /// In the order of training.
    pub legs: Vec<Leg<'a, T>>,
}

impl<'a, T: Real> Walk<'a, T> {
    /// Influence functions: one leg with `1 / (σ + damping)` (METHOD §3).
    pub fn influence(factors: &'a Factors<T>, damping: Damping) -> Self {
        let decay = LegFn::Same(SpectralFn::Constant(1.0));
        Self { legs: vec![Leg { factors, response: LegFn::Inverse(damping), decay }] }
    }

    /// Carries vectors of one layer through all legs, last leg first, handing each leg's product to
    /// `take(leg, vectors)`.
    ///
    /// # Shapes
    /// `vectors: [Q, O, columns]`, gradients of the queries' costs.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn carry<E>(
        &self,
        layer: usize,
        spec: &LayerSpec,
        mut vectors: Vec<T>,
        mut take: impl FnMut(usize, &[T]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, leg) in self.legs.iter().enumerate().rev() {
            let factors = &leg.factors.layers[layer];
            factors.rotate(&mut vectors, spec);
            let mut product = vectors.clone();
            factors.spectrum(&leg.response.for_layer(factors)).scale(&mut product);
            factors.rotate_back(&mut product, spec);
            take(index, &product)?;
            if index > 0 {
                factors.spectrum(&leg.decay.for_layer(factors)).scale(&mut vectors);
                factors.rotate_back(&mut vectors, spec);
            }
        }
        Ok(())
    }
}
