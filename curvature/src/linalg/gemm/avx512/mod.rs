//! Products in AVX-512: panels are packed, tiles are summed in registers.
//!
//! Blocking after Goto and van de Geijn (2008): a panel of the left side, [`tile::ROWS`] rows and at most [`DEPTH`]
//! deep, stays in the first-level cache (at most 21 KiB of 32) while the panels of a block of the right side, at most
//! [`WIDTH`] columns of the same depth (at most 768 KiB of 1 MiB), pass from the second-level cache. Some panels of the
//! left side are packed together, which reads the rows that they share once.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::{Into, Products, View};
use crate::linalg::parts::part;

mod gram;
mod pack;
mod panels;
mod tile;

pub(super) use gram::add_gram;
use pack::{Order, Panel, Side};
pub(super) use panels::Panels;
use panels::{LEFT_PANELS, RIGHT_PANELS, beside, left_panel, with_space};
use tile::{COLUMNS, LANES, ROWS, Target};

/// Most of the inner size that is summed in registers at a time.
const DEPTH: usize = 384;

/// Most columns whose panels are packed together; a multiple of a panel's.
const WIDTH: usize = 512;

/// Most rows of a result for which a row-major right side is read where it lies, however far its rows are apart.
const UNPACKED_ROWS: usize = 64;

/// Largest distance of rows at which panels of a row-major operand are read where they lie: 14 of a left side's fit
/// into 24 KiB, and so do not displace each other in the first-level cache.
const UNPACKED_STRIDE: usize = 448;

/// Whether this processor runs these products.
pub(super) fn runs(products: Products) -> bool {
    let f32 = is_x86_feature_detected!("avx512f");
    let bf16 = || is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16");
    f32 && (products == Products::Exact || bf16())
}

/// A product whose shapes and slices were checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    left: Side,
    right: Side,
    /// The right side's panels, if they were packed before.
    panels: Option<*const f32>,
    depth: usize,
    columns: usize,
    /// `[rows, columns]`, rows so far apart.
    c: *mut f32,
    stride: usize,
    factor: f32,
    into: Into,
    products: Products,
}

/// A piece of the inner size that is summed in registers.
#[derive(Debug, Clone)]
struct Depth {
    k: Range<usize>,
    /// Places of a packed panel that hold it, and those of the pieces before it.
    places: usize,
    before: usize,
}

impl Depth {
    /// Where the numbers of a column's panel begin among panels of so many columns: those of all for the first piece,
    /// then for the next.
    fn place(&self, columns: usize, column: usize) -> usize {
        self.before * columns.next_multiple_of(LANES) + column * self.places
    }
}

/// Pieces of the inner size, as even as can be; where they begin follows from it alone.
fn depths(depth: usize, products: Products) -> impl Iterator<Item = Depth> {
    let numbers = products.numbers_in_place();
    let pieces = depth.div_ceil(DEPTH * numbers);
    (0..pieces).scan(0, move |before, piece| {
        let k = part(&(0..depth), pieces, piece);
        let places = k.len().div_ceil(numbers);
        *before += places;
        Some(Depth { k, places, before: *before - places })
    })
}

impl Products {
    /// Numbers along k that one place of a packed panel holds.
    fn numbers_in_place(self) -> usize {
        if self == Self::Bf16 { 2 } else { 1 }
    }
}

/// A block of the right side.
#[derive(Debug, Clone, Copy)]
struct Right {
    panels: *const f32,
    /// Whether panels that are full registers are read where they lie instead.
    in_place: bool,
}

// SAFETY: the inputs are only read, and who calls `Product::compute` promises that parts of the result which are
// computed at the same time do not overlap.
unsafe impl Sync for Product {}

impl Product {
    /// `c = factor · a b` or `c += factor · a b`, rows of `c` `stride` apart.
    pub(super) fn new(c: *mut f32, stride: usize, into: Into, factor: f32, a: View<'_, f32>, b: View<'_, f32>) -> Self {
        let (left, right, products) = (Side::of_left(a), Side::of_left(b.t()), a.products.or(b.products));
        Self { left, right, panels: None, depth: b.rows, columns: b.columns, c, stride, factor, into, products }
    }

    /// The same with the right side's numbers from its panels.
    pub(super) fn with_panels(self, panels: &Panels) -> Self {
        Self { panels: Some(panels.as_ptr()), ..self }
    }

    /// Computes some rows and columns of the result; the columns begin where a panel does.
    ///
    /// # Safety
    /// The processor must run these products ([`runs`]). The views and panels must live, the rows and columns must lie
    /// inside the result, and no one else may use them; they must be numbers if they are added to.
    pub(super) unsafe fn compute(&self, rows: Range<usize>, columns: Range<usize>) {
        with_space(|right, left| {
            for first_column in columns.clone().step_by(WIDTH) {
                let columns = first_column..columns.end.min(first_column + WIDTH);
                for depth in depths(self.depth, self.products) {
                    // SAFETY: the caller's promise; the spaces hold WIDTH columns and LEFT_PANELS panels.
                    unsafe {
                        let right = self.right(rows.len(), &columns, &depth, right);
                        self.block(rows.clone(), columns.clone(), depth, right, left);
                    }
                }
            }
        });
    }

