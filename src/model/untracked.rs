//! Parameters of a model that are in no score: what its tensors hold beyond its tracked layers.

use std::collections::BTreeMap;

use super::weights::Weights;

/// Parameters that no score takes into account, though training may have changed them: tensors of one kind together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Untracked {
    /// The tensors' name, with `*` for numbers in it.
    pub name: String,
    /// How many numbers they hold together.
    pub parameters: u64,
}

/// What a model reads beyond its tracked layers, in the order of names.
pub(super) fn untracked(weights: &Weights) -> Vec<Untracked> {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (tensor, tracked) in weights.asked() {
        let Ok(shape) = weights.shape(&tensor) else { continue };
        let all: u64 = shape.iter().map(|&n| n as u64).product();
        if tracked < all {
            let module = tensor.strip_suffix(".weight").or(tensor.strip_suffix(".bias")).unwrap_or(&tensor);
            let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let parts: Vec<&str> = module.split('.').map(|part| if is_number(part) { "*" } else { part }).collect();
            *kinds.entry(parts.join(".")).or_default() += all - tracked;
        }
    }
    kinds.into_iter().map(|(name, parameters)| Untracked { name, parameters }).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::{LayerSelection, LoadOptions, Model};
    use crate::curvature::Network;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
    }

    /// Parameters of tracked layers and of the rest, and the names of the rest.
    fn counts(folder: &Path, selection: LayerSelection) -> (u64, u64, Vec<String>) {
        let model = Model::load(folder, &LoadOptions { selection, ..LoadOptions::default() }).expect("a fixture");
        let tracked = model.layers().iter().map(|layer| layer.parameters() as u64).sum();
        let rest = model.untracked().iter().map(|kind| kind.parameters).sum();
        (tracked, rest, model.untracked().iter().map(|kind| kind.name.clone()).collect())
    }

    /// Every number of a checkpoint's file is in a tracked layer or named, whatever the family.
    #[test]
    fn tracked_and_untracked_parameters_are_all_there_are() {
        let mut seen = 0;
        for kind in ["families", "classifiers"] {
            for entry in std::fs::read_dir(fixtures().join(kind)).expect("a folder") {
                let folder = entry.expect("an entry").path();
                if !folder.join("model.safetensors").is_file() {
                    continue;
                }
                let file = std::fs::read(folder.join("model.safetensors")).expect("readable");
                let tensors = safetensors::SafeTensors::deserialize(&file).expect("sound");
                let all: usize = tensors.iter().map(|(_, tensor)| tensor.shape().iter().product::<usize>()).sum();
                let (tracked, rest, names) = counts(&folder, LayerSelection::default());
                assert_eq!(tracked + rest, all as u64, "{}: {names:?}", folder.display());
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} checkpoints");
    }

    #[test]
    fn what_is_not_tracked_is_named_by_kind() {
        let (_, _, names) = counts(&fixtures().join("gpt2-tiny"), LayerSelection::default());
        let expected =
            ["transformer.h.*.ln_1", "transformer.h.*.ln_2", "transformer.ln_f", "transformer.wpe", "transformer.wte"];
        assert_eq!(names, expected);
        let only = LayerSelection::new(&["*.mlp.c_fc".to_owned()], &[]).expect("a pattern");
        let (_, _, names) = counts(&fixtures().join("gpt2-tiny"), only);
        assert!(names.contains(&"transformer.h.*.attn.c_attn".to_owned()), "{names:?}");
        assert!(!names.contains(&"transformer.h.*.mlp.c_fc".to_owned()), "{names:?}");
    }
}
