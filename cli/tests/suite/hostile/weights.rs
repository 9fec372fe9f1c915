//! Broken safetensors files and indexes of their shards.

use std::fs;

use serde_json::{Value, json};

use crate::hostile::models::dry_run;
use crate::hostile::runner::Case;
use crate::support::Folder;

const FILE: &str = "model.safetensors";

/// A checkpoint whose weights' bytes are changed.
fn bytes(name: &str, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Case {
    Case::refused(format!("weights: {name}"), FILE, move |folder| {
        let model = folder.copy_of("gpt2-tiny");
        let file = folder.path("gpt2-tiny").join(FILE);
        let mut content = fs::read(&file).expect("a copy");
        change(&mut content);
        fs::write(file, content).expect("writable");
        dry_run(&model)
    })
}

fn with_header(content: &mut Vec<u8>, change: impl FnOnce(&mut Value)) {
    let n = u64::from_le_bytes(content[..8].try_into().expect("8")) as usize;
    let mut header: Value = serde_json::from_slice(&content[8..8 + n]).expect("a header");
    change(&mut header);
    let text = match header {
        // A header that is no JSON at all.
        Value::String(text) => text,
        header => header.to_string(),
    };
    let mut changed = (text.len() as u64).to_le_bytes().to_vec();
    changed.extend_from_slice(text.as_bytes());
    changed.extend_from_slice(&content[8 + n..]);
    *content = changed;
}

fn header(name: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Case {
    bytes(name, move |content| with_header(content, &change))
}

const WTE: &str = "transformer.wte.weight";

fn index(name: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Case {
    Case::refused(format!("shards: {name}"), "llama-tiny-llama3rope", move |folder| {
        let model = folder.copy_of("llama-tiny-llama3rope");
        let file = folder.path("llama-tiny-llama3rope/model.safetensors.index.json");
        let mut content: Value = serde_json::from_slice(&fs::read(&file).expect("a copy")).expect("JSON");
        change(&mut content);
        let text = match content {
            Value::String(text) => text,
            content => content.to_string(),
        };
        fs::write(file, text).expect("writable");
        dry_run(&model)
    })
}

fn shards(name: &str, change: impl Fn(&Folder) + Send + Sync + 'static) -> Case {
    Case::refused(format!("shards: {name}"), "llama-tiny-llama3rope", move |folder| {
        let model = folder.copy_of("llama-tiny-llama3rope");
        change(folder);
        dry_run(&model)
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        bytes("empty", Vec::clear),
        bytes("seven bytes", |content| content.truncate(7)),
        bytes("a length alone", |content| content.truncate(8)),
        bytes("half a header", |content| content.truncate(500)),
        bytes("one byte less", |content| content.truncate(content.len() - 1)),
        bytes("one byte more", |content| content.push(0)),
        bytes("a megabyte more", |content| content.extend(vec![7; 1 << 20])),
        bytes("a header of no bytes", |content| content[..8].fill(0)),
        bytes("a header of 2^64 - 1 bytes", |content| content[..8].fill(0xff)),
        bytes("a header of 2^63 bytes", |content| content[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes())),
        bytes("a header of 4 GiB", |content| content[..8].copy_from_slice(&(1_u64 << 32).to_le_bytes())),
        bytes("a header one byte longer", |content| content[0] = content[0].wrapping_add(1)),
        bytes("a header one byte shorter", |content| content[0] = content[0].wrapping_sub(1)),
        bytes("a pickle", |content| *content = b"PK\x03\x04 not tensors at all".to_vec()),
        bytes("zeros", |content| content.fill(0)),
        bytes("a header that is no UTF-8", |content| content[20] = 0xff),
        bytes("NaN in the last number", |content| {
            let n = content.len();
            content[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        bytes("infinity in the last number", |content| {
            let n = content.len();
            content[n - 4..].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
        }),
        header("a header that is an array", |header| *header = json!([])),
        header("a header that is null", |header| *header = Value::Null),
        header("a header without tensors", |header| *header = json!({})),
        header("a header that is cut", |header| *header = Value::String("{\"a\":".into())),
        header("a tensor that is a number", |header| header[WTE] = json!(3)),
        header("a tensor without a shape", |header| {
            drop(header[WTE].as_object_mut().expect("a tensor").remove("shape"))
        }),
        header("a tensor without a type", |header| {
            drop(header[WTE].as_object_mut().expect("a tensor").remove("dtype"))
        }),
        header("a tensor without a place", |header| {
            drop(header[WTE].as_object_mut().expect("a tensor").remove("data_offsets"));
        }),
        header("a negative size", |header| header[WTE]["shape"][0] = json!(-512)),
        header("a fractional size", |header| header[WTE]["shape"][0] = json!(512.5)),
        header("a size beyond any file", |header| header[WTE]["shape"][0] = json!(u64::MAX)),
        header("sizes whose product wraps", |header| header[WTE]["shape"] = json!([1_u64 << 32, 1_u64 << 32, 4])),
        header("a shape of 5,000 axes", |header| header[WTE]["shape"] = json!(vec![1; 5000])),
        header("a turned place", |header| {
            let places = header[WTE]["data_offsets"].as_array_mut().expect("a place");
            places.reverse();
        }),
        header("a place beyond the end", |header| header[WTE]["data_offsets"][1] = json!(1_u64 << 40)),
        header("a place that overlaps", |header| {
            let other = header["transformer.wpe.weight"]["data_offsets"].clone();
            header[WTE]["data_offsets"] = other;
        }),
        header("an unknown type", |header| header[WTE]["dtype"] = json!("F33")),
        header("a type with escape sequences", |header| header[WTE]["dtype"] = json!("F\u{1b}[31m32\u{202e}")),
        header("a type that forges an error", |header| header[WTE]["dtype"] = json!("F32\nerror: forged")),
        header("whole numbers as weights", |header| header[WTE]["dtype"] = json!("I32")),
        header("a missing tensor", |header| {
            drop(header.as_object_mut().expect("a header").remove("transformer.h.1.ln_1.bias"))
        }),
        header("a turned shape", |header| header[WTE]["shape"] = json!([32, 512])),
        header("metadata that are numbers", |header| header["__metadata__"] = json!({"format": 1})),
        header("names with escape sequences", |header| {
            let header = header.as_object_mut().expect("a header");
            let tensor = header.remove(WTE).expect("there");
            header.insert("transformer.wte.weight\u{1b}[2J\nerror: forged".to_owned(), tensor);
        }),
        index("no JSON", |index| *index = Value::String("{".into())),
        index("an array", |index| *index = json!([])),
        index("no map", |index| *index = json!({"metadata": {}})),
        index("an empty map", |index| *index = json!({"weight_map": {}})),
        index("a map that is a list", |index| index["weight_map"] = json!(["model-00001-of-00002.safetensors"])),
        index("a file that is a number", |index| index["weight_map"]["model.norm.weight"] = json!(1)),
        index("a shard that is not there", |index| {
            index["weight_map"]["model.norm.weight"] = json!("absent.safetensors")
        }),
        index("a shard outside of the folder", |index| {
            index["weight_map"]["model.norm.weight"] = json!("../../../etc/passwd");
        }),
        index("a shard with escape sequences", |index| {
            index["weight_map"]["model.norm.weight"] = json!("\u{1b}[31m\u{202e}x\nerror: forged.safetensors");
        }),
        index("a tensor in the other shard", |index| {
            let map = index["weight_map"].as_object_mut().expect("a map");
            for (_, file) in map.iter_mut() {
                *file = json!("model-00001-of-00002.safetensors");
            }
        }),
        shards("a shard that is missing", |folder| {
            fs::remove_file(folder.path("llama-tiny-llama3rope/model-00002-of-00002.safetensors")).expect("there");
        }),
        shards("a shard that is empty", |folder| {
            fs::write(folder.path("llama-tiny-llama3rope/model-00002-of-00002.safetensors"), "").expect("writable");
        }),
        shards("the first shard twice", |folder| {
            let shard = |n: usize| folder.path(&format!("llama-tiny-llama3rope/model-0000{n}-of-00002.safetensors"));
            fs::copy(shard(1), shard(2)).expect("writable");
        }),
        Case::refused("weights: a folder", FILE, |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny").join(FILE)).expect("there");
            fs::create_dir(folder.path("gpt2-tiny").join(FILE)).expect("new");
            dry_run(&model)
        }),
        Case::refused("weights: a circle of links", FILE, |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny").join(FILE)).expect("there");
            std::os::unix::fs::symlink(FILE, folder.path("gpt2-tiny").join(FILE)).expect("new");
            dry_run(&model)
        }),
        Case::refused("weights: a pickle beside none", "pytorch_model.bin", |folder| {
            let model = folder.copy_of("gpt2-tiny");
            fs::remove_file(folder.path("gpt2-tiny").join(FILE)).expect("there");
            folder.write("gpt2-tiny/pytorch_model.bin", "PK\u{3}\u{4}");
            dry_run(&model)
        }),
        Case::refused("weights: a pipe", FILE, |folder| {
            let model = folder.copy_of("gpt2-tiny");
            crate::hostile::models::pipe(folder, "gpt2-tiny/model.safetensors");
            dry_run(&model)
        }),
    ];
    // Cut at places all over the header and the first tensors.
    for at in [9, 40, 100, 300, 1000, 1500, 3000, 10_000, 50_000] {
        cases.push(bytes(&format!("cut after {at} bytes"), move |content| content.truncate(at)));
    }
    cases
}
