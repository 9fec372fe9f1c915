//! Queries' vectors refined: systems with the Gauss-Newton matrix H of all tracked layers jointly, `(H + δ) x = q`,
//! solved for all queries of a block together in a space of few products.
//!
//! EK-FAC sees each layer by itself. Its inverse is the start here and the preconditioner: the space is spanned by
//! `P q`, `P r₁`, `P r₂`, ..., with `P = (EK-FAC + δ)⁻¹` and the residuals `r` of what the space before gave (for one δ a
//! block Krylov space, O'Leary 1980). In a space V the solution is `V (Vᵀ H V + δ Vᵀ V)⁻¹ Vᵀ q`, for every δ from the same
//! products (a Galerkin projection).

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Damping, Directions, Factors, LayerSpec, Network, ProductSum, SpectralFn};
use candle_core::{Device, Tensor};

use super::block::Block;
use super::positive::cholesky_solve;
use super::vectors::{layer_dampings, put_solution, unit_gradients};
use crate::{Error, Sweep, VectorSink, VectorSource};

/// Vectors that are made orthogonal to each other one by one.
const PANEL: usize = 16;

/// What the solver is asked for.
#[derive(Debug, Clone)]
pub struct Refinement<'a, T> {
    /// The preconditioner's curvature, one for each layer.
    pub factors: &'a Factors<T>,
    /// What is added to H; EK-FAC with the first is the preconditioner, and the space grows where any is served worst.
    pub dampings: &'a [Damping],
    /// Products with H, at least 1.
    pub products: usize,
    /// Numbers of the tangents of one layer that may exist together; one direction moves in any case.
    pub tangents: usize,
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
    let mut space = Space::new(dampings.len());
    let mut residual = q.clone();
    // directions below rounding add nothing to the space
    let negligible = 64.0 * epsilon::<T>();
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
        let product = multiply(sweep, &next, refinement.tangents)?;
        space.add(next, product, &q, &dampings);
        residual = space.worst_residual(&q, &dampings)?;
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

