//! From a run folder to what its report says.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ascribe::job::CandidateCheck;
use serde_json::Value;

use super::bounds::Bounds;
use super::folder::RunFolder;
use super::model::{Agreement, Card, CardCopies, GroupRow, GroupTable, Leader, QueryView, Report, SegmentRow};
use super::parts::Division;
use super::plot::{Bar, Histogram, Span};
use super::shading::{LossText, ShadedText};
use super::stored::{Inputs, StoredExample, StoredRanking, StoredTarget, StoredToken};
use super::text::name;
use super::texts::Texts;
use super::{cautions, sentences, terms};
use crate::token_shares::pairs;
use crate::words;

/// Copies of an example that are named.
const NAMED: usize = 8;

/// Characters of an id, and of a field's value.
const NAME: usize = 120;

/// Characters of a field's name.
const FIELD: usize = 60;

/// Groups at either end, and examples that lead many queries.
const GROUPS: usize = 10;
const LEADERS: usize = 12;

/// Builds the report of a run folder.
///
/// # Errors
/// If it is none, or its job is not finished.
pub(crate) fn of_run_folder(path: &Path) -> anyhow::Result<Report> {
    let run = RunFolder::open(path)?;
    let mut left_out = vec![];
    let bounds = Bounds::of(&run, &mut left_out);
    let shown = &run.rankings[..bounds.queries];
    let texts = Texts::of(&run, shown, &bounds, &mut left_out);
    let division = Division::of(&run, bounds.queries);
    let mut measured: Vec<QueryView> = vec![];
    for (index, ranking) in shown.iter().enumerate() {
        measured.push(query(&run, index, ranking, &bounds, &texts, &division));
    }
    if run.scores.is_none() {
        left_out.push(
            "The run kept each query's best and worst scores alone, so the distribution of all scores is not shown."
                .to_owned(),
        );
    }
    let agreements = agreements(&run);
    let examples = run.rankings.iter().flat_map(|ranking| ranking.proponents.iter().chain(&ranking.opponents));
    let is_calibrated = { examples }.any(|example| example.amount.is_some());
    Ok(Report {
        run: run_name(path),
        version: name(&run.records.ascribe_version, 40),
        asked: sentences::asked(&run, run_name(path)),
        meaning: sentences::meaning(&run.job, is_calibrated),
        sign: "A positive score (▲) means that training on the example helped: it pushed the model towards what was \
               asked about. A negative score (▼) means that it hurt: it pushed the model away."
            .to_owned(),
        terms: terms::of(&run, &measured),
        cautions: cautions::of(&run, &agreements),
        computed: cautions::computed(&run),
        leaders: leaders(&measured),
        queries: measured,
        segments: segments(&run),
        agreements,
        left_out,
    })
}

/// The folder's own name: a page that is sent on does not tell where it lay.
fn run_name(path: &Path) -> String {
    let folder = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let of_folder = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name(&of_folder.unwrap_or_else(|| path.display().to_string()), NAME)
}

