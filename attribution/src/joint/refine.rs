//! Queries' vectors refined: systems with the Gauss-Newton matrix H of all tracked layers jointly, `(H + δ) x = q`,
//! solved for all queries of a block together in a space of few products.
//!
//! EK-FAC sees each layer by itself. Its inverse is the start here and the preconditioner: the space is spanned by
//! `P q`, `P r₁`, `P r₂`, ..., with `P = (EK-FAC + δ)⁻¹` and the residuals `r` of what the space before gave (for one δ a
//! block Krylov space, O'Leary 1980). In a space V the solution is `V (Vᵀ H V + δ Vᵀ V)⁻¹ Vᵀ q`, for every δ from the same
//! products (a Galerkin projection).
//!
//! With the blocks of H on its diagonal the same is done for one layer after the other: `H_ll v` is what H makes of a
//! direction that is zero outside layer l, in that layer.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Damping, Factors, Network, SpectralFn};

use super::block::Block;
use super::positive::cholesky_solve;
use super::products::multiply;
use super::space::{Space, negligible, part};
use super::vectors::{layer_dampings, put_solution, unit_gradients};
use crate::{Error, Sweep, VectorSink, VectorSource};

/// Which part of the Gauss-Newton matrix of all tracked layers is solved with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blocks {
    /// All of it: one system of all layers.
    #[default]
    Whole,
    /// Its blocks on the diagonal, one for each layer, exact where Kronecker factors approximate them: a system for each
    /// layer, whose products are products with all of it along directions of that layer alone.
    Layers,
}

/// What the solver is asked for.
#[derive(Debug, Clone)]
pub struct Refinement<'a, T> {
    /// The preconditioner's curvature, one for each layer.
    pub factors: &'a Factors<T>,
    /// What is added to H; EK-FAC with the first is the preconditioner, and the space grows where any is served worst.
    pub dampings: &'a [Damping],
    /// Which part of H.
    pub blocks: Blocks,
    /// Products with H, at least 1, in each system.
    pub products: usize,
    /// Numbers of the tangents of one layer that may exist together; one direction moves in any case.
    pub tangents: usize,
    /// Numbers that the widest layer has for each position of a batch.
    pub widest: usize,
}

/// How well systems were solved.
#[derive(Debug, Clone, PartialEq)]
pub struct Refined {
    /// For each damping and query `|q - (H + δ) x| / |q|`.
    pub residuals: Vec<Vec<f64>>,
    /// Directions that H was multiplied with.
    pub directions: usize,
}

/// Solves `(H + δ) x = q` for queries whose gradients are `gradients`, and puts the solutions into `sink`: damping k as
/// leg k, under the numbers `queries`.
///
/// `sweep` is over the examples that H is the mean of; `gradients` has one leg.
///
/// # Errors
/// [`Error::Refinement`] for vectors that are not finite and a projected matrix that is not positive; the network's, the
/// sink's, [`Error::Interrupted`].
pub fn refine_queries<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    refinement: &Refinement<'_, T>,
    gradients: &dyn VectorSource<T>,
    queries: Range<usize>,
    sink: &mut dyn VectorSink<T>,
) -> Result<Refined, Error> {
    let specs = sweep.network.layers();
    let (q, norms) = unit_gradients(specs, gradients, queries.clone())?;
    let (solutions, refined) = solve(sweep, refinement, q)?;
    for (leg, mut solution) in solutions.into_iter().enumerate() {
        solution.scale(&norms);
        for (l, vectors) in solution.layers.into_iter().enumerate() {
            put_solution(sink, (leg, l), queries.clone(), vectors, specs, refinement.factors)?;
        }
    }
    Ok(refined)
}

/// A solution for every damping, and how good it is.
fn solve<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    refinement: &Refinement<'_, T>,
    q: Block<T>,
) -> Result<(Vec<Block<T>>, Refined), Error> {
    let specs = sweep.network.layers();
    if refinement.products == 0 || refinement.dampings.is_empty() {
        return Err(Error::Refinement("no product or no damping is asked for".into()));
    }
    let dampings = layer_dampings(specs, refinement.factors, refinement.dampings)?;
    if refinement.blocks == Blocks::Whole {
        return solve_system(sweep, refinement, &dampings, q, None);
    }
    let mut solutions = vec![Block::zeros(specs, q.count); dampings.len()];
    let mut squares = vec![vec![0.0; q.count]; dampings.len()];
    let mut directions = 0;
    for l in 0..specs.len() {
        let mut of_layer = q.clone();
        of_layer.keep_layer(l);
        let (found, refined) = solve_system(sweep, refinement, &dampings, of_layer, Some(l))?;
        directions += refined.directions;
        for (solution, mut found) in solutions.iter_mut().zip(found) {
            solution.layers[l] = std::mem::take(&mut found.layers[l]);
        }
        for (squares, residuals) in squares.iter_mut().zip(refined.residuals) {
            squares.iter_mut().zip(residuals).for_each(|(sum, residual)| *sum += residual * residual);
        }
    }
    let residuals = squares.into_iter().map(|of| of.into_iter().map(f64::sqrt).collect()).collect();
    Ok((solutions, Refined { residuals, directions }))
}

