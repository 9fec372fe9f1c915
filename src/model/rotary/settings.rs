//! Rotary settings that are complete, as the dictionary of a configuration holds them.

use serde_json::{Map, Value};

use crate::Hint;
use crate::nn::{RopeConfig, RopeScaling};

/// Values of `rope_type` that are supported.
const TYPES: [&str; 6] = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];

/// What can be wrong with the rotary settings of a configuration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum RotaryError {
    /// A type that is not implemented.
    #[error("rotary embeddings of the type `{found}` are not supported")]
    UnknownType {
        /// The value of `rope_type`.
        found: String,
    },
    /// The type needs a key that is absent.
    #[error("rotary embeddings of the type `{kind}` need the key `{key}`")]
    MissingKey {
        /// The value of `rope_type`.
        kind: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A key holds something that cannot be meant.
    #[error("`{key}` of the rotary embeddings is {found}, expected {expected}")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        found: String,
        /// What it has to be.
        expected: &'static str,
    },
}

impl Hint for RotaryError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownType { .. } => {
                format!("supported types: {}", TYPES.map(|t| format!("`{t}`")).join(", "))
            }
            Self::MissingKey { key, .. } => {
                format!(
                    "add `{key}` to `rope_parameters` (transformers 5) or `rope_scaling` (transformers 4) in config.json"
                )
            }
            Self::InvalidValue { .. } => {
                "compare config.json with the one the checkpoint was published with".to_owned()
            }
        })
    }
}

/// A dictionary of rotary settings, and what counts beside it.
///
/// # Source
/// transformers' `modeling_rope_utils.py` (5.23).
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a> {
    /// `rope_type`, `rope_theta` and the type's own keys.
    pub(super) dictionary: &'a Map<String, Value>,
    /// The longest text of the model, in positions.
    pub(super) longest: Option<usize>,
    /// The length that the model was trained on before its embeddings were scaled, where it does not stand in the dictionary;
    /// it counts before the dictionary's.
    pub(super) original_length: Option<usize>,
    /// Whether `yarn` is another name of `longrope`, as the first Phi-3 wrote it.
    pub(super) yarn_is_longrope: bool,
}

impl Settings<'_> {
    /// The embeddings of heads with this many coordinates.
    ///
    /// # Errors
    /// If the type is unknown, or a key is missing or senseless.
    pub(super) fn embeddings(self, head_dimension: usize) -> Result<RopeConfig, RotaryError> {
        let look = |key| self.dictionary.get(key).filter(|value| !value.is_null());
        let number = |key, value: Option<&Value>| value.map(|value| positive(key, value)).transpose();

        let theta = number("rope_theta", look("rope_theta"))?;
        let theta = theta.ok_or(RotaryError::MissingKey { kind: "default", key: "rope_theta" })?;
        let fraction = number("partial_rotary_factor", look("partial_rotary_factor"))?.unwrap_or(1.0);
        let rotated = (head_dimension as f64 * fraction) as usize;
        if rotated > head_dimension || rotated % 2 == 1 || rotated == 0 {
            return Err(RotaryError::InvalidValue {
                key: "partial_rotary_factor",
                found: format!("{fraction} of {head_dimension} coordinates"),
                expected: "an even number of coordinates, not more than there are",
            });
        }

        let kind = look("rope_type").or_else(|| look("type"));
        let kind = match kind.map(|kind| kind.as_str().ok_or(kind)) {
            None => "default",
            Some(Ok(kind)) => kind,
            Some(Err(other)) => {
                return Err(RotaryError::InvalidValue {
                    key: "rope_type",
                    found: other.to_string(),
                    expected: "a name",
                });
            }
        };
        let kind = match kind {
            "su" => "longrope",
            "yarn" if self.yarn_is_longrope => "longrope",
            kind => kind,
        };
        let needs_longest = |kind| {
            let longest = self.longest.map(|longest| longest as f64);
            longest.ok_or(RotaryError::MissingKey { kind, key: "max_position_embeddings" })
        };
        let original = |kind| {
            let key = "original_max_position_embeddings";
            match (self.original_length, number(key, look(key))?) {
                (Some(original), _) => Ok(original as f64),
                (None, Some(original)) => Ok(original),
                (None, None) => needs_longest(kind),
            }
        };
        let needed = |kind, key| number(key, look(key))?.ok_or(RotaryError::MissingKey { kind, key });
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: needed("linear", "factor")? },
            "dynamic" => {
                let longest = needs_longest("dynamic")?;
                RopeScaling::Dynamic { factor: needed("dynamic", "factor")?, longest }
            }
            "llama3" => RopeScaling::Llama3 {
                factor: needed("llama3", "factor")?,
                low: needed("llama3", "low_freq_factor")?,
                high: needed("llama3", "high_freq_factor")?,
                original: original("llama3")?,
            },
            "yarn" => {
                let original = original("yarn")?;
                let factor = match number("factor", look("factor"))? {
                    Some(factor) => factor,
                    None => needs_longest("yarn")? / original,
                };
                let term = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
                let optional = |key| number(key, look(key));
                let attention_factor =
                    match (optional("attention_factor")?, nonzero(look("mscale")), nonzero(look("mscale_all_dim"))) {
                        (Some(given), _, _) => given,
                        (None, Some(mscale), Some(all)) => term(mscale) / term(all),
                        _ => term(1.0),
                    };
                RopeScaling::Yarn {
                    factor,
                    original,
                    attention_factor,
                    beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                    rounded: look("truncate") != Some(&Value::Bool(false)),
                }
            }
            "longrope" => {
                let original = original("longrope")?;
                let factor = match number("factor", look("factor"))? {
                    Some(factor) => factor,
                    None => needs_longest("longrope")? / original,
                };
                let attention_factor = match number("attention_factor", look("attention_factor"))? {
                    Some(given) => given,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / original.ln()).sqrt(),
                };
                let list = |key| match look(key) {
                    Some(value) => factors(key, value, rotated / 2),
                    None => Err(RotaryError::MissingKey { kind: "longrope", key }),
                };
                RopeScaling::Long {
                    original,
                    attention_factor,
                    short: list("short_factor")?,
                    long: list("long_factor")?,
                }
            }
            other => return Err(RotaryError::UnknownType { found: other.to_owned() }),
        };
        Ok(RopeConfig::new(rotated, theta).scaled(scaling))
    }
}

/// A positive number of a key.
fn positive(key: &'static str, value: &Value) -> Result<f64, RotaryError> {
    match value.as_f64() {
        Some(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(RotaryError::InvalidValue { key, found: value.to_string(), expected: "a positive number" }),
    }
}

/// A number that counts as absent when it is 0, as in transformers.
fn nonzero(value: Option<&Value>) -> Option<f64> {
    value.and_then(Value::as_f64).filter(|x| *x != 0.0)
}

/// Divisors of `n` pairs of coordinates.
fn factors(key: &'static str, value: &Value, n: usize) -> Result<Vec<f64>, RotaryError> {
    let wrong = || RotaryError::InvalidValue {
        key,
        found: value.to_string(),
        expected: "one positive number for each pair of rotated coordinates",
    };
    let list = value.as_array().filter(|list| list.len() == n).ok_or_else(wrong)?;
    list.iter().map(|x| positive(key, x).map_err(|_| wrong())).collect()
}
