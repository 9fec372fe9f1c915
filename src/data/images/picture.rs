//! The pixels of a PNG or JPEG file, as Pillow's `convert` gives them.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ExtendedColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::problem::ImageProblem;
use crate::data::guarded::guarded;

/// An image of 8 bits a number, the channels of a pixel side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) height: usize,
    pub(super) width: usize,
    /// 1 or 3.
    pub(super) channels: usize,
    /// `[height, width, channels]`.
    pub(super) bytes: Vec<u8>,
}

/// What was done to the pixels of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Converted {
    pub(super) coloured: bool,
    pub(super) greyed: bool,
    pub(super) opaque: bool,
    pub(super) turned: bool,
}

impl Picture {
    /// Decodes a file to so many channels, in at most `limit` bytes. Transparency is left out; grey becomes three equal
    /// channels; of colours the luma of ITU-R 601-2 is grey, rounded as Pillow does. An orientation in the EXIF data is
    /// followed, as `datasets` does.
    ///
    /// # Errors
    /// If it is no PNG or JPEG, broken, too large, or of other pixels than 8 bits a channel.
    pub(super) fn decode(bytes: &[u8], channels: usize, limit: u64) -> Result<(Self, Converted), ImageProblem> {
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(ImageProblem::Read)?;
        let form = match reader.format() {
            Some(ImageFormat::Png) => "PNG",
            Some(ImageFormat::Jpeg) => "JPEG",
            _ => return Err(ImageProblem::Form),
        };
        let broken = |message: String| ImageProblem::Broken { form, message };
        let of_library = |error: ImageError| broken(error.to_string());
        let decoded = guarded("image", || {
            let mut reader = reader;
            let mut limits = Limits::default();
            limits.max_alloc = Some(limit);
            reader.limits(limits);
            Ok(decoded(reader, limit, &of_library))
        });
        let (pixels, orientation) = decoded.map_err(|error| broken(error.to_string()))??;
        Self::of(pixels, orientation, channels)
    }

    fn of(
        mut pixels: DynamicImage,
        orientation: Orientation,
        channels: usize,
    ) -> Result<(Self, Converted), ImageProblem> {
        let mut converted = Converted { turned: orientation != Orientation::NoTransforms, ..Converted::default() };
        pixels.apply_orientation(orientation);
        let (width, height) = (pixels.width() as usize, pixels.height() as usize);
        let found = pixels.color();
        converted.opaque = found.has_alpha();
        converted.coloured = channels == 3 && !found.has_color();
        converted.greyed = channels == 1 && found.has_color();
        let stride = usize::from(found.channel_count());
        let bytes = match channels {
            1 if !found.has_color() => pixels.as_bytes().chunks_exact(stride).map(|pixel| pixel[0]).collect(),
            1 => pixels.as_bytes().chunks_exact(stride).map(luma).collect(),
            3 if !found.has_color() => pixels.as_bytes().chunks_exact(stride).flat_map(|pixel| [pixel[0]; 3]).collect(),
            3 => pixels.as_bytes().chunks_exact(stride).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
            _ => return Err(ImageProblem::Channels { channels }),
        };
        Ok((Self { height, width, channels, bytes }, converted))
    }
}

/// The pixels of a file and how they are to be turned. Sizes are looked at before memory is taken.
fn decoded(
    reader: ImageReader<Cursor<&[u8]>>,
    limit: u64,
    of_library: &dyn Fn(ImageError) -> ImageProblem,
) -> Result<(DynamicImage, Orientation), ImageProblem> {
    let mut decoder = reader.into_decoder().map_err(of_library)?;
    let (width, height) = decoder.dimensions();
    // the pixels, and as many again where they are turned or lose a channel
    if decoder.total_bytes().saturating_mul(2) > limit {
        return Err(ImageProblem::TooLarge { width, height, limit });
    }
    let kind = decoder.color_type();
    if !matches!(kind, ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8) {
        return Err(ImageProblem::Pixels {
            found: format!("{} bits a channel", kind.bits_per_pixel() / u16::from(kind.channel_count())),
        });
    }
    let original = decoder.original_color_type();
    if matches!(original, ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16) {
        return Err(ImageProblem::Pixels { found: "cyan, magenta, yellow and black".into() });
    }
    let orientation = decoder.orientation().map_err(of_library)?;
    Ok((DynamicImage::from_decoder(decoder).map_err(of_library)?, orientation))
}

/// The grey of a pixel of red, green and blue, as Pillow rounds it.
fn luma(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16) as u8
}
