//! Every checkpoint of fixtures/images against what transformers computed of it (fixtures/README.md): logits, losses and
//! gradients of images, of classes, several labels and regressions; the order of parameters; and what is refused.

use std::path::{Path, PathBuf};

use crate::support::agreement::{Agreement, logits, same_parameters};
use crate::support::editable::check_directions;
use crate::support::figures::assert_relative;
use crate::support::passes::{BATCH, Batched, Run};
use crate::support::recorded::Recorded;
use crate::support::{Source, fixture, load, load_layers, selection};
use ascribe::curvature::{CurvatureKind, Graphs, Measurement, Network};
use ascribe::data::{self, Batch, Role, read_rows_from};
use ascribe::model::{AdapterMode, AlsoTracked, Limits, LoadError, LoadOptions, Model, Residence};
use ascribe::trajectory::torch_parameters::TorchParameters;
use ascribe::trajectory::{FrozenParameters, second_moments};
use candle_core::DType;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Folders of fixtures/images.
const NAMES: [&str; 6] = ["vit", "vit-multi-label", "resnet", "resnet-bottleneck", "cnn", "cnn-grouped"];

/// Whether a fixture is a network of plain PyTorch; all of its layers are tracked.
fn is_plain(name: &str) -> bool {
    name.starts_with("cnn")
}

/// Training images of a fixture.
fn images(name: &str, model: &Model) -> data::Dataset {
    let folder = fixture(&format!("images/{name}"));
    Source::new(folder.join("train.safetensors"), Role::Train, &folder).read(model)
}

/// Gradients of every layer of a model, against those that are recorded: at least of the first image.
fn check_gradients(agreement: &mut Agreement, model: &Model, batch: &Batch, expected: &Recorded, tolerance: f64) {
    let compared = agreement.gradients(model, batch, expected, tolerance);
    for layer in model.layers() {
        assert!(compared.contains(&format!("gradient.{}.0", layer.name)), "{}", layer.name);
    }
}

