//! Shards: which contiguous range of examples one of several jobs takes.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use ascribe_curvature::Hint;

/// Shard `index` of `count`, counted from 1 and written `2/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard {
    index: u32,
    count: u32,
}

/// Why a shard cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The text is not two whole numbers with a slash between them.
    #[error("`{text}` is not a shard")]
    Format {
        /// The text.
        text: String,
    },
    /// The index is not in `1..=count`.
    #[error("there is no shard {index} of {count}")]
    Range {
        /// The index.
        index: u32,
        /// How many shards there are.
        count: u32,
    },
}

impl Hint for ShardError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Format { .. } => Some("write `i/n`, such as `2/8` for the second of eight".to_owned()),
            Self::Range { count: 0, .. } => Some("there must be at least one shard: `1/1`".to_owned()),
            Self::Range { count, .. } => Some(format!("shards are counted from 1: `1/{count}` to `{count}/{count}`")),
        }
    }
}

impl Shard {
    /// Shard `index` of `count`.
    ///
    /// # Errors
    /// [`ShardError::Range`] unless `1 <= index <= count`.
    pub fn new(index: u32, count: u32) -> Result<Self, ShardError> {
        if index == 0 || index > count {
            return Err(ShardError::Range { index, count });
        }
        Ok(Self { index, count })
    }

    /// Reads `i/n`.
    ///
    /// # Errors
    /// [`ShardError`] if the text has another form or the shard does not exist.
    pub fn parse(text: &str) -> Result<Self, ShardError> {
        // `u32::from_str` would take a sign.
        let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse::<u32>().ok(),
            false => None,
        };
        let pair = text.split_once('/').and_then(|(index, count)| Some((number(index)?, number(count)?)));
        let (index, count) = pair.ok_or_else(|| ShardError::Format { text: text.to_owned() })?;
        Self::new(index, count)
    }

    /// From 1 to [`count`](Self::count).
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many shards there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its examples among `total`: contiguous, and of the same number as any other shard's to within one.
    /// All shards together take each example exactly once, in order. Some take none if there are more shards
    /// than examples.
    pub fn range(&self, total: u64) -> Range<u64> {
        // Below 2^96, and at most `total` after the division.
        let start = |index: u32| (u128::from(total) * u128::from(index) / u128::from(self.count)) as u64;
        start(self.index - 1)..start(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shards_are_read_as_people_write_them() {
        assert_eq!(Shard::parse("2/8"), Shard::new(2, 8));
        assert_eq!(Shard::parse("2/8").map(|s| s.to_string()), Ok("2/8".to_owned()));
        assert_eq!(Shard::parse("0/8"), Err(ShardError::Range { index: 0, count: 8 }));
        assert_eq!(Shard::parse("9/8"), Err(ShardError::Range { index: 9, count: 8 }));
        assert_eq!(Shard::parse("0/0"), Err(ShardError::Range { index: 0, count: 0 }));
        for text in ["", "/", "1", "1/", "/2", "1/2/3", "+1/2", "-1/2", "a/b", " 1/2", "1/4294967296"] {
            assert_eq!(Shard::parse(text), Err(ShardError::Format { text: text.to_owned() }));
        }
        let error = Shard::parse("9/8").unwrap_err();
        assert_eq!(error.to_string(), "there is no shard 9 of 8");
        assert_eq!(error.hint().as_deref(), Some("shards are counted from 1: `1/8` to `8/8`"));
    }

    #[test]
    fn five_examples_in_three_shards() {
        let ranges: Vec<_> = (1..=3).map(|i| Shard::new(i, 3).unwrap().range(5)).collect();
        assert_eq!(ranges, [0..1, 1..3, 3..5]);
    }

    proptest! {
        #[test]
        fn shards_cover_everything_once_and_evenly(total in prop_oneof![0u64..50, any::<u64>()], count in 1u32..40) {
            let mut end = 0;
            for index in 1..=count {
                let range = Shard::new(index, count).unwrap().range(total);
                prop_assert_eq!(range.start, end);
                let size = range.end - range.start;
                prop_assert!(size == total / u64::from(count) || size == total / u64::from(count) + 1);
                end = range.end;
            }
            prop_assert_eq!(end, total);
        }
    }
}
