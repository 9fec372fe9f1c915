//! Tests of second moments as layers have them.

use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value as Json;

use super::*;
use crate::Hint;
use crate::curvature::Network;
use crate::model::{LoadOptions, Model, Weights};
use crate::trajectory::optimizer_state::tests::{nothing, text, torch_file};
use crate::trajectory::request::TrajectoryRequest;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory").join(name)
}

const VERSION: Option<TransformersVersion> = Some(TransformersVersion::new(5, 23));

fn layer(name: &str, outputs: usize, inputs: usize, bias: bool) -> LayerSpec {
    LayerSpec { name: name.to_owned(), outputs, inputs, bias, input_group: 0, vocabulary: None }
}

fn parameters(run: &str) -> Vec<Parameter> {
    let text = std::fs::read_to_string(fixture("applied.json")).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    let shape = |p: &Json| p["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let list = json[run]["parameters"].as_array().unwrap();
    list.iter().map(|p| Parameter { name: p["name"].as_str().unwrap().to_owned(), shape: shape(p) }).collect()
}

/// A checkpoint of zeros: the runs of `fixtures/trajectory` are kept without weights.
fn zeros(run: &str, parameters: &[Parameter]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = fixture(&format!("{run}/checkpoint-20/config.json"));
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    let data = vec![0; 4096];
    let tensors = parameters.iter().map(|Parameter { name, shape }| {
        let bytes = 4 * shape.iter().product::<usize>();
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), &data[..bytes]).unwrap())
    });
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    folder
}

/// Entry by entry against the file's own layout: GPT-2 is transposed, Llama is not.
#[test]
fn layers_get_their_own_numbers_in_the_layout_of_gradients() {
    let gpt2 = [
        layer("transformer.h.0.attn.c_attn", 12, 4, true),
        layer("transformer.h.0.mlp.c_fc", 6, 4, true),
        layer("lm_head", 12, 4, false),
    ];
    let llama =
        [layer("model.layers.1.self_attn.k_proj", 2, 4, false), layer("model.layers.0.mlp.down_proj", 4, 6, false)];
    for (run, layers) in [("adamw-gpt2", &gpt2[..]), ("adamw-llama", &llama[..])] {
        let list = parameters(run);
        let folder = zeros(run, &list);
        let file = fixture(&format!("{run}/checkpoint-20/optimizer.pt"));
        let moments = second_moments(folder.path(), &file, layers, VERSION, &nothing()).unwrap();
        let mut state = OptimizerState::open(&file, &list, VERSION, &nothing()).unwrap();
        for (layer, moments) in layers.iter().zip(moments) {
            let moments = moments.unwrap();
            let (o, i, columns) = (layer.outputs, layer.inputs, layer.columns());
            assert_eq!(moments.len(), layer.parameters());
            let conv1d = layer.name.starts_with("transformer.h.");
            let name = if layer.name == "lm_head" { "transformer.wte" } else { &layer.name };
            let weight = state.corrected_second_moment(&format!("{name}.weight")).unwrap();
            for (r, c) in (0..o).flat_map(|r| (0..i).map(move |c| (r, c))) {
                let at = if conv1d { c * o + r } else { r * i + c };
                assert_eq!(moments[r * columns + c], weight[at], "{name} {r} {c}");
            }
            if layer.bias {
                let bias = state.corrected_second_moment(&format!("{name}.bias")).unwrap();
                assert!((0..o).all(|r| moments[r * columns + i] == bias[r]), "{name}");
            }
        }
    }
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let list = parameters("adamw-gpt2");
    let folder = zeros("adamw-gpt2", &list);
    let file = fixture("adamw-gpt2/checkpoint-20/optimizer.pt");
    let error = |layer: LayerSpec| second_moments(folder.path(), &file, &[layer], VERSION, &nothing()).unwrap_err();
    let transposed = error(layer("transformer.h.0.mlp.c_fc", 4, 6, true));
    assert!(
        transposed
            .to_string()
            .ends_with("`transformer.h.0.mlp.c_fc.weight` has the shape [4, 6], the layer needs [6, 4]"),
        "{transposed}"
    );
    assert!(transposed.hint().is_some());
    let absent = error(layer("transformer.h.1.mlp.c_fc", 6, 4, true)).to_string();
    assert!(absent.ends_with("has no `transformer.h.1.mlp.c_fc.weight`, whose second moments are needed"), "{absent}");
    // The tied head has no bias.
    assert!(error(layer("lm_head", 12, 4, true)).to_string().contains("has no `lm_head.bias`"));
    let unused = fixture("sgd-gpt2/checkpoint-20/optimizer.pt");
    let error = second_moments(folder.path(), &unused, &[], VERSION, &nothing()).unwrap_err();
    assert!(error.to_string().contains("holds the state of SGD with momentum"), "{error}");
    // A model with one more block: nothing fits, nothing is guessed.
    let mut longer = list.clone();
    longer.extend(
        list.iter()
            .filter(|p| p.name.contains(".h.0."))
            .map(|p| Parameter { name: p.name.replace(".h.0.", ".h.1."), shape: p.shape.clone() }),
    );
    let folder = zeros("adamw-gpt2", &longer);
    let error = second_moments(folder.path(), &file, &[], VERSION, &nothing()).unwrap_err();
    assert!(matches!(error, ReadError::OptimizerState(OptimizerStateError::Unmatched { .. })), "{error}");
}

