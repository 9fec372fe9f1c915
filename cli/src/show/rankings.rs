//! Rankings on stdout: for reading, or for a program.

use std::io::{self, Write};

use ascribe::attribution::evaluate::{ControlRecall, Interval};
use ascribe::job::{
    CandidateCheck, Compared, DuplicateScores, DuplicatesRequest, Job, Normalize, QueryRanking, RankBy, RankedExample,
    RankedGroup, ScoreScale, Stability, write_csv,
};
use console::{Term, measure_text_width, pad_str, style, truncate_str};

use crate::options::RankingFormat;
use crate::terminal::{self, inline};
use crate::token_shares::{pairs, strongest};
use crate::words;

/// Columns of a table where stdout is no terminal.
const WIDTH: usize = 120;

/// Below this share of its squared norm, a query's low rank is worth a line.
const CAPTURED: f64 = 0.99;

/// Above this, more products would change scores.
const RESIDUAL: f64 = 0.1;

/// Above this, more draws of labels would change amounts.
const DISAGREEMENT: f64 = 0.3;

/// Prints every query with its proponents and opponents.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn rankings(rankings: &[QueryRanking], job: &Job, format: RankingFormat) -> anyhow::Result<()> {
    const WHAT: &str = "the rankings";
    match format {
        RankingFormat::Table => {
            let mut bytes = vec![];
            table(&mut bytes, &visible(rankings), job)?;
            terminal::print_prepared(&bytes, WHAT)
        }
        RankingFormat::Jsonl => {
            let mut lines = String::new();
            for ranking in rankings {
                lines.push_str(&serde_json::to_string(ranking)?);
                lines.push('\n');
            }
            terminal::print_json(&lines, WHAT)
        }
        RankingFormat::Csv => {
            let mut bytes = vec![];
            match terminal::stdout_is_terminal() {
                true => write_csv(&visible(rankings), &mut bytes)?,
                false => write_csv(rankings, &mut bytes)?,
            }
            terminal::print_prepared(&bytes, WHAT)
        }
    }
}

/// Rankings whose texts steer no terminal.
fn visible(rankings: &[QueryRanking]) -> Vec<QueryRanking> {
    let mut rankings = rankings.to_vec();
    let show = |text: &mut String| *text = inline(text).into_owned();
    for ranking in &mut rankings {
        show(&mut ranking.query.id);
        show(&mut ranking.query.excerpt);
        for example in ranking.proponents.iter_mut().chain(&mut ranking.opponents) {
            show(&mut example.id);
            show(&mut example.excerpt);
            example.copies.iter_mut().flat_map(|of| &mut of.others).for_each(|other| show(&mut other.id));
            example.tokens.iter_mut().flatten().for_each(|token| show(&mut token.text));
            example.query_tokens.iter_mut().flatten().for_each(|token| show(&mut token.text));
            for pair in example.token_pairs.iter_mut().flatten() {
                show(&mut pair.text);
                show(&mut pair.query_text);
            }
        }
        for group in ranking.groups.iter_mut().flatten() {
            show(&mut group.group);
        }
    }
    rankings
}

