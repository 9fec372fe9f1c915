//! Which linear layers of a model are tracked.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::error::LoadError;
use crate::curvature::{LayerId, LayerSpec};

/// Layers by name: what `--layers` and `--skip-layers` say.
#[derive(Debug, Clone, Default)]
pub struct LayerSelection {
    include: Option<(GlobSet, Vec<String>)>,
    skip: Option<(GlobSet, Vec<String>)>,
}

impl LayerSelection {
    /// From glob patterns over the checkpoint's own layer names (without `.weight`). No pattern in
    /// `include` means the default: every linear layer inside the blocks.
    ///
    /// # Errors
    /// [`LoadError::Pattern`].
    pub fn new(include: &[String], skip: &[String]) -> Result<Self, LoadError> {
        Ok(Self { include: globs(include)?, skip: globs(skip)? })
    }

    fn tracks(&self, name: &str, by_default: bool) -> bool {
        let included = self.include.as_ref().map_or(by_default, |(globs, _)| globs.is_match(name));
        included && !self.skip.as_ref().is_some_and(|(globs, _)| globs.is_match(name))
    }

    /// The numbers of those layers among `layers` that are selected; else a pattern that matches none of them.
    pub(crate) fn among(&self, layers: &[LayerSpec]) -> Result<Vec<usize>, String> {
        match unmatched(&self.include, || layers.iter().map(|layer| layer.name.as_str())) {
            Some(pattern) => Err(pattern),
            None => Ok((0..layers.len()).filter(|&l| self.tracks(&layers[l].name, true)).collect()),
        }
    }
}

/// The first pattern that matches none of these names.
fn unmatched<'n, N: Iterator<Item = &'n str>>(
    patterns: &Option<(GlobSet, Vec<String>)>,
    names: impl Fn() -> N,
) -> Option<String> {
    let (globs, texts) = patterns.as_ref()?;
    let matched: std::collections::BTreeSet<usize> = names().flat_map(|name| globs.matches(name)).collect();
    texts.iter().enumerate().find(|(index, _)| !matched.contains(index)).map(|(_, text)| text.clone())
}

fn globs(patterns: &[String]) -> Result<Option<(GlobSet, Vec<String>)>, LoadError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let problem =
            |error: globset::Error| LoadError::Pattern { pattern: pattern.clone(), problem: error.to_string() };
        set.add(Glob::new(pattern).map_err(problem)?);
    }
    let problem =
        |error: globset::Error| LoadError::Pattern { pattern: patterns.join(" "), problem: error.to_string() };
    Ok(Some((set.build().map_err(problem)?, patterns.to_vec())))
}

/// Numbers the tracked layers while a model is built, in the order in which they are asked for.
#[derive(Debug)]
pub(super) struct Tracking<'a> {
    selection: &'a LayerSelection,
    layers: Vec<LayerSpec>,
    available: Vec<String>,
    groups: usize,
}

/// A tensor that several layers read: they share its covariance if they have the same bias setting.
#[derive(Debug, Default)]
pub(super) struct SharedInput {
    groups: [Option<usize>; 2],
}

impl<'a> Tracking<'a> {
    /// Nothing tracked yet.
    pub(super) fn new(selection: &'a LayerSelection) -> Self {
        Self { selection, layers: vec![], available: vec![], groups: 0 }
    }

    /// The number of this layer if the selection tracks it.
    pub(super) fn layer(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        bias: bool,
        input: &mut SharedInput,
    ) -> Option<LayerId> {
        self.add(name, outputs, inputs, bias, input, true)
    }

    /// The number of a layer outside the blocks, which is tracked only if a pattern names it.
    pub(super) fn outer_layer(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Option<LayerId> {
        self.add(name, outputs, inputs, bias, &mut SharedInput::default(), false)
    }

    fn add(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        bias: bool,
        input: &mut SharedInput,
        by_default: bool,
    ) -> Option<LayerId> {
        self.available.push(name.to_owned());
        if !self.selection.tracks(name, by_default) {
            return None;
        }
        let input_group = *input.groups[usize::from(bias)].get_or_insert_with(|| {
            self.groups += 1;
            self.groups - 1
        });
        self.layers.push(LayerSpec { name: name.to_owned(), outputs, inputs, bias, input_group });
        Some(LayerId(self.layers.len() - 1))
    }

    /// How many layers are tracked so far.
    pub(super) fn count(&self) -> usize {
        self.layers.len()
    }

    /// The tracked layers.
    ///
    /// # Errors
    /// [`LoadError::NoLayers`] if there is none, or if a pattern matched nothing.
    pub(super) fn finish(self) -> Result<Vec<LayerSpec>, LoadError> {
        let names = || self.available.iter().map(String::as_str);
        let reason = match (unmatched(&self.selection.include, names), unmatched(&self.selection.skip, names)) {
            (Some(pattern), _) | (None, Some(pattern)) => format!("the pattern `{pattern}` matches no linear layer"),
            (None, None) if self.layers.is_empty() => "every linear layer is skipped".to_owned(),
            (None, None) => return Ok(self.layers),
        };
        Err(LoadError::NoLayers { reason, available: self.available })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(include: &[&str], skip: &[&str]) -> Result<Vec<LayerSpec>, LoadError> {
        let own = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>();
        let selection = LayerSelection::new(&own(include), &own(skip))?;
        let mut tracking = Tracking::new(&selection);
        let mut input = SharedInput::default();
        tracking.layer("h.0.attn.q", 4, 3, true, &mut input);
        tracking.layer("h.0.attn.k", 2, 3, true, &mut input);
        tracking.layer("h.0.attn.v", 2, 3, false, &mut input);
        tracking.layer("h.0.mlp.fc", 5, 3, true, &mut SharedInput::default());
        tracking.outer_layer("lm_head", 9, 3, false);
        tracking.finish()
    }

    #[test]
    fn layers_share_an_input_only_with_the_same_bias_setting() -> Result<(), LoadError> {
        let groups: Vec<_> = tracked(&[], &[])?.iter().map(|layer| (layer.name.clone(), layer.input_group)).collect();
        let want = [("h.0.attn.q", 0), ("h.0.attn.k", 0), ("h.0.attn.v", 1), ("h.0.mlp.fc", 2)];
        assert_eq!(groups, want.map(|(name, group)| (name.to_owned(), group)));
        Ok(())
    }

    #[test]
    fn patterns_include_and_exclude() -> Result<(), LoadError> {
        let names = |layers: Vec<LayerSpec>| layers.into_iter().map(|layer| layer.name).collect::<Vec<_>>();
        assert_eq!(names(tracked(&["*.attn.*", "lm_head"], &["*.k"])?), ["h.0.attn.q", "h.0.attn.v", "lm_head"]);
        let error = tracked(&["*.atn.*"], &[]).expect_err("a misspelt pattern");
        assert_eq!(error.to_string(), "no layer is tracked: the pattern `*.atn.*` matches no linear layer");
        assert_eq!(
            tracked(&[], &["*"]).expect_err("nothing left").to_string(),
            "no layer is tracked: every linear layer is skipped"
        );
        Ok(())
    }
}