fn query(
    run: &RunFolder,
    index: usize,
    ranking: &StoredRanking,
    bounds: &Bounds,
    texts: &Texts,
    division: &Division<'_>,
) -> QueryView {
    let row = run.scores.as_ref().map(|scores| scores.row(index));
    let sides = [&ranking.proponents, &ranking.opponents].map(|side| &side[..side.len().min(bounds.cards)]);
    let all = || sides.iter().flat_map(|side| side.iter());
    let ends = all().flat_map(|example| example.interval.unwrap_or([example.score; 2]));
    let largest = ends.map(f32::abs).fold(0.0, f32::max);
    let [proponents, opponents] = sides.map(|side| cards(run, side, largest, bounds, texts));
    let shown: Vec<f32> = all().map(|example| example.score).collect();
    let groups = ranking.groups.as_ref().map(|groups| {
        let largest = groups.iter().map(|group| group.score.abs() as f32).fold(0.0, f32::max);
        let hidden = groups.len().saturating_sub(2 * GROUPS);
        let rows = groups.iter().take(GROUPS).chain(groups.iter().skip(GROUPS + hidden)).map(|group| GroupRow {
            name: if group.group.is_empty() { "(without)".to_owned() } else { name(&group.group, NAME) },
            examples: group.examples,
            score: group.score as f32,
            bar: Bar::of(group.score as f32, largest),
        });
        let field = run.job.output.group_by.as_deref().unwrap_or("group");
        GroupTable { field: name(field, NAME), rows: rows.collect(), left_out: hidden }
    });
    QueryView {
        number: index + 1,
        id: name(&ranking.query.id, NAME),
        text: texts.query(&ranking.query.id, &ranking.query.excerpt),
        measured: name(&ranking.query.measurement, NAME),
        value: ranking.query.value,
        losses: ranking.query.tokens.as_ref().map(|tokens| LossText::of(tokens, bounds.query_tokens)),
        before: sentences::before(&ranking.query),
        sentence: sentences::sentence(&run.job, ranking),
        sure: ranking.stability.as_ref().and_then(sentences::sure),
        kept: ranking.candidates.iter().flat_map(kept).collect(),
        proponents,
        opponents,
        histogram: row.and_then(|row| Histogram::of(row, &shown)),
        groups,
        parts: division.tables(run, index, sides),
        grids: division.grids(run, index, sides, bounds),
    }
}

/// The targets of a query as one text; before the rejected ones of a contrast stands what they are.
fn moved(targets: &[StoredTarget]) -> Vec<StoredToken> {
    let between = || StoredToken { text: " | rather than | ".to_owned(), share: 0.0 };
    let mut tokens: Vec<StoredToken> = targets.iter().map(|target| target.token.clone()).collect();
    if let Some(second) = targets.iter().position(|target| target.is_rejected) {
        tokens.insert(second, between());
    }
    tokens
}

/// Cards of one side; copies of an example are folded into its first.
fn cards(run: &RunFolder, side: &[StoredExample], largest: f32, bounds: &Bounds, texts: &Texts) -> Vec<Card> {
    let Bounds { fields: room, tokens: tokens_room, .. } = *bounds;
    let mut cards: Vec<Card> = vec![];
    let mut place_of = HashMap::new();
    for (index, example) in side.iter().enumerate() {
        let mut id = name(&example.id, NAME);
        if example.is_control {
            id.push_str(" (control sample)");
        }
        if let Some(content) = texts.content(example) {
            if let Some(&first) = place_of.get(&content) {
                let first: &mut Card = &mut cards[first];
                first.copies.name(id, example.score);
                continue;
            }
            place_of.insert(content, cards.len());
        }
        let self_influence = run.self_influence.as_ref().zip(run.columns.get(&example.id));
        let self_influence = self_influence.and_then(|(values, &column)| values.get(column));
        let number = |value: f64| words::score(value as f32);
        cards.push(Card {
            rank: index + 1,
            id,
            score: example.score,
            bar: Bar::of(example.score, largest),
            interval: example.interval.map(|of| {
                let [low, high] = of.map(words::score);
                (format!("{low} to {high}"), Span::of(of, largest))
            }),
            text: texts.example(&example.id, &example.excerpt),
            tokens: example.tokens.as_ref().map(|tokens| ShadedText::of(tokens, example.rest, tokens_room)),
            moved: example.query_tokens.as_ref().map(|targets| ShadedText::of(&moved(targets), None, tokens_room)),
            token_pairs: example.token_pairs.as_ref().map_or_else(String::new, |both| {
                let both = both.iter().map(|pair| (pair.query_text.as_str(), pair.text.as_str(), pair.share));
                name(&pairs(both), 400)
            }),
            amount: example
                .amount
                .map(|amount| format!("≈ {} [{}, {}]", number(amount.value), number(amount.low), number(amount.high))),
            relatif: example.relatif.map(words::score),
            self_influence: self_influence.map(|value| words::score(*value)),
            fields: fields(example, room),
            is_text: run.inputs() == Inputs::Texts,
            copies: copies(example),
        });
    }
    cards
}

