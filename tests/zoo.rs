//! Checkpoints that the Trainer left of many families, with losses and scores that torch computed in f64
//! (shared/data/zoo/README.md), where they are there: gradient products layer by layer, and EK-FAC.

mod support;

use ascribe::curvature::{CurvatureKind, Measurement, Network, Objective};
use ascribe::data::{self, Role, Which};
use ascribe::model::supported;
use candle_core::DType;
use serde_json::Value;
use support::figures::{assert_relative, relative};
use support::passes::{BATCH, Batched, Run};
use support::recorded::Recorded;
use support::{Outcome, Source, load, say, shared};

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
        for (dataset, tensor) in [(&train, "train_loss"), (&queries, "query_loss")] {
            let batch = data::batch(dataset, 0..dataset.len());
            let losses = model.differentiate(&batch, Objective::TrainingLoss, &mut ())?;
            assert_relative(&losses, &expected.values(tensor), 1e-4, &format!("{name}, {tensor}"));
        }
        let (train, queries) = (&Batched(&train, BATCH), &Batched(&queries, BATCH));
        for (kind, tensor, tolerance) in
            [(CurvatureKind::Identity, "identity.scores", 1e-4), (CurvatureKind::Ekfac, "ekfac_empirical.scores", 1e-3)]
        {
            let found = Run::empirical(kind, Measurement::Loss).scores::<_, f32>(&model, train, queries)?;
            let error = relative(&found.wide(), &expected.values(tensor));
            say(format_args!("{name}, {tensor}: {error:.1e}"));
            assert!(error < tolerance, "{name}, {tensor}: {error:.1e}");
        }
        tested += 1;
    }
    if shared("zoo").is_some() {
        assert_eq!(tested, LANGUAGE_MODELS.len(), "language models of the zoo");
    }
    Ok(())
}
