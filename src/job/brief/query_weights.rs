//! What each query counts in the sum or mean of all.

use serde_json::Value;

use crate::attribution::Aggregate;
use crate::data::Dataset;
use crate::job::brief::Brief;
use crate::job::error::JobError;
use crate::job::option_text::option_text;
use crate::job::request::{AggregateRequest, Job};

/// The weights that the queries' field gives them: as they are for a sum, divided by their sum for a mean. Empty if the
/// job names no field.
///
/// # Errors
/// [`JobError::Options`] for a query without a finite number in the field, and for weights of a mean that do not add up to
/// a number above 0.
pub(in crate::job) fn of(job: &Job, queries: Option<&Dataset>) -> Result<Vec<f64>, JobError> {
    let (Some(field), Some(queries)) = (&job.method.query_weights, queries) else { return Ok(vec![]) };
    let weight = |q: usize| {
        let value = queries.metadata(q).remove(field);
        value.as_ref().and_then(Value::as_f64).filter(|weight| weight.is_finite()).ok_or_else(|| {
            let found = value.map_or_else(|| "no such field".to_owned(), |value| format!("no number there: {value}"));
            JobError::Options {
                problem: option_text!("<query_weights = {}>: query `{}` has {}", field, queries.id(q), found),
                hint: Some("give every query a number in that field, or leave <query_weights> out".into()),
            }
        })
    };
    let mut weights = (0..queries.len()).map(weight).collect::<Result<Vec<f64>, _>>()?;
    if job.method.aggregate == AggregateRequest::Mean {
        let sum: f64 = weights.iter().sum();
        if !(sum.is_finite() && sum > 0.0) {
            return Err(JobError::Options {
                problem: option_text!("<query_weights = {}>: the weights of a mean add up to {}", field, sum),
                hint: Some("give weights whose sum is above 0, or take <aggregate = sum>".into()),
            });
        }
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    Ok(weights)
}

impl Brief {
    /// Whether queries are scored one by one, and what each counts if they are not.
    pub(in crate::job) fn aggregate(&self) -> Aggregate<'_> {
        match self.query_weights.is_empty() {
            true => self.job.method.aggregate.into(),
            false => Aggregate::Weighted(&self.query_weights),
        }
    }

    /// The one measurement that is made of those of all queries.
    pub(in crate::job) fn aggregated(&self, values: &[f64]) -> f64 {
        match self.aggregate() {
            Aggregate::Mean => values.iter().sum::<f64>() / values.len() as f64,
            Aggregate::Each | Aggregate::Sum => values.iter().sum(),
            Aggregate::Weighted(weights) => weights.iter().zip(values).map(|(weight, value)| weight * value).sum(),
        }
    }
}
