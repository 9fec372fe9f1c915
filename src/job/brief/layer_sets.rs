//! Sets of tracked layers, or of parts of them, over each of which every answer is summed by itself, too.

use crate::attribution::LayerPart;
use crate::curvature::{LayerSlice, LayerSpec};
use crate::job::error::JobError;
use crate::job::option_text::option_text;
use crate::job::request::{Job, LayerSplit};
use crate::model::{HeadPart, LayerSelection, Model, abridged};

/// A set of tracked layers, or of rows and columns of them, whose scores are summed by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::job) struct LayerSet {
    /// Its name, in files and reports.
    pub name: String,
    /// Which of the tracked layers, in their order.
    pub layers: Vec<usize>,
    /// What of these layers belongs to it; empty: all.
    pub slices: Vec<LayerSlice>,
}

impl LayerSet {
    /// The sets of a job: those that it names, in the order of their names, and those that layers' names give, in the
    /// order of the layers. `heads` are the parts of the layers around attention, if heads are asked for.
    ///
    /// # Errors
    /// A pattern that is no glob, or that matches no tracked layer; two sets of one name.
    pub(in crate::job) fn all(job: &Job, layers: &[LayerSpec], heads: Vec<HeadPart>) -> Result<Vec<Self>, JobError> {
        let of_set = |(name, patterns): (&String, &crate::job::request::Several<String>)| {
            let layers = LayerSelection::new(&patterns.0, &[])?.among(layers).map_err(|pattern| {
                let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
                JobError::Options {
                    problem: format!("the pattern `{pattern}` of the layer set `{name}` matches no tracked layer")
                        .into(),
                    hint: Some(format!("the tracked layers are {}", abridged(&names)).into()),
                }
            })?;
            Ok(Self { name: name.clone(), layers, slices: vec![] })
        };
        let mut heads = Some(heads);
        let mut sets = job.output.layer_sets.iter().map(of_set).collect::<Result<Vec<Self>, JobError>>()?;
        for &split in &job.output.split_layers {
            let of_split = match split {
                LayerSplit::Head => heads.take().unwrap_or_default().into_iter().map(Self::of_part).collect(),
                LayerSplit::Each | LayerSplit::Block | LayerSplit::Module => of_names(split, layers),
            };
            for set in of_split {
                if let Some(other) = sets.iter().find(|other| other.name.eq_ignore_ascii_case(&set.name)) {
                    // layers that stand in no block are sets of their own under every split
                    if other.layers == set.layers && other.slices == set.slices {
                        continue;
                    }
                    return Err(JobError::Options {
                        problem: option_text!(
                            "two layer sets are named `{}`, and their layers are not the same",
                            set.name
                        ),
                        hint: Some("name the sets with <layer_sets> instead of <split_layers>".into()),
                    });
                }
                sets.push(set);
            }
        }
        Ok(sets)
    }

    /// The set of a part of attention.
    fn of_part(part: HeadPart) -> Self {
        let mut layers: Vec<usize> = part.slices.iter().map(|slice| slice.layer).collect();
        layers.dedup();
        Self { name: plain(&part.name), layers, slices: part.slices }
    }

    /// What scores are summed over.
    pub(in crate::job) fn part(&self) -> LayerPart<'_> {
        match self.slices.is_empty() {
            true => LayerPart::Layers(&self.layers),
            false => LayerPart::Slices(&self.slices),
        }
    }

    /// Numbers of an example's gradient that belong to it.
    pub(in crate::job) fn parameters(&self, layers: &[LayerSpec]) -> usize {
        match self.slices.is_empty() {
            true => self.layers.iter().map(|&l| layers[l].parameters()).sum(),
            false => self.slices.iter().map(|slice| slice.parameters(&layers[slice.layer])).sum(),
        }
    }

    /// The name of an answer over a set's layers; the first answer's own name is in no file's either.
    pub(in crate::job) fn answer(set: &str, of: Option<&str>) -> String {
        of.map_or_else(|| format!("layers-{set}"), |of| format!("{of}.layers-{set}"))
    }
}

