//! Queries carried through the segments of a training run with the Gauss-Newton matrix H of all tracked layers jointly:
//! response `r(H) y` and decay `d(H) y` of each leg in a space of few products (Lanczos's approximation of functions of a
//! matrix, for a block of queries; Hochbruck and Lubich 1997).
//!
//! The space is spanned by what arrives, `q`, and by what it leaves over after each product. With an orthonormal basis V
//! and `T = Vᵀ H V` the response is `V r(T) Vᵀ q` and the decay `V d(T) Vᵀ q`. Both come of `y' = -H y`, `y(0) = q`, of which
//! `V exp(-tT) Vᵀ q` is the solution but for a defect outside the space; its integral over the leg is
//! `ρ = (1 - V Vᵀ)(q - H V r(T) Vᵀ q)`. It is known without another product, is 0 if the space is large enough, is the next
//! direction, and decays as the layers' own curvature says, which never enlarges it.

use std::ops::Range;

use ascribe_curvature::gemm::{self, Real, Threads, View, ViewMut};
use ascribe_curvature::{Eigenpairs, LayerId, LayerSpec, Network, SpectralFn, SymmetricMatrix};

use super::block::Block;
use super::products::multiply;
use super::space::{Space, negligible, part};
use super::vectors::unit_gradients;
use crate::leg_product::LegProduct;
use crate::{Error, Leg, LegFn, Sweep, VectorForm, VectorSink, VectorSource, Walk};

/// What carries the queries.
#[derive(Debug)]
pub struct Carrying<'a, T> {
    /// The segments, with the approximate curvature of each: what the space does not hold decays by that.
    pub walk: &'a Walk<'a, T>,
    /// The tracked layers.
    pub layers: &'a [LayerSpec],
    /// Products with H for each leg, at least 1.
    pub products: usize,
    /// Numbers of the tangents of one layer that may exist together; one direction moves in any case.
    pub tangents: usize,
    /// Numbers that the widest layer has for each position of a batch.
    pub widest: usize,
}

/// Takes a checkpoint of a leg: its weight, which sum to 1, and a sweep over the examples that H is the mean of.
pub type Visit<'a, N, E> = dyn FnMut(f64, &Sweep<'_, N>) -> Result<(), E> + 'a;

/// Shows every checkpoint of a leg.
pub type Checkpoints<'a, N, E> = dyn Fn(usize, &mut Visit<'_, N, E>) -> Result<(), E> + 'a;

/// Carries queries whose gradients are `gradients`, which has one leg, through all legs, the last first, and puts what each
/// leg responds into `sink` under the numbers `queries`. Returns for each leg and query `|ρ| / |y|`, what the space did not
/// explain of the vector that arrived there.
///
/// # Errors
/// [`Error::Refinement`] for vectors that are not finite, negative curvature, and legs that are no functions of one matrix:
/// momentum followed as a pair, layers with rates of their own, weight decay that a preconditioner changes. The networks',
/// the sink's, [`Error::Interrupted`].
pub fn carry_queries<N: Network, T: Real, E: From<Error>>(
    carrying: &Carrying<'_, T>,
    checkpoints: &Checkpoints<'_, N, E>,
    gradients: &dyn VectorSource<T>,
    queries: Range<usize>,
    sink: &mut dyn VectorSink<T>,
) -> Result<Vec<Vec<f64>>, E> {
    let specs = carrying.layers;
    if carrying.products == 0 {
        return Err(Error::Refinement("no product is asked for".into()).into());
    }
    let (mut carried, norms) = unit_gradients(specs, gradients, queries.clone())?;
    let mut residuals = vec![vec![]; carrying.walk.legs.len()];
    for (index, leg) in carrying.walk.legs.iter().enumerate().rev() {
        let functions = functions(leg)?;
        let mut q = carried.clone();
        coordinates(leg, &mut q);
        let arrived: Vec<f64> = q.squares().into_iter().map(f64::sqrt).collect();
        q.normalise();
        let product = |along: &Block<T>| multiply_leg(carrying, checkpoints, index, along);
        let answered = answer(carrying, &q, functions, product)?;
        residuals[index] = answered.left.squares().into_iter().map(f64::sqrt).collect();
        let mut response = answered.space.combine(specs, &answered.response, q.count);
        response.scale(&arrived.iter().zip(&norms).map(|(a, b)| a * b).collect::<Vec<_>>());
        for (l, vectors) in response.layers.into_iter().enumerate() {
            put(sink, leg, (index, l), queries.clone(), vectors, specs)?;
        }
        if index > 0 {
            let mut decayed = answered.space.combine(specs, &answered.decay, q.count);
            drop(answered.space);
            let left = leave(leg, specs, answered.left);
            for (to, from) in decayed.layers.iter_mut().zip(&left.layers) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
            }
            decayed.scale(&arrived);
            for (l, vectors) in decayed.layers.into_iter().enumerate().filter(|(l, _)| !leg.frozen.contains(l)) {
                carried.layers[l] = vectors;
                if let Some(conditioner) = conditioner(leg, l) {
                    conditioner.divide(&mut carried.layers[l]);
                }
            }
        }
        leg.factors.layers.iter().for_each(ascribe_curvature::LayerFactors::forget);
    }
    Ok(residuals)
}

