//! Rotary settings of whole configurations, in the spellings of transformers 4 and 5.

#![allow(clippy::unwrap_used)] // a test may panic

use serde_json::{Value, json};

use super::{Partial, Rotary, RotaryByLayer};
use crate::curvature::Positions;
use crate::model::config::Config;
use crate::nn::RopeTables;

/// A `config.json` with these keys.
fn configuration(keys: &Value) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, keys.to_string()).unwrap();
    Config::read_file(file).unwrap()
}

/// Both spellings of every type against transformers' numbers (`fixtures/generators/rope.py`).
#[test]
fn frequencies_are_those_of_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/rope.json");
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let numbers =
        |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    let mut compared = 0;
    for case in fixture["cases"].as_array().unwrap() {
        for spelling in ["config_4x", "config_5x"] {
            let config = &case[spelling];
            let heads = config["num_attention_heads"].as_u64().unwrap();
            let dimension =
                config["head_dim"].as_u64().unwrap_or_else(|| config["hidden_size"].as_u64().unwrap() / heads) as usize;
            let rope = Rotary::LLAMA.read(&configuration(config), dimension).unwrap();
            for result in case["results"].as_array().unwrap() {
                let length = result["seq_len"].as_u64().unwrap() as usize;
                let name = format!("{} {spelling} {length}", case["name"]);
                let found = rope.frequencies(length);
                let want = numbers(&result["inv_freq"]);
                assert_eq!(found.inverse.len(), want.len(), "{name}");
                for (found, want) in found.inverse.iter().zip(want) {
                    // f32: the power is rounded a few times
                    assert!((found / want - 1.0).abs() < 1e-6, "{name}: {found} {want}");
                }
                assert!(
                    (found.attention_factor - result["attention_factor"].as_f64().unwrap()).abs() < 1e-12,
                    "{name}"
                );
                let tables = RopeTables::new(&rope, &Positions::from_lengths([length]));
                let (cos, sin) = tables.rows(0);
                for (r, position) in numbers(&result["positions"]).into_iter().enumerate() {
                    let row = position as usize * dimension / 2..(position as usize + 1) * dimension / 2;
                    for (found, want) in [(&cos[row.clone()], &result["cos"][r]), (&sin[row], &result["sin"][r])] {
                        for (found, want) in found.iter().zip(numbers(want)) {
                            // the angle, up to 40, is rounded to 6e-8 of itself, twice
                            assert!((f64::from(*found) - want).abs() < 1e-5, "{name} at {position}: {found} {want}");
                            compared += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(compared > 1000);
}

#[test]
fn layers_with_a_window_have_embeddings_of_their_own() {
    let gemma =
        RotaryByLayer { full: 1e6, sliding: 1e4, sliding_key: Some("rope_local_base_freq"), full_key: "rope_theta" };
    let flat = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let nested = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}});
    let [full, sliding] = gemma.read(&configuration(&flat), 8).unwrap();
    assert_eq!((full.frequencies(9).inverse[0], sliding.frequencies(9).inverse[0]), (0.125, 1.0));
    assert_eq!(gemma.read(&configuration(&nested), 8).unwrap(), [full, sliding]);
    let error = Rotary::LLAMA.read(&configuration(&nested), 8).unwrap_err().to_string();
    assert!(error.contains("`rope_parameters` by layer type are not known"), "{error}");
}

#[test]
fn phi3_keeps_the_trained_length_outside_and_calls_longrope_su() {
    let phi = json!({"model_type": "phi3", "max_position_embeddings": 64, "original_max_position_embeddings": 16,
        "rope_scaling": {"type": "su", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}});
    let rotary = Rotary { partial: Partial::Read, original_length: Some(4096), ..Rotary::LLAMA };
    let rope = rotary.read(&configuration(&phi), 4).unwrap();
    assert_eq!((rope.frequencies(16).inverse[0], rope.frequencies(17).inverse[0]), (1.0, 1.0 / 3.0));
}

#[test]
fn broken_settings_are_named_with_what_to_do() {
    let read = |scaling: Value| {
        let keys = json!({"rope_scaling": scaling, "max_position_embeddings": 64});
        Rotary::LLAMA.read(&configuration(&keys), 8).unwrap_err().to_string()
    };
    let check = |scaling: Value, parts: &[&str]| {
        let error = read(scaling);
        parts.iter().for_each(|part| assert!(error.contains(part), "{error}"));
    };
    check(
        json!({"rope_type": "proportional"}),
        &["rotary embeddings of the type `proportional` are not supported", "`llama3`"],
    );
    check(
        json!({"type": "linear"}),
        &["rotary embeddings of the type `linear` need the key `factor`", "add `factor` to `rope_parameters`"],
    );
    check(
        json!({"type": "linear", "factor": "two"}),
        &["`factor` of the rotary embeddings is \"two\", expected a positive number"],
    );
    check(
        json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]}),
        &["`short_factor` of the rotary embeddings", "one positive number for each pair of rotated coordinates"],
    );
    check(json!(7), &["`rope_scaling`", "expected an object"]);
}
