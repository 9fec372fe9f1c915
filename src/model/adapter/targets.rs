//! Which modules an adapter's settings select, by PEFT's rules: a list selects by the ending of a name, a text is a
//! regular expression over the whole name.

use fancy_regex::Regex;
use serde_json::Value;

/// The settings that select modules.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    pub(super) modules: Modules,
    pub(super) exclude: Modules,
    /// Indices of layers, with which a list of modules is narrowed; none: all layers.
    pub(super) layers: Option<Vec<u64>>,
    /// What stands before the index of a layer, a regular expression each; none: anything.
    pub(super) layer_patterns: Vec<Regex>,
    /// Expressions for modules that are saved as a whole.
    pub(super) saved: Vec<Regex>,
    /// Endings of the names of modules that are saved as a whole.
    pub(super) copied: Vec<String>,
}

/// Modules by name.
#[derive(Debug, Default)]
pub(crate) enum Modules {
    /// Nothing is said.
    #[default]
    Unstated,
    /// Names, or endings of names behind a dot.
    Listed(Vec<String>),
    /// A regular expression over the whole name.
    Matching(Regex),
    /// Every linear layer but the head.
    AllLinear,
}

/// What a module is, as far as `all-linear` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModuleKind {
    /// A linear layer inside the network.
    Linear,
    /// The head.
    Head,
    /// An embedding.
    Embedding,
    /// A convolution.
    Convolution,
}

impl Modules {
    /// Reads `target_modules` or `exclude_modules`; otherwise what is wrong.
    pub(super) fn read(value: Option<&Value>, with_all_linear: bool) -> Result<Self, String> {
        match value {
            None | Some(Value::Null) => Ok(Self::Unstated),
            Some(Value::String(text)) if with_all_linear && text.eq_ignore_ascii_case("all-linear") => {
                Ok(Self::AllLinear)
            }
            Some(Value::String(text)) => whole(text).map(Self::Matching),
            Some(Value::Array(list)) => {
                let names = list.iter().map(|name| name.as_str().map(str::to_owned));
                let names: Option<Vec<String>> = names.collect();
                names.map(Self::Listed).ok_or_else(|| "expected a list of texts".into())
            }
            Some(_) => Err("expected a list of texts or a text".into()),
        }
    }

    fn contain(&self, name: &str, kind: ModuleKind) -> bool {
        match self {
            Self::Unstated => false,
            Self::Listed(names) => names
                .iter()
                .any(|one| name.strip_suffix(one.as_str()).is_some_and(|b| b.is_empty() || b.ends_with('.'))),
            Self::Matching(pattern) => matches(pattern, name),
            Self::AllLinear => kind == ModuleKind::Linear,
        }
    }
}

impl Targets {
    /// Whether a module has an adapter; none if the settings do not say it.
    pub(crate) fn select(&self, name: &str, kind: ModuleKind) -> Option<bool> {
        if matches!(self.modules, Modules::Unstated) {
            return None;
        }
        if self.exclude.contain(name, kind) || self.is_saved(name) {
            return Some(false);
        }
        let selected = self.modules.contain(name, kind);
        match (&self.layers, &self.modules) {
            // a module that is named in full is one of no list of layers
            (Some(_), Modules::Listed(names)) if names.iter().any(|one| one == name) => Some(true),
            (Some(layers), Modules::Listed(_) | Modules::AllLinear) if selected => {
                Some(self.layer_of(name).is_some_and(|layer| layers.contains(&layer)))
            }
            _ => Some(selected),
        }
    }

    /// Whether a module, or one that it is part of, is saved as a whole.
    pub(crate) fn is_saved(&self, name: &str) -> bool {
        self.saved.iter().any(|pattern| matches(pattern, name))
    }

    /// Whether a module, or one that it is part of, was copied and trained as a whole. Unlike elsewhere, PEFT asks here
    /// for the ending of a name without a dot before it, so that `norm` is also `input_layernorm`.
    pub(crate) fn is_copied(&self, name: &str) -> bool {
        let ends = |module: &str| self.copied.iter().any(|ending| module.ends_with(ending.as_str()));
        ends(name) || name.match_indices('.').any(|(end, _)| ends(&name[..end]))
    }

    /// The index of the layer that a module is part of.
    fn layer_of(&self, name: &str) -> Option<u64> {
        if self.layer_patterns.is_empty() {
            // the first number that has two parts of the name before it, or one and a dot
            let parts: Vec<&str> = name.split('.').collect();
            let inner = parts.len().checked_sub(1)?;
            return parts[..inner].iter().skip(2).find_map(|part| whole_number(part));
        }
        let found = self.layer_patterns.iter().find_map(|pattern| pattern.captures(name).ok().flatten())?;
        whole_number(found.name("index")?.as_str())
    }
}

fn whole_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// An expression that fails for its complexity matches nothing.
pub(super) fn matches(pattern: &Regex, name: &str) -> bool {
    pattern.is_match(name).unwrap_or(false)
}

