//! What is wrong with an image, or with the file that says what becomes of images.

use crate::Hint;
use crate::foreign_file::size;

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageProblem {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
    /// Neither PNG nor JPEG.
    #[error("neither PNG nor JPEG")]
    Form,
    /// PNG or JPEG that its library cannot decode.
    #[error("broken {form}: {message}")]
    Broken {
        /// The format.
        form: &'static str,
        /// What the library said.
        message: String,
    },
    /// Pixels that take more memory than there is for one image.
    #[error("{width} x {height} pixels, which take more than {}", size(*limit))]
    TooLarge {
        /// Pixels of a row.
        width: u32,
        /// Rows of pixels.
        height: u32,
        /// The most bytes.
        limit: u64,
    },
    /// Pixels of a kind that is not read.
    #[error("pixels are {found}, expected 8 bits of grey or of red, green and blue, with or without transparency")]
    Pixels {
        /// What they are.
        found: String,
    },
    /// A number of channels that nothing is converted to.
    #[error("the model reads {channels} channels; files of images have 1 or 3")]
    Channels {
        /// Channels that the model reads.
        channels: usize,
    },
    /// An image that is smaller than what is cut out of it.
    #[error("{height} x {width} pixels (height x width), and the image processor cuts {} x {} out of it", crop[0], crop[1])]
    SmallerThanCrop {
        /// Rows of pixels.
        height: usize,
        /// Pixels of a row.
        width: usize,
        /// Height and width of what is cut out.
        crop: [usize; 2],
    },
    /// Another size than the model reads, or than the images before it.
    #[error("{} x {} pixels (height x width) after the image processor, expected {} x {}", found[0], found[1], expected[0], expected[1])]
    Size {
        /// Height and width.
        found: [usize; 2],
        /// Height and width that were due.
        expected: [usize; 2],
    },
}

impl Hint for ImageProblem {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Read(_) => "names in a table are those of files relative to the table's folder",
            Self::Form | Self::Broken { .. } => "convert the image to PNG or JPEG, or take it out of the data",
            Self::TooLarge { .. } => "resize the image, or raise `--memory`",
            Self::Pixels { .. } => "convert it as training did, for example with Pillow's `convert(\"RGB\")`",
            Self::Channels { .. } => "give a safetensors file with `inputs` as the model sees them",
            Self::SmallerThanCrop { .. } => "let the image processor resize images first: `size` and `do_resize`",
            Self::Size { .. } => "let the image processor resize images: `size`, and `crop_size` where sides differ",
        };
        Some(text.to_owned())
    }
}
