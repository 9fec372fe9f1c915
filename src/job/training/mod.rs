//! What training was, as a job sees it: networks, stages with their data, and the curvature that is fitted where.
//!
//! Influence functions know one network, one stage and one fit; averaged over checkpoints, a network and a fit for each.
//! Source knows a network for each checkpoint (or for each segment, FAST-Source), and fits one curvature for each
//! segment; influence at the final checkpoint, or averaged, may stand beside it and is one more fit, or one for each
//! checkpoint, of which every pass is shared.

pub(in crate::job) mod chosen;
pub(in crate::job) mod moments;
pub(in crate::job) mod networks;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::attribution::source::{Conditioner, SourceLeg};
use crate::attribution::store::{LongArray, LongTexts};
use crate::attribution::trajectory::{Segment, SegmentRule, TrainingStage, segments};
use crate::curvature::{CurvatureKind, LayerSpec, SharedInputs};
use crate::data::Dataset;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::request::Job;
use crate::job::request::{
    AdamRequest, Average, Beside, FitExamples, IntervalsRequest, POSITIONS_PER_ROW, SourceRequest,
};
use crate::job::training::chosen::Chosen;
use crate::job::training::moments::Moments;
use crate::job::training::networks::Networks;
use crate::model::{LoadOptions, Model};
use crate::trajectory::request::WeightsRequest;
use crate::trajectory::{ReadError, TrainingRun};

/// Examples for each direction of a subspace that [`FitExamples::Auto`] takes for joint systems: far more than their
/// forms need to be known well, so that a pass over millions of examples is spared.
const EXAMPLES_OF_DIRECTION: usize = 200;

/// Which of a stage's examples a curvature is taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::job) enum Sample {
    /// All that the stage takes its curvature on.
    #[default]
    Whole,
    /// Every other one of them: from the first, or from the second.
    Half(usize),
}

/// A part of training with its own data.
#[derive(Debug)]
pub(in crate::job) struct Stage {
    /// Its name.
    pub name: String,
    /// N of `docs/method.md`, Score: examples that its objective averaged over.
    pub n_examples: usize,
    /// Those that are scored.
    pub train: Dataset,
    /// All of its examples, where only some are scored, and which these are.
    pub chosen: Option<(Dataset, Chosen)>,
    /// The part of them that the curvature is taken on; none if that is all.
    pub sample: Option<Dataset>,
    /// Every other example that the curvature is taken on, from the first and from the second; none unless halves of
    /// the data have curvatures of their own.
    pub halves: Option<[Dataset; 2]>,
    /// The part of them that joint solves multiply with the Gauss-Newton matrix of; none if that is all.
    pub solve_sample: Option<Dataset>,
}

impl Stage {
    /// A stage whose curvature is taken on all of its examples.
    pub(in crate::job) fn new(name: String, train: Dataset) -> Self {
        Self { name, n_examples: train.len(), train, chosen: None, sample: None, halves: None, solve_sample: None }
    }

    /// All examples of its file, scored or not.
    pub(in crate::job) fn all(&self) -> &Dataset {
        self.chosen.as_ref().map_or(&self.train, |(all, _)| all)
    }

    /// Which of all examples the `m`th that is scored is.
    pub(in crate::job) fn place(&self, m: usize) -> usize {
        self.chosen.as_ref().map_or(m, |(_, chosen)| chosen.places[m])
    }

    /// Scores these examples alone. Curvatures and joint systems stay on what they were taken on.
    fn score_only(&mut self, chosen: Chosen) {
        let scored = self.train.at(&chosen.places);
        self.chosen = Some((std::mem::replace(&mut self.train, scored), chosen));
    }

    /// The examples that the curvature is taken on.
    pub(in crate::job) fn fit_data(&self) -> &Dataset {
        self.sample.as_ref().unwrap_or_else(|| self.all())
    }

