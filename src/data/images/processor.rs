//! What becomes of an image before a model sees it: the steps of an image processor of transformers, or of a file that
//! declares the same steps.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::picture::Picture;
use super::problem::ImageProblem;
use super::resampling::Filter;
use crate::data::error::DataError;
use crate::data::foreign_json::read_json;

/// The file in a model's folder, and the one where it stands beside other processors.
const FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// The largest side of an image after resizing or cutting.
const LARGEST_SIDE: u64 = 1 << 14;

/// Keys that change no number of an image, or that say again what others say.
const WITHOUT_EFFECT: [&str; 20] = [
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "backend",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "model_input_names",
    "num_channels",
    "pad_size",
    "processor_class",
    "return_tensors",
    "return_segmentation_masks",
    "transformers_version",
    "use_fast",
];

/// Resizing, cutting and normalising, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    file: PathBuf,
    resize: Option<(Resize, Filter)>,
    crop: Option<[usize; 2]>,
    /// Whether a byte is multiplied with a number, and with which.
    rescale: Option<f64>,
    /// Mean and standard deviation of every channel; one of each stands for all.
    normalize: Option<[Vec<f64>; 2]>,
    /// Keys that are neither used nor known to be without effect.
    unknown: Vec<String>,
}

/// The size that an image gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Height and width.
    To([usize; 2]),
    /// The shorter side; the longer one in proportion, rounded down.
    ShorterSide(usize),
}

/// Which steps a class of transformers has where the file does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Resized to a height and a width.
    Vit,
    /// Resized and cut by one key, `crop_pct`.
    ConvNext,
    /// Resized, then cut.
    Cutting,
    /// No class: what is not declared is not done.
    Declared,
}

impl ImageProcessor {
    /// The image processor that a file or folder has, else that of a model's folder or its parent. `kind` is the model's
    /// `model_type`, which stands for the class where the file names none.
    ///
    /// # Errors
    /// [`DataError::NoImageProcessor`]; [`DataError::ImageProcessor`] if the file says what is not done here.
    pub fn find(model_folder: &Path, given: Option<&Path>, kind: &str) -> Result<Self, DataError> {
        let folders = match given {
            Some(file) if !file.is_dir() => {
                return match read_json(file)? {
                    Some(value) => Self::read(file, &value, kind),
                    None => Err(DataError::NoImageProcessor { looked: vec![file.to_owned()] }),
                };
            }
            Some(folder) => vec![folder.to_owned()],
            None => {
                // the parent of a relative path such as `.` is known only to the file system
                let parent = model_folder.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
                std::iter::once(model_folder.to_owned()).chain(parent).collect()
            }
        };
        for folder in &folders {
            for name in FILES {
                let file = folder.join(name);
                let Some(value) = read_json(&file)? else { continue };
                // a processor of texts alone has no image processor
                if name == FILES[0] || value.get("image_processor").is_some() {
                    return Self::read(&file, &value, kind);
                }
            }
        }
        Err(DataError::NoImageProcessor { looked: folders })
    }

    /// Reads what a file says.
    fn read(file: &Path, value: &Value, kind: &str) -> Result<Self, DataError> {
        let keys = Keys { file, keys: value.get("image_processor").unwrap_or(value).as_object(), used: vec![] };
        keys.processor(kind)
    }

    /// The image as the model sees it, in bytes before they are normalised.
    ///
    /// # Errors
    /// If an image is smaller than what is cut out of it, or would have more bytes than `limit`.
    pub(super) fn apply(&self, mut picture: Picture, limit: u64) -> Result<Picture, ImageProblem> {
        if let Some((resize, filter)) = self.resize {
            let size = resize.of([picture.height, picture.width]);
            if (size[0] as u64).saturating_mul(size[1] as u64).saturating_mul(picture.channels as u64) > limit {
                let [height, width] = size.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                return Err(ImageProblem::TooLarge { width, height, limit });
            }
            picture = picture.resized(size, filter);
        }
        match self.crop {
            Some(crop) => picture.cropped(crop),
            None => Ok(picture),
        }
    }

