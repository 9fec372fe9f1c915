//! Training and query examples: files in, validated and compact datasets out, and batches of them.
//!
//! - **JSON lines** ([`read_tokens`]): each line has `text`; or `prompt` and `completion`, where only the
//!   completion's tokens are targets; or `input_ids` with optional `labels` (-100 = no target) and
//!   `attention_mask`. An `id` (string or integer) names the example, else its line number does. All
//!   other fields are kept as metadata.
//! - **Plain text** (`.txt`): every line that is not blank is an example.
//! - **safetensors** ([`read_rows`]), for networks that read rows: `inputs` and `targets`.
//!
//! Labels stand at the token they name, and nothing here shifts them: row `t` of an example predicts the
//! token `t + 1`, which is what [`TokenDataset::predicted`] and [`TokenBatch::targets`] return (METHOD §9,
//! trap 13). Padding is removed on reading, so positions always count from the first attended token
//! (traps 15 and 16). Special tokens are never guessed (trap 14): see [`Specials`].

mod batch;
mod dataset;
mod document;
mod error;
mod example;
mod excerpt;
mod jsonl;
mod line_problem;
mod lines;
mod packing;
mod read;
mod rows;
mod specials;
#[cfg(test)]
mod tests;
mod text;
mod tokenizer;
mod tokens;

pub use batch::{Batch, RowBatch, RowTargets, TokenBatch, batch, batches};
pub use dataset::{Dataset, Kind};
pub use error::DataError;
pub use line_problem::LineProblem;
pub use read::{DataOptions, Format, ModelLimits, Packed, ReadReport, read_tokens, read_tokens_from};
pub use rows::{RowDataset, RowLimits, RowTask, read_rows, read_rows_from};
pub use specials::{Role, Specials, Which};
pub use tokenizer::Tokenizer;
pub use tokens::TokenDataset;
