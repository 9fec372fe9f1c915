//! What a brief says of files before they are written, against the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::attribution::store::{Artifact, Store, TensorSpec, file_size};
use crate::job::brief::in_memory::fixtures;
use crate::job::brief::keys::site;
use crate::job::budget::disk;
use crate::job::plan::Plan;
use crate::job::request::{Curvature, IntervalsRequest, Job, Precision, Several, Solve, StoreScores};
use crate::job::training::Site;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What an artifact says about itself is estimated for all of them alike; this far off at most.
const ABOUT_OFF: u64 = 256;

/// A job about the small GPT-2, with one more choice, in a folder.
fn plan(out: &Path, change: impl FnOnce(&mut Job)) -> Result<Plan, Box<dyn std::error::Error>> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2-tiny");
    let mut job = Job::new(&fixtures, fixtures.join("train.jsonl"), out);
    job.data.queries = Some(fixtures.join("queries.jsonl"));
    change(&mut job);
    Ok(Plan::resolve(job)?)
}

/// The tensors of a file, by name.
fn tensors(specs: &[TensorSpec]) -> BTreeMap<&str, &TensorSpec> {
    specs.iter().map(|spec| (spec.name.as_str(), spec)).collect()
}

/// The file holds the tensors that were foretold and nothing else, and has the bytes that follow.
#[track_caller]
fn assert_foretold(
    found: Option<Artifact>,
    specs: &[TensorSpec],
    bytes: u64,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let found = found.ok_or("the artifact is not there")?;
    let held = found.names().iter().map(|name| Ok(found.spec(name)?.clone()));
    let held = held.collect::<Result<Vec<_>, crate::attribution::store::StoreError>>()?;
    assert_eq!(tensors(&held), tensors(specs));
    let length = std::fs::metadata(found.path())?.len();
    assert_eq!(file_size(specs, found.all_metadata())?, length, "{}", found.path().display());
    assert!(bytes.abs_diff(length) <= ABOUT_OFF, "{bytes} foretold, {length} written: {}", found.path().display());
    Ok(found.path().to_owned())
}

/// Runs a job and compares every artifact and every file of scores that it leaves.
fn assert_whole(change: impl FnOnce(&mut Job)) -> Outcome {
    let folder = tempfile::tempdir()?;
    let plan = plan(folder.path(), change)?;
    let cost = disk::of(&plan, plan.summary())?;
    plan.run(&())?;
    let store = Store::open(folder.path())?;
    let mut left = BTreeSet::new();
    for (_, fit) in plan.needed_fits() {
        if fit.kind.has_eigenbasis() {
            let found = store.find("eigenbasis", &plan.eigenbasis_key(fit))?;
            left.insert(assert_foretold(
                found,
                &plan.eigenbasis_specs(fit, plan.number()),
                plan.eigenbasis_bytes(fit),
            )?);
        }
        for place in &fit.places {
            for &sample in fit.samples().iter().filter(|_| fit.kind.has_eigenbasis()) {
                let at = Site { sample, ..site(fit, place) };
                let found = store.find("covariance", &plan.covariance_key(at))?;
                left.insert(assert_foretold(found, &plan.covariance_specs(), plan.covariance_bytes())?);
            }
            if fit.kind.has_lambda() {
                let found = store.find("lambda", &plan.lambda_key(fit, place))?;
                left.insert(assert_foretold(found, &plan.lambda_specs(), plan.lambda_bytes(fit))?);
            }
        }
    }
    let queries = plan.queries().ok_or("queries")?.len();
    for set in plan.stored_vector_sets(&plan.all_answers()) {
        let found = store.find("queries", &plan.vectors_key(set).ok_or("queries")?)?;
        let specs = plan.vector_specs(set, plan.query_rows(), queries, plan.number());
        left.insert(assert_foretold(found, &specs, plan.vectors_bytes(set))?);
    }
    assert_eq!(std::fs::read_dir(folder.path().join("artifacts"))?.count(), left.len(), "another artifact is there");
    let mut scores = 0;
    for entry in std::fs::read_dir(folder.path())? {
        let path = entry?.path();
        let is_scores = |name: &str| ["scores", "top", "self_influence"].iter().any(|kind| name.starts_with(kind));
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_scores) {
            scores += std::fs::metadata(&path)?.len();
        }
    }
    let foretold = cost.files.iter().find(|file| file.what == "scores").map(|file| file.bytes);
    assert_eq!(foretold, Some(scores), "bytes of the files of scores");
    Ok(())
}

#[test]
fn files_of_ekfac_have_the_tensors_and_bytes_that_were_foretold() -> Outcome {
    assert_whole(|job| job.method.self_influence = true)
}

#[test]
fn files_of_blocks_in_f64_with_sets_of_layers_have_the_bytes_that_were_foretold() -> Outcome {
    assert_whole(|job| {
        job.model.dtype = Precision::F64;
        job.method.eigen_block_width = Some(7);
        job.output.layer_sets.insert("attention".into(), Several(vec!["*attn*".into()]));
    })
}

#[test]
fn files_of_other_kinds_have_the_bytes_that_were_foretold() -> Outcome {
    assert_whole(|job| job.method.curvature = Curvature::Kfac)?;
    assert_whole(|job| job.method.curvature = Curvature::Diagonal)?;
    assert_whole(|job| job.method.curvature = Curvature::Tkfac)?;
    assert_whole(|job| job.method.curvature = Curvature::Soap)?;
    assert_whole(|job| job.method.curvature = Curvature::Identity)?;
    assert_whole(|job| {
        let run = fixtures().join("trainer-tiny");
        job.data.train = run.join("train.jsonl");
        job.data.queries = Some(run.join("queries.jsonl"));
        job.data.tokenizer = Some(run.clone());
        job.model.path = run.join("checkpoint-240");
        // what the comparison with the log found is known once it was made
        job.data.skip_loss_check = true;
        job.method.curvature = Curvature::Adam;
    })
}

#[test]
fn files_of_halves_have_the_bytes_that_were_foretold_and_nothing_is_left_of_their_parts() -> Outcome {
    for curvature in [Curvature::Ekfac, Curvature::Kfac, Curvature::Diagonal, Curvature::Soap] {
        assert_whole(|job| (job.method.curvature, job.output.intervals) = (curvature, IntervalsRequest::All))?;
    }
    assert_whole(|job| job.output.intervals = IntervalsRequest::Labels)
}

/// Makes a job one about the small perceptron.
fn of_perceptron(job: &mut Job) {
    let folder = fixtures().join("mlp-tiny");
    job.data.train = folder.join("train.safetensors");
    job.data.queries = Some(folder.join("query.safetensors"));
    job.model.path = folder;
}

#[test]
fn files_of_low_rank_of_lists_and_of_joint_solves_have_the_bytes_that_were_foretold() -> Outcome {
    assert_whole(|job| {
        of_perceptron(job);
        job.method.query_rank = Some(2);
    })?;
    assert_whole(|job| {
        of_perceptron(job);
        job.method.query_rank = Some(2);
        job.output.store_scores = StoreScores::Top;
    })?;
    assert_whole(|job| {
        of_perceptron(job);
        job.method.solve = Solve::GaussNewton;
        job.method.solve_iterations = Some(2);
    })?;
    assert_whole(|job| {
        of_perceptron(job);
        job.method.solve = Solve::MFac;
        job.method.query_rank = Some(2);
    })
}
