//! From what was asked to what will be done: files read and checked, every default resolved.

mod adapters;
mod described;
mod examples;
mod notes;
mod opened;
mod recorded;

use std::ops::Deref;

use crate::attribution::Subspace;
use crate::data::{BYTES_OF_TOKEN, ReadReport};
use crate::job::brief::Brief;
use crate::job::brief::answers::Answer;
use crate::job::brief::candidates;
use crate::job::brief::copies::Copies;
use crate::job::brief::example_groups::Groups;
use crate::job::brief::intervals;
use crate::job::brief::layer_sets::LayerSet;
use crate::job::brief::options;
use crate::job::brief::query_weights;
use crate::job::brief::recorded_texts::RecordedTexts;
use crate::job::brief::run_damping;
use crate::job::brief::summary::Summary;
use crate::job::budget::disk;
use crate::job::budget::machine::default_budget;
use crate::job::budget::memory::Memory;
use crate::job::budget::sizes::Sizes;
use crate::job::error::JobError;
use crate::job::folder::record::open_reused;
use crate::job::plan::described::Described;
use crate::job::plan::examples::Examples;
use crate::job::plan::opened::Opened;
use crate::job::request::{Job, SPANNING, Solve};
use crate::job::training::stage::{EXAMPLES_OF_DIRECTION, SAMPLED_EXAMPLES};
use crate::job::training::{Stage, Training};
use crate::model::Limits;

/// A job whose inputs were read and checked and whose every choice is made: what its numbers depend on, which is read
/// through the plan itself, and what this machine gives it.
#[derive(Debug)]
pub struct Plan {
    pub(in crate::job) brief: Brief,
    pub(in crate::job) memory: Memory,
    summary: Summary,
    described: Described,
}

impl Deref for Plan {
    type Target = Brief;

    fn deref(&self) -> &Brief {
        &self.brief
    }
}

impl Plan {
    /// Reads data and what checkpoints say of themselves, checks that they fit, and resolves every default. The
    /// weights of a language model are not read; [`Plan::check_weights`] does that.
    ///
    /// # Errors
    /// [`JobError`], before any long work and before anything is written.
    pub fn resolve(job: Job) -> Result<Self, JobError> {
        let described = Described::of(&job);
        Self::resolve_inputs(job, described.clone()).map_err(|error| described.name(error))
    }

    fn resolve_inputs(job: Job, described: Described) -> Result<Self, JobError> {
        let mut opened = Opened::of(job)?;
        let memory = opened.job.resources.memory.or_else(default_budget);
        let examples = Examples::read(&mut opened, memory)?;
        let (limits, longest, tokens) = (opened.limits, examples.longest(), examples.tokens());
        let (mut brief, read) = Self::brief(opened, examples, memory)?;
        let data = data_bytes(&brief, limits, tokens);
        let memory = Memory::choose(&brief.job, &Sizes::of(&brief, limits, longest, data))?;
        brief.job.resources.batch_tokens = Some(memory.batch);
        let mut said = read.notes;
        said.extend(memory.take_solve_block(&mut brief));
        brief.training.networks.keep(memory.graphs, memory.residence);
        said.extend(brief.training.stages.iter().filter_map(notes::train_size));
        said.extend(notes::tokens(&brief, &memory));
        said.extend(intervals::note(&brief));
        let mut summary = Summary::of(&brief, &read.reports, read.queries.as_ref(), said);
        summary.machine_notes = memory.notes(brief.job.resources.memory);
        let note = disk::check(&brief, &summary)?;
        summary.machine_notes.extend(note);
        let plan = Self { brief, memory, summary, described };
        plan.check_evaluation()?;
        Ok(plan)
    }

