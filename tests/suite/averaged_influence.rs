//! Influence averaged over checkpoints: the same numbers as one job for each checkpoint, put together by hand.

use std::path::{Path, PathBuf};

use crate::support::figures::assert_relative;
use crate::support::fixture;
use crate::support::recorded::Recorded;
use ascribe::attribution::store::Shard;
use ascribe::attribution::{Event, Observer, Pass};
use ascribe::curvature::Damping;
use ascribe::job::{
    Beside, CheckpointScores, CheckpointsRequest, Curvature, DampingRequest, IntervalsRequest, Job, MeanWeights, Plan,
    Precision, Several, Side, Solve, SourceRequest, StoreScores,
};
use ascribe::trajectory::TrajectoryRequest;

/// Jobs in `f64`, rounded to `f32` three times, by half a unit of the last place each: the scores of one checkpoint, the
/// parts of the mean, and the mean.
const EXACT: f64 = 1e-9 + 3.0 * 6e-8;

/// Six checkpoints of a perceptron, trained by SGD.
const MLP: [&str; 6] = ["168", "336", "504", "576", "648", "720"];
/// Four checkpoints of a GPT-2, trained by AdamW.
const GPT2: [&str; 4] = ["60", "120", "180", "240"];

fn folders(run: &str, steps: &[&str]) -> Vec<PathBuf> {
    steps.iter().map(|step| fixture(run).join(format!("checkpoint-{step}"))).collect()
}

/// A job without its checkpoints, in `f64`.
fn job(run: &str, out: &Path) -> Job {
    let data = if run == "mlp-trajectory" { "mlp-tiny" } else { run };
    let [train, queries] = match run {
        "mlp-trajectory" => ["train.safetensors", "query.safetensors"],
        _ => ["train.jsonl", "queries.jsonl"],
    };
    let mut job = Job::new("", fixture(data).join(train), out);
    job.data.queries = Some(fixture(data).join(queries));
    if run != "mlp-trajectory" {
        (job.data.add_eos, job.data.tokenizer) = (Side::Train, Some(fixture(run)));
    }
    job.model.dtype = Precision::F64;
    job.resources.batch_tokens = Some(64);
    job.method.solve = Solve::Ekfac;
    job
}

/// A finished run in a folder of its own.
struct Done(tempfile::TempDir);

impl Done {
    fn of(run: &str, change: impl FnOnce(&mut Job)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut job = job(run, &folder.path().join("run"));
        change(&mut job);
        Plan::resolve(job).expect("sound inputs").run(&()).expect("a whole run");
        Self(folder)
    }

    fn file(&self, name: &str) -> Recorded {
        Recorded::open(&self.0.path().join("run").join(name))
    }

    fn scores(&self, name: &str) -> Vec<f64> {
        self.file(name).values("scores")
    }
}

/// Scores at each checkpoint alone.
fn alone(run: &str, folders: &[PathBuf], change: impl Fn(&mut Job)) -> Vec<Vec<f64>> {
    let of = |folder: &PathBuf| {
        let done = Done::of(run, |job| {
            job.model.path.clone_from(folder);
            change(job);
        });
        done.scores("scores.safetensors")
    };
    folders.iter().map(of).collect()
}

fn mean(scores: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    (0..scores[0].len()).map(|k| scores.iter().zip(weights).map(|(of, weight)| weight * of[k]).sum()).collect()
}

fn averaged(folders: &[PathBuf]) -> Option<CheckpointsRequest> {
    Some(CheckpointsRequest::of_folders(folders.to_vec()))
}

#[test]
fn the_mean_is_that_of_one_job_for_each_checkpoint() {
    for (run, steps) in [("mlp-trajectory", &MLP[..]), ("trainer-tiny", &GPT2[..])] {
        let folders = folders(run, steps);
        let weights = vec![1.0 / folders.len() as f64; folders.len()];
        for curvature in [Curvature::Ekfac, Curvature::Kfac, Curvature::Diagonal, Curvature::Identity] {
            let set = |job: &mut Job| job.method.curvature = curvature;
            let want = mean(&alone(run, &folders, set), &weights);
            let done = Done::of(run, |job| {
                set(job);
                job.checkpoints = averaged(&folders);
            });
            let what = format!("{run}, {curvature:?}");
            assert_relative(&done.scores("scores.safetensors"), &want, EXACT, &what);
            // the run's folder names the same checkpoints
            let of_run = Done::of(run, |job| {
                set(job);
                job.checkpoints = Some(CheckpointsRequest::of_run(fixture(run)));
            });
            assert_eq!(of_run.scores("scores.safetensors"), done.scores("scores.safetensors"), "{what}");
        }
    }
}

