//! Sets of tracked layers, over each of which every answer is summed by itself, too.

use crate::curvature::LayerSpec;
use crate::job::error::JobError;
use crate::job::request::Job;
use crate::model::{LayerSelection, abridged};

/// Some of the tracked layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::job) struct LayerSet {
    /// Its name, in files and reports.
    pub name: String,
    /// Which of the tracked layers, in their order.
    pub layers: Vec<usize>,
}

impl LayerSet {
    /// The sets of a job, in the order of their names.
    ///
    /// # Errors
    /// A pattern that is no glob, or that matches no tracked layer.
    pub(in crate::job) fn all(job: &Job, layers: &[LayerSpec]) -> Result<Vec<Self>, JobError> {
        let of_set = |(name, patterns): (&String, &crate::job::request::Several<String>)| {
            let layers = LayerSelection::new(&patterns.0, &[])?.among(layers).map_err(|pattern| {
                let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
                JobError::Options {
                    problem: format!("the pattern `{pattern}` of the layer set `{name}` matches no tracked layer")
                        .into(),
                    hint: Some(format!("the tracked layers are {}", abridged(&names)).into()),
                }
            })?;
            Ok(Self { name: name.clone(), layers })
        };
        job.output.layer_sets.iter().map(of_set).collect()
    }

    /// The name of an answer over a set's layers; the first answer's own name is in no file's either.
    pub(in crate::job) fn answer(set: &str, of: Option<&str>) -> String {
        of.map_or_else(|| format!("layers-{set}"), |of| format!("{of}.layers-{set}"))
    }
}

/// Refuses names that are no part of a file's name, and sets of nothing.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    let options = |problem: String, hint: &'static str| Err(JobError::options(problem, hint));
    let sets = &job.output.layer_sets;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    for (index, (name, patterns)) in sets.iter().enumerate() {
        if name.is_empty() || !name.chars().all(is_plain) {
            let hint = "name sets with letters, digits, `-` and `_`: the names are parts of files' names";
            return options(format!("the layer set `{name}` has no plain name"), hint);
        }
        if let Some(other) = sets.keys().take(index).find(|other| other.eq_ignore_ascii_case(name)) {
            // some file systems would write one over the other
            return options(
                format!("the layer sets `{other}` and `{name}` differ in case alone"),
                "rename one: the names are parts of files' names",
            );
        }
        if patterns.0.is_empty() {
            return options(
                format!("the layer set `{name}` has no pattern"),
                "give at least one glob, or leave it out",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::request::Several;

    fn layers() -> Vec<LayerSpec> {
        let layer = |name: &str| LayerSpec { name: name.into(), outputs: 2, inputs: 3, bias: false, input_group: 0 };
        ["h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp"].map(layer).to_vec()
    }

    fn job(sets: &[(&str, &[&str])]) -> Job {
        let mut job = Job::new("m", "t", "r");
        let own = |patterns: &[&str]| Several(patterns.iter().map(|&pattern| pattern.to_owned()).collect());
        job.output.layer_sets = sets.iter().map(|(name, patterns)| ((*name).to_owned(), own(patterns))).collect();
        job
    }

    #[test]
    fn sets_are_the_layers_that_any_of_their_globs_matches() -> Result<(), JobError> {
        let job = job(&[("late", &["h.1.*"]), ("both", &["h.0.attn", "*.attn", "h.1.mlp"])]);
        check(&job)?;
        let found: Vec<_> = LayerSet::all(&job, &layers())?.into_iter().map(|set| (set.name, set.layers)).collect();
        assert_eq!(found, [("both".to_owned(), vec![0, 2, 3]), ("late".to_owned(), vec![2, 3])]);
        Ok(())
    }

    #[test]
    fn what_matches_nothing_or_has_no_plain_name_is_refused() {
        let refused = |sets: &[(&str, &[&str])]| {
            let job = job(sets);
            let error = check(&job).err().or_else(|| LayerSet::all(&job, &layers()).err()).expect("refused");
            (error.to_string(), error.hint().unwrap_or_default())
        };
        let (problem, hint) = refused(&[("late", &["h.1.*", "h.2.*"])]);
        assert_eq!(problem, "the pattern `h.2.*` of the layer set `late` matches no tracked layer");
        assert_eq!(hint, "the tracked layers are `h.0.attn`, `h.0.mlp`, `h.1.attn`, `h.1.mlp`");
        for name in ["", "a b", "a/b", "..", "größe"] {
            assert!(refused(&[(name, &["*"])]).0.contains("no plain name"), "{name}");
        }
        assert!(refused(&[("Late", &["*"]), ("late", &["*"])]).0.contains("differ in case alone"));
        assert!(refused(&[("late", &[])]).0.contains("no pattern"));
        assert!(refused(&[("late", &["h.[1"])]).0.contains("h.[1"));
    }
}
