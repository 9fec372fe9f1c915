//! What TRL did to texts before training, by its arguments, and whether data that were read are treated alike.
//!
//! TRL's trainer cuts texts, packs them and chooses which tokens are targets. A job says the same with flags of its
//! own; where the two contradict each other, scores would explain another training run.

use crate::data::{FromTokenizer, InConversations, MappedRows};
use crate::trajectory::error::ReadError;
use crate::trajectory::text_data::TextData;

/// The fields of TRL's `SFTConfig` that say what became of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTreatment {
    /// The file that says so.
    pub file: std::path::PathBuf,
    /// Which releases of TRL it may be of, by the fields that it has.
    pub release: TrlRelease,
    /// Tokens after which an example is cut, or of a block; `None` if it was not cut.
    pub max_length: Option<usize>,
    /// Whether examples that were cut kept their last tokens (`truncation_mode`).
    pub keeps_end: bool,
    /// How examples were packed.
    pub packing: Packing,
    /// Whether rows of a batch were one after another in one row without padding.
    pub padding_free: bool,
    /// The column of texts (`dataset_text_field`).
    pub text_field: Option<String>,
    /// Whether completions alone were targets; `None` where TRL decides by whether there are prompts, and of releases that
    /// have no such choice ([`TrlRelease::chooses_targets`]).
    pub completion_only: Option<bool>,
    /// Whether the assistant's turns alone were targets.
    pub assistant_only: bool,
    /// The end token, if another than the tokenizer's.
    pub end_token: Option<String>,
    /// Where the trainer took its chat template from, if not from the tokenizer.
    pub chat_template: Option<String>,
    /// Whether the tokenizer added its special tokens, where that is recorded (`add_special_tokens` in `dataset_kwargs`, up
    /// to release 0.14): the trainer itself writes `False` where it rendered conversations, in place of what was given.
    pub tokenizer_adds: Option<bool>,
    /// Whether packed texts had an end token behind each (`append_concat_token` in `dataset_kwargs`, up to release 0.14).
    pub joins_with_end: bool,
}

/// Releases of TRL that treat texts alike, oldest first. Their arguments name no release, but have other fields.
///
/// # Source
/// `trl/trainer/sft_trainer.py` and `sft_config.py` of 0.12.2, 0.14.0, 0.15.2, 0.16.1, 0.17.0 and 1.16.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrlRelease {
    /// Up to 0.14: no end tokens but between packed texts, which were shuffled; transformers' own collator.
    UpTo14,
    /// 0.15: no end tokens; prompt and completion are one text.
    Of15,
    /// 0.16: end tokens where the tokens of a text have none; prompt and completion are one text.
    Of16,
    /// From 0.17 on: end tokens where a text has none; completions are targets where there are prompts.
    From17,
}

impl TrlRelease {
    /// Whether its arguments say which tokens are targets. Before, every token was one, unless a collator of the user's
    /// own chose others.
    pub fn chooses_targets(self) -> bool {
        self == Self::From17
    }

    /// Whether a prompt and a completion that are texts were joined into one text, all of it a target.
    pub fn joined_prompts(self) -> bool {
        matches!(self, Self::Of15 | Self::Of16)
    }
}

impl std::fmt::Display for TrlRelease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UpTo14 => "a TRL before 0.15",
            Self::Of15 => "TRL 0.15",
            Self::Of16 => "TRL 0.16",
            Self::From17 => "a TRL from 0.17 on",
        })
    }
}

/// How examples were packed into rows of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packing {
    /// Each is a row of its own.
    None,
    /// Joined and cut into blocks of the maximal length: `wrapped`, and what TRL did before it had strategies.
    Blocks(Blocks),
    /// Rows hold whole examples that do not see each other.
    Whole {
        /// TRL's name for it.
        strategy: String,
    },
}

impl TextTreatment {
    /// Whether rows of a batch are examples, so that the log's epochs count them.
    pub fn rows_are_examples(&self) -> bool {
        !matches!(self.packing, Packing::Whole { .. })
    }

