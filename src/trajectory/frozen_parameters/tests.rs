//! Tests of which parameters a training run left unchanged.

use std::path::PathBuf;

use super::*;
use crate::Hint;
use crate::curvature::Network;
use crate::model::{LoadOptions, Model};
use crate::trajectory::request::TrajectoryRequest;
use crate::trajectory::second_moments::second_moments;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn only(layers: &[&str]) -> TrainedLayers {
    TrainedLayers::Only(layers.iter().map(|&layer| layer.to_owned()).collect())
}

/// The layers of the second block of a GPT-2.
const SECOND_BLOCK: [&str; 4] = [
    "transformer.h.1.attn.c_attn",
    "transformer.h.1.attn.c_proj",
    "transformer.h.1.mlp.c_fc",
    "transformer.h.1.mlp.c_proj",
];

/// A Trainer run that froze embeddings, its first block and a norm of the second: what is found, and second moments
/// as torch has them.
#[test]
fn what_a_trainer_froze_is_found_by_comparing() {
    let run = fixture("trainer-frozen");
    let mut reading = TrajectoryRequest::new(run.clone()).read().unwrap().remove(0);
    let last = reading.checkpoints[1].clone();
    let layers = Model::load(&last.folder, &LoadOptions::default()).unwrap().layers().to_vec();
    let state = last.optimizer.as_ref().unwrap();
    let error =
        second_moments(&last.folder, state, &layers, reading.version, &reading.frozen_parameters()).unwrap_err();
    assert!(error.to_string().contains("fit no known order of the model's 28"), "{error}");
    assert!(error.hint().unwrap().contains("second checkpoint"));
    reading.find_frozen_layers(None, &layers).unwrap();
    assert_eq!(reading.trained_layers, only(&SECOND_BLOCK));
    let found = |warning: &Warning| matches!(warning, Warning::FrozenLayers { layers } if layers.len() == 4);
    assert!(reading.warnings.iter().any(found), "{:?}", reading.warnings);
    assert_eq!(reading.unchanged.len(), 2 + 12 + 2, "two embeddings, a block, a norm");
    check(&reading.frozen_parameters(), &reading, &layers);
    // the same from what is stated alone fails: the frozen norm of a trained block is not in it
    let stated = FrozenParameters { trained_layers: only(&SECOND_BLOCK), ..FrozenParameters::default() };
    let error = second_moments(&last.folder, state, &layers, reading.version, &stated).unwrap_err();
    assert!(error.to_string().contains("fit no known order"), "{error}");
}

fn check(frozen: &FrozenParameters, reading: &Reading, layers: &[LayerSpec]) {
    let bytes = std::fs::read(reading.source.join("expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for files in &reading.checkpoints {
        let state = files.optimizer.as_ref().unwrap();
        let moments = second_moments(&files.folder, state, layers, reading.version, frozen).unwrap();
        for (layer, moments) in layers.iter().zip(moments) {
            let Ok(view) = expected.tensor(&format!("second_moment.{}.{}", layer.name, files.step)) else {
                assert_eq!(moments, None, "{}", layer.name);
                continue;
            };
            let numbers = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            for (got, torch) in moments.unwrap().into_iter().zip(numbers) {
                assert!((got - torch).abs() <= 6e-8 * torch, "{}: {got:e} {torch:e}", layer.name);
            }
        }
    }
}

/// Without anything to compare, what is stated has to do: everything but the trained layers, with or without the norms
/// of their blocks and what stands outside of blocks.
#[test]
fn stated_layers_are_guesses() {
    let names = [
        "wte.weight",
        "h.0.ln.weight",
        "h.0.fc.weight",
        "h.1.ln.weight",
        "h.1.fc.weight",
        "h.1.up.weight",
        "ln_f.weight",
    ];
    let shape = |name: &str| if name.contains("ln") { vec![4] } else { vec![4, 4] };
    let parameters: Vec<Parameter> =
        names.iter().map(|&name| Parameter { name: name.to_owned(), shape: shape(name) }).collect();
    let guesses = |frozen: FrozenParameters| -> Vec<Vec<usize>> {
        frozen.guesses(&parameters).into_iter().map(|guess| guess.into_iter().collect()).collect()
    };
    assert!(guesses(FrozenParameters::default()).is_empty());
    let unchanged = BTreeSet::from(["h.0.fc.weight".to_owned()]);
    let found =
        guesses(FrozenParameters { unchanged: unchanged.clone(), trained_layers: TrainedLayers::All, base: None });
    assert_eq!(found, [[2]]);
    let stated = FrozenParameters { unchanged: BTreeSet::new(), trained_layers: only(&["h.1.fc"]), base: None };
    assert_eq!(guesses(stated), [vec![0, 1, 2, 3, 5, 6], vec![0, 1, 2, 5, 6], vec![1, 2, 5]]);
    let both = FrozenParameters { unchanged, trained_layers: only(&["h.1.fc"]), base: None };
    assert_eq!(guesses(both)[0], [2]);
    assert_eq!(block("transformer.h.10.attn.c_attn"), Some("transformer.h.10"));
    assert_eq!(block("transformer.wte"), None);
}

#[test]
fn copies_and_runs_that_trained_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(&to).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture(from).join(file), to.join(file)).unwrap();
        }
    };
    copy("mlp-trajectory/checkpoint-168", "a");
    copy("mlp-trajectory/checkpoint-168", "b");
    let text = "optimizer = \"sgd\"\nmomentum = 0.0\nweight_decay = 0.0\nbatch_size = 10\nloss_scale = 1.0\nsteps = 20\n\
        learning_rate = [{ from_step = 0, value = 0.1 }, { from_step = 10, value = 0.0 }]\n";
    let file = folder.path().join("run.toml");
    let layers = Model::load(&folder.path().join("a"), &LoadOptions::default()).unwrap().layers().to_vec();
    let read = |steps: [usize; 2]| {
        let entry = |(path, step)| format!("[[checkpoint]]\npath = \"{path}\"\nstep = {step}\n");
        let entries: String = ["a", "b"].into_iter().zip(steps).map(entry).collect();
        std::fs::write(&file, format!("{text}{entries}")).unwrap();
        let mut reading = TrajectoryRequest::new(file.clone()).read().unwrap().remove(0);
        reading.find_frozen_layers(None, &layers).map(|()| reading)
    };
    let error = read([5, 20]).unwrap_err();
    assert!(error.to_string().ends_with("hold the same weights, although training went on between them"), "{error}");
    // at a rate of zero nothing moves, and nothing is learned about what was frozen
    assert_eq!(read([12, 20]).unwrap().trained_layers, TrainedLayers::All);
}