/// Response and decay of a leg, as functions of one matrix for all layers.
fn functions<'l, T>(leg: &'l Leg<'_, T>) -> Result<[&'l SpectralFn; 2], Error> {
    let plain = leg.momentum.is_none() && leg.decay_factors.is_empty() && leg.layer_rates.is_empty();
    match (&leg.response, &leg.decay) {
        (LegFn::Same(response), LegFn::Same(decay)) if plain => Ok([response, decay]),
        _ => Err(Error::Refinement("a leg is no function of one matrix of all layers".into())),
    }
}

fn conditioner<'a, T>(leg: &Leg<'a, T>, layer: usize) -> Option<&'a crate::source::Conditioner<T>> {
    leg.conditioners.get(layer)?.as_ref()
}

/// Multiplies with the optimizer's `h`, and with 0 where the leg trained nothing: vectors into the coordinates in which it
/// does plain descent, and gradients too.
fn coordinates<T: Real>(leg: &Leg<'_, T>, vectors: &mut Block<T>) {
    for (l, layer) in vectors.layers.iter_mut().enumerate() {
        if leg.frozen.contains(&l) {
            layer.fill(T::of(0.0));
        } else if let Some(conditioner) = conditioner(leg, l) {
            conditioner.multiply(layer);
        }
    }
}

/// `h ⊙ H (h ⊙ v)`, H the mean over a leg's checkpoints.
fn multiply_leg<N: Network, T: Real, E: From<Error>>(
    carrying: &Carrying<'_, T>,
    checkpoints: &Checkpoints<'_, N, E>,
    index: usize,
    along: &Block<T>,
) -> Result<Block<T>, E> {
    let leg = &carrying.walk.legs[index];
    let mut moved = along.clone();
    coordinates(leg, &mut moved);
    let mut sum = Block::zeros(carrying.layers, along.count);
    checkpoints(index, &mut |weight, sweep| {
        let product = multiply(sweep, &moved, carrying.tangents / carrying.widest.max(1))?;
        for (sum, layer) in sum.layers.iter_mut().zip(product.layers) {
            sum.iter_mut().zip(layer).for_each(|(sum, x)| *sum += T::of(weight * x.wide()));
        }
        Ok(())
    })?;
    coordinates(leg, &mut sum);
    Ok(sum)
}

/// What a space makes of unit vectors.
struct Answered<T> {
    space: Space<T>,
    /// Coefficients in the space's basis, `[s, Q]`.
    response: Vec<f64>,
    decay: Vec<f64>,
    /// ρ.
    left: Block<T>,
}

/// Grows the space by `product` of what is left over.
fn answer<T: Real, E: From<Error>>(
    carrying: &Carrying<'_, T>,
    q: &Block<T>,
    [response, decay]: [&SpectralFn; 2],
    product: impl Fn(&Block<T>) -> Result<Block<T>, E>,
) -> Result<Answered<T>, E> {
    let (specs, negligible) = (carrying.layers, negligible::<T>());
    let mut found = Answered { space: Space::new(0), response: vec![], decay: vec![], left: q.clone() };
    for _ in 0..carrying.products {
        let lengths = found.left.squares().into_iter().map(f64::sqrt).enumerate();
        let moving: Vec<usize> = lengths.filter(|(_, length)| *length > negligible).map(|(k, _)| k).collect();
        let next = found.space.orthonormal(specs, found.left.chosen(&moving), negligible);
        if next.count == 0 {
            break;
        }
        let product = product(&next)?;
        found.space.add(next, product, q, &[]);
        let eigenpairs = found.space.eigenpairs()?;
        found.response = found.space.of_eigenvalues(&eigenpairs, response);
        found.decay = found.space.of_eigenvalues(&eigenpairs, decay);
        found.left = found.space.left_over(q, &found.response);
    }
    Ok(found)
}

