//! A language model's head and loss in one: values and the gradient at the hidden states, in blocks of
//! rows, so that a batch's logits never exist as a whole.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::kernel::{Workspace, with_workspace};
use super::objective::{self, Logit, Question};
use crate::implementation::check_soft_cap;
use ascribe_curvature::gemm::{Into, Products, Threads, View, ViewMut, matmul};
use ascribe_curvature::{Error, Objective, Positions, with_slice};

/// Whether the gradient at the logits is wanted, which is as large as the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsGradient {
    /// No.
    Discard,
    /// Yes: the head is a tracked layer, and this is its output gradient.
    Keep,
}

/// What [`language_model_loss`] returns.
#[derive(Debug, Clone)]
pub struct HeadLoss {
    /// The objective's value for each example, `[B]`: the summed loss, or the measurement.
    pub values: Vec<f64>,
    /// Gradient of the summed objective at the hidden states, `[R, D]`.
    pub hidden_gradient: Tensor,
    /// Gradient at the logits as the linear layer gives them, before a soft cap, `[R, V]`, if it was asked for.
    pub logits_gradient: Option<Tensor>,
}

/// Rows whose logits exist together on one thread. The product packs the whole head for each block: with 64 rows that
/// was a quarter of the head's time. What 128 gain has not been measured by itself. A count of memory has to know them.
pub const ROWS: usize = 128;

const NETWORK: &str = "a language model";

/// A language model's head, `logits = hidden Wᵀ + bias`, under a soft cap c `c · tanh(logits / c)` of that.
#[derive(Debug, Clone, Copy)]
pub struct LanguageModelHead<'a> {
    /// `[V, D]`.
    pub weight: &'a Tensor,
    /// `[V]`.
    pub bias: Option<&'a Tensor>,
    /// If given, c: what losses and measurements see is `c · tanh(logits / c)` (Gemma 2; Gemma Team 2024, §2).
    pub soft_cap: Option<f64>,
    /// How products on the CPU run.
    pub products: Products,
}

/// All logits, behind the soft cap if there is one.
///
/// # Shapes
/// `hidden: [R, D]`; `[R, V]`.
/// # Errors
/// If the shapes or types do not fit.
pub fn language_model_logits(hidden: &Tensor, head: LanguageModelHead<'_>) -> candle_core::Result<Tensor> {
    let logits = linear(hidden, head)?;
    match head.soft_cap {
        Some(cap) => {
            check_soft_cap("logits", cap)?;
            logits.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)
        }
        None => Ok(logits),
    }
}

/// `hidden Wᵀ + bias`.
fn linear(
    hidden: &Tensor,
    LanguageModelHead { weight, bias, .. }: LanguageModelHead<'_>,
) -> candle_core::Result<Tensor> {
    let logits = hidden.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => logits.broadcast_add(bias),
        None => Ok(logits),
    }
}

/// Value and gradient of a language model's objective, summed over the rows that have a target.
///
/// `targets[r]` is the token that row `r` must predict (already shifted), or nothing; `keys[b]` is the
/// example's key for random labels, whose position counts from the example's first row. Rows without
/// target get a zero gradient. For a measurement, `values` is the measurement and the gradient is that of
/// the cost `-κ f`.
///
/// Results do not depend on the number of threads.
///
/// # Shapes
/// `hidden: [R, D]`, `targets: [R]`, `keys: [B]`.
/// # Errors
/// [`Error::Objective`] for an objective that sequences do not have; [`Error::Tensor`] for shapes that do
/// not fit and targets outside the vocabulary.
/// # Source
/// `docs/method.md`, Curvature and Score.
pub fn language_model_loss(
    hidden: &Tensor,
    head: LanguageModelHead<'_>,
    positions: &Positions,
    targets: &[Option<u32>],
    keys: &[u64],
    objective: Objective,
    logits_gradient: LogitsGradient,
) -> Result<HeadLoss, Error> {
    let labelled = questions(hidden, head, positions, targets, keys, objective)?;
    let mut losses = match (hidden.device().is_cpu(), hidden.dtype()) {
        (true, DType::F32) => Blocks::new(hidden, head, &labelled, logits_gradient)?.run::<f32>()?,
        (true, DType::F64) => Blocks::new(hidden, head, &labelled, logits_gradient)?.run::<f64>()?,
        _ => composed(hidden, head, &labelled, logits_gradient)?,
    };
    let mut values = vec![0.0; positions.examples()];
    for (label, value) in labelled.iter().zip(std::mem::take(&mut losses.values)) {
        values[label.example] += value * label.factor;
    }
    Ok(HeadLoss { values, ..losses })
}

