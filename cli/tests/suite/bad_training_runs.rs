//! Training runs and flags of `source` that do not fit: one clear message before any long work, nothing written.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use crate::support::{Folder, ROWS, TRAINER, ascribe, ended};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

const TRAINER_DATA: &str = "--train fixtures/trainer-tiny/train.jsonl --queries fixtures/trainer-tiny/queries.jsonl";
const QUERIES: &str = "--queries fixtures/mlp-tiny/query.safetensors";

/// Messages, one after the other.
#[derive(Default)]
struct Said(String);

impl Said {
    /// A run with these flags must fail at once and leave no run folder.
    #[track_caller]
    fn case(&mut self, what: &str, folder: &Folder, flags: &str) {
        let ended = ended(ascribe(&format!("{flags} --out {}", folder.arg("run"))));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{what}\n{}", ended.err);
        assert!(!folder.path("run").exists(), "{what}: something was written");
        assert_eq!(ended.err.matches("error: ").count(), 1, "{what}\n{}", ended.err);
        self.0.push_str(&folder.filtered(&format!("# {what}\n{}\n", ended.err)));
    }
}

#[test]
fn flags() {
    let folder = Folder::new();
    let mut said = Said::default();
    let rows = format!("source --run fixtures/mlp-trajectory {ROWS}");
    said.case("no training run", &folder, &format!("source {ROWS}"));
    said.case("a checkpoint beside it", &folder, &format!("{rows} --model fixtures/mlp-tiny"));
    said.case("two training runs", &folder, &format!("{rows} --trajectory run.toml"));
    said.case("no training examples", &folder, &format!("source --run fixtures/mlp-trajectory {QUERIES}"));
    for flags in [
        "--curvature kfac",
        "--normalize cosine",
        "--score-scale kronfluence",
        "--damping 0.1x,0.2x",
        "--time-scale 0",
        "--time-scale 1,1",
        "--with influence,influence",
        "--segments 7",
        "--segments ends:100,336",
        "--factors fixtures/mlp-tiny",
    ] {
        said.case(flags, &folder, &format!("{rows} {flags}"));
    }
    insta::assert_snapshot!(said.0);
}

#[test]
fn stages() {
    let folder = Folder::new();
    let mut said = Said::default();
    folder.copy_of("mlp-trajectory");
    let file = folder.write("run.toml", TWO_STAGES);
    let train = "fixtures/mlp-tiny/train.safetensors";
    let run = format!("source --trajectory {file} {QUERIES}");
    said.case("one file for two stages", &folder, &format!("{run} --train {train}"));
    said.case("a stage without data", &folder, &format!("{run} --stage-train base={train}"));
    let both = format!("{run} --stage-train base={train}");
    said.case("a stage that is not there", &folder, &format!("{both} --stage-train tunde={train}"));
    said.case("both ways", &folder, &format!("{both} --stage-train tuned={train} --train {train}"));
    said.case("no name", &folder, &format!("{run} --stage-train {train}"));
    said.case("a file that is not there", &folder, &format!("{both} --stage-train tuned=nowhere.safetensors"));
    let one = format!("source --run fixtures/mlp-trajectory {QUERIES}");
    said.case("a name in a run of one stage", &folder, &format!("{one} --stage-train base={train}"));
    insta::assert_snapshot!(said.0);
}

/// A checkpoint whose embedding is the last tensor of its file loses the last token.
fn without_last_token(checkpoint: &Path) {
    let file = checkpoint.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let embedding = &mut header["transformer.wte.weight"];
    let row = 4 * embedding["shape"][1].as_u64().unwrap();
    embedding["shape"][0] = (embedding["shape"][0].as_u64().unwrap() - 1).into();
    embedding["data_offsets"][1] = (embedding["data_offsets"][1].as_u64().unwrap() - row).into();
    let header = header.to_string();
    let mut shorter = (header.len() as u64).to_le_bytes().to_vec();
    shorter.extend_from_slice(header.as_bytes());
    shorter.extend_from_slice(&bytes[8 + length..bytes.len() - row as usize]);
    fs::write(file, shorter).unwrap();
    let config = checkpoint.join("config.json");
    let mut keys: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    keys["vocab_size"] = (keys["vocab_size"].as_u64().unwrap() - 1).into();
    fs::write(config, keys.to_string()).unwrap();
}

#[test]
fn checkpoints_of_another_vocabulary() {
    let folder = Folder::new();
    let run = folder.copy_of("trainer-tiny");
    without_last_token(&folder.path("trainer-tiny/checkpoint-60"));
    let mut said = Said::default();
    said.case("another vocabulary", &folder, &format!("source --run {run} {TRAINER_DATA}"));
    assert!(said.0.contains("`vocab_size` is 511 in TMP/trainer-tiny/checkpoint-60/config.json and 512"), "{}", said.0);
}

