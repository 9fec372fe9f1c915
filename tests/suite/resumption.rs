//! Jobs that are interrupted at any moment, or cut into shards, end with the results of one that runs
//! through: the same bytes after an interruption, the same numbers up to rounding from shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::figures::assert_relative;
use crate::support::recorded::Recorded;
use crate::support::{Outcome, fixture};
use ascribe::attribution::store::Shard;
use ascribe::attribution::{Event, Observer, Pass};
use ascribe::job::{Job, JobError, Plan};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

/// What is asked for: a checkpoint or a training run with its data.
#[derive(Debug, Clone)]
struct Asked {
    model: Scored,
    train: PathBuf,
    queries: PathBuf,
    batch_tokens: usize,
    seed: u64,
    /// Over which tokens scores are divided.
    tokens: &'static str,
}

#[derive(Debug, Clone)]
enum Scored {
    /// Influence functions at a checkpoint.
    Checkpoint(PathBuf),
    /// Source over a training run, in so many segments, with two answers beside it.
    Run(PathBuf, usize),
}

impl Asked {
    fn text(model: &str) -> Self {
        let text = fixture("gpt2-tiny");
        let [train, queries] = ["train.jsonl", "queries.jsonl"].map(|name| text.join(name));
        Self { model: Scored::Checkpoint(fixture(model)), train, queries, batch_tokens: 512, seed: 3, tokens: "none" }
    }

    fn training_of_text() -> Self {
        let run = fixture("trainer-tiny");
        let [train, queries] = ["train.jsonl", "queries.jsonl"].map(|name| run.join(name));
        Self { model: Scored::Run(run, 3), train, queries, batch_tokens: 512, seed: 3, tokens: "none" }
    }

    fn plan(&self, out: &Path) -> Plan {
        let path = |path: &Path| json!(path).to_string();
        let language = self.train.extension().is_some_and(|ending| ending == "jsonl");
        let (scored, draws) = match &self.model {
            Scored::Checkpoint(folder) => (format!("[model]\npath = {}\n", path(folder)), 1),
            Scored::Run(folder, segments) => {
                let run = format!("[source.trajectory]\npath = {}\nsegments = {segments}\n", path(folder));
                (format!("[source]\nwith = [\"influence\", \"tracin\"]\n{run}"), 4)
            }
        };
        let text = format!(
            "{scored}[data]\ntrain = {}\nqueries = {}\n{}[method]\nseed = {}\nlabel_draws = {draws}\n\
             self_influence = true\n[resources]\nbatch_tokens = {}\n[output]\npath = {}\ntokens = \"{}\"\n\
             [output.layer_sets]\npart = {}\n",
            path(&self.train),
            path(&self.queries),
            if language { "add_eos = \"both\"\n" } else { "" },
            self.seed,
            self.batch_tokens,
            path(out),
            self.tokens,
            if language { "\"*attn*\"" } else { "[\"0\"]" },
        );
        Plan::resolve(toml::from_str::<Job>(&text).expect("a job")).expect("sound inputs")
    }
}

/// A perceptron of 7-5-3 with 40,000 rows, which are three chunks of a pass.
fn many_rows() -> (tempfile::TempDir, Asked) {
    many_rows_of(40_000)
}

fn many_rows_of(rows: usize) -> (tempfile::TempDir, Asked) {
    let folder = tempfile::tempdir().expect("a folder");
    let number = |k: usize| (k.wrapping_mul(2_654_435_761) % 1_000_003) as f32 / 500_001.5 - 1.0;
    let floats = |n: usize, salt: usize| (0..n).flat_map(|k| number(k * 3 + salt).to_le_bytes()).collect::<Vec<u8>>();
    let write = |file: &str, tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)>| {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("fitting"))
        });
        let bytes = safetensors::serialize(views, None).expect("sound");
        std::fs::write(folder.path().join(file), bytes).expect("writable");
    };
    let layers = vec![
        ("0.weight", Dtype::F32, vec![5, 7], floats(35, 1)),
        ("0.bias", Dtype::F32, vec![5], floats(5, 2)),
        ("1.weight", Dtype::F32, vec![3, 5], floats(15, 3)),
        ("1.bias", Dtype::F32, vec![3], floats(3, 4)),
    ];
    write("model.safetensors", layers);
    let config = json!({"model_type": "mlp", "activation": "tanh", "task": "classification"});
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writable");
    for (file, n) in [("train.safetensors", rows), ("query.safetensors", 4)] {
        let targets = (0..n).flat_map(|k| ((k * k / 7) as i64 % 3).to_le_bytes()).collect();
        let inputs = ("inputs", Dtype::F32, vec![n, 7], floats(n * 7, n));
        write(file, vec![inputs, ("targets", Dtype::I64, vec![n], targets)]);
    }
    let [model, train, queries] =
        [folder.path().to_owned(), folder.path().join("train.safetensors"), folder.path().join("query.safetensors")];
    (folder, Asked { model: Scored::Checkpoint(model), train, queries, batch_tokens: 4096, seed: 3, tokens: "none" })
}

