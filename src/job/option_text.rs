//! Sentences about a job's options, in which each key is known as one, so that who gave flags reads flags.

use std::fmt::{self, Display};

/// A sentence about a job's options. Its keys are pieces of their own; what stands in it of a job, such as a path or a
/// stage's name, is never taken for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionText(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Words(String),
    Key { key: String, value: Option<String> },
}

impl OptionText {
    /// A sentence of this program, in which `<damping>` and `<normalize = cosine>` are keys. Each `{}` is one of the
    /// values, in a key too; whatever a value holds is taken as it is.
    pub fn new(template: &'static str, values: &[&dyn Display]) -> Self {
        let mut values = values.iter();
        let mut filled = |text: &str| {
            let mut parts = text.split("{}");
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |text, part| {
                let value = values.next().map(ToString::to_string).unwrap_or_default();
                text + &value + part
            })
        };
        let mut pieces = vec![];
        let mut rest = template;
        while let Some((before, (inside, after))) =
            rest.split_once('<').and_then(|(before, rest)| Some((before, rest.split_once('>')?)))
        {
            pieces.push(Piece::Words(filled(before)));
            let (key, value) = match inside.split_once(" = ") {
                Some((key, value)) => (key, Some(value)),
                None => (inside, None),
            };
            let key = filled(key);
            pieces.push(Piece::Key { key, value: value.map(&mut filled) });
            rest = after;
        }
        pieces.push(Piece::Words(filled(rest)));
        Self(pieces)
    }

    /// The sentence with each key, and its value if one is named, as `say` has it; where that knows none, as a job file has
    /// it.
    pub fn say(&self, say: impl Fn(&str, Option<&str>) -> Option<String>) -> String {
        let of_piece = |piece: &Piece| match piece {
            Piece::Words(words) => words.clone(),
            Piece::Key { key, value } => {
                let said = say(key, value.as_deref()).unwrap_or_else(|| match value {
                    Some(value) => format!("{key} = {value}"),
                    None => key.clone(),
                });
                format!("`{said}`")
            }
        };
        self.0.iter().map(of_piece).collect()
    }
}

impl Display for OptionText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.say(|_, _| None))
    }
}

impl From<&'static str> for OptionText {
    fn from(template: &'static str) -> Self {
        Self::new(template, &[])
    }
}

/// A text that was made elsewhere has no keys.
impl From<String> for OptionText {
    fn from(words: String) -> Self {
        Self(vec![Piece::Words(words)])
    }
}

/// An [`OptionText`] of a template and its values, as [`OptionText::new`] takes them.
macro_rules! option_text {
    ($template:literal $(, $value:expr)* $(,)?) => {
        $crate::job::option_text::OptionText::new($template, &[$(&$value),*])
    };
}

pub(in crate::job) use option_text;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_said_as_they_were_given_and_values_as_they_are() {
        let flag = |key: &str, value: Option<&str>| {
            (key != "with")
                .then(|| format!("--{}{}", key.replace('_', "-"), value.map_or("".into(), |v| format!(" {v}"))))
        };
        let text = option_text!(
            "<{}> of `{}`: leave <store_scores> or <solve = {}> out of <with>",
            "seed",
            "<top>{}`seed`",
            3
        );
        assert_eq!(text.to_string(), "`seed` of `<top>{}`seed``: leave `store_scores` or `solve = 3` out of `with`");
        assert_eq!(text.say(flag), "`--seed` of `<top>{}`seed``: leave `--store-scores` or `--solve 3` out of `with`");
        assert_eq!(OptionText::from("a < b".to_owned()).say(flag), "a < b");
        assert_eq!(OptionText::from("<seed>").say(flag), "`--seed`");
    }
}
