//! `scheduler.pt`.

use std::path::{Path, PathBuf};

use super::super::pickle::Value;
use super::super::torch_zip::TorchFile;
use crate::trajectory::error::ReadError;

/// What we take from a scheduler's state.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SchedulerState {
    pub(super) file: PathBuf,
    /// Updates done by the checkpoint that it belongs to.
    pub(super) step: usize,
    /// How often the scheduler has moved; `None` if it does not move with every update.
    pub(super) moves: Option<usize>,
    /// The rate that the next update would use, of the first parameter group.
    pub(super) next_rate: Option<f64>,
    /// Of every group.
    pub(super) next_rates: Vec<f64>,
    /// What the schedule multiplies, of every group; empty if the file does not have it.
    pub(super) base_rates: Vec<f64>,
}

impl SchedulerState {
    /// The base rate, if all groups have the same: that of an optimizer that the user made, and of a resumed run.
    pub(super) fn base_rate(&self) -> Option<f64> {
        let first = *self.base_rates.first()?;
        (self.moves.is_some() && first > 0.0 && self.base_rates.iter().all(|&rate| rate == first)).then_some(first)
    }

    pub(super) fn read(file: &Path, step: usize) -> Result<Self, ReadError> {
        let torch = TorchFile::open(file)?;
        let root = torch.value();
        let entry = |key: &str, expected| ReadError::Entry {
            file: file.to_path_buf(),
            key: key.to_string(),
            found: root.get(key).map_or("missing".to_string(), |value| format!("{value:?}")),
            expected,
        };
        let list = |key: &str| {
            let mut rates = Vec::new();
            for rate in root.get(key).and_then(Value::elements).into_iter().flat_map(|list| list.iter()) {
                let rate = rate.as_f64().ok_or_else(|| entry(key, "a list of numbers"))?;
                if !rate.is_finite() || rate < 0.0 {
                    return Err(ReadError::LoggedRate { file: file.to_path_buf(), step, rate });
                }
                rates.push(rate);
            }
            Ok(rates)
        };
        let (rates, base_rates) = (list("_last_lr")?, list("base_lrs")?);
        // Only a LambdaLR moves with every update that was not skipped.
        let moves = match root.get("lr_lambdas") {
            None => None,
            Some(_) => {
                let moves = root.get("last_epoch").and_then(Value::as_usize).filter(|&moves| moves <= step);
                Some(moves.ok_or_else(|| entry("last_epoch", "at most the checkpoint's step"))?)
            }
        };
        Ok(Self {
            file: file.to_path_buf(),
            step,
            moves,
            next_rate: rates.first().copied(),
            next_rates: rates,
            base_rates,
        })
    }
}
