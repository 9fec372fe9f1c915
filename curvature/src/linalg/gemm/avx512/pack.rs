//! Packing: panels of an operand laid out in the order in which a tile reads them.
//!
//! A panel is some rows of the left side or columns of the right one, stored as so many numbers for each k.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh,
    _mm512_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::ops::Range;

use super::super::{Products, View};
use super::tile::LANES;

/// One side of a product, as lanes along k.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub(super) data: *const f32,
    pub(super) order: Order,
    /// Numbers between neighbours in the direction in which they are not neighbours in memory.
    pub(super) stride: usize,
}

/// Panels that are written together: their lines, often whole pages apart, do not displace each other in the first-level
/// cache.
const TOGETHER: usize = 8;

/// Where up to 16 neighbouring lanes of an operand go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel {
    pub(super) first: usize,
    pub(super) lanes: usize,
    pub(super) to: *mut f32,
    /// Places between the numbers of one k and those of the next.
    pub(super) pitch: usize,
}

impl Panel {
    /// The lanes that exist.
    fn mask(&self) -> __mmask16 {
        u16::MAX >> (LANES - self.lanes)
    }
}

/// In which direction numbers lie beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Along k: each lane is contiguous.
    AlongK,
    /// Across lanes: all lanes' numbers of one k are contiguous.
    AcrossLanes,
}

impl Side {
    /// The rows of a left side.
    pub(super) fn of_left(a: View<'_, f32>) -> Self {
        // a view is row-major or the transpose of one that is
        let (order, stride) = match a.column_stride {
            1 => (Order::AlongK, a.row_stride),
            stride => (Order::AcrossLanes, stride),
        };
        Self { data: a.data.as_ptr(), order, stride }
    }

    /// The number of `lane` at `k`.
    ///
    /// # Safety
    /// It must lie inside the operand, or one past its end.
    pub(super) unsafe fn at(self, lane: usize, k: usize) -> *const f32 {
        let offset = match self.order {
            Order::AlongK => lane * self.stride + k,
            Order::AcrossLanes => k * self.stride + lane,
        };
        // SAFETY: the caller's promise.
        unsafe { self.data.add(offset) }
    }

