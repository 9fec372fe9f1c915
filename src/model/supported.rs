//! The architectures that are supported: each by the description in its own file.

use super::architecture::Architecture;
use super::bert;
use super::cnn;
use super::config::Config;
use super::distilbert;
use super::error::LoadError;
use super::gpt_neox;
use super::gpt2;
use super::gptj;
use super::llama;
use super::mlp;
use super::modernbert;
use super::opt;
use super::relatives;
use super::resnet;
use super::roberta;
use super::t5;
use super::vit;

/// The architectures that are supported.
const ARCHITECTURES: &[&Architecture] = &[
    &gpt2::ARCHITECTURE,
    &gpt_neox::ARCHITECTURE,
    &gptj::ARCHITECTURE,
    &opt::ARCHITECTURE,
    &llama::ARCHITECTURE,
    &relatives::qwen2::ARCHITECTURE,
    &relatives::qwen3::ARCHITECTURE,
    &relatives::mistral::ARCHITECTURE,
    &relatives::gemma::ARCHITECTURE,
    &relatives::gemma2::ARCHITECTURE,
    &relatives::gemma3::TEXT,
    &relatives::gemma3::WITH_IMAGES,
    &relatives::phi3::ARCHITECTURE,
    &relatives::olmo::ARCHITECTURE,
    &relatives::olmo2::ARCHITECTURE,
    &relatives::olmo3::ARCHITECTURE,
    &relatives::smollm3::ARCHITECTURE,
    &relatives::mixtral::ARCHITECTURE,
    &relatives::qwen2_moe::ARCHITECTURE,
    &relatives::qwen3_moe::ARCHITECTURE,
    &relatives::olmoe::ARCHITECTURE,
    &bert::ARCHITECTURE,
    &distilbert::ARCHITECTURE,
    &roberta::ARCHITECTURE,
    &roberta::XLM,
    &modernbert::ARCHITECTURE,
    &t5::ARCHITECTURE,
    &t5::MULTILINGUAL,
    &vit::ARCHITECTURE,
    &resnet::ARCHITECTURE,
    &cnn::ARCHITECTURE,
    &mlp::ARCHITECTURE,
];

/// Values of `model_type` that are supported.
pub fn supported() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.model_type)
}

/// The architecture that a configuration names.
///
/// # Errors
/// [`LoadError::UnsupportedModel`] if it names none of ours; [`LoadError::Config`] if it names none.
pub(crate) fn architecture_of(config: &Config) -> Result<&'static Architecture, LoadError> {
    let kind = config.text("model_type", "")?;
    match ARCHITECTURES.iter().find(|architecture| architecture.model_type == kind) {
        Some(architecture) => Ok(architecture),
        None if kind.is_empty() => Err(config.problem("no key `model_type`")),
        None => Err(LoadError::UnsupportedModel {
            file: config.file().to_owned(),
            found: kind.to_owned(),
            supported: supported().collect(),
        }),
    }
}
