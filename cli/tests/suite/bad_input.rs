//! Every kind of bad input ends in one clear message, before any long work, with nothing written over.

use std::fs;

use crate::support::{Folder, GPT2, MLP, ascribe, done, ended};
use serde_json::{Value, json};

/// The message of a run on these inputs, which must fail at once and leave no run folder.
#[track_caller]
fn refused(folder: &Folder, model: &str, train: &str, queries: &str, flags: &str) -> String {
    let run = folder.arg("run");
    let arguments = format!("influence --model {model} --train {train} --queries {queries} --out {run} {flags}");
    let ended = ended(ascribe(&arguments));
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments}\n{}", ended.err);
    assert!(!folder.path("run").exists(), "{arguments}\nnothing is written before the inputs are checked");
    folder.filtered(&ended.err)
}

const TRAIN: &str = "fixtures/gpt2-tiny/train.jsonl";
const QUERIES: &str = "fixtures/gpt2-tiny/queries.jsonl";

/// A checkpoint whose weights were changed.
fn with_weights(folder: &Folder, fixture: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let model = folder.copy_of(fixture);
    let file = folder.path(fixture).join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    fs::write(&file, bytes).unwrap();
    model
}

/// A checkpoint whose weights' header was changed.
fn with_header(folder: &Folder, fixture: &str, change: impl FnOnce(&mut Value)) -> String {
    with_weights(folder, fixture, |bytes| {
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let mut changed = (header.len() as u64).to_le_bytes().to_vec();
        changed.extend_from_slice(header.as_bytes());
        changed.extend_from_slice(&bytes[8 + n..]);
        *bytes = changed;
    })
}

/// Weights that are numbers, whose products leave the range of f32.
#[test]
fn numbers_that_overflow_name_the_checkpoint_and_leave_no_run_folder() {
    let folder = Folder::new();
    let model = with_weights(&folder, "gpt2-tiny", |bytes| {
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
        for (name, entry) in header.as_object().unwrap() {
            if name.ends_with("mlp.c_fc.weight") || name.ends_with("mlp.c_proj.weight") {
                let place = |k: usize| 8 + n + entry["data_offsets"][k].as_u64().unwrap() as usize;
                for number in bytes[place(0)..place(1)].chunks_exact_mut(4) {
                    let old = f32::from_le_bytes(number.try_into().unwrap());
                    number.copy_from_slice(&(1e30 * old).to_le_bytes());
                }
            }
        }
    });
    for curvature in ["identity", "ekfac"] {
        let message = refused(&folder, &model, TRAIN, QUERIES, &format!("--curvature {curvature}"));
        assert!(message.contains("error: TMP/gpt2-tiny: "), "{message}");
        assert!(message.contains("NaN or infinity"), "{message}");
    }
}

