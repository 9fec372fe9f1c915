//! Images in files: PNG and JPEG, in folders or in rows of tables, made what a model sees.
//!
//! A file's pixels ([`picture`]) go through the steps of an image processor ([`processor`]): resized
//! ([`resampling`]), cut to the middle, and normalised. They are kept as bytes, and become numbers with the batch. Which
//! images there are is what a folder's names say ([`folder`]), or the rows of a table ([`read`]). A report shows them
//! in small ([`thumbnail`]).

mod folder;
mod picture;
pub(super) mod problem;
mod processor;
mod read;
pub(super) mod report;
mod resampling;
mod thumbnail;

pub use problem::ImageProblem;
pub use processor::ImageProcessor;
pub use read::{ImageOptions, holds_images, read_images};
pub use report::ImageReport;
pub use thumbnail::{Thumbnail, thumbnails};
