//! The examples of a job, read as its options and the training run's own record say.

use crate::data::{Dataset, Kind, ReadReport, Role};
use crate::job::brief::data::{self, Preprocessing};
use crate::job::error::JobError;
use crate::job::plan::opened::Opened;
use crate::job::plan::recorded;
use crate::job::request::{Job, Side};
use crate::job::training::Stage;
use crate::model::{Limits, Model};
use crate::trajectory::{Reading, StageData, Targets, TextData, TextRecord, TextTreatment};

/// The examples of every file that a job names, with what became of each file's rows.
pub(super) struct Examples {
    /// Training examples, stage by stage in the order of training.
    pub stages: Vec<Stage>,
    /// What became of the rows of each stage's file.
    pub reports: Vec<ReadReport>,
    /// Queries, where the job has a file of them.
    pub queries: Option<(Dataset, ReadReport)>,
    /// Examples whose loss the trainer logged, where the job has a file of them.
    pub evaluation: Option<(Dataset, ReadReport)>,
    /// What the trainer recorded of its texts beside the last checkpoint of influence functions.
    pub record: Option<TextRecord>,
}

impl Examples {
    /// Reads all files, in at most `memory` bytes for each whose number of rows is known. What a person should know of
    /// them joins `opened.notes`.
    ///
    /// # Errors
    /// A file that cannot be read, or rows that are not what the model takes.
    pub(super) fn read(opened: &mut Opened, memory: Option<u64>) -> Result<Self, JobError> {
        let Opened { job, readings, last, options, model, limits, labels, files, notes, .. } = opened;
        let tokenizer = data::load_tokenizer(job, last, files, *limits)?;
        notes.extend(tokenizer.iter().flat_map(|tokenizer| data::tokenizer_notes(model, last, tokenizer)));
        let preprocessing = Preprocessing { tokenizer: tokenizer.as_ref(), model: last, kind: model.kind() };
        let record = recorded::of(job, last, notes);
        let (mut stages, mut reports) = (Vec::with_capacity(files.len()), Vec::with_capacity(files.len()));
        for (index, (name, file)) in files.iter().enumerate() {
            // an earlier stage may have had another head
            let (limits, labels) = match readings.get(index).and_then(|reading| reading.checkpoints.last()) {
                Some(checkpoint) if index + 1 < files.len() => {
                    data::inputs_and_labels(job, &Model::load(&checkpoint.folder, options)?, file)
                }
                _ => (*limits, labels.clone()),
            };
            let treatment = treatment(readings.get(index), record.as_ref());
            let (of_train, note) = data::as_trained(job, treatment, Role::Train, file);
            notes.extend(note);
            let (train, report) =
                data::read(&of_train, file, Role::Train, (limits, labels.as_ref()), preprocessing, memory)?;
            notes.extend(data::notes("training examples", &report));
            notes.extend(data::weight_note(&of_train, file));
            stages.push(Stage::new(name.clone(), train));
            reports.push(report);
        }
        let (limits, labels) = (*limits, labels.as_ref());
        let treatment = treatment(readings.last(), record.as_ref());
        let mut queries = None;
        if let Some(file) = &job.data.queries {
            let (of_queries, note) = data::as_trained(job, treatment, Role::Queries, file);
            notes.extend(note);
            let read = data::read(&of_queries, file, Role::Queries, (limits, labels), preprocessing, memory)?;
            // what becomes of images is said once
            let found: Vec<_> =
                data::notes("queries", &read.1).into_iter().filter(|note| !notes.contains(note)).collect();
            notes.extend(found);
            queries = Some(read);
        }
        let mut evaluation = None;
        if let Some(file) = &job.data.eval {
            let Limits::Tokens(_) = limits else {
                return Err(JobError::options(
                    "<eval> compares a loss that a Trainer logged, and this model reads rows of numbers",
                    "leave `--eval` out",
                ));
            };
            // what became of the texts is said of the training examples
            let (of_eval, _) = data::as_trained(job, treatment, Role::Train, file);
            let read = data::read(&of_eval, file, Role::Train, (limits, labels), preprocessing, memory)?;
            notes.extend(data::notes("evaluation examples", &read.1));
            evaluation = Some(read);
        }
        Ok(Self { stages, reports, queries, evaluation, record })
    }

