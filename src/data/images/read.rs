//! Images read into a [`Dataset`]: of a folder of classes, or of the rows of a table.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use ascribe_attribution::store::LongArray;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::folder::{Classes, Files, name_in};
use super::picture::{Converted, Picture};
use super::problem::ImageProblem;
use super::processor::ImageProcessor;
use super::report::ImageReport;
use crate::data::columns::Columns;
use crate::data::dataset::{Dataset, Kind};
use crate::data::error::DataError;
use crate::data::example::Examples;
use crate::data::fields::take_id;
use crate::data::files::{Bounds, Format, Row, Rows, expand};
use crate::data::labels::Labels;
use crate::data::line_problem::LineProblem;
use crate::data::read_report::ReadReport;
use crate::data::reading_options::{IdField, names_of};
use crate::data::row_dataset::{Inputs, RowDataset, digest, seen};
use crate::data::row_shape::{ImageSize, RowShape};
use crate::data::rows::RowLimits;
use crate::data::seen_ids::SeenIds;
use crate::data::targets::{Target, Targets};
use crate::data::value::kind;
use crate::foreign_file;

/// Usual names of the column of images: that of `datasets`, and that of its lists of files.
const IMAGE: [&str; 2] = ["image", "file_name"];

/// Images that are decoded at a time.
const AT_ONCE: usize = 256;

/// The most bytes of a file with one image.
const FILE_LIMIT: u64 = 256 << 20;

/// How images are read.
#[derive(Debug)]
pub struct ImageOptions {
    /// What becomes of every image.
    pub processor: ImageProcessor,
    /// The labels of the model.
    pub labels: Labels,
    /// The columns of tables; texts have none.
    pub columns: Columns,
    /// What names an example.
    pub id_field: IdField,
    /// Bytes that the job may take.
    pub memory: Option<u64>,
}

/// Whether a path stands for files that hold images, not the numbers of images: a folder of images, or files of rows.
pub fn holds_images(path: &Path) -> bool {
    match expand(path) {
        Ok(files) => files.first().is_some_and(|file| file.is_dir() || Format::of(file).is_ok()),
        // which is then said of it
        Err(_) => true,
    }
}

/// Reads the images of a folder, whose folders are classes, or of rows with `image` and `label`.
///
/// # Errors
/// [`DataError`] names the file and the row, or the image.
pub fn read_images(path: &Path, limits: RowLimits, options: &ImageOptions) -> Result<(Dataset, ReadReport), DataError> {
    let RowShape::Image { channels, size } = limits.inputs else {
        return Err(DataError::Format { file: path.to_owned() });
    };
    let reading = Reading {
        path,
        options,
        channels,
        expected: match size {
            ImageSize::Exactly { height, width, .. } => Some([height, width]),
            ImageSize::Any => None,
        },
        // decoded pixels are held by every thread beside what was read
        limit: options.memory.map_or(256 << 20, |memory| (memory / 32).clamp(16 << 20, 256 << 20)),
    };
    let mut collected = Collected::new(limits, options.processor.scales(channels)?);
    collected.report.processing = options.processor.to_string();
    for files in Files::of(path)? {
        match files {
            Files::Table { rows, base } => reading.table(&rows, &base, &mut collected)?,
            Files::Classes { root, classes } => reading.folder(&root, &classes, &mut collected)?,
        }
    }
    let of_model = || options.labels.names.iter().map(|(name, _)| name.clone());
    let is_named = options.labels.names.iter().zip(0..).all(|((_, class), place)| *class == place);
    collected.classes = match &collected.report.classes_by_order {
        Some(names) => names.clone(),
        None if is_named && !has_made_up_names(&options.labels) => of_model().collect(),
        None => vec![],
    };
    collected.finish(path, limits)
}

/// An image of a file or of a row.
pub(super) enum Place {
    /// In a file.
    File(PathBuf),
    /// In the row itself.
    Bytes(Vec<u8>),
}

impl Place {
    /// The bytes of the image's file.
    pub(super) fn bytes(&self) -> Result<Cow<'_, [u8]>, ImageProblem> {
        match self {
            Self::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::File(file) => foreign_file::read(file, FILE_LIMIT).map(Cow::Owned).map_err(ImageProblem::Read),
        }
    }
}

/// An example that was read.
struct Taken {
    id: Option<String>,
    metadata: Map<String, Value>,
    /// What the image is called, if it has a name.
    name: Option<String>,
    target: Target,
    picture: Picture,
    converted: Converted,
}

struct Reading<'a> {
    path: &'a Path,
    options: &'a ImageOptions,
    channels: usize,
    /// The height and width that the model reads; none: any.
    expected: Option<[usize; 2]>,
    /// The most bytes of one image.
    limit: u64,
}

