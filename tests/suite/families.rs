//! Every checkpoint of fixtures/families against what transformers computed of it (fixtures/README.md): logits, losses
//! and gradients with random weights and sequences longer than the windows.

use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use crate::support::agreement::{Agreement, folders_of, logits, same_parameters};
use crate::support::editable::check_directions;
use crate::support::figures::assert_relative;
use crate::support::passes::{BATCH, Batched, Run};
use crate::support::recorded::Recorded;
use crate::support::{Outcome, fixture, load, load_selected, selection};
use ascribe::curvature::{CurvatureKind, Error, LayerSlice, Measurement, Network, Objective, Side, Tap, TapSink};
use ascribe::data::{self, Batch, DataOptions, Dataset, Format, Role, read_tokens_from};
use ascribe::job::{Job, Plan, SourceRequest};
use ascribe::model::{AlsoTracked, HeadPart, Limits, Model};
use ascribe::trajectory::torch_parameters::TorchParameters;
use ascribe::trajectory::{FrozenParameters, TrajectoryRequest, second_moments};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

/// Transformers keeps norms and rotary angles in f32 even where weights are f64.
const TOLERANCE: f64 = 1e-4;

/// The recorded sequences in a range.
fn texts(model: &Model, expected: &Recorded, range: Range<usize>) -> Dataset {
    let whole = |x: &[f64]| x.iter().map(|&x| x as i64).collect::<Vec<_>>();
    let rows = |tensor: &str| {
        let found = expected.find(tensor)?;
        Some(found.values.chunks(found.shape[1]).map(whole).collect::<Vec<_>>())
    };
    let [ids, mask] = ["input_ids", "attention_mask"].map(|tensor| rows(tensor).expect("recorded"));
    // of an encoder and a decoder, and of masked tokens
    let more = ["labels", "token_type_ids"].map(|field| (field, rows(field)));
    let line = |m: usize| {
        let mut line = json!({"input_ids": ids[m], "attention_mask": mask[m]});
        for (field, rows) in &more {
            if let Some(rows) = rows {
                line[*field] = json!(rows[m]);
            }
        }
        line.to_string()
    };
    let lines: Vec<String> = range.map(line).collect();
    let Limits::Tokens(limits) = model.limits() else { panic!("a language model") };
    let (name, options) = (Path::new("lines.jsonl"), DataOptions::default());
    let text = Cursor::new(lines.join("\n"));
    let read = read_tokens_from(text, name, Format::JsonLines, Role::Train, None, limits, options);
    read.expect("tokens").0
}

/// All recorded sequences.
fn sequences(model: &Model, expected: &Recorded) -> Batch {
    let dataset = texts(model, expected, 0..expected.get("input_ids").shape[0]);
    data::batch(&dataset, 0..dataset.len())
}

