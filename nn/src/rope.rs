//! Rotary position embeddings: which frequencies a configuration means.

use serde_json::{Map, Value};

use ascribe_curvature::Hint;

/// What can be wrong with the rotary part of a `config.json`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RopeError {
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
    /// The parameters are given for each layer type, and the one asked for is not among them.
    #[error("`rope_parameters` has no entry `{found}`")]
    UnknownLayerType {
        /// The layer type asked for; `none` if none was.
        found: String,
        /// The layer types that exist.
        known: Vec<String>,
    },
}

impl Hint for RopeError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownType { .. } => {
                format!("supported types: {}", RopeConfig::TYPES.map(|t| format!("`{t}`")).join(", "))
            }
            Self::MissingKey { key, .. } => {
                format!(
                    "add `{key}` to `rope_parameters` (transformers 5) or `rope_scaling` (transformers 4) in config.json"
                )
            }
            Self::InvalidValue { .. } => {
                "compare config.json with the one the checkpoint was published with".to_owned()
            }
            Self::UnknownLayerType { known, .. } => {
                format!("layer types there: {}", known.iter().map(|t| format!("`{t}`")).collect::<Vec<_>>().join(", "))
            }
        })
    }
}

/// Rotary position embeddings of one head dimension, as a configuration describes them.
///
/// The first `r` coordinates of a head are rotated in pairs, which [`Pairing`] forms; those from `r` on are left alone.
///
/// # Source
/// transformers' `modeling_rope_utils.py` (5.23).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    rotated: usize,
    pairing: Pairing,
    theta: f64,
    longest: f64,
    scaling: Scaling,
}

#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    Default,
    Linear { factor: f64 },
    Dynamic { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    Yarn { factor: f64, original: f64, attention_factor: f64, beta_fast: f64, beta_slow: f64, rounding: Rounding },
    Long { original: f64, attention_factor: f64, short: Vec<f64>, long: Vec<f64> },
}

/// Which coordinates are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Coordinates `i` and `i + r/2` of the `r` rotated ones are a pair.
    Halves,
    /// `2 i` and `2 i + 1`, as in GPT-J and RoFormer (Su et al. 2021).
    Neighbours,
}

/// Whether yarn's bounds are whole dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Outwards,
    None,
}

/// Frequencies for examples of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    /// Radians per position of each pair of coordinates.
    pub inverse: Vec<f64>,
    /// Factor of cosine and sine.
    pub attention_factor: f64,
}

