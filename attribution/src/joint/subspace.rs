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
use ascribe_curvature::{
    Damping, Factors, GradientProducts, LayerFactors, LayerId, LayerSpec, Network, Objective, SpectralFn, Spectrum,
    Tap, TapSink,
};
use rayon::prelude::*;

use super::block::Block;
use super::positive::cholesky_solve;
use super::vectors::{layer_dampings, put_solution, unit_gradients};
use crate::{Error, Sweep, VectorSink, VectorSource};

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
    /// The systems that are solved in it.
    pub systems: &'a [SubspaceSystem],
    /// What is differentiated at each example; the form is the mean over these.
    pub objectives: &'a [Objective],
}

/// A system of each query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubspaceSystem {
    /// What is added to H.
    pub damping: Damping,
    /// Whether H is known from every other draw of labels alone (every other example's where each has one), from the
    /// first or from the second on; none: from all.
    pub half: Option<usize>,
}

impl SubspaceSystem {
    /// The system of everything that was drawn.
    pub fn whole(damping: Damping) -> Self {
        Self { damping, half: None }
    }
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
    /// For each system and query `|x₁ - x₂| / |x|` in the norm of `H + δ`, `x₁` and `x₂` the solutions with every other
    /// draw of labels, or with every other example's where each has one: how much of the answer is the luck of the draw.
    pub disagreements: Vec<Vec<f64>>,
    /// For each system and query the coefficients of its solution, and last the norm of its gradient: what
    /// [`SolvedMap`](super::SolvedMap) makes the solution's map of. `[systems][queries · (directions + 1)]`.
    pub coefficients: Vec<Vec<f64>>,
}

/// Solves `(H + δ) x = q` in each query's space, and puts the solutions into `sink`: those of system k as leg k, under the numbers
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
    let (mut q, norms) = unit_gradients(specs, gradients, queries.clone())?;
    let of_systems: Vec<Damping> = subspace.systems.iter().map(|system| system.damping).collect();
    let dampings = layer_dampings(specs, subspace.factors, &of_systems)?;
    let layers = subspace.factors.layers.iter();
    for ((layer, spec), vectors) in layers.clone().zip(specs).zip(&mut q.layers) {
        layer.rotate(vectors, spec);
    }
    let spectra = layers.map(|layer| spectra(layer, subspace.spanning));
    let space = Space {
        factors: subspace.factors,
        q,
        spectra: spectra.collect(),
        spanning: subspace.spanning.len(),
        groups: groups(specs.len(), subspace.spanning.len()),
    };
    let forms = forms(sweep, subspace.objectives, &space)?;
    let systems = Systems::new(&space);
    let (mut disagreements, mut coefficients) = (Vec::with_capacity(dampings.len()), vec![]);
    for (leg, (added, system)) in dampings.iter().zip(subspace.systems).enumerate() {
        let solve = |query: usize| systems.solve(query, &forms[query], added, system.half);
        let solved: Vec<Solved> = (0..space.q.count).into_par_iter().map(solve).collect();
        disagreements.push(solved.iter().map(|solved| solved.disagreement).collect());
        let of_queries = solved.iter().zip(&norms);
        let scaled = of_queries.flat_map(|(of, norm)| of.coefficients.iter().map(move |x| x * norm).chain([*norm]));
        coefficients.push(scaled.collect());
        for (group, layers) in space.groups.iter().enumerate() {
            for &l in layers {
                let combined = |query: usize, j: usize| {
                    T::of(solved[query].coefficients[group * space.spanning + j] * norms[query])
                };
                let mut solution = space.combined(l, specs[l].parameters(), combined);
                space.factors.layers[l].rotate_back(&mut solution, &specs[l]);
                put_solution(sink, (leg, l), queries.clone(), solution, specs, subspace.factors)?;
            }
        }
    }
    Ok(SubspaceSolved { disagreements, coefficients })
}

/// `1 / (λ + c_j)` of a layer for the dampings that span spaces.
pub(super) fn spectra<T: Real>(layer: &LayerFactors<T>, spanning: &[Damping]) -> Vec<Spectrum<T>> {
    let inverse = |damping: &Damping| layer.spectrum(&SpectralFn::Inverse { damping: layer.damping(*damping) });
    spanning.iter().map(inverse).collect()
}

