//! Self-influence under Source: a pass of its own, because every example is a query there.

use std::ops::Range;
use std::path::PathBuf;

use crate::attribution::source::{LegCheckpoint, LegCurvature, WalkCheckpoint, leg_self_influence, self_influence};
use crate::attribution::store::{Key, Metadata, TensorData, check_cover, gaps, list_parts};
use crate::attribution::{Event, Observer, Pass, Sweep};
use crate::curvature::Factors;
use crate::job::brief::answers::VectorSet;
use crate::job::brief::data::InBatches;
use crate::job::budget::limits::PART;
use crate::job::error::JobError;
use crate::job::folder::{output, places, present};
use crate::job::number::Number;
use crate::job::request::SelfInfluenceForm;
use crate::job::steps::context::Run;
use crate::job::training::StageExample;
use crate::job::training::networks::TrackedNetwork;

const SELF_INFLUENCE: &str = "self-influence";

impl Run<'_> {
    pub(in crate::job) fn walks_to_itself(&self) -> bool {
        self.plan.walks_to_itself()
    }

    /// Self-influence of this process's range of every stage, as far as it is missing.
    pub(in crate::job) fn self_influence<T: Number>(&self) -> Result<(), JobError> {
        let file = places::self_influence_file(self.plan);
        if present::has_key(&file, &self.plan.self_influence_key())? {
            self.observer().event(Event::Reused { pass: Pass::SelfInfluence });
            return Ok(());
        }
        let mut curvatures: Option<Vec<LegCurvature<T>>> = None;
        for stage in 0..self.plan.training.stages.len() {
            let key = self.stage_key(stage);
            let range = self.range(stage);
            let missing = gaps(&self.store.parts(SELF_INFLUENCE, &key)?, range.start as u64..range.end as u64);
            if missing.is_empty() {
                continue;
            }
            let curvatures = match &mut curvatures {
                Some(curvatures) => curvatures,
                none => none.insert(self.fitted::<T>()?),
            };
            let pass = Pass::SelfInfluence;
            let left: u64 = missing.iter().map(|gap| gap.end - gap.start).sum();
            self.observer().event(Event::Started { pass, done: range.len() as u64 - left, total: range.len() as u64 });
            for gap in missing {
                for start in (gap.start as usize..gap.end as usize).step_by(PART) {
                    let part = start..(start + PART).min(gap.end as usize);
                    let values = self.values_of(stage, part.clone(), curvatures)?;
                    let shape = [values.len()];
                    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                    let tensor = TensorData::new("self_influence", &shape, &values);
                    let range = part.start as u64..part.end as u64;
                    self.store.write_part(SELF_INFLUENCE, &key, range, &[tensor], &Metadata::new())?;
                    self.observer().event(Event::Advanced { pass, units: part.len() as u64 });
                }
            }
            self.observer().event(Event::Finished { pass });
        }
        Ok(())
    }

    /// `score(m, m)` of examples of one stage.
    fn values_of<T: Number>(
        &self,
        stage: usize,
        range: Range<usize>,
        curvatures: &[LegCurvature<T>],
    ) -> Result<Vec<f64>, JobError> {
        let (plan, training) = (self.plan, &self.plan.training);
        let examples = plan.in_batches(&training.stages[stage].train);
        let identity = Factors::identity(training.layers().len());
        let at_last = VectorSet { answer: 0, network: training.last_network() };
        let walk = plan.walk(at_last, curvatures, &identity)?;
        let quiet = Quiet(self.observer());
        let n = training.stages[stage].n_examples;
        let legs = training.segment_fits().iter().enumerate().filter(|(_, fit)| fit.stage == stage);
        let form = plan.job.source.as_ref().map(|source| source.self_influence).unwrap_or_default();
        let own = training.networks.get(training.last_network())?;
        let mut sums = vec![0.0; range.len()];
        let mut add = |values: Vec<f64>| sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        for (leg, fit) in legs {
            // a leg's networks are in memory together
            let networks = fit.places.iter().map(|place| training.networks.get(place.network));
            let networks = networks.collect::<Result<Vec<_>, _>>()?;
            match form {
                SelfInfluenceForm::Walk => {
                    let checkpoints: Vec<_> = networks
                        .iter()
                        .zip(&fit.places)
                        .map(|(network, place)| WalkCheckpoint {
                            network: &**network,
                            leg,
                            weight: place.weight / n as f64,
                        })
                        .collect();
                    add(self_influence(&sweep(&own, &examples, &range, &quiet), &walk, &checkpoints)?);
                }
                SelfInfluenceForm::Local => {
                    let checkpoints: Vec<_> = networks
                        .iter()
                        .zip(&fit.places)
                        .map(|(network, place)| LegCheckpoint {
                            sweep: sweep(network, &examples, &range, &quiet),
                            weight: place.weight,
                        })
                        .collect();
                    add(leg_self_influence(&walk.legs[leg], &checkpoints, n)?);
                }
            }
        }
        sums.iter_mut().zip(range).for_each(|(sum, m)| *sum *= training.counts(StageExample { stage, example: m }));
        Ok(sums)
    }

    /// Writes `self_influence.safetensors` from parts that cover every stage.
    pub(in crate::job) fn join_self_influence(&self, folders: &[PathBuf]) -> Result<(), JobError> {
        let file = places::self_influence_file(self.plan);
        let whole = self.plan.self_influence_key();
        let keys: Vec<Key> = (0..self.plan.training.stages.len()).map(|stage| self.stage_key(stage)).collect();
        if present::has_key(&file, &whole)? {
            // a process that was killed right after it wrote the file left its parts
            for key in &keys {
                self.store.remove_parts(SELF_INFLUENCE, key)?;
            }
            return Ok(());
        }
        let columns = &self.plan.training.columns;
        let mut values = vec![0.0f32; columns.len()];
        for (stage, key) in keys.iter().enumerate() {
            let mut parts = match folders.is_empty() {
                true => self.store.parts(SELF_INFLUENCE, key)?,
                false => list_parts(folders, SELF_INFLUENCE)?.into_iter().filter(|part| part.key == *key).collect(),
            };
            parts.sort_by_key(|part| part.range.start);
            check_cover(&parts, SELF_INFLUENCE, key, self.plan.training.stages[stage].train.len() as u64)?;
            for part in &parts {
                let artifact = part.open()?;
                for (m, value) in part.range.clone().zip(artifact.f32("self_influence")?) {
                    values[columns.column(StageExample { stage, example: m as usize })] += value;
                }
            }
        }
        output::write_self_influence(self.plan, self.plan.summary(), &whole, &values)?;
        for key in &keys {
            self.store.remove_parts(SELF_INFLUENCE, key)?;
        }
        Ok(())
    }

    fn stage_key(&self, stage: usize) -> Key {
        use crate::attribution::store::KeyBuilder;
        KeyBuilder::new("self-influence of a stage", 1)
            .field("whole", self.plan.self_influence_key())
            .field("stage", stage as u64)
            .finish()
    }
}

fn sweep<'a>(
    network: &'a TrackedNetwork,
    examples: &'a InBatches<'a>,
    range: &Range<usize>,
    observer: &'a dyn Observer,
) -> Sweep<'a, TrackedNetwork> {
    Sweep { network, examples, range: range.clone(), pass: Pass::SelfInfluence, observer }
}

/// Asks whether to stop, and says nothing: the sweeps of one part are no passes of their own.
struct Quiet<'a>(&'a dyn Observer);

impl Observer for Quiet<'_> {
    fn event(&self, _: Event) {}

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}
