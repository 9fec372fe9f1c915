//! Queries' vectors from a joint system that is solved in a small space and needs no product with its matrix.
//!
//! EK-FAC sees each layer by itself: its vectors `(EK-FAC + c)⁻¹ q` are too long, because what layers have in common is
//! counted once for each of them, and which damping c is best differs from model to model by orders of magnitude. Here
//! the space V of a query is spanned by these vectors, for several dampings and each layer (or group of layers) by
//! itself, and the system `(H + δ) x = q` of all layers jointly is solved in it: `x = V (Vᵀ H V + δ Vᵀ V)⁻¹ Vᵀ q` (a
//! Galerkin projection), the best approximation of the solution that V has in the norm of `H + δ`. H enters by its form
//! alone, and that is a mean of squares: `vᵀ H w = E[<v, ĝ> <w, ĝ>]`, ĝ the gradient of an example's loss whose labels are
//! drawn from the model. So one pass that scores examples with drawn labels gives the matrices of all queries.
//!
//! # Source
//! `docs/method.md`, Subspace solves.

use std::ops::Range;

use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Damping, Factors, GradientProducts, LayerSpec, Network, Objective, SpectralFn, Vectors};
use rayon::prelude::*;

use super::block::Block;
use super::positive::cholesky_solve;
use super::vectors::{layer_dampings, put_solution, unit_gradients};
use crate::scorer::ScoreTaps;
use crate::{Error, QueryRows, Sweep, VectorSink, VectorSource};

/// What is added to a matrix whose diagonal is 1, so that vectors that are nearly the same do no harm. Far above
/// rounding in f64, far below what draws leave open.
const RIDGE: f64 = 1e-6;

/// Vectors that span one query's space at most: each asks for draws, and the matrices grow by their square.
const MOST_DIRECTIONS: usize = 128;

/// What a solve in a subspace is asked for.
#[derive(Debug, Clone)]
pub struct Subspace<'a, T> {
    /// The approximate curvature, one for each layer.
    pub factors: &'a Factors<T>,
    /// What is added to its eigenvalues for the vectors that span the space.
    pub spanning: &'a [Damping],
    /// What is added to H.
    pub dampings: &'a [Damping],
    /// What is differentiated at each example; the form is the mean over these.
    pub objectives: &'a [Objective],
}

impl<T> Subspace<'_, T> {
    /// Vectors that span each query's space, for so many layers and dampings.
    pub fn directions(layers: usize, spanning: usize) -> usize {
        groups(layers, spanning).len() * spanning
    }
}

/// How far solutions can be relied on.
#[derive(Debug, Clone, PartialEq)]
pub struct SubspaceSolved {
    /// For each damping and query `|x₁ - x₂| / |x|` in the norm of `H + δ`, `x₁` and `x₂` the solutions with every other
    /// example's draws: how much of the answer is the luck of the draw.
    pub disagreements: Vec<Vec<f64>>,
}

/// Solves `(H + δ) x = q` in each query's space, and puts the solutions into `sink`: damping k as leg k, under the numbers
/// `queries`.
///
/// `sweep` is over the examples that H is the mean of; `gradients` has one leg.
///
/// # Errors
/// [`Error::Refinement`] for gradients and solutions that are not finite; the network's, the sink's,
/// [`Error::Interrupted`].
pub fn solve_in_subspace<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    subspace: &Subspace<'_, T>,
    gradients: &dyn VectorSource<T>,
    queries: Range<usize>,
    sink: &mut dyn VectorSink<T>,
) -> Result<SubspaceSolved, Error> {
    let specs = sweep.network.layers();
    let (q, norms) = unit_gradients(specs, gradients, queries.clone())?;
    let dampings = layer_dampings(specs, subspace.factors, subspace.dampings)?;
    let basis: Vec<Block<T>> =
        subspace.spanning.iter().map(|&damping| damped(&q, subspace.factors, damping, specs)).collect();
    let groups = groups(specs.len(), basis.len());
    let forms = forms(sweep, subspace.objectives, &basis, &groups)?;
    let systems = Systems::new(&q, &basis, &groups);
    let mut disagreements = Vec::with_capacity(dampings.len());
    for (leg, added) in dampings.iter().enumerate() {
        let solved: Vec<Solved> =
            (0..q.count).into_par_iter().map(|query| systems.solve(query, &forms[query], added)).collect();
        disagreements.push(solved.iter().map(|solved| solved.disagreement).collect());
        for (group, layers) in groups.iter().enumerate() {
            for &l in layers {
                let mut sum = vec![T::of(0.0); q.count * specs[l].parameters()];
                for (j, block) in basis.iter().enumerate() {
                    let size = specs[l].parameters();
                    let each = sum.par_chunks_exact_mut(size).zip(block.layers[l].par_chunks_exact(size)).enumerate();
                    each.for_each(|(query, (sum, vector))| {
                        let along = T::of(solved[query].coefficients[group * basis.len() + j] * norms[query]);
                        sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += along * *x);
                    });
                }
                put_solution(sink, (leg, l), queries.clone(), sum, specs, subspace.factors)?;
            }
        }
    }
    Ok(SubspaceSolved { disagreements })
}

