//! Llama's relatives: decoders that differ from it in where norms stand, which positions a layer sees, and other
//! details that [`Family`] lists. One figure serves all of them; each family's file reads its configuration.

pub(super) mod gemma;
pub(super) mod gemma2;
pub(super) mod gemma3;
pub(super) mod mistral;
pub(super) mod mixtral;
pub(super) mod olmo;
pub(super) mod olmo2;
pub(super) mod olmo3;
pub(super) mod olmoe;
pub(super) mod phi3;
pub(super) mod qwen2;
pub(super) mod qwen2_moe;
pub(super) mod qwen3;
pub(super) mod qwen3_moe;
pub(super) mod smollm3;

mod experts;
mod family;
mod figure;
mod mlp;
mod sparse_mlp;
mod stored;
