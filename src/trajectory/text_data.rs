//! What a job read of the texts of a stage, for comparison with what training did to them.

use crate::data::LeftOut;

/// What a job did to the texts of a stage, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextData {
    /// Examples that were read, blocks if they were packed.
    pub examples: usize,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Tokens that are targets, of all examples.
    pub targets: usize,
    /// Tokens that are no targets for being the padding.
    pub padding: usize,
    /// Tokens of the longest example.
    pub longest: usize,
    /// Examples that were cut.
    pub cut: usize,
    /// `--max-length`.
    pub max_length: Option<usize>,
    /// Examples that were divided into pieces of `max_length`, each an example of its own.
    pub divided: usize,
    /// Whether those kept their last tokens.
    pub keep_end: bool,
    /// `--pack`.
    pub pack: Option<usize>,
    /// Rows after which packing begins anew (`--pack N:ROWS`).
    pub pack_rows: Option<usize>,
    /// Shares of the rows, each packed by itself (`--pack N:ROWS:PROCESSES`).
    pub pack_processes: Option<usize>,
    /// Whether what fills no block is a shorter one (`--pack N:keep`).
    pub pack_keeps_rest: bool,
    /// Texts that were joined, or examples if none were.
    pub documents: usize,
    /// Tokens of them that are in no block.
    pub unpacked: usize,
    /// Examples, or blocks, that were left out because nothing is predicted in them. Training had them all the same.
    pub without_target: LeftOut,
    /// Examples of which a cut left no target, and which were left out. Training may have had them.
    pub cut_away: LeftOut,
    /// Whether the job puts a begin token in front of each.
    pub adds_begin: bool,
    /// Whether the job puts an end token behind each.
    pub adds_end: bool,
    /// Whether that is read and no target.
    pub ends_are_input: bool,
    /// Whether answers alone are targets, as TRL's `DataCollatorForCompletionOnlyLM` chooses them.
    pub by_collator: bool,
    /// Whether all are conversations, to which nothing but their template adds an end token.
    pub conversations: bool,
    /// Whether the job names the chat template.
    pub names_template: bool,
    /// Whether the assistant's turns were found without marks of the chat template.
    pub by_prefixes: bool,
    /// The family of that template, if TRL trains the assistant's turns with one of its own in its place.
    pub replaced_in_training: Option<&'static str>,
    /// Whether these are all examples of training: no `--train-size` says otherwise.
    pub is_whole: bool,
}

impl TextData {
    /// Input tokens that training may have read in an epoch: with those that were left out here, and where it is not
    /// known whether it had them, with and without.
    pub(super) fn tokens_of_epoch(&self) -> Vec<usize> {
        let all = self.tokens + self.without_target.tokens;
        let mut possible = vec![all, all + self.cut_away.tokens];
        possible.dedup();
        possible
    }

    /// Whether some tokens that could be targets are none. The first of an example never is.
    pub(super) fn is_masked(&self) -> bool {
        self.targets + self.padding < self.tokens.saturating_sub(self.examples)
    }
}
