//! Losses of outputs that exist as a whole: classes and numbers.

use candle_core::{DType, Device, Tensor};

use super::objective::{self, Logit, Question};
use ascribe_curvature::gemm::Real;
use ascribe_curvature::{Error, Measurement, Objective, Reduction, random, with_slice};

/// Value for each example, and gradient of the summed objective at a classifier's logits.
///
/// For a measurement, the values are the measurement and the gradient is that of the cost `-κ f`. For
/// [`Objective::ExpectedLoss`] the values are the class's loss `-log p_c`, and the gradient is multiplied
/// by `√(C p_c)`.
///
/// # Shapes
/// `logits: [B, C]`, `targets: [B]`, `keys: [B]`; the gradient `[B, C]`.
/// # Errors
/// [`Error::Objective`] for [`Measurement::Prediction`]; [`Error::Tensor`] for labels that do not exist.
/// # Source
/// `docs/method.md`, Curvature and Score.
pub fn classification_loss(
    logits: &Tensor,
    targets: &[u32],
    keys: &[u64],
    objective: Objective,
) -> Result<(Vec<f64>, Tensor), Error> {
    const NETWORK: &str = "a classifier";
    let (examples, classes) = logits.dims2()?;
    if examples != targets.len() || examples != keys.len() || classes == 0 {
        return refuse(format!(
            "{} targets and {} keys for {examples} examples with {classes} logits",
            targets.len(),
            keys.len()
        ));
    }
    let mut questions = Vec::with_capacity(examples);
    for (b, (&target, &key)) in targets.iter().zip(keys).enumerate() {
        let y = objective::check_label(target, classes, b)?;
        questions.push(match objective {
            Objective::ExpectedLoss { class } if class < classes => Question::Expected(class),
            Objective::ExpectedLoss { class } => {
                return refuse(format!("class {class} of a classifier with {classes} classes"));
            }
            other => Question::new(other, y, key, 0, NETWORK)?,
        });
    }
    fn rows<T: Logit>(questions: &[Question], classes: usize, data: &mut [T]) -> Vec<f64> {
        let rows = data.chunks_exact_mut(classes).zip(questions);
        rows.map(|(row, question)| objective::differentiate(row, *question, 1.0)).collect()
    }
    on_cpu(logits, |data| rows(&questions, classes, data), |data| rows(&questions, classes, data))
}

/// Value for each example, and gradient of the summed objective at the logits of several labels, each of which holds
/// or not.
///
/// The loss is torch's `BCEWithLogitsLoss`, the mean over labels of `-y log p - (1 - y) log (1 - p)` with
/// `p = 1 / (1 + e^{-z})`. Labels are drawn each from its own p; the gradient of a drawn loss is multiplied by `√C`, so
/// that the mean of its squares is the loss's Hessian at the logits, `p (1 - p) / C`. [`Measurement::LogProbability`] is
/// the sum over labels of the right answer's, [`Measurement::Probability`] that of the right answer's probability,
/// [`Measurement::Margin`] that of its log-odds `(2y - 1) z`; [`Reduction::Mean`] divides by C.
///
/// # Shapes
/// `logits: [B, C]`, `targets: [B · C]` with `width` = C, `keys: [B]`; the gradient `[B, C]`.
/// # Errors
/// [`Error::Objective`] for [`Measurement::Prediction`] and [`Objective::ExpectedLoss`]; [`Error::Tensor`] for shapes that
/// do not fit.
pub fn multi_label_loss(
    logits: &Tensor,
    targets: &[f32],
    width: usize,
    keys: &[u64],
    objective: Objective,
) -> Result<(Vec<f64>, Tensor), Error> {
    let (examples, labels) = logits.dims2()?;
    if labels != width || targets.len() != examples * width || keys.len() != examples || width == 0 {
        return refuse(format!(
            "{} targets of {width} labels and {} keys for {examples} examples with {labels} logits",
            targets.len(),
            keys.len()
        ));
    }
    if let Objective::ExpectedLoss { .. } | Objective::Measurement(Measurement::Prediction, _) = objective {
        return Err(objective::undefined(objective, "a classifier of several labels"));
    }
    let mean = 1.0 / width as f64;
    let factor = match objective {
        Objective::Measurement(_, Reduction::Mean) => mean,
        _ => 1.0,
    };
    // Value and gradient at one logit: of -y log p - (1 - y) log (1 - p), p - y.
    let loss = |z: f64, y: f64| (z.max(0.0) - z * y + (-z.abs()).exp().ln_1p(), 1.0 / (1.0 + (-z).exp()) - y);
    let term = |z: f64, y: f64, key: u64, label: usize| match objective {
        Objective::SampledLoss(draw) => {
            let u = random::uniforms(random::words(draw, key, 0, label as u32)).0;
            let drawn = if u < 1.0 / (1.0 + (-z).exp()) { 1.0 } else { 0.0 };
            let (value, gradient) = loss(z, drawn);
            (mean * value, mean.sqrt() * gradient)
        }
        Objective::Measurement(Measurement::LogProbability, _) => {
            let (value, gradient) = loss(z, y);
            (-factor * value, factor * gradient)
        }
        Objective::Measurement(Measurement::Probability, _) => {
            let sign = 2.0 * y - 1.0;
            let p = 1.0 / (1.0 + (-sign * z).exp());
            (factor * p, -factor * sign * p * (1.0 - p))
        }
        Objective::Measurement(Measurement::Margin, _) => {
            let sign = 2.0 * y - 1.0;
            (factor * sign * z, -factor * sign)
        }
        _ => {
            let (value, gradient) = loss(z, y);
            (factor * mean * value, factor * mean * gradient)
        }
    };
    let targets: Vec<f64> = targets.iter().map(|&target| f64::from(target)).collect();
    on_cpu(
        logits,
        |data: &mut [f32]| terms(data, &targets, keys, width, term),
        |data: &mut [f64]| terms(data, &targets, keys, width, term),
    )
}

