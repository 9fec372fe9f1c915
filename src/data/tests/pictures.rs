//! Images in files, against what `datasets`, Pillow and image processors of transformers made of them
//! (`fixtures/generators/pictures.py`).

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;
use crate::Hint;

/// Images that are stored without loss; the others are JPEG, whose decoders differ by a few levels.
const EXACT: usize = 4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pictures").join(name)
}

fn labels(names: &[&str]) -> Labels {
    let names = names.iter().zip(0..).map(|(name, class)| ((*name).to_owned(), class)).collect();
    Labels { outputs: 3, task: Some(Task::Classification), names, token_types: None, end: None }
}

fn limits(channels: usize) -> RowLimits {
    let inputs = RowShape::Image { channels, size: ImageSize::Any };
    RowLimits { inputs, outputs: 3, task: Task::Classification }
}

fn options(processor: &Path) -> ImageOptions {
    ImageOptions {
        processor: ImageProcessor::find(Path::new("nowhere"), Some(processor), "cnn").expect("a processor"),
        labels: labels(&["LABEL_0", "LABEL_1", "LABEL_2"]),
        columns: Columns::default(),
        id_field: IdField::Default,
        memory: None,
    }
}

fn read(path: &Path, options: &ImageOptions) -> Result<(Dataset, ReadReport), String> {
    read_images(path, limits(3), options).map_err(|error| {
        let text = format!("{error}\n{}", error.hint().unwrap_or_default());
        text.replace(&fixture("").display().to_string(), "").replace(&path.display().to_string(), "PATH")
    })
}

/// The images of a dataset as the network sees them.
fn rows(dataset: &Dataset) -> (&RowDataset, Vec<Vec<f32>>) {
    let Kind::Rows(rows) = dataset.kind() else { panic!("images are rows") };
    (rows, (0..dataset.len()).map(|i| rows.inputs(i..i + 1)).collect())
}

#[test]
fn the_same_images_are_the_same_examples_in_every_form() {
    let usual = options(&fixture("processors/bilinear.json"));
    let (expected, report) = read(&fixture("classes"), &usual).expect("a folder of classes");
    let images = report.images.expect("images");
    assert_eq!(images.classes_by_order.as_deref(), Some(&["bird".to_owned(), "cat".into(), "fish".into()][..]));
    assert_eq!((images.coloured, images.opaque, images.turned), (1, 1, 1), "{images:?}");
    assert_eq!(images.others, Some((1, "notes.txt".into())));
    assert_eq!(expected.id(0), "bird/colours.png");
    assert_eq!(expected.excerpt(5, 80), "target fish");
    let keys = |dataset: &Dataset| (0..dataset.len()).map(|i| dataset.key(i)).collect::<Vec<_>>();
    assert_eq!(keys(&expected).len(), 6);
    for name in ["listed", "listed/metadata.csv", "table.parquet", "saved", "rows.jsonl"] {
        let mut of_file = options(&fixture("processors/bilinear.json"));
        if name == "rows.jsonl" {
            of_file.columns =
                Columns { image: Some("picture".into()), label: Some("kind".into()), ..Columns::default() };
        }
        let (found, _) = read(&fixture(name), &of_file).expect(name);
        assert_eq!(keys(&found), keys(&expected), "{name}");
    }
    let (table, _) = read(&fixture("table.parquet"), &usual).expect("a table");
    assert_eq!((table.id(5), table.excerpt(5, 80)), ("6", "turned.jpeg, target 2".into()));
    let (listed, _) = read(&fixture("listed"), &usual).expect("a list");
    assert_eq!(listed.metadata(1)["shot"], "s1");
    assert_eq!(listed.metadata(1)["file_name"], "grey.png");
    // the names of the configuration count where it has them
    let named =
        ImageOptions { labels: labels(&["fish", "cat", "bird"]), ..options(&fixture("processors/bilinear.json")) };
    let (found, report) = read(&fixture("classes"), &named).expect("known names");
    assert_eq!((found.excerpt(0, 80), report.images.expect("images").classes_by_order), ("target bird".into(), None));
}