/// The sets that layers' names give, each in the place of its first layer.
fn of_names(split: LayerSplit, layers: &[LayerSpec]) -> Vec<LayerSet> {
    let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    let modules: Vec<Vec<&str>> =
        layers.iter().map(|layer| layer.name.split('.').filter(|part| !is_number(part)).collect()).collect();
    // what every name begins with says nothing, but no name is to be empty
    let shortest = modules.iter().map(Vec::len).min().unwrap_or(0);
    let is_common = |place: &usize| modules.iter().all(|parts| parts[*place] == modules[0][*place]);
    let common = (0..shortest.saturating_sub(1)).take_while(is_common).count();
    let common = if modules.len() > 1 { common } else { 0 };
    let mut sets: Vec<(String, LayerSet)> = vec![];
    for (l, layer) in layers.iter().enumerate() {
        let parts: Vec<&str> = layer.name.split('.').collect();
        let name = match (split, parts.iter().position(is_number)) {
            (LayerSplit::Block, Some(first)) => parts[..=first].join("."),
            (LayerSplit::Module, Some(_)) => modules[l][common..].join("."),
            (LayerSplit::Each | LayerSplit::Head, _) | (_, None) => layer.name.clone(),
        };
        match sets.iter_mut().find(|(found, _)| *found == name) {
            Some((_, set)) => set.layers.push(l),
            None => {
                let set = LayerSet { name: plain(&name), layers: vec![l], slices: vec![] };
                sets.push((name, set));
            }
        }
    }
    sets.into_iter().map(|(_, set)| set).collect()
}

/// A name as a part of a file's name.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

/// What a person should know of sets that have layers in common, whose scores do not add up to the whole score. They are
/// computed all the same: each is right by itself.
pub(in crate::job) fn overlap_notes(job: &Job, sets: &[LayerSet], layers: &[LayerSpec]) -> Vec<String> {
    let named = &sets[..sets.len().min(job.output.layer_sets.len())];
    let common = |a: &LayerSet, b: &LayerSet| -> Vec<String> {
        a.layers.iter().filter(|l| b.layers.contains(l)).map(|&l| layers[l].name.clone()).collect()
    };
    let mut notes: Vec<String> = vec![];
    for (index, set) in named.iter().enumerate() {
        for other in &named[..index] {
            let both = common(other, set);
            if !both.is_empty() {
                notes.push(format!(
                    "the layer sets `{}` and `{}` overlap in {}: each is right by itself, but their scores do not add up",
                    other.name,
                    set.name,
                    abridged(&both)
                ));
            }
        }
    }
    const NAMED: usize = 4;
    if notes.len() > NAMED {
        let more = notes.len() - NAMED;
        notes.truncate(NAMED);
        notes.push(format!("{more} more pairs of layer sets overlap"));
    }
    let mut ways: Vec<String> = job.output.split_layers.iter().map(|split| format!("`{}`", split.name())).collect();
    if !named.is_empty() {
        ways.insert(0, "the named sets".to_owned());
    }
    // a layer in no block is one set of several ways
    let overlaps = |(index, set): (usize, &LayerSet)| sets[..index].iter().any(|other| !common(other, set).is_empty());
    if ways.len() > 1 && sets.iter().enumerate().skip(named.len()).any(overlaps) {
        notes.push(format!(
            "layers are divided in {} ways ({}): scores add up over the sets of one way, not over those of several",
            ways.len(),
            ways.join(", ")
        ));
    }
    notes
}