impl Reading<'_> {
    /// Reads a folder of classes.
    fn folder(&self, root: &Path, classes: &Classes, collected: &mut Collected) -> Result<(), DataError> {
        let labels = &self.options.labels;
        let known = |name: &String| labels.names.iter().find(|(known, _)| known == name).map(|&(_, class)| class);
        let numbers: Vec<u32> = match classes.names.iter().map(known).collect::<Option<Vec<_>>>() {
            Some(numbers) => numbers,
            // of several folders the first says what the classes are
            None if has_made_up_names(labels)
                && classes.names.len() == labels.outputs
                && collected.report.classes_by_order.as_ref().is_none_or(|names| *names == classes.names) =>
            {
                collected.report.classes_by_order = Some(classes.names.clone());
                (0..).take(classes.names.len()).collect()
            }
            None => {
                let unknown = classes.names.iter().filter(|name| known(name).is_none()).cloned().collect();
                let known = labels.names.iter().map(|(name, _)| name.clone()).collect();
                let outputs = labels.outputs;
                return Err(DataError::ClassNames { folder: root.to_owned(), unknown, known, outputs });
            }
        };
        if let Some((count, name)) = &classes.others {
            collected.report.others.get_or_insert_with(|| (0, name.clone())).0 += count;
        }
        for chunk in classes.images.chunks(AT_ONCE) {
            let one = |(file, class): &(PathBuf, usize)| {
                let failed = |problem| DataError::Image { file: file.clone(), problem };
                let (picture, converted) = self.picture(&Place::File(file.clone())).map_err(failed)?;
                let name = name_in(root, file);
                let value = Value::from(numbers[*class]);
                // a folder stands for one class, whatever the labels are
                let target = labels.take(&mut Map::from_iter([("label".to_owned(), value)]));
                let target = target.map_err(|problem| DataError::FolderLabels { folder: root.to_owned(), problem })?;
                let id = Some(name.clone());
                Ok(Taken { id, metadata: Map::new(), name: Some(name), target, picture, converted })
            };
            let taken: Vec<_> = chunk.par_iter().map(one).collect();
            for (taken, (file, _)) in taken.into_iter().zip(chunk) {
                let failed = |problem| DataError::Image { file: file.clone(), problem };
                collected.take(self, taken?, String::new(), failed)?;
            }
        }
        Ok(())
    }

    /// Reads the rows of a table; names of files are relative to `base`.
    fn table(&self, file: &Path, base: &Path, collected: &mut Collected) -> Result<(), DataError> {
        let bounds = Bounds::of(self.options.memory).with_bytes();
        let (mut rows, format) = Rows::open(file, &self.options.columns, bounds)?;
        let (columns, id_field) = names_of(format, &self.options.columns, &self.options.id_field);
        let mut last_number = 0;
        loop {
            let (chunk, end) = rows.chunk();
            let ended = chunk.is_empty();
            let one =
                |row: Row| (row.number, row.fields().and_then(|fields| self.row(fields, base, columns, id_field)));
            let taken: Vec<_> = chunk.into_par_iter().map(one).collect();
            for (number, taken) in taken {
                last_number = number;
                let taken = taken.map_err(|problem| rows.fail(number, problem))?;
                let id = (collected.before + number).to_string();
                let name = taken.name.clone();
                collected.take(self, taken, id, |problem| {
                    rows.fail(number, LineProblem::Image { name: name.clone(), problem })
                })?;
            }
            end?;
            if ended {
                collected.before += last_number;
                return Ok(());
            }
        }
    }

    fn row(
        &self,
        mut fields: Map<String, Value>,
        base: &Path,
        columns: &Columns,
        id_field: &IdField,
    ) -> Result<Taken, LineProblem> {
        let id = take_id(&mut fields, id_field)?;
        let (column, place, name) = taken_place(&mut fields, columns, base)?;
        let set_aside = columns.choose_label(&mut fields)?;
        let target = self.options.labels.take(&mut fields)?;
        fields.extend(set_aside);
        let failed = |problem| LineProblem::Image { name: name.clone(), problem };
        let (picture, converted) = self.picture(&place).map_err(failed)?;
        fields.extend(name.iter().map(|name| (column.to_owned(), Value::from(name.clone()))));
        Ok(Taken { id, metadata: fields, name, target, picture, converted })
    }

    /// An image as the model sees it, before it is normalised.
    fn picture(&self, place: &Place) -> Result<(Picture, Converted), ImageProblem> {
        let (picture, converted) = Picture::decode(&place.bytes()?, self.channels, self.limit)?;
        Ok((self.options.processor.apply(picture, self.limit)?, converted))
    }
}

/// Takes the image from the fields of a row: the column's name, where the image is, and what it is called.
pub(super) fn taken_place<'a>(
    fields: &mut Map<String, Value>,
    columns: &'a Columns,
    base: &Path,
) -> Result<(&'a str, Place, Option<String>), LineProblem> {
    let (column, value) = match &columns.image {
        Some(column) => (column.as_str(), Columns::take(fields, Some(column), IMAGE[0], "--image-field")?),
        None => {
            let found = IMAGE.iter().find_map(|name| Some((*name, fields.shift_remove(*name)?)));
            found.ok_or_else(|| LineProblem::NoImage { fields: fields.keys().cloned().collect() })?
        }
    };
    let (place, name) = place(column, value, base)?;
    Ok((column, place, name))
}

