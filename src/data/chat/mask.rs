//! Tokens of a rendered conversation, and which of them are targets, as TRL's trainer chooses them.

use std::ops::Range;

use super::conversation::Conversation;
use super::options::{ChatOptions, LossOn};
use super::problem::ChatProblem;
use super::template::{Given, Rendered, Template};
use crate::data::encoder::Encoder;
use crate::data::line_problem::LineProblem;

/// What was found while the targets of a row were chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The assistant's turns were found by rendering what is before them.
    pub(super) by_prefixes: bool,
    /// The prompt alone is not how the whole begins.
    pub(super) parted: bool,
}

/// Tokens of a conversation, and the label of each.
type Labelled = (Vec<u32>, Vec<Option<u32>>, Found);

/// Renders a conversation and chooses its targets.
///
/// A prompt is rendered by itself too, with the beginning of an answer, and the completion begins at the first token
/// that the two do not share. What the assistant says is every token that has a character of it.
pub(super) fn tokens_and_labels(
    conversation: &Conversation,
    template: &Template,
    encoder: &Encoder<'_>,
    options: &ChatOptions,
) -> Result<Labelled, LineProblem> {
    let loss_on = options.loss_on;
    let turns = Turns { conversation, template, limit: encoder.text_limit() };
    let whole = turns.render(conversation.messages.len(), false)?;
    let (tokens, places) = encoder.rendered(&whole.text, true, conversation.field)?;
    let mut found = Found::default();
    let mut is_target = vec![true; tokens.len()];
    let last = conversation.messages.len() - 1;
    let prompt = match loss_on {
        Some(LossOn::Assistant) if options.assistant_in_prompts => 0,
        None | Some(LossOn::Assistant) => conversation.prompt,
        Some(LossOn::All) => 0,
        Some(LossOn::Last) if conversation.role(last) != "assistant" => {
            return Err(ChatProblem::LastTurn { role: super::problem::escaped(conversation.role(last)) }.into());
        }
        Some(LossOn::Last) => last,
    };
    if prompt > 0 {
        let rendered = turns.render(prompt, true)?;
        let (before, _) = encoder.rendered(&rendered.text, false, conversation.field)?;
        let shared = tokens.iter().zip(&before).take_while(|(a, b)| a == b).count();
        found.parted = shared < before.len();
        is_target[..shared].fill(false);
    }
    if loss_on == Some(LossOn::Assistant) {
        let spans = match &whole.generated {
            Some(spans) => spans.clone(),
            None => {
                found.by_prefixes = true;
                turns.spans_by_prefixes(&whole)?
            }
        };
        let said = |place: &Range<usize>| spans.iter().any(|span| place.start < span.end && place.end > span.start);
        is_target.iter_mut().zip(&places).for_each(|(target, place)| *target &= said(place));
        if !is_target.contains(&true) {
            let mut roles: Vec<String> = vec![];
            for role in (0..=last).map(|turn| super::problem::escaped(conversation.role(turn))) {
                if !roles.contains(&role) {
                    roles.push(role);
                }
            }
            return Err(ChatProblem::NoAssistant { roles }.into());
        }
    }
    let labels = tokens.iter().zip(is_target).map(|(&token, target)| target.then_some(token)).collect();
    Ok((tokens, labels, found))
}

/// The turns of a conversation, rendered up to some turn.
struct Turns<'a> {
    conversation: &'a Conversation,
    template: &'a Template,
    limit: usize,
}

impl Turns<'_> {
    fn render(&self, turns: usize, add_generation_prompt: bool) -> Result<Rendered, ChatProblem> {
        let Conversation { messages, tools, values, .. } = self.conversation;
        let (messages, tools) = (&messages[..turns], tools.as_ref());
        self.template.render(&Given { messages, tools, values, add_generation_prompt, limit: self.limit })
    }

    /// Where the assistant's turns are in the whole, each between the text of the turns before it with the beginning of
    /// an answer, and the text of the turns up to it.
    fn spans_by_prefixes(&self, whole: &Rendered) -> Result<Vec<Range<usize>>, ChatProblem> {
        let family = self.template.replaced_in_training();
        let of_assistant = |&turn: &usize| self.conversation.role(turn) == "assistant";
        let span = |turn: usize| {
            let prefix = |rendered: Result<Rendered, ChatProblem>| {
                let text = rendered.map_err(|_| ChatProblem::NoPrefix { turn, family })?.text;
                if whole.text.starts_with(&text) { Ok(text.len()) } else { Err(ChatProblem::NoPrefix { turn, family }) }
            };
            let (start, end) = (prefix(self.render(turn, true))?, prefix(self.render(turn + 1, false))?);
            if start <= end { Ok(start..end) } else { Err(ChatProblem::NoPrefix { turn, family }) }
        };
        (0..self.conversation.messages.len()).filter(of_assistant).map(span).collect()
    }
}