    /// What numbers depend on, from what was opened and read.
    fn brief(opened: Opened, mut examples: Examples, memory: Option<u64>) -> Result<(Brief, Read), JobError> {
        let Opened { mut job, readings, checkpoints, last, options, model, heads, files, mut notes, .. } = opened;
        let reused = job.method.factors.as_deref().map(open_reused).transpose()?;
        // the examples of another file were not what the objective averaged over
        if let (None, None, Some(reused), [stage]) =
            (job.data.train_size, &job.source, &reused, examples.stages.as_slice())
            && let Some(n) = reused.train_size(&stage.name)
        {
            job.data.train_size = Some(n);
        }
        let of_stages = examples.of_stages(&job);
        notes.extend(run_damping::take(&mut job, &of_stages)?);
        if let (Some(record), Some(of_stage)) = (&examples.record, of_stages.first()) {
            notes.extend(recorded::compare(&job, record, of_stage)?);
        }
        let stages = std::mem::take(&mut examples.stages);
        let mut training = match &job.source {
            Some(source) => {
                let run = source.trajectory.resolve(readings, &of_stages)?;
                notes.extend(run.notes.iter().cloned());
                notes.extend(run.readings.iter().flat_map(|reading| &reading.warnings).map(ToString::to_string));
                notes.extend(options::form_note(source));
                Training::of_run(&job, source, run, (last, model), stages, options)?
            }
            None => Training::of_checkpoints(&job, checkpoints.list, model, stages, options)?,
        };
        options::check_solve_of_run(&job, &training)?;
        if let Some(before) = &job.model.before {
            training.networks.take_before(before)?;
            notes.extend(training.networks.before().map(|before| {
                format!(
                    "queries are measured at `{}` too; scores are of the last checkpoint's measurements",
                    before.name
                )
            }));
        }
        notes.extend(take_samples(&job, &mut training)?);
        if let (Some(request), Some(file), Some((queries, _))) =
            (&job.output.candidates, &job.data.queries, &examples.queries)
        {
            let of_train = (&training.stages[0].train, files[0].1.as_path());
            let (chosen, found) = candidates::choose(&job, request, of_train, (queries, file))?;
            notes.extend(found);
            training.score_only(chosen);
        }
        if job.source.is_none() {
            job.data.train_size = Some(training.last_stage().n_examples);
        }
        notes.extend(notes::second_moments(&training));
        let layer_sets = LayerSet::all(&job, training.layers(), heads)?;
        let answers = Answer::all(&job, &training, &layer_sets)?;
        let (queries, query_report) = examples.queries.unzip();
        let query_weights = query_weights::of(&job, queries.as_ref())?;
        let groups = job.output.group_by.as_deref().map(|field| Groups::by(&training, field)).transpose()?;
        let (copies, found) = Copies::find(&job, &training, memory)?;
        notes.extend(found);
        let texts = RecordedTexts {
            records: match &training.run {
                Some(run) => run.readings.iter().map(|reading| Some(reading.text_record())).collect(),
                None => vec![examples.record],
            },
            data: of_stages.iter().map(|of_stage| of_stage.texts).collect(),
        };
        let evaluation = examples.evaluation.map(|(dataset, _)| dataset);
        let brief = Brief {
            job,
            training,
            answers,
            layer_sets,
            groups,
            copies,
            queries,
            query_weights,
            evaluation,
            texts,
            reused,
        };
        Ok((brief, Read { reports: examples.reports, queries: query_report, notes }))
    }

    /// Reads all weights once, so that damaged ones are found before work. Every step begins with it, unless it
    /// was called before.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`](crate::model::LoadError), as [`JobError::Load`].
    pub fn check_weights(&self) -> Result<(), JobError> {
        self.training.networks.check_weights().map_err(|error| self.name_checkpoint(error))
    }

    /// The error with the line of a description that lists its checkpoint, if it names one.
    pub(in crate::job) fn name_checkpoint(&self, error: JobError) -> JobError {
        self.described.name(error)
    }

    /// What a person should know of copies among the training examples, where a ranking lists them as one entry.
    pub fn notes_on_copies(&self) -> &[String] {
        self.copies.as_ref().map_or(&[], Copies::notes)
    }

    /// What a person should see before the work begins.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}

/// What became of the rows of a job's files, and what a person should know of the choices that were made for it.
struct Read {
    reports: Vec<ReadReport>,
    queries: Option<ReadReport>,
    notes: Vec<String>,
}

/// Chooses the examples that curvature, joint solves and halves of intervals take, where that is a part of them.
///
/// # Errors
/// More examples asked for than there are.
fn take_samples(job: &Job, training: &mut Training) -> Result<Vec<String>, JobError> {
    let widest = training.layers().iter().map(|layer| layer.outputs.max(layer.columns())).max().unwrap_or(1);
    let directions = Subspace::<f32>::directions(training.layers().len(), SPANNING.len());
    let auto = match job.method.solve {
        Solve::MFac => SAMPLED_EXAMPLES,
        _ => EXAMPLES_OF_DIRECTION * directions,
    };
    let mut notes = vec![];
    for stage in &mut training.stages {
        notes.extend(stage.take_sample(job.method.fit_examples, widest)?);
        notes.extend(stage.take_solve_sample(job.method.solve_examples, auto)?);
        if job.takes_halves() {
            stage.take_halves()?;
        }
    }
    Ok(notes)
}

/// Bytes of all examples in memory, less what lies in files: ids, targets and places of tokens, or the numbers of rows. Examples that are scored
/// alone are kept beside all of them.
fn data_bytes(brief: &Brief, limits: Limits, tokens: u64) -> u64 {
    let all = match limits {
        Limits::Tokens(_) => {
            let in_files: u64 = brief.training.stages.iter().map(|stage| stage.all().bytes_in_files()).sum();
            (BYTES_OF_TOKEN * tokens).saturating_sub(in_files)
        }
        Limits::Rows(rows) => {
            let datasets = brief.training.stages.iter().map(Stage::all).chain(&brief.queries);
            datasets.map(|dataset| (dataset.input_bytes() + 4 * dataset.len() * rows.outputs) as u64).sum()
        }
    };
    all + brief.training.chosen().map_or(0, |chosen| all * chosen.places.len() as u64 / chosen.of as u64)
}
