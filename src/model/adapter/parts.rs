//! How an adapter's file names its tensors.

/// What stands in front of a module's name in an adapter's file.
pub(crate) const PREFIX: &str = "base_model.model.";

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

/// A tensor's module and the number of its part in the order in which PEFT registers the parts.
pub(crate) fn parts(name: &str) -> Option<(&str, usize)> {
    let (module, part) = split(name)?;
    PARTS.iter().position(|one| *one == part).map(|number| (module, number))
}
