//! How an adapter's file names its tensors.

/// What stands in front of a module's name in an adapter's file.
pub(crate) const PREFIX: &str = "base_model.model.";

/// What stands between a copied module and its parts in memory.
const COPIES: &str = ".modules_to_save.";

/// Endings of the names of an adapter's tensors behind a module's name.
const PARTS: [&str; 8] = [
    "lora_A.weight",
    "lora_B.weight",
    "lora_B.bias",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "lora_magnitude_vector.weight",
    "token_adapter.trainable_tokens_delta",
];

/// A tensor's module and part, if it is part of an adapter.
pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    PARTS.iter().find_map(|part| Some((name.strip_suffix(part)?.strip_suffix('.')?, *part)))
}

/// The base's name for a tensor of an adapter's file that stands in the place of the base's, [`PREFIX`] removed; none for a
/// tensor of a module as it was before PEFT copied it, which no forward pass reads and `bias = all` saves all the same.
///
/// In memory PEFT puts `modules_to_save` and the adapter's name between a copied module and its parts. Older files keep
/// both, and with `bias = all` files have the biases under that name and the short one.
pub(crate) fn in_base(name: &str) -> Option<String> {
    if name.contains(".original_module.") {
        return None;
    }
    let name = name.replace(".base_layer.", ".");
    let Some((module, part)) = name.split_once(COPIES) else { return Some(name) };
    Some(format!("{module}.{}", part.strip_prefix("default.").unwrap_or(part)))
}

/// The other name of the bias of a decoder that is tied to the embedding: of `lm_head.decoder.bias` `lm_head.bias`. With
/// `bias = all` PEFT saves both, of which a base's file holds the second; where they differ, the decoder's counts, which
/// PEFT loads last.
pub(crate) fn other_name_of_a_tied_bias(name: &str) -> Option<String> {
    name.strip_suffix(".decoder.bias").map(|head| format!("{head}.bias"))
}

/// Whether a tensor has the name that a copied module's has in memory.
pub(crate) fn is_named_as_in_memory(name: &str) -> bool {
    name.contains(COPIES)
}

/// A tensor's module and the number of its part in the order in which PEFT registers the parts.
pub(crate) fn parts(name: &str) -> Option<(&str, usize)> {
    let (module, part) = split(name)?;
    PARTS.iter().position(|one| *one == part).map(|number| (module, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_modules_parts_have_the_bases_names() {
        let names = [
            ("classifier.dense.bias", Some("classifier.dense.bias")),
            ("classifier.modules_to_save.default.dense.bias", Some("classifier.dense.bias")),
            ("classifier.modules_to_save.dense.bias", Some("classifier.dense.bias")),
            ("classifier.original_module.dense.bias", None),
            ("layer.0.key.base_layer.bias", Some("layer.0.key.bias")),
        ];
        for (name, own) in names {
            assert_eq!(in_base(name).as_deref(), own, "{name}");
        }
    }
}