/// A ViT keeps the softmax in f32 even where weights are f64, but for that rounding errors of f64 remain.
#[test]
fn every_classifier_of_images_gives_the_logits_losses_and_gradients_of_transformers() {
    for name in NAMES {
        let folder = fixture(&format!("images/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-5)] {
            let model = load_layers(&folder, dtype, &["*"]);
            let unknown = |note: &&String| note.contains("not used") || note.contains("left out");
            assert_eq!(model.notes().iter().find(unknown), None, "{name}");
            let dataset = images(name, &model);
            let batch = data::batch(&dataset, 0..dataset.len());
            let mut agreement = Agreement::new("images", name, dtype);
            agreement.logits(&model, &batch, &expected, tolerance);
            agreement.losses(&model, &batch, &expected.values("loss"), tolerance);
            check_gradients(&mut agreement, &model, &batch, &expected, tolerance);
            // the layers outside the blocks are tracked by name alone
            let usual = load(&folder, dtype);
            let outside = if is_plain(name) { 0 } else { 2 };
            assert_eq!(usual.layers().len() + outside, model.layers().len(), "{name}");
            check_gradients(&mut agreement, &usual, &batch, &expected, tolerance);
            agreement.report();
        }
    }
}

/// Networks of plain PyTorch, groups of channels among their layers: gradient products of all pairs of images within
/// 1e-5, and every layer's gradient within 1e-5 also in f32.
/// All layers at once, convolutions and those outside of blocks among them.
#[test]
fn gradients_of_image_models_are_the_slopes_of_losses_in_random_directions() {
    for name in NAMES {
        let folder = fixture(&format!("images/{name}"));
        let also: &[AlsoTracked] = if name.starts_with("vit") { &[AlsoTracked::Norms] } else { &[] };
        check_directions(["images", name], &folder, &selection(&["*"]).and(also), |model| {
            data::batch(&images(name, model), 0..3)
        });
    }
}

#[test]
fn networks_of_plain_pytorch_have_its_gradient_products() {
    for name in NAMES.into_iter().filter(|name| is_plain(name)) {
        let folder = fixture(&format!("images/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        for dtype in [DType::F32, DType::F64] {
            let model = load(&folder, dtype);
            let dataset = images(name, &model);
            let batch = data::batch(&dataset, 0..dataset.len());
            let mut agreement = Agreement::new("images", name, dtype);
            agreement.losses(&model, &batch, &expected.values("loss"), 1e-5);
            check_gradients(&mut agreement, &model, &batch, &expected, 1e-5);
            let batched = &Batched(&dataset, BATCH);
            let run = Run::empirical(CurvatureKind::Identity, Measurement::Loss);
            let found = match dtype {
                DType::F64 => run.scores::<_, f64>(&model, batched, batched).expect("scores").wide(),
                _ => run.scores::<_, f32>(&model, batched, batched).expect("scores").wide(),
            };
            // scores are per example of the training set
            let want: Vec<f64> = expected.values("products").iter().map(|p| p / dataset.len() as f64).collect();
            agreement.compare("products", &found, &want, 1e-5, "products");
            agreement.report();
        }
        let layers = load(&folder, DType::F32);
        let groups = layers.layers().iter().filter(|layer| layer.name.contains(".group.")).count();
        assert_eq!(groups, if name == "cnn" { 0 } else { 3 + 9 }, "{name}");
    }
}

/// Weights that are read when their section runs, and activations that are computed twice, give the same numbers.
#[test]
fn what_is_kept_changes_no_number() {
    for name in NAMES {
        let folder = fixture(&format!("images/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let (graphs, residence) = (Graphs::Rebuilt, Residence::BySection);
        let options = LoadOptions { dtype: DType::F64, graphs, residence, ..LoadOptions::default() };
        let model = Model::load(&folder, &options).expect("a checkpoint");
        model.check_weights().expect("finite numbers");
        let dataset = images(name, &model);
        let batch = data::batch(&dataset, 0..dataset.len());
        let mut agreement = Agreement::new("images, read by section", name, DType::F64);
        check_gradients(&mut agreement, &model, &batch, &expected, 1e-5);
        let kept = load(&folder, DType::F64);
        assert_eq!(logits(&model, &batch), logits(&kept, &batch), "{name}");
    }
}

/// What stands beside an image in a batch changes nothing of it.
#[test]
fn images_of_a_batch_give_what_each_gives_alone() {
    for name in NAMES {
        let model = load(&fixture(&format!("images/{name}")), DType::F64);
        let dataset = images(name, &model);
        let together = logits(&model, &data::batch(&dataset, 0..dataset.len()));
        let alone: Vec<f64> =
            (0..dataset.len()).flat_map(|m| logits(&model, &data::batch(&dataset, m..m + 1))).collect();
        assert_relative(&together, &alone, 1e-13, name);
    }
}

#[test]
fn optimizers_number_parameters_of_image_models_as_named_parameters_does() {
    for name in NAMES {
        let folder = fixture(&format!("images/{name}"));
        let parameters = TorchParameters::read(&folder).expect("known");
        let found: Vec<&str> = parameters.list.iter().map(|parameter| parameter.name.as_str()).collect();
        same_parameters("images", name, &folder, &found);
        for layer in load_layers(&folder, DType::F32, &["*"]).layers() {
            let (weight, _) = parameters.weight(&layer.name).expect("its weight");
            // a group of channels has some of the rows
            let (rows, first) = match parameters.channel_group(layer) {
                Some((_, first)) => (layer.outputs, first),
                None => (weight.shape[0], 0),
            };
            assert!(first + rows <= weight.shape[0], "{}", layer.name);
            assert_eq!(rows * weight.shape[1..].iter().product::<usize>(), layer.outputs * layer.inputs);
            assert_eq!(parameters.bias(&layer.name).is_some(), layer.bias, "{}", layer.name);
        }
    }
}

/// Holds the second moments of every layer after one step against the squares of the recorded gradients.
fn are_squared_gradients(model: &Model, moments: Vec<Option<Vec<f32>>>, expected: &Recorded) {
    assert_eq!(moments.len(), model.layers().len());
    for (layer, moments) in model.layers().iter().zip(moments) {
        let found: Vec<f64> = moments.expect("updated").into_iter().map(f64::from).collect();
        let gradient = expected.values(&format!("gradient.{}.0", layer.name));
        let want: Vec<f64> = gradient.iter().map(|g| g * g).collect();
        assert_relative(&found, &want, 1e-5, &layer.name);
    }
}

/// Adam's second moments after one step are the squares of its gradient: those of every group of channels are rows of
/// the parameter of all, which PyTorch registered in another order than the modules run in.
#[test]
fn second_moments_of_groups_of_channels_are_their_own() {
    let folder = fixture("images/cnn-grouped");
    let expected = Recorded::open(&folder.join("expected.safetensors"));
    let model = load(&folder, DType::F32);
    let file = folder.join("optimizer.pt");
    let moments = second_moments(&folder, &file, model.layers(), None, &FrozenParameters::default()).expect("readable");
    are_squared_gradients(&model, moments, &expected);
}

/// Up to transformers 4 a ViT's blocks register their norms last.
#[test]
fn a_vit_of_transformers_4_has_another_order() {
    let folder = copy("vit", |config| config["transformers_version"] = json!("4.51.0"), |_| ());
    let found = TorchParameters::read(folder.path()).expect("known");
    let names: Vec<&str> = found.list.iter().map(|parameter| parameter.name.as_str()).collect();
    let place = |name: &str| names.iter().position(|one| one.ends_with(name)).expect(name);
    let of_block = ["attention.output.dense.bias", "intermediate.dense.weight", "output.dense.bias"];
    let of_block = of_block.map(|name| place(&format!("encoder.layer.1.{name}")));
    assert!(of_block.is_sorted(), "{names:?}");
    let norms =
        ["layernorm_before.weight", "layernorm_after.bias"].map(|name| place(&format!("encoder.layer.1.{name}")));
    assert!(of_block[2] < norms[0] && norms[0] < norms[1], "{names:?}");
}

/// Tensors by name: shapes and numbers.
type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A fixture's folder with another configuration and other tensors.
fn copy(name: &str, config: impl Fn(&mut Value), tensors: impl Fn(&mut Tensors)) -> tempfile::TempDir {
    let (from, to) = (fixture(&format!("images/{name}")), tempfile::tempdir().expect("a folder"));
    let text = std::fs::read(from.join("config.json")).expect("readable");
    let mut json: Value = serde_json::from_slice(&text).expect("JSON");
    config(&mut json);
    std::fs::write(to.path().join("config.json"), json.to_string()).expect("writable");
    let bytes = std::fs::read(from.join("model.safetensors")).expect("readable");
    let all = SafeTensors::deserialize(&bytes).expect("sound");
    let floats = |bytes: &[u8]| bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
    let mut list: Tensors = all
        .iter()
        .filter(|(_, view)| view.dtype() == safetensors::Dtype::F32)
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), floats(view.data())))
        .collect();
    tensors(&mut list);
    let bytes: Vec<Vec<u8>> =
        list.iter().map(|(_, _, numbers)| numbers.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = list.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).expect("fitting"))
    });
    std::fs::write(to.path().join("model.safetensors"), safetensors::serialize(views, None).expect("sound"))
        .expect("writable");
    to
}

