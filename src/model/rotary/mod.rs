//! Rotary settings of a configuration as transformers 5 resolves them, whichever version wrote it.
//!
//! A `rope_scaling` that is not null replaces `rope_parameters` as a whole; what is missing in the dictionary comes
//! from the top level of the configuration, then from the class's defaults.

mod settings;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use self::settings::Settings;
use crate::Hint;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::nn::RopeConfig;

/// What one class does with rotary settings that others do not.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Rotary {
    /// The base, where the configuration has none.
    pub(in crate::model) theta: f64,
    /// Whether a part of each head's coordinates may stay unrotated.
    pub(in crate::model) partial: Partial,
    /// The trained length of scaled embeddings, where the configuration has none.
    pub(in crate::model) original_length: Option<usize>,
}

/// Whether a class reads `partial_rotary_factor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Partial {
    /// The class ignores the key, which may be there all the same.
    Ignored,
    /// The class reads the key.
    Read,
}

impl Rotary {
    /// Llama's.
    pub(in crate::model) const LLAMA: Self = Self { theta: 10_000.0, partial: Partial::Ignored, original_length: None };

    /// The settings of all layers.
    ///
    /// # Errors
    /// [`LoadError::Config`] if they are of an unknown type, or a key is missing or senseless.
    pub(in crate::model) fn read(self, config: &Config, head_size: usize) -> Result<RopeConfig, LoadError> {
        let parameters = dictionary(config, "rope_parameters")?;
        let scaling = dictionary(config, "rope_scaling")?;
        if let (Some(scaling), Some(parameters)) = (&scaling, &parameters)
            && scaling != parameters
        {
            config.note(
                "`config.json` has `rope_scaling` and other `rope_parameters`: the former counts, as in transformers 5",
            );
        }
        let mut settings = scaling.or(parameters).unwrap_or_default();
        if settings.values().any(Value::is_object) {
            let problem =
                format!("`rope_parameters` by layer type are not known for `{}`", config.quoted("model_type"));
            return Err(config.problem(problem));
        }
        let theta = config.number_or_null("rope_theta")?.unwrap_or(self.theta);
        settings.entry("rope_theta").or_insert(json!(theta));
        if let Some(fraction) = config.get("partial_rotary_factor") {
            settings.entry("partial_rotary_factor").or_insert(fraction.clone());
        }
        self.resolve(config, settings, head_size)
    }

    /// The embeddings of a dictionary that is complete but for what the class fills in.
    pub(in crate::model) fn resolve(
        self,
        config: &Config,
        mut settings: Map<String, Value>,
        head_size: usize,
    ) -> Result<RopeConfig, LoadError> {
        let kind = settings.get("rope_type").filter(|kind| !kind.is_null()).or(settings.get("type"));
        let plain = kind.is_none_or(|kind| kind.is_null() || kind == "default");
        if self.partial == Partial::Ignored
            && let Some(fraction) = settings.remove("partial_rotary_factor")
            && !plain
            && fraction.as_f64() != Some(1.0)
        {
            // transformers scales frequencies of that many coordinates and rotates all: it fails
            let problem =
                format!("`partial_rotary_factor` = {fraction} with scaled rotary embeddings is not supported");
            return Err(config.problem(problem));
        }
        let original = config.optional_size("original_max_position_embeddings")?.or(self.original_length);
        let settings = Settings {
            dictionary: &settings,
            longest: config.optional_size("max_position_embeddings")?,
            original_length: original,
            yarn_is_longrope: config.text("model_type", "")? == "phi3",
        };
        settings.embeddings(head_size).map_err(|error| match error.hint() {
            Some(hint) => config.problem(format!("{error} ({hint})")),
            None => config.problem(error.to_string()),
        })
    }
}

/// What a class does whose layers with a window have other embeddings than those without.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct RotaryByLayer {
    /// The base of layers that see everything, where the configuration has none.
    pub(in crate::model) full: f64,
    /// The base of layers with a window, where it has none.
    pub(in crate::model) sliding: f64,
    /// The key at the top level with the latter.
    pub(in crate::model) sliding_key: Option<&'static str>,
    /// The key at the top level with the base of layers that see everything.
    pub(in crate::model) full_key: &'static str,
}

impl RotaryByLayer {
    /// The settings of layers that see everything, then of those with a window.
    ///
    /// # Errors
    /// As [`Rotary::read`].
    pub(in crate::model) fn read(self, config: &Config, head_size: usize) -> Result<[RopeConfig; 2], LoadError> {
        let mut parameters = dictionary(config, "rope_parameters")?.unwrap_or_default();
        let [mut full, mut sliding] = ["full_attention", "sliding_attention"].map(|kind| {
            let settings = match parameters.remove(kind) {
                Some(Value::Object(settings)) => settings,
                _ => Map::new(),
            };
            (!settings.is_empty()).then_some(settings)
        });
        if !parameters.is_empty() {
            return Err(config.problem(
                "`rope_parameters` must have the entries `full_attention` and `sliding_attention`, and no others",
            ));
        }
        if let Some(scaling) = dictionary(config, "rope_scaling")? {
            // laid over what is there
            full.get_or_insert_default().extend(scaling);
        }
        let theta = config.number_or_null(self.full_key)?;
        let local = self.sliding_key.map(|key| config.number_or_null(key)).transpose()?.flatten();
        let given = |settings: &Option<Map<String, Value>>| {
            settings.as_ref().is_some_and(|settings| settings.contains_key("rope_theta"))
        };
        if self.sliding_key.is_none() && theta.is_some_and(|theta| theta != self.sliding) && !given(&sliding) {
            // transformers 4 uses it for all layers, 5 for those without a window alone
            let problem = format!(
                "`rope_theta` = {} has another meaning in transformers 4 and 5: give `rope_parameters` by layer type",
                config.quoted("rope_theta")
            );
            return Err(config.problem(problem));
        }
        let (full, sliding) = (full.get_or_insert_default(), sliding.get_or_insert_default());
        full.entry("rope_theta").or_insert(json!(theta.unwrap_or(self.full)));
        sliding.entry("rope_theta").or_insert(json!(local.unwrap_or(self.sliding)));
        let resolve = |settings: &Map<String, Value>| Rotary::LLAMA.resolve(config, settings.clone(), head_size);
        Ok([resolve(full)?, resolve(sliding)?])
    }
}

/// A dictionary of settings; an empty one counts as absent.
fn dictionary(config: &Config, key: &str) -> Result<Option<Map<String, Value>>, LoadError> {
    match config.get(key) {
        None => Ok(None),
        Some(Value::Object(settings)) => Ok((!settings.is_empty()).then(|| settings.clone())),
        Some(_) => Err(config.problem(format!("`{key}` = {}, expected an object", config.quoted(key)))),
    }
}