/// The solutions of one system: of all layers, or of one layer's block, where `q` is of that layer alone.
fn solve_system<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    refinement: &Refinement<'_, T>,
    dampings: &[Vec<f64>],
    q: Block<T>,
    layer: Option<usize>,
) -> Result<(Vec<Block<T>>, Refined), Error> {
    let specs = sweep.network.layers();
    let mut space = Space::new(dampings.len());
    let mut residual = q.clone();
    let negligible = negligible::<T>();
    for _ in 0..refinement.products {
        let moving: Vec<usize> =
            residual.squares().iter().enumerate().filter(|(_, s)| s.sqrt() > negligible).map(|(k, _)| k).collect();
        let mut next = residual.chosen(&moving);
        for (l, (vectors, spec)) in next.layers.iter_mut().zip(specs).enumerate().filter(|_| !moving.is_empty()) {
            refinement.factors.layers[l].apply(&SpectralFn::Inverse { damping: dampings[0][l] }, vectors, spec);
        }
        let next = space.orthonormal(specs, next, negligible);
        if next.count == 0 {
            break;
        }
        let mut product = multiply(sweep, &next, refinement.tangents / refinement.widest.max(1))?;
        if let Some(l) = layer {
            product.keep_layer(l);
        }
        space.add(next, product, &q, dampings);
        residual = space.worst_residual(&q, dampings)?;
    }
    let mut residuals = Vec::with_capacity(dampings.len());
    let mut solutions = Vec::with_capacity(dampings.len());
    for (k, damping) in dampings.iter().enumerate() {
        let coefficients = space.solve(k)?;
        let left = space.residual(&q, &coefficients, damping).squares();
        residuals.push(left.into_iter().map(f64::sqrt).collect());
        solutions.push(space.combine(specs, &coefficients, q.count));
    }
    let directions = space.parts.iter().map(|(v, _)| v.count).sum();
    Ok((solutions, Refined { residuals, directions }))
}

impl<T: Real> Space<T> {
    /// `(Vᵀ H V + Vᵀ D V)⁻¹ Vᵀ q` for a damping, `[s, Q]`.
    fn solve(&self, damping: usize) -> Result<Vec<f64>, Error> {
        let matrix: Vec<f64> = self.projected.iter().zip(&self.damped[damping]).map(|(h, d)| h + d).collect();
        cholesky_solve(matrix, self.size, self.right.clone()).ok_or_else(|| {
            Error::Refinement("the matrix is not positive along the directions that were tried, by rounding: a larger damping, or `--dtype f64`, helps".into())
        })
    }

    /// For each query the residual at the damping that the space serves worst, relative to the query.
    fn worst_residual(&self, q: &Block<T>, dampings: &[Vec<f64>]) -> Result<Block<T>, Error> {
        let mut worst: Option<(Vec<f64>, Block<T>)> = None;
        for (k, damping) in dampings.iter().enumerate() {
            let found = self.residual(q, &self.solve(k)?, damping);
            let squares = found.squares();
            let Some((largest, residual)) = &mut worst else {
                worst = Some((squares, found));
                continue;
            };
            for query in (0..q.count).filter(|&query| squares[query] > largest[query]).collect::<Vec<_>>() {
                largest[query] = squares[query];
                for (to, from) in residual.layers.iter_mut().zip(&found.layers) {
                    let size = to.len() / q.count;
                    to[query * size..][..size].copy_from_slice(&from[query * size..][..size]);
                }
            }
        }
        Ok(worst.expect("there is a damping").1)
    }

    /// `q - (H + D) V c`.
    fn residual(&self, q: &Block<T>, coefficients: &[f64], damping: &[f64]) -> Block<T> {
        let mut residual = q.clone();
        let mut start = 0;
        for (v, hv) in &self.parts {
            let minus = part(coefficients, q.count, start, v.count, -1.0);
            residual.add(&minus, hv, |_| 1.0);
            residual.add(&minus, v, |l| damping[l]);
            start += v.count;
        }
        residual
    }
}
