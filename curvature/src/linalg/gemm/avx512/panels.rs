//! Where packed panels lie: those of a block in each thread's own memory, or those of a whole right side that many
//! products share.

use std::cell::Cell;
use std::ops::Range;

use arrayvec::ArrayVec;

use super::super::{Products, View};
use super::pack::{Panel, Side};
use super::tile::{COLUMNS, LANES, ROWS};
use super::{DEPTH, WIDTH, depths};

/// Most panels of 16 columns of the right side, and of the left side, that are packed together.
pub(super) const RIGHT_PANELS: usize = WIDTH / LANES;
pub(super) const LEFT_PANELS: usize = 8;

/// Registers that a block of the right side and a panel of the left side fill, and one that overhangs.
const RIGHT_LINES: usize = DEPTH * RIGHT_PANELS;
const LEFT_LINES: usize = DEPTH * ROWS / LANES + 1;

/// 64 bytes that begin where a line of the cache does.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
#[allow(dead_code)] // written and read through pointers
pub(super) struct Line([f32; LANES]);

pub(super) const EMPTY: Line = Line([0.0; LANES]);

/// Panels of 32 columns, the last as narrow as whole registers allow, one behind the other from `to` on.
pub(super) fn beside(columns: Range<usize>, places: usize, to: *mut f32) -> impl Iterator<Item = Panel> {
    let start = columns.start;
    columns.clone().step_by(LANES).map(move |first| {
        let panel = first - (first - start) % COLUMNS;
        let pitch = COLUMNS.min(columns.end - panel).next_multiple_of(LANES);
        let to = to.wrapping_add((panel - start) * places + (first - panel));
        Panel { first, lanes: LANES.min(columns.end - first), to, pitch }
    })
}

/// The place of a left panel.
pub(super) fn left_panel(space: *mut f32, panel: usize) -> *mut f32 {
    space.wrapping_add(panel * LEFT_LINES * LANES)
}

/// Lends memory for a block of the right side and [`LEFT_PANELS`] panels of the left one; each thread keeps its own.
pub(super) fn with_space(f: impl FnOnce(*mut f32, *mut f32)) {
    thread_local!(static SPACE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) });
    let mut space = SPACE.take();
    space.resize(RIGHT_LINES + LEFT_PANELS * LEFT_LINES, EMPTY);
    let (right, left) = space.split_at_mut(RIGHT_LINES);
    f(right.as_mut_ptr().cast(), left.as_mut_ptr().cast());
    SPACE.set(space);
}

/// The right side of products, packed: all its panels for the first piece of the inner size, then for the next.
#[derive(Debug, Default)]
pub(in super::super) struct Panels {
    lines: Vec<Line>,
    /// Address and shape of the right side, and the arithmetic that it was packed for.
    of: Option<(usize, [usize; 4], Products)>,
}

impl Panels {
    /// Packs `b` for products in its arithmetic, in the memory of what was packed before.
    ///
    /// # Safety
    /// The processor must run these products.
    pub(in super::super) unsafe fn pack(&mut self, b: View<'_, f32>) {
        let (rows, columns) = (b.rows, b.columns);
        self.of = Some(identity(b, b.products));
        let places = depths(rows, b.products).map(|depth| depth.places).sum::<usize>();
        self.lines.resize(places * columns.div_ceil(LANES), EMPTY);
        let (to, side) = (self.lines.as_mut_ptr().cast::<f32>(), Side::of_left(b.t()));
        for depth in depths(rows, b.products) {
            for first in (0..columns).step_by(WIDTH) {
                let block = first..columns.min(first + WIDTH);
                let to = to.wrapping_add(depth.place(columns, first));
                let panels: ArrayVec<_, RIGHT_PANELS> = beside(block, depth.places, to).collect();
                // SAFETY: the caller's promise; the view was checked when it was made, and the lines hold all panels.
                unsafe { side.pack(b.products, &panels, &depth.k) };
            }
        }
    }

    /// Whether these are this right side's panels, for products in this arithmetic.
    pub(in super::super) fn are_of(&self, b: View<'_, f32>, products: Products) -> bool {
        self.of == Some(identity(b, products))
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }
}

fn identity(b: View<'_, f32>, products: Products) -> (usize, [usize; 4], Products) {
    (b.data.as_ptr().addr(), [b.rows, b.columns, b.row_stride, b.column_stride], products)
}
