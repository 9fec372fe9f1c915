//! How conversations are read.

use std::path::PathBuf;

use super::date::ChatDate;

/// How conversations are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatOptions {
    /// File of the chat template; none: that of the tokenizer's folder, then that of the model's.
    pub template: Option<PathBuf>,
    /// Where the trainer took its template from, for a message that there is none.
    pub recorded: Option<String>,
    /// The text of a chat template in place of a file's, with its name in messages.
    pub text: Option<(&'static str, &'static str)>,
    /// Which tokens are targets; none: all of `messages`, and completions where there are prompts.
    pub loss_on: Option<LossOn>,
    /// Whether what the assistant says in a prompt is a target too, where its words are. TRL does so with
    /// `assistant_only_loss=True` and `completion_only_loss=False`.
    pub assistant_in_prompts: bool,
    /// The day that a template is told if it asks for today's; none: today.
    pub date: Option<ChatDate>,
}

/// Which tokens of a conversation are targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossOn {
    /// Every token, of prompts too.
    All,
    /// What the assistant says.
    Assistant,
    /// The last turn, which has to be the assistant's.
    Last,
}

impl LossOn {
    /// As the flag names it.
    pub(in crate::data) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Assistant => "assistant",
            Self::Last => "last",
        }
    }
}