/// 300 steps of training that perceptron, three checkpoints in two segments, with 6,000 rows: two chunks of a pass with
/// four label draws, and many parts of self-influence.
fn training_of_many_rows() -> (tempfile::TempDir, Asked) {
    let (folder, asked) = many_rows_of(6_000);
    let mut text = String::from(
        "optimizer = \"sgd\"\nmomentum = 0.5\nweight_decay = 1e-3\nbatch_size = 100\nloss_reduction = \"mean\"\nsteps = 300\n",
    );
    text.push_str("learning_rate = [{ from_step = 0, value = 0.05 }]\nsegment_ends = [200]\n");
    for (step, shift) in [(100, 0.25), (200, 0.125), (300, 0.0)] {
        let name = format!("checkpoint-{step}");
        std::fs::create_dir(folder.path().join(&name)).expect("writable");
        for file in ["config.json", "model.safetensors"] {
            let mut bytes = std::fs::read(folder.path().join(file)).expect("readable");
            if file == "model.safetensors" {
                // weights stand at the end, `f32`: those of an earlier checkpoint are a little larger
                let n = bytes.len();
                for number in bytes[n - 4 * 58..].as_chunks_mut::<4>().0 {
                    *number = (f32::from_le_bytes(*number) * (1.0 + shift)).to_le_bytes();
                }
            }
            std::fs::write(folder.path().join(&name).join(file), bytes).expect("writable");
        }
        text.push_str(&format!("[[checkpoint]]\npath = \"{name}\"\nstep = {step}\n"));
    }
    let run = folder.path().join("run.toml");
    std::fs::write(&run, text).expect("writable");
    (folder, Asked { model: Scored::Run(run, 2), batch_tokens: 1024, ..asked })
}

/// Counts events, keeps those that begin a pass, and asks to stop after some of them.
struct Stop {
    after: usize,
    seen: AtomicUsize,
    begun: Mutex<Vec<(Pass, u64)>>,
}

impl Stop {
    fn after(events: usize) -> Self {
        Self { after: events, seen: AtomicUsize::new(0), begun: Mutex::default() }
    }

    fn never() -> Self {
        Self::after(usize::MAX)
    }
}

impl Observer for Stop {
    fn event(&self, event: Event) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        if let Event::Started { pass, done, .. } = event {
            self.begun.lock().expect("no test panics while it holds the lock").push((pass, done));
        }
    }

    fn interrupted(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.after
    }
}

/// All files of a run folder that hold results or factors, by their path in it.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let entry = entry.expect("readable");
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if name.ends_with(".safetensors") || name.ends_with(".jsonl") {
                found.insert(name, std::fs::read(entry.path()).expect("readable"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, "", &mut found);
    found
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Vec<u8>>, want: &BTreeMap<String, Vec<u8>>, what: &str) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(want), "{what}: files");
    for (name, bytes) in found {
        assert!(bytes == &want[name], "{what}: `{name}` has other bytes");
    }
}

fn whole(asked: &Asked) -> (BTreeMap<String, Vec<u8>>, usize) {
    let out = tempfile::tempdir().expect("a folder");
    let observer = Stop::never();
    asked.plan(out.path()).run(&observer).expect("a whole run");
    let events = observer.seen.load(Ordering::Relaxed);
    (contents(out.path()), events)
}

