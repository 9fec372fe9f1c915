//! Flags about training examples, queries and how their texts become tokens.

use std::path::PathBuf;

use ascribe::job::{Job, LossTokens, Side, SpecialTokens};
use clap::Args;

use super::values::{Pack, one_of, pack};

const SIDES: &[(&str, &str)] = &[
    ("none", "to no file"),
    ("train", "to training examples"),
    ("queries", "to queries"),
    ("both", "to both"),
    ("train:input", "to training examples, where it is read and nowhere a target"),
    ("queries:input", "to queries, likewise"),
    ("both:input", "to both, likewise"),
];

const SPECIAL_TOKENS: &[(&str, &str)] = &[
    ("keep", "also where a text has them already"),
    ("none", "leave the tokenizer's out"),
    ("missing", "put those of --add-bos and --add-eos where a text has none"),
];

const LOSS_ON: &[(&str, &str)] = &[
    ("all", "every token, of prompts too"),
    ("assistant", "what the assistant says"),
    ("last", "the last turn, which has to be the assistant's"),
    ("completion", "completions where there are prompts, else every token"),
];

/// Training examples and queries.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataOptions {
    /// Training examples
    ///
    /// Rows with `text`, with `prompt` and `completion` (loss on the completion only), with `messages`, or with
    /// `input_ids` and optional `labels`, from JSON lines, JSON, CSV, TSV or Parquet, also packed by gzip or zstd; plain text, one
    /// example a line; for an MLP a safetensors file with `inputs` and `targets`. For a model of images a folder whose
    /// folders are classes with PNG or JPEG images, rows with `image` and `label`, or such a safetensors file. A field `id` names the example, else
    /// its number does. Several files: a pattern in quotation marks, as `'part-*.parquet'` (sorted) or `'{b,a}.jsonl'`
    /// (in this order). `hub:ORG/NAME/FILE` is a file of a data set of the Hugging Face hub, or several as a pattern.
    #[arg(long, value_name = "FILE")]
    pub(crate) train: Option<PathBuf>,
    /// Queries, in the same formats
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: Option<PathBuf>,
    /// The evaluation set of training, whose loss has to be the logged one
    ///
    /// Read as training examples are, and whole: at every checkpoint where the training log has an `eval_loss`, that of
    /// the file has to have its first three digits. No score depends on it.
    #[arg(long, value_name = "FILE", conflicts_with = "no_loss_check")]
    eval: Option<PathBuf>,
    /// The name of the --eval set in training, where the log has an `eval_NAME_loss` of several [default: the only one]
    #[arg(long, value_name = "NAME")]
    eval_name: Option<String>,
    /// A `tokenizer.json` or its folder [default: the model's, then its parent's]
    ///
    /// A trainer's `checkpoint-N` often has none, its parent does.
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Cut longer examples to this many tokens
    ///
    /// Without it none is cut, and one that exceeds the model's positions is an error.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Of longer examples keep the last tokens and not the first, as TRL with `truncation_mode="keep_end"`
    #[arg(long, requires = "max_length")]
    keep_end: bool,
    /// Divide longer training examples into pieces of --max-length, as TRL's packing_strategy `bfd_split`
    ///
    /// Each piece is an example of its own, `ID#1` and so on, that does not see the others; `--group-by piece_of` adds
    /// them up.
    #[arg(long, requires = "max_length", conflicts_with_all = ["keep_end", "pack"])]
    split_long: bool,
    /// Join training documents and cut them into blocks of N tokens, as pretraining does
    ///
    /// `128:1000` begins anew after every 1000 rows and leaves out what filled no block, as `run_clm` does in each
    /// batch of a mapped data set; `128:1000:4` does so in each of four shares of the rows, as with
    /// `preprocessing_num_workers=4`. `:keep` makes a shorter block of what fills none, as TRL does
    /// (`packing_strategy="wrapped"`); `128:keep` keeps the end of the whole file alone.
    #[arg(long, value_name = "N[:ROWS[:P]][:keep]", value_parser = pack)]
    pack: Option<Pack>,
    /// The field that names an example, or `line` for the line's number [default: `id`, else the line's number]
    ///
    /// For data whose `id` repeats. The field stays in the metadata.
    #[arg(long, value_name = "FIELD|line")]
    id_field: Option<String>,
    /// The column of texts, all others are metadata [default: `text`]
    ///
    /// A query without this column is read by the usual names.
    #[arg(long, value_name = "FIELD", conflicts_with_all = ["prompt_field", "completion_field"])]
    text_field: Option<String>,
    /// The column of prompts, all but it and the completion are metadata [default: `prompt`]
    #[arg(long, value_name = "FIELD")]
    prompt_field: Option<String>,
    /// The column of completions [default: `completion`]
    #[arg(long, value_name = "FIELD")]
    completion_field: Option<String>,
    /// The column of labels, for a model that classifies texts or images [default: `label`, or `labels`]
    #[arg(long, value_name = "FIELD")]
    label_field: Option<String>,
    /// The column of images, for a model of images [default: `image`, or `file_name`]
    #[arg(long, value_name = "FIELD")]
    image_field: Option<String>,
    /// A `preprocessor_config.json` or its folder: how images are resized and normalised
    /// [default: the model's, then its parent's]
    #[arg(long, value_name = "PATH")]
    image_processor: Option<PathBuf>,
    /// Which tokens of conversations are targets [default: all of `messages`, of a `prompt` and `completion` the latter]
    ///
    /// What the assistant says is what the chat template marks with `{% generation %}`, else what its turns add to
    /// the turns before them.
    #[arg(long, value_name = "WHAT", value_parser = one_of::<LossTokens>(LOSS_ON))]
    loss_on: Option<LossTokens>,
    /// Targets are what stands behind this text, as `DataCollatorForCompletionOnlyLM` of TRL before 0.20 has them
    ///
    /// The last place of each text that has the tokens of the template, which is tokenized by itself; a text without
    /// it had no loss and is left out. Token ids as JSON, `[835, 13291]`, are taken as they are.
    #[arg(long, value_name = "TEXT", conflicts_with = "loss_on")]
    response_template: Option<String>,
    /// What questions begin with, for texts of several answers: each answer ends where the next question begins
    #[arg(long, value_name = "TEXT", requires = "response_template")]
    instruction_template: Option<String>,
    /// The chat template of conversations [default: the tokenizer's, then the model's]
    ///
    /// A file with the template, or JSON with it as `chat_template`.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// The day that a chat template is told if it asks, as 2024-07-26 [default: today]
    #[arg(long, value_name = "DAY")]
    chat_date: Option<String>,
    /// What becomes of special tokens that the tokenizer adds by itself
    /// [default: add them, refuse a text that has one there already]
    #[arg(long, value_name = "WHAT", value_parser = one_of::<SpecialTokens>(SPECIAL_TOKENS))]
    special_tokens: Option<SpecialTokens>,
    /// Put the begin-of-sequence token in front [default: none]
    ///
    /// What the tokenizer adds by itself is kept; nothing else is guessed. Choose what the training run did,
    /// and look at the tokens with --dry-run.
    #[arg(long, value_name = "WHERE", value_parser = one_of::<Side>(SIDES))]
    add_bos: Option<Side>,
    /// Put the end-of-sequence token behind [default: none]
    ///
    /// As for --add-bos. A collator that pads with the end token leaves every end token out of the loss:
    /// `train:input` does the same.
    #[arg(long, value_name = "WHERE", value_parser = one_of::<Side>(SIDES))]
    add_eos: Option<Side>,
    /// The end-of-sequence token of --add-eos, by its text [default: the tokenizer's `eos_token`]
    #[arg(long, value_name = "TOKEN")]
    end_token: Option<String>,
    /// The N of the weight 1/N [default: the training file's examples]
    ///
    /// How many examples the training objective averaged over. Give it if the file is a part of the data.
    #[arg(long, value_name = "N")]
    train_size: Option<usize>,
    /// Do not compare the loss of training examples with the log of a training run
    ///
    /// Without it a sample of the examples goes through every checkpoint before the long work, and a loss that is not
    /// the logged one is a warning: the examples are then probably not read as training read them.
    #[arg(long)]
    no_loss_check: bool,
}

