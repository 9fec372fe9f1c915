//! Products in AVX-512: panels are packed, tiles are summed in registers.
//!
//! Blocking after Goto and van de Geijn (2008): a panel of the left side, [`tile::ROWS`] rows and at most [`DEPTH`]
//! deep, stays in the first-level cache (at most 21 KiB of 32) while the panels of a block of the right side, at most
//! [`WIDTH`] columns of the same depth (at most 768 KiB of 1 MiB), pass from the second-level cache.

use std::cell::Cell;
use std::ops::Range;

use super::{Into, Products, View};

mod pack;
mod tile;

use pack::{Order, Side};
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
    depth: usize,
    c: *mut f32,
    stride: usize,
    factor: f32,
    into: Into,
    part: Part,
    products: Products,
}

/// Which numbers of the result are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// Those on and below the diagonal.
    Lower,
}

// SAFETY: the inputs are only read, and who calls `Product::compute` promises that parts of the result which are
// computed at the same time do not overlap.
unsafe impl Sync for Product {}

impl Product {
    /// `c = factor · a b` or `c += factor · a b`, rows of `c` `stride` apart.
    pub(super) fn new(
        c: *mut f32,
        stride: usize,
        into: Into,
        factor: f32,
        a: View<'_, f32>,
        b: View<'_, f32>,
        part: Part,
    ) -> Self {
        let side = |x: View<'_, f32>| {
            // a view is row-major or the transpose of one that is
            let (order, stride) = match x.column_stride {
                1 => (Order::AlongK, x.row_stride),
                stride => (Order::AcrossLanes, stride),
            };
            Side { data: x.data.as_ptr(), order, stride }
        };
        let products = a.products.or(b.products);
        Self { left: side(a), right: side(b.t()), depth: a.columns, c, stride, factor, into, part, products }
    }

    /// Computes some rows and columns of the result.
    ///
    /// # Safety
    /// The processor must run these products ([`runs`]). The views must live, the rows and columns must lie inside
    /// the result, and no one else may use them; they must be numbers if they are added to.
    pub(super) unsafe fn compute(&self, rows: Range<usize>, columns: Range<usize>) {
        with_space(|right, left| {
            let blocks = self.depth.div_ceil(DEPTH * self.numbers_in_place());
            for first_column in columns.clone().step_by(WIDTH) {
                let columns = first_column..columns.end.min(first_column + WIDTH);
                for block in 0..blocks {
                    // as even as can be; where blocks begin follows from the depth alone
                    let k = block * self.depth / blocks..(block + 1) * self.depth / blocks;
                    // SAFETY: the caller's promise; the spaces hold a block of WIDTH columns and a panel of ROWS rows.
                    unsafe { self.block(rows.clone(), columns.clone(), k, right, left) };
                }
            }
        });
    }

    /// Numbers along k that one place of a packed panel holds.
    fn numbers_in_place(&self) -> usize {
        if self.products == Products::Bf16 { 2 } else { 1 }
    }

    /// # Safety
    /// As for [`Side::pack`], whose arguments these are.
    unsafe fn pack(&self, side: Side, first: usize, lanes: usize, k: &Range<usize>, to: *mut f32, pitch: usize) {
        // SAFETY: the caller's promise; who asks for products in bf16 has asked whether they run.
        unsafe {
            match self.products {
                Products::Exact => side.pack(first, lanes, k.start, k.len(), to, pitch),
                Products::Bf16 => side.pack_bf16(first, lanes, k.start, k.len(), to, pitch),
            }
        }
    }

    /// # Safety
    /// As for [`Product::compute`], `right` and `left` having room for a block and a panel.
    unsafe fn block(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        k: Range<usize>,
        right: *mut f32,
        left: *mut f32,
    ) {
        let exact = self.products == Products::Exact;
        let (depth, into) =
            (k.len().div_ceil(self.numbers_in_place()), if k.start > 0 { Into::Add } else { self.into });
        let as_it_is = exact
            && self.right.order == Order::AcrossLanes
            && (rows.len() <= UNPACKED_ROWS || self.right.stride <= UNPACKED_STRIDE);
        let packed = |width: usize| !(as_it_is && width.is_multiple_of(LANES));
        for column in columns.clone().step_by(COLUMNS) {
            let width = COLUMNS.min(columns.end - column);
            for part in (0..width).step_by(LANES).take_while(|_| packed(width)) {
                let to = (column - columns.start) * depth + part;
                // SAFETY: the lanes and k are inside the operand; the panels lie one behind the other in `right`.
                unsafe {
                    let (lanes, pitch) = (LANES.min(width - part), width.next_multiple_of(LANES));
                    self.pack(self.right, column + part, lanes, &k, right.add(to), pitch);
                }
            }
        }
        // panels of the left side are as even as can be
        let panels = rows.len().div_ceil(ROWS);
        let lanes = |panel: usize| {
            let at = |panel: usize| rows.start + panel * rows.len() / panels;
            at(panel)..at(panel + 1)
        };
        for panel in 0..panels {
            let Range { start: first, end } = lanes(panel);
            if self.part == Part::Lower && end <= columns.start {
                continue;
            }
            // SAFETY: the rows and k are inside the operand, and `left` has room for ROWS rows and a register.
            let (left, order) = unsafe {
                if exact && self.left.order == Order::AlongK && self.left.stride <= UNPACKED_STRIDE {
                    (self.left.at(first, k.start), self.left.order)
                } else {
                    self.pack(self.left, first, end - first, &k, left, end - first);
                    (left.cast_const(), Order::AcrossLanes)
                }
            };
            for column in columns.clone().step_by(COLUMNS) {
                let width = COLUMNS.min(columns.end - column);
                if self.part == Part::Lower && end <= column {
                    break;
                }
                // SAFETY: the right panel was packed with this depth, or is 16 or 32 whole columns of the operand; the
                // tile lies inside the rows and columns.
                unsafe {
                    let (panel, pitch) = match packed(width) {
                        true => {
                            let packed = right.add((column - columns.start) * depth);
                            (packed.cast_const(), width.next_multiple_of(LANES))
                        }
                        false => (self.right.at(column, k.start), self.right.stride),
                    };
                    let tiles = match (self.products, order) {
                        (Products::Bf16, _) => &tile::BF16,
                        (Products::Exact, Order::AlongK) => &tile::F32_ROWS,
                        (Products::Exact, Order::AcrossLanes) => &tile::F32,
                    };
                    let compute = tiles[(width - 1) / LANES][end - first - 1];
                    let c = self.c.add(first * self.stride + column);
                    let target = Target { c, stride: self.stride, columns: width, factor: self.factor, into };
                    if self.part == Part::Lower && first < column + width - 1 {
                        let mut whole = [0.0f32; ROWS * COLUMNS];
                        let aside = Target { c: whole.as_mut_ptr(), stride: COLUMNS, into: Into::Replace, ..target };
                        compute(depth, left, self.left.stride, panel, pitch, aside);
                        for (row, whole) in (first..end).zip(whole.chunks_exact(COLUMNS)) {
                            for place in 0..width.min((row + 1).saturating_sub(column)) {
                                let c = c.add((row - first) * self.stride + place);
                                *c = if into == Into::Add { *c + whole[place] } else { whole[place] };
                            }
                        }
                    } else {
                        compute(depth, left, self.left.stride, panel, pitch, target);
                    }
                }
            }
        }
    }
}

/// 64 bytes that begin where a line of the cache does.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[allow(dead_code)] // written and read through pointers
struct Line([f32; LANES]);

/// Registers that a block of the right side and a panel of the left side fill, and one that overhangs.
const RIGHT_LINES: usize = DEPTH * WIDTH / LANES;
const LEFT_LINES: usize = DEPTH * ROWS / LANES + 1;

/// Lends memory for a block of the right side and a panel of the left one; each thread keeps its own.
fn with_space(f: impl FnOnce(*mut f32, *mut f32)) {
    thread_local!(static SPACE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) });
    let mut space = SPACE.take();
    space.resize(RIGHT_LINES + LEFT_LINES, Line([0.0; LANES]));
    let (right, left) = space.split_at_mut(RIGHT_LINES);
    f(right.as_mut_ptr().cast(), left.as_mut_ptr().cast());
    SPACE.set(space);
}
