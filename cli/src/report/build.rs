//! From a run folder to what its report says.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ascribe::job::{AggregateRequest, CandidateCheck, Job, Normalize, ScoreScale};
use serde_json::Value;

use super::cautions;
use super::folder::{Part, RunFolder, StoredExample, StoredRanking, StoredStability, StoredTarget, StoredToken};
use super::model::{
    Agreement, Card, CardCopies, Fact, GroupRow, GroupTable, Leader, PartRow, PartTable, QueryView, Report, SegmentRow,
};
use super::originals::{self, Original};
use super::plot::{Bar, Histogram, Span};
use super::shading::ShadedText;
use super::text::{ShownImage, ShownText, name};
use crate::token_shares::pairs;
use crate::words::{self, counted, name_of};

/// Queries, cards of all queries, and characters of all texts that a report holds: a page stays below 10 MB.
const MOST_QUERIES: usize = 1000;
const MOST_CARDS: usize = 3000;
const ROOM: usize = 1_500_000;

/// Bytes of all pictures of a side, of queries and of training examples, and the longer side of a picture in pixels where
/// there are few cards and where there are many. A picture that several cards show stands in each of them.
const PICTURES: usize = 2_000_000;
const PICTURE_SIDE: [usize; 2] = [128, 64];

/// Shaded tokens of all cards: each is an element of the page.
const TOKENS: usize = 60_000;

/// Copies of an example that are named.
const NAMED: usize = 8;

/// Characters of an id, and of a field's value.
const NAME: usize = 120;

/// Characters of a field's name.
const FIELD: usize = 60;

/// Other fields of a card, where there are few cards and where there are many.
const FIELDS: [usize; 2] = [10, 3];
const MANY_CARDS: usize = 1000;

/// Groups at either end, examples of a table of parts at either end, and examples that lead many queries.
const GROUPS: usize = 10;
const PARTS: usize = 5;
const LEADERS: usize = 12;

