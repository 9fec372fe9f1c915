//! `adapter_config.json`: what of it changes numbers is honoured, or refused by name.

use std::path::{Path, PathBuf};

use fancy_regex::Regex;
use serde_json::Value;

use super::parts;
use super::targets::{self, Modules, Targets};
use crate::model::config::Config;
use crate::model::error::LoadError;

/// Ids of token rows by the name of their embedding; without a name they are of the input embedding.
type TokenIndices = Vec<(Option<String>, Vec<u32>)>;

/// The settings of an adapter.
#[derive(Debug)]
pub(crate) struct AdapterConfig {
    /// The file.
    pub(crate) file: PathBuf,
    /// The whole of it, as one line.
    pub(super) text: String,
    pub(crate) targets: Targets,
    r: u64,
    alpha: f64,
    use_rslora: bool,
    rank_pattern: Vec<(Regex, u64)>,
    alpha_pattern: Vec<(Regex, f64)>,
    pub(crate) use_dora: bool,
    pub(crate) lora_bias: bool,
    /// Token ids that have a row of their own in the embedding, by the embedding's name; none: the input embedding.
    pub(crate) token_indices: TokenIndices,
    pub(crate) ensure_weight_tying: bool,
    /// The base gives something for a whole text (`SEQ_CLS`), whatever its own `config.json` says.
    pub(crate) of_texts: bool,
    /// The base gives something for an image, for which PEFT has no task type; whoever knows the base says it.
    pub(crate) of_images: bool,
    /// The base is an encoder with a decoder (`SEQ_2_SEQ_LM`).
    pub(crate) of_pairs: bool,
    pub(super) trains_biases: bool,
    /// Every bias was trained, and saved with the adapter.
    pub(super) trains_all_biases: bool,
    dropout: f64,
}

/// The largest rank that makes sense.
const LARGEST_RANK: u64 = 1 << 20;

/// Patterns of one key at most: each is compiled, and compared with the name of every module.
const MOST_PATTERNS: usize = 4096;

/// Keys that change no number, because they are about training's start, other files, or how a file came to be.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Ways to begin training that leave the base as it is.
const HARMLESS_STARTS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// What PEFT copies of a model that gives something for a whole text: modules whose names end so.
const CLASSIFIERS: [&str; 2] = ["classifier", "score"];

