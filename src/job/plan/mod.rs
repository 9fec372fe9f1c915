//! From what was asked to what will be done: files read and checked, every default resolved.

mod adapters;
mod described;
mod recorded;

use std::ops::Deref;
use std::path::PathBuf;

use candle_core::DType;

use crate::job::brief::Brief;
use crate::job::brief::candidates;
use crate::job::brief::checkpoints::Checkpoints;
use crate::job::brief::data::{self, Preprocessing};
use crate::job::brief::intervals;
use crate::job::brief::options;
use crate::job::brief::query_weights;
use crate::job::brief::recorded_texts::RecordedTexts;
use crate::job::brief::run_damping;
use crate::job::budget::disk;
use crate::job::budget::machine::default_budget;
use crate::job::budget::memory::Memory;
use crate::job::budget::sizes::Sizes;

use crate::attribution::Subspace;
use crate::curvature::gemm::Products;
use crate::curvature::{Graphs, LayerSpec, Network};
use crate::data::{Kind, ReadReport, Role};
use crate::job::brief::answers::Answer;
use crate::job::brief::copies::Copies;
use crate::job::brief::example_groups::Groups;
use crate::job::brief::layer_sets::{self, LayerSet};
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::record::open_reused;
use crate::job::plan::described::Described;
use crate::job::request::Job;
use crate::job::request::{IntervalsRequest, Precision, SPANNING, Side, TokensRequest};
use crate::job::training::chosen::Chosen;
use crate::job::training::{Stage, Training};
use crate::model::{LayerSelection, Limits, LoadOptions, Model, Residence, Weights};
use crate::trajectory::{ReadError, Reading, StageData, Targets, TextData, TextRecord, TextTreatment};

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

