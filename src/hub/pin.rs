//! The commit that a name was when it was fetched, to which a job that is run again is held.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::HubError;
use super::fetch::{self, Event, is_of_run, is_pattern};
use super::name::{file_at, is_commit, model_at, of_snapshot};
use super::settings::Settings;

/// What a name of the hub was when it was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The commit: 40 hexadecimal digits.
    pub commit: String,
    /// Files of that commit which were there, where the hub's list of files alone tells which are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<usize>,
}

/// What is meant by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A model with its tokenizer.
    Model,
    /// A tokenizer.
    Tokenizer,
    /// What becomes of images.
    ImageProcessor,
    /// A chat template.
    ChatTemplate,
    /// A Trainer's output folder.
    Run,
    /// A file of a data set, or several by a pattern.
    File,
}

type Tell<'a> = &'a mut dyn FnMut(&Event<'_>);

impl What {
    fn fetch(self, name: &str, settings: &Settings, tell: Tell<'_>) -> Result<PathBuf, HubError> {
        match self {
            Self::Model => fetch::model(name, settings, tell),
            Self::Tokenizer => fetch::tokenizer(name, settings, tell),
            Self::ImageProcessor => fetch::image_processor(name, settings, tell),
            Self::ChatTemplate => fetch::chat_template(name, settings, tell),
            Self::Run => fetch::run(name, settings, tell),
            Self::File => fetch::file(name, settings, tell),
        }
    }

    fn at(self, name: &str, commit: &str) -> Result<String, HubError> {
        match self {
            Self::File => file_at(name, commit),
            _ => model_at(name, commit),
        }
    }

    /// How many files of a snapshot a path stands for, where a list alone tells which are meant.
    fn listed(self, path: &Path) -> Option<usize> {
        let is_snapshot = |folder: &&Path| folder.file_name().and_then(|name| name.to_str()).is_some_and(is_commit);
        let snapshot = path.ancestors().find(is_snapshot)?;
        let count = |fits: &dyn Fn(&str) -> bool| {
            let all = walk(snapshot, 0);
            let names = all.iter().filter_map(|file| file.strip_prefix(snapshot).ok()?.to_str());
            names.filter(|name| fits(name)).count()
        };
        match self {
            Self::Run => Some(count(&is_of_run)),
            Self::File => {
                let file = path.strip_prefix(snapshot).ok()?.to_str().filter(|file| is_pattern(file))?;
                let glob = globset::GlobBuilder::new(file).literal_separator(true).build().ok()?.compile_matcher();
                Some(count(&|name| glob.is_match(name)))
            }
            _ => None,
        }
    }

    /// The path of a name in the cache, or what was fetched into it; and its commit.
    ///
    /// A name that is held to a commit is not asked for at the hub where the cache has all of it: a commit does not
    /// change.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn get(
        self,
        name: &str,
        pin: Option<&Pin>,
        settings: &Settings,
        tell: Tell<'_>,
    ) -> Result<(PathBuf, Option<Pin>), HubError> {
        let path = match pin {
            None => self.fetch(name, settings, tell)?,
            Some(pin) => {
                let name = self.at(name, &pin.commit)?;
                match self.cached(&name, pin, settings) {
                    Some(path) => path,
                    None => self.fetch(&name, settings, tell)?,
                }
            }
        };
        let pin = of_snapshot(&path).map(|(_, commit)| Pin { commit, files: self.listed(&path) });
        Ok((path, pin))
    }

    /// The path of a name in the cache at a commit, if all of it is there. Opens no connection.
    pub fn find(self, name: &str, pin: &Pin, settings: &Settings) -> Option<PathBuf> {
        self.cached(&self.at(name, &pin.commit).ok()?, pin, settings)
    }

    /// What the cache has, if that is all.
    fn cached(self, name: &str, pin: &Pin, settings: &Settings) -> Option<PathBuf> {
        if let Some(files) = pin.files {
            let path = fetch::place(self == Self::File, name, settings)?;
            return (self.listed(&path) == Some(files)).then_some(path);
        }
        let offline = Settings { is_offline: true, ..settings.clone() };
        self.fetch(name, &offline, &mut |_| {}).ok()
    }
}

/// Folders in one another at most; the hub's names of files have no more.
const DEEPEST: usize = 32;

/// The files below a folder, and what links lead to.
fn walk(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mut files = vec![];
    for path in entries {
        if path.is_file() {
            files.push(path);
        } else if depth < DEEPEST && path.is_dir() {
            files.extend(walk(&path, depth + 1));
        }
    }
    files
}
