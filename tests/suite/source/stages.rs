//! Training in two stages, described by a TOML file.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ascribe::attribution::source::SourceOptions;
use ascribe::job::SelfInfluenceForm;
use ascribe::trajectory::TrajectoryRequest;

use crate::source::by_hand::{ByHand, assert_scores};
use crate::source::case::Case;
use crate::source::reuse::rows;
use crate::support::figures::assert_relative;
use crate::support::recorded::Recorded;
use crate::support::{Outcome, fixture};

/// The classifier's run as a stage on forty rows, and one on thirty that trains two of three layers. Rows 0 to 9 are
/// in both files, at the same places.
pub(super) fn two_stages(folder: &Path) -> Case {
    let first: Vec<usize> = (0..40).collect();
    let second: Vec<usize> = (0..10).chain(40..60).collect();
    let files: Vec<PathBuf> = ["first", "second"].map(|name| folder.join(format!("{name}.safetensors"))).into();
    rows(&first, &files[0]);
    rows(&second, &files[1]);
    let stage = |n: usize, name: &str, extra: &str, steps: usize, rate: f64, checkpoints: &[(usize, usize)]| {
        let mut text = format!(
            "[[stage]]\nname = \"{name}\"\noptimizer = \"sgd\"\ntrain_examples = {n}\nbatch_size = 10\n\
             loss_reduction = \"mean\"\nsteps = {steps}\n{extra}\n[[stage.learning_rate]]\nfrom_step = 0\nvalue = {rate}\n"
        );
        for (step, of) in checkpoints {
            let path = fixture(&format!("mlp-trajectory/checkpoint-{of}"));
            let _ = writeln!(text, "[[stage.checkpoint]]\npath = {:?}\nstep = {step}", path.display().to_string());
        }
        text
    };
    let text =
        stage(40, "first", "momentum = 0.0\nweight_decay = 0.02", 504, 0.2, &[(168, 168), (336, 336), (504, 504)])
            + &stage(
                30,
                "second",
                "momentum = 0.5\nweight_decay = 0.0\ntrained_layers = [\"layers.1\", \"layers.2\"]",
                216,
                0.02,
                &[(72, 576), (216, 720)],
            );
    let file = folder.join("run.toml");
    std::fs::write(&file, text).expect("writable");
    let mut request = TrajectoryRequest::new(file);
    request.segments = "2".parse().expect("a rule");
    Case {
        request,
        stages: ["first".to_owned(), "second".to_owned()].into_iter().zip(files).collect(),
        queries: fixture("mlp-tiny/query.safetensors"),
        recorded: None,
    }
}

#[test]
fn stages_with_their_own_data_and_layers() -> Outcome {
    let folder = tempfile::tempdir()?;
    let case = two_stages(folder.path());
    let mut by_hand = ByHand::new(&case);
    let stage_of: Vec<usize> = by_hand.run.segments.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stage_of, [0, 0, 1, 1], "two segments for each stage");
    assert!(by_hand.curvatures[2].factors.layers[0].basis.is_none(), "the second stage froze the first layer");
    // columns: the first file's rows, then those of the second that are new
    by_hand.columns = vec![(0..40).collect(), (0..10).chain(40..60).collect()];
    let done = case.run(|job| {
        let source = job.source.as_mut().expect("Source");
        (source.by_stage, source.by_segment) = (true, true);
    });
    let (all, by_stage) = (by_hand.scores(SourceOptions::default()), by_hand.scores_by_stage());
    assert_scores(&done.scores(""), &all, "two stages");
    for (name, want) in ["stage-first", "stage-second"].into_iter().zip(&by_stage) {
        assert_scores(&done.scores(name), want, name);
    }
    for (leg, want) in by_hand.scores_by_segment().iter().enumerate() {
        let name = format!("segment-{}", leg + 1);
        assert_scores(&done.scores(&name), want, &name);
    }
    // a row of one file alone has nothing from the other stage
    assert!((0..10).all(|q| by_stage[1].values[q * 60 + 20] == 0.0 && by_stage[0].values[q * 60 + 50] == 0.0));
    let about = header(&done.folder.path().join("scores.safetensors"));
    let ids: Vec<String> = serde_json::from_str(&about["train_ids"])?;
    // a row's number names two examples where the files differ
    assert_eq!([&ids[9], &ids[10], &ids[40]], ["9", "first/10", "second/10"]);
    assert_eq!(ids.len(), 60);
    Ok(())
}

#[test]
fn self_influence_over_stages() -> Outcome {
    let folder = tempfile::tempdir()?;
    let case = two_stages(folder.path());
    let mut by_hand = ByHand::new(&case);
    by_hand.columns = vec![(0..40).collect(), (0..10).chain(40..60).collect()];
    let want = by_hand.self_influence();
    for (form, want) in [SelfInfluenceForm::Walk, SelfInfluenceForm::Local].into_iter().zip(&want) {
        let done = case.run(|job| {
            job.method.self_influence = true;
            job.source.as_mut().expect("Source").self_influence = form;
        });
        // each stage's value is kept in `f32`
        assert_relative(&done.self_influence(), want, 1.2e-7, &format!("{form:?}"));
    }
    Ok(())
}

/// The metadata of a safetensors file.
fn header(file: &Path) -> std::collections::HashMap<String, String> {
    let bytes = std::fs::read(file).expect("readable");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("safetensors");
    assert!(!Recorded::open(file).names().is_empty());
    header.metadata().clone().expect("metadata")
}
