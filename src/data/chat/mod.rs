//! Conversations: rows of messages, rendered with the chat template of the model's folder, tokenized, and masked.
//!
//! A row has `messages` (or `conversations`, or `chosen`), or a `prompt` and a `completion` that are lists of messages.
//! [`conversation`] takes them out of the row, [`template`] renders them as transformers does, and [`mask`] says which
//! tokens are targets, as TRL's trainer does.

mod conversation;
mod date;
mod generation;
mod mask;
pub(super) mod options;
pub(super) mod problem;
mod python;
pub(super) mod report;
mod template;
mod template_file;
#[cfg(test)]
mod tests;
mod training_templates;

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value};

pub use self::date::ChatDate;
use self::mask::Found;
pub use self::options::{ChatOptions, LossOn};
pub use self::problem::ChatProblem;
pub use self::report::ChatReport;
use self::template::Template;
use super::document::Document;
use super::encoder::Encoder;
use super::excerpt::ExcerptOf;
use super::line_problem::LineProblem;
use super::tokenizer::Tokenizer;

/// The chat template of a file's examples with what is counted while they are read, from several threads.
#[derive(Debug)]
pub(super) struct Chat {
    template: Result<Template, ChatProblem>,
    options: ChatOptions,
    conversations: AtomicUsize,
    prompted: AtomicUsize,
    by_prefixes: AtomicUsize,
    parted: AtomicUsize,
    renamed: AtomicUsize,
}

impl Chat {
    /// The template that is given, or that of the tokenizer's folder. That there is none, or that it is broken, is a
    /// problem of the first conversation: other rows need none.
    pub(super) fn new(options: ChatOptions, tokenizer: Option<&Tokenizer>) -> Self {
        let counter = AtomicUsize::default;
        Self {
            template: Template::find(&options, tokenizer),
            options,
            conversations: counter(),
            prompted: counter(),
            by_prefixes: counter(),
            parted: counter(),
            renamed: counter(),
        }
    }

    /// Which tokens were chosen as targets.
    pub(super) fn loss_on(&self) -> Option<LossOn> {
        self.options.loss_on
    }

    /// The document of a row that is a conversation; `None` of any other row, from which nothing is taken but that
    /// `chosen` text becomes the `completion` of a `prompt`.
    pub(super) fn document(
        &self,
        id: Option<&String>,
        fields: &mut Map<String, Value>,
        encoder: &Encoder<'_>,
    ) -> Result<Option<Document>, LineProblem> {
        let Some(conversation) = conversation::take(fields)? else { return Ok(None) };
        encoder.check_conversation(conversation.field)?;
        let template = self.template.as_ref().map_err(Clone::clone)?;
        let excerpt = conversation.excerpt();
        let (tokens, labels, found) = mask::tokens_and_labels(&conversation, template, encoder, &self.options)?;
        let count = |counter: &AtomicUsize, yes: bool| _ = counter.fetch_add(usize::from(yes), Ordering::Relaxed);
        let Found { by_prefixes, parted } = found;
        count(&self.conversations, true);
        count(&self.prompted, conversation.prompt > 0);
        count(&self.by_prefixes, by_prefixes);
        count(&self.parted, parted);
        count(&self.renamed, conversation.renamed);
        let source = ExcerptOf::prompted(&excerpt.0, &excerpt.1);
        Ok(Some(Document {
            id: id.cloned(),
            metadata: std::mem::take(fields),
            source,
            tokens,
            labels,
            target: None,
            split: None,
            types: vec![],
            rejected: None,
        }))
    }

    /// What became of the conversations; none if there were none.
    pub(super) fn report(&self) -> Option<ChatReport> {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let template = self.template.as_ref().ok()?;
        (count(&self.conversations) > 0).then(|| ChatReport {
            conversations: count(&self.conversations),
            prompted: count(&self.prompted),
            template: template.file().to_owned(),
            hash: template.hash(),
            loss_on: self.options.loss_on,
            by_prefixes: count(&self.by_prefixes),
            replaced_in_training: template.replaced_in_training(),
            parted: count(&self.parted),
            renamed: count(&self.renamed),
            today: template.day_told().filter(|_| self.options.date.is_none()),
        })
    }
}
