//! Cosines and sines of the rotary embeddings for the examples of a batch, and the rotation itself.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};

use super::kernel::{LANES, Lanes, vectorised};
use super::rope::{Frequencies, Pairing, RopeConfig};
use ascribe_curvature::Positions;

/// Cosines and sines for the examples of one batch, shared by all layers with the same configuration.
///
/// Positions count from an example's first row. Where frequencies depend on the length (`dynamic`,
/// `longrope`), the example's own length counts, not that of its neighbours in the batch.
#[derive(Debug, Clone)]
pub struct RopeTables {
    /// Number of rotated coordinates.
    rotated: usize,
    pairing: Pairing,
    /// One table, or one for each length that occurs.
    tables: Arc<[Table]>,
    /// Table and length of each example.
    examples: Arc<[(usize, usize)]>,
}

#[derive(Debug)]
struct Table {
    length: usize,
    frequencies: Frequencies,
    /// `[length, rotated / 2]`, the attention factor included.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    fn new(rope: &RopeConfig, length: usize) -> Self {
        let frequencies = rope.frequencies(length);
        let (cos, sin) = frequencies.table(0..length);
        let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
        Self { length, frequencies, cos: narrow(cos), sin: narrow(sin) }
    }
}

impl Frequencies {
    /// Cosines and sines, position by position, times the attention factor.
    fn table(&self, positions: impl Iterator<Item = usize>) -> (Vec<f64>, Vec<f64>) {
        let angles = positions.flat_map(|t| self.inverse.iter().map(move |f| t as f64 * f));
        angles.map(|angle| (angle.cos() * self.attention_factor, angle.sin() * self.attention_factor)).unzip()
    }
}

impl RopeTables {
    /// Tables for the examples at `positions`.
    pub fn new(rope: &RopeConfig, positions: &Positions) -> Self {
        let lengths: Vec<usize> = positions.iter().map(|rows| rows.len()).collect();
        let mut distinct = if rope.depends_on_length() { lengths.clone() } else { vec![positions.longest()] };
        distinct.sort_unstable();
        distinct.dedup();
        let place = |length| if rope.depends_on_length() { distinct.partition_point(|&l| l < length) } else { 0 };
        Self {
            rotated: rope.rotated(),
            pairing: rope.pairing(),
            examples: lengths.into_iter().map(|length| (place(length), length)).collect(),
            tables: distinct.iter().map(|&length| Table::new(rope, length)).collect(),
        }
    }

    /// Refuses positions for which the tables were not made.
    pub(super) fn check(&self, positions: &Positions, head_dimension: usize) -> Result<()> {
        if self.rotated > head_dimension {
            candle_core::bail!("{} rotated coordinates in heads of {head_dimension}", self.rotated);
        }
        let same = self.examples.len() == positions.examples()
            && self.examples.iter().zip(positions.iter()).all(|((_, length), rows)| *length == rows.len());
        if !same {
            candle_core::bail!("rotary tables of a batch with other lengths");
        }
        Ok(())
    }

    /// Cosines and sines of example `b`, `[at least its length, rotated / 2]`.
    pub fn rows(&self, b: usize) -> (&[f32], &[f32]) {
        let table = &self.tables[self.examples[b].0];
        debug_assert!(table.length >= self.examples[b].1);
        (&table.cos, &table.sin)
    }

    /// `to ← rotation of from`, a head at position `t` of example `b`.
    pub(super) fn rotate(&self, b: usize, t: usize, from: &[f32], direction: Direction, to: &mut [f32]) {
        let ((cos, sin), half) = (self.rows(b), self.rotated / 2);
        let row = t * half..(t + 1) * half;
        match self.pairing {
            Pairing::Halves => rotate(from, &cos[row.clone()], &sin[row], direction, to),
            Pairing::Neighbours => rotate_neighbours(from, &cos[row.clone()], &sin[row], direction, to),
        }
    }

    /// Rotates `x: [T, H, d]`, example `b`'s rows, with candle's ops.
    pub(super) fn rotate_composed(&self, x: &Tensor, b: usize) -> Result<Tensor> {
        let (length, heads, width) = x.dims3()?;
        let (cos, sin) = self.tables[self.examples[b].0].frequencies.table(0..length);
        let half = self.rotated / 2;
        let tensor = |data| Tensor::from_vec(data, (length, 1, half), x.device())?.to_dtype(x.dtype());
        let (cos, sin) = (tensor(cos)?, tensor(sin)?);
        let turn = |x: &Tensor, y: &Tensor| -> Result<[Tensor; 2]> {
            Ok([(x.broadcast_mul(&cos)? - y.broadcast_mul(&sin)?)?, (y.broadcast_mul(&cos)? + x.broadcast_mul(&sin)?)?])
        };
        let mut parts = match self.pairing {
            Pairing::Halves => turn(&x.narrow(D::Minus1, 0, half)?, &x.narrow(D::Minus1, half, half)?)?.to_vec(),
            Pairing::Neighbours => {
                let pairs = x.narrow(D::Minus1, 0, self.rotated)?.contiguous()?.reshape((length, heads, half, 2))?;
                let part = |which| pairs.narrow(D::Minus1, which, 1)?.squeeze(D::Minus1);
                let turned = turn(&part(0)?, &part(1)?)?;
                vec![Tensor::stack(&turned, D::Minus1)?.reshape((length, heads, self.rotated))?]
            }
        };
        if width > self.rotated {
            parts.push(x.narrow(D::Minus1, self.rotated, width - self.rotated)?);
        }
        Tensor::cat(&parts, D::Minus1)
    }
}

/// Which way to rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The rotation of the forward pass.
    Forwards,
    /// The transpose of the forward pass's rotation, for gradients.
    Transposed,
}

