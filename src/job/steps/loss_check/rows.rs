//! The loss at every position of a sample of training examples, from one forward pass a batch.

use candle_core::{DType, Device, Tensor};

use crate::attribution::Observer;
use crate::curvature::{Error, Network, Objective, Tap, TapSink};
use crate::data::{self, Dataset, Kind, TokenDataset};
use crate::job::error::JobError;
use crate::model::{Limits, Model};

/// Logits that are held at once.
const LOGITS: usize = 8 << 20;

/// Positions that go through the model together at most.
const BATCH: usize = 4096;

/// The losses of one example.
#[derive(Debug, Clone)]
pub(super) struct ExampleLosses {
    /// Its tokens; empty if the example as a whole has one loss.
    pub tokens: Vec<u32>,
    /// Whether the token behind each row is a target; one entry for an example that has one loss.
    pub is_target: Vec<bool>,
    /// `-log p` of what each row has to predict, of the next token where it has to predict nothing.
    pub next: Vec<f32>,
    /// `-log p` of the end token at each row; empty without such a token.
    pub end: Vec<f32>,
    /// The mean of `-log p` over the vocabulary at each row, which label smoothing mixes in.
    pub uniform: Vec<f32>,
    /// Whether the first token may have had a label, though nothing predicts it.
    pub labels_first: bool,
}

/// What an example adds to a mean loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    /// The sum of its losses.
    pub loss: f64,
    /// Its targets.
    pub targets: f64,
    /// 1 if its first token probably had a label: nothing predicts it, and several releases of transformers divide by it
    /// all the same (those that count the labels of a batch before they are shifted).
    pub first: f64,
}

impl Share {
    /// Loss and the number that it is divided by.
    pub(super) fn of(self, with_first: bool) -> (f64, f64) {
        (self.loss, self.targets + if with_first { self.first } else { 0.0 })
    }
}

/// A mean loss with what is needed to compare it with a log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct MeanLoss {
    /// Sum of losses over the number of targets.
    pub loss: f64,
    /// Targets.
    pub targets: usize,
    /// The expected mean loss of a batch: a ratio of sums, which differs from the ratio of expectations.
    pub of_batches: f64,
    /// Standard deviation of the loss of one batch.
    pub batch_noise: f64,
    /// Standard error of the sample.
    pub error: f64,
}

impl MeanLoss {
    /// Of (sum of losses, targets) of each example of a sample, in batches of `batch` examples out of `population`.
    ///
    /// A batch has the loss `Σ L / Σ T`. To second order its mean over batches of B examples is
    /// `R + (R Var T - Cov(L, T)) / (B T̄²)` with `R = L̄ / T̄`, and its variance `Var(L - R T) / (B T̄²)`
    /// (Cochran, Sampling Techniques, chapter 6).
    pub(super) fn of(examples: &[(f64, f64)], batch: usize, population: usize) -> Option<Self> {
        let n = examples.len() as f64;
        let sums = examples.iter().fold((0.0, 0.0), |sum, example| (sum.0 + example.0, sum.1 + example.1));
        if sums.1 == 0.0 {
            return None;
        }
        let (loss, mean) = (sums.0 / sums.1, sums.1 / n);
        let of_pairs = |f: &dyn Fn(f64, f64) -> f64| {
            examples.iter().map(|&(l, t)| f(l, t)).sum::<f64>() / (n - 1.0).max(1.0) / (mean * mean)
        };
        let variance = of_pairs(&|l, t| (l - loss * t).powi(2));
        let bias = of_pairs(&|l, t| loss * (t - mean).powi(2) - (l - sums.0 / n) * (t - mean));
        let left = 1.0 - n / (population as f64).max(n);
        Some(Self {
            loss,
            targets: sums.1 as usize,
            of_batches: loss + bias / batch.max(1) as f64,
            batch_noise: (variance / batch.max(1) as f64).sqrt(),
            error: (variance / n * left).sqrt(),
        })
    }
}

impl ExampleLosses {
    /// The loss and the number of targets over the rows that `counts`, with label smoothing.
    pub(super) fn sum(&self, smoothing: f64, counts: impl Fn(usize) -> bool) -> Share {
        let mut sum = Share { loss: 0.0, targets: 0.0, first: 0.0 };
        // where the second token is a target, all labels are the tokens
        if self.labels_first && !self.next.is_empty() && counts(0) {
            sum.first = 1.0;
        }
        for row in (0..self.next.len()).filter(|&row| counts(row)) {
            let uniform = self.uniform.get(row).map_or(0.0, |&uniform| f64::from(uniform));
            let smoothing = if self.uniform.is_empty() { 0.0 } else { smoothing };
            sum.loss += (1.0 - smoothing) * f64::from(self.next[row]) + smoothing * uniform;
            sum.targets += 1.0;
        }
        sum
    }

