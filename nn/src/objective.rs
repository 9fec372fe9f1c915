//! One row of logits: the value of an objective and its gradient there.

use super::kernel;
use ascribe_curvature::gemm::Real;
use ascribe_curvature::random::{self, uniforms};
use ascribe_curvature::{Error, LabelDraw, Measurement, Objective, Reduction};

/// What one row of logits is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Question {
    /// `-log p_y`.
    Loss(usize),
    /// `-log p_y` of the label that this uniform number draws.
    Drawn(f64),
    /// `log p_y`; what is differentiated is its negative.
    LogProbability(usize),
    /// `p_y`; what is differentiated is its negative.
    Probability(usize),
    /// `log p_y - log(1 - p_y)`; what is differentiated is its negative.
    Margin(usize),
    /// `-log p_y`, the gradient times `√(C p_y)`.
    Expected(usize),
}

/// How many rows' values are added, and what their sum is multiplied by.
pub(super) fn reduction_factor(objective: Objective, rows: usize) -> f64 {
    match objective {
        Objective::Measurement(_, Reduction::Mean) if rows > 0 => 1.0 / rows as f64,
        _ => 1.0,
    }
}

impl Question {
    /// What `objective` asks of one row with the target `y`; the random numbers are those of the example
    /// `key` at `position`.
    ///
    /// # Errors
    /// [`Error::Objective`] if it asks something else.
    pub(super) fn new(
        objective: Objective,
        y: usize,
        key: u64,
        position: usize,
        network: &'static str,
    ) -> Result<Self, Error> {
        Ok(match objective {
            Objective::TrainingLoss | Objective::Measurement(Measurement::Loss, _) => Self::Loss(y),
            Objective::SampledLoss(draw) => Self::Drawn(uniform(draw, key, position)),
            Objective::Measurement(Measurement::LogProbability, _) => Self::LogProbability(y),
            Objective::Measurement(Measurement::Probability, _) => Self::Probability(y),
            Objective::Measurement(Measurement::Margin, _) => Self::Margin(y),
            other => return Err(undefined(other, network)),
        })
    }
}

pub(super) fn undefined(objective: Objective, network: &'static str) -> Error {
    let objective = match objective {
        Objective::TrainingLoss => "the training loss".to_owned(),
        Objective::SampledLoss(_) => "the loss with sampled labels".to_owned(),
        Objective::ExpectedLoss { class } => format!("the expected loss of class {class}"),
        Objective::Measurement(Measurement::Loss, _) => "the measurement `loss`".to_owned(),
        Objective::Measurement(Measurement::LogProbability, _) => "the measurement `logprob`".to_owned(),
        Objective::Measurement(Measurement::Probability, _) => "the measurement `probability`".to_owned(),
        Objective::Measurement(Measurement::Margin, _) => "the measurement `margin`".to_owned(),
        Objective::Measurement(Measurement::Prediction, _) => "the measurement `prediction`".to_owned(),
        other => format!("{other:?}"),
    };
    Error::Objective { objective, network }
}

fn uniform(draw: LabelDraw, key: u64, position: usize) -> f64 {
    let position = u32::try_from(position).expect("an example has fewer than 2³² positions");
    uniforms(random::words(draw, key, position, 0)).0
}

/// Types that logits come in, with what a softmax needs.
pub(super) trait Logit: Real {
    fn largest(row: &[Self]) -> Self;
    /// `row ← e^{row - shift}`; returns their sum.
    fn exponentials(row: &mut [Self], shift: Self) -> f64;
    fn scale(row: &mut [Self], factor: f64);
    /// `row ← cap · tanh(row / cap)`, and the derivatives of that.
    fn soft_cap(row: &mut [Self], slopes: &mut [Self], cap: f64);
    /// `row ← row ⊙ factors`.
    fn multiply(row: &mut [Self], factors: &[Self]);
    /// The label that `u` draws when labels have these weights, `total` in sum (`docs/method.md`, Curvature).
    fn select(weights: &[Self], u: f64, total: f64) -> usize;
}

