//! What a Trainer recorded of the texts that it read, beside a checkpoint: what it did to them, how many tokens it
//! counted, and what else changed its loss. Methods that need no learning rates need this all the same.

use std::path::PathBuf;

use crate::trajectory::error::ReadError;
use crate::trajectory::text_data::TextData;
use crate::trajectory::text_treatment::TextTreatment;
use crate::trajectory::token_counts::{LoggedTokens, TokenComparison};
use crate::trajectory::warning::Warning;

/// What is recorded of the texts of a stage of training.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRecord {
    /// The run's folder, or the checkpoint's.
    pub source: PathBuf,
    /// The file that has the log.
    pub log: Option<PathBuf>,
    /// What TRL did to the texts, if it trained.
    pub texts: Option<TextTreatment>,
    /// Whether an incomplete last batch of an epoch was dropped; `None` where no epochs are recorded.
    pub drops_last: Option<bool>,
    /// Where the log counts input tokens.
    pub tokens: LoggedTokens,
    /// Processes of training, if recorded.
    pub processes: Option<usize>,
    /// Options that changed training and are not part of the loss that scores explain.
    pub training_only: Vec<Warning>,
}

impl TextRecord {
    /// The tokens of data beside the log's; `None` where the log does not tell.
    ///
    /// TRL counts input tokens from the start of training, or from where it was resumed. At the end of an epoch the
    /// count is a multiple of the tokens of all examples; within one it lies between two multiples.
    pub fn compare_tokens(&self, data: &TextData, processes: usize) -> Option<TokenComparison> {
        // with a last batch that is dropped or filled up, an epoch has other tokens than the examples
        if self.drops_last != Some(false) || processes != 1 || !data.is_whole {
            return None;
        }
        // where training was resumed the count began again
        let all = &self.tokens.entries;
        let whole = all.windows(2).position(|pair| pair[1].2 < pair[0].2);
        let logged = &all[..whole.map_or(all.len(), |last| last + 1)];
        // the end of an epoch says most plainly what an epoch has
        let (ends, others): (Vec<&(usize, f64, f64)>, Vec<_>) =
            logged.iter().partition(|(_, epoch, _)| epoch.fract() == 0.0);
        let with_padding = self.tokens.with_padding;
        let examples = data.examples + data.without_target.examples + data.cut_away.examples;
        let compare = |tokens: usize| {
            // each example is filled up to the longest of its batch at the most
            let most_of_epoch = if with_padding { data.longest * examples } else { tokens };
            let mut found = None;
            for &&(step, epoch, counted) in ends.iter().chain(&others) {
                let (least, most) = (epoch.floor() * tokens as f64, epoch.ceil() * most_of_epoch as f64);
                let agrees = (least..=most).contains(&counted);
                let per_epoch = (epoch.fract() == 0.0 && epoch > 0.0).then(|| counted / epoch);
                let comparison = TokenComparison { step, epoch, counted, per_epoch, tokens, with_padding, agrees };
                if !agrees {
                    return Some(comparison);
                }
                found = found.or(Some(comparison));
            }
            found
        };
        let possible: Vec<TokenComparison> = data.tokens_of_epoch().into_iter().map_while(compare).collect();
        possible.iter().find(|found| found.agrees).or(possible.first()).copied()
    }

    /// `Err` if the tokens of the data cannot be those that the log counted.
    ///
    /// # Errors
    /// [`ReadError::TokensDisagree`].
    pub fn check_tokens(&self, data: &TextData, processes: usize) -> Result<(), ReadError> {
        let found = self.compare_tokens(data, processes).filter(|found| !found.agrees);
        found.map_or(Ok(()), |found| {
            let file = self.log.clone().unwrap_or_else(|| self.source.clone());
            Err(ReadError::TokensDisagree { file, found, remedy: found.remedy(data) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::LeftOut;

    fn record(tokens: LoggedTokens) -> TextRecord {
        TextRecord {
            source: "run".into(),
            log: None,
            texts: None,
            drops_last: Some(false),
            tokens,
            processes: Some(1),
            training_only: vec![],
        }
    }

    fn data(tokens: usize) -> TextData {
        TextData {
            examples: 28,
            tokens,
            targets: tokens.saturating_sub(28),
            longest: 50,
            is_whole: true,
            ..TextData::default()
        }
    }

    #[test]
    fn one_token_of_each_example_is_named() {
        let entries = vec![(4, 1.0, 814.0), (6, 1.5, 1200.0), (8, 2.0, 1628.0)];
        let record = record(LoggedTokens { entries, with_padding: false });
        let remedy = |data: &TextData| {
            let found = record.compare_tokens(data, 1).unwrap();
            (found.agrees, found.remedy(data).unwrap_or_default())
        };
        assert_eq!(remedy(&data(814)), (true, String::new()));
        for (data, flag) in [
            (data(786), "(`--add-eos train`, or `train:input` if it was no target)"),
            (TextData { adds_end: true, ..data(786) }, "(`--add-bos train`)"),
            (data(758), "(`--add-bos train --add-eos train`)"),
            (TextData { adds_end: true, ..data(842) }, "(leave `--add-eos` out)"),
            (data(842), "if two begin it)"),
            (TextData { adds_begin: true, ..data(842) }, "(leave `--add-bos` out)"),
            (TextData { adds_begin: true, adds_end: true, ..data(842) }, "(leave `--add-bos` or `--add-eos` out)"),
            (data(870), "and `--add-eos`)"),
        ] {
            let (agrees, remedy) = remedy(&data);
            assert!(
                !agrees && remedy.contains("28 examples they would be 814, as counted") && remedy.ends_with(flag),
                "{remedy}"
            );
        }
        assert_eq!(remedy(&data(800)), (false, String::new()));
        // the log does not tell of a part, of several processes, or of batches that were dropped
        assert_eq!(record.compare_tokens(&TextData { is_whole: false, ..data(1) }, 1), None);
        assert_eq!(record.compare_tokens(&data(786), 2), None);
    }

    /// Training read what was left out here for want of a target, and what a cut left without one perhaps.
    #[test]
    fn what_was_left_out_was_counted() {
        let record = record(LoggedTokens { entries: vec![(4, 1.0, 814.0)], with_padding: false });
        let agrees = |data: &TextData| record.compare_tokens(data, 1).unwrap().agrees;
        let left_out = |tokens| LeftOut { examples: 2, tokens };
        assert!(agrees(&TextData { without_target: left_out(28), ..data(786) }));
        assert!(!agrees(&TextData { without_target: left_out(28), ..data(814) }));
        assert!(agrees(&TextData { cut_away: left_out(28), ..data(786) }));
        assert!(agrees(&TextData { cut_away: left_out(28), ..data(814) }));
        assert!(!agrees(&TextData { cut_away: left_out(27), ..data(786) }));
    }

    /// `include_num_input_tokens_seen` counts padding: no fewer than the examples have, no more than all at full length.
    #[test]
    fn a_count_with_padding_is_a_bound() {
        let record = record(LoggedTokens { entries: vec![(4, 1.0, 1000.0)], with_padding: true });
        let agrees = |tokens| record.compare_tokens(&data(tokens), 1).unwrap().agrees;
        assert!(agrees(1000) && agrees(700) && !agrees(1001));
        let short = TextData { longest: 35, ..data(900) };
        assert!(!record.compare_tokens(&short, 1).unwrap().agrees, "28 x 35 = 980");
        assert_eq!(record.compare_tokens(&data(1028), 1).unwrap().remedy(&data(1028)), None);
    }
}
