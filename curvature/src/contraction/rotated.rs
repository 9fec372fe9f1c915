//! Example gradients in an eigenbasis, `G̃ = Uₛᵀ G U_A`, handed out tile by tile so that no `[B, O, I]`
//! stack has to exist where the route allows it.

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::contraction::route::{Rotate, RotationRoute, Shape};
use crate::contraction::rows::{Rows, even_columns};
use crate::error::Error;
use crate::estimate::eigenbasis::Eigenbasis;
use crate::linalg::block_diagonal::{BlockDiagonal, Turn};
use crate::linalg::dot::dot;
use crate::linalg::gemm::{self, Packed, Products, Real, Threads, View, ViewMut};
use crate::network::layer::LayerSpec;
use crate::network::slices::with_slice;
use crate::network::tap::{Positions, Tap};

/// Output rows of one tile.
pub(crate) const TILE_ROWS: usize = 64;

/// Rows of a batch that one task prepares.
const ROWS: usize = 128;

/// Largest stack of whole gradients, in numbers, that a gradient-first route forms at a time.
pub const STACK_NUMBERS: usize = 1 << 24;

/// Rows of one layer in one batch, ready to be contracted: the inputs with their column of ones,
/// rotated or not, and the output gradients likewise.
#[derive(Debug, Default)]
pub(crate) struct RowBuffers<T> {
    inputs: Vec<T>,
    /// What `inputs` was made of, so that layers that share an input rotate it once.
    made_of: Option<MadeOf>,
    outputs: Vec<T>,
    /// Each example's part of `inputs`, and what it was packed of.
    packed: Vec<Packed>,
    packed_of: Option<MadeOf>,
    stack: Vec<T>,
    turned: Vec<T>,
    /// How gradients are formed and rotated.
    pub(crate) products: Products,
}

/// What prepared inputs depend on. Layers may read the same tensor and yet differ: one has a bias, or a
/// basis of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MadeOf {
    tensor: candle_core::TensorId,
    bias: bool,
    /// Address of the eigenvectors that rotated the rows; clones of a basis share them.
    vectors: Option<usize>,
}

/// One layer's part of a batch.
#[derive(Clone, Copy)]
pub(crate) struct LayerRows<'a, T> {
    pub input: &'a Tensor,
    pub output_gradient: &'a Tensor,
    pub positions: &'a Positions,
    pub bias: bool,
    /// `None` is the standard basis.
    pub basis: Option<&'a Eigenbasis<T>>,
    /// Multiplies every example's gradient before it is rotated, `[O, columns]` (`docs/method.md`, Source).
    pub conditioner: Option<&'a [T]>,
}

impl<'a, T: Real> LayerRows<'a, T> {
    /// The part of a batch that a tap shows of a layer.
    pub(crate) fn of(
        tap: Tap<'a>,
        layer: &LayerSpec,
        basis: Option<&'a Eigenbasis<T>>,
        conditioner: Option<&'a [T]>,
    ) -> Self {
        let Tap { input, output_gradient, positions, .. } = tap;
        Self { input, output_gradient, positions, bias: layer.bias, basis, conditioner }
    }

    fn shape(&self) -> Result<Shape, Error> {
        let (inputs, outputs) = (self.input.dim(1)?, self.output_gradient.dim(1)?);
        Ok(Shape::of(self.positions, outputs, inputs + usize::from(self.bias)))
    }

    /// The cheapest admissible route.
    fn route(&self, shape: Shape) -> RotationRoute {
        match (self.basis, self.conditioner) {
            (None, _) => RotationRoute { input: Rotate::Never, output: Rotate::Never },
            (Some(_), Some(_)) => RotationRoute { input: Rotate::Gradient, output: Rotate::Gradient },
            (Some(basis), None) => RotationRoute::cheapest(shape, basis.size()),
        }
    }
}

