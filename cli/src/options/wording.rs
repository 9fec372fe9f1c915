//! Options by the names that the person used: the library speaks of a job's keys.

use ascribe::job::JobError;

/// How a person gave the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wording {
    /// As flags.
    Flags,
    /// As keys of a job file.
    Keys,
}

/// Keys of a job that flags set under the same name.
const KEYS: &[&str] = &[
    "adam",
    "aggregate",
    "batch_tokens",
    "curvature",
    "damping",
    "eigen_block_width",
    "factors",
    "form",
    "group_by",
    "label_draws",
    "layer_sets",
    "measure",
    "memory",
    "normalize",
    "query_rank",
    "scale",
    "seed",
    "store_scores",
    "time_scale",
    "top",
    "train_size",
    "with",
];

impl Wording {
    /// `text` of an error about options, with flags in the place of keys where flags were given.
    pub(crate) fn apply(self, text: String, error: &anyhow::Error) -> String {
        match error.downcast_ref::<JobError>() {
            Some(JobError::Options { .. }) if self == Self::Flags => in_flags(&text),
            _ => text,
        }
    }
}

/// Words in backticks that are a key, alone or with a value, as the flag.
fn in_flags(text: &str) -> String {
    let flag = |quoted: &str| {
        let (key, value) = quoted.split_once(" = ").map_or((quoted, None), |(key, value)| (key, Some(value)));
        let name = match key {
            "layer_sets" => "layer-set".to_owned(),
            "scale" => "score-scale".to_owned(),
            _ => key.replace('_', "-"),
        };
        let known = KEYS.contains(&key);
        known.then(|| value.map_or_else(|| format!("--{name}"), |value| format!("--{name} {value}")))
    };
    let parts = text.split('`').enumerate().map(|(index, part)| match index % 2 {
        1 => flag(part).unwrap_or_else(|| part.to_owned()),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_flags_and_nothing_else_does() {
        assert_eq!(in_flags("leave `scale` out"), "leave `--score-scale` out");
        assert_eq!(in_flags("`normalize = cosine` takes one damping"), "`--normalize cosine` takes one damping");
        let kept = "give a file as `data.train`, `--train` as a flag; the stage `tuned`";
        assert_eq!(in_flags(kept), kept);
        let error = anyhow::Error::new(JobError::Options { problem: "`top` is 0".into(), hint: None });
        assert_eq!(Wording::Flags.apply(error.to_string(), &error), "`--top` is 0");
        assert_eq!(Wording::Keys.apply(error.to_string(), &error), "`top` is 0");
        let other = anyhow::anyhow!("`top`");
        assert_eq!(Wording::Flags.apply(other.to_string(), &other), "`top`");
    }
}