fn table(out: &mut impl Write, rankings: &[QueryRanking], job: &Job) -> io::Result<()> {
    let width = match terminal::stdout_is_terminal() {
        true => usize::from(Term::stdout().size().1).max(40),
        false => WIDTH,
    };
    for ranking in rankings {
        let query = &ranking.query;
        writeln!(out, "{}", truncate_str(&format!("{}  {}", style(&query.id).bold(), query.excerpt), width, "…"))?;
        let before = query.before.as_ref().map_or_else(String::new, |before| {
            let change = words::score((query.value - before.value) as f32);
            format!(" ({:.4} at {}, a change of {change})", before.value, inline(&before.checkpoint))
        });
        writeln!(out, "  {} {:.4}{before}", query.measurement, query.value)?;
        if let Some(captured) = query.captured.filter(|&captured| captured < CAPTURED) {
            writeln!(out, "  captured {:.1} %: scores are approximate; raise --query-rank", 100.0 * captured)?;
        }
        if let Some(residual) = query.residual {
            let advice = if residual > RESIDUAL { ": raise --solve-iterations" } else { "" };
            writeln!(out, "  solved to a residual of {residual:.3}{advice}")?;
        }
        if let Some(disagreement) = query.disagreement {
            let advice = if disagreement > DISAGREEMENT { ": its amounts are rough (--solve-label-draws)" } else { "" };
            writeln!(
                out,
                "  solutions from two halves of the drawn labels differ by {:.0} %{advice}",
                100.0 * disagreement
            )?;
        }
        if let Some(check) = &ranking.candidates {
            let sides = [("proponents", &check.proponents), ("opponents", &check.opponents)];
            for line in sides.into_iter().filter_map(|(side, check)| words::kept(side, check)) {
                writeln!(out, "  {line}")?;
            }
        }
        if let Some(stability) = &ranking.stability {
            writeln!(out, "  {}", verdict(stability))?;
        }
        let sides = [("proponents", &ranking.proponents), ("opponents", &ranking.opponents)];
        let examples = || sides.iter().flat_map(|(_, examples)| examples.iter());
        let widest = |cell: fn(&RankedExample) -> usize| examples().map(cell).max().unwrap_or(0);
        let score_width = widest(|example| words::score(example.score).len());
        let interval_width = widest(|example| interval(example).len());
        let relatif_width = widest(|example| relatif(example).len());
        let amount_width = widest(|example| measure_text_width(&amount(example)));
        let id_width = widest(|example| measure_text_width(&example.id)).min(width / 3);
        for (name, examples) in sides {
            let name = if name == "proponents" { style(name).green() } else { style(name).red() };
            if examples.is_empty() {
                writeln!(out, "  {name}: none")?;
                continue;
            }
            writeln!(out, "  {name}")?;
            for example in examples {
                let id = truncate_str(&example.id, id_width, "…");
                let id = pad_str(&id, id_width, console::Alignment::Left, None);
                let score = words::score(example.score);
                let amount = match amount(example) {
                    amount if amount_width > 0 => format!("{amount:<amount_width$}  "),
                    none => none,
                };
                let interval = match interval(example) {
                    interval if interval_width > 0 => format!("{interval:<interval_width$}  "),
                    none => none,
                };
                let relatif = match relatif(example) {
                    relatif if relatif_width > 0 => format!("{relatif:<relatif_width$}  "),
                    none => none,
                };
                let control = if example.is_control { "(control) " } else { "" };
                let copies = copies(example, job.output.duplicate_scores);
                let line = format!(
                    "    {score:>score_width$}  {relatif}{interval}{amount}{id}  {control}{copies}{}",
                    example.excerpt
                );
                writeln!(out, "{}", truncate_str(&line, width, "…").trim_end())?;
                for named in tokens(example) {
                    let indent = score_width + relatif_width + interval_width + amount_width;
                    let line = format!("    {:>indent$}  {named}", "");
                    writeln!(out, "{}", truncate_str(&line, width, "…"))?;
                }
            }
        }
        if let Some(groups) = &ranking.groups {
            let field = job.output.group_by.as_deref().unwrap_or_default();
            group_lines(out, groups, field, job.output.top, width)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}", meaning(job))?;
    let mut examples = rankings.iter().flat_map(|ranking| ranking.proponents.iter().chain(&ranking.opponents));
    if examples.any(|example| example.amount.is_some()) {
        writeln!(out, "{AMOUNTS}")?;
    }
    if job.output.rank_by == RankBy::Relatif {
        writeln!(out, "{RELATIF}")?;
    }
    if rankings.iter().any(|ranking| ranking.stability.is_some()) {
        writeln!(out, "{INTERVALS}")?;
        let compared = rankings.iter().find_map(|ranking| ranking.stability.as_ref()?.compared);
        if let Some(Compared { strongest, sample, of }) = compared {
            writeln!(
                out,
                "Variants scored the {strongest} strongest of each side and {sample} drawn at random, not all {of} examples."
            )?;
        }
    }
    if let Some(line) = copies_line(job) {
        writeln!(out, "{line}")?;
    }
    if let Some(line) = mean_recall(rankings) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What the amounts beside the scores say.
const AMOUNTS: &str =
    "Behind each score: its amount by `calibration.json`, from retrained subsets, with the 95 % interval of the scale.";

/// What the examples are listed by.
const RELATIF: &str =
    "Listed by the number in parentheses, the score over the square root of the example's self-influence (RelatIF).";

/// What the candidates hold on average.
fn mean_recall(rankings: &[QueryRanking]) -> Option<String> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let of_side = |name: &str, side: fn(&CandidateCheck) -> &ControlRecall| {
        let checks = rankings.iter().filter_map(|ranking| ranking.candidates.as_ref()).map(side);
        let known: Vec<_> = checks.filter_map(|check| check.recall.zip(check.interval)).collect();
        let of = |value: fn(&(f64, Interval)) -> f64| mean(&known.iter().map(value).collect::<Vec<_>>());
        (!known.is_empty()).then(|| {
            let (low, high) = (of(|(_, interval)| interval.low), of(|(_, interval)| interval.high));
            format!(
                "{:.0} % of {name} (intervals: {:.0} to {:.0} %)",
                100.0 * of(|(recall, _)| *recall),
                100.0 * low,
                100.0 * high
            )
        })
    };
    let sides = [of_side("proponents", |check| &check.proponents), of_side("opponents", |check| &check.opponents)];
    let sides = sides.into_iter().flatten().collect::<Vec<_>>().join(", ");
    (!sides.is_empty())
        .then(|| format!("Candidates hold, as means over queries of what the control sample shows: {sides}."))
}

/// What the intervals beside the scores say.
const INTERVALS: &str = "In brackets: the lowest and the highest of the score and its variants. Stable: the first examples \
                         that are among as many strongest in every variant.";

/// How much of a ranking stays in its variants, as a person reads it.
fn verdict(stability: &Stability) -> String {
    let sides = [("proponents", &stability.proponents), ("opponents", &stability.opponents)];
    let sides = sides.into_iter().filter(|(_, side)| side.listed > 0);
    let of_side = sides.map(|(name, side)| format!("{} {name}", words::stable(side.stable, side.listed)));
    let least = stability.proponents.least_kept().min(stability.opponents.least_kept());
    let of_side = of_side.collect::<Vec<_>>().join(", ");
    match of_side.is_empty() {
        true => "stable: nothing is listed".to_owned(),
        false => format!("stable: {of_side}; every variant lists at least {:.0} % of these examples", 100.0 * least),
    }
}

/// The tokens that add most to an example's score, a line for each way in which scores are divided.
fn tokens(example: &RankedExample) -> Vec<String> {
    let mut lines = vec![];
    if let Some(tokens) = &example.tokens {
        lines.push(("tokens", strongest(tokens.iter().map(|token| (token.text.as_str(), token.share)))));
    }
    if let Some(targets) = &example.query_tokens {
        lines.push(("moved", strongest(targets.iter().map(|token| (token.text.as_str(), token.share)))));
    }
    if let Some(both) = &example.token_pairs {
        let both = both.iter().map(|pair| (pair.query_text.as_str(), pair.text.as_str(), pair.share));
        lines.push(("pairs", pairs(both)));
    }
    lines.into_iter().map(|(what, named)| format!("{what}: {named}")).collect()
}

/// `[+0.0009, +0.0016]`, or nothing without intervals.
fn interval(example: &RankedExample) -> String {
    example.interval.map_or_else(String::new, |[low, high]| format!("[{}, {}]", words::score(low), words::score(high)))
}

/// `(+0.35)`, or nothing where examples are listed by their scores.
fn relatif(example: &RankedExample) -> String {
    example.relatif.map_or_else(String::new, |value| format!("({})", words::score(value)))
}

/// `≈ +0.0012 [+0.0009, +0.0016]`, or nothing without a calibration.
fn amount(example: &RankedExample) -> String {
    let number = |value: f64| words::score(value as f32);
    example.amount.map_or_else(String::new, |amount| {
        format!("≈ {} [{}, {}]", number(amount.value), number(amount.low), number(amount.high))
    })
}

/// `(+6 copies, together +21.2) `, `(sum of 7) `, or nothing without copies.
fn copies(example: &RankedExample, scores: DuplicateScores) -> String {
    let Some(copies) = &example.copies else { return String::new() };
    if scores == DuplicateScores::Sum {
        return format!("(sum of {}) ", words::count(copies.count as u64 + 1));
    }
    let count = match copies.count {
        1 => "+1 copy".to_owned(),
        n => format!("+{} copies", words::count(n as u64)),
    };
    match copies.total {
        Some(total) => format!("({count}, together {}) ", words::score(total as f32)),
        None => format!("({count}) "),
    }
}

/// What entries with copies are.
fn copies_line(job: &Job) -> Option<String> {
    let what = match job.output.duplicates {
        DuplicatesRequest::Off => return None,
        DuplicatesRequest::Exact => "A text and its exact copies are one entry".to_owned(),
        DuplicatesRequest::Near(similarity) => {
            format!("Texts that are near copies of one another (similarity {similarity} and more) are one entry")
        }
    };
    Some(match job.output.duplicate_scores {
        DuplicateScores::Each => {
            format!("{what}, with the score of the strongest of them; `duplicates.jsonl` names them all.")
        }
        DuplicateScores::Sum => format!("{what}, with the sum of their scores; `duplicates.jsonl` names them all."),
    })
}

/// The best and worst groups of a query.
fn group_lines(out: &mut impl Write, groups: &[RankedGroup], field: &str, top: usize, width: usize) -> io::Result<()> {
    let hidden = groups.len().saturating_sub(2 * top);
    let shown = || groups.iter().take(top).chain(groups.iter().skip(top + hidden));
    let score = |group: &RankedGroup| words::score(group.score as f32);
    let score_width = shown().map(|group| score(group).len()).max().unwrap_or(0);
    writeln!(out, "  {}", style(format!("by {}", inline(field))).bold())?;
    for (place, group) in shown().enumerate() {
        if place == top && hidden > 0 {
            writeln!(out, "    {:>score_width$}  {hidden} more", "…")?;
        }
        let name = if group.group.is_empty() { "(without)" } else { &group.group };
        let line = format!(
            "    {:>score_width$}  {name}, {}",
            score(group),
            words::counted(group.examples as u64, "examples")
        );
        writeln!(out, "{}", truncate_str(&line, width, "…"))?;
    }
    Ok(())
}

/// What the numbers say.
fn meaning(job: &Job) -> String {
    let what = job.method.measure.map(|measure| words::name_of(&measure)).unwrap_or_default();
    let change =
        if what == "loss" { "fall of the query's loss".to_owned() } else { format!("rise of the query's {what}") };
    let unit = match (job.method.normalize, job.output.scale) {
        (Normalize::Cosine, _) => {
            "Score: cosine between the query's and the example's gradients, from -1 to 1.".to_owned()
        }
        (_, ScoreScale::PerExample) => match job.data.train_size {
            Some(n) => {
                format!("Score: {change} predicted for one more copy of the example in training (weight 1/{n}).")
            }
            None => format!("Score: {change} predicted for one more copy of the example in training (weight 1/N)."),
        },
        (_, ScoreScale::Kronfluence) => {
            format!(
                "Score: {change} predicted for one more copy of the example in training, times N (kronfluence's scale)."
            )
        }
    };
    format!(
        "{unit}\nPositive: a proponent, it helps the query; negative: an opponent, it hurts. Order is more reliable than size."
    )
}