impl DataOptions {
    /// Why these flags mean nothing to a command that compares training examples with a log, if they do.
    pub(crate) fn without_meaning(&self) -> Option<&'static str> {
        let (mut job, plain) = (Job::new("", "", ""), Job::new("", "", ""));
        self.apply(&mut job);
        match job.data != plain.data {
            _ if self.queries.is_some() => Some("`--queries` are asked of scores, and none are computed here"),
            _ if self.no_loss_check => Some("`--no-loss-check` leaves out what `--train` is given for"),
            true if self.train.is_none() => Some("flags about data say how `--train` is read, which is not given"),
            _ => None,
        }
    }

    /// Lays the flags that were given on top of a job.
    pub(crate) fn apply(&self, job: &mut Job) {
        let data = &mut job.data;
        if let Some(train) = &self.train {
            // a resolved job holds the size of the file it was resolved with
            if data.train != *train {
                data.train_size = None;
            }
            data.train.clone_from(train);
        }
        data.queries = self.queries.clone().or(data.queries.take());
        data.eval = self.eval.clone().or(data.eval.take());
        data.eval_name = self.eval_name.clone().or(data.eval_name.take());
        data.tokenizer = self.tokenizer.clone().or(data.tokenizer.take());
        data.max_length = self.max_length.or(data.max_length);
        data.keep_end |= self.keep_end;
        data.split_long |= self.split_long;
        if let Some(Pack { length, rows, processes, keeps_rest }) = self.pack {
            (data.pack, data.pack_rows, data.pack_processes) = (Some(length), rows, processes);
            data.pack_keeps_rest = keeps_rest;
        }
        data.id_field = self.id_field.clone().or(data.id_field.take());
        if self.text_field.is_some() {
            (data.prompt_field, data.completion_field) = (None, None);
        }
        if self.prompt_field.is_some() || self.completion_field.is_some() {
            data.text_field = None;
        }
        data.text_field = self.text_field.clone().or(data.text_field.take());
        data.prompt_field = self.prompt_field.clone().or(data.prompt_field.take());
        data.completion_field = self.completion_field.clone().or(data.completion_field.take());
        data.label_field = self.label_field.clone().or(data.label_field.take());
        data.image_field = self.image_field.clone().or(data.image_field.take());
        data.image_processor = self.image_processor.clone().or(data.image_processor.take());
        data.loss_on = self.loss_on.or(data.loss_on);
        data.response_template = self.response_template.clone().or(data.response_template.take());
        data.instruction_template = self.instruction_template.clone().or(data.instruction_template.take());
        data.chat_template = self.chat_template.clone().or(data.chat_template.take());
        data.chat_date = self.chat_date.clone().or(data.chat_date.take());
        data.special_tokens = self.special_tokens.or(data.special_tokens);
        data.add_bos = self.add_bos.unwrap_or(data.add_bos);
        data.add_eos = self.add_eos.unwrap_or(data.add_eos);
        data.end_token = self.end_token.clone().or(data.end_token.take());
        data.train_size = self.train_size.or(data.train_size);
        data.skip_loss_check |= self.no_loss_check;
    }
}
