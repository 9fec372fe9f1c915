//! Curvature from a part of the training examples: the same as a run on a file of that part alone, whose curvature
//! scores all.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::figures::assert_relative;
use crate::support::passes::{BATCH, Batched, KfacScale, fit, score_and, vectors};
use crate::support::recorded::Recorded;
use crate::support::{Source, fixture, load};
use ascribe::Hint;
use ascribe::attribution::store::Shard;
use ascribe::attribution::{Event, LabelMode, Observer, Pass};
use ascribe::curvature::{CurvatureKind, Damping, Measurement};
use ascribe::data::{Role, Which};
use ascribe::job::{
    Compared, Curvature, Fisher, FitExamples, IntervalScores, IntervalsRequest, Job, JobError, Plan, Precision,
};
use candle_core::DType;

fn job(train: &Path, out: &Path) -> Job {
    let mut job = Job::new(fixture("gpt2-tiny"), train, out);
    job.data.queries = Some(fixture("gpt2-tiny").join("queries.jsonl"));
    job.model.dtype = Precision::F64;
    job.resources.batch_tokens = Some(64);
    job
}

fn scores(folder: &Path) -> Vec<f64> {
    Recorded::open(&folder.join("scores.safetensors")).values("scores")
}

/// Every third line of the training file, from the first on: what a third of the examples at equal distances are.
#[test]
fn a_sample_is_the_file_of_its_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let all = fixture("gpt2-tiny").join("train.jsonl");
    let lines = std::fs::read_to_string(&all).expect("readable");
    let lines: Vec<&str> = lines.lines().collect();
    let count = lines.len().div_ceil(3);
    let places: Vec<usize> = (0..count).map(|k| k * lines.len() / count).collect();
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 2) && places[0] == 0);
    let part: String = places.iter().map(|&i| format!("{}\n", lines[i])).collect();
    std::fs::write(path("part.jsonl"), part).expect("writable");
    // K-FAC and EK-FAC, labels from the model and from the data: a sample draws the labels that its lines draw
    for (curvature, fisher) in [(Curvature::Ekfac, Fisher::True), (Curvature::Kfac, Fisher::Empirical)] {
        let with = |mut job: Job, change: &dyn Fn(&mut Job)| {
            (job.method.curvature, job.method.fisher) = (curvature, fisher);
            change(&mut job);
            Plan::resolve(job).expect("sound").run(&()).expect("a whole run");
        };
        let of = |name: &str| path(&format!("{name}-{curvature:?}"));
        with(job(&all, &of("sample")), &|job| job.method.fit_examples = FitExamples::Count(count));
        with(job(&path("part.jsonl"), &of("part")), &|_| ());
        with(job(&all, &of("scored")), &|job| {
            job.method.factors = Some(of("part"));
            job.data.train_size = Some(lines.len());
        });
        with(job(&all, &of("whole")), &|_| ());
        let (found, want) = (scores(&of("sample")), scores(&of("scored")));
        assert_relative(&found, &want, 1e-6, "a sample and the file of its lines");
        let whole = scores(&of("whole"));
        let largest = whole.iter().fold(0.0f64, |most, score| most.max(score.abs()));
        let apart = found.iter().zip(&whole).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
        assert!(apart > 1e-3 * largest, "a third of the examples makes another curvature: {apart} of {largest}");
    }
}

#[test]
fn shards_add_up_the_sample() {
    let folder = tempfile::tempdir().expect("a folder");
    let train = fixture("gpt2-tiny").join("train.jsonl");
    let sampled = |out: &str| {
        let mut job = job(&train, &folder.path().join(out));
        job.method.fit_examples = FitExamples::Share(0.3);
        Plan::resolve(job).expect("sound")
    };
    sampled("whole").run(&()).expect("a whole run");
    let plan = sampled("shards");
    let both = |step: &dyn Fn(Shard)| (1..=2).for_each(|index| step(Shard::new(index, 2).expect("of two")));
    for _ in 0..2 {
        both(&|shard| _ = plan.fit(Some(shard), &()).expect("a part"));
        plan.merge(&[], &()).expect("complete parts");
    }
    plan.query(&()).expect("fitted");
    both(&|shard| _ = plan.score(Some(shard), &()).expect("a part"));
    plan.merge(&[], &()).expect("complete parts");
    let at = |out: &str| scores(&folder.path().join(out));
    assert_relative(&at("shards"), &at("whole"), 1e-6, "two shards");
}

