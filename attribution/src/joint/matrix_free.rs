//! Queries' vectors from the gradients of a sample of examples: M-FAC, whose curvature is the Fisher matrix of m sampled
//! gradients and a ridge, inverted without being formed.
//!
//! With `D` what is known of each layer by itself and inverted directly, `G` the sample's gradients as columns and `ρ` what
//! the sample counts,
//!
//! `H = D + (ρ/m) G Gᵀ,   H⁻¹ q = W q - W G (m/ρ + Gᵀ W G)⁻¹ Gᵀ W q,   W = D⁻¹`
//!
//! (Woodbury). `D` is a ridge alone, as published, or a part of an approximate curvature and a ridge: everything is in the
//! eigenbases of the layers, where `D` is diagonal. Gradients are read a layer at a time, from wherever they are kept.
//!
//! # Source
//! Frantar, Kurtic and Alistarh 2021, *M-FAC*; `docs/method.md`, Matrix-free solves.

use std::ops::Range;

use ascribe_curvature::gemm::{self, Real, Threads, View, ViewMut};
use ascribe_curvature::{Damping, Factors, GradientProducts, LayerId, LayerSpec, Network, Objective, Tap, Vectors};
use rayon::prelude::*;

use super::block::Block;
use super::positive::Cholesky;
use super::vectors::{put_solution, unit_gradients};
use crate::leg_product::LegProduct;
use crate::query::QueryTaps;
use crate::{Error, Observer, Sweep, VectorForm, VectorSink, VectorSource};

/// Gradients whose products with those before them are formed together.
const PANEL: usize = 256;

/// Numbers of each gradient that enter one product in the gradients' own type; the products are added in f64.
const COLUMNS: usize = 1 << 14;

/// Puts the gradients of every example of `sweep` under each of `objectives` into `sink`, in the eigenbasis of their layer:
/// that of example m under objective k as number `k · examples + m` of leg 0.
///
/// # Errors
/// [`Error::NonFiniteSample`] for a gradient that is not finite; the network's, the sink's, [`Error::Interrupted`].
pub fn sample_gradients<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    objectives: &[Objective],
    factors: &Factors<T>,
    sink: &mut dyn VectorSink<T>,
) -> Result<(), Error> {
    let specs = sweep.network.layers();
    let mut products = GradientProducts::<T>::default().with_products(sweep.network.products());
    for (k, &objective) in objectives.iter().enumerate() {
        let first = k * sweep.range.len();
        let batch = |_: &mut (), range: Range<usize>, batch: &N::Batch| -> Result<(), Error> {
            let place = |m: usize| first + m - sweep.range.start;
            let mut failure = None;
            let mut taps = QueryTaps {
                take: |tap: Tap<'_>| {
                    let l = tap.layer.0;
                    let spec = &specs[l];
                    let vectors = match &factors.layers[l].basis {
                        Some(basis) => products.rotated_gradients(tap, spec, basis)?,
                        None => products.gradients(tap, spec)?,
                    };
                    let mut all = vectors.chunks_exact(spec.parameters());
                    if let Some(bad) = all.position(|g| g.iter().any(|x| !x.wide().is_finite())) {
                        return Err(Error::NonFiniteSample { example: range.start + bad, layer: spec.name.clone() });
                    }
                    let found = LegProduct { vectors, spec, place: None }.into_form(VectorForm::Full)?;
                    sink.put(0, LayerId(l), place(range.start)..place(range.end), &found)
                },
                failure: &mut failure,
            };
            let found = sweep.network.differentiate(batch, objective, &mut taps);
            if let Some(failure) = failure {
                return Err(failure);
            }
            found?;
            Ok(())
        };
        sweep.run(sweep.range.start, &mut (), batch, |_, _| Ok(()))?;
    }
    Ok(())
}