/// The parts of a model's attention, if the job asks for heads.
///
/// # Errors
/// If it does and the model has none, or none of its layers around attention is tracked.
pub(in crate::job) fn heads_of(job: &Job, model: &Model) -> Result<Vec<HeadPart>, JobError> {
    if !job.output.split_layers.contains(&LayerSplit::Head) {
        return Ok(vec![]);
    }
    let leave_out = || Some("leave `head` out of <split_layers>".into());
    match model.head_parts() {
        None => Err(JobError::Options {
            problem: option_text!("<split_layers = head>: a model of type `{}` has no attention heads", model.kind()),
            hint: leave_out(),
        }),
        Some(Err(layer)) => Err(JobError::Options {
            problem: option_text!(
                "<split_layers = head>: which heads the rows of `{}` belong to cannot be told, because neither the queries \
                 nor the output beside it are tracked",
                layer
            ),
            hint: Some("track these too (<layers>), or leave `head` out of <split_layers>".into()),
        }),
        Some(Ok(parts)) if parts.is_empty() => Err(JobError::Options {
            problem:
                "<split_layers = head>: no tracked layer is one of attention's own, whose rows or columns are heads"
                    .into(),
            hint: leave_out(),
        }),
        Some(Ok(parts)) => Ok(parts),
    }
}