    /// A block of the right side: panels that were packed before, or into `space` those that are not read where they
    /// lie.
    ///
    /// # Safety
    /// As for [`Product::compute`], `space` having room for a block.
    unsafe fn right(&self, rows: usize, columns: &Range<usize>, depth: &Depth, space: *mut f32) -> Right {
        if let Some(panels) = self.panels {
            let panels = panels.wrapping_add(depth.place(self.columns, columns.start));
            return Right { panels, in_place: false };
        }
        let in_place = self.products == Products::Exact
            && self.right.order == Order::AcrossLanes
            && (rows <= UNPACKED_ROWS || self.right.stride <= UNPACKED_STRIDE);
        let ragged = columns.len() % COLUMNS;
        let first = match in_place {
            true if ragged.is_multiple_of(LANES) => columns.end,
            true => columns.end - ragged,
            false => columns.start,
        };
        let to = space.wrapping_add((first - columns.start) * depth.places);
        let panels: ArrayVec<_, RIGHT_PANELS> = beside(first..columns.end, depth.places, to).collect();
        // SAFETY: the caller's promise; the lanes and k are inside the operand.
        unsafe { self.right.pack(self.products, &panels, &depth.k) };
        Right { panels: space, in_place }
    }

    /// # Safety
    /// As for [`Product::compute`], `right` being this block and `left` having room for [`LEFT_PANELS`].
    unsafe fn block(&self, rows: Range<usize>, columns: Range<usize>, depth: Depth, right: Right, left: *mut f32) {
        let exact = self.products == Products::Exact;
        let in_place = exact && self.left.order == Order::AlongK && self.left.stride <= UNPACKED_STRIDE;
        let panels = rows.len().div_ceil(ROWS);
        let rows_of = |panel: usize| part(&rows, panels, panel);
        for together in (0..panels).step_by(LEFT_PANELS) {
            let together = together..panels.min(together + LEFT_PANELS);
            let place = |panel: usize| left_panel(left, panel - together.start);
            if !in_place {
                let panels = together.clone().map(|panel| {
                    let rows = rows_of(panel);
                    Panel { first: rows.start, lanes: rows.len(), to: place(panel), pitch: rows.len() }
                });
                // SAFETY: the caller's promise; the rows and k are inside the operand.
                unsafe { self.left.pack(self.products, &panels.collect::<ArrayVec<_, LEFT_PANELS>>(), &depth.k) };
            }
            for panel in together.clone() {
                let (left, order) = match in_place {
                    // SAFETY: the row and k are inside the operand.
                    true => (unsafe { self.left.at(rows_of(panel).start, depth.k.start) }, Order::AlongK),
                    false => (place(panel).cast_const(), Order::AcrossLanes),
                };
                // SAFETY: the caller's promise; the left panel holds these rows.
                unsafe { self.tiles(rows_of(panel), columns.clone(), &depth, left, order, right) };
            }
        }
    }

    /// The tiles of one left panel.
    ///
    /// # Safety
    /// As for [`Product::block`]; `left` must be the panel of `rows` in this order.
    unsafe fn tiles(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        depth: &Depth,
        left: *const f32,
        order: Order,
        right: Right,
    ) {
        let tiles = match (self.products, order) {
            (Products::Bf16, _) => &tile::BF16,
            (Products::Exact, Order::AlongK) => &tile::F32_ROWS,
            (Products::Exact, Order::AcrossLanes) => &tile::F32,
        };
        for column in columns.clone().step_by(COLUMNS) {
            let width = COLUMNS.min(columns.end - column);
            let (panel, pitch) = match right.in_place && width.is_multiple_of(LANES) {
                // SAFETY: the column and k are inside the operand.
                true => (unsafe { self.right.at(column, depth.k.start) }, self.right.stride),
                false => {
                    let before = (column - columns.start) * depth.places;
                    (right.panels.wrapping_add(before), width.next_multiple_of(LANES))
                }
            };
            let compute = tiles[(width - 1) / LANES][rows.len() - 1];
            let stride = if order == Order::AlongK { self.left.stride } else { rows.len() };
            let into = if depth.k.start > 0 { Into::Add } else { self.into };
            // SAFETY: the right panel has this depth, or is 16 or 32 whole columns of the operand; the tile lies inside
            // the rows and columns.
            unsafe {
                let c = self.c.add(rows.start * self.stride + column);
                let target = Target { c, stride: self.stride, columns: width, factor: self.factor, into };
                compute(depth.places, left, stride, panel, pitch, target);
            }
        }
    }
}