/// A real run from end to end: every number that torch has, in the layout of gradients (Conv1D transposed, the bias
/// last), for the layers that the model tracks.
#[test]
fn a_trainers_run_gives_what_torch_gives() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainer-tiny");
    let reading = TrajectoryRequest::new(run.clone()).read().unwrap().remove(0);
    let bytes = std::fs::read(run.join("expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for step in [60, 240] {
        let files = reading.checkpoints.iter().find(|files| files.step == step).unwrap();
        let model = Model::load(&files.folder, &LoadOptions::default()).unwrap();
        let layers = model.layers();
        assert_eq!(layers.len(), 8);
        let optimizer = files.optimizer.as_ref().unwrap();
        let moments = second_moments(&files.folder, optimizer, layers, reading.version, &nothing()).unwrap();
        for (layer, moments) in layers.iter().zip(moments) {
            let view = expected.tensor(&format!("second_moment.{}.{step}", layer.name)).unwrap();
            assert_eq!(view.shape(), [layer.outputs, layer.columns()]);
            let numbers = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            for (at, (got, torch)) in moments.unwrap().into_iter().zip(numbers).enumerate() {
                // Both in f64 and rounded once; the correction's last digit may differ.
                assert!((got - torch).abs() <= 6e-8 * torch, "{} {at}: {got:e} {torch:e}", layer.name);
            }
        }
    }
}

/// The state of an MLP 3-2-1, second moments `10 p + k` of parameter `p`, for the parameters of `updated`.
fn mlp_state(updated: &[u8]) -> tempfile::NamedTempFile {
    let shapes: [&[u8]; 4] = [&[2, 3], &[2], &[1, 2], &[1]];
    let numbers = |list: &[u8]| list.iter().flat_map(|&n| [b'K', n]).collect::<Vec<_>>();
    let (mut state, mut storages) = (b"}(".to_vec(), Vec::new());
    for &p in updated {
        let shape = shapes[usize::from(p)];
        let count: u8 = shape.iter().product();
        let strides = if shape.len() == 2 { vec![shape[1], 1] } else { vec![1] };
        let close: &[u8] = if shape.len() == 2 { b"\x86" } else { b"\x85" };
        let storage =
            [b"(".as_slice(), &text("storage"), b"ctorch\nFloatStorage\n", &text(&p.to_string()), &text("cpu")];
        let tensor = [
            &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
            &storage.concat(),
            &[b'K', count],
            b"tQK\0",
            &[numbers(shape), close.to_vec(), numbers(&strides), close.to_vec()].concat(),
            b"\x89}tR",
        ];
        state.extend(
            [&[b'K', p][..], b"}(", &text("step"), b"K\x01", &text("exp_avg_sq"), &tensor.concat(), b"u"].concat(),
        );
        let values = (0..count).flat_map(|k| f32::from(10 * p + k).to_le_bytes());
        storages.push((p.to_string(), values.collect::<Vec<u8>>()));
    }
    state.push(b'u');
    let half = [b"G".as_slice(), &0.5f64.to_be_bytes()].concat();
    let group = [b"}(".as_slice(), &text("params"), b"](K\0K\x01K\x02K\x03e", &text("betas"), &half, &half, b"\x86u"];
    let root =
        [b"\x80\x02}(".as_slice(), &text("state"), &state, &text("param_groups"), b"](", &group.concat(), b"eu."];
    torch_file(&root.concat(), &storages)
}