/// A row with a target.
#[derive(Debug, Clone, Copy)]
struct Labelled {
    row: usize,
    example: usize,
    question: Question,
    factor: f64,
}

fn questions(
    hidden: &Tensor,
    LanguageModelHead { weight, bias, soft_cap, .. }: LanguageModelHead<'_>,
    positions: &Positions,
    targets: &[Option<u32>],
    keys: &[u64],
    objective: Objective,
) -> Result<Vec<Labelled>, Error> {
    let ((rows, width), (vocabulary, inputs)) = (hidden.dims2()?, weight.dims2()?);
    if width != inputs || vocabulary == 0 {
        return refuse(format!("a head of the shape [{vocabulary}, {inputs}] got hidden states of width {width}"));
    }
    if let Some(bias) = bias
        && bias.dims() != [vocabulary]
    {
        return refuse(format!("a head of {vocabulary} outputs has a bias of the shape {:?}", bias.dims()));
    }
    if let Some(cap) = soft_cap {
        check_soft_cap("logits", cap)?;
    }
    if rows != positions.rows() || rows != targets.len() || keys.len() != positions.examples() {
        return refuse(format!(
            "{rows} hidden states, {} targets and {} keys for {} examples with {} positions",
            targets.len(),
            keys.len(),
            positions.examples(),
            positions.rows()
        ));
    }
    let mut labelled = Vec::with_capacity(rows);
    for (example, range) in positions.iter().enumerate() {
        let n_labels = targets[range.clone()].iter().flatten().count();
        let factor = objective::reduction_factor(objective, n_labels);
        for row in range.clone() {
            if let Some(target) = targets[row] {
                let y = objective::check_label(target, vocabulary, example)?;
                let question = Question::new(objective, y, keys[example], row - range.start, NETWORK)?;
                labelled.push(Labelled { row, example, question, factor });
            }
        }
    }
    if labelled.is_empty() {
        // also an objective that nothing is asked for has to be one that exists
        Question::new(objective, 0, 0, 0, NETWORK)?;
    }
    Ok(labelled)
}

fn refuse<T>(message: String) -> Result<T, Error> {
    Err(candle_core::Error::Msg(message).into())
}

/// One call on the CPU.
struct Blocks<'a> {
    hidden: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    soft_cap: Option<f64>,
    products: Products,
    labelled: &'a [Labelled],
    keep: LogitsGradient,
}

/// A block of labelled rows and the parts of the outputs that hold these rows: no two blocks share a row.
struct Block<'a, T> {
    labelled: &'a [Labelled],
    first_row: usize,
    hidden: &'a mut [T],
    logits: Option<&'a mut [T]>,
}

impl<'a> Blocks<'a> {
    fn new(
        hidden: &Tensor,
        LanguageModelHead { weight, bias, soft_cap, products }: LanguageModelHead<'_>,
        labelled: &'a [Labelled],
        keep: LogitsGradient,
    ) -> candle_core::Result<Self> {
        let bias = bias.map(Tensor::contiguous).transpose()?;
        let (hidden, weight) = (hidden.contiguous()?, weight.contiguous()?);
        Ok(Self { hidden, weight, bias, soft_cap, products, labelled, keep })
    }