/// Replaces outputs by the gradients there; returns each example's sum of values. `term` gives value and gradient of
/// one output from the output, its target, the example's key and the output's number.
fn terms<T: Real>(
    data: &mut [T],
    targets: &[f64],
    keys: &[u64],
    width: usize,
    term: impl Fn(f64, f64, u64, usize) -> (f64, f64),
) -> Vec<f64> {
    let mut values = vec![0.0; keys.len()];
    for b in 0..keys.len() {
        for j in 0..width {
            let at = b * width + j;
            let (value, gradient) = term(data[at].wide(), targets[at], keys[b], j);
            values[b] += value;
            data[at] = T::of(gradient);
        }
    }
    values
}

/// The loss `a · Σ (y - t)²`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SquaredError {
    /// Factor of the sum of squares: 1, 1/2, or 1/D for torch's mean over D outputs.
    pub a: f64,
}

/// Value for each example, and gradient of the summed objective at the outputs of a regression.
///
/// Sampled targets are `t = y + ε/√(2a)` with standard normal ε: the loss is then the negative logarithm
/// of their density. [`Measurement::Prediction`] is `Σ y`. [`Reduction::Mean`] divides by the number of
/// outputs.
///
/// # Shapes
/// `outputs`, `targets`: `[B, D]`; `keys: [B]`; the gradient `[B, D]`.
/// # Errors
/// [`Error::Objective`] for objectives that need classes; [`Error::Tensor`] for shapes that do not fit.
/// # Source
/// `docs/method.md`, Curvature and Score.
pub fn regression_loss(
    outputs: &Tensor,
    targets: &Tensor,
    keys: &[u64],
    loss: SquaredError,
    objective: Objective,
) -> Result<(Vec<f64>, Tensor), Error> {
    let (examples, width) = outputs.dims2()?;
    if targets.dims() != outputs.dims() || keys.len() != examples {
        return refuse(format!(
            "targets of the shape {:?} and {} keys for outputs of the shape {:?}",
            targets.dims(),
            keys.len(),
            outputs.dims()
        ));
    }
    if let Objective::ExpectedLoss { .. }
    | Objective::Measurement(Measurement::LogProbability | Measurement::Probability | Measurement::Margin, _) =
        objective
    {
        return Err(objective::undefined(objective, "a regression"));
    }
    if matches!(objective, Objective::SampledLoss(_)) && width > 1 << 16 {
        return refuse(format!("{width} outputs; random targets exist for at most 65536"));
    }
    let targets = targets.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let SquaredError { a } = loss;
    let factor = match objective {
        Objective::Measurement(_, Reduction::Mean) => 1.0 / width as f64,
        _ => 1.0,
    };
    // Value and gradient of one output.
    let term = |y: f64, t: f64, key: u64, component: usize| match objective {
        Objective::SampledLoss(draw) => {
            let noise = random::normal(random::words(draw, key, 0, component as u32));
            (0.5 * noise * noise, -(2.0 * a).sqrt() * noise)
        }
        Objective::Measurement(Measurement::Prediction, _) => (factor * y, -factor),
        _ => (factor * a * (y - t) * (y - t), factor * 2.0 * a * (y - t)),
    };
    on_cpu(
        outputs,
        |data: &mut [f32]| terms(data, &targets, keys, width, term),
        |data: &mut [f64]| terms(data, &targets, keys, width, term),
    )
}