#[test]
fn a_layer_that_was_never_updated_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"model_type": "mlp", "activation": "relu", "task": "classification"}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let data = [0; 24];
    let shapes = [("fc1.weight", vec![2, 3]), ("fc1.bias", vec![2]), ("fc2.weight", vec![1, 2]), ("fc2.bias", vec![1])];
    let tensors = shapes.map(|(name, shape)| {
        let n = 4 * shape.iter().product::<usize>();
        (name, TensorView::new(Dtype::F32, shape, &data[..n]).unwrap())
    });
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    assert_eq!(Weights::open(folder.path()).unwrap().names().next(), Some("fc1.bias"), "sorted by name on disk");
    let layers = [layer("fc1", 2, 3, true), layer("fc2", 1, 2, true)];
    let moments =
        |state: &tempfile::NamedTempFile| second_moments(folder.path(), state.path(), &layers, None, &nothing());
    // β₂ = ½ after one step: v̂ = 2 v.
    let first = Some(vec![0.0, 2.0, 4.0, 20.0, 6.0, 8.0, 10.0, 22.0]);
    let second = Some(vec![40.0, 42.0, 60.0]);
    assert_eq!(moments(&mlp_state(&[0, 1, 2, 3])).unwrap(), [first, second.clone()]);
    assert_eq!(moments(&mlp_state(&[2, 3])).unwrap(), [None, second]);
    for (updated, unmoved) in [([0, 2, 3], "fc1.bias"), ([1, 2, 3], "fc1.weight")] {
        let error = moments(&mlp_state(&updated)).unwrap_err().to_string();
        assert!(error.ends_with(&format!("has no second moments of `{unmoved}`")), "{error}");
    }
}

/// `../shared/data/gpt2-mini`, when it is there: single numbers as torch gives them,
/// `exp_avg_sq.double() / (1 - 0.99 ** step)` of the transposed weight at (row, column), and of the bias.
#[test]
fn second_moments_of_gpt2_mini() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/gpt2-mini/checkpoint-840");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    let cases = [
        (layer("transformer.h.2.attn.c_attn", 384, 128, true), 200, 3, 3.3139404831493797e-9, 2.412373330631909e-20),
        (layer("transformer.h.2.attn.c_attn", 384, 128, true), 3, 100, 1.5172441344313e-8, 6.468606545694673e-8),
        (layer("transformer.h.0.mlp.c_fc", 512, 128, true), 500, 7, 1.047717039438703e-7, 1.1388407661326619e-7),
        (layer("transformer.h.3.attn.c_proj", 128, 128, true), 5, 100, 3.668524628553092e-8, 1.2326020275683926e-7),
        (layer("transformer.h.1.mlp.c_proj", 128, 512, true), 1, 511, 1.8763131265120855e-8, 1.0058605314708938e-7),
    ];
    let layers: Vec<LayerSpec> = cases.iter().map(|(layer, ..)| layer.clone()).collect();
    let moments = second_moments(&folder, &folder.join("optimizer.pt"), &layers, VERSION, &nothing()).unwrap();
    for ((layer, r, c, weight, bias), moments) in cases.iter().zip(moments) {
        let (moments, columns) = (moments.unwrap(), layer.columns());
        for (got, expected) in [(moments[r * columns + c], *weight), (moments[r * columns + columns - 1], *bias)] {
            // One rounding to f32.
            assert!(
                (f64::from(got) - expected).abs() <= 6e-8 * expected,
                "{} {r} {c}: {got:e} {expected:e}",
                layer.name
            );
        }
    }
}
