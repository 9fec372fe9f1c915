//! A training run as it was understood, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use ascribe::attribution::trajectory::{LossScale, Segment};
use ascribe::job::{LossCheck, Saturation};
use ascribe::trajectory::{CheckpointFiles, Outline, Reading, TrainingLog, TrajectoryRequest, Unknown};
use serde::Serialize;

use super::columns::Columns;
use super::plan::losses;
use crate::terminal::inline;
use crate::words::count;

/// Checkpoints of a segment that are listed in a table.
const LISTED: usize = 4;

/// Everything that is known of a run. Keys are stable: `docs/cli.md` lists them.
#[derive(Debug, Serialize)]
pub(crate) struct TrajectoryReport {
    path: PathBuf,
    stages: Vec<StageReport>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    saturation: Vec<Saturation>,
    /// The loss of the training examples beside the log, where they were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_check: Option<LossCheck>,
}

#[derive(Debug, Serialize)]
struct StageReport {
    name: String,
    source: PathBuf,
    facts: Vec<FactReport>,
    optimizer: String,
    training_examples: Option<usize>,
    loss_scale: Option<f64>,
    unknown: Vec<&'static str>,
    checkpoints: Vec<CheckpointReport>,
    segments: Vec<SegmentReport>,
    warnings: Vec<String>,
    /// A `trajectory.toml` with the parts of the run as stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_stages: Option<String>,
    /// The names of these stages.
    #[serde(skip)]
    stage_names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FactReport {
    what: String,
    value: String,
    origin: String,
}

#[derive(Debug, Serialize)]
struct CheckpointReport {
    step: usize,
    id: String,
    folder: PathBuf,
    weights: bool,
    adapter: bool,
    optimizer_state: Option<PathBuf>,
    /// The mean of the logged losses just before and behind the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    logged_loss: Option<f64>,
    /// The logged loss on the evaluation set at the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation_loss: Option<f64>,
    /// The logged loss at the step on each evaluation set that has a name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    named_evaluation_losses: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
struct SegmentReport {
    number: usize,
    first_step: usize,
    last_step: usize,
    steps: usize,
    checkpoints: Vec<MemberReport>,
    mean_rate: f64,
    rate_sum: f64,
    clipped_rate_sum: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clipped_rate_interval: Option<[f64; 2]>,
    momentum_factor: f64,
    tau: Option<f64>,
    tau_without_loss_scale: f64,
    decay_exponent: f64,
}

#[derive(Debug, Serialize)]
struct MemberReport {
    step: usize,
    id: String,
    weight: f64,
}

impl TrajectoryReport {
    /// Gathers it.
    pub(crate) fn new(
        request: &TrajectoryRequest,
        outline: &Outline,
        saturation: Vec<Saturation>,
        loss_check: Option<LossCheck>,
    ) -> Self {
        let stages = outline.readings.iter().enumerate().map(|(index, reading)| {
            let loss_scale = outline.loss_scales[index];
            let unknown = outline.unknown.iter().filter(|(stage, _)| *stage == index).map(|(_, unknown)| *unknown);
            let segments = outline.segments.iter().zip(1..).filter(|((stage, _), _)| *stage == index);
            // of what the last checkpoint has the log is whole; a damaged one was refused on reading
            let log =
                reading.checkpoints.last().and_then(|last| TrainingLog::of_checkpoint(&last.folder).ok().flatten());
            StageReport {
                name: reading.name.clone(),
                source: reading.source.clone(),
                facts: facts(request, reading, outline.n_examples[index], loss_scale),
                optimizer: reading.optimizer.name().to_owned(),
                training_examples: outline.n_examples[index],
                loss_scale: loss_scale.map(|scale| scale.value()),
                unknown: unknown.map(name_of_unknown).collect(),
                checkpoints: reading.checkpoints.iter().map(|files| checkpoint(files, log.as_ref())).collect(),
                segments: segments.map(|((_, s), number)| segment(number, s, reading, loss_scale)).collect(),
                warnings: reading.warnings.iter().map(ToString::to_string).collect(),
                as_stages: reading.as_stages().map(|(file, _)| file),
                stage_names: reading.as_stages().map(|(_, names)| names).unwrap_or_default(),
            }
        });
        let (path, notes) = (request.path.clone(), outline.notes.clone());
        Self { path, stages: stages.collect(), notes, saturation, loss_check }
    }

