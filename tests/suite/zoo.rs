//! Checkpoints that the Trainer left of many families, with losses and scores that torch computed in f64
//! (shared/data/zoo/README.md), where they are there: gradient products layer by layer, and EK-FAC.

use std::path::Path;

use crate::support::agreement::{Agreement, Tolerances};
use crate::support::passes::{BATCH, Batched, Run};
use crate::support::recorded::Recorded;
use crate::support::{Outcome, Source, load, load_layers, say, shared};
use ascribe::curvature::{CurvatureKind, Measurement, Network, Objective, Reduction};
use ascribe::data::{self, Dataset, Role, Which};
use ascribe::model::{LayerSelection, LoadOptions, Model, supported};
use candle_core::DType;
use serde_json::Value;

/// What the zoo asks for.
const TOLERANCES: Tolerances = Tolerances { losses: 1e-4, products: 1e-4, ekfac: 1e-3 };

/// Language models of the zoo.
const LANGUAGE_MODELS: [&str; 10] =
    ["gpt2", "llama", "llama-llama3rope", "llama-bf16", "qwen2", "qwen2-sliding", "gemma2", "phi3", "gpt-neox", "opt"];

#[test]
fn checkpoints_of_the_trainer_have_the_losses_and_scores_of_torch() -> Outcome {
    let mut tested = 0;
    for name in LANGUAGE_MODELS {
        let Some(folder) = shared(&format!("zoo/{name}")) else { continue };
        let checkpoint = folder.join("checkpoint-120");
        let config: Value = serde_json::from_slice(&std::fs::read(checkpoint.join("config.json"))?)?;
        let kind = config["model_type"].as_str().expect("a text");
        if !supported().any(|one| one == kind) {
            say(format_args!("skipped: {name}, whose `model_type` is not supported"));
            continue;
        }
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let model = load(&checkpoint, DType::F32);
        let source =
            |file: &str, role| Source { add_eos: Which::Train, ..Source::new(folder.join(file), role, &checkpoint) };
        let train = source("train.jsonl", Role::Train).read(&model);
        let queries = source("queries.jsonl", Role::Queries).read(&model);
        let mut agreement = Agreement::new("zoo", name, DType::F32);
        agreement.losses_and_scores(&model, [&train, &queries], &expected, TOLERANCES)?;
        agreement.report();
        tested += 1;
    }
    if shared("zoo").is_some() {
        assert_eq!(tested, LANGUAGE_MODELS.len(), "language models of the zoo");
    }
    Ok(())
}

/// Scores of the zoo's Mixtral are of attention alone, with its experts apart, by the tensors that hold all experts of a
/// block; the router's are in neither.
#[test]
fn experts_have_the_losses_and_scores_of_torch() -> Outcome {
    let Some(folder) = shared("zoo/mixtral") else { return Ok(()) };
    let checkpoint = folder.join("checkpoint-120");
    let expected = Recorded::open(&folder.join("expected.safetensors"));
    let tracked = |include: &[&str]| -> Result<Model, ascribe::model::LoadError> {
        let include: Vec<String> = include.iter().map(|&pattern| pattern.to_owned()).collect();
        let selection = LayerSelection::new(&include, &[])?;
        Model::load(&checkpoint, &LoadOptions { selection, ..LoadOptions::default() })
    };
    let model = tracked(&["*.self_attn.*"])?;
    let source =
        |file: &str, role| Source { add_eos: Which::Train, ..Source::new(folder.join(file), role, &checkpoint) };
    let train = source("train.jsonl", Role::Train).read(&model);
    let queries = source("queries.jsonl", Role::Queries).read(&model);
    let mut agreement = Agreement::new("zoo", "mixtral", DType::F32);
    agreement.losses_and_scores(&model, [&train, &queries], &expected, TOLERANCES)?;
    let (train, queries) = (&Batched(&train, BATCH), &Batched(&queries, BATCH));
    let of = |model: &Model, kind| Run::empirical(kind, Measurement::Loss).scores::<_, f32>(model, train, queries);
    let layers = expected.get("identity.layers");
    let size = layers.values.len() / layers.shape[0];
    for (l, layer) in model.layers().iter().enumerate() {
        let found = of(&tracked(&[&layer.name])?, CurvatureKind::Identity)?;
        let want = &layers.values[l * size..(l + 1) * size];
        agreement.compare("products", &found.wide(), want, 1e-4, &layer.name);
    }
    let apart = expected.get("identity.apart");
    let tensors = ["0", "1"].map(|block| [("w[13]", block), ("w2", block)]).concat();
    assert_eq!(apart.shape[0], tensors.len(), "gates and ups, then downs of each block");
    for (k, (matrices, block)) in tensors.iter().enumerate() {
        let pattern = format!("model.layers.{block}.block_sparse_moe.experts.*.{matrices}");
        let found = of(&tracked(&[&pattern])?, CurvatureKind::Identity)?;
        agreement.compare("products", &found.wide(), &apart.values[k * size..(k + 1) * size], 1e-4, &pattern);
    }
    agreement.report();
    // all of it, experts that few tokens reach among them
    let everything = of(&tracked(&[])?, CurvatureKind::Ekfac)?;
    assert!(everything.wide().iter().all(|score| score.is_finite()));
    Ok(())
}