    fn run<T: Logit + Workspace>(&self) -> candle_core::Result<HeadLoss> {
        let ((rows, width), vocabulary) = (self.hidden.dims2()?, self.weight.dim(0)?);
        let mut hidden_gradient = vec![T::of(0.0); rows * width];
        let mut logits_gradient = match self.keep {
            LogitsGradient::Keep => Some(vec![T::of(0.0); rows * vocabulary]),
            LogitsGradient::Discard => None,
        };
        let blocks = split(self.labelled, width, vocabulary, &mut hidden_gradient, logits_gradient.as_deref_mut());
        let run = |hidden: &[T], weight: &[T], bias: Option<&[T]>| -> Vec<f64> {
            let weight = View::dense(weight, vocabulary, width).to(self.products);
            let blocks = blocks.into_par_iter().with_max_len(1);
            let values: Vec<Vec<f64>> = blocks.map(|block| block.run(hidden, weight, bias, self.soft_cap)).collect();
            values.concat()
        };
        let values = with_slice(&self.hidden, |hidden: &[T]| {
            with_slice(&self.weight, |weight: &[T]| match &self.bias {
                Some(bias) => with_slice(bias, |bias: &[T]| run(hidden, weight, Some(bias))),
                None => Ok(run(hidden, weight, None)),
            })
        })???;
        let hidden_gradient = Tensor::from_vec(hidden_gradient, (rows, width), &Device::Cpu)?;
        let logits_gradient =
            logits_gradient.map(|g| Tensor::from_vec(g, (rows, vocabulary), &Device::Cpu)).transpose()?;
        Ok(HeadLoss { values, hidden_gradient, logits_gradient })
    }
}

fn split<'a, T>(
    labelled: &'a [Labelled],
    width: usize,
    vocabulary: usize,
    mut hidden: &'a mut [T],
    mut logits: Option<&'a mut [T]>,
) -> Vec<Block<'a, T>> {
    let mut blocks = Vec::with_capacity(labelled.len().div_ceil(ROWS));
    let mut first_row = 0;
    for labelled in labelled.chunks(ROWS) {
        let n_rows = labelled[labelled.len() - 1].row + 1 - first_row;
        let (block, rest) = std::mem::take(&mut hidden).split_at_mut(n_rows * width);
        hidden = rest;
        let logits_block = logits.take().map(|all| {
            let (block, rest) = all.split_at_mut(n_rows * vocabulary);
            logits = Some(rest);
            block
        });
        blocks.push(Block { labelled, first_row, hidden: block, logits: logits_block });
        first_row += n_rows;
    }
    blocks
}

impl<T: Logit + Workspace> Block<'_, T> {
    fn run(self, hidden: &[T], weight: View<'_, T>, bias: Option<&[T]>, soft_cap: Option<f64>) -> Vec<f64> {
        let (m, (vocabulary, width)) = (self.labelled.len(), weight.shape());
        let capped = if soft_cap.is_some() { vocabulary } else { 0 };
        with_workspace(m * (width + vocabulary) + capped, |space: &mut [T]| {
            let (states, space) = space.split_at_mut(m * width);
            let (logits, slopes) = space.split_at_mut(m * vocabulary);
            for (state, label) in states.chunks_exact_mut(width.max(1)).zip(self.labelled) {
                state.copy_from_slice(&hidden[label.row * width..(label.row + 1) * width]);
            }
            let into = match bias {
                Some(bias) => {
                    logits.chunks_exact_mut(vocabulary).for_each(|row| row.copy_from_slice(bias));
                    Into::Add
                }
                None => Into::Replace,
            };
            let product = ViewMut::dense(logits, m, vocabulary);
            matmul(product, into, T::of(1.0), View::dense(states, m, width), weight.t(), Threads::One);
            let rows = logits.chunks_exact_mut(vocabulary).zip(self.labelled);
            let values = rows.map(|(row, label)| differentiate(row, slopes, *label, soft_cap)).collect();
            let gradient = View::dense(logits, m, vocabulary);
            matmul(ViewMut::dense(states, m, width), Into::Replace, T::of(1.0), gradient, weight, Threads::One);
            for (state, label) in states.chunks_exact(width.max(1)).zip(self.labelled) {
                let row = label.row - self.first_row;
                self.hidden[row * width..(row + 1) * width].copy_from_slice(state);
            }
            if let Some(kept) = self.logits {
                for (gradient, label) in logits.chunks_exact(vocabulary).zip(self.labelled) {
                    let row = label.row - self.first_row;
                    kept[row * vocabulary..(row + 1) * vocabulary].copy_from_slice(gradient);
                }
            }
            values
        })
    }
}