/// The name of the only stage of a job that names none.
const ONLY_STAGE: &str = "training";

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

    fn resolve_inputs(mut job: Job, described: Described) -> Result<Self, JobError> {
        let solve_note = options::take_solve(&mut job);
        options::check(&job)?;
        let mut readings = match &job.source {
            Some(source) => source.trajectory.read()?,
            None => vec![],
        };
        adapters::resolve(&mut job, &mut readings)?;
        let checkpoints = Checkpoints::of(&job)?;
        let last = last_checkpoint(&checkpoints, &readings)?;
        let dtype = match job.model.dtype {
            Precision::F32 | Precision::Bf16 => DType::F32,
            Precision::F64 => DType::F64,
        };
        let products = options::products(&job, Products::run_here)?;
        let selection = LayerSelection::new(&job.model.layers, &job.model.skip_layers)?;
        let device = job.resources.device.open()?;
        let (graphs, residence) = (Graphs::Kept, Residence::BySection);
        let (base, adapter) = (job.model.base.clone(), job.model.adapter);
        let options = LoadOptions { selection, dtype, products, device, graphs, residence, base, adapter };
        let model = Model::load(&last, &options)?;
        compare_checkpoints(&mut readings, model.layers())?;
        let limits = model.limits();
        let heads = layer_sets::heads_of(&job, &model)?;
        let mut notes = job.commits();
        notes.extend(model.notes().iter().cloned());
        notes.extend(solve_note);
        notes.extend(checkpoints.notes.iter().cloned());
        notes.extend(checkpoints.untrained_note(model.layers().iter().map(|layer| layer.name.as_str())));
        if !job.resources.device.is_cpu() {
            notes.push(format!(
                "the network runs on {}; curvature and scores are computed on the CPU",
                job.resources.device
            ));
        }
        let files = stage_files(&job, &readings)?;
        let only_file = files.first().map(|(_, file)| file.clone()).unwrap_or_default();
        if job.output.candidates.is_some() && files.len() > 1 {
            return Err(candidates::of_several_stages());
        }
        let (_, labels) = match files.last() {
            Some((_, file)) => {
                let found = data::inputs_and_labels(&job, &model, file);
                notes.extend(data::label_note(&model, found.1.as_ref(), file));
                found
            }
            None => (limits, None),
        };
        let task = labels.as_ref().and_then(|labels| labels.task);
        job.method.measure = Some(options::resolve_measure(job.method.measure, limits, task)?);
        options::check_solve_of(&job, limits)?;
        options::check_tokens_of(&job, limits, task)?;

        let tokenizer = data::load_tokenizer(&job, &last, &files, limits)?;
        notes.extend(tokenizer.iter().flat_map(|tokenizer| data::tokenizer_notes(&model, &last, tokenizer)));
        let preprocessing = Preprocessing { tokenizer: tokenizer.as_ref(), model: &last, kind: model.kind() };
        let record = recorded::of(&job, &last, &mut notes);
        let memory = job.resources.memory.or_else(default_budget);
        let mut reports = Vec::with_capacity(files.len());
        let mut stages = Vec::with_capacity(files.len());
        let count = files.len();
        for (index, (name, file)) in files.into_iter().enumerate() {
            // an earlier stage may have had another head
            let (limits, labels) = match readings.get(index).and_then(|reading| reading.checkpoints.last()) {
                Some(checkpoint) if index + 1 < count => {
                    data::inputs_and_labels(&job, &Model::load(&checkpoint.folder, &options)?, &file)
                }
                _ => (limits, labels.clone()),
            };
            let treatment = treatment(readings.get(index), record.as_ref());
            let (of_train, note) = data::as_trained(&job, treatment, Role::Train, &file);
            notes.extend(note);
            let (train, report) =
                data::read(&of_train, &file, Role::Train, (limits, labels.as_ref()), preprocessing, memory)?;
            notes.extend(data::notes("training examples", &report));
            stages.push(Stage::new(name, train));
            reports.push(report);
        }
        let queries = match &job.data.queries {
            Some(file) => {
                let treatment = treatment(readings.last(), record.as_ref());
                let (of_queries, note) = data::as_trained(&job, treatment, Role::Queries, file);
                notes.extend(note);
                Some(data::read(&of_queries, file, Role::Queries, (limits, labels.as_ref()), preprocessing, memory)?)
            }
            None => None,
        };
        let of_queries = queries.iter().flat_map(|(_, report)| data::notes("queries", report));
        // what becomes of images is said once
        let of_queries: Vec<_> = of_queries.filter(|note| !notes.contains(note)).collect();
        notes.extend(of_queries);
        let evaluation = match &job.data.eval {
            Some(file) => {
                let Limits::Tokens(_) = limits else {
                    return Err(JobError::Options {
                        problem: "<eval> compares a loss that a Trainer logged, and this model reads rows of numbers"
                            .into(),
                        hint: Some("leave `--eval` out".into()),
                    });
                };
                // what became of the texts is said of the training examples
                let treatment = treatment(readings.last(), record.as_ref());
                let (of_eval, _) = data::as_trained(&job, treatment, Role::Train, file);
                let labels = (limits, labels.as_ref());
                let (evaluation, report) = data::read(&of_eval, file, Role::Train, labels, preprocessing, memory)?;
                notes.extend(data::notes("evaluation examples", &report));
                Some((evaluation, report))
            }
            None => None,
        };

        let reused = match &job.method.factors {
            Some(folder) => Some(open_reused(folder)?),
            None => None,
        };
        // the examples of another file were not what the objective averaged over
        if let (None, None, Some(reused), [stage]) = (job.data.train_size, &job.source, &reused, stages.as_slice())
            && let Some(n) = reused.train_size(&stage.name)
        {
            job.data.train_size = Some(n);
        }
        let of_stages: Vec<StageData> = stages.iter().zip(&reports).map(|(s, r)| stage_data(&job, s, r)).collect();
        notes.extend(run_damping::take(&mut job, &of_stages)?);
        if let (Some(record), Some(of_stage)) = (&record, of_stages.first()) {
            notes.extend(recorded::compare(&job, record, of_stage)?);
        }
        let text_data = of_stages.iter().map(|of_stage| of_stage.texts).collect();
        let run = match &job.source {
            None => None,
            Some(source) => Some(source.trajectory.resolve(readings, &of_stages)?),
        };
        if let Some(run) = &run {
            notes.extend(run.notes.iter().cloned());
            notes.extend(run.readings.iter().flat_map(|reading| &reading.warnings).map(ToString::to_string));
            notes.extend(job.source.as_ref().and_then(options::form_note));
        }
        let training = match (run, &job.source) {
            (Some(run), Some(source)) => Training::of_run(&job, source, run, (last, model), stages, options)?,
            _ => Training::of_checkpoints(&job, checkpoints.list, model, stages, options)?,
        };
        let mut training = training;
        let widest = training.layers().iter().map(|layer| layer.outputs.max(layer.columns())).max().unwrap_or(1);
        let directions = Subspace::<f32>::directions(training.layers().len(), SPANNING.len());
        for stage in &mut training.stages {
            notes.extend(stage.take_sample(job.method.fit_examples, widest)?);
            notes.extend(stage.take_solve_sample(job.method.solve_examples, directions)?);
            if job.output.intervals == IntervalsRequest::All {
                stage.take_halves()?;
            }
        }
        if let (Some(request), Some(file), Some((queries, _))) = (&job.output.candidates, &job.data.queries, &queries) {
            let train = (&training.stages[0].train, only_file.as_path());
            let (chosen, found) = candidates::choose(&job, request, train, (queries, file))?;
            notes.extend(found);
            training.score_only(chosen);
        }
        let longest = reports.iter().chain(queries.iter().map(|q| &q.1)).map(|r| r.longest).max().unwrap_or(1);
        let all_reports = reports.iter().chain(queries.iter().chain(&evaluation).map(|of| &of.1));
        // ids, targets and places of tokens; the numbers of rows
        let data = match limits {
            Limits::Tokens(_) => all_reports.map(|report| 12 * report.tokens as u64).sum::<u64>(),
            Limits::Rows(rows) => {
                let datasets = training.stages.iter().map(Stage::all).chain(queries.iter().map(|q| &q.0));
                datasets.map(|dataset| (dataset.input_bytes() + 4 * dataset.len() * rows.outputs) as u64).sum()
            }
        };
        // examples that are scored are kept beside all of them
        let of_chosen = |chosen: &Chosen| data * chosen.places.len() as u64 / chosen.of as u64;
        let data = data + training.chosen().map_or(0, of_chosen);
        if job.source.is_none() {
            job.data.train_size = Some(training.last_stage().n_examples);
        }
        let layer_sets = LayerSet::all(&job, training.layers(), heads)?;
        let answers = Answer::all(&job, &training, &layer_sets)?;
        let (queries, query_report) = queries.unzip();
        let query_weights = query_weights::of(&job, queries.as_ref())?;
        let groups = job.output.group_by.as_deref().map(|field| Groups::by(&training, field)).transpose()?;
        let (copies, found) = Copies::find(&job, &training, memory)?;
        notes.extend(found);
        let evaluation = evaluation.map(|(examples, _)| examples);
        let records = match &training.run {
            Some(run) => run.readings.iter().map(|reading| Some(reading.text_record())).collect(),
            None => vec![record],
        };
        let texts = RecordedTexts { records, data: text_data };
        let mut brief = Brief {
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
        let memory = Memory::choose(&brief.job, &Sizes::of(&brief, limits, longest, data))?;
        brief.job.resources.batch_tokens = Some(memory.batch);
        notes.extend(memory.take_solve_block(&mut brief));
        brief.training.networks.keep(memory.graphs, memory.residence);
        for stage in &brief.training.stages {
            if stage.n_examples != stage.all().len() {
                notes.push(format!(
                    "scores are for a training set of {} examples, of which {} are {}",
                    stage.n_examples,
                    stage.all().len(),
                    if stage.chosen.is_none() { "scored" } else { "in the file" }
                ));
            }
        }
        notes.extend(tokens_note(&brief, &memory));
        notes.extend(intervals::note(&brief));
        let mut summary = Summary::of(&brief, &reports, query_report.as_ref(), notes);
        summary.machine_notes = memory.notes(brief.job.resources.memory);
        let note = disk::check(&brief, &summary)?;
        summary.machine_notes.extend(note);
        let plan = Self { brief, memory, summary, described };
        plan.check_evaluation()?;
        Ok(plan)
    }

    /// Reads all weights once, for the sake of errors. Every step begins with it, unless it was called before.
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

/// What became of the texts of a stage: of a run that is read whole, or beside a checkpoint alone.
fn treatment<'a>(reading: Option<&'a Reading>, record: Option<&'a TextRecord>) -> Option<&'a TextTreatment> {
    reading.and_then(|reading| reading.texts.as_ref()).or_else(|| record?.texts.as_ref())
}

/// What dividing scores over tokens adds to the work, and how large it is.
fn tokens_note(brief: &Brief, memory: &Memory) -> Option<String> {
    let request = brief.job.output.tokens;
    let what = match request {
        TokensRequest::None => return None,
        TokensRequest::Ranked => "their tokens",
        TokensRequest::Query => "the target tokens of the queries",
        TokensRequest::Matrix => "their tokens and the target tokens of the queries",
        TokensRequest::All => {
            let (shares, passes) = (brief.token_shares(), brief.score_passes(&[0]).len());
            let passes = if passes == 1 { String::new() } else { format!(", in each of {passes} passes") };
            return Some(format!(
                "scores of all examples are divided over their tokens: each is differentiated once more{passes}, and there \
                 are about {shares} shares, which take {:.1} MiB on disk and in memory",
                shares as f64 * 4.0 / f64::from(1 << 20)
            ));
        }
    };
    let (listed, rows, passes) = (brief.listed(), brief.query_rows(), brief.score_passes(&[0]).len());
    let passes = if passes == 1 { String::new() } else { format!(", in each of {passes} passes") };
    let mut note = format!(
        "scores of ranked examples are divided over {what}: each ranked example is differentiated once more{passes}, at \
         most {listed} for each of {rows} queries"
    );
    if request.divides_queries() {
        let (targets, shares) = (brief.query_targets(), brief.token_shares());
        let blocks = targets.div_ceil(memory.token_block.max(1));
        note.push_str(&format!(
            "; each of {targets} target tokens is a query of its own, and there are at most about {shares} shares"
        ));
        if blocks > 1 {
            note.push_str(&format!(
                "; memory has room for the vectors of {} tokens, so that this is done {blocks} times",
                memory.token_block
            ));
        }
    }
    Some(note)
}

/// What each stage did not train, as far as its checkpoints show it, and layers that it trained at other rates.
fn compare_checkpoints(readings: &mut [Reading], layers: &[LayerSpec]) -> Result<(), JobError> {
    let mut before: Option<PathBuf> = None;
    if let Some(reading) = readings.first().filter(|_| !readings.iter().any(|reading| reading.trains_any(layers))) {
        reading.check_layer_names(layers)?;
        return Err(ReadError::NothingTracked { source_path: reading.source.clone() }.into());
    }
    for reading in readings {
        for files in reading.checkpoints.iter().filter(|_| crate::presence::is_file(&reading.source)) {
            Weights::open_trained(&files.folder)?;
        }
        reading.check_layer_names(layers)?;
        reading.find_frozen_layers(before.as_deref(), layers)?;
        reading.find_layer_rates(layers)?;
        before = reading.checkpoints.last().map(|files| files.folder.clone());
    }
    Ok(())
}

/// The checkpoint at which queries take their gradients.
fn last_checkpoint(checkpoints: &Checkpoints, readings: &[Reading]) -> Result<PathBuf, JobError> {
    let of_run = readings.last().and_then(|reading| reading.checkpoints.last()).map(|files| &files.folder);
    checkpoints.last().or(of_run).cloned().ok_or_else(|| JobError::Options {
        problem: match readings.last() {
            Some(reading) => format!("{}: the training run has no checkpoint", reading.source.display()).into(),
            None => "the job names no checkpoint".into(),
        },
        hint: None,
    })
}

/// The file of training examples of every stage, in the order of training.
fn stage_files(job: &Job, readings: &[Reading]) -> Result<Vec<(String, PathBuf)>, JobError> {
    let (train, by_name) = (&job.data.train, &job.data.stages);
    let options = |problem: String, hint: String| Err(JobError::options(problem, hint));
    match readings {
        [] | [_] if by_name.is_empty() => {
            let name = readings.first().map_or(ONLY_STAGE, |reading| &reading.name);
            Ok(vec![(name.to_owned(), train.clone())])
        }
        [] => Err(JobError::options("stages of data are for a training run", "give <train>")),
        _ if !train.as_os_str().is_empty() && !by_name.is_empty() => options(
            "training examples are given as one file and by stage".into(),
            "leave one of the two out; a run with several stages needs a file for each".into(),
        ),
        _ if !train.as_os_str().is_empty() => {
            let names: Vec<_> = readings.iter().map(|reading| reading.name.as_str()).collect();
            options(
                format!("the training run has {} stages, and one file of training examples is given", names.len()),
                format!("give a file for each stage, by name: {}", names.join(", ")),
            )
        }
        _ => {
            let names: Vec<&str> = readings.iter().map(|reading| reading.name.as_str()).collect();
            if let Some(unknown) = by_name.keys().find(|name| !names.contains(&name.as_str())) {
                return options(
                    format!("the training run has no stage `{unknown}`"),
                    format!("its stages are {}", names.join(", ")),
                );
            }
            if let Some(name) = names.iter().find(|name| !by_name.contains_key(**name)) {
                return options(
                    format!("the stage `{name}` of the training run has no file of training examples"),
                    format!("name one: `stages.{name}` in a job file, `--stage-train {name}=FILE` as a flag"),
                );
            }
            Ok(names.iter().map(|name| ((*name).to_owned(), by_name[*name].clone())).collect())
        }
    }
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
        longest: report.longest,
        cut: report.cut,
        max_length: job.data.max_length,
        keep_end: report.kept_end,
        pack: job.data.pack,
        pack_rows: job.data.pack_rows,
        pack_keeps_rest: job.data.pack_keeps_rest,
        documents: report.packed.map_or(report.examples, |packed| packed.documents),
        unpacked: report.packed.map_or(0, |packed| packed.dropped_tokens),
        adds_end: matches!(job.data.add_eos, Side::Train | Side::Both | Side::TrainInput | Side::BothInput),
        ends_are_input: matches!(job.data.add_eos, Side::TrainInput | Side::BothInput),
        conversations: report.chat.as_ref().is_some_and(|chat| chat.conversations == report.examples),
        names_template: job.data.chat_template.is_some(),
        is_whole: examples == stage.train.len(),
    };
    StageData {
        examples: Some(examples),
        targets_per_example: Some(targets).filter(|_| is_text),
        targets: Targets::of(counts_of_targets(stage)).filter(|_| is_text),
        texts: Some(texts).filter(|_| is_text),
    }
}