fn refuse<T>(message: String) -> Result<T, Error> {
    Err(candle_core::Error::Msg(message).into())
}

/// Runs one of the functions on a copy of the numbers, which becomes the gradient. These outputs are
/// small: on other devices they visit the CPU.
fn on_cpu(
    outputs: &Tensor,
    narrow: impl FnOnce(&mut [f32]) -> Vec<f64>,
    wide: impl FnOnce(&mut [f64]) -> Vec<f64>,
) -> Result<(Vec<f64>, Tensor), Error> {
    let (device, dtype) = (outputs.device(), outputs.dtype());
    let local = outputs.to_device(&Device::Cpu)?.contiguous()?;
    let (values, gradient) = if dtype == DType::F64 {
        let mut data = with_slice(&local, |data: &[f64]| data.to_vec())?;
        (wide(&mut data), Tensor::from_vec(data, outputs.shape(), device)?)
    } else {
        let mut data = with_slice(&local.to_dtype(DType::F32)?, |data: &[f32]| data.to_vec())?;
        (narrow(&mut data), Tensor::from_vec(data, outputs.shape(), device)?.to_dtype(dtype)?)
    };
    Ok((values, gradient))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::super::gradient_check::{flat, wave};
    use super::*;
    use ascribe_curvature::LabelDraw;

    fn classes(dtype: DType) -> candle_core::Result<Tensor> {
        wave(&[4, 5], 1)?.affine(3.0, 0.0)?.to_dtype(DType::F32)?.to_dtype(dtype)
    }

    #[test]
    fn mean_square_over_expected_losses_is_the_fisher() -> Result<(), Error> {
        // (1/C) Σ_c g_c g_cᵀ = diag(p) - p pᵀ
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
            let logits = classes(dtype)?;
            let z = flat(&logits)?;
            let mut fisher = vec![0.0; 4 * 25];
            for class in 0..5 {
                let objective = Objective::ExpectedLoss { class };
                let (values, gradient) = classification_loss(&logits, &[0, 1, 2, 3], &[0; 4], objective)?;
                let g = flat(&gradient)?;
                for b in 0..4 {
                    let z = &z[5 * b..5 * b + 5];
                    let loss = z.iter().map(|z| z.exp()).sum::<f64>().ln() - z[class];
                    assert!((values[b] - loss).abs() < 10.0 * tolerance);
                    for (i, j) in (0..25).map(|k| (k / 5, k % 5)) {
                        fisher[25 * b + 5 * i + j] += g[5 * b + i] * g[5 * b + j] / 5.0;
                    }
                }
            }
            for b in 0..4 {
                let e: Vec<f64> = z[5 * b..5 * b + 5].iter().map(|z| z.exp()).collect();
                let p = |i: usize| e[i] / e.iter().sum::<f64>();
                for (i, j) in (0..25).map(|k| (k / 5, k % 5)) {
                    let want = if i == j { p(i) } else { 0.0 } - p(i) * p(j);
                    assert!((fisher[25 * b + 5 * i + j] - want).abs() < tolerance, "[{i}, {j}]");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn margins_and_losses_of_a_classifier() -> Result<(), Error> {
        let logits = Tensor::new(&[[1.0f64, 2.0, 0.0]], &Device::Cpu)?;
        let run = |m| classification_loss(&logits, &[1], &[0], Objective::Measurement(m, Reduction::Mean));
        let (margin, gradient) = run(Measurement::Margin)?;
        let (e, one) = (1f64.exp(), 1.0);
        assert!((margin[0] - (2.0 - (e + one).ln())).abs() < 1e-15);
        for (found, want) in flat(&gradient)?.iter().zip([e / (e + one), -1.0, one / (e + one)]) {
            assert!((found - want).abs() < 1e-15);
        }
        let (loss, gradient) = run(Measurement::Loss)?;
        let (log_probability, same) = run(Measurement::LogProbability)?;
        assert_eq!(loss[0], -log_probability[0]);
        assert_eq!(flat(&gradient)?, flat(&same)?);
        // d p = p d log p
        let (probability, slopes) = run(Measurement::Probability)?;
        assert!((probability[0] - (-loss[0]).exp()).abs() < 1e-15);
        for (found, want) in flat(&slopes)?.iter().zip(flat(&gradient)?) {
            assert!((found - probability[0] * want).abs() < 1e-15);
        }
        Ok(())
    }

    /// Draws recorded in the golden data (`rng.categorical`, `rng.regression`).
    #[test]
    fn random_targets_are_the_golden_ones() -> Result<(), Error> {
        let draw = LabelDraw { seed: 11, stream: 0, draw: 0 };
        let z = [0.727f64, -0.399, 0.368, 2.698, 0.07, -0.903];
        // position 0 of examples 0 to 3; the other positions belong to sequences (see `head`)
        let labels = [3usize, 3, 3, 3];
        for dtype in [DType::F32, DType::F64] {
            let logits = Tensor::new(&z, &Device::Cpu)?.unsqueeze(0)?.repeat((4, 1))?.to_dtype(dtype)?;
            let (_, gradient) = classification_loss(&logits, &[0; 4], &[0, 1, 2, 3], Objective::SampledLoss(draw))?;
            for (row, label) in flat(&gradient)?.chunks(6).zip(labels) {
                assert_eq!(row.iter().position(|g| *g < 0.0), Some(label));
            }
            let outputs = Tensor::new(&[[-0.056f64, -0.836]], &Device::Cpu)?.to_dtype(dtype)?;
            for (a, want) in [
                (0.5, [-0.7076644315480823, -0.3970881572590326]),
                (1.0, [-1.0007886367043448, -0.5615674574534644]),
                (0.25, [-0.5003943183521724, -0.2807837287267322]),
            ] {
                let (values, gradient) =
                    regression_loss(&outputs, &outputs, &[4], SquaredError { a }, Objective::SampledLoss(draw))?;
                let tolerance = if dtype == DType::F64 { 1e-12 } else { 1e-7 };
                for (found, want) in flat(&gradient)?.iter().zip(want) {
                    assert!((found - want).abs() < tolerance);
                }
                // s = 2a (y - t), so the loss a Σ (y - t)² is Σ s² / 4a
                let loss: f64 = want.iter().map(|s| s * s / (4.0 * a)).sum();
                assert!((values[0] - loss).abs() < 1e-12);
            }
        }
        Ok(())
    }

    /// The definitions of torch's loss, log-probabilities and log-odds, by central differences.
    #[test]
    fn several_labels_have_the_binary_cross_entropy_of_torch() -> Result<(), Error> {
        let (z, y) = ([0.3f64, -2.0, 4.0, 0.0, -0.7, 1.1], [1.0f32, 0.0, 0.0, 0.25, 1.0, 1.0]);
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let run = |z: &[f64], objective| {
            multi_label_loss(&Tensor::from_slice(z, (2, 3), &Device::Cpu)?, &y, 3, &[7, 8], objective)
        };
        let entropy = |z: f64, y: f64| -y * sigmoid(z).ln() - (1.0 - y) * sigmoid(-z).ln();
        let measured = |m, r| Objective::Measurement(m, r);
        type Term<'a> = &'a dyn Fn(f64, f64) -> f64;
        let cases: [(Objective, f64, Term<'_>); 5] = [
            (Objective::TrainingLoss, 1.0, &|z, y| entropy(z, y) / 3.0),
            (measured(Measurement::Loss, Reduction::Sum), 1.0, &|z, y| entropy(z, y) / 3.0),
            (measured(Measurement::LogProbability, Reduction::Sum), -1.0, &|z, y| -entropy(z, y)),
            (measured(Measurement::Probability, Reduction::Sum), -1.0, &|z, y| sigmoid((2.0 * y - 1.0) * z)),
            (measured(Measurement::Margin, Reduction::Mean), -1.0, &|z, y| (2.0 * y - 1.0) * z / 3.0),
        ];
        for (objective, sign, term) in cases {
            let (values, gradient) = run(&z, objective)?;
            let want = |z: &[f64], b: usize| -> f64 { (3 * b..3 * b + 3).map(|k| term(z[k], f64::from(y[k]))).sum() };
            for (b, value) in values.iter().enumerate() {
                assert!((value - want(&z, b)).abs() < 1e-14, "{objective:?}");
            }
            for (k, found) in flat(&gradient)?.into_iter().enumerate() {
                let moved = |h: f64| {
                    let mut z = z;
                    z[k] += h;
                    want(&z, k / 3)
                };
                let difference = sign * (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((found - difference).abs() < 1e-10, "{objective:?} [{k}]: {found} {difference}");
            }
        }
        let prediction = run(&z, measured(Measurement::Prediction, Reduction::Sum)).unwrap_err().to_string();
        assert!(prediction.ends_with("is not defined for a classifier of several labels"), "{prediction}");
        Ok(())
    }

    /// The mean over many drawn losses of the squared gradient is the Hessian of the loss.
    #[test]
    fn drawn_labels_give_the_hessian_of_the_loss() -> Result<(), Error> {
        const DRAWS: u32 = 20_000;
        let z = [0.3f64, -2.0, 4.0];
        let logits = Tensor::from_slice(&z, (1, 3), &Device::Cpu)?;
        let mut squares = [0.0; 3];
        for draw in 0..DRAWS {
            let objective = Objective::SampledLoss(LabelDraw { seed: 3, stream: 0, draw });
            let (_, gradient) = multi_label_loss(&logits, &[0.0; 3], 3, &[5], objective)?;
            squares.iter_mut().zip(flat(&gradient)?).for_each(|(sum, g)| *sum += g * g / f64::from(DRAWS));
        }
        for (found, z) in squares.iter().zip(z) {
            let p = 1.0 / (1.0 + (-z).exp());
            let want = p * (1.0 - p) / 3.0;
            // three standard errors of 20 000 draws of the most skewed label are a tenth
            assert!((found / want - 1.0).abs() < 0.15, "{found} {want}");
        }
        Ok(())
    }

    #[test]
    fn squared_errors_and_predictions() -> Result<(), Error> {
        let outputs = Tensor::new(&[[1.0f64, -2.0], [0.5, 0.0]], &Device::Cpu)?;
        let targets = Tensor::new(&[[0.0f64, 1.0], [0.5, -4.0]], &Device::Cpu)?;
        let run = |objective| regression_loss(&outputs, &targets, &[0, 1], SquaredError { a: 0.5 }, objective);
        let (values, gradient) = run(Objective::TrainingLoss)?;
        assert_eq!((values, flat(&gradient)?), (vec![5.0, 8.0], vec![1.0, -3.0, 0.0, 4.0]));
        let (values, gradient) = run(Objective::Measurement(Measurement::Loss, Reduction::Mean))?;
        assert_eq!((values, flat(&gradient)?), (vec![2.5, 4.0], vec![0.5, -1.5, 0.0, 2.0]));
        let (values, gradient) = run(Objective::Measurement(Measurement::Prediction, Reduction::Sum))?;
        assert_eq!((values, flat(&gradient)?), (vec![-1.0, 0.5], vec![-1.0; 4]));
        let error = run(Objective::Measurement(Measurement::Margin, Reduction::Sum)).unwrap_err();
        assert_eq!(error.to_string(), "the measurement `margin` is not defined for a regression");
        Ok(())
    }
}
