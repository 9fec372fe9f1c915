//! What was read of a training run, each fact with the file that it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ascribe_attribution::trajectory::{
    CheckpointAt, Clipping, LossScale, Optimizer, Schedule, StageNumbers, StepRates, TrainedLayers, TrainingStage,
    TrajectoryError,
};

use crate::trajectory::error::ReadError;
use crate::trajectory::text_record::TextRecord;
use crate::trajectory::text_treatment::TextTreatment;
use crate::trajectory::token_counts::LoggedTokens;
use crate::trajectory::version::TransformersVersion;
use crate::trajectory::warning::Warning;

/// One thing that was understood, and where it comes from. For printing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub what: &'static str,
    /// Its value in words.
    pub value: String,
    /// The file or the rule that says so.
    pub origin: String,
}

/// How the rate of every step came to be known.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RatesOrigin {
    /// Replayed from a schedule, and how many recorded rates agree with it.
    Schedule {
        /// The schedule.
        schedule: Schedule,
        /// Recorded rates that it was checked against.
        checked: usize,
    },
    /// Every step's rate is in the log.
    Logged,
    /// Interpolated between `known` recorded steps.
    Interpolated {
        /// Steps whose rate is recorded.
        known: usize,
    },
    /// Written down step by step or piece by piece.
    Stated,
}

/// A checkpoint on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// Updates done.
    pub step: usize,
    /// Its name, independent of where it lies.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its `optimizer.pt`, if there is one of a kind that is read.
    pub optimizer: Option<PathBuf>,
    /// The line of the description that lists it; none of a Trainer's folder.
    pub line: Option<usize>,
}

/// Examples in one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Examples in a micro-batch of one process, over its devices.
    pub per_process: usize,
    /// Devices of a process that have a share of its micro-batch each.
    pub devices: usize,
    /// Micro-batches accumulated into one update.
    pub accumulation: usize,
    /// Processes; `None` if not recorded.
    pub processes: Option<usize>,
    /// Whether label tokens were counted over all processes (`average_tokens_across_devices`).
    pub across_processes: bool,
    /// Which examples were together.
    pub company: Company,
}

/// Which examples were in a batch together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Company {
    /// A batch held any examples: they were drawn anew in every epoch.
    #[default]
    Drawn,
    /// A batch held examples of about the same length (`group_by_length`).
    OfLikeLength,
    /// A batch held others, such as examples that stand side by side in the file.
    Other,
}

/// Parameter groups with rates of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRates {
    /// The optimizer's file.
    pub file: PathBuf,
    /// The checkpoint that it belongs to.
    pub folder: PathBuf,
    /// What multiplies the run's rates in each group.
    pub multiples: Vec<f64>,
}

/// Steps of an epoch in the log, and how its end was treated.
#[derive(Debug, Clone, PartialEq)]
pub struct Epochs {
    /// Updates of an epoch.
    pub steps: f64,
    /// Whether an incomplete last batch was dropped; `None` if that is not known.
    pub drops_last: Option<bool>,
    /// (updates done, epochs done) wherever the run recorded both; empty if only `steps` is known.
    pub recorded: Vec<(usize, f64)>,
}

impl Epochs {
    /// Whether epochs of so many micro-batches, `accumulation` of which make an update, are the recorded ones. The
    /// Trainer counts an epoch's micro-batches: after update `u` of one, `min(u · accumulation, batches)` of `batches`
    /// are done.
    fn fits(&self, batches: usize, accumulation: usize) -> bool {
        // Versions differ in whether the leftover micro-batches of an epoch make an update.
        let with_rest = batches.div_ceil(accumulation).max(1);
        [with_rest, (batches / accumulation).max(1)].into_iter().any(|updates| {
            if self.recorded.is_empty() {
                return self.steps == updates as f64;
            }
            self.recorded.iter().all(|&(step, epoch)| {
                let Some(before) = step.checked_sub(1) else { return epoch == 0.0 };
                let (whole, update) = (before / updates, before % updates + 1);
                let done = update.saturating_mul(accumulation).min(batches);
                let expected = whole as f64 + done as f64 / batches as f64;
                // some versions of transformers log two digits
                let rounded = (expected * 100.0).round() / 100.0;
                (epoch - expected).abs() <= 1e-9 * expected || (epoch - rounded).abs() <= 1e-9 * rounded
            })
        })
    }

    /// Micro-batches of an epoch, if the record has one answer near the number of its updates.
    fn batches(&self, accumulation: usize) -> Option<usize> {
        let most = (self.steps * accumulation as f64 * 1.1) as usize + 2 * accumulation;
        let least = (self.steps * accumulation as f64 * 0.9) as usize;
        let mut fitting = (least.saturating_sub(2 * accumulation).max(1)..=most.min(least.saturating_add(100_000)))
            .filter(|&batches| self.fits(batches, accumulation));
        fitting.next().filter(|_| fitting.next().is_none())
    }
}