/// Layers in as many groups of neighbours as a space of [`MOST_DIRECTIONS`] allows: one for each, if there are few.
fn groups(layers: usize, spanning: usize) -> Vec<Vec<usize>> {
    let most = (MOST_DIRECTIONS / spanning.max(1)).max(1);
    let count = layers.min(most).max(1);
    (0..count).map(|k| (k * layers / count..(k + 1) * layers / count).collect()).collect()
}

/// `(EK-FAC + damping)⁻¹ q` for every query.
fn damped<T: Real>(q: &Block<T>, factors: &Factors<T>, damping: Damping, specs: &[LayerSpec]) -> Block<T> {
    let mut vectors = q.clone();
    for (l, layer) in vectors.layers.iter_mut().enumerate() {
        let factors = &factors.layers[l];
        factors.apply(&SpectralFn::Inverse { damping: factors.damping(damping) }, layer, &specs[l]);
    }
    vectors
}

/// `Vᵀ H V` of one query by half: from the examples of even and of odd places, sums of squares and their number.
#[derive(Debug, Clone)]
struct Form {
    halves: [Vec<f64>; 2],
    counts: [usize; 2],
}

/// The forms of all queries' spaces, directions counted through the groups and, in each, through the basis.
fn forms<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    objectives: &[Objective],
    basis: &[Block<T>],
    groups: &[Vec<usize>],
) -> Result<Vec<Form>, Error> {
    let layers = sweep.network.layers();
    let queries = basis.first().map_or(0, |block| block.count);
    let directions = groups.len() * basis.len();
    let empty = || vec![0.0; directions * directions];
    let mut forms = vec![Form { halves: [empty(), empty()], counts: [0; 2] }; queries];
    let source = Blocks(basis);
    let rows: Vec<QueryRows<'_, T>> =
        (0..basis.len()).map(|leg| QueryRows { vectors: &source, leg, weight: 1.0 }).collect();
    let sets: Vec<&[usize]> = groups.iter().map(Vec::as_slice).collect();
    let width = basis.len() * queries;
    let mut products = GradientProducts::<T>::default().with_products(sweep.network.products());
    let batch = |forms: &mut Vec<Form>, range: Range<usize>, batch: &N::Batch| -> Result<(), Error> {
        for &objective in objectives {
            let sums = vec![vec![0.0; range.len() * width]; 1 + sets.len()];
            let mut taps = ScoreTaps { layers, products: &mut products, rows: &rows, sets: &sets, sums, failure: None };
            let found = sweep.network.differentiate(batch, objective, &mut taps);
            if let Some(failure) = taps.failure {
                return Err(failure);
            }
            found?;
            if !taps.sums.iter().flatten().all(|product| product.is_finite()) {
                return Err(Error::NonFiniteScore(range));
            }
            let of_groups = &taps.sums[1..];
            forms.par_iter_mut().enumerate().for_each(|(query, form)| {
                let mut along = vec![0.0; directions];
                for (place, example) in range.clone().enumerate() {
                    for (group, sum) in of_groups.iter().enumerate() {
                        for j in 0..basis.len() {
                            along[group * basis.len() + j] = sum[place * width + j * queries + query];
                        }
                    }
                    let half = example % 2;
                    form.counts[half] += 1;
                    for (row, a) in form.halves[half].chunks_exact_mut(directions).zip(&along) {
                        row.iter_mut().zip(&along).for_each(|(sum, b)| *sum += a * b);
                    }
                }
            });
        }
        Ok(())
    };
    sweep.run(sweep.range.start, &mut forms, batch, |_, _| Ok(()))?;
    // a mean over draws, a sum over classes that are weighted for their mean: both are divided by their number
    Ok(forms)
}

/// What the systems of all queries have beside the form: `Vᵀ q`, and `Vᵀ V` layer by layer.
#[derive(Debug)]
struct Systems<'a> {
    groups: &'a [Vec<usize>],
    spanning: usize,
    queries: usize,
    /// `[groups, spanning, queries]`.
    right: Vec<f64>,
    /// `[layers, spanning, spanning, queries]`.
    squares: Vec<f64>,
}

/// One query's solution.
#[derive(Debug)]
struct Solved {
    /// `[directions]`.
    coefficients: Vec<f64>,
    disagreement: f64,
}

