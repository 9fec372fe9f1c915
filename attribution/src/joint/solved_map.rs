//! What a solve in a subspace made of a query, applied to parts of the query's gradient.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Damping, Factors, LayerId, LayerSpec, Spectrum};

use super::subspace::{groups, spectra};
use super::vectors::put_solution;
use crate::{Error, LegVectors, MemoryVectors, VectorSink};

/// What a solve in a subspace made of one query's gradient, as the linear map that it is once its coefficients are known:
/// a function of each layer's eigenvalues. A sink that hands gradients on to another sink with the map applied: those of
/// a query's parts add up to the query's solution.
#[derive(Debug)]
pub struct SolvedMap<'a, 's, T> {
    factors: &'a Factors<T>,
    specs: &'a [LayerSpec],
    /// For each layer.
    functions: Vec<Spectrum<T>>,
    sink: &'s mut MemoryVectors<T>,
}

impl<'a, 's, T: Real> SolvedMap<'a, 's, T> {
    /// The map of one query of a [`SubspaceSolved`](super::SubspaceSolved), whose space was spanned with these dampings; `coefficients` are its
    /// own, with the norm. What it makes is put into `sink`.
    ///
    /// # Errors
    /// [`Error::Refinement`] if there are not as many coefficients as such a space has directions.
    pub fn new(
        factors: &'a Factors<T>,
        specs: &'a [LayerSpec],
        spanning: &[Damping],
        coefficients: &[f64],
        sink: &'s mut MemoryVectors<T>,
    ) -> Result<Self, Error> {
        let groups = groups(specs.len(), spanning.len());
        let (found, wanted) = (coefficients.len(), groups.len() * spanning.len() + 1);
        if found != wanted {
            let problem = format!("{found} coefficients of a solution in a subspace, where there should be {wanted}");
            return Err(Error::Refinement(problem));
        }
        let norm = coefficients[wanted - 1];
        let per_norm = T::of(if norm > 0.0 { 1.0 / norm } else { 0.0 });
        let mut functions = Vec::with_capacity(specs.len());
        for (group, layers) in groups.iter().enumerate() {
            for &l in layers {
                let along = |j: usize| T::of(coefficients[group * spanning.len() + j]);
                let mut sum = vec![T::of(0.0); specs[l].parameters()];
                // as `Space::combined` adds them up, so that both round alike
                for (j, spectrum) in spectra(&factors.layers[l], spanning).iter().enumerate() {
                    match spectrum {
                        Spectrum::Each(values) => {
                            sum.iter_mut().zip(values).for_each(|(f, value)| *f += along(j) * *value);
                        }
                        Spectrum::All(value) => sum.iter_mut().for_each(|f| *f += along(j) * *value),
                    }
                }
                sum.iter_mut().for_each(|f| *f *= per_norm);
                functions.push(Spectrum::Each(sum));
            }
        }
        Ok(Self { factors, specs, functions, sink })
    }
}

impl<T: Real> VectorSink<T> for SolvedMap<'_, '_, T> {
    fn put(&mut self, leg: usize, layer: LayerId, queries: Range<usize>, found: &LegVectors<T>) -> Result<(), Error> {
        let Some(gradients) = found.vectors().full() else {
            return Err(Error::Refinement("the gradients are not whole".into()));
        };
        let (mut vectors, spec, factors) = (gradients.to_vec(), &self.specs[layer.0], &self.factors.layers[layer.0]);
        factors.rotate(&mut vectors, spec);
        self.functions[layer.0].scale(&mut vectors);
        factors.rotate_back(&mut vectors, spec);
        put_solution(self.sink, (leg, layer.0), queries, vectors, self.specs, self.factors)
    }
}
