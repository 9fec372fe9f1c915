//! The checkpoints of a training run without what lay between them: averages over checkpoints need no optimizer and no
//! learning rates, so a run whose rates nothing tells can be averaged over all the same.

use std::path::Path;

use super::request::{TrajectoryRequest, reads_trainer_folder};
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::CheckpointFiles;
use crate::trajectory::trainer;

/// The checkpoints of the last stage of a training run.
#[derive(Debug, Clone)]
pub struct RunCheckpoints {
    /// The checkpoints, first trained first; their optimizers are not looked for.
    pub checkpoints: Vec<CheckpointFiles>,
    /// The name of the stage that they belong to.
    pub stage: String,
    /// How many stages the run has.
    pub stages: usize,
}

impl RunCheckpoints {
    /// Finds the checkpoints of a Trainer's output folder, or of the run that a TOML file describes.
    ///
    /// # Errors
    /// Nothing at the path; a folder without checkpoints, or with checkpoints of different models; a description that
    /// cannot be read.
    pub fn find(path: &Path) -> Result<Self, ReadError> {
        if reads_trainer_folder(path)? {
            let checkpoints = trainer::checkpoints(path)?;
            return Ok(Self { checkpoints, stage: "training".to_owned(), stages: 1 });
        }
        let mut readings = TrajectoryRequest::new(path.to_owned()).read()?;
        let stages = readings.len();
        let Some(last) = readings.pop() else {
            return Err(ReadError::NoCheckpoints { folder: path.to_owned(), is_checkpoint: false });
        };
        Ok(Self { checkpoints: last.checkpoints, stage: last.name, stages })
    }
}

/// For each checkpoint of the last stage of a run the share of that stage's learning rates for whose steps the
/// checkpoint is the nearest. The shares sum to 1.
///
/// # Errors
/// As [`TrajectoryRequest::read`]: all rates have to be known.
pub fn nearest_shares(path: &Path) -> Result<Vec<f64>, ReadError> {
    let readings = TrajectoryRequest::new(path.to_owned()).read()?;
    let Some(last) = readings.last() else {
        return Err(ReadError::NoCheckpoints { folder: path.to_owned(), is_checkpoint: false });
    };
    let steps: Vec<usize> = last.checkpoints.iter().map(|files| files.step).collect();
    let end = steps.last().copied().unwrap_or(0);
    let middle = |i: usize| (steps[i] + steps[i + 1]) / 2;
    let share = |i: usize| {
        let from = if i == 0 { 0 } else { middle(i - 1) };
        let to = if i + 1 == steps.len() { end } else { middle(i) };
        last.rates.sum(from..to)
    };
    let shares: Vec<f64> = (0..steps.len()).map(share).collect();
    let sum: f64 = shares.iter().sum();
    // where nothing moved no checkpoint is nearer than another
    let uniform = 1.0 / steps.len().max(1) as f64;
    Ok(shares.into_iter().map(|share| if sum > 0.0 { share / sum } else { uniform }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
    }

    #[test]
    fn a_trainers_folder_and_a_description_give_their_checkpoints() {
        let found = RunCheckpoints::find(&fixture("trainer-tiny")).unwrap();
        let steps = |found: &RunCheckpoints| found.checkpoints.iter().map(|files| files.step).collect::<Vec<_>>();
        assert_eq!((steps(&found), found.stages), (vec![60, 120, 180, 240], 1));
        let found = RunCheckpoints::find(&fixture("mlp-trajectory/trajectory.toml")).unwrap();
        assert_eq!(steps(&found), [168, 336, 504, 576, 648, 720]);
    }

    /// Steps 0 to 419 at 0.2 for the first two, and so on: rates of 0.2 until step 504, 0.02 behind it.
    #[test]
    fn shares_are_those_of_the_nearest_steps() {
        let found = nearest_shares(&fixture("mlp-trajectory/trajectory.toml")).unwrap();
        let sums = [252.0 * 0.2, 168.0 * 0.2, 84.0 * 0.2 + 36.0 * 0.02, 72.0 * 0.02, 72.0 * 0.02, 36.0 * 0.02];
        let all: f64 = sums.iter().sum();
        for (found, sum) in found.iter().zip(sums) {
            assert!((found - sum / all).abs() < 1e-12, "{found} {}", sum / all);
        }
    }
}