/// Pixels of every processor against both backends of transformers: within one level of 255, of JPEG, whose decoders round
/// differently, within two.
#[test]
fn images_are_processed_as_transformers_does() {
    let bytes = fs::read(fixture("expected.safetensors")).expect("recorded values");
    let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
    for (name, processor) in ["bilinear", "bicubic", "lanczos", "nearest", "shorter", "cut", "square"]
        .map(|name| (name, fixture(&format!("processors/{name}.json"))))
    {
        let options = options(&processor);
        let scales = options.processor.scales(3).expect("three channels");
        let (dataset, _) = read(&fixture("classes"), &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (rows, found) = rows(&dataset);
        let plane = rows.shape()[1] * rows.shape()[2];
        let mut worst = [[0.0_f64; 2]; 2];
        for (b, backend) in ["torchvision", "pil"].into_iter().enumerate() {
            let view = expected.tensor(&format!("{name}.{backend}")).expect("recorded");
            let want: Vec<f32> = view.data().as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
            let (count, size) = (view.shape()[0], view.shape()[1..].iter().product::<usize>());
            for i in 0..count {
                // of large images every sixteenth pixel is recorded
                let is_kept = |k: &usize| {
                    name != "square" || ((k % plane / 384).is_multiple_of(16) && (k % 384).is_multiple_of(16))
                };
                let kept: Vec<usize> = (0..3 * plane).filter(is_kept).collect();
                assert_eq!(kept.len(), size, "{name}");
                for (place, k) in kept.into_iter().enumerate() {
                    let (factor, _) = scales[k / plane];
                    let levels = f64::from((found[i][k] - want[i * size + place]).abs()) / factor;
                    let of = &mut worst[b][usize::from(i >= EXACT)];
                    *of = of.max(levels);
                }
            }
        }
        let [lossless, jpeg] = [0, 1].map(|kind| worst.map(|of_backend| of_backend[kind]));
        // torchvision takes another neighbour than Pillow
        let neighbours = usize::from(name == "nearest");
        assert!(lossless[neighbours..].iter().all(|levels| *levels < 1.01), "{name}: {worst:?}");
        assert!(jpeg[neighbours..].iter().all(|levels| *levels < 2.01), "{name}: {worst:?}");
    }
}

#[test]
fn grey_is_that_of_pillow() {
    let bytes = fs::read(fixture("expected.safetensors")).expect("recorded values");
    let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
    let grey = expected.tensor("grey").expect("recorded").data();
    let folder = tempfile::tempdir().expect("a folder");
    let processor = folder.path().join("p.json");
    fs::write(&processor, "{}").expect("writable");
    let mut place = 0;
    for name in ["colours.png", "grey.png", "palette.png", "transparent.png"] {
        let list = folder.path().join("list.jsonl");
        let image = fixture("listed").join(name);
        fs::write(&list, serde_json::json!({ "image": image, "label": 1 }).to_string()).expect("writable");
        let (dataset, report) = read_images(&list, limits(1), &options(&processor)).expect(name);
        let (_, found) = rows(&dataset);
        let want: Vec<f32> = grey[place..place + found[0].len()].iter().map(|&byte| f32::from(byte)).collect();
        assert_eq!(found[0], want, "{name}");
        assert_eq!(report.images.expect("images").greyed, usize::from(name != "grey.png"));
        place += found[0].len();
    }
}

#[test]
fn images_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let png = fs::read(fixture("listed/colours.png")).expect("an image");
    fs::write(at("cut.png"), &png[..400]).expect("writable");
    fs::write(at("text.png"), "no image").expect("writable");
    fs::write(at("good.png"), &png).expect("writable");
    // a header of 60,000 x 60,000 pixels in a few hundred bytes
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    fs::write(at("huge.png"), &huge).expect("writable");
    fs::copy(fixture("listed/grey.png"), at("other.png")).expect("writable");
    let plain = at("plain.json");
    fs::write(&plain, r#"{"image_mean": 0, "image_std": 1}"#).expect("writable");
    let crops = at("crops.json");
    fs::write(&crops, r#"{"crop_size": 99}"#).expect("writable");
    let rows = |lines: &[&str]| {
        fs::write(at("rows.jsonl"), lines.join("\n")).expect("writable");
        at("rows.jsonl")
    };
    for (lines, processor, message) in [
        (&[r#"{"image": "absent.png", "label": 0}"#][..], &plain, "PATH:1: the image \"absent.png\": cannot be read"),
        (&[r#"{"image": "cut.png", "label": 0}"#], &plain, "PATH:1: the image \"cut.png\": broken PNG"),
        (&[r#"{"image": "text.png", "label": 0}"#], &plain, "PATH:1: the image \"text.png\": neither PNG nor JPEG"),
        (&[r#"{"image": "huge.png", "label": 0}"#], &plain, "60000 x 60000 pixels, which take more than"),
        (
            &[r#"{"image": "good.png", "label": 0}"#],
            &crops,
            "20 x 24 pixels (height x width), and the image processor cuts 99 x 99",
        ),
        (
            &[r#"{"image": "good.png", "label": 0}"#, r#"{"image": "other.png", "label": 0}"#],
            &plain,
            "PATH:2: the image \"other.png\": 17 x 30 pixels (height x width) after the image processor, expected 20 x 24",
        ),
        (&[r#"{"image": "good.png", "label": 7}"#], &plain, "PATH:1: the label is 7, but the model has 3 classes"),
        (&[r#"{"image": "good.png"}"#], &plain, "PATH:1: no `label`"),
        (&[r#"{"picture": "good.png", "label": 0}"#], &plain, "`--image-field FIELD` says which of them is the image"),
        (&[r#"{"image": 4, "label": 0}"#], &plain, "PATH:1: `image` is an integer, expected the name of a file"),
        (&[r#"{"image": {"bytes": "%%"}, "label": 0}"#], &plain, "PATH:1: `image` is bytes that are no base64"),
        (
            &[r#"{"id": 5, "image": "good.png", "label": 0}"#, r#"{"id": 5, "image": "good.png", "label": 0}"#],
            &plain,
            "examples 1 and 2 have the id \"5\"",
        ),
        (&[], &plain, "PATH: no examples"),
    ] {
        let error = read(&rows(lines), &options(processor)).map(drop).expect_err(message);
        assert!(error.contains(message), "{error}\n{message}");
    }
    let tight = ImageOptions { memory: Some(2_000), ..options(&plain) };
    let error = read(&rows(&[r#"{"image": "good.png", "label": 0}"#]), &tight).map(drop).expect_err("too many");
    assert!(
        error.contains("the pixels of 1 images take 1440 bytes, and 1000 bytes of the memory are for them"),
        "{error}"
    );
}

/// Files from elsewhere: whatever byte is another, an image is read or refused, and nothing panics.
#[test]
fn no_flipped_byte_panics() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("rows.jsonl");
    fs::write(&list, r#"{"image": "image", "label": 1}"#).expect("writable");
    let options = options(&fixture("processors/bilinear.json"));
    let mut read = [0, 0];
    for name in ["colours.png", "palette.png", "photo.jpg", "turned.jpeg"] {
        let bytes = fs::read(fixture("listed").join(name)).expect("an image");
        for k in 0..60 {
            let mut broken = bytes.clone();
            let at = k * 7919 % bytes.len();
            broken[at] ^= 1 << (k % 8);
            fs::write(folder.path().join("image"), broken).expect("writable");
            let found = read_images(&list, limits(3), &options);
            read[usize::from(found.is_err())] += 1;
        }
    }
    assert!(read.iter().all(|count| *count > 10), "some are read, some refused: {read:?}");
}

#[test]
fn folders_that_are_no_classes_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("data");
    let usual = options(&fixture("processors/bilinear.json"));
    let complaint = |labels: Labels| {
        let options = ImageOptions { labels, ..options(&fixture("processors/bilinear.json")) };
        read(&root, &options).map(drop).expect_err("a complaint")
    };
    fs::create_dir_all(root.join("a/b")).expect("writable");
    assert!(read(&root, &usual).map(drop).expect_err("none").starts_with("PATH: no folder with PNG or JPEG"));
    fs::copy(fixture("listed/grey.png"), root.join("a/b/x.PNG")).expect("writable");
    // two of three classes could be any
    fs::create_dir(root.join("c")).expect("writable");
    let error = complaint(labels(&["LABEL_0", "LABEL_1", "LABEL_2"]));
    assert!(error.starts_with("PATH: \"a\", \"c\" are no classes of the model, which has 3: \"LABEL_0\""), "{error}");
    let error = complaint(labels(&["a", "b", "e"]));
    assert!(error.starts_with("PATH: \"c\" are no classes of the model"), "{error}");
    let error = complaint(Labels { task: Some(Task::MultiLabel), ..labels(&["a", "b", "c"]) });
    assert!(error.contains("folders are classes, and the model has other labels"), "{error}");
    let (found, _) = read(&root, &ImageOptions { labels: labels(&["a", "b", "c"]), ..usual }).expect("known");
    assert_eq!(found.id(0), "a/b/x.PNG");
    // several folders are one data set: the first says what the classes are, and what is left out of each is counted
    let both = folder.path().join("{data,other}");
    let three = options(&fixture("processors/bilinear.json"));
    for name in ["a", "b", "c"] {
        fs::create_dir_all(folder.path().join("other").join(name)).expect("writable");
    }
    fs::create_dir_all(root.join("b")).expect("writable");
    fs::write(root.join("notes.txt"), "").expect("writable");
    fs::write(folder.path().join("other/more.txt"), "").expect("writable");
    fs::copy(fixture("listed/grey.png"), folder.path().join("other/c/y.png")).expect("writable");
    let (found, report) = read(&both, &three).expect("two folders");
    assert_eq!((found.len(), report.images.expect("images").others), (2, Some((2, "notes.txt".into()))));
    fs::rename(folder.path().join("other/c"), folder.path().join("other/d")).expect("writable");
    let error = read(&both, &three).map(drop).expect_err("other classes");
    assert!(error.contains("are no classes of the model"), "{error}");
    fs::remove_file(root.join("notes.txt")).expect("there");
    fs::write(root.join("a/y.webp"), "").expect("writable");
    let error = complaint(labels(&["a", "b", "c"]));
    assert!(error.contains("a/y.webp: neither PNG nor JPEG"), "{error}");
    fs::remove_file(root.join("a/y.webp")).expect("there");
    fs::copy(fixture("listed/grey.png"), root.join("z.png")).expect("writable");
    assert!(complaint(labels(&["a", "b", "c"])).contains("z.png: the image belongs to no class"));
}

/// The checksum of a part of a PNG file.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
