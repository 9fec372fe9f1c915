//! Rows of hidden states taken apart, and put one below the other again.

use candle_core::{Result, Tensor};

use ascribe_curvature::{TangentRule, Traced};

/// Rows of `x` from `first` on, `[count, D]`.
///
/// # Errors
/// If there are fewer rows.
pub fn trace_rows(x: &Traced, first: usize, count: usize) -> Result<Traced> {
    let part = |x: &Tensor| x.narrow(0, first, count)?.contiguous();
    let tangent = |_: [&Tensor; 1], [moving]: [&Tensor; 1]| part(moving);
    Traced::composed_with([x], |[x]| part(x), TangentRule::Each(&tangent))
}

/// The rows of `above`, and those of `below` under them.
///
/// # Errors
/// If they have different widths.
pub fn trace_stacked(above: &Traced, below: &Traced) -> Result<Traced> {
    let tangent = |_: [&Tensor; 2], moving: [&Tensor; 2]| Tensor::cat(&moving, 0);
    Traced::composed_with([above, below], |both| Tensor::cat(&both, 0), TangentRule::Each(&tangent))
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{flat, wave};
    use super::*;
    use ascribe_curvature::{Gradient, Tape};

    #[test]
    fn rows_that_were_apart_are_one_below_the_other() -> Result<()> {
        let x = wave(&[5, 2], 1)?;
        let tape = Tape::default();
        let input = tape.input(x.clone(), Gradient::Wanted);
        let turned = trace_stacked(&trace_rows(&input, 3, 2)?, &trace_rows(&input, 0, 3)?)?;
        let want = Tensor::cat(&[x.narrow(0, 3, 2)?, x.narrow(0, 0, 3)?], 0)?;
        assert_eq!(flat(turned.value())?, flat(&want)?);
        let seed = wave(&[5, 2], 2)?;
        let found = tape.backward(&input, &turned, seed.clone())?.expect("wanted");
        let want = Tensor::cat(&[seed.narrow(0, 2, 3)?, seed.narrow(0, 0, 2)?], 0)?;
        assert_eq!(flat(&found)?, flat(&want)?);
        Ok(())
    }
}
