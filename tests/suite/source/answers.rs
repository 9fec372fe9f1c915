//! Several answers from one pass are those of separate runs.

use std::path::Path;

use ascribe::attribution::source::{SourceOptions, tracin_weight};
use ascribe::attribution::{Pass, QueryRows, Walk};
use ascribe::curvature::{Factors, Network};
use ascribe::job::{Beside, Curvature, DampingRequest, Job, Several};

use crate::source::by_hand::{ByHand, assert_scores};
use crate::source::case::{Case, Done, run};
use crate::support::figures::assert_relative;

/// Both sides are written in `f32`; the sums before are in `f64`.
const WRITTEN: f64 = 1.2e-7;

fn dampings(of: &[&str]) -> Several<DampingRequest> {
    Several(of.iter().map(|text| text.parse().expect("a damping")).collect())
}

/// Influence at the last checkpoint of a run, by itself.
fn influence(case: &Case, checkpoint: &str, change: impl FnOnce(&mut Job)) -> Done {
    case.run(|job| {
        job.source = None;
        job.model.path = case.request.path.join(checkpoint);
        change(job);
    })
}

#[test]
fn time_scales_together_and_alone() {
    for case in [Case::sgd(), Case::adamw("3")] {
        let scales = |scales: &[f64]| {
            let scales = Several(scales.to_vec());
            case.run(|job| job.source.as_mut().expect("Source").time_scale = scales)
        };
        let both = scales(&[1.0, 10.0]);
        let [one, ten] = [1.0, 10.0].map(|scale| scales(&[scale]));
        assert_relative(&both.scores(""), &one.scores(""), WRITTEN, "time scale 1");
        assert_relative(&both.scores("source.time-scale-10"), &ten.scores(""), WRITTEN, "time scale 10");
        assert_eq!(both.passes, one.passes, "the second time scale needs no pass of its own");
        let by_hand = ByHand::new(&case);
        let options = SourceOptions { time_scale: 10.0, ..SourceOptions::default() };
        assert_scores(&ten.scores(""), &by_hand.scores(options), "time scale 10 by hand");
    }
}

#[test]
fn methods_beside_source_are_those_of_their_own_runs() {
    for (case, checkpoint) in [(Case::sgd(), "checkpoint-720"), (Case::adamw("2"), "checkpoint-240")] {
        let alone = case.run(|_| {});
        let all = case.run(|job| {
            job.source.as_mut().expect("Source").with = vec![Beside::Influence, Beside::Tracin, Beside::Gradients];
            job.method.damping = dampings(&["0.1x", "1e-3"]);
        });
        assert_relative(&all.scores(""), &alone.scores(""), WRITTEN, "Source among others");
        for damping in ["0.1x", "1e-3"] {
            let own = influence(&case, checkpoint, |job| job.method.damping = dampings(&[damping]));
            let name = format!("influence.damping-{}", String::from(damping.parse::<DampingRequest>().expect("one")));
            assert_relative(&all.scores(&name), &own.scores(""), WRITTEN, &name);
        }
        let dots = influence(&case, checkpoint, |job| job.method.curvature = Curvature::Identity);
        assert_relative(&all.scores("gradients"), &dots.scores(""), WRITTEN, "gradients");
        tracin(&case, &all);
        // training examples are differentiated for scores once at each checkpoint, whatever is asked for
        let passes = |done: &Done| done.passes.iter().filter(|pass| **pass == Pass::Scores).count();
        assert_eq!(passes(&all), passes(&alone));
    }
}

fn tracin(case: &Case, done: &Done) {
    let by_hand = ByHand::new(case);
    let identity = Factors::identity(by_hand.last.layers().len());
    let walk = Walk::gradients(&identity);
    let want = by_hand.sum(|add| {
        for (leg, networks) in by_hand.networks.iter().enumerate() {
            let (stage, segment) = &by_hand.run.segments[leg];
            for (a, (network, _)) in networks.iter().enumerate() {
                let vectors = by_hand.vectors(network, &walk);
                let weight = tracin_weight(&by_hand.run.trajectory.stages()[*stage], segment, a);
                add(network, leg, QueryRows { vectors: &vectors, leg: 0, weight });
            }
        }
    });
    assert_scores(&done.scores("tracin"), &want, "TracIn by hand");
}

#[test]
fn dampings_together_and_alone() {
    let case = Case::sgd();
    let run = |of: &[&str]| influence(&case, "checkpoint-720", |job| job.method.damping = dampings(of));
    let several = run(&["0.1x", "0.5x", "1e-4"]);
    assert_relative(&several.scores(""), &run(&["0.1x"]).scores(""), WRITTEN, "0.1x");
    for damping in ["0.5x", "1e-4"] {
        let name = format!("influence.damping-{damping}");
        assert_relative(&several.scores(&name), &run(&[damping]).scores(""), WRITTEN, damping);
    }
}

/// What a later run in the same folder shares with an earlier one is not done again.
#[test]
fn other_segments_share_the_passes_of_their_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let finished = |case: Case| {
        // the results make room, the curvature stays
        for file in ["scores.safetensors", "ranking.jsonl"] {
            let _ = std::fs::remove_file(folder.path().join(file));
        }
        let passes = run(case.job(folder.path()));
        (passes, scores(folder.path()))
    };
    let (first, _) = finished(Case::sgd());
    let count = |passes: &[Pass], pass| passes.iter().filter(|found| **found == pass).count();
    assert_eq!([Pass::Covariance, Pass::Lambda, Pass::Scores].map(|pass| count(&first, pass)), [6, 6, 6]);
    let mut two = Case::sgd();
    two.request.segments = "2".parse().expect("a rule");
    let (second, shared) = finished(two.clone());
    assert_eq!([Pass::Covariance, Pass::Lambda].map(|pass| count(&second, pass)), [0, 6], "covariances were kept");
    assert_relative(&shared, &two.run(|_| {}).scores(""), WRITTEN, "two segments");
}

fn scores(folder: &Path) -> Vec<f64> {
    crate::support::recorded::Recorded::open(&folder.join("scores.safetensors")).values("scores")
}
