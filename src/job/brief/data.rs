//! The examples of a run: read, checked, and cut into batches.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::attribution::{Error, Examples};
use crate::data::{
    self, Batch, ChatOptions, ChatReport, DataError, DataOptions, Dataset, DoubtfulEnd, EndToken, FromTokenizer,
    ImageOptions, ImageProcessor, ImageReport, InConversations, Inputs, Labels, LeftOut, LossOn, ReadReport,
    ResponseReport, ResponseTemplates, Role, Specials, Task, Tokenizer,
};
use crate::job::error::JobError;
use crate::job::option_text::option_text;
use crate::job::request::{DataRequest, Job, LossTokens, RecordedSpecials, SpecialTokens};
use crate::model::adapter::folder::AdapterFolder;
use crate::model::{Limits, Model};
use crate::trajectory::TextTreatment;

/// A dataset in batches of a given number of positions.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct InBatches<'a> {
    /// The examples.
    pub dataset: &'a Dataset,
    /// Positions of a batch, at most, unless one example has more.
    pub batch_tokens: usize,
}

impl Examples<Batch> for InBatches<'_> {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn positions(&self, example: usize) -> usize {
        self.dataset.positions(example)
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        data::batches(self.dataset, start..end, self.batch_tokens).next().map_or(end, |batch| batch.end)
    }

    fn batch(&self, range: Range<usize>) -> Result<Batch, Error> {
        Ok(data::batch(self.dataset, range))
    }
}

/// Batches with an upper bound on their examples, for passes that keep the whole gradient of every example of a batch.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct SmallBatches<'a> {
    /// The batches that are cut further.
    pub batches: InBatches<'a>,
    /// Examples of a batch.
    pub at_most: usize,
}

impl Examples<Batch> for SmallBatches<'_> {
    fn len(&self) -> usize {
        self.batches.len()
    }

    fn positions(&self, example: usize) -> usize {
        self.batches.positions(example)
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        self.batches.batch_end(start, end.min(start + self.at_most))
    }

    fn batch(&self, range: Range<usize>) -> Result<Batch, Error> {
        self.batches.batch(range)
    }
}