/// What a matrix-free solve is asked for.
#[derive(Clone, Copy)]
pub struct MatrixFree<'a, T> {
    /// The layers of the gradients.
    pub layers: &'a [LayerSpec],
    /// The approximate curvature, one for each layer, in whose bases the gradients are; identity leaves a ridge alone.
    pub factors: &'a Factors<T>,
    /// The sampled gradients, as [`sample_gradients`] leaves them.
    pub gradients: &'a dyn VectorSource<T>,
    /// What the sample's Fisher matrix counts, above 0 and at most 1; the approximate curvature counts the rest.
    pub share: f64,
    /// Who may ask to stop.
    pub observer: &'a dyn Observer,
}

/// The systems of several dampings, ready for any queries.
pub struct MatrixFreeSystems<'a, T> {
    of: MatrixFree<'a, T>,
    /// For each damping what is added to each layer, and the factor of `m/ρ + Gᵀ W G`.
    systems: Vec<(Vec<f64>, Cholesky)>,
}

impl<T> MatrixFree<'_, T> {
    /// Numbers that forming the small matrix of so many gradients holds together at a layer of so many weights.
    pub fn part(gradients: usize, parameters: usize) -> usize {
        let rows = gradients.min(PANEL);
        rows * gradients + rows * COLUMNS.min(parameters)
    }
}

