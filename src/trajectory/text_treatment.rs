//! What TRL did to texts before training, by its arguments, and whether data that were read are treated alike.
//!
//! TRL's trainer cuts texts, packs them and chooses which tokens are targets. A job says the same with flags of its
//! own; where the two contradict each other, scores would explain another training run.

use crate::trajectory::error::ReadError;
use crate::trajectory::text_data::TextData;

/// The fields of TRL's `SFTConfig` that say what became of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTreatment {
    /// The file that says so.
    pub file: std::path::PathBuf,
    /// Tokens after which an example is cut, or of a block; `None` if it was not cut.
    pub max_length: Option<usize>,
    /// How examples were packed.
    pub packing: Packing,
    /// Whether completions alone were targets; `None` where TRL decides by whether there are prompts.
    pub completion_only: Option<bool>,
    /// Whether the assistant's turns alone were targets.
    pub assistant_only: bool,
    /// The end token, if another than the tokenizer's.
    pub end_token: Option<String>,
    /// Where the trainer took its chat template from, if not from the tokenizer.
    pub chat_template: Option<String>,
}

/// How examples were packed into rows of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packing {
    /// Each is a row of its own.
    None,
    /// Joined and cut into blocks of the maximal length, the last one shorter: `wrapped`, and what TRL did before it
    /// had strategies.
    Blocks,
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
        let length = self.max_length.map_or("not cut".to_string(), |n| format!("at most {n} tokens"));
        let packing = match &self.packing {
            Packing::None => "not packed".to_string(),
            Packing::Blocks => "packed into blocks".to_string(),
            Packing::Whole { strategy } => format!("packed whole ({strategy})"),
        };
        let targets = match (self.assistant_only, self.completion_only) {
            (true, _) => "assistant's turns are targets",
            (_, Some(true)) => "completions are targets",
            (_, Some(false)) => "prompts and completions are targets",
            (_, None) => "completions are targets where there are prompts",
        };
        format!("{length}, {packing}; {targets}")
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
        [self.packed_otherwise(data), self.cut_otherwise(data), self.of_other_targets(data)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn packed_otherwise(&self, data: &TextData) -> Option<Difference> {
        match (&self.packing, data.pack, self.max_length) {
            (Packing::Blocks, pack, Some(length)) if pack != Some(length) => {
                let found =
                    pack.map_or("they are read one by one".to_string(), |n| format!("they are read in blocks of {n}"));
                difference(
                    format!("packed the examples into blocks of {length} tokens"),
                    found,
                    format!("`--pack {length}`"),
                )
            }
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
        let length = self.max_length.filter(|&length| data.pack.is_none() && data.longest > length)?;
        difference(
            format!("cut examples to {length} tokens"),
            format!("the longest that was read has {}", data.longest),
            format!("`--max-length {length}`"),
        )
    }

    fn of_other_targets(&self, data: &TextData) -> Option<Difference> {
        match (self.completion_only, self.assistant_only, data.is_masked()) {
            (Some(false), false, true) => difference(
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
        if let (Packing::Whole { strategy }, None) = (&self.packing, data.pack) {
            notes.push(format!(
                "training packed whole examples into rows (`{strategy}`), in which they do not see each other: each is scored by itself, and the log's epochs count rows, which says nothing of their number"
            ));
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
        if !data.adds_end && !self.assistant_only && !data.conversations {
            let token = self.end_token.as_ref().map_or("the end token".to_string(), |token| format!("`{token}`"));
            notes.push(format!(
                "TRL puts {token} behind each text; none is added here (`--add-eos train`), so that the texts have to end with it"
            ));
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

    fn treatment() -> TextTreatment {
        TextTreatment {
            file: "training_args.bin".into(),
            max_length: Some(64),
            packing: Packing::None,
            completion_only: None,
            assistant_only: false,
            end_token: None,
            chat_template: None,
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

    #[test]
    fn packing_of_another_kind_is_refused() {
        let blocks = TextTreatment { packing: Packing::Blocks, ..treatment() };
        let (message, hint) = refused(&blocks, &data());
        assert_eq!(
            message,
            "training_args.bin: training packed the examples into blocks of 64 tokens, but they are read one by one"
        );
        assert_eq!(hint, "`--pack 64`");
        assert!(blocks.compare(&TextData { pack: Some(64), ..data() }).is_ok());
        assert!(refused(&blocks, &TextData { pack: Some(32), ..data() }).0.contains("blocks of 32"));
        assert!(refused(&treatment(), &TextData { pack: Some(64), ..data() }).1.contains("--pack"));
        let whole = TextTreatment { packing: Packing::Whole { strategy: "bfd".into() }, ..treatment() };
        assert!(!whole.rows_are_examples() && blocks.rows_are_examples());
        assert_eq!(whole.compare(&data()).unwrap().len(), 1);
        assert!(refused(&whole, &TextData { pack: Some(64), ..data() }).0.contains("`bfd`"));
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
