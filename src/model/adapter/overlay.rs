//! An adapter's tensors, sorted by what they belong to in the base.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::AdapterConfig;
use super::mode::AdapterMode;
use super::parts::{PREFIX, in_base, other_name_of_a_tied_bias, split};
use crate::model::checkpoint::Checkpoint;
use crate::model::error::{LoadError, abridged};

/// What transformers 5 calls a module of a file in memory, if that is another name.
pub(in crate::model) type Renamed = fn(&str) -> Option<String>;

/// An adapter over the weights of a base.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(in crate::model) config: AdapterConfig,
    pub(in crate::model) mode: AdapterMode,
    pub(in crate::model) weights: Arc<Checkpoint>,
    /// Names of the adapter's tensors by module, [`PREFIX`] removed.
    pub(super) modules: BTreeMap<String, BTreeMap<String, String>>,
    /// Tensors of the base that the adapter's file holds too: their names in the base, and the adapter's.
    replaced: BTreeMap<String, String>,
    /// Tensors of modules as they were before PEFT copied them, which nothing reads.
    before_copies: Vec<String>,
    /// What may stand in front of the names of the base.
    prefixes: &'static [&'static str],
    heads: &'static [&'static str],
    /// What transformers 5 calls a module of the base in memory, where that is another name.
    renamed: Option<Renamed>,
    /// Modules that the model has asked for.
    used: Mutex<BTreeSet<String>>,
}

