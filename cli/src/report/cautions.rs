//! What to distrust in a run: what its own records and scores speak against, and nothing in general.

use ascribe::job::{AggregateRequest, Normalize, ScoreScale};

use super::folder::RunFolder;
use super::model::{Agreement, Caution};
use super::text::name;
use crate::words::{counted, name_of};

/// Characters of a note.
const NOTE: usize = 600;

/// Below this share of its squared norm, a query's low rank is worth a line.
const CAPTURED: f64 = 0.99;

/// Below this loss the answer has a probability of more than 99 %.
const CERTAIN: f64 = 0.01;

/// Below this share of common proponents another damping or method tells another story.
const SHARED: f64 = 0.6;

/// An older change that a step multiplies by more than this diverges.
const DIVERGES: f64 = 2.0;

/// All reasons, the gravest first.
pub(super) fn of(run: &RunFolder, agreements: &[Agreement]) -> Vec<Caution> {
    let summary = &run.records.summary;
    let mut all: Vec<Caution> = vec![];
    let mut add = |found: String, follows: &str| all.push(Caution { found, follows: follows.to_owned() });
    let queries: Vec<_> = run.rankings.iter().map(|ranking| &ranking.query).collect();
    let some = |count: usize| match queries.len() {
        1 => "the query".to_owned(),
        all if count == all => format!("all {all} queries"),
        all => format!("{count} of {all} queries"),
    };

    let overshooting = run.rankings.iter().filter(|ranking| {
        let top = ranking.proponents.first().map_or(0.0, |example| f64::from(example.score));
        ranking.query.measurement == "loss" && top > ranking.query.value
    });
    let is_amount = run.job.method.normalize == Normalize::None && run.job.output.scale == ScoreScale::PerExample;
    let overshooting = overshooting.count();
    if is_amount && overshooting > 0 {
        add(
            format!(
                "In {} the strongest example is predicted to lower the loss by more than there is.",
                some(overshooting)
            ),
            "A score continues a straight line from a very small change of training, so trust the order of examples and \
             not the size of the numbers.",
        );
    }
    for segment in run.saturation.iter().filter(|segment| segment.is_far()) {
        add(
            format!(
                "Segment {} of training is far from saturation: it makes only {:.0} % of an older change forgotten.",
                name(&segment.segment, 60),
                100.0 * segment.forgotten
            ),
            "Source is then close to a sum of gradient products, and influence functions may rank better.",
        );
    }
    for segment in run.saturation.iter().filter(|segment| segment.largest_step > DIVERGES) {
        add(
            format!(
                "In segment {} the largest step times the largest curvature is {:.1}.",
                name(&segment.segment, 60),
                segment.largest_step
            ),
            "Above 2 training would have diverged in that direction, so the curvature at the checkpoints is not that of \
             the steps between them.",
        );
    }
    let captured = queries.iter().filter(|query| query.captured.is_some_and(|share| share < CAPTURED)).count();
    if captured > 0 {
        add(
            format!("In {} the low rank of the query's vectors lost more than 1 % of them.", some(captured)),
            "Scores there are approximate; --query-rank raises the rank.",
        );
    }
    let missed = run.rankings.iter().filter_map(|ranking| ranking.candidates.as_ref());
    let missed = missed.filter(|check| check.proponents.beyond > 0).count();
    if missed > 0 {
        add(
            format!(
                "In {} an example that was no candidate is as strong as the helping ones that are listed.",
                some(missed)
            ),
            "It is of a random sample, so there are more among the examples that were not scored.",
        );
    }
    let unstable = run.rankings.iter().filter(|ranking| {
        let side = ranking.stability.as_ref().map(|stability| &stability.proponents);
        side.is_some_and(|side| 2 * side.stable < side.listed)
    });
    let unstable = unstable.count();
    if unstable > 0 {
        add(
            format!("In {} fewer than half of the helping examples are stable.", some(unstable)),
            "Behind the first of them the order depends on choices of the method that are as good as each other.",
        );
    }
    let certain = queries.iter().filter(|query| query.measurement == "loss" && query.value < CERTAIN).count();
    if certain > 0 && run.job.method.aggregate == AggregateRequest::Each {
        add(
            format!("In {} the model is all but certain of the answer already (loss below {CERTAIN}).", some(certain)),
            "There is little left to help, and the scores may be mostly noise.",
        );
    }
    for other in agreements.iter().filter(|other| other.shared < SHARED) {
        add(
            format!(
                "{}, which the run computed too, lists only {} of the same helping examples.",
                name(&other.answer, 80),
                other.shared_text()
            ),
            "The ranking depends on that choice.",
        );
    }
    for stage in summary.stages.iter().filter(|stage| stage.train.cut > 0) {
        add(
            format!(
                "{} of {} were cut to the maximal length{}.",
                counted(stage.train.cut, "training examples"),
                counted(stage.train.examples, "examples"),
                if summary.stages.len() > 1 {
                    format!(" in the stage {}", name(&stage.name, 60))
                } else {
                    String::new()
                }
            ),
            "What stood behind the cut has no part in their scores.",
        );
    }
    if let Some(data) = summary.queries.as_ref().filter(|data| data.cut > 0) {
        let found = format!("{} were cut to the maximal length.", counted(data.cut, "queries"));
        add(found, "What stood behind the cut was not asked.");
    }
    for note in &summary.notes {
        add(name(note, NOTE), "");
    }
    if run.job.source.is_none() && summary.checkpoints.len() < 2 {
        add(
            "The scores come from one checkpoint.".to_owned(),
            "They describe training near its end; a mean over several checkpoints (--run) predicts retraining better.",
        );
    }
    add(
        format!(
            "{} in {} are followed.",
            counted(summary.tracked_parameters, "weights"),
            counted(summary.layers.len() as u64, "linear layers")
        ),
        match run.job.model.layers.is_empty() && run.job.model.skip_layers.is_empty() {
            true => "What an example changed in embeddings, norms and other weights is not in its score.",
            false => "They were chosen for this run; what an example changed in other weights is not in its score.",
        },
    );
    if run.job.source.is_none() && name_of(&run.job.method.curvature) == "identity" {
        add(
            "No curvature was used: scores are products of gradients.".to_owned(),
            "Examples with large gradients are high in every ranking.",
        );
    }
    all
}