#[test]
fn checkpoints() {
    let mut text = String::new();
    let mut case = |what: &str, folder: &Folder, model: &str| {
        let said = refused(folder, model, TRAIN, QUERIES, "--add-eos train");
        text.push_str(&format!("# {what}\n{said}\n"));
    };

    let folder = Folder::new();
    case("no such directory", &folder, &folder.arg("nowhere"));
    folder.write("empty/readme.txt", "");
    case("not a checkpoint", &folder, &folder.arg("empty"));
    case("a file instead of a folder", &folder, "fixtures/gpt2-tiny/model.safetensors");

    let folder = Folder::new();
    let model = folder.copy_of("gpt2-tiny");
    folder.write("gpt2-tiny/config.json", json!({"model_type": "mamba", "vocab_size": 512}).to_string());
    case("unsupported architecture", &folder, &model);
    folder.write("gpt2-tiny/config.json", "{\"model_type\": \"gpt2\",");
    case("broken configuration", &folder, &model);

    let folder = Folder::new();
    let model = with_header(&folder, "gpt2-tiny", |header| {
        let tensor = header.as_object_mut().unwrap().remove("transformer.h.1.attn.c_attn.weight").unwrap();
        header["transformer.h.1.attn.c_attn.wieght"] = tensor;
    });
    case("a missing tensor", &folder, &model);

    let folder = Folder::new();
    let model = with_header(&folder, "gpt2-tiny", |header| {
        let shape = header["transformer.h.1.attn.c_attn.weight"]["shape"].as_array_mut().unwrap();
        shape.reverse();
    });
    case("a misshapen tensor", &folder, &model);

    let folder = Folder::new();
    let model = with_weights(&folder, "gpt2-tiny", |bytes| bytes.truncate(bytes.len() - 1000));
    case("a truncated file", &folder, &model);

    let folder = Folder::new();
    let model = with_weights(&folder, "gpt2-tiny", |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    case("a lying header", &folder, &model);

    let folder = Folder::new();
    let model = with_weights(&folder, "gpt2-tiny", |bytes| {
        let n = bytes.len();
        bytes[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    case("NaN in the weights", &folder, &model);

    let folder = Folder::new();
    let model = folder.copy_of("llama-tiny-llama3rope");
    fs::remove_file(folder.path("llama-tiny-llama3rope/model-00002-of-00002.safetensors")).unwrap();
    case("a missing shard", &folder, &model);
    insta::assert_snapshot!(text);
}

#[test]
fn tokenizers() {
    let mut text = String::new();
    let folder = Folder::new();
    let model = folder.copy_of("gpt2-tiny");
    fs::remove_file(folder.path("gpt2-tiny/tokenizer.json")).unwrap();
    text.push_str(&refused(&folder, &model, TRAIN, QUERIES, ""));
    text.push_str(&refused(&folder, &model, TRAIN, QUERIES, &format!("--tokenizer {}", folder.arg("nowhere"))));
    let broken = folder.write("broken/tokenizer.json", "{\"version\": \"1.0\"}");
    text.push_str(&refused(&folder, &model, TRAIN, QUERIES, &format!("--tokenizer {broken}")));

    // a token beyond the embedding, in a text
    let whole = fs::read_to_string(crate::support::root().join("fixtures/gpt2-tiny/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&whole).unwrap();
    let token = json!({"id": 5000, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    let large = folder.write("large/tokenizer.json", tokenizer.to_string());
    let flags = format!("--tokenizer {large}");
    let train = folder.write("train.jsonl", "{\"text\": \"the sheep\"}\n{\"text\": \"the [PAD] sheep\"}\n");
    text.push_str(&refused(&folder, &model, &train, QUERIES, &flags));
    // and in none
    let run = folder.arg("run");
    done(&format!("influence --model {model} --train {TRAIN} --queries {QUERIES} --out {run} --dry-run {flags}"));

    // what the library that reads it would panic at
    let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}});
    let second = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [],
        "special_tokens": {}});
    let replace =
        |pattern: &str, content: String| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
    let with = |part: &str, value: Value| {
        let mut tokenizer = tokenizer.clone();
        tokenizer[part] = value;
        tokenizer.to_string()
    };
    let decoder = whole.find("\"decoder\"").unwrap();
    for (what, content) in [
        ("no JSON", "{\"decoder\":{\"type\" 1".to_owned()),
        ("cut inside the decoder", whole[..decoder + 20].to_owned()),
        ("a template with an unknown token", with("post_processor", template)),
        ("a template of two texts for one", with("post_processor", second)),
        ("an empty pattern", with("normalizer", replace("", "a".into()))),
        ("a normalizer that blows texts up", with("normalizer", replace("e", "e".repeat(100_000)))),
    ] {
        let file = folder.write("broken/tokenizer.json", content);
        let said = refused(&folder, &model, TRAIN, QUERIES, &format!("--tokenizer {file}"));
        text.push_str(&format!("# {what}\n{said}"));
    }
    insta::assert_snapshot!(text);
}

/// Pipes, devices and folders, and files without an end, in the place of data and of a tokenizer.
#[cfg(unix)]
#[test]
fn no_files() {
    let folder = Folder::new();
    let mut text = String::new();
    let mut case = |what: &str, train: &str, flags: &str| {
        text.push_str(&format!("# {what}\n{}", refused(&folder, "fixtures/gpt2-tiny", train, QUERIES, flags)));
    };
    let pipe = folder.arg("pipe.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    case("a pipe", &pipe, "");
    case("a pipe as tokenizer", TRAIN, &format!("--tokenizer {pipe}"));
    let zero = folder.arg("zero.jsonl");
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    case("a device", &zero, "");
    case("a device as tokenizer", TRAIN, &format!("--tokenizer {zero}"));
    fs::create_dir(folder.path("folder.jsonl")).unwrap();
    case("a folder", &folder.arg("folder.jsonl"), "");
    folder.write("saved/state.json", "{}");
    case("a folder that datasets saved", &folder.arg("saved"), "");
    let sparse = folder.write("sparse/tokenizer.json", "");
    fs::File::options().write(true).open(&sparse).unwrap().set_len(3 << 30).unwrap();
    case("a tokenizer of 3 GiB", TRAIN, &format!("--tokenizer {sparse}"));
    let word = folder.write("word.jsonl", format!("{{\"text\": \"{}\"}}\n", "a".repeat(20 << 20)));
    case("one word of 20 MiB", &word, "");
    let word = folder.write("word.jsonl", format!("{{\"text\": \"{}\"}}\n", "a".repeat(1 << 20)));
    case("one word of 1 MiB with little memory", &word, "--memory 100MiB");
    insta::assert_snapshot!(text);
}

#[test]
fn examples() {
    let folder = Folder::new();
    let long = json!({"text": "the sheep stayed in the barn ".repeat(40)}).to_string();
    let ids = |ids: &[i64]| json!({"input_ids": ids}).to_string();
    let cases: [(&str, &str, String); 23] = [
        ("no such file", "", String::new()),
        ("an empty file", "train.jsonl", String::new()),
        ("only blank lines", "train.jsonl", "\n\n".into()),
        ("broken JSON", "train.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"not fine\n".into()),
        ("not an object", "train.jsonl", "[1, 2]\n".into()),
        ("no content", "train.jsonl", "{\"id\": \"a\", \"txt\": \"the sheep\"}\n".into()),
        ("half a pair", "train.jsonl", "{\"prompt\": \"the sheep\"}\n".into()),
        ("no target token", "train.jsonl", ids(&[7])),
        ("all labels masked", "train.jsonl", json!({"input_ids": [3, 4, 5], "labels": [-100, -100, -100]}).to_string()),
        ("a token id out of range", "train.jsonl", format!("{}\n{}\n", ids(&[3, 4]), ids(&[3, 512]))),
        ("a negative token id", "train.jsonl", ids(&[3, -4])),
        ("longer than the model's positions", "train.jsonl", long.clone()),
        (
            "duplicate ids",
            "train.jsonl",
            "{\"id\": \"a\", \"text\": \"the sheep\"}\n{\"id\": \"a\", \"text\": \"the barn\"}\n".into(),
        ),
        ("not text", "train.jsonl", "{\"text\": \"\u{1}\"}\n".into()),
        ("Parquet", "train.parquet", "PAR1".into()),
        ("CSV", "train.csv", "text\n".into()),
        ("TSV", "train.tsv", "text\n".into()),
        ("Arrow", "train.arrow", "ARROW1".into()),
        ("a compressed file", "train.jsonl.gz", "\u{1f}".into()),
        ("an unknown format", "train.xyz", "text".into()),
        ("only empty rows", "train.jsonl", "{\"text\": \"\"}\n{\"text\": \"\"}\n".into()),
        ("a conversation", "train.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n".into()),
        (
            "a conversation as prompt",
            "train.jsonl",
            "{\"prompt\": [{\"role\": \"user\"}], \"completion\": []}\n".into(),
        ),
    ];
    let mut text = String::new();
    for (what, name, content) in cases {
        let train = if name.is_empty() { folder.arg("nowhere.jsonl") } else { folder.write(name, content) };
        text.push_str(&format!("# {what}\n{}\n", refused(&folder, "fixtures/gpt2-tiny", &train, QUERIES, "")));
    }
    // queries are read with the same care
    let queries = folder.write("queries.jsonl", "{\"prompt\": \"the sheep\", \"completion\": \"\"}\n");
    text.push_str(&format!(
        "# a query without target\n{}\n",
        refused(&folder, "fixtures/gpt2-tiny", TRAIN, &queries, "")
    ));
    // a length makes the long one fit
    let train = folder.write("train.jsonl", format!("{long}\n{long}\n"));
    let plan = done(&format!(
        "influence --model fixtures/gpt2-tiny --train {train} --queries {QUERIES} --max-length 64 --out {} --dry-run",
        folder.arg("run")
    ));
    assert!(plan.out.contains("2 training examples were cut to 64 tokens"), "{}", plan.out);
    // empty rows are skipped, and the plan says so
    let train = folder.write("train.jsonl", "{\"text\": \"\"}\n{\"text\": \"the sheep\"}\n{\"text\": \"\"}\n");
    let plan = done(&format!(
        "influence --model fixtures/gpt2-tiny --train {train} --queries {QUERIES} --add-eos train:input --out {} --dry-run",
        folder.arg("run")
    ));
    assert!(plan.out.contains("2 empty rows of the training examples were skipped"), "{}", plan.out);
    insta::assert_snapshot!(text);
}

#[test]
fn rows() {
    let folder = Folder::new();
    let model = "fixtures/mlp-tiny";
    let query = "fixtures/mlp-tiny/query.safetensors";
    let mut text = String::new();
    let mut case = |what: &str, train: &str| {
        text.push_str(&format!("# {what}\n{}\n", refused(&folder, model, train, query, "")));
    };
    case("rows of another model", "fixtures/mlp-regression/train.safetensors");
    case("tensors of something else", "fixtures/mlp-tiny/subsets.safetensors");
    case("text for an MLP", TRAIN);
    let mut bytes = fs::read(crate::support::root().join("fixtures/mlp-tiny/train.safetensors")).unwrap();
    bytes.truncate(bytes.len() - 3);
    case("a truncated file", &folder.write("train.safetensors", bytes));
    insta::assert_snapshot!(text);
}

#[test]
fn job_files() {
    let folder = Folder::new();
    let job = |change: &str| {
        format!(
            "[model]\npath = \"fixtures/mlp-tiny\"\n[data]\ntrain = \"t\"\n[method]\n{change}\n[output]\npath = \"TMP\"\n"
        )
    };
    let mut text = String::new();
    let contents = [
        ("an unknown key", job("curvatur = \"kfac\"")),
        ("an unknown value", job("curvature = \"kfca\"")),
        ("a bad damping", job("damping = \"plenty\"")),
        ("a missing key", "[model]\npath = \"m\"\n".to_owned()),
        ("no TOML", "model: m\n".to_owned()),
        ("texts of no length", job("").replace("[method]", "max_length = 0\n[method]")),
        ("blocks of no length", job("").replace("[method]", "pack = 0\n[method]")),
        ("rows of no blocks", job("").replace("[method]", "pack_rows = 1000\n[method]")),
        ("an unknown choice", job("").replace("[method]", "special_tokens = \"some\"\n[method]")),
    ];
    for (what, content) in contents {
        let file = folder.write("job.toml", content);
        let ended = ended(ascribe(&format!("run {file}")));
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{what}");
        text.push_str(&folder.filtered(&format!("# {what}\n{}\n", ended.err)));
    }
    insta::assert_snapshot!(text);
}

/// Runs `arguments` on a folder with something in it; returns the message, and checks that all is as it was.
#[track_caller]
fn refused_on(folder: &Folder, arguments: &str) -> String {
    let before = folder.files("run");
    let ended = ended(ascribe(&format!("{arguments} --out {}", folder.arg("run"))));
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments}\n{}", ended.err);
    crate::support::assert_untouched(&before, &folder.files("run"));
    // of the plan and the message, the message
    let at = ended.err.find("error: ").expect("a message");
    folder.filtered(&ended.err[at..])
}

#[test]
fn run_folders() {
    let mut text = String::new();
    let folder = Folder::new();
    folder.write("run/thesis.tex", "two years of work");
    text.push_str(&format!("# a folder of something else\n{}\n", refused_on(&folder, &format!("influence {MLP}"))));

    let folder = Folder::new();
    done(&format!("influence {MLP} --out {} --quiet", folder.arg("run")));
    let other = format!("influence {GPT2}");
    text.push_str(&format!("# a run of other inputs\n{}\n", refused_on(&folder, &other)));
    let seed = format!("influence {MLP} --seed 1");
    text.push_str(&format!("# a run with other options\n{}\n", refused_on(&folder, &seed)));
    let damping = format!("influence {MLP} --damping 1e-3");
    text.push_str(&format!("# scores with other options\n{}\n", refused_on(&folder, &damping)));
    insta::assert_snapshot!(text);
}

#[test]
fn two_processes_on_one_run_folder() {
    use ascribe::attribution::store::{Store, Writer};
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!("influence {MLP} --out {run} --quiet"));
    let key = Store::open(&folder.path("run")).unwrap().job();
    let held = Store::claim(&folder.path("run"), &key, Writer::Whole).unwrap();
    let said = refused_on(&folder, &format!("influence {MLP}"));
    insta::assert_snapshot!(said, @r"
    error: the run folder `TMP/run` is in use by another process (pid PID)
    hint: wait until it ends, end it, or choose another `--out`
    ");
    // readers may read any time
    done(&format!("inspect {run}"));
    done(&format!("rank --out {run} --quiet"));
    drop(held);
    done(&format!("influence {MLP} --out {run} --quiet"));
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_this_build_does_not_have() {
    let folder = Folder::new();
    insta::assert_snapshot!(refused_on(&folder, &format!("influence {MLP} --device cuda")), @r"
    error: `cuda:0` cannot be used: this program was built without CUDA
    hint: leave the device out to use the processor, or build with `--features cuda` on a machine with an NVIDIA GPU
    ");
    let said = refused_on(&folder, &format!("influence {MLP} --device gpu"));
    assert!(said.contains("no device `gpu`: `cpu`, `cuda` or `cuda:1`"), "{said}");
}

/// A damaged artifact is an error that says it may be deleted, and deleting it mends the run.
#[test]
fn damaged_artifacts() {
    let folder = Folder::new();
    let run = folder.arg("run");
    let ranking = done(&format!("influence {MLP} --out {run} --quiet")).out;
    let mut artifacts = fs::read_dir(folder.path("run/artifacts")).unwrap().map(|entry| entry.unwrap().path());
    let lambda = artifacts.find(|path| path.to_string_lossy().contains("lambda-")).expect("EK-FAC has a lambda");
    let bytes = fs::read(&lambda).unwrap();
    fs::write(&lambda, &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_file(folder.path("run/scores.safetensors")).unwrap();
    let parts = fs::read_dir(folder.path("run/artifacts")).unwrap().map(|entry| entry.unwrap().path());
    for path in parts
        .filter(|path| !path.to_string_lossy().contains("lambda-") && !path.to_string_lossy().contains("eigenbasis-"))
    {
        fs::remove_file(path).unwrap();
    }
    let said = ended(ascribe(&format!("influence {MLP} --out {run} --quiet")));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("lambda-") && said.err.contains("deleting this file is safe"), "{}", said.err);
    fs::remove_file(&lambda).unwrap();
    assert_eq!(done(&format!("influence {MLP} --out {run} --quiet")).out, ranking);
}

/// Files of token ids need no tokenizer, and one without any row or with a broken one does not ask for it.
#[test]
fn what_is_wrong_with_a_file_is_said_where_there_is_no_tokenizer() {
    let folder = Folder::new();
    let train = folder.write("train.jsonl", "{\"input_ids\": [3, 4, 5]}\n");
    for (content, problem) in [("\n", "at least one example"), ("{\"input_ids\": [3,\n", "asked.jsonl:1")] {
        let asked = folder.write("asked.jsonl", content);
        let text = refused(&folder, "fixtures/families/qwen2", &train, &asked, "");
        assert!(text.contains(problem) && !text.contains("tokenizer"), "{text}");
    }
    let asked = folder.write("asked.jsonl", "{\"text\": \"the sheep\"}\n");
    let text = refused(&folder, "fixtures/families/qwen2", &train, &asked, "");
    assert!(text.contains("no `tokenizer.json`"), "{text}");
}