/// A unit in the last place.
fn epsilon<T: Real>() -> f64 {
    if size_of::<T>() == 8 { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

/// `H v` for every direction, H the mean over the examples of the sweep.
fn multiply<N: Network, T: Real>(sweep: &Sweep<'_, N>, along: &Block<T>, tangents: usize) -> Result<Block<T>, Error> {
    let (network, specs) = (sweep.network, sweep.network.layers());
    let tensors: Vec<Tensor> = along
        .layers
        .iter()
        .zip(specs)
        .map(|(layer, spec)| Tensor::from_slice(layer, (along.count, spec.outputs, spec.columns()), &Device::Cpu))
        .collect::<Result<_, _>>()?;
    let directions = Directions::new(specs, tensors)?;
    let mut product = Block::zeros(specs, along.count);
    let widest = specs.iter().map(|spec| spec.outputs.max(spec.columns())).max().unwrap_or(1);
    let batch = |product: &mut Block<T>, _: Range<usize>, batch: &N::Batch| -> Result<(), Error> {
        let rows = network.positions(batch).rows();
        let together = (tangents / (rows * widest).max(1)).clamp(1, along.count.max(1));
        for first in (0..along.count).step_by(together) {
            let part = first..along.count.min(first + together);
            let sums = product
                .layers
                .iter_mut()
                .zip(specs)
                .map(|(layer, spec)| &mut layer[part.start * spec.parameters()..part.end * spec.parameters()]);
            let mut sink = ProductSum::new(specs, network.products(), sums.collect());
            network.gauss_newton(batch, &directions.part(part)?, &mut sink)?;
        }
        Ok(())
    };
    sweep.run(sweep.range.start, &mut product, batch, |_, _| Ok(()))?;
    product.scale(&vec![1.0 / sweep.range.len() as f64; along.count]);
    if let Some(l) = product.layers.iter().position(|layer| layer.iter().any(|x| !x.wide().is_finite())) {
        let layer = &specs[l].name;
        return Err(Error::Refinement(format!(
            "layer `{layer}`: a product with the Gauss-Newton matrix holds NaN or infinity"
        )));
    }
    Ok(product)
}

/// Numbers of two blocks of vectors, `[count, other's count]`.
type OfBlocks<'a, T> = dyn Fn(&Block<T>, &Block<T>) -> Vec<f64> + 'a;

/// The space that was multiplied so far.
struct Space<T> {
    /// V and HV.
    parts: Vec<(Block<T>, Block<T>)>,
    /// `Vᵀ H V`, `[s, s]`.
    projected: Vec<f64>,
    /// `Vᵀ D V` for each damping.
    damped: Vec<Vec<f64>>,
    /// `Vᵀ q`, `[s, Q]`.
    right: Vec<f64>,
    size: usize,
}

impl<T: Real> Space<T> {
    fn new(dampings: usize) -> Self {
        Self { parts: vec![], projected: vec![], damped: vec![vec![]; dampings], right: vec![], size: 0 }
    }

    /// The part of `vectors` that the space does not hold, with orthonormal vectors. Everything is subtracted twice,
    /// since once leaves rounding; panels of vectors meet what was there before in products of matrices.
    fn orthonormal(&self, specs: &[LayerSpec], mut vectors: Block<T>, negligible: f64) -> Block<T> {
        vectors.normalise();
        let mut kept: Vec<Block<T>> = vec![];
        let all: Vec<usize> = (0..vectors.count).collect();
        for numbers in all.chunks(PANEL) {
            let mut panel = vectors.chosen(numbers);
            let without_earlier = |panel: &mut Block<T>| {
                for earlier in self.parts.iter().map(|(v, _)| v).chain(&kept) {
                    let along = panel.products(earlier, |_| -1.0);
                    panel.add(&along, earlier, |_| 1.0);
                }
            };
            without_earlier(&mut panel);
            without_earlier(&mut panel);
            let mut own: Vec<Block<T>> = vec![];
            for k in 0..panel.count {
                let mut vector = panel.chosen(&[k]);
                for _ in 0..2 {
                    for other in &own {
                        vector.subtract_along(other);
                    }
                }
                if vector.squares()[0].sqrt() > negligible {
                    vector.normalise();
                    own.push(vector);
                }
            }
            let mut own = Block::joined(specs, own);
            // what was small has grown, and its rounding with it
            without_earlier(&mut own);
            own.normalise();
            kept.push(own);
        }
        Block::joined(specs, kept)
    }

    /// Adds directions and their products.
    fn add(&mut self, v: Block<T>, product: Block<T>, q: &Block<T>, dampings: &[Vec<f64>]) {
        self.right.extend(v.products(q, |_| 1.0));
        self.parts.push((v, product));
        let (v, hv) = &self.parts[self.parts.len() - 1];
        let (old, new) = (self.size, v.count);
        let size = old + new;
        let grown = |before: &[f64], find: &OfBlocks<'_, T>| {
            let mut matrix = vec![0.0; size * size];
            for i in 0..old {
                matrix[i * size..i * size + old].copy_from_slice(&before[i * old..(i + 1) * old]);
            }
            let mut start = 0;
            for (other, other_product) in &self.parts {
                let found = find(other, other_product);
                for i in 0..other.count {
                    for j in 0..new {
                        matrix[(start + i) * size + old + j] = found[i * new + j];
                        matrix[(old + j) * size + start + i] = found[i * new + j];
                    }
                }
                start += other.count;
            }
            // rounding must not make the last block unsymmetric
            for i in old..size {
                for j in old..i {
                    let mean = (matrix[i * size + j] + matrix[j * size + i]) / 2.0;
                    matrix[i * size + j] = mean;
                    matrix[j * size + i] = mean;
                }
            }
            matrix
        };
        let projected = grown(&self.projected, &|other, _| other.products(hv, |_| 1.0));
        let damped = self.damped.iter().zip(dampings);
        let damped =
            damped.map(|(before, damping)| grown(before, &|other, _| other.products(v, |l| damping[l]))).collect();
        (self.projected, self.damped, self.size) = (projected, damped, size);
    }

    /// `(Vᵀ H V + Vᵀ D V)⁻¹ Vᵀ q` for a damping, `[s, Q]`.
    fn solve(&self, damping: usize) -> Result<Vec<f64>, Error> {
        let matrix: Vec<f64> = self.projected.iter().zip(&self.damped[damping]).map(|(h, d)| h + d).collect();
        cholesky_solve(matrix, self.size, self.right.clone()).ok_or_else(|| {
            Error::Refinement("the matrix is not positive along the directions that were tried, by rounding: a larger damping, or `--dtype f64`, helps".into())
        })
    }

    /// `V c`.
    fn combine(&self, specs: &[LayerSpec], coefficients: &[f64], queries: usize) -> Block<T> {
        let mut sum = Block::zeros(specs, queries);
        let mut start = 0;
        for (v, _) in &self.parts {
            sum.add(&part(coefficients, queries, start, v.count, 1.0), v, |_| 1.0);
            start += v.count;
        }
        sum
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

/// Rows of `[s, Q]`, transposed and multiplied: `[Q, count]`.
fn part(coefficients: &[f64], queries: usize, start: usize, count: usize, factor: f64) -> Vec<f64> {
    (0..queries).flat_map(|q| (start..start + count).map(move |i| factor * coefficients[i * queries + q])).collect()
}
