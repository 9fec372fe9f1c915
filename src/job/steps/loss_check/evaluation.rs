//! The evaluation loss of a run: recomputed over the whole evaluation set at each checkpoint, it has to have the digits
//! that the Trainer logged. Neither dropout nor weights that changed while a window was logged blur it.

use std::path::Path;

use super::causes;
use super::compared::{Compared, Conversations, EvaluationBatches, Judged, Logged, OfStage, rounded};
use super::rows::losses;
use super::step_of;
use crate::attribution::Observer;
use crate::data::{Dataset, Kind};
use crate::job::brief::loss_check::{EvaluationLoss, LossCheck};
use crate::job::error::JobError;
use crate::job::option_text::{OptionText, option_text};
use crate::job::plan::Plan;
use crate::job::training::Site;
use crate::model::Limits;
use crate::trajectory::TrainingLog;

/// A share of the loss by which arithmetic of 16 bits may change it.
const HALF_PRECISION: f64 = 0.01;

/// What is compared: a checkpoint, the updates done there, and the loss that was logged.
type Place = (Site, usize, f64);

/// The name that an evaluation set has in the log, if it has one, and its losses by the updates done.
type LoggedSet = (Option<String>, Vec<(usize, f64)>);

fn refuse<T>(problem: OptionText, hint: impl Into<OptionText>) -> Result<T, JobError> {
    Err(JobError::options(problem, hint))
}

impl Plan {
    /// The evaluation set as the stored check names it; none if the job has none.
    pub(super) fn evaluation_key(&self) -> Option<String> {
        let hash = self.evaluation.as_ref()?.content_hash();
        let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(match &self.job.data.eval_name {
            Some(name) => format!("{hash} {name}"),
            None => hash,
        })
    }

    /// Refuses an evaluation set that has no logged loss to be compared with.
    ///
    /// # Errors
    /// [`JobError::Options`]; [`JobError::Trajectory`] if the log cannot be read.
    pub(in crate::job) fn check_evaluation(&self) -> Result<(), JobError> {
        if self.evaluation.is_some() { self.evaluations().map(|_| ()) } else { Ok(()) }
    }

    /// The log, and the checkpoints of the last stage at which it has a loss on the evaluation set; at least one.
    fn evaluations(&self) -> Result<(TrainingLog, Option<String>, Vec<Place>), JobError> {
        let last = self.training.stages.len() - 1;
        let folder = |site: &Site| &self.training.networks.parameters()[site.network].of[0].0;
        let is_state =
            |site: &Site| site.stage == last && self.training.networks.parameters()[site.network].of.len() == 1;
        let sites: Vec<Site> = self.training.curved_networks().into_iter().filter(is_state).collect();
        let Some(at) = sites.last().map(folder) else {
            return refuse(
                "<eval> compares a loss at checkpoints, and means of several checkpoints' weights are none".into(),
                "leave `--eval` out, or `--average parameters`",
            );
        };
        let state = at.join("trainer_state.json");
        let Some(log) = TrainingLog::of_checkpoint(at)? else {
            return refuse(
                option_text!(
                    "{}: is not there, and <eval> compares a loss with the one that a Trainer logged there",
                    state.display()
                ),
                "give a Trainer's output or one of its checkpoints, or leave `--eval` out",
            );
        };
        let (name, logged) = self.logged_set(&log, &state)?;
        let place = |site: &Site| {
            let step = step_of(folder(site))?;
            Some((*site, step, logged.iter().find(|&&(at, _)| at == step)?.1))
        };
        let places: Vec<Place> = sites.iter().filter_map(place).collect();
        if places.is_empty() {
            let mut steps: Vec<usize> = logged.iter().map(|&(step, _)| step).collect();
            steps.dedup();
            let more = if steps.len() > 8 { ", ..." } else { "" };
            let steps: Vec<String> = steps.iter().take(8).map(ToString::to_string).collect();
            return refuse(
                format!(
                    "{}: has an `{}` at steps {}{more}, and no checkpoint was saved there",
                    state.display(),
                    name.as_ref().map_or_else(|| "eval_loss".to_owned(), |name| format!("eval_{name}_loss")),
                    steps.join(", ")
                )
                .into(),
                "leave `--eval` out",
            );
        }
        Ok((log, name, places))
    }

