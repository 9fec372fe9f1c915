//! `config.json` beside real weights: any JSON loads or names the key that is wrong.
#![no_main]

use std::path::Path;

use ascribe::model::{LoadOptions, Model};
use ascribe::nn::RopeConfig;
use libfuzzer_sys::fuzz_target;

// The first byte chooses the weights.
fuzz_target!(|bytes: &[u8]| {
    let Some((choice, config)) = bytes.split_first() else { return };
    if let Ok(value) = serde_json::from_slice(config) {
        let _ = RopeConfig::from_config(&value, 2 * (1 + usize::from(choice >> 4)), None);
    }
    let fixture = if choice & 1 == 0 { "gpt2-tiny" } else { "mlp-tiny" };
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(fixture).join("model.safetensors");
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(weights, folder.path().join("model.safetensors")).expect("the fixture can be copied");
    std::fs::write(folder.path().join("config.json"), config).expect("the file can be written");
    let _ = Model::load(folder.path(), &LoadOptions::default());
});