impl<'a> Systems<'a> {
    fn new<T: Real>(q: &Block<T>, basis: &[Block<T>], groups: &'a [Vec<usize>]) -> Self {
        let (spanning, queries) = (basis.len(), q.count);
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.wide() * b.wide()).sum::<f64>();
        let dots = |a: &[T], b: &[T]| -> Vec<f64> {
            let size = (a.len() / queries.max(1)).max(1);
            a.par_chunks_exact(size).zip(b.par_chunks_exact(size)).map(|(a, b)| dot(a, b)).collect()
        };
        let mut right = Vec::with_capacity(groups.len() * spanning * queries);
        for layers in groups {
            for block in basis {
                let mut sum = vec![0.0; queries];
                for &l in layers {
                    sum.iter_mut().zip(dots(&block.layers[l], &q.layers[l])).for_each(|(sum, dot)| *sum += dot);
                }
                right.extend(sum);
            }
        }
        let mut squares = Vec::with_capacity(q.layers.len() * spanning * spanning * queries);
        for l in 0..q.layers.len() {
            for a in basis {
                for b in basis {
                    squares.extend(dots(&a.layers[l], &b.layers[l]));
                }
            }
        }
        Self { groups, spanning, queries, right, squares }
    }

    /// The solution of one query's system, `added` to H in each layer.
    fn solve(&self, query: usize, form: &Form, added: &[f64]) -> Solved {
        let n = self.groups.len() * self.spanning;
        let right: Vec<f64> = (0..n).map(|k| self.right[k * self.queries + query]).collect();
        let damped = self.damped(query, added);
        let mean = |sums: &[f64], count: usize| -> Vec<f64> {
            sums.iter().zip(&damped).map(|(sum, damped)| sum / count.max(1) as f64 + damped).collect()
        };
        let [even, odd] = &form.halves;
        let all: Vec<f64> = even.iter().zip(odd).map(|(even, odd)| even + odd).collect();
        let matrix = mean(&all, form.counts.iter().sum());
        let coefficients = solve_scaled(&matrix, &right);
        let [first, second] = [0, 1].map(|half| solve_scaled(&mean(&form.halves[half], form.counts[half]), &right));
        let difference: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a - b).collect();
        let size = |x: &[f64]| {
            let row = |(row, x_i): (&[f64], &f64)| x_i * row.iter().zip(x).map(|(a, x_j)| a * x_j).sum::<f64>();
            matrix.chunks_exact(n).zip(x).map(row).sum::<f64>().max(0.0).sqrt()
        };
        let whole = size(&coefficients);
        let disagreement = if whole > 0.0 { size(&difference) / whole } else { 0.0 };
        Solved { coefficients, disagreement }
    }

    /// `Vᵀ D V`, D what is added to each layer; directions of different groups have nothing in common.
    fn damped(&self, query: usize, added: &[f64]) -> Vec<f64> {
        let (s, n) = (self.spanning, self.groups.len() * self.spanning);
        let mut matrix = vec![0.0; n * n];
        for (group, layers) in self.groups.iter().enumerate() {
            for &l in layers {
                for i in 0..s {
                    for j in 0..s {
                        let square = self.squares[((l * s + i) * s + j) * self.queries + query];
                        matrix[(group * s + i) * n + group * s + j] += added[l] * square;
                    }
                }
            }
        }
        matrix
    }
}

/// `A⁻¹ b` for a matrix that is positive or nearly so, solved with a diagonal of 1 and [`RIDGE`] on it. Directions that the
/// matrix does not know get nothing.
fn solve_scaled(matrix: &[f64], right: &[f64]) -> Vec<f64> {
    let n = right.len();
    let scale = |k: usize| {
        let square = matrix[k * n + k];
        if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 }
    };
    let scales: Vec<f64> = (0..n).map(scale).collect();
    let mut ridge = RIDGE;
    loop {
        let mut scaled: Vec<f64> = (0..n * n).map(|k| matrix[k] * scales[k / n] * scales[k % n]).collect();
        (0..n).for_each(|k| scaled[k * n + k] = 1.0 + ridge);
        let of_right = right.iter().zip(&scales).map(|(x, scale)| x * scale).collect();
        if let Some(solution) = cholesky_solve(scaled, n, of_right) {
            return solution.iter().zip(&scales).map(|(x, scale)| x * scale).collect();
        }
        // a Gram matrix is not positive by rounding alone
        ridge *= 10.0;
    }
}

/// Blocks of vectors as legs.
#[derive(Debug)]
struct Blocks<'a, T>(&'a [Block<T>]);

impl<T: Real> VectorSource<T> for Blocks<'_, T> {
    fn vectors(&self, leg: usize, layer: usize) -> Result<Vectors<'_, T>, Error> {
        Ok(Vectors::Full(&self.0[leg].layers[layer]))
    }

    fn queries(&self) -> usize {
        self.0.first().map_or(0, |block| block.count)
    }
}