impl AdapterConfig {
    /// Reads and checks the settings of an adapter's folder.
    ///
    /// # Errors
    /// [`LoadError`], naming the key.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let keys = Config::read_file(folder.join("adapter_config.json"))?;
        let file = keys.file().to_owned();
        let refused = |key: &str, hint: Option<&str>| LoadError::AdapterOption {
            file: file.clone(),
            key: key.to_owned(),
            value: keys.quoted(key),
            hint: hint.map(str::to_owned),
        };
        if keys.text("peft_type", "")? != "LORA" {
            return Err(refused("peft_type", Some("adapters of the type `LORA` are read")));
        }
        let task = keys.get("task_type").and_then(Value::as_str);
        if !matches!(task, None | Some("CAUSAL_LM" | "SEQ_CLS" | "SEQ_2_SEQ_LM")) {
            let hint = "adapters for `CAUSAL_LM`, `SEQ_CLS` and `SEQ_2_SEQ_LM` are read";
            return Err(refused("task_type", Some(hint)));
        }
        let of_texts = task == Some("SEQ_CLS");
        let problem = |key: &str, problem: String| keys.problem(format!("`{key}`: {problem}"));
        let dora = keys.flag("use_dora", false)?;
        match keys.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(start)) if HARMLESS_STARTS.contains(&start.as_str()) => {}
            Some(_) => {
                return Err(refused(
                    "init_lora_weights",
                    Some(
                        "this start changes the base's weights; save the adapter with \
                          `path_initial_model_for_weight_conversion`, which makes an ordinary LoRA of it",
                    ),
                ));
            }
        }
        match keys.get("bias").and_then(Value::as_str) {
            None | Some("none" | "all" | "lora_only") => {}
            Some(_) => return Err(refused("bias", None)),
        }
        let mut layers = None;
        match keys.get("layers_to_transform") {
            None => {}
            Some(Value::Array(list)) if list.is_empty() => {}
            Some(Value::Array(list)) => {
                let numbers: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
                layers = Some(numbers.ok_or_else(|| keys.problem("`layers_to_transform`: expected whole numbers"))?);
            }
            Some(one) => {
                let one = one.as_u64().ok_or_else(|| keys.problem("`layers_to_transform`: expected whole numbers"))?;
                layers = Some(vec![one]);
            }
        }
        let texts = |key: &str| -> Result<Vec<String>, LoadError> {
            match keys.get(key) {
                None => Ok(vec![]),
                Some(Value::String(one)) if one.is_empty() => Ok(vec![]),
                Some(Value::String(one)) => Ok(vec![one.clone()]),
                Some(Value::Array(list)) if list.len() > MOST_PATTERNS => Err(keys.problem(format!(
                    "`{key}`: {} patterns, more than the {MOST_PATTERNS} that are read at most",
                    list.len()
                ))),
                Some(Value::Array(list)) => {
                    let all: Option<Vec<String>> = list.iter().map(|text| text.as_str().map(str::to_owned)).collect();
                    all.ok_or_else(|| keys.problem(format!("`{key}`: expected a list of texts")))
                }
                Some(_) => Err(keys.problem(format!("`{key}`: expected a list of texts"))),
            }
        };
        let expressions = |key: &str, of: fn(&str) -> Result<Regex, String>| -> Result<Vec<Regex>, LoadError> {
            texts(key)?.iter().map(|text| of(text).map_err(|found| problem(key, found))).collect()
        };
        let mut copied = texts("modules_to_save")?;
        if of_texts {
            // PEFT copies the layers in front of the outputs, whether the settings say so or not
            let unsaid = CLASSIFIERS.into_iter().filter(|name| !copied.iter().any(|one| one == name));
            copied.extend(unsaid.map(str::to_owned).collect::<Vec<_>>());
        }
        let modules = |key: &str, with_all| Modules::read(keys.get(key), with_all).map_err(|found| problem(key, found));
        let targets = Targets {
            modules: modules("target_modules", true)?,
            exclude: modules("exclude_modules", false)?,
            layers,
            layer_patterns: expressions("layers_pattern", targets::layer_list)?,
            saved: copied
                .iter()
                .map(|text| targets::module_and_parts(text))
                .collect::<Result<_, _>>()
                .map_err(|found| problem("modules_to_save", found))?,
            copied,
        };
        let r = rank(keys.get("r").unwrap_or(&Value::from(8))).ok_or_else(|| bad_rank(&keys, "r"))?;
        let alpha = keys.number("lora_alpha", 8.0)?;
        let entries = |key: &str| -> Result<Vec<(String, Value)>, LoadError> {
            match keys.get(key) {
                None => Ok(vec![]),
                Some(Value::Object(map)) if map.len() > MOST_PATTERNS => Err(keys.problem(format!(
                    "`{key}`: {} patterns, more than the {MOST_PATTERNS} that are read at most",
                    map.len()
                ))),
                Some(Value::Object(map)) => Ok(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()),
                Some(_) => Err(keys.problem(format!("`{key}`: expected an object of patterns"))),
            }
        };
        let ending = |key: &str, text: &str| targets::ending(text).map_err(|found| problem(key, found));
        let mut rank_pattern = vec![];
        for (pattern, value) in entries("rank_pattern")? {
            let rank = rank(&value).ok_or_else(|| bad_rank(&keys, "rank_pattern"))?;
            rank_pattern.push((ending("rank_pattern", &pattern)?, rank));
        }
        let mut alpha_pattern = vec![];
        for (pattern, value) in entries("alpha_pattern")? {
            let alpha = value.as_f64().ok_or_else(|| keys.problem("`alpha_pattern`: expected numbers"))?;
            alpha_pattern.push((ending("alpha_pattern", &pattern)?, alpha));
        }
        let config = Self {
            text: Value::Object(keys.keys().clone()).to_string(),
            targets,
            r,
            alpha,
            use_rslora: keys.flag("use_rslora", false)?,
            rank_pattern,
            alpha_pattern,
            use_dora: dora,
            lora_bias: keys.flag("lora_bias", false)?,
            token_indices: token_indices(&keys)?,
            of_texts,
            of_images: false,
            of_pairs: task == Some("SEQ_2_SEQ_LM"),
            ensure_weight_tying: keys.flag("ensure_weight_tying", false)?,
            trains_biases: keys.get("bias").and_then(Value::as_str).is_some_and(|bias| bias != "none"),
            trains_all_biases: keys.get("bias").and_then(Value::as_str) == Some("all"),
            dropout: keys.number("lora_dropout", 0.0)?,
            file: file.clone(),
        };
        for key in keys.unread() {
            let says_nothing = match &keys.keys()[&key] {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !says_nothing && !WITHOUT_EFFECT.contains(&key.as_str()) {
                return Err(refused(&key, Some("what this key changes of the forward pass is not known here")));
            }
        }
        Ok(config)
    }

    /// The rank of a module's adapter.
    pub(super) fn rank(&self, module: &str) -> u64 {
        let own = self.rank_pattern.iter().find(|(pattern, _)| targets::matches(pattern, module));
        own.map_or(self.r, |(_, rank)| *rank)
    }

    /// The factor `s` of a module's adapter.
    ///
    /// # Errors
    /// An expression that is given up before it is known whether it matches. One of a rank or a target that is given up
    /// contradicts a tensor's shape or place, but nothing contradicts a scale.
    pub(super) fn scale(&self, module: &str) -> Result<f64, LoadError> {
        let mut alpha = self.alpha;
        for (pattern, own) in &self.alpha_pattern {
            let matches = pattern.is_match(module).map_err(|error| LoadError::Config {
                file: self.file.clone(),
                problem: format!("`alpha_pattern`: whether an expression matches `{module}` is not known: {error}"),
            })?;
            if matches {
                alpha = *own;
                break;
            }
        }
        let rank = self.rank(module) as f64;
        Ok(if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank })
    }

    /// Whether a tensor of the adapter's file, [`PREFIX`](super::parts::PREFIX) removed, was trained: one of the base that stands
    /// there for the embedding's sake was not.
    pub(crate) fn trains(&self, name: &str) -> bool {
        if parts::parts(name).is_some() {
            return true;
        }
        let (module, leaf) = name.rsplit_once('.').unwrap_or(("", name));
        let module = module.strip_suffix(".base_layer").unwrap_or(module);
        // older releases of PEFT trained all that has the word in its name, and saved it: T5's table of distances
        let is_bias = (leaf == "bias" && self.trains_biases) || (self.trains_all_biases && name.contains("bias"));
        self.targets.is_copied(module) || is_bias
    }

    /// What a person should know of the settings.
    pub(super) fn notes(&self) -> Vec<String> {
        let dropout = (self.dropout > 0.0).then(|| {
            format!(
                "training dropped {} of the adapter's inputs (`lora_dropout`); losses here are without",
                self.dropout
            )
        });
        let unstated = matches!(self.targets.modules, Modules::Unstated).then(|| {
            "`target_modules` is not in `adapter_config.json`: the modules whose tensors the file holds are adapted"
                .into()
        });
        dropout.into_iter().chain(unstated).collect()
    }
}

fn rank(value: &Value) -> Option<u64> {
    value.as_u64().filter(|rank| (1..=LARGEST_RANK).contains(rank))
}

fn bad_rank(keys: &Config, key: &str) -> LoadError {
    keys.problem(format!("`{key}` = {}, expected positive whole numbers up to {LARGEST_RANK}", keys.quoted(key)))
}

/// The modules that `trainable_token_indices` names, each with the ids of its trained rows; of a plain list, no module.
fn token_indices(keys: &Config) -> Result<TokenIndices, LoadError> {
    let ids = |value: &Value| -> Result<Vec<u32>, LoadError> {
        let list = value.as_array().map(|list| list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())));
        let ids: Option<Vec<u32>> = list.and_then(Iterator::collect);
        ids.ok_or_else(|| keys.problem("`trainable_token_indices`: expected token ids"))
    };
    match keys.get("trainable_token_indices") {
        None => Ok(vec![]),
        Some(Value::Object(map)) => map.iter().map(|(name, value)| Ok((Some(name.clone()), ids(value)?))).collect(),
        Some(list) => Ok(vec![(None, ids(list)?)]),
    }
}