    /// The examples that a curvature is taken on.
    pub(in crate::job) fn data_of(&self, sample: Sample) -> &Dataset {
        match (sample, &self.halves) {
            (Sample::Half(k), Some(halves)) => &halves[k],
            _ => self.fit_data(),
        }
    }

    /// Divides the examples that the curvature is taken on into two halves.
    ///
    /// # Errors
    /// If there is one example alone.
    pub(in crate::job) fn take_halves(&mut self) -> Result<(), JobError> {
        let data = self.fit_data();
        if data.len() < 2 {
            return Err(JobError::Options {
                problem: "<intervals = all> takes curvatures on halves of the training examples, and there is one"
                    .into(),
                hint: Some("write <intervals = damping>, or leave it out".into()),
            });
        }
        self.halves = Some([0, 1].map(|first| data.every_other(first)));
        Ok(())
    }

    /// The examples whose Gauss-Newton matrix joint solves multiply with.
    pub(in crate::job) fn solve_data(&self) -> &Dataset {
        self.solve_sample.as_ref().unwrap_or_else(|| self.all())
    }

    /// Takes the matrix of joint systems on as many examples as are asked for, the same for all queries, draws and
    /// products, and returns what a person should know of it.
    ///
    /// # Errors
    /// If more are asked for than there are.
    pub(in crate::job) fn take_solve_sample(
        &mut self,
        request: FitExamples,
        directions: usize,
    ) -> Result<Option<String>, JobError> {
        let n = self.train.len();
        let count = match request {
            FitExamples::Auto => n.min(EXAMPLES_OF_DIRECTION * directions),
            FitExamples::All | FitExamples::Count(_) | FitExamples::Share(_) => request.count(n, 0, 0),
        };
        if count > n {
            return Err(JobError::Options {
                problem: format!("joint systems are to be taken on {count} examples, and there are {n}").into(),
                hint: Some(format!("`--solve-examples` of at most {n}, or leave it out to take all").into()),
            });
        }
        if count == n {
            return Ok(None);
        }
        self.solve_sample = Some(self.train.sample(count));
        Ok(Some(format!("joint systems are taken on {count} of {n} examples")))
    }

    /// Takes the curvature on as many examples as are asked for, `widest` being the rows of the widest covariance, and
    /// returns what a person should know of it.
    ///
    /// # Errors
    /// If more are asked for than there are.
    pub(in crate::job) fn take_sample(
        &mut self,
        request: FitExamples,
        widest: usize,
    ) -> Result<Option<String>, JobError> {
        let n = self.train.len();
        let positions = |data: &Dataset| (0..data.len()).map(|m| data.positions(m)).sum::<usize>();
        let all = positions(&self.train);
        let count = request.count(n, all, widest);
        if count > n {
            return Err(JobError::Options {
                problem: format!("the curvature is to be taken on {count} examples, and there are {n}").into(),
                hint: Some(format!("`--fit-examples` of at most {n}, or leave it out to take all").into()),
            });
        }
        let why = match request {
            FitExamples::Auto => format!(
                " (`--fit-examples auto`: {POSITIONS_PER_ROW} positions for each of the {widest} rows of the widest covariance)"
            ),
            _ => String::new(),
        };
        if count == n {
            return Ok(
                (request == FitExamples::Auto).then(|| format!("the curvature is taken on all {n} examples{why}"))
            );
        }
        let sample = self.train.sample(count);
        let share = 100.0 * positions(&sample) as f64 / all.max(1) as f64;
        self.sample = Some(sample);
        Ok(Some(format!("the curvature is taken on {count} of {n} examples, {share:.3} % of the positions{why}")))
    }
}

/// Where a part of a curvature is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::job) struct Place {
    /// The network.
    pub network: usize,
    /// `w_a`; they sum to 1 in a fit.
    pub weight: f64,
}