impl RopeConfig {
    /// Values of `rope_type` that are supported.
    pub const TYPES: [&str; 6] = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];

    /// Plain embeddings of the first `rotated` coordinates of a head, an even number.
    pub fn new(rotated: usize, theta: f64) -> Self {
        Self { rotated, pairing: Pairing::Halves, theta, longest: f64::INFINITY, scaling: Scaling::Default }
    }

    /// Reads a `config.json`, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`;
    /// GPT-NeoX: `rotary_emb_base`, `rotary_pct`) or 5 (`rope_parameters`, also nested by layer type).
    ///
    /// `layer_type` (`full_attention`, `sliding_attention`) selects among nested parameters, and Gemma 3's
    /// `rope_local_base_freq`.
    ///
    /// # Errors
    /// If the type is unknown, or a key is missing or senseless.
    pub fn from_config(config: &Value, head_dimension: usize, layer_type: Option<&str>) -> Result<Self, RopeError> {
        let parameters = parameters(config, layer_type)?;
        let look = |key| parameters.and_then(|p| p.get(key)).filter(|value| !value.is_null());
        let outside = |key| config.get(key).filter(|value: &&Value| !value.is_null());
        let number = |key, value: Option<&Value>| value.map(|value| positive(key, value)).transpose();

        // Gemma 3 in the spelling of transformers 4: sliding layers have a base of their own, unscaled.
        if let (Some("sliding_attention"), Some(local)) = (layer_type, outside("rope_local_base_freq")) {
            return Ok(Self::new(head_dimension, positive("rope_local_base_freq", local)?));
        }

        let theta = number("rope_theta", look("rope_theta").or_else(|| outside("rope_theta")))?;
        let theta = match theta {
            Some(theta) => theta,
            None => number("rotary_emb_base", outside("rotary_emb_base"))?.unwrap_or(10_000.0),
        };
        let fraction = look("partial_rotary_factor").or_else(|| outside("partial_rotary_factor"));
        let fraction = number("partial_rotary_factor", fraction.or_else(|| outside("rotary_pct")))?.unwrap_or(1.0);
        let rotated = (head_dimension as f64 * fraction) as usize;
        if rotated > head_dimension || rotated % 2 == 1 || rotated == 0 {
            return Err(RopeError::InvalidValue {
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
                return Err(RopeError::InvalidValue { key: "rope_type", found: other.to_string(), expected: "a name" });
            }
        };
        // Phi-3 keeps the trained length outside, and wrote `su` (and `yarn`) for longrope.
        let phi3 = config.get("model_type").and_then(Value::as_str) == Some("phi3");
        let kind = match kind {
            "su" => "longrope",
            "yarn" if phi3 => "longrope",
            kind => kind,
        };
        let longest = number("max_position_embeddings", outside("max_position_embeddings"))?;
        let needs_longest = |kind| longest.ok_or(RopeError::MissingKey { kind, key: "max_position_embeddings" });
        let original = |kind| {
            let key = "original_max_position_embeddings";
            match number(key, outside(key).or_else(|| look(key)))? {
                Some(original) => Ok(original),
                None => needs_longest(kind),
            }
        };
        let needed = |kind, key| number(key, look(key))?.ok_or(RopeError::MissingKey { kind, key });
        let scaling = match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: needed("linear", "factor")? },
            "dynamic" => {
                needs_longest("dynamic")?;
                Scaling::Dynamic { factor: needed("dynamic", "factor")? }
            }
            "llama3" => Scaling::Llama3 {
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
                Scaling::Yarn {
                    factor,
                    original,
                    attention_factor,
                    beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                    rounding: match look("truncate") {
                        Some(Value::Bool(false)) => Rounding::None,
                        _ => Rounding::Outwards,
                    },
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
                    None => Err(RopeError::MissingKey { kind: "longrope", key }),
                };
                Scaling::Long { original, attention_factor, short: list("short_factor")?, long: list("long_factor")? }
            }
            other => return Err(RopeError::UnknownType { found: other.to_owned() }),
        };
        Ok(Self { rotated, pairing: Pairing::Halves, theta, longest: longest.unwrap_or(f64::INFINITY), scaling })
    }

    /// Pairs coordinates as given. Without this call the pairing is [`Pairing::Halves`].
    #[must_use]
    pub fn paired(self, pairing: Pairing) -> Self {
        Self { pairing, ..self }
    }

    /// Which coordinates are rotated together.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// Coordinates that are rotated, the first ones of each head.
    pub fn rotated(&self) -> usize {
        self.rotated
    }

    /// Whether the frequencies depend on how long an example is.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. } | Scaling::Long { .. })
    }

    /// Frequencies for an example of `length` positions.
    ///
    /// # Units
    /// Radians per position, computed in f64 (transformers: f32).
    pub fn frequencies(&self, length: usize) -> Frequencies {
        let dimension = self.rotated as f64;
        let plain = |theta: f64| -> Vec<f64> {
            (0..self.rotated / 2).map(|i| theta.powf(-2.0 * i as f64 / dimension)).collect()
        };
        let (inverse, attention_factor) = match &self.scaling {
            Scaling::Default => (plain(self.theta), 1.0),
            Scaling::Linear { factor } => (plain(self.theta).into_iter().map(|f| f / factor).collect(), 1.0),
            Scaling::Dynamic { factor } => {
                let stretch = factor * (length as f64).max(self.longest) / self.longest - (factor - 1.0);
                (plain(self.theta * stretch.powf(dimension / (dimension - 2.0))), 1.0)
            }
            Scaling::Llama3 { factor, low, high, original } => {
                let scale = |f: f64| {
                    let wavelength = 2.0 * std::f64::consts::PI / f;
                    if wavelength > original / low {
                        f / factor
                    } else if wavelength < original / high {
                        f
                    } else {
                        let t = (original / wavelength - low) / (high - low);
                        (1.0 - t) * f / factor + t * f
                    }
                };
                (plain(self.theta).into_iter().map(scale).collect(), 1.0)
            }
            Scaling::Yarn { factor, original, attention_factor, beta_fast, beta_slow, rounding } => {
                let bound = |turns: f64| {
                    dimension * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = match rounding {
                    Rounding::Outwards => (bound(*beta_fast).floor(), bound(*beta_slow).ceil()),
                    Rounding::None => (bound(*beta_fast), bound(*beta_slow)),
                };
                let (low, high) = (low.max(0.0), high.min(dimension - 1.0));
                let high = if low == high { high + 0.001 } else { high };
                let scale = |(i, f): (usize, f64)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                (plain(self.theta).into_iter().enumerate().map(scale).collect(), *attention_factor)
            }
            Scaling::Long { original, attention_factor, short, long } => {
                let factors = if length as f64 > *original { long } else { short };
                let inverse = plain(self.theta).into_iter().zip(factors).map(|(f, factor)| f / factor).collect();
                (inverse, *attention_factor)
            }
        };
        Frequencies { inverse, attention_factor }
    }
}

