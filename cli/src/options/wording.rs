//! Options by the names that the person used: the library speaks of a job's keys.

use ascribe::job::JobError;
use clap::{Args, Command};

use super::source::JobOptions;

/// How a person gave the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wording {
    /// The options were given as flags.
    Flags,
    /// The options were given as keys of a job file.
    Keys,
}

/// Keys of a job whose flags have other names.
const RENAMED: [(&str, &str); 2] = [("layer_sets", "layer-set"), ("scale", "score-scale")];

impl Wording {
    /// `text` of an error about options, with flags in the place of keys where flags were given.
    pub(crate) fn apply(self, text: String, error: &anyhow::Error) -> String {
        match error.downcast_ref::<JobError>() {
            Some(JobError::Options { .. }) if self == Self::Flags => in_flags(&text),
            _ => text,
        }
    }
}

/// Words in backticks that are a key, alone or with a value, as the flag; a stage may be called as a key is.
fn in_flags(text: &str) -> String {
    let mut before = "";
    let parts = text.split('`').enumerate().map(|(index, part)| {
        let names_a_stage = std::mem::replace(&mut before, part).ends_with("stage ");
        let flag = if index % 2 == 1 && !names_a_stage { flag(part) } else { None };
        flag.unwrap_or_else(|| part.to_owned())
    });
    parts.collect::<Vec<_>>().join("`")
}

/// The flag that sets a key, alone or with a value, if there is one.
fn flag(quoted: &str) -> Option<String> {
    let (key, value) = quoted.split_once(" = ").map_or((quoted, None), |(key, value)| (key, Some(value)));
    let renamed = RENAMED.iter().find(|(renamed, _)| *renamed == key);
    let name = renamed.map_or_else(|| key.replace('_', "-"), |(_, name)| (*name).to_owned());
    let known = flags_of_jobs().contains(&name);
    known.then(|| value.map_or_else(|| format!("--{name}"), |value| format!("--{name} {value}")))
}

/// Names of the flags that describe a job.
fn flags_of_jobs() -> Vec<String> {
    let command = JobOptions::augment_args(Command::new("job"));
    command.get_arguments().filter_map(|flag| flag.get_long().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use ascribe::job::Job;

    use super::*;

    #[test]
    fn keys_become_flags_and_nothing_else_does() {
        assert_eq!(in_flags("leave `scale` out"), "leave `--score-scale` out");
        assert_eq!(in_flags("`normalize = cosine` takes one damping"), "`--normalize cosine` takes one damping");
        assert_eq!(in_flags("leave `dtype` or `layer_sets` out"), "leave `--dtype` or `--layer-set` out");
        let kept = "give a file as `data.train`, `--train` as a flag; the stages `tuned`, and the stage `train`";
        assert_eq!(in_flags(kept), kept);
        let error = anyhow::Error::new(JobError::Options { problem: "`top` is 0".into(), hint: None });
        assert_eq!(Wording::Flags.apply(error.to_string(), &error), "`--top` is 0");
        assert_eq!(Wording::Keys.apply(error.to_string(), &error), "`top` is 0");
        let other = anyhow::anyhow!("`top`");
        assert_eq!(Wording::Flags.apply(other.to_string(), &other), "`top`");
    }
    /// A flag that is renamed or gone shows here.
    #[test]
    fn renamed_keys_have_flags_and_are_none() {
        let flags = flags_of_jobs();
        for (key, name) in RENAMED {
            assert!(flags.iter().any(|flag| flag == name), "--{name}");
            assert!(!flags.contains(&key.replace('_', "-")), "--{key}");
        }
    }

    /// What a job file can hold of what results depend on, flags can say.
    #[test]
    fn keys_of_a_job_have_flags() {
        let job = toml::Value::try_from(Job::new("m", "t", "o")).unwrap();
        let keys = |table: &str| job[table].as_table().unwrap().keys().filter(|key| *key != "path");
        for key in ["model", "data", "method", "resources", "output"].into_iter().flat_map(keys) {
            assert!(flag(key).is_some(), "`{key}`");
        }
    }
}