/// Curvature that is fitted as one: at one checkpoint, or at those of a segment.
#[derive(Debug, Clone)]
pub(in crate::job) struct Fit {
    /// For people.
    pub name: String,
    /// How it is approximated.
    pub kind: CurvatureKind,
    /// The stage whose data it is taken on.
    pub stage: usize,
    /// Which of them.
    pub sample: Sample,
    /// The networks that it is taken at.
    pub places: Vec<Place>,
    /// Layers without a curvature here: the stage did not train them.
    pub frozen: Vec<usize>,
    /// Second moments of an optimizer that has them.
    pub moments: Option<Moments>,
}

impl Fit {
    /// Whether a pass there serves it.
    pub(in crate::job) fn is_taken_at(&self, site: Site) -> bool {
        let is_here = self.stage == site.stage && self.sample == site.sample;
        is_here && self.places.iter().any(|place| place.network == site.network)
    }

    /// Whether layers that read the same input have its eigenvectors in common: each conditioner turns a shared
    /// covariance into another one.
    pub(in crate::job) fn shared_inputs(&self) -> SharedInputs {
        if self.moments.is_some() { SharedInputs::Own } else { SharedInputs::Shared }
    }

    /// A conditioner for every layer that is not frozen; empty unless the optimizer is preconditioned.
    pub(in crate::job) fn conditioners<T: Number>(
        &self,
        layers: &[LayerSpec],
    ) -> Result<Vec<Option<Conditioner<T>>>, JobError> {
        self.moments.as_ref().map_or_else(|| Ok(vec![]), |moments| moments.conditioners(layers, &self.frozen))
    }
}

/// What training was.
#[derive(Debug)]
pub(in crate::job) struct Training {
    /// Its networks; the last is the one that queries are asked of.
    pub networks: Networks,
    /// Its stages, first trained first.
    pub stages: Vec<Stage>,
    /// Its curvatures: those of Source's segments in their order, then those of influence functions, the last network's
    /// last.
    pub fits: Vec<Fit>,
    /// The checkpoints that influence is averaged over, in the order of training; empty if none are.
    pub averaged: Vec<Averaged>,
    /// The training run, for Source.
    pub run: Option<TrainingRun>,
    /// Which column of the scores each example is.
    pub columns: Columns,
}

/// A checkpoint's part in averaged influence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::job) struct Averaged {
    /// Its curvature's place in [`Training::fits`].
    pub fit: usize,
    /// Its network.
    pub network: usize,
    /// `w_a`, what its scores count in the mean; the weights of all checkpoints sum to 1.
    pub weight: f64,
}

impl Training {
    /// Influence at one checkpoint, or averaged over several: one stage, and a curvature at each checkpoint. `model` is
    /// the last of the checkpoints, which come with their weights.
    pub(in crate::job) fn of_checkpoints(
        job: &Job,
        checkpoints: Vec<(PathBuf, f64)>,
        model: Model,
        mut stages: Vec<Stage>,
        options: LoadOptions,
    ) -> Result<Self, JobError> {
        for stage in &mut stages {
            stage.n_examples = job.data.train_size.unwrap_or(stage.train.len());
        }
        let weights: Vec<f64> = checkpoints.iter().map(|(_, weight)| *weight).collect();
        let of = checkpoints.into_iter().map(|(folder, _)| (folder_name(&folder), vec![(folder, 1.0)]));
        let mut networks = Networks::open(of.collect(), model, options)?;
        if CurvatureKind::from(job.method.curvature).pair_weights().couple_sides() {
            networks.separate_inputs();
        }
        for (network, absent) in networks.absent().iter().enumerate() {
            if let Some(&l) = absent.first() {
                return Err(JobError::Options {
                    problem: format!(
                        "{}: has no layer `{}` of the shape that the last checkpoint has",
                        networks.parameters()[network].of[0].0.display(),
                        networks.layers()[l].name
                    )
                    .into(),
                    hint: Some("give checkpoints of one model, first trained first".into()),
                });
            }
        }
        let fit = |network: usize| Self::influence_fit(job, networks.parameters()[network].name.clone(), network, 0);
        let mut fits: Vec<Fit> = (0..weights.len()).map(fit).collect();
        if job.output.intervals == IntervalsRequest::All {
            for half in [0, 1] {
                let of_half = |fit: Fit| Fit {
                    name: format!("{}, half {}", fit.name, half + 1),
                    sample: Sample::Half(half),
                    ..fit
                };
                fits.extend((0..weights.len()).map(fit).map(of_half));
            }
        }
        let averaged: Vec<Averaged> = match weights.as_slice() {
            [_] => vec![],
            weights => {
                let of = |(network, &weight): (usize, &f64)| Averaged { fit: network, network, weight };
                weights.iter().enumerate().map(of).collect()
            }
        };
        Ok(Self { networks, columns: Columns::of(&stages), stages, fits, averaged, run: None })
    }

