//! Input tokens that a training log counted, and those of data beside them.

use crate::trajectory::text_data::TextData;

/// Tokens that a log has counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoggedTokens {
    /// (updates done, epochs done, input tokens by then), ascending.
    pub entries: Vec<(usize, f64, f64)>,
    /// Whether tokens of padding are among them, so that the count is a bound.
    pub with_padding: bool,
}

/// The tokens of data beside those that the log counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenComparison {
    /// Updates done where the two differ, else where they were compared last.
    pub step: usize,
    /// Epochs done at it.
    pub epoch: f64,
    /// Tokens that the log counted by then.
    pub counted: f64,
    /// Tokens of an epoch by this count, at the end of one.
    pub per_epoch: Option<f64>,
    /// Tokens of the data.
    pub tokens: usize,
    /// Whether the count has tokens of padding, and so is a bound.
    pub with_padding: bool,
    /// Whether the data can have been counted so.
    pub agrees: bool,
}

impl std::fmt::Display for TokenComparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, epoch, counted, per_epoch, tokens, with_padding, agrees } = self;
        let per_epoch = per_epoch.map_or(String::new(), |tokens| format!(", {tokens} an epoch"));
        let padding = if *with_padding { " with those of padding" } else { "" };
        let but = if *agrees { "and" } else { "but" };
        write!(
            f,
            "at step {step}, after {epoch} epochs, the log has counted {counted} tokens{padding}{per_epoch}, {but} an epoch of the training data has {tokens}"
        )
    }
}

impl TokenComparison {
    /// What the data would have to be for the log's count, as flags, where one token of each example makes the
    /// difference: `None` where it does not.
    pub fn remedy(&self, data: &TextData) -> Option<String> {
        let (counted, n) = (self.per_epoch.filter(|_| !self.with_padding)?, data.examples as f64);
        let missing = counted - self.tokens as f64;
        if n == 0.0 {
            return None;
        }
        let each = |what: &str, flag: &str| {
            Some(format!("{what} each of the {} examples they would be {counted}, as counted ({flag})", data.examples))
        };
        match (missing / n, data.adds_end) {
            // blocks of several texts have several end tokens, of which nothing is known
            _ if data.pack.is_some() => None,
            (-1.0, true) if data.adds_begin => {
                each("with one special token less in", "leave `--add-bos` or `--add-eos` out")
            }
            (-1.0, false) if data.adds_begin => each("without the begin token in front of", "leave `--add-bos` out"),
            (1.0, false) => each("with an end token behind", "`--add-eos train`, or `train:input` if it was no target"),
            (1.0, true) => each("with a begin token in front of", "`--add-bos train`"),
            (2.0, false) => each("with a begin token and an end token around", "`--add-bos train --add-eos train`"),
            (-1.0, true) => each("without the end token behind", "leave `--add-eos` out"),
            (-1.0, false) => {
                each("with one token less in", "`--special-tokens none`, or leave out `--add-bos`, if two begin it")
            }
            (-2.0, _) => {
                each("with two tokens less in", "`--special-tokens none`, or leave out `--add-bos` and `--add-eos`")
            }
            _ => None,
        }
    }
}