/// Replaces one row of logits, before a soft cap, by the gradient there; returns the value. `slopes` is as wide as the
/// row under a soft cap.
fn differentiate<T: Logit>(row: &mut [T], slopes: &mut [T], label: Labelled, soft_cap: Option<f64>) -> f64 {
    let Some(cap) = soft_cap else { return objective::differentiate(row, label.question, label.factor) };
    T::soft_cap(row, slopes, cap);
    let value = objective::differentiate(row, label.question, label.factor);
    T::multiply(row, slopes);
    value
}

/// The loss and its gradient with candle's products, on any device; one block of logits at a time visits the CPU.
fn composed(
    hidden: &Tensor,
    head: LanguageModelHead<'_>,
    labelled: &[Labelled],
    keep: LogitsGradient,
) -> candle_core::Result<HeadLoss> {
    let (device, dtype, weight) = (hidden.device(), hidden.dtype(), head.weight);
    let ((rows, width), vocabulary) = (hidden.dims2()?, weight.dim(0)?);
    let mut values = Vec::with_capacity(labelled.len());
    let mut hidden_gradient = Tensor::zeros((rows, width), dtype, device)?;
    let mut logits_gradient = match keep {
        LogitsGradient::Keep => Some(Tensor::zeros((rows, vocabulary), dtype, device)?),
        LogitsGradient::Discard => None,
    };
    let mut slopes = vec![0.0; if head.soft_cap.is_some() { vocabulary } else { 0 }];
    for block in labelled.chunks(ROWS) {
        let indices: Vec<u32> = block.iter().map(|label| label.row as u32).collect();
        let indices = Tensor::new(indices, device)?;
        let logits = linear(&hidden.index_select(&indices, 0)?, head)?;
        let on_cpu = logits.to_dtype(DType::F32)?.flatten_all()?;
        let mut on_cpu: Vec<f32> = on_cpu.to_vec1()?;
        for (row, label) in on_cpu.chunks_exact_mut(vocabulary).zip(block) {
            values.push(differentiate(row, &mut slopes, *label, head.soft_cap));
        }
        let gradient = Tensor::from_vec(on_cpu, (block.len(), vocabulary), device)?.to_dtype(dtype)?;
        hidden_gradient = hidden_gradient.index_add(&indices, &gradient.matmul(weight)?, 0)?;
        if let Some(kept) = &mut logits_gradient {
            *kept = kept.index_add(&indices, &gradient, 0)?;
        }
    }
    Ok(HeadLoss { values, hidden_gradient, logits_gradient })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::super::gradient_check::{flat, wave};
    use super::*;
    use ascribe_curvature::{LabelDraw, Measurement, Reduction, random};

    const NO_TARGET: [usize; 4] = [0, 5, 24, 90];

    struct Case {
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        positions: Positions,
        targets: Vec<Option<u32>>,
        keys: Vec<u64>,
        soft_cap: Option<f64>,
    }

    /// Examples of 1, 5, 19 and 70 positions: two blocks of rows, the last position of each unlabelled.
    fn case(width: usize, vocabulary: usize, dtype: DType) -> candle_core::Result<Case> {
        let positions = Positions::from_lengths([1, 5, 19, 70]);
        let targets = (0..95).map(|r| (!NO_TARGET.contains(&r)).then_some((r * 7 % vocabulary) as u32));
        let f32s = |x: Tensor| x.to_dtype(DType::F32)?.to_dtype(dtype);
        Ok(Case {
            hidden: f32s(wave(&[95, width], 1)?.affine(2.0, 0.0)?)?,
            weight: f32s(wave(&[vocabulary, width], 2)?)?,
            bias: f32s(wave(&[vocabulary], 3)?)?,
            targets: targets.collect(),
            keys: vec![7, 1 << 40, 3, 9],
            soft_cap: None,
            positions,
        })
    }

    impl Case {
        fn head(&self) -> LanguageModelHead<'_> {
            let (weight, bias) = (&self.weight, Some(&self.bias));
            LanguageModelHead { weight, bias, soft_cap: self.soft_cap, products: Products::Exact }
        }

        fn run(&self, objective: Objective) -> Result<HeadLoss, Error> {
            let Self { hidden, positions, targets, keys, .. } = self;
            language_model_loss(hidden, self.head(), positions, targets, keys, objective, LogitsGradient::Keep)
        }
    }

    fn draw() -> LabelDraw {
        LabelDraw { seed: 5, stream: random::stream::LAMBDA, draw: 1 }
    }

    fn objectives() -> [Objective; 6] {
        [
            Objective::TrainingLoss,
            Objective::SampledLoss(draw()),
            Objective::Measurement(Measurement::Loss, Reduction::Mean),
            Objective::Measurement(Measurement::LogProbability, Reduction::Sum),
            Objective::Measurement(Measurement::Probability, Reduction::Mean),
            Objective::Measurement(Measurement::Margin, Reduction::Mean),
        ]
    }

    /// Values, gradient at the logits and at the hidden states, by loops.
    fn definition(case: &Case, objective: Objective) -> candle_core::Result<(Vec<f64>, Vec<f64>, Vec<f64>)> {
        let logits = flat(&language_model_logits(&case.hidden, case.head())?)?;
        let weight = flat(&case.weight)?;
        let (vocabulary, width) = case.weight.dims2()?;
        let mut values = vec![0.0; 4];
        let (mut at_logits, mut at_hidden) = (vec![0.0; 95 * vocabulary], vec![0.0; 95 * width]);
        for (b, rows) in case.positions.iter().enumerate() {
            let labels = case.targets[rows.clone()].iter().flatten().count().max(1) as f64;
            for r in rows.clone() {
                let Some(target) = case.targets[r] else { continue };
                let z = &logits[r * vocabulary..(r + 1) * vocabulary];
                let y = match objective {
                    Objective::SampledLoss(draw) => {
                        let (u, _) = random::uniforms(random::words(draw, case.keys[b], (r - rows.start) as u32, 0));
                        let m = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        random::categorical(u, z.iter().map(|z| (z - m).exp()))
                    }
                    _ => target as usize,
                };
                let margin = matches!(objective, Objective::Measurement(Measurement::Margin, _));
                let total: f64 = (0..vocabulary).filter(|j| !margin || *j != y).map(|j| z[j].exp()).sum();
                let (sign, factor) = match objective {
                    Objective::Measurement(m, Reduction::Mean) => (m.orientation(), 1.0 / labels),
                    Objective::Measurement(m, Reduction::Sum) => (m.orientation(), 1.0),
                    _ => (-1.0, 1.0),
                };
                // f = ± (z_y - log Σ), or its exponential; what is differentiated is its negative
                let log_p = z[y] - total.ln();
                let (value, factor) = match objective {
                    Objective::Measurement(Measurement::Probability, _) => [factor * log_p.exp(); 2].into(),
                    _ => (sign * factor * log_p, factor),
                };
                values[b] += value;
                for j in 0..vocabulary {
                    let p = if margin && j == y { 0.0 } else { z[j].exp() / total };
                    let slope = case.soft_cap.map_or(1.0, |cap| 1.0 - (z[j] / cap).powi(2));
                    let g = factor * (p - if j == y { 1.0 } else { 0.0 }) * slope;
                    at_logits[r * vocabulary + j] = g;
                    for i in 0..width {
                        at_hidden[r * width + i] += g * weight[j * width + i];
                    }
                }
            }
        }
        Ok((values, at_logits, at_hidden))
    }

    #[test]
    fn values_and_gradients_are_their_definitions() -> Result<(), Error> {
        for (width, vocabulary) in [(24, 33), (33, 301)] {
            // logits reach 10: a cap of 3 bends them much, one of 30 a little
            let caps = [None, Some(3.0), Some(30.0)];
            for (objective, cap) in objectives().into_iter().flat_map(|objective| caps.map(|cap| (objective, cap))) {
                let capped = |dtype| Ok::<_, Error>(Case { soft_cap: cap, ..case(width, vocabulary, dtype)? });
                let (wide, narrow) = (capped(DType::F64)?, capped(DType::F32)?);
                let (values, at_logits, at_hidden) = definition(&wide, objective)?;
                // f64: sums of up to 301 products. f32: logits of order 10 rounded to 1e-6; a loss of order
                // 10 a row over 69 rows.
                for (case, tolerance) in [(&wide, 1e-12), (&narrow, 2e-5)] {
                    let found = case.run(objective)?;
                    for (found, want) in found.values.iter().zip(&values) {
                        assert!((found - want).abs() < 50.0 * tolerance, "{objective:?}: {found} {want}");
                    }
                    let kept = found.logits_gradient.as_ref().expect("asked for");
                    for (found, want) in [(kept, &at_logits), (&found.hidden_gradient, &at_hidden)] {
                        for (found, want) in flat(found)?.iter().zip(want) {
                            assert!((found - want).abs() < tolerance, "{objective:?}: {found} {want}");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The gradient at capped logits is the derivative of the value, whoever says what the slopes are.
    #[test]
    fn gradients_under_a_soft_cap_are_central_differences() -> Result<(), Error> {
        let case = Case { soft_cap: Some(2.5), ..case(5, 7, DType::F64)? };
        let differentiable =
            objectives().into_iter().filter(|objective| !matches!(objective, Objective::SampledLoss(_)));
        for objective in differentiable {
            let found = flat(&case.run(objective)?.hidden_gradient)?;
            let hidden = flat(&case.hidden)?;
            let value = |i: usize, step: f64| -> Result<f64, Error> {
                let mut moved = hidden.clone();
                moved[i] += step;
                let hidden = Tensor::from_vec(moved, (95, 5), &Device::Cpu)?;
                let Case { positions, targets, keys, .. } = &case;
                let keep = LogitsGradient::Discard;
                let loss = language_model_loss(&hidden, case.head(), positions, targets, keys, objective, keep)?;
                // what is differentiated is the cost
                let sign = if let Objective::Measurement(m, _) = objective { -m.orientation() } else { 1.0 };
                Ok(sign * loss.values.iter().sum::<f64>())
            };
            for (i, found) in found.iter().enumerate().step_by(7) {
                let want = (value(i, 1e-5)? - value(i, -1e-5)?) / 2e-5;
                assert!((found - want).abs() < 1e-7, "{objective:?} [{i}]: {found} {want}"); // h² + ε/h
            }
        }
        let logits = flat(&language_model_logits(&case.hidden, case.head())?)?;
        assert!(logits.iter().all(|z| z.abs() <= 2.5) && logits.iter().any(|z| z.abs() > 2.0));
        for cap in [0.0, -3.0, f64::INFINITY] {
            let case = Case { soft_cap: Some(cap), ..self::case(5, 7, DType::F64)? };
            let error = case.run(Objective::TrainingLoss).unwrap_err();
            assert!(error.to_string().contains("logits cannot be capped softly"), "{error}");
        }
        Ok(())
    }

    /// Draws recorded in the golden data (`rng.categorical`).
    #[test]
    fn sampled_tokens_are_the_golden_ones() -> Result<(), Error> {
        let objective = Objective::SampledLoss(LabelDraw { seed: 11, stream: 0, draw: 0 });
        let labels = [3usize, 3, 3, 3, 3, 3, 3, 2, 3, 3, 1, 0]; // three positions of each of the examples 0 to 3
        for dtype in [DType::F32, DType::F64] {
            let weight = Tensor::new(&[[0.727f64], [-0.399], [0.368], [2.698], [0.07], [-0.903]], &Device::Cpu)?;
            let (weight, hidden) = (weight.to_dtype(dtype)?, Tensor::ones((12, 1), dtype, &Device::Cpu)?);
            let (positions, targets) = (Positions::from_lengths([3; 4]), [Some(0); 12]);
            let keys = [0, 1, 2, 3];
            let keep = LogitsGradient::Keep;
            let head = LanguageModelHead { weight: &weight, bias: None, soft_cap: None, products: Products::Exact };
            let found = language_model_loss(&hidden, head, &positions, &targets, &keys, objective, keep)?;
            let gradient = flat(&found.logits_gradient.expect("asked for"))?;
            for (row, label) in gradient.chunks(6).zip(labels) {
                assert_eq!(row.iter().position(|g| *g < 0.0), Some(label));
            }
        }
        Ok(())
    }

    #[test]
    fn composed_agrees_with_blocks() -> Result<(), Error> {
        for (objective, soft_cap) in
            objectives().into_iter().flat_map(|objective| [(objective, None), (objective, Some(3.0))])
        {
            let case = Case { soft_cap, ..case(24, 70, DType::F32)? };
            let (Case { hidden, positions, targets, keys, .. }, head) = (&case, case.head());
            let labelled = questions(hidden, head, positions, targets, keys, objective)?;
            let keep = LogitsGradient::Keep;
            let a = Blocks::new(hidden, head, &labelled, keep)?.run::<f32>()?;
            let b = composed(hidden, head, &labelled, keep)?;
            let logits = |loss: &HeadLoss| flat(loss.logits_gradient.as_ref().expect("asked for"));
            for (x, y) in [
                (a.values.clone(), b.values.clone()),
                (flat(&a.hidden_gradient)?, flat(&b.hidden_gradient)?),
                (logits(&a)?, logits(&b)?),
            ] {
                assert_eq!(x.len(), y.len());
                // the same arithmetic but for the order of sums in the products
                assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 2e-5), "{objective:?}");
            }
        }
        Ok(())
    }

    /// The hidden states and weights are rounded, and the gradient at the logits before it is carried on.
    #[test]
    fn products_in_bf16_are_those_of_rounded_numbers() -> Result<(), Error> {
        if !Products::Bf16.run_here() {
            return Ok(()); // nothing to test without AVX512-BF16
        }
        let case = case(33, 301, DType::F32)?;
        let run = |case: &Case, products| {
            let (Case { hidden, positions, targets, keys, .. }, keep) = (case, LogitsGradient::Keep);
            let head = LanguageModelHead { products, ..case.head() };
            language_model_loss(hidden, head, positions, targets, keys, Objective::TrainingLoss, keep)
        };
        let round = |x: &Tensor| x.to_dtype(DType::BF16)?.to_dtype(DType::F32);
        let rounded = Case { hidden: round(&case.hidden)?, weight: round(&case.weight)?, ..case };
        let (found, want) = (run(&rounded, Products::Bf16)?, run(&rounded, Products::Exact)?);
        // the first product rounds nothing that was not round before
        for (found, want) in found.values.iter().zip(&want.values) {
            assert!((found - want).abs() < 1e-3 * (1.0 + want.abs()), "{found} {want}");
        }
        let (found, want) = (flat(&found.hidden_gradient)?, flat(&want.hidden_gradient)?);
        let largest = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let error = found.iter().zip(&want).fold(0.0, |m: f64, (x, y)| m.max((x - y).abs())) / largest;
        assert!(error > 1e-6 && error < 2.0 * 2f64.powi(-8), "{error}");
        Ok(())
    }

    #[test]
    fn results_do_not_depend_on_threads() -> Result<(), Error> {
        let case = case(33, 301, DType::F32)?;
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let [one, three] = [1, 3].map(|n| pool(n).install(|| case.run(Objective::SampledLoss(draw()))));
        let (one, three) = (one?, three?);
        assert_eq!(one.values, three.values);
        assert_eq!(flat(&one.hidden_gradient)?, flat(&three.hidden_gradient)?);
        Ok(())
    }

    #[test]
    fn what_cannot_be_asked_is_refused() -> Result<(), Error> {
        let mut case = case(24, 33, DType::F32)?;
        for (objective, name) in [
            (Objective::ExpectedLoss { class: 1 }, "the expected loss of class 1"),
            (Objective::Measurement(Measurement::Prediction, Reduction::Sum), "the measurement `prediction`"),
        ] {
            let error = case.run(objective).unwrap_err();
            assert_eq!(error.to_string(), format!("{name} is not defined for a language model"));
        }
        case.targets[2] = Some(33);
        let error = case.run(Objective::TrainingLoss).unwrap_err();
        assert!(error.to_string().contains("example 1 of the batch has the label 33, but there are 33"), "{error}");
        case.targets = vec![None; 95];
        let nothing = case.run(Objective::TrainingLoss)?;
        assert_eq!(nothing.values, [0.0; 4]);
        assert!(flat(&nothing.hidden_gradient)?.iter().all(|g| *g == 0.0));
        case.targets.pop();
        assert!(case.run(Objective::TrainingLoss).is_err());
        Ok(())
    }
}