/// Columns of a table of parts: layer sets, or stages.
const COLUMNS: usize = 24;

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
    let mut measured: Vec<QueryView> = vec![];
    for (index, ranking) in shown.iter().enumerate() {
        measured.push(query(&run, index, ranking, &bounds, &texts));
    }
    if run.scores.is_none() {
        left_out.push(
            "The run kept each query's best and worst scores alone, so the distribution of all scores is not shown."
                .to_owned(),
        );
    }
    let agreements = agreements(&run);
    Ok(Report {
        run: run_name(path),
        version: name(&run.records.ascribe_version, 40),
        asked: asked(&run),
        meaning: meaning(&run.job),
        sign: "A positive score (▲) means that training on the example helped: it pushed the model towards what was \
               asked about. A negative score (▼) means that it hurt: it pushed the model away."
            .to_owned(),
        cautions: cautions::of(&run, &agreements),
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

/// How much of a run a page has room for.
struct Bounds {
    queries: usize,
    /// Cards on each side of a query.
    cards: usize,
    /// Characters of a card's text, and of a query's.
    card: usize,
    query: usize,
    /// Other fields of a card.
    fields: usize,
    /// Shaded tokens of a card.
    tokens: usize,
}

impl Bounds {
    fn of(run: &RunFolder, left_out: &mut Vec<String>) -> Self {
        let all = run.rankings.len();
        let queries = all.min(MOST_QUERIES);
        if queries < all {
            left_out.push(format!("The first {queries} of {all} queries are shown; `ranking.jsonl` has them all."));
        }
        let longest = run.rankings.iter().map(|ranking| ranking.proponents.len().max(ranking.opponents.len()));
        let longest = longest.max().unwrap_or(0).max(1);
        let cards = longest.min((MOST_CARDS / 2 / queries.max(1)).max(2));
        if cards < longest {
            left_out.push(format!(
                "The strongest {cards} of {longest} listed examples of each side are shown; `ranking.jsonl` has them all."
            ));
        }
        let card = (ROOM / (2 * cards * queries.max(1))).clamp(240, 4000);
        let fields = FIELDS[usize::from(2 * cards * queries > MANY_CARDS)];
        let tokens = (TOKENS / (2 * cards * queries.max(1))).clamp(30, 1000);
        Self { queries, cards, card, tokens, query: (ROOM / 2 / queries.max(1)).clamp(240, 4000), fields }
    }
}

/// The texts of what is shown.
struct Texts {
    queries: HashMap<String, Original>,
    train: HashMap<String, Original>,
    /// Pictures of queries and of training examples that are images.
    images: [HashMap<String, ShownImage>; 2],
    bounds: (usize, usize),
}

impl Texts {
    fn of(run: &RunFolder, shown: &[StoredRanking], bounds: &Bounds, left_out: &mut Vec<String>) -> Self {
        let job = &run.job;
        let is_each = job.method.aggregate == AggregateRequest::Each;
        let queries = match &job.data.queries {
            Some(file) if is_each => {
                let wanted = shown.iter().map(|r| (r.query.id.as_str(), r.query.excerpt.as_str())).collect();
                originals::find(job, file, &wanted)
            }
            _ => HashMap::new(),
        };
        let sides = shown.iter().flat_map(|ranking| [&ranking.proponents, &ranking.opponents]);
        let examples = sides.flat_map(|side| side.iter().take(bounds.cards));
        let wanted: HashMap<&str, &str> = examples.map(|e| (e.id.as_str(), e.excerpt.as_str())).collect();
        let mut train = HashMap::new();
        // blocks of joined documents stand in no file
        if job.data.pack.is_none() {
            let of_stages = job.data.stages.iter().map(|(stage, file)| (Some(stage), file));
            let of_one = (!job.data.train.as_os_str().is_empty()).then_some((None, &job.data.train));
            for (stage, file) in of_one.into_iter().chain(of_stages) {
                train.extend(originals::find(job, file, &wanted));
                // ids that two stages use for different examples have the stage's name before them
                if let Some(stage) = stage {
                    let prefix = format!("{stage}/");
                    let own = wanted.iter().filter_map(|(id, excerpt)| Some((id.strip_prefix(&prefix)?, *excerpt)));
                    let found = originals::find(job, file, &own.collect());
                    train.extend(found.into_iter().map(|(id, text)| (format!("{prefix}{id}"), text)));
                }
            }
        }
        // where examples are texts the files are not read again for pictures
        let images = match train.is_empty() && job.data.pack.is_none() {
            true => pictures(job, shown, &wanted, bounds, left_out),
            false => Default::default(),
        };
        if images.iter().any(|images| !images.is_empty()) {
            left_out.push("Pictures are those of the files, in small, before the image processor.".to_owned());
        } else if job.data.pack.is_some() {
            left_out
                .push("Training examples are blocks of joined documents; the beginning of each is shown.".to_owned());
        } else if train.len() < wanted.len() {
            left_out.push(format!(
                "Of {} the excerpt of the ranking is shown: the file of training examples is not there, has changed, or \
                 holds no text for them.",
                counted((wanted.len() - train.len()) as u64, "examples")
            ));
        }
        Self { queries, train, images, bounds: (bounds.query, bounds.card) }
    }

    fn query(&self, id: &str, excerpt: &str) -> ShownText {
        let text = match self.queries.get(id) {
            Some(text) => ShownText::new(&text.prompt, &text.body, self.bounds.0),
            None => ShownText::excerpt(excerpt, self.bounds.0),
        };
        ShownText { image: self.images[0].get(id).cloned(), ..text }
    }

    fn example(&self, id: &str, excerpt: &str) -> ShownText {
        let text = match self.train.get(id) {
            Some(text) => ShownText::new(&text.prompt, &text.body, self.bounds.1),
            None => ShownText::excerpt(excerpt, self.bounds.1),
        };
        ShownText { image: self.images[1].get(id).cloned(), ..text }
    }

    /// What two examples have in common if they are copies; none if that is not known.
    fn content<'a>(&'a self, example: &'a StoredExample) -> Option<(&'a str, &'a str)> {
        match (self.train.get(&example.id), self.images[1].get(&example.id)) {
            (Some(text), _) => Some((&text.prompt, &text.body)),
            (None, Some(image)) => Some((&image.address, &example.excerpt)),
            // an image that is not shown has nothing in its excerpt but its class
            (None, None) if example.excerpt.contains('…') || example.excerpt.starts_with("target ") => None,
            (None, None) => Some(("", &example.excerpt)),
        }
    }
}

/// Pictures of the queries, and of the training examples that are wanted, as far as there is room.
fn pictures(
    job: &Job,
    shown: &[StoredRanking],
    wanted: &HashMap<&str, &str>,
    bounds: &Bounds,
    left_out: &mut Vec<String>,
) -> [HashMap<String, ShownImage>; 2] {
    let side = PICTURE_SIDE[usize::from(2 * bounds.cards * bounds.queries > MANY_CARDS)];
    let (of_queries, without_room) = match &job.data.queries {
        Some(file) => originals::images(job, file, shown.iter().map(|r| r.query.id.as_str()), side, PICTURES),
        None => Default::default(),
    };
    // a picture takes room in every card that shows it
    let cards = shown.iter().map(|r| r.proponents.len().min(bounds.cards) + r.opponents.len().min(bounds.cards));
    let room = PICTURES * wanted.len() / cards.sum::<usize>().max(1);
    let (of_train, hidden) = match job.data.train.as_os_str().is_empty() {
        true => Default::default(),
        false => originals::images(job, &job.data.train, wanted.keys().copied(), side, room),
    };
    let hidden = hidden + without_room;
    if hidden > 0 {
        left_out.push(format!("There is no room for the pictures of {}.", counted(hidden as u64, "examples")));
    }
    [of_queries, of_train]
}

fn query(run: &RunFolder, index: usize, ranking: &StoredRanking, bounds: &Bounds, texts: &Texts) -> QueryView {
    let row = run.scores.as_ref().map(|scores| scores.row(index));
    let sides = [&ranking.proponents, &ranking.opponents].map(|side| &side[..side.len().min(bounds.cards)]);
    let all = || sides.iter().flat_map(|side| side.iter());
    let ends = all().flat_map(|example| example.interval.unwrap_or([example.score; 2]));
    let largest = ends.map(f32::abs).fold(0.0, f32::max);
    let [proponents, opponents] = sides.map(|side| cards(run, side, largest, bounds, texts));
    let shown: Vec<f32> = all().map(|example| example.score).collect();
    let parts = [("Layers", &run.layer_sets), ("Stages of training", &run.stages)];
    let parts = parts.into_iter().filter(|(title, parts)| parts.len() > usize::from(*title != "Layers"));
    let parts = parts.map(|(title, parts)| part_table(run, title, parts, index, sides)).collect();
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
        sentence: sentence(&run.job, ranking),
        verdict: ranking.stability.as_ref().and_then(verdict),
        kept: ranking.candidates.iter().flat_map(kept).collect(),
        proponents,
        opponents,
        histogram: row.and_then(|row| Histogram::of(row, &shown)),
        groups,
        parts,
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

fn part_table(
    run: &RunFolder,
    title: &'static str,
    parts: &[Part],
    query: usize,
    sides: [&[StoredExample]; 2],
) -> PartTable {
    let examples = sides.into_iter().flat_map(|side| side.iter().take(PARTS));
    let rows: Vec<PartRow> = examples
        .filter_map(|example| {
            let column = *run.columns.get(&example.id)?;
            let parts = parts.iter().map(|part| part.scores.row(query).get(column).copied());
            Some(PartRow { id: name(&example.id, NAME), score: example.score, parts: parts.collect::<Option<_>>()? })
        })
        .collect();
    let largest = rows.iter().flat_map(|row| &row.parts).map(|part| part.abs()).fold(0.0, f32::max);
    let of_column = |column: usize| rows.iter().map(|row| row.parts[column].abs()).fold(0.0, f32::max);
    let mut columns: Vec<usize> = (0..parts.len()).collect();
    // of many parts the strongest, in their order
    columns.sort_by(|&a, &b| of_column(b).total_cmp(&of_column(a)));
    columns.truncate(COLUMNS);
    columns.sort_unstable();
    PartTable {
        title,
        columns: columns.iter().map(|&column| name(&parts[column].name, NAME)).collect(),
        left_out: parts.len() - columns.len(),
        rows: rows
            .into_iter()
            .map(|row| PartRow { parts: columns.iter().map(|&column| row.parts[column]).collect(), ..row })
            .collect(),
        largest,
    }
}

/// What the choice of candidates kept of both sides.
fn kept(check: &CandidateCheck) -> Vec<String> {
    let sides = [("Helped", &check.proponents), ("Hurt", &check.opponents)];
    sides.into_iter().filter_map(|(name, side)| words::kept(name, side)).collect()
}

/// How sure a ranking is, for somebody who has not heard of influence; none if nothing is listed.
fn verdict(stability: &StoredStability) -> Option<String> {
    let sides = [("that helped", &stability.proponents), ("that hurt", &stability.opponents)];
    let sides: Vec<_> = sides.into_iter().filter(|(_, side)| side.listed > 0).collect();
    let of_side = sides.iter().map(|(name, side)| format!("{} {name}", words::stable(side.stable, side.listed)));
    let of_side = of_side.collect::<Vec<_>>().join(" and ");
    let shares = sides.iter().flat_map(|(_, side)| &side.kept).map(|of| of.share);
    let least = shares.fold(1.0, f64::min);
    (!sides.is_empty()).then(|| {
        format!(
            "Stable: {of_side}. They are listed whichever way the scores are computed; the way that agrees least lists \
             {:.0} % of the examples shown for its side.",
            100.0 * least
        )
    })
}

/// What the strongest example did, for somebody who has not heard of influence.
fn sentence(job: &Job, ranking: &StoredRanking) -> String {
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
    if what != "loss" {
        return format!(
            "{id} helped most: had the model been trained on it once more, the {what} of this is predicted to rise by \
             {score}{times}. It is {now:.4} now."
        );
    }
    let is_more = job.output.scale == ScoreScale::PerExample && f64::from(top.score) > now;
    let only_order =
        if is_more { " It cannot fall by more than it is, so only the order of the examples counts." } else { "" };
    format!(
        "{id} helped most: had the model been trained on it once more, its loss on this answer is predicted to fall by \
         {score}{times}. The loss is {now:.4} now; the lower it is, the more likely the model finds the answer.{only_order}"
    )
}

/// Unit of a score in one sentence.
fn meaning(job: &Job) -> String {
    let what = job.method.measure.map(|measure| name_of(&measure)).unwrap_or_else(|| "measurement".to_owned());
    let change =
        if what == "loss" { "loss is predicted to fall".to_owned() } else { format!("{what} is predicted to rise") };
    match (job.method.normalize, job.output.scale, job.data.train_size) {
        (Normalize::Cosine, ..) => {
            "Each score is the cosine, from -1 to 1, between what training on the example and what the query would \
             change in the model."
                .to_owned()
        }
        (_, ScoreScale::Kronfluence, _) => format!(
            "Each score says by how much the query's {change} if the model were trained on one more copy of that \
             example, times the number of training examples."
        ),
        (_, _, Some(n)) => format!(
            "Each score says by how much the query's {change} if the model were trained on one more copy of that \
             example, beside the {} that there are.",
            words::count(n as u64)
        ),
        _ => format!(
            "Each score says by how much the query's {change} if the model were trained on one more copy of that example."
        ),
    }
}

fn asked(run: &RunFolder) -> Vec<Fact> {
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
        format!(
            "{}: {} with {}{of_larger}",
            path(file),
            counted(stage.train.examples, "examples"),
            counted(stage.train.positions, "tokens"),
        )
    });
    let damping = job.method.damping.0.first().map(|damping| String::from(*damping)).unwrap_or_default();
    let curvature = name_of(&job.method.curvature);
    let method = match (&job.source, summary.checkpoints.len(), curvature.as_str()) {
        (Some(_), ..) => format!(
            "Source, backwards through the training run in {} (Bae et al. 2024)",
            counted(summary.legs.len() as u64, "segments")
        ),
        (None, _, "identity") => "products of gradients, without curvature".to_owned(),
        (None, n, _) => {
            let mean = if n > 1 { format!(", mean over {n} checkpoints") } else { String::new() };
            let curvature = match curvature.as_str() {
                "ekfac" => "EK-FAC".to_owned(),
                "shampoo" => "Shampoo".to_owned(),
                _ => curvature.to_uppercase(),
            };
            format!("influence functions{mean} ({curvature} curvature, damping {damping}; Grosse et al. 2023)")
        }
    };
    let measure = job.method.measure.map(|measure| name_of(&measure)).unwrap_or_default();
    let queries = job.data.queries.as_deref().map(path).unwrap_or_default();
    let count = summary.queries.as_ref().map_or(run.rankings.len() as u64, |data| data.examples);
    vec![
        Fact {
            name: "Question",
            value: format!(
                "Which of {} moved the {measure} of each of {}?",
                counted(run.training_examples(), "training examples"),
                counted(count, "queries")
            ),
        },
        Fact { name: "Model", value: format!("{of_model} ({})", name(&summary.architecture, 60)) },
        Fact { name: "Training data", value: stages.collect::<Vec<_>>().join("; ") },
        Fact { name: "Queries", value: format!("{queries}: {}", counted(count, "queries")) },
        Fact { name: "Method", value: method },
        Fact { name: "Run folder", value: run_name(&run.path) },
    ]
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