/// The copies of an example that the ranking lists as one entry with it.
fn copies(example: &StoredExample) -> CardCopies {
    const EXACT: &str = "the same text";
    let Some(stored) = &example.copies else { return CardCopies { are: EXACT, count: 0, named: vec![], total: None } };
    CardCopies {
        are: if stored.similarity.is_some() { "nearly the same text" } else { EXACT },
        count: stored.count,
        named: stored.others.iter().take(NAMED).map(|of| (name(&of.id, NAME), of.score)).collect(),
        total: stored.total.map(|total| match stored.is_sum {
            true => "the score is the sum of all".to_owned(),
            false => format!("together {}", words::score(total as f32)),
        }),
    }
}

fn fields(example: &StoredExample, room: usize) -> Vec<(String, String)> {
    let value = |value: &Value| match value {
        Value::String(text) => name(text, NAME),
        other => name(&other.to_string(), NAME),
    };
    let mut fields: Vec<(String, String)> =
        example.metadata.iter().take(room).map(|(field, of)| (name(field, FIELD), value(of))).collect();
    if example.metadata.len() > room {
        fields.push(("more".to_owned(), format!("{} further fields", example.metadata.len() - room)));
    }
    fields
}

/// What the choice of candidates kept of both sides.
fn kept(check: &CandidateCheck) -> Vec<String> {
    let sides = [("Helped", &check.proponents), ("Hurt", &check.opponents)];
    sides.into_iter().filter_map(|(name, side)| words::kept(name, side)).collect()
}

fn agreements(run: &RunFolder) -> Vec<Agreement> {
    let others = run.others.iter().filter(|(_, rankings)| rankings.len() == run.rankings.len());
    others
        .map(|(answer, rankings)| {
            let shares = run.rankings.iter().zip(rankings).filter(|(first, _)| !first.proponents.is_empty());
            let shares: Vec<f64> = shares
                .map(|(first, other)| {
                    let is_there = |e: &&StoredExample| other.proponents.iter().any(|found| found.id == e.id);
                    first.proponents.iter().filter(is_there).count() as f64 / first.proponents.len() as f64
                })
                .collect();
            Agreement { answer: name(answer, NAME), shared: shares.iter().sum::<f64>() / shares.len().max(1) as f64 }
        })
        .collect()
}

fn segments(run: &RunFolder) -> Vec<SegmentRow> {
    let legs = run.records.summary.legs.iter();
    legs.map(|leg| SegmentRow {
        name: name(&format!("{} ({})", leg.name, leg.stage), NAME),
        steps: leg.steps,
        checkpoints: name(&leg.checkpoints.join(", "), NAME),
        forgotten: run.saturation.iter().find(|found| found.segment == leg.name).map(|found| found.forgotten),
    })
    .collect()
}

/// Examples that are listed for more than one query, those of most queries first.
fn leaders(queries: &[QueryView]) -> Vec<Leader> {
    let mut of: BTreeMap<&str, Leader> = BTreeMap::new();
    for query in queries {
        for side in query.sides() {
            for card in side.cards {
                let leader = of.entry(&card.id).or_insert_with(|| Leader {
                    id: card.id.clone(),
                    line: card.text.line(120),
                    helped: vec![],
                    hurt: vec![],
                });
                let numbers = if side.helps { &mut leader.helped } else { &mut leader.hurt };
                numbers.push(query.number);
            }
        }
    }
    // one that helps a query and hurts its opposite leads neither
    let leads = |leader: &Leader| leader.helped.len().max(leader.hurt.len()) > 1;
    let mut leaders: Vec<Leader> = of.into_values().filter(leads).collect();
    leaders.sort_by_key(|leader| std::cmp::Reverse(leader.helped.len() + leader.hurt.len()));
    leaders.truncate(LEADERS);
    leaders
}