/// What torchvision calls a tensor of a ResNet.
fn of_torchvision(name: &str) -> String {
    let (module, leaf) = name.rsplit_once('.').expect("a module");
    let parts: Vec<&str> = module.split('.').collect();
    let is_norm = parts[parts.len() - 1] == "normalization";
    let number = |k: usize| parts[k].parse::<usize>().expect("a number") + 1;
    let module = match parts.as_slice() {
        ["classifier", "1"] => "fc".to_owned(),
        [_, "embedder", ..] => if is_norm { "bn1" } else { "conv1" }.to_owned(),
        [.., "shortcut", _] => format!("layer{}.{}.downsample.{}", number(3), parts[5], usize::from(is_norm)),
        _ => format!("layer{}.{}.{}{}", number(3), parts[5], if is_norm { "bn" } else { "conv" }, number(7)),
    };
    format!("{module}.{leaf}")
}

/// The same network under the names of torchvision gives the same numbers, and its parameters have its order.
#[test]
fn a_resnet_of_torchvision_is_read_under_its_own_names() {
    let rename = |all: &mut Tensors| all.iter_mut().for_each(|(name, _, _)| *name = of_torchvision(name));
    for name in ["resnet", "resnet-bottleneck"] {
        let folder = copy(name, |_| (), rename);
        let (own, model) = (load(&fixture(&format!("images/{name}")), DType::F64), load(folder.path(), DType::F64));
        assert!(model.notes().iter().all(|note| !note.contains("left out")), "{:?}", model.notes());
        let dataset = images(name, &own);
        let batch = data::batch(&dataset, 0..dataset.len());
        assert_eq!(logits(&model, &batch), logits(&own, &batch), "{name}");
        let layers = |model: &Model| model.layers().iter().map(|layer| layer.name.clone()).collect::<Vec<_>>();
        let renamed = layers(&own).into_iter().map(|layer| of_torchvision(&format!("{layer}.weight")));
        assert!(renamed.zip(layers(&model)).all(|(own, layer)| own == format!("{layer}.weight")), "{name}");
    }
    let folder = copy("resnet", |_| (), rename);
    let list = TorchParameters::read(folder.path()).expect("known").list;
    let block = |name: &str| {
        ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"]
            .map(|part| format!("{name}{part}"))
    };
    let mut expected: Vec<String> = block("")[..3].to_vec();
    expected.extend(["layer1.0.", "layer1.1.", "layer2.0."].iter().flat_map(|name| block(name)));
    expected.extend(["0.weight", "1.weight", "1.bias"].map(|part| format!("layer2.0.downsample.{part}")));
    expected.extend(["fc.weight".into(), "fc.bias".into()]);
    assert_eq!(list.into_iter().map(|parameter| parameter.name).collect::<Vec<_>>(), expected);
}

/// What loading a changed fixture says.
fn refused(name: &str, config: impl Fn(&mut Value), tensors: impl Fn(&mut Tensors)) -> String {
    let folder = copy(name, config, tensors);
    let error = Model::load(folder.path(), &LoadOptions::default()).expect_err("not this model");
    error.to_string()
}

#[test]
fn checkpoints_that_do_not_fit_are_refused_by_key_or_tensor() {
    let same = |_: &mut Value| ();
    let whole = |_: &mut Tensors| ();
    let without = |name: &'static str| move |all: &mut Tensors| all.retain(|(one, _, _)| one != name);
    let key = |key: &'static str, value: Value| move |config: &mut Value| config[key] = value.clone();
    for (found, wanted) in [
        (refused("vit", same, without("vit.embeddings.cls_token")), "vit.embeddings.cls_token"),
        (refused("vit", key("patch_size", json!(4)), whole), "projection.weight"),
        (refused("vit", key("patch_size", json!(20)), whole), "`patch_size` = 20 is larger than `image_size` = [8,13]"),
        (refused("vit", key("image_size", json!("big")), whole), "`image_size` = \"big\""),
        (refused("vit", key("image_size", json!([8])), whole), "a height and a width"),
        (refused("vit", key("image_size", json!(16)), whole), "position_embeddings"),
        (refused("vit", key("hidden_act", json!("prelu")), whole), "hidden_act"),
        (refused("vit", key("num_attention_heads", json!(5)), whole), "5 attention heads"),
        (refused("vit", key("architectures", json!(["ViTModel"])), whole), "ViTModel"),
        (refused("vit", key("problem_type", json!("ranking")), whole), "problem_type"),
        (refused("resnet", key("layer_type", json!("dense")), whole), "layer_type"),
        (refused("resnet", key("depths", json!([2])), whole), "`hidden_sizes` has 2 entries, and `depths` has 1"),
        (refused("resnet", key("depths", json!([2, 0])), whole), "`depths` = [2,0], expected positive whole numbers"),
        (refused("resnet", key("num_channels", json!(1)), whole), "embedder.convolution.weight"),
        (
            refused("resnet", same, without("resnet.embedder.embedder.normalization.running_var")),
            "normalization.running_var",
        ),
        (refused("resnet", same, without("classifier.1.bias")), "classifier.1.bias"),
        (
            refused("resnet", same, |all| {
                let (_, _, numbers) = all.iter_mut().find(|(name, _, _)| name.ends_with("running_mean")).expect("one");
                numbers[1] = f32::NAN;
            }),
            "running_mean",
        ),
        (
            refused("resnet", same, |all| {
                let (_, _, numbers) = all.iter_mut().find(|(name, _, _)| name.ends_with("running_var")).expect("one");
                numbers[0] = -1.0;
            }),
            "running_var",
        ),
    ] {
        assert!(found.contains(wanted), "{found}");
    }
}

