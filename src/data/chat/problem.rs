//! What is refused of a conversation or of a chat template, and what to do about it.

use std::path::PathBuf;

use crate::Hint;

/// Why a conversation cannot be turned into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatProblem {
    /// Messages, and nothing that renders them.
    #[error("a conversation needs a chat template, and {} has none", list(looked))]
    NoTemplate {
        /// Folders that were looked at.
        looked: Vec<PathBuf>,
        /// Where the trainer took its template from, if it recorded that.
        recorded: Option<String>,
    },
    /// A file with a template that cannot be used.
    #[error("the chat template {} cannot be used: {message}", file.display())]
    BrokenTemplate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The template fails at this conversation.
    #[error("the chat template {} fails: {message}", file.display())]
    Failed {
        /// The file.
        file: PathBuf,
        /// What was said, with the template's line.
        message: String,
    },
    /// The template itself refuses this conversation (`raise_exception`).
    #[error("the chat template {} refuses the conversation: {message}", file.display())]
    Raised {
        /// The file.
        file: PathBuf,
        /// What it says.
        message: String,
    },
    /// A template that was stopped.
    #[error("the chat template {} does not end: it was stopped after {steps} steps", file.display())]
    Endless {
        /// The file.
        file: PathBuf,
        /// Steps that a template may take.
        steps: u64,
    },
    /// A template that writes too much.
    #[error("the chat template {} writes more than {limit} bytes", file.display())]
    TooMuch {
        /// The file.
        file: PathBuf,
        /// The most bytes of a conversation.
        limit: usize,
    },
    /// A conversation without a turn.
    #[error("`{field}` is empty, expected at least one message")]
    Empty {
        /// `messages`, or another field.
        field: &'static str,
    },
    /// A message without a part that it needs.
    #[error("`{field}[{index}]` has no `{lacks}`")]
    Lacks {
        /// `messages`, or another field.
        field: &'static str,
        /// Place of the message.
        index: usize,
        /// `role` or `content`.
        lacks: &'static str,
        /// The keys that it has.
        keys: Vec<String>,
    },
    /// A part of a message that is no text.
    #[error("`{field}[{index}].content[{part}]` is of type \"{kind}\", and only texts are read")]
    NotText {
        /// `messages`, or another field.
        field: &'static str,
        /// Place of the message.
        index: usize,
        /// Place of the part.
        part: usize,
        /// `image`, or whatever it is.
        kind: String,
    },
    /// `tools` that are no list of descriptions.
    #[error("`tools` is {found}, expected an array of objects, or such an array as JSON text")]
    Tools {
        /// What it is.
        found: String,
    },
    /// Loss on the assistant's turns, of which there is none.
    #[error("no turn of the assistant has a token, and only such turns have loss")]
    NoAssistant {
        /// The roles that there are.
        roles: Vec<String>,
    },
    /// Loss on the last turn, which is another's.
    #[error("the last turn is that of `{role}`, and only a last turn of the assistant has loss")]
    LastTurn {
        /// Whose it is.
        role: String,
    },
    /// A template without marks that renders earlier turns in another way when there are later ones.
    #[error(
        "where the assistant's turn {turn} begins or ends cannot be told: the chat template has no `{{% generation %}}` \
         marks, and the turns up to it, rendered alone, are not how the whole begins"
    )]
    NoPrefix {
        /// Place of the turn, counted from 0.
        turn: usize,
        /// The family of the template, if TRL trains with one of its own in its place.
        family: Option<&'static str>,
    },
    /// Loss on turns, of a row that has none.
    #[error("the row has `{field}`, and no turns for a loss on `{loss_on}`")]
    NoTurns {
        /// `text`, or another field.
        field: &'static str,
        /// `assistant` or `last`.
        loss_on: &'static str,
    },
    /// `--add-bos` or `--add-eos`, where the template writes these tokens.
    #[error("the chat template writes the special tokens of a conversation, so `--add-{which}` cannot apply")]
    Added {
        /// `bos` or `eos`.
        which: &'static str,
    },
}

impl Hint for ChatProblem {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoTemplate { recorded: Some(place), .. } => format!(
                "training took its template from `{}` (`chat_template_path`): give that with `--chat-template FILE`, or of a \
                 model's folder the file in it",
                escaped(place)
            ),
            Self::NoTemplate { recorded: None, .. } => {
                "give the template that training had with `--chat-template FILE`".into()
            }
            Self::BrokenTemplate { .. } => "give another with `--chat-template FILE`".into(),
            Self::Failed { .. } => {
                "is it the template that training had? another is given with `--chat-template FILE`".into()
            }
            Self::Raised { .. } => {
                "training with this template would have failed too: correct the row, or give the template that training \
                 had with `--chat-template FILE`"
                    .into()
            }
            Self::Endless { .. } | Self::TooMuch { .. } => "give another with `--chat-template FILE`".into(),
            Self::Empty { .. } => "remove the row".into(),
            Self::Lacks { lacks: "role", keys, .. } if keys.iter().any(|key| key == "from") => {
                "a message has `role` and `content`, or `from` and `value`".into()
            }
            Self::Lacks { keys, .. } if keys.is_empty() => "the message is empty".into(),
            Self::Lacks { keys, .. } => format!("the message has `{}`", keys.join("`, `")),
            Self::NotText { .. } => "remove the row, or the part".into(),
            Self::Tools { .. } => "write each tool as the JSON schema that the template was given".into(),
            Self::NoAssistant { roles } => {
                format!("the turns are those of `{}`; `--loss-on all` has loss on every token", roles.join("`, `"))
            }
            Self::LastTurn { .. } => "remove the row, or choose `--loss-on all` or `--loss-on assistant`".into(),
            Self::NoPrefix { family: Some(family), .. } => format!(
                "TRL trains with a template of its own in place of this one: `--chat-template FILE`, in its package \
                 `trl/chat_templates/{family}_training.jinja`; other trainers with the loss on the last turn, `--loss-on last`"
            ),
            Self::NoPrefix { family: None, .. } => {
                "give the template with `{% generation %}` and `{% endgeneration %}` around what the assistant says \
                 (`--chat-template FILE`), or choose `--loss-on last`"
                    .into()
            }
            Self::NoTurns { .. } => "leave `--loss-on` out, or write the row as `messages`".into(),
            Self::Added { which } => {
                format!("leave `--add-{which}` out, or restrict it to the other file (`train`, `queries`)")
            }
        })
    }
}

fn list(paths: &[PathBuf]) -> String {
    match paths {
        [] => "no folder".into(),
        _ => paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" or "),
    }
}

/// What a template says, on one line, with whatever could steer a terminal escaped.
pub(super) fn escaped(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut shown = String::new();
    for c in text.chars().take(LONGEST) {
        match c {
            '\'' | '"' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
