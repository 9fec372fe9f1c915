//! Training and query examples: files in, validated and compact datasets out, and batches of them.
//!
//! - **JSON lines, JSON arrays, CSV, TSV and Parquet** ([`read_tokens`]), also packed by gzip or zstd: each row has
//!   `text`; or `prompt` and `completion`, where only the completion's tokens are targets; or `input_ids` with optional
//!   `labels` (-100 = no target) and `attention_mask`. An `id` (string or integer) names the example, else its line
//!   number does; another field can be chosen ([`IdField`]), and so can other names of the columns ([`Columns`]). All
//!   other fields are kept as metadata. Rows without a token are skipped and counted.
//! - **Conversations**: `messages`, `conversations`, or a `prompt` and a `completion` of messages, rendered with the
//!   model's chat template ([`ChatOptions`]).
//! - **Labelled lines**, for models that give something for a whole text ([`Labels`]): `text`, with or without
//!   `text_pair`, or `input_ids`, and `label`.
//! - **Masked tokens**, for models that fill them in ([`MaskedTokens`]): `input_ids` as the model reads them, with
//!   `labels` that are not shifted: each stands at the row that predicts it.
//! - **Plain text** (`.txt`): every line that is not blank is an example.
//! - **Images** ([`read_images`]), PNG and JPEG: folders of classes, or rows with `image` and `label`, made what a model
//!   sees by an [`ImageProcessor`].
//! - **safetensors** ([`read_rows`]), for networks that read rows of numbers or images: `inputs` and `targets`.
//!
//! Labels stand at the token they name, and nothing here shifts them: row `t` of an example predicts the
//! token `t + 1`, of a masked language model the token `t`, which is what [`TokenDataset::predicted`] and
//! [`Targets::Tokens`] hold. Padding is
//! removed on reading, so positions always count from the first attended token. Special tokens are never guessed:
//! see [`Specials`].

mod altered;
mod batch;
mod chat;
mod columns;
mod contrast;
mod dataset;
mod document;
mod duplicates;
mod encoder;
mod error;
mod example;
mod excerpt;
mod fields;
mod files;
mod foreign_json;
mod guarded;
mod images;
mod inputs;
mod labels;
mod line_problem;
mod mapped_rows;
mod packing;
mod read;
mod read_report;
mod reading_options;
mod responses;
mod row_dataset;
mod row_shape;
mod rows;
mod seen_ids;
mod special_tokens;
mod specials;
mod targets;
#[cfg(test)]
mod tests;
mod texts;
mod tokenizer;
mod tokenizer_file;
mod tokens;
mod value;

pub use batch::{Batch, batch, batches};
pub use chat::{ChatDate, ChatOptions, ChatProblem, ChatReport, LossOn};
pub use columns::Columns;
pub use contrast::Contrasts;
pub use dataset::{Dataset, Kind};
pub use duplicates::{Clusters, ExampleList, GRAM, NearCopies, exact_copies, near_copies};
pub use error::DataError;
pub use files::{Format, expand, first_row, for_each_row};
pub use images::{
    ImageOptions, ImageProblem, ImageProcessor, ImageReport, Thumbnail, holds_images, read_images, thumbnails,
};
pub use inputs::{Inputs, RowInputs, TokenInputs};
pub use labels::{DoubtfulEnd, EndToken, Labels};
pub use line_problem::LineProblem;
pub use mapped_rows::MappedRows;
pub use read::{read_tokens, read_tokens_from};
pub use read_report::{LeftOut, Packed, ReadReport};
pub use reading_options::{DataOptions, DecoderTokens, IdField, MaskedTokens, ModelLimits};
pub use responses::{ResponseReport, ResponseTemplates};
pub use row_dataset::RowDataset;
pub use row_shape::{ImageSize, RowShape};
pub use rows::{RowLimits, read_rows, read_rows_from};
pub use specials::{FromTokenizer, InConversations, Role, Specials, Which};
pub use targets::{Targets, Task};
pub use texts::{TextReport, for_each_text};
pub use tokenizer::Tokenizer;
pub use tokens::{BYTES_OF_TOKEN, TargetToken, TokenDataset};