impl<'a, T: Real> MatrixFree<'a, T> {
    /// Forms and factors the small matrix of each damping. A relative damping is times the mean eigenvalue of a layer's
    /// approximate curvature, or, where that is identity, of the sample's Fisher matrix in that layer.
    ///
    /// # Errors
    /// [`Error::Refinement`] if nothing is added to a layer, or rounding makes a matrix that is not positive; the
    /// source's, [`Error::Interrupted`].
    pub fn systems(self, dampings: &[Damping]) -> Result<MatrixFreeSystems<'a, T>, Error> {
        let means = self.mean_eigenvalues()?;
        let systems = dampings.iter().map(|&damping| {
            let of_layer = |(mean, spec): (&f64, &LayerSpec)| {
                let added = match damping {
                    Damping::Absolute(added) => added,
                    Damping::MeanFraction(share) => share * mean,
                };
                match added > 0.0 && added.is_finite() {
                    true => Ok(added),
                    false => {
                        Err(Error::Refinement(format!("layer `{}`: nothing is added to its curvature", spec.name)))
                    }
                }
            };
            let added = means.iter().zip(self.layers).map(of_layer).collect::<Result<Vec<_>, _>>()?;
            let matrix = self.small_matrix(&added)?;
            let factor = Cholesky::of(matrix, self.gradients.queries()).ok_or_else(|| {
                Error::Refinement(
                    "the products of the sampled gradients make no positive matrix, by rounding: a larger damping, or `--dtype f64`, helps".into(),
                )
            })?;
            Ok((added, factor))
        });
        Ok(MatrixFreeSystems { of: self, systems: systems.collect::<Result<_, Error>>()? })
    }

    /// The mean eigenvalue of each layer that relative dampings are multiples of.
    fn mean_eigenvalues(&self) -> Result<Vec<f64>, Error> {
        let rows = self.gradients.queries().max(1);
        let of_layer = |(l, spec): (usize, &LayerSpec)| match &self.factors.layers[l].lambda {
            Some(_) => Ok(self.factors.layers[l].damping(Damping::MeanFraction(1.0))),
            None => {
                let squares = self.rows(l, spec, |gradients| {
                    let of = |g: &[T]| g.iter().map(|x| x.wide() * x.wide()).sum::<f64>();
                    gradients.par_chunks_exact(spec.parameters()).map(of).collect::<Vec<_>>()
                })?;
                Ok(squares.iter().sum::<f64>() / (rows * spec.parameters()) as f64)
            }
        };
        self.layers.iter().enumerate().map(of_layer).collect()
    }

    /// Asks something of the sampled gradients of one layer, `[m, O · columns]`.
    fn rows<R>(&self, l: usize, spec: &LayerSpec, ask: impl FnOnce(&[T]) -> R) -> Result<R, Error> {
        if self.observer.interrupted() {
            return Err(Error::Interrupted);
        }
        let found = match self.gradients.vectors(0, LayerId(l))? {
            Vectors::Full(all) => Ok(ask(all)),
            Vectors::LowRank(_) => {
                Err(Error::Refinement(format!("layer `{}`: the sampled gradients are not whole", spec.name)))
            }
        };
        self.gradients.used(0, LayerId(l));
        found
    }

    /// The diagonal of `D` at a layer to which `added` is added.
    fn diagonal(&self, l: usize, added: f64) -> Vec<f64> {
        match &self.factors.layers[l].lambda {
            Some(lambda) => lambda.as_slice().iter().map(|sigma| (1.0 - self.share) * sigma + added).collect(),
            None => vec![added; self.layers[l].parameters()],
        }
    }

    /// `m/ρ + Gᵀ W G`, its lower half.
    fn small_matrix(&self, added: &[f64]) -> Result<Vec<f64>, Error> {
        let m = self.gradients.queries();
        let mut matrix = vec![0.0; m * m];
        for (l, spec) in self.layers.iter().enumerate() {
            let size = spec.parameters();
            let weights: Vec<T> = self.diagonal(l, added[l]).into_iter().map(|d| T::of(1.0 / d)).collect();
            self.rows(l, spec, |all| {
                for first in (0..m).step_by(PANEL) {
                    let last = m.min(first + PANEL);
                    let rows = last - first;
                    let mut part = vec![T::of(0.0); rows * last];
                    let mut weighted = vec![T::of(0.0); rows * COLUMNS.min(size)];
                    for start in (0..size).step_by(COLUMNS) {
                        let columns = COLUMNS.min(size - start);
                        let of_row = |(row, to): (usize, &mut [T])| {
                            let from = &all[(first + row) * size + start..][..columns];
                            let weights = &weights[start..start + columns];
                            to.iter_mut().zip(from).zip(weights).for_each(|((to, g), w)| *to = *g * *w);
                        };
                        let weighted = &mut weighted[..rows * columns];
                        weighted.par_chunks_exact_mut(columns).enumerate().for_each(of_row);
                        let a = View::dense(weighted, rows, columns);
                        let b = View::new(&all[start..], last, columns, size);
                        let to = ViewMut::dense(&mut part, rows, last);
                        gemm::matmul(to, gemm::Into::Replace, T::of(1.0), a, b.t(), Threads::Pool);
                        let sums = matrix[first * m..last * m].chunks_exact_mut(m);
                        for (sum, part) in sums.zip(part.chunks_exact(last)) {
                            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part.wide());
                        }
                    }
                }
            })?;
        }
        (0..m).for_each(|k| matrix[k * m + k] += m as f64 / self.share);
        Ok(matrix)
    }

    /// `Gᵀ v` for vectors of which `layer` gives each layer's, `[m, count]`.
    fn along<V: AsRef<[T]>>(&self, count: usize, mut layer: impl FnMut(usize) -> V) -> Result<Vec<f64>, Error> {
        let m = self.gradients.queries();
        let mut sums = vec![0.0; m * count];
        let mut part = vec![T::of(0.0); m * count];
        for (l, spec) in self.layers.iter().enumerate() {
            let (size, vectors) = (spec.parameters(), layer(l));
            self.rows(l, spec, |all| {
                for start in (0..size).step_by(COLUMNS) {
                    let columns = COLUMNS.min(size - start);
                    let a = View::new(&all[start..], m, columns, size);
                    let b = View::new(&vectors.as_ref()[start..], count, columns, size);
                    let to = ViewMut::dense(&mut part, m, count);
                    gemm::matmul(to, gemm::Into::Replace, T::of(1.0), a, b.t(), Threads::Pool);
                    sums.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part.wide());
                }
            })?;
        }
        Ok(sums)
    }

    /// Adds `factor · G c` to one layer of vectors, `c: [m, count]`.
    fn add_combined(&self, l: usize, factor: f64, c: &[f64], count: usize, to: &mut [T]) -> Result<(), Error> {
        let (m, spec) = (self.gradients.queries(), &self.layers[l]);
        let size = spec.parameters();
        let c: Vec<T> = (0..count).flat_map(|q| (0..m).map(move |k| T::of(c[k * count + q]))).collect();
        self.rows(l, spec, |all| {
            let to = ViewMut::dense(to, count, size);
            let (a, b) = (View::dense(&c, count, m), View::dense(all, m, size));
            gemm::matmul(to, gemm::Into::Add, T::of(factor), a, b, Threads::Pool);
        })
    }
}

