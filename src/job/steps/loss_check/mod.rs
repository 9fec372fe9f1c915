//! The check of the training data against the training log: the loss of a sample of the examples at every checkpoint
//! beside what the Trainer logged around it.
//!
//! Scores are about the loss that training minimised. Data that were read otherwise than training read them, by an end
//! token, a mask or a tokenizer, give other scores and no error; their loss is not the logged one.

mod causes;
mod compared;
pub(in crate::job) mod evaluation;
mod rows;
mod templates;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::compared::{Compared, Conversations, Logged, OfStage, rounded, tolerance};
use self::rows::losses;
use crate::attribution::{Observer, foreign_file};
use crate::data::{Dataset, LeftOut};
use crate::job::brief::loss_check::{CheckpointLoss, LossCheck, TokenCount};
use crate::job::error::JobError;
use crate::job::plan::Plan;
use crate::job::training::{Site, folder_name};
use crate::model::adapter::folder::AdapterFolder;
use crate::trajectory::{Reading, TextData, TokenComparison, TrainingLog};

/// The file of a run folder that holds what was found.
const FILE: &str = "loss_check.json";

/// The most bytes of a file of JSON that is read here.
const MAX_TEXT: u64 = 32 << 20;

/// Examples of the sample: a quarter of all, but at least and at most so many.
const EXAMPLES: (usize, usize) = (64, 256);

/// Positions of the sample at most, unless fewer examples than [`FEWEST`] have them.
const POSITIONS: usize = 32_768;

/// Examples that are taken however long they are.
const FEWEST: usize = 8;

/// How the names of a Trainer's checkpoints begin.
const TRAINERS: &str = "checkpoint-";

impl LossCheck {
    /// What was found when a run folder was made; none if nothing was compared.
    pub fn of_run_folder(folder: &Path) -> Option<Self> {
        Stored::read(folder).map(|stored| stored.check)
    }
}

/// What a run folder holds of the check.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    /// The run that it belongs to.
    key: String,
    /// The evaluation set whose loss was compared, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evaluation: Option<String>,
    #[serde(flatten)]
    check: LossCheck,
}

impl Stored {
    fn read(folder: &Path) -> Option<Self> {
        let text = foreign_file::read_text(&folder.join(FILE), MAX_TEXT).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether it is what this plan would find.
    fn is_of(&self, plan: &Plan) -> bool {
        let evaluation = plan.evaluation_key();
        self.key == plan.run_key().to_string() && (evaluation.is_none() || self.evaluation == evaluation)
    }
}

impl Plan {
    /// The loss of a sample of the training examples at the checkpoints of a training run, beside its log. None where
    /// it is not wanted, for a checkpoint alone without a log, or if the work was interrupted.
    ///
    /// # Errors
    /// [`JobError`] if a checkpoint cannot be read.
    pub fn loss_check(&self, observer: &dyn Observer) -> Result<Option<&LossCheck>, JobError> {
        if !self.has_log() || self.job.data.skip_loss_check {
            return Ok(None);
        }
        if let Some(found) = self.summary().loss_check.get() {
            return Ok(Some(found));
        }
        let stored = Stored::read(&self.job.output.path).filter(|stored| stored.is_of(self));
        let found = match stored {
            Some(stored) => Some(stored.check),
            None => self.compare_losses(observer)?,
        };
        Ok(found.map(|found| self.summary().loss_check.get_or_init(|| found)))
    }

    /// Whether a log may be there: of a run always, of a checkpoint alone where its folder has a Trainer's state.
    fn has_log(&self) -> bool {
        if self.job.source.is_some() || self.job.checkpoints.is_some() {
            return true;
        }
        let folder = &self.job.model.path;
        // what the best checkpoint had is not what the log ends with
        let is_state = |log: &TrainingLog| folder_name(folder).starts_with(TRAINERS) || !log.loads_best;
        match TrainingLog::of_checkpoint(folder) {
            Ok(log) => log.as_ref().is_some_and(is_state),
            // the check says what is wrong with the file
            Err(_) => true,
        }
    }

