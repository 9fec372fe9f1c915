//! Chat templates that TRL's trainer replaces by one of its own when it trains on the assistant's turns.
//!
//! # Source
//! `get_training_chat_template` of TRL 1.16, whose templates are the files `trl/chat_templates/FAMILY_training.jinja` of
//! the installed package. `fixtures/generators/training_templates.py` makes the table.

/// The first digits of the BLAKE3 hash of a template's text, and the family whose template of training TRL takes for it.
const REPLACED: [(&str, &str); 31] = [
    ("da282eceda25776d", "cohere2"),
    ("4398584b8aa994fa", "cohere"),
    ("baf55844da8a5290", "deepseek_r1_distill"),
    ("3c440194d48f092f", "deepseekv3"),
    ("bdb6a359651201c3", "diffusion_gemma"),
    ("4df92a35314def74", "gemma3"),
    ("1cd7ee5adc5cdd75", "gemma"),
    ("105a766c97e7a34e", "glm4moe"),
    ("ac91ce5e1082099a", "gptoss"),
    ("79f6d2d169e63bc4", "idefics3"),
    ("4757a6eb9737ab73", "lfm2"),
    ("3ce46ed6492a9819", "lfm2_v2"),
    ("ab16d5a143b58283", "llama3"),
    ("03a05430877106aa", "llava_next"),
    ("3ae1e53a346d9c79", "muse_glimmer"),
    ("d231496de48a7c43", "nemotron_3_5_lightning"),
    ("b46934c533f1f1f8", "nemotron_3_nano"),
    ("a26049ffb4e6e7aa", "nemotron_3_super"),
    ("2124b4857499cbd5", "nemotron_3_ultra"),
    ("82d31a29f803a56b", "phi3_5"),
    ("37f0f61ca2aa971c", "phi3"),
    ("72e8302eb275e75b", "qwen2_5"),
    ("879724dc37bf470a", "qwen2_5_vl"),
    ("4e9f4f38c8c86b4b", "qwen3_5_nothink"),
    ("d2213e034059f156", "qwen3_5_think"),
    ("7ccfac375b7121ad", "qwen3_6"),
    ("2c33f8cdef566b38", "qwen3_8"),
    ("a3ad6cbfc9563934", "qwen3_instruct_2507"),
    ("72a1a5e64f5ff443", "qwen3"),
    ("3191378e99ab34d6", "qwen3_vl"),
    ("d979817a830dc780", "smolvlm"),
];

/// The family of a template that TRL replaces, if it does.
pub(super) fn family(template: &str) -> Option<&'static str> {
    let hash = blake3::hash(template.as_bytes()).to_hex();
    REPLACED.iter().find(|(digits, _)| hash.starts_with(digits)).map(|&(_, family)| family)
}