impl<T: Real> MatrixFreeSystems<'_, T> {
    /// Puts the solutions of these queries into `sink`, those of damping k as leg k, and returns what the systems of each
    /// damping leave of each query, `|q - H x| / |q|`: the rounding of the numbers' own type.
    ///
    /// `gradients` has one leg, in the standard basis.
    ///
    /// # Errors
    /// [`Error::Refinement`] for gradients and solutions that are not finite; the sources', the sink's,
    /// [`Error::Interrupted`].
    pub fn solve(
        &self,
        gradients: &dyn VectorSource<T>,
        queries: Range<usize>,
        sink: &mut dyn VectorSink<T>,
    ) -> Result<Vec<Vec<f64>>, Error> {
        let (specs, factors) = (self.of.layers, self.of.factors);
        let (mut q, norms) = unit_gradients(specs, gradients, queries.clone())?;
        for ((layer, spec), vectors) in factors.layers.iter().zip(specs).zip(&mut q.layers) {
            layer.rotate(vectors, spec);
        }
        let count = q.count;
        let (m, share) = (self.of.gradients.queries(), self.of.share);
        let mut residuals = Vec::with_capacity(self.systems.len());
        for (leg, (added, factor)) in self.systems.iter().enumerate() {
            let multiplied = |l: usize, vectors: &[T], of: fn(f64) -> f64| {
                let diagonal: Vec<T> = self.of.diagonal(l, added[l]).into_iter().map(|d| T::of(of(d))).collect();
                let mut found = vectors.to_vec();
                found.par_chunks_exact_mut(diagonal.len()).for_each(|vector| {
                    vector.iter_mut().zip(&diagonal).for_each(|(x, d)| *x *= *d);
                });
                found
            };
            let along = self.of.along(count, |l| multiplied(l, &q.layers[l], |d| 1.0 / d))?;
            let c = factor.solve(along);
            let mut x = Block { count, layers: Vec::with_capacity(specs.len()) };
            for (l, layer) in q.layers.iter().enumerate() {
                let mut rest = layer.clone();
                self.of.add_combined(l, -1.0, &c, count, &mut rest)?;
                x.layers.push(multiplied(l, &rest, |d| 1.0 / d));
            }
            let along = self.of.along(count, |l| &x.layers[l])?;
            let mut squares = vec![0.0; count];
            for (l, layer) in x.layers.iter().enumerate() {
                let mut product = multiplied(l, layer, |d| d);
                self.of.add_combined(l, share / m as f64, &along, count, &mut product)?;
                let size = specs[l].parameters();
                let both = product.chunks_exact(size).zip(q.layers[l].chunks_exact(size));
                for (square, (product, q)) in squares.iter_mut().zip(both) {
                    *square += product.iter().zip(q).map(|(hx, q)| (q.wide() - hx.wide()).powi(2)).sum::<f64>();
                }
            }
            residuals.push(squares.into_iter().map(f64::sqrt).collect());
            x.scale(&norms);
            for (l, mut vectors) in x.layers.into_iter().enumerate() {
                factors.layers[l].rotate_back(&mut vectors, &specs[l]);
                put_solution(sink, (leg, l), queries.clone(), vectors, specs, factors)?;
            }
        }
        Ok(residuals)
    }
}
