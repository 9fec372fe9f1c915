//! What a report says in sentences: what was asked, what a score is, what the strongest example did and how sure that is.
//! They are for somebody who has not heard of influence functions.

use std::path::Path;

use ascribe::job::{Compared, Curvature, Job, Normalize, ReductionRequest, ScoreScale, Solve, SolveLayers};

use super::folder::RunFolder;
use super::model::Fact;
use super::stored::{Inputs, StoredQuery, StoredRanking, StoredStability};
use super::text::name;
use crate::words::{self, counted, name_of};

/// Characters of a name.
const NAME: usize = 120;

/// Whether scores are amounts of the measurement, which a straight line predicts.
pub(super) fn is_amount(job: &Job) -> bool {
    job.method.normalize == Normalize::None && job.output.scale == ScoreScale::PerExample
}

/// What is to be known of the size of an amount that no retraining has calibrated.
fn of_size(job: &Job) -> &'static str {
    match job.method.solve {
        Solve::Auto | Solve::Ekfac if job.method.curvature == Curvature::Adam => "whose size means nothing",
        Solve::Auto | Solve::Ekfac => "usually too large",
        Solve::Subspace | Solve::GaussNewton => "rough in size",
        Solve::MFac => "usually too large",
    }
}

/// What the strongest example did.
pub(super) fn sentence(job: &Job, ranking: &StoredRanking) -> String {
    let Some(top) = ranking.proponents.first() else {
        return "No training example is predicted to help.".to_owned();
    };
    let (id, score) = (name(&top.id, 60), words::score(top.score.abs()));
    let score = score.trim_start_matches('+');
    let (what, now) = (name(&ranking.query.measurement, NAME), ranking.query.value);
    if job.method.normalize == Normalize::Cosine {
        return format!("{id} helped most: its gradient has the cosine {score} with that of the query.");
    }
    let times = if job.output.scale == ScoreScale::Kronfluence { " (times the number of examples)" } else { "" };
    let is_loss = what == "loss";
    let size = match &top.amount {
        Some(amount) => {
            let [value, low, high] = [amount.value, amount.low, amount.high].map(|value| words::score(value as f32));
            format!("; calibrated with retrained models that is about {value} ({low} to {high})")
        }
        None if is_loss && is_amount(job) && f64::from(top.score) > now => {
            format!(", which is more than the {now:.4} that there is: read the order of the examples, not the sizes")
        }
        None => format!(" (a straight-line estimate, {}: the order of the examples is more reliable)", of_size(job)),
    };
    let once = format!("{id} helped most: one more copy of it in training is predicted to");
    if !is_loss {
        return format!("{once} raise the {what} of this query by {score}{times}{size}. It is {now:.4} now.");
    }
    format!(
        "{once} lower the model's loss on this answer by {score}{times}{size}. The loss is {now:.4} now{}; the lower the \
         loss, the more likely the model finds the answer.",
        probability(job, ranking)
    )
}

/// The probability that a loss is, where it is the loss of one answer as a whole.
fn probability(job: &Job, ranking: &StoredRanking) -> String {
    let query = &ranking.query;
    let is_one = query.tokens.as_ref().is_some_and(|tokens| tokens.iter().all(|token| !token.is_rejected));
    match is_one && job.method.reduction == ReductionRequest::Sum && query.value >= 0.0 {
        true => format!(", a probability of {} for these words", words::probability((-query.value).exp())),
        false => String::new(),
    }
}

/// What a query's measurement was at another checkpoint; none if none was compared.
pub(super) fn before(query: &StoredQuery) -> Option<String> {
    let before = query.before.as_ref()?;
    let (what, change) = (name(&query.measurement, NAME), query.value - before.value);
    let moved = match change {
        change if change < 0.0 => format!("is lower by {:.4} now", -change),
        change if change > 0.0 => format!("is higher by {change:.4} now"),
        _ => "is the same now".to_owned(),
    };
    Some(format!(
        "At the checkpoint {} this {what} was {:.4}: it {moved}. All training in between did that; the scores say which \
         examples' parts of it are the largest.",
        name(&before.checkpoint, NAME),
        before.value
    ))
}