#[test]
fn a_sample_is_shown_and_may_not_be_larger_than_the_data() {
    let train = fixture("gpt2-tiny").join("train.jsonl");
    let with = |examples: FitExamples| {
        let mut job = job(&train, Path::new("no-folder"));
        job.method.fit_examples = examples;
        Plan::resolve(job)
    };
    let notes = |examples: FitExamples| with(examples).expect("sound").summary().notes.join("\n");
    assert!(
        notes(FitExamples::Count(3)).contains("the curvature is taken on 3 of "),
        "{}",
        notes(FitExamples::Count(3))
    );
    // a tiny model's text has fewer than 50 positions for each row of its widest covariance
    assert!(notes(FitExamples::Auto).contains("the curvature is taken on all "), "{}", notes(FitExamples::Auto));
    assert!(!notes(FitExamples::All).contains("the curvature is taken"));
    let error = with(FitExamples::Count(100_000)).expect_err("too many");
    assert!(matches!(&error, JobError::Options { .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--fit-examples")), "{error}");
}

/// `intervals = labels`: curvatures of every other line of the file, each fitted from the library's pieces on a file of
/// these lines alone, one with labels of the next seed, and 0.3 and 3 times the damping; all of them score every example.
#[test]
fn variants_are_scores_with_curvatures_and_dampings_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let first = |file: &str, count: usize| {
        let text = std::fs::read_to_string(fixture("gpt2-tiny").join(file)).expect("readable");
        text.lines().take(count).map(|line| format!("{line}\n")).collect::<Vec<_>>()
    };
    // an odd number, so that the halves are not of one size
    let (lines, queries) = (first("train.jsonl", 31), first("queries.jsonl", 3));
    let every_other = |from: usize| lines.iter().skip(from).step_by(2).cloned().collect::<String>();
    for (name, text) in [
        ("all.jsonl", lines.concat()),
        ("half-1.jsonl", every_other(0)),
        ("half-2.jsonl", every_other(1)),
        ("queries.jsonl", queries.concat()),
    ] {
        std::fs::write(path(name), text).expect("writable");
    }
    let out = path("run");
    let mut job = job(&path("all.jsonl"), &out);
    job.data.queries = Some(path("queries.jsonl"));
    (job.output.intervals, job.output.top) = (IntervalsRequest::Labels, 4);
    let rankings = Plan::resolve(job).expect("sound").run(&()).expect("a whole run");

    let model = load(&fixture("gpt2-tiny"), DType::F64);
    let tokenizer = fixture("gpt2-tiny");
    let read = |name: &str, role: Role| {
        Source { add_eos: Which::None, ..Source::new(path(name), role, &tokenizer) }.read(&model)
    };
    let (train, queries) = (read("all.jsonl", Role::Train), read("queries.jsonl", Role::Queries));
    let scores_with = |data: &str, seed: u64, damping: f64| {
        let data = read(data, Role::Train);
        let labels = LabelMode::Sampled { seed, draws: 1 };
        let of = Batched(&data, BATCH);
        let factors = fit::<_, f64>(&model, &of, CurvatureKind::Ekfac, labels, KfacScale::PerExample)?.factors;
        let damping = Damping::MeanFraction(damping);
        let (found, _) = vectors(&model, &Batched(&queries, BATCH), &factors, damping, Measurement::Loss)?;
        score_and(&model, &Batched(&train, BATCH), &found, 1.0 / 31.0, None)
    };
    let stored = |file: &str| Recorded::open(&out.join(file)).values("scores");
    let first = stored("scores.safetensors");
    let (mut low, mut high) = (first.clone(), first.clone());
    for (file, data, seed, damping) in [
        ("scores.safetensors", "all.jsonl", 0, 0.1),
        ("scores.variant-half-1.safetensors", "half-1.jsonl", 0, 0.1),
        ("scores.variant-half-2.safetensors", "half-2.jsonl", 0, 0.1),
        ("scores.variant-labels.safetensors", "all.jsonl", 1, 0.1),
        ("scores.variant-damping-0.3.safetensors", "all.jsonl", 0, 0.03),
        ("scores.variant-damping-3.safetensors", "all.jsonl", 0, 0.3),
    ] {
        let (found, want) = (stored(file), scores_with(data, seed, damping).expect("scores").wide());
        assert_relative(&found, &want, 1e-6, file);
        let largest = first.iter().fold(0.0f64, |most, score| most.max(score.abs()));
        let apart = found.iter().zip(&first).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
        assert!(file == "scores.safetensors" || apart > 1e-2 * largest, "{file}: {apart} of {largest}");
        for (k, score) in found.into_iter().enumerate() {
            (low[k], high[k]) = (low[k].min(score), high[k].max(score));
        }
    }
    for (q, ranking) in rankings.iter().enumerate() {
        for example in ranking.proponents.iter().chain(&ranking.opponents) {
            let k = q * 31 + (0..31).find(|&m| train.id(m) == example.id).expect("a training example");
            assert_eq!(example.interval.map(|ends| ends.map(f64::from)), Some([low[k], high[k]]), "{}", example.id);
        }
        let of_variants = ranking.stability.as_ref().expect("a verdict").proponents.kept.len();
        assert_eq!(of_variants, 5);
    }
}

/// `interval_scores = strongest`: the intervals and verdicts of variants that score all examples, from some of them, and
/// the scores of a run without variants: byte for byte where the curvature is that of such a run. Texts, whose gradients
/// are formed for all queries, and rows of numbers, whose vectors meet all examples at once.
#[test]
fn variants_of_the_strongest_examples_say_what_those_of_all_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(fixture("gpt2-tiny").join("train.jsonl")).expect("readable");
    let lines: Vec<&str> = text.lines().take(70).collect();
    let train = folder.path().join("train.jsonl");
    std::fs::write(&train, lines.join("\n")).expect("writable");
    let texts = |out: &Path| job(&train, out);
    let rows = |out: &Path| {
        let file = |name: &str| fixture("mlp-tiny").join(name);
        let mut job = Job::new(fixture("mlp-tiny"), file("train.safetensors"), out);
        (job.data.queries, job.model.dtype) = (Some(file("query.safetensors")), Precision::F64);
        job
    };
    for (name, count) in [("texts", 70), ("rows", 60)] {
        let job = |out: &Path| if name == "texts" { texts(out) } else { rows(out) };
        let done = |out: &str, intervals: IntervalsRequest, examples: IntervalScores| {
            let out = folder.path().join(format!("{name}-{out}"));
            let mut job = job(&out);
            (job.output.intervals, job.output.interval_scores, job.output.top) = (intervals, examples, 1);
            let plan = Plan::resolve(job).expect("sound");
            (plan.run(&()).expect("a whole run"), plan, out)
        };
        // vectors of the perceptron's variants stay in the bases of three curvatures
        let intervals = if name == "rows" { IntervalsRequest::All } else { IntervalsRequest::Damping };
        let (want, ..) = done("all", intervals, IntervalScores::All);
        let (found, plan, out) = done("strongest", intervals, IntervalScores::Strongest);
        let (_, _, without) = done("without", IntervalsRequest::None, IntervalScores::Auto);
        let plain = scores(&without);
        match intervals {
            // the curvature of all examples is the sum of both halves'
            IntervalsRequest::All => assert_relative(&scores(&out), &plain, 1e-6, name),
            _ => assert!(scores(&out) == plain, "{name}: other scores"),
        }
        // added to a run that is there
        done("without", intervals, IntervalScores::Strongest);
        assert!(scores(&without) == plain, "{name}: other scores than before");
        assert!(!out.join("scores.variant-damping-3.safetensors").exists(), "{name}: a matrix was written");
        assert!(plan.summary().notes.iter().any(|note| note.contains("the 4 strongest examples of each side")));
        for (found, want) in found.iter().zip(&want) {
            let [stable, all] = [found, want].map(|ranking| ranking.stability.clone().expect("a verdict"));
            assert_eq!(stable.compared, Some(Compared { strongest: 4, sample: 50, of: count }), "{name}");
            assert_eq!((&stable.proponents, &stable.opponents), (&all.proponents, &all.opponents), "{name}");
            let both =
                found.proponents.iter().chain(&found.opponents).zip(want.proponents.iter().chain(&want.opponents));
            for (found, want) in both {
                let [found, want] = [found, want].map(|example| example.interval.expect("an interval").map(f64::from));
                assert_relative(&found, &want, 1e-5, name);
            }
        }
        // a longer list has examples that no variant scored, and no verdict then
        let mut longer = plan.job.clone();
        longer.output.top = 12;
        let rankings = Plan::resolve(longer).expect("sound").rank().expect("scores");
        let sides = rankings.iter().flat_map(|ranking| ranking.proponents.iter().chain(&ranking.opponents));
        assert!(sides.clone().any(|example| example.interval.is_some()));
        assert!(sides.clone().any(|example| example.interval.is_none()));
        assert!(rankings.iter().any(|ranking| ranking.stability.is_none()), "{name}");
    }
}

/// Examples that passes of the curvature have differentiated, and after how many of their steps to stop.
#[derive(Default)]
struct Watch {
    differentiated: Mutex<Vec<(Pass, u64)>>,
    steps: AtomicUsize,
    stop_after: Option<usize>,
}

impl Observer for Watch {
    fn event(&self, event: Event) {
        if let Event::Advanced { pass, units } = event {
            self.differentiated.lock().expect("no panic").push((pass, units));
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn interrupted(&self) -> bool {
        self.stop_after.is_some_and(|after| self.steps.load(Ordering::Relaxed) >= after)
    }
}

/// `intervals = all` differentiates every training example as often as a run without does, for three curvatures; stopped
/// anywhere on the way it goes on to the same bytes. Without an eigenbasis the halves' parts are their own Λ.
#[test]
fn one_differentiation_serves_both_halves_and_the_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(fixture("gpt2-tiny").join("train.jsonl")).expect("readable");
    let train = folder.path().join("train.jsonl");
    std::fs::write(&train, text.lines().take(31).collect::<Vec<_>>().join("\n")).expect("writable");
    for curvature in [Curvature::Ekfac, Curvature::Kfac, Curvature::Diagonal] {
        let plan = |name: &str, intervals: IntervalsRequest| {
            let mut job = job(&train, &folder.path().join(format!("{name}-{curvature:?}")));
            (job.method.curvature, job.output.intervals) = (curvature, intervals);
            Plan::resolve(job).expect("sound")
        };
        let counted = |name: &str, intervals: IntervalsRequest| {
            let (plan, watch) = (plan(name, intervals), Watch::default());
            plan.run(&watch).expect("a whole run");
            let found = watch.differentiated.into_inner().expect("no panic");
            let of = |wanted| found.iter().filter(|(pass, _)| *pass == wanted).map(|(_, units)| units).sum::<u64>();
            ([of(Pass::Covariance), of(Pass::Lambda)], plan.summary().differentiations, watch.steps.into_inner())
        };
        let (want, counted_without, _) = counted("without", IntervalsRequest::None);
        let (found, counted_with, steps) = counted("all", IntervalsRequest::All);
        assert_eq!((found, counted_with), (want, counted_without), "{curvature:?}");
        let at = |name: &str| folder.path().join(format!("{name}-{curvature:?}"));
        assert_relative(&scores(&at("all")), &scores(&at("without")), 1e-6, "with intervals and without");
        let (of_two_seeds, counted_of_two, _) = counted("labels", IntervalsRequest::Labels);
        assert_eq!(of_two_seeds, want.map(|units| 2 * units), "{curvature:?}");
        assert_eq!(counted_of_two, counted_without + want.iter().sum::<u64>(), "{curvature:?}");
        for after in (1..steps).step_by(steps.div_ceil(6)) {
            let stopped = Watch { stop_after: Some(after), ..Watch::default() };
            let name = format!("stopped-{after}");
            if plan(&name, IntervalsRequest::All).run(&stopped).is_ok() {
                continue;
            }
            plan(&name, IntervalsRequest::All).run(&()).expect("it goes on");
            for file in ["scores", "scores.variant-half-1", "scores.variant-half-2"] {
                let bytes = |name: &str| std::fs::read(at(name).join(format!("{file}.safetensors"))).expect("scores");
                assert!(bytes(&name) == bytes("all"), "{curvature:?}, stopped after {after}: {file}");
            }
            let artifacts = |name: &str| {
                let entries = std::fs::read_dir(at(name).join("artifacts")).expect("artifacts");
                entries.map(|entry| entry.expect("readable").file_name()).collect::<BTreeSet<_>>()
            };
            assert_eq!(artifacts(&name), artifacts("all"), "{curvature:?}, stopped after {after}");
        }
    }
}
