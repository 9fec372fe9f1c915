//! Tests of reading `optimizer.pt`.

use std::io::{Read, Write};

use proptest::prelude::*;
use serde_json::Value as Json;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::*;
use crate::Hint;

/// Nothing is known to be frozen.
pub(in crate::trajectory) fn nothing() -> FrozenParameters {
    FrozenParameters::default()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory").join(name)
}

fn applied(run: &str) -> Json {
    let text = std::fs::read_to_string(fixture("applied.json")).unwrap();
    serde_json::from_str::<Json>(&text).unwrap()[run].clone()
}

fn parameters(run: &Json) -> Vec<Parameter> {
    let shape = |p: &Json| p["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let list = run["parameters"].as_array().unwrap();
    list.iter().map(|p| Parameter { name: p["name"].as_str().unwrap().to_string(), shape: shape(p) }).collect()
}

/// Every parameter's second moments against those that Python saw under that name.
#[test]
fn second_moments_are_found_by_name() {
    for (run, beta2) in [("adamw-gpt2", 0.95), ("adamw-llama", 0.999)] {
        let expected = applied(run);
        let parameters = parameters(&expected);
        let path = fixture(&format!("{run}/checkpoint-20/optimizer.pt"));
        let mut state =
            OptimizerState::open(&path, &parameters, TransformersVersion::parse("5.23.0"), &nothing()).unwrap();
        assert_eq!(state.rule().to_string(), "decay groups of transformers 4.53 and later");
        let sizes: Vec<usize> =
            expected["groups"].as_array().unwrap().iter().map(|g| g.as_array().unwrap().len()).collect();
        assert_eq!(state.groups().iter().map(|g| g.n_parameters).collect::<Vec<_>>(), sizes);
        for (i, group) in expected["groups"].as_array().unwrap().iter().enumerate() {
            for name in group.as_array().unwrap() {
                let decay = state.group_of(name.as_str().unwrap()).unwrap().weight_decay;
                assert_eq!(decay, Some([0.05, 0.0][i]), "{name}");
            }
        }
        for Parameter { name, shape } in &parameters {
            let recorded = &expected["second_moments"][name];
            assert_eq!(state.step(name), recorded["step"].as_f64());
            let v = state.second_moment(name).unwrap();
            assert_eq!(v.len(), shape.iter().product::<usize>(), "{name}");
            let sum: f64 = v.iter().map(|&v| f64::from(v)).sum();
            let recorded_sum = recorded["sum"].as_f64().unwrap();
            assert!((sum - recorded_sum).abs() <= 1e-12 * recorded_sum, "{name}: {sum:e} {recorded_sum:e}");
            // serde_json reads decimals to within an ulp of f64.
            assert_eq!(*v.last().unwrap(), recorded["last"].as_f64().unwrap() as f32);
            let corrected = state.corrected_second_moment(name).unwrap();
            let factor = 1.0 - f64::powi(beta2, 20);
            for (v, c) in v.iter().zip(corrected) {
                // One rounding to f32.
                assert!((f64::from(*v) / factor - f64::from(c)).abs() <= 1e-7 * f64::from(c), "{name}");
            }
        }
        assert!(matches!(state.second_moment("nothing"), Err(OptimizerStateError::NoState { .. })));
    }
}

/// States in bfloat16, under accelerate's name, and of plain Adam, as torch and accelerate wrote them
/// (`fixtures/generators/optimizer_states.py`), against what Python saw.
#[test]
fn states_in_other_precisions_and_under_other_names_are_read() {
    let folder = fixture("states");
    let expected: Json = serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    for (name, file, kind) in [
        ("bf16", "optimizer.pt", "torch.bfloat16"),
        ("adam", "optimizer.bin", "torch.float32"),
        ("accelerate", "optimizer.bin", "torch.float32"),
    ] {
        let path = find(&folder.join(name)).unwrap().unwrap();
        assert_eq!(path, folder.join(name).join(file));
        assert_eq!(updates(&path).unwrap(), Some(6.0), "{name}");
        let run = serde_json::json!({"parameters": expected[name].clone()});
        let parameters = parameters(&run);
        let mut state = OptimizerState::open(&path, &parameters, None, &nothing()).unwrap();
        for recorded in expected[name].as_array().unwrap() {
            let parameter = recorded["name"].as_str().unwrap();
            assert_eq!(recorded["dtype"], kind);
            assert_eq!(state.step(parameter), recorded["step"].as_f64(), "{name} {parameter}");
            let found = state.second_moment(parameter).unwrap();
            let list = recorded["second_moment"].as_array().unwrap();
            let list: Vec<f32> = list.iter().map(|number| number.as_f64().unwrap() as f32).collect();
            assert_eq!(found, list, "{name} {parameter}");
            assert!(found.iter().all(|&v| v > 0.0));
        }
    }
}

#[test]
fn a_wrong_model_is_refused() {
    let path = fixture("adamw-gpt2/checkpoint-20/optimizer.pt");
    let mut wrong = parameters(&applied("adamw-gpt2"));
    wrong[0].shape.reverse();
    let error = OptimizerState::open(&path, &wrong, None, &nothing()).err().unwrap();
    assert!(error.to_string().ends_with("fit no known order of the model's 16"), "{error}");
    wrong.pop();
    let error = OptimizerState::open(&path, &wrong, None, &nothing()).err().unwrap();
    assert!(error.hint().unwrap().contains("known rules give groups of"), "{error}");
}

#[test]
fn a_state_without_second_moments_is_named() {
    let path = fixture("sgd-gpt2/checkpoint-20/optimizer.pt");
    let error = OptimizerState::open(&path, &parameters(&applied("sgd-gpt2")), None, &nothing()).err().unwrap();
    assert!(error.to_string().contains("holds the state of SGD with momentum"), "{error}");
    assert_eq!(read_groups(&path).unwrap()[0].momentum, Some(0.9));
    let scheduler = fixture("linear-1/checkpoint-24/scheduler.pt");
    let error = read_groups(&scheduler).unwrap_err();
    assert!(error.to_string().ends_with("`state` is missing, expected a dict"), "{error}");
}

#[test]
fn sharded_states_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(find(folder.path()).unwrap().is_none());
    std::fs::create_dir(folder.path().join("optimizer_0")).unwrap();
    assert!(find(folder.path()).unwrap_err().to_string().contains("an FSDP run"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("latest"), "global_step10").unwrap();
    std::fs::write(folder.path().join("zero_to_fp32.py"), "").unwrap();
    let error = find(folder.path()).unwrap_err();
    assert!(error.to_string().contains("a DeepSpeed run") && error.hint().unwrap().contains("zero_to_fp32"));
}

/// `../shared/data/gpt2-mini`, when it is there; the sums are those of `torch.load` by name.
#[test]
fn second_moments_of_gpt2_mini() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/gpt2-mini");
    if !run.is_dir() {
        eprintln!("skipped: {} is not there", run.display());
        return;
    }
    let mut parameters = Vec::new();
    let mut add = |name: String, shape: &[usize]| parameters.push(Parameter { name, shape: shape.to_vec() });
    add("transformer.wte.weight".to_string(), &[2048, 128]);
    add("transformer.wpe.weight".to_string(), &[128, 128]);
    for block in 0..4 {
        let mut add = |name: &str, shape: &[usize]| add(format!("transformer.h.{block}.{name}"), shape);
        // Conv1D: [in, out].
        for (name, shape) in [
            ("ln_1", &[128][..]),
            ("attn.c_attn", &[128, 384]),
            ("attn.c_proj", &[128, 128]),
            ("ln_2", &[128]),
            ("mlp.c_fc", &[128, 512]),
            ("mlp.c_proj", &[512, 128]),
        ] {
            add(&format!("{name}.weight"), shape);
            add(&format!("{name}.bias"), &shape[shape.len() - 1..]);
        }
    }
    add("transformer.ln_f.weight".to_string(), &[128]);
    add("transformer.ln_f.bias".to_string(), &[128]);
    let names = ["transformer.h.2.attn.c_attn.weight", "transformer.h.0.attn.c_attn.bias", "transformer.ln_f.weight"];
    for (step, sums) in [
        (840, [0.0008692044935191823, 0.024626722807070678, 0.001851969126619224]),
        (1680, [0.002282040815837494, 0.03986193119230565, 0.0018930672194983345]),
        (2520, [0.0037047614736340773, 0.032871278696376315, 0.0015401261284750944]),
    ] {
        let path = run.join(format!("checkpoint-{step}/optimizer.pt"));
        let mut state =
            OptimizerState::open(&path, &parameters, Some(TransformersVersion::new(5, 23)), &nothing()).unwrap();
        assert_eq!(state.groups().iter().map(|group| group.n_parameters).collect::<Vec<_>>(), [18, 34]);
        for Parameter { name, shape } in &parameters {
            let v = state.second_moment(name).unwrap();
            assert_eq!(v.len(), shape.iter().product::<usize>());
            assert!(v.iter().all(|&v| v >= 0.0) && v.iter().any(|&v| v > 0.0), "{name}");
            assert_eq!(state.step(name), Some(f64::from(step)));
        }
        for (name, sum) in names.into_iter().zip(sums) {
            let got: f64 = state.second_moment(name).unwrap().iter().map(|&v| f64::from(v)).sum();
            assert!((got - sum).abs() <= 1e-12 * sum, "{step} {name}: {got:e} {sum:e}");
        }
    }
}