/// Descriptions of networks that are not understood, or do not fit their tensors: one message each that says where.
#[test]
fn descriptions_that_do_not_fit_are_refused_by_module() {
    let whole = |_: &mut Tensors| ();
    // without the order of parameters, which names the modules that are replaced here
    let with = |change: &dyn Fn(&mut Value)| {
        refused(
            "cnn",
            |config| {
                config.as_object_mut().expect("an object").remove("parameter_order");
                change(config);
            },
            whole,
        )
    };
    let key = |key: &'static str, value: Value| with(&|config| config[key] = value.clone());
    let module = |k: usize, value: Value| with(&|config| config["modules"][k] = value.clone());
    let argument = |k: usize, key: &'static str, value: Value| {
        refused("cnn-grouped", move |config| config["modules"][k][key] = value.clone(), whole)
    };
    let tensor = |name: &'static str, shape: Vec<usize>| {
        let change = move |all: &mut Tensors| {
            let found = all.iter_mut().find(|(one, _, _)| one == name).expect("one");
            *found = (name.to_owned(), shape.clone(), vec![0.5; shape.iter().product()]);
        };
        refused("cnn-grouped", |_| (), change)
    };
    let deep = (0..12).fold(json!({"type": "relu"}), |inner, _| json!({"type": "residual", "modules": [inner]}));
    let without = |name: &'static str| refused("cnn", |_| (), move |all| all.retain(|(one, _, _)| one != name));
    for (found, wanted) in [
        (key("modules", Value::Null), "no key `modules`"),
        (key("modules", json!([])), "`modules` is empty"),
        (key("modules", json!({"type": "relu"})), "expected a list"),
        (key("modules", Value::Array(vec![json!({"type": "relu"}); 10_001])), "more than 10000 modules"),
        (key("num_channels", json!(2)), "`modules[0]`: `0.0.weight` has the shape [4, 3, 3, 3], which does not fit 2"),
        (key("image_size", Value::Null), "no key `image_size`"),
        (key("image_size", json!([1_000_000, 2])), "`image_size` = [1000000,2]"),
        (key("image_size", json!([5, 3])), "its window does not fit"),
        (key("num_labels", json!(4)), "`modules` give 3 numbers, but the labels are 4"),
        (key("parameter_order", json!(["0.0"])), "`parameter_order` does not list"),
        (key("problem_type", json!("ranking")), "problem_type"),
        (module(0, json!("relu")), "`modules[0]` is no dictionary with a `type`"),
        (module(2, json!({"type": "prelu"})), "`modules[2]`: the type \"prelu\" is not known; known are conv2d,"),
        (
            module(2, json!({"type": "relu", "inplace": true})),
            "\"inplace\" is no argument of a module of type \"relu\"",
        ),
        (
            module(1, json!({"type": "batch_norm", "name": "0.1", "momentum": 0.1})),
            "its arguments are name, eps, affine",
        ),
        (module(1, json!({"type": "batch_norm", "name": "0.1", "eps": -1})), "`eps` is negative"),
        (module(1, json!({"type": "batch_norm", "name": "0.0"})), "the name \"0.0\" stands there twice"),
        (module(6, deep), "more than 8 deep"),
        (module(6, json!({"type": "residual", "modules": []})), "`modules[6]`: `modules` is empty"),
        (
            module(6, json!({"type": "residual", "modules": [{"type": "flatten"}]})),
            "`modules[6]`: the modules give 210 numbers, but the shortcut gives 6 channels of 7 x 5 places",
        ),
        (module(15, json!({"type": "relu"})), "`modules[17]`: `8.weight` has the shape [3, 5], which does not fit"),
        (module(18, json!({"type": "scale"})), "no key `factor`"),
        (
            key("modules", json!([{"type": "conv2d", "name": "0.0"}, {"type": "linear", "name": "8"}])),
            "`modules[1]`: a linear layer gets 4 channels of 11 x 8 places; `flatten` them before it",
        ),
        (key("modules", json!([{"type": "conv2d", "name": "0.0"}])), "`modules` end with 11 x 8 places of 4 channels"),
        (
            key("modules", json!([{"type": "flatten"}, {"type": "conv2d", "name": "0.0"}])),
            "`modules[1]`: a convolution behind a flattened image",
        ),
        (argument(0, "padding", json!("same")), "`padding` = \"same\", expected a whole number, or one for each axis"),
        (argument(0, "padding_mode", json!("reflect")), "`padding_mode` other than \"zeros\""),
        (argument(0, "stride", json!(0)), "`stride` = 0, expected a whole number, or one for each axis from 1"),
        (argument(0, "dilation", json!([1, 2, 3])), "`dilation` = [1,2,3]"),
        (argument(3, "groups", json!(2)), "does not fit 6 channels in 2 groups"),
        (argument(3, "groups", json!([3, 3])), "`groups` = [3,3], expected a whole number from"),
        (argument(2, "ceil_mode", json!(true)), "\"ceil_mode\" is no argument of a module of type \"max_pool\""),
        (argument(2, "padding", json!(2)), "`padding` is more than half of `kernel_size`"),
        (argument(8, "output_size", Value::Null), "no key `output_size`"),
        (tensor("3.weight", vec![8, 2, 3, 3]), "does not fit 6 channels in 3 groups"),
        (tensor("3.weight", vec![9, 18]), "expected [outputs, channels / groups, height, width]"),
        (tensor("3.bias", vec![8]), "3.bias"),
        (tensor("10.weight", vec![5, 23]), "`10.weight` has the shape [5, 23], which does not fit 24 numbers"),
        (tensor("4.running_var", vec![9, 1]), "4.running_var"),
        (without("8.weight"), "8.weight"),
        (without("0.1.running_mean"), "0.1.running_mean"),
        (without("0.1.weight"), "0.1.weight"),
    ] {
        assert!(found.contains(wanted) && !found.contains('\n'), "{wanted}: {found}");
    }
}

