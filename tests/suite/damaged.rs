//! Checkpoints and adapters of every family with a tensor that is missing, misshapen or too much, and with a key that is not
//! known: each is refused by the tensor's name or named in a note, and nothing is run without it in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::editable::Editable;
use crate::support::fixture;
use ascribe::model::{LoadError, LoadOptions, Model, Residence};
use candle_core::DType;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Weights stay on disk: names, shapes and types are all that matter.
fn options(base: Option<PathBuf>) -> LoadOptions {
    LoadOptions { dtype: DType::F64, residence: Residence::BySection, base, ..LoadOptions::default() }
}

/// Folders of `fixtures/` with a checkpoint of every family.
fn checkpoints() -> Vec<String> {
    let mut all = vec!["gpt2-tiny".to_owned(), "llama-tiny".to_owned()];
    for set in ["families", "classifiers", "images"] {
        let folders = std::fs::read_dir(fixture(set)).expect("readable");
        let names = folders.map(|folder| folder.expect("readable").file_name().to_string_lossy().into_owned());
        all.extend(names.map(|name| format!("{set}/{name}")));
    }
    all.sort();
    all
}

/// Whether a tensor is one of the first block, or of none: the others are like those.
fn is_telling(name: &str) -> bool {
    name.split('.').filter_map(|part| part.parse::<u64>().ok()).next().is_none_or(|number| number == 0)
}

/// Names of the tensors that are damaged.
fn telling_tensors(checkpoint: &Editable) -> Vec<String> {
    checkpoint.tensors.keys().filter(|name| is_telling(name)).cloned().collect()
}

/// The module of a tensor, which an error may name in place of the tensor.
fn module_of(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(module, _)| module)
}

/// A checkpoint with these tensors in its own folder.
fn load(checkpoint: &Editable) -> Result<Model, LoadError> {
    let folder = tempfile::tempdir().expect("writable");
    checkpoint.write(folder.path());
    Model::load(folder.path(), &options(None))
}

/// A network of plain PyTorch has the biases that its file has; a tied head may be stored twice; and of a decoder that is
/// not tied the bias of the module around it is read by nothing.
fn may_be_absent(name: &str, tensor: &str) -> bool {
    let is_plain = name.starts_with("images/cnn") && tensor.ends_with(".bias");
    let is_tied = name == "families/mt5" && matches!(tensor, "lm_head.weight" | "shared.weight");
    let is_unread = ["bert-masked-untied", "deberta-v2-masked-own"].iter().any(|one| name.ends_with(one));
    is_plain || is_tied || (is_unread && tensor == "cls.predictions.bias")
}

/// What an adapter's file holds without need: the base's own tensors, those from before a copy, a second name of the same
/// number, and what batch norms count.
fn is_needless(name: &str, tensor: &str) -> bool {
    let of_base = tensor.contains(".base_layer.weight") || tensor.ends_with("lm_head.base_layer.bias");
    let of_copies = [".original_module.", ".modules_to_save.default.", "num_batches_tracked"];
    let second_names = ["cls.predictions.bias", "cls.predictions.decoder.bias", "lm_head.bias", "lm_head.decoder.bias"];
    let has_both = name == "adapters/roberta-biases" && tensor.ends_with(".bias") && tensor.contains(".classifier.");
    let is_masked = name.contains("-masked") && second_names.iter().any(|one| tensor.ends_with(one));
    of_base || is_masked || has_both || of_copies.iter().any(|part| tensor.contains(part))
}

