//! The losses that a Trainer logged, and what they say of the loss at a checkpoint.
//!
//! A Trainer writes the mean loss of its batches since the entry before. Whoever computes the loss of training examples
//! at a checkpoint can compare: [`TrainingLog::around`] says between which numbers it has to lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::arguments::TrainingArguments;
use super::state::TrainerState;
use crate::trajectory::error::ReadError;
use crate::trajectory::text_treatment::TextTreatment;

/// The most windows of one side that are averaged.
const MOST_WINDOWS: usize = 8;

/// What a loss may fall by where an example is seen for the second time, as a share, if the run never came to a second
/// time that would show it.
const UNSEEN: f64 = 0.2;

/// What noise on embeddings may add to the logged loss, as a share.
const EMBEDDING_NOISE: f64 = 0.1;

/// The losses that a run logged, with what training divided and changed them by.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingLog {
    /// The file that has them.
    pub file: PathBuf,
    /// Updates done at the checkpoint that the log belongs to.
    pub step: usize,
    /// (updates done, mean loss since the entry before), ascending.
    pub losses: Vec<(usize, f64)>,
    /// (updates done, loss on the evaluation set), ascending.
    pub evaluations: Vec<(usize, f64)>,
    /// (updates done, `eval_NAME_loss`) of each evaluation set that has a name, ascending.
    pub named_evaluations: BTreeMap<String, Vec<(usize, f64)>>,
    /// Updates of an epoch, if examples were counted.
    pub steps_per_epoch: Option<f64>,
    /// Examples of an update, as far as the files say; 1 if they do not.
    pub batch: usize,
    /// Micro-batches of an update.
    pub accumulation: usize,
    /// Whether epochs count examples: not where several of them share a row of a batch.
    pub counts_examples: bool,
    /// `label_smoothing_factor`.
    pub label_smoothing: f64,
    /// Examples of a batch of evaluation, if the files say.
    pub evaluation_batch: Option<usize>,
    /// Whether a last batch of evaluation with fewer examples was left out.
    pub evaluation_drops_last: bool,
    /// The argument that had training compute in 16 bits, if one did.
    pub half_precision: Option<&'static str>,
    /// Whether the weights of the best checkpoint were taken at the end, so that a folder beside the checkpoints has
    /// those and not the last update's.
    pub loads_best: bool,
    /// The share by which noise of training may raise the logged loss above that of the same weights without noise:
    /// noise on embeddings here, and what a caller adds for dropout.
    pub noise: f64,
}

/// Between which numbers the loss at a checkpoint has to lie, but for the noise of batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Around {
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// The mean of the windows around, what a reader of the log would name.
    pub middle: f64,
    /// How many batches' noise is in the bounds.
    pub batches: f64,
}

/// Mean loss of the updates `start..end`.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: usize,
    end: usize,
    loss: f64,
}

fn mean(windows: &[Window]) -> Option<f64> {
    let weight: usize = windows.iter().map(|window| window.end - window.start).sum();
    let sum: f64 = windows.iter().map(|window| (window.end - window.start) as f64 * window.loss).sum();
    (weight > 0).then(|| sum / weight as f64)
}

/// How much the loss changed over the first `k` windows and the `k` further from the step, and how far the step is from
/// the former in distances between the two, at least one. Where there is a single window, half of its loss stands in.
fn beyond(windows: &[Window], k: usize, step: usize) -> Option<(f64, f64)> {
    let near = windows.get(..k)?;
    let Some(far) = windows.get(k..2 * k) else {
        return (windows.len() == 1).then(|| (windows[0].loss.abs() / 2.0, 1.0));
    };
    let middle = |windows: &[Window]| windows.iter().map(|w| (w.start + w.end) as f64 / 2.0).sum::<f64>() / k as f64;
    let reach = (step as f64 - middle(near)).abs() / (middle(near) - middle(far)).abs().max(1.0);
    Some(((mean(far)? - mean(near)?).abs(), reach.max(1.0)))
}

