//! What a job will cost, as a person reads it.

use std::fmt::Write;

use ascribe::job::{Calibration, Cost, Job, Seconds, WorkKind};

use super::columns::Columns;
use crate::terminal::inline;
use crate::words::{bytes, count, counted, duration, operations};

/// The stages in a table, the contractions, the files, and what holds for the whole job; `inputs` are the seconds that
/// reading them took.
pub(crate) fn cost(cost: &Cost, job: &Job, inputs: f64, timed: Option<(&Seconds, &Calibration)>) -> String {
    let mut text = format!("\n{}", stages(cost, timed.map(|(seconds, _)| seconds)));
    if !cost.contractions.is_empty() {
        let _ = write!(text, "\n{}", contractions(cost));
    }
    let _ = write!(text, "\n{}", files(cost, job));
    if let Some((seconds, machine)) = timed {
        let _ = write!(text, "\n{}", time(seconds, machine, inputs));
    }
    text
}

fn stages(cost: &Cost, seconds: Option<&Seconds>) -> String {
    let mut columns = Columns::titled(["stage", "of", "over", "work", "read", "memory", "disk", "time"]);
    for (index, stage) in cost.stages.iter().enumerate() {
        columns.row([
            stage.stage.clone(),
            stage.of.clone(),
            counted(stage.units, &stage.unit),
            operations(stage.flop()),
            if stage.vector_bytes > 0 { bytes(stage.vector_bytes) } else { String::new() },
            bytes(stage.memory),
            bytes(stage.disk),
            seconds.map_or_else(String::new, |seconds| duration(seconds.stages[index])),
        ]);
    }
    columns.text("")
}

fn contractions(cost: &Cost) -> String {
    let mut columns = Columns::titled(["layers", "shape", "lambda", "scores"]);
    for found in &cost.contractions {
        columns.row([
            count(found.layers),
            format!("{} x {}", found.outputs, found.columns),
            found.lambda.unwrap_or("-").to_owned(),
            found.scores.unwrap_or("-").to_owned(),
        ]);
    }
    columns.text("")
}

fn files(cost: &Cost, job: &Job) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {}", inline(value));
    };
    let bound = |bound: Option<u64>| bound.map_or_else(String::new, |bound| format!(" of {} allowed", bytes(bound)));
    line("memory", &format!("about {}{}", bytes(cost.memory), bound(job.resources.memory)));
    let disk = &cost.disk;
    let parts: Vec<String> = disk.files.iter().map(|file| format!("{} {}", bytes(file.bytes), file.what)).collect();
    line("disk", &format!("{} in {}: {}", bytes(disk.left), job.output.path.display(), parts.join(", ")));
    let free = disk.free.map_or_else(String::new, |free| format!("; {} are free there", bytes(free)));
    line("", &format!("at most {} while it runs{}{free}", bytes(disk.peak), bound(job.resources.disk)));
    text
}

fn time(seconds: &Seconds, machine: &Calibration, inputs: f64) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {}", inline(value));
    };
    let total = inputs + seconds.total();
    let around =
        format!("{} of them before the first stage, {} between stages", duration(inputs), duration(seconds.files));
    line("time", &format!("about {}, {around}", duration(total)));
    let rates = machine.rates.iter().map(|(kind, rate)| format!("{:.0} in {}", rate / 1e9, words(*kind)));
    line(
        "machine",
        &format!(
            "{}, {} GFLOP/s; measured in {}",
            counted(machine.threads as u64, "threads"),
            rates.collect::<Vec<_>>().join(", "),
            duration(machine.seconds)
        ),
    );
    text
}

fn words(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Passes => "the model",
        WorkKind::Covariances => "covariances",
        WorkKind::Squares => "squared gradients",
        WorkKind::Vectors => "query vectors",
        WorkKind::Truncations => "truncations",
        WorkKind::Scores => "scores",
        _ => "eigendecompositions",
    }
}