    /// The row at which the text ends: the one that has to predict an end token, or the one behind the last token. No row
    /// of a decoder beside an encoder reads the last token.
    pub(super) fn last_of_text(&self, end: u32) -> Option<usize> {
        let n = self.tokens.len();
        let row = if n > 1 && self.tokens[n - 1] == end { n - 2 } else { n.saturating_sub(1) };
        (row < self.end.len()).then_some(row)
    }
}

/// Taps that nobody reads.
struct Unread;

impl TapSink for Unread {
    fn tap(&mut self, _: Tap<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// Losses of all examples of a data set. None if the work was interrupted.
pub(super) fn losses(
    model: &Model,
    examples: &Dataset,
    end: Option<u32>,
    observer: &dyn Observer,
) -> Result<Option<Vec<ExampleLosses>>, JobError> {
    let texts = match (examples.kind(), model.limits()) {
        (Kind::Tokens(tokens), Limits::Tokens(limits)) if !tokens.is_labelled() => Some((tokens, limits.vocabulary)),
        _ => None,
    };
    let most = texts.map_or(BATCH, |(_, vocabulary)| (LOGITS / vocabulary.max(1)).clamp(1, BATCH));
    let mut all = Vec::with_capacity(examples.len());
    for range in data::batches(examples, 0..examples.len(), most) {
        if observer.interrupted() {
            return Ok(None);
        }
        let batch = data::batch(examples, range.clone());
        let Some((tokens, _)) = texts else {
            let values = model.differentiate(&batch, Objective::TrainingLoss, &mut Unread);
            all.extend(values.map_err(crate::attribution::Error::from)?.into_iter().map(|value| ExampleLosses {
                tokens: vec![],
                is_target: vec![true],
                next: vec![value as f32],
                end: vec![],
                uniform: vec![],
                labels_first: false,
            }));
            continue;
        };
        let logits = model.logits(&batch).map_err(crate::attribution::Error::from)?;
        let found = of_logits(&logits, tokens, range, end).map_err(Error::from);
        all.extend(found.map_err(crate::attribution::Error::from)?);
    }
    Ok(Some(all))
}

fn of_logits(
    logits: &Tensor,
    examples: &TokenDataset,
    range: std::ops::Range<usize>,
    end: Option<u32>,
) -> candle_core::Result<Vec<ExampleLosses>> {
    let logits = logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    let (rows, width) = logits.dims2()?;
    // What each row has to predict, else the next token, which a last row does not have.
    let next = range.clone().flat_map(|i| {
        let tokens = examples.written(i);
        let or_next = move |(row, label): (usize, Option<u32>)| label.or_else(|| tokens.get(row + 1).copied());
        examples.predicted(i).enumerate().map(or_next)
    });
    let next: Vec<u32> = next.map(|token| token.filter(|&token| (token as usize) < width).unwrap_or(0)).collect();
    let next = logits.gather(&Tensor::from_vec(next, (rows, 1), &Device::Cpu)?, 1)?;
    let most = logits.max_keepdim(1)?;
    let sums = (logits.broadcast_sub(&most)?.exp()?.sum_keepdim(1)?.log()? + most)?;
    let loss = |of: &Tensor| -> candle_core::Result<Vec<f32>> { (&sums - of)?.flatten_all()?.to_vec1() };
    let (next, uniform) = (loss(&next)?, loss(&logits.mean_keepdim(1)?)?);
    let end = end.map(|end| loss(&logits.narrow(1, end as usize, 1)?)).transpose()?;
    let mut first = 0;
    let of_example = |i: usize| {
        let tokens = examples.written(i).to_vec();
        // the last row predicts nothing, but where each predicts its own token
        let all = first..first + examples.predicted(i).len();
        let n = tokens.len() - usize::from(!examples.is_masked());
        first = all.end;
        ExampleLosses {
            is_target: examples.predicted(i).take(n).map(|label| label.is_some()).collect(),
            next: next[all.clone()][..n].to_vec(),
            end: end.as_ref().map_or(vec![], |end| end[all.clone()].to_vec()),
            uniform: uniform[all][..n].to_vec(),
            labels_first: !examples.is_split(),
            tokens,
        }
    };
    Ok(range.map(of_example).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loops in f64 over rows of two examples, one of which has a prompt.
    #[test]
    fn rows_have_the_losses_of_the_definition() {
        let lines = "{\"input_ids\":[1,2,3],\"labels\":[1,2,3]}\n{\"input_ids\":[4,0,2,1],\"labels\":[-100,-100,2,1]}";
        let limits = data::ModelLimits { vocabulary: 5, max_positions: None, decoder: None, masked: None };
        let (format, options) = (data::Format::JsonLines, data::DataOptions::default());
        let file = std::path::Path::new("rows.jsonl");
        let read = data::read_tokens_from(lines.as_bytes(), file, format, data::Role::Train, None, limits, options);
        let (examples, _) = read.expect("two examples");
        let Kind::Tokens(tokens) = examples.kind() else { unreachable!("tokens were given") };
        let logit = |row: usize, token: usize| ((row * 5 + token) as f32 * 0.7).sin() * 3.0;
        let logits: Vec<f32> = (0..7).flat_map(|row| (0..5).map(move |token| logit(row, token))).collect();
        let logits = Tensor::from_vec(logits, (7, 5), &Device::Cpu).expect("a tensor");
        let found = of_logits(&logits, tokens, 0..2, Some(0)).expect("losses");
        let loss = |row: usize, token: usize| {
            let sum: f64 = (0..5).map(|token| f64::from(logit(row, token)).exp()).sum();
            sum.ln() - f64::from(logit(row, token))
        };
        assert_eq!((&found[0].is_target, &found[1].is_target), (&vec![true, true], &vec![false, true, true]));
        for (example, first) in [(&found[0], 0), (&found[1], 3)] {
            for row in 0..example.next.len() {
                let next = loss(first + row, example.tokens[row + 1] as usize);
                let uniform = (0..5).map(|token| loss(first + row, token)).sum::<f64>() / 5.0;
                assert!((f64::from(example.next[row]) - next).abs() < 1e-5, "row {row}");
                assert!((f64::from(example.uniform[row]) - uniform).abs() < 1e-5, "row {row}");
            }
            for (row, &end) in example.end.iter().enumerate() {
                assert!((f64::from(end) - loss(first + row, 0)).abs() < 1e-5, "row {row}");
            }
            assert_eq!(example.end.len(), example.tokens.len());
        }
        let smoothed = found[1].sum(0.1, |row| found[1].is_target[row]);
        let expected: f64 = [(4, 2), (5, 1)]
            .map(|(row, token)| 0.9 * loss(row, token) + 0.1 * (0..5).map(|token| loss(row, token)).sum::<f64>() / 5.0)
            .iter()
            .sum();
        assert!((smoothed.loss - expected).abs() < 1e-5 && smoothed.targets == 2.0, "{smoothed:?}");
        // the first token of a prompt is none of the labels, that of a text is one
        let first = |example: &ExampleLosses| example.sum(0.0, |row| example.is_target[row]).first;
        assert_eq!((first(&found[0]), first(&found[1])), (1.0, 0.0));
    }

    #[test]
    fn the_loss_of_batches_is_that_of_drawn_batches() {
        // long examples have a higher loss a target
        let examples: Vec<(f64, f64)> = (0..40)
            .map(|k| (1 + k % 8, k))
            .map(|(t, k)| {
                let t = f64::from(t);
                (t * (1.0 + 0.2 * t) + 0.05 * f64::from(k % 5), t)
            })
            .collect();
        let found = MeanLoss::of(&examples, 4, 40).unwrap();
        // every fourth example of a permutation by a generator of numbers, many times
        let (mut state, mut values) = (1u64, vec![]);
        for _ in 0..40_000 {
            let mut sum = (0.0, 0.0);
            for _ in 0..4 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let (l, t) = examples[(state >> 33) as usize % 40];
                sum = (sum.0 + l, sum.1 + t);
            }
            values.push(sum.0 / sum.1);
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        assert!((found.of_batches - mean).abs() < 0.1 * (found.loss - mean).abs() + 2e-3, "{found:?}, drawn {mean}");
        assert!((found.batch_noise / deviation - 1.0).abs() < 0.1, "{found:?}, drawn {deviation}");
        assert_eq!(found.error, 0.0, "the sample is the population");
        assert_eq!(MeanLoss::of(&[(0.0, 0.0)], 4, 1), None);
    }
}
