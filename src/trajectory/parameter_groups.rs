//! Which parameter an index of an optimizer's state means.
//!
//! The Trainer puts the parameters that decay into group 0 and the others into group 1, each in the order of
//! `named_parameters()`, and numbers them through. Which ones decay changed between versions of transformers and
//! depends on the classes of modules, which a checkpoint does not record. So every known rule is tried, and the
//! group sizes and the shapes of the state decide; two rules that fit with different names are refused. Parameters
//! that were frozen when the optimizer was made are not in its groups; what may have been frozen is a guess of
//! [`FrozenParameters`](super::FrozenParameters), and every such guess is tried as well.
//!
//! # Source
//! transformers' `Trainer.get_decay_parameter_names`, whose rule changed between releases.

use std::collections::BTreeSet;

use super::version::TransformersVersion;

/// A trainable parameter of the model, in torch's layout (GPT-2's `Conv1D` weights are `[in, out]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in `named_parameters()`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Names that are not decayed, besides those in norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Up to 4.48: `bias`.
    Bias,
    /// 4.49 to 4.52: also `layernorm`, `rmsnorm`.
    NormWords,
    /// From 4.53: also a part of the path that is `norm` or ends in `_norm`.
    NormParts,
}

/// Weights that are not decayed because of their module's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Norms {
    /// Weights of `nn.LayerNorm`: a vector beside a bias of the same size.
    WithBias,
    /// All vectors: a model whose RMSNorm registered itself as a layer norm.
    All,
    /// None: norms that are not `nn.LayerNorm` although they have a bias.
    None,
}

/// How indices were mapped to names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRule {
    /// One group: the order of the model.
    OneGroup,
    /// Two groups by the decay rule of these versions.
    Decay {
        /// The rule in words.
        rule: &'static str,
    },
    /// Parts of the model one after the other, a group for each.
    Parts,
    /// Parts of the model one after the other, each in two groups by the decay rule of these versions.
    DecayInParts {
        /// The rule in words.
        rule: &'static str,
    },
    /// The file has the names.
    Named,
}

/// Who made the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MadeBy {
    /// The Trainer: by decay, with one rate.
    Trainer,
    /// A person: parts of the model may have groups of their own.
    Hand,
}

impl std::fmt::Display for GroupRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OneGroup => f.write_str("one group in the model's order"),
            Self::Decay { rule } => write!(f, "decay groups of {rule}"),
            Self::Parts => f.write_str("parts of the model in its order"),
            Self::DecayInParts { rule } => write!(f, "parts of the model, each in decay groups of {rule}"),
            Self::Named => f.write_str("the names in the file"),
        }
    }
}

/// Why no mapping, or no single one, was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unmatched {
    /// No rule fits; sizes that the rules give.
    None { tried: Vec<Vec<usize>> },
    /// Two rules fit with different names; the first that differs.
    Ambiguous { index: usize, first: String, second: String },
}

/// The parameters' indices in the order in which the optimizer numbers them.
///
/// `sizes` are the group sizes; `shape(i)` is the shape of entry `i`'s state, `None` when it has no state yet;
/// `frozen` are sets of parameters, by index, that the optimizer may have been made without; `made_by` says which
/// layouts are thought of.
pub(super) fn match_groups(
    parameters: &[Parameter],
    sizes: &[usize],
    shape: impl Fn(usize) -> Option<Vec<usize>>,
    version: Option<TransformersVersion>,
    frozen: &[BTreeSet<usize>],
    made_by: MadeBy,
) -> Result<(Vec<usize>, GroupRule), Unmatched> {
    let fits = |order: &[usize]| {
        order.iter().enumerate().all(|(i, &p)| shape(i).is_none_or(|shape| shape == parameters[p].shape))
    };
    let mut found: Option<(Vec<usize>, GroupRule)> = None;
    let mut tried = Vec::new();
    let nothing = BTreeSet::new();
    for frozen in std::iter::once(&nothing).chain(frozen) {
        let kept: Vec<usize> = (0..parameters.len()).filter(|p| !frozen.contains(p)).collect();
        for (groups, rule) in layouts(parameters, &kept, sizes, version, made_by) {
            let own_sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
            let order = groups.concat();
            if own_sizes == sizes && fits(&order) {
                match &found {
                    None => found = Some((order, rule)),
                    Some((earlier, _)) => {
                        if let Some(index) = (0..order.len()).find(|&i| order[i] != earlier[i]) {
                            return Err(Unmatched::Ambiguous {
                                index,
                                first: parameters[earlier[index]].name.clone(),
                                second: parameters[order[index]].name.clone(),
                            });
                        }
                    }
                }
            }
            if !tried.contains(&own_sizes) {
                tried.push(own_sizes);
            }
        }
    }
    found.ok_or(Unmatched::None { tried })
}

