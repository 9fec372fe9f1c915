//! What a model or a file of data needs, fetched into the cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::cache::{Cached, failed};
use super::client::{Client, Contents};
use super::download::{download, has_size};
use super::error::HubError;
use super::name::{Repository, of_file, of_model, parts_of_file};
use super::settings::Settings;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Settings of a model, beside its tokenizer.
const CONFIGS: [&str; 2] = ["config.json", "adapter_config.json"];

/// What a tokenizer and a chat template are read from.
const TOKENIZER: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// What becomes of images before a model sees them.
const IMAGES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// What a Trainer writes beside the weights of a checkpoint.
const TRAINING: [&str; 5] =
    ["trainer_state.json", "training_args.bin", "scheduler.pt", "optimizer.pt", "optimizer.bin"];

/// The weights of an adapter.
const ADAPTER: &str = "adapter_model.safetensors";

/// Bytes of an index of shards at most.
const LARGEST_INDEX: u64 = 128 << 20;

/// What is told of a download.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// What there is, before it is fetched.
    Found {
        /// The name that was asked for.
        name: &'a str,
        /// The commit that it is.
        commit: &'a str,
        /// Files that are needed.
        files: usize,
        /// Their bytes.
        bytes: u64,
        /// Bytes that are not in the cache.
        missing: u64,
    },
    /// How far a file is.
    Advanced {
        /// The file.
        file: &'a str,
        /// Bytes that are there.
        done: u64,
        /// Bytes that it has.
        size: u64,
    },
}