    /// For printing.
    pub(super) fn describe(&self) -> String {
        let which = if self.keeps_end { ", the last ones" } else { "" };
        let length = self.max_length.map_or("not cut".to_string(), |n| format!("at most {n} tokens{which}"));
        let packing = match &self.packing {
            Packing::None => "not packed".to_string(),
            Packing::Blocks(Blocks { wrapped: true, .. }) => "packed into blocks (wrapped)".to_string(),
            Packing::Blocks(_) => "packed into blocks".to_string(),
            Packing::Whole { strategy } => format!("packed whole ({strategy})"),
        };
        let targets = match (self.assistant_only, self.completion_only) {
            _ if !self.release.chooses_targets() => "every token is a target, but for what a collator left out",
            (true, _) => "assistant's turns are targets",
            (_, Some(true)) => "completions are targets",
            (_, Some(false)) => "prompts and completions are targets",
            (_, None) => "completions are targets where there are prompts",
        };
        format!("{length}, {packing}; {targets}")
    }

    /// Whether TRL put an end token behind each text.
    fn puts_ends(&self) -> bool {
        match self.release {
            TrlRelease::UpTo14 => self.packing != Packing::None && self.joins_with_end,
            TrlRelease::Of15 => false,
            TrlRelease::Of16 | TrlRelease::From17 => true,
        }
    }

    /// Whether it put one only where a text had none.
    pub fn puts_ends_where_missing(&self) -> bool {
        self.release >= TrlRelease::Of16
    }

    /// Whether it divided examples that were too long into pieces, each by itself.
    pub fn divides_long(&self) -> bool {
        matches!(&self.packing, Packing::Whole { strategy } if SPLITTING.contains(&strategy.as_str()))
    }

    /// Whether its collator was that of transformers, which leaves every occurrence of the padding out of the loss: TRL has one
    /// of its own since 0.16, and before 0.15 packed texts had none.
    pub fn leaves_padding_out(&self) -> bool {
        match self.release {
            TrlRelease::UpTo14 => self.packing == Packing::None,
            TrlRelease::Of15 => true,
            TrlRelease::Of16 | TrlRelease::From17 => false,
        }
    }

    /// Which special tokens texts and rendered conversations had from the tokenizer.
    ///
    /// Every release has the tokenizer add its own to a text, whatever the text begins with. Conversations, whose template
    /// writes them, were tokenized in the same way by 0.15 and 0.16, and by a `formatting_func` of the user's own.
    pub fn special_tokens(&self) -> (FromTokenizer, InConversations) {
        match (self.release, self.tokenizer_adds) {
            (TrlRelease::UpTo14, Some(false)) => (FromTokenizer::None, InConversations::Bare),
            (TrlRelease::UpTo14, Some(true)) => (FromTokenizer::KeepOwn, InConversations::Tokenizer),
            // before 0.11 what the trainer wrote into `dataset_kwargs` did not reach the arguments
            (TrlRelease::UpTo14 | TrlRelease::From17, _) => (FromTokenizer::KeepOwn, InConversations::Bare),
            (TrlRelease::Of15, _) => (FromTokenizer::KeepOwn, InConversations::Tokenizer),
            (TrlRelease::Of16, _) => (FromTokenizer::KeepOwn, InConversations::TokenizerAndEnd),
        }
    }

    /// `Err` if data were read in another way than training treated them; else what a person should know.
    ///
    /// # Errors
    /// [`ReadError::Treatment`], with the flag that agrees with the arguments.
    pub fn compare(&self, data: &TextData) -> Result<Vec<String>, ReadError> {
        match self.differences(data).into_iter().next() {
            Some(Difference { what, found, hint }) => {
                Err(ReadError::Treatment { file: self.file.clone(), what, found, hint })
            }
            None => Ok(self.notes(data)),
        }
    }

    /// Every way in which data were read otherwise than training treated them.
    pub fn differences(&self, data: &TextData) -> Vec<Difference> {
        let (packed, cut) = (self.packed_otherwise(data), self.cut_otherwise(data));
        [packed, cut, self.of_other_targets(data), self.of_another_template(data)].into_iter().flatten().collect()
    }

