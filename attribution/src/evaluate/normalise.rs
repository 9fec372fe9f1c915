//! Scores divided by how much examples move a model at all. Applied to finished scores, never mixed into them. A job
//! can rank by [`relatif_loss`]; the others are for callers of the library.
//!
//! # Source
//! `docs/method.md`, Score; RelatIF: Barshan et al. 2020.

use super::EvaluateError;
use super::predictions::disagree;

/// `score / √(self(q) self(m))`: within [−1, 1] for one curvature and one set of parameters.
///
/// # Shapes
/// `scores`: `[Q, N]`, row-major; `queries`: `[Q]`; `examples`: `[N]`.
/// # Units
/// Self-influence in the score's own unit (`1/N` included). The result has none.
/// # Errors
/// [`EvaluateError::Disagree`] for lengths that do not fit, [`EvaluateError::SelfInfluence`] for one
/// that is negative or not finite. Zero self-influence gives the score 0.
pub fn cosine(scores: &mut [f32], queries: &[f32], examples: &[f32]) -> Result<(), EvaluateError> {
    let of_queries = inverse("self-influence of a query", queries, f64::sqrt)?;
    let of_examples = inverse("self-influence of a training example", examples, f64::sqrt)?;
    scale(scores, &of_queries, &of_examples)
}

/// `score / √self(m)`, RelatIF under a constraint on the loss: how much of an example's whole effect
/// goes to this query. Keeps examples with huge gradients from leading every ranking.
///
/// # Shapes
/// `scores`: `[Q, N]`, row-major; `examples`: `[N]` self-influences.
/// # Errors
/// As [`cosine`].
pub fn relatif_loss(scores: &mut [f32], queries: usize, examples: &[f32]) -> Result<(), EvaluateError> {
    let of_examples = inverse("self-influence of a training example", examples, f64::sqrt)?;
    scale(scores, &vec![1.0; queries], &of_examples)
}

/// `score / ‖(F+λ)⁻¹ G_m‖`, RelatIF under a constraint on the parameters.
///
/// # Shapes
/// `scores`: `[Q, N]`, row-major; `norms`: `[N]`, over all layers.
/// # Errors
/// As [`cosine`].
pub fn relatif_theta(scores: &mut [f32], queries: usize, norms: &[f32]) -> Result<(), EvaluateError> {
    let of_examples = inverse("parameter change of a training example", norms, |norm| norm)?;
    scale(scores, &vec![1.0; queries], &of_examples)
}

fn inverse(what: &'static str, values: &[f32], root: impl Fn(f64) -> f64) -> Result<Vec<f64>, EvaluateError> {
    let one = |(item, &value): (usize, &f32)| {
        if !value.is_finite() || value < 0.0 {
            return Err(EvaluateError::SelfInfluence { what, item, value });
        }
        Ok(if value == 0.0 { 0.0 } else { 1.0 / root(f64::from(value)) })
    };
    values.iter().enumerate().map(one).collect()
}

fn scale(scores: &mut [f32], queries: &[f64], examples: &[f64]) -> Result<(), EvaluateError> {
    let expected = queries.len().saturating_mul(examples.len());
    if scores.len() != expected {
        return Err(disagree("values", "the score matrix", scores.len(), "queries x training examples", expected));
    }
    if examples.is_empty() {
        return Ok(());
    }
    for (row, of_query) in scores.chunks_exact_mut(examples.len()).zip(queries) {
        for (score, of_example) in row.iter_mut().zip(examples) {
            let factor = of_query * of_example;
            // Without self-influence there is nothing to learn from: 0, whatever stood there.
            *score = if factor == 0.0 { 0.0 } else { (f64::from(*score) * factor) as f32 };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_of_products_is_the_cosine_of_vectors() {
        let (queries, examples) = ([[3.0f32, 4.0], [1.0, -2.0]], [[5.0f32, 12.0], [0.0, 0.0], [-2.0, 4.0]]);
        let dot = |a: &[f32; 2], b: &[f32; 2]| a[0] * b[0] + a[1] * b[1];
        let mut scores: Vec<f32> = queries.iter().flat_map(|q| examples.map(|m| dot(q, &m))).collect();
        let raw = scores.clone();
        let self_q = queries.map(|q| dot(&q, &q));
        let self_m = examples.map(|m| dot(&m, &m));
        cosine(&mut scores, &self_q, &self_m).expect("fitting sizes");
        assert!((scores[0] - 63.0 / 65.0).abs() < 1e-7, "{scores:?}"); // one rounding to f32
        assert!((scores[5] + 1.0).abs() < 1e-7, "opposite vectors: {scores:?}");
        assert_eq!((scores[1], scores[4]), (0.0, 0.0));

        let mut loss = raw.clone();
        relatif_loss(&mut loss, 2, &self_m).expect("fitting sizes");
        assert!((loss[0] - 63.0 / 13.0).abs() < 1e-6 && loss[1] == 0.0, "{loss:?}");
        let mut theta = raw.clone();
        relatif_theta(&mut theta, 2, &[4.0, 0.0, 0.5]).expect("fitting sizes");
        assert_eq!(theta, [raw[0] / 4.0, 0.0, raw[2] / 0.5, raw[3] / 4.0, 0.0, raw[5] / 0.5]);
    }

    #[test]
    fn what_is_no_squared_norm_is_refused() {
        for value in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(relatif_loss(&mut [1.0, 2.0], 1, &[1.0, value]).is_err());
            assert!(cosine(&mut [1.0, 2.0], &[value], &[1.0, 1.0]).is_err());
        }
        assert!(relatif_loss(&mut [1.0, 2.0], 1, &[1.0]).is_err());
        let mut scores = [f32::NAN, 2.0];
        relatif_loss(&mut scores, 1, &[0.0, 4.0]).expect("fitting sizes");
        assert_eq!(scores, [0.0, 1.0]);
    }
}
