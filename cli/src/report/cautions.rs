//! What to distrust in a run: what its own records and scores speak against, and nothing in general.

use ascribe::job::{AggregateRequest, LossCheck};

use super::folder::RunFolder;
use super::model::{Agreement, Caution};
use super::sentences::is_amount;
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

/// Parts of notes of a plan that say how something was computed, or what it cost, and give no reason for distrust. A note
/// that is not known here is one.
const NEUTRAL: [&str; 19] = [
    " are divided over ",
    "queries are measured at ",
    "intervals are the lowest and the highest of",
    "the network runs on ",
    "images are ",
    "are grey, and have three equal channels",
    " of the hub at commit ",
    " are rendered with ",
    " has exact copies",
    " has near copies",
    "examples, of which",
    "the curvature is taken on all ",
    "documents were packed",
    " are contrasts: measured is",
    "empty rows of the ",
    "since the run was trained by",
    "layers are divided in ",
    "labels are drawn for each",
    // it has a reason of its own
    " were cut to ",
];

/// Parts of notes that hold one of those and are reasons all the same.
const NOT_NEUTRAL: [&str; 1] = ["are in the file"];

/// Whether a note of a plan is a reason for distrust.
fn is_reason(note: &str) -> bool {
    let has = |parts: &[&str]| parts.iter().any(|part| note.contains(part));
    !has(&NEUTRAL) || has(&NOT_NEUTRAL)
}

/// How the scores were computed: what gives no reason for distrust.
pub(super) fn computed(run: &RunFolder) -> Vec<String> {
    let mut all = vec![];
    if let Some(Ok(check)) = &run.loss_check
        && failed(check).is_none()
        && (!check.checkpoints.is_empty() || !check.evaluations.is_empty())
    {
        let places = counted((check.checkpoints.len() + check.evaluations.len()) as u64, "places");
        all.push(format!("The loss of the data agrees with the training log at {places}: they are what training saw."));
    }
    let notes = run.records.summary.notes.iter().filter(|note| !is_reason(note));
    all.extend(notes.map(|note| sentence(&name(note, NOTE))));
    all
}

/// A note as a sentence.
fn sentence(note: &str) -> String {
    let mut characters = note.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let end = if note.ends_with(['.', '…', '?', '!']) { "" } else { "." };
    format!("{first}{}{end}", characters.as_str())
}

/// What speaks against the data in the check against the training log; none if nothing does.
fn failed(check: &LossCheck) -> Option<String> {
    if !check.warnings.is_empty() {
        return Some(check.warnings.iter().map(|warning| sentence(warning)).collect::<Vec<_>>().join(" "));
    }
    let checkpoints = check.checkpoints.iter().filter(|at| !at.agrees).map(|at| at.sentence());
    let evaluations = check.evaluations.iter().filter(|at| !at.agrees).map(|at| at.sentence());
    let against: Vec<String> = checkpoints.chain(evaluations).collect();
    let first = against.first()?;
    let likely = check.causes.iter().find(|cause| cause.agrees);
    let likely = likely.map_or_else(String::new, |cause| {
        format!(" {} it would be {:.3}, as logged.", sentence(&cause.what).trim_end_matches('.'), cause.loss)
    });
    let more = match against.len() {
        1 => String::new(),
        n => format!(" ({} more likewise)", n - 1),
    };
    Some(format!("{}{more}.{likely}", sentence(first).trim_end_matches('.')))
}

/// What the check of the data against the training log has against them.
fn of_data(run: &RunFolder, add: &mut impl FnMut(String, &str)) {
    let is_run = run.job.source.is_some() || run.job.checkpoints.is_some();
    let check = match &run.loss_check {
        Some(Ok(check)) => check,
        Some(Err(problem)) => {
            return add(sentence(problem), "Whether the data are what training saw is not known.");
        }
        None if is_run && run.job.data.skip_loss_check => {
            return add(
                "The data were not compared with the training log (--no-loss-check).".to_owned(),
                "Data that are read otherwise than in training give other scores and no error.",
            );
        }
        None => return,
    };
    if let Some(against) = failed(check) {
        add(
            "The data failed the check against the training log.".to_owned(),
            &format!("{} Until that is mended, scores are about other data.", name(&against, 2 * NOTE)),
        );
    }
    for note in &check.notes {
        add(sentence(&name(note, NOTE)), "");
    }
}

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

    of_data(run, &mut add);
    let overshooting = run.rankings.iter().filter(|ranking| {
        let top = ranking.proponents.first().map_or(0.0, |example| f64::from(example.score));
        ranking.query.measurement == "loss" && top > ranking.query.value
    });
    let overshooting = overshooting.count();
    if is_amount(&run.job) && overshooting > 0 {
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
    for note in summary.notes.iter().filter(|note| is_reason(note)) {
        add(sentence(&name(note, NOTE)), "");
    }
    if run.rankings.iter().all(|ranking| ranking.stability.is_none()) {
        add(
            "How sure the order is was not computed in this run.".to_owned(),
            "With --intervals every score has the range of other ways to compute it, and every query says which examples \
             all of them list.",
        );
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
        match run.job.model.layers.is_empty() && run.job.model.skip_layers.is_empty() && run.job.model.track.is_empty()
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_and_choices_are_no_reasons_for_distrust() {
        let neutral = [
            "scores of ranked examples are divided over their tokens: each ranked example is differentiated once more",
            "scores of all examples are divided over their tokens: each is differentiated once more, and there are about 9",
            "intervals are the lowest and the highest of 6 variants of each score: curvature of every other training",
            "the model: `openai-community/gpt2` of the hub at commit 607a30d",
            "none of 48 training examples has exact copies",
            "scores are for a training set of 100 examples, of which 10 are scored",
        ];
        for note in neutral {
            assert!(!is_reason(note), "{note}");
        }
        let reasons = [
            "scores are for a training set of 100 examples, of which 10 are in the file",
            "the run does not record how many training examples it had; 48 are given",
            "the layer sets `a` and `b` overlap in `h.0.attn`: each is right by itself, but their scores do not add up",
            "a note that nobody has thought of",
        ];
        for note in reasons {
            assert!(is_reason(note), "{note}");
        }
        assert_eq!(sentence("größe"), "Größe.");
    }

    #[test]
    fn a_check_that_failed_says_what_and_why() {
        let text = r#"{"checkpoints": [{"checkpoint": "c-1", "step": 1, "loss": 2.0, "examples": 4, "targets": 9,
            "logged": [1.0, 1.1], "tolerance": 0.1, "agrees": false}], "causes": [{"what": "with labels at end tokens ignored",
            "checkpoint": "c-1", "loss": 1.05, "agrees": true}]}"#;
        let mut text: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let of = |text: &serde_json::Value| failed(&serde_json::from_value(text.clone()).expect("a check"));
        let found = of(&text).expect("it failed");
        assert!(found.contains("C-1: loss 2.000 of 4 training examples, the log has 1.000 to 1.100"), "{found}");
        assert!(
            found.ends_with("DISAGREES. With labels at end tokens ignored it would be 1.050, as logged."),
            "{found}"
        );
        text["warnings"] = serde_json::json!(["the training data are probably not what training saw: x"]);
        assert_eq!(of(&text).as_deref(), Some("The training data are probably not what training saw: x."));
        text["warnings"] = serde_json::json!([]);
        text["checkpoints"][0]["agrees"] = serde_json::json!(true);
        assert_eq!(of(&text), None);
    }
}