/// What a reader understood of one stage of training. [`stage`](Self::stage) makes the numbers of a method from it.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The folder or file.
    pub source: PathBuf,
    /// The stage's name.
    pub name: String,
    /// The rate of every step.
    pub rates: StepRates,
    /// How they are known.
    pub rates_origin: RatesOrigin,
    /// The optimizer; one that Source does not know is refused by [`stage`](Self::stage), not by the reader.
    pub optimizer: Optimizer,
    /// Examples in one update.
    pub batch: Batch,
    /// Ascending by step.
    pub checkpoints: Vec<CheckpointFiles>,
    /// `N`, if recorded.
    pub n_examples: Option<usize>,
    /// Examples that training read beyond `N`, because nothing is predicted in them, and those that it may have read.
    pub left_out: [usize; 2],
    /// `c`, if recorded.
    pub loss_scale: Option<LossScale>,
    /// The log's epochs, to check `N` against.
    pub epochs: Option<Epochs>,
    /// `max_grad_norm`, if gradients were clipped.
    pub max_grad_norm: Option<f64>,
    /// (step counted from 0, gradient norm before clipping) where logged.
    pub gradient_norms: Vec<(usize, f64)>,
    /// (updates done, mean loss since the entry before) where logged.
    pub losses: Vec<(usize, f64)>,
    /// Input tokens, where the log counts them.
    pub logged_tokens: LoggedTokens,
    /// What TRL did to the texts, if it trained.
    pub texts: Option<TextTreatment>,
    /// The file that has the log.
    pub log: Option<PathBuf>,
    /// The transformers that wrote the last checkpoint.
    pub version: Option<TransformersVersion>,
    /// Segments that the description asks for, as steps at which they end.
    pub segment_ends: Option<Vec<usize>>,
    /// The folder of the base, if the checkpoints are adapters; none: the folder that an adapter's settings name.
    pub base: Option<PathBuf>,
    /// Layers that the stage changed.
    pub trained_layers: TrainedLayers,
    /// Tensors that are the same in all checkpoints, by name, once
    /// [`find_frozen_layers`](Self::find_frozen_layers) has compared them.
    pub unchanged: BTreeSet<String>,
    /// What multiplies the rates of a layer, if not 1: stated, or found by
    /// [`find_layer_rates`](Self::find_layer_rates).
    pub layer_rates: BTreeMap<String, f64>,
    /// Parameter groups with rates of their own, whose layers are not known yet.
    pub group_rates: Option<GroupRates>,
    /// Everything that was understood.
    pub facts: Vec<Fact>,
    /// Everything that a person should know.
    pub warnings: Vec<Warning>,
}

/// Whether clipping lowers the effective rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClippingUse {
    /// Rates count times `min(1, max_norm / norm)`, where norms are logged.
    ///
    /// # Source
    /// `docs/method.md`, Source.
    #[default]
    Count,
    /// Rates count as the schedule has them.
    Ignore,
}

/// What a person states about a stage; it wins over what was read, and fills what was not.
#[derive(Debug, Clone, Default)]
pub struct Stated {
    /// `N`.
    pub n_examples: Option<usize>,
    /// `c`.
    pub loss_scale: Option<LossScale>,
    /// Processes of the training run.
    pub processes: Option<usize>,
    /// Whether clipping counts.
    pub clipping: ClippingUse,
    /// Layers that the stage changed.
    pub trained_layers: Option<TrainedLayers>,
}

impl Reading {
    /// The stage's validated numbers.
    ///
    /// # Errors
    /// `N` or `c` neither recorded nor stated; an `N` that contradicts the log's epochs; numbers that a
    /// [`TrainingStage`] refuses, an unknown optimizer among them.
    pub fn stage(&self, stated: &Stated) -> Result<TrainingStage, ReadError> {
        let source = || self.source.clone();
        let n_examples = stated.n_examples.or(self.n_examples);
        let n_examples = n_examples.ok_or_else(|| ReadError::UnknownExamples { source_path: source() })?;
        let loss_scale = stated.loss_scale.or(self.loss_scale);
        let loss_scale = loss_scale.ok_or_else(|| ReadError::UnknownLossScale { source_path: source() })?;
        let processes = stated.processes.or(self.batch.processes).unwrap_or(1);
        if processes == 0 {
            return Err(self.numbers(TrajectoryError::OutOfRange {
                name: "processes",
                value: 0.0,
                expected: "at least 1",
            }));
        }
        let batch_size = self.batch_size(processes);
        let [surely, maybe] = self.left_out;
        self.check_epochs(n_examples + surely, processes)
            .or_else(|error| self.check_epochs(n_examples + surely + maybe, processes).map_err(|_| error))?;
        let clipping = match (stated.clipping, self.max_grad_norm) {
            (ClippingUse::Count, Some(max_norm)) if !self.gradient_norms.is_empty() => {
                if let Some(&(step, norm)) = self.gradient_norms.iter().find(|(_, norm)| norm.is_nan() || *norm < 0.0) {
                    let file = self.log.clone().unwrap_or_else(source);
                    return Err(ReadError::LoggedNorm { file, step: step + 1, norm });
                }
                let clipping = Clipping::from_norms(max_norm, &self.gradient_norms, self.rates.n_steps());
                Some(clipping.map_err(|problem| self.numbers(problem))?)
            }
            _ => None,
        };
        TrainingStage::new(StageNumbers {
            name: self.name.clone(),
            n_examples,
            loss_scale,
            optimizer: self.optimizer.clone(),
            rates: self.rates.clone(),
            batch_size,
            checkpoints: self
                .checkpoints
                .iter()
                .map(|checkpoint| CheckpointAt { step: checkpoint.step, id: checkpoint.id.clone() })
                .collect(),
            clipping,
            trained_layers: stated.trained_layers.clone().unwrap_or_else(|| self.trained_layers.clone()),
            layer_rates: self.layer_rates.clone(),
        })
        .map_err(|problem| self.numbers(problem))
    }