    /// TRL needs marks of what the assistant says, and takes a template that has them in place of one without.
    fn of_another_template(&self, data: &TextData) -> Option<Difference> {
        if !self.assistant_only || !data.by_prefixes || data.names_template {
            return None;
        }
        let (what, file) = match data.replaced_in_training {
            Some(family) => (
                format!("took a chat template of TRL's own for the assistant's turns (`{family}_training.jinja`)"),
                format!("{family}_training.jinja"),
            ),
            None => (
                "took a chat template with marks of what the assistant says (`assistant_only_loss=True`)".to_string(),
                "FAMILY_training.jinja".to_string(),
            ),
        };
        difference(
            what,
            "that of the checkpoint has no marks, and the turns are found by what each adds".to_string(),
            format!("`--chat-template FILE`: TRL's are in its package, `trl/chat_templates/{file}`"),
        )
    }

    fn packed_otherwise(&self, data: &TextData) -> Option<Difference> {
        match (&self.packing, data.pack, self.max_length) {
            (Packing::Blocks(blocks), pack, Some(length)) if pack != Some(length) => {
                let found =
                    pack.map_or("they are read one by one".to_string(), |n| format!("they are read in blocks of {n}"));
                let hint = if blocks.wrapped { blocks.flag(length) } else { format!("`--pack {length}`") };
                difference(format!("packed the examples into blocks of {length} tokens"), found, hint)
            }
            (Packing::Blocks(blocks), Some(length), _) if blocks.wrapped => blocks.difference(length, data),
            (Packing::None, Some(n), _) => difference(
                "did not pack the examples".into(),
                format!("they are read in blocks of {n}"),
                "leave out `--pack`".into(),
            ),
            (Packing::Whole { strategy }, Some(n), _) => difference(
                format!("kept each example whole and by itself (`{strategy}`)"),
                format!("they are read in blocks of {n}"),
                "leave out `--pack`: rows of several whole examples train like the examples".into(),
            ),
            _ => None,
        }
    }

    fn cut_otherwise(&self, data: &TextData) -> Option<Difference> {
        let length = self.max_length.filter(|_| data.pack.is_none())?;
        let longest = format!("the longest that was read has {}", data.longest);
        if let Packing::Whole { strategy } = &self.packing
            && self.divides_long()
        {
            let other = data.max_length.filter(|&other| data.divided > 0 && other != length);
            if data.longest > length || data.cut > 0 && data.longest >= length || other.is_some() {
                let found = match other {
                    Some(other) => format!("they are divided into pieces of {other} here"),
                    None if data.cut > 0 => format!("{} are cut here", data.cut),
                    None => longest,
                };
                return difference(
                    format!(
                        "divided examples of more than {length} tokens into pieces that do not see each other (`{strategy}`)"
                    ),
                    found,
                    format!("`--max-length {length} --split-long`"),
                );
            }
        }
        if data.divided > 0 && !self.divides_long() {
            return difference(
                format!("cut examples to {length} tokens"),
                format!("{} are divided into pieces here", data.divided),
                format!("`--max-length {length}` without `--split-long`"),
            );
        }
        if data.longest > length {
            let which = if self.keeps_end { "their last " } else { "" };
            return difference(
                format!("cut examples to {which}{length} tokens"),
                longest,
                format!("`--max-length {length}`"),
            );
        }
        // whatever the arguments say is taken where the job says nothing
        if data.cut > 0 && data.keep_end && !self.keeps_end {
            return difference(
                "kept the first tokens of examples that it cut".to_string(),
                "the last are kept here".to_string(),
                "leave out `--keep-end`".to_string(),
            );
        }
        None
    }

    fn of_other_targets(&self, data: &TextData) -> Option<Difference> {
        if data.by_collator {
            return None;
        }
        match (self.completion_only, self.assistant_only, data.is_masked()) {
            (Some(false), false, true) if self.release.chooses_targets() => difference(
                "had prompts and completions as targets (`completion_only_loss=False`)".into(),
                format!("{} of {} tokens are targets", data.targets, data.tokens),
                "`--loss-on all`, or write each prompt and completion as one `text`".into(),
            ),
            (Some(true), _, false) => difference(
                "had completions alone as targets (`completion_only_loss=True`)".into(),
                "every token that was read is a target".into(),
                "give each example as `prompt` and `completion`".into(),
            ),
            (_, true, false) => difference(
                "had the assistant's turns alone as targets (`assistant_only_loss=True`)".into(),
                "every token that was read is a target".into(),
                "`--loss-on assistant` for `messages`; else give each example as `prompt` and `completion`, or as `input_ids` and `labels`".into(),
            ),
            _ => None,
        }
    }