/// The tokenizer, unless all files hold token ids.
pub(in crate::job) fn load_tokenizer(
    job: &Job,
    model: &Path,
    train: &[(String, PathBuf)],
    limits: Limits,
) -> Result<Option<Arc<Tokenizer>>, JobError> {
    let Limits::Tokens(of_tokens) = limits else { return Ok(None) };
    let found = Tokenizer::find(model, job.data.tokenizer.as_deref());
    let adapter = AdapterFolder::find(model, job.model.base.as_deref(), job.model.adapter.is_some())?;
    let found = match (found, adapter) {
        // an adapter that was saved without its tokenizer has its base's
        (Err(DataError::NoTokenizer { .. }), Some(adapter)) if job.data.tokenizer.is_none() => {
            Tokenizer::find(&adapter.base, None)
        }
        (found, _) => found,
    };
    match found {
        Ok(tokenizer) => Ok(Some(Arc::new(tokenizer))),
        // files of token ids need none; the reader says so if they hold text after all, which is never read where tokens
        // are masked
        Err(_) if job.data.tokenizer.is_none() && (of_tokens.masked.is_some() || only_ids(job, train)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the first row of every file that has a readable one holds token ids: of others the reader says what is wrong.
fn only_ids(job: &Job, train: &[(String, PathBuf)]) -> bool {
    let columns = job.data.columns();
    let has_ids = |file: &PathBuf| data::first_row(file, &columns).is_none_or(|row| row.contains_key("input_ids"));
    train.iter().all(|(_, file)| has_ids(file)) && job.data.queries.as_ref().is_none_or(has_ids)
}

/// Whether images are read of any of the files.
fn has_image_files(request: &DataRequest) -> bool {
    let train = std::iter::once(&request.train).filter(|file| !file.as_os_str().is_empty());
    train.chain(request.stages.values()).chain(&request.queries).any(|file| data::holds_images(file))
}

/// Refuses names of columns, and settings of conversations, that examples of the model do not have.
fn check_fields(data: &DataRequest, limits: &Limits, labels: Option<&Arc<Labels>>) -> Result<(), JobError> {
    let (model, read): (_, &[&str]) = match (limits, labels) {
        (Limits::Rows(rows), _) if rows.inputs.has_one_position() => ("reads rows of numbers", &[]),
        (Limits::Rows(_), _) if !has_image_files(data) => {
            ("reads images, of files that hold them as the model sees them", &[])
        }
        (Limits::Rows(_), _) => ("reads images", &["label_field", "image_field", "image_processor"]),
        (Limits::Tokens(_), Some(_)) => ("classifies or values texts", &["text_field", "label_field"]),
        (Limits::Tokens(limits), None) if limits.decoder.is_some() => {
            ("reads a prompt and writes a completion", &["prompt_field", "completion_field"])
        }
        (Limits::Tokens(limits), None) if limits.masked.is_some() => ("fills in masked tokens", &[]),
        (Limits::Tokens(_), None) => (
            "predicts the next token",
            &[
                "text_field",
                "prompt_field",
                "completion_field",
                "keep_end",
                "split_long",
                "loss_on",
                "response_template",
                "chat_template",
                "chat_date",
            ],
        ),
    };
    let given = [
        ("text_field", data.text_field.is_some()),
        ("prompt_field", data.prompt_field.is_some()),
        ("completion_field", data.completion_field.is_some()),
        ("keep_end", data.keep_end),
        ("split_long", data.split_long),
        ("label_field", data.label_field.is_some()),
        ("image_field", data.image_field.is_some()),
        ("image_processor", data.image_processor.is_some()),
        // which has chosen targets for itself
        ("response_template", data.response_template.is_some()),
        ("loss_on", data.loss_on.is_some()),
        ("chat_template", data.chat_template.is_some()),
        ("chat_date", data.chat_date.is_some()),
    ];
    match given.into_iter().find(|(key, is_given)| *is_given && !read.contains(key)) {
        None => Ok(()),
        Some((key, _)) => Err(JobError::Options {
            problem: option_text!("<{}> has no meaning for a model that {}", key, model),
            hint: Some(option_text!("leave <{}> out", key)),
        }),
    }
}

/// What a model can be given and what it gives for a whole text, where the configuration leaves that to the data as this
/// file of training examples shows it.
pub(in crate::job) fn inputs_and_labels(job: &Job, model: &Model, file: &Path) -> (Limits, Option<Arc<Labels>>) {
    (model.limits(), model.labels().map(|labels| Arc::new(labels.decided(file, &job.data.columns()))))
}

/// How labels are understood, where the configuration does not say it.
pub(in crate::job) fn label_note(model: &Model, decided: Option<&Arc<Labels>>, file: &Path) -> Option<String> {
    model.labels().filter(|labels| labels.task.is_none())?;
    let kind = match decided?.task? {
        Task::Classification => "one class each",
        Task::MultiLabel => "several labels each",
        Task::Regression => "numbers",
    };
    let file = file.display();
    Some(format!("`config.json` has no `problem_type`: texts have {kind}, as the first label of {file} shows"))
}

/// What a person should know of the tokenizer of a model.
pub(in crate::job) fn tokenizer_notes(model: &Model, folder: &Path, tokenizer: &Tokenizer) -> Vec<String> {
    let mut notes = tokenizer.notes();
    // whatever loads the model says what is wrong with its configuration
    let config = crate::model::configuration(folder, None).ok();
    let version = config.as_ref().and_then(|config| config.get("transformers_version")?.as_str());
    notes.extend(version.and_then(|version| tokenizer.note_of_llama_class(version)));
    notes.extend(tokenizer.note_of_types_for_gpt2().filter(|_| model.kind() == "gpt2"));
    notes
}

/// The job with what TRL's arguments name and it leaves open: the targets, of training examples the column of texts, and
/// which end of a long example is kept; with a note of each that is another choice than the default.
pub(in crate::job) fn as_trained(
    job: &Job,
    treatment: Option<&TextTreatment>,
    role: Role,
    file: &Path,
) -> (Job, Vec<String>) {
    let (mut job, note) = with_targets_of(job, treatment, role, file);
    let mut notes: Vec<String> = note.into_iter().collect();
    if role == Role::Train && job.data.response_template.is_some() {
        // the collator is given whole texts, whatever columns they were made of
        job.data.loss_on = Some(LossTokens::All);
    }
    job.data.recorded_template = treatment.and_then(|texts| texts.chat_template.clone());
    let Some(texts) = treatment else { return (job, notes) };
    let arguments = texts.file.display();
    let given = job.data.special_tokens;
    let (from_tokenizer, conversations) = match given {
        None | Some(SpecialTokens::Missing) => texts.special_tokens(),
        Some(given) => (given.into(), InConversations::AsChosen),
    };
    if from_tokenizer == FromTokenizer::None && given.is_none() {
        let what = if role == Role::Train { "training examples" } else { "queries" };
        notes.push(format!(
            "the {what} have no special tokens of the tokenizer's own, as `dataset_kwargs` in {arguments} says (as with `--special-tokens none`)"
        ));
    }
    let only_where_missing = given == Some(SpecialTokens::Missing);
    if role == Role::Queries {
        // what a query ends with is asked for, what it begins with is what the model knows
        let conversations = match conversations {
            InConversations::TokenizerAndEnd => InConversations::Tokenizer,
            others => others,
        };
        let padding_without_loss = false;
        job.data.recorded_specials =
            Some(RecordedSpecials { from_tokenizer, conversations, only_where_missing, padding_without_loss });
        return (job, notes);
    }
    if texts.keeps_end && job.data.max_length.is_some() && !job.data.keep_end {
        job.data.keep_end = true;
        notes.push(format!(
            "long training examples keep their end, as `truncation_mode=keep_end` in {arguments} says (as with `--keep-end`)"
        ));
    }
    if texts.divides_long() && job.data.max_length.is_some() && !job.data.keep_end && !job.data.split_long {
        job.data.split_long = true;
        notes.push(format!(
            "long training examples are divided into pieces, as `packing_strategy` in {arguments} says (as with `--split-long`)"
        ));
    }
    // TRL leaves a text alone that has an end token
    let puts_missing = given.is_none() && job.data.add_eos.has_train() && texts.puts_ends_where_missing();
    job.data.recorded_specials = Some(RecordedSpecials {
        from_tokenizer,
        conversations,
        only_where_missing: puts_missing || only_where_missing,
        padding_without_loss: texts.leaves_padding_out(),
    });
    if let Some(token) = texts.end_token.as_ref().filter(|_| job.data.add_eos.has_train())
        && job.data.end_token.is_none()
    {
        notes.push(format!(
            "the end token of the training examples is `{token}`, as `eos_token` in {arguments} says (as with `--end-token`)"
        ));
        job.data.end_token = Some(token.clone());
    }
    job.data.as_trl = texts.release.chooses_targets();
    job.data.assistant_in_prompts = texts.assistant_only && texts.completion_only == Some(false);
    let recorded = texts.text_field.as_deref().unwrap_or("text");
    let is_there = || data::first_row(file, &job.data.columns()).is_some_and(|row| row.contains_key(recorded));
    let names_parts = job.data.prompt_field.is_some() || job.data.completion_field.is_some();
    match job.data.text_field.as_deref() {
        Some(own) if own != recorded && is_there() => notes.push(format!(
            "`--text-field {own}` is read of {}, which has the column `{recorded}` too, and that was read in training (`dataset_text_field` in {arguments})",
            file.display()
        )),
        None if recorded != "text" && !names_parts && is_there() => {
            notes.push(format!(
                "texts of the training examples are those of the column `{recorded}`, as `dataset_text_field` in {arguments} says (as with `--text-field {recorded}`)"
            ));
            job.data.text_field = Some(recorded.to_owned());
        }
        _ => {}
    }
    (job, notes)
}

/// The job with the targets that TRL's arguments name, where it chooses none; and a note if that is another choice
/// than the default. Queries ask what the assistant says where training did; their prompts are never targets for it.
fn with_targets_of(
    job: &Job,
    treatment: Option<&TextTreatment>,
    role: Role,
    data_file: &Path,
) -> (Job, Option<String>) {
    let mut job = job.clone();
    let (Some(texts), None, None) = (treatment, job.data.loss_on, &job.data.response_template) else {
        return (job, None);
    };
    let (what, file) = (if role == Role::Train { "training examples" } else { "queries" }, texts.file.display());
    let (loss_on, field, flag) = match (texts.assistant_only, texts.completion_only, role) {
        (true, Some(false), Role::Train) => {
            (LossTokens::Assistant, "assistant_only_loss=True` and `completion_only_loss=False", "assistant")
        }
        (true, _, _) => (LossTokens::Assistant, "assistant_only_loss=True", "assistant"),
        (false, Some(false), Role::Train) => (LossTokens::All, "completion_only_loss=False", "all"),
        (false, None, Role::Train) if texts.release.joined_prompts() && holds_pairs(&job, data_file) => {
            job.data.loss_on = Some(LossTokens::All);
            let release = texts.release;
            return (
                job,
                Some(format!(
                    "every token of the training examples is a target, prompts too, as {release} had it, whose arguments {file} are; if its `DataCollatorForCompletionOnlyLM` left prompts out, which nothing records, give what that was told with `--response-template TEXT`"
                )),
            );
        }
        _ => return (job, None),
    };
    job.data.loss_on = Some(loss_on);
    (job, Some(format!("targets of the {what} are those of `{field}` in {file} (as with `--loss-on {flag}`)")))
}

/// Whether the rows of a file are prompts and completions, as texts or as messages.
fn holds_pairs(job: &Job, file: &Path) -> bool {
    let columns = job.data.columns();
    let (prompt, completion) = (columns.prompt.as_deref(), columns.completion.as_deref());
    data::first_row(file, &columns).is_some_and(|row| {
        [prompt.unwrap_or("prompt"), completion.unwrap_or("completion")]
            .into_iter()
            .all(|name| row.get(name).is_some_and(|part| part.is_string() || part.is_array()))
    })
}

/// A column of the training examples that looks as if training had weighted its loss by it, which no score does.
pub(in crate::job) fn weight_note(job: &Job, file: &Path) -> Option<String> {
    const NAMES: [&str; 8] = [
        "weight",
        "weights",
        "loss_weight",
        "loss_weights",
        "sample_weight",
        "sample_weights",
        "example_weight",
        "instance_weight",
    ];
    let row = data::first_row(file, &job.data.columns())?;
    let is_number = |value: &serde_json::Value| match value {
        serde_json::Value::Array(list) => !list.is_empty() && list.iter().all(serde_json::Value::is_number),
        value => value.is_number(),
    };
    let chosen = [&job.output.group_by, &job.data.id_field, &job.data.label_field].map(Option::as_deref);
    let (name, value) = row.iter().find(|(name, value)| {
        NAMES.contains(&name.to_lowercase().as_str()) && is_number(value) && !chosen.contains(&Some(name.as_str()))
    })?;
    let remedy = match value.is_array() {
        true => {
            "tokens that counted nothing are -100 in `labels` beside `input_ids`; other weights of tokens have no flag"
        }
        false => {
            "no flag weights examples: multiply the scores of each, whose metadata have the column, with what it counted; the \
             curvature stays that of equal weights"
        }
    };
    Some(format!(
        "the column `{name}` of the training examples is metadata, and every example counts alike, as in the losses of \
         transformers and TRL; if training weighted its loss by it, {remedy}"
    ))
}

/// A `chat_date` that is no day.
fn chat_date(problem: String) -> JobError {
    JobError::Options { problem: option_text!("<chat_date>: {}", problem), hint: None }
}

/// What a person should know of how conversations were read.
fn chat_notes(what: &str, chat: &ChatReport, by_template: bool) -> Vec<String> {
    let ChatReport { conversations, prompted, by_prefixes, replaced_in_training, parted, renamed, hash, .. } = chat;
    let targets = match (chat.loss_on, prompted) {
        _ if by_template => "answers are the targets".to_owned(),
        (Some(LossOn::All), _) => "every token is a target".to_owned(),
        (Some(LossOn::Assistant), _) => "what the assistant says is the target".to_owned(),
        (Some(LossOn::Last), _) => "the last turn is the target".to_owned(),
        (None, 0) => "every token is a target (`--loss-on assistant` or `last` for others)".to_owned(),
        (None, n) if n == conversations => "completions are the targets (`--loss-on all` for every token)".to_owned(),
        (None, n) => format!("completions are the targets of {n} rows, and every token of the others (`--loss-on`)"),
    };
    let template = chat.template.display();
    let mut notes =
        vec![format!("{conversations} conversations of the {what} are rendered with {template} ({hash}); {targets}")];
    if *by_prefixes > 0 {
        notes.push(format!(
            "the chat template has no `{{% generation %}}` marks: in {by_prefixes} {what} the assistant's turns are what each \
             adds to the turns before it, with whatever the template writes behind a turn{}",
            replaced_in_training.map_or(String::new(), |family| format!(
                "; TRL trains with a template of its own in place of this one, whose tokens and targets may be others \
                 (`--chat-template .../trl/chat_templates/{family}_training.jinja`)"
            ))
        ));
    }
    if *parted > 0 {
        notes.push(format!(
            "in {parted} {what} the prompt alone is rendered or tokenized in another way than as the beginning of the \
             whole; targets begin where the two part, as TRL has them since its release 1.0"
        ));
    }
    if *renamed > 0 {
        notes.push(format!(
            "in {renamed} {what} turns `from` a `human` or a `gpt` are read as those of `user` and `assistant`; a trainer \
             that kept the names had another text: write them as `role` and `content` to keep them"
        ));
    }
    if let Some(day) = chat.today {
        notes.push(format!(
            "the chat template writes the day into its text, and {day} is written; training had the day of its own run: \
             `--chat-date YYYY-MM-DD`"
        ));
    }
    notes
}

/// What a person should know of how images were read.
fn image_notes(what: &str, images: &ImageReport) -> Vec<String> {
    let mut notes = vec![format!("images are {}", images.processing)];
    let done = [
        (images.coloured, "are grey, and have three equal channels"),
        (images.greyed, "are coloured, and became grey"),
        (images.opaque, "have transparency, which is left out"),
        (images.turned, "are turned as their EXIF data say, as `datasets` does and torchvision does not"),
    ];
    notes.extend(done.iter().filter(|(n, _)| *n > 0).map(|(n, what_is)| format!("{n} images of the {what} {what_is}")));
    if let Some(classes) = &images.classes_by_order {
        let named: Vec<_> = classes.iter().take(8).enumerate().map(|(k, name)| format!("{k} is {name:?}")).collect();
        let more = if classes.len() > named.len() { ", ..." } else { "" };
        notes.push(format!(
            "the model's classes have no names; those of the {what} are their folders in the order of their names, as \
             torchvision and `datasets` have them: {}{more}",
            named.join(", ")
        ));
    }
    if let Some((count, name)) = &images.others {
        notes.push(format!("{count} files of the {what} are no images and left out, as {name:?}"));
    }
    notes
}

/// What a person should know of how a file was read.
pub(in crate::job) fn notes(what: &str, report: &ReadReport) -> Vec<String> {
    let mut notes: Vec<String> =
        report.chat.iter().flat_map(|chat| chat_notes(what, chat, report.responses.is_some())).collect();
    notes.extend(report.images.iter().flat_map(|images| image_notes(what, images)));
    if report.cut > 0 && report.contrasts > 0 {
        notes.push(format!("{} {what} were cut, in contrasts each completion with its prompt", report.cut));
    } else if report.cut > 0 {
        let which = if report.kept_end { "their last " } else { "" };
        notes.push(format!("{} {what} were cut to {which}{} tokens", report.cut, report.longest));
    }
    if report.divided > 0 {
        notes.push(format!(
            "{} {what} were divided into pieces of at most {} tokens, each an example of its own that does not see the others; \
             `--group-by piece_of` adds them up",
            report.divided, report.longest
        ));
    }
    if report.cut_at_other_end {
        notes.push(format!(
            "long {what} lose their end, and the tokenizer's `truncation_side` is `left`; where training cut with the \
             tokenizer, they lost their beginning: cut the texts in the file"
        ));
    }
    if let Some(packed) = report.packed {
        let place = match (packed.rows, packed.shares.filter(|&shares| shares > 1)) {
            (None, None) => "at the end".to_owned(),
            (Some(rows), None) => format!("at the ends of groups of {rows} rows"),
            (None, Some(shares)) => format!("at the ends of {shares} shares of the rows"),
            (Some(rows), Some(shares)) => format!("at the ends of groups of {rows} rows in {shares} shares of them"),
        };
        let (documents, dropped) = (packed.documents, packed.dropped_tokens);
        notes.push(match packed.shorter_blocks {
            None => {
                format!("{documents} documents were packed; {dropped} tokens {place} filled no block and are left out")
            }
            Some(0) => format!("{documents} documents were packed, and filled their blocks {place}"),
            Some(1) => format!("{documents} documents were packed; 1 block {place} is shorter"),
            Some(n) => format!("{documents} documents were packed; {n} blocks {place} are shorter"),
        });
    }
    let LeftOut { examples, tokens } = report.without_target;
    if examples > 0 {
        let named = if report.packed.is_some() { "blocks" } else { what };
        notes.push(format!("in {examples} {named} of {tokens} tokens in all there was nothing to predict: left out"));
    }
    let LeftOut { examples, tokens } = report.cut_away;
    if examples > 0 {
        notes.push(format!(
            "{examples} {what} had no target left when they were cut (to {tokens} tokens in all), and are left out, as TRL \
             leaves them out, at least in its release 1.16; where it kept them they had no loss"
        ));
    }
    notes.extend(report.responses.iter().map(|responses| response_note(what, responses)));
    if report.padding > 0 {
        notes.push(format!(
            "{} tokens of the {what} are no targets, since the tokenizer's `pad_token` is the same (of many tokenizers the \
             `eos_token`) and the trainer's collator leaves every occurrence out of the loss",
            report.padding
        ));
    }
    if report.doubled > 0 {
        notes.push(format!(
            "{} {what} begin or end with a token that the tokenizer adds there too, and have it twice, as TRL tokenizes such \
             texts and `--special-tokens keep` says (`none`: the text's own alone)",
            report.doubled
        ));
    }
    if report.parted > 0 {
        notes.push(format!(
            "in {} {what} the tokens of the prompt alone are not how those of the whole begin; targets begin where the two \
             part, as TRL has them since its release 1.0",
            report.parted
        ));
    }
    if report.contrasts > 0 {
        notes.push(format!(
            "{} of {} {what} are contrasts: measured is the chosen completion less the rejected one; a positive score \
             says that training on the example moved the model towards the chosen one",
            report.contrasts, report.examples
        ));
    }
    if report.empty > 0 {
        notes.push(format!("{} empty rows of the {what} were skipped", report.empty));
    }
    match report.doubtful_ends {
        Some((DoubtfulEnd { token, counts_as: EndToken::Padding }, count)) if count > 0 => notes.push(format!(
            "{count} of {} {what} end with token {token}, which counts as padding: they are classified by the token before",
            report.examples
        )),
        Some((DoubtfulEnd { token, counts_as: EndToken::Text }, count)) if count > 0 => notes.push(format!(
            "{count} of {} {what} end with token {token} and are classified by it; if training padded with it, they were \
             classified by the token before: write `pad_token_id` into `config.json` (of an adapter's base)",
            report.examples
        )),
        _ => {}
    }
    if report.end_may_be_padding {
        notes.push(format!(
            "end tokens of the {what} count as targets, and the tokenizer's `pad_token` is its `eos_token`; where training \
             left padding out of the loss they were none: `--add-eos train:input`"
        ));
    }
    notes
}

/// What a person should know of answers that were looked for as TRL's collator does it.
fn response_note(what: &str, responses: &ResponseReport) -> String {
    let ResponseReport { templates, missing } = responses;
    let behind = match &templates.instruction {
        None => format!("what stands behind the last {:?} of each", templates.response),
        Some(instruction) => format!("what stands behind {:?}, up to the next {instruction:?}", templates.response),
    };
    let missing = match (missing, what) {
        (0, _) => String::new(),
        (n, "queries") => format!("; in {n} there is none, and every token of these is one"),
        (n, _) => format!("; in {n} there is none, and these are left out, as they had no loss in training"),
    };
    format!("targets of the {what} are {behind}, as `DataCollatorForCompletionOnlyLM` of TRL has them{missing}")
}

/// What turns the contents of files into what a model reads.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct Preprocessing<'a> {
    /// The tokenizer; none where no text is read.
    pub tokenizer: Option<&'a Arc<Tokenizer>>,
    /// The folder whose image processor is taken if the job names none.
    pub model: &'a Path,
    /// The model's `model_type`.
    pub kind: &'a str,
}

/// The examples of one file, in at most `memory` bytes if it is known how many there are.
pub(in crate::job) fn read(
    job: &Job,
    file: &Path,
    role: Role,
    (limits, labels): (Limits, Option<&Arc<Labels>>),
    preprocessing: Preprocessing<'_>,
    memory: Option<u64>,
) -> Result<(Dataset, ReadReport), JobError> {
    check_fields(&job.data, &limits, labels)?;
    let (dataset, mut report) = match (limits, labels) {
        (Limits::Tokens(limits), _) => {
            data::read_tokens(file, role, preprocessing.tokenizer, limits, options(job, labels, memory)?)?
        }
        (Limits::Rows(limits), Some(labels)) if data::holds_images(file) => {
            let Preprocessing { model, kind, .. } = preprocessing;
            let options = ImageOptions {
                processor: ImageProcessor::find(model, job.data.image_processor.as_deref(), kind)?,
                labels: Labels::clone(labels),
                columns: job.data.columns(),
                id_field: job.data.id_field.as_deref().into(),
                memory,
            };
            data::read_images(file, limits, &options)?
        }
        (Limits::Rows(limits), _) => data::read_rows(file, limits)?,
    };
    report.doubtful_ends = labels.and_then(|labels| labels.end).map(|end| (end, ending_with(&dataset, end.token)));
    match report.doubtful_ends {
        Some((DoubtfulEnd { token, counts_as: EndToken::Unknown }, count)) if count > 0 => {
            Err(unknown_padding(file, token, count, dataset.len()))
        }
        _ => Ok((dataset, report)),
    }
}

/// How many examples end with a token.
fn ending_with(dataset: &Dataset, token: u32) -> usize {
    let ends = |m: &usize| match data::batch(dataset, *m..*m + 1).inputs {
        Inputs::Tokens(tokens) => tokens.ids.last() == Some(&token),
        _ => false,
    };
    (0..dataset.len()).filter(ends).count()
}

/// Texts that end with a token of which nothing says whether training took it for padding.
fn unknown_padding(file: &Path, token: u32, count: usize, examples: usize) -> JobError {
    JobError::Options {
        problem: option_text!(
            "{}: {} of {} texts end with token {}, the base's end token, and nothing says whether that was padding in \
             training: then the token before it was classified",
            file.display(),
            count,
            examples,
            token
        ),
        hint: Some(
            "put the tokenizer of the training beside the adapter (`tokenizer.save_pretrained(DIR)`), or write \
             `pad_token_id` into the base's `config.json` as training set it"
                .into(),
        ),
    }
}

/// How a job has files of text or tokens read.
pub(in crate::job) fn options(
    job: &Job,
    labels: Option<&Arc<Labels>>,
    memory: Option<u64>,
) -> Result<DataOptions, JobError> {
    let RecordedSpecials { from_tokenizer, conversations, only_where_missing, padding_without_loss } =
        job.data.recorded_specials.unwrap_or(RecordedSpecials {
            from_tokenizer: job.data.special_tokens.map_or(FromTokenizer::Once, Into::into),
            conversations: InConversations::AsChosen,
            only_where_missing: job.data.special_tokens == Some(SpecialTokens::Missing),
            padding_without_loss: false,
        });
    let specials = Specials {
        add_bos: job.data.add_bos.into(),
        add_eos: job.data.add_eos.into(),
        from_tokenizer,
        only_where_missing,
        conversations,
    };
    Ok(DataOptions {
        max_length: job.data.max_length,
        keep_end: job.data.keep_end,
        split_long: job.data.split_long,
        pack: job.data.pack,
        pack_rows: job.data.pack_rows,
        pack_processes: job.data.pack_processes,
        pack_keeps_rest: job.data.pack_keeps_rest,
        specials,
        as_trl: job.data.as_trl,
        end_token: job.data.end_token.clone(),
        padding_without_loss,
        responses: job
            .data
            .response_template
            .clone()
            .map(|response| ResponseTemplates { response, instruction: job.data.instruction_template.clone() }),
        id_field: job.data.id_field.as_deref().into(),
        columns: job.data.columns(),
        memory,
        labels: labels.cloned(),
        chat: ChatOptions {
            template: job.data.chat_template.clone(),
            recorded: job.data.recorded_template.clone(),
            text: None,
            loss_on: job.data.loss_on.and_then(LossTokens::chosen),
            assistant_in_prompts: job.data.assistant_in_prompts,
            date: job.data.chat_date.as_deref().map(str::parse).transpose().map_err(chat_date)?,
        },
    })
}
