//! Gram matrices: both sides of the product are columns of one matrix, so its panels are packed once, and tiles read
//! the left side from them too.

use std::cell::Cell;
use std::ops::Range;

use arrayvec::ArrayVec;

use super::super::{Products, Threads, View, tasks};
use super::pack::{Panel, Side};
use super::panels::{EMPTY, Line, beside};
use super::tile::{self, COLUMNS, LANES, ROWS, Sums};
use super::{Depth, WIDTH, depths};
use crate::linalg::parts::part;

/// Bytes of panels that are packed at a time, at least those of one piece of the inner size. All threads read them, so
/// they lie in the cache that threads share.
const BYTES: usize = 4 << 20;

/// Columns that one task packs.
const STRIP: usize = 128;

/// Adds `xᵀ x` to a lower triangle whose rows lie one behind the other.
///
/// # Safety
/// The processor must run these products ([`super::runs`]), and `triangle` must have a number for each pair of columns.
pub(in super::super) unsafe fn add_gram(triangle: &mut [f64], x: View<'_, f32>, threads: Threads) {
    thread_local!(static SPACE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) });
    let n = x.columns;
    let pieces: Vec<Depth> = depths(x.rows, x.products).collect();
    let lines = |piece: &Depth| piece.places * n.div_ceil(LANES);
    let largest = pieces.iter().map(lines).max().unwrap_or(0);
    let together = (BYTES / (largest * size_of::<Line>()).max(1)).max(1);
    let mut space = SPACE.take();
    space.resize(together.min(pieces.len()) * largest, EMPTY);
    let (panels, triangle) = (space.as_mut_ptr().cast(), triangle.as_mut_ptr());
    for pieces in pieces.chunks(together) {
        let gram = Gram { x: Side::of_left(x.t()), columns: n, products: x.products, pieces, panels, triangle };
        // SAFETY: strips, and then blocks of the triangle, do not overlap; the panels were packed before they are
        // read, and the space holds those of as many pieces.
        tasks::strips(n, STRIP, threads, |columns| unsafe { gram.pack(columns) });
        tasks::triangle(n, threads, |rows, columns| unsafe { gram.add(rows, columns) });
    }
    SPACE.set(space);
}

/// The product of some pieces of the inner size.
#[derive(Debug)]
struct Gram<'a> {
    x: Side,
    columns: usize,
    products: Products,
    pieces: &'a [Depth],
    /// Those of all columns for the first piece, then for the next.
    panels: *mut f32,
    triangle: *mut f64,
}

// SAFETY: who calls `pack` and `add` promises that what is written at the same time does not overlap.
unsafe impl Sync for Gram<'_> {}

impl Gram<'_> {
    /// The panel that begins with this column, and the places between one k and the next.
    fn panel(&self, piece: &Depth, column: usize) -> (*mut f32, usize) {
        let panel = piece.place(self.columns, column) - self.pieces[0].place(self.columns, 0);
        (self.panels.wrapping_add(panel), COLUMNS.min(self.columns - column).next_multiple_of(LANES))
    }

    /// Packs some columns; they begin where a panel does.
    ///
    /// # Safety
    /// As for [`add_gram`]; nobody else may use their panels.
    unsafe fn pack(&self, columns: Range<usize>) {
        for piece in self.pieces {
            let (to, _) = self.panel(piece, columns.start);
            let panels: ArrayVec<Panel, { STRIP / LANES }> = beside(columns.clone(), piece.places, to).collect();
            // SAFETY: the caller's promise; the columns and k lie inside the operand.
            unsafe { self.x.pack(self.products, &panels, &piece.k) };
        }
    }

    /// Adds some rows and columns of the product, as far as they lie in the triangle; both begin where a panel does.
    ///
    /// # Safety
    /// As for [`add_gram`]; nobody else may use this part of the triangle, and the panels must be packed.
    unsafe fn add(&self, rows: Range<usize>, columns: Range<usize>) {
        let blocks = columns.clone().step_by(WIDTH).map(|first| first..columns.end.min(first + WIDTH));
        for (piece, columns) in self.pieces.iter().flat_map(|piece| blocks.clone().map(move |block| (piece, block))) {
            for panel in rows.clone().step_by(COLUMNS) {
                let of_panel = panel..rows.end.min(panel + COLUMNS);
                let tiles = of_panel.len().div_ceil(ROWS);
                for tile in 0..tiles {
                    // SAFETY: the caller's promise; the rows lie in one panel.
                    unsafe { self.tiles(piece, panel, part(&of_panel, tiles, tile), columns.clone()) };
                }
            }
        }
    }

    /// The tiles of some rows, which lie in the panel that begins with `panel`.
    ///
    /// # Safety
    /// As for [`Gram::add`].
    unsafe fn tiles(&self, piece: &Depth, panel: usize, rows: Range<usize>, columns: Range<usize>) {
        let tiles = if self.products == Products::Bf16 { &tile::BF16 } else { &tile::F32 };
        let (left, stride) = self.panel(piece, panel);
        let left = left.wrapping_add(rows.start - panel);
        for column in columns.clone().step_by(COLUMNS).take_while(|column| *column < rows.end) {
            // no further than the diagonal reaches
            let width = COLUMNS.min(columns.end - column).min((rows.end - column).next_multiple_of(LANES));
            let (right, pitch) = self.panel(piece, column);
            let compute = tiles[(width - 1) / LANES][rows.len() - 1];
            let mut sums = Sums::default();
            Sums::prefetch(self.triangle, rows.clone(), column..column + width);
            // SAFETY: the caller's promise; both panels have this depth, and the sums' memory holds the largest tile.
            unsafe {
                compute(piece.places, left, stride, right, pitch, sums.target(width));
                sums.add_to_triangle(self.triangle, rows.clone(), column..column + width);
            }
        }
    }
}