    /// The curvature of influence functions at one network, on a stage's data.
    fn influence_fit(job: &Job, name: String, network: usize, stage: usize) -> Fit {
        Fit {
            name,
            kind: job.method.curvature.into(),
            stage,
            sample: Sample::Whole,
            places: vec![Place { network, weight: 1.0 }],
            frozen: vec![],
            moments: None,
        }
    }

    /// Whether scores come from one checkpoint alone, so that nothing is added to what a pass leaves.
    pub(in crate::job) fn is_one_checkpoint(&self) -> bool {
        self.run.is_none() && self.averaged.is_empty()
    }

    /// A training run.
    pub(in crate::job) fn of_run(
        job: &Job,
        source: &SourceRequest,
        run: TrainingRun,
        (last_folder, model): (PathBuf, Model),
        mut stages: Vec<Stage>,
        options: LoadOptions,
    ) -> Result<Self, JobError> {
        for (stage, numbers) in stages.iter_mut().zip(run.trajectory.stages()) {
            stage.n_examples = numbers.n_examples();
        }
        let mut of: Vec<(String, Vec<(PathBuf, f64)>)> = vec![];
        let mut fits = Vec::with_capacity(run.segments.len() + 1);
        for (index, (stage, segment)) in run.segments.iter().enumerate() {
            let folder = |checkpoint: usize| run.readings[*stage].checkpoints[checkpoint].folder.clone();
            let id = |checkpoint: usize| {
                let id = &run.readings[*stage].checkpoints[checkpoint].id;
                if stages.len() > 1 { format!("{}/{id}", stages[*stage].name) } else { id.clone() }
            };
            let first = of.len();
            let places = match source.average {
                Average::Factors => {
                    of.extend(segment.checkpoints.iter().map(|at| (id(at.index), vec![(folder(at.index), 1.0)])));
                    let weights = segment.checkpoints.iter().enumerate();
                    weights.map(|(k, at)| Place { network: first + k, weight: at.weight }).collect()
                }
                Average::Parameters => {
                    let names: Vec<_> = segment.checkpoints.iter().map(|at| id(at.index)).collect();
                    let folders = segment.checkpoints.iter().map(|at| (folder(at.index), at.weight)).collect();
                    of.push((
                        if names.len() == 1 { names.concat() } else { format!("mean of {}", names.join(", ")) },
                        folders,
                    ));
                    vec![Place { network: first, weight: 1.0 }]
                }
            };
            fits.push(Fit {
                name: format!("segment {}", index + 1),
                kind: CurvatureKind::Ekfac,
                stage: *stage,
                sample: Sample::Whole,
                places,
                frozen: vec![],
                moments: None,
            });
        }
        let is_last = |(_, folders): &(String, Vec<(PathBuf, f64)>)| *folders == [(last_folder.clone(), 1.0)];
        if !of.last().is_some_and(is_last) {
            of.push((folder_name(&last_folder), vec![(last_folder.clone(), 1.0)]));
        }
        let networks = Networks::open(of, model, options)?;
        let layers = networks.layers().to_vec();
        for (fit, (stage, segment)) in fits.iter_mut().zip(&run.segments) {
            let numbers = &run.trajectory.stages()[*stage];
            let trained = |l: &usize| numbers.trained_layers().contains(&layers[*l].name);
            fit.frozen = (0..layers.len()).filter(|l| !trained(l)).collect();
            for place in &fit.places {
                check_layers(&networks, place.network, fit, numbers)?;
            }
            if numbers.optimizer().has_second_moments() {
                let reading = &run.readings[*stage];
                fit.moments = Some(Moments::read(
                    reading,
                    segment,
                    numbers.optimizer(),
                    source.adam,
                    &layers,
                    (&fit.name, &fit.frozen),
                )?);
            }
        }
        if source.adam != AdamRequest::default() && fits.iter().all(|fit| fit.moments.is_none()) {
            return Err(JobError::Options {
                problem: "no stage of the training run was trained with Adam".into(),
                hint: Some("leave <adam> out".into()),
            });
        }
        let (last_network, last_stage) = (networks.parameters().len() - 1, stages.len() - 1);
        let mut averaged = vec![];
        if source.with.contains(&Beside::InfluenceMean) {
            let of_last = fits.iter().filter(|fit| fit.stage == last_stage);
            let places: Vec<usize> = of_last.flat_map(|fit| fit.places.iter().map(|place| place.network)).collect();
            let weights = mean_weights(&run, &source.trajectory.checkpoint_weights, places.len())?;
            for (network, weight) in places.into_iter().zip(weights) {
                averaged.push(Averaged { fit: fits.len(), network, weight });
                let name = match network == last_network {
                    true => FINAL.to_owned(),
                    false => networks.parameters()[network].name.clone(),
                };
                fits.push(Self::influence_fit(job, name, network, last_stage));
            }
        } else if source.with.contains(&Beside::Influence) {
            fits.push(Self::influence_fit(job, FINAL.into(), last_network, last_stage));
        }
        Ok(Self { networks, columns: Columns::of(&stages), stages, fits, averaged, run: Some(run) })
    }