#[test]
fn every_family_gives_the_logits_losses_and_gradients_of_transformers() {
    for name in folders_of("families") {
        let folder = fixture(&format!("families/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        for dtype in [DType::F32, DType::F64] {
            let model = load(&folder, dtype);
            assert_eq!(model.notes(), [""; 0], "{name}");
            let batch = sequences(&model, &expected);
            let mut agreement = Agreement::new("families", &name, dtype);
            agreement.logits(&model, &batch, &expected, TOLERANCE);
            agreement.losses(&model, &batch, &expected.values("loss_sum"), TOLERANCE);
            let compared = agreement.gradients(&model, &batch, &expected, TOLERANCE).len();
            // two layers of two examples; of a block with experts besides the router and three layers an expert
            let recorded = expected.names().into_iter().filter(|tensor| tensor.starts_with("gradient.")).count();
            assert!(recorded >= 4 && compared == recorded, "{name}: {compared} of {recorded} gradients");
            agreement.report();
        }
    }
}

/// Scores by gradient products and EK-FAC of the layers of the blocks, and with the head and the tables of embeddings,
/// against PyTorch (`fixtures/generators/family_scores.py`).
#[test]
fn families_have_the_scores_of_pytorch() -> Outcome {
    let files = std::fs::read_dir(fixture("family-scores")).expect("a folder");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 30, "{names:?}");
    for name in names {
        let expected = Recorded::open(&fixture(&format!("family-scores/{name}.safetensors")));
        let shape = expected.get("identity").shape.clone();
        let (queries, train) = (shape[0], shape[1]);
        let listed = |key: &str| -> usize {
            let names: Vec<String> = serde_json::from_str(&expected.metadata(key)).expect("a list of layers");
            names.len()
        };
        let beside = selection(&[]).and(&[AlsoTracked::Head, AlsoTracked::Embeddings]);
        for (selection, all, layers) in
            [(selection(&[]), "", listed("blocks")), (beside, "all.", listed("blocks") + listed("others"))]
        {
            for dtype in [DType::F32, DType::F64] {
                let model = load_selected(&fixture(&format!("families/{name}")), dtype, selection.clone());
                assert_eq!(model.layers().len(), layers, "{name}");
                let [own, asked] = [0..train, train..train + queries].map(|range| texts(&model, &expected, range));
                let mut agreement = Agreement::new("families", &name, dtype);
                let losses = &expected.values("loss_sum")[..train];
                agreement.losses(&model, &data::batch(&own, 0..train), losses, TOLERANCE);
                let (own, asked) = (&Batched(&own, BATCH), &Batched(&asked, BATCH));
                for (kind, figure, tensor, tolerance) in [
                    (CurvatureKind::Identity, "products", "identity", TOLERANCE),
                    (CurvatureKind::Ekfac, "ekfac", "ekfac", 1e-3),
                ] {
                    let run = Run::empirical(kind, Measurement::Loss);
                    let found = match dtype {
                        DType::F64 => run.scores::<_, f64>(&model, own, asked)?.wide(),
                        _ => run.scores::<_, f32>(&model, own, asked)?.wide(),
                    };
                    // scores are per example of the training set
                    let want = expected.values(&format!("{all}{tensor}"));
                    let want: Vec<f64> = want.iter().map(|score| score / train as f64).collect();
                    agreement.compare(figure, &found, &want, tolerance, tensor);
                }
                agreement.report();
            }
        }
    }
    Ok(())
}

/// The keys of a configuration without those whose values are the class's, as a file may leave them out that holds what
/// differs alone.
fn without_defaults(keys: &Value, class: &Value) -> (Value, usize) {
    let kept = |(key, value): &(&String, &Value)| *key == "model_type" || class.get(*key) != Some(value);
    let all = keys.as_object().expect("an object");
    let kept: Map<String, Value> = all.iter().filter(kept).map(|(key, value)| (key.clone(), value.clone())).collect();
    let left_out = all.len() - kept.len();
    (Value::Object(kept), left_out)
}

#[test]
fn keys_that_say_what_the_class_says_may_be_left_out() {
    let classes = read_json(&fixture("class_defaults.json"));
    for name in folders_of("families") {
        let folder = fixture(&format!("families/{name}"));
        let keys = read_json(&folder.join("config.json"));
        let class = &classes[keys["model_type"].as_str().expect("a type")];
        let (fewer, left_out) = without_defaults(&keys, class);
        assert!(left_out >= 5, "{name}: {left_out}");
        let altered = tempfile::tempdir().expect("a folder");
        std::fs::write(altered.path().join("config.json"), fewer.to_string()).expect("written");
        std::fs::copy(folder.join("model.safetensors"), altered.path().join("model.safetensors")).expect("copied");
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let [whole, fewer] = [&folder, altered.path()].map(|folder| load(folder, DType::F32));
        let batch = sequences(&whole, &expected);
        assert_eq!(logits(&whole, &batch), logits(&fewer, &batch), "{name}");
    }
}

fn read_json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("readable")).expect("JSON")
}

