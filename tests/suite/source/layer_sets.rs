//! Scores over sets of layers, from the passes that score all layers, are those of runs that track nothing else.

use ascribe::attribution::Pass;
use ascribe::job::{Beside, Job, Several};

use crate::source::case::{Case, Done, run};
use crate::support::figures::assert_relative;

/// Both sides are written in `f32`; the sums before are in `f64`.
const WRITTEN: f64 = 1.2e-7;

type Sets = [(&'static str, &'static [&'static str])];

fn over(sets: &Sets, job: &mut Job) {
    let globs = |globs: &[&str]| Several(globs.iter().map(|&glob| glob.to_owned()).collect());
    job.output.layer_sets = sets.iter().map(|(name, of)| ((*name).to_owned(), globs(of))).collect();
}

fn with_everything(job: &mut Job) {
    job.source.as_mut().expect("Source").with = vec![Beside::Influence, Beside::Tracin, Beside::Gradients];
    job.method.damping = Several(["0.1x", "1e-3"].map(|text| text.parse().expect("a damping")).to_vec());
}

/// Answers beside the first.
const BESIDE: [&str; 4] = ["influence.damping-0.1x", "influence.damping-1e-3", "tracin", "gradients"];

/// The file of an answer over a set.
fn named(answer: &str, set: &str) -> String {
    let name = format!("{answer}.layers-{set}");
    name.trim_start_matches('.').to_owned()
}

fn scored(done: &Done) -> usize {
    done.passes.iter().filter(|pass| **pass == Pass::Scores).count()
}

#[test]
fn a_set_is_scored_as_if_no_other_layer_were_tracked() {
    let of_rows: &Sets = &[("ends", &["layers.0", "layers.2"]), ("middle", &["layers.1"])];
    let of_text: &Sets = &[("attention", &["*.attn.*"]), ("late", &["transformer.h.1.*"]), ("mlp", &["*.mlp.*"])];
    for (case, sets) in [(Case::sgd(), of_rows), (Case::adamw("2"), of_text)] {
        let plain = case.run(with_everything);
        let all = case.run(|job| {
            with_everything(job);
            over(sets, job);
        });
        assert_eq!(all.passes, plain.passes, "sets need no pass of their own");
        assert_eq!(all.artifacts("queries").len(), plain.artifacts("queries").len(), "nor query vectors");
        for answer in BESIDE.into_iter().chain([""]) {
            assert!(all.scores(answer) == plain.scores(answer), "`{answer}` over all layers is as without sets");
        }
        for (set, globs) in sets {
            let alone = case.run(|job| {
                with_everything(job);
                job.model.layers = globs.iter().map(|&glob| glob.to_owned()).collect();
            });
            for answer in BESIDE.into_iter().chain([""]) {
                let (found, want) = (all.scores(&named(answer, set)), alone.scores(answer));
                assert_relative(&found, &want, WRITTEN, &named(answer, set));
                assert!(found != all.scores(answer), "{set} is a part");
            }
        }
    }
}

#[test]
fn disjoint_sets_that_cover_all_layers_add_up() {
    for case in [Case::sgd(), Case::adamw("2")] {
        let sets: &Sets = match case.stages[0].1.extension().is_some_and(|kind| kind == "jsonl") {
            true => &[("a", &["*.attn.*"]), ("b", &["*.mlp.*"])],
            false => &[("a", &["layers.0"]), ("b", &["layers.[12]"])],
        };
        let done = case.run(|job| {
            job.source.as_mut().expect("Source").with = vec![Beside::Influence, Beside::Tracin];
            over(sets, job);
        });
        for answer in ["", "influence", "tracin"] {
            let [a, b] = ["a", "b"].map(|set| done.scores(&named(answer, set)));
            let sum: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_relative(&sum, &done.scores(answer), 2.0 * WRITTEN, answer);
        }
    }
}

/// A folder that was scored over all layers is scored over sets with what it has, and its scores stay.
#[test]
fn sets_can_be_asked_of_a_finished_run() {
    let case = Case::sgd();
    let sets: &Sets = &[("ends", &["layers.0", "layers.2"])];
    let asked = case.run(|job| over(sets, job));
    let done = case.run(|_| {});
    let before = done.scores("");
    let mut again = case.job(done.folder.path());
    over(sets, &mut again);
    let passes = run(again);
    assert!(passes.iter().all(|pass| *pass == Pass::Scores), "{passes:?}");
    assert_eq!(passes.len(), scored(&asked));
    assert!(done.scores("") == before && done.scores("layers-ends") == asked.scores("layers-ends"));
    // another set of that name is another result
    let mut other = case.job(done.folder.path());
    over(&[("ends", &["layers.0"])], &mut other);
    let refused = ascribe::job::Plan::resolve(other).expect("sound inputs").run(&()).expect_err("other layers");
    assert!(refused.to_string().contains("scores.layers-ends.safetensors"), "{refused}");
}