    /// Scores some examples of the only stage, and no others.
    pub(in crate::job) fn score_only(&mut self, chosen: Chosen) {
        self.stages[0].score_only(chosen);
        self.columns = Columns::of(&self.stages);
    }

    /// Which of the only stage's examples are scored; none if all are.
    pub(in crate::job) fn chosen(&self) -> Option<&Chosen> {
        self.stages[0].chosen.as_ref().map(|(_, chosen)| chosen)
    }

    /// The tracked layers: those of the last checkpoint.
    pub(in crate::job) fn layers(&self) -> &[LayerSpec] {
        self.networks.layers()
    }

    /// The network that queries are asked of.
    pub(in crate::job) fn last_network(&self) -> usize {
        self.networks.parameters().len() - 1
    }

    /// The stage that ended with the last network.
    pub(in crate::job) fn last_stage(&self) -> &Stage {
        self.stages.last().expect("training has a stage")
    }

    /// Source's segments and their stages.
    pub(in crate::job) fn segments(&self) -> &[(usize, Segment)] {
        self.run.as_ref().map_or(&[], |run| &run.segments)
    }

    /// Numbers of a stage; none without a training run.
    pub(in crate::job) fn stage_numbers(&self, stage: usize) -> Option<&TrainingStage> {
        self.run.as_ref().map(|run| &run.trajectory.stages()[stage])
    }

    /// What multiplies the rates of each layer in a stage, by layer; empty if nothing does.
    pub(in crate::job) fn layer_rates(&self, stage: usize) -> Vec<f64> {
        let Some(numbers) = self.stage_numbers(stage) else { return vec![] };
        let rates: Vec<f64> = self.layers().iter().map(|layer| numbers.layer_rate(&layer.name)).collect();
        if rates.iter().all(|&rate| rate == 1.0) { vec![] } else { rates }
    }

    /// The curvatures of Source's segments, in their order, which come first; none without a training run.
    pub(in crate::job) fn segment_fits(&self) -> &[Fit] {
        &self.fits[..self.segments().len()]
    }

