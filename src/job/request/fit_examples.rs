//! On how many training examples a curvature is taken: all, a number, a share, or as many as its widest matrix needs.

use serde::{Deserialize, Serialize};

/// Training examples that the curvature of a stage is taken on, at equal distances in the file.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum FitExamples {
    /// Every example.
    #[default]
    All,
    /// This many, at least 1.
    Count(usize),
    /// This share of all, above 0 and below 1.
    Share(f64),
    /// As many as have 50 positions for each row of the widest covariance, or all if that is more.
    Auto,
}

/// Positions for each row of the widest covariance that [`FitExamples::Auto`] takes.
///
/// A covariance of `n` rows is estimated from its positions. `docs/method.md`, "Curvature from a part of the data", has
/// the measurements that the number was chosen by.
pub(in crate::job) const POSITIONS_PER_ROW: usize = 50;

impl FitExamples {
    /// How many of `examples` with `positions` positions together are taken, where the widest covariance has `widest`
    /// rows.
    pub(in crate::job) fn count(self, examples: usize, positions: usize, widest: usize) -> usize {
        let share = |share: f64| ((examples as f64 * share).ceil() as usize).clamp(1, examples);
        match self {
            Self::All => examples,
            Self::Count(count) => count,
            Self::Share(of_all) => share(of_all),
            Self::Auto => share((widest * POSITIONS_PER_ROW) as f64 / positions.max(1) as f64),
        }
    }
}

impl From<FitExamples> for String {
    fn from(request: FitExamples) -> Self {
        match request {
            FitExamples::All => "all".into(),
            FitExamples::Auto => "auto".into(),
            FitExamples::Count(count) => count.to_string(),
            FitExamples::Share(share) => share.to_string(),
        }
    }
}

impl TryFrom<String> for FitExamples {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for FitExamples {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = |text: &str| text.parse().ok().filter(|&share: &f64| share > 0.0 && share < 1.0).map(Self::Share);
        let found = match (text, text.parse::<usize>()) {
            ("all", _) => Some(Self::All),
            ("auto", _) => Some(Self::Auto),
            (_, Ok(count)) => (count > 0).then_some(Self::Count(count)),
            (text, Err(_)) => share(text),
        };
        found.ok_or_else(|| {
            format!("`{text}` says not how many examples: write `all`, `auto`, a number such as `1000`, or a share such as `0.125`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_shares_and_words_are_read_and_written() {
        for (text, expected) in [
            ("all", FitExamples::All),
            ("auto", FitExamples::Auto),
            ("1000", FitExamples::Count(1000)),
            ("0.125", FitExamples::Share(0.125)),
        ] {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(String::from(expected), text);
        }
        for bad in ["", "0", "1.5", "0.0", "-1", "nan", "some", "1e400"] {
            assert!(bad.parse::<FitExamples>().is_err(), "{bad}");
        }
    }

    #[test]
    fn auto_takes_fifty_positions_for_each_row_of_the_widest_covariance() {
        // 2,016 documents of 100 tokens; 513 rows need 25,650 positions, which are 257 documents
        assert_eq!(FitExamples::Auto.count(2016, 201_600, 513), 257);
        // one position an example: all of them are too few
        assert_eq!(FitExamples::Auto.count(6000, 6000, 785), 6000);
        assert_eq!(FitExamples::Share(0.125).count(17, 99, 5), 3);
        assert_eq!(FitExamples::Count(18).count(17, 99, 5), 18);
    }
}
