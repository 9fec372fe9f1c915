//! Scores of groups: what all training examples with one value of a field do together.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::job::error::JobError;
use crate::job::training::Training;

/// A group of training examples in a query's ranking.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedGroup {
    /// The field's value; empty for examples that do not have the field.
    pub group: String,
    /// Examples in it.
    pub examples: usize,
    /// Sum of their scores for the query.
    ///
    /// # Source
    /// `docs/method.md`, Score: effects add to first order, the less so the larger the group's share of the data is.
    pub score: f64,
}

/// Which group each column of the score matrix belongs to.
#[derive(Debug)]
pub(in crate::job) struct Groups {
    /// Values of the field in order, with the number of examples.
    names: Vec<(String, usize)>,
    /// Group of each column.
    of: Vec<usize>,
}

impl Groups {
    /// By the values of a field of the training examples.
    ///
    /// # Errors
    /// [`JobError::Options`] if no example has the field.
    pub(in crate::job) fn by(training: &Training, field: &str) -> Result<Self, JobError> {
        let columns = &training.columns;
        let mut values = Vec::with_capacity(columns.len());
        let mut others = std::collections::BTreeSet::new();
        let mut present = false;
        for column in 0..columns.len() {
            let (stage, m) = columns.example(column);
            let mut metadata = training.stages[stage].train.metadata(m);
            let value = metadata.remove(field);
            present |= value.is_some();
            others.extend(metadata.into_iter().map(|(name, _)| name));
            values.push(value.map_or_else(String::new, name));
        }
        if !present {
            let others: Vec<String> = others.into_iter().map(|name| format!("`{name}`")).collect();
            let hint = match others.is_empty() {
                true => "give training examples a field beside the ones that hold them, such as \"source\"".to_owned(),
                false => format!("they have {}", others.join(", ")),
            };
            return Err(JobError::Options {
                problem: format!("no training example has a field `{field}`").into(),
                hint: Some(hint.into()),
            });
        }
        let mut counts = BTreeMap::<&str, usize>::new();
        values.iter().for_each(|value| *counts.entry(value).or_default() += 1);
        let numbers: BTreeMap<&str, usize> =
            counts.keys().enumerate().map(|(number, value)| (*value, number)).collect();
        let of = values.iter().map(|value| numbers[value.as_str()]).collect();
        let names = counts.into_iter().map(|(value, count)| (value.to_owned(), count)).collect();
        Ok(Self { names, of })
    }

    /// A query's groups, the most helpful first; equal sums in the order of their names.
    ///
    /// # Shapes
    /// `scores`: one for each column.
    pub(in crate::job) fn ranked(&self, scores: &[f32]) -> Vec<RankedGroup> {
        let mut sums = vec![0.0; self.names.len()];
        for (group, score) in self.of.iter().zip(scores) {
            sums[*group] += f64::from(*score);
        }
        let ranked = |((name, examples), score): (&(String, usize), f64)| RankedGroup {
            group: name.clone(),
            examples: *examples,
            score,
        };
        let mut groups: Vec<RankedGroup> = self.names.iter().zip(sums).map(ranked).collect();
        groups.sort_by(|a, b| b.score.total_cmp(&a.score));
        groups
    }
}

/// A value as the name of a group: text as it is, everything else as JSON.
fn name(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_ranked_by_the_sums_of_their_scores() {
        let names = vec![("a".to_owned(), 2), ("b".to_owned(), 1), ("c".to_owned(), 1)];
        let groups = Groups { names, of: vec![0, 1, 0, 2] };
        let found = groups.ranked(&[1.5, -1.0, 0.25, 7.0]);
        let found: Vec<(&str, usize, f64)> = found.iter().map(|g| (g.group.as_str(), g.examples, g.score)).collect();
        assert_eq!(found, [("c", 1, 7.0), ("a", 2, 1.75), ("b", 1, -1.0)]);
    }

    #[test]
    fn names_of_groups_are_plain_text() {
        assert_eq!(name(Value::from("manual.pdf")), "manual.pdf");
        assert_eq!(name(Value::from(3)), "3");
        assert_eq!(name(Value::from(vec!["x"])), "[\"x\"]");
    }
}
