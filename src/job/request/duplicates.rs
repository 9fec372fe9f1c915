//! Which training examples are listed as copies of one another.

use serde::{Deserialize, Serialize};

/// What counts as a copy of a training example.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DuplicatesRequest {
    /// Nothing: every example is listed by itself.
    #[default]
    Off,
    /// An example with the same tokens and targets, or with the same inputs and target.
    Exact,
    /// A Jaccard similarity of at least this number between the sets of token trigrams, from 0.5 to below 1.
    Near(f64),
}

impl DuplicatesRequest {
    /// The similarity from which texts are near copies where none is given.
    pub const SIMILARITY: f64 = 0.8;

    pub(in crate::job) fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

impl std::str::FromStr for DuplicatesRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => return Ok(Self::Off),
            "exact" => return Ok(Self::Exact),
            "near" => return Ok(Self::Near(Self::SIMILARITY)),
            _ => {}
        }
        let Some(similarity) = text.strip_prefix("near:") else {
            return Err(format!("`{text}` is none of `off`, `exact`, `near` and `near:0.8`"));
        };
        match similarity.parse::<f64>() {
            Ok(similarity) if (0.5..1.0).contains(&similarity) => Ok(Self::Near(similarity)),
            _ => Err(format!("`{similarity}` is no similarity from 0.5 to below 1: write `near:0.8`, or `exact`")),
        }
    }
}

impl TryFrom<String> for DuplicatesRequest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DuplicatesRequest> for String {
    fn from(request: DuplicatesRequest) -> Self {
        request.to_string()
    }
}

impl std::fmt::Display for DuplicatesRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Exact => f.write_str("exact"),
            Self::Near(similarity) => write!(f, "near:{similarity}"),
        }
    }
}

/// By which score copies are ranked as one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateScores {
    /// By that of the strongest of them.
    #[default]
    Each,
    /// By the sum of all.
    Sum,
}

impl DuplicateScores {
    pub(in crate::job) fn is_each(&self) -> bool {
        *self == Self::Each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_read_as_they_are_written() {
        for (text, want) in [
            ("off", DuplicatesRequest::Off),
            ("exact", DuplicatesRequest::Exact),
            ("near:0.8", DuplicatesRequest::Near(0.8)),
            ("near:0.5", DuplicatesRequest::Near(0.5)),
        ] {
            assert_eq!(text.parse(), Ok(want));
            assert_eq!(want.to_string(), text);
        }
        assert_eq!("near".parse(), Ok(DuplicatesRequest::Near(0.8)));
        for bad in ["near:", "near:1", "near:0.49", "near:NaN", "near:inf", "exact:0.8", "fuzzy", ""] {
            assert!(bad.parse::<DuplicatesRequest>().is_err(), "{bad}");
        }
    }
}
