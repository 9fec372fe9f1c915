//! The fuzz targets of `fuzz/fuzz_targets`, each run on a file of its kind and on mutations of that file, so that the
//! targets compile and hold on every test run. Searching for inputs is cargo-fuzz's work (CONTRIBUTING.md).

use std::fs::{File, read};
use std::io::Read;
use std::path::PathBuf;

// The targets name libFuzzer's crate; here this file stands in for it.
extern crate self as libfuzzer_sys;

pub(crate) use harness::fuzz_target;

/// The macro that libFuzzer's crate has, in a module so that targets import it.
mod harness {
    /// A fuzz target as a test: its body is run on every input that `inputs` makes for its module.
    macro_rules! fuzz_target {
        (|$bytes:ident: &[u8]| $body:block) => {
            #[test]
            fn any_bytes_are_read_or_refused() {
                for input in crate::inputs(module_path!()) {
                    let run = |$bytes: &[u8]| $body;
                    run(&input);
                }
            }
        };
    }
    pub(crate) use fuzz_target;
}

/// The named target of `fuzz/fuzz_targets` as a module of this file.
macro_rules! target {
    ($name:ident, $file:literal) => {
        #[path = $file]
        #[allow(unused_attributes)] // `no_main` is the fuzzer's
        mod $name;
    };
}

target!(config, "../fuzz/fuzz_targets/config.rs");
target!(job, "../fuzz/fuzz_targets/job.rs");
target!(jsonl, "../fuzz/fuzz_targets/jsonl.rs");
target!(pickle, "../fuzz/fuzz_targets/pickle.rs");
target!(rows, "../fuzz/fuzz_targets/rows.rs");
target!(tensor_file, "../fuzz/fuzz_targets/tensor_file.rs");
target!(torch_zip, "../fuzz/fuzz_targets/torch_zip.rs");
target!(weights, "../fuzz/fuzz_targets/weights.rs");

/// A job that is read.
const JOB: &str = "[model]\npath = \"model\"\n[data]\ntrain = \"train.jsonl\"\nqueries = \"queries.jsonl\"\n\
                   [method]\ndamping = [\"0.1x\", \"0.01x\"]\n[output]\npath = \"run\"\n";

/// Mutations of one file.
const MUTATIONS: usize = 100;

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// A valid file for the target of a module, behind every byte of choices that the target takes.
fn valid(module: &str) -> Vec<Vec<u8>> {
    let file = |path: &str| read(fixture(path)).expect("a fixture");
    let chosen = |choices: &[u8], path: &str| {
        let file = file(path);
        choices.iter().map(|&choice| [&[choice], file.as_slice()].concat()).collect()
    };
    const SCHEDULER: &str = "trajectory/constant-500/checkpoint-515/scheduler.pt";
    match module.rsplit("::").next().expect("a name") {
        "config" => {
            let files = ["gpt2-tiny/config.json", "mlp-tiny/config.json", "llama-tiny/config.json"];
            (0..).zip(files).flat_map(|(choice, file)| chosen(&[choice], file)).collect()
        }
        "job" => vec![JOB.as_bytes().to_vec()],
        "jsonl" => [
            chosen(&[0, 2, 4, 8, 0x10], "gpt2-tiny/queries.jsonl"),
            chosen(&[0x20], "forms/train.json"),
            chosen(&[0x30], "forms/train.csv"),
            chosen(&[0x50], "forms/nested.parquet"),
        ]
        .concat(),
        "pickle" => {
            let mut archive = zip::ZipArchive::new(File::open(fixture(SCHEDULER)).expect("a fixture")).expect("a zip");
            let names = archive.file_names().map(|name| name.expect("a name").into_owned()).collect::<Vec<_>>();
            let name = names.iter().find(|name| name.ends_with("/data.pkl")).expect("a pickle");
            let mut pickle = Vec::new();
            archive.by_name(name).expect("the pickle").read_to_end(&mut pickle).expect("it can be read");
            vec![pickle]
        }
        "rows" => chosen(&[0, 1, 6, 0xf4], "mlp-tiny/query.safetensors"),
        "torch_zip" => vec![file(SCHEDULER)],
        "tensor_file" | "weights" => vec![file("mlp-tiny/model.safetensors")],
        other => panic!("no file for the fuzz target {other}"),
    }
}

/// The inputs of a target: no bytes, each valid file, and the files cut short, with bytes changed and with a part
/// repeated, at places that depend on nothing but the number of the mutation.
fn inputs(module: &str) -> Vec<Vec<u8>> {
    let valid = valid(module);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        // Steele, Lea and Flood 2014: SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % limit as u64) as usize
    };
    let mutated = (0..MUTATIONS).map(|number| {
        let mut bytes = valid[number % valid.len()].clone();
        // A file's head decides what the rest means.
        let place = if number % 2 == 0 { below(bytes.len().min(512)) } else { below(bytes.len()) };
        match number % 4 {
            0 => bytes.truncate(place),
            1 | 2 => bytes[place] ^= 1 << below(8),
            _ => {
                let part = bytes[place..].iter().take(64).copied().collect::<Vec<_>>();
                bytes.splice(place..place, part);
            }
        }
        bytes
    });
    let mutated = mutated.collect::<Vec<_>>();
    [vec![Vec::new()], valid, mutated].concat()
}

#[test]
fn the_job_that_is_mutated_is_one() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), JOB).expect("the file can be written");
    ascribe::job::Job::read(file.path()).expect("a job");
}
