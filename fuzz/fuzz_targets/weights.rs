//! Weights beside a real configuration: headers that lie about types, shapes and places end in an error.
#![no_main]

use ascribe::model::{LoadOptions, Model};
use libfuzzer_sys::fuzz_target;

const CONFIG: &[u8] = include_bytes!("../../fixtures/mlp-tiny/config.json");

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("config.json"), CONFIG).expect("the file can be written");
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("the file can be written");
    let _ = Model::load(folder.path(), &LoadOptions::default());
});
