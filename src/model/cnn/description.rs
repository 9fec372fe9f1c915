//! What a configuration says of the modules of a network of convolutions: a list, of which each entry has a `type` and
//! the arguments that PyTorch's module of that kind has.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::curvature::Window;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::nn::Activation;

/// The most modules of a network.
const MOST: usize = 10_000;

/// The most residual modules that stand inside one another.
const DEEPEST: usize = 8;

/// The most characters of a module's name.
const LONGEST_NAME: usize = 200;

/// The largest size, stride, padding or dilation.
const LARGEST: u64 = 1 << 12;

/// Types of modules beside the names of activations.
const TYPES: [&str; 10] = [
    "conv2d",
    "batch_norm",
    "linear",
    "max_pool",
    "avg_pool",
    "adaptive_max_pool",
    "adaptive_avg_pool",
    "flatten",
    "scale",
    "residual",
];

/// One module as it is described.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Described {
    /// The window's size is that of the kernels in the file.
    Convolution {
        name: String,
        window: Window,
        groups: usize,
    },
    Norm {
        name: String,
        epsilon: f64,
        has_affine: bool,
    },
    Linear {
        name: String,
    },
    /// What has no tensor.
    Plain(Plain),
    /// `modules(x) + shortcut(x)`; of no shortcut `x` itself.
    Residual {
        modules: Vec<Described>,
        shortcut: Vec<Described>,
    },
}

/// A module without tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Plain {
    Activation(Activation),
    MaxPool(Window),
    /// Whether padding counts as zeros in the mean, or not at all.
    AvgPool {
        window: Window,
        counts_padding: bool,
    },
    AdaptiveMaxPool([usize; 2]),
    AdaptiveAvgPool([usize; 2]),
    Flatten,
    Scale(f64),
}

/// Reads the modules of a configuration.
///
/// # Errors
/// The first entry that is not understood, by its place.
pub(super) fn modules(config: &Config) -> Result<Vec<Described>, LoadError> {
    let Some(list) = config.list("modules")? else { return Err(config.problem("no key `modules`")) };
    let mut reader = Reader { config, count: 0, names: BTreeSet::new() };
    reader.list(list, "modules", 0)
}

/// Names of the modules that have tensors, in the order of the description.
pub(super) fn names(modules: &[Described]) -> Vec<&str> {
    let mut found = vec![];
    for module in modules {
        match module {
            Described::Convolution { name, .. } | Described::Norm { name, .. } | Described::Linear { name } => {
                found.push(name.as_str());
            }
            Described::Plain(_) => {}
            Described::Residual { modules, shortcut } => {
                found.extend(names(modules));
                found.extend(names(shortcut));
            }
        }
    }
    found
}

struct Reader<'a> {
    config: &'a Config,
    count: usize,
    names: BTreeSet<String>,
}

/// The arguments of one entry.
struct Arguments<'a> {
    config: &'a Config,
    /// Where it stands, as an error says it.
    place: String,
    keys: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn list(&mut self, list: &[Value], key: &str, depth: usize) -> Result<Vec<Described>, LoadError> {
        if depth > DEEPEST {
            return Err(self.config.problem(format!("`modules` has residual modules more than {DEEPEST} deep")));
        }
        list.iter().enumerate().map(|(k, entry)| self.entry(entry, format!("{key}[{k}]"), depth)).collect()
    }

    fn entry(&mut self, entry: &Value, place: String, depth: usize) -> Result<Described, LoadError> {
        self.count += 1;
        if self.count > MOST {
            return Err(self.config.problem(format!("`modules` has more than {MOST} modules")));
        }
        let config = self.config;
        let Some(keys) = entry.as_object() else {
            return Err(config.problem(format!("`{place}` is no dictionary with a `type`")));
        };
        let of = Arguments { config, place, keys };
        let Some(kind) = keys.get("type").and_then(Value::as_str) else { return Err(of.problem("no key `type`")) };
        let known = |keys: &[&str]| of.known(kind, keys);
        Ok(match kind {
            "conv2d" => {
                known(&["name", "stride", "padding", "dilation", "groups", "padding_mode"])?;
                if !matches!(keys.get("padding_mode"), None | Some(Value::Null)) && of.text("padding_mode")? != "zeros"
                {
                    return Err(of.problem("a `padding_mode` other than \"zeros\" is not implemented"));
                }
                let window = Window {
                    size: [1; 2],
                    stride: of.pair("stride", Some(1), 1)?,
                    padding: of.pair("padding", Some(0), 0)?,
                    dilation: of.pair("dilation", Some(1), 1)?,
                };
                let groups = of.pair("groups", Some(1), 1)?[0];
                Described::Convolution { name: self.name(&of)?, window, groups }
            }
            "batch_norm" => {
                known(&["name", "eps", "affine"])?;
                let epsilon = of.number("eps", 1e-5)?;
                if epsilon < 0.0 {
                    return Err(of.problem("`eps` is negative"));
                }
                Described::Norm { name: self.name(&of)?, epsilon, has_affine: of.flag("affine", true)? }
            }
            "linear" => {
                known(&["name"])?;
                Described::Linear { name: self.name(&of)? }
            }
            "max_pool" => {
                known(&["kernel_size", "stride", "padding", "dilation"])?;
                Described::Plain(Plain::MaxPool(of.pool(of.pair("dilation", Some(1), 1)?)?))
            }
            "avg_pool" => {
                known(&["kernel_size", "stride", "padding", "count_include_pad"])?;
                let counts_padding = of.flag("count_include_pad", true)?;
                Described::Plain(Plain::AvgPool { window: of.pool([1; 2])?, counts_padding })
            }
            "adaptive_max_pool" => {
                known(&["output_size"])?;
                Described::Plain(Plain::AdaptiveMaxPool(of.pair("output_size", None, 1)?))
            }
            "adaptive_avg_pool" => {
                known(&["output_size"])?;
                Described::Plain(Plain::AdaptiveAvgPool(of.pair("output_size", None, 1)?))
            }
            "flatten" => {
                known(&[])?;
                Described::Plain(Plain::Flatten)
            }
            "scale" => {
                known(&["factor"])?;
                if !keys.contains_key("factor") {
                    return Err(of.problem("no key `factor`"));
                }
                Described::Plain(Plain::Scale(of.number("factor", 1.0)?))
            }
            "residual" => {
                known(&["modules", "shortcut"])?;
                let mut inner = |key: &str| -> Result<Vec<Described>, LoadError> {
                    match keys.get(key) {
                        None | Some(Value::Null) => Ok(vec![]),
                        Some(Value::Array(list)) => self.list(list, &format!("{}.{key}", of.place), depth + 1),
                        Some(_) => Err(of.problem(&format!("`{key}` is no list"))),
                    }
                };
                let (modules, shortcut) = (inner("modules")?, inner("shortcut")?);
                if modules.is_empty() {
                    return Err(of.problem("`modules` is empty"));
                }
                Described::Residual { modules, shortcut }
            }
            _ => match Activation::from_name(kind) {
                Some(activation) => {
                    known(&[])?;
                    Described::Plain(Plain::Activation(activation))
                }
                None => {
                    let known = TYPES.iter().chain(&Activation::NAMES).copied().collect::<Vec<_>>().join(", ");
                    return Err(of.problem(&format!("the type {} is not known; known are {known}", of.quoted("type"))));
                }
            },
        })
    }

    /// The name of a module, which no other has.
    fn name(&mut self, of: &Arguments<'_>) -> Result<String, LoadError> {
        let name = of.text("name")?;
        if name.is_empty() || name.chars().count() > LONGEST_NAME {
            return Err(of.problem(&format!("`name` is empty or longer than {LONGEST_NAME} characters")));
        }
        if !self.names.insert(name.to_owned()) {
            let name = of.quoted("name");
            return Err(
                of.problem(&format!("the name {name} stands there twice; weights that run twice are not implemented"))
            );
        }
        Ok(name.to_owned())
    }
}