/// What a job over several checkpoints leaves open is solved jointly, unless an option speaks against it, which is said.
#[test]
fn averaged_influence_is_solved_jointly_by_default() {
    let folders = folders("mlp-trajectory", &["504", "720"]);
    let plan = |change: fn(&mut Job)| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut job = job("mlp-trajectory", &folder.path().join("run"));
        (job.checkpoints, job.method.solve) = (averaged(&folders), Solve::Auto);
        change(&mut job);
        let plan = Plan::resolve(job).expect("sound inputs");
        let said = plan.summary().notes.iter().any(|note| note.contains("layers are solved one by one, because"));
        (plan.job.method.solve, String::from(plan.job.method.damping.0[0]), said)
    };
    assert_eq!(plan(|_| ()), (Solve::Subspace, "1e-2".into(), false));
    assert_eq!(plan(|job| job.method.curvature = Curvature::Kfac), (Solve::Subspace, "1e-2".into(), false));
    let single = |damping: &str, said| (Solve::Ekfac, damping.to_owned(), said);
    assert_eq!(plan(|job| job.method.solve = Solve::Ekfac), single("0.1x", false));
    assert_eq!(plan(|job| job.method.curvature = Curvature::Identity), single("0.1x", false));
    assert_eq!(plan(|job| job.method.self_influence = true), single("0.1x", true));
    let named = |job: &mut Job| job.method.damping = Several(vec!["0.1x".parse().expect("a damping")]);
    assert_eq!(plan(named), single("0.1x", true));
    let one = |job: &mut Job| {
        job.model.path = job.checkpoints.take().expect("averaged").folders.remove(0);
    };
    assert_eq!(plan(one), single("0.1x", false));
}

#[test]
fn checkpoints_count_what_they_are_told_to() {
    let run = "mlp-trajectory";
    let folders = folders(run, &MLP);
    let scores = alone(run, &folders, |_| ());
    let weighted = |weights: MeanWeights| {
        let request = CheckpointsRequest { weights, ..CheckpointsRequest::of_run(fixture(run)) };
        Done::of(run, |job| job.checkpoints = Some(request)).scores("scores.safetensors")
    };
    let given = vec![0.0, 1.0, 0.0, 2.0, 0.0, 5.0];
    let want = mean(&scores, &given.iter().map(|weight| weight / 8.0).collect::<Vec<_>>());
    assert_relative(&weighted(MeanWeights::Given(given)), &want, EXACT, "given");
    // 0.2 until step 504, then 0.02; steps are nearest to a checkpoint up to the middle between two
    let sums = [252.0 * 0.2, 168.0 * 0.2, 84.0 * 0.2 + 36.0 * 0.02, 72.0 * 0.02, 72.0 * 0.02, 36.0 * 0.02];
    let all: f64 = sums.iter().sum();
    let want = mean(&scores, &sums.map(|sum| sum / all));
    assert_relative(&weighted(MeanWeights::Nearest), &want, EXACT, "nearest");
}