    /// For reading.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let several = self.stages.len() > 1;
        let _ = writeln!(text, "{}", inline(&self.path.display().to_string()));
        for (index, stage) in self.stages.iter().enumerate() {
            if several {
                let _ = writeln!(text, "\nstage {} of {}: {}", index + 1, self.stages.len(), inline(&stage.name));
            }
            stage.table(&mut text);
        }
        if !self.saturation.is_empty() {
            let _ = write!(text, "\n{}", saturation_table(&self.saturation));
        }
        if let Some(check) = &self.loss_check {
            let _ = write!(text, "\n{}\n", losses(check).trim_end());
        }
        let prefix =
            |stage: &StageReport| if several { format!("stage `{}`: ", inline(&stage.name)) } else { String::new() };
        for stage in &self.stages {
            for warning in &stage.warnings {
                let _ = writeln!(text, "warning: {}{}", prefix(stage), inline(warning));
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {}", inline(note));
        }
        for (file, names) in
            self.stages.iter().filter_map(|stage| Some((stage.as_stages.as_ref()?, &stage.stage_names)))
        {
            let _ = writeln!(text, "stages: this as `trajectory.toml` gives each part its own training examples:");
            file.lines().for_each(|line| {
                let _ = writeln!(text, "{}", format!("  {}", inline(line)).trim_end());
            });
            let each = names.iter().map(|name| format!(" --stage-train {}=FILE", inline(name)));
            let _ = writeln!(text, "  ascribe source --trajectory trajectory.toml{}", each.collect::<String>());
        }
        for stage in &self.stages {
            for unknown in &stage.unknown {
                let _ = writeln!(text, "not known: {}{}", prefix(stage), in_words(unknown));
            }
        }
        text
    }
}

/// How far each segment went, layer by layer.
fn saturation_table(saturation: &[Saturation]) -> String {
    let titles = ["segment", "layer", "forgotten", "tau x eigenvalue: 10 %", "50 %", "90 %", "largest"];
    let mut columns = Columns::titled(titles);
    for segment in saturation {
        for layer in &segment.layers {
            let mut cells =
                vec![segment.segment.clone(), layer.layer.clone(), format!("{:.0} %", 100.0 * layer.forgotten)];
            cells.extend(layer.quantiles.map(number));
            columns.row(cells);
        }
    }
    let mut text = columns.text("  ");
    text.push_str(
        "  forgotten: the share of an older change that the segment takes away, along the directions in which training \
         examples push\n",
    );
    for segment in saturation {
        let _ = writeln!(
            text,
            "  {}: largest rate x largest eigenvalue {}",
            inline(&segment.segment),
            number(segment.largest_step)
        );
    }
    text
}

impl StageReport {
    fn table(&self, text: &mut String) {
        let mut columns = Columns::titled(["fact", "value", "from"]);
        for fact in &self.facts {
            columns.row([fact.what.clone(), fact.value.clone(), fact.origin.clone()]);
        }
        text.push_str(&columns.text("  "));
        text.push('\n');
        let has_loss = self.checkpoints.iter().any(|checkpoint| checkpoint.logged_loss.is_some());
        let is_evaluated = self.checkpoints.iter().any(|checkpoint| checkpoint.evaluation_loss.is_some());
        let named = self.checkpoints.iter().flat_map(|checkpoint| checkpoint.named_evaluation_losses.keys());
        let sets: BTreeSet<&String> = named.collect();
        let mut titles = ["checkpoint", "step", "weights", "optimizer state"].map(str::to_owned).to_vec();
        titles.extend(has_loss.then(|| "logged loss".to_owned()));
        titles.extend(is_evaluated.then(|| "evaluation loss".to_owned()));
        titles.extend(sets.iter().map(|set| format!("of {}", inline(set))));
        titles.push("folder".to_owned());
        let mut columns = Columns::default();
        columns.row(titles);
        let loss = |loss: Option<f64>| loss.map_or(String::new(), |loss| format!("{loss:.3}"));
        let yes = |there: bool| if there { "yes" } else { "no" }.to_owned();
        for checkpoint in &self.checkpoints {
            let folder = checkpoint.folder.display().to_string();
            let state = yes(checkpoint.optimizer_state.is_some());
            // what `inspect` calls it
            let weights = match (checkpoint.weights, checkpoint.adapter) {
                (false, true) => "adapter".to_owned(),
                (true, true) => "yes, and an adapter".to_owned(),
                (weights, false) => yes(weights),
            };
            let mut cells = vec![checkpoint.id.clone(), count(checkpoint.step as u64), weights, state];
            cells.extend(has_loss.then(|| loss(checkpoint.logged_loss)));
            cells.extend(is_evaluated.then(|| loss(checkpoint.evaluation_loss)));
            cells.extend(sets.iter().map(|set| loss(checkpoint.named_evaluation_losses.get(*set).copied())));
            cells.push(folder);
            columns.row(cells);
        }
        text.push_str(&columns.text("  "));
        text.push('\n');
        let is_clipped = self.segments.iter().any(|segment| segment.clipped_rate_sum != segment.rate_sum);
        let tau = if self.loss_scale.is_some() { "tau" } else { "tau / c" };
        let mut titles = vec!["segment", "steps", "K", "mean rate", "sum of rates"];
        titles.extend(is_clipped.then_some("sum, clipped"));
        titles.extend([tau, "decay", "checkpoints"]);
        let mut columns = Columns::default();
        columns.row(titles.into_iter().map(str::to_owned));
        for segment in &self.segments {
            let steps = format!("{} to {}", count(segment.first_step as u64), count(segment.last_step as u64));
            let mut cells = vec![segment.number.to_string(), steps, count(segment.steps as u64)];
            cells.extend([segment.mean_rate, segment.rate_sum].map(number));
            cells.extend(is_clipped.then(|| number(segment.clipped_rate_sum)));
            cells.push(number(segment.tau.unwrap_or(segment.tau_without_loss_scale)));
            cells.extend([number(segment.decay_exponent), members(&segment.checkpoints)]);
            columns.row(cells);
        }
        text.push_str(&columns.text("  "));
        let momentum = self.segments.first().map_or(1.0, |segment| segment.momentum_factor);
        let times = if momentum == 1.0 { String::new() } else { format!(", times {} for momentum", number(momentum)) };
        // clipping lowers what the loss's gradient does, not the decay of weights
        let sum = if is_clipped { "clipped sum of rates" } else { "sum of rates" };
        let tau = match self.loss_scale {
            Some(_) => format!("tau = loss scale x {sum}{times}"),
            None => format!("tau / c = {sum}{times}, with the loss scale c"),
        };
        let _ = writeln!(text, "  {tau}; decay = weight decay x sum of rates{times}");
    }
}

/// What was read, with the two numbers that a person or the data may have given in the place of the recorded ones.
fn facts(
    request: &TrajectoryRequest,
    reading: &Reading,
    n_examples: Option<usize>,
    loss_scale: Option<LossScale>,
) -> Vec<FactReport> {
    let resolved = ["examples", "loss scale"];
    let recorded = |what: &str| reading.facts.iter().find(|fact| fact.what == what).map(|fact| fact.origin.clone());
    let mut facts: Vec<FactReport> = reading
        .facts
        .iter()
        .filter(|fact| !resolved.contains(&fact.what))
        .map(|fact| FactReport { what: fact.what.to_owned(), value: fact.value.clone(), origin: fact.origin.clone() })
        .collect();
    let origin = match (n_examples, reading.n_examples) {
        (None, _) => String::new(),
        (Some(_), Some(_)) => recorded("examples").unwrap_or_default(),
        (Some(_), None) => "--train-examples".to_owned(),
    };
    let value = n_examples.map_or("not known".to_owned(), |n| count(n as u64));
    facts.push(FactReport { what: "training examples".to_owned(), value, origin });
    let origin = match (loss_scale, request.loss_scale) {
        (None, _) => String::new(),
        (Some(_), Some(_)) => "--loss-scale".to_owned(),
        (Some(_), None) => recorded("loss scale").unwrap_or_default(),
    };
    let value = loss_scale.map_or("not known".to_owned(), |scale| scale.to_string());
    facts.push(FactReport { what: "loss scale".to_owned(), value, origin });
    facts
}

fn checkpoint(files: &CheckpointFiles, log: Option<&TrainingLog>) -> CheckpointReport {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    CheckpointReport {
        step: files.step,
        id: files.id.clone(),
        folder: files.folder.clone(),
        adapter: ["adapter_config.json", "adapter_model.safetensors"]
            .iter()
            .any(|name| ascribe::presence::is_file(&files.folder.join(name))),
        weights: weights.iter().any(|name| ascribe::presence::is_file(&files.folder.join(name))),
        optimizer_state: files.optimizer.clone(),
        logged_loss: log.and_then(|log| log.around(files.step, 0.0)).map(|around| around.middle),
        evaluation_loss: log.and_then(|log| log.evaluation(files.step)),
        named_evaluation_losses: log.map(|log| log.named_evaluations_at(files.step)).unwrap_or_default(),
    }
}

fn segment(number: usize, segment: &Segment, reading: &Reading, loss_scale: Option<LossScale>) -> SegmentReport {
    let members = segment.checkpoints.iter().filter_map(|member| {
        let files = reading.checkpoints.get(member.index)?;
        Some(MemberReport { step: files.step, id: files.id.clone(), weight: member.weight })
    });
    SegmentReport {
        number,
        first_step: segment.steps.start + 1,
        last_step: segment.steps.end,
        steps: segment.n_steps(),
        checkpoints: members.collect(),
        mean_rate: segment.mean_rate(),
        rate_sum: segment.rate_sum,
        clipped_rate_sum: segment.clipped_rate_sum,
        clipped_rate_interval: segment.clipped_rate_interval.map(|(low, high)| [low, high]),
        momentum_factor: segment.momentum_factor,
        tau: loss_scale.map(|_| segment.tau),
        tau_without_loss_scale: segment.clipped_rate_sum * segment.momentum_factor,
        decay_exponent: segment.decay_exponent,
    }
}

fn name_of_unknown(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::Examples => "training_examples",
        Unknown::LossScale => "loss_scale",
        Unknown::LabelTokens => "label_tokens_per_example",
    }
}

/// What `ascribe source` does about it.
fn in_words(unknown: &str) -> &'static str {
    match unknown {
        "training_examples" => "the number of training examples; `ascribe source` counts them in its training data",
        "label_tokens_per_example" => {
            "the mean number of label tokens of an example, which the loss was divided by; `ascribe source` counts them in its training data"
        }
        _ => "what training divided the loss by; state it with `--loss-scale`, or in the `trajectory.toml`",
    }
}

