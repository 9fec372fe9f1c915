//! What is refused of one line of a data file, and what to do about it.

use std::path::PathBuf;

use super::chat::problem::ChatProblem;
use super::images::problem::ImageProblem;
use crate::Hint;
use crate::foreign_file::size;

/// What is wrong with one line of a data file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// Bytes that are no text.
    #[error("invalid UTF-8 at byte {byte} of the line")]
    Utf8 {
        /// The first wrong byte, counted from 1.
        byte: usize,
    },
    /// Bytes of a cell that are no text.
    #[error("`{column}` has invalid UTF-8 at its byte {byte}")]
    Utf8Cell {
        /// The column.
        column: String,
        /// The first wrong byte, counted from 1.
        byte: usize,
    },
    /// A row of a table with more or fewer cells than the table has columns.
    #[error("{found} cells, and the first line names {expected} columns")]
    Cells {
        /// Cells of the row.
        found: usize,
        /// Names of columns.
        expected: usize,
    },
    /// A column that was chosen is not there.
    #[error("no `{column}`, which `{flag}` names")]
    NoColumn {
        /// The column.
        column: String,
        /// The flag that chose it.
        flag: &'static str,
        /// A column with a similar name.
        near: Option<String>,
        /// The columns that there are.
        fields: Vec<String>,
    },
    /// No field that holds an image.
    #[error("no `image` and no `file_name`")]
    NoImage {
        /// The fields that the row has.
        fields: Vec<String>,
    },
    /// An image that cannot be used.
    #[error("{}: {problem}", name.as_ref().map_or_else(|| "the image".to_owned(), |name| format!("the image {name:?}")))]
    Image {
        /// What it is called, if it has a name.
        name: Option<String>,
        /// What is wrong with it.
        problem: ImageProblem,
    },
    /// A line that no example has.
    #[error("the line is longer than {}", size(*limit as u64))]
    TooLong {
        /// The most bytes a line may have.
        limit: usize,
    },
    /// No JSON.
    #[error("broken JSON at {}column {column}: {message}", if *line > 1 { format!("its line {line}, ") } else { String::new() })]
    Json {
        /// Which line of the row, counted from 1.
        line: usize,
        /// Where, counted from 1.
        column: usize,
        /// What serde said, without the place.
        message: String,
    },
    /// JSON, but no object.
    #[error("{found}, expected an object")]
    NotObject {
        /// What it is.
        found: &'static str,
    },
    /// No field that holds an example.
    #[error("no `text`, no `prompt` and `completion`, no `messages`, no `input_ids`")]
    NoContent {
        /// The fields that the line has.
        fields: Vec<String>,
    },
    /// No field that holds a text to be classified.
    #[error("no `text` and no `input_ids`")]
    NoText {
        /// The fields that the line has.
        fields: Vec<String>,
    },
    /// No field that words are read from.
    #[error("no text: a filter or a baseline of words reads `text`, `prompt` and `completion`, or `messages`")]
    NoWords {
        /// The fields that the line has.
        fields: Vec<String>,
    },
    /// No text for an encoder with one for a decoder.
    #[error(
        "no `prompt` with a `completion` and no `input_ids` with `labels`, and the model reads one text and writes another"
    )]
    NoPair {
        /// The fields that the line has.
        fields: Vec<String>,
    },
    /// No tokens with what stood in their places, and the model fills in masked tokens.
    #[error("no `input_ids` with `labels`, and the model fills in masked tokens")]
    NoMasks {
        /// The other fields that the line has.
        fields: Vec<String>,
    },
    /// An empty text for an encoder.
    #[error("no token for the encoder to read")]
    NothingToRead,
    /// An empty text for a decoder.
    #[error("no token for the decoder to write")]
    NothingToWrite,
    /// No label, and the model gives something for a whole text.
    #[error("no `label`, and the model classifies texts")]
    NoLabel {
        /// The other fields that the line has.
        fields: Vec<String>,
    },
    /// A class that the model does not have.
    #[error("the label is {label}, but the model has {classes} classes")]
    LabelRange {
        /// The label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// The name of a class that the configuration does not have.
    #[error("the label is \"{}\", which is no name of a class", short(name))]
    LabelName {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A number that the label cannot have.
    #[error("`{field}` has {}, expected {expected}", short(found))]
    LabelNumber {
        /// `label` or `labels`.
        field: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// Another number of labels than the model gives.
    #[error("`{field}` has {found} numbers, and the model gives {expected}")]
    LabelCount {
        /// `label` or `labels`.
        field: String,
        /// Numbers in the line.
        found: usize,
        /// Numbers that the model gives.
        expected: usize,
    },
    /// A token that is of a text that the model does not know.
    #[error("token {index} is of type {kind}, but the model has {types} token types")]
    TokenType {
        /// Place of the token.
        index: usize,
        /// Its type.
        kind: u32,
        /// Types of the model.
        types: usize,
    },
    /// Fields that exclude each other.
    #[error("both `{first}` and `{second}`")]
    TwoContents {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Half of a pair of fields.
    #[error("`{has}` without `{lacks}`")]
    Partner {
        /// The field that is there.
        has: &'static str,
        /// The field that it needs.
        lacks: &'static str,
    },
    /// Two completions of one prompt for a model that gives something for a whole text.
    #[error("`chosen` and `rejected`, but the model classifies texts")]
    ContrastOfClasses,
    /// Two completions of one prompt for a model whose encoder reads the prompt.
    #[error("`chosen` and `rejected`, which a model with an encoder and a decoder is not asked about")]
    ContrastOfPairs,
    /// A contrast that is no difference.
    #[error("`chosen` and `rejected` have the same tokens{}", if *cut { " after the cut" } else { "" })]
    ContrastOfEquals {
        /// Whether they were cut.
        cut: bool,
    },
    /// A field of another type.
    #[error("`{field}` is {found}, expected {expected}")]
    FieldType {
        /// The field, or one of its elements.
        field: String,
        /// What it is.
        found: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A token that the model does not have.
    #[error("`{field}[{index}]` is {id}, but the model's vocabulary has {vocabulary} tokens")]
    TokenRange {
        /// `input_ids` or `labels`.
        field: &'static str,
        /// Place in the list.
        index: usize,
        /// The id found.
        id: i64,
        /// Number of tokens.
        vocabulary: usize,
    },
    /// Lists that belong together have different lengths.
    #[error("`{field}` has {found} elements, `input_ids` has {expected}")]
    ListLength {
        /// `labels` or `attention_mask`.
        field: &'static str,
        /// Its length.
        found: usize,
        /// The length of `input_ids`.
        expected: usize,
    },
    /// An attention mask with a hole.
    #[error("`attention_mask[{index}]` is 0 between attended tokens")]
    MaskHole {
        /// Place in the list.
        index: usize,
    },
    /// Nothing to predict.
    #[error("no target token after the first of {tokens} tokens{}", if *cut { " (cut by `--max-length`)" } else { "" })]
    NoTarget {
        /// Tokens of the example.
        tokens: usize,
        /// Whether it was longer.
        cut: bool,
    },
    /// More tokens than the model has positions.
    #[error("{tokens} tokens, but the model has {positions} positions")]
    TooManyTokens {
        /// Tokens of the example.
        tokens: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// Two examples with one id.
    #[error("the id `{id}` is already that of line {first}")]
    DuplicateId {
        /// The id.
        id: String,
        /// The line that had it first.
        first: usize,
    },
    /// A column of the name that the pieces of long examples take for the whole example's id.
    #[error("`{column}` is what pieces of long examples keep the whole example's id in")]
    ColumnOfPieces {
        /// The column.
        column: &'static str,
    },
    /// The field that was chosen as the id is not there.
    #[error("no `{field}`, which was chosen as the id")]
    NoId {
        /// The field.
        field: String,
    },
    /// A text that takes too much memory to be tokenized.
    #[error("a text of {bytes} bytes{}, and at most {limit} are tokenized at once", if *normalized { " or more behind the tokenizer's normalizer" } else { "" })]
    TextTooLong {
        /// Bytes of the text.
        bytes: usize,
        /// Whether they are those behind the normalizer.
        normalized: bool,
        /// The most bytes of a text.
        limit: usize,
    },
    /// A text with a token for which the model has no embedding.
    #[error("the text has the token `{token}` ({id}), but the model's embedding has {vocabulary} rows")]
    NoEmbedding {
        /// The token's text.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// The text itself begins or ends with the special token that is added to it.
    #[error("the text already {} with `{token}`, which is added once more", if *which == "bos" { "begins" } else { "ends" })]
    SpecialInText {
        /// `bos` or `eos`.
        which: &'static str,
        /// The token's text.
        token: String,
        /// Whether the tokenizer adds it, or a flag.
        by_tokenizer: bool,
    },
    /// `--add-bos` or `--add-eos` repeats what the tokenizer does by itself.
    #[error("the tokenizer adds `{token}` by itself, and `--add-{which}` would add it twice")]
    SpecialTwice {
        /// `bos` or `eos`.
        which: &'static str,
        /// The token's text.
        token: String,
    },
    /// `--add-bos` or `--add-eos` for an example that is tokens already.
    #[error("`input_ids` are taken as they are, so `--add-{which}` cannot apply")]
    SpecialForIds {
        /// `bos` or `eos`.
        which: &'static str,
    },
    /// Text and no tokenizer.
    #[error("`{field}` needs a tokenizer")]
    NeedsTokenizer {
        /// The field.
        field: &'static str,
    },
    /// A conversation that cannot be rendered, or whose targets cannot be told.
    #[error(transparent)]
    Chat(#[from] ChatProblem),
    /// The tokenizer refuses the text.
    #[error("the tokenizer {} fails: {message}", file.display())]
    Encode {
        /// The tokenizer's file.
        file: PathBuf,
        /// What it said.
        message: String,
    },
}

impl Hint for LineProblem {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Utf8 { .. } | Self::Utf8Cell { .. } => "save the file as UTF-8".into(),
            Self::Cells { .. } => "a cell with a separator or a line break in it stands between quotation marks".into(),
            Self::NoColumn { flag, near: Some(near), .. } => format!("is it `{flag} {near}`?"),
            Self::NoColumn { fields, .. } => format!("the row has `{}`", fields.join("`, `")),
            Self::NoImage { fields } if fields.is_empty() => "the object is empty".into(),
            Self::NoImage { fields } => {
                format!("the row has `{}`; `--image-field FIELD` says which of them is the image", fields.join("`, `"))
            }
            Self::Image { problem, .. } => return problem.hint(),
            Self::TooLong { .. } => "is the file one example a line? a larger `--memory` allows up to 64 MiB".into(),
            Self::Json { .. } => "each line must be one complete JSON object".into(),
            Self::NotObject { found } if found.starts_with("an array") => {
                "an array of objects is read from a file whose name ends in `.json`".into()
            }
            Self::NotObject { .. } => "each line must be one JSON object".into(),
            Self::NoContent { fields } if fields.is_empty() => "the object is empty".into(),
            Self::NoContent { fields } => {
                let is_other = |field: &String| !["labels", "attention_mask", "id"].contains(&field.as_str());
                let flag = match fields.iter().any(is_other) {
                    true => "; `--text-field FIELD` says which of them is the text",
                    false => "",
                };
                format!("the line has `{}`{flag}", fields.join("`, `"))
            }
            Self::NoWords { fields } if fields.is_empty() => "the object is empty".into(),
            Self::NoWords { fields } => {
                format!("the line has `{}`; `--text-field FIELD` says which of them is the text", fields.join("`, `"))
            }
            Self::NoText { fields } | Self::NoLabel { fields } if fields.is_empty() => {
                "write a JSON object a line, with `text` and `label`".into()
            }
            Self::NoText { fields } | Self::NoLabel { fields } => format!("the line has `{}`", fields.join("`, `")),
            Self::NoPair { fields } if fields.is_empty() => {
                "write a JSON object a line, with `prompt` and `completion`".into()
            }
            Self::NoPair { fields } => format!("the line has `{}`", fields.join("`, `")),
            Self::NoMasks { .. } => {
                "which tokens were masked no text says: write rows of what the collator gave the model, \
                 `input_ids` with the mask tokens in them and `labels`, -100 where there is no loss"
                    .into()
            }
            Self::NothingToRead => "remove the example, or give it a `prompt` (`input_ids`)".into(),
            Self::NothingToWrite => "remove the example, or give it a `completion` (`labels`)".into(),
            Self::LabelRange { classes, .. } => {
                format!("classes count from 0 to {}; is the file of another task?", classes.saturating_sub(1))
            }
            Self::LabelName { known, .. } if known.is_empty() => {
                "`config.json` has no `label2id`: write the class's number".into()
            }
            Self::LabelName { known, .. } => {
                let shown: Vec<String> = known.iter().take(8).map(|name| format!("`{name}`")).collect();
                format!("`label2id` of `config.json` has {}", shown.join(", "))
            }
            Self::LabelNumber { .. } => "`problem_type` of `config.json` says what a label is".into(),
            Self::LabelCount { .. } => "give one number for each of the model's labels".into(),
            Self::TokenType { .. } => "is the tokenizer that of another model?".into(),
            Self::TwoContents { first, second } => format!("keep `{first}` or `{second}`, and rename the other"),
            Self::Partner { has, lacks } => format!("add `{lacks}` or rename `{has}`"),
            Self::ContrastOfClasses => {
                "write `text` and `label`; `--measure margin` compares a class with the others".into()
            }
            Self::ContrastOfPairs => {
                "ask about each by itself, as `prompt` and `completion`: scores may be subtracted".into()
            }
            Self::ContrastOfEquals { cut: true } => "raise `--max-length`, or remove the query".into(),
            Self::ContrastOfEquals { cut: false } => {
                "their difference is 0 for every training example: remove the query, or let them differ".into()
            }
            Self::FieldType { field, found: "a string", .. } if field == "prompt" || field == "completion" => {
                "write both as text, or both as an array of messages".into()
            }
            Self::FieldType { .. } => return None,
            Self::TokenRange { field: "labels", .. } => "a label is a token id, or -100 for no target".into(),
            Self::TokenRange { .. } => "was the data tokenized for another model?".into(),
            Self::ListLength { .. } => "give one element for each token".into(),
            Self::MaskHole { .. } => "only padding at either end can be removed".into(),
            Self::NoTarget { cut: true, .. } => "raise `--max-length`, or remove the example".into(),
            Self::NoTarget { .. } => "remove the example, or give it a target (`--add-eos`, `labels`)".into(),
            Self::TooManyTokens { positions, .. } => format!("`--max-length {positions}` cuts longer examples"),
            Self::DuplicateId { .. } => {
                "ids must differ; `--id-field FIELD` takes another field, `--id-field line` the line's number".into()
            }
            Self::ColumnOfPieces { .. } => "give the column another name, or leave `--split-long` out".into(),
            Self::SpecialInText { by_tokenizer: true, .. } => {
                "as training had it: `--special-tokens keep` for both, `--special-tokens none` for the text's own alone"
                    .into()
            }
            Self::SpecialInText { which, .. } => {
                format!("as training had it: leave `--add-{which}` out, or keep both with `--special-tokens keep`")
            }
            Self::SpecialTwice { which, .. } => format!("leave `--add-{which}` out"),
            Self::NoId { .. } => "`--id-field line` takes the line's number".into(),
            Self::TextTooLong { .. } => {
                "cut it into several rows, which `--pack` joins again; a larger `--memory` allows up to 8 MiB".into()
            }
            Self::NoEmbedding { .. } => {
                "give the tokenizer that this model was trained with (`--tokenizer PATH`)".into()
            }
            Self::SpecialForIds { which } => {
                format!("leave `--add-{which}` out, or restrict it to the other file (`train`, `queries`)")
            }
            Self::NeedsTokenizer { .. } => {
                "put `tokenizer.json` into the model's folder, or give it with `--tokenizer PATH`".into()
            }
            Self::Chat(problem) => return problem.hint(),
            Self::Encode { .. } => return None,
        })
    }
}

/// The beginning of what a line says, for an error.
fn short(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