    /// Writes what was found into the run folder, where it does not stand yet.
    pub(in crate::job) fn keep_loss_check(&self) -> Result<(), JobError> {
        let (folder, file) = (&self.job.output.path, self.job.output.path.join(FILE));
        let is_there = |_: &&LossCheck| Stored::read(folder).is_some_and(|stored| stored.is_of(self));
        let Some(check) = self.summary().loss_check.get().filter(|check| !is_there(check)) else {
            return Ok(());
        };
        let (key, evaluation) = (self.run_key().to_string(), self.evaluation_key());
        let stored = Stored { key, evaluation, check: check.clone() };
        let text = serde_json::to_string_pretty(&stored).expect("numbers and texts are JSON");
        crate::job::folder::whole_file::write_file(&file, format!("{text}\n").as_bytes())
    }

    /// Adds what the log counted of a stage's tokens, which is exact where a loss is not.
    fn compare_tokens(&self, stage: usize, check: &mut LossCheck) {
        let processes = self.job.source.as_ref().and_then(|source| source.trajectory.processes);
        let Some((found, remedy)) = self.texts.tokens(stage, processes) else { return };
        let name = (self.training.stages.len() > 1).then(|| self.training.stages[stage].name.clone());
        if !found.agrees {
            let what = remedy.unwrap_or_else(|| {
                "they are other examples, or were read otherwise (`--add-eos`, `--max-length`, `--pack`, a template, \
                 masks); if others are meant, `--train-size` says how many training had"
                    .to_owned()
            });
            check.warnings.push(format!("the training data are probably not what training saw: {found}; {what}"));
        }
        let TokenComparison { step, epoch, counted, tokens, with_padding, agrees, .. } = found;
        check.tokens.push(TokenCount { stage: name, step, epoch, counted, with_padding, tokens, agrees });
    }