/// Tensors and keys without a place are named.
#[test]
fn what_is_left_out_is_named() {
    for name in ["vit", "resnet", "cnn"] {
        let config = |config: &mut Value| config["stochastic_depth"] = json!(0.5);
        let folder = copy(name, config, |all| all.push(("extra.weight".into(), vec![1, 2], vec![1.0, 2.0])));
        let model = load(folder.path(), DType::F32);
        for part in ["`stochastic_depth`", "extra.weight"] {
            assert!(model.notes().iter().any(|note| note.contains(part.trim_matches('`'))), "{:?}", model.notes());
        }
    }
}

#[test]
fn images_that_do_not_fit_are_refused_by_shape_or_row() {
    let read = |name: &str, shape: &[usize], label: i64, names: [&str; 2]| {
        let Limits::Rows(limits) = load(&fixture(&format!("images/{name}")), DType::F32).limits() else {
            panic!("images")
        };
        let numbers = vec![0u8; 4 * shape.iter().product::<usize>()];
        let labels: Vec<u8> = vec![label; shape[0]].iter().flat_map(|label| label.to_le_bytes()).collect();
        let views = [
            (names[0], TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &numbers).expect("fitting")),
            (names[1], TensorView::new(safetensors::Dtype::I64, vec![shape[0]], &labels).expect("fitting")),
        ];
        let bytes = safetensors::serialize(views, None).expect("sound");
        read_rows_from(&bytes, Path::new("x.safetensors"), limits)
            .map(|(dataset, _)| (dataset.len(), dataset.positions(0)))
            .map_err(|error| error.to_string())
    };
    let usual = ["inputs", "targets"];
    let of_transformers = ["pixel_values", "labels"];
    // 2 x 4 patches and the class token; every pixel
    assert_eq!(read("vit", &[2, 3, 8, 13], 2, usual), Ok((2, 9)));
    assert_eq!(read("resnet", &[1, 3, 9, 7], 0, of_transformers), Ok((1, 63)));
    for (found, wanted) in [
        (
            read("vit", &[2, 3, 13, 8], 0, usual),
            "x.safetensors: `inputs` has the shape [2, 3, 13, 8], expected [n, 3, 8, 13]",
        ),
        (
            read("vit", &[2, 1, 8, 13], 0, of_transformers),
            "x.safetensors: `pixel_values` has the shape [2, 1, 8, 13], expected [n, 3, 8, 13]",
        ),
        (
            read("resnet", &[2, 8, 13, 3], 0, usual),
            "x.safetensors: `inputs` has the shape [2, 8, 13, 3], expected [n, 3, height, width]",
        ),
        (
            read("resnet", &[2, 312], 0, usual),
            "x.safetensors: `inputs` has the shape [2, 312], expected [n, 3, height, width]",
        ),
        (
            read("resnet", &[2, 3, 0, 4], 0, usual),
            "x.safetensors: `inputs` has the shape [2, 3, 0, 4], expected [n, 3, height, width]",
        ),
        (
            read("resnet", &[2, 3, 4, 4], 3, of_transformers),
            "x.safetensors: row 0 of `labels` is 3, but the model has 3 classes",
        ),
    ] {
        assert_eq!(found, Err(wanted.to_owned()));
    }
}

/// Losses of images that were read from their files, at every checkpoint of a Trainer's run, against those of transformers:
/// what resizing differs by (one level of 255 in single pixels) changes them by less than a hundredth.
#[test]
fn images_in_files_have_the_losses_of_transformers() {
    let root = fixture("trainer-images");
    let expected = Recorded::open(&root.join("expected.safetensors"));
    for step in [8, 16, 24] {
        let folder = root.join(format!("run/checkpoint-{step}"));
        let model = load(&folder, DType::F64);
        let Limits::Rows(limits) = model.limits() else { panic!("a model of images") };
        let options = data::ImageOptions {
            processor: data::ImageProcessor::find(&folder, None, model.kind()).expect("a processor"),
            labels: model.labels().map(|labels| data::Labels::clone(labels)).expect("labels"),
            columns: data::Columns::default(),
            id_field: data::IdField::Default,
            memory: None,
        };
        let (dataset, _) = data::read_images(&root.join("data"), limits, &options).expect("images");
        let batch = data::batch(&dataset, 0..dataset.len());
        let mut agreement = Agreement::new("images in files", &format!("step {step}"), DType::F64);
        agreement.losses(&model, &batch, &expected.values(&format!("loss_{step}")), 1e-2);
    }
}