    /// For each of so many channels the number that a byte is multiplied with, and what is added.
    ///
    /// # Errors
    /// If there are means of another number of channels.
    pub(in crate::data) fn scales(&self, channels: usize) -> Result<Vec<(f64, f64)>, DataError> {
        let factor = self.rescale.unwrap_or(1.0);
        let Some([means, deviations]) = &self.normalize else { return Ok(vec![(factor, 0.0); channels]) };
        let of = |list: &[f64], key: &str| match list {
            [one] => Ok(vec![*one; channels]),
            list if list.len() == channels => Ok(list.to_vec()),
            list => Err(problem(
                &self.file,
                format!("`{key}` has {} numbers, and the model reads {channels} channels", list.len()),
            )),
        };
        let (means, deviations) = (of(means, "image_mean")?, of(deviations, "image_std")?);
        Ok(means.iter().zip(&deviations).map(|(mean, deviation)| (factor / deviation, -mean / deviation)).collect())
    }

    /// The file that says it.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Resize {
    fn of(self, [height, width]: [usize; 2]) -> [usize; 2] {
        match self {
            Self::To(size) => size,
            Self::ShorterSide(side) => {
                // as Python's int(side * long / short), whose numbers are exact here
                let longer = |long: usize, short: usize| (side as u128 * long as u128 / short.max(1) as u128) as usize;
                if width <= height { [longer(height, width), side] } else { [side, longer(width, height)] }
            }
        }
    }
}

/// The steps in the order in which they are done, and the file.
impl fmt::Display for ImageProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = vec![];
        if let Some((resize, filter)) = self.resize {
            steps.push(match resize {
                Resize::To([height, width]) => format!("resized to {height} x {width} ({})", filter.name()),
                Resize::ShorterSide(side) => format!("resized to a shorter side of {side} ({})", filter.name()),
            });
        }
        steps.extend(self.crop.map(|[height, width]| format!("cut to the middle {height} x {width}")));
        steps.extend(self.rescale.map(|factor| match (1.0 / factor).round() {
            whole if (whole * factor - 1.0).abs() < 1e-12 => format!("divided by {whole}"),
            _ => format!("multiplied by {factor}"),
        }));
        if let Some([means, deviations]) = &self.normalize {
            let list = |list: &[f64]| list.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
            steps.push(format!("normalised by means {} and deviations {}", list(means), list(deviations)));
        }
        if steps.is_empty() {
            steps.push("taken as they are".to_owned());
        }
        write!(f, "{}, as {} says", steps.join(", "), self.file.display())?;
        if !self.unknown.is_empty() {
            let unknown: Vec<_> = self.unknown.iter().map(|key| format!("`{key}`")).collect();
            write!(f, " ({} not used)", unknown.join(", "))?;
        }
        Ok(())
    }
}

fn problem(file: &Path, message: String) -> DataError {
    DataError::ImageProcessor { file: file.to_owned(), message }
}

