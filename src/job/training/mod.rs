//! What training was, as a job sees it: networks, stages with their data, and the curvature that is fitted where.
//!
//! Influence functions know one network, one stage and one fit; averaged over checkpoints, a network and a fit for each.
//! Source knows a network for each checkpoint (or for each segment, FAST-Source), and fits one curvature for each
//! segment; influence at the final checkpoint, or averaged, may stand beside it and is one more fit, or one for each
//! checkpoint, of which every pass is shared.

pub(in crate::job) mod chosen;
mod columns;
mod fit;
pub(in crate::job) mod moments;
pub(in crate::job) mod networks;
mod second_moments;
pub(in crate::job) mod stage;

use std::path::PathBuf;

pub(in crate::job) use self::columns::{Columns, StageExample};
pub(in crate::job) use self::fit::{Fit, Place, Site};
pub(in crate::job) use self::stage::{Sample, Stage};
use crate::attribution::source::SourceLeg;
use crate::attribution::trajectory::{Segment, SegmentRule, TrainingStage, segments};
use crate::curvature::{CurvatureKind, LayerSpec};
use crate::data::Kind;
use crate::job::error::JobError;
use crate::job::request::Job;
use crate::job::request::{AdamRequest, Average, Beside, Curvature, IntervalsRequest, SourceRequest};
use crate::job::training::chosen::Chosen;
use crate::job::training::moments::Moments;
use crate::job::training::networks::Networks;
use crate::job::training::second_moments::SecondMoments;
use crate::model::{LoadOptions, Model};
use crate::trajectory::request::WeightsRequest;
use crate::trajectory::{ReadError, TrainingRun};

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
        let folders: Vec<PathBuf> = checkpoints.iter().map(|(folder, _)| folder.clone()).collect();
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
        let fit = |network: usize| {
            let at = Site { network, stage: 0, sample: Sample::Whole };
            Self::influence_fit(job, networks.parameters()[network].name.clone(), at)
        };
        let mut fits: Vec<Fit> = (0..weights.len()).map(fit).collect();
        if job.method.curvature == Curvature::Adam {
            let moments = SecondMoments::of_checkpoints(job, &folders, networks.layers())?;
            fits.iter_mut().zip(moments).for_each(|(fit, moments)| fit.second_moments = Some(moments));
        }
        if job.takes_halves() {
            fits.iter_mut().for_each(|fit| fit.in_halves = true);
            for half in [0, 1] {
                let of_half = |fit: Fit| Fit {
                    name: format!("{}, half {}", fit.name, half + 1),
                    sample: Sample::Half(half),
                    ..fit
                };
                fits.extend((0..weights.len()).map(fit).map(of_half));
            }
        }
        if job.output.intervals == IntervalsRequest::Labels {
            let redrawn = |fit: Fit| Fit {
                name: format!("{}, labels of seed {}", fit.name, job.method.next_seed()),
                sample: Sample::Redrawn,
                ..fit
            };
            fits.extend((0..weights.len()).map(fit).map(redrawn));
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
    fn influence_fit(job: &Job, name: String, Site { network, stage, sample }: Site) -> Fit {
        Fit {
            name,
            kind: job.method.curvature.into(),
            stage,
            sample,
            in_halves: false,
            places: vec![Place { network, weight: 1.0 }],
            frozen: vec![],
            moments: None,
            second_moments: None,
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
                in_halves: false,
                places,
                frozen: vec![],
                moments: None,
                second_moments: None,
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
        let at_last_stage = |network| Site { network, stage: last_stage, sample: Sample::Whole };
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
                fits.push(Self::influence_fit(job, name, at_last_stage(network)));
            }
        } else if source.with.contains(&Beside::Influence) {
            fits.push(Self::influence_fit(job, FINAL.into(), at_last_stage(last_network)));
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

    /// What the scores of a stage's example are multiplied with: what it counted in the means over batches, where that is
    /// asked for, else 1.
    pub(in crate::job) fn counts(&self, StageExample { stage, example }: StageExample) -> f64 {
        let of_run = self.run.as_ref().and_then(|run| run.example_weights.get(stage).copied().flatten());
        match (of_run, self.stages[stage].train.kind()) {
            (Some(weights), Kind::Tokens(tokens)) => weights.weight(tokens.targets(example)),
            _ => 1.0,
        }
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

    /// Every network that a curvature is taken at, with its stage, each once, in the order of training.
    pub(in crate::job) fn curved_networks(&self) -> Vec<Site> {
        let mut sites: Vec<Site> = vec![];
        for site in Self::sites(&self.fits).into_iter().map(|site| Site { sample: Sample::Whole, ..site }) {
            if !sites.contains(&site) {
                sites.push(site);
            }
        }
        sites
    }

    /// The curvature that is taken where another is, on other examples of its stage.
    ///
    /// # Panics
    /// If none is: answers ask for those alone that a job has.
    pub(in crate::job) fn fit_on(&self, whole: usize, sample: Sample) -> usize {
        let of = &self.fits[whole];
        let is_it = |fit: &Fit| fit.sample == sample && fit.stage == of.stage && fit.places == of.places;
        if of.sample == sample {
            whole
        } else {
            self.fits.iter().position(is_it).expect("the job has such a curvature")
        }
    }

    /// Where passes over the training data make the sums of `fits`, each place once, in the order of training.
    pub(in crate::job) fn sites<'f>(fits: impl IntoIterator<Item = &'f Fit>) -> Vec<Site> {
        let mut sites: Vec<Site> = vec![];
        for fit in fits {
            for place in &fit.places {
                for &sample in fit.samples() {
                    let site = Site { network: place.network, stage: fit.stage, sample };
                    if !sites.contains(&site) {
                        sites.push(site);
                    }
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