#[test]
fn a_missing_tensor_is_named_in_every_family() {
    let mut accepted = vec![];
    for name in checkpoints() {
        let mut checkpoint = Editable::read(&fixture(&name));
        for tensor in telling_tensors(&checkpoint) {
            let own = checkpoint.tensors.remove(&tensor).expect("there");
            match load(&checkpoint) {
                Ok(model) => {
                    let notes = model.notes().join("\n");
                    if !may_be_absent(&name, &tensor) && !notes.contains(&tensor) {
                        accepted.push(format!("{name} {tensor}"));
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if !error.contains(module_of(&tensor)) {
                        accepted.push(format!("{name} without {tensor}: {error}"));
                    }
                }
            }
            checkpoint.tensors.insert(tensor, own);
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

#[test]
fn a_misshapen_tensor_is_named_in_every_family() {
    let mut accepted = vec![];
    for name in checkpoints() {
        let mut checkpoint = Editable::read(&fixture(&name));
        for tensor in telling_tensors(&checkpoint) {
            let (shape, values) = checkpoint.tensors[&tensor].clone();
            // the sizes of a network of plain PyTorch are those of its tensors; the modules behind find what does not fit
            if name.starts_with("images/cnn") {
                continue;
            }
            // one more along the last axis, and one axis more
            let mut longer = shape.clone();
            *longer.last_mut().expect("an axis") += 1;
            let mut deeper = shape.clone();
            deeper.insert(0, 1);
            for other in [longer, deeper] {
                let numbers: usize = other.iter().product();
                let mut padded = values.clone();
                padded.resize(numbers, 0.0);
                checkpoint.tensors.insert(tensor.clone(), (other.clone(), padded));
                match load(&checkpoint) {
                    Ok(_) => accepted.push(format!("{name} {tensor} {other:?}")),
                    Err(error) => {
                        let error = error.to_string();
                        if !error.contains(module_of(&tensor)) {
                            accepted.push(format!("{name}, {tensor} of the shape {other:?}: {error}"));
                        }
                    }
                }
            }
            checkpoint.tensors.insert(tensor, (shape, values));
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

#[test]
fn a_tensor_and_a_key_too_much_are_named_in_every_family() {
    for name in checkpoints() {
        let mut checkpoint = Editable::read(&fixture(&name));
        checkpoint.tensors.insert("some.new.weight".into(), (vec![1, 2], vec![0.5, 0.25]));
        let mut config: Value = serde_json::from_slice(&checkpoint.config).expect("JSON");
        config["some_new_factor"] = json!(0.5);
        checkpoint.config = config.to_string().into_bytes();
        let notes = load(&checkpoint).expect(&name).notes().join("\n");
        assert!(notes.contains("some.new.weight") && notes.contains("some_new_factor"), "{name}: {notes}");
    }
}

/// Folders of adapters with their bases.
fn adapters() -> Vec<(String, PathBuf)> {
    let mut all = vec![];
    for set in ["adapters", "image-adapters"] {
        for folder in std::fs::read_dir(fixture(set)).expect("readable") {
            let name = format!("{set}/{}", folder.expect("readable").file_name().to_string_lossy());
            let bytes = std::fs::read(fixture(&name).join("expected.safetensors")).expect("readable");
            let (_, header) = SafeTensors::read_metadata(&bytes).expect("sound");
            let base = header.metadata().as_ref().expect("metadata")["base"].clone();
            all.push((name, fixture(&base)));
        }
    }
    all.sort();
    all
}

/// An adapter's folder without some tensors, and with other settings.
fn changed(name: &str, keeps: impl Fn(&str) -> bool, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("writable");
    let bytes = std::fs::read(fixture(name).join("adapter_model.safetensors")).expect("readable");
    let all = SafeTensors::deserialize(&bytes).expect("sound");
    let kept: BTreeMap<&str, TensorView<'_>> = all.iter().filter(|(name, _)| keeps(name)).collect();
    let bytes = safetensors::serialize(kept, None).expect("sound");
    std::fs::write(copy.path().join("adapter_model.safetensors"), bytes).expect("writable");
    let config = std::fs::read(fixture(name).join("adapter_config.json")).expect("readable");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    change(&mut config);
    std::fs::write(copy.path().join("adapter_config.json"), config.to_string()).expect("writable");
    copy
}

fn tensors_of(folder: &Path) -> Vec<String> {
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).expect("readable");
    SafeTensors::deserialize(&bytes).expect("sound").names().into_iter().map(str::to_owned).collect()
}

#[test]
fn a_missing_tensor_of_an_adapter_is_named() {
    let mut accepted = vec![];
    for (name, base) in adapters() {
        for tensor in tensors_of(&fixture(&name)).into_iter().filter(|tensor| is_telling(tensor)) {
            let copy = changed(&name, |other| other != tensor, |_| ());
            match Model::load(copy.path(), &options(Some(base.clone()))) {
                Ok(model) => {
                    if !is_needless(&name, &tensor) && !model.notes().iter().any(|note| note.contains(&tensor)) {
                        accepted.push(format!("{name} {tensor}"));
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    let module = tensor.rsplit_once(".lora_").map_or(&*tensor, |(module, _)| module);
                    let module = module.trim_start_matches("base_model.model.");
                    let module = module.split(".base_layer").next().expect("one");
                    // without its weight a classifier has as many outputs as the base's, which its bias has not
                    let module = module.split(".weight").next().expect("one");
                    if error.contains("`trainable_token_indices`") && tensor.contains("token_adapter") {
                        continue;
                    }
                    if !error.contains(module) {
                        accepted.push(format!("{name} without {tensor}: {error}"));
                    }
                }
            }
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

#[test]
fn an_adapter_of_another_rank_or_base_is_refused() {
    for (name, base) in adapters() {
        let copy = changed(
            &name,
            |_| true,
            |config| {
                config["r"] = json!(7);
                config["rank_pattern"] = json!({});
            },
        );
        let error = Model::load(copy.path(), &options(Some(base.clone()))).expect_err(&name).to_string();
        assert!(error.contains("lora_") && (error.contains("rank") || error.contains("[7, ")), "{name}: {error}");
        // models of other widths, names or kinds
        for other in ["families/gptj", "gpt2-tiny", "images/resnet", "classifiers/distilbert-regression"] {
            let other = fixture(other);
            if other == base || config_of(&other)["model_type"] == config_of(&base)["model_type"] {
                continue;
            }
            let error = Model::load(&fixture(&name), &options(Some(other.clone()))).expect_err(&name).to_string();
            assert!(!error.contains('\n'), "{name} over {}: {error}", other.display());
        }
    }
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).expect("readable")).expect("JSON")
}