/// Refuses names that are no part of a file's name, and sets of nothing.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    let options = |problem: String, hint: &'static str| Err(JobError::options(problem, hint));
    let sets = &job.output.layer_sets;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    for (index, (name, patterns)) in sets.iter().enumerate() {
        if name.is_empty() || !name.chars().all(is_plain) {
            let hint = "name sets with letters, digits, `-` and `_`: the names are parts of files' names";
            return options(format!("the layer set `{name}` has no plain name"), hint);
        }
        if let Some(other) = sets.keys().take(index).find(|other| other.eq_ignore_ascii_case(name)) {
            // some file systems would write one over the other
            return options(
                format!("the layer sets `{other}` and `{name}` differ in case alone"),
                "rename one: the names are parts of files' names",
            );
        }
        if patterns.0.is_empty() {
            return options(
                format!("the layer set `{name}` has no pattern"),
                "give at least one glob, or leave it out",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;
    use crate::job::request::Several;

    fn layers() -> Vec<LayerSpec> {
        let layer = |name: &str| LayerSpec {
            name: name.into(),
            outputs: 2,
            inputs: 3,
            bias: false,
            input_group: 0,
            vocabulary: None,
        };
        ["h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp"].map(layer).to_vec()
    }

    fn job(sets: &[(&str, &[&str])]) -> Job {
        let mut job = Job::new("m", "t", "r");
        let own = |patterns: &[&str]| Several(patterns.iter().map(|&pattern| pattern.to_owned()).collect());
        job.output.layer_sets = sets.iter().map(|(name, patterns)| ((*name).to_owned(), own(patterns))).collect();
        job
    }

    #[test]
    fn sets_are_the_layers_that_any_of_their_globs_matches() -> Result<(), JobError> {
        let job = job(&[("late", &["h.1.*"]), ("both", &["h.0.attn", "*.attn", "h.1.mlp"])]);
        check(&job)?;
        let found: Vec<_> =
            LayerSet::all(&job, &layers(), vec![])?.into_iter().map(|set| (set.name, set.layers)).collect();
        assert_eq!(found, [("both".to_owned(), vec![0, 2, 3]), ("late".to_owned(), vec![2, 3])]);
        Ok(())
    }

    #[test]
    fn names_of_layers_give_sets() -> Result<(), JobError> {
        let named = |names: &[&str], split: &[LayerSplit]| {
            let layer = |name: &&str| LayerSpec {
                name: (*name).into(),
                outputs: 2,
                inputs: 3,
                bias: false,
                input_group: 0,
                vocabulary: None,
            };
            let layers: Vec<LayerSpec> = names.iter().map(layer).collect();
            let mut job = job(&[]);
            job.output.split_layers = split.to_vec();
            let sets = LayerSet::all(&job, &layers, vec![])?;
            Ok::<_, JobError>(sets.into_iter().map(|set| (set.name, set.layers)).collect::<Vec<_>>())
        };
        let own = |sets: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
            sets.iter().map(|(name, layers)| ((*name).to_owned(), layers.to_vec())).collect()
        };
        let gpt2 = ["t.h.0.attn", "t.h.0.mlp", "t.h.1.attn", "t.h.1.mlp", "score"];
        assert_eq!(
            named(&gpt2, &[LayerSplit::Block])?,
            own(&[("t-h-0", &[0, 1]), ("t-h-1", &[2, 3]), ("score", &[4])])
        );
        assert_eq!(
            named(&gpt2[..4], &[LayerSplit::Module, LayerSplit::Each])?,
            own(&[
                ("attn", &[0, 2]),
                ("mlp", &[1, 3]),
                ("t-h-0-attn", &[0]),
                ("t-h-0-mlp", &[1]),
                ("t-h-1-attn", &[2]),
                ("t-h-1-mlp", &[3])
            ])
        );
        // a name of one part is a set of its own under both
        let both = [LayerSplit::Block, LayerSplit::Module];
        assert_eq!(
            named(&gpt2, &both)?,
            own(&[
                ("t-h-0", &[0, 1]),
                ("t-h-1", &[2, 3]),
                ("score", &[4]),
                ("t-h-attn", &[0, 2]),
                ("t-h-mlp", &[1, 3])
            ])
        );
        let sides = ["encoder.block.0.q", "encoder.block.1.q", "decoder.block.0.q"];
        assert_eq!(
            named(&sides, &[LayerSplit::Module])?,
            own(&[("encoder-block-q", &[0, 1]), ("decoder-block-q", &[2])])
        );
        let error = named(&["a.b", "a-b"], &[LayerSplit::Each]).expect_err("one file for two sets").to_string();
        assert_eq!(error, "two layer sets are named `a-b`, and their layers are not the same");
        Ok(())
    }

    #[test]
    fn sets_that_overlap_are_named() -> Result<(), JobError> {
        let notes = |sets: &[(&str, &[&str])], split: &[LayerSplit]| {
            let mut job = job(sets);
            job.output.split_layers = split.to_vec();
            let sets = LayerSet::all(&job, &layers(), vec![])?;
            Ok::<_, JobError>(overlap_notes(&job, &sets, &layers()))
        };
        assert_eq!(notes(&[("a", &["*.attn"]), ("b", &["*.mlp"])], &[])?, Vec::<String>::new());
        assert_eq!(notes(&[], &[LayerSplit::Block])?, Vec::<String>::new());
        assert_eq!(
            notes(&[("a", &["*.attn"]), ("b", &["*"])], &[])?,
            [
                "the layer sets `a` and `b` overlap in `h.0.attn`, `h.1.attn`: each is right by itself, but their scores do not add up"
            ]
        );
        assert_eq!(
            notes(&[("a", &["*.attn"])], &[LayerSplit::Block, LayerSplit::Module])?,
            [
                "layers are divided in 3 ways (the named sets, `block`, `module`): scores add up over the sets of one way, not over those of several"
            ]
        );
        Ok(())
    }

    #[test]
    fn what_matches_nothing_or_has_no_plain_name_is_refused() {
        let refused = |sets: &[(&str, &[&str])]| {
            let job = job(sets);
            let error = check(&job).err().or_else(|| LayerSet::all(&job, &layers(), vec![]).err()).expect("refused");
            (error.to_string(), error.hint().unwrap_or_default())
        };
        let (problem, hint) = refused(&[("late", &["h.1.*", "h.2.*"])]);
        assert_eq!(problem, "the pattern `h.2.*` of the layer set `late` matches no tracked layer");
        assert_eq!(hint, "the tracked layers are `h.0.attn`, `h.0.mlp`, `h.1.attn`, `h.1.mlp`");
        for name in ["", "a b", "a/b", "..", "größe"] {
            assert!(refused(&[(name, &["*"])]).0.contains("no plain name"), "{name}");
        }
        assert!(refused(&[("Late", &["*"]), ("late", &["*"])]).0.contains("differ in case alone"));
        assert!(refused(&[("late", &[])]).0.contains("no pattern"));
        assert!(refused(&[("late", &["h.[1"])]).0.contains("h.[1"));
    }
}
