//! Whole jobs: one stage, SGD and AdamW, self-influence, averaged parameters.

use std::path::Path;

use ascribe::Hint;
use ascribe::attribution::source::{SourceForm, SourceOptions};
use ascribe::attribution::{Pass, VectorSource};
use ascribe::curvature::LayerId;
use ascribe::curvature::Network;
use ascribe::job::{Average, FormRequest, Plan, SelfInfluenceForm, Several};
use ascribe::model::Model;
use candle_core::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::source::by_hand::{ByHand, assert_scores};
use crate::source::case::{Case, Done};
use crate::support::figures::{assert_relative, largest};
use crate::support::recorded::Recorded;
use crate::support::{Outcome, load};

/// `docs/method.md`, Numerics: jobs and library in `f64`.
const EXACT: f64 = 1e-9;
/// Half a unit of the last place of `f32`, in which files hold scores and self-influence.
const WRITTEN: f64 = 6e-8;

/// Query vectors, which the store keeps in `f64`, and scores.
#[track_caller]
fn assert_same(done: &Done, by_hand: &ByHand, options: SourceOptions) {
    let walk = by_hand.walk(options);
    let vectors = by_hand.vectors(&by_hand.last, &walk);
    let stored = done.artifacts("queries");
    assert_eq!(stored.len(), 1, "one answer has one set of vectors");
    for leg in 0..walk.legs.len() {
        for (l, layer) in by_hand.last.layers().iter().enumerate() {
            let name = format!("{leg}/{}", layer.name);
            let want = vectors.vectors(leg, LayerId(l)).expect("in memory").full().expect("whole");
            assert_relative(&stored[0].values(&name), want, EXACT, &name);
        }
    }
    assert_scores(&done.scores(""), &by_hand.scores(options), "scores");
}

#[test]
fn sgd_in_three_segments() {
    let case = Case::sgd();
    let by_hand = ByHand::new(&case);
    assert_eq!(by_hand.networks.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    assert_same(&case.run(|_| {}), &by_hand, SourceOptions::default());
}

#[test]
fn adamw_conditioned() {
    // unequal segments: one of 180 steps and three checkpoints, one of 60 and one
    let case = Case::adamw("ends:180");
    let by_hand = ByHand::new(&case);
    assert_eq!(by_hand.networks.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    assert!(by_hand.curvatures.iter().all(|leg| leg.conditioners.len() == by_hand.last.layers().len()));
    assert_same(&case.run(|_| {}), &by_hand, SourceOptions::default());
}

#[test]
fn the_form_of_single_steps() {
    let case = Case::sgd();
    let by_hand = ByHand::new(&case);
    // at the rates as they were `ησ` is 1.06 in the steepest direction, which the product refuses
    let options = SourceOptions { form: SourceForm::Product, time_scale: 0.5, ..SourceOptions::default() };
    let done = case.run(|job| {
        let source = job.source.as_mut().expect("Source");
        (source.form, source.time_scale) = (FormRequest::Product, Several(vec![0.5]));
    });
    assert_same(&done, &by_hand, options);
    let exponential = by_hand.scores(SourceOptions { form: SourceForm::Exponential, ..options }).values;
    let product = done.scores("");
    let apart = exponential.iter().zip(&product).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart > 1e-4 * largest(&exponential), "the forms differ by {apart:e} alone");
}

/// What the product form needs is known after the fit alone: the fit is kept, and the exponential form takes it.
#[test]
fn a_form_that_is_refused_leaves_its_fit_to_the_other() -> Outcome {
    let (case, folder) = (Case::sgd(), tempfile::tempdir()?);
    let job = |form| {
        let mut job = case.job(folder.path());
        job.source.as_mut().expect("Source").form = form;
        job
    };
    let plan = Plan::resolve(job(FormRequest::Product))?;
    let said = |note: &String| note.contains("is known once the curvature is fitted");
    assert!(plan.summary().notes.iter().any(said), "{:?}", plan.summary().notes);
    let error = plan.run(&()).expect_err("too long steps");
    assert!(error.to_string().contains("where the product form oscillates"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("is kept") && hint.contains("--form exponential")));
    let passes = crate::source::case::run(job(FormRequest::Exponential));
    let fitted = |pass: &Pass| matches!(pass, Pass::Covariance | Pass::Lambda);
    assert!(!passes.iter().any(fitted) && passes.contains(&Pass::Scores), "{passes:?}");
    let plain = case.run(|_| {}).scores("");
    assert_relative(
        &Recorded::open(&folder.path().join("scores.safetensors")).values("scores"),
        &plain,
        EXACT,
        "scores",
    );
    Ok(())
}

#[test]
fn self_influence_in_both_forms() {
    for case in [Case::sgd(), Case::adamw("2")] {
        let by_hand = ByHand::new(&case).self_influence();
        for (form, want) in [SelfInfluenceForm::Walk, SelfInfluenceForm::Local].into_iter().zip(&by_hand) {
            let done = case.run(|job| {
                job.method.self_influence = true;
                job.source.as_mut().expect("Source").self_influence = form;
            });
            assert_relative(&done.self_influence(), want, EXACT + WRITTEN, &format!("{form:?}"));
        }
        assert!(by_hand[1].iter().all(|value| *value > 0.0), "squares");
        assert!(by_hand[0].iter().zip(&by_hand[1]).any(|(walk, local)| (walk / local - 1.0).abs() > 0.1));
    }
}

/// The mean of two checkpoints, written to a folder as a third.
fn mean_of(folders: [&Path; 2], to: &Path) {
    let [first, second] = folders.map(|folder| Recorded::open(&folder.join("model.safetensors")));
    let mean = |name: &String| {
        let (a, b) = (first.get(name), second.get(name));
        let bytes = a.values.iter().zip(&b.values).flat_map(|(a, b)| (0.5 * (a + b)).to_le_bytes()).collect();
        (name.clone(), a.shape, bytes)
    };
    let means: Vec<(String, Vec<usize>, Vec<u8>)> = first.names().iter().map(mean).collect();
    let views = means
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F64, shape.clone(), bytes).expect("fitting")));
    std::fs::create_dir(to).expect("writable");
    std::fs::write(to.join("model.safetensors"), safetensors::serialize(views, None).expect("sound"))
        .expect("writable");
    std::fs::copy(folders[0].join("config.json"), to.join("config.json")).expect("writable");
}

#[test]
fn averaged_parameters_are_one_checkpoint_for_each_segment() -> Outcome {
    let case = Case::sgd();
    let folder = tempfile::tempdir()?;
    let steps = [["168", "336"], ["504", "576"], ["648", "720"]];
    for (index, steps) in steps.iter().enumerate() {
        let of = steps.map(|step| case.request.path.join(format!("checkpoint-{step}")));
        mean_of([&of[0], &of[1]], &folder.path().join(index.to_string()));
    }
    let mean = |leg: usize| -> Option<Model> { Some(load(&folder.path().join(leg.to_string()), DType::F64)) };
    let by_hand = ByHand::with_networks(&case, mean);
    let done = case.run(|job| job.source.as_mut().expect("Source").average = Average::Parameters);
    assert_same(&done, &by_hand, SourceOptions::default());
    // a mean of networks is not a mean of their scores
    let plain = ByHand::new(&case).scores(SourceOptions::default()).values;
    let fast = done.scores("");
    let apart = plain.iter().zip(&fast).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart > 1e-2 * largest(&plain), "the two averages differ by {apart:e} alone");
    Ok(())
}
