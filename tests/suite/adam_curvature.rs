//! The root of Adam's second moments as a curvature, against its definition with the moments that torch recorded.

use std::path::{Path, PathBuf};

use crate::support::dense::gradient;
use crate::support::recorded::Recorded;
use crate::support::{Outcome, fixture, load};
use ascribe::attribution::store::{Shard, TensorFile};
use ascribe::curvature::{Damping, Measurement, Network, Objective, Reduction};
use ascribe::data::{self, Dataset};
use ascribe::job::{
    CheckpointsRequest, Curvature, DampingRequest, FitExamples, IntervalsRequest, Job, Plan, Precision, Several, Side,
    Solve,
};
use candle_core::DType;

const DAMPINGS: [&str; 2] = ["0.1x", "1e-3"];

fn checkpoint(step: usize) -> PathBuf {
    fixture("trainer-tiny").join(format!("checkpoint-{step}"))
}

/// A job about the small GPT-2 that a Trainer left, in f64.
fn job(model: PathBuf, out: &Path) -> Job {
    let run = fixture("trainer-tiny");
    let mut job = Job::new(model, run.join("train.jsonl"), out);
    job.data.queries = Some(run.join("queries.jsonl"));
    (job.data.add_eos, job.data.tokenizer) = (Side::Train, Some(run));
    job.model.dtype = Precision::F64;
    job.method.curvature = Curvature::Adam;
    job.method.damping = Several(DAMPINGS.map(|damping| damping.parse().expect("a damping")).to_vec());
    job
}

fn scores(folder: &Path, name: &str) -> Vec<f64> {
    let file = TensorFile::open(&folder.join(name)).expect("scores");
    file.f32("scores").expect("a matrix").iter().map(|&score| f64::from(score)).collect()
}

/// `(1/N) Σ ∇cost_q G_m / (√v̂ + damping)`, number by number, by damping.
fn by_definition(step: usize, train: &Dataset, queries: &Dataset) -> Vec<Vec<f64>> {
    let model = load(&checkpoint(step), DType::F64);
    let expected = Recorded::open(&fixture("trainer-tiny/expected.safetensors"));
    let of = |data: &Dataset, m: usize, objective| gradient(&model, &data::batch(data, m..m + 1), objective).1;
    let measured = Objective::Measurement(Measurement::Loss, Reduction::Sum);
    let roots: Vec<Vec<f64>> = model
        .layers()
        .iter()
        .map(|layer| expected.values(&format!("second_moment.{}.{step}", layer.name)))
        .map(|moments| moments.into_iter().map(f64::sqrt).collect())
        .collect();
    let examples: Vec<_> = (0..train.len()).map(|m| of(train, m, Objective::TrainingLoss)).collect();
    let asked: Vec<_> = (0..queries.len()).map(|q| of(queries, q, measured)).collect();
    let score = |damping: &DampingRequest, q: &[Vec<f64>], m: &[Vec<f64>]| {
        let of_layer = |l: usize| {
            let DampingRequest::Value(damping) = *damping else { panic!("a number") };
            let added = match damping {
                Damping::Absolute(added) => added,
                Damping::MeanFraction(share) => share * roots[l].iter().sum::<f64>() / roots[l].len() as f64,
            };
            roots[l].iter().zip(&q[l]).zip(&m[l]).map(|((root, q), m)| q * m / (root + added)).sum::<f64>()
        };
        (0..roots.len()).map(of_layer).sum::<f64>() / train.len() as f64
    };
    let of_damping = |damping: &str| {
        let damping = damping.parse().expect("a damping");
        asked.iter().flat_map(|q| examples.iter().map(move |m| (q, m))).map(|(q, m)| score(&damping, q, m)).collect()
    };
    DAMPINGS.map(of_damping).to_vec()
}

#[track_caller]
fn assert_near(found: &[f64], want: &[f64], what: &str) {
    let scale = want.iter().fold(0.0f64, |most, score| most.max(score.abs()));
    assert!(scale > 0.0 && found.len() == want.len(), "{what}");
    for (place, (found, want)) in found.iter().zip(want).enumerate() {
        assert!((found - want).abs() <= 1e-6 * scale, "{what} [{place}]: {found} {want}");
    }
}

/// At one checkpoint and averaged over two, whose moments are their own; of two dampings.
#[test]
fn scores_are_those_of_the_recorded_moments() -> Outcome {
    let folder = tempfile::tempdir()?;
    let plan = Plan::resolve(job(checkpoint(240), &folder.path().join("one")))?;
    let said = plan.summary().notes.iter().any(|note| note.contains("checkpoint-240/optimizer.pt"));
    assert!(said, "{:?}", plan.summary().notes);
    plan.run(&())?;
    let (train, queries) = (plan.train(), plan.queries().expect("queries"));
    let want = [60, 240].map(|step| by_definition(step, train, queries));
    for (k, damping) in DAMPINGS.into_iter().enumerate() {
        let name = if k == 0 {
            "scores.safetensors".to_owned()
        } else {
            format!("scores.influence.damping-{damping}.safetensors")
        };
        assert_near(&scores(&folder.path().join("one"), &name), &want[1][k], damping);
    }
    let mut averaged = job(PathBuf::new(), &folder.path().join("both"));
    averaged.checkpoints = Some(CheckpointsRequest::of_folders([60, 240].map(checkpoint).to_vec()));
    let plan = Plan::resolve(averaged)?;
    assert_eq!(plan.job.method.solve, Solve::Ekfac, "layers are solved one by one");
    plan.run(&())?;
    let mean: Vec<f64> = want[0][0].iter().zip(&want[1][0]).map(|(a, b)| (a + b) / 2.0).collect();
    assert_near(&scores(&folder.path().join("both"), "scores.safetensors"), &mean, "mean");
    Ok(())
}

