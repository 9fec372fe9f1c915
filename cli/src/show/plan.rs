//! The plan as a person checks it before the work begins.

use std::fmt::Write;

use ascribe::curvature::CurvatureKind;
use ascribe::job::{
    Average, Beside, CheckpointScores, Curvature, DampingRequest, DataSummary, Fisher, FormRequest, Job, LegSummary,
    LossCheck, Normalize, Plan, Solve, SolveLayers, Summary,
};

use crate::terminal::{inline, is_hidden};
use crate::words::{bytes, count, counted, name_of};

/// Tokens of the first example that are shown at its beginning, before and behind its first target, and at
/// its end.
const SHOWN: [usize; 4] = [24, 8, 24, 8];

/// The plan, a subject a line; every tracked layer if `verbose`.
pub(crate) fn plan(plan: &Plan, verbose: bool) -> String {
    let (job, summary) = (&plan.job, plan.summary());
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{:<9} {}", inline(name), inline(value));
    };
    line("model", &model(summary));
    if verbose {
        for layer in &summary.layers {
            let blocks = match layer.eigen_blocks {
                Some([outputs, columns]) => format!(", eigenbasis in {outputs} and {columns} blocks"),
                None => String::new(),
            };
            line("", &format!("{} {} x {}{blocks}", layer.name, layer.outputs, layer.columns));
        }
    }
    for stage in &summary.stages {
        let name = if summary.stages.len() > 1 { stage.name.as_str() } else { "train" };
        data(&mut line, name, "examples", &stage.train);
    }
    if let Some(queries) = &summary.queries {
        data(&mut line, "queries", "queries", queries);
    }
    for (index, leg) in summary.legs.iter().enumerate() {
        line(if index == 0 { "segments" } else { "" }, &segment(leg, summary.stages.len() > 1));
    }
    for (index, checkpoint) in summary.checkpoints.iter().enumerate() {
        line(if index == 0 { "mean of" } else { "" }, &format!("{}, weight {:.4}", checkpoint.name, checkpoint.weight));
    }
    line("method", &method(job));
    let has_eigenbasis = job.source.is_some() || CurvatureKind::from(job.method.curvature).has_eigenbasis();
    if let Some(width) = job.method.eigen_block_width.filter(|_| has_eigenbasis) {
        line("blocks", &blocks(width, summary));
    }
    if summary.answers.len() > 1 {
        let (shown, more) = some(&summary.answers, verbose);
        line("scores", &format!("{}{more}", shown.join(", ")));
    }
    let (shown, more) = some(&summary.layer_sets, verbose);
    for (index, set) in shown.iter().enumerate() {
        let (layers, parameters) = (counted(set.layers.len() as u64, "layers"), count(set.parameters as u64));
        line(if index == 0 { "sets" } else { "" }, &format!("{}: {layers} with {parameters} weights", set.name));
        for layer in set.layers.iter().filter(|_| verbose) {
            line("", &format!("  {layer}"));
        }
    }
    if !more.is_empty() {
        line("", more.trim_start_matches(", "));
    }
    if summary.queries.is_some() {
        line("measure", &measure(job, summary));
    }
    if let Some(rank) = job.method.query_rank.filter(|_| summary.queries.is_some()) {
        line("vectors", &vectors(rank, summary));
    }
    if summary.factor_bytes + summary.query_bytes > 0 {
        let (factors, queries) = (bytes(summary.factor_bytes), bytes(summary.query_bytes));
        line("disk", &format!("{factors} of curvature, {queries} of query vectors, in {}", job.output.path.display()));
    }
    for note in summary.notes.iter().chain(&summary.machine_notes) {
        line("note", note);
    }
    text
}

/// The loss of training examples beside the training log, a checkpoint a line.
pub(crate) fn losses(check: &LossCheck) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {}", inline(value));
    };
    for (index, checkpoint) in check.checkpoints.iter().enumerate() {
        line(if index == 0 { "loss" } else { "" }, &checkpoint.sentence());
    }
    for (index, evaluation) in check.evaluations.iter().enumerate() {
        line(if index == 0 { "eval" } else { "" }, &evaluation.sentence());
    }
    for (index, tokens) in check.tokens.iter().enumerate() {
        line(if index == 0 { "tokens" } else { "" }, &tokens.sentence());
    }
    check.notes.iter().for_each(|note| line("note", note));
    check.warnings.iter().for_each(|warning| line("warning", warning));
    text
}

fn blocks(width: usize, summary: &Summary) -> String {
    let cut = summary.layers.iter().filter(|layer| layer.eigen_blocks.is_some()).count();
    let (width, layers) = (count(width as u64), counted(summary.layers.len() as u64, "layers"));
    match cut {
        0 => format!("none: no tracked layer has a covariance wider than {width}"),
        _ => format!("eigenbases in blocks of at most {width} in {} of {layers}", count(cut as u64)),
    }
}

