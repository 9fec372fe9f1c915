//! Shapes of examples that are numbers: a row, or an image whose channels lie one after the other.

use std::fmt;

/// What a model reads of one example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowShape {
    /// A list of so many numbers.
    Numbers(usize),
    /// An image.
    Image {
        /// Its channels.
        channels: usize,
        /// Its height and width.
        size: ImageSize,
    },
}

/// Which images a model can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSize {
    /// Images of one size alone.
    Exactly {
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
        /// Positions that the model has of an image: its patches and the class token.
        positions: usize,
    },
    /// Images of any size, as long as a file has one; every pixel counts as a position.
    Any,
}

impl RowShape {
    /// Whether an example of this shape, without the number of examples in front, is what the model reads.
    pub(super) fn fits(self, example: &[usize]) -> bool {
        match (self, example) {
            (Self::Numbers(width), &[found]) => width == found,
            (Self::Image { channels, size }, &[c, h, w]) => {
                channels == c
                    && match size {
                        ImageSize::Exactly { height, width, .. } => [height, width] == [h, w],
                        ImageSize::Any => h > 0 && w > 0,
                    }
            }
            _ => false,
        }
    }

    /// Positions of an example of a shape that fits.
    pub(super) fn positions(self, example: &[usize]) -> usize {
        match self {
            Self::Numbers(_) => 1,
            Self::Image { size: ImageSize::Exactly { positions, .. }, .. } => positions,
            Self::Image { size: ImageSize::Any, .. } => example.iter().skip(1).product(),
        }
    }

    /// Whether an example has one position.
    pub fn has_one_position(self) -> bool {
        matches!(self, Self::Numbers(_))
    }
}

/// The shape of a tensor of n examples.
impl fmt::Display for RowShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(width) => write!(f, "[n, {width}]"),
            Self::Image { channels, size: ImageSize::Exactly { height, width, .. } } => {
                write!(f, "[n, {channels}, {height}, {width}]")
            }
            Self::Image { channels, size: ImageSize::Any } => write!(f, "[n, {channels}, height, width]"),
        }
    }
}