/// Models of the zoo that classify images.
const IMAGE_MODELS: [&str; 2] = ["vit", "resnet"];

#[test]
fn classifiers_of_images_have_the_losses_margins_and_scores_of_torch() -> Outcome {
    for name in IMAGE_MODELS {
        let Some(folder) = shared(&format!("zoo/{name}")) else { continue };
        let checkpoint = folder.join("checkpoint-60");
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let model = load(&checkpoint, DType::F32);
        let read = |file: &str, role| Source::new(folder.join(file), role, &checkpoint).read(&model);
        let (train, queries) = (read("train.safetensors", Role::Train), read("queries.safetensors", Role::Queries));
        // layers inside the blocks come in torch's order, the others have torch's names
        let inside: Vec<String> = model.layers().iter().map(|layer| layer.name.clone()).collect();
        let outside: Vec<String> = serde_json::from_str(&expected.metadata("apart"))?;
        let data = [&train, &queries];
        margins_and_scores(name, &checkpoint, data, &expected, [inside, outside])?;
    }
    Ok(())
}

/// Losses, margins and scores of a classifier, and the gradient products of each layer inside and outside its blocks.
fn margins_and_scores(
    name: &str,
    checkpoint: &Path,
    [train, queries]: [&Dataset; 2],
    expected: &Recorded,
    layers: [Vec<String>; 2],
) -> Outcome {
    let model = load(checkpoint, DType::F32);
    let mut agreement = Agreement::new("zoo", name, DType::F32);
    agreement.losses_and_scores(&model, [train, queries], expected, TOLERANCES)?;
    let batch = data::batch(queries, 0..queries.len());
    let margins = model.differentiate(&batch, Objective::Measurement(Measurement::Margin, Reduction::Mean), &mut ())?;
    agreement.compare("margin", &margins, &expected.values("query_margin"), 1e-4, "margins");
    let (train, queries) = (&Batched(train, BATCH), &Batched(queries, BATCH));
    let products = |model: &Model, measurement| {
        Run::empirical(CurvatureKind::Identity, measurement).scores::<_, f32>(model, train, queries)
    };
    let found = products(&model, Measurement::Margin)?.wide();
    agreement.compare("products", &found, &expected.values("identity.scores.margin"), 1e-4, "products with margins");
    for (names, tensor) in layers.iter().zip(["identity.layers", "identity.apart"]) {
        let want = expected.get(tensor);
        assert_eq!(names.len(), want.shape[0], "{name}, {tensor}");
        let size = want.shape[1] * want.shape[2];
        for (layer, want) in names.iter().zip(want.values.chunks(size)) {
            let model = load_layers(checkpoint, DType::F32, &[layer.as_str()]);
            agreement.compare("products", &products(&model, Measurement::Loss)?.wide(), want, 1e-4, layer);
        }
    }
    agreement.report();
    Ok(())
}

/// Encoders of the zoo that classify texts.
const CLASSIFIERS: [&str; 2] = ["bert", "distilbert"];