/// Where an image is that a row holds: the name of a file, or the object of bytes and a name that `datasets` writes.
fn place(column: &str, value: Value, base: &Path) -> Result<(Place, Option<String>), LineProblem> {
    let expected = "the name of a file, or `bytes` and `path` as `datasets` writes them";
    let wrong = |found| LineProblem::FieldType { field: column.into(), found, expected };
    match value {
        Value::String(name) => Ok((Place::File(base.join(&name)), Some(name))),
        Value::Object(mut parts) => {
            let name = parts.get("path").and_then(Value::as_str).map(str::to_owned);
            match (parts.get_mut("bytes").map(Value::take), name) {
                (Some(Value::String(text)), name) => {
                    let bytes = base64::decode(text).map_err(|_| wrong("bytes that are no base64"))?;
                    Ok((Place::Bytes(bytes), name))
                }
                (None | Some(Value::Null), Some(name)) => Ok((Place::File(base.join(&name)), Some(name))),
                _ => Err(wrong("an object without them")),
            }
        }
        other => Err(wrong(kind(&other))),
    }
}

/// Whether classes have the names that transformers makes up where training named none, or no names.
fn has_made_up_names(labels: &Labels) -> bool {
    labels.names.iter().all(|(name, class)| *name == format!("LABEL_{class}"))
}

/// Images that were read, in their order.
struct Collected {
    examples: Examples,
    names: Vec<Box<str>>,
    bytes: LongArray<u8>,
    scales: Vec<(f64, f64)>,
    targets: Targets,
    /// Height and width of the images.
    size: Option<[usize; 2]>,
    /// The number of each id's image, counted from 1.
    ids: SeenIds,
    /// Rows of the files before.
    before: usize,
    report: ImageReport,
    /// Names of classes in their order, as far as they have any.
    classes: Vec<String>,
}

impl Collected {
    fn new(limits: RowLimits, scales: Vec<(f64, f64)>) -> Self {
        Self {
            examples: Examples::new("rows"),
            names: vec![],
            bytes: LongArray::new(),
            scales,
            targets: Targets::none(limits.task, limits.outputs),
            size: None,
            ids: SeenIds::default(),
            before: 0,
            report: ImageReport::default(),
            classes: vec![],
        }
    }

    /// Takes an example; `id` is that of one that has none of its own.
    fn take(
        &mut self,
        reading: &Reading<'_>,
        taken: Taken,
        id: String,
        failed: impl Fn(ImageProblem) -> DataError,
    ) -> Result<(), DataError> {
        let Taken { id: own, metadata, name, target, picture, converted } = taken;
        let found = [picture.height, picture.width];
        let expected = reading.expected.or(self.size).unwrap_or(found);
        if found != expected {
            return Err(failed(ImageProblem::Size { found, expected }));
        }
        self.size = Some(expected);
        let id = own.unwrap_or(id);
        let place = self.examples.len() + 1;
        if let Some(first) = self.ids.insert(&id, place) {
            return Err(DataError::RepeatedId { file: reading.path.to_owned(), id, first, second: place });
        }
        let room = reading.options.memory.unwrap_or(u64::MAX) / 2;
        let needed = (self.bytes.len() + picture.bytes.len()) as u64;
        if needed > room && self.bytes.is_in_memory() {
            return Err(DataError::ManyImages { file: reading.path.to_owned(), images: place, bytes: needed, room });
        }
        let bytes = picture.by_channel();
        let plane = picture.height * picture.width;
        let mut own_target = self.targets.of(0..0);
        own_target.push(&target);
        let shape = [picture.channels, picture.height, picture.width];
        let digest = digest(&shape, seen(&bytes, plane, &self.scales), &own_target);
        self.targets.push(&target);
        self.bytes.extend_from_slice(&bytes);
        self.examples.push(&id, &metadata, digest);
        self.names.push(name.unwrap_or_default().into_boxed_str());
        let Converted { coloured, greyed, opaque, turned } = converted;
        self.report.coloured += usize::from(coloured);
        self.report.greyed += usize::from(greyed);
        self.report.opaque += usize::from(opaque);
        self.report.turned += usize::from(turned);
        Ok(())
    }

    fn finish(self, path: &Path, limits: RowLimits) -> Result<(Dataset, ReadReport), DataError> {
        let Some([height, width]) = self.size else { return Err(DataError::Empty { file: path.to_owned() }) };
        let shape = vec![self.scales.len(), height, width];
        let n = self.examples.len();
        let positions = limits.inputs.positions(&shape);
        let inputs = Inputs::Pixels { bytes: self.bytes, plane: height * width, scales: self.scales };
        let rows = RowDataset {
            examples: self.examples,
            shape,
            positions,
            inputs,
            targets: self.targets,
            columns: vec![],
            names: self.names,
            classes: self.classes,
        };
        let first = format!("{}, {}", rows.examples.id(0), rows.excerpt(0, 80));
        let report = ReadReport { images: Some(self.report), ..ReadReport::of_rows(n, positions, first) };
        Ok((Dataset::new(Kind::Rows(rows)), report))
    }
}