/// How sure a ranking is; none if nothing is listed.
pub(super) fn sure(stability: &StoredStability) -> Option<String> {
    let sides = [("helped", &stability.proponents), ("hurt", &stability.opponents)];
    let sides: Vec<_> = sides.into_iter().filter(|(_, side)| side.listed > 0).collect();
    let of_side = sides.iter().map(|(name, side)| format!("{} that {name}", words::stable(side.stable, side.listed)));
    let of_side = of_side.collect::<Vec<_>>().join(" and ");
    let ways = sides.iter().map(|(_, side)| side.kept.len()).max()?;
    let shares = sides.iter().flat_map(|(_, side)| &side.kept).map(|of| of.share);
    let least = 100.0 * shares.fold(1.0, f64::min);
    let on = stability.compared.map_or_else(String::new, |Compared { strongest, sample, of }| {
        format!(
            " The other ways were not computed for all {of} examples, but for the {strongest} strongest of each side and \
             for {sample} drawn at random; what these show is taken for the rest."
        )
    });
    Some(format!(
        "How sure: stable are {of_side}. The scores were computed in {} that are as good, and the stable examples are among \
         the strongest in every one; the way that agrees least has {least:.0} % of the examples listed here among its \
         strongest. This says how much the choice of the way matters. It is no confidence interval.{on}",
        counted(ways as u64, "other ways")
    ))
}

/// Unit of a score.
pub(super) fn meaning(job: &Job, is_calibrated: bool) -> String {
    let what = job.method.measure.map(|measure| name_of(&measure)).unwrap_or_else(|| "measurement".to_owned());
    let change =
        if what == "loss" { "loss is predicted to fall".to_owned() } else { format!("{what} is predicted to rise") };
    let size = match is_calibrated {
        true => String::new(),
        false => format!(
            " It is a straight-line estimate (effects are taken to grow in proportion), {}: what counts is which examples \
             come first.",
            of_size(job)
        ),
    };
    let size = format!(" What an example did in training is inferred from what one more copy of it would do.{size}");
    match (job.method.normalize, job.output.scale, job.data.train_size) {
        (Normalize::Cosine, ..) => {
            "Each score is the cosine, from -1 to 1, between what training on the example and what the query would \
             change in the model."
                .to_owned()
        }
        (_, ScoreScale::Kronfluence, _) => format!(
            "Each score says by how much the query's {change} if the model were trained on one more copy of that \
             example, times the number of training examples.{size}"
        ),
        (_, _, Some(n)) => format!(
            "Each score says by how much the query's {change} if the model were trained on one more copy of that \
             example, beside the {} that there are.{size}",
            words::count(n as u64)
        ),
        _ => format!(
            "Each score says by how much the query's {change} if the model were trained on one more copy of that \
             example.{size}"
        ),
    }
}

/// What was asked, of which model and data, with which method.
pub(super) fn asked(run: &RunFolder, run_name: String) -> Vec<Fact> {
    let (job, summary) = (&run.job, &run.records.summary);
    let path = |path: &Path| name(&path.display().to_string(), 200);
    let of_model = match (&job.source, &job.checkpoints) {
        (Some(source), _) => path(&source.trajectory.path),
        (None, Some(_)) => summary.checkpoints.iter().map(|at| name(&at.name, 40)).collect::<Vec<_>>().join(", "),
        (None, None) => path(&job.model.path),
    };
    let stages = summary.stages.iter().map(|stage| {
        let file = job.data.stages.get(&stage.name).unwrap_or(&job.data.train);
        let of_larger = match stage.train_size == stage.train.examples {
            true => String::new(),
            false => format!(", scored as a part of {}", words::count(stage.train_size)),
        };
        format!("{}: {}{of_larger}", path(file), stage.train.amount())
    });
    let measure = job.method.measure.map(|measure| name_of(&measure)).unwrap_or_default();
    let queries = job.data.queries.as_deref().map(path).unwrap_or_default();
    let count = summary.queries.as_ref().map_or(run.rankings.len() as u64, |data| data.examples);
    let training = match run.inputs() {
        Inputs::Images => counted(run.training_examples(), "training images"),
        Inputs::Texts | Inputs::Rows => counted(run.training_examples(), "training examples"),
    };
    let fact = |name: &'static str, value: String| Fact { name, value };
    vec![
        fact("Question", format!("Which of {training} moved the {measure} of each of {}?", counted(count, "queries"))),
        fact("Model", format!("{of_model} ({})", name(&summary.architecture, 60))),
        fact("Training data", stages.collect::<Vec<_>>().join("; ")),
        fact("Queries", format!("{queries}: {}", counted(count, "queries"))),
        fact("Method", method(run)),
        fact("Run folder", run_name),
    ]
}

