//! Models and data sets of the Hugging Face hub, asked for by name and read from its cache.
//!
//! A name is `hub:ORG/NAME[@REVISION]`, of a file of a data set `hub:ORG/NAME[@REVISION]/FILE`. Nothing else opens a
//! connection: a path that is no such name is a path. What is fetched lies in the cache that `huggingface_hub` uses too,
//! in its layout, and what lies there is not fetched again. `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`,
//! `HF_TOKEN_PATH` and `HF_HUB_OFFLINE` mean what they mean there ([`Settings`]).

mod cache;
mod client;
mod download;
mod error;
mod fetch;
mod name;
mod pin;
mod settings;
#[cfg(test)]
#[allow(unreachable_pub)] // the command's tests have it too
mod test_server;
#[cfg(test)]
mod tests;

pub use self::error::HubError;
pub use self::fetch::{Event, chat_template, file, image_processor, model, run, tokenizer};
pub use self::name::{is_name, of_snapshot, would_be};
pub use self::pin::{Pin, What};
pub use self::settings::Settings;
