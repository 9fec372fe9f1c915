//! Low-rank adapters of PEFT (LoRA, Hu et al. 2022; DoRA, Liu et al. 2024) over a frozen base model.
//!
//! A module of the base computes `y = W x + b`; with an adapter it computes `y = W x + b + s · B (A x)`, and with DoRA
//! `y = m ∘ (W x + s · B (A x)) / ‖W + s B A‖ + b`, the norm taken of each row and constant in the gradient. The folder
//! of an adapter holds `adapter_config.json` and `adapter_model.safetensors`; the base is a checkpoint folder of its
//! own.

pub(crate) mod config;
pub(crate) mod folder;
pub(super) mod mode;
pub(crate) mod module;
pub(super) mod overlay;
pub(super) mod padding;
pub(crate) mod parts;
mod targets;
