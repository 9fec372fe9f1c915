//! The innermost product: a tile of up to [`ROWS`] × [`COLUMNS`] numbers of the result in vector registers.
//!
//! 28 of the 32 registers hold sums, two hold a row of the right panel, one a number of the left. Each sum is one
//! chain of multiply-adds along k, so a number of the result depends neither on the tile that it lies in nor on how
//! many threads divide the product.

use std::arch::x86_64::{
    __m512, __m512bh, _MM_HINT_ET0, _mm_prefetch, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::ops::Range;

use super::super::{Into, TILE_COLUMNS, TILE_ROWS};
use super::pack::Order;
use crate::linalg::triangle;

/// Numbers in a vector register.
pub(super) const LANES: usize = 16;

/// Most rows of a tile.
pub(super) const ROWS: usize = TILE_ROWS;

/// Most columns of a tile: two registers.
pub(super) const COLUMNS: usize = TILE_COLUMNS;

/// Where a tile goes, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) c: *mut f32,
    pub(super) stride: usize,
    /// Columns that exist; the panel is filled up with zeros.
    pub(super) columns: usize,
    pub(super) factor: f32,
    pub(super) into: Into,
}

/// A tile's sums beside the result.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Sums([f32; ROWS * COLUMNS]);

impl Default for Sums {
    fn default() -> Self {
        Self([0.0; ROWS * COLUMNS])
    }
}

impl Sums {
    /// To sum a tile of so many columns here.
    pub(super) fn target(&mut self, columns: usize) -> Target {
        Target { c: self.0.as_mut_ptr(), stride: COLUMNS, columns, factor: 1.0, into: Into::Replace }
    }

    /// Fetches what [`Sums::add_to_triangle`] will add to, while the tile is being summed.
    pub(super) fn prefetch(triangle: *mut f64, rows: Range<usize>, columns: Range<usize>) {
        for (row, columns) in rows.map(|row| (row, in_triangle(row, &columns))) {
            for column in columns.step_by(CACHE_LINE) {
                let place = triangle.wrapping_add(triangle::numbers(row) + column);
                // SAFETY: x86-64 has SSE, and a prefetch of any address is harmless.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(place.cast()) };
            }
        }
    }

    /// Adds the tile of these rows and columns to a lower triangle whose rows lie one behind the other.
    ///
    /// # Safety
    /// The processor must have AVX-512F. The triangle must hold the rows, and nobody else may use these columns of them.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add_to_triangle(&self, triangle: *mut f64, rows: Range<usize>, columns: Range<usize>) {
        for (row, sums) in rows.zip(self.0.chunks_exact(COLUMNS)) {
            let columns = in_triangle(row, &columns);
            let start = triangle::numbers(row) + columns.start;
            // SAFETY: the caller's promise; these columns are not beyond the diagonal.
            let triangle = unsafe { std::slice::from_raw_parts_mut(triangle.add(start), columns.len()) };
            triangle.iter_mut().zip(sums).for_each(|(sum, &x)| *sum += f64::from(x));
        }
    }
}

/// Numbers in f64 that lie in one line of the cache.
const CACHE_LINE: usize = 8;

/// Those of some columns that are not beyond the diagonal.
fn in_triangle(row: usize, columns: &Range<usize>) -> Range<usize> {
    columns.start.min(row + 1)..columns.end.min(row + 1)
}

/// `depth` numbers of each row of a left panel times those of a right panel, whose rows are `pitch` apart. `stride` lies
/// between two rows of a left panel that is read along k, and between one k and the next of any other.
pub(super) type Tile =
    unsafe fn(depth: usize, a: *const f32, stride: usize, b: *const f32, pitch: usize, target: Target);

