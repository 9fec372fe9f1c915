use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value as Json;

use super::*;
use crate::trajectory::parameter_groups::Parameter;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory").join(name)
}

const VERSION: Option<TransformersVersion> = Some(TransformersVersion::new(5, 23));

fn layer(name: &str, outputs: usize, inputs: usize, bias: bool) -> LayerSpec {
    LayerSpec { name: name.to_owned(), outputs, inputs, bias, input_group: 0 }
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
        let moments = second_moments(folder.path(), &file, layers, VERSION).unwrap();
        let mut state = OptimizerState::open(&file, &list, VERSION).unwrap();
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
    let error = |layer: LayerSpec| second_moments(folder.path(), &file, &[layer], VERSION).unwrap_err();
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
    let error = second_moments(folder.path(), &unused, &[], VERSION).unwrap_err();
    assert!(error.to_string().contains("holds the state of SGD with momentum"), "{error}");
    // A model with one more block: nothing fits, nothing is guessed.
    let mut longer = list.clone();
    longer.extend(
        list.iter()
            .filter(|p| p.name.contains(".h.0."))
            .map(|p| Parameter { name: p.name.replace(".h.0.", ".h.1."), shape: p.shape.clone() }),
    );
    let folder = zeros("adamw-gpt2", &longer);
    let error = second_moments(folder.path(), &file, &[], VERSION).unwrap_err();
    assert!(matches!(error, ReadError::OptimizerState(OptimizerStateError::Unmatched { .. })), "{error}");
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
    let moments = second_moments(&folder, &folder.join("optimizer.pt"), &layers, VERSION).unwrap();
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
