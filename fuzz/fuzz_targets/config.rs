//! `config.json` beside real weights: any JSON loads or names the key that is wrong.
#![no_main]

use ascribe::model::{LoadOptions, Model};
use libfuzzer_sys::fuzz_target;

const GPT2: &[u8] = include_bytes!("../../fixtures/gpt2-tiny/model.safetensors");
const LLAMA: &[u8] = include_bytes!("../../fixtures/llama-tiny/model.safetensors");
const MLP: &[u8] = include_bytes!("../../fixtures/mlp-tiny/model.safetensors");

// The first byte chooses the weights.
fuzz_target!(|bytes: &[u8]| {
    let Some((choice, config)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = [GPT2, MLP, LLAMA][usize::from(*choice) % 3];
    std::fs::write(folder.path().join("model.safetensors"), weights).expect("the file can be written");
    std::fs::write(folder.path().join("config.json"), config).expect("the file can be written");
    let _ = Model::load(folder.path(), &LoadOptions::default());
});