impl TrainingLog {
    /// The log up to a checkpoint: of the `trainer_state.json` in its folder, with the arguments there or in the run's
    /// folder. None if there is no such file.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn of_checkpoint(folder: &Path) -> Result<Option<Self>, ReadError> {
        let file = folder.join("trainer_state.json");
        if !crate::presence::is_file(&file) {
            return Ok(None);
        }
        let state = TrainerState::read(&file)?;
        let places = [Some(folder), folder.parent()].into_iter().flatten();
        let mut arguments =
            places.map(|place| place.join("training_args.bin")).filter(|file| crate::presence::is_file(file));
        let arguments = arguments.next().map(|file| TrainingArguments::read(&file)).transpose()?;
        let (mut batch, mut accumulation, mut label_smoothing, mut noise) = (1, 1, 0.0, 0.0);
        if let Some(arguments) = &arguments {
            let per_process = state.train_batch_size.unwrap_or(arguments.per_device_batch_size * arguments.devices);
            accumulation = arguments.accumulation;
            batch = per_process * accumulation * arguments.processes.unwrap_or(1);
            for (option, value) in &arguments.training_only {
                match *option {
                    "label_smoothing_factor" => label_smoothing = value.parse().unwrap_or(0.0),
                    "neftune_noise_alpha" => noise = EMBEDDING_NOISE,
                    _ => {}
                }
            }
        }
        let streamed = state.num_train_epochs.is_some_and(|epochs| epochs > 1e15);
        let epoch = state.epoch.filter(|&epoch| epoch > 0.0 && !streamed);
        Ok(Some(Self {
            file,
            step: state.global_step,
            losses: state.log.iter().filter_map(|entry| Some((entry.step, entry.loss?))).collect(),
            evaluations: state.evaluations,
            named_evaluations: state.named_evaluations,
            steps_per_epoch: epoch.map(|epoch| state.global_step as f64 / epoch),
            batch: batch.max(1),
            accumulation,
            counts_examples: arguments.as_ref().is_some_and(|arguments| {
                arguments.processes.is_some() && arguments.texts.as_ref().is_none_or(TextTreatment::rows_are_examples)
            }),
            label_smoothing,
            evaluation_batch: arguments.as_ref().and_then(|arguments| arguments.evaluation_batch).filter(|&n| n > 0),
            evaluation_drops_last: arguments.as_ref().is_some_and(|arguments| arguments.drops_last),
            half_precision: arguments.as_ref().and_then(|arguments| match (arguments.bf16, arguments.fp16) {
                (true, _) => Some("bf16=True"),
                (_, true) => Some("fp16=True"),
                _ => None,
            }),
            loads_best: arguments.as_ref().is_some_and(|arguments| arguments.loads_best),
            noise,
        }))
    }

    /// The loss on the evaluation set after `step` updates, if it was logged.
    pub fn evaluation(&self, step: usize) -> Option<f64> {
        self.evaluations.iter().find(|&&(at, _)| at == step).map(|&(_, loss)| loss)
    }

    /// The loss on each evaluation set that has a name, where training was interrupted after so many updates to evaluate.
    pub fn named_evaluations_at(&self, step: usize) -> BTreeMap<String, f64> {
        let at = |losses: &Vec<(usize, f64)>| losses.iter().find(|&&(at, _)| at == step).map(|&(_, loss)| loss);
        self.named_evaluations.iter().filter_map(|(name, losses)| Some((name.clone(), at(losses)?))).collect()
    }

    fn windows(&self) -> Vec<Window> {
        let mut start = 0;
        let mut windows = Vec::with_capacity(self.losses.len());
        for &(end, loss) in &self.losses {
            if end > start {
                windows.push(Window { start, end, loss });
                start = end;
            }
        }
        windows
    }

    /// Between which numbers the loss of training examples has to lie with the weights after `step` updates, if the log
    /// has windows there. `noise` is the standard deviation of one batch's mean loss.
    ///
    /// The windows before the step had older weights and those behind it newer ones, so the loss lies between the two
    /// means; of one to eight windows on each side as many are taken as make the bounds, with their noise, the
    /// narrowest. Training has also seen the examples, which lowers the loss of those that it saw last: the lower bound
    /// is at most the mean over the epoch behind the step, in which every example comes once more. Where the log ends
    /// within that epoch, the bound falls by as much as the loss fell from the epoch before to the last one.
    pub fn around(&self, step: usize, noise: f64) -> Option<Around> {
        let windows = self.windows();
        let before: Vec<Window> = windows.iter().rev().filter(|w| w.start < step).copied().collect();
        let behind: Vec<Window> = windows.iter().filter(|w| w.end > step).copied().collect();
        let most = before.len().max(behind.len()).min(MOST_WINDOWS);
        let candidates = (1..=most).filter_map(|k| {
            let first = |windows: &[Window], from: usize| mean(windows.get(from..(from + k).min(windows.len()))?);
            let (low, high) = match (first(&before, 0), first(&behind, 0)) {
                (Some(before), Some(behind)) => (before.min(behind), before.max(behind)),
                (Some(last), None) => {
                    let (change, reach) = beyond(&before, k, step)?;
                    (last - reach * change, last + change / 2.0)
                }
                (None, Some(next)) => {
                    let (change, reach) = beyond(&behind, k, step)?;
                    (next - change / 2.0, next + 2.0 * reach * change)
                }
                (None, None) => return None,
            };
            let used = [&before, &behind].map(|side| &side[..k.min(side.len())]);
            let batches: usize = used.iter().flat_map(|side| side.iter()).map(|w| w.end - w.start).sum();
            let both: Vec<Window> = used.iter().flat_map(|side| side.iter()).copied().collect();
            Some(Around { low, high, middle: mean(&both)?, batches: batches as f64 })
        });
        let width = |around: &Around| around.high - around.low + 6.0 * noise / around.batches.sqrt();
        let mut around = candidates.min_by(|a, b| width(a).total_cmp(&width(b)))?;
        around.low = around.low.min(self.after_memory(step, &windows, around.low));
        around.low -= self.noise * around.middle;
        Some(around)
    }

    /// What `low` comes to, once examples that were seen are taken to be known better than those that come next.
    fn after_memory(&self, step: usize, windows: &[Window], low: f64) -> f64 {
        let Some(epoch) = self.steps_per_epoch.filter(|&steps| steps >= 1.0) else { return low * (1.0 - UNSEEN) };
        let within = |from: f64, to: f64| {
            let middle = |w: &Window| (w.start + w.end) as f64 / 2.0;
            let there: Vec<Window> = windows.iter().filter(|w| middle(w) > from && middle(w) <= to).copied().collect();
            mean(&there)
        };
        let (at, end) = (step as f64, windows.last().map_or(0.0, |w| w.end as f64));
        let next = within(at, at + epoch);
        let low = next.map_or(low, |next| low.min(next));
        let unlogged = ((at + epoch - end.max(at)) / epoch).clamp(0.0, 1.0);
        let fall = match (within(end - 2.0 * epoch, end - epoch), within(end - epoch, end)) {
            (Some(earlier), Some(last)) if end >= 1.9 * epoch => (earlier - last).max(0.0),
            _ => UNSEEN * low,
        };
        low - unlogged * fall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(losses: Vec<(usize, f64)>, steps_per_epoch: f64) -> TrainingLog {
        TrainingLog {
            file: "trainer_state.json".into(),
            step: losses.last().map_or(0, |&(step, _)| step),
            losses,
            evaluations: vec![],
            named_evaluations: BTreeMap::new(),
            steps_per_epoch: Some(steps_per_epoch),
            batch: 8,
            accumulation: 1,
            counts_examples: true,
            label_smoothing: 0.0,
            evaluation_batch: None,
            evaluation_drops_last: false,
            half_precision: None,
            loads_best: false,
            noise: 0.0,
        }
    }

    #[test]
    fn the_loss_lies_between_the_windows_of_both_sides() {
        // 4 to 2 in a straight line over 200 steps
        let losses = (1..=20).map(|k| (10 * k, 4.0 - 0.1 * k as f64 + 0.05)).collect();
        let around = log(losses, 10.0).around(100, 0.0).unwrap();
        // one window on each side where batches have no noise; the loss at step 100 is 3
        assert!((around.low - 2.95).abs() < 1e-12 && (around.high - 3.05).abs() < 1e-12, "{around:?}");
        assert_eq!(around.batches, 20.0);
    }

    #[test]
    fn noise_asks_for_more_windows() {
        let losses = (1..=40).map(|k| (10 * k, 3.0 + if k % 2 == 0 { 0.1 } else { -0.1 })).collect();
        let around = log(losses, 400.0).around(200, 1.0).unwrap();
        assert!(around.batches > 100.0, "{around:?}");
        assert!((around.middle - 3.0).abs() < 0.02, "{around:?}");
    }

    #[test]
    fn an_epoch_behind_lowers_the_bound_and_so_does_its_absence() {
        // three epochs of 10 steps, in stairs
        let stairs = |k: usize| [3.0, 2.0, 1.5][(k - 1) / 10];
        let logged = log((1..=30).map(|k| (k, stairs(k))).collect(), 10.0);
        let within = logged.around(5, 0.0).unwrap();
        // the next ten batches are half of the first epoch, half of the second
        assert!((within.low - 2.5).abs() < 1e-12 && within.high == 3.0, "{within:?}");
        let end = logged.around(30, 0.0).unwrap();
        // from the second epoch to the third it fell by a half
        assert!((end.low - 1.0).abs() < 1e-12 && end.high == 1.5, "{end:?}");
    }

    #[test]
    fn beyond_the_last_window_the_change_goes_on() {
        let logged = log((1..=6).map(|k| (5 * k, 5.0 - 0.3 * k as f64)).collect(), 4.0);
        // the last window's middle is at 27.5, the change from one window to the next 0.3
        let around = logged.around(33, 0.0).unwrap();
        assert!((around.low - (3.2 - 0.3 * 1.1 - 0.3)).abs() < 0.1 && (around.high - 3.35).abs() < 1e-9, "{around:?}");
        // many windows hide no change, however noisy a batch is
        assert!(logged.around(30, 0.5).unwrap().high < 4.0);
        assert!(log(vec![(500, 4.0)], 100.0).around(500, 0.1).unwrap().low < 2.1);
    }

    #[test]
    fn a_log_without_losses_says_nothing() {
        assert_eq!(log(vec![], 10.0).around(5, 0.1), None);
    }

    #[test]
    fn a_trainers_folder_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainer-tiny/checkpoint-240");
        let log = TrainingLog::of_checkpoint(&folder).unwrap().unwrap();
        assert_eq!((log.step, log.accumulation, log.label_smoothing), (240, 1, 0.0));
        assert!(log.losses.len() > 4 && log.losses.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(TrainingLog::of_checkpoint(folder.parent().unwrap()).unwrap().is_none());
    }
}