macro_rules! tiles {
    ($table:ident, $tile:ident, $features:literal, $order:expr, $multiply_add:expr) => {
        /// The product of a left panel of `M` rows and a right panel of `V` registers.
        ///
        /// # Safety
        /// The processor must have the features. `a` must hold `M` rows of `depth` numbers, `b` rows of `V · 16`, and
        /// `target` must be `M` rows of `target.columns` numbers that nobody else uses, at most `V · 16` and more
        /// than `(V − 1) · 16`; numbers if they are added to.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const M: usize, const V: usize>(
            depth: usize,
            a: *const f32,
            stride: usize,
            b: *const f32,
            pitch: usize,
            target: Target,
        ) {
            // SAFETY: the caller's promise; the last register of a row is read and written under a mask.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); V]; M];
                let (mut a, mut b) = (a, b);
                let (next_row, next) = match $order {
                    Order::AlongK => (stride, 1),
                    Order::AcrossLanes => (1, stride),
                };
                for m in 0..M {
                    for v in 0..V {
                        let c = target.c.wrapping_add(m * target.stride + v * LANES);
                        _mm_prefetch::<_MM_HINT_ET0>(c.cast());
                    }
                }
                for _ in 0..depth {
                    let mut right = [_mm512_setzero_ps(); V];
                    for v in 0..V {
                        right[v] = _mm512_loadu_ps(b.add(v * LANES));
                    }
                    for m in 0..M {
                        let left = _mm512_set1_ps(*a.add(m * next_row));
                        for v in 0..V {
                            sums[m][v] = $multiply_add(left, right[v], sums[m][v]);
                        }
                    }
                    (a, b) = (a.wrapping_add(next), b.wrapping_add(pitch));
                }
                let factor = _mm512_set1_ps(target.factor);
                let last = u16::MAX >> (V * LANES - target.columns);
                for m in 0..M {
                    for v in 0..V {
                        let c = target.c.add(m * target.stride + v * LANES);
                        let mask = if v + 1 == V { last } else { u16::MAX };
                        let sum = match target.into {
                            Into::Replace => _mm512_mul_ps(sums[m][v], factor),
                            Into::Add => _mm512_fmadd_ps(sums[m][v], factor, _mm512_maskz_loadu_ps(mask, c)),
                        };
                        _mm512_mask_storeu_ps(c, mask, sum);
                    }
                }
            }
        }

        /// By registers of the right panel less one, then by rows less one.
        pub(super) static $table: [[Tile; ROWS]; 2] = [
            [
                $tile::<1, 1>,
                $tile::<2, 1>,
                $tile::<3, 1>,
                $tile::<4, 1>,
                $tile::<5, 1>,
                $tile::<6, 1>,
                $tile::<7, 1>,
                $tile::<8, 1>,
                $tile::<9, 1>,
                $tile::<10, 1>,
                $tile::<11, 1>,
                $tile::<12, 1>,
                $tile::<13, 1>,
                $tile::<14, 1>,
            ],
            [
                $tile::<1, 2>,
                $tile::<2, 2>,
                $tile::<3, 2>,
                $tile::<4, 2>,
                $tile::<5, 2>,
                $tile::<6, 2>,
                $tile::<7, 2>,
                $tile::<8, 2>,
                $tile::<9, 2>,
                $tile::<10, 2>,
                $tile::<11, 2>,
                $tile::<12, 2>,
                $tile::<13, 2>,
                $tile::<14, 2>,
            ],
        ];
    };
}

/// Of two numbers rounded to bf16 in each place, the products' sum.
#[target_feature(enable = "avx512bf16,avx512f")]
#[inline]
fn bf16_multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
    // SAFETY: both types are 64 bytes for which every pattern is a value.
    let [a, b] = unsafe { [std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)] };
    _mm512_dpbf16_ps(sum, a, b)
}

tiles!(F32_ROWS, f32_rows_tile, "avx512f", Order::AlongK, _mm512_fmadd_ps);
tiles!(F32, f32_tile, "avx512f", Order::AcrossLanes, _mm512_fmadd_ps);
tiles!(BF16, bf16_tile, "avx512f,avx512bf16", Order::AcrossLanes, bf16_multiply_add);