    /// What a person should know of data that were read as training treated them.
    pub fn notes(&self, data: &TextData) -> Vec<String> {
        let mut notes = vec![];
        if let (Packing::Blocks(blocks), Some(_)) = (&self.packing, data.pack) {
            notes.extend(blocks.notes());
        }
        if let (Packing::Whole { strategy }, None) = (&self.packing, data.pack) {
            notes.push(format!(
                "training packed whole examples into rows (`{strategy}`), in which they do not see each other if its attention knew their borders, as flash attention does: each is scored by itself, and the log's epochs count rows, which says nothing of their number"
            ));
            if !WHOLE.contains(&strategy.as_str()) {
                notes.push(format!(
                    "the packing strategy `{strategy}` is not known here: its rows are taken to hold whole examples"
                ));
            }
        }
        if self.padding_free && self.packing == Packing::None {
            notes.push(
                "training joined the examples of a batch into one row without padding (`padding_free=True`), where they do not see each other if its attention knew their borders, as flash attention does: each is scored by itself".to_string(),
            );
        }
        if let Some(length) = data.max_length
            && data.cut > 0
            && data.pack.is_none()
            && self.max_length.is_none_or(|trained| length < trained)
        {
            let trained = self.max_length.map_or("did not cut them".to_string(), |n| format!("cut them to {n}"));
            notes.push(format!("{} examples are cut to {length} tokens, where training {trained}", data.cut));
        }
        if let Some(path) = self.chat_template.as_ref().filter(|_| data.conversations && !data.names_template) {
            notes.push(format!(
                "training took its chat template from `{path}`; that of the checkpoint's tokenizer is used, which a trainer saves with it (another: `--chat-template FILE`)"
            ));
        }
        notes.extend(self.notes_on_ends(data));
        let release = self.release;
        match self.special_tokens().1 {
            InConversations::Tokenizer if data.conversations => notes.push(format!(
                "{release} tokenized rendered conversations like texts, with what the tokenizer adds by itself, and so they are here (`--special-tokens none`: without)"
            )),
            InConversations::TokenizerAndEnd if data.conversations => notes.push(format!(
                "{release} tokenized rendered conversations like texts, with what the tokenizer adds by itself and an end token behind those that do not end with it, and so they are here (`--special-tokens none`: without)"
            )),
            _ => {}
        }
        if data.by_collator {
            return notes;
        }
        if release == TrlRelease::UpTo14 && data.is_masked() && !data.conversations {
            notes.push(format!(
                "{release} rendered rows of a prompt and a completion with the chat template, as turns of a user and an assistant, and every token was a target; {} of {} tokens are targets here; what its `DataCollatorForCompletionOnlyLM` chose, which nothing records, is `--response-template TEXT` (and else write the rows as `messages`)",
                data.targets, data.tokens
            ));
        } else if !release.chooses_targets() && data.is_masked() {
            notes.push(format!(
                "every token was a target of {release}, unless its `DataCollatorForCompletionOnlyLM` or another collator left some out, which nothing records (`--response-template TEXT` does what the former did); {} of {} are targets here (`--loss-on all`)",
                data.targets, data.tokens
            ));
        }
        notes
    }

    /// What a person should know of end tokens, if those of the data are not surely those of training.
    fn notes_on_ends(&self, data: &TextData) -> Option<String> {
        let release = self.release;
        if !self.puts_ends() {
            return (data.adds_end && !data.conversations).then(|| {
                format!(
                    "{release} put no end token behind texts, and one is added here: that is right only if the texts themselves had it (else leave out `--add-eos`)"
                )
            });
        }
        if data.ends_are_input {
            return Some(
                "TRL's end tokens are targets, unless its collator left padding out of the loss and padded with them, as it did before it had one of its own; they are none here (`--add-eos train`)".to_string(),
            );
        }
        (!data.adds_end && !self.assistant_only && !data.conversations).then(|| {
            let token = self.end_token.as_ref().map_or("the end token".to_string(), |token| format!("`{token}`"));
            format!(
                "TRL puts {token} behind each text; none is added here (`--add-eos train`), so that the texts have to end with it"
            )
        })
    }
}

