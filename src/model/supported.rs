//! The architectures that are supported: each by the description in its own file.

use super::architecture::Architecture;
use super::bert;
use super::cnn;
use super::config::Config;
use super::deberta;
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
use super::unsupported;
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
    &deberta::ARCHITECTURE,
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

/// The architecture that a configuration names, which from now on has the class's numbers for keys that it leaves out.
///
/// # Errors
/// [`LoadError::UnsupportedModel`] if it names none of ours; [`LoadError::Config`] if it names none.
pub(crate) fn architecture_of(config: &Config) -> Result<&'static Architecture, LoadError> {
    let kind = config.text("model_type", "")?;
    match ARCHITECTURES.iter().find(|architecture| architecture.model_type == kind) {
        Some(architecture) => {
            config.complete(architecture.class_numbers);
            Ok(architecture)
        }
        None if kind.is_empty() => Err(config.problem("no key `model_type`")),
        None => Err(LoadError::UnsupportedModel {
            file: config.file().to_owned(),
            found: kind.to_owned(),
            reason: unsupported::reason(kind, config.keys()),
            instead: unsupported::instead(kind, config.keys()),
            supported: supported().collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::model::body::Loaded;
    use crate::model::checkpoint::Checkpoint;
    use crate::model::load_options::LoadOptions;
    use crate::model::weights::Weights;

    /// What transformers saves of a configuration of each class of which no key was set.
    fn recorded() -> Map<String, Value> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/class_defaults.json");
        let Value::Object(all) = serde_json::from_slice(&std::fs::read(file).expect("readable")).expect("JSON") else {
            panic!("an object");
        };
        all
    }

    /// What becomes of a configuration beside weights that hold nothing of it.
    fn loaded(keys: &Value) -> (Config, &'static Architecture, Arc<Weights>, LoadError) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), keys.to_string()).expect("writable");
        let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).expect("a tensor");
        let bytes = safetensors::serialize([("of_no_model", tensor)], None).expect("sound");
        std::fs::write(folder.path().join("model.safetensors"), bytes).expect("writable");
        let config = Config::read(folder.path()).expect("a configuration");
        let architecture = architecture_of(&config).expect("supported");
        let weights = Arc::new(Weights::plain(&Arc::new(Checkpoint::open(folder.path()).expect("weights"))));
        architecture.check(&config, &weights).expect("the class itself");
        let loaded: Result<Loaded, LoadError> = (architecture.load)(&config, &weights, &LoadOptions::default());
        let error = loaded.map(|_| ()).expect_err("no weights");
        (config, architecture, weights, error)
    }

    #[test]
    fn numbers_of_classes_are_those_of_transformers() {
        let recorded = recorded();
        for architecture in ARCHITECTURES.iter().filter(|architecture| !architecture.classes.is_empty()) {
            let own = &recorded[architecture.model_type];
            let own = own.get("text_config").unwrap_or(own);
            for (key, number) in architecture.class_numbers {
                let found = own.get(key).or_else(|| own.get("num_local_experts").filter(|_| *key == "num_experts"));
                assert_eq!(found, Some(&json!(number)), "{} {key}", architecture.model_type);
            }
            // a token that is never padding is no number
            let padding = architecture.class_numbers.iter().any(|(key, _)| *key == "pad_token_id");
            let decoder = architecture.class_of_texts().is_some() && architecture.parameters.names().is_some();
            let is_encoder = architecture.classes[0].ends_with("ForSequenceClassification");
            if decoder && !is_encoder {
                let usual = own.get("pad_token_id").is_some_and(|id| !id.is_null());
                assert_eq!(padding, usual, "{}", architecture.model_type);
            }
        }
    }

    /// Every key that a class has a default for may be missing, and what it saves of a configuration without a change is
    /// read whole.
    #[test]
    fn configurations_without_a_key_and_with_all_keys_get_as_far_as_the_weights() {
        for (kind, saved) in recorded() {
            let (config, .., error) = loaded(&json!({ "model_type": kind }));
            let is_about_weights = matches!(error, LoadError::MissingTensor { .. } | LoadError::NoHead { .. });
            // an encoder-decoder's first token is of no class
            let starts = kind.ends_with("t5") && error.to_string().contains("decoder_start_token_id");
            assert!(is_about_weights || starts, "{kind}: {error}");
            if !config.taken_of_class().is_empty() {
                let notes = config.take_notes().join("\n");
                assert!(notes.contains("keys that `config.json` leaves out are the class's"), "{kind}: {notes}");
            }
            let (config, architecture, weights, error) = loaded(&saved);
            let is_about_weights = matches!(error, LoadError::MissingTensor { .. } | LoadError::NoHead { .. });
            assert!(is_about_weights || starts, "{kind}: {error}");
            assert_eq!(config.taken_of_class(), [""; 0], "{kind}");
            let notes = architecture.notes(&config, &weights).join("\n");
            assert!(!notes.contains("are not known"), "{kind}: {notes}");
        }
    }
}