impl Arguments<'_> {
    fn problem(&self, problem: &str) -> LoadError {
        self.config.problem(format!("`{}`: {problem}", self.place))
    }

    fn quoted(&self, key: &str) -> String {
        let text = self.keys.get(key).map_or_else(String::new, Value::to_string);
        text.chars().take(80).collect()
    }

    /// Refuses an argument that is not understood: it might change numbers.
    fn known(&self, kind: &str, keys: &[&str]) -> Result<(), LoadError> {
        let Some(unknown) = self.keys.keys().find(|key| *key != "type" && !keys.contains(&key.as_str())) else {
            return Ok(());
        };
        let shown: String = unknown.chars().take(40).collect();
        let known = match keys {
            [] => "it has no arguments".to_owned(),
            keys => format!("its arguments are {}", keys.join(", ")),
        };
        Err(self.problem(&format!("{shown:?} is no argument of a module of type {kind:?}: {known}")))
    }

    fn text(&self, key: &str) -> Result<&str, LoadError> {
        match self.keys.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.problem(&format!("`{key}` = {}, expected a text", self.quoted(key)))),
            None => Err(self.problem(&format!("no key `{key}`"))),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, LoadError> {
        let Some(value) = self.keys.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| self.problem(&format!("`{key}` = {}, expected a number", self.quoted(key))))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        let Some(value) = self.keys.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.problem(&format!("`{key}` = {}, expected true or false", self.quoted(key))))
    }

    /// One number for both axes, or one for each.
    fn pair(&self, key: &str, default: Option<usize>, least: u64) -> Result<[usize; 2], LoadError> {
        let size = |value: &Value| value.as_u64().filter(|n| (least..=LARGEST).contains(n)).map(|n| n as usize);
        let found = match (self.keys.get(key), default) {
            (None | Some(Value::Null), Some(default)) => return Ok([default; 2]),
            (None | Some(Value::Null), None) => return Err(self.problem(&format!("no key `{key}`"))),
            (Some(Value::Array(list)), _) => match list.as_slice() {
                [down, across] if key != "groups" => size(down).zip(size(across)),
                _ => None,
            },
            (Some(value), _) => size(value).map(|both| (both, both)),
        };
        let (down, across) = found.ok_or_else(|| {
            let expected = match key {
                "groups" => "a whole number",
                _ => "a whole number, or one for each axis",
            };
            self.problem(&format!("`{key}` = {}, expected {expected} from {least} to {LARGEST}", self.quoted(key)))
        })?;
        Ok([down, across])
    }

    /// A pooling window, which moves by its size unless it says otherwise.
    fn pool(&self, dilation: [usize; 2]) -> Result<Window, LoadError> {
        let size = self.pair("kernel_size", None, 1)?;
        let stride = match self.keys.get("stride") {
            None | Some(Value::Null) => size,
            Some(_) => self.pair("stride", None, 1)?,
        };
        let padding = self.pair("padding", Some(0), 0)?;
        if (0..2).any(|axis| padding[axis] > size[axis] / 2) {
            return Err(self.problem("`padding` is more than half of `kernel_size`"));
        }
        Ok(Window { size, stride, padding, dilation })
    }
}