fn is_interruption(error: &JobError) -> bool {
    error.to_string().contains("interrupted")
}

/// Interrupts after `events`, goes on to the end, and returns the second run's beginnings of passes.
fn interrupted(asked: &Asked, events: usize, want: &BTreeMap<String, Vec<u8>>) -> Vec<(Pass, u64)> {
    let out = tempfile::tempdir().expect("a folder");
    // a plan for each process: nothing is carried over in memory
    if let Err(error) = asked.plan(out.path()).run(&Stop::after(events)) {
        assert!(is_interruption(&error), "after {events} events: {error}");
    }
    let second = Stop::never();
    asked.plan(out.path()).run(&second).expect("the rest of the run");
    assert_same(&contents(out.path()), want, &format!("interrupted after {events} events"));
    second.begun.into_inner().expect("no test panics while it holds the lock")
}

#[test]
fn an_interrupted_run_ends_with_the_same_bytes() {
    let (_folder, asked) = many_rows();
    let (want, events) = whole(&asked);
    assert!(events > 40, "{events} events: more than one chunk in each pass");
    let mut resumed = vec![];
    for stop in 0..=events {
        resumed.extend(interrupted(&asked, stop, &want).into_iter().filter(|(_, done)| *done > 0));
    }
    for pass in [Pass::Covariance, Pass::Lambda] {
        assert!(resumed.iter().any(|(resumed, _)| *resumed == pass), "{pass:?} never went on from a saved sum");
    }
}

#[test]
fn an_interrupted_source_run_ends_with_the_same_bytes() {
    let (_folder, asked) = training_of_many_rows();
    let (want, events) = whole(&asked);
    let results = ["scores", "scores.influence", "scores.tracin", "scores.tracin.layers-part", "self_influence"];
    assert!(results.iter().all(|name| want.contains_key(&format!("{name}.safetensors"))), "{:?}", want.keys());
    let mut resumed = vec![];
    // no divisor of the eight events of a pass
    for stop in (0..=events).step_by(3) {
        resumed.extend(interrupted(&asked, stop, &want).into_iter().filter(|(_, done)| *done > 0));
    }
    for pass in [Pass::Covariance, Pass::Eigendecomposition, Pass::Lambda, Pass::SelfInfluence] {
        assert!(resumed.iter().any(|(resumed, _)| *resumed == pass), "{pass:?} never went on from what was kept");
    }
    let asked = Asked::training_of_text();
    let (want, events) = whole(&asked);
    for stop in (1..events).step_by(events / 6) {
        interrupted(&asked, stop, &want);
    }
}

#[test]
fn interrupted_runs_of_language_models_end_with_the_same_bytes() {
    for model in ["gpt2-tiny", "llama-tiny"] {
        let asked = Asked::text(model);
        let (want, events) = whole(&asked);
        for stop in (1..events).step_by(events / 5) {
            interrupted(&asked, stop, &want);
        }
    }
}

/// Shares of all tokens go on behind the examples that were divided.
#[test]
fn interrupted_shares_of_all_tokens_end_with_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = Asked::text("gpt2-tiny");
    let few = |file: &Path, count: usize| {
        let text = std::fs::read_to_string(file).expect("readable");
        let path = folder.path().join(file.file_name().expect("a name"));
        std::fs::write(&path, text.lines().take(count).collect::<Vec<_>>().join("\n")).expect("writable");
        path
    };
    let (train, queries) = (few(&all.train, 8), few(&all.queries, 2));
    let asked = Asked { train, queries, tokens: "all", ..all };
    let (want, events) = whole(&asked);
    assert!(want.contains_key("tokens.safetensors"), "{:?}", want.keys());
    let resumed = interrupted(&asked, events - 4, &want);
    assert!(resumed.contains(&(Pass::Tokens, 5)), "{resumed:?}");
}

#[test]
fn a_run_may_be_interrupted_again_and_again() {
    let (_folder, asked) = many_rows();
    let (want, _) = whole(&asked);
    let out = tempfile::tempdir().expect("a folder");
    // five or six events reach the end of a chunk, so that two processes get a little further
    let mut processes = 1;
    while let Err(error) = asked.plan(out.path()).run(&Stop::after(5 + processes % 2)) {
        assert!(is_interruption(&error), "{error}");
        processes += 1;
        assert!(processes < 40, "no progress");
    }
    assert!(processes > 4, "{processes} processes");
    assert_same(&contents(out.path()), &want, "interrupted again and again");
}