fn vectors(rank: usize, summary: &Summary) -> String {
    let low = summary.layers.iter().filter(|layer| layer.query_rank.is_some()).count();
    if low == 0 {
        return format!("whole: no tracked layer has smaller ones of rank {}", count(rank as u64));
    }
    let layers = counted(summary.layers.len() as u64, "layers");
    let (kept, full) = (bytes(summary.query_bytes), bytes(summary.full_query_bytes));
    format!("of rank {} in {} of {layers}: {kept} instead of {full}", count(rank as u64), count(low as u64))
}

fn segment(leg: &LegSummary, name_stage: bool) -> String {
    let stage = if name_stage { format!(" of {}", leg.stage) } else { String::new() };
    // updates are counted from 1, as in checkpoints' names
    let (first, last) = (count(leg.first_step as u64 + 1), count((leg.first_step + leg.steps) as u64));
    let moments = match leg.second_moments {
        Some(n) if n < leg.checkpoints.len() => format!(", second moments of {n}"),
        _ => String::new(),
    };
    let frozen = match leg.frozen.len() {
        0 => String::new(),
        n => format!(", {} not trained", counted(n as u64, "layers")),
    };
    format!(
        "steps {first} to {last}{stage}: {}, sum of rates {:.4}, tau {:.3e}{moments}{frozen}",
        leg.checkpoints.join(", "),
        leg.rate_sum,
        leg.tau
    )
}

fn model(summary: &Summary) -> String {
    let parameters = count(summary.tracked_parameters as u64);
    format!(
        "{}, {} tracked with {parameters} weights",
        summary.architecture,
        counted(summary.layers.len() as u64, "layers")
    )
}

fn data(line: &mut impl FnMut(&str, &str), name: &str, unit: &str, data: &DataSummary) {
    let n = counted(data.examples as u64, unit);
    // rows of numbers and images have nothing to say about tokens
    if data.is_rows {
        let positions = if data.longest > 1 { format!(" of {} positions each", data.longest) } else { String::new() };
        line(name, &format!("{n}{positions}"));
        for (row, _) in &data.first {
            line("", &format!("the first: {row}"));
        }
        return;
    }
    let cut = if data.cut > 0 { format!(", {} cut", count(data.cut as u64)) } else { String::new() };
    let (tokens, targets) = (counted(data.positions as u64, "tokens"), counted(data.targets as u64, "targets"));
    line(name, &format!("{n}, {tokens}, {targets}, the longest has {}{cut}", data.longest));
    line("", &format!("the first, [targets] marked: {}", tokens_with_marks(&data.first)));
}

/// Every token between bars, targets in brackets: `The| sky| is|[ blue]`.
fn tokens_with_marks(tokens: &[(String, bool)]) -> String {
    let [front, before, behind, back] = SHOWN;
    let n = tokens.len();
    let target = tokens.iter().position(|(_, target)| *target).unwrap_or(0);
    let shown = |i: usize| i < front || (i + before >= target && i < target + behind) || i + back >= n;
    let mut text = String::new();
    let mut left_out = 0;
    let mut was_plain = false;
    for (i, (token, is_target)) in tokens.iter().enumerate() {
        if !shown(i) {
            left_out += 1;
            continue;
        }
        if left_out > 0 {
            let _ = write!(text, " … {left_out} tokens … ");
            (left_out, was_plain) = (0, false);
        }
        // what stands in data must not steer a terminal
        let token: String = token.chars().map(visible).collect();
        match is_target {
            true => {
                let _ = write!(text, "[{token}]");
            }
            false => {
                let _ = write!(text, "{}{token}", if was_plain { "|" } else { "" });
            }
        }
        was_plain = !is_target;
    }
    text
}

fn visible(c: char) -> char {
    match c {
        '\n' => '⏎',
        '\t' => '⇥',
        c if is_hidden(c) => '\u{FFFD}',
        c => c,
    }
}