/// How TRL joined examples into blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Whether it was as by the strategy `wrapped`, which begins anew with each batch of 1,000 mapped rows and keeps its
    /// shorter last block. The releases before 0.15 shuffled what they joined and left the rest out.
    pub wrapped: bool,
    /// `dataset_num_proc`: processes that mapped the rows, each its own share.
    pub processes: usize,
    /// Whether the examples were shuffled before they were joined.
    pub shuffled: bool,
}

/// Strategies that divide examples that are too long, and lose nothing of them.
const SPLITTING: [&str; 2] = ["bfd_split", "bfd-requeue"];

/// Strategies whose rows hold whole examples, all that are known.
const WHOLE: [&str; 4] = ["bfd", "bfd_split", "bfd-requeue", "ffd"];

/// Rows of a batch of `datasets`' `map`.
const MAPPED_ROWS: usize = 1000;

impl Blocks {
    /// The batches of rows within which texts were joined.
    fn mapped(self) -> MappedRows {
        MappedRows { rows: Some(MAPPED_ROWS), processes: self.processes }
    }

    /// The flag that makes these blocks.
    fn flag(self, length: usize) -> String {
        match self.processes {
            0 | 1 => format!("`--pack {length}:{MAPPED_ROWS}:keep`"),
            processes => format!("`--pack {length}:{MAPPED_ROWS}:{processes}:keep`"),
        }
    }

    /// What is another block.
    fn difference(self, length: usize, data: &TextData) -> Option<Difference> {
        let (here, n) =
            (MappedRows { rows: data.pack_rows, processes: data.pack_processes.unwrap_or(1) }, data.documents);
        if self.mapped().ends(n).ne(here.ends(n)) {
            let place = |mapped: MappedRows| match (mapped.rows.filter(|&rows| rows < n), mapped.processes) {
                (None, 0 | 1) => "nowhere".to_string(),
                (Some(rows), 0 | 1) => format!("after every {rows} rows"),
                (None, processes) => format!("in each of {processes} shares of the rows"),
                (Some(rows), processes) => format!("after every {rows} rows of each of {processes} shares of them"),
            };
            return difference(
                format!("began its blocks anew {} (`wrapped`)", place(self.mapped())),
                format!("{} here", place(here)),
                self.flag(length),
            );
        }
        if !data.pack_keeps_rest && data.unpacked > 0 {
            return difference(
                "kept what filled no block as a shorter one (`wrapped`)".to_string(),
                format!("{} tokens are left out", data.unpacked),
                self.flag(length),
            );
        }
        None
    }

    fn notes(self) -> Vec<String> {
        let mut notes = vec![];
        if self.shuffled && self.wrapped {
            notes.push(
                "training shuffled the texts before it joined them (`shuffle_dataset=True`): its blocks had other texts side by side than these, which are joined in the order of the file".to_string(),
            );
        }
        if !self.wrapped {
            notes.push(
                "a TRL before 0.15 shuffled the texts and joined them with an end token behind each (`ConstantLengthDataset`), in an order that is not recorded, and left out what filled no block: its blocks had other texts side by side than these, which are joined in the order of the file".to_string(),
            );
        }
        notes
    }
}

/// A way in which data were read otherwise than training treated them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What training did.
    pub what: String,
    /// What was read.
    pub found: String,
    /// What makes both alike.
    pub hint: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, found, .. } = self;
        write!(f, "training {what}, but {found}")
    }
}