#[test]
fn classifiers_of_the_trainer_have_the_losses_margins_and_scores_of_torch() -> Outcome {
    for name in CLASSIFIERS {
        let Some(folder) = shared(&format!("zoo/{name}")) else { continue };
        let checkpoint = folder.join("checkpoint-60");
        let expected = Recorded::open(&folder.join("expected.safetensors"));
        let model = load(&checkpoint, DType::F32);
        let source =
            |file: &str, role| Source { add_eos: Which::None, ..Source::new(folder.join(file), role, &checkpoint) };
        let train = source("train.jsonl", Role::Train).read(&model);
        let queries = source("queries.jsonl", Role::Queries).read(&model);
        for (dataset, tensor) in [(&train, "train_ids"), (&queries, "query_ids")] {
            let want = expected.get(tensor);
            for (i, row) in want.values.chunks(want.shape[1]).enumerate() {
                let row: Vec<u32> = row.iter().filter(|&&id| id >= 0.0).map(|&id| id as u32).collect();
                let data::Kind::Tokens(tokens) = dataset.kind() else { panic!("texts") };
                assert_eq!(tokens.tokens(i), row, "{name}, {tensor}[{i}]");
            }
        }
        let layers = |key| serde_json::from_str::<Vec<String>>(&expected.metadata(key));
        let layers = [layers("layers")?, layers("apart")?];
        margins_and_scores(name, &checkpoint, [&train, &queries], &expected, layers)?;
    }
    Ok(())
}

/// An encoder and a decoder: prompts are read by the one, completions written by the other, and both end in the end token.
#[test]
fn an_encoder_decoder_has_the_losses_and_scores_of_torch() -> Outcome {
    let Some(folder) = shared("zoo/t5") else { return Ok(()) };
    let checkpoint = folder.join("checkpoint-60");
    let expected = Recorded::open(&folder.join("expected.safetensors"));
    let model = load(&checkpoint, DType::F32);
    assert_eq!(model.notes(), [""; 0]);
    let source =
        |file: &str, role| Source { add_eos: Which::Both, ..Source::new(folder.join(file), role, &checkpoint) };
    let train = source("train.jsonl", Role::Train).read(&model);
    let queries = source("queries.jsonl", Role::Queries).read(&model);
    for (dataset, side) in [(&train, "train"), (&queries, "query")] {
        let batch = data::batch(dataset, 0..dataset.len());
        // what the encoder reads, and what the decoder predicts
        let (data::Inputs::Tokens(inputs), data::Targets::Tokens(targets)) = (&batch.inputs, &batch.targets) else {
            panic!("tokens")
        };
        let encoder = inputs.encoder.as_ref().expect("texts for the encoder");
        for (tensor, positions, padding) in [("ids", encoder, -1.0), ("labels", &batch.positions, -100.0)] {
            let want = expected.get(&format!("{side}_{tensor}"));
            for (rows, want) in positions.iter().zip(want.values.chunks(want.shape[1])) {
                let found: Vec<f64> = rows
                    .map(|row| match tensor {
                        "ids" => f64::from(inputs.ids[row]),
                        _ => targets[row].map_or(padding, f64::from),
                    })
                    .collect();
                let want: Vec<f64> = want.iter().copied().filter(|&id| id != padding).collect();
                assert_eq!(found, want, "{side}_{tensor}");
            }
        }
    }
    let mut agreement = Agreement::new("zoo", "t5", DType::F32);
    agreement.losses_and_scores(&model, [&train, &queries], &expected, TOLERANCES)?;
    let (train, queries) = (&Batched(&train, BATCH), &Batched(&queries, BATCH));
    let inside: Vec<String> = model.layers().iter().map(|layer| layer.name.clone()).collect();
    let recorded: Vec<String> = serde_json::from_str(&expected.metadata("layers"))?;
    assert_eq!(inside, recorded);
    // what is recorded of `lm_head` apart is the gradient of the one tensor that is the embedding too
    let want = expected.get("identity.layers");
    for (layer, want) in inside.iter().zip(want.values.chunks(want.shape[1] * want.shape[2])) {
        let model = load_layers(&checkpoint, DType::F32, &[layer.as_str()]);
        let run = Run::empirical(CurvatureKind::Identity, Measurement::Loss);
        let found = run.scores::<_, f32>(&model, train, queries)?;
        agreement.compare("products", &found.wide(), want, 1e-4, layer);
    }
    agreement.report();
    Ok(())
}