/// All layers, the vectors of all norms, the head and the tables of embeddings at once, also experts that are chosen by the
/// layers that move.
#[test]
fn gradients_are_the_slopes_of_losses_in_random_directions() {
    // the fused ones are the same weights in other tensors
    for name in folders_of("families").into_iter().filter(|name| !name.ends_with("-fused")) {
        let folder = fixture(&format!("families/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        // the norms of the first OLMo have no parameters
        let mut also = vec![AlsoTracked::Head, AlsoTracked::Embeddings];
        also.extend((name != "olmo").then_some(AlsoTracked::Norms));
        check_directions(["families", &name], &folder, &selection(&[]).and(&also), |model| sequences(model, &expected));
    }
}

/// Sums of the sizes of the gradients at each output of each tracked layer.
struct AtOutputs(Vec<Vec<f64>>);

impl TapSink for AtOutputs {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        self.0[tap.layer.0] = tap.output_gradient.abs()?.sum(0)?.to_vec1::<f64>()?;
        Ok(())
    }
}

/// The parts of the tracked layers around attention, each of whose numbers belongs to one part.
fn head_parts(model: &Model, name: &str) -> Vec<HeadPart> {
    let parts = model.head_parts().expect("attention").expect("heads");
    let layers = model.layers();
    let mut owners: Vec<Vec<u8>> = layers.iter().map(|layer| vec![0; layer.parameters()]).collect();
    for slice in parts.iter().flat_map(|part| &part.slices) {
        let columns = layers[slice.layer].columns();
        let (rows, inside) = slice.ranges(&layers[slice.layer]);
        rows.for_each(|row| inside.clone().for_each(|column| owners[slice.layer][row * columns + column] += 1));
    }
    let touched = owners.iter().filter(|owners| owners.iter().any(|&n| n > 0));
    assert!(touched.clone().count() >= 2 && touched.flatten().all(|&n| n == 1), "{name}");
    parts
}

/// Where the columns of the output's layer that belong to a head are 0, nothing comes back to the head's rows of queries,
/// keys and values, and something to all others.
fn check_silenced(folder: &Path, inputs_first: bool, batch: impl Fn(&Model) -> Batch) {
    let name = folder.display();
    let model = load(folder, DType::F64);
    let (parts, layers) = (head_parts(&model, &name.to_string()), model.layers());
    // the heads of the last attention that share the last keys and values
    let (place, _) = parts[parts.len() - 1].name.rsplit_once('.').expect("a place");
    let own = |kind: &str| -> Vec<&HeadPart> {
        let start = format!("{place}.{kind}-");
        parts.iter().filter(|part| part.name.starts_with(&start)).collect()
    };
    let (heads, shared) = (own("head"), own("kv"));
    assert!(heads.len() >= 2, "{name}");
    let group = heads.len() / shared.len().max(1);
    let silent = if shared.is_empty() { 1..2 } else { heads.len() - group..heads.len() };
    let mut tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).expect("weights");
    let mut silenced: Vec<&LayerSlice> = shared.last().into_iter().flat_map(|part| &part.slices).collect();
    for head in &heads[silent.clone()] {
        for slice in &head.slices {
            if slice.side == Side::Output {
                silenced.push(slice);
                continue;
            }
            let tensor = format!("{}.weight", layers[slice.layer].name);
            let weight = &tensors[&tensor];
            let along = if inputs_first { 0 } else { 1 };
            let kept = (0..weight.dims()[along]).map(|k| if slice.range.contains(&k) { 0.0 } else { 1.0 });
            let kept = Tensor::from_iter(kept, &Device::Cpu).and_then(|kept| kept.to_dtype(weight.dtype()));
            let kept = kept.and_then(|kept| kept.unsqueeze(1 - along)).expect("a mask");
            let masked = weight.broadcast_mul(&kept).expect("the weight's shape");
            tensors.insert(tensor, masked);
        }
    }
    let altered = tempfile::tempdir().expect("a folder");
    candle_core::safetensors::save(&tensors, altered.path().join("model.safetensors")).expect("written");
    std::fs::copy(folder.join("config.json"), altered.path().join("config.json")).expect("copied");
    let model = load(altered.path(), DType::F64);
    let mut found = AtOutputs(vec![vec![]; layers.len()]);
    model.differentiate(&batch(&model), Objective::TrainingLoss, &mut found).expect("gradients");
    // a norm over the queries, or keys, of all heads together lets every head's reach the others
    let norms_all = ["olmo2", "olmo3", "olmoe"].iter().any(|family| folder.ends_with(family));
    let is_value = |slice: &LayerSlice| layers[slice.layer].name.ends_with("v_proj");
    let is_silenced =
        |layer: usize, row: usize| silenced.iter().any(|slice| slice.layer == layer && slice.range.contains(&row));
    for slice in silenced.iter().filter(|slice| !norms_all || is_value(slice)) {
        let of_layer = &found.0[slice.layer];
        assert!(of_layer[slice.range.clone()].iter().all(|&sum| sum == 0.0), "{name}: {slice:?}");
        let (heard, all) = (0..of_layer.len())
            .filter(|&row| !is_silenced(slice.layer, row))
            .fold((0, 0), |(heard, all), row| (heard + usize::from(of_layer[row] > 0.0), all + 1));
        assert!(all > 0 || shared.len() == 1, "{name}: {slice:?}");
        assert!(heard * 10 >= all * 9, "{name}: {heard} of {all} rows of {}", layers[slice.layer].name);
    }
    assert!(silenced.len() >= if inputs_first { 3 } else { 1 }, "{name}");
}