/// A torch file with right checksums around any pickle: what an attacker would send.
pub(in crate::trajectory) fn torch_file(pickle: &[u8], storages: &[(String, Vec<u8>)]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = ZipWriter::new(&mut file);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(pickle).unwrap();
    for (key, bytes) in storages {
        zip.start_file(format!("archive/data/{key}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    file
}

/// The pickle of `text` as protocol 2.
pub(in crate::trajectory) fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// `{"state": {key: {field: None}}, "param_groups": []}`.
fn state_with(key: &[u8], field: &str) -> tempfile::NamedTempFile {
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(text("state"));
    pickle.extend(b"}(");
    pickle.extend(key);
    pickle.extend(b"}(");
    pickle.extend(text(field));
    pickle.extend(b"Nuu");
    pickle.extend(text("param_groups"));
    pickle.extend(b"]u.");
    torch_file(&pickle, &[])
}

#[test]
fn foreign_states_are_named() {
    let name = |key: &[u8], field: &str| {
        let file = state_with(key, field);
        let error = read_groups(file.path()).unwrap_err();
        assert!(matches!(error, OptimizerStateError::Kind { .. }) && error.hint().is_some(), "{error}");
        error.to_string().split("state of ").nth(1).unwrap().split(", which").next().unwrap().to_string()
    };
    let zero = [b'K', 0];
    assert_eq!(name(&zero, "state1"), "an 8-bit or bitsandbytes optimizer");
    assert_eq!(name(&zero, "__bnb_optimizer_quant_state__"), "an 8-bit or bitsandbytes optimizer");
    assert_eq!(name(&zero, "exp_avg_sq_row"), "Adafactor");
    assert_eq!(name(&zero, "max_exp_avg_sq"), "Adam with `amsgrad`");
    assert_eq!(name(&text("transformer.wte.weight"), "exp_avg_sq"), "an FSDP run (entries by name)");
    let deepspeed = torch_file(&[b"\x80\x02}".as_slice(), &text("zero_stage"), b"K\x02s."].concat(), &[]);
    assert!(read_groups(deepspeed.path()).unwrap_err().to_string().contains("a DeepSpeed run"));
}

/// A transposed `Parameter` in half precision, as `torch.save` writes one.
#[test]
fn wrapped_and_transposed_tensors_are_read() {
    let mut storage = b"(".to_vec();
    storage.extend(text("storage"));
    storage.extend(b"ctorch\nHalfStorage\n");
    storage.extend([text("7"), text("cpu")].concat());
    storage.extend(b"K\x08tQ");
    let ends = |sizes: &[u8]| sizes.iter().flat_map(|&n| [b'K', n]).collect::<Vec<_>>();
    let tensor = |shape: &[u8], strides: &[u8]| {
        let (shape, strides) = (ends(shape), ends(strides));
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(),
            &storage,
            b"K\x01",
            &shape,
            b"\x86",
            &strides,
            b"\x86\x89}tR",
        ]
        .concat()
    };
    let parameter =
        |tensor: Vec<u8>| [b"\x80\x02ctorch._utils\n_rebuild_parameter\n".as_slice(), &tensor, b"\x88}\x87R."].concat();
    let numbers: Vec<u8> = (0..8).flat_map(|i| half::f16::from_f32(i as f32 / 4.0).to_le_bytes()).collect();
    let storages = [("7".to_string(), numbers)];
    let file = torch_file(&parameter(tensor(&[2, 3], &[1, 2])), &storages);
    let mut file = TorchFile::open(file.path()).unwrap();
    let place = file.tensor(file.value()).unwrap();
    // Element (i, j) is number 1 + i + 2 j of the storage.
    assert_eq!(file.read_f64(&place).unwrap(), [0.25, 0.75, 1.25, 0.5, 1.0, 1.5]);
    assert_eq!(file.read_f32(&place).unwrap(), [0.25, 0.75, 1.25, 0.5, 1.0, 1.5]);
    let outside = torch_file(&parameter(tensor(&[2, 4], &[1, 2])), &storages);
    let outside = TorchFile::open(outside.path()).unwrap();
    let message = outside.tensor(outside.value()).unwrap_err().to_string();
    assert!(
        message.ends_with("a tensor of shape [2, 4], strides [1, 2] and offset 1 does not lie in its 8 elements"),
        "{message}"
    );
    let short = torch_file(&parameter(tensor(&[2, 3], &[1, 2])), &[("7".to_string(), vec![0; 15])]);
    let mut short = TorchFile::open(short.path()).unwrap();
    let message = short.read_f32(&place).unwrap_err().to_string();
    assert!(message.ends_with("entry `archive/data/7` has 15 bytes, expected 16"), "{message}");
    let missing = torch_file(&parameter(tensor(&[2, 3], &[1, 2])), &[]);
    let message = TorchFile::open(missing.path()).unwrap().read_f32(&place).unwrap_err().to_string();
    assert!(message.ends_with("has no entry `archive/data/7`, which a tensor needs"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// A real state whose pickle was damaged behind right checksums: read or refused, never a panic, and never more
    /// memory than its storages have.
    #[test]
    fn damaged_states_are_read_or_refused(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u32), 1..4)) {
        let mut real = ZipArchive::new(std::fs::File::open(fixture("adamw-gpt2/checkpoint-20/optimizer.pt")).unwrap()).unwrap();
        let mut pickle = Vec::new();
        real.by_name("optimizer/data.pkl").unwrap().read_to_end(&mut pickle).unwrap();
        let mut storages = Vec::new();
        for i in 0..real.len() {
            let mut entry = real.by_index(i).unwrap();
            let name = entry.name().unwrap().into_owned();
            if let Some(key) = name.strip_prefix("optimizer/data/") {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                storages.push((key.to_string(), bytes));
            }
        }
        for (at, bit) in flips {
            let at = at.index(pickle.len());
            pickle[at] ^= 1 << bit;
        }
        let file = torch_file(&pickle, &storages);
        let parameters = parameters(&applied("adamw-gpt2"));
        let _ = read_groups(file.path());
        if let Ok(mut state) = OptimizerState::open(file.path(), &parameters, None, &nothing()) {
            for Parameter { name, shape } in &parameters {
                if let Ok(v) = state.corrected_second_moment(name) {
                    prop_assert_eq!(v.len(), shape.iter().product::<usize>());
                }
            }
        }
    }
}
