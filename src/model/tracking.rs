//! Which linear layers of a model are tracked.

use std::cell::{Cell, RefCell};

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::error::LoadError;
use super::operations::{LayerRows, Operations, RowsOf};
use crate::curvature::{LayerId, LayerSpec, Side};
use crate::nn::{Attention, Mask};

/// Layers by name: what `--layers` and `--skip-layers` say.
#[derive(Debug, Clone, Default)]
pub struct LayerSelection {
    include: Option<(GlobSet, Vec<String>)>,
    skip: Option<(GlobSet, Vec<String>)>,
    also: Vec<AlsoTracked>,
}

/// Parameters outside the linear layers of blocks that are tracked on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlsoTracked {
    /// The factors and biases of norms, each vector a layer of its own.
    Norms,
    /// The linear layer that gives logits or classes; where it is tied to the embedding, its part of their gradient.
    Head,
    /// The tables of embeddings of tokens, of their positions and of their types; where a table is tied to the head, its
    /// part of their gradient.
    Embeddings,
}

impl AlsoTracked {
    /// The name in jobs and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Norms => "norms",
            Self::Head => "head",
            Self::Embeddings => "embeddings",
        }
    }
}

impl LayerSelection {
    /// From glob patterns over the checkpoint's own layer names (without `.weight`). No pattern in
    /// `include` means the default: every linear layer inside the blocks.
    ///
    /// # Errors
    /// [`LoadError::Pattern`].
    pub fn new(include: &[String], skip: &[String]) -> Result<Self, LoadError> {
        Ok(Self { include: globs(include)?, skip: globs(skip)?, also: vec![] })
    }

    /// A selection of the layers of this one and, beside them, of parameters that no pattern has to include.
    #[must_use]
    pub fn and(self, also: &[AlsoTracked]) -> Self {
        Self { also: also.to_vec(), ..self }
    }

    fn tracks(&self, name: &str, by_default: bool) -> bool {
        let included = self.include.as_ref().map_or(by_default, |(globs, _)| globs.is_match(name));
        included && !self.skips(name)
    }

    fn skips(&self, name: &str) -> bool {
        self.skip.as_ref().is_some_and(|(globs, _)| globs.is_match(name))
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
    numbered: RefCell<Numbered>,
    /// What layers see that are asked for next.
    rows: Cell<LayerRows>,
    operations: Cell<Operations>,
}

/// The tracked layers of a model, and what its layers see and compute.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) layers: Vec<LayerSpec>,
    /// What each of `layers` sees.
    pub(super) rows: Vec<LayerRows>,
    /// Of all layers, tracked or not.
    pub(super) operations: Operations,
}

/// What was asked for so far.
#[derive(Debug, Default)]
struct Numbered {
    layers: Vec<LayerSpec>,
    rows: Vec<LayerRows>,
    available: Vec<String>,
    groups: usize,
    /// Kinds of other parameters that the model has.
    found: Vec<AlsoTracked>,
    /// How many of the layers are tables of embeddings.
    tables: usize,
}

/// A tensor that several layers read: they share its covariance if they have the same bias setting.
#[derive(Debug, Default)]
pub(super) struct SharedInput {
    groups: [Option<usize>; 2],
}

impl<'a> Tracking<'a> {
    /// Nothing tracked yet.
    pub(super) fn new(selection: &'a LayerSelection) -> Self {
        let rows = Cell::new(LayerRows::all(RowsOf::Positions));
        Self { selection, numbered: RefCell::default(), rows, operations: Cell::default() }
    }

    /// What is built by `layers` sees these rows.
    pub(super) fn seeing<R>(&self, rows: LayerRows, layers: impl FnOnce() -> R) -> R {
        let before = self.rows.replace(rows);
        let built = layers();
        self.rows.set(before);
        built
    }

    /// Counts the products with a matrix of so many numbers.
    pub(super) fn multiplies(&self, numbers: usize) {
        let mut operations = self.operations.get();
        operations.add_linear(self.rows.get(), numbers);
        self.operations.set(operations);
    }

    /// Counts the products of an attention whose heads have so many numbers together.
    pub(super) fn attends(&self, numbers: usize, mask: Mask) {
        let mut operations = self.operations.get();
        operations.add_attention(self.rows.get().of, numbers, mask);
        self.operations.set(operations);
    }

    /// The attention, counted.
    pub(super) fn attending(&self, attention: Attention) -> Attention {
        self.attends(attention.heads * attention.head_dimension, attention.mask);
        attention
    }

    /// The number of this layer if the selection tracks it.
    pub(super) fn layer(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
        bias: bool,
        input: &mut SharedInput,
    ) -> Option<LayerId> {
        self.inner(name, [outputs, inputs], bias, input, None)
    }

    /// The number of the part of a language model's head that an adapter is, whose outputs are the tokens of a vocabulary, if
    /// the selection tracks it.
    pub(super) fn token_layer(&self, name: &str, tokens: usize, inputs: usize) -> Option<LayerId> {
        self.inner(name, [tokens, inputs], false, &mut SharedInput::default(), Some(Side::Output))
    }

    fn inner(
        &self,
        name: &str,
        sizes: [usize; 2],
        bias: bool,
        input: &mut SharedInput,
        vocabulary: Option<Side>,
    ) -> Option<LayerId> {
        self.numbered.borrow_mut().available.push(name.to_owned());
        self.selection.tracks(name, true).then(|| self.add(name, sizes, bias, input, vocabulary))
    }