    /// Packs the panels' numbers `k` for products in this arithmetic.
    ///
    /// # Safety
    /// The processor must run these products, the lanes and k must lie inside the operand, and each panel must have
    /// room for as many places as the numbers take.
    pub(super) unsafe fn pack(self, products: Products, panels: &[Panel], k: &Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            match products {
                Products::Exact => self.pack_f32(panels, k.start, k.len()),
                Products::Bf16 => self.pack_bf16(panels, k.start, k.len()),
            }
        }
    }

    /// Writes `depth` numbers from `k` on of each panel: 16, those beyond the panel's lanes zero, at every `pitch`-th
    /// place of its memory. With a pitch below 16 the zeros of one k are overwritten by the numbers of the next.
    ///
    /// Panels that lie beside each other are written together: where numbers lie across the lanes, a row of some of them
    /// is read at once, since rows may be a page apart.
    ///
    /// # Safety
    /// The processor must have AVX-512F, the lanes and k must lie inside the operand, and each panel must have room for
    /// `(depth − 1) · pitch + 16` numbers.
    #[target_feature(enable = "avx512f")]
    unsafe fn pack_f32(self, panels: &[Panel], k: usize, depth: usize) {
        match self.order {
            Order::AcrossLanes => {
                for panels in panels.chunks(TOGETHER) {
                    for step in 0..depth {
                        for panel in panels {
                            // SAFETY: the caller's promise; lanes beyond the last are masked.
                            unsafe {
                                let row = _mm512_maskz_loadu_ps(panel.mask(), self.at(panel.first, k + step));
                                _mm512_storeu_ps(panel.to.add(step * panel.pitch), row);
                            }
                        }
                    }
                }
            }
            Order::AlongK => {
                for panel in panels {
                    for step in (0..depth).step_by(LANES) {
                        let count = LANES.min(depth - step);
                        let mask: __mmask16 = u16::MAX >> (LANES - count);
                        let mut block = [_mm512_setzero_ps(); LANES];
                        for lane in 0..panel.lanes {
                            // SAFETY: the caller's promise; numbers beyond the last k are masked.
                            block[lane] = unsafe { _mm512_maskz_loadu_ps(mask, self.at(panel.first + lane, k + step)) };
                        }
                        transpose(&mut block);
                        for (place, row) in block.into_iter().take(count).enumerate() {
                            // SAFETY: the caller's promise.
                            unsafe { _mm512_storeu_ps(panel.to.add((step + place) * panel.pitch), row) };
                        }
                    }
                }
            }
        }
    }

    /// [`Side::pack_f32`] with numbers rounded to bf16, to the nearest and halves to even: each place of a panel holds those
    /// of two neighbours along k, the first in its lower half; beyond an odd `depth` stands a zero.
    ///
    /// # Safety
    /// As for [`Side::pack_f32`], with half the depth, rounded up; the processor must have AVX-512BW and BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pack_bf16(self, panels: &[Panel], k: usize, depth: usize) {
        match self.order {
            Order::AcrossLanes => {
                let mut places = [0u16; 2 * LANES];
                for lane in 0..LANES {
                    (places[2 * lane], places[2 * lane + 1]) = (lane as u16, (LANES + lane) as u16);
                }
                // SAFETY: the array is as large as the register.
                let interleave = unsafe { _mm512_loadu_epi16(places.as_ptr().cast()) };
                let steps = || (0..depth).step_by(2).enumerate();
                for (panels, (pair, step)) in panels.chunks(TOGETHER).flat_map(|p| steps().map(move |step| (p, step))) {
                    for panel in panels {
                        // SAFETY: the caller's promise; lanes beyond the last are masked.
                        unsafe {
                            let row = _mm512_maskz_loadu_ps(panel.mask(), self.at(panel.first, k + step));
                            let next = match step + 1 < depth {
                                true => _mm512_maskz_loadu_ps(panel.mask(), self.at(panel.first, k + step + 1)),
                                false => _mm512_setzero_ps(),
                            };
                            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(next, row));
                            let pairs = _mm512_castsi512_ps(_mm512_permutexvar_epi16(interleave, both));
                            _mm512_storeu_ps(panel.to.add(pair * panel.pitch), pairs);
                        }
                    }
                }
            }
            Order::AlongK => {
                for panel in panels {
                    for step in (0..depth).step_by(2 * LANES) {
                        let count = (2 * LANES).min(depth - step);
                        let mask = u32::MAX >> (2 * LANES - count);
                        let mut block = [_mm512_setzero_ps(); LANES];
                        for lane in 0..panel.lanes {
                            // SAFETY: the caller's promise; numbers beyond the last k are masked.
                            block[lane] = unsafe {
                                let x = self.at(panel.first + lane, k + step);
                                let low = _mm512_maskz_loadu_ps(mask as u16, x);
                                let high = _mm512_maskz_loadu_ps((mask >> LANES) as u16, x.wrapping_add(LANES));
                                std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))
                            };
                        }
                        transpose(&mut block);
                        for (place, row) in block.into_iter().take(count.div_ceil(2)).enumerate() {
                            // SAFETY: the caller's promise.
                            unsafe { _mm512_storeu_ps(panel.to.add((step / 2 + place) * panel.pitch), row) };
                        }
                    }
                }
            }
        }
    }
}

/// Transposes 16 × 16 numbers.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(x: &mut [__m512; LANES]) {
    // pairs of rows, then of pairs, inside each quarter of a register
    let mut t = [_mm512_setzero_ps(); LANES];
    for i in 0..LANES / 2 {
        t[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    let (low, high) = (
        |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
        |a, b| _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
    );
    for i in 0..LANES / 4 {
        let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
        (x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]) = (low(a, c), high(a, c), low(b, d), high(b, d));
    }
    // x[4 i + j] holds, of rows 4 i to 4 i + 3, columns j, 4 + j, 8 + j and 12 + j in its quarters
    for j in 0..4 {
        let [a, b, c, d] = [x[j], x[4 + j], x[8 + j], x[12 + j]];
        let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (even2, odd2) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        t[j] = _mm512_shuffle_f32x4::<0x88>(even, even2);
        t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
        t[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
        t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
    }
    *x = t;
}
