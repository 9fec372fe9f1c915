//! From the folder of an adapter to its base.

use std::path::{Path, PathBuf};

use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::presence::is_file;

const CONFIG: &str = "adapter_config.json";
/// The file of an adapter's tensors.
pub(in crate::model) const TENSORS: &str = "adapter_model.safetensors";

/// The folder of an adapter, and its base's.
#[derive(Debug, Clone)]
pub(crate) struct AdapterFolder {
    /// Where the adapter lies.
    pub(crate) folder: PathBuf,
    /// Where the base lies.
    pub(crate) base: PathBuf,
}

impl AdapterFolder {
    /// Whether a folder is used as an adapter: it holds one, and no whole weights, or it is asked for.
    pub(crate) fn is_one(folder: &Path, asked: bool) -> bool {
        let has = |name: &str| is_file(&folder.join(name));
        let whole = has("model.safetensors") || has("model.safetensors.index.json");
        (has(CONFIG) || has(TENSORS)) && (asked || !whole)
    }

    /// The tensors of a folder that is an adapter and holds no whole weights.
    pub(crate) fn file_of(folder: &Path) -> Option<PathBuf> {
        let file = folder.join(TENSORS);
        (Self::is_one(folder, false) && is_file(&file)).then_some(file)
    }

    /// Finds the base of an adapter; none for the folder of a whole checkpoint.
    ///
    /// # Errors
    /// An adapter whose base is in no folder that is known.
    pub(crate) fn find(folder: &Path, base: Option<&Path>, asked: bool) -> Result<Option<Self>, LoadError> {
        if !Self::is_one(folder, asked || base.is_some()) {
            return match base {
                Some(_) if folder.is_dir() => Err(LoadError::NotAnAdapter { folder: folder.to_owned() }),
                _ => Ok(None),
            };
        }
        for missing in [CONFIG, TENSORS] {
            if !is_file(&folder.join(missing)) {
                let (folder, bin) = (folder.to_owned(), is_file(&folder.join("adapter_model.bin")));
                let instead = if missing == TENSORS && bin {
                    "the adapter is in `adapter_model.bin`; save it with \
                     `model.save_pretrained(folder, safe_serialization=True)`"
                } else {
                    "an adapter's folder holds `adapter_config.json` and `adapter_model.safetensors`"
                };
                return Err(LoadError::NotACheckpoint { folder, missing, instead: Some(instead.into()) });
            }
        }
        let base = match base {
            Some(base) => base.to_owned(),
            None => named_base(folder)?,
        };
        if is_file(&base.join(CONFIG)) && !is_file(&base.join("config.json")) {
            return Err(LoadError::BaseIsAdapter { folder: base });
        }
        Ok(Some(Self { folder: folder.to_owned(), base }))
    }
}

/// The base that the settings name, if that is a folder here.
fn named_base(folder: &Path) -> Result<PathBuf, LoadError> {
    let config = Config::read_file(folder.join(CONFIG))?;
    let found = config.get("base_model_name_or_path").and_then(|name| name.as_str()).unwrap_or("").to_owned();
    let base = PathBuf::from(&found);
    if !found.is_empty() && is_file(&base.join("config.json")) {
        return Ok(base);
    }
    Err(LoadError::NoBase { file: config.file().to_owned(), found })
}