    /// The losses of the evaluation set that the job means, and the name that it has in the log.
    fn logged_set(&self, log: &TrainingLog, state: &Path) -> Result<LoggedSet, JobError> {
        let named = &log.named_evaluations;
        let names = || named.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let of_name = |name: &String| named.get(name).map(|losses| (Some(name.clone()), losses.clone()));
        if let Some(name) = &self.job.data.eval_name {
            let Some(found) = of_name(name) else {
                let problem = option_text!("{}: has no `eval_{}_loss` in its `log_history`", state.display(), name);
                return match (named.is_empty(), log.evaluations.is_empty()) {
                    (false, _) => refuse(problem, option_text!("its evaluation sets are {}", names())),
                    (true, false) => refuse(problem, "its only evaluation set has no name: leave <eval_name> out"),
                    (true, true) => refuse(problem, "the run did not evaluate: leave `--eval` out"),
                };
            };
            return Ok(found);
        }
        match (log.evaluations.is_empty(), named.len()) {
            (false, _) => Ok((None, log.evaluations.clone())),
            (true, 1) => Ok(named.keys().find_map(of_name).expect("there is one")),
            (true, 0) => refuse(
                option_text!(
                    "{}: has no `eval_loss` in its `log_history`, with which <eval> would be compared",
                    state.display()
                ),
                "leave `--eval` out: the run did not evaluate, or under another name than the Trainer's own",
            ),
            (true, _) => refuse(
                option_text!("{}: has losses of several evaluation sets: {}", state.display(), names()),
                "say which one <eval> is: <eval_name = NAME>",
            ),
        }
    }

    /// Adds what is found of the evaluation loss, if there is an evaluation set; `false` if the work was interrupted.
    pub(super) fn compare_evaluation(&self, check: &mut LossCheck, observer: &dyn Observer) -> Result<bool, JobError> {
        let Some(evaluation) = &self.evaluation else { return Ok(true) };
        let (log, set, places) = self.evaluations()?;
        if log.evaluation_batch.is_none() {
            check.notes.push(format!(
                "no `training_args.bin` says in which batches the run evaluated; {} examples, the Trainer's own default, are taken",
                EvaluationBatches::DEFAULT
            ));
        }
        let sample = evaluation.sample(evaluation.len());
        let stage = self.training.stages.len() - 1;
        let conversations = self.job.data.eval.clone().map(|file| Conversations { file, stage });
        let mut of_set = OfStage { plan: self, log, sample, population: evaluation.len(), conversations, end: None };
        of_set.end = self.end_token(&of_set.sample)?;
        // of the losses of every position of a whole file those at one checkpoint are held
        let mut worst: Option<(Compared, Judged)> = None;
        let mut beyond = 0;
        for &(site, step, loss) in &places {
            let name = self.training.networks.parameters()[site.network].name.clone();
            let network = self.training.networks.get(site.network)?;
            let Some(rows) = losses(&network.model, &of_set.sample, of_set.end, observer)? else { return Ok(false) };
            let logged = Logged::Evaluation(loss);
            let Some(judged) = of_set.judge(&of_set.sums(&rows), 1.0, &logged) else {
                check.notes.push(format!(
                    "a batch of {} examples of the evaluation set has no target, so that its loss is not a number: it is not compared",
                    of_set.batches().size
                ));
                return Ok(true);
            };
            check.evaluations.push(EvaluationLoss {
                name: set.clone(),
                checkpoint: name.clone(),
                step,
                loss: rounded(judged.loss),
                examples: rows.len(),
                batch: of_set.batches().size,
                logged: rounded(loss),
                first_labels: judged.first_labels,
                agrees: judged.agrees(),
            });
            beyond += usize::from(!judged.agrees());
            if !judged.agrees() && worst.as_ref().is_none_or(|(_, before)| judged.beyond > before.beyond) {
                worst = Some((Compared { site, name, rows, logged }, judged));
            }
        }
        if let Some((worst, judged)) = worst {
            let found = causes::try_all(&of_set, std::slice::from_ref(&worst), &worst, observer)?;
            let mut text = format!(
                "the evaluation set is probably not what training evaluated on: at {beyond} of {} checkpoints its loss is not the logged one",
                places.len()
            );
            let off = (judged.loss / worst.logged.middle() - 1.0).abs();
            if let Some(argument) = of_set.log.half_precision.filter(|_| off < HALF_PRECISION) {
                text = format!(
                    "at {beyond} of {} checkpoints the loss of the evaluation set is not the logged one, by {:.2} % at {}: training computed in 16 bits (`{argument}`), which may change it so far",
                    places.len(),
                    100.0 * off,
                    worst.name
                );
            }
            text.push_str(&causes::tried(&worst.name, &found));
            check.warnings.push(text);
            check.causes.extend(found);
        }
        Ok(true)
    }

    /// The end token of a data set of the last stage: the one that was chosen or that TRL recorded, else its tokenizer's, if
    /// it and the model name one.
    pub(super) fn end_token(&self, examples: &Dataset) -> Result<Option<u32>, JobError> {
        Ok(match (examples.kind(), self.training.networks.get(self.training.last_network())?.model.limits()) {
            (Kind::Tokens(tokens), Limits::Tokens(limits)) => {
                let last = self.training.stages.len().saturating_sub(1);
                let recorded = self.texts.treatment(last).and_then(|texts| texts.end_token.as_deref());
                let chosen = self.job.data.end_token.as_deref().or(recorded);
                tokens.tokenizer().and_then(|tokenizer| tokenizer.end_token(limits.vocabulary, chosen))
            }
            _ => None,
        })
    }
}