impl<T: Real> RowBuffers<T> {
    /// Calls `take(state, example, tile)` for every example and every block of [`TILE_ROWS`] output
    /// rows, `tile: [rows of the block, columns]`. Each block has its own state and sees the examples in
    /// order, so what `take` sums does not depend on the number of threads.
    pub(crate) fn for_each_tile<S: Send>(
        &mut self,
        layer: LayerRows<'_, T>,
        states: &mut [S],
        take: impl Fn(&mut S, usize, &[T]) + Sync,
    ) -> Result<(), Error> {
        let shape = layer.shape()?;
        let route = layer.route(shape);
        self.prepare(layer, route)?;
        let (o, i) = (shape.outputs, shape.columns);
        assert_eq!(states.len(), o.div_ceil(TILE_ROWS), "one state for each block of rows");
        let gradient_first =
            route.input == Rotate::Gradient || route.output == Rotate::Gradient || layer.conditioner.is_some();
        if !gradient_first {
            self.pack(layer.positions, o, i, states.len());
            let (prepared, packed) = (self.rows(layer.positions, o, i), self.packed());
            states.par_iter_mut().enumerate().for_each_init(
                || vec![T::of(0.0); TILE_ROWS * i],
                |tile, (block, state)| {
                    let start = block * TILE_ROWS;
                    let rows = TILE_ROWS.min(o - start);
                    for example in 0..shape.examples {
                        prepared.example(example, packed).form(&mut tile[..rows * i], start, rows);
                        take(state, example, &tile[..rows * i]);
                    }
                },
            );
            return Ok(());
        }
        let group = (STACK_NUMBERS / (o * i)).max(1);
        for first in (0..shape.examples).step_by(group) {
            let examples = first..shape.examples.min(first + group);
            self.turned_stack(layer, route, examples.clone(), o, i);
            let (turned, products) = (&self.turned, self.products);
            let vectors = layer.basis.filter(|_| route.output == Rotate::Gradient).map(|basis| &basis.output.vectors);
            states.par_iter_mut().enumerate().for_each_init(
                || vec![T::of(0.0); TILE_ROWS * i],
                |tile, (block, state)| {
                    let start = block * TILE_ROWS;
                    let rows = TILE_ROWS.min(o - start);
                    for (place, example) in examples.clone().enumerate() {
                        let gradient = &turned[place * o * i..(place + 1) * o * i];
                        let Some(u) = vectors else {
                            take(state, example, &gradient[start * i..(start + rows) * i]);
                            continue;
                        };
                        u.turned_rows(&mut tile[..rows * i], gradient, i, start..start + rows, products);
                        take(state, example, &tile[..rows * i]);
                    }
                },
            );
        }
        Ok(())
    }

    /// `(ã, s̃)` where every example has one row: both sides rotated, `[B, columns]` and `[B, O]`.
    pub(crate) fn single_rows(&mut self, layer: LayerRows<'_, T>) -> Result<(&[T], &[T]), Error> {
        let rotate = if layer.basis.is_some() { Rotate::Rows } else { Rotate::Never };
        self.prepare(layer, RotationRoute { input: rotate, output: rotate })?;
        Ok((&self.inputs, &self.outputs))
    }

    /// A layer's rows with both sides rotated, and the column of ones among the inputs.
    pub(crate) fn rotated_rows<'s>(&'s mut self, layer: LayerRows<'s, T>) -> Result<Rows<'s, T>, Error> {
        let shape = layer.shape()?;
        let rotate = if layer.basis.is_some() { Rotate::Rows } else { Rotate::Never };
        self.prepare(layer, RotationRoute { input: rotate, output: rotate })?;
        Ok(self.rows(layer.positions, shape.outputs, shape.columns))
    }

    /// Fills `inputs` and `outputs`: the rows with their column of ones, rotated where the route says so.
    fn prepare(&mut self, layer: LayerRows<'_, T>, route: RotationRoute) -> Result<(), Error> {
        let vectors = layer.basis.filter(|_| route.input == Rotate::Rows).map(|basis| &basis.input.vectors);
        let made_of =
            MadeOf { tensor: layer.input.id(), bias: layer.bias, vectors: vectors.map(BlockDiagonal::address) };
        if self.made_of != Some(made_of) {
            with_slice(layer.input, |a: &[T]| {
                augmented(&mut self.inputs, a, layer.input.dims()[1], layer.bias, vectors, self.products)
            })?;
            self.made_of = Some(made_of);
        }
        let vectors = layer.basis.filter(|_| route.output == Rotate::Rows).map(|basis| &basis.output.vectors);
        let (outputs, products) = (layer.output_gradient.dims()[1], self.products);
        with_slice(layer.output_gradient, |s: &[T]| {
            augmented(&mut self.outputs, s, outputs, false, vectors, products)
        })?;
        Ok(())
    }

    /// The prepared rows: a column of ones stands among the inputs.
    fn rows<'s>(&'s self, positions: &'s Positions, o: usize, i: usize) -> Rows<'s, T> {
        Rows { a: &self.inputs, n: i, bias: false, s: &self.outputs, o, positions, products: self.products }
    }