fn method(run: &RunFolder) -> String {
    let (job, summary) = (&run.job, &run.records.summary);
    let damping = job.method.damping.0.first().map(|damping| String::from(*damping)).unwrap_or_default();
    let curvature = name_of(&job.method.curvature);
    let joint = match job.method.solve {
        Solve::Auto | Solve::Ekfac => "",
        Solve::GaussNewton if job.method.solve_layers == SolveLayers::Each => {
            ", refined for each layer with its exact Gauss-Newton matrix"
        }
        Solve::Subspace | Solve::GaussNewton | Solve::MFac => ", solved for all layers together",
    };
    match (&job.source, summary.checkpoints.len(), curvature.as_str()) {
        (Some(_), ..) => format!(
            "Source, backwards through the training run in {}{joint} (Bae et al. 2024)",
            counted(summary.legs.len() as u64, "segments")
        ),
        (None, _, "identity") => "products of gradients, without curvature".to_owned(),
        (None, n, _) => {
            let mean = if n > 1 { format!(", mean over {n} checkpoints") } else { String::new() };
            let curvature = curvature_name(&curvature);
            format!("influence functions{mean} ({curvature} curvature, damping {damping}{joint}; Grosse et al. 2023)")
        }
    }
}

/// A kind of curvature as papers write it.
pub(super) fn curvature_name(kind: &str) -> String {
    match kind {
        "ekfac" => "EK-FAC".to_owned(),
        "shampoo" => "Shampoo".to_owned(),
        "adam" => "Adam's second moments as".to_owned(),
        "diagonal" => "diagonal".to_owned(),
        _ => kind.to_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(score: f32, value: f64, amount: &str) -> StoredRanking {
        let top = format!(r#"{{"id": "a", "score": {score}, "excerpt": "x"{amount}}}"#);
        let tokens = r#"[{"text": "x"}, {"text": "y", "loss": 0.5}]"#;
        let query =
            format!(r#"{{"id": "q", "excerpt": "x", "measurement": "loss", "value": {value}, "tokens": {tokens}}}"#);
        serde_json::from_str(&format!(r#"{{"query": {query}, "proponents": [{top}], "opponents": []}}"#)).expect("JSON")
    }

    /// What cannot be true as an amount is never said without its warning in the same sentence.
    #[test]
    fn an_amount_is_never_without_what_it_is_worth() {
        let mut job = Job::new("model", "train.jsonl", "run");
        let too_much = sentence(&job, &ranking(3.759, 0.9037, ""));
        assert!(
            too_much.contains(
                "answer by 3.759, which is more than the 0.9037 that there is: read the order of the examples"
            ),
            "{too_much}"
        );
        assert!(too_much.contains("a probability of 41 % for these words"), "{too_much}");
        let small = sentence(&job, &ranking(0.01, 0.9037, ""));
        assert!(small.contains("answer by 0.01000 (a straight-line estimate, usually too large: the order"), "{small}");
        let calibrated = r#", "amount": {"value": 0.25, "low": 0.125, "high": 0.5}"#;
        let said = sentence(&job, &ranking(3.759, 0.9037, calibrated));
        let want = "by 3.759; calibrated with retrained models that is about +0.2500 (+0.1250 to +0.5000).";
        assert!(said.contains(want), "{said}");
        job.method.reduction = ReductionRequest::Mean;
        assert!(!sentence(&job, &ranking(0.01, 0.9037, "")).contains("probability"));
    }
}