/// Halves of the data and dampings at each checkpoint, averaged as the scores are; means over every other checkpoint.
#[test]
fn variants_of_a_mean_are_means() {
    let run = "mlp-trajectory";
    let folders = folders(run, &MLP[..3]);
    let given = [1.0, 2.0, 5.0];
    let weights = given.map(|weight| weight / 8.0);
    let all = |job: &mut Job| job.output.intervals = IntervalsRequest::All;
    let done = Done::of(run, |job| {
        all(job);
        job.checkpoints = Some(CheckpointsRequest {
            weights: MeanWeights::Given(given.into()),
            ..averaged(&folders).expect("three")
        });
    });
    let alone: Vec<Done> = folders
        .iter()
        .map(|folder| {
            Done::of(run, |job| {
                all(job);
                job.model.path.clone_from(folder);
            })
        })
        .collect();
    let at_each = |name: &str| alone.iter().map(|of| of.scores(name)).collect::<Vec<_>>();
    for variant in ["half-1", "half-2", "damping-0.3", "damping-3"] {
        let name = format!("scores.variant-{variant}.safetensors");
        assert_relative(&done.scores(&name), &mean(&at_each(&name), &weights), EXACT, variant);
    }
    let scores = at_each("scores.safetensors");
    for (variant, weights) in [("checkpoints-1", [1.0 / 6.0, 0.0, 5.0 / 6.0]), ("checkpoints-2", [0.0, 1.0, 0.0])] {
        let found = done.scores(&format!("scores.variant-{variant}.safetensors"));
        assert_relative(&found, &mean(&scores, &weights), EXACT, variant);
    }
}

/// Each checkpoint's row of scores divided by its standard deviation over the training examples, times the mean
/// deviation.
#[test]
fn spread_scores_let_no_checkpoint_outvote_the_others() {
    let run = "mlp-trajectory";
    let folders = folders(run, &MLP);
    let scores = alone(run, &folders, |_| ());
    let (n, c) = (60, folders.len() as f64);
    let mut want = vec![0.0; scores[0].len()];
    for (row, want) in want.chunks_exact_mut(n).enumerate() {
        let rows: Vec<&[f64]> = scores.iter().map(|of| &of[row * n..(row + 1) * n]).collect();
        let deviation = |row: &&[f64]| {
            let mean = row.iter().sum::<f64>() / n as f64;
            (row.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n as f64).sqrt()
        };
        let unit = rows.iter().map(deviation).sum::<f64>() / c;
        for (m, want) in want.iter_mut().enumerate() {
            *want = unit * rows.iter().map(|row| row[m] / deviation(row)).sum::<f64>() / c;
        }
    }
    let done = Done::of(run, |job| {
        job.checkpoints = averaged(&folders);
        job.method.checkpoint_scores = CheckpointScores::Spread;
        job.output.layer_sets.insert("first".into(), Several(vec!["layers.0".into()]));
        job.output.layer_sets.insert("others".into(), Several(vec!["layers.[12]".into()]));
    });
    let found = done.scores("scores.safetensors");
    assert_relative(&found, &want, EXACT, "spread");
    let plain = mean(&scores, &vec![1.0 / c; folders.len()]);
    assert!(found.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-3 * b.abs()), "spread changes nothing");
    let parts = ["first", "others"].map(|set| done.scores(&format!("scores.layers-{set}.safetensors")));
    let sum: Vec<f64> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
    assert_relative(&sum, &found, 2.0 * EXACT, "sets of layers add up");
}

#[test]
fn self_influence_is_averaged_too() {
    let run = "mlp-trajectory";
    let folders = folders(run, &MLP[3..]);
    let own = |job: &mut Job| job.method.self_influence = true;
    let of = |folder: &PathBuf| {
        let done = Done::of(run, |job| {
            job.model.path.clone_from(folder);
            own(job);
        });
        done.file("self_influence.safetensors").values("self_influence")
    };
    let want = mean(&folders.iter().map(of).collect::<Vec<_>>(), &[1.0 / 3.0; 3]);
    let done = Done::of(run, |job| {
        job.checkpoints = averaged(&folders);
        own(job);
    });
    assert_relative(&done.file("self_influence.safetensors").values("self_influence"), &want, EXACT, "own");
}

/// Passes that were begun.
#[derive(Default)]
struct Watch(std::sync::Mutex<Vec<Pass>>);

