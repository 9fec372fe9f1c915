//! What is asked of the reading of a file: how, and what the model can take.

use std::sync::Arc;

use super::chat::options::ChatOptions;
use super::columns::Columns;
use super::files::Format;
use super::labels::Labels;
use super::responses::ResponseTemplates;
use super::specials::Specials;

/// How a file is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DataOptions {
    /// Longer examples are cut to this many tokens, special tokens included. Without it an example that
    /// is longer than the model's positions is an error.
    pub max_length: Option<usize>,
    /// Whether those keep their last tokens and not their first.
    pub keep_end: bool,
    /// Whether longer training examples are divided into pieces of that many tokens, each an example of its own, and nothing
    /// of them is lost.
    pub split_long: bool,
    /// Training documents are joined and cut into blocks of this many tokens. Queries are never packed.
    pub pack: Option<usize>,
    /// After every so many rows of the file packing begins anew; a script that packs each batch of a mapped data set
    /// does so. None: one stream.
    pub pack_rows: Option<usize>,
    /// Processes that packed, each a share of the rows; none: one.
    pub pack_processes: Option<usize>,
    /// What fills no block, at the end and where packing begins anew, is a shorter block; else it is left out.
    pub pack_keeps_rest: bool,
    /// Special tokens added to text.
    pub specials: Specials,
    /// Whether training examples are tokenized as TRL's SFTTrainer does it from its release 0.17 on: the end token that is
    /// added is written behind the text itself, before the tokenizer adds its own, unless the text ends with it, so that an
    /// empty text is an end token; a prompt ends where its tokens and those of the whole part, as since release 1.0; and
    /// examples of which a cut leaves no target are left out.
    pub as_trl: bool,
    /// The text of the end-of-sequence token that is added, if it is another than the tokenizer's files name.
    pub end_token: Option<String>,
    /// Whether no occurrence of the token that the tokenizer's files name for padding is a target of training examples: a
    /// collator of transformers does not ask where it came from.
    pub padding_without_loss: bool,
    /// What answers and questions begin with, where answers alone are targets of texts and conversations as TRL's
    /// `DataCollatorForCompletionOnlyLM` chooses them, which leaves padding out of the loss too.
    pub responses: Option<ResponseTemplates>,
    /// What names an example.
    pub id_field: IdField,
    /// Names of the columns that hold it.
    pub columns: Columns,
    /// Bytes that the job may use; none: no bound but the largest.
    pub memory: Option<u64>,
    /// Labels of texts, for a model that gives something for a whole text ([`crate::model::Model::labels`]). Without
    /// them tokens are targets.
    pub labels: Option<Arc<Labels>>,
    /// How conversations are read.
    pub chat: ChatOptions,
}

/// What names an example.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IdField {
    /// `id` where a row has it, else the number of its line or its own, counted from 1 through all files.
    #[default]
    Default,
    /// The number; `id` is metadata.
    Line,
    /// Another field, which every row must have. It stays metadata, and so does `id`.
    Field(String),
}

/// A field's name, or `line` for the number, as a person chooses it; none is the default.
impl From<Option<&str>> for IdField {
    fn from(chosen: Option<&str>) -> Self {
        match chosen {
            None => Self::Default,
            Some("line") => Self::Line,
            Some(field) => Self::Field(field.to_owned()),
        }
    }
}

/// Which columns hold an example in a file of this format, and what names it: as chosen, but for lines of plain text, which
/// have no names of their own.
pub(super) fn names_of<'a>(format: Format, columns: &'a Columns, id_field: &'a IdField) -> (&'a Columns, &'a IdField) {
    static NO_COLUMNS: Columns = Columns { text: None, prompt: None, completion: None, label: None, image: None };
    match format {
        Format::Text => (&NO_COLUMNS, &IdField::Line),
        _ => (columns, id_field),
    }
}

/// What the model can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelLimits {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Positions, if their number is limited.
    pub max_positions: Option<usize>,
    /// What the decoder reads beside an encoder; none for a model that reads one sequence.
    pub decoder: Option<DecoderTokens>,
    /// What a model that fills in masked tokens reads; none for a model that predicts the next token.
    pub masked: Option<MaskedTokens>,
}

/// The tokens that a masked language model reads: some of them masked, each of which its own row predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedTokens {
    /// Texts of a pair that the model tells apart by a type of each token; none: it does not.
    pub token_types: Option<usize>,
}

/// The tokens that a decoder beside an encoder is given: its targets, shifted behind a first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderTokens {
    /// The first.
    pub start: u32,
    /// What it reads in place of a token that is no target.
    pub padding: u32,
}
