//! Small pictures of examples, for reports.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use serde_json::{Map, Value};

use super::folder::{Files, name_in};
use super::picture::Picture;
use super::read::{Place, holds_images, taken_place};
use super::resampling::Filter;
use crate::data::columns::Columns;
use crate::data::error::DataError;
use crate::data::fields::take_id;
use crate::data::files::{Bounds, Rows};
use crate::data::reading_options::{IdField, names_of};

/// The most bytes of an image while it is made small.
const LIMIT: u64 = 256 << 20;

/// How good a small picture is, in JPEG's numbers up to 100.
const QUALITY: u8 = 85;

/// A small picture of an example, as a JPEG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    /// The file.
    pub jpeg: Vec<u8>,
    /// Pixels of a row.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
}

/// Small pictures of those images of a file or folder whose ids are wanted, with sides of at most so many pixels. The
/// pictures are those of the files, before an image processor. Images that are not there any more, or broken, are left
/// out.
pub fn thumbnails(
    path: &Path,
    columns: &Columns,
    id_field: &IdField,
    wanted: &HashSet<&str>,
    side: usize,
) -> HashMap<String, Thumbnail> {
    let mut found = HashMap::new();
    let mut take = |id: String, place: &Place| {
        if let Some(small) = place.bytes().ok().and_then(|bytes| small(&bytes, side)) {
            found.insert(id, small);
        }
    };
    if holds_images(path) {
        // files that end to be readable give what they gave until then
        let _partly = each_wanted(path, columns, id_field, wanted, &mut take);
    }
    found
}

fn each_wanted(
    path: &Path,
    columns: &Columns,
    id_field: &IdField,
    wanted: &HashSet<&str>,
    take: &mut dyn FnMut(String, &Place),
) -> Result<(), DataError> {
    let mut before = 0;
    for files in Files::of(path)? {
        let (list, base) = match files {
            Files::Table { rows, base } => (rows, base),
            Files::Classes { root, classes } => {
                for (image, _) in classes.images {
                    let id = name_in(&root, &image);
                    if wanted.contains(id.as_str()) {
                        take(id, &Place::File(image));
                    }
                }
                continue;
            }
        };
        let (mut rows, format) = Rows::open(&list, columns, Bounds::of(None).with_bytes())?;
        let (columns, id_field) = names_of(format, columns, id_field);
        before += rows.each(|_, row| {
            let number = before + row.number;
            let of_row = |mut fields: Map<String, Value>| {
                let id = take_id(&mut fields, id_field).ok()?.unwrap_or_else(|| number.to_string());
                wanted
                    .contains(id.as_str())
                    .then(|| taken_place(&mut fields, columns, &base).ok())
                    .flatten()
                    .map(|place| (id, place))
            };
            if let Some((id, (_, place, _))) = row.fields().ok().and_then(of_row) {
                take(id, &place);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A picture whose sides are no longer than `side`, as a JPEG file.
fn small(bytes: &[u8], side: usize) -> Option<Thumbnail> {
    let (picture, _) = Picture::decode(bytes, 3, LIMIT).ok()?;
    let longer = picture.height.max(picture.width).max(side);
    let size = [picture.height, picture.width].map(|n| (n * side / longer).max(1));
    let picture = picture.resized(size, Filter::Bilinear);
    let [height, width] = size.map(u32::try_from);
    let mut jpeg = vec![];
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .write_image(&picture.bytes, width.ok()?, height.ok()?, ExtendedColorType::Rgb8)
        .ok()?;
    Some(Thumbnail { jpeg, width: size[1], height: size[0] })
}
