//! The images of a folder whose folders are classes, as torchvision's `ImageFolder` and `datasets` read them.

use std::io::Error;
use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::data::files::expand;

/// Files that list the images of a folder, as `datasets` reads them.
const LISTS: [&str; 4] = ["metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet"];

/// Endings of images that are not read. Leaving them out would leave out examples.
const NOT_READ: [&str; 14] =
    ["webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jp2", "avif", "heic", "heif", "ico", "jxl", "tga"];

/// Folders within folders, at most.
const DEPTH: usize = 16;

/// What files of images are: a table of them, or a folder of classes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// Rows, whose images have names relative to a folder.
    Table {
        /// The file of the rows.
        rows: PathBuf,
        /// The folder.
        base: PathBuf,
    },
    /// A folder of classes.
    Classes {
        /// The folder.
        root: PathBuf,
        /// Its classes and images.
        classes: Classes,
    },
}

impl Files {
    /// What a path stands for, in order.
    ///
    /// # Errors
    /// Those of [`expand`], and of a folder that cannot be listed.
    pub(super) fn of(path: &Path) -> Result<Vec<Self>, DataError> {
        let one = |file: PathBuf| {
            if !file.is_dir() {
                let base = file.parent().unwrap_or(Path::new("")).to_owned();
                return Ok(Self::Table { rows: file, base });
            }
            Ok(match Folder::list(&file)? {
                Folder::Listed(rows) => Self::Table { rows, base: file },
                Folder::Classes(classes) => Self::Classes { root: file, classes },
            })
        };
        expand(path)?.into_iter().map(one).collect()
    }
}

/// What an image of a folder of classes is called: its path from there.
pub(super) fn name_in(root: &Path, image: &Path) -> String {
    image.strip_prefix(root).unwrap_or(image).to_string_lossy().into_owned()
}

/// What a folder of images holds.
#[derive(Debug, PartialEq, Eq)]
enum Folder {
    /// A file lists its images.
    Listed(PathBuf),
    /// Its folders are classes.
    Classes(Classes),
}

/// The classes of a folder, sorted, and its images: class by class, folder by folder, sorted by name.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Classes {
    pub(super) names: Vec<String>,
    /// Each image's path and the place of its class in `names`.
    pub(super) images: Vec<(PathBuf, usize)>,
    /// Files that are no images, and one of them.
    pub(super) others: Option<(usize, String)>,
}

impl Folder {
    /// Lists a folder.
    ///
    /// # Errors
    /// If it cannot be read, has no class with an image, has images that belong to no class, or images that are not read
    /// here.
    fn list(root: &Path) -> Result<Self, DataError> {
        if let Some(list) = LISTS.into_iter().map(|name| root.join(name)).find(|file| file.exists()) {
            return Ok(Self::Listed(list));
        }
        let mut classes = Classes::default();
        let (folders, files) = entries(root)?;
        for file in files {
            if is_image(&file) {
                return Err(DataError::ImageWithoutClass { folder: root.to_owned(), file });
            }
            classes.leave_out(&file)?;
        }
        for folder in folders {
            let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let class = classes.names.len();
            classes.names.push(name);
            classes.take(&folder, class, DEPTH)?;
        }
        if classes.images.is_empty() {
            return Err(DataError::NoImages { folder: root.to_owned() });
        }
        Ok(Self::Classes(classes))
    }
}

impl Classes {
    /// Takes the images of a folder and of those in it.
    fn take(&mut self, folder: &Path, class: usize, depth: usize) -> Result<(), DataError> {
        if depth == 0 {
            let source = Error::other(format!("more than {DEPTH} folders, each within another"));
            return Err(DataError::Read { file: folder.to_owned(), source });
        }
        let (folders, files) = entries(folder)?;
        for file in files {
            if is_image(&file) {
                self.images.push((file, class));
            } else {
                self.leave_out(&file)?;
            }
        }
        folders.iter().try_for_each(|folder| self.take(folder, class, depth - 1))
    }

    fn leave_out(&mut self, file: &Path) -> Result<(), DataError> {
        if ending(file).is_some_and(|ending| NOT_READ.contains(&ending.as_str())) {
            let problem = super::problem::ImageProblem::Form;
            return Err(DataError::Image { file: file.to_owned(), problem });
        }
        let name = || file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (count, _) = self.others.get_or_insert_with(|| (0, name()));
        *count += 1;
        Ok(())
    }
}

/// The folders and the files of a folder, each sorted; links are followed, hidden entries are not there.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let failed = |source| DataError::Read { file: folder.to_owned(), source };
    let mut found = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, Error>>())
        .map_err(failed)?;
    found.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    found.sort();
    Ok(found.into_iter().partition(|path| path.is_dir()))
}

fn ending(file: &Path) -> Option<String> {
    file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase)
}

fn is_image(file: &Path) -> bool {
    ending(file).is_some_and(|ending| matches!(ending.as_str(), "png" | "jpg" | "jpeg"))
}
