//! Gradients of queries on their way into joint solves, and solutions on their way out.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Damping, Factors, LayerId, LayerSpec, Vectors};

use super::block::Block;
use crate::leg_product::LegProduct;
use crate::{Error, VectorForm, VectorSink, VectorSource};

/// The gradients of these queries, each divided by its norm, and the norms: gradients of queries differ by orders of
/// magnitude, and systems of one size can be compared.
///
/// # Errors
/// [`Error::Refinement`] for gradients that are not whole or not finite; the source's.
pub(super) fn unit_gradients<T: Real>(
    specs: &[LayerSpec],
    gradients: &dyn VectorSource<T>,
    queries: Range<usize>,
) -> Result<(Block<T>, Vec<f64>), Error> {
    let mut q = Block { count: queries.len(), layers: Vec::with_capacity(specs.len()) };
    for (l, spec) in specs.iter().enumerate() {
        match gradients.vectors(0, LayerId(l))? {
            Vectors::Full(all) => {
                let size = spec.parameters();
                q.layers.push(all[queries.start * size..queries.end * size].to_vec());
            }
            Vectors::LowRank(_) => return Err(Error::Refinement("the gradients are not whole".into())),
        }
    }
    let norms: Vec<f64> = q.squares().into_iter().map(f64::sqrt).collect();
    if let Some(query) = norms.iter().position(|norm| !norm.is_finite()) {
        return Err(Error::Refinement(format!("the gradient of query {query} of the block holds NaN or infinity")));
    }
    q.scale(&norms.iter().map(|&norm| if norm > 0.0 { 1.0 / norm } else { 0.0 }).collect::<Vec<_>>());
    Ok((q, norms))
}

/// What each of these dampings adds to each layer, `[dampings][layers]`.
///
/// # Errors
/// [`Error::Refinement`] if that is nothing for the first of them.
pub(super) fn layer_dampings<T: Real>(
    specs: &[LayerSpec],
    factors: &Factors<T>,
    dampings: &[Damping],
) -> Result<Vec<Vec<f64>>, Error> {
    let of_layers = |damping: &Damping| factors.layers.iter().map(|layer| layer.damping(*damping)).collect();
    let found: Vec<Vec<f64>> = dampings.iter().map(of_layers).collect();
    if let Some(l) = found[0].iter().position(|&damping| damping <= 0.0 || !damping.is_finite()) {
        return Err(Error::Refinement(format!("layer `{}`: nothing is added to its curvature", specs[l].name)));
    }
    Ok(found)
}

/// Hands one layer of these queries' solutions to a sink, in the form that it wants, as the leg and layer `place`.
///
/// # Errors
/// [`Error::Refinement`] for solutions that are not finite; the sink's.
pub(super) fn put_solution<T: Real>(
    sink: &mut dyn VectorSink<T>,
    place: (usize, usize),
    queries: Range<usize>,
    vectors: Vec<T>,
    specs: &[LayerSpec],
    factors: &Factors<T>,
) -> Result<(), Error> {
    let (leg, l) = place;
    let (form, spec) = (sink.form(), &specs[l]);
    if vectors.iter().any(|x| !x.wide().is_finite()) {
        return Err(Error::Refinement(format!("layer `{}`: the solution holds NaN or infinity", spec.name)));
    }
    let product = match form {
        VectorForm::Full => LegProduct { vectors, spec, place: None },
        VectorForm::LowRank(_) | VectorForm::InBasis => {
            LegProduct::of_standard_basis(vectors, spec, &factors.layers[l])
        }
    };
    sink.put(leg, LayerId(l), queries, &product.into_form(form)?)
}