type Tell<'a> = &'a mut dyn FnMut(&Event<'_>);

/// The folder of `hub:ORG/NAME[@REVISION]` with what a model is read from: settings, safetensors, tokenizer.
///
/// # Errors
/// [`HubError`].
pub fn model(name: &str, settings: &Settings, tell: Tell<'_>) -> Result<PathBuf, HubError> {
    let repository = of_model(name)?;
    let place = Place::of(name, settings, &repository);
    if settings.is_offline {
        let folder = place.offline()?;
        let has = |file: &&str| folder.join(file).is_file();
        if !CONFIGS.iter().any(has) {
            return Err(place.not_cached("`config.json`"));
        }
        if ![SINGLE, INDEX, ADAPTER].iter().any(has) {
            return Err(place.not_cached(format!("`{SINGLE}`")));
        }
        if has(&INDEX) && !has(&SINGLE) {
            let shards = place.shards(&folder.join(INDEX))?;
            if let Some(missing) = shards.iter().find(|shard| !has(&shard.as_str())) {
                return Err(place.not_cached(format!("`{missing}`")));
            }
        }
        return Ok(folder);
    }
    let contents = place.client.contents()?;
    let has = |file: &&str| contents.files.contains_key(*file);
    if !CONFIGS.iter().any(has) {
        return Err(place.absent("model with a `config.json` or an `adapter_config.json` there"));
    }
    let weights = [SINGLE, ADAPTER];
    if !weights.iter().any(has) && !has(&INDEX) {
        let instead = if has(&"pytorch_model.bin") { "; its weights are in `pytorch_model.bin`" } else { "" };
        return Err(place.absent(&format!("safetensors of this model{instead}")));
    }
    let mut needed: BTreeSet<String> = CONFIGS
        .iter()
        .chain(&TOKENIZER)
        .chain(&IMAGES)
        .chain(&weights)
        .filter(|file| has(file))
        .map(|file| (*file).to_owned())
        .collect();
    if !has(&SINGLE) && has(&INDEX) {
        place.fetch(&contents, &[INDEX.to_owned()].into(), &mut |_| {})?;
        let shards = place.shards(&place.cached.snapshot(&contents.commit).join(INDEX))?;
        if let Some(missing) = shards.iter().find(|shard| !contents.files.contains_key(*shard)) {
            return Err(place.absent(&format!("file `{missing}`, which `{INDEX}` names")));
        }
        needed.extend(shards);
        needed.insert(INDEX.to_owned());
    }
    place.fetch(&contents, &needed, tell)
}

/// The folder of `hub:ORG/NAME[@REVISION]` with what a tokenizer is read from.
///
/// # Errors
/// [`HubError`].
pub fn tokenizer(name: &str, settings: &Settings, tell: Tell<'_>) -> Result<PathBuf, HubError> {
    let repository = of_model(name)?;
    let place = Place::of(name, settings, &repository);
    if settings.is_offline {
        let folder = place.offline()?;
        return match folder.join(TOKENIZER[0]).is_file() {
            true => Ok(folder),
            false => Err(place.not_cached("`tokenizer.json`")),
        };
    }
    let contents = place.client.contents()?;
    if !contents.files.contains_key(TOKENIZER[0]) {
        return Err(place.absent("`tokenizer.json` there"));
    }
    let is_there = |file: &&&str| contents.files.contains_key(**file);
    let needed = TOKENIZER.iter().filter(is_there).map(|file| (*file).to_owned()).collect();
    place.fetch(&contents, &needed, tell)
}

/// The folder of `hub:ORG/NAME[@REVISION]` with what becomes of images.
///
/// # Errors
/// [`HubError`].
pub fn image_processor(name: &str, settings: &Settings, tell: Tell<'_>) -> Result<PathBuf, HubError> {
    Ok(some_of(name, &IMAGES, settings, tell)?.0)
}

/// The file of `hub:ORG/NAME[@REVISION]` that has its chat template: the first that is there of `chat_template.jinja`,
/// `chat_template.json` and `tokenizer_config.json`.
///
/// # Errors
/// [`HubError`].
pub fn chat_template(name: &str, settings: &Settings, tell: Tell<'_>) -> Result<PathBuf, HubError> {
    const PLACES: [&str; 3] = ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"];
    let (folder, found) = some_of(name, &PLACES, settings, tell)?;
    Ok(folder.join(found))
}

/// The folder of a model's repository with those of these files that it has, at least one, and the first of them.
fn some_of(
    name: &str,
    files: &[&'static str],
    settings: &Settings,
    tell: Tell<'_>,
) -> Result<(PathBuf, &'static str), HubError> {
    let repository = of_model(name)?;
    let place = Place::of(name, settings, &repository);
    let which = files.iter().map(|file| format!("`{file}`")).collect::<Vec<_>>().join(" or ");
    if settings.is_offline {
        let folder = place.offline()?;
        let first = files.iter().find(|file| folder.join(file).is_file()).copied();
        return Ok((folder, first.ok_or_else(|| place.not_cached(which))?));
    }
    let contents = place.client.contents()?;
    let there: Vec<&str> = files.iter().filter(|file| contents.files.contains_key(**file)).copied().collect();
    let first = files.iter().find(|file| there.contains(*file)).copied();
    let first = first.ok_or_else(|| place.absent(&format!("{which} there")))?;
    let needed = there.into_iter().map(str::to_owned).collect();
    Ok((place.fetch(&contents, &needed, tell)?, first))
}

/// The folder of `hub:ORG/NAME[@REVISION]` as a Trainer's output folder: its folders `checkpoint-N` with weights,
/// settings and what the Trainer wrote there, and the tokenizer beside them.
///
/// # Errors
/// [`HubError`].
pub fn run(name: &str, settings: &Settings, tell: Tell<'_>) -> Result<PathBuf, HubError> {
    let repository = of_model(name)?;
    let place = Place::of(name, settings, &repository);
    if settings.is_offline {
        // which checkpoints there are the hub alone knows
        return Err(place.not_cached("list of its checkpoints"));
    }
    let contents = place.client.contents()?;
    let needed: BTreeSet<String> = contents.files.keys().filter(|file| is_of_run(file)).cloned().collect();
    if !needed.iter().any(|file| file.contains('/')) {
        return Err(place.absent("folder `checkpoint-N` there"));
    }
    place.fetch(&contents, &needed, tell)
}

/// Whether a file of a repository is one that a training run is read from.
pub(super) fn is_of_run(file: &str) -> bool {
    let (folder, name) = file.split_once('/').unwrap_or(("", file));
    let number = folder.strip_prefix("checkpoint-").unwrap_or_default();
    let is_checkpoint = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let is_shard = || {
        let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
        numbers.is_some_and(|numbers| numbers.split("-of-").all(|n| n.bytes().all(|b| b.is_ascii_digit())))
    };
    let described = CONFIGS.iter().chain(&TOKENIZER).chain(&IMAGES).chain(&TRAINING).any(|known| *known == name);
    match folder {
        "" => described,
        _ => is_checkpoint && (described || [SINGLE, INDEX, ADAPTER].contains(&name) || is_shard()),
    }
}

/// The file `hub:ORG/NAME[@REVISION]/FILE` of a data set, or a pattern that all files fit that FILE fits.
///
/// # Errors
/// [`HubError`].
pub fn file(name: &str, settings: &Settings, tell: Tell<'_>) -> Result<PathBuf, HubError> {
    let (repository, file) = of_file(name)?;
    let place = Place::of(name, settings, &repository);
    if settings.is_offline {
        if is_pattern(&file) {
            return Err(place.not_cached("list of the files that it fits"));
        }
        let found = place.offline()?.join(&file);
        return if found.is_file() { Ok(found) } else { Err(place.not_cached(format!("`{file}`"))) };
    }
    let contents = place.client.contents()?;
    let needed: BTreeSet<String> = if is_pattern(&file) {
        let glob = globset::GlobBuilder::new(&file).literal_separator(true).build();
        let fits = glob.map_err(|_| place.absent(&format!("file that fits `{file}`")))?.compile_matcher();
        contents.files.keys().filter(|name| fits.is_match(name)).cloned().collect()
    } else {
        contents.files.keys().filter(|name| **name == file).cloned().collect()
    };
    if needed.is_empty() {
        return Err(place.absent(&format!("file `{file}` there")));
    }
    Ok(place.fetch(&contents, &needed, tell)?.join(file))
}

/// The path in the cache of a name at a commit, whether it is there or not: of a file of a data set, or of a model's
/// folder.
pub(super) fn place(is_file: bool, name: &str, settings: &Settings) -> Option<PathBuf> {
    let (repository, file) = match is_file {
        true => of_file(name).ok()?,
        false => (of_model(name).ok()?, String::new()),
    };
    let folder = Cached::of(settings, &repository).snapshot(&repository.revision);
    Some(if is_file { folder.join(file) } else { folder })
}

/// Whether the file of a data set's name is a pattern.
pub(super) fn is_pattern(file: &str) -> bool {
    file.contains(['*', '?', '[', '{'])
}

/// A repository at the hub and in the cache.
struct Place<'a> {
    name: &'a str,
    settings: &'a Settings,
    repository: &'a Repository,
    client: Client<'a>,
    cached: Cached,
}

impl<'a> Place<'a> {
    fn of(name: &'a str, settings: &'a Settings, repository: &'a Repository) -> Self {
        let client = Client::new(settings, repository, name);
        Self { name, settings, repository, client, cached: Cached::of(settings, repository) }
    }

    fn absent(&self, what: &str) -> HubError {
        let (name, endpoint) = (self.name.to_owned(), self.settings.endpoint.clone());
        HubError::Absent { name, endpoint, what: what.to_owned() }
    }

    fn not_cached(&self, missing: impl Into<String>) -> HubError {
        let (name, cache) = (self.name.to_owned(), self.settings.cache.clone());
        HubError::NotCached { name, cache, missing: missing.into() }
    }

    /// The snapshot that the cache has.
    fn offline(&self) -> Result<PathBuf, HubError> {
        let revision = &self.repository.revision;
        let commit = self.cached.commit(revision);
        let folder = commit.map(|commit| self.cached.snapshot(&commit)).filter(|folder| folder.is_dir());
        folder.ok_or_else(|| self.not_cached(format!("revision `{revision}`")))
    }

    /// The shards that an index names.
    fn shards(&self, index: &Path) -> Result<BTreeSet<String>, HubError> {
        let text = match std::fs::metadata(index) {
            Ok(found) if found.len() > LARGEST_INDEX => {
                return Err(self.client.answer(format!("has a `{INDEX}` of more than 128 MiB")));
            }
            _ => std::fs::read(index).map_err(failed(index, "cannot be read"))?,
        };
        let json: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|error| self.client.answer(format!("has a `{INDEX}` that is not valid JSON: {error}")))?;
        let map = json.get("weight_map").and_then(|map| map.as_object());
        let map = map.ok_or_else(|| self.client.answer(format!("has a `{INDEX}` without an object `weight_map`")))?;
        let mut shards = BTreeSet::new();
        for shard in map.values() {
            match shard.as_str().filter(|shard| parts_of_file(shard).is_some_and(|parts| parts.len() == 1)) {
                Some(shard) => shards.insert(shard.to_owned()),
                None => {
                    return Err(self
                        .client
                        .answer(format!("has a `{INDEX}` with {shard}, which is no plain file name")));
                }
            };
        }
        Ok(shards)
    }

    /// Fetches what is not in the cache, and gives the snapshot's folder.
    fn fetch(&self, contents: &Contents, needed: &BTreeSet<String>, tell: Tell<'_>) -> Result<PathBuf, HubError> {
        let commit = &contents.commit;
        let folder = self.cached.snapshot(commit);
        let all = || needed.iter().map(|file| (file, &contents.files[file]));
        let is_missing = |file: &str, size: u64| !has_size(&folder.join(file), size);
        tell(&Event::Found {
            name: self.name,
            commit,
            files: needed.len(),
            bytes: all().map(|(_, remote)| remote.size).sum(),
            missing: all().filter(|(file, remote)| is_missing(file, remote.size)).map(|(_, remote)| remote.size).sum(),
        });
        for (file, remote) in all().filter(|(file, remote)| is_missing(file, remote.size)) {
            let mut advanced = |done| tell(&Event::Advanced { file, done, size: remote.size });
            download((&self.client, self.name), &self.cached, (commit, file, remote), &mut advanced)?;
            self.cached.link(commit, file, &remote.blob)?;
        }
        self.cached.remember(&self.repository.revision, commit)?;
        Ok(folder)
    }
}