/// Every way in which `kept` parameters may lie in groups of about these sizes.
fn layouts(
    parameters: &[Parameter],
    kept: &[usize],
    sizes: &[usize],
    version: Option<TransformersVersion>,
    made_by: MadeBy,
) -> Vec<(Vec<Vec<usize>>, GroupRule)> {
    if sizes.len() == 1 {
        return vec![(vec![kept.to_vec()], GroupRule::OneGroup)];
    }
    let by_decay = |part: &[usize], names, norms| -> [Vec<usize>; 2] {
        let (decayed, others) = part.iter().partition(|&&p| !exempt(parameters, p, names, norms));
        [decayed, others]
    };
    let rules = rules(version);
    let mut found: Vec<_> = rules
        .iter()
        .map(|&(names, norms, rule)| (by_decay(kept, names, norms).into(), GroupRule::Decay { rule }))
        .collect();
    if made_by == MadeBy::Trainer || sizes.iter().sum::<usize>() != kept.len() {
        return found;
    }
    // the model's parts may be given from its first to its last, or the other way round
    for order in [Order::Forward, Order::Backward] {
        found.push((cut(kept, sizes, order), GroupRule::Parts));
        if sizes.len() >= 4 && sizes.len().is_multiple_of(2) {
            let pairs: Vec<usize> = sizes.chunks(2).map(|pair| pair.iter().sum()).collect();
            let parts = cut(kept, &pairs, order);
            for &(names, norms, rule) in &rules {
                let groups = parts.iter().flat_map(|part| by_decay(part, names, norms)).collect();
                found.push((groups, GroupRule::DecayInParts { rule }));
            }
        }
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Forward,
    Backward,
}

/// `kept` in parts of these sizes, which sum to its length; backward, the first part is the last of the model.
fn cut(kept: &[usize], sizes: &[usize], order: Order) -> Vec<Vec<usize>> {
    let mut rest = kept;
    let part = |&size: &usize| {
        let (part, others) = match order {
            Order::Forward => rest.split_at(size),
            Order::Backward => {
                let (others, part) = rest.split_at(rest.len() - size);
                (part, others)
            }
        };
        rest = others;
        part.to_vec()
    };
    sizes.iter().map(part).collect()
}

/// All rules, those of the recorded version first, so that it is named when several agree.
fn rules(version: Option<TransformersVersion>) -> Vec<(Names, Norms, &'static str)> {
    let mut rules = vec![
        (Names::NormParts, Norms::WithBias, "transformers 4.53 and later"),
        (Names::NormWords, Norms::WithBias, "transformers 4.49 to 4.52"),
        (Names::NormWords, Norms::All, "transformers 4.49 to 4.52 with registered norms"),
        (Names::Bias, Norms::All, "transformers up to 4.48 with registered norms"),
        (Names::Bias, Norms::WithBias, "transformers up to 4.48"),
        (Names::NormParts, Norms::All, "all norms exempt"),
        (Names::NormParts, Norms::None, "transformers 4.53 and later with other norms"),
        (Names::NormWords, Norms::None, "transformers 4.49 to 4.52 with other norms"),
        (Names::Bias, Norms::None, "biases alone exempt"),
    ];
    if let Some(version) = version {
        let recorded = match version {
            v if v >= TransformersVersion::new(4, 53) => Names::NormParts,
            v if v >= TransformersVersion::new(4, 49) => Names::NormWords,
            _ => Names::Bias,
        };
        rules.sort_by_key(|&(names, _, _)| names != recorded); // stable
    }
    rules
}

fn exempt(parameters: &[Parameter], index: usize, names: Names, norms: Norms) -> bool {
    let Parameter { name, shape } = &parameters[index];
    let lower = name.to_lowercase();
    let words = lower.contains("layernorm") || lower.contains("rmsnorm");
    let parts = lower.split('.').any(|part| part == "norm" || part.ends_with("_norm"));
    let by_name = lower.contains("bias")
        || match names {
            Names::Bias => false,
            Names::NormWords => words,
            Names::NormParts => words || parts,
        };
    let vector = shape.len() == 1;
    let by_class = match norms {
        Norms::None => false,
        Norms::All => vector,
        Norms::WithBias => {
            vector
                && name.strip_suffix("weight").is_some_and(|module| {
                    let bias = format!("{module}bias");
                    parameters.iter().any(|other| other.name == bias && other.shape == *shape)
                })
        }
    };
    by_name || by_class
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(list: &[(&str, &[usize])]) -> Vec<Parameter> {
        list.iter().map(|&(name, shape)| Parameter { name: name.to_string(), shape: shape.to_vec() }).collect()
    }

    fn qwen() -> Vec<Parameter> {
        parameters(&[
            ("model.embed_tokens.weight", &[7, 4]),
            ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
            ("model.layers.0.self_attn.q_proj.bias", &[4]),
            ("model.layers.0.self_attn.q_norm.weight", &[4]),
            ("model.layers.0.input_layernorm.weight", &[4]),
            ("model.norm.weight", &[4]),
        ])
    }

    fn names(parameters: &[Parameter], order: &[usize]) -> Vec<String> {
        order.iter().map(|&i| parameters[i].name.rsplit('.').nth(1).unwrap().to_string()).collect()
    }

    /// One model under the rules of three ages.
    #[test]
    fn group_sizes_tell_the_rule() {
        let p = qwen();
        let shapes = |_: usize| None;
        for (sizes, expected) in [
            ([2, 4], ["embed_tokens", "q_proj", "q_proj", "q_norm", "input_layernorm", "norm"]),
            ([4, 2], ["embed_tokens", "q_proj", "q_norm", "norm", "q_proj", "input_layernorm"]),
            ([5, 1], ["embed_tokens", "q_proj", "q_norm", "input_layernorm", "norm", "q_proj"]),
        ] {
            let (order, _) = match_groups(&p, &sizes, shapes, None, &[], MadeBy::Trainer).unwrap();
            assert_eq!(names(&p, &order), expected, "{sizes:?}");
        }
        let error = match_groups(&p, &[3, 3], shapes, None, &[], MadeBy::Trainer).unwrap_err();
        let Unmatched::None { tried } = error else { panic!("{error:?}") };
        assert_eq!(tried, [vec![2, 4], vec![4, 2], vec![5, 1]]);
    }

    #[test]
    fn shapes_must_fit_as_well() {
        let p = qwen();
        let right = |i: usize| Some([vec![7, 4], vec![4, 4], vec![4], vec![4], vec![4], vec![4]][i].clone());
        assert!(match_groups(&p, &[2, 4], right, None, &[], MadeBy::Trainer).is_ok());
        let wrong = |i: usize| Some(if i == 0 { vec![4, 7] } else { right(i).unwrap() });
        assert!(match_groups(&p, &[2, 4], wrong, None, &[], MadeBy::Trainer).is_err());
        assert!(match_groups(&p, &[6], |_| None, None, &[], MadeBy::Trainer).is_ok());
        assert!(match_groups(&p, &[5], |_| None, None, &[], MadeBy::Trainer).is_err());
        assert!(match_groups(&p, &[2, 2, 2], |_| None, None, &[], MadeBy::Trainer).is_err());
    }

    /// A body and a head with rates of their own, each with and without decay; given in either order.
    #[test]
    fn parts_with_groups_of_their_own() {
        let p = qwen();
        let shape = |order: [usize; 6]| move |i: usize| Some(qwen()[order[i]].shape.clone());
        let sizes = [2, 3, 1]; // two parameters, three, one
        let (order, rule) = match_groups(&p, &sizes, shape([0, 1, 2, 3, 4, 5]), None, &[], MadeBy::Hand).unwrap();
        assert_eq!((order, rule), (vec![0, 1, 2, 3, 4, 5], GroupRule::Parts));
        let backward = [5, 2, 3, 4, 0, 1];
        let (order, _) = match_groups(&p, &[1, 3, 2], shape(backward), None, &[], MadeBy::Hand).unwrap();
        assert_eq!(order, backward);
        assert!(match_groups(&p, &sizes, shape([0, 1, 2, 3, 4, 5]), None, &[], MadeBy::Trainer).is_err());
        // the embedding and the projection, then the norms: each by the rule of 4.48
        let p = parameters(&[("a.weight", &[3, 5]), ("a.bias", &[3]), ("b.weight", &[2, 3]), ("b.bias", &[2])]);
        let shape = |i: usize| Some(vec![vec![2, 3], vec![2], vec![3, 5], vec![3]][i].clone());
        let (order, rule) = match_groups(&p, &[1, 1, 1, 1], shape, None, &[], MadeBy::Hand).unwrap();
        assert_eq!(order, [2, 3, 0, 1]);
        assert!(matches!(rule, GroupRule::DecayInParts { .. }));
        // no shapes: weights and biases, or one layer and the other
        let error = match_groups(&p, &[2, 2], |_| None, None, &[], MadeBy::Hand).unwrap_err();
        assert!(matches!(error, Unmatched::Ambiguous { .. }), "{error:?}");
    }

    /// Two rules give groups of the same sizes with different names: a path `norm` without bias, exempt since 4.53,
    /// and a vector with a bias that is exempt as a layer norm.
    #[test]
    fn ambiguity_is_refused() {
        let p = parameters(&[
            ("a.weight", &[3, 5]),
            ("rms.norm.scale", &[3]),
            ("scale.weight", &[3]),
            ("scale.bias", &[3]),
        ]);
        // Norm parts without classes: {bias, rms.norm}; bias with classes: {bias, scale.weight}.
        let error = match_groups(&p, &[2, 2], |_| None, None, &[], MadeBy::Trainer).unwrap_err();
        assert!(matches!(error, Unmatched::Ambiguous { index: 1, .. }), "{error:?}");
    }
}