#[test]
fn checkpoints_of_other_models() {
    let folder = Folder::new();
    let mut said = Said::default();
    let rows = folder.copy_of("mlp-trajectory");
    for file in ["config.json", "model.safetensors"] {
        let from = crate::support::root().join("fixtures/mlp-regression").join(file);
        fs::copy(from, folder.path("mlp-trajectory/checkpoint-336").join(file)).expect("writable");
    }
    said.case("other inputs", &folder, &format!("source --run {rows} {ROWS}"));
    said.case("other inputs, averaged", &folder, &format!("source --run {rows} {ROWS} --average parameters"));
    // the same tokens, another width
    folder.copy_of("gpt2-tiny");
    folder.copy_of("trainer-tiny");
    let steps = "optimizer = \"sgd\"\nmomentum = 0.0\nweight_decay = 0.0\ntrain_examples = 48\nbatch_size = 8\n\
         loss_scale = 0.03\nsteps = 240\nlearning_rate = [{ from_step = 0, value = 0.1 }]\n";
    let checkpoints =
        "checkpoint = [{ path = \"gpt2-tiny\", step = 120 }, { path = \"trainer-tiny/checkpoint-240\", step = 240 }]";
    let file = folder.write("run.toml", format!("{steps}{checkpoints}\n"));
    said.case("other widths", &folder, &format!("source --trajectory {file} {TRAINER_DATA}"));
    let tokenizer = folder.arg("trainer-tiny");
    let averaged = "--average parameters --segments 1";
    said.case(
        "other widths, averaged",
        &folder,
        &format!("source --trajectory {file} {TRAINER_DATA} --tokenizer {tokenizer} {averaged}"),
    );
    let other = file_with(&folder, "llama.toml", "gpt2-tiny", "llama-tiny");
    folder.copy_of("llama-tiny");
    said.case(
        "another architecture",
        &folder,
        &format!("source --trajectory {other} {TRAINER_DATA} --tokenizer {tokenizer}"),
    );
    let (from, to) = ("trainer-tiny/checkpoint-180/model.safetensors", "trainer-tiny/checkpoint-240/model.safetensors");
    fs::copy(folder.path(from), folder.path(to)).expect("writable");
    said.case("a copy of another checkpoint", &folder, &format!("source --run {tokenizer} {TRAINER_DATA}"));
    fs::remove_dir_all(folder.path("trainer-tiny/checkpoint-240")).expect("there");
    said.case("a checkpoint that is gone", &folder, &format!("source --trajectory {file} {TRAINER_DATA}"));
    insta::assert_snapshot!(said.0);
}

/// `run.toml` under another name, with something replaced.
fn file_with(folder: &Folder, name: &str, from: &str, to: &str) -> String {
    let text = fs::read_to_string(folder.path("run.toml")).expect("there");
    assert!(text.contains(from));
    folder.write(name, text.replace(from, to))
}

/// Writes a number over the first one of a storage of a torch file.
fn with_number(file: &Path, entry: &str, number: f32) {
    let mut archive = ZipArchive::new(File::open(file).expect("readable")).expect("a zip");
    let mut entries = vec![];
    for index in 0..archive.len() {
        let mut found = archive.by_index(index).expect("an entry");
        let mut bytes = vec![];
        found.read_to_end(&mut bytes).expect("readable");
        let name = found.name().expect("text").into_owned();
        if name == entry {
            bytes[..4].copy_from_slice(&number.to_le_bytes());
        }
        entries.push((name, bytes));
    }
    assert!(entries.iter().any(|(name, _)| name == entry), "{entry}");
    let mut zip = ZipWriter::new(File::create(file).expect("writable"));
    for (name, bytes) in entries {
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip.start_file(name, stored).expect("an entry");
        zip.write_all(&bytes).expect("writable");
    }
    zip.finish().expect("writable");
}

#[test]
fn optimizer_states() {
    let folder = Folder::new();
    let mut said = Said::default();
    let run = folder.copy_of("trainer-tiny");
    let source = format!("source --run {run} {TRAINER_DATA} --add-eos train");
    let state = |step: u32| folder.path(&format!("trainer-tiny/checkpoint-{step}/optimizer.pt"));
    // the storage of a tracked layer's second moments
    with_number(&state(120), "optimizer/data/8", f32::NAN);
    said.case("a second moment that is no number", &folder, &source);
    with_number(&state(120), "optimizer/data/8", -1.0);
    said.case("a second moment below zero", &folder, &source);
    let bytes = fs::read(state(180)).expect("there");
    fs::write(state(120), &bytes[..bytes.len() / 2]).expect("writable");
    said.case("half of a file", &folder, &source);
    fs::remove_file(state(120)).expect("there");
    said.case("a segment without second moments", &folder, &source);
    fs::write(state(120).with_file_name("latest"), "global_step120").expect("writable");
    fs::write(state(120).with_file_name("zero_to_fp32.py"), "").expect("writable");
    said.case("a state that is not read", &folder, &source);
    insta::assert_snapshot!(said.0);
}

#[test]
fn data_and_log() {
    let folder = Folder::new();
    let mut said = Said::default();
    let text = fs::read_to_string(crate::support::root().join("fixtures/trainer-tiny/train.jsonl")).expect("a fixture");
    let half: Vec<&str> = text.lines().take(24).collect();
    let half = folder.write("half.jsonl", half.join("\n"));
    let of_half = TRAINER.replace("fixtures/trainer-tiny/train.jsonl", &half);
    said.case("half of the training set", &folder, &format!("source {of_half}"));
    said.case("too many segments", &folder, &format!("source {TRAINER} --segments 5"));
    said.case("rows for a language model", &folder, &format!("source --run fixtures/trainer-tiny {ROWS}"));
    let rates = "source --run fixtures/trajectory/plateau-gpt2";
    said.case("rates that nothing tells", &folder, &format!("{rates} {TRAINER_DATA}"));
    insta::assert_snapshot!(said.0);
}

/// Two stages of the small classifier's training.
const TWO_STAGES: &str = r#"
[[stage]]
name = "base"
optimizer = "sgd"
momentum = 0.0
weight_decay = 0.02
batch_size = 10
loss_reduction = "mean"
steps = 504
learning_rate = [{ from_step = 0, value = 0.2 }]
checkpoint = [{ path = "mlp-trajectory/checkpoint-504", step = 504 }]

[[stage]]
name = "tuned"
optimizer = "sgd"
momentum = 0.9
weight_decay = 0.0
batch_size = 10
loss_reduction = "mean"
steps = 216
learning_rate = [{ from_step = 0, value = 0.02 }]
checkpoint = [{ path = "mlp-trajectory/checkpoint-720", step = 216 }]
"#;