    /// Curvatures that are not taken on halves of the data.
    pub(in crate::job) fn whole_fits(&self) -> impl Iterator<Item = &Fit> {
        self.fits.iter().filter(|fit| fit.sample == Sample::Whole)
    }

    /// The curvature that is taken where another is, on other examples of its stage.
    ///
    /// # Panics
    /// If none is: answers ask for those alone that a job has.
    pub(in crate::job) fn fit_on(&self, whole: usize, sample: Sample) -> usize {
        let of = &self.fits[whole];
        let is_it = |fit: &Fit| fit.sample == sample && fit.stage == of.stage && fit.places == of.places;
        if of.sample == sample { whole } else { self.fits.iter().position(is_it).expect("the job has halves") }
    }

    /// Every network with the stage that it is taken in, as `fits` need them, each once, in the order of training.
    pub(in crate::job) fn sites<'f>(fits: impl IntoIterator<Item = &'f Fit>) -> Vec<Site> {
        let mut sites: Vec<Site> = vec![];
        for fit in fits {
            for place in &fit.places {
                let site = Site { network: place.network, stage: fit.stage, sample: fit.sample };
                if !sites.contains(&site) {
                    sites.push(site);
                }
            }
        }
        sites
    }

    /// The legs of Source with their curvatures, which are the first of `curvatures`.
    pub(in crate::job) fn source_legs<'a, T>(
        &'a self,
        curvatures: &'a [crate::attribution::source::LegCurvature<T>],
    ) -> Vec<SourceLeg<'a, T>> {
        match &self.run {
            Some(run) => SourceLeg::of_trajectory(&run.trajectory, &run.segments, curvatures),
            None => vec![],
        }
    }
}

/// What people call the curvature of influence functions beside Source.
const FINAL: &str = "final checkpoint";

/// What each checkpoint of the last stage of a run counts in averaged influence.
fn mean_weights(run: &TrainingRun, weights: &WeightsRequest, count: usize) -> Result<Vec<f64>, JobError> {
    let last = run.trajectory.stages().last().expect("a trajectory has a stage");
    let whole = segments(last, &SegmentRule::EqualCheckpoints(1), (*weights).into());
    let whole = whole.map_err(|problem| ReadError::Numbers {
        source_path: run.readings.last().map(|reading| reading.source.clone()).unwrap_or_default(),
        problem,
    })?;
    let weights: Vec<f64> = whole.iter().flat_map(|segment| &segment.checkpoints).map(|at| at.weight).collect();
    debug_assert_eq!(weights.len(), count, "a stage's only segment has all of its checkpoints");
    Ok(weights)
}

/// A network, and the stage whose data it is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct Site {
    /// The network.
    pub network: usize,
    /// The stage.
    pub stage: usize,
    /// Which of the stage's examples, where a curvature is taken; all of them where they are scored.
    pub sample: Sample,
}

/// `Err` if a stage trained a layer that its checkpoint does not have.
fn check_layers(networks: &Networks, network: usize, fit: &Fit, stage: &TrainingStage) -> Result<(), JobError> {
    let absent = &networks.absent()[network];
    match absent.iter().find(|l| !fit.frozen.contains(l)) {
        None => Ok(()),
        Some(&l) => Err(JobError::Options {
            problem: format!(
                "{}: has no layer `{}` of the shape that the last checkpoint has",
                networks.parameters()[network].of[0].0.display(),
                networks.layers()[l].name
            ).into(),
            hint: Some(format!(
                "if the layer was made after the stage `{}`, list the layers that this stage trained as its `trained_layers` in a trajectory file; else the checkpoints are of different models",
                stage.name()
            ).into()),
        }),
    }
}