    /// Packs `inputs` for gradients in so many blocks, unless layers that share the input have done so.
    fn pack(&mut self, positions: &Positions, o: usize, i: usize, blocks: usize) {
        if self.packed().is_none() {
            let mut packed = std::mem::take(&mut self.packed);
            self.packed_of = self.rows(positions, o, i).pack(&mut packed, blocks).and(self.made_of);
            self.packed = packed;
        }
    }

    /// What was packed of `inputs`.
    fn packed(&self) -> Option<&[Packed]> {
        (self.packed_of.is_some() && self.packed_of == self.made_of).then_some(&self.packed)
    }

    /// Fills `turned` with whole gradients of some examples, conditioned, and rotated on the input side
    /// if the route left that for the gradient.
    fn turned_stack(
        &mut self,
        layer: LayerRows<'_, T>,
        route: RotationRoute,
        examples: Range<usize>,
        o: usize,
        i: usize,
    ) {
        let (products, count) = (self.products, examples.len());
        let mut stack = std::mem::take(&mut self.stack);
        stack.resize(count * o * i, T::of(0.0));
        let (prepared, packed) = (self.rows(layer.positions, o, i), self.packed());
        stack.par_chunks_mut(o * i).zip(examples).for_each(|(gradient, example)| {
            prepared.example(example, packed).form(gradient, 0, o);
            if let Some(conditioner) = layer.conditioner {
                gradient.iter_mut().zip(conditioner).for_each(|(g, h)| *g *= *h);
            }
        });
        self.stack = stack;
        match layer.basis.filter(|_| route.input == Rotate::Gradient) {
            Some(basis) => {
                self.turned.resize(count * o * i, T::of(0.0));
                let vectors = &basis.input.vectors;
                vectors.turn_rows(&mut self.turned, &self.stack, Turn::Into, products, Threads::Pool);
            }
            None => std::mem::swap(&mut self.turned, &mut self.stack),
        }
    }
}

/// `into` becomes the rows of `x`, `[R, n]`, with a trailing 1 if `ones`, times `vectors` if given.
pub(crate) fn augmented<T: Real>(
    into: &mut Vec<T>,
    x: &[T],
    n: usize,
    ones: bool,
    vectors: Option<&BlockDiagonal<T>>,
    products: Products,
) {
    let rows = x.len() / n;
    let size = n + usize::from(ones);
    into.resize(rows * size, T::of(0.0));
    let Some(u) = vectors else {
        into.par_chunks_mut(ROWS * size).zip(x.par_chunks(ROWS * n)).for_each(|(into, x)| {
            for (row, x) in into.chunks_exact_mut(size).zip(x.chunks_exact(n)) {
                row[..n].copy_from_slice(x);
                row[n..].fill(T::of(1.0));
            }
        });
        return;
    };
    if rows == 0 {
        return;
    }
    u.blocks().for_each(|(range, block)| rotate_block(into, x, n, size, range, block.as_slice(), products));
}

/// Columns `range` of the rotated rows: rows of `[x, 1]`, as wide as `size` says, times one block.
fn rotate_block<T: Real>(
    into: &mut [T],
    x: &[T],
    n: usize,
    size: usize,
    range: Range<usize>,
    u: &[T],
    products: Products,
) {
    let (rows, start, width) = (x.len() / n, range.start, range.len());
    // coordinates of the block that are not the trailing 1
    let own = range.end.min(n) - start;
    if own == 0 {
        into.chunks_exact_mut(size).for_each(|row| row[range.clone()].copy_from_slice(u));
        return;
    }
    // the column left over is a product with a vector
    let even = even_columns(width);
    let product = ViewMut::new(&mut into[start..], rows, even, size);
    let (x_view, u_view) = (View::new(&x[start..], rows, own, n).to(products), View::new(u, own, even, width));
    gemm::matmul(product, gemm::Into::Replace, T::of(1.0), x_view, u_view, Threads::Pool);
    let last: Vec<T> = if even < width { u.iter().skip(even).step_by(width).copied().collect() } else { vec![] };
    if even == width && own == width {
        return;
    }
    into.par_chunks_mut(ROWS * size).zip(x.par_chunks(ROWS * n)).for_each(|(into, x)| {
        for (row, x) in into.chunks_exact_mut(size).zip(x.chunks_exact(n)) {
            let row = &mut row[range.clone()];
            if even < width {
                row[even] = T::of(dot(&x[start..start + own], &last[..own]));
            }
            if own < width {
                row.iter_mut().zip(&u[own * width..]).for_each(|(row, u)| *row += *u);
            }
        }
    });
}