    /// The number of a layer outside the blocks, which is tracked only if a pattern names it or heads are asked for.
    pub(super) fn outer_layer(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Option<LayerId> {
        self.outer(name, [outputs, inputs], bias, None)
    }

    /// The number of a language model's head, whose outputs are the tokens of a vocabulary.
    pub(super) fn token_head(&self, name: &str, tokens: usize, inputs: usize, bias: bool) -> Option<LayerId> {
        self.outer(name, [tokens, inputs], bias, Some(Side::Output))
    }

    fn outer(&self, name: &str, sizes: [usize; 2], bias: bool, vocabulary: Option<Side>) -> Option<LayerId> {
        self.numbered.borrow_mut().available.push(name.to_owned());
        let is_wanted = self.also(AlsoTracked::Head, name) || self.selection.tracks(name, false);
        is_wanted.then(|| self.add(name, sizes, bias, &mut SharedInput::default(), vocabulary))
    }

    /// The number of a table of embeddings, which is tracked only if embeddings are asked for: a layer whose inputs are
    /// the table's rows.
    pub(super) fn table(&self, name: &str, [rows, width]: [usize; 2]) -> Option<LayerId> {
        self.also(AlsoTracked::Embeddings, name).then(|| {
            self.numbered.borrow_mut().available.push(name.to_owned());
            self.numbered.borrow_mut().tables += 1;
            self.add(name, [width, rows], false, &mut SharedInput::default(), Some(Side::Input))
        })
    }

    /// The number of a vector of parameters, which is tracked only if norms are asked for: a layer of one input.
    pub(super) fn vector(&self, name: &str, width: usize) -> Option<LayerId> {
        self.also(AlsoTracked::Norms, name).then(|| {
            self.numbered.borrow_mut().available.push(name.to_owned());
            self.add(name, [width, 1], false, &mut SharedInput::default(), None)
        })
    }

    /// Whether parameters of this kind are asked for, these among them.
    fn also(&self, kind: AlsoTracked, name: &str) -> bool {
        let is_wanted = self.selection.also.contains(&kind);
        if is_wanted {
            self.numbered.borrow_mut().found.push(kind);
        }
        is_wanted && !self.selection.skips(name)
    }

    fn add(
        &self,
        name: &str,
        [outputs, inputs]: [usize; 2],
        bias: bool,
        input: &mut SharedInput,
        vocabulary: Option<Side>,
    ) -> LayerId {
        let mut numbered = self.numbered.borrow_mut();
        let input_group = *input.groups[usize::from(bias)].get_or_insert_with(|| {
            numbered.groups += 1;
            numbered.groups - 1
        });
        numbered.layers.push(LayerSpec { name: name.to_owned(), outputs, inputs, bias, input_group, vocabulary });
        numbered.rows.push(self.rows.get());
        LayerId(numbered.layers.len() - 1)
    }

    /// How many layers are tracked so far, without tables of embeddings.
    pub(super) fn count(&self) -> usize {
        let numbered = self.numbered.borrow();
        numbered.layers.len() - numbered.tables
    }

    /// Whether tables of embeddings are asked for.
    pub(super) fn takes_tables(&self) -> bool {
        self.selection.also.contains(&AlsoTracked::Embeddings)
    }

    /// How many tables of embeddings are tracked so far.
    pub(super) fn tables(&self) -> usize {
        self.numbered.borrow().tables
    }

    /// The tracked layers.
    ///
    /// # Errors
    /// [`LoadError::NoLayers`] if there is none, if a pattern matched nothing, or if the model has nothing of a kind that
    /// was asked for.
    pub(super) fn finish(self) -> Result<Tracked, LoadError> {
        let Numbered { layers, rows, available, found, .. } = self.numbered.into_inner();
        let names = || available.iter().map(String::as_str);
        let absent = self.selection.also.iter().find(|kind| !found.contains(kind));
        let reason = match (unmatched(&self.selection.include, names), unmatched(&self.selection.skip, names)) {
            (Some(pattern), _) | (None, Some(pattern)) => format!("the pattern `{pattern}` matches no linear layer"),
            (None, None) if layers.is_empty() => "every linear layer is skipped".to_owned(),
            (None, None) => match absent {
                None => return Ok(Tracked { layers, rows, operations: self.operations.get() }),
                Some(kind) => format!("this model has no {} that could be tracked", kind.name()),
            },
        };
        Err(LoadError::NoLayers { reason, available })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(include: &[&str], skip: &[&str]) -> Result<Vec<LayerSpec>, LoadError> {
        let own = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>();
        let selection = LayerSelection::new(&own(include), &own(skip))?;
        let tracking = Tracking::new(&selection);
        let mut input = SharedInput::default();
        tracking.layer("h.0.attn.q", 4, 3, true, &mut input);
        tracking.layer("h.0.attn.k", 2, 3, true, &mut input);
        tracking.layer("h.0.attn.v", 2, 3, false, &mut input);
        tracking.layer("h.0.mlp.fc", 5, 3, true, &mut SharedInput::default());
        tracking.outer_layer("lm_head", 9, 3, false);
        Ok(tracking.finish()?.layers)
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
