//! What became of the conversations of a file, for the plan.

use std::path::PathBuf;

use super::date::ChatDate;
use super::options::LossOn;

/// What became of the conversations of a file, for the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ChatReport {
    /// Rows that were conversations.
    pub conversations: usize,
    /// Rows that were conversations with a prompt and a completion.
    pub prompted: usize,
    /// The template's file.
    pub template: PathBuf,
    /// The first digits of the BLAKE3 hash of the template's text.
    pub hash: String,
    /// Which tokens were chosen as targets; none: by what each row is.
    pub loss_on: Option<LossOn>,
    /// Rows whose assistant's turns were found by rendering the turns before them, since the template has no marks.
    pub by_prefixes: usize,
    /// The family of the template, if TRL takes a template of training of its own for it where the loss is on the
    /// assistant's turns: `trl/chat_templates/FAMILY_training.jinja`.
    pub replaced_in_training: Option<&'static str>,
    /// Rows whose rendered prompt is not how the whole begins, so that targets begin where the two part.
    pub parted: usize,
    /// Rows whose turns are `from` a `human` or a `gpt`, which were read as `user` and `assistant`.
    pub renamed: usize,
    /// The day that the template was told, if it asked and nobody chose one.
    pub today: Option<ChatDate>,
}
