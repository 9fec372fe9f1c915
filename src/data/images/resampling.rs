//! Images of another size: resampled as Pillow does, and cut to their middle.

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::picture::Picture;
use super::problem::ImageProblem;

/// How pixels are weighted in resizing; the numbers are Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Nearest,
    Lanczos,
    Bilinear,
    Bicubic,
    Box,
    Hamming,
}

impl Filter {
    /// By Pillow's number.
    pub(super) fn of(number: u64) -> Option<Self> {
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming]
            .get(usize::try_from(number).ok()?)
            .copied()
    }

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Lanczos => "Lanczos",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Box => "box",
            Self::Hamming => "Hamming",
        }
    }

    fn algorithm(self) -> ResizeAlg {
        ResizeAlg::Convolution(match self {
            Self::Nearest => return ResizeAlg::Nearest,
            Self::Lanczos => FilterType::Lanczos3,
            Self::Bilinear => FilterType::Bilinear,
            Self::Bicubic => FilterType::CatmullRom,
            Self::Box => FilterType::Box,
            Self::Hamming => FilterType::Hamming,
        })
    }
}

impl Picture {
    /// The image in this height and width: wider filters for smaller images (`antialias` of torchvision), as Pillow does.
    pub(super) fn resized(self, [height, width]: [usize; 2], filter: Filter) -> Self {
        if [height, width] == [self.height, self.width] {
            return self;
        }
        let kind = if self.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
        let size = |n: usize| u32::try_from(n).expect("sizes of images are bounded");
        let source = Image::from_vec_u8(size(self.width), size(self.height), self.bytes, kind)
            .expect("a picture has as many bytes as its size says");
        let mut target = Image::new(size(width), size(height), kind);
        let options = ResizeOptions::new().resize_alg(filter.algorithm()).use_alpha(false);
        Resizer::new().resize(&source, &mut target, &options).expect("both images have pixels of one kind");
        Self { height, width, channels: self.channels, bytes: target.into_vec() }
    }

    /// The middle of the image; where a side has an odd number of pixels too many, one more is cut at its end.
    pub(super) fn cropped(self, [height, width]: [usize; 2]) -> Result<Self, ImageProblem> {
        if height > self.height || width > self.width {
            return Err(ImageProblem::SmallerThanCrop {
                height: self.height,
                width: self.width,
                crop: [height, width],
            });
        }
        let (top, left) = ((self.height - height) / 2, (self.width - width) / 2);
        let row = |y: usize| {
            let start = ((top + y) * self.width + left) * self.channels;
            &self.bytes[start..start + width * self.channels]
        };
        let bytes = (0..height).flat_map(|y| row(y).iter().copied()).collect();
        Ok(Self { height, width, channels: self.channels, bytes })
    }

    /// The numbers channel by channel, as PyTorch has them.
    pub(super) fn by_channel(&self) -> Vec<u8> {
        let pixels = self.bytes.chunks_exact(self.channels);
        (0..self.channels).flat_map(|c| pixels.clone().map(move |pixel| pixel[c])).collect()
    }
}