/// The spaces of a block of queries. In the eigenbasis every vector of a query is its gradient times the values of a
/// function of the eigenvalues, so that gradients and functions are all that is kept.
#[derive(Debug)]
struct Space<'a, T> {
    factors: &'a Factors<T>,
    /// The queries' gradients, in the eigenbasis of each layer.
    q: Block<T>,
    /// For each layer `1 / (λ + c_j)`, with as many dampings `c_j` as span the space.
    spectra: Vec<Vec<Spectrum<T>>>,
    /// How many dampings span the space.
    spanning: usize,
    /// Layers that share their coefficients.
    groups: Vec<Vec<usize>>,
}

impl<T: Real> Space<'_, T> {
    /// Vectors that span one query's space.
    fn directions(&self) -> usize {
        self.groups.len() * self.spanning
    }

    /// Makes `into` one layer of the vectors that span all queries' spaces, `[spanning, queries, O, columns]`.
    fn span(&self, l: usize, into: &mut Vec<T>) {
        let gradients = &self.q.layers[l];
        into.resize(self.spanning * gradients.len(), T::of(0.0));
        for (vectors, spectrum) in into.chunks_exact_mut(gradients.len().max(1)).zip(&self.spectra[l]) {
            match spectrum {
                Spectrum::Each(values) => {
                    let each = vectors.par_chunks_exact_mut(values.len()).zip(gradients.par_chunks_exact(values.len()));
                    each.for_each(|(vector, gradient)| {
                        let numbers = vector.iter_mut().zip(gradient).zip(values);
                        numbers.for_each(|((x, g), value)| *x = *g * *value);
                    });
                }
                Spectrum::All(value) => vectors.iter_mut().zip(gradients).for_each(|(x, g)| *x = *g * *value),
            }
        }
    }

    /// What the vectors of one layer and query have in common with the gradient, `<v_j, q>`, and with each other,
    /// `<v_i, v_j>`, `[spanning, spanning]`: bases are orthogonal, so that both are what they are outside of them.
    fn own_products(&self, LayerId(l): LayerId, query: usize) -> (Vec<f64>, Vec<f64>) {
        let (s, layer) = (self.spanning, &self.q.layers[l]);
        let size = layer.len() / self.q.count;
        let (mut along, mut squares) = (vec![0.0; s], vec![0.0; s * s]);
        let mut vector = vec![0.0; s];
        for (k, g) in layer[query * size..(query + 1) * size].iter().enumerate() {
            for (x, spectrum) in vector.iter_mut().zip(&self.spectra[l]) {
                let value = match spectrum {
                    Spectrum::Each(values) => values[k],
                    Spectrum::All(value) => *value,
                };
                *x = (*g * value).wide();
            }
            let g = g.wide();
            for (i, x) in vector.iter().enumerate() {
                along[i] += x * g;
                vector.iter().zip(&mut squares[i * s..]).for_each(|(y, square)| *square += x * y);
            }
        }
        (along, squares)
    }

    /// One layer of `Σ_j coefficient(query, j) v_j` for all queries, `[queries, O, columns]` in the eigenbasis.
    fn combined(&self, l: usize, size: usize, coefficient: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
        let mut sums = self.q.layers[l].clone();
        sums.par_chunks_exact_mut(size).enumerate().for_each(|(query, sum)| {
            let mut function = vec![T::of(0.0); size];
            for (j, spectrum) in self.spectra[l].iter().enumerate() {
                let along = coefficient(query, j);
                match spectrum {
                    Spectrum::Each(values) => {
                        function.iter_mut().zip(values).for_each(|(f, value)| *f += along * *value);
                    }
                    Spectrum::All(value) => function.iter_mut().for_each(|f| *f += along * *value),
                }
            }
            sum.iter_mut().zip(&function).for_each(|(x, f)| *x *= *f);
        });
        sums
    }
}

/// Layers in as many groups of neighbours as a space of [`MOST_DIRECTIONS`] allows: one for each, if there are few.
pub(super) fn groups(layers: usize, spanning: usize) -> Vec<Vec<usize>> {
    let most = (MOST_DIRECTIONS / spanning.max(1)).max(1);
    let count = layers.min(most).max(1);
    (0..count).map(|k| (k * layers / count..(k + 1) * layers / count).collect()).collect()
}

