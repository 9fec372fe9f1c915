//! Time: what is counted, divided by what was measured.

use std::time::Duration;

use serde::Serialize;

use super::calibration::Calibration;
use super::count::{Cost, StageCost, WorkKind};
use crate::curvature::decomposed_alone;

/// Estimated seconds of a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Seconds {
    /// Seconds of each stage of [`Cost::stages`], as the stage's own clock in `run.json` has them.
    pub stages: Vec<f64>,
    /// Seconds between stages, in which finished files are on their way to the disk.
    pub files: f64,
}

impl Seconds {
    /// Seconds of the whole job, from the moment on when its inputs are read.
    pub fn total(&self) -> f64 {
        self.stages.iter().sum::<f64>() + self.files
    }
}

impl Cost {
    /// How long each stage will take on the machine that was measured.
    pub fn seconds(&self, machine: &Calibration) -> Seconds {
        let stages = self.stages.iter().map(|stage| stage.seconds(machine)).collect();
        let left: u64 = self.stages.iter().map(|stage| stage.disk).sum();
        Seconds { stages, files: left as f64 / machine.sync }
    }
}

impl StageCost {
    fn seconds(&self, machine: &Calibration) -> f64 {
        let work = self.work.iter().map(|work| match work.kind {
            WorkKind::Eigendecompositions => self.decompositions(machine),
            kind => machine.rate(kind).map_or(0.0, |rate| work.flop as f64 / rate),
        });
        let moved = self.vector_bytes as f64 / machine.memory
            + self.summed as f64 / machine.sums
            + self.written as f64 / machine.copy;
        let seconds = work.sum::<f64>() + moved;
        // not at the last chunk: the finished file takes its place
        let saves = (seconds / SAVED_EVERY.as_secs_f64()).floor().min(self.chunks.saturating_sub(1) as f64);
        seconds + saves * self.saved as f64 / machine.sync
    }

    /// Matrices are decomposed side by side, one on each thread; some large ones take all threads, one after another.
    fn decompositions(&self, machine: &Calibration) -> f64 {
        let sizes = || self.decomposed.iter().rev().flat_map(|&(n, count)| (0..count).map(move |_| n));
        let alone = decomposed_alone(sizes(), self.alone_from, machine.threads);
        let seconds = |n| machine.decomposition(n);
        let longest = sizes().nth(alone).map_or(0.0, seconds);
        let side_by_side: f64 = sizes().skip(alone).map(seconds).sum();
        let alone = sizes().take(alone).map(seconds).sum::<f64>() / machine.threaded_speedup();
        alone + (side_by_side / machine.threads as f64).max(longest)
    }
}

/// How often sums are saved.
const SAVED_EVERY: Duration = crate::attribution::SAVE_INTERVAL;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{EigenRate, Work};
    use super::*;

    fn machine() -> Calibration {
        Calibration {
            threads: 2,
            rates: BTreeMap::from([(WorkKind::Passes, 100.0), (WorkKind::Squares, 50.0)]),
            eigen: vec![EigenRate { n: 10, seconds: 1.0 }, EigenRate { n: 100, seconds: 100.0 }],
            memory: 1000.0,
            sums: 10.0,
            copy: 20.0,
            sync: 5.0,
            seconds: 0.0,
        }
    }

    #[test]
    fn a_stage_is_the_sum_of_its_parts() {
        let work = vec![Work { kind: WorkKind::Passes, flop: 300 }, Work { kind: WorkKind::Squares, flop: 100 }];
        let stage =
            StageCost { work, vector_bytes: 500, summed: 20, written: 10, disk: 15, chunks: 1, ..StageCost::default() };
        // 3 + 2 of arithmetic, then 0.5, 2 and 0.5
        assert!((stage.seconds(&machine()) - 8.0).abs() < 1e-12);
        // 22 s are two times ten; the saved sums take 2 s each
        let long = StageCost {
            work: vec![Work { kind: WorkKind::Passes, flop: 2200 }],
            saved: 10,
            chunks: 9,
            ..StageCost::default()
        };
        assert!((long.seconds(&machine()) - 26.0).abs() < 1e-12);
    }

    #[test]
    fn decompositions_fill_the_threads() {
        let flop = 1;
        let stage = |decomposed| StageCost {
            work: vec![Work { kind: WorkKind::Eigendecompositions, flop }],
            decomposed,
            alone_from: usize::MAX,
            ..StageCost::default()
        };
        // four of 1 s on two threads; one of 100 s that the others fit beside
        assert!((stage(vec![(10, 4)]).seconds(&machine()) - 2.0).abs() < 1e-12);
        assert!((stage(vec![(10, 4), (100, 1)]).seconds(&machine()) - 100.0).abs() < 1e-12);
        // of three large ones two fit side by side; without memory for that none do
        let large = stage(vec![(3000, 3)]);
        let one = machine().decomposition(3000);
        let alone = one / machine().threaded_speedup();
        assert!((large.seconds(&machine()) / (alone + one) - 1.0).abs() < 1e-12);
        let short = StageCost { alone_from: 2500, ..large };
        assert!((short.seconds(&machine()) / (3.0 * alone) - 1.0).abs() < 1e-12);
        // beyond what was measured time grows with the cube
        assert!((machine().decomposition(200) - 800.0).abs() < 1e-9);
        assert!((machine().decomposition(5) - 0.125).abs() < 1e-9);
    }
}