/// The dictionary with the rotary parameters: `rope_parameters`, its entry for the layer type, or
/// `rope_scaling`.
fn parameters<'a>(config: &'a Value, layer_type: Option<&str>) -> Result<Option<&'a Map<String, Value>>, RopeError> {
    let dictionary = |key: &'static str| match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(other) => Err(RopeError::InvalidValue { key, found: other.to_string(), expected: "a dictionary" }),
    };
    let Some(parameters) = dictionary("rope_parameters")? else {
        return dictionary("rope_scaling");
    };
    let nested: Vec<&String> = parameters.iter().filter(|(_, value)| value.is_object()).map(|(key, _)| key).collect();
    if nested.is_empty() {
        return Ok(Some(parameters));
    }
    match layer_type.and_then(|layer_type| parameters.get(layer_type)).and_then(Value::as_object) {
        Some(parameters) => Ok(Some(parameters)),
        None => Err(RopeError::UnknownLayerType {
            found: layer_type.unwrap_or("none").to_owned(),
            known: nested.into_iter().cloned().collect(),
        }),
    }
}

fn positive(key: &'static str, value: &Value) -> Result<f64, RopeError> {
    match value.as_f64() {
        Some(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(RopeError::InvalidValue { key, found: value.to_string(), expected: "a positive number" }),
    }
}

/// A number that counts as absent when it is 0, as in transformers.
fn nonzero(value: Option<&Value>) -> Option<f64> {
    value.and_then(Value::as_f64).filter(|x| *x != 0.0)
}

fn factors(key: &'static str, value: &Value, n: usize) -> Result<Vec<f64>, RopeError> {
    let wrong = || RopeError::InvalidValue {
        key,
        found: value.to_string(),
        expected: "one positive number for each pair of rotated coordinates",
    };
    let list = value.as_array().filter(|list| list.len() == n).ok_or_else(wrong)?;
    list.iter().map(|x| positive(key, x).map_err(|_| wrong())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use serde_json::json;

    use super::super::RopeTables;
    use super::*;
    use ascribe_curvature::Positions;

    /// Both spellings of every type against transformers' numbers (`fixtures/generators/rope.py`).
    #[test]
    fn frequencies_are_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/rope.json");
        let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let numbers =
            |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
        let mut compared = 0;
        for case in fixture["cases"].as_array().unwrap() {
            for spelling in ["config_4x", "config_5x"] {
                let config = &case[spelling];
                let heads = config["num_attention_heads"].as_u64().unwrap();
                let dimension =
                    config["head_dim"].as_u64().unwrap_or_else(|| config["hidden_size"].as_u64().unwrap() / heads)
                        as usize;
                let rope = RopeConfig::from_config(config, dimension, None).unwrap();
                for result in case["results"].as_array().unwrap() {
                    let length = result["seq_len"].as_u64().unwrap() as usize;
                    let name = format!("{} {spelling} {length}", case["name"]);
                    let found = rope.frequencies(length);
                    let want = numbers(&result["inv_freq"]);
                    assert_eq!(found.inverse.len(), want.len(), "{name}");
                    for (found, want) in found.inverse.iter().zip(want) {
                        // f32: the power is rounded a few times
                        assert!((found / want - 1.0).abs() < 1e-6, "{name}: {found} {want}");
                    }
                    assert!(
                        (found.attention_factor - result["attention_factor"].as_f64().unwrap()).abs() < 1e-12,
                        "{name}"
                    );
                    let tables = RopeTables::new(&rope, &Positions::from_lengths([length]));
                    let (cos, sin) = tables.rows(0);
                    for (r, position) in numbers(&result["positions"]).into_iter().enumerate() {
                        let row = position as usize * dimension / 2..(position as usize + 1) * dimension / 2;
                        for (found, want) in [(&cos[row.clone()], &result["cos"][r]), (&sin[row], &result["sin"][r])] {
                            for (found, want) in found.iter().zip(numbers(want)) {
                                // the angle, up to 40, is rounded to 6e-8 of itself, twice
                                assert!(
                                    (f64::from(*found) - want).abs() < 1e-5,
                                    "{name} at {position}: {found} {want}"
                                );
                                compared += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(compared > 1000);
    }

    #[test]
    fn configurations_of_other_families_are_read() {
        let neox = json!({"rotary_pct": 0.25, "rotary_emb_base": 10000});
        let rope = RopeConfig::from_config(&neox, 64, None).unwrap();
        assert_eq!((rope.rotated(), rope.frequencies(5).inverse.len()), (16, 8));
        let gemma = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
        let full = RopeConfig::from_config(&gemma, 8, Some("full_attention")).unwrap();
        let sliding = RopeConfig::from_config(&gemma, 8, Some("sliding_attention")).unwrap();
        assert_eq!((full.frequencies(9).inverse[0], sliding.frequencies(9).inverse[0]), (0.125, 1.0));
        let nested = json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}});
        assert_eq!(
            RopeConfig::from_config(&nested, 8, Some("full_attention")).unwrap().frequencies(9),
            full.frequencies(9)
        );
        assert_eq!(
            RopeConfig::from_config(&nested, 8, Some("sliding_attention")).unwrap().frequencies(9),
            sliding.frequencies(9)
        );
        let error = RopeConfig::from_config(&nested, 8, None).unwrap_err();
        assert_eq!(error.to_string(), "`rope_parameters` has no entry `none`");
        assert_eq!(error.hint().unwrap(), "layer types there: `full_attention`, `sliding_attention`");
        // Phi-3: the trained length outside wins, `su` means longrope
        let phi = json!({"model_type": "phi3", "max_position_embeddings": 64, "original_max_position_embeddings": 16,
            "rope_scaling": {"type": "su", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}});
        let rope = RopeConfig::from_config(&phi, 4, None).unwrap();
        assert_eq!((rope.frequencies(16).inverse[0], rope.frequencies(17).inverse[0]), (1.0, 1.0 / 3.0));
    }

    #[test]
    fn broken_configurations_are_named() {
        let read = |scaling: Value| {
            RopeConfig::from_config(&json!({"rope_scaling": scaling, "max_position_embeddings": 64}), 8, None)
                .unwrap_err()
        };
        let error = read(json!({"rope_type": "proportional"}));
        assert_eq!(error.to_string(), "rotary embeddings of the type `proportional` are not supported");
        assert!(error.hint().unwrap().contains("`llama3`"));
        let error = read(json!({"type": "linear"}));
        assert_eq!(error.to_string(), "rotary embeddings of the type `linear` need the key `factor`");
        assert!(error.hint().unwrap().contains("`factor`"));
        let error = read(json!({"type": "linear", "factor": "two"}));
        assert_eq!(error.to_string(), "`factor` of the rotary embeddings is \"two\", expected a positive number");
        let error = read(json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]}));
        assert!(matches!(error, RopeError::InvalidValue { key: "short_factor", .. }));
        assert!(matches!(read(json!(7)), RopeError::InvalidValue { key: "rope_scaling", .. }));
    }
}