#[test]
fn steps_and_shards_leave_what_one_run_leaves() -> Outcome {
    let [whole, parts] = [tempfile::tempdir()?, tempfile::tempdir()?];
    let plan = |out: &Path| Plan::resolve(job(checkpoint(240), out));
    plan(whole.path())?.run(&())?;
    let shards = [Shard::new(1, 2)?, Shard::new(2, 2)?];
    assert!(plan(parts.path())?.query(&()).is_err(), "the moments are not there yet");
    for shard in shards {
        let next = plan(parts.path())?.fit(Some(shard), &())?.next;
        assert!(next.is_some_and(|next| next.contains("`ascribe query")), "nothing else is to be fitted");
    }
    plan(parts.path())?.query(&())?;
    for shard in shards {
        plan(parts.path())?.score(Some(shard), &())?;
    }
    plan(parts.path())?.merge(&[], &())?;
    assert_eq!(scores(parts.path(), "scores.safetensors"), scores(whole.path(), "scores.safetensors"));
    Ok(())
}

/// A copy of a checkpoint with another optimizer's state, or with none.
fn with_state(name: &str, state: Option<PathBuf>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join(name);
    std::fs::create_dir(&copy).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(checkpoint(240).join(file), copy.join(file)).expect("a copy");
    }
    if let Some(state) = state {
        std::fs::copy(state, copy.join("optimizer.pt")).expect("a copy");
    }
    folder
}

#[test]
fn what_has_no_second_moments_is_refused() {
    let out = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, state: Option<PathBuf>| {
        let folder = with_state(name, state);
        Plan::resolve(job(folder.path().join(name), out.path())).expect_err("refused").to_string()
    };
    let error = refused("model", None);
    assert!(error.contains("model: has no optimizer's state (`optimizer.pt`), and `curvature = adam`"), "{error}");
    let error = refused("model", Some(fixture("trajectory/sgd-gpt2/checkpoint-20/optimizer.pt")));
    assert!(error.contains("holds the state of SGD with momentum, which has no plain second moments"), "{error}");
    let error = refused("checkpoint-240", Some(checkpoint(180).join("optimizer.pt")));
    assert!(error.contains("has seen 180 updates, its checkpoint 240"), "{error}");
    // of several checkpoints each has to have one
    let bare = with_state("checkpoint-240", None);
    let mut averaged = job(PathBuf::new(), out.path());
    averaged.checkpoints =
        Some(CheckpointsRequest::of_folders(vec![checkpoint(60), bare.path().join("checkpoint-240")]));
    let error = Plan::resolve(averaged).expect_err("refused").to_string();
    assert!(error.contains("checkpoint-240: has no optimizer's state"), "{error}");
}

#[test]
fn a_layer_that_the_optimizer_did_not_train_is_named() -> Outcome {
    let out = tempfile::tempdir()?;
    let mut frozen = job(fixture("trainer-frozen/checkpoint-60"), out.path());
    let error = Plan::resolve(frozen.clone()).expect_err("refused").to_string();
    assert!(error.contains("has no second moments of `"), "{error}");
    let layer = error.rsplit('`').nth(1).and_then(|name| name.strip_suffix(".weight")).ok_or("a name")?.to_owned();
    // the block that it lies in was frozen
    let block = layer.split('.').take(3).collect::<Vec<_>>().join(".");
    frozen.model.skip_layers = vec![format!("{block}.*")];
    assert!(!Plan::resolve(frozen)?.summary().layers.is_empty());
    Ok(())
}

#[test]
fn options_of_a_curvature_on_examples_are_refused() {
    let out = tempfile::tempdir().expect("a folder");
    let refused = |change: &dyn Fn(&mut Job)| {
        let mut job = job(checkpoint(240), out.path());
        change(&mut job);
        Plan::resolve(job).expect_err("refused").to_string()
    };
    for error in [
        refused(&|job| job.method.fit_examples = FitExamples::Count(3)),
        refused(&|job| job.method.label_draws = 2),
        refused(&|job| job.method.fisher = ascribe::job::Fisher::Empirical),
    ] {
        assert!(error.contains("say how a curvature is taken on training examples"), "{error}");
    }
    assert!(
        refused(&|job| job.method.factors = Some("other".into())).contains("`factors` takes a curvature of another")
    );
    assert!(refused(&|job| job.output.intervals = IntervalsRequest::All).contains("`intervals = all`"));
    // joint systems draw labels of their own
    let mut joint = job(checkpoint(240), out.path());
    (joint.method.solve, joint.method.label_draws) = (Solve::Subspace, 2);
    joint.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(1e-3))]);
    assert!(Plan::resolve(joint).is_ok());
}