    /// Leaves out the first `after` updates: what remains counts its steps from there. The log's epochs and tokens, which
    /// began to be counted with the run, say nothing of it.
    ///
    /// # Errors
    /// Rates that are none.
    pub(super) fn begin_after(&mut self, after: usize) -> Result<(), TrajectoryError> {
        let n_steps = self.rates.n_steps();
        self.rates = StepRates::per_step((after..n_steps).filter_map(|k| self.rates.rate(k)).collect())?;
        self.checkpoints.retain(|files| files.step > after);
        self.checkpoints.iter_mut().for_each(|files| files.step -= after);
        self.gradient_norms.retain(|(step, _)| *step >= after);
        self.gradient_norms.iter_mut().for_each(|(step, _)| *step -= after);
        self.losses.retain(|(step, _)| *step > after);
        self.losses.iter_mut().for_each(|(step, _)| *step -= after);
        (self.epochs, self.logged_tokens) = (None, LoggedTokens::default());
        Ok(())
    }

    /// Examples in one update of this many processes.
    pub(super) fn batch_size(&self, processes: usize) -> usize {
        self.batch.per_process.saturating_mul(self.batch.accumulation).saturating_mul(processes)
    }

    fn numbers(&self, problem: TrajectoryError) -> ReadError {
        ReadError::Numbers { source_path: self.source.clone(), problem }
    }

    /// What is recorded of the texts.
    pub fn text_record(&self) -> TextRecord {
        TextRecord {
            source: self.source.clone(),
            log: self.log.clone(),
            texts: self.texts.clone(),
            drops_last: self.epochs.as_ref().and_then(|epochs| epochs.drops_last),
            tokens: self.logged_tokens.clone(),
            processes: self.batch.processes,
            training_only: vec![],
        }
    }

    /// `Err` if `N` examples cannot have made the epochs of the log.
    fn check_epochs(&self, n_examples: usize, processes: usize) -> Result<(), ReadError> {
        let Some(epochs) = &self.epochs else { return Ok(()) };
        // rows of several examples each
        if self.texts.as_ref().is_some_and(|texts| !texts.rows_are_examples()) {
            return Ok(());
        }
        let micro = self.batch.per_process.saturating_mul(processes).max(1);
        let accumulation = self.batch.accumulation.max(1);
        let (dropped, kept) = (n_examples / micro, n_examples.div_ceil(micro));
        let mut possible = match epochs.drops_last {
            Some(true) => vec![dropped],
            Some(false) => vec![kept],
            None => vec![dropped, kept],
        };
        possible.retain(|&batches| batches > 0);
        if possible.iter().any(|&batches| epochs.fits(batches, accumulation)) {
            return Ok(());
        }
        let logged = epochs.batches(accumulation);
        // examples of so many whole batches; a file may say any size
        let first = |batches: usize| batches.saturating_mul(micro);
        Err(ReadError::ExamplesDisagree {
            source_path: self.source.clone(),
            n_examples,
            batch_size: self.batch_size(processes),
            expected: kept.div_ceil(accumulation).max(1),
            logged: epochs.steps,
            batches: logged.filter(|_| accumulation > 1).map(|logged| (kept, logged)),
            // whole batches up to the last, and one example more than the others make at the least
            fitting: logged.map(|batches| match epochs.drops_last {
                Some(true) => (first(batches), first(batches + 1) - 1),
                Some(false) => (first(batches - 1).saturating_add(1), first(batches)),
                None => (first(batches - 1).saturating_add(1), first(batches + 1) - 1),
            }),
        })
    }
}
