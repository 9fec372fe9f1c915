//! Options by the names that the person used: the library speaks of a job's keys.

use ascribe::job::{JobError, OptionText};
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
const RENAMED: [(&str, &str); 3] =
    [("layer_sets", "layer-set"), ("split_layers", "layer-sets"), ("scale", "score-scale")];

impl Wording {
    /// An error's message, with flags in the place of keys where flags were given.
    pub(crate) fn message(self, error: &anyhow::Error) -> String {
        match error.downcast_ref::<JobError>() {
            Some(JobError::Options { problem, .. }) => self.say(problem),
            _ => error.to_string(),
        }
    }

    /// A hint that an error has as one about options, with flags in the place of keys where flags were given.
    pub(crate) fn hint(self, error: &anyhow::Error) -> Option<String> {
        match error.downcast_ref::<JobError>() {
            Some(JobError::Options { hint, .. }) => hint.as_ref().map(|hint| self.say(hint)),
            _ => None,
        }
    }

    fn say(self, text: &OptionText) -> String {
        match self {
            Self::Flags => text.say(flag),
            Self::Keys => text.to_string(),
        }
    }
}

/// The flag that sets a key, alone or with a value, if there is one.
fn flag(key: &str, value: Option<&str>) -> Option<String> {
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
        let flags = |text: OptionText| Wording::Flags.say(&text);
        assert_eq!(flags("leave <scale> out".into()), "leave `--score-scale` out");
        assert_eq!(flags("<normalize = cosine> takes one damping".into()), "`--normalize cosine` takes one damping");
        assert_eq!(flags("leave <dtype> or <layer_sets> out".into()), "leave `--dtype` or `--layer-set` out");
        let kept = "give a file as `data.train`, `--train` as a flag; the stages `tuned`, and the stage `train`";
        assert_eq!(flags(kept.into()), kept);
        let stage = OptionText::new("the stage `{}` has no <train_size>", &[&"seed"]);
        assert_eq!(flags(stage), "the stage `seed` has no `--train-size`");
        let hint = Some("leave <top> out".into());
        let error = anyhow::Error::new(JobError::Options { problem: "<top> is 0".into(), hint });
        assert_eq!(Wording::Flags.message(&error), "`--top` is 0");
        assert_eq!(Wording::Flags.hint(&error).as_deref(), Some("leave `--top` out"));
        assert_eq!(Wording::Keys.message(&error), "`top` is 0");
        assert_eq!(Wording::Keys.hint(&error).as_deref(), Some("leave `top` out"));
        let other = anyhow::anyhow!("`top`");
        assert_eq!((Wording::Flags.message(&other), Wording::Flags.hint(&other)), ("`top`".into(), None));
    }

    /// A flag that is renamed or gone shows here.
    #[test]
    fn renamed_keys_have_flags_and_are_none() {
        let flags = flags_of_jobs();
        for (key, name) in RENAMED {
            assert!(flags.iter().any(|flag| flag == name), "--{name}");
            // a flag of that name may be another key's, as `--layer-sets` is that of `split_layers`
            let same = key.replace('_', "-");
            let is_taken = RENAMED.iter().any(|(_, name)| *name == same);
            assert!(!flags.contains(&same) || is_taken, "--{key}");
        }
    }

    /// What a job file can hold of what results depend on, flags can say.
    #[test]
    fn keys_of_a_job_have_flags() {
        let job = toml::Value::try_from(Job::new("m", "t", "o")).unwrap();
        let keys = |table: &str| job[table].as_table().unwrap().keys().filter(|key| *key != "path");
        for key in ["model", "data", "method", "resources", "output"].into_iter().flat_map(keys) {
            assert!(flag(key, None).is_some(), "`{key}`");
        }
    }
}