fn method(job: &Job) -> String {
    let method = &job.method;
    let mean = match (&job.checkpoints, method.checkpoint_scores) {
        (None, _) => "",
        (Some(_), CheckpointScores::Plain) => ", mean over checkpoints",
        (Some(_), CheckpointScores::Spread) => ", mean over checkpoints with scores divided by their spread",
    };
    if method.curvature == Curvature::Identity && method.solve != Solve::MFac {
        return match method.normalize {
            Normalize::Cosine => "cosine of gradients".into(),
            Normalize::None => format!("dot product of gradients (no curvature){mean}"),
        };
    }
    let labels = match method.fisher {
        Fisher::Empirical => "empirical Fisher".to_owned(),
        Fisher::True => {
            format!("true Fisher ({}, seed {})", counted(method.label_draws.into(), "label draws"), method.seed)
        }
    };
    // second moments are read; labels are drawn for joint systems alone
    let is_read = method.curvature == Curvature::Adam && !matches!(method.solve, Solve::Subspace);
    let labels = if is_read { "root of second moments".to_owned() } else { labels };
    let damping = |damping: &DampingRequest| {
        let text = String::from(*damping);
        match text.strip_suffix('x') {
            Some(share) => format!("damping {share} x each layer's mean eigenvalue"),
            None => format!("damping {text}"),
        }
    };
    let dampings = method.damping.0.iter().map(damping).collect::<Vec<_>>().join(" and ");
    if let Some(source) = &job.source {
        let average = match source.average {
            Average::Factors => "",
            Average::Parameters => ", averaged parameters",
        };
        let form = match source.form {
            FormRequest::Exponential => String::new(),
            form => format!(", {} form", name_of(&form)),
        };
        let joint = match method.solve {
            Solve::GaussNewton => {
                let products = counted(method.products() as u64, "products");
                format!(", carried jointly with the Gauss-Newton matrix of all layers ({products} for each segment)")
            }
            Solve::Auto | Solve::Ekfac | Solve::Subspace | Solve::MFac => String::new(),
        };
        let beside: Vec<&str> = source
            .with
            .iter()
            .filter_map(|beside| match beside {
                Beside::Influence => Some("influence"),
                Beside::InfluenceMean => Some("influence averaged over the checkpoints"),
                _ => None,
            })
            .collect();
        let beside = match beside.is_empty() {
            false => format!("; beside it {}, {dampings}", beside.join(" and ")),
            true => String::new(),
        };
        return format!("source{average}{form}, ekfac, {labels}, {}{joint}{beside}", name_of(&job.model.dtype));
    }
    let cosine = if method.normalize == Normalize::Cosine { ", scores divided by both norms" } else { "" };
    let joint = match method.solve {
        Solve::Auto | Solve::Ekfac => String::new(),
        Solve::Subspace => ", solved jointly for all layers in the span of several dampings".into(),
        Solve::MFac => ", solved jointly with the Fisher matrix of sampled gradients".into(),
        Solve::GaussNewton => {
            let products = counted(method.products() as u64, "products");
            match method.solve_layers {
                SolveLayers::Together => {
                    format!(", solved jointly with the Gauss-Newton matrix of all layers ({products})")
                }
                SolveLayers::Each => {
                    format!(", solved with each layer's block of the Gauss-Newton matrix ({products})")
                }
            }
        }
    };
    format!("{}, {labels}, {dampings}, {}{joint}{mean}{cosine}", name_of(&method.curvature), name_of(&job.model.dtype))
}

/// The first of a long list, and how many more there are; all if everything is to be seen.
fn some<T>(all: &[T], verbose: bool) -> (&[T], String) {
    const SHOWN: usize = 24;
    match all.len() {
        n if n <= SHOWN || verbose => (all, String::new()),
        n => (&all[..SHOWN], format!(", and {} more (--verbose)", n - SHOWN)),
    }
}

fn measure(job: &Job, summary: &Summary) -> String {
    let method = &job.method;
    let name = method.measure.map(|measure| name_of(&measure)).unwrap_or_default();
    let aggregate = match name_of(&method.aggregate).as_str() {
        "each" => String::new(),
        how => match &method.query_weights {
            None => format!(", {how} of all queries"),
            Some(field) => format!(", {how} of all queries, weighted by their `{field}`"),
        },
    };
    // a classifier gives one label for a text or an image
    let tokens = summary.queries.as_ref().is_some_and(|queries| !queries.is_rows && queries.targets > queries.examples);
    let reduction = if tokens { format!(", {} over target tokens", name_of(&method.reduction)) } else { String::new() };
    let sizes: Vec<String> = summary.stages.iter().map(|stage| count(stage.train_size as u64)).collect();
    format!("{name} of the query{reduction}{aggregate}; training set of {}", sizes.join(", then "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_marked_and_the_middle_is_left_out() {
        let tokens = |n: usize, first_target: usize| -> Vec<(String, bool)> {
            (0..n).map(|i| (format!("t{i}"), i >= first_target)).collect()
        };
        assert_eq!(tokens_with_marks(&tokens(5, 3)), "t0|t1|t2[t3][t4]");
        assert_eq!(tokens_with_marks(&[("a\u{1b}[31m\n".into(), true)]), "[a\u{FFFD}[31m⏎]");
        let long = tokens_with_marks(&tokens(1000, 500));
        assert!(long.contains("t23 … 468 tokens … t492|") && long.contains("|t499[t500][t501]"), "{long}");
        assert!(long.ends_with("[t523] … 468 tokens … [t992][t993][t994][t995][t996][t997][t998][t999]"), "{long}");
    }
}
