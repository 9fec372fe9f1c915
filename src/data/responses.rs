//! Targets of texts as TRL's `DataCollatorForCompletionOnlyLM` chooses them: what stands behind a template.
//!
//! The collator looks for the tokens of the template, tokenized by itself, in the tokens of each text. A template that
//! tokenizes otherwise within a text is not found, here as there.
//!
//! # Source
//! `trl/trainer/utils.py` of TRL 0.8.6 to 0.19.1, whose `torch_call` chooses alike in all of them.

use super::error::DataError;
use super::tokenizer::{Offsets, Tokenizer};

/// The templates of `DataCollatorForCompletionOnlyLM`: texts, or lists of token ids as JSON (`[835, 13291]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseTemplates {
    /// What an answer begins with.
    pub response: String,
    /// What a question begins with; none: the last answer of a text is the target.
    pub instruction: Option<String>,
}

/// What was found of the templates, for the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseReport {
    /// The templates.
    pub templates: ResponseTemplates,
    /// Texts of training examples without a target behind a template, which are left out; of queries those whose every
    /// token stays a target.
    pub missing: usize,
}

/// The tokens of the templates.
#[derive(Debug)]
pub(super) struct ResponseTokens {
    response: Vec<u32>,
    instruction: Option<Vec<u32>>,
}

impl ResponseTokens {
    /// # Errors
    /// A template without a token, or one that has to be tokenized without a tokenizer.
    pub(super) fn of(templates: &ResponseTemplates, tokenizer: Option<&Tokenizer>) -> Result<Self, DataError> {
        let tokens = |flag: &'static str, template: &str| {
            let ids = match (serde_json::from_str::<Vec<u32>>(template), tokenizer) {
                (Ok(ids), _) => ids,
                (Err(_), Some(tokenizer)) => {
                    tokenizer
                        .encode(template, Offsets::Skipped, false)
                        .map_err(|error| DataError::ResponseTemplate { flag, why: error.to_string() })?
                        .ids
                }
                (Err(_), None) => {
                    let why = "there is no tokenizer; give its token ids, as `[835, 13291]`".to_owned();
                    return Err(DataError::ResponseTemplate { flag, why });
                }
            };
            if ids.is_empty() {
                return Err(DataError::ResponseTemplate { flag, why: "it has no token".to_owned() });
            }
            Ok(ids)
        };
        Ok(Self {
            response: tokens("--response-template", &templates.response)?,
            instruction: templates
                .instruction
                .as_deref()
                .map(|template| tokens("--instruction-template", template))
                .transpose()?,
        })
    }

    /// Takes the loss from everything but answers. `false` if nothing is left, and of a text without a template nothing
    /// ever is.
    pub(super) fn choose(&self, labels: &mut [Option<u32>]) -> bool {
        let places = |template: &[u32], labels: &[Option<u32>]| -> Vec<usize> {
            let is_there = |place: &[Option<u32>]| place.iter().zip(template).all(|(label, id)| *label == Some(*id));
            let places = labels.windows(template.len()).enumerate().filter(|(_, place)| is_there(place));
            places.map(|(start, _)| start).collect()
        };
        let answers: Vec<usize> =
            places(&self.response, labels).into_iter().map(|start| start + self.response.len()).collect();
        let Some(instruction) = &self.instruction else {
            match answers.last() {
                Some(&last) => labels[..last].fill(None),
                None => labels.fill(None),
            }
            return labels.iter().any(Option::is_some);
        };
        let mut questions = places(instruction, labels);
        if answers.is_empty() || questions.is_empty() {
            labels.fill(None);
            return false;
        }
        if questions[0] > answers[0] {
            questions.insert(0, 0);
        }
        for (index, (&question, &answer)) in questions.iter().zip(&answers).enumerate() {
            // Python's slice of a question behind its answer is empty
            let start = if index == 0 { 0 } else { question.min(answer) };
            labels[start..answer].fill(None);
        }
        if let Some(&last) = questions.last().filter(|_| answers.len() < questions.len()) {
            labels[last..].fill(None);
        }
        labels.iter().any(Option::is_some)
    }
}
