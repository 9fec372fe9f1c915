//! Columns of the scores: which examples of which stages are one.

use std::collections::BTreeMap;

use crate::attribution::store::{LongArray, LongTexts};
use crate::job::training::stage::Stage;

/// An example, by its place among those that its stage scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::job) struct StageExample {
    /// The stage.
    pub stage: usize,
    /// The example's place there.
    pub example: usize,
}

/// Columns of the scores: every example once, whichever stages have it.
///
/// Two examples of different stages are one if they have the same id and the same contents.
#[derive(Debug)]
pub(in crate::job) struct Columns {
    /// For each stage, the column of each of its examples.
    of_stage: Vec<LongArray<usize>>,
    /// For each column the first stage that has it, and its place there.
    first: LongArray<[usize; 2]>,
    ids: LongTexts,
}

impl Columns {
    pub(super) fn of(stages: &[Stage]) -> Self {
        let columns = Self::found(stages);
        columns.of_stage.iter().for_each(LongArray::forget);
        columns.first.forget();
        columns.ids.forget();
        columns
    }

    fn found(stages: &[Stage]) -> Self {
        let mut columns = Self { of_stage: vec![], first: LongArray::new(), ids: LongTexts::new() };
        if let [stage] = stages {
            // within a stage every example is itself: ids are unique there
            columns.of_stage.push((0..stage.train.len()).collect());
            columns.first.extend((0..stage.train.len()).map(|m| [0, m]));
            (0..stage.train.len()).for_each(|m| columns.ids.push(stage.train.id(m)));
            return columns;
        }
        let mut known: BTreeMap<(&str, u64), usize> = BTreeMap::new();
        for (s, stage) in stages.iter().enumerate() {
            let column = |m: usize| {
                let fresh = columns.first.len();
                let column = *known.entry((stage.train.id(m), stage.train.key(m))).or_insert(fresh);
                if column == fresh {
                    columns.first.push([s, m]);
                }
                column
            };
            columns.of_stage.push((0..stage.train.len()).map(column).collect());
        }
        let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
        for &[s, m] in &*columns.first {
            *uses.entry(stages[s].train.id(m)).or_default() += 1;
        }
        for &[s, m] in &*columns.first {
            let id = stages[s].train.id(m);
            // line numbers of two files, say
            match uses[id] {
                1 => columns.ids.push(id),
                _ => columns.ids.push(&format!("{}/{id}", stages[s].name)),
            }
        }
        columns
    }

    /// Number of columns.
    pub(in crate::job) fn len(&self) -> usize {
        self.first.len()
    }

    /// The column of an example of a stage.
    pub(in crate::job) fn column(&self, StageExample { stage, example }: StageExample) -> usize {
        self.of_stage[stage].passed(example..example + 1);
        self.of_stage[stage][example]
    }

    /// The id of a column.
    pub(in crate::job) fn id(&self, column: usize) -> &str {
        self.ids.get(column)
    }

    /// A stage and a place there for each column.
    pub(in crate::job) fn examples(&self) -> &[[usize; 2]] {
        &self.first
    }

    /// A stage and a place there where the column's example stands.
    pub(in crate::job) fn example(&self, column: usize) -> (usize, usize) {
        self.first.passed(column..column + 1);
        self.first[column].into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::data::{self, DataOptions, ModelLimits, Role};

    fn stage(name: &str, lines: &[&str]) -> Stage {
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().expect("a file");
        file.write_all(lines.join("\n").as_bytes()).expect("writable");
        let limits = ModelLimits { vocabulary: 9, max_positions: Some(9), decoder: None, masked: None };
        let (train, _) =
            data::read_tokens(file.path(), Role::Train, None, limits, DataOptions::default()).expect("examples");
        Stage::new(name.into(), train)
    }

    #[test]
    fn an_example_of_two_stages_is_one_column() {
        let first = stage("a", &[r#"{"id":"x","input_ids":[1,2]}"#, r#"{"id":"y","input_ids":[3,4]}"#]);
        let second = stage("b", &[r#"{"id":"y","input_ids":[3,4]}"#, r#"{"id":"x","input_ids":[5,6]}"#]);
        let columns = Columns::of(&[first, second]);
        assert_eq!(columns.len(), 3);
        let column = |[stage, example]: [usize; 2]| columns.column(StageExample { stage, example });
        assert_eq!([[0, 1], [1, 0], [1, 1]].map(column), [1, 1, 2]);
        // the same id, another example
        assert_eq!([columns.id(0), columns.id(1), columns.id(2)], ["a/x", "y", "b/x"]);
        assert_eq!(columns.example(2), (1, 1));
    }
}
