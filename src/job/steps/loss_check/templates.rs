//! Conversations rendered with other chat templates than the one that was used: to try which training had.
//!
//! The templates are written here in the styles of well-known ones, and are tried on conversations alone.

use super::compared::OfStage;
use crate::data::{self, Dataset, Kind, Role};
use crate::job::brief::data as reading;
use crate::job::error::JobError;
use crate::model::Limits;

/// Rows that are read again at most: a template is tried on the sample, but a file is read whole.
const ROWS: usize = 20_000;

/// Styles of chat templates by name.
const STYLES: [(&str, &str); 8] = [
    (
        "ChatML",
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "Tulu",
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] }}\
         {% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}\
         {% if not loop.last or m['role'] != 'assistant' %}{{ '\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    (
        "Zephyr",
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    (
        "Llama 3",
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}\
         {{ m['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    (
        "Llama 2",
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}\
         {% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}",
    ),
    (
        "Alpaca",
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '### Response:\\n' + m['content'] + eos_token + '\\n\\n' }}\
         {% elif m['role'] == 'system' %}{{ m['content'] + '\\n\\n' }}\
         {% else %}{{ '### Instruction:\\n' + m['content'] + '\\n\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
    ),
    (
        "plain text, a turn a line,",
        "{% for m in messages %}{{ m['content'] }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '\\n' }}{% endif %}",
    ),
    (
        "plain text, a turn a line and an end token behind the last,",
        "{% for m in messages %}{{ m['content'] }}{% if not loop.last %}{{ '\\n' }}{% else %}{{ eos_token }}{% endif %}\
         {% endfor %}{% if add_generation_prompt %}{{ '\\n' }}{% endif %}",
    ),
];

/// The sample with its conversations rendered otherwise; nothing if its rows are none, or too many.
pub(super) fn rendered_otherwise(stage: &OfStage<'_>) -> Result<Vec<(String, Dataset)>, JobError> {
    let job = &stage.plan.job;
    let Kind::Tokens(tokens) = stage.sample.kind() else { return Ok(vec![]) };
    let (Some(from), Some(tokenizer)) = (&stage.conversations, tokens.shared_tokenizer()) else { return Ok(vec![]) };
    if stage.population > ROWS || job.data.pack.is_some() || !are_conversations(stage, &from.file)? {
        return Ok(vec![]);
    }
    let treatment = stage.plan.texts.treatment(from.stage);
    let (job, _) = reading::as_trained(job, treatment, Role::Train, &from.file);
    let Limits::Tokens(limits) = stage.plan.training.networks.get(stage.plan.training.last_network())?.model.limits()
    else {
        return Ok(vec![]);
    };
    let mut options = reading::options(&job, None, job.resources.memory)?;
    let own = job.data.chat_template.is_some().then(|| {
        let what = "with the chat template of the tokenizer's folder (without `--chat-template`)";
        (what.to_owned(), None)
    });
    let styled = STYLES.into_iter().map(|(name, text)| {
        let what = match name.strip_prefix("plain text") {
            Some(how) => format!("with conversations as plain text{how} (`--chat-template`)"),
            None => format!("with conversations in the style of {name} (`--chat-template`)"),
        };
        (what, Some((name, text)))
    });
    let mut list = vec![];
    for (what, text) in own.into_iter().chain(styled) {
        (options.chat.template, options.chat.text) = (None, text);
        let read = data::read_tokens(&from.file, Role::Train, Some(tokenizer), limits, options.clone());
        // what a template or the model's positions do not allow, training cannot have had
        if let Ok((all, _)) = read
            && all.len() == stage.population
        {
            list.push((what, all.sample(stage.sample.len())));
        }
    }
    Ok(list)
}

/// Whether the first row of a file is a conversation.
fn are_conversations(stage: &OfStage<'_>, file: &std::path::Path) -> Result<bool, JobError> {
    let options = reading::options(&stage.plan.job, None, None)?;
    let row = data::first_row(file, &options.columns);
    let is_list = |name: &str| row.as_ref().and_then(|row| row.get(name)).is_some_and(serde_json::Value::is_array);
    Ok(["messages", "conversations", "prompt", "chosen"].into_iter().any(is_list))
}