impl<T: Real> Space<T> {
    /// The eigenpairs of `Vᵀ H V`.
    fn eigenpairs(&self) -> Result<Eigenpairs<f64>, Error> {
        let matrix = SymmetricMatrix::from_fn(self.size, |i, j| self.projected[i * self.size + j]);
        Eigenpairs::of(&matrix, "all", "joint", Threads::Pool).map_err(|error| {
            Error::Refinement(match error {
                ascribe_curvature::Error::NegativeEigenvalue { value, largest, .. } => format!(
                    "its curvature is {value:e} along a direction that was tried, below 0 by more than rounding of its largest, {largest:e}: `--dtype f64` helps"
                ),
                _ => "the matrix along the directions that were tried has no eigenvalues".into(),
            })
        })
    }

    /// `f(Vᵀ H V) Vᵀ q`, `[s, Q]`.
    fn of_eigenvalues(&self, eigenpairs: &Eigenpairs<f64>, f: &SpectralFn) -> Vec<f64> {
        let (s, queries) = (self.size, self.right.len() / self.size.max(1));
        let u = eigenpairs.vectors.whole();
        let u = View::dense(u.as_slice(), s, s);
        let (mut inside, mut found) = (vec![0.0; s * queries], vec![0.0; s * queries]);
        let right = View::dense(&self.right, s, queries);
        gemm::matmul(ViewMut::dense(&mut inside, s, queries), gemm::Into::Replace, 1.0, u.t(), right, Threads::Pool);
        for (row, value) in inside.chunks_exact_mut(queries.max(1)).zip(&eigenpairs.values) {
            let f = f.at(*value);
            row.iter_mut().for_each(|x| *x *= f);
        }
        let inside = View::dense(&inside, s, queries);
        gemm::matmul(ViewMut::dense(&mut found, s, queries), gemm::Into::Replace, 1.0, u, inside, Threads::Pool);
        found
    }

    /// `(1 - V Vᵀ)(q - H V c)`.
    fn left_over(&self, q: &Block<T>, coefficients: &[f64]) -> Block<T> {
        let mut left = q.clone();
        let mut start = 0;
        for (v, hv) in &self.parts {
            left.add(&part(coefficients, q.count, start, v.count, -1.0), hv, |_| 1.0);
            start += v.count;
        }
        for (v, _) in &self.parts {
            let along = left.products(v, |_| -1.0);
            left.add(&along, v, |_| 1.0);
        }
        left
    }
}

/// What a leg's approximate curvature leaves of vectors, in the leg's coordinates.
fn leave<T: Real>(leg: &Leg<'_, T>, specs: &[LayerSpec], mut vectors: Block<T>) -> Block<T> {
    for (l, (layer, spec)) in vectors.layers.iter_mut().zip(specs).enumerate().filter(|(l, _)| !leg.frozen.contains(l))
    {
        let factors = &leg.factors.layers[l];
        factors.rotate(layer, spec);
        leg.spectrum(l, &leg.decay).scale(layer);
        factors.rotate_back(layer, spec);
    }
    vectors
}

/// Hands one layer of a leg's response to a sink, in the form that it wants; `vectors` are in the leg's coordinates.
fn put<T: Real>(
    sink: &mut dyn VectorSink<T>,
    leg: &Leg<'_, T>,
    (index, l): (usize, usize),
    queries: Range<usize>,
    mut vectors: Vec<T>,
    specs: &[LayerSpec],
) -> Result<(), Error> {
    let (spec, form) = (&specs[l], sink.form());
    if vectors.iter().any(|x| !x.wide().is_finite()) {
        return Err(Error::Refinement(format!("layer `{}`: the response holds NaN or infinity", spec.name)));
    }
    let (factors, conditioner) = (&leg.factors.layers[l], conditioner(leg, l));
    let product = match form {
        _ if leg.frozen.contains(&l) => LegProduct { vectors, spec, place: None },
        VectorForm::Full => {
            if let Some(conditioner) = conditioner {
                conditioner.multiply(&mut vectors);
            }
            LegProduct { vectors, spec, place: None }
        }
        VectorForm::LowRank(_) | VectorForm::InBasis => {
            factors.rotate(&mut vectors, spec);
            LegProduct { vectors, spec, place: Some((factors, conditioner)) }
        }
    };
    sink.put(index, LayerId(l), queries, &product.into_form(form)?)
}
