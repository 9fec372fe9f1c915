//! Which parameter an index of an optimizer's state means.
//!
//! The Trainer puts the parameters that decay into group 0 and the others into group 1, each in the order of
//! `named_parameters()`, and numbers them through. Which ones decay changed between versions of transformers and
//! depends on the classes of modules, which a checkpoint does not record. So every known rule is tried, and the
//! group sizes and the shapes of the state decide; two rules that fit with different names are refused.
//!
//! # Source
//! FORMATS §5.

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
    /// Those of `nn.LayerNorm`: a vector beside a bias of the same size.
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
}

impl std::fmt::Display for GroupRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OneGroup => f.write_str("one group in the model's order"),
            Self::Decay { rule } => write!(f, "decay groups of {rule}"),
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
/// `sizes` are the group sizes; `shape(i)` is the shape of entry `i`'s state, `None` when it has no state yet.
pub(super) fn match_groups(
    parameters: &[Parameter],
    sizes: &[usize],
    shape: impl Fn(usize) -> Option<Vec<usize>>,
    version: Option<TransformersVersion>,
) -> Result<(Vec<usize>, GroupRule), Unmatched> {
    let fits = |order: &[usize]| {
        order.iter().enumerate().all(|(i, &p)| shape(i).is_none_or(|shape| shape == parameters[p].shape))
    };
    if let &[size] = sizes {
        let order: Vec<usize> = (0..parameters.len()).collect();
        return if size == parameters.len() && fits(&order) {
            Ok((order, GroupRule::OneGroup))
        } else {
            Err(Unmatched::None { tried: vec![vec![parameters.len()]] })
        };
    }
    let mut found: Option<(Vec<usize>, GroupRule)> = None;
    let mut tried = Vec::new();
    for (names, norms, rule) in rules(version) {
        let (decayed, others): (Vec<usize>, Vec<usize>) =
            (0..parameters.len()).partition(|&i| !exempt(parameters, i, names, norms));
        let own_sizes = vec![decayed.len(), others.len()];
        let order: Vec<usize> = decayed.into_iter().chain(others).collect();
        if own_sizes == sizes && fits(&order) {
            match &found {
                None => found = Some((order, GroupRule::Decay { rule })),
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
    found.ok_or(Unmatched::None { tried })
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

    /// FORMATS §5, table: one model under the rules of three ages.
    #[test]
    fn group_sizes_tell_the_rule() {
        let p = qwen();
        let shapes = |_: usize| None;
        for (sizes, expected) in [
            ([2, 4], ["embed_tokens", "q_proj", "q_proj", "q_norm", "input_layernorm", "norm"]),
            ([4, 2], ["embed_tokens", "q_proj", "q_norm", "norm", "q_proj", "input_layernorm"]),
            ([5, 1], ["embed_tokens", "q_proj", "q_norm", "input_layernorm", "norm", "q_proj"]),
        ] {
            let (order, _) = match_groups(&p, &sizes, shapes, None).unwrap();
            assert_eq!(names(&p, &order), expected, "{sizes:?}");
        }
        let error = match_groups(&p, &[3, 3], shapes, None).unwrap_err();
        let Unmatched::None { tried } = error else { panic!("{error:?}") };
        assert_eq!(tried, [vec![2, 4], vec![4, 2], vec![5, 1]]);
    }

    #[test]
    fn shapes_must_fit_as_well() {
        let p = qwen();
        let right = |i: usize| Some([vec![7, 4], vec![4, 4], vec![4], vec![4], vec![4], vec![4]][i].clone());
        assert!(match_groups(&p, &[2, 4], right, None).is_ok());
        let wrong = |i: usize| Some(if i == 0 { vec![4, 7] } else { right(i).unwrap() });
        assert!(match_groups(&p, &[2, 4], wrong, None).is_err());
        assert!(match_groups(&p, &[6], |_| None, None).is_ok());
        assert!(match_groups(&p, &[5], |_| None, None).is_err());
        assert!(match_groups(&p, &[2, 2, 2], |_| None, None).is_err());
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
        let error = match_groups(&p, &[2, 2], |_| None, None).unwrap_err();
        assert!(matches!(error, Unmatched::Ambiguous { index: 1, .. }), "{error:?}");
    }
}
