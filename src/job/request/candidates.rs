//! Which training examples are scored, where not all of them are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::attribution::evaluate::Weighting;

/// Which training examples are scored exactly: those that a filter chooses, or those that a file names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CandidatesRequest {
    /// For each query the examples whose words have most to do with it, at most so many.
    Words(WordFilter, usize),
    /// The examples whose ids a file lists, one a line.
    File(PathBuf),
}

/// How a filter weighs words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordFilter {
    /// BM25.
    Bm25,
    /// The cosine of TF-IDF.
    TfIdf,
}

impl WordFilter {
    const ALL: [Self; 2] = [Self::Bm25, Self::TfIdf];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bm25 => "bm25",
            Self::TfIdf => "tfidf",
        }
    }
}

impl From<WordFilter> for Weighting {
    fn from(filter: WordFilter) -> Self {
        match filter {
            WordFilter::Bm25 => Self::Bm25,
            WordFilter::TfIdf => Self::TfIdf,
        }
    }
}

impl std::str::FromStr for CandidatesRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
        let Some(filter) = WordFilter::ALL.into_iter().find(|filter| filter.name() == name) else {
            return match text.is_empty() {
                true => Err("write `bm25:1000`, `tfidf:1000` or a file of ids".to_owned()),
                false => Ok(Self::File(text.into())),
            };
        };
        let count = count.and_then(|count| count.parse().ok()).filter(|&count: &usize| count > 0);
        let how_many = || format!("`{text}` says not how many examples of each query: write `{name}:1000`");
        Ok(Self::Words(filter, count.ok_or_else(how_many)?))
    }
}

impl TryFrom<String> for CandidatesRequest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CandidatesRequest> for String {
    fn from(request: CandidatesRequest) -> Self {
        request.to_string()
    }
}

impl std::fmt::Display for CandidatesRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words(filter, count) => write!(f, "{}:{count}", filter.name()),
            Self::File(file) => write!(f, "{}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_told_from_files() {
        let words = CandidatesRequest::Words;
        for (text, want) in [
            ("bm25:10", words(WordFilter::Bm25, 10)),
            ("tfidf:1", words(WordFilter::TfIdf, 1)),
            ("ids.txt", CandidatesRequest::File("ids.txt".into())),
            ("./bm25:10", CandidatesRequest::File("./bm25:10".into())),
        ] {
            assert_eq!(text.parse(), Ok(want.clone()));
            assert_eq!(want.to_string(), text);
        }
        for bad in ["bm25", "bm25:", "bm25:0", "tfidf:-1", "bm25:ten", ""] {
            assert!(bad.parse::<CandidatesRequest>().is_err(), "{bad}");
        }
    }
}
