//! What every step works with: the plan, the open run folder, this process's share of the examples, and a clock.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::attribution::store::{Artifact, Key, Shard, Store};
use crate::attribution::{Event, Observer, Pass, Sweep};
use crate::curvature::Network;
use crate::data::Batch;
use crate::job::brief::data::InBatches;
use crate::job::error::JobError;
use crate::job::folder::report::StageReport;
use crate::job::plan::Plan;
use crate::job::training::Site;
use crate::job::training::networks::TrackedNetwork;

/// An open run folder, and the clock of its stages.
pub(in crate::job) struct Run<'a> {
    pub plan: &'a Plan,
    pub store: Store,
    pub shard: Option<Shard>,
    pub(super) clock: Clock<'a>,
}

impl Run<'_> {
    pub(in crate::job) fn observer(&self) -> &dyn Observer {
        &self.clock
    }

    /// A network for the next pass.
    pub(in crate::job) fn network(&self, index: usize) -> Result<Arc<TrackedNetwork>, JobError> {
        let networks = &self.plan.training.networks;
        let count = networks.parameters().len() as u64;
        if count > 1 {
            self.observer().event(Event::Checkpoint { number: index as u64 + 1, count });
        }
        networks.get(index)
    }

    /// An artifact of this run folder, or of the one whose curvature is used again.
    pub(in crate::job) fn find(&self, kind: &'static str, key: &Key) -> Result<Option<Artifact>, JobError> {
        if let Some(found) = self.store.find(kind, key)? {
            return Ok(Some(found));
        }
        match &self.plan.reused {
            Some(reused) => Ok(reused.store.find(kind, key)?),
            None => Ok(None),
        }
    }

    /// The training examples of a stage that this process scores.
    pub(super) fn range(&self, stage: usize) -> Range<usize> {
        self.part_of(self.plan.training.stages[stage].train.len())
    }

    /// The examples that a curvature is taken on and that this process adds up.
    pub(super) fn fit_range(&self, site: Site) -> Range<usize> {
        self.part_of(self.plan.training.stages[site.stage].data_of(site.sample).len())
    }

    /// This process's part of `total` examples.
    fn part_of(&self, total: usize) -> Range<usize> {
        match self.shard {
            Some(shard) => {
                let range = shard.range(total as u64);
                range.start as usize..range.end as usize
            }
            None => 0..total,
        }
    }

    pub(in crate::job) fn sweep<'s, N: Network<Batch = Batch>>(
        &'s self,
        network: &'s N,
        examples: &'s InBatches<'s>,
        range: Range<usize>,
        pass: Pass,
    ) -> Sweep<'s, N> {
        Sweep { network, examples, range, pass, observer: self.observer() }
    }
}

/// Passes events on and keeps the time of each pass.
pub(super) struct Clock<'a> {
    pub observer: &'a dyn Observer,
    pub stages: Mutex<Vec<(Pass, Instant, StageReport)>>,
}

impl Observer for Clock<'_> {
    fn event(&self, event: Event) {
        let mut stages = self.stages.lock().expect("no code panics while it holds the lock");
        let stage = |pass: Pass, reused| StageReport {
            stage: pass.name().into(),
            seconds: 0.0,
            units: 0,
            unit: pass.unit().into(),
            reused,
        };
        match event {
            Event::Started { pass, .. } => stages.push((pass, Instant::now(), stage(pass, false))),
            Event::Advanced { pass, units } => {
                if let Some((_, started, stage)) = stages.iter_mut().rev().find(|(p, ..)| *p == pass) {
                    stage.units += units;
                    stage.seconds = started.elapsed().as_secs_f64();
                }
            }
            Event::Reused { pass } => stages.push((pass, Instant::now(), stage(pass, true))),
            Event::Finished { pass } => {
                if let Some((_, started, stage)) = stages.iter_mut().rev().find(|(p, ..)| *p == pass) {
                    stage.seconds = started.elapsed().as_secs_f64();
                }
            }
            _ => {}
        }
        drop(stages);
        self.observer.event(event);
    }

    fn interrupted(&self) -> bool {
        self.observer.interrupted()
    }
}
