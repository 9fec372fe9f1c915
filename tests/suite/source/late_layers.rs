//! A layer that was made after a stage: the stage has no leg for it, and the others score as if it were not there.

use std::error::Error;
use std::path::{Path, PathBuf};

use ascribe::Hint;
use ascribe::job::{Job, Plan, Precision, SourceRequest};
use ascribe::trajectory::TrajectoryRequest;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::support::figures::assert_relative;
use crate::support::recorded::Recorded;
use crate::support::{Outcome, fixture};

/// A checkpoint of the fixture with one class more in its head.
fn with_another_head(from: &Path, to: &Path) -> Outcome {
    std::fs::create_dir_all(to)?;
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(from.join("config.json"))?)?;
    if let Some(sizes) = config.get_mut("layer_sizes").and_then(|sizes| sizes.as_array_mut())
        && let Some(last) = sizes.last_mut()
    {
        *last = serde_json::json!(last.as_u64().unwrap_or(0) + 1);
    }
    std::fs::write(to.join("config.json"), config.to_string())?;
    let bytes = std::fs::read(from.join("model.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
    for (name, tensor) in file.tensors() {
        let (mut shape, mut data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        assert_eq!(tensor.dtype(), Dtype::F32);
        if name.starts_with("layers.2.") {
            let row = data.len() / shape[0];
            data.extend_from_within(..row);
            shape[0] += 1;
        }
        tensors.push((name, shape, data));
    }
    let views = tensors.iter().map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(to.join("model.safetensors"), safetensors::serialize(views, None)?)?;
    Ok(())
}

fn description(folder: &Path, trained: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let stage = |name: &str, extra: &str, path: &Path| {
        format!(
            "[[stage]]\nname = \"{name}\"\noptimizer = \"sgd\"\nmomentum = 0.0\nweight_decay = 0.0\ntrain_examples = 60\nbatch_size = 10\n\
             loss_reduction = \"mean\"\nsteps = 100\n{extra}\n[[stage.learning_rate]]\nfrom_step = 0\nvalue = 0.1\n\
             [[stage.checkpoint]]\npath = {:?}\nstep = 100\n",
            path.display().to_string()
        )
    };
    let text = stage("before", trained, &folder.join("before"))
        + &stage("after", "", &fixture("mlp-trajectory/checkpoint-720"));
    let file = folder.join("run.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}

fn job(folder: &Path, trajectory: PathBuf, layers: &[&str]) -> Job {
    let mut job = Job::new("", "", folder);
    let train = fixture("mlp-tiny/train.safetensors");
    job.data.stages = ["before", "after"].map(|name| (name.to_owned(), train.clone())).into();
    job.data.queries = Some(fixture("mlp-tiny/query.safetensors"));
    job.model.dtype = Precision::F64;
    job.model.layers = layers.iter().map(|&layer| layer.to_owned()).collect();
    let mut source = SourceRequest::new(TrajectoryRequest::new(trajectory));
    source.by_stage = true;
    job.source = Some(source);
    job
}

#[test]
fn a_head_made_later_has_no_leg_in_the_stage_before() -> Outcome {
    let folder = tempfile::tempdir()?;
    with_another_head(&fixture("mlp-trajectory/checkpoint-336"), &folder.path().join("before"))?;
    let trajectory = description(folder.path(), "trained_layers = [\"layers.0\", \"layers.1\"]")?;
    let scores = |layers: &[&str], stage: &str| -> Result<Vec<f64>, Box<dyn std::error::Error>> {
        let out = tempfile::tempdir()?;
        Plan::resolve(job(out.path(), trajectory.clone(), layers))?.run(&())?;
        Ok(Recorded::open(&out.path().join(format!("scores.{stage}.safetensors"))).values("scores"))
    };
    let all = ["layers.0", "layers.1", "layers.2"];
    let (before, body_alone) = (scores(&all, "stage-before")?, scores(&all[..2], "stage-before")?);
    assert!(before.iter().any(|score| score.abs() > 1e-6), "the stage before scores something");
    assert_relative(&before, &body_alone, 1e-6, "the stage before the head was made");
    // the head counts in the stage that trained it
    let (after, body_alone) = (scores(&all, "stage-after")?, scores(&all[..2], "stage-after")?);
    assert!(after.iter().zip(&body_alone).any(|(a, b)| (a - b).abs() > 1e-3 * a.abs()), "the head counts afterwards");
    Ok(())
}

#[test]
fn a_stage_has_to_say_that_it_lacked_a_layer() -> Outcome {
    let folder = tempfile::tempdir()?;
    with_another_head(&fixture("mlp-trajectory/checkpoint-336"), &folder.path().join("before"))?;
    let trajectory = description(folder.path(), "")?;
    let error = Plan::resolve(job(&folder.path().join("run"), trajectory, &[])).expect_err("another head");
    let why = error.source().expect("what is wrong with the checkpoint").to_string();
    assert!(why.contains("has no layer `layers.2` of the shape"), "{error}: {why}");
    assert!(error.hint().is_some_and(|hint| hint.contains("trained_layers")));
    Ok(())
}