/// The keys of a file, and which of them were used.
struct Keys<'a> {
    file: &'a Path,
    keys: Option<&'a Map<String, Value>>,
    used: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    fn processor(mut self, kind: &str) -> Result<ImageProcessor, DataError> {
        let Some(keys) = self.keys else { return Err(self.problem("an object of keys is due")) };
        let class = self.class(kind)?;
        let is_class = class != Class::Declared;
        let mut crop = None;
        let resize = match self.flag("do_resize", is_class || keys.contains_key("size"))? {
            false => None,
            true => {
                let mut resize = self.resize(class)?;
                if class == Class::ConvNext {
                    let Resize::ShorterSide(side) = resize else {
                        return Err(self.problem("`size` needs the key `shortest_edge` for this class"));
                    };
                    let share = self.number("crop_pct")?.unwrap_or(224.0 / 256.0);
                    if !(share > 0.0 && share <= 1.0) {
                        return Err(self.problem(format!("`crop_pct` = {share}, expected a part of 1")));
                    }
                    (resize, crop) = match side {
                        384.. => (Resize::To([side; 2]), None),
                        _ => (Resize::ShorterSide((side as f64 / share) as usize), Some([side; 2])),
                    };
                }
                Some((resize, self.filter(class)?))
            }
        };
        let cuts = class == Class::Cutting || (class == Class::Declared && keys.contains_key("crop_size"));
        if self.flag("do_center_crop", cuts)? {
            crop = Some(match self.size("crop_size")? {
                Some(Resize::To(size)) => size,
                Some(Resize::ShorterSide(side)) => [side; 2],
                None => return Err(self.problem("`crop_size` is missing")),
            });
        }
        let rescale = match self.flag("do_rescale", is_class || keys.contains_key("rescale_factor"))? {
            true => Some(self.number("rescale_factor")?.unwrap_or(1.0 / 255.0)),
            false => None,
        };
        let normalize = match self.flag("do_normalize", is_class || keys.contains_key("image_mean"))? {
            true => Some([self.channels("image_mean")?, self.channels("image_std")?]),
            false => None,
        };
        if let Some([_, deviations]) = &normalize
            && deviations.contains(&0.0)
        {
            return Err(self.problem("`image_std` has a 0, which is divided by"));
        }
        let unknown = self.unknown(keys)?;
        let file = self.file.to_owned();
        Ok(ImageProcessor { file, resize, crop, rescale, normalize, unknown })
    }

    /// The class that the file names, else that of the model.
    fn class(&self, kind: &str) -> Result<Class, DataError> {
        let named = ["image_processor_type", "feature_extractor_type"].into_iter().find_map(|key| self.value(key));
        let Some(named) = named else {
            return Ok(match kind {
                "vit" => Class::Vit,
                "resnet" => Class::ConvNext,
                _ => Class::Declared,
            });
        };
        let named = named.as_str().unwrap_or_default();
        let stem = ["ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"]
            .into_iter()
            .find_map(|ending| named.strip_suffix(ending));
        match stem {
            Some("ViT") => Ok(Class::Vit),
            Some("ConvNext" | "ConvNeXT") => Ok(Class::ConvNext),
            Some("DeiT" | "Bit" | "CLIP") => Ok(Class::Cutting),
            _ => Err(self.problem(format!(
                "the class {named:?} is not one whose steps are known (ViT, DeiT, ConvNext, Bit and CLIP are)"
            ))),
        }
    }

    /// A value that is there and not null.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.keys?.get(key).filter(|value| !value.is_null())
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.used.push(key);
        self.value(key)
    }

    fn problem(&self, message: impl Into<String>) -> DataError {
        problem(self.file, message.into())
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> DataError {
        let shown: String = value.to_string().chars().take(60).collect();
        self.problem(format!("`{key}` = {shown}, expected {expected}"))
    }

    fn flag(&mut self, key: &'static str, usual: bool) -> Result<bool, DataError> {
        match self.take(key) {
            None => Ok(usual),
            Some(Value::Bool(is_done)) => Ok(*is_done),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    fn number(&mut self, key: &'static str) -> Result<Option<f64>, DataError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_f64().filter(|number| *number > 0.0 && number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, value, "a positive number")),
        }
    }

    /// Numbers of channels: a list, or one number for all.
    fn channels(&mut self, key: &'static str) -> Result<Vec<f64>, DataError> {
        let Some(value) = self.take(key) else { return Err(self.problem(format!("`{key}` is missing"))) };
        let numbers: Option<Vec<f64>> = match value {
            Value::Array(list) => list.iter().map(Value::as_f64).collect(),
            one => one.as_f64().map(|number| vec![number]),
        };
        let is_sound = |list: &Vec<f64>| !list.is_empty() && list.iter().all(|number| number.abs() < 1e6);
        numbers.filter(is_sound).ok_or_else(|| self.wrong(key, value, "a number for each channel"))
    }

    /// A number of pixels of a side.
    fn side(&self, key: &str, value: &Value) -> Result<usize, DataError> {
        let side = value.as_u64().filter(|side| (1..=LARGEST_SIDE).contains(side)).map(|side| side as usize);
        side.ok_or_else(|| self.wrong(key, value, &format!("a number of pixels from 1 to {LARGEST_SIDE}")))
    }

    /// A size: `height` and `width`, or `shortest_edge`, or one number, which is then that of the shorter side.
    fn size(&mut self, key: &'static str) -> Result<Option<Resize>, DataError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let expected = "one number, `height` and `width`, or `shortest_edge`";
        let size = match value {
            Value::Object(sides) => {
                let names: Vec<&str> = sides.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str()).collect();
                match names.as_slice() {
                    ["height", "width"] | ["width", "height"] => {
                        Resize::To([self.side(key, &sides["height"])?, self.side(key, &sides["width"])?])
                    }
                    ["shortest_edge"] => Resize::ShorterSide(self.side(key, &sides["shortest_edge"])?),
                    _ => return Err(self.wrong(key, value, expected)),
                }
            }
            // what older releases of some classes wrote
            Value::Array(sides) if sides.len() == 2 => {
                Resize::To([self.side(key, &sides[0])?, self.side(key, &sides[1])?])
            }
            one => Resize::ShorterSide(self.side(key, one)?),
        };
        Ok(Some(size))
    }

    fn resize(&mut self, class: Class) -> Result<Resize, DataError> {
        let is_number = self.value("size").is_some_and(Value::is_number);
        match (self.size("size")?, class) {
            (None, _) => Err(self.problem("`size` is missing")),
            // one number is both sides in these classes
            (Some(Resize::ShorterSide(side)), Class::Vit) if is_number => Ok(Resize::To([side; 2])),
            (Some(Resize::ShorterSide(_)), Class::Cutting) if is_number => {
                Err(self.problem("`size` is one number, which classes understand differently: write `shortest_edge`, or `height` and `width`"))
            }
            (Some(size), _) => Ok(size),
        }
    }

    fn filter(&mut self, class: Class) -> Result<Filter, DataError> {
        let Some(value) = self.take("resample") else {
            return match class {
                Class::Vit => Ok(Filter::Bilinear),
                _ => Err(self.problem("`resample` is missing: releases of transformers differ in what they take then; 2 is bilinear, 3 bicubic")),
            };
        };
        value
            .as_u64()
            .and_then(Filter::of)
            .ok_or_else(|| self.wrong("resample", value, "a number of Pillow's from 0 to 5"))
    }

    /// Keys that are not used; a step that is not known is refused.
    fn unknown(&self, keys: &Map<String, Value>) -> Result<Vec<String>, DataError> {
        let mut unknown = vec![];
        for (key, value) in keys {
            if self.used.contains(&key.as_str()) || WITHOUT_EFFECT.contains(&key.as_str()) || value.is_null() {
                continue;
            }
            if key.starts_with("do_") && *value != Value::Bool(false) {
                return Err(self.problem(format!("`{key}` = {value} is a step that is not known")));
            }
            // belongs to a step that is not done
            if !["size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std"].contains(&key.as_str())
                && !key.starts_with("do_")
            {
                unknown.push(key.chars().take(40).collect());
            }
        }
        Ok(unknown)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value, kind: &str) -> Result<ImageProcessor, String> {
        let found = ImageProcessor::read(Path::new("p.json"), value, kind);
        found.map_err(|error| error.to_string())
    }

    /// The keys of an image processor of a ViT, with others in their place.
    fn vit(others: Value) -> Value {
        let mut keys = json!({
            "image_processor_type": "ViTImageProcessor", "do_resize": true, "size": { "height": 4, "width": 6 },
            "resample": 2, "do_rescale": true, "rescale_factor": 1.0 / 255.0, "do_normalize": true,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5], "do_convert_rgb": null,
        });
        let Value::Object(others) = others else { unreachable!() };
        keys.as_object_mut().expect("an object").extend(others);
        keys
    }

    #[test]
    fn steps_are_those_of_the_class() {
        let read = |value: Value, kind| read(&value, kind).expect("sound");
        let processor = read(vit(json!({})), "resnet");
        assert_eq!(processor.resize, Some((Resize::To([4, 6]), Filter::Bilinear)));
        assert_eq!(processor.scales(3).expect("three")[0], (4.0 / 255.0, -2.0));
        // one number is both sides of a ViT's images, and the shorter one of others
        assert_eq!(read(vit(json!({ "size": 5 })), "x").resize, Some((Resize::To([5, 5]), Filter::Bilinear)));
        let conv = json!({ "size": 224, "crop_pct": 0.875, "resample": 3, "image_mean": 0.5, "image_std": 0.5 });
        let processor = read(conv.clone(), "resnet");
        assert_eq!(processor.resize, Some((Resize::ShorterSide(256), Filter::Bicubic)));
        assert_eq!((processor.crop, processor.rescale), (Some([224, 224]), Some(1.0 / 255.0)));
        let Value::Object(mut large) = conv else { unreachable!() };
        large.insert("size".into(), json!({ "shortest_edge": 384 }));
        let processor = read(Value::Object(large), "resnet");
        assert_eq!((processor.resize, processor.crop), (Some((Resize::To([384, 384]), Filter::Bicubic)), None));
        // without a class only what is declared is done
        let processor = read(json!({ "image_mean": [0.1], "image_std": [0.2] }), "cnn");
        assert_eq!((processor.resize, processor.crop, processor.rescale), (None, None, None));
        assert_eq!(processor.scales(1).expect("one"), [(5.0, -0.5)]);
        let nested = json!({ "image_processor": vit(json!({})), "tokenizer": {} });
        assert_eq!(read(nested, "vit").crop, None);
    }

    #[test]
    fn sizes_are_those_of_python() {
        assert_eq!(Resize::ShorterSide(256).of([480, 640]), [256, 341]);
        assert_eq!(Resize::ShorterSide(256).of([640, 480]), [341, 256]);
        assert_eq!(Resize::ShorterSide(7).of([3, 3]), [7, 7]);
    }

    #[test]
    fn what_is_not_done_is_refused_and_what_is_not_used_is_named() {
        for (others, message) in [
            (json!({ "do_pad": true }), "`do_pad` = true is a step that is not known"),
            (json!({ "size": { "longest_edge": 4 } }), "`size` = {\"longest_edge\":4}, expected one number"),
            (json!({ "size": { "height": 0, "width": 4 } }), "`size` = 0, expected a number of pixels from 1 to 16384"),
            (json!({ "size": null }), "`size` is missing"),
            (json!({ "resample": 9 }), "`resample` = 9, expected a number of Pillow's"),
            (json!({ "image_std": [0.5, 0, 1] }), "`image_std` has a 0"),
            (json!({ "image_mean": null }), "`image_mean` is missing"),
            (json!({ "do_rescale": "yes" }), "`do_rescale` = \"yes\", expected true or false"),
            (json!({ "image_processor_type": "SamImageProcessor" }), "\"SamImageProcessor\" is not one whose steps"),
        ] {
            let error = read(&vit(others), "vit").expect_err(message);
            assert!(error.contains(message) && error.starts_with("p.json: "), "{error}");
        }
        let mut without = vit(json!({ "image_processor_type": "ConvNextImageProcessor", "size": 8 }));
        without.as_object_mut().expect("an object").remove("resample");
        assert!(read(&without, "resnet").expect_err("no filter").contains("`resample` is missing"));
        let processor = read(&vit(json!({ "antialias_by": 3, "do_thumbnail": false })), "vit").expect("sound");
        assert!(processor.to_string().ends_with("as p.json says (`antialias_by` not used)"), "{processor}");
        let channels = processor.scales(1).expect_err("three means").to_string();
        assert!(channels.contains("`image_mean` has 3 numbers, and the model reads 1 channels"), "{channels}");
    }
}