vectorised!(
    /// `to ← rotation of from`, one position of one head; `cos` and `sin` have half as many elements as
    /// there are rotated coordinates.
    pub(super) fn rotate(from: &[f32], cos: &[f32], sin: &[f32], direction: Direction, to: &mut [f32]) = rotate_lanes
);

#[inline(always)]
fn rotate_lanes<V: Lanes>(from: &[f32], cos: &[f32], sin: &[f32], direction: Direction, to: &mut [f32]) {
    let half = cos.len();
    let (rotated, rest) = from.split_at(2 * half);
    let (x, y) = rotated.split_at(half);
    let (to_rotated, to_rest) = to.split_at_mut(2 * half);
    let (to_x, to_y) = to_rotated.split_at_mut(half);
    to_rest.copy_from_slice(rest);
    let sign = V::splat(match direction {
        Direction::Forwards => 1.0,
        Direction::Transposed => -1.0,
    });
    let turn = |x: V, y: V, c: V, s: V| {
        let s = s * sign;
        (x * c - y * s, x.times_plus(s, y * c))
    };
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (y, y_tail) = y.as_chunks::<LANES>();
    let (c, c_tail) = cos.as_chunks::<LANES>();
    let (s, s_tail) = sin.as_chunks::<LANES>();
    let (to_x, to_x_tail) = to_x.as_chunks_mut::<LANES>();
    let (to_y, to_y_tail) = to_y.as_chunks_mut::<LANES>();
    for i in 0..x.len() {
        let (a, b) = turn(V::load(&x[i]), V::load(&y[i]), V::load(&c[i]), V::load(&s[i]));
        a.store(&mut to_x[i]);
        b.store(&mut to_y[i]);
    }
    let part = |tail| V::load_part(tail, 0.0);
    let (a, b) = turn(part(x_tail), part(y_tail), part(c_tail), part(s_tail));
    a.store_part(to_x_tail);
    b.store_part(to_y_tail);
}

vectorised!(
    /// [`rotate`] of coordinates that are paired with their neighbours.
    fn rotate_neighbours(from: &[f32], cos: &[f32], sin: &[f32], direction: Direction, to: &mut [f32])
        = rotate_neighbours_lanes
);

/// Plain arithmetic: pairs lie side by side, which lanes would have to take apart.
#[inline(always)]
fn rotate_neighbours_lanes<V: Lanes>(from: &[f32], cos: &[f32], sin: &[f32], direction: Direction, to: &mut [f32]) {
    let (rotated, rest) = from.split_at(2 * cos.len());
    let (to_rotated, to_rest) = to.split_at_mut(2 * cos.len());
    to_rest.copy_from_slice(rest);
    let sign = match direction {
        Direction::Forwards => 1.0,
        Direction::Transposed => -1.0,
    };
    let (pairs, to_pairs) = (rotated.as_chunks::<2>().0, to_rotated.as_chunks_mut::<2>().0);
    for (([x, y], to), (c, s)) in pairs.iter().zip(to_pairs).zip(cos.iter().zip(sin)) {
        let s = s * sign;
        *to = [x * c - y * s, y * c + x * s];
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::Plain;
    use super::*;

    #[test]
    fn rotation_pairs_halves_and_its_transpose_undoes_it() {
        for (width, rotated) in [(4, 4), (10, 6), (70, 66)] {
            let half = rotated / 2;
            let x: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin()).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) = (0..half).map(|i| ((i as f32).cos(), (i as f32).sin())).unzip();
            for kernel in [rotate, rotate_lanes::<Plain>] {
                let (mut y, mut z) = (vec![0.0; width], vec![0.0; width]);
                kernel(&x, &cos, &sin, Direction::Forwards, &mut y);
                kernel(&y, &cos, &sin, Direction::Transposed, &mut z);
                for i in 0..width {
                    let want = match i {
                        i if i < half => x[i] * cos[i] - x[i + half] * sin[i],
                        i if i < rotated => x[i] * cos[i - half] + x[i - half] * sin[i - half],
                        i => x[i],
                    };
                    assert!((y[i] - want).abs() < 3e-7 && (z[i] - x[i]).abs() < 3e-7, "[{i}] of {width}");
                }
            }
        }
    }

    #[test]
    fn rotation_pairs_neighbours_and_its_transpose_undoes_it() {
        for (width, rotated) in [(4, 4), (10, 6), (70, 66)] {
            let half = rotated / 2;
            let x: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin()).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) = (0..half).map(|i| ((i as f32).cos(), (i as f32).sin())).unzip();
            for kernel in [rotate_neighbours, rotate_neighbours_lanes::<Plain>] {
                let (mut y, mut z) = (vec![0.0; width], vec![0.0; width]);
                kernel(&x, &cos, &sin, Direction::Forwards, &mut y);
                kernel(&y, &cos, &sin, Direction::Transposed, &mut z);
                for i in 0..width {
                    let want = match i {
                        i if i >= rotated => x[i],
                        i if i % 2 == 0 => x[i] * cos[i / 2] - x[i + 1] * sin[i / 2],
                        i => x[i] * cos[i / 2] + x[i - 1] * sin[i / 2],
                    };
                    assert!((y[i] - want).abs() < 3e-7 && (z[i] - x[i]).abs() < 3e-7, "[{i}] of {width}");
                }
            }
        }
    }

    #[test]
    fn tables_of_other_lengths_are_refused() {
        let rope = RopeConfig::new(8, 100.0);
        let positions = Positions::from_lengths([3, 5]);
        let tables = RopeTables::new(&rope, &positions);
        assert!(tables.check(&positions, 8).is_ok());
        assert!(tables.check(&positions, 6).is_err());
        assert!(tables.check(&Positions::from_lengths([5, 3]), 8).is_err());
    }
}
