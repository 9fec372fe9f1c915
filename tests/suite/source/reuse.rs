//! `factors = RUN`: the curvature and query vectors of another run folder score other training data.

use std::path::Path;

use ascribe::Hint;
use ascribe::attribution::Pass;
use ascribe::job::{Job, Plan};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::source::case::{Case, Done};
use crate::support::figures::assert_relative;
use crate::support::{Outcome, fixture};

/// Both sides are written in `f32`.
const WRITTEN: f64 = 1.2e-7;

/// Some rows of the classifier's training set as a file of their own.
pub(crate) fn rows(of: &[usize], to: &Path) {
    let bytes = std::fs::read(fixture("mlp-tiny/train.safetensors")).expect("a fixture");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("safetensors");
    let all = SafeTensors::deserialize(&bytes).expect("safetensors");
    let take = |name: &str, width: usize| -> Vec<u8> {
        let data = all.tensor(name).expect("it is there").data();
        of.iter().flat_map(|&m| data[m * width..(m + 1) * width].to_vec()).collect()
    };
    let (inputs, targets) = (take("inputs", 12), take("targets", 8));
    let view = |dtype, shape: Vec<usize>, bytes| TensorView::new(dtype, shape, bytes).expect("fitting");
    let tensors = [
        ("inputs", view(Dtype::U8, vec![of.len(), 12], &inputs)),
        ("targets", view(Dtype::I64, vec![of.len()], &targets)),
    ];
    let bytes = safetensors::serialize(tensors, header.metadata().clone()).expect("sound");
    std::fs::write(to, bytes).expect("writable");
}

fn with_factors<'a>(of: &'a Done, train: &'a Path) -> impl FnOnce(&mut Job) + 'a {
    |job| {
        job.method.factors = Some(of.folder.path().to_owned());
        job.data.train = train.to_owned();
    }
}

#[test]
fn other_training_data_are_scored_with_a_fitted_curvature() -> Outcome {
    let case = Case::sgd();
    let fitted = case.run(|_| {});
    let folder = tempfile::tempdir()?;
    let some: Vec<usize> = (0..60).filter(|m| m % 3 == 1).collect();
    let train = folder.path().join("some.safetensors");
    rows(&some, &train);
    let done = case.run(with_factors(&fitted, &train));
    // N is the run's: a row has the score that it has among all sixty
    let all = fitted.scores("");
    let want: Vec<f64> = (0..10).flat_map(|q| some.iter().map(move |m| q * 60 + m)).map(|k| all[k]).collect();
    assert_relative(&done.scores(""), &want, WRITTEN, "a third of the rows");
    assert_eq!(done.passes, [Pass::Scores; 6], "nothing is fitted, no query is prepared");
    assert!(["covariance", "eigenbasis", "lambda", "queries"].iter().all(|kind| done.artifacts(kind).is_empty()));
    // with a curvature of its own the same file has other scores
    let own = case.run(|job| job.data.train.clone_from(&train));
    let error = crate::support::figures::relative(&own.scores(""), &want);
    assert!(error > 1e-2, "the curvature of a third of the rows gives the same scores up to {error:e}");
    Ok(())
}

#[test]
fn influence_takes_factors_too() -> Outcome {
    let case = Case::sgd();
    let at_the_end = |job: &mut Job| {
        job.source = None;
        job.model.path = case.request.path.join("checkpoint-720");
    };
    let fitted = case.run(at_the_end);
    let folder = tempfile::tempdir()?;
    let train = folder.path().join("some.safetensors");
    rows(&[4, 50, 17], &train);
    let done = case.run(|job| {
        with_factors(&fitted, &train)(job);
        at_the_end(job);
    });
    let all = fitted.scores("");
    let want: Vec<f64> = (0..10).flat_map(|q| [4, 50, 17].map(|m| all[q * 60 + m])).collect();
    // N is that of the run whose curvature is used
    assert_relative(&done.scores(""), &want, WRITTEN, "three rows");
    assert_eq!(done.passes, [Pass::Scores]);
    Ok(())
}

#[test]
fn a_curvature_that_is_not_there_is_refused_by_its_folder() -> Outcome {
    let case = Case::sgd();
    let fitted = case.run(|_| {});
    let folder = tempfile::tempdir()?;
    let train = folder.path().join("some.safetensors");
    rows(&[1, 2, 3], &train);
    let mut job = case.job(&folder.path().join("run"));
    with_factors(&fitted, &train)(&mut job);
    job.method.seed = 1;
    let error = Plan::resolve(job.clone()).and_then(|plan| plan.run(&())).expect_err("drawn with another seed");
    let said = error.to_string();
    assert!(said.contains(&fitted.folder.path().display().to_string()) && said.contains("covariances"), "{said}");
    assert!(error.hint().is_some_and(|hint| hint.contains("factors")), "{error}");
    // a folder that is no run
    job.method.factors = Some(folder.path().to_owned());
    let error = Plan::resolve(job).expect_err("no run folder");
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    Ok(())
}