pub(in crate::job) fn folder_name(folder: &std::path::Path) -> String {
    let name = folder.file_name().or_else(|| folder.components().next_back().map(|part| part.as_os_str()));
    name.map_or_else(|| "checkpoint".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Columns of the scores: every example once, whichever stages have it.
///
/// Two examples of different stages are one if they have the same id and the same contents.
#[derive(Debug)]
pub(in crate::job) struct Columns {
    /// For each stage, the column of each of its examples.
    of_stage: Vec<LongArray<usize>>,
    /// For each column the first stage that has it, and its place there.
    first: LongArray<[usize; 2]>,
    ids: LongTexts,
}

impl Columns {
    fn of(stages: &[Stage]) -> Self {
        let columns = Self::found(stages);
        columns.of_stage.iter().for_each(LongArray::forget);
        columns.first.forget();
        columns.ids.forget();
        columns
    }

    fn found(stages: &[Stage]) -> Self {
        let mut columns = Self { of_stage: vec![], first: LongArray::new(), ids: LongTexts::new() };
        if let [stage] = stages {
            // within a stage every example is itself: ids are unique there
            columns.of_stage.push((0..stage.train.len()).collect());
            columns.first.extend((0..stage.train.len()).map(|m| [0, m]));
            (0..stage.train.len()).for_each(|m| columns.ids.push(stage.train.id(m)));
            return columns;
        }
        let mut known: BTreeMap<(&str, u64), usize> = BTreeMap::new();
        for (s, stage) in stages.iter().enumerate() {
            let column = |m: usize| {
                let fresh = columns.first.len();
                let column = *known.entry((stage.train.id(m), stage.train.key(m))).or_insert(fresh);
                if column == fresh {
                    columns.first.push([s, m]);
                }
                column
            };
            columns.of_stage.push((0..stage.train.len()).map(column).collect());
        }
        let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
        for &[s, m] in &*columns.first {
            *uses.entry(stages[s].train.id(m)).or_default() += 1;
        }
        for &[s, m] in &*columns.first {
            let id = stages[s].train.id(m);
            // line numbers of two files, say
            match uses[id] {
                1 => columns.ids.push(id),
                _ => columns.ids.push(&format!("{}/{id}", stages[s].name)),
            }
        }
        columns
    }

    /// How many.
    pub(in crate::job) fn len(&self) -> usize {
        self.first.len()
    }

    /// The column of an example of a stage.
    pub(in crate::job) fn column(&self, stage: usize, example: usize) -> usize {
        self.of_stage[stage].passed(example..example + 1);
        self.of_stage[stage][example]
    }

    /// The id of a column.
    pub(in crate::job) fn id(&self, column: usize) -> &str {
        self.ids.get(column)
    }

    /// A stage and a place there for each column.
    pub(in crate::job) fn examples(&self) -> &[[usize; 2]] {
        &self.first
    }

    /// A stage and a place there where the column's example stands.
    pub(in crate::job) fn example(&self, column: usize) -> (usize, usize) {
        self.first.passed(column..column + 1);
        self.first[column].into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::data::{self, DataOptions, ModelLimits, Role};

    fn stage(name: &str, lines: &[&str]) -> Stage {
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().expect("a file");
        file.write_all(lines.join("\n").as_bytes()).expect("writable");
        let limits = ModelLimits { vocabulary: 9, max_positions: Some(9), decoder: None, masked: None };
        let (train, _) =
            data::read_tokens(file.path(), Role::Train, None, limits, DataOptions::default()).expect("examples");
        Stage::new(name.into(), train)
    }

    #[test]
    fn an_example_of_two_stages_is_one_column() {
        let first = stage("a", &[r#"{"id":"x","input_ids":[1,2]}"#, r#"{"id":"y","input_ids":[3,4]}"#]);
        let second = stage("b", &[r#"{"id":"y","input_ids":[3,4]}"#, r#"{"id":"x","input_ids":[5,6]}"#]);
        let columns = Columns::of(&[first, second]);
        assert_eq!(columns.len(), 3);
        assert_eq!([columns.column(0, 1), columns.column(1, 0), columns.column(1, 1)], [1, 1, 2]);
        // the same id, another example
        assert_eq!([columns.id(0), columns.id(1), columns.id(2)], ["a/x", "y", "b/x"]);
        assert_eq!(columns.example(2), (1, 1));
    }
}
