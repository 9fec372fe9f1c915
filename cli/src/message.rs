//! Errors as a person reads them: what went wrong, why, and what to do; and how the process ends after one.

use std::error::Error;
use std::io;

use ascribe::Hint;
use ascribe::attribution::evaluate::EvaluateError;
use ascribe::attribution::store::StoreError;
use ascribe::data::DataError;
use ascribe::exact::ExactError;
use ascribe::job::JobError;
use ascribe::model::LoadError;
use ascribe::trajectory::ReadError;
use console::style;
use serde_json::json;

use crate::failure::Problem;
use crate::options::{ProgressMode, Wording};
use crate::status::Status;
use crate::terminal;

/// Who reads the messages on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageStyle {
    /// A person.
    Text,
    /// A program that takes JSON lines.
    Json,
}

impl From<ProgressMode> for MessageStyle {
    fn from(mode: ProgressMode) -> Self {
        if mode == ProgressMode::Json { Self::Json } else { Self::Text }
    }
}

/// The hint of an error that is of this kind.
fn hint_of<E: Hint + Error + 'static>(error: &(dyn Error + 'static)) -> Option<String> {
    error.downcast_ref::<E>()?.hint()
}

/// [`hint_of`] every kind of error that reaches a person.
const HINTS: [fn(&(dyn Error + 'static)) -> Option<String>; 8] = [
    hint_of::<JobError>,
    hint_of::<LoadError>,
    hint_of::<DataError>,
    hint_of::<StoreError>,
    hint_of::<EvaluateError>,
    hint_of::<ExactError>,
    hint_of::<ReadError>,
    hint_of::<Problem>,
];

/// What to do about an error, if whoever made it knows.
fn hint(error: &anyhow::Error) -> Option<String> {
    if exit_status(error) == Status::Interrupted {
        return Some("what was finished is kept; run the same command again to go on".to_owned());
    }
    error.chain().find_map(|cause| HINTS.iter().find_map(|of_kind| of_kind(cause)))
}

/// Prints an error, its causes and its hint on stderr.
pub(crate) fn report(error: &anyhow::Error, message_style: MessageStyle, wording: Wording) {
    let hint = wording.hint(error).or_else(|| hint(error));
    let message = wording.message(error);
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let mut text = String::new();
    match message_style {
        MessageStyle::Json => {
            let line = json!({"event": "error", "message": message, "causes": causes, "hint": hint});
            text.push_str(&format!("{}\n", terminal::json(&line.to_string())));
        }
        MessageStyle::Text => {
            let label = |name: &str| style(format!("{name}:")).bold().for_stderr();
            text.push_str(&format!("{} {}\n", label("error").red(), terminal::message(&message)));
            for cause in causes {
                text.push_str(&format!("{} {}\n", label("caused by"), terminal::message(&cause)));
            }
            if let Some(hint) = hint {
                text.push_str(&format!("{} {}\n", label("hint").cyan(), terminal::message(&hint)));
            }
        }
    }
    terminal::say_prepared(&text);
}

/// How the command ends after an error.
pub(crate) fn exit_status(error: &anyhow::Error) -> Status {
    let interrupted = error.downcast_ref::<JobError>().is_some_and(JobError::is_interruption)
        || matches!(error.downcast_ref(), Some(ExactError::Interrupted));
    if interrupted { Status::Interrupted } else { Status::Error }
}

/// Whether whoever read our stdout has stopped reading: `ascribe rank --out run | head`.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