/// `checkpoint-8, checkpoint-16`, with weights where they differ; the middle is left out.
fn members(members: &[MemberReport]) -> String {
    let is_uniform = members.iter().all(|member| member.weight == members[0].weight);
    let mut names: Vec<String> = members
        .iter()
        .map(|member| match is_uniform {
            true => member.id.clone(),
            false => format!("{} ({})", member.id, number(member.weight)),
        })
        .collect();
    if names.len() > LISTED {
        let left_out = names.len() - 2;
        names.splice(1..names.len() - 1, [format!("… {left_out} more …")]);
    }
    names.join(", ")
}

/// Four significant digits.
fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_four_digits() {
        let shown = [0.0, 1.0, 0.03, 9.99, 123456.7, 1e-5, 0.0012346, 2e7].map(number);
        assert_eq!(shown, ["0", "1", "0.03", "9.99", "123457", "1.000e-5", "0.001235", "2.000e7"]);
    }

    #[test]
    fn long_lists_leave_their_middle_out() {
        let member = |step: usize, weight: f64| MemberReport { step, id: format!("c{step}"), weight };
        assert_eq!(members(&[member(1, 0.5), member(2, 0.5)]), "c1, c2");
        assert_eq!(members(&[member(1, 0.25), member(2, 0.75)]), "c1 (0.25), c2 (0.75)");
        let many: Vec<MemberReport> = (1..=6).map(|step| member(step, 1.0 / 6.0)).collect();
        assert_eq!(members(&many), "c1, … 4 more …, c6");
    }
}