impl Observer for Watch {
    fn event(&self, event: Event) {
        if let Event::Started { pass, .. } = event {
            self.0.lock().expect("nobody panicked").push(pass);
        }
    }

    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn source_influence_and_their_mean_share_all_passes() {
    let run = "mlp-trajectory";
    let want = Done::of(run, |job| job.checkpoints = Some(CheckpointsRequest::of_run(fixture(run))));
    let last = Done::of(run, |job| job.model.path = fixture(run).join("checkpoint-720"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = job(run, &folder.path().join("run"));
    let mut source = SourceRequest::new(TrajectoryRequest::new(fixture(run)));
    source.with = vec![Beside::InfluenceMean, Beside::Influence, Beside::Tracin];
    job.source = Some(source);
    let watch = Watch::default();
    Plan::resolve(job).expect("sound inputs").run(&watch).expect("a whole run");
    let done = Done(folder);
    let found = done.scores("scores.influence-mean.safetensors");
    assert_relative(&found, &want.scores("scores.safetensors"), EXACT, "mean");
    let found = done.scores("scores.influence.safetensors");
    assert_relative(&found, &last.scores("scores.safetensors"), EXACT, "last");
    let passes = watch.0.into_inner().expect("nobody panicked");
    let count = |wanted: Pass| passes.iter().filter(|pass| **pass == wanted).count();
    assert_eq!([Pass::Covariance, Pass::Lambda, Pass::Queries, Pass::Scores].map(count), [6, 6, 6, 6]);
}

#[test]
fn shards_and_restarts_give_the_same_bytes() {
    let run = "trainer-tiny";
    let whole = Done::of(run, |job| job.checkpoints = Some(CheckpointsRequest::of_run(fixture(run))));
    let folder = tempfile::tempdir().expect("a folder");
    let mut job = job(run, &folder.path().join("run"));
    job.checkpoints = Some(CheckpointsRequest::of_run(fixture(run)));
    let plan = || Plan::resolve(job.clone()).expect("sound inputs");
    let shard = |index: usize| Some(Shard::parse(&format!("{index}/2")).expect("a shard"));
    for _ in ["covariances", "lambda"] {
        (1..=2).for_each(|index| drop(plan().fit(shard(index), &()).expect("a part")));
        plan().merge(&[], &()).expect("joined");
    }
    plan().query(&()).expect("vectors");
    (1..=2).for_each(|index| drop(plan().score(shard(index), &()).expect("a part")));
    plan().merge(&[], &()).expect("joined");
    let bytes = |root: &Path| std::fs::read(root.join("run/scores.safetensors")).expect("scores");
    assert_eq!(bytes(whole.0.path()), bytes(folder.path()));
    // results that are gone are made again from what is left
    std::fs::remove_file(folder.path().join("run/scores.safetensors")).expect("there");
    plan().run(&()).expect("a whole run");
    assert_eq!(bytes(whole.0.path()), bytes(folder.path()));
}

#[test]
fn the_best_alone_are_those_of_the_mean() {
    let run = "trainer-tiny";
    let request = CheckpointsRequest::of_run(fixture(run));
    let full = Done::of(run, |job| job.checkpoints = Some(request.clone())).scores("scores.safetensors");
    let top = Done::of(run, |job| {
        job.checkpoints = Some(request.clone());
        (job.output.store_scores, job.output.top) = (StoreScores::Top, 3);
    });
    let best = top.file("top.safetensors").values("proponents.score");
    for (row, best) in full.chunks_exact(48).zip(best.chunks_exact(3)) {
        let mut sorted = row.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(&sorted[..3], best);
    }
}

/// `1/rates` of the perceptron's run: 504 steps at 0.2 and 216 at 0.02, no momentum, the loss a mean of examples.
#[test]
fn a_damping_of_the_rates_is_one_over_their_sum() {
    let folder = tempfile::tempdir().expect("a folder");
    let rates = |job: &mut Job| {
        job.method.damping = Several(vec!["1/rates".parse().expect("a damping")]);
    };
    let mut of_run = job("mlp-trajectory", &folder.path().join("run"));
    of_run.checkpoints = Some(CheckpointsRequest::of_run(fixture("mlp-trajectory")));
    rates(&mut of_run);
    let plan = Plan::resolve(of_run).expect("sound inputs");
    let DampingRequest::Value(Damping::Absolute(damping)) = plan.job.method.damping.0[0] else { panic!("a number") };
    let sum = 504.0 * 0.2 + 216.0 * 0.02;
    assert!((damping * sum - 1.0).abs() < 1e-12, "{damping}");
    let notes = &plan.summary().notes;
    assert!(notes.iter().any(|note| note.starts_with("damping 1/rates is 9.513e-3")), "{notes:?}");

    let mut of_source = job("mlp-trajectory", &folder.path().join("source"));
    let mut source = SourceRequest::new(TrajectoryRequest::new(fixture("mlp-trajectory")));
    source.with = vec![Beside::Influence];
    (of_source.source, of_source.method.solve) = (Some(source), Solve::Auto);
    rates(&mut of_source);
    let plan = Plan::resolve(of_source).expect("sound inputs");
    assert_eq!(plan.job.method.damping.0[0], DampingRequest::Value(Damping::Absolute(damping)));
}

#[test]
fn a_damping_of_unknown_rates_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |run: &str, checkpoints: CheckpointsRequest| {
        let mut job = job(run, &folder.path().join("run"));
        job.checkpoints = Some(checkpoints);
        job.method.damping = Several(vec![DampingRequest::Rates]);
        Plan::resolve(job).expect_err("refused").to_string()
    };
    let named = CheckpointsRequest::of_folders(folders("mlp-trajectory", &MLP));
    assert!(refused("mlp-trajectory", named).contains("checkpoints are named by their folders"));
    let adam = CheckpointsRequest::of_run(fixture("trainer-tiny"));
    assert!(refused("trainer-tiny", adam).contains("trained with another optimizer"));
}

/// What is added to joint systems by default follows the optimizer of the run, also where its checkpoints are named one
/// by one; where nothing says it, the plan says what was taken.
#[test]
fn a_damping_that_nobody_names_follows_the_optimizer() {
    let folder = tempfile::tempdir().expect("a folder");
    let resolved = |run: &str, checkpoints: CheckpointsRequest| {
        let mut job = job(run, &folder.path().join("run"));
        (job.checkpoints, job.method.solve) = (Some(checkpoints), Solve::Auto);
        let plan = Plan::resolve(job).expect("sound inputs");
        let note = plan.summary().notes.iter().find(|note| note.starts_with("damping auto is")).cloned();
        (plan.job.method.damping.0[0], note.unwrap_or_default())
    };
    let [of_adam, of_descent] = [Damping::Absolute(0.001), Damping::Absolute(0.01)].map(DampingRequest::Value);
    for (run, steps, damping, said) in
        [("trainer-tiny", &GPT2[..], of_adam, "trained by AdamW"), ("mlp-trajectory", &MLP[..], of_descent, "")]
    {
        for checkpoints in
            [CheckpointsRequest::of_run(fixture(run)), CheckpointsRequest::of_folders(folders(run, steps))]
        {
            let (found, note) = resolved(run, checkpoints);
            assert!(found == damping && note.contains(said) && note.is_empty() == said.is_empty(), "{found:?} {note}");
        }
    }
    let copies = ["first", "second"].map(|name| folder.path().join(name));
    for (copy, step) in copies.iter().zip(GPT2) {
        std::fs::create_dir(copy).expect("a folder");
        let of_run = fixture("trainer-tiny").join(format!("checkpoint-{step}"));
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(of_run.join(file), copy.join(file)).expect("a copy");
        }
    }
    // one checkpoint alone, in its run's folder
    let alone = |model: &Path| {
        let mut job = job("trainer-tiny", &folder.path().join("run"));
        (job.checkpoints, job.method.solve, job.model.path) = (None, Solve::Subspace, model.to_owned());
        let plan = Plan::resolve(job).expect("sound inputs");
        let note = plan.summary().notes.iter().find(|note| note.starts_with("damping auto is")).cloned();
        (plan.job.method.damping.0[0], note.expect("a guess is said"))
    };
    let (found, note) = alone(&folders("trainer-tiny", &GPT2)[0]);
    assert!(found == of_adam && note.contains("trained by AdamW"), "{found:?} {note}");
    let (found, note) = alone(&copies[0]);
    assert!(found == of_descent && note.contains("nothing says what trained these checkpoints"), "{found:?} {note}");
    let (found, note) = resolved("trainer-tiny", CheckpointsRequest::of_folders(copies.to_vec()));
    assert!(found == of_descent && note.contains("nothing says what trained these checkpoints"), "{found:?} {note}");
}