impl Logit for f32 {
    fn largest(row: &[Self]) -> Self {
        kernel::largest(row)
    }
    fn exponentials(row: &mut [Self], shift: Self) -> f64 {
        kernel::exponentials(row, shift)
    }
    fn scale(row: &mut [Self], factor: f64) {
        kernel::scale(row, factor as f32);
    }
    fn soft_cap(row: &mut [Self], slopes: &mut [Self], cap: f64) {
        kernel::soft_cap_and_slopes(row, slopes, 1.0, cap as f32);
    }
    fn multiply(row: &mut [Self], factors: &[Self]) {
        kernel::multiply(row, factors);
    }
    fn select(weights: &[Self], u: f64, total: f64) -> usize {
        kernel::select(weights, u * total)
    }
}

impl Logit for f64 {
    fn largest(row: &[Self]) -> Self {
        row.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
    fn exponentials(row: &mut [Self], shift: Self) -> f64 {
        row.iter_mut().fold(0.0, |sum, x| {
            *x = (*x - shift).exp();
            sum + *x
        })
    }
    fn scale(row: &mut [Self], factor: f64) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
    fn soft_cap(row: &mut [Self], slopes: &mut [Self], cap: f64) {
        for (x, slope) in row.iter_mut().zip(slopes) {
            *slope = (*x / cap).cosh().powi(-2);
            *x = cap * (*x / cap).tanh();
        }
    }
    fn multiply(row: &mut [Self], factors: &[Self]) {
        row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
    }
    fn select(weights: &[Self], u: f64, _: f64) -> usize {
        random::categorical(u, weights.iter().copied())
    }
}

/// Replaces the logits of one row by `factor` times the gradient of what is differentiated; returns the
/// value that is reported, without the factor.
///
/// Targets must be below the row's length, which must not be 0.
///
/// # Source
/// `docs/method.md`, Score.
pub(super) fn differentiate<T: Logit>(row: &mut [T], question: Question, factor: f64) -> f64 {
    if let Question::Margin(y) = question {
        // softmax over the others: exact also where p_y rounds to 1
        let target = row[y].wide();
        row[y] = T::of(f64::NEG_INFINITY);
        let shift = T::largest(row);
        let total = T::exponentials(row, shift);
        T::scale(row, factor / total);
        row[y] = T::of(-factor);
        return target - (shift.wide() + total.ln());
    }
    let shift = T::largest(row);
    let n_labels = row.len() as f64;
    let target = |y: usize, row: &[T]| row[y].wide() - shift.wide();
    let given = match question {
        Question::Loss(y)
        | Question::LogProbability(y)
        | Question::Probability(y)
        | Question::Expected(y)
        | Question::Margin(y) => Some((y, target(y, row))),
        Question::Drawn(_) => None,
    };
    let total = T::exponentials(row, shift);
    let (y, log_weight) = match (given, question) {
        (Some(given), _) => given,
        (None, Question::Drawn(u)) => {
            let y = T::select(row, u, total);
            (y, row[y].wide().ln())
        }
        (None, _) => unreachable!("every other question has its label"),
    };
    let loss = total.ln() - log_weight;
    let weight = row[y].wide();
    let factor = match question {
        Question::Expected(_) => factor * (n_labels * weight / total).sqrt(),
        Question::Probability(_) => factor * (weight / total),
        _ => factor,
    };
    T::scale(row, factor / total);
    // p_y - 1 from the difference of the sums, which does not cancel where p_y is near 1
    row[y] = T::of(factor * (weight - total) / total);
    match question {
        Question::LogProbability(_) => -loss,
        Question::Probability(_) => weight / total,
        _ => loss,
    }
}

/// Refuses labels that a row of `n` logits does not have.
pub(super) fn check_label(label: u32, n: usize, example: usize) -> candle_core::Result<usize> {
    match usize::try_from(label) {
        Ok(label) if label < n => Ok(label),
        _ => candle_core::bail!("example {example} of the batch has the label {label}, but there are {n} labels"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 5] = [0.3, -1.2, 2.5, 0.0, 1.1];

    fn log_sum(skip: Option<usize>, z: &[f64]) -> f64 {
        z.iter().enumerate().filter(|(j, _)| Some(*j) != skip).map(|(_, z)| z.exp()).sum::<f64>().ln()
    }

    fn value(question: Question, z: &[f64]) -> f64 {
        match question {
            Question::Loss(y) | Question::Expected(y) => log_sum(None, z) - z[y],
            Question::LogProbability(y) => z[y] - log_sum(None, z),
            Question::Probability(y) => (z[y] - log_sum(None, z)).exp(),
            Question::Margin(y) => z[y] - log_sum(Some(y), z),
            Question::Drawn(_) => unreachable!("has no label of its own"),
        }
    }

    #[test]
    fn gradients_are_central_differences_of_the_definitions() {
        for y in 0..5 {
            for question in [
                Question::Loss(y),
                Question::LogProbability(y),
                Question::Probability(y),
                Question::Margin(y),
                Question::Expected(y),
            ] {
                let mut row = LOGITS;
                let found = differentiate(&mut row, question, 0.5);
                assert!((found - value(question, &LOGITS)).abs() < 1e-14);
                let p = (LOGITS[y] - log_sum(None, &LOGITS)).exp();
                let (sign, weight) = match question {
                    Question::LogProbability(_) | Question::Probability(_) | Question::Margin(_) => (-1.0, 1.0),
                    Question::Expected(_) => (1.0, (5.0 * p).sqrt()),
                    _ => (1.0, 1.0),
                };
                let mut narrow = LOGITS.map(|z| z as f32);
                let rounded = differentiate(&mut narrow, question, 0.5);
                assert!((rounded - found).abs() < 1e-6, "{question:?}"); // logits up to 2.5, rounded in f32
                for j in 0..5 {
                    let step = |h: f64| {
                        let mut z = LOGITS;
                        z[j] += h;
                        value(question, &z)
                    };
                    let want = 0.5 * weight * sign * (step(1e-5) - step(-1e-5)) / 2e-5;
                    assert!((row[j] - want).abs() < 1e-10, "{question:?} [{j}]: {} {want}", row[j]); // h² + ε/h
                    assert!((f64::from(narrow[j]) - row[j]).abs() < 3e-7, "{question:?} [{j}]");
                }
            }
        }
    }

    #[test]
    fn confident_rows_keep_their_small_gradients() {
        // p_y = 1 - 2e-9 rounds to 1 in f32
        let question = |margin| if margin { Question::Margin(0) } else { Question::Loss(0) };
        let mut row = [20.0f32, 0.0];
        let loss = differentiate(&mut row, question(false), 1.0);
        let want = (-20f64).exp();
        assert!((loss / want - 1.0).abs() < 1e-3 && (f64::from(row[0]) / -want - 1.0).abs() < 1e-3, "{loss} {row:?}");
        let mut row = [20.0f32, 0.0];
        assert_eq!(differentiate(&mut row, question(true), 1.0), 20.0);
        assert_eq!(row, [-1.0, 1.0]);
    }

    #[test]
    fn a_drawn_label_is_differentiated_like_a_given_one() {
        let total: f64 = LOGITS.iter().map(|z| z.exp()).sum();
        for y in 0..5 {
            let before: f64 = LOGITS[..y].iter().map(|z| z.exp()).sum();
            let u = (before + 0.5 * LOGITS[y].exp()) / total;
            let (mut drawn, mut given) = (LOGITS, LOGITS);
            let a = differentiate(&mut drawn, Question::Drawn(u), 1.0);
            let b = differentiate(&mut given, Question::Loss(y), 1.0);
            assert!((a - b).abs() < 1e-14);
            assert_eq!(drawn, given);
        }
    }
}