    /// What the examples of each stage say where the run's files do not.
    pub(super) fn of_stages(&self, job: &Job) -> Vec<StageData> {
        self.stages.iter().zip(&self.reports).map(|(stage, report)| stage_data(job, stage, report)).collect()
    }

    /// The longest training example or query, in positions.
    pub(super) fn longest(&self) -> usize {
        let reports = self.reports.iter().chain(self.queries.iter().map(|(_, report)| report));
        reports.map(|report| report.longest).max().unwrap_or(1)
    }

    /// Tokens of all files.
    pub(super) fn tokens(&self) -> u64 {
        let others = self.queries.iter().chain(&self.evaluation).map(|(_, report)| report);
        self.reports.iter().chain(others).map(|report| report.tokens as u64).sum()
    }
}

/// What became of the texts of a stage: of a run that is read whole, or beside a checkpoint alone.
fn treatment<'a>(reading: Option<&'a Reading>, record: Option<&'a TextRecord>) -> Option<&'a TextTreatment> {
    reading.and_then(|reading| reading.texts.as_ref()).or_else(|| record?.texts.as_ref())
}

/// How many targets examples have, of at most a few thousand at equal distances.
fn counts_of_targets(stage: &Stage) -> Vec<usize> {
    const MOST: usize = 4096;
    let Kind::Tokens(tokens) = stage.train.kind() else { return vec![] };
    let n = stage.train.len();
    (0..n).step_by(n.div_ceil(MOST).max(1)).map(|example| tokens.targets(example)).collect()
}

/// What a stage's data say where the run's files do not.
fn stage_data(job: &Job, stage: &Stage, report: &ReadReport) -> StageData {
    let examples = job.data.train_size.unwrap_or(stage.train.len());
    let targets = report.targets as f64 / report.examples.max(1) as f64;
    let is_labelled = matches!(stage.train.kind(), Kind::Tokens(tokens) if tokens.is_labelled());
    let is_text = report.longest > 1 && !is_labelled;
    let texts = TextData {
        examples: report.examples,
        tokens: report.tokens,
        targets: report.targets,
        padding: report.padding,
        longest: report.longest,
        cut: report.cut,
        max_length: job.data.max_length,
        keep_end: report.kept_end,
        divided: report.divided,
        pack: job.data.pack,
        pack_rows: job.data.pack_rows,
        pack_processes: job.data.pack_processes,
        pack_keeps_rest: job.data.pack_keeps_rest,
        documents: report.packed.map_or(report.examples, |packed| packed.documents),
        unpacked: report.packed.map_or(0, |packed| packed.dropped_tokens),
        without_target: report.without_target,
        cut_away: report.cut_away,
        adds_begin: job.data.add_bos.has_train(),
        adds_end: job.data.add_eos.has_train(),
        ends_are_input: matches!(job.data.add_eos, Side::TrainInput | Side::BothInput),
        by_collator: report.responses.is_some(),
        conversations: report.chat.as_ref().is_some_and(|chat| chat.conversations == report.examples),
        names_template: job.data.chat_template.is_some(),
        by_prefixes: report.chat.as_ref().is_some_and(|chat| chat.by_prefixes > 0),
        replaced_in_training: report.chat.as_ref().and_then(|chat| chat.replaced_in_training),
        is_whole: examples == stage.train.len(),
    };
    StageData {
        examples: Some(examples),
        targets_per_example: Some(targets).filter(|_| is_text),
        targets: Targets::of(counts_of_targets(stage)).filter(|_| is_text),
        texts: Some(texts).filter(|_| is_text),
    }
}