/// A folder of fixtures/image-adapters, and its base.
fn image_adapter(name: &str) -> (PathBuf, PathBuf) {
    let folder = fixture(&format!("image-adapters/{name}"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).expect("readable");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("sound");
    let base = header.metadata().as_ref().expect("metadata")["base"].clone();
    (folder, fixture(&base))
}

fn over(folder: &Path, base: &Path, dtype: DType, mode: AdapterMode) -> Result<Model, LoadError> {
    let options = LoadOptions { dtype, base: Some(base.to_owned()), adapter: Some(mode), ..LoadOptions::default() };
    Model::load(folder, &options)
}

/// Adapters of fixtures/image-adapters, and how many layers each has: an A and a B of every adapted layer, of a B in
/// groups each group.
const ADAPTERS: [(&str, usize); 7] = [
    ("vit", 8),
    ("vit-patches", 6),
    ("vit-patches-dora", 4),
    ("resnet", 16),
    ("resnet-dora", 22),
    ("cnn", 16),
    ("cnn-grouped", 16),
];

/// PEFT's recipe for images, and adapters over convolutions: of a ViT's patches, of a whole ResNet, of networks of plain
/// PyTorch. Both ways of running them, beside the frozen base and merged into it; gradients of the base's layers are those
/// of the weights that PEFT merged.
#[test]
fn adapters_over_classifiers_of_images_give_the_logits_losses_and_gradients_of_peft() {
    for (name, layers) in ADAPTERS {
        let (folder, base) = image_adapter(name);
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let dataset = |model: &Model| Source::new(folder.join("train.safetensors"), Role::Train, &folder).read(model);
        let (is_merged_by_peft, has_dora) = (name != "cnn-grouped", name.ends_with("dora"));
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-5)] {
            let open = |mode| over(&folder, &base, dtype, mode);
            let model = open(AdapterMode::Only).expect(name);
            let left_out = |note: &&String| note.contains("left out") || note.contains("not used");
            assert!(
                model.notes().iter().filter(left_out).all(|note| note.contains("`id2label`")),
                "{:?}",
                model.notes()
            );
            // a ViT has no batch norms, and one of the ResNets saves its own
            let has_base_statistics = matches!(name, "resnet" | "cnn" | "cnn-grouped");
            let says_so = model.notes().iter().any(|note| note.contains("running statistics"));
            assert_eq!(says_so, has_base_statistics, "{name}: {:?}", model.notes());
            let dataset = dataset(&model);
            let batch = data::batch(&dataset, 0..dataset.len());
            let mut agreement = Agreement::new("image-adapters", name, dtype);
            agreement.logits(&model, &batch, &expected, tolerance);
            agreement.losses(&model, &batch, &expected.values("loss"), tolerance);
            let compared = agreement.gradients(&model, &batch, &expected, tolerance);
            assert_eq!((model.layers().len(), compared.len()), (layers, 3 * layers), "{name}");
            let batched = &Batched(&dataset, BATCH);
            let run = Run::empirical(CurvatureKind::Identity, Measurement::Loss);
            let found = match dtype {
                DType::F64 => run.scores::<_, f64>(&model, batched, batched).expect("scores").wide(),
                _ => run.scores::<_, f32>(&model, batched, batched).expect("scores").wide(),
            };
            // scores are per example of the training set
            let want: Vec<f64> = expected.values("products").iter().map(|p| p / dataset.len() as f64).collect();
            agreement.compare("products", &found, &want, tolerance, "products");
            agreement.report();

            let mut agreement = Agreement::new("merged image-adapters", name, dtype);
            let merged = open(AdapterMode::Merged);
            if is_merged_by_peft {
                let merged = merged.expect(name);
                agreement.logits(&merged, &batch, &expected, tolerance);
                assert_eq!(merged.layers(), load(&base, dtype).layers(), "{name}");
                let options = LoadOptions { dtype, base: Some(base.clone()), ..LoadOptions::default() };
                let (adapter, selection) = (Some(AdapterMode::Merged), selection(&["*"]));
                let all = Model::load(&folder, &LoadOptions { adapter, selection, ..options }).expect(name);
                let compared = agreement.gradients(&all, &batch, &expected, tolerance);
                let of_base = |name: &String| name.starts_with("gradient.") && !name.contains("base_model");
                assert_eq!(compared.len(), expected.names().iter().filter(|name| of_base(name)).count(), "{name}");
            } else {
                let error = merged.expect_err("groups").to_string();
                assert!(error.contains("`lora_bias`") || error.contains("in groups is not merged"), "{error}");
            }
            let both = open(AdapterMode::Both);
            if has_dora {
                assert!(both.expect_err("DoRA").to_string().contains("`use_dora`"));
                continue;
            }
            let both = both.expect(name);
            agreement.logits(&both, &batch, &expected, tolerance);
            agreement.gradients(&both, &batch, &expected, tolerance);
            let own = load(&base, dtype);
            for layer in own.layers().iter().chain(model.layers()) {
                assert!(both.layers().iter().any(|other| other.name == layer.name), "{name}, {}", layer.name);
            }
        }
        let parameters = TorchParameters::read_over(&folder, Some(&base)).expect("known");
        let found: Vec<&str> = parameters.list.iter().map(|parameter| parameter.name.as_str()).collect();
        same_parameters("image-adapters", name, &folder, &found);
    }
}

/// Weights that are read when their section runs, and activations that are computed twice, give the same numbers.
#[test]
fn adapters_over_convolutions_are_read_by_section() {
    for (name, _) in ADAPTERS {
        let (folder, base) = image_adapter(name);
        let (graphs, residence) = (Graphs::Rebuilt, Residence::BySection);
        let options = LoadOptions { dtype: DType::F64, graphs, residence, base: Some(base), ..LoadOptions::default() };
        let model = Model::load(&folder, &options).expect("an adapter");
        model.check_weights().expect("finite numbers");
        let dataset = Source::new(folder.join("train.safetensors"), Role::Train, &folder).read(&model);
        let batch = data::batch(&dataset, 0..dataset.len());
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        Agreement::new("image-adapters, read by section", name, DType::F64).gradients(&model, &batch, &expected, 1e-5);
    }
}

/// Adam's second moments after one step are the squares of its gradient, of every group of a B its own rows.
#[test]
fn second_moments_of_an_adapter_over_convolutions_are_those_of_its_layers() {
    let (folder, base) = image_adapter("cnn-grouped");
    let expected = Recorded::open(&folder.join("expected.safetensors"));
    let model = over(&folder, &base, DType::F32, AdapterMode::Only).expect("an adapter");
    let frozen = FrozenParameters { base: Some(base), ..FrozenParameters::default() };
    let moments = second_moments(&folder, &folder.join("optimizer.pt"), model.layers(), None, &frozen);
    let moments = moments.expect("readable");
    are_squared_gradients(&model, moments, &expected);
}