#[test]
fn heads_are_the_rows_and_columns_that_fall_silent_together() {
    for name in folders_of("families") {
        let folder = fixture(&format!("families/{name}"));
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        check_silenced(&folder, false, |model| sequences(model, &expected));
    }
    // three layers in one, and weights the other way round
    let gpt2 = crate::support::open("gpt2-tiny", DType::F64);
    check_silenced(&fixture("gpt2-tiny"), true, |_| data::batch(&gpt2.train, 0..2));
    // networks that give something for a whole text or image, and one without attention
    for name in folders_of("classifiers") {
        head_parts(&load(&fixture(&format!("classifiers/{name}")), DType::F64), &name);
    }
    for (name, has_heads) in [("vit", true), ("vit-multi-label", true), ("resnet", false)] {
        let model = load(&fixture(&format!("images/{name}")), DType::F64);
        assert_eq!(model.head_parts().is_some(), has_heads, "{name}");
        if has_heads {
            head_parts(&model, name);
        }
    }
}

#[test]
fn optimizers_number_parameters_as_named_parameters_does() {
    for name in folders_of("families") {
        let folder = fixture(&format!("families/{name}"));
        let found = TorchParameters::read(&folder).expect("known");
        let found: Vec<&str> = found.list.iter().map(|parameter| parameter.name.as_str()).collect();
        assert!(!found.is_sorted(), "{name}");
        same_parameters("families", &name, &folder, &found);
    }
}

/// Runs of the Trainer whose optimizers hold parameters otherwise than files do, with their data.
const RUNS: [(&str, &str); 3] = [
    ("trainer-experts", "train.jsonl"),
    ("trainer-pairs", "train.jsonl"),
    ("trainer-convolutions", "train.safetensors"),
];

/// Experts of which an optimizer has two tensors for all, stacks with one embedding, convolutions.
#[test]
fn second_moments_of_every_layer_are_those_of_its_numbers() {
    for (name, _) in RUNS {
        let folder = fixture(name);
        let checkpoint = folder.join("checkpoint-16");
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let model = load(&checkpoint, DType::F32);
        let file = checkpoint.join("optimizer.pt");
        let moments =
            second_moments(&checkpoint, &file, model.layers(), None, &FrozenParameters::default()).expect("readable");
        let mut compared = 0;
        for (layer, moments) in model.layers().iter().zip(moments) {
            let found: Vec<f64> = moments.expect("updated").into_iter().map(f64::from).collect();
            assert_eq!(found.len(), layer.parameters(), "{name}, {}", layer.name);
            // none of these has a bias; Adam divides what it holds by what 16 steps have seen of its mean
            let held = expected.values(&format!("moments.{}", layer.name));
            let want: Vec<f64> = held.iter().map(|v| v / (1.0 - 0.999f64.powi(16))).collect();
            assert_relative(&found, &want, 1e-6, &format!("{name}, {}", layer.name));
            compared += 1;
        }
        assert!(compared >= 4, "{name}: {compared}");
    }
}

/// Source over these runs as they lie: training on an example moved its own loss most.
#[test]
fn source_follows_runs_of_experts_pairs_and_convolutions() {
    for (name, data) in RUNS {
        let (folder, out) = (fixture(name), tempfile::tempdir().expect("a folder"));
        let mut job = Job::new("", folder.join(data), out.path().join("run"));
        job.data.queries = Some(folder.join(data));
        job.source = Some(SourceRequest::new(TrajectoryRequest::new(folder.clone())));
        let plan = Plan::resolve(job).unwrap_or_else(|error| panic!("{name}: {error}"));
        let rankings = plan.run(&()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rankings.len(), 16, "{name}");
        let own = rankings.iter().enumerate().filter(|(k, ranking)| {
            let id = if data.ends_with("jsonl") { format!("e{k}") } else { k.to_string() };
            ranking.proponents.iter().take(2).any(|example| example.id == id)
        });
        assert!(own.count() >= 12, "{name}: {rankings:?}");
    }
}