fn difference(what: String, found: String, hint: String) -> Option<Difference> {
    Some(Difference { what, found, hint })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    fn treatment() -> TextTreatment {
        TextTreatment {
            file: "training_args.bin".into(),
            release: TrlRelease::From17,
            max_length: Some(64),
            keeps_end: false,
            packing: Packing::None,
            padding_free: false,
            text_field: Some("text".into()),
            completion_only: None,
            assistant_only: false,
            end_token: None,
            chat_template: None,
            tokenizer_adds: None,
            joins_with_end: true,
        }
    }

    fn data() -> TextData {
        TextData {
            examples: 28,
            tokens: 814,
            targets: 786,
            longest: 40,
            adds_end: true,
            is_whole: true,
            ..TextData::default()
        }
    }

    fn refused(treatment: &TextTreatment, data: &TextData) -> (String, String) {
        let error = treatment.compare(data).unwrap_err();
        (error.to_string(), error.hint().unwrap())
    }

    #[test]
    fn data_that_were_treated_alike_pass() {
        assert_eq!(treatment().compare(&data()).unwrap(), Vec::<String>::new());
        let notes = treatment().compare(&TextData { adds_end: false, ..data() }).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("--add-eos train"), "{notes:?}");
        let chats = TextData { adds_end: false, conversations: true, ..data() };
        assert_eq!(treatment().compare(&chats).unwrap(), Vec::<String>::new(), "a template has written the ends");
        let taken = TextTreatment { chat_template: Some("chat.jinja".into()), ..treatment() };
        assert!(taken.compare(&chats).unwrap()[0].contains("`chat.jinja`"));
        assert!(taken.compare(&TextData { names_template: true, ..chats }).unwrap().is_empty());
        let notes = treatment().compare(&TextData { cut: 3, max_length: Some(32), longest: 32, ..data() }).unwrap();
        assert_eq!(notes, ["3 examples are cut to 32 tokens, where training cut them to 64"]);
    }

    /// Before 0.17 no argument chose targets, and before 0.16 nothing was put behind texts that were not packed.
    #[test]
    fn what_earlier_releases_did_is_said() {
        let of = |release| TextTreatment { release, ..treatment() };
        let said = |release, data: &TextData| of(release).compare(data).unwrap().join("\n");
        let masked = TextData { targets: 600, ..data() };
        for (release, name) in [(TrlRelease::UpTo14, "a TRL before 0.15"), (TrlRelease::Of15, "TRL 0.15")] {
            assert!(said(release, &data()).starts_with(&format!("{name} put no end token behind texts")));
            assert_eq!(said(release, &TextData { adds_end: false, ..data() }), "", "{release:?}");
            assert!(said(release, &masked).contains("`DataCollatorForCompletionOnlyLM`"), "{release:?}");
        }
        assert!(said(TrlRelease::UpTo14, &masked).contains("rendered rows of a prompt and a completion"));
        assert_eq!(said(TrlRelease::Of16, &data()), "");
        assert!(said(TrlRelease::Of16, &TextData { adds_end: false, ..data() }).contains("`--add-eos train`"));
        assert!(said(TrlRelease::Of16, &masked).contains("600 of 814 are targets here (`--loss-on all`)"));
        assert_eq!(said(TrlRelease::From17, &masked), "");
        // what was packed before 0.15 had end tokens
        let packing = Packing::Blocks(Blocks { wrapped: false, processes: 1, shuffled: true });
        let packed = TextTreatment { packing, ..of(TrlRelease::UpTo14) };
        let blocks = TextData { pack: Some(64), ..data() };
        assert!(!packed.compare(&blocks).unwrap().join("\n").contains("put no end token"));
        let without = TextData { adds_end: false, ..blocks };
        assert!(packed.compare(&without).unwrap().join("\n").contains("TRL puts the end token behind each text"));
        // unless it was told to join them without
        let joined = TextTreatment { joins_with_end: false, ..packed };
        assert!(
            joined.compare(&blocks).unwrap().join("\n").contains("put no end token behind texts, and one is added")
        );
        assert!(!joined.compare(&without).unwrap().join("\n").contains("end token behind each text"));
        // 0.15 and 0.16 tokenized conversations like texts
        let chats = TextData { conversations: true, adds_end: false, ..data() };
        assert!(said(TrlRelease::Of15, &chats).contains("what the tokenizer adds by itself, and so they are here"));
        assert!(said(TrlRelease::Of16, &chats).contains("an end token behind those that do not end with it, and so"));
        assert_eq!(said(TrlRelease::From17, &chats), "");
        // padding that the collator left out is no other choice of targets
        let padded = TextData { targets: 758, padding: 28, ..data() };
        assert!(!said(TrlRelease::Of15, &padded).contains("are targets here"));
        assert!(of(TrlRelease::Of15).leaves_padding_out() && !of(TrlRelease::Of16).leaves_padding_out());
        // whoever says what the collator looked for has its targets
        let collated = TextData { by_collator: true, ..masked };
        for release in [TrlRelease::Of15, TrlRelease::Of16, TrlRelease::From17] {
            assert!(!said(release, &collated).contains("are targets here"), "{release:?}");
        }
    }

    /// A template without marks is not what TRL trained the assistant's turns with.
    #[test]
    fn turns_that_were_found_without_marks_are_refused() {
        let turns = TextTreatment { assistant_only: true, ..treatment() };
        let chats = TextData { targets: 600, conversations: true, adds_end: false, by_prefixes: true, ..data() };
        let (message, hint) = refused(&turns, &chats);
        assert!(message.contains("took a chat template with marks of what the assistant says"), "{message}");
        assert!(hint.starts_with("`--chat-template FILE`: TRL's are in its package"), "{hint}");
        let known = TextData { replaced_in_training: Some("qwen3"), ..chats };
        assert!(refused(&turns, &known).1.ends_with("`trl/chat_templates/qwen3_training.jinja`"));
        assert!(turns.compare(&TextData { names_template: true, ..known }).is_ok());
        assert!(treatment().compare(&known).is_ok(), "all tokens are targets");
    }

    #[test]
    fn packing_of_another_kind_is_refused() {
        let packing = Packing::Blocks(Blocks { wrapped: false, processes: 1, shuffled: false });
        let blocks = TextTreatment { packing, ..treatment() };
        let (message, hint) = refused(&blocks, &data());
        assert_eq!(
            message,
            "training_args.bin: training packed the examples into blocks of 64 tokens, but they are read one by one"
        );
        assert_eq!(hint, "`--pack 64`");
        let notes = blocks.compare(&TextData { pack: Some(64), ..data() }).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("ConstantLengthDataset"), "{notes:?}");
        assert!(refused(&blocks, &TextData { pack: Some(32), ..data() }).0.contains("blocks of 32"));
        assert!(refused(&treatment(), &TextData { pack: Some(64), ..data() }).1.contains("--pack"));
        let whole = TextTreatment { packing: Packing::Whole { strategy: "bfd".into() }, ..treatment() };
        assert!(!whole.rows_are_examples() && blocks.rows_are_examples());
        assert_eq!(whole.compare(&data()).unwrap().len(), 1);
        assert!(refused(&whole, &TextData { pack: Some(64), ..data() }).0.contains("`bfd`"));
    }

    /// `wrapped` begins anew with each mapped batch of 1,000 rows of each process, and keeps what fills no block.
    #[test]
    fn blocks_of_trl_are_asked_for_with_their_flag() {
        let of = |processes, shuffled| {
            let packing = Packing::Blocks(Blocks { wrapped: true, processes, shuffled });
            TextTreatment { packing, ..treatment() }
        };
        let read = |documents, (pack_rows, pack_processes), pack_keeps_rest| TextData {
            pack: Some(64),
            pack_rows,
            pack_processes,
            pack_keeps_rest,
            documents,
            unpacked: if pack_keeps_rest { 0 } else { 46 },
            ..data()
        };
        for (processes, documents, right, flag) in [
            (1, 28, (None, None), "`--pack 64:1000:keep`"),
            (1, 2500, (Some(1000), None), "`--pack 64:1000:keep`"),
            (2, 28, (Some(14), None), "`--pack 64:1000:2:keep`"),
            (2, 28, (None, Some(2)), "`--pack 64:1000:2:keep`"),
            (2, 4000, (Some(1000), None), "`--pack 64:1000:2:keep`"),
            (3, 28, (Some(1000), Some(3)), "`--pack 64:1000:3:keep`"),
        ] {
            let trl = of(processes, false);
            assert_eq!(trl.compare(&read(documents, right, true)).unwrap(), [""; 0], "{processes} {documents}");
            let (message, hint) = refused(&trl, &read(documents, right, false));
            assert!(message.ends_with("but 46 tokens are left out") && hint == flag, "{message} {hint}");
            let (message, hint) = refused(&trl, &read(documents, (Some(9), None), true));
            assert!(message.ends_with("but after every 9 rows here") && hint == flag, "{message} {hint}");
            assert_eq!(refused(&trl, &TextData { documents, ..data() }).1, flag);
        }
        // as many rows as there are, or more, begin nothing anew
        assert_eq!(of(1, false).compare(&read(28, (Some(1000), None), true)).unwrap(), [""; 0]);
        let notes = of(3, true).compare(&read(28, (None, Some(3)), true)).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("shuffled"), "{notes:?}");
        let message = refused(&of(3, false), &read(28, (None, None), true)).0;
        assert!(message.contains("anew in each of 3 shares of the rows (`wrapped`), but nowhere here"), "{message}");
    }

    #[test]
    fn examples_that_training_cut_are_refused_whole() {
        let (message, hint) = refused(&treatment(), &TextData { longest: 65, ..data() });
        assert!(
            message.ends_with("training cut examples to 64 tokens, but the longest that was read has 65"),
            "{message}"
        );
        assert_eq!(hint, "`--max-length 64`");
    }

    #[test]
    fn the_other_end_and_pieces_of_long_examples_are_refused() {
        let cut = TextData { cut: 3, max_length: Some(64), longest: 64, ..data() };
        assert_eq!(treatment().compare(&cut).unwrap(), [""; 0]);
        let (message, hint) = refused(&treatment(), &TextData { keep_end: true, ..cut });
        assert!(message.ends_with("but the last are kept here") && hint.contains("--keep-end"), "{message}");
        let ends = TextTreatment { keeps_end: true, ..treatment() };
        assert_eq!(ends.compare(&TextData { keep_end: true, ..cut }).unwrap(), [""; 0]);
        assert!(refused(&ends, &TextData { longest: 65, ..data() }).0.contains("cut examples to their last 64 tokens"));
        for strategy in SPLITTING {
            let pieces = TextTreatment { packing: Packing::Whole { strategy: strategy.into() }, ..treatment() };
            assert_eq!(pieces.compare(&data()).unwrap().len(), 1);
            assert!(refused(&pieces, &cut).0.ends_with("but 3 are cut here"));
            let (message, hint) = refused(&pieces, &TextData { longest: 65, ..data() });
            assert!(message.contains("into pieces that do not see each other"), "{message}");
            assert_eq!(hint, "`--max-length 64 --split-long`");
            let divided = TextData { divided: 2, max_length: Some(64), longest: 64, ..data() };
            assert_eq!(pieces.compare(&divided).unwrap().len(), 1);
            let others = TextData { max_length: Some(32), longest: 32, ..divided };
            assert!(refused(&pieces, &others).0.ends_with("but they are divided into pieces of 32 here"));
            assert!(refused(&treatment(), &divided).0.ends_with("but 2 are divided into pieces here"));
        }
        let unknown = TextTreatment { packing: Packing::Whole { strategy: "tetris".into() }, ..treatment() };
        assert!(unknown.compare(&data()).unwrap()[1].contains("`tetris` is not known"));
        let free = TextTreatment { padding_free: true, ..treatment() };
        assert!(free.compare(&data()).unwrap()[0].contains("`padding_free=True`"));
    }

    #[test]
    fn other_targets_are_refused() {
        let all = TextTreatment { completion_only: Some(false), ..treatment() };
        assert!(all.compare(&data()).is_ok());
        let (message, hint) = refused(&all, &TextData { targets: 600, ..data() });
        assert!(message.contains("`completion_only_loss=False`") && message.ends_with("600 of 814 tokens are targets"));
        assert!(hint.contains("one `text`"));
        let completions = TextTreatment { completion_only: Some(true), ..treatment() };
        assert!(completions.compare(&TextData { targets: 600, ..data() }).is_ok());
        assert!(refused(&completions, &data()).0.contains("every token that was read is a target"));
        let turns = TextTreatment { assistant_only: true, ..treatment() };
        assert!(refused(&turns, &data()).0.contains("`assistant_only_loss=True`"));
    }
}