impl Adapter {
    /// Sorts an adapter's tensors by what they belong to in the base, which has these prefixes and names of heads.
    ///
    /// # Errors
    /// A tensor that belongs to nothing; contradictory or unsupported settings.
    pub(in crate::model) fn new(
        config: AdapterConfig,
        mode: AdapterMode,
        weights: Checkpoint,
        base: &Checkpoint,
        [prefixes, heads]: [&'static [&'static str]; 2],
        renamed: Option<Renamed>,
    ) -> Result<Self, LoadError> {
        if mode == AdapterMode::Both && config.use_dora {
            return Err(LoadError::AdapterOption {
                file: config.file.clone(),
                key: "use_dora".into(),
                value: "true with `--adapter both`".into(),
                hint: Some("DoRA's base has no gradient of its own: use `--adapter only` or `--adapter merged`".into()),
            });
        }
        let (mut modules, mut replaced): (BTreeMap<String, BTreeMap<String, String>>, _) =
            (BTreeMap::new(), BTreeMap::new());
        let mut before_copies = vec![];
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        for name in names {
            let unknown = |problem: String| LoadError::AdapterTensor {
                file: weights.origin().to_owned(),
                name: name.clone(),
                problem,
            };
            let Some(rest) = name.strip_prefix(PREFIX) else {
                return Err(unknown(format!("its name does not begin with `{PREFIX}`")));
            };
            if let Some((module, part)) = split(rest) {
                modules.entry(module.to_owned()).or_default().insert(part.to_owned(), name.clone());
                continue;
            }
            let Some(plain) = in_base(rest) else {
                before_copies.push(name);
                continue;
            };
            match base_name(&plain, base, prefixes, heads).or_else(|| of_memory(&plain, base, renamed?)) {
                Some(own) => drop(replaced.insert(own, name.clone())),
                // the base has the number under its other name
                None if other_name_of_a_tied_bias(&plain).is_some_and(|other| base.contains(&other)) => {
                    drop(replaced.insert(plain, name.clone()))
                }
                // a classifier that the base does not have
                None if (config.of_texts || config.of_images) && config.trains(&plain) => {
                    drop(replaced.insert(plain, name.clone()))
                }
                None => return Err(unknown(format!("the base has no tensor `{plain}`"))),
            }
        }
        let used = Mutex::default();
        let weights = Arc::new(weights);
        Ok(Self { config, mode, weights, modules, replaced, before_copies, prefixes, heads, renamed, used })
    }

    /// The name in the adapter's file of a tensor that takes the place of the base's.
    pub(in crate::model) fn replacement(&self, name: &str) -> Option<&str> {
        self.replaced.get(name).map(String::as_str)
    }

    /// Names in the base of the tensors that the adapter's file holds in their place, or beyond those of the base.
    pub(in crate::model) fn replaced(&self) -> impl Iterator<Item = &str> {
        self.replaced.keys().map(String::as_str)
    }

    /// Whether a module was copied as a whole (`modules_to_save`), so that what was tied to it no longer is.
    pub(in crate::model) fn is_copied(&self, module: &str) -> bool {
        self.names_of(module).iter().any(|name| self.config.targets.is_copied(name))
    }

    /// Whether the adapter's file has low-rank factors for a module of the base.
    pub(in crate::model) fn lies_over(&self, module: &str) -> bool {
        self.names_of(module).iter().any(|name| self.modules.contains_key(name))
    }

    /// Names that a module of the base may have in the adapter's files.
    pub(super) fn names_of(&self, module: &str) -> Vec<String> {
        if self.heads.contains(&module) {
            return self.heads.iter().map(|&head| head.to_owned()).collect();
        }
        let bare = self.prefixes.iter().find_map(|prefix| module.strip_prefix(prefix)).unwrap_or(module);
        let all = self.prefixes.iter().map(|prefix| format!("{prefix}{bare}"));
        let mut names: Vec<String> = all.chain([bare.to_owned()]).collect();
        names.dedup();
        if let Some(renamed) = self.renamed {
            names.extend(names.iter().filter_map(|name| renamed(name)).collect::<Vec<_>>());
        }
        names
    }

    pub(super) fn used(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first tensor that the settings say was trained as a whole, of those that the model asked for, and that the file
    /// does not hold: the name it would have there.
    fn untrained(&self, asked: &BTreeMap<String, u64>) -> Option<(String, &'static str)> {
        const TOKENS: &str = "token_adapter.trainable_tokens_delta";
        if !self.config.token_indices.is_empty() && !self.modules.values().any(|parts| parts.contains_key(TOKENS)) {
            return Some((format!("{PREFIX}….{TOKENS}"), "trainable_token_indices"));
        }
        asked.keys().filter(|name| !self.replaced.contains_key(*name)).find_map(|name| {
            let (module, leaf) = name.rsplit_once('.')?;
            let key = match self.is_copied(module) {
                true => "modules_to_save",
                false if self.config.trains_all_biases && leaf == "bias" => "bias",
                false => return None,
            };
            // of the two names of a tied decoder's bias the other may be there
            let is_under_the_other = self.replaced.contains_key(&format!("{module}.decoder.bias"));
            (!is_under_the_other).then(|| (format!("{PREFIX}{name}"), key))
        })
    }

    /// Biases of adapted modules that were trained (`bias = lora_only`) and that the file does not hold, of those that the
    /// model asked for: names that they would have there.
    fn unsaved_biases(&self, asked: &BTreeMap<String, u64>) -> Vec<String> {
        if !self.config.trains_biases || self.config.trains_all_biases {
            return vec![];
        }
        let of = |name: &String| {
            let module = name.strip_suffix(".bias").filter(|_| !self.replaced.contains_key(name))?;
            let own = self.names_of(module).into_iter().find(|own| self.modules.contains_key(own))?;
            Some(format!("{PREFIX}{own}.base_layer.bias"))
        };
        asked.keys().filter_map(of).collect()
    }

    /// What a person should know of how the adapter was read, over a base of which these tensors were asked for.
    ///
    /// # Errors
    /// Tensors that no module of the model has asked for; tensors that the settings say were trained, and that are absent.
    pub(in crate::model) fn finish(&self, asked: &BTreeMap<String, u64>) -> Result<Vec<String>, LoadError> {
        if let Some((name, key)) = self.untrained(asked) {
            return Err(LoadError::MissingTrained { file: self.weights.origin().to_owned(), name, key });
        }
        let used = self.used();
        if let Some((module, tensors)) = self.modules.iter().find(|(module, _)| !used.contains(*module)) {
            let name = tensors.values().next().cloned().unwrap_or_default();
            let problem = format!("the base has no linear layer, convolution or embedding `{module}`");
            return Err(LoadError::AdapterTensor { file: self.weights.origin().to_owned(), name, problem });
        }
        drop(used);
        let mut notes = self.config.notes();
        let unsaved = self.unsaved_biases(asked);
        if !unsaved.is_empty() {
            notes.push(format!(
                "biases that were trained with the adapter (`bias` = \"lora_only\") are not in its file, so that the base's \
                 are used, as PEFT does: {}",
                abridged(&unsaved)
            ));
        }
        if !self.before_copies.is_empty() {
            notes.push(format!(
                "tensors of modules as they were before PEFT copied them have no effect: {}",
                abridged(&self.before_copies)
            ));
        }
        Ok(notes)
    }

    /// Names of what training changed and no tracked layer holds, for a note.
    pub(in crate::model) fn unscored_note(&self, tracked: &[String]) -> Option<String> {
        let is_tracked =
            |name: &str| name.rsplit_once('.').is_some_and(|(module, _)| tracked.iter().any(|layer| layer == module));
        let mut names: Vec<String> = self.replaced.keys().filter(|name| !is_tracked(name)).cloned().collect();
        for (module, parts) in &self.modules {
            let unscored = |part: &&String| {
                part.starts_with("lora_embedding") || part.starts_with("lora_magnitude") || part.starts_with("token_")
            };
            names.extend(parts.keys().filter(unscored).map(|part| format!("{module}.{part}")));
        }
        (!names.is_empty() && self.mode != AdapterMode::Merged).then(|| {
            format!(
                "trained with the adapter and used in the forward pass, but in no score: {} (a head is tracked if \
                 `--layers` names it)",
                abridged(&names)
            )
        })
    }

    /// What tells this adapter from others, but for its tensors.
    pub(in crate::model) fn description(&self) -> String {
        format!("{}\n{}", self.mode.name(), self.config.text)
    }
}

/// The base's name for a tensor that the adapter's file calls `name`.
fn base_name(name: &str, base: &Checkpoint, prefixes: &[&str], heads: &[&str]) -> Option<String> {
    if base.contains(name) {
        return Some(name.to_owned());
    }
    let (module, leaf) = name.rsplit_once('.')?;
    if heads.contains(&module) {
        let there = heads.iter().find(|head| base.contains(&format!("{head}.weight")));
        return Some(format!("{}.{leaf}", there.or(heads.first())?));
    }
    let bare = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let mut all = prefixes.iter().map(|prefix| format!("{prefix}{bare}")).chain([bare.to_owned()]);
    all.find(|name| base.contains(name))
}

/// The base's name for a tensor that transformers 5 calls `name` in memory.
fn of_memory(name: &str, base: &Checkpoint, renamed: Renamed) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    let is_it = |own: &&str| {
        own.rsplit_once('.').is_some_and(|(file, own)| own == leaf && renamed(file).as_deref() == Some(module))
    };
    base.names().find(is_it).map(str::to_owned)
}