/// Fits, prepares and scores in shards that share one run folder.
fn in_shards(asked: &Asked, out: &Path, count: u32) -> Result<(), JobError> {
    let shards = || (1..=count).map(move |index| Shard::new(index, count).expect("in range"));
    // covariances, then Λ
    for _ in 0..2 {
        for shard in shards() {
            asked.plan(out).fit(Some(shard), &())?;
        }
        asked.plan(out).merge(&[], &())?;
    }
    asked.plan(out).query(&())?;
    for shard in shards() {
        asked.plan(out).score(Some(shard), &())?;
    }
    asked.plan(out).merge(&[], &())?;
    asked.plan(out).rank()?;
    Ok(())
}

#[test]
fn shards_joined_are_the_whole() -> Outcome {
    let (_folder, rows) = many_rows();
    let (_another, training) = training_of_many_rows();
    let of_text = Asked::training_of_text();
    let texts = [(Asked::text("gpt2-tiny"), 3), (Asked::text("llama-tiny"), 2), (of_text, 3)];
    for (asked, count) in texts.into_iter().chain([(rows, 4), (training, 3)]) {
        let (one, many) = (tempfile::tempdir()?, tempfile::tempdir()?);
        asked.plan(one.path()).run(&())?;
        in_shards(&asked, many.path(), count)?;
        let scores = ["scores", "measurements"];
        let mut files = vec![("self_influence", ["self_influence"; 2])];
        files.extend(["scores", "scores.layers-part"].map(|file| (file, scores)));
        if let Scored::Run(..) = asked.model {
            let beside = ["scores.influence", "scores.tracin", "scores.influence.layers-part"];
            files.extend(beside.map(|file| (file, scores)));
        }
        for (file, names) in files {
            let file = format!("{file}.safetensors");
            let [one, many] = [&one, &many].map(|folder| Recorded::open(&folder.path().join(&file)));
            for name in names {
                let (found, want) = (many.get(name), one.get(name));
                assert_eq!(found.shape, want.shape, "{name}");
                // other partial sums: Numerics of `docs/method.md` allow 1e-5
                assert_relative(&found.values, &want.values, 1e-5, name);
            }
        }
        // shards whose own work was done before leave the same bytes again
        let before = contents(many.path());
        in_shards(&asked, many.path(), count)?;
        assert_same(&contents(many.path()), &before, "a second time");
    }
    Ok(())
}

#[test]
fn one_shard_of_one_is_the_whole_to_the_byte() -> Outcome {
    let (_folder, asked) = many_rows();
    let (want, _) = whole(&asked);
    let out = tempfile::tempdir()?;
    in_shards(&asked, out.path(), 1)?;
    assert_same(&contents(out.path()), &want, "one shard");
    Ok(())
}

#[test]
fn missing_shards_and_those_of_other_jobs_are_refused() -> Outcome {
    let asked = Asked::text("gpt2-tiny");
    let out = tempfile::tempdir()?;
    let [first, second] = [1, 2].map(|index| Shard::new(index, 2).expect("in range"));
    asked.plan(out.path()).fit(Some(first), &())?;
    let error = asked.plan(out.path()).merge(&[], &()).expect_err("half of the data is missing");
    assert!(error.to_string().contains("80"), "it says which: {error}");
    // the other half with other random labels
    let other = Asked { seed: 4, ..asked.clone() };
    let elsewhere = tempfile::tempdir()?;
    other.plan(elsewhere.path()).fit(Some(second), &())?;
    let error = asked.plan(out.path()).merge(&[elsewhere.path().to_owned()], &()).expect_err("another seed");
    assert!(!error.to_string().is_empty());
    // the right half joins, from its own folder
    let right = tempfile::tempdir()?;
    asked.plan(right.path()).fit(Some(second), &())?;
    asked.plan(out.path()).merge(&[right.path().to_owned()], &())?;
    Ok(())
}