/// What PEFT itself cannot run or merge, and files that do not belong to their settings or base.
#[test]
fn adapters_over_convolutions_that_do_not_fit_are_refused_by_tensor() {
    type Change<'a> = &'a dyn Fn(&mut Value);
    let changed = |from: &Path, to: &Path, change: Change<'_>| {
        let mut keys: Value = serde_json::from_slice(&std::fs::read(from).expect("readable")).expect("JSON");
        change(&mut keys);
        std::fs::write(to, keys.to_string()).expect("written");
    };
    // without some tensors, and with others of zeros
    let zeros = vec![0; 4096];
    let refused = |name: &str, mode, change: Change<'_>, of_base: Change<'_>, tensors: [&[(&str, &[usize])]; 2]| {
        let ((folder, base), copy) = (image_adapter(name), tempfile::tempdir().expect("a folder"));
        changed(&folder.join("adapter_config.json"), &copy.path().join("adapter_config.json"), change);
        let bytes = std::fs::read(folder.join("adapter_model.safetensors")).expect("readable");
        let all = SafeTensors::deserialize(&bytes).expect("sound");
        let [without, more] = tensors;
        let kept = all.iter().filter(|(name, _)| without.iter().all(|(part, _)| !name.contains(part)));
        let more = more.iter().map(|(name, shape)| {
            let bytes = &zeros[..4 * shape.iter().product::<usize>()];
            (*name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).expect("fitting"))
        });
        let tensors = safetensors::serialize(kept.chain(more), None).expect("sound");
        std::fs::write(copy.path().join("adapter_model.safetensors"), tensors).expect("written");
        let other = tempfile::tempdir().expect("a folder");
        std::fs::copy(base.join("model.safetensors"), other.path().join("model.safetensors")).expect("copied");
        changed(&base.join("config.json"), &other.path().join("config.json"), of_base);
        over(copy.path(), other.path(), DType::F32, mode).expect_err("does not fit").to_string()
    };
    let same = |_: &mut Value| ();
    let (only, merged) = (AdapterMode::Only, AdapterMode::Merged);
    let plain: [&[(&str, &[usize])]; 2] = [&[], &[]];
    let of_group = "base_model.model.6.main.0";
    let magnitude = format!("{of_group}.lora_magnitude_vector");
    let targets = |text: &'static str| move |keys: &mut Value| keys["target_modules"] = json!(text);
    let of_group_alone: [&[(&str, &[usize])]; 2] = [&[("model.0.", &[]), ("main.2.", &[]), ("model.10.", &[])], &[]];
    for (found, wanted) in [
        (refused("cnn-grouped", merged, &same, &same, plain), "`lora_bias`"),
        (
            refused(
                "cnn-grouped",
                merged,
                &|keys| {
                    targets(r"6\.main\.0")(keys);
                    keys["lora_bias"] = json!(false);
                },
                &same,
                [&[of_group_alone[0], &[("lora_B.bias", &[])]].concat(), &[]],
            ),
            "an adapter over a convolution in groups is not merged",
        ),
        (
            refused(
                "cnn-grouped",
                only,
                &|keys| {
                    targets(r"6\.main\.0")(keys);
                    keys["use_dora"] = json!(true);
                },
                &same,
                [of_group_alone[0], &[(&magnitude, &[1, 9, 1, 1])]],
            ),
            "DoRA of a convolution in groups is not read",
        ),
        (
            refused("cnn-grouped", only, &|keys| keys["rank_pattern"] = json!({ r"6\.main\.0": 17 }), &same, plain),
            "its rank is 17, which 9 groups of channels do not divide",
        ),
        (
            refused(
                "cnn",
                only,
                &same,
                &|keys| {
                    keys["modules"][0]["dilation"] = json!(2);
                    keys["modules"][0]["padding"] = json!(2);
                },
                plain,
            ),
            "its convolution is dilated, and PEFT's A is not",
        ),
        (refused("cnn", only, &same, &same, [&[("model.0.0.lora_A", &[])], &[]]), "model.0.0.lora_A.weight"),
        (
            refused("cnn", only, &same, &same, [&[], &[("base_model.model.77.lora_A.weight", &[2, 2])]]),
            "no linear layer, convolution or embedding `77`",
        ),
        (refused("resnet", only, &|keys| keys["r"] = json!(4), &same, plain), "[2, 3, 7, 7]"),
        (refused("resnet", only, &targets(r".*layer\.0\.convolution"), &same, plain), "does not select"),
        (refused("resnet", only, &targets("all-linear"), &same, plain), "does not select"),
        (refused("vit-patches", only, &targets(r".*\.k_proj"), &same, plain), "does not select"),
        (refused("vit-patches", only, &|keys| keys["r"] = json!(5), &same, plain), "[2, 16]"),
    ] {
        assert!(found.contains(wanted) && !found.contains('\n'), "{wanted}: {found}");
    }
}