/// An expression for a whole name.
pub(super) fn whole(pattern: &str) -> Result<Regex, String> {
    compiled(pattern, &format!(r"\A(?:{pattern})\z"))
}

/// An expression for the whole end of a name, behind nothing or a dot (`rank_pattern`, `alpha_pattern`).
pub(super) fn ending(pattern: &str) -> Result<Regex, String> {
    compiled(pattern, &format!(r"\A(.*\.)?({pattern})\z"))
}

/// An expression for a module or what is part of it (`modules_to_save`).
pub(super) fn module_and_parts(pattern: &str) -> Result<Regex, String> {
    compiled(pattern, &format!(r"\A(^|.*\.){pattern}($|\..*)"))
}

/// An expression for the list of layers before a layer's index (`layers_pattern`).
pub(super) fn layer_list(pattern: &str) -> Result<Regex, String> {
    compiled(pattern, &format!(r"\A(?:^|.*?\.){pattern}\.(?P<index>\d+)\."))
}

fn compiled(given: &str, pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| format!("`{given}` is not a regular expression: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn targets(modules: Value) -> Targets {
        Targets { modules: Modules::read(Some(&modules), true).expect("valid"), ..Targets::default() }
    }

    fn selected(targets: &Targets, name: &str) -> bool {
        targets.select(name, ModuleKind::Linear).expect("stated")
    }

    #[test]
    fn a_list_selects_by_endings_behind_a_dot() {
        let listed = targets(json!(["q_proj", "mlp.down_proj", "lm_head"]));
        for (name, expected) in [
            ("model.layers.0.self_attn.q_proj", true),
            ("q_proj", true),
            ("model.layers.0.self_attn.xq_proj", false),
            ("model.layers.0.mlp.down_proj", true),
            ("model.layers.0.other.down_proj", false),
            ("lm_head", true),
        ] {
            assert_eq!(selected(&listed, name), expected, "{name}");
        }
    }

    #[test]
    fn a_text_is_an_expression_over_the_whole_name() {
        let pattern = targets(json!(r"model\.layers\.(0|2)\..*(q|v)_proj"));
        assert!(selected(&pattern, "model.layers.2.self_attn.v_proj"));
        assert!(!selected(&pattern, "model.layers.1.self_attn.v_proj"));
        assert!(!selected(&pattern, "model.layers.2.self_attn.v_proj.more"));
        assert!(!selected(&pattern, "x.model.layers.2.self_attn.v_proj"));
        let not_the_head = targets(json!(r"(?!lm_head).*"));
        assert!(selected(&not_the_head, "model.q") && !selected(&not_the_head, "lm_head"));
        assert!(Modules::read(Some(&json!("(")), true).unwrap_err().contains("is not a regular expression"));
        assert!(Modules::read(Some(&json!([1])), true).is_err() && Modules::read(Some(&json!(1)), true).is_err());
    }

    #[test]
    fn all_linear_is_every_linear_layer_but_the_head() {
        let all = targets(json!("all-linear"));
        let select = |kind| all.select("some.module", kind);
        assert_eq!(select(ModuleKind::Linear), Some(true));
        for other in [ModuleKind::Head, ModuleKind::Embedding, ModuleKind::Convolution] {
            assert_eq!(select(other), Some(false), "{other:?}");
        }
        // the word means nothing among modules that are left out
        assert!(matches!(Modules::read(Some(&json!("all-linear")), false), Ok(Modules::Matching(_))));
    }

    #[test]
    fn layers_narrow_a_list_and_exclusions_win() {
        let mut targets = targets(json!(["q_proj"]));
        targets.layers = Some(vec![1, 3]);
        assert!(selected(&targets, "model.layers.3.self_attn.q_proj"));
        assert!(!selected(&targets, "model.layers.2.self_attn.q_proj"));
        // of nested lists the first number counts
        assert!(selected(&targets, "model.layers.1.experts.0.q_proj"));
        assert!(!selected(&targets, "model.layers.0.experts.1.q_proj"));
        assert!(selected(&targets, "q_proj") && !selected(&targets, "model.q_proj"), "the first is named in full");
        targets.layer_patterns = vec![layer_list("blocks").expect("valid")];
        assert!(selected(&targets, "model.blocks.1.q_proj") && !selected(&targets, "model.layers.1.q_proj"));
        targets.exclude = Modules::read(Some(&json!(["1.q_proj"])), false).expect("valid");
        assert!(!selected(&targets, "model.blocks.1.q_proj"));
        targets.copied = vec!["norm".into(), "mlp".into()];
        for (name, expected) in [("h.0.input_layernorm", true), ("h.0.mlp.fc", true), ("h.0.attn.fc", false)] {
            assert_eq!(targets.is_copied(name), expected, "{name}");
        }
        targets.saved = vec![module_and_parts("3").expect("valid")];
        assert!(!selected(&targets, "model.blocks.3.q_proj"));
        assert_eq!(Targets::default().select("q_proj", ModuleKind::Linear), None);
    }
}
