//! What a window sees that moves over the tokens of texts: the unfolded rows of a convolution in one dimension.

use candle_core::{Device, Result, Tensor};

use ascribe_curvature::{Positions, Traced};

/// For every row of a batch the rows of its own example around it; beyond an example's ends there are zeros.
#[derive(Debug, Clone)]
pub struct Neighbours {
    /// For each place of the window the row that it sees from every row, `[R]`; R where it sees none.
    seen: Vec<Tensor>,
}

impl Neighbours {
    /// A window of `size` places whose middle one moves over the rows of each example.
    ///
    /// # Errors
    /// If the window has no middle.
    pub fn new(size: usize, positions: &Positions, device: &Device) -> Result<Self> {
        if size.is_multiple_of(2) {
            candle_core::bail!("a window of {size} places has none in its middle");
        }
        let count = positions.rows();
        let place = |k: usize| {
            let mut seen = Vec::with_capacity(count);
            for rows in positions.iter() {
                let row = |row: usize| (row + k).checked_sub(size / 2).filter(|at| rows.contains(at));
                seen.extend(rows.clone().map(|at| row(at).unwrap_or(count) as u32));
            }
            Tensor::from_vec(seen, count, device)
        };
        Ok(Self { seen: (0..size).map(place).collect::<Result<_>>()? })
    }

    /// What the window sees from every row, channel by channel as the weights `[C, size]` of a kernel lie, on a tape.
    ///
    /// # Shapes
    /// `x: [R, C]` to `[R, C · size]`.
    /// # Errors
    /// If `x` has another number of rows.
    pub fn trace(&self, x: &Traced) -> Result<Traced> {
        x.linear_map(|x| {
            let (rows, channels) = x.dims2()?;
            let padded = Tensor::cat(&[x, &Tensor::zeros((1, channels), x.dtype(), x.device())?], 0)?;
            let seen = self.seen.iter().map(|rows| padded.index_select(rows, 0)).collect::<Result<Vec<_>>>()?;
            Tensor::stack(&seen, 2)?.reshape((rows, channels * self.seen.len()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{central_differences, flat, tangents, wave};
    use super::*;

    /// Texts of 4, 0, 1 and 2 tokens, none of which sees one of another.
    #[test]
    fn a_window_sees_its_own_text_and_zeros_beyond() -> Result<()> {
        let lengths = [4, 0, 1, 2];
        let x = wave(&[7, 3], 4)?;
        for size in [1, 3, 5] {
            let neighbours = Neighbours::new(size, &Positions::from_lengths(lengths), &Device::Cpu)?;
            let found = neighbours.trace(&Traced::constant(x.clone()))?.value().to_vec2::<f64>()?;
            let (numbers, mut first) = (x.to_vec2::<f64>()?, 0);
            for length in lengths {
                for t in 0..length {
                    for (c, k) in (0..3).flat_map(|c| (0..size).map(move |k| (c, k))) {
                        let at = t as i64 + k as i64 - (size / 2) as i64;
                        let inside = (0..length as i64).contains(&at);
                        let want = if inside { numbers[first + at as usize][c] } else { 0.0 };
                        assert_eq!(found[first + t][c * size + k], want, "{size}: {t}, {c}, {k}");
                    }
                }
                first += length;
            }
            let f = |x: &Traced| neighbours.trace(x);
            central_differences(&x, |x| Ok(f(&Traced::constant(x.clone()))?.value().clone()), 1e-10)?;
            tangents(&[&x], |x| f(&x[0]), 1e-10)?;
            assert_eq!(flat(f(&Traced::constant(x.clone()))?.value())?.len(), 7 * 3 * size);
        }
        assert!(Neighbours::new(2, &Positions::single(3), &Device::Cpu).is_err());
        Ok(())
    }
}