/// `Vᵀ H V` of one query by half: from even and odd draws of every example, or from the examples of even and of odd places
/// if there is one draw or none; sums of squares and their number.
#[derive(Debug, Clone)]
struct Form {
    halves: [Vec<f64>; 2],
    counts: [usize; 2],
}

/// The forms of all queries' spaces, directions counted through the groups and, in each, through the dampings.
fn forms<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    objectives: &[Objective],
    space: &Space<'_, T>,
) -> Result<Vec<Form>, Error> {
    let specs = sweep.network.layers();
    let (queries, spanning, directions) = (space.q.count, space.spanning, space.directions());
    let mut group_of = vec![0; specs.len()];
    space.groups.iter().enumerate().for_each(|(group, layers)| layers.iter().for_each(|&l| group_of[l] = group));
    let is_draw = |objective: &Objective| matches!(objective, Objective::SampledLoss(_));
    let is_by_draw = objectives.len() > 1 && objectives.iter().all(is_draw);
    let empty = || vec![0.0; directions * directions];
    let mut forms = vec![Form { halves: [empty(), empty()], counts: [0; 2] }; queries];
    let width = spanning * queries;
    let products = GradientProducts::<T>::default().with_products(sweep.network.products());
    let mut taps = FormTaps { specs, space, group_of: &group_of, products, vectors: vec![], sums: vec![] };
    let batch = |forms: &mut Vec<Form>, range: Range<usize>, batch: &N::Batch| -> Result<(), Error> {
        for (draw, &objective) in objectives.iter().enumerate() {
            taps.sums = vec![vec![0.0; range.len() * width]; space.groups.len()];
            sweep.network.differentiate(batch, objective, &mut taps)?;
            if !taps.sums.iter().flatten().all(|product| product.is_finite()) {
                return Err(Error::NonFiniteScore(range));
            }
            let sums = &taps.sums;
            forms.par_iter_mut().enumerate().for_each(|(query, form)| {
                let mut along = vec![0.0; directions];
                for (place, example) in range.clone().enumerate() {
                    for (group, sum) in sums.iter().enumerate() {
                        for j in 0..spanning {
                            along[group * spanning + j] = sum[place * width + j * queries + query];
                        }
                    }
                    let half = if is_by_draw { draw % 2 } else { example % 2 };
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

/// Multiplies a batch's gradients with the vectors that span all queries' spaces, summed over the layers of each group.
struct FormTaps<'a, T> {
    specs: &'a [LayerSpec],
    space: &'a Space<'a, T>,
    group_of: &'a [usize],
    products: GradientProducts<T>,
    /// One layer of the vectors, made anew at each tap.
    vectors: Vec<T>,
    /// For each group `[examples, spanning, queries]`.
    sums: Vec<Vec<f64>>,
}

impl<T: Real> TapSink for FormTaps<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let l = tap.layer.0;
        self.space.span(l, &mut self.vectors);
        let basis = self.space.factors.layers[l].basis.as_ref();
        let sums = &mut self.sums[self.group_of[l]];
        self.products.add_scores_in_basis(tap, &self.specs[l], basis, &self.vectors, sums)
    }
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
    fn new<T: Real>(space: &'a Space<'_, T>) -> Self {
        let (spanning, queries) = (space.spanning, space.q.count);
        let mut right = vec![0.0; space.directions() * queries];
        let mut squares = vec![0.0; space.q.layers.len() * spanning * spanning * queries];
        for (group, layers) in space.groups.iter().enumerate() {
            for &l in layers {
                let of_query = |query: usize| space.own_products(LayerId(l), query);
                let found: Vec<(Vec<f64>, Vec<f64>)> = (0..queries).into_par_iter().map(of_query).collect();
                for (query, (along, square)) in found.into_iter().enumerate() {
                    for (j, along) in along.into_iter().enumerate() {
                        right[(group * spanning + j) * queries + query] += along;
                    }
                    for (pair, square) in square.into_iter().enumerate() {
                        squares[(l * spanning * spanning + pair) * queries + query] = square;
                    }
                }
            }
        }
        Self { groups: &space.groups, spanning, queries, right, squares }
    }

    /// The solution of one query's system, `added` to H in each layer, H from all that was drawn or from one half.
    fn solve(&self, query: usize, form: &Form, added: &[f64], half: Option<usize>) -> Solved {
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
        let coefficients = match half {
            None => coefficients,
            Some(0) => first,
            Some(_) => second,
        };
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