    fn compare_losses(&self, observer: &dyn Observer) -> Result<Option<LossCheck>, JobError> {
        let mut found = LossCheck::default();
        let sites = self.training.curved_networks();
        for stage in 0..self.training.stages.len() {
            self.compare_tokens(stage, &mut found);
            // the mean of several checkpoints' weights is no state of training
            let is_state = |site: &&Site| {
                site.stage == stage && matches!(self.training.networks.parameters()[site.network].of.as_slice(), [_])
            };
            let sites: Vec<Site> = sites.iter().filter(is_state).copied().collect();
            if !self.compare_stage(stage, &sites, &mut found, observer)? {
                return Ok(None);
            }
        }
        if !self.compare_evaluation(&mut found, observer)? {
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// Adds what is found of one stage; `false` if the work was interrupted.
    fn compare_stage(
        &self,
        stage: usize,
        sites: &[Site],
        check: &mut LossCheck,
        observer: &dyn Observer,
    ) -> Result<bool, JobError> {
        let of_stage = &self.training.stages[stage];
        let name = if self.training.stages.len() > 1 { format!(" of `{}`", of_stage.name) } else { String::new() };
        let folder = |site: &Site| &self.training.networks.parameters()[site.network].of[0].0;
        let log = match sites.last().map(|last| TrainingLog::of_checkpoint(folder(last))) {
            Some(Ok(Some(log))) if !log.losses.is_empty() => log,
            Some(Err(error)) => {
                check.notes.push(format!("the training log{name} is not compared with the data: {error}"));
                return Ok(true);
            }
            _ => {
                // a description of a run by hand has no log, which its author knows
                if sites.last().is_some_and(|last| folder_name(folder(last)).starts_with(TRAINERS)) {
                    check.notes.push(format!(
                        "there is no log of losses{name}: nothing shows whether the examples are those that training saw"
                    ));
                }
                return Ok(true);
            }
        };
        let log = TrainingLog { noise: log.noise + sites.last().map_or(0.0, |last| self.dropout(folder(last))), ..log };
        // the epochs of a run are not those of a part that began later
        let is_later_part = |reading: &Reading| reading.log.is_some() && reading.epochs.is_none();
        let reading = self.training.run.as_ref().and_then(|run| run.readings.get(stage));
        if !reading.is_some_and(is_later_part) {
            // training had what was left out here for want of a target, and what a cut left without one perhaps
            let texts = self.texts.data.get(stage).and_then(Option::as_ref);
            let left_out = |of: fn(&TextData) -> LeftOut| texts.map_or(0, |texts| of(texts).examples);
            let [surely, maybe] = [left_out(|texts| texts.without_target), left_out(|texts| texts.cut_away)];
            let given = of_stage.n_examples + surely;
            let warning = count_of_examples(&log, given);
            check.warnings.extend(warning.filter(|_| maybe == 0 || count_of_examples(&log, given + maybe).is_some()));
        }
        let sample = sample(of_stage.all());
        let end = self.end_token(&sample)?;
        let file = self.job.data.stages.get(&of_stage.name).unwrap_or(&self.job.data.train).clone();
        let conversations = Some(Conversations { file, stage });
        let of_stage = OfStage { plan: self, log, sample, population: of_stage.all().len(), conversations, end };
        let (mut compared, before) = (vec![], check.checkpoints.len());
        for &site in sites {
            let parameters = &self.training.networks.parameters()[site.network];
            let Some(step) = step_of(&parameters.of[0].0) else { continue };
            let network = self.training.networks.get(site.network)?;
            let Some(rows) = losses(&network.model, &of_stage.sample, end, observer)? else { return Ok(false) };
            let Some(mean) = of_stage.as_read(&rows) else { continue };
            let Some(around) = of_stage.log.around(step, mean.batch_noise) else { continue };
            let logged = Logged::Training(around);
            let Some(judged) = of_stage.judge(&of_stage.sums(&rows), 1.0, &logged) else { continue };
            check.checkpoints.push(CheckpointLoss {
                checkpoint: parameters.name.clone(),
                step,
                loss: rounded(judged.loss),
                examples: rows.len(),
                targets: mean.targets,
                logged: [rounded(around.low), rounded(around.high)],
                tolerance: rounded(tolerance(&mean, &around)),
                first_labels: judged.first_labels,
                agrees: judged.agrees(),
            });
            compared.push(Compared { site, name: parameters.name.clone(), rows, logged });
        }
        let warnings = check.warnings.len();
        causes::explain(&of_stage, &compared, check, observer)?;
        if check.warnings.len() == warnings {
            // with several stages a count may be of another
            let counted = check.tokens.iter().any(|tokens| tokens.agrees && !tokens.with_padding);
            let all_agree = check.checkpoints[before..].iter().all(|checkpoint| checkpoint.agrees);
            check.notes.extend(causes::undecided(&of_stage, &compared, counted).filter(|_| all_agree));
        }
        Ok(true)
    }

    /// The largest share that a configuration drops while training.
    fn dropout(&self, folder: &Path) -> f64 {
        let adapter = AdapterFolder::find(folder, self.job.model.base.as_deref(), false).ok().flatten();
        let base = adapter.map_or_else(|| folder.to_owned(), |adapter| adapter.base);
        let files = [base.join("config.json"), folder.join("adapter_config.json")];
        let texts = files.iter().filter_map(|file| foreign_file::read_text(file, MAX_TEXT).ok());
        let configs: Vec<Value> = texts.filter_map(|text| serde_json::from_str(&text).ok()).collect();
        let entries = configs.iter().filter_map(Value::as_object).flatten();
        // these are of other heads than the one that is trained
        let counts = |key: &str| {
            (key.contains("dropout") || key.ends_with("pdrop")) && !key.starts_with("summary") && !key.starts_with("qa")
        };
        entries
            .filter(|(key, _)| counts(key))
            .filter_map(|(_, value)| value.as_f64())
            .filter(|share| (0.0..1.0).contains(share))
            .fold(0.0, f64::max)
    }
}

/// Updates done at a checkpoint, by its folder's name, else by its state.
fn step_of(folder: &Path) -> Option<usize> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let by_name = name.and_then(|name| name.strip_prefix(TRAINERS)).and_then(|step| step.parse().ok());
    by_name.or_else(|| TrainingLog::of_checkpoint(folder).ok().flatten().map(|log| log.step))
}

fn sample(train: &Dataset) -> Dataset {
    let n = train.len();
    let positions: usize = (0..n).map(|m| train.positions(m)).sum();
    let fitting = (POSITIONS as u128 * n as u128 / positions.max(1) as u128) as usize;
    train.sample((n / 4).clamp(EXAMPLES.0, EXAMPLES.1).min(fitting.max(FEWEST)))
}

/// A warning if the log's epochs are of other numbers of examples.
fn count_of_examples(log: &TrainingLog, given: usize) -> Option<String> {
    let steps = log.steps_per_epoch.filter(|_| log.counts_examples)?;
    let batch = log.batch as f64;
    // the last batch of an epoch may be short, or dropped
    let (least, most) = (((steps - 1.01) * batch).max(0.0).ceil(), ((steps + 1.01) * batch).floor());
    (!(least..=most).contains(&(given as f64))).then(|| {
        format!(
            "the log has {steps:.1} updates of {} examples in an epoch, so training had between {least} and {most} of them; {given} are given",
            log.batch
        )
    })
}