/// What a configuration does not say is as transformers has it, and is named; another class than the one for images, or
/// weights without a classifier, are refused.
#[test]
fn what_a_configuration_leaves_out_is_as_transformers_has_it() {
    let whole = |_: &mut Tensors| ();
    let without = |keys: &'static [&'static str]| {
        move |config: &mut Value| {
            for key in keys {
                config.as_object_mut().expect("an object").remove(*key);
            }
        }
    };
    // names of the base class: without what the class in front of it adds
    let body = |prefix: &'static str| {
        move |all: &mut Tensors| {
            all.retain(|(name, ..)| name.starts_with(prefix));
            all.iter_mut().for_each(|(name, ..)| *name = name.trim_start_matches(prefix).to_owned());
        }
    };
    for (name, classifier) in [("vit", "classifier.weight"), ("resnet", "classifier.1.weight")] {
        let own = load(&fixture(&format!("images/{name}")), DType::F64);
        let dataset = images(name, &own);
        let batch = data::batch(&dataset, 0..dataset.len());
        // the class is the one that the model type has for images
        let folder = copy(name, without(&["architectures"]), whole);
        assert_eq!(logits(&load(folder.path(), DType::F64), &batch), logits(&own, &batch), "{name}");
        for none in [json!([]), Value::Null] {
            let folder = copy(name, |config| config["architectures"] = none.clone(), whole);
            assert_eq!(logits(&load(folder.path(), DType::F64), &batch), logits(&own, &batch), "{name}");
        }
        // three classes in the file, and two where nothing is said
        let found = refused(name, without(&["id2label", "label2id"]), whole);
        assert!(found.contains(classifier), "{found}");
        let two = |all: &mut Tensors| {
            for (name, shape, numbers) in all.iter_mut().filter(|(name, ..)| name.starts_with("classifier")) {
                shape[0] = 2;
                numbers.truncate(shape.iter().product());
                assert!(!name.is_empty());
            }
        };
        let folder = copy(name, without(&["id2label", "label2id", "problem_type"]), two);
        let model = load(folder.path(), DType::F64);
        let notes = model.notes().join("\n");
        assert!(notes.contains("neither `id2label` nor `num_labels`: 2 labels"), "{notes}");
        assert!(notes.contains("no `problem_type`: targets are classes"), "{notes}");
        let folder = copy(
            name,
            |config| {
                without(&["id2label", "label2id"])(config);
                config["num_labels"] = json!(3);
            },
            whole,
        );
        assert_eq!(logits(&load(folder.path(), DType::F64), &batch), logits(&own, &batch), "{name}");
        // the base class, named or not
        let prefix = if name == "vit" { "vit." } else { "resnet." };
        for (classes, wanted) in [
            (json!(["ViTModel"]), "ViTModel"),
            (json!(["ViTForMaskedImageModeling"]), "ViTForMaskedImageModeling"),
            (json!(["ResNetModel"]), "ResNetModel"),
            (json!(["ResNetBackbone"]), "ResNetBackbone"),
        ] {
            let found = refused(name, |config| config["architectures"] = classes.clone(), body(prefix));
            assert!(found.contains(wanted), "{found}");
        }
        let found = refused(name, without(&["architectures"]), body(prefix));
        assert!(found.contains("no tensor `"), "{found}");
    }
    // sizes that the configuration leaves out are the class's, which do not fit these small models
    for (key, name) in [("image_size", "vit"), ("hidden_size", "vit"), ("embedding_size", "resnet")] {
        let found = refused(name, |config| drop(config.as_object_mut().expect("an object").remove(key)), whole);
        assert!(found.contains("keys are absent") && found.contains(&format!("`{key}` =")), "{key}: {found}");
    }
    for name in ["vit", "resnet"] {
        let folder = copy(name, without(&["num_channels"]), whole);
        let notes = load(folder.path(), DType::F32).notes().join("\n");
        assert!(notes.contains("the class's, as in transformers: `num_channels` = 3"), "{notes}");
    }
    let found = refused("resnet", without(&["depths"]), whole);
    assert!(found.contains("`hidden_sizes` has 2 entries, and `depths` has 4"), "{found}");
}

/// The recipe's adapter under the names of transformers 4, and over a base without a classifier.
#[test]
fn an_adapter_over_a_vit_is_read_under_either_name_and_without_a_classifier() {
    let (folder, base) = image_adapter("vit");
    let open = |folder: &Path, base: &Path| over(folder, base, DType::F64, AdapterMode::Only).expect("an adapter");
    let batch = |model: &Model| {
        let read = Source::new(folder.join("train.safetensors"), Role::Train, &folder).read(model);
        data::batch(&read, 0..3)
    };
    assert!(open(&folder, &base).notes().iter().any(|note| note.contains("4 outputs")));
    // what transformers 4 calls the same modules, in memory as in files
    let older = tempfile::tempdir().expect("a folder");
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).expect("readable");
    let tensors = SafeTensors::deserialize(&bytes).expect("sound");
    let name = |name: &str| {
        let name =
            name.replace("vit.layers", "vit.encoder.layer").replace("attention.q_proj", "attention.attention.query");
        name.replace("attention.v_proj", "attention.attention.value")
    };
    let renamed = tensors.iter().map(|(own, tensor)| (name(own), tensor));
    std::fs::write(
        older.path().join("adapter_model.safetensors"),
        safetensors::serialize(renamed, None).expect("sound"),
    )
    .expect("written");
    let mut keys: Value =
        serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).expect("readable")).expect("JSON");
    keys["target_modules"] = json!(["query", "value"]);
    std::fs::write(older.path().join("adapter_config.json"), keys.to_string()).expect("written");
    let [new, old] = [&folder, older.path()].map(|folder| open(folder, &base));
    assert_eq!(logits(&new, &batch(&new)), logits(&old, &batch(&old)));
    // a base that never had a classifier, as those that are pretrained without one
    let headless = copy(
        "vit",
        |keys| keys["architectures"] = json!(["ViTModel"]),
        |tensors| tensors.retain(|(name, ..)| !name.starts_with("classifier")),
    );
    let model = open(&folder, headless.path());
    assert!(model.notes().iter().any(|note| note.contains("trained as `ViTForImageClassification`")));
    assert_eq!(logits(&model, &batch(&model)), logits(&new, &batch(&new)));
}
